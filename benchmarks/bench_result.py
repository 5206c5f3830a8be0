"""What does it cost to get an array back from a task: in time, and in memory?

The limit is one copy into memory that is mapped and warm, and a bare process that tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import BUDGET, QUICK, Everyone, human, need

import sharedarray as sa
from sharedarray._bench import hosts, memory, tasks
from sharedarray._bench.contestant import Executor, Multiprocessing
from sharedarray._bench.contestants import CONTESTANTS as ALL
from sharedarray._bench.limits import bare_worker, warm_copy
from sharedarray._bench.race import FEWEST

SIZES = [1 << 10, 1 << 21] if QUICK else [1 << power for power in range(10, 31, 2)]  # bytes
STANDARD = [name for name, contestant in ALL.items() if contestant.needs in ("numpy", "sharedarray")]
CONTESTANTS = STANDARD if QUICK else list(ALL)
LARGE = 4 << 20 if QUICK else 64 << 20  # bytes of the array whose memory is looked at


@pytest.mark.parametrize("size", SIZES, ids=human)
def test_result(
    race: Callable[..., Any], everyone: Everyone, stored: Callable[[int], str], size: int
) -> None:
    """An array that the worker has had for long: at most 1.3 times a warm copy and a no-op at 64 MiB."""
    need(size, 7)
    path = stored(max(SIZES) if memory.available() > 8 * max(SIZES) else size)
    made = race(
        f"a plain result of {human(size)}",
        everyone.asked("result", path, size),
        baseline="limit",
        rounds=11,
        budget=BUDGET,
        fewest=FEWEST if size < 1 << 30 else 2,
        unit="us" if size < 1 << 20 else "ms",
        measured=True,
        missing=everyone.missing,
        group="result",
        size=size,
    )
    everyone.leave_out(made)


def test_result_made_for_it(race: Callable[..., Any]) -> None:
    """An array that the function makes each time, as most do; there, the making is part of the limit."""
    with (
        warm_copy(tasks.made(LARGE)) as copy,
        bare_worker(tasks.made_only) as bare,
        Executor() as executor,
        Multiprocessing() as theirs,
        sa.Pool(2) as pool,
    ):

        def limit() -> None:
            bare(LARGE)
            copy()

        def ours() -> None:
            pool.submit(tasks.made, LARGE).result()[0]

        for _ in range(6):
            for future in [pool.submit(tasks.made, LARGE) for _ in range(2)]:
                assert future.result()[-1] == 1
        race(
            f"a plain result of {human(LARGE)}, made for it",
            {
                "making + warm copy + bare no-op": limit,
                "sharedarray": ours,
                "ProcessPoolExecutor": lambda: executor._look(executor.call(tasks.made, LARGE)),
                "multiprocessing.Pool": lambda: theirs._look(theirs.call(tasks.made, LARGE)),
            },
            baseline="making + warm copy + bare no-op",
            rounds=15,
            unit="ms",
            group="result made for it",
            size=LARGE,
        )


@pytest.mark.skipif(memory.why_not() is not None, reason=str(memory.why_not()))
def test_memory_of_a_result(race: Callable[..., Any], stored: Callable[[int], str]) -> None:
    """Memory at its peak, of a result that lies in memory already on the worker's side.

    That of a program that has got small arrays only before, over some calls. What the caller gets is new, so
    one array is the least.
    """
    path = stored(LARGE)

    def measuring(name: str) -> Callable[[], float]:
        def measure() -> float:
            with hosts.Host(name) as host:
                for _ in range(2):
                    host.ask("result", path, 8000)
                return host.peak("result", path, LARGE)

        return measure

    peaks = {
        name: measuring(name)
        for name, contestant in ALL.items()
        if "result" in contestant.questions and name != "limit" and not (QUICK and contestant.kind != "ours")
    }
    race(
        f"peak memory of a plain result of {human(LARGE)}, all processes and memory files",
        {"the array": lambda: LARGE, **peaks},
        baseline="the array",
        rounds=3,
        unit="MiB",
        measured=True,
        group="memory of a result",
        size=LARGE,
    )
