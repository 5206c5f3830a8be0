"""The start methods fork, spawn and forkserver, on multiprocessing's classes for them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from multiprocessing import forkserver, popen_fork, popen_spawn_posix, resource_tracker, util
from typing import Any

from sharedarray import _pipes as pipes
from sharedarray._platform import platform
from sharedarray._pool.processes import fork_server, interpreters
from sharedarray._pool.processes.fork_server_main import Inherited, settle
from sharedarray._pool.processes.orders import Preset, new_interpreter, orders

__all__ = ["Fork", "ForkServed", "Spawn"]

# The first code that a new interpreter runs. It shows that it is a Python. The parent may have files of its
# own in place of standard streams, which the interpreter does not inherit. Without the null device there, the
# next files that the interpreter opens would have these numbers.
_BEGIN = """\
import os
os.write({status}, {greeting!a})
while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
    os.set_inheritable(descriptor, True)
os.close(descriptor)
"""
# The exit code of a worker whose fork server was killed: multiprocessing's fork server has the same.
_UNKNOWN = 255
_NO_HANG = getattr(os, "WNOHANG", 1)


class _Exits:
    """Mixed into multiprocessing's Popen classes: any thread may ask for the exit code.

    The pool's thread and `multiprocessing.active_children` in another thread may ask at the same moment, and
    the kernel answers only one of them. In a fork of this process it answers neither: there the worker is no
    child, and counts as ended.
    """

    pid: int
    sentinel: int
    returncode: int | None
    _fds: list[int]

    def __init__(self, process_obj: Any) -> None:
        self._asking = threading.Lock()
        self._owner = os.getpid()
        super().__init__(process_obj)  # type: ignore[call-arg]

    def poll(self, flag: int = _NO_HANG) -> int | None:
        if self._owner != os.getpid():
            return 0
        if flag == 0 and self.returncode is None:
            self._until_ended()
        with self._asking:
            if self.returncode is None:
                self.returncode = self._status()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the worker, for as many seconds; return its exit code, None if it runs on."""
        if (
            timeout is not None
            and self.returncode is None
            and not pipes.wait_readable(self.sentinel, timeout)
        ):
            return None
        return self.poll(_NO_HANG if timeout == 0 else 0)

    def _status(self) -> int | None:
        code: int | None = super().poll()  # type: ignore[misc]
        return code

    def _until_ended(self) -> None:
        """Wait without reaping: a process that a task forked may hold the sentinel's pipe."""
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:  # macOS
            pipes.wait_readable(self.sentinel, None)


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Fork(_Exits, popen_fork.Popen):
    """A copy of this process."""


class Spawn(_Exits, popen_spawn_posix.Popen):
    """A new interpreter, which reads its orders from a pipe."""

    def _launch(self, process_obj: Any) -> None:
        running = resource_tracker.getfd()
        assert running is not None
        sent = orders(self, process_obj, new_interpreter(process_obj.environment))
        ours: list[int] = []
        theirs: list[int] = []
        try:
            tracker = platform.opened(os.dup, running)  # which may be as low as a standard stream's
            theirs.append(tracker)
            status, child_status = platform.opened(os.pipe)
            ours.append(status)
            theirs.append(child_status)
            child_orders, to_child = platform.opened(os.pipe)
            ours.append(to_child)
            theirs.append(child_orders)
            self._fds += theirs  # beside what the process object brings along
            command = interpreters.spawn_command(tracker_fd=tracker, pipe_handle=child_orders)
            program = interpreters.executable()
            greets = False
            if "-c" in command:  # not in a frozen program
                greets = not platform.runs(program)  # what this process runs is a Python
                greeting = interpreters.GREETING if greets else b""
                code = command.index("-c") + 1
                command[code] = _BEGIN.format(status=child_status, greeting=greeting) + command[code]
            self.pid = interpreters.launch([program, *command[1:]], self._fds)
            while theirs:
                os.close(theirs.pop())
            if greets:
                interpreters.check_greeting("a worker", self.pid, status)
        except BaseException:
            _close_all(*ours)
            raise
        finally:
            _close_all(*theirs)
        self.finalizer = util.Finalize(self, _close_all, ours)
        self.sentinel = status
        # Our end stays open for as long as this object lives: the child sees by it that we do.
        with os.fdopen(to_child, "wb", closefd=False) as pipe:
            pipe.write(sent)


class ForkServed(_Exits, popen_fork.Popen):
    """A copy of our fork server, whose child it is."""

    method = "forkserver"
    DupFd = Inherited

    def __init__(self, process_obj: Any) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Give the worker a descriptor; called as the process object is pickled."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: Any) -> None:
        here, directory = self._working_directory()
        try:
            environment = {**os.environ, **process_obj.environment}
            bytecode = sys.dont_write_bytecode, sys.pycache_prefix
            sent = orders(self, process_obj, Preset(settle, environment, directory, bytecode))
            for _ in range(
                2
            ):  # the server may be killed between the question whether it lives and the request
                server = fork_server.server_for(process_obj)
                try:
                    self._request(server, sent)
                    process_obj.reports = server.reports()
                    return
                except (EOFError, ConnectionError):
                    if self.finalizer is not None:
                        self.finalizer()
            raise server.failure()
        finally:
            if here is not None:
                os.close(here)

    def _request(self, server: fork_server.ForkServer, sent: memoryview) -> None:
        tracker = resource_tracker.getfd()
        assert tracker is not None
        status, to_child = server.fork([tracker, *self._fds])
        # Kept open for as long as this object lives: by it, the child sees that this process lives.
        alive = platform.opened(os.dup, to_child)
        self.finalizer = util.Finalize(self, _close_all, (status, alive))
        self.sentinel = status
        with os.fdopen(to_child, "wb") as pipe:
            pipe.write(sent)
        self.pid = forkserver.read_signed(status)

    def _status(self) -> int | None:
        if not pipes.wait_readable(self.sentinel, 0):
            return None
        try:
            return int(forkserver.read_signed(self.sentinel))
        except (OSError, EOFError):
            return _UNKNOWN

    def _until_ended(self) -> None:
        pipes.wait_readable(self.sentinel, None)

    def _working_directory(self) -> tuple[int | None, Inherited | str | None]:
        """Return this process's working directory, for a worker: open, and as it is handed over.

        It is handed over open, because it may have been removed, and its path may lead elsewhere by now.
        """
        try:
            here = platform.opened(os.open, ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # it may not be read
            with contextlib.suppress(OSError):
                return None, os.getcwd()
            return None, None
        return here, Inherited(self.duplicate_for_child(here))
