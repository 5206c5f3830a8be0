"""Who takes part: the limit, this library, and every other way to hand an array to another process.

Each contestant has two workers and answers the same questions, each with a function to be timed. What it
does by default is what its own documentation shows first. `hosts` runs each in an interpreter of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from typing import Any, ClassVar

import numpy as np

import sharedarray as sa
from sharedarray.bench import tasks
from sharedarray.bench.limits import CONTEXT, bare_worker, warm_copy
from sharedarray.bench.race import Call
from sharedarray.bench.tasks import Array

BLOCK = 8 << 20
"""Bytes of a block."""

WORKERS = 2
"""Worker processes of each. One task is under way at a time in most races, and there one would do."""


class Contestant(contextlib.ExitStack):
    """One way to have functions called in other processes; a context manager, which has its workers inside.

    Attributes
    ----------
    name : str
        As it is called in tables and on the command line.
    needs : str
        The module without which it cannot take part.
    kind : str
        ``limit``, ``ours``, ``pickling``, ``sharing``, or ``other``: by files, or messages of its own.
    questions : tuple of str
        The questions below that it has an answer to.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = "numpy"
    kind: ClassVar[str] = "pickling"
    questions: ClassVar[tuple[str, ...]] = ("noop", "many", "mapped", "argument", "result", "blocks")

    def __enter__(self) -> Contestant:
        """Start the workers, and have each seen a task."""
        self.start()
        for _ in range(3):
            self.call(tasks.noop, 0)
        return self

    def start(self) -> None:
        """Start the workers."""

    # What a library has to say

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Have a worker call this, and wait for what it returns."""
        raise NotImplementedError

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        """Submit a task for each value, one by one, and then wait for all."""
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        """The library's map, with its default arguments: the results."""
        raise NotImplementedError

    # The questions

    @contextlib.contextmanager
    def noop(self) -> Iterator[Call]:
        """A task that does nothing, there and back."""
        yield lambda: self._drop(self.call(tasks.noop, 3))

    @contextlib.contextmanager
    def many(self, count: int) -> Iterator[Call]:
        """So many of them submitted one by one, then all results."""
        values = list(range(count))
        yield lambda: self.call_many(tasks.noop, values)

    @contextlib.contextmanager
    def mapped(self, count: int) -> Iterator[Call]:
        """So many of them in one map."""
        values = list(range(count))
        yield lambda: self._drop(self.map(tasks.noop, values))

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        """An array as the argument of a task."""
        yield lambda: self._drop(self.call(tasks.first, data))

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        """An array that the worker has, as the result of a task."""
        yield lambda: self._look(self.call(tasks.stored, path, size))

    @contextlib.contextmanager
    def blocks(self, data: Array) -> Iterator[Call]:
        """The square root of an array, block by block, into another one that is there."""
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
    kind = "limit"

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
        """Two threads, which share everything for nothing."""
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
    """A shared array of the worker's own, with what `tasks.stored` has."""
    key = path, size
    if key not in _shared:
        _shared.clear()
        _shared[key] = sa.share(tasks.stored(path, size))
    return _shared[key]


class OursShared(Ours):
    """The same with arrays that are shared already: nothing is copied."""

    name = "sharedarray, shared"
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


class ByHand(Multiprocessing):
    """`multiprocessing.shared_memory` as its documentation shows it, and a pool for the names."""

    name = "SharedMemory by hand"
    kind = "sharing"
    questions = ("argument", "result")

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        def ask() -> None:
            block = SharedMemory(create=True, size=data.nbytes)
            array = np.ndarray(data.shape, data.dtype, block.buf)
            array[:] = data
            del array
            self.call(tasks.first_of_block, block.name, data.shape, data.dtype)
            block.close()
            block.unlink()

        yield ask

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        def ask() -> None:
            name, shape, dtype = self.call(tasks.to_block, tasks.stored, path, size)
            block = SharedMemory(name)
            np.ndarray(shape, dtype, block.buf)[0]
            block.close()
            block.unlink()

        yield ask


class Theirs(Multiprocessing):
    """PyPI's `SharedArray` by hand, and a pool for the names."""

    name = "SharedArray (PyPI)"
    needs = "SharedArray"
    kind = "sharing"
    questions = ("argument", "result")

    def start(self) -> None:
        super().start()
        import SharedArray

        self.theirs = SharedArray
        self._names = (f"shm://bench-{os.getpid()}-{number}" for number in itertools.count())

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        def ask() -> None:
            name = next(self._names)
            self.theirs.create(name, data.shape, data.dtype)[:] = data
            self.call(tasks.first_of_theirs, name)
            self.theirs.delete(name)

        yield ask

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        def ask() -> None:
            name = next(self._names)
            self.call(tasks.to_theirs, name, tasks.stored, path, size)
            self.theirs.attach(name)[0]
            self.theirs.delete(name)

        yield ask


class Loky(Executor):
    """loky's executor."""

    name = "loky"
    needs = "loky"

    def start(self) -> None:
        import loky

        self.pool = self.enter_context(loky.ProcessPoolExecutor(WORKERS))


class Joblib(Contestant):
    """``joblib.Parallel``, which maps arrays of more than 1 MiB from a temporary file."""

    name = "joblib"
    needs = "joblib"
    kind = "other"

    def start(self) -> None:
        import joblib
        from joblib.externals.loky import get_reusable_executor

        self.callback(lambda: get_reusable_executor().shutdown(wait=True))
        self._delayed = joblib.delayed
        # Not in a with block: there, an array that was changed since the last call arrives as it was.
        self._parallel = joblib.Parallel(n_jobs=WORKERS)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._parallel([self._delayed(function)(*args)])[0]

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        self.map(function, values)

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return self._parallel(self._delayed(function)(value) for value in values)


class Mpire(Contestant):
    """``mpire.WorkerPool``."""

    name = "mpire"
    needs = "mpire"

    def start(self) -> None:
        import mpire

        library: Any = mpire

        def pool() -> Any:
            method = CONTEXT.get_start_method()
            return self.enter_context(library.WorkerPool(WORKERS, start_method=method, keep_alive=True))

        self.pool, self._mapping_pool = pool(), pool()  # one that has done apply fails at map

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply(function, args)

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        for pending in [self.pool.apply_async(function, (value,)) for value in values]:
            pending.get()

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return self._mapping_pool.map(function, values, concatenate_numpy_output=False)


class Dask(Contestant):
    """`distributed`, with worker processes on this machine; arrays are scattered, as it advises."""

    name = "dask"
    needs = "distributed"
    kind = "other"

    def start(self) -> None:
        from distributed import Client

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        options: dict[str, Any] = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": None}
        self.client: Any = self.enter_context(Client(processes=True, **options))  # type: ignore[no-untyped-call]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(function, *args, pure=False).result()

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        self.client.gather([self.client.submit(function, value, pure=False) for value in values])

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        return self.client.gather(self.client.map(function, values, pure=False))

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        if data.nbytes < 1 << 16:
            yield lambda: self._drop(self.call(tasks.first, data))
        else:
            yield lambda: self._drop(self.call(tasks.first, self.client.scatter(data, hash=False)))


class Ray(Contestant):
    """Ray: an array is put into its store, and a task gets it from there, read-only."""

    name = "ray"
    needs = "ray"
    kind = "sharing"
    questions = (*Contestant.questions, "share")
    STORE = 4 << 30  # bytes that its store may have; most of it is never touched

    def start(self) -> None:
        import ray

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                num_cpus=WORKERS,
                include_dashboard=False,
                logging_level=logging.CRITICAL,
                log_to_driver=False,
                object_store_memory=self.STORE,
                runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
            )
        self.callback(ray.shutdown)
        self.ray: Any = ray
        self._remote: dict[Callable[..., Any], Any] = {}

    def remote(self, function: Callable[..., Any]) -> Any:
        """The function as Ray wants it."""
        if function not in self._remote:
            self._remote[function] = self.ray.remote(function)
        return self._remote[function]

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.ray.get(self.remote(function).remote(*args))

    def call_many(self, function: Callable[[Any], Any], values: list[Any]) -> None:
        self.map(function, values)

    def map(self, function: Callable[[Any], Any], values: list[Any]) -> Any:
        remote = self.remote(tasks.root if function is np.sqrt else function)
        return self.ray.get([remote.remote(value) for value in values])

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        yield lambda: self._drop(self.call(tasks.first, self.ray.put(data)))

    @contextlib.contextmanager
    def share(self, data: Array) -> Iterator[Call]:
        """An array put into the store; what was put before has been given up."""

        def put() -> Call:
            reference = self.ray.put(data)
            return lambda: self._drop(reference)

        yield put


class RayPut(Ray):
    """The same with an array that was put before."""

    name = "ray, put before"
    questions = ("argument",)

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        put = self.ray.put(data)
        yield lambda: self._drop(self.call(tasks.first, put))


class Torch(Multiprocessing):
    """``torch.multiprocessing``: tensors go through shared memory, one block each."""

    name = "torch"
    needs = "torch"
    kind = "sharing"
    questions = ("argument", "result", "share")

    def start(self) -> None:
        import torch.multiprocessing

        self.torch: Any = torch
        self.pool = torch.multiprocessing.get_context(CONTEXT.get_start_method()).Pool(WORKERS)
        self.callback(self.pool.join)
        self.callback(self.pool.close)

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        # Sending moves a tensor into shared memory for good; a new one each time stands for a new array.
        yield lambda: self._drop(self.call(tasks.first, self.torch.from_numpy(data)))

    @contextlib.contextmanager
    def result(self, path: str, size: int) -> Iterator[Call]:
        yield lambda: self._look(self.call(tasks.stored_tensor, path, size).numpy())

    @contextlib.contextmanager
    def share(self, data: Array) -> Iterator[Call]:
        """A tensor moved into shared memory."""

        def share() -> None:
            self.torch.from_numpy(data).share_memory_()  # freed with the tensor

        yield share


CONTESTANTS: dict[str, type[Contestant]] = {
    contestant.name: contestant
    for contestant in (
        Limit,
        Ours,
        OursShared,
        Executor,
        Multiprocessing,
        ByHand,
        Theirs,
        Loky,
        Joblib,
        Mpire,
        Dask,
        Ray,
        RayPut,
        Torch,
    )
}
"""Every contestant by its name, in the order of the tables."""


def why_missing(name: str) -> str | None:
    """Why a contestant cannot take part here; None when it can."""
    needs = CONTESTANTS[name].needs
    if importlib.util.find_spec(needs) is None:
        return f"{needs} is not installed"
    return None
