"""The futures of a pool, which have a condition only when it is asked for."""

from __future__ import annotations

import threading
from concurrent.futures import Future, as_completed, wait

import pool_tasks
import pytest
from helpers import wait_until

from sharedarray._pool.calls import Raised
from sharedarray._pool.futures import PoolFuture


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


class Disturbed(PoolFuture):
    """In the middle of taking its result, another thread does something to it, if it can."""

    def __setattr__(self, name, value):
        if name == "_result" and value is not None:
            self.other.start()
            self.other.join(0.2)
        super().__setattr__(name, value)


def test_a_callback_that_is_added_while_the_result_comes_is_called():
    future, called = Disturbed(), []
    future.other = threading.Thread(target=future.add_done_callback, args=(called.append,))
    future.begin()
    future.put(0, [1])
    future.other.join()
    assert called == [future]


def test_two_threads_that_ask_first_at_the_same_time_get_one_condition(monkeypatch):
    future, got = PoolFuture(), []
    other = threading.Thread(target=lambda: got.append(future._condition))
    condition = threading.Condition

    def slowly():
        if threading.current_thread() is not other:
            other.start()
            other.join(0.2)
        return condition()

    monkeypatch.setattr(threading, "Condition", slowly)
    mine = future._condition
    other.join()
    assert got == [mine]


def test_of_results_that_come_many_at_a_time(pool):
    futures = [pool.submit(pool_tasks.identity, number) for number in range(2000)]
    called = []
    for future in futures[::3]:
        future.add_done_callback(called.append)
    assert {future.result() for future in as_completed(futures[1::3])} == set(range(1, 2000, 3))
    assert not wait(futures).not_done
    assert [future.result() for future in futures] == list(range(2000))
    wait_until(lambda: len(called) == len(futures[::3]), "the pool's thread has called all callbacks")
    assert sorted(future.result() for future in called) == list(range(0, 2000, 3))
