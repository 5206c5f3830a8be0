"""The creation functions give what NumPy's give, in a block, with nothing lost on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import blocks_are_files

import sharedarray as sa
from sharedarray import _filling as filling, _header as header, _segment as segment

DTYPES = [
    "?",
    "i1",
    "u2",
    "<i4",
    ">i4",
    "<f2",
    ">f8",
    "g",
    "<c8",
    ">c16",
    "S7",
    "<U5",
    ">U5",
    "V9",
    "<M8[ns]",
    ">M8[D]",
    "<m8[25s]",
    "M8",
    [("x", "<i2"), ("y", ">f8")],
    np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [3, 16], "itemsize": 40}),
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    [("p", [("q", "<U3"), ("r", "?", (2, 2))]), ("t", "<M8[us]")],
    [("größe", "f4"), ("名", "i8")],
]
SHAPES: list[Any] = [(), 0, 5, (3, 4), (2, 0, 3), (2, 3, 4), (1,) * 20]


def content(shape: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array whose bytes are a pattern, so that what is misplaced shows."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int))
    data = np.resize(np.arange(1, 8, dtype=np.uint8), count * dtype.itemsize)
    if dtype.kind in "?fcgU" or dtype.names:
        data[:] = 0
        data[:: max(1, dtype.itemsize)] = 1
    return data.view(dtype).reshape(shape)


def same(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.dtype.str == theirs.dtype.str
    assert ours.dtype.fields == theirs.dtype.fields
    assert ours.shape == theirs.shape
    assert ours.flags.f_contiguous == theirs.flags.f_contiguous
    assert ours.flags.c_contiguous == theirs.flags.c_contiguous
    assert ours.tobytes("A") == theirs.tobytes("A")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_share_keeps_every_dtype_in_full(dtype: Any, order: Any) -> None:
    for shape in SHAPES:
        original = np.asarray(content(shape, dtype), order=order)
        with sa.share(original, name="full") as made, sa.attach("full") as attached:
            same(made, original)
            same(attached, original)
            assert (attached.dtype.byteorder, attached.dtype.str) == (
                original.dtype.byteorder,
                original.dtype.str,
            )


@pytest.mark.parametrize("dtype", ["S0", "U0", "V0"])
def test_elements_without_bytes(dtype: str) -> None:
    with sa.zeros((2, 3), np.dtype(dtype)) as made, sa.attach(str(made.name)) as attached:
        assert attached.shape == (2, 3)
        assert attached.dtype.itemsize == made.dtype.itemsize


@pytest.mark.parametrize(
    "dtype", [object, [("x", "i4"), ("y", object)], np.dtype((object, (2,)))], ids=["O", "field", "sub-array"]
)
def test_objects_are_refused_with_what_to_do(dtype: Any) -> None:
    for make in (
        lambda: sa.empty(3, dtype),
        lambda: sa.zeros(3, dtype),
        lambda: sa.share(np.empty(3, dtype)),
        lambda: sa.empty_like(np.empty(3, dtype)),
    ):
        with pytest.raises(TypeError, match="Next step") as caught:
            make()
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, sa.UnsupportedDTypeError)
    with pytest.raises(sa.UnsupportedDTypeError):
        sa.share(["a", None])
    assert sa.blocks() == []


def test_dtypes_that_npy_cannot_describe_are_refused() -> None:
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})
    with pytest.raises(sa.UnsupportedDTypeError, match="NPY"):
        sa.zeros(3, overlapping)


def test_sub_array_dtypes_become_axes_as_numpy_has_it() -> None:
    with sa.zeros((2,), np.dtype(("i4", (3,)))) as made:
        assert made.shape == np.zeros((2,), np.dtype(("i4", (3,)))).shape
        assert made.dtype == "i4"
    nested = np.dtype((np.dtype(("i4", (2,))), (3,)))
    like = np.arange(2, dtype="f8")
    for sub_array in (np.dtype(("i4", (3,))), nested):
        for ours, theirs, arguments in (
            (sa.ones, np.ones, (4,)),
            (sa.full, np.full, ((2, 1), 7)),
            (sa.full, np.full, (2, 0)),
            (sa.ones_like, np.ones_like, (like,)),
            (sa.full_like, np.full_like, (like, 7)),
            (sa.zeros_like, np.zeros_like, (like,)),
            (sa.share, np.array, ([1, 2],)),
            (sa.share, np.array, (like,)),
            (sa.array, np.array, ([1, 2],)),
            (sa.asarray, np.asarray, (like,)),
        ):
            with ours(*arguments, dtype=sub_array) as made:
                same(made, theirs(*arguments, dtype=sub_array))
    with sa.full(2, [1, 2, 3], ("i4", (3,))) as made, sa.asarray(made, ("i4", (2,))) as other:
        same(made, np.full(2, [1, 2, 3], ("i4", (3,))))
        same(other, np.array(made.tolist(), ("i4", (2,))))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_filling_functions_equal_numpys(shape: Any, order: Any) -> None:
    cases = [
        (sa.zeros, np.zeros, (shape,), {"dtype": "i4"}),
        (sa.zeros, np.zeros, (shape,), {}),
        (sa.ones, np.ones, (shape,), {"dtype": ">f4"}),
        (sa.ones, np.ones, (shape,), {}),
        (sa.full, np.full, (shape, 7), {}),
        (sa.full, np.full, (shape, 2.5), {"dtype": "c8"}),
        (sa.full, np.full, (shape, "text"), {}),
        (sa.full, np.full, (shape, np.datetime64("2026-11-22T10", "h")), {}),
        (sa.full, np.full, (shape, np.nan), {}),
        (sa.full, np.full, (shape, True), {}),
    ]
    for ours, theirs, args, kwargs in cases:
        with ours(*args, order=order, **kwargs) as made:
            same(made, theirs(*args, order=order, **kwargs))
    with sa.empty(shape, "u1", order) as made:
        same(made, np.zeros(shape, "u1", order))


def test_full_broadcasts() -> None:
    with sa.full((3, 2), [1, 2]) as a, sa.full((2, 3), [[1], [2]], "f4", order="F") as b:
        same(a, np.full((3, 2), [1, 2]))
        same(b, np.full((2, 3), [[1], [2]], "f4", order="F"))
    with pytest.raises(ValueError, match="broadcast"):
        sa.full((3, 2), [1, 2, 3])
    assert sa.blocks() == []


def test_full_of_many_pieces() -> None:
    count = filling._PIECE // 8 * 3 + 17
    with sa.full(count, 1.5) as made:
        assert made.shape == (count,)
        assert (made == 1.5).all()


@pytest.mark.parametrize("order", ["K", "A", "C", "F"])
def test_like_functions_equal_numpys(order: Any) -> None:
    prototypes = [
        np.zeros((2, 3), "i2"),
        np.asfortranarray(np.zeros((2, 3), "i2")),
        np.zeros((2, 3, 4)).transpose(2, 1, 0),
        np.zeros(4)[::-1],
        [[1, 2], [3, 4]],
        5,
    ]
    for prototype in prototypes:
        for ours, theirs, args in (
            (sa.zeros_like, np.zeros_like, ()),
            (sa.ones_like, np.ones_like, ()),
            (sa.full_like, np.full_like, (3,)),
        ):
            with ours(prototype, *args, order=order) as made:
                same(made, theirs(prototype, *args, order=order))
            with ours(prototype, *args, dtype="f4", order=order, shape=(3, 2)) as made:
                assert made.dtype == "f4"
                assert made.shape == (3, 2)
        with sa.empty_like(prototype, order=order) as made:
            assert made.shape == np.shape(prototype)
    with sa.zeros(3) as one, sa.empty_like(one, name="like") as other:
        assert other.name == "like"


@pytest.mark.parametrize("order", ["K", "A", "C", "F"])
@pytest.mark.parametrize("dtype", [None, "f4", ">i8", "U8", str])
def test_share_equals_numpy_array(order: Any, dtype: Any) -> None:
    base = np.arange(210, dtype="i4").reshape(5, 6, 7)
    sources = [
        base,
        base.T,
        base[::2, 1:-1, ::-1],
        np.asfortranarray(base[0]),
        base[0, 0, 0],
        base[:0],
        [[1, 2], [3, 4]],
        range(5),
        np.ma.masked_array([1, 2, 3]),
    ]
    for source in sources:
        with sa.share(source, dtype, order) as made:
            expected = np.array(source, dtype, order=order)
            assert made.dtype == expected.dtype
            assert made.dtype.str == expected.dtype.str
            np.testing.assert_array_equal(made, expected)
            if order in "CF" and expected.ndim > 1:
                assert made.flags.f_contiguous == expected.flags.f_contiguous


def test_share_converts_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "_PIECE", 64)
    base = np.random.default_rng(0).normal(size=(7, 11, 5))
    for source in (base, base.T, base[::-1, ::2], base[:, :, 0]):
        for order in ("C", "F"):
            with sa.share(source, "f4", order) as made:
                np.testing.assert_array_equal(made, source.astype("f4"))
                assert made.flags.c_contiguous == (order == "C")


def test_share_is_a_copy() -> None:
    original = np.zeros(3)
    with sa.share(original) as made:
        original[0] = 1
        assert made[0] == 0
        with sa.share(made) as again:
            made[1] = 2
            assert again[1] == 0
            assert again.name != made.name


def test_names() -> None:
    with sa.zeros(3) as a, sa.zeros(3) as b:
        assert a.name != b.name
    with sa.zeros(3, name="taken"):
        for make in (lambda: sa.zeros(3, name="taken"), lambda: sa.share([1], name="taken")):
            with pytest.raises(sa.BlockExistsError, match=r"taken.*attach") as caught:
                make()
            assert isinstance(caught.value, FileExistsError)
            assert caught.value.name == "taken"
        assert [block.name for block in sa.blocks()] == ["taken"]
    with sa.zeros(3, name="Größe 名 $(x)"), sa.attach("Größe 名 $(x)") as attached:
        assert attached.shape == (3,)


@pytest.mark.parametrize("persist", [False, True])
def test_a_name_of_chance_that_is_taken_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch, persist: bool
) -> None:
    drawn = iter(["first", "first", "second"])
    monkeypatch.setattr(segment.making, "random_name", lambda: next(drawn))
    with sa.full(3, 1, persist=persist) as one, sa.full(3, 2, persist=persist) as two:
        assert (one.name, two.name) == ("first", "second")
        assert (sa.attach("first")[0], sa.attach("second")[0]) == (1, 2)
        if persist:
            one.unlink()
            two.unlink()
    monkeypatch.setattr(segment.making, "random_name", lambda: "first")
    with sa.full(3, 1), pytest.raises(sa.BlockExistsError, match="'first' is taken"):
        sa.full(3, 2)


@pytest.mark.parametrize("shape", [-1, (2, -3), (1 << 62, 4), (1 << 40, 1 << 40), (1,) * 70])
def test_impossible_shapes(shape: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (NumPy's own words differ with its version)
        sa.zeros(shape)
    assert sa.blocks() == []


@pytest.mark.parametrize("shape", [2.5, "3", (2, 2.5), None])
def test_shapes_that_are_no_ints(shape: Any) -> None:
    with pytest.raises(TypeError):
        sa.zeros(shape)


@pytest.mark.parametrize("order", ["X", "K", ""])
def test_unknown_orders(order: Any) -> None:
    with pytest.raises(ValueError, match="order"):
        sa.zeros(3, order=order)


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError):
        sa.zeros(3, nmae="x")  # type: ignore[call-arg]


def test_headers_longer_than_a_page() -> None:
    dtype = np.dtype([(f"field_{i:04}", "<f8") for i in range(500)])
    with sa.zeros(3, dtype, name="wide") as made, sa.attach("wide") as attached:
        made["field_0499"] = 5
        assert attached.dtype == dtype
        assert attached["field_0499"].tolist() == [5, 5, 5]
        assert attached.ctypes.data % header.PAGE == 0
        block = next(block for block in sa.blocks() if block.name == "wide")
        assert block.dtype == dtype
        if blocks_are_files():
            loaded = np.load(block.path, mmap_mode="r", max_header_size=100_000)
            assert loaded["field_0499"].tolist() == [5, 5, 5]
