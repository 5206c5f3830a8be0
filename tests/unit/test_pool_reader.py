"""The role of reading: which thread has it, and what that costs. Pollers only note what is asked of them."""

from __future__ import annotations

import threading

import pytest
from helpers import wait_until

import sharedarray as sa
from sharedarray._pool import reader as readers, states
from sharedarray._pool.reader import LEASE, Reader
from sharedarray._pool.states import CLOSED, HELD, LEASED, WATCHED, ForbiddenChangeError

PIPES = 7  # the descriptor of the poller of the pipes


class Outer:
    """A poller of the pool's thread that records whether the pipes are registered."""

    def __init__(self):
        self.changes = []

    def modify(self, descriptor, *, read, write):
        assert descriptor == PIPES
        assert not write
        self.changes.append(read)

    @property
    def watches(self):
        return self.changes[-1] if self.changes else True


class Pipes:
    def fileno(self):
        return PIPES


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(readers, "time", clock)
    return clock


@pytest.fixture
def outer(clock):
    return Outer()


@pytest.fixture
def reader(outer):
    return Reader(outer, Pipes())


def test_at_first_the_pools_thread_watches_the_pipes(reader, outer):
    assert reader.state == WATCHED
    assert not reader.owner
    assert reader.check() is None
    assert outer.changes == []


def test_one_thread_has_the_role(reader, outer):
    assert reader.take(threading.get_ident())
    assert (reader.state, reader.owner) == (HELD, threading.get_ident())
    assert not outer.watches
    assert not reader.take(threading.get_ident())
    found = []
    thread = threading.Thread(target=lambda: found.append(reader.take(threading.get_ident())))
    thread.start()
    thread.join()
    assert found == [False]
    assert reader.owner == threading.get_ident()
    reader.release()
    assert (reader.state, reader.owner) == (LEASED, 0)


def test_a_round_trip_right_after_another_one_makes_no_system_call(reader, outer, clock):
    reader.take(threading.get_ident())
    assert reader.release()  # the pool's thread begins to check the lease
    before = list(outer.changes)
    for _ in range(1000):
        clock.now += LEASE / 100
        assert reader.take(threading.get_ident())
        assert not reader.release()  # it checks already
        reader.check()
    assert outer.changes == before == [False]


def test_a_lease_that_is_not_used_ends(reader, outer, clock):
    reader.take(threading.get_ident())
    assert reader.release()
    assert reader.check() == pytest.approx(LEASE)
    clock.now += LEASE  # the thread came within this time
    assert reader.check() == pytest.approx(LEASE)
    assert reader.state == LEASED
    clock.now += LEASE / 2
    assert reader.check() == pytest.approx(LEASE / 2)
    assert reader.state == LEASED
    clock.now += LEASE / 2
    assert reader.check() is None  # nothing to check any more
    assert reader.state == WATCHED
    assert outer.watches
    assert reader.take(threading.get_ident())
    assert reader.release()  # so the checks begin again


def test_a_lease_that_is_used_goes_on(reader, outer, clock):
    reader.take(threading.get_ident())
    reader.release()
    for _ in range(20):
        clock.now += LEASE
        reader.check()
        assert reader.state == LEASED
        reader.take(threading.get_ident())
        reader.release()
    assert outer.changes == [False]


def test_a_thread_that_reads_for_long_keeps_the_role(reader, outer, clock):
    reader.take(threading.get_ident())
    reader.release()
    reader.take(threading.get_ident())
    for _ in range(5):
        clock.now += LEASE
        reader.check()
    assert reader.state == HELD
    assert reader.owner
    assert not outer.watches
    assert reader.release()  # the checks had ended
    assert reader.state == LEASED


def test_replies_that_no_thread_may_wait_for_end_the_lease_at_once(reader, outer):
    reader.watch()
    assert outer.changes == []  # they are watched already
    reader.take(threading.get_ident())
    reader.watch()
    assert reader.state == HELD  # the thread that reads will read these too
    assert not outer.watches
    reader.release()
    reader.watch()
    assert reader.state == WATCHED
    assert outer.watches
    reader.watch()
    assert outer.changes == [False, True]


def test_a_lease_that_is_not_wanted_ends_at_the_next_check(reader, outer):
    reader.take(threading.get_ident())
    reader.release()
    reader.is_wanted = True
    reader.check()
    assert (reader.state, reader.is_wanted) == (WATCHED, False)
    assert outer.watches


@pytest.mark.parametrize("before", ["watched", "held", "leased"])
def test_after_its_end_no_thread_reads(reader, outer, clock, before):
    if before != "watched":
        reader.take(threading.get_ident())
    if before == "leased":
        reader.release()
    reader.close()
    reader.close()
    changes = list(outer.changes)
    assert reader.state == CLOSED
    assert not reader.take(threading.get_ident())
    assert not reader.release()
    reader.watch()
    clock.now += 3 * LEASE
    reader.check()
    clock.now += 3 * LEASE
    reader.check()
    assert reader.state == CLOSED
    assert outer.changes == changes  # its descriptors may be closed by now


def test_only_a_thread_that_has_the_role_gives_it_up(reader, internal_errors):
    with pytest.raises(ForbiddenChangeError):
        reader.release()
    assert len(internal_errors) == 1
    internal_errors.clear()
    assert reader.state in states.READER["take"]


def test_a_real_pool_makes_no_such_call_in_round_trips(pool, monkeypatch):
    """The lease holds as long as calls come in time; on a machine that is busy it may end once or twice."""
    receiver, changes = pool._core.receiver, []
    for number in range(20):
        assert pool.submit(abs, -number).result(60) == number
    plain = receiver.outer.modify
    monkeypatch.setattr(receiver.reader, "_outer", Noting(receiver.outer, plain, changes))
    for number in range(300):
        assert pool.submit(abs, -number).result(60) == number
    assert len(changes) < 30


class Noting:
    def __init__(self, outer, plain, changes):
        self.outer, self.plain, self.changes = outer, plain, changes

    def modify(self, descriptor, **watched):
        self.changes.append(watched)
        self.plain(descriptor, **watched)


def test_a_pool_that_is_not_used_is_watched_again(monkeypatch):
    monkeypatch.setattr(readers, "LEASE", 0.01)
    with sa.Pool(1) as pool:
        for number in range(20):
            assert pool.submit(abs, -number).result(60) == number
        reader = pool._core.receiver.reader
        wait_until(lambda: reader.state == WATCHED, "the lease ends")
