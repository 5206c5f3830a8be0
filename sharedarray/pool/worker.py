"""The worker's side: what runs in each process of a pool.

One thread reads a frame, does what it says, answers, and reads again (`messages` has the drawing). What it
must never do is hold on to a task when it is done: the pool promises that memory is free within a second of
the caller's last reference, and an idle worker that still had the last arguments, the last result or a
traceback with their frames in some variable would break that. So each step is a function of its own, whose
variables end with it; exceptions are sent as text and stripped of their frames; and where a task that had
shared arrays left reference cycles behind, they are collected as soon as the worker is idle.

A second thread waits for the death of the parent, and of nothing else: a worker in the middle of a long task
would not notice until its end. It blocks in one call to the kernel and ends the process at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any

from sharedarray import errors
from sharedarray.pool import failures, threads
from sharedarray.pool.channel import Channel
from sharedarray.pool.messages import HOLDS, SHARES, Frame, Kind
from sharedarray.pool.pickling import Pickled, dumps, loads

__all__ = ["Setup", "call_each", "main"]

# Milliseconds without a message after which a worker counts as idle and may take the time to collect cycles.
# Long enough to not do it between the tasks of one call, short enough for the promise of one second.
_IDLE = 100

# What a worker that lost its parent ends with; nobody is there to read it.
_ORPHANED = 1


@dataclass(slots=True)
class Setup:
    """What a worker is told at its start.

    Attributes
    ----------
    threads
        How many threads numeric libraries may use; None for no limit.
    initializer, initargs
        Called once, before the first task.
    """

    threads: int | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # By our own pickler, within the one that starts the process: so functions of the main module work,
        # and so do locks and queues of multiprocessing, which can be handed over at this moment only.
        if self.initializer is None:
            return Setup, (self.threads, None, ())
        pickled = dumps((self.initializer, self.initargs))
        return PackedSetup, (
            self.threads,
            bytes(pickled.stream),
            [bytearray(buffer) for buffer in pickled.buffers],
        )


@dataclass(slots=True)
class PackedSetup:
    """A `Setup` on its way; unpacked late, so that a failure can be reported."""

    threads: int | None
    stream: bytes
    buffers: list[bytearray]


def main(sock: socket.socket, setup: Setup | PackedSetup) -> None:
    """Serve a pool over ``sock`` until it says STOP."""
    _calm_signals()
    channel = Channel(sock)
    _close_in_forks(channel)
    _watch_parent(channel)
    try:
        if _prepare(channel, setup):
            del setup
            _serve(channel)
    except (EOFError, ConnectionError):
        os._exit(_ORPHANED)  # the pool is gone: there is nobody left for whom to end in order


# Before the first task


def _nothing(number: int, frame: Any) -> None:
    pass


def _calm_signals() -> None:
    """Leave Ctrl-C to the parent, which decides what becomes of the tasks.

    A handler that does nothing, not SIG_IGN: programs that a task starts would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.set_wakeup_fd(-1)  # a forked worker has that of the parent's event loop
    signal.signal(signal.SIGINT, _nothing)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _close_in_forks(channel: Channel) -> None:
    """See to it that a process that a task forks does not keep this worker's pipe open."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=channel.close)


def _watch_parent(channel: Channel) -> None:
    """End this process as soon as the parent is gone, whatever the main thread is doing."""
    if not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(channel.fileno(), 0)  # nothing but the other end's being closed
    parent = parent_process()
    if parent is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll.register(parent.sentinel, select.POLLIN)
        if hasattr(os, "pidfd_open") and parent.pid is not None:
            # The pipe behind the sentinel is also open in processes that the parent forks; this one is exact.
            with contextlib.suppress(OSError):
                poll.register(os.pidfd_open(parent.pid), select.POLLIN)

    def watch() -> None:
        poll.poll()
        os._exit(_ORPHANED)

    threading.Thread(target=watch, name="sharedarray-parent-watch", daemon=True).start()


def _prepare(channel: Channel, setup: Setup | PackedSetup) -> bool:
    """Limit threads and run the initializer; tell the pool how that went, and return whether it went well."""
    try:
        threads.limit(setup.threads)
        if isinstance(setup, PackedSetup):
            initializer, initargs = loads(setup.stream, setup.buffers)
        else:
            initializer, initargs = setup.initializer, setup.initargs
        if initializer is not None:
            initializer(*initargs)
    except BaseException as raised:
        refusal = failures.pack(raised, raised.__traceback__)
        channel.send(Kind.REFUSED, stream=refusal.stream, buffers=refusal.buffers)
        return False
    channel.send(Kind.READY)
    return True


# Tasks


def _serve(channel: Channel) -> None:
    held: dict[int, object] = {}
    tidy = True
    while True:
        if not tidy and not channel.arrived and not select.select([channel], [], [], _IDLE / 1000)[0]:
            gc.collect()
            tidy = True
        frame = channel.receive()
        assert frame is not None  # the socket blocks
        if frame.kind is Kind.TASK:
            tidy = tidy and not frame.flags & SHARES
            _answer(channel, frame, held)
        elif frame.kind is Kind.TAKEN:
            held.pop(frame.task, None)
            tidy = False
        else:
            return
        del frame  # the wait for the next one may be long


def _answer(channel: Channel, frame: Frame, held: dict[int, object]) -> None:
    """Run one task and send what came of it; put into ``held`` what has to live until the pool has it."""
    task = frame.task
    box = [frame.stream, frame.buffers]
    del frame
    kind, answer, value = _run(box)
    if answer.shares:
        held[task] = value
    channel.send(kind, task, HOLDS if answer.shares else 0, answer.stream, answer.buffers)


def _run(box: list[Any]) -> tuple[Kind, Pickled, object]:
    """Call the function in ``box``; return the kind of the answer, the answer, and what it was made from."""
    try:
        result = _call(box)
    except BaseException as raised:
        return _failed(raised)
    try:
        return Kind.RESULT, dumps(result), result
    except Exception as reason:
        return _failed(_unsendable(result, reason))


def _call(box: list[Any]) -> object:
    buffers, stream = box.pop(), box.pop()
    function, args, kwargs = loads(stream, buffers)
    del stream, buffers
    return function(*args, **kwargs)


def _failed(raised: BaseException) -> tuple[Kind, Pickled, object]:
    answer = failures.pack(raised, _ours(raised))
    failures.forget_frames(raised)
    return Kind.ERROR, answer, raised if answer.shares else None


def _ours(raised: BaseException) -> Any:
    """Return the last entry of the traceback that is this file's, for what comes before it tells nothing."""
    found, entry = None, raised.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename == __file__:
        found, entry = entry, entry.tb_next
    return found


def _unsendable(result: object, reason: Exception) -> errors.NotPicklableError:
    error = errors.NotPicklableError(
        f"the task returned a {type(result).__module__}.{type(result).__qualname__} that cannot be sent back",
        found=f"{type(reason).__name__}: {reason}",
        expected="a result that pickle or cloudpickle can write",
        cause="open files, locks, generators and the like belong to one process",
        next_step="return the data that the caller needs from it",
    )
    error.__cause__ = reason
    return error


# What the pool's own methods have called in a worker


def call_each(function: Callable[..., Any], items: list[tuple[Any, ...]]) -> list[Any]:
    """Call one function on several tuples of arguments, and let go of each when it is done."""
    items.reverse()
    return [function(*items.pop()) for _ in range(len(items))]
