"""Waiting for descriptors, such that one who waits can hand the waiting over to somebody else.

`selectors` has no way to leave a descriptor out for a moment, so this is epoll where there is one, with
selectors for the rest. A watch has a descriptor of its own, which is ready when anything in it is; so a watch
can be watched, and a whole group be left out by one call.
"""

from __future__ import annotations

import contextlib
import select
import selectors
from typing import Any, Protocol

__all__ = ["Watch", "watch"]


class Watch(Protocol):
    """What a set of watched descriptors can do."""

    def fileno(self) -> int:
        """Return a descriptor that is ready to read when anything watched is ready."""

    def add(self, descriptor: int, *, write: bool = False) -> None:
        """Watch for something to read, or for room to write; for the other end to be closed in any case."""

    def expect(self, descriptor: int, *, read: bool, write: bool) -> None:
        """Say what a descriptor is watched for from now on; nothing at all leaves it out for a while."""

    def remove(self, descriptor: int) -> None:
        """Watch it no more. A descriptor that is not watched is no error."""

    def wait(self, timeout: float | None) -> list[tuple[int, bool, bool]]:
        """Wait for so many seconds; return descriptors with whether they can be read, and written to."""

    def ready(self) -> list[tuple[int, bool, bool]]:
        """Do as `wait`, without waiting."""

    def close(self) -> None:
        """End all watching."""


class _Epoll:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close

    def add(self, descriptor: int, *, write: bool = False) -> None:
        self._epoll.register(descriptor, select.EPOLLOUT if write else select.EPOLLIN)

    def expect(self, descriptor: int, *, read: bool, write: bool) -> None:
        self._epoll.modify(descriptor, (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0))

    def remove(self, descriptor: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)

    def wait(self, timeout: float | None) -> list[tuple[int, bool, bool]]:
        return _told(self._epoll.poll(timeout))

    def ready(self) -> list[tuple[int, bool, bool]]:
        ready = self._epoll.poll(0)
        return _told(ready) if ready else []


def _told(ready: list[tuple[int, int]]) -> list[tuple[int, bool, bool]]:
    return [(fd, bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT)) for fd, events in ready]


class _Selector:
    def __init__(self) -> None:
        self._selector: Any = selectors.DefaultSelector()
        self.fileno = self._selector.fileno
        self.close = self._selector.close

    def add(self, descriptor: int, *, write: bool = False) -> None:
        self._selector.register(descriptor, selectors.EVENT_WRITE if write else selectors.EVENT_READ)

    def expect(self, descriptor: int, *, read: bool, write: bool) -> None:
        self.remove(descriptor)
        if read or write:
            events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
            self._selector.register(descriptor, events)

    def remove(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(descriptor)

    def wait(self, timeout: float | None) -> list[tuple[int, bool, bool]]:
        ready = self._selector.select(timeout)
        return [
            (key.fd, bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE))
            for key, events in ready
        ]

    def ready(self) -> list[tuple[int, bool, bool]]:
        return self.wait(0)


def watch() -> Watch:
    """Return an empty watch."""
    return _Epoll() if hasattr(select, "epoll") else _Selector()
