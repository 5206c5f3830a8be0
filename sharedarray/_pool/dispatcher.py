"""The queue, and sending tasks to workers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from sharedarray._clock import time
from sharedarray._pool import scheduler
from sharedarray._pool.calls import Task
from sharedarray._pool.states import DEAD, HUNG_UP, KILLING
from sharedarray._pool.transport.slot import Slot
from sharedarray._pool.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Dispatcher"]

# In these states a worker reads nothing any more.
_UNREADING: Final = frozenset((HUNG_UP, KILLING, DEAD))


class Dispatcher:
    """Give queued tasks to workers (`scheduler` decides which one gets what), and write them to the pipes.

    All methods are called with the pool's lock held, except `on_writable`.

    Attributes
    ----------
    queue
        Tasks that no worker has.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.queue: deque[Task] = deque()
        self._writable: dict[int, WorkerHandle] = {}  # by the descriptor that is polled for writability

    def dispatch(self, first: WorkerHandle | None = None) -> None:
        """Give queued tasks to the workers that can take more; write these, and ``first``."""
        core, queue = self._core, self.queue
        handles, max_tasks = core.handles, core.supervisor.max_tasks
        given: list[WorkerHandle] = [] if first is None else [first]
        if queue and len(handles) > 1:
            stuck = scheduler.stuck(handles, time.monotonic())
            if stuck is not None:
                self.revoke(stuck)
        while queue:
            task = queue[0]
            ready = task.is_copied
            if not ready and core.copier.tasks and task.sink.wanted():
                # One thread copies, one task after the other: others may overtake what waits for that.
                at = core.copier.next_ready()
                if not at or not scheduler.place(handles, queue[at], max_tasks)[0]:
                    break
                queue.appendleft(queue[at])
                del queue[at + 1]
                continue
            chosen, count = scheduler.place(handles, task, max_tasks, len(queue))
            if not chosen or task.items is not None or not ready:
                if not task.sink.wanted():
                    self._skip(queue.popleft())
                    continue
                if not chosen:
                    break
            worker = chosen[0]
            if task.slot is not None and task.slot != worker.slot:
                task = self._part_for(worker, task, count)
            elif ready and len(chosen) > 1:
                queue.popleft()
                self._give_in_turns(chosen, task, count)
                given += [each for each in chosen if each not in given]
                continue
            elif task.count - task.done > count:
                queue[0] = task.split(task.done + count)
            else:
                queue.popleft()
            slot = None
            if ready and task.stats.result and task.items is None:
                slot = core.store.take(task.stats.result, make=False)
                ready = slot is not None
            if not ready:
                core.copier.choose(task, worker)
                continue
            self.give(worker, task, slot)
            while count > 1 and queue and scheduler.is_like(queue[0], task):
                self.give(worker, queue.popleft())
                count -= 1
            if worker not in given:
                given.append(worker)
        for worker in given:
            self.write(worker)
        if not queue and len(handles) > 1:
            self._even_out()

    def _give_in_turns(self, workers: Sequence[WorkerHandle], task: Task, count: int) -> None:
        """Give items of a task to workers in turns, so many to each; put the others back into the queue."""
        parts = task.split_in_turns(count, len(workers))
        self.queue.extendleft(parts[len(workers) :])
        for worker, part in zip(workers, parts, strict=False):
            self.give(worker, part)

    def _part_for(self, worker: WorkerHandle, other: Task, capacity: int) -> Task:
        """Remove from the queue what a worker rather gets than the first task: its own part of the call.

        If that is done, the end of the largest part takes its place, for its owner comes to that last.
        """
        queue = self.queue
        parts = [task for task in itertools.islice(queue, 2 * self._core.workers) if task.call == other.call]
        own = next((task for task in parts if task.slot == worker.slot), None)
        if own is not None:
            at = queue.index(own)
            if own.remaining > capacity:
                queue[at] = own.split(own.done + capacity)
            else:
                del queue[at]
            return own
        most = max(parts, key=lambda task: task.remaining)
        if most.remaining > capacity:
            return most.split(most.count - capacity)
        del queue[queue.index(most)]
        return most

    def give(self, worker: WorkerHandle, task: Task, slot: Slot | None = None) -> None:
        """Give a task to a worker, with memory for its result, unless it was cancelled."""
        core = self._core
        if not task.sink.begin():
            core.cancellation.skip(task)
            if slot is not None:
                slot.put_back()
            return
        known = worker.outgoing.known
        size = worker.give(task, slot, core.store.gone(known) if known else ())
        if size:
            core.statistics.sends_plain(task.call, size, task.count - task.done)
        if task.limit is not None or task.deadline is not None:
            core.wake_manager()

    def _skip(self, task: Task) -> None:
        """Drop a task whose outcomes are not wanted any more."""
        task.sink.begin()  # this tells the waiters of a cancelled future
        self._core.cancellation.skip(task)

    def write(self, worker: WorkerHandle) -> None:
        """Write what a worker was given."""
        try:
            if worker.outgoing.flush() and not worker.is_writing:
                return
        except OSError:
            # Its process has ended, which is reported separately; calls that it has not begun are not lost.
            if worker.state != HUNG_UP:
                worker.kill()
        self.watch_writing(worker)

    def watch_writing(self, worker: WorkerHandle) -> None:
        """Poll a pipe for writability exactly as long as something waits for it.

        The pipe of a worker that was killed counts as writable, and nothing can be written to it.
        """
        waits = worker.channel.unsent and worker.state not in _UNREADING
        if waits != worker.is_writing:
            if worker.is_writing:
                self.unwatch_writing(worker)
            else:
                worker.is_writing = True
                self._writable[worker.channel.out] = worker
                self._core.receiver.outer.add(worker.channel.out, write=True)

    def unwatch_writing(self, worker: WorkerHandle) -> None:
        """Poll a pipe for writability no more."""
        if worker.is_writing:
            worker.is_writing = False
            self._writable.pop(worker.channel.out, None)
            self._core.receiver.outer.remove(worker.channel.out)

    def on_writable(self, descriptor: int) -> None:
        """Write what a worker could not take before."""
        with self._core.lock:
            worker = self._writable.get(descriptor)
            if worker is not None:
                try:
                    worker.channel.flush(safe=True)
                except OSError:
                    worker.kill()
                self.watch_writing(worker)

    def _even_out(self) -> None:
        """Give a worker that has nothing to do what another one has not begun."""
        fullest, count, at = scheduler.overloaded(self._core.handles, time.monotonic())
        if fullest is None:
            return
        if not count:  # look again, should it turn out to be stuck behind a slow call
            if self._core.timers.check_stuck_at is None:
                self._core.timers.check_stuck_at = at
                self._core.wake_manager()
            return
        back = fullest.revoke(count)
        if back:
            self.queue.extend(back)
            self.dispatch()

    def requeue(self, tasks: Sequence[Task]) -> None:
        """Put tasks back at the front of the queue."""
        self.queue.extendleft(reversed(tasks))

    def revoke(self, worker: WorkerHandle) -> None:
        """Put the calls that a worker has not begun back at the front of the queue."""
        self.requeue(worker.revoke(worker.load))

    def remove(self, condition: Callable[[Task], bool] = lambda task: True) -> list[Task]:
        """Remove from the queue the tasks for which a condition holds; return them."""
        queue = self.queue
        removed = [task for task in queue if condition(task)]
        if removed:
            self.queue = deque(task for task in queue if not condition(task))
        return removed
