"""Making shared arrays: NumPy's creation functions with ``name=``, ``persist=`` and ``file=``.

Where there is data, it is written into the block before the block is mapped: the kernel fills fresh pages
in half the time that a process needs to fault them in one by one. Data that needs a conversion or a
change of order is converted piece by piece, so that no second copy of it ever stands in memory.
"""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray._array import ShapeLike, SharedArray, as_dtype, as_shape, make, make_growing
from sharedarray._filling import (
    Order as Order,
    Path as Path,
    is_fortran,
    repeater,
    sized,
    unwrapped,
    write_array as write_array,
)
from sharedarray._masked import refuse_masked
from sharedarray._progress import Progress
from sharedarray._segment import BlockOptions
from sharedarray._sharing import array as array, asarray as asarray, share as share, share_with

__all__ = [
    "Path",
    "array",
    "asarray",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "share",
    "write_array",
    "zeros",
    "zeros_like",
]


def empty(
    shape: ShapeLike,
    dtype: DTypeLike = float,
    order: Order = "C",
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
    capacity: int | None = None,
) -> SharedArray:
    """Make a shared array without saying what is in it.

    Fresh shared memory is zero, so this is `zeros` under another intention. Every page is reserved now: a
    write never fails later.

    Parameters
    ----------
    shape : int or tuple of int
        Lengths of the axes.
    dtype : dtype_like, default float
        Type of the elements; any but ``object`` and those of other packages. Its metadata, as h5py's enums
        have, stays with this array and what it is sent as; `attach` by name finds a dtype without it.
    order : {'C', 'F'}
        Whether the last or the first axis varies fastest.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool, default False
        Whether the block outlives its holders, until `unlink`.
    file : path_like, optional
        Make this ``.npy`` file instead of a block in memory. It is never removed.
    exist_ok : bool, default False
        Where an array of this shape, dtype and order has the name (or the file) already, attach to that one
        and leave its elements as they are, instead of raising. Of many processes that ask at once, one makes
        it and all get the same. What killed processes have left under the name is not taken over.
    replace : bool, default False
        Where a block has the name already, take the name from it once the new one is whole, with no moment in
        between. Processes that hold the old one keep its memory; those that attach from now on get the new
        one. Of many that replace at once, the last one has the name.
    progress : bool or mapping, optional
        True for a progress bar, or a mapping of arguments of `tqdm.auto.tqdm`; False for none. When None,
        one where a person looks on, in a notebook or at a terminal, and it takes longer than a second.
    capacity : int, optional
        Make an array whose first axis grows, by `SharedArray.append`, up to this length. Memory is reserved
        as it grows: rows that are not there cost nothing. With `exist_ok`, a log in a file
        that lost its last page, which appenders need, gets it anew.

    Returns
    -------
    SharedArray
        Holds the block until closed or dropped; the last holder of all processes removes it.

    Raises
    ------
    BlockExistsError
        The name or file is taken (a `FileExistsError`); with `exist_ok`, by anything but such an array.
    NotOursError
        With `replace`, by a file that this library did not make (a `PermissionError`); it is left as it is.
    OutOfSharedMemoryError
        There is not enough memory (an `OSError` with ``ENOSPC``).
    UnsupportedDTypeError
        The dtype holds Python objects (a `TypeError` and a `ValueError`).
    InvalidNameError
        The name is no plain path component (a `ValueError`).

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.empty((2, 3), "f4").shape
    (2, 3)
    """
    return _make_zeros(
        as_shape(shape),
        as_dtype(dtype),
        order,
        capacity,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def zeros(
    shape: ShapeLike,
    dtype: DTypeLike = float,
    order: Order = "C",
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
    capacity: int | None = None,
) -> SharedArray:
    """Make a shared array of zeros; see `empty` for the parameters, errors and who frees it.

    Parameters
    ----------
    shape : int or tuple of int
        Lengths of the axes.
    dtype
        Type of the elements; by default float64.
    order : {'C', 'F'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.
    capacity : int, optional
        Rows to which the first axis can grow.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.zeros(3).tolist()
    [0.0, 0.0, 0.0]
    """
    return _make_zeros(
        as_shape(shape),
        as_dtype(dtype),
        order,
        capacity,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def ones(
    shape: ShapeLike,
    dtype: DTypeLike = float,
    order: Order = "C",
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array of ones; see `empty` for the parameters, errors and who frees it.

    Parameters
    ----------
    shape : int or tuple of int
        Lengths of the axes.
    dtype
        Type of the elements; by default float64.
    order : {'C', 'F'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.ones(2, "i8").tolist()
    [1, 1]
    """
    return _full(
        as_shape(shape),
        1,
        as_dtype(dtype),
        order,
        None,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def full(
    shape: ShapeLike,
    fill_value: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order = "C",
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array filled with `fill_value`; see `empty` for the other parameters and errors.

    Parameters
    ----------
    shape
        Lengths of the axes.
    fill_value : scalar or array_like
        The value, broadcast to `shape`.
    dtype
        Type of the elements, that of `fill_value` when None.
    order : {'C', 'F'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.full((2, 2), 7).tolist()
    [[7, 7], [7, 7]]
    """
    refuse_masked(fill_value, "fill an array with")
    chosen = np.asarray(fill_value).dtype if dtype is None else as_dtype(dtype)
    return _full(
        as_shape(shape),
        fill_value,
        chosen,
        order,
        None,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def empty_like(
    prototype: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order = "K",
    subok: bool = True,
    shape: ShapeLike | None = None,
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array with the shape, dtype and order of `prototype`, as far as they are not given.

    `subok` is there for NumPy's sake: the result is a `SharedArray` whatever the class of `prototype`. See
    `empty` for the other parameters, errors and who frees it.

    Parameters
    ----------
    prototype
        The array whose shape, dtype and order are used.
    dtype
        Type of the elements; by default that of the array.
    order : {'C', 'F', 'A', 'K'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.
    subok : bool
        For NumPy's sake; the result is a `SharedArray` in any case.
    shape : int or tuple of int, optional
        Lengths of the axes, in place of those of the array.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.empty_like([[1, 2]]).shape
    (1, 2)
    """
    like, chosen, lengths = _like(prototype, dtype, shape)
    return make(
        lengths,
        chosen,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
        fortran=is_fortran(order, like),
    )


def zeros_like(
    a: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order = "K",
    subok: bool = True,
    shape: ShapeLike | None = None,
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array of zeros like `a`; see `empty_like`.

    Parameters
    ----------
    a
        The array whose shape, dtype and order are used.
    dtype
        Type of the elements; by default that of the array.
    order : {'C', 'F', 'A', 'K'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.
    subok : bool
        For NumPy's sake; the result is a `SharedArray` in any case.
    shape : int or tuple of int, optional
        Lengths of the axes, in place of those of the array.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.zeros_like([1, 2]).tolist()
    [0, 0]
    """
    like, chosen, lengths = _like(a, dtype, shape)
    return make(
        lengths,
        chosen,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
        fortran=is_fortran(order, like),
    )


def ones_like(
    a: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order = "K",
    subok: bool = True,
    shape: ShapeLike | None = None,
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array of ones like `a`; see `empty_like`.

    Parameters
    ----------
    a
        The array whose shape, dtype and order are used.
    dtype
        Type of the elements; by default that of the array.
    order : {'C', 'F', 'A', 'K'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.
    subok : bool
        For NumPy's sake; the result is a `SharedArray` in any case.
    shape : int or tuple of int, optional
        Lengths of the axes, in place of those of the array.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.ones_like([3, 4]).tolist()
    [1, 1]
    """
    like, chosen, lengths = _like(a, dtype, shape)
    return _full(
        lengths,
        1,
        chosen,
        order,
        like,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def full_like(
    a: ArrayLike,
    fill_value: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order = "K",
    subok: bool = True,
    shape: ShapeLike | None = None,
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array like `a`, filled with `fill_value`; see `empty_like` and `full`.

    Parameters
    ----------
    a
        The array whose shape, dtype and order are used.
    fill_value : scalar or array_like
        The value, broadcast to the shape.
    dtype
        Type of the elements; by default that of the array.
    order : {'C', 'F', 'A', 'K'}
        Memory layout.
    name : str, optional
        Name to attach by; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        An ``.npy`` file to make in place of a block.
    exist_ok, replace : bool
        Use a block of this name that fits, or replace it.
    progress : bool or callable, optional
        Whether to show a bar.
    subok : bool
        For NumPy's sake; the result is a `SharedArray` in any case.
    shape : int or tuple of int, optional
        Lengths of the axes, in place of those of the array.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.full_like([3, 4], 7).tolist()
    [7, 7]
    """
    refuse_masked(fill_value, "fill an array with")
    like, chosen, lengths = _like(a, dtype, shape)
    return _full(
        lengths,
        fill_value,
        chosen,
        order,
        like,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def _make_zeros(
    shape: tuple[int, ...], dtype: np.dtype[Any], order: Order, capacity: int | None, options: BlockOptions
) -> SharedArray:
    fortran = is_fortran(order, None)
    if capacity is None:
        return make(shape, dtype, options, fortran=fortran)
    if fortran:
        raise ValueError("an array that grows has order 'C': its rows lie one behind the other")
    try:
        rows = index(capacity)
    except TypeError:
        raise TypeError(f"capacity is a number of rows, an int, and not {capacity!r}") from None
    return make_growing(shape, dtype, options, capacity=rows)


def _full(
    shape: tuple[int, ...],
    value: ArrayLike,
    dtype: np.dtype[Any],
    order: Order,
    like: np.ndarray[Any, Any] | None,
    options: BlockOptions,
) -> SharedArray:
    """Make an array of one value; where it is broadcast from several, they are copied in by NumPy."""
    dtype, axes = unwrapped(dtype)
    shape += axes
    fortran = is_fortran(order, like)
    values = np.asarray(value)
    if values.ndim or dtype.itemsize == 0:
        return share_with(np.broadcast_to(values, shape), dtype, "F" if fortran else "C", options)
    dtype = sized(dtype, values) if dtype.kind in "USMm" else dtype
    element = np.empty(1, dtype)
    element[...] = values
    if not any(element.tobytes()):
        return make(shape, dtype, options, fortran=fortran)
    return make(
        shape,
        dtype,
        options,
        fortran=fortran,
        fill=repeater(element, shape),
    )


# -- NumPy's arguments ----------------------------------------------------------------------------------


def _like(
    prototype: ArrayLike, dtype: DTypeLike | None, shape: ShapeLike | None
) -> tuple[np.ndarray[Any, Any], np.dtype[Any], tuple[int, ...]]:
    like = np.asarray(prototype)
    chosen = like.dtype if dtype is None else as_dtype(dtype)
    return like, chosen, like.shape if shape is None else as_shape(shape)
