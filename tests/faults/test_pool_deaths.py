"""A worker's death at each step of its life and of a call's: each ends as the table of states tells.

A call that no worker has begun goes to another one. One that was begun fails, or is run again if it has
retries. One whose outcome is there, sent or in the worker's page, is done, and is not run again.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import wait

import pool_deaths
import pool_tasks
import pytest
from helpers import ANSWER, PROC, alive, kill, wait_until
from needs import needs_signals

import sharedarray as sa
from sharedarray._pool import inbox, scheduler, states, supervisor
from sharedarray._pool.incoming import Incoming
from sharedarray._pool.transport.messages import HOLDS

LIMIT = ANSWER  # seconds within which each wait here is over, on a machine that is busy


@pytest.fixture
def noted(tmp_path):
    """Provide where calls are noted; returns how often each was run."""

    class Noted:
        path = str(tmp_path / "noted")

        def __call__(self):
            if not os.path.exists(self.path):
                return {}
            with open(self.path) as file:
                numbers = [int(line) for line in file]
            return {number: numbers.count(number) for number in numbers}

    return Noted()


@pytest.fixture
def ahead(monkeypatch):
    """Give workers calls ahead, however long these take, and at once."""
    monkeypatch.setattr(scheduler, "QUICK", 0.0)
    monkeypatch.setattr(scheduler, "SHORT", 100.0)
    monkeypatch.setattr(scheduler, "AHEAD", 1000.0)
    monkeypatch.setattr(scheduler, "TRUSTED", 1)


def died(pool, count=1):
    wait_until(lambda: pool.stats().died == count, "the death is noticed")


# Step: how often the call is run, and whether it is done without retries.
NOT_BEGUN = 1, True
STEPS = {
    "the function arrives": NOT_BEGUN,
    "it was read": NOT_BEGUN,
    "it was begun": (0, False),
    "it was run": (1, False),
    "half of its outcome was sent": (1, False),
    "it was answered": (1, True),
}


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_a_call_whose_worker_dies(step, retries, first_method, noted):
    size = 1 << 20 if step == "half of its outcome was sent" else 0
    runs, is_done = STEPS[step]
    with sa.Pool(1, first_method, retries=retries) as pool:
        victim = pool.submit(pool_deaths.trap, step).result(LIMIT)
        future = pool.submit(pool_deaths.note, noted.path, 7, size)
        if is_done or retries:
            assert future.result(LIMIT) == (b"x" * size if size else 7)
        else:
            with pytest.raises(sa.WorkerDied, match=f"note died.*process {victim}"):
                future.result(LIMIT)
        died(pool)
        assert pool.submit(os.getpid).result(LIMIT) != victim
        assert pool.stats().retried == (retries and not is_done)
        assert pool.stats().failed == (not is_done and not retries)
    assert noted().get(7, 0) == runs + (retries and not is_done)


@needs_signals
def test_a_call_that_its_worker_has_not_read(first_method, noted):
    with sa.Pool(1, first_method) as pool:
        victim = pool.submit(os.getpid).result(LIMIT)
        os.kill(victim, signal.SIGSTOP)
        future = pool.submit(pool_deaths.note, noted.path, 7)
        assert pool._core.handles[0].state == states.BUSY
        kill(victim)
        assert future.result(LIMIT) == 7
        assert pool.stats().retried == 0
    assert noted() == {7: 1}


@pytest.mark.skipif(not PROC, reason="workers have no page here")
def test_outcomes_that_wait_to_be_sent_count(first_method, noted, ahead):
    """The first item of each message is answered at once, so with it in the page, the worker dies."""
    with sa.Pool(1, first_method) as pool:
        assert list(pool.map(pool_deaths.note, [noted.path] * 3, range(100, 103))) == [100, 101, 102]
        pool.submit(pool_deaths.trap, "its outcome waits to be sent").result(LIMIT)
        assert list(pool.map(pool_deaths.note, [noted.path] * 50, range(50))) == list(range(50))
        died(pool)
    assert noted() == dict.fromkeys([*range(50), 100, 101, 102], 1)


@pytest.mark.parametrize("deadly", [0, 1, 7, 98, 99])
@pytest.mark.parametrize("retries", [0, 1])
def test_an_item_that_ends_its_worker_takes_no_other_along(
    deadly, retries, first_method, noted, tmp_path, ahead
):
    with sa.Pool(1, first_method, retries=retries) as pool:
        assert list(pool.map(pool_deaths.note_and_die, [noted.path] * 9, range(200, 209), [0] * 9))
        arguments = [noted.path] * 100, range(100), [deadly] * 100, [tmp_path / "marker"] * 100
        futures = [pool.submit(pool_deaths.note_and_die, *each) for each in zip(*arguments, strict=True)]
        assert not wait(futures, LIMIT).not_done
        for number, future in enumerate(futures):
            if number == deadly and not retries:
                assert isinstance(future.exception(), sa.WorkerDied)
            else:
                assert future.result() == (number if number != deadly else deadly)
    found = {number: count for number, count in noted().items() if number < 200}
    assert found == {number: 1 + (retries and number == deadly) for number in range(100)}


def busy_and_revoked(pool, noted, tmp_path):
    """Occupy the only worker with a call, queue others behind it, and revoke the last of them."""
    pool.submit(pool_deaths.note, noted.path, 100).result(LIMIT)
    started, release = tmp_path / "started", tmp_path / "release"
    first = pool.submit(pool_tasks.signal_and_wait_for, started, release)
    wait_until(lambda: started.exists() and started.read_text(), "the first call runs")
    behind = [pool.submit(pool_deaths.note, noted.path, number) for number in range(5)]
    worker = pool._core.handles[0]
    assert worker.load == 6
    assert behind[-1].cancel()
    assert (worker.state, worker.revoked, worker.load) == (states.REVOKING, 1, 5)
    return worker, first, behind, release


def test_a_worker_from_which_calls_were_revoked(first_method, noted, tmp_path, ahead):
    with sa.Pool(1, first_method) as pool:
        worker, first, behind, _ = busy_and_revoked(pool, noted, tmp_path)
        kill(worker.pid)
        with pytest.raises(sa.WorkerDied, match="signal_and_wait_for died"):
            first.result(LIMIT)
        assert [future.result(LIMIT) for future in behind[:-1]] == [0, 1, 2, 3]
        assert behind[-1].cancelled()
    assert noted() == {100: 1, 0: 1, 1: 1, 2: 1, 3: 1}


def test_a_worker_that_comes_to_revoked_calls(first_method, noted, tmp_path, ahead):
    with sa.Pool(1, first_method) as pool:
        pool.submit(pool_deaths.trap, "calls were revoked").result(LIMIT)
        _, first, behind, release = busy_and_revoked(pool, noted, tmp_path)
        release.touch()
        assert first.result(LIMIT) == "released"
        assert [future.result(LIMIT) for future in behind[:-1]] == [0, 1, 2, 3]
        died(pool)
        assert pool.submit(pool_deaths.note, noted.path, 5).result(LIMIT) == 5
        assert pool.stats().retried == 0
    assert noted() == {100: 1, 0: 1, 1: 1, 2: 1, 3: 1, 5: 1}


def test_a_worker_that_has_closed_its_pipe_is_killed(first_method, noted, tmp_path, ahead, monkeypatch):
    """Its process may not end, or the kernel takes long to free its memory."""
    with sa.Pool(1, first_method) as pool:
        worker, first, behind, _ = busy_and_revoked(pool, noted, tmp_path)
        monkeypatch.setattr(inbox, "PATIENCE", 0.05)
        pool._core.inbox._on_end_of_file(worker)
        assert worker.state == states.HUNG_UP
        with pytest.raises(sa.WorkerDied, match="signal_and_wait_for died"):
            first.result(LIMIT)
        assert worker.state == states.DEAD
        assert [future.result(LIMIT) for future in behind[:-1]] == [0, 1, 2, 3]
        assert behind[-1].cancelled()
    assert noted() == {100: 1, 0: 1, 1: 1, 2: 1, 3: 1}


def test_a_worker_that_is_stopped(first_method):
    with sa.Pool(1, first_method) as pool:
        pool.submit(pool_deaths.trap, "it is stopped").result(LIMIT)
        worker = pool._core.handles[0]
    assert worker.state == states.DEAD
    assert worker.is_stopped
    assert pool.stats().died == 0


def test_a_worker_that_is_stopped_before_it_is_ready(first_method, tmp_path):
    setup = pool_tasks.signal_and_wait_for, (tmp_path / "started", tmp_path / "never")
    with sa.Pool(1, first_method, *setup) as pool:
        future = pool.submit(pool_tasks.add, 1)
        wait_until((tmp_path / "started").exists, "the initializer runs")
        assert future.cancel()
        pool.shutdown(wait=False)
        worker = pool._core.handles[0]
        wait_until(lambda: worker.state == states.STOPPING, "it is stopped")
        kill(worker.pid)
    assert worker.state == states.DEAD
    assert pool.stats().died == 0


@pytest.mark.parametrize("retries", [0, 1])
def test_a_result_that_dies_with_its_worker(retries, first_method, noted, monkeypatch):
    """A block that a result refers to is gone if its worker died before the pool attached it."""
    plain, victims = Incoming.load, []

    def load(incoming, worker, frame):
        if worker.pid in victims and frame.flags & HOLDS:
            wait_until(lambda: not alive(worker.pid), "the worker ends")
            wait_until(lambda: not sa.exists("made-as-7"), "its block is freed")
        return plain(incoming, worker, frame)

    with sa.Pool(1, first_method, retries=retries) as pool:
        victims.append(pool.submit(pool_deaths.trap, "its outcome was sent").result(LIMIT))
        monkeypatch.setattr(Incoming, "load", load)
        future = pool.submit(pool_deaths.make_noted, noted.path, 7)
        if retries:
            assert future.result(LIMIT).tolist() == [7, 7, 7]
        else:
            with pytest.raises(sa.WorkerDied, match="make_noted died"):
                future.result(LIMIT)
        assert pool.submit(pool_tasks.add, 1).result(LIMIT) == 2
    assert noted() == {7: 1 + retries}


def test_a_result_that_the_pools_process_has_attached_outlives_its_worker(first_method, noted):
    with sa.Pool(1, first_method) as pool:
        pool.submit(pool_deaths.trap, "its outcome was confirmed").result(LIMIT)
        found = pool.submit(pool_deaths.make_noted, noted.path, 7).result(LIMIT)
        died(pool)
        assert found.tolist() == [7, 7, 7]
        found[0] = 8
        assert pool.submit(pool_tasks.total, found).result(LIMIT) == 22
    assert noted() == {7: 1}


def test_a_call_is_not_handed_from_one_dead_worker_to_the_next_for_ever(first_method, noted, monkeypatch):
    monkeypatch.setattr(supervisor, "HANDOVERS", 2)
    with sa.Pool(1, first_method, pool_deaths.trap_all, ("it was read",)) as pool:
        with pytest.raises(sa.WorkerDied, match="note died"):
            pool.submit(pool_deaths.note, noted.path, 7).result(LIMIT)
        assert pool.stats().died == 3
    assert noted() == {}


def test_a_descriptor_that_was_another_workers_ends_no_worker(pool):
    """The reading thread may have learnt of both in one round, and the number may be in use again by then."""
    worker = pool._core.handles[0]
    pool._core.supervisor.on_exit(worker)
    assert worker.state in (states.IDLE, states.BUSY)
    assert worker in pool._core.handles
