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
import threading
import traceback
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from types import SimpleNamespace, TracebackType
from typing import Any, Never, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import (
    _array as arrays,
    _creation as creation,
    _errors as errors,
    _reference as reference,
    _versions as versions,
)
from sharedarray._array import ShapeLike, SharedArray
from sharedarray._clock import deadline_of, time
from sharedarray._masked import refuse_masked
from sharedarray._pool.arguments import (
    argument_tuples,
    check_combine,
    check_function,
    refuse_keywords,
    refuse_others,
    zipped,
)
from sharedarray._pool.calls import name_of
from sharedarray._pool.codec.failures import RemoteTraceback, outside_iteration
from sharedarray._pool.numeric import blockwise
from sharedarray._pool.numeric.of_groups import expanded
from sharedarray._pool.numeric.tiling import Axes, Sizes
from sharedarray._progress import Progress, bar, watched
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


def _perform(function: _Order, calls: _Order, blocks: Sequence[Array]) -> _Order:
    """Do some calls, in a worker, and pack their results.

    Dask itself would send each result in its own way for the class, and of an instance of a subclass of
    ndarray only the data.
    """
    try:
        call = function.opened(blocks)
        results = [call(*args, **kwargs) for args, kwargs in calls.opened(blocks)]
        return _Order(*pack(results, lambda array, _: array if travels_apart(array) else None))
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, _ACTED_ON):
            raise
        carried = _Carried(error, "".join(traceback.format_exception(error)))
    raise carried


# What Dask would act on, besides what is no `Exception`: it ends a worker whose task raises `SystemExit`, and
# its coroutines confuse the others with what they raise themselves.
_ACTED_ON = StopIteration, StopAsyncIteration, CancelledError


class _Carried(Exception):
    """The exception of a task, on its way through Dask, with its traceback as text."""

    def __str__(self) -> str:
        return type(self.args[0]).__name__

    def opened(self) -> BaseException:
        """Return what the task raised."""
        error, text = self.args
        error.__cause__ = RemoteTraceback(text)
        return outside_iteration(error)


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
            return array if travels_apart(array) else None
        if mapping not in self._numbers:
            self._numbers[mapping] = len(self.futures)
            self.futures.append(self._replicas.of(mapping))
        start = arrays.start_of(array, mapping)
        return _View(self._numbers[mapping], start, array)


# -- futures --------------------------------------------------------------------------------------------


class _Future(Future[Any]):
    """A future of `concurrent.futures` for one of Dask's."""

    def __init__(self) -> None:
        super().__init__()
        self.theirs: _Theirs | None = None

    def cancel(self) -> bool:
        """Cancel the call, if it is not over."""
        cancelled = super().cancel()
        if cancelled and self.theirs is not None:
            self.theirs.cancel()
        return cancelled

    def follow(self, theirs: _Theirs, take: Callable[[Any], Any]) -> None:
        """Take what becomes of Dask's future."""
        self.theirs = theirs

        def over(theirs: _Theirs) -> None:  # it holds this future until then, dropped or not
            if not self.set_running_or_notify_cancel():
                return
            self.theirs = None
            try:
                value = take(theirs.result().opened(()))
            except BaseException as error:
                self.set_exception(_translated(error))
            else:
                self.set_result(value)

        theirs.add_done_callback(over)


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
    return error.opened() if isinstance(error, _Carried) else error


def _first(values: list[Any]) -> Any:
    return values[0]


class _MapOutcomes:
    """The outcomes of the calls of one map; which `blockwise` treats as those of a pool."""

    call = 0

    def __init__(self, parts: list[_Future]) -> None:
        self._parts: list[_Future | None] = list(parts)

    def in_order(self, deadline: float | None = None) -> Iterator[Any]:
        """Yield the results in the order of the calls."""
        for number, part in enumerate(self._parts):
            assert part is not None
            values = part.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._parts[number] = part = None
            values.reverse()
            while values:
                yield values.pop()

    def as_they_come(self, deadline: float | None = None) -> Iterator[Any]:
        """Yield the results as they are there."""
        from concurrent.futures import as_completed

        parts = self._parts
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        for part in as_completed(self.left(), left):
            parts.remove(part)  # type: ignore[arg-type]
            values = part.result()
            del part
            values.reverse()
            while values:
                yield values.pop()

    def left(self) -> list[_Future]:
        """Return the parts that have not been taken."""
        return [part for part in self._parts if part is not None]

    def end(self) -> None:
        """Cancel what is not over, without waiting for the cluster: finalizers call this, in any thread."""
        theirs = [part.theirs for part in self.left() if Future.cancel(part) and part.theirs is not None]
        if theirs:
            client = theirs[0].client
            client.loop.add_callback(client.cancel, theirs, asynchronous=True)

    def rest(self, deadline: float | None = None) -> None:
        """Do nothing: calls that still run write to no memory of the caller."""


class _PoolCore:
    """The part of a pool's core that `blockwise` uses, on a cluster.

    Attributes
    ----------
    workers
        How many tasks may run at the same time.
    writes
        Whether workers can write to this process's shared memory.
    task log
        Stands for a pool's, and notes nothing.
    """

    def __init__(self, client: distributed.Client, retries: int) -> None:
        self.client = client
        self.replicas = _Replicas(client)
        self.statistics = SimpleNamespace(shares=lambda *_: None)
        self.intake = self
        self.retries = retries

    @property
    def workers(self) -> int:
        return max(1, int(sum(self.client.nthreads().values())))

    @property
    def writes(self) -> bool:
        homes = _domains(self.client)
        return bool(homes) and set(homes.values()) == {domain()}

    def start(
        self,
        packing: _Packing,
        function: _Order,
        calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
        take: Callable[[Any], Any],
        label: str,
        retries: int | None = None,
    ) -> _Future:
        """Start a task that does some calls."""
        future = _Future()
        orders = packing.pack(list(calls))
        theirs = self.client.submit(
            _perform,
            function,
            orders,
            list(packing.futures),
            key=f"{label}-{uuid.uuid4().hex}",
            pure=False,
            retries=self.retries if retries is None else retries,
        )
        future.follow(theirs, take)
        return future

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        label: str | None = None,
        chunksize: int | None = None,
        retries: int | None = None,
        **_: Any,
    ) -> _MapOutcomes:
        """Start calls of a function with each tuple of arguments."""
        label = label or name_of(function)
        size = chunksize or max(1, len(calls) // (_PER_WORKER * self.workers))
        shared = _given_often(function, calls)
        parts = []
        try:
            for start in range(0, len(calls), size):
                packing = _Packing(self.replicas, shared)
                packed = packing.pack(function)
                some: list[Any] = [(args, {}) for args in calls[start : start + size]]
                parts.append(self.start(packing, packed, some, list, label, retries))
        except BaseException:
            for part in parts:
                part.cancel()
            raise
        return _MapOutcomes(parts)

    def forget(self, came: _MapOutcomes, running: bool = False) -> None:
        """Cancel what is not over."""
        came.end()


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


class DaskPool(Executor):
    """`Pool` on the workers of a Dask cluster: the same calls, the same results, on one machine or on many.

    A `concurrent.futures.Executor`. Shared arrays that are given to it are there once on each host, whatever
    the number of workers and tasks; in the caller's own domain they are the caller's memory, elsewhere they
    are read-only copies of what they held when a task of that host first needed them.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. It stays open at the end of the pool.
    retries : int, default 0
        How often a task that raised an exception is run again. One whose worker died is run again in any
        case, as often as ``distributed.scheduler.allowed-failures`` says.

    Raises
    ------
    TypeError
        The client is no client, or an asynchronous one.

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
        self._client = client
        self._core = _PoolCore(client, retries)
        self._open = True
        self._running: set[_Future] = set()
        self._made = arrays.WeakArrays()

    @property
    def client(self) -> distributed.Client:
        """The cluster's client."""
        return self._client

    @property
    def _max_workers(self) -> int:
        return self._core.workers

    def _watch(self, *futures: _Future) -> None:
        """Remember futures until they are done."""
        for future in futures:
            self._running.add(future)
            future.add_done_callback(self._running.discard)

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")

    # Calls

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)`` to be executed by a worker; see `Pool.submit`."""
        self._check_open()
        check_function("submit", fn)
        packing = _Packing(self._core.replicas, {})
        future = self._core.start(packing, packing.pack(fn), [(args, kwargs)], _first, name_of(fn))
        self._watch(future)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: Progress = False,
        **unknown: Never,
    ) -> Iterator[T]:
        """Call ``fn`` on the items of the iterables and yield the results in order; see `Pool.map`.

        ``chunksize`` says how many calls go into one task of Dask's; some for each worker when None.
        ``buffersize`` is there for the interface: the iterables are consumed at once.
        """
        refuse_keywords(self.map, fn, unknown)
        check_function("map", fn, iterables)
        calls = zipped("map", fn, iterables)
        return self._mapped(fn, calls, timeout, chunksize, progress, _MapOutcomes.in_order)

    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        *others: Never,
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: Progress = False,
        **unknown: Never,
    ) -> Iterator[T]:
        """Call ``fn`` on each tuple of arguments; see `Pool.starmap`."""
        refuse_keywords(self.starmap, fn, unknown)
        check_function("starmap", fn)
        refuse_others("starmap", others)
        calls = argument_tuples(iterable)
        return self._mapped(fn, calls, timeout, chunksize, progress, _MapOutcomes.in_order)

    def imap_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: Progress = False,
        **unknown: Never,
    ) -> Iterator[T]:
        """Call ``fn`` on the items of the iterables and yield each result when it is there.

        The iterables are consumed at once; otherwise as `Pool.imap_unordered`.
        """
        refuse_keywords(self.imap_unordered, fn, unknown)
        check_function("imap_unordered", fn, iterables)
        calls = zipped("imap_unordered", fn, iterables)
        return self._mapped(fn, calls, timeout, chunksize, progress, _MapOutcomes.as_they_come)

    def _mapped(
        self,
        fn: Callable[..., T],
        calls: Iterable[tuple[Any, ...]],
        timeout: float | None,
        chunksize: int | None,
        progress: Progress,
        take: Callable[[_MapOutcomes, float | None], Iterator[Any]],
    ) -> Iterator[T]:
        self._check_open()
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"chunksize must be greater than 0, not {chunksize}")
        deadline = deadline_of(timeout)
        collected = list(calls)
        shown = bar(progress, len(collected))
        came = self._core.map(fn, collected, chunksize=chunksize)
        self._watch(*came.left())
        return watched(_Results(came, take(came, deadline)), shown)

    # Numeric calls

    def map_blocks(
        self,
        func: Callable[..., ArrayLike],
        *arrays: ArrayLike,
        out: Array | None = None,
        axis: Axes = 0,
        block_size: Sizes = None,
        overlap: int | Sequence[int] = 0,
        timeout: float | None = None,
        progress: Progress = False,
        **unknown: Never,
    ) -> Array:
        """Apply a function to blocks of arrays, and put the results together; see `Pool.map_blocks`.

        Notes
        -----
        A function that writes into its block writes into the array where the worker is in the caller's
        domain, and gets an error elsewhere: give ``out``, which may be the array itself.
        """
        self._check_open()
        refuse_keywords(self.map_blocks, func, unknown)
        check_function("map_blocks", func, arrays, "array")
        func, members = expanded(func, arrays)
        plan = blockwise.Plan.of(members, axis, block_size, overlap, workers=self._max_workers)
        core: Any = self._core
        # Dask runs again what its worker did not finish.
        return blockwise.map_blocks(core, func, plan, out, progress, {}, timeout, again=True)

    def reduce_blocks(
        self,
        func: Callable[..., T],
        combine: Callable[[T, T], T],
        /,
        *arrays: ArrayLike,
        axis: Axes = 0,
        block_size: Sizes = None,
        timeout: float | None = None,
        progress: Progress = False,
        **unknown: Never,
    ) -> T:
        """Apply a function to blocks, and combine its results into one; see `Pool.reduce_blocks`."""
        self._check_open()
        refuse_keywords(self.reduce_blocks, func, unknown)
        check_function("reduce_blocks", func)
        check_combine(func, combine, arrays)
        func, members = expanded(func, arrays)
        plan = blockwise.Plan.of(members, axis, block_size, workers=self._max_workers)
        core: Any = self._core
        return blockwise.reduce_blocks(core, func, combine, plan, progress, {}, timeout)

    # Blocks that end with the pool

    def share(
        self, array_like: ArrayLike, dtype: DTypeLike | None = None, order: creation.Order = "K"
    ) -> SharedArray:
        """Copy data into shared memory, here and once on each host of the cluster; see `Pool.share`.

        What is written to it later is seen on this host only.
        """
        self._check_open()
        array = self._made.add(creation.share(array_like, dtype, order))
        mapping = mapping_of(array)
        assert mapping is not None
        _spread(self._client, self._core.replicas.of(mapping))
        return array

    def empty(self, shape: ShapeLike, dtype: DTypeLike = float, order: creation.Order = "C") -> SharedArray:
        """Make a shared array, here, and close it when the pool ends."""
        return self._made.add(creation.empty(shape, dtype, order))

    def zeros(self, shape: ShapeLike, dtype: DTypeLike = float, order: creation.Order = "C") -> SharedArray:
        """Make a shared array of zeros, here, and close it when the pool ends."""
        return self._made.add(creation.zeros(shape, dtype, order))

    def ones(self, shape: ShapeLike, dtype: DTypeLike = float, order: creation.Order = "C") -> SharedArray:
        """Make a shared array of ones, here, and close it when the pool ends."""
        return self._made.add(creation.ones(shape, dtype, order))

    def full(
        self,
        shape: ShapeLike,
        fill_value: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "C",
    ) -> SharedArray:
        """Make a shared array of one value, here, and close it when the pool ends."""
        return self._made.add(creation.full(shape, fill_value, dtype, order))

    # The end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and let go of what the cluster holds for this pool; the cluster goes on.

        Parameters
        ----------
        wait : bool, default True
            Return when all tasks are done.
        cancel_futures : bool, default False
            Cancel those that are not.
        """
        self._open = False
        running = list(self._running)
        if cancel_futures:
            for future in running:
                future.cancel()
        if wait:
            for future in running:
                try:
                    future.exception()
                except CancelledError:
                    pass
            self._core.replicas.clear()
            self._made.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.shutdown(cancel_futures=exc_type is not None and not issubclass(exc_type, Exception))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._client!r}>"


class _Results(Iterator[T]):
    """The results of a map; cancels the others when it is closed or dropped, also before the first one."""

    def __init__(self, came: _MapOutcomes, results: Iterator[T]) -> None:
        self._results = results
        self._end = weakref.finalize(self, came.end)
        self._end.atexit = False

    def __next__(self) -> T:
        try:
            return next(self._results)
        except BaseException:  # the last one was taken, one failed, or the time is over
            self._end()
            raise

    def close(self) -> None:
        """Cancel what has not begun."""
        self._results = iter(())
        self._end()
