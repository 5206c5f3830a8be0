"""Starting workers, noticing their exits, and retrying or failing their calls.

A death is noticed by the process itself (a descriptor for it if the kernel has such, otherwise
multiprocessing's sentinel), never by the pipe alone: processes that a task forked may keep the pipe open.
Messages that arrived before are read first, so an outcome that was sent whole counts, and so do those in the
worker's page (`page`). The counter of credits tells which of the other calls it had not begun: these go to
other workers. The call that it had begun fails, or is run again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sharedarray import _pipes as pipes
from sharedarray._call_site import CallSite
from sharedarray._clock import time
from sharedarray._pool import outcomes, processes
from sharedarray._pool.calls import Raised, Task, name_of
from sharedarray._pool.codec import failures
from sharedarray._pool.codec.culprits import culprit_of_call
from sharedarray._pool.incoming import load_refusal
from sharedarray._pool.processes import exit_codes
from sharedarray._pool.processes.credits import new_counter
from sharedarray._pool.states import DEAD, HUNG_UP, KILLING, REVOKING, STARTING
from sharedarray._pool.transport import page
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import Frame
from sharedarray._pool.worker.main import ENDS_WITHIN, Ends, Setup
from sharedarray._pool.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Supervisor"]

# Workers that may die one after the other before any of them is ready. Fewer would give up on a machine that
# is short of memory for a moment; more would only repeat what an initializer does each time. Once workers of
# this pool have become ready, the likely cause is outside: then the pool goes on for so many seconds besides.
EARLY_DEATHS: Final = 3
LATER_DEATHS, LATER_SECONDS = 30, 60.0
# Dead workers that a task may be handed to. Only kills from outside of the pool lead this far.
HANDOVERS: Final = 10
# Seconds to wait for the exit code of a process that has ended.
PATIENCE: Final = 5.0
# Seconds until a worker that was told to end is killed. It ends itself before, unless native code keeps the
# interpreter from running.
STOPPED: Final = ENDS_WITHIN + 2.0


class Supervisor:
    """Keep as many workers as there is work for.

    Parameters
    ----------
    core
        The core of the pool.
    method
        The start method.
    setup
        What each worker does first.
    max_tasks
        How many calls a worker gets in its life; None for no limit.
    """

    def __init__(self, core: PoolCore, method: str, setup: Setup, max_tasks: int | None) -> None:
        self._core = core
        self.method = method
        self.max_tasks = max_tasks
        self._setup: Setup | None = setup
        # The line of the program that named modules for the fork server, until a worker was started.
        self._call_site = CallSite() if setup.preload else None
        self._started = 0
        self._early_deaths = 0
        self._last_ready: float | None = None
        self._replacements = 0  # workers to start at once, in place of those that died
        self._unreplaced = 0  # workers that have ended, and have no replacement
        self.reaping = 0  # workers that have ended, whose calls are not settled or queued again yet

    # With the pool's lock held

    def may_start(self) -> bool:
        """Return whether one more worker would have calls to run."""
        core = self._core
        if not core.dispatcher.queue and not self._replacements:
            return False
        if not core.takes_tasks:
            return False
        there = [worker for worker in core.handles if not worker.is_ending]
        if len(there) >= core.workers:
            return False
        if self._replacements and not core.is_shut:
            return True
        starting = sum(worker.state == STARTING for worker in there)
        waiting = 0
        for task in core.dispatcher.queue:
            waiting += task.remaining
            if starting < waiting:
                return True
        return False

    def drop_replacements(self) -> None:
        """Start no replacements at once: no process can be started now."""
        self._replacements = 0

    def stop_if_unused(self, worker: WorkerHandle) -> None:
        """Stop a worker that has nothing to do any more."""
        core = self._core
        if worker.is_unused and not worker.is_ending and worker.state != REVOKING:
            worn_out = self.max_tasks is not None and worker.given >= self.max_tasks
            if worn_out or (core.is_shut and not core.dispatcher.queue and not core.copier.tasks):
                worker.stop()
                worker.until = time.monotonic() + STOPPED
                core.wake_manager()  # which kills a worker that does not end
                core.receiver.reader.watch()
        core.dispatcher.watch_writing(worker)

    # Starting

    def start_worker(self) -> None:
        """Start one more worker."""
        core, setup = self._core, self._setup
        assert setup is not None
        to_worker, to_pool = pipes.one_way(), pipes.one_way()
        counter = new_counter(self.method)
        # If all processors were polling for calls, none would be left to run them.
        spins = len(core.handles) < core.receiver.processors - 1
        self._replacements = max(0, self._replacements - 1)
        taken = {worker.slot for worker in core.handles if not worker.is_ending}
        slot = next(slot for slot in itertools.count() if slot not in taken)
        page_file = page.make()
        ends = Ends(to_worker[0], to_pool[1], counter, os.getpid(), page_file, spins)
        self._started += 1
        if self._unreplaced:
            self._unreplaced -= 1
            core.statistics.replaced += 1
        process = processes.WorkerProcess(self.method, f"sharedarray-worker-{self._started}", ends, setup)
        channel = Channel(to_pool[0], to_worker[1], blocking=False)
        worker = WorkerHandle(process, channel, counter, page_file, slot)
        core.handles.append(worker)  # before the start: a forked worker finds the ends to close here
        try:
            processes.start(process)
            worker.exit, worker.owns_exit = pipes.exit_descriptor(process)
        except BaseException:
            with core.lock:
                core.handles.remove(worker)
                worker.kill()
            if process.pid is not None:  # it runs, and its exit could not be noticed
                process.join()
            worker.close()
            raise
        finally:
            to_worker[0].close()
            to_pool[1].close()
        worker.since = time.monotonic()
        worker.pid = process.pid or 0
        self._warn_of_modules(process)
        with core.lock:
            core.receiver.watch_worker(worker)
            core.receiver.reader.watch()
            if worker.state == KILLING:  # by another thread, when there was no process yet
                worker.end_process()

    def _warn_of_modules(self, process: processes.WorkerProcess) -> None:
        """Warn once of modules that the fork server could not load properly."""
        place, self._call_site = self._call_site, None
        for module in process.preload if place is not None else ():
            if place is not None and module in process.reports:
                place.warn(
                    RuntimeWarning(
                        f"the module {module!r}, which preload names, {process.reports[module]}. "
                        f"Next step: leave it out of preload, and import it in the initializer"
                    )
                )

    def explain_start(self, reason: BaseException) -> dict[str, str | None]:
        """Return why no worker can be started, such as an argument of the initializer that cannot be sent."""
        found, setup = failures.described(reason), self._setup
        if setup is None or setup.initializer is None:
            return {"found": found}
        name = name_of(setup.initializer)
        culprit = culprit_of_call(setup.initializer, setup.initargs, {}, name, inherits=True)
        if culprit is None:
            return {"found": found}
        return {
            "found": f"{culprit.described(found)}, in the call of the initializer {name}",
            "cause": culprit.cause,
            "next_step": culprit.cure,
        }

    def on_ready(self, worker: WorkerHandle) -> None:
        """Note that a worker has run the initializer."""
        self._early_deaths = 0
        self._last_ready = time.monotonic()
        with self._core.lock:
            worker.is_ready = True
            worker.advance("ready")
            self._core.dispatcher.dispatch()
        worker.forget_name()

    def on_refusal(self, frame: Frame) -> None:
        """Give the pool up: the initializer has raised an exception."""
        raised = load_refusal(frame)
        self._core.fail_for_good(
            "the initializer raised an exception, so the pool has no workers",
            raised,
            found=failures.described(raised),
            next_step="mend the initializer (its exception is the cause of this one) and make a new pool",
        )

    # Exits

    def on_exit(self, worker: WorkerHandle) -> None:
        """Read what a worker that has ended had still sent, and fail, retry or requeue its calls."""
        if not pipes.has_ended(worker.exit, 0):
            return  # a worker that was handled in this very round had a descriptor of this number
        inbox = self._core.inbox
        while worker.state != HUNG_UP and inbox.receive(worker):
            pass
        if worker.unread:  # Ctrl-C broke the loading of one off before
            inbox.handle(worker, ())
        unsent = worker.unsent()
        if unsent:
            inbox.handle(worker, unsent)
        self.reap(worker)

    def reap(self, worker: WorkerHandle) -> None:
        """Note the end of a worker's process, and fail, retry or requeue its calls."""
        core = self._core
        code = self._exit_code(worker)
        with core.lock:
            if worker.state == DEAD:  # both a caller and the pool's thread at its end have noticed it
                return
            was = worker.state
            worker.advance("exit")
            self.reaping += 1  # so the pool does not end before its calls have
            if worker in core.handles:
                core.handles.remove(worker)
            core.receiver.unwatch(worker.channel.fileno())
            core.receiver.unwatch(worker.exit)
            core.dispatcher.unwatch_writing(worker)
            worker.close()
            begun, rest = worker.unfinished()
            worker.forget_name()
            self._unreplaced += 1
            self._replacements += not worker.is_stopped
            core.statistics.died += not worker.is_stopped
        try:
            self._settle_calls(worker, begun, rest, code, killed=was == KILLING)
        finally:
            with core.lock:
                self.reaping -= 1
                core.dispatcher.dispatch()
            core.wake()

    def _settle_calls(
        self, worker: WorkerHandle, begun: Task | None, rest: list[Task], code: int | None, *, killed: bool
    ) -> None:
        """Fail, retry or requeue the calls of a worker that has ended."""
        self._requeue(worker, rest, killed=killed)
        for task in worker.lost:
            self._fail_or_retry(worker, task, code)
        worker.lost.clear()
        if begun is not None:
            self._fail_or_retry(worker, begun, code)
        elif not (worker.is_ready or worker.is_stopped or killed or self._core.is_broken):
            self._on_early_death(worker, code)
        with contextlib.suppress(ValueError):  # the exit code is unknown
            worker.process.close()

    def _exit_code(self, worker: WorkerHandle) -> int | None:
        code = worker.process.exitcode
        if code is None:
            worker.process.join(PATIENCE)
            code = worker.process.exitcode
        return code

    def _on_early_death(self, worker: WorkerHandle, code: int | None) -> None:
        """Give the pool up if too many workers have died before they were ready."""
        self._early_deaths += 1
        if self._last_ready is None:
            hopeless = self._early_deaths >= EARLY_DEATHS
        else:
            ago = time.monotonic() - self._last_ready
            hopeless = self._early_deaths >= LATER_DEATHS and ago > LATER_SECONDS
        if hopeless:
            death = exit_codes.explain(code)
            self._core.fail_for_good(
                f"{self._early_deaths} workers died one after the other before they were ready",
                None,
                found=f"{worker.name} (process {worker.pid}), the last one, ended {death.how}",
                cause=f"{death.cause}; it happened at the worker's start or in the initializer",
                next_step=death.next_step,
            )

    def _requeue(self, worker: WorkerHandle, rest: list[Task], *, killed: bool) -> None:
        """Give the calls that a dead worker had not begun to others."""
        if rest and not killed:
            rest[0].handovers += 1
            if rest[0].handovers > HANDOVERS:
                self._fail_or_retry(worker, rest.pop(0), None)
        self._queue_again(rest)

    def _queue_again(self, tasks: list[Task]) -> None:
        """Put tasks back into the queue, unless the pool has been aborted or has failed meanwhile."""
        core = self._core
        with core.lock:
            again = core.takes_tasks
            if again:
                core.dispatcher.requeue(tasks)
        if not again:
            core.cancellation.cancel_or_fail(tasks)

    def _fail_or_retry(self, worker: WorkerHandle, task: Task, code: int | None) -> None:
        """Decide about a call whose worker died."""
        core = self._core
        make: Callable[[], BaseException]
        outcome = "died"
        if core.is_broken:
            make = core.broken_error
        elif core.is_aborting:
            make = lambda: outcomes.interrupted(task.label)  # noqa: E731
        elif worker.error is not None:
            make = worker.error
        elif task.retries > 0:
            task.retries -= 1
            with core.lock:
                core.statistics.retried += 1
            self._queue_again([task])
            return
        else:
            make = lambda: outcomes.worker_died(worker, task.label, code)  # noqa: E731
        error = make()
        if worker.error is make:
            outcome = "timeout" if isinstance(error, TimeoutError) else "cancelled"
        task.began = task.began or int(worker.since * 1e9)
        with core.lock:
            core.statistics.failed += outcome != "cancelled"
            core.statistics.cancelled += outcome == "cancelled"
            core.statistics.finished(task, time.monotonic_ns(), worker.name, worker.pid, outcome)
        if outcome == "cancelled":
            task.sink.cancel_items(task.index, task.remaining, task.step)
        else:
            task.sink.put(task.index, [Raised(error)] * task.remaining, task.step)
        task.release()

    # The end

    def undo_start(self) -> None:
        """Leave nothing of a start that failed."""
        for worker in self._core.handles:
            worker.kill()
            self._exit_code(worker)
            worker.close()
            worker.unfinished()
            worker.forget_name()
        self._core.handles.clear()

    def finish(self) -> None:
        """End what is left of the workers, and drop what the initializer was given."""
        for worker in list(self._core.handles):
            with self._core.lock:
                worker.kill()
            self.reap(worker)
        self._setup = None
