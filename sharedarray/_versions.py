"""Which versions of other packages this library registers with, and what it does beside others.

Shared arrays travel by reference through picklers of joblib, loky and Dask, because this library replaces
functions of these packages or registers with them (`picklers`, `integrations`). That is known to be right for
the versions in `BOUNDS`, if each function in `_NEEDED` is there with its parameters. A package of another
version is left as it is. A warning says so once, when it matters: at the first shared array that such a
package sends as data, or at the first use of the backend. `DaskPool` and `share` raise an error.

=============  ==========  ================================================================================
package        versions    reason for the bounds
=============  ==========  ================================================================================
joblib         1.4 to 1.x  the oldest tested; the next major version may rename what `_NEEDED` lists
loky           3.4 to 3.x  the same
dask,          2024.5      the oldest tested; versions are dates, a new one comes every month, and the upper
distributed    to 2027.x   bound is the end of the year after that of the newest one tested (2026.8)
=============  ==========  ================================================================================
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

from sharedarray import _errors as errors

__all__ = ["BOUNDS", "guarded", "require", "supports", "warn", "warn_of_data"]

_Version: TypeAlias = tuple[int, ...]

BOUNDS: dict[str, tuple[_Version, _Version]] = {
    "joblib": ((1, 4), (2,)),
    "loky": ((3, 4), (4,)),
    "dask": ((2024, 5), (2028,)),
    "distributed": ((2024, 5), (2028,)),
}
"""The first version that is supported, and the first one behind that is not."""

# By module, the functions that are called or replaced, with the parameters that they must have.
_NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "loky.backend.reduction": {"register": ()},
    "joblib.externals.loky.backend.reduction": {"register": ()},
    "joblib.pool": {"CustomizablePickler": ("writer",), "CustomizablePickler.register": ()},
    "joblib.parallel": {"register_parallel_backend": ("name", "factory")},
    "dask.base": {"normalize_token.dispatch": ("cls",), "normalize_token.register": ()},
    "dask.multiprocessing": {"get": ("func_loads", "func_dumps", "pool")},
    "distributed.protocol.pickle": {"dumps": ("x", "buffer_callback"), "cloudpickle.dumps": ("obj",)},
    "distributed.protocol.serialize": {
        "serialize_bytelist": ("x",),
        "dask_serialize.register": (),
        "dask_deserialize.register": (),
    },
    "distributed.protocol.core": {"dumps": ("msg", "context")},
    "distributed.comm.core": {"Comm.handshake_info": ("self",)},
    "distributed.protocol": {"dumps": ("msg",), "serialize_bytelist": ()},
    "distributed.protocol.numpy": {
        "serialize_numpy_ndarray": ("x", "context"),
        "dask_serialize.register": (),
    },
    "distributed.spill": {"serialize_bytelist": (), "_in_memory_weight": ("key", "value")},
    "distributed.client": {
        "Client._gather_remote": ("self",),
        "Client._run": ("self",),
        "Client._run_on_scheduler": ("self",),
    },
}
# The modules by whose functions a package sends tasks. What its other modules pickle is data anyway.
_SENDERS = {
    "joblib": ("joblib.externals.loky", "joblib.pool"),
    "loky": ("loky",),
    "dask": ("dask.multiprocessing",),
    "distributed": ("distributed",),
}

_left_alone: dict[str, str] = {}  # packages of other versions, at most one each, and the reason
_warned: set[str] = set()  # packages


def _version_of(package: str) -> str:
    known = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(known, str):
        return known
    from importlib import metadata  # not above: it takes as long as all of this package

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _problem(module: ModuleType) -> str | None:
    """Return what keeps this library from registering with a module, None if nothing does."""
    package = module.__name__.partition(".")[0]
    if package in _left_alone:
        return _left_alone[package]
    text = _version_of(package)
    numbers = re.match(r"(?:\d+!)?(\d+)(?:\.(\d+))?", text)
    low, high = BOUNDS[package]
    if numbers is not None:  # else the functions decide alone
        version = int(numbers[1]), int(numbers[2] or 0)
        if not low <= version < high:
            return f"{package} {text} is not between {_shown(low)} and {_shown(high)}, without the latter"
    for name, parameters in _NEEDED[module.__name__].items():
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found) or not _takes(found, parameters):
            return f"{package} {text} has another {module.__name__}.{name}"
    return None


def _takes(function: Callable[..., Any], parameters: tuple[str, ...]) -> bool:
    if not parameters:
        return True
    import inspect  # not above: the packages that this is about have imported it

    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True  # one of C's
    return all(name in found for name in parameters) or any(
        each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in found.values()
    )


def _shown(version: _Version) -> str:
    return ".".join(map(str, version))


def supports(module: ModuleType) -> bool:
    """Return whether to register with a module; its package is left alone from now on if not."""
    problem = _problem(module)
    if problem is not None:
        _left_alone.setdefault(module.__name__.partition(".")[0], problem)
    return problem is None


def guarded(register: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return a function that registers with a module if its version is supported."""

    def registered(module: ModuleType) -> None:
        if supports(module):
            register(module)

    return registered


def warn(package: str, effect: str) -> None:
    """Warn, once in a process, that a package is left alone."""
    if package in _warned:
        return
    _warned.add(package)
    warnings.warn(
        f"sharedarray does not know this version ({_left_alone[package]}) and leaves it as it is: {effect}",
        RuntimeWarning,
        stacklevel=3,
    )


def require(package: str, feature: str) -> None:
    """Raise `UnsupportedError` if a package that a feature needs is left alone."""
    if package in _left_alone:
        low, high = BOUNDS[package]
        raise errors.UnsupportedError(
            f"{feature} does not know this version of {package}",
            name=package,
            found=_left_alone[package],
            expected=f"{package} {_shown(low)} or later, before {_shown(high)}",
            next_step="install such a version, or a newer sharedarray",
        )


def warn_of_data() -> None:
    """Warn if a package that is left alone sends a shared array, which is data then; `SharedArray` asks."""
    if not _left_alone or _left_alone.keys() <= _warned:
        return
    frame = sys._getframe(1) if hasattr(sys, "_getframe") else None
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        for package in _left_alone:
            if any(name == sender or name.startswith(f"{sender}.") for sender in _SENDERS[package]):
                warn(package, "shared arrays travel as copies of their data")
        frame = frame.f_back
