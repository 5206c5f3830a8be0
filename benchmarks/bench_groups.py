"""What does it cost to attach to a group of many arrays, against one array, and against other ways?

An attach reads the index and makes no member, so it should cost about as much as that of one array, whatever
the number of members. A `SharedMemory` per array costs an attach each; ``numpy.load`` of an npz copies.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from conftest import BUDGET, QUICK

import sharedarray as sa
from sharedarray import _registry as registry

MEMBERS, LENGTH = 100, 1000
MOST = 1.5  # times that the attach of the group may take, in terms of the attach of one array


def test_attach(race: Callable[..., Any]) -> None:
    """Attach to 100 arrays and read an element of one."""
    arrays = {f"m{number}": np.arange(LENGTH, dtype="f8") + number for number in range(MEMBERS)}
    path = Path(registry.directory(), f"bench-{os.getpid()}.npz")
    np.savez(path, **arrays)  # type: ignore[arg-type]
    blocks = [SharedMemory(create=True, size=LENGTH * 8) for _ in arrays]
    for block, array in zip(blocks, arrays.values(), strict=True):
        np.frombuffer(block.buf, "f8", LENGTH)[:] = array  # type: ignore[arg-type]
    try:
        with sa.share_group("bench_group", arrays), sa.share(arrays["m7"], name="bench_array"):

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
                found = [SharedMemory(block.name) for block in blocks]
                np.frombuffer(found[7].buf, "f8", LENGTH)[3]  # type: ignore[arg-type]
                for each in found:
                    each.close()

            def npz() -> None:
                with np.load(path) as archive:
                    archive["m7"][3]

            done = race(
                f"attach to {MEMBERS} arrays",
                {
                    "sharedarray": group,
                    "sharedarray, and read a member": member,
                    "sharedarray, one array": array,
                    "a SharedMemory for each": memory,
                    "numpy.load of an npz": npz,
                },
                baseline="sharedarray, one array",
                rounds=300,
                budget=BUDGET,
                unit="us",
                group="attach to a group",
            )
    finally:
        path.unlink()
        for block in blocks:
            block.close()
            block.unlink()
    if not QUICK:
        assert done.ratio("sharedarray") < MOST
