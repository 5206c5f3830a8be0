"""Tokens: what identifies a function or class in this process and in all that it is sent to.

cloudpickle has such tokens for classes. Its tables are used for functions as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

__all__ = ["find", "known_token", "register", "token_of"]

token_of: Callable[[Any], str] = cloudpickle._get_or_create_tracker_id
"""Return the token of a function or class; give it one if it has none."""

known_token: Callable[[Any], str | None] = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get
"""Return the token of a function or class; None if it has none."""

find: Callable[[str | None], Any] = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get
"""Return the function or class with a token; None if there is none."""


def register(token: str, function: Any) -> None:
    """Give a function the token that it has in another process, in place of an older version of it."""
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[function] = token
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[token] = function
