"""Arrays that a pool closes when it ends, unless they were dropped before."""

from __future__ import annotations

import threading
import weakref

from sharedarray._array.array import SharedArray


class _Alive(weakref.ref[SharedArray]):
    """A reference that is equal to itself alone, for a set."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class WeakArrays:
    """Arrays that are closed together, as far as they still live. They are not kept alive.

    The set forgets an array without running Python code, unlike `weakref.WeakValueDictionary`: freeing the
    array's memory takes long, and a Ctrl-C that came meanwhile would be raised in that code, and be ignored.
    """

    def __init__(self) -> None:
        self._alive: set[_Alive] = set()
        self._closing = threading.Lock()

    def add(self, array: SharedArray) -> SharedArray:
        """Add an array, and return it."""
        self._alive.add(_Alive(array, self._alive.discard))
        return array

    def close(self) -> None:
        """Close all."""
        with self._closing:
            for reference in self._alive.copy():
                array = reference()
                if array is not None:
                    array.close()
