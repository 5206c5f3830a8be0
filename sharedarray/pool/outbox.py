"""Where a worker puts small answers that it has not sent yet, so that its death cannot lose them.

A write to a pipe costs more than a small task, so a worker sends small answers many at a time. If they were
in its own memory until then, the death of a worker would lose the results of tasks that were done, besides
the one that it died of. So they are in a page of shared memory, an *outbox*, which the pool reads when a
worker has ended. What it finds there may have been sent already, if the worker was killed between the writing
and the clearing; the pool can tell.

It looks there as well when nothing has come from a worker for a while: native code that keeps the interpreter
to itself keeps the worker from sending what it has.

The outbox is a file without a name, as recycled memory is, and opened by the worker in the same way::

     0        8       16       24
    +--------+-------+--------+--------+-----------------------------------------------+
    | length | row   | index  | sent   | what is not sent: `length` bytes              |
    | u64    | u64   | u64    |        |   row 0: whole frames (see `messages`)        |
    +--------+-------+--------+--------+   else: values of that row, from `index` on   |
                                       +-----------------------------------------------+

``sent`` counts the times that it was cleared: while that stays the same, things are only added.

The values are in the format of `marshal`, which writes numbers and text in a third of the time of pickle, and
is the same at both ends.
"""

from __future__ import annotations

import io
import marshal
import mmap
import os
import pickle
import struct

from sharedarray._platform import platform
from sharedarray.pool.messages import HEADER, Frame, Kind
from sharedarray.pool.recycling import unnamed

__all__ = ["SIZE", "make", "opened", "unsent"]

# Bytes of an outbox: with its head, a whole number of pages of any size that is usual. A full one is sent.
SIZE = 1 << 14
HEAD = struct.Struct("=QQQQ")


def make() -> int:
    """Return the open file of a new outbox; -1 where there is no room, or no way for a worker to open it."""
    handle = unnamed(SIZE)
    if handle is None:
        return -1
    try:
        platform.write(
            handle, 0, [memoryview(bytes(SIZE))]
        )  # so that there are pages, whatever happens later
    except OSError:
        os.close(handle)
        return -1
    return handle


def opened(handle: int, pool: int) -> mmap.mmap | None:
    """Return the outbox of this worker, which the pool's process has open as ``handle``."""
    path = platform.path_of(handle, pool) if handle >= 0 else None
    if path is None:
        return None
    own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(own, SIZE)
    finally:
        os.close(own)


def unsent(handle: int, row: int) -> list[Frame]:
    """Return what is in the outbox of a worker.

    Parameters
    ----------
    handle
        The pool's.
    row
        The number of the task that the worker is at, as far as the pool knows.

    Returns
    -------
    list of Frame
        Answers, of which some may have arrived already.
    """
    if handle < 0:
        return []
    length, of, index, sent = HEAD.unpack(os.pread(handle, HEAD.size, 0))
    body = os.pread(handle, length, HEAD.size)
    if not length or HEAD.unpack(os.pread(handle, HEAD.size, 0))[3] != sent:
        return []  # or it is being sent at this very moment
    if not of:
        return _frames(body)
    if of != row:
        return []
    values = _values(body)
    stream = pickle.dumps((index, values), pickle.HIGHEST_PROTOCOL)
    return [Frame(Kind.RESULTS, item=len(values), task=row, stream=stream)]


def _frames(body: bytes) -> list[Frame]:
    found, at = [], 0
    while at < len(body):
        kind, flags, _, item, task, length, began, ended = HEADER.unpack_from(body, at)
        at += HEADER.size
        found.append(Frame(kind, flags, item, task, began, ended, body[at : at + length]))
        at += length
    return found


def _values(body: bytes) -> list[object]:
    file = io.BytesIO(body)
    found: list[object] = []
    while file.tell() < len(body):
        found.append(marshal.load(file))
    return found
