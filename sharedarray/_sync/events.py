"""`Event`: a flag that processes set, clear and wait for.

The word STATE is ``number of set() calls << 1 | flag``, so that a wait notices a `set` that a `clear` follows
at once, as `threading.Event`'s does.

An event that a selector or `sharedarray.wait` waits for has one more party, a `_Watcher`, which is asleep all
the time: its waker can be read once another party has changed the state.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

from sharedarray import _errors as errors, _sigint as sigint
from sharedarray._platform import platform
from sharedarray._process_end import halting
from sharedarray._sync.block import FIRST
from sharedarray._sync.mutex import BusyError, patient
from sharedarray._sync.primitive import Primitive

__all__ = ["Event"]

_STATE = FIRST


class Event(Primitive):
    """A flag by name, with the methods of `threading.Event`, for any number of processes and threads.

    ``Event(name)`` makes the event, or uses the one that has the name. At most 64 objects may use it at once.
    A process that is killed leaves the flag as it is, and keeps no other process waiting.

    Parameters
    ----------
    name : str, optional
        Name to find it by. Without one, it has a random name: `name` tells it.

    Attributes
    ----------
    name : str
        The event's name.

    Raises
    ------
    BlockExistsError
        The name is taken by another kind of block (a `FileExistsError`).

    Notes
    -----
    It travels to tasks and through queues by reference. The flag lasts as long as an object that uses it.
    `sharedarray.wait` waits for several events, streams and futures; an event that it waited for counts as
    two objects.

    Examples
    --------
    >>> import sharedarray as sa
    >>> ready = sa.Event("camera_ready")
    >>> sa.Event("camera_ready").set()  # in any process
    >>> ready.wait(timeout=5.0)
    True
    """

    _KIND: ClassVar = "event"
    _MAGIC: ClassVar = 1

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name, None, 0)

    def _begin(self) -> None:
        self._watcher: _Watcher | None = None
        self._when_closed: set[Callable[[], object]] = set()
        super()._begin()

    @halting
    def is_set(self) -> bool:
        """Return True if the flag is set.

        Examples
        --------
        >>> import sharedarray as sa
        >>> sa.Event("new_event").is_set()
        False
        """
        if not self._words[_STATE] & 1:
            watcher = self._watcher
            if watcher is None or self._process != os.getpid():
                return False
            watcher.arm()
        return bool(self._words[_STATE] & 1)

    def ready(self) -> bool:
        """Return whether a call of `wait` would not wait: the flag is set, or this object is closed.

        Returns
        -------
        bool
            As the selectors of `sharedarray.wait` and of event loops need it; it does not wait.

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("ready_event")
        >>> event.ready()
        False
        >>> event.set()
        >>> event.ready()
        True
        """
        try:
            return self._closed or self.is_set()
        except errors.BlockClosedError:  # by another thread
            return True

    @halting
    def fileno(self) -> int:
        """Return a descriptor that can be read when the flag may be set.

        For `selectors`, and for event loops: after it could be read, ask `is_set`, after which it can be read
        only if the flag is set, or may be. It is the same until the event is closed. Windows has none.

        Returns
        -------
        int
            The descriptor, which the event keeps and closes.

        Raises
        ------
        BlockClosedError
            The event is closed (a `ValueError`).
        LockTimeout
            Another process was stopped as it changed the event (a `TimeoutError`).
        UnsupportedError
            The system has no such descriptors.

        Examples
        --------
        >>> import select, selectors
        >>> import sharedarray as sa
        >>> event = sa.Event("selected_event")
        >>> event.set()
        >>> if hasattr(select, "poll"):  # not on Windows
        ...     with selectors.DefaultSelector() as selector:
        ...         key = selector.register(event, selectors.EVENT_READ)
        ...         assert selector.select(timeout=5.0)
        >>> event.close()
        """
        with sigint.deferred:
            self._begin_in_child()  # where a thread of the parent may have held the lock
            try:
                return self._watched()
            except BusyError:
                raise errors.LockTimeout(
                    f"no descriptor can be made for the event {self.name!r} now",
                    name=self.name,
                    found="a process that has not finished a change of it: it is stopped",
                    next_step="continue or end that process",
                ) from None

    def _watched(self) -> int:
        """Return the descriptor, in a deferred block."""
        with self._local:
            if self._closed:
                raise self._is_closed()
            if self._watcher is None:
                watcher = _Watcher(self._of(self._array))
                try:
                    watcher.arm()
                except BaseException:
                    watcher.close(wait=False)
                    raise
                self._watcher = watcher
            return self._watcher.watch.fileno()

    def _end(self, *, wait: bool) -> None:
        own = self._process == os.getpid()
        super()._end(wait=wait)
        if not own:
            return
        with self._local:  # as while it is made
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close(wait=wait)
        for wake in tuple(self._when_closed):
            wake()

    @halting
    def set(self) -> None:
        """Set the flag, and wake all that wait for it.

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("set_event")
        >>> event.set()
        >>> event.is_set()
        True
        """
        with self._change() as words:
            words[_STATE] = ((words[_STATE] >> 1) + 1) % (1 << 63) << 1 | 1
            self._wake_sleepers()

    @halting
    def clear(self) -> None:
        """Clear the flag.

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("cleared_event")
        >>> event.set()
        >>> event.clear()
        >>> event.is_set()
        False
        """
        with self._change() as words:
            words[_STATE] = words[_STATE] & ~1

    @halting
    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; no limit when None.

        Returns
        -------
        bool
            False if the time was over before.

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("awaited_event")
        >>> event.wait(timeout=0.001)
        False
        >>> event.set()
        >>> event.wait(timeout=5.0)
        True
        """
        words = self._words
        before = words[_STATE] >> 1
        return self._wait(lambda: bool(words[_STATE] & 1) or words[_STATE] >> 1 != before, timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {'set' if self.is_set() else 'clear'})"


class _Watcher:
    """A party of an event that sleeps all the time, and a descriptor that can be read when it is woken."""

    def __init__(self, party: Event) -> None:
        self._party = party
        self.watch = platform.watch()

    def arm(self) -> None:
        """Forget former wake-ups, and be woken by the next change of the state, or the death of a party.

        The descriptor can be read at once if the flag is set.
        """
        words = self._party._words
        if not self._party._watch(self.watch, lambda: words[_STATE] & 1):
            try:
                self._party._clear_dead(patient(0.0))  # this wakes this party
            except BusyError:
                pass  # the descriptor can be read until another process has cleared it

    def close(self, *, wait: bool) -> None:
        """Wake those that wait for the descriptor, and close it; with `wait`, after a call of `arm`."""
        self._party._sleeper.wake_self()
        self._party._end(wait=wait)
        self.watch.close()
