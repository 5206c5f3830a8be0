"""A pickle, and beside it the arrays that are in it: for transports that carry these in their own way.

::

    obj ── pickle ───▶ stream  …, number 0, …, number 1, …
                      found   [array, array]  ── each on the best way there is ──▶ received
    obj ◀─ unpickle ── stream, [array, array]

The stream names each array by its number (a persistent id), so the arrays may travel in any way: as
references, in recycled memory, as the future of another system. Of an instance of a subclass, the plain array
of its memory does so (see `subclasses`). Functions and classes that the receiver
cannot import are in the stream by value.

Dask's process scheduler pickles each task and each result to bytes before its pool sees them, so a pool could
only copy these bytes. `dumps` and `loads` take the place of its pickle: a `Packed` is what a pool's own
pickler sees, with the arrays still being arrays.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import cloudpickle
import numpy as np

from sharedarray import _reference as reference
from sharedarray._picklers import reducers
from sharedarray._pool.functions import COPY, CodePickler
from sharedarray._segment import mapping_of
from sharedarray._subclasses import PLAIN, parts_of, reduce_subclass
from sharedarray._thresholds import OUT_OF_BAND

__all__ = ["Packed", "StandIn", "dumps", "loads", "pack", "travels_apart", "unpack"]

StandIn: TypeAlias = Callable[[np.ndarray[Any, Any], bool], Any]
"""Returns what is sent in place of an array; None leaves it in the stream.

The second argument tells whether the array is the memory or the mask of a subclass's instance, for which a
program expects what it gets of a pickle: memory that may be written.
"""


# The functions by which this library reduces subclasses of ndarray for other picklers.
_REDUCERS = (reference.reduce_subclass_for_transport, reference.reduce_for_transport)


class _Pickler(CodePickler):
    # multiprocessing's reducers first: they know of types that have to be handed over, not copied.
    dispatch_table: ClassVar[Any] = ChainMap(
        reducers(),
        cloudpickle.Pickler.dispatch_table,
        copyreg.dispatch_table,
    )

    def __init__(self, file: io.BytesIO, stand_in: StandIn, purpose: str) -> None:
        super().__init__(file, purpose)
        self._stand_in = stand_in
        self._numbers: dict[int, int] = {}
        self._seen: list[Any] = []  # so that no other array gets the id of one of these
        self._parts: dict[int, Any] = {}  # arrays that are parts of a subclass's instance, by id
        self.found: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray) and type(obj) not in PLAIN:
            if self.dispatch_table.get(type(obj), _REDUCERS[0]) not in _REDUCERS:
                return NotImplemented  # the program has said how
            reduced = reduce_subclass(obj)
            if isinstance(reduced, tuple):
                self._parts.update((id(part), part) for part in parts_of(reduced))
            return reduced
        return super().reducer_override(obj)

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) not in PLAIN:
            return None
        number = self._numbers.get(id(obj))
        if number is None:
            instead = self._stand_in(obj, id(obj) in self._parts)
            if instead is None:
                return None
            number = self._numbers[id(obj)] = len(self.found)
            self._seen.append(obj)
            self.found.append(instead)
        return number


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, found: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(stream))
        self._found = found

    def persistent_load(self, pid: Any) -> Any:
        return self._found[pid]


def pack(obj: object, stand_in: StandIn, purpose: str = COPY) -> tuple[bytes, list[Any]]:
    """Pickle an object, with something instead of each array that `stand_in` gives something for.

    Returns
    -------
    stream : bytes
        The pickle.
    found : list
        What `stand_in` gave, once for each array.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, stand_in, purpose)
    pickler.dump(obj)
    return file.getvalue(), pickler.found


def unpack(stream: Any, found: Sequence[Any]) -> Any:
    """Return what `pack` was given, with the received arrays in their places."""
    return _Unpickler(stream, found).load()


def travels_apart(array: np.ndarray[Any, Any]) -> bool:
    """Return whether an array is better off beside the pickle: if it is large, or its memory is a block's."""
    if array.dtype.hasobject:
        return False
    return array.nbytes >= OUT_OF_BAND or mapping_of(array) is not None


@dataclass(frozen=True, slots=True)
class Packed:
    """The result of `pack`, on its way through a pool."""

    stream: bytes
    found: list[Any]


def dumps(value: object) -> Packed:
    """Pickle a task or result of Dask's, but for its arrays."""
    return Packed(*pack(value, lambda array, _: array if travels_apart(array) else None))


def loads(packed: Packed) -> Any:
    """Return what `dumps` was given."""
    return unpack(packed.stream, packed.found)
