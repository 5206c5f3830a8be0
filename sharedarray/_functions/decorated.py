"""Reducers of what decorators make of functions, and of modules: what pickle cannot send or sends wrongly."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

from sharedarray._functions import tokens
from sharedarray._functions.modules import (
    MAIN_NAMES,
    home_of,
    is_by_value,
    name_in,
    namespace_of,
    namespaces,
)
from sharedarray._functions.received import Global, arrived, module, named_global
from sharedarray._functions.snapshots import LRU_CACHE

if TYPE_CHECKING:
    from sharedarray._functions.pickler import CodePickler

__all__ = ["REDUCERS", "reduce_dispatcher"]


def _reduce_cache(pickler: CodePickler, cached: Any) -> Any:
    """Reduce the wrapper that `functools.lru_cache` and `functools.cache` return, without its cache."""
    if not is_by_value(cached.__module__) and cloudpickle._lookup_module_and_qualname(cached) is not None:
        return NotImplemented
    function, token, made = cached.__wrapped__, None, None
    if type(function) is types.FunctionType and name_in(function.__globals__, cached) is not None:
        home = home_of(function)
        if home is not None and (known := pickler.reduce_received(cached, home)) is not None:
            return known
        if home is not None and pickler.sends_globals:
            token, made = tokens.token_of(cached), pickler.version_of_constant(function)
    return _make_cache, (token, made, function, cached.cache_parameters()), dict(cached.__dict__)


def _make_cache(token: str | None, made: Any, function: Any, parameters: dict[str, Any]) -> Any:
    if token is None or made is None:
        return functools.lru_cache(**parameters)(function)
    known = tokens.find(token)
    if known is not None and arrived.versions.get(token) == (made, parameters):
        return known
    cached = functools.lru_cache(**parameters)(function)
    tokens.register(token, cached)
    arrived.new.add(token)
    arrived.take_version(token, (made, parameters))
    caches = arrived.caches
    caches[weakref.ref(cached, lambda gone: caches.pop(gone, None))] = None
    return cached


def reduce_dispatcher(function: types.FunctionType) -> Any:
    """Reduce a function that `functools` has made for dispatch by type; None for another function."""
    if function.__code__ is _DISPATCHER:
        registry = list(function.registry.items())  # type: ignore[attr-defined]
        state = registry, function.__wrapped__  # type: ignore[attr-defined]
        return _make_dispatcher, (), state, None, None, _set_dispatcher
    if function.__code__ is _DISPATCHED_METHOD:
        of = inspect.getclosurevars(function).nonlocals
        return getattr, (of["cls"] if of["obj"] is None else of["obj"], function.__name__)
    return None


def _make_dispatcher() -> Any:
    return functools.singledispatch(_nothing)


def _set_dispatcher(dispatcher: Any, state: tuple[list[tuple[type, Any]], Any]) -> None:
    registry, function = state
    for kind, implementation in registry:
        dispatcher.register(kind, implementation)
    functools.update_wrapper(dispatcher, function)


def _nothing(*_: Any) -> None:
    """Return nothing: `singledispatch` wants a function at once."""


_DISPATCHER = _make_dispatcher().__code__
# The code that `functools.singledispatchmethod` makes for an instance: a function before Python 3.14.
_DISPATCHED_METHOD = getattr(
    functools.singledispatchmethod(_nothing).__get__(types.SimpleNamespace()), "__code__", ""
)


def _reduce_module(pickler: CodePickler, each: types.ModuleType) -> Any:
    """Reduce a by-value module with all globals that can be sent; other modules by their names."""
    home, there = each.__name__, each.__dict__
    if namespace_of(home) is not there:
        if sys.modules.get(home) is not None or not pickler.sends_globals:
            return NotImplemented
        home = namespaces.name_of(there, each)  # loaded by its path, and not entered there
    elif home in MAIN_NAMES or not is_by_value(home):
        return NotImplemented
    if pickler.is_copy:
        names = [name for name in there if name not in _OF_MODULES and pickler.can_send(there[name])]
        return types.ModuleType, (home,), {name: there[name] for name in names}, None, None, _fill_module
    found: list[Global] = []
    for name in list(there) if pickler.sends_globals else ():
        if name not in _OF_MODULES:
            with contextlib.suppress(pickle.PicklingError):
                found += pickler.globals_of(home, there, (name,))
    return module, (home,), found, None, None, _set_module


# Globals that each module has for itself.
_OF_MODULES = frozenset(("__builtins__", "__cached__", "__loader__", "__name__", "__package__", "__spec__"))


def _fill_module(made: types.ModuleType, content: dict[str, Any]) -> None:
    made.__dict__.update(content)


def _set_module(_: types.ModuleType, found: list[Global]) -> None:
    for each in found:
        arrived.assign(*each)


def _reduce_method(pickler: CodePickler, method: Any) -> Any:
    """Reduce a method that is a module's global by its name: `random.random` is one of the global generator.

    A copy of that would draw the same numbers in each worker. A method that its instance does not have under
    the function's name, such as a lambda, goes with its function.
    """
    owner, name = method.__self__, method.__name__
    if owner is None or isinstance(owner, types.ModuleType):
        return NotImplemented
    home = type(owner).__module__
    there = namespace_of(home) if type(home) is str else None
    if there is not None and there.get(name) is method and not is_by_value(home):
        return named_global, (home, name)
    if type(method) is not types.MethodType or getattr(owner, method.__func__.__name__, None) == method:
        return NotImplemented
    return types.MethodType, (method.__func__, owner)


def _reduce_descriptor(pickler: CodePickler, descriptor: Any) -> Any:
    """Reduce a `cached_property` or `singledispatchmethod` without its lock or cache."""
    kept = {key: value for key, value in vars(descriptor).items() if key not in ("lock", "_method_cache")}
    return type(descriptor), (descriptor.func,), kept


def _reduce_context_manager(pickler: CodePickler, manager: Any) -> Any:
    """Reduce what a function of `contextlib.contextmanager` returns, if it was not entered yet."""
    made = manager.gen
    if not inspect.isgenerator(made) or inspect.getgeneratorstate(made) != inspect.GEN_CREATED:
        return NotImplemented
    return type(manager), (manager.func, manager.args, manager.kwds)


@contextlib.contextmanager
def _context() -> Iterator[None]:
    yield


def _reduce_weak(pickler: CodePickler, table: Any) -> Any:
    """Reduce a table that refers to its objects weakly, with those that are alive."""
    return type(table), (), None, None, iter(list(table.items()))


def _reduce_file(pickler: CodePickler, file: Any) -> Any:
    """Refuse a file, whose content cloudpickle would send without a word; the standard streams go by name."""
    if file is sys.stdin or file is sys.stdout or file is sys.stderr:
        return NotImplemented
    raise pickle.PicklingError(f"an open file, {file.name!r}")


REDUCERS: dict[type, Callable[[CodePickler, Any], Any]] = {
    LRU_CACHE: _reduce_cache,
    functools.cached_property: _reduce_descriptor,
    functools.singledispatchmethod: _reduce_descriptor,
    types.ModuleType: _reduce_module,
    types.MethodType: _reduce_method,
    types.BuiltinMethodType: _reduce_method,
    io.TextIOWrapper: _reduce_file,
    type(_context()): _reduce_context_manager,
    weakref.WeakKeyDictionary: _reduce_weak,
    weakref.WeakValueDictionary: _reduce_weak,
}
