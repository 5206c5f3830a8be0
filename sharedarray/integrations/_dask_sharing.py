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

Theirs: TypeAlias = Any  # a future of Dask's
Array: TypeAlias = np.ndarray[Any, Any]
_ROUNDS = 5  # times that workers are asked for an array: Dask may give the task to another worker
_URGENT = 10  # priority of that


def share(client: distributed.Client, array: ArrayLike) -> Theirs:
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
    check(client)
    future = task_of(client, array)
    spread(client, future)
    return future


def spread(client: distributed.Client, future: Theirs) -> None:
    """Copy the result of a task to all workers: first to one on each host, then from there to the others."""
    distributed.wait(future)
    for first in (True, False):
        for _ in range(_ROUNDS):
            homes = domains(client)
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


def _ask(client: distributed.Client, future: Theirs, worker: str) -> Theirs:
    # By others too, or this would wait for ever for a worker that has died in between.
    return client.submit(
        _here, future, workers=[worker], allow_other_workers=True, pure=False, priority=_URGENT
    )


def check(client: Any) -> None:
    versions.require("distributed", "Dask on many machines")
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client must be a distributed.Client, not {client!r}")
    if client.asynchronous:
        raise TypeError("client must not be asynchronous; use it in a thread: asyncio.to_thread(share, …)")


def task_of(client: distributed.Client, array: ArrayLike) -> Theirs:
    refuse_masked(array, "share")
    given = array if isinstance(array, np.ndarray) else np.asarray(array)
    shared = given if reference.reduce_held(given) is not None else creation.share(given)
    return client.submit(_kept, _Whole(shared), key=f"{PREFIX}{uuid.uuid4().hex}", pure=False)


class _Whole:
    """Holds an array: Dask would read a bare array as a whole, to make a name for it."""

    def __init__(self, array: Array) -> None:
        self.array = array if type(array) is SharedArray else array.view(SharedArray)


def _kept(whole: _Whole) -> Array:
    return whole.array


def _here(array: Array) -> str:
    return domain()


def domains(client: distributed.Client) -> dict[str, str]:
    found: dict[str, str] = client.run(domain, on_error="ignore")
    return found


def _holders(client: distributed.Client, future: Theirs) -> Sequence[str]:
    return next(iter(client.who_has([future]).values()), ())


class _Source:
    """An array of which workers take slices, without ``copy``, which `dask.array.from_array` would call."""

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
