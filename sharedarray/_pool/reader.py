"""Which thread reads the pipes: the pool's thread, or a caller that waits for a result.

A caller that waits reads the pipes itself, which saves the wake-up of a thread in every round trip. As a rule
it comes back for the next call at once. To have the pool's thread watch the pipes in between, and leave them
to the caller again, would cost two system calls. So the role stays leased to the caller, and the pool's
thread checks every `LEASE` seconds whether it has come back.
"""

from __future__ import annotations

from typing import Final

from sharedarray._clock import time
from sharedarray._poller import Poller
from sharedarray._pool.states import CLOSED, HELD, LEASED, READER, WATCHED, advance

__all__ = ["LEASE", "Reader"]

# Seconds between two checks while the role is leased.
LEASE: Final = 0.05


class Reader:
    """The reader's role (states: `states.READER`). All methods are called with the pool's lock held.

    Parameters
    ----------
    outer
        What the pool's thread waits for.
    pipes
        The poller of the pipes, which is in ``outer``.

    Attributes
    ----------
    owner
        The identifier of the thread that reads; 0 if no thread does.
    is_wanted
        Set without the lock: the pool's thread is to end the lease at its next check, which is at once.
    """

    def __init__(self, outer: Poller, pipes: Poller) -> None:
        self._outer, self._pipes = outer, pipes
        self.state = WATCHED
        self.owner = 0
        self.is_wanted = False
        self._checking = self._came = False
        self._check_at = 0.0

    def take(self, thread: int) -> bool:
        """Give the role to a thread; return False if another one has it, or the pool is closed."""
        if self.state == HELD or self.state == CLOSED:
            return False
        if self.state == WATCHED:
            self._outer.modify(self._pipes.fileno(), read=False, write=False)
        self.state = advance(READER, "take", self.state)
        self.owner = thread
        self._came = True
        return True

    def release(self) -> bool:
        """Give the role up; return whether the pool's thread must be woken to check the lease."""
        self.owner = 0
        if self.state == CLOSED:
            return False
        self.state = advance(READER, "release", self.state)
        if self._checking:
            return False
        self._checking = True
        self._check_at = time.monotonic() + LEASE
        return True

    def watch(self) -> None:
        """Wake the pool's thread for each message from now on, unless a thread reads."""
        if self.state == LEASED:
            self._outer.modify(self._pipes.fileno(), read=True, write=False)
        self.state = advance(READER, "watch", self.state)

    def check(self) -> float | None:
        """End a lease that is not used; return the seconds until the next check, None for none."""
        now = time.monotonic()
        if self.is_wanted:
            self.is_wanted = False
            self.watch()
        if self._checking and now >= self._check_at:
            if not self._came:
                self._checking = False
                self.watch()
            self._came = False
            self._check_at = now + LEASE
        return self._check_at - now if self._checking else None

    def close(self) -> None:
        """Let no thread read any more."""
        if self.state != CLOSED:
            self.state = advance(READER, "close", self.state)
