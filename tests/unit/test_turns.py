"""Readers and writers take turns: readers that come after a writer that waits let it go first."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ANSWER, KILLED, kill, wait_until
from lock_helpers import die_holding, end, not_busy, start, told
from needs import many_starts, needs_fork, needs_signals

import sharedarray as sa
from sharedarray import (
    _intent_table as intent_table,
    _intents as intents,
    _lock_holds as lock_holds,
    _locks as locks,
    _registry as registry,
)
from sharedarray._intents import Table

LONG = 10**12  # nanoseconds for which a writer is let go first, so that no stall of the machine ends that
Make = Callable[..., sa.Lock]


@pytest.fixture(autouse=True)
def writers_go_first_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intent_table, "_PRIORITY", LONG)


@pytest.fixture(autouse=True)
def no_table_of_an_earlier_test() -> None:
    intents._release_all()


@pytest.fixture(params=["array", "file"])
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Provide what makes a lock on bytes 0 to 8, or others of 16, of an array or of a file."""
    if request.param == "array":
        with sa.zeros(16, "u1", name="of_both") as array:
            yield lambda start=0, stop=8, **options: array[start:stop].lock(**options)
        return
    path = tmp_path / "file"
    path.write_bytes(bytes(16))
    yield lambda start=0, stop=8, **options: sa.lock_file(path, start=start, length=stop - start, **options)


def table() -> Table:
    return not_busy(lambda: intents.table(registry.open_registry(registry.directory())))


def writers() -> int:
    """Return how many writers say in the table that they wait."""
    return sum(
        since != 0
        for since in table()
        .words[intent_table._STRIDE + intent_table._SINCE :: intent_table._STRIDE]
        .tolist()
    )


def hint() -> bool:
    """Return whether any reader would look whether a writer waits."""
    return any(
        table().words[intent_table._FIRST_HINT : intent_table._FIRST_HINT + intent_table._HINTS].tolist()
    )


def wait_for_writers(count: int = 1) -> None:
    wait_until(lambda: writers() == count, f"{count} wait", ANSWER)


class Holder:
    """A thread that takes a lock, and has it until it is told to leave."""

    def __init__(self, lock: sa.Lock) -> None:
        _holders.append(self)
        self.lock = lock
        self.refusal: sa.LockTimeout | None = None
        self.has = threading.Event()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.lock:
                self.has.set()
                self._leave.wait(ANSWER)
        except sa.LockTimeout as error:
            self.refusal = error

    def release(self) -> None:
        """Take it, and give it up."""
        assert self.has.wait(ANSWER)
        self.may_leave()
        self.join()

    def may_leave(self) -> None:
        self._leave.set()

    def join(self) -> None:
        self._thread.join(ANSWER)
        assert not self._thread.is_alive()


_holders: list[Holder] = []


@pytest.fixture(autouse=True)
def holders_end() -> Iterator[None]:
    yield
    for each in _holders:
        each.may_leave()
    while _holders:
        _holders.pop().join()


def why_not(lock: sa.Lock) -> str:
    """Try for a lock in a thread that holds nothing: return why it is not free, nothing if it is."""
    made = Holder(lock)
    made.may_leave()
    made.join()
    return "" if made.refusal is None else str(made.refusal.cause)


@pytest.mark.parametrize("timeout", [None, ANSWER])
def test_readers_that_come_later_let_the_writer_go_first(lock: Make, timeout: float | None) -> None:
    with lock(shared=True):
        writer = Holder(lock(timeout=timeout))
        wait_for_writers()
        later = Holder(lock(shared=True, timeout=timeout))
        assert "a writer waits" in why_not(lock(shared=True, timeout=0))
        assert "a writer waits" in why_not(lock(7, 9, shared=True, timeout=0.05))
        assert why_not(lock(8, 16, shared=True, timeout=0)) == ""
        assert not later.has.is_set()
    assert writer.has.wait(ANSWER)
    assert "another process" in why_not(lock(shared=True, timeout=0.05))
    assert not later.has.is_set()
    writer.release()
    later.release()
    assert writers() == 0
    assert why_not(lock(shared=True, timeout=0)) == ""
    assert not hint()


def test_a_thread_does_not_let_a_writer_go_first_that_waits_for_it(lock: Make) -> None:
    with lock(0, 4, shared=True):
        writer = Holder(lock())
        wait_for_writers()
        for start, stop in ((0, 8), (0, 2), (4, 8)):
            with lock(start, stop, shared=True):
                pass
            other = lock(start, stop, shared=True, timeout=0)
            other.acquire()
            other.release()
            assert "a writer waits" in why_not(lock(start, stop, shared=True, timeout=0))
        assert not writer.has.is_set()


def test_readers_queue_with_the_writers_while_a_writer_has_the_bytes(lock: Make) -> None:
    """They let no writer go first then: beside two writers in turns they would never get in."""
    with lock():
        writer = Holder(lock())
        wait_for_writers()
        assert "another process" in why_not(lock(shared=True, timeout=0))
        reader = Holder(lock(shared=True))
        for each in (reader, writer):
            each.may_leave()
    for each in (reader, writer):
        each.release()


def test_a_writer_that_gives_up_stops_no_reader(lock: Make) -> None:
    with lock(shared=True):
        assert "another process" in why_not(lock(timeout=0.01))
        assert writers() == 0
        assert why_not(lock(shared=True, timeout=0)) == ""
        assert not hint()


@many_starts
@pytest.mark.parametrize("timeout", [None, ANSWER])
def test_a_writer_that_is_killed_as_it_waits_stops_no_reader(lock: Make, timeout: float | None) -> None:
    with lock(shared=True):
        pid = start(lambda: lock(timeout=timeout).acquire())
        wait_for_writers()
        assert "a writer waits" in why_not(lock(shared=True, timeout=0.01))
        waits = Holder(lock(shared=True))
        kill(pid)
        assert end(pid) == KILLED
        waits.release()
        assert why_not(lock(shared=True, timeout=0)) == ""
        assert not hint()
    with lock(timeout=0) as after:
        assert not after.abandoned


def test_a_writer_is_let_go_first_for_a_while_and_not_for_ever(
    lock: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may wait for the lock within a call of the process that has it, which no lock can know."""
    with lock(shared=True):
        writer = Holder(lock())
        wait_for_writers()
        reader = Holder(lock(shared=True))
        assert "a writer waits" in why_not(lock(shared=True, timeout=0))
        assert not reader.has.is_set()
        monkeypatch.setattr(intent_table, "_PRIORITY", 1)
        reader.release()
        assert why_not(lock(shared=True, timeout=0)) == ""
        assert not writer.has.is_set()


def both_beyond(counts: sa.SharedArray, before: np.ndarray) -> bool:
    return bool((counts[:2] > before).all())


@many_starts
def test_readings_without_a_gap_end_when_a_writer_waits(lock: Make) -> None:
    """Two processes hand the reading over to each other; the writer gets in all the same, again and again."""
    with sa.zeros(4, "i8", name="readings") as counts:  # of each, whether they end, and which must stay

        def read(me: int) -> None:
            while not counts[2]:
                with lock(shared=True):
                    counts[me] += 1
                    # The other one leaves. One word says which stays, so they never wait for each other.
                    counts[3] = me
                    while counts[3] == me and not writers() and not counts[2]:
                        time.sleep(0.0005)

        pids = [start(partial(read, me)) for me in (0, 1)]
        try:
            for _ in range(20):
                before = counts[:2] + 1
                wait_until(partial(both_beyond, counts, before), "both read", ANSWER)
                with lock():
                    pass
        finally:
            counts[2] = 1
        assert [end(pid) for pid in pids] == [0, 0]


# -- a process that is stopped as it edits the table -------------------------------------------------------


@contextmanager
def edited(monkeypatch: pytest.MonkeyPatch, patience: float = 0.01) -> Iterator[Table]:
    """Edit the table as another process does that is stopped meanwhile."""
    monkeypatch.setattr(locks, "_PATIENCE", patience)
    other = not_busy(lambda: Table.open(registry.open_registry(registry.directory())))
    begun, ends = threading.Event(), threading.Event()

    def until_it_ends() -> None:
        with other._editing():
            begun.set()
            ends.wait(2 * ANSWER)

    def edit() -> None:
        not_busy(until_it_ends)  # a janitor may edit it just now

    thread = threading.Thread(target=edit)  # not this one, in which an edit would defer Ctrl-C
    thread.start()
    try:
        assert begun.wait(ANSWER)
        yield other
    finally:
        ends.set()
        thread.join()
        other.close()


def test_a_lock_keeps_its_timeout_while_a_stopped_process_edits(
    lock: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(monkeypatch):
        for shared in (False, True):
            with pytest.raises(sa.LockTimeout, match="changed the table of write intents"):
                lock(shared=shared, timeout=0).acquire()
        waits = Holder(lock())
        forked = start(lambda: None)  # whatever the thread waits for, this process can fork
        assert end(forked) == 0
        assert not waits.has.is_set()
    waits.release()
    with lock(timeout=0) as after:
        assert not after.abandoned


def test_a_lock_waits_for_a_process_that_edits_for_a_while_whatever_its_timeout(
    lock: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(monkeypatch, ANSWER):
        waits = Holder(lock(timeout=0))
        assert not waits.has.is_set()
    waits.release()


def test_ctrl_c_ends_the_wait_for_a_process_that_edits(lock: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with edited(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(locks.Pauses, "pause", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            lock().acquire()
    assert [hold for hold in lock_holds.open_holds() if hold.thread != lock_holds.IDLE] == []
    assert why_not(lock(timeout=0)) == ""


@many_starts
def test_a_lock_that_is_not_taken_for_an_editor_changes_no_intent(
    lock: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock of all that fails leaves abandoned what was abandoned, and nothing else."""
    with lock(8, 16):
        pass  # the file exists, and this process has a slot
    die_holding(partial(lock, 2, 4))
    with edited(monkeypatch) as other:
        with pytest.raises(sa.LockTimeout, match="changed the table of write intents"):
            lock(0, 16, timeout=0).acquire()  # the bytes are free, and the intent cannot be taken over
        with other._odd(), pytest.raises(sa.LockTimeout, match="changed the table of write intents"):
            lock(0, 1, shared=True, timeout=0).acquire()  # nor can any reader look for it
    assert [told(lock(at, at + 1, shared=True)) for at in range(6)] == [at in (2, 3) for at in range(6)]
    assert told(lock(0, 16, timeout=ANSWER))
    assert not told(lock(0, 16, timeout=ANSWER))


@needs_signals
@needs_fork
def test_a_process_that_is_stopped_as_it_edits_stops_no_other_for_longer_than_its_timeout(
    lock: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)

    def work() -> None:
        monkeypatch.setattr(Table, "_correct", lambda _: os.kill(os.getpid(), signal.SIGSTOP))
        lock().acquire()

    pid = start(work)
    os.waitpid(pid, os.WUNTRACED)
    try:
        assert "stopped" in why_not(lock(timeout=0))
    finally:
        kill(pid)
    assert end(pid) == KILLED
    assert why_not(lock(timeout=ANSWER)) == ""


def test_a_file_that_is_replaced_while_a_thread_waits_for_it_does_not_lengthen_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "file", tmp_path / "new"
    held = [sa.lock_file(path)]
    held[0].acquire()
    clock = itertools.count()  # each look at it takes a second
    pauses = []

    def pause(_: float) -> None:
        pauses.append(1)
        held.append(sa.lock_file(new))
        held[-1].acquire()
        os.replace(new, path)
        held[-2].release()

    stopped = SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=pause)
    lock = sa.lock_file(path, timeout=9.5)
    with monkeypatch.context() as patch:
        patch.setattr(locks, "time", stopped)
        with pytest.raises(sa.LockTimeout):
            lock.acquire()
    assert len(pauses) <= 10
    held[-1].release()


# -- nothing in the table is trusted -------------------------------------------------------------------


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[tuple[Table, Table, int]]:
    """Provide a table as two processes have it open, and a slot of the first one."""
    one, other = Table.open(str(tmp_path)), Table.open(str(tmp_path))
    yield one, other, one.claim("")
    for table in (one, other):
        if not table.closed:
            table.close()


KEY = 4711


def test_a_writer_that_waits_is_seen_and_told_apart(slots: tuple[Table, Table, int]) -> None:
    one, other, at = slots
    for table in (one, other):
        assert table.ahead(KEY, 0, 100) == []
    one.begin_wait(at, KEY, 10, 20)
    for table in (one, other):
        (found,) = table.ahead(KEY, 0, 11)
        assert (found.at, found.start, found.end) == (at, 10, 20)
        assert table.waits(found)
        assert table.ahead(KEY, 0, 10) == table.ahead(KEY, 20, 30) == []
        assert table.ahead(KEY + intent_table._HINTS, 0, 100) == []  # another file with the same hint
        assert table.words[intents.hint_of(KEY)] == 1
    assert not other.has_intent(KEY, 0, 100)
    one.end_wait(at)
    for table in (one, other):
        assert not table.waits(found)
        assert table.ahead(KEY, 0, 100) == []
    assert other.words[intents.hint_of(KEY)] == 0


def test_a_dead_writer_is_not_let_go_first(slots: tuple[Table, Table, int]) -> None:
    one, other, at = slots
    one.begin_wait(at, KEY, 10, 20)
    (found,) = other.ahead(KEY, 0, 100)
    one.close()
    assert not other.waits(found)
    assert other.ahead(KEY, 0, 100) == []
    assert other.words[intents.hint_of(KEY)] == 0
    assert other.claim("") == at
    assert other.words[at + intent_table._SINCE] == 0


def test_a_writer_that_begins_to_wait_as_the_hint_is_taken_away_is_seen(
    slots: tuple[Table, Table, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, at = slots
    look = Table._waiting
    looks = itertools.count()

    def begins_to_wait(self: Table, hint: int) -> object:
        found = look(self, hint)
        if next(looks) == 0:
            one.begin_wait(at, KEY, 10, 20)
        return found

    monkeypatch.setattr(Table, "_waiting", begins_to_wait)
    assert other.ahead(KEY, 0, 100) == []
    assert other.words[intents.hint_of(KEY)] == 1
    assert len(other.ahead(KEY, 0, 100)) == 1


@pytest.mark.parametrize("since", [1, 1 << 62, (1 << 64) - 1])
def test_a_damaged_time_or_range_is_no_writer(slots: tuple[Table, Table, int], since: int) -> None:
    one, other, at = slots
    one.begin_wait(at, KEY, 10, 20)
    one.words[at + intent_table._SINCE] = since
    assert other.ahead(KEY, 0, 100) == []
    one.begin_wait(at, KEY, 10, 20)
    one.words[at + 1] ^= 1 << 40
    assert other.ahead(KEY, 0, 100) == []
    one.words[intents.hint_of(KEY)] = (1 << 64) - 1
    one.words[intents.COUNT] = (1 << 64) - 1
    assert other.ahead(KEY, 0, 100) == []
