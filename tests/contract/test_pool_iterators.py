"""Iterators over results: what Ctrl-C leaves behind, what an exception keeps, and other threads."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from functools import partial

import pool_tasks
import pytest
from helpers import ANSWER, interrupted_at, wait_until

import sharedarray as sa
from sharedarray._executor.results import AsTaken
from sharedarray._pool.core import PoolCore

WAYS = {
    "map": lambda pool, function, items: pool.map(function, items),
    "imap_unordered": lambda pool, function, items: pool.imap_unordered(function, items),
    "buffer": lambda pool, function, items: pool.map(function, items, buffersize=1000),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


# -- Ctrl-C ----------------------------------------------------------------------------------------------


class Unpacked:
    """An argument whose packing Ctrl-C breaks off."""

    def __reduce__(self):
        raise KeyboardInterrupt


def drained(results):
    """Take all that an iterator gives, exceptions included; return how many outcomes that were."""
    count = 0
    while True:
        try:
            next(results)
        except StopIteration:
            return count
        except BaseException:
            pass
        count += 1


def test_an_item_whose_packing_was_broken_off_is_not_waited_for():
    pool = sa.Pool(1)
    results = pool.imap_unordered(pool_tasks.add, [*range(10), Unpacked(), 11])
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown()
    counts = []
    thread = threading.Thread(target=lambda: counts.append(drained(results)), daemon=True)
    thread.start()
    thread.join(ANSWER)
    assert counts == [11]  # the calls that were submitted, and why there are no more
    assert "10 tasks" in str(pool.copy_report())


def test_ctrl_c_as_calls_are_submitted_cancels_them(way, monkeypatch, tmp_path):
    """There is no iterator then, and no code that could take the results."""
    enqueue, gate = PoolCore.enqueue, tmp_path / "gate"

    def interrupted(self, *given):
        enqueue(self, *given)
        signal.raise_signal(signal.SIGINT)  # which is raised when the block that defers it ends

    with sa.Pool(1) as pool:
        assert pool.submit(pool_tasks.add, 1).result() == 2
        monkeypatch.setattr(PoolCore, "enqueue", interrupted)
        with pytest.raises(KeyboardInterrupt):
            way(
                pool,
                partial(pool_tasks.touch_after, gate=gate),
                [str(tmp_path / f"made{n}") for n in range(20)],
            )
        monkeypatch.undo()
        gate.touch()
        assert pool.submit(pool_tasks.add, 2).result() == 3
        assert not pool._core.iterators._there()
    assert not list(tmp_path.glob("made*"))


# A `with` statement is traced once more before it gives up its lock, in which place no signal is handled.
NEVER = (AsTaken.__next__.__code__, AsTaken.close.__code__)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [5])
def test_a_pool_goes_on_wherever_ctrl_c_comes(way, stride):
    with sa.Pool(2) as pool:
        work = lambda: drained(way(pool, pool_tasks.add, range(12)))  # noqa: E731
        work()
        step = 0
        while interrupted_at(step, work, NEVER):
            assert pool.submit(pool_tasks.add, 1).result(ANSWER) == 2
            gc.collect()
            wait_until(lambda: not pool._core.iterators._there(), "nothing stays registered", ANSWER)
            wait_until(lambda: not pool.stats().queued + pool.stats().running, "all is over", ANSWER)
            step += stride


# -- what an exception keeps -----------------------------------------------------------------------------


def failure(results):
    """Return the exception of an iterator, with the frames of the library as they are."""
    try:
        while True:
            next(results)
    except ValueError as raised:
        return raised
    finally:
        del results


def test_an_exception_that_is_kept_keeps_no_results(way, pool):
    results = way(pool, pool_tasks.Traced.unless_10, range(20))
    wait_until(lambda: not pool.stats().queued + pool.stats().running, "all are done", ANSWER)
    error = failure(results)
    assert str(error) == "10"
    del results
    wait_until(lambda: gc.collect() is None or not pool_tasks.Traced.living, "all are gone", ANSWER)


def test_an_exception_that_is_kept_keeps_no_pool(way):
    pool = sa.Pool(1)
    results = way(pool, pool_tasks.Traced.unless_10, range(20))
    error = failure(results)
    there = weakref.ref(pool)
    del pool, results
    gc.collect()
    assert str(error) == "10"
    assert there() is None


@pytest.mark.parametrize("buffered", [False, True])
def test_an_exception_of_the_iterable_is_gone_with_the_iterator(pool, buffered):
    """It has frames that refer to the iterator, which would wait for the garbage collector."""

    class BadItemError(Exception):
        def __init__(self):
            there.append(weakref.ref(self))

    def items():
        yield from range(8)
        raise BadItemError

    more = {"buffersize": 8} if buffered else {}
    there = []
    gc.collect()
    gc.disable()
    try:
        results = getattr(pool, "map" if buffered else "imap_unordered")(pool_tasks.add, items(), **more)
        next(results)
        results.close()
        assert [each() for each in there] == [None]
    finally:
        gc.enable()


# -- other threads ---------------------------------------------------------------------------------------


def test_an_iterator_in_another_thread_cannot_be_closed(pool):
    """Whatever that thread is at, as it takes a result."""
    results = pool.imap_unordered(pool_tasks.add, range(3))
    held, done = threading.Event(), threading.Event()

    def hold():
        with results._feed.lock:
            held.set()
            assert done.wait(ANSWER)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(ANSWER)
    with pytest.raises(ValueError, match="is being waited for"):
        results.close()
    done.set()
    thread.join()
    assert sorted(results) == [1, 2, 3]
    results.close()


def test_an_iterable_cannot_advance_the_iterator_that_advances_it(pool):
    given = []

    def items():
        yield from range(9)
        next(given[0])

    given.append(pool.imap_unordered(pool_tasks.add, items()))
    with pytest.raises(ValueError, match="cannot be asked for another one"):
        list(given[0])


# -- items that are packed as the arguments of `submit` --------------------------------------------------


@pytest.mark.parametrize("value", [[1, 2.5], (1, "two"), {"three": 3}])
def test_short_lists_and_their_like_share_a_message(pool, monkeypatch, value):
    """Both items of a map and arguments of a call: a pickle for each takes three times as long."""
    tasks = []
    enqueue = PoolCore.enqueue
    monkeypatch.setattr(PoolCore, "enqueue", lambda *given: (tasks.extend(given[1]), enqueue(*given))[1])
    for way in WAYS.values():
        assert list(way(pool, pool_tasks.identity, [value] * 3)) == [value] * 3
    assert pool.submit(pool_tasks.identity, value).result() == value
    assert [task.is_small for task in tasks] == [True] * 10
