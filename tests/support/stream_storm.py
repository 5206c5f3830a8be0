"""Storms over streams: parties that are killed at random moments, and numbers that processes hand round.

A module for tests, and a program for long runs::

    python tests/support/stream_storm.py kills 10000     # SIGKILL at random instructions of both sides
    python tests/support/stream_storm.py steps           # SIGKILL at each bytecode of all calls of both sides
    python tests/support/stream_storm.py hands 10000000  # numbers round 4 processes; signals, stops and forks
"""

from __future__ import annotations

import asyncio
import mmap
import os
import queue
import random
import resource
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from helpers import ANSWER, TESTS, stopped, wait_until

import sharedarray as sa

PARTIES, WORDS, MOST = 16, 8, 20_000  # parties and kills of a storm, at most
ITEMS, TORN, WRONG, KILL = range(4)  # words of a party


class Counts:
    """The reports of the parties of a storm: items, their errors, and the times of waits."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, (PARTIES + 1) * WORDS * 8)).cast("Q")
        self._moments = np.frombuffer(mmap.mmap(-1, MOST * 8), "f8")
        self._waits = np.frombuffer(mmap.mmap(-1, MOST * PARTIES * 4), "f4").reshape(MOST, PARTIES)

    def note(self, party: int, *, torn: bool = False, wrong: bool = False) -> None:
        """Count an item of a party."""
        self.heard(party)
        self._words[WORDS * party + ITEMS] += 1
        self._words[WORDS * party + TORN] += torn
        self._words[WORDS * party + WRONG] += wrong

    def heard(self, party: int) -> None:
        """Note that a party goes on after the last kill."""
        kill, own = self._words[WORDS * PARTIES], WORDS * party + KILL
        if kill != self._words[own]:
            self._words[own] = kill
            self._waits[kill, party] = time.monotonic() - self._moments[kill]

    def begin(self, kill: int) -> None:
        """Note when a kill comes: from this moment on, the parties measure how long they wait."""
        self._moments[kill] = time.monotonic()
        self._words[WORDS * PARTIES] = kill

    def skip(self, party: int) -> None:
        """Let a new process of a party not measure the last kill."""
        self._words[WORDS * party + KILL] = self._words[WORDS * PARTIES]

    def items(self, party: int) -> int:
        return self._words[WORDS * party + ITEMS]

    def problems(self) -> tuple[int, int]:
        """Return how many items were torn, and how many came out of order or with a gap."""
        torn = sum(self._words[WORDS * party + TORN] for party in range(PARTIES))
        return torn, sum(self._words[WORDS * party + WRONG] for party in range(PARTIES))

    def waits(self, kills: range, victims: list[int]) -> np.ndarray[Any, Any]:
        """Return how long each party but the victim waited at each of some kills, in seconds."""
        found = self._waits[kills.start : kills.stop : kills.step].copy()
        for at, victim in enumerate(victims):
            found[at, victim] = 0
        return found[found > 0]


def produce(name: str, shape: tuple[int, ...], counts: Counts, party: int) -> None:
    """Publish items, each of which holds its position, in all ways."""
    stream = sa.Stream(name, takeover=True)
    while True:
        way = random.randrange(4)
        first = stream.position + 1
        if way == 0:
            stream.put(np.full(shape, first))
        elif way == 1:
            with stream.put() as frame:
                frame[:] = first
        elif way == 2:
            stream.put_many(np.arange(first, first + 3).repeat(shape[0]).reshape(3, *shape))
        else:
            try:
                with stream.put() as frame:
                    frame[:] = -1
                    raise KeyError("withdrawn")
            except KeyError:
                continue
        counts.note(party)


# Ways to read, each with its settings: those of consumers for which the producer waits, and of others.
LOSSLESS = ["each", "batches", "iteration", "asyncio", "selector", "keeping"]
LOSSY = ["lossy", "lossy batches", "latest", "lossy asyncio", "lossy keeping"]


class _Checks:
    """Checks what a consumer gets: whole items, in order, and all of them if it is lossless."""

    def __init__(self, stream: Any, mode: str, counts: Counts, party: int) -> None:
        self._stream, self._counts, self._party = stream, counts, party
        self._lossless = mode in LOSSLESS
        self._last = -1
        self._most = 4 if mode.endswith("keeping") else 1
        self._kept: list[tuple[Any, int]] = []

    def check(self, found: Any) -> None:
        position = self._stream.position
        wrong = position <= self._last or (self._lossless and self._last >= 0 and position != self._last + 1)
        torn = any(not (item == position + k).all() for k, item in enumerate(found))
        self._last = position + len(found) - 1
        self._kept.append((found, position))
        if len(self._kept) > self._most:
            before, at = self._kept.pop(0)
            torn = torn or not (before[0] == at).all()
        self._counts.note(self._party, torn=torn, wrong=wrong)


def consume(name: str, mode: str, counts: Counts, party: int) -> None:
    """Read in one way, and check what comes."""
    while True:
        history = random.choice((0, 0, 3))
        stream = sa.Stream(name, lossless=None if mode in LOSSLESS else False, history=history)
        checks = _Checks(stream, mode, counts, party)
        end = time.monotonic() + random.random()  # until it leaves, and joins again
        while time.monotonic() < end:
            try:
                if mode.endswith("asyncio"):
                    asyncio.run(_consume_by_loop(stream, checks, end))
                else:
                    _consume_some(stream, mode, checks, end)
            except sa.ProducerDied:
                counts.heard(party)
        stream.close()


def _consume_some(stream: Any, mode: str, checks: _Checks, end: float) -> None:
    if mode == "iteration":
        for item in stream:
            checks.check(item[None])
            if time.monotonic() >= end:
                return
    if mode == "selector":
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while time.monotonic() < end:
                if selector.select(ANSWER):
                    try:
                        checks.check(stream.get(0)[None])
                    except queue.Empty:
                        pass
    if mode == "latest":
        checks.check(stream.latest()[None])
    elif mode.endswith("batches"):
        checks.check(stream.get(max=4))
    else:
        checks.check(stream.get()[None])


async def _consume_by_loop(stream: Any, checks: _Checks, end: float) -> None:
    async for item in stream:
        checks.check(item[None])
        if time.monotonic() >= end:
            return


def start(work: Callable[..., None], *arguments: Any) -> int:
    """Start a process for some work, which does not end by itself; return its pid."""
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


def end(children: list[int]) -> None:
    """Kill processes."""
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Storm:
    """A producer and consumers, of which one is killed again and again.

    Parameters
    ----------
    kills
        How many.
    modes
        The ways of the consumers to read.
    compare
        Whether to measure how long they wait without a kill as well, before each.
    """

    def __init__(
        self, kills: int, slots: int, length: int, full: Any, modes: list[str], *, compare: bool = False
    ) -> None:
        self.compare = compare
        self.kills, self.slots, self.shape, self.full = kills, slots, (length,), full
        self.counts = Counts()
        self._victims: list[int] = []
        keep = sa.Stream("storm", self.shape, "i8", slots=slots, full=full)
        self._watcher = sa.Stream("storm", lossless=False)  # keeps the block while all others are killed
        keep.close()
        self._jobs: list[tuple[Any, ...]] = [(produce, "storm", self.shape, self.counts, 0)]
        self._jobs += [(consume, "storm", mode, self.counts, 1 + k) for k, mode in enumerate(modes)]
        self._parties = range(len(self._jobs))

    def _wait_for_all(self, parties: range, what: str) -> None:
        before = [self.counts.items(party) for party in parties]
        wait_until(
            lambda: all(self.counts.items(party) > before[party] for party in parties), what, ANSWER, 0.001
        )

    def run(self) -> None:
        """Kill, and check that all others go on with whole items in order."""
        children = [start(*self._jobs[0])]
        try:
            self._wait_for_all(self._parties[:1], "the producer goes on where the first one has closed")
            children += [start(*job) for job in self._jobs[1:]]
            self._wait_for_all(self._parties, "all get items")
            for kill in range(1, 2 * self.kills + 1, 2):
                if self.compare:
                    self.counts.begin(kill)
                    self._wait_for_all(self._parties, "all get items without a kill")
                time.sleep(random.random() * 0.002)
                victim = random.choice((0, random.randrange(len(children))))
                self._victims.append(victim)
                self.counts.begin(kill + 1)
                os.kill(children[victim], signal.SIGKILL)
                status = os.waitpid(children[victim], 0)[1]
                assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
                self.counts.skip(victim)
                children[victim] = start(*self._jobs[victim])
                self._wait_for_all(self._parties, f"all get items after kill {kill // 2} of party {victim}")
                assert self.counts.problems() == (0, 0)
            with stopped(children[-1]):  # a lossy consumer that stands still holds no process up
                self._wait_for_all(self._parties[:-1], "the others go on")
        finally:
            end(children)
        assert self.counts.problems() == (0, 0)
        self._use_every_slot()

    def _use_every_slot(self) -> None:
        with sa.Stream("storm", takeover=True) as last:
            self._watcher.close()
            watcher = sa.Stream("storm")
            for k in range(self.slots):
                last.put(np.full(self.shape, k), timeout=ANSWER)
            kept = [watcher.get(ANSWER) for _ in range(self.slots if self.full == "wait" else 1)]
            assert len({item.ctypes.data for item in kept}) == len(kept)
            kept.clear()
        watcher.close()

    def waits(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return how long those waited that were not killed, in seconds, with a kill and without one."""
        return {
            "no kill": self.counts.waits(range(1, 2 * self.kills, 2), []),
            "a consumer killed": self._after(lambda victim: victim != 0),
            "the producer killed": self._after(lambda victim: victim == 0),
        }

    def _after(self, chosen: Callable[[int], bool]) -> np.ndarray[Any, Any]:
        all_waits = []
        for at, victim in enumerate(self._victims):
            if chosen(victim):
                all_waits.append(self.counts.waits(range(2 * at + 2, 2 * at + 3), [victim]))
        return np.concatenate(all_waits) if all_waits else np.zeros(0)


def show(waits: dict[str, np.ndarray[Any, Any]]) -> None:
    """Print the distribution of waits."""
    for what, found in waits.items():
        if len(found):
            median, late, longest = np.percentile(found * 1e3, [50, 99, 100])
            over = int((found > 0.1).sum())
            figures = f"{median:6.2f} ms (median), {late:7.2f} (99 %), {longest:7.2f} (most)"
            print(
                f"  {what:20} {figures}; {over} of {len(found)} waits of others longer than 100 ms",
                flush=True,
            )


# -- numbers that processes hand round ---------------------------------------------------------------------

HANDS = 4


def hand_on(k: int, counts: Counts, disturbed: bool) -> None:
    """Take each number from the process before, and give the next number to the process behind."""
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    receiver = sa.Stream(f"round{k}")
    counts.note(HANDS + k)
    wait_until(lambda: all(counts.items(HANDS + n) for n in range(HANDS)), "all have joined", ANSWER, 0.001)
    sender = sa.Stream(f"round{(k + 1) % HANDS}", takeover=True)
    if disturbed:
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.007)
    mine = (k - 1) % HANDS
    if k == 0:
        sender.put(0)
    words, at, done, flying = counts._words, WORDS * k + ITEMS, 0, 1
    while True:
        try:
            number = int(receiver.get(ANSWER))
        except (sa.ShutDown, sa.ProducerDied):
            time.sleep(0.001)  # it is not there yet
            continue
        if number % HANDS != mine or receiver.position != done:
            counts.note(k, wrong=True)
        done += 1
        words[at] = done
        if k == 0 and done % 512 == 0:  # other numbers of numbers on their way
            if flying > 1 and done % 1024:
                flying -= 1
                continue
            if flying < HANDS:
                flying += 1
                sender.put(4 * HANDS, ANSWER)
        sender.put(number + 1, ANSWER)
        if disturbed and done % 20_000 == k * 5_000:
            if done % 40_000 == k * 5_000:
                time.sleep(0.003)
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)


@contextmanager
def hands(counts: Counts, disturbed: bool) -> Iterator[list[int]]:
    """Start processes that hand numbers round; yield their pids."""
    streams = [sa.Stream(f"round{k}", (), "i8", slots=2) for k in range(HANDS)]
    keepers = [sa.Stream(f"round{k}", lossless=False) for k in range(HANDS)]
    for stream in streams:
        stream.close()
    children = [start(hand_on, k, counts, disturbed) for k in range(HANDS)]
    try:
        yield children
    finally:
        end(children)
        for keeper in keepers:
            keeper.close()


def count_hand_overs(total: int, disturbed: bool) -> str:
    """Hand numbers round until there were so many hand-overs; return what it took."""
    counts = Counts()
    begun = time.monotonic()
    stops = 0
    longest = 0.0
    with hands(counts, disturbed) as children:
        done, moment = 0, time.monotonic()
        while done < total:
            time.sleep(0.02)
            if disturbed:
                with stopped(random.choice(children)):
                    time.sleep(0.002)
                stops += 1
            before, done = done, sum(counts.items(k) for k in range(HANDS))
            now = time.monotonic()
            if done != before:
                moment = now
            longest = max(longest, now - moment)
            assert now - moment < ANSWER, f"no number moves after {done:,} hand-overs"
            assert counts.problems() == (0, 0)
    switches = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw
    return (
        f"{done:,} hand-overs in {time.monotonic() - begun:.0f} s, {switches:,} sleeps, {stops:,} stops: "
        f"none out of order, none lost, longest time without one {longest:.2f} s"
    )


# -- the program -------------------------------------------------------------------------------------------


def _kills(total: int) -> None:
    sizes = [(16, 1), (20, 64), (24, 1 << 12), (16, 1 << 15), (12, 1 << 18)]  # 8 B to 2 MiB
    share = max(1, total // (4 * len(sizes)))
    done, begun = 0, time.monotonic()
    everything: dict[str, list[np.ndarray[Any, Any]]] = {}
    for slots, length in sizes:
        for full, modes in (
            ("wait", ["each", "batches", "asyncio", "latest"]),
            ("wait", ["iteration", "selector", "keeping", "lossy"]),
            ("drop_oldest", ["lossy", "lossy batches", "lossy keeping", "latest"]),
            ("drop_oldest", ["lossy asyncio", "lossy", "latest"]),
        ):
            storm = Storm(share, slots, length, full, modes, compare=True)
            storm.run()
            done += share
            items = sum(storm.counts.items(party) for party in range(PARTIES))
            print(f"{slots} slots of {8 * length:,} B, {full}, {', '.join(modes)}")
            print(f"  {share} kills, {items:,} items", flush=True)
            show(storm.waits())
            for what, waits in storm.waits().items():
                everything.setdefault(what, []).append(waits)
    print(f"{done:,} kills in {time.monotonic() - begun:.0f} s: 0 torn, 0 out of order, 0 lost, 0 stuck")
    show({what: np.concatenate(waits) for what, waits in everything.items()})


def _steps() -> None:
    sys.path.append(str(TESTS / "faults"))
    from test_streams_broken_off import (
        test_a_consumer_that_is_killed_at_any_step_takes_no_slot_along as consumer,
        test_a_producer_that_is_killed_at_any_step_leaves_whole_items as producer,
    )

    for side in (producer, consumer):
        for full in ("wait", "drop_oldest"):
            begun = time.monotonic()
            side(1, full)
            print(f"{side.__name__}, {full}: every step, {time.monotonic() - begun:.0f} s", flush=True)


def main(what: str, *arguments: str) -> None:
    """Run a storm in a directory of its own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        os.environ["SHAREDARRAY_DIR"] = directory
        if what == "kills":
            _kills(int(arguments[0]))
        elif what == "steps":
            _steps()
        elif what == "hands":
            print(count_hand_overs(int(arguments[0]), disturbed=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
