"""What does it cost to share many arrays by one name and to attach to them, against other ways?

An attach reads the index and makes no member, so it should cost about as much as that of one array, whatever
the number of members. A `SharedMemory` per array costs an attach each; ``numpy.load`` of an npz copies. The
store in memory of zarr is of one process, and tensordict has a file for each array. These two take part if
they are installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from conftest import BUDGET, QUICK

import sharedarray as sa
from sharedarray import _registry as registry

MEMBERS, LENGTH = 100, 1000
MOST = 1.5  # times that the attach of the group may take, in terms of the attach of one array
ARRAYS = {f"m{number}": np.arange(LENGTH, dtype="f8") + number for number in range(MEMBERS)}
ZARR, TENSORDICT = "zarr, in memory", "tensordict, memory-mapped"


def place() -> Path:
    """Return a path in the memory in which blocks are."""
    return Path(registry.directory(), f"bench-{os.getpid()}")


@contextmanager
def in_shared_memory() -> Iterator[dict[str, SharedMemory]]:
    """Give a dict of CPython's `SharedMemory` with the arrays."""
    blocks: dict[str, SharedMemory] = {}
    try:
        for name, array in ARRAYS.items():
            blocks[name] = SharedMemory(create=True, size=array.nbytes)
            np.frombuffer(blocks[name].buf, "f8", LENGTH)[:] = array  # type: ignore[arg-type]
        yield blocks
    finally:
        for block in blocks.values():
            block.close()
            block.unlink()


def without() -> dict[str, str]:
    """Return why the contestants that need other packages are missing, of those that are."""
    needed = {ZARR: "zarr", TENSORDICT: "tensordict"}
    return {
        name: f"{module} is not installed"
        for name, module in needed.items()
        if importlib.util.find_spec(module) is None
    }


def in_zarr() -> Any:
    """Return zarr's store in memory with the arrays."""
    zarr = importlib.import_module("zarr")
    store = importlib.import_module("zarr.storage").MemoryStore()
    zarr.save_group(store, **ARRAYS)
    return store


def as_tensordict() -> Any:
    """Return a `TensorDict` of the arrays, which are not copied."""
    torch = importlib.import_module("torch")
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    return importlib.import_module("tensordict").TensorDict(tensors, batch_size=[])


def test_attach(race: Callable[..., Any]) -> None:
    """Attach to 100 arrays and read an element of one."""
    path, folder = place().with_suffix(".npz"), place()
    missing = without()
    with ExitStack() as ends:
        np.savez(path, **ARRAYS)  # type: ignore[arg-type]
        ends.callback(path.unlink)
        blocks = ends.enter_context(in_shared_memory())
        ends.enter_context(sa.share_group("bench_group", ARRAYS))
        ends.enter_context(sa.share(ARRAYS["m7"], name="bench_array"))

        def group() -> None:
            with sa.attach("bench_group"):
                pass

        def member() -> None:
            found: Any = sa.attach("bench_group")
            found["m7"][3]
            found.close()

        def array() -> None:
            with sa.attach("bench_array"):
                pass

        def memory() -> None:
            found = {name: SharedMemory(block.name) for name, block in blocks.items()}
            np.frombuffer(found["m7"].buf, "f8", LENGTH)[3]  # type: ignore[arg-type]
            for each in found.values():
                each.close()

        def npz() -> None:
            with np.load(path) as archive:
                archive["m7"][3]

        contestants = {
            "sharedarray": group,
            "sharedarray, and read a member": member,
            "sharedarray, one array": array,
            "a dict of SharedMemory": memory,
            "numpy.load of an npz": npz,
        }
        if ZARR not in missing:
            zarr, store = importlib.import_module("zarr"), in_zarr()
            contestants[ZARR] = lambda: zarr.open_group(store=store, mode="r")["m7"][3] and None
        if TENSORDICT not in missing:
            tensordict = importlib.import_module("tensordict").TensorDict
            as_tensordict().memmap(prefix=folder)
            ends.callback(shutil.rmtree, folder)
            contestants[TENSORDICT] = lambda: tensordict.load_memmap(folder)["m7"][3] and None
        done = race(
            f"attach to {MEMBERS} arrays",
            contestants,
            baseline="sharedarray, one array",
            rounds=300,
            budget=BUDGET,
            unit="us",
            missing=missing,
            group="attach to a group",
        )
    if not QUICK:
        assert done.ratio("sharedarray") < MOST


def test_share(race: Callable[..., Any]) -> None:
    """Copy 100 arrays to where other processes find them, and remove them."""
    path, folder = place().with_suffix(".npz"), place()
    missing = without()

    def memory() -> None:
        with in_shared_memory():
            pass

    def npz() -> None:
        np.savez(path, **ARRAYS)  # type: ignore[arg-type]
        path.unlink()

    def mapped() -> None:
        as_tensordict().memmap(prefix=folder)
        shutil.rmtree(folder)

    contestants: dict[str, Callable[[], Any]] = {
        "sharedarray": lambda: sa.share_group(None, ARRAYS).close(),
        "a dict of SharedMemory": memory,
        "numpy.savez": npz,
    }
    if ZARR not in missing:
        contestants[ZARR] = lambda: in_zarr() and None
    if TENSORDICT not in missing:
        contestants[TENSORDICT] = mapped
    race(
        f"share {MEMBERS} arrays",
        contestants,
        baseline="a dict of SharedMemory",
        rounds=100,
        budget=BUDGET,
        unit="us",
        missing=missing,
        group="share a group",
        size=MEMBERS * LENGTH * 8,
    )
