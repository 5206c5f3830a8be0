"""`Results`: outcomes in order from workers that take turns, and waiting for them."""

from __future__ import annotations

import random
import threading

import pytest
from helpers import ANSWER

from sharedarray._pool.sinks import Results


class Helper:
    """An core that has nothing to read."""

    def read_until(self, done, deadline):
        pass


def pieces_of(chance, count):
    """Cut items into runs, each run into hands for 1 to 4 workers, and these into messages, in any order."""
    pieces, at = [], 0
    while at < count:
        items = list(range(at, min(count, at + chance.randint(1, 20))))
        at += len(items)
        step = chance.randint(1, 4)
        for hand in range(min(step, len(items))):
            mine = items[hand::step]
            while mine:
                some = chance.randint(1, len(mine))
                pieces.append((mine[:some], step))
                mine = mine[some:]
    chance.shuffle(pieces)
    return pieces


@pytest.mark.parametrize("missing", [0, 1])
def test_outcomes_of_workers_that_take_turns_come_in_order(missing):
    for seed in range(200):
        chance = random.Random(seed)
        results = Results(Helper(), chance.randint(missing, 60))
        first = pieces_of(chance, results.count)
        late = [first.pop() for _ in range(missing)]
        for items, step in first:
            results.put(items[0], list(items), step)
        taken = results.in_order()
        if late:
            ((items, step),) = late
            assert [next(taken) for _ in range(items[0])] == list(range(items[0]))
            results.put(items[0], list(items), step)
            assert list(taken) == list(range(items[0], results.count))
        else:
            assert list(taken) == list(range(results.count))
        assert not results._runs


def test_abandoned_outcomes_of_workers_that_take_turns_are_dropped():
    results = Results(Helper(), 4)
    results.put(1, [1, 3], 2)
    results.put(0, [0], 2)
    results.end()
    results.put(2, [2], 2)
    assert not results._runs
    results.wait_for_all(0.0)


def test_items_are_skipped_while_a_signal_handler_interrupts_the_wait():
    """The thread that skips them holds a lock for which the handler may wait."""
    results = Results(Helper(), 1)
    skipped = threading.Event()
    calls = []

    def skip():
        results.skip(1)
        skipped.set()

    def there():  # called within the wait, as a handler is
        calls.append(None)
        if len(calls) == 2:
            threading.Thread(target=skip, daemon=True).start()
            assert skipped.wait(ANSWER)
        return skipped.is_set()

    results._wait(there, None)
    assert len(calls) >= 2


@pytest.mark.parametrize("deadline", [None, float("inf")])
def test_a_thread_that_waits_is_woken(deadline):
    results = Results(Helper(), 2)
    threads = [threading.Thread(target=results.wait_for_all, args=(deadline,), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    results.skip(1)
    results.put(1, [None])
    for thread in threads:
        thread.join(ANSWER)
        assert not thread.is_alive()
    assert not results._waiting


def test_the_wait_ends_when_time_is_up():
    results = Results(Helper(), 1)
    with pytest.raises(TimeoutError):
        results.wait_for_all(0.0)
    assert not results._waiting
