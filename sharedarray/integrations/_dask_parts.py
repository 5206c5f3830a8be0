"""The parts of a map, as they are sent to a Dask worker and back."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

import numpy as np

from sharedarray import _array as arrays, _errors as errors, _hints as hints, _reference as reference
from sharedarray._array import SharedArray
from sharedarray._pool.calls import Raised
from sharedarray._pool.codec.failures import (
    Failure,
    failure_of,
    forget_frames,
    outside_iteration,
    rebuild,
    unreturnable,
)
from sharedarray._pool.futures import FUTURE_METHODS
from sharedarray._pool.sinks import Results
from sharedarray._segment import Mapping, mapping_of
from sharedarray.integrations._dask_sharing import Array, ClusterFuture, task_of
from sharedarray.integrations._distributed import distributed
from sharedarray.integrations._packing import pack, travels_apart, unpack
from sharedarray.integrations._transport import Lost


class _View:
    """A view of a block: offset, shape and strides in the array of its bytes, which the task gets apart.

    Parameters
    ----------
    number
        Of the block, among those that the task gets.
    start
        Byte of the block's data at which the first element is.
    """

    def __init__(self, number: int, start: int, view: Array) -> None:
        self.number = number
        self.start = start
        self.like = view.shape, view.strides, view.dtype
        self.writable = view.flags.writeable

    def of(self, blocks: Sequence[Array]) -> SharedArray:
        """Return the view, in this process."""
        block = blocks[self.number]
        if isinstance(block, Lost):
            block.raised()
        mapping = mapping_of(block)
        assert mapping is not None
        shape, strides, dtype = self.like
        start = arrays.offset_of(block, mapping) + self.start
        made = np.ndarray.__new__(
            SharedArray, shape, dtype, arrays.bytes_behind(block, mapping), start, strides
        )
        if not (self.writable and block.flags.writeable):
            made.flags.writeable = False
        return made


class Order:
    """A function, some arguments or some results, packed.

    Attributes
    ----------
    stream
        The pickle.
    found
        What is beside it: arrays, and places in blocks.
    """

    def __init__(self, stream: bytes, found: list[Any]) -> None:
        self.stream = stream
        self.found = found

    def opened(self, blocks: Sequence[Array]) -> Any:
        """Return the object that was packed."""
        return unpack(self.stream, [each.of(blocks) if type(each) is _View else each for each in self.found])

    def __sizeof__(self) -> int:
        """Return the number of packed bytes, by which Dask limits the memory of a worker."""
        return len(self.stream) + sum([each.nbytes for each in self.found if isinstance(each, np.ndarray)])


def perform(
    function: Order, orders: Sequence[Order], count: int, blocks: Sequence[Array], again: int
) -> Order:
    """Do some calls, in a worker, and pack their results; that of a call that raises is a `Failure`.

    Dask itself would send each result in its own way for the class, and of an instance of a subclass of
    ndarray only the data. An exception would be the outcome of all these calls.

    Parameters
    ----------
    function, orders, count
        What is called, on what, and how many calls these are.
    blocks
        The arrays that are in them.
    again
        How often a call that raises an exception is run again.
    """
    try:
        call = function.opened(blocks)
        calls = [each for order in orders for each in order.opened(blocks)]
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, _ACTED_ON):
            raise
        return Order(*pack([failure_of(error)] * count, _beside))
    results = [_outcome(call, args, kwargs, again) for args, kwargs in calls]
    try:
        return Order(*pack(results, _beside))
    except Exception:
        return Order(*pack([_sendable(result) for result in results], _beside))


# Exceptions on which Dask acts: it ends a worker whose task raises `SystemExit`, and its coroutines confuse
# the others with exceptions that they raise themselves.
_ACTED_ON = StopIteration, StopAsyncIteration, CancelledError


def _beside(array: Array, _: bool) -> Array | None:
    return array if travels_apart(array) else None


def _outcome(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], again: int) -> Any:
    """Return what a call returns, or its exception as a `Failure`."""
    while True:
        try:
            return call(*args, **kwargs)
        except distributed.Reschedule:
            raise  # the function asks Dask for another worker
        except BaseException as error:
            if not again:
                failure = failure_of(error, error.__traceback__)
                forget_frames(error)  # which hold arguments, in cycles perhaps
                return failure
        again -= 1


def _sendable(result: Any) -> Any:
    """Return a result, or why it cannot be sent."""
    try:
        pack(result, _beside)
    except Exception as reason:
        return failure_of(unreturnable(result, reason))
    return result


class Replicas:
    """The blocks that are arguments of a pool's tasks. For each, a task of Dask returns it."""

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._known: weakref.WeakKeyDictionary[Mapping, ClusterFuture] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, mapping: Mapping) -> ClusterFuture:
        """Return the future of a block's data, as bytes."""
        with self._lock:
            future = self._known.get(mapping)
            if future is None or future.status in ("error", "lost", "cancelled"):
                future = self._known[mapping] = task_of(self._client, _bytes_of(mapping))
            return future

    def clear(self) -> None:
        """Drop all blocks."""
        with self._lock:
            self._known.clear()


def _bytes_of(mapping: Mapping) -> SharedArray:
    return np.ndarray.__new__(SharedArray, len(mapping), np.uint8, np.frombuffer(mapping, np.uint8))


class Packing:
    """Packs the parts of one task, or of several that share a function.

    Parameters
    ----------
    replicas
        The pool's.
    shared
        Plain arrays that several tasks get, with shared ones in their place, by id.
    """

    def __init__(self, replicas: Replicas, shared: dict[int, tuple[Array, SharedArray]]) -> None:
        self._replicas = replicas
        self._shared = shared
        self.futures: list[ClusterFuture] = []
        self._numbers: dict[Mapping, int] = {}

    def pack(self, obj: object) -> Order:
        """Pack a function, an argument or a result."""
        return Order(*pack(obj, self._stand_in))

    def _stand_in(self, array: Array, _: bool) -> Any:
        array = self._shared.get(id(array), (array, array))[1]
        mapping = mapping_of(array)
        if mapping is None or reference.reduce_held(array) is None:
            # A copy, since Dask sends it a moment later, and the caller may change its array.
            return array.copy(order="K") if travels_apart(array) else None
        if mapping not in self._numbers:
            self._numbers[mapping] = len(self.futures)
            self.futures.append(self._replicas.of(mapping))
        start = arrays.start_of(array, mapping)
        return _View(self._numbers[mapping], start, array)


class DaskFuture(Future[Any]):
    """A future of `concurrent.futures` for one of Dask's.

    Attributes
    ----------
    in_cluster
        The future of the cluster; None before it is there, and when it is done.
    sink
        Where the outcomes go, if they are of items of a map.
    """

    def __init__(self, sink: Results | None = None) -> None:
        super().__init__()
        self.in_cluster: ClusterFuture | None = None
        self.sink = sink

    if not TYPE_CHECKING:  # for a type checker, every name would be there then

        def __getattr__(self, name):
            raise hints.no_attribute(self, name, FUTURE_METHODS)

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call, if it is not over.

        Parameters
        ----------
        running : bool, default False
            Changes nothing: Dask ends no call that has begun, and drops its result in either case.
        """
        cancelled = super().cancel()
        if cancelled and self.in_cluster is not None:
            self.in_cluster.cancel()
        return cancelled

    def follow(self, in_cluster: ClusterFuture, take: Callable[[list[Any]], Any]) -> None:
        """Take the outcomes of Dask's future."""
        self.in_cluster = in_cluster

        # It keeps this future until then, also if the program drops the future.
        def finish(in_cluster: ClusterFuture) -> None:
            if not self.set_running_or_notify_cancel():
                return
            self.in_cluster = None
            try:
                found = [_rebuilt(each) for each in in_cluster.result().opened(())]
            except BaseException as error:
                self.set_exception(_translated(error))
                return
            value = take(found)
            if type(value) is Raised:
                self.set_exception(value.exception)
            else:
                self.set_result(value)

        in_cluster.add_done_callback(finish)


def _rebuilt(outcome: Any) -> Any:
    return Raised(rebuild(outcome)) if type(outcome) is Failure else outcome


def _translated(error: BaseException) -> BaseException:
    if type(error).__name__ == "KilledWorker":
        died = errors.WorkerDied(
            "a task's workers died, one after the other",
            found=str(error),
            next_step="look at the workers' logs; Dask tries distributed.scheduler.allowed-failures times",
        )
        died.__cause__ = error
        return died
    if type(error).__name__ == "FutureCancelledError":
        return CancelledError(str(error))
    return outside_iteration(error)


def first_of(outcomes: list[Any]) -> Any:
    return outcomes[0]


def put_outcomes(indexes: Sequence[int], part: DaskFuture) -> None:
    """Add the outcomes of a part of a map to the results."""
    sink = part.sink
    assert sink is not None
    if part.cancelled():
        outcomes: list[Any] = [Raised(CancelledError()) for _ in indexes]
    else:
        error = part.exception()
        outcomes = part.result() if error is None else [Raised(error)] * len(indexes)
    if isinstance(indexes, range):
        sink.put(indexes.start, list(outcomes))
    else:
        for index, outcome in zip(indexes, outcomes, strict=True):
            sink.put(index, [outcome])


class Sent:
    """A function that is called on items which come one by one.

    Attributes
    ----------
    function, label
        What is called, and what messages call it.
    packing, packed, orders
        Of the task that is not submitted yet: its parts, the function, and arguments of one call each.
    """

    pickled = None

    def __init__(self, function: Callable[..., Any], label: str) -> None:
        self.function = function
        self.label = label
        self.packing: Packing | None = None
        self.packed: Order | None = None
        self.orders: list[Order] = []
