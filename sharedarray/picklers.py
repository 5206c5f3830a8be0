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
dask.multiprocessing                Dask's process scheduler
distributed.protocol.serialize      Dask's distributed scheduler
==================================  ==================================================================

multiprocessing's table also takes plain ndarrays whose memory is a block's, such as
``numpy.broadcast_to(shared, …)``: memory decides how an array travels, not its class.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import pickle
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from sharedarray.array import SharedArray
from sharedarray.reference import reduce_for_transport, reduce_held
from sharedarray.segment import mapping_of

__all__ = ["install"]


def _reduce_plain(array: np.ndarray[Any, Any]) -> Any:
    if mapping_of(array) is not None:
        return reduce_for_transport(array)
    return array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


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


def _dask(module: ModuleType) -> None:
    import dask

    dask.config.update_defaults({"func_dumps": dumps_for_dask})


def dumps_for_dask(obj: object) -> bytes:
    """Pickle with cloudpickle as Dask's process scheduler does, shared arrays by reference."""
    import io

    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is SharedArray:
                return reduce_for_transport(obj)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(obj)
    return buffer.getvalue()


def _distributed(module: ModuleType) -> None:
    @module.dask_serialize.register(SharedArray)  # type: ignore[untyped-decorator]
    def serialize(array: SharedArray) -> tuple[dict[str, Any], list[bytes]]:
        # A message may be loaded by the scheduler and by several workers, so the reference is not pinned:
        # the client's array, or the worker that has the result, holds the block.
        reduced = reduce_held(array)
        data = (array.__reduce__() if reduced is None else reduced)
        return {}, [pickle.dumps(data)]

    @module.dask_deserialize.register(SharedArray)  # type: ignore[untyped-decorator]
    def deserialize(header: dict[str, Any], frames: list[bytes]) -> Any:
        make, arguments, *state = pickle.loads(frames[0])
        made = make(*arguments)
        if state:
            made.__setstate__(*state)
        return made


_PICKLERS: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _multiprocessing,
    "loky.backend.reduction": _loky,
    "joblib.externals.loky.backend.reduction": _loky,
    "joblib.pool": _joblib_pool,
    "dask.multiprocessing": _dask,
    "distributed.protocol.serialize": _distributed,
}


class _Loader(importlib.abc.Loader):
    """Runs the real loader, and registers once the module is whole."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module and its spec must not tell that we stood here.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _PICKLERS[module.__name__](module)


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the modules of `_PICKLERS`, and finds nothing else."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _PICKLERS or fullname in self._finding:
            return None
        self._finding.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Register with every pickler that is there, and with the others when they come."""
    for name, register in _PICKLERS.items():
        module = sys.modules.get(name)
        if module is not None:
            register(module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
