"""Functions and classes of the main module on their way to workers, and the ``__main__`` that a worker has.

A fresh process cannot import a script or a notebook, so its functions and classes travel *by value*, by
cloudpickle. They belong to one module all the same: each worker has one ``__main__``, and every function and
class of the caller's main module that arrives there refers to it.

::

    caller's __main__                                     worker's __main__
    work()  ── code, and the globals that it names ──▶    work()
    DATA    ── value and version ─────────────────────▶   DATA   assigned if the version is another one
    Model   ── token, state and version ──────────────▶   Model  one class; its state is set if the version
                                                                 is another one

A *version* tells whether the caller has changed a value since it was sent last. It is derived from the pickle
of the value. So a change by the caller arrives with the next call. A value that the worker has assigned
itself, in an initializer or in a task, stays until the caller changes its own. A value that the worker had
assigned before the caller ever sent one stays as well.

What a function brings along besides (defaults, closure, the instance of a bound method) belongs to one call.
A global that leads to a shared array is removed when the call is over: the worker must not keep its block.

Functions and classes that the caller sent come back by their token or name, and are the caller's own there.
The same is done for other modules that a fresh process cannot import (`is_carried`).

Limits. A function's ``__doc__``, ``__name__`` and ``__annotations__`` alone are not compared. Names that the
code does not spell, as in ``globals()[name]``, are not sent. A worker keeps the globals that it was sent.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import inspect
import io
import itertools
import operator
import os
import pickle
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import cloudpickle
import numpy as np
from cloudpickle import cloudpickle as _cloudpickle

from sharedarray import reference, reloads
from sharedarray.picklers import reducers
from sharedarray.subclasses import PLAIN, reduce_subclass
from sharedarray.thresholds import HASHED_FROM

__all__ = [
    "CALL",
    "COPY",
    "RESULT",
    "SENT_ONCE",
    "CodePickler",
    "FunctionCache",
    "Inherited",
    "Snapshot",
    "before_fork",
    "begin_worker",
    "is_carried",
    "release",
    "version",
]

# What a pickle is made for: a call or an initializer; a result on its way to the caller; a process that is no
# worker of a pool, where each pickle brings its globals along.
CALL, RESULT, COPY = "call", "result", "copy"

# One global on its way: module, name, version, value, and whether it must not outlive the call.
_Global: TypeAlias = tuple[str, str, Any, Any, bool]

_MAIN = "__main__"
# The name that multiprocessing gives to the main module in a child that imports it.
_MAIN_OF_CHILD = "__mp_main__"
_MAIN_NAMES = frozenset((_MAIN, _MAIN_OF_CHILD))
_MISSING = object()
# What `functools.lru_cache` and `functools.cache` make.
_LRU_CACHE: type[Any] = type(functools.lru_cache(len))
_SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes))
# Longer texts are hashed like other values.
_SHORT_TEXT = 64
# Objects that a function without defaults, closure and attributes is made of: itself, its code, None.
_PARTS_OF_SIMPLE = 3
# Items of a tuple, and of a list, a dict or a set, up to which they are compared one by one.
_MOST_ITEMS = 100
# Entries of the worker's tables after which those of dead objects are dropped.
_MOST_TOKENS = 4096

# Modules that the program wants to be sent by value (cloudpickle.register_pickle_by_value).
_BY_VALUE: set[str] = _cloudpickle._PICKLE_BY_VALUE_MODULES
_classes_by_token: Any = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID


# -- which modules travel by value ---------------------------------------------------------------------------


def is_carried(name: str | None) -> bool:
    """Return whether a module's functions travel by value, because no fresh process can import it."""
    if name in _MAIN_NAMES:
        return True
    module = sys.modules.get(name or "")
    if name is None or module is None:
        return False
    spec = getattr(module, "__spec__", None)
    if importable.get(name, _MISSING) is spec:
        return False
    known = _carried.get(name)
    return (known is not None and known() is module) or _examine(name, module, spec)


# The specs of modules that a fresh process can import, by name, and the count of reloads when each was found.
# Weak references to modules that no fresh process can import.
importable: dict[str, Any] = {}
_found_at: dict[str, int] = {}
_carried: dict[str, Any] = {}


def _examine(name: str, module: Any, spec: Any) -> bool:
    if not _can_be_imported(name, module):
        _carried[name] = weakref.ref(module)
        importable.pop(name, None)
        return True
    if name in importable and reloads.number_of(name) <= _found_at[name]:
        reloads.note(name)  # a finder that comes before ours has found it, or it was imported once more
    importable[name], _found_at[name] = spec, reloads.count
    _carried.pop(name, None)
    reloads.note_path()
    return False


def _can_be_imported(name: str, module: Any) -> bool:
    """Return whether the import system finds a module again, under its name and in the same place."""
    if not isinstance(module, types.ModuleType):
        return True  # a program's own way of importing
    spec = getattr(module, "__spec__", None)
    parent = name.rpartition(".")[0]
    if parent and (parent not in sys.modules or is_carried(parent)):
        return False
    if spec is None:
        return bool(parent)  # the package may have made it
    path = getattr(sys.modules[parent], "__path__", None) if parent else None
    if parent and path is None:
        return True
    for finder in list(sys.meta_path):
        try:
            found = finder.find_spec(name, path)
        except Exception:
            continue  # it would not find the module elsewhere either
        if found is not None:
            return _is_same_place(spec, found)
    return False


def _is_same_place(spec: Any, found: Any) -> bool:
    one, other = getattr(spec, "origin", None), getattr(found, "origin", None)
    if one is None and other is None:  # a namespace package has folders alone
        places = map(list, (spec.submodule_search_locations or (), found.submodule_search_locations or ()))
        folders, others = (set(map(os.path.realpath, each)) for each in places)
        return folders == others or bool(folders & others)
    if one is None or other is None:
        return False
    return bool(one == other or os.path.realpath(one) == os.path.realpath(other))


def _space_of(namespace: dict[str, Any]) -> str | None:
    """Return the name of the carried module that has this namespace; None for any other namespace."""
    if getattr(sys.modules.get(_MAIN), "__dict__", None) is namespace:
        return _MAIN
    name = namespace.get("__name__")
    if name == _MAIN_OF_CHILD:
        return _MAIN  # in a child of multiprocessing, whose module has a copy of this namespace
    if type(name) is not str or name in _MAIN_NAMES or not is_carried(name):
        return None
    return name if getattr(sys.modules.get(name), "__dict__", None) is namespace else None


def _namespace(space: str) -> dict[str, Any]:
    """Return the namespace of a carried module in this process; make the module if there is none."""
    if space == _MAIN and _received.main is not None:
        return _received.main
    module = sys.modules.get(space)
    if isinstance(module, types.ModuleType) and is_carried(space):
        return module.__dict__
    made = _received.modules.get(space)
    if made is None:
        made = _received.modules[space] = types.ModuleType(space)
        made.__dict__["__builtins__"] = builtins
        # Another module of this name stays where it is.
        sys.modules.setdefault(space, made)
    return made.__dict__


class _Space(dict[str, Any]):
    """Stands for the namespace of a carried module in a pickle."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)  # cloudpickle would fill an empty one

    def __reduce__(self) -> Any:
        return _namespace, (self["name"],)


_SPACES: dict[str, _Space] = {}


def _name_in(namespace: dict[str, Any] | None, obj: Any) -> str | None:
    """Return the name by which a module has this function or class at its top level."""
    name = getattr(obj, "__qualname__", None)
    return name if name and namespace is not None and namespace.get(name, _MISSING) is obj else None


# -- tokens and versions -------------------------------------------------------------------------------------

_numbers = itertools.count(1)
_token_of: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_by_token: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
# Names of globals that this process has sent; the absence of others needs no word.
_sent_names: set[tuple[str, str]] = set()


def _token(obj: Any) -> str:
    """Return what identifies a function or class, here and in all processes that it is sent to."""
    if isinstance(obj, type):
        token: str = _cloudpickle._get_or_create_tracker_id(obj)
        return token
    known = _token_of.get(obj)
    if known is None:
        known = _token_of[obj] = f"{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}"
        _by_token[known] = obj
    return known


def _version_of(value: Any) -> tuple[Any, bool]:
    """Return a value's version, and whether the value leads to a shared array."""
    kind = type(value)
    if kind in _SCALARS:
        if kind is not str and kind is not bytes:
            return (kind.__name__, repr(value)), False  # 1, 1.0 and True differ, and so do 0.0 and -0.0
        if len(value) <= _SHORT_TEXT:
            return (kind.__name__, value), False
    elif kind is types.ModuleType and not is_carried(value.__name__):
        return ("module", value.__name__), False
    elif kind is types.FunctionType and _space_of(value.__globals__) is not None:
        known = _version_of_function(value)
        if known is not None:
            return known, False
    elif isinstance(value, type) and is_carried(value.__module__):
        return _version_of_class(value)
    elif kind in PLAIN and not value.dtype.hasobject:
        held = reference.reduce_held(value)
        if held is not None:
            return ("shared", repr(held[1])), True
        if kind is np.ndarray and value.nbytes >= HASHED_FROM:
            return (_contents.version_of(value), str(value.dtype), value.shape, value.strides), False
    return _version_by_pickle(value)


def _version_by_pickle(value: Any) -> tuple[Any, bool]:
    import hashlib  # here, for it loads OpenSSL, which takes as long as 20 of our modules

    file = io.BytesIO()
    pickler = _VersionPickler(file, value)
    pickler.dump(value)
    made = hashlib.blake2b(file.getbuffer(), digest_size=16).digest(), pickler.reloads
    if pickler.attributes is None:
        return made, pickler.shares
    return _with_attributes(made, pickler.attributes, shares=pickler.shares)


def _with_attributes(made: Any, attributes: dict[str, Any], *, shares: bool) -> tuple[Any, bool]:
    """Return the version of a class, in which attributes that programs assign have versions of their own."""
    versions = {}
    for name, value in attributes.items():
        versions[name], one_shares = _version_of(value)
        shares |= one_shares
    return (made, versions), shares


def _version_of_class(each: type) -> tuple[Any, bool]:
    parts: list[Any] = [each.__bases__, each.__name__]
    attributes: dict[str, Any] = {}
    for name, value in vars(each).items():
        kind = type(value)
        if kind in _DESCRIPTORS or name in _OF_CLASSES:
            continue
        if kind is types.FunctionType:
            constant = _add_parts(value, parts)
        elif kind is staticmethod or kind is classmethod:
            parts.append(value)
            constant = _is_constant(value.__func__, parts)
        elif kind is property:
            parts.append(value)
            constant = all(_is_constant(one, parts) for one in (value.fget, value.fset, value.fdel))
        elif _is_data(name, value):
            attributes[name] = value
            continue
        else:
            constant = False
        if not constant:
            return _version_by_pickle(each)
        parts.append(name)
    known = _versions.get(each)
    if known is None or not _are_same(known[0], parts):
        known = _versions[each] = [_held(part) for part in parts], f"version {next(_numbers)}"
    return _with_attributes(known[1], attributes, shares=False)


_DESCRIPTORS = frozenset((types.GetSetDescriptorType, types.MemberDescriptorType))
# What `class` statements and `dataclass` set, which nothing changes; and what copyreg remembers.
_OF_CLASSES = frozenset(
    (
        "__annotations__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__hash__",
        "__match_args__",
        "__module__",
        "__qualname__",
        "__slotnames__",
        "__slots__",
        "__static_attributes__",
        "__weakref__",
    )
)


# The objects that a function or class was made of, and its version.
_versions: weakref.WeakKeyDictionary[Any, tuple[list[Any], str]] = weakref.WeakKeyDictionary()


def _version_of_function(function: types.FunctionType) -> str | None:
    """Return a function's version; None if a call may change what it brings along.

    Nothing that it is made of can change in place, so it has changed if one of these is another object.
    """
    known = _versions.get(function)
    if (
        known is not None
        and len(known[0]) == _PARTS_OF_SIMPLE
        and known[0][1] is function.__code__
        and function.__defaults__ is None
        and not (function.__closure__ or function.__kwdefaults__ or function.__dict__)
    ):
        return known[1]
    parts: list[Any] = []
    if not _add_parts(function, parts):
        return None
    if known is None or not _are_same(known[0], parts):
        known = _versions[function] = [_held(part) for part in parts], f"version {next(_numbers)}"
    return known[1]


def _add_parts(function: types.FunctionType, parts: list[Any]) -> bool:
    """Add the objects that a function is made of, without its globals; return if all are constant."""
    if any(part is function for part in parts):
        return True  # it refers to itself
    code = function.__code__
    parts += function, code, function.__defaults__
    if _assigned(code):
        return False
    values = [*(function.__kwdefaults__ or {}).values(), *function.__dict__.values()]
    values += map(_content, function.__closure__ or ())
    parts += values
    return all(_is_constant(value, parts) for value in (*(function.__defaults__ or ()), *values))


def _are_same(held: list[Any], parts: list[Any]) -> bool:
    if len(held) != len(parts):
        return False
    for each, part in zip(held, parts, strict=True):
        if part is not (each() if type(each) is weakref.ref else each):
            return False
    return True


def _held(part: Any) -> Any:
    """Return what keeps the id of an object from being given to another one: a function's not, it may end."""
    return weakref.ref(part) if isinstance(part, (type, types.FunctionType)) else part


def _is_constant(value: Any, parts: list[Any]) -> bool:
    """Return whether a default or the content of a cell cannot be changed in place."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return len(value) <= _MOST_ITEMS and all(_is_constant(each, parts) for each in value)
    if kind is types.FunctionType:
        return _is_elsewhere(value) or _add_parts(value, parts)
    return kind in _CONSTANT or (isinstance(value, (type, np.generic, np.dtype)) and kind is not np.void)


def _is_elsewhere(function: types.FunctionType) -> bool:
    """Return whether a function is not a part of what refers to it, since a module has it by its name."""
    return _name_in(getattr(sys.modules.get(function.__module__), "__dict__", None), function) is not None


_CONSTANT = _SCALARS | {
    types.BuiltinFunctionType,
    types.ModuleType,
    _LRU_CACHE,
    range,
    slice,
    type(...),
}


@functools.lru_cache(maxsize=1024)
def _assigned(code: types.CodeType) -> bool:
    """Return whether code assigns variables of the functions around it."""
    steps = dis.get_instructions(code) if code.co_freevars else ()
    return any(
        step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in code.co_freevars for step in steps
    ) or any(
        set(inner.co_freevars) & set(code.co_freevars) and _assigned(inner)
        for inner in code.co_consts
        if isinstance(inner, types.CodeType)
    )


class _Empty:
    """Stands for the content of a cell that has none."""


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _Empty


# -- functions that are sent once ----------------------------------------------------------------------------


class Snapshot:
    """The objects that the pickle of a function was made of: while they are the same, so is the pickle.

    Functions and classes are held weakly. Other objects are held, so that no other one gets the id of one.

    Attributes
    ----------
    fixed
        Whether objects that may change in place are all small containers of objects that cannot.
    made
        What the pool has made of the pickle.
    """

    def __init__(self) -> None:
        self.fixed = True
        self.made: Any = None
        self._functions: list[tuple[Any, str | None, dict[str, Any], tuple[str, ...], list[int]]] = []
        self._classes: list[tuple[Any, list[int]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._kept: list[Any] = []
        self._alive: list[Any] = []
        self._modules = 0
        self._reloads = reloads.count

    def add_function(self, function: types.FunctionType) -> None:
        """Note a function that is pickled by value."""
        names, made = _names_of(function.__code__), _version_of_function(function)
        values = [function.__globals__.get(name, _MISSING) for name in names]
        self.fixed &= made is not None
        self._functions.append(
            (weakref.ref(function), made, function.__globals__, names, list(map(id, values)))
        )
        for value in (*values, *(function.__defaults__ or ()), *map(_content, function.__closure__ or ())):
            self.add(value)

    def add_class(self, each: type) -> None:
        """Note a class that is pickled by value."""
        self._classes.append((weakref.ref(each), _ids_of(each)))
        for value in (each.__bases__, *vars(each).values()):
            self.add(value)

    def add(self, value: Any) -> None:
        """Note an object that is reached."""
        kind = type(value)
        if not self.fixed or value is _MISSING or kind in _DESCRIPTORS:
            return
        if kind in _SCALARS or issubclass(kind, _NUMPY):
            self._kept.append(value)
            self.fixed = (kind is not str and kind is not bytes) or len(value) < _LONG_TEXT
        elif kind in _WEAKLY or isinstance(value, type):
            self._alive.append(weakref.ref(value))
        elif kind is types.ModuleType:
            self._kept.append(value)
            self.fixed = not is_carried(value.__name__) or value.__name__ in _MAIN_NAMES
            if hasattr(value, "__path__"):
                self._modules = len(sys.modules)  # cloudpickle names the submodules that are there
        elif kind in (tuple, frozenset, list, dict, set):
            self._kept.append(value)
            if kind in (list, dict, set):
                self._containers.append((value, kind(value)))
            self.fixed = len(value) <= _MOST_ITEMS and len(self._containers) <= _MOST_CONTAINERS
            for each in value.values() if kind is dict else value:
                self.add(each)
        elif kind is functools.partial:
            for each in (value.func, value.args, value.keywords, vars(value)):
                self.add(each)
        elif kind in _IMMUTABLE or (
            kind is types.BuiltinFunctionType and isinstance(value.__self__, types.ModuleType)
        ):
            self._kept.append(value)
        else:
            self.fixed = False

    def is_current(self) -> bool:
        """Return whether all objects are the same and in their places."""
        if self._reloads != reloads.count:
            return False
        for ref, made, namespace, names, ids in self._functions:
            function = ref()
            if function is None or _version_of_function(function) is not made:
                return False
            if names and [id(namespace.get(name, _MISSING)) for name in names] != ids:
                return False
        for container, then in self._containers:
            if len(container) != len(then) or not all(map(operator.is_, container, then)):
                return False
            if type(container) is dict and not all(map(operator.is_, container.values(), then.values())):
                return False
        for ref, ids in self._classes:
            each = ref()
            if each is None or _ids_of(each) != ids:
                return False
        for ref in self._alive:
            if ref() is None:
                return False
        return not self._modules or self._modules == len(sys.modules)


def _ids_of(each: type) -> list[int]:
    return [id(each.__bases__), *map(id, vars(each).values())]


# Objects that are held weakly, since they hold much else; those that cannot change, or only visibly so.
_WEAKLY = frozenset((types.FunctionType, _LRU_CACHE))
_IMMUTABLE = frozenset(
    (
        types.CodeType,
        re.Pattern,
        range,
        slice,
        type(...),
        type(NotImplemented),
        staticmethod,
        classmethod,
        property,
    )
)
_NUMPY = np.number, np.bool_, np.character, np.datetime64, np.dtype, np.ufunc
# Containers that are compared for one function, and characters or bytes of a text that may be held for it.
_MOST_CONTAINERS, _LONG_TEXT = 20, 1 << 16


class FunctionCache:
    """The functions that a pool sends once to each worker, with a `Snapshot` of each.

    A function is sent once if it is submitted for the second time and has not changed. One that is submitted
    for the first time, as a lambda in a loop always is, travels with its call.
    """

    # Functions, and bytes of a pickle, that workers keep.
    SIZE, LARGEST = 128, 1 << 20

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Snapshot | None]] = {}  # by id of the function

    def get(self, function: Any, make: Callable[[Any, Snapshot], Any]) -> Any:
        """Return what ``make`` has made of a function; None if the function travels with its call."""
        if type(function) not in SENT_ONCE:
            return None
        ref, snapshot = self._known.get(id(function), _UNKNOWN)
        if ref is None or ref() is not function:
            self._note(function, None)
            return None
        if snapshot is not None and snapshot.is_current():
            return snapshot.made
        if snapshot is not None and not snapshot.fixed:
            return None
        snapshot = Snapshot()
        snapshot.add(function)
        snapshot.made = make(function, snapshot)
        self._note(function, snapshot)
        return snapshot.made

    def _note(self, function: Any, snapshot: Snapshot | None) -> None:
        key, known = id(function), self._known
        known.pop(key, None)
        if len(known) >= self.SIZE:
            for oldest in list(known)[: len(known) - self.SIZE + 1]:  # other threads change it meanwhile
                known.pop(oldest, None)

        def gone(ref: weakref.ref[Any]) -> None:
            if known.get(key, _UNKNOWN)[0] is ref:
                known.pop(key, None)

        known[key] = weakref.ref(function, gone), snapshot


_UNKNOWN: tuple[Any, None] = (None, None)
# Kinds of functions that a worker may keep.
SENT_ONCE = frozenset((types.FunctionType, _LRU_CACHE, functools.partial))


# -- pickling ------------------------------------------------------------------------------------------------


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler by which functions and classes of carried modules keep one module in the receiver.

    Parameters
    ----------
    file
        Where to.
    purpose
        `CALL`, `RESULT` or `COPY`.

    Attributes
    ----------
    purpose
        The same.
    snapshot
        Notes what the pickle is made of, if there is one.
    globals
        Modules, names and versions of the globals that are sent.
    versions
        Tokens and versions of the functions and classes that are sent.
    """

    snapshot: Snapshot | None = None

    def __init__(self, file: io.BytesIO, purpose: str, **options: Any) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, **options)
        self.purpose = purpose
        self._shares_main = purpose != COPY

    # Few pickles have functions or classes in them that travel by value, and these containers.

    @functools.cached_property
    def globals(self) -> list[tuple[str, str, Any]]:
        """Return the list, empty at first."""
        return []

    @functools.cached_property
    def versions(self) -> list[tuple[str, Any]]:
        """Return the list, empty at first."""
        return []

    @functools.cached_property
    def _attached(self) -> set[tuple[str, str]]:
        return set()

    @functools.cached_property
    def _versions(self) -> dict[int, tuple[Any, bool]]:
        return {}  # those found so far, by id

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is pickled; NotImplemented for the usual way."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._function(obj)
        if issubclass(kind, type):
            return self._class(obj)
        reducer = _REDUCERS.get(kind)
        return NotImplemented if reducer is None else reducer(self, obj)

    # Functions

    def _function(self, function: types.FunctionType) -> Any:
        home = function.__module__
        if _is_named(function, home):
            return NotImplemented
        if not is_carried(home) and _cloudpickle._should_pickle_by_reference(function):
            return NotImplemented
        if self.snapshot is not None:
            self.snapshot.add_function(function)
        if function.__code__ is _DISPATCHER:
            return _reduce_dispatcher(self, function)
        if function.__code__ is _DISPATCHED_METHOD:
            of = inspect.getclosurevars(function).nonlocals
            return getattr, (of["cls"] if of["obj"] is None else of["obj"], function.__name__)
        namespace = function.__globals__
        space = _space_of(namespace) if self._shares_main else None
        if space is None:
            return self._dynamic_function_reduce(function)
        name = _name_in(namespace, function)
        if name is not None and (known := self.known(function, space)) is not None:
            return known
        token = made = None
        if name is not None:
            token = _token(function)
            made = self._version(function)[0] if _version_of_function(function) else None
            self.versions.append((token, made))
        code, cells = function.__code__, function.__closure__ or ()
        named = _names_of(code)
        modules = None
        for one in named:
            if type(namespace.get(one)) is types.ModuleType:
                modules = _cloudpickle._find_imported_submodules(code, list(map(namespace.get, named)))
                break
        state = (
            function.__name__,
            function.__qualname__,
            function.__module__,
            function.__doc__,
            function.__annotations__ or None,
            function.__defaults__,
            function.__kwdefaults__,
            function.__dict__ or None,
            tuple(map(_content, cells)),
            modules,
        )
        found: list[_Global] = []
        if self.purpose == CALL:
            found = self.globals_of(space, namespace, named if name is None else (*named, name))
        made_of = token, made, code, _SPACES.setdefault(space, _Space(space)), len(cells)
        return _make_function, made_of, (token, made, state, found), None, None, _set_function

    def globals_of(self, space: str, namespace: dict[str, Any], names: Iterable[str]) -> list[_Global]:
        """Return those of a module's globals that this pickle does not have yet."""
        return [
            self._global(space, namespace, name)
            for name in names
            if (name in namespace or (space, name) in _sent_names) and self._is_new(space, name)
        ]

    def _is_new(self, space: str, name: str) -> bool:
        if (space, name) in self._attached:
            return False
        self._attached.add((space, name))
        return True

    def _global(self, space: str, namespace: dict[str, Any], name: str) -> _Global:
        value = namespace.get(name, _MISSING)
        if value is _MISSING:
            self.globals.append((space, name, None))
            return space, name, None, None, False
        _sent_names.add((space, name))
        try:
            made, shares = self._version(value)
        except Exception as reason:
            raise pickle.PicklingError(
                f"the global {name!r} of {space}, a {type(value).__name__}: {reason}"
            ) from reason
        self.globals.append((space, name, made))
        return space, name, made, value, shares

    def _version(self, obj: Any) -> tuple[Any, bool]:
        known = self._versions.get(id(obj))
        if known is None:
            known = _version_of(obj)
            if isinstance(obj, (type, types.FunctionType)):
                self._versions[id(obj)] = known
        return known

    def known(self, obj: Any, space: str | None) -> Any:
        """Return how a result refers to what the caller has sent; None for another function or class."""
        if self.purpose != RESULT:
            return None
        token = (
            _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(obj)
            if isinstance(obj, type)
            else _token_of.get(obj)
        )
        if token not in _received.versions:
            return None
        return _at_home, (token, space or obj.__module__, obj.__qualname__)

    # Classes

    def _class(self, each: type) -> Any:
        if type(each) is type and _is_named(each, each.__module__):
            return NotImplemented
        if is_carried(each.__module__):
            reduced = _cloudpickle._dynamic_class_reduce(each)
        else:
            reduced = super().reducer_override(each)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        namespace = _namespace_of(each)
        name = _name_in(namespace, each)
        if name is not None and (known := self.known(each, None)) is not None:
            return known
        make, args, state, _, _, _ = reduced
        if make is _cloudpickle._make_skeleton_class and "__slots__" in vars(each):
            _add_slots(each, args[3], state[0])
        if self.snapshot is not None:
            self.snapshot.add_class(each)
        token, made = _token(each), self._version(each)[0]
        self.versions.append((token, made))
        found = []
        if name is not None and namespace is not None and self.purpose == CALL:
            space = _MAIN if each.__module__ in _MAIN_NAMES else each.__module__
            found = self.globals_of(space, namespace, (name,))
        return _make_class, (token, make, args), (token, made, state, found), None, None, _set_class


def _is_named(each: Any, home: str | None) -> bool:
    """Return whether a module and a name are enough, which cloudpickle finds in ten times the time."""
    module = sys.modules.get(home or "")
    return (
        module is not None
        and importable.get(home or "", "") is getattr(module, "__spec__", None)
        and not _BY_VALUE
        and module.__dict__.get(each.__qualname__) is each
    )


def _add_slots(each: type, arguments: dict[str, Any], state: dict[str, Any]) -> None:
    """Let a class be made with its slots; cloudpickle would only assign ``__slots__``."""
    slots = [name for name, value in vars(each).items() if type(value) is types.MemberDescriptorType]
    if slots:  # none in a named tuple, which does not take the argument
        arguments["__slots__"] = state.pop("__slots__")
        for name in slots:
            state.pop(name, None)


def _namespace_of(each: type) -> dict[str, Any] | None:
    module = sys.modules.get(each.__module__) if is_carried(each.__module__) else None
    return None if module is None else module.__dict__


@functools.lru_cache(maxsize=1024)
def _names_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that code names, nested code included."""
    return tuple(_cloudpickle._extract_code_globals(code))


class _Contents:
    """Tells whether the data of large arrays have changed, by a copy of what they were.

    To compare takes a fifth of the time that a digest takes. A copy is dropped with its array, and when there
    is no more room for it.
    """

    # Bytes of all copies.
    LIMIT = 64 << 20

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytearray, str]] = {}  # by id of the array
        self._bytes = 0

    def version_of(self, array: np.ndarray[Any, Any]) -> str:
        """Return a version of an array's data."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        size = len(data)
        if size > self.LIMIT:
            import hashlib  # see `_version_by_pickle`

            return hashlib.sha1(data, usedforsecurity=False).hexdigest()
        key = id(array)
        ref, copy, made = self._known.get(key, _NO_CONTENT)
        if ref is not None and ref() is array and copy == data:
            return made
        self._drop(key)
        while self._bytes + size > self.LIMIT:
            self._drop_oldest()
        made = f"data {next(_numbers)}"
        self._known[key] = weakref.ref(array, lambda ref: self._drop(key, ref)), bytearray(data), made
        self._bytes += size
        return made

    # Other threads do the same at the same time, and so may the collection of garbage in this one.

    def _drop_oldest(self) -> None:
        try:
            self._drop(next(iter(self._known)))
        except RuntimeError:
            pass  # it has changed: the caller asks again
        except StopIteration:
            self._bytes = 0

    def _drop(self, key: int, ref: Any = None) -> None:
        known = self._known.get(key)
        if known is not None and (ref is None or known[0] is ref):
            known = self._known.pop(key, None)
            size = 0 if known is None else len(known[1])
            self._bytes -= size


_NO_CONTENT: tuple[Any, bytearray, str] = (None, bytearray(), "")
_contents = _Contents()


class _VersionPickler(CodePickler):
    """Writes what a value's version is derived from: other functions and classes only by their tokens."""

    def __init__(self, file: io.BytesIO, root: Any) -> None:
        super().__init__(file, COPY)
        self._root = root
        self._shares_main = True
        self.shares = False
        self.reloads = 0
        # Of a class: those that can be changed one by one, each of which has a version of its own.
        self.attributes: dict[str, Any] | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if isinstance(obj, np.ndarray):
            return self._array(obj)
        if kind in _BY_IDENTITY and kind in reducers():
            return _stands_for, (_token(obj),)  # its reducer would hand it over to a process that takes it
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and (kind is types.FunctionType or issubclass(kind, type)):
            self.reloads += reloads.number_of(obj.__module__)  # it is another one after a reload
        return reduced

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        if type(array) not in PLAIN:
            return reduce_subclass(array)
        held = reference.reduce_held(array)
        if held is not None:
            self.shares = True
            return _stands_for, (repr(held[1]),)
        if array.dtype.hasobject or array.nbytes < HASHED_FROM:
            return NotImplemented
        return _stands_for, (_contents.version_of(array), array.dtype, array.shape, array.strides)

    def _function(self, function: types.FunctionType) -> Any:
        if function is not self._root and is_carried(function.__module__):
            space = _space_of(function.__globals__)
            if space is not None and _name_in(function.__globals__, function) is not None:
                return _stands_for, (_token(function),)
        return super()._function(function)

    def _class(self, each: type) -> Any:
        if is_carried(each.__module__):
            reduced = _cloudpickle._dynamic_class_reduce(each)
        else:
            reduced = cloudpickle.Pickler.reducer_override(self, each)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        if each is not self._root:
            return _stands_for, (_token(each),)
        state = reduced[2][0]
        state.pop("__slotnames__", None)  # copyreg adds it when the first instance is pickled
        self.attributes = {name: state.pop(name) for name in list(state) if _is_data(name, state[name])}
        return reduced


def _is_data(name: str, attribute: Any) -> bool:
    """Return whether an attribute of a class is one that programs assign, rather than a part of its code."""
    return not (name.startswith("__") and name.endswith("__")) and not hasattr(type(attribute), "__get__")


def _stands_for(*_: Any) -> None:
    """Never called: pickles of `_VersionPickler` are not loaded."""


_BY_IDENTITY = frozenset(
    kind for kind in reducers() if kind.__name__ in ("Connection", "PipeConnection", "socket")
)


# -- decorated functions -------------------------------------------------------------------------------------


def _reduce_cache(pickler: CodePickler, cached: Any) -> Any:
    """Reduce the wrapper that `functools.lru_cache` and `functools.cache` make, without its cache."""
    if not is_carried(cached.__module__) and _cloudpickle._lookup_module_and_qualname(cached) is not None:
        return NotImplemented
    function, token, made = cached.__wrapped__, None, None
    if type(function) is types.FunctionType and _name_in(function.__globals__, cached) is not None:
        space = _space_of(function.__globals__)
        if space is not None and (known := pickler.known(cached, space)) is not None:
            return known
        if space is not None and pickler.purpose == CALL:
            token, made = _token(cached), _version_of_function(function)
    return _make_cache, (token, made, function, cached.cache_parameters()), dict(cached.__dict__)


def _make_cache(token: str | None, made: Any, function: Any, parameters: dict[str, Any]) -> Any:
    if token is None or made is None:
        return functools.lru_cache(**parameters)(function)
    known = _by_token.get(token)
    if known is not None and _received.versions.get(token) == (made, parameters):
        return known
    cached = _by_token[token] = functools.lru_cache(**parameters)(function)
    _token_of[cached] = token
    _received.fresh.add(token)
    _received.takes(token, (made, parameters))
    caches = _received.caches
    caches[weakref.ref(cached, lambda gone: caches.pop(gone, None))] = None
    return cached


def _reduce_dispatcher(pickler: CodePickler, dispatcher: Any) -> Any:
    """Reduce what `functools.singledispatch` makes, with all registered functions."""
    registry = list(dispatcher.registry.items())
    return _make_dispatcher, (), (registry, dispatcher.__wrapped__), None, None, _set_dispatcher


def _make_dispatcher() -> Any:
    return functools.singledispatch(_stands_for)


def _set_dispatcher(dispatcher: Any, state: tuple[list[tuple[type, Any]], Any]) -> None:
    registry, function = state
    for kind, implementation in registry:
        dispatcher.register(kind, implementation)
    functools.update_wrapper(dispatcher, function)


_DISPATCHER = functools.singledispatch(_stands_for).__code__  # type: ignore[attr-defined]
# What `functools.singledispatchmethod` makes for an instance: a function before Python 3.14.
_DISPATCHED_METHOD = getattr(
    functools.singledispatchmethod(_stands_for).__get__(types.SimpleNamespace()), "__code__", ""
)


def _reduce_module(pickler: CodePickler, module: types.ModuleType) -> Any:
    """Reduce a carried module with all that can be sent of it; other modules by their names."""
    space = module.__name__
    namespace = module.__dict__
    if space in _MAIN_NAMES or not is_carried(space) or sys.modules.get(space) is not module:
        return NotImplemented
    found = []
    for name in list(namespace) if pickler.purpose == CALL else ():
        if name not in _OF_MODULES:
            with contextlib.suppress(pickle.PicklingError):
                found += pickler.globals_of(space, namespace, (name,))
    return _make_module, (space,), found, None, None, _set_module


# What each module has of its own.
_OF_MODULES = frozenset(("__builtins__", "__cached__", "__loader__", "__name__", "__package__", "__spec__"))


def _make_module(space: str) -> types.ModuleType:
    namespace = _namespace(space)
    module = sys.modules[space]
    return module if module.__dict__ is namespace else _received.modules[space]


def _set_module(module: types.ModuleType, found: list[_Global]) -> None:
    for each in found:
        _received.assign(*each)


def _reduce_method(pickler: CodePickler, method: types.MethodType) -> Any:
    """Reduce a method that its instance does not have under the function's name, as with a lambda."""
    if getattr(method.__self__, method.__func__.__name__, None) == method:
        return NotImplemented
    return types.MethodType, (method.__func__, method.__self__)


def _reduce_descriptor(pickler: CodePickler, descriptor: Any) -> Any:
    """Reduce a `cached_property` or `singledispatchmethod` without its lock or cache."""
    kept = {key: value for key, value in vars(descriptor).items() if key not in _OF_PROCESS}
    return type(descriptor), (descriptor.func,), kept


# A lock before Python 3.12, and a dictionary with weak keys from 3.13 on.
_OF_PROCESS = frozenset(("lock", "_method_cache"))

_REDUCERS: dict[type, Callable[[CodePickler, Any], Any]] = {
    _LRU_CACHE: _reduce_cache,
    functools.cached_property: _reduce_descriptor,
    functools.singledispatchmethod: _reduce_descriptor,
    types.ModuleType: _reduce_module,
    types.MethodType: _reduce_method,
}


# -- where they arrive ---------------------------------------------------------------------------------------


class _Received:
    """What has arrived in this process from a caller.

    Attributes
    ----------
    is_worker
        Whether this process is a worker of a pool.
    globals
        Versions of globals that arrived, by module and name.
    versions
        Versions of functions and classes that arrived, by token.
    count
        How often any of these versions has changed.
    passing
        Globals that must not outlive the call: module, name, and value.
    inherited
        What ``__main__`` and other carried modules had when this process was forked.
    modules
        Carried modules that this process has made, but ``__main__``.
    main
        The globals of the main module's functions, in a fork of a process whose ``__main__`` has a copy.
    fresh
        Tokens of functions and classes that have no state yet.
    caches
        Functions with caches, which a change by the caller empties: their results may depend on it.
    """

    def __init__(self) -> None:
        self.is_worker = False
        self.globals: dict[tuple[str, str], Any] = {}
        self.versions: dict[str, Any] = {}
        self.count = 0
        self.passing: list[tuple[str, str, Any]] = []
        self.inherited: dict[str, dict[str, Any]] = {}
        self.modules: dict[str, types.ModuleType] = {}
        self.main: dict[str, Any] | None = None
        self.fresh: set[str] = set()
        # Weak references to caches. A weak set could not be iterated while other threads add to it.
        self.caches: dict[weakref.ref[Any], None] = {}

    def assign(self, space: str, name: str, made: Any, value: Any, passing: bool) -> None:
        """Assign a global, if it is of another version than what arrived last."""
        before = self.globals.get((space, name), _MISSING)
        if before is not _MISSING and before == made:
            return
        namespace = _namespace(space)
        self.globals[space, name] = made
        if before is _MISSING and self._is_own(space, namespace, name):
            return
        self._note_change(first=before is _MISSING)
        if made is None:
            namespace.pop(name, None)
            return
        namespace[name] = value
        if passing:
            self.passing.append((space, name, value))

    def _note_change(self, *, first: bool = False) -> None:
        self.count += 1
        if not first:
            for known in list(self.caches):
                cached = known()
                if cached is not None:
                    cached.cache_clear()

    def _is_own(self, space: str, namespace: dict[str, Any], name: str) -> bool:
        """Return whether this process has assigned a global itself, in an initializer for example."""
        value = namespace.get(name, _MISSING)
        if value is _MISSING or (name.startswith("__") and name.endswith("__")):
            return False
        before = self.inherited.get(space)
        if before is None:
            return space == _MAIN or space in self.modules
        return before.get(name, _MISSING) is not value

    def release(self) -> None:
        """Remove the globals that must not outlive the call."""
        while self.passing:
            space, name, value = self.passing.pop()
            namespace = _namespace(space)
            if namespace.get(name) is value:
                del namespace[name]
                self.globals.pop((space, name), None)

    def takes(self, token: str, made: Any) -> bool:
        """Return whether the state of a function or class has to be set; note its version if so."""
        fresh = token in self.fresh
        self.fresh.discard(token)
        if not fresh and token not in self.versions and not self.is_worker:
            return False  # this process's own
        before = self.versions.get(token, _MISSING)
        if not fresh and made is not None and before == made:
            return False
        if not fresh and before is not _MISSING and before != made:
            self._note_change()
        if len(self.versions) >= _MOST_TOKENS:
            self._drop_dead()
        self.versions[token] = made
        return True

    def _drop_dead(self) -> None:
        for token in list(self.versions):
            if token not in _by_token and token not in _classes_by_token:
                del self.versions[token]


_received = _Received()


def version() -> int:
    """Return a number that changes with every change of a global, function or class that arrives."""
    return _received.count


def release() -> None:
    """Remove the globals of the last call that lead to shared arrays."""
    if _received.passing:
        _received.release()


def _make_function(token: str | None, made: Any, code: types.CodeType, namespace: Any, cells: int) -> Any:
    """Return the function with a token; make it if there is none."""
    known = None if token is None else _by_token.get(token)
    if (
        known is not None
        and known.__globals__ is namespace
        and len(known.__closure__ or ()) == cells == len(code.co_freevars)
    ):
        if _received.versions.get(token or "", _MISSING) != made:
            known.__code__ = code
        return known
    closure = tuple([types.CellType() for _ in range(cells)])
    function = types.FunctionType(code, namespace, None, None, closure)
    if token is not None:
        _by_token[token] = function
        _token_of[function] = token
        _received.fresh.add(token)
    return function


def _set_function(function: Any, state: tuple[str | None, Any, tuple[Any, ...], list[_Global]]) -> None:
    token, made, of_function, found = state
    if token is None or _received.takes(token, made):
        (
            function.__name__,
            function.__qualname__,
            function.__module__,
            function.__doc__,
            annotations,
            function.__defaults__,
            function.__kwdefaults__,
            attributes,
            contents,
            _,
        ) = of_function
        function.__annotations__ = annotations or {}
        function.__dict__.clear()
        function.__dict__.update(attributes or {})
        for cell, content in zip(function.__closure__ or (), contents, strict=True):
            if content is not _Empty:
                cell.cell_contents = content
    for each in found:
        _received.assign(*each)


def _make_class(token: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class with a token; make it if there is none."""
    known: type | None = _classes_by_token.get(token)
    if known is None:
        known = make(*args)
        _received.fresh.add(token)
    return known


def _set_class(each: type, state: tuple[str, Any, Any, list[_Global]]) -> None:
    token, made, of_class, found = state
    before = (None, {}) if token in _received.fresh else _received.versions.get(token, (None, {}))
    if _received.takes(token, made):
        attributes, slots = of_class
        for name in before[1].keys() - made[1].keys():
            with contextlib.suppress(AttributeError):
                delattr(each, name)
        if before[0] == made[0]:
            attributes = {name: attributes[name] for name in made[1] if made[1][name] != before[1].get(name)}
        _cloudpickle._class_setstate(each, (attributes, slots))
    for one in found:
        _received.assign(*one)


def _at_home(token: str, space: str, name: str) -> Any:
    """Return the function or class of this process that a result refers to."""
    found = _classes_by_token.get(token)
    if found is None:
        found = _by_token.get(token)
    if found is None:
        found = sys.modules.get(_MAIN if space in _MAIN_NAMES else space)
        for part in name.split("."):
            found = getattr(found, part)
    return found


# -- the worker ----------------------------------------------------------------------------------------------


class _MainModule(types.ModuleType):
    """The ``__main__`` of a worker that was not forked from the caller.

    Code may name ``__file__``, which is a global then. The module has no such attribute all the same: from it
    `multiprocessing` would conclude that children of the worker have to run the caller's script.
    """

    @property
    def __file__(self) -> str:  # type: ignore[override]
        raise AttributeError("__file__")


class Inherited:
    """What a forked worker has from its parent: versions of what the initializer reaches."""

    def __init__(self, globals_: list[tuple[str, str, Any]], versions: list[tuple[str, Any]]) -> None:
        self.globals = globals_
        self.versions = versions


def before_fork(initializer: Callable[..., object] | None) -> Inherited:
    """Return what a worker that is about to be forked from this process has to know of its ``__main__``."""
    for value in list(getattr(sys.modules.get(_MAIN), "__dict__", {}).values()):
        if isinstance(value, (type, types.FunctionType)) and is_carried(value.__module__):
            _token(value)  # here, so that parent and child have the same
    pickler = CodePickler(io.BytesIO(), CALL)
    if initializer is not None:
        with contextlib.suppress(Exception):  # it is not sent
            pickler.dump(initializer)
    return Inherited(pickler.globals, pickler.versions)


def begin_worker(inherited: Inherited | None) -> None:
    """Make this process a worker: give it a ``__main__``, or take the one that it has from its parent."""
    _received.__init__()  # type: ignore[misc]
    _received.is_worker = True
    if inherited is None:
        module = _MainModule(_MAIN)
        module.__dict__["__builtins__"] = builtins
        _before.append(sys.modules.get(_MAIN))
        sys.modules[_MAIN] = sys.modules[_MAIN_OF_CHILD] = module
        return
    _received.main = _main_of_child()
    for space in (_MAIN, *_carried):
        _received.inherited[space] = dict(getattr(sys.modules.get(space), "__dict__", {}))
    if _received.main is not None:
        _received.inherited[_MAIN] = dict(_received.main)
    _received.globals = {(space, name): made for space, name, made in inherited.globals}
    _received.versions = dict(inherited.versions)


def _main_of_child() -> dict[str, Any] | None:
    """Return the globals of the main module's functions if ``__main__`` has a copy of these.

    So it is in a process that multiprocessing has started by ``spawn`` or ``forkserver``: it runs the script
    by `runpy`, and copies what comes of it into a new module.
    """
    namespace = getattr(sys.modules.get(_MAIN), "__dict__", {})
    if namespace.get("__name__") != _MAIN_OF_CHILD:
        return None
    for value in list(namespace.values()):
        for each in vars(value).values() if isinstance(value, type) else (value,):
            if type(each) is _LRU_CACHE:
                each = each.__wrapped__
            if type(each) is types.FunctionType and each.__globals__.get("__name__") == _MAIN_OF_CHILD:
                return each.__globals__
    return None


_before: list[Any] = []  # the module that `begin_worker` replaced
