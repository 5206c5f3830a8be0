"""The fork server: a process that has loaded NumPy and the worker's code, and forks itself for each worker.

multiprocessing has one as well. This one is another program, for four reasons. It listens on a socket pair
that it inherits, so that no path is needed and ``TMPDIR`` may be long, unwritable or missing. It loads
modules from where the caller finds them, and names those that cannot be loaded. A worker gets the environment
and the working directory that the caller has at the worker's start, not those of the server's start. And it
stays until its last worker has ended, which leaves no zombie to a process above::

    caller                                socket pair                         server
    ------                                -----------                         ------
    starts the server ──────────────────▶ (inherited)
                      ◀────────────────── "+"                  this program is a Python
                      ◀────────────────── "LF wave"            the module that is loaded next
    count, descriptors ─────────────────▶                      fork
    orders            ──── pipe ────────▶                      (read by the worker)
                      ◀─── pipe ────────                       the worker's pid, and in the end its exit code
    (dies)            x─────────────────▶ end of file          wait for all workers, and end
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker, spawn, util
from typing import Any

from sharedarray import clock, errors
from sharedarray._platform import platform
from sharedarray.pool import group_signals

__all__ = ["ForkServer", "Inherited", "main", "read_number", "settle"]

_NUMBER = struct.Struct("q")  # a pid, or an exit code
_COUNT = struct.Struct("=H")  # descriptors that come with a request
# Descriptors in one message: Linux takes 253.
_CHUNK = 250
# Seconds until the program that was started must have shown that it is a Python. Starting one takes 0.05 s
# here; a network file system or a debugger takes some seconds.
_PATIENCE = 30.0
# How often, and after how many seconds each, a start looks whether a server that has closed its socket has
# ended.
_LOOKS, _LOOK = 200, 0.005

# multiprocessing's own command begins like this. Programs made by PyInstaller run what begins like this, and
# start the application a second time otherwise.
_BOOT = (
    "from multiprocessing.forkserver import main; import os, sys\n"
    "try: os.write({number}, b'+')\n"
    "except OSError: os._exit(1)\n"  # the caller has ended
    "os.environ.update({extra!a}); before = dict(os.environ); sys.path[:] = {path!a}; "
    "sys.dont_write_bytecode, sys.pycache_prefix = {bytecode!a}; "
    "from sharedarray.pool.forkserver import main; main({number}, before, {modules!a})"
)


# -- starting interpreters ------------------------------------------------------------------------------

HASH_SEED = "PYTHONHASHSEED"
_ENV = "/usr/bin/env"  # sets a variable for a program, and leaves the environment of this process alone


@functools.cache
def hash_seed() -> str:
    """Return the seed of the hashes of texts in all interpreters that this process starts for pools.

    Workers must agree on it: some versions of Dask find the partition of a key by the key's hash.
    """
    chosen = os.environ.get(HASH_SEED, "")
    if chosen.isascii() and chosen.isdigit() and int(chosen) < 1 << 32:
        return chosen
    return str(1 + int.from_bytes(os.urandom(4), "little") % ((1 << 32) - 1))


def launch(command: Sequence[str], descriptors: Sequence[int]) -> int:
    """Start an interpreter with the common seed of hashes; return its pid.

    Parameters
    ----------
    command
        The program and its arguments.
    descriptors
        What it inherits besides the standard streams.
    """
    words = [os.fsencode(word) for word in command]
    if b"=" not in words[0] and os.access(_ENV, os.X_OK):
        words = [os.fsencode(word) for word in (_ENV, f"{HASH_SEED}={hash_seed()}")] + words
    return int(util.spawnv_passfds(words[0], words, descriptors))


# -- the caller's side ----------------------------------------------------------------------------------


class ForkServer:
    """A fork server, as its caller sees it.

    Parameters
    ----------
    modules
        What it loads, in this order, before it forks.
    extra
        Environment variables that it has besides the caller's.
    """

    def __init__(self, modules: Sequence[str], extra: Mapping[str, str]) -> None:
        self._modules = tuple(modules)
        self._extra = dict(extra)
        self._control = -1  # the socket; a socket object would make Python complain at the program's end
        self._pid = 0
        self._code: int | None = None

    def fork(self, descriptors: Sequence[int]) -> tuple[int, int]:
        """Request a worker.

        Parameters
        ----------
        descriptors
            What the worker inherits; see `Inherited`.

        Returns
        -------
        tuple of int
            The pipe to read the worker's pid and exit code from, and the pipe to write its orders to.

        Raises
        ------
        ConnectionError, EOFError
            The server was ended at this moment.
        """
        self._run()
        status, child_status = platform.opened(os.pipe)
        child_orders, orders = platform.opened(os.pipe)
        try:
            sent = [child_orders, child_status, *descriptors]
            with _as_socket(self._control) as control:
                control.sendall(_COUNT.pack(len(sent)))
                for start in range(0, len(sent), _CHUNK):
                    socket.send_fds(control, [b"\0"], sent[start : start + _CHUNK])
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
        """Return whether the server has ended, and leave no zombie of it."""
        if self._pid:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:  # another part of this program has waited for all children
                self._pid = 0
            else:
                if pid:
                    self._pid, self._code = 0, os.waitstatus_to_exitcode(status)
        return not self._pid

    def _ended(self) -> str:
        """Return how a server that has closed its socket ended."""
        for _ in range(_LOOKS):
            if self.reaped():
                break
            clock.time.sleep(_LOOK)
        return "in an unknown way" if self._code is None else f"with exit code {self._code}"

    def failure(self) -> ChildProcessError:
        """Return the error that says how the server ended, and what it was loading."""
        said = b""
        if self._control >= 0:
            with contextlib.suppress(OSError), _as_socket(self._control) as control:
                while piece := control.recv(1 << 16, socket.MSG_DONTWAIT):
                    said += piece
        last = said.rpartition(b"\n")[2].decode(errors="replace") if b"\n" in said else ""
        where = f" while it loaded {last}" if last else ""
        return ChildProcessError(f"the pool's fork server ended{where}, {self._ended()}")

    def _run(self) -> None:
        """Start the server unless it runs."""
        if self._control >= 0:
            if not self.reaped():
                return
            self.close()
        ours, theirs = platform.opened(socket.socketpair)
        with ours:
            with theirs:
                self._pid = self._start(theirs.fileno())
            self._greeted(ours)
            self._control = ours.detach()

    def _start(self, number: int) -> int:
        self._code = None
        code = _BOOT.format(
            number=number,
            extra=self._extra,
            path=spawn_path(),
            bytecode=(sys.dont_write_bytecode, sys.pycache_prefix),
            modules=self._modules,
        )
        return launch([os.fsdecode(spawn.get_executable()), *interpreter_flags(), "-c", code], [number])

    def _greeted(self, control: socket.socket) -> None:
        """Wait until the program shows that it is a Python; end it if it does not."""
        ready = select.poll()
        ready.register(control, select.POLLIN)
        if not ready.poll(_PATIENCE * 1000):
            os.kill(self._pid, signal.SIGKILL)
            self._ended()
            found = f"no answer within {_PATIENCE:.0f} s"
        elif control.recv(1) == b"+":
            return
        else:
            found = f"it ended {self._ended()}"
        raise errors.SharedArrayError(
            "the pool's fork server does not start",
            name=os.fsdecode(spawn.get_executable()),
            found=found,
            expected="a Python interpreter",
            cause="multiprocessing starts processes with a program that is no Python, or is not complete",
            next_step="call multiprocessing.set_executable() with the path of a Python, or use "
            "Pool(mp_context='fork')",
        )


@contextlib.contextmanager
def _as_socket(number: int) -> Iterator[socket.socket]:
    """Give a socket object for a descriptor, which stays open."""
    found = socket.socket(fileno=number)
    try:
        yield found
    finally:
        found.detach()


def interpreter_flags() -> list[str]:
    """Return the options of this interpreter, ``-W`` and ``-X`` included, for another one to start with."""
    found: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return found


def spawn_path() -> list[str]:
    """Return ``sys.path`` for another process, where the empty string would be another directory."""
    from multiprocessing import process

    original = getattr(process, "ORIGINAL_DIR", None)
    found = []
    for entry in sys.path:
        if entry == "" and original is not None:
            # First the working directory as it is now, then that of the program's start.
            with contextlib.suppress(OSError):
                if os.getcwd() != original:
                    found.append("")
            found.append(original)
        else:
            found.append(entry)
    return found


def read_number(descriptor: int) -> int:
    """Read a pid or an exit code from the pipe that `ForkServer.fork` returned.

    Raises
    ------
    EOFError
        The other end was closed.
    """
    data = b""
    while len(data) < _NUMBER.size:
        piece = os.read(descriptor, _NUMBER.size - len(data))
        if not piece:
            raise EOFError("the fork server has ended")
        data += piece
    return int(_NUMBER.unpack(data)[0])


# -- in a worker ----------------------------------------------------------------------------------------

_inherited: list[int] = []  # the descriptors that came with the request for this process
_loaded: dict[str, tuple[str | None, str | None]] = {}  # variables that loading has changed: before, after


class Inherited:
    """A descriptor on its way to a worker: what multiprocessing calls ``DupFd``."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """Return the descriptor; runs in the worker."""
        return _inherited[self._index]


def settle(
    environment: dict[str, str], directory: Inherited | str | None, bytecode: tuple[bool, str | None]
) -> None:
    """Give this new worker the caller's environment, working directory and use of bytecode files.

    A variable that a module changed when the server loaded it stays changed, unless the caller has changed
    the variable since the server's start.
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
        os.chdir(directory)


# -- the server's side ----------------------------------------------------------------------------------


def main(number: int, before: dict[str, str], modules: Sequence[str]) -> None:
    """Run the fork server.

    Parameters
    ----------
    number
        The descriptor of the socket to the caller.
    before
        The environment before anything was loaded.
    modules
        What to load.
    """
    platform.keep_standard_streams()
    old = {}
    for name in group_signals.NAMES:  # the server ends with its caller
        old[getattr(signal, name)] = signal.signal(getattr(signal, name), signal.SIG_IGN)
    control = socket.socket(fileno=number)
    control.setblocking(True)  # a caller's sockets may be gevent's, which are not
    for module in modules:
        _load(module, control)
    with contextlib.suppress(OSError):
        control.send(b"\n", socket.MSG_DONTWAIT)
    now = dict(os.environ)
    for name in {*before, *now}:
        if before.get(name) != now.get(name):
            _loaded[name] = before.get(name), now.get(name)
    os.chdir("/")  # the caller's directory may be removed, or its file system be unmounted
    _Server(control, old).run()


def _load(module: str, control: socket.socket) -> None:
    """Load a module, and announce it before. Name one that cannot be loaded on standard error."""
    with contextlib.suppress(OSError):
        control.send(b"\n" + module.encode(errors="replace"), socket.MSG_DONTWAIT)
    try:
        __import__(module)
    except BaseException as error:
        with contextlib.suppress(Exception):
            print(
                f"sharedarray: the pool's fork server could not load {module}, which `preload` names: "
                f"{type(error).__name__}: {error}",
                file=sys.stderr,
                flush=True,
            )


def _nothing(number: int, frame: Any) -> None:
    pass


class _Server:
    """The loop of a fork server.

    Parameters
    ----------
    control
        The socket to the caller.
    handlers
        What the signals did that the server ignores; workers begin with that.
    """

    def __init__(self, control: socket.socket, handlers: dict[int, Any]) -> None:
        self._control = control
        self._handlers = handlers
        self._status: dict[int, int] = {}  # by pid, the pipe for the exit code
        self._wake, self._waker = platform.opened(os.pipe)
        os.set_blocking(self._wake, False)
        os.set_blocking(self._waker, False)
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Fork a worker for each request, until the caller is gone and all workers are."""
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
        while self._status and self._reap(0):
            pass
        os._exit(0)

    def _reap(self, flag: int) -> bool:
        """Tell the caller of workers that have ended; return whether there was a child to wait for."""
        while True:
            try:
                pid, status = os.waitpid(-1, flag)
            except ChildProcessError:
                return False
            if not pid:
                return True
            self._say(self._status.pop(pid, -1), os.waitstatus_to_exitcode(status), last=True)
            if not flag:
                return True

    def _say(self, pipe: int, value: int, *, last: bool = False) -> None:
        if pipe < 0:
            return  # a process that a module started when it was loaded
        with contextlib.suppress(BrokenPipeError):  # the caller is gone
            os.write(pipe, _NUMBER.pack(value))
        if last:
            os.close(pipe)

    def _serve(self) -> bool:
        """Read a request and fork; return False if the caller is gone."""
        try:
            descriptors = self._request()
        except (EOFError, ConnectionError):
            return False
        orders, status, *rest = descriptors
        with warnings.catch_warnings():
            # A module that was loaded may have a thread, of which Python warns here.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                pid = os.fork()
            except OSError:
                pid = -1  # no process is to be had: the caller reads the end of the pipe
        if not pid:
            self._become_worker(orders, status, rest)
        if pid > 0:
            self._status[pid] = status
            self._say(status, pid)
        else:
            os.close(status)
        for descriptor in (orders, *rest):
            os.close(descriptor)
        return True

    def _request(self) -> list[int]:
        head = b""
        while len(head) < _COUNT.size:
            piece = self._control.recv(_COUNT.size - len(head))
            if not piece:
                raise EOFError
            head += piece
        (count,) = _COUNT.unpack(head)
        found: list[int] = []
        while len(found) < count:
            data, some, _, _ = socket.recv_fds(
                self._control, 1, _CHUNK, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
            if not data:
                raise EOFError
            found += some
        return found

    def _become_worker(self, orders: int, status: int, rest: list[int]) -> None:
        """Run a worker, and end this process with its exit code."""
        code = 1
        parent = platform.opened(os.dup, orders)
        try:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._control.close()
            for descriptor in (self._wake, self._waker, status, *self._status.values()):
                os.close(descriptor)
            self._status.clear()
            tracker, *_inherited[:] = rest
            with contextlib.suppress(AttributeError):  # without that, a worker starts a tracker of its own
                resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
            _clear_exit_functions()
            code = spawn._main(orders, parent)
            _run_exit_functions()
        except BaseException:
            if not _is_closed(parent):  # else the caller was killed before it had sent all orders
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


def _clear_exit_functions() -> None:
    """Forget what loaded modules want done when the server ends; a worker is not the server."""
    getattr(atexit, "_clear", lambda: None)()
    atexit.register(getattr(util, "_exit_function", lambda: None))


def _run_exit_functions() -> None:
    getattr(atexit, "_run_exitfuncs", lambda: None)()
