r"""The control words of a stream's block, behind its data.

::

    header page(s)   data: slots × shape      to a page   control words, 8 bytes each
    \x93NUMPY …      an .npy array that        zeros       fixed, producer's, joiners', entries, tables
                     every reader understands

=============  =========  ======================================================================
word           written by  meaning
=============  =========  ======================================================================
MAGIC          maker      `STREAM`: the words are those of a stream, in this format
SLOTS          maker      number of slots
DROPS          maker      1 if the producer drops the oldest items, 0 if it waits for consumers
FIELDS         maker      1 if the fields of an item's dtype are its arrays
HEAD           producer   number of items published so far: the next one has this position
END            producer   0, or 1 + the position behind the last item
SESSION        producer   how many producers there have been; 0 while the block is made
PRODUCER       producer   its pid
MOVED          producer   1 if the name leads to the next generation of the stream
WAITING        producer   a token while it sleeps, which is a number that no other sleep has; else 0
JOINED         a joiner   a random number that each consumer writes when it joins
=============  =========  ======================================================================

A consumer has one of `ENTRIES` entries of 8 words. It may write them while it has the lease of party
``1 + number`` of the block; the producer clears those of a consumer that has died, with that lease.

=============  =========  ======================================================================
NEXT           consumer   1 + the position that it takes next
LOSSLESS       consumer   1 if the producer has to keep this and all later items for it
ASLEEP         consumer   a token while it sleeps, or 0
PID            consumer   its pid, 0 if the entry is free
LOST           consumer   items that were overwritten before it took them, or that it skipped
WANTED         producer   a token while the producer sleeps because of this consumer, or 0; with the bit
                          `COLLECT`, if it has slept for long
=============  =========  ======================================================================

Tables, behind the entries:

- ``index``, a word at ``position % slots``: ``(1 + position) << 16 | slot``, or `NO_SLOT` for a dropped item;
- ``whole``, a word for each slot: 1 + the position of the item that is complete in this slot, or 0 while
  the slot is overwritten;
- ``times``, a word for each slot: nanoseconds since 1970;
- ``holds``, `ENTRIES` bytes for each slot: 1 if the consumer with this entry has the item in use.
"""

from __future__ import annotations

import platform as _machine
from typing import NamedTuple

import numpy as np

__all__ = [
    "ASLEEP",
    "COLLECT",
    "DROPS",
    "END",
    "ENTRIES",
    "ENTRY",
    "ENTRY_WORDS",
    "FIELDS",
    "HEAD",
    "HEADS",
    "JOINED",
    "LOSSLESS",
    "LOST",
    "MAGIC",
    "MOST_SLOTS",
    "MOVED",
    "NEXT",
    "NO_SLOT",
    "ORDERED",
    "PAGE",
    "PID",
    "PRODUCER",
    "RAMP",
    "SESSION",
    "SLOTS",
    "SLOT_BITS",
    "STEPS",
    "STREAM",
    "WAITING",
    "WANTED",
    "Tables",
]

# The value of MAGIC; the 7th byte is the version of the format.
STREAM = int.from_bytes(b"sastrm\x01\x00", "little")
PAGE = 4096
WORD = 8

MAGIC, SLOTS, DROPS, FIELDS = range(4)
HEAD, END, SESSION, PRODUCER, MOVED = range(8, 13)  # each group of words has a cache line of its own
JOINED = 16
WAITING = 24

ENTRY, ENTRIES, ENTRY_WORDS = 32, 32, 8
NEXT, LOSSLESS, ASLEEP, PID, LOST, WANTED = range(6)
COLLECT = 1 << 63
_TABLES = ENTRY + ENTRIES * ENTRY_WORDS
HEADS = _TABLES * WORD
"""Bytes of the control words before the tables."""

SLOT_BITS = 16
NO_SLOT = (1 << SLOT_BITS) - 1
MOST_SLOTS = NO_SLOT

RAMP = np.arange(MOST_SLOTS + 1, dtype=np.uint64)
STEPS = RAMP * np.uint64((1 << SLOT_BITS) + 1)  # between the entries of the index for items in adjacent slots

ORDERED = _machine.machine().lower() in ("x86_64", "amd64", "i386", "i686")
"""True if the processor reorders neither stores nor loads, as x86. Others need more fences."""


class Tables(NamedTuple):
    """The offsets of the tables of a block with so many slots.

    Attributes
    ----------
    order, whole, times : int
        The first words of index, whole and times.
    holds : int
        The byte at which the holds start, from the first control word on.
    nbytes : int
        Bytes of all control words.
    """

    order: int
    whole: int
    times: int
    holds: int
    nbytes: int

    @classmethod
    def of(cls, slots: int) -> Tables:
        """Return the offsets for a number of slots."""
        index = _TABLES
        whole = index + slots
        times = whole + slots
        holds = (times + slots) * WORD
        return cls(index, whole, times, holds, holds + slots * ENTRIES)
