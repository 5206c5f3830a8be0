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
import marshal
import pickle
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from sharedarray import reloads, segment
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.pool import processes
from sharedarray.pool.calls import Function, Task
from sharedarray.pool.codec.pickled import Pickled
from sharedarray.pool.processes.credits import Credits, counter_of
from sharedarray.pool.states import ACCEPTING, DEAD, ENDING, STARTING, WORKER, advance
from sharedarray.pool.transport import page, pipes
from sharedarray.pool.transport.channel import Channel
from sharedarray.pool.transport.messages import (
    AFRESH,
    HEADER,
    LAZY,
    PLAIN,
    ROOM,
    SHARES,
    Entry,
    Frame,
    Kind,
    encode,
)
from sharedarray.pool.transport.slots import Slot
from sharedarray.reference import FORMAT, has_name
from sharedarray.segment import Mapping

__all__ = ["WorkerHandle"]

_CALLS, _TASK = int(Kind.CALLS), int(Kind.TASK)
_pack = HEADER.pack
# Bytes of the head of a list in the format of marshal: its code and its length.
_LIST_HEAD: Final = 5

# Nanoseconds for which a block that had its name a moment ago is not looked for again.
_MOMENT: Final = 1_000_000
_NOTHING_FOUND = (-1, -1), 0, 0


class WorkerHandle:
    """The pool's view of one worker. All methods are called with the engine's lock held.

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
    put_back
        Called with a slot that it does not need after all.
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
    functions
        Numbers of the functions that it has.
    known
        Slots of recycled memory that it may have mapped.
    """

    def __init__(
        self,
        process: processes.WorkerProcess,
        channel: Channel,
        counter: Credits,
        page_file: int,
        put_back: Callable[[Slot], None],
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
        self.functions: set[int] = set()
        self.known: set[int] = set()
        self._copying = False  # arguments of a task for it are being copied
        self._page = page_file
        self._put_back = put_back
        self._rooms: dict[int, Slot] = {}  # slots that were lent to it for results, by task
        self._blocks: set[tuple[int, int]] = set()  # blocks that it may have kept attached
        self._reloads = reloads.count
        # Calls that are not written yet, of one function: its number, whether they are lazy, their arguments.
        self._new: list[bytes] = []
        self._new_count = self._new_function = self._new_flags = 0
        # The block that was looked for last: which, when, and `segment.removals` then.
        self._found = _NOTHING_FOUND
        self._claim, self._credit, self._credits = counter_of(counter)
        self._named: Credits | None = counter  # see `forget_name`

    def advance(self, event: str) -> None:
        """Change the state."""
        self.state = advance(WORKER, event, self.state)
        self.accepts = self.state in ACCEPTING and not self._copying

    @property
    def is_ending(self) -> bool:
        """Whether it gets nothing any more."""
        return self.state in ENDING

    @property
    def is_unused(self) -> bool:
        """Whether it has nothing to do, and nothing is on its way to it."""
        return not (self.load or self.revoked or self._copying)

    @property
    def first(self) -> Task:
        """The task that it is at."""
        return self.tasks[0]

    @property
    def has_begun(self) -> bool:
        """Whether it is at one of its calls, as far as that can be known."""
        try:
            return self.load > self._credits()
        except NotImplementedError:  # macOS
            return self.load > 0

    def reserve(self, copying: bool) -> None:
        """Note whether the arguments of a task for it are being copied: until then it gets no other."""
        self._copying = copying
        self.accepts = self.state in ACCEPTING and not copying

    # Sending

    def give(self, task: Task, lent: Slot | None = None, retired: Sequence[int] = ()) -> int:
        """Accept a task, which `flush` sends; return the bytes of arguments that were packed only here.

        Parameters
        ----------
        task
            What it gets.
        lent
            A slot for the result.
        retired
            Slots whose memory was freed: it forgets their mappings.
        """
        if not self.load:
            self.since = time.monotonic()
        self.advance("dispatch")
        self.tasks.append(task)
        count = task.count - task.done
        self.load += count
        self.given += count
        for _ in range(count):
            self._credit()
        if retired:
            self.retire(retired)
        if self._reloads != reloads.count:
            self._reload()
        function = task.function
        number = 0
        if function is not None:
            number = function.number
            if number not in self.functions:
                self._define(function)
        pickled = task.pickled
        if task.is_small and lent is None:
            flags = LAZY if task.lazy else 0
            if self._new and (number != self._new_function or flags != self._new_flags):
                self._close_message()
            self._new_function, self._new_flags = number, flags
            self._new_count += count
            if pickled is not None:
                self._new.append(bytes(pickled.stream))
                return 0
            arguments: Any = task.arguments
            data = marshal.dumps(arguments, FORMAT)[_LIST_HEAD:]
            self._new.append(data)
            return len(data)
        assert pickled is not None
        self._close_message()
        kind, flags = (_CALLS, 0) if task.is_small else (_TASK, pickled.layout)
        if pickled.blocks:
            self._refers_to(pickled)
            flags |= SHARES
        if function is not None and function.pickled.shares:
            flags |= SHARES
        entries = list(pickled.entries)
        if lent is not None:
            self._rooms[task.number] = lent
            entries.append(lent.entry(ROOM))
        if entries:
            self.known.update([entry.slot for entry in entries])
        self.channel.queue(encode(kind, flags, 1, number, 0, 0, pickled.stream, entries, pickled.inline))
        return 0

    def _close_message(self) -> None:
        """Queue the message of the calls that were accepted last."""
        if self._new:
            data = b"".join(self._new)
            head = _pack(_CALLS, self._new_flags, 0, self._new_count, self._new_function, len(data), 0, 0)
            self.channel.add(head + data)
            self._new.clear()
            self._new_count = 0

    def flush(self) -> bool:
        """Write what was accepted; return False if the kernel takes no more now.

        Raises
        ------
        OSError
            The process has ended.
        """
        if self._new:
            self._close_message()
        return self.channel.flush()

    def _queue(self, kind: Kind, number: int = 0, stream: bytes = b"") -> None:
        self._close_message()
        self.channel.queue(encode(kind, 0, 0, number, 0, 0, stream))

    def retire(self, retired: Sequence[int]) -> None:
        """Queue which slots' memory was freed."""
        self._queue(Kind.RETIRED, stream=pickle.dumps(retired))

    def _reload(self) -> None:
        """Queue which modules this process has loaded again."""
        before, self._reloads = self._reloads, reloads.count
        self._queue(Kind.RELOAD, stream=pickle.dumps((reloads.since(before), reloads.path_since(before))))

    def _define(self, function: Function) -> None:
        self._close_message()
        self.functions.add(function.number)
        pickled = function.pickled
        self._refers_to(pickled)
        self.known.update([entry.slot for entry in pickled.entries])
        flags = pickled.layout & PLAIN | (SHARES if pickled.shares else 0)
        if pickled.data and not flags & PLAIN:
            flags |= AFRESH
        number = function.number
        self.channel.queue(
            encode(Kind.DEFINE, flags, 0, number, 0, 0, pickled.stream, pickled.entries, pickled.inline)
        )

    def forget(self, number: int) -> bool:
        """Queue that a function is not needed any more; return whether this worker had it."""
        if number not in self.functions:
            return False
        self.functions.discard(number)
        self._queue(Kind.FORGET, number)
        return True

    def _refers_to(self, pickled: Pickled) -> None:
        for mapping in pickled.blocks:
            self._blocks.add((mapping.device, mapping.inode))

    def knows(self, mapping: Mapping) -> bool:
        """Return whether it may have kept a block attached."""
        return (mapping.device, mapping.inode) in self._blocks

    def released(self, blocks: Collection[tuple[int, int]]) -> bool:
        """Queue which blocks the pool's process has released; return whether this worker had one."""
        had = self._blocks.intersection(blocks)
        self._blocks -= had
        if had:
            self._queue(Kind.RELEASED, stream=pickle.dumps(had))
        return bool(had)

    def finds(self, mapping: Mapping, now: int) -> bool:
        """Return whether it will find a block: by its name, or as one that it was sent a moment ago."""
        block = mapping.device, mapping.inode
        known, at, removals = self._found
        if known == block and now - at < _MOMENT and removals == segment.removals and block in self._blocks:
            return True
        self._found = block, now, segment.removals
        if has_name(mapping):
            return True
        self._found = _NOTHING_FOUND
        return False

    def grant(self, lent: Slot | None) -> None:
        """Send a slot for the result of the call that it is at, or that there is none."""
        entries = []
        if self.tasks:
            number = self.tasks[0].number
            self.clear_room(number)
            if lent is not None:
                self._rooms[number] = lent
                self.known.add(lent.number)
                entries = [lent.entry(ROOM)]
        elif lent is not None:
            self._put_back(lent)
        self._send(Kind.GRANT, entries)

    def confirm(self) -> None:
        """Send that an outcome which refers to shared blocks has arrived."""
        self._send(Kind.TAKEN)

    def stop(self) -> None:
        """Tell it to end."""
        self.advance("stop")
        self.is_stopped = True
        self._send(Kind.STOP)

    def _send(self, kind: Kind, entries: Sequence[Entry] = ()) -> None:
        self._close_message()
        with contextlib.suppress(OSError):  # its exit is reported separately
            self.channel.send(kind, entries=entries)

    # Replies

    def replied(self, count: int) -> Task:
        """Note outcomes of the first task; return it. They arrive in the order of the calls."""
        task = self.tasks[0]
        self.answered += count
        self.load -= count
        task.done += count
        if task.done == task.count:
            self.tasks.popleft()
            if self._rooms:
                self.clear_room(task.number)
        return task

    def clear_room(self, number: int) -> None:
        """Take back the slot that was lent for the result of a task."""
        lent = self._rooms.pop(number, None)
        if lent is not None:
            self._put_back(lent)

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
        """Take back calls from the end, at most so many, that have not begun; return them in order."""
        count = 0
        while count < most and self._claim(False):
            count += 1
        if not count:
            return []
        self.revoked += count
        self.advance("revoke")
        return self._cut(count)

    def _cut(self, count: int) -> list[Task]:
        """Remove so many calls from the end of what it was sent."""
        self.load -= count
        self.given -= count
        found: list[Task] = []
        while count:
            last = self.tasks[-1]
            if last.remaining <= count:
                self.tasks.pop()
                count -= last.remaining
                found.append(last.unanswered())
            else:
                found.append(last.split(last.count - count))
                count = 0
        found.reverse()
        for task in found:
            self.clear_room(task.number)
        return found

    def unfinished(self) -> tuple[Task | None, list[Task]]:
        """Return the call that a dead worker had begun, and those that it had not."""
        credits = 0
        while self._claim(False):
            credits += 1
        rest = self._cut(min(credits, self.load))
        for number in list(self._rooms):
            self.clear_room(number)
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
