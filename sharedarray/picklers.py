"""Registration with the picklers that carry tasks between processes, whichever is imported first.

Each of them has a table of its own of how to reduce a type, which plain ``pickle`` does not look at. A
table is filled when its module is there: now, or when somebody imports it, which `_Finder` waits for.
Nothing is imported for this.

==================================  ==================================================================
module                              what uses its table
==================================  ==================================================================
multiprocessing.reduction           Pool, Queue, Pipe, Process arguments, managers, ProcessPoolExecutor
loky.backend.reduction              loky
joblib.externals.loky…reduction     joblib
joblib.pool                         joblib's multiprocessing backend
distributed.protocol.pickle         Dask's distributed scheduler: graphs and tasks
distributed.protocol.serialize      Dask's distributed scheduler: data between workers
==================================  ==================================================================

multiprocessing's table also takes plain ndarrays whose memory is a block's, such as
``numpy.broadcast_to(shared, …)``: memory decides how an array travels, not its class.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from sharedarray.array import SharedArray
from sharedarray.reference import reduce_for_transport
from sharedarray.segment import mapping_of

__all__ = ["install", "when_imported"]


def _reduce_plain(array: np.ndarray[Any, Any]) -> Any:
    if mapping_of(array) is not None:
        return reduce_for_transport(array)
    return array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def _reduce_for_dask(array: SharedArray) -> Any:
    # Dask also pickles to see how long it gets, and may load on the scheduler and again on a worker.
    return reduce_for_transport(array, once=False)


def _multiprocessing(module: ModuleType) -> None:
    module.ForkingPickler.register(SharedArray, reduce_for_transport)
    module.ForkingPickler.register(np.ndarray, _reduce_plain)


def _loky(module: ModuleType) -> None:
    module.register(SharedArray, reduce_for_transport)


def _joblib_pool(module: ModuleType) -> None:
    class CustomizablePickler(module.CustomizablePickler):  # type: ignore[misc, name-defined]
        """joblib's pickler, which has no table of its own to register with."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register(SharedArray, reduce_for_transport)

    module.CustomizablePickler = CustomizablePickler  # type: ignore[attr-defined]


def _distributed_pickle(module: ModuleType) -> None:
    # Its `dumps` asks plain pickle, then cloudpickle, and has no table; it finds both by these two names.
    module.pickle = _Standing(pickle, dumps_by_pickle)  # type: ignore[attr-defined]
    module.cloudpickle = _Standing(module.cloudpickle, dumps_by_cloudpickle)  # type: ignore[attr-defined]


def _distributed_data(module: ModuleType) -> None:
    @module.dask_serialize.register(SharedArray)  # type: ignore[untyped-decorator]
    def serialize(array: SharedArray) -> tuple[dict[str, Any], list[bytes]]:
        return {}, [dumps_by_pickle(array)]

    @module.dask_deserialize.register(SharedArray)  # type: ignore[untyped-decorator]
    def deserialize(header: dict[str, Any], frames: list[bytes]) -> Any:
        return pickle.loads(frames[0])


class _Standing:
    """Stands for a pickle module, with another ``dumps``."""

    def __init__(self, module: ModuleType, dumps: Callable[..., bytes]) -> None:
        self._module = module
        self.dumps = dumps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return _reduce_for_dask(obj) if type(obj) is SharedArray else NotImplemented


def dumps_by_pickle(
    obj: object,
    protocol: int | None = None,
    *,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
) -> bytes:
    """Pickle as `pickle.dumps` does, shared arrays by reference."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol, buffer_callback=buffer_callback).dump(obj)
    return buffer.getvalue()


def dumps_by_cloudpickle(
    obj: object,
    protocol: int | None = pickle.HIGHEST_PROTOCOL,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
) -> bytes:
    """Pickle as `cloudpickle.dumps` does, shared arrays by reference."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is SharedArray:
                return _reduce_for_dask(obj)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer, protocol, buffer_callback).dump(obj)
    return buffer.getvalue()


_WAITED_FOR: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _multiprocessing,
    "loky.backend.reduction": _loky,
    "joblib.externals.loky.backend.reduction": _loky,
    "joblib.pool": _joblib_pool,
    "distributed.protocol.pickle": _distributed_pickle,
    "distributed.protocol.serialize": _distributed_data,
}


class _Loader:
    """Runs the real loader, and registers once the module is whole.

    A loader by its methods: to import `importlib.abc` takes longer than all of this package.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module and its spec must not tell that we stood here.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _WAITED_FOR[module.__name__](module)


class _Finder:
    """Waits for the modules of `_WAITED_FOR`, and finds nothing else."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WAITED_FOR or fullname in self._finding:
            return None
        self._finding.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


def when_imported(name: str, register: Callable[[ModuleType], None]) -> None:
    """Have a function called with a module: now if it is there, otherwise when somebody imports it."""
    _WAITED_FOR[name] = register
    module = sys.modules.get(name)
    if module is not None:
        register(module)


def install() -> None:
    """Register with every pickler that is there, and with the others when they come."""
    for name, register in list(_WAITED_FOR.items()):
        when_imported(name, register)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
