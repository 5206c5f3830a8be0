"""Worker processes: `multiprocessing` processes that never import the user's main module.

A worker is a `multiprocessing.process.BaseProcess`, so `multiprocessing.active_children()`,
`parent_process()`, `current_process()`, authentication keys, loggers, ``sys.path`` and the working directory
are as they are for any other process of that module. Three things differ, and they are why this file exists:

- **The main module stays at home.** multiprocessing imports the script again in each child, which is what
  makes ``if __name__ == "__main__"`` necessary. Here it is left out of what the child is told to prepare;
  functions of the main module travel by value instead (see `codec`).
- **The fork server is our own** (`forkserver`), with NumPy and the worker loaded once. multiprocessing's fork
  server is not touched. The pools of a process share ours. Pools that want other modules loaded have servers
  of their own. So have workers that start after a change of the environment variables that an interpreter or
  a numeric library reads only once. A server ends when this process has ended; a fork of this process starts
  a server for itself.
- **Signals that reach all processes**, such as Ctrl-C, are the program's: see `group_signals`. Where there
  are no signals to block, a child has a process group of its own, which Ctrl-C does not reach.

What a new interpreter needs before anything else, such as the limits of thread numbers in the environment,
rides on the preparation data, which is unpickled before the first import of this package in the child.

What a worker inherits is the caller's, as of the worker's start: the environment, removed variables included,
the working directory, ``sys.path``, ``sys.argv`` and the use of bytecode files.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import context, process, reduction, resource_tracker, spawn, util
from multiprocessing.reduction import ForkingPickler
from typing import Any

from sharedarray import interpreter, reloads
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.pool import forkserver, functions, group_signals, threads
from sharedarray.pool.transport import pipes

__all__ = [
    "WorkerProcess",
    "default_method",
    "make_ready",
    "method_of",
    "start",
]

# Descriptors that the start of a worker may need at once, with that of the fork server and of the tracker.
_DESCRIPTORS = 16
# What a new interpreter does first. Its parent may have files of its own in place of standard streams, which
# it does not inherit. Without the null device there, the next files that it opens would have these numbers.
_OPEN_STREAMS = """\
import os
while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
    os.set_inheritable(descriptor, True)
os.close(descriptor)
"""
# Loaded by the fork server before its first fork, in this order.
_PRELOAD = ("numpy", "sharedarray.pool.worker")
# Beginnings of the environment variables that an interpreter or a library reads once, at its start: a fork
# server that started with other values is of no use for a new worker.
_READ_ONCE = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_TUNABLES", *threads.VARIABLES)
# Fork servers that wait for the next worker. Each has some 30 MB of its own.
_SERVERS = 4
# How often, and after how many seconds each, a start looks whether a fork server that was closed has ended.
_LOOKS, _LOOK = 20, 0.005
_LAST_LOOKS = 200  # the same, for a worker that ends with fork servers of its own
_LATE = -50  # a finalizer's priority: after multiprocessing has joined the children


def default_method() -> str:
    """Return the start method of pools that are not told any: the safe and quick one where there is one."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def method_of(mp_context: Any) -> str:
    """Return the start method that is meant by a name, a multiprocessing context, or None."""
    if mp_context is None:
        return default_method()
    method = mp_context
    if not isinstance(mp_context, str):
        ask = getattr(mp_context, "get_start_method", None)
        if ask is None:
            raise TypeError(
                "mp_context must be a multiprocessing context or the name of a start method, "
                f"not {mp_context!r}"
            )
        method = ask()
    known = multiprocessing.get_all_start_methods()
    if method not in known:
        raise ValueError(f"unknown start method {method!r}: on this platform there are {', '.join(known)}")
    return str(method)


class WorkerProcess(process.BaseProcess):
    """A process that runs `sharedarray.pool.worker.main` over its ends of two pipes."""

    # None: the child keeps the start method that the user has chosen for multiprocessing in general.
    _start_method = None

    def __init__(self, method: str, name: str, ends: Any, setup: Any) -> None:
        # Never daemonic, though the maker may be: the end of a daemonic process does not wait for its
        # children, so a worker watches for it, and tasks may start processes.
        super().__init__(name=name, daemon=False)
        self.method = method
        self.environment: dict[str, str] = setup.threads
        self.can_limit_loaded = threads.can_limit_loaded()
        self.preload: tuple[str, ...] = setup.preload
        self._group_signals = group_signals.chosen()
        self._ends: Any = ends
        self._setup: Any = setup
        # The fork server may have loaded them before.
        self._reloaded = reloads.since(0) if method == "forkserver" else []
        self._inherited = functions.before_fork(setup.initializer) if method == "fork" else None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's name for it
        return _WAYS[process_obj.method](process_obj)

    def start(self) -> None:
        """Start the process, in a daemonic process too.

        multiprocessing forbids daemonic processes to have children, since SIGTERM ends them without a word
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
        """Kill the process: SIGTERM, which it may leave to its parent, does not end it in any case."""
        self.kill()

    def run(self) -> None:
        """Serve the pool; runs in the child."""
        from sharedarray.pool import worker  # here, for the worker's side imports what this side never needs

        group_signals.leave_to_parent(self._group_signals)
        ends, setup, inherited = self._ends, self._setup, self._inherited
        self._ends = self._setup = self._inherited = None
        if self._reloaded:
            reloads.apply(self._reloaded)
        worker.main(ends, setup, inherited)

    def forget(self) -> None:
        """Drop what only the child needed."""
        self._ends = self._setup = self._inherited = None


def start(worker: WorkerProcess) -> None:
    """Start a worker; once more where the fork server died at this very moment."""
    # multiprocessing opens pipes and sockets, and starts processes that inherit the standard streams.
    with _starting, group_signals.blocked(), platform.standard_streams():
        platform.need_descriptors(_DESCRIPTORS)  # multiprocessing leaves some open if it finds no more
        worker.start()
    worker.forget()


def make_ready(method: str) -> None:
    """Start, in the caller's thread, what unblocks SIGINT in the thread that starts it.

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
# descriptors that nobody knows of yet, and keep a worker or the fork server alive by them.
_starting = threading.RLock()


def _before_fork() -> None:
    _starting.acquire()


def _after_fork_in_parent() -> None:
    _starting.release()


class _Preset:
    """What is called in the child when the preparation data are unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def _new_interpreter(variables: dict[str, str]) -> _Preset:
    """Return what a new interpreter does before any import of this package."""
    chosen = os.environ.get(forkserver.HASH_SEED)
    if chosen is not None:
        variables = {forkserver.HASH_SEED: chosen, **variables}
    bytecode = sys.dont_write_bytecode, sys.pycache_prefix
    return _Preset(
        exec,
        f"import os, sys; os.environ.pop({forkserver.HASH_SEED!a}, None); os.environ.update({variables!a}); "
        f"sys.dont_write_bytecode, sys.pycache_prefix = {bytecode!a}",
    )


def _preparation(name: str) -> dict[str, Any]:
    """Return what `multiprocessing.spawn.prepare` does in a child, without the main module.

    `multiprocessing.spawn.get_preparation_data` fails if the main module has no ``__spec__``, as under pdb,
    and if the working directory was removed.
    """
    found: dict[str, Any] = {
        "log_to_stderr": getattr(util, "_log_to_stderr", False),
        "authkey": process.current_process().authkey,
        "name": name,
        "sys_path": forkserver.spawn_path(),
        "sys_argv": getattr(sys, "argv", [""]),
        "orig_dir": getattr(process, "ORIGINAL_DIR", None),
        "start_method": multiprocessing.get_start_method(allow_none=True),
    }
    if found["start_method"] not in multiprocessing.get_all_start_methods():
        del found["start_method"]  # none was chosen, or that of a library that is not loaded there, as loky
    logger = getattr(util, "_logger", None)
    if logger is not None:
        found["log_level"] = logger.getEffectiveLevel()
    return {key: value for key, value in found.items() if value is not None}


def _orders(popen: Any, child: WorkerProcess, preset: _Preset) -> memoryview:
    """Return what a child that is not forked from us reads first: how to prepare itself, and its object."""
    preparation = {"sharedarray_preset": preset, **_preparation(child.name)}
    file = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        ForkingPickler(file).dump(preparation)
        ForkingPickler(file).dump(child)
    finally:
        context.set_spawning_popen(None)
    return file.getbuffer()


class _AskedOnce:
    """Mixed into multiprocessing's Popen classes: an exit code that is read once, whoever asks.

    The management thread of the pool and `multiprocessing.active_children` in a thread of the user may ask at
    the same moment, and the kernel tells only one of them. In a fork of this process it tells nobody: there
    the worker is somebody else's, and counts as gone.
    """

    pid: int
    sentinel: int
    returncode: int | None
    _fds: list[int]

    def __init__(self, process_obj: Any) -> None:
        self._asking = threading.Lock()
        self._owner = os.getpid()
        super().__init__(process_obj)  # type: ignore[call-arg]

    def poll(self, flag: int = getattr(os, "WNOHANG", 1)) -> int | None:
        if self._owner != os.getpid():
            return 0
        if flag == 0 and self.returncode is None:
            self._until_ended()
        with self._asking:
            if self.returncode is None:
                self.returncode = self._status()
            return self.returncode

    def _status(self) -> int | None:
        code: int | None = super().poll()  # type: ignore[misc]
        return code

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the worker, for as many seconds; return its exit code, None if it runs on."""
        if (
            timeout is not None
            and self.returncode is None
            and not pipes.wait_readable(self.sentinel, timeout)
        ):
            return None
        return self.poll(getattr(os, "WNOHANG", 1) if timeout == 0 else 0)

    def _until_ended(self) -> None:
        pipes.wait_readable(self.sentinel, None)


class _OurChild(_AskedOnce):
    """A direct child: the kernel can be asked without taking the answer from anybody else."""

    def _until_ended(self) -> None:
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            super()._until_ended()


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


_WAYS: dict[str, Any] = {}

if "fork" not in multiprocessing.get_all_start_methods():

    class _NewInterpreter:
        """A new interpreter, told what to do over a pipe whose end it fetches from this process.

        It has a process group of its own, so that Ctrl-C is not for it.
        """

        method = "spawn"

        def __init__(self, process_obj: WorkerProcess) -> None:
            handles: Any = importlib.import_module("msvcrt")  # where handles are what processes share
            reading, writing = platform.opened(os.pipe)
            try:
                command = _command(parent_pid=os.getpid(), pipe_handle=handles.get_osfhandle(reading))
                self._process = _Started(
                    [_interpreter(), *command[1:]],
                    env=_environment(),
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            except BaseException:
                _close_all(reading, writing)
                raise
            self.pid = self._process.pid
            self.sentinel: int = int(self._process._handle)  # type: ignore[attr-defined]
            self.returncode: int | None = None
            # The end that the child copies stays open for as long as it may not have done so.
            self.finalizer = util.Finalize(self, os.close, (reading,))
            with os.fdopen(writing, "wb") as pipe:
                try:
                    pipe.write(_orders(self, process_obj, _new_interpreter(process_obj.environment)))
                except BaseException:
                    self.kill()
                    raise

        def duplicate_for_child(self, handle: int) -> int:
            """Give the child a handle; called as the process object is pickled."""
            return int(reduction.__dict__["duplicate"](handle, self.sentinel))

        def wait(self, timeout: float | None = None) -> int | None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None
            return self.poll()

        def poll(self) -> int | None:
            code = self._process.poll()
            if code is not None:
                self.returncode = -signal.SIGTERM if code == _ENDED_BY_US else code
            return self.returncode

        def terminate(self) -> None:
            with contextlib.suppress(OSError):
                winapi: Any = importlib.import_module("_winapi")
                winapi.TerminateProcess(self.sentinel, _ENDED_BY_US)

        kill = terminate

        def close(self) -> None:
            self.finalizer()

    class _Started(subprocess.Popen[bytes]):
        """One that may be dropped while it runs, as multiprocessing's may."""

        def __del__(self, *_: Any) -> None:
            pass

    # The status of a process that `terminate` ended: one that no program gives itself.
    _ENDED_BY_US = 0x10000
    _WAYS["spawn"] = _NewInterpreter


def _command(**arguments: int) -> list[str]:
    """Return the command that starts a new interpreter, with what `multiprocessing.spawn` hands to it.

    In a frozen program multiprocessing starts the program itself, though another one was chosen by
    `multiprocessing.set_executable`.
    """
    chosen = os.fsdecode(spawn.get_executable())
    if not getattr(sys, "frozen", False) or chosen == sys.executable:
        command = list(spawn.get_command_line(**arguments))
        if not getattr(sys, "frozen", False):
            command[1:1] = _safe_path()
        return command
    words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    code = f"from multiprocessing.spawn import spawn_main; spawn_main({words})"
    return [chosen, *forkserver.interpreter_flags(), "-c", code, "--multiprocessing-fork"]


def _safe_path() -> list[str]:
    """Return the option that keeps a removed working directory out of a new interpreter's path.

    With it in the path, Python 3.13.0 cannot import `socket`. The worker gets the caller's path later.
    """
    try:
        os.getcwd()
    except OSError:
        return ["-P"]
    return []


def _interpreter() -> str:
    """The program to start: in a virtual environment, the one that is behind its launcher."""
    chosen = os.fsdecode(spawn.get_executable())
    behind = getattr(sys, "_base_executable", None)
    return behind if behind and os.path.normcase(chosen) == os.path.normcase(sys.executable) else chosen


def _environment() -> dict[str, str]:
    """The environment for that program, by which it knows its virtual environment."""
    found = {**os.environ, forkserver.HASH_SEED: forkserver.hash_seed()}
    if getattr(sys, "_base_executable", sys.executable) != sys.executable:
        found["__PYVENV_LAUNCHER__"] = sys.executable
    return found


if "fork" in multiprocessing.get_all_start_methods():
    from multiprocessing import popen_fork

    class _Fork(_OurChild, popen_fork.Popen):
        """A copy of this process."""

    _WAYS["fork"] = _Fork

if "forkserver" in multiprocessing.get_all_start_methods():
    from multiprocessing import popen_spawn_posix

    class _Spawn(_OurChild, popen_spawn_posix.Popen):
        """A new interpreter, told what to do over a pipe."""

        def _launch(self, process_obj: WorkerProcess) -> None:
            running = resource_tracker.getfd()
            assert running is not None
            orders = _orders(self, process_obj, _new_interpreter(process_obj.environment))
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
                command = _command(tracker_fd=tracker, pipe_handle=child_orders)
                if "-c" in command:  # not in a frozen program
                    code = command.index("-c") + 1
                    command[code] = _OPEN_STREAMS + command[code]
                self.pid = forkserver.launch([os.fsdecode(spawn.get_executable()), *command[1:]], self._fds)
            except BaseException:
                _close_all(*ours)
                raise
            finally:
                _close_all(*theirs)
            self.finalizer = util.Finalize(self, _close_all, ours)
            self.sentinel = status
            # Our end stays open for as long as this object lives: the child sees by it that we do.
            with os.fdopen(to_child, "wb", closefd=False) as pipe:
                pipe.write(orders)

    class _ForkServed(_AskedOnce, popen_fork.Popen):
        """A copy of our fork server, whose child it is."""

        method = "forkserver"
        DupFd = forkserver.Inherited

        def __init__(self, process_obj: WorkerProcess) -> None:
            self._fds: list[int] = []
            super().__init__(process_obj)

        def duplicate_for_child(self, fd: int) -> int:
            """Give the worker a descriptor; called as the process object is pickled."""
            self._fds.append(fd)
            return len(self._fds) - 1

        def _launch(self, process_obj: WorkerProcess) -> None:
            here, directory = _working_directory(self)
            try:
                preset = _Preset(
                    forkserver.settle,
                    {**os.environ, **process_obj.environment},
                    directory,
                    (sys.dont_write_bytecode, sys.pycache_prefix),
                )
                orders = _orders(self, process_obj, preset)
                try:
                    self._ask(_server(process_obj), orders)
                except (EOFError, ConnectionError):
                    # The server was killed between the question whether it lives and the request.
                    if self.finalizer is not None:
                        self.finalizer()
                    server = _server(process_obj)
                    try:
                        self._ask(server, orders)
                    except (EOFError, ConnectionError):
                        if self.finalizer is not None:
                            self.finalizer()
                        raise server.failure() from None
            finally:
                if here is not None:
                    os.close(here)

        def _ask(self, server: forkserver.ForkServer, orders: memoryview) -> None:
            tracker = resource_tracker.getfd()
            assert tracker is not None
            status, to_child = server.fork([tracker, *self._fds])
            # Kept open for as long as this object lives: the child sees by it that we do.
            alive = platform.opened(os.dup, to_child)
            self.finalizer = util.Finalize(self, _close_all, (status, alive))
            self.sentinel = status
            with os.fdopen(to_child, "wb") as pipe:
                pipe.write(orders)
            self.pid = forkserver.read_number(status)

        def _status(self) -> int | None:
            if not pipes.wait_readable(self.sentinel, 0):
                return None
            try:
                return forkserver.read_number(self.sentinel)
            except (OSError, EOFError):
                return _UNKNOWN

    # The exit code of a worker whose fork server was killed: multiprocessing's fork server has the same.
    _UNKNOWN = 255

    def _working_directory(popen: _ForkServed) -> tuple[int | None, forkserver.Inherited | str | None]:
        """Return this process's working directory, for a worker: open, and as it is handed over.

        It is handed over open, because it may have been removed, and its path may lead elsewhere by now.
        """
        try:
            here = platform.opened(os.open, ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # it may not be read
            with contextlib.suppress(OSError):
                return None, os.getcwd()
            return None, None
        return here, forkserver.Inherited(popen.duplicate_for_child(here))

    _WAYS["spawn"] = _Spawn
    _WAYS["forkserver"] = _ForkServed

    # The fork servers, the one that was used last at the end. This is their only home, and it is emptied in a
    # fork of this process, whose parent goes on with them.
    _servers: dict[tuple[Any, ...], forkserver.ForkServer] = {}
    _closed: list[forkserver.ForkServer] = []  # those that end when their workers have

    def _server(worker: WorkerProcess) -> forkserver.ForkServer:
        """Return the fork server for a worker, with what it must have read and loaded."""
        fixed = {name: value for name, value in os.environ.items() if name.startswith(_READ_ONCE)}
        fixed.pop(forkserver.HASH_SEED, None)  # the workers of a pool have one, whatever changes
        extra: dict[str, str] = {}
        modules = *_PRELOAD, *worker.preload
        if worker.can_limit_loaded:  # the worker does that
            modules = "threadpoolctl", *modules
            for name in worker.environment:
                fixed.pop(name, None)
        else:
            extra = worker.environment
        key = modules, *sorted({**fixed, **extra}.items()), *forkserver.interpreter_flags()
        server = _servers.pop(key, None)
        _closed[:] = [closed for closed in _closed if not closed.reaped()]
        if server is None:
            server = forkserver.ForkServer(modules, extra)
        if not _servers and process.parent_process() is not None:
            util.Finalize(None, _end_helpers, exitpriority=_LATE)
        _servers[key] = server
        while len(_servers) > _SERVERS:
            oldest = _servers.pop(next(iter(_servers)))
            oldest.close()
            _closed.append(oldest)
            for _ in range(_LOOKS):  # a server without workers ends at once, and is no zombie then
                if oldest.reaped():
                    break
                time.sleep(_LOOK)
        return server

    def _end_helpers() -> None:
        """Wait until this process's fork servers and resource tracker have ended, as it ends itself.

        Otherwise they would be orphans of the process that adopts them, which may be the program above.
        """
        for server in _servers.values():
            server.close()
        _until(lambda: all(server.reaped() for server in (*_servers.values(), *_closed)))
        tracker = getattr(resource_tracker, "_resource_tracker", None)
        pid, pipe = getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)
        if isinstance(pid, int) and isinstance(pipe, int) and not _reaped(pid):
            tracker._fd = tracker._pid = None  # type: ignore[union-attr]
            os.close(pipe)
            _until(lambda: _reaped(pid))

    def _reaped(pid: int) -> bool:
        """Return whether a process has ended, or is no child of this process."""
        try:
            return os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def _until(condition: Callable[[], bool]) -> None:
        """Wait for a condition for a second at most."""
        for _ in range(_LAST_LOOKS):
            if condition():
                break
            time.sleep(_LOOK)

    def _after_fork_in_child() -> None:
        global _starting
        _starting = threading.RLock()
        for server in _servers.values():
            server.close()  # or the parent's server would live for as long as we do
        _servers.clear()
        _closed.clear()

    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
