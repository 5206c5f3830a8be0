"""What does each of many tasks cost that do nothing, in one map?

The limit is a bare worker that gets all of them in one message. `bench_pool` has tasks that are submitted one
by one, and maps of tasks that compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import BUDGET, QUICK, Everyone

from sharedarray._bench.contestant import Executor, Limit, Multiprocessing, Ours
from sharedarray._bench.contestants import CONTESTANTS as ALL
from sharedarray._bench.tasks import noop

MAPPED = [1_000] if QUICK else [10_000, 100_000]
FEW = 200 if QUICK else 2_000  # of each contestant: some take a millisecond for a task
STANDARD = ("limit", "sharedarray", "ProcessPoolExecutor", "multiprocessing.Pool")
CONTESTANTS = list(STANDARD) if QUICK else [name for name in ALL if "many" in ALL[name].questions]


@pytest.mark.parametrize("count", MAPPED)
def test_map(race: Callable[..., Any], count: int) -> None:
    """`map` with default arguments: at most 1.5 us a task, or twice `multiprocessing.Pool.map`.

    That one cuts the tasks into 4 pieces for each worker, whatever they cost; a slow task then holds up all
    that come after it in its piece. `ProcessPoolExecutor` is told to do the same here.
    """
    values = list(range(count))
    with Limit() as bare, Ours() as ours, Executor() as executor, Multiprocessing() as theirs:
        there = {"multiprocessing.Pool": theirs, "sharedarray": ours, "limit": bare}

        def mapping(contestant: Any) -> Callable[[], None]:
            def call() -> None:
                contestant.map(noop, values)

            return call

        contestants = {name: mapping(each) for name, each in there.items()} | {
            "ProcessPoolExecutor, 8 pieces": lambda: _drain(
                executor.pool.map(noop, values, chunksize=count // 8)
            ),
        }
        if count <= 10_000:
            contestants["multiprocessing.Pool, chunksize=1"] = lambda: _drain(
                theirs.pool.map(noop, values, 1)
            )
        race(
            f"map of {count:,} no-op tasks; time of one",
            contestants,
            baseline="multiprocessing.Pool",
            rounds=9,
            per=count,
            group="map",
            size=count,
        )


def _drain(values: Any) -> None:
    list(values)


@pytest.mark.parametrize("question", ["many", "mapped"])
def test_throughput_of_everybody(race: Callable[..., Any], everyone: Everyone, question: str) -> None:
    """The same in programs of their own, with the default arguments of each."""

    def each(ask: Callable[[], float]) -> Callable[[], float]:
        return lambda: ask() / FEW

    way = "submitted one by one" if question == "many" else "in one map"
    race(
        f"{FEW:,} no-op tasks {way}, each in a program of its own; time of one",
        {name: each(ask) for name, ask in everyone.asked(question, FEW, seconds=0.01).items()},
        baseline="limit",
        rounds=7,
        budget=BUDGET,
        measured=True,
        missing=everyone.missing,
        group=f"throughput, {way}",
    )
