"""The messages between the pool and a worker, byte for byte.

Two one-way pipes join the pool to each worker. The order of the messages::

    pool                                              worker
      |                                                 |   starts, limits its threads, runs the initializer
      | <------------------------------- READY ---------|   or REFUSED (the initializer raised), then it ends
      |                                                 |
      |-- DEFINE f: a function ------------------------>|   once for each worker that calls it
      |-- CALLS of f: arguments of several calls ------>|   numbers and short text only
      |-- TASK: arguments of one call ----------------->|   of f, or with its function
      | <---------------- REPLIES: several outcomes ----|   small ones, in the order of the calls
      | <---------------- RESULT or ERROR: one outcome -|   with buffers or references to shared blocks
      |-- TAKEN --------------------------------------->|   for an outcome with the flag HOLDS
      |-- FORGET f ------------------------------------>|   the function is not needed any more
      |                                                 |
      | <------------------------ NEED: so many bytes --|   for a large result; the worker waits for
      |-- GRANT: a slot, or none ---------------------->|
      |                                                 |
      | <------------------------ DROPPED: so many -----|   calls that the pool had revoked
      |-- RETIRED: slots ------------------------------>|   their memory is freed: forget the mappings
      |-- RELEASED: blocks ---------------------------->|   the pool's process has released them
      |-- RELOAD: modules, and the path --------------->|   load these again if they are loaded
      |-- STOP ---------------------------------------->|   end in order: exit handlers, streams

**A counter of credits decides which process runs a call** (see `credits`). Its value is the number of calls
that the worker was sent and has not begun. The pool adds a credit before it sends a call; the worker takes
one before it begins a call, and without a credit the call is not its own any more. So the pool revokes calls
that wait behind a slow one without asking the worker, which may be in native code for minutes. The worker
takes calls from the front of its list, the pool from the back. The worker's list still has what was revoked;
until it has sent DROPPED for these calls, it is sent no others.

Each message is one frame, in the byte order of the machine, which both ends share::

     0      1       2         4      8      16              24      32      40
    +------+-------+---------+------+------+---------------+-------+-------+-------+--------+---------+
    | kind | flags | entries | item | task | stream length | began | ended | table | stream | inline  |
    | u8   | u8    | u16     | u32  | u64  | u64           | u64   | u64   |       |        | buffers |
    +------+-------+---------+------+------+---------------+-------+-------+-------+--------+---------+

``task`` of DEFINE, CALLS, TASK and FORGET is the number of the function, 0 for none. ``item`` of CALLS,
REPLIES and DROPPED is the number of calls. ``began`` and ``ended`` of outcomes are the times of the first and
the last one, in nanoseconds of the monotonic clock; ``began`` of NEED is the number of bytes.

The stream of a DEFINE, a TASK, a RESULT or an ERROR is a pickle (protocol 5), or in the format of `marshal`
(the flag PLAIN). The streams of CALLS and REPLIES are values in that format, one behind the other: tuples of
arguments, and outcomes. An outcome is a number or a text; a list that stands for a small array or a scalar of
NumPy's (see `codec`); a tuple with a pickle, and a second element if that is an exception's; or a tuple
whose third element is a list, tuple or dict of numbers and text.

The table has an entry for each buffer that the stream left out, and for a slot that is granted for the
result::

     0          8        12      16     24       32
    +----------+--------+-------+------+--------+--------+
    | slot     | handle | flags | size | offset | length |     40 bytes: u64 u32 u32 u64 u64 u64
    +----------+--------+-------+------+--------+--------+

Slot 0 means: inline, behind the stream. Any other is a piece of recycled memory (see `slots`), which the
worker opens by the pool's handle. Flags of an entry: ``FRESH``, the slot was never written to, so writing
through the file is faster than through a mapping. ``PRIVATE``, others read it as well: copy it, or map
it copy-on-write. ``RESULT_SLOT``, no buffer, but a slot for the result. ``STREAM``, the stream itself.

Flags of a frame. ``SHARES`` on a DEFINE or a TASK: it refers to shared blocks, so reference cycles that the
call leaves keep memory which other processes wait for, and an idle worker collects them. ``HOLDS`` on a
RESULT or an ERROR: it refers to shared blocks, and the worker keeps these alive until it receives TAKEN.
``PLAIN``: the format of `marshal`; on REPLIES: only numbers and text. ``LAZY`` on CALLS: the outcomes are not
awaited one by one. ``AFRESH`` on a DEFINE: load the function for each call anew, because it has data that a
call may change.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "AFRESH",
    "ENTRY",
    "FRESH",
    "HEADER",
    "HOLDS",
    "LAZY",
    "PLAIN",
    "PRIVATE",
    "RESULT_SLOT",
    "SHARES",
    "STREAM",
    "Buffer",
    "Entry",
    "Frame",
    "Kind",
    "encode",
    "entries_of",
    "new_entry",
]

HEADER = struct.Struct("=BBHIQQQQ")
ENTRY = struct.Struct("=QIIQQQ")

SHARES = 1
HOLDS = 2
AFRESH = 16
LAZY = 32
PLAIN = 64

FRESH = 1
PRIVATE = 2
RESULT_SLOT = 4
STREAM = 8

Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """The kind of a message."""

    READY = 1
    REFUSED = 2
    TASK = 3
    RESULT = 4
    ERROR = 5
    TAKEN = 6
    STOP = 7
    DEFINE = 8
    CALLS = 9
    FORGET = 10
    NEED = 11
    GRANT = 12
    DROPPED = 13
    RETIRED = 14
    REPLIES = 15
    RELEASED = 16
    RELOAD = 17


class Entry(NamedTuple):
    """The position of one buffer of a message, or a slot that is granted for a result."""

    slot: int
    handle: int
    flags: int
    size: int
    offset: int
    length: int


new_entry = tuple.__new__
"""To be called with `Entry` and its fields: it takes a third of the time of ``Entry(...)``."""


class Frame(NamedTuple):
    """One message as it was received."""

    kind: int
    flags: int = 0
    item: int = 0
    task: int = 0
    began: int = 0
    ended: int = 0
    stream: Buffer = b""
    entries: Sequence[Entry] = ()
    inline: Sequence[Buffer] = ()


def encode(
    kind: int,
    flags: int = 0,
    item: int = 0,
    task: int = 0,
    began: int = 0,
    ended: int = 0,
    stream: Buffer = b"",
    entries: Sequence[Entry] = (),
    inline: Sequence[Buffer] = (),
) -> list[Buffer]:
    """Return the pieces of one frame, in the order in which they are to be written.

    The pieces are the caller's own memory where they are large; nothing big is copied here.
    """
    head = HEADER.pack(kind, flags, len(entries), item, task, len(stream), began, ended)
    if entries:
        head += b"".join([ENTRY.pack(*entry) for entry in entries])
    if len(stream) < _JOINED:
        head += stream
        return [head, *inline] if inline else [head]
    return [head, stream, *inline]


def entries_of(table: Buffer) -> list[Entry]:
    """Return the entries of a table as it was received."""
    return [new_entry(Entry, fields) for fields in ENTRY.iter_unpack(table)]


# Bytes: below this, one copy is cheaper than a vectored write of several pieces. To copy 24 KiB takes 1 us;
# to keep the pieces of a frame and write them with one call takes 4 us.
_JOINED = 1 << 15
