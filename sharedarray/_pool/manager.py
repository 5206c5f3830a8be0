"""The pool's thread, and how callbacks of futures are called.

The thread starts and stops workers, keeps the timers, and reads the pipes if no caller does.

It also calls the callbacks of futures, one after the other, when all that arrived with their outcomes is
settled and no lock is held. A callback may wait for anything that the pool has to do: if it takes long, a
second thread (`_watch_callbacks`) manages the pool until the callbacks are done.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sharedarray._clock import time
from sharedarray._pool.futures import PoolFuture
from sharedarray._pool.processes import copies, group_signals

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Manager"]

# Seconds that callbacks may take before another thread manages the pool; how many times that without any
# callbacks until that thread ends.
LONG_CALLBACK: Final = 0.02
QUIET: Final = 5


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
        self._threads: list[threading.Thread] = []  # all that may not have ended
        # Settled futures whose callbacks are to be called, the thread that calls them, and since when.
        self._callbacks: deque[PoolFuture] = deque()
        self._calling_thread: threading.Thread | None = None
        self._calling_since = 0.0
        self._deputy: threading.Thread | None = None  # manages the pool if callbacks take long
        # The thread that managed before and has called all callbacks; set if it manages again, or at the end.
        self._former: threading.Thread | None = None
        self._returned = threading.Event()
        self.is_over = False
        self._over = threading.Event()
        self._blocked: set[Any] = set()  # signals that the program blocks
        self._is_finished = False

    # For other threads

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="sharedarray-pool", daemon=True)
        self._threads.append(self._thread)
        self._thread.start()

    def undo_start(self) -> None:
        """Forget the thread, which could not be started."""
        self._thread = None
        self._threads.clear()

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
        if self._thread is None or threading.current_thread() in self._threads:
            return
        # Not Thread.join alone: before Python 3.13, a join that Ctrl-C broke off takes the thread for ended.
        self._over.wait()
        for thread in list(self._threads):
            thread.join()

    def queue_callbacks(self, future: PoolFuture) -> bool:
        """Queue the callbacks of a future if this thread settles it for others; return whether it did so."""
        if not self.is_current and not self._core.receiver.is_reading:
            return False
        self._callbacks.append(future)
        if len(self._callbacks) == 1 and self._calling_thread is None:
            self._core.wake_manager()
        return True

    def clear(self) -> None:
        """Forget everything, in a fork of the pool's process."""
        self._callbacks.clear()
        self.ident = 0

    # The threads

    def _run(self) -> None:
        self._blocked = group_signals.block()
        while not self._manage() and self._wait_for_return():
            pass

    def _manage(self) -> bool:
        """Manage the pool; return whether to its end. If not, another thread does so by now."""
        core = self._core
        managing = True
        self.ident = threading.get_ident()
        try:
            while managing and core.housekeeping.run_once():
                managing = self._call_back()
                if managing:
                    core.housekeeping.wait(now=bool(self._callbacks) and self._calling_thread is None)
                    if core.is_foreign:
                        copies.end_copy()  # what this thread has loaded has forked
                    managing = self._call_back() and not self._return_to_former()
        except BaseException as broken:
            if core.is_foreign:
                copies.end_copy()
            self.fail(broken)
        if managing:
            self._end()
        return managing

    def fail(self, broken: BaseException) -> None:
        """Give the pool up: something has raised an exception in its thread that should not have."""
        self._core.fail_for_good("the pool's management thread failed", broken)

    def _end(self) -> None:
        core = self._core
        try:
            if not self._is_finished:
                self._is_finished = True
                core.housekeeping.finish()
        finally:
            if self._call_back():
                with core.lock:
                    self.is_over = True
                    self._over.set()
                    self._returned.set()
                core.receiver.close()

    def _wait_for_return(self) -> bool:
        """Wait until this thread manages the pool again; return False at the pool's end."""
        current = threading.current_thread()
        with self._core.lock:
            if self._over.is_set():
                return False
            self._former = current
            self._returned.clear()
        self._core.wake()
        self._returned.wait()
        return self._thread is current

    def _return_to_former(self) -> bool:
        """Let the thread that managed before do so again; return whether there is such a thread."""
        if self._former is None:
            return False
        with self._core.lock:
            self._deputy, self._thread, self._former = self._thread, self._former, None
            self.ident = 0
            self._returned.set()
        return True

    def _call_back(self) -> bool:
        """Call the callbacks of what is settled; return whether this thread still manages the pool.

        One after the other, as the standard library does, and in one thread at a time.
        """
        if not self._callbacks:
            return True
        core = self._core
        current = threading.current_thread()
        with core.lock:
            if self._calling_thread is not None:
                return True  # the other thread
            self._calling_thread = current
            self.ident = 0
            self._calling_since = time.monotonic()
            watched = self._deputy is not None
        if not watched:
            self._start_deputy()
        while True:
            with core.lock:
                if not self._callbacks:
                    self._calling_thread = None
                    if self._thread is not current:
                        return False
                    self.ident = threading.get_ident()
                    return True
                future = self._callbacks.popleft()
            future.call_back()
            if core.is_foreign:
                copies.end_copy()  # a callback has forked
            del future

    def _start_deputy(self) -> None:
        """Start the thread that manages the pool if callbacks take long."""
        deputy = threading.Thread(target=self._watch_callbacks, name="sharedarray-pool", daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), deputy]
        self._deputy = deputy
        try:
            deputy.start()
        except BaseException:  # there are too many threads, or the interpreter is at its end
            self._deputy = None
            self._threads = [thread for thread in self._threads if thread is not deputy]

    def _watch_callbacks(self) -> None:
        """Manage the pool as soon as callbacks take long; end if there are none for a while."""
        group_signals.block(self._blocked)
        quiet = 0
        while not self._over.wait(LONG_CALLBACK):
            with self._core.lock:
                if self._calling_thread is None:
                    quiet += 1
                    if quiet > QUIET:
                        self._deputy = None
                        return
                    continue
                quiet = 0
                took = time.monotonic() - self._calling_since
                if self._calling_thread is not self._thread or took < LONG_CALLBACK:
                    continue
                self._thread, self._deputy = threading.current_thread(), None
            if self._manage():
                return
