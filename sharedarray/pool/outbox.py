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
    | u64    | u64   | u64    | u64    |   row 0: whole frames (see `messages`)        |
    +--------+-------+--------+--------+   else: values of that row, from `index` on   |
                                       +-----------------------------------------------+

``sent`` counts the times that it was cleared: while that stays the same, things are only added.

A worker that is at its end may have written anything here. So the lengths, kinds and types are checked; what
does not fit is ignored, and its tasks end as those of a dead worker do.

The values are in the format of `marshal`, which writes numbers and text in a third of the time of pickle, and
is the same at both ends. A list in that format is nothing but the number of its elements and then these, one
after the other; so what is here becomes the stream of a RESULTS frame without being looked at again.
"""

from __future__ import annotations

import io
import marshal
import mmap
import struct
from typing import Any

from sharedarray._platform import platform
from sharedarray.pool.transport.memory import unnamed
from sharedarray.pool.transport.messages import HEADER, Buffer, Frame, Kind

__all__ = ["HEAD", "SIZE", "make", "opened", "row_of", "unsent", "values"]

# Bytes of an outbox: with its head, a whole number of pages of any size that is usual. A full one is sent.
SIZE = 1 << 14
HEAD = struct.Struct("=QQQQ")

# Kinds of frames that a worker leaves here, and the type codes of the values of a row in format 2 of marshal:
# None, False, True, int, long int, float, complex, bytes, str, interned str.
_ANSWERS = frozenset((Kind.RESULT, Kind.ERROR, Kind.RESULTS))
_SCALARS = frozenset(b"NFTilgysut")
_MOST_INDEX = 1 << 62  # more items than any row has


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
        platform.close(handle)
        return -1
    return handle


def opened(handle: int, pool: int) -> mmap.mmap | None:
    """Return the outbox of this worker, which the pool's process has open as ``handle``."""
    path = platform.path_of(handle, pool) if handle >= 0 else None
    if path is None:
        return None
    own = platform.open_path_of(path)
    try:
        return platform.map(mmap.mmap, own, SIZE, "r+")
    finally:
        platform.close(own)


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
    try:
        length, of, index, sent = HEAD.unpack(platform.read(handle, HEAD.size))
        if not length or length > SIZE - HEAD.size:
            return []
        body = platform.read(handle, HEAD.size + length)[HEAD.size :]
        if len(body) != length or HEAD.unpack(platform.read(handle, HEAD.size))[3] != sent:
            return []  # it is being sent at this very moment
        if not of:
            return _frames(body)
        if of != row or index > _MOST_INDEX:
            return []
        return [Frame(Kind.RESULTS, task=row, stream=row_of(index, _count(body), body))]
    except (ValueError, TypeError, EOFError, struct.error, OSError):
        return []


def row_of(index: int, count: int, body: bytes | memoryview) -> bytes:
    """Return the stream of a RESULTS frame: so many values, each in marshal's format, from ``index`` on."""
    # A tuple of two: the index, and a list.
    return b"(\2\0\0\0" + marshal.dumps(index) + b"[" + count.to_bytes(4, "little") + body


def values(stream: Buffer) -> tuple[int, list[Any]]:
    """Return what is in the stream of a RESULTS frame: the index of the first value, and all of them."""
    index, found = marshal.loads(stream)
    return index, found


def _frames(body: bytes) -> list[Frame]:
    found, at = [], 0
    while at < len(body):
        kind, flags, _, item, task, length, began, ended = HEADER.unpack_from(body, at)
        at += HEADER.size
        if kind not in _ANSWERS or length > len(body) - at:
            raise ValueError("no frame of a worker")
        found.append(Frame(kind, flags, item, task, began, ended, body[at : at + length]))
        at += length
    return found


def _count(body: bytes) -> int:
    file, count = io.BytesIO(body), 0
    while (at := file.tell()) < len(body):
        if body[at] not in _SCALARS:  # a damaged list could be of any length
            raise ValueError("no value of a row")
        marshal.load(file)
        count += 1
    return count
