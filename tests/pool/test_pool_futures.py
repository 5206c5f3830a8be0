"""The futures of a pool, which have a condition only when somebody asks for it."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ALL_COMPLETED, Future, as_completed, wait

import pool_tasks
import pytest

from sharedarray.pool.tasks import PoolFuture, Raised


def states(future):
    return {name: getattr(future, name) for name in vars(Future()) if name != "_condition"}


def test_there_is_all_that_the_standard_library_gives_a_future():
    ours = PoolFuture()
    assert ours._condition is ours._condition
    assert states(ours) == states(Future())


@pytest.mark.parametrize("asked", [False, True])
def test_a_future_goes_the_usual_way(asked):
    future = PoolFuture()
    if asked:
        assert isinstance(future._condition, threading.Condition)
    assert not future.done()
    assert not future.running()
    assert future.begin()
    assert future.running()
    assert not future.cancel()
    future.put(0, [7])
    assert future.done()
    assert future.result(0) == 7
    assert future.exception(0) is None
    assert "finished returned int" in repr(future)
    called = []
    future.add_done_callback(called.append)
    assert called == [future]
    assert wait([future], 0).done == {future}
    assert list(as_completed([future], 0)) == [future]


@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_is_raised(begun):
    future = PoolFuture()
    if begun:
        future.begin()
    future.put(0, [Raised(KeyError("x"))])
    with pytest.raises(KeyError):
        future.result()


def test_a_cancelled_future_stays_cancelled():
    future = PoolFuture()
    assert future.cancel()
    future.put(0, [1])
    assert future.cancelled()
    again = PoolFuture()
    assert again.cancel()
    assert not again.begin()


def test_no_waiter_misses_a_result_that_comes_while_it_begins_to_wait():
    """Threads ask for the condition at the very moment at which the result is put."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(1000):
            future = PoolFuture()
            future.begin()
            called = []
            ways = (
                lambda future=future: future.result(10),
                lambda future=future, called=called: future.add_done_callback(called.append),
                lambda future=future: wait([future], 10, ALL_COMPLETED),
            )
            thread = threading.Thread(target=ways[number % 3])
            thread.start()
            future.put(0, [number])
            thread.join(10)
            assert not thread.is_alive()
            assert future.result(0) == number
            assert called == [future] * (number % 3 == 1)
    finally:
        sys.setswitchinterval(interval)


def test_of_results_that_come_many_at_a_time(pool):
    futures = [pool.submit(pool_tasks.identity, number) for number in range(2000)]
    called = []
    for future in futures[::3]:
        future.add_done_callback(called.append)
    assert {future.result() for future in as_completed(futures[1::3])} == set(range(1, 2000, 3))
    assert not wait(futures).not_done
    assert [future.result() for future in futures] == list(range(2000))
    assert sorted(future.result() for future in called) == list(range(0, 2000, 3))
