"""The lock under which a process changes the state of an event, a semaphore, a condition or a barrier.

A change takes some 50 us. But the process that makes it may be stopped (SIGSTOP) in the middle of it, and
keeps the lock. So a thread that waits for the lock tries again and again: it can give up when a timeout is
over, and holds nothing meanwhile that other threads of its process need.
"""

from __future__ import annotations

import threading
from typing import Any

from sharedarray import _segment as segment, _sigint as sigint
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._wakers import FIRST_LEASE

__all__ = ["PATIENCE", "BusyError", "Mutex", "patient"]

PATIENCE = 1.0  # seconds to wait for a change by another process, which takes 50 us unless that is stopped
_MUTEX = FIRST_LEASE - 1  # the byte that is locked while the state is changed
_FIRST_PAUSE, _LAST_PAUSE = 20e-6, 0.02  # seconds between two tries
_PAUSES = 8  # a pause lasts an eighth of the time waited so far


def patient(end: float | None) -> float | None:
    """Return the end of a wait for a change by another process: `end`, but not before `PATIENCE` is over.

    So a call with a timeout of 0 does not fail for a process that goes on.
    """
    return None if end is None else max(end, time.monotonic() + PATIENCE)


class BusyError(Exception):
    """Another process has had the lock until the time was over. It may be stopped."""


class Mutex:
    """The lock under which the state is changed: of the threads of an object, and of all processes.

    It is taken and released in a deferred block. Ctrl-C breaks off the wait alone.
    """

    __slots__ = ("_file", "threads")

    def __init__(self, mapping: segment.Mapping) -> None:
        self.threads: Any = threading.RLock()  # held during a change, but not while its thread waits
        self._file = segment.guarded_open(mapping)

    def take(self, end: float | None = None) -> bool:
        """Wait for the lock and take it; return False if it is closed.

        Raises
        ------
        BusyError
            The lock was not free until `end`, a moment of the monotonic clock.
        """
        begun = None
        while not self.take_at_once(after_threads=True):
            if self._file < 0:  # closed by another thread
                return False
            now = time.monotonic()
            begun = now if begun is None else begun
            pause = min(max((now - begun) / _PAUSES, _FIRST_PAUSE), _LAST_PAUSE)
            if end is not None:
                if now >= end:
                    raise BusyError
                pause = min(pause, end - now)
            with sigint.allowed:
                time.sleep(pause)
        return True

    def take_at_once(self, *, after_threads: bool = False) -> bool:
        """Take the lock if no other process has it, and no other thread; return whether it was taken.

        With `after_threads`, wait until no other thread makes a change.
        """
        if not self.threads.acquire(blocking=after_threads):
            return False
        try:
            if self._file >= 0 and platform.lock(self._file, _MUTEX, 1, shared=False, wait=False):
                return True
        except BaseException:
            self.threads.release()
            raise
        self.threads.release()
        return False

    def release(self) -> None:
        """Release the lock."""
        if self._file >= 0:
            platform.unlock(self._file, _MUTEX, 1)
        self.threads.release()

    def close(self) -> None:
        """Close the file by which it is locked, once no thread has the lock."""
        with self.threads:
            file, self._file = self._file, -1
            if file >= 0:
                segment.guarded_close(file)
