"""Shapes and dtypes as callers write them, by NumPy's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

ShapeLike: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

_NO_BYTES = np.dtype("V0")


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype by NumPy's own rules, and with the words of its errors."""
    try:
        return np.dtype(dtype)
    except TypeError as error:
        given: Any = dtype
        if isinstance(given, int | np.integer):
            error.add_note("The lengths of several axes are one argument, a tuple, as in zeros((3, 4)).")
        elif isinstance(dtype, str):
            error.add_note(f"For a block's name write name={dtype!r}.")
        raise


def as_shape(shape: ShapeLike) -> tuple[int, ...]:
    """Return a shape as a tuple of ints, by NumPy's own rules and with the words of its errors."""
    try:
        if shape is None:
            raise TypeError("Use () not None as shape arguments")  # as NumPy does from 2.0 on
        return np.empty(shape, _NO_BYTES).shape
    except TypeError as error:
        note = "A shape is an int or a tuple of ints, as in zeros(3) and zeros((3, 4))"
        if isinstance(shape, str):
            note += "; to find the array of this name, write attach(name)"
        elif isinstance(shape, np.ndarray):
            note += "; to share the data of an array, write share(array)"
        error.add_note(f"{note}.")
        raise
