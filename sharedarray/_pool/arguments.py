"""Checks of the arguments of a `Pool`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from sharedarray._platform import platform
from sharedarray._pool.transport import pipes

__all__ = ["at_least", "checked_threads", "common_length", "worker_count"]


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


def common_length(iterables: Iterable[Iterable[Any]]) -> int | None:
    """Return the number of calls on these iterables; None if an iterable does not know its length."""
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
