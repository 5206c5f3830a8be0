"""The program of the fork server: it loads modules, and forks a worker for each request.

See `fork_server` for the messages.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker, spawn, util
from typing import Any

from sharedarray._platform import platform
from sharedarray._pool.processes import group_signals, threads
from sharedarray._pool.processes.orders import end_of_imports

__all__ = ["CHUNK", "COUNT", "REPORT", "Inherited", "main", "settle"]

COUNT = struct.Struct("=H")  # descriptors that come with a request
REPORT = "\0"  # begins a line about a module, and ends the module's name
# Descriptors in one message: Linux takes 253.
CHUNK = 250

# -- in a worker ----------------------------------------------------------------------------------------

_inherited: list[int] = []  # descriptors that came with the request for this process
# Environment variables that modules have changed as they were loaded: values before and after.
_loaded: dict[str, tuple[str | None, str | None]] = {}


class Inherited:
    """A descriptor that is sent to a worker: multiprocessing's ``DupFd``."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """Return the descriptor; runs in the worker."""
        return _inherited[self._index]


def settle(
    environment: dict[str, str], directory: Inherited | str | None, bytecode: tuple[bool, str | None]
) -> None:
    """Set the caller's environment, working directory and use of bytecode files in this new worker.

    A variable that a module has changed when the server loaded it stays changed, unless the caller has
    changed the variable since the server's start.
    """
    for name, (before, after) in _loaded.items():
        if environment.get(name) == before:
            if after is None:
                environment.pop(name, None)
            else:
                environment[name] = after
    zone = os.environ.get("TZ")
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    os.environ.update(environment)
    if os.environ.get("TZ") != zone:
        time.tzset()
    sys.dont_write_bytecode, sys.pycache_prefix = bytecode
    if isinstance(directory, Inherited):
        handle = directory.detach()
        os.fchdir(handle)
        os.close(handle)
    elif directory is not None:
        with contextlib.suppress(OSError):  # its user may not enter it, so no path is relative to it anyway
            os.chdir(directory)


# -- the server -------------------------------------------------------------------------------------------


def main(number: int, before: dict[str, str], modules: Sequence[str]) -> None:
    """Run the fork server: its socket is descriptor ``number``, ``before`` the environment at its start."""
    platform.keep_standard_streams()
    end_of_imports()  # of ours: the caller's modules may rely on collections, or disable them
    # The server ends with its caller, not by a signal.
    ignored = [getattr(signal, name) for name in group_signals.NAMES]
    old = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    control = socket.socket(fileno=number)
    control.setblocking(True)  # gevent's sockets, which the caller may have, are not
    for module in modules:
        _load(module, control)
    with contextlib.suppress(OSError):
        control.send(b"\n", socket.MSG_DONTWAIT)
    now = dict(os.environ)
    for name in {*before, *now}:
        if before.get(name) != now.get(name):
            _loaded[name] = before.get(name), now.get(name)
    os.chdir("/")  # the caller's directory may be removed, or its file system unmounted
    threads.find_loaded()
    gc.freeze()  # no collection in a worker reads or copies the memory of what is loaded here
    _Server(control, old).run()


def _load(module: str, control: socket.socket) -> None:
    """Announce a module and load it; report if that fails, or if it has started threads."""
    _tell(control, module)
    there = {thread.ident for thread in threading.enumerate()}
    count = _thread._count()
    try:
        __import__(module)
    except BaseException as error:
        text = f"{type(error).__name__}: "
        with contextlib.suppress(BaseException):  # its __str__
            text += str(error)
        _tell(control, f"{REPORT}{module}{REPORT}could not be loaded ({text})")
    more = _thread._count() - count
    if more > 0:
        names = [thread.name for thread in threading.enumerate() if thread.ident not in there]
        text = f"started {'a thread' if more == 1 else f'{more} threads'}"
        if names:
            text += f" ({', '.join(names)})"
        _tell(control, f"{REPORT}{module}{REPORT}{text}, which forked workers lack")


def _tell(control: socket.socket, text: str) -> None:
    """Write a line for the caller, unless its buffer is full."""
    with contextlib.suppress(OSError):
        line = " ".join(text.split("\n")).encode(errors="replace")
        control.send(b"\n" + line, socket.MSG_DONTWAIT)


class _Server:
    """The loop of a fork server; ``handlers`` are those of signals that it ignores and a worker does not."""

    def __init__(self, control: socket.socket, handlers: dict[int, Any]) -> None:
        self._control = control
        self._handlers = handlers
        self._status: dict[int, int] = {}  # by pid, the pipe for the exit code
        self._wake, self._waker = platform.opened(os.pipe)
        os.set_blocking(self._wake, False)
        os.set_blocking(self._waker, False)
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        # The thread of the caller that started this server may have blocked it, and workers get its mask.
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Fork a worker for each request, until the caller and all workers have ended."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll()}
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 1 << 16)
                self._reap(os.WNOHANG)
            if self._control.fileno() in ready and not self._serve():
                break
        self._control.close()
        self._reap(0)
        os._exit(0)

    def _reap(self, flag: int) -> None:
        """Send the exit codes of workers that have ended; with a flag of 0 wait for all workers."""
        with contextlib.suppress(ChildProcessError):
            while flag or self._status:
                pid, status = os.waitpid(-1, flag)
                if not pid:
                    break
                pipe = self._status.pop(pid, None)
                if pipe is not None:  # else it is a process that a module has started
                    self._send(pipe, os.waitstatus_to_exitcode(status))
                    os.close(pipe)

    def _send(self, pipe: int, value: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # the caller has ended
            forkserver.write_signed(pipe, value)

    def _serve(self) -> bool:
        """Read a request and fork; return False if the caller has ended."""
        try:
            descriptors = self._request()
        except (EOFError, ConnectionError):
            return False
        orders, status, *rest = descriptors
        with warnings.catch_warnings():
            # Python warns here of the threads of loaded modules.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                pid = os.fork()
            except OSError:
                pid = -1  # there is no process: the caller reads the end of the pipe
        if not pid:
            self._become_worker(orders, status, rest)
        if pid > 0:
            self._status[pid] = status
            self._send(status, pid)
        else:
            os.close(status)
        for descriptor in (orders, *rest):
            os.close(descriptor)
        return True

    def _request(self) -> list[int]:
        head = self._control.recv(COUNT.size, socket.MSG_WAITALL)
        if len(head) < COUNT.size:
            raise EOFError
        (count,) = COUNT.unpack(head)
        found: list[int] = []
        while len(found) < count:
            data, some, _, _ = socket.recv_fds(
                self._control, 1, CHUNK, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
            if not data:
                raise EOFError
            found += some
        return found

    def _become_worker(self, orders: int, status: int, rest: list[int]) -> None:
        """Run a worker in this process, and end with its exit code."""
        code = 1
        parent = platform.opened(os.dup, orders)
        try:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._control.close()
            for descriptor in (self._wake, self._waker, status, *self._status.values()):
                os.close(descriptor)
            self._status.clear()
            tracker, *_inherited[:] = rest
            with contextlib.suppress(AttributeError):  # else the worker starts a tracker of its own
                resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
            atexit._clear()  # the exit functions of modules that the server has loaded
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
            code = spawn._main(orders, parent)
            atexit._run_exitfuncs()
        except BaseException:
            if not _is_closed(parent):  # else the caller was killed while it sent the orders
                sys.excepthook(*sys.exc_info())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)


def _is_closed(pipe: int) -> bool:
    """Return whether the other end of a pipe is closed."""
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    return any(found & select.POLLHUP for _, found in ready.poll(0))
