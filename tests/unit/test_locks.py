"""Locks on the bytes of arrays: whom they exclude, what ends them, and what the next holder is told.

Whether a lock is free is asked with ``timeout=0``; who waits in the kernel is looked up in ``/proc/locks``.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ANSWER,
    FORKS,
    Puppet,
    alive,
    answer,
    block_files,
    environment,
    inode,
    kill,
    registry,
    run,
    suicide,
    wait_until,
)
from lock_helpers import (
    child,
    descriptors,
    die_holding,
    end,
    free,
    holding,
    killed,
    locked_bytes,
    start,
    told,
    waiters,
)
from needs import link, many_starts, needs_fork, needs_janitor, needs_signals

import sharedarray as sa
from sharedarray import _intents as intents, _lock_holds as lock_holds, _locks as locks

PAGE = 4096


@pytest.fixture
def array() -> Iterator[sa.SharedArray]:
    """Provide an array of 10 rows of 8 bytes."""
    with sa.zeros((10, 8), "u1", name="locked") as made:
        yield made


# -- which bytes ----------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "all": lambda a: a,
    "a row": lambda a: a[3],
    "rows": lambda a: a[2:5],
    "an element": lambda a: a[3:4, 2:3],
    "0-d": lambda a: a[9, 7, ...],
    "a column": lambda a: a[:, 2],
    "every third row": lambda a: a[::3],
    "backwards": lambda a: a[::-1],
    "rows backwards": lambda a: a[6:2:-2, ::-1],
    "transposed": lambda a: a.T,
    "columns, transposed": lambda a: a[:, 1:3].T,
    "reshaped": lambda a: a.reshape(4, 20)[1],
    "other type": lambda a: a.view("u4")[5],
    "a field": lambda a: a.view([("x", "u2"), ("y", "u2")])["y"][1:3],
    "broadcast": lambda a: np.broadcast_to(a[4], (3, 8), subok=True),
    "read-only": lambda a: _read_only(a[1:3]),
    "dates": lambda a: a.view("M8[s]")[2:4],
    "a window": lambda a: np.lib.stride_tricks.as_strided(a[2:], (3, 3), (8, 1), subok=True),
}


def _read_only(view: Any) -> Any:
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("kind", ["READ", "WRITE"])
@pytest.mark.parametrize("name", VIEWS)
def test_exactly_the_bytes_of_the_view_are_locked(array: sa.SharedArray, name: str, kind: str) -> None:
    view = VIEWS[name](array)
    assert isinstance(view, sa.SharedArray)
    low, high = (
        np.lib.array_utils.byte_bounds(view) if hasattr(np.lib, "array_utils") else np.byte_bounds(view)
    )
    first = np.asarray(array).__array_interface__["data"][0]
    number = inode("locked")
    assert number is not None
    for again in range(2):
        with view.lock(shared=kind == "READ"):
            assert locked_bytes(number) == [(kind, PAGE + low - first, PAGE + high - first)], again
        assert locked_bytes(number) == []


def test_an_empty_view_locks_nothing(array: sa.SharedArray) -> None:
    with array.lock():
        for empty in (array[:0], array[3:3, 2], array[:, 8:]):
            lock = empty.lock()
            assert not lock.locked()
            with lock, empty.lock():
                assert lock.locked()
                assert not lock.abandoned
            assert not lock.locked()
            with pytest.raises(RuntimeError, match="does not hold"):
                lock.release()


@many_starts
def test_rows_and_single_bytes_do_not_wait_for_each_other(array: sa.SharedArray) -> None:
    with holding(array[2:4].lock), holding(array[6, 3:4].lock):
        for view in (array[:2], array[4:6], array[6, :3], array[6, 4:], array[7:]):
            assert free(view.lock(timeout=0))
            assert free(view.lock(shared=True, timeout=0))
        for view in (array[1:3], array[3:5], array[3, 4:5], array, array[6], array[5:], array[::9]):
            assert not free(view.lock(timeout=0))
            assert not free(view.lock(shared=True, timeout=0))


# -- whom it excludes -----------------------------------------------------------------------------------


@many_starts
def test_readers_share_and_a_writer_excludes(array: sa.SharedArray) -> None:
    with holding(lambda: array.lock(shared=True)), holding(lambda: array[2].lock(shared=True)):
        assert free(array.lock(shared=True, timeout=0))
        assert not free(array[9].lock(timeout=0))
    with holding(array[2].lock):
        assert not free(array.lock(shared=True, timeout=0))
    assert free(array.lock(timeout=0))


def test_by_name_between_unrelated_processes(array: sa.SharedArray) -> None:
    script = """
        a = sa.attach("locked")
        for step in range(2):
            with a[1:3].lock(shared=bool(step)) as lock:
                say(lock.abandoned)
                hear()
            say()
            hear()
    """
    with Puppet(script) as other:
        assert other.hear() is False
        assert not free(array[2].lock(shared=True, timeout=0))
        assert free(array[3].lock(timeout=0))
        other.ask()
        assert free(array[2].lock(timeout=0))
        assert other.ask() is False
        assert free(array[2].lock(shared=True, timeout=0))
        assert not free(array[2].lock(timeout=0))
        other.ask()
        other.end()


def test_other_attachments_of_the_same_process_are_excluded_too(array: sa.SharedArray) -> None:
    with sa.attach("locked") as other, array[:2].lock():
        assert not free(other[1].lock(timeout=0))
        assert free(other[2].lock(timeout=0))


def test_a_waiter_gets_it_as_soon_as_it_is_free(array: sa.SharedArray) -> None:
    number = inode("locked")
    assert number is not None
    got = []

    def wait() -> None:
        with array[1].lock():
            got.append(array[1, 0].item())

    thread = threading.Thread(target=wait)
    with array[:2].lock():
        thread.start()
        wait_until(lambda: waiters(number), "the thread waits")
        array[1] = 7
    thread.join(60)
    assert got == [7]


@many_starts
def test_a_timeout_is_kept_and_says_what_to_do(array: sa.SharedArray) -> None:
    with holding(array[:2].lock):
        for timeout in (0, 0.05):
            before = time.monotonic()
            with pytest.raises(sa.LockTimeout, match=r"bytes 4104 to 4112 of 'locked'.*another") as caught:
                array[1].lock(timeout=timeout).acquire()
            assert time.monotonic() - before >= timeout
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.name == "locked"
    for timeout in (0, 0.05, math.inf, None):
        assert free(array.lock(timeout=timeout))


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
def test_a_timeout_that_is_none_is_refused_at_once(array: sa.SharedArray, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        array.lock(timeout=timeout)


@many_starts
def test_a_waiter_with_a_timeout_gets_it_when_it_is_free_in_time(array: sa.SharedArray) -> None:
    with holding(array.lock) as pid:
        timer = threading.Timer(0.05, kill, (pid,))
        timer.start()
        with array.lock(timeout=60) as lock:
            assert lock.abandoned
        timer.join()


# -- the lock as an object ------------------------------------------------------------------------------


def test_a_lock_can_be_used_again_and_says_whether_it_is_held(array: sa.SharedArray) -> None:
    lock = array[2].lock()
    assert repr(lock) == "<exclusive Lock on bytes 4112 to 4120 of 'locked', free here>"
    for _ in range(3):
        assert not lock.locked()
        with lock as entered:
            assert entered is lock
            assert lock.locked()
            assert "held here" in repr(lock)
        assert lock.acquire() is True
        assert lock.locked()
        assert not free(array[2].lock(timeout=0))
        lock.release()
    with pytest.raises(RuntimeError, match="does not hold"):
        lock.release()
    assert isinstance(lock, sa.Lock)
    assert (lock.shared, lock.timeout) == (False, None)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(lock)


def test_one_lock_for_many_threads(array: sa.SharedArray) -> None:
    lock, inside, count = array.view("u8")[5].lock(), [], 50

    def add() -> None:
        for _ in range(count):
            with lock:
                inside.append(1)
                assert len(inside) == 1
                array.view("u8")[5] += 1
                inside.pop()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert array.view("u8")[5] == 4 * count
    assert not lock.abandoned


def test_threads_that_come_and_go_while_others_look_who_stands_in_the_way(array: sa.SharedArray) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not stop.is_set():
                with sa.attach("locked") as other, other[0].lock(), other[1].lock():
                    pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with array[5].lock():
            for thread in threads:
                thread.start()
            for _ in range(300):
                with pytest.raises(sa.DeadlockError):
                    array[4:].lock().__enter__()
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert not failed


def test_one_shared_lock_is_held_by_many_threads_at_once(array: sa.SharedArray) -> None:
    lock = array.lock(shared=True)
    together = threading.Barrier(4)

    def read() -> None:
        with lock:
            together.wait(60)
            assert lock.locked()
            assert not free(array[3].lock(timeout=0))
            together.wait(60)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken
    assert not lock.locked()
    assert free(array.lock(timeout=0))


def test_another_thread_may_release_what_was_acquired(array: sa.SharedArray) -> None:
    lock = array.lock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock.locked()
    assert not free(array.lock(timeout=0))
    lock.release()
    assert not told(array.lock())


def test_in_asyncio_a_thread_waits_and_the_loop_goes_on(array: sa.SharedArray) -> None:
    order: list[str] = []

    async def write(name: str) -> None:
        lock = array.lock()
        await asyncio.to_thread(lock.acquire)
        order.append(f"{name} in")
        await asyncio.sleep(0.01)  # the others' turn, which must not come
        order.append(f"{name} out")
        lock.release()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(asyncio.gather(*(write(str(number)) for number in range(5))), 30)
        await loop.shutdown_default_executor()

    asyncio.run(main())
    assert len(order) == 10
    assert all(order[n].split()[0] == order[n + 1].split()[0] for n in range(0, 10, 2)), order
    assert not told(array.lock())


def test_a_coroutine_that_would_stop_the_loop_for_ever_is_told(array: sa.SharedArray) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def hold() -> None:
            with array.lock():
                entered.set()
                await asyncio.sleep(3600)

        holder = asyncio.create_task(hold())
        await entered.wait()
        with pytest.raises(sa.DeadlockError), array[2].lock():
            pass
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
        assert told(array.lock())  # it did not finish

    asyncio.run(main())


# -- the same thread once more --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(False, False), (True, False), (False, True)],
    ids=["re-entry", "upgrade", "downgrade"],
)
def test_a_thread_that_would_wait_for_itself_is_told_at_once(
    array: sa.SharedArray, outer: bool, inner: bool
) -> None:
    with sa.attach("locked") as other, array[:3].lock(shared=outer):
        for view in (array[:3], array[2:4], other[1, 4:5]):
            with pytest.raises(sa.DeadlockError, match="this thread would wait for ever") as caught:
                view.lock(shared=inner).__enter__()
            assert isinstance(caught.value, RuntimeError)
            with pytest.raises(sa.LockTimeout, match="this thread itself"):
                view.lock(shared=inner, timeout=0.01).__enter__()
        with array[3:5].lock(), other[5:].lock(shared=inner):
            pass
    assert not told(array.lock())


def test_acquire_within_the_with_statement_of_its_thread_is_told_at_once(array: sa.SharedArray) -> None:
    with sa.attach("locked") as other, array.lock():
        for view in (array[0], other[2:]):
            with pytest.raises(sa.DeadlockError, match="this thread would wait for ever"):
                view.lock().acquire()
            with pytest.raises(sa.LockTimeout, match="this thread itself"):
                view.lock(timeout=0.01).acquire()
    assert not told(array.lock())


@pytest.mark.parametrize("rows", [slice(None), slice(0)], ids=["all", "none"])
@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_a_lock_may_be_released_within_its_with_statement(
    array: sa.SharedArray, rows: slice, shared: bool
) -> None:
    with array[rows].lock(shared=shared) as lock:
        lock.release()
    assert not lock.locked()
    with lock:
        assert lock.locked()
    assert free(array.lock(timeout=0))


def test_a_lock_within_itself_is_told_at_once(array: sa.SharedArray) -> None:
    lock = array.lock()
    with lock:
        with pytest.raises(sa.DeadlockError), lock:
            pass
        assert lock.locked()
        assert not free(array[4].lock(timeout=0))
    assert not told(lock)


def test_a_thread_may_read_within_reading(array: sa.SharedArray) -> None:
    lock = array.lock(shared=True)
    with lock, lock, array[2:].lock(shared=True):
        pass
    assert free(array.lock(timeout=0))


@many_starts
def test_a_shared_lock_beside_ones_own_waits_for_others(array: sa.SharedArray) -> None:
    """The thread's own lock does not stand in the way there, so it is no deadlock."""
    with array[:3].lock(shared=True), holding(array[5].lock) as pid:
        timer = threading.Timer(0.05, kill, (pid,))
        timer.start()
        assert told(array.lock(shared=True))
        timer.join()
    assert told(array.lock())


def test_what_another_thread_holds_is_waited_for(array: sa.SharedArray) -> None:
    number = inode("locked")
    assert number is not None
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with array.lock():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(60)
    watcher = threading.Thread(target=lambda: wait_until(lambda: waiters(number), "we wait") and leave.set())
    watcher.start()
    assert not told(array.lock())
    thread.join()
    watcher.join()


@many_starts
def test_two_that_wait_for_each_other_are_parted_by_a_timeout(array: sa.SharedArray) -> None:
    script = """
        a = sa.attach("locked")
        with a[1].lock():
            say()
            hear()
            with a[0].lock():
                say("got it")
    """
    number = inode("locked")
    assert number is not None
    with Puppet(script) as other:
        other.hear()
        with array[0].lock():
            other.say()
            wait_until(lambda: waiters(number), "the other waits")
            with pytest.raises(sa.LockTimeout):
                array[1].lock(timeout=0.05).acquire()
        assert other.hear() == "got it"
        other.end()


# -- what ends it, and what the next one is told --------------------------------------------------------


def test_the_kernel_frees_it_when_its_holder_is_killed_and_the_next_is_told(array: sa.SharedArray) -> None:
    lock = array[2:5].lock(timeout=60)
    assert not told(lock)
    with Puppet("with sa.attach('locked')[2:5].lock(): say(); hear()") as other:
        other.hear()
        other.kill()
        with lock:
            assert lock.abandoned
        assert lock.abandoned  # still says what it was
    with lock:
        assert not lock.abandoned


def test_a_waiter_is_told(array: sa.SharedArray) -> None:
    number = inode("locked")
    assert number is not None
    script = """
        a = sa.attach("locked")
        say()
        with a[1:].lock() as lock:
            say(lock.abandoned)
    """
    with holding(array[:3].lock) as pid, Puppet(script) as other:
        other.hear()
        wait_until(lambda: waiters(number), "it waits")
        kill(pid)
        assert other.hear() is True
        other.end()
    assert told(array[0].lock())
    assert not told(array.lock())


@many_starts
def test_every_part_of_what_was_left_is_told_of_until_it_is_finished(array: sa.SharedArray) -> None:
    die_holding(array[2:8].lock)
    assert not told(array[:2].lock())
    assert not told(array[8:].lock())
    assert told(array[4, 3:5].lock())
    assert not told(array[4, 3:5].lock())
    assert told(array[4].lock())  # its ends are still to be finished
    assert told(array[1:3].lock())
    assert told(array[7:].lock())
    assert [told(array[row].lock()) for row in range(10)] == [row in (3, 5, 6) for row in range(10)]
    assert not told(array.lock())


@many_starts
def test_readers_are_told_and_finish_nothing(array: sa.SharedArray) -> None:
    die_holding(array[3].lock)
    reader = array.lock(shared=True)
    assert told(reader)
    assert told(reader)
    assert not told(array[4:].lock(shared=True))
    assert told(array[3].lock())
    assert not told(reader)


@many_starts
def test_a_dead_reader_leaves_nothing(array: sa.SharedArray) -> None:
    die_holding(lambda: array.lock(shared=True))
    assert free(array.lock(timeout=60))
    assert not told(array.lock())


@many_starts
def test_a_holder_that_was_told_and_dies_leaves_the_duty_to_the_next(array: sa.SharedArray) -> None:
    die_holding(array[2:6].lock)
    die_holding(array[4:8].lock)
    die_holding(array[4:8].lock)
    assert [told(array[row].lock()) for row in range(10)] == [2 <= row < 8 for row in range(10)]


def test_an_exception_in_the_block_is_not_finishing(array: sa.SharedArray) -> None:
    with pytest.raises(KeyError), array[2].lock():
        raise KeyError
    assert told(array.lock())
    with pytest.raises(KeyError), array.lock(shared=True):
        raise KeyError  # a reader has nothing to finish
    assert not told(array.lock())
    with pytest.raises(KeyError), array[2].lock():
        raise KeyError
    with pytest.raises(KeyError), array[2].lock():
        raise KeyError  # and neither has the one who was told
    assert told(array[2].lock())
    assert not told(array[2].lock())


@many_starts
@pytest.mark.parametrize(
    ("ending", "left"),
    [
        ("with a[1].lock(): sys.exit(3)", True),
        pytest.param("with a[1].lock(): os._exit(3)", True, marks=pytest.mark.slow),
        ("with a[1].lock(): os.abort()", True),
        ("lock = a[1].lock(); lock.acquire()", True),
        pytest.param("lock = a[1].lock(); lock.acquire(); lock.release()", False, marks=pytest.mark.slow),
        ("lock = a[1].lock(shared=True); lock.acquire()", False),
        ("import atexit; lock = a[1].lock(); lock.acquire(); atexit.register(lock.release)", False),
        ("with a[1].lock(): 1 / 0", True),
        pytest.param("with a[1].lock(): pass", False, marks=pytest.mark.slow),
        pytest.param("with a[1].lock(): a.close()", False, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_ends_holding_it(array: sa.SharedArray, ending: str, left: bool) -> None:
    done = run(f"import os, sys\nimport sharedarray as sa\na = sa.attach('locked')\n{ending}", status=None)
    assert "Exception ignored" not in done.stderr
    assert told(array[:2].lock(timeout=60)) == left


def test_a_lock_that_is_dropped_is_free_and_warns(array: sa.SharedArray) -> None:
    held = [array[1].lock()]
    held[0].acquire()
    with pytest.warns(ResourceWarning, match="dropped while it was held"):
        held.clear()
    assert told(array.lock(timeout=0))
    assert not told(array.lock(timeout=0))  # and one that is not held is dropped without a warning


def test_a_held_lock_that_a_collection_ends_is_closed_once(array: sa.SharedArray) -> None:
    """Though the collector calls what is to be called for the lost before the finalizer."""
    cycle: list[Any] = [array[1].lock()]
    cycle[0].acquire()
    cycle.append(cycle)
    del cycle
    with pytest.warns(ResourceWarning, match="dropped while it was held"):
        gc.collect()
    assert told(array.lock(timeout=0))


# The steps at which a writer dies, and whether the next holder must learn of it. Each step is replaced by one
# that kills.
def _die(*_: object, **__: object) -> None:
    suicide()


class _Words:
    """The words of the table, of which writing a certain one kills, before or after."""

    def __init__(self, words: memoryview, at: int, value: int, *, after: bool) -> None:
        self._words, self._fatal, self._after = words, (at, value), after

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        if (at, value) == self._fatal and not self._after:
            suicide()
        self._words[at] = value
        if (at, value) == self._fatal:
            suicide()


def _before_the_kernel(lock: sa.Lock) -> None:
    locks._lock = _die  # type: ignore[assignment]


def _after_the_kernel(lock: sa.Lock) -> None:
    locks._prepare = _die  # type: ignore[assignment]


def _watch(what: str, *, after: bool) -> Callable[[sa.Lock], None]:
    def change(lock: sa.Lock) -> None:
        hold = lock._open()
        value = hold.key if what == "key" else 0
        hold.words = _Words(hold.words, hold.at, value, after=after)  # type: ignore[assignment]
        lock_holds.idle_holds[lock._idle] = hold

    return change


def _before_unlocking(lock: sa.Lock) -> None:
    locks._unlock = _die  # type: ignore[assignment]


STEPS: dict[str, tuple[Callable[[sa.Lock], None], bool]] = {
    "before the kernel is asked": (_before_the_kernel, False),
    "when the kernel has granted it": (_after_the_kernel, False),
    "before the intent stands": (_watch("key", after=False), False),
    "when the intent stands": (_watch("key", after=True), True),
    "before the intent goes": (_watch("nothing", after=False), True),
    "when the intent has gone": (_watch("nothing", after=True), False),
    "before unlocking": (_before_unlocking, False),
}


@many_starts
@pytest.mark.parametrize("step", STEPS)
def test_death_at_every_step(array: sa.SharedArray, step: str) -> None:
    change, left = STEPS[step]

    def work() -> None:
        lock = array[2:4].lock()
        change(lock)
        with lock:
            pass

    killed(work)
    assert told(array.lock(timeout=60)) == left
    assert not told(array.lock(timeout=60))


def _before_taking_over(lock: sa.Lock) -> None:
    intents.Table.take_over = _die  # type: ignore[assignment, method-assign]


def _while_leaving_the_rest(lock: sa.Lock) -> None:
    spare = intents.Table._spare
    calls = []

    def second_is_fatal(self: intents.Table, most: int) -> int | None:
        calls.append(1)
        if len(calls) == 2:
            suicide()
        return spare(self, most)

    intents.Table._spare = second_is_fatal  # type: ignore[method-assign]


def _before_emptying(lock: sa.Lock) -> None:
    leave = intents.Table._move_rest
    calls = []

    def then_die(self: intents.Table, *arguments: Any) -> bool:
        leave(self, *arguments)
        calls.append(1)
        if len(calls) == 2:
            suicide()
        return True

    intents.Table._move_rest = then_die  # type: ignore[method-assign]


def _before_it_is_even(lock: sa.Lock) -> None:
    over = intents.Table._over
    calls = []

    def look(self: intents.Table, *arguments: Any) -> list[int]:
        calls.append(1)
        found = over(self, *arguments)
        return [*found, _Fatal()] if len(calls) == 2 else found  # type: ignore[list-item]

    class _Fatal:
        def __ne__(self, other: object) -> bool:
            suicide()
            return False

        __hash__ = None  # type: ignore[assignment]

    intents.Table._over = look  # type: ignore[method-assign]


TAKING_OVER: dict[str, Callable[[sa.Lock], None]] = {
    "before": _before_taking_over,
    "while the rest is left": _while_leaving_the_rest,
    "before the old intent goes": _before_emptying,
    "before it is said to be done": _before_it_is_even,
}


@many_starts
@pytest.mark.parametrize("step", TAKING_OVER)
def test_death_at_every_step_of_taking_over(array: sa.SharedArray, step: str) -> None:
    die_holding(array[2:8].lock)

    def work() -> None:
        lock = array[4:6].lock()
        assert not told(array[:1].lock())  # all is open by now
        TAKING_OVER[step](lock)
        with lock:
            pass
        raise AssertionError("it should have died")

    killed(work)
    assert not told(array[:2].lock(timeout=60))
    assert [told(array[row].lock()) for row in range(10)] == [2 <= row < 8 for row in range(10)]
    assert not told(array.lock())


# -- forks ----------------------------------------------------------------------------------------------


@needs_fork
def test_a_forked_child_holds_nothing_and_ends_nothing(array: sa.SharedArray) -> None:
    exclusive, shared = array[:2].lock(), array[5].lock(shared=True)
    with exclusive, shared:

        def work() -> None:
            assert not exclusive.locked()
            assert not shared.locked()
            assert not free(array[1].lock(timeout=0))
            assert free(array[5].lock(shared=True, timeout=0))
            assert free(array[3].lock(timeout=0))
            with pytest.raises(RuntimeError, match="this process does not hold"):
                exclusive.release()
            exclusive.__exit__(None, None, None)
            shared.__exit__(None, None, None)
            assert not free(array[1].lock(timeout=0))

        child(work)
        assert exclusive.locked()
        assert shared.locked()
        child(lambda: _assert(not free(array[1].lock(timeout=0))))
        child(lambda: _assert(not free(array[5].lock(timeout=0))))
    assert not told(array.lock(timeout=0))


def _assert(truth: bool) -> None:
    assert truth


@needs_fork
def test_a_child_that_unwinds_out_of_the_block_changes_nothing(array: sa.SharedArray) -> None:
    """As one that was forked in the midst of a call does, and returns into its parent's code."""
    lock = array[3].lock()
    pid = -1
    try:
        with lock:
            pid = os.fork()
            if pid == 0:
                raise KeyError
            assert end(pid) == 7
            assert not free(array[3].lock(timeout=0))
    except KeyError:
        os._exit(7)
    finally:
        if pid == 0:
            os._exit(8)
    assert not told(array.lock())


@needs_fork
def test_a_child_does_not_keep_its_parents_lock(array: sa.SharedArray) -> None:
    script = """
        a = sa.attach("locked")
        with a[2].lock(), a[4].lock(shared=True):
            if not os.fork():
                say(os.getpid())
                hear()
                os._exit(0)
            hear()
    """
    with Puppet(script) as parent:
        pid = parent.hear()
        assert not free(array[2].lock(timeout=0))
        parent.process.kill()
        assert told(array[2].lock(timeout=60))
        assert free(array[4].lock(timeout=60))
        os.kill(pid, 0)  # the child lives on
    wait_until(lambda: not alive(pid), "the child hears that its parent is gone")


@needs_fork
def test_a_child_locks_for_itself(array: sa.SharedArray) -> None:
    """A child cannot use descriptors that its parent opened: its locks would be its parent's."""
    assert not told(array.lock())
    ready, said = os.pipe()
    done, tell = os.pipe()

    def work() -> None:
        with array[2].lock():
            os.write(said, b"!")
            os.read(done, 1)

    pid = start(work)
    os.read(ready, 1)
    assert not free(array.lock(timeout=0))
    os.write(tell, b"!")
    assert end(pid) == 0
    for handle in (ready, said, done, tell):
        os.close(handle)
    assert not told(array.lock())


@pytest.mark.slow
@needs_fork
def test_forks_while_other_threads_lock(array: sa.SharedArray) -> None:
    """Its children keep nothing and lose nothing, at whatever step of locking its other threads are."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def work(row: int) -> None:
        try:
            lock = array[row].lock()
            while not stop.is_set():
                with lock:
                    array[row] ^= 1
                    assert not lock.abandoned
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(row,)) for row in (1, 1, 2, 3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            child(lambda: _assert(not told(array[1:3].lock(timeout=60))))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert not told(array.lock(timeout=0))


# -- the array's life -----------------------------------------------------------------------------------


def test_closing_and_unlinking_end_no_lock(array: sa.SharedArray) -> None:
    other, third = sa.attach("locked"), sa.attach("locked")
    with other[2].lock():
        other.close()
        assert not free(array[2].lock(timeout=0))
        with pytest.raises(sa.BlockClosedError, match="locked"):
            other[3].lock().acquire()
        with pytest.raises(sa.BlockClosedError):
            other[:0].lock().acquire()
    assert not told(array[2].lock(timeout=0))
    with third[2].lock():
        third.unlink()
        assert not free(array[2].lock(timeout=0))
        assert free(third[3].lock(timeout=0))
    assert free(array[2].lock(timeout=0))
    third.close()


def test_a_lock_keeps_the_memory_of_its_array() -> None:
    lock = sa.zeros(5, name="kept").lock()
    gc.collect()
    with lock:
        assert block_files() == {"kept"}
    del lock
    assert block_files() == set()


def test_closed_and_dropped_arrays_keep_no_descriptor() -> None:
    assert free(sa.zeros(3).lock())  # this opens what stays open
    arrays = [sa.zeros(3) for _ in range(40)]
    before = descriptors()
    for array in arrays:
        with array.lock(), pytest.raises(sa.LockTimeout):
            array[1:].lock(timeout=0).acquire()
    for _ in range(100):
        for array in arrays[:3]:
            assert free(array[1:].lock())
    assert descriptors() - before <= 8  # what is kept for the next lock, of however many arrays
    for array in arrays:
        assert free(array.lock(shared=True))
        array.close()
    del array, arrays
    gc.collect()
    assert descriptors() < before
    before = descriptors()
    with sa.zeros(3) as one, one.lock():
        one.close()
    del one
    assert descriptors() == before


@many_starts
@pytest.mark.parametrize("mode", ["r", "c"])
def test_the_mode_of_the_array_does_not_matter(array: sa.SharedArray, mode: Any) -> None:
    with sa.attach("locked", mode) as other:
        with other[1].lock():
            assert not free(array[1].lock(timeout=0))
        with other[1].lock(shared=True):
            assert not free(array[1].lock(timeout=0))
            assert free(array[1].lock(shared=True, timeout=0))
        if mode == "c" and not FORKS:
            return  # no other process can have what is private to this one
        die_holding(other[1].lock)
    assert told(array.lock())


@many_starts
def test_a_removed_block_leaves_no_intent_to_the_next_of_its_name() -> None:
    with sa.zeros(5, name="again") as first:
        die_holding(first.lock)
        assert told(first.lock(shared=True))
    with sa.zeros(5, name="again") as second:
        assert not told(second.lock())


@needs_janitor
def test_the_janitor_leaves_nothing_of_those_that_were_killed(own_directory: str) -> None:
    script = """
        a = sa.zeros(100, name="removed")
        with a[:50].lock(), a[70:].lock():
            say()
            hear()
    """
    with Puppet(script) as other:
        other.hear()
        assert os.path.exists(f"{registry()}/{intents.NAME}")
        other.kill()
    wait_until(lambda: not block_files(own_directory), "the block goes")
    wait_until(lambda: not os.path.exists(f"{registry()}/{intents.NAME}"), "the table goes")


def test_a_process_that_ends_leaves_no_table(own_directory: str) -> None:
    run("import sharedarray as sa\nwith sa.zeros(3) as a, a.lock(): pass")
    assert not os.path.exists(f"{registry()}/{intents.NAME}")


# -- files ----------------------------------------------------------------------------------------------


def test_a_file_that_was_opened_is_locked_as_a_block_is(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    sa.zeros((10, 3), file=path).close()
    link(tmp_path / "link.npy", path)
    with sa.open(path) as first, sa.open(tmp_path / "link.npy") as second, sa.open(path, "r") as third:
        with first[2:4].lock():
            assert not free(second[3].lock(timeout=0))
            assert not free(third[3].lock(shared=True, timeout=0))
            assert free(second[4].lock(timeout=0))
        die_holding(second[3].lock)
        assert told(third.lock(shared=True))
        assert told(first.lock())
        assert not told(second.lock())


def test_a_file_that_was_replaced_is_not_locked_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with sa.zeros(3, file=path) as array:
        os.rename(path, tmp_path / "y.npy")
        with pytest.raises(sa.BlockNotFoundError, match=r"nothing at that path.*replaced"):
            array.lock().acquire()
        sa.zeros(3, file=path).close()
        with pytest.raises(sa.BlockNotFoundError, match="another file at that path"):
            array.lock().acquire()
        os.replace(tmp_path / "y.npy", path)
        assert free(array.lock())


@many_starts
def test_many_processes_fill_one_file_on_disk(tmp_path: Path) -> None:
    """Each under the locks of its rows, as in: every worker takes the next rows that are not filled."""
    path = tmp_path / "filled.npy"
    sa.full((64, 100), -1, "i4", file=path).close()
    script = """
        me = int(sys.argv[2])
        a = sa.open(sys.argv[1])
        for row in range(0, 64, 4):
            with a[row : row + 4].lock() as lock:
                assert not lock.abandoned
                if a[row, 0] == -1:
                    for column in range(100):
                        assert (a[row : row + 4, column] == -1).all()
                        a[row : row + 4, column] = me
                    a.flush()
    """
    head = "import sys\nimport sharedarray as sa\n"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(script), path, str(number)], env=environment()
        )
        for number in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    found = answer(
        """
        import sys, numpy as np
        from helpers import say
        a = np.load(sys.argv[1])
        say(a.tolist())
        """,
        path,
    )
    rows = np.array(found)
    assert rows.shape == (64, 100)
    assert (rows == rows[:, :1]).all()
    assert set(rows[:, 0].tolist()) <= {0, 1, 2, 3}


# -- Ctrl-C ---------------------------------------------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("timeout", [None, 1000])
def test_ctrl_c_ends_the_waiting_and_leaves_nothing(array: sa.SharedArray, timeout: float | None) -> None:
    script = """
        import json
        from lock_helpers import descriptors, free
        timeout = json.loads(sys.argv[1])
        a = sa.attach("locked")
        assert free(a[5].lock())
        before = descriptors()
        say()
        try:
            with a[:3].lock(timeout=timeout):
                say("got it")
        except KeyboardInterrupt:
            say(descriptors() - before)
        hear()
        with a[:3].lock(timeout=0) as lock:
            say(lock.abandoned)
    """
    number = inode("locked")
    assert number is not None
    with Puppet(script, "null" if timeout is None else timeout) as other:
        with array[2].lock():
            other.hear()
            if timeout is None:
                wait_until(lambda: waiters(number), "it waits")
            else:
                wait_until(lambda: _sleeps(other.pid), "it waits")
            other.process.send_signal(signal.SIGINT)
            assert other.hear() <= 0
        assert other.ask() is False
        other.end()


def _sleeps(pid: int) -> bool:
    return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()


@needs_signals
def test_ctrl_c_at_any_moment_leaves_no_lock_behind(array: sa.SharedArray) -> None:
    """Interrupts come at every place of a loop that locks; in the end all is free, and nothing is open."""
    script = """
        import gc, signal, time
        from lock_helpers import descriptors, end, free, start
        a = sa.attach("locked")
        b = sa.attach("locked")
        c = open(sys.argv[1], "r+b")
        assert free(a.lock()) and free(b.lock()) and free(sa.lock_file(c))
        gc.collect()
        before = descriptors()
        armed = False

        def interrupt(*_):
            if armed:
                raise KeyboardInterrupt

        def disturb():
            while os.getppid() == parent:
                os.kill(parent, signal.SIGINT)
                time.sleep(0.0002)

        signal.signal(signal.SIGINT, interrupt)
        parent = os.getpid()
        pid = start(disturb)
        interrupted = 0
        while interrupted < 1000:
            try:
                armed = True
                while True:
                    with a[2:5].lock(), b[6].lock(shared=True), sa.lock_file(c):
                        pass
                    with a[4].lock(timeout=60):
                        pass
            except KeyboardInterrupt:
                armed = False
                interrupted += 1
        os.kill(pid, signal.SIGKILL)
        end(pid)
        gc.collect()
        assert free(b.lock(timeout=0))
        assert free(sa.lock_file(c, timeout=0))
        say(descriptors() - before)
    """
    with tempfile.NamedTemporaryFile() as file, Puppet(script, file.name) as other:
        assert other.hear() <= 0
        other.end()
        assert free(sa.lock_file(file.name))
    assert free(array.lock(timeout=0))


# -- storms ---------------------------------------------------------------------------------------------

STORM = """
    import os, sys, time, signal, random
    import numpy as np
    import sharedarray as sa
    from helpers import KILLED, say, suicide
    from lock_helpers import any_end, start

    workers, pieces, every = map(int, sys.argv[1:])
    row = sa.zeros(256, "i8")                  # the piece that all of them write
    done = sa.zeros((workers, pieces), "i8")   # who has written what, each under the lock of the row
    rounds = sa.zeros(4, "i8")                 # rounds, kills, times told, and wrongly so
    longest = sa.zeros(workers, "f8")

    def work(me):
        lock = row.lock()
        for piece in range(pieces):
            if done[me, piece]:
                continue
            before = time.monotonic()
            with lock:
                longest[me] = max(longest[me], time.monotonic() - before)
                torn = row.min() != row.max()
                rounds[2] += lock.abandoned
                rounds[3] += lock.abandoned != torn
                if lock.abandoned:
                    row[:] = row.max()         # repaired: what the dead one was about to write is written
                value = int(row[0]) + 1
                rounds[0] += 1
                row[:128] = value
                if every and rounds[0] % every == 0:
                    rounds[1] += 1
                    suicide()
                row[128:] = value
                done[me, piece] += 1

    begun = time.monotonic()
    running = {start(lambda me=me: work(me)): me for me in range(workers)}
    while running:
        pid, status = any_end()
        me = running.pop(pid)
        if status == KILLED:
            running[start(lambda: work(me))] = me
        else:
            assert status == 0, status
    seconds = float(longest.max()), time.monotonic() - begun
    with row.lock() as lock:
        whole = bool((row == row[0]).all())
        say([int(row[0]), whole, done.tolist(), rounds.tolist(), seconds, lock.abandoned])
"""


def _storm(workers: int, pieces: int, every: int) -> None:
    written, whole, done, rounds, (waited, seconds), abandoned = answer(STORM, workers, pieces, every)
    count, kills, told_of, wrongly = rounds
    assert whole
    assert done == [[1] * pieces] * workers  # no piece lost, none twice
    assert written == count == workers * pieces + kills
    assert kills == (count // every if every else 0)
    assert told_of == kills
    assert wrongly == 0
    assert waited < max(20, seconds / 2)  # none is left out until the others are done
    assert not abandoned


@many_starts
@pytest.mark.parametrize(
    ("pieces", "every"),
    [(100, 10), pytest.param(500, 10, marks=pytest.mark.slow), pytest.param(500, 0, marks=pytest.mark.slow)],
    ids=["every tenth round kills the holder", "more pieces", "no death"],
)
def test_8_writers_of_many_pieces_to_one_range(pieces: int, every: int) -> None:
    # Without fork, the next child after one that was killed takes a second to start.
    _storm(*((8, pieces) if FORKS or not every else (4, 15)), every)


KILLS_AT_ANY_MOMENT = """
    import os, random, signal, sys, time
    import numpy as np
    import sharedarray as sa
    from helpers import KILLED, kill, say, suicide
    from lock_helpers import any_end, end, start

    kills, seed = map(int, sys.argv[1:])
    data = sa.zeros(64, "u1")     # 1 where a process writes, or has died
    counts = sa.zeros((4, 3), "i8")

    def work(me, seed):
        chance = random.Random(seed)
        while True:
            first = chance.randrange(64)
            view = data[first : first + chance.choice((1, 5, 20, 64))]
            shared = chance.random() < 0.2
            with view.lock(shared=shared) as lock:
                dirty = bool(view.any())
                if dirty and not lock.abandoned:
                    os._exit(99)
                counts[me, 0] += 1
                counts[me, 1] += lock.abandoned
                counts[me, 2] += lock.abandoned and not dirty
                if not shared:
                    view[:] = 1
                    view[:] = 0

    chance = random.Random(seed)
    pids = [start(lambda me=me: work(me, chance.random())) for me in range(3)]
    for number in range(kills):
        time.sleep(chance.random() * 0.004)
        me = chance.randrange(3)
        kill(pids[me])
        assert end(pids[me]) == KILLED, number
        pids[me] = start(lambda: work(me, chance.random()))
    for pid in pids:
        kill(pid)
        assert end(pid) == KILLED
    with data.lock(timeout=60) as lock:
        assert lock.abandoned or not data.any()
        data[:] = 0
    with data.lock(timeout=60) as lock:
        assert not lock.abandoned
    from sharedarray import _intents as intents
    (table,) = intents._tables.values()
    say([*counts.sum(0).tolist(), table.words[intents.COUNT]])
"""


def _kill_at_any_moment(kills: int, seed: int) -> None:
    limit = ANSWER + kills / 10  # seconds: a kill and the next start take 0.07 s if all processors are busy
    taken, told_of, in_vain, slots = answer(KILLS_AT_ANY_MOMENT, kills, seed, timeout=limit)
    assert taken > 10 * kills
    assert told_of > 0 or kills < 500  # of a few, all may come while no lock is held
    assert in_vain <= told_of
    assert slots < 300


@needs_fork
def test_kills_at_any_moment_are_never_missed() -> None:
    _kill_at_any_moment(50, 1)


@needs_fork
@pytest.mark.slow
def test_many_kills_at_any_moment_are_never_missed() -> None:
    _kill_at_any_moment(1500, 0)
