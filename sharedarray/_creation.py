"""Making shared arrays: NumPy's creation functions with ``name=``, ``persist=`` and ``file=``.

Where there is data, it is written into the block before the block is mapped: the kernel fills fresh pages
in half the time that a process needs to fault them in one by one. Data that needs a conversion or a
change of order is converted piece by piece, so that no second copy of it ever stands in memory.
"""

from __future__ import annotations

import os
from collections import abc
from collections.abc import Callable
from operator import index
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _errors as errors, _registry as registry
from sharedarray._array import ShapeLike, SharedArray, as_dtype, as_shape, is_all, make, make_growing
from sharedarray._masked import refuse_masked
from sharedarray._progress import Progress
from sharedarray._segment import BlockOptions, Mapping, Write, mapping_of

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

Order: TypeAlias = Literal["K", "A", "C", "F"]
Path: TypeAlias = str | os.PathLike[str]

_PIECE = 1 << 20  # bytes that are converted or repeated at once, so that they stay in the cache


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
        as it grows: rows that are not there cost nothing.

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
        fortran=_fortran(order, like),
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
        fortran=_fortran(order, like),
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


def share(
    array_like: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order = "K",
    *,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Copy data into a new shared array.

    Parameters
    ----------
    array_like : array_like
        The data. Of an instance of a subclass of ndarray, such as a quantity, these are the elements alone. A
        masked array is an error.
    dtype : dtype_like, optional
        Type of the elements, converted as `numpy.array` does; the data's own when None.
    order : {'K', 'A', 'C', 'F'}
        'C' or 'F' for that order; 'K' and 'A' keep Fortran order where the data has it.
    name, persist, file, exist_ok, replace, progress
        As for `empty`. With `exist_ok`, an array that is there already keeps its own data.

    Returns
    -------
    SharedArray
        A copy: later changes of the original do not reach it. Holds the block until closed or dropped.

    Raises
    ------
    MaskedArrayError
        The data are a masked array, or have one among them, whose mask would be lost (a `TypeError`).
    UnsupportedDTypeError
        The data are no array of plain elements, such as a dict, a data frame or None (a `TypeError` and a
        `ValueError`): `put` stores any object.
    BlockExistsError, OutOfSharedMemoryError, InvalidNameError
        As for `empty`; nothing is left behind.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> frames = sa.share(np.arange(6).reshape(2, 3), name="frames_of_share")
    >>> int(sa.attach("frames_of_share").sum())
    15
    """
    return _share(
        array_like,
        dtype,
        order,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def _share(
    array_like: ArrayLike, dtype: DTypeLike | None, order: Order, options: BlockOptions
) -> SharedArray:
    refuse_masked(array_like, "share")
    _refuse_table(array_like)
    source = _as_source(array_like, dtype)
    source = source.view(np.ndarray)
    chosen = source.dtype if dtype is None else _sized(_unwrapped(as_dtype(dtype))[0], source)
    if chosen.hasobject:
        raise _no_elements(array_like)
    fortran = _fortran(order, source)
    layout = source.T if fortran else source
    if source.dtype == chosen and layout.flags.c_contiguous:
        return make(source.shape, chosen, options, fortran=fortran, data=[_bytes(layout)])

    def fill(write: Write, offset: int) -> None:
        _write_converted(write, offset, layout, chosen)

    return make(
        source.shape,
        chosen,
        options,
        fortran=fortran,
        fill=fill,
    )


def asarray(
    a: ArrayLike,
    dtype: DTypeLike | None = None,
    order: Order | None = None,
    *,
    copy: bool | None = None,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Return a shared array of the data: the same object if it is one, otherwise a copy in a new block.

    Parameters
    ----------
    a : array_like
        The data. A `SharedArray` of that dtype and order is returned as it is, unless it is closed.
    dtype : dtype_like, optional
        Type of the elements; the data's own when None.
    order : {'K', 'A', 'C', 'F'}, optional
        As for `share`; None is 'K'.
    copy : bool, optional
        True to copy in any case, as `share` does; False for a `ValueError` if a copy is needed; None to copy
        if it is needed, as in NumPy 2.
    name : str, optional
        Name of the new block. An array that is not the whole block of this name is copied.
    persist : bool, default False
        Whether the block outlives its holders; also that of an array that is returned as it is.
    file : path_like, optional
        Make this ``.npy`` file instead of a block in memory. An array that is not this file is copied.
    exist_ok, replace, progress
        As for `empty`, if a copy is made.

    Returns
    -------
    SharedArray
        Holds the block until closed or dropped.

    Raises
    ------
    ValueError
        A copy is needed, and `copy` is False.
    MaskedArrayError, BlockExistsError, OutOfSharedMemoryError, UnsupportedDTypeError, InvalidNameError
        As for `share`.

    Examples
    --------
    >>> import sharedarray as sa
    >>> frames = sa.asarray([[1, 2], [3, 4]])
    >>> sa.asarray(frames) is frames
    True
    >>> sa.asarray(frames, float) is frames
    False
    """
    order = "K" if order is None else order
    if not copy and isinstance(a, SharedArray) and _is_such(a, dtype, order, name, file):
        if persist:
            a.persist()
        return a
    if copy is False:
        raise ValueError(
            "Unable to avoid copy while creating an array as requested: the data are no shared array of that "
            "dtype, order and name; copy=None copies them if needed"
        )
    return _share(
        a,
        dtype,
        order,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def array(
    object: ArrayLike,
    dtype: DTypeLike | None = None,
    *,
    copy: bool | None = True,
    order: Order = "K",
    ndmin: int = 0,
    name: str | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> SharedArray:
    """Make a shared array of data, with the parameters of `numpy.array`.

    Parameters
    ----------
    object : array_like
        The data.
    dtype : dtype_like, optional
        Type of the elements; the data's own when None.
    copy : bool or None, default True
        True to copy in any case; None and False as for `asarray`.
    order : {'K', 'A', 'C', 'F'}
        As for `share`.
    ndmin : int, default 0
        Least number of axes: axes of length 1 are put before the others.
    name, persist, file, exist_ok, replace, progress
        As for `asarray`.

    Returns
    -------
    SharedArray
        Holds the block until closed or dropped.

    Raises
    ------
    ValueError
        A copy is needed, and `copy` is False.
    MaskedArrayError, BlockExistsError, OutOfSharedMemoryError, UnsupportedDTypeError, InvalidNameError
        As for `share`.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.array([1, 2], ndmin=2).tolist()
    [[1, 2]]
    """
    if index(ndmin):
        refuse_masked(object, "share")
        _refuse_table(object)
        source = object if isinstance(object, np.ndarray) else _as_source(object, dtype)
        object = source[(np.newaxis,) * (ndmin - source.ndim)] if source.ndim < ndmin else source
    return asarray(
        object,
        dtype,
        order,
        copy=copy,
        name=name,
        persist=persist,
        file=file,
        exist_ok=exist_ok,
        replace=replace,
        progress=progress,
    )


def _is_such(
    array: SharedArray, dtype: DTypeLike | None, order: Order, name: str | None, file: Path | None
) -> bool:
    """Return whether a shared array is what was asked for, so that no copy is needed."""
    mapping = mapping_of(array)
    if mapping is None or mapping.released:
        return False
    if dtype is not None and _sized(as_dtype(dtype), np.empty(0, array.dtype)) != array.dtype:
        return False
    if order == "C":
        in_order = array.flags.c_contiguous
    elif order == "F":
        in_order = array.flags.f_contiguous
    else:
        _fortran(order, array)  # checks it
        in_order = order == "K" or array.flags.forc
    if name is None and file is None:
        return in_order
    return in_order and _is_at(mapping, name, file) and is_all(array, mapping)


def _is_at(mapping: Mapping, name: str | None, file: Path | None) -> bool:
    """Return whether a block has this name, or is this file."""
    if file is not None:
        path = registry.absolute(os.fspath(file))
        return name is None and mapping.directory is None and mapping.name == path
    return mapping.directory == registry.directory() and mapping.name == name


def _refuse_table(data: object) -> None:
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


def _no_elements(data: object) -> errors.UnsupportedDTypeError:
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


def _make_zeros(
    shape: tuple[int, ...], dtype: np.dtype[Any], order: Order, capacity: int | None, options: BlockOptions
) -> SharedArray:
    fortran = _fortran(order, None)
    if capacity is None:
        return make(shape, dtype, options, fortran=fortran)
    if fortran:
        raise ValueError("an array that grows has order 'C': its rows lie one behind the other")
    try:
        rows = index(capacity)
    except TypeError:
        raise TypeError(f"capacity is a number of rows, an int, and not {capacity!r}") from None
    return make_growing(shape, dtype, options, capacity=rows)


# -- filling --------------------------------------------------------------------------------------------


def write_array(write: Write, offset: int, array: np.ndarray[Any, Any]) -> None:
    """Write an array into a block, in Fortran order if it has that and no other."""
    layout = array.T if array.flags.fnc else array
    if layout.flags.c_contiguous:
        write(offset, [_bytes(layout)])
    else:
        _write_converted(write, offset, layout, layout.dtype)


def _as_source(array_like: ArrayLike, dtype: DTypeLike | None) -> np.ndarray[Any, Any]:
    """Return data as an array; lists get the dtype at once, arrays on their way into the block."""
    if dtype is None or (hasattr(array_like, "__array__") and as_dtype(dtype).subdtype is None):
        return np.asarray(array_like)
    return np.asarray(array_like, as_dtype(dtype))  # a sub-array becomes axes


def _unwrapped(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the dtype of the elements of a sub-array, and the axes that it adds to an array."""
    axes: tuple[int, ...] = ()
    while dtype.subdtype is not None:
        dtype, more = dtype.subdtype
        axes += more
    return dtype, axes


def _sized(dtype: np.dtype[Any], source: np.ndarray[Any, Any]) -> np.dtype[Any]:
    """Return a dtype such as ``str`` or ``'datetime64'``, with the size or unit that the data needs."""
    if dtype.itemsize and dtype not in ("M8", "m8"):
        return dtype
    return source[:0].astype(dtype).dtype if source.dtype == dtype else source.astype(dtype).dtype


def _bytes(layout: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of a C-contiguous array, whatever its dtype."""
    if layout.nbytes == 0:
        return memoryview(b"")
    return layout.reshape(-1).view(np.uint8).data


def _write_converted(write: Write, offset: int, layout: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    """Write an array in C order as `dtype`, some rows at a time."""
    if layout.size == 0 or dtype.itemsize == 0:
        return
    if layout.ndim > 1 and layout[0].size * dtype.itemsize > _PIECE:
        step = layout[0].size * dtype.itemsize
        for row in layout:
            _write_converted(write, offset, row, dtype)
            offset += step
        return
    rows = layout.reshape(1) if layout.ndim == 0 else layout
    step = max(1, _PIECE // (rows[0].size * dtype.itemsize))
    for start in range(0, len(rows), step):
        piece = np.array(rows[start : start + step], dtype=dtype, order="C")
        write(offset, [_bytes(piece)])
        offset += piece.nbytes


def _full(
    shape: tuple[int, ...],
    value: ArrayLike,
    dtype: np.dtype[Any],
    order: Order,
    like: np.ndarray[Any, Any] | None,
    options: BlockOptions,
) -> SharedArray:
    """Make an array of one value; where it is broadcast from several, they are copied in by NumPy."""
    dtype, axes = _unwrapped(dtype)
    shape += axes
    fortran = _fortran(order, like)
    values = np.asarray(value)
    if values.ndim or dtype.itemsize == 0:
        return _share(np.broadcast_to(values, shape), dtype, "F" if fortran else "C", options)
    dtype = _sized(dtype, values) if dtype.kind in "USMm" else dtype
    element = np.empty(1, dtype)
    element[...] = values
    if not any(element.tobytes()):
        return make(shape, dtype, options, fortran=fortran)
    return make(
        shape,
        dtype,
        options,
        fortran=fortran,
        fill=_repeater(element, shape),
    )


def _repeater(element: np.ndarray[Any, Any], shape: tuple[int, ...]) -> Callable[[Write, int], None]:
    count = 1
    for length in shape:
        count *= length

    def fill(write: Write, offset: int) -> None:
        piece = np.repeat(element, max(1, min(count, _PIECE // element.itemsize)))
        data, left = _bytes(piece), count * element.itemsize
        while left > 0:
            write(offset, [data[:left]])
            offset += len(data)
            left -= len(data)

    return fill


# -- NumPy's arguments ----------------------------------------------------------------------------------


def _like(
    prototype: ArrayLike, dtype: DTypeLike | None, shape: ShapeLike | None
) -> tuple[np.ndarray[Any, Any], np.dtype[Any], tuple[int, ...]]:
    like = np.asarray(prototype)
    chosen = like.dtype if dtype is None else as_dtype(dtype)
    return like, chosen, like.shape if shape is None else as_shape(shape)


def _fortran(order: str, like: np.ndarray[Any, Any] | None) -> bool:
    if order in ("C", "F"):
        return order == "F"
    if order not in ("K", "A") or like is None:
        choices = "'C' or 'F'" if like is None else "'K', 'A', 'C' or 'F'"
        raise ValueError(f"order is {choices}, not {order!r}")
    return bool(like.flags.fnc)
