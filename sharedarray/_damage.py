"""Damaged files of the registry: reported once each, and moved away.

Another program, a full disk or a fault can change any file that stands beside the blocks. Such a file is set
aside or made anew, and the work goes on: an error here would stop the janitor, a program's exit or the
creation of blocks that have nothing to do with the file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

__all__ = ["NOT_A_FILE", "quarantine", "report", "unheard"]

unheard = False
"""True if the warnings of this process reach no user: the janitor's.

It leaves a damaged file to the processes whose warnings reach a user, as long as there are such processes.
"""

# The errors of `os.open` and its like if something else than a readable regular file has the name.
NOT_A_FILE = (IsADirectoryError, NotADirectoryError, PermissionError)

_MOST_REPORTED = 100  # files; after that many, a process reports no more
_reported: set[str] = set()


def report(path: str, found: str, effect: str) -> None:
    """Warn about a damaged file, once in a process.

    It never raises, not even where warnings are errors: the callers are finalizers, the janitor, and programs
    at their end.

    Parameters
    ----------
    path
        The file.
    found
        What is wrong with it.
    effect
        What follows from that.
    """
    if unheard or path in _reported or len(_reported) >= _MOST_REPORTED:
        return
    _reported.add(path)
    text = f"{path} is damaged ({found}): {effect}"
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except Warning:  # by a filter that makes errors of warnings
        with contextlib.suppress(Exception):
            sys.stderr.write(f"RuntimeWarning: {text}\n")


def quarantine(path: str) -> bool:
    """Free a name of the registry: remove what has it, or rename a directory that is not empty.

    Returns
    -------
    bool
        Whether the name is free now.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        try:
            os.rmdir(path)
        except OSError:
            try:
                os.rename(path, f"{os.path.dirname(path)}/damaged.{os.urandom(6).hex()}")
            except OSError:
                return not os.path.lexists(path)
    return True
