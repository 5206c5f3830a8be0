"""A contestant of the races: a way to have functions called in other processes.

Each contestant has two workers and answers the same questions. An answer is a function that a race calls and
times. This module has the limit, this library and Python's own pools; `rivals` has other libraries. By
default, a contestant does what its documentation shows first. `hosts` runs each in its own interpreter.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, ClassVar, Self

import numpy as np

import sharedarray as sa
from sharedarray._bench import tasks
from sharedarray._bench.limits import CONTEXT, bare_worker, warm_copy
from sharedarray._bench.race import Call
from sharedarray._bench.tasks import Array

BLOCK = 8 << 20
"""Bytes of a block."""

WORKERS = 2
"""Worker processes of each contestant. Most races have one task under way at a time, and need only one."""


class Contestant(contextlib.ExitStack):
    """One way to have functions called in other processes; a context manager, which has its workers inside.

    Attributes
    ----------
    name : str
        As it is called in tables and on the command line.
    meaning : str
        What it does with an array, for the legend of the table.
    needs : str
        The module without which it cannot take part.
    kind : str
        ``limit``, ``ours``, ``pickling``, ``sharing``, or ``other``: by files, or messages of its own.
    questions : tuple of str
        The questions below that it has an answer to.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    needs: ClassVar[str] = "numpy"
    kind: ClassVar[str] = "pickling"
    questions: ClassVar[tuple[str, ...]] = (
        "noop",
        "many",
        "mapped",
        "long",
        "argument",
        "result",
        "blocks",
    )

    def __enter__(self) -> Self:
        """Start the workers, and have each seen a task."""
        self.start()
        for _ in range(3):
            self.call(tasks.noop, 0)
        return self

    def start(self) -> None:
        """Start the workers."""

    # The methods of each contestant

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call this in a worker, and wait for what it returns."""
        raise NotImplementedError

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        """Submit a task for each value, one by one, and then wait for all."""
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        """Return the library's map, with its default arguments: the results."""
        raise NotImplementedError

    # The questions

    @contextlib.contextmanager
    def noop(self) -> Iterator[Call]:
        """Run a task that does nothing, there and back."""
        yield lambda: self._drop(self.call(tasks.noop, 3))

    @contextlib.contextmanager
    def many(self, count: int) -> Iterator[Call]:
        """Submit so many of them one by one, then wait for all results."""
        values = list(range(count))
        yield lambda: self.call_many(tasks.noop, values)

    @contextlib.contextmanager
    def mapped(self, count: int) -> Iterator[Call]:
        """Run so many of them in one map."""
        values = list(range(count))
        yield lambda: self._drop(self.map(tasks.noop, values))

    @contextlib.contextmanager
    def long(self, seconds: float) -> Iterator[Call]:
        """Run a task in each worker that sleeps so long, then wait for all results."""
        yield lambda: self.call_many(time.sleep, [seconds] * WORKERS)

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        """Send an array as the argument of a task."""
        yield lambda: self._drop(self.call(tasks.first, data))

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        """Return an array that the worker has as the result of a task."""
        yield lambda: self._look(self.call(tasks.stored, path, size))

    @contextlib.contextmanager
    def blocks(self, data: Array) -> Iterator[Call]:
        """Write the square root of an array, block by block, into another array."""
        pieces = [data[at : at + BLOCK // 8] for at in range(0, len(data), BLOCK // 8)]
        out = np.zeros_like(data)

        def compute() -> None:
            at = 0
            for part in self.map(np.sqrt, pieces):
                out[at : at + len(part)] = part
                at += len(part)

        yield compute

    @staticmethod
    def _drop(_: Any) -> None:
        return None

    @staticmethod
    def _look(array: Any) -> None:
        array[0]


class Limit(Contestant):
    """One copy into memory that is mapped and warm, and a bare process on a pipe."""

    name = "limit"
    meaning = "the least that processes can do: one copy within warm memory, and a worker at a bare pipe"
    kind = "limit"
    questions = tuple(name for name in Contestant.questions if name != "long")

    def start(self) -> None:
        self._ask = self.enter_context(bare_worker(tasks.noop))
        self._ask_all = self.enter_context(bare_worker(tasks.noops))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._ask(*args)

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        for value in values:
            self._ask(value)

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return self._ask_all(values)

    @contextlib.contextmanager
    def blocks(self, data: Array) -> Iterator[Call]:
        """Run the blocks in two threads, which share all memory."""
        out = np.zeros_like(data)
        places = [slice(at, at + BLOCK // 8) for at in range(0, len(data), BLOCK // 8)]
        with ThreadPoolExecutor(2) as threads:
            yield lambda: self._drop(list(threads.map(lambda at: np.sqrt(data[at], out=out[at]), places)))

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        with warm_copy(data) as copy:

            def ask() -> None:
                copy()
                self._ask(3)

            yield ask

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        with self.argument(tasks.stored(path, size)) as ask:
            yield ask


class Ours(Contestant):
    """`sharedarray.Pool`, which is given plain arrays and returns plain arrays."""

    name = "sharedarray"
    meaning = "a plain array handed to sharedarray.Pool, which copies it once, into shared memory"
    needs = "sharedarray"
    kind = "ours"

    def start(self) -> None:
        self.pool = self.enter_context(sa.Pool(WORKERS))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(function, *args).result()

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        for future in [self.pool.submit(function, value) for value in values]:
            future.result()

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return list(self.pool.map(function, values))

    @contextlib.contextmanager
    def blocks(self, data: Array) -> Iterator[Call]:
        out = np.zeros_like(data)
        yield lambda: self._drop(self.pool.map_blocks(np.sqrt, data, out=out))


_shared: dict[tuple[str, int], sa.SharedArray] = {}


def shared(path: str, size: int) -> sa.SharedArray:
    """Return a shared array of the worker's own, with what `tasks.stored` has."""
    key = path, size
    if key not in _shared:
        _shared.clear()
        _shared[key] = sa.share(tasks.stored(path, size))
    return _shared[key]


class OursShared(Ours):
    """The same with arrays that are shared already: nothing is copied."""

    name = "sharedarray, shared"
    meaning = "an array of sharedarray.share handed to sharedarray.Pool: only a reference is sent"
    questions = ("argument", "result", "blocks")

    @contextlib.contextmanager
    def blocks(self, data: Array) -> Iterator[Call]:
        with sa.share(data) as array, sa.zeros(len(data)) as out:
            yield lambda: self._drop(self.pool.map_blocks(np.sqrt, array, out=out))

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        with sa.share(data) as array:
            yield lambda: self._drop(self.call(tasks.first, array))

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        yield lambda: self._look(self.call(shared, path, size))
        for _ in range(4 * WORKERS):  # so that each worker has given its array up
            self.call(shared, path, 8)


class Executor(Contestant):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "ProcessPoolExecutor"
    meaning = "concurrent.futures: the array is pickled and sent through a pipe"

    def start(self) -> None:
        self.pool: Any = self.enter_context(ProcessPoolExecutor(WORKERS, CONTEXT))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(function, *args).result()

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        for future in [self.pool.submit(function, value) for value in values]:
            future.result()

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return list(self.pool.map(function, values))


class Multiprocessing(Contestant):
    """`multiprocessing.Pool`."""

    name = "multiprocessing.Pool"
    meaning = "multiprocessing: the array is pickled and sent through a pipe"

    def start(self) -> None:
        self.pool: Any = CONTEXT.Pool(WORKERS)
        self.callback(self.pool.join)
        self.callback(self.pool.close)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply(function, args)

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        for pending in [self.pool.apply_async(function, (value,)) for value in values]:
            pending.get()

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return self.pool.map(function, values)
