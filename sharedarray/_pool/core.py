"""The core of a pool: its state, and what the other modules have in common.

::

    caller's threads                  the pool's thread                     worker processes
    ----------------                  -----------------                     ----------------
    submit: make a task (`intake`)    start and stop workers (`supervisor`)
       |-- a worker is free? -------- CALLS, TASK over its pipe ----------> run the calls (`worker`)
       `-- else queue it              keep the timers (`timers`)               |
           (`dispatcher`)             call callbacks (`manager`)               |
    future.result():                  read the pipes                           |
       read the pipes (`receiver`) <-- if no caller does ------ REPLIES -------'
         load and record the outcomes, send what is queued, settle the futures;
         a worker has exited: fail, retry or requeue its calls

**One lock** guards the queue and the workers' states. It is never held while a process is started, while what
the user gave is pickled, copied or dropped, or while a future is settled. Only a finalizer, which the garbage
collector calls, may run while the lock is held; what it asks of the pool is done a moment later
(`PoolCore.holds_lock`).

**Ctrl-C** breaks a caller off while it waits, and nowhere else (see `sharedarray._sigint`). Nothing is
lost by it: submitted calls go on.

**The end.** `shutdown` changes the state (`states.POOL`) and wakes the pool's thread, which stops the workers
that have nothing to do, and ends when the last worker has ended. The same happens when the pool is collected
as garbage, and at the interpreter's end (`lifecycle`).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from sharedarray import _errors as errors, _greenlets as greenlets, _pipes as pipes, _reloads as reloads
from sharedarray._platform import platform
from sharedarray._pool import lifecycle, outcomes, processes, scheduler
from sharedarray._pool.calls import Task
from sharedarray._pool.cancellation import Cancellation
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.copier import Copier
from sharedarray._pool.dispatcher import Dispatcher
from sharedarray._pool.housekeeping import Housekeeping
from sharedarray._pool.inbox import Inbox
from sharedarray._pool.intake import Intake
from sharedarray._pool.manager import Manager
from sharedarray._pool.receiver import Receiver
from sharedarray._pool.states import ABORTING, BROKEN, CLOSED, DRAINING, POOL, RUNNING, advance
from sharedarray._pool.stats import Statistics
from sharedarray._pool.supervisor import Supervisor
from sharedarray._pool.timers import Timers
from sharedarray._pool.transport.slots import Store
from sharedarray._pool.unconsumed import Iterators
from sharedarray._pool.worker.main import Setup
from sharedarray._pool.worker_handle import WorkerHandle

__all__ = ["PoolCore"]

# Descriptors that a pool opens as it starts: 2 pollers, 2 wakers of 2 each, 2 of the resource tracker, 2 more
# for the modules that it imports.
DESCRIPTORS: Final = 10


# The words of a pool's `repr` for its states.
_DESCRIBED: Final = {
    DRAINING: "shut down, finishing its calls",
    ABORTING: "shut down, ending its workers",
    BROKEN: "broken",
    CLOSED: "shut down",
}


class PoolCore:
    """Run calls in worker processes.

    Parameters
    ----------
    workers
        How many processes at most. They are started when there is work for them.
    method
        The start method.
    setup
        What each worker does first.
    max_tasks
        How many tasks a worker gets in its life; None for no limit.
    retries
        How often a task is run again when its worker died.
    at_end
        Called once, when the last worker has ended.

    Attributes
    ----------
    state
        See `states.POOL`.
    lock
        Guards everything here.
    handles
        The workers.
    garbage
        What finished tasks referred to, to be dropped without the lock.
    is_foreign
        Whether this is a fork of the pool's process.
    is_collected, has_left_with
        Whether the pool was collected as garbage, and whether its ``with`` statement has ended.
    cancels_queued
        Whether what has not begun is to be cancelled.
    waker
        What wakes the pool's thread.
    """

    writes = True  # workers can write to this process's shared memory, which `blockwise` asks

    def __init__(
        self,
        *,
        workers: int,
        method: str,
        setup: Setup,
        max_tasks: int | None,
        retries: int,
        at_end: Callable[[], None],
    ) -> None:
        self.workers = workers
        self.state: str = RUNNING
        self.lock = threading.RLock()
        self.handles: list[WorkerHandle] = []
        self.garbage: deque[object] = deque()
        self.statistics = Statistics()
        self.housekeeping = Housekeeping(self)
        self.store = Store(self.housekeeping.on_slot_returned)
        self.intake = Intake(self, retries)
        self.dispatcher = Dispatcher(self)
        self.cancellation = Cancellation(self)
        self.copier = Copier(self)
        self.timers = Timers(self)
        self.inbox = Inbox(self)
        self.receiver = Receiver(self)
        self.supervisor = Supervisor(self, method, setup, max_tasks)
        self.manager = Manager(self)
        self.iterators = Iterators()
        # For futures and results.
        self.read_until, self.ensure_reader = self.receiver.read_until, self.receiver.ensure_reader
        self.wake_reader, self.queue_callbacks = self.receiver.wake_reader, self.manager.queue_callbacks
        self.cancel_task, self.cancel_all = self.cancellation.cancel_task, self.cancellation.cancel_all
        self.is_foreign = False
        # Whether this thread has the lock: in a finalizer that interrupts it.
        self.holds_lock: Callable[[], bool] = getattr(self.lock, "_is_owned", lambda: False)
        self._owner = os.getpid()
        self.at_end = at_end
        self.waker: pipes.Waker | None = None
        self._broken: Callable[[], errors.WorkerDied] | None = None
        self.is_collected = self.has_left_with = False
        self.cancels_queued = False
        reloads.watch_autoreload()
        lifecycle.register(self)

    # States

    @property
    def takes_tasks(self) -> bool:
        """True if accepted tasks are run."""
        return self.state == RUNNING or self.state == DRAINING

    @property
    def is_shut(self) -> bool:
        """True if it accepts no tasks any more."""
        return self.state != RUNNING

    @property
    def is_aborting(self) -> bool:
        """True if everything is cancelled."""
        return self.state == ABORTING

    @property
    def is_broken(self) -> bool:
        """True if it has failed for good."""
        return self.state == BROKEN

    @property
    def described_state(self) -> str:
        """State of the pool for its `repr`; empty while it accepts tasks."""
        if self.is_foreign:
            return "of another process"
        return _DESCRIBED.get(self.state, "")

    def advance_pool(self, event: str) -> None:
        """Change the state."""
        self.state = advance(POOL, event, self.state)

    def broken_error(self) -> errors.WorkerDied:
        """Return the outcome of every call of a pool that has failed for good."""
        assert self._broken is not None
        return self._broken()

    def check_owner(self) -> None:
        """Raise an exception in a fork of the pool's process."""
        if self.is_foreign:
            raise errors.SharedArrayError(
                "this pool belongs to another process, from which this one was forked",
                found=f"process {os.getpid()}",
                expected=f"process {self._owner}",
                cause="fork copies the memory of a pool but not its thread, and workers have one parent only",
                next_step="make a pool of its own in the forked process",
            )

    def check_open(self) -> None:
        """Raise an exception if no tasks are accepted."""
        if self.state == RUNNING and not (self.is_collected or self.is_foreign or lifecycle.exiting):
            return
        self.check_owner()
        if self._broken is not None:
            raise self._broken()
        if self.state != RUNNING or self.is_collected:
            raise outcomes.after_shutdown(has_left_with=self.has_left_with, is_collected=self.is_collected)
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    # Accepting tasks

    def enqueue(self, tasks: Sequence[Task], call: Pickled | None = None) -> None:
        """Accept tasks.

        Parameters
        ----------
        tasks
            Of one call.
        call
            What was packed of a call of one task, to be counted.
        """
        if self.holds_lock():
            self.check_open()
            self.housekeeping.arrivals.append((tasks, call))
            self.wake()
            return
        with self.lock:
            if self.state != RUNNING or self.is_collected or self.is_foreign or lifecycle.exiting:
                for task in tasks:
                    task.release()
                self.check_open()
            if not self.receiver.is_started:
                self._start()
            dispatcher, handles, task = self.dispatcher, self.handles, tasks[0]
            queue = dispatcher.queue
            queue.extend(tasks)
            if task.deadline is not None and self.timers.note_deadline(task.deadline):
                self.wake()
            if not scheduler.can_wait(handles, self.workers, tasks[-1]):
                dispatcher.dispatch()
            if call is not None:
                self.statistics.called(task, call)
                if call.blocks:
                    self.intake.follow(call)
            load = len(queue)
            for worker in handles:
                load += worker.load
            if load > 1:  # more than the one call that this thread is about to wait for
                self.receiver.reader.watch()
            starts = len(handles) < self.workers and self.supervisor.may_start()
        copier = self.copier
        if copier.tasks or self.garbage:
            copier.run()
        if starts:
            self.wake()

    def _start(self) -> None:
        try:
            greenlets.check(self.supervisor.method)
            platform.need_descriptors(DESCRIPTORS)
            _ = errors.WorkerDied  # which cannot be made any more when the interpreter ends
            lifecycle.end_with_process()
            self.waker = pipes.Waker()
            self.receiver.start()
            self.receiver.outer.add(self.waker.fileno())
            processes.make_ready(self.supervisor.method)
            if self.supervisor.method == "fork":
                # Before the pool's thread exists: a fork copies the state that its caller left.
                for _ in range(self.workers):
                    self.supervisor.start_worker()
            self.manager.start()
        except BaseException:
            self.manager.undo_start()
            self.supervisor.undo_start()
            self.receiver.undo_start()
            self.close_waker()
            raise

    def close_waker(self) -> None:
        """Close what wakes the pool's thread."""
        if self.waker is not None:
            self.waker.close()

    # For futures and results

    def is_running(self, task: Task) -> bool:
        """Return whether a task is the one that its worker is at."""
        with self.lock:
            return any(worker.tasks and worker.tasks[0] is task for worker in self.handles)

    def fail_for_good(self, message: str, reason: BaseException | None, **details: str | None) -> None:
        """Give the pool up: every task fails, and so does each later `submit`."""

        def error() -> errors.WorkerDied:
            made = errors.WorkerDied(message, **details)
            made.__cause__ = reason
            return made

        with self.lock:
            self._broken = self._broken or error
            self.advance_pool("fail")
            lost = self.dispatcher.remove()
            for worker in self.handles:
                worker.kill()
                begun, rest = worker.unfinished()
                lost += rest if begun is None else [begun, *rest]
        self.cancellation.fail(lost, error)
        self.wake()

    # For finalizers, at any moment

    def on_collected(self) -> None:
        """Shut down without waiting."""
        self.is_collected = True
        self.wake()

    # The end

    def shutdown(self, *, wait: bool, cancel: bool) -> None:
        """Accept nothing more; end when what was accepted is done."""
        if self.state == RUNNING and not (cancel or self.is_foreign):
            self.iterators.submit_rest()
        self._end("shut down", wait=wait, cancel=cancel)

    def abort(self) -> None:
        """Accept nothing more, and end at once: what is queued is cancelled, what runs is killed."""
        self._end("abort", wait=False, cancel=True)

    def _end(self, event: str, *, wait: bool, cancel: bool) -> None:
        if self.is_foreign:
            return
        with self.lock:
            was = self.state
            self.advance_pool(event)
            self.cancels_queued |= cancel
            never_started = not self.manager.is_started and was != CLOSED
            if never_started:
                self.advance_pool("empty")
        if never_started:
            self.supervisor.finish()
            self.at_end()
        self.wake()
        if wait and not self.holds_lock():
            self.join()

    def join(self) -> None:
        """Wait for the end, unless a callback asks, or a fork, which has no such thread."""
        if not self.is_foreign:
            self.manager.join()

    def wake(self) -> None:
        """Wake the pool's thread, so that it does what there is to do."""
        waker = self.waker
        if waker is not None and not self.is_foreign:
            waker.wake()

    def wake_manager(self) -> None:
        """Wake the pool's thread, unless this is that thread."""
        if not self.manager.is_current:
            self.wake()

    # In a fork of this process

    def _refuse(self, *_: object) -> NoReturn:
        self.check_owner()
        raise AssertionError("only a fork of the pool's process asks")

    def close_copy(self) -> None:
        """Close this process's copies of the descriptors that belong to its parent."""
        self.is_foreign = True
        self.lock = threading.RLock()  # another thread may have held it, and that thread is gone
        self.holds_lock = getattr(self.lock, "_is_owned", self.holds_lock)
        self.advance_pool("fork")
        self.housekeeping.arrivals.clear()
        self.manager.clear()
        self.copier.clear()
        # A callback may have forked, or an argument as it was pickled. Then a thread of ours goes on there,
        # and must neither touch the parent's workers nor wait for them.
        handles, self.handles = self.handles, []
        self.dispatcher.queue.clear()
        for worker in handles:
            worker.disown(self._refuse)
        self.receiver.close_copy()
        self.close_waker()
        self.store.close_copy()
