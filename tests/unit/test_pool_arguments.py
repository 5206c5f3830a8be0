"""Errors of a pool for wrong arguments: what was given, and what to write instead. None harms the pool."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER

import sharedarray as sa

DATA = np.arange(12.0).reshape(3, 4)


FIRST = r"\(\) takes a function first, not "
MISTAKES: dict[str, tuple[Callable[[Any], object], str]] = {
    "submit a result": (
        lambda p: p.submit(np.sum(DATA)),
        f"^submit{FIRST}a float64: .*submit.numpy.sum, array",
    ),
    "submit a name": (lambda p: p.submit("np.sum", DATA), f"^submit{FIRST}a str"),
    "submit None": (lambda p: p.submit(None), f"^submit{FIRST}None"),
    "map a result": (lambda p: p.map(np.sum(DATA), DATA), f"^map{FIRST}a float64"),
    "map swapped": (lambda p: p.map(DATA, np.sum), f"^map{FIRST}an ndarray"),
    "map without items": (
        lambda p: p.map(np.sum),
        r"^map.* needs at least one iterable.*map\(numpy.sum, items\)",
    ),
    "map(len)": (lambda p: p.map(len), r"submit\(len\)"),
    "unordered without items": (lambda p: p.imap_unordered(np.sum), "needs at least one iterable"),
    "map a keyword": (lambda p: p.map(np.sum, DATA, axis=0), r"functools.partial\(numpy.sum, axis=0\)"),
    "starmap numbers": (lambda p: list(p.starmap(np.add, [1, 2])), "item 0 is an int.*map"),
    "starmap a keyword": (
        lambda p: p.starmap(np.add, [(1, 2)], out=1),
        r"functools.partial\(numpy.add, out=1\)",
    ),
    "starmap a name": (lambda p: p.starmap("f", [(1, 2)]), f"^starmap{FIRST}a str"),
    "starmap without items": (
        lambda p: p.starmap(np.add),
        "starmap.* missing a required argument: 'iterable'",
    ),
    "chunksize behind starmap": (
        lambda p: p.starmap(np.add, [(1, 2)], 5),  # once a timeout, that ended the workers
        "one iterable, but an int follows: for a size of batches write chunksize=5",
    ),
    "starmap of two": (
        lambda p: p.starmap(np.add, [1], [2]),
        r"but a list follows: .* each of several iterables write map\(\)",
    ),
    "chunksize behind map": (
        lambda p: p.map(np.sum, DATA, 5),
        r"number 2 is an int: .* write chunksize=5; .*functools.partial\(numpy.sum, …\)",
    ),
    "map a number": (lambda p: p.map(np.sum, 5), r"number 1 is an int: .*map\(numpy.sum, range\(5\)\)"),
    "map a future": (lambda p: p.map(np.sum, p.submit(len, [])), r"number 1 is a \w*Future: .*submit\("),
    "unordered a number": (lambda p: p.imap_unordered(np.sum, 5), r"range\(5\)"),
    "misspelt": (lambda p: p.map(np.sum, DATA, buffer_size=2), "did you mean 'buffersize'"),
    "misspelt block_size": (lambda p: p.map_blocks(np.sin, DATA, blocksize=2), "did you mean 'block_size'"),
    "chunks": (lambda p: p.map_blocks(np.sin, DATA, chunks=2), "Next step: write block_size=2"),
    "depth": (lambda p: p.map_blocks(np.sin, DATA, depth=1), "Next step: write overlap=1"),
    "clip": (
        lambda p: p.map_blocks(np.clip, DATA, a_min=0),
        r"unexpected keyword argument 'a_min'.*map_blocks\(functools.partial\(numpy.clip, a_min=0\), …\)",
    ),
    "two keywords": (
        lambda p: p.map_blocks(np.clip, DATA, a_min=0, a_max=1),
        r"functools.partial\(numpy.clip, a_min=0, a_max=1\)",
    ),
    "map_blocks of a result": (lambda p: p.map_blocks(np.sin(DATA)), f"^map_blocks{FIRST}an ndarray"),
    "map_blocks swapped": (lambda p: p.map_blocks(DATA, np.sin), f"^map_blocks{FIRST}an ndarray"),
    "no combine": (
        lambda p: p.reduce_blocks(np.sum, DATA),
        r"misses combine.*an ndarray: write reduce_blocks\(numpy.sum, numpy.add, array\)",
    ),
    "no combine of max": (lambda p: p.reduce_blocks(np.max, DATA), r"\(numpy.max, numpy.maximum, array\)"),
    "no combine of len": (lambda p: p.reduce_blocks(len, DATA), r"\(len, combine, array\)"),
    "combine behind": (
        lambda p: p.reduce_blocks(np.sum, DATA, np.add),
        "misses combine.*as its second argument",
    ),
    "combine by name": (
        lambda p: p.reduce_blocks(np.sum, DATA, combine=np.add),
        "second argument, before the",
    ),
    "combine is None": (lambda p: p.reduce_blocks(np.sum, None, DATA), "misses combine.*None"),
    "no arrays": (lambda p: p.reduce_blocks(np.sum, np.add), "needs at least one array"),
    "reduce a keyword": (
        lambda p: p.reduce_blocks(np.sum, np.add, DATA, keepdims=True),
        r"functools.partial\(numpy.sum, keepdims=True\)",
    ),
}
TIMEOUTS: dict[str, Callable[[Any, Any], object]] = {
    "map": lambda p, timeout: p.map(np.sum, DATA, timeout=timeout),
    "map, ahead": lambda p, timeout: p.map(np.sum, DATA, timeout=timeout, buffersize=1),
    "starmap": lambda p, timeout: p.starmap(np.add, DATA, timeout=timeout),
    "imap_unordered": lambda p, timeout: p.imap_unordered(np.sum, DATA, timeout=timeout),
    "map_blocks": lambda p, timeout: p.map_blocks(np.sin, DATA, timeout=timeout),
    "reduce_blocks": lambda p, timeout: p.reduce_blocks(np.sum, np.add, DATA, timeout=timeout),
    "options": lambda p, timeout: p.options(timeout=timeout),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_call_says_what_to_write(pool: sa.Pool, mistake: str) -> None:
    call, text = MISTAKES[mistake]
    with pytest.raises(TypeError, match=text):
        call(pool)


@pytest.mark.parametrize("call", TIMEOUTS)
@pytest.mark.parametrize(
    "timeout", ["5", DATA, [1], SimpleNamespace()], ids=lambda value: type(value).__name__
)
def test_a_timeout_that_is_no_number(pool: sa.Pool, call: str, timeout: Any) -> None:
    """It once reached the pool's thread, and broke the pool for all other calls."""
    with pytest.raises(TypeError, match="timeout is a number of seconds, or None; not "):
        TIMEOUTS[call](pool, timeout)
    with pytest.raises(ValueError, match="not nan"):
        TIMEOUTS[call](pool, float("nan"))
    assert pool.submit(len, [1]).result(ANSWER) == 1


def test_numbers_of_all_kinds_are_timeouts(pool: sa.Pool) -> None:
    for timeout in (ANSWER, int(ANSWER), np.float32(ANSWER), np.array(ANSWER), float("inf")):
        assert list(pool.map(np.sum, DATA, timeout=timeout)) == DATA.sum(axis=1).tolist()
        assert pool.submit(len, [1, 2]).result(timeout) == 2
    with pytest.raises(TypeError, match="timeout is"):
        pool.submit(len, [1]).result("5")  # type: ignore[arg-type]


def test_arguments_of_other_methods(pool: sa.Pool) -> None:
    unknown: Any = pool
    with pytest.raises(TypeError, match=r"'buffersize': it is one of map\(\)"):
        unknown.imap_unordered(np.sum, DATA, buffersize=2)
    with pytest.raises(TypeError, match=r"'overlap': it is one of map_blocks\(\)"):
        unknown.map(np.sum, DATA, overlap=2)
    with pytest.raises(
        ValueError, match=r"needs at least one array .*, as in map_blocks\(numpy.sin, array\)"
    ):
        unknown.map_blocks(np.sin)
    with pytest.raises(ValueError, match="must be an array with axes"):
        unknown.map_blocks(np.sin, {"a": 1})
    with pytest.raises(TypeError, match=r"write \['numpy', 'scipy'\]"):
        sa.Pool(1, preload="numpy, scipy")
    for call in (lambda: unknown.stats(1), unknown.empty, unknown.map_blocks):
        with pytest.raises(TypeError, match=r"^Pool\.\w+\(\) "):  # not the class that defines it
            call()
    with pytest.raises(TypeError, match="sequence of names of modules, not 3"):
        sa.Pool(1, preload=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="leave it out"):
        sa.Pool(1, initializer=print, initargs=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "shown"), [(5, r"\(5,\)"), ("abc", r"\('abc',\)"), (b"x", r"\(b'x',\)")])
def test_initargs_that_are_no_tuple(given: Any, shown: str) -> None:
    with pytest.raises(TypeError, match=f"initargs must be a tuple of arguments.*write {shown}"):
        sa.Pool(1, initializer=print, initargs=given)
