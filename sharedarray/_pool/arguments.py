"""Checks of the arguments of a `Pool`."""

from __future__ import annotations

import importlib.util
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sharedarray._platform import platform
from sharedarray._pool.calls import name_of
from sharedarray._pool.transport import pipes

__all__ = [
    "argument_tuples",
    "at_least",
    "check_combine",
    "check_function",
    "checked_initargs",
    "checked_modules",
    "checked_threads",
    "common_length",
    "refuse_keywords",
    "worker_count",
]


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
        names = preload.replace(",", " ").split()
        raise TypeError(f"preload must be a sequence of names, not {preload!r}: write {names!r}")
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


def checked_initargs(initargs: Any) -> tuple[Any, ...]:
    """Return the arguments of an initializer as a tuple."""
    if initargs is None:
        raise TypeError("initargs must be a tuple of arguments, not None: leave it out")
    if isinstance(initargs, str | bytes) or not isinstance(initargs, Iterable):
        raise TypeError(f"initargs must be a tuple of arguments, not {initargs!r}: write ({initargs!r},)")
    return tuple(initargs)


def check_function(method: str, function: Any, iterables: tuple[Any, ...] | None = None) -> None:
    """Raise `TypeError` unless a method of a pool got a function, and iterables if it takes some."""
    if not callable(function):
        raise TypeError(
            f"{method}() takes a function first, not {_kind_of(function)}: give the function and its "
            f"arguments apart, as in {method}(numpy.sum, array) in place of {method}(numpy.sum(array))"
        )
    if iterables == ():
        name = _shown(function)
        raise TypeError(
            f"{method}() needs at least one iterable behind the function, as in {method}({name}, items); for "
            f"one call without arguments write submit({name})"
        )


# What makes one result of two for functions of NumPy that make one of a block.
_COMBINES = {
    "sum": "numpy.add",
    "nansum": "numpy.add",
    "count_nonzero": "numpy.add",
    "prod": "numpy.multiply",
    "max": "numpy.maximum",
    "amax": "numpy.maximum",
    "min": "numpy.minimum",
    "amin": "numpy.minimum",
    "any": "numpy.logical_or",
    "all": "numpy.logical_and",
}


def check_combine(function: Any, combine: Any, arrays: tuple[Any, ...]) -> None:
    """Raise `TypeError` unless `reduce_blocks` got two functions, and arrays behind these."""
    combining = _COMBINES.get(name_of(function), "combine")
    example = f"reduce_blocks({_shown(function)}, {combining}, array)"
    if combine is None or not callable(combine):
        raise TypeError(
            "reduce_blocks() misses combine, the function that makes one result of two, as its second "
            f"argument, which is {_kind_of(combine)}: write {example}"
        )
    if not arrays:
        raise TypeError(f"reduce_blocks() needs at least one array behind the two functions: write {example}")


# Keywords that are not the function's, but another method's.
_OWNERS = {
    "buffersize": "map()",
    **dict.fromkeys(("block_size", "overlap"), "map_blocks()"),
    **dict.fromkeys(("retries", "max_workers", "initializer", "initargs"), "Pool()"),
}


def refuse_keywords(method: str, function: Any, keywords: Mapping[str, Any]) -> None:
    """Raise `TypeError` for keywords that a method of a pool does not have, and the function may have."""
    if "combine" in keywords:
        raise TypeError(
            f"{method}() takes combine as its second argument, before the arrays, and not by name"
        )
    others = [keyword for keyword in keywords if keyword in _OWNERS]
    if others:
        raise TypeError(
            f"{method}() got an unexpected keyword argument {others[0]!r}: it is one of {_OWNERS[others[0]]}"
        )
    if keywords:
        name = _shown(function)
        bound = ", ".join(f"{key}={value!r:.40}" for key, value in keywords.items())
        raise TypeError(
            f"{method}() got an unexpected keyword argument {next(iter(keywords))!r}; if it is for {name}, "
            f"bind it: {method}(functools.partial({name}, {bound}), …)"
        )


def argument_tuples(items: Iterable[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield the items of `starmap` as tuples of arguments."""
    for number, item in enumerate(items):
        try:
            arguments = iter(item)
        except TypeError:
            raise TypeError(
                f"starmap() takes tuples of arguments, but item {number} is {_kind_of(item)}; for one "
                "argument in each call write map()"
            ) from None
        yield tuple(arguments)


def _shown(function: Any) -> str:
    """Return how a user may write a function, as far as that is known."""
    name, module = name_of(function), getattr(function, "__module__", None)
    return f"numpy.{name}" if module == "numpy" or isinstance(function, np.ufunc) else name


def _kind_of(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name == 'ndarray' or name[0].lower() in 'aeiou' else 'a'} {name}"
