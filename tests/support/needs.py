"""The requirements of tests on the machine, and other settings for pytest.

Apart from `helpers`, which the tests' second interpreters import, and which so does without pytest: it takes
as long to import as NumPy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    FORKS,
    LIMITS,
    METHODS,
    PROC,
    SIGNALS,
    TERMINALS,
    USERS,
    blocks_are_files,
    files_have_modes,
    janitor_needed,
)

from sharedarray._pool.processes import default_method

needs_fork = pytest.mark.skipif(not FORKS, reason="processes cannot fork here")
needs_signals = pytest.mark.skipif(not SIGNALS, reason="there are no signals between processes here")
needs_proc = pytest.mark.skipif(not PROC, reason="there is no /proc here")
needs_users = pytest.mark.skipif(not USERS, reason="a process cannot act as another user here")
needs_root = pytest.mark.skipif(
    not USERS or os.geteuid() != 0, reason="only root can act as another user, where there are any"
)
needs_terminals = pytest.mark.skipif(not TERMINALS, reason="a test cannot be a terminal here")
needs_limits = pytest.mark.skipif(not LIMITS, reason="a process cannot limit itself here")


# For tests of what can differ from one start method to another. New interpreters take the longest: these are
# slow tests where there are other ways.
EACH_METHOD = [
    pytest.param(method, marks=pytest.mark.slow) if method == "spawn" and FORKS else method
    for method in METHODS
]
# The meaning of a call does not depend on the start method: such tests are slow but for one method.
FIRST_METHOD = [
    method if method == default_method() else pytest.param(method, marks=pytest.mark.slow)
    for method in METHODS
]


def many_starts(test: Any) -> Any:
    """Mark as slow on systems without fork: such tests start many interpreters in the place of forks."""
    return test if FORKS else pytest.mark.slow(test)


def few(values: Sequence[Any], quick: int = 1) -> list[Any]:
    """Parameters of which all but the first are slow: variations of what those show already."""
    return [*values[:quick], *(pytest.param(value, marks=pytest.mark.slow) for value in values[quick:])]


def needs_janitor(test: Any) -> Any:
    """Skip where there is no janitor, as the kernel frees blocks itself."""
    return pytest.mark.skipif(not janitor_needed(), reason="the kernel frees blocks here: no janitor")(test)


def needs_files(test: Any) -> Any:
    """Skip where blocks are memory of the kernel's without a path."""
    return pytest.mark.skipif(not blocks_are_files(), reason="blocks are no files here")(test)


def needs_modes(test: Any) -> Any:
    """Skip where files have no modes that say who may use them."""
    return pytest.mark.skipif(not files_have_modes(), reason="files have access lists here, no modes")(test)


def _open_files_are_free() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        first, second = Path(directory, "first"), Path(directory, "second")
        second.touch()
        with open(first, "wb"):
            try:
                os.replace(second, first)
            except OSError:
                return False
    return True


def needs_free_files(test: Any) -> Any:
    """Skip where a file that is open cannot be replaced, renamed or opened at will."""
    return pytest.mark.skipif(
        not _open_files_are_free(), reason="a file that is open stays where it is here"
    )(test)


def link(path: Path, target: Path) -> None:
    """Make a symbolic link, or skip the test where links lead nowhere."""
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    if not path.exists():
        path.unlink(missing_ok=True)
        pytest.skip("symbolic links lead nowhere here")


def need_links() -> None:
    """Skip the test where links lead nowhere."""
    with tempfile.TemporaryDirectory() as directory:
        link(Path(directory, "link"), Path(directory))
