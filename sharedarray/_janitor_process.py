"""The janitor's side: the process that looks at the records when a holder's connection breaks.

See `sharedarray._janitor`, which starts it.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from sharedarray import _damage as damage, _registry as registry
from sharedarray._clock import time
from sharedarray._platform import platform

if TYPE_CHECKING:
    import socket


LOOK_AGAIN = 2.0  # seconds after a broken connection during which leases may still be on their way out
SLOW_LOOK = 1.5  # seconds between looks while anything is left, or more if the looks themselves take long
_FIRST_GAP = 0.2  # seconds between the first two looks; each gap is twice the one before, up to SLOW_LOOK
LINGER = 1.0  # seconds for which a janitor with nothing left waits for the next block
_LOOK_GAP = 0.02  # seconds between two looks at least, however many connections break
_IDLE_SHARE = 50  # times as long as a look takes, until the next slow one
_ADOPTION = 5.0  # seconds in which the kernel gives an orphan its new parent; microseconds in practice
ALIVE, STARTING = 0, 1  # bytes of janitor.lock

WELCOME = 16  # bytes that the janitor's first message has at most


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
        """Return the milliseconds until there is something to do."""
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
        if not platform.lock(self.alive, STARTING, 1, shared=False, wait=False):
            return True  # a process is starting the next one, and wants these files
        if self._reachable():
            damage.quarantine(f"{self.folder}/janitor.sock")
            if platform.inode_of(lock_path) == platform.status(self.alive).inode:
                platform.remove(lock_path)
            platform.remove_directory(self.folder)
        return True

    def _reachable(self) -> bool:
        return _identity(f"{self.folder}/janitor.sock") == self.socket
