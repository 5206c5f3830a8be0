"""`map` of NumPy functions of 40 µs to 5 ms, with default arguments, on two workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sharedarray._bench import short_tasks
from sharedarray._bench.contestant import WORKERS, Contestant, Multiprocessing, Ours
from sharedarray._bench.limits import bare_connection
from sharedarray._bench.race import Race, run_together
from sharedarray._bench.rows.scale import Scale
from sharedarray._bench.script import in_main

LENGTHS = {"40 µs": (2, 4000), "100 µs": (7, 2000), "300 µs": (21, 700), "1 ms": (71, 200), "5 ms": (357, 60)}
"""Chunks of a task, and tasks of a map, by the time that a task takes on an AMD EPYC."""

FRESH, WARM = "in a pool just made", "in a pool that has run it before"
TIMES = {(length, how): f"map, {length}, {how}" for length in LENGTHS for how in (FRESH, WARM)}
PROCESSOR_TIMES = {which: f"parent's processor time, {group}" for which, group in TIMES.items()}
"""Groups of the races."""

ALONE = "one process"

Function = Callable[[int], float]
Figures = tuple[float, float | None]
"""Seconds of a task, and seconds that the parent was on a processor for it."""


class _Tasks:
    """The tasks of a map: their seeds, and the results that every contestant must give."""

    def __init__(self, chunks: int, count: int) -> None:
        self.seeds = [chunks * short_tasks.SEEDS + number for number in range(count)]
        self.expected = short_tasks.estimates(self.seeds)

    def timed(self, mapping: Callable[[list[int]], Any]) -> Figures:
        """Return what a task costs in a map of all seeds."""
        busy, start = time.process_time(), time.perf_counter()
        found = mapping(self.seeds)
        took, busy = time.perf_counter() - start, time.process_time() - busy
        if found != self.expected:
            raise AssertionError("a map gave other results than the function itself")
        return took / len(self.seeds), busy / len(self.seeds)

    def alone(self) -> Figures:
        """Return what a task costs in this process. All of its processor time is the task's own."""
        return self.timed(short_tasks.estimates)[0], None

    def in_new(self, kind: type[Contestant], function: Function) -> Figures:
        """Return what a task costs in a new pool of this kind, whose workers are ready."""
        with kind() as pool:
            both_ready(pool)
            return self.timed(partial(pool.map, function))


def mapped_tasks(scale: Scale) -> Iterator[Race]:
    """Yield a Monte-Carlo function of the script; `multiprocessing.Pool` imports the same function.

    The limit is two bare workers that get half of the seeds each, in one message.
    """
    with (
        halves(short_tasks.estimates) as limit,
        Ours() as ours,
        Multiprocessing() as theirs,
        in_main(short_tasks) as script,
    ):
        for length, (chunks, full) in scale.chosen(list(LENGTHS.items())):
            tasks = _Tasks(chunks, scale.some(full, 2 * WORKERS))
            references: dict[str, Callable[[], Figures]] = {
                "limit": partial(tasks.timed, limit),
                ALONE: tasks.alone,
            }
            fresh = {
                Ours.name: partial(tasks.in_new, Ours, script.estimate),
                Multiprocessing.name: partial(tasks.in_new, Multiprocessing, short_tasks.estimate),
            }
            warm = {
                Ours.name: partial(tasks.timed, partial(ours.map, script.estimate)),
                Multiprocessing.name: partial(tasks.timed, partial(theirs.map, short_tasks.estimate)),
            }
            for call in warm.values():
                call()
            for how, pools in (FRESH, fresh), (WARM, warm):
                title = f"map of {len(tasks.seeds):,} NumPy tasks of {length}, {how}"
                races = [
                    Race(f"{title}; time of one", "limit", group=TIMES[length, how]),
                    Race(
                        f"{title}; parent's processor time for one",
                        Multiprocessing.name,
                        group=PROCESSOR_TIMES[length, how],
                    ),
                ]
                run_together(races, {**references, **pools}, rounds=scale.few)
                yield from races


@contextlib.contextmanager
def halves(function: Callable[[Any], Any]) -> Iterator[Callable[[list[Any]], list[Any]]]:
    """Start two bare workers, and give a function that has them compute half of a list each."""
    with bare_connection(function) as one, bare_connection(function) as two:

        def ask(values: list[Any]) -> list[Any]:
            middle = len(values) // 2
            one.send(values[:middle])
            two.send(values[middle:])
            return [*one.recv(), *two.recv()]

        ask([short_tasks.SEEDS] * 2)
        yield ask


def both_ready(contestant: Contestant, *, tries: int = 20, pause: float = 0.03) -> None:
    """Wait until a contestant's workers run tasks at the same time, or until the tries are used up."""
    for _ in range(tries):
        start = time.perf_counter()
        contestant.call_many(time.sleep, [pause] * WORKERS)
        if time.perf_counter() - start < 1.6 * pause:
            return
