"""What the tests need to work with real processes: second interpreters, handshakes, waiting for a condition.

Tests never sleep and hope. A `Puppet` is a second interpreter that says where it is and waits to be told
how to go on; `wait_until` waits for something that another process does, and fails at a deadline.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GONE = 2.0  # seconds after which a block whose holders were killed must be gone (promise 5)
JANITOR_ENDS = 6.0  # seconds in which a janitor with nothing left must be gone; about 3 where cores are free
TABLE = "locks.1"  # in the registry, of a process that locks, and of the janitor who removes it
ANSWER = 60.0  # seconds that a puppet may take to answer, on a machine that is busy

# -- waiting --------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 10.0, every: float = 0.005) -> Any:
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


# -- what is there --------------------------------------------------------------------------------------


def directory() -> str:
    """Where this test's blocks are."""
    return os.environ["SHAREDARRAY_DIR"]


def registry(where: str | None = None) -> str:
    """The registry beside the blocks."""
    return f"{where or directory()}/.sharedarray-{os.geteuid()}"


def block_files(where: str | None = None) -> set[str]:
    """Every file beside the registry, whoever made it, and every scratch file."""
    return {name for name in _names(where or directory()) if not name.startswith(".sharedarray-")}


def notes(where: str | None = None) -> set[str]:
    """Records, tokens and notes in the registry: all but the janitor's two files and the table of marks."""
    return {name for name in _names(registry(where)) if not name.startswith("janitor.") and name != TABLE}


def nothing_left(where: str | None = None) -> bool:
    """Whether there is neither a block nor a note."""
    return not block_files(where) and not notes(where)


def inode(name: str, where: str | None = None) -> int | None:
    """Inode that a name leads to."""
    try:
        return os.lstat(f"{where or directory()}/{name}").st_ino
    except FileNotFoundError:
        return None


def janitors(where: str | None = None) -> list[int]:
    """Pids of the janitors of a directory."""
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
    """Whether a process is there and has not ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return line[line.rindex(")") + 2] not in "ZX"


def kill_janitors(where: str | None = None) -> int:
    """SIGKILL to the janitors of this test's directory; how many there were."""
    found = janitors(where)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, found)), "the killed janitors end")
    return len(found)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


# -- second interpreters --------------------------------------------------------------------------------


def environment(**changes: str) -> dict[str, str]:
    """The environment of a second interpreter that finds this package and these helpers."""
    found = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "PYTHONUNBUFFERED": "1", **changes}
    for variable in ("PYTHONWARNINGS", "PYTEST_CURRENT_TEST"):
        found.pop(variable, None)
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
        self.process = subprocess.Popen(
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

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> Any:
        """What it says next; fails when it ends instead."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + ANSWER
        while b"\n" not in self._heard:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, left))
            assert ready, f"puppet {self.pid} says nothing"
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            assert more, f"puppet {self.pid} ended with {self.process.wait()} when it should have spoken"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def say(self, what: Any = None) -> None:
        """Let it go on, from `hear`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, what: Any = None) -> Any:
        """Say something and return the answer."""
        self.say(what)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.kill()
        assert self.process.wait(ANSWER) == -signal.SIGKILL

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
        for pipe in (self.process.stdin, self.process.stdout):
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
    os.kill(os.getpid(), signal.SIGKILL)


def plain(text: str) -> str:
    """A word that can be part of a block's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)


def forget_janitor(path: str) -> None:
    """Close this process's connection to the janitor of a directory."""
    from sharedarray import janitor  # not above: some programs that import this must do without the library

    connection = janitor._state.connections.pop(path, None)
    if connection is not None:
        connection.close()
