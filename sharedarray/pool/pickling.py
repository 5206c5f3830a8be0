"""Pickles for tasks and their results.

Plain pickle, with three things added, in this order of precedence:

1. An array whose memory lies in a shared block, and any view of one, is sent as a reference to it. The
   sender keeps the array alive until the receiver has loaded it, so the reference needs no token of its own:
   the pool keeps a task's arguments until the answer is in, and a worker keeps a result until it is told
   TAKEN.
2. Functions and classes that the receiver cannot import (those of a script, a notebook, an interactive
   session, lambdas, closures) are sent by value, by cloudpickle.
3. What multiprocessing can hand to another process (sockets, connections, managers' proxies) can be
   handed to a worker as well, since its reducers are consulted.

The bytes of large plain arrays, and of whatever else offers its buffers under protocol 5, stay out of the
pickle: the channel writes them from where they are.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar, NamedTuple

import cloudpickle
import numpy as np

from sharedarray import reference
from sharedarray.pool.messages import Buffer

__all__ = ["Once", "Pickled", "dumps", "loads"]

# Bytes of a buffer from which on it travels beside the pickle. Below it, copying it into the stream is
# cheaper than a piece of its own in the write and in the read.
OUT_OF_BAND = 1 << 14


class Pickled(NamedTuple):
    """A pickle, the buffers beside it, and whether it refers to shared blocks."""

    stream: Buffer
    buffers: Sequence[Buffer]
    shares: bool


class Once:
    """A function that is pickled once for many tasks; what arrives is the function itself.

    Parameters
    ----------
    function
        Whoever sends this keeps it alive, as with `dumps`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.pickled = dumps(function)

    def __reduce__(self) -> tuple[Any, ...]:
        buffers = [pickle.PickleBuffer(buffer) for buffer in self.pickled.buffers]
        return loads, (bytes(self.pickled.stream), buffers)


class _TaskPickler(cloudpickle.Pickler):  # type: ignore[misc]
    # multiprocessing's reducers first: they know of types that have to be handed over, not copied.
    dispatch_table: ClassVar[Any] = ChainMap(
        ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        cloudpickle.Pickler.dispatch_table,
        copyreg.dispatch_table,
    )

    def __init__(self, file: io.BytesIO, take: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=take)
        self.shares = False

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            held = reference.reduce_held(obj)
            if held is not None:
                self.shares = True
                return held
            if type(obj) is np.ndarray or _is_ours(obj):
                return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            return NotImplemented  # somebody else's subclass has its own way
        if isinstance(obj, Once):
            self.shares |= obj.pickled.shares
            return NotImplemented
        return super().reducer_override(obj)


def _is_ours(array: np.ndarray[Any, Any]) -> bool:
    return type(array).__module__.partition(".")[0] == __name__.partition(".")[0]


def dumps(obj: Any) -> Pickled:
    """Pickle ``obj`` for another process of the pool.

    Whoever calls this keeps ``obj`` alive until the other side has loaded it: for the shared blocks that it
    refers to, and for the buffers, which are the memory of ``obj`` itself.
    """
    file = io.BytesIO()
    buffers: list[Buffer] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        """Take the bytes of a buffer out of the pickle; return True to leave them in."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    # Nothing here may refer back to the pickler: it remembers all that it has seen, and would hold it until
    # the next collection of cycles.
    pickler = _TaskPickler(file, take)
    pickler.dump(obj)
    stream = file.getbuffer() if file.tell() > OUT_OF_BAND else file.getvalue()
    return Pickled(stream, buffers, pickler.shares)


def loads(stream: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """Return what `dumps` was given; plain arrays have memory of their own and are writable."""
    return pickle.loads(stream, buffers=buffers)
