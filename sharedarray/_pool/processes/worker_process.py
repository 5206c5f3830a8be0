"""`WorkerProcess`, a process that runs a worker, and the start of one."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import process, resource_tracker
from typing import Any

from sharedarray import (
    _forks as forks,
    _functions as functions,
    _interpreter as interpreter,
    _reloads as reloads,
)
from sharedarray._platform import platform
from sharedarray._pool.processes import group_signals, threads
from sharedarray._pool.processes.orders import end_of_imports

__all__ = ["WorkerProcess", "default_method", "make_ready", "method_of", "start"]

# The classes by which each start method starts a worker.
_STARTERS: dict[str, Any] = {}
if "fork" in multiprocessing.get_all_start_methods():
    from sharedarray._pool.processes import posix

    _STARTERS.update(fork=posix.Fork, spawn=posix.Spawn, forkserver=posix.ForkServed)
else:
    from sharedarray._pool.processes import windows

    _STARTERS.update(spawn=windows.NewInterpreter)

# Descriptors that the start of a worker may need at once, with that of the fork server and of the tracker.
_DESCRIPTORS = 16


def default_method() -> str:
    """Return the start method of pools without an ``mp_context``: forkserver if the system has it."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def method_of(mp_context: Any) -> str:
    """Return the start method for a name, a multiprocessing context, or None."""
    if mp_context is None:
        return default_method()
    method = mp_context
    if not isinstance(mp_context, str):
        ask = getattr(mp_context, "get_start_method", None)
        if ask is None:
            raise TypeError(
                "mp_context must be a multiprocessing context or the name of a start method, "
                f"not {mp_context!r}" + (". Next step: write initializer=" if callable(mp_context) else "")
            )
        method = ask()
    known = multiprocessing.get_all_start_methods()
    if method not in known:
        raise ValueError(f"unknown start method {method!r}: on this platform there are {', '.join(known)}")
    return str(method)


class WorkerProcess(process.BaseProcess):
    """A process that runs `sharedarray._pool.worker.main` over its ends of two pipes."""

    # None: the child keeps the start method that the user has chosen for multiprocessing in general.
    _start_method = None

    def __init__(self, method: str, name: str, ends: Any, setup: Any) -> None:
        # Never daemonic, though this process may be: tasks may start processes, and a worker ends by itself
        # when its parent has ended.
        super().__init__(name=name, daemon=False)
        self.method = method
        self.environment: dict[str, str] = setup.threads
        self.can_limit_loaded = threads.can_limit_loaded()
        self.preload: tuple[str, ...] = setup.preload
        # By name of a module that the fork server could not load properly: the text of the fork server.
        self.reports: dict[str, str] = {}
        self._group_signals = group_signals.chosen()
        self._ends: Any = ends
        self._setup: Any = setup
        # Modules that the fork server may have loaded before this process loaded them anew.
        self._reloaded = reloads.since(0) if method == "forkserver" else []
        self._inherited = functions.before_fork(setup.initializer) if method == "fork" else None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's name for it
        return _STARTERS[process_obj.method](process_obj)

    def start(self) -> None:
        """Start the process, in a daemonic process too.

        multiprocessing forbids daemonic processes to have children, since SIGTERM ends them without cleanup
        and would leave the children behind. A worker does not stay behind: it ends with its parent, however
        that ends. Workers of multiprocessing.Pool, Dask's nanny and torch's DataLoader are daemonic.
        """
        if not process.current_process().daemon:
            super().start()
            return
        if self.__dict__.get("_popen") is not None:
            raise AssertionError("cannot start a process twice")
        popen = self._Popen(self)
        self.__dict__.update(_popen=popen, _sentinel=popen.sentinel)
        children = getattr(process, "_children", None)
        if isinstance(children, set):
            children.add(self)

    def terminate(self) -> None:
        """Kill the process: a worker that leaves SIGTERM to its parent would not end by it."""
        self.kill()

    def run(self) -> None:
        """Serve the pool; runs in the child."""
        from sharedarray._pool.worker import main  # here: the caller does not need what it imports

        if self.method == "spawn":
            end_of_imports()
        group_signals.leave_to_parent(self._group_signals)
        ends, setup, inherited = self._ends, self._setup, self._inherited
        self._ends = self._setup = self._inherited = None
        if self._reloaded:
            reloads.apply(self._reloaded)
        main.main(ends, setup, inherited)

    def forget(self) -> None:
        """Drop what only the child needed."""
        self._ends = self._setup = self._inherited = None


def start(worker: WorkerProcess) -> None:
    """Start a worker."""
    # multiprocessing opens pipes and sockets, and starts processes that inherit the standard streams.
    with _starting, group_signals.blocked(), platform.standard_streams():
        platform.need_descriptors(_DESCRIPTORS)  # multiprocessing leaves some open if it finds no more
        worker.start()
    worker.forget()


def make_ready(method: str) -> None:
    """Start the resource tracker, in the caller's thread: its start unblocks SIGINT in the thread.

    Raises
    ------
    LimitError
        No descriptor is free for the resource tracker.
    UnsupportedError
        There is no interpreter to start workers with. A frozen program has its own way for ``'spawn'``:
        `multiprocessing.freeze_support`.
    """
    if method != "fork" and not (method == "spawn" and getattr(sys, "frozen", False)):
        interpreter.python()
    if method != "fork" and hasattr(os, "fork"):  # elsewhere there is no such process
        ensure = getattr(resource_tracker, "ensure_running", None)
        if ensure is not None:
            with group_signals.as_before(), platform.standard_streams(), interpreter.undebugged():
                platform.opened(ensure)


# Held while a process is started, and across every fork: a fork in the middle of a start would have copies of
# descriptors that only the starting thread knows, and keep a worker or the fork server alive by them.
_starting = threading.RLock()


def _in_fork() -> None:
    """Free the locks that another thread may have held, which is gone; multiprocessing keeps its own."""
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    locks: tuple[Any, ...] = _starting, getattr(tracker, "_lock", None)
    for lock in locks:
        if hasattr(lock, "_at_fork_reinit"):
            lock._at_fork_reinit()


forks.around(__name__, before=_starting.acquire, in_parent=_starting.release, in_child=_in_fork)
