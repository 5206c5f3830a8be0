"""Waiting for streams along with other things: `wait`."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sharedarray import _errors as errors, _sigint as sigint
from sharedarray._platform import platform
from sharedarray._streams.event_loops import HAS_DESCRIPTORS, SLICE
from sharedarray._wakers import deadline_after, seconds_until

__all__ = ["DoneAndNotDone", "wait"]

_LONGEST = 1 << 30  # milliseconds that `poll` takes as a timeout


@runtime_checkable
class Waitable(Protocol):
    """An object that `wait` takes besides futures: a stream or an event."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when `ready` may be true."""

    def ready(self) -> bool:
        """Return whether a call would not wait."""


class DoneAndNotDone(NamedTuple):
    """The result of `wait`."""

    done: set[Any]
    not_done: set[Any]


def wait(
    things: Iterable[Any], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone:
    """Wait for several streams, events and futures, as `concurrent.futures.wait` does for futures.

    Parameters
    ----------
    things : iterable
        Consumers of streams, which are done when `get` would not wait; events, which are done while they are
        set; other objects with ``ready()`` and ``fileno()``; futures of `concurrent.futures` and of pools.
    timeout : float, optional
        Seconds to wait; no limit when None.
    return_when : {'ALL_COMPLETED', 'FIRST_COMPLETED', 'FIRST_EXCEPTION'}
        When to return: once all are done, any is, or any future has raised an exception.

    Returns
    -------
    named tuple of sets
        ``done`` and ``not_done``. Nothing is taken from the streams.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Stream("shown_left", ()) as left, sa.Stream("shown_right", ()) as right:
    ...     viewers = [sa.Stream("shown_left"), sa.Stream("shown_right")]
    ...     left.put(1.0)
    ...     done, waiting = sa.wait(viewers, return_when="FIRST_COMPLETED")
    ...     [float(stream.get()) for stream in done]
    [1.0]
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"return_when is one of the constants of concurrent.futures, not {return_when!r}")
    if isinstance(things, Future | Waitable):
        raise TypeError(f"wait() takes several: write wait([…]) for one {type(things).__name__}")
    try:
        everything = set(things)
    except TypeError:
        kind = type(things).__name__
        raise TypeError(f"wait() takes a list of streams, events and futures, not {kind}") from None
    for thing in everything:
        if not isinstance(thing, Future | Waitable):
            raise TypeError(f"wait() takes streams, events and futures, not {type(thing).__name__}")
    end = deadline_after(timeout)
    with sigint.deferred:
        change = _Change()
        try:
            with sigint.allowed:
                return _wait(change, everything, end, return_when)
        finally:
            change.close(everything)


def _wait(change: _Change, everything: set[Any], end: float | None, return_when: str) -> DoneAndNotDone:
    for thing in everything:
        change.follow(thing)
    while True:
        change.drain()
        done = {thing for thing in everything if _is_done(thing)}
        remaining = seconds_until(end)
        if _enough(done, everything, return_when) or (remaining is not None and remaining <= 0):
            return DoneAndNotDone(done, everything - done)
        change.wait([thing for thing in everything - done if not isinstance(thing, Future)], remaining)


def _is_done(thing: Any) -> bool:
    return bool(thing.done() if isinstance(thing, Future) else thing.ready())


def _enough(done: set[Any], everything: set[Any], return_when: str) -> bool:
    if len(done) == len(everything) or (return_when == FIRST_COMPLETED and done):
        return True
    return return_when == FIRST_EXCEPTION and any(
        isinstance(thing, Future) and not thing.cancelled() and thing.exception() is not None
        for thing in done
    )


class _Change:
    """Wakes a thread that waits for descriptors: a future is done, or another thread closes a descriptor.

    A closed stream or event has no descriptor any more. So when it is closed, it calls the functions in its
    ``_when_closed``.
    """

    def __init__(self) -> None:
        self._reader, self._writer = platform.opened(socket.socketpair)
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._closed = False

    def follow(self, thing: Future[Any] | Waitable) -> None:
        """Wake when this future is done, or this object is closed."""
        if isinstance(thing, Future):
            thing.add_done_callback(self._wake)
        elif (functions := getattr(thing, "_when_closed", None)) is not None:
            functions.add(self._wake)

    def _wake(self, _: object = None) -> None:
        try:
            if not self._closed:
                self._writer.send(b"w")
        except OSError:
            pass  # the thread is awake, or does not wait any more

    def drain(self) -> None:
        """Forget that it was woken."""
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass

    def wait(self, things: list[Waitable], seconds: float | None) -> None:
        """Wait until a future is done, one of the descriptors can be read, or the time is over."""
        if not HAS_DESCRIPTORS:
            seconds = SLICE if things and (seconds is None or seconds > SLICE) else seconds
            select.select([self._reader], [], [], seconds)
            return
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        for thing in things:
            try:
                poll.register(thing.fileno(), select.POLLIN)
            except errors.BlockClosedError:
                return  # a closed stream or event counts as ready
            except errors.LockTimeout:  # a process was stopped as it changed an event
                seconds = SLICE if seconds is None else min(seconds, SLICE)
        poll.poll(None if seconds is None else min(int(seconds * 1000) + 1, _LONGEST))

    def close(self, things: Iterable[Future[Any] | Waitable]) -> None:
        """Stop following these objects, and close the sockets."""
        self._closed = True
        for thing in things:
            if (functions := getattr(thing, "_when_closed", None)) is not None:
                functions.discard(self._wake)
        self._reader.close()
        self._writer.close()
