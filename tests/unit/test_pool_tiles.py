"""Tiles, halos, broadcasting and outputs of `map_blocks`, exact against the serial call; how all is cut."""

from __future__ import annotations

import functools
import itertools
import time

import numpy as np
import pool_tasks
import pytest

import sharedarray as sa
from sharedarray._executor.numeric import tiling
from sharedarray._executor.numeric.tiling import Tiling

RNG = np.random.default_rng(11)


# How arrays are cut, without a pool


def covered(tiling: Tiling, shape: tuple[int, ...]) -> np.ndarray:
    """Return how often each element is the target of a block."""
    count = np.zeros(shape, int)
    for block in tiling:
        tiling.target(count, block)[...] += 1
    return count


@pytest.mark.parametrize("length", [0, 1, 5, 100, 10_000])
@pytest.mark.parametrize("block_size", [None, 1, 3, 20_000])
@pytest.mark.parametrize("overlap", [0, 2])
def test_blocks_cover_everything_once(length, block_size, overlap):
    array = np.empty((length, 64))
    tiling = Tiling.of([array], 0, block_size, overlap, workers=4)
    assert (covered(tiling, array.shape) == 1).all()
    assert [span.start for (span,) in tiling] == list(range(0, max(length, 1), tiling.sizes[0]))
    for (span,) in tiling:
        assert span.low == max(0, span.start - overlap)
        assert span.high == min(length, span.stop + overlap)


@pytest.mark.parametrize("axis", [(0, 1), (1, 0), (-1, 0), (0, -2), (2, 1, 0), [1, 2]])
def test_tiles_cover_everything_once(axis):
    array = np.empty((7, 11, 5))
    for sizes in (None, 2, tuple(range(1, len(axis) + 1)), (None, *(3,) * (len(axis) - 1))):
        tiling = Tiling.of([array], axis, sizes, workers=3)
        assert (covered(tiling, array.shape) == 1).all()
        assert len(list(tiling)) == len(tiling)


def test_blocks_are_enough_for_the_workers_and_fit_the_cache():
    for workers in (1, 2, 7):
        small = Tiling.of([np.empty(20)], 0, workers=workers)
        assert len(small) == workers
        middle = Tiling.of([np.empty(1 << 17)], 0, workers=workers)
        assert len(middle) == 8 * workers
        huge = np.broadcast_to(np.float64(0), (1 << 12, 1 << 20))  # 32 GiB, of which there are 8 bytes
        tiling = Tiling.of([huge], 0, workers=workers)
        assert tiling.sizes[0] * huge.nbytes // len(huge) <= 8 << 20
        tiles = Tiling.of([huge], (0, 1), workers=workers)
        assert np.prod(tiles.sizes) * 8 <= 8 << 20
        assert tiles.sizes[1] <= 4 * tiles.sizes[0] <= 16 * tiles.sizes[1]  # about square


@pytest.mark.parametrize(
    ("cache", "workers", "expected"), [(1, 2, 16), (2048, 2, 512), (2048, 4, 256), (1 << 20, 2, 8192)]
)
def test_all_workers_blocks_fit_the_cache_together(monkeypatch, cache, workers, expected):
    """In KiB: the cache, and a block of a far larger input. Half of the cache is for what is made."""
    monkeypatch.setattr(tiling, "outer_cache", lambda: cache << 10)
    huge = np.broadcast_to(np.uint8(0), 1 << 36)
    (size,) = Tiling.of([huge], 0, workers=workers).sizes
    assert expected / 1.01 < size / 1024 <= expected


def test_the_cache_is_as_large_as_the_kernel_says(monkeypatch, tmp_path):
    for entry, size in {"index0": "32K", "index3": "33M", "uevent": None}.items():
        (tmp_path / entry).mkdir()
        if size:
            (tmp_path / entry / "size").write_text(f"{size}\n")
    monkeypatch.setattr(tiling, "_CACHES", str(tmp_path))
    assert tiling.outer_cache.__wrapped__() == 33 << 20
    monkeypatch.setattr(tiling, "_CACHES", str(tmp_path / "none"))
    assert tiling.outer_cache.__wrapped__() == 16 << 20


def test_a_halo_does_not_outgrow_its_block():
    tiling = Tiling.of([np.empty(1 << 20)], 0, overlap=1 << 16, workers=2)
    assert tiling.sizes[0] >= 4 << 16
    tiling = Tiling.of([np.empty((1 << 10, 1 << 10))], (0, 1), overlap=(100, 1), workers=8)
    assert tiling.sizes[0] >= 200


def test_what_has_length_1_or_fewer_axes_goes_whole():
    arrays = [np.empty((6, 4)), np.empty((1, 4)), np.empty(()), np.empty(6), np.empty((6, 1))]
    tiling = Tiling.of(arrays, 0, 2)
    shapes = [tiling.cut(array, tiling[1]).shape for array in arrays]
    assert shapes == [(2, 4), (1, 4), (), (2,), (2, 1)]
    assert [tiling.is_cut(array) for array in arrays] == [True, False, False, True, True]
    last = Tiling.of([np.empty((3, 6, 4)), np.empty(4), np.empty((6, 4))], -1, 3)
    assert [last.cut(array, last[1]).shape for array in (np.empty((3, 6, 4)), np.empty(4))] == [
        (3, 6, 1),
        (1,),
    ]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ([], {}, "at least one array"),
        ([(4, 6)], {"axis": 2}, r"axis 2 .* \(4, 6\)"),
        ([()], {"axis": 0}, "axis 0"),
        ([(4, 6), (5, 6)], {"axis": 0}, r"one length along axis 0.*\(4, 6\), \(5, 6\).*partial"),
        ([(4, 6)], {"axis": (0, -2)}, "twice"),
        ([(4, 6)], {"axis": ()}, "at least one axis"),
        ([(4, 6)], {"axis": (0, 1), "overlap": (1, 1, 1)}, "one for each of 2 axes"),
        ([(4, 6)], {"axis": (0, 1), "block_size": (1,)}, "one for each of 2 axes"),
        ([(4, 6)], {"axis": 0, "overlap": -1}, "overlap must be 0 or more"),
        ([(4, 6)], {"axis": (0, 1), "block_size": (2, 0)}, "block_size must be 1 or more"),
    ],
)
def test_what_cannot_be_cut(pool, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        pool.map_blocks(np.add, *[np.zeros(shape) for shape in arrays], **options)


@pytest.mark.parametrize("options", [{"axis": 0.5}, {"axis": "0"}, {"block_size": 2.0}, {"overlap": "1"}])
def test_what_is_no_number(pool, options):
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be an integer"):
        pool.map_blocks(np.sin, np.ones(4), **options)


# Tiles and halos, in workers


def blur(image):
    """Mean of the four neighbours in two dimensions, edges repeated."""
    padded = np.pad(image, 1, mode="edge")
    return (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4


def wide_blur(image, down, across):
    """Sum over a window that reaches so far; what lies outside counts as nothing."""
    padded = np.pad(image, ((down, down), (across, across)))
    rows, columns = image.shape
    return sum(
        padded[y : y + rows, x : x + columns] for y in range(2 * down + 1) for x in range(2 * across + 1)
    )


@pytest.mark.parametrize("block_size", [None, 1, 7, (3, 16), (None, 5), 100])
def test_a_stencil_over_tiles(pool, block_size):
    image = RNG.random((40, 33))
    result = pool.map_blocks(blur, image, axis=(0, 1), block_size=block_size, overlap=1)
    assert np.array_equal(result, blur(image))
    assert isinstance(result, sa.SharedArray)


def test_each_axis_has_its_own_halo(pool):
    image = RNG.integers(0, 100, (30, 41))
    func = functools.partial(wide_blur, down=3, across=1)
    for given in (image, sa.share(image)):
        result = pool.map_blocks(func, given, axis=(0, 1), block_size=(8, 10), overlap=(3, 1))
        assert np.array_equal(result, func(image))
        assert np.array_equal(pool.map_blocks(func, given, axis=0, block_size=4, overlap=3), func(image))
        assert np.array_equal(pool.map_blocks(func, given, axis=-1, block_size=4, overlap=1), func(image))


def test_a_stencil_in_place(pool):
    image = RNG.random((50, 20))
    for given in (image.copy(), sa.share(image)):
        assert pool.map_blocks(blur, given, out=given, axis=(0, 1), block_size=6, overlap=1) is given
        assert np.array_equal(given, blur(image))


def test_tiles_of_some_axes_only(pool):
    cube = RNG.random((6, 9, 8))
    result = pool.map_blocks(lambda x: x.cumsum(axis=1), cube, axis=(0, 2), block_size=(4, 3))
    assert np.array_equal(result, cube.cumsum(axis=1))
    # The axis between them is summed away, so that the last one is to be named from the end.
    result = pool.map_blocks(lambda x: x.sum(axis=1), cube, axis=(0, -1), block_size=(4, 3))
    assert np.array_equal(result, cube.sum(axis=1))


# Broadcasting


def test_ufuncs_broadcast(pool):
    table, row, column = RNG.random((30, 7)), RNG.random((1, 7)), RNG.random((30, 1))
    for given in itertools.product(
        (table, sa.share(table)), (row, sa.share(row)), (column, sa.share(column))
    ):
        assert np.array_equal(pool.map_blocks(np.add, given[0], given[1], block_size=4), table + row)
        assert np.array_equal(pool.map_blocks(np.add, given[1], given[2], block_size=4), row + column)
    assert np.array_equal(pool.map_blocks(np.multiply, table, 2.5), table * 2.5)
    assert np.array_equal(pool.map_blocks(np.add, table, row[0], axis=-1, block_size=2), table + row[0])
    out = sa.zeros((30, 7))
    pool.map_blocks(np.add, row, column, out=out, axis=(0, 1), block_size=3)
    assert np.array_equal(out, row + column)


def test_what_goes_whole_to_every_block_is_copied_once(pool):
    rows, table = np.ones((64, 4)), np.ones((1, 1 << 16))
    pool.map_blocks(lambda rows, table: rows + table.sum(), rows, table, block_size=8, out=np.empty((64, 4)))
    report = pool.copy_report()
    copied = {row.argument: row.copied for row in report.rows if row.argument.isdigit()}
    assert sum(copied.values()) == table.nbytes


# Outputs


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_output(pool, order):
    a = RNG.random((40, 12))
    outs = [
        sa.empty((40, 12), order=order),
        np.empty((40, 12), order=order),
        sa.zeros((80, 24))[::-2, ::2],
        np.zeros((12, 40)).T,
        sa.empty((40, 12), "f4", order=order),
        sa.empty((40, 12), "c16"),
    ]
    for func in (np.cos, functools.partial(np.cos)):
        for out in outs:
            out[...] = 0
            assert pool.map_blocks(func, a, out=out, axis=(0, 1), block_size=(7, 5)) is out
            assert np.array_equal(out, np.cos(a).astype(out.dtype))


def test_a_ufunc_makes_what_it_makes_serially(pool):
    for func, dtype in itertools.product((np.sqrt, np.negative, np.isfinite), ("i1", "f2", "f4", "f8", "c8")):
        a = RNG.integers(1, 100, 60).astype(dtype)
        result = pool.map_blocks(func, a, block_size=7)
        assert result.dtype == func(a).dtype
        assert np.array_equal(result, func(a))
    a, b = RNG.integers(1, 100, (2, 60))
    assert np.array_equal(pool.map_blocks(np.divide, a, b, block_size=7), a / b)
    with pytest.raises(TypeError, match="cast"):
        pool.map_blocks(np.divide, a, b, out=sa.zeros(60, int))
    with pytest.raises(ValueError, match="divmod returned"):
        pool.map_blocks(np.divmod, a, b, block_size=7)


def test_an_output_that_overlaps_in_every_way(pool):
    plain = RNG.random(1000)
    for shift in (-1, 1, 300):
        for make in (np.copy, sa.share):
            base = make(plain)
            low, high = (base[:-shift], base[shift:]) if shift > 0 else (base[-shift:], base[:shift])
            expected = -np.array(low)
            pool.map_blocks(np.negative, low, out=high, block_size=10)
            assert np.array_equal(high, expected)
    for make in (np.copy, sa.share):
        base = make(plain)
        pool.map_blocks(np.negative, base[::-1], out=base, block_size=10)
        assert np.array_equal(base, -plain[::-1])
        base = make(plain)
        pool.map_blocks(np.add, base, base[:1], out=base, block_size=10)  # the first one goes to every block
        assert np.array_equal(base, plain + plain[0])


def test_python_objects(pool):
    words = np.array(["one", "two", None, 4, ("five",)] * 5, object)
    assert pool.map_blocks(lambda x: x[...], words, block_size=4).tolist() == words.tolist()
    lengths = pool.map_blocks(lambda x: np.array([len(str(w)) for w in x]), words, block_size=4)
    assert isinstance(lengths, sa.SharedArray)
    assert lengths.tolist() == [len(str(word)) for word in words]
    out = np.empty(25, object)
    assert pool.map_blocks(lambda x: np.array([str(i) for i in x], object), np.arange(25), out=out) is out
    assert out.tolist() == [str(i) for i in range(25)]


def test_structured_and_empty(pool):
    points = np.zeros(30, [("x", "f4"), ("name", "S5")])
    points["x"] = np.arange(30)
    assert np.array_equal(pool.map_blocks(lambda p: p[...], points, block_size=4), points)
    for shape in ((0,), (0, 3), (3, 0)):
        a = np.empty(shape, "i2")
        for axis in range(len(shape)):
            result = pool.map_blocks(lambda x: x * 1.5, a, axis=axis)
            assert result.shape == shape
            assert result.dtype == np.float64
        out = np.empty(shape)
        assert pool.map_blocks(np.sqrt, a, out=out) is out


def test_blocks_of_plain_inputs_are_private_and_of_shared_ones_are_not(pool):
    def count(block):
        block += 1
        return block

    plain = np.zeros(50)
    assert pool.map_blocks(count, plain, block_size=7).tolist() == [1] * 50
    assert not plain.any()
    shared = sa.zeros(50)
    pool.map_blocks(count, shared, block_size=7)
    assert shared.tolist() == [1] * 50


def test_dtypes_that_differ_between_blocks(pool):
    def halves(block):
        return block // 2 if block[0] < 5 else block / 2

    whole = np.arange(1).dtype
    with pytest.raises(
        TypeError, match=rf"halves returned float64 for 5 to 10 .* {whole} for the first block"
    ):
        pool.map_blocks(halves, np.arange(10), block_size=5)
    with pytest.raises(TypeError, match=r"halves returned float64 for 15 to 20"):
        pool.map_blocks(halves, np.arange(-10, 20), block_size=5)
    out = np.empty(10)
    pool.map_blocks(halves, np.arange(10), block_size=5, out=out)
    assert out.tolist() == [0, 0, 1, 1, 2, 2.5, 3, 3.5, 4, 4.5]
    # Without loss is all right.
    mixed = pool.map_blocks(lambda x: x if x[0] else x.astype("f8"), np.arange(10, dtype="f4"), block_size=5)
    assert mixed.dtype == np.float64
    assert mixed.tolist() == list(range(10))


def test_masked_arrays(pool):
    data = np.ma.masked_less(np.arange(40.0), 5)
    filled = pool.map_blocks(lambda x: x.filled(-1), data, block_size=7)
    assert np.array_equal(filled, data.filled(-1))
    assert pool.reduce_blocks(np.ma.count, np.add, data, block_size=7) == 35
    with pytest.raises(TypeError, match=r"masked array.*filled"):
        pool.map_blocks(np.sqrt, data)
    with pytest.raises(TypeError, match="must not be a masked array"):
        pool.map_blocks(np.sqrt, np.ones(40), out=data)


# Time, failure, reports


@pytest.mark.slow
def test_a_call_that_takes_too_long(first_method, tmp_path):
    def slow(block):
        if block[0] == 0:
            return block
        (begun / str(block[0])).touch()
        time.sleep(600)
        raise AssertionError

    begun, meet = tmp_path / "begun", tmp_path / "meet"
    begun.mkdir()
    meet.mkdir()
    with sa.Pool(2, first_method) as pool:
        list(pool.map(pool_tasks.meet, [meet] * 2, [2] * 2))  # the workers have started
        out = sa.zeros(40)
        while not list(begun.iterdir()):  # what has not begun in time ends no worker
            with pytest.raises(TimeoutError):
                pool.map_blocks(slow, np.arange(40), block_size=10, out=out, timeout=0.3)
        assert pool.stats().running == 0
        with pytest.raises(TimeoutError):
            pool.reduce_blocks(slow, np.add, np.arange(10, 50), block_size=10, timeout=0.2)
        with pytest.raises(TimeoutError, match=r"slow was not done within 0\.2 s"):
            pool.options(timeout=0.2).map_blocks(slow, np.arange(40), block_size=10)
        assert pool.reduce_blocks(np.sum, np.add, np.arange(10), timeout=60) == 45


def test_nothing_runs_behind_an_exception(pool, tmp_path):
    def one_fails(block):
        if block[0] == 0:
            assert pool_tasks.until((tmp_path / "other").exists)
            raise pool_tasks.Plain("no")
        (tmp_path / "other").touch()
        time.sleep(0.2)
        (tmp_path / "done").touch()
        return block

    with pytest.raises(pool_tasks.Plain):
        pool.map_blocks(one_fails, np.arange(200), out=sa.zeros(200), block_size=50)
    assert (tmp_path / "done").exists()
    assert pool.stats().busy == 0


@pytest.mark.parametrize("given", [np.copy, sa.share], ids=["plain", "shared"])
def test_a_killed_worker_is_made_good_by_retries(first_method, tmp_path, given):
    def fragile(block):
        if block[0] == 30:
            pool_tasks.die_the_first_time(tmp_path / "here")
        return np.sqrt(block)

    with sa.Pool(2, first_method, retries=1) as pool:
        a = given(np.arange(100.0))
        assert np.array_equal(pool.map_blocks(fragile, a, block_size=10), np.sqrt(np.arange(100)))
        (tmp_path / "here").unlink()
        assert np.array_equal(pool.map_blocks(fragile, a, out=a, block_size=10), np.sqrt(np.arange(100)))
        (tmp_path / "here").unlink()
        b = given(np.arange(100.0))
        total = pool.reduce_blocks(lambda x: fragile(x).tolist(), list.__add__, b, block_size=10)
        assert total == np.sqrt(np.arange(100)).tolist()


def test_anything_equals_the_serial_call(pool):
    """Seeded fuzz over shapes, axes, dtypes, layouts, sizes, halos, shared or plain, with and without out."""
    rng = np.random.default_rng(2026)
    for _ in range(120):
        shape = tuple(rng.integers(1, 14, rng.integers(1, 4)))
        count = int(rng.integers(1, len(shape) + 1))
        axis = [
            int(at) - (len(shape) if rng.random() < 0.5 else 0) for at in rng.permutation(len(shape))[:count]
        ]
        dtype = rng.choice(["i4", "f8", "c8", ">f4", "u1"])
        overlap = tuple(int(n) for n in rng.integers(0, 3, count))
        sizes = [None if rng.random() < 0.3 else int(rng.integers(1, 9)) for _ in axis]

        def make(shape=shape, dtype=dtype):
            # Each axis in full or with length 1, in some order of the axes, with gaps or reversed.
            wide = tuple(2 * n for n in shape)
            base = rng.integers(0, 100, wide).astype(dtype)
            if rng.random() < 0.5:
                base = sa.share(base)
            if rng.random() < 0.3:
                base = base.copy(order="F")
            cut = [slice(None, None, 2) if rng.random() < 0.5 else slice(n - 1, None, -1) for n in shape]
            return base[tuple(cut)]

        a, b = make(), make()
        if rng.random() < 0.3:
            b = b[tuple(slice(0, 1) if rng.random() < 0.5 else slice(None) for _ in shape)]

        def func(x, y):
            return x * 3 + y

        expected = func(np.array(a), np.array(b))
        out = None
        if rng.random() < 0.5:
            out = a if rng.random() < 0.3 else rng.choice([sa.empty, np.empty])(shape, expected.dtype)
        ufunc = rng.random() < 0.3
        chosen, expected = (np.add, np.array(a) + np.array(b)) if ufunc else (func, expected)
        if out is not None and not np.can_cast(expected.dtype, out.dtype, "same_kind"):
            out = None
        result = pool.map_blocks(
            chosen, a, b, out=out, axis=axis if count > 1 else axis[0], block_size=sizes, overlap=overlap
        )
        assert np.array_equal(result, expected.astype(result.dtype)), (shape, axis, dtype, overlap, sizes)
        if out is None:
            assert result.dtype == expected.dtype
