"""Registration with the picklers that carry tasks between processes, whichever is imported first.

Each of them has a table of its own of how to reduce a type, which plain ``pickle`` does not look at. A
table is filled when its module is there: now, or when it is imported, which `_Finder` waits for.
Nothing is imported for this.

==================================  ==================================================================
module                              what uses its table
==================================  ==================================================================
multiprocessing.reduction           Pool, Queue, Pipe, Process arguments, managers, ProcessPoolExecutor
loky.backend.reduction              loky
joblib.externals.loky…reduction     joblib
joblib.pool                         joblib's multiprocessing backend
numpy.ma                            nothing: its class of masked arrays goes into the tables above
==================================  ==================================================================

Others are told of by `when_imported`, as Dask is (`sharedarray.integrations`). A version that is not known to
work is left alone (`sharedarray._versions`).

multiprocessing's table also takes plain ndarrays whose memory is a block's, such as
``numpy.broadcast_to(shared, …)``.

A table is asked for exactly the class of an object. So it gets those subclasses of ndarray by which programs
look at shared memory: NumPy's own, and each subclass of `SharedArray` when it is defined. Instances of other
subclasses travel as their own ``__reduce__`` says, with their data.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from sharedarray import _reloads as reloads
from sharedarray._array import SharedArray, on_subclass
from sharedarray._reference import reduce_for_transport, reduce_subclass_for_transport
from sharedarray._segment import mapping_of
from sharedarray._versions import guarded

__all__ = ["install", "reducers", "when_imported"]


def _reduce_plain(array: np.ndarray[Any, Any]) -> Any:
    if mapping_of(array) is not None:
        return reduce_for_transport(array)
    return array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def reducers() -> Any:
    """Return multiprocessing's table of reducers by type; what is registered later is in it too."""
    from multiprocessing.reduction import ForkingPickler  # not above: see `_WAITED_FOR`

    table = getattr(ForkingPickler, "_extra_reducers", None)
    return ForkingPickler(io.BytesIO()).dispatch_table if table is None else table


Register: TypeAlias = Callable[[type[Any], Callable[[Any], Any]], object]

# The classes that go into each table besides `SharedArray`, and what adds one to each table that is there.
_subclasses: list[type[Any]] = [np.matrix, np.recarray]
_tables: list[Register] = []


def _add_subclass(kind: type[Any]) -> None:
    """Register a subclass of ndarray with the tables that are there and those to come."""
    _subclasses.append(kind)
    for register in _tables:
        register(kind, reduce_subclass_for_transport)


def _fill(register: Register) -> None:
    register(SharedArray, reduce_for_transport)
    for kind in _subclasses:
        register(kind, reduce_subclass_for_transport)


def _multiprocessing(module: ModuleType) -> None:
    module.ForkingPickler.register(np.ndarray, _reduce_plain)
    _fill(module.ForkingPickler.register)
    _tables.append(module.ForkingPickler.register)


def _loky(module: ModuleType) -> None:
    _fill(module.register)
    _tables.append(module.register)


def _joblib_pool(module: ModuleType) -> None:
    class CustomizablePickler(module.CustomizablePickler):  # type: ignore[misc, name-defined]
        """joblib's pickler, which has no table of its own to register with."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _fill(self.register)

    module.CustomizablePickler = CustomizablePickler  # type: ignore[attr-defined]


def _numpy_ma(module: ModuleType) -> None:
    _add_subclass(module.MaskedArray)


_WAITED_FOR: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _multiprocessing,
    "loky.backend.reduction": guarded(_loky),
    "joblib.externals.loky.backend.reduction": guarded(_loky),
    "joblib.pool": guarded(_joblib_pool),
    "numpy.ma": _numpy_ma,
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
    """Waits for the modules of `_WAITED_FOR`, notes reloads, and finds nothing."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if target is not None:
            reloads.note(fullname)
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
    """Call a function with a module: now if it is imported, otherwise when it is."""
    _WAITED_FOR[name] = register
    module = sys.modules.get(name)
    if module is not None:
        register(module)


def install() -> None:
    """Register with every pickler that is there, and with the others when they come."""
    for name, register in list(_WAITED_FOR.items()):
        when_imported(name, register)
    on_subclass(_add_subclass)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
