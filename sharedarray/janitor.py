"""The janitor: one small process per user and memory file system that removes what sudden death left.

Every process that holds blocks keeps one connection to it::

    holder                         registry directory                     janitor
    ------                         ------------------                     -------
    connect ────────────────────▶  janitor.sock  ◀──────────────────────  listen
            ◀──────────────────────────────────────────────────  one byte: covered
    (dies)  x─────────────────────────────────────────────────▶  end of file: look at the records

A holder says nothing; that its connection breaks is the message. The kernel may break it before it has
dropped the dead process's leases, so the janitor looks again for `LOOK_AGAIN` seconds, and slowly from
time to time (`SLOW_LOOK`) while anything is left, because a forked child may keep a connection open.
When nothing is left it ends.

Two bytes of ``janitor.lock`` decide between two: `_ALIVE` is locked through an open file that the janitor
inherits, from before it starts until it ends; `_STARTING` by whoever starts one. The starter also binds
and listens, so that it can connect at once and needs no wait: if it dies before the janitor runs, its
broken connection is the first thing that the janitor sees.

To end, the janitor closes its connections first and then looks once more. A holder writes a block's
record first and looks at its connection then (`ensure`), so one of the two always sees the other.

The janitor must not hurt its starter. It runs a fresh interpreter (``-I -S``), detached twice in a session
of its own, with no descriptor but its own two, default signals and ``/`` as its directory, and it
imports neither NumPy nor the package's ``__init__``.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sharedarray import damage, registry
from sharedarray._platform import platform

if TYPE_CHECKING:
    import socket  # and where it is used: most of what a process imports us for needs no janitor

LOOK_AGAIN = 2.0  # seconds after a broken connection during which leases may still be on their way out
SLOW_LOOK = 1.5  # seconds between looks while anything is left, or more if the looks themselves take long
LINGER = 1.0  # seconds for which a janitor with nothing left waits for the next block
_LOOK_GAP = 0.02  # seconds between two looks at least, however many connections break
_IDLE_SHARE = 50  # times as long as a look takes, until the next slow one
_FRESH = 0.05  # seconds for which a connection that stood is believed to stand
_UNANSWERED = 3  # connections in a row that ended without an answer, after which we stop starting janitors
_RETRY = 5.0  # seconds until a start that failed is tried again
_PATIENCE = 5.0  # seconds to wait for a janitor that is ending, and for an answer
_TIDY = 30.0  # seconds between two sweeps by a maker of blocks, where the kernel frees them and leaves a note
_BACKLOG = 512  # connections that wait while the janitor looks
_ALIVE, _STARTING = 0, 1  # bytes of janitor.lock

_BOOT = (
    "import sys, types\n"
    "package = types.ModuleType('sharedarray')\n"
    "package.__path__ = [sys.argv[1]]\n"
    "sys.modules['sharedarray'] = package\n"
    "from sharedarray import janitor\n"
    "janitor.main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))\n"
)


# -- the holder's side ----------------------------------------------------------------------------------


class _Connection:
    """One connection to a janitor: whether it was answered, and when it was last seen to stand."""

    __slots__ = ("_socket", "answered", "looked")

    def __init__(self, folder: str) -> None:
        import socket

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.answered = False
        try:
            self._socket.settimeout(_PATIENCE)
            with _short_path(folder) as path:
                self._socket.connect(path)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.looked = time.monotonic()

    def stands(self) -> bool:
        """Whether the janitor at the other end is, or is about to be, there."""
        self.looked = time.monotonic()
        try:
            while self._socket.recv(16):
                self.answered = True
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def covered(self) -> bool:
        """Wait for the janitor's first byte; False when it ended instead."""
        self._socket.settimeout(_PATIENCE)
        try:
            self.answered = bool(self._socket.recv(16))
        except OSError:
            pass
        finally:
            self._socket.setblocking(False)
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
        self.for_child: dict[str, _Connection] = {}
        self.tidied: dict[str, float] = {}  # when directories that need no janitor were swept


_state = _State()


def ensure(directory: str, *, strict: bool = True) -> None:
    """Have this process's blocks in `directory` watched.

    Called after a record is written, and, not `strict`, when a block is attached. A maker must look at its
    connection every time, or a janitor that ends could miss the record. An attacher may believe one that
    stood `_FRESH` seconds ago: the janitor of that block's maker comes by anyway. Where none can be
    started, the sweep happens here instead, and a warning says so.
    """
    connection = _state.connections.get(directory)
    if connection is not None:
        if not strict and time.monotonic() - connection.looked < _FRESH:
            return
        if connection.stands():
            return
    if not platform.NEEDS_JANITOR:
        if strict:
            _tidy(directory)
        return
    with _state.lock:
        connection = _state.connections.pop(directory, None)
        if connection is not None:
            if connection.stands():  # another thread was faster
                _state.connections[directory] = connection
                return
            connection.close()
            unanswered = 0 if connection.answered else _state.unanswered.get(directory, 0) + 1
            _state.unanswered[directory] = unanswered
        if time.monotonic() - _state.failed.get(directory, float("-inf")) < _RETRY:
            return
        try:
            if _state.unanswered.get(directory, 0) >= _UNANSWERED:
                _state.unanswered[directory] = 0
                raise ChildProcessError("it ends as soon as it is started")
            _state.connections[directory] = _connect(directory)
        except (OSError, ImportError) as error:  # a process may not be allowed to read its own library
            _fall_back(directory, error)


def _tidy(directory: str) -> None:
    """Drop the records of blocks that the kernel has freed, the first time and then from time to time."""
    now = time.monotonic()
    if now - _state.tidied.get(directory, float("-inf")) < _TIDY:
        return
    _state.tidied[directory] = now
    try:
        registry.sweep(directory)
    except OSError:
        pass  # the registry is not ours, which whoever makes a block is told


def _connect(directory: str) -> _Connection:
    folder = registry.open_registry(directory)
    try:
        connection = _Connection(folder)
    except OSError:
        return _start(directory)
    if connection.covered():
        return connection
    connection.close()
    return _start(directory)


def _start(directory: str) -> _Connection:
    """Start a janitor unless somebody else is doing so, and connect to it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        folder = registry.open_registry(directory)
        lock_path = f"{folder}/janitor.lock"
        try:
            starting = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # a janitor that ends removes its files, and the registry
            continue
        except OSError:
            if not _is_file(lock_path) and damage.set_aside(lock_path):
                continue
            raise
        try:
            os.fchmod(starting, 0o600)  # whatever the umask
            alive = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.close(starting)
            continue
        except BaseException:
            os.close(starting)
            raise
        try:
            platform.lock(starting, _STARTING, 1, shared=False, wait=True)
            if platform.inode_of(lock_path) != platform.status(alive).inode:
                continue
            try:
                connection = _Connection(folder)
            except OSError:
                pass
            else:
                if connection.covered():
                    return connection
                connection.close()
            if platform.lock(alive, _ALIVE, 1, shared=False, wait=False):
                return _launch(folder, alive)
        finally:
            os.close(alive)
            os.close(starting)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the janitor of {folder} holds its lock but does not answer")
        time.sleep(0.01)  # a janitor is just ending, and has nothing that we could wait on


def _is_file(path: str) -> bool:
    """Return whether a path leads to a regular file, or to nothing."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Have what is started here not hear SIGINT until it says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _launch(folder: str, alive: int) -> _Connection:
    import socket
    import subprocess

    executable = sys.executable or getattr(sys, "_base_executable", None)
    if not executable:
        raise FileNotFoundError("no Python interpreter is known that could run the janitor")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _short_path(folder) as path:
            damage.set_aside(f"{folder}/janitor.sock")
            listener.bind(path)
            os.chmod(path, 0o600)  # whatever the umask
        listener.listen(_BACKLOG)
        connection = _Connection(folder)
        package = os.path.dirname(os.path.abspath(__file__))
        files = [str(alive), str(listener.fileno())]
        try:
            # Ctrl-C in a terminal reaches it as well, until it is in a session of its own.
            with _interrupts_blocked():
                detaching = subprocess.Popen(
                    [executable, "-I", "-S", "-c", _BOOT, package, folder, *files, "sharedarray-janitor"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(alive, listener.fileno()),
                    cwd="/",
                    start_new_session=True,
                )
            code = detaching.wait()
        except BaseException:
            connection.close()
            raise
        if code:
            connection.close()
            raise ChildProcessError(f"{executable} ended with {code}")
    return connection


def _fall_back(directory: str, error: OSError | ImportError) -> None:
    _state.failed[directory] = time.monotonic()
    warnings.warn(
        f"sharedarray could not start its janitor for {directory} ({error}): blocks of processes that are "
        "killed stay until somebody next makes a block or runs `sharedarray prune`",
        RuntimeWarning,
        stacklevel=2,
    )
    try:
        registry.sweep(directory)
    except OSError:
        pass  # the registry is not ours, which whoever makes a block is told


@contextmanager
def _short_path(folder: str) -> Iterator[str]:
    """A path of the socket that fits its 107 bytes, however long the directory's is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
    """Open the child's connections. Ours stand, so the janitor is there and takes them up when it can."""
    _state.lock.acquire()
    for directory in _state.connections:
        try:
            _state.for_child[directory] = _Connection(registry.registry_of(directory))
        except OSError:
            continue  # the child connects when it next makes or attaches a block


def after_fork_in_parent() -> None:
    """Leave the child's connections to the child."""
    for connection in _state.for_child.values():
        connection.close()
    _state.for_child.clear()
    _state.lock.release()


def after_fork_in_child() -> None:
    """Take up the child's own connections, and close the parent's, or its death would go unnoticed."""
    global _state
    inherited, _state = _state, _State()
    for connection in inherited.connections.values():
        connection.close()
    _state.connections = inherited.for_child


# -- the janitor's side ---------------------------------------------------------------------------------


def main(folder: str, alive: int, listening: int) -> None:
    """Run the janitor of the registry `folder`, with its lock and its socket as inherited files."""
    import resource  # which not every system has
    import socket

    if os.fork():
        os._exit(0)  # the starter waits for this process and never hears of the janitor
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # what has come so far was meant for our starter
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client that died before its welcome must not end us
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each process that holds blocks
    _Janitor(folder, alive, socket.socket(fileno=listening)).run()


class _Janitor:
    def __init__(self, folder: str, alive: int, listener: socket.socket) -> None:
        self.folder = folder
        self.directory = os.path.dirname(folder)
        self.alive = alive
        self.listener = listener
        self.listener.setblocking(False)
        self.socket_inode = platform.inode_of(f"{folder}/janitor.sock")
        self.clients: dict[int, socket.socket] = {}
        self.poll = select.poll()
        self.poll.register(listener, select.POLLIN)
        self.last_break = float("-inf")  # when a connection last broke
        self.last_look = float("-inf")
        self.next_look: float | None = time.monotonic()
        self.idle_since: float | None = None  # since when nothing is left

    def run(self) -> None:
        while True:
            for handle, _ in self.poll.poll(self._pause()):
                if handle == self.listener.fileno():
                    self._welcome()
                else:
                    self._hear(handle)
            now = time.monotonic()
            if self.next_look is not None and self.next_look <= now:
                self._look(now)
            if self._may_end(now) and self._end():
                return

    def _pause(self) -> float:
        """Milliseconds until there is something to do."""
        now = time.monotonic()
        times = [] if self.next_look is None else [self.next_look]
        if self.idle_since is not None:
            times.append(self.idle_since + LINGER)
        return max(0.0, min(times) - now) * 1000 + 1 if times else SLOW_LOOK * 1000

    def _welcome(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                return  # nobody else waits
            except OSError:
                time.sleep(_LOOK_GAP)  # no descriptor is free: the rest waits in the backlog
                return
            client.setblocking(False)
            try:
                client.send(b"+")
            except OSError:
                pass  # it died already, which the poll tells next
            self.clients[client.fileno()] = client
            self.poll.register(client, select.POLLIN)
            self.idle_since = None if self.idle_since is None else time.monotonic()

    def _hear(self, handle: int) -> None:
        client = self.clients[handle]
        try:
            if client.recv(16):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.poll.unregister(client)
        del self.clients[handle]
        client.close()
        self.last_break = time.monotonic()
        soon = max(self.last_break, self.last_look + _LOOK_GAP)
        self.next_look = soon if self.next_look is None else min(soon, self.next_look)

    def _look(self, now: float) -> bool:
        """Sweep, say whether there is work left, and plan the next look."""
        try:
            swept = registry.sweep(self.directory)
        except Exception:  # not readable just now, not ours any more, or damaged in an unknown way
            work = platform.inode_of(self.folder) is not None
        else:
            work = swept.work > 0
        self.last_look = now
        since, took = now - self.last_break, time.monotonic() - now
        if since < LOOK_AGAIN:
            self.next_look = now + took + max(_LOOK_GAP, since / 2)
        else:
            self.next_look = now + max(SLOW_LOOK, _IDLE_SHARE * took) if work else None
        if work:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now
        return work

    def _may_end(self, now: float) -> bool:
        if platform.inode_of(f"{self.folder}/janitor.sock") != self.socket_inode:
            return True  # nobody can reach us any more; the next holder starts another
        return self.idle_since is not None and now - self.idle_since >= LINGER

    def _end(self) -> bool:
        """Close every connection, look once more, and tidy up; False when there is work again."""
        for client in self.clients.values():
            self.poll.unregister(client)
            client.close()
        self.clients.clear()
        self.idle_since = None
        if self._look(time.monotonic()) and self._reachable():
            return False
        lock_path = f"{self.folder}/janitor.lock"
        if not platform.lock(self.alive, _STARTING, 1, shared=False, wait=False):
            return True  # somebody is starting the next one, and wants these files
        if self._reachable():
            damage.set_aside(f"{self.folder}/janitor.sock")
            if platform.inode_of(lock_path) == platform.status(self.alive).inode:
                platform.remove(lock_path)
            platform.remove_directory(self.folder)
        return True

    def _reachable(self) -> bool:
        return platform.inode_of(f"{self.folder}/janitor.sock") == self.socket_inode
