"""The engine of a pool: who runs what, who has died, and when it is over.

::

    caller's threads                  management thread                     worker processes
    ----------------                  -----------------                     ----------------
    submit: pickle the call
       |-- a worker has room? ------ TASK over its pipe ------------------> call the function
       `-- else queue it  --------.                                             |
                                  v                                             |
                          watch: wake-up, exits, and the pipes   <-- RESULT, ERROR ---'
                            |   load the answers, hand out what is queued,
    future.result()  <------'   settle the futures
         |                      a worker ended: fail or retry what it had begun, replace it
         `-- nobody reads? read the pipes here

**Who reads.** One thread at a time reads the workers' answers: the *reader*. That is the management thread,
until somebody waits for a result: he leaves the pipes out of what the management thread watches, and reads
them himself (`help`), which saves the wake-up of one thread in every round trip. The management thread asks
for the reading back when a worker has ended. Whoever reads does the same things with what he finds.

**The short way.** A call with numbers, text and one shared array, to a worker that has nothing to do, is sent
before anything is written down about it (`_start_at_once`), and its answer heard in one step (`_heard_one`).
The management thread does not watch the pipes for it, for it would be woken while the caller is about to
look: it comes by now and then, and watches when somebody learns of the answer in another way than by
waiting for it.

**One lock** guards the queue, the members and their state. It is never held while a process is started, while
something of the user's is pickled, copied or dropped, or while a future is settled. So a task whose arguments
are large is chosen for a worker under the lock, copied without it (`_prepare`), and sent under it. Only the
collection of garbage may call something of the user's while the lock is held: a finalizer. What that asks of
the pool is done a moment later (`_holds`).

**How much a worker is given.** One item at a time, unless the function is known to take less than some 200
us; then as much as takes some milliseconds, so that small tasks travel many in a message and no worker waits
for the next one. A worker that has nothing to do gets the second half of what another one has not begun
(`Member.take_back`), so nothing waits behind a slow item while there is somebody to run it.

**Callbacks of futures** are called by the management thread, one after the other, when all that came with
their outcome is settled and no lock is held. One may wait for whatever the pool has to do: if it takes long,
a second thread (`_watch_callbacks`) manages the pool until they are done.

**Ctrl-C** breaks a caller off where he waits, and nowhere else (see `sharedarray.interrupts`). Nothing is
lost by it: what he has submitted goes on.

**How a death is noticed.** By the process itself (a descriptor for it where the kernel has such, else
multiprocessing's sentinel), never by the pipe alone: processes that a task forked may keep a pipe open. What
had arrived before is heard first, so a result that was sent whole counts. Of what is left, the worker's
semaphore tells what it had not begun; that is simply given to others.

**How it ends.** `shutdown` sets a flag and wakes the thread, which stops the workers that have nothing to do,
and leaves when the last has gone. The same happens when the pool is garbage collected, and at the
interpreter's end. A fork of this process has a copy of all this, but not the thread; there the engine is
dead, says so, and closes its copies of the pipes, lest a worker miss the death of its real parent.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import itertools
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from multiprocessing import util
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from sharedarray import errors, greenlets, interrupts, reloads
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.pool import outbox, processes
from sharedarray.pool.codec import failures
from sharedarray.pool.codec.arrays import KnownBuffers
from sharedarray.pool.codec.call import Call, are_scalars, dump_call, importable_name, short_call
from sharedarray.pool.codec.pickled import Pickled
from sharedarray.pool.codec.pickler import dumps, loads
from sharedarray.pool.codec.result import load_result
from sharedarray.pool.functions import SENT_ONCE, FunctionCache, Snapshot
from sharedarray.pool.ledger import Ledger
from sharedarray.pool.members import Member
from sharedarray.pool.processes import copies, exit_codes, group_signals
from sharedarray.pool.processes.credits import new_counter
from sharedarray.pool.tasks import Function, Gathering, PoolFuture, Raised, Sink, Task, new_number
from sharedarray.pool.transport import pipes
from sharedarray.pool.transport.channel import Channel
from sharedarray.pool.transport.messages import HOLDS, PLAIN, SHARES, STREAM, Frame, Kind, encode
from sharedarray.pool.transport.poller import Poller, new_poller
from sharedarray.pool.transport.slots import BUSY_LIMIT, TRIM_AFTER, Slot, Store
from sharedarray.pool.transport.spin import SpinWait
from sharedarray.pool.worker import ENDS_WITHIN, Ends, Setup
from sharedarray.reference import has_name
from sharedarray.segment import Mapping, follow, mapping_of
from sharedarray.thresholds import COPIED_AHEAD, LONG_TEXT

if TYPE_CHECKING:
    from sharedarray.display.pool_stats import PoolStats

__all__ = ["Engine", "name_of"]

# Workers that may die one after the other before any of them is ready. Fewer would give up on a machine
# that is short of memory for a moment; more would only repeat what an initializer does each time. Once it is
# known that workers of this pool can become ready, the likely reason is somebody from outside: then the pool
# goes on trying for so many seconds besides.
_EARLY_DEATHS, _LATER_DEATHS, _LATER_SECONDS = 3, 30, 60.0
# Times that a task may be handed to a worker that is dead before it has begun it. Only somebody who kills
# workers from outside gets this far.
_HANDOVERS = 10
# Seconds until a worker that hung up is ended, and until the exit code of one that ended is given up.
_PATIENCE = 5.0
# Seconds until a worker that was stopped is killed. It ends itself before, unless native code keeps the
# interpreter from running.
_STOPPED = ENDS_WITHIN + 2.0
# Among what multiprocessing does at the end of a process: before its own, which are at most 20.
_FIRST = 100
# Seconds of work that a worker is given ahead: several times what it takes to hand out more.
_AHEAD = 0.006
# Seconds that a task may take at most to have others waiting behind it. The pause between two tasks is some
# 50 us; so beyond this little is gained, and tasks are begun in the order in which they were submitted, which
# those count on that wait for each other.
_SHORT = 0.0002
# Seconds of work of independent items that a worker is given ahead, if it is several.
_MUCH = 0.1
# Items that a worker has at most, however short they are.
_DEEPEST = 4000
# Tasks with large results that a worker has at most: each may have a slot of recycled memory waiting.
_LARGE_DEEP = 2
# Descriptors that a pool opens as it starts: 2 pollers, 2 wakers of 2 each, 2 of the resource tracker, 2 more
# for the modules that it imports.
_DESCRIPTORS = 10
# Tasks that another one may overtake, at most, while their arguments are copied.
_OVERTAKEN = 64
# Slots that there are no more, after which those are forgotten that no worker knows.
_MANY_RETIRED = 256
# Seconds that an item must have been running, or that what waits behind it must be expected to take, for it
# to be worth taking that back.
_STUCK, _WORTH_MOVING = 0.001, 0.0003
# Seconds that a waiter looks for an answer before he sleeps, and how long a task may take to be looked for.
_LOOK, _QUICK = 60e-6, 150e-6
# Seconds after which the management thread comes by, while calls are begun at once.
_COMING_BY = 0.05
# Seconds between two looks of the management thread while many small tasks are under way.
_NAP = 300e-6
# Seconds that the management thread waits at least, if no callbacks wait: a unit of the kernel's clock.
_SHORTEST = 0.001
# Seconds without an answer after which a worker's outbox is looked into.
_SILENCE = 0.02
# Seconds that callbacks may take before another thread manages the pool, and how many times that without any
# until that thread ends.
_LONG_CALLBACK, _QUIET = 0.02, 5
# Seconds between a process's letting go of its files and its end.
_MOMENT = 0.5
# Bytes of arguments that are copied before there is a worker for them.
_EAGER = BUSY_LIMIT


def name_of(function: Callable[..., Any]) -> str:
    """Return what to call a function in messages."""
    try:
        inner = getattr(function, "func", function)  # functools.partial
        name = getattr(inner, "__qualname__", None) or getattr(inner, "__name__", None)
    except Exception:  # an attribute of the user's
        inner = name = function
    return name if type(name) is str else type.__dict__["__qualname__"].__get__(type(inner))


class Engine:
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
        Called once, when the last worker has gone.
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
        self.ledger = Ledger()
        self.store = Store(self._returned)
        self._method = method
        self._setup = setup
        self._max_tasks = max_tasks
        self._retries = retries
        self._at_end = at_end
        self._owner = os.getpid()
        self._copied = False  # whether this is a fork of that process
        self._lock = threading.RLock()
        # Whether this thread has the lock: in a finalizer that interrupts it.
        self._holds: Callable[[], bool] = getattr(self._lock, "_is_owned", lambda: False)
        # What such finalizers have submitted.
        self._arrivals: deque[tuple[Sequence[Task], Pickled | None]] = deque()
        self._queue: deque[Task] = deque()
        # Not later than the deadline of any task that has not begun.
        self._next_deadline: float | None = None
        # Tasks whose arguments are to be copied, each for a worker; those of which they are; one that comes
        # next in the queue. One thread at a time copies.
        self._chosen: deque[tuple[Task, Member]] = deque()
        self._preparing: set[Task] = set()
        self._next_up: Task | None = None
        self._copying = threading.Lock()
        # What finished tasks referred to, to be dropped without the lock.
        self._dropped: deque[object] = deque()
        self._members: list[Member] = []
        self._by_pipe: dict[int, Member] = {}
        self._started = 0
        self._early_deaths = 0
        self._last_ready: float | None = None
        self._vacant = 0  # places of workers that died, to be filled at once
        self._gone = 0  # workers that ended and were not replaced
        # The management thread, and all of the pool's threads that may not have ended.
        self._thread: threading.Thread | None = None
        self._manager = 0  # its ident, while it is not in a callback
        self._threads: list[threading.Thread] = []
        # Settled futures whose callbacks are to be called; the thread that does it, since when, and the one
        # that manages the pool if this takes long.
        self._callbacks: deque[PoolFuture] = deque()
        self._caller: threading.Thread | None = None
        self._calling = 0.0
        self._deputy: threading.Thread | None = None
        # The thread that did so and has called all callbacks; set when it manages the pool again.
        self._back: threading.Thread | None = None
        self._handed = threading.Event()
        self._over = threading.Event()
        self._finished = False
        self._ended = False
        self._shutting = False
        self._cancelling = False
        self._aborting = False
        self._forsaken = False
        self._broken: Callable[[], errors.WorkerDied] | None = None
        # What the management thread watches: its bell, the workers' ends, and the watch of all pipes.
        self._watch: Poller | None = None
        self._pipes: Poller | None = None
        self._blocked: set[Any] = set()  # signals that the program blocks
        # What Ctrl-C has raised in the thread that reads, until the answers before it are settled.
        self._interrupt: BaseException | None = None
        self._handlers: dict[int, Callable[[], None]] = {}
        self._bell: pipes.Waker | None = None
        self._nudge: pipes.Waker | None = None
        # Who reads the pipes: {"reader": the ident of a thread}. A dict, for setdefault cannot be interrupted
        # between asking and taking.
        self._reading: dict[str, int] = {}
        self._reading_free = threading.Event()
        # Whether the reading thread waits, so that a handler that interrupts it may read as well.
        self._pausing = False
        # Whether the management thread watches the pipes.
        self._expecting = False
        # Whether it comes by to look after calls that were begun at once, and how many it has seen.
        self._comes_by = False
        self._at_once = self._at_once_seen = 0
        self._wanted_back = False
        self._processors = platform.processors()
        self._glance = SpinWait(_LOOK if self._processors > 1 else 0)
        # When the management thread has to look at something: at a worker that may be stuck, at idle memory.
        self._look_at: float | None = None
        self._trim_at: float | None = None
        self._active = time.monotonic()
        self._cache = FunctionCache()
        reloads.watch_autoreload()
        # Calls that are over, whose function the workers may forget.
        self._functions_over: deque[int] = deque()
        # Shared blocks that this process has given up and workers may have kept attached.
        self._blocks_over: deque[tuple[int, int]] = deque()
        # Those whose outcomes nobody wants any more.
        self._sinks_over: deque[tuple[Sink, bool]] = deque()
        _engines[id(self)] = self

    # For other threads: calls

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        label: str | None = None,
        retries: int | None = None,
        limit: float | None = None,
        deadline: float | None = None,
    ) -> Future[Any]:
        """Have a worker call ``function``; return the future of what comes of it.

        Parameters
        ----------
        function, args, kwargs
            The call.
        label
            What to call the function in messages.
        retries
            How often it is run again when its worker died; the pool's number when None.
        limit
            Seconds that it may run, before its worker is killed.
        deadline
            When it must be over, in seconds of the monotonic clock.
        """
        again = self._retries if retries is None else retries
        pickled: Pickled
        home = short = None
        try:
            home = importable_name(function)
            if home is not None and home[0] is not None and not kwargs and label is None:
                short = short_call(home, args)
        except Exception:  # the hash of a class is its metaclass's; pickling will tell
            pass
        # If calls are queued, no worker is free: that is seen here without the lock.
        if short is not None and limit is None and deadline is None and not self._queue:
            started = self._start_at_once(short, (function, args, kwargs), again)
            if started is not None:
                return started
        if label is None:
            label = name_of(function)
        try:
            sent_once: Function | None = None
            if short is not None and (short.block is None or has_name(short.block)):
                pickled = short
            else:
                if home is None and type(function) in SENT_ONCE:
                    sent_once = self._cache.get(function, self._send_once)
                pickled = dump_call(None if sent_once is not None else function, args, kwargs)
        except Exception as reason:
            self._check_open()
            future = PoolFuture(self)
            future.set_exception(_unsendable(label, reason))
            return future
        kept = (function, args, kwargs) if pickled.shares or pickled.buffers else None
        future = PoolFuture(self)
        task = Task(
            0,
            future,
            label,
            pickled=pickled,
            function=sent_once,
            kept=kept,
            retries=again,
            limit=limit,
            deadline=deadline,
        )
        task.call = task.number
        future._task, future._call = task, task.number
        with interrupts.deferred:
            if not pickled.short:
                self._check_open()
                try:
                    self._copy_now(task, pickled)
                except Exception as reason:  # a dtype that is not to be copied as bytes, no memory
                    task.release()
                    future.set_exception(_unsendable(label, reason))
                    return future
            self._accept([task], pickled)
        return future

    def _start_at_once(self, call: Call, what: tuple[Any, ...], retries: int) -> PoolFuture | None:
        """Have a worker that has nothing to do begin a small call; return None where there is none.

        What is to be written down about the call is written while the worker is at it. Nobody misses it:
        answers are entered under the lock.
        """
        if self._holds():
            return None
        with interrupts.deferred, self._lock:
            if self._queue or self._vacant or self._max_tasks is not None or not self._is_open():
                return None
            for member in self._members:
                if member.open and not member.load:
                    break
            else:
                return None
            if self.ledger.result_size(call.label):
                return None  # a slot is to be lent for it
            retired = self.store.gone(member.known) if member.known else ()
            if retired:
                member.retire(retired)
            if member.reloads != reloads.count:
                member.reload()
            block, submitted = call.block, time.monotonic_ns()
            if block is not None and not member.finds(block, submitted):
                return None  # it is not to be found by name, and its data has to travel
            number = new_number()
            try:
                sent = member.start(number, call.stream, 0 if block is None else SHARES)
            except OSError:
                member.doomed, sent = True, False  # as in `_flush`
            future, kept = PoolFuture(self), None if block is None else what
            task = Task(number, future, call.label, pickled=call, kept=kept, retries=retries, number=number)
            task.submitted = submitted
            future.begun(task)
            if not member.started(task, block):
                self._follow(call)
            self._begun_at_once(member.since)
            if not sent:
                self._attend_to(member)
            self.ledger.called(number, call.label, call)
            return future

    def _begun_at_once(self, now: float) -> None:
        """See to it that the answer to a call that was just begun is read, whatever becomes of its future.

        As a rule the caller is about to wait for it, and to have the management thread stop watching the
        pipes just in time would take longer than the call. So when such calls come one after the other that
        thread rather comes by now and then, and watches for what nobody has read meanwhile. Who learns of an
        answer in another way than by waiting for it says so (`expect`).
        """
        self._at_once += 1
        if self._comes_by:
            return
        if now - self._active < _COMING_BY:
            self._comes_by = True
            self.wake()
        else:
            self._expect_answers()

    def _look_by(self) -> None:
        """Watch for what nobody reads; come again if calls have come meanwhile."""
        self._expect_answers()
        self._comes_by = self._comes_by and self._at_once != self._at_once_seen
        self._at_once_seen = self._at_once

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        label: str | None = None,
        independent: bool = False,
        parted: bool = False,
        names: Sequence[str] | None = None,
        part_of: Gathering | None = None,
        retries: int | None = None,
        limit: float | None = None,
        deadline: float | None = None,
    ) -> Gathering:
        """Have ``function`` called on each tuple of arguments; return where the outcomes gather, in order.

        Parameters
        ----------
        function, calls
            What is called, on what.
        label
            What to call the function in messages.
        independent
            Whether no call waits for another one, so that one may be given ahead of its turn.
        parted
            Whether each worker is rather given calls of a part of its own, the same one each time: then it
            has the memory mapped already that these are about.
        names
            What reports call the arguments; their positions when None.
        part_of
            What `map` has returned for another part of what is one call to the user.
        retries, limit, deadline
            As for `submit`.
        """
        self._check_open()
        shared = self.function_of(function, label, independent=independent)
        call = shared.number if part_of is None else part_of.call
        gathering = Gathering(self, len(calls), call=call)
        options: dict[str, Any] = {
            "function": shared,
            "retries": self._retries if retries is None else retries,
            "limit": limit,
            "deadline": deadline,
        }
        self.ledger.called_many(call, shared.label, shared.pickled, len(calls))
        tasks: list[Task] = []
        known: KnownBuffers = {}
        start = 0
        groups: Iterable[tuple[bool, Iterable[tuple[Any, ...]]]] = itertools.groupby(calls, _fits_row)
        if _fits_row(itertools.chain.from_iterable(calls), calls):  # in one go, at a quarter of the price
            groups = [(True, calls)] if calls else []
        for plain, group in groups:
            items = group if isinstance(group, list) else list(group)
            if plain:
                parts = self.workers if parted and len(items) >= 2 * self.workers else 1
                for place in range(parts):
                    first, stop = (len(items) * at // parts for at in (place, place + 1))
                    tasks.append(
                        Task(
                            call,
                            gathering,
                            shared.label,
                            first=start + first,
                            count=stop - first,
                            items=calls,
                            place=place if parts > 1 else None,
                            **options,
                        )
                    )
            else:
                made = [
                    self._item(shared, gathering, index, args, known, options, names)
                    for index, args in enumerate(items, start)
                ]
                tasks += [task for task in made if task is not None]
            start += len(items)
        if tasks:
            with interrupts.deferred:
                self._accept(tasks)
        return gathering

    def _item(
        self,
        function: Function,
        sink: Gathering,
        index: int,
        args: tuple[Any, ...],
        known: KnownBuffers | None,
        options: dict[str, Any],
        names: Sequence[str] | None = None,
    ) -> Task | None:
        """Return the task for one item; None where it cannot be sent, which is its outcome then."""
        task = Task(sink.call, sink, function.label, first=index, **options)
        try:
            task.pickled = dump_call(None, args, {}, known)
        except Exception as reason:
            sink.put(index, [Raised(_unsendable(function.label, reason))])
            return None
        self._follow(task.pickled)
        if names is not None and task.pickled.account is not None:
            task.pickled.account.names = ("function", *names)
        self.ledger.sends(task.call, task.pickled)
        task.kept = args if task.pickled.shares or task.pickled.buffers else None
        return task

    def function_of(
        self, function: Callable[..., Any], label: str | None = None, *, independent: bool = False
    ) -> Function:
        """Return a function that is sent once to each worker for many items."""
        if label is None:
            label = name_of(function)
        try:
            pickled = dumps(function, many=True)
        except Exception as reason:
            raise _unsendable(label, reason) from reason
        self._follow(pickled)
        return self._made_of(pickled, function, label, independent=independent)

    def _made_of(
        self, pickled: Pickled, function: Callable[..., Any], label: str, *, independent: bool = False
    ) -> Function:
        made = Function(new_number(), label, pickled, function, independent=independent)
        weakref.finalize(made, self._over_with, made.number).atexit = False
        return made

    def _send_once(self, function: Callable[..., Any], snapshot: Snapshot) -> Function | None:
        """Return a function that workers keep; None if it depends on what may change unseen, or is large."""
        pickled = dumps(function, snapshot=snapshot)
        snapshot.fixed &= pickled.short and not pickled.data and not pickled.blocks
        return self._made_of(pickled, function, name_of(function)) if snapshot.fixed else None

    def _follow(self, pickled: Pickled) -> None:
        for mapping in pickled.blocks:
            follow(mapping, self)

    def left(self, mapping: Mapping) -> None:
        """Hear, at any moment, that this process has given up a block that workers were given."""
        if self._finished:
            return
        self._blocks_over.append((mapping.device, mapping.inode))
        self.wake()

    def add(
        self,
        function: Function,
        sink: Gathering,
        args: tuple[Any, ...],
        *,
        retries: int | None = None,
        limit: float | None = None,
        deadline: float | None = None,
    ) -> None:
        """Have one more item done for a gathering whose outcomes are taken as they come."""
        self._check_open()
        options: dict[str, Any] = {
            "function": function,
            "retries": self._retries if retries is None else retries,
            "limit": limit,
            "deadline": deadline,
        }
        self.ledger.more(sink.call)
        task = self._item(function, sink, 0, args, None, options)
        if task is not None and task.pickled is not None:
            with interrupts.deferred:
                try:
                    self._copy_now(task, task.pickled)
                except Exception as reason:
                    self._fail([task], partial(_unsendable, task.label, reason))
                    return
                self._accept([task])

    def _copy_now(self, task: Task, pickled: Pickled) -> None:
        """Copy the arguments, unless they are too large, so that the caller may change his arrays."""
        if not pickled.copy_to_slots(self.store, private=task.retries > 0, within=self._eager):
            pickled.copy_now(self.store, within=_EAGER)

    @property
    def _eager(self) -> int:
        return min(_EAGER, self.store.limits[0])

    def _accept(self, tasks: Sequence[Task], call: Pickled | None = None) -> None:
        """Take tasks, or the one task of a call, which is noted when its worker is at it already."""
        if self._holds():
            self._check_open()
            self._arrivals.append((tasks, call))
            self.wake()
            return
        with self._lock:
            try:
                self._check_open()
            except BaseException:
                for task in tasks:
                    task.release()
                raise
            if self._thread is None:
                try:
                    self._start()
                except BaseException:
                    self._undo_start()
                    raise
            self._queue.extend(tasks)
            deadline = tasks[0].deadline
            if deadline is not None and (self._next_deadline is None or deadline < self._next_deadline):
                self._next_deadline = deadline
                self.wake()
            if not self._will_be_dealt(tasks[-1]):
                self._hand_out()
            if call is not None:
                task = tasks[0]
                self.ledger.called(task.call, task.label, call)
                if call.blocks:
                    self._follow(call)
        if self._chosen or self._next_up is not None or self._dropped:
            self._prepare()
        if len(self._members) < self.workers and self._may_start():
            self.wake()

    def _will_be_dealt(self, task: Task) -> bool:
        """Whether a small task can wait for the next answer, when many are handed out in one message."""
        members = self._members
        for member in members:
            if not member.load or not member.open:
                return False
        seconds = self.ledger.duration(task.label)
        return seconds is not None and seconds <= _QUICK and len(members) >= self.workers

    # For other threads: waiting

    def help(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Read answers until ``done`` says so, or time is up, or somebody else does it.

        Parameters
        ----------
        done
            Whether what the caller waits for is there.
        deadline
            In seconds of the monotonic clock; None to wait as long as it takes.

        Raises
        ------
        SharedArrayError
            This is a fork of the pool's process, and what is waited for is not there.
        """
        if self._pipes is None or self._thread is None:
            return
        if self._is_copy():
            if not done():
                self.check_owner()  # for nothing will come
            return
        me = threading.get_ident()
        reading = self._reading
        with interrupts.deferred:
            if me == self._manager or reading.get("reader") == me or self._holds():
                self._read_within(done, deadline)
                return
            try:
                if reading.setdefault("reader", me) == me:
                    self._read_until(done, deadline)
            finally:
                if reading.get("reader") == me:
                    self._stop_reading()

    def _read_within(self, done: Callable[[], bool], deadline: float | None) -> None:
        """Read answers in what has interrupted this very thread as it reads: a signal handler, a finalizer.

        Raises
        ------
        DeadlockError
            It is in the middle of an answer, and would wait for itself.
        """
        if done():
            return
        if not self._pausing or threading.get_ident() == self._manager or self._holds():
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
            if self._wanted_back and threading.current_thread() is not self._thread:
                self._stop_reading()  # those further out find that they do not read any more
            if self._nudge is not None:
                self._nudge.wake()  # what they wait for may have come

    def _read_until(self, done: Callable[[], bool], deadline: float | None) -> None:
        poller, outer, glance = self._pipes, self._watch, self._glance
        assert poller is not None
        assert outer is not None
        with self._lock:
            if self._ended:
                return
            if self._expecting:
                outer.modify(poller.fileno(), read=False, write=False)
                self._expecting = False
        me, reading = threading.get_ident(), self._reading
        while not (done() or self._wanted_back or self._over.is_set()) and reading.get("reader") == me:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            ready = poller.ready()
            if ready:
                glance.waited(0.0)  # it was there before the end of what had to be done after the asking
            else:
                began = time.perf_counter()
                # The look is too short for anybody to want to break it off.
                if glance.worthwhile() and not self._crowded():
                    ready = glance.poll(poller.ready)
                if not ready:
                    self._pausing = True
                    try:
                        with interrupts.allowed:
                            ready = poller.wait(left)
                    finally:
                        self._pausing = False
                glance.waited(time.perf_counter() - began)
            self._attend(ready)
            del ready
        if self._copied and not done():
            self.check_owner()  # a callback of this very thread has forked

    def _crowded(self) -> bool:
        """Whether looking would take a processor from a worker that has something to do on it."""
        busy = 0
        for member in self._members:
            busy += member.load > 0
        return busy >= self._processors

    def _stop_reading(self) -> None:
        """Give the pipes back to the management thread."""
        with self._lock:
            # Under the lock: who hands something out must know whether anybody reads.
            self._reading.pop("reader", None)
            busy = self._expect_answers()
        if self._wanted_back or self._ended:
            self._reading_free.set()
        if (
            self._shutting
            or (self._trim_at is None and self.store.dirty)
            or ((busy or self._vacant or self._queue) and self._wants_attention())
        ):
            self.wake()

    def _expect_answers(self) -> bool:
        """Have the management thread watch the pipes if workers may say something; say whether they may.

        Under the lock. Nothing has to be done while somebody reads, who does this at the end.
        """
        for member in self._members:
            if member.load or not member.open:
                break
        else:
            return False
        if not (self._expecting or "reader" in self._reading or self._ended):
            assert self._watch is not None
            assert self._pipes is not None
            self._watch.modify(self._pipes.fileno(), read=True, write=False)
            self._expecting = True
        return True

    def _wants_attention(self) -> bool:
        """Say whether the management thread has to start a worker, or to end one."""
        return self._may_start() or any(member.doomed for member in self._members)

    def expect(self) -> None:
        """Have the answers read from now on, though nobody may wait for one of them here."""
        # No need for the lock to see this: one who reads hands over to one who does.
        if self._expecting or "reader" in self._reading or self._is_copy():
            return
        with interrupts.deferred:
            if not self._holds() and self._lock.acquire(blocking=False):
                try:
                    self._expect_answers()
                finally:
                    self._lock.release()
            else:
                self.wake()

    def catch_up(self) -> None:
        """Read what workers have said so far, for a report."""
        me = threading.get_ident()
        if self._pipes is None or self._expecting or self._is_copy() or self._holds():
            return
        with interrupts.deferred:
            if "reader" in self._reading or self._reading.setdefault("reader", me) != me:
                return
            try:
                if not self._ended:
                    self._attend(self._pipes.ready())
            finally:
                if self._reading.get("reader") == me:
                    self._stop_reading()

    def nudge(self) -> None:
        """Have whoever reads answers for somebody look whether that is still wanted."""
        if self._reading.get("reader", threading.get_ident()) != threading.get_ident():
            bell = self._nudge
            if bell is not None:
                bell.wake()

    def withdraw(self, task: Task, *, running: bool) -> bool:
        """Take a task back from a worker that has not begun it, or end the worker that has.

        Parameters
        ----------
        task
            Which.
        running
            Whether to end it even when it has begun.

        Returns
        -------
        bool
            Whether it will not be run to its end.
        """
        if self._is_copy():
            return False
        with interrupts.deferred:
            return self._withdraw(task, running=running)

    def _withdraw(self, task: Task, *, running: bool) -> bool:
        if self._holds():
            return False
        with self._lock:
            member = next((m for m in self._members if task in m.tasks), None)
            if member is None:
                # Its worker died, and it waits for another one.
                if task in self._preparing:
                    task.cancelled = True
                    return True
                if task not in self._queue:
                    return False
                self._queue.remove(task)
                back = [task]
            else:
                behind = 0
                for other in reversed(member.tasks):
                    behind += other.left
                    if other is task:
                        break
                back = member.take_back(behind)
            mine = task in back
            self._queue.extendleft(other for other in reversed(back) if other is not task)
            if not mine:
                if running and member is not None and member.tasks and member.tasks[-1] is task:
                    self._condemn(member, _cancelled)
                    mine = True
                self._hand_out()
                self.wake()
                return mine
            self._hand_out()
        self.wake()
        self.ledger.cancelled += task.left
        task.sink.cancel_items(task.first + task.done, task.left)
        task.release()
        return True

    def may_wait(self) -> bool:
        """Whether this thread may wait for what others have to do, for none of it is its own to do."""
        return self._reading.get("reader") != threading.get_ident()

    def call_later(self, future: PoolFuture) -> bool:
        """Have the callbacks of a future called if this thread settles it for others; return whether so."""
        current = threading.current_thread()
        if current is not self._thread and self._reading.get("reader") != current.ident:
            return False
        self._callbacks.append(future)
        if len(self._callbacks) == 1 and self._caller is None:
            self._wake_if_other()
        return True

    def is_first(self, task: Task) -> bool:
        """Whether a task is the one that its worker is at."""
        with self._lock:
            return any(member.tasks and member.tasks[0] is task for member in self._members)

    def forget(self, sink: Sink, *, running: bool = False) -> None:
        """Give up on all that is done for somebody and has not begun; on what runs as well, if so wished."""
        if self._is_copy():
            return
        if self._holds() or not self._lock.acquire(blocking=False):
            # Perhaps in this very thread, for an iterator of results may be collected as garbage at any
            # moment.
            self._sinks_over.append((sink, running))
            self.wake()
            return
        try:
            gone = self._forget(sink, running)
        finally:
            self._lock.release()
        self._let_go(gone)
        self.wake()

    def _forget(self, sink: Sink, running: bool) -> list[Task]:
        gone = [task for task in self._queue if task.sink is sink]
        if gone:
            self._queue = deque(task for task in self._queue if task.sink is not sink)
        for member in self._members:
            if any(task.sink is sink for task in member.tasks):
                back = member.take_back(member.load)
                gone += [task for task in back if task.sink is sink]
                self._queue.extendleft(task for task in reversed(back) if task.sink is not sink)
                if running and member.tasks and member.tasks[-1].sink is sink:
                    self._condemn(member, _cancelled)
        self._hand_out()
        return gone

    def _let_go(self, gone: list[Task]) -> None:
        while gone:
            self._skip(gone.pop())
        self._dropped.clear()

    def _skip(self, task: Task) -> None:
        """Give up a task that nobody wants any more."""
        self.ledger.cancelled += task.left
        task.sink.skip(task.left)
        task.release(self._dropped)

    def _condemn(self, member: Member, sentence: Callable[[], BaseException]) -> None:
        """Have a worker end for what it is at: the last of its tasks, for all that could be was taken back.

        Those before that are done, though their answers may not have been read; and it begins nothing more,
        or its death would be another one's.
        """
        member.sentence = sentence
        member.doomed = True

    # For other threads: the end

    def shutdown(self, *, wait: bool, cancel: bool) -> None:
        """Accept nothing more; end when what was accepted is done."""
        if self._is_copy():
            return
        with self._lock:
            self._shutting = True
            self._cancelling |= cancel
            thread = self._thread
            never_started = thread is None and not self._ended
            self._ended |= never_started
        if never_started:
            self._setup = _NOTHING
            self._at_end()
        self.wake()
        if wait and not self._holds():
            self.join()

    def abort(self) -> None:
        """Accept nothing more, and end at once: what is queued is cancelled, what runs is killed."""
        if self._is_copy():
            return
        self._aborting = True
        self.shutdown(wait=False, cancel=True)

    def forsake(self) -> None:
        """Shut down without waiting. Safe in a finalizer, which may run in the middle of anything here."""
        self._forsaken = True
        self.wake()

    def join(self) -> None:
        """Wait for the end, unless a callback is asking, or a fork, which has no such thread."""
        if self._thread is None or self._is_copy() or threading.current_thread() in self._threads:
            return
        # Not Thread.join alone: before Python 3.13, one that Ctrl-C broke off takes the thread for ended.
        self._over.wait()
        for thread in list(self._threads):
            thread.join()

    def wake(self) -> None:
        """Make the management thread look at what there is to do."""
        bell = self._bell
        if bell is not None and not self._is_copy():
            bell.wake()

    def pids(self) -> list[int]:
        """Return the process ids of the workers that are there."""
        with self._lock:
            pids = [member.process.pid for member in self._members if member.exit >= 0]
        return [pid for pid in pids if pid is not None]

    def stats(self) -> PoolStats:
        """Return what is being done and was done."""
        from sharedarray.display.pool_stats import PoolStats

        self.catch_up()
        with self._lock:
            loads = [member.load for member in self._members]
            queued = sum(task.left for task in itertools.chain(self._queue, self._preparing))
            queued += sum(max(0, load - 1) for load in loads)
        busy = sum(load > 0 for load in loads)
        used, free, count = self.store.sizes()
        limit, idle_limit = self.store.limits
        ledger = self.ledger
        shared, copied, pickled = ledger.totals()
        return PoolStats(
            workers=len(loads),
            busy=busy,
            max_workers=self.workers,
            queued=queued,
            running=busy,
            done=ledger.done,
            failed=ledger.failed,
            cancelled=ledger.cancelled,
            retried=ledger.retried,
            died=ledger.died,
            replaced=ledger.replaced,
            recycled_bytes=used + free,
            recycled_in_use=used,
            recycled_free=free,
            recycled_blocks=count,
            recycled_limit=limit,
            recycled_idle_limit=idle_limit,
            shared_bytes=shared,
            copied_bytes=copied,
            pickled_bytes=pickled,
        )

    def _returned(self) -> None:
        """Hear that a result in recycled memory is gone; in any thread, at any moment."""
        if self._trim_at is None or self._trim_at > time.monotonic() + TRIM_AFTER:
            self.wake()

    def _over_with(self, call: int) -> None:
        """Hear, at any moment, that a function is not needed any more."""
        if self._finished:
            return
        self._functions_over.append(call)
        self.wake()

    def _is_open(self) -> bool:
        """Whether `_check_open` has nothing to say."""
        return (
            self._owner == os.getpid()
            and self._broken is None
            and not (self._shutting or self._forsaken or _exiting)
        )

    def _is_copy(self) -> bool:
        return self._owner != os.getpid()

    def _refuse(self, *_: object) -> NoReturn:
        self.check_owner()
        raise AssertionError("only a fork of the pool's process asks")

    def check_owner(self) -> None:
        """Raise in a fork of the pool's process."""
        if self._is_copy():
            raise errors.SharedArrayError(
                "this pool belongs to another process, from which this one was forked",
                found=f"process {os.getpid()}",
                expected=f"process {self._owner}",
                cause="fork copies the memory of a pool but not its thread, and workers have one parent only",
                next_step="make a pool of its own in the forked process",
            )

    def _check_open(self) -> None:
        self.check_owner()
        if self._broken is not None:
            raise self._broken()
        if self._shutting or self._forsaken:
            raise RuntimeError("cannot schedule new futures after shutdown: the pool takes no more tasks")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    # Beginning and end of the management thread

    def _start(self) -> None:
        greenlets.check(self._method)
        platform.need_descriptors(_DESCRIPTORS)
        _ = errors.WorkerDied  # which cannot be made any more when the interpreter ends
        _end_with_process()
        self._watch, self._pipes = new_poller(), new_poller()
        self._bell, self._nudge = pipes.Waker(), pipes.Waker()
        self._pipes.add(self._nudge.fileno())
        self._watch_for(self._bell.fileno(), self._bell.drain)
        self._watch_for(self._pipes.fileno(), self._read)
        self._expecting = True
        processes.make_ready(self._method)
        if self._method == "fork":
            # Before our thread is there: what a fork copies is then in the state that its caller left it in.
            for _ in range(self.workers):
                self._add_member()
        self._thread = threading.Thread(target=self._run, name="sharedarray-pool", daemon=True)
        self._threads.append(self._thread)
        self._thread.start()

    def _undo_start(self) -> None:
        """Leave nothing of a start that failed, since no thread or descriptor was to be had."""
        self._thread = None
        self._threads.clear()
        for member in self._members:
            self._kill(member)
            self._exit_code(member)
            if member.exit_is_ours:
                pipes.close_exit_descriptor(member.exit)
            member.close()
            member.estate()
            member.forget_name()
        self._members.clear()
        self._by_pipe.clear()
        self._handlers.clear()
        self._close_all()

    def _watch_for(self, descriptor: int, handler: Callable[[], None], *, write: bool = False) -> None:
        assert self._watch is not None
        self._handlers[descriptor] = handler
        self._watch.add(descriptor, write=write)

    def _unwatch(self, descriptor: int) -> None:
        assert self._watch is not None
        self._watch.remove(descriptor)
        self._handlers.pop(descriptor, None)

    def _run(self) -> None:
        self._blocked = group_signals.block()
        while not self._manage() and self._come_back():
            pass

    def _manage(self) -> bool:
        """Do what is the management thread's; return whether that was to the end of the pool.

        Otherwise another thread does it by now.
        """
        managing = True
        self._manager = threading.get_ident()
        try:
            while managing and self._tend():
                managing = self._call_back()
                if managing:
                    self._wait()
                    if self._copied:
                        copies.end_copy()  # what this thread has loaded has forked
                    managing = self._call_back() and not self._hand_back()
        except BaseException as broken:
            if self._copied:
                copies.end_copy()
            self._break("the pool's management thread failed", broken)
        if managing:
            self._end()
        return managing

    def _end(self) -> None:
        try:
            if not self._finished:
                self._finished = True
                self._finish()
        finally:
            if self._call_back():
                with self._lock:
                    self._over.set()
                    self._handed.set()
                self.nudge()
                self._close_pipes()

    def _come_back(self) -> bool:
        """Manage the pool again, after callbacks that took long; return False at the pool's end."""
        current = threading.current_thread()
        with self._lock:
            if self._over.is_set():
                return False
            self._back = current
            self._handed.clear()
        self.wake()
        self._handed.wait()
        return self._thread is current

    def _hand_back(self) -> bool:
        """Let the thread that managed the pool before do so again; return whether there is such a thread."""
        if self._back is None:
            return False
        with self._lock:
            self._deputy, self._thread, self._back = self._thread, self._back, None
            self._manager = 0
            self._handed.set()
        return True

    def _call_back(self) -> bool:
        """Call the callbacks of what is settled; return whether this thread still manages the pool.

        One after the other, as the standard library does, and in one thread at a time. Where this is taking
        long, another thread has become the management thread, and this one has nothing else to do.
        """
        if not self._callbacks:
            return True
        current = threading.current_thread()
        with self._lock:
            if self._caller is not None:
                return True  # the other thread
            self._caller = current
            self._manager = 0
            self._calling = time.monotonic()
            watched = self._deputy is not None
        if not watched:
            self._appoint()
        while True:
            with self._lock:
                if not self._callbacks:
                    self._caller = None
                    if self._thread is not current:
                        return False
                    self._manager = threading.get_ident()
                    return True
                future = self._callbacks.popleft()
            future.call_back()
            if self._copied:
                copies.end_copy()  # a callback has forked
            del future

    def _appoint(self) -> None:
        """Start the thread that manages the pool if callbacks take long."""
        deputy = threading.Thread(target=self._watch_callbacks, name="sharedarray-pool", daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), deputy]
        self._deputy = deputy
        try:
            deputy.start()
        except BaseException:  # there are too many threads, or the interpreter is at its end
            self._deputy = None
            self._threads = [thread for thread in self._threads if thread is not deputy]

    def _watch_callbacks(self) -> None:
        """Manage the pool as soon as callbacks take long; end if there are none for a while."""
        group_signals.block(self._blocked)
        quiet = 0
        while not self._over.wait(_LONG_CALLBACK):
            with self._lock:
                if self._caller is None:
                    quiet += 1
                    if quiet > _QUIET:
                        self._deputy = None
                        return
                    continue
                quiet = 0
                if self._caller is not self._thread or time.monotonic() - self._calling < _LONG_CALLBACK:
                    continue
                self._thread, self._deputy = threading.current_thread(), None
            if self._manage():
                return

    def _wait(self) -> None:
        assert self._watch is not None
        for descriptor, _ in self._watch.wait(self._patience()):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler()

    def _patience(self) -> float | None:
        """Return for how many seconds there is nothing to do if nothing happens."""
        with self._lock:
            times = [at for at in (self._look_at, self._trim_at) if at is not None]
            if self._comes_by:
                times.append(time.monotonic() + _COMING_BY)
            for member in self._members:
                if member.killed or member.ended:
                    continue  # its end is the next thing, however long the kernel takes to free its memory
                if member.tasks:
                    times += _due(member.tasks[0], member.since)
                    if not member.silent:
                        times.append(member.since + _SILENCE)
                if member.hung_up:
                    times.append(member.hung_up_at + _PATIENCE)
                if member.leaving:
                    times.append(member.stopped_at + _STOPPED)
            if self._next_deadline is not None:
                times.append(self._next_deadline)
        if self._callbacks and self._caller is None:
            return 0.0
        # What is due was looked at a moment ago: it may wait for an answer that another thread is reading.
        return max(_SHORTEST, min(times) - time.monotonic()) if times else None

    def _finish(self) -> None:
        for member in list(self._members):
            self._kill(member)
            self._bury(member)
        with self._lock:
            left, self._queue = list(self._queue), deque()
            self._blocks_over.clear()
            self._functions_over.clear()
            self._ended = self._shutting = True
        for task in left:
            self.ledger.cancelled += task.left
            task.sink.cancel_items(task.first + task.done, task.left)
            task.release()
        del left
        self._take_arrivals()
        self._setup = _NOTHING  # what the initializer was given is not to live as long as this object
        self.store.close()
        self._at_end()

    def _close_pipes(self) -> None:
        """Close what a reader may still look at, once there is none."""
        while self._reading.setdefault("reader", 0):
            self._reading_free.clear()
            if self._reading.get("reader"):
                self._reading_free.wait(0.01)
        with self._lock:
            self._close_all()

    def _close_all(self) -> None:
        for thing in (self._watch, self._pipes, self._bell, self._nudge):
            if thing is not None:
                thing.close()

    # What the management thread does between two waits

    def _tend(self) -> bool:
        """Do what can be done now; return whether there is anything left to wait for."""
        with self._lock:
            if self._forsaken:
                self._shutting = True
            aborting, cancelling = self._aborting, self._cancelling
            self._look_at = None
        if cancelling:
            self._cancel_queued()
        while self._sinks_over:
            sink, running = self._sinks_over.popleft()
            with self._lock:
                gone = self._forget(sink, running)
            self._let_go(gone)
            del sink
        self._take_arrivals()
        if aborting:
            self._kill_all()
        if any(member.unread for member in self._members):
            self._read_again()
        self._check_times()
        while True:
            with self._lock:
                self._forget_functions()
                self._forget_blocks()
                self._hand_out()
                if not self._may_start():
                    break
            try:
                self._add_member()
            except errors.LimitError as reason:
                if not self._members:
                    self._fail_queued(reason)
                break
            except BaseException as reason:  # also what the pickling of the initializer's arguments raises
                if self._copied:
                    raise
                if not self._members:
                    found = failures.described(reason)
                    self._break("no worker process could be started", reason, found=found)
                break
        self._prepare()
        with self._lock:
            for member in self._members:
                self._look_after(member)
            self._look_by()
            if self.store.retired > _MANY_RETIRED:
                self.store.retain(set().union(*[member.known for member in self._members]))
            there = self._members or self._queue or self._preparing
            going_on = bool(there) or not (self._shutting or self._broken)
        self._trim()
        return going_on

    def _take_arrivals(self) -> None:
        """Take what was submitted by finalizers that interrupted a thread with the lock."""
        while self._arrivals:
            tasks, call = self._arrivals.popleft()
            try:
                self._accept(tasks, call)
            except Exception as closed:  # the pool takes no more
                for task in tasks:
                    task.sink.begin()
                    task.sink.put(task.first + task.done, [Raised(closed)] * task.left)

    def _trim(self) -> None:
        now = time.monotonic()
        if any(member.load for member in self._members):
            self._active = now
        wait = self.store.trim(now - self._active)
        self._trim_at = None if wait is None else now + wait

    def _forget_blocks(self) -> None:
        gone = set()
        while self._blocks_over:
            gone.add(self._blocks_over.popleft())
        if gone:
            for member in self._members:
                if not member.hung_up and member.left(gone):
                    self._flush(member)

    def _forget_functions(self) -> None:
        while self._functions_over:
            number = self._functions_over.popleft()
            for member in self._members:
                if number in member.functions:
                    member.functions.discard(number)
                    member.channel.queue(encode(Kind.OVER, task=number))
                    self._flush(member)

    def _check_times(self) -> None:
        """End what has run for too long, and what is too late."""
        now = time.monotonic()
        late: list[Task] = []
        with self._lock:
            for member in self._members:
                if member.tasks and any(at <= now for at in _due(member.tasks[0], member.since)):
                    if not member.begun:
                        member.since = now  # the machine is busy: the task's time has not begun
                    if any(at <= now for at in _due(member.tasks[0], member.since)):
                        self._queue.extendleft(reversed(member.take_back(member.load)))
                        if member.load == 1:  # else it is at the next one, and the answer has not been read
                            self._condemn(member, _timed_out(member.tasks[0]))
                if member.hung_up and not member.ended and member.hung_up_at + _PATIENCE <= now:
                    member.doomed = True
                if member.leaving and not member.ended and member.stopped_at + _STOPPED <= now:
                    member.doomed = True
            if self._next_deadline is not None and self._next_deadline <= now:
                late = self._late(now)
        for member in self._members:
            if member.tasks and not member.silent and member.since + _SILENCE <= now:
                member.silent = True
                settled = self._heard(member, member.unsent())
                if settled:
                    _settle(settled)
                    self.nudge()
        for task in late:
            self._fail([task], _timed_out(task))

    def _late(self, now: float) -> list[Task]:
        """Take out of the queue what is too late, wherever in it, and find out when to look again."""

        def is_late(task: Task) -> bool:
            return task.deadline is not None and task.deadline <= now

        for member in self._members:
            if any(is_late(task) for task in itertools.islice(member.tasks, 1, None)):
                self._queue.extendleft(reversed(member.take_back(member.load)))
        late = [task for task in self._queue if is_late(task)]
        if late:
            self._queue = deque(task for task in self._queue if not is_late(task))
        there = itertools.chain(self._queue, self._preparing, *[member.tasks for member in self._members])
        times = [task.deadline for task in there if task.deadline is not None and task.deadline > now]
        self._next_deadline = min(times, default=None)
        return late

    # Handing out

    def _hand_out(self, first: Member | None = None) -> None:
        """Give what is queued to the workers that have room for it; flush these, and ``first``."""
        queue = self._queue
        given: set[Member] = set() if first is None else {first}
        while queue:
            task = queue[0]
            if not task.sink.wanted():
                queue.popleft()
                task.sink.begin()  # a cancelled future's waiters are told by this
                self._skip(task)
                continue
            if self._preparing and not self._is_ready(task):
                # One thread copies, one task after the other: others may overtake what waits for that.
                at = self._next_ready()
                if not at or self._place(queue[at])[0] is None:
                    break
                queue.appendleft(queue[at])
                del queue[at + 1]
                continue
            member, room = self._place(task)
            if member is None:
                break
            if task.place is not None and task.place != member.place:
                task = self._rather(member, task, room)
            elif task.left > room:
                queue[0] = task.split(task.done + room)
            else:
                queue.popleft()
            expected = 0 if task.items is not None else self.ledger.result_size(task.label)
            ready, lent = self._is_ready(task), None
            if ready and expected:
                lent = self.store.take(expected, make=False)
                ready = lent is not None
            if ready:
                self._give(member, task, lent)
                given.add(member)
            else:
                member.reserved = True
                self._preparing.add(task)
                self._chosen.append((task, member))
        for member in given:
            self._flush(member)
        if queue:
            self._look_ahead()
        elif len(self._members) > 1:
            self._even_out()

    def _rather(self, member: Member, other: Task, room: int) -> Task:
        """Take out of the queue what a worker had better do than the first task: its own part of the call.

        If that is done, the end of what is most takes its place, for its owner comes to that last.
        """
        queue = self._queue
        parts = [task for task in itertools.islice(queue, 2 * self.workers) if task.call == other.call]
        own = next((task for task in parts if task.place == member.place), None)
        if own is not None:
            at = queue.index(own)
            if own.left > room:
                queue[at] = own.split(own.done + room)
            else:
                del queue[at]
            return own
        most = max(parts, key=lambda task: task.left)
        if most.left > room:
            return most.split(most.count - room)
        del queue[queue.index(most)]
        return most

    def _look_ahead(self) -> None:
        """Find the next task whose arguments are to be copied while the workers are at others."""
        self._next_up = next(filter(_is_large, itertools.islice(self._queue, self.workers)), None)

    @staticmethod
    def _is_ready(task: Task) -> bool:
        """Whether a task can be sent without copying anything."""
        pickled, function = task.pickled, task.function
        return (pickled is None or pickled.sendable) and (function is None or function.pickled.sendable)

    def _next_ready(self) -> int:
        """Return where in the queue the next task is that can be sent as it is; 0 if that is far."""
        tasks = itertools.islice(self._queue, _OVERTAKEN)
        return next((at for at, task in enumerate(tasks) if self._is_ready(task)), 0)

    def _prepare(self) -> None:
        """Copy arguments, without the lock: of tasks that are chosen for workers, then of what comes next.

        One thread at a time does this, for it copies what several tasks have in common once.
        """
        self._dropped.clear()
        while (self._chosen or self._next_up is not None) and self._copying.acquire(blocking=False):
            try:
                while self._chosen:
                    self._copy_for(*self._chosen.popleft())
                task, self._next_up = self._next_up, None
                if task is not None:
                    self._copy_ahead(task)
            finally:
                self._copying.release()

    def _copy_for(self, task: Task, member: Member) -> None:
        """Copy the arguments of a task and send it to the worker that it was chosen for."""
        lent, raised = None, None
        try:
            pickled, function = task.pickled, task.function
            if pickled is not None:
                pickled.copy_to_slots(self.store, private=task.retries > 0)
            if function is not None:
                function.pickled.copy_to_slots(self.store, private=True)
            expected = 0 if task.items is not None else self.ledger.result_size(task.label)
            if expected:
                lent = self.store.take(expected)
        except BaseException as error:
            raised = error
        given_up = broken = False
        with self._lock:
            member.reserved = False
            self._preparing.discard(task)
            is_open, first = member.open, None
            if raised is None:
                broken = self._broken is not None
                given_up = task.cancelled or self._ended or self._aborting
                if not (broken or given_up):
                    if is_open:
                        self._give(member, task, lent)
                        first, lent = member, None
                    else:
                        self._queue.appendleft(task)
            self._hand_out(first)
            if self._shutting or broken or not is_open:
                self._wake_if_other()
        if lent is not None:
            self.store.put_back(lent)
        if raised is not None:
            self._fail([task], partial(_unsendable, task.label, raised))
        elif broken:
            assert self._broken is not None
            self._fail([task], self._broken)
        elif given_up:
            self.ledger.cancelled += task.left
            task.sink.cancel_items(task.first + task.done, task.left)
            task.release()

    def _copy_ahead(self, task: Task) -> None:
        """Copy the arguments of a task that comes soon, while the workers are at others."""
        pickled = task.pickled
        if pickled is None:  # it is over
            return
        within = min(COPIED_AHEAD, self._eager)
        try:
            if pickled.copy_to_slots(self.store, private=task.retries > 0, within=within):
                with self._lock:
                    self._look_ahead()
        except Exception:  # it comes again, when the task is chosen for a worker
            return

    def _flush(self, member: Member) -> None:
        """Write what a worker was given."""
        try:
            if member.channel.flush() and not member.writing:
                return
        except OSError:
            # Its process has ended, and we shall hear of that as well; what it has not begun is not lost.
            member.doomed = True
        self._attend_to(member)

    def _place(self, task: Task) -> tuple[Member | None, int]:
        """Return the worker that should get a task, and how many items of it."""
        best: Member | None = None
        count = 0
        for member in self._members:
            if member.open:
                count += 1
                if best is None or member.load < best.load:
                    best = member
        if best is None:
            return None, 0
        if not best.load and task.count == 1 and self._max_tasks is None:
            return best, 1
        depth = self._depth(task)
        if depth > 2 and 2 * best.load > depth:
            return None, 0  # not one by one: each message costs more than what it says
        room = depth - best.load
        if self._max_tasks is not None:
            room = min(room, self._max_tasks - best.given)
        if room <= 0:
            return None, 0
        sharers = count if task.place is None else 1
        return best, max(1, min(room, -(-task.left // (2 * sharers))))

    def _depth(self, task: Task) -> int:
        """Return how many items like those of a task a worker should have at a time."""
        seconds = self.ledger.duration(task.label)
        unless = 1
        if task.function is not None and task.function.independent:
            # One ahead at least, and more of them as long as that is not much.
            unless = 2 if seconds is None or task.items is None else max(2, int(_MUCH / max(seconds, 1e-9)))
            unless = min(unless, _DEEPEST)
        if seconds is None or seconds > _SHORT or task.limit is not None:
            return unless
        if not self.ledger.known_well(task.label):
            return unless
        deepest = _DEEPEST
        if (task.pickled is not None and not task.pickled.short) or self.ledger.result_size(task.label):
            deepest = _LARGE_DEEP
        return min(deepest, int(_AHEAD / max(seconds, 1e-9)))

    def _even_out(self) -> None:
        """Give a worker that has nothing to do what another one has not begun."""
        fullest, free = None, False
        for member in self._members:
            if member.load < 2:
                free = free or (member.open and not member.load)
            elif not member.going and (fullest is None or member.load > fullest.load):
                fullest = member
        if fullest is None or not free:
            return
        waiting = fullest.load - 1
        now = time.monotonic()
        expected = (self.ledger.duration(fullest.tasks[0].label) or 0.0) * waiting
        if expected < _WORTH_MOVING and now - fullest.since < _STUCK:
            # Look again, should it turn out to be stuck behind a slow item.
            if self._look_at is None:
                self._look_at = fullest.since + _STUCK
                self._wake_if_other()
            return
        back = fullest.take_back(-(-waiting // 2) if now - fullest.since < _STUCK else waiting)
        if back:
            self._queue.extend(back)
            self._hand_out()

    def _wake_if_other(self) -> None:
        if threading.current_thread() is not self._thread:
            self.wake()

    def _may_start(self) -> bool:
        """Say whether one more worker would have something to do."""
        if not self._queue and not self._vacant:
            return False
        if self._broken is not None or self._aborting:
            return False
        there = [member for member in self._members if not member.going]
        if len(there) >= self.workers:
            return False
        if self._vacant and not self._shutting:
            return True
        starting = sum(not member.ready for member in there)
        waiting = 0
        for task in self._queue:
            waiting += task.left
            if starting < waiting:
                return True
        return False

    def _look_after(self, member: Member) -> None:
        if member.doomed:
            self._kill(member)
        elif not (member.load or member.owed or member.reserved or member.leaving or member.hung_up):
            worn_out = self._max_tasks is not None and member.given >= self._max_tasks
            if worn_out or (self._shutting and not self._queue and not self._preparing):
                self._stop(member)
        self._attend_to(member)

    def _attend_to(self, member: Member) -> None:
        """Watch a pipe for the room to write exactly as long as something waits for it."""
        if member.channel.unsent == member.writing or member.hung_up:
            return
        member.writing = member.channel.unsent
        if member.writing:
            self._watch_for(member.channel.out, lambda: self._write(member), write=True)
        else:
            self._unwatch(member.channel.out)

    def _write(self, member: Member) -> None:
        """Write what a worker could not take before."""
        with self._lock:
            if not member.hung_up:
                try:
                    member.channel.flush(safe=True)
                except OSError:
                    member.doomed = True
                    self._unwatch(member.channel.out)
                    member.writing = False
                    return
                self._attend_to(member)

    def _give(self, member: Member, task: Task, lent: Slot | None = None) -> None:
        """Send a task to a worker, with memory for its result, unless it was cancelled just now."""
        if not task.sink.begin():
            self._skip(task)
            if lent is not None:
                self.store.put_back(lent)
            return
        size = member.give(task, lent, self.store.gone(member.known) if member.known else ())
        self._expect_answers()
        if size:
            self.ledger.sends_plain(task.call, size, task.left)
        if task.limit is not None or task.deadline is not None:
            self._wake_if_other()

    def _stop(self, member: Member) -> None:
        member.leaving = True
        member.stopped_at = time.monotonic()
        self._wake_if_other()  # which kills one that does not end
        self._expect_answers()
        with contextlib.suppress(OSError):
            member.channel.send(Kind.STOP)

    # Starting workers

    def _add_member(self) -> None:
        assert self._pipes is not None
        to_worker, to_pool = pipes.one_way(), pipes.one_way()
        counter = new_counter(self._method)
        # Where all processors are busy with looking for work, none is left to do it.
        look = len(self._members) < self._processors - 1
        self._vacant = max(0, self._vacant - 1)
        taken = {member.place for member in self._members if not member.going}
        place = next(place for place in itertools.count() if place not in taken)
        box = outbox.make()
        ends = Ends(to_worker[0], to_pool[1], counter, os.getpid(), box, look)
        self._started += 1
        if self._gone:
            self._gone -= 1
            self.ledger.replaced += 1
        process = processes.WorkerProcess(
            self._method, f"sharedarray-worker-{self._started}", ends, self._setup
        )
        member = Member(
            process,
            Channel(to_pool[0], to_worker[1], blocking=False),
            counter,
            box,
            self.store.put_back,
            place,
        )
        self._members.append(member)  # before the start: a forked worker closes our end, which it finds here
        try:
            processes.start(process)
            member.exit, member.exit_is_ours = pipes.exit_descriptor(process)
        except BaseException:
            self._members.remove(member)
            self._kill(member)
            if process.pid is not None:  # it runs, and nobody could be told of its end
                process.join()
            member.close()
            raise
        finally:
            to_worker[0].close()
            to_pool[1].close()
        member.since = time.monotonic()
        member.pid = process.pid or 0
        self._by_pipe[member.channel.fileno()] = member
        self._pipes.add(member.channel.fileno())
        self._watch_for(member.exit, lambda: self._mourn(member))

    # Reading

    def _read(self) -> None:
        """Read what there is, as the management thread, unless somebody else does."""
        assert self._pipes is not None
        me = threading.get_ident()
        if self._reading.setdefault("reader", me) == me:
            try:
                self._attend(self._pipes.wait(0))
            finally:
                self._stop_reading()
            if (
                not self._callbacks
                and self.ledger.quick(_QUICK)
                and sum([member.load for member in self._members]) > 1
            ):
                # Many small tasks are under way and nobody waits for one of them here: rather many answers
                # at a time than a wake-up, and a fight for the interpreter, for each.
                time.sleep(_NAP)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[None]:
        """Be the one who reads, whoever was it before."""
        me = threading.get_ident()
        self._wanted_back = True
        try:
            while self._reading.setdefault("reader", me) != me:
                self._reading_free.clear()
                if self._reading.get("reader", me) != me:
                    self.nudge()
                    self._reading_free.wait(0.05)
        finally:
            self._wanted_back = False
        try:
            yield
        finally:
            self._stop_reading()

    def _attend(self, ready: Sequence[tuple[int, object]]) -> None:
        for descriptor, _ in ready:
            member = self._by_pipe.get(descriptor)
            if member is not None:
                self._hear(member)
                if len(ready) > 1 and self._reading.get("reader") != threading.get_ident():
                    return  # a callback has handed over
            elif self._nudge is not None and descriptor == self._nudge.fileno():
                self._nudge.drain()

    def _hear(self, member: Member) -> None:
        """Hear what a worker says."""
        try:
            frames = member.channel.receive()
            settled = None
            if len(frames) == 1 and not member.unread:
                settled = self._heard_one(member, frames[0])
            if settled is None:
                settled = self._heard(member, frames)
            del frames
        except (EOFError, OSError):
            self._hang_up(member)
            return
        except BaseException:
            # Something else than Ctrl-C broke this thread off. What it was changing is not to be trusted.
            self._kill_all()
            self.wake()
            raise
        interrupt, self._interrupt = self._interrupt, None
        self._dropped.clear()
        try:
            _settle(settled)
        finally:
            if interrupt is not None:
                self.wake()
                raise interrupt
            if self._chosen or self._next_up is not None:
                self._prepare()

    def _read_again(self) -> None:
        """Act on what Ctrl-C has kept another thread from acting on."""
        with self._reader():
            for member in list(self._members):
                if member.unread:
                    _settle(self._heard(member, ()))
        self.nudge()

    def _hang_up(self, member: Member) -> None:
        """Take note that a worker has closed its end; it ended, or is about to."""
        assert self._pipes is not None
        with self._lock:
            if not member.hung_up:
                member.hung_up = True
                member.hung_up_at = time.monotonic()
                self._pipes.remove(member.channel.fileno())
                self._by_pipe.pop(member.channel.fileno(), None)
                if member.writing:
                    member.writing = False
                    self._unwatch(member.channel.out)
        self._wake_if_other()

    def _heard_one(self, member: Member, frame: Frame) -> list[tuple[Sink, int, list[Any]]] | None:
        """Act on the small answer to all that a worker had to do; return None for any other frame.

        That is `_heard` in the short way: nothing is handed out, nothing lent comes back.
        """
        if frame.kind != _RESULT or frame.flags != PLAIN or frame.entries:
            return None
        try:
            outcome = load_result(frame.stream, (), PLAIN)
        except Exception:
            return None
        with self._lock:
            if self._queue or self._max_tasks is not None or member.load != 1 or member.room:
                return None
            task = member.tasks[0]
            if task.number != frame.task or task.count != 1:
                return None
            now = self._active = time.monotonic()
            member.finished(task, now)
            self.ledger.finished(task, frame, now, member.name, member.pid, failed=False)
            if len(self._members) > 1:
                self._even_out()
        task.release()
        return [(task.sink, task.first, [outcome])]

    def _heard(self, member: Member, frames: Sequence[Frame]) -> list[tuple[Sink, int, list[Any]]]:
        """Act on frames; return what is to be settled.

        If Ctrl-C breaks off the loading of an answer, those before it count. The management thread acts on
        the others, and loads that one again.
        """
        answers: list[tuple[Frame, Any]] = []
        if member.unread:
            frames, member.unread = [*member.unread, *frames], []
        for index, frame in enumerate(frames):
            if frame.kind in _ANSWERS:
                try:
                    outcome = self._open(member, frame)
                except BaseException as interrupt:
                    self._interrupt, member.unread = interrupt, list(frames[index:])
                    break
                if frame.flags & HOLDS and type(outcome) is Raised and self._has_ended(member, outcome):
                    outcome = _LOST
                answers.append((frame, outcome))
            else:
                self._told(member, frame)
        settled: list[tuple[Sink, int, list[Any]]] = []
        with self._lock:
            self._book_all(member, answers, settled)
            if self._max_tasks is not None and not member.load and member.given >= self._max_tasks:
                self._stop(member)
            self._active = member.since
            self._hand_out()
            if member.writing or member.channel.unsent:
                self._attend_to(member)
        return settled

    def _has_ended(self, member: Member, outcome: Raised) -> bool:
        """Whether what an answer refers to could not be attached because its worker died with it."""
        missing: BaseException | None = outcome.exception
        seen: set[int] = set()  # for exceptions may be each other's cause
        while missing is not None and not issubclass(type(missing), errors.BlockNotFoundError):
            seen.add(id(missing))
            missing = failures.cause_of(missing)
            if id(missing) in seen:
                missing = None
        # The kernel lets go of a process's blocks a moment before it says that the process has ended.
        return missing is not None and pipes.has_ended(member.exit, _MOMENT)

    def _book_all(
        self,
        member: Member,
        answers: list[tuple[Frame, Any]],
        settled: list[tuple[Sink, int, list[Any]]],
    ) -> None:
        """Take note of answers, under the lock."""
        for frame, outcome in answers:
            if frame.kind != _RESULTS:
                self._book(member, frame, outcome, settled)
                continue
            task = member.tasks[0] if member.tasks else None
            if task is None or task.number != frame.task:
                continue
            start, values = outcome
            if not start <= task.done < start + len(values):
                continue  # known already, from the outbox
            values = values[task.done - start :]
            index = task.first + task.done
            member.answered(task.number, frame.began, len(values))
            self.ledger.answered(task, frame, count=len(values))
            settled.append((task.sink, index, values))
            if task.done == task.count:
                self._conclude(member, task, frame.ended, "done")

    def _conclude(self, member: Member, task: Task, ended: int, outcome: str) -> None:
        if member.room:
            member.clear_room(task.number)
        self.ledger.over(task, ended, member.name, member.pid, outcome)
        task.release(self._dropped)

    def _told(self, member: Member, frame: Frame) -> None:
        """Act on what is no answer."""
        if frame.kind == Kind.READY:
            self._early_deaths = 0
            self._last_ready = time.monotonic()
            with self._lock:
                member.ready = True
            member.forget_name()
        elif frame.kind == Kind.REFUSED:
            self._refused(frame)
        elif frame.kind == Kind.DROPPED:
            with self._lock:
                member.dropped(frame.item)
                if self._shutting:
                    self._wake_if_other()
        elif frame.kind == Kind.NEED:
            lent = self.store.take(frame.began)
            with self._lock, contextlib.suppress(OSError):
                member.grant(frame.task, lent)
                self._attend_to(member)

    def _book(
        self, member: Member, frame: Frame, outcome: Any, settled: list[tuple[Sink, int, list[Any]]]
    ) -> None:
        """Take note of an answer, under the lock."""
        task = member.answered(frame.task, frame.began)
        if task is None:
            return
        index = task.first + task.done - 1
        if outcome is _LOST:
            member.lost.append(task.only(task.done - 1))
            if task.done == task.count:
                member.clear_room(task.number)
            return
        failed = type(outcome) is Raised
        if task.count == 1 and not frame.entries and not frame.flags & HOLDS:
            # As nearly all are that somebody waits for impatiently.
            settled.append((task.sink, index, [outcome]))
            if member.room:
                member.clear_room(task.number)
            self.ledger.finished(task, frame, member.since, member.name, member.pid, failed=failed)
            task.release(self._dropped)
            return
        self.ledger.answered(task, frame, failed=failed)
        if frame.flags & HOLDS:
            self.ledger.shares(task.call, "result", _shared_bytes(outcome))
            with contextlib.suppress(OSError):
                member.channel.send(Kind.TAKEN, task=frame.task)
        last = settled[-1] if settled else None
        if last is not None and last[0] is task.sink and last[1] + len(last[2]) == index:
            last[2].append(outcome)
        else:
            settled.append((task.sink, index, [outcome]))
        if task.done == task.count:
            self._conclude(member, task, frame.ended, "raised" if failed else "done")

    def _open(self, member: Member, frame: Frame) -> Any:
        """Return the value that an answer carries, or the exception as `Raised`.

        Raises
        ------
        BaseException
            Ctrl-C has broken off the loading, and the answer is to be opened again.
        """
        before = interrupts.broken_off()
        pieces, member.pieces = member.pieces, None
        try:
            if frame.kind == _RESULTS:
                return outbox.values(frame.stream)
            if pieces is None:
                pieces = self._pieces(frame) if frame.entries else (frame.stream, ())
            stream, buffers = pieces
            if frame.flags & PLAIN:
                found = load_result(stream, buffers, PLAIN)
            else:
                with interrupts.allowed:  # it may call methods that a user has written
                    found = load_result(stream, buffers)
            return Raised(failures.rebuild(found)) if frame.kind == _ERROR else found
        except BaseException as raised:
            if interrupts.broken_off() != before:
                member.pieces = pieces  # so that slots stay lent
                raise
            failures.forget_frames(raised)
            what = "exception" if frame.kind == _ERROR else "result"
            error = errors.NotPicklableError(
                f"the {what} of a task arrived but could not be loaded",
                found=failures.described(raised),
                expected="an object that pickle can read back in this process",
                next_step="see the cause of this exception",
            )
            error.__cause__ = raised
            return Raised(error)

    def _pieces(self, frame: Frame) -> tuple[Any, Sequence[Any]]:
        """Return the stream and the buffers of an answer; what lies in a slot stays there.

        A worker sends a long stream as the last buffer: inline if there is no slot for it.
        """
        stream: Any = frame.stream
        inline = iter(frame.inline)
        lent: dict[int, memoryview] = {}
        buffers: list[Any] = []
        for entry in frame.entries:
            if not entry.slot:
                piece = next(inline)
            else:
                if entry.slot not in lent:
                    slot = self.store.find(entry.slot)
                    assert slot is not None
                    slot.fresh = False
                    lent[entry.slot] = self.store.borrow_slot(slot)
                piece = lent[entry.slot][entry.offset : entry.offset + entry.length]
            if entry.flags & STREAM:
                stream = piece
            else:
                buffers.append(piece)
        return stream, buffers

    def _refused(self, frame: Frame) -> None:
        try:
            raised = failures.rebuild(loads(frame.stream, frame.inline))
        except BaseException as broken:
            failures.forget_frames(broken)
            raised = broken
        self._break(
            "the initializer raised an exception, so the pool has no workers",
            raised,
            found=failures.described(raised),
            next_step="mend the initializer (its exception is the cause of this one) and make a new pool",
        )

    # Deaths

    def _mourn(self, member: Member) -> None:
        """Hear what a worker that ended had still said, and settle its affairs."""
        member.ended = True
        with self._reader():
            with contextlib.suppress(EOFError, OSError):
                while not member.hung_up and (frames := member.channel.receive()):
                    settled = self._heard(member, frames)
                    del frames
                    _settle(settled)
                    del settled
            _settle(self._heard(member, member.unsent()))
        self._bury(member)
        self.nudge()

    def _bury(self, member: Member) -> None:
        code = self._exit_code(member)
        self._dismiss(member)
        with self._lock:
            begun, rest = member.estate()
            member.forget_name()
        self.ledger.lost(member.leaving)
        self._gone += 1
        self._vacant += not member.leaving
        self._inherit(member, rest)
        for task in member.lost:
            self._bereaved(member, task, code)
        member.lost.clear()
        if begun is not None:
            self._bereaved(member, begun, code)
        elif not member.ready and not member.leaving and not member.doomed and self._broken is None:
            self._early_deaths += 1
            if self._is_hopeless():
                death = exit_codes.explain(code)
                self._break(
                    f"{self._early_deaths} workers died one after the other before they were ready",
                    None,
                    found=f"{member.process.name} (process {member.process.pid}), the last one, ended "
                    f"{death.how}",
                    cause=f"{death.cause}; it happened at the worker's start or in the initializer",
                    next_step=death.next_step,
                )
        with contextlib.suppress(ValueError):  # an exit code that nobody knows
            member.process.close()

    def _is_hopeless(self) -> bool:
        if self._last_ready is None:
            return self._early_deaths >= _EARLY_DEATHS
        return self._early_deaths >= _LATER_DEATHS and time.monotonic() - self._last_ready > _LATER_SECONDS

    def _exit_code(self, member: Member) -> int | None:
        code = member.process.exitcode
        if code is None:
            member.process.join(_PATIENCE)
            code = member.process.exitcode
        return code

    def _dismiss(self, member: Member) -> None:
        assert self._pipes is not None
        with self._lock:
            if member in self._members:
                self._members.remove(member)
            if not member.hung_up:
                self._pipes.remove(member.channel.fileno())
                self._by_pipe.pop(member.channel.fileno(), None)
                member.hung_up = True
            if member.writing:
                self._unwatch(member.channel.out)
            if member.exit >= 0:
                self._unwatch(member.exit)
                if member.exit_is_ours:
                    pipes.close_exit_descriptor(member.exit)
            member.close()
            member.exit = -1

    def _inherit(self, member: Member, rest: list[Task]) -> None:
        """Give to others what a worker that died had not begun."""
        if rest and not member.doomed:
            rest[0].handovers += 1
            if rest[0].handovers > _HANDOVERS:
                self._bereaved(member, rest.pop(0), None)
        with self._lock:
            self._queue.extendleft(reversed(rest))

    def _bereaved(self, member: Member, task: Task, code: int | None) -> None:
        """Decide what becomes of an item whose worker died."""
        index = task.first + task.done
        died = self._broken is None and not self._aborting and member.sentence is None
        if died and task.retries > 0:
            task.retries -= 1
            self.ledger.retried += 1
            with self._lock:
                self._queue.appendleft(task)
            return
        sentence = member.sentence
        error: BaseException
        if self._broken is not None:
            error, outcome = self._broken(), "died"
        elif self._aborting:
            error, outcome = _interrupted(task.label), "died"
        elif sentence is not None:
            error = sentence()
            outcome = "timeout" if isinstance(error, TimeoutError) else "cancelled"
        else:
            error, outcome = _died(member, task.label, code), "died"
        self.ledger.over(task, time.monotonic_ns(), member.name, member.pid, outcome, since=member.since)
        if outcome == "cancelled":
            task.sink.cancel_items(index, task.left)
        else:
            task.sink.put(index, [Raised(error)] * task.left)
        task.release()

    # The hard ways to end

    def _kill(self, member: Member) -> None:
        if not member.killed:
            member.killed = True
            with contextlib.suppress(OSError, ValueError, AttributeError):
                member.process.kill()

    def _kill_all(self) -> None:
        with self._lock:
            for member in self._members:
                member.doomed = True

    def _cancel_queued(self) -> None:
        with self._lock:
            queued, self._queue = list(self._queue), deque()
            for member in self._members:
                queued += member.take_back(member.load)
            for task in self._preparing:
                task.cancelled = True
            self._cancelling = False
        while queued:
            task = queued.pop()
            task.sink.cancel_items(task.first + task.done, task.left)
            self.ledger.cancelled += task.left
            task.release()
        self.nudge()

    def _break(self, message: str, reason: BaseException | None, **details: str | None) -> None:
        """Give the pool up: every task fails, and so does each later `submit`."""

        def error() -> errors.WorkerDied:
            made = errors.WorkerDied(message, **details)
            made.__cause__ = reason
            return made

        with self._lock:
            self._broken = self._broken or error
            lost, self._queue = list(self._queue), deque()
            for member in self._members:
                member.doomed = True
                begun, rest = member.estate()
                lost += rest if begun is None else [begun, *rest]
        self._fail(lost, error)

    def _fail_queued(self, reason: errors.LimitError) -> None:
        """Fail what waits for a worker while none can be started. The next `submit` tries it again."""

        def error() -> BaseException:
            made = copy.copy(reason)
            made.add_note("So the pool could start no worker process. It tries again for the next call.")
            return made

        with self._lock:
            lost, self._queue = list(self._queue), deque()
            self._vacant = 0
        self._fail(lost, error)

    def _fail(self, tasks: list[Task], error: Callable[[], BaseException]) -> None:
        """Give an error of its own to each item of these tasks."""
        for task in tasks:
            self.ledger.failed += task.left
            task.sink.begin()
            task.sink.put(task.first + task.done, [Raised(error()) for _ in range(task.left)])
            task.release()
        self.nudge()

    # In a fork of this process

    def close_copy(self) -> None:
        """Close this process's copies of the descriptors that belong to its parent."""
        self._copied = True
        self._lock = threading.RLock()  # some other thread may have held it, and that thread is gone
        self._holds = getattr(self._lock, "_is_owned", self._holds)
        self._arrivals.clear()
        self._callbacks.clear()
        self._manager = 0
        self._copying = threading.Lock()
        self._chosen.clear()
        self._preparing.clear()
        # A callback may have forked, or an argument as it was pickled. Then a thread of ours goes on there,
        # and must neither touch the parent's workers nor wait for them.
        members, self._members = self._members, []
        self._queue.clear()
        self._by_pipe.clear()
        self._handlers.clear()
        self._reading.clear()
        for member in members:
            member.disown(self._refuse)
            if member.exit_is_ours and member.exit >= 0:
                with contextlib.suppress(OSError):
                    pipes.close_exit_descriptor(member.exit)
                member.exit = -1
        self._close_all()
        self.store.close_copy()


_NOTHING = Setup({}, None, ())

# In place of an outcome that its worker took along when it died.
_LOST: Any = object()

# As plain numbers, which compare in a third of the time of members of an enum.
_RESULT, _ERROR, _RESULTS = int(Kind.RESULT), int(Kind.ERROR), int(Kind.RESULTS)
_ANSWERS = frozenset((_RESULT, _ERROR, _RESULTS))


def _settle(settled: list[tuple[Sink, int, list[Any]]]) -> None:
    """Give the outcomes to those who wait for them; to the last one, whatever the callback of one raises."""
    raised: BaseException | None = None
    while settled:
        sink, index, outcomes = settled.pop(0)
        try:
            sink.put(index, outcomes)
        except BaseException as error:
            raised = raised or error
        del sink, outcomes
    if raised is not None:
        raise raised


_TEXT = frozenset((str, bytes))


def _fits_row(values: Iterable[Any], calls: Sequence[tuple[Any, ...]] | None = None) -> bool:
    """Whether these are numbers and short text, of which many can be sent in one message.

    They are also those of `calls`, where these are given, and can be gone through once only.
    """
    try:
        kinds = set(map(type, values))
    except Exception:  # the hash of a class is its metaclass's
        return False
    if not are_scalars(kinds):
        return False
    if kinds.isdisjoint(_TEXT):
        return True
    again = values if calls is None else itertools.chain.from_iterable(calls)
    return all(len(value) <= LONG_TEXT for value in again if type(value) in _TEXT)


def _is_large(task: Task) -> bool:
    """Whether the arguments of a task are still to be copied."""
    return task.pickled is not None and not task.pickled.sendable


def _shared_bytes(value: Any) -> int:
    """Return how many bytes of a result are shared arrays, as far as that is easy to see.

    No method of the value is called, for this happens under the engine's lock.
    """
    kind = type(value)
    if issubclass(kind, np.ndarray):
        value = (value,)
    elif kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return 0
    arrays = [part for part in value if issubclass(type(part), np.ndarray)]
    return sum([_size_of.__get__(array) for array in arrays if _is_shared(array)])


_size_of: Any = np.ndarray.__dict__["nbytes"]
_base_of: Any = np.ndarray.__dict__["base"]


def _is_shared(array: np.ndarray[Any, Any]) -> bool:
    return mapping_of(_base_of.__get__(array)) is not None


def _due(task: Task, since: float) -> list[float]:
    """Return when a task that began at a time has to be over."""
    times = [] if task.deadline is None else [task.deadline]
    if task.limit is not None:
        times.append(since + task.limit)
    return times


def _unsendable(label: str, reason: BaseException) -> errors.NotPicklableError:
    error = errors.NotPicklableError(
        f"the call of {label} cannot be sent to a worker",
        name=label,
        found=failures.described(reason),
        expected="a function and arguments that pickle or cloudpickle can write",
        cause="open files, locks, sockets, generators and the like belong to one process",
        next_step="open such things in the function itself, or in an initializer of the pool",
    )
    error.__cause__ = reason
    return error


def _died(member: Member, label: str, code: int | None) -> errors.WorkerDied:
    death = exit_codes.explain(code)
    return errors.WorkerDied(
        f"the worker that ran {label} died",
        name=label,
        found=f"{member.process.name} (process {member.process.pid}) ended {death.how}",
        expected="a result or an exception",
        cause=death.cause,
        next_step=f"{death.next_step}; the pool goes on with a new worker, and Pool(retries=1) would have "
        "run the task again",
    )


def _interrupted(label: str) -> errors.WorkerDied:
    return errors.WorkerDied(
        f"the worker that ran {label} was ended with its pool",
        name=label,
        cause="the pool was interrupted (Ctrl-C, or an exit out of its with block)",
    )


def _cancelled() -> CancelledError:
    return CancelledError()


def _timed_out(task: Task) -> Callable[[], TimeoutError]:
    label, limit = task.label, task.limit

    def made() -> TimeoutError:
        allowed = "the time for the call" if limit is None else f"{limit:g} s"
        return TimeoutError(f"{label} was not done within {allowed}; its worker was ended and replaced")

    return made


# The end of the interpreter, and forks. These three names are the only state of this module.

_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()
_exiting = False
_finalized = 0  # the process in which multiprocessing ends the pools


def _all_engines() -> list[Engine]:
    """Return those that are there, in one step beside threads that make others."""
    found = [reference() for reference in _engines.valuerefs()]
    return [engine for engine in found if engine is not None]


def _at_exit() -> None:
    """Finish what was submitted, as an executor does; at once where Ctrl-C is what ends the program."""
    global _exiting
    _exiting = True
    engines = _all_engines()
    try:
        _end(engines, abort=_ended_by_interrupt())
    except BaseException:  # Ctrl-C, by somebody who did not want to wait
        _end(engines, abort=True)
        raise


def _end_with_process() -> None:
    """End the pools of a process that multiprocessing has started before it waits for their workers.

    In such a process that comes before the threads are joined.
    """
    global _finalized
    if _finalized != os.getpid():
        _finalized = os.getpid()
        util.Finalize(None, _at_exit, exitpriority=_FIRST)


def _end(engines: Iterable[Engine], *, abort: bool) -> None:
    for engine in engines:
        if abort:
            engine.abort()
        else:
            engine.shutdown(wait=False, cancel=False)
    for engine in engines:
        engine.join()


def _ended_by_interrupt() -> bool:
    if hasattr(sys, "ps1"):  # a session: what was interrupted there was some earlier statement
        return False
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return isinstance(last, KeyboardInterrupt)


def _in_fork() -> None:
    global _exiting
    _exiting = False
    for engine in _all_engines():
        engine.close_copy()
    _engines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_fork)

# Where threads are joined at the end, which is before atexit's functions run: a future that some
# other thread waits for is settled before that thread is waited for.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
