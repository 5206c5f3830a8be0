"""The builtins of a worker, which a task may have replaced by what does not work for others.

A replaced ``print`` stays, as in any process. If the worker itself fails to load a call or to pack an error,
it puts back the builtins as they were before the first call, and tries again.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["begin", "with_builtins"]

_Result = TypeVar("_Result")

_before: dict[str, Any] = {}


def begin() -> None:
    """Note the builtins before the first call; what an initializer has replaced belongs to them."""
    _before.update(vars(builtins))


def with_builtins(call: Callable[[], _Result]) -> _Result:
    """Return the result of a call, with the builtins put back if it raises and a task has replaced some."""
    try:
        return call()
    except Exception:
        there = vars(builtins)
        if all(there.get(name) is value for name, value in _before.items() if name != "_"):
            raise
        there.update(_before)
        return call()
