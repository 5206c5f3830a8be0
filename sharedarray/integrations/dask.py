"""Dask on many machines: `share` puts one copy of an array on each, and `DaskPool` is a `Pool` on a cluster.

::

    client                         scheduler                    workers of two hosts
    ------                         ---------                    --------------------
    array ── task that returns it ──────────────────────────▶  one, here or there: the replica of that host
                                                     ┌──────▶  one of each other host gets it from there
    future of the array  ◀───────────────────────────┘
    task with that future  ──────────────────────────────────▶  the others attach when they need it

So the array is the result of a task of Dask's own: Dask knows who has it, brings it to who needs it, and does
the task again if all who had it are lost. Each process gets it as `transport` says: by reference from one of
its own domain, as bytes from elsewhere.

`DaskPool` sends functions and arguments as one pickle with the arrays beside it (`packing`). A shared array,
or any view of one, goes as the future of its block and the place of the view in it, so that a thousand slices
are one replica on each host; everything else goes with the task. Where all workers are in the caller's
domain, the blocks of `map_blocks` are written to the output itself; elsewhere they are sent home.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import (
    _array as arrays,
    _creation as creation,
    _errors as errors,
    _reference as reference,
    _sigint as sigint,
    _versions as versions,
)
from sharedarray._array import SharedArray
from sharedarray._masked import refuse_masked
from sharedarray._pool.arguments import at_least, check_function
from sharedarray._pool.arrays import OwnedArrays
from sharedarray._pool.calls import Raised, name_of
from sharedarray._pool.codec.culprits import culprit_of_call
from sharedarray._pool.codec.failures import (
    Failure,
    failure_of,
    forget_frames,
    outside_iteration,
    rebuild,
    unreturnable,
)
from sharedarray._pool.maps import Maps
from sharedarray._pool.migration import no_attribute
from sharedarray._pool.numeric.calls import NumericCalls
from sharedarray._pool.outcomes import unsendable
from sharedarray._pool.sinks import Results
from sharedarray._pool.unconsumed import Iterators
from sharedarray._progress import Progress
from sharedarray._segment import Mapping, mapping_of
from sharedarray._subclasses import PLAIN
from sharedarray._thresholds import SHARED_ONCE_FROM
from sharedarray.integrations._packing import pack, travels_apart, unpack
from sharedarray.integrations._transport import PREFIX, Lost, domain

try:
    import distributed
except ImportError as missing:  # pragma: no cover
    raise errors.MissingExtraError(
        "Dask on many machines needs dask and distributed: pip install 'numpy-sharedarray[dask]'",
        name="distributed",
    ) from missing

__all__ = ["DaskPool", "from_array", "share"]

_Theirs: TypeAlias = Any  # a future of Dask's
T = TypeVar("T")
Array: TypeAlias = np.ndarray[Any, Any]

# Parts per worker into which the items of a map are put: enough to balance, few enough for Dask, which takes
# some 1 ms for each task.
_PER_WORKER = 4
_ROUNDS = 5  # in which workers are asked to get an array, as others may take over what one was asked
_URGENT = 10  # priority of that


# -- one copy per host ----------------------------------------------------------------------------------


def share(client: distributed.Client, array: ArrayLike) -> _Theirs:
    """Put one copy of an array into the shared memory of each host of a cluster.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    array : array_like
        The data; a `SharedArray`, or a view of one, is used where it is.

    Returns
    -------
    distributed.Future
        Of the array. Give it to tasks in place of the array: each gets a `SharedArray`, that of its host. The
        memory is free when the last reference to the future is gone.

    Raises
    ------
    TypeError
        The client is an asynchronous one, or the array a masked one.

    Notes
    -----
    A host is a shared-memory domain: containers with a ``/dev/shm`` of their own count as hosts. In the
    caller's own domain, the workers have the caller's memory; on other hosts, the array is read-only. If a
    worker or a host is lost, Dask brings the array to the tasks that need it from another one, or from the
    scheduler, which keeps it.

    Schedulers and workers should be started with ``--preload sharedarray``, so that they know from the
    beginning who is on the same host.

    Examples
    --------
    >>> import numpy as np, distributed
    >>> from sharedarray.integrations.dask import share
    >>> with distributed.Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     future = share(client, np.arange(10.0))
    ...     client.submit(np.sum, future).result()
    np.float64(45.0)
    """
    _check(client)
    future = _task_of(client, array)
    _spread(client, future)
    return future


def _spread(client: distributed.Client, future: _Theirs) -> None:
    """Copy the result of a task to all workers: first to one on each host, then from there to the others."""
    distributed.wait(future)
    for first in (True, False):
        for _ in range(_ROUNDS):
            homes = _domains(client)
            have = set(_holders(client, future))
            there = {homes.get(worker) for worker in have}
            missing = {
                home if first else worker: worker
                for worker, home in homes.items()
                if (home not in there if first else worker not in have)
            }
            if not missing:
                break
            client.gather([_ask(client, future, worker) for worker in missing.values()])


def _ask(client: distributed.Client, future: _Theirs, worker: str) -> _Theirs:
    # By others too, or this would wait for ever for a worker that has died in between.
    return client.submit(
        _here, future, workers=[worker], allow_other_workers=True, pure=False, priority=_URGENT
    )


def _check(client: Any) -> None:
    versions.require("distributed", "Dask on many machines")
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client must be a distributed.Client, not {client!r}")
    if client.asynchronous:
        raise TypeError("client must not be asynchronous; use it in a thread: asyncio.to_thread(share, …)")


def _task_of(client: distributed.Client, array: ArrayLike) -> _Theirs:
    refuse_masked(array, "share")
    given = array if isinstance(array, np.ndarray) else np.asarray(array)
    shared = given if reference.reduce_held(given) is not None else creation.share(given)
    return client.submit(_kept, _Whole(shared), key=f"{PREFIX}{uuid.uuid4().hex}", pure=False)


class _Whole:
    """Holds an array, which Dask would otherwise read all of to make a name for it."""

    def __init__(self, array: Array) -> None:
        self.array = array if type(array) is SharedArray else array.view(SharedArray)


def _kept(whole: _Whole) -> Array:
    return whole.array


def _here(array: Array) -> str:
    return domain()


def _domains(client: distributed.Client) -> dict[str, str]:
    found: dict[str, str] = client.run(domain, on_error="ignore")
    return found


def _holders(client: distributed.Client, future: _Theirs) -> Sequence[str]:
    return next(iter(client.who_has([future]).values()), ())


class _Source:
    """An array of which workers take slices; of what has a ``copy``, `dask.array.from_array` makes one."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key: Any) -> Array:
        return np.asarray(self.array[key])


def from_array(array: SharedArray, chunks: Any = "auto", **options: Any) -> Any:
    """Make a dask.array of a shared one, whose chunks are slices of it: nothing is copied.

    Parameters
    ----------
    array : SharedArray
        The data; tasks that write to their chunks write to it.
    chunks, **options
        As for `dask.array.from_array`.

    Returns
    -------
    dask.array.Array

    Examples
    --------
    >>> import sharedarray as sa
    >>> from sharedarray.integrations.dask import from_array
    >>> float(from_array(sa.ones((100, 100)), chunks=50).sum().compute(scheduler="sync"))
    10000.0
    """
    import dask.array

    refuse_masked(array, "make a dask.array of")
    options = {"name": f"shared-{uuid.uuid4().hex}", "asarray": False, **options}
    return dask.array.from_array(
        _Source(array), chunks, meta=np.empty((0,) * array.ndim, array.dtype), **options
    )


# -- what a task is sent --------------------------------------------------------------------------------


class _View:
    """A view of a block, as a place in the array of its bytes that the task gets from elsewhere.

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
        """Return the view, of the block as it is here."""
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


class _Order:
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
        """Return the bytes of what was packed, by which Dask limits what a worker keeps in memory."""
        return len(self.stream) + sum([each.nbytes for each in self.found if isinstance(each, np.ndarray)])


def _perform(
    function: _Order, orders: Sequence[_Order], count: int, blocks: Sequence[Array], again: int
) -> _Order:
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
        return _Order(*pack([failure_of(error)] * count, _beside))
    results = [_outcome(call, args, kwargs, again) for args, kwargs in calls]
    try:
        return _Order(*pack(results, _beside))
    except Exception:
        return _Order(*pack([_sendable(result) for result in results], _beside))


# What Dask would act on, besides what is no `Exception`: it ends a worker whose task raises `SystemExit`, and
# its coroutines confuse the others with what they raise themselves.
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


class _Replicas:
    """The blocks that a pool's tasks have been given, each a task of Dask's that returns it."""

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._known: weakref.WeakKeyDictionary[Mapping, _Theirs] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, mapping: Mapping) -> _Theirs:
        """Return the future of a block's data, as bytes."""
        with self._lock:
            future = self._known.get(mapping)
            if future is None or future.status in ("error", "lost", "cancelled"):
                future = self._known[mapping] = _task_of(self._client, _bytes_of(mapping))
            return future

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._known.clear()


def _bytes_of(mapping: Mapping) -> SharedArray:
    return np.ndarray.__new__(SharedArray, len(mapping), np.uint8, np.frombuffer(mapping, np.uint8))


class _Packing:
    """Packs the parts of one task, or of several that share a function.

    Parameters
    ----------
    replicas
        The pool's.
    shared
        Plain arrays that several tasks get, with shared ones in their place, by id.
    """

    def __init__(self, replicas: _Replicas, shared: dict[int, tuple[Array, SharedArray]]) -> None:
        self._replicas = replicas
        self._shared = shared
        self.futures: list[_Theirs] = []
        self._numbers: dict[Mapping, int] = {}

    def pack(self, obj: object) -> _Order:
        """Pack one thing."""
        return _Order(*pack(obj, self._stand_in))

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


# -- futures --------------------------------------------------------------------------------------------


class _Future(Future[Any]):
    """A future of `concurrent.futures` for one of Dask's.

    Attributes
    ----------
    theirs
        Dask's; None before it is there, and when it is over.
    sink
        Where the outcomes go, if they are of items of a map.
    """

    def __init__(self, sink: Results | None = None) -> None:
        super().__init__()
        self.theirs: _Theirs | None = None
        self.sink = sink

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call, if it is not over.

        Parameters
        ----------
        running : bool, default False
            Changes nothing: Dask ends no call that has begun, and drops its result in either case.
        """
        cancelled = super().cancel()
        if cancelled and self.theirs is not None:
            self.theirs.cancel()
        return cancelled

    def follow(self, theirs: _Theirs, take: Callable[[list[Any]], Any]) -> None:
        """Take the outcomes of Dask's future."""
        self.theirs = theirs

        def over(theirs: _Theirs) -> None:  # it holds this future until then, dropped or not
            if not self.set_running_or_notify_cancel():
                return
            self.theirs = None
            try:
                found = [_rebuilt(each) for each in theirs.result().opened(())]
            except BaseException as error:
                self.set_exception(_translated(error))
                return
            value = take(found)
            if type(value) is Raised:
                self.set_exception(value.exception)
            else:
                self.set_result(value)

        theirs.add_done_callback(over)


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


def _first(outcomes: list[Any]) -> Any:
    return outcomes[0]


def _put(indexes: Sequence[int], part: _Future) -> None:
    """Give the outcomes of a part of a map to its sink."""
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


class _Sent:
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
        self.packing: _Packing | None = None
        self.packed: _Order | None = None
        self.orders: list[_Order] = []


class _PoolCore:
    """The part of a pool's core and intake that its calls use, on a cluster.

    Attributes
    ----------
    workers
        How many tasks may run at the same time.
    writes
        Whether workers can write to this process's shared memory.
    iterators
        The iterators over results.
    """

    is_aborting = False

    def __init__(self, client: distributed.Client, retries: int) -> None:
        self.client = client
        self.replicas = _Replicas(client)
        self.statistics = SimpleNamespace(shares=_note_nothing, called_many=_note_nothing)
        self.intake = self
        self.retries = retries
        self.iterators = Iterators()
        self.is_open = True
        self._owner = os.getpid()
        self._running: set[_Future] = set()
        self._over = threading.Condition()

    @property
    def workers(self) -> int:
        return max(1, int(sum(self.client.nthreads().values())))

    @property
    def writes(self) -> bool:
        homes = _domains(self.client)
        return bool(homes) and set(homes.values()) == {domain()}

    @property
    def is_foreign(self) -> bool:
        """True if this is a fork of the pool's process, which has no connection to the cluster."""
        return os.getpid() != self._owner

    def holds_lock(self) -> bool:
        """Return False: no code that finalizers may interrupt holds a lock that they need."""
        return False

    def wake(self) -> None:
        """Issue the warnings of calls whose results no code takes."""
        self.iterators.warn()

    def read_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Return at once: Dask's own threads read."""

    def check_open(self) -> None:
        """Raise an exception if no calls are accepted."""
        if not self.is_open:
            raise RuntimeError(
                "cannot schedule new futures after shutdown. Next step: make the call before shutdown(), or "
                "in the with block of the pool"
            )

    # Tasks

    def _start(
        self,
        future: _Future,
        packing: _Packing,
        function: _Order,
        orders: Sequence[_Order],
        count: int,
        take: Callable[[list[Any]], Any],
        label: str,
    ) -> None:
        """Start some calls in one task of Dask's."""
        theirs = self.client.submit(
            _perform,
            function,
            list(orders),
            count,
            list(packing.futures),
            self.retries,
            key=f"{label}-{uuid.uuid4().hex}",
            pure=False,
            retries=self.retries,
        )
        with self._over:
            self._running.add(future)
        future.add_done_callback(self._note_end)
        future.follow(theirs, take)

    def _note_end(self, future: Future[Any]) -> None:
        with self._over:
            self._running.discard(future)
            self._over.notify_all()

    def _start_part(
        self,
        results: Results,
        indexes: Sequence[int],
        packing: _Packing,
        function: _Order,
        orders: Sequence[_Order],
        label: str,
    ) -> None:
        """Start some items of a map in one task of Dask's."""
        part = _Future(results)
        part.add_done_callback(partial(_put, indexes))
        self._start(part, packing, function, orders, len(indexes), list, label)

    def running(self) -> list[_Future]:
        """Return the futures that are not over."""
        return list(self._running)

    def wait(self) -> None:
        """Wait until all futures are over."""
        with self._over:
            self._over.wait_for(lambda: not self._running)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Future:
        """Accept a call; return the future of the outcome."""
        self.check_open()
        future, packing, label = _Future(), _Packing(self.replicas, {}), name_of(function)
        try:
            packed, order = packing.pack(function), packing.pack([(args, kwargs)])
        except Exception as reason:
            future.set_exception(unsendable(label, reason, culprit_of_call(function, args, kwargs, label)))
        else:
            self._start(future, packing, packed, [order], 1, _first, label)
        return future

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        label: str | None = None,
        way: str = "map",
        noun: str = "item",
        part_of: Results | None = None,
        chunksize: int | None = None,
        **_: Any,
    ) -> Results:
        """Accept calls with each tuple of arguments; return the outcomes, in order."""
        self.check_open()
        label = label or name_of(function)
        size = chunksize or max(1, len(calls) // (_PER_WORKER * self.workers))
        first = 0 if part_of is None else part_of.count
        results = Results(self, len(calls), origin=(noun, f"{way}({label})"), first=first)
        try:
            with sigint.allowed:
                shared = _given_often(function, calls)
                for start in range(0, len(calls), size):
                    indexes = range(start, min(start + size, len(calls)))
                    self._map_part(results, function, calls, indexes, shared, label)
        except BaseException:
            results.end()
            self.forget(results)
            raise
        return results

    def _map_part(
        self,
        results: Results,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        indexes: Sequence[int],
        shared: dict[int, tuple[Array, SharedArray]],
        label: str,
    ) -> None:
        """Start some items; calls that cannot be sent have that as their outcome."""
        packing = _Packing(self.replicas, shared)
        packed = _packed_function(packing, function, label)
        try:
            order = packing.pack([(calls[index], {}) for index in indexes])
        except Exception:
            sent = []
            for index in indexes:
                try:
                    packing.pack([(calls[index], {})])
                except Exception as reason:
                    results.put(index, [Raised(_why_unsent(function, calls[index], label, reason))])
                else:
                    sent.append(index)
            if not sent:
                return
            packing = _Packing(self.replicas, shared)
            packed = _packed_function(packing, function, label)
            indexes, order = sent, packing.pack([(calls[index], {}) for index in sent])
        self._start_part(results, indexes, packing, packed, [order], label)

    def function_of(self, function: Callable[..., Any]) -> _Sent:
        """Return a function for `add`.

        Raises
        ------
        NotPicklableError
            It cannot be sent.
        """
        made = _Sent(function, name_of(function))
        _packed_function(_Packing(self.replicas, {}), function, made.label)
        return made

    def add(
        self,
        sent: _Sent,
        results: Results,
        args: tuple[Any, ...],
        *,
        original: Callable[..., Any],
        chunksize: int | None = None,
        **_: Any,
    ) -> None:
        """Accept one more item, perhaps in one task with those after it; see `flush`."""
        self.check_open()
        if sent.packing is None:
            sent.packing = _Packing(self.replicas, {})
            sent.packed = _packed_function(sent.packing, sent.function, sent.label)
        try:
            order = sent.packing.pack([(args, {})])
        except Exception as reason:
            self.flush(sent, results)
            results.expect()
            results.put(results.count - 1, [Raised(_why_unsent(original, args, sent.label, reason))])
            return
        with sigint.deferred:
            sent.orders.append(order)
            results.expect()
        if len(sent.orders) >= (chunksize or 1):
            self.flush(sent, results)

    def flush(self, sent: _Sent, results: Results) -> None:
        """Submit the items that were added and wait for others to share a task with."""
        with sigint.deferred:
            packing, packed, orders = sent.packing, sent.packed, sent.orders
            sent.packing, sent.packed, sent.orders = None, None, []
            if not orders:
                return
            assert packing is not None
            assert packed is not None
            first = results.count - len(orders)
            indexes = list(range(first, results.count))  # which are taken one by one
            try:
                self._start_part(results, indexes, packing, packed, orders, sent.label)
            except Exception as reason:  # the client was closed
                for index in indexes:
                    results.put(index, [Raised(reason)])

    def forget(self, sink: Results, *, running: bool = False) -> None:
        """Cancel what is not over, without waiting for the cluster: finalizers call this, in any thread."""
        if self.is_foreign:
            return
        theirs = [
            part.theirs
            for part in self.running()
            if part.sink is sink and Future.cancel(part) and part.theirs is not None
        ]
        if theirs and self.client.loop is not None:
            self.client.loop.add_callback(self.client.cancel, theirs, asynchronous=True)


def _note_nothing(*_: object) -> None:
    """Stand for the counting of bytes, of which Dask keeps its own."""


def _packed_function(packing: _Packing, function: Callable[..., Any], label: str) -> _Order:
    try:
        return packing.pack(function)
    except Exception as reason:
        raise _why_unsent(function, (), label, reason) from reason


def _why_unsent(
    function: Callable[..., Any], args: tuple[Any, ...], label: str, reason: Exception
) -> errors.NotPicklableError:
    return unsendable(label, reason, culprit_of_call(function, args, {}, label))


def _given_often(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
) -> dict[int, tuple[Array, SharedArray]]:
    """Return the large plain arrays that go to several tasks, each with a shared copy, by id.

    They are kept, also those that were made while the function was pickled, so that no other gets an id.
    """
    found: dict[int, Array] = {}
    times: Counter[int] = Counter()

    def look(array: Array, part: bool = False) -> Any:
        if array.nbytes >= SHARED_ONCE_FROM and mapping_of(array) is None and travels_apart(array):
            found[id(array)] = array
            times[id(array)] += 2
        return 0 if travels_apart(array) else None

    for args in calls:
        for value in args:
            if type(value) in PLAIN:
                look(value)
                times[id(value)] -= 1
    if len(calls) > 1:
        pack(function, look)
    shared = {}
    for key, array in found.items():
        if times[key] > 1:
            with contextlib.suppress(errors.UnsupportedDTypeError):  # goes with each task
                shared[key] = array, creation.share(array)
    return shared


# -- the pool -------------------------------------------------------------------------------------------


# Methods of `Pool` that this one has not, and what to write in their place.
_WITHOUT = {
    "copy_report": "look at the dashboard of the cluster, client.dashboard_link",
    "kill_workers": "close the cluster, or cancel the calls with shutdown(cancel_futures=True)",
    "options": "give retries to DaskPool(), and timeout to map() and its variants",
    "stats": "look at the dashboard of the cluster, client.dashboard_link",
    "terminate_workers": "close the cluster, or cancel the calls with shutdown(cancel_futures=True)",
    "timeline": "look at the dashboard of the cluster, client.dashboard_link",
}


class DaskPool(Maps, NumericCalls, OwnedArrays, Executor):
    """`Pool` on the workers of a Dask cluster: the same calls, the same results, on one machine or on many.

    A `concurrent.futures.Executor`. Shared arrays that are given to it are there once on each host, whatever
    the number of workers and tasks; in the caller's own domain they are the caller's memory, elsewhere they
    are read-only copies of what they held when a task of that host first needed them.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. It stays open at the end of the pool.
    retries : int, default 0
        How often a call that raised an exception is run again. One whose worker died is run again in any
        case, as often as ``distributed.scheduler.allowed-failures`` says.

    Raises
    ------
    TypeError
        The client is no client, or an asynchronous one.

    Notes
    -----
    In `map`, `starmap` and `imap_unordered`, ``chunksize`` is the number of calls in one task of Dask's,
    each of which takes some 1 ms. None makes some tasks for each worker; if an iterable has no length, one
    for each call. A ``timeout`` cancels calls, and ends none that has begun.

    See Also
    --------
    sharedarray.Pool : For one machine; quicker there by far for small tasks.

    Examples
    --------
    >>> import numpy as np, distributed
    >>> from sharedarray.integrations.dask import DaskPool
    >>> with distributed.Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     with DaskPool(client) as pool:
    ...         frames = pool.share(np.arange(12.0).reshape(3, 4))
    ...         [float(total) for total in pool.map(np.sum, frames)]
    [6.0, 22.0, 38.0]
    """

    def __init__(self, client: distributed.Client, *, retries: int = 0) -> None:
        _check(client)
        super().__init__()
        self._client = client
        self._core: Any = _PoolCore(client, at_least(0, "retries", retries))
        self._options: dict[str, Any] = {}

    if not TYPE_CHECKING:  # for a type checker, every name would be there then

        def __getattr__(self, name):
            if name in _WITHOUT:
                raise AttributeError(f"DaskPool has no method {name!r}. Next step: {_WITHOUT[name]}")
            raise no_attribute(self, name)

    @property
    def client(self) -> distributed.Client:
        """The cluster's client."""
        return self._client

    @property
    def _max_workers(self) -> int:  # type: ignore[override]
        workers: int = self._core.workers
        return workers

    @property
    def _runs_again(self) -> bool:
        return True  # Dask does so with what a worker did not finish

    def _call_options(
        self, timeout: float | None, chunksize: int | None, total: int | None
    ) -> dict[str, Any]:
        if chunksize is None and total is not None:
            chunksize = max(1, total // (_PER_WORKER * self._max_workers))
        return {**super()._call_options(timeout, chunksize, total), "chunksize": chunksize or 1}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` in a worker of the cluster; see `Pool.submit`.

        Parameters
        ----------
        fn : callable
            The function.
        *args, **kwargs
            Its arguments.

        Returns
        -------
        concurrent.futures.Future
            Of the result.

        Examples
        --------
        >>> import distributed
        >>> from sharedarray.integrations.dask import DaskPool
        >>> with distributed.Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     with DaskPool(client) as pool:
        ...         pool.submit(pow, 2, 10).result()
        1024
        """
        check_function("submit", fn)
        future: Future[T] = self._core.submit(fn, args, kwargs)
        return future

    def share(
        self,
        array_like: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "K",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Copy data into shared memory, here and once on each host of the cluster; see `Pool.share`.

        What is written to it later is seen on this host only.

        Parameters
        ----------
        array_like : array_like
            The data.
        dtype : dtype_like, optional
            Type of the elements; that of the data when None.
        order : {'K', 'A', 'C', 'F'}
            'C' or 'F' for that order; 'K' and 'A' keep Fortran order if the data has it.
        progress : bool or mapping, optional
            As for `sharedarray.share`.

        Returns
        -------
        SharedArray
            Of a random name. It is closed when the pool ends.

        Examples
        --------
        >>> import distributed
        >>> from sharedarray.integrations.dask import DaskPool
        >>> with distributed.Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     with DaskPool(client) as pool:
        ...         list(pool.map(len, pool.share([[1, 2], [3, 4]])))
        [2, 2]
        """
        self._core.check_open()
        array = super().share(array_like, dtype, order, progress=progress)
        mapping = mapping_of(array)
        assert mapping is not None
        _spread(self._client, self._core.replicas.of(mapping))
        return array

    # The end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and let go of what the cluster holds for this pool; the cluster goes on.

        Parameters
        ----------
        wait : bool, default True
            Return when all tasks are done.
        cancel_futures : bool, default False
            Cancel those that are not.

        Examples
        --------
        >>> import distributed
        >>> from sharedarray.integrations.dask import DaskPool
        >>> with distributed.Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     pool = DaskPool(client)
        ...     future = pool.submit(pow, 2, 10)
        ...     pool.shutdown()
        ...     future.result()
        1024
        """
        core = self._core
        if core.is_open and not cancel_futures:
            core.iterators.submit_rest()
        core.is_open = False
        if cancel_futures:
            for future in core.running():
                future.cancel()
        if wait:
            core.wait()
            core.replicas.clear()
            self._arrays.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.shutdown(cancel_futures=exc_type is not None and not issubclass(exc_type, Exception))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._client!r}>"
