"""Other packages that take a pool, or shared arrays: joblib and Dask.

Each is imported by its own module only.

=================  ==============================================================================
_packing           a pickle with the arrays beside it, for transports that are not ours
_machines          which addresses and processes are on this machine, and see the same blocks
_transport         shared arrays on the wires of Dask's distributed scheduler
_joblib_arguments  the arrays in a batch of joblib's calls, on their way to a worker
joblib             ``joblib.parallel_config(backend="sharedarray")``; needs the extra ``joblib``
_distributed       Dask's `distributed`, or an error that says how to install it
_dask_sharing      one shared copy of an array on each machine of a cluster
_dask_parts        parts of a map on their way to a Dask worker and back
dask               `share` and `DaskPool` for clusters; needs the extra ``dask``
=================  ==============================================================================

`install` registers with each package when that package is imported, before or after this one
(`sharedarray._picklers`). A program that does not use a package does not import it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from sharedarray import _versions as versions
from sharedarray._array import offset_of
from sharedarray._picklers import when_imported
from sharedarray._segment import mapping_of

__all__ = ["install"]


def _register_with_joblib(module: ModuleType) -> None:
    if not versions.supports(module):
        register = getattr(module, "register_parallel_backend", None)
        if callable(register):
            register("sharedarray", lambda **options: _joblibs_own(module, options))
        return

    def backend(**options: Any) -> Any:
        from sharedarray.integrations.joblib import SharedArrayBackend

        module.register_parallel_backend("sharedarray", SharedArrayBackend)  # in place of this function
        return SharedArrayBackend(**options)

    module.register_parallel_backend("sharedarray", backend)


def _joblibs_own(module: ModuleType, options: dict[str, Any]) -> Any:
    """Return a backend of joblib's, for a version of joblib that this library does not know."""
    versions.warn("joblib", "backend='sharedarray' is joblib's default backend")
    try:
        return module.BACKENDS[module.DEFAULT_BACKEND](nesting_level=options.get("nesting_level"))
    except (AttributeError, KeyError, TypeError):
        versions.require("joblib", "the backend for joblib")
        raise


def _register_with_dask(module: ModuleType) -> None:
    import dask

    from sharedarray.integrations import _packing as packing

    dask.config.update_defaults({"func_dumps": packing.dumps, "func_loads": packing.loads})


def _register_tokens(module: ModuleType) -> None:
    """Include the identity of the memory in Dask's token of a shared array.

    By the values alone, Dask takes two targets of `dask.array.store` with equal values for one.
    """
    normalize: Any = module.normalize_token
    by_value = normalize.dispatch(np.ndarray)

    def token_of(array: np.ndarray[Any, Any]) -> Any:
        mapping = mapping_of(array)
        if mapping is None:
            return by_value(array)
        start = offset_of(array, mapping)
        private = id(mapping) if mapping.mode == "c" else None
        where = mapping.device, mapping.inode, mapping.name  # a later block may have the same file
        return by_value(array), where, start, array.strides, private

    normalize.register(np.ndarray, token_of)


# The modules with which shared arrays are registered. `protocol` and `spill` hold functions of those before.
_DISTRIBUTED = (
    *("protocol.pickle", "protocol.serialize", "protocol.core", "comm.core", "protocol", "spill"),
    *("protocol.numpy", "client"),
)


def _register_with_distributed(module: ModuleType) -> None:
    from sharedarray.integrations import _transport as transport

    transport.register(module)


def install() -> None:
    """Register with those packages when they are imported."""
    when_imported("joblib.parallel", _register_with_joblib)
    when_imported("dask.base", versions.guarded(_register_tokens))
    when_imported("dask.multiprocessing", versions.guarded(_register_with_dask))
    for name in _DISTRIBUTED:
        when_imported(f"distributed.{name}", versions.guarded(_register_with_distributed))
