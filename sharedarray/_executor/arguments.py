"""Checks of the arguments of a `Pool`."""

from __future__ import annotations

import importlib.util
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sharedarray import _hints as hints, _pipes as pipes
from sharedarray._platform import platform
from sharedarray._pool.calls import name_of

__all__ = [
    "argument_tuples",
    "at_least",
    "check_combine",
    "check_function",
    "checked_initargs",
    "checked_modules",
    "checked_threads",
    "common_length",
    "likely_keyword",
    "refuse_keywords",
    "refuse_others",
    "worker_count",
    "zipped",
]


def at_least(least: int, name: str, given: object) -> int:
    """Return an argument as an integer; raise TypeError or ValueError if it is none, or too small."""
    try:
        number = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {given!r}") from None
    if number < least:
        limit = "greater than 0" if least == 1 else f"at least {least}"  # the former as the standard library
        raise ValueError(f"{name} must be {limit}, not {number}")
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
    if not isinstance(preload, Iterable):
        raise TypeError(f"preload must be a sequence of names of modules, not {preload!r}")
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


def check_function(
    method: str, function: Any, given: tuple[Any, ...] | None = None, kind: str = "iterable"
) -> None:
    """Raise `TypeError` unless a method of a pool got a function, and some arguments behind it."""
    if not callable(function):
        raise TypeError(
            f"{method}() takes a function first, not {_kind_of(function)}: give the function and its "
            f"arguments apart, as in {method}(numpy.sum, array) in place of {method}(numpy.sum(array))"
        )
    if given == ():
        name = _shown(function)
        example, error = ("items", TypeError) if kind == "iterable" else ("array", ValueError)
        raise error(
            f"{method}() needs at least one {kind} behind the function, as in {method}({name}, {example}); "
            f"for one call without arguments write submit({name})"
        )


def zipped(method: str, function: Any, iterables: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Return the arguments of each call of a map; raise `TypeError` if one of the iterables is none."""
    try:
        return zip(*iterables)  # noqa: B905
    except TypeError:
        for at, given in enumerate(iterables):
            if not hasattr(type(given), "__iter__") and not hasattr(type(given), "__getitem__"):
                raise TypeError(_no_iterable(method, function, at, given)) from None
        raise


def _no_iterable(method: str, function: Any, at: int, given: Any) -> str:
    text = f"{method}() takes iterables behind the function, but number {at + 1} is {_kind_of(given)}"
    name = _shown(function)
    if at and isinstance(given, int):
        return (
            f"{text}: for a size of batches write chunksize={given}; to give it to each call bind it with "
            f"functools.partial({name}, …)"
        )
    if isinstance(given, int):
        return f"{text}: for the numbers below it write {method}({name}, range({given}))"
    return f"{text}: for one call write submit({name}, …)"


# Functions of NumPy that make one number of a block, and the function that combines two of these.
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


# Of 1: a misspelt parameter, and not one of the function's that begins or ends alike.
_LIKENESS = 0.8

# Keywords that are not the function's, but another method's.
_OWNERS = {
    "buffersize": "map()",
    **dict.fromkeys(("block_size", "overlap"), "map_blocks()"),
    **dict.fromkeys(("retries", "max_workers", "initializer", "initargs"), "Pool()"),
}


def refuse_keywords(method: Callable[..., Any], function: Any, keywords: Mapping[str, Any]) -> None:
    """Raise `TypeError` for keywords that a method of a pool does not have, and the function may have."""
    way = method.__name__
    if "combine" in keywords:
        raise TypeError(f"{way}() takes combine as its second argument, before the arrays, and not by name")
    others = [keyword for keyword in keywords if keyword in _OWNERS]
    if others:
        raise TypeError(
            f"{way}() got an unexpected keyword argument {others[0]!r}: it is one of {_OWNERS[others[0]]}"
        )
    if keywords:
        first, name = next(iter(keywords)), _shown(function)
        bound = ", ".join(f"{key}={value!r:.40}" for key, value in keywords.items())
        meant = likely_keyword(method, first)
        text = f"{way}() got an unexpected keyword argument {first!r}; "
        text += "if" if meant is None else f"did you mean {meant!r}? If"
        raise TypeError(f"{text} it is for {name}, bind it: {way}(functools.partial({name}, {bound}), …)")


def refuse_others(method: str, others: tuple[Any, ...]) -> None:
    """Raise `TypeError` for arguments behind the one iterable of a method."""
    if others:
        value = others[0]
        text = f"{method}() takes a function and one iterable, but {_kind_of(value)} follows"
        if isinstance(value, Iterable):
            text += ": to take an item of each of several iterables write map()"
        elif isinstance(value, int):
            text += f": for a size of batches write chunksize={value}"
        raise TypeError(text)


def likely_keyword(function: Callable[..., Any], given: str) -> str | None:
    """Return the parameter that was probably meant by a keyword that a function does not have."""
    by_name = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.signature(function).parameters.items()
    return hints.likely(given, [name for name, each in parameters if each.kind in by_name], _LIKENESS)


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
