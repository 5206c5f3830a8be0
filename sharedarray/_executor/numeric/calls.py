"""`map_blocks` and `reduce_blocks`, the numeric calls of a `Pool`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Never, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from sharedarray._executor.arguments import check_combine, check_function, refuse_keywords
from sharedarray._executor.migration import BLOCK_KEYWORDS, explains_keywords
from sharedarray._executor.numeric import blockwise
from sharedarray._executor.numeric.of_groups import expanded
from sharedarray._executor.numeric.tiling import Axes, Sizes
from sharedarray._progress import Progress

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["NumericCalls"]

T = TypeVar("T")


class NumericCalls:
    """The numeric calls of a pool: each block of the arrays goes to a worker."""

    _core: PoolCore
    _max_workers: int
    _retries: int
    _options: dict[str, Any]

    @property
    def _runs_again(self) -> bool:
        """True if a block may be computed a second time, because a worker died."""
        return self._retries > 0

    @explains_keywords(BLOCK_KEYWORDS)
    def map_blocks(
        self,
        func: Callable[..., ArrayLike],
        *arrays: ArrayLike,
        out: np.ndarray[Any, Any] | None = None,
        axis: Axes = 0,
        block_size: Sizes = None,
        overlap: int | Sequence[int] = 0,
        timeout: float | None = None,
        progress: Progress = None,
        **unknown: Never,
    ) -> np.ndarray[Any, Any]:
        """Apply a function to blocks of arrays, in all workers, and assemble the results.

        ``pool.map_blocks(func, a, b)`` is ``func(a, b)`` for any function that works element by element, or
        row by row along ``axis``. Each block is computed once and written to its place.

        Parameters
        ----------
        func : callable
            Called in workers as ``func(*blocks)``, with one block of each array; ufuncs work. Its result must
            be as long as its blocks along ``axis``, and may have other axes besides. Bind further arguments
            with `functools.partial` or a closure.
        *arrays : array_like
            Of one length along ``axis``; arrays that have length 1 there, or fewer axes, go whole to
            every block. Numbers and other single values go to ``func`` as they are, so they promote as in
            NumPy: ``float32`` data times ``2.0`` stay ``float32``. Blocks have the class of their array. A
            `SharedArray`, or a view of one, is not copied: what ``func`` writes into its block is in
            the array. Of other arrays, each block is a copy. For a `Group`, or a dict of arrays,
            ``func`` gets a dict of blocks, one of each member; members are of one length, as arrays are.
        out : ndarray, optional
            Array for the result; may be one of ``arrays``, or overlap them. Workers write into a shared
            array themselves; the calling process fills any other array. None makes a `SharedArray` with
            dtype and shape after the first block (a plain array for Python objects, and for dtypes that no
            block can hold).
        axis : int or tuple of int, default 0
            The axis along which the arrays are cut; several for tiles. They count as NumPy's do, for each
            array; so -1 is the last axis of each.
        block_size : int or tuple, optional
            Length of a block along each of these axes, without ``overlap``. None chooses enough blocks for
            the workers, small enough for a processor's cache.
        overlap : int or tuple of int, default 0
            For functions that read neighbours, such as filters: each block comes with up to this many more
            rows on either side (fewer at the edges of the array). The result for these rows is cut off, so
            ``func`` returns as many rows as it gets.
        timeout : float, optional
            Seconds from now until all blocks must be done. Workers that still run calls then are killed and
            replaced.
        progress : bool or dict, optional
            Show a progress bar of the blocks, as for `map`.

        Returns
        -------
        ndarray
            ``out``, or a new `SharedArray` that frees its memory with the last reference; if ``func`` returns
            a `numpy.matrix` or `numpy.recarray`, that array viewed as this class.

        Raises
        ------
        ValueError
            The arrays, ``out``, or a result of ``func`` do not fit.
        TypeError
            A result of ``func`` cannot be cast to the dtype of ``out`` (by the rule ``casting='same_kind'``),
            or to that of the first block without loss. Or only the elements of an instance of a subclass of
            ndarray would be kept: of a masked array (`MaskedArrayError`), or of a quantity that is written
            into an ``out`` of another class.
        TimeoutError
            The timeout has expired.
        WorkerDied
            A worker died, more often than ``retries`` allows.

        Notes
        -----
        When this raises, no call is running any more; the content of ``out`` is undefined then.

        Examples
        --------
        >>> import numpy as np
        >>> import sharedarray as sa
        >>> def blur(image):
        ...     padded = np.pad(image, 1, mode="edge")
        ...     return (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        >>> image = np.random.default_rng(0).random((300, 200))
        >>> with sa.Pool(2) as pool:
        ...     pool.map_blocks(np.hypot, np.array([3.0, 5.0]), np.array([4.0, 12.0])).tolist()
        ...     blurred = pool.map_blocks(blur, image, axis=(0, 1), block_size=(128, 128), overlap=1)
        [5.0, 13.0]
        >>> np.array_equal(blurred, blur(image))
        True
        """
        if unknown:
            refuse_keywords(self.map_blocks, func, unknown)
        check_function("map_blocks", func, arrays, "array")
        func, members = expanded(func, arrays)
        plan = blockwise.Plan.of(members, axis, block_size, overlap, workers=self._max_workers)
        return blockwise.map_blocks(
            self._core, func, plan, out, progress, self._options, timeout, again=self._runs_again
        )

    @explains_keywords(BLOCK_KEYWORDS)
    def reduce_blocks(
        self,
        func: Callable[..., T],
        combine: Callable[[T, T], T],
        /,
        *arrays: ArrayLike,
        axis: Axes = 0,
        block_size: Sizes = None,
        timeout: float | None = None,
        progress: Progress = None,
        **unknown: Never,
    ) -> T:
        """Apply a function to blocks of arrays, in all workers, and combine its results into one.

        Parameters
        ----------
        func : callable
            Called in workers as ``func(*blocks)``; returns anything.
        combine : callable
            Called in this process as ``combine(so_far, next)``, in the order of the blocks: the result is
            the same each time for the same ``block_size``. (Sums of floats in another grouping differ in
            their last bits, and the default ``block_size`` depends on the machine.)
        *arrays, axis, block_size, timeout, progress
            As in `map_blocks`.

        Returns
        -------
        object
            The last result of ``combine``, or ``func``'s result if there is one block only.

        Raises
        ------
        ValueError
            The arrays do not fit.
        TimeoutError
            The timeout has expired.
        WorkerDied
            A worker died, more often than ``retries`` allows.

        Examples
        --------
        >>> import numpy as np
        >>> import sharedarray as sa
        >>> with sa.Pool(2) as pool:
        ...     int(pool.reduce_blocks(np.sum, np.add, np.arange(1000)))
        499500
        """
        if unknown:
            refuse_keywords(self.reduce_blocks, func, unknown)
        check_function("reduce_blocks", func)
        check_combine(func, combine, arrays)
        func, members = expanded(func, arrays)
        plan = blockwise.Plan.of(members, axis, block_size, workers=self._max_workers)
        return blockwise.reduce_blocks(self._core, func, combine, plan, progress, self._options, timeout)
