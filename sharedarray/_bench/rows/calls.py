"""Tasks that do nothing: one at a time, ten thousand submitted one by one, and `as_completed`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from functools import partial
from typing import Any

from sharedarray._bench import short_tasks
from sharedarray._bench.contestant import Executor, Limit, Multiprocessing, Ours
from sharedarray._bench.race import Race
from sharedarray._bench.rows.scale import Scale
from sharedarray._bench.script import in_main

PAUSES = {"back to back": 0.0, "0.2 ms apart": 0.2e-3, "1 ms apart": 1e-3}
"""Seconds between two calls. A worker that polls for the next call does so for less than 1 ms."""

ROUND_TRIPS = {how: f"round trip, {how}" for how in PAUSES}
SUBMITTED = "submitted one by one"
COMPLETED = "as completed"
"""Groups of the races."""

OURS = "sharedarray"
SCRIPT = "sharedarray, function of the script"


def round_trips(scale: Scale) -> Iterator[Race]:
    """Yield one no-op task at a time: of an importable function, and of a function of the script."""
    with Limit() as limit, Ours() as ours, Executor() as executor, in_main(short_tasks) as script:
        asks = {
            limit.name: (partial(limit.call, short_tasks.same, 3), 1500),
            OURS: (partial(ours.call, short_tasks.same, 3), 1500),
            SCRIPT: (partial(ours.call, script.same, 3), 1500),
            executor.name: (partial(executor.call, short_tasks.same, 3), 300),
        }
        for ask, _ in asks.values():
            _apart(ask, 0.0, scale.some(100, 3))
        for how, pause in PAUSES.items():
            part = 0.1 if pause else 1.0  # of the calls
            race = Race(f"one no-op task, {how}", limit.name, group=ROUND_TRIPS[how])
            timed = {
                name: partial(_apart, ask, pause, scale.some(round(calls * part), 3))
                for name, (ask, calls) in asks.items()
            }
            race.run(timed, rounds=scale.rounds, measured=True)
            yield race


def _apart(ask: Callable[[], Any], pause: float, calls: int) -> float:
    """Return the seconds of a call: the mean of calls back to back, the median of calls with pauses."""
    if not pause:
        start = time.perf_counter()
        for _ in range(calls):
            ask()
        return (time.perf_counter() - start) / calls
    taken = []
    for _ in range(calls):
        time.sleep(pause)
        start = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def submitted(scale: Scale) -> Iterator[Race]:
    """Submit ten thousand no-op tasks one by one. The limit is as many round trips of a bare worker."""
    values = list(range(scale.some(10_000)))
    with (
        Limit() as limit,
        Ours() as ours,
        Executor() as executor,
        Multiprocessing() as theirs,
        in_main(short_tasks) as script,
    ):
        calls = {
            limit.name: partial(limit.call_many, short_tasks.same, values),
            OURS: partial(ours.call_many, short_tasks.same, values),
            SCRIPT: partial(ours.call_many, script.same, values),
            executor.name: partial(executor.call_many, short_tasks.same, values),
            theirs.name: partial(theirs.call_many, short_tasks.same, values),
        }
        title = f"{len(values):,} no-op tasks submitted one by one, then all results; time of one"
        race = Race(title, limit.name, group=SUBMITTED)
        race.run(calls, rounds=scale.few, per=len(values))
        yield race


def completed(scale: Scale) -> Iterator[Race]:
    """Yield the same, with the results in the order in which the tasks end."""
    values = list(range(scale.some(20_000)))
    with Limit() as limit, Ours() as ours, Executor() as executor:
        calls = {
            limit.name: partial(limit.call_many, short_tasks.same, values),
            OURS: partial(_as_completed, ours.pool, values),
            executor.name: partial(_as_completed, executor.pool, values),
        }
        title = f"{len(values):,} no-op tasks and `as_completed`; time of one"
        race = Race(title, limit.name, group=COMPLETED)
        race.run(calls, rounds=min(scale.rounds, 2), per=len(values))
        yield race


def _as_completed(pool: Any, values: list[int]) -> None:
    for future in as_completed([pool.submit(short_tasks.same, value) for value in values]):
        future.result()
