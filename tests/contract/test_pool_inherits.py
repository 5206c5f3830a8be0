"""The state that a worker inherits from the caller at its start: environment, modules and so on."""

from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from multiprocessing import spawn, synchronize
from pathlib import Path

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, KILLED, METHODS, ROOT, environment, janitor_needed, janitors, run, wait_until
from needs import few, needs_fork, needs_janitor, needs_proc, needs_root

import sharedarray as sa
from sharedarray import _reloads as reloads
from sharedarray._platform import platform
from sharedarray._pool import processes
from sharedarray._pool.processes import (
    credits,  # noqa: A004
    fork_server,
    fork_server_main,
    interpreters,
    seeds,
    threads,
)

needs_server = pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")


def program(tmp_path: Path, code: str, *args: str, flags=(), **variables: str):
    """Run a program, from a directory of its own; return what it wrote to each stream."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, *flags, str(path), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(PYTHONPATH=str(ROOT), **variables),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# -- random numbers -------------------------------------------------------------------------------------


def draw():
    return int(np.random.randint(1 << 62)), random.random()


def draw_once(pool):
    return pool.submit(draw).result()


@pytest.mark.lingers("descriptor")  # the pipe to a fork server that has loaded numpy.random
def test_workers_draw_different_numbers(method):
    np.random.rand()
    state = np.random.get_state()[1].tolist(), random.getstate()
    options = {"preload": ["numpy.random"]} if method == "forkserver" else {}
    draws = []
    for _ in range(2):
        with sa.Pool(1, method, max_tasks_per_child=1, **options) as pool:
            draws += [draw_once(pool), draw_once(pool)]
    for kind in zip(*draws, strict=True):
        assert len(set(kind)) == 4
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state


def seed():
    np.random.seed(5)
    random.seed(5)


@pytest.mark.lingers("descriptor")
def test_the_seed_of_an_initializer_stays(method):
    options = {"preload": ["numpy.random"]} if method == "forkserver" else {}
    before = np.random.get_state(), random.getstate()
    seed()
    expected = draw()
    np.random.set_state(before[0])
    random.setstate(before[1])
    with sa.Pool(1, method, initializer=seed, **options) as pool:
        assert draw_once(pool) == expected
        assert pool.submit(gc.isenabled).result()  # which they are not while modules are loaded


LOADED = """
import gc
import sys
import numpy as np
import sharedarray as sa

def draw(k):
    loaded = "numpy.random" in sys.modules
    return loaded, int(np.random.randint(1 << 62))

def modules(array):
    return set(sys.modules)

def collects():
    return gc.isenabled(), gc.get_freeze_count() > 0

def fails():
    raise ValueError("on purpose")

if __name__ == "__main__":
    with sa.Pool(1, max_tasks_per_child=1) as pool:
        drawn = [pool.submit(draw, k).result() for k in range(3)]
        print(pool.submit(collects).result())
    print(all(loaded for loaded, _ in drawn), len({number for _, number in drawn}))
    with sa.Pool(1) as pool:
        first = pool.submit(modules, None).result()
        list(pool.map(lambda k: np.full(1 << 17, k), range(3)))
        assert isinstance(pool.submit(fails).exception(), ValueError)
        with sa.zeros((1 << 17,)) as shared:
            pool.submit(modules, shared).result()
            pool.map_blocks(np.sqrt, shared)
        later = pool.submit(modules, np.ones(1 << 17)).result() - first
    print(sorted(name for name in later if name.startswith(("sharedarray", "numpy", "cloudpickle"))))
"""


@needs_server
def test_workers_inherit_what_they_need_from_the_fork_server(tmp_path):
    assert program(tmp_path, LOADED)[0] == "(True, True)\nTrue 3\n[]\n"


@needs_server
@pytest.mark.slow
def test_a_module_of_the_fork_server_may_disable_collections(tmp_path):
    (tmp_path / "quiet.py").write_text("import gc\nassert gc.isenabled()\ngc.disable()\n")
    code = """
        import gc
        import sharedarray as sa

        with sa.Pool(1, preload=["quiet"]) as pool:
            print(pool.submit(gc.isenabled).result())
    """
    assert program(tmp_path, code) == ("False\n", "")


class Library:
    """A numeric library with four threads, as threadpoolctl controls one."""

    internal_api = "openblas"

    def __init__(self):
        self.num_threads = 4
        self.calls = []

    def set_num_threads(self, count):
        self.calls.append(count)
        self.num_threads = count


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        ([{"OPENBLAS_NUM_THREADS": "1"}], [1]),  # a call in a worker would start threads
        (
            [{"OPENBLAS_NUM_THREADS": "3"}, {"OPENBLAS_NUM_THREADS": "5"}],
            [1, 3],
        ),  # the second by another pool
        ([{"MKL_NUM_THREADS": "1"}], [1, 4]),
        ([{}], [1, 4]),
    ],
)
def test_loaded_libraries_that_a_fork_server_has_found_are_limited_once(limits, calls, monkeypatch):
    library = Library()
    monkeypatch.setattr(threads, "_loaded_libraries", lambda: [library])
    monkeypatch.setattr(threads, "_found", [])
    for name in threads.VARIABLES:
        monkeypatch.setenv(name, "1")
    threads.find_loaded()
    monkeypatch.setattr(threads, "_loaded_libraries", list)
    for limit in limits:
        threads.limit(limit)
    assert library.calls == calls


def running_threads():
    return np.ones((200, 200)) @ np.ones((200, 200)) is not None, len(os.listdir("/proc/self/task"))


@needs_server
@needs_proc
def test_a_worker_has_no_threads_of_a_library_that_is_limited_to_one():
    """They would look for work for 0.1 s, on the processor of another worker."""
    pytest.importorskip("threadpoolctl")
    with sa.Pool(1, "forkserver", threads_per_worker=1) as one, sa.Pool(1, "forkserver") as usual:
        least = one.submit(running_threads).result()
        assert usual.submit(running_threads).result() == least
    with sa.Pool(1, "forkserver", threads_per_worker=2) as two:
        assert two.submit(running_threads).result() > least


@needs_fork
def test_another_bit_generator_is_seeded_as_well():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        with sa.Pool(1, "fork", max_tasks_per_child=1) as pool:
            assert len({draw_once(pool)[0] for _ in range(3)}) == 3
    finally:
        np.random.set_bit_generator(before)


def test_only_loaded_generators_are_seeded(monkeypatch):
    seeded = []
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(seed=lambda: seeded.append("torch")))
    monkeypatch.delitem(sys.modules, "numpy.random")
    seeds.reseed()
    assert seeded == ["torch"]
    assert "numpy.random" not in sys.modules


# -- the environment ------------------------------------------------------------------------------------


def look():
    shell = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getenv('SA_NEW'))"], capture_output=True
    )
    return {
        "variables": {name: value for name, value in os.environ.items() if name.startswith("SA_")},
        "below": shell.stdout.split(),
        "hour": time.localtime(0).tm_hour,
        "directory": os.getcwd(),
        "path": sys.path[-1],
    }


def test_a_worker_starts_in_the_present_environment(first_method, monkeypatch, tmp_path):
    monkeypatch.setenv("SA_OLD", "old")
    monkeypatch.setenv("SA_GONE", "here")
    with sa.Pool(1, first_method, max_tasks_per_child=1) as pool:
        before = pool.submit(look).result()
        # The next worker may have been started already; the one after that is not.
        monkeypatch.setenv("SA_OLD", "\udcff changed")
        monkeypatch.setenv("SA_NEW", "new")
        monkeypatch.delenv("SA_GONE")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        sys.path.append("at the end")
        if hasattr(time, "tzset"):
            monkeypatch.setenv("TZ", "XYZ-5")
            time.tzset()
        try:
            pool.submit(look).result()
            after, expected = pool.submit(look).result(), look()
        finally:
            sys.path.remove("at the end")
            monkeypatch.undo()
            if hasattr(time, "tzset"):
                time.tzset()
    assert before["variables"] == {"SA_OLD": "old", "SA_GONE": "here"}
    assert after["variables"] == {"SA_OLD": "\udcff changed", "SA_NEW": "new"}
    assert after == expected


@needs_server
@pytest.mark.lingers("descriptor")
def test_what_a_loaded_module_sets_stays_unless_the_caller_sets_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SA_REMOVED", "here")
    (tmp_path / "sa_sets_a_variable.py").write_text(
        "import os\nos.environ['SA_SET'] = os.environ['SA_ALSO'] = 'module'\ndel os.environ['SA_REMOVED']\n"
    )

    def seen():
        with sa.Pool(1, preload=["sa_sets_a_variable"]) as pool:
            return [pool.submit(os.getenv, f"SA_{name}").result() for name in ("SET", "ALSO", "REMOVED")]

    assert seen() == ["module", "module", None]
    monkeypatch.setenv("SA_SET", "caller")
    monkeypatch.setenv("SA_REMOVED", "again")
    assert seen() == ["caller", "module", "again"]


@needs_server
@pytest.mark.lingers("descriptor")
def test_variables_that_are_read_once_are_read_again(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::BytesWarning")
    with sa.Pool(1) as pool:
        assert "ignore::BytesWarning" in pool.submit(eval, "__import__('sys').warnoptions").result()
    monkeypatch.delenv("PYTHONWARNINGS")
    with sa.Pool(1) as pool:
        assert "ignore::BytesWarning" not in pool.submit(eval, "__import__('sys').warnoptions").result()


@pytest.mark.lingers("descriptor")
def test_fork_servers_are_few(monkeypatch):
    if "forkserver" not in METHODS:
        pytest.skip("there is no fork server here")
    monkeypatch.setattr(fork_server, "_servers", {})
    monkeypatch.setattr(fork_server, "_SERVERS", 1)
    pools = []
    for language in ("de", "fr"):
        monkeypatch.setenv("LANGUAGE", language)
        pools.append(sa.Pool(1))
        assert pools[-1].submit(abs, -1).result() == 1
    (server,) = fork_server._servers.values()
    assert (
        pools[0].submit(os.getenv, "LANGUAGE").result() == "de"
    )  # its server is closed, and serves it still
    for pool in pools:
        pool.shutdown()
    server.close()
    fork_server._closed.append(server)
    for closed in fork_server._closed:
        wait_until(closed.reaped, "a server that was closed ends")
        assert closed._code == 0
    fork_server._closed.clear()


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")
def test_a_fork_server_learns_of_ends_though_its_starter_blocks_all_signals(monkeypatch):
    monkeypatch.setattr(fork_server, "_servers", {})
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with sa.Pool(1, "forkserver") as pool:
            assert pool.submit(abs, -1).result(ANSWER) == 1
            blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result(ANSWER)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert signal.SIGCHLD in blocked  # a worker has the mask of the thread that started its server
    wait_until(lambda: not multiprocessing.active_children(), "the exit code of the worker is known")
    (server,) = fork_server._servers.values()
    server.close()
    wait_until(server.reaped, "a server that was closed ends")


def test_warning_filters_of_the_command_line(tmp_path, first_method):
    code = """
        import sys, warnings
        import sharedarray as sa

        def warn():
            warnings.warn("from a task", UserWarning)

        with sa.Pool(1, sys.argv[1]) as pool:
            print(pool.submit(warn).exception())
    """
    out, _ = program(tmp_path, code, first_method, flags=["-W", "error::UserWarning"])
    assert out == "from a task\n"
    out, errors = program(tmp_path, code, first_method, flags=["-W", "ignore"])
    assert (out, errors) == ("None\n", "")


# -- the working directory, and modules in advance ------------------------------------------------------


@needs_fork
def test_the_working_directory_was_removed(tmp_path, first_method):
    code = """
        import operator, os, sys
        import sharedarray as sa

        def where():
            try:
                return os.getcwd()
            except FileNotFoundError:
                return os.stat(".").st_ino

        with sa.Pool(1, sys.argv[1]) as pool:
            assert pool.submit(where).result() == os.getcwd()
        os.mkdir("directory")
        os.chdir("directory")
        os.rmdir("../directory")
        sys.path.append("relative")
        with sa.Pool(1, sys.argv[1]) as pool:
            assert pool.submit(operator.abs, -3).result() == 3  # of a module without a file
            print(pool.submit(where).result() == where())
    """
    os.chdir(tmp_path)
    try:
        assert program(tmp_path, code, first_method) == ("True\n", "")
    finally:
        os.chdir(ROOT)


@pytest.mark.slow
@needs_fork
def test_the_working_directory_was_removed_before_the_first_pool(tmp_path, method):
    """Python 3.13.0 cannot import `socket` then with that directory in its path, so the server has it not."""
    code = """
        import os, sys
        import sharedarray as sa

        os.rmdir(os.getcwd())
        with sa.Pool(1, sys.argv[1]) as pool:
            print(pool.submit(abs, -3).result())
    """
    removed = tmp_path / "removed"
    removed.mkdir()
    os.chdir(removed)
    try:
        assert program(tmp_path, code, method)[0] == "3\n"
    finally:
        os.chdir(ROOT)


@needs_server
def test_a_worker_starts_though_its_user_may_not_enter_the_working_directory(tmp_path):
    """So it is after ``cd /root; su nobody``: the fork server, which left that directory, cannot return."""
    before = os.getcwd()
    bytecode = sys.dont_write_bytecode, sys.pycache_prefix
    fork_server_main.settle(dict(os.environ), str(tmp_path / "missing"), bytecode)
    assert os.getcwd() == before


def test_a_path_of_modules_needs_no_working_directory(tmp_path, monkeypatch):
    """Relative entries lead nowhere then, and the others count."""
    monkeypatch.setattr(reloads.noted, "path", ["relative", "/somewhere"])
    monkeypatch.setattr(reloads.noted, "path_number", 1)
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    assert reloads.path_since(0) == ["/somewhere"]


def test_the_command_of_a_new_interpreter_is_text_alone(monkeypatch):
    """multiprocessing keeps the program as bytes, and ``python -bb`` lets nothing compare these with text."""
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(sys.executable))
    assert {type(word) for word in interpreters.spawn_command(pipe_handle=0)} == {str}


@needs_fork
@pytest.mark.parametrize("text", ["exit 3", "exec sleep 60"])
def test_a_program_that_is_no_python_is_no_worker(tmp_path, monkeypatch, text):
    """It has the name of one. The error comes though the program neither ends nor reads anything."""
    path = tmp_path / "python3"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(path))
    if "sleep" in text:
        monkeypatch.setattr(interpreters, "_PATIENCE", 0.1)
    error = r"a worker does not start.*set_executable\(\)"
    with sa.Pool(1, "spawn") as pool, pytest.raises(sa.WorkerDied, match=error):
        pool.submit(abs, -1).result(ANSWER)


@pytest.mark.slow
@needs_fork
def test_a_worker_runs_by_a_script_that_starts_a_python(tmp_path, monkeypatch):
    path = tmp_path / "python3"
    path.write_text(f'#!/bin/sh\necho started > {tmp_path}/log\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(path))
    with sa.Pool(1, "spawn") as pool:
        assert pool.submit(abs, -1).result(ANSWER) == 1
    assert (tmp_path / "log").exists()


def test_workers_write_no_bytecode_if_the_program_does_not(tmp_path, first_method):
    (tmp_path / "early.py").write_text("")
    (tmp_path / "late.py").write_text("def double(x):\n    return 2 * x\n")
    code = """
        import sys
        sys.dont_write_bytecode = True
        import late
        import sharedarray as sa

        with sa.Pool(1, sys.argv[1], preload=["early"]) as pool:
            print(pool.submit(late.double, 2).result())
    """
    assert program(tmp_path, code, first_method) == ("4\n", "")
    assert not list(tmp_path.rglob("*.pyc"))


@needs_server
def test_modules_beside_the_script_are_loaded_and_what_fails_is_named(tmp_path):
    (tmp_path / "beside.py").write_text("import os\npid = os.getpid()\n")
    (tmp_path / "broken.py").write_text("raise ValueError('this is broken')\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "threads.py").write_text(
        "import threading\n"
        "for name in ('waits', None):\n"
        "    threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()\n"
        "short = threading.Thread(target=abs, args=(1,))\n"
        "short.start()\n"
        "short.join()\n"
    )
    code = """
        import os
        import sharedarray as sa
        from sharedarray._pool.processes import threads

        threads.can_limit_loaded = lambda: False
        def pid():
            import beside, numpy
            return beside.pid, os.getpid(), os.environ["OPENBLAS_NUM_THREADS"]

        try:
            sa.Pool(1, preload=["beside", "no_such_module"])
        except ModuleNotFoundError as error:
            print(error.name)
        for _ in range(2):
            with sa.Pool(1, preload=["beside", "beside.sub", "broken", "ends", "threads"]) as pool:
                loaded, own, limit = pool.submit(pid).result()
                print(loaded != own, limit)
    """
    out, errors = program(tmp_path, code, OPENBLAS_NUM_THREADS="7")
    assert out == "no_such_module\nTrue 1\nTrue 1\n"
    lines = [line for line in errors.splitlines() if "Warning" in line]
    assert len(lines) == 4
    for line, said in zip(
        lines,
        (
            r"the module 'beside\.sub', which preload names, could not be loaded \(ModuleNotFoundError: ",
            r"the module 'broken', which preload names, could not be loaded \(ValueError: this is broken\)",
            r"the module 'ends', which preload names, could not be loaded \(SystemExit: 3\)",
            r"the module 'threads', which preload names, started 2 threads \(waits, Thread-\d.*\), which",
        ),
        strict=True,
    ):
        assert re.search(rf"RuntimeWarning: {said}.*Next step: leave it out of preload", line), line


@needs_server
@pytest.mark.slow
def test_warnings_of_modules_that_are_errors_do_no_harm(tmp_path):
    (tmp_path / "broken.py").write_text("raise ValueError('this is broken')\n")
    code = """
        import warnings
        import sharedarray as sa

        warnings.simplefilter("error")
        with sa.Pool(1, preload=["broken"]) as pool:
            print(pool.submit(abs, -1).result())
    """
    out, errors = program(tmp_path, code)
    assert out == "1\n"
    assert "the module 'broken', which preload names, could not be loaded" in errors


@needs_server
def test_a_fork_server_that_dies_says_what_it_was_loading(tmp_path):
    (tmp_path / "crashes.py").write_text("import os\nos._exit(7)\n")
    code = """
        import sharedarray as sa

        with sa.Pool(1, preload=["crashes"]) as pool:
            print(pool.submit(abs, -1).exception())
    """
    out, _ = program(tmp_path, code)
    assert "while it loaded crashes, with exit code 7" in out


@needs_server
@pytest.mark.lingers("descriptor")
def test_without_threadpoolctl_limits_are_set_before_libraries_are_loaded(monkeypatch):
    monkeypatch.setattr(threads, "can_limit_loaded", lambda: False)
    with sa.Pool(1, threads_per_worker={"MKL_NUM_THREADS": 3}) as pool:
        assert pool.submit(eval, "'numpy' in __import__('sys').modules").result()
        assert pool.submit(os.getenv, "MKL_NUM_THREADS").result() == "3"


@pytest.mark.parametrize("kind", few(["long", "missing", "a file"]))
def test_a_temporary_directory_is_not_needed(tmp_path, kind, first_method):
    directory = tmp_path / ("x" * 120 if kind == "long" else "directory")
    if kind == "long":
        directory.mkdir()
    elif kind == "a file":
        directory.write_text("")
    code = """
        import sys
        import sharedarray as sa

        with sa.Pool(1, sys.argv[1]) as pool:
            print(pool.submit(abs, -1).result())
    """
    assert program(tmp_path, code, first_method, TMPDIR=str(directory)) == ("1\n", "")


@needs_proc
def test_a_manager_needs_no_short_temporary_directory(tmp_path):
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    code = """
        import sharedarray as sa

        if __name__ == "__main__":
            with sa.SharedMemoryManager() as manager:
                other = sa.SharedMemoryManager(address=manager.address)
                other.connect()
                print(int(manager.share([1, 2]).sum()), int(other.share([3]).sum()))
    """
    assert program(tmp_path, code, TMPDIR=str(directory)) == ("3 3\n", "")


def test_under_pdb(tmp_path, first_method):
    (tmp_path / "job.py").write_text(
        textwrap.dedent(
            """
            import sys
            import sharedarray as sa

            def double(x):
                return 2 * x

            with sa.Pool(1, sys.argv[1]) as pool:
                print("answer", pool.submit(double, 2).result())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pdb", "-c", "continue", "-c", "quit", "job.py", first_method],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    assert "answer 4" in done.stdout
    assert done.stderr == ""


def test_the_main_module_may_be_anything(tmp_path, first_method):
    code = """
        import sys
        import sharedarray as sa

        sys.modules["__main__"] = object()
        with sa.Pool(1, sys.argv[1]) as pool:
            print(pool.submit(abs, -1).result())
    """
    assert program(tmp_path, code, first_method) == ("1\n", "")


@needs_fork
def test_helper_processes_start_without_a_debugger(monkeypatch, own_directory):
    """A debugger of editors, as it looks to the library: a module that can leave one start alone."""
    left_alone = []

    @contextlib.contextmanager
    def skip():
        left_alone.append("begins")
        yield
        left_alone.append("ends")

    patches = types.SimpleNamespace(skip_subprocess_arg_patch=skip)
    monkeypatch.setitem(sys.modules, "_pydev_bundle.pydev_monkey", patches)
    sa.ones(3).close()
    assert left_alone == (["begins", "ends"] if janitor_needed() else [])
    left_alone.clear()
    processes.make_ready("spawn")
    assert left_alone == ["begins", "ends"]


@needs_fork
def test_an_application_that_embeds_python_is_never_a_worker(tmp_path):
    """It is not started at all, neither as a worker, nor as the tracker of semaphores."""
    log = tmp_path / "log"
    application = tmp_path / "application"
    application.write_text(f"#!/bin/sh\necho started >> {log}\nexec sleep 60\n")
    application.chmod(0o755)
    code = f"""
        import sys, warnings
        real, sys.executable = sys.executable, {str(application)!r}
        import multiprocessing
        import sharedarray as sa

        warnings.simplefilter("ignore")  # of the janitor
        for method in ("forkserver", "spawn"):
            with sa.Pool(1, method) as pool:
                try:
                    pool.submit(abs, -1)
                except sa.UnsupportedError as error:
                    print("set_executable" in str(error))
        with sa.Pool(1, "fork") as pool:
            print(pool.submit(abs, -1).result())
        sys.frozen = True
        multiprocessing.set_executable(real)
        for method in ("forkserver", "spawn"):
            with sa.Pool(1, method) as pool:
                print(pool.submit(abs, -1).result())
    """
    assert program(tmp_path, code) == ("True\nTrue\n1\n1\n1\n", "")
    assert not log.exists()


GREENLETS = """
    from gevent import monkey
    monkey.patch_all(thread=eval(sys.argv[2]))
    import os, threading, time
    import gevent, numpy as np
    import sharedarray as sa

    def tick():
        while True:
            gevent.sleep(0.005)
            ticks.append(1)

    ticks = []
    gevent.spawn(tick)
    with sa.Pool(2, sys.argv[1]) as pool:
        assert pool.submit(abs, -3).result(timeout=60) == 3
        before = len(ticks)
        pool.submit(time.sleep, 0.3).result()
        print(len(ticks) > before + 10)
        assert sum(pool.map(abs, range(-500, 0))) == 125250
        assert type(pool.submit(os._exit, 3).exception()) is sa.WorkerDied
        calls = [gevent.spawn(lambda n=n: pool.submit(abs, -n).result()) for n in range(9)]
        gevent.joinall(calls)
        assert [call.value for call in calls] == list(range(9))
        assert pool.map_blocks(np.sqrt, np.ones(300_000)).sum() == 300_000
"""


@needs_server
@pytest.mark.parametrize("threads_too", few([True, False]))
def test_greenlets_run_while_one_waits_for_workers(tmp_path, threads_too):
    pytest.importorskip("gevent")
    out, _ = program(tmp_path, "import sys\n" + textwrap.dedent(GREENLETS), "forkserver", str(threads_too))
    assert out == ("True\n" if threads_too else out)


@needs_fork
def test_no_worker_is_forked_from_a_program_of_greenlets(tmp_path, monkeypatch):
    pytest.importorskip("gevent")
    code = """
        from gevent import monkey
        monkey.patch_all()
        import sharedarray as sa

        with sa.Pool(1, "fork") as pool:
            try:
                pool.submit(abs, -1)
            except sa.UnsupportedError as error:
                print(error)
    """
    out, _ = program(tmp_path, code)
    assert "gevent has monkey-patched" in out
    assert "use mp_context='forkserver'" in out
    eventlet = types.SimpleNamespace(is_monkey_patched=lambda part: part == "select")
    monkeypatch.setitem(sys.modules, "eventlet.patcher", eventlet)
    with sa.Pool(1) as pool, pytest.raises(sa.UnsupportedError, match="eventlet has monkey-patched"):
        pool.submit(abs, -1)


@pytest.mark.slow
@needs_proc
def test_under_debugpy(tmp_path, method):
    pytest.importorskip("debugpy")
    memory = Path(tempfile.mkdtemp(prefix="sa-test-debugpy-", dir=os.environ["SHAREDARRAY_DIR"]))
    (tmp_path / "job.py").write_text(
        "import sys, sharedarray as sa\n"
        "from helpers import janitors\n"
        "kept = sa.ones(3)\n"
        "with sa.Pool(1, sys.argv[1]) as pool:\n"
        "    print('answer', pool.submit(sum, [1, 2]).result())\n"
        "print(*['pydevd' in open(f'/proc/{pid}/cmdline').read() for pid in janitors(sys.argv[2])])\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "debugpy", "--listen", f"127.0.0.1:{port}", "job.py", method, str(memory)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(SHAREDARRAY_DIR=str(memory)),
        )
        assert done.stdout.splitlines()[-2:] == ["answer 3", "False"], done.stderr
    finally:
        wait_until(lambda: not janitors(str(memory)), "the janitor ends")
        shutil.rmtree(memory)


def test_the_recipe_for_logging_works_as_printed(tmp_path, first_method):
    guide = (ROOT / "docs" / "guides" / "workers.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(import logging\n.*?)```", guide, re.DOTALL)
    out, errors = program(
        tmp_path, "import sharedarray as sa\n" + recipe.replace("Pool(1, ", f"Pool(1, {first_method!r}, ")
    )
    assert out == "".join(f"number {number}\n" for number in range(3))
    assert errors == ""


# -- a machine without semaphores -----------------------------------------------------------------------


@needs_fork
def test_credits_need_no_semaphores(monkeypatch, method, tmp_path):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(synchronize.Semaphore, "__init__", refuse)
    monkeypatch.setattr(credits._Named, "make", refuse)
    counter = credits.new_counter(method)
    assert not counter.acquire(False)
    for _ in range(4000):  # as many items as a worker has at most
        counter.release()
    assert counter.get_value() == 4000
    assert sum(counter.acquire(False) for _ in range(5000)) == 4000
    with sa.Pool(2, method, retries=1) as pool:
        assert list(pool.map(pool_tasks.add, range(5000))) == list(range(1, 5001))
        assert pool.submit(pool_tasks.die_the_first_time, tmp_path / "died").result()
        # Items that wait behind a slow one are revoked, and another worker does them.
        slow, gate = tmp_path / "slow", tmp_path / "gate"
        waiting = pool.submit(pool_tasks.touch_after, slow, gate)
        assert [future.result() for future in [pool.submit(abs, -n) for n in range(50)]] == list(range(50))
        gate.touch()
        waiting.result()


@pytest.mark.slow
@needs_root
def test_where_dev_shm_is_read_only(tmp_path, method):
    memory = tmp_path / "memory"
    memory.mkdir()
    (tmp_path / "job.py").write_text(
        "import sys, numpy as np, sharedarray as sa\n"
        "with sa.Pool(2, sys.argv[1]) as pool:\n"
        "    print(pool.submit(np.sum, sa.ones(3)).result(), sum(pool.map(abs, range(9))))\n"
    )
    setting = f'mount -t tmpfs tmpfs {memory} && mount -t tmpfs -o ro tmpfs /dev/shm && exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", setting, sys.executable, str(tmp_path / "job.py"), method],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(PYTHONPATH=str(ROOT), SHAREDARRAY_DIR=str(memory)),
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("there are no mount namespaces here")
    assert done.stdout == "3.0 36\n", done.stderr


@needs_janitor
@pytest.mark.skipif(platform.SEMAPHORES is None, reason="semaphores are no files here")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_death_while_a_worker_starts_leaves_no_semaphore(own_directory, method):
    """Also if it ends the whole group, and multiprocessing's tracker with it."""
    done = run(
        f"""
        import os, signal
        import sharedarray as sa
        from sharedarray._pool.processes import credits

        held = sa.zeros(3)
        counter = credits.new_counter({method!r})
        os.write(1, counter._semlock.name.encode())
        os.setpgid(0, 0)
        os.killpg(0, signal.SIGKILL)
        """,
        status=KILLED,
    )
    name = done.stdout.lstrip("/")
    assert name.startswith("sharedarray-")
    files = {f"{platform.SEMAPHORES}/sem.{name}", f"{platform.SEMAPHORES}/{name}"}
    wait_until(lambda: not any(map(os.path.exists, files)), "the janitor removes the semaphore")
