"""Outcomes that a worker holds back are sent in time, whatever its threads do at the same moment."""

from __future__ import annotations

import marshal
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pool_tasks
import pytest
from helpers import ANSWER, wait_until

import sharedarray as sa
from sharedarray._pool.transport import page
from sharedarray._pool.worker import replies
from sharedarray._pool.worker.replies import Replies
from sharedarray._reference import FORMAT

# The second thread ends by SystemExit.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Written:
    """A channel that keeps what is written."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.came = threading.Event()

    def write(self, frames: bytes) -> bool:
        self.frames.append(frames)
        self.came.set()
        if threading.current_thread().name == "sharedarray-replies":
            raise SystemExit  # it would stay for as long as the process
        return True


class HoldsAtTheLastMoment(Replies):
    """The main thread holds an outcome back just before the second thread says that it goes to sleep."""

    is_awake = False
    channel: Any = None

    @property
    def _awake(self) -> bool:  # type: ignore[override]
        return self.is_awake

    @_awake.setter
    def _awake(self, awake: bool) -> None:
        if self.is_awake and not awake and not self.channel.came.is_set():
            hold(self)
        self.is_awake = awake


def hold(some: Replies) -> None:
    some.begin(lazy=False, quick=True)
    now = replies.monotonic_ns()
    some.add(marshal.dumps(5, FORMAT), now, now, last=False)


def test_an_outcome_that_is_held_back_as_the_second_thread_goes_to_sleep_is_sent(monkeypatch: Any) -> None:
    monkeypatch.setattr(replies, "QUIET", 0.0)  # it goes to sleep at once
    channel: Any = Written()
    some = HoldsAtTheLastMoment(channel, mmap.mmap(-1, page.SIZE))
    some.channel = channel
    some._wake()
    monkeypatch.setattr(replies, "QUIET", 0.1)
    assert channel.came.wait(60)
    assert some._thread is not None
    some._thread.join(60)


def test_an_outcome_before_a_slow_call_is_sent() -> None:
    channel: Any = Written()
    some = Replies(channel, mmap.mmap(-1, page.SIZE))
    hold(some)
    assert channel.came.wait(60)
    assert len(channel.frames) == 1
    assert some._thread is not None
    some._thread.join(60)


def test_without_a_page_nothing_is_held_back() -> None:
    channel: Any = Written()
    hold(Replies(channel, None))
    assert len(channel.frames) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_outcomes_before_native_code_that_keeps_the_interpreter_are_sent(tmp_path: Path) -> None:
    started, release, fifo = (tmp_path / name for name in ("started", "release", "fifo"))
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    with sa.Pool(1) as pool:
        list(pool.map(pool_tasks.hold_the_interpreter, ["", ""]))
        for function, seconds in ((abs, 1e-6), (pool_tasks.hold_the_interpreter, 0.005)):
            stats = pool._core.intake.function_of(function).stats
            stats.seconds, stats.count = seconds, 100
        first = pool.submit(pool_tasks.signal_and_wait_for, str(started), str(release))
        wait_until(started.exists, "the worker is busy")
        quick = [pool.submit(abs, -number) for number in range(3)]
        native = pool.map(pool_tasks.hold_the_interpreter, [str(fifo), ""])
        wait_until(lambda: pool._core.handles[0].load == 6, "all of this waits in the worker")
        release.touch()
        try:
            assert first.result(ANSWER) == "released"
            assert [future.result(ANSWER) for future in quick] == [0, 1, 2]
        finally:
            os.write(writer, b"x")
        assert list(native) == [None, None]
    os.close(writer)
