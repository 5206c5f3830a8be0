"""The pool's thread, and how callbacks of futures are called.

The thread starts and stops workers, keeps the timers, and reads the pipes if no caller does.

A second thread calls the callbacks of futures, one after the other, when all that arrived with their outcomes
is settled and no lock is held. So a callback may wait for anything that the pool has to do. It is started for
a callback, and ends if no other one follows.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sharedarray._pool.futures import PoolFuture
from sharedarray._pool.processes import copies, group_signals

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Manager"]

# Seconds without callbacks after which the thread that calls them ends.
QUIET: Final = 0.1


class Manager:
    """The threads of a pool.

    Attributes
    ----------
    ident
        The identifier of the thread that manages the pool, while it is not in a callback; 0 for none.
    is_over
        Whether the pool has ended.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.ident = 0
        self._thread: threading.Thread | None = None
        self._callbacks: deque[PoolFuture] = deque()  # settled futures whose callbacks are to be called
        self._caller: threading.Thread | None = None  # calls them, or has
        self._is_calling = False  # it has not ended
        self._has_no_caller = False  # there can be no such thread: the pool's thread calls them
        self._to_call = threading.Semaphore(0)  # a count for each of them, and one for the end
        self.is_over = False
        self._over = threading.Event()
        self._blocked: set[Any] = set()  # signals that the program blocks

    # For other threads

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="sharedarray-pool", daemon=True)
        self._thread.start()

    def undo_start(self) -> None:
        """Forget the thread, which could not be started."""
        self._thread = None

    @property
    def is_started(self) -> bool:
        """True if there is a thread, or was one."""
        return self._thread is not None

    @property
    def is_current(self) -> bool:
        """True if this thread manages the pool."""
        return threading.current_thread() is self._thread

    def join(self) -> None:
        """Wait for the end of the threads, unless one of them asks."""
        if self._thread is None or threading.current_thread() in (self._thread, self._caller):
            return
        # Not Thread.join alone: before Python 3.13, a join that Ctrl-C broke off takes the thread for ended.
        self._over.wait()
        self._thread.join()

    def queue_callbacks(self, future: PoolFuture) -> bool:
        """Queue the callbacks of a future if this thread settles it for others; return whether it did so."""
        settles = self.is_current or self._core.receiver.is_reading
        if not (settles or threading.current_thread() is self._caller):
            return False
        with self._core.lock:
            self._callbacks.append(future)
            if not (self._is_calling or self._has_no_caller):
                self._start_caller()
        self._to_call.release()
        if self._has_no_caller:
            self._core.wake_manager()
        return True

    def _start_caller(self) -> None:
        caller = threading.Thread(target=self._call_callbacks, name="sharedarray-pool", daemon=True)
        try:
            caller.start()
        except BaseException:  # there are too many threads, or the interpreter is at its end
            self._has_no_caller = True
        else:
            self._caller, self._is_calling = caller, True

    def clear(self) -> None:
        """Forget everything, in a fork of the pool's process."""
        self._callbacks.clear()
        self._to_call = threading.Semaphore(0)
        self._is_calling = False
        self.ident = 0

    # The threads

    def _run(self) -> None:
        core = self._core
        self._blocked = group_signals.block()
        self.ident = threading.get_ident()
        try:
            while core.housekeeping.run_once():
                self._call_instead()
                core.housekeeping.wait()
                if core.is_foreign:
                    copies.end_copy()  # what this thread has loaded has forked
        except BaseException as broken:
            if core.is_foreign:
                copies.end_copy()
            self.fail(broken)
        self._end()

    def fail(self, broken: BaseException) -> None:
        """Give the pool up: something has raised an exception in its thread that should not have."""
        self._core.fail_for_good("the pool's management thread failed", broken)

    def _end(self) -> None:
        core = self._core
        try:
            core.housekeeping.finish()
        finally:
            caller = self._caller
            if caller is not None:
                self._to_call.release()
                caller.join()
            self._call_instead()
            with core.lock:
                self.ident = 0
                self.is_over = True
                self._over.set()
            core.receiver.close()

    def _call_instead(self) -> None:
        """Call the callbacks in the pool's thread, if there can be no other thread for it."""
        if self._has_no_caller:
            self.ident = 0
            while self._callbacks:
                self._call_one()
            self.ident = threading.get_ident()

    def _call_callbacks(self) -> None:
        """Call callbacks until there is none for a while, or the pool ends."""
        group_signals.block(self._blocked)
        while True:
            came = self._to_call.acquire(timeout=QUIET)
            with self._core.lock:
                if not self._callbacks:
                    self._is_calling = False
                    return
            if came:
                self._call_one()

    def _call_one(self) -> None:
        future = self._callbacks.popleft()
        future.call_back()
        if self._core.is_foreign:
            copies.end_copy()  # a callback has forked
