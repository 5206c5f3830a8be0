"""What does it cost to append rows to a log in shared memory?

In batches, appending should take little more than writing the rows. They go into fresh pages, which the
kernel has to find and clear for any program. So much at once is compared with writing it to a fresh file in
memory. The same race shows what a copy into memory that is there takes, and what the fresh pages alone take:
several times as long as that copy. To reserve them beforehand only moves that time.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from conftest import QUICK, human, need

import sharedarray as sa
from sharedarray import _registry as registry

ROW, BATCH = 1 << 10, 512  # bytes, rows
LEAST = 500_000  # rows a second, in batches
LARGE = (1 if QUICK else 64) << 20
ROUNDS = 2 if QUICK else 15
MOST = 1.3  # times that a large append may take, in terms of writing fresh pages


def in_zarr(rows: Any) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Return what appends rows to an array of zarr in memory, and what is missing for that."""
    name = "zarr, in memory"
    if importlib.util.find_spec("zarr") is None:
        return {}, {name: "zarr is not installed"}
    zarr, storage = importlib.import_module("zarr"), importlib.import_module("zarr.storage")
    store = storage.MemoryStore()
    array = zarr.open(store=store, mode="w", shape=(0, rows.shape[1]), chunks=rows.shape, dtype=rows.dtype)
    return {name: lambda: array.append(rows) and None}, {}


def test_batches(race: Callable[..., Any]) -> None:
    """Append rows of 1 KiB, 512 at once, against a file that grows in the same memory."""
    rounds, loops = (2, 2) if QUICK else (60, 10)
    capacity = (rounds + 2) * loops * BATCH + 100 * BATCH
    need(capacity * ROW, 4)
    rows = np.ones((BATCH, ROW // 8))
    target = np.empty_like(rows)
    data = memoryview(rows).cast("B")
    others, missing = in_zarr(rows)
    path = f"{registry.directory()}/bench-{os.getpid()}"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.unlink(path)
    try:
        with sa.zeros((0, ROW // 8), capacity=capacity) as log:
            done = race(
                "append 512 rows of 1 KiB",
                {
                    "sharedarray": lambda: log.append(rows) and None,
                    "write to a file in memory": lambda: os.write(handle, data) and None,
                    "a copy into warm memory": lambda: np.copyto(target, rows),
                    **others,
                },
                baseline="write to a file in memory",
                rounds=rounds,
                loops=loops,
                unit="us",
                missing=missing,
                group="append rows",
                size=BATCH * ROW,
            )
    finally:
        os.close(handle)
    if not QUICK:
        assert BATCH / min(done.figures["sharedarray"]) > LEAST
        assert done.ratio("sharedarray") < MOST


def test_one_row(race: Callable[..., Any]) -> None:
    """Append single rows of 1 KiB, against a lock of the same array."""
    row = np.ones(ROW // 8)
    with sa.zeros((0, ROW // 8), capacity=200_000) as log, sa.zeros(10) as other:
        lock = other.lock()

        def locked() -> None:
            with lock:
                pass

        race(
            "append a row of 1 KiB",
            {"sharedarray": lambda: log.append(row) and None, "lock and unlock": locked},
            baseline="lock and unlock",
            rounds=60,
            loops=20,
            unit="us",
            group="append a row",
            size=ROW,
        )


def test_large(race: Callable[..., Any]) -> None:
    """Append much at once, against writing the same to a fresh file in memory."""
    need(LARGE, 16)
    rows = np.ones((LARGE // ROW, ROW // 8))
    data = memoryview(rows).cast("B")
    path = f"{registry.directory()}/bench-{os.getpid()}"

    def append() -> Callable[[], None]:
        log = sa.zeros((0, ROW // 8), capacity=len(rows))
        log.append(rows)
        return log.close

    def write() -> Callable[[], None]:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        written = 0
        while written < len(data):
            written += os.pwrite(handle, data[written:], written)
        os.close(handle)
        return lambda: os.unlink(path)

    def reserve() -> Callable[[], None]:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.posix_fallocate(handle, 0, len(data))
        os.close(handle)
        return lambda: os.unlink(path)

    def copy_to_fresh() -> None:
        np.copyto(np.empty_like(rows), rows)

    warm = np.ones_like(rows)
    done = race(
        f"append {human(LARGE)}",
        {
            "sharedarray": append,
            "write to a fresh file": write,
            "reserve a fresh file, and write nothing": reserve,
            "numpy.copyto, into a fresh private array": copy_to_fresh,
            "numpy.copyto, into a warm private array": lambda: np.copyto(warm, rows),
        },
        baseline="write to a fresh file",
        rounds=ROUNDS,
        unit="ms",
        group="append much",
        size=LARGE,
    )
    if not QUICK:
        assert done.ratio("sharedarray") < MOST
