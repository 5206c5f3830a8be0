"""Objects that tasks leave behind do not hold the pool up; pools in the processes of other libraries."""

from __future__ import annotations

import multiprocessing
import os
import signal

import leftovers
import pytest
from helpers import FORKS, alive, wait_until
from needs import few, needs_signals

import sharedarray as sa
from sharedarray._pool import supervisor
from sharedarray._pool.processes import default_method

CHOSEN = default_method()
LATE = 60.0  # seconds that an end may take on a busy machine; what does not end takes for ever
IDLE = [
    pytest.param(what, marks=pytest.mark.slow if what in ("loky", "multiprocessing", "threads") else ())
    for what in leftovers.IDLE
]


@pytest.fixture(autouse=True)
def not_for_ever():
    """Fail a test that hangs in the end of a pool, where pytest would wait with it."""
    if not hasattr(signal, "alarm"):
        yield
        return

    def late(number, frame):
        for child in multiprocessing.active_children():
            child.kill()
        raise AssertionError(f"the end does not come within {LATE:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(LATE))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -- in our workers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", IDLE)
def test_what_is_left_idle_ends_in_order(what, method, tmp_path):
    if what == "loky":
        pytest.importorskip("joblib")
    if what == "multiprocessing" and FORKS and method != "fork":
        method = "fork"
    with sa.Pool(1, method) as pool:
        assert pool.submit(leftovers.leave, what, method, tmp_path / "ended").result() == 1
    assert (tmp_path / "ended").exists()


def test_what_is_left_idle_ends_with_a_replaced_worker(tmp_path):
    with sa.Pool(1, max_tasks_per_child=1) as pool:
        assert pool.submit(leftovers.leave, "pool", CHOSEN, tmp_path / "ended").result() == 1
        assert pool.submit(abs, -2).result() == 2
        wait_until((tmp_path / "ended").exists, "the worker has ended", LATE)


@pytest.mark.parametrize("what", few(list(leftovers.BUSY), 3))
def test_what_never_ends_is_given_up(what, first_method, tmp_path):
    with sa.Pool(1, first_method) as pool:
        pid = pool.submit(leftovers.leave_busy, what, tmp_path / "pid", 0.1).result()
    if pid is not None:
        wait_until(lambda: not alive(pid), "the process that a task has left is gone", LATE)


@needs_signals
def test_native_code_that_never_ends_is_killed(monkeypatch):
    monkeypatch.setattr(supervisor, "STOPPED", 0.2)
    with sa.Pool(1) as pool:
        pool.submit(leftovers.leave_native_code).result()


def test_what_a_worker_has_printed_is_not_lost_when_it_is_given_up(tmp_path):
    out = tmp_path / "out"
    with sa.Pool(1) as pool:
        pool.submit(leftovers.print_to, out).result()
        pool.submit(leftovers.leave_busy, "thread", None, 0.1).result()
    assert out.read_text() == "printed\n"


# -- in processes of other libraries --------------------------------------------------------------------


def started(target, method, daemon, *args):
    """Run `target(*args, connection)` in a process of multiprocessing; that, and our end."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context(method)
    process = context.Process(target=target, args=(*args, there), daemon=daemon)
    process.start()
    there.close()
    return process, here


@pytest.mark.parametrize("daemon", few([True, False]))
def test_a_process_of_multiprocessing_has_a_pool(method, daemon, tmp_path):
    ended = tmp_path / "ended"
    process, here = started(leftovers.answer, method, daemon, leftovers.use_a_pool, (method, ended))
    pid, daemonic = here.recv()
    assert pid not in (process.pid, os.getpid())
    assert not daemonic  # tasks may start processes
    process.join()
    assert process.exitcode == 0
    assert ended.exists()


@pytest.mark.parametrize("daemon", few([True, False]))
def test_a_process_of_multiprocessing_leaves_a_pool(method, daemon, tmp_path):
    ended = tmp_path / "ended"
    process, here = started(leftovers.answer, method, daemon, leftovers.leave, ("pool", method, ended))
    assert here.recv() == 1
    process.join()
    assert process.exitcode == 0
    assert ended.exists()


@needs_signals
@pytest.mark.parametrize("number", few(["SIGTERM", "SIGKILL"]))
def test_workers_end_with_a_daemonic_process(method, number):
    process, here = started(leftovers.use_a_pool_and_wait, method, True, method)
    pid = here.recv()
    os.kill(process.pid, getattr(signal, number))
    process.join()
    wait_until(lambda: not alive(pid), "the worker is gone", LATE)


def test_workers_of_a_pool_of_multiprocessing_have_pools(first_method):
    with multiprocessing.get_context(first_method).Pool(1) as daemons:
        assert daemons.apply(leftovers.nested, (first_method,)) == [1, 2]


def test_workers_of_loky_have_pools():
    loky = pytest.importorskip("joblib").externals.loky
    with loky.ProcessPoolExecutor(1) as executor:
        assert executor.submit(leftovers.nested, CHOSEN).result() == [1, 2]
        assert executor.submit(leftovers.leave_pool, CHOSEN).result() == 1
