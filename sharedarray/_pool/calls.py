"""Functions and tasks: what a pool is asked to do.

A `Task` is what is handed to one worker: one call (`submit`), or several items of one call (`map`), in order.
It can be split anywhere as long as no worker has begun it. Its outcomes go to a `Sink`: the future of a
submitted call, or the results of a map.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from sharedarray._clock import time
from sharedarray._pool.codec.account import Account
from sharedarray._pool.codec.pickled import Pickled, Short

if TYPE_CHECKING:
    from sharedarray._pool.futures import PoolFuture
    from sharedarray._pool.sinks import Results

    # It receives the outcomes of a task; exceptions come as `Raised`.
    Sink: TypeAlias = PoolFuture | Results

__all__ = ["Arguments", "Function", "FunctionStats", "Raised", "Task", "name_of", "new_number"]

_numbers = itertools.count(1)

new_number: Callable[[], int] = _numbers.__next__
"""Return a number that no task and no function has."""


def name_of(function: Callable[..., Any]) -> str:
    """Return what messages and reports call a function."""
    try:
        inner = getattr(function, "func", function)  # functools.partial
        name = getattr(inner, "__qualname__", None) or getattr(inner, "__name__", None)
    except Exception:  # an attribute of the user's
        inner = name = function
    return name if type(name) is str else type.__dict__["__qualname__"].__get__(type(inner))


class Raised:
    """An exception in a list of outcomes."""

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception


class FunctionStats:
    """Statistics of a function.

    Attributes
    ----------
    seconds
        Of one call; None if no call was measured.
    count
        Replies.
    result
        Bytes of recycled memory that the last result needed; 0 for none.
    """

    __slots__ = ("_code", "count", "result", "seconds")

    # Weight of the newest duration.
    NEWEST = 0.2

    def __init__(self, code: object = None) -> None:
        self._code = code  # kept, so that no other function gets its identity
        self.seconds: float | None = None
        self.count = 0
        self.result = 0

    def took(self, seconds: float) -> None:
        """Note how long a call took: longer at once, and shorter little by little.

        One slow call among quick ones tells of more.
        """
        self.count += 1
        known = self.seconds
        if known is None or seconds > known:
            self.seconds = seconds
        else:
            self.seconds = known + self.NEWEST * (seconds - known)


class Function:
    """A function that is sent once to each worker that calls it.

    Attributes
    ----------
    number
        Of the function.
    label
        What messages and reports call it.
    pickled
        The function; what it refers to is kept alive.
    stats
        What is known about it.
    """

    __slots__ = ("__weakref__", "_kept", "label", "number", "pickled", "stats")

    def __init__(self, label: str, pickled: Pickled, function: object, stats: FunctionStats) -> None:
        self.number = new_number()
        self.label = label
        self.pickled = pickled
        self.stats = stats
        self._kept = function if pickled.shares or pickled.buffers else None


class Task:
    """Calls of one function that one worker gets at a time.

    Attributes
    ----------
    number
        Its own.
    call
        The number of the call that it belongs to, by which reports know it.
    sink
        Where its outcomes go.
    label
        What messages and reports call the function.
    stats
        What is known about the function.
    first, step, count, done, raised
        Its items within the sink: which is the first one, how far the next one is from it, how many they are,
        how many of them are answered, and how many of these by an exception.
    function
        The function, if workers keep it; None if it is in ``pickled``.
    pickled
        The one call, which may be sent more than once; None if there are ``items``.
    items
        The arguments of each item of the whole sink, from its first one on: numbers and short text only.
    kept
        What must live until the outcome has arrived.
    independent
        Whether no item waits for another one, so that a worker may get items ahead of their turn.
    is_small
        Whether it has numbers and short text only, so that many share a message.
    lazy
        Whether the outcomes are not awaited one by one.
    slot
        The worker that is to have it, by its slot index, if that can be; None for any.
    retries
        How many more times it is run if its worker dies.
    handovers
        How many dead workers it was handed to.
    cancelled
        Whether it was cancelled while its arguments were copied.
    limit
        Seconds that one item may run.
    deadline
        When it must be done, in seconds of the monotonic clock.
    submitted, began
        Nanoseconds of the monotonic clock.
    """

    pickled: Pickled | None = None
    items: Sequence[tuple[Any, ...]] | None = None
    function: Function | None = None
    kept: object = None
    independent = False
    lazy = False
    is_small = False
    slot: int | None = None
    retries = 0
    handovers = 0
    cancelled = False
    limit: float | None = None
    deadline: float | None = None
    first = 0
    step = 1
    count = 1
    done = 0
    raised = 0
    began = 0

    def __init__(self, sink: Sink, label: str, stats: FunctionStats, call: int = 0) -> None:
        self.number = new_number()
        self.call = call or self.number
        self.sink = sink
        self.label = label
        self.stats = stats
        self.submitted = time.monotonic_ns()

    @property
    def remaining(self) -> int:
        """Number of items that are not answered."""
        return self.count - self.done

    @property
    def index(self) -> int:
        """Index within the sink of the next item that is not answered."""
        return self.first + self.done * self.step

    @property
    def arguments(self) -> Sequence[tuple[Any, ...]]:
        """The arguments of the items that are not answered, of a task with ``items``."""
        assert self.items is not None
        return self.items[self.index : self.first + self.count * self.step : self.step]

    @property
    def is_copied(self) -> bool:
        """True if it can be sent without copying anything before."""
        pickled, function = self.pickled, self.function
        return (pickled is None or pickled.sendable) and (function is None or function.pickled.sendable)

    def split(self, keep: int) -> Task:
        """Keep the first ``keep`` items, answered ones included; return a task for the others."""
        rest = self._part(keep, self.count - keep)
        self.count = keep
        return rest

    def split_in_turns(self, count: int, workers: int) -> list[Task]:
        """Return a task for each worker, of the items that it gets in turns with the others; then the rest.

        Parameters
        ----------
        count
            How many items each worker gets, if there are enough that are not answered.
        workers
            How many workers.
        """
        items = self.unanswered()
        total = items.count
        found = []
        for worker in range(min(workers, total)):
            part = items._part(worker, min(count, -(-(total - worker) // workers)))
            part.step = items.step * workers
            found.append(part)
        if count * workers < total:
            found.append(items._part(count * workers, total - count * workers))
        return found

    def join(self, other: Task) -> bool:
        """Add the items of a task that come right behind these; return False if this cannot have both."""
        step = other.first - self.first if self.count == 1 else self.step
        if (
            self.items is None
            or other.items is not self.items
            or step < 1
            or other.first != self.first + self.count * step
            or (other.count > 1 and other.step != step)
            or self.done
            or other.done
        ):
            return False
        for name in ("sink", "function", "slot", "limit", "deadline", "retries", "handovers", "cancelled"):
            if getattr(self, name) != getattr(other, name):
                return False
        self.step = step
        self.count += other.count
        return True

    def only(self, item: int) -> Task:
        """Return a task for one of the items."""
        return self._part(item, 1)

    def _part(self, start: int, count: int) -> Task:
        part = Task(self.sink, self.label, self.stats, self.call)
        first = self.first + start * self.step
        vars(part).update(vars(self), number=part.number, first=first, count=count)
        part.done = part.raised = part.began = part.handovers = 0
        part.cancelled = False
        return part

    def unanswered(self) -> Task:
        """Return a task for the items that are not answered."""
        return self.split(self.done) if self.done else self

    def release(self, into: deque[object] | None = None) -> None:
        """Drop the arguments: nothing will be sent again.

        A caller that holds a lock gives a deque for what they refer to, which may have finalizers.
        """
        if into is not None and (self.kept is not None or self.function is not None):
            into.append((self.pickled, self.kept, self.items, self.function))
        self.pickled = self.kept = self.items = self.function = None


class Arguments(Short):
    """The arguments of one call, numbers and short text only, as a tuple in the format of `marshal`.

    One of them may be a list, a tuple or a dict of such. Then reports count the bytes of each argument.
    """

    __slots__ = ("account",)

    def __init__(self, stream: bytes, account: Account | None = None) -> None:
        self.stream = stream
        self.account = account
