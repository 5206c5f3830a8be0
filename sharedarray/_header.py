r"""The header page: an NPY header that fills whole pages.

::

    byte 0           6      7      8           10 (12)                                     n * 4096
         \x93NUMPY    major  minor  length, LE  {'descr': …, 'shape': …, }   spaces   \n    data

The format is NumPy's own (``numpy.lib.format``, NEP 1): version 1.0 with a 2-byte length, 2.0 with a
4-byte one where the dict needs it, 3.0 if field names are not Latin-1. Nothing of ours is in it; only
the padding is longer than `numpy.save`'s, so that the data starts on a page.

`encode` and `decode` are pure functions over bytes. A header is data from outside: it is parsed as a
literal, never unpickled, and checked field by field against the size of the block. `decode` takes headers
of any length and alignment, so that any ``.npy`` file opens.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from sharedarray import _errors as errors
from sharedarray._dtypes import bare, short
from sharedarray._sizes import exact

__all__ = [
    "DIGITS",
    "MAGIC",
    "MOST_ROWS",
    "PAGE",
    "Layout",
    "check_dtype",
    "decode",
    "describe",
    "encode",
    "encode_growing",
    "growing_length",
    "understand",
]

PAGE = 4096  # bytes to which the header is padded
MAX_HEADER = 1 << 20  # bytes of the longest header that is parsed; a structured dtype of 10,000 fields fits
MAGIC = b"\x93NUMPY"
_MOST_AXES = 64  # NumPy's own limit; 32 before 2.0, which NumPy then tells
_CACHED = 512  # layouts that stay parsed

# The form of nearly every header: a scalar dtype, and a shape of plain numbers.
_PLAIN = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z][0-9]*(?:\[[0-9a-zA-Z]+\])?)', 'fortran_order': (True|False), "
    rb"'shape': \( *((?:(?:(?:0|[1-9][0-9]{0,17}), ?)+(?:0|[1-9][0-9]{0,17})?)?)\), \}"
)

# The parts of any other header: brackets, commas, strings, numbers, the three constants and comments.
# These are compiled when the first such header is read: to compile them takes 1 ms.
_STRING = rb"""'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+\""""
_COMMENT = rb"#[^\n]*+"
_LITERALS = (
    rb"(?:[\s()\[\]{},:]|"
    + _STRING
    + rb"|[0-9][0-9A-Za-z_]*+|(?:(?<=[(,])|(?<=[(,] ))-(?=[0-9])|True|False|None|"
    + _COMMENT
    + rb")*+"
)
_STRINGS = _STRING + rb"|" + _COMMENT
_BRACKETS = rb"[()\[\]{}]"
_DEEPEST = 40  # brackets in brackets; each level of a nested dtype takes two


class Layout(NamedTuple):
    """The decoded fields of a header.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of the elements.
    shape : tuple of int
        Lengths of the axes.
    offset : int
        Byte at which the data starts.
    size : int
        Bytes of header and data.
    order : {'C', 'F'}
        Which axis varies fastest, as NumPy's functions want it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int
    size: int


# -- dtypes ---------------------------------------------------------------------------------------------


def check_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype if its elements are plain bytes that NPY describes in full.

    Raises
    ------
    UnsupportedDTypeError
        They hold Python objects, or the description would lose something.
    """
    if dtype.hasobject or dtype.kind == "T":
        raise errors.UnsupportedDTypeError(
            f"an array of dtype {str(dtype)[:200]} cannot be shared",
            found="elements that are Python objects, whose addresses mean nothing in another process",
            expected="elements of plain bytes",
            next_step="for text use a fixed width such as 'U20' or 'S20', for records a structured dtype, "
            "for ragged data one flat array with an array of offsets; sharedarray.put stores any object",
        )
    _descr_of(dtype)
    return dtype


@lru_cache(_CACHED)
def _descr_of(dtype: np.dtype[Any]) -> Any:
    """Return NPY's description of a dtype but for metadata, known to give it back."""
    dtype = bare(dtype)
    if isinstance(short(dtype), str):
        return dtype.str  # as NumPy has it; 1.26 would warn of the empty metadata that pickle gives dates
    found: str | None = None
    try:
        descr: Any = npy.dtype_to_descr(dtype)
        back = npy.descr_to_dtype(descr)
    except (ValueError, TypeError) as error:
        found = str(error)
    else:
        if back != dtype:
            found = f"{back} after writing and reading it"
    if found is not None:
        raise errors.UnsupportedDTypeError(
            f"the NPY format cannot hold dtype {str(dtype)[:200]}",
            found=found,
            expected="a dtype that NPY describes in full",
            cause="overlapping or unordered fields, titles, or a dtype of another package",
            next_step="share a view of it with a plain dtype, such as "
            f"a.view('V{dtype.itemsize}') or, for elements of 2 bytes, a.view(numpy.uint16)",
        )
    return descr


# -- encode ---------------------------------------------------------------------------------------------


def describe(dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool) -> str:
    """Return the dict of a header as text, which `understand` reads."""
    return f"{{'descr': {_descr_of(dtype)!r}, 'fortran_order': {fortran}, 'shape': {tuple(shape)!r}, }}"


@lru_cache(64)
def encode(dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool) -> bytes:
    """Return the header page, or pages, for an array.

    Parameters
    ----------
    dtype
        Type of the elements, one that `check_dtype` accepts.
    shape
        Lengths of the axes.
    fortran
        Whether the first axis varies fastest.

    Returns
    -------
    bytes
        A multiple of `PAGE` bytes.
    """
    text = describe(dtype, shape, fortran=fortran)
    try:
        body, version = text.encode("latin1"), 1
    except UnicodeEncodeError:
        body, version = text.encode("utf-8"), 3
    if version == 1 and len(body) + 11 > PAGE * (0xFFFF // PAGE):
        version = 2
    prefix = 10 if version == 1 else 12
    total = -(-(prefix + len(body) + 1) // PAGE) * PAGE
    if len(body) > MAX_HEADER - PAGE:
        raise errors.UnsupportedDTypeError(
            "the dtype's description is too long for a header",
            found=exact(len(body)),
            expected=f"at most {exact(MAX_HEADER - PAGE)}",
        )
    length = (total - prefix).to_bytes(prefix - 8, "little")
    return MAGIC + bytes((version, 0)) + length + body + b" " * (total - prefix - len(body) - 1) + b"\n"


DIGITS = 16  # characters for a length that changes: two words of 8 bytes
MOST_ROWS = 10**DIGITS - 1


def encode_growing(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Return the header page for an array whose first axis grows, and the byte at which that length stands.

    The length has `DIGITS` characters, spaces first, from a multiple of 8 bytes on. `growing_length` is what
    stands there.
    """
    before = f"{{'descr': {_descr_of(dtype)!r}, 'fortran_order': False, 'shape': ("
    after = f", {', '.join(map(str, shape[1:]))}), }}"
    head = before.encode("utf-8")
    version = 3 if not before.isascii() else 1 if len(head) < PAGE else 2
    prefix = 10 if version == 1 else 12
    at = -(-(prefix + len(head)) // 8) * 8
    body = head + b" " * (at - prefix - len(head)) + growing_length(shape[0]) + after.encode("ascii")
    total = -(-(prefix + len(body) + 1) // PAGE) * PAGE
    length = (total - prefix).to_bytes(prefix - 8, "little")
    return MAGIC + bytes((version, 0)) + length + body.ljust(total - prefix - 1) + b"\n", at


def growing_length(length: int) -> bytes:
    """Return the characters for a length that changes."""
    return b"%16d" % length


# Pages that were parsed before, by their first bytes: to compare a page takes a hundredth of parsing it, and
# a process that attaches often attaches to few arrays.
_KEY = 128
_known: dict[bytes, tuple[bytes, Layout]] = {}

# -- decode ---------------------------------------------------------------------------------------------


def decode(page: bytes, size: int, *, name: str, more: Any = None) -> Layout:
    """Decode a block's header, and check it against the block's size.

    Parameters
    ----------
    page
        The first `PAGE` bytes of the block, or all where there are fewer.
    size
        Bytes of the whole block.
    name
        The block, for the errors.
    more
        The bytes from the block's start on, as something that is sliced, for headers longer than a page.

    Raises
    ------
    HeaderError
        The bytes are no header, or describe more than the block holds.
    """
    known = _known.get(page[:_KEY])
    if known is not None and known[0] == page and known[1].size <= size:
        return known[1]
    start = page
    try:
        length = _length(page, size)
        if length > len(page):
            page = bytes((page if more is None else more)[:length])
        layout = _parse(page[:length].rstrip(b" \n"), length)
    except _Bad as bad:
        raise errors.HeaderError(
            f"{name} has no usable NPY header",
            name=name,
            found=bad.found,
            expected=bad.expected,
            cause="it is another kind of file, or it was damaged or cut off",
        ) from None
    if layout.size > size:
        raise errors.HeaderError(
            f"the header of {name} does not fit its block",
            name=name,
            found=f"{exact(layout.size)} for shape {layout.shape} of {layout.dtype} in a block of "
            f"{exact(size)}",
            expected="a block that holds all of the array",
            cause="the header is damaged, or the file was cut off",
        )
    if length == len(start) == PAGE:
        if len(_known) >= _CACHED:
            _known.clear()
        _known[start[:_KEY]] = start, layout
    return layout


class _Bad(Exception):
    """The reason why bytes are no header: the found and the expected value."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected


def _length(page: bytes, size: int) -> int:
    """Return bytes of the header, padding included."""
    if page[:6] != MAGIC:
        raise _Bad(f"bytes that start with {page[:6]!r}", f"{MAGIC!r}")
    version = page[6:8]
    if version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise _Bad(f"version {'.'.join(map(str, version))}", "NPY version 1.0, 2.0 or 3.0")
    prefix = 10 if version[0] == 1 else 12
    if len(page) < prefix:
        raise _Bad(exact(len(page)), "a whole header")
    length = prefix + int.from_bytes(page[8:prefix], "little")
    if length > min(size, MAX_HEADER):
        most = min(size, MAX_HEADER)
        raise _Bad(f"a header of {exact(length)} in a block of {exact(size)}", f"at most {exact(most)}")
    return length


def understand(text: str, name: str) -> Layout:
    """Return the layout that a header's dict describes, of an array that starts at byte 0.

    Raises
    ------
    HeaderError
        The text is no such dict.
    """
    try:
        return _read_dict(text.encode("utf-8", "surrogatepass"), "utf-8", 0)
    except _Bad as bad:
        raise errors.HeaderError(
            f"{name} has no usable description of its array",
            name=name,
            found=bad.found,
            expected=bad.expected,
        ) from None


def _parse(header: bytes, length: int) -> Layout:
    """Return the layout in a header without its padding; `length` is with it."""
    body = header[10 if header[6] == 1 else 12 :]
    return _read_dict(body, "utf-8" if header[6] == 3 else "latin1", length)


def _read_dict(body: bytes, encoding: str, length: int) -> Layout:
    plain = _PLAIN.fullmatch(body)
    if plain is not None:
        descr: Any = plain[1].decode("ascii")
        fortran: Any = plain[2] == b"True"
        shape: Any = tuple(int(length) for length in plain[3].split(b",") if length.strip())
    else:
        descr, fortran, shape = _literal(body, encoding)
    if type(fortran) is not bool:
        raise _Bad(f"fortran_order {_short(fortran)}", "True or False")
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise _Bad(f"shape {_short(shape)}", "a tuple of non-negative ints")
    dtype = _dtype(descr)
    if len(shape) > _MOST_AXES:  # before their product, which could take minutes
        raise _Bad(f"a shape of {len(shape)} axes", f"at most {_MOST_AXES}")
    nbytes = math.prod(shape) * dtype.itemsize
    _check_shape(shape, nbytes)
    return Layout(dtype, shape, "F" if fortran else "C", length, length + nbytes)


def _literal(body: bytes, encoding: str) -> tuple[Any, Any, Any]:
    if not _is_plain_data(body):
        raise _Bad(_short(body[:200]), "a dict of 'descr', 'fortran_order' and 'shape' in plain literals")
    try:
        if b"\\" in body:  # Python warns of one that escapes nothing, and it is not our user's
            with warnings.catch_warnings(action="ignore"):
                found = ast.literal_eval(body.decode(encoding))
        else:
            found = ast.literal_eval(body.decode(encoding))
    except (SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError):
        found = None
    if type(found) is not dict or found.keys() != {"descr", "fortran_order", "shape"}:
        raise _Bad(_short(body), "a dict of 'descr', 'fortran_order' and 'shape'")
    return found["descr"], found["fortran_order"], found["shape"]


def _is_plain_data(body: bytes) -> bool:
    """Return whether a literal has no operators and no deep nesting, on which a parser runs out of stack."""
    if re.fullmatch(_LITERALS, body) is None:
        return False
    depth = 0
    for bracket in re.findall(_BRACKETS, re.sub(_STRINGS, b"", body)):
        depth += 1 if bracket in b"([{" else -1
        if not 0 <= depth <= _DEEPEST:
            return False
    return True


def _dtype(descr: Any) -> np.dtype[Any]:
    try:
        dtype = npy.descr_to_dtype(descr)
    except Exception as error:  # descr_to_dtype and the dtype parser raise nearly anything on hostile input
        raise _Bad(f"descr {_short(descr)} ({_short(str(error))})", "a NumPy dtype") from None
    if dtype.hasobject or dtype.kind == "T":
        raise _Bad(f"descr {_short(descr)}", "a dtype without Python objects")
    if dtype.subdtype is not None:  # its axes would come to the shape's
        raise _Bad(f"descr {_short(descr)}", "the dtype of one element")
    if not _within(dtype):
        raise _Bad(f"descr {_short(descr)}", "elements of at least 0 bytes that hold their fields")
    return dtype


def _within(dtype: np.dtype[Any]) -> bool:
    """Return whether every field lies in its element, and none has a negative size, as NumPy 1 lets them."""
    return dtype.itemsize >= 0 and all(
        offset >= 0 and offset + field.itemsize <= dtype.itemsize and _within(field.base)
        for field, offset, *_ in (dtype.fields or {}).values()
    )


def _check_shape(shape: tuple[int, ...], nbytes: int) -> None:
    """Refuse what NumPy itself cannot have: too many axes, or lengths beyond a pointer's range."""
    lengths = math.prod(n for n in shape if n)
    if max(nbytes, lengths, 1) > np.iinfo(np.intp).max:
        raise _Bad(f"shape {_short(shape)}", "an array that fits an address space")
    try:
        np.broadcast_to(np.empty((), np.uint8), shape)
    except ValueError as error:
        raise _Bad(f"shape {_short(shape)}", f"a shape that NumPy takes ({error})") from None


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        text = f"a {type(value).__name__} with a number of very many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
