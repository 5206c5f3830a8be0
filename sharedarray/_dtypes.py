"""The form in which a dtype travels: NumPy's short text if it gives back the same dtype, else itself.

The text of `numpy.dtype.str` does not name everything. It has no metadata (h5py's enums), no fields and no
scalar class (`numpy.record`). For the types of other packages it names another dtype: ``<V2`` for bfloat16.
Such a dtype is pickled whole, which keeps all of that. The NPY format cannot store metadata either: `bare` is
what a header can hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["NATIVE", "bare", "has_metadata", "short"]

# NumPy's own types in native byte order, without fields, units, lengths or metadata: one object each.
NATIVE: dict[str, np.dtype[Any]] = {char: np.dtype(char) for char in np.typecodes["All"]}

_USER_DEFINED = 2  # of `numpy.dtype.isbuiltin`: a type that another package has registered


def short(dtype: np.dtype[Any]) -> str | np.dtype[Any]:
    """Return the text that stands for a dtype, which pickles in a tenth of the bytes, or the dtype itself."""
    if NATIVE.get(dtype.char) is dtype:
        return dtype.str
    if dtype.names is not None or dtype.metadata or dtype.isbuiltin == _USER_DEFINED:
        return dtype
    try:
        same = np.dtype(dtype.str)
    except (TypeError, ValueError):
        return dtype
    return dtype.str if same == dtype and same.type is dtype.type else dtype


def has_metadata(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype, or one of its fields, carries metadata."""
    if dtype.metadata:
        return True
    if dtype.subdtype is not None:
        return has_metadata(dtype.subdtype[0])
    return dtype.fields is not None and any(has_metadata(field[0]) for field in dtype.fields.values())


def bare(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype without its metadata, and without that of its fields."""
    if not has_metadata(dtype):
        return dtype
    if dtype.subdtype is not None:
        base, axes = dtype.subdtype
        return np.dtype((bare(base), axes))
    if dtype.names is None or dtype.fields is None:
        return np.dtype(dtype.str)
    fields = [dtype.fields[name] for name in dtype.names]
    layout: dict[str, Any] = {
        "names": dtype.names,
        "formats": [bare(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
    }
    if any(len(field) > 2 for field in fields):
        layout["titles"] = [field[2] if len(field) > 2 else None for field in fields]
    made: np.dtype[Any] = np.dtype(layout, align=dtype.isalignedstruct)  # type: ignore[call-overload]
    return made if dtype.type is np.void else np.dtype((dtype.type, made))
