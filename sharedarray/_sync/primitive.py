"""Waiting for events, semaphores, conditions and barriers, and the end of their objects.

A process that is killed after it has changed the state, and before it has woken those that wait, must not
leave them asleep. So a sleeper waits for the end of all other parties too: each end wakes it, and it looks
again.

An object is one party, because a party as a whole holds units, arrives and is notified. One of its threads,
the leader, sleeps for all. (On a `sharedarray._control_page`, each thread that sleeps is a party.)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sharedarray import _errors as errors, _segment as segment, _sigint as sigint
from sharedarray._array import SharedArray
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._process_end import at_process_end
from sharedarray._spin import spin_wait
from sharedarray._sync.block import ASLEEP, CHANGES, ENTRIES, ENTRY, ENTRY_WORDS, OWN, PID
from sharedarray._sync.mutex import BusyError, patient
from sharedarray._sync.parties import Parties
from sharedarray._wakers import ENDING, deadline_after, seconds_until

if TYPE_CHECKING:
    from sharedarray._platform.contract import Watch

__all__ = ["Primitive"]

_CHECK = 0.05  # seconds after which a thread checks whether the leader's call was broken off by Ctrl-C
_JOINING = 0.05  # seconds of a try to become a party; then the thread checks what it waits for
_PAUSE = 0.005  # seconds between two wake-ups of a thread that sleeps for an object which is closed


class _Leadership:
    """A mark of the leader, the thread that sleeps for all. It is freed when the thread's call ends."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Primitive(Parties):
    """The base of the four kinds: waiting, and the end."""

    def _begin(self) -> None:
        self._leader: Callable[[], _Leadership | None] = lambda: None  # the one that sleeps for all
        self._spin = spin_wait()
        super()._begin()
        _live[:] = [reference for reference in _live if reference() is not None]
        _live.append(weakref.ref(self))

    # -- waiting

    @staticmethod
    def _check_blocking(blocking: object) -> None:
        if not isinstance(blocking, bool | np.bool_) and blocking not in (0, 1):
            raise TypeError(
                f"blocking is True or False, not {blocking!r}; for seconds to wait write timeout={blocking!r}"
            )

    def _wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `ready` returns True; return False if the time is over before.

        Of several threads of this process, one sleeps for all, the leader; the others wait until it wakes.
        """
        end = deadline_after(timeout)
        if ready():
            return True
        if end is not None and time.monotonic() >= end:
            return False
        start = time.perf_counter()
        while True:
            epoch = self._epoch
            if self._closed:
                raise self._is_closed()
            if ready():
                self._spin.last = time.perf_counter() - start
                return True
            remaining = seconds_until(end)
            if remaining is not None and remaining <= 0:
                return False
            if self._sleeper.index < 0 or self._process != os.getpid():
                try:
                    self._become_party(time.monotonic() + min(_JOINING, remaining or _JOINING))
                except BusyError:
                    continue
            leadership = _Leadership()
            with self._local:
                if not self._lead(leadership):
                    if self._epoch == epoch:
                        self._local.wait(_CHECK if remaining is None else min(remaining, _CHECK))
                    continue
            try:
                if (self._spin.worthwhile() and self._spin.poll(ready)) or self._sleep(ready, end):
                    self._spin.last = time.perf_counter() - start
                    return True
            finally:
                del leadership
                self._wake_threads()

    def _lead(self, leadership: _Leadership) -> bool:
        """Become the leader; return False if there is one, or another thread has closed this object.

        The caller holds `_local`.
        """
        if self._closed or self._leader() is not None:
            return False
        self._leader = weakref.ref(leadership)
        return True

    def _sleep(self, ready: Callable[[], bool], end: float | None) -> bool:
        """Sleep until another party changes the state, or dies, or time is over; return what was ready."""
        words, waker = self._words, self._sleeper
        asleep = ENTRY + waker.index * ENTRY_WORDS + ASLEEP
        waker.drain()
        self._token += 2
        words[asleep] = self._token
        try:
            self._sleeping()
            joined = words[CHANGES]
            others = [party for party in self._parties() if party != waker.index]
            if ready():
                return True
            if words[CHANGES] != joined:
                return False
            if not all(map(waker.alive, others)):
                try:
                    self._clear_dead(end)
                except BusyError:
                    return False
            elif waker.wait(others, seconds_until(end)) and all(map(waker.alive, others)):
                time.sleep(ENDING)
        finally:
            words[asleep] = 0
        return False

    def _watch(self, watch: Watch, ready: Callable[[], object]) -> bool:
        """Sleep until `watch` can be read; return False if a party has died that is to be cleared.

        It can be read at once if `ready` returns true.

        Raises
        ------
        BusyError
            Another process has had the lock for `mutex.PATIENCE` seconds.
        """
        self._become_party(patient(0.0))
        with sigint.deferred, self._open_party() as (words, _):
            waker = self._sleeper
            platform.drain(waker.handle)
            watch.add(waker.handle, own=True)
            self._token += 2
            words[ENTRY + waker.index * ENTRY_WORDS + ASLEEP] = self._token
            self._sleeping()
            others = [party for party in self._parties() if party != waker.index]
            for party in range(ENTRIES):
                waker.forget(party)  # it may be that of a former party
            for end in waker.ends(others):
                watch.add(end)
            if ready():
                waker.wake_self()
            return all(map(waker.alive, others))

    # -- the end

    def close(self) -> None:
        """Close this object; other objects of the name stay open. Idempotent.

        The block is freed when the last object that uses it is closed or collected, or its process ends. If
        another process is stopped as it changes the state, this object leaves after a second, as if its
        process had died.

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("closed_event")  # the same for a semaphore, a condition and a barrier
        >>> event.close()
        >>> event.closed
        True
        """
        if not self._closed:
            with sigint.deferred:
                self._end(wait=True)

    def _end(self, *, wait: bool) -> None:
        """Close this object. Another party clears its entry if that would take a wait, as if it were dead."""
        own = self._process == os.getpid()
        if own:
            try:
                taken = self._changing.take(patient(0.0)) if wait else self._changing.take_at_once()
            except BusyError:
                taken = wait = False
            if taken:
                try:
                    if self._closed:
                        return
                    self._closed = True
                    if self._sleeper.index >= 0:
                        self._clear_own()
                finally:
                    self._changing.release()
            elif wait:
                return  # another thread has closed it
            self._closed = True
            self._end_waits()
        self._closed = True
        self._sleeper.release()
        self._waker.release()
        if own:
            self._changing.close()
        del self._words, self._array, self._mapping  # and so the block, if no other object uses it

    def _clear_own(self) -> None:
        entry = ENTRY + self._sleeper.index * ENTRY_WORDS
        self._release_party(entry + OWN)
        for k in range(OWN, ENTRY_WORDS):
            self._words[entry + k] = 0
        self._words[entry + PID] = 0
        self._changed()
        self._wake_sleepers()

    def _end_waits(self) -> None:
        """Wait until no other thread sleeps for this object."""
        while True:
            with self._local:  # as while a thread becomes the leader
                leader = self._leader()
            if leader is None or leader.thread == threading.get_ident():
                return
            del leader
            self._sleeper.wake_self()
            self._wake_threads()
            with self._local:
                self._local.wait(_PAUSE)

    def _release_party(self, own: int) -> None:
        """Give back the units or the turn that this party has; `own` is the first of its own words."""

    @property
    def closed(self) -> bool:
        """True if this object is closed."""
        return self._closed

    def unlink(self) -> None:
        """Remove the name now. Objects that use it keep it.

        Raises
        ------
        BlockClosedError
            This object is closed (a `ValueError`).
        BlockNotFoundError
            The name is gone, or leads to another block (a `FileNotFoundError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("unlinked_event")  # the same for a semaphore, a condition and a barrier
        >>> event.unlink()
        >>> event.set()  # still works
        >>> sa.exists("unlinked_event")
        False
        """
        segment.unlink_mapping(self._mapping)

    @sigint.finalizer
    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            sigint.finalize(lambda: self._end(wait=False))

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (type(self), self._array)

    @classmethod
    def _of(cls, array: object) -> Self:
        if not isinstance(array, SharedArray) or array.closed or not cls._fits(array):
            raise errors.NotPicklableError(
                f"{cls.__name__} objects travel to other processes of this machine only",
                found="a copy of its data, as from pickle.dump",
                next_step="send its name",
            )
        made = cls.__new__(cls)
        made._array = array
        made._begin()
        return made


def _arrived(cls: type[Primitive], array: object) -> Primitive:
    return cls._of(array)


_live: list[weakref.ref[Primitive]] = []  # all that are not closed


@at_process_end
def _close_all() -> None:
    for reference in _live[:]:
        primitive = reference()
        if primitive is not None:
            primitive.close()
