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
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _creation as creation, _errors as errors, _hints as hints, _sigint as sigint
from sharedarray._array import SharedArray
from sharedarray._executor.arguments import at_least, check_function
from sharedarray._executor.arrays import OwnedArrays
from sharedarray._executor.maps import Maps
from sharedarray._executor.migration import METHODS
from sharedarray._executor.numeric.calls import NumericCalls
from sharedarray._pool.calls import Raised, name_of
from sharedarray._pool.codec.culprits import culprit_of_call
from sharedarray._pool.outcomes import after_shutdown, unsendable
from sharedarray._pool.sinks import Results
from sharedarray._pool.unconsumed import Iterators
from sharedarray._progress import Progress
from sharedarray._segment import mapping_of
from sharedarray._subclasses import PLAIN
from sharedarray._thresholds import SHARED_ONCE_FROM
from sharedarray.integrations._dask_parts import (
    DaskFuture,
    Order,
    Packing,
    Replicas,
    Sent,
    first_of,
    perform,
    put_outcomes,
)
from sharedarray.integrations._dask_sharing import (
    Array as Array,
    check_client,
    domains,
    from_array as from_array,
    share as share,
    spread,
)
from sharedarray.integrations._distributed import distributed
from sharedarray.integrations._packing import pack, travels_apart
from sharedarray.integrations._transport import domain

__all__ = ["DaskPool", "from_array", "share"]
T = TypeVar("T")

# Parts per worker into which the items of a map are put: enough to balance, few enough for Dask, which takes
# some 1 ms for each task.
_PER_WORKER = 4


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
        self.replicas = Replicas(client)
        self.statistics = SimpleNamespace(shares=_note_nothing, called_many=_note_nothing)
        self.intake = self
        self.retries = retries
        self.iterators = Iterators()
        self.is_open = True
        self.has_left_with = False
        self._owner = os.getpid()
        self._running: set[DaskFuture] = set()
        self._finished = threading.Condition()  # notified of each future that is done

    @property
    def workers(self) -> int:
        return max(1, int(sum(self.client.nthreads().values())))

    @property
    def writes(self) -> bool:
        return set(domains(self.client).values()) == {domain()}

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
            raise after_shutdown(has_left_with=self.has_left_with)

    # Tasks

    def _start(
        self,
        future: DaskFuture,
        packing: Packing,
        function: Order,
        orders: Sequence[Order],
        count: int,
        take: Callable[[list[Any]], Any],
        label: str,
    ) -> None:
        """Start some calls in one task of Dask's."""
        in_cluster = self.client.submit(
            perform,
            function,
            list(orders),
            count,
            list(packing.futures),
            self.retries,
            key=f"{label}-{uuid.uuid4().hex}",
            pure=False,
            retries=self.retries,
        )
        with self._finished:
            self._running.add(future)
        future.add_done_callback(self._note_end)
        future.follow(in_cluster, take)

    def _note_end(self, future: Future[Any]) -> None:
        with self._finished:
            self._running.discard(future)
            self._finished.notify_all()

    def _start_part(
        self,
        results: Results,
        indexes: Sequence[int],
        packing: Packing,
        function: Order,
        orders: Sequence[Order],
        label: str,
    ) -> None:
        """Start some items of a map in one task of Dask's."""
        part = DaskFuture(results)
        part.add_done_callback(partial(put_outcomes, indexes))
        self._start(part, packing, function, orders, len(indexes), list, label)

    def running(self) -> list[DaskFuture]:
        """Return the futures that are not done."""
        return list(self._running)

    def wait(self) -> None:
        """Wait until all futures are done."""
        with self._finished:
            self._finished.wait_for(lambda: not self._running)

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DaskFuture:
        """Accept a call; return the future of the outcome."""
        self.check_open()
        future, packing, label = DaskFuture(), Packing(self.replicas, {}), name_of(function)
        try:
            packed, order = packing.pack(function), packing.pack([(args, kwargs)])
        except Exception as reason:
            future.set_exception(unsendable(label, reason, culprit_of_call(function, args, kwargs, label)))
        else:
            self._start(future, packing, packed, [order], 1, first_of, label)
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
            self.cancel_all(results)
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
        """Start some items. If a call cannot be sent, the error is its outcome."""
        packing = Packing(self.replicas, shared)
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
            packing = Packing(self.replicas, shared)
            packed = _packed_function(packing, function, label)
            indexes, order = sent, packing.pack([(calls[index], {}) for index in sent])
        self._start_part(results, indexes, packing, packed, [order], label)

    def function_of(self, function: Callable[..., Any]) -> Sent:
        """Return a function for `add`.

        Raises
        ------
        NotPicklableError
            It cannot be sent.
        """
        made = Sent(function, name_of(function))
        _packed_function(Packing(self.replicas, {}), function, made.label)
        return made

    def add(
        self,
        sent: Sent,
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
            sent.packing = Packing(self.replicas, {})
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

    def flush(self, sent: Sent, results: Results) -> None:
        """Submit the items that were added and wait for others to share a task with."""
        with sigint.deferred:
            packing, packed, orders = sent.packing, sent.packed, sent.orders
            sent.packing, sent.packed, sent.orders = None, None, []
            if not orders:
                return
            assert packing is not None
            assert packed is not None
            first = results.count - len(orders)
            indexes = list(range(first, results.count))
            try:
                self._start_part(results, indexes, packing, packed, orders, sent.label)
            except Exception as reason:  # the client was closed
                for index in indexes:
                    results.put(index, [Raised(reason)])

    def cancel_all(self, sink: Results, *, running: bool = False) -> None:
        """Cancel the calls that are not done, without waiting: finalizers call this, in any thread."""
        if self.is_foreign:
            return
        in_cluster = [
            part.in_cluster
            for part in self.running()
            if part.sink is sink and Future.cancel(part) and part.in_cluster is not None
        ]
        if in_cluster and self.client.loop is not None:
            self.client.loop.add_callback(self.client.cancel, in_cluster, asynchronous=True)


def _note_nothing(*_: object) -> None:
    """Stand for a pool's statistics of bytes, which Dask keeps itself."""


def _packed_function(packing: Packing, function: Callable[..., Any], label: str) -> Order:
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


# Methods of other pools and of `Pool` that this pool does not have, and what to write instead.
_CURES = {
    **METHODS,
    **dict.fromkeys(
        ("copy_report", "get_insights", "print_insights", "stats", "timeline"),
        "look at the dashboard of the cluster, client.dashboard_link",
    ),
    **dict.fromkeys(
        ("kill_workers", "terminate", "terminate_workers"),
        "close the cluster, or cancel the calls with shutdown(cancel_futures=True)",
    ),
    "options": "give retries to DaskPool(), and timeout to map() and its variants",
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
        check_client(client)
        super().__init__()
        self._client = client
        self._core: Any = _PoolCore(client, at_least(0, "retries", retries))
        self._options: dict[str, Any] = {}

    if not TYPE_CHECKING:  # otherwise a type checker would accept every name

        def __getattr__(self, name):
            raise hints.no_attribute(self, name, _CURES)

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
        return True  # Dask runs calls again that a worker did not finish

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
        spread(self._client, self._core.replicas.of(mapping))
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
        self._core.has_left_with = True
        self.shutdown(cancel_futures=exc_type is not None and not issubclass(exc_type, Exception))

    def __repr__(self) -> str:
        state = "" if self._core.is_open else ", shut down"
        return f"<{type(self).__name__} on {self._client!r}{state}>"
