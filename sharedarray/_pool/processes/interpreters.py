"""The commands that start new interpreters: workers, and fork servers."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import process, spawn, util

from sharedarray import _errors as errors

__all__ = [
    "GREETING",
    "HASH_SEED",
    "check_greeting",
    "end_of",
    "executable",
    "flags",
    "hash_seed",
    "import_path",
    "launch",
    "no_start",
    "path_flags",
    "spawn_command",
]

HASH_SEED = "PYTHONHASHSEED"
# Seconds until a program that was started must have shown that it is a Python. Starting one takes 0.05 s
# here; a network file system or a debugger takes some seconds.
_PATIENCE = 30.0
GREETING = b"+"  # what a new interpreter writes first
_ENV = "/usr/bin/env"  # sets a variable for a program, and leaves the environment of this process alone


@functools.cache
def hash_seed() -> str:
    """Return the hash seed of all interpreters that this process starts for pools.

    Workers must agree on it: some versions of Dask find the partition of a key by the key's hash.
    """
    chosen = os.environ.get(HASH_SEED, "")
    if chosen.isascii() and chosen.isdigit() and int(chosen) < 1 << 32:
        return chosen
    return str(1 + int.from_bytes(os.urandom(4), "little") % ((1 << 32) - 1))


def launch(command: Sequence[str], descriptors: Sequence[int]) -> int:
    """Start an interpreter with the common hash seed, which inherits descriptors; return its pid."""
    words = [os.fsencode(word) for word in command]
    if b"=" not in words[0] and os.access(_ENV, os.X_OK):
        words = [os.fsencode(word) for word in (_ENV, f"{HASH_SEED}={hash_seed()}")] + words
    return int(util.spawnv_passfds(words[0], words, descriptors))


def check_greeting(what: str, pid: int, descriptor: int) -> None:
    """Wait until a new process has shown that it is a Python; kill and reap any other, and raise.

    The process writes its greeting to the other end of a pipe or socket.

    Raises
    ------
    SharedArrayError
        The process has ended, or does not greet in time.
    """
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    in_time = bool(ready.poll(_PATIENCE * 1000))
    with contextlib.suppress(ConnectionError):
        if in_time and os.read(descriptor, len(GREETING)) == GREETING:
            return
    end = end_of(pid)
    raise no_start(what, f"it ended {end}" if in_time else f"no answer within {_PATIENCE:.0f} s")


def end_of(pid: int) -> str:
    """Kill a child that may still run, and reap it; return how it ended."""
    try:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):  # another part of the program has reaped it
        return "in an unknown way"
    return f"with exit code {os.waitstatus_to_exitcode(status)}"


def no_start(what: str, found: str) -> errors.SharedArrayError:
    """Return the error for a process that should run a Python interpreter."""
    return errors.SharedArrayError(
        f"{what} does not start",
        name=executable(),
        found=found,
        expected="a Python interpreter",
        cause="multiprocessing starts processes with a program that is no Python, or is not complete",
        next_step="call multiprocessing.set_executable() with the path of a Python, or use "
        "Pool(mp_context='fork')",
    )


def executable() -> str:
    """Return the program that multiprocessing starts."""
    return os.fsdecode(spawn.get_executable())


def flags() -> list[str]:
    """Return the options of this interpreter, ``-W`` and ``-X`` included, for another one to start with."""
    found: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return found


def path_flags() -> list[str]:
    """Return the options by which a new interpreter starts though the working directory was removed.

    With it in the path, Python 3.13.0 cannot import `socket`. The new interpreter gets the caller's path
    later.
    """
    if not getattr(sys, "frozen", False):
        try:
            os.getcwd()
        except OSError:
            return ["-P"]
    return []


def import_path() -> list[str]:
    """Return ``sys.path`` for another process, in which the empty string would be another directory."""
    original = getattr(process, "ORIGINAL_DIR", None)
    found = []
    for entry in sys.path:
        if entry == "" and original is not None:
            # First the working directory as it is now, then that of the program's start.
            with contextlib.suppress(OSError):
                if os.getcwd() != original:
                    found.append("")
            found.append(original)
        else:
            found.append(entry)
    return found


def spawn_command(**arguments: int) -> list[str]:
    """Return the command that starts a worker in a new interpreter, with arguments of `spawn_main`.

    In a frozen program multiprocessing starts the program itself, though another one was chosen by
    `multiprocessing.set_executable`.
    """
    chosen, frozen = executable(), getattr(sys, "frozen", False)
    if frozen and chosen != sys.executable:
        words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        code = f"from multiprocessing.spawn import spawn_main; spawn_main({words})"
        return [chosen, *flags(), "-c", code, "--multiprocessing-fork"]
    command = [os.fsdecode(word) for word in spawn.get_command_line(**arguments)]
    return [command[0], *path_flags(), *command[1:]]
