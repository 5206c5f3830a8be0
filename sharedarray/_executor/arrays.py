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
        """Make a shared array as `sharedarray.empty` does. It is closed when the pool ends.

        Parameters
        ----------
        shape : int or tuple of int
            Lengths of the axes.
        dtype : dtype_like, default float
            Type of the elements.
        order : {'C', 'F'}
            Whether the last or the first axis varies fastest.
        progress : bool or mapping, optional
            True shows a progress bar; a mapping holds arguments of tqdm. None shows one after a second in
            notebooks and terminals.

        Returns
        -------
        SharedArray
            Of a random name.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     pool.empty((2, 3), "f4").shape
        (2, 3)
        """
        return self._arrays.add(creation.empty(shape, dtype, order, progress=progress))

    def zeros(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.zeros` does. It is closed when the pool ends.

        Parameters
        ----------
        shape : int or tuple of int
            Lengths of the axes.
        dtype : dtype_like, default float
            Type of the elements.
        order : {'C', 'F'}
            Whether the last or the first axis varies fastest.
        progress : bool or mapping, optional
            True shows a progress bar; a mapping holds arguments of tqdm. None shows one after a second in
            notebooks and terminals.

        Returns
        -------
        SharedArray
            Of a random name.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     pool.zeros(3).tolist()
        [0.0, 0.0, 0.0]
        """
        return self._arrays.add(creation.zeros(shape, dtype, order, progress=progress))

    def ones(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.ones` does. It is closed when the pool ends.

        Parameters
        ----------
        shape : int or tuple of int
            Lengths of the axes.
        dtype : dtype_like, default float
            Type of the elements.
        order : {'C', 'F'}
            Whether the last or the first axis varies fastest.
        progress : bool or mapping, optional
            True shows a progress bar; a mapping holds arguments of tqdm. None shows one after a second in
            notebooks and terminals.

        Returns
        -------
        SharedArray
            Of a random name.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     pool.ones(3, int).tolist()
        [1, 1, 1]
        """
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
        """Make a shared array as `sharedarray.full` does. It is closed when the pool ends.

        Parameters
        ----------
        shape : int or tuple of int
            Lengths of the axes.
        fill_value : scalar or array_like
            Value of the elements.
        dtype : dtype_like, optional
            Type of the elements; that of the fill value when None.
        order : {'C', 'F'}
            Whether the last or the first axis varies fastest.
        progress : bool or mapping, optional
            True shows a progress bar; a mapping holds arguments of tqdm. None shows one after a second in
            notebooks and terminals.

        Returns
        -------
        SharedArray
            Of a random name.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     pool.full(3, 7).tolist()
        [7, 7, 7]
        """
        return self._arrays.add(creation.full(shape, fill_value, dtype, order, progress=progress))

    def share(
        self,
        array_like: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "K",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Copy data into shared memory as `sharedarray.share` does. It is closed when the pool ends.

        Parameters
        ----------
        array_like : array_like
            The data.
        dtype : dtype_like, optional
            Type of the elements; that of the data when None.
        order : {'K', 'A', 'C', 'F'}
            'C' or 'F' for that order; 'K' and 'A' keep Fortran order if the data has it.
        progress : bool or mapping, optional
            True shows a progress bar; a mapping holds arguments of tqdm. None shows one after a second in
            notebooks and terminals.

        Returns
        -------
        SharedArray
            Of a random name.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     list(pool.map(len, pool.share([[1, 2], [3, 4]])))
        [2, 2]
        """
        return self._arrays.add(creation.share(array_like, dtype, order, progress=progress))
