"""Tasks that will not be done: cancelled, abandoned, or failed before a worker has them."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sharedarray import _errors as errors
from sharedarray._interrupts import deferred
from sharedarray._pool import outcomes
from sharedarray._pool.calls import Raised, Sink, Task

if TYPE_CHECKING:
    from sharedarray._pool.engine import Engine

__all__ = ["Cancellation"]


class Cancellation:
    """Withdraw tasks from the queue and from workers, and settle what will not be done.

    Attributes
    ----------
    abandoned
        Sinks whose tasks are to be dropped, and whether to kill the workers that run them. Finalizers add to
        it at any moment.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.abandoned: deque[tuple[Sink, bool]] = deque()

    def withdraw(self, task: Task, *, running: bool) -> bool:
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
        engine = self._engine
        if engine.is_foreign or engine.holds_lock():
            return False
        with deferred:
            with engine.lock:
                worker = next((each for each in engine.handles if task in each.tasks), None)
                if worker is None:
                    # Its arguments are being copied, or its worker died and it waits for another one.
                    if task in engine.copier.tasks:
                        task.cancelled = True
                        return True
                    if task not in engine.dispatcher.queue:
                        return False
                else:
                    behind = itertools.islice(worker.tasks, worker.tasks.index(task), None)
                    engine.dispatcher.requeue(worker.revoke(sum([other.remaining for other in behind])))
                mine = task in engine.dispatcher.queue
                if mine:
                    engine.dispatcher.queue.remove(task)
                elif running and worker is not None and worker.tasks and worker.tasks[-1] is task:
                    # The last of its calls: all others could be taken back. Those before it are done, though
                    # their replies may not have been read.
                    worker.kill(outcomes.cancelled)
                engine.dispatcher.dispatch()
                killed = not mine and worker is not None and worker.error is outcomes.cancelled
            engine.wake()
            if mine:
                self.give_up([task])
            return mine or killed

    def forget(self, sink: Sink, *, running: bool = False) -> None:
        """Drop the tasks of a sink that have not begun; kill the workers of those that have, if so wished."""
        engine = self._engine
        if engine.is_foreign:
            return
        with deferred:
            # An iterator of results may be collected at any moment, also in a thread that has the lock.
            if engine.holds_lock() or not engine.lock.acquire(blocking=False):
                self.abandoned.append((sink, running))
                engine.wake()
                return
            try:
                gone = self._forget(sink, running)
            finally:
                engine.lock.release()
            self._drop_tasks(gone)
            engine.wake()

    def _forget(self, sink: Sink, running: bool) -> list[Task]:
        engine = self._engine
        gone = [task for task in engine.dispatcher.queue if task.sink is sink]
        if gone:
            engine.dispatcher.queue = deque(task for task in engine.dispatcher.queue if task.sink is not sink)
        for worker in engine.handles:
            if any(task.sink is sink for task in worker.tasks):
                back = worker.revoke(worker.load)
                gone += [task for task in back if task.sink is sink]
                engine.dispatcher.requeue([task for task in back if task.sink is not sink])
                if running and worker.tasks and worker.tasks[-1].sink is sink:
                    worker.kill(outcomes.cancelled)
        engine.dispatcher.dispatch()
        return gone

    def _drop_tasks(self, gone: list[Task]) -> None:
        engine = self._engine
        while gone:
            self.skip(gone.pop())
        engine.dropped.clear()

    def skip(self, task: Task) -> None:
        """Give up a task whose outcomes are not wanted any more."""
        engine = self._engine
        with engine.lock:
            engine.statistics.cancelled += task.remaining
        task.sink.skip(task.remaining)
        task.release(engine.dropped)
        engine.wake_reader()  # it may wait for this

    def give_up(self, tasks: Sequence[Task]) -> None:
        """Cancel tasks that are not queued any more, or fail them if the pool is broken."""
        engine = self._engine
        if engine.is_broken:
            self.fail(tasks, engine.broken_error)
            return
        for task in tasks:
            with engine.lock:
                engine.statistics.cancelled += task.remaining
            task.sink.cancel_items(task.index, task.remaining, task.step)
            task.release()

    def fail(self, tasks: Sequence[Task], error: Callable[[], BaseException]) -> None:
        """Give an exception of its own to each item of these tasks."""
        engine = self._engine
        for task in tasks:
            if not task.sink.begin():
                self.skip(task)
                continue
            with engine.lock:
                engine.statistics.failed += task.remaining
            task.sink.put(task.index, [Raised(error()) for _ in range(task.remaining)], task.step)
            task.release()
        engine.wake_reader()

    def fail_queued(self, reason: errors.LimitError) -> None:
        """Fail what waits for a worker while none can be started. The next call tries again to start one."""
        engine = self._engine

        def error() -> BaseException:
            made = copy.copy(reason)
            made.add_note("So the pool could start no worker process. It tries again for the next call.")
            return made

        with engine.lock:
            lost, engine.dispatcher.queue = list(engine.dispatcher.queue), deque()
            engine.supervisor.abandon_starts()
        self.fail(lost, error)

    def cancel_queued(self) -> None:
        """Cancel everything that has not begun."""
        engine = self._engine
        with engine.lock:
            queued, engine.dispatcher.queue = list(engine.dispatcher.queue), deque()
            for worker in engine.handles:
                queued += worker.revoke(worker.load)
            for task in engine.copier.tasks:
                task.cancelled = True
            engine.cancels_queued = False
        while queued:
            self.give_up([queued.pop()])
        engine.wake_reader()

    def drop_abandoned(self) -> None:
        """Drop the tasks of sinks that finalizers have abandoned."""
        engine = self._engine
        while self.abandoned:
            sink, running = self.abandoned.popleft()
            with engine.lock:
                gone = self._forget(sink, running)
            self._drop_tasks(gone)
            del sink
