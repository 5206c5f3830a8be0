"""Which worker gets which calls: the scheduler's policies, without processes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from needs import few

from sharedarray._pool import dispatcher, scheduler, worker_handle
from sharedarray._pool.calls import FunctionStats, Task
from sharedarray._pool.dispatcher import Dispatcher
from sharedarray._pool.stats import Statistics
from sharedarray._pool.worker_handle import WorkerHandle


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
    assert placed([one, two], item)[0] is two
    assert placed([two, one], item)[0] is two


@pytest.mark.parametrize("accepts", [False, True])
def test_a_slow_item_is_sent_ahead_in_turn_only(accepts):
    """The other worker has more, as far as the pool knows; or it accepts nothing for a moment."""
    just_given = Worker("just given", load=1, turn=8)
    other = Worker("other", load=2, turn=7, accepts=accepts)
    assert placed([just_given, other], Item(Durations(0.002))) == (None, 0)
    assert placed([just_given, other], Item(Durations(0.0003))) == (just_given, 1)
    other.accepts, other.is_ending = False, True
    assert placed([just_given, other], Item(Durations(0.002))) == (just_given, 1)


def test_a_worker_without_calls_gets_an_item_out_of_turn():
    free = Worker("free", load=0, turn=8)
    assert placed([free, Worker("other", load=2, turn=7)], Item(Durations(0.002))) == (free, 1)


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


def placed(there, item, *more):
    """Return the worker that gets the next items, the first of several, and how many."""
    chosen, count = scheduler.place(there, item, *more)
    return (chosen[0] if chosen else None), count


def workers(*loads, **more):
    return [Worker(str(number), load, **more) for number, load in enumerate(loads)]


def small(seconds=None, **more):
    return Item(Durations(seconds), is_small=True, **more)


# -- depth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        small(independent=False),
        small(independent=True),
        Item(Durations(None)),
        small(scheduler.SHORT * 1.01, independent=False),
        Item(Durations(1.0), independent=False),
        small(1e-6, independent=False, limit=1.0),
        Item(Durations(1e-6, count=scheduler.TRUSTED - 1), independent=False, is_small=True),
    ],
)
def test_one_at_a_time_if_little_is_known_or_calls_are_long_or_limited(item):
    assert scheduler.depth(item) == 1


def test_short_calls_are_batched_by_their_measured_duration():
    for seconds in (1e-6, 1e-5, 1e-4, scheduler.SHORT):
        most = scheduler.depth(small(seconds, independent=False))
        assert most == min(scheduler.DEEPEST, int(scheduler.AHEAD / seconds))
    assert scheduler.depth(small(0.0, independent=False)) == scheduler.DEEPEST


def test_small_items_of_a_map_are_ahead_by_their_duration_whatever_that_is():
    assert scheduler.depth(small(1e-3)) == int(scheduler.MAP_AHEAD / 1e-3)
    assert scheduler.depth(small(10.0)) == 2
    assert scheduler.depth(small(1e-9)) == scheduler.DEEPEST
    assert scheduler.depth(small(1e-3, limit=5.0)) == int(scheduler.MAP_AHEAD / 1e-3)


def test_large_arguments_or_results_wait_two_at_a_time():
    assert scheduler.depth(Item(Durations(1e-6))) == scheduler.LARGE_DEEPEST == 2
    assert scheduler.depth(Item(Durations(1e-6), independent=False)) == 2
    assert scheduler.depth(Item(Durations(1e-6, result=1 << 20), independent=False, is_small=True)) == 2
    assert scheduler.depth(Item(Durations(5.0))) == 2


# -- place ----------------------------------------------------------------------------------------------


def test_the_worker_with_the_fewest_calls_gets_the_next_ones():
    three = workers(5, 2, 9)
    assert placed(three, small(1e-5, independent=False))[0] is three[1]
    three[1].accepts = False
    assert placed(three, small(1e-5, independent=False))[0] is three[0]


def test_no_worker_gets_anything_if_none_accepts():
    assert placed([], Item()) == (None, 0)
    assert placed(workers(0, 0, accepts=False), Item()) == (None, 0)


def test_all_have_enough():
    assert placed(workers(1, 1), Item(Durations(None))) == (None, 0)
    assert placed(workers(2, 2), Item(Durations(5.0))) == (None, 0)


def test_more_is_sent_when_half_is_done():
    item = small(scheduler.AHEAD / 100, independent=False, count=1000)
    most = scheduler.depth(item)
    assert placed(workers(most // 2 + 1), item) == (None, 0)
    worker, count = placed(workers(most // 2), item)
    assert worker is not None
    assert count == most - most // 2


def test_a_worker_gets_at_most_half_of_its_share_of_what_is_left():
    """So that all end at about the same time."""
    item = small(1e-6, count=100)
    assert placed(workers(0), item)[1] == 50
    assert placed(workers(0, 0), item)[1] == 25
    assert placed([*workers(0, 0), Worker("dead", accepts=False, is_ending=True)], item)[1] == 25
    assert placed(workers(0, 0), small(1e-6, count=100, done=99))[1] == 1
    assert placed(workers(0, 0), small(1e-6, count=100, slot=1))[1] == 50
    assert placed(workers(0, 0), small(1e-6, count=100, step=2))[1] == 100  # given in turns before


def test_a_worker_gets_no_more_calls_than_it_may_have_in_its_life():
    worn = Worker("worn", given=7)
    assert placed([worn], small(1e-6, count=100), 10) == (worn, 3)
    assert placed([worn], Item(), 8) == (worn, 1)
    worn.given = 10
    assert placed([worn], Item(), 10) == (None, 0)
    assert placed([worn], small(1e-6, count=100), 10) == (None, 0)


def test_single_calls_are_placed_together_if_they_are_short():
    one, two = workers(0, 0)
    assert placed([one, two], small(1e-5, independent=False), None, 40) == (one, 10)
    assert placed([one, two], small(1.0, independent=False), None, 40) == (one, 1)
    assert placed([one, two], Item(Durations(1e-5), independent=False), None, 40)[1] == 1


@pytest.mark.parametrize("seconds", [1e-6, 1e-3, None])
def test_workers_get_items_that_may_wait_for_others_in_turns(seconds):
    one, other = workers(0, 0)
    assert scheduler.place([one, other], small(seconds, count=2)) == ([one, other], 1)
    for more in ({}, {"count": 5, "done": 4}, {"count": 5, "slot": 0}, {"count": 5, "step": 3}):
        assert scheduler.place([one, other], small(seconds, **more))[0] == (one,)


def test_workers_get_items_in_turns_that_accept_them_and_get_more():
    """A worker that is at a slow call, with calls behind it revoked, holds no other one up."""
    refusing = Worker("refusing", accepts=False)
    one, other = workers(5, 0)
    item = small(1e-3, count=1000)
    most = scheduler.depth(item)
    assert scheduler.place([one, refusing, other], item) == ([other, one], most - 5)
    assert scheduler.place([one, other], item, 1) == ([other, one], 1)
    one.given = 1
    assert scheduler.place([one, other], item, 1) == ([other], 1)
    assert scheduler.place([other, refusing], item) == ((other,), most)


def test_workers_get_items_in_turns_only_if_each_takes_its_part_now():
    """A part that stays in the queue would begin long after later items, which may wait for it."""
    item = small(1e-3, count=1000)
    most = scheduler.depth(item)
    assert placed(workers(0, 0), item)[1] == min(most, 250)
    assert placed(workers(0, most // 2), item)[1] == most - most // 2
    assert placed(workers(0, most // 2 + 1), item)[1] == 1
    assert placed(workers(0, 0), small(scheduler.SINGLY, count=1000))[1] == 1


@pytest.mark.parametrize("seconds", [1e-6, 1e-4])
def test_a_worker_that_has_items_gets_others_together_with_the_other_workers(seconds):
    """If it got them one by one, two neighbours would be in one worker."""
    item = small(seconds, count=100_000)
    one, other = workers(5, scheduler.depth(item))
    assert scheduler.place([one, other], item) == ((), 0)
    one.load = 0
    assert scheduler.place([one, other], item) == ((one,), 1)
    other.load = 0
    assert scheduler.place([one, other], item)[0] == [one, other]
    item.count = 2
    assert scheduler.place([one, other], item) == ([one, other], 1)


# -- waiting and moving ---------------------------------------------------------------------------------


def test_a_short_call_waits_for_the_next_reply_if_all_workers_are_busy():
    quick, slow = small(scheduler.QUICK), small(scheduler.QUICK * 1.1)
    assert scheduler.can_wait(workers(1, 3), 2, quick)
    assert not scheduler.can_wait(workers(1, 3), 2, slow)
    assert not scheduler.can_wait(workers(1, 3), 2, small(None))
    assert not scheduler.can_wait(workers(1, 0), 2, quick)
    assert not scheduler.can_wait(workers(1, 3), 3, quick)  # one more may be started
    assert not scheduler.can_wait([*workers(1), Worker("starting", load=1, accepts=False)], 2, quick)


def test_what_waits_behind_a_slow_call_moves_to_a_free_worker():
    full = Worker("full", load=5, since=0.0, first=small(1e-6))
    free = Worker("free")
    late = scheduler.STUCK
    assert scheduler.overloaded([full, free], late) == (full, 4, late)
    assert scheduler.stuck([full, free], late) is full
    # Before, it is not known that the call is slow: that is looked at again.
    assert scheduler.overloaded([full, free], late / 2) == (full, 0, late)
    assert scheduler.stuck([full, free], late / 2) is None


def test_half_of_what_waits_moves_if_that_saves_more_than_it_costs():
    full = Worker("full", load=5, since=10.0, first=small(scheduler.WORTH_MOVING))
    assert scheduler.overloaded([full, Worker("free")], 10.0) == (full, 2, 10.0)
    assert scheduler.stuck([full, Worker("free")], 10.0) is None


@pytest.mark.parametrize(
    "others",
    [
        [],
        [Worker("busy", load=1)],
        [Worker("revoking", accepts=False)],
        [Worker("dead", accepts=False, is_ending=True)],
    ],
)
def test_nothing_moves_if_no_worker_is_free(others):
    full = Worker("full", load=5, since=0.0, first=small(1.0))
    assert scheduler.overloaded([full, *others], 10.0) == (None, 0, 10.0)


def test_nothing_is_taken_from_a_worker_with_one_call_or_at_its_end():
    assert scheduler.overloaded(workers(1, 0), 10.0)[0] is None
    ending = Worker("ending", load=5, accepts=False, is_ending=True)
    assert scheduler.overloaded([ending, Worker("free")], 10.0)[0] is None


# -- all together ---------------------------------------------------------------------------------------

durations = st.builds(
    Durations,
    seconds=st.one_of(st.none(), st.floats(0, 10)),
    count=st.integers(0, 10),
    result=st.sampled_from([0, 1 << 20]),
)
items = st.builds(
    Item,
    stats=durations,
    count=st.integers(1, 10_000),
    independent=st.booleans(),
    limit=st.sampled_from([None, 1.0]),
    slot=st.sampled_from([None, 0, 1]),
    step=st.sampled_from([1, 2]),
    is_small=st.booleans(),
)
some_workers = st.lists(
    st.builds(
        Worker,
        name=st.just("any"),
        load=st.integers(0, scheduler.DEEPEST),
        turn=st.integers(0, 9),
        accepts=st.booleans(),
        is_ending=st.booleans(),
        given=st.integers(0, 20),
        since=st.floats(0, 10),
        first=items,
    ),
    max_size=5,
)


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(some_workers, items, st.sampled_from([None, 1, 15]), st.integers(1, 5000))
def test_whatever_is_placed_may_be_placed(there, item, max_tasks, queued):
    chosen, count = scheduler.place(there, item, max_tasks, queued)
    if not chosen:
        assert count == 0
        unused = [each for each in there if each.accepts and not each.load]
        assert all(max_tasks is not None and each.given >= max_tasks for each in unused)
        return
    assert all(chosen[0].load <= other.load for other in there if other.accepts)
    assert 1 <= count <= max(queued if item.count == 1 else item.count, 1)
    assert len(chosen) == 1 or count < item.count - item.done  # the others get some as well
    for worker in chosen:
        assert worker.accepts
        assert worker.load + count <= scheduler.DEEPEST
        if not item.is_small:
            assert worker.load + count <= scheduler.LARGE_DEEPEST
        if max_tasks is not None:
            assert worker.given + count <= max_tasks


@patient
@given(some_workers, st.floats(10, 20))
def test_whatever_moves_waits_and_a_worker_is_free(there, now):
    fullest, count, at = scheduler.overloaded(there, now)
    if fullest is None:
        return
    assert 0 <= count < fullest.load
    assert not fullest.is_ending
    assert any(worker.accepts and not worker.load for worker in there)
    assert count or now - 1e-9 <= at <= now + scheduler.STUCK


# -- a pool without processes: the real queue, the real handles, and workers that are lists ----------------


class Clock:
    """The clock of the dispatcher and the handles."""

    def __init__(self):
        self.now = 1.0

    def monotonic(self):
        return self.now

    def monotonic_ns(self):
        return int(self.now * 1e9)


class Count:
    """The credits of one worker."""

    def __init__(self):
        self.count = 0

    def acquire(self, block=True):
        if not self.count:
            return False
        self.count -= 1
        return True

    def release(self):
        self.count += 1

    def get_value(self):
        return self.count


class Pipe:
    """Takes everything."""

    unsent = False

    def flush(self):
        return True

    def add(self, frame):
        return True

    write = queue = send = add


class Simulated(WorkerHandle):
    """The pool's view of a worker that is a list of items, the one that it is at, and what it has sent."""

    def __init__(self, number):
        super().__init__(SimpleNamespace(name=str(number)), Pipe(), Count(), -1, number)
        self.todo, self.at, self.sent = [], None, []
        self.is_ready = True
        self.advance("ready")

    def give(self, task, slot=None, retired=()):
        self.todo += [(task, task.index + number * task.step) for number in range(task.remaining)]
        return super().give(task, slot, retired)

    def begin(self):
        """Begin the next item, or drop all if the pool has taken the rest back; return the item."""
        if self._claim(False):
            self.at = self.todo.pop(0)
            return self.at[1]
        self.sent.append(len(self.todo))
        self.todo.clear()
        return None

    def finish(self):
        self.sent.append(self.at)
        self.at = None


class Outcomes:
    """A sink which counts how often each item was done."""

    def __init__(self, count):
        self.done = [0] * count

    def wanted(self):
        return True

    begin = wanted


class SimulatedPool:
    """The real queue and the real handles, without processes, pipes, and time."""

    def __init__(self, count):
        self.clock = Clock()
        self.workers = [Simulated(number) for number in range(count)]
        copier = SimpleNamespace(tasks=())
        self.core = SimpleNamespace(
            handles=self.workers,
            workers=count,
            copier=copier,
            supervisor=SimpleNamespace(max_tasks=None),
            store=SimpleNamespace(gone=lambda known: ()),
            statistics=SimpleNamespace(sends_plain=lambda *given: None),
            timers=SimpleNamespace(check_stuck_at=None),
            wake_manager=lambda: None,
        )
        self.dispatcher = Dispatcher(self.core)
        self.sinks = []

    def enqueue(self, stats, count, *, single=False):
        """Do as `PoolCore.enqueue`: calls one by one, or the items of one map."""
        sink = Outcomes(count)
        self.sinks.append(sink)
        for first in range(count) if single else (0,):
            task = Task(sink, "simulated", stats)
            task.items, task.is_small = [()] * count, True
            task.first, task.count = first, 1 if single else count
            task.independent = not single
            self.dispatcher.queue.append(task)
            if not scheduler.can_wait(self.workers, len(self.workers), task):
                self.dispatcher.dispatch()

    def read(self, worker):
        """Read one message of a worker."""
        message = worker.sent.pop(0)
        if type(message) is int:
            worker.dropped(message)
        else:
            index = message[1]
            mine = worker.first
            assert mine.index == index, "outcomes arrive in the order of the calls"
            worker.replied(1, self.clock.now)
            mine.sink.done[index] += 1
            mine.stats.took(0.0 if mine.stats.seconds is None else mine.stats.seconds)
        self.dispatcher.dispatch()

    def later(self):
        """As the timers do: look for workers that are stuck behind a slow call."""
        self.clock.now += 2 * scheduler.STUCK
        self.core.timers.check_stuck_at = None
        self.dispatcher.dispatch()

    def run_to_the_end(self):
        while any(self.undone()):
            before = self.state()
            for worker in self.workers:
                if worker.at is not None:
                    worker.finish()
                while worker.sent:
                    self.read(worker)
                if worker.todo:
                    worker.begin()
            self.later()
            assert self.state() != before, "nothing goes on"
        assert all(count == 1 for sink in self.sinks for count in sink.done)
        assert not any(worker.load for worker in self.workers)

    def undone(self):
        return [count == 0 for sink in self.sinks for count in sink.done]

    def state(self):
        return [(list(worker.todo), worker.at, list(worker.sent), worker.state) for worker in self.workers]


class AnyOrder(RuleBasedStateMachine):
    """Calls and maps of any length, and workers that begin, end and are read in any order."""

    @initialize(count=st.integers(1, 4))
    def start(self, count):
        self.patch = pytest.MonkeyPatch()
        self.pool = SimulatedPool(count)
        for module in (dispatcher, worker_handle):
            self.patch.setattr(module, "time", self.pool.clock)
        self.stats = [FunctionStats() for _ in range(6)]
        for stats, seconds in zip(self.stats[1:], (1e-6, 6e-5, 1e-4, 1e-3, 1.0), strict=True):
            for _ in range(scheduler.TRUSTED):
                stats.took(seconds)

    which = st.integers(0, 5)

    @rule(which=which, count=st.one_of(st.integers(1, 9), st.integers(1, 300)))
    def map(self, which, count):
        self.pool.enqueue(self.stats[which], count)

    @rule(which=which, count=st.integers(1, 9))
    def submit(self, which, count):
        self.pool.enqueue(self.stats[which], count, single=True)

    @rule(which=which, steps=st.integers(1, 5))
    def begin_and_finish(self, which, steps):
        worker = self.pool.workers[which % len(self.pool.workers)]
        for _ in range(steps):
            if worker.at is not None:
                worker.finish()
            if worker.todo:
                worker.begin()

    @rule(which=which, steps=st.integers(1, 5))
    def read(self, which, steps):
        worker = self.pool.workers[which % len(self.pool.workers)]
        for _ in range(min(steps, len(worker.sent))):
            self.pool.read(worker)

    @rule()
    def later(self):
        self.pool.later()

    @invariant()
    def every_item_is_in_one_place(self):
        pool = self.pool
        queued = sum(task.remaining for task in pool.dispatcher.queue)
        loads = sum(worker.load for worker in pool.workers)
        assert queued + loads == sum(pool.undone())
        for worker in pool.workers:
            assert worker.load == sum(task.remaining for task in worker.tasks)
            assert worker.load <= scheduler.DEEPEST
            begun = worker.load - worker._credits()
            assert begun == (worker.at is not None) + sum(type(each) is not int for each in worker.sent)

    @invariant()
    def no_worker_is_free_while_calls_wait(self):
        free = [worker for worker in self.pool.workers if worker.accepts and not worker.load]
        assert not (free and self.pool.dispatcher.queue)

    def teardown(self):
        if hasattr(self, "pool"):
            try:
                self.pool.run_to_the_end()
            finally:
                self.patch.undo()


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_item_is_done_once_in_any_order_of_events(examples):
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("count", few([3, 2, 4]))
@pytest.mark.parametrize("seconds", [None, 1e-6, 2e-5, 1e-4, 1e-3, 3e-3, 0.02, 0.05])
def test_items_that_wait_for_each_other_meet(count, seconds):
    """Two neighbours wait for each other, in whatever order workers go on and are read."""
    for seed in range(30):
        chance = random.Random(seed)
        meet(chance, count, seconds, pairs=chance.randint(1, 40))


def meet(chance, count, seconds, pairs):
    pool = SimulatedPool(count)
    with pytest.MonkeyPatch.context() as patch:
        for module in (dispatcher, worker_handle):
            patch.setattr(module, "time", pool.clock)
        stats = FunctionStats()
        for _ in range(scheduler.TRUSTED if seconds is not None else 0):
            stats.took(seconds)
        begun = set()
        pool.enqueue(stats, 2 * pairs)

        def steps():
            for worker in pool.workers:
                if worker.at is not None and worker.at[1] ^ 1 in begun:
                    yield worker.finish
                if worker.at is None and worker.todo:
                    yield lambda worker=worker: begun.add(worker.begin())
                if worker.sent:
                    yield lambda worker=worker: pool.read(worker)

        steady = chance.random() < 0.3  # then the first worker does all that it can, and so on
        while any(pool.undone()):
            possible = list(steps())
            if not possible:
                pool.later()
                possible = list(steps())
                at = [worker.at and worker.at[1] for worker in pool.workers]
                assert possible, f"they wait for ever at {at}"
            step = possible[0] if steady and chance.random() < 0.9 else chance.choice(possible)
            step()
        assert pool.sinks[0].done == [1] * 2 * pairs


@pytest.mark.parametrize("revoked", ["all that are left", "some"])
def test_a_slot_for_a_result_is_put_back_once_no_item_of_its_task_is_left(revoked):
    """Though the last item of the task that was answered is not the last one that it had."""
    back = []
    worker = Simulated(0)
    task = Task(Outcomes(3), "simulated", FunctionStats())
    task.items, task.count, task.is_small = [()] * 3, 3, True
    worker.give(task)
    worker.begin()
    slot = SimpleNamespace(
        number=7, entry=lambda flags: (7, 0, flags, 0, 0, 0), put_back=lambda: back.append(7)
    )
    worker.grant(slot)
    worker.replied(1, 0.0)
    if revoked == "some":
        worker.begin()
    assert [part.remaining for part in worker.revoke(3)] == [1 if revoked == "some" else 2]
    if revoked == "some":
        assert back == []
        worker.replied(1, 0.0)
    assert back == [7]


def test_what_is_taken_back_from_a_worker_is_one_task_again():
    worker = Simulated(0)
    whole = Task(Outcomes(10), "simulated", FunctionStats())
    whole.items, whole.count, whole.is_small = [()] * 10, 10, True
    for number in range(0, 10, 2):
        worker.give(whole.only(number))
    worker.begin()
    assert items_of(worker.revoke(9)) == [[2, 4, 6, 8]]


def items_of(tasks):
    """Return the items of each task."""
    return [list(range(task.first, task.first + task.count * task.step, task.step)) for task in tasks]


def joined(tasks):
    """Return the tasks, of which those that follow on each other are one."""
    found = []
    for task in tasks:
        if not found or not found[-1].join(task):
            found.append(task)
    return found


def test_tasks_that_follow_on_each_other_are_one_again():
    whole = Task(SimpleNamespace(), "a label", SimpleNamespace())
    whole.items, whole.count = [(number,) for number in range(100)], 100
    assert items_of(joined([whole.only(number) for number in range(10)])) == [list(range(10))]
    assert items_of(joined([whole.only(number) for number in (0, 2, 4, 5)])) == [[0, 2, 4], [5]]
    assert items_of(joined([whole.only(number) for number in (3, 2, 2)])) == [[3], [2], [2]]
    even, odd, rest = whole.split_in_turns(20, 2)
    later = even.split(5)
    assert items_of(joined([even, later])) == [list(range(0, 40, 2))]
    assert joined([even, odd]) == [even, odd]
    assert joined([odd, rest]) == [odd, rest]
    begun, other = whole.only(50), whole.only(51)
    begun.handovers = 1  # another one may be the culprit of the next death
    assert joined([begun, other]) == [begun, other]
    single = Task(whole.sink, "a label", whole.stats)
    single.first = 52
    assert joined([other, single]) == [other, single]
