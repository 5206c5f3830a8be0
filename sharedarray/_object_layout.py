r"""The bytes of a block that holds an object of `sharedarray.put`: pure encode and decode.

The pickle and, beside it, the memory of the object's arrays (pickle protocol 5, out-of-band buffers)::

    byte 0                 an NPY page, as of an array of uint8 with one axis
         4096              b"\x93SAOBJ1\n", then as 64-bit little-endian numbers:
         4104              count of buffers, n
         4112              bytes of the pickle
         4120 + 16 * i     of buffer i: byte at which it is, and its length in bytes
         4120 + 16 * n     the pickle
         ...               the buffers: those of a page or more from a multiple of 4096 on, smaller ones
                           from a multiple of 64 on, so that a thousand of them do not take a thousand pages

All bytes count from the start of the block. So the block is a valid ``.npy`` file, of bytes, for every reader
of that format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sharedarray import _errors as errors, _header as header
from sharedarray._header import PAGE
from sharedarray._sizes import exact

__all__ = ["decode", "encode", "is_object"]

_MAGIC = b"\x93SAOBJ1\n"
_HEAD = struct.Struct("<8sQQ")
_PLACE = struct.Struct("<QQ")
# Bytes: a cache line, which is also the alignment that vector instructions ask for.
_SMALL = 64


def is_object(data: np.ndarray[Any, Any]) -> bool:
    """Return whether the data of a block are those of an object."""
    if data.dtype != np.uint8 or data.ndim != 1 or data.size < _HEAD.size:
        return False
    return data[: len(_MAGIC)].tobytes() == _MAGIC


def encode(stream: bytes, lengths: Sequence[int]) -> tuple[bytes, list[int], int]:
    """Lay out a pickle and its buffers.

    Returns
    -------
    head : bytes
        What comes behind the NPY page: the table, and the pickle.
    starts : list of int
        The byte of the block at which each buffer is.
    size : int
        Bytes of the block.
    """
    end = PAGE + _HEAD.size + _PLACE.size * len(lengths) + len(stream)
    starts = [0] * len(lengths)
    for large in (False, True):
        for number, length in enumerate(lengths):
            if (length >= PAGE) == large:
                starts[number] = -(-end // (PAGE if large else _SMALL)) * (PAGE if large else _SMALL)
                end = starts[number] + length if length else end
    starts = [min(start, end) for start in starts]  # an empty buffer can be the last one
    places = [_PLACE.pack(*place) for place in zip(starts, lengths, strict=True)]
    return b"".join([_HEAD.pack(_MAGIC, len(lengths), len(stream)), *places, stream]), starts, end


def decode(block: memoryview, name: str) -> tuple[memoryview, list[memoryview]]:
    """Return the pickle and the buffers of a block.

    Raises
    ------
    HeaderError
        The block is no object, or it was damaged.
    """
    layout = header.decode(bytes(block[:PAGE]), len(block), name=name, more=block)
    if layout.dtype != np.uint8 or len(layout.shape) != 1 or layout.offset != PAGE:
        raise _no_object(name, f"an array of shape {layout.shape} and dtype {layout.dtype}")
    if layout.size - PAGE < _HEAD.size:
        raise _no_object(name, f"an array of {exact(layout.size - PAGE)}")
    magic, count, length = _HEAD.unpack_from(block, PAGE)
    if magic != _MAGIC:
        raise _no_object(
            name, "a group" if magic.startswith(b"\x93SAGRP") else f"bytes that start with {magic!r}"
        )
    start = PAGE + _HEAD.size + _PLACE.size * count
    places: Iterable[tuple[int, int]] = ()
    if start <= layout.size:
        places = list(_PLACE.iter_unpack(block[PAGE + _HEAD.size : start]))
    for at, many in ((start, length), *places):
        if at + many > layout.size:
            raise errors.HeaderError(
                f"the object in {name!r} does not fit its block",
                name=name,
                found=f"{exact(many)} from byte {at} on in an array that ends at byte {layout.size}",
                cause="the block was damaged or cut off",
            )
    return block[start : start + length], [block[at : at + many] for at, many in places]


def _no_object(name: str, found: str) -> errors.HeaderError:
    return errors.HeaderError(
        f"{name!r} is no object",
        name=name,
        found=found,
        expected="what sharedarray.put has made",
        next_step="for an array or a group, sharedarray.attach(name)",
    )
