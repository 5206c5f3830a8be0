"""The header page: pure functions over bytes, NumPy's own format, and every dtype that it can hold."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import directory
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from needs import needs_files

import sharedarray as sa
from sharedarray import _header as header
from sharedarray._header import PAGE, check_dtype, decode, encode

# -- frozen bytes ---------------------------------------------------------------------------------------

FROZEN = [
    (
        np.dtype("<f4"),
        (2, 3),
        False,
        b"\x93NUMPY\x01\x00\xf6\x0f{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
    ),
    (
        np.dtype(">M8[25us]"),
        (),
        True,
        b"\x93NUMPY\x01\x00\xf6\x0f{'descr': '>M8[25us]', 'fortran_order': True, 'shape': (), }",
    ),
    (
        np.dtype([("x", "<i2"), ("y", "|S3", (2,))]),
        (7,),
        False,
        (
            b"\x93NUMPY\x01\x00\xf6\x0f{'descr': [('x', '<i2'), ('y', '|S3', (2,))], "
            b"'fortran_order': False, 'shape': (7,), }"
        ),
    ),
    (
        np.dtype([("größe", "<i2")]),
        (0,),
        False,
        (
            b"\x93NUMPY\x01\x00\xf6\x0f{'descr': [('gr\xf6\xdfe', '<i2')], 'fortran_order': False, "
            b"'shape': (0,), }"
        ),
    ),
    (
        np.dtype([("长", "<i2")]),
        (1,),
        False,
        (
            b"\x93NUMPY\x03\x00\xf4\x0f\x00\x00{'descr': [('\xe9\x95\xbf', '<i2')], 'fortran_order': False, "
            b"'shape': (1,), }"
        ),
    ),
]


@pytest.mark.parametrize(("dtype", "shape", "fortran", "start"), FROZEN, ids=lambda value: None)
def test_the_bytes_are_frozen(dtype, shape, fortran, start):
    page = encode(dtype, shape, fortran=fortran)
    assert page == start + b" " * (PAGE - 1 - len(start)) + b"\n"
    layout = decode(page, 1 << 20, name="x")
    assert (layout.dtype, layout.shape, layout.order == "F", layout.offset) == (dtype, shape, fortran, PAGE)
    assert layout.size - layout.offset == int(np.prod(shape)) * dtype.itemsize
    assert layout.order == "CF"[fortran]


# -- every dtype of NPY ---------------------------------------------------------------------------------

WIDE = np.dtype([(f"field_number_{i:04}", "<f8") for i in range(200)])  # more than a page of header
WIDER = np.dtype([(f"field_number_{i:05}", ("<i2", "|u1", ">f4")[i % 3]) for i in range(4000)])  # version 2
DTYPES = {
    "bool": "?",
    "int8": "i1",
    "uint64": "u8",
    "big_endian": ">i4",
    "half": "f2",
    "big_endian_double": ">f8",
    "long_double": "g",
    "complex": "c16",
    "big_endian_complex": ">c8",
    "long_complex": "G",
    "bytes": "S7",
    "unicode": "U5",
    "big_endian_unicode": ">U5",
    "void": "V11",
    "dates": "M8[D]",
    "dates_25us": "M8[25us]",
    "big_endian_dates": ">M8[ns]",
    "spans": "m8[h]",
    "dates_no_unit": "M8",
    "structured": [("x", "i4"), ("y", "f8")],
    "offsets": {"names": ["a", "b"], "formats": ["<i4", ">f8"], "offsets": [4, 16], "itemsize": 32},
    "trailing": {"names": ["a"], "formats": ["u1"], "offsets": [0], "itemsize": 9},
    "aligned": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "nested": [("p", [("x", "f4"), ("q", [("u", "U2"), ("t", "M8[s]")])]), ("n", "u1")],
    "sub_arrays": [("m", "f4", (2, 3)), ("n", "i1", 4), ("s", [("z", "c8")], (2,))],
    "titles": [(("A title", "a"), "i4"), ("b", "u1")],
    "strange_names": [("a b", "i4"), ("ü", "f4"), ("quote'\"", "f4"), ("back\\slash", "i1")],
    "not_latin": [("температура", "f4"), ("😀", "i1")],
    "empty_name": [("f0", "i1"), ("", "i2")],
    "no_fields": [],
    "zero_bytes": "S0",
    "zero_unicode": "U0",
    "zero_void": "V0",
    "zero_field": [("a", "S0"), ("b", "i4")],
    "wide": WIDE,
    "wider": WIDER,
}
SHAPES = [(), (1,), (0,), (5,), (3, 4), (0, 3), (3, 0, 2), (2, 1, 3, 2)]


def same(a: np.dtype, b: np.dtype) -> bool:
    """Equal in everything that a reader can see, offsets and byte order included."""
    if (a, a.itemsize, a.byteorder, a.names, a.shape) != (b, b.itemsize, b.byteorder, b.names, b.shape):
        return False
    if a.subdtype:
        return same(a.subdtype[0], b.subdtype[0])
    return all(
        a.fields[name][1] == b.fields[name][1] and same(a.fields[name][0], b.fields[name][0])
        for name in a.names or ()
    )


def filled(dtype: np.dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    """Return an array whose elements differ in their bytes as far as the dtype allows."""
    array = np.zeros(shape, dtype, order=order)
    if array.nbytes:
        kind = dtype.kind
        if kind == "b":
            array.flat[::2] = True
        elif kind in "iufcmM":
            array.flat[:] = np.arange(array.size).astype(dtype)
        elif kind in "SU":
            array.flat[:] = [
                f"{i}ü"[: max(1, dtype.itemsize // 4)] if kind == "U" else b"%d" % i
                for i in range(array.size)
            ]
        else:
            raw = (
                np.arange(array.nbytes, dtype=np.uint32) * 37 % 113
                if dtype.kind == "V" and not dtype.names
                else None
            )
            if raw is not None:
                array.flat[:] = np.frombuffer(raw.astype("u1").tobytes(), dtype)
            else:
                for name in dtype.names:
                    part = filled(dtype[name].base, shape + dtype[name].shape)
                    array[name] = part
    return array


@pytest.mark.parametrize("key", DTYPES)
def test_encode_and_decode_keep_a_dtype_whole(key):
    dtype = np.dtype(DTYPES[key])
    assert check_dtype(dtype) is dtype
    for shape in SHAPES:
        for fortran in (False, True):
            page = encode(dtype, shape, fortran=fortran)
            assert len(page) % PAGE == 0
            assert page.endswith(b"\n")
            size = len(page) + int(np.prod(shape)) * dtype.itemsize
            layout = decode(page[:PAGE], size, name="x", more=page)
            assert same(layout.dtype, dtype)
            assert (layout.shape, layout.order == "F", layout.offset, layout.size) == (
                shape,
                fortran,
                len(page),
                size,
            )
            read = getattr(np.lib.format, "read_array_header_1_0")  # noqa: B009
            if page[6] == 1:
                file = io.BytesIO(page)
                assert np.lib.format.read_magic(file) == (1, 0)
                shown = read(file, max_header_size=10**7)
                assert shown[:2] == (shape, fortran)
                assert same(shown[2], dtype)
                assert file.tell() == layout.offset


def test_a_header_is_as_long_as_it_must_be():
    assert len(encode(np.dtype("f8"), (3,), fortran=False)) == PAGE
    assert len(encode(WIDE, (3,), fortran=False)) == 2 * PAGE
    page = encode(WIDER, (3,), fortran=False)
    assert page[6:8] == b"\x02\x00"
    assert len(page) > 0xFFFF


def test_a_header_that_just_fits_and_one_that_just_does_not():
    """Field names of every length around the edge of a page, where an off-by-one would cut or overlap."""
    lengths = set()
    for extra in range(3980, 4060):
        dtype = np.dtype([("n" * extra, "i1")])
        page = encode(dtype, (2,), fortran=False)
        assert page.endswith(b"\n")
        assert decode(page[:PAGE], len(page) + 2, name="x", more=page).dtype == dtype
        lengths.add(len(page))
    assert lengths == {PAGE, 2 * PAGE}


@pytest.fixture(scope="module")
def pairs():
    """Provide every dtype and order as an array in memory and as a shared one."""
    made = {}
    for key, description in DTYPES.items():
        dtype = np.dtype(description)
        for order in "CF":
            for shape in [(), (0, 3), (3, 4)]:
                plain = filled(dtype, shape, order)
                name = f"{key}.{order}.{len(shape)}{int(np.prod(shape))}"
                made[name] = plain, sa.share(plain, order=order, name=name)
    yield made
    for _, shared in made.values():
        shared.close()


def told(array: np.ndarray) -> list:
    """Return the parts of a dtype that must be the same everywhere; NPY does not record alignment."""
    return [
        repr(np.lib.format.dtype_to_descr(array.dtype)),
        array.dtype.itemsize,
        list(array.shape),
        array.nbytes == 0 or bool(array.flags.f_contiguous),
        array.nbytes == 0 or bool(array.flags.c_contiguous),
        hashlib.sha256(array.tobytes("A")).hexdigest(),
    ]


def test_every_dtype_keeps_its_full_fidelity_through_a_block(pairs):
    for name, (plain, shared) in pairs.items():
        seen = sa.attach(name, "r")
        assert same(seen.dtype, plain.dtype), name
        assert same(shared.dtype, plain.dtype), name
        assert told(np.asarray(seen)) == told(np.asarray(shared)) == told(plain), name
        assert seen.ctypes.data % 64 == 0, name


@needs_files
def test_every_dtype_is_read_by_numpy_alone_in_another_interpreter(pairs):
    script = """
import hashlib, json, os, sys
import numpy as np
found = {}
for name in sys.stdin.read().split("\\n"):
    # NumPy before 2.2 cannot map zero bytes at the end of a file (numpy/numpy#27723).
    maps_nothing = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 2)
    mode = "r" if maps_nothing or os.path.getsize(f"{sys.argv[1]}/{name}") % 4096 else None
    array = np.load(f"{sys.argv[1]}/{name}", mmap_mode=mode, max_header_size=10**7)
    found[name] = [repr(np.lib.format.dtype_to_descr(array.dtype)), array.dtype.itemsize, list(array.shape),
                   array.nbytes == 0 or bool(array.flags.f_contiguous),
                   array.nbytes == 0 or bool(array.flags.c_contiguous),
                   hashlib.sha256(array.tobytes("A")).hexdigest()]
assert "sharedarray" not in sys.modules
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, directory()],
        input="\n".join(pairs),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, (plain, _) in pairs.items():
        assert found[name] == told(plain), name


@needs_files
def test_a_block_is_byte_for_byte_what_numpy_reads_with_load(pairs):
    for name, (plain, _) in pairs.items():
        loaded = np.load(f"{directory()}/{name}", allow_pickle=False, max_header_size=10**7)
        assert same(loaded.dtype, plain.dtype), name
        assert loaded.tobytes("A") == plain.tobytes("A"), name


@pytest.mark.parametrize("key", ["f8", "U3", "M8[s]", [("a", "i1"), ("b", ">f8", 3)]])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_files_that_numpy_saved_decode_in_every_version(key, version):
    plain = filled(np.dtype(key), (3, 2))
    file = io.BytesIO()
    np.lib.format.write_array(file, plain, version=version)
    data = file.getvalue()
    layout = decode(data[:PAGE], len(data), name="x", more=data)
    assert (layout.shape, layout.size) == ((3, 2), len(data))
    assert same(layout.dtype, plain.dtype)
    assert data[layout.offset :] == plain.tobytes()


def test_a_header_that_was_seen_is_checked_against_the_size_again():
    """Layouts of known pages are kept; another block with the same page may still be cut off."""
    page = encode(np.dtype("f8"), (1000,), fortran=False)
    for _ in range(2):
        assert decode(page, PAGE + 8000, name="x").size == PAGE + 8000
        with pytest.raises(sa.HeaderError, match="does not fit"):
            decode(page, PAGE + 7999, name="x")


def test_a_page_that_starts_like_one_that_was_seen_is_read_by_itself():
    page = encode(np.dtype([("a" * 200, "i1"), ("b", "<f8")]), (3,), fortran=False)
    other = page.replace(b"'<f8'", b"'<f4'")
    assert page[:128] == other[:128]
    assert decode(page, 1 << 20, name="x").dtype["b"] == "<f8"
    assert decode(other, 1 << 20, name="x").dtype["b"] == "<f4"
    assert decode(page, 1 << 20, name="x").dtype["b"] == "<f8"


@pytest.mark.parametrize(
    "dtype",
    [
        object,
        np.dtype([("a", "i4"), ("b", object)]),
        np.dtype([("a", "O", (3,))]),
        np.dtype([("p", [("q", "O")])]),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
        *([np.dtypes.StringDType()] if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType") else []),
    ],
    ids=str,
)
def test_a_dtype_that_npy_cannot_hold_is_refused_with_what_to_do(dtype):
    dtype = np.dtype(dtype)
    for refused in (lambda: check_dtype(dtype), lambda: sa.zeros(3, dtype)):
        with pytest.raises(sa.UnsupportedDTypeError) as caught:
            refused()
        assert caught.value.next_step
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ValueError)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    dtype=st.one_of(hnp.scalar_dtypes(), hnp.nested_dtypes(max_itemsize=400)),
    shape=hnp.array_shapes(min_dims=0, max_dims=6, min_side=0),
    fortran=st.booleans(),
)
def test_any_dtype_round_trips(dtype, shape, fortran):
    base, inner = dtype.base, dtype.shape
    page = encode(base, shape + inner, fortran=fortran)
    size = len(page) + int(np.prod(shape + inner)) * base.itemsize
    layout = decode(page[:PAGE], size, name="x", more=page)
    assert same(layout.dtype, base)
    assert (layout.shape, layout.order == "F", layout.size) == (shape + inner, fortran, size)
    with pytest.raises(sa.HeaderError):
        decode(page[:PAGE], size - 1, name="x", more=page)


def test_the_longest_header_has_a_limit():
    assert header.MAX_HEADER >= 1 << 20
    huge = np.dtype([(f"f{i}" + "n" * 90, "i1") for i in range(11_000)])
    with pytest.raises(sa.UnsupportedDTypeError, match="too long"):
        encode(huge, (1,), fortran=False)
