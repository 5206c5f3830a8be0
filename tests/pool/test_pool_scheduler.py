"""Which worker gets which calls: the scheduler's policies, without processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sharedarray.pool import scheduler
from sharedarray.pool.stats import Statistics


@dataclass
class Durations:
    seconds: float | None = None
    count: int = 100
    result: int = 0


@dataclass
class Item:
    stats: Durations = field(default_factory=Durations)
    count: int = 1
    done: int = 0
    independent: bool = True
    limit: float | None = None
    slot: int | None = None
    step: int = 1
    is_small: bool = False
    is_copied: bool = True


@dataclass
class Worker:
    name: str
    load: int = 0
    turn: int = 0
    accepts: bool = True
    is_ending: bool = False
    given: int = 0
    since: float = 0.0
    first: Item = field(default_factory=Item)


@pytest.mark.parametrize("seconds", [0.0002, 0.001, 1.0])
def test_an_equal_load_goes_to_the_worker_that_got_its_last_item_first(seconds):
    """Whichever of them is the first in the pool: an item must not wait behind the one before it."""
    item = Item(Durations(seconds))
    one, two = Worker("one", load=1, turn=7), Worker("two", load=1, turn=6)
    assert scheduler.place([one, two], item)[0] is two
    assert scheduler.place([two, one], item)[0] is two


@pytest.mark.parametrize("accepts", [False, True])
def test_a_slow_item_is_sent_ahead_in_turn_only(accepts):
    """The other worker has more, as far as the pool knows; or it accepts nothing for a moment."""
    just_given = Worker("just given", load=1, turn=8)
    other = Worker("other", load=2, turn=7, accepts=accepts)
    assert scheduler.place([just_given, other], Item(Durations(0.002))) == (None, 0)
    assert scheduler.place([just_given, other], Item(Durations(0.0003))) == (just_given, 1)
    other.accepts, other.is_ending = False, True
    assert scheduler.place([just_given, other], Item(Durations(0.002))) == (just_given, 1)


def test_a_worker_without_calls_gets_an_item_out_of_turn():
    free = Worker("free", load=0, turn=8)
    assert scheduler.place([free, Worker("other", load=2, turn=7)], Item(Durations(0.002))) == (free, 1)


def test_functions_are_told_apart_by_label_and_code():
    statistics = Statistics()

    def made(number):
        return lambda: number

    def other():
        return lambda: None

    one = statistics.function(made(1), "made.<locals>.<lambda>")
    assert statistics.function(made(2), "made.<locals>.<lambda>") is one  # made again in a loop
    assert statistics.function(other(), "made.<locals>.<lambda>") is not one
    assert statistics.function(made(1), "decorated") is not one
    assert statistics.function(abs, "abs") is statistics.function(abs, "abs")
    for number in range(2000):
        statistics.function(abs, str(number))
    assert len(statistics._functions) <= 512


def test_what_needs_a_worker_or_a_moment_of_its_own_is_not_given_with_others() -> None:
    """Its function may have to be copied first, though another one of this name has not."""
    stats = Durations(0.00001)
    task = Item(stats, is_small=True)
    assert scheduler.is_like(Item(stats, is_small=True), task)
    assert not scheduler.is_like(Item(stats, is_small=True, is_copied=False), task)
    assert not scheduler.is_like(Item(stats, is_small=True, limit=1.0), task)
    assert not scheduler.is_like(Item(stats, is_small=True, count=2), task)
    assert not scheduler.is_like(Item(Durations(0.00001), is_small=True), task)
