"""`CodePickler`, by which functions and classes travel by value, and the versions of values."""

from __future__ import annotations

import builtins
import collections
import contextvars
import enum
import io
import itertools
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
from cloudpickle import cloudpickle as _cloudpickle

from sharedarray import _reference as reference, _reloads as reloads
from sharedarray._functions import class_hooks, modules, received, tokens
from sharedarray._functions.decorated import REDUCERS, reduce_dispatcher
from sharedarray._functions.kept import is_of_objects
from sharedarray._functions.named import reduce_context_variable, reduce_local, reduce_named
from sharedarray._functions.snapshots import SCALARS, Snapshot, cell_content, global_names
from sharedarray._picklers import reducers
from sharedarray._subclasses import PLAIN, reduce_subclass
from sharedarray._thresholds import HASHED_FROM

__all__ = ["CALL", "COPY", "RESULT", "CodePickler"]

# The purpose of a pickle: a call or an initializer; a result on its way to the caller; a process that is no
# worker of a pool, to which each pickle brings its globals along; a version.
CALL, RESULT, COPY, VERSION = "call", "result", "copy", "version"

_REDUCERS = {
    **REDUCERS,
    contextvars.ContextVar: reduce_context_variable,
    threading.local: reduce_local,
}
_reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]
# Modules that the program wants to be sent by value (cloudpickle.register_pickle_by_value).
_REGISTERED: set[str] = _cloudpickle._PICKLE_BY_VALUE_MODULES
# Names of globals that this process has sent. The absence of another global is not worth a word.
_sent_names: set[tuple[str, str]] = set()


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler by which functions and classes of by-value modules keep one module in the receiver.

    Its purpose is `CALL`, `RESULT` or `COPY`.
    """

    # Records the objects that the pickle is made of, if it is not None.
    snapshot: Snapshot | None = None

    def __init__(self, file: io.BytesIO, purpose: str, **options: Any) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, **options)
        self.purpose = purpose
        # Globals that are sent: module, name and version; functions and classes: token and version.
        self.globals: list[tuple[str, str, Any]] = []
        self.versions: list[tuple[str, Any]] = []
        self._attached: set[tuple[str, str]] = set()
        # Ids of the objects that the program keeps, by class; see `kept`.
        self.kept: dict[Any, set[int]] = {}
        # Globals that come when the methods of a class are there, for each class that is being pickled.
        self._waiting: list[list[tuple[str, dict[str, Any], tuple[str, ...]]]] = []

    @property
    def sends_globals(self) -> bool:
        """True if functions and classes bring their globals along, one by one and with versions."""
        return self.purpose == CALL

    @property
    def is_copy(self) -> bool:
        """True if the pickle goes to a process that is no worker of a pool."""
        return self.purpose == COPY

    @property
    def is_result(self) -> bool:
        """True if the pickle goes to the caller, which may have sent what it is made of."""
        return self.purpose == RESULT

    @property
    def is_version(self) -> bool:
        """True if a version is derived from the pickle, which is not loaded."""
        return self.purpose == VERSION

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is pickled; NotImplemented for the usual way."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._function(obj)
        if issubclass(kind, type):
            return self._class(obj)
        if kind is types.CodeType:
            return self._code(obj)
        if kind is _Step:
            return obj.reduce()
        return _REDUCERS.get(kind, reduce_named)(self, obj)

    def _function(self, function: types.FunctionType) -> Any:
        home = function.__module__
        if _is_importable(function, home):
            return NotImplemented
        if not modules.is_by_value(home) and _cloudpickle._should_pickle_by_reference(function):
            return NotImplemented
        if self.snapshot is not None:
            self.snapshot.add_function(function)
        reduced = reduce_dispatcher(function)
        if reduced is not None:
            return reduced
        there = function.__globals__
        module = None if self.purpose == COPY else modules.home_of(function)
        if module is None:
            reduced = self._dynamic_function_reduce(function)
            return (*reduced[:5], received.set_copied_function) if self.sends_globals else reduced
        name, token, made = modules.name_in(there, function), None, None
        if name is not None and (known := self.reduce_received(function, module)) is not None:
            return known
        if self.purpose == RESULT and modules.namespaces.is_name(module):
            return self._dynamic_function_reduce(function)  # the caller may not have the namespace any more
        if name is not None:
            token, made = tokens.token_of(function), self.version_of_constant(function)
            self.versions.append((token, made))
        code, cells = function.__code__, function.__closure__ or ()
        names = global_names(code)
        if there.get("__package__"):  # relative imports in the function need it
            names = (*names, "__package__")
        submodules = None
        if types.ModuleType in map(type, map(there.get, names)):
            submodules = _cloudpickle._find_imported_submodules(code, list(map(there.get, names)))
        globals_: list[received.Global] = []
        if self.sends_globals:
            globals_ = self.globals_of(module, there, names if name is None else (*names, name))
        contents = tuple(map(cell_content, cells))
        attributes = function.__dict__ or None
        state = token, made, received.function_state(function), attributes, contents, submodules, globals_
        args = token, code, module, len(cells)
        return received.make_function, args, state, None, None, received.set_function

    def _code(self, code: types.CodeType) -> Any:
        """Reduce code with the name of its file, which cloudpickle leaves out and tracebacks show."""
        make, args = _reduce_code(code)
        return received.make_code, (code.co_filename, make, *args)

    def _class(self, each: type) -> Any:
        home = each.__module__
        if type(each) is type and _is_importable(each, home):
            return NotImplemented
        reduced = self._reduce_class(each)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        there = modules.namespace_of(home) if modules.is_by_value(home) else None
        name = modules.name_in(there, each)
        if name is not None and (known := self.reduce_received(each, home)) is not None:
            return known
        make, args, state, _, _, _ = reduced
        keywords: dict[str, Any] = {}
        if make is _cloudpickle._make_skeleton_class:
            args[3]["__qualname__"] = each.__qualname__  # cloudpickle would make it the name
            if "__slots__" in vars(each):
                _add_slots(each, args[3], state[0])
            keywords = class_hooks.keywords_of(each, _is_by_value_class)
            make, args = class_hooks.new_class, (*args[:4], keywords)
        aliases = {}
        if make is _cloudpickle._make_skeleton_enum:
            members: Any = each.__members__  # type: ignore[attr-defined]
            aliases = {name: (of.name, of.value) for name, of in members.items() if name not in args[3]}
            for alias in aliases:
                state[0].pop(alias, None)  # a member cannot be assigned
            args = (*args[:3], _data_of_members(each, args[3]), *args[4:])
        if self.snapshot is not None:
            self.snapshot.add_class(each)
        # Also of a class in a function of an importable module, which has no version as a global.
        token, made = tokens.token_of(each), _snapshot_of(each).made[0]
        self.versions.append((token, made))
        globals_ = []
        if name is not None and there is not None and self.sends_globals:
            globals_ = self.globals_of(modules.MAIN if home in modules.MAIN_NAMES else home, there, (name,))
        first = self._code_first(each, token, state[0])
        state = first, token, made, state, _of_members(each), aliases, globals_, keywords
        return received.make_class, (token, make, args), state, None, None, received.set_class

    def _code_first(self, each: type, token: str, attributes: dict[str, Any]) -> tuple[_Step, ...]:
        """Return the steps by which methods arrive first, and then their globals.

        These, and the other attributes, may hold instances and subclasses of the class, or make some on their
        arrival.
        """
        assigned = {name: value for name, value in attributes.items() if _is_assigned(name, value)}
        needed = any(attributes.get(name) for name in _NEEDED_FIRST)
        if not needed and is_of_objects(each) and all(map(_is_simple, assigned.values())):
            return ()
        code = {
            name: attributes[name] for name in attributes if name not in assigned and name not in _SET_LAST
        }
        for name in assigned.keys() - _SET_LAST:
            value = assigned[name]
            kind = type(value)
            if kind in SCALARS:
                code[name] = value
            elif kind in _EMPTY:
                code[name] = _Step(partial(_empty, kind))
            elif isinstance(value, each):
                code[name] = None

        def begin() -> Any:
            self._waiting.append([])
            return received.set_code, (each, token, code)

        def end() -> Any:
            waiting = self._waiting.pop()
            if self._waiting:
                self._waiting[-1] += waiting
                waiting = []
            return received.assign_all, ([one for args in waiting for one in self.globals_of(*args)],)

        return _Step(begin), _Step(end)

    def _reduce_class(self, each: type) -> Any:
        if modules.is_by_value(each.__module__):
            return _cloudpickle._dynamic_class_reduce(each)
        return cloudpickle.Pickler.reducer_override(self, each)

    def reduce_received(self, obj: Any, module: str) -> Any:
        """Return how a result refers to what the caller has sent; None for another function or class."""
        if self.purpose != RESULT:
            return None
        token = tokens.known_token(obj)
        if token not in received.arrived.versions:
            return None
        return received.caller_object, (token, module, obj.__qualname__)

    def globals_of(self, module: str, there: dict[str, Any], names: Iterable[str]) -> list[received.Global]:
        """Return those of a module's globals that this pickle does not have yet."""
        found: list[received.Global] = []
        if self._waiting:
            self._waiting[-1].append((module, there, tuple(names)))
            return found
        is_namespace = modules.namespaces.is_name(module)  # no table remembers what was sent of one
        for name in names:
            key = module, name
            if key not in self._attached and (
                name in there or key in _sent_names or (is_namespace and not hasattr(builtins, name))
            ):
                self._attached.add(key)
                found.append(self._global(module, name, there.get(name, modules.MISSING)))
        return found

    def _global(self, module: str, name: str, value: Any) -> received.Global:
        made, shares = None, False
        if value is modules.MISSING:
            value = None
        else:
            if not modules.namespaces.is_name(module):
                _sent_names.add((module, name))
            try:
                made, shares = version_of(value)
            except Exception as reason:
                raise pickle.PicklingError(
                    f"the global {name!r} of {modules.shown(module)}, a {type(value).__name__}: {reason}"
                ) from reason
        self.globals.append((module, name, made))
        return module, name, made, value, shares

    def version_of_content(self, content: Any) -> tuple[Any, bool]:
        """Return the version of an object's content, and whether this leads to a shared array."""
        return version_of(content)

    def can_send(self, value: Any) -> bool:
        """Return whether a value can be pickled."""
        try:
            version_of(value)
        except Exception:
            return False
        return True

    def version_of_constant(self, function: types.FunctionType) -> Any:
        """Return a function's version; None if a call may change what the function brings along."""
        known = _snapshots.get(function)
        if known is not None and not known.constant:
            return None
        known = _snapshot_of(function)
        return known.made[0] if known.constant else None


class _Step:
    """Something in a pickle that is reduced when the pickler has come to it, and not before."""

    def __init__(self, reduce: Callable[[], Any]) -> None:
        self.reduce = reduce


def _empty(kind: type) -> Any:
    """Reduce an empty container, which is another one than those of the caller."""
    return kind, ()


def _is_simple(value: Any) -> bool:
    """Return whether an attribute of a class holds nothing that needs the methods of the class to arrive."""
    kind = type(value)
    if kind is dict:
        return SCALARS.issuperset(map(type, value)) and SCALARS.issuperset(map(type, value.values()))
    return kind in SCALARS or (kind in _EMPTY and SCALARS.issuperset(map(type, list(value))))


# Methods that are called as instances or subclasses arrive.
_NEEDED_FIRST = (
    *("__new__", "__init_subclass__", "__reduce__", "__reduce_ex__", "__setstate__", "__setattr__"),
    *("__hash__", "__call__", "__set_name__"),
)
# Attributes that cloudpickle sets with care, and only along with the others.
_SET_LAST = frozenset(("_abc_impl", "__firstlineno__"))
# Containers that the methods of a class may find empty while the class is being loaded.
_EMPTY = frozenset((dict, list, set, collections.OrderedDict, weakref.WeakValueDictionary))


def _is_by_value_class(each: type) -> bool:
    """Return whether a class travels by value."""
    return modules.is_by_value(each.__module__) or tokens.known_token(each) is not None


def _is_importable(each: Any, home: str | None) -> bool:
    """Return whether the receiver can import this; cloudpickle finds that out in ten times the time."""
    module = sys.modules.get(home or "")
    return (
        module is not None
        and modules.importable.get(home or "", "") is getattr(module, "__spec__", None)
        and not _REGISTERED
        and module.__dict__.get(each.__qualname__) is each
    )


def _of_members(each: type) -> dict[str, dict[str, Any]]:
    """Return the attributes that an enumeration has given its members, which cloudpickle forgets."""
    if not isinstance(each, enum.EnumMeta):
        return {}
    members: list[enum.Enum] = list(each)
    values = {member.name: member.value for member in members}
    data = _data_of_members(each, values)
    found: dict[str, dict[str, Any]] = {}
    for member in members:
        attributes = {name: value for name, value in vars(member).items() if name not in _SET_BY_ENUM}
        if data is not values:
            attributes["_value_"] = member.value
        if attributes:
            found[member.name] = attributes
    return found


# Attributes that the class of an enumeration sets in each of its members.
_SET_BY_ENUM = frozenset(("_value_", "_name_", "__objclass__", "_sort_order_"))


def _data_of_members(each: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return what members are made from: their values, or their data if a ``__new__`` lets these differ."""
    arguments_of = getattr(each._member_type_, "__getnewargs__", None)
    if arguments_of is None:
        return values
    data = {name: arguments_of(each[name])[0] for name in values}
    if data == values or len(set(data.values())) < len(data):  # members of equal data would become one
        return values
    return data


def _add_slots(each: type, arguments: dict[str, Any], state: dict[str, Any]) -> None:
    """Make a class with its slots; cloudpickle would only assign ``__slots__``."""
    slots = [name for name, value in vars(each).items() if type(value) is types.MemberDescriptorType]
    if slots:  # none in a named tuple, which does not take the argument
        arguments["__slots__"] = state.pop("__slots__")
        for name in slots:
            state.pop(name, None)


# -- versions ------------------------------------------------------------------------------------------------

_numbers = itertools.count(1)
# Snapshots of functions and classes by themselves, each made for a version and whether this shares memory.
_snapshots: weakref.WeakKeyDictionary[Any, Snapshot] = weakref.WeakKeyDictionary()
# Longer texts are hashed like other values.
_SHORT_TEXT = 64


def version_of(value: Any) -> tuple[Any, bool]:
    """Return a value's version, and whether the value leads to a shared array.

    Of a class it is a pair: the version of its code, and those of the attributes that programs assign.
    """
    kind = type(value)
    if kind in SCALARS and (kind not in (str, bytes) or len(value) <= _SHORT_TEXT):
        return (kind.__name__, repr(value)), False  # 1, 1.0 and True differ, and so do 0.0 and -0.0
    if kind is types.ModuleType and not modules.is_by_value(value.__name__):
        return ("module", value.__name__), False
    is_class = isinstance(value, type) and modules.is_by_value(value.__module__)
    if is_class or (kind is types.FunctionType and modules.home_of(value) is not None):
        return _snapshot_of(value).made  # type: ignore[no-any-return]
    return _digest(value)


def _snapshot_of(value: Any) -> Snapshot:
    known = _snapshots.get(value)
    if known is None or not known.is_current():
        known = Snapshot(with_globals=False)
        known.made = _digest(value, known)
        _snapshots[value] = known  # now: other threads use it as well
    return known


def _digest(value: Any, snapshot: Snapshot | None = None) -> tuple[Any, bool]:
    import hashlib  # here, for it loads OpenSSL, which takes as long as 20 of our modules

    file = io.BytesIO()
    pickler = _VersionPickler(file, None if snapshot is None else value)
    pickler.snapshot = snapshot
    pickler.dump(value)
    made: Any = hashlib.blake2b(file.getvalue(), digest_size=16).digest(), pickler.reloads
    shares = pickler.shares
    if pickler.attributes is not None:
        versions = {}
        for name, attribute in pickler.attributes.items():
            # A class has a version of its own; it may be this very class.
            of = _digest if isinstance(attribute, type) else version_of
            versions[name], one_shares = of(attribute)
            shares |= one_shares
        made = made, versions
    return made, shares


class _VersionPickler(CodePickler):
    """Writes what a value's version is derived from: other functions and classes only by their tokens."""

    def __init__(self, file: io.BytesIO, root: Any) -> None:
        super().__init__(file, VERSION)
        self._root = root
        self.shares = False
        self.reloads = 0
        # The attributes of a class that programs assign; each has a version of its own.
        self.attributes: dict[str, Any] | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if isinstance(obj, np.ndarray):
            return self._array(obj)
        if kind in _HANDED_OVER and kind in reducers():
            return _stands_for, (tokens.token_of(obj),)
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
        return _stands_for, _version_of_array(array)

    def version_of_constant(self, function: types.FunctionType) -> Any:
        return None  # the version of the root is being made

    def _code(self, code: types.CodeType) -> Any:
        return _reduce_code(
            code
        )  # the same code in another file, as in a cell that is run again, is the same

    def _function(self, function: types.FunctionType) -> Any:
        there = function.__globals__
        if (
            function is self._root
            or modules.name_in(there, function) is None
            or modules.home_of(function) is None
        ):
            return super()._function(function)
        return _stands_for, (tokens.token_of(function),)

    def _class(self, each: type) -> Any:
        if each is not self._root and modules.is_by_value(each.__module__):
            return _stands_for, (tokens.token_of(each),)
        reduced = self._reduce_class(each)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        if each is not self._root:
            return _stands_for, (tokens.token_of(each),)
        if self.snapshot is not None:
            self.snapshot.add_class(each)
        state = reduced[2][0]
        state.pop("__slotnames__", None)  # copyreg adds it when the first instance is pickled
        self.attributes = {name: state.pop(name) for name in list(state) if _is_assigned(name, state[name])}
        if of_members := _of_members(each):
            state["__members__"] = of_members
        return reduced


def _is_assigned(name: str, attribute: Any) -> bool:
    """Return whether an attribute of a class is one that programs assign, rather than a part of its code."""
    return not (name.startswith("__") and name.endswith("__")) and not hasattr(type(attribute), "__get__")


def _stands_for(*_: Any) -> None:
    """Raise: pickles of `_VersionPickler` are not loaded."""


# The reducers of these start a server that hands the object over to a process.
_HANDED_OVER = frozenset(
    kind for kind in reducers() if kind.__name__ in ("Connection", "PipeConnection", "socket")
)


class _ArrayCopies:
    """Versions of large arrays by copies of their data: to compare takes a fifth of the time of a digest.

    A copy is dropped with its array, and when the copies exceed `LIMIT`.
    """

    LIMIT = 64 << 20  # bytes of all copies

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytearray, str]] = {}  # by id of the array

    def version_of(self, array: np.ndarray[Any, Any]) -> str:
        """Return a version of an array's data."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        if len(data) > self.LIMIT:
            import hashlib  # see `_digest`

            return hashlib.sha1(data, usedforsecurity=False).hexdigest()
        key = id(array)
        ref, copy, made = self._known.get(key, _NO_COPY)
        if ref is not None and ref() is array and copy == data:
            return made
        # Other threads do the same at the same time, and so may the collection of garbage in this one.
        self._known.pop(key, None)
        known = list(self._known.items())
        size = len(data) + sum([len(copy) for _, (_, copy, _) in known])
        for oldest, (_, copy, _) in known:
            if size <= self.LIMIT:
                break
            self._known.pop(oldest, None)
            size -= len(copy)

        def forget(ref: weakref.ref[Any]) -> None:
            if self._known.get(key, _NO_COPY)[0] is ref:
                self._known.pop(key, None)

        made = f"data {next(_numbers)}"
        self._known[key] = weakref.ref(array, forget), bytearray(data), made
        return made


_NO_COPY: tuple[Any, bytearray, str] = (None, bytearray(), "")
_copies = _ArrayCopies()


def _version_of_array(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return _copies.version_of(array), str(array.dtype), array.shape, array.strides
