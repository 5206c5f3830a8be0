"""Ways to start two workers, each to be timed in an interpreter of its own.

The module imports neither this library nor any rival: what importing them takes is part of the time.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401  (each contestant has it already)

CONTEXT = multiprocessing.get_context("forkserver")


def printed(code: str) -> float:
    """Return the number that code prints in an interpreter of its own, where this module can be imported.

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
    """Tell the listener that a worker is at work, and stay until it has heard of all of them."""
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


@contextlib.contextmanager
def _multiprocessing(address: str) -> Iterator[Callable[[], list[int]]]:
    with CONTEXT.Pool(2) as pool:
        pending = [pool.apply_async(_visit, (address,)) for _ in range(2)]
        yield lambda: [one.get() for one in pending]


@contextlib.contextmanager
def _mpire(address: str) -> Iterator[Callable[[], list[int]]]:
    import mpire

    with mpire.WorkerPool(2, start_method="forkserver") as pool:
        pending = [pool.apply_async(_visit, (address,)) for _ in range(2)]
        yield lambda: [one.get() for one in pending]


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Callable[[], list[int]]]:
    from distributed import Client

    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(processes=True, **options) as client:
        pending = [client.submit(_visit, address, pure=False) for _ in range(2)]
        yield lambda: client.gather(pending)


@contextlib.contextmanager
def _ray(address: str) -> Iterator[Callable[[], list[int]]]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="CRITICAL", log_to_driver=False)
    visit = ray.remote(_visit)
    pending = [visit.remote(address) for _ in range(2)]
    yield lambda: ray.get(pending)
    ray.shutdown()


STARTS: dict[str, tuple[str, Callable[[str], contextlib.AbstractContextManager[Callable[[], list[int]]]]]] = {
    "bare, NumPy preloaded": ("numpy", lambda address: _bare(address, ["numpy"])),
    "bare, each imports NumPy": ("numpy", lambda address: _bare(address, [])),
    "sharedarray": ("sharedarray", _sharedarray),
    "ProcessPoolExecutor": (
        "concurrent.futures",
        lambda address: _submitted(ProcessPoolExecutor(2, CONTEXT), address),
    ),
    "multiprocessing.Pool": ("multiprocessing", _multiprocessing),
    "loky": ("loky", _loky),
    "mpire": ("mpire", _mpire),
    "dask": ("distributed", _dask),
    "ray": ("ray", _ray),
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
