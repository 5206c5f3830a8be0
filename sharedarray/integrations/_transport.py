"""The transport of shared arrays in messages of Dask's distributed scheduler.

Processes that see the same memory file system are a *domain*: the same boot of a machine, and the same device
number of the directory of the blocks. Containers with a ``/dev/shm`` of their own are other domains. On each
hop, from one process to the next, a shared array is sent as::

    ways   [(domain, reference), ...]   its block, and the block of the array from which replicas were made
    data   its bytes and their digest, unless the reader is known to be in the sender's domain

    receiver in the domain of a way  ->  attaches: the same memory
    elsewhere                        ->  a *replica*: read-only, named by the digest, so that the first
                                         process of a domain that needs it makes it, and the others attach
    a client elsewhere               ->  a block of its own, which it may write; a client never gets a
                                         replica, and an array that was plain at first is plain again

A replica remembers the first way. So an array that comes back to its own domain, by a scheduler on another
machine, is the same array again. A replica is read-only: if a task could write to it, the tasks of this
domain would see that, and those of other machines would not.

The sender finds out where the reader is. Processes exchange their domains in Dask's handshake, if this
package was imported by then. For other processes, the address decides: one that is not of this machine is
elsewhere. A scheduler unpickles graphs, so that it is the reader of what a client sends. It passes results on
unread, to any process: these are sent with data, unless the scheduler listens on the loopback interface, so
that all processes are on this machine.

A client is often in one process with a scheduler or workers (`LocalCluster`). So an array arrives for a
client if a call of the client has asked for it, whatever else is in the process.

The keys of arrays that `share` has put on each host begin with `PREFIX`. Dask's memory manager would drop all
but one of the copies after two seconds; it is changed so that it leaves these alone.

Dask keeps the data of a message until they have arrived. Only an array in a client's graph might be gone by
then, so its reference pins the block. A process that cannot attach to an array gets a `Lost` in its place: an
error would break the connection, with all else that it carries. A `Lost` raises its error when it is used,
and is sent on as the array that it stands for, which is all that a scheduler does with it.

If a worker spills an array to its disk, the array is stored with its data.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import io
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from sharedarray import (
    _array as arrays,
    _creation as creation,
    _errors as errors,
    _reference as reference,
    _segment as segment,
)
from sharedarray._array import SharedArray
from sharedarray._platform import platform
from sharedarray._segment import Mapping, mapping_of
from sharedarray._subclasses import PLAIN, reduce_subclass
from sharedarray.integrations._machines import domain as domain, is_loopback, on_this_machine

__all__ = ["PREFIX", "Lost", "domain", "register"]

Array: TypeAlias = np.ndarray[Any, Any]
_Way: TypeAlias = tuple[str, tuple[Any, ...]]  # a domain, and the reference for its processes

_TRIES = 10  # attempts to make a replica or attach to it, while other processes make and release it
_COLLECT_AFTER = 0.2  # seconds from the end of a failed task until its arguments are collected
PREFIX = "shared-"  # of the keys of arrays that stay on each host
_REPLICA = "sa_replica_"  # the beginning of the names of replicas
_KEY = "sharedarray"  # of this library's entry in Dask's handshake


class _Wire(threading.local):
    """The purpose of this thread's pickling: a message, whose context Dask gives; or a disk (`storing`)."""

    context: dict[str, Any] | None = None
    storing = False


_wire = _Wire()


@contextmanager
def _pickling_for(**changes: Any) -> Iterator[None]:
    """Set attributes of `_wire` during the ``with`` statement."""
    before = {name: getattr(_wire, name) for name in changes}
    _wire.__dict__.update(changes)
    try:
        yield
    finally:
        _wire.__dict__.update(before)


def _instances(module: str, kind: str) -> list[Any]:
    """Return the objects of one of Dask's classes that this process has."""
    there = sys.modules.get(f"distributed.{module}")
    return [] if there is None else list(getattr(there, kind)._instances)


def _stays_here() -> bool:
    """Return whether the reader of the current pickle is in this domain."""
    context = _wire.context
    if context is not None:
        return _is_here(context.get("recipient", {}), context.get("sender", {}).get("address", ""))
    # The pickle is a graph, which a client sends to its scheduler, which unpickles it.
    for client in _instances("client", "Client"):
        if client.scheduler is None:
            continue
        address = client.scheduler.address
        comm = getattr(client.scheduler_comm, "comm", None)
        entry = getattr(comm, "remote_info", {}).get(_KEY)
        if not (
            entry[0] == domain() if entry else on_this_machine(address, getattr(comm, "local_address", ""))
        ):
            return False
    return True


def _is_here(recipient: dict[str, Any], own: str) -> bool:
    address = recipient.get("address", "")
    entry = recipient.get(_KEY)
    if not entry:
        # The recipient may be a scheduler, which passes the array on.
        return is_loopback(address)
    there, passes_on = entry
    return there == domain() and (not passes_on or is_loopback(address))


# -- sending --------------------------------------------------------------------------------------------

# For each replica: the first way, and the view of the replica that it stands for.
_origins: weakref.WeakKeyDictionary[Mapping, tuple[_Way, tuple[Any, ...]]] = weakref.WeakKeyDictionary()


def _reduce(array: Array) -> tuple[Any, ...]:
    """Reduce a shared array for Dask."""
    if _wire.storing:
        return np.asarray(array).__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # type: ignore[return-value]
    _keep_nothing()
    here = _stays_here()
    if here and _wire.context is None:
        reduced = reference.reduce_for_transport(array, once=False)
    else:
        reduced = reference.reduce_held(array) or ()
    if not reduced or reduced[0] is not reference.unpack_held:  # no reference can stand for it
        return np.asarray(array).__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # type: ignore[return-value]
    return _arrive, (_ways(array, reduced[1]), None if here else _Data(array))


def _keep_nothing() -> None:
    """Make schedulers and workers drop finished results, which would keep blocks alive.

    A scheduler keeps its last thousand short messages to each worker, for its dashboard, and with them tasks
    and arguments. After a worker has died, the scheduler's work stealing keeps the tasks that ran there. On a
    worker, the traceback of a failed task is in a reference cycle, with all arguments of the task.
    """
    for scheduler in _instances("scheduler", "Scheduler"):
        for stream in list(scheduler.stream_comms.values()):
            log = getattr(stream, "recent_message_log", None)
            if isinstance(log, deque) and log.maxlen:
                stream.recent_message_log = deque(maxlen=0)
        if _KEY not in scheduler.plugins:
            scheduler.plugins[_KEY] = _forgetting(scheduler)
            _spare_copies(scheduler)
    for worker in _instances("worker", "Worker"):
        if _KEY not in worker.plugins:
            worker.plugins[_KEY] = _collecting(worker)


def _forgetting(scheduler: Any) -> Any:
    """Return a scheduler's plugin by which a forgotten task drops its arguments."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    ours = weakref.ref(scheduler)

    class Forgetting(SchedulerPlugin):
        def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
            here = ours()
            task = None if here is None or finish != "forgotten" else here.tasks.get(key)
            if task is not None:
                task.run_spec = None

    return Forgetting()


def _spare_copies(scheduler: Any) -> None:
    """Keep a scheduler's memory manager from dropping the copies that are to stay on each host."""
    manager = scheduler.extensions.get("amm")
    if manager is None:
        return
    from distributed.active_memory_manager import ReduceReplicas

    class ReduceOthers(ReduceReplicas):
        """Drops copies of keys that are not shared."""

        def run(self) -> Any:
            """Yield suggestions of keys to drop; Dask sends back the worker that it has chosen."""
            suggestions, chosen = super().run(), None
            while True:
                try:
                    suggested = suggestions.send(chosen)
                except StopIteration:
                    return
                chosen = None
                if not str(getattr(suggested, "ts", suggested[1]).key).startswith(PREFIX):
                    chosen = yield suggested

    for policy in list(manager.policies):
        if type(policy) is ReduceReplicas:
            manager.add_policy(ReduceOthers())
            manager.policies.discard(policy)


def _collecting(worker: Any) -> Any:
    """Return a worker's plugin by which a failed task that is forgotten is collected soon."""
    from distributed.diagnostics.plugin import WorkerPlugin

    ours = weakref.ref(worker)
    pending: list[Any] = []

    def collect() -> None:
        pending.clear()
        gc.collect()

    class Collecting(WorkerPlugin):
        def transition(self, key: Any, start: Any, finish: Any, **kwargs: Any) -> None:
            here = ours()
            if here is not None and start == "error" and not pending:
                pending.append(here.loop.call_later(_COLLECT_AFTER, collect))

    return Collecting()


def _ways(array: Array, packed: tuple[Any, ...]) -> list[_Way]:
    ways = [(domain(), packed)]
    mapping = mapping_of(array)
    origin = None if mapping is None else _origins.get(mapping)
    if mapping is not None and origin is not None and origin[1] == _view(array, mapping):
        ways.append(origin[0])
    return ways


def _view(array: Array, mapping: Mapping) -> tuple[Any, ...]:
    return arrays.offset_of(array, mapping), array.shape, array.strides, array.dtype


class _Data:
    """The bytes of an array, which are sent beside the pickle."""

    def __init__(self, array: Array) -> None:
        self.array = np.asarray(array)

    def __reduce__(self) -> tuple[Any, ...]:
        array = self.array
        fortran = array.flags.fnc
        laid = np.ascontiguousarray(array.T if fortran else array)
        flat = laid.reshape(-1).view(np.uint8) if laid.nbytes else np.empty(0, np.uint8)
        digest = hashlib.sha256(repr((array.shape, array.dtype, fortran)).encode())
        digest.update(flat.data)
        return _Received, (flat, digest.hexdigest(), array.dtype, laid.shape, fortran)


class _Received:
    """The bytes of an array, as they have arrived."""

    def __init__(
        self, flat: Array, digest: str, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool
    ) -> None:
        laid = np.asarray(flat).view(dtype).reshape(shape) if flat.size else np.empty(shape, dtype)
        self.array: Array = laid.T if fortran else laid
        self.digest = digest


# -- receiving ------------------------------------------------------------------------------------------


class Lost:
    """An array that this process could not attach to; each use raises the error."""

    __slots__ = ("_error", "_ways")

    def __init__(self, ways: list[_Way], error: Exception) -> None:
        self._ways = ways
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._ways, None)

    def raised(self, *_: object, **__: object) -> Any:
        """Raise the error."""
        raise self._error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__array_interface__":
            raise AttributeError(name)  # Dask looks up special attributes of every object
        raise self._error

    __array__ = __getitem__ = __setitem__ = __len__ = __iter__ = __float__ = raised
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = raised


def _arrive(ways: list[_Way], data: _Received | _Data | None) -> Any:
    """Return the array that `_reduce` was given, in this process."""
    _keep_nothing()
    here = domain()
    missing: Exception | None = None
    for there, packed in ways:
        if there == here:
            try:
                found = reference.unpack_held(*packed)
            except errors.BlockNotFoundError as error:
                missing = error
            else:
                return _own(found) if _for_client() else _from(found, ways[-1])
    if data is not None:
        return _remade(data, ways[-1])
    if missing is None:
        name = ways[0][1][0]
        missing = errors.BlockNotFoundError(
            f"the block {name!r} is in the memory of another machine or container",
            name=name,
            found="a reference without data",
            cause="the sender took this process for one that shares its memory, as it has the same address",
            next_step="start schedulers and workers with --preload sharedarray: they tell where they are",
        )
    if _for_client():
        raise missing
    return Lost(ways, missing)


_asked_by_client: ContextVar[bool] = ContextVar("_asked_by_client", default=False)


def _for_client() -> bool:
    """Return whether an arriving array is for a client, and not for a scheduler or a worker."""
    return _asked_by_client.get() or not _in_cluster()


def _in_cluster() -> bool:
    """Return whether this process is a scheduler or a worker, perhaps besides a client."""
    return bool(_instances("worker", "Worker") or _instances("scheduler", "Scheduler"))


def _is_of_replica(array: Array) -> bool:
    """Return whether an array's memory is that of a replica, which must not be written."""
    mapping = None if array.flags.writeable else mapping_of(array)
    return mapping is not None and mapping.name.startswith(_REPLICA)


def _own(array: Array) -> Array:
    """Return an array that its client may write: this one, unless it is a replica."""
    return creation.share(array) if _is_of_replica(array) else array


def _remade(data: _Received | _Data, origin: _Way) -> Array:
    if not isinstance(data, _Received):  # the array has not left the process
        return creation.share(data.array)
    if _for_client():
        return creation.share(data.array)
    return _from(_replica(data), origin)


def _from(array: Array, origin: _Way) -> Array:
    """Remember the first way of an array."""
    mapping = mapping_of(array)
    if mapping is not None and origin[0] != domain():
        _origins[mapping] = origin, _view(array, mapping)
    return array


def _replica(data: _Received) -> SharedArray:
    """Return the one block of this domain that has these bytes, made unless it is there."""
    name = f"{_REPLICA}{data.digest}"
    for _ in range(_TRIES):
        try:
            found = arrays.attach(name, "r")
        except errors.BlockNotFoundError:
            pass
        except errors.LimitError:
            raise
        except (errors.SharedArrayError, OSError):
            break  # something else has that name
        else:
            if _is_ours(found) and (found.shape, found.dtype) == (data.array.shape, data.array.dtype):
                return found
            break
        try:
            made = creation.share(data.array, name=name)
        except errors.BlockExistsError:
            continue  # another process was faster
        made.flags.writeable = False
        return made
    return creation.share(data.array)


def _is_ours(array: SharedArray) -> bool:
    """Return whether this user has made a replica: another user can compute its name as well."""
    mapping = mapping_of(array)
    return mapping is not None and segment.with_handle(mapping, platform.others) is None


# -- Dask's picklers ------------------------------------------------------------------------------------


def _reduced(obj: Any) -> Any:
    """Return what a pickler's ``reducer_override`` returns."""
    if type(obj) is SharedArray:
        return _reduce(obj)
    if type(obj) is np.ndarray and not _wire.storing and _is_of_replica(obj):
        return obj.copy().__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # no other process has this copy
    if not isinstance(obj, np.ndarray) or type(obj) in PLAIN or _wire.storing:
        return NotImplemented
    if isinstance(obj, SharedArray) or mapping_of(obj) is not None:
        return reduce_subclass(obj)  # its memory, a `SharedArray`, comes here again
    return NotImplemented


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return _reduced(obj)


def _dumps_by_pickle(
    obj: object,
    protocol: int | None = None,
    *,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol, buffer_callback=buffer_callback).dump(obj)
    return buffer.getvalue()


def _dumps_by_cloudpickle(
    obj: object,
    protocol: int | None = pickle.HIGHEST_PROTOCOL,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            reduced = _reduced(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    buffer = io.BytesIO()
    Pickler(buffer, protocol, buffer_callback).dump(obj)
    return buffer.getvalue()


class _ModuleProxy:
    """Stands for a pickle module, with another ``dumps``."""

    def __init__(self, module: ModuleType, dumps: Callable[..., bytes]) -> None:
        self._module = module
        self.dumps = dumps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _in_pickles(module: ModuleType) -> None:
    # Its `dumps` asks plain pickle, then cloudpickle, and has no table; it finds both by these two names.
    module.pickle = _ModuleProxy(pickle, _dumps_by_pickle)  # type: ignore[attr-defined]
    module.cloudpickle = _ModuleProxy(module.cloudpickle, _dumps_by_cloudpickle)  # type: ignore[attr-defined]


def _as_data(module: ModuleType) -> None:
    @module.dask_serialize.register(SharedArray)  # type: ignore[untyped-decorator]
    def serialize(array: SharedArray, context: Any = None) -> tuple[dict[str, Any], list[Any]]:
        frames: list[Any] = [b""]
        head = _Data(array) if _wire.storing else array
        with _pickling_for(context=context if context is not None else _wire.context):
            frames[0] = _dumps_by_pickle(
                head, pickle.HIGHEST_PROTOCOL, buffer_callback=lambda each: frames.append(each.raw())
            )
        return {}, frames

    @module.dask_deserialize.register(SharedArray)  # type: ignore[untyped-decorator]
    def deserialize(header: dict[str, Any], frames: list[Any]) -> Any:
        found = pickle.loads(frames[0], buffers=frames[1:])
        return creation.share(found.array) if isinstance(found, _Received) else found

    stored = module.serialize_bytelist

    def serialize_bytelist(*args: Any, **kwargs: Any) -> Any:
        with _pickling_for(storing=True):
            return stored(*args, **kwargs)

    module.serialize_bytelist = serialize_bytelist  # type: ignore[attr-defined]


def _in_messages(module: ModuleType) -> None:
    sent = module.dumps

    def dumps(msg: Any, *args: Any, **kwargs: Any) -> Any:
        with _pickling_for(context=kwargs.get("context") or {}):
            return sent(msg, *args, **kwargs)

    module.dumps = dumps  # type: ignore[attr-defined]


def _in_handshakes(module: ModuleType) -> None:
    original = module.Comm.handshake_info

    def handshake_info(self: Any) -> dict[str, Any]:
        # The second: whether this process passes on what it does not read.
        return {**original(self), _KEY: (domain(), bool(_instances("scheduler", "Scheduler")))}

    module.Comm.handshake_info = handshake_info


def _in_clients(module: ModuleType) -> None:
    # The calls by which a client gets results.
    for name in ("_gather_remote", "_run", "_run_on_scheduler"):
        setattr(module.Client, name, _asking(getattr(module.Client, name)))


def _asking(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    async def asked(*args: Any, **kwargs: Any) -> Any:
        before = _asked_by_client.set(True)  # also in the threads that unpickle for this call
        try:
            return await call(*args, **kwargs)
        finally:
            _asked_by_client.reset(before)

    return asked


def _as_plain_data(module: ModuleType) -> None:
    dumps = module.serialize_numpy_ndarray

    @module.dask_serialize.register(np.ndarray)  # type: ignore[untyped-decorator]
    def serialize(array: Array, context: Any = None) -> tuple[dict[str, Any], list[Any]]:
        if type(array) not in PLAIN and mapping_of(array) is not None:
            # Dask would send the bare data; with this header it unpickles the instance.
            pickled: list[Any] = [b""]
            pickled[0] = sys.modules["distributed.protocol.pickle"].dumps(
                array, buffer_callback=lambda each: pickled.append(each.raw())
            )
            return {"pickle": True}, pickled
        header, frames = dumps(array, context)
        if "writeable" in header and not _wire.storing and _is_of_replica(array):
            header["writeable"] = [True]  # it is a copy where it arrives
        return header, frames


def _in_protocol(module: ModuleType) -> None:
    # The module has imported this name before this library replaced it.
    module.dumps = sys.modules["distributed.protocol.core"].dumps  # type: ignore[attr-defined]
    _as_stored(module)


def _as_stored(module: ModuleType) -> None:
    stored = sys.modules["distributed.protocol.serialize"].serialize_bytelist
    module.serialize_bytelist = stored  # type: ignore[attr-defined]


def _in_spill(module: ModuleType) -> None:
    _as_stored(module)
    weight = module._in_memory_weight

    def in_memory_weight(key: Any, value: object) -> int:
        # A shared array takes no memory of the worker; on disk, each worker would write a copy.
        return 0 if str(key).startswith(PREFIX) else int(weight(key, value))

    module._in_memory_weight = in_memory_weight  # type: ignore[attr-defined]


_REGISTER: dict[str, Callable[[ModuleType], None]] = {
    "distributed.protocol.pickle": _in_pickles,
    "distributed.protocol.serialize": _as_data,
    "distributed.protocol.core": _in_messages,
    "distributed.comm.core": _in_handshakes,
    "distributed.protocol": _in_protocol,
    "distributed.protocol.numpy": _as_plain_data,
    "distributed.spill": _in_spill,
    "distributed.client": _in_clients,
}


def register(module: ModuleType) -> None:
    """Register with one of the modules of Dask's distributed scheduler."""
    _REGISTER[module.__name__](module)
