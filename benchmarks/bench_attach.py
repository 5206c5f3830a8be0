"""What does it cost to attach by name, read one element, and let go?

The limit is what the kernel itself needs: open, fstat, mmap, touch, munmap. `sharedarray` does more than
its rivals in the same time: it reads shape and dtype, holds a lease, and asks on leaving if it is the last.
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

SIZES = [1 << 20, 64 << 20]  # bytes; attaching costs the same for both


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size >> 20} MiB")
def test_attach_by_name(race: Callable[..., Any], size: int) -> None:
    data = np.zeros(size // 8)
    block = sa.share(data)
    name = str(block.name)
    path = sa.blocks()[0].path
    theirs = SharedMemory(create=True, size=size)

    def raw() -> None:
        handle = os.open(path, os.O_RDWR)
        mapping = mmap.mmap(handle, os.fstat(handle).st_size)
        os.close(handle)
        mapping[4096]
        mapping.close()

    def raw_with_numpy() -> None:
        handle = os.open(path, os.O_RDWR)
        mapping = mmap.mmap(handle, os.fstat(handle).st_size)
        os.close(handle)
        array = np.frombuffer(mapping, np.float64, offset=4096)
        array[0]
        del array
        mapping.close()

    def ours() -> None:
        array = sa.attach(name)
        array[0]
        array.close()

    def shared_memory() -> None:
        other = SharedMemory(name=theirs.name)
        array = np.ndarray(data.shape, data.dtype, other.buf)
        array[0]
        del array
        other.close()

    def load() -> None:
        np.load(path, mmap_mode="r+")[0]

    def memmap() -> None:
        np.memmap(path, np.float64, "r+", 4096)[0]

    try:
        race(
            f"attach + touch + detach, {size >> 20} MiB",
            {
                "raw open+fstat+mmap": raw,
                "raw + numpy.frombuffer": raw_with_numpy,
                "sharedarray": ours,
                "SharedMemory(name)": shared_memory,
                "numpy.memmap": memmap,
                "numpy.load(mmap_mode=)": load,
            },
            baseline="raw open+fstat+mmap",
            rounds=31,
            loops=100,
        )
    finally:
        block.close()
        theirs.close()
        theirs.unlink()
