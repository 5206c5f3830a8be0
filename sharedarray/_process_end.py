"""The end of the process: what leaves then, and the daemon threads that still run.

A process that ends in order first closes what other processes wait for, by the functions that
`at_process_end` registers. Daemon threads run until the interpreter stops them, a moment later. Such a thread
may be in a call of an object that is closed now. To raise there would print a traceback, or run what the
program does about errors. So the thread halts, as a thread does that waits for a `queue.Queue`::

    the thread that ends the process      a daemon thread
    ending = True                         for item in stream:
    close all, wake what sleeps ────────▶     the call fails, and gives up its locks
    ...                                       halt(): sleeps until the interpreter has stopped it

A call halts when it has given up every lock of threads, so that the end of the process waits for none.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar

from sharedarray._clock import time

__all__ = ["at_process_end", "halt", "halting", "tell_multiprocessing"]

_End = TypeVar("_End", bound=Callable[[], object])
_F = TypeVar("_F", bound=Callable[..., Any])

_LONG = 3600.0  # seconds of one sleep of a thread that has halted

_at_end: list[Callable[[], object]] = []
_told: list[int] = []  # the process whose `multiprocessing` calls these functions
_ending: list[tuple[int, int]] = []  # the process whose end has begun, and the thread that ends it


def at_process_end(function: _End) -> _End:
    """Call a function when a process with parties ends in order, for them to leave; as a decorator."""

    def at_end() -> None:
        _ending[:] = [(os.getpid(), get_ident())]
        function()

    atexit.register(at_end)
    _at_end.append(at_end)
    return function


def tell_multiprocessing() -> None:
    """Let multiprocessing call the functions too.

    Its child processes skip `atexit`. And a process that ends waits there for its children, which may wait
    for its parties to leave.
    """
    if _told != [os.getpid()]:
        from multiprocessing import util  # here: it takes 3 ms, and most processes are no parties

        for function in _at_end:
            util.Finalize(None, function, exitpriority=0)
        _told[:] = [os.getpid()]


def halt() -> None:
    """Never return, in a daemon thread of a process whose end has begun; else return at once.

    To be called with no lock of threads held.
    """
    for pid, thread in _ending:
        if pid == os.getpid() and thread != get_ident() and threading.current_thread().daemon:
            while True:
                time.sleep(_LONG)


def halting(function: _F) -> _F:
    """Let a call that fails `halt` before it raises; as a decorator of what a program calls."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception:
            halt()
            raise

    return called  # type: ignore[return-value]
