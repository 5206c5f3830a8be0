"""The processes that use an event, a semaphore, a condition or a barrier, and how they wait for each other.

Each object that changes or awaits the state is a *party* of the block (see `sharedarray._wakers`), with an
entry. A word is changed by one store, under a lock on the first word that the kernel frees if its holder
dies. So a process may be killed between any two steps, and the state is whole.

A process that is killed after it has changed the state, and before it has woken those that wait, must not
leave them asleep. So a sleeper waits for the end of all other parties too: each end wakes it, and it looks
again. A process that joins wakes the sleepers, so that they wait for its end as well. The first to find a
party dead clears its entry (`_settle`), under the lock and with the dead party's lease.

An object is one party, because a party as a whole holds units, arrives and is notified. One of its threads,
the leader, sleeps for all. (On a `sharedarray._control_page`, each thread that sleeps is a party.)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sharedarray import _errors as errors, _segment as segment, _sigint as sigint
from sharedarray._array import SharedArray
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._process_end import at_process_end, halting
from sharedarray._spin import spin_wait
from sharedarray._sync.block import (
    ASLEEP,
    CHANGES,
    DEATHS,
    ENTRIES,
    ENTRY,
    ENTRY_WORDS,
    OWN,
    PID,
    NamedBlock,
)
from sharedarray._sync.mutex import Mutex
from sharedarray._wakers import (
    ENDING,
    Fence,
    Waker,
    deadline_after,
    seconds_until,
)

if TYPE_CHECKING:
    from sharedarray._platform.contract import Watch

__all__ = ["Primitive"]

_CHECK = 0.05  # seconds after which a thread checks whether the leader's call was broken off by Ctrl-C
_PAUSE = 0.005  # seconds between two wake-ups of a thread that sleeps for an object which is closed


class _Leadership:
    """A mark of the leader, the thread that sleeps for all. It is freed when the thread's call ends."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Primitive(NamedBlock):
    """The base of the four kinds: the block, its parties, and waiting."""

    _array: SharedArray
    _maker = 0  # the process that made this object, of which a forked child has a copy

    @halting
    def __init__(self, name: str | None, setting: int | None, default: int) -> None:
        self._array = self._made(name, setting, default)
        self._begin()

    def _begin(self) -> None:
        """Set up what belongs to this process alone: at first, and in a forked child."""
        mapping = segment.mapping_of(self._array)
        assert mapping is not None
        self._mapping = mapping
        self.name: str = mapping.name
        self._words = self._array.data.cast("B").cast("Q")
        self._process = os.getpid()
        self._maker = self._maker or self._process
        self._closed = True  # until it is whole
        self._local = threading.Condition()  # of the threads of this process that wait
        self._epoch = 0  # changes when they shall check again
        self._leader: Callable[[], _Leadership | None] = lambda: None  # the one that sleeps for all
        words = self._words
        pid_of = lambda party: int(words[ENTRY + party * ENTRY_WORDS + PID])  # noqa: E731  (it knows no `self`)
        opened: list[Any] = []
        try:
            opened.append(Mutex(mapping))
            opened.append(Waker(mapping, pid_of))
            opened.append(Waker(mapping, pid_of))
        except BaseException:
            for each in opened:
                each.close() if isinstance(each, Mutex) else each.release()
            raise
        # The last one wakes the others, under `_changing`.
        self._changing, self._sleeper, self._waker = opened
        self._sleeping = Fence()
        self._waking = Fence()
        self._token = time.monotonic_ns() | 1
        self._woken: dict[int, int] = {}
        self._known: tuple[int, list[int]] = -1, []
        self._spin = spin_wait()
        _live[:] = [reference for reference in _live if reference() is not None]
        _live.append(weakref.ref(self))
        self._closed = False

    def _begin_in_child(self) -> None:
        """Become another object than the parent's, in a forked child that has not used this one yet."""
        if self._process != os.getpid():
            self._begin()

    # -- parties

    @property
    def _own(self) -> int:
        """The first word of this party's own words."""
        return int(ENTRY + self._sleeper.index * ENTRY_WORDS + OWN)

    def _parties(self) -> list[int]:
        """Return the parties with an entry."""
        words = self._words
        changes, found = self._known
        if changes != words[CHANGES]:
            changes = words[CHANGES]
            found = [party for party in range(ENTRIES) if words[ENTRY + party * ENTRY_WORDS + PID]]
            self._known = changes, found
        return found

    def _changed(self) -> None:
        """Count that a party has joined or left."""
        self._words[CHANGES] = (self._words[CHANGES] + 1) % (1 << 64)

    def _own_words(self) -> Iterator[int]:
        """Return the first own word of each party that has an entry."""
        for party in self._parties():
            yield ENTRY + party * ENTRY_WORDS + OWN

    @contextmanager
    def _change(self) -> Iterator[memoryview]:
        """Hold the lock under which the state is changed, as a party."""
        self._begin_in_child()
        if self._closed:
            raise self._is_closed()
        with sigint.deferred:
            if not self._changing.take():
                raise self._is_closed()
            try:
                if self._closed:  # by another thread, in the meantime
                    raise self._is_closed()
                if self._sleeper.index < 0:
                    self._join()
                yield self._words
            finally:
                self._changing.release()

    @contextmanager
    def _open_party(self) -> Iterator[tuple[memoryview, int]]:
        """Write this party's own words, which no other thread clears meanwhile; the words, and the first own.

        Ctrl-C does not break off the wait, in a deferred block.
        """
        with self._changing.threads:
            if self._closed:
                raise self._is_closed()
            yield self._words, self._own

    def _join(self) -> None:
        words = self._words
        for party in range(ENTRIES):
            if self._sleeper.claim(party):
                break
        else:
            raise errors.LimitError(
                f"{ENTRIES} processes use the {self._KIND} {self.name!r}",
                name=self.name,
                found=f"{ENTRIES} parties",
                expected="one entry that is free",
                next_step="close it where it is not used any more",
            )
        entry = ENTRY + party * ENTRY_WORDS
        if words[entry + PID]:
            self._died(party)
        words[entry + ASLEEP] = 0
        words[entry + PID] = self._process
        self._changed()
        self._wake_sleepers()

    def _died(self, party: int) -> None:
        """Clear the entry of a dead party. The caller holds `_changing`, and the party's lease."""
        words, entry = self._words, ENTRY + party * ENTRY_WORDS
        self._settle(entry + OWN)
        for k in range(OWN, ENTRY_WORDS):
            words[entry + k] = 0
        words[DEATHS] = (words[DEATHS] + 1) % (1 << 64)
        words[entry + ASLEEP] = 0
        words[entry + PID] = 0
        self._changed()
        self._waker.forget(party)

    def _settle(self, own: int) -> None:
        """Undo or finish what a dead party had begun; `own` is the first of its own words."""

    def _clear_dead(self) -> None:
        """Clear the entries of parties that have died."""
        with self._change():
            dead = False
            for party in self._parties():
                if party != self._sleeper.index and self._waker.take(party):
                    try:
                        self._died(party)
                        dead = True
                    finally:
                        self._waker.give_back(party)
            if dead:
                self._wake_sleepers()

    def _wake_sleepers(self) -> None:
        """Wake each party that sleeps. The caller holds `_changing`, and has changed the state."""
        words, own = self._words, self._sleeper.index
        self._waking()
        for party in self._parties():
            token = words[ENTRY + party * ENTRY_WORDS + ASLEEP]
            if token and party != own and self._woken.get(party) != token:
                self._woken[party] = token
                self._waker.wake(party)
        if own >= 0 and words[ENTRY + own * ENTRY_WORDS + ASLEEP]:
            self._sleeper.wake_self()
        self._wake_threads()

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
        with self._change():
            pass  # to be a party
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

    def _wake_threads(self) -> None:
        """Wake the waiting threads of this process, so that they check again."""
        with self._local:
            self._epoch += 1
            self._local.notify_all()

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
                self._clear_dead()
            elif waker.wait(others, seconds_until(end)) and all(map(waker.alive, others)):
                time.sleep(ENDING)
        finally:
            words[asleep] = 0
        return False

    def _watch(self, watch: Watch, ready: Callable[[], object]) -> bool:
        """Sleep until `watch` can be read; return False if a party has died that is to be cleared.

        It can be read at once if `ready` returns true.
        """
        with self._change() as words:
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

        The block is freed when the last object that uses it is closed or collected, or its process ends.

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
            if self._changing.take() if wait else self._changing.take_at_once():
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

    def __getattr__(self, name: str) -> Any:
        if name in ("_words", "_array", "_mapping") and self.__dict__.get("_closed"):
            raise self._is_closed()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _is_closed(self) -> errors.BlockClosedError:
        return errors.BlockClosedError(
            f"the {self._KIND} {self.name!r} is closed", name=self.name, next_step="open it again by its name"
        )

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
