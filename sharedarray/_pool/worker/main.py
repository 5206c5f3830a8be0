"""The beginning and the end of a worker.

A second thread waits for the death of the pool's process, and for nothing else: a worker in the middle of a
long call would not notice it until the end of the call. The thread sleeps in one system call and then ends
the process at once.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, current_process, parent_process
from multiprocessing.connection import wait
from typing import Any, NoReturn

from sharedarray import _forks as forks, _functions as functions, _janitor as janitor
from sharedarray._clock import time
from sharedarray._pipes import PIPES, PipeEnd
from sharedarray._platform import platform
from sharedarray._pool.codec import failures
from sharedarray._pool.codec.pickler import dumps, loads
from sharedarray._pool.processes import copies, seeds, threads
from sharedarray._pool.processes.credits import Credits
from sharedarray._pool.transport import page
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import Entry, Kind, encode
from sharedarray._pool.worker.loop import Loop

__all__ = ["ENDS_WITHIN", "Ends", "Setup", "main"]

# Seconds that a worker may take to end when the pool has stopped it. The end of threads and executors that
# tasks have left takes some 10 ms where they are idle; shutting the pool down waits for it.
ENDS_WITHIN = 5.0

# Exit code of a worker that lost its parent: no process reads it.
_ORPHANED = 1


@dataclass(slots=True)
class Ends:
    """The descriptors and memory that join a worker to its pool.

    Attributes
    ----------
    reader, writer
        Ends of the two pipes.
    credits
        How many items it has been given and has not begun.
    pool
        The process id of the pool.
    page
        The file of the worker's page of replies (see `page`), by the pool's handle.
    spins
        Whether there are processors enough to poll for a message before going to sleep.
    """

    reader: PipeEnd
    writer: PipeEnd
    credits: Credits
    pool: int
    page: int
    spins: bool


@dataclass(slots=True)
class Setup:
    """The settings that a worker gets at its start.

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


def main(ends: Ends, setup: Setup | PackedSetup, inherited: functions.Inherited | None) -> None:
    """Serve a pool until it says STOP; ``inherited`` is None in a worker that was not forked from it."""
    copies.set_copy(False)
    janitor.silent = True
    functions.begin_worker(inherited)
    _name_warnings()
    channel = Channel(ends.reader, ends.writer, blocking=True)
    _close_in_forks(channel)
    _watch_parent(channel)
    try:
        own = _page(ends)
        if _prepare(channel, setup):
            del setup
            Loop(channel, ends.credits, ends.pool, own, spins=ends.spins).run()
    except (EOFError, ConnectionError):
        os._exit(_ORPHANED)  # the pool is gone: no process waits for an end in order
    _end()


# Before the first task


def _name_warnings() -> None:
    """Prefix each warning with the name of this process, as logging's records have it."""
    plain, name = warnings.formatwarning, current_process().name

    def named(*about: Any, **more: Any) -> str:
        return f"{name}: {plain(*about, **more)}"

    warnings.formatwarning = named


def _close_in_forks(channel: Channel) -> None:
    """Ensure that a process which a task forks neither keeps this worker's pipes open nor writes to them."""

    def close() -> None:
        copies.set_copy(True)
        channel.close(_end_copy)

    forks.around(__name__, in_child=close)


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


def _page(ends: Ends) -> mmap.mmap | None:
    try:
        return page.opened(ends.page, ends.pool)
    except OSError:
        if platform.process_started(ends.pool) is None:
            raise EOFError from None
        return None


def _prepare(channel: Channel, setup: Setup | PackedSetup) -> bool:
    """Limit threads, seed random numbers, run the initializer; report to the pool; return its success."""
    try:
        threads.limit(setup.threads)
        seeds.reseed()
        if isinstance(setup, PackedSetup):
            initializer, initargs = loads(setup.stream, setup.buffers)
        else:
            initializer, initargs = setup.initializer, setup.initargs
        if initializer is not None:
            functions.initialize(initializer, initargs)
        functions.release()
    except BaseException as raised:
        if copies.is_copy():
            copies.end_copy(raised)
        refusal = failures.pack(raised, raised.__traceback__)
        pieces = refusal.pieces()
        entries = [Entry(0, 0, 0, 0, 0, len(piece)) for piece in pieces]
        channel.send(encode(Kind.REFUSED, stream=refusal.stream, entries=entries, inline=pieces))
        return False
    channel.send(encode(Kind.READY))
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
    # If this process is a fork, this thread may have been an executor's, and would be joined by itself.
    executors = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
    executors.pop(threading.current_thread(), None)
    getattr(threading, "_shutdown", int)()


def _end_late() -> None:
    """End this process if it is still there after some time, with the processes that it would wait for."""
    time.sleep(ENDS_WITHIN)
    for child in active_children():
        with contextlib.suppress(Exception):
            child.terminate()
    os._exit(0)
