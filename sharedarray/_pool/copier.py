"""Copying large arguments into recycled memory, without the pool's lock.

A task whose arguments are still to be copied is chosen for a worker under the lock, copied without it, and
sent under it. One thread at a time copies: it copies once what several tasks have in common. Meanwhile tasks
that can be sent as they are may overtake.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from sharedarray._clock import time
from sharedarray._pool.calls import Task
from sharedarray._pool.outcomes import timed_out, unsendable
from sharedarray._pool.transport.slot import Slot
from sharedarray._pool.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Copier"]

# Tasks that another one may overtake, at most, while their arguments are copied.
OVERTAKEN: Final = 64


class Copier:
    """Copy the arguments of tasks that wait for it.

    Attributes
    ----------
    tasks
        Those that are chosen for a worker and not sent yet.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.tasks: set[Task] = set()
        self._chosen: deque[tuple[Task, WorkerHandle]] = deque()
        self._copying = threading.Lock()

    # With the pool's lock held

    def choose(self, task: Task, worker: WorkerHandle) -> None:
        """Choose a task to be copied and then sent to a worker."""
        worker.reserve(True)
        self.tasks.add(task)
        self._chosen.append((task, worker))

    def next_ready(self) -> int:
        """Return where in the queue the next task is that can be sent as it is; 0 if that is far."""
        tasks = itertools.islice(self._core.dispatcher.queue, OVERTAKEN)
        return next((at for at, task in enumerate(tasks) if task.is_copied), 0)

    def clear(self) -> None:
        """Forget everything, in a fork of the pool's process."""
        self._copying = threading.Lock()
        self._chosen.clear()
        self.tasks.clear()

    # Without the lock

    def run(self) -> None:
        """Copy what is to be copied, unless another thread does so."""
        self._core.garbage.clear()
        while self._chosen and self._copying.acquire(blocking=False):
            try:
                while self._chosen:
                    self._copy_for(*self._chosen.popleft())
            finally:
                self._copying.release()

    def _copy_for(self, task: Task, worker: WorkerHandle) -> None:
        """Copy the arguments of a task and send it to the worker that it was chosen for."""
        core = self._core
        slot: Slot | None = None
        raised: BaseException | None = None
        try:
            pickled, function = task.pickled, task.function
            if pickled is not None:
                pickled.copy_to_slots(core.store, private=task.retries > 0)
            if function is not None:
                function.pickled.copy_to_slots(core.store, private=True)
            expected = 0 if task.items is not None else task.stats.result
            if expected:
                slot = core.store.take(expected)
        except BaseException as error:
            raised = error
        unwanted = late = False
        with core.lock:
            worker.reserve(False)
            self.tasks.discard(task)
            accepts, first = worker.accepts, None
            if raised is None:
                unwanted = task.cancelled or not core.takes_tasks
                late = task.deadline is not None and task.deadline <= time.monotonic()
                if not (unwanted or late):
                    if accepts:
                        core.dispatcher.give(worker, task, slot)
                        first, slot = worker, None
                    else:
                        core.dispatcher.queue.appendleft(task)
            core.dispatcher.dispatch(first)
            if core.is_shut or not accepts:
                core.wake_manager()
        if slot is not None:
            slot.put_back()
        if raised is not None:
            core.cancellation.fail([task], partial(unsendable, task.label, raised))
        elif unwanted:
            core.cancellation.cancel_or_fail([task])
        elif late:
            core.cancellation.fail([task], timed_out(task))
