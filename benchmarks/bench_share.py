"""What does it cost to put an array into a new block?

The limit is ``pwrite`` into a fresh file of the memory file system, and mapping it: the kernel has to find
and zero every page. Freeing the block again is not timed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

import sharedarray as sa
from sharedarray import registry

QUICK = bool(os.environ.get("SHAREDARRAY_BENCH_QUICK"))
SIZES = [1 << 20] if QUICK else [1 << 20, 8 << 20, 64 << 20, 512 << 20]  # bytes


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size >> 20} MiB")
def test_share(race: Callable[..., Any], size: int) -> None:
    data = np.random.default_rng(0).random(size // 8)
    path = f"{registry.directory()}/bench-{os.getpid()}"

    def raw() -> Callable[[], None]:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        left, offset = memoryview(data).cast("B"), 0
        while offset < len(left):
            offset += os.pwrite(handle, left[offset:], offset)
        mapping = mmap.mmap(handle, len(left))
        os.close(handle)
        mapping[0]

        def tidy() -> None:
            mapping.close()
            os.unlink(path)

        return tidy

    def ours() -> Callable[[], None]:
        array = sa.share(data)
        array[0]
        return array.close

    def shared_memory() -> Callable[[], None]:
        block = SharedMemory(create=True, size=data.nbytes)
        array = np.ndarray(data.shape, data.dtype, block.buf)
        array[:] = data
        del array

        def tidy() -> None:
            block.close()
            block.unlink()

        return tidy

    def memmap() -> Callable[[], None]:
        array = np.memmap(path, data.dtype, "w+", shape=data.shape)
        array[:] = data
        return lambda: os.unlink(path)

    def save() -> Callable[[], None]:
        np.save(f"{path}.npy", data)
        return lambda: os.unlink(f"{path}.npy")

    race(
        f"share {size >> 20} MiB in a new block",
        {
            "pwrite + mmap": raw,
            "sharedarray": ours,
            "SharedMemory + copy": shared_memory,
            "numpy.memmap 'w+'": memmap,
            "numpy.save": save,
        },
        baseline="pwrite + mmap",
        rounds=9 if size > 100 << 20 else 15,
        loops=max(1, (16 << 20) // size),
    )
