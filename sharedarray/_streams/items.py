"""The items of a stream: their shape and dtype, and arrays that are given as items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping as Fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from sharedarray import _header as header
from sharedarray._array import ShapeLike, as_shape
from sharedarray._streams.block import Block

__all__ = ["Item", "as_item", "as_items", "item_of"]

_ALIGNED = 64  # bytes, a cache line: the arrays of an item start at a multiple of it

Item: TypeAlias = tuple[tuple[int, ...], np.dtype[Any], bool]


def item_of(shape: ShapeLike | Fields[str, Any], dtype: DTypeLike) -> Item:
    """Return shape and dtype of an item, and whether it has several arrays, as fields of the dtype.

    Raises
    ------
    UnsupportedDTypeError
        The elements are Python objects.
    """
    if not isinstance(shape, Fields):
        return as_shape(shape), header.check_dtype(np.dtype(dtype)), False
    if not shape:
        raise ValueError("an item has at least one array: give a mapping of names to (shape, dtype)")
    names, formats, offsets, end = [], [], [], 0
    for name, given in shape.items():
        try:
            length, kind = given
        except (TypeError, ValueError):
            raise ValueError(
                f"the array {name!r} of an item is given as (shape, dtype), not as {given!r}"
            ) from None
        element = header.check_dtype(np.dtype(kind))
        names.append(name)
        formats.append((element, as_shape(length)))
        offsets.append(end)
        end += -(-element.itemsize * math.prod(as_shape(length)) // _ALIGNED) * _ALIGNED
    made: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": end}
    return (), header.check_dtype(np.dtype(made)), True


def as_item(given: Any, block: Block) -> np.ndarray[Any, Any]:
    """Return an item in a form that can be assigned to a slot.

    Raises
    ------
    ValueError, TypeError
        It has another shape, or elements that the dtype of the stream cannot take.
    """
    if isinstance(given, Fields):
        return _from_fields(given, block)
    array = np.asarray(given)
    if array.shape != block.shape:
        raise ValueError(
            f"an item of the stream {block.mapping.name!r} has shape {block.shape}, not {array.shape}"
        )
    weak = not hasattr(given, "dtype") and array.dtype.kind in "biufc" and block.dtype.names is None
    if not _fits(array, block) and not (weak and np.array_equal(array.astype(block.dtype), array)):
        raise _other_elements(array, block)
    return array


def _fits(array: np.ndarray[Any, Any], block: Block) -> bool:
    return array.dtype == block.dtype or np.can_cast(array.dtype, block.dtype, "same_kind")


def _other_elements(array: np.ndarray[Any, Any], block: Block) -> TypeError:
    return TypeError(
        f"elements of the stream {block.mapping.name!r} are {block.dtype}, and cannot take {array.dtype}"
    )


def _from_fields(arrays: Fields[str, Any], block: Block) -> np.ndarray[Any, Any]:
    names = block.dtype.names
    if names is None or set(names) != set(arrays):
        expected = "one array" if names is None else f"the arrays {', '.join(names)}"
        raise ValueError(
            f"an item of the stream {block.mapping.name!r} is {expected}, "
            f"and not {', '.join(map(str, arrays))}"
        )
    made = np.zeros(block.shape, block.dtype)
    for name in names:
        made[name] = arrays[name]
    return made


def as_items(given: Any, block: Block) -> np.ndarray[Any, Any]:
    """Return several items as an array whose first axis counts them.

    Raises
    ------
    ValueError, TypeError
        They have another shape, or elements that the dtype of the stream cannot take.
    """
    arrays = given if isinstance(given, np.ndarray) else _stacked(given, block)
    if arrays.shape[1:] != block.shape or arrays.ndim == 0:
        raise ValueError(
            f"items of the stream {block.mapping.name!r} have shape (n, *{block.shape}), not {arrays.shape}"
        )
    if not _fits(arrays, block):
        raise _other_elements(arrays, block)
    return arrays


def _stacked(given: Iterable[Any], block: Block) -> np.ndarray[Any, Any]:
    items = [as_item(each, block) for each in given]
    made = np.empty((len(items), *block.shape), block.dtype)
    for number, item in enumerate(items):
        made[number] = item
    return made
