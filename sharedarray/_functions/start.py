"""The ``__main__`` of a worker: a new one, or that which a forked worker has from its parent."""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import io
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from sharedarray._functions import tokens
from sharedarray._functions.modules import (
    MAIN,
    MAIN_OF_CHILD,
    MISSING,
    by_value,
    is_by_value,
    namespace_of,
    namespaces,
)
from sharedarray._functions.named import give_tokens
from sharedarray._functions.pickler import CALL, CodePickler
from sharedarray._functions.received import arrived
from sharedarray._functions.snapshots import LRU_CACHE, global_names

__all__ = ["Inherited", "before_fork", "begin_worker", "initialize"]


class _MainModule(types.ModuleType):
    """The ``__main__`` of a worker that was not forked from the caller.

    Code may name ``__file__``, which is a global then. The module has no such attribute all the same: from it
    `multiprocessing` would conclude that children of the worker have to run the caller's script.
    """

    @property
    def __file__(self) -> str:  # type: ignore[override]
        raise AttributeError("__file__")


# The state that a forked worker has from its parent: module, name and version of each global; token and
# version of each function and class.
Inherited: TypeAlias = tuple[list[tuple[str, str, Any]], list[tuple[str, Any]]]


def before_fork(initializer: Callable[..., object] | None) -> Inherited:
    """Return the versions of what the initializer reaches, for a worker that is about to be forked."""
    pickler = CodePickler(io.BytesIO(), CALL)
    if initializer is not None:
        with contextlib.suppress(Exception):  # it is not sent, so it need not be picklable
            pickler.dump(initializer)
    for namespace in (namespace_of(MAIN) or {}, *[each for _, each in namespaces.all()]):
        _give_tokens(namespace)
        for token, content in give_tokens(namespace):
            with contextlib.suppress(Exception):
                pickler.versions.append((token, pickler.version_of_content(content)[0]))
    return pickler.globals, pickler.versions


def _give_tokens(namespace: dict[str, Any]) -> None:
    """Give functions and classes their tokens here, so that parent and child have the same."""
    for value in list(namespace.values()):
        if isinstance(value, type):
            if is_by_value(value.__module__):
                tokens.token_of(value)
        elif type(value) is types.FunctionType and value.__globals__ is namespace:
            tokens.token_of(value)


def begin_worker(inherited: Inherited | None) -> None:
    """Make this process a worker: give it a ``__main__``, or take the one that it has from its parent."""
    arrived.__init__()  # type: ignore[misc]
    arrived.is_worker = True
    if inherited is None:
        module = _MainModule(MAIN)
        module.__dict__["__builtins__"] = builtins
        _replaced.append(sys.modules.get(MAIN))
        sys.modules[MAIN] = sys.modules[MAIN_OF_CHILD] = module
        return
    arrived.main = _main_of_child()
    arrived.at_fork = {name: dict(namespace_of(name) or {}) for name in (MAIN, *by_value)}
    if arrived.main is not None:
        arrived.at_fork[MAIN] = dict(arrived.main)
    arrived.at_fork.update((name, dict(namespace)) for name, namespace in namespaces.all())
    globals_, versions = inherited
    arrived.globals = {(module, name): made for module, name, made in globals_}
    arrived.versions = dict(versions)


def initialize(initializer: Callable[..., object], arguments: Sequence[Any]) -> None:
    """Call the initializer, and note which globals of importable modules it assigns."""
    before = {name: dict(namespace) for name, namespace in _importable_homes(initializer)}
    initializer(*arguments)
    for name, then in before.items():
        now = dict(namespace_of(name) or {})
        arrived.initialized[name] = {each for each in now if then.get(each, MISSING) is not now[each]}


def _importable_homes(called: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and namespaces of importable modules: that of a function, and of those that it names."""
    while type(called) is functools.partial:
        called = called.func
    if type(called) is types.MethodType:
        called = called.__func__
    if type(called) is not types.FunctionType:
        return
    function = inspect.unwrap(called)
    code = getattr(function, "__code__", called.__code__)
    for each in (called, function, *map(called.__globals__.get, global_names(code))):
        if type(each) is types.ModuleType:
            there = each.__dict__
        elif type(each) is types.FunctionType:
            there = each.__globals__
        else:
            continue
        name = there.get("__name__")
        if type(name) is str and namespace_of(name) is there and not is_by_value(name):
            yield name, there


# The module that `begin_worker` replaced, whose code still runs.
_replaced: list[Any] = []


def _main_of_child() -> dict[str, Any] | None:
    """Return the globals of the main module's functions if ``__main__`` has a copy of these.

    This is so in a process that multiprocessing has started by ``spawn`` or ``forkserver``: it runs the
    script by `runpy`, and copies the resulting globals into a new module.
    """
    namespace = namespace_of(MAIN) or {}
    if namespace.get("__name__") != MAIN_OF_CHILD:
        return None
    for value in list(namespace.values()):
        for each in vars(value).values() if isinstance(value, type) else (value,):
            function = each.__wrapped__ if type(each) is LRU_CACHE else each
            if type(function) is types.FunctionType and function.__globals__.get("__name__") == MAIN_OF_CHILD:
                return function.__globals__
    return None
