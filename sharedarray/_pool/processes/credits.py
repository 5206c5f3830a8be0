"""Credits: a counter, shared by pool and worker, of the items that the worker has got and not begun.

The pool adds a credit for each item that it sends, and a worker takes a credit before it begins an item. So
the pool can revoke items by taking credits: the worker begins no item without a credit.

The counter is a semaphore as multiprocessing's are, which takes 0.03 us a credit. A worker that is no fork of
this process opens it by its name, which is removed when the worker has started. A sudden death may end
multiprocessing's tracker too, which would have to remove it. So on Linux the name is one of ours, which a
sweep of the registry finds.

A semaphore needs a writable ``/dev/shm``. A machine may have none (AWS Lambda), or a read-only one. Or the
name is one of multiprocessing's, and the program embeds Python, which cannot run the tracker. Then each
credit is a byte in a pipe, which takes 0.5 us.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import util
from typing import Any, Protocol

from sharedarray import _errors as errors, _interpreter as interpreter, _pipes as pipes, _registry as registry
from sharedarray._platform import platform

__all__ = ["Credits", "counter_of", "new_counter"]

# Here, so that a fork server loads it once, and not each worker.
with contextlib.suppress(ImportError):  # this Python was built without semaphores
    importlib.import_module("multiprocessing.synchronize")


_SEMAPHORE = 1  # not 0, a lock that a thread may take again


class Credits(Protocol):
    """A counter that processes share; `multiprocessing.synchronize.Semaphore` has this interface."""

    def acquire(self, block: bool = True) -> bool:
        """Take a credit; return whether there was one. Called with False: it never waits."""

    def release(self) -> None:
        """Add a credit."""

    def get_value(self) -> int:
        """Return the number of credits; NotImplementedError on macOS, which has no call for this."""


def new_counter(method: str) -> Credits:
    """Return a new counter at 0, for a worker that is started by this method."""
    try:
        name = None if method == "fork" else registry.semaphore_name()
        if name is not None:
            return platform.opened(_Named.make, name)
        interpreter.python()  # which multiprocessing starts as the tracker of semaphores
        with platform.standard_streams():
            return platform.opened(multiprocessing.get_context(method).Semaphore, 0)
    except (ImportError, errors.UnsupportedError):  # this Python was built without semaphores
        return _Tokens()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) or not hasattr(os, "set_blocking"):
            raise
        return _Tokens()


def counter_of(credits: Credits) -> tuple[Callable[[bool], bool], Callable[[], None], Callable[[], int]]:
    """Return the functions that take, add and count credits, without the Python object around them.

    That object keeps the semaphore's name in the system, which the pool removes when the worker has started.
    """
    inner = getattr(credits, "_semlock", None)
    take, add, count = (getattr(inner, name, None) for name in ("acquire", "release", "_get_value"))
    if take is None or add is None or count is None:
        return credits.acquire, credits.release, credits.get_value
    return take, add, count


class _Named:
    """Credits as a semaphore that the worker opens by its name."""

    def __init__(self, semaphore: Any) -> None:
        self._semlock = semaphore
        self.acquire = semaphore.acquire
        self.release = semaphore.release
        self.get_value = semaphore._get_value

    @classmethod
    def make(cls, name: str) -> _Named:
        """Make a semaphore of this name, which is removed as the counter is dropped."""
        semlock = _c_module().SemLock
        made = cls(semlock(_SEMAPHORE, 0, semlock.SEM_VALUE_MAX, name, False))
        util.Finalize(made, _unlink, (name,), exitpriority=0)  # in this process, and in none of its forks
        return made

    @classmethod
    def open(cls, name: str, most: int) -> _Named:
        """Open a semaphore that another process has made."""
        return cls(_c_module().SemLock._rebuild(0, _SEMAPHORE, most, name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Named.open, (self._semlock.name, self._semlock.maxvalue)


def _unlink(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _c_module().sem_unlink(name)


def _c_module() -> Any:
    """Return the C module of semaphores; ImportError if Python was built without it."""
    return importlib.import_module("_multiprocessing")


class _Tokens:
    """Credits as bytes in a pipe.

    The smallest pipe of Linux has 4 KiB; a worker has at most 4000 items.
    """

    def __init__(self, ends: tuple[Any, Any] | None = None) -> None:
        self._ends = pipes.ends() if ends is None else ends
        self._reading, self._writing = (end.fileno() for end in self._ends)
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tokens, (self._ends,)

    def acquire(self, block: bool = True) -> bool:
        """Take a credit; return whether there was one."""
        try:
            return bool(os.read(self._reading, 1))
        except BlockingIOError:
            return False

    def release(self) -> None:
        """Add a credit."""
        os.write(self._writing, b"\0")

    def get_value(self) -> int:
        """Return the number of credits."""
        import fcntl  # not above: Windows has neither, and semaphores always work there
        import termios

        found = bytearray(4)
        fcntl.ioctl(self._reading, termios.FIONREAD, found)
        return int.from_bytes(found, sys.byteorder)
