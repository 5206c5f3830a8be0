"""Which worker gets which calls: pure functions, without a clock, a lock or a pipe.

One item at a time, as long as the duration of a function is not known. A worker gets more if they are
short, or if they are items of one `map`: then as much as takes some time, so that many small calls travel in
one message and no worker waits for the next one. A worker without calls gets what another one has not begun
(`overloaded`), so nothing waits behind a slow call while a worker is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sharedarray._pool.calls import Task
    from sharedarray._pool.worker_handle import WorkerHandle

__all__ = ["can_wait", "depth", "is_like", "overloaded", "place", "stuck"]

# Seconds of work that a worker is given ahead: several times what handing out more takes.
AHEAD: Final = 0.006
# The same of the items of one map, which do not wait for each other.
MAP_AHEAD: Final = 0.1
# Seconds that a call may take at most to have calls of other origin waiting behind it. The gap between two
# calls is some 50 us, so beyond this little is gained, and calls are begun in the order of their submission.
SHORT: Final = 0.0002
# Calls of a worker at most, however short they are: what a pipe of credits holds.
DEEPEST: Final = 4000
# Calls with large arguments or results of a worker at most: each may have a slot of recycled memory waiting.
LARGE_DEEPEST: Final = 2
# Replies after which a measured duration is trusted: the first ones may differ.
TRUSTED: Final = 4
# Seconds that a call must have run, or that what waits behind it is expected to take, before it is worth to
# take that back.
STUCK, WORTH_MOVING = 0.001, 0.0003
# Seconds of a call for which a message of its own costs more than it gains.
QUICK: Final = 150e-6
# Seconds of an item from which workers get items ahead in turn only: the gap of some 60 us before a call that
# was not sent ahead is little beside that.
SLOW: Final = 0.0005
# Seconds of an item from which it is sent by itself: the 20 us that this takes are little beside that.
SINGLY: Final = 0.003


def depth(task: Task) -> int:
    """Return how many calls like those of a task a worker should have at a time."""
    stats = task.stats
    seconds = stats.seconds
    least = 1
    if task.independent and seconds is not None:
        least = min(DEEPEST, max(2, int(MAP_AHEAD / max(seconds, 1e-9)))) if task.is_small else 2
    if seconds is None or seconds > SHORT or task.limit is not None or stats.count < TRUSTED:
        return least
    deepest = DEEPEST if task.is_small and not stats.result else LARGE_DEEPEST
    return max(least, min(deepest, int(AHEAD / max(seconds, 1e-9))))


def place(
    workers: Sequence[WorkerHandle], task: Task, max_tasks: int | None = None, queued: int = 1
) -> tuple[Sequence[WorkerHandle], int]:
    """Return the workers that get the next items of a task, and how many each gets; none if all have enough.

    The worker with the fewest calls gets them. Of workers without calls that is the first one, which polls;
    of others, the one that was given calls the longest ago: so calls that are sent ahead alternate between
    the workers, and a call does not wait behind the one that it belongs to.

    Several workers get items in turns, so that they begin them nearly in their order: an item may wait for
    the next one, which must not wait behind it. All that accept calls then get as many as the first one. A
    worker that confirms revoked calls accepts none, and may be at a slow one for long: the others go on
    without it.

    Parameters
    ----------
    workers
        All workers of the pool.
    task
        The first task of the queue.
    max_tasks
        How many calls a worker gets in its life; None for no limit.
    queued
        How many tasks there are in the queue. If the first one has a single item, this many may get as many
        of those behind it that are like it.
    """
    best: WorkerHandle | None = None
    accepting = 0
    for worker in workers:
        if worker.accepts:
            accepting += 1
            load = worker.load
            if best is None or load < best.load or (load and load == best.load and worker.turn < best.turn):
                best = worker
    if best is None:
        return (), 0
    load = best.load
    single = task.count == 1
    if not load and single and queued == 1 and max_tasks is None:
        return (best,), 1  # the usual case
    most = depth(task)
    if most > 2 and 2 * load > most:
        return (), 0  # not one by one: each message costs more than a short call
    is_slow = _is_slow(task)
    if load and task.step == 1 and task.slot is None and is_slow:
        for worker in workers:
            if worker.turn < best.turn and not worker.is_ending:
                return (), 0  # it is the turn of another one, which accepts none now
    capacity = most - load
    if max_tasks is not None:
        capacity = min(capacity, max_tasks - best.given)
    if capacity <= 0:
        return (), 0
    remaining = queued if single and task.is_small else task.count - task.done
    if task.step > 1:
        return (best,), min(capacity, remaining)  # workers get these in turns already
    sharers = accepting if task.slot is None else 1
    count = max(1, min(capacity, -(-remaining // (2 * sharers))))
    if sharers == 1 or task.count - task.done == 1:
        return (best,), count
    takers = [each for each in workers if each.accepts and (max_tasks is None or each.given < max_tasks)]
    chosen = [best, *(each for each in takers if each is not best)]
    if len(chosen) > 1:
        fullest = max([worker.load for worker in chosen])
        if 2 * fullest > most or (task.stats.seconds or 0.0) >= SINGLY:
            # A part that stays in the queue would begin long after later items. So a worker that has some
            # gets more together with the others, a moment later.
            return ((), 0) if load and not is_slow else ((best,), 1)
        count = min(count, most - fullest)
        if max_tasks is not None:
            count = min(count, max_tasks - max([worker.given for worker in chosen]))
    return chosen, count


def _is_slow(task: Task) -> bool:
    """Return whether items are so slow that workers get them ahead in turn only."""
    seconds = task.stats.seconds
    return task.independent and seconds is not None and seconds >= SLOW


def is_like(other: Task, task: Task) -> bool:
    """Return whether a task goes to the worker that has just got one, as part of the same decision."""
    single = task.count == other.count == 1 and task.limit is other.limit is None
    alike = single and other.stats is task.stats and other.is_small and task.is_small
    return alike and other.is_copied and not task.stats.result


def can_wait(workers: Sequence[WorkerHandle], most: int, task: Task) -> bool:
    """Return whether a short call should wait for the next reply, to share a message with other calls."""
    for worker in workers:
        if not worker.load or not worker.accepts:
            return False
    seconds = task.stats.seconds
    return seconds is not None and seconds <= QUICK and len(workers) >= most


def stuck(workers: Sequence[WorkerHandle], now: float) -> WorkerHandle | None:
    """Return a worker whose waiting calls go to a free one before those of the queue, which come later."""
    found, count, _ = overloaded(workers, now)
    return found if found is not None and count and now - found.since >= STUCK else None


def overloaded(workers: Sequence[WorkerHandle], now: float) -> tuple[WorkerHandle | None, int, float]:
    """Return the worker to take calls back from, how many, and when that pays if that is not now.

    The worker is None if no worker is free, or none has calls that wait.
    """
    fullest: WorkerHandle | None = None
    free = False
    for worker in workers:
        if worker.load < 2:
            free = free or (worker.accepts and not worker.load)
        elif not worker.is_ending and (fullest is None or worker.load > fullest.load):
            fullest = worker
    if fullest is None or not free:
        return None, 0, now
    waiting = fullest.load - 1
    if now - fullest.since >= STUCK:
        return fullest, waiting, now
    if (fullest.first.stats.seconds or 0.0) * waiting >= WORTH_MOVING:
        return fullest, -(-waiting // 2), now
    return fullest, 0, fullest.since + STUCK
