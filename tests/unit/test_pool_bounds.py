"""The caches of a pool are bounded, in its own process and in its workers."""

from __future__ import annotations

import gc
import marshal
import sys
import threading
import types
from types import SimpleNamespace

import numpy as np
import pool_sizes
import pool_tasks
import pytest
from helpers import ANSWER, wait_until

import sharedarray as sa
from sharedarray._functions import named
from sharedarray._pool import intake, stats
from sharedarray._pool.calls import Task
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.transport import page
from sharedarray._pool.worker.replies import Replies

LIMIT = ANSWER


@pytest.fixture
def few_are_remembered(monkeypatch):
    """Lower the bounds."""
    for name in ("_FUNCTIONS", "_CALLS", "_SPANS"):
        monkeypatch.setattr(stats, name, 20)
    monkeypatch.setattr(intake, "IMPORTED", 10)


def everything(pool, number):
    """Run one call of each kind."""
    array = sa.full(1000, number)
    large = np.full(30_000, number)
    assert pool.submit(pool_tasks.add, number).result(LIMIT) == number + 1
    assert pool.submit(lambda: number).result(LIMIT) == number
    assert pool.submit(lambda: large[0]).result(LIMIT) == number
    assert pool.submit(pool_tasks.total, array).result(LIMIT) == 1000 * number
    assert pool.submit(pool_tasks.total, large).result(LIMIT) == 30_000 * number
    assert pool.submit(pool_tasks.make_full, 30_000, number).result(LIMIT)[-1] == number
    assert pool.submit(pool_tasks.ones, 10).result(LIMIT)[-1] == 1
    assert isinstance(pool.submit(pool_tasks.fail_if_text, str(number)).exception(LIMIT), ValueError)
    assert list(pool.map(pool_tasks.identity, range(30))) == list(range(30))
    assert list(pool.map(pool_tasks.total, [large] * 3)) == [30_000 * number] * 3
    assert sorted(
        pool.imap_unordered(
            pool_tasks.identity,
            [number, "text"],
        ),
        key=str,
    ) == [number, "text"]
    for name in FUNCTIONS:
        assert pool.submit(getattr(np, name), 0.5).result(LIMIT) == getattr(np, name)(0.5)
    assert (pool.map_blocks(np.negative, large) == -large).all()
    patient = pool.options(timeout=LIMIT)
    assert patient.submit(pool_tasks.add, number).result(LIMIT) == number + 1
    pool.submit(pool_tasks.add, number).cancel()
    next(pool.map(pool_tasks.identity, range(30)))  # the rest is dropped


# Functions of a module, which workers know by their names.
FUNCTIONS = [
    "sin",
    "cos",
    "tan",
    "exp",
    "sqrt",
    "cbrt",
    "floor",
    "ceil",
    "square",
    "negative",
    "positive",
    "log",
]


def grown(before, after):
    return {name: (before[name], after[name]) for name in after if after[name] > before[name] + 6}


@pytest.mark.parametrize("rounds", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_grows(few_are_remembered, rounds):
    def here():
        gc.collect()
        assert pool.submit(pool_tasks.add, 1).result(LIMIT) == 2  # finalizers are heeded with the next call
        return pool_sizes.sizes(pool._core)

    def there():
        return pool.submit(pool_sizes.sizes_here).result(LIMIT)

    with sa.Pool(1) as pool:
        for number in range(8):  # until all bounds are reached
            everything(pool, number)
        before, worker_before = here(), there()
        assert before["Statistics._spans"] > 0
        assert worker_before["Loop._definitions"] > 0
        for number in range(rounds):
            everything(pool, number)
        wait_until(lambda: not grown(before, here()), f"nothing has grown: {grown(before, here())}")
        wait_until(lambda: not grown(worker_before, there()), f"nothing has: {grown(worker_before, there())}")


def test_functions_that_are_imported(few_are_remembered):
    with sa.Pool(1) as pool:
        core = pool._core
        for _ in range(3):
            for name in FUNCTIONS:
                assert pool.submit(getattr(np, name), 0.5).result(LIMIT) == getattr(np, name)(0.5)
                assert len(core.intake._imported) <= 10
        wait_until(lambda: len(core.handles[0].outgoing.functions) <= 11, "the worker is told to forget")


def test_calls_and_functions_that_are_counted(few_are_remembered):
    found = stats.Statistics()
    for number in range(100):
        known = found.function(abs, f"function {number}")
        task = Task(SimpleNamespace(), "a label", known)
        found.called(task, Pickled(b"abc"))
        found.called_many(number, "a label", Pickled(b"abc"), 7)
        found.finished(task, 1, "a worker", 1, "done")
    assert len(found._functions) == len(found._spans) == 20
    assert len(found._calls) <= 20


class Noted:
    """A channel that keeps what is written."""

    def __init__(self):
        self.written = []

    def write(self, frames):
        self.written.append(frames)


@pytest.mark.parametrize("size", [1, 100, 5000, page.SIZE - page.HEAD.size - 5, page.SIZE])
def test_outcomes_that_wait_to_be_sent(size, monkeypatch):
    """They are no more than the worker's page can hold; none is lost, and all are in order."""
    monkeypatch.setattr(Replies, "_wake", lambda self: None)  # no second thread
    channel = Noted()
    replies = Replies(channel, bytearray(page.SIZE))
    values = [b"%05d" % number + b"x" * max(0, size - 5) for number in range(40)]
    replies.begin(lazy=True, quick=True)
    replies._window = 1 << 60  # they wait for ever
    for value in values:
        replies.add(marshal.dumps(value, 2), 1, 2, last=False)
        held = sum(map(len, replies._held)) + sum(map(len, replies._frames))
        assert held <= page.SIZE + 64 * len(values)
        assert replies._end <= len(replies._space)
    replies.flush()
    assert not replies._held
    assert not replies._frames
    sent = b"".join(channel.written)
    places = [sent.index(value) for value in values]
    assert places == sorted(places)


def threads_of_pools():
    return [thread for thread in threading.enumerate() if thread.name == "sharedarray-pool"]


def test_threads_of_callbacks_that_take_long():
    before = len(threads_of_pools())
    with sa.Pool(1) as pool:
        gate = SimpleNamespace(done=0)

        def slow(future):
            pool_tasks.pause(0.02)
            gate.done += 1

        for number in range(12):
            pool.submit(pool_tasks.add, number).add_done_callback(slow)
            assert len(threads_of_pools()) <= before + 2
        wait_until(lambda: gate.done == 12, "all callbacks are called")
        assert len(threads_of_pools()) <= before + 2


def test_objects_without_weak_references_are_held_while_their_module_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(named.Pinned, "LIMIT", 10)
    module = types.ModuleType("module_of_pinned")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    pinned = named.Pinned()
    kept = [object() for _ in range(5)]
    first = [pinned.token_of(each, module.__name__, f"kept_{number}") for number, each in enumerate(kept)]
    module.__dict__.update((f"kept_{number}", each) for number, each in enumerate(kept))
    for number in range(1000):
        pinned.token_of(object(), module.__name__, f"gone_{number}")
    assert len(pinned) <= 20
    assert [pinned.token_of(each, "", "") for each in kept] == first
    assert [pinned.find(token) for token in first] == kept
