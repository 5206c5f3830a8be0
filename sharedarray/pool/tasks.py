"""What is asked of a pool, and where the outcome goes.

A `Task` is what is handed to one worker: one call (`submit`), or a row of items of one call (`map`), which
can be cut in two at any place as long as nobody has begun it. Its outcomes go, item by item, to a *sink*: the
`PoolFuture` of a submitted call, or the `Gathering` of a map.

Both sinks lend a hand. A thread that waits for an outcome does not sleep until the management thread has it,
but reads the workers' answers itself (`Engine.help`): one wake-up of a thread less for each round trip, which
is most of what a small task costs.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Protocol

from sharedarray import interrupts
from sharedarray.clock import time
from sharedarray.pool.codec.pickled import Pickled

__all__ = ["Function", "Gathering", "Helper", "PoolFuture", "Raised", "Sink", "Task", "new_number"]


_logger = logging.getLogger("concurrent.futures")  # which says what callbacks raise


class Helper(Protocol):
    """What a sink needs of the engine."""

    def help(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Read answers until ``done`` says so, or time is up, or somebody else does it."""

    def nudge(self) -> None:
        """Have whoever reads answers for somebody look whether that is still wanted."""

    def expect(self) -> None:
        """Hear that somebody will learn of an outcome without asking for it here."""

    def withdraw(self, task: Task, *, running: bool) -> bool:
        """Take a task back from a worker that has not begun it, or end the worker that has."""

    def may_wait(self) -> bool:
        """Whether this thread may wait for what others have to do, for none of it is its own to do."""

    def is_first(self, task: Task) -> bool:
        """Whether a task is the one that its worker is at."""

    def call_later(self, future: PoolFuture) -> bool:
        """Have the callbacks of a future called if this thread settles it for others; return whether so."""


class Raised:
    """An exception among values."""

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception


class Sink(Protocol):
    """Where the outcomes of a task go."""

    def begin(self) -> bool:
        """Say that the task is handed out; return False if nobody wants it any more."""

    def wanted(self) -> bool:
        """Whether somebody still wants it."""

    def put(self, index: int, outcomes: list[Any]) -> None:
        """Take the outcomes of the items from ``index`` on, and the list; exceptions come as `Raised`."""

    def cancel_items(self, index: int, count: int) -> None:
        """Hear that these will not be done."""

    def skip(self, count: int) -> None:
        """Hear that so many will not be done, since nobody wants them any more."""


class Function:
    """A function for all items of one call, sent once to each worker that has part in it.

    Attributes
    ----------
    number
        Of the call.
    label
        What to call it in messages.
    pickled
        The function; what it refers to is kept.
    independent
        Whether no item waits for another one, so that a worker may be given one ahead.
    """

    __slots__ = ("__weakref__", "_kept", "independent", "label", "number", "pickled")

    def __init__(
        self, number: int, label: str, pickled: Pickled, function: object, *, independent: bool = False
    ) -> None:
        self.number = number
        self.label = label
        self.pickled = pickled
        self.independent = independent
        self._kept = function if pickled.shares or pickled.buffers else None


class Task:
    """What is handed to a worker at a time.

    Attributes
    ----------
    number
        Its own.
    call
        The number of the call that it belongs to.
    sink
        Where its outcomes go.
    first, count, done
        Its items within the sink, and how many of them are answered.
    label
        The function's name, for people.
    pickled
        The call, ready to be sent, perhaps more than once; None where there are `items`.
    items
        Arguments of all the call's items, of which this task is some; None where it is `pickled`.
    function
        What is called, if it is sent apart.
    kept
        What ``pickled`` refers to, as long as it does.
    place
        The place of the worker who had better do it, for he has the memory mapped; None for any.
    retries
        How many deaths of a worker it may still survive.
    handovers
        How many dead workers it was handed to in vain.
    cancelled
        Whether it was cancelled, with all that had not begun, while its arguments were copied.
    limit
        Seconds that an item may run.
    deadline
        When it must be over, in seconds of the monotonic clock.
    submitted, began
        Times in nanoseconds of the monotonic clock.
    """

    __slots__ = (
        "began",
        "call",
        "cancelled",
        "count",
        "deadline",
        "done",
        "first",
        "function",
        "handovers",
        "items",
        "kept",
        "label",
        "limit",
        "number",
        "pickled",
        "place",
        "retries",
        "sink",
        "submitted",
    )

    def __init__(
        self,
        call: int,
        sink: Sink,
        label: str,
        *,
        first: int = 0,
        count: int = 1,
        pickled: Pickled | None = None,
        items: Sequence[tuple[Any, ...]] | None = None,
        function: Function | None = None,
        kept: object = None,
        place: int | None = None,
        retries: int = 0,
        limit: float | None = None,
        deadline: float | None = None,
        number: int = 0,
    ) -> None:
        self.number = number or next(_numbers)
        self.call = call
        self.sink = sink
        self.label = label
        self.first = first
        self.count = count
        self.done = 0
        self.pickled = pickled
        self.items = items
        self.function = function
        self.kept = kept
        self.place = place
        self.retries = retries
        self.handovers = 0
        self.cancelled = False
        self.limit = limit
        self.deadline = deadline
        self.submitted = time.monotonic_ns()
        self.began = 0

    @property
    def left(self) -> int:
        """How many items are not answered."""
        return self.count - self.done

    def split(self, keep: int) -> Task:
        """Keep the first ``keep`` items, answered ones included, and return a task for the others."""
        rest = self._part(keep, self.count - keep)
        self.count = keep
        return rest

    def only(self, place: int) -> Task:
        """Return a task for one of the items."""
        return self._part(place, 1)

    def _part(self, start: int, count: int) -> Task:
        part = Task(
            self.call,
            self.sink,
            self.label,
            first=self.first + start,
            count=count,
            pickled=self.pickled,
            items=self.items,
            function=self.function,
            kept=self.kept,
            place=self.place,
            retries=self.retries,
            limit=self.limit,
            deadline=self.deadline,
        )
        part.submitted = self.submitted
        return part

    def again(self) -> Task:
        """Return a task for what is not answered."""
        return self.split(self.done) if self.done else self

    def release(self, into: deque[object] | None = None) -> None:
        """Let go of the arguments: nothing will be sent again.

        A caller that holds a lock gives where to put what they refer to, for that may have finalizers.
        """
        if into is not None and (self.kept is not None or self.function is not None):
            into.append((self.pickled, self.kept, self.items, self.function))
        self.pickled = self.kept = self.items = self.function = None


_numbers = itertools.count(1)


new_number: Callable[[], int] = _numbers.__next__
"""Return a number that no task and no call has."""


# Seconds that a killed worker has to be gone.
_PATIENCE = 5.0
_CANCELLED = frozenset(("CANCELLED", "CANCELLED_AND_NOTIFIED"))
_OVER = frozenset(("CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"))
_NOTIFIED = frozenset(("CANCELLED_AND_NOTIFIED", "FINISHED"))


# Held while a future without a condition changes its state or is given one.
_first = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_first._at_fork_reinit)  # type: ignore[attr-defined]


class PoolFuture(Future[Any]):
    """A `concurrent.futures.Future` whose waiters help, and which can end what it stands for.

    One whose result is simply waited for, which are nearly all, needs neither condition nor waiters nor
    callbacks, and to make and use these takes as long as the pickling of a small call. So it is given them
    when somebody asks for the condition, which the standard library does before all that it does with them.
    """

    _own: threading.Condition | None = None
    _task: Task | None = None
    _call = 0
    _settling = False
    _state = "PENDING"
    _result: Any = None
    _exception: BaseException | None = None

    def __init__(self, engine: Helper | None = None) -> None:
        self._engine = engine

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        own = self._own
        if own is None:
            with _first:
                own = self._own
                if own is None:
                    self._waiters: list[Any] = []
                    self._done_callbacks: list[Any] = []
                    own = self._own = threading.Condition()
            self._expected()
        return own

    def _expected(self) -> None:
        """Have somebody read the answer, for it is not only `result` that asks for it."""
        if self._engine is not None and self._state not in _OVER:
            self._engine.expect()

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned, or raise what it raised; see `concurrent.futures.Future.result`."""
        try:
            if timeout is not None or self._engine is None:
                timeout = self._helped(timeout)
            elif self._state not in _OVER:
                self._engine.help(self._is_over, None)
            if self._own is None and self._state == "FINISHED" and self._exception is None:
                return self._result
            return super().result(timeout)
        finally:
            del self  # as the standard library does: an exception's frame must not keep the future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; see `concurrent.futures.Future.exception`."""
        return super().exception(self._helped(timeout))

    def _helped(self, timeout: float | None) -> float | None:
        engine = self._engine
        if self._state in _OVER or engine is None:
            return timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        engine.help(self._is_over, deadline)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    @property
    def call(self) -> int:
        """The number of the call, by which the pool's reports know it."""
        return self._call

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call if it has not begun.

        Parameters
        ----------
        running : bool, default False
            Cancel it even then: the worker that runs it is killed and replaced. Nothing else is lost.

        Returns
        -------
        bool
            Whether it is cancelled.
        """
        engine, task = self._engine, self._task
        if not super().cancel():
            if self._state != "RUNNING" or engine is None or task is None:
                return False
            if engine.withdraw(task, running=running) and engine.may_wait():
                with self._condition:
                    self._condition.wait_for(lambda: self._state in _OVER, _PATIENCE)
        if engine is not None:
            engine.nudge()
        return self.cancelled()

    def done(self) -> bool:
        """Whether the call is over or cancelled."""
        if self._state not in _OVER:
            self._expected()
        return self._state in _OVER

    def _is_over(self) -> bool:
        return self._state in _OVER

    def running(self) -> bool:
        """Whether the call is being run, as far as that is known here: it is the first of its worker's."""
        task = self._task
        return super().running() and (task is None or self._engine is None or self._engine.is_first(task))

    # A sink

    def begin(self) -> bool:
        """Hear that the call is handed out; return False if it was cancelled."""
        if self._own is None:
            with _first:
                if self._own is None:
                    self._state = "RUNNING"
                    return True
        return self._state == "RUNNING" or self._begins()

    def _begins(self) -> bool:
        """Change to running; return False if it is cancelled or over. Its waiters learn of that once."""
        with self._condition:
            if self._state in _NOTIFIED:
                return False  # a second notice would be an error
            return self.set_running_or_notify_cancel()

    def wanted(self) -> bool:
        """Whether it was not cancelled."""
        return self._state not in _CANCELLED

    def _invoke_callbacks(self) -> None:
        """Call the callbacks, now if the caller has cancelled; else when all that has come is settled."""
        if not self._done_callbacks:
            return
        if not (self._settling and self._engine is not None and self._engine.call_later(self)):
            self.call_back()

    def put(self, index: int, outcomes: list[Any]) -> None:
        """Settle the future, unless it was cancelled while it still waited."""
        self._task = None
        self._settling = True
        outcome = outcomes[0]
        if self._own is None and type(outcome) is not Raised:
            with _first:
                if self._own is None:
                    self._result = outcome
                    self._state = "FINISHED"
                    return
        if self._state != "RUNNING" and not self._begins():
            return
        try:
            if type(outcome) is Raised:
                self.set_exception(outcome.exception)
            else:
                self.set_result(outcome)
        except InvalidStateError:
            pass

    def call_back(self) -> None:
        """Call the callbacks, all of them; see `concurrent.futures.Future.add_done_callback`.

        What a callback raises is logged, as the standard library does with an `Exception`, so that it does
        not end the pool's own thread. Only what a signal's handler raises goes on to the main thread.
        """
        raised: list[BaseException] = []
        for callback in self._done_callbacks:
            try:
                interrupts.call_user(callback, self)
            except BaseException as error:
                if isinstance(error, Exception) or error is self._exception or not interrupts.is_main():
                    _logger.exception("exception calling callback for %r", self)
                else:
                    raised.append(error)
        if raised:
            raise raised[0]

    def begun(self, task: Task) -> None:
        """Hear, before anybody else has it, that the call was handed out."""
        self._task, self._call, self._state = task, task.call, "RUNNING"

    def cancel_items(self, index: int, count: int) -> None:
        """Become cancelled, though the call was handed out."""
        self._task = None
        self._settling = True
        with self._condition:
            if self._state == "RUNNING":
                self._state = "PENDING"
        if super().cancel():
            self._begins()

    def skip(self, count: int) -> None:
        """Hear what is known: it was cancelled."""


class Gathering:
    """The outcomes of the items of one call, in order or as they come.

    Parameters
    ----------
    engine
        Who is helped while somebody waits.
    count
        How many items there are, where that is known.
    ordered
        Whether they are taken in their order.
    call
        The number of the call.

    Attributes
    ----------
    failed
        Whether an exception of a task was raised by the one that takes the outcomes.
    """

    failed = False

    def __init__(self, engine: Helper, count: int = 0, *, ordered: bool = True, call: int = 0) -> None:
        self.call = call
        self._engine = engine
        self._ordered = ordered
        self._count = count
        self._runs: dict[int, list[Any]] = {}  # outcomes in their order, by the index of the first
        self._came: deque[Any] = deque()
        self._changed = threading.Condition()
        self._waiting = False
        self._ended = False
        self._left = count

    # For the one who takes the outcomes

    def in_order(self, deadline: float | None = None) -> Iterator[Any]:
        """Yield the outcome of each item, or raise it, and let go of it.

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
        """Return the next outcome that comes, for `opened`."""
        if not self._came:
            self._wait(lambda: bool(self._came), deadline)
        return self._came.popleft()

    def opened(self, outcome: Any) -> Any:
        """Return a value, or raise the exception that came in place of one."""
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
        self._engine.help(there, deadline)
        while not there():
            with self._changed:
                self._waiting = True
                try:
                    if not there():
                        left = None if deadline is None else deadline - time.monotonic()
                        if left is not None and left <= 0:
                            raise TimeoutError("the results were not there in time")
                        self._changed.wait(left)
                finally:
                    self._waiting = False

    def end(self) -> None:
        """Say that no outcome is wanted any more."""
        self._ended = True

    def rest(self, deadline: float | None = None) -> None:
        """Wait until none of the items, whose number was given, is being done.

        Raises
        ------
        TimeoutError
            Time is up.
        """
        self._wait(lambda: self._left <= 0, deadline)

    # A sink

    def begin(self) -> bool:
        """Whether somebody still wants the outcomes."""
        return not self._ended

    def wanted(self) -> bool:
        """Whether somebody still wants the outcomes."""
        return not self._ended

    def put(self, index: int, outcomes: list[Any]) -> None:
        """Take the outcomes of the items from ``index`` on."""
        if self._ended:
            pass
        elif self._ordered:
            self._runs[index] = outcomes
        else:
            self._came.extend(outcomes)
        self.skip(len(outcomes))

    def skip(self, count: int) -> None:
        """Hear that so many will not be done, since nobody wants them any more."""
        with self._changed:
            self._left -= count
            if self._waiting:
                self._changed.notify_all()

    def cancel_items(self, index: int, count: int) -> None:
        """Hear that these will not be done."""
        self.put(index, [Raised(CancelledError()) for _ in range(count)])
