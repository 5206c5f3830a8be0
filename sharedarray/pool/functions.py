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
import functools
import hashlib
import io
import itertools
import os
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

import cloudpickle
import numpy as np
from cloudpickle import cloudpickle as _cloudpickle

from sharedarray import reference
from sharedarray.subclasses import PLAIN, reduce_subclass

__all__ = [
    "CALL",
    "COPY",
    "RESULT",
    "CodePickler",
    "Inherited",
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
# Bytes from which on an array's data are hashed instead of pickled.
_LARGE_ARRAY = 4096
_SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes))
# Longer texts are hashed like other values.
_SHORT_TEXT = 64
# Entries of the worker's tables after which those of dead objects are dropped.
_MOST_TOKENS = 4096

_classes_by_token: Any = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID


# -- which modules travel by value ---------------------------------------------------------------------------


def is_carried(name: str | None) -> bool:
    """Return whether a module's functions travel by value, because no fresh process can import it."""
    return name in _MAIN_NAMES


def _space_of(namespace: dict[str, Any]) -> str | None:
    """Return the name of the carried module that has this namespace; None for any other namespace."""
    main = sys.modules.get(_MAIN)
    if main is not None and main.__dict__ is namespace:
        return _MAIN
    name = namespace.get("__name__")
    if name == _MAIN_OF_CHILD:
        return _MAIN  # in a child of multiprocessing, whose module has a copy of this namespace
    if type(name) is not str or name in _MAIN_NAMES or not is_carried(name):
        return None
    return name if getattr(sys.modules.get(name), "__dict__", None) is namespace else None


def _namespace(space: str) -> dict[str, Any]:
    """Return the namespace of a carried module in this process; make the module if there is none."""
    module = sys.modules.get(space)
    if module is None:
        module = sys.modules[space] = types.ModuleType(space)
        module.__dict__["__builtins__"] = builtins
    return module.__dict__


class _Space(dict[str, Any]):
    """Stands for the namespace of a carried module in a pickle."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)  # cloudpickle would fill an empty one

    def __reduce__(self) -> Any:
        return _namespace, (self["name"],)


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
    file = io.BytesIO()
    pickler = _VersionPickler(file, value)
    pickler.dump(value)
    made: Any = hashlib.blake2b(file.getbuffer(), digest_size=16).digest()
    shares = pickler.shares
    if pickler.attributes is not None:
        versions = {name: _version_of(each) for name, each in pickler.attributes.items()}
        shares |= any(each for _, each in versions.values())
        made = made, {name: each for name, (each, _) in versions.items()}
    return made, shares


def _is_constant(value: Any) -> bool:
    """Return whether a default or the content of a cell cannot be changed in place."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))
    return kind in _CONSTANT or isinstance(value, (type, np.generic, np.dtype))


_CONSTANT = _SCALARS | {
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    functools._lru_cache_wrapper,
    range,
    slice,
    type(...),
}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _changes_in_place(function: types.FunctionType) -> bool:
    """Return whether a call may change what a function brings along."""
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    values += map(_content, function.__closure__ or ())
    values += function.__dict__.values()
    return not all(map(_is_constant, values))


# -- pickling ------------------------------------------------------------------------------------------------


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler by which functions and classes of carried modules keep one module in the receiver.

    Parameters
    ----------
    file
        Where to.
    purpose
        `CALL`, `RESULT` or `COPY`.
    """

    def __init__(self, file: io.BytesIO, purpose: str, **options: Any) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, **options)
        self._purpose = purpose
        self._attached: set[tuple[str, str]] = set()
        self.globals: list[tuple[str, str, Any]] = []  # modules, names and versions
        self.versions: list[tuple[str, Any]] = []  # tokens and versions of functions and classes

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
        if not is_carried(function.__module__) and _cloudpickle._should_pickle_by_reference(function):
            return NotImplemented
        if function.__code__ is _DISPATCHER:
            return _reduce_dispatcher(self, function)
        namespace = function.__globals__
        space = None if self._purpose == COPY else _space_of(namespace)
        if space is None:
            return self._dynamic_function_reduce(function)
        name = _name_in(namespace, function)
        if name is not None and (known := self._known(function, space)) is not None:
            return known
        self.globals_ref.setdefault(id(namespace), _Space(space))
        _, args, (state, slots), *_ = self._dynamic_function_reduce(function)
        named = slots["__globals__"]
        slots["__globals__"] = {}
        token = made = None
        if name is not None:
            token = _token(function)
            made = None if _changes_in_place(function) else self._version(function)
            self.versions.append((token, made))
        found = self._found(space, namespace, function.__code__, named, name)
        return (
            _make_function,
            (token, made, *args),
            (token, made, (state, slots), found),
            None,
            None,
            _set_function,
        )

    def _found(
        self,
        space: str,
        namespace: dict[str, Any],
        code: types.CodeType,
        named: Iterable[str],
        own: str | None,
    ) -> list[_Global]:
        """Return the globals that a function names, without those that this pickle has already."""
        if self._purpose != CALL:
            return []
        names = [*named, *(name for name in _names_of(code) if (space, name) in _sent_names)]
        if own is not None:
            names.append(own)
        return [self._global(space, namespace, name) for name in names if self._is_new(space, name)]

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
            made, shares = _version_of(value)
        except Exception as reason:
            raise pickle.PicklingError(
                f"the global {name!r} of {space}, a {type(value).__name__}: {reason}"
            ) from reason
        self.globals.append((space, name, made))
        return space, name, made, value, shares

    def _version(self, obj: Any) -> Any:
        return _version_of(obj)[0]

    def _known(self, obj: Any, space: str | None) -> Any:
        """Return how a result refers to what the caller has sent; None for another function or class."""
        if self._purpose != RESULT:
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
        if is_carried(each.__module__):
            reduced = _cloudpickle._dynamic_class_reduce(each)
        else:
            reduced = super().reducer_override(each)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        namespace = _namespace_of(each)
        name = _name_in(namespace, each)
        if name is not None and (known := self._known(each, None)) is not None:
            return known
        make, args, state, _, _, _ = reduced
        token, made = _token(each), self._version(each)
        self.versions.append((token, made))
        found = []
        if name is not None and namespace is not None and self._purpose == CALL:
            space = _MAIN if each.__module__ in _MAIN_NAMES else each.__module__
            if self._is_new(space, name):
                found.append(self._global(space, namespace, name))
        return _make_class, (token, make, args), (token, made, state, found), None, None, _set_class


def _namespace_of(each: type) -> dict[str, Any] | None:
    module = sys.modules.get(each.__module__) if is_carried(each.__module__) else None
    return None if module is None else module.__dict__


@functools.lru_cache(maxsize=1024)
def _names_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that code names, nested code included."""
    return tuple(_cloudpickle._extract_code_globals(code))


class _VersionPickler(CodePickler):
    """Writes what a value's version is derived from: other functions and classes only by their tokens."""

    def __init__(self, file: io.BytesIO, root: Any) -> None:
        super().__init__(file, COPY)
        self._root = root
        self.shares = False
        # Of a class: those that can be changed one by one, each of which has a version of its own.
        self.attributes: dict[str, Any] | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if isinstance(obj, np.ndarray):
            return self._array(obj)
        if kind in _BY_IDENTITY and kind in ForkingPickler._extra_reducers:  # type: ignore[attr-defined]
            return _stands_for, (_token(obj),)  # its reducer would hand it over to a process that takes it
        return super().reducer_override(obj)

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        if type(array) not in PLAIN:
            return reduce_subclass(array)
        held = reference.reduce_held(array)
        if held is not None:
            self.shares = True
            return _stands_for, (repr(held[1]),)
        if array.dtype.hasobject or array.nbytes < _LARGE_ARRAY:
            return NotImplemented
        data = hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16)
        return _stands_for, (data.digest(), array.dtype, array.shape, array.strides)

    def _function(self, function: types.FunctionType) -> Any:
        if function is not self._root and is_carried(function.__module__):
            space = _space_of(function.__globals__)
            if space is not None and _name_in(function.__globals__, function) is not None:
                return _stands_for, (_token(function),)
        namespace = function.__globals__
        if _space_of(namespace) is not None:
            self.globals_ref.setdefault(id(namespace), _Space(_MAIN))
        reduced = super()._function(function)
        if reduced is NotImplemented or reduced[0] is not _cloudpickle._make_function:
            return reduced
        if _space_of(namespace) is not None:
            reduced[2][1]["__globals__"] = {}
        return reduced

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
    kind
    for kind in ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    if kind.__name__ in ("Connection", "PipeConnection", "socket")
)


# -- decorated functions -------------------------------------------------------------------------------------


def _reduce_cache(pickler: CodePickler, cached: Any) -> Any:
    """Reduce the wrapper that `functools.lru_cache` and `functools.cache` make; its cache stays here."""
    if not is_carried(cached.__module__) and _cloudpickle._lookup_module_and_qualname(cached) is not None:
        return NotImplemented
    return _make_cache, (cached.__wrapped__, cached.cache_parameters()), dict(cached.__dict__)


def _make_cache(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


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


def _reduce_cached_property(pickler: CodePickler, cached: Any) -> Any:
    """Reduce a `functools.cached_property`, which has a lock before Python 3.12."""
    return type(cached), (cached.func,), {key: value for key, value in vars(cached).items() if key != "lock"}


_REDUCERS: dict[type, Callable[[CodePickler, Any], Any]] = {
    functools._lru_cache_wrapper: _reduce_cache,
    functools.cached_property: _reduce_cached_property,
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
        What ``__main__`` had when this process was forked.
    fresh
        Tokens of classes that have no state yet.
    """

    def __init__(self) -> None:
        self.is_worker = False
        self.globals: dict[tuple[str, str], Any] = {}
        self.versions: dict[str, Any] = {}
        self.count = 0
        self.passing: list[tuple[str, str, Any]] = []
        self.inherited: dict[str, Any] = {}
        self.fresh: set[str] = set()

    def assign(self, space: str, name: str, made: Any, value: Any, passing: bool) -> None:
        """Assign a global, if it is of another version than what arrived last."""
        before = self.globals.get((space, name), _MISSING)
        if before is not _MISSING and before == made:
            return
        namespace = _namespace(space)
        self.globals[space, name] = made
        if before is _MISSING and self._is_own(space, namespace, name):
            return
        self.count += 1
        if made is None:
            namespace.pop(name, None)
            return
        namespace[name] = value
        if passing:
            self.passing.append((space, name, value))

    def _is_own(self, space: str, namespace: dict[str, Any], name: str) -> bool:
        """Return whether this process has assigned a global itself, in an initializer for example."""
        value = namespace.get(name, _MISSING)
        if value is _MISSING or (name.startswith("__") and name.endswith("__")):
            return False
        return not (space == _MAIN and self.inherited.get(name, _MISSING) is value)

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
            self.count += 1
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


def _make_function(
    token: str | None, made: Any, code: Any, namespace: Any, name: Any, defaults: Any, closure: Any
) -> Any:
    """Return the function with a token; make it if there is none."""
    if token is None:
        return _cloudpickle._make_function(code, namespace, name, defaults, closure)
    known = _by_token.get(token)
    if (
        known is not None
        and known.__globals__ is namespace
        and len(known.__closure__ or ()) == len(closure or ()) == len(code.co_freevars)
    ):
        if _received.versions.get(token, _MISSING) != made:
            known.__code__ = code
        return known
    function = _cloudpickle._make_function(code, namespace, name, defaults, closure)
    _by_token[token] = function
    _token_of[function] = token
    _received.fresh.add(token)
    return function


def _set_function(function: Any, state: tuple[str | None, Any, Any, list[_Global]]) -> None:
    token, made, of_function, found = state
    if token is None or _received.takes(token, made):
        function.__dict__.clear()
        _cloudpickle._function_setstate(function, of_function)
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
    main = sys.modules.get(_MAIN)
    for value in list(vars(main).values()) if main is not None else ():
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
    main = sys.modules.get(_MAIN)
    _received.inherited = {} if main is None else dict(vars(main))
    _received.globals = {(space, name): made for space, name, made in inherited.globals}
    _received.versions = dict(inherited.versions)


_before: list[Any] = []  # the module that `begin_worker` replaced
