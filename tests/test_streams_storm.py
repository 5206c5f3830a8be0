"""Producer and consumers of a stream are killed again and again: nothing is torn, lost, or stuck."""

from __future__ import annotations

import mmap
import os
import queue
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, FORKS, SIGNALS, stopped, wait_until

import sharedarray as sa

pytestmark = pytest.mark.skipif(not (FORKS and SIGNALS), reason="needs fork and signals")

MOST = 1 << 20  # items that a consumer counts at most


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


class Counts:
    """What the parties tell: how many items they had, and what was wrong with these."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 4096)).cast("Q")

    def note(self, party: int, *, torn: bool = False, wrong: bool = False) -> None:
        self._words[8 * party] += 1
        self._words[8 * party + 1] += torn
        self._words[8 * party + 2] += wrong

    def items(self, party: int) -> int:
        return self._words[8 * party]

    def problems(self) -> list[int]:
        return [self._words[8 * party + k] for party in range(8) for k in (1, 2)]


def produce(name: str, shape: tuple[int, ...], counts: Counts, party: int) -> None:
    stream = sa.Stream(name, takeover=True)
    while True:
        way = random.randrange(3)
        if way == 0:
            stream.put(np.full(shape, stream.position + 1))
        elif way == 1:
            with stream.put() as frame:
                frame[:] = stream.position + 1
        else:
            first = stream.position + 1
            stream.put_many(np.arange(first, first + 3).repeat(shape[0]).reshape(3, *shape))
        counts.note(party)


def consume(name: str, mode: str, counts: Counts, party: int) -> None:
    stream = sa.Stream(name, lossless=None if mode == "lossless" else False)
    last = -1
    kept: list[Any] = []
    while True:
        try:
            if mode == "latest":
                found = stream.latest()[None]
            elif mode == "batches":
                found = stream.get(max=4)
            else:
                found = stream.get()[None]
        except sa.ProducerDied:
            continue
        position = stream.position
        wrong = position <= last or (mode == "lossless" and last >= 0 and position != last + 1)
        torn = any(not (item == position + k).all() for k, item in enumerate(found))
        last = position + len(found) - 1
        kept.append((found, position))
        if len(kept) > 1:
            before, at = kept.pop(0)
            torn = torn or not (before[0] == at).all()
        counts.note(party, torn=torn, wrong=wrong)


def start(work: Callable[..., None], *arguments: Any) -> int:
    child = os.fork()
    if not child:
        try:
            random.seed(os.getpid())
            work(*arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    return child


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
@pytest.mark.parametrize(
    ("kills", "slots", "length"),
    [
        pytest.param(6, 16, 64, id="few"),
        pytest.param(100, 20, 64, marks=pytest.mark.slow, id="small"),
        pytest.param(60, 16, 1 << 15, marks=pytest.mark.slow, id="large"),
    ],
)
@pytest.mark.timeout(600)
def test_kills_leave_whole_items_in_order(kills: int, slots: int, length: int, full: Any) -> None:
    shape = (length,)
    keep = sa.Stream("storm", shape, "i8", slots=slots, full=full)
    watcher = sa.Stream("storm", lossless=False)  # keeps the block while all others are killed
    keep.close()
    counts = Counts()
    jobs: list[tuple[Any, ...]] = [(produce, "storm", shape, counts, 0)]
    modes = ["lossless", "lossy", "latest", "batches"] if full == "wait" else ["lossy", "latest", "batches"]
    jobs += [(consume, "storm", mode, counts, 1 + k) for k, mode in enumerate(modes)]
    children = [start(*job) for job in jobs]

    def all_go_on(before: list[int]) -> bool:
        return all(counts.items(party) > old for party, old in enumerate(before))

    try:
        for _ in range(kills):
            before = [counts.items(party) for party in range(len(jobs))]
            wait_until(lambda: all_go_on(before), "all get items", ANSWER, 0.001)  # noqa: B023
            time.sleep(random.random() * 0.002)
            victim = random.randrange(len(jobs))
            os.kill(children[victim], signal.SIGKILL)
            status = os.waitpid(children[victim], 0)[1]
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            children[victim] = start(*jobs[victim])
        before = [counts.items(party) for party in range(len(jobs))]
        wait_until(lambda: all_go_on(before), "all get items in the end", ANSWER, 0.001)
        assert not any(counts.problems())
        with stopped(children[-1]):  # a lossy consumer that stands still holds no process up
            before = [counts.items(party) for party in range(len(jobs) - 1)]
            wait_until(lambda: all_go_on(before), "the others go on", ANSWER, 0.001)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert not any(counts.problems())
    with sa.Stream("storm", takeover=True) as last:  # each slot can be used
        watcher.close()
        watcher = sa.Stream("storm")
        for k in range(slots):
            last.put(np.full(shape, k), timeout=ANSWER)
        kept = [watcher.get(ANSWER) for _ in range(slots if full == "wait" else 1)]
        assert len({item.ctypes.data for item in kept}) == len(kept)
        kept.clear()
    watcher.close()


def test_many_hand_overs_lose_no_wake_up() -> None:
    """Four processes hand numbers round, each of which waits for the one before."""
    rounds, parties = 250, 4
    streams = [sa.Stream(f"round{k}", (), "i8", slots=2) for k in range(parties)]
    keepers = [sa.Stream(f"round{k}", lossless=False) for k in range(parties)]
    for stream in streams:
        stream.close()

    def hand_on(k: int) -> None:
        receiver = sa.Stream(f"round{k}", history=2)
        sender = sa.Stream(f"round{(k + 1) % parties}", takeover=True)
        while True:
            try:
                number = int(receiver.get(ANSWER))
            except (sa.ShutDown, sa.ProducerDied, queue.Empty):
                continue
            sender.put(number + 1, timeout=ANSWER)

    children = [start(hand_on, k) for k in range(1, parties)]
    try:
        receiver = sa.Stream("round0", history=2)
        sender = sa.Stream("round1", takeover=True)
        wait_until(lambda: len(sender._block.entries()) == 2, "the next one has joined", ANSWER)
        for k in range(rounds):
            sender.put(k)
            while True:
                try:
                    assert int(receiver.get(ANSWER)) == k + parties - 1
                    break
                except (sa.ShutDown, sa.ProducerDied):
                    time.sleep(0.01)
        receiver.close()
        sender.close()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    for keeper in keepers:
        keeper.close()
