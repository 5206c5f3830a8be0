"""Headers, files and names that were made to hurt: clear errors, nothing destroyed, no code run.

A file that is attached to or opened is either the very array that NumPy reads in it, or a `SharedArrayError`.
Its bytes and its inode are the same afterwards, and it is still there.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import block_files, directory, inode, notes, run
from hypothesis import HealthCheck, given, settings, strategies as st
from needs import link, need_links, needs_root

import sharedarray as sa
from sharedarray._header import MAX_HEADER, PAGE, decode, encode
from sharedarray._platform import platform

pytestmark = pytest.mark.timeout(60)  # a header that keeps us busy is hostile too


def header(text: str | bytes, *, version: int = 1, pad: int = PAGE) -> bytes:
    """Return a header with any dict, well formed around it."""
    body = text if isinstance(text, bytes) else text.encode("utf-8" if version == 3 else "latin1")
    prefix = 10 if version == 1 else 12
    body += b" " * (-(prefix + len(body) + 1) % pad) + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + len(body).to_bytes(prefix - 8, "little") + body


def page(descr: str = "'<f8'", fortran: str = "False", shape: str = "(3,)", **options: int) -> bytes:
    """Return a header page with any text for its three values."""
    return header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}", **options)


VALID = encode(np.dtype("<f8"), (4, 5), fortran=False) + np.arange(20.0).tobytes()


def attempt(load: Callable[[], np.ndarray]) -> np.ndarray | None:
    """Return the array, read to its last byte, or None after one of our errors."""
    try:
        array = load()
    except sa.SharedArrayError as error:
        again = pickle.loads(pickle.dumps(error))
        if not str(again) == str(error) != "":
            pytest.fail(f"{error!r} is not clear, or pickles to {again!r}")
        return None
    array.tobytes()
    return array


def check_file(path: str, data: bytes | None = None) -> np.ndarray | None:
    """Attach to a file by name and open it by path, in every mode, and see that it stays as it is."""
    name = os.path.basename(path)
    before = os.lstat(path)
    found = None
    for mode in ("r", "r+", "c"):
        for load in (lambda: sa.attach(name, mode), lambda: sa.open(path, mode)):  # noqa: B023
            array = attempt(load)
            if array is not None:
                expected = np.load(path, allow_pickle=False, max_header_size=MAX_HEADER)
                assert array.dtype == expected.dtype
                assert array.shape == expected.shape
                assert array.tobytes() == expected.tobytes()
                found = expected
            del array
    after = os.lstat(path)
    assert (after.st_ino, after.st_size, after.st_mode) == (before.st_ino, before.st_size, before.st_mode)
    if data is not None:
        assert Path(path).read_bytes() == data
    return found


@pytest.fixture
def put():
    """Write bytes under a name beside the blocks, without a record, and take them away afterwards."""
    made = []

    def write(data: bytes, name: str = "hostile") -> str:
        path = f"{directory()}/{name}"
        gc.collect()  # what is still mapped cannot be cut off everywhere
        Path(path).write_bytes(data)
        made.append(path)
        return path

    yield write
    for path in set(made):
        os.unlink(path)


# -- headers --------------------------------------------------------------------------------------------

BAD = {
    "no_brace": header("'descr': '<f8', 'fortran_order': False, 'shape': (3,)"),
    "empty_dict": header("{}"),
    "empty_text": header(""),
    "list": header("[1, 2, 3]"),
    "missing_key": header("{'descr': '<f8', 'shape': (3,), }"),
    "another_key": header("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), 'x': 1}"),
    "unhashable_key": header("{[]: 1}"),
    "key_of_another_type": header("{1: '<f8', 'fortran_order': False, 'shape': (3,), }"),
    "call": header("__import__('os').system('touch /tmp/pwned')"),
    "call_as_descr": page("__import__('os').system('touch /tmp/pwned')"),
    "call_as_shape": page(shape="(print('pwned'),)"),
    "comprehension": page(shape="tuple(x for x in [3])"),
    "lambda": page(descr="lambda: '<f8'"),
    "format_string": page(descr="f'{1+1}'"),
    "attribute": page(descr="().__class__.__bases__"),
    "negative": page(shape="(-3,)"),
    "negative_product": page(shape="(-3, -1)"),
    "float": page(shape="(3.0,)"),
    "bool_shape": page(shape="(True,)"),
    "list_shape": page(shape="[3]"),
    "string_shape": page(shape="'abc'"),
    "nested_shape": page(shape="((3,),)"),
    "none_shape": page(shape="None"),
    "complex_shape": page(shape="(3j,)"),
    "huge": page(shape="(99999999999999999999999,)"),
    "huge_64_bit": page(shape="(9223372036854775807,)"),
    "overflow_to_zero": page(shape="(4294967296, 4294967296)"),
    "overflow_to_three": page(shape="(6148914691236517206, 3)"),
    "overflow_by_itemsize": page(shape="(2305843009213693952,)"),
    "huge_beside_zero": page(shape="(0, 99999999999999999999999)"),
    "huge_hexadecimal": page(shape="(0x" + "f" * 3000 + ",)"),
    "huge_hexadecimal_of_a_megabyte": page(shape="(0x" + "f" * 900_000 + ",)", version=2),
    "huge_negative_hexadecimal": page(shape="(-0x" + "f" * 3900 + ",)"),
    "huge_order": page(fortran="0x" + "f" * 3900),
    "huge_descr": page(descr="0x" + "f" * 3900),
    "huge_plus_complex": page(descr="0x" + "f" * 3900 + "+1j"),
    "many_digits": page(shape="(" + "9" * 60_000 + ",)", version=2),
    "many_axes": page(shape="(" + "1, " * 65 + ")"),
    "very_many_axes": page(shape="(" + "1, " * 100_000 + ")", version=2),
    "very_many_huge_axes": page(shape="(" + "999999999999999999, " * 45_000 + ")", version=2),
    "too_many_axes_with_inner": page(descr="('<f8', (1,))", shape="(" + "1, " * 64 + ")"),
    "inner": page(descr="('<f4', (2,))"),
    "one_without_comma": page(shape="(3)"),
    "leading_zero": page(shape="(03,)"),
    "inner_overflow": page(descr="('<f8', (4294967296, 4294967296))"),
    "integer_order": page(fortran="1"),
    "none_order": page(fortran="None"),
    "string_order": page(fortran="'False'"),
    "object": page(descr="'|O'"),
    "object_words": page(descr="'object'"),
    "object_field": page(descr="[('a', '<i4'), ('b', '|O')]"),
    "object_deep": page(descr="[('a', [('b', [('c', '|O', (2,))])])]"),
    "object_inner": page(descr="('|O', (2,))"),
    "variable_strings": page(descr="'StringDType()'"),
    "strange_dtype": page(descr="'<q99'"),
    "unknown_letter": page(descr="'<Z8'"),
    "number_as_dtype": page(descr="8"),
    "none_as_dtype": page(descr="None"),
    "field_without_type": page(descr="[('a',)]"),
    "field_twice": page(descr="[('a', '<i4'), ('a', '<i4')]"),
    "field_of_fields": page(descr="[[[['a', '<i4']]]]"),
    "dict_as_dtype": page(descr="{'names': ['a', 'b'], 'formats': ['<i8', '|O'], 'offsets': [0, 0]}"),
    "dict_past_the_end": page(descr="{'names': ['a'], 'formats': ['<i8'], 'offsets': [1000000]}"),
    "negative_offsets": page(descr="{'names': ['a'], 'formats': ['<i8'], 'offsets': [-8]}"),
    "huge_item": page(descr="'|V2147483647'"),
    "overflowing_item": page(descr="'|V99999999999'"),
    "negative_item": page(descr="'|S-5'"),
    "huge_date_unit": page(descr="'<M8[99999999999999999999s]'"),
    "bad_escape": page(descr=r"'\d\z'"),
    "null_bytes": header(b"{'descr': '<f8'\0, 'fortran_order': False, 'shape': (3,), }"),
    "not_utf8": header(
        b"{'descr': [('\xff\xfe', '<f8')], 'fortran_order': False, 'shape': (3,), }", version=3
    ),
    "deep_brackets": header("(" * 50_000 + ")" * 50_000, version=2),
    "deep_lists": page(descr="[" * 90 + "]" * 90),
    "deep_minus": header("-" * 200_000 + "1", version=2),
    "deep_tilde": header("~" * 200_000 + "1", version=2),
    "deep_not": header("not " * 100_000 + "1", version=2),
    "long_sum": header("1" + "+1" * 200_000, version=2),
    "long_difference": header("1" + "-1" * 200_000, version=2),
    "long_sum_of_complex": page(shape="(" + "1+1j," * 20_000 + ")", version=2),
    "deep_calls": header("a" + "()" * 100_000, version=2),
    "deep_attributes": header("a" + ".a" * 100_000, version=2),
    "deep_lambdas": header("lambda:" * 50_000 + "1", version=2),
    "deep_fields": page(descr="[('a', " * 2000 + "'<f8'" + ")]" * 2000, version=2),
    "deep_but_shallow_enough": page(descr="[('a', " * 19 + "'|O'" + ")]" * 19),
    "operators_one_by_one": page(shape="(" + "--1, " * 60 + ")"),
    "deep_tuples": page(descr="(" * 150 + "'<f8'" + ",(1,))" * 150, version=2),
    "statement": header("import os"),
    "two_dicts": header("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), } {}"),
    "line_break": header("{'descr': '<f8',\n'fortran_order': False, 'shape': (3,), }\n\nimport os"),
    "longer_than_allowed": header("{" + " " * MAX_HEADER + "}", version=2),
    "length_zero": b"\x93NUMPY\x01\x00\x00\x00" + b" " * 100,
    "length_past_the_end": b"\x93NUMPY\x01\x00\xff\xff" + b" " * 100,
    "length_of_4_gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
    "version_0": b"\x93NUMPY\x00\x00" + VALID[8:],
    "version_4": b"\x93NUMPY\x04\x00" + VALID[8:],
    "version_1_1": b"\x93NUMPY\x01\x01" + VALID[8:],
    "other_magic": b"\x93NUMPZ" + VALID[6:],
}
STRANGE = {  # what NumPy reads, so that it must be read the same
    "no_spaces": header("{'descr':'<f8','fortran_order':False,'shape':(3,)}"),
    "other_order": header("{'shape': (3,), 'fortran_order': False, 'descr': '<f8'}"),
    "double_quotes": header('{"descr": "<f8", "fortran_order": False, "shape": (3,), }'),
    "line_breaks": header("{\n'descr': '<f8',\n'fortran_order': False,\n'shape': (3,),\n}"),
    "comment": header("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), } # made by hand"),
    "hexadecimal": page(shape="(0x3,)"),
    "underscores": page(shape="(1_0,)"),
    "joined_strings": page(descr="'<' 'f8'"),
    "unaligned": page(pad=1),
    "aligned_to_16": page(pad=16),
    "comma_string": page(descr="'f4,i2'"),
    "word": page(descr="'float32'"),
    "zero_bytes_each": page(descr="'|S0'", shape="(4,)"),
    "empty_axis": page(shape="(0, 1000000)"),
    "one_axis_too_few": page(shape="(" + "1, " * 32 + ")"),
    "version_2": page(version=2),
    "version_3": page(version=3),
}


@pytest.mark.parametrize("key", BAD)
def test_a_bad_header_is_a_clear_error(put, key, capfd, recwarn):
    data = BAD[key] + bytes(range(256)) * 20
    assert check_file(put(data), data) is None
    assert not os.path.exists("/tmp/pwned")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    with pytest.raises(sa.HeaderError) as caught:
        decode(data[:PAGE], len(data), name="hostile", more=data)
    assert "hostile" in str(caught.value)
    assert caught.value.expected
    assert len(str(caught.value)) < 1500  # what is shown of it is short


@pytest.mark.parametrize("key", STRANGE)
@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_a_header_that_only_looks_strange_is_read_as_numpy_reads_it(put, key):
    data = STRANGE[key] + bytes(range(256)) * 20
    assert check_file(put(data), data) is not None


def test_deep_headers_do_not_crash_the_interpreter_of_a_small_stack():
    """In a thread with little stack, in another interpreter: a crash would be its end."""
    run(
        """
        import concurrent.futures, threading
        from test_hostile import BAD, PAGE, decode, sa
        def read():
            for key, data in BAD.items():
                if key.startswith(("deep", "long", "very", "many", "huge")):
                    try:
                        decode(data[:PAGE], len(data), name=key, more=data)
                    except sa.HeaderError:
                        continue
                    raise AssertionError(key)
        threading.stack_size(256 * 1024)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(read).result()
        """
    )


# -- damage ---------------------------------------------------------------------------------------------


def test_every_bit_of_the_header_flipped(put):
    used = VALID.index(b"}") + 3
    path = put(VALID)
    good = bad = 0
    for bit in range(8 * used):
        data = bytearray(VALID)
        data[bit // 8] ^= 1 << bit % 8
        with open(path, "r+b") as file:
            file.write(data)
        array = attempt(lambda: sa.attach("hostile", "r"))
        if array is None:
            bad += 1
            continue
        good += 1
        try:
            expected = np.load(path, allow_pickle=False)
        except Exception as error:
            pytest.fail(f"bit {bit} makes {bytes(data[:used])!r}, which NumPy refuses ({error}), an array")
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()
        assert Path(path).read_bytes() == bytes(data)
    assert bad > 300  # and the others, such as '<f4' and (4, 4), are arrays
    assert good > 5


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_over_a_header_decode_as_numpy_does_or_not_at_all(data):
    sample = data.draw(
        st.sampled_from([VALID, *STRANGE.values(), encode(np.dtype("U3,>i2"), (2,), fortran=True)])
    )
    start = bytearray(sample[:PAGE].rstrip())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(start) - 1))
        start[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    whole = bytes(start).ljust(PAGE - 1) + b"\n" + bytes(4 * PAGE)
    try:
        layout = decode(whole[:PAGE], len(whole), name="x", more=whole)
    except sa.HeaderError:
        return
    expected = np.load(io.BytesIO(whole), allow_pickle=False, max_header_size=MAX_HEADER)
    array = np.ndarray(layout.shape, layout.dtype, whole, layout.offset, order=layout.order)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tobytes() == expected.tobytes()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_no_header(garbage):
    for data in (garbage, b"\x93NUMPY" + garbage, VALID[:10] + garbage):
        with pytest.raises(sa.HeaderError):
            decode(data[:PAGE], len(data), name="x", more=data)


def test_a_file_cut_off_at_every_length(put):
    path = put(VALID)
    lengths = [*range(140), *range(PAGE - 20, len(VALID))]
    for length in lengths:
        Path(path).write_bytes(VALID[:length])
        with pytest.raises(sa.HeaderError) as caught:
            sa.attach("hostile", "r")
        assert caught.value.found
        del caught  # in whose frames the file is mapped
        with pytest.raises(sa.HeaderError):
            sa.open(path)
        assert os.stat(path).st_size == length
    Path(path).write_bytes(VALID)
    assert sa.attach("hostile")[3, 4] == 19


def test_a_block_of_ours_with_hostile_bytes_is_left_alone(own_directory):
    """Bytes of a `Segment` are whatever its user writes; attaching to them as an array changes nothing."""
    data = BAD["object"] + b"payload"
    with sa.Segment.create(len(data), "x") as segment:
        segment.buf[:] = data
        before = inode("x")
        for mode in ("r", "r+", "c"):
            with pytest.raises(sa.HeaderError):
                sa.attach("x", mode)
        run(
            """
            import sharedarray as sa
            try:
                sa.attach('x')
            except sa.HeaderError:
                raise SystemExit(0)
            raise SystemExit(1)
            """
        )
        assert inode("x") == before
        assert bytes(segment.buf) == data
        (block,) = sa.blocks()
        assert (block.kind, block.shape, block.dtype) == ("bytes", None, None)


# -- other kinds of file --------------------------------------------------------------------------------


class Payload:
    """Unpickling this leaves a file behind."""

    def __reduce__(self):
        return os.mkdir, ("/tmp/sharedarray-test-pwned",)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.arange(3))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", VALID)
    return file.getvalue()


def _object_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Payload(), None], dtype=object), allow_pickle=True)
    return file.getvalue()


FILES = {
    "pickle": lambda: pickle.dumps(Payload()),
    "pickled_array": lambda: pickle.dumps(np.arange(3)),
    "object_array": _object_array,
    "pickle_behind_a_header": lambda: page(descr="'|O'", shape="(1,)") + pickle.dumps([Payload()]),
    "npz": _npz,
    "zip": _zip,
    "png": lambda: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100),
    "text": lambda: b"1.0 2.0 3.0\n" * 100,
    "script": lambda: b"#!/bin/sh\ntouch /tmp/sharedarray-test-pwned\n",
    "elf": lambda: Path(sys.executable).read_bytes()[:5000],
    "zeros": lambda: bytes(10000),
    "magic_alone": lambda: b"\x93NUMPY",
    "one_byte": lambda: b"\x93",
    "empty": lambda: b"",
    "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(600),
}


@pytest.mark.parametrize("kind", FILES)
def test_other_kinds_of_file(put, kind):
    data = FILES[kind]()
    assert check_file(put(data), data) is None
    assert not os.path.exists("/tmp/sharedarray-test-pwned")
    with pytest.raises(sa.HeaderError):
        sa.attach("hostile")
    with pytest.raises(sa.NotOursError):
        sa.unlink("hostile")
    assert sa.prune() == []
    assert sa.exists("hostile")
    assert Path(put(data)).read_bytes() == data


def _no_file(kind: str, path: str) -> socket.socket | None:
    if kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("there are no pipes with names in directories here")
        os.mkfifo(path)
    elif kind == "link_to_array":
        Path(f"{path}.target").write_bytes(VALID)
        try:
            link(Path(path), Path(f"{path}.target"))
        except BaseException:
            os.unlink(f"{path}.target")
            raise
    elif kind.startswith("link"):
        need_links()
    if kind == "link_to_nowhere":
        os.symlink(f"{path}.nowhere", path)
    elif kind == "link_to_itself":
        os.symlink(path, path)
    elif kind == "link_to_zero":
        os.symlink("/dev/zero", path)
    elif kind == "socket":
        if not hasattr(socket, "AF_UNIX"):
            pytest.skip("there are no sockets with paths here")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        return listener
    return None


@pytest.mark.parametrize(
    "kind",
    ["directory", "fifo", "socket", "link_to_array", "link_to_nowhere", "link_to_itself", "link_to_zero"],
)
def test_what_is_no_regular_file(own_directory, kind):
    path = f"{own_directory}/hostile"
    listener = _no_file(kind, path)

    def facts() -> tuple[int, ...]:
        found = os.lstat(path)  # but for the time of the last access, which any look may change
        return (
            found.st_ino,
            found.st_mode,
            found.st_nlink,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )

    before, listed = facts(), sorted(os.listdir(own_directory))
    for mode in ("r", "r+", "c"):
        with pytest.raises(sa.SharedArrayError):
            sa.attach("hostile", mode)
        with pytest.raises(sa.SharedArrayError):
            sa.Segment.attach("hostile", mode)
        if kind != "link_to_array":  # the user's own word for a file may be a link; a block's name is none
            with pytest.raises(sa.SharedArrayError):
                sa.open(path, mode)
    assert not sa.exists("hostile")
    with pytest.raises(sa.SharedArrayError):
        sa.unlink("hostile")
    with pytest.raises(sa.BlockExistsError):
        sa.zeros(3, name="hostile")
    with pytest.raises(sa.BlockExistsError):
        sa.zeros(3, file=path)
    assert sa.prune() == []
    assert facts() == before or kind == "fifo"
    assert [
        name for name in sorted(os.listdir(own_directory)) if not name.startswith(".sharedarray")
    ] == listed
    if listener is not None:
        listener.close()
    for name in listed:
        target = f"{own_directory}/{name}"
        os.rmdir(target) if kind == "directory" else os.unlink(target)


@needs_root
def test_files_that_may_not_be_opened(own_directory):
    Path(f"{own_directory}/private").write_bytes(VALID)
    Path(f"{own_directory}/readable").write_bytes(VALID)
    os.chmod(f"{own_directory}/private", 0o600)
    os.chmod(f"{own_directory}/readable", 0o644)
    os.chmod(own_directory, 0o1777)
    run(
        """
        import os, sys
        import sharedarray as sa
        os.setgid(65534); os.setuid(65534)
        where = sys.argv[1]
        for mode in ("r", "r+", "c"):
            for load in (lambda: sa.attach("private", mode), lambda: sa.open(where + "/private", mode)):
                try:
                    load()
                except sa.SharedArrayError as error:
                    assert isinstance(error, PermissionError) and "private" in str(error)
                else:
                    raise AssertionError(mode)
        try:
            sa.attach("readable", "r+")
        except sa.SharedArrayError as error:
            assert isinstance(error, PermissionError)
        else:
            raise AssertionError
        for mode in ("r", "c"):
            with sa.attach("readable", mode) as a:
                assert a[3, 4] == 19
            assert sa.open(where + "/readable", mode)[3, 4] == 19
        try:
            sa.unlink("readable")
        except sa.SharedArrayError:
            pass
        else:
            raise AssertionError
        """,
        own_directory,
    )
    for name in ("private", "readable"):
        assert Path(f"{own_directory}/{name}").read_bytes() == VALID
        os.unlink(f"{own_directory}/{name}")


@pytest.mark.parametrize(
    "path", ["", "/", ".", "/nowhere/at/all.npy", "/etc/passwd/x.npy", "x" * 300, "/dev/null/x"]
)
def test_paths_that_lead_to_no_array(path):
    with pytest.raises((sa.SharedArrayError, ValueError)):
        sa.open(path)


# -- names ----------------------------------------------------------------------------------------------

NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "../x",
    "../../etc/passwd",
    "/",
    "/x",
    "/dev/shm/x",
    "a/b",
    "a/",
    "a\\b",
    "..\\x",
    "\0",
    "x\0",
    "x\0y",
    "x" * 201,
    "x" * 300,
    "x" * 100_000,
    "é" * 101,
    "\n",
    "a\nb",
    "a\tb",
    "\x1b[31m",
    "\x7f",
    "\ud800",
    "x\udcff",
    "\u202e",
    "\u2028",
    "\ufeff",
]
WITH_NAME = {
    "empty": lambda name: sa.empty(3, name=name),
    "zeros": lambda name: sa.zeros(3, name=name),
    "ones": lambda name: sa.ones(3, name=name),
    "full": lambda name: sa.full(3, 7, name=name),
    "empty_like": lambda name: sa.empty_like([1, 2], name=name),
    "zeros_like": lambda name: sa.zeros_like([1, 2], name=name),
    "ones_like": lambda name: sa.ones_like([1, 2], name=name),
    "full_like": lambda name: sa.full_like([1, 2], 7, name=name),
    "share": lambda name: sa.share([1, 2], name=name),
    "share_converted": lambda name: sa.share(np.arange(3), "f4", name=name),
    "SharedArray": lambda name: sa.SharedArray(3, name=name),
    "Segment.create": lambda name: sa.Segment.create(3, name),
    "attach": sa.attach,
    "attach_r": lambda name: sa.attach(name, "r"),
    "Segment.attach": sa.Segment.attach,
    "exists": sa.exists,
    "unlink": sa.unlink,
}
NAMELESS = {"attach", "attach_r", "Segment.attach", "exists", "unlink"}  # these need a name


@pytest.mark.parametrize("function", WITH_NAME)
def test_hostile_names_are_invalid_everywhere(own_directory, function):
    around = set(os.listdir(os.path.dirname(own_directory)))
    for name in NAMES:
        with pytest.raises(sa.InvalidNameError) as caught:
            WITH_NAME[function](name)
        assert isinstance(caught.value, ValueError)
        assert caught.value.name == name
        str(caught.value).encode()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
    assert not block_files()
    assert not notes()
    new = set(os.listdir(os.path.dirname(own_directory))) - around
    assert not new & {"x", "passwd", "b"}


@pytest.mark.parametrize("function", WITH_NAME)
def test_names_that_are_no_str_are_a_type_error(own_directory, function):
    for name in (
        5,
        b"x",
        1.5,
        True,
        object(),
        Path("x"),
        ["x"],
        ("x",),
        {"x": 1},
        *([None] if function in NAMELESS else []),
    ):
        with pytest.raises(TypeError):
            WITH_NAME[function](name)
    assert not block_files()


def valid(name: str) -> bool:
    """Return whether this system takes such names for files, and so for blocks."""
    return platform.name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "x" * 200,
        "é" * 100,
        "a b",
        "~",
        "-rf",
        "--help",
        pytest.param("*", marks=pytest.mark.skipif(not valid("*"), reason="no name of a file here")),
        "$(id)",
        "a;b",
        "a@5",
        "b.x@5",
        "sem.x",
        "日本",
        "#1",
        "@",
    ],
)
def test_names_that_only_look_strange_are_names(name):
    with sa.full(3, 5, name=name):
        assert sa.exists(name)
        assert sa.attach(name).tolist() == [5, 5, 5]
        assert [block.name for block in sa.blocks()] == [name]
        assert sa.prune() == []
    assert not sa.exists(name)
    with sa.zeros(3, name=name, persist=True):
        pass
    assert [(block.name, block.persistent) for block in sa.blocks()] == [(name, True)]
    sa.unlink(name)
    assert not sa.exists(name)


def test_a_name_can_not_stand_for_another_files_record(own_directory):
    """Name and inode of a record are told apart from the right, so no name can be read as another's."""
    with sa.zeros(3, name="x", persist=True):
        pass
    with sa.zeros(3, name=f"x@{inode('x')}"):
        assert sorted(block.name for block in sa.blocks()) == ["x", f"x@{inode('x')}"]
    assert inode("x") is not None
    sa.unlink("x")
    assert not notes()
