"""Polling for a short time before a thread sleeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from sharedarray._clock import time
from sharedarray._platform import platform

__all__ = ["SPIN", "SpinWait", "spin_wait"]

_T = TypeVar("_T")

SPIN = 50e-6  # seconds to poll before sleeping: about what waking a core takes

_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
# Seconds that waking the threads on both sides takes at most, as a rule.
_WAKING = 150e-6
# Seconds between two polls that are more than the other side needs; waits without polling at most.
_PREEMPTED, _MOST_SKIPPED = 500e-6, 256


class SpinWait:
    """Decide whether to poll for a message before sleeping, and poll.

    Waking a sleeping core costs some 50 us on many machines, more than all else in the round trip of a small
    call. A short time of polling saves it if messages arrive in quick succession. So polling is worthwhile
    only if the last message took at most the time of polling and of waking to arrive.

    Between two polls, other threads that wait for this core get it: one of them may be about to answer. If
    one of them keeps the core for long, sleeping is better. Then the next waits do not poll, twice as many
    each time, until polling succeeds undisturbed again.

    Parameters
    ----------
    seconds
        The longest time of polling; 0 for none.

    Attributes
    ----------
    last
        Seconds that the last message took to arrive, polling and sleeping included. The caller sets it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = 0.0
        self._limit = seconds + _WAKING if seconds else 0.0
        self._skip = 0
        self._penalty = 1

    def worthwhile(self) -> bool:
        """Return whether to poll this time."""
        if self.last >= self._limit:
            return False
        if self._skip:
            self._skip -= 1
            return False
        return True

    def poll(self, there: Callable[[], _T]) -> _T:
        """Call ``there`` until it returns something true or the time is over; return its last result."""
        now = time.perf_counter()
        end = now + self.seconds
        while not (found := there()) and now < end:
            _yield()
            before, now = now, time.perf_counter()
            if now - before > _PREEMPTED:
                self._skip = self._penalty
                self._penalty = min(2 * self._penalty, _MOST_SKIPPED)
                return there()
        self._penalty = max(1, self._penalty - 1)
        return found


def spin_wait(seconds: float = SPIN) -> SpinWait:
    """Return a `SpinWait` that polls only if another processor may answer meanwhile."""
    return SpinWait(seconds if platform.processors() > 1 else 0)
