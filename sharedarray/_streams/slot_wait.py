"""Waiting until a slot of a stream may be overwritten.

The producer writes the word WANTED of each consumer that is in its way, and then sleeps. These consumers wake
it when they take the next item. An array that a consumer drops frees its slot without a wake-up, so the
producer also looks from time to time.
"""

from __future__ import annotations

from sharedarray._clock import time
from sharedarray._spin import spin_wait
from sharedarray._streams import words as w
from sharedarray._streams.base import Full, ShutDown
from sharedarray._streams.block import party_of
from sharedarray._streams.slots import NO_SLOT, Slots
from sharedarray._wakers import ENDING, Fence, deadline_after, seconds_until

__all__ = ["SlotWait", "was_closed"]

_LOOKS = 0.001, 0.05  # seconds between two checks for arrays that consumers have dropped: first and longest


class SlotWait:
    """The waits of one producer.

    Attributes
    ----------
    fence : Fence
        The fence of the thread that has the turn.
    closing : bool
        Whether a thread closes the producer, so that no other one may wait.
    """

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.closing = False
        self._spin = spin_wait()
        self._token = time.monotonic_ns() | 1  # of the last sleep

    def slot_of(self, slots: Slots, timeout: float | None) -> int:
        """Wait until a slot may be overwritten, and return it.

        Raises
        ------
        queue.Full, ShutDown
            The time is over, or another thread closes the producer.
        """
        if timeout is not None and timeout <= 0:
            slots.clear_dead_in_the_way()
            found = slots.search()
            if found == NO_SLOT:
                raise _no_slot(slots)
            return found
        end = deadline_after(timeout)
        start = time.perf_counter()
        free = self._spin.poll(slots.next_seems_free) if self._spin.worthwhile() else False
        while True:
            slot = slots.search() if free else self._sleep(slots, end)
            if slot != NO_SLOT:
                self._spin.last = time.perf_counter() - start
                return slot
            free = False

    def _sleep(self, slots: Slots, end: float | None) -> int:
        """Sleep until a consumer gives up a slot, or one has died; return a slot if one is free then."""
        waker, words = slots.consumers.waker, slots.consumers.block.words
        waker.drain()
        entries = slots.in_the_way()
        self._token += 2
        for entry in entries:
            words[entry + w.WANTED] = self._token
        words[w.WAITING] = self._token
        self.fence()
        try:
            slot = slots.search()
            if slot != NO_SLOT or slots.clear_dead_in_the_way():
                return slot
            left = seconds_until(end)
            if self.closing:
                raise was_closed(slots.consumers.block.mapping.name)
            if left is not None and left <= 0:
                raise _no_slot(slots)
            parties = [party_of(entry) for entry in entries]
            pause, longest = _LOOKS
            asked = False
            while not (gone := waker.wait(parties, pause if left is None else min(pause, left))):
                left = seconds_until(end)
                if waker.woken or left == 0 or slots.any_seems_free():
                    break
                if pause == longest and not asked:
                    self._ask_to_collect(slots, entries)
                    asked = True
                pause = min(2 * pause, longest)
            if gone and not slots.clear_dead_in_the_way():
                time.sleep(ENDING)
            return NO_SLOT
        finally:
            words[w.WAITING] = 0
            for entry in entries:
                words[entry + w.WANTED] = 0

    def _ask_to_collect(self, slots: Slots, entries: list[int]) -> None:
        """Let sleeping consumers collect items that they have in use only in cycles of references."""
        words = slots.consumers.block.words
        for entry in entries:
            words[entry + w.WANTED] = self._token | w.COLLECT
        self.fence()
        for entry in entries:
            if words[entry + w.ASLEEP]:
                slots.consumers.waker.wake(party_of(entry))


def _no_slot(slots: Slots) -> Full:
    block = slots.consumers.block
    pids = [block.words[entry + w.PID] for entry in slots.in_the_way()]
    return Full(
        f"every slot of the stream {block.mapping.name!r} has an item that a consumer needs",
        name=block.mapping.name,
        found="consumers that are behind, or keep items: " + (", ".join(map(str, pids)) or "none"),
        next_step="wait for longer, make the stream with more slots, or with full='drop_oldest'",
    )


def was_closed(name: str) -> Exception:
    """Return the error of a call of a closed producer."""
    return ShutDown(f"the stream {name!r} was closed by this producer")
