"""Reading the workers' messages and exits, and settling what they bring.

One thread at a time reads (`reader`): the pool's, or a caller that waits for a result. Whichever it is does
the same with what it finds, in this order: load the outcomes, without a lock; record them and send what is
queued, under the engine's lock; settle the futures, without it. Exits of workers are in the same poller as
their pipes, so the reading thread handles a death at once (`supervisor`).

Ctrl-C breaks a caller off while it waits, and while it loads what a user has written, nowhere else (see
`sharedarray.interrupts`). If it breaks the loading off, the outcomes before it count, and the pool's thread
loads the others again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sharedarray import errors, interrupts
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.pool.calls import Raised, Sink
from sharedarray.pool.incoming import LOST, OUTCOMES, DamagedReplyError, Incoming, shared_bytes
from sharedarray.pool.reader import Reader
from sharedarray.pool.states import CLOSED, HUNG_UP, KILLING, LEASED
from sharedarray.pool.transport import pipes
from sharedarray.pool.transport.messages import HOLDS, PLAIN, Frame, Kind
from sharedarray.pool.transport.poller import Poller, new_poller
from sharedarray.pool.transport.spin import SpinWait
from sharedarray.pool.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from sharedarray.pool.engine import Engine

__all__ = ["Receiver", "Settled"]

_REPLIES = int(Kind.REPLIES)
# Seconds for which a caller polls for a reply before it sleeps.
SPIN: Final = 60e-6
# Seconds until a worker that has closed its pipe is killed.
PATIENCE: Final = 5.0

Settled = list[tuple[Sink, int, list[Any], int]]


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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.incoming = Incoming(engine.store)
        self.is_started = False
        self._waker: pipes.Waker | None = None
        self._handlers: dict[int, Callable[[], object]] = {}
        self._released = threading.Event()
        self._unread: set[WorkerHandle] = set()  # workers with messages that Ctrl-C kept from being loaded
        self._pausing = False  # the reading thread sleeps, so a handler that interrupts it may read as well
        self.processors = platform.processors()
        self._spinning = SpinWait(SPIN if self.processors > 1 else 0)

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
            with self._engine.lock:
                if not self.is_started:
                    return
                if not self.reader.owner:
                    self.reader.close()
                    break
                self._released.clear()
            self.wake_reader()
            self._released.wait(0.01)
        with self._engine.lock:
            self.close_all()
            self._engine.close_waker()

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

    def clear(self) -> None:
        """Close this process's copies, in a fork of the pool's process."""
        if self.is_started:
            self.reader.owner = 0
            if self.reader.state != CLOSED:
                self.reader.close()
                self.close_all()

    def watch(self, descriptor: int, handler: Callable[[], object]) -> None:
        """Have the reading thread call a handler when a descriptor is readable."""
        self._handlers[descriptor] = handler
        self.pipes.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        if self._handlers.pop(descriptor, None) is not None:
            self.pipes.remove(descriptor)

    # For callers

    @property
    def is_reading(self) -> bool:
        """Whether this thread reads."""
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
        engine = self._engine
        if engine.is_foreign:
            if not done():
                engine.check_owner()  # for nothing will come
            return
        if not self.is_started:
            return
        me = threading.get_ident()
        with interrupts.deferred:
            if self.reader.owner == me or engine.manager.ident == me or engine.holds_lock():
                self._read_within(done, deadline)
                return
            with engine.lock:
                mine = self.reader.take()
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
        engine = self._engine
        if not self._pausing or engine.manager.ident == threading.get_ident() or engine.holds_lock():
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
        poller, spinning, reader, manager = self.pipes, self._spinning, self.reader, self._engine.manager
        me = threading.get_ident()
        while not (done() or manager.is_over) and reader.owner == me:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            ready = () if self._unread else poller.ready()
            if ready or self._unread:
                spinning.waited(0.0)  # it was there before the end of what had to be done after the sending
            else:
                began = time.perf_counter()
                # Polling is too short for anybody to want to break it off.
                if spinning.worthwhile() and not self._is_crowded():
                    ready = spinning.poll(poller.ready)
                if not ready:
                    self._pausing = True
                    try:
                        with interrupts.allowed:
                            ready = poller.wait(remaining)
                    finally:
                        self._pausing = False
                spinning.waited(time.perf_counter() - began)
            self.on_ready(ready)
            del ready
        if self._engine.is_copied and not done():
            self._engine.check_owner()  # a callback of this very thread has forked

    def _is_crowded(self) -> bool:
        """Return whether polling would take a processor from a worker that has calls to run."""
        busy = 0
        for worker in self._engine.handles:
            busy += worker.load > 0
        return busy >= self.processors

    def _release(self) -> None:
        """Give the role up. If replies are outstanding, the pool's thread reads them."""
        engine = self._engine
        with engine.lock:
            if not self.is_reading:
                return
            wake = self.reader.release()
            if engine.is_waiting:
                self.reader.watch()
            self._released.set()
        if wake or engine.wants_manager:
            engine.wake()

    def attend(self) -> None:
        """Ensure that what arrives is read, though no thread may wait for it by `read_until`."""
        if not self.is_started or self.reader.state != LEASED or self._engine.is_foreign:
            return
        with interrupts.deferred:
            if not self._engine.holds_lock() and self._engine.lock.acquire(blocking=False):
                try:
                    self.reader.watch()
                finally:
                    self._engine.lock.release()
            else:
                self._engine.wake()

    def catch_up(self) -> None:
        """Read what workers have sent so far, for a report."""
        engine = self._engine
        if not self.is_started or engine.is_foreign or engine.holds_lock():
            return
        with interrupts.deferred:
            self.read_now()

    def read_now(self) -> None:
        """Read what is there, unless another thread reads, which is woken."""
        with self._engine.lock:
            mine = not self.is_reading and self.reader.take()
        if not mine:
            if self._unread:
                self.wake_reader()
            return
        try:
            self.on_ready(self.pipes.ready())
        finally:
            self._release()

    @property
    def has_unread(self) -> bool:
        """Whether there are messages that Ctrl-C kept from being loaded."""
        return bool(self._unread)

    def wake_reader(self) -> None:
        """Wake the reading thread so that it checks its exit condition again."""
        if self.is_started and self.reader.owner and not self.is_reading and self._waker is not None:
            self._waker.wake()

    # For the reading thread

    def on_ready(self, ready: Sequence[tuple[int, object]]) -> None:
        """Call the handlers of descriptors that are readable."""
        handlers, reader = self._handlers, self.reader
        me = reader.owner
        while self._unread:
            self.handle(self._unread.pop(), ())
        for descriptor, _ in ready:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler()
                if reader.owner != me:
                    return  # this is a fork of the process, made by what a handler called

    def watch_worker(self, worker: WorkerHandle) -> None:
        """Watch the pipe and the exit of a worker. With the engine's lock held."""
        self.watch(worker.channel.fileno(), partial(self.receive, worker))
        self.watch(worker.exit, partial(self._engine.supervisor.on_exit, worker))

    def receive(self, worker: WorkerHandle) -> bool:
        """Read once what a worker has sent, and act on it; return whether there was anything."""
        try:
            frames = worker.channel.receive()
        except (EOFError, OSError):
            self._on_end_of_file(worker)
            return False
        if frames:
            self.handle(worker, frames)
        return bool(frames)

    def _on_end_of_file(self, worker: WorkerHandle) -> None:
        """Note that a worker has closed its pipe; it has ended, or is about to."""
        with self._engine.lock:
            self.unwatch(worker.channel.fileno())
            if worker.state != HUNG_UP:
                worker.advance("end of file")
                if worker.state != KILLING:
                    worker.until = time.monotonic() + PATIENCE
            self._engine.unwatch_writing(worker)
        self._engine.wake_manager()

    def handle(self, worker: WorkerHandle, frames: Sequence[Frame]) -> None:
        """Act on messages of a worker; settle what they bring.

        Raises
        ------
        BaseException
            Ctrl-C has broken the loading of an outcome off.
        """
        engine, incoming = self._engine, self.incoming
        settled: Settled = []
        try:
            self._handle(worker, frames, settled)
        except BaseException:
            # Something else than Ctrl-C broke this thread off. What it was changing is not to be trusted.
            with engine.lock:
                for each in engine.handles:
                    each.kill()
            engine.wake()
            settle(settled)  # these are no worker's calls any more
            raise
        del frames
        interrupt, incoming.interrupt = incoming.interrupt, None
        engine.dropped.clear()
        try:
            settle(settled)
        finally:
            if interrupt is not None:
                engine.wake()  # the pool's thread loads what was not loaded
                raise interrupt
            if engine.copier.is_needed:
                engine.copier.run()

    def _handle(self, worker: WorkerHandle, frames: Sequence[Frame], settled: Settled) -> None:
        engine, incoming = self._engine, self.incoming
        replies: list[tuple[Frame, list[Any]]] = []
        messages: list[Frame] = []
        if worker.unread:
            frames, worker.unread = [*worker.unread, *frames], []
        for index, frame in enumerate(frames):
            if frame.kind in OUTCOMES:
                try:
                    outcomes, rest = incoming.load(worker, frame)
                except DamagedReplyError:
                    with engine.lock:
                        worker.kill()
                    continue
                replies.append((frame, outcomes))
                if rest is not None:
                    worker.unread = [rest, *frames[index + 1 :]]
                    self._unread.add(worker)
                    break
            else:
                messages.append(frame)
        if replies:
            with engine.lock:
                for frame, outcomes in replies:
                    self._record(worker, frame, outcomes, settled)
                engine.after_replies(worker)
        for (
            frame
        ) in messages:  # after the replies, for a worker sends nothing behind these until it is answered
            self._on_message(worker, frame)

    def _record(self, worker: WorkerHandle, frame: Frame, outcomes: list[Any], settled: Settled) -> None:
        """Note outcomes, which arrive in the order of the calls. With the engine's lock held."""
        engine = self._engine
        total, at = len(outcomes), 0
        may_fail = frame.kind != _REPLIES or not frame.flags & PLAIN
        began, span = frame.began, frame.ended - frame.began
        while at < total and worker.tasks:
            task = worker.tasks[0]
            count = min(total - at, task.count - task.done)
            run = outcomes if count == total else outcomes[at : at + count]
            index = task.index
            worker.replied(count)
            if run[0] is LOST:
                worker.lost.append(task.only(task.done - 1))
                at = total
                continue
            settled.append((task.sink, index, run, task.step))
            if frame.flags & HOLDS:
                engine.statistics.shares(task.call, "result", shared_bytes(run[0]))
                worker.confirm()
            engine.statistics.observe(
                task,
                frame,
                count,
                began + span * at // total,
                began + span * (at + count) // total,
                failed=sum([type(each) is Raised for each in run]) if may_fail else 0,
                worker=worker.name,
                pid=worker.pid,
            )
            if task.done == task.count:
                task.release(engine.dropped)
            at += count
        if at:
            worker.since = time.monotonic()
            worker.advance("reply" if worker.load else "last reply")

    def _on_message(self, worker: WorkerHandle, frame: Frame) -> None:
        """Act on a message without outcomes."""
        engine, kind = self._engine, frame.kind
        if kind == Kind.READY:
            engine.supervisor.on_ready(worker)
        elif kind == Kind.REFUSED:
            engine.supervisor.on_refusal(frame)
        elif kind == Kind.DROPPED:
            with engine.lock:
                worker.dropped(frame.item)
                engine.dispatch()
            if engine.is_shut:
                engine.wake_manager()
        elif kind == Kind.NEED:
            lent = engine.store.take(frame.began)
            with engine.lock:
                worker.grant(lent)
                engine.watch_writing(worker)


def settle(settled: Settled) -> None:
    """Give the outcomes to their sinks; all of them, whatever one of them raises."""
    raised: BaseException | None = None
    while settled:
        sink, index, outcomes, step = settled.pop(0)
        try:
            sink.put(index, outcomes, step)
        except BaseException as error:
            raised = raised or error
        del sink, outcomes
    if raised is not None:
        raise raised
