"""The engine of a pool: who runs what, who has died, and when it is over.

::

    caller's threads                  management thread                     worker processes
    ----------------                  -----------------                     ----------------
    submit: pickle the call
       |-- a worker is free? ------- TASK over its pipe ------------------> call the function
       `-- else queue it  --------.                                             |
                                  v                                             |
                          selector: wake-up, pipes, exits  <-- RESULT, ERROR ---'
                            |   load the answer, give the worker its next task,
    future.result()  <------'   settle the future
                                a worker ended: fail or retry its task, replace it

One thread waits in one call for everything: pipes that can be read (or written, where something is unsent),
processes that ended, and a socket by which other threads wake it. It holds no task, result or exception in
its own variables while it waits, so nothing is kept alive by an idle pool.

**One lock** guards the queue, the members and their state. It is never held while a process is started, while
something of the user's is unpickled, or while a future is settled, since its callbacks may call `submit`.

**Who writes to a pipe.** A caller that finds a worker free writes the task itself, which saves a wake-up;
everything else is written by the management thread; both under the lock. Ctrl-C may break a caller off in the
middle of that. A half-written frame would make nonsense of all that follow, so such a worker is doomed: it is
killed and replaced, and its task was the one whose submission was interrupted.

**How a death is noticed.** By the process itself (a descriptor for it where the kernel has such, else
multiprocessing's sentinel), never by the pipe alone: processes that a task forked may keep a pipe open. What
had arrived before is heard first, so a result that was sent whole counts. When the kernel says that the dead
worker had not read all that was sent to it (a reset connection), its task had not begun, and is simply given
to another.

**How it ends.** `shutdown` sets a flag and wakes the thread, which stops the workers that have nothing to do,
and leaves when the last has gone. The same happens when the pool is garbage collected, and at the
interpreter's end. A fork of this process has a copy of all this, but not the thread; there the engine is
dead, says so, and closes its copies of the pipes, lest a worker miss the death of its real parent.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import selectors
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_ready
from typing import Any

from sharedarray import errors
from sharedarray.pool import deaths, failures, processes
from sharedarray.pool.channel import Channel
from sharedarray.pool.messages import HOLDS, SHARES, Frame, Kind
from sharedarray.pool.pickling import Pickled, dumps, loads
from sharedarray.pool.worker import Setup

__all__ = ["Engine", "name_of"]

# Workers that may die one after the other before any of them is ready. Fewer would give up on a machine
# that is short of memory for a moment; more would only repeat what an initializer does each time.
_EARLY_DEATHS = 3
# Times that a task may be handed to a worker that is dead before it has read it. Only somebody who kills
# workers from outside gets this far.
_HANDOVERS = 10
# Seconds until a worker that hung up is ended, and until the exit code of one that ended is given up.
_PATIENCE = 5.0


@dataclass(slots=True, eq=False)
class Task:
    """One call that somebody waits for.

    Attributes
    ----------
    future
        Where its outcome goes.
    label
        The function's name, for people.
    pickled
        The call, ready to be sent, perhaps more than once.
    kept
        The function and its arguments, as long as ``pickled`` refers to memory of theirs.
    retries
        How many deaths of a worker it may still survive.
    handovers
        How many dead workers it was handed to in vain.
    """

    number: int
    future: Future[Any]
    label: str
    pickled: Pickled | None
    kept: object
    retries: int
    handovers: int = 0

    def release(self) -> None:
        """Let go of the arguments: nothing will be sent again."""
        self.pickled = self.kept = None


@dataclass(slots=True, eq=False)
class Member:
    """One worker, seen from the pool.

    Attributes
    ----------
    ready
        It has run the initializer.
    task
        What it was given and has not answered.
    given
        How many tasks it was given in its life.
    leaving
        It was told to stop, and gets nothing any more.
    doomed
        It has to be killed.
    unread
        It went without reading all that it was sent.
    hung_up, ended, killed
        Its end of the pipe is closed; its process has ended; it was sent a deadly signal by us.
    writing
        Whether the pipe is watched for room to write.
    exit
        The descriptor that becomes readable when it ends; closed by us where it is a process descriptor.
    """

    process: processes.WorkerProcess
    channel: Channel
    ready: bool = False
    task: Task | None = None
    given: int = 0
    leaving: bool = False
    doomed: bool = False
    unread: bool = False
    hung_up: bool = False
    ended: bool = False
    killed: bool = False
    writing: bool = False
    exit: int = -1
    exit_is_ours: bool = False

    @property
    def free(self) -> bool:
        """Whether it can be given a task now."""
        return self.ready and self.task is None and not self.going

    @property
    def going(self) -> bool:
        """Whether it will get no task any more."""
        return self.leaving or self.doomed or self.hung_up or self.ended


def name_of(function: Callable[..., Any]) -> str:
    """Return what to call a function in messages."""
    inner = getattr(function, "func", function)  # functools.partial
    name = getattr(inner, "__qualname__", None) or getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__qualname__


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
        self._workers = workers
        self._method = method
        self._setup = setup
        self._max_tasks = max_tasks
        self._retries = retries
        self._at_end = at_end
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._queue: deque[Task] = deque()
        self._members: list[Member] = []
        self._started = 0
        self._submitted = 0
        self._early_deaths = 0
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._ended = False
        self._shutting = False
        self._cancelling = False
        self._aborting = False
        self._forsaken = False
        self._broken: Callable[[], errors.WorkerDied] | None = None
        self._selector: selectors.BaseSelector | None = None
        self._bell: socket.socket | None = None
        self._ear: socket.socket | None = None
        _engines.add(self)

    # For other threads

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        label: str | None = None,
        retries: int | None = None,
    ) -> Future[Any]:
        """Have a worker call ``function``; return the future of what comes of it."""
        self._check_open()
        future: Future[Any] = Future()
        label = label or name_of(function)
        call = (function, args, kwargs)
        try:
            pickled = dumps(call)
        except Exception as reason:
            future.set_exception(_unsendable(label, reason))
            return future
        task = Task(
            number=0,
            future=future,
            label=label,
            pickled=pickled,
            kept=call if pickled.shares or pickled.buffers else None,
            retries=self._retries if retries is None else retries,
        )
        with self._lock:
            self._check_open()
            self._submitted += 1
            task.number = self._submitted
            if self._thread is None:
                self._start()
            self._accept(task)
        return future

    def _accept(self, task: Task) -> None:
        if not self._queue:
            member = next((member for member in self._members if member.free), None)
            if member is not None:
                try:
                    given = self._give(member, task)
                except BaseException:
                    member.doomed = True
                    self.wake()
                    raise
                if given:
                    if member.channel.unsent:
                        self.wake()
                    return
        self._queue.append(task)
        if self._may_start() or any(member.free or member.doomed for member in self._members):
            self.wake()

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
            self._at_end()
        self.wake()
        if wait:
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
        """Wait for the end, unless the management thread itself is asking."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # Not Thread.join alone: before Python 3.13, one that Ctrl-C broke off takes the thread for ended.
            self._over.wait()
            thread.join()

    def wake(self) -> None:
        """Make the management thread look at what there is to do."""
        bell = self._bell
        if bell is not None and not self._is_copy():
            with contextlib.suppress(OSError):  # full: it is awake anyway; closed: it is over
                bell.send(b"\0")

    def pids(self) -> list[int]:
        """Return the process ids of the workers that are there."""
        with self._lock:
            pids = [member.process.pid for member in self._members if member.exit >= 0]
        return [pid for pid in pids if pid is not None]

    def _is_copy(self) -> bool:
        return self._owner != os.getpid()

    def _check_open(self) -> None:
        if self._is_copy():
            raise errors.SharedArrayError(
                "this pool belongs to another process, from which this one was forked",
                found=f"process {os.getpid()}",
                expected=f"process {self._owner}",
                cause="fork copies the memory of a pool but not its thread, and workers have one parent only",
                next_step="make a pool of its own in the forked process",
            )
        if self._broken is not None:
            raise self._broken()
        if self._shutting or self._forsaken:
            raise RuntimeError("the pool was shut down and takes no more tasks")
        if _exiting:
            raise RuntimeError("the interpreter is ending and the pool takes no more tasks")

    # Beginning and end of the management thread

    def _start(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ, self._woken)
        processes.make_ready(self._method)
        if self._method == "fork":
            # Before our thread is there: what a fork copies is then in the state that its caller left it in.
            for _ in range(self._workers):
                self._add_member()
        self._thread = threading.Thread(target=self._run, name="sharedarray-pool", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        processes.block_interrupts()
        try:
            while self._tend():
                self._wait()
        except BaseException as broken:
            self._break("the pool's management thread failed", broken)
        finally:
            try:
                self._finish()
            finally:
                self._over.set()

    def _wait(self) -> None:
        assert self._selector is not None
        for key, events in self._selector.select():
            key.data(events)

    def _finish(self) -> None:
        for member in list(self._members):
            self._kill(member)
            self._bury(member)
        with self._lock:
            left, self._queue = list(self._queue), deque()
            self._ended = self._shutting = True
            for thing in (self._selector, self._bell, self._ear):
                if thing is not None:
                    thing.close()
        for task in left:
            task.release()
            task.future.cancel()
        del left
        self._at_end()

    # What the management thread does between two waits

    def _tend(self) -> bool:
        """Do what can be done now; return whether there is anything left to wait for."""
        with self._lock:
            if self._forsaken:
                self._shutting = True
            aborting, cancelling = self._aborting, self._cancelling
        if cancelling:
            self._cancel_queued()
        if aborting:
            self._kill_all()
        while True:
            with self._lock:
                self._hand_out()
                if not self._may_start():
                    break
            try:
                self._add_member()
            except Exception as reason:
                if not self._members:
                    self._break("no worker process could be started", reason)
                break
        with self._lock:
            for member in self._members:
                self._look_after(member)
            return bool(self._members or self._queue) or not (self._shutting or self._broken)

    def _hand_out(self) -> None:
        """Give the first tasks of the queue to the workers that are free."""
        for member in self._members:
            while self._queue and member.free:
                task = self._queue.popleft()
                if not self._give(member, task) and not task.future.cancelled():
                    self._queue.appendleft(task)

    def _may_start(self) -> bool:
        """Say whether one more worker would have something to do."""
        if self._broken is not None or self._aborting:
            return False
        there = [member for member in self._members if not member.going]
        starting = sum(not member.ready for member in there)
        return len(there) < self._workers and starting < len(self._queue)

    def _look_after(self, member: Member) -> None:
        if member.doomed:
            self._kill(member)
        elif member.task is None and not member.leaving and not member.hung_up:
            worn_out = self._max_tasks is not None and member.given >= self._max_tasks
            if worn_out or (self._shutting and not self._queue):
                self._stop(member)
        self._attend_to(member)

    def _attend_to(self, member: Member) -> None:
        """Watch a pipe for the room to write exactly as long as something waits for it."""
        if member.channel.unsent != member.writing and not member.hung_up:
            assert self._selector is not None
            member.writing = member.channel.unsent
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.writing else 0)
            self._selector.modify(member.channel, events, functools.partial(self._hear, member))

    def _give(self, member: Member, task: Task) -> bool:
        """Send a task to a worker that is free; return False if it was cancelled, or the worker is gone.

        A task that was handed over before is running already in the eyes of its future.
        """
        if not task.future.running() and not task.future.set_running_or_notify_cancel():
            task.release()
            return False
        assert task.pickled is not None
        stream, buffers, shares = task.pickled
        member.task = task
        member.given += 1
        try:
            member.channel.send(Kind.TASK, task.number, SHARES if shares else 0, stream, buffers)
        except OSError:
            # Its process has ended, and we shall hear of that as well.
            member.task = None
            member.doomed = True
            return False
        return True

    def _stop(self, member: Member) -> None:
        member.leaving = True
        with contextlib.suppress(OSError):
            member.channel.send(Kind.STOP)

    # Starting workers

    def _add_member(self) -> None:
        assert self._selector is not None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._started += 1
        process = processes.WorkerProcess(
            self._method, f"sharedarray-worker-{self._started}", theirs, self._setup
        )
        member = Member(process, Channel(ours))
        self._members.append(member)  # before the start: a forked worker closes our end, which it finds here
        try:
            processes.start(process)
        except BaseException:
            self._members.remove(member)
            member.channel.close()
            raise
        finally:
            theirs.close()
        member.exit, member.exit_is_ours = _exit_descriptor(process)
        self._selector.register(member.channel, selectors.EVENT_READ, functools.partial(self._hear, member))
        self._selector.register(member.exit, selectors.EVENT_READ, functools.partial(self._mourn, member))

    # What the management thread hears

    def _woken(self, events: int) -> None:
        assert self._ear is not None
        with contextlib.suppress(BlockingIOError):
            while len(self._ear.recv(4096)) == 4096:
                pass

    def _hear(self, member: Member, events: int) -> None:
        """Read what a worker says, and write what it could not take before."""
        if member.hung_up:
            return  # in the same round of events
        try:
            if events & selectors.EVENT_WRITE:
                with self._lock:
                    member.channel.flush()
                    self._attend_to(member)
            if events & selectors.EVENT_READ:
                self._read(member)
        except (EOFError, OSError) as end:
            self._hang_up(member, end)
            # It ended, or is about to. If it lives on without its pipe, it is of no use any more.
            if not member.leaving and not wait_ready([member.exit], _PATIENCE):
                self._kill(member)

    def _read(self, member: Member) -> None:
        while True:
            frame = member.channel.receive()
            if frame is None:
                return
            self._heard(member, frame)
            del frame
            if not member.channel.arrived:
                return

    def _hang_up(self, member: Member, end: BaseException) -> None:
        assert self._selector is not None
        with self._lock:
            member.hung_up = True
            member.unread = isinstance(end, ConnectionResetError)
            self._selector.unregister(member.channel)

    def _heard(self, member: Member, frame: Frame) -> None:
        if frame.kind is Kind.READY:
            self._early_deaths = 0
            with self._lock:
                member.ready = True
        elif frame.kind is Kind.REFUSED:
            self._refused(frame)
        elif member.task is not None and member.task.number == frame.task:
            self._answered(member, frame)

    def _answered(self, member: Member, frame: Frame) -> None:
        value, raised = _open(frame)
        if raised is not None and frame.flags & HOLDS and wait_ready([member.exit], 0):
            return  # it died with what the answer refers to: its task is settled with its burial
        with self._lock:
            task, member.task = member.task, None
            assert task is not None
            task.release()
            try:
                if frame.flags & HOLDS:
                    member.channel.send(Kind.TAKEN, task.number)
                if self._max_tasks is not None and member.given >= self._max_tasks:
                    self._stop(member)
                elif self._queue and not self._aborting:
                    self._hand_out()
            except OSError:
                pass  # we hear of its end in another way
            self._attend_to(member)
        _settle(task.future, value, raised)

    def _refused(self, frame: Frame) -> None:
        _, raised = _open(Frame(Kind.ERROR, 0, frame.flags, frame.stream, frame.buffers))
        self._break(
            "the initializer raised an exception, so the pool has no workers",
            raised,
            found=f"{type(raised).__name__}: {raised}",
            next_step="mend the initializer (its exception is the cause of this one) and make a new pool",
        )

    def _mourn(self, member: Member, events: int) -> None:
        """Hear what a worker that ended had still said, and settle its affairs."""
        member.ended = True
        if not member.hung_up:
            try:
                while (frame := member.channel.receive()) is not None:
                    self._heard(member, frame)
                    del frame
                member.unread = False
            except (EOFError, OSError) as end:
                member.unread = isinstance(end, ConnectionResetError)
        self._bury(member)

    def _bury(self, member: Member) -> None:
        code = self._exit_code(member)
        self._dismiss(member)
        with self._lock:
            task, member.task = member.task, None
        if task is not None:
            self._bereaved(member, task, code)
        elif not member.ready and not member.leaving and not member.doomed and self._broken is None:
            self._early_deaths += 1
            if self._early_deaths >= _EARLY_DEATHS:
                death = deaths.explain(code)
                self._break(
                    f"{_EARLY_DEATHS} workers died one after the other before they were ready",
                    None,
                    found=f"{member.process.name} (process {member.process.pid}), the last one, ended "
                    f"{death.how}",
                    cause=f"{death.cause}; it happened at the worker's start or in the initializer",
                    next_step=death.next_step,
                )
        with contextlib.suppress(ValueError):  # an exit code that nobody knows
            member.process.close()

    def _exit_code(self, member: Member) -> int | None:
        code = member.process.exitcode
        if code is None:
            member.process.join(_PATIENCE)
            code = member.process.exitcode
        return code

    def _dismiss(self, member: Member) -> None:
        assert self._selector is not None
        with self._lock:
            if member in self._members:
                self._members.remove(member)
            if not member.hung_up:
                self._selector.unregister(member.channel)
                member.hung_up = True
            self._selector.unregister(member.exit)
            member.channel.close()
            if member.exit_is_ours:
                os.close(member.exit)
            member.exit = -1

    def _bereaved(self, member: Member, task: Task, code: int | None) -> None:
        """Decide what becomes of a task whose worker died."""
        again = False
        if self._broken is None and not self._aborting:
            if member.unread and task.handovers < _HANDOVERS:
                task.handovers += 1
                again = True
            elif task.retries > 0:
                task.retries -= 1
                again = True
        if again:
            with self._lock:
                self._queue.appendleft(task)
            return
        task.release()
        if self._broken is not None:
            _settle(task.future, None, self._broken())
        elif self._aborting:
            _settle(task.future, None, _interrupted(task.label))
        else:
            _settle(task.future, None, _died(member, task.label, code))

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
            self._cancelling = False
        while queued:
            task = queued.pop()
            task.release()
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()
            else:  # it ran in a worker that died, and was to run again
                _settle(task.future, None, _interrupted(task.label))

    def _break(self, message: str, reason: BaseException | None, **details: str | None) -> None:
        """Give the pool up: every task fails, and so does each later `submit`."""

        def error() -> errors.WorkerDied:
            made = errors.WorkerDied(message, **details)
            made.__cause__ = reason
            return made

        with self._lock:
            self._broken = self._broken or error
            queued, self._queue = list(self._queue), deque()
            for member in self._members:
                member.doomed = True
            running = [member.task for member in self._members if member.task is not None]
            for member in self._members:
                member.task = None
        for task in running + queued:
            task.release()
            _settle(task.future, None, error())

    # In a fork of this process

    def close_copy(self) -> None:
        """Close this process's copies of the descriptors that belong to its parent."""
        self._lock = threading.Lock()  # some other thread may have held it, and that thread is gone
        for member in self._members:
            member.channel.close()
            if member.exit_is_ours:
                with contextlib.suppress(OSError):
                    os.close(member.exit)
        if self._selector is not None:
            self._selector.close()
        for end in (self._bell, self._ear):
            if end is not None:
                end.close()


def _exit_descriptor(process: processes.WorkerProcess) -> tuple[int, bool]:
    """Return a descriptor that becomes readable when a process ends, and whether it is for us to close."""
    if hasattr(os, "pidfd_open") and process.pid is not None:
        with contextlib.suppress(OSError):
            return os.pidfd_open(process.pid), True
    return process.sentinel, False


def _open(frame: Frame) -> tuple[Any, BaseException | None]:
    """Return the value that an answer carries, or the exception."""
    try:
        found = loads(frame.stream, frame.buffers)
        if frame.kind is Kind.RESULT:
            return found, None
        return None, failures.rebuild(found)
    except BaseException as raised:
        failures.forget_frames(raised)
        what = "result" if frame.kind is Kind.RESULT else "exception"
        error = errors.NotPicklableError(
            f"the {what} of a task arrived but could not be loaded",
            found=f"{type(raised).__name__}: {raised}",
            expected="an object that pickle can read back in this process",
            next_step="see the cause of this exception",
        )
        error.__cause__ = raised
        return None, error


def _settle(future: Future[Any], value: Any, raised: BaseException | None) -> None:
    if not future.running() and not future.set_running_or_notify_cancel():
        return  # cancelled, while it still waited
    with contextlib.suppress(InvalidStateError):
        if raised is None:
            future.set_result(value)
        else:
            future.set_exception(raised)


def _unsendable(label: str, reason: Exception) -> errors.NotPicklableError:
    error = errors.NotPicklableError(
        f"the call of {label} cannot be sent to a worker",
        name=label,
        found=f"{type(reason).__name__}: {reason}",
        expected="a function and arguments that pickle or cloudpickle can write",
        cause="open files, locks, sockets, generators and the like belong to one process",
        next_step="open such things in the function itself, or in an initializer of the pool",
    )
    error.__cause__ = reason
    return error


def _died(member: Member, label: str, code: int | None) -> errors.WorkerDied:
    death = deaths.explain(code)
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


# The end of the interpreter, and forks. These two names are the only state of this module.

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_exiting = False


def _at_exit() -> None:
    """Finish what was submitted, as an executor does; at once where Ctrl-C is what ends the program."""
    global _exiting
    _exiting = True
    engines = list(_engines)
    try:
        _end(engines, abort=_ended_by_interrupt())
    except BaseException:  # Ctrl-C, by somebody who did not want to wait
        _end(engines, abort=True)
        raise


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
    for engine in list(_engines):
        engine.close_copy()
    _engines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_fork)

# Where threads are joined at the end, which is before atexit's functions run: a future that some
# other thread waits for is settled before that thread is waited for.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
