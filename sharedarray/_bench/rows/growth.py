"""The cost of a task if there are more workers than processors: tasks that sleep."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import sharedarray as sa
from sharedarray._bench import tasks
from sharedarray._bench.limits import CONTEXT
from sharedarray._bench.race import Race, run_together
from sharedarray._bench.rows.scale import Scale

PAUSE = 0.005
"""Seconds that a task sleeps: 64 workers end 12,800 of them in a second, which two processors can serve."""

TASKS = {1: 60, 2: 120, 8: 480, 32: 1280, 64: 2560}
"""Tasks of a round, by the number of workers: each worker has at least 40, so the last ones count little."""

RIVALS = (2, 8)
"""Workers of the executors beside it."""

GROUPS = {
    (way, cost): f"growth, {cost}, {way}"
    for way in ("map", "submit")
    for cost in ("parent's processor time", "time beyond the sleep")
}
"""Groups of the races."""


def ours(workers: int) -> str:
    """Return the name of the contestant with so many workers."""
    return f"sharedarray, {workers} worker{'s' if workers > 1 else ''}"


def many_workers(scale: Scale) -> Iterator[Race]:
    """Yield the processor time of the parent for each task, and the time that the workers did not sleep.

    The second is what a task adds to the wall time: that of all tasks, less the time that the tasks slept, as
    they measured it, divided by the workers, and all of it divided by the tasks.
    """
    counts = scale.chosen(list(TASKS))
    with contextlib.ExitStack() as stack:
        pools: dict[str, tuple[Any, int]] = {
            ours(workers): (stack.enter_context(sa.Pool(workers)), workers) for workers in counts
        } | {
            f"ProcessPoolExecutor, {workers} workers": (
                stack.enter_context(ProcessPoolExecutor(workers, CONTEXT)),
                workers,
            )
            for workers in RIVALS
            if workers in counts
        }
        for way in ("map", "submit"):
            calls = {
                name: _measuring(pool, workers, scale.some(TASKS[workers], 2 * workers), way)
                for name, (pool, workers) in pools.items()
            }
            for call in calls.values():
                call()  # all workers are ready, and the pool knows how long the tasks take
            title = f"a task that sleeps for {1000 * PAUSE:g} ms, "
            title += "in a map" if way == "map" else "submitted one by one"
            races = [
                Race(f"{title}: {cost}", ours(2), group=group)
                for (its_way, cost), group in GROUPS.items()
                if its_way == way
            ]
            run_together(races, calls, rounds=scale.few)
            yield from races


def _measuring(pool: Any, workers: int, count: int, way: str) -> Callable[[], tuple[float, float]]:
    pauses = [PAUSE] * count

    def call() -> tuple[float, float]:
        busy, start = time.process_time(), time.perf_counter()
        if way == "map":
            slept = sum(pool.map(tasks.pause, pauses))
        else:
            slept = sum([future.result() for future in [pool.submit(tasks.pause, pause) for pause in pauses]])
        took, busy = time.perf_counter() - start, time.process_time() - busy
        return busy / count, (took - slept / workers) / count

    return call
