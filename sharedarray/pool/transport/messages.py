"""What the pool and a worker say to each other, byte for byte.

Two one-way pipes join the pool to each worker. The order of the talk::

    pool                                              worker
      |                                                 |   starts, limits its threads, runs the initializer
      | <------------------------------- READY ---------|   or REFUSED (the initializer raised), then it ends
      |                                                 |
      |-- TASK n: (function, args, kwargs) ------------>|   several may be under way at a time
      | <------------------------ RESULT n or ERROR n --|
      |-- TAKEN n ------------------------------------->|   only for an answer that says HOLDS
      |                                                 |
      |-- CALL c: a function for many tasks ----------->|   once for each worker that has part in a call
      |-- RUN n: arguments of several items of c ------>|
      | <---------- RESULTS, or RESULT or ERROR of one -|   for the items, in their order
      |-- OVER c -------------------------------------->|   the function is not needed any more
      |                                                 |
      | <------------------------ NEED: so many bytes --|   for a large result; the task waits for
      |-- GRANT: a slot, or none ---------------------->|
      |                                                 |
      | <------------------------ DROPPED: so many -----|   items that the pool had taken back
      |-- RETIRED: slots ------------------------------>|   their memory is gone, forget the mappings
      |-- RELOAD: modules, and the path ---------------->|   load these anew, if they are there
      |-- STOP ---------------------------------------->|   ends in order: exit handlers, streams

**Who runs an item is decided by a semaphore**, one for each worker. Its value is the number of items which
the worker has been given and has not begun. The pool raises it before it writes the frame; the worker lowers
it before it begins an item, and where it cannot, the item is not the worker's any more. So the pool takes
back what lies behind a slow item by lowering it too, without asking the worker, who may be busy in native
code for minutes. Both take without waiting: the worker from the front of its list, the pool from the back.
The worker's list still has what was taken back; until it has said DROPPED for these, it is given nothing.

Each message is one frame, in the byte order of the machine, for both ends are on it::

     0      1       2         4      8      16              24      32      40
    +------+-------+---------+------+------+---------------+-------+-------+-------+--------+---------+
    | kind | flags | entries | item | task | stream length | began | ended | table | stream | inline  |
    | u8   | u8    | u16     | u32  | u64  | u64           | u64   | u64   |       |        | buffers |
    +------+-------+---------+------+------+---------------+-------+-------+-------+--------+---------+

The stream is a pickle (protocol 5). The table has an entry for each buffer that the pickle left out, and for
a slot that is lent for the result::

     0          8        12      16     24       32
    +----------+--------+-------+------+--------+--------+
    | slot     | handle | flags | size | offset | length |     40 bytes: u64 u32 u32 u64 u64 u64
    +----------+--------+-------+------+--------+--------+

Slot 0 means: inline, behind the stream. Any other is a piece of recycled memory (see `slots`), which the
worker opens by the pool's handle. Flags of an entry: ``FRESH``, nobody has written to the slot yet, so that
writing through the file is quicker than through a mapping. ``PRIVATE``, others read it as well: copy it,
or map it copy-on-write. ``ROOM``, not a buffer, but a slot for the result. ``STREAM``, the stream itself.

Flags of a frame. ``SHARES`` on a TASK: its arguments lead to shared blocks, so what the task leaves behind in
reference cycles keeps memory that others wait for, and an idle worker looks for it. ``HOLDS`` on a RESULT or
an ERROR: it carries references to shared blocks, and the worker keeps these alive until it hears TAKEN.
``PARTS`` on a TASK: the stream is a row of pickles with one memo, the function and then each argument, so
that the pool knows which argument made it how long. ``PLAIN`` on a TASK: the stream is no pickle but in the
format of `marshal`: the function's module and name, the keywords, and a list of the arguments, in which
tuples stand for shared arrays (see `codec`). On a RESULT: so is the result, a number or a text.
``OF_CALL`` on a TASK: the function is that of a CALL, whose number is in ``item``. ``LAZY`` on a RUN: nobody
waits for each answer, several may come together. ``AFRESH`` on a CALL: load the function anew for each item,
for it brings data along that a task may change.

A worker holds small answers back for a moment, to send many in one write (see `outbox`). RESULTS has those
of ``item`` items of a row: the position of the first within the row, and a list. That stream and the one of
RUN, a list of tuples of arguments, are in the format of `marshal`; there are only numbers and text in them.

``began`` and ``ended`` of an answer are the times of the item, in nanoseconds of the monotonic clock. A NEED
has the bytes in ``began``.
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
    "OF_CALL",
    "PARTS",
    "PLAIN",
    "PRIVATE",
    "ROOM",
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
PARTS = 4
OF_CALL = 8
AFRESH = 16
LAZY = 32
PLAIN = 64

FRESH = 1
PRIVATE = 2
ROOM = 4
STREAM = 8

Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """What a frame says."""

    READY = 1
    REFUSED = 2
    TASK = 3
    RESULT = 4
    ERROR = 5
    TAKEN = 6
    STOP = 7
    CALL = 8
    RUN = 9
    OVER = 10
    NEED = 11
    GRANT = 12
    DROPPED = 13
    RETIRED = 14
    RESULTS = 15
    LEFT = 16
    RELOAD = 17


class Entry(NamedTuple):
    """Where one buffer of a message is, or a slot that is lent."""

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


# Bytes: below this, one copy is cheaper than a second entry in the list of a vectored write.
_JOINED = 4096
