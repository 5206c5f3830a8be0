"""The address and the offset in a block of the elements of a view."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharedarray._segment import Mapping


def address_of(view: np.ndarray[Any, Any]) -> int:
    """Return the address of an array's first element in this process, whatever its dtype.

    The array interface cannot describe the dtypes of other packages, so that it is not asked.
    """
    return int(view.ctypes.data)


def address_in(mapping: Mapping) -> int:
    """Return the address of an attachment's first byte, and remember it in `Mapping.address`."""
    mapping.address = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    return mapping.address


def offset_of(view: np.ndarray[Any, Any], mapping: Mapping) -> int:
    """Return the offset in the block of the view's first element."""
    return address_of(view) - (mapping.address or address_in(mapping))


def start_of(view: np.ndarray[Any, Any], mapping: Mapping) -> int:
    """Return the byte of the block at which a view begins; 0 for an empty one that lies outside the block."""
    start = offset_of(view, mapping)
    return start if view.size or 0 <= start <= len(mapping) else 0


def span_of(view: np.ndarray[Any, Any], mapping: Mapping) -> tuple[int, int]:
    """Return the first byte of a view in its block, and the byte behind its last."""
    if view.size == 0:
        return 0, 0
    low = high = offset_of(view, mapping)
    for length, stride in zip(view.shape, view.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + view.itemsize


class Grip(np.ndarray[Any, Any]):
    """All bytes of an attachment. Arrays that arrived as references refer to it; see `sharedarray._grips`."""


def grip_of(array: np.ndarray[Any, Any]) -> Grip | None:
    """Return the grip that an array has its memory from, None if it has none."""
    view: Any = array
    while view is not None and type(view) is not Grip:
        view = view.obj if type(view) is memoryview else getattr(view, "base", None)
    return view


def bytes_behind(array: np.ndarray[Any, Any], mapping: Mapping) -> np.ndarray[Any, Any]:
    """Return all bytes of an array's attachment, in use for as long as the array is."""
    grip = grip_of(array)
    return np.frombuffer(mapping, np.uint8) if grip is None else grip
