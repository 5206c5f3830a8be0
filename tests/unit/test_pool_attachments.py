"""The attachments that workers keep between tasks, and for how long.

Where a process's mappings can be looked at, they are; elsewhere, whether any process has the block's memory.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pool_tasks
import pytest
from helpers import PROC, memory_is_there
from needs import few, needs_fork

import sharedarray as sa
from sharedarray import _segment as segment


def mapped(name: str, pid: int | None = None) -> set[int]:
    """Return at which addresses a process has a block mapped."""
    lines = Path(f"/proc/{pid or os.getpid()}/maps").read_text().splitlines()
    return {int(line.split("-")[0], 16) for line in lines if name in line}


def where(array):
    """Return at which address this process has an array's block, which is the only one."""
    address = np.frombuffer(array.segment.buf, "u1").ctypes.data
    assert not PROC or mapped(array.name) == {address}
    return address


def attached(pool: sa.Pool, name: str) -> bool:
    """True if a worker has a block's memory; or any process, if the system does not tell which."""
    return any(mapped(name, pid) for pid in pool.stats().pids) if PROC else memory_is_there(name)


@pytest.fixture
def alone(first_method):
    with sa.Pool(1, first_method) as pool:
        pool.submit(os.getpid).result()
        yield pool


def test_a_block_stays_attached_between_tasks(alone):
    a = sa.zeros(1000)
    first = alone.submit(where, a).result()
    assert not PROC or alone.submit(mapped, a.name).result() == {first}
    for view in (a, a[10:], a.reshape(10, 100)[::2]):
        assert alone.submit(pool_tasks.total, view).result() == 0
        assert alone.submit(where, a).result() == first
    a[...] = 1
    assert alone.submit(pool_tasks.total, a).result() == 1000
    # A task that closes its array does not spoil it for the next one.
    alone.submit(sa.SharedArray.close, a).result()
    assert alone.submit(pool_tasks.total, a).result() == 1000


def gone(pool: sa.Pool, name: str) -> bool:
    return not sa.exists(name) and not attached(pool, name)


def test_an_idle_worker_lets_go_when_the_pools_process_does(alone):
    for end in ("del", "close", "unlink"):
        a = sa.zeros(1000)
        name = a.name
        alone.submit(pool_tasks.total, a).result()
        assert attached(alone, name)
        if end != "del":
            getattr(a, end)()
        del a
        assert not sa.exists(name)
        assert pool_tasks.until(lambda name=name: gone(alone, name)), end


def test_a_worker_at_a_long_task_lets_go_too(alone, tmp_path):
    a, b = sa.zeros(1000), sa.ones(1000)
    for array in (a, b):
        alone.submit(pool_tasks.total, array).result()
    started, release = tmp_path / "started", tmp_path / "release"
    future = alone.submit(pool_tasks.signal_and_wait_for, started, release)
    assert pool_tasks.until(started.exists)
    name = a.name
    del a, array
    assert pool_tasks.until(lambda: gone(alone, name))
    assert not future.done()
    release.touch()
    future.result()
    assert alone.submit(pool_tasks.total, b).result() == 1000


def test_what_map_blocks_was_given_goes_as_well(method):
    with sa.Pool(2, method) as pool:
        pool.submit(os.getpid).result()  # what there is when a worker is forked, it has
        a = sa.share(np.arange(4000.0))
        out = pool.map_blocks(np.sqrt, a, block_size=100)
        names = a.name, out.name
        total = pool.reduce_blocks(np.sum, np.add, out, block_size=100)
        assert np.isclose(total, np.sqrt(np.arange(4000)).sum())
        del a, out
        assert pool_tasks.until(lambda: not any(map(sa.exists, names)))
        assert pool_tasks.until(lambda: not any(attached(pool, name) for name in names))


def test_another_block_of_the_same_name_is_another_block(alone):
    for value in range(5):
        with sa.full(1000, value, name=f"test-attachments-{os.getpid()}") as a:
            assert alone.submit(pool_tasks.total, a).result() == 1000 * value


def test_what_a_task_keeps_is_held(alone):
    a = sa.ones(1000)
    name = a.name
    alone.submit(pool_tasks.keep, a[100:200]).result()
    del a
    assert sa.exists(name)  # by the worker, who has a view of it in a global
    assert alone.submit(pool_tasks.check_kept).result()
    with sa.attach(name) as again:
        assert again.sum() == 1000
    del again
    alone.submit(pool_tasks.drop_kept).result()
    assert pool_tasks.until(lambda: gone(alone, name))


def test_a_task_may_send_on_what_it_was_given(alone):
    a = sa.ones(1000)
    assert alone.submit(pool_tasks.identity, a).result() is not a
    back = alone.submit(pool_tasks.identity, a).result()
    back[:] = 2
    assert a.sum() == 2000
    name = a.name
    del a, back
    assert pool_tasks.until(lambda: gone(alone, name))


def test_only_so_many_are_kept(alone):
    arrays = [sa.zeros(10) for _ in range(80)]

    def kept() -> list[bool]:
        for array in arrays:
            alone.submit(pool_tasks.total, array).result()
        opened = alone.submit(open_blocks).result()
        return [attached(alone, array.name) if PROC else array.name in opened for array in arrays]

    # Those that were not used for longest go first. (All go at a task that takes 0.1 s, as any may.)
    assert pool_tasks.until(lambda: kept() == [False] * 16 + [True] * 64)


def open_blocks():
    """Return names of the blocks that this process has open."""
    mappings = [reference and reference() for reference in segment.mapping.handles.values()]
    return {mapping.name for mapping in mappings if mapping is not None}


def leases(name):
    """Return whether this process itself has a lease, among the holders that the system knows."""
    return [os.getpid() in block.holders for block in sa.blocks() if block.name == name]


def test_a_task_borrows_what_the_pools_process_holds(alone):
    a = sa.ones(1000)
    alone.submit(pool_tasks.total, a).result()  # attached now, and kept
    # A task that takes 0.1 s, as any may on a busy machine, counts as a long one and holds it for real.
    assert pool_tasks.until(lambda: alone.submit(held_by_me, a).result() == (False, False))
    # The worker really holds an array that it keeps after the task.
    alone.submit(pool_tasks.keep, a).result()
    assert alone.submit(leases, a.name).result() == [True]
    alone.submit(pool_tasks.drop_kept).result()
    assert alone.submit(leases, a.name).result() == [False]


def held_by_me(array):
    return leases(array.name)[0], array.closed


KEEPERS = [
    pool_tasks.keep_itself,
    pool_tasks.keep_bytes,
    pool_tasks.keep_plain,
    pool_tasks.keep_base,
    pool_tasks.keep_segment,
    pool_tasks.keep_error,
]


@pytest.mark.parametrize("keep", KEEPERS, ids=lambda keep: keep.__name__)
@pytest.mark.parametrize("again", few([False, True]), ids=["", "again"])
def test_whatever_a_task_keeps_holds_the_block(alone, keep, again):
    """However an array, the only argument, lives on, and whether the worker knows it already."""
    a = sa.ones(1000)
    name = a.name
    for _ in range(3 if again else 0):
        alone.submit(pool_tasks.total, a).result()
    alone.submit(keep, a).result()
    for _ in range(3):  # tasks that keep nothing do not make it less
        assert alone.submit(pool_tasks.total, a).result() == 1000
        assert alone.submit(leases, name).result() == [True]
    del a
    assert sa.exists(name)
    alone.submit(pool_tasks.drop_kept).result()
    assert pool_tasks.until(lambda: gone(alone, name))


@pytest.mark.parametrize("kept", range(6))
def test_one_of_many_views_of_a_block_is_kept(alone, kept):
    """More of them than a worker has ready for one block."""
    a = sa.share(np.arange(700.0))
    name, views = a.name, [a[100 * n : 100 * n + 100] for n in range(6)]
    expected = [view.sum() for view in views]
    for _ in range(2):
        assert [alone.submit(pool_tasks.total, view).result() for view in views] == expected
    alone.submit(pool_tasks.keep_itself, views[kept]).result()
    assert [alone.submit(pool_tasks.total, view).result() for view in views] == expected
    assert alone.submit(leases, name).result() == [True]
    checksum = pool_tasks.checksum(views[kept])
    del a, views
    assert sa.exists(name)
    assert alone.submit(pool_tasks.check_kept).result() == [checksum]
    alone.submit(pool_tasks.drop_kept).result()
    assert pool_tasks.until(lambda: gone(alone, name))


def test_more_arrays_than_a_worker_remembers_calls_of(alone):
    a = sa.share(np.arange(600.0))
    for _ in range(2):
        for n in range(600):
            assert alone.submit(pool_tasks.total, a[n : n + 1]).result() == n


def test_a_task_that_changes_its_array_object_changes_no_other(alone):
    a = sa.ones(1000)
    for _ in range(3):
        assert alone.submit(pool_tasks.change_the_handle, a).result() == (2, 500)
        assert alone.submit(pool_tasks.describe, a).result() == pool_tasks.describe(a)
    alone.submit(pool_tasks.fill, a, 2).result()
    assert a.sum() == 2000


@pytest.mark.parametrize("dropped", [True, False])
def test_a_task_with_one_array_that_takes_long_holds_it(alone, tmp_path, dropped):
    """Though the worker has the array ready, and uses it without a lease; and not any longer."""
    a = sa.ones(1000)
    name = a.name
    release = tmp_path / "release"
    for _ in range(3):
        alone.submit(pool_tasks.total, a).result()
    alone.submit(pool_tasks.agree_on, tmp_path / "started", release).result()
    future = alone.submit(pool_tasks.wait_and_total, a)
    try:
        assert pool_tasks.until((tmp_path / "started").exists)
        pid = alone.stats().pids[0]
        assert pool_tasks.until(lambda: pid in holders(name))
        if dropped:
            del a
            gc.collect()
    finally:
        release.touch()
    assert future.result() == 1000
    del future
    if dropped:
        assert pool_tasks.until(lambda: gone(alone, name))
    else:
        assert pool_tasks.until(lambda: pid not in holders(name))


@needs_fork
def test_a_fork_of_a_task_holds_what_the_task_uses(alone, tmp_path):
    a, answer = sa.ones(1000), tmp_path / "answer"
    name = a.name
    alone.submit(pool_tasks.total, a).result()
    alone.submit(pool_tasks.fork_with, a, answer).result()
    pid = alone.stats().pids[0]
    assert pool_tasks.until(lambda: pid not in holders(name))
    del a
    alone.submit(pool_tasks.let_children_go).result()
    assert pool_tasks.until(answer.exists)
    assert answer.read_text() == "False True 1000.0"
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_a_long_task_still_holds_what_it_uses(alone, tmp_path):
    a = sa.ones(1000)
    alone.submit(pool_tasks.total, a).result()
    started, release = tmp_path / "started", tmp_path / "release"
    future = alone.submit(wait_with, a, started, release)
    try:
        assert pool_tasks.until(started.exists)
        pid = alone.stats().pids[0]
        assert pool_tasks.until(lambda: pid in holders(a.name))  # once it is a long one
    finally:
        release.touch()
    assert future.result() == 1000


def holders(name):
    return next(block.holders for block in sa.blocks() if block.name == name)


def wait_with(array, started, release):
    pool_tasks.signal_and_wait_for(started, release)
    return array.sum()
