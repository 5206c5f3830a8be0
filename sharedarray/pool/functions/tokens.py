"""Tokens: what identifies a function or class in this process and in all that it is sent to."""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Any

from cloudpickle import cloudpickle

__all__ = ["find", "known_token", "register", "token_of"]

# Tokens of functions. cloudpickle has the same two tables for classes.
_token_of: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_by_token: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def token_of(obj: Any) -> str:
    """Return the token of a function or class; give it one if it has none."""
    if isinstance(obj, type):
        made: str = cloudpickle._get_or_create_tracker_id(obj)
        return made
    known = _token_of.get(obj)
    return known or register(obj, f"{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}")


def known_token(obj: Any) -> str | None:
    """Return the token of a function or class if it has one."""
    if not isinstance(obj, type):
        return _token_of.get(obj)
    known: str | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(obj)
    return known


def register(function: Any, token: str) -> str:
    """Give a token to a function, and return it."""
    _token_of[function] = token
    _by_token[token] = function
    return token


def find(token: str | None) -> Any:
    """Return the function or class with a token; None if there is none."""
    found = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(token)
    return _by_token.get(token or "") if found is None else found
