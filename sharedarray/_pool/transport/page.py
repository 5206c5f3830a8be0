"""The page of a worker's replies that are not sent yet, so that its death cannot lose them.

A write to a pipe costs more than a short call, so a worker sends the replies to short calls many at a time.
Until then each of them is also in a page of shared memory, which the pool reads when the worker has ended.
What the pool finds there may have been sent already: the page tells how many outcomes there were before.

The page is a file without a name, as recycled memory is, and the worker opens it in the same way::

     0         8         16
    +---------+---------+------------------------------------------------------------+
    | first   | count   | `count` outcomes, each in the format of `marshal`          |
    | u64     | u64     | (see `messages`)                                           |
    +---------+---------+------------------------------------------------------------+

``first`` is how many outcomes of this worker come before those in the page. The worker writes an outcome
before the count that includes it, and sets the count to 0 before it changes ``first``.

A worker that is at its end may have written anything here. So codes, lengths and counts are checked; a page
that does not fit is ignored, and the calls end as those of a dead worker do.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

from sharedarray._platform import platform
from sharedarray._pool.transport.memory import unnamed

__all__ = ["HEAD", "SIZE", "make", "opened", "read"]

# Bytes of a page: a whole number of the system's pages of any usual size. A full one is sent.
SIZE: Final = 1 << 14
HEAD: Final = struct.Struct("=QQ")

# Type codes of format 2 of marshal: without content; with so many bytes of content; with a length before it.
_EMPTY: Final = frozenset(b"NFT")
_FIXED: Final = {ord("i"): 4, ord("g"): 8, ord("y"): 16}
_SIZED: Final = frozenset(b"sut")
_DIGITS: Final = ord("l")  # an integer, in digits of 15 bits
_NESTED: Final = frozenset(b"([")
_DICT, _NULL = ord("{"), ord("0")  # keys and values in turn, and what is behind the last one
# Levels of lists and tuples that outcomes have.
_DEEPEST: Final = 4


def make() -> int:
    """Return the open file of a new page; -1 if there is no space, or workers cannot open it."""
    handle = unnamed(SIZE)
    if handle is None:
        return -1
    try:
        platform.write(handle, 0, [memoryview(bytes(SIZE))])  # the memory is there, whatever happens later
    except OSError:
        platform.close(handle)
        return -1
    return handle


def opened(handle: int, pool: int) -> mmap.mmap | None:
    """Return the mapped page of this worker, which the pool's process has open as ``handle``."""
    path = platform.path_of(handle, pool) if handle >= 0 else None
    if path is None:
        return None
    own = platform.open_path_of(path)
    try:
        return platform.map(mmap.mmap, own, SIZE, "r+")
    finally:
        platform.close(own)


def read(handle: int, answered: int) -> tuple[int, bytes]:
    """Return how many outcomes of a dead worker were not sent, and these.

    Parameters
    ----------
    handle
        The page, in the pool's process.
    answered
        How many outcomes of the worker have arrived.
    """
    if handle < 0:
        return 0, b""
    try:
        data = platform.read(handle, SIZE)
        first, count = HEAD.unpack_from(data)
        if not count or not first <= answered < first + count or count > SIZE:
            return 0, b""
        start = at = HEAD.size
        for index in range(count):
            if index == answered - first:
                start = at
            at = _end_of(data, at)
        return first + count - answered, data[start:at]
    except (ValueError, IndexError, struct.error, OSError):
        return 0, b""


def _end_of(data: bytes, at: int, level: int = 0) -> int:
    """Return where the value at an offset ends.

    Raises
    ------
    ValueError, IndexError, struct.error
        There is no value as workers write them.
    """
    code = data[at]
    at += 1
    if code in _EMPTY:
        return at
    if code == _DICT and level < _DEEPEST:
        while data[at] != _NULL:
            at = _end_of(data, at, level + 1)
        return at + 1
    if code in _FIXED:
        end = at + _FIXED[code]
    else:
        (length,) = _length.unpack_from(data, at)
        at += 4
        if code in _SIZED:
            end = at + length
        elif code == _DIGITS:
            end = at + 2 * abs(length)
        elif code in _NESTED and level < _DEEPEST and 0 <= length <= SIZE:
            for _ in range(length):
                at = _end_of(data, at, level + 1)
            end = at
        else:
            raise ValueError("no outcome of a call")
    if not at <= end <= len(data):
        raise ValueError("the outcome is cut off")
    return end


_length = struct.Struct("<i")
