"""The start method spawn on Windows."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from multiprocessing import reduction, util
from typing import Any

from sharedarray._platform import platform
from sharedarray._pool.processes import interpreters
from sharedarray._pool.processes.orders import new_interpreter, orders

__all__ = ["NewInterpreter"]


class NewInterpreter:
    """A new interpreter, which reads its orders from a pipe whose end it copies from this process.

    It has a process group of its own, so that Ctrl-C does not reach it.
    """

    method = "spawn"

    def __init__(self, process_obj: Any) -> None:
        handles: Any = importlib.import_module("msvcrt")  # processes share handles on Windows
        reading, writing = platform.opened(os.pipe)
        try:
            command = interpreters.spawn_command(
                parent_pid=os.getpid(), pipe_handle=handles.get_osfhandle(reading)
            )
            self._process = _Detached(
                [_program(), *command[1:]],
                env=_environment(),
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        self.pid = self._process.pid
        self.sentinel: int = int(self._process._handle)  # type: ignore[attr-defined]
        self.returncode: int | None = None
        # The end that the child copies stays open until the child has surely done so.
        self.finalizer = util.Finalize(self, os.close, (reading,))
        with os.fdopen(writing, "wb") as pipe:
            try:
                pipe.write(orders(self, process_obj, new_interpreter(process_obj.environment)))
            except BaseException:
                self.kill()
                raise

    def duplicate_for_child(self, handle: int) -> int:
        """Give the child a handle; called as the process object is pickled."""
        return int(reduction.__dict__["duplicate"](handle, self.sentinel))

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process; return its exit code, None if it runs on."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit code, None if the process runs."""
        code = self._process.poll()
        if code is not None:
            self.returncode = -signal.SIGTERM if code == _ENDED_BY_US else code
        return self.returncode

    def terminate(self) -> None:
        """End the process at once."""
        with contextlib.suppress(OSError):
            winapi: Any = importlib.import_module("_winapi")
            winapi.TerminateProcess(self.sentinel, _ENDED_BY_US)

    kill = terminate

    def close(self) -> None:
        """Close the descriptor of the pipe."""
        self.finalizer()


class _Detached(subprocess.Popen[bytes]):
    """A process whose object may be collected while it runs."""

    def __del__(self, *_: Any) -> None:
        pass


# Exit status of a process that `terminate` ended; no program gives it to itself.
_ENDED_BY_US = 0x10000


def _program() -> str:
    """Return the program to start: in a virtual environment, the one that its launcher starts."""
    chosen = interpreters.executable()
    behind = getattr(sys, "_base_executable", None)
    return behind if behind and os.path.normcase(chosen) == os.path.normcase(sys.executable) else chosen


def _environment() -> dict[str, str]:
    """Return the environment of that program, which tells it its virtual environment."""
    found = {**os.environ, interpreters.HASH_SEED: interpreters.hash_seed()}
    if getattr(sys, "_base_executable", sys.executable) != sys.executable:
        found["__PYVENV_LAUNCHER__"] = sys.executable
    return found
