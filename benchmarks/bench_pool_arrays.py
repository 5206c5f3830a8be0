"""What does it cost to hand a large array to a task, and to get one back: in time, and in memory?

The limit is one copy into memory that is mapped and warm, and a task that does nothing: the bare worker of
`bench_pool_calls`. A `SharedArray` is not copied at all, so there the limit is the task alone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pool_rivals
import pytest
from pool_rivals import Array, first, keep, kept, made, made_only, noop

import sharedarray as sa
from sharedarray import registry

QUICK = bool(os.environ.get("SHAREDARRAY_BENCH_QUICK"))
SIZE = 4 << 20 if QUICK else 64 << 20  # bytes of a plain array
SHARED = [1 << 20] if QUICK else [1 << 20, 64 << 20, 1 << 30, 4 << 30]  # bytes of a shared one
WARM = 6  # calls before a race, so that both workers have seen everything


@contextlib.contextmanager
def warm_copy(data: Array) -> Iterator[Callable[[], None]]:
    """Copy an array into memory that is mapped already, in pages as those of shared memory."""
    target = np.frombuffer(mmap.mmap(-1, data.nbytes), data.dtype)
    target[:] = 0
    yield lambda: np.copyto(target, data)


def by_hand(call: pool_rivals.Call, data: Array) -> None:
    """Hand over an array as the documentation of `multiprocessing.shared_memory` shows it."""
    block = SharedMemory(create=True, size=data.nbytes)
    array = np.ndarray(data.shape, data.dtype, block.buf)
    array[:] = data
    del array
    call(pool_rivals.first_of_block, block.name, data.shape, data.dtype)
    block.close()
    block.unlink()


def by_hand_back(call: pool_rivals.Call, function: Callable[[int], Array], size: int) -> None:
    """Get an array back by hand: the worker makes the block, the caller looks at it and removes it."""
    name, shape, dtype = call(pool_rivals.to_block, function, size)
    block = SharedMemory(name)
    np.ndarray(shape, dtype, block.buf)[0]
    block.close()
    block.unlink()


def test_argument(race: Callable[..., Any]) -> None:
    """A plain array as an argument: at most 1.3 times a warm copy and a no-op task."""
    data = np.random.default_rng(0).random(SIZE // 8)
    names = ["ProcessPoolExecutor", "multiprocessing.Pool"] + ([] if QUICK else ["loky"])
    with (
        warm_copy(data) as copy,
        pool_rivals.bare_worker(noop) as bare,
        pool_rivals.rivals(*names) as rivals,
        sa.Pool(2) as pool,
    ):

        def limit() -> None:
            copy()
            bare(3)

        def ours() -> None:
            pool.submit(first, data).result()

        def asking(call: pool_rivals.Call) -> Callable[[], None]:
            def ask() -> None:
                call(first, data)

            return ask

        for future in [pool.submit(first, data) for _ in range(WARM)]:
            assert future.result() == data[0]
        race(
            f"a plain argument of {SIZE >> 20} MiB",
            {
                "warm copy + bare no-op": limit,
                "sharedarray": ours,
                "SharedMemory by hand + Pool": lambda: by_hand(rivals["multiprocessing.Pool"], data),
                **{name: asking(call) for name, call in rivals.items()},
            },
            baseline="warm copy + bare no-op",
            rounds=15,
            unit="ms",
        )


@pytest.mark.parametrize("function", [kept, made], ids=["kept", "made"])
def test_result(race: Callable[..., Any], function: Callable[[int], Array]) -> None:
    """A plain array as the result: at most 1.3 times a warm copy and a no-op task.

    One function returns an array that its worker has had for long, so that only its way back counts; the
    other makes a new one each time, as most functions do, and there the making is part of the limit.
    """
    task = noop if function is kept else made_only
    with (
        warm_copy(made(SIZE)) as copy,
        pool_rivals.bare_worker(task) as bare,
        pool_rivals.rivals("ProcessPoolExecutor", "multiprocessing.Pool") as rivals,
        sa.Pool(2) as pool,
    ):

        def limit() -> None:
            bare(SIZE)
            copy()

        def ours() -> None:
            pool.submit(function, SIZE).result()[0]

        def asking(call: pool_rivals.Call) -> Callable[[], None]:
            def ask() -> None:
                call(function, SIZE)[0]

            return ask

        for _ in range(WARM):
            for future in [pool.submit(function, SIZE) for _ in range(2)]:
                assert future.result()[-1] == 1
        race(
            f"a plain result of {SIZE >> 20} MiB"
            + (", one that the worker has" if function is kept else ", made for it"),
            {
                ("" if function is kept else "making + ") + "warm copy + bare no-op": limit,
                "sharedarray": ours,
                "SharedMemory by hand + Pool": lambda: by_hand_back(
                    rivals["multiprocessing.Pool"], function, SIZE
                ),
                **{name: asking(call) for name, call in rivals.items()},
            },
            baseline=("" if function is kept else "making + ") + "warm copy + bare no-op",
            rounds=15,
            unit="ms",
        )


@pytest.mark.parametrize("size", SHARED, ids=lambda size: f"{size >> 20} MiB")
def test_shared_argument(race: Callable[..., Any], size: int) -> None:
    """A `SharedArray` as an argument, from the second time on: a no-op task, whatever its size.

    The no-op is that of the bare worker, on another processor than the caller (see `bench_pool_calls`).
    """
    free = min(shutil.disk_usage(registry.directory()).free, available_memory())
    if free < 1.5 * size:
        pytest.skip(f"{size >> 20} MiB of shared memory are too much for the {free >> 20} MiB that are free")
    with (
        pool_rivals.bare_worker(noop) as bare,
        sa.Pool(2) as pool,
        sa.empty(size // 8) as array,
    ):

        def ask_bare() -> None:
            bare(3)

        def plain() -> None:
            pool.submit(noop, 3).result()

        def ours() -> None:
            pool.submit(first, array).result()

        array[0] = 1
        for future in [pool.submit(first, array) for _ in range(WARM)]:
            assert future.result() == 1
        ask_bare()
        with pool_rivals.placed("two"):
            race(
                f"a SharedArray of {size >> 20:,} MiB as an argument",
                {"bare no-op": ask_bare, "sharedarray": ours, "no-op in this pool": plain},
                baseline="bare no-op",
                rounds=31,
                loops=50,
            )


def available_memory() -> int:
    """Bytes that may be used without swapping; as good as endless where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return sys.maxsize
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


# Memory


@contextlib.contextmanager
def our_pool(workers: int) -> Iterator[pool_rivals.Call]:
    with sa.Pool(workers) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


def argument(call: pool_rivals.Call, data: Array) -> None:
    call(first, data)


def result(call: pool_rivals.Call, data: Array) -> None:
    call(kept, data.nbytes)[0]


def result_made(call: pool_rivals.Call, data: Array) -> None:
    call(made, data.nbytes)[0]


WAYS: dict[Callable[[pool_rivals.Call, Array], None], str] = {
    argument: "a plain argument of {} MiB",
    result: "a plain result of {} MiB that the worker has",
    result_made: "a plain result of {} MiB made for it, and itself new memory",
}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_memory(race: Callable[..., Any], way: Callable[[pool_rivals.Call, Array], None]) -> None:
    """Memory at its peak, besides the array that there was before: at most 1.1 times its size.

    It is that of the caller and one worker that has seen small arrays only, over some calls, so what they
    keep for the next one counts as well; `pool_rivals.memory` tells what is counted. A result that the
    function makes was not there before either, so there the limit is 2.
    """
    data = np.random.default_rng(0).random(SIZE // 8)

    def measuring(start: Callable[[int], Any]) -> Callable[[], int]:
        def measure() -> int:
            with start(1) as call:
                way(call, data[:1000].copy())
                if way is result:
                    call(keep, SIZE)
                grown = watch(os.getpid(), call(os.getpid))
                for _ in range(5):
                    way(call, data)
                return grown()

        return measure

    with pool_rivals.sampler() as watch:
        race(
            "peak memory of " + WAYS[way].format(SIZE >> 20),
            {
                "one array": lambda: SIZE,
                "sharedarray": measuring(our_pool),
                "ProcessPoolExecutor": measuring(pool_rivals.executor),
                "multiprocessing.Pool": measuring(pool_rivals.multiprocessing_pool),
            },
            baseline="one array",
            rounds=5,
            unit="MiB",
            measured=True,
        )
