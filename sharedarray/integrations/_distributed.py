"""Dask's `distributed`, or an error that says how to install it."""

from __future__ import annotations

from sharedarray import _errors as errors

try:
    import distributed as distributed
except ImportError as missing:  # pragma: no cover
    raise errors.MissingExtraError(
        "Dask on many machines needs dask and distributed: pip install 'numpy-sharedarray[dask]'",
        name="distributed",
    ) from missing
