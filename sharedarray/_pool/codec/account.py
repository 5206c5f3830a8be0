"""The account of a call: how many bytes of each argument were sent by reference, copied, and pickled."""

from __future__ import annotations

import functools
import marshal
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from sharedarray._pool.transport.messages import Buffer

__all__ = ["Account", "Copied", "PlainAccount", "names_of"]

# Of one argument: bytes sent by reference, copied, pickled, and copied for another task.
Copied: TypeAlias = tuple[int, int, int, int]

# Bytes of a stream that a number, or what is around a text, takes: roughly.
_OVERHEAD = 5


class Account:
    """The bytes of each argument of a call.

    Attributes
    ----------
    names
        The arguments' names: "function", positions, and keywords.
    """

    __slots__ = ("_parts", "names")

    def __init__(self, names: Sequence[str], parts: Sequence[Copied]) -> None:
        self.names = names
        self._parts = parts

    def rows(self) -> Iterable[tuple[str, Copied]]:
        """Return the name and the bytes of each."""
        return zip(self.names, self._parts, strict=True)

    def total(self) -> Copied:
        """Return the bytes of all of them."""
        shared, copied, pickled, reused = (sum(column) for column in zip(*self._parts, strict=True))
        return shared, copied, pickled, reused


class PlainAccount(Account):
    """The same of a PLAIN call; it is computed only if asked for.

    Parameters
    ----------
    sizes
        Of each array and scalar of NumPy's: bytes sent by reference, copied, and copied for another task.
    call
        The call, in the format of `marshal`.
    """

    __slots__ = ("_call", "_sizes")

    def __init__(self, sizes: Sequence[tuple[int, int, int]], call: Buffer) -> None:
        self.names = ()
        self._call = call
        self._sizes = sizes

    def rows(self) -> Iterable[tuple[str, Copied]]:
        """Return the name and the bytes of each."""
        _, _, keywords, values = marshal.loads(self._call)
        sizes = iter(self._sizes)
        parts = []
        for value in values:
            if type(value) is tuple or type(value) is list:
                shared, copied, reused = next(sizes)
                pickled = _OVERHEAD
                if type(value) is tuple and type(value[0]) is bytes:
                    pickled += len(value[0])
                if type(value) is list and type(value[0]) is bytes:
                    pickled += len(value[0])
                parts.append((shared, copied, pickled, reused))
            else:
                length = len(value) if type(value) is str or type(value) is bytes else 0
                parts.append((0, 0, length + _OVERHEAD, 0))
        rest = len(self._call) - sum([pickled for _, _, pickled, _ in parts])
        names = self.names or names_of(len(values) - len(keywords), keywords)
        return zip(names, [(0, 0, max(0, rest), 0), *parts], strict=True)

    def total(self) -> Copied:
        """Return the bytes of all of them."""
        if len(self._sizes) == 1:
            shared, copied, reused = self._sizes[0]
        else:
            shared, copied, reused = (sum(column) for column in zip(*self._sizes, strict=True))
        return shared, copied, len(self._call), reused


@functools.lru_cache
def names_of(count: int, keywords: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of so many positional arguments and these keywords, after the function's."""
    return ("function", *map(str, range(count)), *map(_name_of, keywords))


def _name_of(keyword: str) -> str:
    return f"{keyword}=" if keyword in _TAKEN else keyword


# Names that a report gives to other things than keywords.
_TAKEN = frozenset(("function", "arguments", "result"))
