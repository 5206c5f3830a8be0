"""Outcomes that a worker holds back are sent in time, whatever its threads do at the same moment."""

from __future__ import annotations

import marshal
import mmap
import threading
from typing import Any

import pytest

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
    some.begin(lazy=False)
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
