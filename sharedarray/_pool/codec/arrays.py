"""Plain arrays: what stands for them in a stream, and their memory beside it.

In a PLAIN stream an array of a usual type, or a scalar of NumPy's, is a list: its bytes, None if they are
beside the stream; the character of its dtype; its shape, None for a scalar; and its order. In a pickle, a
large array is a call of `array_from`.

A large array's memory is an `OutOfBandBuffer`: first in its owner's memory, then in a slot. A buffer that
several tasks read is one object, which all of them hold; its slot is free when the last of them has ended.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from sharedarray._dtypes import NATIVE
from sharedarray._pool.transport.memory import Source
from sharedarray._pool.transport.messages import Buffer
from sharedarray._pool.transport.slot import Slot
from sharedarray._pool.transport.slots import Store
from sharedarray._thresholds import OUT_OF_BAND

__all__ = [
    "KnownBuffers",
    "OutOfBandBuffer",
    "array_from",
    "buffer_for",
    "contiguous",
    "pack_array",
    "unpack_array",
]


class OutOfBandBuffer:
    """Bytes that were left out of a stream.

    Attributes
    ----------
    source
        The memory that they are in, until they are in a slot.
    length
        How many bytes.
    many
        Whether several tasks read them.
    slot
        The slot of its own that it was copied to, if several tasks read it.
    """

    __slots__ = ("__weakref__", "length", "many", "slot", "source")

    def __init__(self, source: Source, length: int, *, many: bool = False) -> None:
        self.source: Source | None = source
        self.length = length
        self.many = many
        self.slot: Slot | None = None

    def copy_to_slot(self, store: Store, within: int | None = None) -> bool:
        """Copy into a slot of its own; return False if there is no memory for it."""
        if self.slot is None:
            assert self.source is not None
            found = store.put([self.source], [self.length], within)
            if found is None:
                return False
            self.slot = found[0]
            self.slot.send_with(self)
            self.source = None
        return True


# The arrays of a call that other tasks of it got, by their ids: the array, and its buffer.
KnownBuffers: TypeAlias = dict[int, tuple["weakref.ref[np.ndarray[Any, Any]]", OutOfBandBuffer]]
_UNKNOWN: tuple[Callable[[], None], None] = (lambda: None), None


def buffer_for(
    known: KnownBuffers | None, array: np.ndarray[Any, Any], laid: np.ndarray[Any, Any]
) -> OutOfBandBuffer:
    """Return the buffer for an array, whose bytes are laid out as those of ``laid``.

    An array that another task got has its buffer already, which then goes to many.
    """
    if known is None:
        return OutOfBandBuffer(laid, laid.nbytes)
    of, found = known.get(id(array), _UNKNOWN)
    # An array that was made during pickling may be gone, and another array may have its id.
    if found is not None and of() is array:
        found.many = True
        return found
    made = OutOfBandBuffer(laid, laid.nbytes)
    known[id(array)] = weakref.ref(array), made
    return made


def contiguous(source: Source) -> Buffer:
    """Return bytes as they go through a pipe."""
    if isinstance(source, np.ndarray):
        return np.ascontiguousarray(source).reshape(-1).view(np.uint8).data
    return source


def array_from(buffer: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray[Any, Any]:
    """Return the array whose bytes a buffer has; it is writable if the buffer is."""
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer)
    return array if order == "C" else array.T


def pack_array(value: Any, buffers: list[OutOfBandBuffer], known: KnownBuffers | None) -> list[Any] | None:
    """Return the list for a plain array, or a scalar of NumPy's, in a PLAIN stream; None for other types.

    A small array itself is the first item: marshal reads its memory, without a copy before. A large one is
    added to `buffers`.
    """
    dtype: np.dtype[Any] = value.dtype
    if dtype.hasobject or NATIVE.get(dtype.char) is not dtype:
        return None
    if isinstance(value, np.generic):
        return [value, dtype.char, None, "C"]
    flags = value.flags
    order, laid = ("C", value) if flags.c_contiguous or not flags.f_contiguous else ("F", value.T)
    if value.nbytes < OUT_OF_BAND:
        return [np.ascontiguousarray(laid).reshape(laid.shape), dtype.char, laid.shape, order]
    buffers.append(buffer_for(known, value, laid))
    return [None, dtype.char, laid.shape, order]


def unpack_array(
    buffers: Iterator[Buffer],
    raw: Any,
    char: str,
    shape: tuple[int, ...] | None,
    order: str,
) -> np.ndarray[Any, Any] | np.generic:
    """Return what `pack_array` was given; an array has memory of its own and is writable."""
    if shape is None:
        scalar: np.generic = np.frombuffer(raw, char)[0]
        return scalar
    return array_from(next(buffers) if raw is None else bytearray(raw), char, shape, order)
