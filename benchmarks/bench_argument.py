"""What does it cost to hand an array to a task: in time, and in memory?

The limit is one copy into memory that is mapped and warm, and a bare process that is told of it. An array
that is shared already is not copied at all, so there the limit is the task alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import BUDGET, QUICK, Everyone, human, need

import sharedarray as sa
from sharedarray._bench import hosts, memory, tasks
from sharedarray._bench.contestants import CONTESTANTS as ALL
from sharedarray._bench.limits import bare_worker, placed
from sharedarray._bench.race import FEWEST

SIZES = [1 << 10, 1 << 21] if QUICK else [1 << power for power in range(10, 31, 2)]  # bytes
CONTESTANTS = list(ALL)  # in QUICK as well, so that none of them rots
LARGE = 4 << 20 if QUICK else 64 << 20  # bytes of the array whose memory is looked at
SHARED = [1 << 20] if QUICK else [1 << 20, 64 << 20, 1 << 30, 4 << 30]


@pytest.mark.parametrize("size", SIZES, ids=human)
def test_argument(race: Callable[..., Any], everyone: Everyone, size: int) -> None:
    """A plain array: at most 1.3 times a warm copy and a no-op task at 64 MiB."""
    need(size, 6)
    made = race(
        f"a plain argument of {human(size)}",
        everyone.asked("argument", size),
        baseline="limit",
        rounds=11,
        budget=BUDGET,
        fewest=FEWEST if size < 1 << 30 else 2,
        unit="us" if size < 1 << 20 else "ms",
        measured=True,
        missing=everyone.missing,
        group="argument",
        size=size,
    )
    everyone.leave_out(made)


@pytest.mark.skipif(memory.why_not() is not None, reason=str(memory.why_not()))
def test_memory_of_an_argument(race: Callable[..., Any]) -> None:
    """Memory at its peak besides the array itself: at most 1.1 times its size.

    That of a program that has handed over small arrays only before, over some calls, so what is kept for the
    next one counts as well.
    """
    peaks: dict[str, Callable[[], float]] = {}
    missing: dict[str, str] = {}

    def measuring(name: str) -> Callable[[], float]:
        def measure() -> float:
            with hosts.Host(name) as host:
                host.ask("argument", 8000)
                host.ask("have", LARGE)
                return host.peak("argument", LARGE)

        return measure

    for name, contestant in ALL.items():
        if (
            "argument" in contestant.questions
            and name != "limit"
            and not (QUICK and contestant.kind != "ours")
        ):
            peaks[name] = measuring(name)
    race(
        f"peak memory of a plain argument of {human(LARGE)}, all processes and memory files",
        {"the array": lambda: LARGE, **peaks},
        baseline="the array",
        rounds=3,
        unit="MiB",
        measured=True,
        missing=missing,
        group="memory of an argument",
        size=LARGE,
    )


@pytest.mark.parametrize("size", SHARED, ids=human)
def test_shared_argument(race: Callable[..., Any], size: int) -> None:
    """A `SharedArray`, from the second time on: a no-op task, whatever its size.

    The no-op is that of the bare worker, on another processor than the caller (see `bench_round_trip`).
    """
    need(size, 1.5)
    with bare_worker(tasks.noop) as bare, sa.Pool(2) as pool, sa.empty(size // 8) as array:

        def ask_bare() -> None:
            bare(3)

        def plain() -> None:
            pool.submit(tasks.noop, 3).result()

        def ours() -> None:
            pool.submit(tasks.first, array).result()

        array[0] = 1
        for future in [pool.submit(tasks.first, array) for _ in range(6)]:
            assert future.result() == 1
        ask_bare()
        with placed("two"):
            race(
                f"a SharedArray of {human(size)} as an argument, on two processors",
                {"bare no-op": ask_bare, "sharedarray": ours, "no-op in this pool": plain},
                baseline="bare no-op",
                rounds=31,
                loops=50,
                group="shared argument",
                size=size,
            )
