"""Tools for tests with real processes: second interpreters, handshakes, waiting for a condition.

Tests never sleep and hope. A `Puppet` is a second interpreter that says where it is and waits to be told
how to go on; `wait_until` waits for something that another process does, and fails at a deadline.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import queue
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
TABLE = "locks.1"  # in the registry, of a process that locks, and of the janitor who removes it
# Seconds that anything may take which a test waits for, on a machine that is slow and busy: a bound against
# hanging, of which nothing is left over if all is well.
ANSWER = 60.0

# -- what this machine can do ---------------------------------------------------------------------------

FORKS = hasattr(os, "fork")
SIGNALS = hasattr(signal, "SIGKILL")  # whether processes send each other signals; else they end each other
try:
    PROC = os.readlink("/proc/self") == str(
        os.getpid()
    )  # whether open files and processes can be looked at there
except OSError:
    PROC = False
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # what ends a process at once, for `os.kill`
KILLED = -KILL if SIGNALS else KILL  # the status of a process that was ended so; a puppet's `kill` sees to it
USERS = hasattr(os, "geteuid")  # whether a process can be another user's, and files be closed to them
METHODS = multiprocessing.get_all_start_methods()
TERMINALS = importlib.util.find_spec("termios") is not None  # whether a test can be a terminal
LIMITS = importlib.util.find_spec("resource") is not None  # whether a process can limit what it may use


def _platform() -> Any:
    from sharedarray._platform import platform  # not above: some programs must do without the library

    return platform


def janitor_needed() -> bool:
    """Return whether blocks outlive a sudden death, so that a janitor has to free them."""
    return bool(_platform().NEEDS_JANITOR)


def blocks_are_files() -> bool:
    """Return whether a block can be found and opened by its path, and its record says how long it lives."""
    return bool(_platform().RECORDS_DECIDE)


def files_have_modes() -> bool:
    """Return whether files have modes that say who may use them."""
    import tempfile  # not above: most who import this do without, and it takes a while

    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o640)
        return os.stat(file.name).st_mode & 0o777 == 0o640


def open_to_all(path: str) -> None:
    """Let every user use a directory."""
    os.chmod(path, 0o755)
    if not files_have_modes():
        import win32security

        list_of = win32security.ConvertStringSecurityDescriptorToSecurityDescriptor
        win32security.SetFileSecurity(path, 4, list_of("D:P(A;OICI;GA;;;WD)", 1))  # 4: the access list


def open_handles() -> int:
    """Return how many descriptors, or handles of the kernel's, this process has open."""
    if PROC:
        return len(os.listdir("/proc/self/fd"))
    import ctypes

    kernel: Any = ctypes.__dict__["WinDLL"]("kernel32")
    found = ctypes.c_uint32()
    kernel.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(found))
    return found.value


def kill(pid: int) -> None:
    """End a process at once, as the kernel would."""
    os.kill(pid, KILL)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop another process for the ``with`` statement."""
    if SIGNALS:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
        return
    import ctypes

    import win32api

    system: Any = ctypes.__dict__["WinDLL"]("ntdll")
    process = win32api.OpenProcess(0x0800, False, pid)  # PROCESS_SUSPEND_RESUME
    assert system.NtSuspendProcess(ctypes.c_void_p(int(process))) == 0
    try:
        yield
    finally:
        assert system.NtResumeProcess(ctypes.c_void_p(int(process))) == 0


def crash_quietly() -> None:
    """Let a crash of this process end it, without a question to a debugger or a person."""
    if not SIGNALS:
        import ctypes

        kernel: Any = ctypes.__dict__["WinDLL"]("kernel32")
        kind = ctypes.__dict__["WINFUNCTYPE"](ctypes.c_long, ctypes.c_void_p)
        _kept.append(kind(lambda found: 1))  # EXCEPTION_EXECUTE_HANDLER
        kernel.SetUnhandledExceptionFilter(_kept[-1])


_kept: list[Any] = []


# -- waiting --------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], Any], what: str, timeout: float = ANSWER, every: float = 0.005) -> Any:
    """Wait until `condition()` is true and return what it gave; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline  # looked at first, so that the last try comes after the deadline
        found = condition()
        if found:
            return found
        if late:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(every)


# -- Ctrl-C ---------------------------------------------------------------------------------------------


def interrupted_at(step: int, function: Callable[[], object], never: tuple[CodeType, ...] = ()) -> bool:
    """Call a function with Ctrl-C at a step of this library; return False if it has fewer steps."""
    left = step

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal left
        if "sharedarray" not in frame.f_code.co_filename or "_sigint" in frame.f_code.co_filename:
            return None
        if frame.f_code in never:
            return None
        if event == "line":
            left -= 1
            if left == -1:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return left < 0


def first_steps(part: str, function: Callable[[], object], never: tuple[CodeType, ...] = ()) -> list[int]:
    """Call a function; return a step, as `interrupted_at` counts, for each place in a part of the library.

    A place is a line, and the lines of that part that led to it.
    """
    found: dict[tuple[tuple[str, int], ...], int] = {}
    step = -1

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal step
        if "sharedarray" not in frame.f_code.co_filename or "_sigint" in frame.f_code.co_filename:
            return None
        if frame.f_code in never:
            return None
        if event == "line":
            step += 1
            place, at = [], frame
            while at is not None:
                if part in at.f_code.co_filename:
                    place.append((at.f_code.co_filename, at.f_lineno))
                at = at.f_back
            if part in frame.f_code.co_filename:
                found.setdefault(tuple(place), step)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        function()
    finally:
        sys.settrace(before)
    return list(found.values())


# -- what is there --------------------------------------------------------------------------------------


def directory() -> str:
    """Return where this test's blocks are."""
    return os.environ["SHAREDARRAY_DIR"]


def registry(where: str | None = None) -> str:
    """Return the registry beside the blocks."""
    return f"{where or directory()}/.sharedarray-{_platform().user()}"


def block_files(where: str | None = None) -> set[str]:
    """Return every block and file beside the registry, of any maker, and every scratch file."""
    where = where or directory()
    # If open files keep their names, as on Windows, a removed file has such a name until it is closed.
    found = {name for name in _names(where) if not name.startswith(".sharedarray-") and name[-5:] != ".gone"}
    if not blocks_are_files():
        from sharedarray import _registry

        found |= {name for name, number, _ in _registry.records(where) if inode(name, where) == number}
    return found


def notes(where: str | None = None) -> set[str]:
    """Return the files of the registry except the two of the janitor and the table of write intents."""
    if not janitor_needed():
        from sharedarray import _registry

        _registry.sweep(where or directory())  # no process does before the next block is made
    return {name for name in _names(registry(where)) if not name.startswith("janitor.") and name != TABLE}


def nothing_left(where: str | None = None) -> bool:
    """Return whether there is neither a block nor a metadata link."""
    return not block_files(where) and not notes(where)


def inode(name: str, where: str | None = None) -> int | None:
    """Inode that a name leads to."""
    found: int | None = _platform().inode_of(f"{where or directory()}/{name}")
    return found


def memory_is_there(name: str) -> bool:
    """Return whether any process has the memory of a block of this name, where blocks are no files."""
    from sharedarray._platform import windows_names as names, windows_sections as sections

    path = f"{directory()}/{name}"
    section, _ = sections.open_section(names.kernel_name(path), path)
    if section is not None:
        sections.close_handle(section.handle)
    return section is not None


def janitors(where: str | None = None) -> list[int]:
    """Return pids of the janitors of a directory."""
    wanted = registry(where).encode()
    found = []
    for entry in _names("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"sharedarray-janitor" in words and wanted in words:
                found.append(int(entry))
    return found


def alive(pid: int) -> bool:
    """Return whether a process is there and has not ended."""
    if not PROC:
        return _platform().process_started(pid) is not None
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return line[line.rindex(")") + 2] not in "ZX"


def kill_janitors(where: str | None = None) -> int:
    """SIGKILL to the janitors of this test's directory; how many there were."""
    found = janitors(where)
    for pid in found:
        kill(pid)
    wait_until(lambda: not any(map(alive, found)), "the killed janitors end")
    return len(found)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        if os.path.isdir(path):
            raise
        return []


# -- second interpreters --------------------------------------------------------------------------------


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a second interpreter that finds this package, and the tests' modules."""
    folders = [str(ROOT), str(SUPPORT), *(each for each in sys.path if TESTS in Path(each).resolve().parents)]
    path = os.pathsep.join([*dict.fromkeys(folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **changes}
    for variable in ("PYTHONWARNINGS", "PYTEST_CURRENT_TEST"):
        found.pop(variable, None)
    if found.get("PYTHONDEVMODE"):  # which shows the warning of each fork beside threads, from 3.12 on
        found["PYTHONWARNINGS"] = "ignore:This process:DeprecationWarning"
    return found


def run(
    script: str,
    *arguments: object,
    flags: tuple[str, ...] = (),
    status: int | None = 0,
    before: tuple[str, ...] = (),
    timeout: float = ANSWER,
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script in a second interpreter to its end.

    `before` is a command that starts it, `flags` are the interpreter's, `changes` the environment's. The
    status is asserted unless it is None; so a crash by a signal is a failure that shows the stacks.
    """
    done = subprocess.run(
        [
            *before,
            sys.executable,
            "-X",
            "faulthandler",
            *flags,
            "-c",
            textwrap.dedent(script),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**changes),
        cwd="/",
    )
    if status is not None:
        assert done.returncode == status, (
            f"status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        )
    return done


def answer(script: str, *arguments: object, **options: Any) -> Any:
    """Run a script in a second interpreter; what it said last (see `say`)."""
    done = run(script, *arguments, **options)
    return json.loads(done.stdout.splitlines()[-1])


class Puppet:
    """A second interpreter that runs a script with `say` and `hear`, for a test to lead step by step."""

    def __init__(self, script: str, *arguments: object, **changes: str) -> None:
        head = "from helpers import say, hear, suicide\nimport os, sys\nimport sharedarray as sa\n"
        self.process = self._start(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-c",
                head + textwrap.dedent(script),
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(**changes),
            cwd="/",
        )
        self._heard = b""
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        if not SIGNALS:  # where a pipe cannot be waited for with a timeout
            threading.Thread(target=self._listen, daemon=True).start()

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, **options)

    @property
    def pid(self) -> int:
        return self.process.pid

    def silent(self, timeout: float) -> bool:
        """Return whether it says nothing for so many seconds."""
        more = None if b"\n" in self._heard else self._more(timeout)
        self._heard += more or b""
        return b"\n" not in self._heard

    def hear(self, timeout: float = ANSWER) -> Any:
        """Return what it says next; fails when it ends instead."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._heard:
            more = self._more(max(0.0, deadline - time.monotonic()))
            assert more is not None, f"puppet {self.pid} says nothing"
            assert more, f"puppet {self.pid} ended with {self.process.wait()} when it should have spoken"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def _more(self, timeout: float) -> bytes | None:
        assert self.process.stdout is not None
        if SIGNALS:
            ready, _, _ = select.select([self.process.stdout], [], [], timeout)
            return os.read(self.process.stdout.fileno(), 1 << 16) if ready else None
        try:
            return self._pieces.get(timeout=timeout)
        except queue.Empty:
            return None

    def _listen(self) -> None:
        assert self.process.stdout is not None
        while piece := os.read(self.process.stdout.fileno(), 1 << 16):
            self._pieces.put(piece)
        self._pieces.put(b"")
        self.process.stdout.close()

    def say(self, what: Any = None) -> None:
        """Let it go on, from `hear`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, what: Any = None) -> Any:
        """Send a value and return the answer."""
        self.say(what)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        kill(self.pid)
        assert self.process.wait(ANSWER) == KILLED

    def end(self, status: int = 0) -> None:
        """Let it go on to its end, which must be of this status."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.say()
            self.process.stdin.close()
        assert self.process.wait(ANSWER) == status

    def __enter__(self) -> Puppet:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(ANSWER)
        # A thread that reads there goes on until the last process that inherited the other end has ended.
        for pipe in (self.process.stdin, self.process.stdout) if SIGNALS else (self.process.stdin,):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


# -- a puppet's side ------------------------------------------------------------------------------------


def say(what: Any = None) -> None:
    """Tell the test something, as one line of JSON."""
    os.write(1, json.dumps(what).encode() + b"\n")


def hear() -> Any:
    """Wait for the test to say something; its end is the end."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            os._exit(3)
        line += piece
    return json.loads(line)


def suicide() -> None:
    """Die as by the kernel's hand."""
    kill(os.getpid())


def plain(text: str) -> str:
    """Return a word that can be part of a block's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)


def forget_janitor(path: str) -> None:
    """Close this process's connection to the janitor of a directory."""
    from sharedarray import (
        _janitor as janitor,  # not above: some programs that import this must do without the library
    )

    connection = janitor._state.connections.pop(path, None)
    if connection is not None:
        connection.close()
    handle = janitor._state.present.pop(registry(path), None)
    if handle is not None:
        _platform().close(handle)


# -- memory ---------------------------------------------------------------------------------------------


def memory_group(limit: int) -> Path | None:
    """Return a fresh control group with a memory limit, of either version; None if not permitted."""
    groups = Path("/sys/fs/cgroup")
    for root, file in ((groups / "memory", "memory.limit_in_bytes"), (groups, "memory.max")):
        group = root / f"sharedarray-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def unnamed_memory() -> int:
    """Return the bytes of the nameless files of this process: recycled memory and result buffers."""
    found: dict[tuple[int, int], int] = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{entry}")
            status = os.stat(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if link.startswith(directory()) and status.st_nlink == 0:
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())
