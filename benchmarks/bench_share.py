"""What does it cost to put an array where other processes see it: into a new block, and into one again?

The first time, the kernel has to find and zero every page: the limit is ``pwrite`` into a fresh file of the
memory file system, and mapping it. Freeing a block is not timed, nor are its pages used for the next one.
From the second time on the pages are there, in a block that is kept, and in a new one if the last one was
dropped: the limit is ``memcpy`` into memory that is mapped. Pickling, which shares nothing, stands beside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import mmap
import os
import pickle
from collections.abc import Callable, Iterator
from multiprocessing.managers import SharedMemoryManager
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from conftest import BUDGET, QUICK, Everyone, human, need

import sharedarray as sa
from sharedarray import _freelist as freelist, _registry as registry
from sharedarray._bench.limits import warm_copy
from sharedarray._bench.race import seconds_of
from sharedarray._bench.tasks import Array

SIZES = [1 << 20] if QUICK else [1 << power for power in range(10, 31, 2)]  # bytes
CONTESTANTS = [] if QUICK else ["ray", "torch"]
Call = Callable[[], Any]


def _loops(size: int) -> int:
    return max(1, min(100, (16 << 20) // size))


@pytest.mark.parametrize("size", SIZES, ids=human)
def test_share_first(race: Callable[..., Any], everyone: Everyone, size: int) -> None:
    """A new block each time."""
    need(size, 4)
    data = np.random.default_rng(0).random(size // 8)
    with contextlib.ExitStack() as stack:
        peers, missing = _peers(stack, data)
        contestants = {**_files(data), **peers, **_pickling(data)}
        timed = {
            name: functools.partial(seconds_of, call, _loops(size)) for name, call in contestants.items()
        }
        race(
            f"share {human(size)} in a new block",
            {**timed, **everyone.asked("share", size)},
            baseline="limit",
            rounds=11,
            budget=BUDGET,
            unit="us" if size < 1 << 20 else "ms",
            measured=True,
            missing={**missing, **everyone.missing},
            notes={
                "ray": "its pages are there from the second time on",
                "torch": "copies with all processors",
                "limit": "pwrite + mmap",
            },
            group="share, first",
            size=size,
        )


def _files(data: Array) -> dict[str, Call]:
    """Return the limit, ours, and what Python and NumPy have."""
    path = f"{registry.directory()}/bench-{os.getpid()}"

    def raw() -> Call:
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

    def ours() -> Call:
        array = sa.share(data)
        array[0]

        def tidy() -> None:
            array.close()
            freelist.clear()

        return tidy

    def shared_memory() -> Call:
        block = SharedMemory(create=True, size=data.nbytes)
        array = np.ndarray(data.shape, data.dtype, block.buf)
        array[:] = data
        del array

        def tidy() -> None:
            block.close()
            block.unlink()

        return tidy

    def memmap() -> Call:
        array = np.memmap(path, data.dtype, "w+", shape=data.shape)
        array[:] = data
        return lambda: os.unlink(path)

    def save() -> Call:
        np.save(f"{path}.npy", data)
        return lambda: os.unlink(f"{path}.npy")

    return {
        "limit": raw,
        "sharedarray": ours,
        "SharedMemory + copy": shared_memory,
        "numpy.memmap 'w+'": memmap,
        "numpy.save": save,
    }


def _peers(stack: contextlib.ExitStack, data: Array) -> tuple[dict[str, Call], dict[str, str]]:
    """Libraries that put arrays into shared memory, and which are missing."""
    found: dict[str, Call] = {}
    missing: dict[str, str] = {}
    for name, (module, prepare) in PEERS.items():
        if importlib.util.find_spec(module) is None:
            missing[name] = f"{module} is not installed"
        else:
            found[name] = stack.enter_context(prepare(data))
    return found, missing


@contextlib.contextmanager
def _theirs(data: Array) -> Iterator[Call]:
    import SharedArray

    names = (f"shm://bench-{os.getpid()}-{number}" for number in itertools.count())

    def share() -> Call:
        name = next(names)
        SharedArray.create(name, data.shape, data.dtype)[:] = data
        return lambda: SharedArray.delete(name)

    yield share


@contextlib.contextmanager
def _fastshare(data: Array) -> Iterator[Call]:
    import fastshare

    def share() -> Call:
        block = fastshare.SharedData(data)
        block.__enter__()
        return lambda: block.__exit__(None, None, None)

    yield share


@contextlib.contextmanager
def _shared_ndarray2(data: Array) -> Iterator[Call]:
    from shared_ndarray2 import SharedNDArray

    with SharedMemoryManager() as manager:

        def share() -> Call:
            array = SharedNDArray.from_array(manager, data)

            def tidy() -> None:
                array.shm.close()
                array.shm.unlink()

            return tidy

        yield share


@contextlib.contextmanager
def _sharedmem(data: Array) -> Iterator[Call]:
    import sharedmem

    def share() -> None:
        sharedmem.copy(data)  # freed with the array

    yield share


@contextlib.contextmanager
def _joblib(data: Array) -> Iterator[Call]:
    import joblib

    path = f"{registry.directory()}/bench-{os.getpid()}.joblib"

    def share() -> Call:
        joblib.dump(data, path)
        return lambda: os.unlink(path)

    yield share


PEERS: dict[str, tuple[str, Callable[[Array], contextlib.AbstractContextManager[Call]]]] = {
    "SharedArray (PyPI)": ("SharedArray", _theirs),
    "fastshare": ("fastshare", _fastshare),
    "shared_ndarray2": ("shared_ndarray2", _shared_ndarray2),
    "sharedmem": ("sharedmem", _sharedmem),
    "joblib.dump": ("joblib", _joblib),
}


def _pickling(data: Array) -> dict[str, Call]:
    def dumps(protocol: int) -> Call:
        return lambda: len(pickle.dumps(data, protocol)) and None

    return {"pickle.dumps, protocol 5": dumps(5), "pickle.dumps, protocol 4": dumps(4)}


@pytest.mark.parametrize("size", SIZES, ids=human)
def test_share_again(race: Callable[..., Any], everyone: Everyone, size: int) -> None:
    """New data in a block that there is already."""
    need(size, 5)
    data = np.random.default_rng(0).random(size // 8)
    block = SharedMemory(create=True, size=data.nbytes)
    with warm_copy(data) as copy, sa.share(data) as array:

        def ours() -> None:
            array[...] = data

        views = [np.ndarray(data.shape, data.dtype, block.buf)]  # to be gone before the block is closed

        def shared_memory() -> None:
            views[0][...] = data

        contestants: dict[str, Call] = {
            "limit": copy,
            "sharedarray": ours,
            "SharedMemory": shared_memory,
            **_pickling(data),
        }
        timed = {
            name: functools.partial(seconds_of, call, _loops(size)) for name, call in contestants.items()
        }
        hosted = {name: ask for name, ask in everyone.asked("share", size).items() if name == "ray"}
        try:
            race(
                f"share {human(size)} again, in a block that is there",
                {**timed, **hosted},
                baseline="limit",
                rounds=11,
                budget=BUDGET,
                unit="us" if size < 1 << 20 else "ms",
                measured=True,
                missing={name: why for name, why in everyone.missing.items() if name == "ray"},
                notes={"limit": "memcpy into mapped memory"},
                group="share, again",
                size=size,
            )
        finally:
            views.clear()
            block.close()
            block.unlink()


@pytest.mark.parametrize("size", SIZES, ids=human)
def test_share_dropped(race: Callable[..., Any], size: int) -> None:
    """New data in a new block, and nothing holds the last one any more; dropping it is timed, too."""
    need(size, 5)
    data = np.random.default_rng(0).random(size // 8)

    def ours() -> None:
        sa.share(data)

    def shared_memory() -> None:
        block = SharedMemory(create=True, size=data.nbytes)
        np.ndarray(data.shape, data.dtype, block.buf)[...] = data
        block.close()
        block.unlink()

    def private() -> None:
        data.copy()

    with warm_copy(data) as copy:
        contestants: dict[str, Call] = {
            "limit": copy,
            "sharedarray": ours,
            "SharedMemory + copy": shared_memory,
            "numpy.copy, not shared": private,
        }
        race(
            f"share {human(size)} in a new block, the last one dropped",
            {name: functools.partial(seconds_of, call, _loops(size)) for name, call in contestants.items()},
            baseline="limit",
            rounds=11,
            budget=BUDGET,
            unit="us" if size < 1 << 20 else "ms",
            measured=True,
            notes={"limit": "memcpy into mapped memory"},
            group="share, dropped",
            size=size,
        )
