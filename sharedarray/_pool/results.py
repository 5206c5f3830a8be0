"""Iterators over the results of `Pool.map` and its variants.

Each is a generator that first yields None. By then its calls are submitted, and from then on it cleans up
when it is dropped: a generator that has never run does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from sharedarray._clock import time
from sharedarray._pool.calls import new_number
from sharedarray._pool.engine import Engine
from sharedarray._pool.sinks import Results
from sharedarray._progress import Bar, watched

__all__ = ["ahead", "in_order", "stream"]


def stream(results: Iterator[Any], shown: Bar) -> Iterator[Any]:
    """Submit the calls of a generator of this module; return its results, with a progress bar."""
    try:
        next(results)
    except BaseException:
        shown.close()
        raise
    return watched(results, shown)


def in_order(
    engine: Engine, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], options: dict[str, Any]
) -> Iterator[Any]:
    """Submit all calls at once, then yield their results in order, and keep no reference to them."""
    gathering = engine.intake.map(function, calls, **options)
    with _Abandon(engine, deque([gathering]), options["deadline"]):
        yield None
        yield from gathering.in_order(options["deadline"])


def ahead(
    engine: Engine,
    function: Callable[..., Any],
    calls: Iterator[tuple[Any, ...]],
    size: int,
    options: dict[str, Any],
    *,
    ordered: bool,
) -> Iterator[Any]:
    """Submit ``size`` calls, then one more for each result that is yielded.

    Parameters
    ----------
    engine, function, options
        Of the calls.
    calls
        Arguments of one call after the other.
    size
        Number of calls that are submitted, or done and not yet taken.
    ordered
        Whether the results come in the order of the calls, or as soon as they are there.
    """
    sent = engine.intake.function_of(function)
    call = new_number()
    engine.statistics.called_many(call, sent.label, sent.pickled, 0)
    deadline = options["deadline"]
    # One sink for all results as they come, or one for each if they are to come in order.
    sinks = deque() if ordered else deque([Results(engine, ordered=False, call=call)])

    def submit(args: tuple[Any, ...]) -> None:
        if ordered:
            sinks.append(Results(engine, ordered=False, call=call))
        engine.intake.add(sent, sinks[-1], args, **options)

    feed = _Feed(calls, submit)
    with _Abandon(engine, sinks, deadline) as abandon:
        pending = feed.start(size)
        yield None
        while pending:
            sink = abandon.current = sinks[0]
            outcome = [sink.take_any_outcome(deadline)]
            if ordered:
                sinks.popleft()
            pending += feed.start(1) - 1
            yield sink.opened(outcome.pop())
        feed.check()


class _Abandon:
    """Context manager that cancels, at its exit, the calls whose results have not been taken.

    After an expired deadline or Ctrl-C it ends running calls as well: the pool goes on, in a notebook with
    the next cell, and needs its workers. A KeyboardInterrupt that a task has raised is a result, and ends no
    running call.

    Parameters
    ----------
    engine, deadline
        Of the calls.
    sinks
        The sinks of the results that have not been taken.

    Attributes
    ----------
    current
        The sink from which the last result was taken.
    """

    def __init__(self, engine: Engine, sinks: deque[Results], deadline: float | None) -> None:
        self._engine = engine
        self._sinks = sinks
        self._deadline = deadline
        self.current = sinks[0] if sinks else None

    def __enter__(self) -> _Abandon:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        expired = self._deadline is not None and time.monotonic() >= self._deadline
        running = isinstance(exc_val, TimeoutError) and expired
        if isinstance(exc_val, KeyboardInterrupt):
            running = self.current is None or not self.current.failed
        for sink in self._sinks:
            sink.end()
            self._engine.forget(sink, running=running)


class _Feed:
    """Submit calls one by one with arguments from an iterator.

    If the iterator raises, that exception is kept until the results of the calls before it have been taken.

    Parameters
    ----------
    calls
        Arguments of one call after the other.
    submit
        Submits a call.
    """

    def __init__(self, calls: Iterator[tuple[Any, ...]], submit: Callable[[tuple[Any, ...]], None]) -> None:
        self._calls = calls
        self._submit = submit
        self._any = False
        self._raised: Exception | None = None

    def start(self, count: int) -> int:
        """Submit ``count`` calls, or fewer if there are no more; return how many."""
        for started in range(count):
            try:
                args = next(self._calls)
            except StopIteration:
                return started
            except Exception as raised:
                return self._stop(raised, started)
            try:
                self._submit(args)
            except Exception as raised:  # the pool was shut down
                if not self._any:
                    raise
                return self._stop(raised, started)
            self._any = True
        return count

    def _stop(self, raised: Exception, started: int) -> int:
        self._calls, self._raised = iter(()), raised
        return started

    def check(self) -> None:
        """Raise the exception of the iterator, if there is one."""
        raised, self._raised = self._raised, None
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # or its frame would hold it
