"""Waiting for what other processes write into a block, by a page of control words.

A `ControlPage` is 512 words of 8 bytes in a page of a block, behind its data::

    word 0          what the page is: its magic
         1 ... 127  what the module that uses the page keeps there
       128 + i      ASLEEP of party i: a random number for its sleep (a token), 0 while it is awake
       256 + i      PID of party i
       384 + i      STATE of party i: what the module that uses the page keeps for it

A process becomes a party when it first needs to sleep, or to have a state of its own. It claims an index by
its waker (`sharedarray._wakers`), whose lease the kernel ends with the process. The words of a party are
written by that party alone, or by the process that holds the lease of a party that has gone.

The words are read and written through a mapping of their own. A block's attachment refers to its page, so
that the page must not refer to the attachment: otherwise the block would not be freed with its last view. For
the same reason, nothing that a page refers to refers to the page.

A page may be released while other threads use it: they wait, or they have its turn, which is a lock on a byte
(`take_turn`). The release wakes the threads that wait, which raise `BlockClosedError`. The last thread that
ends its use releases the parties and closes the handle.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from sharedarray import (
    _errors as errors,
    _forks as forks,
    _registry as registry,
    _segment as segment,
    _sigint as sigint,
)
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._process_end import at_process_end
from sharedarray._segment import Mapping
from sharedarray._spin import spin_wait
from sharedarray._wakers import FIRST_LEASE, Fence, Waker, deadline_after, seconds_until

__all__ = ["PARTIES", "STATE", "WORDS", "ControlPage", "Party"]

WORDS = 512  # of 8 bytes, in a page
PARTIES = 124  # of one block at a time
_ASLEEP, _PID, STATE = 128, 256, 384
_FIRST = 1 << 16  # index of the first party: those of streams begin with 0
_LEASES = FIRST_LEASE + _FIRST  # the byte of a block that is the lease of the first party
_POLL = 0.002, 0.05  # seconds between two checks by a process that cannot become a party: first, longest
_LONGEST_PAUSE = 0.02  # seconds between two tries for a lock with a timeout; see `sharedarray._locks`
_UNWOKEN = 5.0  # seconds of the longest sleep: a party checks again in case its waker was removed
_NO_SLEEPER = bytes(PARTIES * 8)


class Party:
    """One party of a block, as which a thread of this process sleeps.

    Attributes
    ----------
    index : int
        The index of its words in the page.
    waker : Waker
        By it the party is woken, and wakes others.
    token : int
        The number of its sleep.
    """

    __slots__ = ("index", "token", "waker")

    def __init__(self, index: int, waker: Waker) -> None:
        self.index = index
        self.waker = waker
        self.token = 0


class Parties:
    """The control words of one block, and the parties as which threads of this process sleep and wake others.

    Parameters
    ----------
    mapping
        The attachment; it is not kept.
    start
        The byte of the block at which the page is.
    size
        Bytes of the block, which may be more than the attachment maps.
    named_by
        The directory and the number by which the wakers are named; those of the block when None.
    name
        The name in errors; that of the attachment when None.

    Attributes
    ----------
    memory : mmap
        The whole block, mapped once more; read-only if the file is.
    words : memoryview
        The words.
    writable : bool
        Whether this process may write them.
    handle : int
        A handle on the block, for locks; -1 once the page is released and no thread uses it.
    usable : bool
        Whether the attachment is not released, and no fork has come in between: a child makes its own page.
    turn : RLock
        Held by the thread that has the turn.
    """

    def __init__(
        self,
        mapping: Mapping,
        start: int,
        size: int,
        *,
        named_by: tuple[str, int] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or mapping.name
        self.handle = segment.guarded_open(mapping)
        try:
            try:
                self.memory: mmap.mmap = platform.map(mmap.mmap, self.handle, size, "r+")
                self.writable = True
            except PermissionError:
                self.memory = platform.map(mmap.mmap, self.handle, size, "r")
                self.writable = False
        except BaseException:
            segment.guarded_close(self.handle)
            raise
        self.words: memoryview = memoryview(self.memory)[start : start + WORDS * 8].cast("Q")
        self._sleepers = memoryview(self.memory)[start + _ASLEEP * 8 : start + (_ASLEEP + PARTIES) * 8]
        self.turn: Any = threading.RLock()
        # For each party that this process has woken, the token of that sleep.
        self._woken: dict[int, int] = {}
        # Held while the uses are counted. A finalizer may call `on_release`.
        self._changing = threading.RLock()
        self._uses = 0  # how many calls need the handle
        self._stopped = False
        self._idle: list[Party] = []
        self._in_use: list[Party] = []
        self._all: list[Party] = []
        if named_by is not None:
            self._named_by = named_by
        elif mapping.directory is not None:
            self._named_by = mapping.directory, mapping.inode
        else:
            self._named_by = registry.directory(), mapping.device << 64 | mapping.inode
        words = self.words
        self._pid_of: Callable[[int], int] = lambda index: int(words[_PID + index - _FIRST])
        self._spin = spin_wait()
        self.usable = True
        _pages.append(weakref.ref(self, _forget))

    # -- use by several threads -----------------------------------------------------------------------

    def begin_use(self) -> None:
        """Keep the handle open until `end_use`; to be called while Ctrl-C is deferred.

        Raises
        ------
        BlockClosedError
            The page is released.
        """
        with self._changing:
            self.check_usable()
            self._uses += 1

    def end_use(self) -> None:
        """End a use. The last one of a page that is released gives up the parties and the handle."""
        with self._changing:
            self._uses -= 1
            if self._uses or self.usable or self.handle < 0 or self.in_use():
                return
            parties, self._all = self._all, []
            self._idle.clear()
            handle, self.handle = self.handle, -1
        for party in parties:
            for words in (STATE, _ASLEEP, _PID):
                self.words[words + party.index] = 0
            party.waker.release()
        segment.guarded_close(handle)
        self.closed()

    def check_usable(self) -> None:
        """Raise `BlockClosedError` if the page is released, or is about to be."""
        if self._stopped or not self.usable:
            raise errors.BlockClosedError(
                f"{self.name!r} is closed", name=self.name, next_step="attach to it again"
            )

    def stop_waits(self) -> None:
        """End the waits of all threads, which raise `BlockClosedError`."""
        self._stopped = True
        self.fence()
        for party in self._in_use[:]:  # a copy: other threads give parties back meanwhile
            party.waker.wake_self()

    # -- parties --------------------------------------------------------------------------------------

    def claim(self) -> Party | None:
        """Become one more party; return None if there can be no more. To be called during a use."""
        if not self.writable:
            return None
        with sigint.deferred:
            try:
                waker = Waker(self.handle, self._pid_of, self._named_by)
            except FileNotFoundError:  # some systems cannot open a file again that has lost its name
                return None
            try:
                for index in range(PARTIES):
                    if waker.claim(_FIRST + index):
                        for words, value in ((_ASLEEP, 0), (STATE, 0), (_PID, os.getpid())):
                            self.words[words + index] = value
                        party = Party(index, waker)
                        self._all.append(party)
                        return party
            except BaseException:
                waker.release()
                raise
            waker.release()
        return None

    def alive(self, index: int) -> bool:
        """Return whether the process of a party lives."""
        return platform.locked(self.handle, _LEASES + index, 1)

    def states(self) -> list[tuple[int, int]]:
        """Return the index and the state of each party that has one."""
        return [(index, state) for index, state in enumerate(self.words[STATE : STATE + PARTIES]) if state]

    def pid_of(self, index: int) -> int:
        """Return the process that a party was, or is."""
        return int(self.words[_PID + index])

    def parties_here(self) -> set[int]:
        """Return the indexes of all parties that this process is, by any attachment to the block."""
        pages = [page for reference in _pages[:] if (page := reference()) is not None]
        return {party.index for page in pages if page._named_by == self._named_by for party in page._all[:]}

    def clear_dead(self, index: int, party: Party) -> bool:
        """Clear the words of a party that has died; return False if it lives."""
        if not party.waker.take(_FIRST + index):
            return False
        try:
            self.words[STATE + index] = self.words[_ASLEEP + index] = self.words[_PID + index] = 0
        finally:
            party.waker.give_back(_FIRST + index)
        return True

    # -- waking ---------------------------------------------------------------------------------------

    def fence(self) -> None:
        """Make all stores before it visible before any load after it."""
        Fence()()  # a new one: Ctrl-C in the call could leave a shared fence's lock taken

    def wake(self) -> None:
        """Wake each party that sleeps, after a store that they may wait for."""
        self.fence()
        if self.all_awake() or not self.writable:
            return
        with sigint.deferred:
            party = self.take_party()
            if party is not None:  # else the sleepers check again after `_UNWOKEN` seconds
                try:
                    self.wake_by(party)
                finally:
                    self.give_back_party(party)

    def all_awake(self) -> bool:
        """Return whether no party sleeps; to be called after a fence."""
        return self._sleepers.tobytes() == _NO_SLEEPER  # memoryviews compare byte by byte

    def wake_by(self, party: Party) -> None:
        """Wake each party that sleeps, by the waker of a party of this process."""
        self.fence()
        for index in range(PARTIES):
            token = self.words[_ASLEEP + index]
            if token and self._woken.get(index) != token:
                self._woken[index] = token
                party.waker.wake(_FIRST + index)

    def take_party(self) -> Party | None:
        """Return a party that no other thread uses; None if there can be no more, or the page is released.

        To be called while Ctrl-C is deferred. See `give_back_party`.
        """
        with self._changing:
            if self.handle < 0:
                return None
            self._uses += 1
        party = None
        try:
            try:
                party = self._idle.pop()
            except IndexError:
                party = self.claim()
            if party is not None:
                self._in_use.append(party)
        finally:
            if party is None:
                self.end_use()
        return party

    def give_back_party(self, party: Party) -> None:
        """Give back a party, which other threads may use now."""
        self._in_use.remove(party)
        self._idle.append(party)
        self.end_use()

    # -- release --------------------------------------------------------------------------------------

    def on_release(self, mapping: Mapping | None = None) -> None:
        """Release the page with its attachment; a thread that still uses it releases the rest."""
        if not self.usable:  # also in a forked child, in which other threads' locks stay locked
            return
        with sigint.deferred:
            if self._begin_release():
                try:
                    self.before_release()
                    self.stop_waits()
                finally:
                    self.end_use()

    def _begin_release(self) -> bool:
        with self._changing:
            found, self.usable = self.usable, False
            self._uses += found
        return found  # False if another thread was faster

    def in_use(self) -> bool:
        """Return whether something needs the parties and the handle though the page is released."""
        return False

    def before_release(self) -> None:
        """Called before the parties are released; a subclass may override it."""

    def closed(self) -> None:
        """Called when the handle is closed, or the process ends; a subclass may override it. Idempotent."""


class ControlPage(Parties):
    """The control words of one block, in this process: its parties, their waits, and turns.

    Parameters and attributes are those of `Parties`.
    """

    # -- sleeping -------------------------------------------------------------------------------------

    def wait(
        self,
        ready: Callable[[], Any],
        timeout: float | None,
        watched: Callable[[], Iterable[int]] = tuple,
        pauses: tuple[float, float] = (_UNWOKEN, _UNWOKEN),
    ) -> Any:
        """Sleep until `ready` returns a true value, or the time is over; return its last value.

        Parameters
        ----------
        ready
            Returns a true value once the caller need not wait any more. It may raise.
        timeout
            Seconds, None for no limit.
        watched
            Returns the indexes of parties; the end of each wakes the caller.
        pauses
            Seconds after which `ready` is called again without a wake-up: at first, and at most.

        Raises
        ------
        BlockClosedError
            The page is released, before the wait or during it.
        """
        end = deadline_after(timeout)
        begun = -1.0
        with sigint.deferred:
            self.begin_use()
            try:
                with sigint.allowed:
                    if found := ready():
                        return found
                    begun = time.perf_counter()
                    if self._spin.worthwhile() and (found := self._spin.poll(ready)):
                        return found
                return self._await(ready, end, watched, pauses)
            finally:
                if begun >= 0:
                    self._spin.last = time.perf_counter() - begun
                self.end_use()

    def _await(
        self,
        ready: Callable[[], Any],
        end: float | None,
        watched: Callable[[], Iterable[int]],
        pauses: tuple[float, float],
    ) -> Any:
        party = self.take_party()
        if party is None:
            with sigint.allowed:
                return self._poll(ready, end)
        try:
            with sigint.allowed:
                return self._sleep(party, ready, end, watched, pauses)
        finally:
            self.words[_ASLEEP + party.index] = 0
            self.give_back_party(party)

    def _sleep(
        self,
        party: Party,
        ready: Callable[[], Any],
        end: float | None,
        watched: Callable[[], Iterable[int]],
        pauses: tuple[float, float],
    ) -> Any:
        waker, words, own = party.waker, self.words, _ASLEEP + party.index
        pause, longest = pauses
        while True:
            waker.drain()
            # A token that no former party of this index has used, in this process or in another one.
            party.token = int.from_bytes(os.urandom(7), "little") + 1
            words[own] = party.token
            self.fence()
            found = ready()
            if not found:
                self.check_usable()  # a release from here on wakes this party
            remaining = seconds_until(end)
            if found or remaining == 0:
                return found
            others = [_FIRST + index for index in watched() if index != party.index][:62]
            waker.wait(others, pause if remaining is None else min(remaining, pause))
            pause = min(2 * pause, longest)
            if found := ready():
                return found

    def _poll(self, ready: Callable[[], Any], end: float | None) -> Any:
        pause, longest = _POLL
        while not (found := ready()):
            self.check_usable()
            remaining = seconds_until(end)
            if remaining == 0:
                return found
            time.sleep(pause if remaining is None else min(pause, remaining))
            pause = min(2 * pause, longest)
        return found

    # -- turns ----------------------------------------------------------------------------------------

    def take_turn(self, byte: int, timeout: float | None, what: str) -> bool:
        """Lock a byte against all other threads and processes; return False if the time is over.

        To be called while Ctrl-C is deferred: Ctrl-C ends the wait only. See `end_turn`.

        Parameters
        ----------
        byte
            The byte of the block to lock.
        timeout
            Seconds, None for no limit.
        what
            The verb of the caller's action, for an error: "append to".

        Raises
        ------
        BlockClosedError
            The page is released.
        DeadlockError
            This thread has the turn already, by this attachment or another one, and there is no limit.
        """
        taken = _turns.get((self._named_by, byte))
        if taken is self.turn and timeout is not None and taken._is_owned():
            return False
        if timeout is None and taken is not None and taken._is_owned():
            raise errors.DeadlockError(
                f"this thread cannot begin to {what} {self.name!r}: it has not ended what it began before",
                name=self.name,
                found=f"a call, in this thread, to {what} the same block",
                next_step="end that one first",
            )
        end = deadline_after(timeout)
        self.begin_use()
        try:
            with sigint.allowed:
                if self.turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                    if self.lock(byte, end):
                        self.check_usable()
                        _turns[self._named_by, byte] = self.turn
                        return True
                    self.turn.release()
        except BaseException:
            if self.turn._is_owned():
                self.end_turn(byte)
            else:
                self.end_use()
            raise
        self.end_use()
        return False

    def end_turn(self, byte: int) -> None:
        """Unlock a byte, which ends the turn."""
        _turns.pop((self._named_by, byte), None)
        self.unlock(byte)
        self.turn.release()
        self.end_use()

    def unlock(self, byte: int) -> None:
        """Unlock a byte that `lock` has locked."""
        platform.unlock(self.handle, byte, 1)

    def lock(self, byte: int, end: float | None) -> bool:
        """Lock a byte against other processes; this thread holds `turn`. Return False if the time is over."""
        if end is None:
            return platform.lock(self.handle, byte, 1, shared=False, wait=True)
        pause = 0.0002
        while not platform.lock(self.handle, byte, 1, shared=False, wait=False):
            remaining = seconds_until(end)
            if not remaining:
                return False
            time.sleep(min(pause, remaining))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True


def _after_fork_in_child() -> None:
    for reference in _pages:
        page = reference()
        if page is not None:
            page.usable = False
            page.handle = -1  # `segment` has closed it
    _pages.clear()
    _turns.clear()


_pages: list[weakref.ref[Parties]] = []
# The turns that threads of this process have, by block and byte, each with the lock that its thread holds.
_turns: dict[tuple[tuple[str, int], int], Any] = {}


def _forget(reference: weakref.ref[Parties]) -> None:
    if reference in _pages:  # else a fork has cleared the list
        _pages.remove(reference)


forks.around(__name__, in_child=_after_fork_in_child)


@at_process_end
def release_all() -> None:
    """Release all parties at the end of a process, so that its end is not taken for a death."""
    for reference in _pages[:]:
        page = reference()
        if page is not None:
            page.on_release()
            if page.handle >= 0:  # daemon threads use it, which `halt`
                page.closed()
