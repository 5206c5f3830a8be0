"""Checks of the arguments of a `Pool`."""

from __future__ import annotations

import importlib.util
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sharedarray._platform import platform
from sharedarray._pool.transport import pipes

__all__ = ["at_least", "checked_modules", "checked_threads", "common_length", "worker_count"]


def at_least(least: int, name: str, given: object) -> int:
    """Return an argument as an integer; raise TypeError or ValueError if it is none, or too small."""
    try:
        number = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {given!r}") from None
    if number < least:
        raise ValueError(f"{name} must be greater than {least - 1}, not {number}")
    return number


def worker_count(max_workers: int | None) -> int:
    """Return the largest number of workers; for None the number of processors, within the system's limit."""
    most = pipes.MAX_WORKERS
    count = at_least(1, "max_workers", platform.processors() if max_workers is None else max_workers)
    if most is None or count <= most:
        return count
    if max_workers is None:
        return most
    raise ValueError(f"max_workers must be at most {most}, for so many this system can wait for, not {count}")


def checked_threads(given: int | Mapping[str, int] | None) -> int | dict[str, int] | None:
    """Return ``threads_per_worker``: one number of threads, or one for each library."""
    if isinstance(given, Mapping):
        return {name: at_least(1, name, count) for name, count in given.items()}
    return None if given is None else at_least(1, "threads_per_worker", given)


def checked_modules(preload: Sequence[str]) -> tuple[str, ...]:
    """Return ``preload``; raise if one of the modules, or its package, is not there."""
    if isinstance(preload, str):
        raise TypeError(f"preload must be a sequence of names, not {preload!r}: write [{preload!r}]")
    for name in preload:
        if not isinstance(name, str):
            raise TypeError(f"preload must be a sequence of names of modules, not of {name!r}")
        top = name.partition(".")[0]
        try:  # the package alone: to find a module in it, Python would import it
            found = top in sys.modules or importlib.util.find_spec(top) is not None
        except ValueError:  # it is empty, or loaded without a spec
            found = bool(top)
        if not found:
            raise ModuleNotFoundError(
                f"preload names {name!r}, but there is no module {top!r} on sys.path", name=top
            )
    return tuple(preload)


def common_length(iterables: Iterable[Iterable[Any]]) -> int | None:
    """Return the number of calls on these iterables; None if an iterable does not know its length."""
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
