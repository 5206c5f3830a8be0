"""What the pool's benchmarks have in common: the rivals, the bare worker that is the limit, and the tasks.

Every rival starts its processes in the way that the pool does, from a fork server, so that the benchmarks
compare what happens afterwards; `bench_pool_start` is about the start itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT = multiprocessing.get_context("forkserver")
Array = np.ndarray[Any, Any]
Call = Callable[..., Any]  # call(function, *args): have a worker do it, and return the result


# Tasks


def noop(value: Any) -> Any:
    return value


def noops(values: list[Any]) -> list[Any]:
    return [noop(value) for value in values]


def first(array: Array) -> float:
    return float(array[0])


_kept: dict[int, Array] = {}


def kept(size: int) -> Array:
    """Return an array of so many bytes that the worker made in an earlier task."""
    if size not in _kept:
        _kept[size] = np.ones(size // 8)
    return _kept[size]


def keep(size: int) -> float:
    """Make that array."""
    return first(kept(size))


def made(size: int) -> Array:
    """Return a new array of so many bytes."""
    return np.ones(size // 8)


def made_only(size: int) -> float:
    """Make the array, and return one element."""
    return first(made(size))


def first_of_block(name: str, shape: tuple[int, ...], dtype: Any) -> float:
    """Look at an array that lies in a block of `multiprocessing.shared_memory`."""
    block = SharedMemory(name)
    value = first(np.ndarray(shape, dtype, block.buf))
    block.close()
    return value


def to_block(function: Callable[[int], Array], size: int) -> tuple[str, tuple[int, ...], Any]:
    """Put a result into a new block of `multiprocessing.shared_memory`."""
    array = function(size)
    block = SharedMemory(create=True, size=array.nbytes)
    np.ndarray(array.shape, array.dtype, block.buf)[:] = array
    block.close()
    return block.name, array.shape, array.dtype


_views: list[Array] = []
_blocks: list[SharedMemory] = []  # keeps them open


def attach_both(there: str, back: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Attach an input and an output, for as long as this worker lives."""
    for name in there, back:
        block = SharedMemory(name)
        _blocks.append(block)
        _views.append(np.ndarray(shape, dtype, block.buf))


def block_by_hand(order: tuple[Callable[..., Any], int, int]) -> None:
    """Compute one block of what is attached."""
    function, start, stop = order
    given, result = _views
    function(given[start:stop], out=result[start:stop])


def collatz(block: Array) -> Array:
    """Count steps to 1 of the Collatz sequence: pure Python, which holds the interpreter's lock."""
    counts = []
    for number in block.tolist():
        count = 0
        while number > 1:
            number = 3 * number + 1 if number % 2 else number // 2
            count += 1
        counts.append(count)
    return np.array(counts, dtype=block.dtype)


# Where they run


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


# The limit


@contextlib.contextmanager
def _served(serve: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """Our end of a pipe, with a process at the other end that serves it."""
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
    """A process that does nothing but read an argument from a pipe, call, and write the result."""
    return _served(_call, function)


@contextlib.contextmanager
def bare_worker(function: Callable[[Any], Any]) -> Iterator[Callable[[Any], Any]]:
    """A function that has a bare process call ``function`` with its argument."""
    with bare_connection(function) as connection:

        def ask(argument: Any) -> Any:
            connection.send(argument)
            return connection.recv()

        yield ask


# The rivals


@contextlib.contextmanager
def executor(workers: int) -> Iterator[Call]:
    with ProcessPoolExecutor(workers, CONTEXT) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@contextlib.contextmanager
def multiprocessing_pool(workers: int) -> Iterator[Call]:
    pool = CONTEXT.Pool(workers)
    try:
        yield lambda function, *args: pool.apply(function, args)
    finally:
        pool.close()
        pool.join()


@contextlib.contextmanager
def loky(workers: int) -> Iterator[Call]:
    import loky as theirs

    with theirs.ProcessPoolExecutor(workers) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@contextlib.contextmanager
def joblib(workers: int) -> Iterator[Call]:
    import joblib as theirs

    try:
        with theirs.Parallel(n_jobs=workers) as parallel:
            yield lambda function, *args: parallel([theirs.delayed(function)(*args)])[0]
    finally:
        theirs.externals.loky.get_reusable_executor().shutdown(wait=True)


@contextlib.contextmanager
def dask(workers: int) -> Iterator[Call]:
    from distributed import Client

    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with Client(processes=True, **options) as client:
        yield lambda function, *args: client.submit(function, *args, pure=False).result()


RIVALS: dict[str, tuple[str, Callable[[int], contextlib.AbstractContextManager[Call]]]] = {
    "ProcessPoolExecutor": ("concurrent.futures", executor),
    "multiprocessing.Pool": ("multiprocessing", multiprocessing_pool),
    "loky": ("loky", loky),
    "joblib": ("joblib", joblib),
    "dask": ("distributed", dask),
}
"""Every rival by its name, with the module that it needs."""


@contextlib.contextmanager
def rivals(*names: str) -> Iterator[dict[str, Call]]:
    """Those of these rivals that are installed here, with two workers each."""
    with contextlib.ExitStack() as stack:
        there = {name: RIVALS[name] for name in names if importlib.util.find_spec(RIVALS[name][0])}
        yield {name: stack.enter_context(start(2)) for name, (_, start) in there.items()}


# Memory


@contextlib.contextmanager
def sampler() -> Iterator[Callable[..., Callable[[], int]]]:
    """After ``grown = watch(pid, pid)``, ``grown()`` tells by how many bytes they grew together, at most."""
    with _served(_sample) as connection:

        def grown() -> int:
            connection.send(None)
            return int(connection.recv())

        def watch(*pids: int) -> Callable[[], int]:
            connection.send(pids)
            connection.recv()
            return grown

        yield watch


def _sample(connection: Connection) -> None:
    """Look, as often as possible until told otherwise, how much memory processes have.

    This is a process of its own, so that it holds up none of them by the interpreter's lock. A look takes
    some 0.3 ms; calls are repeated while it looks, lest it miss the moment.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            pids = connection.recv()
            start = most = memory(pids)
            connection.send(None)
            while not connection.poll():
                most = max(most, memory(pids))
            connection.recv()
            connection.send(most - start)


def memory(pids: tuple[int, ...]) -> int:
    """Bytes that processes have together.

    That is the kernel's ``RssAnon`` of each, which costs no more than reading a counter, and the pages of all
    files on the memory file system that one of them has open, mapped or not, once for each file. The pool
    has all its memory open, and neither it nor its rivals map any without a file. Pages that processes share
    since a fork count in each of them, so it is the growth that tells something.
    """
    private = 0
    files: dict[int, int] = {}
    for pid in pids:
        with open(f"/proc/{pid}/status") as status:
            private += next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))
        for handle in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed in the meantime
                found = os.stat(f"/proc/{pid}/fd/{handle}")
                if found.st_dev == _MEMORY_DEVICE and stat.S_ISREG(found.st_mode):
                    files[found.st_ino] = found.st_blocks * 512
    return private + sum(files.values())


_MEMORY_DEVICE = os.stat("/dev/shm").st_dev if os.path.isdir("/dev/shm") else -1


# Fresh interpreters


def printed(code: str) -> float:
    """The number that code prints in an interpreter of its own, where this module can be imported.

    It may write compiled modules: imports are to be timed as they are from the second time on.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return float(ended.stdout)


def _visit(address: str) -> int:
    """Tell whoever listens that a worker is at work, and stay until he has heard of all of them."""
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(address)
        visitor.recv(1)
    return os.getpid()


def _visit_and_tell(connection: Connection, address: str) -> None:
    connection.send(_visit(address))


@contextlib.contextmanager
def _bare(address: str, preload: list[str]) -> Iterator[Callable[[], list[int]]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    here, there = zip(*(context.Pipe(duplex=False) for _ in range(2)), strict=True)
    workers = [context.Process(target=_visit_and_tell, args=(end, address)) for end in there]
    for worker in workers:
        worker.start()
    yield lambda: [end.recv() for end in here]
    for worker in workers:
        worker.join()


@contextlib.contextmanager
def _submitted(pool: Any, address: str) -> Iterator[Callable[[], list[int]]]:
    with pool:
        futures = [pool.submit(_visit, address) for _ in range(2)]
        yield lambda: [future.result() for future in futures]


def _sharedarray(address: str) -> contextlib.AbstractContextManager[Callable[[], list[int]]]:
    import sharedarray as sa

    return _submitted(sa.Pool(2), address)


def _loky(address: str) -> contextlib.AbstractContextManager[Callable[[], list[int]]]:
    import loky as theirs

    return _submitted(theirs.ProcessPoolExecutor(2), address)


STARTS: dict[str, tuple[str, Callable[[str], contextlib.AbstractContextManager[Callable[[], list[int]]]]]] = {
    "bare, NumPy preloaded": ("numpy", lambda address: _bare(address, ["numpy"])),
    "bare, each imports NumPy": ("numpy", lambda address: _bare(address, [])),
    "sharedarray": ("sharedarray", _sharedarray),
    "ProcessPoolExecutor": (
        "concurrent.futures",
        lambda address: _submitted(ProcessPoolExecutor(2, CONTEXT), address),
    ),
    "loky": ("loky", _loky),
}
"""Ways to start two workers, by name, with the module that each needs."""


def print_start(name: str) -> None:
    """Print the seconds from nothing to two workers that are at work at the same time, and their answers.

    It is called in an interpreter that has imported this module, and with it NumPy and multiprocessing.
    """
    package, start = STARTS[name]
    importlib.import_module(package)
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/here")
        listener.listen()
        begin = time.perf_counter()
        with start(f"{directory}/here") as answers:
            visitors = [listener.accept()[0] for _ in range(2)]
            for visitor in visitors:
                visitor.close()
            pids = answers()
            seconds = time.perf_counter() - begin
    assert len(set(pids)) == 2
    print(seconds)
