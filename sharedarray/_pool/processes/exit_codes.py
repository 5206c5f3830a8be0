"""The meaning of an exit code: how a process ended, the likely cause, and the next step."""

from __future__ import annotations

import signal
from typing import NamedTuple

__all__ = ["Death", "explain"]


class Death(NamedTuple):
    """The end of a process, the likely cause, and the next step for the user."""

    how: str
    cause: str
    next_step: str


_NATIVE = "look at the native code that the task calls; faulthandler.enable() in an initializer shows where"

# By name, since no platform has all signals.
_BY_SIGNAL: dict[str, tuple[str, str]] = {
    "SIGKILL": (
        "the kernel's out-of-memory killer, or kill -9 by a user or a batch system",
        "look for 'Out of memory' in the kernel's log (dmesg); give the pool fewer workers or smaller pieces",
    ),
    "SIGSEGV": ("a crash in native code (an invalid memory access)", _NATIVE),
    "SIGBUS": (
        "a mapping without memory behind it: of a file that was truncated, or on a full memory file system",
        "see whether a program truncates the file, and whether /dev/shm is large enough",
    ),
    "SIGABRT": ("native code that found an invalid state and called abort", _NATIVE),
    "SIGILL": (
        "native code that was compiled for another processor, or a crash in native code",
        "install packages built for this machine",
    ),
    "SIGFPE": ("a division by zero in native code", _NATIVE),
    "SIGTERM": (
        "a request to end: by a service manager, a batch system, kill, Process.terminate()",
        "find out what sends SIGTERM to this program's processes",
    ),
    "SIGXCPU": ("the limit on processor time (ulimit -t)", "raise the limit or make the tasks shorter"),
    "SIGXFSZ": ("the limit on file size (ulimit -f)", "raise the limit"),
    "SIGHUP": ("its terminal was closed", "run the program under nohup, tmux or a service manager"),
}

# Exit codes by which Windows ends a process (NTSTATUS).
_BY_STATUS: dict[int, tuple[str, str, str]] = {
    0xC0000005: ("by an access violation", "a crash in native code (an invalid memory access)", _NATIVE),
    0xC00000FD: ("by a stack overflow", "a recursion in native code, or a very deep one in Python", _NATIVE),
    0xC0000409: ("by a check that found its stack damaged", "a crash in native code (abort)", _NATIVE),
    0xC0000017: (
        "by lack of memory",
        "the machine's memory and page file are used up",
        "give the pool fewer workers or smaller pieces, or enlarge the page file",
    ),
    0xC000013A: ("by Ctrl-C", "its console was closed, or Ctrl-C was pressed in it", "find out what did so"),
}

# The exit code of a worker whose fork server was killed, in Python's own fork server as well.
_UNKNOWN = 255


def explain(code: int | None) -> Death:
    """Explain an exit code, as in `multiprocessing.Process.exitcode`: negative for a signal."""
    if code is None or code == _UNKNOWN:
        return Death(
            "in an unknown way",
            "its fork server was killed together with it, or it called os._exit(255)",
            "find out what kills the processes of this program",
        )
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        cause, next_step = _BY_SIGNAL.get(
            name, ("a signal that nothing handles", "find out what sends it to this program's processes")
        )
        shown = name if name.startswith("signal") else f"{name} (signal {-code})"
        return Death(f"by {shown}", cause, next_step)
    if code in _BY_STATUS:
        how, cause, next_step = _BY_STATUS[code]
        return Death(f"{how} (exit code {code:#x})", cause, next_step)
    return Death(
        f"with exit code {code}",
        "code that ends the process at once: os._exit(), or exit() in a library that the task calls",
        "let the function return or raise instead",
    )
