"""map_blocks and reduce_blocks, compared with the serial call."""

from __future__ import annotations

import functools
from functools import partial

import numpy as np
import pool_tasks
import pytest

import sharedarray as sa

RNG = np.random.default_rng(7)
SHAPES = [(1,), (7,), (1000,), (13, 5), (64, 48, 3), (0,), (0, 4), (5, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elementwise_is_exact_along_every_axis(pool, shape):
    a, b = RNG.random(shape), RNG.random(shape)
    for axis in range(-len(shape), len(shape)):
        for block_size in (None, 1, 3):
            assert np.array_equal(
                pool.map_blocks(np.hypot, a, b, axis=axis, block_size=block_size), np.hypot(a, b)
            )
            if shape[0] > 100:
                break


def test_shared_inputs_and_views(pool):
    a = sa.share(RNG.random((100, 40)))
    view = a[10:90:3, ::-2]
    assert np.array_equal(pool.map_blocks(np.sqrt, view), np.sqrt(view))
    assert np.array_equal(pool.map_blocks(np.add, view, np.asarray(view)[::-1]), view + view[::-1])


@pytest.mark.parametrize("dtype", ["i2", "f4", ">f8", "c16", "bool", "datetime64[s]", "S4"])
def test_dtypes_keep_what_they_are(pool, dtype):
    a = np.zeros(50, dtype)
    result = pool.map_blocks(lambda x: x[...], a, block_size=7)
    assert result.dtype == a.dtype
    assert np.array_equal(result, a)
    assert isinstance(result, sa.SharedArray)


def test_the_result_may_have_another_dtype_and_other_axes(pool):
    a = RNG.random((50, 4, 6))
    assert np.array_equal(pool.map_blocks(lambda x: x > 0.5, a), a > 0.5)
    assert np.array_equal(pool.map_blocks(lambda x: x.sum(axis=2), a, block_size=7), a.sum(axis=2))
    assert np.array_equal(
        pool.map_blocks(lambda x: np.stack([x, -x], axis=-1), a, axis=1, block_size=1),
        np.stack([a, -a], axis=-1),
    )


def test_into_a_shared_array(pool):
    a, out = RNG.random((60, 3)), sa.zeros((60, 3))
    assert pool.map_blocks(np.exp, a, out=out, block_size=9) is out
    assert np.array_equal(out, np.exp(a))
    wide = sa.zeros((60, 6))
    pool.map_blocks(np.exp, a, out=wide[:, ::2], block_size=9)
    assert np.array_equal(wide[:, ::2], np.exp(a))
    assert not wide[:, 1::2].any()


def test_into_a_plain_array(pool):
    a, out = RNG.random((60, 3)), np.zeros((60, 3), np.float32)
    assert pool.map_blocks(np.exp, a, out=out, block_size=9) is out
    assert np.array_equal(out, np.exp(a).astype(np.float32))


def test_in_place(pool):
    plain = RNG.random(500)
    shared, expected = sa.share(plain), np.sqrt(plain)
    pool.map_blocks(np.sqrt, shared, out=shared, block_size=50)
    assert np.array_equal(shared, expected)
    pool.map_blocks(np.sqrt, plain, out=plain, block_size=50)
    assert np.array_equal(plain, expected)


def test_an_output_that_overlaps_an_input_disturbs_nothing(pool):
    plain = RNG.random(1000)
    shared = sa.share(plain)
    pool.map_blocks(np.negative, shared[:-1], out=shared[1:], block_size=10)
    assert np.array_equal(shared[1:], -plain[:-1])
    shared[...] = plain
    # The same block, mapped a second time.
    pool.map_blocks(np.negative, sa.attach(shared.name)[:-1], out=shared[1:], block_size=10)
    assert np.array_equal(shared[1:], -plain[:-1])


@pytest.mark.parametrize("block_size", [None, 1, 2, 5, 100])
def test_halo(pool, block_size):
    a = RNG.random((83, 4))
    expected = pool_tasks.box_blur(a)
    assert np.array_equal(
        pool.map_blocks(pool_tasks.box_blur, a, overlap=1, block_size=block_size)[1:-1], expected[1:-1]
    )
    shared = sa.share(a)
    pool.map_blocks(pool_tasks.box_blur, shared, out=shared, overlap=1, block_size=block_size)
    assert np.array_equal(shared, expected)


def test_in_place_with_retries(method, tmp_path):
    a = sa.share(np.arange(100.0))

    def twice_and_die(block):
        block *= 2
        pool_tasks.die_the_first_time(tmp_path / "here")
        return block.copy()

    with sa.Pool(2, method, retries=1) as pool:
        out = pool.map_blocks(lambda block: twice_and_die(block.copy()), a, out=a, block_size=25)
    assert np.array_equal(out, 2 * np.arange(100.0))


def test_reduce(pool):
    a = RNG.random((400, 30))
    assert pool.reduce_blocks(np.sum, np.add, np.arange(1000)) == 499500
    assert pool.reduce_blocks(np.max, max, a) == a.max()
    assert pool.reduce_blocks(lambda x: x.sum(0), np.add, a, block_size=400).tolist() == a.sum(0).tolist()
    assert pool.reduce_blocks(lambda x: [x[0]], lambda x, y: x + y, np.arange(10), block_size=3) == [
        0,
        3,
        6,
        9,
    ]
    assert (
        pool.reduce_blocks(lambda x, y: len(x) + len(y), max, np.ones((3, 50)), np.ones((2, 50)), axis=1) == 5
    )
    assert pool.reduce_blocks(np.sum, np.add, np.empty(0)) == 0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16"])
def test_sums_of_floats_are_those_of_the_same_blocks_one_after_the_other(pool, dtype):
    a = (RNG.random((400, 30)) - 0.3).astype(dtype)
    serial = functools.reduce(np.add, [a[start : start + 7].sum() for start in range(0, 400, 7)])
    for _ in range(5):
        got = pool.reduce_blocks(np.sum, np.add, a, block_size=7)
        assert (got.dtype, got.tobytes()) == (dtype, serial.tobytes())


def test_no_block_is_left(pool):
    before = {block.name for block in sa.blocks()}
    a = np.ones(200_000)
    out = pool.map_blocks(np.sin, a)
    assert pool.reduce_blocks(np.sum, np.add, a) == 200_000
    with pytest.raises(pool_tasks.Plain):
        pool.map_blocks(pool_tasks.raise_holding, a)
    name = out.name
    assert pool_tasks.until(lambda: {block.name for block in sa.blocks()} - before == {name})
    del out
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_what_does_not_fit(pool):
    a = np.ones((4, 6))
    with pytest.raises(ValueError, match="at least one array"):
        pool.map_blocks(np.sin)
    with pytest.raises(ValueError, match="one length along axis 0"):
        pool.map_blocks(np.add, a, np.ones((5, 6)))
    with pytest.raises(ValueError, match="axis 2"):
        pool.map_blocks(np.sin, a, axis=2)
    with pytest.raises(ValueError, match="block_size"):
        pool.map_blocks(np.sin, a, block_size=0)
    with pytest.raises(ValueError, match="overlap"):
        pool.map_blocks(np.sin, a, overlap=-1)
    with pytest.raises(ValueError, match=r"sum returned an array of shape.*reduce_blocks"):
        pool.map_blocks(np.sum, a)
    with pytest.raises(ValueError, match="out must have length 4"):
        pool.map_blocks(np.sin, a, out=np.ones((3, 6)))
    with pytest.raises(ValueError, match="but the output has shape"):
        pool.map_blocks(np.sin, a, out=sa.ones((4, 5)))
    with pytest.raises(TypeError, match=r"[Cc]annot cast"):
        pool.map_blocks(np.sin, a, out=sa.ones((4, 6), int))
    read_only = sa.attach((kept := sa.ones((4, 6))).name, "r")
    with pytest.raises(ValueError, match="read-only"):
        pool.map_blocks(np.sin, a, out=read_only)
    assert kept.all()


def test_progress_counts_blocks(pool, capsys):
    pool.map_blocks(np.sin, np.ones(100), block_size=10, progress=True)
    assert "10/10" in capsys.readouterr().err


def test_a_worker_dies_in_a_block(method):
    def die_in_one(block):
        if block[0] == 50:
            pool_tasks.die("SIGKILL")
        return block

    a = np.arange(100.0)
    with sa.Pool(2, method) as pool:
        with pytest.raises(sa.WorkerDied, match="die_in_one"):
            pool.map_blocks(die_in_one, a, block_size=10)
        assert np.array_equal(pool.map_blocks(np.sin, a), np.sin(a))


def test_each_worker_writes_to_the_same_part_each_time(pool):
    numbers, where = sa.share(np.arange(64)), []
    for _ in range(3):
        function = partial(pool_tasks.pids_that_meet, sa.zeros(64))
        where.append(pool.map_blocks(function, numbers, out=sa.zeros(64), block_size=1))
    for pids in where:
        assert len(set(pids)) == 2
        assert pids[0] == where[0][0]
        assert pids[32] == where[0][32] != pids[0]


def test_a_worker_that_has_finished_its_part_does_the_other_one(pool):
    numbers, done = sa.share(np.arange(64)), sa.zeros(64)
    pids = pool.map_blocks(partial(pool_tasks.pids_in_turn, done), numbers, out=sa.zeros(64), block_size=1)
    assert len(set(pids[1:])) == 1  # the other worker is at block 0 until all others are done
    assert pids[0] != pids[1]
