"""The slots of a stream as its producer sees them: which may be overwritten, and publishing items.

A slot may be overwritten if its item lies before the least position that a lossless consumer needs, and if no
consumer has it in use. The producer first clears the slot's word ``whole``, and then reads which consumers
use the slot. A consumer first marks the slot as in use, and then reads ``whole``. Each has a fence in
between, so that at least one of the two sees the other. When a consumer joins, it changes the word JOINED, so
that the producer finds it.

The producer publishes an item in this order: it writes the data, the time, the entry in the index, the word
``whole`` of the slot, and HEAD. If it dies in between, the item does not exist, and the next item overwrites
its slot.
"""

from __future__ import annotations

import weakref

import numpy as np

from sharedarray._clock import time
from sharedarray._streams import words as w
from sharedarray._streams.known_consumers import KnownConsumers
from sharedarray._streams.writer import Writer
from sharedarray._wakers import Fence

__all__ = ["NO_SLOT", "Slots"]

NO_SLOT = -1  # instead of a slot, if every slot is in use
_WRITTEN = 1 << 63  # instead of a position, while the slot is being written


class Slots:
    """The slots of a stream.

    Parameters
    ----------
    consumers
        The stream's consumers.
    fence
        The fence of the thread that has the turn.

    Attributes
    ----------
    writers : dict
        By slot, the ``with`` statements that write to one, as weak references.
    head : int
        The position of the next item.
    last : int
        The slot of the last item; -1 without one.
    at : list of int
        The position of the item in each slot, -1 without one.
    """

    def __init__(self, consumers: KnownConsumers, fence: Fence) -> None:
        block = consumers.block
        self.consumers = consumers
        self.writers: dict[int, weakref.ref[Writer]] = {}
        self.slots = block.slots
        self._block, self._words = block, block.words
        self._index, self._whole, self._times, holds, _ = block.tables
        self._holds = holds // w.WORD
        self.read(fence)

    def read(self, fence: Fence) -> None:
        """Read from the block which items are in the slots: at first, and after a call was broken off.

        An item that was written but not published is forgotten.
        """
        self._fence, self._release, self._acquire = fence, fence.release, fence.acquire
        words, slots, whole = self._words, self.slots, self._whole
        self.head: int = words[w.HEAD]
        head, last, at = self.head, -1, [-1] * slots
        for position in range(max(0, head - slots), head):
            entry = words[self._index + position % slots]
            slot = entry & w.NO_SLOT
            if entry >> w.SLOT_BITS == position + 1 and slot < slots:
                last = slot
                if words[whole + slot] == position + 1:
                    at[slot] = position
        for slot in range(slots):
            if words[whole + slot] > head:
                words[whole + slot] = 0
        for slot, reference in list(self.writers.items()):
            writer = reference()
            if writer is None or writer.slot != slot:
                del self.writers[slot]
            else:
                at[slot] = _WRITTEN
        self.at, self.last = at, last

    @property
    def time_ns(self) -> int:
        """Time at which the last item was published, in ns since 1970; 0 without one."""
        return self._words[self._times + self.last] if self.last >= 0 else 0

    # -- finding one

    def find(self) -> int:
        """Return a slot to write to; `NO_SLOT` if none is free."""
        consumers = self.consumers
        if self._words[w.JOINED] != consumers.joined:
            consumers.look_around()
        slot = self.last + 1
        if slot >= self.slots:
            slot = 0
        at = self.at[slot]
        if (at < consumers.least or at < consumers.find_least()) and self._claim(slot):
            return slot
        return self.search()

    def search(self) -> int:
        """Look at every slot, from the one behind the last on; return one, or `NO_SLOT`."""
        consumers = self.consumers
        consumers.look_around()
        start = self.last + 1
        slot: int
        for slot in (*range(start, self.slots), *range(min(start, self.slots))):
            if self.at[slot] < consumers.least and self._claim(slot):
                return slot
        if self._free_abandoned():
            return self.search()
        return NO_SLOT

    def _claim(self, slot: int) -> bool:
        """Clear a slot's word ``whole``; return False if a consumer has the slot in use."""
        words, at, consumers = self._words, self._whole + slot, self.consumers
        words[at] = 0
        self._release()
        self._acquire()
        if words[w.JOINED] != consumers.joined:
            consumers.look_around()
        first = self._holds + slot * 4
        if not words[first] and self.at[slot] < consumers.least and not self._held(slot):
            self.at[slot] = _WRITTEN
            return True
        consumers.skipped = True
        words[at] = self.at[slot] + 1
        return False

    def _held(self, slot: int) -> bool:
        """Return whether a consumer has a slot in use."""
        words, at = self._words, self._holds + slot * (w.ENTRIES // w.WORD)
        return any(words[at + k] for k in self.consumers.hold_words)

    def _free_abandoned(self) -> bool:
        """Free slots whose writer was dropped, or broken off before it could be used."""
        found = False
        for slot, reference in list(self.writers.items()):
            if reference() is None:
                del self.writers[slot]
                self.at[slot] = -1
                found = True
        return found

    def find_several(self, most: int) -> tuple[int, int]:
        """Return the first of several adjacent slots to write to, and how many they are; else `find`'s."""
        slot = self.last + 1
        if slot >= self.slots:
            slot = 0
        n = min(most, self.slots - slot)
        consumers = self.consumers
        if self._words[w.JOINED] != consumers.joined:
            consumers.look_around()
        at = self.at[slot : slot + n]
        if max(at) >= consumers.least and max(at) >= consumers.find_least():
            least = consumers.least
            n = next(k for k, position in enumerate(at) if position >= least)
        if n > 1 and self._claim_several(slot, n):
            return slot, n
        return self.find(), 1

    def _claim_several(self, slot: int, n: int) -> bool:
        """Clear the words ``whole`` of slots; return False if a consumer has one of them in use."""
        block, joined = self._block, self.consumers.joined
        block.whole[slot : slot + n] = 0
        self._release()
        self._acquire()
        if self._words[w.JOINED] == joined and not block.hold_words[slot : slot + n].any():
            self.at[slot : slot + n] = [_WRITTEN] * n
            return True
        block.whole[slot : slot + n] = np.array(self.at[slot : slot + n], np.int64) + 1
        self.consumers.skipped = True
        return False

    def give_up(self, slot: int) -> None:
        """Free a slot that was found, but whose item is not to be published."""
        self.at[slot] = -1

    # -- without a claim, for waiting

    def next_seems_free(self) -> bool:
        """Return whether the next slot seems to be free; no fence is made."""
        slot = (self.last + 1) % self.slots
        return self.at[slot] < self.consumers.find_least() and not self._held(slot)

    def any_seems_free(self) -> bool:
        """Return whether any slot seems to be free; no fence is made."""
        least = self.consumers.find_least()
        free = [slot for slot, at in enumerate(self.at) if at < least]
        return bool(free) and not self._block.hold_words[free].any(axis=1).all()

    def in_the_way(self) -> list[int]:
        """Return the entries of the consumers that need the items in the slots, or have them in use."""
        consumers, words = self.consumers, self._words
        least = consumers.find_least()
        free = [slot for slot, at in enumerate(self.at) if at < least]
        holding = np.any(self._block.holds[free], axis=0).tolist()
        found = []
        for entry in consumers.entries:
            needs = words[entry + w.LOSSLESS] and words[entry] == least + 1
            if needs or holding[(entry - w.ENTRY) // w.ENTRY_WORDS]:
                found.append(entry)
        return found

    def clear_dead_in_the_way(self) -> bool:
        """Free the entry of a dead consumer that is in the way; return whether there was one."""
        return any(self.consumers.clear_if_dead(entry) for entry in self.in_the_way())

    # -- publishing

    def publish(self, slot: int) -> None:
        """Publish the item in a slot; without a slot, an item that was dropped."""
        words, position = self._words, self.head
        if not w.ORDERED:
            self._fence()  # the data are visible before the words of the item
        place = self._index + position % self.slots
        if slot >= 0:
            words[self._times + slot] = time.time_ns()
            words[place] = (position + 1) << 16 | slot
            words[self._whole + slot] = position + 1
        else:
            words[place] = (position + 1) << 16 | w.NO_SLOT
        if not w.ORDERED:
            self._fence()
        words[w.HEAD] = self.head = position + 1
        self._release()
        self._acquire()
        if slot >= 0:
            self.at[slot] = position
            self.last = slot
        self.consumers.wake()

    def publish_several(self, slot: int, n: int) -> None:
        """Publish the items in adjacent slots."""
        block, words, position = self._block, self._words, self.head
        if not w.ORDERED:
            self._fence()
        block.times[slot : slot + n] = time.time_ns()
        entries = w.STEPS[:n] + np.uint64((position + 1 << w.SLOT_BITS) + slot)
        first = position % self.slots
        before_end = min(n, self.slots - first)
        block.index[first : first + before_end] = entries[:before_end]
        if n > before_end:
            block.index[: n - before_end] = entries[before_end:]
        block.whole[slot : slot + n] = w.RAMP[:n] + np.uint64(position + 1)
        if not w.ORDERED:
            self._fence()
        words[w.HEAD] = self.head = position + n
        self._release()
        self._acquire()
        self.at[slot : slot + n] = range(position, position + n)
        self.last = slot + n - 1
        self.consumers.wake()
