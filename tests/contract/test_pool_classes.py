"""No class, mask, attribute, dtype or number's kind is lost on the way to a worker and back."""

from __future__ import annotations

import copyreg
import functools
import gc
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_classes
import numpy as np
import pool_tasks
import pytest
from array_classes import (
    CASES,
    Explicit,
    Frame,
    Halved,
    Known,
    Measured,
    Nested,
    Registered,
    Tagged,
    Telling,
    facts,
    identity,
    in_block,
    masked,
    private,
    tagged,
)
from helpers import wait_until

import sharedarray as sa
from sharedarray._pool.codec import pickler
from sharedarray._segment import mapping_of
from sharedarray._thresholds import OUT_OF_BAND

SIZES = [8, OUT_OF_BAND // 8 + 2]  # elements of 8 bytes: within the pickle, and beside it


# -- subclasses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_a_class_travels_alike_over_a_block_and_over_other_memory(
    pool: sa.Pool, name: str, size: int
) -> None:
    for hold in (in_block, private):
        sent = CASES[name](size, hold)
        there, back = pool.submit(array_classes.facts_there, sent), pool.submit(identity, sent)
        assert there.result() == facts(sent)
        assert facts(back.result()) == facts(sent)
        assert array_classes.is_in_block(back.result()) == array_classes.is_in_block(sent)


@pytest.mark.parametrize("name", [name for name in CASES if "objects" not in name])
def test_what_a_worker_writes_into_an_instance_over_a_block_is_seen(pool: sa.Pool, name: str) -> None:
    sent = CASES[name](8, in_block)
    np.asarray(sent)[...] = np.ones((), sent.dtype)
    pool.submit(array_classes.overwrite, sent).result()
    assert np.array_equal(np.asarray(sent), np.zeros(sent.shape, sent.dtype))


def test_a_subclass_of_shared_arrays(pool: sa.Pool) -> None:
    frame = tagged(Frame, sa.share(np.arange(8.0)))
    assert pool.submit(np.sum, frame).result() == 28  # remembers how it was sent
    back = pool.submit(identity, frame).result()
    assert (type(back), back.tag, back.name) == (Frame, "m", frame.name)


WAYS: dict[str, Callable[[sa.Pool, Any], Any]] = {
    "argument": lambda pool, x: pool.submit(identity, x).result(),
    "keyword": lambda pool, x: pool.submit(identity, value=x).result(),
    "a script's function": lambda pool, x: pool.submit(lambda value: value, x).result(),
    "in a dict in a list": lambda pool, x: pool.submit(identity, [{"a": x}]).result()[0]["a"],
    "in a closure": lambda pool, x: pool.submit(lambda: x).result(),
    "in a partial": lambda pool, x: pool.submit(functools.partial(identity, x)).result(),
    "map": lambda pool, x: list(pool.map(identity, [x, x]))[1],
    "map with buffersize": lambda pool, x: next(iter(pool.map(identity, [x], buffersize=1))),
    "starmap": lambda pool, x: next(iter(pool.starmap(identity, [(x,)]))),
    "imap_unordered": lambda pool, x: next(iter(pool.imap_unordered(identity, [x]))),
    "reduce_blocks": lambda pool, x: pool.reduce_blocks(identity, lambda one, _: one, x, block_size=8),
    "exception": lambda pool, x: pool.submit(raising, x).exception().args[0],
}


def raising(value: Any) -> None:
    raise KeyError(value)


@pytest.mark.parametrize("way", WAYS)
def test_a_masked_array_arrives_whole_by_each_way(pool: sa.Pool, way: str) -> None:
    sent = masked(sa.share(np.arange(8.0)), np.arange(8) > 3)
    found = WAYS[way](pool, sent)
    assert facts(found) == facts(sent)
    assert found.sum() == 6


def test_an_initializer_gets_a_masked_array(first_method: str, tmp_path: Path) -> None:
    def note(value: Any) -> None:
        (tmp_path / "sum").write_text(str(float(value.sum())))

    sent = masked(sa.share(np.arange(8.0)), np.arange(8) > 3)
    with sa.Pool(1, first_method, initializer=note, initargs=(sent,)) as pool:
        pool.submit(abs, 1).result()
    assert (tmp_path / "sum").read_text() == "6.0"


def test_a_record_array_is_numpys_in_a_fresh_worker() -> None:
    """NumPy gives the class a module that nothing loads; cloudpickle takes such a class for a private one."""
    with sa.Pool(1) as pool:
        for hold in (in_block, private):
            sent = hold(np.zeros(3, array_classes.RECORD)).view(np.recarray)
            assert pool.submit(isinstance, sent, np.recarray).result()


OWN = [Measured, Nested, Halved, Explicit, Telling, Known, Registered]


@pytest.mark.parametrize("kind", OWN)
def test_a_reduction_that_extends_numpys_is_kept_for_every_size(pool: sa.Pool, kind: Any) -> None:
    for count in (8, 300_000):
        for shape in (slice(None), slice(None, None, -1)):
            sent = tagged(kind, sa.share(np.arange(count))[shape])
            found = pool.submit(identity, sent).result()
            assert (type(found), found.tag) == (kind, "m")
            assert np.array_equal(np.asarray(found), np.asarray(sent))
            assert pool.submit(type, found).result() is kind
            if kind is Nested:
                assert found.total == np.asarray(sent).sum()
            if kind is Telling:
                assert type(found.first) is kind
            assert array_classes.is_in_block(found) == (kind not in (Halved, Telling))
    assert array_classes.Meta.made == ["Known"]
    assert Registered.known == []


@pytest.mark.parametrize("kind", [array_classes.Strict, array_classes.StrictAndMeasured])
def test_a_class_that_cannot_be_a_view_of_any_array(pool: sa.Pool, kind: Any) -> None:
    for count in (0, 8, 300_000):
        for hold in (in_block, private):
            sent = array_classes.constructed(kind, hold(np.arange(count)))
            found = pool.submit(identity, sent).result()
            assert (type(found), found.tag) == (kind, "m")
            assert np.array_equal(np.asarray(found), np.asarray(sent))
            if count and hold is in_block:
                assert array_classes.is_in_block(found)
        found = pool.submit(identity, sent[::-2]).result()
        assert (type(found), found.tag) == (kind, "m")
        assert np.array_equal(np.asarray(found), np.asarray(sent)[::-2])


@pytest.mark.parametrize("kind", [Measured, Nested])
def test_no_copy_is_made_of_large_memory(kind: Any) -> None:
    sent = tagged(kind, sa.share(np.zeros(1 << 20)))
    pickler.loads(pickler.dumps(sent).stream)
    tracemalloc.start()
    try:
        found = pickler.loads(pickler.dumps(sent).stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (type(found), found.tag) == (kind, "m")
    assert peak < sent.nbytes // 10


def test_an_attribute_that_leads_back_to_its_array(pool: sa.Pool) -> None:
    sent = tagged(Tagged, sa.share(np.arange(8)))
    sent.tag = [sent]
    found = pool.submit(identity, sent).result()
    assert found.tag[0] is found


def test_an_attribute_that_views_the_memory_stays_a_view(pool: sa.Pool) -> None:
    """So the instance has memory of its own."""
    found = pool.submit(identity, tagged(Halved, sa.share(np.arange(8)))).result()
    np.asarray(found)[...] = 7
    assert found.half.tolist() == [7] * 4


def test_two_masked_arrays_that_share_their_mask_still_do(pool: sa.Pool) -> None:
    one = masked(sa.share(np.arange(8.0)), np.arange(8) > 3)
    found = pool.submit(identity, [one, one[:4], one]).result()
    assert found[0] is found[2]
    assert found[1].mask.tolist() == [False] * 4


def test_the_masked_constant_stays_the_constant(pool: sa.Pool) -> None:
    assert pool.submit(identity, [np.ma.masked]).result()[0] is np.ma.masked


def test_a_read_only_block_stays_read_only(pool: sa.Pool) -> None:
    data = sa.share(np.arange(8.0))
    data.flags.writeable = False
    for sent in (masked(data, np.arange(8) > 3), tagged(Tagged, data)):
        assert not np.asarray(pool.submit(identity, sent).result()).flags.writeable
    assert pool.submit(pool_tasks.writable, masked(np.arange(8.0), False)).result() == [True]


def test_a_reducer_that_the_program_has_registered_counts(pool: sa.Pool) -> None:
    sent = tagged(Tagged, sa.share(np.arange(8)))
    copyreg.pickle(Tagged, lambda value: (array_classes.rebuilt, (np.asarray(value), "registered")))
    try:
        found = pool.submit(identity, sent).result()
    finally:
        del copyreg.dispatch_table[Tagged]
    assert (type(found), found.tag) == (array_classes.Rebuilt, "registered")


def test_a_masked_array_does_not_hold_the_block_of_another(pool: sa.Pool) -> None:
    """`numpy.ma` copies what an array remembers into each result, whose memory is its own."""
    data = sa.share(np.arange(8.0))
    name = data.name
    assert pool.submit(np.sum, data).result() == 28
    derived = masked(data, np.arange(8) > 3) + 1
    assert pool.submit(np.ma.sum, derived).result() == 10
    del data
    gc.collect()
    wait_until(lambda: not sa.exists(name), "the block is gone")
    assert derived.sum() == 10


@pytest.mark.slow  # astropy is loaded in each worker
def test_quantities(pool: sa.Pool) -> None:
    units = pytest.importorskip("astropy.units")
    utils = pytest.importorskip("astropy.utils.masked")
    for hold in (in_block, private):
        sent = units.Quantity(hold(np.arange(8.0)), "m", copy=False)
        found = pool.submit(identity, sent).result()
        assert (type(found), found.unit, found.sum()) == (units.Quantity, units.m, 28 * units.m)
        assert (mapping_of(found) is None) == (hold is private)
        hidden = utils.Masked(sent, mask=np.arange(8) > 3)
        found = pool.submit(identity, hidden).result()
        assert (type(found), found.unit, found.mask.tolist()) == (type(hidden), units.m, hidden.mask.tolist())
        with pytest.raises(sa.MaskedArrayError, match="mask would be lost"):
            sa.share(hidden)
    quantity = units.Quantity(np.arange(8.0), "m")
    with pytest.raises(TypeError, match=r"negative returned a Quantity.*numpy\.asarray"):
        pool.map_blocks(np.negative, quantity, block_size=4)
    out = units.Quantity(sa.zeros(8), "km", copy=False)
    assert pool.map_blocks(np.negative, quantity, block_size=4, out=out) is out
    assert out.to_value("m").tolist() == (-quantity.value).tolist()


# -- blocks of masked arrays ----------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [in_block, private])
def test_blocks_of_a_masked_array_have_their_masks(pool: sa.Pool, hold: Any) -> None:
    data = masked(hold(np.arange(8.0)), np.arange(8) > 3)
    expected = [0.0, 1, 2, 3, -1, -1, -1, -1]

    def filled(block: Any) -> Any:
        return block.filled(-1)

    assert pool.map_blocks(filled, data, block_size=3).tolist() == expected
    assert pool.map_blocks(filled, data, block_size=3, overlap=1).tolist() == expected
    for out in (sa.zeros(8), np.zeros(8)):
        assert pool.map_blocks(filled, data, block_size=3, out=out) is out
        assert out.tolist() == expected
    assert pool.reduce_blocks(np.ma.count, np.add, data, block_size=3) == 4
    for out in (None, sa.zeros(8), np.zeros(8)):
        with pytest.raises(sa.MaskedArrayError, match=r"negative returns.*masked array.*filled"):
            pool.map_blocks(np.negative, data, block_size=3, out=out)
    with pytest.raises(sa.MaskedArrayError, match="cut into blocks"):
        pool.map_blocks(np.negative, [data, data])  # type: ignore[list-item]
    with pytest.raises(sa.MaskedArrayError, match="put blocks together"):
        pool.map_blocks(lambda block: [block], data, block_size=8, axis=0)


def test_blocks_of_matrices_and_of_other_classes(pool: sa.Pool) -> None:
    matrix = sa.share(np.arange(12.0).reshape(6, 2)).view(np.matrix)
    sums = pool.map_blocks(lambda block: block.sum(axis=1), matrix, block_size=2)
    assert type(sums) is np.matrix
    assert sums.tolist() == [[1], [5], [9], [13], [17], [21]]  # a column, as of a matrix
    with pytest.raises(TypeError, match="negative returned a Tagged, of which only the elements"):
        pool.map_blocks(np.negative, tagged(Tagged, np.arange(8)))
    assert pool.map_blocks(np.asarray, tagged(Tagged, np.arange(8))).tolist() == list(range(8))


# -- numbers --------------------------------------------------------------------------------------------

NUMBERS = [2.0, 3, True, 2j, -1, np.float32(2), np.float64(2), np.int8(2)]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            made = call()
    except Exception as error:
        return type(error)
    return made.dtype, made.tolist()


@pytest.mark.parametrize("code", ["u1", "f2", "f4", "c8", "i8"])
def test_numbers_promote_as_in_numpy(pool: sa.Pool, code: str) -> None:
    data = sa.share(np.arange(1, 5).astype(code))
    for function in (np.add, np.multiply):
        for number in NUMBERS if code == "f2" else [*NUMBERS, 2**40]:  # which is infinite there
            expected = outcome(lambda: function(data, number))  # noqa: B023
            assert outcome(lambda: pool.map_blocks(function, data, number)) == expected  # noqa: B023
    assert pool.map_blocks(lambda x, y: y - x, data, 9).dtype == (9 - np.asarray(data)).dtype
    without_axes = np.array(2.0)
    assert pool.map_blocks(np.add, data, without_axes).dtype == (np.asarray(data) + without_axes).dtype


def test_a_function_gets_single_values_as_they_were_given(pool: sa.Pool) -> None:
    def kinds(block: Any, *values: Any) -> Any:
        return [f"{type(value).__name__} {value}" for value in values]

    given = (2, 2.5, True, 1j, np.float32(3), "text", b"bytes", None)
    found = pool.reduce_blocks(kinds, lambda one, _: one, np.zeros(4), *given)
    assert found == kinds(None, *given)


def test_numbers_and_outputs(pool: sa.Pool) -> None:
    bytes_ = sa.ones(40, "u1")
    assert pool.map_blocks(np.add, bytes_, 3, out=bytes_, block_size=8) is bytes_
    assert bytes_.tolist() == [4] * 40
    out = np.zeros(40, "u1")
    assert pool.map_blocks(np.subtract, 9, bytes_, out=out, block_size=8).tolist() == [5] * 40
    assert pool.map_blocks(np.multiply, [2.0] * 4, np.ones(4, "f4")).dtype == np.float64  # a list is an array
    with pytest.raises(ValueError, match="axis 0 is not one of the arrays"):
        pool.map_blocks(np.add, 1, 2.0)


# -- dtypes ---------------------------------------------------------------------------------------------

ENUM = np.dtype("i4", metadata={"enum": {"RED": 0}})
DTYPES = {
    "metadata": ENUM,
    "metadata of a field": np.dtype([("a", ENUM), ("b", "f8")]),
    "aligned": np.dtype([("a", "i1"), ("b", "f8")], align=True),
    "titles": np.dtype([(("the title", "a"), "i4"), ("b", "f8")]),
    "offsets": np.dtype({"names": ["x", "y"], "formats": ["u1", "f4"], "offsets": [8, 0], "itemsize": 16}),
    "nested": np.dtype([("a", [("b", ">i2", (2, 3))], (2,))]),
    "record": np.dtype((np.record, [("a", "i4")])),
    "units": np.dtype("M8[25s]"),
    "big-endian": np.dtype(">f4"),
}


def of_dtype(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    told = dict(dtype.metadata or {})  # NumPy 1 gives dates an empty one
    fields = [of_dtype(dtype[name]) for name in dtype.names or ()]
    return str(dtype), dtype.type, told, dtype.isalignedstruct, fields


def dtype_there(value: Any) -> tuple[Any, ...]:
    return of_dtype(value.dtype)


@pytest.mark.parametrize("size", [10, OUT_OF_BAND])
@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_is_the_same_for_every_size_and_memory(pool: sa.Pool, name: str, size: int) -> None:
    data = np.zeros(size, DTYPES[name])
    # A block cannot hold an array that the NPY format cannot describe.
    sent = [data] if name in ("titles", "offsets") else [data, sa.share(data), sa.zeros(size, DTYPES[name])]
    for each in sent:
        assert of_dtype(each.dtype) == of_dtype(data.dtype)
        for value in (each, each[::-1]):
            assert pool.submit(dtype_there, value).result() == of_dtype(data.dtype)
            found = pool.submit(identity, [value]).result()[0]
            assert of_dtype(found.dtype) == of_dtype(data.dtype)
            assert of_dtype(pool.submit(np.copy, value).result().dtype) == of_dtype(data.dtype)
    result = pool.map_blocks(identity, data, block_size=size // 2)
    assert of_dtype(result.dtype) == of_dtype(data.dtype)
    held = sa.put([data])
    assert of_dtype(sa.get(held)[0].dtype) == of_dtype(data.dtype)


def test_enums_of_h5py(pool: sa.Pool) -> None:
    h5py = pytest.importorskip("h5py")
    for dtype in (h5py.enum_dtype({"RED": 0, "BLUE": 1}, "i1"), h5py.string_dtype()):
        for size in (10, OUT_OF_BAND):
            data = np.zeros(size, dtype)
            found = pool.submit(identity, data).result().dtype
            assert h5py.check_enum_dtype(found) == h5py.check_enum_dtype(dtype)
            assert h5py.check_string_dtype(found) == h5py.check_string_dtype(dtype)


EXTENSIONS = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "float4_e2m1fn"]


@pytest.mark.parametrize("size", [3, OUT_OF_BAND])
@pytest.mark.parametrize("name", EXTENSIONS)
def test_dtypes_of_ml_dtypes(pool: sa.Pool, name: str, size: int) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if not hasattr(ml_dtypes, name):
        pytest.skip(f"this ml_dtypes has no {name}")
    dtype = np.dtype(getattr(ml_dtypes, name))
    data = np.ones(size).astype(dtype)
    # Bytes of a block may be looked at in any type, and are then sent as that.
    viewed = sa.share(data.view("u1")).view(dtype)
    for sent in (data, data[::-1], viewed, viewed[1:]):
        for function in (np.copy, identity, lambda value: value):
            found = pool.submit(function, sent).result()
            assert (found.dtype, found.shape) == (dtype, sent.shape)
            assert found.tobytes() == sent.tobytes()
    held = sa.put(data)
    assert sa.get(held).dtype == dtype
    assert pool.submit(identity, data[0]).result() == data[0]
    assert type(pool.submit(identity, data[0]).result()) is type(data[0])
    assert pool.map_blocks(np.copy, data, block_size=2 if size == 3 else None).tobytes() == data.tobytes()
    out = np.zeros_like(data)
    assert pool.map_blocks(np.copy, viewed, out=out).tobytes() == data.tobytes()
    for refused in (
        lambda: sa.share(data),
        lambda: sa.empty(3, dtype),
        lambda: sa.full(3, data[0]),
        lambda: sa.zeros_like(data),
    ):
        with pytest.raises(sa.UnsupportedDTypeError, match="dtype of another package"):
            refused()


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="this NumPy has no StringDType")
def test_strings_of_any_length(pool: sa.Pool) -> None:
    dtype = np.dtypes.StringDType(na_object=None)
    for size in (3, OUT_OF_BAND // 8):
        data = np.array(["größe" * 9, None, ""] * (size // 3), dtype)
        for sent in (data, data[::2]):
            found = pool.submit(identity, sent).result()
            assert (found.dtype, found.tolist()) == (dtype, sent.tolist())
        assert pool.map_blocks(identity, data).tolist() == data.tolist()
    with pytest.raises(sa.UnsupportedDTypeError, match="cannot be shared"):
        sa.share(data)


def test_workers_do_not_load_masked_arrays_for_others() -> None:
    """NumPy 2 does not load them before they are used, and neither does this package."""
    program = (
        "import sys, numpy; before = 'numpy.ma' in sys.modules\n"
        "import sharedarray._pool, sharedarray._objects; print(('numpy.ma' in sys.modules) and not before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
