"""The consumers of a stream as its producer sees them: which live, which items they need, which sleep."""

from __future__ import annotations

from sharedarray._streams import words as w
from sharedarray._streams.block import Block, party_of
from sharedarray._streams.handover import Former
from sharedarray._wakers import Fence, Waker

__all__ = ["KnownConsumers"]

_ALL = 1 << 62  # a position above all others: no consumer needs any item


class KnownConsumers:
    """The producer's knowledge of the consumers, as of the last call of `look_around`.

    A consumer that joins changes the word JOINED of the block. So the producer compares this word with
    `joined` before it relies on anything here.

    Attributes
    ----------
    block : Block
        The stream's block.
    waker : Waker
        The producer's waker.
    joined : int
        The word JOINED at the last look.
    entries : list of int
        The consumers' entries.
    hold_words : range
        The words of a slot's holds in which these consumers note theirs.
    least : int
        The least position that a lossless consumer needed when `find_least` was called last.
    skipped : bool
        Whether a slot was skipped because of a consumer, which may be dead.
    former : Former or None
        The generation that this stream has replaced, while its lossless consumers have not gone on.
    """

    def __init__(self, block: Block, waker: Waker, fence: Fence, former: Former | None) -> None:
        self.block, self.waker = block, waker
        self.former = former
        self._words = block.words
        self.forget(fence)

    def forget(self, fence: Fence) -> None:
        """Forget all but the former generation: at first, and after a call was broken off."""
        self._fence = fence
        self.joined = self.least = -1
        self.entries: list[int] = []
        self.hold_words = range(0)
        self.skipped = False
        self._woken: dict[int, int] = {}  # by entry, the token of the sleep from which it was woken last

    def look_around(self) -> None:
        """Read from the block which consumers there are, and which items they need."""
        words = self._words
        self._fence()
        self.joined = words[w.JOINED]
        self._fence()
        self.entries = self.block.entries()
        if self.skipped:
            self.skipped = False
            for entry in self.entries[:]:
                self.clear_if_dead(entry)
        last = max(self.entries, default=w.ENTRY)
        self.hold_words = range((last - w.ENTRY) // w.ENTRY_WORDS // w.WORD + 1)
        self.find_least()

    def find_least(self) -> int:
        """Return the least position that a lossless consumer needs."""
        words = self._words
        least: int = _ALL
        for entry in self.entries:
            if words[entry + w.LOSSLESS]:
                following = words[entry]
                if following and following <= least:
                    least = following - 1
        if self.former is not None:
            if self.former.has_consumers():
                least = 0
            else:
                self.release_former()
        self.least = least
        return least

    def release_former(self) -> None:
        """Release the generation that this stream has replaced, if there is one."""
        if self.former is not None:
            self.former.release()
            self.former = None

    def clear_if_dead(self, entry: int) -> bool:
        """Free the entry of a consumer if it has died; return whether it has."""
        party = party_of(entry)
        if not self.waker.take(party):
            return False
        try:
            if self._words[entry + w.PID]:
                self.block.clear(entry)
            self.joined = -1
        finally:
            self.waker.give_back(party)
        self.waker.forget(party)
        self.entries = [each for each in self.entries if each != entry]
        self.find_least()
        return True

    def wake(self) -> None:
        """Wake the consumers that sleep. There was a fence since the last item was published."""
        words = self._words
        if words[w.JOINED] != self.joined:
            self.look_around()
        for entry in self.entries:
            token = words[entry + 2]
            if token and self._woken.get(entry) != token:
                self._woken[entry] = token
                self.waker.wake(party_of(entry))

    def wake_all(self) -> None:
        """Wake the consumers that sleep, also those that have joined since the last look."""
        self._fence()
        for party in self.block.sleepers():
            self.waker.wake(party)
