"""Signals that reach all processes of a program at once.

A terminal sends SIGINT (Ctrl-C) and SIGHUP to every process of a group; a batch system, a service manager or
``kill -TERM -<group>`` does the same with SIGTERM. The program decides what that means, so its workers leave
such a signal to it:

- Ctrl-C always: what becomes of the tasks is said by the exception that the caller gets.
- SIGTERM and SIGHUP, if the program handles, blocks or ignores them when the worker starts. The tasks go on,
  and the program has its results, or ends its pool, as it likes. A program that does nothing about them dies
  of them, and so does a worker, whether the signal is for it alone or for all.

A handler that does nothing does this, not SIG_IGN, which the programs that a task starts would inherit. A
process that a task forks begins with the default for SIGTERM and SIGHUP: multiprocessing ends processes so.

Children are started by threads that block these signals, so that none dies half-way; a worker unblocks them
when it has its handlers. In the pool's own thread they stay blocked for good: a thread that unblocks a signal
takes it, if it is just then under way to the process, and a main thread that waits for a result would never
hear of it (tried: one Ctrl-C in three was lost while workers started).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

__all__ = ["NAMES", "as_before", "block", "blocked", "chosen", "leave_to_parent"]

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

# Those that there are here. Where there is no mask of signals, children have process groups of their own.
_GROUP = frozenset(getattr(signal, name) for name in NAMES if hasattr(signal, name))
_ENDING = _GROUP - {signal.SIGINT}
_mask: Any = getattr(signal, "pthread_sigmask", None)


def _nothing(number: int, frame: Any) -> None:
    pass


def chosen() -> dict[int, bool]:
    """Return the signals besides SIGINT that this program does not die of, and whether it ignores them."""
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
    """Block the signals in this thread and the children that it starts, and SIGPIPE as well.

    Writing to a pipe whose reader died is an error in this thread, whatever the program does with SIGPIPE.

    Parameters
    ----------
    before
        What the program blocks; None if it is what is blocked in this thread.

    Returns
    -------
    set
        What the program blocks, for another thread that this one starts.
    """
    if _mask is None:
        return set()
    blocked_here = _mask(signal.SIG_BLOCK, {signal.SIGPIPE, *_GROUP})
    _thread.before = blocked_here if before is None else before
    return set(_thread.before)


# What the program blocks, as far as this thread knows.
_thread = threading.local()


def blocked() -> contextlib.AbstractContextManager[None]:
    """Block the signals while a child is started, whichever thread starts it."""
    return _masked(_GROUP)


def as_before() -> contextlib.AbstractContextManager[None]:
    """Restore the mask after a call that changes it, as the start of Python's resource tracker does."""
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
    """Leave the signals to the parent, in a worker that has just begun.

    Parameters
    ----------
    choice
        What `chosen` returned in the parent.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.set_wakeup_fd(-1)  # a forked worker has that of the parent's event loop
    signal.signal(signal.SIGINT, _nothing)
    for number, ignored in choice.items():
        signal.signal(number, signal.SIG_IGN if ignored else _nothing)
    if _mask is not None:
        _mask(signal.SIG_UNBLOCK, {signal.SIGPIPE, *_GROUP})
    global _resets
    if not _resets and hasattr(os, "register_at_fork") and not all(choice.values()):
        _resets = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


# Whether forks of this process begin with the default; so do theirs.
_resets = False
# The mask of a thread that forks: a signal that comes before the child has the default again waits for that.
_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = _mask(signal.SIG_BLOCK, _ENDING)


def _after_fork_in_parent() -> None:
    _mask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    for number in _ENDING:
        if signal.getsignal(number) is _nothing:  # else the task has set a handler of its own
            signal.signal(number, signal.SIG_DFL)
    _mask(signal.SIG_SETMASK, _forking.mask)
