"""One shared copy of an array on each machine of a Dask cluster, and Dask's arrays of shared ones."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sharedarray import _creation as creation, _reference as reference, _versions as versions
from sharedarray._array import SharedArray
from sharedarray._masked import refuse_masked
from sharedarray.integrations._distributed import distributed
from sharedarray.integrations._transport import PREFIX, domain

ClusterFuture: TypeAlias = Any  # a `distributed.Future`, which stands for a result in the cluster
Array: TypeAlias = np.ndarray[Any, Any]
_ROUNDS = 5  # attempts to copy an array to each worker: Dask may give a task to another worker than asked for
_URGENT = 10  # priority of the tasks that copy it: before those that use it


def share(client: distributed.Client, array: ArrayLike) -> ClusterFuture:
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
    check_client(client)
    future = task_of(client, array)
    spread(client, future)
    return future


def spread(client: distributed.Client, future: ClusterFuture) -> None:
    """Copy the result of a task to all workers: first to one on each host, then from there to the others."""
    distributed.wait(future)
    for first in (True, False):
        for _ in range(_ROUNDS):
            domain_by_worker = domains(client)
            holders = set(_holders(client, future))
            served = {domain_by_worker.get(worker) for worker in holders}
            missing = {
                each if first else worker: worker
                for worker, each in domain_by_worker.items()
                if (each not in served if first else worker not in holders)
            }
            if not missing:
                break
            client.gather([_copy_to(client, future, worker) for worker in missing.values()])


def _copy_to(client: distributed.Client, future: ClusterFuture, worker: str) -> ClusterFuture:
    """Start a task on a worker that needs the array, so that Dask brings the array there."""
    # Another worker may run it: otherwise this would wait for ever for a worker that has died meanwhile.
    return client.submit(
        _take, future, workers=[worker], allow_other_workers=True, pure=False, priority=_URGENT
    )


def check_client(client: Any) -> None:
    """Raise `TypeError` unless this is a client that can be used here."""
    versions.require("distributed", "Dask on many machines")
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client must be a distributed.Client, not {client!r}")
    if client.asynchronous:
        raise TypeError("client must not be asynchronous; use it in a thread: asyncio.to_thread(share, …)")


def task_of(client: distributed.Client, array: ArrayLike) -> ClusterFuture:
    """Return the future of a task whose result is the array, in shared memory."""
    refuse_masked(array, "share")
    given = array if isinstance(array, np.ndarray) else np.asarray(array)
    shared = given if reference.reduce_held(given) is not None else creation.share(given)
    return client.submit(_array_of, _Whole(shared), key=f"{PREFIX}{uuid.uuid4().hex}", pure=False)


class _Whole:
    """Holds an array. Of a bare array, Dask would read all elements to make a name for it."""

    def __init__(self, array: Array) -> None:
        self.array = array if type(array) is SharedArray else array.view(SharedArray)


def _array_of(whole: _Whole) -> Array:
    return whole.array


def _take(array: Array) -> None:
    """Do nothing: the worker has the array when it calls this."""


def domains(client: distributed.Client) -> dict[str, str]:
    """Return the shared-memory domain of each worker, by its address."""
    found: dict[str, str] = client.run(domain, on_error="ignore")
    return found


def _holders(client: distributed.Client, future: ClusterFuture) -> Sequence[str]:
    return next(iter(client.who_has([future]).values()), ())


class _Source:
    """An array that workers slice. It has no ``copy`` method, which `dask.array.from_array` would call."""

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
