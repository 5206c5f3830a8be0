"""The work of the pool's thread between two waits, also on behalf of finalizers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from sharedarray import _errors as errors
from sharedarray._clock import time
from sharedarray._pool.calls import Task
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.states import HUNG_UP, RUNNING
from sharedarray._pool.transport.slots import TRIM_AFTER
from sharedarray._segment import Mapping

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Housekeeping"]

# Slots whose memory was freed after which those are forgotten that no worker knows.
MANY_RETIRED: Final = 256


class Housekeeping:
    """Start and stop workers, free memory, and do what could not be done at once.

    Attributes
    ----------
    arrivals
        Tasks that finalizers have submitted which interrupted a thread with the pool's lock.
    active
        When workers were last busy, in seconds of the monotonic clock.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.arrivals: deque[tuple[Sequence[Task], Pickled | None]] = deque()
        self.active = time.monotonic()
        self._forgotten_functions: deque[int] = deque()
        self._released_blocks: deque[tuple[int, int]] = deque()

    def run_once(self) -> bool:
        """Do what can be done now; return whether there is anything left to wait for."""
        core = self._core
        with core.lock:
            if core.is_collected and core.state == RUNNING:
                core.advance_pool("shut down")
            aborting, cancels = core.is_aborting, core.cancels_queued
        if cancels:
            core.cancellation.cancel_queued()
        core.cancellation.drop_abandoned()
        core.iterators.warn()
        self._take_arrivals()
        if aborting:
            with core.lock:
                for worker in core.handles:
                    worker.kill()
        if core.inbox.unread:
            core.receiver.read_now()
        core.timers.check()
        self._start_workers()
        core.copier.run()
        with core.lock:
            for worker in core.handles:
                core.supervisor.stop_if_unused(worker)
            if core.store.retired > MANY_RETIRED:
                core.store.retain(set().union(*[worker.outgoing.known for worker in core.handles]))
            there = core.handles or core.supervisor.reaping or core.dispatcher.queue or core.copier.tasks
            going_on = bool(there) or core.state == RUNNING
            busy = any(worker.load for worker in core.handles)
        now = time.monotonic()
        if busy:
            self.active = now
        trim = core.store.trim(now - self.active)
        core.timers.trim_at = None if trim is None else now + trim
        return going_on

    def _start_workers(self) -> None:
        """Send what is queued, and start the workers that there is work for."""
        core = self._core
        while True:
            with core.lock:
                self._send_forgotten()
                core.dispatcher.dispatch()
                if not core.supervisor.may_start():
                    return
            try:
                core.supervisor.start_worker()
            except errors.LimitError as reason:
                if not core.handles:
                    core.cancellation.fail_queued(reason)
                return
            except BaseException as reason:  # also what the pickling of the initializer's arguments raises
                if core.is_foreign:
                    raise
                if not core.handles:
                    details = core.supervisor.explain_start(reason)
                    core.fail_for_good("no worker process could be started", reason, **details)
                return

    def wait(self) -> None:
        """Wait until something happens, or it is time for something."""
        core = self._core
        with core.lock:
            check = core.receiver.reader.check()
        for descriptor, _ in core.receiver.outer.wait(core.timers.patience(check)):
            if core.waker is not None and descriptor == core.waker.fileno():
                core.waker.drain()
            elif descriptor == core.receiver.pipes.fileno():
                core.receiver.read_now()
            else:
                core.dispatcher.on_writable(descriptor)

    def _take_arrivals(self) -> None:
        """Accept what finalizers have submitted that interrupted a thread with the lock."""
        core = self._core
        while self.arrivals:
            tasks, call = self.arrivals.popleft()
            try:
                core.enqueue(tasks, call)
            except Exception as closed:  # the pool takes no more
                core.cancellation.fail(tasks, partial(_same, closed))

    def _send_forgotten(self) -> None:
        """Tell workers of functions and blocks that they may drop."""
        core = self._core
        while self._forgotten_functions:
            number = self._forgotten_functions.popleft()
            for worker in core.handles:
                if worker.state != HUNG_UP and worker.outgoing.forget(number):
                    core.dispatcher.write(worker)
        gone = set()
        while self._released_blocks:
            gone.add(self._released_blocks.popleft())
        if gone:
            for worker in core.handles:
                if worker.state != HUNG_UP and worker.outgoing.released(gone):
                    core.dispatcher.write(worker)

    def finish(self) -> None:
        """End everything, when the last worker has ended or the pool's thread has failed."""
        core = self._core
        core.supervisor.finish()
        with core.lock:
            queued = core.dispatcher.remove()
            self._released_blocks.clear()
            self._forgotten_functions.clear()
            if core.state == RUNNING:
                core.advance_pool("shut down")
            core.advance_pool("empty")
        core.cancellation.cancel_or_fail(queued)
        del queued
        self._take_arrivals()
        core.iterators.warn()
        core.store.close()
        core.at_end()

    def forget_function(self, number: int) -> None:
        """Note that a function is not needed any more."""
        core = self._core
        if not core.manager.is_over:
            self._forgotten_functions.append(number)
            core.wake()

    def on_release(self, mapping: Mapping) -> None:
        """Note that this process has released a block that workers were sent."""
        core = self._core
        if not core.manager.is_over:
            self._released_blocks.append((mapping.device, mapping.inode))
            core.wake()

    def on_slot_returned(self) -> None:
        """Note that a result in recycled memory is gone."""
        core = self._core
        trim_at = core.timers.trim_at
        if trim_at is None or trim_at > time.monotonic() + TRIM_AFTER:
            core.wake()


def _same(raised: Exception) -> Exception:
    return raised
