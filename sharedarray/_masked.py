"""Which arrays have a mask: a plain array of them would lose it without a word."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from sharedarray import _errors as errors

__all__ = ["is_masked", "masked_array", "refuse_masked"]


def masked_array() -> type[Any] | None:
    """Return `numpy.ma.MaskedArray` if this process has loaded it, as it has if there is a masked array."""
    return getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)


def is_masked(value: object) -> bool:
    """Return whether a value has a mask that a plain array of it would lose.

    That is so for NumPy's masked arrays, unless their mask is ``nomask``; and for classes that have both
    ``mask`` and ``filled``, as astropy's masked arrays and quantities do.
    """
    kind = type(value)
    if kind is np.ndarray or not issubclass(kind, np.ndarray):
        return False
    masked = masked_array()
    if masked is not None and issubclass(kind, masked):
        return value._mask is not sys.modules["numpy.ma"].nomask  # type: ignore[attr-defined]
    return hasattr(kind, "mask") and hasattr(kind, "filled")


_NUMBERS = frozenset((bool, int, float, complex, str, bytes))


def refuse_masked(values: object, doing: str) -> None:
    """Raise `MaskedArrayError` for a masked array, and for a list or tuple with one in it.

    ``numpy.asarray`` drops the mask of either without a word.
    """
    if is_masked(values):
        raise errors.MaskedArrayError(
            f"cannot {doing} a masked array: its mask would be lost",
            found=f"a {type(values).__qualname__}",
            expected="an array without a mask",
            next_step="use its .filled(value); or two arrays, its .data and numpy.ma.getmaskarray of it, "
            "which numpy.ma.array(data, mask=mask, copy=False) puts together",
        )
    # A list that begins with a number has no arrays in it.
    if isinstance(values, list | tuple) and values and type(values[0]) not in _NUMBERS:
        for each in values:
            refuse_masked(each, doing)
