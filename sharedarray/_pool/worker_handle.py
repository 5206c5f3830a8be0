"""One worker, as the pool sees it: the calls that it was sent and has not answered.

::

    sent, in order:   [ answered ][ begun, at most one ][ not begun: as many as there are credits ]
                                                         the worker takes here >   < the pool revokes here

Calls that were revoked stay in the worker's list until it has come to them, found no credit and sent DROPPED.
Until then it is sent no others, or it would mistake one for the other.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sharedarray import _pipes as pipes
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._pool import processes
from sharedarray._pool.calls import Task
from sharedarray._pool.outgoing import Outgoing
from sharedarray._pool.processes.credits import Credits, counter_of
from sharedarray._pool.states import ACCEPTING, DEAD, ENDING, STARTING, WORKER, advance
from sharedarray._pool.transport import page
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import (
    RESULT_SLOT,
    Frame,
    Kind,
)
from sharedarray._pool.transport.slot import Slot

__all__ = ["WorkerHandle"]

_turns = itertools.count(1)


class WorkerHandle:
    """The pool's view of one worker. All methods are called with the pool's lock held.

    Parameters
    ----------
    process
        The process, which is not started yet.
    channel
        The pool's ends of the two pipes.
    counter
        How many calls it was sent and has not begun.
    page_file
        The file of its page of replies; -1 for none.
    slot
        Its slot index among the pool's workers: a worker that replaces another one has its slot.

    Attributes
    ----------
    state
        See `states.WORKER`.
    accepts
        Whether it can be sent calls.
    tasks
        What it was sent and has not answered, in order.
    load
        How many calls these are.
    answered
        How many outcomes have arrived from it.
    revoked
        How many calls were revoked that it has not confirmed.
    given
        How many calls it was sent in its life, without those that were revoked.
    since
        When it began the first of its calls, as far as the pool can tell: seconds of the monotonic clock.
    later
        If it was at a later call when the first one was due, because replies have not arrived: the task of
        that call, how many calls had begun, and when that was noticed. A reply ends it.
    turn
        When it was given calls last: a number that grows with each time, for any worker.
    until
        When it is killed if it has not ended; None for never.
    is_ready
        Whether it has run the initializer.
    is_stopped
        Whether it was told to end.
    error
        Makes the outcome of the call that it is killed for; None if that is `WorkerDied`.
    exit, owns_exit
        A descriptor that is readable when its process has ended, -1 for none; whether it is closed here.
    is_writing
        Whether the pipe is polled for writability.
    unread
        Frames that have arrived and were not acted on, because Ctrl-C broke the reading thread off.
    pieces
        What the first of these is loaded from, if it has an outcome.
    lost
        Tasks whose outcome has arrived, but not what it refers to.
    outgoing
        Messages to it.
    """

    def __init__(
        self,
        process: processes.WorkerProcess,
        channel: Channel,
        counter: Credits,
        page_file: int,
        slot: int,
    ) -> None:
        self.process = process
        self.slot = slot
        self.name = process.name
        self.pid = 0  # until it is started
        self.channel = channel
        self.state: str = STARTING
        self.accepts = False
        self.tasks: deque[Task] = deque()
        self.load = 0
        self.answered = 0
        self.revoked = 0
        self.given = 0
        self.since = 0.0
        self.later: tuple[Task, int, float] | None = None
        self.turn = 0
        self.until: float | None = None
        self.is_ready = False
        self.is_stopped = False
        self.error: Callable[[], BaseException] | None = None
        self.exit = -1
        self.owns_exit = False
        self.is_writing = False
        self.unread: list[Frame] = []
        self.pieces: tuple[Any, Sequence[Any]] | None = None
        self.lost: list[Task] = []
        self.outgoing = Outgoing(channel)
        self._copying = False  # arguments of a task for it are being copied
        self._page = page_file
        self._result_slots: dict[int, Slot] = {}  # slots for the results of its tasks, by task number
        self._claim, self._credit, self._credits = counter_of(counter)
        self._named: Credits | None = counter  # see `forget_name`

    def advance(self, event: str) -> None:
        """Change the state."""
        self.state = advance(WORKER, event, self.state)
        self.accepts = self.state in ACCEPTING and not self._copying

    @property
    def is_ending(self) -> bool:
        """True if it gets nothing any more."""
        return self.state in ENDING

    @property
    def is_unused(self) -> bool:
        """True if it has nothing to do, and nothing is on its way to it."""
        return not (self.load or self.revoked or self._copying)

    @property
    def first(self) -> Task:
        """The task that it is at."""
        return self.tasks[0]

    @property
    def current(self) -> tuple[Task, float]:
        """The call that it is at, as far as the pool can tell, and when it began that at the latest."""
        if self.later is not None:
            return self.later[0], self.later[2]
        return self.tasks[0], self.since

    @property
    def has_begun(self) -> bool:
        """True if it is at one of its calls, as far as that can be known."""
        try:
            return self.load > self._credits()
        except NotImplementedError:  # macOS
            return self.load > 0

    def reserve(self, copying: bool) -> None:
        """Note whether the arguments of a task for it are being copied: until then it gets no other."""
        self._copying = copying
        self.accepts = self.state in ACCEPTING and not copying

    # Sending

    def give(self, task: Task, slot: Slot | None = None, retired: Sequence[int] = ()) -> int:
        """Accept a task, which `flush` sends; return the bytes of arguments that were packed only here.

        Parameters
        ----------
        task
            What it gets.
        slot
            A slot for the result.
        retired
            Slots whose memory was freed: it forgets their mappings.
        """
        if not self.load:
            self.since = time.monotonic()
        self.state = WORKER["dispatch"][self.state]  # it accepts calls as before
        self.turn = next(_turns)
        self.tasks.append(task)
        count = task.count - task.done
        self.load += count
        self.given += count
        for _ in range(count):
            self._credit()
        if slot is not None:
            self._result_slots[task.number] = slot
        return self.outgoing.add(task, slot, retired)

    def grant(self, slot: Slot | None) -> None:
        """Send a slot for the result of the call that it is at, or that there is none."""
        entries = []
        if self.tasks:
            number = self.tasks[0].number
            self.clear_result_slot(number)
            if slot is not None:
                self._result_slots[number] = slot
                self.outgoing.known.add(slot.number)
                entries = [slot.entry(RESULT_SLOT)]
        elif slot is not None:
            slot.put_back()
        self.outgoing.send(Kind.GRANT, entries)

    def confirm(self) -> None:
        """Send that an outcome which refers to shared blocks has arrived."""
        self.outgoing.send(Kind.TAKEN)

    def stop(self) -> None:
        """Tell it to end."""
        self.advance("stop")
        self.is_stopped = True
        self.outgoing.send(Kind.STOP)

    # Replies

    def replied(self, count: int, now: float) -> Task:
        """Note outcomes of the first task; return it. They arrive in the order of the calls."""
        task = self.tasks[0]
        self.later = None
        self.since = now
        self.answered += count
        self.load -= count
        self.state = WORKER["reply" if self.load else "last reply"][self.state]  # it accepts calls as before
        task.done += count
        if task.done == task.count:
            self.tasks.popleft()
            if self._result_slots:
                self.clear_result_slot(task.number)
        return task

    def clear_result_slot(self, number: int) -> None:
        """Reclaim the slot that was granted for the result of a task."""
        slot = self._result_slots.pop(number, None)
        if slot is not None:
            slot.put_back()

    def dropped(self, count: int) -> None:
        """Note that it has come to calls that were revoked."""
        self.revoked -= count
        self.advance("some dropped" if self.revoked else "all dropped")

    def unsent(self) -> list[Frame]:
        """Return the outcomes that its process, which has ended, had not sent."""
        count, data = page.read(self._page, self.answered)
        count = min(count, self.load)
        return [Frame(Kind.REPLIES, item=count, stream=data)] if count else []

    # Revoking

    def revoke(self, most: int) -> list[Task]:
        """Revoke calls from the end, at most so many, that have not begun; return them in order.

        Tasks that follow on each other are one again: they are given once more, and may be revoked again.
        """
        count = 0
        while count < most and self._claim(False):
            count += 1
        if not count:
            return []
        self.revoked += count
        self.advance("revoke")
        found: list[Task] = []
        for task in self._cut(count):
            if not found or not found[-1].join(task):
                found.append(task)
        return found

    def _cut(self, count: int) -> list[Task]:
        """Remove so many calls from the end of what it was sent."""
        self.load -= count
        self.given -= count
        found: list[Task] = []
        while count:
            last = self.tasks[-1]
            if last.remaining <= count:
                self.tasks.pop()
                self.clear_result_slot(last.number)
                count -= last.remaining
                found.append(last.unanswered())
            else:
                found.append(last.split(last.count - count))
                count = 0
        found.reverse()
        return found

    def unfinished(self) -> tuple[Task | None, list[Task]]:
        """Return the call that a dead worker had begun, and those that it had not."""
        credits = 0
        while self._claim(False):
            credits += 1
        rest = self._cut(min(credits, self.load))
        for number in list(self._result_slots):
            self.clear_result_slot(number)
        begun = None
        if self.tasks:
            begun = self.tasks.popleft().unanswered()
            if begun.remaining > 1:
                rest.insert(0, begun.split(1))
            rest[:0] = itertools.chain(self.tasks)  # none, unless the counter is wrong
        self.tasks.clear()
        self.load = 0
        return begun, rest

    # The end

    def kill(self, error: Callable[[], BaseException] | None = None) -> None:
        """Kill the process, unless that was done.

        Parameters
        ----------
        error
            Makes the outcome of the call that it is killed for; `WorkerDied` if None.
        """
        if self.error is None:
            self.error = error
        if self.state == DEAD:
            return
        was = self.state
        self.advance("kill")
        if was != self.state:
            self.end_process()

    def end_process(self) -> None:
        """Send SIGKILL, if the process has been started."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.process.kill()

    def close(self) -> None:
        """Close its pipes, its page, and the descriptor of its exit."""
        self.channel.close()
        if self._page >= 0:
            platform.close(self._page)
            self._page = -1
        if self.owns_exit and self.exit >= 0:
            with contextlib.suppress(OSError):
                pipes.close_exit_descriptor(self.exit)
        self.exit = -1

    def disown(self, refuse: Callable[..., Any]) -> None:
        """Close everything in a fork of the pool's process, where it is no worker of this one.

        Parameters
        ----------
        refuse
            Raises the error that tells so, in place of each use of the pipes and of the counter.
        """
        self.close()
        self.channel.close(refuse)
        self._claim = self._credit = self._credits = refuse

    def forget_name(self) -> None:
        """Remove the name of its counter when it has opened it or will not do so any more.

        multiprocessing keeps the name for as long as the Python object lives. If this process, its workers
        and the resource tracker are killed at once, it would stay in the system.
        """
        self._named = None
