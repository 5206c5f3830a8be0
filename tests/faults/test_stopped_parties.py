"""A process is stopped in the middle of a change: others end in time, and go on when it goes on."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from threading import BrokenBarrierError
from typing import Any

import pytest
from helpers import ANSWER, FORKS, SIGNALS, Puppet, wait_until
from stream_steps import LIBRARY, stopped_at, stopped_once

import sharedarray as sa
from sharedarray._sync import mutex
from sharedarray._sync.parties import Parties
from sharedarray._sync.primitive import Primitive

pytestmark = pytest.mark.skipif(not (FORKS and SIGNALS), reason="needs fork and signals")

PATIENCE = 0.01  # seconds, in these tests, for which a call with a timeout of 0 waits for a change
TIMEOUT = 0.001
STRIDE = int(os.environ.get("SHAREDARRAY_STRIDE", "97"))  # 1 to stop at every bytecode


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutex, "PATIENCE", PATIENCE)


def in_time(function: Callable[[], Any]) -> None:
    """Call a function in a thread; fail if it hangs, or fails."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(ANSWER)
    assert results, "the call hangs, or has failed"


def passes(barrier: sa.Barrier) -> bool:
    try:
        barrier.wait(TIMEOUT)
    except BrokenBarrierError:
        return False
    return True


def use_event() -> None:
    event = sa.Event("stopped")
    event.set()
    event.wait(0)
    event.close()


def use_semaphore() -> None:
    semaphore = sa.Semaphore("stopped")
    if semaphore.acquire(timeout=ANSWER):
        semaphore.release()
    semaphore.close()


def use_condition() -> None:
    condition = sa.Condition("stopped")
    with condition:
        condition.notify_all()
        condition.wait(0)
    condition.close()


def use_barrier() -> None:
    barrier = sa.Barrier("stopped")
    try:
        barrier.wait(0)
    except BrokenBarrierError:
        barrier.reset()
    barrier.close()


def wait_in_lock(condition: sa.Condition) -> bool:
    if not condition.acquire(timeout=TIMEOUT):
        return False
    try:
        return condition.wait(TIMEOUT)
    finally:
        condition.release()


def close_event(event: sa.Event) -> bool:
    sa.Event(event.name).close()
    other = sa.Event(event.name)
    other.wait(TIMEOUT)
    other.close()
    return True


def wait_for_descriptor(event: sa.Event) -> bool:
    return bool(sa.wait([event], timeout=TIMEOUT).done)


# Of each kind: making one, what the process does that is stopped, the calls of others, whether all is right.
Use = tuple[Callable[[], Any], Callable[[], None], tuple[Callable[[Any], Any], ...], Callable[[Any], Any]]
USES: dict[str, Use] = {
    "event": (
        lambda: sa.Event("stopped"),
        use_event,
        (lambda event: event.wait(TIMEOUT), wait_for_descriptor, close_event),
        lambda event: event.is_set() and event.wait(ANSWER) and wait_for_descriptor(event),
    ),
    "semaphore": (
        lambda: sa.Semaphore("stopped", 1),
        use_semaphore,
        (lambda semaphore: semaphore.acquire(timeout=TIMEOUT) and (semaphore.release() or True),),
        lambda semaphore: semaphore.value == 1 and semaphore.acquire(timeout=0) and not semaphore.release(),
    ),
    "condition": (
        lambda: sa.Condition("stopped"),
        use_condition,
        (wait_in_lock, lambda condition: wait_in_lock(sa.Condition(condition.name))),
        lambda condition: condition.acquire(timeout=ANSWER) and not condition.release(),
    ),
    "barrier": (
        lambda: sa.Barrier("stopped", 2),
        use_barrier,
        (passes,),
        lambda barrier: not barrier.reset() and passes_with_another(barrier),
    ),
}


def passes_with_another(barrier: sa.Barrier) -> bool:
    other = threading.Thread(target=lambda: sa.Barrier(barrier.name).wait(ANSWER))
    other.start()
    barrier.wait(ANSWER)
    other.join(ANSWER)
    return True


def in_a_change(stop: Callable[[], None]) -> None:
    """Stop this process when it next changes the state, while it holds the lock."""
    wake = Parties._wake_sleepers

    def stop_and_wake(self: Parties) -> None:
        stop()
        wake(self)

    Parties._wake_sleepers = stop_and_wake  # type: ignore[method-assign]


def all_in_time(made: Any, calls: tuple[Callable[[Any], Any], ...]) -> None:
    for call in calls:
        in_time(partial(call, made))


@pytest.mark.parametrize("kind", USES)
def test_timeouts_hold_while_another_process_is_stopped_as_it_changes_the_state(kind: str) -> None:
    make, use, calls, right = USES[kind]
    made = make()
    with stopped_once(in_a_change, use) as stopped:
        assert stopped
        all_in_time(made, calls)
    assert right(made)
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", USES)
@pytest.mark.timeout(3600)
def test_timeouts_hold_while_another_process_is_stopped_at_any_step(kind: str) -> None:
    make, use, calls, right = USES[kind]
    steps, going = random.randrange(STRIDE) + 1, True
    while going:
        made = make()
        with stopped_at(steps, use, (LIBRARY,)) as going:
            all_in_time(made, calls)
        assert right(made)
        made.close()
        steps += STRIDE
    assert steps > 200


def test_a_party_that_gives_up_breaks_a_barrier_though_another_process_is_stopped() -> None:
    barrier, other = sa.Barrier("stopped", 3), sa.Barrier("stopped")
    outcomes: list[type[BaseException] | None] = []

    def wait() -> None:
        try:
            barrier.wait(ANSWER)
            outcomes.append(None)
        except BrokenBarrierError as error:
            outcomes.append(type(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: barrier.n_waiting == 1, "it has arrived", ANSWER)
    other._become_party(None)
    with stopped_once(in_a_change, lambda: sa.Barrier("stopped").abort()) as stopped:  # as it becomes a party
        assert stopped
        assert not barrier.broken
        assert not passes(other)
        waiter.join(ANSWER)
        assert outcomes == [BrokenBarrierError]
        assert barrier.broken
    barrier.reset()
    assert not barrier.broken
    barrier.close()
    other.close()


def interrupt_in(function: Callable[..., object]) -> None:
    """Send SIGINT to the main thread once it is in a function."""
    main = threading.main_thread().ident or 0

    def is_there() -> bool:
        frame: Any = sys._current_frames()[main]
        while frame is not None and frame.f_code is not function.__code__:  # type: ignore[attr-defined]
            frame = frame.f_back
        return frame is not None

    wait_until(is_there, f"the main thread is in {function.__name__}", ANSWER)
    signal.pthread_kill(main, signal.SIGINT)


def test_ctrl_c_ends_a_wait_though_the_holder_of_the_lock_of_a_condition_is_stopped() -> None:
    condition = sa.Condition("stopped")
    stop_child: list[Callable[[], None]] = []

    def hold() -> None:
        with sa.Condition("stopped"):  # free once the main thread waits
            stop_child[0]()

    def interrupt() -> None:
        with stopped_once(stop_child.append, hold) as stopped:
            assert stopped
            interrupt_in(Primitive._wait)
            interrupt_in(sa.Condition._take_again)
            ended.wait(ANSWER)

    def wait() -> None:
        with condition:
            thread.start()
            condition.wait()

    ended = threading.Event()
    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait()
    ended.set()
    thread.join(ANSWER)
    with condition:
        condition.notify()
    condition.close()


def test_ctrl_c_breaks_the_wait_for_a_process_that_is_stopped() -> None:
    event = sa.Event("stopped")

    def interrupt() -> None:
        interrupt_in(mutex.Mutex.take)

    def use() -> None:
        sa.Event("stopped").set()

    with stopped_once(in_a_change, use) as stopped:
        assert stopped
        for call in (event.set, event.clear):
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                call()
            thread.join()
    assert event.wait(ANSWER)
    event.set()
    event.close()


@pytest.mark.slow
def test_a_process_ends_while_another_one_is_stopped_as_it_changes_the_state() -> None:
    event = sa.Event("stopped")
    event.clear()
    with stopped_once(in_a_change, use_event) as stopped:
        assert stopped
        with Puppet("event = sa.Event('stopped'); event.wait(0.01); say(); hear()") as puppet:
            puppet.hear()
            puppet.end()
    assert event.is_set()
    event.close()
