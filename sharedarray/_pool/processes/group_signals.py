"""Signals that reach all processes of a program at once.

A terminal sends SIGINT (Ctrl-C) and SIGHUP to every process of a group; a batch system, a service manager or
``kill -TERM -<group>`` does the same with SIGTERM. The program decides what a signal means, so workers ignore

- SIGINT always: the exception in the caller decides which tasks end;
- SIGTERM and SIGHUP, if the program handles, blocks or ignores them when the worker starts. The tasks go on,
  and the program uses their results or ends its pool. If the program does not handle them, it dies of them,
  and so does a worker, whether the signal is sent to the worker alone or to the group.

A worker ignores a signal by an empty handler, not by SIG_IGN, which the programs that a task starts would
inherit. A process that a task forks begins with the default for SIGTERM and SIGHUP, by which multiprocessing
ends processes.

Threads that start children block these signals, so that no child dies half-way; a worker unblocks them when
it has its handlers. In the pool's own thread they stay blocked: a thread that unblocks a signal receives one
that is on its way to the process, and a main thread that waits for a result would miss it (measured: one
Ctrl-C in three was lost while workers started).
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sharedarray import _forks as forks

__all__ = ["NAMES", "as_before", "block", "blocked", "chosen", "leave_to_parent"]

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

# Those that this system has. Without a mask of signals, children have process groups of their own.
_GROUP = frozenset(getattr(signal, name) for name in NAMES if hasattr(signal, name))
_ENDING = _GROUP - {signal.SIGINT}
_mask: Any = getattr(signal, "pthread_sigmask", None)


def _nothing(number: int, frame: Any) -> None:
    pass


def chosen() -> dict[int, bool]:
    """Return the signals besides SIGINT that do not end this program, and whether it ignores each."""
    mask = getattr(_thread, "before", None)
    if mask is None:
        mask = set() if _mask is None else _mask(signal.SIG_BLOCK, ())
    found = {number: signal.getsignal(number) for number in _ENDING}
    return {
        int(number): handler is signal.SIG_IGN
        for number, handler in found.items()
        if handler is not signal.SIG_DFL or number in mask
    }


def block(before: set[Any] | None = None) -> set[Any]:
    """Block the signals, and SIGPIPE, in this thread and the children that it starts.

    Without SIGPIPE, a write to a pipe whose reader died is an error. ``before`` are the signals that the
    program blocks; None for those that this thread blocks. They are returned, for threads that this one
    starts.
    """
    if _mask is None:
        return set()
    blocked_here = _mask(signal.SIG_BLOCK, {signal.SIGPIPE, *_GROUP})
    _thread.before = blocked_here if before is None else before
    return set(_thread.before)


# `before`: the signals that the program blocks.
_thread = threading.local()


def blocked() -> contextlib.AbstractContextManager[None]:
    """Return a context manager that blocks the signals in this thread while it starts a child."""
    return _masked(_GROUP)


def as_before() -> contextlib.AbstractContextManager[None]:
    """Return a context manager that restores the mask: the start of Python's resource tracker changes it."""
    return _masked(())


@contextlib.contextmanager
def _masked(numbers: Collection[int]) -> Iterator[None]:
    if _mask is None:
        yield
        return
    before = _mask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        _mask(signal.SIG_SETMASK, before)


def leave_to_parent(choice: Mapping[int, bool]) -> None:
    """Ignore the signals in this worker, as `chosen` returned in the parent, and unblock them."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.set_wakeup_fd(-1)  # a forked worker has the descriptor of the parent's event loop
    signal.signal(signal.SIGINT, _nothing)
    for number, ignored in choice.items():
        signal.signal(number, signal.SIG_IGN if ignored else _nothing)
    if _mask is not None:
        _mask(signal.SIG_UNBLOCK, {signal.SIGPIPE, *_GROUP})
    if not all(choice.values()):
        _reset_in_forks()


@functools.cache  # once; a fork of this process inherits that
def _reset_in_forks() -> None:
    """Give children that this worker forks from now on the default handlers."""
    forks.around(
        __name__, before=_before_fork, in_parent=_after_fork_in_parent, in_child=_after_fork_in_child
    )


# The mask of a thread that forks. A signal waits until the child has the default handlers again.
_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = _mask(signal.SIG_BLOCK, _ENDING)


def _after_fork_in_parent() -> None:
    _mask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    for number in _ENDING:
        if signal.getsignal(number) is _nothing:  # and no handler of the task's own
            signal.signal(number, signal.SIG_DFL)
    _mask(signal.SIG_SETMASK, _forking.mask)
