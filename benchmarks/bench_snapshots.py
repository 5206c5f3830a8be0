"""What does a view of one whole version cost, and what does it cost to publish one?

A snapshot copies nothing, so it should take the same time whatever the size: that of looking up an attribute
and some control words. A copy under a lock is what programs do without versions.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from conftest import BUDGET, QUICK, human, need

import sharedarray as sa

SMALL, LARGE = 1 << 12, (1 if QUICK else 64) << 20
MOST = 2e-6  # seconds that a snapshot may take longer than an attribute


def test_snapshot(race: Callable[..., Any]) -> None:
    """Take a snapshot in the place of the last one, as a loop does."""
    need(LARGE, 6)
    with sa.zeros(LARGE // 8) as large, sa.zeros(SMALL // 8) as small:
        for array in (large, small):
            with array.update() as new:
                new[:] = 1
        kept: dict[str, Any] = {}

        def take(array: sa.SharedArray, name: str) -> Callable[[], None]:
            def call() -> None:
                kept[name] = array.snapshot()

            return call

        def drop() -> None:
            small.snapshot()

        def copy() -> None:
            with small.lock(shared=True):
                np.array(small)

        done = race(
            "take a snapshot",
            {
                "sharedarray": take(large, "large"),
                f"sharedarray, {human(SMALL)}": take(small, "small"),
                "sharedarray, the last one dropped before": drop,
                "an attribute (name)": lambda: large.name and None,
                f"lock and copy {human(SMALL)}": copy,
            },
            baseline="an attribute (name)",
            rounds=300,
            loops=100,
            budget=BUDGET,
            unit="us",
            group="snapshot",
            size=LARGE,
        )
        kept.clear()
    if not QUICK:
        for way in ("sharedarray", "sharedarray, the last one dropped before"):
            assert done.median(way) - done.median("an attribute (name)") < MOST


def as_tensordict(data: Any) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Return what writes data into a `TensorDict` in shared memory, piece by piece, and what is missing."""
    name = "tensordict, not whole"
    if importlib.util.find_spec("tensordict") is None:
        return {}, {name: "tensordict is not installed"}
    torch, made = importlib.import_module("torch"), importlib.import_module("tensordict").TensorDict
    given = made({"data": torch.from_numpy(data)}, batch_size=[])
    shared = made({"data": torch.zeros(len(data), dtype=torch.float64)}, batch_size=[]).share_memory_()

    def update() -> None:  # a `TensorDict` has no truth value
        shared.update_(given)

    return {name: update}, {}


def test_update(race: Callable[..., Any]) -> None:
    """Publish a whole version, against a copy of as much."""
    need(LARGE, 8)
    data, target = np.ones(LARGE // 8), np.empty(LARGE // 8)
    others, missing = as_tensordict(data)
    with sa.zeros(LARGE // 8) as array:

        def update() -> None:
            with array.update(copy=False) as new:
                new[:] = data

        race(
            f"publish {human(LARGE)}",
            {"sharedarray": update, "a copy": lambda: np.copyto(target, data), **others},
            baseline="a copy",
            rounds=15,
            budget=BUDGET,
            unit="ms",
            missing=missing,
            group="update",
            size=LARGE,
        )
