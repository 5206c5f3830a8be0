"""Data of any kind, written into a block before it is mapped."""

from __future__ import annotations

import os
from collections import abc
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _errors as errors
from sharedarray._array import as_dtype
from sharedarray._segment import Write

Order: TypeAlias = Literal["K", "A", "C", "F"]
Path: TypeAlias = str | os.PathLike[str]

_PIECE = 1 << 20  # bytes that are converted or repeated at once, so that they stay in the cache


def refuse_table(data: object) -> None:
    """Raise `UnsupportedDTypeError` for a data frame or a mapping: an array has no names of columns."""
    if isinstance(data, np.ndarray):
        return
    if hasattr(data, "__dataframe__") or (hasattr(data, "columns") and hasattr(data, "to_numpy")):
        raise errors.UnsupportedDTypeError(
            "a data frame cannot be shared as an array: its columns' names and types would be lost",
            found=f"a {_kind_of(data)}",
            expected="an array of elements of one dtype",
            next_step=f"{_USE_PUT}; for its numbers alone, share(frame.to_numpy())",
        )
    if isinstance(data, abc.Mapping):
        raise errors.UnsupportedDTypeError(
            f"{_kind_of(data)} cannot be shared as an array: an array has no names for its parts",
            found="a mapping",
            expected="an array of elements of one dtype",
            next_step=f"{_USE_PUT}; a mapping of arrays also with sharedarray.share_group(name, mapping)",
        )
    if isinstance(data, os.PathLike):
        raise errors.UnsupportedDTypeError(
            f"{_kind_of(data)} cannot be shared as an array",
            found="the path of a file, and not its data",
            expected="an array of elements of one dtype",
            next_step="for an .npy file, sharedarray.open(path) shares its pages; for a copy of it in memory "
            "write share(sharedarray.open(path, 'r'))",
        )


_USE_PUT = (
    "store the object whole with sharedarray.put, and read it with sharedarray.get (`sa.put`, `sa.get`)"
)


def no_elements(data: object) -> errors.UnsupportedDTypeError:
    """Return the error for data that NumPy can only hold as Python objects."""
    of_objects = isinstance(data, np.ndarray | list | tuple)
    return errors.UnsupportedDTypeError(
        f"{'these data' if of_objects else _kind_of(data)} cannot be shared as an array",
        found="elements that are Python objects, whose addresses mean nothing in another process"
        if of_objects
        else "an object that NumPy does not take for an array of numbers, dates or text",
        expected="elements of plain bytes, all of one dtype",
        next_step=f"{_USE_PUT}; as an array: text of a fixed width such as 'U20', records of a structured "
        "dtype, ragged data as one flat array with an array of offsets, an iterator as list(iterator)",
    )


def _kind_of(data: object) -> str:
    kind = type(data)
    if data is None:
        return "None"
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def write_array(write: Write, offset: int, array: np.ndarray[Any, Any]) -> None:
    """Write an array into a block, in Fortran order if it has that and no other."""
    layout = array.T if array.flags.fnc else array
    if layout.flags.c_contiguous:
        write(offset, [bytes_of(layout)])
    else:
        write_converted(write, offset, layout, layout.dtype)


def as_source(array_like: ArrayLike, dtype: DTypeLike | None) -> np.ndarray[Any, Any]:
    """Return data as an array; lists get the dtype at once, arrays on their way into the block."""
    if dtype is None or (hasattr(array_like, "__array__") and as_dtype(dtype).subdtype is None):
        return np.asarray(array_like)
    return np.asarray(array_like, as_dtype(dtype))  # a sub-array becomes axes


def unwrapped(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the dtype of the elements of a sub-array, and the axes that it adds to an array."""
    axes: tuple[int, ...] = ()
    while dtype.subdtype is not None:
        dtype, more = dtype.subdtype
        axes += more
    return dtype, axes


def sized(dtype: np.dtype[Any], source: np.ndarray[Any, Any]) -> np.dtype[Any]:
    """Return a dtype such as ``str`` or ``'datetime64'``, with the size or unit that the data needs."""
    if dtype.itemsize and dtype not in ("M8", "m8"):
        return dtype
    return source[:0].astype(dtype).dtype if source.dtype == dtype else source.astype(dtype).dtype


def bytes_of(layout: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of a C-contiguous array, whatever its dtype."""
    if layout.nbytes == 0:
        return memoryview(b"")
    return layout.reshape(-1).view(np.uint8).data


def write_converted(write: Write, offset: int, layout: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    """Write an array in C order as `dtype`, some rows at a time."""
    if layout.size == 0 or dtype.itemsize == 0:
        return
    if layout.ndim > 1 and layout[0].size * dtype.itemsize > _PIECE:
        step = layout[0].size * dtype.itemsize
        for row in layout:
            write_converted(write, offset, row, dtype)
            offset += step
        return
    rows = layout.reshape(1) if layout.ndim == 0 else layout
    step = max(1, _PIECE // (rows[0].size * dtype.itemsize))
    for start in range(0, len(rows), step):
        piece = np.array(rows[start : start + step], dtype=dtype, order="C")
        write(offset, [bytes_of(piece)])
        offset += piece.nbytes


def repeater(element: np.ndarray[Any, Any], shape: tuple[int, ...]) -> Callable[[Write, int], None]:
    count = 1
    for length in shape:
        count *= length

    def fill(write: Write, offset: int) -> None:
        piece = np.repeat(element, max(1, min(count, _PIECE // element.itemsize)))
        data, left = bytes_of(piece), count * element.itemsize
        while left > 0:
            write(offset, [data[:left]])
            offset += len(data)
            left -= len(data)

    return fill


def is_fortran(order: str, like: np.ndarray[Any, Any] | None) -> bool:
    if order in ("C", "F"):
        return order == "F"
    if order not in ("K", "A") or like is None:
        choices = "'C' or 'F'" if like is None else "'K', 'A', 'C' or 'F'"
        raise ValueError(f"order is {choices}, not {order!r}")
    return bool(like.flags.fnc)
