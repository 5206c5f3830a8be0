"""Detection of changed functions and classes: `Snapshot`, and the `FunctionCache` of a pool."""

from __future__ import annotations

import dataclasses
import dis
import functools
import operator
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from cloudpickle import cloudpickle

from sharedarray import _reloads as reloads
from sharedarray._functions.modules import MAIN_NAMES, MISSING, is_by_value

__all__ = ["SCALARS", "SENT_ONCE", "FunctionCache", "Snapshot"]

# The type of the functions that `functools.lru_cache` and `functools.cache` return.
LRU_CACHE: type[Any] = type(functools.lru_cache(len))
# The types of numbers, text and the like, which need no care and can be shared by tasks.
SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes))
# Other immutable types, and those of class members whose functions the pickler visits by itself.
_IMMUTABLE = frozenset(
    (
        *(types.CodeType, re.Pattern, range, slice, type(...), type(NotImplemented)),
        *(staticmethod, classmethod, property, type(getattr(dataclasses, "_HAS_DEFAULT_FACTORY", None))),
    )
)
# These hold their class.
_DESCRIPTORS = types.GetSetDescriptorType, types.MemberDescriptorType
_NUMPY = np.number, np.bool_, np.character, np.datetime64, np.dtype, np.ufunc
_CONTAINERS = frozenset((list, dict, set))
# Attributes that `class` statements and `dataclass` set once, each time to new objects.
_SET_BY_CLASS = frozenset(("__annotations__", "__dataclass_fields__", "__dataclass_params__"))
# Items of a container that are compared one by one; containers that are compared for one function; characters
# or bytes of a text that may be held for it. Beyond these a comparison takes as long as a pickle.
_MAX_ITEMS, _MAX_CONTAINERS, _MAX_TEXT = 100, 20, 1 << 16


class Snapshot:
    """The objects that a pickle was made of: while they are the same, so is the pickle.

    Functions and classes are held weakly. Other objects are held, so that no other one gets the id of one.
    ``with_globals`` says whether the globals that functions name are among these objects.
    """

    def __init__(self, *, with_globals: bool = True) -> None:
        # Whether all objects that may change in place are small containers of immutable objects.
        self.fixed = True
        # Whether a call of these functions can change nothing that they bring along.
        self.constant = True
        # The result for which the pickle was made.
        self.made: Any = None
        self._with_globals = with_globals
        self._functions: list[tuple[Any, ...]] = []
        self._classes: list[tuple[Any, list[int]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._held: list[Any] = []
        self._alive: list[Any] = []
        self._modules = 0
        self._reloads = reloads.noted.count

    def add_function(self, function: types.FunctionType) -> None:
        """Add a function that is pickled by value."""
        code, defaults, keywords = function.__code__, function.__defaults__, function.__kwdefaults__
        names = global_names(code) if self._with_globals else ()
        containers = len(self._containers)
        own = [*(keywords or {}).values(), *function.__dict__.values(), *_contents(function)]
        for value in (defaults, *own):
            self.add(value)
        if (
            len(self._containers) > containers
            or not self.fixed
            or _assigns(code, frozenset(code.co_freevars))
        ):
            self.constant = False
            self.fixed &= not self._with_globals  # a worker has to load such a function for each call
        self._containers += [(each, dict(each)) for each in (keywords, function.__dict__) if each]
        self._held.append(code)
        for name in names:
            self.add(function.__globals__.get(name, MISSING))
        ids = _ids_of_function(function, names)
        self._functions.append((weakref.ref(function), code, defaults, keywords, names, ids))

    def add_class(self, each: type) -> None:
        """Add a class that is pickled by value."""
        self._classes.append((weakref.ref(each), _ids_of_class(each)))
        self.add(each.__bases__)
        for name, value in vars(each).items():
            if name not in _SET_BY_CLASS:
                self.add(value)

    def add(self, value: Any) -> None:
        """Add an object that is reached."""
        kind = type(value)
        if not self.fixed or value is MISSING or kind in _DESCRIPTORS:
            return
        if kind in SCALARS or issubclass(kind, _NUMPY):
            self._held.append(value)
            self.fixed = (kind is not str and kind is not bytes) or len(value) < _MAX_TEXT
        elif kind is types.FunctionType or kind is LRU_CACHE or isinstance(value, type):
            self._alive.append(weakref.ref(value))
        elif kind is types.ModuleType:
            self._held.append(value)
            self.fixed = not is_by_value(value.__name__) or value.__name__ in MAIN_NAMES
            if hasattr(value, "__path__"):
                self._modules = len(sys.modules)  # cloudpickle names the submodules that are loaded
        elif kind is tuple or kind is frozenset or kind in _CONTAINERS:
            self._held.append(value)
            if kind in _CONTAINERS:
                self._containers.append((value, kind(value)))
            self.fixed = len(value) <= _MAX_ITEMS and len(self._containers) <= _MAX_CONTAINERS
            for each in value.values() if kind is dict else value:
                self.add(each)
        elif kind is functools.partial:
            for each in (value.func, value.args, value.keywords, vars(value)):
                self.add(each)
        elif kind in _IMMUTABLE or (
            kind is types.BuiltinFunctionType and isinstance(value.__self__, types.ModuleType)
        ):
            self._held.append(value)
        else:
            self.fixed = False

    def is_current(self) -> bool:
        """Return whether all objects are the same and in their places."""
        if not self.fixed or self._reloads != reloads.noted.count:
            return False
        for ref, code, defaults, keywords, names, ids in self._functions:
            function = ref()
            if (
                function is None
                or function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not keywords
                or _ids_of_function(function, names) != ids
            ):
                return False
        for container, then in self._containers:
            if len(container) != len(then) or not all(map(operator.is_, container, then)):
                return False
            if type(container) is dict and not all(map(operator.is_, container.values(), then.values())):
                return False
        for ref, ids in self._classes:
            each = ref()
            if each is None or _ids_of_class(each) != ids:
                return False
        if None in [ref() for ref in self._alive]:
            return False
        return not self._modules or self._modules == len(sys.modules)


def _ids_of_function(function: types.FunctionType, names: Iterable[str]) -> list[int]:
    """Return the ids of what a function can be given anew: attributes, contents of cells, globals."""
    namespace = function.__globals__
    found = [len(function.__dict__), *[id(namespace.get(name, MISSING)) for name in names]]
    if function.__closure__:
        found += map(id, _contents(function))
    return found


def _ids_of_class(each: type) -> list[int]:
    return list(map(id, (each.__bases__, *vars(each), *vars(each).values())))


def _contents(function: types.FunctionType) -> list[Any]:
    return list(map(cell_content, function.__closure__ or ()))


class Empty:
    """Stands for the content of a cell that has none."""


def cell_content(cell: Any) -> Any:
    """Return the content of a closure's cell; `Empty` if it has none."""
    try:
        return cell.cell_contents
    except ValueError:
        return Empty


@functools.lru_cache(maxsize=1024)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that code names, nested code included."""
    return tuple(cloudpickle._extract_code_globals(code))


@functools.lru_cache(maxsize=1024)
def _assigns(code: types.CodeType, names: frozenset[str]) -> bool:
    """Return whether code, or code within it, assigns some of these variables of functions around it."""
    if not names:
        return False
    found = {step.argval for step in dis.get_instructions(code) if step.opname in _ASSIGN}
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return bool(found & names) or any(_assigns(each, names.intersection(each.co_freevars)) for each in inner)


_ASSIGN = frozenset(("STORE_DEREF", "DELETE_DEREF"))


# Types of functions that a worker may keep.
SENT_ONCE = frozenset((types.FunctionType, LRU_CACHE, functools.partial))


class FunctionCache:
    """The functions that a pool sends once to each worker, with a `Snapshot` of each.

    A function is sent once if it is submitted for the second time and has not changed. One that is submitted
    for the first time, as a lambda in a loop always is, travels with its call.
    """

    SIZE = 128  # functions that workers keep

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Snapshot | None]] = {}  # by id of the function

    def get(self, function: Any, make: Callable[[Any, Snapshot], Any]) -> Any:
        """Return what ``make`` has made of a function; None if the function travels with its call."""
        if type(function) not in SENT_ONCE:
            return None
        ref, snapshot = self._known.get(id(function), _UNKNOWN)
        if ref is None or ref() is not function:
            self._remember(function, None)
            return None
        if snapshot is not None and (snapshot.is_current() or not snapshot.fixed):
            return snapshot.made
        snapshot = Snapshot()
        snapshot.add(function)
        snapshot.made = make(function, snapshot)
        self._remember(function, snapshot)
        return snapshot.made

    def _remember(self, function: Any, snapshot: Snapshot | None) -> None:
        key, known = id(function), self._known
        known.pop(key, None)
        for oldest in list(known)[: max(0, len(known) - self.SIZE + 1)]:  # other threads change it meanwhile
            known.pop(oldest, None)

        def forget(ref: weakref.ref[Any]) -> None:
            if known.get(key, _UNKNOWN)[0] is ref:
                known.pop(key, None)

        known[key] = weakref.ref(function, forget), snapshot


_UNKNOWN: tuple[Any, None] = (None, None)
