"""Unusual surroundings: process 1, embedded and frozen programs, other kernels, locales and users."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import METHODS, answer, block_files, environment, inode, janitors, notes, run, wait_until
from needs import few, needs_fork, needs_janitor, needs_proc, needs_root

import sharedarray as sa
from sharedarray import _interpreter as interpreter, _janitor as janitor, _registry as registry
from sharedarray._platform import platform


def can_unshare(*options: str) -> bool:
    """Return whether this user may start a program in such namespaces of its own."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, *options, "true"], capture_output=True).returncode == 0


# -- process 1 and subreapers ---------------------------------------------------------------------------

ADOPTS = """
    import ctypes, glob, os, sys
    from pathlib import Path
    from helpers import janitors, say, wait_until
    if sys.argv[1] == "subreaper":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    import sharedarray as sa

    def children():
        found = []
        for file in glob.glob("/proc/self/task/*/children"):
            try:
                found += Path(file).read_text().split()
            except FileNotFoundError:  # the thread has ended
                pass
        return found

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
    say([pid == mine, os.waitstatus_to_exitcode(status)])
"""


@needs_janitor
@needs_proc
@pytest.mark.skipif(not os.path.exists("/proc/thread-self/children"), reason="this kernel tells no children")
@pytest.mark.parametrize("who", few(["itself", "child"]))
def test_what_adopts_orphans_has_no_zombies_and_waits_for_its_own_children(tmp_path, who):
    """Two programs at once, for each waits for a janitor to end by itself."""
    ways = [("subreaper", ())]
    options = ("--pid", "--fork", "--kill-child", "--mount-proc")
    if can_unshare(*options):
        ways.append(("process 1", ("unshare", *options)))

    def one(way):
        kind, before = way
        blocks = tmp_path / kind
        blocks.mkdir()
        return answer(ADOPTS, kind, who, before=before, SHAREDARRAY_DIR=str(blocks))

    with ThreadPoolExecutor(len(ways)) as threads:
        assert list(threads.map(one, ways)) == [[True, 7]] * len(ways)


NESTED = """
    import ctypes, glob, os, sys
    from pathlib import Path
    from helpers import say, wait_until
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    import sharedarray as sa

    def children():
        found = []
        for file in glob.glob("/proc/self/task/*/children"):
            try:
                found += Path(file).read_text().split()
            except FileNotFoundError:  # the thread has ended
                pass
        return found

    def inner():
        with sa.Pool(1, "forkserver") as pool:
            pool.submit(abs, -1).result(60)
        # The kernel may miss those of a thread that has just ended.
        return wait_until(children, "the fork server is listed")

    if __name__ == "__main__":
        with sa.Pool(1, sys.argv[1]) as pool:
            helpers = pool.submit(inner).result(60)
        for pid in helpers:
            wait_until(lambda: not os.path.exists("/proc/" + pid), "a worker's fork server was reaped")
        say(len(helpers))
"""


@needs_proc
@pytest.mark.skipif(not os.path.exists("/proc/thread-self/children"), reason="this kernel tells no children")
@pytest.mark.parametrize("method", few([name for name in ("forkserver", "fork", "spawn") if name in METHODS]))
def test_a_pool_in_a_worker_leaves_no_zombie_to_the_process_above(method):
    assert answer(NESTED, method) >= 1


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
            sa._janitor._state.failed.clear()  # as after some seconds
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
    chosen = os.path.relpath(program(tmp_path / "mayapy", f'exec {sys.executable} "$@"'), "/")
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


@needs_janitor
def test_a_program_that_does_not_end_is_waited_for_once():
    waits = []

    def wait(seconds):
        waits.append(seconds)
        raise subprocess.TimeoutExpired("program", seconds)

    program = SimpleNamespace(pid=os.getpid(), wait=wait)  # this process does not end here
    with pytest.raises(subprocess.TimeoutExpired):
        janitor._status(program, 0.01)
    assert waits == [0 if hasattr(os, "pidfd_open") else 0.01]


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
                "(connection,) = sa._janitor._state.connections.values()\n"
                "print(sa.__file__, connection.welcomed())"
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
        assert list((tmp_path / "cache").rglob("_janitor.*.pyc"))


# -- pid namespaces that share a directory --------------------------------------------------------------


@contextlib.contextmanager
def apart(script: str, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script as process 1 of a pid namespace; it ends when its standard input does."""
    options = ("--pid", "--fork", "--kill-child", "--mount-proc")
    if not can_unshare(*options):
        pytest.skip("pid namespaces are not permitted here")
    process = subprocess.Popen(
        ["unshare", *options, sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(**changes),
        cwd="/",
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate(timeout=60)


@needs_janitor
def test_a_reference_from_another_pid_namespace_lives_while_its_sender_does(own_directory):
    """The sender's pid tells nothing here; the kernel tells by a lock that the sender lives."""
    script = """
        import sys
        from multiprocessing.reduction import ForkingPickler
        import sharedarray as sa
        a = sa.full(3, 5, name="sent")
        sent = ForkingPickler.dumps(a)
        a.close()
        print(bytes(sent).hex(), flush=True)
        sys.stdin.read()
        """
    with sa.zeros(3, name="mine"):  # so that the janitor is one of this side
        with apart(script, SHAREDARRAY_GRACE="0.01") as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            for _ in range(2):
                registry.sweep(own_directory)
                assert not [name for name in notes() if name.startswith("d.")]  # it is not seen as dead
            (block,) = (block for block in sa.blocks() if block.name == "sent")
            assert (block.references, block.held, block.creator_alive) == (1, False, True)
        wait_until(lambda: registry.sweep(own_directory) and block_files() == {"mine"}, "it expires now")


@needs_janitor
def test_a_fork_shows_that_it_lives_and_its_parent_can_be_dead(own_directory):
    """A forked child has a lock of its own, and keeps none of its parent's."""
    script = """
        import os, sys
        import sharedarray as sa
        a = sa.full(3, 5)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            os._exit(0) if sys.argv[1] == "parent" else os.waitpid(pid, 0)
        sys.stdin.read()
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), "parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    with sa.zeros(3):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.wait(60) == 0
        elsewhere = registry.here()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry.processes, "here", lambda: elsewhere + 1)
            wait_until(
                lambda: registry.alive(child, 0, elsewhere, own_directory), "the child has its own lock"
            )
            assert not registry.alive(process.pid, 0, elsewhere, own_directory)
            assert registry.alive(os.getpid(), 0, elsewhere, own_directory)
        process.communicate(timeout=60)


@needs_janitor
def test_a_block_that_is_being_made_in_another_pid_namespace_keeps_its_record(own_directory, monkeypatch):
    with sa.zeros(3), monkeypatch.context() as elsewhere:
        another = (os.getpid(), 1), registry.here() + 1
        elsewhere.setattr(registry.processes, "_of_this_process", lambda pid: another)
        registry.write_record(own_directory, "made", 7, kind="array", persist=False)
        lock = registry.appear(own_directory)
        elsewhere.undo()
        try:
            registry.sweep(own_directory)
            assert registry.read_record(own_directory, "made", 7) is not None
        finally:
            os.close(lock)
        registry.sweep(own_directory)
        assert registry.read_record(own_directory, "made", 7) is None


def test_a_process_appears_before_it_makes_its_first_record(own_directory):
    """A janitor of another pid namespace that sweeps in between would drop the record."""
    with sa.zeros(3):
        done = run("""
            import sharedarray as sa
            from sharedarray import _registry as registry

            plain, appeared = registry.write_record, []

            def write_record(directory, *what, **more):
                appeared.append(registry.processes._appears(directory, registry.me()[0], registry.here()))
                plain(directory, *what, **more)

            registry.write_record = write_record
            sa.zeros(3)
            print(appeared)
        """)
    assert done.stdout == "[True]\n"


# -- clocks that are set --------------------------------------------------------------------------------

HOUR = 3600.0


@pytest.mark.skipif(not platform.uptime()[0], reason="processes have no steady clock in common here")
@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_ages_do_not_follow_the_time_of_day(own_directory, monkeypatch, step):
    """A reference expires by the clock that cannot be set, and a block's time follows the clock."""
    clock, uptime = platform.uptime()
    now = registry.moments.time.time()
    times = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(registry.moments, "time", times)
    with sa.zeros(3, name="waits", persist=True) as a:
        pin_name = f"t.{inode('waits')}.999999999.1.{registry.here()}.60000.ab"
        os.link(f"{own_directory}/waits", registry.pin_path(own_directory, pin_name))
        registry.in_flight.expire_pins(own_directory)
        now += step
        assert registry.in_flight.expire_pins(own_directory)
        (block,) = sa.blocks()
        assert abs(block.created.timestamp() - now) < HOUR / 2
        monkeypatch.setattr(platform, "uptime", lambda: (clock, uptime + 61))
        assert not registry.in_flight.expire_pins(own_directory)
        a.unlink()


def test_a_moment_of_another_clock_is_told_by_the_time_of_day(monkeypatch):
    monkeypatch.setattr(registry.moments.time, "time", lambda: 1000.0)
    monkeypatch.setattr(platform, "uptime", lambda: (5, 70.0))
    assert registry.Moment(900.0, 5, 20.0).age() == 50
    assert registry.Moment(900.0, 6, 20.0).age() == 100
    assert registry.Moment(900.0).age() == 100
    assert registry.Moment(2000.0).age() == 0
    for text in ("", "x", "-1", "1 2", "1 2 3 4", "nan 1 1", "1 1 nan", "1 -1 1"):
        with pytest.raises(ValueError):  # noqa: PT011
            registry.Moment.parse(text)


# -- locales --------------------------------------------------------------------------------------------

LOCALES = r"""
    import os, sys
    import sharedarray as sa
    from helpers import hear, say
    name = "gr\u00f6\u00dfe\u4e2d"
    made = sa.full(3, 7, name=name, persist=True)
    held = sa.put([1], name=name + "2")
    files = sorted(os.listdir(os.fsencode(os.environ["SHAREDARRAY_DIR"])))
    files = [file.hex() for file in files if not file.startswith(b".")]
    say([sys.getfilesystemencoding(), made.name == name, files])
    hear()
    assert sorted(b.name for b in sa.blocks()) == [name, name + "2", name + "3"]
    assert all(os.path.exists(b.path) for b in sa.blocks())
    assert sa.attach(name + "3").tolist() == [3]
    assert sa.exists(name + "3") and not sa.exists(name + "4")
    sa.unlink(name + "3")
    with sa.attach(name).lock(timeout=60):
        pass
    assert sa.attach(sa.attach(name)[1:].reference().name).sum() == 21
    os.kill(os.getpid(), 9)
"""


def latin1(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a program in a Latin-1 locale; skip if there is none and none can be made."""
    tool = shutil.which("localedef")
    where = tmp_path / "locales"
    where.mkdir()
    if tool is not None:
        target = str(where / "de_DE.ISO-8859-1")
        subprocess.run([tool, "-i", "de_DE", "-f", "ISO-8859-1", target], capture_output=True)
    return {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(where)}


@needs_janitor
@pytest.mark.parametrize("locale", few(["C", "Latin-1"]))
def test_a_name_is_the_same_in_every_locale(own_directory, tmp_path, locale):
    """Files are named in UTF-8, so that programs of different locales find each other's blocks."""
    changes = {"LC_ALL": "C"} if locale == "C" else latin1(tmp_path)
    changes |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = "größe中"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LOCALES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(**changes),
        text=True,
    )
    with process:
        assert process.stdout is not None
        encoding, same, files = json.loads(process.stdout.readline())
        if encoding == "utf-8":
            process.kill()
            sa.unlink(name)
            pytest.skip("there is no such locale here, and none can be made")
        assert same
        assert files == [name.encode().hex(), f"{name}2".encode().hex()]
        assert sa.attach(name).tolist() == [7, 7, 7]
        assert sa.get(name + "2") == [1]
        third = sa.full(1, 3, name=name + "3")
        process.communicate("0\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert third.tolist() == [3]
    wait_until(lambda: block_files() == {name}, "the janitor, in that locale too, frees what is not held")
    done = subprocess.run(
        [sys.executable, "-m", "sharedarray", "rm", "-y", name],
        env=environment(**changes),
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0
    assert block_files() == set()


# -- kernels and file systems that lack something -------------------------------------------------------

# A seccomp filter answers some system calls with an error, as other kernels and sandboxes do.
FILTER = """
    import ctypes, errno, os, platform, struct, sys

    def forbid(number, low, high, code):
        program = [
            (0x20, 0, 0, 0),  # load the number of the system call
            (0x15, 0, 5, number),  # another one: jump to the end
            (0x20, 0, 0, 24),  # load the low half of the second argument
            (0x35, 0, 2, low),  # below: jump to the end
            (0x25, 1, 0, high),  # above: jump to the end
            (0x06, 0, 0, 0x00050000 | code),  # an error
            (0x06, 0, 0, 0x7FFF0000),
            (0x06, 0, 0, 0x7FFF0000),  # go on
        ]
        steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
        header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(steps))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
            print("no filter", ctypes.get_errno())
            sys.exit(0)

    FCNTL, LINK = {"x86_64": (72, 265), "aarch64": (25, 37)}.get(platform.machine(), (None, None))
    if FCNTL is None:
        print("no filter here")
        sys.exit(0)
    if sys.argv[1] == "locks":
        forbid(FCNTL, 36, 38, errno.EINVAL)
    elif sys.argv[1] != "proc":
        forbid(LINK, 0, 0xFFFFFFFF, getattr(errno, sys.argv[1]))
"""
CALLS = """
    import json
    import numpy as np
    import sharedarray as sa

    place = sys.argv[2]
    calls = {
        "zeros": lambda: sa.zeros(3),
        "share": lambda: sa.share([1, 2], name="x"),
        "put": lambda: sa.put([1]),
        "list": lambda: sa.ShareableList([1]),
        "memory": lambda: sa.SharedMemory(create=True, size=5),
        "segment": lambda: sa.Segment.create(5),
        "lock_file": lambda: sa.lock_file(place + "/locked", timeout=1).acquire(),
        "pool": lambda: sa.Pool(1),
        "attach": lambda: sa.attach("there").close(),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
            said[name] = "works"
        except sa.UnsupportedError as error:
            said[name] = str(error)
        except BaseException as error:
            said[name] = repr(error)
    a = sa.full(3, 5, file=place + "/a.npy")
    a[0] = 6
    try:
        sa.zeros(3, file=place + "/a.npy")
    except sa.BlockExistsError:
        said["file"] = [sa.open(place + "/a.npy").tolist(), np.load(place + "/a.npy").tolist()]
    print(json.dumps(said))
"""


def lacking(what: str, tmp_path: Path, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what each call says where something is missing; nothing may be left of any."""
    place = tmp_path / "place"
    place.mkdir()
    there = sa.zeros(3, name="there")
    done = run(FILTER + CALLS, what, place, before=before)
    if done.stdout.startswith("no filter"):
        pytest.skip(done.stdout)
    said: dict[str, Any] = json.loads(done.stdout)
    assert said.pop("file") == [[6, 5, 5]] * 2
    assert {file.name for file in place.iterdir()} <= {"a.npy", "locked"}
    assert block_files() == {"there"}
    there.close()
    return said


@needs_proc
@pytest.mark.parametrize("what", few(["locks", "EPERM", "EOPNOTSUPP", "ENOSYS"]))
def test_a_poor_kernel_is_one_error_at_the_first_call(own_directory, tmp_path, what):
    """All calls say the same; files on disk need neither leases nor links."""
    said = lacking(what, tmp_path)
    needed = "F_OFD_SETLK" if what == "locks" else "hard links"
    if what != "locks":
        assert said.pop("attach") == "works"  # which makes no link
    assert needed in said["zeros"]
    assert "SHAREDARRAY_DIR" in said["zeros"]
    assert set(said.values()) == {said["zeros"]}


@needs_proc
def test_without_proc_there_is_one_error_at_the_first_call(own_directory, tmp_path):
    if not can_unshare("--mount"):
        pytest.skip("mount namespaces are not permitted here")
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')
    said = lacking("proc", tmp_path, before=hide)
    assert said.pop("attach") == "works"
    assert "mount -t proc" in said["zeros"]
    assert set(said.values()) == {said["zeros"]}


@needs_proc
def test_a_proc_of_another_pid_namespace_is_one_error_of_pools_and_locks(own_directory, tmp_path):
    """The numbers of processes in it are not those that processes know of themselves; blocks need none."""
    if not can_unshare("--pid", "--fork"):
        pytest.skip("pid namespaces are not permitted here")
    said = lacking("proc", tmp_path, before=("unshare", "--pid", "--fork"))
    for which in ("pool", "lock_file"):
        assert "pid namespace" in said.pop(which)
    assert set(said.values()) == {"works"}


# -- dropped privileges ---------------------------------------------------------------------------------

DROP = """
    import ctypes, os, struct, sys
    import numpy as np
    import sharedarray as sa
    from helpers import janitors, say

    def drop():
        "Become the user nobody with root's right to read, for Python may be in root's home directory."
        libc, read_all = ctypes.CDLL(None), 1 << 2
        libc.prctl(8, 1, 0, 0, 0)  # keep the permitted capabilities
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        wanted = struct.pack("6I", read_all, read_all, read_all, 0, 0, 0)
        assert libc.capset(struct.pack("Ii", 0x20080522, 0), wanted) == 0
        assert libc.prctl(47, 2, 2, 0, 0) == 0  # programs that it starts keep it too

    def told(call):
        try:
            return call()
        except sa.SharedArrayError as error:
            return type(error).__name__

    a = sa.zeros(10, name="made_before")
    a[1] = 5
    if sys.argv[1] == "child":
        pid = os.fork()
        if pid:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    drop()
    b = sa.ones(3, name="made_after")
    said = {
        "janitors": len(janitors()),
        "memory": float(a.sum()),
        "lock": told(lambda: a.lock(timeout=60).acquire()),
        "own lock": told(lambda: b.lock(timeout=60).acquire()),
        "persist": told(a.persist),
        "unlink": told(lambda: sa.unlink("made_before")),
        "names": [block.name for block in sa.blocks()],
    }
    pid = os.fork()
    if not pid:
        os._exit(int(a[1] + b[1] + sa.attach("made_after")[2]))
    said["fork"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with sa.Pool(1) as pool:
        big = np.ones(300_000)
        said["pool"] = float(pool.submit(np.negative, big).result(60).sum())
        said["pool's own"] = float(pool.submit(np.sum, b).result(60))
    say(said)
    os.kill(os.getpid(), 9)
"""


@needs_janitor
@needs_root
@pytest.mark.parametrize("way", few(["itself", "child"]))
def test_a_process_that_drops_its_privileges(own_directory, way):
    """Arrays that it made before stay usable; new ones have a janitor of the new user."""
    os.chmod(own_directory, 0o1777)
    done = run(DROP, way, status=None)
    assert done.returncode in (-signal.SIGKILL, -signal.SIGKILL & 0xFF), done.stderr
    assert json.loads(done.stdout) == {
        "janitors": 1,
        "memory": 5.0,
        "lock": "NotOursError",
        "own lock": True,
        "persist": "NotOursError",
        "unlink": "NotOursError",
        "names": ["made_after"],
        "fork": 7,
        "pool": -300_000.0,
        "pool's own": 3.0,
    }
    assert "Traceback" not in done.stderr
    wait_until(lambda: not block_files(), "both janitors remove what the killed process held")


# -- a working directory that was removed ---------------------------------------------------------------


def test_a_working_directory_that_was_removed(own_directory, tmp_path):
    """Blocks need none; a path that is relative to it is an error that says so."""
    said = answer(
        """
        import os, sys
        import sharedarray as sa
        from helpers import say

        os.mkdir(sys.argv[1])
        os.chdir(sys.argv[1])
        os.rmdir(sys.argv[1])
        a = sa.full(3, 2, name="x")
        with a.lock(timeout=60):
            said = [int(sa.attach("x").sum())]
        calls = {
            "file": lambda: sa.zeros(3, file="x.npy"),
            "open": lambda: sa.open("x.npy"),
            "lock_file": lambda: sa.lock_file("x.txt"),
            "directory": lambda: (os.environ.update(SHAREDARRAY_DIR="x"), sa.zeros(3)),
        }
        for name, call in calls.items():
            try:
                call()
            except sa.BlockNotFoundError as error:
                said.append("working directory" in str(error))
        say(said)
        """,
        tmp_path / "removed",
    )
    assert said == [6, True, True, True, True]


# -- directories that nothing can be made in ------------------------------------------------------------


def test_a_read_only_directory_is_an_error_that_names_the_variable(own_directory):
    if not can_unshare("--mount"):
        pytest.skip("mount namespaces are not permitted here")
    closed = f'mount -t tmpfs -o ro none "{own_directory}" && exec "$0" "$@"'
    said = answer(
        """
        import sharedarray as sa
        from helpers import say

        said = []
        for call in (lambda: sa.zeros(3), lambda: sa.put([1]), lambda: sa.ShareableList([1])):
            try:
                call()
            except sa.NotOursError as error:
                said.append("SHAREDARRAY_DIR" in str(error) and "Read-only" in str(error))
        say(said)
        """,
        before=("unshare", "--mount", "sh", "-c", closed),
    )
    assert said == [True] * 3


@needs_fork
def test_workers_leave_it_to_the_pool_to_warn_of_a_missing_janitor():
    with sa.Pool(1, "fork") as pool:
        assert pool.submit(lambda: janitor.silent).result(60)
    assert not janitor.silent
