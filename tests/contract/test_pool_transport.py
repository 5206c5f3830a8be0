"""Plain arrays travel exact, private, writable, copied once, and in recycled memory."""

from __future__ import annotations

import collections
import gc
import operator
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pool_tasks
import pytest
from helpers import SUPPORT, unnamed_memory, wait_until
from needs import many_starts, needs_files, needs_fork, needs_limits, needs_proc

import sharedarray as sa
from sharedarray._pool.codec.call import dump_call, importable_name, load_call
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.codec.result import dump_result, load_result
from sharedarray._pool.transport import slots
from sharedarray._pool.transport.messages import PLAIN
from sharedarray._thresholds import COPIED_UP_TO, OUT_OF_BAND

LARGE = OUT_OF_BAND // 8 + 1  # elements of float64 that travel in recycled memory
MAPPED = COPIED_UP_TO // 8 + 1  # and that are mapped by a worker even if others read them

DTYPES = [
    np.dtype(text)
    for text in ("?", "i1", "<i4", ">i4", "u8", "f2", "f4", "f8", ">f8", "c16", "S5", "U3", "M8[ns]", "m8[D]")
] + [
    np.dtype([("a", "i4"), ("b", "f8", (2,))]),
    np.dtype({"names": ["x", "y"], "formats": ["u1", "f4"], "offsets": [0, 8], "itemsize": 16}),
]


def some_array(rng: random.Random) -> np.ndarray:
    """Any dtype, size, order and layout."""
    dtype = rng.choice(DTYPES)
    size = rng.choice([0, 1, 7, 100, 4000, 5000, 40_000])
    shape: tuple[int, ...] = rng.choice([(size,), (size, 1), (3, size // 3 + 1), (2, 2, size // 4 + 1)])
    raw = rng.randbytes(int(np.prod(shape)) * dtype.itemsize) if dtype.kind in "iufcV" else None
    if raw is not None:
        array = np.frombuffer(raw, dtype).reshape(shape).copy()
    else:
        array = (np.arange(np.prod(shape)).reshape(shape) % 97).astype("i8").astype(dtype)
    layout = rng.randrange(8)
    if layout == 1:
        array = np.asfortranarray(array)
    elif layout == 2:
        array = array[::-1]
    elif layout == 3:
        array = array[..., ::2]
    elif layout == 4:
        array = array.T
    elif layout == 5:
        array.flags.writeable = False
    elif layout == 6:
        array = sa.share(array)
    elif layout == 7 and dtype.kind in "iuf" and dtype != "f2":  # whose default fill value overflows
        array = np.ma.masked_array(array, mask=(np.arange(array.size).reshape(array.shape) % 3 == 0))
    return array


def something(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(10 if depth < 3 else 6)
    if kind <= 2:
        return some_array(rng)
    if kind == 3:
        return rng.choice([None, 3, -1.5, "text", True, 2j])
    if kind == 4:
        return rng.randbytes(rng.choice([0, 10, 40_000]))
    if kind == 5:
        return bytearray(rng.randbytes(rng.choice([0, 10, 40_000])))
    inner = [something(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return tuple(inner)
    if kind == 7:
        return {str(n): value for n, value in enumerate(inner)}
    if kind == 8:
        return collections.OrderedDict(enumerate(inner))
    return inner


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and a.dtype.names:
        assert isinstance(b, np.ndarray)  # without the padding between the fields
        return a.dtype == b.dtype and all(same(a[name], b[name]) for name in a.dtype.names)
    if isinstance(a, np.ndarray):
        if not isinstance(b, np.ndarray) or (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        if isinstance(a, np.ma.MaskedArray) != isinstance(b, np.ma.MaskedArray):
            return False
        if isinstance(a, np.ma.MaskedArray):
            assert isinstance(b, np.ma.MaskedArray)
            return bool((a.mask == b.mask).all()) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        return type(a) is type(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def arrays_in(value: object) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [array for inner in value for array in arrays_in(inner)]
    return []


@pytest.mark.parametrize("seed", range(4))
def test_anything_there_and_back_while_slots_recycle(pool, seed):
    """Every result equals what was sent, and what is kept keeps its values."""
    rng = random.Random(seed)
    kept: list[tuple[object, object]] = []
    for _ in range(12):
        sent = [something(rng) for _ in range(rng.randrange(1, 12))]
        if rng.random() < 0.5:
            got = list(pool.map(pool_tasks.identity, sent))
        else:
            got = [future.result() for future in [pool.submit(pool_tasks.identity, value) for value in sent]]
        assert all(map(same, sent, got))
        assert all(array.flags.writeable for array in arrays_in(got) if not isinstance(array, sa.SharedArray))
        for pair in zip(sent, got, strict=True):
            if rng.random() < 0.3:
                kept.append(pair)
        rng.shuffle(kept)
        del kept[10:]
        del got, pair
        assert all(same(*pair) for pair in kept)


def test_views_that_a_worker_keeps_keep_their_values():
    with sa.Pool(1) as pool:
        sums = []
        for n in range(60):
            array = np.full(LARGE + 50 * n, float(n))
            future = pool.submit(pool_tasks.keep if n % 4 == 0 else pool_tasks.change, array)
            if n % 4 == 0:
                sums.append(future.result())
            else:
                assert (future.result() == n).all()
            assert (array == n).all()
        assert pool.submit(pool_tasks.check_kept).result() == sums
        assert pool.stats().recycled_in_use >= len(sums) * LARGE * 8
        pool.submit(pool_tasks.drop_kept).result()
        del future
        gc.collect()
        wait_until(lambda: pool.stats().recycled_in_use == 0, "the kept slots to be free")


@pytest.mark.parametrize("seed", range(3))
def test_anything_that_a_worker_keeps_keeps_its_values(seed):
    """Of any dtype and layout, in nested containers, while slots recycle and others are let go."""
    rng = random.Random(seed)
    kept: list[object] = []
    with sa.Pool(1) as pool:
        for _ in range(60):
            value = something(rng)
            if rng.random() < 0.4:
                at = rng.randrange(len(kept) + 1) if len(kept) < 12 else rng.randrange(12)
                kept[at:] = [value, *kept[at + 1 :]]
                assert same(value, pool.submit(pool_tasks.replace_kept, value, at).result())
            else:
                assert same(value, pool.submit(pool_tasks.identity, value).result())
        assert len(kept) > 5
        assert same(kept, pool.submit(pool_tasks.give_kept).result())


@needs_fork
@pytest.mark.lingers("child")
def test_a_view_in_a_process_that_a_task_forked_keeps_its_values(tmp_path):
    go, said = tmp_path / "go", tmp_path / "answer"
    with sa.Pool(1) as pool:
        expected = pool.submit(pool_tasks.fork_a_reader, np.arange(float(LARGE)), go, said).result()
        for n in range(30):
            assert pool.submit(pool_tasks.change, np.full(LARGE, n)).result()[0] == n
        go.touch()
        wait_until(said.exists, "the forked reader's answer")
        assert int(said.read_text()) == expected


@needs_fork
def test_a_result_in_a_process_that_the_caller_forked_keeps_its_values(pool):
    result = pool.submit(pool_tasks.make_full, LARGE, 7).result()
    go, said = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])  # or it would wait for ever if the test fails
        os.read(go[0], 1)
        os.write(said[1], bytes([int((result == 7).all())]))
        os._exit(0)
    try:
        del result
        for n in range(30):
            assert (pool.submit(pool_tasks.make_full, LARGE, n).result() == n).all()
        assert pool.stats().recycled_in_use >= 8 * LARGE
        os.write(go[1], b"x")
        assert os.read(said[0], 1) == b"\1"
    finally:
        for end in (*go, *said):
            os.close(end)
        os.waitpid(child, 0)
    wait_until(lambda: pool.stats().recycled_in_use == 0, "the child's memory to be free")


def test_the_memory_of_an_argument_is_free_when_the_answer_is_there(pool):
    for n in range(20):
        assert pool.submit(pool_tasks.total, np.full(LARGE, float(n))).result() == n * LARGE
        assert pool.stats().recycled_in_use == 0
    result = pool.submit(pool_tasks.identity, np.ones(LARGE)).result()
    assert pool.stats().recycled_in_use < 2 * result.nbytes
    del result
    assert pool.stats().recycled_in_use == 0


@needs_limits
def test_a_worker_that_cannot_lock_what_a_task_keeps_ends():
    """Otherwise the pool would write to the memory of the array that it keeps."""
    with sa.Pool(1, retries=0) as pool:
        with pytest.raises(sa.WorkerDied):
            pool.submit(pool_tasks.keep_and_open_files, np.ones(LARGE)).result(60)
        assert pool.submit(pool_tasks.total, np.ones(LARGE)).result(60) == LARGE


@pytest.mark.parametrize("size", [10, LARGE, MAPPED])
def test_one_array_for_many_tasks_is_copied_once_and_afresh_in_the_next_call(pool, size):
    array = np.zeros(size)
    for n in range(3):
        before = pool.stats()
        for got in pool.map(pool_tasks.change, [array] * 8):
            assert (got == n).all()  # no task sees what another one did
        assert (array == n).all()
        copied = pool.stats().copied_bytes - before.copied_bytes
        if size >= LARGE:
            report = pool.copy_report()
            row = next(row for row in report.rows if row.argument == "0")
            assert row.copied == array.nbytes
            assert row.reused == 7 * array.nbytes
            assert copied == 9 * array.nbytes  # once to the workers, and each of the 8 results
        array += 1  # in place: the next call must see it


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("way", ["map", "starmap", "submit"])
def test_arrays_of_the_moment_are_not_taken_for_one_another(pool, order, way):
    """The next one may be at the same place in memory as one of the item before that has gone."""
    rng = np.random.default_rng(3)
    values: list[object] = []
    for n in range(24):
        data = np.asarray(rng.random((120, 300)), order=order)
        if n % 2:
            values.append(np.ma.masked_array(data, np.asarray(data < rng.random(), order=order)))
        else:
            values.append(pool_tasks.Remade(data))
    if way == "submit":
        got = [future.result() for future in [pool.submit(pool_tasks.identity, value) for value in values]]
    elif way == "starmap":
        got = list(pool.starmap(pool_tasks.identity, [(value,) for value in values]))
    else:
        got = list(pool.map(pool_tasks.identity, values))
    for sent, came in zip(values, got, strict=True):
        if isinstance(sent, pool_tasks.Remade):
            assert np.array_equal(came.array, sent.array[:, 2:])  # a column less each way
        else:
            assert same(sent, came)


def test_a_function_that_brings_an_array_gets_its_own_each_time(pool):
    array = np.zeros(LARGE)

    def change_mine(n):
        array[:] += n + 1
        return array[0]

    assert list(pool.map(change_mine, range(10))) == [n + 1 for n in range(10)]
    assert [pool.submit(change_mine, n).result() for n in range(3)] == [1, 2, 3]
    assert not array.any()


@many_starts
@pytest.mark.parametrize("size", [10, LARGE, MAPPED])
def test_a_task_that_is_run_again_gets_its_argument_as_it_was(tmp_path, first_method, size):
    with sa.Pool(1, first_method, retries=1) as pool:
        array = np.arange(float(size))
        got = pool.submit(pool_tasks.change_and_die_once, array, tmp_path / "submitted").result()
        assert (got == array).all()
        (got,) = pool.map(pool_tasks.change_and_die_once, [array], [tmp_path / "mapped"])
        assert (got == array).all()
        assert pool.stats().retried == 2
        del got


def test_arguments_may_be_changed_as_soon_as_they_are_submitted(pool):
    array = np.zeros(LARGE)
    futures = []
    for n in range(20):
        array[:] = n
        futures.append(pool.submit(pool_tasks.total, array))
    assert [future.result() for future in futures] == [n * LARGE for n in range(20)]


def held_up(pool: sa.Pool, go_on: Path) -> Future[Any]:
    """Make the one worker of a pool wait for a file."""
    future = pool.submit(pool_tasks.wait_if_path, str(go_on))
    wait_until(future.running, "the worker is at it")
    return future


@pytest.mark.parametrize("retries", [0, 1])
def test_however_many_wait_they_were_copied_when_they_were_given(tmp_path, retries):
    """Of more arguments than there are blocks of recycled memory."""
    array = np.zeros(LARGE)
    with sa.Pool(1, retries=retries) as pool:
        first = held_up(pool, tmp_path / "go on")
        futures = []
        for n in range(200):
            array[:] = n
            futures.append(pool.submit(pool_tasks.total, array))
            array[:] = -1
        assert pool.stats().recycled_blocks < 200  # or this proves nothing
        (tmp_path / "go on").touch()
        first.result()
        assert [future.result() for future in futures] == [n * LARGE for n in range(200)]


def test_what_waits_in_this_process_is_bounded_too(tmp_path, monkeypatch):
    """Arguments beyond the bound are read when a worker is free, as `submit` says."""
    monkeypatch.setattr(slots, "BUSY_LIMIT", 3 * LARGE * 8)
    monkeypatch.setattr(slots, "_MOST", 1)
    array = np.zeros(LARGE)
    with sa.Pool(1) as pool:
        for _ in range(2):  # what was counted is so no more when it is sent
            (tmp_path / "go on").unlink(missing_ok=True)
            first = held_up(pool, tmp_path / "go on")
            futures = []
            for n in range(4):
                array[:] = n
                futures.append(pool.submit(pool_tasks.total, array))
            array[:] = -1
            (tmp_path / "go on").touch()
            first.result()
            totals = [future.result() for future in futures]
            assert totals[:2] == [0, LARGE]
            assert totals[3] == -LARGE


def test_lazy_arguments_may_be_one_array_with_other_data(monkeypatch):
    monkeypatch.setattr(slots, "_MOST", 2)
    array = np.zeros(LARGE)

    def frames() -> Iterator[np.ndarray]:
        for n in range(40):
            array[:] = n
            yield array

    with sa.Pool(2) as pool:
        assert sorted(pool.imap_unordered(pool_tasks.total, frames())) == [n * LARGE for n in range(40)]
        assert list(pool.map(pool_tasks.total, frames(), buffersize=8)) == [n * LARGE for n in range(40)]


def test_results_are_normal_arrays_that_free_their_memory(pool):
    results = [pool.submit(pool_tasks.make_full, 4 * LARGE, n).result() for n in range(6)]
    for n, result in enumerate(results):
        assert type(result) is np.ndarray
        assert result.flags.writeable
        assert (result == n).all()
        result += 1
    view = results[2][5:9]
    assert pool.stats().recycled_in_use >= 6 * 4 * LARGE * 8
    del results, result
    gc.collect()
    wait_until(lambda: pool.stats().recycled_in_use < 2 * 5 * LARGE * 8, "all results but one to be free")
    for n in range(10):
        pool.submit(pool_tasks.make_full, 4 * LARGE, -n).result()
    assert (view == 3).all()


def test_results_of_all_sizes_from_one_function(pool):
    sizes = [0, 1, LARGE, 10 * LARGE, 2 * LARGE, 1, 50 * LARGE, LARGE - 2]
    for size, result in zip(sizes, pool.map(pool_tasks.make_full, sizes, sizes), strict=True):
        assert result.shape == (size,)
        assert (result == size).all()


def test_a_result_outlives_its_pool():
    with sa.Pool(1) as pool:
        result = pool.submit(pool_tasks.make_full, LARGE, 7).result()
    assert (result == 7).all()
    result[:] = 8
    assert (result == 8).all()


@needs_proc
def test_memory_is_bounded_trimmed_when_idle_and_gone_with_the_pool():
    before = unnamed_memory()
    with sa.Pool(2) as pool:
        results = list(pool.map(pool_tasks.make_full, [1_500_000] * 24, range(24)))  # 288 MB
        stats = pool.stats()
        assert stats.recycled_in_use >= 24 * 12_000_000
        assert unnamed_memory() >= 24 * 12_000_000
        assert stats.recycled_idle_limit < 24 * 12_000_000 < stats.recycled_limit
        del results
        gc.collect()
        wait_until(lambda: unnamed_memory() <= stats.recycled_idle_limit, "memory to be trimmed")
        stats = pool.stats()
        assert stats.recycled_in_use == 0
        assert stats.recycled_bytes <= stats.recycled_idle_limit
        assert pool.submit(pool_tasks.make_full, 10, 1).result().sum() == 10  # it goes on
    assert unnamed_memory() == before


def test_memory_is_bounded_while_there_is_work_too(monkeypatch, tmp_path):
    """Not only when something new is needed: results may go while the tasks need none of their memory."""
    monkeypatch.setattr(slots, "BUSY_LIMIT", 32 << 20)
    with sa.Pool(2) as pool:
        results = list(pool.map(pool_tasks.make_full, [1_500_000] * 8, range(8)))  # 96 MB
        working = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "go on"))
        try:
            limit = pool.stats().recycled_limit
            assert limit <= 32 << 20
            del results
            gc.collect()
            wait_until(lambda: pool.stats().recycled_bytes <= limit, "memory to be trimmed")
            assert not working.done()
        finally:
            (tmp_path / "go on").touch()
        working.result()


def test_what_is_needed_anew_takes_the_place_of_what_is_free(monkeypatch):
    monkeypatch.setattr(slots, "BUSY_LIMIT", 32 << 20)
    with sa.Pool(1) as pool:
        # None of them fits into the rest of the one before.
        sizes = [300_000, 1_300_000, 2_000_000, 2_800_000, 3_500_000]
        for n, size in enumerate(sizes):
            assert pool.submit(pool_tasks.total, np.full(size, float(n))).result() == n * size
            stats = pool.stats()
            assert stats.recycled_free <= stats.recycled_limit


def test_a_pool_without_work_keeps_no_memory_after_a_while(monkeypatch):
    monkeypatch.setattr(slots, "FREE_AFTER", 2 * slots.TRIM_AFTER)
    with sa.Pool(1) as pool:
        result = pool.submit(pool_tasks.make_full, LARGE, 7).result()
        assert pool.submit(pool_tasks.total, result).result() == 7 * LARGE
        wait_until(lambda: pool.stats().recycled_blocks == 1, "all to be free that is not in use")
        assert pool.stats().recycled_free == 0
        assert (result == 7).all()
        del result
        gc.collect()
        wait_until(lambda: pool.stats().recycled_blocks == 0, "the last block to be free")
        assert pool.submit(pool_tasks.total, np.ones(LARGE)).result() == LARGE


@pytest.mark.parametrize("way", ["frame", "sparse", "masked", "bytes", "nested"])
def test_whatever_has_buffers_travels_beside_the_pickle(pool, way):
    if way == "frame":
        pandas = pytest.importorskip("pandas")
        value = pandas.DataFrame({"a": np.arange(20_000.0), "b": np.arange(20_000)})
        like = value.equals
    elif way == "sparse":
        sparse = pytest.importorskip("scipy.sparse")
        value = sparse.random(2000, 2000, 0.01, format="csr", random_state=1)
        like = lambda other: (value != other).nnz == 0  # noqa: E731
    elif way == "masked":
        value = np.ma.masked_less(np.arange(50_000.0), 50)
        like = lambda other: same(value, other)  # noqa: E731
    elif way == "bytes":
        value = bytes(range(256)) * 1000
        like = value.__eq__
    else:
        value = {"x": [np.arange(20_000.0)], "y": (np.ones((200, 200), order="F"), None)}
        like = lambda other: same(value, other)  # noqa: E731
    before = pool.stats()
    assert like(pool.submit(pool_tasks.identity, value).result())
    after = pool.stats()
    if way == "bytes":  # their type wants them in the pickle, which is long and travels there as a whole
        assert after.recycled_bytes > 2 * len(value)
        return
    assert after.copied_bytes - before.copied_bytes >= 2 * 160_000
    assert after.pickled_bytes - before.pickled_bytes < 20_000


def test_what_is_below_the_threshold_travels_in_the_pipe(pool):
    before = pool.stats()
    array = np.arange(LARGE - 100.0)
    assert (pool.submit(pool_tasks.identity, array).result() == array).all()
    after = pool.stats()
    assert after.copied_bytes == before.copied_bytes
    assert after.pickled_bytes - before.pickled_bytes > 2 * array.nbytes


SMALL_TMPFS = """
import os, sys
sys.path.insert(0, {support!r})
os.environ["SHAREDARRAY_DIR"] = {path!r}
import numpy as np
import sharedarray as sa
import pool_tasks

with sa.Pool(2) as pool:
    # Twice what the file system has, in one array: it goes through the pipe.
    large = np.arange(4_000_000.0)
    got = pool.submit(pool_tasks.identity, large).result()
    assert (got == large).all()
    assert pool.stats().recycled_limit <= 4 << 20
    # Each fits, all of them do not.
    many = [np.full(500_000, float(n)) for n in range(12)]
    results = list(pool.map(pool_tasks.identity, many))
    assert all((a == b).all() for a, b in zip(many, results))
    # With the file system full to the brim, too.
    with open(os.path.join({path!r}, "filler"), "wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
        again = list(pool.map(pool_tasks.identity, many))
        assert all((a == b).all() for a, b in zip(many, again))
        assert all((a == b).all() for a, b in zip(many, results))
    os.remove(os.path.join({path!r}, "filler"))
print("whole")
"""


@needs_files
def test_a_small_tmpfs_is_no_limit_and_no_sigbus(tmp_path):
    script = SMALL_TMPFS.format(path=str(tmp_path), support=str(SUPPORT))
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    mount = f'mount -t tmpfs -o size=16m tmpfs {tmp_path} && exec "$0" "$@"'
    before = ["sh", "-c", mount] if os.geteuid() == 0 else ["unshare", "-rm", "sh", "-c", mount]
    try:
        done = subprocess.run([*before, *command], capture_output=True, text=True, timeout=120)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(tmp_path)], capture_output=True)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this user may not mount a tmpfs here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-4000:]


def pack_and_unpack(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any], Pickled]:
    """Return what a worker gets of these arguments, and how they travelled."""
    pickled = dump_call(pool_tasks.total, args, kwargs)
    buffers = [bytearray(piece) for piece in pickled.pieces()]
    _, found, named = load_call(pickled.stream, buffers, pickled.layout)
    return found, named, pickled


@pytest.mark.parametrize("function", [len, np.add, np.size, np.linalg.norm, list, pool_tasks.Loaded])
def test_functions_and_classes_with_a_home_go_by_name(function: Any) -> None:
    """So a call of one of NumPy's functions is as quick as that of any other."""
    array = sa.ones(5)
    for args in ((array,), (3, "text"), ()):
        pickled = dump_call(function, args, {})
        found, given, _ = load_call(pickled.stream, (), pickled.layout)
        assert pickled.layout == PLAIN
        assert found is function
        assert len(given) == len(args)
    pickled = dump_call(function, ([1, 2],), {})  # whose argument needs a pickle
    found, given, _ = load_call(pickled.stream, (), pickled.layout)
    assert (found, *given) == (function, [1, 2])


def test_a_class_that_has_another_one_at_its_name_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pool_tasks.Loaded
    monkeypatch.setattr(pool_tasks, "Loaded", type("Loaded", (), {"__module__": pool_tasks.__name__}))
    assert importable_name(pool_tasks.Loaded) == (pool_tasks.__name__, "Loaded")
    assert importable_name(before) is None


@pytest.mark.parametrize("count", [0, 3, LARGE])
@pytest.mark.parametrize("char", "?bhilqBHILQefdgFDG")
def test_arrays_of_usual_types_go_without_a_pickle(char: str, count: int) -> None:
    array = np.arange(2 * count).reshape(2, count).astype(char)
    for given in (array, array.T, array[:, ::2], array[::-1]):
        for (found,), _, pickled in (
            pack_and_unpack(given),
            ((given_back(given),), {}, dump_result(given)),
        ):
            assert pickled.layout == PLAIN
            assert found.dtype is given.dtype
            assert found.shape == given.shape
            assert np.array_equal(found, given)
            assert found.flags.writeable
            assert found.flags.f_contiguous == np.array(given, copy=True, order="K").flags.f_contiguous
            assert not np.shares_memory(found, given)


def given_back(value: Any) -> Any:
    """Return what the pool gets of a result."""
    pickled = dump_result(value)
    buffers = [bytearray(piece) for piece in pickled.pieces()]
    return load_result(pickled.stream, buffers, pickled.layout)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, ">f8"),
        np.zeros(3, "M8[ns]"),
        np.array(["a", "bc"]),
        np.zeros(2, [("a", "f8")]),
        np.array([None, "x"]),
        np.zeros(2, np.dtype("f8", metadata={"unit": "m"})),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_types_arrive_as_they_are(array: np.ndarray[Any, Any]) -> None:
    for found in (pack_and_unpack(array)[0][0], given_back(array)):
        assert found.dtype == array.dtype
        assert (found.dtype.metadata or {}) == (array.dtype.metadata or {})  # NumPy 1.26 makes {} of None
        assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(2.5),
        np.int8(-3),
        np.bool_(True),
        np.complex64(1j),
        np.datetime64("2026-01-01"),
        np.str_("a"),
    ],
    ids=lambda scalar: type(scalar).__name__,
)
def test_scalars_keep_their_type(scalar: np.generic) -> None:
    for found in (pack_and_unpack(scalar)[0][0], given_back(scalar)):
        assert type(found) is type(scalar)
        assert found == scalar


def test_an_array_that_is_there_twice_arrives_once() -> None:
    small, large = np.arange(3.0), np.arange(float(LARGE))
    found, named, pickled = pack_and_unpack(small, large, small, again=large)
    assert found[0] is found[2]
    assert found[1] is named["again"]
    assert len(pickled.buffers) == 1
    assert pickled.account is not None
    shared, copied, _, reused = pickled.account.total()
    assert (shared, copied, reused) == (0, large.nbytes, 0)


def test_a_result_slot_that_a_task_did_not_need_is_not_used_by_the_next() -> None:
    """A task brings a block for its result where results were large; one not used is the pool's again."""
    with sa.Pool(1) as pool:
        for size in (1_000_000, 10):
            pool.submit(bytes, size).result()
        others = pool._core.store.take(1_000_000)
        assert others is not None
        others.mapped()[:] = b"\7" * others.size
        assert all(len(found) == 500_000 for found in pool.map(bytearray, [500_000] * 4))
        assert set(others.mapped()[:]) == {7}
        others.put_back()


def length_and_text(number: int) -> tuple[np.ndarray, str]:
    return np.full(LARGE, float(number)), "text " * LARGE


def raise_long(number: int) -> None:
    raise ValueError("text " * LARGE)


FLAT = [
    *([], (), {}, [1, 2], (1,), {"a": 1.5, 2: None}),
    *([True, 1 + 2j, 10**40, float("inf"), "\ud800", b"\0"], {b"x": "y" * 3000}, ["x" * 100_000]),
    *([1] * 900, list(range(5000)), [[1]], ({},), {"a": (1,)}),
]


def test_flat_lists_tuples_and_dicts_arrive_as_they_are(pool):
    for value in FLAT:
        for found in (
            pool.submit(pool_tasks.identity, value).result(),
            *pool.map(pool_tasks.identity, [value]),
        ):
            assert type(found) is type(value)
            assert repr(found) == repr(value)
            assert found is not value or not value
    changed = [1, 2]
    future = pool.submit(pool_tasks.identity, changed)
    changed.append(3)
    assert future.result() == [1, 2]
    assert pool.submit(operator.is_, changed, changed).result()


class Flat(list):
    """Not a list alone."""


def test_instances_of_subclasses_of_list_keep_their_class(pool):
    assert type(pool.submit(pool_tasks.identity, Flat([1])).result()) is Flat


def test_long_results_arrive_when_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickle and the buffers of a result go through the pipe, as in a full or small /dev/shm."""
    monkeypatch.setattr(slots, "unnamed", lambda size: None)
    with sa.Pool(1) as pool:
        assert pool.submit(bytes, 8 * LARGE).result(60) == bytes(8 * LARGE)
        for array, text in [*pool.map(length_and_text, [3, 4]), pool.submit(length_and_text, 5).result(60)]:
            assert array.tolist() == [array[0]] * LARGE
            assert text == "text " * LARGE
        with pytest.raises(ValueError, match="text text"):
            pool.submit(raise_long, 0).result(60)
        assert pool.stats().recycled_bytes == 0
