"""Results of tasks."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from typing import Any

import numpy as np

from sharedarray import _functions as functions
from sharedarray._functions import SCALARS
from sharedarray._pool.codec.arrays import OutOfBandBuffer, pack_array, unpack_array
from sharedarray._pool.codec.call import is_flat
from sharedarray._pool.codec.pickled import Pickled, marshalled
from sharedarray._pool.codec.pickler import dumps, loads
from sharedarray._pool.transport.messages import PLAIN, Buffer
from sharedarray._reference import FORMAT
from sharedarray._segment import mapping_of

__all__ = ["dump_result", "load_result"]


def dump_result(value: Any) -> Pickled:
    """Pickle a result; see `dumps`."""
    if type(value) in SCALARS:
        return marshalled(value)
    if is_flat(value):
        return marshalled((None, None, value))
    kind = type(value)
    if (kind is np.ndarray and mapping_of(value) is None) or issubclass(kind, np.generic):
        buffers: list[OutOfBandBuffer] = []
        packed = pack_array(value, buffers, None)
        if packed is not None:
            if not buffers:
                return marshalled(packed)
            return Pickled(marshal.dumps(packed, FORMAT), buffers, (), True, None, PLAIN)
    return dumps(value, purpose=functions.RESULT)


def load_result(stream: Buffer, buffers: Sequence[Buffer] = (), flags: int = 0) -> Any:
    """Return what `dump_result` was given."""
    if not flags & PLAIN:
        return loads(stream, buffers)
    found = marshal.loads(stream)
    if type(found) is list:
        return unpack_array(iter(buffers), *found)
    return found[2] if type(found) is tuple else found
