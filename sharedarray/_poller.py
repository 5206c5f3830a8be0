"""Waiting for descriptors, such that a waiting thread can hand the waiting over to another thread.

`selectors` has no way to leave a descriptor out for a moment, so this is epoll where there is one, with
selectors for the rest. A watch has a descriptor of its own, which is ready when anything in it is; so a watch
can be watched, and a whole group be left out by one call.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import selectors
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

from sharedarray import _greenlets as greenlets, _pipes as pipes
from sharedarray._platform import platform

__all__ = ["Poller", "new_poller"]


class Poller(Protocol):
    """A set of descriptors, and waiting for them."""

    def fileno(self) -> int:
        """Return a descriptor that is ready to read when anything watched is ready."""

    def add(self, descriptor: int, *, write: bool = False) -> None:
        """Register for reading or for writing; the closing of the other end is always reported."""

    def modify(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Set what a descriptor is polled for from now on; without both flags it is ignored for a while."""

    def remove(self, descriptor: int) -> None:
        """Poller it no more. A descriptor that is not watched is no error."""

    def wait(self, timeout: float | None) -> Sequence[tuple[int, object]]:
        """Wait for so many seconds; return the descriptors that are ready, each with what the system says."""

    @property
    def ready(self) -> Callable[[], Sequence[tuple[int, object]]]:
        """Do as `wait`, without waiting."""

    def close(self) -> None:
        """End all watching."""


class _Epoll:
    def __init__(self) -> None:
        # gevent removes it from the module.
        self._epoll: Any = platform.opened(greenlets.original("select", "epoll") or select.epoll)
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close
        self.wait = self._epoll.poll
        # The kernel's call itself, because a round trip is measured in microseconds.
        self.ready = partial(self._epoll.poll, 0)

    def add(self, descriptor: int, *, write: bool = False) -> None:
        self._epoll.register(descriptor, select.EPOLLOUT if write else select.EPOLLIN)

    def modify(self, descriptor: int, *, read: bool, write: bool) -> None:
        self._epoll.modify(descriptor, (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0))

    def remove(self, descriptor: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)


class _GreenEpoll(_Epoll):
    """Waiting in the event loop of gevent, which runs other greenlets meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.wait = self._wait

    def _wait(self, timeout: float | None = None) -> Sequence[tuple[int, object]]:
        found: Sequence[tuple[int, object]] = self.ready()
        if not found and timeout != 0:
            loop: Any = select.poll()  # gevent's
            loop.register(self.fileno(), select.POLLIN)
            loop.poll(None if timeout is None else timeout * 1000)
            found = self.ready()
        return found


class _Selector:
    def __init__(self) -> None:
        with platform.standard_streams():
            self._selector: Any = selectors.DefaultSelector()
        self.fileno = self._selector.fileno
        self.close = self._selector.close

    def add(self, descriptor: int, *, write: bool = False) -> None:
        self._selector.register(descriptor, selectors.EVENT_WRITE if write else selectors.EVENT_READ)

    def modify(self, descriptor: int, *, read: bool, write: bool) -> None:
        self.remove(descriptor)
        if read or write:
            events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
            self._selector.register(descriptor, events)

    def remove(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(descriptor)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(timeout)]

    def ready(self) -> list[tuple[int, int]]:
        return self.wait(0)


class _Sockets:
    """Watching by ``select``, where it is for sockets only and has no descriptor of its own.

    The number that stands for a watch within another one is negative. A waiting thread looks at what was
    watched when it began; so a thread that changes that meanwhile wakes it to begin again. ``select`` is not
    broken off by Ctrl-C, so the main thread waits a short time at once.
    """

    _made: ClassVar[weakref.WeakValueDictionary[int, _Sockets]] = weakref.WeakValueDictionary()
    _numbers = itertools.count(2)

    def __init__(self) -> None:
        self._number = -next(self._numbers)
        self._made[self._number] = self
        self._lock = threading.Lock()
        self._wanted: dict[int, tuple[bool, bool]] = {}
        self._waiting = 0
        self._waker = pipes.Waker()

    def fileno(self) -> int:
        return self._number

    def add(self, descriptor: int, *, write: bool = False) -> None:
        self.modify(descriptor, read=not write, write=write)

    def modify(self, descriptor: int, *, read: bool, write: bool) -> None:
        with self._lock:
            self._wanted[descriptor] = read, write
        self._changed()

    def remove(self, descriptor: int) -> None:
        with self._lock:
            self._wanted.pop(descriptor, None)
        self._changed()

    def _changed(self) -> None:
        for reference in self._made.valuerefs():  # a list, while other threads make some
            other = reference()
            if other is None:
                continue
            if other._waiting and (other is self or self._number in other._wanted):
                other._waker.wake()

    def close(self) -> None:
        self._wanted.clear()
        self._waker.close()

    def ready(self) -> list[tuple[int, object]]:
        return self._select(0)

    def wait(self, timeout: float | None) -> list[tuple[int, object]]:
        if threading.current_thread() is threading.main_thread():
            timeout = _INTERRUPTIBLE if timeout is None else min(timeout, _INTERRUPTIBLE)
        self._waiting += 1
        try:
            return self._select(timeout)
        finally:
            self._waiting -= 1

    def _directly(self) -> tuple[set[int], set[int]]:
        with self._lock:
            wanted = list(self._wanted.items())
        return {fd for fd, (read, _) in wanted if read}, {fd for fd, (_, write) in wanted if write}

    def _select(self, timeout: float | None) -> list[tuple[int, object]]:
        read, write = self._directly()
        within: dict[int, set[int]] = {}  # what is watched by others that are watched here
        for number in [number for number in read if number < 0]:
            read.discard(number)
            inner = self._made.get(number)
            within[number] = set() if inner is None else inner._directly()[0]
        waker = self._waker.fileno()
        readable, writable, _ = select.select({waker, *read}.union(*within.values()), write, write, timeout)
        if waker in readable:
            self._waker.drain()
        found = {number for number, inner in within.items() if inner.intersection(readable)}
        return [(number, None) for number in found.union(read.intersection(readable), writable)]


# Seconds after which the main thread looks whether Ctrl-C has come.
_INTERRUPTIBLE = 0.05


def new_poller() -> Poller:
    """Return an empty watch."""
    if not pipes.PIPES:
        return _Sockets()
    if greenlets.waits() and greenlets.original("select", "epoll") is not None:
        return _GreenEpoll()
    return _Epoll() if hasattr(select, "epoll") else _Selector()
