"""`Pool.map` and its variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Never, TypeVar

from sharedarray._clock import deadline_of
from sharedarray._executor import results
from sharedarray._executor.arguments import (
    argument_tuples,
    at_least,
    check_function,
    common_length,
    refuse_keywords,
    refuse_others,
    zipped,
)
from sharedarray._executor.migration import MAP_KEYWORDS, explains_keywords
from sharedarray._progress import Progress, bar, closed_unless_done, watched

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Maps"]

T = TypeVar("T")

# Calls per worker that `imap_unordered` keeps submitted: enough that a worker finds its next one waiting, few
# enough that an endless iterable is not consumed far ahead.
_CALLS_AHEAD = 4


class Maps:
    """The calls of one function on many items."""

    _core: PoolCore
    _max_workers: int
    _options: dict[str, Any]

    @explains_keywords(MAP_KEYWORDS)
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: Progress = None,
        return_exceptions: bool = False,
        **unknown: Never,
    ) -> Iterator[T]:
        """Call ``fn`` on the items of the iterables, as `map` does, and yield the results in order.

        Parameters
        ----------
        fn : callable
            Takes as many arguments as there are iterables. It is sent to each worker once.
        *iterables : iterable
            Consumed at once; if one raises, this call raises that exception, and nothing is called. Large
            plain arrays among the items are copied when they are sent, an array that occurs several times
            once for all: leave them unchanged until the results are there. The next call copies them again.
        timeout : float, optional
            Seconds from now until the last result must be there. Workers that still run calls then are killed
            and replaced.
        chunksize : int, optional
            Checked and ignored: calls are sent in batches of up to 0.1 s, and those that have not begun are
            taken back from a worker that turns out to be slow.
        buffersize : int, optional
            Largest number of calls that are submitted, or done and not yet taken; None for all. The iterables
            are consumed as results are, so they may be endless; an exception of theirs comes behind the
            results of all calls before it.
        progress : bool or dict, optional
            True shows a progress bar; a dict holds arguments of tqdm (extra ``progress``). None shows a bar
            after a second in notebooks and terminals, if tqdm is installed.
        return_exceptions : bool, default False
            True yields the exception of a call in place of its result, as `asyncio.gather` does. Otherwise
            the first exception is raised, and ends the iterator.

        Returns
        -------
        iterator
            The calls are submitted by now, and run even if no code takes a result. If you have taken some,
            closing or dropping the iterator cancels the calls that have not begun.

        Raises
        ------
        TimeoutError
            From the iterator, when the timeout expires.
        MissingExtraError
            ``progress`` without tqdm (an `ImportError`).

        Warns
        -----
        UnconsumedResultsWarning
            Calls raised exceptions, and no code took any result. It is issued when the iterator is gone and
            all calls are done, and tells the first exception.

        Notes
        -----
        An exception of a call has a note that says which one it was: ``item 17 of map(work)``, counted from
        0.

        Calls begin nearly in the order of the iterables. Results arrive many at a time, at the latest some
        25 ms after they are computed; the first result of each batch arrives at once.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     list(pool.map(pow, [1, 2, 3], [2, 2, 2]))
        [1, 4, 9]
        """
        if unknown:
            refuse_keywords(self.map, fn, unknown)
        check_function("map", fn, iterables)
        calls = zipped("map", fn, iterables)
        if buffersize is None:
            return self._collect("map", fn, calls, timeout, chunksize, progress, return_exceptions)
        ahead = at_least(1, "buffersize", buffersize)
        total = common_length(iterables)
        return self._feed(
            fn, calls, ahead, total, timeout, chunksize, progress, ordered=True, returns=return_exceptions
        )

    @explains_keywords(MAP_KEYWORDS)
    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        *others: Never,
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: Progress = None,
        return_exceptions: bool = False,
        **unknown: Never,
    ) -> Iterator[T]:
        """Call ``fn`` on each tuple of arguments, as `itertools.starmap` does; otherwise as `map`.

        Parameters
        ----------
        fn : callable
            Takes as many arguments as the tuples have. It is sent to each worker once.
        iterable : iterable of tuple
            The arguments of each call. Consumed at once.
        timeout, chunksize, progress, return_exceptions
            As for `map`.

        Returns
        -------
        iterator
            The results in order, as `map` yields them.

        Raises
        ------
        TimeoutError
            From the iterator, when the timeout expires.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     list(pool.starmap(pow, [(2, 3), (3, 2)]))
        [8, 9]
        """
        if unknown:
            refuse_keywords(self.starmap, fn, unknown)
        check_function("starmap", fn)
        refuse_others("starmap", others)
        calls = argument_tuples(iterable)
        return self._collect("starmap", fn, calls, timeout, chunksize, progress, return_exceptions)

    @explains_keywords(MAP_KEYWORDS)
    def imap_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: Progress = None,
        return_exceptions: bool = False,
        **unknown: Never,
    ) -> Iterator[T]:
        """Call ``fn`` on the items of the iterables and yield each result as soon as it is there.

        Parameters
        ----------
        fn : callable
            Takes as many arguments as there are iterables. It is sent to each worker once.
        *iterables : iterable
            Consumed as the calls end, a few ahead, so they may be endless, and yield the same array again
            with other data in it. An exception of theirs comes behind the results of all calls before it.
        timeout, chunksize, progress, return_exceptions
            As for `map`.

        Returns
        -------
        iterator
            The results in the order in which the calls end. If you take none, those calls are run that were
            submitted; all of them if the iterables have a length.

        Raises
        ------
        TimeoutError
            From the iterator, when the timeout expires.

        Notes
        -----
        The exception of a call does not end the iterator: the next `next` gives the next result. (A ``for``
        loop ends with the first exception; ``return_exceptions=True`` keeps it going.)

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     sorted(pool.imap_unordered(abs, [-3, -1, -2]))
        [1, 2, 3]
        """
        if unknown:
            refuse_keywords(self.imap_unordered, fn, unknown)
        check_function("imap_unordered", fn, iterables)
        calls = zipped("imap_unordered", fn, iterables)
        total = common_length(iterables)
        ahead = self._max_workers * _CALLS_AHEAD
        return self._feed(
            fn, calls, ahead, total, timeout, chunksize, progress, ordered=False, returns=return_exceptions
        )

    def _feed(
        self,
        fn: Callable[..., T],
        calls: Iterator[tuple[Any, ...]],
        ahead: int,
        total: int | None,
        timeout: float | None,
        chunksize: int | None,
        progress: Progress,
        *,
        ordered: bool,
        returns: bool,
    ) -> Iterator[T]:
        """Submit so many calls, and one more for each result that is taken."""
        options = self._call_options(timeout, chunksize, ahead if ordered else total)
        shown = bar(progress, total)
        with closed_unless_done(shown):
            return results.AsTaken(
                self._core,
                fn,
                calls,
                ahead if ordered else ahead * options.get("chunksize", 1),
                options,
                ordered=ordered,
                returns=returns,
                owner=self,
                finite=total is not None and not ordered,
                shown=shown,
            )

    def _collect(
        self,
        way: str,
        fn: Callable[..., T],
        calls: Iterable[tuple[Any, ...]],
        timeout: float | None,
        chunksize: int | None,
        progress: Progress,
        returns: bool,
    ) -> Iterator[T]:
        collected = list(calls)
        options = self._call_options(timeout, chunksize, len(collected))
        shown = bar(progress, len(collected))
        with closed_unless_done(shown):
            found = results.in_order(self._core, fn, collected, options, way=way, returns=returns)
        return watched(found, shown)

    def _call_options(
        self, timeout: float | None, chunksize: int | None, total: int | None
    ) -> dict[str, Any]:
        """Return the options of a map of so many items, at a time at most; None if that is not known."""
        if chunksize is not None:
            at_least(1, "chunksize", chunksize)
        return {**self._options, "deadline": deadline_of(timeout)}
