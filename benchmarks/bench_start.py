"""How long until a pool works, and how long does the import take?

Every figure comes from an interpreter of its own, which takes the time itself: what it takes to start that
interpreter is not in it. The limit is what `multiprocessing` itself needs: a fork server, and two processes
of it that have NumPy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import starts
from conftest import QUICK

LIGHT = ("numpy", "sharedarray", "concurrent.futures", "multiprocessing")  # what QUICK has time for


def test_start(race: Callable[..., Any]) -> None:
    """From nothing to two workers at work, and their answers: at most 1.5 times two bare processes.

    Of the two bare ones, the first loads NumPy before it forks, as the pool does.
    """
    there = {name: module for name, (module, _) in starts.STARTS.items() if not QUICK or module in LIGHT}
    missing = {
        name: f"{module} is not installed"
        for name, module in there.items()
        if importlib.util.find_spec(module) is None
    }
    names = [name for name in there if name not in missing]

    def measuring(name: str) -> Callable[[], float]:
        return lambda: starts.printed(f"import starts; starts.print_start({name!r})")

    race(
        "2 workers, from a fresh interpreter to their answers",
        {name: measuring(name) for name in names},
        baseline=names[0],
        rounds=15,
        budget=20.0,
        unit="ms",
        measured=True,
        missing=missing,
        group="start",
    )


def test_import(race: Callable[..., Any]) -> None:
    """The time that ``import sharedarray`` adds to ``import numpy``: at most 20 ms."""

    def importing(*names: str) -> Callable[[], float]:
        *before, last = [f"import {name}" for name in names]
        code = "; ".join(
            [
                "import time",
                *before,
                "begin = time.perf_counter()",
                last,
                "print(time.perf_counter() - begin)",
            ]
        )
        return lambda: starts.printed(code)

    contestants = {
        "numpy": importing("numpy"),
        "sharedarray": importing("sharedarray"),
        "sharedarray, after numpy": importing("numpy", "sharedarray"),
        "sharedarray._pool, after both": importing("numpy", "sharedarray", "sharedarray._pool"),
        "multiprocessing.pool, after numpy": importing("numpy", "multiprocessing.pool"),
    }
    if not QUICK and importlib.util.find_spec("joblib"):
        contestants["joblib, after numpy"] = importing("numpy", "joblib")
    race("import", contestants, baseline="numpy", rounds=21, unit="ms", measured=True, group="import")
