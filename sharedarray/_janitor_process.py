"""The process of the janitor: it sweeps the registry when the connection of a holder breaks.

`sharedarray._janitor` describes it, and starts it.
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


SWEEP_AGAIN = 2.0  # seconds after a broken connection in which the kernel may not have dropped all leases
SLOW_SWEEP = 1.5  # seconds between sweeps while blocks are left; more if a sweep takes long
_FIRST_GAP = 0.2  # seconds between the first two sweeps; each gap is twice the one before, up to SLOW_SWEEP
LINGER = 1.0  # seconds for which a janitor without blocks waits for the next one
_SWEEP_GAP = 0.02  # seconds between two sweeps at least, however many connections break
_IDLE_SHARE = 50  # the next slow sweep comes after this many times the duration of one
_ADOPTION = 5.0  # seconds at most until the kernel has given an orphan its new parent; in practice 1 us
ALIVE, STARTING = 0, 1  # bytes of janitor.lock

WELCOME = 16  # bytes of the janitor's first message, at most


def main(folder: str, alive: int, listening: int) -> None:
    """Run the janitor of the registry `folder`, with its lock and its socket as inherited files."""
    import resource  # which not every system has
    import socket

    damage.unheard = True
    starter = os.getpid()
    if os.fork():
        os._exit(0)  # the starter waits for this process, and is not the janitor's parent
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # drops the pending signals, which were meant for the starter
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client may die before its welcome is sent
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each process that holds blocks
    deadline = time.monotonic() + _ADOPTION
    while os.getppid() == starter and time.monotonic() < deadline:
        time.sleep(0.001)  # until the starter's child has ended, this process does not have its final parent
    _Janitor(folder, alive, socket.socket(fileno=listening)).run()


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return numbers that distinguish a file from the next file at its path; None if there is no file."""
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
        self.last_sweep = float("-inf")
        self.gap = _FIRST_GAP  # seconds until the next slow look
        self.next_sweep: float | None = time.monotonic()
        self.idle_since: float | None = None  # since when nothing is left

    def run(self) -> None:
        while True:
            for handle, _ in self.poll.poll(self._pause()):
                if handle == self.listener.fileno():
                    self._welcome()
                else:
                    self._receive(handle)
            now = time.monotonic()
            if self.next_sweep is not None and self.next_sweep <= now:
                self._sweep(now)
            if self._may_end(now) and self._end():
                return

    def _pause(self) -> float:
        """Return the milliseconds until there is something to do."""
        now = time.monotonic()
        times = [] if self.next_sweep is None else [self.next_sweep]
        if self.idle_since is not None:
            times.append(self.idle_since + LINGER)
        # At most SLOW_SWEEP seconds: another program may have removed the socket, see `_may_end`.
        return min(max(0.0, min(times, default=now + SLOW_SWEEP) - now), SLOW_SWEEP) * 1000 + 1

    def _welcome(self) -> None:
        while True:
            try:
                client, _ = platform.opened(self.listener.accept)
            except BlockingIOError:
                return  # no other connection waits
            except OSError:
                time.sleep(_SWEEP_GAP)  # no descriptor is free: the rest waits in the backlog
                return
            client.setblocking(False)
            try:
                client.send(b"+%d" % os.getpid() if platform.peer(client) == os.getppid() else b"+")
            except OSError:
                pass  # it has died, which the next poll finds
            self.clients[client.fileno()] = client
            self.poll.register(client, select.POLLIN)
            self.idle_since = None if self.idle_since is None else time.monotonic()

    def _receive(self, handle: int) -> None:
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
        soon = max(self.last_break, self.last_sweep + _SWEEP_GAP)
        self.next_sweep = soon if self.next_sweep is None else min(soon, self.next_sweep)

    def _sweep(self, now: float) -> bool:
        """Sweep, set the time of the next sweep, and return whether blocks are left."""
        try:
            swept = registry.sweep(self.directory)
        except Exception:  # unreadable for now, not this user's any more, or damaged in an unknown way
            work = platform.inode_of(self.folder) is not None
        else:
            work = swept.work > 0
        self.last_sweep = now
        since, took = now - self.last_break, time.monotonic() - now
        if since < SWEEP_AGAIN:
            self.next_sweep = now + took + max(_SWEEP_GAP, since / 2)
        else:
            self.next_sweep = now + max(self.gap, _IDLE_SHARE * took) if work else None
            self.gap = min(2 * self.gap, SLOW_SWEEP)
        if work:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now
        return work

    def _may_end(self, now: float) -> bool:
        if not self._reachable():
            return True  # no process can connect any more; the next holder starts another janitor
        return self.idle_since is not None and now - self.idle_since >= LINGER

    def _end(self) -> bool:
        """Close every connection, sweep once more and remove our files; return False if a block came."""
        for client in self.clients.values():
            self.poll.unregister(client)
            client.close()
        self.clients.clear()
        self.idle_since = None
        # No other process is left that would warn of a damaged file, and write it anew.
        damage.unheard = False
        try:
            work = self._sweep(time.monotonic())
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
