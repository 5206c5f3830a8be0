"""What the pool and a worker say to each other, byte for byte.

One duplex pipe (a pair of connected sockets) joins the pool to each worker. The order of the talk::

    pool                                              worker
      |                                                 |   starts, limits its threads, runs the initializer
      | <------------------------------- READY ---------|   or REFUSED (the initializer raised), then it ends
      |                                                 |
      |-- TASK n: (function, args, kwargs) ------------>|   one at a time: only to a worker without a task
      | <-------------------- RESULT n, or ERROR n -----|
      |-- TAKEN n ------------------------------------->|   only for an answer that says HOLDS
      |                                                 |
      |-- STOP ---------------------------------------->|   ends in order: exit handlers, streams

Each message is one frame::

     0      1       2         4             8          16              24
    +------+-------+---------+-------------+----------+---------------+--------------------+--------+---------+
    | kind | flags | 0       | buffers (B) | task     | stream length | lengths of these   | stream | buffers
    |
    | u8   | u8    | u16     | u32         | u64      | u64           | u64 each           |        |
    |
    +------+-------+---------+-------------+----------+---------------+--------------------+--------+---------+

in the byte order of the machine, for both ends are on it. The stream is a pickle (protocol 5); the buffers
are what it left out of band, written from the memory of their owners and received into fresh, writable
memory.

Flags. ``SHARES`` on a TASK: its arguments lead to shared blocks, so what the task leaves behind in reference
cycles keeps memory that others wait for, and an idle worker looks for it. ``HOLDS`` on a RESULT or an ERROR:
it carries references to shared blocks, and the worker keeps these alive until it hears TAKEN.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["HEADER", "HOLDS", "LENGTH", "SHARES", "Buffer", "Frame", "Kind", "encode", "layout"]

HEADER = struct.Struct("=BBHIQQ")
LENGTH = struct.Struct("=Q")

SHARES = 1
HOLDS = 2

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


class Frame(NamedTuple):
    """One message as it was received."""

    kind: Kind
    task: int = 0
    flags: int = 0
    stream: Buffer = b""
    buffers: Sequence[Buffer] = ()


def encode(
    kind: Kind, task: int = 0, flags: int = 0, stream: Buffer = b"", buffers: Sequence[Buffer] = ()
) -> list[Buffer]:
    """Return the pieces of one frame, in the order in which they are to be written.

    The pieces are the caller's own memory where they are large; nothing big is copied here.
    """
    head = HEADER.pack(kind, flags, 0, len(buffers), task, len(stream))
    if not buffers:
        return [head + stream] if len(stream) < _JOINED else [head, stream]
    lengths = struct.pack(f"={len(buffers)}Q", *(len(buffer) for buffer in buffers))
    return [head + lengths, stream, *buffers]


def layout(lengths: Buffer) -> list[int]:
    """Return the lengths of the buffers from the table that stands behind the header."""
    return list(struct.unpack(f"={len(lengths) // LENGTH.size}Q", lengths))


# Bytes: below this, one copy is cheaper than a second entry in the list of a vectored write.
_JOINED = 4096
