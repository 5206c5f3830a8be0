"""The least that processes and memory can do: what every contestant is compared with."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sharedarray._bench.tasks import Array

CONTEXT: Any = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
"""Every contestant starts its processes in the way that our pool does, as far as it can."""


@contextlib.contextmanager
def served(serve: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """Provide our end of a pipe, with a process at the other end that serves it."""
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=serve, args=(there, *args))
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def _call(connection: Connection, function: Callable[[Any], Any]) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(function(connection.recv()))


def bare_connection(function: Callable[[Any], Any]) -> contextlib.AbstractContextManager[Connection]:
    """Return a process that does nothing but read an argument from a pipe, call, and write the result."""
    return served(_call, function)


@contextlib.contextmanager
def bare_worker(function: Callable[[Any], Any]) -> Iterator[Callable[[Any], Any]]:
    """Provide a function that makes a bare process call ``function`` with its argument."""
    with bare_connection(function) as connection:

        def ask(argument: Any) -> Any:
            connection.send(argument)
            return connection.recv()

        yield ask


@contextlib.contextmanager
def warm_copy(data: Array) -> Iterator[Callable[[], None]]:
    """Copy an array into memory that is mapped already, in pages as those of shared memory."""
    target = np.frombuffer(mmap.mmap(-1, data.nbytes), data.dtype)
    target[:] = 0
    yield lambda: np.copyto(target, data)


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """Keep this process on one processor and its children on another ("two"), or on the same one ("one").

    Where that cannot be done, and for "", they are where the kernel likes to have them.
    """
    if not where or not hasattr(os, "sched_setaffinity"):
        yield
        return
    free = os.sched_getaffinity(0)
    mine, *others = sorted(free)
    theirs = others[0] if where == "two" and others else mine
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    try:
        for process, processor in [(0, mine), *((pid, theirs) for pid in children)]:
            os.sched_setaffinity(process, {processor})
        yield
    finally:
        for process in (0, *children):
            os.sched_setaffinity(process, free)
