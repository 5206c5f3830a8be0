"""What the pool's thread does between two waits, and what finalizers ask it for."""

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
    from sharedarray._pool.engine import Engine

__all__ = ["Housekeeping"]

# Slots whose memory was freed after which those are forgotten that no worker knows.
MANY_RETIRED: Final = 256


class Housekeeping:
    """Start and stop workers, free memory, and do what could not be done at once.

    Attributes
    ----------
    arrivals
        Tasks that finalizers have submitted which interrupted a thread with the engine's lock.
    active
        When workers were last busy, in seconds of the monotonic clock.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.arrivals: deque[tuple[Sequence[Task], Pickled | None]] = deque()
        self.active = time.monotonic()
        self._forgotten_functions: deque[int] = deque()
        self._released_blocks: deque[tuple[int, int]] = deque()

    def tend(self) -> bool:
        """Do what can be done now; return whether there is anything left to wait for."""
        engine = self._engine
        with engine.lock:
            if engine.is_forsaken and engine.state == RUNNING:
                engine.advance_pool("shut down")
            aborting, cancels = engine.is_aborting, engine.cancels_queued
        if cancels:
            engine.cancellation.cancel_queued()
        engine.cancellation.drop_abandoned()
        engine.iterators.warn()
        self._take_arrivals()
        if aborting:
            with engine.lock:
                for worker in engine.handles:
                    worker.kill()
        if engine.inbox.unread:
            engine.receiver.read_now()
        engine.timers.check()
        self._start_workers()
        engine.copier.run()
        with engine.lock:
            for worker in engine.handles:
                engine.supervisor.look_after(worker)
            if engine.store.retired > MANY_RETIRED:
                engine.store.retain(set().union(*[worker.outgoing.known for worker in engine.handles]))
            there = (
                engine.handles or engine.supervisor.reaping or engine.dispatcher.queue or engine.copier.tasks
            )
            going_on = bool(there) or engine.state == RUNNING
            busy = any(worker.load for worker in engine.handles)
        now = time.monotonic()
        if busy:
            self.active = now
        trim = engine.store.trim(now - self.active)
        engine.timers.trim_at = None if trim is None else now + trim
        return going_on

    def _start_workers(self) -> None:
        """Send what is queued, and start the workers that there is work for."""
        engine = self._engine
        while True:
            with engine.lock:
                self._send_forgotten()
                engine.dispatcher.dispatch()
                if not engine.supervisor.may_start():
                    return
            try:
                engine.supervisor.start_worker()
            except errors.LimitError as reason:
                if not engine.handles:
                    engine.cancellation.fail_queued(reason)
                return
            except BaseException as reason:  # also what the pickling of the initializer's arguments raises
                if engine.is_foreign:
                    raise
                if not engine.handles:
                    details = engine.supervisor.explain_start(reason)
                    engine.fail_for_good("no worker process could be started", reason, **details)
                return

    def wait(self, *, now: bool) -> None:
        """Wait until something happens, or it is time for something; not at all if ``now``."""
        engine = self._engine
        with engine.lock:
            check = engine.receiver.reader.check()
        patience = 0.0 if now else engine.timers.patience(check)
        for descriptor, _ in engine.receiver.outer.wait(patience):
            if engine.waker is not None and descriptor == engine.waker.fileno():
                engine.waker.drain()
            elif descriptor == engine.receiver.pipes.fileno():
                engine.receiver.read_now()
            else:
                engine.dispatcher.on_writable(descriptor)

    def _take_arrivals(self) -> None:
        """Accept what finalizers have submitted that interrupted a thread with the lock."""
        engine = self._engine
        while self.arrivals:
            tasks, call = self.arrivals.popleft()
            try:
                engine.enqueue(tasks, call)
            except Exception as closed:  # the pool takes no more
                engine.cancellation.fail(tasks, partial(_same, closed))

    def _send_forgotten(self) -> None:
        """Tell workers of functions and blocks that they may drop."""
        engine = self._engine
        while self._forgotten_functions:
            number = self._forgotten_functions.popleft()
            for worker in engine.handles:
                if worker.state != HUNG_UP and worker.outgoing.forget(number):
                    engine.dispatcher.write(worker)
        gone = set()
        while self._released_blocks:
            gone.add(self._released_blocks.popleft())
        if gone:
            for worker in engine.handles:
                if worker.state != HUNG_UP and worker.outgoing.released(gone):
                    engine.dispatcher.write(worker)

    def finish(self) -> None:
        """End everything, when the last worker has ended or the pool's thread has failed."""
        engine = self._engine
        engine.supervisor.finish()
        with engine.lock:
            queued, engine.dispatcher.queue = list(engine.dispatcher.queue), deque()
            self._released_blocks.clear()
            self._forgotten_functions.clear()
            if engine.state == RUNNING:
                engine.advance_pool("shut down")
            engine.advance_pool("empty")
        engine.cancellation.give_up(queued)
        del queued
        self._take_arrivals()
        engine.iterators.warn()
        engine.store.close()
        engine.at_end()

    def forget_function(self, number: int) -> None:
        """Note that a function is not needed any more."""
        engine = self._engine
        if not engine.manager.is_over:
            self._forgotten_functions.append(number)
            engine.wake()

    def left(self, mapping: Mapping) -> None:
        """Note that this process has released a block that workers were sent."""
        engine = self._engine
        if not engine.manager.is_over:
            self._released_blocks.append((mapping.device, mapping.inode))
            engine.wake()

    def on_slot_returned(self) -> None:
        """Note that a result in recycled memory is gone."""
        engine = self._engine
        trim_at = engine.timers.trim_at
        if trim_at is None or trim_at > time.monotonic() + TRIM_AFTER:
            engine.wake()


def _same(raised: Exception) -> Exception:
    return raised
