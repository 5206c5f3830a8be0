"""The pipes between a pool and its workers; sockets if the system cannot wait for pipes.

Everything that the pool's thread waits for must be waited for at once: answers, pipes that can be written,
workers' ends, and being woken. Where there is ``poll``, these are pipes and process descriptors. Elsewhere
(Windows) only sockets can be waited for together, so there a link is a pair of connected sockets of this
machine, handed to the worker with the process object; and a worker's end, which the kernel tells by a handle,
is waited for by a small thread of its own, which says so through such a pair.

A `PipeEnd` is one end of a link in one direction. Its descriptor is what a `Poller` waits for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import connection, context, process
from typing import Any, Protocol

from sharedarray._platform import platform

__all__ = [
    "MAX_WORKERS",
    "PIPES",
    "PipeEnd",
    "Waker",
    "close_exit_descriptor",
    "ends",
    "exit_descriptor",
    "has_ended",
    "one_way",
    "wait_readable",
]

PIPES = hasattr(select, "poll") and hasattr(os, "writev")
# Workers of one pool at most: where there is no `poll`, 512 sockets can be waited for, two of each worker's.
MAX_WORKERS = None if PIPES else 250


class PipeEnd(Protocol):
    """One end of a link."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close this end. Idempotent. Later calls are errors; the number may be another file's by then."""

    def block(self, flag: bool) -> None:
        """Set whether reading and writing wait if they cannot be done at once."""

    write: Callable[[Any], int]
    """Write bytes; return how many the kernel took."""

    write_all: Callable[[Sequence[Any]], int]
    """Write several buffers, one behind the other; return how many bytes the kernel took."""

    read_into: Callable[[list[memoryview]], int]
    """Read into a buffer, the only one of a list; return how many bytes came, 0 at the end."""

    def readable(self, timeout: float | None) -> bool:
        """Wait until there is something to read, for as many seconds; return whether there is."""

    there: Callable[[], object]
    """Return, without waiting, whether there is something to read."""


class _Pipe:
    """One end of a pipe, which it owns."""

    def __init__(self, end: connection.Connection) -> None:
        self._end = end
        self._descriptor = end.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        # The kernel's calls themselves, because a round trip is measured in microseconds.
        self.write: Callable[[Any], int] = partial(os.write, self._descriptor)
        self.write_all: Callable[[Sequence[Any]], int] = partial(os.writev, self._descriptor)
        self.read_into: Callable[[list[memoryview]], int] = partial(os.readv, self._descriptor)
        self.there: Callable[[], object] = partial(self._poll.poll, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Pipe, (self._end,)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        self._end.close()
        self._descriptor = -1
        self._poll = select.poll()
        self.write = partial(os.write, -1)
        self.write_all = partial(os.writev, -1)
        self.read_into = partial(os.readv, -1)
        self.there = partial(os.readv, -1, [])

    def block(self, flag: bool) -> None:
        os.set_blocking(self._descriptor, flag)

    def readable(self, timeout: float | None) -> bool:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "the pipe is closed")
        return bool(self._poll.poll(None if timeout is None else timeout * 1000))


class _Socket:
    """One end of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._descriptor = end.fileno()
        self.write: Callable[[Any], int] = end.send
        self.write_all: Callable[[Sequence[Any]], int] = partial(_send_all, end)
        self.read_into: Callable[[list[memoryview]], int] = partial(_receive, end)
        self.there: Callable[[], object] = partial(_there, end)

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = context.get_spawning_popen()
        context.assert_spawning(self)
        end: Any = self._end  # whose `share` only some systems have
        return _shared, (end.share(popen.pid),)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        self._end.close()
        self._descriptor = -1

    def block(self, flag: bool) -> None:
        self._end.setblocking(flag)

    def __del__(self) -> None:
        self._end.close()  # no other code does at a worker's end, and Python would warn

    def readable(self, timeout: float | None) -> bool:
        return bool(select.select([self._end], [], [], timeout)[0])


def _there(end: socket.socket) -> object:
    return select.select([end], [], [], 0)[0]


def _send_all(end: socket.socket, pieces: Sequence[Any]) -> int:
    sent = 0
    for piece in pieces:
        try:
            taken = end.send(piece)
        except BlockingIOError:
            if not sent:
                raise
            break
        sent += taken
        if taken < len(piece):
            break
    return sent


def _receive(end: socket.socket, targets: list[memoryview]) -> int:
    return end.recv_into(targets[0])


def _shared(data: bytes) -> _Socket:
    kind: Any = socket
    return _Socket(kind.fromshare(data))


def ends() -> tuple[connection.Connection, connection.Connection]:
    """Return a pipe that may be handed to a worker: the end to read from, and the end to write to."""
    reader, writer = platform.opened(os.pipe)
    return connection.Connection(reader, writable=False), connection.Connection(writer, readable=False)


def one_way() -> tuple[PipeEnd, PipeEnd]:
    """Return a link in one direction: the end to read from, and the end to write to."""
    if PIPES:
        reader, writer = ends()
        return _Pipe(reader), _Pipe(writer)
    there, here = platform.opened(socket.socketpair)
    return _Socket(there), _Socket(here)


class Waker:
    """Wakes a thread that waits for descriptors: `wake` it from anywhere, closed or not.

    A pair of sockets everywhere: an object that is closed knows it; a number could be another file by now.
    """

    def __init__(self) -> None:
        self._reader, self._writer = platform.opened(socket.socketpair)
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that is readable after `wake`."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the waiting thread; a second call before `drain` changes nothing."""
        with contextlib.suppress(OSError):  # full: it is awake anyway; closed: it is over
            self._writer.send(b"\0")

    def drain(self) -> None:
        """Read what `wake` has written, so that the descriptor is not readable any more."""
        with contextlib.suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Close both sockets."""
        self._reader.close()
        self._writer.close()


# -- ends of processes ------------------------------------------------------------------------------------

_ends: dict[int, Waker] = {}  # by descriptor, what a thread wakes when a process has ended


def exit_descriptor(worker: process.BaseProcess) -> tuple[int, bool]:
    """Return a descriptor that can be read when a process has ended, and whether it is to be closed."""
    if not PIPES:
        waker = Waker()
        told = threading.Thread(
            target=_await, args=(worker.sentinel, waker), name="sharedarray-end", daemon=True
        )
        try:
            told.start()
        except BaseException:
            waker.close()
            raise
        _ends[waker.fileno()] = waker
        return waker.fileno(), True
    if hasattr(os, "pidfd_open") and worker.pid is not None:
        with contextlib.suppress(OSError):
            return platform.opened(os.pidfd_open, worker.pid), True
    return worker.sentinel, False


def _await(sentinel: int, waker: Waker) -> None:
    connection.wait([sentinel])
    waker.wake()


def has_ended(descriptor: int, seconds: float) -> bool:
    """Wait for so many seconds until such a descriptor can be read; return whether it can."""
    if PIPES:
        return wait_readable(descriptor, seconds)
    return bool(select.select([descriptor], [], [], seconds)[0])


def wait_readable(descriptor: int, seconds: float | None) -> bool:
    """Wait for so many seconds until a descriptor is ready to read; return whether it is.

    `multiprocessing.connection.wait` never ends if a program's tests have stopped ``time.monotonic``.
    """
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    return bool(ready.poll(None if seconds is None else seconds * 1000))


def close_exit_descriptor(descriptor: int) -> None:
    """Close such a descriptor."""
    waker = _ends.pop(descriptor, None)
    if waker is None:
        os.close(descriptor)
    else:
        waker.close()
