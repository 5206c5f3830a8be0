"""Objects that pickle by a name alone, as `typing.NewType` and sentinels do, in modules that travel by value.

Their ``__reduce__`` returns the name of a global, which a worker's module need not have yet. So they travel
as functions and classes do: with a token, by which a worker has one object for each of the caller's.
"""

from __future__ import annotations

import copyreg
import itertools
import operator
import os
import pickle
import sys
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sharedarray._functions import tokens
from sharedarray._functions.modules import MAIN, MAIN_NAMES, is_by_value, namespace_of
from sharedarray._functions.received import Global, arrived, caller_object

if TYPE_CHECKING:
    from sharedarray._functions.pickler import CodePickler

__all__ = ["reduce_named"]

# Without types: a type checker holds that a class never has these methods of `object` itself.
_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__
_HASH: Any = object.__hash__
_EQUAL: Any = object.__eq__
# cloudpickle has a reducer for these, which knows only the modules that it sends by value itself.
_TYPE_VARIABLES = frozenset((typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple))
_ALIAS = getattr(typing, "TypeAliasType", None)


def reduce_named(pickler: CodePickler, obj: Any) -> Any:
    """Return how an object is pickled that pickles by its name; NotImplemented for another object."""
    kind = type(obj)
    if kind.__reduce_ex__ is _REDUCE_EX and kind.__reduce__ is _REDUCE:
        return NotImplemented
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
    return _made, (token, home, reduced, make, *args), (token, content, globals_), None, None, _set


# Objects that no table of tokens can refer to weakly, by module and name: each with its token.
_pinned: dict[tuple[str, str], tuple[str, Any]] = {}
_numbers = itertools.count(1)


def _token_of(obj: Any, home: str, name: str) -> str:
    """Return the token of an object; give it one if it has none."""
    kind = type(obj)
    if kind.__weakrefoffset__ and kind.__hash__ is _HASH and kind.__eq__ is _EQUAL:
        return tokens.token_of(obj)
    token, known = _pinned.get((home, name), ("", None))
    if known is not obj:
        token = f"{home}.{name} {os.getpid()}.{next(_numbers)}"
        _pinned[home, name] = token, obj
    return token


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
    pinned, found = _pinned.get((home, name), ("", None))
    if pinned != token:
        found = tokens.find(token)
    if found is None:
        found = make(home, *args) if make is _of_typing else make(*args)
        try:
            tokens.register(token, found)
        except TypeError:  # it cannot be hashed, or referred to weakly
            _pinned[home, name] = token, found
        arrived.new.add(token)
    return found


def _caller_object(token: str, home: str, name: str) -> Any:
    """Return the object of this process that a result refers to."""
    pinned, found = _pinned.get((home, name), ("", None))
    return found if pinned == token else caller_object(token, home, name)


def _of_typing(home: str, kind: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Make an object of `typing`, which takes its module from the code that calls it."""
    names = {"__name__": home, "kind": kind, "args": args, "options": options}
    return eval("kind(*args, **options)", names)


def _set(obj: Any, state: tuple[str, Any, list[Global]]) -> None:
    """Set the state of an object that is new, and the global that it is."""
    token, content, globals_ = state
    if arrived.take_version(token, token) and content is not None:
        if hasattr(obj, "__setstate__"):
            obj.__setstate__(content)
        else:
            attributes, slots = content if isinstance(content, tuple) else (content, None)
            if attributes:
                vars(obj).update(attributes)
            for name, value in (slots or {}).items():
                setattr(obj, name, value)
    for each in globals_:
        arrived.assign(*each)
