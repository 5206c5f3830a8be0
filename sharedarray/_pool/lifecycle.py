"""Pools at the end of the interpreter and in a fork of the process.

At the end of the interpreter a pool finishes what was submitted, as an executor does; if Ctrl-C is what ends
the program, at once. In a fork of the process it is a copy without a thread: it says so and closes its copies
of the pipes, or a worker would not notice the death of its real parent.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import weakref
from collections.abc import Iterable
from multiprocessing import util
from typing import TYPE_CHECKING, Final

from sharedarray import _forks as forks

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["end_with_process", "exiting", "register"]

# Among what multiprocessing does at the end of a process: before its own finalizers, which are at most 20.
FIRST: Final = 100

# The state of this module.
_cores: weakref.WeakValueDictionary[int, PoolCore] = weakref.WeakValueDictionary()
exiting = False  # the interpreter is at its end


def register(core: PoolCore) -> None:
    """Register a core, which is ended with the interpreter, and called after a fork."""
    _cores[id(core)] = core


def _all_cores() -> list[PoolCore]:
    """Return those that there are, in one step beside threads that make others."""
    found = [reference() for reference in _cores.valuerefs()]
    return [core for core in found if core is not None]


def _at_exit() -> None:
    global exiting
    cores = _all_cores()
    abort = _ended_by_interrupt()
    try:
        for core in () if abort else cores:
            if not core.is_shut:
                core.iterators.submit_rest()
        exiting = True
        _end(cores, abort=abort)
        for core in cores:
            core.iterators.abandon()
    except BaseException:  # Ctrl-C, by a user who did not want to wait
        exiting = True
        _end(cores, abort=True)
        raise


def end_with_process() -> None:
    """End the pools of a process that multiprocessing has started before it waits for their workers.

    In such a process that comes before the threads are joined.
    """
    _finalize(os.getpid())


@functools.lru_cache(maxsize=1)
def _finalize(pid: int) -> None:
    """Let multiprocessing end the pools of this process; `pid` is new in a forked child."""
    util.Finalize(None, _at_exit, exitpriority=FIRST)


def _end(cores: Iterable[PoolCore], *, abort: bool) -> None:
    for core in cores:
        if abort:
            core.abort()
        else:
            core.shutdown(wait=False, cancel=False)
    for core in cores:
        core.join()


def _ended_by_interrupt() -> bool:
    if hasattr(sys, "ps1"):  # a session: what was interrupted there was some earlier statement
        return False
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return isinstance(last, KeyboardInterrupt)


def _in_fork() -> None:
    global exiting
    exiting = False
    for core in _all_cores():
        core.close_copy()
    _cores.clear()


forks.around(__name__, in_child=_in_fork)

# This is called where threads are joined at the end, before atexit's functions: so a future that another
# thread waits for is settled before that thread is waited for.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
