"""What does it cost to hand a frame to another process by name: `put` once, `get` in each?

`get` rebuilds the frame over the block's memory, so it should cost the same whatever the frame's size.
Pickling copies it twice: into the pickle, and out of it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUDGET, QUICK, human, need

import sharedarray as sa
from sharedarray import _registry as registry

pandas = pytest.importorskip("pandas")

SMALL, LARGE = 1 << 20, (8 if QUICK else 512) << 20  # bytes of a frame
COLUMNS = 8
MOST = 2.0  # times that `get` may take for the large frame, in terms of the small one


def frame(size: int) -> Any:
    data = np.random.default_rng(0).random((size // 8 // COLUMNS, COLUMNS))
    return pandas.DataFrame(data, columns=[f"c{i}" for i in range(COLUMNS)])


def test_get(race: Callable[..., Any]) -> None:
    """Get a frame and look at one element, against unpickling the same."""
    need(LARGE, 4)
    large = frame(LARGE)
    path = Path(registry.directory(), f"bench-{os.getpid()}.pickle")
    with sa.put(frame(SMALL)) as little, sa.put(large) as held:
        with open(path, "wb") as file:
            pickle.dump(large, file, protocol=5)
        del large

        def get(name: str) -> Callable[[], None]:
            return lambda: sa.get(name)["c3"].iat[7] and None

        def load() -> None:
            with open(path, "rb") as file:
                pickle.load(file)["c3"].iat[7]

        try:
            done = race(
                f"get a frame of {human(LARGE)}",
                {
                    "sharedarray": get(held.name),
                    f"sharedarray, {human(SMALL)}": get(little.name),
                    "pickle.load from /dev/shm": load,
                },
                baseline=f"sharedarray, {human(SMALL)}",
                rounds=15,
                budget=BUDGET,
                unit="us",
                group="get",
                size=LARGE,
            )
        finally:
            path.unlink()
    if not QUICK:
        assert done.ratio("sharedarray") < MOST


def test_put(race: Callable[..., Any]) -> None:
    """Put a frame, against pickling it, and against writing its bytes to a fresh file in memory."""
    need(LARGE, 5)
    given = frame(LARGE)
    data = memoryview(np.ascontiguousarray(given.to_numpy())).cast("B")
    path = f"{registry.directory()}/bench-{os.getpid()}"

    def raw() -> Callable[[], None]:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        written = 0
        while written < len(data):
            written += os.pwrite(handle, data[written:], written)
        os.close(handle)
        return lambda: os.unlink(path)

    def dump() -> Callable[[], None]:
        with open(path, "xb") as file:
            pickle.dump(given, file, protocol=5)
        return lambda: os.unlink(path)

    race(
        f"put a frame of {human(LARGE)}",
        {
            "limit": raw,
            "sharedarray": lambda: sa.put(given).close,
            "pickle.dump to /dev/shm": dump,
            "pickle.dumps": lambda: len(pickle.dumps(given, 5)) and None,
        },
        baseline="limit",
        rounds=7,
        budget=BUDGET,
        unit="ms",
        notes={"limit": "pwrite"},
        group="put",
        size=LARGE,
    )
