"""Callbacks of futures: they may wait for whatever the pool has to do, and keep nothing else waiting."""

from __future__ import annotations

import os
import threading
from concurrent import futures

import pool_broken
import pool_tasks
import pytest
from helpers import ANSWER, kill, wait_until
from needs import few

import sharedarray as sa

LIMIT = ANSWER  # seconds within which each wait here is over, on a machine that is busy


def waits(future):
    return future.result(LIMIT)


def waits_with_others(future):
    done, _ = futures.wait([future], LIMIT)
    return future.result(0) if done else "in vain"


def waits_for_an_event(future):
    came = threading.Event()
    thread = threading.Thread(target=lambda: (futures.wait([future], LIMIT), came.set()))
    thread.start()
    found = future.result(0) if came.wait(LIMIT) else "in vain"
    thread.join()
    return found


EACH_WAY = pytest.mark.parametrize("way", few([waits, waits_with_others, waits_for_an_event], 2))


def called(future, callback):
    """Add a callback, and return what is to be filled by what it returns or raises."""
    came = []

    def call(done):
        try:
            came.append(callback(done))
        except BaseException as raised:
            came.append(raised)

    future.add_done_callback(call)
    return came


def of(came):
    wait_until(lambda: came, "the callback returns", 2 * LIMIT)
    return came[0]


@EACH_WAY
def test_for_a_result_that_came_with_its_own(pool, way):
    assert list(pool.map(abs, range(100))) == list(range(100))  # known to be quick: many in a message
    for _ in range(3):
        many = [pool.submit(abs, -n) for n in range(100)]
        came = [called(many[n], lambda _, later=many[n + 1]: way(later)) for n in range(0, 98, 7)]
        assert many[-1].result(LIMIT) == 99
        assert [of(each) for each in came] == list(range(1, 99, 7))


@EACH_WAY
def test_for_a_worker_that_is_to_be_started(tmp_path, way):
    with sa.Pool(2) as pool:
        first = pool.submit(pool_tasks.identity, 1)

        def both(_):
            met = [pool.submit(pool_tasks.meet, tmp_path, 2) for _ in range(2)]
            return [way(future) for future in met]

        assert of(called(first, both)) == [2, 2]


@EACH_WAY
def test_for_a_worker_that_dies(tmp_path, way):
    with sa.Pool(1) as pool:

        def last(_):
            dying = pool.submit(pool_tasks.die, "SIGKILL")
            with pytest.raises(sa.WorkerDied):
                way(dying)
            return way(pool.submit(pool_tasks.add, 1))

        assert of(called(pool.submit(pool_tasks.add, 0), last)) == 2


def test_for_a_task_that_is_ended(tmp_path):
    with sa.Pool(1) as pool:

        def end(_):
            running = pool.submit(pool_tasks.signal_and_wait, tmp_path / "started")
            wait_until((tmp_path / "started").exists, "the task begins")
            return running.cancel(running=True), running.cancelled()

        assert of(called(pool.submit(abs, -1), end)) == (True, True)
        limited = pool.options(timeout=0.1)
        late = of(called(pool.submit(abs, -1), lambda _: waits(limited.submit(hang))))
        assert isinstance(late, TimeoutError)


def hang():
    threading.Event().wait()


def test_one_that_never_waits_for_the_pool_does_not_keep_it_waiting():
    with sa.Pool(1) as pool:
        begun, go_on = threading.Event(), threading.Event()
        held = called(pool.submit(abs, -1), lambda _: begun.set() or go_on.wait(LIMIT))
        assert begun.wait(LIMIT)
        try:
            kill(pool.submit(os.getpid).result(LIMIT))
            assert pool.submit(abs, -2).result(LIMIT) == 2
            assert [f.result(0) for f in futures.wait([pool.submit(abs, -3)], LIMIT).done] == [3]
            assert not held
        finally:
            go_on.set()
        assert of(held) is True


def test_they_are_called_one_after_the_other_and_before_the_end():
    inside, most, count = [], [], [0]

    def counts(_):
        inside.append(1)
        most.append(len(inside))
        seen = count[0]
        threading.Event().wait(0.03)
        count[0] = seen + 1
        inside.pop()

    with sa.Pool(2) as pool:
        for n in range(8):
            pool.submit(abs, n).add_done_callback(counts)
    assert (count[0], max(most)) == (8, 1)


@pytest.mark.parametrize("error", few([SystemExit, KeyboardInterrupt, ValueError]))
def test_one_that_raises_anything_ends_nothing_else(pool, caplog, error):
    came = []

    def fails(_):
        raise error("a callback")

    future = pool.submit(pool_tasks.pause, 0.05)
    future.add_done_callback(fails)
    future.add_done_callback(came.append)
    assert future.result(LIMIT) == 0.05
    assert of(came) is future
    assert "exception calling callback" in caplog.text
    assert pool.submit(abs, -1).result(LIMIT) == 1


def test_a_result_whose_loading_waits_for_another_is_an_error(pool):
    other = pool_broken.awaited = pool.submit(pool_tasks.pause, 0.2)
    error = pool.submit(pool_broken.return_waiting).exception(LIMIT)
    assert isinstance(error, sa.NotPicklableError)
    assert "DeadlockError" in str(error)
    assert other.result(LIMIT) == 0.2
    pool_broken.awaited = None
