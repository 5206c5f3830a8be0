"""What does a task cost that does nothing?

The limit is a bare worker: a process that reads an argument from one `multiprocessing.Pipe`, calls a
function, and writes the result. It knows of no futures, exceptions, deaths or queues.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pool_rivals
import pytest
from pool_rivals import noop, noops

import sharedarray as sa

QUICK = bool(os.environ.get("SHAREDARRAY_BENCH_QUICK"))
MANY = 500 if QUICK else 10_000  # tasks that are submitted one by one
MAPPED = [1_000] if QUICK else [10_000, 100_000]


STANDARD = ("ProcessPoolExecutor", "multiprocessing.Pool")
# Where callers and workers run, and who takes part.
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "alone": ("", ()),
    "on two processors": ("two", STANDARD),
    "on one processor": ("one", STANDARD),
    "beside the standard library": ("", STANDARD),
    "beside other libraries": ("", ("loky", "joblib", "dask")),
}


@pytest.mark.parametrize("setting", list(SETTINGS)[: 4 if QUICK else None])
def test_round_trip(race: Callable[..., Any], setting: str) -> None:
    """One task: submit it and wait for its result. At most 1.5 times the bare worker's time; the aim is 1.

    Where the kernel lets the two processes of the bare worker run makes a difference of four: on one
    processor, which is then simply handed over, or on two, where a sleeping one has to be woken for each
    message. It changes its mind from time to time, so there are races with the processes held in place, too.
    Processes and threads that rivals keep disturb so short a thing, so there is a race without any, and those
    with the most of them run in a race of their own.
    """
    where, libraries = SETTINGS[setting]
    with (
        pool_rivals.bare_worker(noop) as bare,
        pool_rivals.rivals(*libraries) as rivals,
        sa.Pool(2) as pool,
    ):

        def ask_bare() -> None:
            bare(3)

        def ours() -> None:
            pool.submit(noop, 3).result()

        def asking(call: pool_rivals.Call) -> Callable[[], None]:
            def ask() -> None:
                call(noop, 3)

            return ask

        for call in (ask_bare, ours, *(asking(call) for call in rivals.values())):
            call()  # so that all processes are there
        with pool_rivals.placed(where):
            race(
                f"one no-op task, submit to result, {setting}",
                {
                    "bare worker on a Pipe": ask_bare,
                    "sharedarray": ours,
                    **{name: asking(call) for name, call in rivals.items()},
                },
                baseline="bare worker on a Pipe",
                rounds=31,
                loops=20 if "joblib" in rivals else 200,
            )


def test_many_submitted(race: Callable[..., Any]) -> None:
    """Tasks submitted one by one, then all results: at most as long as round trips of a bare worker."""
    with (
        pool_rivals.bare_worker(noop) as bare,
        ProcessPoolExecutor(2, pool_rivals.CONTEXT) as executor,
        pool_rivals.CONTEXT.Pool(2) as theirs,
        sa.Pool(2) as pool,
    ):

        def ask_bare() -> None:
            for number in range(MANY):
                bare(number)

        def submitting(submit: Callable[..., Any], result: Callable[[Any], Any]) -> Callable[[], None]:
            def run() -> None:
                for future in [submit(noop, number) for number in range(MANY)]:
                    result(future)

            return run

        race(
            f"{MANY:,} no-op tasks submitted one by one, then all results; time of one",
            {
                "bare worker, round trips": ask_bare,
                "sharedarray": submitting(pool.submit, lambda future: future.result()),
                "ProcessPoolExecutor": submitting(executor.submit, lambda future: future.result()),
                "multiprocessing.Pool": submitting(
                    lambda function, number: theirs.apply_async(function, (number,)),
                    lambda pending: pending.get(),
                ),
            },
            baseline="bare worker, round trips",
            rounds=7,
            per=MANY,
        )


@pytest.mark.parametrize("count", MAPPED)
def test_map(race: Callable[..., Any], count: int) -> None:
    """`map` with default arguments: at most 1.5 us a task, or twice `multiprocessing.Pool.map`.

    That one cuts the tasks into 4 pieces for each worker, whatever they cost; a slow task then holds up all
    that come after it in its piece. The limit is a bare worker that gets them all in one message.
    """
    with (
        pool_rivals.bare_worker(noops) as bare,
        ProcessPoolExecutor(2, pool_rivals.CONTEXT) as executor,
        pool_rivals.CONTEXT.Pool(2) as theirs,
        sa.Pool(2) as pool,
    ):

        def ask_bare() -> None:
            bare(list(range(count)))

        def ours() -> None:
            list(pool.map(noop, range(count)))

        def multiprocessing_pool() -> None:
            theirs.map(noop, range(count))

        def in_pieces() -> None:
            list(executor.map(noop, range(count), chunksize=count // 8))

        def one_by_one() -> None:
            theirs.map(noop, range(count), 1)

        race(
            f"map of {count:,} no-op tasks; time of one",
            {
                "multiprocessing.Pool.map": multiprocessing_pool,
                "sharedarray": ours,
                "bare worker, one message": ask_bare,
                "ProcessPoolExecutor.map in 8 pieces": in_pieces,
                **({} if count > 10_000 else {"multiprocessing.Pool.map, chunksize=1": one_by_one}),
            },
            baseline="multiprocessing.Pool.map",
            rounds=9,
            per=count,
        )
