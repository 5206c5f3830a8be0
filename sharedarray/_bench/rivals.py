"""Contestants from other libraries, and shared memory by hand."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from sharedarray._bench import tasks
from sharedarray._bench.contestant import WORKERS, Contestant, Executor, Multiprocessing
from sharedarray._bench.limits import CONTEXT
from sharedarray._bench.race import Call
from sharedarray._bench.tasks import Array


class ByHand(Multiprocessing):
    """`multiprocessing.shared_memory` as its documentation shows it, and a pool for the names."""

    name = "SharedMemory by hand"
    meaning = "multiprocessing.shared_memory, as its documentation shows it, and a pool for the names"
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


class SharedArrayOfPyPI(Multiprocessing):
    """PyPI's `SharedArray` by hand, and a pool for the names."""

    name = "SharedArray (PyPI)"
    meaning = "the package SharedArray of PyPI, and a pool for the names"
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
    meaning = "loky's executor: the array is pickled and sent through a pipe"
    needs = "loky"

    def start(self) -> None:
        import loky

        self.pool = self.enter_context(loky.ProcessPoolExecutor(WORKERS))


class Joblib(Contestant):
    """``joblib.Parallel``, which maps arrays of more than 1 MiB from a temporary file."""

    name = "joblib"
    meaning = "joblib.Parallel: arrays above 1 MiB go through a file in a temporary directory"
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
    meaning = "mpire.WorkerPool: the array is pickled and sent through a pipe"
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
    meaning = "distributed, with workers on this machine: the array is scattered"
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
    meaning = "Ray: the array is copied into its object store"
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
        """Return the function as Ray wants it."""
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
        """Put an array into the store; the one before has been given up."""

        def put() -> Call:
            reference = self.ray.put(data)
            return lambda: self._drop(reference)

        yield put


class RayPut(Ray):
    """The same with an array that was put before."""

    name = "ray, put before"
    meaning = "Ray, with an array that was put into its object store before"
    questions = ("argument",)

    @contextlib.contextmanager
    def argument(self, data: Array) -> Iterator[Call]:
        put = self.ray.put(data)
        yield lambda: self._drop(self.call(tasks.first, put))


class Torch(Multiprocessing):
    """``torch.multiprocessing``: tensors go through shared memory, one block each."""

    name = "torch"
    meaning = "torch.multiprocessing: tensors go through shared memory"
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
        """Move a tensor into shared memory."""

        def share() -> None:
            self.torch.from_numpy(data).share_memory_()  # freed with the tensor

        yield share
