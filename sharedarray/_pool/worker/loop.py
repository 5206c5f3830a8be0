"""The loop of a worker: one thread reads messages, runs the calls in them, replies, and reads again.

Before each call the worker takes a credit (`credits`); if there is none, the pool has revoked all calls that
are left.

A finished call must leave no references behind. The pool promises that memory is free within a second of the
caller's last reference, and an idle worker that still had the last arguments, the last result or a traceback
with its frames in some variable would break that. So each step is a function of its own, whose variables end
with it; exceptions are sent as text and stripped of their frames; and if a call that had shared arrays left
reference cycles behind, they are collected as soon as the worker is idle.
"""

from __future__ import annotations

import gc
import marshal
import mmap
import os
import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from multiprocessing import current_process
from typing import Any, Final

from sharedarray import _functions as functions, _reloads as reloads
from sharedarray._clock import time
from sharedarray._pool.codec import failures
from sharedarray._pool.codec.arrays import contiguous
from sharedarray._pool.codec.call import function_named, load_call
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.codec.pickler import loads
from sharedarray._pool.codec.result import dump_result
from sharedarray._pool.processes import copies
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.mappings import SlotMappings
from sharedarray._pool.transport.memory import length_of, offsets
from sharedarray._pool.transport.messages import (
    AFRESH,
    HOLDS,
    LAZY,
    PLAIN,
    RESULT_SLOT,
    SHARES,
    STREAM,
    Buffer,
    Entry,
    Frame,
    Kind,
)
from sharedarray._pool.worker import builtin_names
from sharedarray._pool.worker.attachments import Attachments
from sharedarray._pool.worker.builtin_names import with_builtins
from sharedarray._pool.worker.replies import WINDOW, Replies
from sharedarray._reference import FORMAT
from sharedarray._spin import SpinWait
from sharedarray._thresholds import HELD_BACK

__all__ = ["Loop"]

monotonic_ns = time.monotonic_ns

# Seconds without a message after which a worker counts as idle and may take the time to collect cycles: long
# enough to not do it between the calls of one map, short enough for the promise of one second.
IDLE: Final = 0.1
# Seconds for which a worker polls for the next message before it sleeps.
SPIN: Final = 200e-6

# Folders whose frames, above those of the function, tell a user nothing.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_OURS = tuple(os.path.join(_PACKAGE, folder, "") for folder in ("_pool", "_executor"))

# Results of these types are replied as they are.
_SCALARS = frozenset((type(None), bool, int, float, complex))
_marshal = marshal.dumps
# As plain numbers, which compare in a third of the time of members of an enum.
_CALLS = int(Kind.CALLS)
_WORK = frozenset((_CALLS, int(Kind.TASK)))


class _Definition:
    """A function that the pool has sent: a name, or a pickle that is loaded when it is first called."""

    __slots__ = ("frame", "home", "keeps", "loaded", "quick", "version")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        # Module and name of a function that is imported; looked up for each call, as a program does.
        self.home: tuple[str | None, str] | None = (
            marshal.loads(frame.stream) if frame.flags & PLAIN else None
        )
        self.loaded: Any = None
        self.version = -1  # of the globals when it was loaded
        self.keeps = not frame.flags & (AFRESH | SHARES)
        self.quick = False  # its last call was


class _Calls:
    """Calls of one function, or the one call of a TASK."""

    __slots__ = ("arguments", "entries", "flags", "frame", "function")

    def __init__(self, frame: Frame) -> None:
        kind, self.flags, count, self.function, _, _, stream, self.entries, _ = frame
        self.frame: Frame | None = None
        self.arguments: list[tuple[Any, ...]] = []  # the next ones last
        if kind == _CALLS:
            arguments = self.arguments = marshal.loads(b"[" + count.to_bytes(4, "little") + stream)
            if count > 1:
                arguments.reverse()
        else:
            self.frame = frame


class Loop:
    """Do what the pool asks for.

    Parameters
    ----------
    channel
        To the pool.
    credits
        How many calls this worker was sent and has not begun.
    pool
        The process id of the pool.
    page
        The worker's page of replies, if there is one.
    spins
        Whether there are processors enough to poll for a message before going to sleep.
    """

    def __init__(
        self, channel: Channel, credits: Any, pool: int, page: mmap.mmap | None, *, spins: bool
    ) -> None:
        self._channel = channel
        self._claim = credits.acquire
        self._unclaimed = credits.get_value
        self._slots = SlotMappings(pool)
        self._todo: deque[_Calls] = deque()
        self._definitions: dict[int, _Definition] = {}
        self._held: deque[object] = deque()  # values that the pool has not confirmed
        self._attachments = Attachments()
        self._view = self._attachments.cache.view
        self._granted: Entry | None = None
        self._asking = False
        self._replies = Replies(channel, page)
        self._spinning = SpinWait(SPIN if spins else 0)
        self._tidy = True
        self._stopped = False

    def run(self) -> None:
        """Do everything until the pool sends STOP."""
        builtin_names.begin()
        todo, replies, spinning = self._todo, self._replies, self._spinning
        while not self._stopped:
            if todo:
                if self._held:
                    self._read_available()
                if todo[0].arguments:
                    self._run_calls(todo[0])
                else:
                    self._run_task()
            else:
                replies.flush()
                began = time.perf_counter()
                self._wait()
                frames = self._channel.receive()
                spinning.last = time.perf_counter() - began
                while frames:
                    self._on_message(frames.pop(0))

    # Messages

    def _wait(self) -> None:
        """Wait for a message; tidy up if none comes for a while."""
        if self._channel.spin(self._spinning):
            return
        if not self._tidy and not self._channel.poll(IDLE):
            gc.collect()
            self._attachments.settle()
            self._tidy = True

    def _read_available(self) -> None:
        while not self._stopped and self._channel.poll(0):
            self._read()

    def _read(self) -> None:
        """Read what there is, or wait for it: at least a part of a frame."""
        for frame in self._channel.receive():
            self._on_message(frame)

    def _on_message(self, frame: Frame) -> None:
        kind = frame.kind
        if kind in _WORK:
            if frame.flags & SHARES:
                self._tidy = False
            self._todo.append(_Calls(frame))
        elif kind == Kind.DEFINE:
            self._definitions[frame.task] = _Definition(frame)
        elif kind == Kind.TAKEN:
            self._held.popleft()
            self._attachments.settle()
            self._tidy = False
        elif kind == Kind.FORGET:
            self._definitions.pop(frame.task, None)
            self._tidy = False
        elif kind == Kind.RETIRED:
            self._slots.forget(loads(frame.stream))
        elif kind == Kind.RELEASED:
            self._attachments.released(loads(frame.stream))
        elif kind == Kind.RELOAD:
            reloads.apply(*loads(frame.stream))
        elif kind == Kind.GRANT:
            self._granted = frame.entries[0] if frame.entries else None
            self._asking = False
        elif kind == Kind.STOP:
            self._stopped = True

    # Calls

    def _drop(self) -> None:
        """Drop what the pool has revoked, which is all that is left."""
        count = sum([len(calls.arguments) or 1 for calls in self._todo])
        self._todo.clear()
        self._replies.send(Kind.DROPPED, item=count)

    def _run_calls(self, calls: _Calls) -> None:
        """Run the calls of one message, whose arguments are numbers and text."""
        self._granted = None
        if calls.entries:
            self._grant(calls.entries)
        todo, args, claim, replies = self._todo, calls.arguments, self._claim, self._replies
        definition = self._definitions.get(calls.function)
        flags = 0 if definition is None else definition.frame.flags
        quick = definition is not None and definition.quick
        shares, afresh = flags & SHARES, flags & AFRESH
        attachments = self._attachments if shares or self._attachments.cache.attached else None
        function: Any = None
        outcome: _Outcome | None
        replies.begin(lazy=bool(calls.flags & LAZY), quick=quick)
        ended = monotonic_ns()
        while args:
            if self._held:
                self._read_available()
            if not claim(False):
                self._drop()
                return
            began, after, raises = ended, len(args) - 1, False
            if attachments is not None:
                attachments.begin()
            try:
                if function is None:
                    function = self._function(calls.function)
                value = function(*args.pop())
            except BaseException as raised:
                del args[after:]  # its own are still there if the function could not be loaded
                outcome, raises = _failed(raised), True
            else:
                kind = type(value)
                try:
                    scalar = kind in _SCALARS
                except BaseException:  # the hash of a class is its metaclass's
                    scalar = False
                if not scalar:
                    outcome = _packed(value)
                    del value
                else:
                    outcome = None
            if attachments is not None:
                if args:
                    attachments.end()
                else:
                    attachments.settle()
            if shares and (not args or raises or not self._has_credits()):
                function = None  # before the last reply: what it refers to is free when that is there
                functions.release()
                self._attachments.settle()
            elif afresh:
                function = None
            if not args:
                todo.popleft()
            if outcome is None:
                ended = monotonic_ns()
                replies.add(_marshal(value, FORMAT), began, ended, last=not args and not todo)
            else:
                ended = self._reply(began, outcome, last=not args and not todo)
                outcome = None
        if definition is not None:
            definition.quick = ended - began < WINDOW

    def _has_credits(self) -> bool:
        """Return whether the pool has left this worker any call, as far as that can be known."""
        try:
            return bool(self._unclaimed() > 0)
        except NotImplementedError:  # macOS
            return True

    def _function(self, number: int) -> Any:
        """Return a function: the same one for all calls, unless it brings data along.

        A function that refers to shared arrays is loaded for each message, so that it does not keep them.
        """
        known = self._definitions[number]
        if known.home is not None:
            return function_named(*known.home)
        if known.version == functions.version():
            return known.loaded
        frame = known.frame
        known.loaded = None
        stream, buffers = self._buffers(frame.stream, frame.entries, frame.inline, copy=True)
        with self._attachments.cache:
            loaded = with_builtins(partial(loads, stream, buffers))
        del stream, buffers
        self._lock_views()  # the function may be used for longer than a call
        if known.keeps:
            known.loaded, known.version = loaded, functions.version()
        return loaded

    def _run_task(self) -> None:
        """Run the one call of a message, whose arguments are more than numbers and text."""
        if not self._claim(False):
            self._drop()
            return
        began = monotonic_ns()
        frame = self._todo.popleft().frame
        assert frame is not None
        self._replies.begin(lazy=False, quick=False)
        self._grant(frame.entries)
        box = [frame]
        del frame
        self._reply(began, self._outcome(box), last=not self._todo)

    def _grant(self, entries: Sequence[Entry]) -> None:
        """Note the slot for a result that comes with a call; one that was not needed is the pool's again."""
        self._granted = next((entry for entry in entries if entry.flags & RESULT_SLOT), None)

    def _outcome(self, box: list[Frame]) -> _Outcome:
        self._attachments.begin()
        try:
            value = self._call(box)
        except BaseException as raised:
            return _failed(raised)
        finally:
            self._attachments.end()
            functions.release()
        return _packed(value)

    def _call(self, box: list[Frame]) -> object:
        function, args, kwargs = self._load(box.pop())
        return function(*args, **kwargs)

    def _load(self, frame: Frame) -> tuple[Any, Sequence[Any], dict[str, Any]]:
        """Return the function and the arguments of a TASK. Arguments are loaded first: they set globals."""
        stream, buffers = self._buffers(frame.stream, frame.entries, frame.inline)
        return with_builtins(lambda: self._loaded(frame, stream, buffers))

    def _loaded(
        self, frame: Frame, stream: Buffer, buffers: list[Buffer]
    ) -> tuple[Any, Sequence[Any], dict[str, Any]]:
        layout = frame.flags & PLAIN
        if layout == PLAIN or not frame.flags & SHARES:
            function, args, kwargs = load_call(stream, buffers, layout, self._view)
        else:
            with self._attachments.cache:  # for the references in pickles
                function, args, kwargs = load_call(stream, buffers, layout)
        if frame.task:
            function = self._function(frame.task)
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

    # Outcomes

    def _reply(self, began: int, outcome: _Outcome, *, last: bool) -> int:
        """Send an outcome, and keep what must live until the pool has it; return when it was ready."""
        if copies.is_copy():
            copies.end_copy()  # it was forked as the outcome was pickled
        ended = monotonic_ns()
        self._attachments.settle()
        kind, answer, value = outcome.take()
        flags = answer.layout | HOLDS if answer.blocks else answer.layout
        if answer.sendable:
            self._hold(answer, value)
            del value
            self._lock_views()
            if answer.blocks or len(answer.stream) >= HELD_BACK:
                self._replies.send_outcome(kind, flags, began, ended, answer.stream)
            else:
                self._replies.add(_small(kind, answer), began, ended, last=last)
            return ended
        try:
            sources = answer.sources()
            entries, inline = self._place(sources)
        except (EOFError, ConnectionError):
            raise
        except Exception as reason:  # no memory for a copy, or a dtype that cannot be copied as bytes
            return self._reply(began, _failed(failures.unreturnable(value, reason)), last=last)
        self._hold(answer, value)
        stream = answer.stream
        if len(sources) > len(answer.buffers):
            stream = b""
            entries[-1] = entries[-1]._replace(flags=STREAM)
        if not inline:
            del value, answer, sources  # which may be views of the arguments
        self._lock_views()
        self._replies.send_outcome(kind, flags, began, ended, stream, entries, inline)
        return monotonic_ns()

    def _lock_views(self) -> None:
        """Lock the slots that calls still have views of; see `SlotMappings.lock_views`."""
        try:
            self._slots.lock_views()
        except OSError as reason:  # too many files are open; without a lock, the views would change
            sys.stderr.write(
                f"{current_process().name} ends, since it keeps arguments that it cannot lock: {reason}\n"
            )
            os._exit(1)

    def _hold(self, answer: Pickled, value: object) -> None:
        """Keep a value whose outcome refers to shared blocks until the pool has sent TAKEN."""
        if answer.blocks:
            self._held.append(value)

    def _place(self, sources: Sequence[Any]) -> tuple[list[Entry], list[Buffer]]:
        """Copy the buffers of an outcome into a slot, if there is one."""
        lengths = [length_of(source) for source in sources]
        starts, size = offsets(lengths)
        slot, self._granted = self._granted, None
        if slot is None or slot.size < size:
            slot = self._ask(size)
        if slot is not None:
            try:
                return self._slots.fill(slot, sources, lengths, starts), []
            except OSError:
                pass  # no memory: through the pipe, then
        inline = [contiguous(source) for source in sources]
        return [Entry(0, 0, 0, 0, 0, len(piece)) for piece in inline], inline

    def _ask(self, size: int) -> Entry | None:
        """Ask the pool for a slot; messages that arrive meanwhile are handled, and calls wait."""
        self._replies.send(Kind.NEED, began=size)
        self._asking = True
        while self._asking:
            self._read()
        slot, self._granted = self._granted, None
        return slot


def _small(kind: Kind, answer: Pickled) -> bytes:
    """Return a small outcome as `messages` describes it."""
    if answer.layout & PLAIN and kind == Kind.RESULT:
        return bytes(answer.stream)
    stream = bytes(answer.stream)
    return _marshal((stream, True) if kind == Kind.ERROR else (stream,), FORMAT)


class _Outcome:
    """A reply, and the value that it was made of. It is taken out, so no other frame refers to it."""

    __slots__ = ("_content",)

    def __init__(self, kind: Kind, answer: Pickled, value: object) -> None:
        self._content = [(kind, answer, value)]

    def take(self) -> tuple[Kind, Pickled, object]:
        """Return the content, which is gone then."""
        return self._content.pop()


def _packed(value: object) -> _Outcome:
    """Return the outcome that a value makes."""
    if copies.is_copy():
        copies.end_copy()
    try:
        return _Outcome(Kind.RESULT, dump_result(value), value)
    except Exception as reason:
        return _failed(failures.unreturnable(value, reason))
    except BaseException as raised:
        return _failed(raised)  # sys.exit() in a method of the value's


def _failed(raised: BaseException) -> _Outcome:
    """Return the outcome that an exception makes."""
    if copies.is_copy():
        copies.end_copy(raised)
    answer = with_builtins(lambda: failures.pack(raised, _last_own(raised)))
    failures.forget_frames(raised)
    return _Outcome(Kind.ERROR, answer, raised if answer.shares else None)


def _last_own(raised: BaseException) -> Any:
    """Return the last entry of the pool's own at the top of the traceback, which tell a user nothing."""
    found, entry = None, failures.traceback_of(raised)
    while entry is not None and entry.tb_frame.f_code.co_filename.startswith(_OURS):
        found, entry = entry, entry.tb_next
    return found
