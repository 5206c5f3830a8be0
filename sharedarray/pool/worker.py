"""The worker's side: what runs in each process of a pool.

One thread reads frames, runs what they ask for, answers, and reads again (`messages` has the drawing). Before
each item it takes a credit (`credits`); if there is none, the pool has revoked all that is left.

What it must never do is hold on to a task when it is done: the pool promises that memory is free within a
second of the caller's last reference, and an idle worker that still had the last arguments, the last result
or a traceback with their frames in some variable would break that. So each step is a function of its own,
whose variables end with it; exceptions are sent as text and stripped of their frames; and where a task that
had shared arrays left reference cycles behind, they are collected as soon as the worker is idle.

A second thread waits for the death of the parent, and of nothing else: a worker in the middle of a long task
would not notice until its end. It blocks in one call to the kernel and ends the process at once.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import mmap
import os
import select
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, current_process, parent_process
from multiprocessing.connection import wait
from typing import Any, NoReturn

from sharedarray import errors, janitor, reloads
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.pool import functions, outbox
from sharedarray.pool.attachments import Attachments
from sharedarray.pool.codec import failures
from sharedarray.pool.codec.arrays import contiguous
from sharedarray.pool.codec.call import function_named, load_call, single_array
from sharedarray.pool.codec.pickled import Pickled
from sharedarray.pool.codec.pickler import dumps, loads
from sharedarray.pool.codec.result import dump_result
from sharedarray.pool.processes import copies, seeds, threads
from sharedarray.pool.processes.credits import Credits
from sharedarray.pool.transport.channel import Channel
from sharedarray.pool.transport.mappings import SlotMappings
from sharedarray.pool.transport.memory import length_of, offsets
from sharedarray.pool.transport.messages import (
    AFRESH,
    HEADER,
    HOLDS,
    LAZY,
    OF_CALL,
    PARTS,
    PLAIN,
    ROOM,
    SHARES,
    STREAM,
    Buffer,
    Entry,
    Frame,
    Kind,
)
from sharedarray.pool.transport.pipes import PIPES, PipeEnd
from sharedarray.pool.transport.spin import SpinWait
from sharedarray.reference import FORMAT
from sharedarray.thresholds import HELD_BACK

monotonic_ns = time.monotonic_ns

__all__ = ["ENDS_WITHIN", "Ends", "Setup", "main"]

# Seconds that a worker may take to end when the pool has stopped it. The end of threads and executors that
# tasks have left takes some 10 ms where they are idle; shutting the pool down waits for it.
ENDS_WITHIN = 5.0

# Seconds without a message after which a worker counts as idle and may take the time to collect cycles.
# Long enough to not do it between the tasks of one call, short enough for the promise of one second.
_IDLE = 0.1
# Seconds that a worker looks for the next message before it sleeps.
_LOOK = 200e-6

# What a worker that lost its parent ends with; nobody is there to read it.
_ORPHANED = 1

# Results that many can be sent of in one message, if they are shorter than `HELD_BACK`.
_SMALL = frozenset((type(None), bool, int, float, complex))
_TEXT = frozenset((str, bytes))
_marshalled = marshal.dumps
# As plain numbers, which compare in a third of the time of members of an enum.
_TASK, _RUN, _RESULT = int(Kind.TASK), int(Kind.RUN), int(Kind.RESULT)
_CALLS = frozenset((_TASK, _RUN))
_pack = HEADER.pack
# Calls with one shared array that are known again.
_CALLS_KNOWN = 256
# Flags of a small call that came alone.
_SHORT_WAY = frozenset((PLAIN, PLAIN | SHARES))
# Nanoseconds that a small answer is held back, to send many at a time: to a call of its own; to an item of a
# row, after which others come anyway; to one of a row where nobody waits for each.
_WINDOW, _ROW_WINDOW, _LAZY_WINDOW = 50_000, 500_000, 20_000_000
# Seconds after which a second thread sends what is held back, since the item that came next turned out to be
# a slow one; seconds without small answers after which that thread goes to sleep.
_TOO_LONG = 0.004
_QUIET = 0.1


@dataclass(slots=True)
class Ends:
    """What a worker is given of what joins it to its pool.

    Attributes
    ----------
    reader, writer
        Ends of the two pipes.
    credits
        How many items it has been given and has not begun.
    pool
        The process id of the pool.
    outbox
        The file of the worker's `outbox`, by the pool's handle.
    look
        Whether there are processors enough to look for a message before going to sleep.
    """

    reader: PipeEnd
    writer: PipeEnd
    credits: Credits
    pool: int
    outbox: int
    look: bool


@dataclass(slots=True)
class Setup:
    """What a worker is told at its start.

    Attributes
    ----------
    threads
        Environment variables that say how many threads numeric libraries may use.
    initializer, initargs
        Called once, before the first task.
    preload
        Modules that a fork server loads before it starts workers.
    """

    threads: dict[str, str]
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    preload: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # By our own pickler, within the one that starts the process: so functions of the main module work,
        # and so do locks and queues of multiprocessing, which can be handed over at this moment only.
        if self.initializer is None:
            return Setup, (self.threads, None, ())
        pickled = dumps((self.initializer, self.initargs))
        return PackedSetup, (
            self.threads,
            bytes(pickled.stream),
            [bytearray(piece) for piece in pickled.pieces()],
        )


@dataclass(slots=True)
class PackedSetup:
    """A `Setup` on its way; unpacked late, so that a failure can be reported."""

    threads: dict[str, str]
    stream: bytes
    buffers: list[bytearray]


# Whether this process is a fork of a worker, and not the worker. One that serves a pool of its own is not.
_is_copy = False


def main(ends: Ends, setup: Setup | PackedSetup, inherited: functions.Inherited | None) -> None:
    """Serve a pool until it says STOP; ``inherited`` is None in a worker that was not forked from it."""
    global _is_copy
    _is_copy = False
    janitor.silent = True
    functions.begin_worker(inherited)
    _name_warnings()
    channel = Channel(ends.reader, ends.writer, blocking=True)
    _close_in_forks(channel)
    _watch_parent(channel)
    try:
        box = _box(ends)
        if _prepare(channel, setup):
            del setup
            _Worker(channel, ends, box).serve()
    except (EOFError, ConnectionError):
        os._exit(_ORPHANED)  # the pool is gone: there is nobody left for whom to end in order
    _end()


# Before the first task


def _name_warnings() -> None:
    """Have each warning begin with the name of this process, as logging's records have it."""
    plain, name = warnings.formatwarning, current_process().name

    def named(*about: Any, **more: Any) -> str:
        return f"{name}: {plain(*about, **more)}"

    warnings.formatwarning = named


def _close_in_forks(channel: Channel) -> None:
    """Ensure that a process which a task forks neither keeps this worker's pipes open nor writes to them."""

    def close() -> None:
        global _is_copy
        _is_copy = True
        channel.close(_end_copy)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)


def _end_copy(*_: object) -> NoReturn:
    """End a fork of this worker that has come as far as to read from the pool or to write to it."""
    copies.end_copy()


def _watch_parent(channel: Channel) -> None:
    """End this process as soon as the parent is gone, whatever the main thread is doing."""
    parent = parent_process()
    if not PIPES:
        if parent is not None:
            _watch(partial(wait, [parent.sentinel]))
        return
    poll = select.poll()
    poll.register(channel.out, 0)  # nothing but the other end's being closed
    if parent is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll.register(parent.sentinel, select.POLLIN)
        if hasattr(os, "pidfd_open") and parent.pid is not None:
            # The pipe behind the sentinel is also open in processes that the parent forks; this one is exact.
            with contextlib.suppress(OSError):
                poll.register(platform.opened(os.pidfd_open, parent.pid), select.POLLIN)

    _watch(poll.poll)


def _watch(gone: Callable[[], object]) -> None:
    def watch() -> None:
        gone()
        os._exit(_ORPHANED)

    threading.Thread(target=watch, name="sharedarray-parent-watch", daemon=True).start()


def _box(ends: Ends) -> mmap.mmap | None:
    try:
        return outbox.opened(ends.outbox, ends.pool)
    except OSError:
        if platform.process_started(ends.pool) is None:
            raise EOFError from None
        return None


def _prepare(channel: Channel, setup: Setup | PackedSetup) -> bool:
    """Limit threads, seed random numbers, run the initializer; tell the pool, and return if it went well."""
    try:
        threads.limit(setup.threads)
        seeds.reseed()
        if isinstance(setup, PackedSetup):
            initializer, initargs = loads(setup.stream, setup.buffers)
        else:
            initializer, initargs = setup.initializer, setup.initargs
        if initializer is not None:
            initializer(*initargs)
        functions.release()
    except BaseException as raised:
        if _is_copy:
            copies.end_copy(raised)
        refusal = failures.pack(raised, raised.__traceback__)
        pieces = refusal.pieces()
        entries = [Entry(0, 0, 0, 0, 0, len(piece)) for piece in pieces]
        channel.send(Kind.REFUSED, stream=refusal.stream, entries=entries, inline=pieces)
        return False
    channel.send(Kind.READY)
    return True


# After the last task


def _end() -> None:
    """End the threads and executors that tasks have left, as a program does at its end.

    multiprocessing waits for the children of a process first, and tells executors to end theirs only after
    that, which would take for ever. What does not end in `ENDS_WITHIN` seconds is given up.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(RuntimeError):  # no more threads: the pool kills this process if need be
        threading.Thread(target=_end_late, name="sharedarray-end", daemon=True).start()
    getattr(threading, "_shutdown", int)()


def _end_late() -> None:
    """End this process if it is still there after some time, with the processes that it would wait for."""
    time.sleep(ENDS_WITHIN)
    for child in active_children():
        with contextlib.suppress(Exception):
            child.terminate()
    os._exit(0)


# Tasks


class _Item:
    """One item to be done, or a row of them: what came for it, until it is loaded."""

    __slots__ = ("args", "entries", "flags", "function", "inline", "number", "stream")

    def __init__(self, frame: Frame) -> None:
        self.number = frame.task
        self.flags = frame.flags
        self.function = frame.item  # the number of its call, if it is of one
        self.stream: Buffer = frame.stream
        self.entries = frame.entries
        self.inline = frame.inline
        self.args: list[tuple[Any, ...]] = []  # of a row


class _Function:
    """The function of a call: loaded, or to be loaded for each item."""

    __slots__ = ("frame", "keeps", "loaded", "version")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.loaded: Any = None
        self.version = -1  # of what had arrived when it was loaded
        self.keeps = not frame.flags & (AFRESH | SHARES)


class _EndsCopy:
    """In place of a lock in a fork of the worker."""

    def __enter__(self) -> None:
        copies.end_copy()

    def __exit__(self, *_: object) -> None:
        pass


class _Answers:
    """Answers on their way to the pool: small ones together, so long as none waits for a slow item.

    What is held back is in the worker's outbox, where its death does not lose it. A second thread, which
    sleeps while there is nothing to look after, sends it when the main thread is at something else for too
    long. (It cannot while native code keeps the interpreter to itself.)

    Parameters
    ----------
    channel
        To the pool. All that is written to it goes through here.
    box
        The outbox; None where there is none, and everything is sent at once.
    """

    def __init__(self, channel: Channel, box: mmap.mmap | None) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        # For what is done for each item: a with statement takes more than twice as long.
        self._acquire: Callable[[], bool] = self._lock.acquire
        self._release: Callable[[], None] = self._lock.release
        head = outbox.HEAD.size
        memory = memoryview(bytearray(outbox.SIZE) if box is None else box)
        self._words = memory[:head].cast("Q")  # length, row, index, sent
        self._space = memory[head:]
        self._size = len(self._space)
        self._length = 0
        self._row = self._rows_items = self._index = self._count = 0
        self._window = 0
        self._began = self._ended = 0
        self._since = 0
        self._holds = box is not None
        self._keeper: threading.Thread | None = None
        self._awake = False
        self._work = threading.Semaphore(0)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._refuse)

    def _refuse(self) -> None:
        """End a fork of this worker that answers: the outbox is the worker's."""
        self._acquire = _end_copy
        self._lock = _EndsCopy()  # type: ignore[assignment]

    def of_row(self, row: int, items: int, *, lazy: bool) -> None:
        """Say that what is added from now on are results of a row of so many items."""
        with self._lock:
            self._write()
            self._row, self._rows_items = row, items
            self._window = (_LAZY_WINDOW if lazy else _ROW_WINDOW) if self._holds else -1

    def add(self, value: Any, behind: int, began: int, ended: int) -> None:
        """Send, soon, the result of an item of a row: a number or a short text.

        Parameters
        ----------
        value
            The result.
        behind
            How many items of the row come after it.
        began, ended
            When it was computed.
        """
        data = _marshalled(value, FORMAT)
        self._acquire()
        try:
            start = self._length
            end = start + len(data)
            if end > self._size or not self._count:
                self._write()
                start, end = 0, len(data)
                if end > self._size:  # an integer of thousands of digits
                    self._send_row(self._rows_items - behind - 1, 1, data, began, ended)
                    return
                self._words[1] = self._row
                self._words[2] = self._index = self._rows_items - behind - 1
                self._began = self._since = began
                if not self._awake and self._holds:
                    self._wake()
            self._space[start:end] = data
            self._words[0] = self._length = end
            self._count += 1
            self._ended = ended
        finally:
            self._release()
        if ended - self._since > self._window:
            self.flush()

    def later(self, kind: Kind, flags: int, number: int, began: int, ended: int, stream: Buffer) -> None:
        """Send, soon, a small answer."""
        data = HEADER.pack(kind, flags, 0, 0, number, len(stream), began, ended) + stream
        with self._lock:
            end = self._length + len(data)
            if end > self._size or self._count:
                self._write()
                end = len(data)
            self._words[1] = 0
            self._space[self._length : end] = data
            self._words[0] = self._length = end
        if not self._since:
            self._since = began
            if not self._awake and self._holds:
                self._wake()
        if not self._holds or ended - self._since > _WINDOW:
            self.flush()

    def one(self, number: int, began: int, ended: int, stream: bytes) -> None:
        """Send the small result of a call now: `send` in the short way."""
        head = _pack(_RESULT, PLAIN, 0, 0, number, len(stream), began, ended)
        with self._lock:
            if self._length:
                self._write()
            self._channel.write(head + stream)

    def flush(self) -> None:
        """Send what is held back."""
        if self._since:
            with self._lock:
                self._write()

    def _write(self) -> None:
        self._since = 0
        if not self._length:
            return
        if self._count:
            count, self._count = self._count, 0
            self._send_row(self._index, count, self._space[: self._length], self._began, self._ended)
        else:
            self._channel.write(bytes(self._space[: self._length]))
        self._words[3] += 1
        self._words[0] = self._length = 0

    def _send_row(self, index: int, count: int, data: bytes | memoryview, began: int, ended: int) -> None:
        """Send so many results of the row, from ``index`` on."""
        stream = outbox.row_of(index, count, data)
        head = HEADER.pack(Kind.RESULTS, 0, 0, count, self._row, len(stream), began, ended)
        self._channel.write(head + stream)

    def send(
        self,
        kind: Kind,
        flags: int = 0,
        item: int = 0,
        task: int = 0,
        began: int = 0,
        ended: int = 0,
        stream: Buffer = b"",
        entries: Sequence[Entry] = (),
        inline: Sequence[Buffer] = (),
    ) -> None:
        """Send a frame now, after what is held back."""
        with self._lock:
            if self._length:
                self._write()
            if entries:
                self._channel.send(kind, flags, item, task, began, ended, stream, entries, inline)
            else:
                head = HEADER.pack(kind, flags, 0, item, task, len(stream), began, ended)
                self._channel.write(head + stream)

    def _wake(self) -> None:
        self._awake = True
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="sharedarray-answers", daemon=True)
            self._keeper.start()
        self._work.release()

    def _keep(self) -> None:
        """Send what has been held back for too long."""
        while True:
            self._work.acquire()
            quiet = time.monotonic()
            while time.monotonic() - quiet < _QUIET:
                seen = self._since
                time.sleep(_TOO_LONG)
                if seen:
                    quiet = time.monotonic()
                    with self._lock:
                        lazy = self._count and monotonic_ns() - seen < self._window
                        if self._since == seen and not lazy:
                            self._write()
            self._awake = False


class _Worker:
    """Does what the pool says.

    Parameters
    ----------
    channel
        To the pool.
    ends
        What came with it.
    box
        The outbox.
    """

    def __init__(self, channel: Channel, ends: Ends, box: mmap.mmap | None) -> None:
        self._channel = channel
        self._claim = ends.credits.acquire
        self._unclaimed = ends.credits.get_value
        self._slots = SlotMappings(ends.pool)
        self._todo: deque[_Item] = deque()
        self._functions: dict[int, _Function] = {}
        self._held: dict[int, deque[object]] = {}
        self._attachments = Attachments()
        self._view = self._attachments.kept.view
        self._singles: dict[bytes, tuple[str | None, str, bytes]] = {}
        self._granted: Entry | None = None
        self._asking = False
        self._answers = _Answers(channel, box)
        self._glance = SpinWait(_LOOK if ends.look else 0)
        self._tidy = True
        self._stopped = False

    def serve(self) -> None:
        """Do everything until the pool says STOP."""
        todo, answers, glance = self._todo, self._answers, self._glance
        while not self._stopped:
            if todo:
                if self._held:
                    self._read_what_is_there()
                self._next()
            else:
                answers.flush()
                began = time.perf_counter()
                self._wait()
                frames = self._channel.receive()
                glance.waited(time.perf_counter() - began)
                if len(frames) == 1 and frames[0].kind == _TASK and frames[0].flags in _SHORT_WAY:
                    self._small(frames.pop())
                    continue
                while frames:
                    self._told(frames.pop(0))

    # Reading

    def _wait(self) -> None:
        """Wait for a message; tidy up when there is none for a while."""
        if self._channel.look(self._glance):
            return
        if not self._tidy and not self._channel.poll(_IDLE):
            gc.collect()
            self._attachments.settle()
            self._tidy = True

    def _read_what_is_there(self) -> None:
        while not self._stopped and self._channel.poll(0):
            self._read()

    def _read(self) -> None:
        """Read what there is, or wait for it: at least a part of a frame."""
        for frame in self._channel.receive():
            self._told(frame)

    def _told(self, frame: Frame) -> None:
        kind = frame.kind
        if kind in _CALLS:
            item = _Item(frame)
            if kind == _RUN:
                item.args = marshal.loads(frame.stream)
                item.args.reverse()
                item.function = frame.began
            self._todo.append(item)
            if frame.flags & SHARES:
                self._tidy = False
        elif kind == Kind.CALL:
            self._functions[frame.task] = _Function(frame)
        elif kind == Kind.TAKEN:
            values = self._held[frame.task]
            values.popleft()
            if not values:
                del self._held[frame.task]
            self._attachments.settle()
            self._tidy = False
        elif kind == Kind.OVER:
            self._functions.pop(frame.task, None)
            self._tidy = False
        elif kind == Kind.RETIRED:
            self._slots.forget(loads(frame.stream))
        elif kind == Kind.LEFT:
            self._attachments.left(loads(frame.stream))
        elif kind == Kind.RELOAD:
            reloads.apply(*loads(frame.stream))
        elif kind == Kind.GRANT:
            self._granted = frame.entries[0] if frame.entries else None
            self._asking = False
        elif kind == Kind.STOP:
            self._stopped = True

    # Doing

    def _next(self) -> None:
        """Do the next item, or a whole row of them."""
        item = self._todo[0]
        if item.args:
            self._row(item)
        elif self._claim(False):
            self._todo.popleft()
            self._answer(item)
        else:
            self._drop()

    def _drop(self) -> None:
        """Give up what the pool has taken back, which is all that is left."""
        count = sum([max(1, len(item.args)) for item in self._todo])
        self._todo.clear()
        self._answers.send(Kind.DROPPED, item=count)

    def _row(self, row: _Item) -> None:
        """Do the items of a row one after the other: the quick way, for small results of small arguments."""
        self._granted = None  # what a task before did not need is the pool's again
        number, args, claim, answers = row.number, row.args, self._claim, self._answers
        function: Any = None
        again = False
        known = self._functions.get(row.function)
        function_shares = known is not None and known.frame.flags & SHARES
        attachments = self._attachments if function_shares or self._attachments.kept.attached else None
        answers.of_row(number, len(args), lazy=bool(row.flags & LAZY))
        ended = monotonic_ns()
        while args:
            if self._held:
                self._read_what_is_there()
            if not claim(False):
                self._drop()
                return
            began, left = ended, len(args) - 1
            if attachments is not None:
                attachments.begin()
            try:
                if function is None or again:
                    function = self._function(row.function)
                    again = self._again(row.function)
                value = function(*args.pop())
            except BaseException as raised:
                del args[left:]  # its own are still there if the function could not be loaded
                self._attachments.end()
                if function_shares:
                    function = None
                    functions.release()
                outcome = _failed(raised)
            else:
                if attachments is not None:
                    attachments.end()
                ended = monotonic_ns()
                if function_shares and (not args or not self._left()):
                    function = None  # before the last answer: what it refers to is free when that is there
                    functions.release()
                    self._attachments.settle()
                kind = type(value)
                try:
                    small = kind in _SMALL or (kind in _TEXT and len(value) < HELD_BACK)
                except BaseException:  # the hash of a class is its metaclass's
                    small = False
                if small:
                    if not args:
                        self._todo.popleft()
                    answers.add(value, len(args), began, ended)
                    continue
                outcome = _packed(value)
                del value
            if not args:
                self._todo.popleft()
            self._send(number, began, outcome)
            del outcome
            ended = monotonic_ns()
        answers.flush()

    def _left(self) -> bool:
        """Say whether there is anything that the pool has not taken back, as far as that can be known."""
        try:
            return self._unclaimed() > 0
        except NotImplementedError:  # macOS
            return True

    def _again(self, number: int) -> bool:
        known = self._functions.get(number)
        return known is None or bool(known.frame.flags & AFRESH)

    def _function(self, number: int) -> Any:
        """Return the function of a call: the same one for all items, unless it brings data along.

        One that refers to shared arrays is loaded for each row of items, so that it does not keep them.
        """
        known = self._functions[number]
        if known.version == functions.version():
            return known.loaded
        frame = known.frame
        known.loaded = None
        stream, buffers = self._buffers(frame.stream, frame.entries, frame.inline, copy=True)
        with self._attachments.kept:
            loaded = loads(stream, buffers)
        del stream, buffers
        self._lock_views()  # the function may be used for longer than a task
        if known.keeps:
            known.loaded, known.version = loaded, functions.version()
        return loaded

    def _small(self, frame: Frame) -> None:
        """Do a call that came alone and small: what `_next` does with an item, in the short way."""
        if frame.entries or self._held or not self._claim(False):
            self._todo.append(_Item(frame))
            return
        began = monotonic_ns()
        self._granted = None
        self._attachments.begin()
        try:
            value: Any = self._called(frame.stream, frame.flags)
        except BaseException as raised:
            outcome = _failed(raised)
        else:
            try:
                small = type(value) in _SMALL
            except BaseException:  # as in `_row`
                small = False
            if small:
                self._attachments.settle()
                stream = _marshalled(value, FORMAT)
                self._answers.one(frame.task, began, monotonic_ns(), stream)
                return
            outcome = _packed(value)
            del value
        self._send(frame.task, began, outcome)

    def _called(self, stream: Buffer, flags: int) -> object:
        if flags & SHARES:
            self._tidy = False
            stream = bytes(stream)
            single = self._singles.get(stream) or self._single(stream)
            if single is not None:
                return function_named(single[0], single[1])(self._view(single[2]))
            function, args, kwargs = load_call(stream, (), PLAIN, self._view)
        else:
            function, args, kwargs = load_call(stream, (), PLAIN)
        return function(*args, **kwargs)

    def _single(self, stream: bytes) -> tuple[str | None, str, bytes] | None:
        """Do as `single_array`, and remember what was found, for such calls come again."""
        found = single_array(stream)
        if found is not None:
            if len(self._singles) >= _CALLS_KNOWN:
                self._singles.clear()
            self._singles[stream] = found
        return found

    def _answer(self, item: _Item) -> None:
        """Do one item and send what came of it."""
        began = monotonic_ns()
        number = item.number
        self._granted = None
        if item.entries:
            self._granted = next((entry for entry in item.entries if entry.flags & ROOM), None)
        box = [item]
        del item
        self._send(number, began, self._outcome(box))

    def _outcome(self, box: list[_Item]) -> _Outcome:
        self._attachments.begin()
        try:
            value = self._call(box)
        except BaseException as raised:
            return _failed(raised)
        finally:
            self._attachments.end()
            functions.release()
        return _packed(value)

    def _call(self, box: list[_Item]) -> object:
        function, args, kwargs = self._load(box.pop())
        return function(*args, **kwargs)

    def _load(self, item: _Item) -> tuple[Any, Sequence[Any], dict[str, Any]]:
        if item.flags == PLAIN and not item.entries:
            return load_call(item.stream, (), PLAIN)
        stream, buffers = self._buffers(item.stream, item.entries, item.inline)
        layout = item.flags & (PARTS | PLAIN)
        if item.flags & SHARES:
            with self._attachments.kept:
                function, args, kwargs = load_call(stream, buffers, layout)
        else:
            function, args, kwargs = load_call(stream, buffers, layout)
        if item.flags & OF_CALL:
            function = self._function(item.function)
        return function, args, kwargs

    def _buffers(
        self, stream: Buffer, entries: Sequence[Entry], inline: Sequence[Buffer], *, copy: bool = False
    ) -> tuple[Buffer, list[Buffer]]:
        """Return the stream and the buffers of a message, wherever they are."""
        if not entries:
            return stream, []
        if copy:
            inline = [bytearray(piece) for piece in inline]
        return self._slots.borrow(stream, entries, inline)

    def _send(self, number: int, began: int, outcome: _Outcome) -> None:
        """Send an answer, and keep what has to live until the pool has it."""
        if _is_copy:
            copies.end_copy()  # it was forked as the answer was pickled
        ended = monotonic_ns()
        self._attachments.settle()
        kind, answer, value = outcome.take()
        flags = answer.layout | HOLDS if answer.blocks else answer.layout
        if answer.sendable:
            self._hold(number, answer, value)
            del value
            self._lock_views()
            if answer.blocks or len(answer.stream) >= HELD_BACK or not self._todo:
                self._answers.send(kind, flags, 0, number, began, ended, answer.stream)
            else:
                self._answers.later(kind, flags, number, began, ended, answer.stream)
            return
        try:
            sources = answer.sources()
            entries, inline = self._place(number, sources)
        except (EOFError, ConnectionError):
            raise
        except Exception as reason:  # no memory for a copy, or a dtype that cannot be copied as bytes
            self._send(number, began, _failed(_unsendable(value, reason)))
            return
        self._hold(number, answer, value)
        stream = answer.stream
        if len(sources) > len(answer.buffers):
            stream = b""
            entries[-1] = entries[-1]._replace(flags=STREAM)
        if not inline:
            del value, answer, sources  # which may be views of the arguments
        self._lock_views()
        self._answers.send(kind, flags, 0, number, began, ended, stream, entries, inline)

    def _lock_views(self) -> None:
        """Lock the slots that tasks still have views of; see `SlotMappings.lock_views`."""
        try:
            self._slots.lock_views()
        except OSError as reason:  # too many files are open; without a lock, the views would change
            sys.stderr.write(
                f"{current_process().name} ends, since it keeps arguments that it cannot lock: {reason}\n"
            )
            os._exit(_ORPHANED)

    def _hold(self, number: int, answer: Pickled, value: object) -> None:
        """Keep a value whose answer refers to shared blocks until the pool has said TAKEN."""
        if answer.blocks:
            self._held.setdefault(number, deque()).append(value)

    def _place(self, number: int, sources: Sequence[Any]) -> tuple[list[Entry], list[Buffer]]:
        """Copy the buffers of an answer into a slot, if there is one to be had."""
        size = offsets(map(length_of, sources))[1]
        room, self._granted = self._granted, None
        if room is None or room.size < size:
            room = self._ask(number, size)
        if room is not None:
            try:
                return self._slots.fill(room, sources), []
            except OSError:
                pass  # no memory: through the pipe, then
        inline = [contiguous(source) for source in sources]
        return [Entry(0, 0, 0, 0, 0, len(piece)) for piece in inline], inline

    def _ask(self, number: int, size: int) -> Entry | None:
        """Ask the pool for a slot; what else it says meanwhile is done later."""
        self._answers.send(Kind.NEED, task=number, began=size)
        self._asking = True
        while self._asking:
            self._read()
        room, self._granted = self._granted, None
        return room


class _Outcome:
    """An answer, and the value that it was made of. It is taken out, so that no other frame refers to it."""

    __slots__ = ("_content",)

    def __init__(self, kind: Kind, answer: Pickled, value: object) -> None:
        self._content = [(kind, answer, value)]

    def take(self) -> tuple[Kind, Pickled, object]:
        """Return what it has, which it has no longer then."""
        return self._content.pop()


def _packed(value: object) -> _Outcome:
    """Return the answer that a value makes."""
    if _is_copy:
        copies.end_copy()
    try:
        return _Outcome(Kind.RESULT, dump_result(value), value)
    except Exception as reason:
        return _failed(_unsendable(value, reason))
    except BaseException as raised:
        return _failed(raised)  # sys.exit() in a method of the value's


def _failed(raised: BaseException) -> _Outcome:
    if _is_copy:
        copies.end_copy(raised)
    answer = failures.pack(raised, _ours(raised))
    failures.forget_frames(raised)
    return _Outcome(Kind.ERROR, answer, raised if answer.shares else None)


def _ours(raised: BaseException) -> Any:
    """Return the last entry of the traceback that is this file's, for what comes before it tells nothing."""
    found, entry = None, failures.traceback_of(raised)
    while entry is not None and entry.tb_frame.f_code.co_filename == __file__:
        found, entry = entry, entry.tb_next
    return found


def _unsendable(result: object, reason: Exception) -> errors.NotPicklableError:
    error = errors.NotPicklableError(
        f"the task returned a {failures.class_of(result)} that cannot be sent back",
        found=failures.described(reason),
        expected="a result that pickle or cloudpickle can write",
        cause="open files, locks, generators and the like belong to one process",
        next_step="return the data that the caller needs from it",
    )
    error.__cause__ = reason
    return error
