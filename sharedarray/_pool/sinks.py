"""`Results`: the outcomes of the items of one map, in their order or as they arrive."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NoReturn, Protocol

from sharedarray._clock import time
from sharedarray._pool.calls import Raised
from sharedarray._pool.codec.failures import add_note

__all__ = ["Results"]


class Reads(Protocol):
    """The part of the core that results use."""

    def read_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Read replies until ``done()``, or time is up, unless another thread reads."""


class Results:
    """The outcomes of the items of one call.

    A thread that holds the pool's lock may skip items, and a signal handler may interrupt a thread that
    waits here, and ask for that lock. So a thread that waits holds no lock. The lock here is held for
    assignments only, in which Python calls no handler.

    Parameters
    ----------
    core
        Reads the pipes while a thread waits.
    count
        How many items there are by now; `expect` adds to them.
    ordered
        Whether they are taken in their order.
    call
        The number of the call.
    origin
        What messages call an item and the call, such as ``("item", "map(work)")``.
    first
        The number of the first item in messages.

    Attributes
    ----------
    count
        How many items there are.
    name
        What messages call the call.
    raised
        Of the outcomes that no code takes, how many are exceptions.
    failed
        Whether an exception of a task was raised by the iterator that takes the outcomes.
    """

    failed = False

    def __init__(
        self,
        core: Reads,
        count: int = 0,
        *,
        ordered: bool = True,
        call: int = 0,
        origin: tuple[str, str] = ("item", "a map"),
        first: int = 0,
    ) -> None:
        self.call = call
        self.count = count
        self._noun, self.name = origin
        self._first = first
        self._core = core
        self._ordered = ordered
        # Outcomes, by the index of the first: how far the next one is from it, and the outcomes, the first
        # one last.
        self._runs: dict[int, tuple[int, list[Any]]] = {}
        self._arrived: deque[tuple[int, Any]] = deque()
        self._lock = threading.RLock()
        self._waiting: deque[threading.Lock] = deque()  # of each thread that waits, a lock that it acquires
        self._ended = False
        self._remaining = count
        self._abandoned = False
        self._at_end: Callable[[], object] | None = None
        self._first_raised: tuple[int, BaseException] | None = None
        self.raised = 0

    def expect(self, items: int = 1) -> None:
        """Add items; -1 takes the last one back, which could not be submitted."""
        with self._lock:
            self.count += items
            self._remaining += items

    # For the thread that takes the outcomes

    def in_order(self, deadline: float | None = None, *, returns: bool = False) -> Iterator[Any]:
        """Yield the outcome of each item, or raise it, and drop it.

        Parameters
        ----------
        deadline
            In seconds of the monotonic clock.
        returns
            Whether exceptions of tasks are yielded like results.

        Raises
        ------
        TimeoutError
            Time is up.
        """
        runs, index = self._runs, 0
        run: list[Any] = []
        try:
            while index < self.count:
                if index not in runs:
                    self._wait(partial(runs.__contains__, index), deadline)
                step, run = runs.pop(index)
                if step > 1:
                    run = self._in_turns(index, step, run)
                index += len(run)
                while run:
                    if type(run[-1]) is Raised:
                        raised = self.exception_of(index - len(run), run.pop())
                        if not returns:
                            self.throw(raised)
                        yield raised.pop()
                    else:
                        yield run.pop()
        finally:
            run.clear()
            del self, runs  # the program may keep an exception, which has this frame

    def _in_turns(self, index: int, step: int, run: list[Any]) -> list[Any]:
        """Return the outcomes from an index on, as far as workers that took turns have sent them.

        Parameters
        ----------
        index, step, run
            The outcomes of one worker: where they begin, how far each is from the next, and the last one
            first, as it is returned.
        """
        runs = [run]
        for at in range(index + 1, index + step):
            if self._runs.get(at, (0,))[0] == step:
                runs.append(self._runs.pop(at)[1])
            else:
                break
        width = len(runs)
        count = min(map(len, runs)) if width == step else 1
        found: list[Any] = [None] * (count * width)
        for at, each in enumerate(runs):
            found[width - 1 - at :: width] = each[-count:]
            del each[-count:]
            if each:
                self._runs[index + at + count * step] = step, each
        return found

    def take(self, index: int, deadline: float | None = None) -> Any:
        """Return the outcome of one item, which is a task of its own."""
        if index not in self._runs:
            self._wait(lambda: index in self._runs, deadline)
        _, (outcome,) = self._runs.pop(index)
        return outcome

    def take_any_outcome(self, deadline: float | None = None) -> tuple[int, Any]:
        """Return the next outcome that arrives, behind the index of its item."""
        if not self._arrived:
            self._wait(lambda: bool(self._arrived), deadline)
        return self._arrived.popleft()

    def exception_of(self, index: int, outcome: Raised) -> list[BaseException]:
        """Return the exception of an item, in a list, with a note that says which item it is."""
        add_note(outcome.exception, f"{self._name_of(index)} of {self.name}", f" of {self.name}")
        return [outcome.exception]

    def _name_of(self, index: int) -> str:
        return f"{self._noun} {self._first + index}"

    def throw(self, raised: list[BaseException]) -> NoReturn:
        """Raise what `exception_of` has returned."""
        self.failed = True
        exception = raised.pop()
        try:
            raise exception
        finally:
            del self, exception  # the program may keep it, and it has this frame

    def _wait(self, there: Callable[[], bool], deadline: float | None) -> None:
        self._core.read_until(there, deadline)
        while not there():
            waiting = threading.Lock()
            waiting.acquire()
            self._waiting.append(waiting)
            try:
                if there():
                    return
                remaining = threading.TIMEOUT_MAX if deadline is None else deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError("the results were not there in time")
                waiting.acquire(timeout=min(remaining, threading.TIMEOUT_MAX))
            finally:
                with contextlib.suppress(ValueError):  # it was woken
                    self._waiting.remove(waiting)

    def end(self) -> None:
        """Note that no outcome is wanted any more."""
        self._ended = True
        self._drop()

    def abandon(self, at_end: Callable[[], object]) -> None:
        """Note that no code takes the outcomes; the items are done all the same.

        Parameters
        ----------
        at_end
            Called when the last outcome is there, here or in the thread that reads.
        """
        self._abandoned = True
        self._drop()
        with self._lock:
            pending = self._remaining > 0
            if pending:
                self._at_end = at_end
        if not pending:
            at_end()

    @property
    def first_raised(self) -> tuple[str, BaseException] | None:
        """Of the outcomes that no code takes, the first item that raised an exception, and the exception."""
        found = self._first_raised
        return None if found is None else (self._name_of(found[0]), found[1])

    def _drop(self) -> None:
        """Drop the outcomes that are there; of abandoned ones count the exceptions."""
        while self._runs:
            with contextlib.suppress(KeyError):  # another thread does the same
                index, (step, run) = self._runs.popitem()
                while run:
                    self._count(index, run.pop())
                    index += step
        while self._arrived:
            with contextlib.suppress(IndexError):
                self._count(*self._arrived.popleft())

    def _count(self, index: int, outcome: Any) -> None:
        if type(outcome) is not Raised or isinstance(outcome.exception, CancelledError):
            return
        with self._lock:
            self.raised += 1
            before = self._first_raised  # which is dropped without the lock
            if before is None or index < before[0]:
                self._first_raised = index, outcome.exception

    def wait_for_all(self, deadline: float | None = None) -> None:
        """Wait until none of the items is being done.

        Raises
        ------
        TimeoutError
            Time is up.
        """
        self._wait(lambda: self._remaining <= 0, deadline)

    # As a sink

    def wanted(self) -> bool:
        """Return whether the outcomes are still wanted."""
        return not self._ended

    begin = wanted

    def put(self, index: int, outcomes: list[Any], step: int = 1) -> None:
        """Take the outcomes of the items from ``index`` on, each ``step`` behind the one before it."""
        count = len(outcomes)
        if self._ended:
            pass
        elif not self._ordered:
            self._arrived.extend(zip(range(index, index + count * step, step), outcomes, strict=True))
        else:
            outcomes.reverse()
            self._runs[index] = step, outcomes
        del outcomes
        if self._abandoned or self._ended:
            self._drop()
        self.skip(count)

    def skip(self, count: int) -> None:
        """Note that so many items will not be done."""
        at_end = None
        with self._lock:
            self._remaining -= count
            if self._remaining <= 0:
                at_end, self._at_end = self._at_end, None
        while self._waiting:
            with contextlib.suppress(IndexError):  # another thread wakes it, or its time is up
                self._waiting.popleft().release()
        if at_end is not None:
            at_end()

    def cancel_items(self, index: int, count: int, step: int = 1) -> None:
        """Note that these items will not be done."""
        self.put(index, [Raised(CancelledError()) for _ in range(count)], step)
