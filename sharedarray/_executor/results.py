"""Iterators over the results of `Pool.map` and its variants.

The calls are submitted before there is an iterator, as in `concurrent.futures`. An iterator that was never
advanced cancels nothing when it is closed or dropped: its calls run, and if they raise exceptions, a warning
tells of the first one (`unconsumed`). One that was advanced cancels the calls that have not begun.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from sharedarray import _sigint as sigint
from sharedarray._clock import time
from sharedarray._pool.calls import Raised, new_number
from sharedarray._pool.core import PoolCore
from sharedarray._pool.sinks import Results
from sharedarray._pool.unconsumed import Unconsumed
from sharedarray._progress import Bar

__all__ = ["AsTaken", "Taking", "in_order"]


def in_order(
    core: PoolCore,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    options: dict[str, Any],
    *,
    way: str,
    returns: bool,
) -> Iterator[Any]:
    """Submit all calls at once; return an iterator over their results in order, which it does not keep.

    Parameters
    ----------
    core, function, calls, options
        What is called, on what.
    way
        The method of the pool, as messages call it.
    returns
        Whether exceptions of the calls are results.
    """
    taking = None
    try:
        with sigint.deferred:  # Ctrl-C breaks off the packing, or comes when there are results to cancel
            submitted = core.intake.map(function, calls, way=way, **options)
            taking = Taking(core, submitted, options["deadline"])
        taking.begun = False
        return _ordered(taking, returns)
    except BaseException as raised:
        if taking is not None:
            taking.cancel(raised)
        raise


def _ordered(taking: Taking, returns: bool) -> Iterator[Any]:
    try:
        with taking:
            yield from taking.results.in_order(taking.deadline, returns=returns)
    finally:
        del taking  # the program may keep an exception, which has this frame


class AsTaken(Iterator[Any]):
    """The results of calls that are submitted as their results are taken.

    It submits ``size`` calls, then one more for each result. If the results are taken in their order, the
    first exception of a call ends the iterator, as in `Pool.map`. Otherwise they come as soon as they are
    there, and an exception does not end it.

    Parameters
    ----------
    core, function, options, returns
        As for `in_order`.
    calls
        Arguments of one call after the other.
    size
        Number of calls that are submitted, or done and not yet taken.
    ordered
        Whether the results are taken in their order.
    owner
        The pool, which lives as long as the iterator.
    finite
        Whether the calls are so many as their iterables have items. Then all are run, also if no result is
        ever taken.
    shown
        The progress bar.
    """

    def __init__(
        self,
        core: PoolCore,
        function: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        size: int,
        options: dict[str, Any],
        *,
        ordered: bool,
        returns: bool,
        owner: object,
        finite: bool,
        shown: Bar,
    ) -> None:
        self._taking: Taking | None = None
        self._shown = shown
        self._ordered = ordered
        self._returns = returns
        self._taken = 0
        self._feed = feed = _Feed(core, function, calls, options, ordered=ordered)
        taking = Taking(core, feed.results, options["deadline"], owner, feed if finite else None)
        taking.begin_with(feed, size)
        self._taking = taking

    def __next__(self) -> Any:
        """Return the next result, or raise the exception of a call.

        Raises
        ------
        ValueError
            A signal handler, or an iterable that is advanced here, calls it within itself.
        """
        feed = self._feed
        try:
            if feed.lock._is_owned():
                raise ValueError("a result is being waited for: it cannot be asked for another one")
            with feed.lock:
                if self._taking is None:
                    raise StopIteration
                return self._next(feed, self._taking)
        except BaseException:
            del self, feed  # the program may keep an exception, which has this frame
            raise

    def _next(self, feed: _Feed, taking: Taking) -> Any:
        results = feed.results
        box: list[Any] = []
        try:
            try:
                taking.begun = True
                results.failed = False
                if self._taken == results.count:
                    feed.check()
                    raise StopIteration
                if self._ordered:
                    index = self._taken
                    outcome = results.take(index, taking.deadline)
                else:
                    index, outcome = results.take_any_outcome(taking.deadline)
                self._taken += 1
                box = [outcome]
                del outcome
                feed.start(1)
                self._shown.update()
            except BaseException as raised:
                self._end(raised)
                raise
            if type(box[0]) is Raised:
                exception = results.exception_of(index, box.pop())
                if not self._returns:
                    results.failed = True
                    if self._ordered:
                        self._end(exception[0])
                    results.throw(exception)
                box = exception
            return box.pop()
        except BaseException:
            box.clear()
            del self, feed, taking, results
            raise

    def close(self) -> None:
        """Take no more results; cancel the calls that have not begun if any result was taken.

        Raises
        ------
        ValueError
            A result is being waited for, as with generators.
        """
        lock = self._feed.lock
        if lock._is_owned() or not lock.acquire(blocking=False):
            raise ValueError("a result is being waited for: the iterator cannot be closed now")
        try:
            self._end()
        finally:
            lock.release()

    def _end(self, raised: BaseException | None = None) -> None:
        with sigint.deferred:
            taking, self._taking = self._taking, None
            if taking is None:
                return
            if taking.begun:
                taking.cancel(raised)
                self._feed.end()
        self._shown.close()

    @sigint.finalizer
    def __del__(self) -> None:
        if getattr(self, "_taking", None) is not None:
            sigint.finalize(self._end)


class Taking:
    """Context manager in which results are taken; its exit cancels the calls whose results were not.

    After an expired deadline or Ctrl-C it ends running calls as well: the pool goes on, in a notebook with
    the next cell, and needs its workers. A KeyboardInterrupt that a task has raised is a result, and ends no
    running call.

    If it is dropped before it was entered, no result was ever asked for: the calls are run, and their results
    are dropped.

    Parameters
    ----------
    core, results, deadline
        Of the calls.
    owner
        The pool, if it has to live as long as this.
    feed
        Submits calls that are to be run in any case.

    Attributes
    ----------
    begun
        Whether any result was asked for, or the calls are not submitted yet.
    """

    def __init__(
        self,
        core: PoolCore,
        results: Results,
        deadline: float | None,
        owner: object = None,
        feed: _Feed | None = None,
    ) -> None:
        self.begun = True
        self.results = results
        self.deadline = deadline
        self._core = core
        self._owner = owner
        self._feed = feed
        self._unconsumed = Unconsumed(core, results)
        core.iterators.add(self)

    def begin_with(self, feed: _Feed, count: int) -> None:
        """Submit the first calls; cancel them if that is broken off."""
        try:
            feed.start(count)
            self.begun = False
        except BaseException as raised:
            self.cancel(raised)
            raise

    def __enter__(self) -> Taking:
        self.begun = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.cancel(exc_val)

    def cancel(self, raised: BaseException | None) -> None:
        """Cancel the calls whose results were not taken, because of an exception perhaps."""
        self.begun = True
        expired = self.deadline is not None and time.monotonic() >= self.deadline
        running = isinstance(raised, TimeoutError) and expired
        if isinstance(raised, KeyboardInterrupt):
            running = not self.results.failed
        with sigint.deferred:
            self.results.end()
            self._core.cancel_all(self.results, running=running)

    def submit_rest(self) -> None:
        """Submit the calls that are to be run in any case, if no result was asked for."""
        feed = self._feed
        if feed is None or self.begun or not feed.lock.acquire(blocking=False):
            return
        try:
            feed.start(sys.maxsize)
        finally:
            feed.lock.release()

    def abandon(self) -> None:
        """Let the calls run, and drop their results."""
        if not (self.begun or self._core.is_foreign):
            self.begun = True
            self._unconsumed.abandon()

    @sigint.finalizer
    def __del__(self) -> None:
        if not getattr(self, "begun", True):
            sigint.finalize(self._drop)

    def _drop(self) -> None:
        if not self._core.is_foreign:
            self.submit_rest()
            self.abandon()


class _Feed:
    """Submit calls one by one with arguments from an iterator.

    If the iterator raises, that exception is kept until the results of the calls before it have been taken.

    Parameters
    ----------
    core, function, calls, options
        As for `in_order`; the calls come from an iterator.
    ordered
        Whether the results are taken in their order.

    Attributes
    ----------
    results
        The outcomes of the calls.
    lock
        Held while a thread takes a result and submits the next call.
    """

    def __init__(
        self,
        core: PoolCore,
        function: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        options: dict[str, Any],
        *,
        ordered: bool,
    ) -> None:
        self._intake = core.intake
        self._options = options
        self._calls = calls
        self._function = function
        self._raised: Exception | None = None
        self._sent = sent = core.intake.function_of(function)
        call, way = new_number(), "map" if ordered else "imap_unordered"
        core.statistics.called_many(call, sent.label, sent.pickled, 0)
        self.results = Results(core, ordered=ordered, call=call, origin=("item", f"{way}({sent.label})"))
        self.lock: Any = threading.RLock()  # Any: of which the type checker does not know `_is_owned`

    def start(self, count: int) -> None:
        """Submit ``count`` calls, or fewer if there are no more."""
        for _ in range(count):
            try:
                args = next(self._calls)
            except StopIteration:
                self._intake.flush(self._sent, self.results)
                return
            except Exception as raised:
                self._stop(raised)
                return
            try:
                self._intake.add(self._sent, self.results, args, original=self._function, **self._options)
            except Exception as raised:  # the pool was shut down
                if not self.results.count:
                    raise
                self._stop(raised)
                return

    def _stop(self, raised: Exception) -> None:
        """Submit no more calls; keep an exception, without the frame of `start`, until its turn."""
        self._intake.flush(self._sent, self.results)
        frames = raised.__traceback__
        self._calls, self._raised = iter(()), raised.with_traceback(frames and frames.tb_next)

    def end(self) -> None:
        """Submit no more calls, and drop the exception: its frames refer to the iterator over the results."""
        self._calls, self._raised = iter(()), None

    def check(self) -> None:
        """Raise the exception of the iterator, if there is one."""
        raised, self._raised = self._raised, None
        if raised is not None:
            try:
                raise raised
            finally:
                del self, raised  # the program may keep it, and it has this frame
