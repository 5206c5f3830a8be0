"""The program that runs Python for helper processes.

In most programs ``sys.executable`` is a Python interpreter. In an application that embeds or freezes Python
(uWSGI, Blender, QGIS, PyInstaller) it is the application itself, and starting it starts a second copy of the
application. No program is started here to find out which of the two it is:

- A program that was chosen with `multiprocessing.set_executable` counts as an interpreter, unless it is the
  very program that runs now.
- Any other program counts as an interpreter if its name, or the name of the file that it links to, is an
  interpreter's. In a frozen application (``sys.frozen``) no such program counts.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sharedarray import _errors as errors
from sharedarray._platform import platform

__all__ = ["flags", "python", "undebugged"]

_INTERPRETER = re.compile(
    r"\.?(python|pypy|graalpy)w?[0-9.]*(t|d|dm|m)?([-_.](dbg|debug|intel64|real|wrapped|orig|bin|exe))*",
    re.IGNORECASE,
)


def python() -> str:
    """Return the path of the interpreter that multiprocessing would start.

    Raises
    ------
    UnsupportedError
        The program that multiprocessing would start is no Python interpreter, or there is none.
    """
    chosen = _chosen()
    if not chosen:
        raise _no_interpreter("sys.executable is empty")
    if not os.path.isfile(chosen):
        raise _no_interpreter(f"{chosen}, which is no program")
    default = chosen == sys.executable
    if default and (getattr(sys, "frozen", False) or hasattr(sys.modules.get("__main__"), "__compiled__")):
        raise _no_interpreter(f"{chosen}, which is a frozen application")
    if _named_as_interpreter(chosen) or not (default or platform.runs(chosen)):
        return chosen
    raise _no_interpreter(f"{chosen}, which may be an application that embeds Python")


def _chosen() -> str:
    """Return what multiprocessing would start. Until it is imported, that is ``sys.executable``."""
    spawn = sys.modules.get("multiprocessing.spawn")
    chosen = spawn.get_executable() if spawn is not None else sys.executable
    return os.fsdecode(chosen) if chosen else ""


def _named_as_interpreter(program: str) -> bool:
    names = {os.path.basename(program), os.path.basename(os.path.realpath(program))}
    return any(map(_INTERPRETER.fullmatch, names))


def _no_interpreter(found: str) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        "no Python interpreter is known that could run a helper process",
        found=found,
        expected="the path of a Python interpreter",
        cause="the program embeds Python, or is frozen",
        next_step="call multiprocessing.set_executable(path of a Python interpreter) first",
    )


def flags() -> list[str]:
    """Return the options by which an interpreter writes bytecode where this one does, or not at all."""
    if sys.dont_write_bytecode:
        return ["-B"]
    if sys.pycache_prefix is None:
        return []
    try:
        return ["-X", f"pycache_prefix={os.path.abspath(sys.pycache_prefix)}"]
    except OSError:  # it is relative to a working directory that was removed
        return ["-B"]


def undebugged() -> AbstractContextManager[Any]:
    """Return a context in which this thread starts helper processes without a debugger.

    debugpy and PyCharm put a debugger into each Python that a program starts. In a helper it is of no use. It
    takes a second to start, and keeps the helper waiting while no editor is connected.
    """
    patches = sys.modules.get("_pydev_bundle.pydev_monkey")
    skip = getattr(patches, "skip_subprocess_arg_patch", None)
    found: AbstractContextManager[Any] = nullcontext() if skip is None else skip()
    return found
