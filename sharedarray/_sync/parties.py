"""The parties of an event, a semaphore, a condition or a barrier, which change its state under a lock.

Each object that changes or awaits the state is a *party* of the block (see `sharedarray._wakers`), with an
entry. A word is changed by one store, under a lock that the kernel frees if its holder dies. So a process may
be killed between any two steps, and the state is whole. A process may also be stopped there: each call that
has a timeout ends without that lock when the time is over (see `sharedarray._sync.mutex`).

A process that joins wakes the sleepers, so that they wait for its end as well. The first to find a party dead
clears its entry (`_settle`), under the lock and with the dead party's lease.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sharedarray import _errors as errors, _segment as segment, _sigint as sigint
from sharedarray._array import SharedArray
from sharedarray._clock import time
from sharedarray._process_end import halting
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
from sharedarray._wakers import Fence, Waker

__all__ = ["Parties"]


class Parties(NamedBlock):
    """The block of an object, this object's party, and the other parties."""

    _array: SharedArray
    _maker = 0  # the process that made this object, of which a forked child has a copy

    @halting
    def __init__(self, name: str | None, setting: int | None, default: int) -> None:
        self._array = self._made(name, setting, default)
        with sigint.deferred:
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
    def _change(self, end: float | None = None) -> Iterator[memoryview]:
        """Hold the lock under which the state is changed, as a party.

        Raises
        ------
        BusyError
            Another process has had the lock until `end`, a moment of the monotonic clock.
        """
        self._begin_in_child()
        if self._closed:
            raise self._is_closed()
        with sigint.deferred:
            if not self._changing.take(end):
                raise self._is_closed()
            try:
                if self._closed:  # by another thread, in the meantime
                    raise self._is_closed()
                if self._sleeper.index < 0:
                    self._join()
                yield self._words
            finally:
                self._changing.release()

    def _become_party(self, end: float | None) -> None:
        """Become a party, if this object is none yet.

        Raises
        ------
        BusyError
            Another process has had the lock until `end`, a moment of the monotonic clock.
        """
        self._begin_in_child()
        if self._closed:
            raise self._is_closed()
        if self._sleeper.index < 0:
            with self._change(end):
                pass

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

    def _clear_dead(self, end: float | None) -> None:
        """Clear the entries of parties that have died.

        Raises
        ------
        BusyError
            Another process has had the lock until `end`, a moment of the monotonic clock.
        """
        with self._change(end):
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

    def _wake_threads(self) -> None:
        """Wake the waiting threads of this process, so that they check again."""
        with self._local:
            self._epoch += 1
            self._local.notify_all()

    def __getattr__(self, name: str) -> Any:
        if name in ("_words", "_array", "_mapping") and self.__dict__.get("_closed"):
            raise self._is_closed()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _is_closed(self) -> errors.BlockClosedError:
        return errors.BlockClosedError(
            f"the {self._KIND} {self.name!r} is closed", name=self.name, next_step="open it again by its name"
        )
