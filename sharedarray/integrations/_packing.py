"""A pickle, and beside it the arrays in it: for transports that send arrays in their own way.

::

    obj ── pickle ───▶ stream  …, number 0, …, number 1, …
                      found   [array, array]  ── each on the best way there is ──▶ received
    obj ◀─ unpickle ── stream, [array, array]

The stream names each array by its number (a persistent id). So the arrays may be sent in any way: as
references, in recycled memory, as the future of another system. For an instance of a subclass, that is the
plain array of its memory (see `sharedarray._subclasses`). Functions and classes that the receiver cannot
import are in the stream by value.

Dask's process scheduler pickles each task and each result to bytes before its pool gets them, so that a pool
could only copy these bytes. `dumps` and `loads` replace its pickle: the pool's own pickler gets a `Packed`,
in which arrays are still arrays.
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
from sharedarray._functions import COPY, CodePickler
from sharedarray._picklers import reducers
from sharedarray._segment import mapping_of
from sharedarray._subclasses import PLAIN, parts_of, reduce_subclass
from sharedarray._thresholds import OUT_OF_BAND

__all__ = ["Packed", "StandIn", "dumps", "loads", "pack", "travels_apart", "unpack"]

StandIn: TypeAlias = Callable[[np.ndarray[Any, Any], bool], Any]
"""Called with an array, returns the object that is sent in its place; None leaves the array in the stream.

The second argument tells whether the array is the memory or the mask of a subclass's instance, for which a
program expects writable memory, as from a pickle.
"""


# The functions by which this library reduces subclasses of ndarray for other picklers.
_REDUCERS = (reference.reduce_subclass_for_transport, reference.reduce_for_transport)


class _Pickler(CodePickler):
    # multiprocessing's reducers come first: they hand over objects that cannot be copied, such as
    # connections.
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
                return NotImplemented  # the program has registered a reducer
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
    """Pickle an object, and put the result of `stand_in` in place of each array, unless that is None.

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
    """Return the object that was packed, with the received arrays in their places."""
    return _Unpickler(stream, found).load()


def travels_apart(array: np.ndarray[Any, Any]) -> bool:
    """Return whether an array is sent beside the pickle: it is large, or its memory is a block's."""
    if array.dtype.hasobject:
        return False
    return array.nbytes >= OUT_OF_BAND or mapping_of(array) is not None


@dataclass(frozen=True, slots=True)
class Packed:
    """The result of `pack`, as it is sent through a pool."""

    stream: bytes
    found: list[Any]


def dumps(value: object) -> Packed:
    """Pickle a task or a result of Dask, without its arrays."""
    return Packed(*pack(value, lambda array, _: array if travels_apart(array) else None))


def loads(packed: Packed) -> Any:
    """Return the task or the result that `dumps` has pickled."""
    return unpack(packed.stream, packed.found)
