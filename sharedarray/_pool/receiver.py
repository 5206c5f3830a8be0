"""Waiting for the workers' messages and exits.

One thread at a time reads (`reader`): the pool's, or a caller that waits for a result. Whichever it is does
the same with what it finds (`inbox`). Exits of workers are in the same poller as their pipes, so the thread
that reads handles a death at once (`supervisor`).

Ctrl-C breaks a caller off while it waits (see `sharedarray._sigint`). It gives the role up, and the
pool's thread reads on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from sharedarray import _errors as errors, _pipes as pipes, _sigint as sigint
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._poller import Poller, new_poller
from sharedarray._pool.reader import Reader
from sharedarray._pool.states import CLOSED, LEASED, RUNNING
from sharedarray._pool.worker_handle import WorkerHandle
from sharedarray._spin import spin_wait

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Receiver"]

# Seconds for which a caller polls for a reply before it sleeps.
SPIN: Final = 60e-6


class Receiver:
    """Read what workers send.

    Attributes
    ----------
    outer
        What the pool's thread waits for: its waker, writable pipes, and ``pipes`` if no caller reads these.
    pipes
        What the reading thread waits for: its waker, the workers' pipes and exits.
    reader
        The role of reading.
    """

    outer: Poller
    pipes: Poller
    reader: Reader

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.is_started = False
        self._waker: pipes.Waker | None = None
        self._handlers: dict[int, Callable[[], object]] = {}
        self._is_closing = False
        self._released = threading.Event()  # of the reader's role, while this is closing
        self._pausing = False  # the reading thread sleeps, so a handler that interrupts it may read as well
        self.processors = platform.processors()
        self._spinning = spin_wait(SPIN)

    def start(self) -> None:
        """Open the pollers."""
        self.outer, self.pipes = new_poller(), new_poller()
        self._waker = pipes.Waker()
        self.outer.add(self.pipes.fileno())
        self.reader = Reader(self.outer, self.pipes)
        self.is_started = True
        self.watch(self._waker.fileno(), self._waker.drain)

    def close(self) -> None:
        """Close everything, when no thread reads any more."""
        while True:
            with self._core.lock:
                if not self.is_started:
                    return
                if not self.reader.owner:
                    self.reader.close()
                    break
                self._is_closing = True
                self._released.clear()
            self.wake_reader()
            self._released.wait(0.01)
        with self._core.lock:
            self.close_all()
            self._core.close_waker()

    def close_all(self) -> None:
        """Close the pollers."""
        if self.is_started:
            self.outer.close()
            self.pipes.close()
            self._handlers.clear()
        if self._waker is not None:
            self._waker.close()

    def undo_start(self) -> None:
        """Close what a start that failed has opened."""
        self.close_all()
        self.is_started = False

    def close_copy(self) -> None:
        """Close this process's copies, in a fork of the pool's process."""
        if self.is_started:
            self.reader.owner = 0
            if self.reader.state != CLOSED:
                self.reader.close()
                self.close_all()

    def watch(self, descriptor: int, handler: Callable[[], object]) -> None:
        """Register a handler that the reading thread calls when a descriptor is readable."""
        self._handlers[descriptor] = handler
        self.pipes.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        if self._handlers.pop(descriptor, None) is not None:
            self.pipes.remove(descriptor)

    # For callers

    @property
    def is_reading(self) -> bool:
        """True if this thread reads."""
        return self.is_started and self.reader.owner == threading.get_ident()

    def read_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Read until ``done()``, or time is up, unless another thread reads.

        Parameters
        ----------
        done
            Whether what the caller waits for has arrived.
        deadline
            In seconds of the monotonic clock; None for no limit.

        Raises
        ------
        SharedArrayError
            This is a fork of the pool's process, and what is waited for has not arrived.
        """
        core = self._core
        if core.is_foreign:
            if not done():
                core.check_owner()  # for nothing will come
            return
        if not self.is_started:
            return
        me, reader = threading.get_ident(), self.reader
        with sigint.deferred:
            if reader.owner == me or core.manager.ident == me or core.holds_lock():
                self._read_within(done, deadline)
                return
            with core.lock:
                mine = reader.take(me)
            if mine:
                try:
                    self._read_until(done, deadline)
                finally:
                    self._release()

    def _read_within(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Read in what has interrupted this very thread as it reads: a signal handler, a finalizer.

        Raises
        ------
        DeadlockError
            It is in the middle of an outcome, and would wait for itself.
        """
        if done():
            return
        core = self._core
        if not self._pausing or core.manager.ident == threading.get_ident() or core.holds_lock():
            raise errors.DeadlockError(
                "a thread that reads the answers of a pool's workers would wait for one of them",
                cause="a method that pickle calls as it loads a result, or a finalizer, waits for another",
                next_step="wait for it outside of such methods, in a callback of the future for instance",
            )
        self._pausing = False
        try:
            self._read_until(done, deadline)
        finally:
            self._pausing = True
            if self._waker is not None:
                self._waker.wake()  # what the outer waits are for may have arrived

    def _read_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        poller, spinning, reader = self.pipes, self._spinning, self.reader
        manager, inbox = self._core.manager, self._core.inbox
        me = reader.owner
        while not (done() or manager.is_over) and reader.owner == me:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            ready = () if inbox.unread else poller.ready()
            if ready or inbox.unread:
                spinning.last = 0.0  # it was there before the end of what had to be done after the sending
            else:
                began = time.perf_counter()
                # Polling is too short to be broken off.
                if spinning.worthwhile() and not self._is_crowded():
                    ready = spinning.poll(poller.ready)
                if not ready:
                    self._pausing = True
                    try:
                        with sigint.allowed:
                            ready = poller.wait(remaining)
                    finally:
                        self._pausing = False
                spinning.last = time.perf_counter() - began
            self.on_ready(ready)
            del ready
        if self._core.is_foreign and not done():
            self._core.check_owner()  # a callback of this very thread has forked

    def _is_crowded(self) -> bool:
        """Return whether polling would take a processor from a worker that has calls to run."""
        busy = 0
        for worker in self._core.handles:
            busy += worker.load > 0
        return busy >= self.processors

    def _release(self) -> None:
        """Give the role up. If replies are outstanding, the pool's thread reads them."""
        core, reader = self._core, self.reader
        with core.lock:
            if reader.owner != threading.get_ident():
                return
            wake = reader.release()
            for worker in core.handles:
                if worker.load or not worker.accepts:  # it may send something
                    reader.watch()
                    break
            if self._is_closing:
                self._released.set()
        if (
            wake
            or core.state != RUNNING
            or (core.timers.trim_at is None and core.store.dirty)
            or (core.dispatcher.queue and core.supervisor.may_start())
        ):
            core.wake()  # the pool's thread has something to do

    def ensure_reader(self) -> None:
        """Ensure that what arrives is read, though no thread may wait for it by `read_until`."""
        if not self.is_started or self.reader.state != LEASED or self._core.is_foreign:
            return
        with sigint.deferred:
            if not self._core.holds_lock() and self._core.lock.acquire(blocking=False):
                try:
                    self.reader.watch()
                finally:
                    self._core.lock.release()
            else:  # a thread that holds the lock may wait for one that this thread has
                self.reader.is_wanted = True
                self._core.wake()

    def catch_up(self) -> None:
        """Read what workers have sent so far, for a report."""
        core = self._core
        if not self.is_started or core.is_foreign or core.holds_lock():
            return
        with sigint.deferred:
            self.read_now()

    def read_now(self) -> None:
        """Read what is there, unless another thread reads, which is woken."""
        with self._core.lock:
            mine = not self.is_reading and self.reader.take(threading.get_ident())
        if not mine:
            if self._core.inbox.unread:
                self.wake_reader()
            return
        try:
            self.on_ready(self.pipes.ready())
        finally:
            self._release()

    def wake_reader(self) -> None:
        """Wake the reading thread so that it checks its exit condition again."""
        if self.is_started and self.reader.owner and not self.is_reading and self._waker is not None:
            self._waker.wake()

    # For the reading thread

    def on_ready(self, ready: Sequence[tuple[int, object]]) -> None:
        """Call the handlers of descriptors that are readable."""
        handlers, reader = self._handlers, self.reader
        me, inbox = reader.owner, self._core.inbox
        while inbox.unread:
            inbox.handle(inbox.unread.pop(), ())
        for descriptor, _ in ready:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler()
                if reader.owner != me:
                    return  # this is a fork of the process, made by what a handler called

    def watch_worker(self, worker: WorkerHandle) -> None:
        """Watch the pipe and the exit of a worker. With the pool's lock held."""
        self.watch(worker.channel.fileno(), partial(self._core.inbox.receive, worker))
        self.watch(worker.exit, partial(self._core.supervisor.on_exit, worker))
