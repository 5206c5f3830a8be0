"""The lock under which a process changes the state of an event, a semaphore, a condition or a barrier."""

from __future__ import annotations

import threading
from typing import Any

from sharedarray import _segment as segment, _sigint as sigint
from sharedarray._platform import platform
from sharedarray._wakers import FIRST_LEASE

__all__ = ["Mutex"]

_MUTEX = FIRST_LEASE - 1  # the byte that is locked while the state is changed


class Mutex:
    """The lock under which the state is changed: of the threads of an object, and of all processes.

    It is taken and released in a deferred block. Ctrl-C breaks off the wait alone.
    """

    __slots__ = ("_file", "threads")

    def __init__(self, mapping: segment.Mapping) -> None:
        self.threads: Any = threading.RLock()  # which tells whether this thread has it
        self._file = segment.guarded_open(mapping)

    def take(self) -> bool:
        """Wait for the lock and take it; return False if it is closed."""
        try:
            with sigint.allowed:
                self.threads.acquire()
                if self._file >= 0:
                    platform.lock(self._file, _MUTEX, 1, shared=False, wait=True)
        except BaseException:
            if self.threads._is_owned():
                self.release()
            raise
        if self._file < 0:  # closed by another thread
            self.threads.release()
            return False
        return True

    def take_at_once(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        if not self.threads.acquire(blocking=False):
            return False
        if self._file >= 0 and platform.lock(self._file, _MUTEX, 1, shared=False, wait=False):
            return True
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
