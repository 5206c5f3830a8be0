"""Arguments are copied without the pool's lock; what ends or expires meanwhile is accounted for."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import numpy as np
import pool_broken
import pool_tasks
import pytest
from helpers import ANSWER, kill, wait_until

import sharedarray as sa
from sharedarray._pool import core as cores, housekeeping, lifecycle
from sharedarray._pool.transport.slot import Slot

LIMIT = ANSWER  # seconds within which each wait here is over, on a machine that is busy
LARGE = 1 << 17  # bytes of an array that is not sent through the pipe


def large(*values):
    return [np.full(LARGE, value, np.uint8) for value in values]


def firsts(array, *more):
    return int(array[0])


class Copying:
    """Stops the first thread that copies arguments, until told to go on."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.first = threading.Lock()
        self.plain = Slot.fill
        monkeypatch.setattr(Slot, "fill", self.patched())

    def patched(self):
        def fill(slot, sources, starts):
            if self.first.acquire(blocking=False):
                self.begun.set()
                assert self.go_on.wait(LIMIT)
            self.plain(slot, sources, starts)

        return fill


@pytest.fixture
def copying(monkeypatch):
    stops = Copying(monkeypatch)
    yield stops
    stops.go_on.set()


class Caller(threading.Thread):
    """Calls in a thread of its own."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.came = []
        self.start()

    def run(self):
        try:
            self.came.append(self.call())
        except BaseException as error:
            self.came.append(error)

    def get(self):
        self.join(LIMIT)
        assert self.came, "it hangs"
        return self.came[0]


def ready(pool, workers):
    """Wait until all workers are there, and there is nothing to do."""
    list(pool.map(pool_tasks.pause, [0.02] * 2 * workers))
    wait_until(lambda: pool.stats().workers == workers and not pool.stats().busy, "all workers wait")
    return pool


def indexing(data):
    return lambda n: int(data[n])


WAYS = {
    "submit": lambda pool: pool.submit(firsts, *large(1)).result(LIMIT),
    "map": lambda pool: list(pool.map(firsts, large(1, 2, 3, 4, 5, 6))),
    "buffersize": lambda pool: list(pool.map(firsts, large(1, 2, 3), buffersize=2)),
    "unordered": lambda pool: list(pool.imap_unordered(firsts, large(1, 2, 3))),
    "text": lambda pool: list(pool.map(len, [b"x" * LARGE] * 3)),
    "closure": lambda pool: list(pool.map(indexing(*large(1)), range(5))),
    "map_blocks": lambda pool: pool.map_blocks(np.negative, np.ones((4, LARGE)), block_size=1),
    "large results": lambda pool: [list(pool.map(large, [1, 2, 3])) for _ in range(2)],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_lock_is_free_while_arguments_are_copied(pool, way, monkeypatch):
    plain, lock, held = Slot.fill, pool._core.lock, []

    def fill(slot, sources, starts):
        held.append(lock._is_owned())  # by this thread
        plain(slot, sources, starts)

    monkeypatch.setattr(Slot, "fill", fill)
    WAYS[way](pool)
    assert not any(held)
    assert held or way == "large results"


def test_other_threads_are_served_while_arguments_are_copied(copying):
    with sa.Pool(2) as pool:
        ready(pool, 2)
        caller = Caller(lambda: list(pool.map(firsts, large(1, 2, 3))))
        assert copying.begun.wait(LIMIT)
        assert pool.submit(abs, -1).result(LIMIT) == 1
        assert list(pool.map(abs, [-2, -3])) == [2, 3]
        assert pool.stats().queued >= 1
        copying.go_on.set()
        assert caller.get() == [1, 2, 3]


def test_a_worker_that_dies_while_its_arguments_are_copied(copying):
    with sa.Pool(1) as pool:
        ready(pool, 1)
        caller = Caller(lambda: list(pool.map(firsts, large(1, 2, 3))))
        assert copying.begun.wait(LIMIT)
        kill(pool.stats().pids[0])
        wait_until(lambda: pool.stats().died == 1, "its death is noticed")
        copying.go_on.set()
        assert caller.get() == [1, 2, 3]


@pytest.mark.parametrize("end", ["cancel_futures", "kill_workers", "shutdown"])
def test_a_pool_that_ends_while_arguments_are_copied(copying, end):
    with sa.Pool(1) as pool:
        ready(pool, 1)
        caller = Caller(lambda: list(pool.map(firsts, large(1, 2, 3))))
        assert copying.begun.wait(LIMIT)
        if end == "kill_workers":
            ending = Caller(pool.kill_workers)
            wait_until(lambda: pool._core.is_aborting, "the end begins")
        else:
            ending = Caller(lambda: pool.shutdown(cancel_futures=end == "cancel_futures"))
            wait_until(lambda: pool._core.is_shut and not pool._core.cancels_queued, "the end begins")
        copying.go_on.set()
        came = caller.get()
        if end == "shutdown":
            assert came == [1, 2, 3]
        else:
            assert isinstance(came, CancelledError)
        assert ending.get() is None


@pytest.mark.parametrize("way", ["submit", "map", "unordered"])
def test_arguments_that_cannot_be_copied_fail_their_own_item(pool, way, monkeypatch):
    plain = Slot.fill

    def fill(slot, sources, starts):
        if any(source.reshape(-1)[0] == 2 for source in sources):
            raise MemoryError("no memory for a copy")
        plain(slot, sources, starts)

    monkeypatch.setattr(Slot, "fill", fill)
    if way == "submit":
        futures = [pool.submit(firsts, array) for array in large(1, 2, 3)]
        error = futures[1].exception(LIMIT)
        assert [futures[n].result(LIMIT) for n in (0, 2)] == [1, 3]
    else:
        with pytest.raises(sa.NotPicklableError) as caught:
            list((pool.map if way == "map" else pool.imap_unordered)(firsts, large(1, 2, 3)))
        error = caught.value
    assert isinstance(error, sa.NotPicklableError)
    assert "no memory for a copy" in str(error)
    assert list(pool.map(firsts, large(3, 4))) == [3, 4]
    wait_until(lambda: not pool.stats().busy and not pool.stats().queued, "no call is unfinished")


# -- what expires ---------------------------------------------------------------------------------------


def test_what_expires_in_the_queue_is_counted_and_does_so_behind_others(tmp_path):
    with sa.Pool(1) as pool:
        running = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "begun", tmp_path / "go")
        wait_until((tmp_path / "begun").exists, "the first one runs")
        patient = pool.submit(pool_tasks.add, 1)
        results = pool.map(pool_tasks.add, [1, 2, 3], timeout=0.05)
        wait_until(lambda: pool.stats().failed == 3, "all three are too late")
        assert pool.stats().queued == 1
        (tmp_path / "go").touch()
        assert (running.result(LIMIT), patient.result(LIMIT)) == ("released", 2)
        with pytest.raises(TimeoutError):
            next(results)
        assert pool.stats().failed == 3


def test_what_a_worker_was_given_ahead_expires_on_time(tmp_path):
    there = tmp_path / "there"
    there.touch()
    with sa.Pool(1) as pool:
        for _ in range(20):  # known to be quick, so that several are given at a time
            assert pool.submit(pool_tasks.wait_if_path, str(there)).result(LIMIT) == str(there)
        slow = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "go"))
        results = pool.map(pool_tasks.wait_if_path, [str(there)] * 3, timeout=0.05)
        wait_until(lambda: pool.stats().failed == 3, "all three are too late")
        (tmp_path / "go").touch()
        assert slow.result(LIMIT) == str(tmp_path / "go")
        with pytest.raises(TimeoutError):
            next(results)
        assert pool.submit(pool_tasks.add, 1).result(LIMIT) == 2


def test_what_expires_while_its_arguments_are_copied_ends_no_worker(copying):
    with sa.Pool(1) as pool:
        ready(pool, 1)
        before = pool.stats().pids
        caller = Caller(lambda: list(pool.map(firsts, large(1, 2, 3), timeout=0.05)))
        assert copying.begun.wait(LIMIT)
        wait_until(lambda: pool.stats().failed == 2, "those in the queue are too late")
        copying.go_on.set()
        assert isinstance(caller.get(), TimeoutError)
        wait_until(lambda: pool.stats().failed == 3, "and so is the one whose arguments were copied")
        assert pool.submit(pool_tasks.add, 1).result(LIMIT) == 2
        assert pool.stats().pids == before


# -- what is dropped, and what is remembered ------------------------------------------------------------


def test_a_finalizer_of_an_argument_may_use_the_pool(pool):
    shared = sa.zeros(3)
    futures = []
    pool_broken.at_end = lambda: futures.append(pool.submit(abs, -5))
    try:
        caller = Caller(lambda: pool.submit(pool_tasks.add_all, pool_broken.Finalized(), 1).result())
        caller.get()
        came = pool.submit(pool_tasks.identity, (pool_broken.Finalized(), shared))
        assert came.result(LIMIT)[1].shape == (3,)
        del came
        wait_until(lambda: len(futures) >= 1, "the argument is finalized")
    finally:
        pool_broken.at_end = None
    assert {future.result(LIMIT) for future in futures} == {5}


def test_calls_of_a_finalizer_while_the_pool_is_at_work(tmp_path):
    """The collection of garbage calls one at any moment: in a thread that has the lock as well."""
    with sa.Pool(1) as pool:
        inner = pool._core
        assert pool.submit(abs, -1).result(LIMIT) == 1
        running = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "begun", tmp_path / "go")
        wait_until((tmp_path / "begun").exists, "the first one runs")
        results = pool.map(pool_tasks.add, range(5))

        def within():
            nonlocal results
            with inner.lock:
                del results  # as an iterator that nothing refers to
                one, many = pool.submit(abs, -2), pool.map(pool_tasks.add, [1, 2])
                assert one.cancel() or not one.done()
                with pytest.raises(sa.DeadlockError):
                    running.result()
                assert pool.stats().workers == 1
                return pool.submit(abs, -3), many

        one, many = Caller(within).get()
        (tmp_path / "go").touch()
        assert (one.result(LIMIT), list(many)) == (3, [2, 3])
        assert running.result(LIMIT) == "released"

        def ends():
            with inner.lock:
                pool.shutdown()

        assert Caller(ends).get() is None


def test_slots_that_there_are_no_more_are_forgotten(pool):
    inner = pool._core
    assert list(pool.map(firsts, large(1, 2))) == [1, 2]
    for _ in range(2 * housekeeping.MANY_RETIRED):
        inner.store.discard(inner.store.take(LARGE))
    inner.wake()
    wait_until(lambda: inner.store.retired <= housekeeping.MANY_RETIRED, "they are forgotten")
    assert list(pool.map(firsts, large(3, 4))) == [3, 4]


def test_what_is_known_of_workers_is_bounded(pool):
    inner = pool._core

    def remembered():
        tables = [inner.housekeeping._forgotten_functions, inner.housekeeping._released_blocks, inner.garbage]
        tables += [
            table for worker in inner.handles for table in (worker.outgoing.functions, worker.outgoing.blocks)
        ]
        return sum(map(len, tables))

    before = remembered()
    for number in range(100):
        shared = sa.full(8, number)
        assert list(pool.map(adding(number), [1, 2])) == [number + 1, number + 2]
        assert pool.submit(np.max, shared).result(LIMIT) == number
    del shared

    wait_until(lambda: remembered() <= before + 4, "what is gone is forgotten")


def adding(number):
    return lambda item: item + number


def test_pools_are_iterated_while_others_are_made():
    made, over = [], threading.Event()

    def makes():
        while not over.is_set():
            made.append(sa.Pool(1))
            if len(made) > 50:
                made.clear()

    threads = [threading.Thread(target=makes) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            assert all(isinstance(each, cores.PoolCore) for each in lifecycle._all_cores())
    finally:
        over.set()
        for thread in threads:
            thread.join()
