"""SIGTERM and SIGHUP to all processes of a program: workers leave them to a program that handles them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pool_tasks
import pytest
from helpers import ANSWER, alive, wait_until
from needs import few, needs_fork, needs_proc
from test_pool_ends import begin, script

import sharedarray as sa

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no such signals here")

SOON = ANSWER  # seconds; a bound against hanging
NAMES = few(["SIGTERM", "SIGHUP"])


@pytest.fixture
def handled():
    """Signals that this process has handled, for as long as the test lasts."""
    found = []
    before = {
        number: signal.signal(number, lambda *about: found.append(about[0]))
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


GROUP = """
import os, signal, sys, time, sharedarray as sa
from pathlib import Path

def work(n):
    Path(f"{{folder}}/begun-{{n}}").touch()
    while not Path(f"{{folder}}/go").exists():
        time.sleep(0.005)
    return n

folder = sys.argv[1]
came, waiting = [], []
{prepare}
pool = sa.Pool(2, {method!r})
futures = [pool.submit(work, n) for n in range(4)]
while not (Path(f"{{folder}}/begun-0").exists() and Path(f"{{folder}}/begun-1").exists()):
    time.sleep(0.005)
before = sorted(pool.stats().pids)
print(*before, flush=True)
sys.stdin.readline()
for thread in waiting:
    thread.join({soon})
print("handled", came, flush=True)
Path(f"{{folder}}/go").touch()
print([future.result({soon}) for future in futures], sorted(pool.stats().pids) == before, flush=True)
pool.shutdown()
"""
HANDLER = "signal.signal(signal.{name}, lambda number, frame: came.append(number))"
ASYNCIO = """
import asyncio, atexit
loop = asyncio.new_event_loop()
atexit.register(loop.close)
loop.add_signal_handler(signal.{name}, lambda: None)
"""
SIGWAIT = """
import threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.{name}])
def wait():
    came.append(int(signal.sigwait([signal.{name}])))
waiting.append(threading.Thread(target=wait, daemon=True))
waiting[0].start()
"""
IGNORED = "signal.signal(signal.{name}, signal.SIG_IGN)"
WAYS = {"handler": HANDLER, "asyncio": ASYNCIO, "sigwait": SIGWAIT, "ignored": IGNORED}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", few(list(WAYS)))
def test_the_group_gets_it_and_the_program_handles_it(method, way, name, tmp_path):
    prepare = WAYS[way].format(name=name)
    path = script(tmp_path, "")
    path.write_text(GROUP.format(method=method, prepare=prepare, soon=SOON))
    with begin(path, tmp_path, stdin=subprocess.PIPE) as program:
        workers = program.stdout.readline().split()
        assert len(workers) == 2
        os.killpg(program.pid, getattr(signal, name))
        program.stdin.write("\n")
        program.stdin.flush()
        came = program.stdout.readline()
        assert came == f"handled [{getattr(signal, name)}]\n" or way in ("asyncio", "ignored")
        # As a line, for some of it may have been read with the line before.
        assert program.stdout.readline() == "[0, 1, 2, 3] True\n"
        out, err = program.communicate(timeout=SOON)
        assert (out, err, program.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_group_gets_it_and_the_program_dies_of_it(method, name, tmp_path):
    path = script(tmp_path, "")
    path.write_text(GROUP.format(method=method, prepare="", soon=SOON))
    with begin(path, tmp_path) as program:
        workers = [int(pid) for pid in program.stdout.readline().split()]
        os.killpg(program.pid, getattr(signal, name))
        assert program.wait(SOON) == -getattr(signal, name)
        wait_until(lambda: not any(map(alive, workers)), "the workers are gone", SOON)


def test_one_is_ended_by_terminate_though_the_program_handles_signals(handled, first_method, tmp_path):
    with sa.Pool(1, first_method) as pool:
        future = pool.submit(pool_tasks.signal_and_wait, tmp_path / "begun")
        assert pool_tasks.until((tmp_path / "begun").exists)
        [worker] = multiprocessing.active_children()
        worker.terminate()
        with pytest.raises(sa.WorkerDied, match="SIGKILL"):
            future.result(SOON)
    assert handled == []


def fork_and_end(way):
    """End a process that this task has forked by SIGTERM, at once; how it ended."""
    context = multiprocessing.get_context("fork")
    if way == "pool":
        with context.Pool(1) as pool:
            return pool.apply(abs, (-15,))
    child = context.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    return -child.exitcode


@needs_fork
@pytest.mark.parametrize("way", ["process", "pool"])
def test_what_a_task_forks_can_be_ended(handled, first_method, way):
    with sa.Pool(1, first_method) as pool:
        for _ in range(5):
            assert pool.submit(fork_and_end, way).result(SOON) == 15


def ignored_and_blocked():
    """Return what a program that this task starts ignores and blocks of the signals."""
    code = (
        "print(*[line.split()[1] for line in open('/proc/self/status') if line[:6] in ('SigIgn', 'SigBlk')])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ours = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    return [int(mask, 16) & ours for mask in said.split()]


@needs_proc
def test_programs_that_tasks_start_have_the_default(handled, first_method):
    with sa.Pool(1, first_method) as pool:
        assert pool.submit(ignored_and_blocked).result(SOON) == [0, 0]


def handle_in_task(path):
    """Note the signal, as a task of the user's may, and fork a child that does so, too."""
    signal.signal(signal.SIGTERM, lambda number, frame: Path(f"{path}-{os.getpid()}").touch())
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("program", few(["default", "handles"], 2))
def test_a_task_keeps_the_handler_that_it_sets(first_method, program, tmp_path, request):
    if program == "handles":
        request.getfixturevalue("handled")
    with sa.Pool(1, first_method) as pool:
        pool.submit(handle_in_task, tmp_path / "came").result(SOON)
    assert len(list(tmp_path.iterdir())) == 1 + hasattr(os, "fork")


def test_workers_that_start_meanwhile_do_not_die(first_method, tmp_path):
    """A signal before a worker has its handlers waits for these."""
    path = script(
        tmp_path,
        f"""
        import os, signal, sharedarray as sa
        came = []
        signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
        with sa.Pool(2, {first_method!r}, max_tasks_per_child=1) as pool:
            futures = [pool.submit(abs, -number) for number in range(10)]
            while not all(future.done() for future in futures):
                os.killpg(0, signal.SIGTERM)
            assert [future.result() for future in futures] == list(range(10))
            print(bool(came), pool.stats().died)
        """,
    )
    with begin(path) as program:
        out, err = program.communicate(timeout=3 * SOON)
    assert (out, err, program.returncode) == ("True 0\n", "", 0)
