"""The fork server: a process that has loaded NumPy and the worker's code, and forks itself for each worker.

This one differs from multiprocessing's fork server in four ways. It listens on an inherited socket pair, so
that it needs no path, and ``TMPDIR`` may be long, unwritable or missing. It finds modules by the caller's
path, and reports those that cannot be loaded. A worker gets the environment and the working directory that
the caller has at the worker's start, not those of the server's start. And it ends after its last worker, so
that no process above inherits a zombie::

    caller                                socket pair                         server
    ------                                -----------                         ------
    starts the server ──────────────────▶ (inherited)
                      ◀────────────────── "+"                  the program is a Python
                      ◀────────────────── "LF wave"            the module that it loads next
                      ◀────────────────── "LF NUL wave NUL …"  what is wrong with it
    count, descriptors ─────────────────▶                      fork
    orders            ──── pipe ────────▶                      (read by the worker)
                      ◀─── pipe ────────                       the worker's pid, and in the end its exit code
    (dies)            x─────────────────▶ end of file          wait for all workers, and end

This is the caller's side, with the servers of this process. The server's is `fork_server_main`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import process, resource_tracker, util
from typing import Any

from sharedarray import _errors as errors, _forks as forks
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._pool.processes import interpreters, threads
from sharedarray._pool.processes.fork_server_main import CHUNK, COUNT, REPORT

__all__ = ["ForkServer", "server_for"]

# Seconds that a server has to end: one that has closed its socket, or each at the end of this process; one
# that was closed, which ends at once if it has no workers; and seconds between two checks.
_END, _CLOSE, _CHECK = 1.0, 0.1, 0.005
# Fork servers that wait for the next worker. Each has some 30 MB of its own.
_SERVERS = 4
# Loaded by the fork server before its first fork, in this order. NumPy leaves numpy.random to its first use,
# which takes 9 ms here and 18 ms in each worker of a pool just made.
_PRELOAD = (
    *("numpy", "sharedarray._pool.worker.main"),
    *("sharedarray._executor.numeric.blockwise", "numpy.random"),
)
# Beginnings of the environment variables that an interpreter or a library reads once, at its start: a fork
# server that started with other values is of no use for a new worker.
_READ_ONCE = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_TUNABLES", *threads.VARIABLES)
_LATE = -50  # a finalizer's priority: after multiprocessing has joined the children

# The beginning is that of multiprocessing's own command: programs made by PyInstaller run such a command, and
# start the application a second time for another one.
_BOOT = (
    "from multiprocessing.forkserver import main; import gc, os, sys\n"
    "try: os.write({number}, {greeting!a})\n"
    "except OSError: os._exit(1)\n"  # the caller has ended
    "os.environ.update({extra!a}); before = dict(os.environ); sys.path[:] = {path!a}; "
    "sys.dont_write_bytecode, sys.pycache_prefix = {bytecode!a}; "
    "gc.disable(); "  # collections find nothing while the modules below are loaded; `main` enables them
    "from sharedarray._pool.processes.fork_server_main import main; main({number}, before, {modules!a})"
)


class ForkServer:
    """A fork server, as its caller sees it.

    It loads ``modules`` in this order before it forks; its environment is the caller's and ``extra``.
    """

    def __init__(self, modules: Sequence[str], extra: Mapping[str, str]) -> None:
        self._modules = tuple(modules)
        self._extra = dict(extra)
        self._control = -1  # the socket; Python would warn of an open socket object at the program's end
        self._pid = 0
        self._code: int | None = None
        self._heard = b""  # what the server has written about the modules
        self._reports: dict[str, str] = {}

    def fork(self, descriptors: Sequence[int]) -> tuple[int, int]:
        """Request a worker that inherits descriptors; raise ConnectionError if the server has just ended.

        Returns
        -------
        tuple of int
            The pipe from which `multiprocessing.forkserver.read_signed` reads the worker's pid and exit code,
            and the pipe to write its orders to.
        """
        self._run()
        status, child_status = platform.opened(os.pipe)
        child_orders, orders = platform.opened(os.pipe)
        try:
            sent = [child_orders, child_status, *descriptors]
            with _as_socket(self._control) as control:
                control.sendall(COUNT.pack(len(sent)))
                for start in range(0, len(sent), CHUNK):
                    socket.send_fds(control, [b"\0"], sent[start : start + CHUNK])
        except BaseException:
            os.close(status)
            os.close(orders)
            raise
        finally:
            os.close(child_status)
            os.close(child_orders)
        return status, orders

    def close(self) -> None:
        """Let the server end when its workers have. Idempotent."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def reaped(self) -> bool:
        """Reap the server if it has ended; return whether it has."""
        if self._pid:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:  # another part of the program has reaped it
                self._pid = 0
            else:
                if pid:
                    self._pid, self._code = 0, os.waitstatus_to_exitcode(status)
        return not self._pid

    def _ended(self) -> str:
        """Return how the server ended, after it has closed its socket."""
        _wait_until(self.reaped, _END)
        return "in an unknown way" if self._code is None else f"with exit code {self._code}"

    def failure(self) -> ChildProcessError:
        """Return the error that says how the server ended, and which module it was loading."""
        self._hear()
        lines = [line for line in self._heard.split(b"\n") if not line.startswith(REPORT.encode())]
        last = lines[-1].decode(errors="replace") if len(lines) > 1 else ""
        where = f" while it loaded {last}" if last else ""
        return ChildProcessError(f"the pool's fork server ended{where}, {self._ended()}")

    def _hear(self) -> None:
        """Read what the server has written; not by a socket object, which waits if it is gevent's."""
        if self._control < 0:
            return
        ready = select.poll()
        ready.register(self._control, select.POLLIN)
        with contextlib.suppress(OSError):
            while ready.poll(0) and (piece := os.read(self._control, 1 << 16)):
                self._heard += piece

    def reports(self) -> dict[str, str]:
        """Return what is wrong with modules, by their names, after the first fork: then all are loaded."""
        self._hear()
        for line in self._heard.decode(errors="replace").split("\n"):
            _, module, text = line.split(REPORT, 2) if line.startswith(REPORT) else ("", "", "")
            if module:
                self._reports[module] = text
        self._heard = b""
        return self._reports

    def _run(self) -> None:
        """Start the server if it is not running."""
        if self._control >= 0:
            if not self.reaped():
                return
            self.close()
        ours, theirs = platform.opened(socket.socketpair)
        with ours:
            with theirs:
                number, self._code = theirs.fileno(), None
                self._heard = b""
                self._reports.clear()
                bytecode = sys.dont_write_bytecode, sys.pycache_prefix
                path, modules = interpreters.import_path(), self._modules
                code = _BOOT.format(
                    number=number,
                    greeting=interpreters.GREETING,
                    extra=self._extra,
                    path=path,
                    bytecode=bytecode,
                    modules=modules,
                )
                options = *interpreters.path_flags(), *interpreters.flags()
                command = [interpreters.executable(), *options, "-c", code]
                self._pid = interpreters.launch(command, [number])
            try:
                interpreters.check_greeting("the pool's fork server", self._pid, ours.fileno())
            except errors.SharedArrayError:
                self._pid = 0
                raise
            self._control = ours.detach()


@contextlib.contextmanager
def _as_socket(number: int) -> Iterator[socket.socket]:
    """Return a context manager: a socket object for a descriptor, which stays open."""
    found = socket.socket(fileno=number)
    try:
        yield found
    finally:
        found.detach()


# The fork servers, the one that was used last at the end; and those that end when their workers have. A fork
# of this process empties both: its parent goes on with these servers.
_servers: dict[tuple[Any, ...], ForkServer] = {}
_closed: list[ForkServer] = []


def server_for(worker: Any) -> ForkServer:
    """Return a fork server that has read the variables and loaded the modules that a worker needs."""
    fixed = {name: value for name, value in os.environ.items() if name.startswith(_READ_ONCE)}
    fixed.pop(interpreters.HASH_SEED, None)  # the same for all workers of a process
    extra: dict[str, str] = {}
    modules = *_PRELOAD, *worker.preload
    if worker.can_limit_loaded:  # the worker limits threads itself
        modules = "threadpoolctl", *modules
        for name in worker.environment:
            fixed.pop(name, None)
    else:
        extra = worker.environment
    key = modules, *sorted({**fixed, **extra}.items()), *interpreters.flags()
    server = _servers.pop(key, None)
    _closed[:] = [closed for closed in _closed if not closed.reaped()]
    if server is None:
        server = ForkServer(modules, extra)
    if not _servers and process.parent_process() is not None:
        util.Finalize(None, _end_helpers, exitpriority=_LATE)
    _servers[key] = server
    while len(_servers) > _SERVERS:
        oldest = _servers.pop(next(iter(_servers)))
        oldest.close()
        _closed.append(oldest)
        _wait_until(oldest.reaped, _CLOSE)
    return server


def _end_helpers() -> None:
    """At the end of this process, end its fork servers and resource tracker, and wait for that.

    Otherwise a process above would adopt them.
    """
    for server in _servers.values():
        server.close()
    _wait_until(lambda: all(server.reaped() for server in (*_servers.values(), *_closed)), _END)
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    pid, pipe = getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)
    if isinstance(pid, int) and isinstance(pipe, int) and not _reaped(pid):
        tracker._fd = tracker._pid = None  # type: ignore[union-attr]
        os.close(pipe)
        _wait_until(lambda: _reaped(pid), _END)


def _reaped(pid: int) -> bool:
    """Reap a child if it has ended; return whether it has, or is no child of this process."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds, for at most so many seconds."""
    for _ in range(round(seconds / _CHECK)):
        if condition():
            break
        time.sleep(_CHECK)


def _after_fork_in_child() -> None:
    for server in _servers.values():
        server.close()  # or the parent's server would live for as long as this process
    _servers.clear()
    _closed.clear()


forks.around(__name__, in_child=_after_fork_in_child)
