"""The items that a consumer has in use: the holds of their slots, which end with the arrays in them.

When an array dies, the callback of a weak reference to it clears the hold. This callback is built from
functions of C only: Python runs no signal handler in it, so that no Ctrl-C is lost there. But it cannot wake
a producer that waits for the slot; `get` does so when it is called next. If the producer is known to wait as
the array is made, the callback is a function of Python that wakes it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from sharedarray import _sigint as sigint
from sharedarray._streams import words as w
from sharedarray._streams.block import PRODUCER, Block
from sharedarray._wakers import Waker

__all__ = ["Array", "Holds"]

Array: TypeAlias = np.ndarray[Any, Any]


class Holds:
    """The holds of one consumer.

    Attributes
    ----------
    column : numpy.ndarray
        For each slot, 1 if this consumer has its item in use.
    first : int
        The byte of the control words that holds the first slot; one each `ENTRIES` bytes follows.
    arrays : list
        For each slot, a weak reference to the array that begins there, or None.
    """

    def __init__(self, block: Block, waker: Waker, entry: int) -> None:
        number = (entry - w.ENTRY) // w.ENTRY_WORDS
        self.column = block.holds[:, number]
        self.first = block.tables.holds + number
        self.arrays: list[weakref.ref[Array] | None] = [None] * block.slots
        self._block, self._waker, self._entry = block, waker, entry
        self._words, self._bytes, self._wanted = block.words, block.bytes, entry + w.WANTED
        self._drops = [self._dropping(slot) for slot in range(min(block.slots, 64))]

    def _dropping(self, slot: int) -> Callable[[Any], object]:
        """Return the function that clears this consumer's hold of a slot."""
        return self._waker.clearing(self._bytes, self.first + slot * w.ENTRIES)

    def drop_of(self, slot: int) -> Callable[[Any], object]:
        """Return the callback for the end of the array in a slot."""
        if self._words[self._wanted]:
            return _Waking(self._dropping(slot), self._waker)
        return self._drops[slot] if slot < len(self._drops) else self._dropping(slot)

    def drop_of_several(self, slot: int, n: int) -> Callable[[Any], object]:
        """Return the callback for the end of the array in several slots."""
        clear = self._waker.clearing(self.column, slice(slot, slot + n))
        return _Waking(clear, self._waker) if self._words[self._wanted] else clear

    def recount(self) -> None:
        """Clear the holds of slots that no array has in use, after a call was broken off."""
        held = np.zeros(self._block.slots, bool)
        for slot, reference in enumerate(self.arrays):
            array = None if reference is None else reference()
            if array is not None:
                held[slot : slot + self._count(array)] = True
        self.column[~held] = 0

    def _count(self, array: Array) -> int:
        """Return the number of slots that an array spans."""
        return 1 if array.ndim == len(self._block.shape) else len(array)

    def leave(self) -> bool:
        """Free the consumer's entry, or let the last array in use do so; return whether it is free."""
        kept = [array for reference in self.arrays if reference and (array := reference()) is not None]
        if kept:
            _KeptItems(self._block, self._waker, self._entry, kept)
        else:
            self._block.clear(self._entry)
        return not kept


class _Waking:
    """The end of an array for whose slot the producer waits."""

    __slots__ = ("_clear", "_waker")

    def __init__(self, clear: Callable[[Any], object], waker: Waker) -> None:
        self._clear = clear
        self._waker = waker

    @sigint.finalizer
    def __call__(self, reference: Any) -> None:
        sigint.finalize(self._end, reference)

    def _end(self, reference: Any) -> None:
        self._clear(reference)
        if self._waker.index >= 0:
            self._waker.wake_once(PRODUCER)  # in any thread, also while another one waits


class _KeptItems:
    """Keeps the entry of a consumer that was closed, until the last array that it got is dropped."""

    def __init__(self, block: Block, waker: Waker, entry: int, arrays: list[Array]) -> None:
        self._block, self._waker, self._entry = block, waker, entry
        self._references = {id(array): weakref.ref(array, self._dropped) for array in arrays}
        _kept.add(self)

    @sigint.finalizer
    def _dropped(self, reference: Any) -> None:
        sigint.finalize(self._drop, reference)

    def _drop(self, reference: Any) -> None:
        # Two arrays may end at once, in two threads. There is no lock: a forked child would wait for ever for
        # one that a thread of its parent had. The thread that removes this object goes on.
        for key, known in list(self._references.items()):
            if known is reference:
                self._references.pop(key, None)
        if self._references:
            return
        try:
            _kept.remove(self)
        except KeyError:
            return
        if self._waker.index >= 0:
            self._block.clear(self._entry)
            self._waker.wake(PRODUCER)
            self._waker.release()


_kept: set[_KeptItems] = set()
