"""Groups as arguments of the numeric calls: a function gets a dict of blocks for each group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from sharedarray._groups import Group

__all__ = ["expanded"]

# For each argument of the function, the names of a group's members; None for an array.
_Names: TypeAlias = tuple[tuple[str, ...] | None, ...]


def expanded(func: Callable[..., Any], arrays: Sequence[Any]) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Return a function and arrays with the members in the place of each group."""
    if not any(isinstance(array, Group) for array in arrays):
        return func, arrays
    names: _Names = tuple(tuple(array) if isinstance(array, Group) else None for array in arrays)
    members: list[Any] = []
    for array in arrays:
        members += array.values() if isinstance(array, Group) else [array]
    return partial(_call, func, names), members


def _call(func: Callable[..., Any], names: _Names, *blocks: Any) -> Any:
    following = iter(blocks)
    arguments = [
        next(following) if each is None else {name: next(following) for name in each} for each in names
    ]
    return func(*arguments)
