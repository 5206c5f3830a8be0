"""The janitor: one small process per user and directory of blocks. It removes the blocks of killed processes.

Every process that holds blocks keeps one connection to it::

    holder                         registry directory                     janitor
    ------                         ------------------                     -------
    connect ────────────────────▶  janitor.sock  ◀──────────────────────  listen
            ◀──────────────────────────────────────────────────  welcome
    (dies)  x─────────────────────────────────────────────────▶  end of file: sweep

A holder sends nothing; its broken connection is the message. The kernel may break the connection before it
has dropped the dead process's leases, so the janitor sweeps again for `SWEEP_AGAIN` seconds. A forked child
may keep a connection open, so it also sweeps from time to time (`SLOW_SWEEP`) while blocks are left. When no
block is left, it ends.

Locks on two bytes of ``janitor.lock`` ensure that there is one janitor. `ALIVE` is locked by an open file
that the janitor inherits, from before its start until its end. `STARTING` is locked by a process that starts
a janitor. (The holders lock other bytes; see `registry.appear`.) The starter also binds the socket and
listens, so that it connects without waiting. If it dies before the janitor runs, the janitor finds its
connection broken.

To end, the janitor closes its connections first and then sweeps once more. A holder writes a block's record
first and checks its connection then (`ensure`), so that either the janitor finds the record or the holder
finds the broken connection.

The janitor must not disturb its starter. It runs in a fresh interpreter (``-I -S``), forked twice, in a
session of its own, with two descriptors, default signals and ``/`` as its directory. It imports neither NumPy
nor the package's ``__init__``. If no interpreter is known (`sharedarray._interpreter`), or none starts within
`_START_PATIENCE` seconds, there is no janitor; a warning says so once.

Because it is forked twice, the janitor is a child of the process that adopts orphans. If that is a holder
(process 1 of a container, or a subreaper), the first message to this holder carries the janitor's pid. The
holder then reaps the janitor in a thread that ends with it: the janitor never stays a zombie, and
``os.wait()`` does not see it later.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sharedarray import _damage as damage, _errors as errors, _greenlets as greenlets, _registry as registry
from sharedarray._clock import time
from sharedarray._janitor_process import (
    ALIVE,
    STARTING,
    WELCOME,
)
from sharedarray._platform import platform

if TYPE_CHECKING:
    import subprocess

_FRESH = 0.05  # seconds after a check in which a connection counts as open
_UNANSWERED = 3  # connections in a row that ended without an answer, after which no janitor is started
_RETRY = 5.0  # seconds until a start that failed is tried again
_PATIENCE = 5.0  # seconds to wait for an answer
_ENDING_PATIENCE = 15.0  # seconds to wait for a janitor that ends, or is to notice that it lost its socket
_START_PATIENCE = 8.0  # seconds that an interpreter may take to start; about 0.03 on a machine that is free
_PACKAGE = os.path.dirname(os.path.abspath(__file__))  # known before the program changes its directory
_TIDY = 30.0  # seconds between two sweeps by a maker, where the kernel frees blocks but leaves their records
_MANY = 16  # directories of blocks, from which number on those not in use are forgotten
_BACKLOG = 512  # connections that wait while the janitor sweeps

_BOOT = (
    "import sys, types\n"
    "package = types.ModuleType('sharedarray')\n"
    "package.__path__ = [sys.argv[1]]\n"
    "sys.modules['sharedarray'] = package\n"
    "from sharedarray import _janitor_process as process\n"
    "process.main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))\n"
)


# The user that this process acts as, which may change; a constant where there are no such users.
_user: Callable[[], int] = getattr(os, "geteuid", int)

# -- the holder's side ----------------------------------------------------------------------------------


class _Connection:
    """One connection to a janitor, with its last check and the user that this process acted as."""

    __slots__ = ("_socket", "answered", "checked", "user")

    def __init__(self, folder: str) -> None:
        import socket

        self._socket = platform.opened(socket.socket, socket.AF_UNIX, socket.SOCK_STREAM)
        self.answered = False
        self.user = _user()
        try:
            self._socket.settimeout(_PATIENCE)
            with _short_path(folder) as path:
                self._socket.connect(path)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.checked = time.monotonic()

    def is_open(self) -> bool:
        """Return whether the connection is open: the janitor runs, or is being started."""
        self.checked = time.monotonic()
        try:
            while message := self._socket.recv(WELCOME):
                self.answered = True
                _handle_welcome(message)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def welcomed(self) -> bool:
        """Wait for the janitor's welcome; return False if it ended instead."""
        self._socket.settimeout(_PATIENCE)
        try:
            message = self._socket.recv(WELCOME)
        except OSError:
            message = b""
        finally:
            self._socket.setblocking(False)
        self.answered = bool(message)
        _handle_welcome(message)
        return self.answered

    def close(self) -> None:
        self._socket.close()


class _State:
    """Everything that this process knows of janitors; reset in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connections: dict[str, _Connection] = {}  # by directory of the blocks
        self.failed: dict[str, float] = {}  # directories where no janitor could be started, and when
        self.unanswered: dict[str, int] = {}  # connections in a row that ended without an answer
        self.former: dict[tuple[str, int], _Connection] = {}  # of users that this process acted as before
        self.for_child: dict[str, _Connection] = {}
        self.present: dict[str, int] = {}  # handles that show other pid namespaces that this process lives
        self.tidied: dict[str, float] = {}  # when directories that need no janitor were swept
        self.adopted: set[int] = set()  # janitors that are children of this process
        self.unwatched: set[int] = set()  # those of them that no thread waits for


_state = _State()


def ensure(directory: str, *, strict: bool = True) -> None:
    """Make sure that a janitor watches this process's blocks in `directory`.

    Called after a record is written, and, not `strict`, when a block is attached. A maker checks its
    connection every time: otherwise a janitor that ends could miss the record. An attacher may rely on a
    check within the last `_FRESH` seconds, because the janitor of the block's maker watches the block too. If
    no janitor can be started, this process sweeps, and warns.
    """
    connection = _state.connections.get(directory)
    if connection is not None and connection.user == _user():
        if not strict and time.monotonic() - connection.checked < _FRESH:
            return
        if connection.is_open():
            return
    if not platform.NEEDS_JANITOR:
        if strict:
            _tidy(directory)
        return
    with _state.lock:
        connection = _state.connections.pop(directory, None)
        if connection is not None and connection.user != _user():
            # This process acts as another user by now. The former one's janitor goes on watching its blocks.
            _state.former[directory, connection.user] = connection
            connection = _state.former.pop((directory, _user()), None)
        if connection is not None:
            if connection.is_open():  # another thread was faster
                _state.connections[directory] = connection
                return
            connection.close()
            _reap_unwatched()
            unanswered = 0 if connection.answered else _state.unanswered.get(directory, 0) + 1
            _state.unanswered[directory] = unanswered
        if time.monotonic() - _state.failed.get(directory, float("-inf")) < _RETRY:
            return
        try:
            if _state.unanswered.get(directory, 0) >= _UNANSWERED:
                _state.unanswered[directory] = 0
                raise ChildProcessError("it ends as soon as it is started")
            if len(_state.connections) >= _MANY:
                _forget_ended()
            _state.connections[directory] = _connect(directory)
        # A process may not be allowed to read its own library.
        except (OSError, ImportError, errors.UnsupportedError) as error:
            _fall_back(directory, error)
        _appear(directory)


def appear(directory: str) -> None:
    """Show processes of other pid namespaces that this process lives, if it has not yet.

    Called before the first record is written: otherwise a janitor of another pid namespace would take the
    maker for dead.
    """
    if registry.registry_of(directory) not in _state.present:
        with _state.lock:
            if registry.registry_of(directory) not in _state.present:
                _appear(directory)


def _forget_ended() -> None:
    """Forget directories whose janitor has ended, because no block is left there."""
    for directory, connection in list(_state.connections.items()):
        if not connection.is_open():
            del _state.connections[directory]
            connection.close()
            handle = _state.present.pop(registry.registry_of(directory), None)
            if handle is not None:
                platform.close(handle)
    for table in (_state.unanswered, _state.failed):
        for directory in list(table)[:-_MANY]:
            if directory not in _state.connections:
                del table[directory]


def _appear(directory: str) -> None:
    """Show processes of other pid namespaces that this process lives."""
    folder = registry.registry_of(directory)
    handle = _state.present.pop(folder, None)
    if handle is not None:
        platform.close(handle)
    try:
        _state.present[folder] = registry.appear(directory)
    except OSError:
        pass  # for other pid namespaces, the grace periods of this process's references begin now


def _tidy(directory: str) -> None:
    """Drop the records of blocks that the kernel has freed, at most every `_TIDY` seconds."""
    now = time.monotonic()
    if now - _state.tidied.get(directory, float("-inf")) < _TIDY:
        return
    _state.tidied[directory] = now
    try:
        registry.sweep(directory)
    except OSError:
        pass  # the registry is not this user's: making a block raises the error


def _connect(directory: str) -> _Connection:
    folder = registry.open_registry(directory)
    try:
        connection = _Connection(folder)
    except OSError:
        return _start(directory)
    if connection.welcomed():
        return connection
    connection.close()
    return _start(directory)


def _start(directory: str) -> _Connection:
    """Start a janitor unless another process is doing so, and connect to it."""
    deadline = time.monotonic() + _ENDING_PATIENCE
    while True:
        folder = registry.open_registry(directory)
        lock_path = f"{folder}/{registry.LOCK_FILE}"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            starting = platform.opened(os.open, lock_path, flags, 0o600)
        except FileNotFoundError:  # a janitor that ends removes its files, and the registry
            continue
        except OSError:
            if not _is_file(lock_path):
                damage.report(lock_path, "no regular file", "it is moved away")
                if damage.quarantine(lock_path):
                    continue
            raise
        try:
            os.fchmod(starting, 0o600)  # whatever the umask
            alive = platform.opened(os.open, lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.close(starting)
            continue
        except BaseException:
            os.close(starting)
            raise
        try:
            platform.lock(starting, STARTING, 1, shared=False, wait=True)
            if platform.inode_of(lock_path) != platform.status(alive).inode:
                continue
            try:
                connection = _Connection(folder)
            except OSError:
                pass
            else:
                if connection.welcomed():
                    return connection
                connection.close()
            if platform.lock(alive, ALIVE, 1, shared=False, wait=False):
                return _launch(folder, alive)
        finally:
            os.close(alive)
            os.close(starting)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the janitor of {folder} holds its lock but does not answer")
        time.sleep(0.01)  # a janitor is just ending: there is nothing to wait on


def _is_file(path: str) -> bool:
    """Return whether a path leads to a regular file, or to nothing."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def _free_path(path: str) -> None:
    """Remove the socket of a janitor that was killed, or another file at that path."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            damage.report(path, "no socket", "it is moved away")
    except FileNotFoundError:
        return
    damage.quarantine(path)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT for a process that is started in the ``with`` statement."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _launch(folder: str, alive: int) -> _Connection:
    import socket

    from sharedarray import (
        _interpreter as interpreter,  # here: only the start of a janitor needs it
    )

    program = os.path.abspath(interpreter.python())  # the janitor starts in another directory
    with platform.opened(socket.socket, socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _short_path(folder) as path:
            _free_path(f"{folder}/janitor.sock")
            listener.bind(path)
            os.chmod(path, 0o600)  # whatever the umask
        listener.listen(_BACKLOG)
        connection = _Connection(folder)
        files = (alive, listener.fileno())
        words = [_PACKAGE, folder, *map(str, files), "sharedarray-janitor"]
        try:
            code = _run([program, "-I", "-S", *interpreter.flags(), "-c", _BOOT, *words], files)
            if code:
                raise ChildProcessError(f"{program} ended with {code}")
            if platform.adopts_orphans():
                connection.welcomed()  # its first message says whether it is a child of this process
        except BaseException:
            connection.close()
            raise
    return connection


def _run(command: list[str], files: tuple[int, ...]) -> int:
    """Run a program in a session of its own, and return its status; kill it if it does not end in time."""
    import subprocess

    from sharedarray import _interpreter as interpreter

    # Ctrl-C in a terminal reaches it as well, until it is in a session of its own.
    with _signals_blocked(), platform.standard_streams(), interpreter.undebugged():
        try:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=files,
                cwd="/",
                start_new_session=True,
            )
        except TypeError as error:  # gevent's class, which starts processes in the main thread only
            raise ChildProcessError(str(error)) from None
    try:
        return _status(program, _START_PATIENCE)
    except BaseException as error:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except OSError:
            pass  # it has just ended
        program.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(f"{command[0]} did not end within {_START_PATIENCE:g} s") from None
        raise


def _status(program: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for the end of a child. `Popen.wait` polls, and would take up to twice as long."""
    try:
        handle = platform.opened(os.pidfd_open, program.pid)
    except (AttributeError, OSError):  # a kernel before 5.3, or another system
        return program.wait(seconds)
    try:
        ends = select.poll()
        ends.register(handle, select.POLLIN)
        return program.wait(None if ends.poll(seconds * 1000) else 0)
    finally:
        os.close(handle)


def _fall_back(directory: str, error: OSError | ImportError | errors.UnsupportedError) -> None:
    _state.failed[directory] = time.monotonic()
    if directory not in _warned and not silent:
        if len(_warned) >= _MOST_WARNED:
            _warned.clear()
        _warned.add(directory)
        warnings.warn(
            f"sharedarray could not start its janitor for {directory} ({error}): blocks of processes that "
            "are killed stay until a process next makes a block there, ends, or runs `sharedarray prune`",
            RuntimeWarning,
            stacklevel=2,
        )
    _sweep_quietly(directory)


# Whether this process does not warn if there is no janitor: the pool warns for its workers.
silent = False

# Directories without a janitor that a warning has named; a forked child inherits them.
_warned: set[str] = set()
_MOST_WARNED = 100


def close_connections() -> None:
    """Close the connections to janitors as this process ends, so that Python warns of no open socket."""
    for directory in list(_state.connections):
        connection = _state.connections.pop(directory, None)
        if connection is not None:
            connection.close()


def sweep_unwatched() -> None:
    """Sweep the directories that have no janitor, as this process ends."""
    for directory in _state.failed.keys() - _state.connections.keys():
        _sweep_quietly(directory)


def _sweep_quietly(directory: str) -> None:
    try:
        registry.sweep(directory)
    except OSError:
        pass  # the registry is not this user's: making a block raises the error


# -- a janitor that is a child of a holder --------------------------------------------------------------


def _handle_welcome(message: bytes) -> None:
    """Reap the janitor when it ends, if its first message says that it is a child of this process."""
    pid = message[1:].strip()
    if pid.isdigit() and int(pid) not in _state.adopted:
        _state.adopted.add(int(pid))
        try:
            greenlets.start_thread(_reap, int(pid))
        except RuntimeError:  # there can be no more threads
            _state.unwatched.add(int(pid))


def _reap(pid: int, flags: int = 0) -> None:
    """Take the status of a janitor that has ended; wait until it ends, unless the flags say otherwise."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | flags) is not None
    except ChildProcessError:
        ended = True  # os.wait() in another thread was faster
    if ended:
        _state.adopted.discard(pid)
        _state.unwatched.discard(pid)


def _reap_unwatched() -> None:
    for pid in tuple(_state.unwatched):
        _reap(pid, os.WNOHANG)


@contextmanager
def _short_path(folder: str) -> Iterator[str]:
    """Provide a path of the socket of at most 107 bytes, however long the directory's path is."""
    handle = platform.opened(os.open, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield (
            f"/proc/self/fd/{handle}/janitor.sock"
            if os.path.isdir("/proc/self/fd")
            else (f"{folder}/janitor.sock")
        )
    finally:
        os.close(handle)


# -- around a fork --------------------------------------------------------------------------------------


def before_fork() -> None:
    """Open the child's connections, as this process has some: the janitor accepts them when it can."""
    _state.lock.acquire()
    for directory in _state.connections:
        try:
            _state.for_child[directory] = _Connection(registry.registry_of(directory))
        except OSError:
            continue  # the child connects when it next makes or attaches a block


def after_fork_in_parent() -> None:
    """Close this process's copies of the child's connections."""
    for connection in _state.for_child.values():
        connection.close()
    _state.for_child.clear()
    _state.lock.release()


def after_fork_in_child() -> None:
    """Use the child's connections, and close the parent's: the parent's death must break them."""
    global _state
    inherited, _state = _state, _State()
    for connection in (*inherited.connections.values(), *inherited.former.values()):
        connection.close()
    for handle in inherited.present.values():
        platform.close(handle)
    _state.connections = inherited.for_child
    for directory in _state.connections:
        _appear(directory)
