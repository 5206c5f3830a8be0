"""Where a program lives: process 1, embedded and frozen programs, other kernels, locales and users."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import answer, janitors, run, wait_until
from needs import few, needs_janitor, needs_proc

import sharedarray as sa
from sharedarray import interpreter, janitor


def can_unshare(*options: str) -> bool:
    """Return whether this user may start a program in such namespaces of its own."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, *options, "true"], capture_output=True).returncode == 0


# -- process 1 and subreapers ---------------------------------------------------------------------------

ADOPTS = """
    import ctypes, os, sys
    from helpers import janitors, say, wait_until
    if sys.argv[1] == "subreaper":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    import sharedarray as sa

    def children():
        with open("/proc/thread-self/children") as file:
            return file.read().split()

    seen = []
    for _ in range(2):
        sa.zeros(10).close()
        if sys.argv[2] == "child":  # the janitor of a child is ours as well once it is an orphan
            pid = os.fork()
            if not pid:
                for pid in janitors():
                    os.kill(pid, 9)
                sa.zeros(10).close()
                os._exit(0)
            os.waitpid(pid, 0)
            sa.zeros(10).close()
        wait_until(lambda: not janitors(), "the janitor ends")
        wait_until(lambda: not children(), "the janitor is reaped")
        mine = os.fork()
        if not mine:
            os._exit(7)
        pid, status = os.wait()
        seen.append([pid == mine, os.waitstatus_to_exitcode(status)])
    say(seen)
"""


@needs_janitor
@needs_proc
@pytest.mark.skipif(not os.path.exists("/proc/thread-self/children"), reason="this kernel tells no children")
def test_what_adopts_orphans_has_no_zombies_and_waits_for_its_own_children(tmp_path):
    """Four programs at once, for each waits for two janitors to end by themselves."""
    ways = [("subreaper", "itself", ()), ("subreaper", "child", ())]
    if can_unshare("--pid", "--fork", "--mount-proc"):
        first = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        ways += [("process 1", "itself", first), ("process 1", "child", first)]

    def one(way):
        kind, who, before = way
        blocks = tmp_path / f"{kind}-{who}"
        blocks.mkdir()
        return answer(ADOPTS, kind, who, before=before, SHAREDARRAY_DIR=str(blocks))

    with ThreadPoolExecutor(len(ways)) as threads:
        assert list(threads.map(one, ways)) == [[[True, 7]] * 2] * len(ways)


# -- sys.executable that is no Python -------------------------------------------------------------------


def program(path: Path, text: str) -> str:
    """Make a shell script and return its path."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@needs_janitor
def test_an_application_that_embeds_python_is_not_started_again(own_directory, tmp_path):
    """There is one warning for all arrays, and the blocks of killed processes go with the next one."""
    log = tmp_path / "log"
    application = program(tmp_path / "application", f"echo started >> {log}\nexec sleep 60")
    said = answer(
        """
        import os, signal, sys, warnings
        import sharedarray as sa
        from helpers import block_files, say
        sys.executable = sys.argv[1]
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            a, b = sa.ones(3), sa.ones(3)
            pid = os.fork()
            if not pid:
                lost = sa.ones(3, name="lost")
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)
            sa.janitor._state.failed.clear()  # as after some seconds
            c = sa.ones(3)
        say([len(seen), str(seen[0].message), "lost" in block_files(), float((a + b + c).sum())])
        """,
        application,
    )
    assert said[0] == 1
    assert "multiprocessing.set_executable" in said[1]
    assert said[2:] == [False, 9.0]
    assert not log.exists()
    assert not janitors()


@needs_janitor
def test_multiprocessings_executable_runs_the_janitor(own_directory, tmp_path):
    """It is honoured whatever its name is, and for a frozen application too."""
    chosen = program(tmp_path / "mayapy", f'exec {sys.executable} "$@"')
    done = run(
        "import multiprocessing, sys\n"
        "import sharedarray as sa\n"
        "sys.frozen = True\n"
        f"multiprocessing.set_executable({chosen!r})\n"
        "a = sa.zeros(3, persist=True, name='x')\n"
        "from helpers import janitors\n"
        "print(len(janitors()))\n"
        "a.unlink()",
        flags=("-W", "error"),
    )
    assert done.stdout == "1\n"


@needs_janitor
def test_a_program_that_does_not_end_is_killed(own_directory, tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    monkeypatch.setattr(
        sys, "executable", program(tmp_path / "python3", f"echo $$ > {pid_file}\nexec sleep 60")
    )
    monkeypatch.setitem(sys.modules, "multiprocessing.spawn", None)
    monkeypatch.setattr(janitor, "_START_PATIENCE", 0.5)
    with pytest.warns(RuntimeWarning, match=r"did not end within 0.5 s"):
        a = sa.ones(3)
    assert a.sum() == 3
    wait_until(lambda: not Path(f"/proc/{pid_file.read_text().strip()}").exists(), "the program is gone")


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        *((name, True) for name in ("python", "python3.13t", "pypy3", "python3-intel64", "Python3.11.bin")),
        *((name, False) for name in ("uwsgi", "qgis-bin", "blender", "pythonic", "python-app", "mypython")),
    ],
)
def test_a_program_is_an_interpreter_by_its_name(tmp_path, monkeypatch, name, accepted):
    monkeypatch.setitem(sys.modules, "multiprocessing.spawn", None)
    monkeypatch.setattr(sys, "executable", program(tmp_path / name, ""))
    if accepted:
        assert interpreter.python() == str(tmp_path / name)
    else:
        with pytest.raises(sa.UnsupportedError, match="may be an application"):
            interpreter.python()


def test_no_program_counts_as_an_interpreter(tmp_path, monkeypatch):
    spawn = SimpleNamespace(get_executable=lambda: None)
    monkeypatch.setitem(sys.modules, "multiprocessing.spawn", spawn)
    for executable, found in (
        (None, "is empty"),
        ("", "is empty"),
        (str(tmp_path / "python"), "no program"),
        (str(tmp_path), "no program"),
    ):
        monkeypatch.setattr(sys, "executable", executable)
        spawn.get_executable = lambda executable=executable: executable
        with pytest.raises(sa.UnsupportedError, match=found):
            interpreter.python()
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python3", ""))
    spawn.get_executable = lambda: os.fsencode(sys.executable)
    assert interpreter.python() == sys.executable
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(sa.UnsupportedError, match="frozen"):
        interpreter.python()


# -- bytecode -------------------------------------------------------------------------------------------


@needs_janitor
@pytest.mark.parametrize("way", few(["prefix", "variable", "-B"]))
def test_the_janitor_writes_bytecode_where_its_starter_does(own_directory, tmp_path, way):
    package = Path(sa.__file__).parent
    copy = tmp_path / "copy"
    shutil.copytree(package, copy / "sharedarray", ignore=shutil.ignore_patterns("__pycache__"))
    changes = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": ""}
    if way == "prefix":
        changes["PYTHONPYCACHEPREFIX"] = str(tmp_path / "cache")
    elif way == "variable":
        changes["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [
            *(sys.executable, *(("-B",) if way == "-B" else ()), "-c"),
            (
                "import sharedarray as sa\na = sa.zeros(3)\n"
                "(connection,) = sa.janitor._state.connections.values()\n"
                "print(sa.__file__, connection.covered())"
            ),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=changes,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{copy / 'sharedarray' / '__init__.py'} True\n"
    assert list(copy.rglob("*.pyc")) == []
    if way == "prefix":
        assert list((tmp_path / "cache").rglob("janitor.*.pyc"))
