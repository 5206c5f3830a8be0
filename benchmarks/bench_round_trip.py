"""What does a task cost that does nothing, from submitting it to its result?

The limit is a bare worker: a process that reads an argument from one `multiprocessing.Pipe`, calls a
function, and writes the result. It knows of no futures, exceptions, deaths or queues.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from conftest import BUDGET, QUICK, Everyone

from sharedarray._bench.contestants import CONTESTANTS as ALL
from sharedarray._bench.limits import placed

STANDARD = ("limit", "sharedarray", "ProcessPoolExecutor", "multiprocessing.Pool")
# The processors of callers and workers, and the contestants.
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "alone": ("", ("limit", "sharedarray")),
    "on two processors": ("two", STANDARD),
    "on one processor": ("one", STANDARD),
    "beside the standard library": ("", STANDARD),
}
CONTESTANTS = list(STANDARD) if QUICK else [name for name in ALL if "noop" in ALL[name].questions]


@pytest.mark.parametrize("setting", SETTINGS)
def test_round_trip(race: Callable[..., Any], setting: str) -> None:
    """At most 1.5 times the bare worker's time; the aim is 1.

    Where the kernel lets the two processes of the bare worker run makes a difference of four: on one
    processor, which is then simply handed over, or on two, where a sleeping one has to be woken for each
    message. It changes its mind from time to time, so there are races with the processes held in place, too.
    Processes and threads that rivals keep disturb so short a thing, so there is a race without any. A round
    is long enough for the kernel to move two who work hand in hand to processors of their own, which takes it
    some 20 ms after a rest; until then they do as on one processor.
    """
    where, names = SETTINGS[setting]
    with contextlib.ExitStack() as stack:
        there = {name: stack.enter_context(ALL[name]()) for name in names}
        asks = {name: stack.enter_context(contestant.noop()) for name, contestant in there.items()}
        with placed(where):
            race(
                f"one no-op task, {setting}",
                asks,
                baseline="limit",
                rounds=15,
                loops=2000,
                group=f"round trip, {setting}",
            )


def test_round_trip_in_programs_of_their_own(race: Callable[..., Any], everyone: Everyone) -> None:
    """All contestants, each in an interpreter of its own, placed as the kernel likes."""
    race(
        "one no-op task, each in a program of its own",
        everyone.asked("noop", seconds=0.1),
        baseline="limit",
        rounds=15,
        budget=BUDGET,
        measured=True,
        missing=everyone.missing,
        group="round trip",
    )
