"""What does it cost to attach by name, read one element, and let go?

The limit is what the kernel itself needs: open, fstat, mmap, touch, munmap. `sharedarray` does more than
its rivals in the same time: it reads shape and dtype, holds a lease, and asks on leaving if it is the last.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import tempfile
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from conftest import BUDGET, human

import sharedarray as sa
from sharedarray import _registry as registry

SIZES = [1 << 20, 64 << 20]  # bytes; attaching costs the same for both


@pytest.mark.parametrize("size", SIZES, ids=human)
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

    peers, missing, tidy = _peers(data)
    try:
        race(
            f"attach + touch + detach, {human(size)}",
            {
                "limit": raw,
                "limit + numpy.frombuffer": raw_with_numpy,
                "sharedarray": ours,
                "SharedMemory(name)": shared_memory,
                "numpy.memmap": memmap,
                "numpy.load(mmap_mode=)": load,
                **peers,
            },
            baseline="limit",
            rounds=31,
            loops=100,
            budget=BUDGET,
            missing=missing,
            notes={"limit": "open + fstat + mmap", "SharedMemory(name)": "knows neither shape nor dtype"},
            group="attach",
            size=size,
        )
    finally:
        tidy()
        block.close()
        theirs.close()
        theirs.unlink()


def _peers(data: Any) -> tuple[dict[str, Callable[[], None]], dict[str, str], Callable[[], None]]:
    """Attaching as other libraries do it, who is missing, and what removes their blocks."""
    found: dict[str, Callable[[], None]] = {}
    missing: dict[str, str] = {}
    tidies: list[Callable[[], None]] = []
    if importlib.util.find_spec("SharedArray") is None:
        missing["SharedArray (PyPI)"] = "SharedArray is not installed"
    else:
        import SharedArray

        address = f"shm://bench-{os.getpid()}-attach"
        SharedArray.create(address, data.shape, data.dtype)[:] = data
        tidies.append(lambda: SharedArray.delete(address))

        def attach() -> None:
            SharedArray.attach(address)[0]

        found["SharedArray (PyPI)"] = attach
    if importlib.util.find_spec("fastshare") is None:
        missing["fastshare"] = "fastshare is not installed"
    else:
        import fastshare

        shared = fastshare.SharedData(data)
        shared.__enter__()
        tidies.append(lambda: shared.__exit__(None, None, None))

        def load_shared() -> None:
            fastshare.SharedData.load(shared.name)[0]
            fastshare.SharedData.clear_cache()  # as in a process that attaches for the first time

        found["fastshare"] = load_shared
    if importlib.util.find_spec("joblib") is None:
        missing["joblib.load(mmap_mode=)"] = "joblib is not installed"
    else:
        import joblib

        directory = tempfile.TemporaryDirectory(dir=registry.directory())
        joblib.dump(data, f"{directory.name}/data")
        tidies.append(directory.cleanup)

        def load_dumped() -> None:
            joblib.load(f"{directory.name}/data", mmap_mode="r+")[0]

        found["joblib.load(mmap_mode=)"] = load_dumped

    def tidy() -> None:
        for one in tidies:
            one()

    return found, missing, tidy
