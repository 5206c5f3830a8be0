"""`Results`: the outcomes of the items of one map, in their order or as they arrive."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from sharedarray._clock import time
from sharedarray._pool.calls import Raised
from sharedarray._pool.futures import Helper

__all__ = ["Results"]


class Results:
    """The outcomes of the items of one call.

    Parameters
    ----------
    engine
        Reads the pipes while a thread waits.
    count
        How many items there are, if that is known.
    ordered
        Whether they are taken in their order.
    call
        The number of the call.

    Attributes
    ----------
    failed
        Whether an exception of a task was raised by the iterator that takes the outcomes.
    """

    failed = False

    def __init__(self, engine: Helper, count: int = 0, *, ordered: bool = True, call: int = 0) -> None:
        self.call = call
        self._engine = engine
        self._ordered = ordered
        self._count = count
        self._runs: dict[int, list[Any]] = {}  # outcomes in their order, by the index of the first
        self._arrived: deque[Any] = deque()
        self._changed = threading.Condition()
        self._waiting = False
        self._ended = False
        self._remaining = count

    # For the thread that takes the outcomes

    def in_order(self, deadline: float | None = None) -> Iterator[Any]:
        """Yield the outcome of each item, or raise it, and drop it.

        Raises
        ------
        TimeoutError
            Time is up.
        """
        runs, index = self._runs, 0
        while index < self._count:
            if index not in runs:
                self._wait(lambda at=index: at in runs, deadline)  # type: ignore[misc]
            run = runs.pop(index)
            index += len(run)
            run.reverse()
            while run:
                if type(run[-1]) is Raised:
                    self.opened(run.pop())
                yield run.pop()

    def take_any_outcome(self, deadline: float | None = None) -> Any:
        """Return the next outcome that arrives, for `opened`."""
        if not self._arrived:
            self._wait(lambda: bool(self._arrived), deadline)
        return self._arrived.popleft()

    def opened(self, outcome: Any) -> Any:
        """Return a value, or raise the exception that arrived in place of one."""
        if type(outcome) is not Raised:
            return outcome
        self.failed = True
        exception = outcome.exception
        del outcome
        try:
            raise exception
        finally:
            del exception  # or its frame would hold it

    def _wait(self, there: Callable[[], bool], deadline: float | None) -> None:
        self._engine.read_until(there, deadline)
        while not there():
            with self._changed:
                self._waiting = True
                try:
                    if not there():
                        remaining = None if deadline is None else deadline - time.monotonic()
                        if remaining is not None and remaining <= 0:
                            raise TimeoutError("the results were not there in time")
                        self._changed.wait(remaining)
                finally:
                    self._waiting = False

    def end(self) -> None:
        """Note that no outcome is wanted any more."""
        self._ended = True

    def rest(self, deadline: float | None = None) -> None:
        """Wait until none of the items, whose number was given, is being done.

        Raises
        ------
        TimeoutError
            Time is up.
        """
        self._wait(lambda: self._remaining <= 0, deadline)

    # As a sink

    def begin(self) -> bool:
        """Return whether the outcomes are still wanted."""
        return not self._ended

    def wanted(self) -> bool:
        """Return whether the outcomes are still wanted."""
        return not self._ended

    def put(self, index: int, outcomes: list[Any], step: int = 1) -> None:
        """Take the outcomes of the items from ``index`` on, each ``step`` behind the one before it."""
        count = len(outcomes)
        if self._ended:
            pass
        elif self._ordered and step > 1:
            outcomes.reverse()
            for at in range(index, index + count * step, step):
                self._runs[at] = [outcomes.pop()]
        elif self._ordered:
            self._runs[index] = outcomes
        else:
            self._arrived.extend(outcomes)
        self.skip(count)

    def skip(self, count: int) -> None:
        """Note that so many items will not be done."""
        with self._changed:
            self._remaining -= count
            if self._waiting:
                self._changed.notify_all()

    def cancel_items(self, index: int, count: int, step: int = 1) -> None:
        """Note that these items will not be done."""
        self.put(index, [Raised(CancelledError()) for _ in range(count)], step)
