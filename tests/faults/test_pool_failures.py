"""Workers that die: where it happens, and what the caller sees. Real processes, real signals."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import BrokenExecutor, wait

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, FORKS, METHODS, SIGNALS, kill, memory_group, wait_until
from needs import many_starts, needs_fork, needs_proc

import sharedarray as sa
from sharedarray import _pipes as pipes
from sharedarray._pool.processes import WorkerProcess, default_method
from sharedarray._pool.processes.exit_codes import explain

# By the way in which a worker dies: the function, its arguments, and the text that the message must have.
DEATHS = {
    "killed": (pool_tasks.die, ("SIGKILL",), r"SIGKILL.*out-of-memory"),
    "crashed": (pool_tasks.die, ("crash",), r"SIGSEGV.*native code"),
    "aborted": (pool_tasks.die, ("SIGABRT",), r"SIGABRT.*abort"),
    "terminated": (pool_tasks.die, ("SIGTERM",), r"SIGTERM.*a request to end"),
    "exits": (pool_tasks.die, ("exit",), r"exit code 7.*os\._exit"),
    "loading": (pool_tasks.identity, (pool_tasks.KillerOnArrival(),), r"identity died.*SIGKILL"),
    **{
        moment: (pool_tasks.die_while_sending, (moment,), r"die_while_sending died.*SIGKILL")
        for moment in ("pickling", "asking", "copying")
    },
}


# Each death of a worker of the usual kind, and one of a fork.
QUICK_DEATHS = {(default_method(), where) for where in (DEATHS if FORKS else ["killed"])}
QUICK_DEATHS.add(("fork", "killed"))


@pytest.mark.parametrize(
    ("method", "where"),
    [
        pytest.param(*each, marks=() if each in QUICK_DEATHS else pytest.mark.slow)
        for each in itertools.product(METHODS, DEATHS)
    ],
)
def test_death_fails_only_its_own_task(method, where, tmp_path):
    function, arguments, says = DEATHS[where]
    if not SIGNALS:
        says = r"access violation.*native code" if where == "crashed" else r"exit code \d+.*os\._exit"
    release = tmp_path / "release"
    with sa.Pool(2, method) as pool:
        other = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "started", release)
        assert pool_tasks.until((tmp_path / "started").exists)
        dead = pool.submit(function, *arguments)
        queued = [pool.submit(pool_tasks.add, n) for n in range(3)]
        with pytest.raises(sa.WorkerDied, match=says) as caught:
            dead.result()
        assert isinstance(caught.value, BrokenExecutor)
        assert "sharedarray-worker-" in str(caught.value)
        assert [future.result() for future in queued] == [1, 2, 3]
        release.touch()
        assert other.result() == "released"
        assert pool.submit(pool_tasks.add, 1).result() == 2
        # Also the slot for a result, half of which was there.
        assert pool_tasks.until(lambda: not pool.stats().recycled_in_use)


@needs_proc
def test_a_worker_that_the_kernel_ends_for_its_memory(first_method):
    """A real one of these deaths, in a control group of its own."""
    group = memory_group(96 << 20)
    if group is None:
        pytest.skip("no memory control group is writable here")
    try:
        with sa.Pool(2, first_method) as pool:
            dead = pool.submit(pool_tasks.use_up_memory, group)
            others = [pool.submit(pool_tasks.add, n) for n in range(10)]
            with pytest.raises(sa.WorkerDied, match=r"use_up_memory died.*SIGKILL.*out-of-memory"):
                dead.result()
            assert [future.result() for future in others] == list(range(1, 11))
            assert pool.submit(pool_tasks.add, 1).result() == 2
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def test_a_worker_whose_end_cannot_be_waited_for_is_not_left(monkeypatch):
    started = []

    def fails(worker):
        started.append(worker)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, sa.Pool(1) as pool:
        patch.setattr(pipes, "exit_descriptor", fails)
        with pytest.raises(sa.WorkerDied, match="could be started") as caught:
            pool.submit(pool_tasks.add, 1).result()
        assert repr(caught.value.__cause__) == repr(RuntimeError("can't start new thread"))
    assert started
    assert not any(worker.is_alive() for worker in started)


def test_killed_from_outside(method, tmp_path):
    with sa.Pool(1, method) as pool:
        future = pool.submit(pool_tasks.signal_and_wait, tmp_path / "pid")
        assert pool_tasks.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        kill(pid)
        with pytest.raises(sa.WorkerDied, match=f"signal_and_wait died.*process {pid}"):
            future.result()


@many_starts
def test_killed_while_idle_is_replaced_without_a_word(method):
    with sa.Pool(2, method) as pool:
        for _ in range(5):
            pid = pool.submit(os.getpid).result()
            kill(pid)
            # The next one may be sent to a worker that is dying; it has not read it.
            assert pool.submit(os.getpid).result() != pid


def test_killed_while_idle_before_shutdown(method):
    with sa.Pool(2, method) as pool:
        for pid in {pool.submit(os.getpid).result() for _ in range(4)}:
            kill(pid)


@needs_fork
def test_killed_with_children_that_keep_its_pipe(method, tmp_path):
    with sa.Pool(1, method) as pool:
        try:
            with pytest.raises(sa.WorkerDied, match="SIGKILL"):
                pool.submit(pool_tasks.forget_and_fork, tmp_path / "end").result(timeout=60)
            assert pool.submit(pool_tasks.add, 1).result() == 2
        finally:
            (tmp_path / "end").touch()


@many_starts
def test_retries(method, tmp_path):
    with sa.Pool(2, method, retries=2) as pool:
        assert pool.submit(pool_tasks.die_the_first_time, tmp_path / "here").result() == "second time"
        counter = tmp_path / "counter"
        counter.write_bytes(b"xx")
        assert pool.submit(pool_tasks.count_down, counter).result() == "done"
        counter.write_bytes(b"xxx")
        with pytest.raises(sa.WorkerDied):
            pool.submit(pool_tasks.count_down, counter).result()


@many_starts
def test_a_retried_task_gets_the_same_arguments(tmp_path):
    def change_and_die(array, path):
        array += 1
        pool_tasks.die_the_first_time(path)
        return array

    big = np.zeros(100_000)
    with sa.Pool(1, retries=1) as pool:
        assert (pool.submit(change_and_die, big, tmp_path / "here").result() == 1).all()


def test_initializer_that_raises(method):
    with sa.Pool(2, method, pool_tasks.refuse_to_start) as pool:
        futures = [pool.submit(pool_tasks.add, n) for n in range(4)] if method != "fork" else []
        if method == "fork":
            futures = [pool.submit(pool_tasks.add, 1)]
        for future in futures:
            with pytest.raises(sa.WorkerDied, match="initializer raised") as caught:
                future.result()
            assert isinstance(caught.value.__cause__, pool_tasks.Plain)
            assert "refuse_to_start" in str(caught.value.__cause__.__cause__)
        with pytest.raises(sa.WorkerDied, match="initializer raised"):
            pool.submit(pool_tasks.add, 1)


def test_a_pool_that_breaks_fails_what_waits_behind_a_cancelled_call(first_method, tmp_path):
    refuse = tmp_path / "refuse"
    with sa.Pool(1, first_method, pool_tasks.refuse_to_start_later, (refuse,)) as pool:
        futures = [pool.submit(pool_tasks.add, number) for number in range(4)]
        assert futures[1].cancel()
        refuse.touch()
        for future in (futures[0], *futures[2:]):
            with pytest.raises(sa.WorkerDied, match="initializer raised"):
                future.result(60)
        assert futures[1].cancelled()
        assert not wait(futures, 30).not_done


def test_a_pool_does_not_poll_for_the_end_of_a_killed_worker(monkeypatch):
    with sa.Pool(1) as pool:
        pool.submit(os.getpid).result()
        core, rounds, killed = pool._core, [], []
        plain = core.housekeeping.run_once
        monkeypatch.setattr(core.housekeeping, "run_once", lambda: rounds.append(1) or plain())
        # As if the kernel took long to free its memory.
        monkeypatch.setattr(WorkerProcess, "kill", lambda process, *_: killed.append(process))
        future = pool.options(timeout=0.05).submit(pool_tasks.pause, 60)
        wait_until(lambda: killed, "the worker is killed")
        before = len(rounds)
        threading.Event().wait(0.2)
        found = len(rounds) - before
        monkeypatch.undo()
        killed[0].kill()
        with pytest.raises(TimeoutError):
            future.result(60)
    assert found < 20


def test_a_call_that_waits_for_its_second_worker_can_be_cancelled(tmp_path):
    release, started = tmp_path / "release", tmp_path / "started"
    setup = pool_tasks.wait_unless_first, (tmp_path / "first", release)
    with sa.Pool(1, None, *setup, retries=1) as pool:
        future = pool.submit(pool_tasks.signal_and_wait, started)
        wait_until(lambda: started.exists() and started.read_text(), "the call runs")
        kill(int(started.read_text()))
        wait_until(lambda: pool.stats().retried, "the call waits again")
        later = pool.submit(pool_tasks.add, 1)
        cancelled = future.cancel()
        if not cancelled:
            pool.kill_workers()
        release.touch()
        assert cancelled
        assert future.cancelled()
        assert later.result(60) == 2
        assert pool.stats().cancelled == 1


@many_starts
def test_initializer_that_dies_once(method, tmp_path):
    with sa.Pool(1, method, pool_tasks.die_the_first_time, (tmp_path / "here",)) as pool:
        assert pool.submit(pool_tasks.add, 1).result() == 2


@many_starts
@pytest.mark.parametrize("how", ["SIGKILL", "exit"])
def test_initializer_that_dies_each_time(method, how):
    with sa.Pool(2, method, pool_tasks.die, (how,)) as pool:
        future = pool.submit(pool_tasks.add, 1)
        with pytest.raises(sa.WorkerDied, match=r"before they were ready.*initializer"):
            future.result()
        with pytest.raises(sa.WorkerDied):
            pool.submit(pool_tasks.add, 1)


def test_initializer_that_cannot_be_sent():
    with sa.Pool(1, initializer=pool_tasks.set_state, initargs=(threading.Lock(),)) as pool:
        with pytest.raises(sa.WorkerDied, match="could be started") as caught:
            pool.submit(pool_tasks.add, 1).result()
        assert caught.value.__cause__ is not None


@pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")
@pytest.mark.lingers("descriptor")  # the pipe to the new server
def test_the_fork_server_is_killed():
    import psutil

    with sa.Pool(2, "forkserver") as pool:
        pid = pool.submit(os.getpid).result()
        server = psutil.Process(pid).parent()
        assert server.pid != os.getpid()
        server.kill()
        assert pool.submit(pool_tasks.add, 1).result() == 2
        with pytest.raises(sa.WorkerDied):
            pool.submit(pool_tasks.die, "SIGKILL").result()
        assert pool.submit(os.getpid).result() != pid


def test_what_windows_says_of_a_crash_is_explained():
    death = explain(0xC0000005)
    assert "access violation" in death.how
    assert "native code" in death.cause


@many_starts
def test_a_burst_of_deaths(method):
    def maybe_die(n):
        if n % 7 == 3:
            os.kill(os.getpid(), pool_tasks.KILL)
        return n

    with sa.Pool(2, method) as pool:
        futures = [pool.submit(maybe_die, n) for n in range(40)]
        for n, future in enumerate(futures):
            if n % 7 == 3:
                with pytest.raises(sa.WorkerDied):
                    future.result()
            else:
                assert future.result() == n


def test_what_a_dead_worker_held_is_free(method):
    def make_and_die():
        global kept
        kept = sa.ones(1000, name="left-by-a-worker")
        pool_tasks.die("SIGKILL")

    with sa.Pool(1, method) as pool:
        with pytest.raises(sa.WorkerDied):
            pool.submit(make_and_die).result()
        assert pool_tasks.until(lambda: not sa.exists("left-by-a-worker"))


@pytest.mark.parametrize(
    ("damage", "idle"),
    [
        ("DROPPED", True),
        ("DROPPED", False),
        ("LENGTH", True),
        pytest.param("READY", True, marks=pytest.mark.slow),
        pytest.param("REFUSED", True, marks=pytest.mark.slow),
        pytest.param("UNKNOWN", False, marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_sends_what_does_not_fit_is_the_only_one_that_is_killed(idle, damage, tmp_path):
    started, release, go = (tmp_path / name for name in ("started", "release", "go"))
    with sa.Pool(2) as pool:
        other = pool.submit(pool_tasks.signal_and_wait_for, started, release)
        wait_until(started.exists, "the other worker runs a call")
        future = pool.submit(pool_tasks.send_what_does_not_fit, damage, go if idle else None)
        if idle:
            damaged = future.result(ANSWER)
            go.touch()
            wait_until(lambda: damaged not in pool.stats().pids, "it is killed")
        else:
            with pytest.raises(sa.WorkerDied):
                future.result(ANSWER)
        assert pool.submit(abs, -1).result(ANSWER) == 1
        release.touch()
        assert other.result(ANSWER) == "released"
