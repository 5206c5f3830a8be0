"""Shared copies of data: `share`, `array` and `asarray`."""

from __future__ import annotations

import os
from operator import index

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _registry as registry
from sharedarray._array import SharedArray, as_dtype, is_all, make
from sharedarray._filling import (
    Order,
    Path,
    as_source,
    bytes_of,
    is_fortran,
    no_elements,
    refuse_table,
    sized,
    unwrapped,
    write_converted,
)
from sharedarray._masked import refuse_masked
from sharedarray._progress import Progress
from sharedarray._segment import BlockOptions, Mapping, Write, mapping_of


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
    return share_with(
        array_like,
        dtype,
        order,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "array"),
    )


def share_with(
    array_like: ArrayLike, dtype: DTypeLike | None, order: Order, options: BlockOptions
) -> SharedArray:
    refuse_masked(array_like, "share")
    refuse_table(array_like)
    source = as_source(array_like, dtype)
    source = source.view(np.ndarray)
    chosen = source.dtype if dtype is None else sized(unwrapped(as_dtype(dtype))[0], source)
    if chosen.hasobject:
        raise no_elements(array_like)
    fortran = is_fortran(order, source)
    layout = source.T if fortran else source
    if source.dtype == chosen and layout.flags.c_contiguous:
        return make(source.shape, chosen, options, fortran=fortran, data=[bytes_of(layout)])

    def fill(write: Write, offset: int) -> None:
        write_converted(write, offset, layout, chosen)

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
    return share_with(
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
        refuse_table(object)
        source = object if isinstance(object, np.ndarray) else as_source(object, dtype)
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
    if dtype is not None and sized(as_dtype(dtype), np.empty(0, array.dtype)) != array.dtype:
        return False
    if order == "C":
        in_order = array.flags.c_contiguous
    elif order == "F":
        in_order = array.flags.f_contiguous
    else:
        is_fortran(order, array)  # checks it
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
