"""Races between two steps of a thread of the pool: a gate holds it there, and another thread acts."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing import resource_tracker
from typing import Any

import pool_tasks
import pytest
from helpers import ANSWER, SIGNALS, kill, stopped, wait_until
from needs import needs_fork

import sharedarray as sa
from sharedarray._pool import futures as pool_futures, processes, reader
from sharedarray._pool.calls import FunctionStats, Task
from sharedarray._pool.futures import PoolFuture
from sharedarray._pool.supervisor import Supervisor

ENDS = ANSWER  # seconds within which a pool must have ended


class Gate:
    """Stands before a function: the first thread that comes waits until the gate is opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.is_reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_reached.is_set():
            self.is_reached.set()
            assert self.opened.wait(ENDS)
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


def in_thread(function: Callable[..., Any], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def ends(thread: threading.Thread) -> bool:
    thread.join(ENDS)
    return not thread.is_alive()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_pool_does_not_end_before_the_calls_of_a_dead_worker_are_settled(monkeypatch, tmp_path, retries):
    """A caller notices the death, and the pool's thread looks whether anything is left to do."""
    pool = sa.Pool(1, retries=retries)
    pool.submit(pool_tasks.add, 1).result()
    started, release, called = tmp_path / "started", tmp_path / "release", threading.Event()
    future = pool.submit(pool_tasks.signal_and_wait_for, started, release)
    future.add_done_callback(lambda _: called.set())
    assert pool_tasks.until(started.exists)
    gate = Gate(Supervisor._requeue)
    monkeypatch.setattr(Supervisor, "_requeue", gate)
    outcomes: list[object] = []
    caller = in_thread(lambda: outcomes.append(future.exception()))
    core = pool._core
    wait_until(lambda: core.receiver.reader.owner == caller.ident, "the caller reads")
    pool.shutdown(wait=False)
    kill(core.handles[0].pid)
    assert gate.is_reached.wait(ENDS)  # by the caller: the call goes on until here, so it waits for it
    release.touch()  # for the second worker, if there is one
    tended = threading.Event()
    monkeypatch.setattr(core.store, "trim", lambda _, trim=core.store.trim: (tended.set(), trim(_))[1])
    core.wake()
    assert tended.wait(ENDS)
    gate.opened.set()
    assert ends(caller)
    assert isinstance(outcomes[0], type(None) if retries else sa.WorkerDied)
    pool.shutdown()
    assert called.is_set()


def test_a_worker_that_is_killed_before_it_has_a_process_ends(monkeypatch, tmp_path):
    """The pool fails while its thread starts a second worker."""
    release = tmp_path / "release"
    pool = sa.Pool(2)
    pool.submit(pool_tasks.add, 1).result()
    gate = Gate(processes.start)
    monkeypatch.setattr(processes, "start", gate)
    futures = [pool.submit(pool_tasks.wait_if_path, str(release)) for _ in range(4)]
    assert gate.is_reached.wait(ENDS)
    pool._core.fail_for_good("it is broken", None)
    gate.opened.set()
    assert all(isinstance(future.exception(ENDS), sa.WorkerDied) for future in futures)
    assert ends(in_thread(pool.shutdown))


def test_who_asks_for_an_answer_needs_no_patience_while_another_thread_has_the_lock(monkeypatch):
    """The caller must not wait for the lock, so the pool's thread ends the lease for it."""
    monkeypatch.setattr(reader, "LEASE", 1000.0)
    with sa.Pool(1) as pool:
        core = pool._core
        wait_until(
            lambda: pool.submit(pool_tasks.add, 1).result() and core.receiver.reader.state == "leased",
            "the role is leased",
        )
        future, called, held, free = pool.submit(pool_tasks.add, 1), *(threading.Event() for _ in range(3))

        def hold() -> None:
            with core.lock:
                held.set()
                assert free.wait(ENDS)

        holder = in_thread(hold)
        assert held.wait(ENDS)
        future.add_done_callback(lambda _: called.set())
        free.set()
        assert called.wait(ENDS)
        assert ends(holder)


@pytest.mark.skipif(not SIGNALS, reason="a process cannot be stopped here")
def test_the_pipe_of_a_dead_worker_keeps_no_thread_busy(monkeypatch, tmp_path):
    """Something waits to be written to it, and the thread that reads does not come to its exit."""
    started, release = tmp_path / "started", tmp_path / "release"
    rounds: list[int] = []
    with sa.Pool(2, retries=1) as pool:
        future = pool.submit(pool_tasks.signal_and_wait_for, started, release)
        assert pool_tasks.until(started.exists)
        pool.submit(pool_tasks.add, 1).result()  # the other worker is there
        core = pool._core
        worker = next(each for each in core.handles if each.load)
        tend = core.housekeeping.run_once
        monkeypatch.setattr(core.housekeeping, "run_once", lambda: rounds.append(1) or tend())

        def hook() -> None:
            kill(worker.pid)
            wait_until(lambda: worker.state == "killing", "the pool's thread finds that it is dead")
            rounds.clear()
            threading.Event().wait(0.2)

        with core.lock:
            worker.channel.queue([b"no frame", bytes(1 << 22)])
            worker.channel.flush()
            core.dispatcher.watch_writing(worker)
        monkeypatch.setattr(pool_tasks, "hooks", [hook])
        me, go = threading.get_ident(), tmp_path / "go"
        answered = pool.submit(pool_tasks.loaded_after, go)

        def let_go() -> None:
            wait_until(lambda: core.receiver.reader.owner == me, "this thread reads")
            go.touch()

        in_thread(let_go)
        answered.result()
        found = len(rounds)
        release.touch()
        assert future.result(ENDS) == "released"
    assert found < 20


@pytest.mark.skipif(not SIGNALS, reason="a process cannot be stopped here")
@pytest.mark.parametrize("how", ["abort", "fail"])
def test_calls_of_a_dead_worker_are_not_queued_in_a_pool_that_has_ended_meanwhile(monkeypatch, how):
    """Nothing would run or cancel them, and the pool would never end."""
    pool = sa.Pool(1)
    pool.submit(pool_tasks.add, 1).result()
    core = pool._core
    gate = Gate(Supervisor._requeue)
    monkeypatch.setattr(Supervisor, "_requeue", gate)

    def ask() -> None:
        with contextlib.suppress(CancelledError):
            future.exception(ENDS)

    with stopped(core.handles[0].pid):
        future = pool.submit(pool_tasks.add, 1)  # it does not begin
        caller = in_thread(ask)
        wait_until(lambda: core.receiver.reader.owner == caller.ident, "the caller reads")
        kill(core.handles[0].pid)
    assert gate.is_reached.wait(ENDS)
    if how == "abort":
        core.abort()
        wait_until(lambda: not core.cancels_queued, "what is queued is cancelled")
    else:
        core.fail_for_good("it is broken", None)
    gate.opened.set()
    assert ends(in_thread(pool.shutdown))
    assert ends(caller)
    assert future.done()


def test_two_threads_that_cancel_count_both():
    second_counts = threading.Event()

    class First(Task):
        @property
        def remaining(self) -> int:
            second_counts.wait(0.2)
            return 1

    pool = sa.Pool(1)
    core = pool._core
    stats = FunctionStats()
    first = in_thread(core.cancellation.cancel_or_fail, [First(PoolFuture(), "first", stats)])

    def count() -> None:
        core.cancellation.cancel_or_fail([Task(PoolFuture(), "second", stats)])
        second_counts.set()

    second = in_thread(count)
    assert ends(first)
    assert ends(second)
    assert pool.stats().cancelled == 2
    pool.shutdown()


def test_what_interrupts_the_making_of_a_condition_may_use_the_pool(monkeypatch):
    """As a signal handler or a finalizer may do, which interrupts the thread that adds a callback."""
    with sa.Pool(1) as pool:
        future, called, found = pool.submit(pool_tasks.add, 1), threading.Event(), []
        condition = pool_futures._Condition

        def interrupted(*args: Any) -> threading.Condition:
            monkeypatch.setattr(pool_futures, "_Condition", condition)
            found.append(pool.submit(pool_tasks.add, 2).result(ENDS))
            return condition(*args)

        def ask() -> None:
            monkeypatch.setattr(pool_futures, "_Condition", interrupted)
            future.add_done_callback(lambda _: called.set())

        assert ends(in_thread(ask))
        assert found == [3]
        assert called.wait(ENDS)


def test_a_call_begins_though_another_thread_has_the_condition_of_its_future():
    """That thread may be interrupted there by a signal handler that waits for the pool's lock."""
    future = PoolFuture()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with future._condition:
            held.set()
            assert free.wait(ENDS)

    holder = in_thread(hold)
    assert held.wait(ENDS)
    assert ends(in_thread(future.begin))
    assert future._state == "RUNNING"
    free.set()
    assert ends(holder)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_another_thread_speaks_to_the_tracker_of_semaphores_can_make_a_pool():
    resource_tracker.ensure_running()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with resource_tracker._resource_tracker._lock:  # type: ignore[attr-defined]
            held.set()
            assert free.wait(ENDS)

    holder = in_thread(hold)
    assert held.wait(ENDS)
    child = os.fork()
    if not child:
        signal.alarm(int(ENDS))
        resource_tracker.ensure_running()
        os._exit(0)
    free.set()
    assert ends(holder)
    assert os.waitpid(child, 0)[1] == 0
