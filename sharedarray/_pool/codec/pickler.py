"""Pickles for another process of the pool: shared arrays by reference, large buffers beside the stream."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from collections.abc import Sequence
from typing import Any, ClassVar

import cloudpickle
import numpy as np

from sharedarray import _functions as functions, _reference as reference
from sharedarray._dtypes import short
from sharedarray._picklers import reducers
from sharedarray._pool.codec.arrays import KnownBuffers, OutOfBandBuffer, array_from, buffer_for
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.transport.messages import Buffer
from sharedarray._segment import Mapping, mapping_of
from sharedarray._subclasses import PLAIN as PLAIN_CLASSES, reduce_subclass
from sharedarray._thresholds import OUT_OF_BAND

__all__ = ["PickleState", "TaskPickler", "dumps", "loads"]

_PROTOCOL = pickle.HIGHEST_PROTOCOL

# The functions by which this library reduces subclasses of ndarray for other picklers.
_REDUCERS = (reference.reduce_subclass_for_transport, reference.reduce_for_transport)


class TaskPickler(functions.CodePickler):
    """Pickle what belongs to a task, and note in ``state`` what was left out."""

    # multiprocessing's reducers first: they know of types that have to be handed over, not copied.
    dispatch_table: ClassVar[Any] = ChainMap(
        reducers(),
        cloudpickle.Pickler.dispatch_table,
        copyreg.dispatch_table,
    )

    def __init__(self, file: io.BytesIO, state: PickleState, purpose: str = functions.CALL) -> None:
        super().__init__(file, purpose, buffer_callback=state.add_buffer)
        self.state = state

    def reducer_override(self, obj: Any) -> Any:
        """Reduce arrays here, and functions and classes as `functions` says."""
        if isinstance(obj, np.ndarray):
            return self._array(obj)
        return super().reducer_override(obj)

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        state = self.state
        kind = type(array)
        if kind not in PLAIN_CLASSES and not _is_ours(array):
            state.data = True
            if self.dispatch_table.get(kind, _REDUCERS[0]) not in _REDUCERS:
                return NotImplemented  # the program has a reducer of its own
            return reduce_subclass(array)
        held = reference.reduce_held(array)
        if held is not None:
            mapping = mapping_of(array)
            assert mapping is not None
            state.blocks.add(mapping)
            state.shared += array.nbytes
            return held
        state.data = True
        if array.dtype.hasobject or array.nbytes < OUT_OF_BAND:
            plain = np.asarray(array)
            # One that is read-only would arrive as such, and one that is not contiguous in native byte order.
            if not plain.dtype.hasobject and not (plain.flags.writeable and plain.flags.forc):
                plain = plain.copy()
            return plain.__reduce_ex__(_PROTOCOL)
        if array.flags.c_contiguous or not array.flags.f_contiguous:
            order, laid = "C", array
        else:
            order, laid = "F", array.T
        mark = pickle.PickleBuffer(bytearray())
        state.next = state.buffer_for(array, laid)
        return array_from, (mark, short(array.dtype), laid.shape, order)


class PickleState:
    """The state of a pickling.

    The pickler refers to it and it must not refer back: a pickler remembers all that it has seen, and a cycle
    would hold that until the next collection.
    """

    def __init__(self, known: KnownBuffers | None, many: bool) -> None:
        self.buffers: list[OutOfBandBuffer] = []
        self.shared = 0
        self.blocks: set[Mapping] = set()
        self.data = False
        self.known = known
        self.many = many
        self.next: OutOfBandBuffer | None = None
        self.reused = 0

    def buffer_for(self, array: np.ndarray[Any, Any], laid: np.ndarray[Any, Any]) -> OutOfBandBuffer:
        """Return the buffer for an array, whose bytes are laid out as those of ``laid``."""
        found = buffer_for(self.known, array, laid)
        if found.many:
            self.reused += found.length
        else:
            found.many = self.many
        return found

    def add_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Take the bytes of a buffer out of the pickle; return True to leave them in."""
        if self.next is not None:
            self.buffers.append(self.next)
            self.next = None
            return False
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        self.data = True
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.buffers.append(OutOfBandBuffer(raw, raw.nbytes, many=self.many))
        return False


def _is_ours(array: np.ndarray[Any, Any]) -> bool:
    return type(array).__module__.partition(".")[0] == __name__.partition(".")[0]


def dumps(
    obj: Any,
    *,
    many: bool = False,
    purpose: str = functions.CALL,
    snapshot: functions.Snapshot | None = None,
) -> Pickled:
    """Pickle ``obj`` for another process of the pool.

    The caller keeps ``obj`` alive until the other side has loaded it: for the shared blocks that it refers
    to, and until the buffers are in slots, for what was left out, which is the memory of ``obj`` itself.
    """
    file = io.BytesIO()
    state = PickleState(None, many)
    pickler = TaskPickler(file, state, purpose)
    pickler.snapshot = snapshot
    pickler.dump(obj)
    return Pickled(file.getvalue(), state.buffers, state.blocks, state.data)


def loads(stream: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """Return what `dumps` was given; plain arrays have memory of their own and are writable."""
    return pickle.loads(stream, buffers=buffers)
