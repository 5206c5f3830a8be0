r"""The index of a group: its arrays, and their offsets in the block. Pure encode and decode.

::

    byte 0       an NPY page, as of an array of uint8 with one axis
         4096    b"\x93SAGRP1\n"
         4104    bytes of the index, n: a little-endian 64-bit number
         4112    CRC-32 of the index, another
         4120    the index, in UTF-8
         ...     the members, in the order of the index, each from a multiple of 64 on

All bytes count from the start of the block, which so is a valid ``.npy`` file, of bytes, for every reader of
that format. The index is a JSON object::

    {"members": [[NAME, BYTE, "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"], ...],
     "attrs": {NAME: VALUE, ...}, "dims": {MEMBER: [NAME, ...], ...},
     "member_attrs": {MEMBER: {NAME: VALUE, ...}, ...}, "coords": [MEMBER, ...], "frame": {...}}

A member is described as an NPY header describes its array. All but ``members`` may be missing. ``coords``
names the members that are coordinates of an `xarray.Dataset`; ``frame`` is what a `pandas.DataFrame` was
(`sharedarray._datasets`).

An index is data from outside: it is checked field by field against the size of the block.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sharedarray import _errors as errors, _header as header
from sharedarray._header import PAGE, Layout
from sharedarray._sizes import exact

__all__ = ["Index", "Member", "decode", "encode", "is_group"]

MAGIC = b"\x93SAGRP1\n"
_HEAD = struct.Struct("<8sQQ")
_ALIGNED = 64  # bytes: a cache line, which is enough for vector instructions
_LONGEST = 1 << 26  # bytes of an index; one of 100,000 members has 10 MB
_KNOWN_BYTES = 1 << 16  # of the longest index that stays parsed
_KNOWN = 64  # indexes that stay parsed
_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Member:
    """One array of a group.

    Attributes
    ----------
    start : int
        The byte of the block at which it is.
    layout : Layout
        Its dtype, shape and order; its offset is 0.
    """

    start: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Index:
    """The decoded index of a group.

    Attributes
    ----------
    members : dict
        By name, in order.
    attrs, member_attrs : dict
        Attributes of the group, and of its members by name.
    dims : dict
        Names of the axes of members, by name of the member.
    coords : tuple of str
        Members that are coordinates.
    frame : dict or None
        What a frame of pandas was.
    """

    members: dict[str, Member]
    attrs: dict[str, Any] = field(default_factory=dict)
    member_attrs: dict[str, dict[str, Any]] = field(default_factory=dict)
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    coords: tuple[str, ...] = ()
    frame: dict[str, Any] | None = None


# -- encode ---------------------------------------------------------------------------------------------


def encode(
    members: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], bool]],
    *,
    attrs: Mapping[str, Any] | None = None,
    member_attrs: Mapping[str, Mapping[str, Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Sequence[str] = (),
    frame: Mapping[str, Any] | None = None,
) -> tuple[bytes, list[int], int]:
    """Lay out a group.

    Parameters
    ----------
    members
        Dtype, shape, and whether the order is Fortran's, by name.
    attrs, member_attrs, dims, coords, frame
        As in `Index`.

    Returns
    -------
    head : bytes
        The first bytes of the block: the NPY page and the index.
    starts : list of int
        The byte of the block at which each member is.
    size : int
        Bytes of the block.
    """
    described = [
        (name, header.describe(dtype, shape, fortran=fortran), math.prod(shape) * dtype.itemsize)
        for name, (dtype, shape, fortran) in members.items()
    ]
    others = {"attrs": attrs, "member_attrs": member_attrs, "dims": dims, "coords": coords, "frame": frame}
    others = {key: value for key, value in others.items() if value}
    # The index holds where the members start, which depends on its own length: each start is written at full
    # width.
    text = _dump({"members": [[name, 0, text] for name, text, _ in described], **others})
    end = PAGE + _HEAD.size + len(text) + len(described) * len(str(np.iinfo(np.int64).max))
    if end > _LONGEST:
        raise ValueError(f"the index of the group would have {end} bytes; at most {_LONGEST} are possible")
    starts = []
    for _, _, length in described:
        start = -(-end // _ALIGNED) * _ALIGNED
        starts.append(start)
        end = start + length
    if end > np.iinfo(np.int64).max:
        raise ValueError("the members of the group do not fit an address space")
    index = [[name, start, text] for (name, text, _), start in zip(described, starts, strict=True)]
    text = _dump({"members": index, **others})
    page = header.encode(_BYTE, (end - PAGE,), fortran=False)
    return page + _HEAD.pack(MAGIC, len(text), _checksum(text)) + text, starts, end


def _dump(value: Any) -> bytes:
    import json  # not above: processes that use no groups need it not

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _checksum(text: bytes) -> int:
    from zlib import crc32

    return crc32(text)


# -- decode ---------------------------------------------------------------------------------------------

# Indexes that were parsed before, by length and checksum, each with its bytes and the block's size.
_known: dict[tuple[int, int], tuple[bytes, int, Index]] = {}


def is_group(layout: Layout, block: Any) -> bool:
    """Return whether a block, of which `layout` is the header's, is a group."""
    return (
        layout.offset == PAGE
        and layout.dtype == _BYTE
        and len(layout.shape) == 1
        and layout.size >= PAGE + _HEAD.size
        and block[PAGE : PAGE + len(MAGIC)] == MAGIC
    )


def decode(block: Any, size: int, *, name: str) -> Index:
    """Return the index of a block for which `is_group` is true.

    Parameters
    ----------
    block
        The bytes of the block, as something that is sliced.
    size
        How many there are.
    name
        The block, for the errors.

    Raises
    ------
    HeaderError
        The index is damaged, or describes more than the block holds.
    """
    _, length, checksum = _HEAD.unpack(block[PAGE : PAGE + _HEAD.size])
    start = PAGE + _HEAD.size
    if length > min(_LONGEST, size - start):
        raise _bad(
            name, f"an index of {exact(length)} in a block of {exact(size)}", "one that fits the block"
        )
    text = bytes(block[start : start + length])
    known = _known.get((length, checksum))
    if known is not None and known[0] == text and known[1] == size:
        return _unshared(known[2])
    if _checksum(text) != checksum:
        raise _bad(name, "an index that does not fit its checksum", "an index as it was made")
    index = _parse(text, start + length, size, name)
    if length <= _KNOWN_BYTES:
        if len(_known) >= _KNOWN:
            _known.clear()
        _known[length, checksum] = text, size, index
        return _unshared(index)
    return index


def _unshared(index: Index) -> Index:
    """Return an index with attributes of its own, for a program may change a list or an object in them."""
    if not (index.attrs or index.member_attrs or index.frame):
        return index
    attrs, member_attrs, frame = deepcopy((index.attrs, index.member_attrs, index.frame))
    return replace(index, attrs=attrs, member_attrs=member_attrs, frame=frame)


def _parse(text: bytes, end: int, size: int, name: str) -> Index:
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad(name, _short(text), "an index in JSON") from None
    if type(found) is not dict or type(found.get("members")) is not list:
        raise _bad(name, _short(text), "a JSON object with a list of members")
    members: dict[str, Member] = {}
    for entry in found["members"]:
        if type(entry) is not list or [type(part) for part in entry] != [str, int, str]:
            raise _bad(name, f"the member {_short(entry)}", "a name, a byte and a description")
        key, start, description = entry
        layout = header.understand(description, f"the member {_short(key)} of {name}")
        if key in members:
            raise _bad(name, f"two members named {_short(key)}", "one of each name")
        if start < end or start % _ALIGNED or start + layout.size > size:
            raise _bad(
                name,
                f"the member {_short(key)} of {exact(layout.size)} at byte {start} in a block of "
                f"{exact(size)}",
                f"multiples of {_ALIGNED} from byte {end} on, and the block to hold all",
            )
        end = start + layout.size
        members[key] = Member(start, layout)
    return Index(members, *_others(found, members, name))


def _others(found: dict[str, Any], members: dict[str, Member], name: str) -> tuple[Any, ...]:
    """Return all that an index may hold beside its members."""
    attrs, member_attrs = found.get("attrs", {}), found.get("member_attrs", {})
    dims, coords, frame = found.get("dims", {}), found.get("coords", []), found.get("frame")
    if not (
        _is_mapping(attrs, object)
        and _is_mapping(member_attrs, dict)
        and _is_mapping(dims, list)
        and type(coords) is list
        and (frame is None or type(frame) is dict)
    ):
        raise _bad(name, "attributes of another form", "objects of attributes and lists of names")
    for key, axes in dims.items():
        if key not in members or len(axes) != len(members[key].layout.shape) or not _are_names(axes):
            raise _bad(name, f"the dims {_short(axes)} of {_short(key)}", "a name for each axis of a member")
    if not _are_names(coords) or not {*coords, *member_attrs} <= members.keys():
        raise _bad(name, "coordinates, or attributes of members, that the group has not", "names of members")
    return attrs, member_attrs, {key: tuple(axes) for key, axes in dims.items()}, tuple(coords), frame


def _is_mapping(value: Any, kind: type) -> bool:
    return type(value) is dict and all(isinstance(each, kind) for each in value.values())


def _are_names(values: list[Any]) -> bool:
    return all(type(value) is str for value in values)


def _bad(name: str, found: str, expected: str) -> errors.HeaderError:
    return errors.HeaderError(
        f"the group {name!r} has no usable index",
        name=name,
        found=found,
        expected=expected,
        cause="the block was damaged, cut off or made by a newer version",
    )


def _short(value: object) -> str:
    text = repr(value[:200] if isinstance(value, bytes | str) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
