"""Joining a stream as a consumer: an entry of the block, and the position to begin with."""

from __future__ import annotations

import gc
import os
from typing import NamedTuple

from sharedarray import _errors as errors
from sharedarray._streams import words as w
from sharedarray._streams.block import Block, party_of
from sharedarray._wakers import Fence, Waker

__all__ = ["ALL", "Joined", "join"]

ALL = 1 << 62  # as `history`: every item that is still there


class Joined(NamedTuple):
    """A consumer's waker and entry, whether the producer waits for it, and the position it begins with."""

    waker: Waker
    entry: int
    lossless: bool
    position: int


def join(block: Block, wish: bool | None, fence: Fence, *, history: int, start: int) -> Joined:
    """Take an entry, and find the position to begin with.

    Parameters
    ----------
    wish
        Whether the consumer asked to be lossless; None for no wish.
    history, start
        Begin so many items back; or with the position `start`, if that is not negative.
    """
    if block.drops and wish:
        raise ValueError(f"the stream {block.mapping.name!r} drops items, so no consumer of it is lossless")
    lossless = not block.drops if wish is None else wish
    waker = block.waker()
    words = block.words
    try:
        entry = _claim_entry(block, waker)
        block.clear(entry)
        head = words[w.HEAD]
        wanted = max(0, head - history) if start < 0 else start
        words[entry + w.NEXT] = wanted + 1
        words[entry + w.LOSSLESS] = lossless
        words[entry + w.PID] = os.getpid()
        fence()
        words[w.JOINED] = block.random()
        fence()
        # The producer sees this entry before it overwrites anything that is whole from now on.
        head = words[w.HEAD]
        first = min(head, max(0, head - block.slots, head - history if start < 0 else start))
        position = _first_whole(block, first, head)
        words[entry + w.NEXT] = position + 1
    except BaseException:
        waker.release()
        raise
    return Joined(waker, entry, lossless, position)


def _first_whole(block: Block, first: int, head: int) -> int:
    """Return the least position from `first` on, from which on all items up to `head` are whole."""
    words, slots, (index, whole, _, _, _) = block.words, block.slots, block.tables
    position = head
    while position > first:
        found = words[index + (position - 1) % slots]
        slot = found & w.NO_SLOT
        if found >> w.SLOT_BITS != position or slot >= slots or words[whole + slot] != position:
            break
        position -= 1
    return position


def _claim_entry(block: Block, waker: Waker) -> int:
    """Return the first word of an entry that no consumer has, and become its party."""
    for again in (True, False):
        for number in range(w.ENTRIES):
            entry = w.ENTRY + number * w.ENTRY_WORDS
            if waker.claim(party_of(entry)):
                return entry
        if again:
            gc.collect()  # closed consumers keep their entries until their items are dropped
    raise errors.LimitError(
        f"the stream {block.mapping.name!r} has {w.ENTRIES} consumers",
        name=block.mapping.name,
        found=f"{w.ENTRIES} consumers",
        expected="one entry that is free",
        next_step="close a consumer, or let one process hand items on",
    )
