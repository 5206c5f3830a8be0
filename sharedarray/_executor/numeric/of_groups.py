"""Groups, and other mappings of arrays, as arguments of the numeric calls.

A function gets a dict of blocks for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["expanded"]

# For each argument of the function, the names of a mapping's members; None for an array.
_Names: TypeAlias = tuple[tuple[str, ...] | None, ...]


def expanded(func: Callable[..., Any], arrays: Sequence[Any]) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Return a function and arrays with the members in the place of each mapping."""
    if not any(isinstance(array, Mapping) for array in arrays):
        return func, arrays
    names: _Names = tuple(tuple(array) if isinstance(array, Mapping) else None for array in arrays)
    members: list[Any] = []
    for array in arrays:
        members += array.values() if isinstance(array, Mapping) else [array]
    return _OfMembers(func, names), members


@dataclass(frozen=True, slots=True)
class _OfMembers:
    """Call a function with the blocks of members as dicts.

    Attributes
    ----------
    func
        The function, by which messages name the call.
    names
        Of the members, for each of its arguments.
    """

    func: Callable[..., Any]
    names: _Names

    def __call__(self, *blocks: Any) -> Any:
        following = iter(blocks)
        arguments = [
            next(following) if each is None else {name: next(following) for name in each}
            for each in self.names
        ]
        return self.func(*arguments)
