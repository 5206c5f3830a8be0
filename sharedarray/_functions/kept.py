"""Objects of which a program keeps one: singletons, instances by key, and sentinels.

A class that hands out instances that it has made before has a table of them, and a ``__new__`` or a metaclass
with a ``__call__``. Such an instance is known by its identity. So is an object without any content that is a
global or an attribute of its class. In modules that travel by value they have a token, by which a worker has
one object for each of the caller's. It has the caller's content until a task changes it, as a global has.

An instance whose class says itself how it is pickled travels that way.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterator
from typing import Any

from sharedarray._functions.modules import MAIN, by_value, is_by_value, namespace_of, namespaces
from sharedarray._functions.snapshots import cell_content, global_names

__all__ = ["bare", "is_kept", "is_of_objects", "kept_objects", "place_of", "set_content"]

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that Python code has made
_TABLES = dict, weakref.WeakValueDictionary
_ROWS = list, tuple, set, frozenset
# Without types: a type checker holds that a class never has these methods of `object` itself.
_NEW: Any = object.__new__
_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__
_GETSTATE: Any = object.__getstate__
_FUNCTION: Any = types.FunctionType


def is_kept(obj: Any, known: dict[Any, set[int]]) -> bool:
    """Return whether a program in a by-value module keeps this object, and knows it by its identity.

    Its class must not say how it is pickled. ``known`` has the ids of what is kept, for questions to come.
    """
    kind = type(obj)
    if kind is object:
        return id(obj) in _ids_of_globals(known)
    if not kind.__flags__ & _HEAP_TYPE:
        return False
    if type(kind.__new__) is _FUNCTION or type(type(kind).__call__) is _FUNCTION:
        if kind not in known:
            by_tokens = is_by_value(kind.__module__) and is_of_objects(kind)
            known[kind] = {id(each) for each in _kept_by(kind)} if by_tokens else set()
        return id(obj) in known[kind]
    if (kind.__dictoffset__ and vars(obj)) or kind.__getstate__ is not _GETSTATE:
        return False
    if not is_by_value(kind.__module__) or not is_of_objects(kind) or obj.__getstate__() is not None:
        return False
    if id(obj) in _ids_of_globals(known):
        return True
    return any(value is obj for each in kind.__mro__ for value in list(vars(each).values()))


def kept_objects(namespace: dict[str, Any]) -> Iterator[Any]:
    """Yield the objects that are kept by the globals of a by-value module and by its classes."""
    known: dict[Any, set[int]] = {}
    for value in list(namespace.values()):
        if isinstance(value, type) and is_by_value(value.__module__):
            yield from (each for each in _kept_by(value) if _is_default(each) and is_kept(each, known))
        elif _is_default(value) and is_kept(value, known):
            yield value


def place_of(obj: Any) -> tuple[str, str]:
    """Return the by-value module that has an object as a global, and the name; empty texts if none has it."""
    for home in (MAIN, *list(by_value)):
        for name, value in list((namespace_of(home) or {}).items()):
            if value is obj:
                return home, name
    return "", ""


def _is_default(obj: Any) -> bool:
    """Return whether an object's class leaves to `object` how it is pickled."""
    kind = type(obj)
    return kind.__reduce_ex__ is _REDUCE_EX and kind.__reduce__ is _REDUCE


def is_of_objects(kind: type) -> bool:
    """Return whether an instance is an `object` with attributes: not a tuple, a number or an exception."""
    return all(each is object or each.__flags__ & _HEAP_TYPE for each in kind.__mro__)


def _ids_of_globals(known: dict[Any, set[int]]) -> set[int]:
    if None not in known:
        found = [namespace_of(MAIN) or {}, *[namespace_of(name) or {} for name in list(by_value)]]
        found += [namespace for _, namespace in namespaces.all()]
        known[None] = {id(value) for namespace in found for value in list(namespace.values())}
    return known[None]


def _kept_by(kind: Any) -> Iterator[Any]:
    """Yield what a class has in its attributes, and what those of its functions name that make instances."""
    for each in (*kind.__mro__, *type(kind).__mro__):
        if each.__flags__ & _HEAP_TYPE:
            for value in list(vars(each).values()):
                yield from _of_table(value)
                function = getattr(value, "__func__", value)
                if type(function) is types.FunctionType:
                    for name in global_names(function.__code__):
                        yield from _of_table(function.__globals__.get(name))
                    for cell in function.__closure__ or ():
                        yield from _of_table(cell_content(cell))


def _of_table(value: Any, *, depth: int = 2) -> Iterator[Any]:
    """Yield a value, and what is in it if it is a container."""
    yield value
    if depth and isinstance(value, (*_TABLES, *_ROWS)):
        for each in list(value.values()) if isinstance(value, _TABLES) else list(value):
            yield from _of_table(each, depth=depth - 1)


# -- what a pickle calls -------------------------------------------------------------------------------------


def bare(kind: type) -> Any:
    """Return an instance without content, as no method of its class makes it."""
    return _NEW(kind)


def set_content(obj: Any, content: Any) -> None:
    """Set the content of an object, as `pickle` does."""
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(content)
        return
    attributes, slots = content if isinstance(content, tuple) else (content, None)
    if attributes is not None:
        vars(obj).clear()
        vars(obj).update(attributes)
    for name, value in (slots or {}).items():
        setattr(obj, name, value)
