"""CPython's own tests of executors, run with `Pool` in the place of `ProcessPoolExecutor`.

The tests are those of the interpreter that runs them. Wherever its `test.test_concurrent_futures` has a test
case whose ``executor_type`` is `ProcessPoolExecutor`, there is one here that differs in nothing but that
attribute: so each test runs under fork, forkserver and spawn, and a test that a later Python adds is taken up
by itself. What `Pool` does differently on purpose stands in `DIFFERENCES`, with the reason. Each entry has a
test of ours in the same test cases, called as CPython's with ``__differs`` behind it, that shows what holds
instead; many of them run CPython's own test with one name in it exchanged.

Some things are arranged around the tests, which are not changed themselves:

- A `ProcessPoolExecutor` cannot be made while they run, so that none of them passes on that one's merits.
- Scripts that import the executor by its name from `concurrent.futures` find it in `sharedarray`.
- After tests of `wait` and `as_completed`, tasks that still sleep without a purpose are not waited for.

What CPython's tests only warn of (a thread or a child that is left) fails here.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import process
from pathlib import Path
from pickle import PicklingError, UnpicklingError
from types import ModuleType
from typing import Any
from unittest import mock

import pool_tasks
import pytest
from helpers import ROOT, SIGNALS, SUPPORT, environment, run

import sharedarray as sa
from sharedarray import _pipes as pipes
from sharedarray._pool import RemoteTraceback, processes
from sharedarray._pool.futures import PoolFuture

upstream = pytest.importorskip(
    "test.test_concurrent_futures", reason="this Python was built without its own tests of concurrent.futures"
)
support: Any = importlib.import_module("test.support")

PATIENCE = 60.0  # seconds for what comes at once where cores are free

pytestmark = pytest.mark.slow

# -- the differences ------------------------------------------------------------------------------------

_GOES_ON = "a worker that dies fails only the task that it ran, with WorkerDied; the pool is not broken"
_ITS_OWN = "what raises while a task is loaded in a worker is that task's own exception; the pool goes on"
_UNREADABLE = "a result that cannot be loaded fails its task, with NotPicklableError; the pool goes on"
_PRIVATE = "looks at private attributes of ProcessPoolExecutor: "
_ITSELF = "makes a ProcessPoolExecutor itself, whatever the executor_type"
_FORCE = _PRIVATE + "_force_shutdown"
_BY_OTHERS = (
    "settles a future behind the pool's back; who waits for a pool's future reads the workers' answers "
    "meanwhile, and learns of nothing else in time"
)
_NAME = "the class of a pool's futures has another name"

# By the class of CPython's that has the test, and the name of the test.
DIFFERENCES: dict[tuple[str, str], str] = {
    # Neither a worker that dies nor what cannot be loaded breaks the pool.
    ("ProcessPoolExecutorTest", "test_killed_child"): _GOES_ON,
    ("ProcessPoolExecutorTest", "test_broken_process_pool_traceback"): _GOES_ON,
    ("ProcessPoolExecutorTest", "test_traceback_when_child_process_terminates_abruptly"): _GOES_ON,
    ("ProcessPoolExecutorTest", "test_force_shutdown_workers_dead_workers"): _GOES_ON,
    ("ExecutorDeadlockTest", "test_error_at_task_unpickle"): _ITS_OWN,
    ("ExecutorDeadlockTest", "test_exit_at_task_unpickle"): _ITS_OWN,
    ("ExecutorDeadlockTest", "test_error_during_result_unpickle_in_result_handler"): _UNREADABLE,
    ("ExecutorDeadlockTest", "test_exit_during_result_unpickle_in_result_handler"): _UNREADABLE,
    # Other things that are done otherwise.
    ("ExecutorShutdownTest", "test_cancel_futures"): (
        "wants a task to be past cancelling before there is a worker, as those in the queue of "
        "ProcessPoolExecutor are; a pool cancels all that no worker has begun, which may be all"
    ),
    ("ProcessPoolExecutorTest", "test_max_tasks_per_child"): (
        f"wants max_tasks_per_child to be refused with fork, which a pool can do; and {_PRIVATE}_processes"
    ),
    ("ProcessPoolExecutorTest", "test_max_tasks_per_child_defaults_to_spawn_context"): (
        "wants spawn where workers are replaced and no method was asked for; a pool's default is safe for "
        f"that, since its fork server has no threads; and {_PRIVATE}_mp_context"
    ),
    ("ProcessPoolExecutorTest", "test_python_finalization_error"): (
        "has the executor's second thread fail to start; a pool has only one, or one more for each worker"
    ),
    ("ProcessPoolExecutorTest", "test_shutdown_no_wait_max_tasks_gh119592"): (
        "wants what is queued to fail when the executor is collected, where a pool does it first; and "
        f"{_PRIVATE}_executor_manager_thread"
    ),
    ("ProcessPoolExecutorTest", "test_gc_during_max_tasks_worker_exit_gh152967"): (
        "wants what is queued to fail when the executor is collected, where a pool does it first; and "
        f"{_PRIVATE}_executor_manager_thread"
    ),
    ("FailingInitializerMixin", "test_initializer"): (
        "wants the initializer's exception in the worker's log, where a pool has it as the cause of "
        f"WorkerDied; and {_PRIVATE}_broken"
    ),
    # Other words.
    ("ProcessPoolExecutorTest", "test_traceback"): (
        "the class of the cause is a private one of concurrent.futures.process; here it is RemoteTraceback"
    ),
    ("FutureTests", "test_repr"): _NAME,
    ("FutureTests", "test_multiple_set_result"): _NAME,
    ("FutureTests", "test_multiple_set_exception"): _NAME,
    ("FutureTests", "test_result_with_success"): _BY_OTHERS,
    ("FutureTests", "test_exception_with_success"): _BY_OTHERS,
    # Only `ProcessPoolExecutor` can be tested for this.
    ("ProcessPoolExecutorTest", "test_saturation"): f"{_PRIVATE}_max_workers, _processes",
    ("ProcessPoolExecutorTest", "test_idle_process_reuse_one"): f"{_PRIVATE}_max_workers, _processes",
    ("ProcessPoolExecutorTest", "test_idle_process_reuse_multiple"): f"{_PRIVATE}_max_workers, _processes",
    ("ProcessPoolExecutorTest", "test_terminate_workers"): _FORCE,
    ("ProcessPoolExecutorTest", "test_kill_workers"): _FORCE,
    ("ProcessPoolExecutorTest", "test_force_shutdown_workers_invalid_op"): _FORCE,
    ("ProcessPoolExecutorTest", "test_force_shutdown_workers"): f"{_PRIVATE}_processes",
    ("ProcessPoolExecutorTest", "test_force_shutdown_workers_stops_pool"): f"{_PRIVATE}_processes",
    ("ProcessPoolExecutorTest", "test_force_shutdown_during_max_tasks_worker_exit"): (
        f"{_PRIVATE}_force_shutting_down, _shutdown_lock"
    ),
    ("ProcessPoolExecutorTest", "test_failed_worker_replacement_breaks_pool"): (
        f"{_PRIVATE}_executor_manager_thread, _spawn_worker"
    ),
    ("ProcessPoolExecutorTest", "test_sysconf_permission_error"): _ITSELF,
    ("ProcessPoolExecutorTest", "test_max_workers_too_large"): _ITSELF,
    ("ProcessPoolShutdownTest", "test_processes_terminate"): f"{_PRIVATE}_processes",
    ("ProcessPoolShutdownTest", "test_context_manager_shutdown"): _ITSELF,
    ("ProcessPoolShutdownTest", "test_del_shutdown"): _ITSELF,
    ("ProcessPoolShutdownTest", "test_shutdown_no_wait"): _ITSELF,
    ("ProcessPoolShutdownTest", "test_shutdown_gh_132969_case_1"): _ITSELF,
    ("ProcessPoolShutdownTest", "test_shutdown_gh_132969_case_2"): _ITSELF,
    ("ExecutorDeadlockTest", "test_shutdown_deadlock_pickle"): f"{_PRIVATE}_executor_manager_thread",
}

# The first Python that surely has a test of that name; all others are in every Python that we support.
SINCE: dict[str, tuple[int, int]] = {
    "test_python_finalization_error": (3, 13),
    "test_terminate_workers": (3, 14),
    "test_kill_workers": (3, 14),
    "test_force_shutdown_workers": (3, 14),
    "test_force_shutdown_workers_invalid_op": (3, 14),
    "test_force_shutdown_workers_dead_workers": (3, 14),
    "test_force_shutdown_workers_stops_pool": (3, 14),
    "test_shutdown_gh_132969_case_1": (3, 14),
    "test_shutdown_gh_132969_case_2": (3, 14),
    "test_traceback_when_child_process_terminates_abruptly": (3, 15),
    "test_broken_process_pool_traceback": (3, 15),
    "test_shutdown_no_wait_max_tasks_gh119592": (3, 15),
    "test_gc_during_max_tasks_worker_exit_gh152967": (3, 15),
    "test_force_shutdown_during_max_tasks_worker_exit": (3, 15),
    "test_failed_worker_replacement_breaks_pool": (3, 15),
    "test_sysconf_permission_error": (3, 15),
}

# How the names of CPython's test cases begin that are about other executors, or about nothing.
OF_OTHER_THINGS = ("ThreadPool", "InterpreterPool", "BaseTestCase")

# -- what holds instead ---------------------------------------------------------------------------------

Original = functools.partial[None]
Replacement = Callable[[Any, Original], None]
_replacements: dict[tuple[str, str], Replacement] = {}


def instead_of(case: str, *names: str) -> Callable[[Replacement], Replacement]:
    """Register a function that replaces CPython's tests of these names.

    It is called with the test case and, as ``original``, CPython's test of the same name, ready to be called.
    """

    def note(replacement: Replacement) -> Replacement:
        for name in names:
            assert (case, name) not in _replacements, f"{case}.{name} has two replacements"
            _replacements[case, name] = replacement
        return replacement

    return note


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def every_worker() -> list[Any]:
    """Return the workers that are alive, of all pools of this process."""
    return [
        child for child in multiprocessing.active_children() if child.name.startswith("sharedarray-worker-")
    ]


def workers(test: Any) -> list[Any]:
    """Return the workers that were started in a replacement and are alive."""
    return [child for child in every_worker() if ("worker", child.pid) not in test.parts_before]


def parts() -> set[tuple[str, int | None]]:
    """Everything that pools of this process consist of: their workers and threads."""
    found = {("worker", child.pid) for child in every_worker()}
    return found | {
        ("thread", each.ident) for each in threading.enumerate() if each.name == "sharedarray-pool"
    }


def all_gone(test: Any) -> bool:
    """Return whether no part is left of the pools that were used in a replacement."""
    return pool_tasks.until(lambda: not parts() - test.parts_before, PATIENCE)


@contextlib.contextmanager
def pool_of(*arguments: Any, **options: Any) -> Iterator[sa.Pool]:
    """A pool that is shut down after the block; at once if that failed, for its tasks may wait for ever."""
    pool = sa.Pool(*arguments, **options)
    try:
        yield pool
    except BaseException:
        pool.kill_workers()
        raise
    pool.shutdown()


def blocked(pool: sa.Pool, where: Path, count: int) -> list[futures.Future[str]]:
    """Submit calls that write their worker's pid to ``where``/0, 1, … and wait for ``where``/gate."""
    return [pool.submit(pool_tasks.signal_and_wait_for, where / str(n), where / "gate") for n in range(count)]


def pid_of(where: Path, number: int) -> int:
    path = where / str(number)
    assert pool_tasks.until(lambda: path.exists() and path.read_text(), PATIENCE), "the call has not begun"
    return int(path.read_text())


def goes_on(pool: sa.Pool) -> None:
    assert pool.submit(pow, 2, 8).result(PATIENCE) == 256


def reading(original: Original, name: str, value: object) -> None:
    """Run CPython's test with another meaning of a name in its module."""
    module = sys.modules[original.func.__module__]
    if original.func is _absent:
        original()
    with mock.patch.object(module, name, value):
        original()


@instead_of("ProcessPoolExecutorTest", "test_killed_child")
def only_the_killed_workers_tasks_fail(test, original):
    with directory() as where:
        killed, other = blocked(test.executor, where, 2)
        os.kill(pid_of(where, 0), signal.SIGTERM)
        with pytest.raises(futures.BrokenExecutor, match="SIGTERM" if SIGNALS else "exit code") as caught:
            killed.result(PATIENCE)
        assert isinstance(caught.value, sa.WorkerDied)
        pid_of(where, 1)
        (where / "gate").touch()
        assert other.result(PATIENCE) == "released"
    goes_on(test.executor)


@instead_of(
    "ProcessPoolExecutorTest",
    "test_broken_process_pool_traceback",
    "test_traceback_when_child_process_terminates_abruptly",
)
def each_task_has_an_exception_of_its_own(test, original):
    with pool_of(1, test.get_context()) as pool:
        calls = [pool.submit(os._exit, 99) for _ in range(2)]
        errors = [call.exception(PATIENCE) for call in calls]
        goes_on(pool)
    assert errors[0] is not errors[1]
    for error in errors:
        assert isinstance(error, sa.WorkerDied)
        assert "exit code 99" in str(error)


@instead_of("ExecutorDeadlockTest", "test_error_at_task_unpickle")
def an_error_while_a_task_is_loaded(test, original):
    reading(original, "BrokenProcessPool", UnpicklingError)


@instead_of("ExecutorDeadlockTest", "test_exit_at_task_unpickle")
def an_exit_while_a_task_is_loaded(test, original):
    reading(original, "BrokenProcessPool", SystemExit)


@instead_of(
    "ExecutorDeadlockTest",
    "test_error_during_result_unpickle_in_result_handler",
    "test_exit_during_result_unpickle_in_result_handler",
)
def an_error_while_a_result_is_loaded(test, original):
    assert issubclass(sa.NotPicklableError, PicklingError)
    reading(original, "BrokenProcessPool", sa.NotPicklableError)


@instead_of("ExecutorShutdownTest", "test_cancel_futures")
def what_has_not_begun_is_cancelled(test, original):
    with directory() as where, pool_of(2, test.get_context()) as pool:
        calls = blocked(pool, where, 50)
        begun = {n for n in range(2) if pid_of(where, n)}
        pool.shutdown(wait=False, cancel_futures=True)
        assert pool_tasks.until(lambda: all(call.cancelled() for call in calls[2:]), PATIENCE)
        (where / "gate").touch()
        pool.shutdown()
        assert {n for n, call in enumerate(calls) if not call.cancelled()} == begun
        assert [calls[n].result() for n in begun] == ["released"] * 2
    # If no worker has begun a call, no call stays.
    pool = sa.Pool(2, test.get_context())
    calls = [pool.submit(time.sleep, 0.1) for _ in range(50)]
    pool.shutdown(cancel_futures=True)
    assert all(call.done() for call in calls)


@instead_of("ProcessPoolExecutorTest", "test_max_tasks_per_child")
def workers_are_replaced_under_every_method(test, original):
    with pool_of(1, test.get_context(), max_tasks_per_child=3) as pool:
        pids = []
        for _ in range(7):
            pids.append(pool.submit(os.getpid).result(PATIENCE))
            assert pool.stats().workers <= 1
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] == pids[5] != pids[6]


@instead_of("ProcessPoolExecutorTest", "test_max_tasks_per_child_defaults_to_spawn_context")
def workers_are_replaced_under_the_default_method(test, original):
    with pool_of(1, max_tasks_per_child=1) as pool:
        assert pool.submit(os.getpid).result(PATIENCE) != pool.submit(os.getpid).result(PATIENCE)


_NO_THREADS = """
    import multiprocessing
    import os
    import sys
    import threading
    from unittest import mock

    import sharedarray as sa

    here, start = os.getpid(), threading.Thread.start
    allowed = ["sharedarray-pool"] + ["sharedarray-end"] * int(sys.argv[2])  # these wait for workers' ends

    def limited(thread):
        if os.getpid() == here:
            if not allowed:
                raise RuntimeError("can't create new thread at interpreter shutdown")
            allowed.remove(thread.name)
        start(thread)

    with mock.patch.object(threading.Thread, "start", limited):
        with sa.Pool(2, sys.argv[1]) as pool:
            assert list(pool.map(pow, [2] * 10, range(10))) == [2**n for n in range(10)]
        pool = sa.Pool(2, sys.argv[1])
        try:
            pool.submit(pow, 2, 8)
        except RuntimeError as error:
            print(error)
    pool.shutdown()
    print(multiprocessing.active_children())
"""


@instead_of("ProcessPoolExecutorTest", "test_python_finalization_error")
def one_thread_is_enough_and_none_is_an_error(test, original):
    # In a second interpreter, lest a failure of this keep the first one from ending.
    done = run(_NO_THREADS, test.ctx, 0 if pipes.PIPES else 2)
    assert done.stdout.splitlines() == ["can't create new thread at interpreter shutdown", "[]"]


def queued_and_left(test: Any, *, shutdown: bool, drop: bool) -> None:
    with directory() as where:
        pool = sa.Pool(1, test.get_context(), max_tasks_per_child=1)
        calls = blocked(pool, where, 2)
        pid_of(where, 0)
        if shutdown:
            pool.shutdown(wait=False)
        if drop:
            del pool
            gc.collect()
        (where / "gate").touch()
        assert [call.result(PATIENCE) for call in calls] == ["released"] * 2
    assert all_gone(test)


@instead_of("ProcessPoolExecutorTest", "test_shutdown_no_wait_max_tasks_gh119592")
def what_is_queued_is_done_after_shutdown(test, original):
    queued_and_left(test, shutdown=True, drop=False)
    queued_and_left(test, shutdown=True, drop=True)


@instead_of("ProcessPoolExecutorTest", "test_gc_during_max_tasks_worker_exit_gh152967")
def what_is_queued_is_done_without_the_pool(test, original):
    queued_and_left(test, shutdown=False, drop=True)


@instead_of("FailingInitializerMixin", "test_initializer")
def a_failing_initializer_is_the_cause(test, original):
    with pytest.raises(futures.BrokenExecutor, match="error in initializer") as caught:
        test.executor.submit(pow, 2, 8).result(PATIENCE)
    assert isinstance(caught.value, sa.WorkerDied)
    assert repr(caught.value.__cause__) == "ValueError('error in initializer')"
    with pytest.raises(futures.BrokenExecutor, match="error in initializer"):
        test.executor.submit(pow, 2, 8)
    # CPython's log queue, which has nothing in it here. It goes with the pool, and not with the test case.
    test.log_queue = test.executor_kwargs = None


@instead_of("ProcessPoolExecutorTest", "test_traceback")
def the_workers_traceback_is_the_cause(test, original):
    with mock.patch.object(process, "_RemoteTraceback", RemoteTraceback):
        original()


@instead_of("FutureTests", "test_repr", "test_multiple_set_result", "test_multiple_set_exception")
def a_future_of_another_name(test, original):
    name = PoolFuture.__name__
    PoolFuture.__name__ = "Future"
    try:
        original()
    finally:
        PoolFuture.__name__ = name


@instead_of("FutureTests", "test_result_with_success", "test_exception_with_success")
def all_who_wait_learn_of_it(test, original):
    for function, ask in ((pool_tasks.pause, PoolFuture.result), (pool_tasks.trouble, PoolFuture.exception)):
        with directory() as where:
            (first,) = blocked(test.pool, where, 1)
            future = test.pool.submit(function, *[0.01][: function is pool_tasks.pause])
            heard: list[object] = []
            waiting = [
                threading.Thread(target=lambda: heard.append(ask(future, PATIENCE)))  # noqa: B023
                for _ in range(3)
            ]
            for thread in waiting:
                thread.start()
            pid_of(where, 0)
            (where / "gate").touch()
            for thread in waiting:
                thread.join()
            assert first.result() == "released"
        assert heard in ([0.01] * 3, [future.exception()] * 3)


@instead_of("ProcessPoolExecutorTest", "test_saturation")
def there_are_never_too_many_workers(test, original):
    with directory() as where:
        calls = blocked(test.executor, where, 15 * test.worker_count)
        assert pool_tasks.until(lambda: len(list(where.iterdir())) == test.worker_count, PATIENCE)
        assert test.executor.stats().workers == len(workers(test)) == test.worker_count
        (where / "gate").touch()
        assert {call.result(PATIENCE) for call in calls} == {"released"}
        assert test.executor.stats().workers == len(workers(test)) == test.worker_count


@instead_of("ProcessPoolExecutorTest", "test_idle_process_reuse_one")
def one_worker_is_enough_for_one_task_at_a_time(test, original):
    pids = {test.executor.submit(os.getpid).result(PATIENCE) for _ in range(3)}
    # Forks are made all at once, before there is a thread.
    expected = test.worker_count if test.ctx == "fork" else 1
    assert test.executor.stats().workers == len(workers(test)) == expected
    assert pids <= {child.pid for child in workers(test)}


@instead_of("ProcessPoolExecutorTest", "test_idle_process_reuse_multiple")
def idle_workers_are_used_first(test, original):
    for n in range(3):
        test.executor.submit(pow, 2, n).result(PATIENCE)
        last = test.executor.submit(pow, 3, n)
    assert last.result(PATIENCE) == 9
    assert len(workers(test)) <= (test.worker_count if test.ctx == "fork" else 3)


def end_at_once(test: Any, end: Callable[[sa.Pool], None], **options: Any) -> None:
    with directory() as where, pool_of(1, test.get_context(), **options) as pool:
        calls = blocked(pool, where, 3)
        pid_of(where, 0)
        end(pool)
        assert not workers(test)
        assert isinstance(calls[0].exception(PATIENCE), sa.WorkerDied)
        assert [call.cancelled() for call in calls] == [False, True, True]
        with pytest.raises(RuntimeError):
            pool.submit(pow, 2, 8)
        end(pool)
        assert not (where / "1").exists()


@instead_of("ProcessPoolExecutorTest", "test_terminate_workers")
def terminate_workers_ends_all_at_once(test, original):
    end_at_once(test, sa.Pool.terminate_workers)


@instead_of("ProcessPoolExecutorTest", "test_kill_workers")
def kill_workers_ends_all_at_once(test, original):
    end_at_once(test, sa.Pool.kill_workers)


@instead_of("ProcessPoolExecutorTest", "test_force_shutdown_during_max_tasks_worker_exit")
def a_worker_that_was_to_be_replaced_is_not(test, original):
    end_at_once(test, sa.Pool.kill_workers, max_tasks_per_child=1)


@instead_of(
    "ProcessPoolExecutorTest",
    "test_force_shutdown_workers_invalid_op",
    "test_force_shutdown_workers",
    "test_force_shutdown_workers_stops_pool",
)
def nothing_can_be_submitted_to_a_pool_that_was_ended(test, original):
    goes_on(test.executor)
    test.executor.terminate_workers()
    assert not parts() - test.parts_before
    with pytest.raises(RuntimeError):
        test.executor.submit(pow, 2, 8)


@instead_of("ProcessPoolExecutorTest", "test_force_shutdown_workers_dead_workers")
def workers_can_be_ended_when_they_are_dead(test, original):
    for end in (sa.Pool.terminate_workers, sa.Pool.kill_workers):
        with pool_of(1, test.get_context()) as pool:
            assert isinstance(pool.submit(os._exit, 1).exception(PATIENCE), sa.WorkerDied)
            end(pool)


@instead_of("ProcessPoolExecutorTest", "test_failed_worker_replacement_breaks_pool")
def a_worker_that_cannot_be_replaced_breaks_the_pool(test, original):
    with directory() as where, pool_of(1, test.get_context(), max_tasks_per_child=1) as pool:
        calls = blocked(pool, where, 3)
        pid_of(where, 0)
        with mock.patch.object(processes, "start", side_effect=OSError("spawn failed")):
            (where / "gate").touch()
            assert calls[0].result(PATIENCE) == "released"
            for call in calls[1:]:
                error = call.exception(PATIENCE)
                assert isinstance(error, sa.WorkerDied)
                assert repr(error.__cause__) == "OSError('spawn failed')"


@instead_of("ProcessPoolExecutorTest", "test_sysconf_permission_error")
def the_systems_limits_need_not_be_known(test, original):
    method = test.get_context()
    with (
        mock.patch.object(os, "sysconf", side_effect=PermissionError, create=True),
        pool_of(1, method) as pool,
    ):
        goes_on(pool)


@instead_of("ProcessPoolExecutorTest", "test_max_workers_too_large")
def as_many_workers_as_can_be_waited_for(test, original):
    if pipes.MAX_WORKERS is None:
        raise unittest.SkipTest("any number of workers can be waited for here")
    with pytest.raises(ValueError, match=f"at most {pipes.MAX_WORKERS}"):
        sa.Pool(pipes.MAX_WORKERS + 1, test.get_context())
    sa.Pool(pipes.MAX_WORKERS, test.get_context()).shutdown()


@instead_of("ProcessPoolShutdownTest", "test_processes_terminate")
def after_shutdown_nothing_is_left(test, original):
    with directory() as where:
        calls = blocked(test.executor, where, 3)
        pids = {pid_of(where, n) for n in range(3)}
        assert len(pids) == 3
        assert pids <= {child.pid for child in workers(test)}
        (where / "gate").touch()
        test.executor.shutdown()
        assert all(call.done() for call in calls)
    assert not parts() - test.parts_before


@instead_of("ProcessPoolShutdownTest", "test_context_manager_shutdown")
def after_the_with_block_nothing_is_left(test, original):
    with sa.Pool(2, test.get_context()) as pool:
        assert list(pool.map(abs, range(-5, 5))) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert not parts() - test.parts_before


@instead_of("ProcessPoolShutdownTest", "test_del_shutdown")
def a_pool_that_is_collected_does_all_first(test, original):
    pool = sa.Pool(2, test.get_context())
    results = pool.map(abs, range(-5, 5))
    del pool
    gc.collect()
    assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert all_gone(test)


@instead_of("ProcessPoolShutdownTest", "test_shutdown_no_wait")
def a_pool_without_a_waiter_does_all_first(test, original):
    pool = sa.Pool(2, test.get_context())
    results = pool.map(abs, range(-5, 5))
    pool.shutdown(wait=False)
    assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert all_gone(test)


def fail_and_shut_down(test: Any, count: int) -> None:
    pool = sa.Pool(count, test.get_context(), max_tasks_per_child=1)
    one = pool.submit(pool_tasks.pause, 0.01)
    fails = pool.submit(pool_tasks.trouble)
    two = pool.submit(pool_tasks.pause, 0.02)
    assert one.result(PATIENCE) == 0.01
    assert isinstance(fails.exception(PATIENCE), Exception)
    pool.shutdown(wait=False)
    assert two.result(PATIENCE) == 0.02
    assert all_gone(test)


@instead_of("ProcessPoolShutdownTest", "test_shutdown_gh_132969_case_1")
def a_task_that_fails_and_two_workers(test, original):
    fail_and_shut_down(test, 2)


@instead_of("ProcessPoolShutdownTest", "test_shutdown_gh_132969_case_2")
def a_task_that_fails_and_four_workers(test, original):
    fail_and_shut_down(test, 4)


@instead_of("ExecutorDeadlockTest", "test_shutdown_deadlock_pickle")
def a_task_that_cannot_be_pickled_and_a_shutdown_without_waiting(test, original):
    unsendable = sys.modules[original.func.__module__].ErrorAtPickle()
    pool = sa.Pool(2, test.get_context())
    pool.submit(id, 42).result(PATIENCE)
    future = pool.submit(id, unsendable)
    pool.shutdown(wait=False)
    with pytest.raises(PicklingError):
        future.result(PATIENCE)
    assert all_gone(test)


# -- CPython's test cases, with `Pool` ------------------------------------------------------------------


def _modules() -> list[ModuleType]:
    """CPython's test modules; there is only one before they became a package."""
    path = getattr(upstream, "__path__", None)
    if path is None:
        return [upstream]
    names = [found.name for found in pkgutil.iter_modules(path) if found.name.startswith("test_")]
    return [importlib.import_module(f"{upstream.__name__}.{name}") for name in sorted(names)]


def _cases() -> dict[str, type[unittest.TestCase]]:
    """CPython's test cases, by name."""
    return {
        name: found
        for module in MODULES
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, unittest.TestCase)
    }


MODULES = _modules()
CASES = _cases()
OF_PROCESSES = {
    name: case
    for name, case in CASES.items()
    if getattr(case, "executor_type", None) is process.ProcessPoolExecutor
}


class DoesNotWait:
    """Ends the workers after a test at once, for their sleeping tasks are of no interest any more."""

    def tearDown(self):
        self.executor.kill_workers()
        super().tearDown()


class WithPoolFutures:
    """Has CPython's tests of `Future` make those of a pool that has a worker."""

    def setUp(self):
        super().setUp()
        self.pool = sa.Pool(1)
        self.pool.submit(os.getpid).result()
        made = functools.partial(PoolFuture, self.pool._core)
        module = sys.modules[CASES["FutureTests"].__module__]
        create = module.create_future
        self.enterContext(mock.patch.object(sys.modules[create.__module__], "Future", made))
        replaced = {
            name: create(value._state, value._exception, value._result)
            for name, value in vars(module).items()
            if name.endswith("_FUTURE")
        }
        self.enterContext(mock.patch.multiple(module, Future=made, **replaced))
        # Errors in callbacks are logged, and looked for in stderr; pytest's handlers would have them all.
        self.enterContext(mock.patch.object(logging.getLogger("concurrent.futures"), "propagate", False))

    def tearDown(self):
        self.pool.shutdown()
        self.pool = None
        super().tearDown()


def _derive(name: str, case: type, *before: type, **attributes: Any) -> type:
    """Make a test case of one of CPython's, with what holds in the place of what does not."""
    owners = {base.__name__: base for base in case.__mro__}
    for (owner, test), replacement in _replacements.items():
        if owner in owners:
            attributes[test] = None
            attributes[f"{test}__differs"] = _bound_later(replacement, owners[owner], test)
    attributes |= {"__module__": __name__, "__qualname__": name, "__doc__": f"CPython's {case.__name__}."}
    return type(name, (*before, case), attributes)


def _bound_later(replacement: Replacement, owner: type, test: str) -> Callable[[Any], None]:
    def replaced(self: Any) -> None:
        self.parts_before = parts()
        try:
            replacement(self, functools.partial(getattr(owner, test, _absent), self))
        except BaseException:
            for child in workers(self):
                child.kill()  # for its task may wait for what never comes
            raise

    replaced.__doc__ = replacement.__name__.replace("_", " ") + "."
    return replaced


def _absent(self: Any) -> None:
    raise unittest.SkipTest("this Python has no such test")


for _name, _case in OF_PROCESSES.items():
    _sleeps = {"WaitTests", "AsCompletedTests"} & {base.__name__ for base in _case.__mro__}
    _here = "Pool" + _name.removeprefix("ProcessPool")
    globals()[_here] = _derive(_here, _case, *([DoesNotWait] if _sleeps else []), executor_type=sa.Pool)
PoolFutureTests = _derive("PoolFutureTests", CASES["FutureTests"], WithPoolFutures)
del _name, _case, _here, _sleeps  # so that pytest does not find a test case twice


class PoolFailingInitializerResourcesTest(CASES.get("FailingInitializerResourcesTest", unittest.TestCase)):
    """CPython's, which ends the resource tracker: to be run in an interpreter of its own (see below)."""

    __test__ = False

    def _test(self, test_class):
        case = globals()["Pool" + test_class.__name__.removeprefix("ProcessPool")]
        done = []

        def test_initializer(test):
            test.test_initializer__differs()
            done.append(test.ctx)

        super()._test(type(case.__name__, (case,), {"test_initializer": test_initializer}))
        assert done == [case.ctx]  # CPython's test does not look


RESOURCES = unittest.defaultTestLoader.getTestCaseNames(PoolFailingInitializerResourcesTest)


@pytest.mark.parametrize("name", RESOURCES)
def test_a_failing_initializer_leaves_no_resources(name):
    paths = [ROOT, SUPPORT, Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "unittest", f"{__name__}.PoolFailingInitializerResourcesTest.{name}"],
        env=environment(PYTHONPATH=os.pathsep.join(str(path) for path in paths if path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_pools_that_are_forked_beside_a_thread_pool_end(monkeypatch):
    """CPython's `test_hang_global_shutdown_lock`, which is among its tests of `ThreadPoolExecutor`."""
    case = CASES["ThreadPoolExecutorTest"]("test_hang_global_shutdown_lock")
    monkeypatch.setattr(futures, "ProcessPoolExecutor", sa.Pool)
    result = unittest.TestResult()
    case.run(result)
    assert result.testsRun == 1
    assert not result.skipped
    assert not result.errors + result.failures, result.errors + result.failures


# -- the table ------------------------------------------------------------------------------------------


def _mixins(case: type) -> dict[str, type]:
    return {base.__name__: base for base in case.__mro__}


def test_every_difference_is_one_of_a_test_that_there_is():
    """An entry whose test was renamed or removed fails, unless this Python is too old to have it."""
    owners = {name: base for case in CASES.values() for name, base in _mixins(case).items()}
    for owner, name in DIFFERENCES:
        if sys.version_info >= SINCE.get(name, (3, 11)):
            assert callable(vars(owners[owner]).get(name)), f"there is no {owner}.{name} in this Python"
    assert set(SINCE) <= {name for _, name in DIFFERENCES}


def test_every_difference_has_its_replacement():
    assert set(DIFFERENCES) == set(_replacements)
    assert all(DIFFERENCES.values())


def test_every_test_of_process_pools_is_run_under_every_method():
    """All of CPython's tests are here, either as they are, or with their replacement."""
    methods = multiprocessing.get_all_start_methods()
    of_mixin: dict[str, list[str]] = {}
    for name, case in OF_PROCESSES.items():
        here = globals()["Pool" + name.removeprefix("ProcessPool")]
        assert issubclass(here, case)
        assert here.executor_type is sa.Pool
        of_mixin.setdefault(case.__mro__[1].__name__, []).append(here.ctx)
        ran = set(unittest.defaultTestLoader.getTestCaseNames(here))
        for test in unittest.defaultTestLoader.getTestCaseNames(case):
            differs = any((owner, test) in DIFFERENCES for owner in _mixins(case))
            assert (test in ran) != differs
            assert (f"{test}__differs" in ran) == differs
    for mixin, found in of_mixin.items():
        assert sorted(method for method in found if method in methods) == sorted(methods), mixin
    assert {"ProcessPoolExecutorTest", "ExecutorDeadlockTest", "ProcessPoolShutdownTest", "WaitTests"} <= set(
        of_mixin
    )
    assert {"AsCompletedTests", "InitializerMixin", "FailingInitializerMixin"} <= set(of_mixin)


def test_there_are_no_other_tests():
    """A new kind of test case of CPython's should be looked at."""
    others = {name for name in CASES if name not in OF_PROCESSES and not name.startswith(OF_OTHER_THINGS)}
    assert others - {"FailingInitializerResourcesTest"} == {"FutureTests"}


# -- what is arranged around them -----------------------------------------------------------------------


def in_second_interpreter(*arguments: str, **variables: str) -> tuple[int, bytes, bytes]:
    """Return what CPython's ``assert_python_ok`` does, for scripts that want `Pool`."""
    *flags, script = arguments
    script = script.replace(
        "from concurrent.futures import Pool", "import multiprocessing; from sharedarray import Pool"
    )
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return tuple(_assert_python_ok(*flags, script, **variables))


_assert_python_ok = importlib.import_module("test.support.script_helper").assert_python_ok


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Keep what was there before out of the many garbage collections that CPython's tests ask for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def with_pool_instead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep `ProcessPoolExecutor` out of the tests, and make failures of what they only warn of."""

    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise AssertionError("this test makes a ProcessPoolExecutor, and not a Pool")

    monkeypatch.setattr(process.ProcessPoolExecutor, "__init__", refuse)
    for module in MODULES:
        if hasattr(module, "assert_python_ok"):
            monkeypatch.setattr(module, "assert_python_ok", in_second_interpreter)
    monkeypatch.setattr(support, "verbose", 0)
    monkeypatch.setattr(support, "environment_altered", False)
    yield
    assert not support.environment_altered, "a thread or a child was left; stderr says which"
