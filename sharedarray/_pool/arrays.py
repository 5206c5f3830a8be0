"""Shared arrays that a `Pool` makes, and closes at its end."""

from __future__ import annotations

from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _creation as creation
from sharedarray._array import ShapeLike, SharedArray, WeakArrays
from sharedarray._progress import Progress

__all__ = ["OwnedArrays"]


class OwnedArrays:
    """NumPy's creation functions for shared arrays that are closed when the pool ends."""

    def __init__(self) -> None:
        self._arrays = WeakArrays()

    def empty(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.empty` does. It is closed when the pool ends."""
        return self._arrays.add(creation.empty(shape, dtype, order, progress=progress))

    def zeros(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.zeros` does. It is closed when the pool ends."""
        return self._arrays.add(creation.zeros(shape, dtype, order, progress=progress))

    def ones(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.ones` does. It is closed when the pool ends."""
        return self._arrays.add(creation.ones(shape, dtype, order, progress=progress))

    def full(
        self,
        shape: ShapeLike,
        fill_value: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.full` does. It is closed when the pool ends."""
        return self._arrays.add(creation.full(shape, fill_value, dtype, order, progress=progress))

    def share(
        self,
        array_like: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "K",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Copy data into shared memory as `sharedarray.share` does. It is closed when the pool ends."""
        return self._arrays.add(creation.share(array_like, dtype, order, progress=progress))
