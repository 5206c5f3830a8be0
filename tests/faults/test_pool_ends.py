"""The ends of pools: shut down, collected, with the interpreter, by Ctrl-C, with their parent, in a fork."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.forkserver import read_signed
from pathlib import Path

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, FORKS, METHODS, ROOT, SIGNALS, SUPPORT, alive, environment, stopped, wait_until
from needs import few, needs_fork, needs_proc, needs_signals

import sharedarray as sa
from sharedarray._pool.processes import default_method, fork_server


def script(tmp_path, text, name="script.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


@contextlib.contextmanager
def begin(path, *arguments, stdin=subprocess.DEVNULL):
    """Start a script in a session, and so a process group, of its own; nothing of that survives."""
    process = subprocess.Popen(
        [sys.executable, str(path), *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(SUPPORT)])),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            if SIGNALS:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.communicate()


def process_tree(pid):
    psutil = pytest.importorskip("psutil", exc_type=ImportError)
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def gone(pids):
    return pool_tasks.until(lambda: not any(map(alive, pids)))


def run(path, *arguments, timeout=60):
    with begin(path, *arguments) as process:
        out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


# -- shutdown -------------------------------------------------------------------------------------------


def test_shutdown_waits(method):
    pool = sa.Pool(2, method)
    futures = [pool.submit(pool_tasks.pause, 0.01) for _ in range(6)]
    pids = pool.stats().pids
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert not any(map(alive, pids))
    assert not multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(pool_tasks.add, 1)
    pool.shutdown()


def test_shutdown_without_waiting(method, tmp_path):
    pool = sa.Pool(1, method)
    release = tmp_path / "release"
    running = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "started", release)
    waiting = pool.submit(pool_tasks.add, 1)
    assert pool_tasks.until((tmp_path / "started").exists)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        pool.submit(pool_tasks.add, 1)
    release.touch()
    assert running.result() == "released"
    assert waiting.result() == 2
    pool.shutdown()


def test_submit_while_another_thread_shuts_down(first_method):
    """It is refused, or the task is done, and nothing in between."""
    for waits in (True, False):
        pool = sa.Pool(2, first_method)
        pool.submit(os.getpid).result()
        begun = threading.Barrier(4)
        futures, refused = [[], [], []], []

        def submit(mine, pool=pool, begun=begun, refused=refused):
            begun.wait()
            try:
                while True:
                    mine.append(pool.submit(pool_tasks.add, len(mine)))
            except RuntimeError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=submit, args=(mine,)) for mine in futures]
        for thread in threads:
            thread.start()
        begun.wait()
        assert pool_tasks.until(lambda futures=futures: all(futures))
        pool.shutdown(wait=waits)
        for thread in threads:
            thread.join()
        assert ["after shutdown" in said for said in refused] == [True] * 3
        for mine in futures:
            assert [future.result(60) for future in mine] == list(range(1, len(mine) + 1))
        pool.shutdown()


def test_shutdown_that_cancels(method, tmp_path):
    pool = sa.Pool(1, method)
    release = tmp_path / "release"
    running = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "started", release)
    waiting = [pool.submit(pool_tasks.add, n) for n in range(5)]
    assert pool_tasks.until((tmp_path / "started").exists)
    pool.shutdown(wait=False, cancel_futures=True)
    assert len(wait(waiting, ANSWER).done) == len(waiting)  # its waiters learn of it
    assert all(future.cancelled() for future in waiting)
    release.touch()
    pool.shutdown()
    assert running.result() == "released"


def test_a_pool_that_was_never_used_starts_nothing(method):
    with sa.Pool(2, method):
        assert not multiprocessing.active_children()
        assert "sharedarray-pool" not in {thread.name for thread in threading.enumerate()}


def test_shutdown_in_a_callback(method):
    pool = sa.Pool(1, method)
    done = threading.Event()

    def end(future):
        pool.shutdown()
        done.set()

    pool.submit(pool_tasks.add, 1).add_done_callback(end)
    assert done.wait(60)
    pool.shutdown()


def test_collected(method):
    pool = sa.Pool(1, method)
    future = pool.submit(pool_tasks.pause, 0.05)
    pids = pool.stats().pids
    del pool
    gc.collect()
    assert future.result() == 0.05
    assert pool_tasks.until(lambda: not any(map(alive, pids)))


def test_an_exception_out_of_the_with_block_waits_an_interrupt_does_not(method, tmp_path):
    release = tmp_path / "release"
    with contextlib.suppress(pool_tasks.Plain), sa.Pool(1, method) as pool:
        future = pool.submit(pool_tasks.pause, 0.05)
        raise pool_tasks.Plain
    assert future.result() == 0.05
    with contextlib.suppress(KeyboardInterrupt), sa.Pool(1, method) as pool:
        future = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "started", release)
        waiting = pool.submit(pool_tasks.add, 1)
        assert pool_tasks.until((tmp_path / "started").exists)
        raise KeyboardInterrupt
    with pytest.raises(sa.WorkerDied, match="ended with its pool"):
        future.result()
    assert waiting.cancelled()


def test_a_stopped_worker_delays_only_itself(method, tmp_path):
    with sa.Pool(2, method) as pool:
        held = pool.submit(pool_tasks.signal_and_wait_for, tmp_path / "pid", tmp_path / "release")
        assert pool_tasks.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        with stopped(pid):
            (tmp_path / "release").touch()  # which it would see at once
            assert list(pool.map(pool_tasks.add, range(10))) == list(range(1, 11))
            assert not wait([held], 0.2).done
        assert held.result() == "released"


def test_many_pools(method):
    pools = [sa.Pool(1, method) for _ in range(3)]
    futures = [pool.submit(pool_tasks.add, n) for n, pool in enumerate(pools)]
    assert [future.result() for future in futures] == [1, 2, 3]
    for pool in pools:
        pool.shutdown()


def test_a_pool_in_a_thread(method):
    found = []

    def work():
        with sa.Pool(1, method) as pool:
            found.append(pool.submit(pool_tasks.add, 1).result())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [2]


def test_a_pool_in_a_worker(method):
    with sa.Pool(1, method) as pool:
        assert pool.submit(pool_tasks.nested, method).result() == [1, 2, 3, 4]


@needs_fork
def test_in_a_fork_the_pool_is_a_copy_that_says_so(method, tmp_path):
    with sa.Pool(1, method) as pool:
        done = pool.submit(pool_tasks.add, 1)
        assert done.result() == 2
        going = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "go on"))
        results = pool.map(pool_tasks.add, range(3))
        pid = os.fork()
        if not pid:
            code = 1
            try:
                pool.shutdown()
                said = []
                for call in (
                    lambda: pool.submit(pool_tasks.add, 1),
                    lambda: pool.submit(pool_tasks.add, np.ones(1 << 18)),
                    lambda: pool.submit(pool_tasks.add, sa.ones(10)),
                    lambda: pool.map(pool_tasks.add, [1]),
                    going.result,
                    lambda: going.result(timeout=60),
                    going.exception,
                    lambda: next(results),
                    pool.kill_workers,
                    pool.terminate_workers,
                ):
                    try:
                        call()
                    except sa.SharedArrayError as error:
                        said.append("another process" in str(error))
                if said == [True] * 10 and done.result() == 2 and pool.stats().max_workers == 1:
                    with sa.Pool(1, method) as own:
                        code = 0 if own.submit(pool_tasks.add, 1).result() == 2 else 3
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        (tmp_path / "go on").touch()
        assert going.result() == str(tmp_path / "go on")
        assert list(results) == [1, 2, 3]
        assert pool.submit(pool_tasks.add, 1).result() == 2


# -- the interpreter's end ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", few(["", "sys.exit(0)", "raise SystemExit"]))
def test_exit_with_work_pending_finishes_it(method, tmp_path, end):
    path = script(
        tmp_path,
        f"""
        import os, sys, time, sharedarray as sa
        def work(n):
            time.sleep(0.02)
            os.write(1, b"done %d\\n" % n)
        pool = sa.Pool(2, {method!r})
        futures = [pool.submit(work, n) for n in range(5)]
        {end}
        """,
    )
    code, out, err = run(path)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [f"done {n}" for n in range(5)]


@needs_fork
def test_a_worker_forked_in_a_thread_of_an_executor_ends_without_a_word(capfd):
    with ThreadPoolExecutor(1) as threads, sa.Pool(1, "fork") as pool:
        assert threads.submit(lambda: pool.submit(abs, -1).result(ANSWER)).result() == 1
    assert capfd.readouterr().err == ""


@needs_fork
def test_exit_of_a_fork_of_the_parent(method, tmp_path):
    path = script(
        tmp_path,
        f"""
        import os, sys, sharedarray as sa
        pool = sa.Pool(1, {method!r})
        pool.submit(abs, 1).result()
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            print(pool.submit(abs, -2).result())
        """,
    )
    code, out, err = run(path)
    assert (code, out) == (0, "2\n")
    assert "Error" not in err


# -- Ctrl-C ---------------------------------------------------------------------------------------------

WAYS = {
    "with": "with pool: pool.submit(work, sys.argv[1]).result()",
    "map": "list(pool.map(work, [sys.argv[1]] * 4))",
    "shutdown": "pool.submit(work, sys.argv[1]); pool.shutdown()",
    "blocks": "pool.map_blocks(functools.partial(block, sys.argv[1]), np.ones(100), block_size=10)",
    "outside": "pool.submit(work, sys.argv[1]); pool.submit(work, sys.argv[1]); time.sleep(60)",
    "exit": "pool.submit(work, sys.argv[1])",
}


# Every way with the default method; how a thing is interrupted and how a worker is started meet in two only.
DEFAULT = default_method()
INTERRUPTED = [
    pytest.param(DEFAULT, way, marks=pytest.mark.slow if way in ("shutdown", "outside") else ())
    for way in WAYS
] + [
    pytest.param(method, way, marks=pytest.mark.slow)
    for method in multiprocessing.get_all_start_methods()
    if method != DEFAULT
    for way in ("map", "exit")
]


@needs_signals
@pytest.mark.parametrize(("method", "way"), INTERRUPTED)
def test_ctrl_c_ends_everything(method, tmp_path, way):
    path = script(
        tmp_path,
        f"""
        import functools, os, pathlib, sys, time
        import numpy as np
        import sharedarray as sa
        def work(directory):
            kept = sa.ones(100)
            (pathlib.Path(directory) / str(os.getpid())).touch()
            while True:
                time.sleep(60)
        def block(directory, block):
            work(directory)
        pool = sa.Pool(2, {method!r})
        mine = sa.ones(100)
        {WAYS[way]}
        """,
    )
    meet = tmp_path / "meet"
    meet.mkdir()
    before = {block.name for block in sa.blocks()}
    with begin(path, meet) as process:
        wanted = 1 if way in ("with", "shutdown", "exit", "blocks") else 2
        assert pool_tasks.until(lambda: len(list(meet.iterdir())) >= wanted)
        pids = process_tree(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT if way != "exit" else process.returncode is not None
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1, err
    assert gone(pids)
    assert pool_tasks.until(lambda: {block.name for block in sa.blocks()} <= before)


@needs_signals
@pytest.mark.slow
def test_ctrl_c_in_a_session_breaks_off_the_wait_and_no_more(method, tmp_path):
    """As in a notebook: the whole process group is interrupted, at any moment, and the pool goes on."""
    path = script(
        tmp_path,
        f"""
        import os, random, signal, sys, threading, time
        from concurrent.futures import wait
        import numpy as np
        import sharedarray as sa

        armed = False

        def interrupt(number, frame):
            global armed
            if armed:
                armed = False
                raise KeyboardInterrupt

        def add(n, pause=0):
            time.sleep(pause)
            return n + 1

        signal.signal(signal.SIGINT, interrupt)
        sys.ps1 = ">>> "
        pool = sa.Pool(2, {method!r})
        assert list(pool.map(add, range(10))) == list(range(1, 11))
        chance, futures, interrupted = random.Random(1), [], 0
        array, large = np.arange(5000.0), np.arange(20_000.0)
        for n in range({80 if method != "spawn" else 40}):
            striking = threading.Timer(chance.random() * 0.03, os.killpg, (0, signal.SIGINT))
            striking.start()
            try:
                armed = True
                for _ in range(50):
                    futures.append((pool.submit(add, n, 0.001), n + 1))
                    assert futures[-1][0].result() == n + 1
                    futures.append((pool.submit(add, large), large + 1))
                    assert list(pool.map(add, range(100))) == list(range(1, 101))
                    assert np.array_equal(pool.map_blocks(np.sqrt, array, block_size=500), np.sqrt(array))
                armed = False
            except KeyboardInterrupt:
                interrupted += 1
            striking.join()
            armed = False
            assert pool.submit(add, n).result(timeout=60) == n + 1
        assert not wait([future for future, _ in futures], 60).not_done
        died = 0
        for future, expected in futures:
            if isinstance(future.exception(), sa.WorkerDied):
                died += 1
            else:
                assert np.array_equal(future.result(), expected)
        pool.shutdown()
        print(interrupted, died, pool.stats().workers)
        """,
    )
    with begin(path) as process:
        out, err = process.communicate(timeout=120)
    assert not err
    interrupted, died, workers = map(int, out.split())
    assert interrupted > 20
    assert (died, workers) == (0, 0)  # nothing is lost, and no worker is left


def test_an_interrupt_breaks_off_the_wait_and_ends_the_workers(tmp_path):
    """Ctrl-C is raised in the main thread, also on systems without signals between processes."""
    path = script(
        tmp_path,
        """
        import _thread, os, signal, threading, time, sharedarray as sa

        def press():
            if hasattr(signal, "SIGKILL"):
                os.kill(os.getpid(), signal.SIGINT)
            else:
                _thread.interrupt_main()

        try:
            with sa.Pool(2) as pool:
                list(pool.map(abs, range(10)))
                future = pool.submit(time.sleep, 60)
                print(*pool.stats().pids, flush=True)
                threading.Timer(0.3, press).start()
                future.result()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """,
    )
    with begin(path) as process:
        pids = list(map(int, process.stdout.readline().split()))
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
    assert pids
    assert gone(pids)


@needs_signals
def test_ctrl_c_while_workers_start(first_method, tmp_path):
    path = script(
        tmp_path,
        f"""
        import os, time, sharedarray as sa
        with sa.Pool(2, {first_method!r}) as pool:
            futures = [pool.submit(time.sleep, 60) for _ in range(2)]
            print("started", flush=True)
            futures[0].result()
        """,
    )
    for moment in (0, 20, 50):  # milliseconds: some workers are there, some on their way, some not begun
        with begin(path) as process:
            assert process.stdout.readline() == "started\n"
            time.sleep(moment / 1000)
            os.killpg(process.pid, signal.SIGINT)
            pids = process_tree(process.pid)
            _, err = process.communicate(timeout=60)
        assert err.count("Traceback") == 1, err
        assert gone(pids)


# -- the parent's death ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", few(["busy", "idle"]))
def test_workers_end_with_a_killed_parent(method, tmp_path, what):
    path = script(
        tmp_path,
        f"""
        import os, sys, time, pool_tasks, sharedarray as sa
        pool = sa.Pool(2, {method!r})
        for n in range(2):
            if {what == "busy"}:
                pool.submit(pool_tasks.signal_and_wait, sys.argv[1 + n])
            else:
                pool.submit(pool_tasks.identity, sa.ones(10)).result()
        while len(pool.stats().pids) < (2 if {what == "busy"} else 1):
            time.sleep(0.01)
        # A fork has copies of the parent's descriptors, unless they are closed.
        sleeper = os.fork() if hasattr(os, "fork") else -1
        if not sleeper:
            time.sleep(60)
        print(sleeper, *pool.stats().pids, flush=True)
        time.sleep(60)
        """,
    )
    pids = [tmp_path / "one", tmp_path / "two"]
    with begin(path, *pids) as process:
        sleeper, *others = map(int, process.stdout.readline().split())
        if what == "busy":
            assert pool_tasks.until(lambda: all(path.exists() for path in pids))
        assert others
        if FORKS:  # and the fork server; the fork has the resource tracker's pipe too, so that lives on
            import psutil

            others += [
                pid
                for pid in process_tree(process.pid)
                if pid != sleeper and "resource_tracker" not in " ".join(psutil.Process(pid).cmdline())
            ]
        process.kill()
        process.wait()
        assert gone(others)


@needs_proc
def test_ready_workers_have_nothing_with_a_name_in_the_system(method, tmp_path):
    # Else it would stay, since a kill of a whole session kills the resource tracker as well.
    path = script(
        tmp_path,
        f"""
        import os, time, pool_tasks, sharedarray as sa
        with sa.Pool(2, {method!r}) as pool:
            pids = set()
            while len(pids) < 2:
                pids |= set(pool.map(lambda _: time.sleep(0.01) or os.getpid(), range(4)))
            print(*pids, flush=True)
            time.sleep(60)
        """,
    )
    with begin(path) as process:
        pids = [process.pid, *map(int, process.stdout.readline().split())]
        assert len(pids) == 3
        mapped = {
            int(line.split()[4])  # the inode: the name in there is not the one that was given
            for pid in pids
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
            if "/dev/shm/sem." in line
        }
        named = {entry.inode() for entry in os.scandir("/dev/shm")}
        assert mapped
        assert not mapped & named


@needs_fork
def test_a_task_that_forks_keeps_nothing_alive(method, tmp_path):
    path = script(
        tmp_path,
        f"""
        import os, sys, time, sharedarray as sa
        def work():
            if not os.fork():
                time.sleep(60)
                os._exit(0)
            return os.getpid()
        with sa.Pool(1, {method!r}) as pool:
            pool.submit(work).result()
        print("over", flush=True)
        os._exit(0)
        """,
    )
    with begin(path) as process:
        assert process.stdout.readline() == "over\n"
        process.wait(timeout=60)


@pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")
@needs_proc
def test_a_fork_server_is_silent_if_its_caller_is_killed_while_it_starts(tmp_path):
    started, python = tmp_path / "started", tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in *forkserver*)\n'
        f"    : > {started}\n"
        "    while [ -d /proc/$PPID ]; do sleep 0.01; done ;;\n"
        "esac\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    code = """
        import multiprocessing, sys
        import sharedarray as sa

        multiprocessing.set_executable(sys.argv[1])
        sa.Pool(1, "forkserver").submit(abs, -1).result()
    """
    with begin(script(tmp_path, code), python) as program:
        wait_until(started.exists, "the server starts")
        program.kill()
        program.wait(60)
        # The tracker of multiprocessing, which ends at the same time, may have something to say.
        said = program.communicate(timeout=60)[1]
    assert "Traceback" not in said


@pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")
def test_a_worker_is_silent_if_its_pool_is_killed_before_all_is_said(capfd):
    server = fork_server.ForkServer((), {})
    try:
        status, orders = server.fork([0])
        try:
            os.write(orders, b"\x80\x04")  # the beginning of a pickle
        finally:
            os.close(orders)
        try:
            assert [read_signed(status) for _ in range(2)][1] == 1
        finally:
            os.close(status)
    finally:
        server.close()
        wait_until(server.reaped, "the server ends")
    assert capfd.readouterr().err == ""
