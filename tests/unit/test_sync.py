"""Events, semaphores, conditions and barriers by name, as `threading`'s, among processes that may die."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from threading import BrokenBarrierError
from typing import Any

import pytest
from helpers import ANSWER, FORKS, Puppet, first_steps, interrupted_at, wait_until

import sharedarray as sa
from sharedarray._sync import block as layout, parties, primitive as base

pytestmark = pytest.mark.skipif(not FORKS, reason="these systems have no wakers")

SERVE = """
objects = {}
say("up")
while True:
    request = hear()
    if request is None:
        break
    kind, name, method, *arguments = request
    if kind not in objects:
        objects[kind] = getattr(sa, kind)(name)
        say("made")
        continue
    try:
        say(getattr(objects[kind], method)(*arguments))
    except Exception as error:
        say(type(error).__name__)
"""


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


class Other:
    """An object of another process: methods are called there, in order."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        self.puppet = Puppet(SERVE)
        self.puppet.hear()
        self.puppet.say((kind, name, ""))
        assert self.puppet.hear() == "made"

    def begin(self, method: str, *arguments: object) -> None:
        self.puppet.say((self.kind, self.name, method, *arguments))

    def end(self) -> Any:
        return self.puppet.hear()

    def __call__(self, method: str, *arguments: object) -> Any:
        self.begin(method, *arguments)
        return self.end()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.puppet.process.poll() is None:
            self.puppet.say(None)
            self.puppet.process.wait(ANSWER)
        self.puppet.__exit__(*exception)

    def kill(self) -> None:
        self.puppet.process.kill()
        self.puppet.process.wait(ANSWER)


def sleeping(primitive: base.Primitive) -> int:
    """Return how many parties sleep."""
    words = primitive._words
    return sum(bool(words[own - layout.OWN + layout.ASLEEP]) for own in primitive._own_words())


def asleep(primitive: base.Primitive, count: int = 1) -> None:
    wait_until(lambda: sleeping(primitive) >= count, f"{count} parties sleep", ANSWER)


class Thread(threading.Thread):
    """Runs a function; `end` returns its result, or raises its exception."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def end(self) -> Any:
        self.join(ANSWER)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


# -- events -----------------------------------------------------------------------------------------------


def test_an_event_wakes_all_that_wait_even_if_it_is_cleared_at_once() -> None:
    event = sa.Event("go")
    assert not event.is_set()
    assert not event.wait(timeout=0.01)
    with Other("Event", "go") as first, Other("Event", "go") as second:
        first.begin("wait", 60)
        second.begin("wait", 60)
        asleep(event, 2)
        event.set()
        event.clear()
        assert (first.end(), second.end()) == (True, True)
        assert first("is_set") is False
        first("set")
        assert event.wait()
        assert event.is_set()
    event.close()
    event.close()
    with pytest.raises(sa.BlockClosedError, match="go"):
        event.set()


def test_an_event_lives_as_long_as_an_object_that_uses_it() -> None:
    event = sa.Event("lasting")
    again = sa.Event("lasting")
    event.set()
    event.close()
    del event
    assert again.is_set()
    again.close()
    del again
    assert not sa.exists("lasting")


def _killed_at(step: int, function: Callable[[], object]) -> int:
    """Run a function in a fork that kills itself at a step of this library; return the exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            remaining = step

            def trace(frame: Any, event: str, argument: object) -> Any:
                nonlocal remaining
                if "sharedarray" not in frame.f_code.co_filename:
                    return None
                if event == "line":
                    remaining -= 1
                    if remaining < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            function()
            sys.settrace(None)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


EVERY = pytest.mark.parametrize("every", [41, pytest.param(3, marks=pytest.mark.slow)])


def _each_step(function: Callable[[], object], every: int) -> Iterator[int]:
    """Kill a process at some steps of a function, and yield after each, until it comes through.

    Every run begins with another step, so that many runs come to all steps.
    """
    for step in range(random.randrange(every), 10_000, every):
        status = _killed_at(step, function)
        yield step
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


@EVERY
def test_a_process_that_is_killed_at_any_step_of_set_loses_no_wake_up(every: int) -> None:
    event = sa.Event("killed")
    steps = 0
    waiter = Thread(event.wait)
    asleep(event)
    for step in _each_step(event.set, every):
        steps = step
        if event.is_set():
            assert waiter.end()
            event.clear()
            waiter = Thread(event.wait)
            asleep(event)
    assert steps > 30
    event.set()
    assert waiter.end()
    event.close()


# -- semaphores -------------------------------------------------------------------------------------------


def test_a_semaphore_counts_among_processes() -> None:
    semaphore = sa.Semaphore("units", 2)
    with Other("Semaphore", "units") as other:
        assert other("acquire") is True
        assert semaphore.acquire()
        assert not semaphore.acquire(blocking=False)
        assert not semaphore.acquire(timeout=0.01)
        assert semaphore.value == 0
        other.begin("acquire", True, 60)
        asleep(semaphore)
        semaphore.release()
        assert other.end() is True
        other("release", 2)
        assert semaphore.value == 2
        semaphore.release()  # without one of its own: one more
        assert semaphore.value == 3
    with pytest.raises(ValueError, match="n must be"):
        semaphore.release(0)
    with pytest.raises(ValueError, match="timeout"):
        semaphore.acquire(blocking=False, timeout=1)
    with semaphore:
        assert semaphore.value == 2
    semaphore.close()


def test_units_of_a_process_that_is_killed_come_back() -> None:
    semaphore = sa.Semaphore("returned", 1)
    with Other("Semaphore", "returned") as other:
        assert other("acquire")
        waiter = Thread(semaphore.acquire)
        asleep(semaphore)
        other.kill()
        assert waiter.end() is True
    assert semaphore.abandoned
    semaphore.release()
    with semaphore:
        assert not semaphore.abandoned
    semaphore.close()


def test_units_of_a_process_that_ends_come_back_without_being_abandoned() -> None:
    semaphore = sa.Semaphore("ended", 1)
    with Other("Semaphore", "ended") as other:
        assert other("acquire")
    assert semaphore.acquire(timeout=ANSWER)
    assert not semaphore.abandoned
    semaphore.close()


@EVERY
def test_a_process_that_is_killed_at_any_step_loses_no_unit(every: int) -> None:
    semaphore = sa.Semaphore("steps", 2)

    def use() -> None:
        semaphore.acquire()
        semaphore.release()

    steps = 0
    for step in _each_step(use, every):
        steps = step
        with semaphore, semaphore:
            pass
        assert semaphore.value == 2
    assert steps > 60
    semaphore.close()


# -- conditions -------------------------------------------------------------------------------------------


def test_a_condition_notifies_processes() -> None:
    condition = sa.Condition("changed")
    with Other("Condition", "changed") as first, Other("Condition", "changed") as second:
        for other in (first, second):
            other("acquire")
            other.begin("wait", 60)
            asleep(condition, 1 + (other is second))
        with condition:
            condition.notify()
        woken = wait_until_one_speaks(first, second)
        assert woken.end() is True
        woken("release")
        late = second if woken is first else first
        with condition:
            condition.notify_all()
        assert late.end() is True
        late("release")
    with condition:
        assert condition.wait(0.01) is False
        assert condition.wait_for(lambda: 7, timeout=1) == 7
        assert condition.wait_for(lambda: 0, timeout=0.01) == 0
    condition.close()


def wait_until_one_speaks(*others: Other) -> Other:
    found: list[Other] = []

    def look() -> bool:
        found[:] = [other for other in others if not other.puppet.silent(0.01)]
        return bool(found)

    wait_until(look, "one was notified", ANSWER)
    return found[0]


def test_a_condition_needs_its_lock() -> None:
    condition = sa.Condition()
    for method in (condition.wait, condition.notify, condition.notify_all, condition.release):
        with pytest.raises(RuntimeError, match="un-acquired"):
            method()
    with condition, pytest.raises(sa.DeadlockError):
        condition.acquire()
    assert condition.acquire(timeout=1)
    assert Thread(lambda: condition.acquire(blocking=False)).end() is False
    condition.release()
    condition.close()


def test_the_death_of_the_locks_holder_frees_it_and_is_told() -> None:
    condition = sa.Condition("held")
    with Other("Condition", "held") as other:
        other("acquire")
        waiter = Thread(condition.acquire)
        other.kill()
        assert waiter.end() is True
    assert condition.abandoned
    condition._holder = threading.get_ident()  # of the thread that took it
    condition.release()
    with condition:
        assert not condition.abandoned
    condition.close()


def test_a_notification_does_not_die_with_the_process_that_got_it() -> None:
    condition = sa.Condition("passed_on")
    with Other("Condition", "passed_on") as other:
        other("acquire")
        other.begin("wait", 60)
        asleep(condition)

        def wait() -> bool:
            with condition:
                return condition.wait(60)

        waiter = Thread(wait)
        asleep(condition, 2)
        other.kill()
        assert waiter.end() is True
    condition.close()


# -- barriers ---------------------------------------------------------------------------------------------


def test_a_barrier_lets_all_go_on_together() -> None:
    actions: list[int] = []
    barrier = sa.Barrier("step", 3, action=lambda: actions.append(barrier.n_waiting))
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    with Other("Barrier", "step") as first, Other("Barrier", "step") as second:
        for _ in range(3):
            first.begin("wait", 60)
            second.begin("wait", 60)
            wait_until(lambda: barrier.n_waiting == 2, "both have arrived", ANSWER)
            assert sorted([barrier.wait(60), first.end(), second.end()]) == [0, 1, 2]
    assert actions == [3, 3, 3]
    assert barrier.n_waiting == 0
    barrier.close()


def test_many_threads_pass_a_barrier_many_times() -> None:
    barrier = sa.Barrier(None, 4)
    threads = [Thread(lambda: [barrier.wait(ANSWER) for _ in range(50)]) for _ in range(4)]
    rounds = zip(*[thread.end() for thread in threads], strict=True)
    assert {tuple(sorted(indices)) for indices in rounds} == {(0, 1, 2, 3)}
    barrier.close()


def test_a_barrier_breaks() -> None:
    barrier = sa.Barrier("breaks", 2, timeout=0.01)
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        barrier.wait(60)
    barrier.reset()
    assert not barrier.broken
    waiter = Thread(lambda: barrier.wait(60))
    wait_until(lambda: barrier.n_waiting == 1, "it has arrived", ANSWER)
    barrier.reset()
    with pytest.raises(BrokenBarrierError):
        waiter.end()
    waiter = Thread(lambda: barrier.wait(60))
    wait_until(lambda: barrier.n_waiting == 1, "it has arrived", ANSWER)
    barrier.abort()
    with pytest.raises(BrokenBarrierError):
        waiter.end()
    barrier.close()

    def fail() -> None:
        raise LookupError

    barrier = sa.Barrier(None, 1, action=fail)
    with pytest.raises(LookupError):
        barrier.wait()
    assert barrier.broken
    barrier.close()


@pytest.mark.parametrize("when", ["while it waits", "after it has passed"])
def test_the_death_of_a_process_that_takes_part_breaks_a_barrier(when: str) -> None:
    barrier = sa.Barrier("partners", 2 if when == "after it has passed" else 3)
    with Other("Barrier", "partners") as other:
        other.begin("wait", 60)
        wait_until(lambda: barrier.n_waiting == 1, "it has arrived", ANSWER)
        if when == "after it has passed":
            barrier.wait(60)
            other.end()
        waiter = Thread(lambda: barrier.wait(60))
        asleep(barrier, 2 - (when == "after it has passed"))
        other.kill()
        with pytest.raises(BrokenBarrierError):
            waiter.end()
    barrier.reset()
    assert not barrier.broken
    barrier.close()


def _take_part(barrier: sa.Barrier) -> None:
    barrier.wait(ANSWER)


def test_a_process_that_ends_by_itself_breaks_nothing() -> None:
    """A child of multiprocessing ends without Python's own clean-up."""
    barrier = sa.Barrier("leaves", 2)
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=_take_part, args=(barrier,))
        child.start()
        barrier.wait(ANSWER)
        child.join(ANSWER)
        assert child.exitcode == 0
        child.close()
    with Other("Barrier", "leaves") as other:
        other.begin("wait", 60)
        barrier.wait(ANSWER)
        other.end()
    assert not barrier.broken
    barrier.close()


# -- all kinds --------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[str | None], Any]] = {
    "Event": sa.Event,
    "Semaphore": sa.Semaphore,
    "Condition": sa.Condition,
    "Barrier": lambda name: sa.Barrier(name, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken_by_another_kind(kind: str) -> None:
    array = sa.zeros(3, name="taken")
    with pytest.raises(sa.BlockExistsError, match=kind.lower()):
        KINDS[kind]("taken")
    array.close()
    made = KINDS[kind]("kind")
    assert [(block.name, block.kind) for block in sa.blocks()] == [("kind", kind.lower())]
    for other in KINDS.values():
        if other is not KINDS[kind]:
            with pytest.raises(sa.BlockExistsError, match="kind"):
                other("kind")
    assert "kind" in repr(made)
    made.unlink()
    assert not sa.exists("kind")
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_closing_frees_the_block_though_the_object_is_kept(kind: str) -> None:
    made = KINDS[kind]("kept")
    made._become_party(None)
    made.close()
    assert not sa.exists("kept")


def test_values_that_do_not_fit() -> None:
    semaphore, barrier = sa.Semaphore("value", 3), sa.Barrier("number", 3)
    assert sa.Semaphore("value").value == 3
    assert sa.Barrier("number").parties == 3
    for wrong in (lambda: sa.Semaphore("value", 2), lambda: sa.Barrier("number", 2)):
        with pytest.raises(sa.BlockExistsError, match="another value"):
            wrong()
    for value in (-1, 1 << 64):
        with pytest.raises(ValueError, match=str(value)):
            sa.Semaphore(None, value)
    with pytest.raises(ValueError, match="n must be"):
        semaphore.release(1 << 64)
    for wrong in (lambda: sa.Semaphore(None, 1.5), lambda: sa.Barrier(None, 1.5)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="float"):
            wrong()
    with pytest.raises(ValueError, match="parties"):
        sa.Barrier(None, 0)
    with pytest.raises(TypeError, match="parties"):
        sa.Barrier("none_of_this_name")
    semaphore.close()
    barrier.close()


@pytest.mark.parametrize("kind", KINDS)
def test_they_travel_to_tasks_by_reference(kind: str, own_directory: str) -> None:
    made = KINDS[kind](None)
    with sa.Pool(1) as pool:
        assert pool.submit(getattr, made, "name").result() == made.name
    with pytest.raises(sa.NotPicklableError, match="name"):
        pickle.loads(pickle.dumps(made))
    made.close()


def test_a_fork_is_another_party() -> None:
    semaphore = sa.Semaphore("forked", 1)
    assert semaphore.acquire()
    pid = os.fork()
    if pid == 0:
        try:
            semaphore.acquire()
        finally:
            os._exit(7)
    asleep(semaphore)
    semaphore.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert semaphore.acquire(timeout=ANSWER)
    assert semaphore.abandoned
    semaphore.close()


def in_fork(function: Callable[[], object]) -> None:
    """Call a function in a forked child, which must return."""
    child = os.fork()
    if not child:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("uses", [False, True])
def test_a_forked_child_that_leaves_a_with_statement_gives_no_unit_back(uses: bool) -> None:
    semaphore = sa.Semaphore("left", 2)

    def leave() -> None:
        if uses:
            with semaphore:  # the unit that is free
                assert semaphore.value == 0
        semaphore.__exit__(None, None, None)

    with semaphore:
        in_fork(leave)
        assert semaphore.value == 1
    assert semaphore.value == 2
    semaphore.close()


def test_a_forked_child_does_not_hold_the_lock_of_a_condition() -> None:
    condition = sa.Condition("held")

    def use() -> None:
        for call in (condition.wait, condition.notify, condition.release):
            with pytest.raises(RuntimeError, match="un-acquired"):
                call()
        assert not condition.acquire(timeout=0.001)

    def leave() -> None:
        condition.__exit__(None, None, None)

    with condition:
        for each in (use, leave, lambda: (use(), leave())):
            in_fork(each)
        condition.notify()
    in_fork(condition.acquire)
    condition.close()


def test_the_number_of_parties_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parties, "ENTRIES", 3)
    events = [sa.Event("crowd") for _ in range(4)]
    for event in events[:3]:
        event.set()
    with pytest.raises(sa.LimitError, match="crowd"):
        events[3].set()
    assert events[3].is_set()
    events[0].close()
    events[3].clear()
    assert not events[1].is_set()
    for event in events:
        event.close()


def test_ctrl_c_breaks_a_wait_and_leaves_all_usable() -> None:
    event = sa.Event("broken_off")

    def interrupt() -> None:
        asleep(event)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    for _ in range(3):
        thread = Thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            event.wait(ANSWER)
        thread.end()
    event.set()
    assert event.wait()
    event.close()


# No code of Python's can be sure to begin with a method of this name.
NEVER = (sa.Condition.__exit__.__code__,)


def _in_lock(condition: sa.Condition) -> None:
    with condition:
        condition.notify()


def _wait_shortly(condition: sa.Condition) -> None:
    with condition:
        condition.wait(0.0)


USES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "event": (lambda: sa.Event("used"), lambda event: event.set()),
    "semaphore": (lambda: sa.Semaphore("used", 1), lambda semaphore: semaphore.acquire(timeout=0)),
    "condition": (lambda: sa.Condition("used"), _in_lock),
    "wait": (lambda: sa.Condition("used"), _wait_shortly),
    "barrier": (lambda: sa.Barrier("used", 1), lambda barrier: barrier.wait(0)),
    "close": (lambda: sa.Event("used"), lambda event: event.close()),
}


def _steps(use: str, which: str) -> Iterable[int]:
    """Return every step of a use, or one for each place in the modules of these classes."""
    if which == "every":
        return range(10_000)
    make, call = USES[use]
    for _ in range(2):  # the first call of all has more steps
        made = make()
        found = first_steps("sharedarray/_sync/", lambda made=made: call(made), NEVER)  # type: ignore[misc]
        made.close()
    assert len(found) > 20
    return [*found, 10_000]  # no call has so many


@pytest.mark.parametrize("which", ["places", pytest.param("every", marks=pytest.mark.slow)])
@pytest.mark.parametrize("use", USES)
def test_ctrl_c_at_any_step_leaves_both_sides_usable(use: str, which: str) -> None:
    make, call = USES[use]
    other = make()
    count = 0
    for count, step in enumerate(_steps(use, which)):  # noqa: B007
        made = make()
        if not interrupted_at(step, lambda made=made: call(made), NEVER):  # type: ignore[misc]
            break
        for usable in (other, made) if use != "close" else (other,):
            if use == "semaphore":
                assert usable.value in (0, 1)  # it may be taken, by a call whose result was lost
            else:
                assert Thread(lambda usable=usable: (call(usable), True)).end()[1]  # type: ignore[misc]
            if use == "barrier":
                usable.reset()
        made.close()
        if use == "semaphore":
            assert other.acquire(timeout=ANSWER)
            other.release()
        elif use == "close":
            other = make()
    made.close()
    assert count > 20
    other.close()


def test_an_object_that_is_collected_while_another_one_changes_the_state(own_directory: str) -> None:
    """Its finalizer does not wait for the lock that this very thread has."""
    first, second = sa.Semaphore("two", 2), sa.Semaphore("two")
    assert second.acquire()
    with first._change():
        del second
        gc.collect()
    assert first.acquire(timeout=ANSWER)
    assert first.acquire(timeout=ANSWER)
    first.close()


def test_closing_ends_the_wait_of_another_thread() -> None:
    event = sa.Event("ended")
    waiter = Thread(event.wait)
    asleep(event)
    event.close()
    with pytest.raises(sa.BlockClosedError, match="ended"):
        waiter.end()


# -- descriptors ------------------------------------------------------------------------------------------


def test_a_selector_tells_of_an_event() -> None:
    event = sa.Event("watched")
    with Other("Event", "watched") as other, selectors.DefaultSelector() as selector:
        selector.register(event, selectors.EVENT_READ)
        descriptor = event.fileno()
        for _ in range(2):
            assert selector.select(0) == []
            assert not event.ready()
            other("set")
            assert selector.select(ANSWER)
            assert event.ready()
            assert event.is_set()
            assert selector.select(0)
            event.clear()
            assert not event.is_set()
        assert event.fileno() == descriptor
        assert not event.is_set()
        assert selector.select(0) == []
        event.set()
        assert selector.select(ANSWER)
        selector.unregister(event)
    event.close()
    assert event.ready()
    with pytest.raises(sa.BlockClosedError):
        event.fileno()


def test_closing_an_event_ends_the_wait_for_a_descriptor() -> None:
    event = sa.Event("watched")
    event.fileno()
    waiter = Thread(lambda: sa.wait([event]))
    event.close()
    assert waiter.end().done == {event}


@EVERY
def test_a_process_that_is_killed_at_any_step_of_set_wakes_a_selector(every: int) -> None:
    event = sa.Event("killed")
    steps = 0
    with selectors.DefaultSelector() as selector:
        selector.register(event, selectors.EVENT_READ)
        for step in _each_step(sa.Event("killed").set, every):
            steps = step
            while selector.select(0):
                if event.is_set():
                    event.clear()
            assert not event._words[layout.FIRST] & 1  # or the selector would have told
    assert steps > 30
    event.close()


def test_arguments_of_other_libraries_primitives() -> None:
    semaphore, condition, event = sa.Semaphore(None, 1), sa.Condition(), sa.Event()
    assert semaphore.acquire(1)  # type: ignore[arg-type]
    for acquire in (semaphore.acquire, condition.acquire):
        for given in (0.05, "x", 5):  # which once waited without a limit
            with pytest.raises(TypeError, match=r"blocking is True or False, .* write timeout="):
                acquire(given)  # type: ignore[arg-type]
    for wait in (event.wait, lambda timeout: semaphore.acquire(timeout=timeout)):
        with pytest.raises(TypeError, match="timeout is a number of seconds, or None; not 'x'"):
            wait("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        semaphore.release("x")  # type: ignore[arg-type]
    for make in (sa.Barrier, sa.Semaphore):
        with pytest.raises(TypeError, match=rf"write {make.__name__}\(None, 2\) or"):
            make(2)
    for each in (semaphore, condition, event):
        each.close()
