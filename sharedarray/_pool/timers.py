"""The timed work of the pool's thread: limits, deadlines, processes that do not end."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from sharedarray._clock import time
from sharedarray._pool.calls import Task
from sharedarray._pool.outcomes import timed_out
from sharedarray._pool.states import DEAD, KILLING

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore
    from sharedarray._pool.worker_handle import WorkerHandle

__all__ = ["Timers"]

# Seconds that the pool's thread waits at least: a unit of the kernel's clock. What is due was looked at a
# moment ago, and may wait for a reply that another thread is reading.
SHORTEST: Final = 0.001


class Timers:
    """The times at which the pool's thread must act though no message arrives.

    Attributes
    ----------
    check_stuck_at
        When to look for a worker that is stuck behind a slow call; None for never.
    trim_at
        When to look for idle memory; None for never.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.check_stuck_at: float | None = None
        self.trim_at: float | None = None
        self._next_deadline: float | None = None  # not later than that of any task that has not begun

    def note_deadline(self, deadline: float) -> bool:
        """Note the deadline of a task; return whether it is the next one. With the pool's lock held."""
        if self._next_deadline is not None and self._next_deadline <= deadline:
            return False
        self._next_deadline = deadline
        return True

    def patience(self, check: float | None) -> float | None:
        """Return for how many seconds there is nothing to do if nothing happens; None for ever.

        Parameters
        ----------
        check
            Seconds until the reader's role must be checked.
        """
        core, now = self._core, time.monotonic()
        with core.lock:
            times = [at for at in (self.check_stuck_at, self.trim_at, self._next_deadline) if at is not None]
            if check is not None:
                times.append(now + check)
            for worker in core.handles:
                if worker.state == KILLING or worker.state == DEAD:
                    continue  # its end is the next event, however long the kernel takes to free its memory
                if worker.tasks:
                    times += _due(*worker.current)
                if worker.until is not None:
                    times.append(worker.until)
        return max(SHORTEST, min(times) - now) if times else None

    def check(self) -> None:
        """Kill workers whose call or whose end takes too long, and fail tasks that were not done in time."""
        core, now = self._core, time.monotonic()
        late: list[Task] = []
        with core.lock:
            self.check_stuck_at = None
            for worker in core.handles:
                if worker.until is not None and worker.until <= now:
                    worker.kill()
                if worker.tasks and _is_due(*worker.current, now):
                    self._check_call(worker, now)
            if self._next_deadline is not None and self._next_deadline <= now:
                late = self._late(now)
        for task in late:
            core.cancellation.fail([task], timed_out(task))

    def _check_call(self, worker: WorkerHandle, now: float) -> None:
        """Kill a worker whose call is due, unless it has not begun that, or is at a later one.

        If it is at a later one, the replies to the others have not arrived; perhaps they will not, because it
        is in native code that keeps the interpreter. That call began before this was noticed.
        """
        if not worker.has_begun:
            worker.since = now  # the machine is busy: the call's time has not begun
            if not _is_due(worker.tasks[0], now, now):
                return
        self._core.dispatcher.revoke(worker)
        if not worker.tasks:
            return
        last, begun = worker.tasks[-1], worker.load
        if begun == 1 or (worker.later is not None and worker.later[:2] == (last, begun)):
            worker.kill(timed_out(last))
        else:
            worker.later = last, begun, now

    def _late(self, now: float) -> list[Task]:
        """Remove from the queue the tasks that are too late, and find out when to look again."""

        def is_late(task: Task) -> bool:
            return task.deadline is not None and task.deadline <= now

        core = self._core
        for worker in core.handles:
            if any(is_late(task) for task in itertools.islice(worker.tasks, 1, None)):
                core.dispatcher.revoke(worker)
        late = core.dispatcher.remove(is_late)
        waiting = itertools.chain(
            core.dispatcher.queue, core.copier.tasks, *[each.tasks for each in core.handles]
        )
        times = [task.deadline for task in waiting if task.deadline is not None and task.deadline > now]
        self._next_deadline = min(times, default=None)
        return late


def _due(task: Task, since: float) -> list[float]:
    """Return the times by which a task that began at `since` must have ended."""
    times = [] if task.deadline is None else [task.deadline]
    if task.limit is not None:
        times.append(since + task.limit)
    return times


def _is_due(task: Task, since: float, now: float) -> bool:
    return any(at <= now for at in _due(task, since))
