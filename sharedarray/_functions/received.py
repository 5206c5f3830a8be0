"""Globals, functions and classes that have arrived from a caller, each with its version."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import operator
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from cloudpickle import cloudpickle

from sharedarray._functions import tokens
from sharedarray._functions.class_hooks import call_hook, new_class
from sharedarray._functions.modules import MAIN, MAIN_NAMES, MISSING, is_by_value, namespaces
from sharedarray._functions.snapshots import Empty, global_names

__all__ = ["Global", "arrived", "release", "version"]

# One global on its way: module, name, version (None if there is no such global), value, and whether it must
# not outlive the call.
Global: TypeAlias = tuple[str, str, Any, Any, bool]

# Entries of the table of versions after which those of dead objects are dropped.
_MAX_VERSIONS = 4096
# Namespaces of no module that a worker keeps: a program may make one for each function that it compiles.
_MAX_NAMESPACES = 32


class _Received:
    """The objects that have arrived in this process."""

    def __init__(self) -> None:
        self.is_worker = False  # whether this process is a worker of a pool
        self.globals: dict[tuple[str, str], Any] = {}  # versions, by module and name
        self.versions: dict[str, Any] = {}  # of functions and classes, by token
        self.new: set[str] = set()  # tokens of functions and classes that have no state yet
        self.count = 0  # changes of these versions
        # Globals that must not outlive the call: module, name, and value.
        self.passing: list[tuple[str, str, Any]] = []
        # The globals of by-value modules at the fork of this process, by module.
        self.at_fork: dict[str, dict[str, Any]] = {}
        self.modules: dict[str, types.ModuleType] = {}  # those that this process has made, except __main__
        # The globals of the main module's functions, in a fork of a process whose __main__ has a copy.
        self.main: dict[str, Any] | None = None
        # Functions with caches, which a change by the caller clears: their results may depend on it.
        # Weak references. A weak set could not be iterated while other threads add to it.
        self.caches: dict[weakref.ref[Any], None] = {}
        # The globals that the initializer has assigned in importable modules, by module.
        self.initialized: dict[str, set[str]] = {}

    def assign(self, module: str, name: str, made: Any, value: Any, passing: bool) -> None:
        """Assign a global, if its version is another one than that which arrived last."""
        before = self.globals.get((module, name), MISSING)
        if before is not MISSING and before == made:
            return
        there = namespace(module)
        self.globals[module, name] = made
        if before is MISSING and self._has_own(module, there, name):
            return
        self._count_change(clear=before is not MISSING)
        if made is None:
            there.pop(name, None)
            return
        there[name] = value
        if passing:
            self.passing.append((module, name, value))

    def _count_change(self, *, clear: bool) -> None:
        self.count += 1
        for known in list(self.caches) if clear else ():
            cached = known()
            if cached is not None:
                cached.cache_clear()

    def _has_own(self, module: str, there: dict[str, Any], name: str) -> bool:
        """Return whether this process has assigned a global itself, in an initializer for example."""
        value = there.get(name, MISSING)
        if value is MISSING or (name.startswith("__") and name.endswith("__")):
            return False
        at_fork = self.at_fork.get(module)
        if at_fork is None:
            return module == MAIN or module in self.modules
        return at_fork.get(name, MISSING) is not value

    def release(self) -> None:
        """Remove the globals that must not outlive the call."""
        while self.passing:
            module, name, value = self.passing.pop()
            there = namespace(module)
            if there.get(name) is value:
                del there[name]
                self.globals.pop((module, name), None)

    def add_namespace(self, name: str, made: types.ModuleType) -> None:
        """Add what stands for a namespace of no module, in place of the one that was used least recently."""
        names = [each for each in self.modules if namespaces.is_name(each) and each != name]
        self.modules.pop(name, None)
        self.modules[name] = made
        for name in names[: max(0, len(names) + 1 - _MAX_NAMESPACES)]:
            del self.modules[name]
            for each in [each for each in self.globals if each[0] == name]:
                del self.globals[each]

    def take_version(self, token: str, made: Any) -> bool:
        """Return whether the state of a function or class has to be set; if so, record its version."""
        is_new = token in self.new
        self.new.discard(token)
        before = self.versions.get(token, MISSING)
        if not is_new:
            if before is MISSING and not self.is_worker:
                return False  # this process's own
            if made is not None and before == made:
                return False
            if before is not MISSING and before != made:
                self._count_change(clear=True)
        if len(self.versions) >= _MAX_VERSIONS:
            for each in list(self.versions):
                if tokens.find(each) is None:
                    del self.versions[each]
        self.versions[token] = made
        return True


arrived = _Received()


def version() -> int:
    """Return a number that changes with every change of a global, function or class that arrives."""
    return arrived.count


def release() -> None:
    """Remove the globals of the last call that lead to shared arrays."""
    if arrived.passing:
        arrived.release()


def namespace(name: str) -> dict[str, Any]:
    """Return the namespace of a by-value module in this process; make the module if there is none."""
    if name == MAIN and arrived.main is not None:
        return arrived.main
    known = namespaces.find(name) if namespaces.is_name(name) else None
    return module(name).__dict__ if known is None else known


def module(name: str) -> types.ModuleType:
    """Return a by-value module in this process; make it if there is none."""
    found = sys.modules.get(name)
    if isinstance(found, types.ModuleType) and is_by_value(name):
        return found
    made = arrived.modules.get(name)
    if namespaces.is_name(name):
        if made is None:
            own, called = namespaces.find(name), namespaces.plain_name(name)
            made = _new_module(called) if own is None else _View(called, own)
        arrived.add_namespace(name, made)
    elif made is None:
        made = arrived.modules[name] = _new_module(name)
        sys.modules.setdefault(name, made)  # an importable module of this name stays
    return made


class _View(types.ModuleType):
    """A module that has the attributes of a namespace, which a forked process has from its parent."""

    def __init__(self, name: str, namespace: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__["_namespace"] = namespace

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_namespace"][name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["_namespace"][name] = value


def _new_module(name: str) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__["__builtins__"] = builtins
    return made


# Functions that a pickle calls. A function or class is made first, and its state is set then, since it may
# refer to itself.

_ATTRIBUTES: tuple[str, ...] = ("__name__", "__qualname__", "__module__", "__doc__")
_ATTRIBUTES += ("__annotations__", "__defaults__", "__kwdefaults__")
function_state: Callable[[types.FunctionType], tuple[Any, ...]] = operator.attrgetter(*_ATTRIBUTES)


def named_global(home: str, name: str) -> Any:
    """Return a global of a module, which is imported if need be."""
    return getattr(importlib.import_module(home), name)


def make_code(file: str, make: Callable[..., types.CodeType], *args: Any) -> types.CodeType:
    """Return code as cloudpickle makes it, with the name of its file."""
    return make(*args).replace(co_filename=file)


def make_function(token: str | None, code: types.CodeType, home: str, cells: int) -> types.FunctionType:
    """Return the function with a token; make it if there is none."""
    globals_, known = namespace(home), tokens.find(token)
    if (
        known is not None
        and known.__globals__ is globals_
        and len(known.__closure__ or ()) == cells == len(code.co_freevars)
    ):
        if known.__code__ != code:
            known.__code__ = code
        return known  # type: ignore[no-any-return]
    closure = tuple([types.CellType() for _ in range(cells)])
    function = types.FunctionType(code, globals_, None, None, closure)
    if token is not None:
        tokens.register(token, function)
        arrived.new.add(token)
    return function


def set_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    """Set the state of a function, unless it is of the same version, and the globals that it names."""
    token, made, of_function, attributes, contents, _, globals_ = state
    if token is None or arrived.take_version(token, made):
        for name, value in zip(_ATTRIBUTES, of_function, strict=True):
            setattr(function, name, value)
        function.__dict__.clear()
        function.__dict__.update(attributes or {})
        for cell, content in zip(function.__closure__ or (), contents, strict=True):
            if content is not Empty:
                cell.cell_contents = content
    for each in globals_:
        arrived.assign(*each)


def set_copied_function(function: types.FunctionType, state: Any) -> None:
    """Set the state of a lambda or inner function of an importable module, which has a copy of its globals.

    Those that the initializer has assigned in this process are this process's.
    """
    cloudpickle._function_setstate(function, state)
    copied = function.__globals__
    home = copied.get("__name__", "")
    assigned = arrived.initialized.get(home)
    if assigned:
        there = vars(sys.modules[home])
        copied.update((name, there[name]) for name in assigned.intersection(global_names(function.__code__)))


def make_class(token: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class with a token; make it if there is none."""
    known: type | None = tokens.find(token)
    if known is None:
        known = make(*args)
        tokens.register(token, known)
        arrived.new.add(token)
    elif token in arrived.versions and make is new_class and known.__bases__ != types.resolve_bases(args[2]):
        with contextlib.suppress(TypeError):  # their instances are laid out in another way
            known.__bases__ = types.resolve_bases(args[2])
    return known


def set_code(each: type, token: str, attributes: dict[str, Any]) -> None:
    """Set the methods of a class that is new: instances of it may be loaded before its other attributes."""
    if token in arrived.new:
        for name, value in attributes.items():
            setattr(each, name, value)


def assign_all(globals_: list[Global]) -> None:
    """Assign the globals that the methods of a class name."""
    for each in globals_:
        arrived.assign(*each)


# The parts of a class that arrive: its methods and their globals, which are there first; token and version;
# attributes; those of an enumeration's members, and its aliases; globals; keywords of the class statement.
ClassState: TypeAlias = tuple[
    Any, str, Any, Any, dict[str, Any], dict[str, Any], list[Global], dict[str, Any]
]


def set_class(each: Any, state: ClassState) -> None:
    """Set the state of a class, unless it is of the same version, and the global that is this class.

    A class has a version, and so has each attribute that programs assign: only attributes that the caller has
    changed are set.
    """
    _, token, made, of_class, of_members, aliases, globals_, keywords = state
    is_new = token in arrived.new
    before = (None, {}) if is_new else arrived.versions.get(token, (None, {}))
    if arrived.take_version(token, made):
        attributes, slots = of_class
        for name in before[1].keys() - made[1].keys():
            with contextlib.suppress(AttributeError):
                delattr(each, name)
        if before[0] == made[0]:
            attributes = {name: attributes[name] for name in made[1] if made[1][name] != before[1].get(name)}
        cloudpickle._class_setstate(each, (attributes, slots))
        for name, of_member in of_members.items():
            vars(each[name]).update(of_member)
            if "_value_" in of_member:
                each._value2member_map_[of_member["_value_"]] = each[name]
        for alias, (name, value) in aliases.items():
            if alias not in each._member_map_:
                member = each._member_map_.get(name)
                if member is None:  # a combination of flags that has a name
                    member = each(value)
                    member._name_ = name
                each._member_map_[alias] = member
                type.__setattr__(each, alias, member)
    if is_new:
        try:
            call_hook(each, keywords)
        except BaseException:
            arrived.new.add(token)  # the next load does it again, and fails as well
            raise
    assign_all(globals_)


def caller_object(token: str, home: str, name: str) -> Any:
    """Return the function or class of this process that a result refers to."""
    found = tokens.find(token)
    if found is None:
        found = sys.modules.get(MAIN if home in MAIN_NAMES else home)
        for part in name.split("."):
            found = getattr(found, part)
    return found
