"""Acting on what workers send.

In this order: load the outcomes, without a lock; record them and send what is queued, under the core's
lock; settle the futures, without it.

Ctrl-C may break off the loading of an outcome, because that calls what a user has written, and nothing else
here. Then the outcomes before it count, and the others are loaded again by the thread that reads next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sharedarray._clock import time
from sharedarray._pool.calls import Raised, Task
from sharedarray._pool.incoming import LOST, OUTCOMES, DamagedReplyError, Incoming, shared_bytes
from sharedarray._pool.states import HUNG_UP, KILLING
from sharedarray._pool.transport.messages import HOLDS, PLAIN, Frame, Kind
from sharedarray._pool.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Inbox"]

_REPLIES = int(Kind.REPLIES)
# Seconds until a worker that has closed its pipe is killed.
PATIENCE: Final = 5.0

# A task, the index of the first outcome within its sink, and the outcomes.
Settled: TypeAlias = list[tuple[Task, int, list[Any]]]


class Inbox:
    """Act on the messages of workers. The thread that reads calls it, without the pool's lock.

    Attributes
    ----------
    unread
        Workers with messages that Ctrl-C kept from being loaded.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self._incoming = Incoming(core.store)
        self.unread: set[WorkerHandle] = set()

    def receive(self, worker: WorkerHandle) -> bool:
        """Read once what a worker has sent, and act on it; return whether there was anything."""
        try:
            frames = worker.channel.receive()
        except (EOFError, OSError):
            self._on_end_of_file(worker)
            return False
        except (MemoryError, OverflowError):  # of a length that is none
            with self._core.lock:
                self._core.receiver.unwatch(worker.channel.fileno())
                worker.kill()
            return False
        if frames:
            self.handle(worker, frames)
        return bool(frames)

    def _on_end_of_file(self, worker: WorkerHandle) -> None:
        """Note that a worker has closed its pipe; it has ended, or is about to."""
        with self._core.lock:
            self._core.receiver.unwatch(worker.channel.fileno())
            if worker.state != HUNG_UP:
                worker.advance("end of file")
                if worker.state != KILLING:
                    worker.until = time.monotonic() + PATIENCE
            self._core.dispatcher.unwatch_writing(worker)
        self._core.wake_manager()

    def handle(self, worker: WorkerHandle, frames: Sequence[Frame]) -> None:
        """Act on messages of a worker; settle what they bring.

        Raises
        ------
        BaseException
            Ctrl-C has broken the loading of an outcome off.
        """
        core, incoming = self._core, self._incoming
        replies: list[tuple[Frame, list[Any]]] = []
        messages: list[Frame] = []
        settled: Settled = []
        try:
            if worker.unread:
                frames, worker.unread = [*worker.unread, *frames], []
            for index, frame in enumerate(frames):
                if frame.kind not in OUTCOMES:
                    messages.append(frame)
                    continue
                try:
                    outcomes, rest = incoming.load(worker, frame)
                except DamagedReplyError:
                    with core.lock:
                        worker.kill()
                    continue
                replies.append((frame, outcomes))
                if rest is not None:
                    worker.unread = [rest, *frames[index + 1 :]]
                    self.unread.add(worker)
                    break
            if replies:
                self._record(worker, replies, settled)
            for message in messages:  # a worker sends no replies behind these
                self._on_message(worker, message)
        except BaseException:
            # Something else than Ctrl-C broke this thread off. What it was changing is not to be trusted.
            with core.lock:
                for each in core.handles:
                    each.kill()
            core.wake()
            settle(settled)  # these are no worker's calls any more
            raise
        del frames
        interrupt, incoming.interrupt = incoming.interrupt, None
        if core.garbage:
            core.garbage.clear()
        try:
            settle(settled)
        finally:
            if interrupt is not None:
                core.wake()  # the pool's thread loads what was not loaded
                raise interrupt
            if core.copier.tasks:
                core.copier.run()

    def _record(
        self, worker: WorkerHandle, replies: Sequence[tuple[Frame, list[Any]]], settled: Settled
    ) -> None:
        """Note outcomes, and send what they make possible."""
        core = self._core
        supervisor, dispatcher = core.supervisor, core.dispatcher
        now = time.monotonic()
        with core.lock:
            for frame, outcomes in replies:
                self._record_frame(worker, frame, outcomes, settled, now)
            core.housekeeping.active = now
            if supervisor.max_tasks is not None:
                supervisor.stop_if_unused(worker)
            if dispatcher.queue or len(core.handles) > 1:
                dispatcher.dispatch()

    def _record_frame(
        self, worker: WorkerHandle, frame: Frame, outcomes: list[Any], settled: Settled, now: float
    ) -> None:
        """Note outcomes, which arrive in the order of the calls. With the pool's lock held."""
        core, tasks, total, at = self._core, worker.tasks, len(outcomes), 0
        statistics = core.statistics
        may_fail = frame.kind != _REPLIES or not frame.flags & PLAIN
        began = frame.began
        each = (frame.ended - began) // (total or 1)
        stats = None
        while at < total and tasks:
            task = tasks[0]
            count = task.count - task.done
            if count > total - at:
                count = total - at
            run = outcomes if count == total else outcomes[at : at + count]
            index = task.first + task.done * task.step
            lost = run[0] is LOST
            if not lost:
                settled.append((task, index, run))
            worker.replied(count, now)
            if lost:
                worker.lost.append(task.only(task.done - 1))
                at = total
                continue
            if frame.flags & HOLDS:
                statistics.shares(task.call, "result", shared_bytes(run[0]))
                worker.confirm()
                core.dispatcher.watch_writing(worker)
            if task.stats is not stats:
                stats = task.stats
                stats.took(each * 1e-9)
            failed = sum([type(outcome) is Raised for outcome in run]) if may_fail else 0
            if failed:
                task.raised += failed
            if not task.began:
                task.began = began
            began += each * count
            statistics.observe(task, frame, count, failed, now)
            if task.done == task.count:
                outcome = "raised" if task.raised else "done"
                statistics.finished(task, began, worker.name, worker.pid, outcome, now)
            at += count

    def _on_message(self, worker: WorkerHandle, frame: Frame) -> None:
        """Act on a message without outcomes.

        A worker whose message does not fit its state has damaged its own memory. It is killed, and no other.
        """
        core, kind = self._core, frame.kind
        if kind == Kind.READY and not worker.is_ready:
            core.supervisor.on_ready(worker)
        elif kind == Kind.REFUSED and not worker.is_ready:
            core.supervisor.on_refusal(frame)
        elif kind == Kind.DROPPED and 0 < frame.item <= worker.revoked:
            with core.lock:
                worker.dropped(frame.item)
                core.dispatcher.dispatch()
            if core.is_shut:
                core.wake_manager()
        elif kind == Kind.NEED and worker.load:
            slot = core.store.take(frame.began)
            with core.lock:
                worker.grant(slot)
                core.dispatcher.watch_writing(worker)
        else:
            with core.lock:
                worker.kill()


def settle(settled: Settled) -> None:
    """Give the outcomes to their sinks; all of them, whatever one of them raises."""
    raised: BaseException | None = None
    for task, index, outcomes in settled:
        try:
            if task.done == task.count:
                task.release()  # before its outcome is there
            task.sink.put(index, outcomes, task.step)
        except BaseException as error:
            raised = raised or error
    settled.clear()
    if raised is not None:
        raise raised
