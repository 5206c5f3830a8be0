"""Objects that are known by their identity, in modules that travel by value.

Those of `typing.NewType`, and sentinels, pickle by a name alone: their ``__reduce__`` returns the name of a
global, which a worker's module need not have yet. Others are kept by their program (`kept`). All of them
travel as functions and classes do: with a token, by which a worker has one object for each of the caller's.
"""

from __future__ import annotations

import contextvars
import copyreg
import itertools
import operator
import os
import pickle
import sys
import threading
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sharedarray._functions import tokens
from sharedarray._functions.kept import bare, is_kept, kept_objects, place_of, set_content
from sharedarray._functions.modules import MAIN, MAIN_NAMES, is_by_value, namespace_of, namespaces
from sharedarray._functions.received import Global, arrived, caller_object

if TYPE_CHECKING:
    from sharedarray._functions.pickler import CodePickler

__all__ = ["Pinned", "give_tokens", "pinned", "reduce_context_variable", "reduce_local", "reduce_named"]

# Without types: a type checker holds that a class never has these methods of `object` itself.
_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__
_NEW: Any = object.__new__
_HASH: Any = object.__hash__
_EQUAL: Any = object.__eq__
# cloudpickle has a reducer for these, which knows only the modules that it sends by value itself.
_TYPE_VARIABLES = frozenset((typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple))
_ALIAS = getattr(typing, "TypeAliasType", None)


def reduce_named(pickler: CodePickler, obj: Any) -> Any:
    """Return how an object is pickled that is known by its identity; NotImplemented for another object."""
    kind = type(obj)
    if kind.__reduce_ex__ is _REDUCE_EX and kind.__reduce__ is _REDUCE:
        if kind.__new__ is _NEW and type(kind) is type and kind.__dictoffset__ and vars(obj):
            return NotImplemented  # as most are; see `is_kept`
        return _reduce_kept(pickler, obj) if is_kept(obj, pickler.kept) else NotImplemented
    home = getattr(obj, "__module__", None)
    if type(home) is not str or (home in sys.modules and not is_by_value(home)):
        return NotImplemented
    if kind in pickler.dispatch_table and kind not in _TYPE_VARIABLES:
        return NotImplemented
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if type(reduced) is not str:
        return reduced
    token, there = _token_of(obj, home, reduced), namespace_of(home)
    if pickler.is_version:
        return _made, (token,)
    if pickler.is_result:
        if token in arrived.versions:
            return _caller_object, (token, home, reduced)
        if _found(there, reduced) is obj:
            return NotImplemented  # the caller has it under this name
    globals_: list[Global] = []
    if there is not None and there.get(reduced) is obj and pickler.sends_globals:
        globals_ = pickler.globals_of(MAIN if home in MAIN_NAMES else home, there, (reduced,))
    make, args, content = _parts(obj)
    return _made, (token, home, reduced, make, *args), (token, token, content, globals_), None, None, _set


def reduce_context_variable(pickler: CodePickler, variable: Any) -> Any:
    """Reduce a `contextvars.ContextVar` with its default."""
    try:
        default: tuple[Any, ...] = (contextvars.Context().run(variable.get),)
    except LookupError:
        default = ()
    return _reduce_by_place(pickler, variable, (_context_variable, variable.name, *default), None)


def reduce_local(pickler: CodePickler, local: Any) -> Any:
    """Reduce a `threading.local` with its content in this thread."""
    return _reduce_by_place(pickler, local, (threading.local,), (dict(vars(local)), None))


def _reduce_by_place(pickler: CodePickler, obj: Any, making: tuple[Any, ...], content: Any) -> Any:
    """Return how an object is pickled that has no content of its own, or one for each thread."""
    if pickler.is_copy:
        return *making[:1], making[1:], content, None, None, set_content
    home, name = place_of(obj)
    token = _token_of(obj, home, name)
    if pickler.is_version:
        return _made, (token, "", "", *making[:1], content)
    if pickler.is_result and token in arrived.versions:
        return _caller_object, (token, home, name)
    made = token if content is None else pickler.version_of_content(content)[0]
    return _made, (token, home, name, *making), (token, made, content, []), None, None, _set


def _context_variable(name: str, *default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


def _reduce_kept(pickler: CodePickler, obj: Any) -> Any:
    """Return how an object is pickled that a program keeps."""
    kind = type(obj)
    if kind is object and (pickler.is_copy or (pickler.is_result and not pinned.has(obj))):
        return NotImplemented
    content = None if kind is object else obj.__getstate__()
    if pickler.is_copy:
        return bare, (kind,), content, None, None, set_content
    token = _token_of(obj, getattr(kind, "__module__", ""), "")
    if pickler.is_version:
        return _made, (token,)
    if pickler.is_result:
        if token not in arrived.versions:
            return bare, (kind,), content, None, None, set_content
        return _returned, (token, kind), (token, content), None, None, _set_returned
    made, shares = pickler.version_of_content(content)
    if shares:
        return NotImplemented  # a worker must not keep its block
    pickler.versions.append((token, made))
    return _made, (token, "", "", bare, kind), (token, made, content, []), None, None, _set


class Pinned:
    """Objects that no table can refer to weakly, each with its token and its place: module and name.

    An object is dropped when its module has none of that name any more, and no class keeps it.
    """

    LIMIT = 1024  # objects; then, and when they have doubled, those are dropped

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Any, str, str]] = {}
        self._tokens: dict[int, str] = {}
        self._limit = self.LIMIT
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._objects)

    def token_of(self, obj: Any, home: str, name: str) -> str:
        """Return the token of an object; give it one if it has none."""
        token = self._tokens.get(id(obj))
        if token is None:
            token = f"{home}.{name} {os.getpid()}.{next(self._numbers)}"
            self.register(token, obj, home, name)
        return token

    def has(self, obj: Any) -> bool:
        """Return whether an object has a token."""
        return id(obj) in self._tokens

    def register(self, token: str, obj: Any, home: str, name: str) -> None:
        """Give an object a token."""
        if len(self._objects) >= self._limit:
            known: dict[Any, set[int]] = {}
            for each, (one, of, called) in list(self._objects.items()):
                there = namespaces.find(of) if namespaces.is_name(of) else namespace_of(of)
                if not (_found(there, called) is one if called else is_kept(one, known)):
                    del self._objects[each]
                    self._tokens.pop(id(one), None)
            self._limit = max(self.LIMIT, 2 * len(self._objects))
        self._objects[token] = obj, home, name
        self._tokens[id(obj)] = token

    def find(self, token: str) -> Any:
        """Return the object with a token; None if there is none."""
        return self._objects.get(token, _NO_OBJECT)[0]


_NO_OBJECT: tuple[Any, str, str] = (None, "", "")
pinned = Pinned()


def _token_of(obj: Any, home: str, name: str) -> str:
    """Return the token of an object; give it one if it has none."""
    return tokens.token_of(obj) if _is_weak(obj) else pinned.token_of(obj, home, name)


def _is_weak(obj: Any) -> bool:
    """Return whether tables can refer to an object weakly, and by its identity."""
    kind = type(obj)
    return bool(kind.__weakrefoffset__) and kind.__hash__ is _HASH and kind.__eq__ is _EQUAL


def _find(token: str) -> Any:
    found = pinned.find(token)
    return tokens.find(token) if found is None else found


def give_tokens(namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give kept objects their tokens, and yield these with the objects' contents."""
    for obj in kept_objects(namespace):
        kind = type(obj)
        yield _token_of(obj, kind.__module__, ""), None if kind is object else obj.__getstate__()


def _found(there: dict[str, Any] | None, name: str) -> Any:
    """Return the object with a dotted name in a namespace; None if there is none."""
    first, _, rest = name.partition(".")
    found = (there or {}).get(first)
    try:
        return operator.attrgetter(rest)(found) if rest else found
    except AttributeError:
        return None


def _parts(obj: Any) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
    """Return what makes an object anew, its arguments, and its state."""
    kind = type(obj)
    if kind in _TYPE_VARIABLES:
        names = ["bound", "covariant", "contravariant", "infer_variance"]
        options = {name: getattr(obj, f"__{name}__") for name in names if hasattr(obj, f"__{name}__")}
        if getattr(obj, "has_default", bool)():
            options["default"] = obj.__default__
        return _of_typing, (kind, (obj.__name__, *getattr(obj, "__constraints__", ())), options), None
    if kind is _ALIAS:
        return _of_typing, (kind, (obj.__name__, obj.__value__), {"type_params": obj.__type_params__}), None
    arguments: tuple[Any, ...] = ()
    if hasattr(obj, "__getnewargs__"):
        arguments = obj.__getnewargs__()
    return copyreg.__newobj__, (kind, *arguments), obj.__getstate__()  # type: ignore[attr-defined]


# -- what a pickle calls -------------------------------------------------------------------------------------


def _made(token: str, home: str, name: str, make: Callable[..., Any], *args: Any) -> Any:
    """Return the object with a token; make it if there is none."""
    found = _find(token)
    if found is None:
        found = make(home, *args) if make is _of_typing else make(*args)
        if _is_weak(found):
            tokens.register(token, found)
        else:
            pinned.register(token, found, home, name)
        arrived.new.add(token)
    return found


def _caller_object(token: str, home: str, name: str) -> Any:
    """Return the object of this process that a result refers to."""
    found = pinned.find(token)
    return caller_object(token, home, name) if found is None else found


def _returned(token: str, kind: type) -> Any:
    """Return the object of this process that a result refers to; a new one if there is none any more."""
    found = _find(token)
    return bare(kind) if found is None else found


def _set_returned(obj: Any, state: tuple[str, Any]) -> None:
    token, content = state
    if _find(token) is not obj:
        set_content(obj, content)


def _of_typing(home: str, kind: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Make an object of `typing`, which takes its module from the code that calls it."""
    names = {"__name__": home, "kind": kind, "args": args, "options": options}
    return eval("kind(*args, **options)", names)


def _set(obj: Any, state: tuple[str, Any, Any, list[Global]]) -> None:
    """Set the content of an object, unless it is of the same version, and the global that it is."""
    token, made, content, globals_ = state
    if arrived.take_version(token, made) and content is not None:
        set_content(obj, content)
    for each in globals_:
        arrived.assign(*each)
