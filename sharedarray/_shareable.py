"""The bytes of a ShareableList: pure encode and decode.

The layout is CPython's, and its class reads what is written here, and the other way round. Numbers are 64-bit
ones in the machine's byte order::

    byte 0     8                8 * (count + 2)             + last start       + 8 * count    + count
         count  start × (count + 1)        data: a slot each       format × count       code × count
                from the data on;          multiples of            8 bytes, with        1 byte
                the last is the data's     8 bytes                 NULs behind
                length

What stands in a slot is told by its format, in the words of `struct`, and its code:

==============  ========  ========================================================================
value           code      format, and bytes in the slot
==============  ========  ========================================================================
int             0         ``q``, or ``Q`` from 2**63 on: 8 bytes
float           0         ``d``: 8 bytes
bool            0         ``xxxxxxx?``: the last of 8 bytes
None            3         ``xxxxxx?x``
str, bytes      1, 2      ``24s``, the whole slot's length: UTF-8 or the bytes, NULs behind
with NULs at    1, 0      ``13sx``: the length, and then an ``x``
its end
==============  ========  ========================================================================

The last row is ours. CPython drops the NULs at the end of a text or of bytes, for it has only the slot's
length (gh-106939, gh-96779); an ``x``, one more byte that `struct` skips, tells that here the length is the
value's own. CPython reads the same format: bytes, which with code 0 it takes as they are, arrive whole, and
of a str the NULs are dropped. And as it keeps no format that does not end in ``s``, whatever its class
writes over such an item removes the marker. A length has six digits beside an ``s`` and an ``x``; longer
bytes, which have seven, do without the marker, since code 0 says enough, and longer text is refused where it
ends in NUL. (Over such long bytes, CPython's class cuts off what is longer than them and still fits the
slot.)

A slot has 8 bytes, and for text the next multiple of 8 above its characters, as CPython has it, or more where
its bytes need more. CPython counts only characters, so what it stores of a text outside ASCII may be cut off
(gh-145261, gh-88336), in the middle of a character even, which is a `HeaderError` here.

A block is data from outside, and others write to it while it is read: whatever does not fit is a
`HeaderError`, for the block when it is attached to, for an item when it is read.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sharedarray import _errors as errors
from sharedarray._sizes import exact

__all__ = [
    "Item",
    "Layout",
    "Value",
    "decode",
    "encode",
    "encode_item",
    "format_of",
    "read",
    "read_all",
    "write",
]

Value: TypeAlias = int | float | bool | str | bytes | None

_WIDEST = 9_999_999  # bytes of the widest slot for text, so that its length has seven digits
_MARKED = 999_999  # bytes of the longest value whose length leaves a digit for the marker
_WORD = 8  # bytes of a number, a format, and the step of slots
_TOO_LARGE = 1 << 63  # the first int that a signed word cannot hold
_AS_IS, _STR, _BYTES, _NONE = 0, 1, 2, 3  # codes

_BOOL_FORMAT, _NONE_FORMAT = b"xxxxxxx?", b"xxxxxx?x"
_TEXT_FORMAT = re.compile(rb"([1-9][0-9]{0,6}|0)s(x?)")
_NUMBERS = {format: struct.Struct(format) for format in (b"q", b"Q", b"d", _BOOL_FORMAT, _NONE_FORMAT)}
_COUNT = struct.Struct("q")

Reader: TypeAlias = Callable[[memoryview, int, int], Any]


class Item(NamedTuple):
    """One value as it is stored: format without NULs, code, and the bytes from its slot's start on."""

    format: bytes
    code: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a list's block.

    Attributes
    ----------
    count : int
        Items.
    starts : array of int
        Byte in the block at which each slot starts, and the one behind the last.
    formats, codes : int
        Bytes at which the formats and the codes start.
    """

    count: int
    starts: array[int]
    formats: int
    codes: int


# -- encode ---------------------------------------------------------------------------------------------


def encode(values: Iterable[Any]) -> bytes:
    """Return the block for a list of these values.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `encode_item`.
    """
    items = []
    starts = [0]
    for position, value in enumerate(values):
        item = encode_item(value, None, position)
        items.append(item)
        starts.append(starts[-1] + len(item.data))
    head = struct.pack(f"{len(items) + 2}q", len(items), *starts)
    formats = [item.format.ljust(_WORD, b"\0") for item in items]
    return b"".join([head, *(item.data for item in items), *formats, bytes(item.code for item in items)])


def encode_item(value: Any, slot: int | None, position: int) -> Item:
    """Return one value, for a slot of so many bytes, or with None for one that is made for it.

    Numbers and texts of other classes, NumPy's scalars included, are stored as the builtin that they refine.

    Raises
    ------
    TypeError
        It is nothing that a list can hold.
    ValueError
        It is too long, for the slot or at all.
    OverflowError
        An int is beyond 64 bits.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _encode_text(str.encode(value), len(value), _STR, slot, position)
    if isinstance(value, bytes):
        return _encode_text(bytes(value), len(value), _BYTES, slot, position)
    if slot is not None and slot < _WORD:
        raise ValueError(f"item {position} exceeds available storage: 8 bytes for a slot of {slot}")
    if value is None:
        return Item(_NONE_FORMAT, _NONE, bytes(_WORD))
    if isinstance(value, bool):
        return Item(_BOOL_FORMAT, _AS_IS, _NUMBERS[_BOOL_FORMAT].pack(value))
    if isinstance(value, int):
        format = b"q" if value < _TOO_LARGE else b"Q"
        try:
            return Item(format, _AS_IS, _NUMBERS[format].pack(value))
        except struct.error:
            raise OverflowError(
                f"item {position} is an int of {value.bit_length()} bits; a ShareableList holds ints from "
                "-2**63 to 2**64 - 1, and larger ones as text: str(value)"
            ) from None
    if isinstance(value, float):
        return Item(b"d", _AS_IS, _NUMBERS[b"d"].pack(value))
    raise TypeError(
        f"item {position} is of type {type(value).__name__}; a ShareableList holds int, float, bool, str, "
        "bytes and None"
    )


def _encode_text(text: bytes, length: int, code: int, slot: int | None, position: int) -> Item:
    if slot is None:  # what CPython gives to so many characters, and more where that is not enough
        slot = _WORD * max(length // _WORD + 1, -(-len(text) // _WORD))
    if slot > _WIDEST:
        raise ValueError(
            f"item {position} has {exact(len(text))} in a slot of {slot}, and the widest has {_WIDEST}: "
            f"share it as an array, sharedarray.share(numpy.frombuffer(data, 'u1'))"
        )
    if len(text) > slot:
        unit = "bytes of UTF-8" if code == _STR else "bytes"
        raise ValueError(
            f"item {position} exceeds available storage: {len(text)} {unit} for a slot of {slot}"
        )
    format = b"%ds" % slot
    if text.endswith(b"\0"):
        format = b"%ds" % len(text)
        if len(text) <= _MARKED:
            format += b"x"
        elif code == _STR:
            raise ValueError(
                f"item {position} is a str of {len(text)} bytes that ends in NUL, and a ShareableList "
                f"cannot record that beyond {_MARKED} bytes: store its bytes, text.encode()"
            )
        code = code if code == _STR else _AS_IS
    return Item(format, code, text.ljust(slot, b"\0"))


# -- decode ---------------------------------------------------------------------------------------------


def decode(block: memoryview, name: str) -> Layout:
    """Return the layout of a block; `name` is for the error.

    Raises
    ------
    HeaderError
        It is no list, or one that was damaged.
    """
    size = len(block)
    count = _COUNT.unpack_from(block)[0] if size >= _WORD else -1
    data = _WORD * (count + 2)
    if count < 0 or data > size:
        raise _bad(
            name, f"{exact(size)} that start with a count of {count}" if size >= _WORD else exact(size)
        )
    starts = np.frombuffer(block[_WORD:data], np.int64).copy()  # what is checked must not change any more
    if starts[0] or (starts[1:] < starts[:-1]).any() or int(starts[-1]) > size - data - 9 * count:
        raise _bad(name, f"slots of {count} items that do not fit {exact(size)}")
    formats = data + int(starts[-1])
    return Layout(count, array("q", (starts + data).tobytes()), formats, formats + _WORD * count)


def read(block: memoryview, layout: Layout, position: int, name: str) -> Any:
    """Return the value at a position from 0 on; `name` is for the error.

    Raises
    ------
    HeaderError
        The item is damaged, or half written by another process just now.
    """
    at = layout.formats + _WORD * position
    start, stop = layout.starts[position], layout.starts[position + 1]
    format = bytes(block[at : at + _WORD])
    try:
        return _reader(format, block[layout.codes + position])(block, start, stop)
    except (ValueError, struct.error):
        cause = "another process is just writing it, it is damaged, or no process of this library wrote it"
        if _TEXT_FORMAT.fullmatch(format.rstrip(b"\0")):
            cause += ": CPython's class cuts off text that is longer in bytes than in characters"
        raise _bad(
            name, f"format {format!r} with code {block[layout.codes + position]}", position, cause
        ) from None


def read_all(block: memoryview, layout: Layout, name: str) -> Iterator[Any]:
    """Yield every value in order, as it is at that moment; errors as for `read`."""
    at, starts = layout.formats, layout.starts
    for position, code in enumerate(range(layout.codes, layout.codes + layout.count)):
        try:
            reader = _reader(bytes(block[at : at + _WORD]), block[code])
            value = reader(block, starts[position], starts[position + 1])
        except (ValueError, struct.error):
            value = read(block, layout, position, name)  # which says what is wrong
        yield value
        at += _WORD


def write(block: memoryview, layout: Layout, position: int, item: Item) -> None:
    """Store a value that was encoded for this slot."""
    start = layout.starts[position]
    at, code = layout.formats + _WORD * position, layout.codes + position
    format = item.format.ljust(_WORD, b"\0")
    if block[at : at + _WORD] != format:
        block[at : at + _WORD] = format
    block[code] = item.code
    block[start : start + len(item.data)] = item.data


def format_of(block: memoryview, layout: Layout, position: int) -> str:
    """Return the format at a position, in the words of `struct`."""
    at = layout.formats + _WORD * position
    return bytes(block[at : at + _WORD]).rstrip(b"\0").decode("ascii", "replace")


@lru_cache(1024)
def _reader(format: bytes, code: int) -> Reader:
    """Return the function that reads this format and code; raise `ValueError` if there is none."""
    format = format.rstrip(b"\0")
    if format in _NUMBERS:
        return _number_reader(_NUMBERS[format], code)
    found = _TEXT_FORMAT.fullmatch(format)
    if found is None or code not in (_AS_IS, _STR, _BYTES, _NONE):
        raise ValueError
    length, exact = int(found[1]), bool(found[2])
    if code == _NONE:
        return lambda block, start, stop: None

    def text(block: memoryview, start: int, stop: int) -> bytes:
        if length > stop - start:
            raise ValueError
        value = bytes(block[start : start + length])
        return value if exact or code == _AS_IS else value.rstrip(b"\0")

    return text if code != _STR else (lambda block, start, stop: text(block, start, stop).decode())


def _number_reader(number: struct.Struct, code: int) -> Reader:
    if code == _NONE:
        return lambda block, start, stop: None
    if code != _AS_IS:
        raise ValueError
    unpack = number.unpack_from

    def value(block: memoryview, start: int, stop: int) -> Any:
        if stop - start < _WORD:
            raise ValueError
        return unpack(block, start)[0]

    return value


def _bad(name: str, found: str, position: int | None = None, cause: str | None = None) -> errors.HeaderError:
    what = (
        f"{name!r} is no ShareableList"
        if position is None
        else f"item {position} of {name!r} is not readable"
    )
    return errors.HeaderError(
        what,
        name=name,
        found=found,
        expected="the layout of a ShareableList",
        cause=cause or "the block is something else, or it was damaged",
        next_step=None
        if position is not None
        else "sharedarray.SharedMemory(name) for its bytes, sharedarray.attach(name) if it is an array",
    )
