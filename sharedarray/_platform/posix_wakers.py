"""Wakers on POSIX systems: FIFOs with a path.

The owner of a waker has its FIFO open for reading and writing; a byte in it wakes the owner. Other processes
have it open for writing only. If no process has it open for reading, its owner has ended or closed it. Then
opening it for writing fails (``ENXIO``), a write fails (``EPIPE``), and `poll` reports ``POLLERR`` at once,
which wakes every process that waits for the owner (``fifo(7)``, ``poll(2)``).

A FIFO whose owner was killed keeps its path until `remove_unused_waker`. That must not remove a FIFO which a
process has just made and is about to open. So a shared `flock` on the directory is held while a FIFO is made
and opened, and an exclusive one while an unused FIFO is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from sharedarray._platform.descriptors import opened, opened_file

__all__ = [
    "close_waker",
    "drain",
    "make_waker",
    "open_waker",
    "remove_unused_waker",
    "wait_for_wakers",
    "wake",
    "watch",
]

_select: Any = select  # whose calls differ between systems
_EPOLL = hasattr(select, "epoll")
_OWN = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_OTHER = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_BYTE = b"w"
_DRAINED = 1 << 16  # bytes that a FIFO of Linux holds
_LONGEST = 1 << 30  # milliseconds that `poll` takes as a timeout
_NOT_THERE = (errno.ENXIO, errno.ENOENT, errno.ENOTDIR)
_CANNOT_LOCK = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def _locked(directory: str, how: int) -> Iterator[bool]:
    """Hold a lock on a directory in the ``with`` statement, which gets whether it was granted."""
    handle = opened_file(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise
        yield True
    finally:
        os.close(handle)


def make_waker(path: str) -> int:
    with _locked(os.path.dirname(path), fcntl.LOCK_SH):
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(os.lstat(path).st_mode):
                raise
        handle = opened_file(path, _OWN)
    try:
        drain(handle)  # wake-ups for an owner that has ended
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_waker(path: str, pid: int) -> int | None:
    try:
        handle = opened_file(path, _OTHER)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    if not stat.S_ISFIFO(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return handle


def wake(waker: int) -> bool:
    try:
        os.write(waker, _BYTE)
    except BlockingIOError:
        pass  # it is full of bytes that wake the owner
    except BrokenPipeError:
        return False
    return True


def drain(waker: int) -> None:
    try:
        os.read(waker, _DRAINED)
    except BlockingIOError:
        pass


def close_waker(waker: int, path: str | None = None) -> None:
    try:
        if path is not None:
            os.unlink(path)
    except FileNotFoundError:
        pass
    finally:
        os.close(waker)


def wait_for_wakers(own: int, others: Sequence[int], seconds: float | None) -> tuple[bool, bool]:
    poll = select.poll()
    poll.register(own, select.POLLIN)
    for other in others:
        poll.register(other, 0)
    timeout = None if seconds is None else min(max(0, ceil(seconds * 1000)), _LONGEST)
    woken = gone = False
    for handle, _ in poll.poll(timeout):
        if handle == own:
            woken = True
        else:
            gone = True
    return woken, gone


class Watch:
    """A descriptor that is readable while one of its wakers is woken or has lost its owner."""

    def __init__(self) -> None:
        self._queue: Any = opened(_select.epoll if _EPOLL else _select.kqueue)

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._queue.fileno())

    def add(self, waker: int, *, own: bool = False) -> None:
        """Watch this process's own waker, or the end of the process that owns another waker."""
        if _EPOLL:
            try:
                self._queue.register(waker, select.POLLIN if own else 0)
            except FileExistsError:
                pass
        else:
            kind = _select.KQ_FILTER_READ if own else _select.KQ_FILTER_WRITE
            change = _select.kevent(waker, kind, _select.KQ_EV_ADD | _select.KQ_EV_CLEAR)
            self._queue.control([change], 0)

    def close(self) -> None:
        """Close the descriptor."""
        self._queue.close()


def watch() -> Watch:
    return Watch()


def remove_unused_waker(path: str) -> bool:
    with _locked(os.path.dirname(path), fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
        if not locked:
            return False  # a process is making one; the next sweep comes soon
        try:
            if not stat.S_ISFIFO(os.lstat(path).st_mode):
                raise FileExistsError(errno.EEXIST, "no FIFO", path)
        except FileNotFoundError:
            return False
        try:
            os.close(opened_file(path, _OTHER))
        except OSError as error:
            if error.errno != errno.ENXIO:
                return False
        else:
            return False  # its owner lives
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
    return True
