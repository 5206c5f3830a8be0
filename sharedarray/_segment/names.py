"""The names that blocks may have, and random names."""

from __future__ import annotations

import os
from functools import lru_cache

from sharedarray import _errors as errors, _hints as hints, _registry as registry
from sharedarray._platform import platform

_FORBIDDEN = frozenset("/\\\0")
RANDOM_PREFIX = "sa_"  # how random names begin


def check_name(name: str) -> str:
    """Return the name if it can be a block's.

    Raises
    ------
    InvalidNameError
        It is not one plain path component of at most `platform.NAME_LIMIT` bytes that starts without a dot.
    TypeError
        It is no str.
    """
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    return _checked_name(name)


@lru_cache(1024)
def _checked_name(name: str) -> str:
    problem = None
    if not name:
        problem = "an empty name"
    elif name[0] == ".":
        problem = "a name that starts with a dot"
    elif not _FORBIDDEN.isdisjoint(name):
        problem = "a name with a path separator or NUL"
    elif not name.isprintable():
        problem = "a name with control characters or lone surrogates"
    elif not name.isascii() or len(name) > platform.NAME_LIMIT:
        length = len(name.encode())
        if length > platform.NAME_LIMIT:
            problem = f"a name of {length} bytes"
    problem = problem or platform.name_problem(name)
    if problem is not None:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise errors.InvalidNameError(
            f"{shown!r} cannot be the name of a block",
            name=name,
            found=problem,
            expected=f"one path component of 1 to {platform.NAME_LIMIT} bytes that does not start with a dot",
            next_step=_for_a_path(name),
        )
    return name


def _for_a_path(name: str) -> str:
    """Return what to write in the place of a name that cannot be a block's."""
    directory, block = os.path.split(name)
    if block and directory and os.path.abspath(directory) == registry.directory():
        return f"give the block's name alone, {block!r}"
    return "for an .npy file at a path use sharedarray.open(path) or file=path"


def random_name() -> str:
    """Return a name for a block whose maker gave none."""
    return f"{RANDOM_PREFIX}{os.urandom(6).hex()}"
