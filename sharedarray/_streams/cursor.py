"""A consumer's cursor: the position that it takes next, in one generation of a stream.

A lossless consumer needs every item from the position NEXT on, and the producer keeps them. Every consumer
has the items in use that it has got as arrays; HOLDS says so. It notes a hold first, and then goes on to the
next position, so that a slot is protected all the time. A consumer that is not lossless looks after that
if the item still is whole; see `sharedarray._streams.slots` for the other side.
"""

from __future__ import annotations

import numpy as np

from sharedarray._streams import words as w
from sharedarray._streams.block import PRODUCER, Block
from sharedarray._streams.holds import Array, Holds
from sharedarray._streams.joining import join
from sharedarray._wakers import Fence

__all__ = ["Cursor"]


class Cursor:
    """One consumer's cursor, and its part of the control words.

    The calls of a consumer use the attributes without methods in between, for speed.

    Parameters
    ----------
    block
        The block, of which this consumer becomes a party.
    wish, history, start
        As for `sharedarray._streams.joining.join`.
    fence
        The fence of the thread that has the turn.
    former
        The cursor from which the consumer goes on, in a former generation or in the parent of a forked child.

    Attributes
    ----------
    block : Block
        The generation's block.
    next : int
        The position that the consumer takes next.
    position, slot : int
        Those of the item that it took last, the first one of several; -1 before.
    lost : int
        Items that it has not got.
    answered : int
        The word WANTED for which this consumer has woken the producer last.
    entry, wanted : int
        The consumer's entry, and its word WANTED.
    """

    def __init__(
        self,
        block: Block,
        wish: bool | None,
        fence: Fence,
        *,
        history: int = 0,
        start: int = -1,
        former: Cursor | None = None,
    ) -> None:
        self.buffer = block.read_only()
        joined = join(block, wish, fence, history=history, start=start)
        self.waker, self.entry, self.lossless, self.next = joined
        self.position: int = -1 if former is None else former.position
        self.lost: int = 0 if former is None else former.lost
        if 0 <= start < self.next:
            self.lost += self.next - start
        self.slot = -1
        self.answered = 0
        self.block, self.words, self.bytes = block, block.words, block.bytes
        self.index, self._whole = block.tables.order, block.tables.whole
        self.wanted = self.entry + w.WANTED
        self.slots, self.shape, self.dtype = block.slots, block.shape, block.dtype
        self.offset, self.nbytes = block.offset, block.nbytes
        self.holds = Holds(block, self.waker, self.entry)
        self.first_hold = self.holds.first
        self._use(fence)
        self.answer()

    def _use(self, fence: Fence) -> None:
        self.fence, self.release, self.acquire = fence, fence.release, fence.acquire

    def answer(self) -> None:
        """Wake the producer if it waits."""
        self.fence()
        if self.words[w.WAITING]:
            self.waker.wake(PRODUCER)

    def repair(self, fence: Fence) -> None:
        """Read the state from the block, after a call was broken off."""
        self._use(fence)
        words = self.words
        words[self.entry + w.ASLEEP] = 0
        self.next = max(0, words[self.entry + w.NEXT] - 1)
        if self.position >= self.next and self.slot >= 0:
            self.holds.arrays[self.slot] = None  # of the call that was broken off: its array has no owner
            self.position = self.next - 1
        self.holds.recount()
        self.answered = 0
        self.answer()

    @property
    def time_ns(self) -> int:
        """Time at which the last item was published, in ns since 1970; 0 without one."""
        return self.words[self.block.tables.times + self.slot] if self.slot >= 0 else 0

    def has_next(self) -> bool:
        """Return whether an item was published at the next position."""
        return self.words[w.HEAD] > self.next

    # -- taking items

    def pin(self) -> tuple[int, int, int] | None:
        """Use the next item that is still there, and return its position, its slot, and how many were lost.

        Return None if the producer has dropped all items so far; the cursor is behind them then.
        """
        words, slots, begun = self.words, self.slots, self.next
        position = begun
        while True:
            head = words[w.HEAD]
            position = max(position, head - slots)
            if position >= head:
                self.skip(position)
                return None
            if not w.ORDERED:
                self.fence()
            found = words[self.index + position % slots]
            slot = found & w.NO_SLOT
            if found >> w.SLOT_BITS == position + 1 and slot < slots:
                self.position, self.slot = position, slot
                if self._hold(slot, position):
                    return position, slot, position - begun
            position += 1

    def _hold(self, slot: int, position: int) -> bool:
        """Mark a slot as in use; return False if it was overwritten, and then do not."""
        place = self.first_hold + slot * w.ENTRIES
        self.bytes[place] = 1
        if self.lossless:
            return True
        self.release()
        self.acquire()
        if self.words[self._whole + slot] == position + 1:
            return True
        self.bytes[place] = 0
        return False

    def skip(self, position: int) -> None:
        """Go on to a position; the items before it are lost."""
        self.lost = self.words[self.entry + w.LOST] = self.lost + position - self.next
        self.words[self.entry + w.NEXT] = position + 1
        self.next = position

    def newest(self, head: int) -> tuple[int, int]:
        """Use the newest item that is there, and return its position and slot; -1 if there is none."""
        words, slots = self.words, self.slots
        for position in range(head - 1, max(self.next, head - slots) - 1, -1):
            found = words[self.index + position % slots]
            slot = found & w.NO_SLOT
            if found >> w.SLOT_BITS == position + 1 and slot < slots:
                self.position, self.slot = position, slot
                if self._hold(slot, position):
                    return position, slot
        return -1, -1

    def adjacent(self, position: int, slot: int, most: int) -> int:
        """Use the items in the slots behind one that is in use; return how many there are with it."""
        block, slots = self.block, self.slots
        place = position % slots
        n = min(self.words[w.HEAD] - position, most, slots - slot, slots - place)
        if n < 2:
            return 1
        found = block.index[place : place + n]
        right = found == found[0] + w.STEPS[:n]
        if not right.all():
            n = int(right.argmin())
        if n < 2:
            return 1
        column = self.holds.column
        column[slot : slot + n] = 1
        if not self.lossless:
            self.release()
            self.acquire()
            whole = block.whole[slot : slot + n] == np.uint64(position + 1) + w.RAMP[:n]
            if not whole.all():
                kept = max(1, int(whole.argmin()))  # the first is in use already
                column[slot + kept : slot + n] = 0
                n = kept
        return n

    def array(self, slot: int, n: int) -> Array:
        """Return the items in several slots as one array."""
        return np.ndarray((n, *self.shape), self.dtype, self.buffer, self.offset + slot * self.nbytes)

    # -- the end

    def leave(self) -> None:
        """Leave the stream; the items in use stay."""
        self.words[self.entry + w.LOSSLESS] = 0
        self.words[self.entry + w.NEXT] = 0
        free = self.holds.leave()
        self.answer()
        if free:
            self.waker.release()
        self.block.mapping.release()

    def leave_former(self) -> None:
        """Leave a replaced generation, whose slots are not overwritten any more."""
        self.block.clear(self.entry)
        self.waker.release()
        self.block.mapping.release()
