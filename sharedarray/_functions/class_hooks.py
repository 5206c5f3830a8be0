"""Making a class that arrives: which code of a class statement runs anew, and with which keywords.

A class statement calls the metaclass, and ``__init_subclass__`` of a base class. If these travel by value,
all that they have recorded arrives as well, in attributes and globals. They are not called again: the class
would be recorded twice, or under a wrong name. Those of modules that a worker imports are called, for their
records stay in their process: a metaclass when the class is made, and ``__init_subclass__`` when the class
has its attributes.

Python does not keep the keywords of a class statement. `keywords_of` reads them from the source, or takes the
class's attributes of these names.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sharedarray._functions import tokens

__all__ = ["call_hook", "keywords_of", "new_class"]

_HOOK = "__init_subclass__"
# Names under which a class may keep the keyword ``kind``.
_SPELLINGS = "{}", "_{}", "__{}__", "_{}_"
# The nodes of an expression that may be evaluated once more.
_HARMLESS = ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp
_HARMLESS_PARTS = (*_HARMLESS, ast.expr_context, ast.unaryop)

_keywords: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()


def _is_of_program(each: type) -> bool:
    """Return whether a class is of no module of Python's own, whose hooks need no care."""
    return each.__module__.partition(".")[0] not in sys.stdlib_module_names or each.__module__ == "__main__"


def _owners(bases: Iterable[Any]) -> Iterator[type]:
    """Yield the classes that define ``__init_subclass__``, in the order in which it is looked up."""
    seen = dict.fromkeys(owner for base in bases for owner in base.__mro__)
    return (owner for owner in seen if _HOOK in vars(owner) and owner is not object)


# -- in the process that sends ------------------------------------------------------------------------------


def keywords_of(each: type, by_value: Callable[[type], bool]) -> dict[str, Any]:
    """Return the keywords of a class statement that code of importable modules needs; ``{}`` if none does."""
    known = _keywords.get(each)
    if known is not None:
        return known
    hooks: list[Callable[..., Any]] = [
        vars(owner)[_HOOK].__get__(None, each)
        for owner in _owners(each.__mro__[1:])
        if _is_of_program(owner) and not by_value(owner)
    ]
    meta: Any = type(each)
    maker: Any = next(kind for kind in meta.__mro__ if not by_value(kind))
    if _is_of_program(maker):
        hooks.append(maker.__new__)
    known = _keywords[each] = _of_source(each) if hooks else {}
    for hook in hooks:
        for name in _names(hook):
            for spelling in _SPELLINGS if name not in known else ():
                if spelling.format(name) in vars(each):
                    known[name] = vars(each)[spelling.format(name)]
                    break
    return known


def _names(hook: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        each.name for each in parameters if each.kind is each.KEYWORD_ONLY or each.default is not each.empty
    ]


def _of_source(each: type) -> dict[str, Any]:
    """Return the keywords that the source of a class names, if there is one."""
    try:
        (statement,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
    except Exception:
        return {}
    found: dict[str, Any] = {}
    names = vars(sys.modules.get(each.__module__, types))
    for keyword in (
        getattr(statement, "keywords", ()) if getattr(statement, "name", "") == each.__name__ else ()
    ):
        if keyword.arg in (None, "metaclass"):
            continue
        if all(isinstance(part, _HARMLESS_PARTS) for part in ast.walk(keyword.value)):
            try:
                found[keyword.arg] = eval(ast.unparse(keyword.value), dict(names))
            except Exception:
                continue  # a name of a function around it
    return found


# -- in the process that receives ---------------------------------------------------------------------------


def new_class(
    meta: type, name: str, bases: tuple[Any, ...], attributes: dict[str, Any], keywords: dict[str, Any]
) -> type:
    """Return a new class, without calling what travels by value and would record it."""
    resolved = types.resolve_bases(bases)
    namespace = dict(attributes)
    disabled = [owner for owner in _owners(resolved) if _is_of_program(owner)]
    if resolved is not bases:
        namespace["__orig_bases__"] = bases
    maker: Any = next(kind for kind in meta.__mro__ if tokens.known_token(kind) is None)
    with _without_hooks(disabled):
        if maker is meta:
            taken = _accepted(maker.__new__, keywords) if _is_of_program(maker) else {}
            return meta(name, resolved, namespace, **taken)  # type: ignore[no-any-return]
        return maker.__new__(meta, name, resolved, namespace)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _without_hooks(owners: Iterable[type]) -> Iterator[None]:
    """Let the ``__init_subclass__`` of classes do nothing in this thread."""
    thread, replaced = threading.get_ident(), []

    def disable(owner: type, hook: Any) -> None:
        def disabled_hook(cls: type, /, **keywords: Any) -> None:
            if threading.get_ident() != thread:
                hook.__get__(None, cls)(**keywords)

        type.__setattr__(owner, _HOOK, classmethod(disabled_hook))
        replaced.append((owner, hook))

    try:
        for owner in owners:
            with contextlib.suppress(TypeError):  # a class of an extension module
                disable(owner, vars(owner)[_HOOK])
        yield
    finally:
        for owner, hook in replaced:
            type.__setattr__(owner, _HOOK, hook)


def call_hook(each: type, keywords: dict[str, Any]) -> None:
    """Call the first ``__init_subclass__`` that this process has imported."""
    for owner in _owners(each.__mro__[1:]):
        hook = vars(owner)[_HOOK].__get__(None, each)
        if tokens.known_token(owner) is None:
            if _is_of_program(owner):
                hook(**_accepted(hook, keywords))
            return
        if _HOOK not in getattr(hook, "__code__", _NO_CODE).co_names:
            return  # it does not call the next one
        keywords = {name: keywords[name] for name in keywords if name not in _names(hook)}


_NO_CODE = call_hook.__code__


def _accepted(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Return those keywords that a function takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return keywords
    return {each.name: keywords[each.name] for each in parameters if each.name in keywords}
