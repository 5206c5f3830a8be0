"""A pool beside a simple model of it: whatever is asked of it, in whatever order, each call ends as allowed.

The model knows of each call which outcomes are possible by now, and how often it may have been run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pool_deaths
import pytest
from helpers import kill
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import sharedarray as sa
from sharedarray._pool import processes

LIMIT = 120.0  # seconds within which every call is over, on a machine that is busy

DONE, RAISED, DIED, CANCELLED, LATE = "done", "raised", "died", "cancelled", "late"


@dataclass(eq=False)
class Call:
    """The model's state of a call."""

    number: int
    future: Future
    expected: object  # the value, or the class of the exception
    retries: int
    outcomes: set[str] = field(default_factory=set)
    may_have_died: bool = False

    def check(self, runs: int) -> None:
        found = self.outcome()
        assert found in self.outcomes, (self.number, found, self.outcomes)
        assert runs <= 1 + self.retries * self.may_have_died, (self.number, runs)
        if found in (DONE, RAISED):
            assert runs >= 1
        if found == DONE:
            np.testing.assert_array_equal(self.future.result(), self.expected)

    def outcome(self) -> str:
        assert self.future.done()
        if self.future.cancelled():
            return CANCELLED
        error = self.future.exception()
        if error is None:
            return DONE
        if isinstance(error, sa.WorkerDied):
            return DIED
        if isinstance(error, TimeoutError):
            return LATE
        assert isinstance(error, self.expected), error
        return RAISED


@dataclass(eq=False)
class Map:
    """The model's state of a map."""

    numbers: list[int]
    results: Iterator[int]
    found: list[int] = field(default_factory=list)
    is_over: bool = False  # all results were taken, or it has raised an exception


def run(path, number, kind, value):
    """Note that this was called, and then do something of some kind."""
    pool_deaths.note(path, number)
    if kind == "raise":
        raise KeyError(number)
    if kind == "die":
        pool_deaths.die()
    if kind == "wait":
        while not os.path.exists(f"{path}.release"):
            pool_deaths.pool_tasks.time.sleep(0.001)
    return value


class PoolMachine(RuleBasedStateMachine):
    method = processes.default_method()

    @initialize(workers=st.integers(1, 3), retries=st.integers(0, 2), local=st.booleans())
    def start(self, workers, retries, local):
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "noted")
        self.calls: list[Call] = []
        # Also those that are over: what is drawn must not depend on how fast the pool is.
        self.maps: list[Map] = []
        self.items: list[int] = []
        self.numbers = 0
        self.is_shut = False
        self.pool = sa.Pool(workers, self.method, retries=retries)
        self.pool.submit(os.getpid).result(LIMIT)  # three early deaths would end it
        self.retries = retries
        self.release = Path(f"{self.path}.release")
        # A function that is imported, or one that is sent.
        self.function = (lambda *given: run(*given)) if local else run  # noqa: PLW0108

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    @precondition(lambda self: not self.is_shut)
    @rule(
        kind=st.sampled_from(["return", "return", "return", "raise", "die", "wait"]),
        size=st.sampled_from([0, 0, 10, 20_000, 200_000]),
        shared=st.booleans(),
        count=st.integers(1, 6),
        timeout=st.booleans(),
    )
    def submit(self, kind, size, shared, count, timeout):
        pool = self.pool.options(timeout=LIMIT) if timeout else self.pool
        for _ in range(1 if kind == "die" else count):  # each death takes as long as a start
            number = self.next_number()
            value: object = number
            if size:
                value = sa.full(size, number) if shared else np.full(size, number)
            future = pool.submit(self.function, self.path, number, kind, value)
            call = Call(number, future, KeyError if kind == "raise" else value, self.retries)
            call.outcomes.add({"raise": RAISED, "die": DIED}.get(kind, DONE))
            call.may_have_died = kind == "die"
            self.calls.append(call)

    @precondition(lambda self: not self.is_shut)
    @rule(count=st.integers(0, 60))
    def map(self, count):
        numbers = [self.next_number() for _ in range(count)]
        results = self.pool.map(self.function, [self.path] * count, numbers, ["return"] * count, numbers)
        self.maps.append(Map(numbers, results))
        self.items += numbers

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), count=st.integers(1, 30))
    def take(self, data, count):
        """Take some results of a map."""
        self.go_on()
        self.take_from(data.draw(st.sampled_from(self.maps)), count)

    def take_from(self, some_map, count):
        for _ in range(0 if some_map.is_over else count):
            try:
                some_map.found.append(next(some_map.results))
            except StopIteration:
                assert len(some_map.found) == len(some_map.numbers)
                some_map.is_over = True
                break
            except (sa.WorkerDied, CancelledError):
                assert self.may_fail
                some_map.is_over = True
                break
        assert some_map.found == some_map.numbers[: len(some_map.found)]

    may_fail = False

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), running=st.booleans())
    def cancel(self, data, running):
        call = data.draw(st.sampled_from(self.calls))
        if call.future.cancel(running=running):
            assert call.future.cancelled()
            call.outcomes = {CANCELLED}

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def result(self, data):
        call = data.draw(st.sampled_from(self.calls))
        self.go_on()
        with suppress(Exception, CancelledError):
            call.future.result(LIMIT)
        call.check(self.runs().get(call.number, 0))

    @rule(which=st.integers(0, 5))
    def kill_a_worker(self, which):
        pids = self.pool.stats().pids
        if pids:
            self.may_fail = True
            for call in self.calls:
                if not call.future.done():
                    call.may_have_died = True
                    if call.outcomes != {CANCELLED}:
                        call.outcomes.add(DIED)
            with suppress(ProcessLookupError):
                kill(pids[which % len(pids)])

    @rule()
    def look(self):
        stats = self.pool.stats()
        assert stats.busy <= stats.workers  # a worker that was killed may be among them, with its successor

    @rule(cancel=st.booleans())
    def shut_down(self, cancel):
        if cancel:
            self.may_fail = True
            for call in self.calls:
                if not call.future.done():
                    call.outcomes.add(CANCELLED)
        self.pool.shutdown(wait=False, cancel_futures=cancel)
        if not self.is_shut:
            with pytest.raises(RuntimeError, match="after shutdown"):
                self.pool.submit(run, self.path, 0, "return", 0)
        self.is_shut = True

    def go_on(self):
        """End what waits."""
        self.release.touch()

    def runs(self) -> dict[int, int]:
        if not os.path.exists(self.path):
            return {}
        with open(self.path) as file:
            numbers = [int(line) for line in file]
        return {number: numbers.count(number) for number in numbers}

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        try:
            self.go_on()
            not_done = wait([call.future for call in self.calls], LIMIT).not_done
            assert not not_done, f"{len(not_done)} calls never end"
            for some_map in self.maps:
                self.take_from(some_map, len(some_map.numbers) + 1)
            assert all(some_map.is_over for some_map in self.maps)
            self.pool.shutdown()
            runs = self.runs()
            for call in self.calls:
                call.check(runs.get(call.number, 0))
            assert all(runs.get(number, 0) <= 1 + self.retries * self.may_fail for number in self.items)
            assert not self.pool._core.handles
        finally:
            self.pool.kill_workers()
            del self.calls, self.maps
            self.directory.cleanup()


@pytest.mark.parametrize(
    "examples", [4, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_each_call_ends_as_the_model_allows(examples):
    is_quick = examples < 10
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12 if is_quick else 30,
            derandomize=is_quick,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
