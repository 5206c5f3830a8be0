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
inherits, from before it starts until it ends; `_STARTING` by a process that starts one. The holders lock its
other bytes (see `registry.appear`). The starter also binds and listens, so that it can connect at once and
needs no wait: if it dies before the janitor runs, its broken connection is the first thing that the janitor
sees.

To end, the janitor closes its connections first and then looks once more. A holder writes a block's
record first and looks at its connection then (`ensure`), so one of the two always sees the other.

The janitor must not hurt its starter. It runs a fresh interpreter (``-I -S``), detached twice in a session
of its own, with no descriptor but its own two, default signals and ``/`` as its directory, and it
imports neither NumPy nor the package's ``__init__``. If no interpreter is known (`sharedarray._interpreter`),
or none starts within `_START_PATIENCE` seconds, there is no janitor; a warning says so once.

Detached twice, the janitor is a child of the process that adopts orphans. If that is a holder (process 1 of a
container, or a subreaper), the first message to this holder carries the janitor's pid. The holder then reaps
the janitor in a thread that ends with it: the janitor never stays a zombie, and ``os.wait()`` does not see it
later.
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
from sharedarray._platform import platform

if TYPE_CHECKING:
    import socket  # and where it is used: most of what a process imports us for needs no janitor
    import subprocess

LOOK_AGAIN = 2.0  # seconds after a broken connection during which leases may still be on their way out
SLOW_LOOK = 1.5  # seconds between looks while anything is left, or more if the looks themselves take long
_FIRST_GAP = 0.2  # seconds between the first two looks; each gap is twice the one before, up to SLOW_LOOK
LINGER = 1.0  # seconds for which a janitor with nothing left waits for the next block
_LOOK_GAP = 0.02  # seconds between two looks at least, however many connections break
_IDLE_SHARE = 50  # times as long as a look takes, until the next slow one
_FRESH = 0.05  # seconds for which a connection that stood is believed to stand
_UNANSWERED = 3  # connections in a row that ended without an answer, after which we stop starting janitors
_RETRY = 5.0  # seconds until a start that failed is tried again
_PATIENCE = 5.0  # seconds to wait for an answer
_ENDING_PATIENCE = (
    15.0  # seconds to wait for a janitor that is ending, or is to notice that it lost its socket
)
_START_PATIENCE = 8.0  # seconds that an interpreter may take to start; about 0.03 on a machine that is free
_ADOPTION = 5.0  # seconds in which the kernel gives an orphan its new parent; microseconds in practice
_PACKAGE = os.path.dirname(os.path.abspath(__file__))  # known before the program changes its directory
_TIDY = 30.0  # seconds between two sweeps by a maker of blocks, where the kernel frees them and leaves a note
_MANY = 16  # directories of blocks from which on those that are not in use are forgotten
_BACKLOG = 512  # connections that wait while the janitor looks
_ALIVE, _STARTING = 0, 1  # bytes of janitor.lock

_WELCOME = 16  # bytes that the janitor's first message has at most

_BOOT = (
    "import sys, types\n"
    "package = types.ModuleType('sharedarray')\n"
    "package.__path__ = [sys.argv[1]]\n"
    "sys.modules['sharedarray'] = package\n"
    "from sharedarray import _janitor as janitor\n"
    "janitor.main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))\n"
)


# The user that this process acts as, which may change; a constant where there are no such users.
_user: Callable[[], int] = getattr(os, "geteuid", int)

# -- the holder's side ----------------------------------------------------------------------------------


class _Connection:
    """One connection to a janitor: whether it was answered, when it last stood, and of which user it is."""

    __slots__ = ("_socket", "answered", "looked", "user")

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
        self.looked = time.monotonic()

    def stands(self) -> bool:
        """Whether the janitor at the other end is, or is about to be, there."""
        self.looked = time.monotonic()
        try:
            while said := self._socket.recv(_WELCOME):
                self.answered = True
                _hear_welcome(said)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def covered(self) -> bool:
        """Wait for the janitor's first byte; False when it ended instead."""
        self._socket.settimeout(_PATIENCE)
        try:
            said = self._socket.recv(_WELCOME)
        except OSError:
            said = b""
        finally:
            self._socket.setblocking(False)
        self.answered = bool(said)
        _hear_welcome(said)
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
    """Have this process's blocks in `directory` watched.

    Called after a record is written, and, not `strict`, when a block is attached. A maker must look at its
    connection every time, or a janitor that ends could miss the record. An attacher may believe one that
    stood `_FRESH` seconds ago: the janitor of that block's maker comes by anyway. Where none can be
    started, the sweep happens here instead, and a warning says so.
    """
    connection = _state.connections.get(directory)
    if connection is not None and connection.user == _user():
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
        if connection is not None and connection.user != _user():
            # This process acts as another user by now. The former one's janitor goes on watching its blocks.
            _state.former[directory, connection.user] = connection
            connection = _state.former.pop((directory, _user()), None)
        if connection is not None:
            if connection.stands():  # another thread was faster
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
    """Show processes of other pid namespaces that this process lives, unless it has done so.

    Called before its first record is written: a janitor of another pid namespace would take the maker of that
    for dead.
    """
    if registry.registry_of(directory) not in _state.present:
        with _state.lock:
            if registry.registry_of(directory) not in _state.present:
                _appear(directory)


def _forget_ended() -> None:
    """Forget directories in which this process has no block any more, so that their janitors have ended."""
    for directory, connection in list(_state.connections.items()):
        if not connection.stands():
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
        pass  # then a reference that this process sends there has its grace period from now on


def _tidy(directory: str) -> None:
    """Drop the records of blocks that the kernel has freed, the first time and then from time to time."""
    now = time.monotonic()
    if now - _state.tidied.get(directory, float("-inf")) < _TIDY:
        return
    _state.tidied[directory] = now
    try:
        registry.sweep(directory)
    except OSError:
        pass  # the registry is not ours, which making a block tells


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
                damage.report(lock_path, "no regular file", "it is set aside")
                if damage.set_aside(lock_path):
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


def _free_path(path: str) -> None:
    """Remove the socket of a janitor that was killed, or what is there in its place."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            damage.report(path, "no socket", "it is set aside")
    except FileNotFoundError:
        return
    damage.set_aside(path)


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

    from sharedarray import (
        _interpreter as interpreter,  # here: only what starts a _janitor as janitor needs it
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
                connection.covered()  # its first message says whether it is a child of this process
        except BaseException:
            connection.close()
            raise
    return connection


def _run(command: list[str], files: tuple[int, ...]) -> int:
    """Return the status of a program in a session of its own; kill it if it does not end in time."""
    import subprocess

    from sharedarray import _interpreter as interpreter

    # Ctrl-C in a terminal reaches it as well, until it is in a session of its own.
    with _interrupts_blocked(), platform.standard_streams(), interpreter.undebugged():
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
    """Wait for the end of a child without looking from time to time, which would take up to twice as long."""
    try:
        handle = platform.opened(os.pidfd_open, program.pid)
    except (AttributeError, OSError):  # a kernel before 5.3, or another system
        return program.wait(seconds)
    try:
        ends = select.poll()
        ends.register(handle, select.POLLIN)
        return program.wait(seconds if not ends.poll(seconds * 1000) else None)
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


# Whether another process says that there is no janitor: the pool, of its workers.
silent = False

# Directories whose missing janitor a warning has named; in a forked child, its parent has said so.
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
        pass  # the registry is not ours, which making a block tells


# -- a janitor that is a child of a holder --------------------------------------------------------------


def _hear_welcome(said: bytes) -> None:
    """Reap the janitor when it ends, if its first message says that it is a child of this process."""
    pid = said[1:].strip()
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
    """A path of the socket that fits its 107 bytes, however long the directory's is."""
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
    for connection in (*inherited.connections.values(), *inherited.former.values()):
        connection.close()
    for handle in inherited.present.values():
        platform.close(handle)
    _state.connections = inherited.for_child
    for directory in _state.connections:
        _appear(directory)


# -- the janitor's side ---------------------------------------------------------------------------------


def main(folder: str, alive: int, listening: int) -> None:
    """Run the janitor of the registry `folder`, with its lock and its socket as inherited files."""
    import resource  # which not every system has
    import socket

    damage.unheard = True
    starter = os.getpid()
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
    deadline = time.monotonic() + _ADOPTION
    while os.getppid() == starter and time.monotonic() < deadline:
        time.sleep(0.001)  # until it has ended, the process that will reap this one is not known
    _Janitor(folder, alive, socket.socket(fileno=listening)).run()


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return what tells a file from the next at its path, which often has its inode; None without one."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mode, found.st_ctime_ns


class _Janitor:
    def __init__(self, folder: str, alive: int, listener: socket.socket) -> None:
        self.folder = folder
        self.directory = os.path.dirname(folder)
        self.alive = alive
        self.listener = listener
        self.listener.setblocking(False)
        self.socket = _identity(f"{folder}/janitor.sock")
        self.clients: dict[int, socket.socket] = {}
        self.poll = select.poll()
        self.poll.register(listener, select.POLLIN)
        self.last_break = float("-inf")  # when a connection last broke
        self.last_look = float("-inf")
        self.gap = _FIRST_GAP  # seconds until the next slow look
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
        # However long until then: another program may have removed the socket, see `_may_end`.
        return min(max(0.0, min(times, default=now + SLOW_LOOK) - now), SLOW_LOOK) * 1000 + 1

    def _welcome(self) -> None:
        while True:
            try:
                client, _ = platform.opened(self.listener.accept)
            except BlockingIOError:
                return  # no other connection waits
            except OSError:
                time.sleep(_LOOK_GAP)  # no descriptor is free: the rest waits in the backlog
                return
            client.setblocking(False)
            try:
                client.send(b"+%d" % os.getpid() if platform.peer(client) == os.getppid() else b"+")
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
            self.next_look = now + max(self.gap, _IDLE_SHARE * took) if work else None
            self.gap = min(2 * self.gap, SLOW_LOOK)
        if work:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now
        return work

    def _may_end(self, now: float) -> bool:
        if not self._reachable():
            return True  # no process can reach us any more; the next holder starts another
        return self.idle_since is not None and now - self.idle_since >= LINGER

    def _end(self) -> bool:
        """Close every connection, look once more, and tidy up; False when there is work again."""
        for client in self.clients.values():
            self.poll.unregister(client)
            client.close()
        self.clients.clear()
        self.idle_since = None
        damage.unheard = False  # no process is left that would tell of a damaged file, and make it anew
        try:
            work = self._look(time.monotonic())
        finally:
            damage.unheard = True
        if work and self._reachable():
            return False
        lock_path = f"{self.folder}/{registry.LOCK_FILE}"
        if not platform.lock(self.alive, _STARTING, 1, shared=False, wait=False):
            return True  # a process is starting the next one, and wants these files
        if self._reachable():
            damage.set_aside(f"{self.folder}/janitor.sock")
            if platform.inode_of(lock_path) == platform.status(self.alive).inode:
                platform.remove(lock_path)
            platform.remove_directory(self.folder)
        return True

    def _reachable(self) -> bool:
        return _identity(f"{self.folder}/janitor.sock") == self.socket
