"""Which modules travel by value, because no fresh process can import them, and their namespaces.

Code may also run in a namespace that is no module's: that of `exec`, of a script under cProfile or trace, of
a module that was loaded by its path and not entered in `sys.modules`. `Namespaces` gives each of them a name
of its own, by which it is one module in a worker as well.
"""

from __future__ import annotations

import itertools
import os
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

from sharedarray import _reloads as reloads

__all__ = [
    "MAIN",
    "MAIN_NAMES",
    "MISSING",
    "Namespaces",
    "home_of",
    "importable",
    "is_by_value",
    "module_of",
    "name_in",
    "namespace_of",
    "namespaces",
    "shown",
]

MAIN = "__main__"
# The name that multiprocessing gives to the main module in a child that imports it.
MAIN_OF_CHILD = "__mp_main__"
MAIN_NAMES = frozenset((MAIN, MAIN_OF_CHILD))
MISSING = object()

# The specs of modules that a fresh process can import, by name, and the count of reloads at that time.
importable: dict[str, Any] = {}
_found_at: dict[str, int] = {}
# Weak references to modules that no fresh process can import.
by_value: dict[str, weakref.ref[Any]] = {}


def is_by_value(name: str | None) -> bool:
    """Return whether a module's functions travel by value, because no fresh process can import it."""
    if name in MAIN_NAMES:
        return True
    module = sys.modules.get(name or "")
    if name is None or module is None:
        return False
    spec = getattr(module, "__spec__", None)
    if importable.get(name, MISSING) is spec:
        return False
    known = by_value.get(name)
    if known is not None and known() is module:
        return True
    if not _can_be_imported(name, module):
        by_value[name] = weakref.ref(module)
        importable.pop(name, None)
        return True
    if name in importable and reloads.number_of(name) <= _found_at[name]:
        reloads.note(name)  # it was loaded anew, and the finder of `picklers` was not asked
    importable[name], _found_at[name] = spec, reloads.noted.count
    by_value.pop(name, None)
    reloads.note_path()
    return False


def _can_be_imported(name: str, module: Any) -> bool:
    """Return whether the import system finds a module again, under its name and in the same place."""
    if not isinstance(module, types.ModuleType):
        return True  # a program's own way of importing
    spec = getattr(module, "__spec__", None)
    parent = name.rpartition(".")[0]
    if parent and (parent not in sys.modules or is_by_value(parent)):
        return False
    if spec is None:
        return bool(parent)  # the package may have made it
    if getattr(spec, "_initializing", False):
        return False  # it is being imported: another process that imports it would make pools as well
    if parent and getattr(spec, "name", name) != name:
        return True  # another name that the package has given to a module, as collections.abc is
    path = getattr(sys.modules[parent], "__path__", None) if parent else None
    if parent and path is None:
        return True
    for finder in list(sys.meta_path):
        try:
            found = finder.find_spec(name, path)
        except Exception:
            continue  # it would not find the module in another process either
        if found is not None:
            return _places(spec) == _places(found) or bool(_places(spec) & _places(found))
    return False


def _places(spec: Any) -> set[str]:
    """Return the file of a module; a namespace package has folders and no file."""
    origin = getattr(spec, "origin", None)
    folders = list(getattr(spec, "submodule_search_locations", None) or ())
    return {_resolved(place) for place in (folders if origin is None else [origin])}


def _resolved(place: str) -> str:
    try:
        return os.path.realpath(place)
    except OSError:  # it is relative, as "built-in" is, and the working directory was removed
        return place


def namespace_of(name: str | None) -> dict[str, Any] | None:
    """Return the namespace of a loaded module."""
    return getattr(sys.modules.get(name or ""), "__dict__", None)


def module_of(namespace: dict[str, Any]) -> str | None:
    """Return the name of the by-value module that has this namespace; None for any other namespace."""
    if namespace_of(MAIN) is namespace:
        return MAIN
    name = namespace.get("__name__")
    if name == MAIN_OF_CHILD:
        return MAIN  # in a child of multiprocessing, whose module has a copy of this namespace
    if type(name) is not str or name in MAIN_NAMES or not is_by_value(name):
        return None
    return name if namespace_of(name) is namespace else None


class Namespaces:
    """The namespaces of this process that are no module's, each with a name of its own.

    A namespace cannot be referred to weakly. It is known while one of its functions, or a module that was not
    entered in `sys.modules`, is alive.
    """

    # Stands between the namespace's ``__name__`` and its number.
    _MARK = "\0"

    def __init__(self) -> None:
        # By the id of a namespace: its name, and weak references to what holds it.
        self._known: dict[int, tuple[str, dict[weakref.ref[Any], None]]] = {}
        self._numbers = itertools.count(1)

    def name_of(self, namespace: dict[str, Any], holder: types.FunctionType | types.ModuleType) -> str:
        """Return the name of a namespace, which ``holder`` has."""
        key = id(namespace)
        known = self._known.get(key)
        if known is None:
            name = namespace.get("__name__")
            name = name if type(name) is str else ""
            known = self._known[key] = f"{name}{self._MARK}{os.getpid()}.{next(self._numbers)}", {}
        name, holders = known

        def forget(ref: weakref.ref[Any]) -> None:
            holders.pop(ref, None)
            if not holders and self._known.get(key, _NO_NAMESPACE)[1] is holders:
                self._known.pop(key, None)

        if len(holders) < self._MAX_HOLDERS:
            holders[weakref.ref(holder, forget)] = None
        return name

    # Enough for some of them to live as long as the namespace.
    _MAX_HOLDERS = 100

    def is_name(self, name: str) -> bool:
        """Return whether a name is that of a namespace which is no module's."""
        return self._MARK in name

    def plain_name(self, name: str) -> str:
        """Return a namespace's ``__name__``; an empty text if it has none."""
        return name.partition(self._MARK)[0]

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the namespace of this process that has a name; None if there is none."""
        return next((namespace for known, namespace in self.all() if known == name), None)

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over names and namespaces."""
        for name, holders in list(self._known.values()):
            for ref in list(holders):
                holder = ref()
                if holder is not None:
                    of_module = isinstance(holder, types.ModuleType)
                    yield name, holder.__dict__ if of_module else holder.__globals__
                    break


_NO_NAMESPACE: tuple[str, None] = ("", None)
namespaces = Namespaces()


def home_of(function: types.FunctionType) -> str | None:
    """Return the name of the by-value module, or other namespace, in which a function runs.

    None stands for the namespace of a module that a fresh process can import.
    """
    there = function.__globals__
    home, name = module_of(there), there.get("__name__")
    if home is not None or (type(name) is str and namespace_of(name) is there):
        return home
    return namespaces.name_of(there, function)


def shown(home: str) -> str:
    """Return the name of a module or namespace for messages."""
    return namespaces.plain_name(home) or "code that belongs to no module"


def name_in(namespace: dict[str, Any] | None, obj: Any) -> str | None:
    """Return the name by which a module has this function or class at its top level."""
    name = getattr(obj, "__qualname__", None)
    return name if name and namespace is not None and namespace.get(name, MISSING) is obj else None
