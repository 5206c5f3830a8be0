"""One worker, seen from the pool: what it was given, what it has answered, and what can be taken back.

::

    given, in order:   [ answered ][ begun, at most one ][ not begun: as many as the semaphore says ]
                                                          worker takes here ▶            ◀ pool here

What was taken back stays in the worker's list until it has come to it, found the semaphore at 0 and said
DROPPED. Until then (`owed`) the worker gets nothing more, or it would take one for the other.
"""

from __future__ import annotations

import itertools
import marshal
import pickle
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sharedarray import reloads, segment
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.pool import outbox, processes
from sharedarray.pool.codec.pickled import Pickled
from sharedarray.pool.processes.credits import Credits, counter_of
from sharedarray.pool.tasks import Function, Task
from sharedarray.pool.transport.channel import Channel
from sharedarray.pool.transport.messages import (
    AFRESH,
    HEADER,
    LAZY,
    OF_CALL,
    PLAIN,
    ROOM,
    SHARES,
    Buffer,
    Entry,
    Frame,
    Kind,
    encode,
)
from sharedarray.pool.transport.slots import Slot
from sharedarray.reference import has_name
from sharedarray.segment import Mapping

__all__ = ["Member"]

_TASK, _RETIRED, _LEFT, _RELOAD = map(int, (Kind.TASK, Kind.RETIRED, Kind.LEFT, Kind.RELOAD))

# Nanoseconds for which a block that was there a moment ago is not looked for again.
_MOMENT = 1_000_000
_NOTHING_FOUND = (-1, -1), 0, 0

# What is so for a worker that can be given something.
_OPEN = {
    "_ready": True,
    "_leaving": False,
    "_doomed": False,
    "_hung_up": False,
    "_ended": False,
    "_owed": 0,
    "_reserved": False,
}.items()


class _Mark:
    """An attribute that says whether a worker can be given something."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, member: Member, owner: type) -> Any:
        return member.__dict__[self._name]

    def __set__(self, member: Member, value: Any) -> None:
        member.__dict__[self._name] = value
        member.open = member.__dict__.items() >= _OPEN


class Member:
    """One worker.

    Attributes
    ----------
    process, channel
        The process and the pool's end of its pipes.
    place
        Which of the pool's workers it is: the one who replaces another has his place.
    name, pid
        Of the process, which takes its time to tell them; 0 until it is started.
    tasks
        What it was given and has not answered, in order.
    load
        How many items these are.
    owed
        How many items were taken back that it does not know of yet.
    reserved
        The arguments of a task for it are being copied.
    given
        How many items it was given in its life, without those that were taken back.
    since
        When it began the first of its items, as far as the pool can tell: seconds of the monotonic clock.
    hung_up_at
        When it closed its end.
    stopped_at
        When it was told to stop.
    silent
        Nothing has come from it for a while, and its outbox was looked into.
    open
        It can be given something.
    ready
        It has run the initializer.
    leaving
        It was told to stop, and gets nothing any more.
    doomed
        It has to be killed.
    sentence
        Makes the outcome of the item that it is killed for; None where that is `WorkerDied`.
    hung_up, ended, killed
        Its end of the pipe is closed; its process has ended; it was sent a deadly signal by us.
    writing
        Whether the pipe is watched for room to write.
    outbox
        The file of its `outbox`; -1 for none.
    exit
        The descriptor that becomes readable when it ends; closed by us where it is a process descriptor.
    functions
        Numbers of the calls whose function it has.
    unread, pieces
        Frames that have come from it and were not acted on, since Ctrl-C broke off the thread that read them;
        what the first one is loaded from, if it is an answer.
    lost
        Tasks whose answer came, but not what it refers to.
    room
        Slots that were lent to it for results, by task.
    put_back
        Called with a slot that it does not need after all.
    known
        Slots that it may have mapped.
    blocks
        Shared blocks that it may have kept attached, by device and inode.
    reloads
        The count of `sharedarray.reloads` up to which it has been told.
    """

    ready, leaving, doomed, hung_up, ended, owed, reserved = (_Mark() for _ in range(7))

    def __init__(
        self,
        process: processes.WorkerProcess,
        channel: Channel,
        counter: Credits,
        box: int,
        put_back: Callable[[Slot], None],
        place: int,
    ) -> None:
        self.process = process
        self.place = place
        self.name = process.name
        self.pid = 0
        self.outbox = box
        self.put_back = put_back
        self.channel = channel
        self.tasks: deque[Task] = deque()
        self.load = 0
        self.open = False
        self.owed = 0
        self.reserved = False
        self.given = 0
        self.since = 0.0
        self.hung_up_at = 0.0
        self.stopped_at = 0.0
        self.silent = False
        self.ready = False
        self.leaving = False
        self.doomed = False
        self.sentence: Callable[[], BaseException] | None = None
        self.hung_up = False
        self.ended = False
        self.killed = False
        self.writing = False
        self.exit = -1
        self.exit_is_ours = False
        self.functions: set[int] = set()
        self.unread: list[Frame] = []
        self.pieces: tuple[Any, Sequence[Any]] | None = None
        self.lost: list[Task] = []
        self.room: dict[int, Slot] = {}
        self.known: set[int] = set()
        self.blocks: set[tuple[int, int]] = set()
        self.reloads = reloads.count
        # The block that was looked for last: which, when, and `segment.removals` then.
        self._found = _NOTHING_FOUND
        self._claim, self._unclaim, self._unclaimed = counter_of(counter)  # see `forget_name`
        self._named: Credits | None = counter

    @property
    def begun(self) -> bool:
        """Whether it is at one of its items, as far as that can be known."""
        try:
            return self.load > self._unclaimed()
        except NotImplementedError:  # macOS
            return self.load > 0

    @property
    def going(self) -> bool:
        """Whether it will get nothing any more."""
        return bool(self.leaving or self.doomed or self.hung_up or self.ended)

    def give(self, task: Task, lent: Slot | None, retired: Sequence[int]) -> int:
        """Queue a task for it, with a slot for its result, after telling of slots that there are no more.

        The channel is flushed by the caller, for several tasks at a time. Returned are the bytes of a row's
        arguments, which are pickled only here.
        """
        if not self.load:
            self.since = time.monotonic()
            self.silent = False
        self.tasks.append(task)
        self.load += task.left
        self.given += task.left
        for _ in range(task.left):
            self._unclaim()
        if retired:
            self.retire(retired)
        if self.reloads != reloads.count:
            self.reload()
        function = task.function
        if function is not None and function.number not in self.functions:
            self._teach(function)
        if task.items is not None:
            start = task.first + task.done
            items: Any = task.items[start : task.first + task.count]
            stream = marshal.dumps(items)
            assert function is not None
            lazy = LAZY if function.independent else 0
            self.channel.queue(encode(Kind.RUN, lazy, task.left, task.number, function.number, 0, stream))
            return len(stream)
        pickled = task.pickled
        assert pickled is not None
        flags = pickled.layout
        if pickled.blocks:
            self._gets(pickled)
            flags |= SHARES
        item = 0
        if function is not None:
            flags |= OF_CALL | (SHARES if function.pickled.shares else 0)
            item = function.number
        if lent is None and pickled.short:
            call = pickled.stream
            self.channel.add(HEADER.pack(_TASK, flags, 0, item, task.number, len(call), 0, 0) + call)
            return 0
        entries = [*pickled.entries, *self._lend(task, lent)]
        self.known.update([entry.slot for entry in entries])
        self.channel.queue(
            encode(_TASK, flags, item, task.number, 0, 0, pickled.stream, entries, pickled.inline)
        )
        return 0

    def retire(self, retired: Sequence[int]) -> None:
        """Tell it, when the channel is flushed, of slots that there are no more."""
        self.channel.queue(encode(_RETIRED, stream=pickle.dumps(retired)))

    def reload(self) -> None:
        """Tell it, when the channel is flushed, which modules this process has loaded anew."""
        before, self.reloads = self.reloads, reloads.count
        names, path = reloads.since(before), reloads.path_since(before)
        self.channel.queue(encode(_RELOAD, stream=pickle.dumps((names, path))))

    def finds(self, mapping: Mapping, now: int) -> bool:
        """Whether it will find a block: by its name, or as one that it was given a moment ago."""
        block = mapping.device, mapping.inode
        known, at, removals = self._found
        if known == block and now - at < _MOMENT and removals == segment.removals and block in self.blocks:
            return True
        self._found = block, now, segment.removals
        if has_name(mapping):
            return True
        self._found = _NOTHING_FOUND
        return False

    def start(self, number: int, stream: Buffer, shares: int) -> bool:
        """Have it do a small call at once, for it has nothing to do; see `Channel.flush`.

        The call is on its way already when `started` writes it down.
        """
        self._unclaim()
        head = HEADER.pack(_TASK, PLAIN | shares, 0, 0, number, len(stream), 0, 0)
        return self.channel.write(head + stream)

    def started(self, task: Task, block: Mapping | None) -> bool:
        """Take note of what `start` has sent; return whether it knew the block of the array already."""
        self.tasks.append(task)
        self.load = 1
        self.given += 1
        self.since = time.monotonic()
        self.silent = False
        if block is None or (block.device, block.inode) in self.blocks:
            return True
        self.blocks.add((block.device, block.inode))
        return False

    def _teach(self, function: Function) -> None:
        self.functions.add(function.number)
        pickled = function.pickled
        self._gets(pickled)
        self.known.update([entry.slot for entry in pickled.entries])
        flags = (AFRESH if pickled.data else 0) | (SHARES if pickled.shares else 0)
        self.channel.queue(
            encode(
                Kind.CALL, flags, 0, function.number, 0, 0, pickled.stream, pickled.entries, pickled.inline
            )
        )

    def _gets(self, pickled: Pickled) -> None:
        for mapping in pickled.blocks:
            self.blocks.add((mapping.device, mapping.inode))

    def left(self, blocks: Collection[tuple[int, int]]) -> bool:
        """Tell it, when the channel is flushed, which blocks the pool's process has given up."""
        theirs = self.blocks.intersection(blocks)
        self.blocks -= theirs
        if theirs:
            self.channel.queue(encode(_LEFT, stream=pickle.dumps(theirs)))
        return bool(theirs)

    def _lend(self, task: Task, lent: Slot | None) -> list[Entry]:
        if lent is None:
            return []
        self.room[task.number] = lent
        return [lent.entry(ROOM)]

    def grant(self, number: int, lent: Slot | None) -> None:
        """Answer to NEED."""
        entries = []
        self.clear_room(number)
        if lent is not None:
            self.room[number] = lent
            self.known.add(lent.number)
            entries = [lent.entry(ROOM)]
        self.channel.send(Kind.GRANT, task=number, entries=entries)

    def answered(self, number: int, began: int, count: int = 1) -> Task | None:
        """Take note of the answers to the next items; return their task, None if it was not waited for."""
        if not self.tasks:
            return None
        task = self.tasks[0]
        if task.number != number:
            return None
        if not task.done:
            task.began = began
        task.done += count
        self.load -= count
        self.since = time.monotonic()
        self.silent = False
        if task.done == task.count:
            self.tasks.popleft()
        return task

    def take_back(self, most: int) -> list[Task]:
        """Take back items from the end, at most so many, that it has not begun; return them in order."""
        got = 0
        claim = self._claim
        while got < most and claim(False):
            got += 1
        self.owed += got
        return self._cut(got)

    def _cut(self, count: int) -> list[Task]:
        """Remove so many items from the end of what it was given."""
        self.load -= count
        self.given -= count
        found: list[Task] = []
        while count:
            last = self.tasks[-1]
            if last.left <= count:
                self.tasks.pop()
                count -= last.left
                found.append(last.again())
            else:
                found.append(last.split(last.count - count))
                count = 0
        found.reverse()
        for task in found:
            self.clear_room(task.number)
        return found

    def clear_room(self, number: int) -> None:
        """Take back the slot that was lent for the result of a task."""
        slot = self.room.pop(number, None)
        if slot is not None:
            self.put_back(slot)

    def finished(self, task: Task, now: float) -> None:
        """Take note of the answer to the only item that it has, which is the only one of its task."""
        task.done = 1
        self.tasks.popleft()
        self.load = 0
        self.since = now
        self.silent = False

    def dropped(self, count: int) -> None:
        """Take note that it has come to what was taken back."""
        self.owed -= count

    def unsent(self) -> Sequence[Frame]:
        """Return the answers that it has not sent, some of which may have arrived just now."""
        return outbox.unsent(self.outbox, self.tasks[0].number if self.tasks else 0)

    def close(self) -> None:
        """Close its pipes and its outbox."""
        self.channel.close()
        if self.outbox >= 0:
            platform.close(self.outbox)
            self.outbox = -1

    def disown(self, refuse: Callable[..., Any]) -> None:
        """Close its pipes and its outbox in a fork of the pool's process, where it is no worker of ours.

        Parameters
        ----------
        refuse
            Raises the error that says so, in place of each use of the pipes and of the counter.
        """
        self.close()
        self.channel.close(refuse)
        self._claim = self._unclaim = self._unclaimed = refuse

    def estate(self) -> tuple[Task | None, list[Task]]:
        """Return, of a worker that is dead, the item that it had begun, and all that it had not."""
        unclaimed = 0
        while self._claim(False):
            unclaimed += 1
        rest = self._cut(min(unclaimed, self.load))
        for number in list(self.room):
            self.clear_room(number)
        begun = None
        if self.tasks:
            begun = self.tasks.popleft().again()
            if begun.left > 1:
                rest.insert(0, begun.split(1))
            rest[:0] = itertools.chain(self.tasks)  # none, unless the accounts are wrong
        self.tasks.clear()
        self.load = 0
        return begun, rest

    def forget_name(self) -> None:
        """Remove the name of its semaphore, once it has opened it or will not do so any more.

        multiprocessing keeps the name for as long as the Python object lives. Whoever kills this process, its
        workers and the resource tracker at once would leave it behind in the system.
        """
        self._named = None
