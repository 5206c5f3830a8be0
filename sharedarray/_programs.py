"""The names of the programs that processes run, as a person would tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sharedarray._platform import platform

__all__ = ["program_name", "programs_of"]

_PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(\.exe)?", re.IGNORECASE)
# Options of Python's that take a value of their own.
_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
# Text in the code of a `python -c` that this library or multiprocessing starts, and the name of that process.
_HELPERS = (
    ("sharedarray.pool", "pool worker"),
    ("sharedarray._pool", "pool worker"),
    ("sharedarray-janitor", "janitor"),
    ("multiprocessing.resource_tracker", "resource tracker"),
    ("multiprocessing", "multiprocessing worker"),
    ("joblib.externals.loky", "joblib worker"),
)


def programs_of(pids: Iterable[int]) -> dict[int, str]:
    """Return the name of the program that each process runs; processes that cannot be seen are left out."""
    found = {}
    for pid in set(pids):
        name = program_name(platform.command_line(pid))
        if name:
            found[pid] = name
    return found


def program_name(words: Sequence[str]) -> str:
    """Return the name of the program that a command runs: of Python's, the script or module.

    Parameters
    ----------
    words : sequence of str
        The command, as `sys.orig_argv` has it; empty if it is unknown.

    Examples
    --------
    >>> program_name(["/usr/bin/python3", "-B", "jobs/train.py", "--epochs", "3"])
    'train.py'
    >>> program_name(["python", "-m", "ipykernel_launcher", "-f", "k.json"]), program_name(["/usr/bin/top"])
    ('ipykernel_launcher', 'top')
    >>> program_name(["python", "-c", "pass"]), program_name(["python"]), program_name([])
    ('python -c', 'python', '')
    """
    if not words:
        return ""
    name = _last_part(words[0])
    if not _PYTHON.fullmatch(name):
        return name
    rest = iter(words[1:])
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif word == "-" or not word.startswith("-"):
            return _last_part(word) if word != "-" else name
        elif not word.startswith("--") and (option := re.fullmatch(r"-[A-WYZa-z]*?([cm])(.*)", word)):
            argument = option[2] or next(rest, "")
            return _of_helper([argument, *rest], argument if option[1] == "m" else "python -c")
    return name


def _of_helper(words: Sequence[str], other: str) -> str:
    """Return the name of a helper process, given its code or module and its arguments; or the other name."""
    text = " ".join(words)
    return next((name for mark, name in _HELPERS if mark in text), other)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
