"""The futures of a pool, which have a condition only when it is asked for."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, as_completed, wait

import pool_tasks
import pytest
from helpers import ANSWER, wait_until
from needs import needs_signals

from sharedarray._pool import futures
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
    condition = futures._Condition

    def slowly():
        if threading.current_thread() is not other:
            other.start()
            other.join(0.2)
        return condition()

    monkeypatch.setattr(futures, "_Condition", slowly)
    mine = future._condition
    other.join()
    assert got == [mine]


def test_of_results_that_come_many_at_a_time(pool):
    mine = [pool.submit(pool_tasks.identity, number) for number in range(2000)]
    called = []
    for future in mine[::3]:
        future.add_done_callback(called.append)
    assert {future.result() for future in as_completed(mine[1::3])} == set(range(1, 2000, 3))
    assert not wait(mine).not_done
    assert [future.result() for future in mine] == list(range(2000))
    wait_until(lambda: len(called) == len(mine[::3]), "the pool's thread has called all callbacks")
    assert sorted(future.result() for future in called) == list(range(0, 2000, 3))


def free(them):
    """Return whether another thread can lock the conditions of these."""
    taken = []

    def take():
        for future in them:
            taken.append(future._condition.acquire(timeout=ANSWER))
            if taken[-1]:
                future._condition.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return all(taken)


def interrupt_at(monkeypatch, name, count):
    """Raise Ctrl-C when a method of a future's condition has been called so often."""
    kind = type(PoolFuture()._condition)
    plain = getattr(kind, name)
    calls = []

    def interrupted(condition, *args):
        found = plain(condition, *args)
        calls.append(None)
        if len(calls) == count:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(kind, name, interrupted)


@pytest.mark.parametrize("name", ["acquire", "release", "__enter__"])
@pytest.mark.parametrize(
    "way", [lambda futures: wait(futures, 0), lambda futures: list(as_completed(futures))]
)
@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_in_the_standard_library_leaves_no_condition_locked(name, way, count, monkeypatch):
    """The pool's thread would wait for it when it settles the future."""
    pair = [PoolFuture(), PoolFuture()]
    for future in pair:
        _ = future._condition
        assert future.begin()
        future.put(0, [None])
    with monkeypatch.context() as patch:
        interrupt_at(patch, name, count)
        try:
            way(pair)
        except KeyboardInterrupt:
            pass
        else:
            assert name == "__enter__"  # which is not called each time
    assert free(pair)


@needs_signals  # with which one thread interrupts another
@pytest.mark.parametrize("way", ["result", "exception"])
def test_ctrl_c_breaks_off_the_wait_for_a_future(way, monkeypatch):
    future = PoolFuture()
    condition = future._condition
    timer = threading.Thread(target=lambda: (wait_until(lambda: condition._waiters, "it waits"), interrupt()))

    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    timer.start()
    with pytest.raises(KeyboardInterrupt):
        getattr(future, way)(ANSWER)
    timer.join()
    assert not condition._waiters
    assert free([future])


def test_the_condition_of_a_future_waits_and_wakes():
    future = PoolFuture()
    condition = future._condition
    with condition:
        assert not condition.wait(0)
    assert not condition._waiters
    threads = [threading.Thread(target=future.result, args=(ANSWER,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(condition._waiters) == 3, "all wait")
    assert future.begin()
    future.put(0, [1])
    for thread in threads:
        thread.join()
    assert future.result() == 1
