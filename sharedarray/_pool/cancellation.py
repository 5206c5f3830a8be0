"""Tasks that will not be done: cancelled, abandoned, or failed before a worker has them."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sharedarray import _errors as errors
from sharedarray._pool import outcomes
from sharedarray._pool.calls import Raised, Task
from sharedarray._sigint import deferred

if TYPE_CHECKING:
    from sharedarray._pool.calls import Sink
    from sharedarray._pool.core import PoolCore

__all__ = ["Cancellation"]


class Cancellation:
    """Remove tasks from the queue and from workers, and settle what will not be done.

    Attributes
    ----------
    abandoned
        Sinks whose tasks are to be dropped, and whether to kill the workers that run them. Finalizers add to
        it at any moment.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.abandoned: deque[tuple[Sink, bool]] = deque()

    def cancel_task(self, task: Task, *, running: bool) -> bool:
        """Take a task back from a worker that has not begun it, or kill the worker that has.

        Parameters
        ----------
        task
            Which.
        running
            Whether to kill the worker if it has begun the task.

        Returns
        -------
        bool
            Whether it will not be run to its end.
        """
        core = self._core
        if core.is_foreign or core.holds_lock():
            return False
        with deferred:
            with core.lock:
                worker = next((each for each in core.handles if task in each.tasks), None)
                if worker is None:
                    # Its arguments are being copied, or its worker died and it waits for another one.
                    if task in core.copier.tasks:
                        task.cancelled = True
                        return True
                    if task not in core.dispatcher.queue:
                        return False
                else:
                    behind = itertools.islice(worker.tasks, worker.tasks.index(task), None)
                    core.dispatcher.requeue(worker.revoke(sum([other.remaining for other in behind])))
                mine = task in core.dispatcher.queue
                if mine:
                    core.dispatcher.queue.remove(task)
                elif running and worker is not None and worker.tasks and worker.tasks[-1] is task:
                    # The last of its calls: all others could be taken back. Those before it are done, though
                    # their replies may not have been read.
                    worker.kill(outcomes.cancelled)
                core.dispatcher.dispatch()
                killed = not mine and worker is not None and worker.error is outcomes.cancelled
            core.wake()
            if mine:
                self.cancel_or_fail([task])
            return mine or killed

    def cancel_all(self, sink: Sink, *, running: bool = False) -> None:
        """Cancel the tasks of a sink that have not begun; if ``running``, kill the workers of the others."""
        core = self._core
        if core.is_foreign:
            return
        with deferred:
            # An iterator of results may be collected at any moment, also in a thread that has the lock.
            if core.holds_lock() or not core.lock.acquire(blocking=False):
                self.abandoned.append((sink, running))
                core.wake()
                return
            try:
                gone = self._cancel_all(sink, running)
            finally:
                core.lock.release()
            self._drop_tasks(gone)
            core.wake()

    def _cancel_all(self, sink: Sink, running: bool) -> list[Task]:
        core = self._core
        for worker in core.handles:
            if any(task.sink is sink for task in worker.tasks):
                core.dispatcher.revoke(worker)
                if running and worker.tasks and worker.tasks[-1].sink is sink:
                    worker.kill(outcomes.cancelled)
        gone = core.dispatcher.remove(lambda task: task.sink is sink)
        core.dispatcher.dispatch()
        return gone

    def _drop_tasks(self, gone: list[Task]) -> None:
        core = self._core
        while gone:
            self.skip(gone.pop())
        core.garbage.clear()

    def skip(self, task: Task) -> None:
        """Drop a task whose outcomes are not wanted any more."""
        core = self._core
        with core.lock:
            core.statistics.cancelled += task.remaining
        task.sink.skip(task.remaining)
        task.release(core.garbage)
        core.wake_reader()  # it may wait for this

    def cancel_or_fail(self, tasks: Sequence[Task]) -> None:
        """Cancel tasks that are not queued any more, or fail them if the pool is broken."""
        core = self._core
        if core.is_broken:
            self.fail(tasks, core.broken_error)
            return
        for task in tasks:
            with core.lock:
                core.statistics.cancelled += task.remaining
            task.sink.cancel_items(task.index, task.remaining, task.step)
            task.release()

    def fail(self, tasks: Sequence[Task], error: Callable[[], BaseException]) -> None:
        """Give an exception of its own to each item of these tasks."""
        core = self._core
        for task in tasks:
            if not task.sink.begin():
                self.skip(task)
                continue
            with core.lock:
                core.statistics.failed += task.remaining
            task.sink.put(task.index, [Raised(error()) for _ in range(task.remaining)], task.step)
            task.release()
        core.wake_reader()

    def fail_queued(self, reason: errors.LimitError) -> None:
        """Fail what waits for a worker while none can be started. The next call tries again to start one."""
        core = self._core

        def error() -> BaseException:
            made = copy.copy(reason)
            made.add_note("So the pool could start no worker process. It tries again for the next call.")
            return made

        with core.lock:
            lost = core.dispatcher.remove()
            core.supervisor.drop_replacements()
        self.fail(lost, error)

    def cancel_queued(self) -> None:
        """Cancel everything that has not begun."""
        core = self._core
        with core.lock:
            queued = core.dispatcher.remove()
            for worker in core.handles:
                queued += worker.revoke(worker.load)
            for task in core.copier.tasks:
                task.cancelled = True
            core.cancels_queued = False
        while queued:
            self.cancel_or_fail([queued.pop()])
        core.wake_reader()

    def drop_abandoned(self) -> None:
        """Drop the tasks of sinks that finalizers have abandoned."""
        core = self._core
        while self.abandoned:
            sink, running = self.abandoned.popleft()
            with core.lock:
                gone = self._cancel_all(sink, running)
            self._drop_tasks(gone)
            del sink
