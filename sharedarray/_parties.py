"""Waiting for what other processes write into a block, by a page of control words.

A `ControlPage` is 512 words of 8 bytes in a page of a block, behind its data::

    word 0          what the page is: its magic
         1 ... 127  what the module that uses the page keeps there
       128 + i      ASLEEP of party i: the token of its sleep, 0 while it is awake
       256 + i      PID of party i
       384 + i      STATE of party i: what the module that uses the page keeps for it

A process becomes a party when it first needs to sleep, or to have a state of its own. It claims an index by
its waker (`sharedarray._wakers`), whose lease the kernel ends with the process. The words of a party are
written by that party alone, or by the process that holds the lease of a party that has gone.

The words are looked at through a mapping of their own, which refers to nothing: what a block's attachment
refers to must not refer back to it, or the block would not be freed with its last view.
"""

from __future__ import annotations

import atexit
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from sharedarray import _interrupts as interrupts, _registry as registry, _segment as segment
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._spin import SpinWait
from sharedarray._wakers import PARTIES as LEASES, Fence, Waker, deadline_after

__all__ = ["PARTIES", "STATE", "WORDS", "ControlPage", "Party"]

WORDS = 512  # of 8 bytes, in a page
PARTIES = 124  # of one block at a time
_ASLEEP, _PID, STATE = 128, 256, 384
_FIRST = 1 << 16  # index of the first party: those of streams begin with 0
_LEASES = LEASES + _FIRST  # the byte of a block that is the lease of the first party
_SPIN = 50e-6  # seconds to poll before sleeping: about what waking a core takes
_POLL = 0.002, 0.05  # seconds between two looks of a process that cannot become a party: first and longest
_UNWOKEN = 5.0  # seconds of the longest sleep; a look costs nothing at that rate, should a waker be removed
_NO_SLEEPER = bytes(PARTIES * 8)


class Party:
    """One party of a block, which this process is.

    Attributes
    ----------
    index : int
        Of its words in the page.
    """

    __slots__ = ("index", "token", "waker")

    def __init__(self, index: int, waker: Waker) -> None:
        self.index = index
        self.waker = waker
        self.token = 0


class ControlPage:
    """The control words of one block, in this process.

    Parameters
    ----------
    mapping
        The attachment; it is not kept.
    start
        The byte of the block at which the page is.
    size
        Bytes of the block, which may be more than the attachment maps.

    Attributes
    ----------
    memory : mmap
        All of the block, mapped once more; read-only if the file is.
    words : memoryview
        The words.
    writable : bool
        Whether this process may write them.
    handle : int
        A handle on the block, to lock it by.
    usable : bool
        Whether the attachment is not left, and no fork has come in between: a child makes its own page.
    turn : RLock
        Held by the thread that has the turn.
    """

    def __init__(self, mapping: Mapping, start: int, size: int) -> None:
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
        self._fencing = threading.Lock()
        self._fence = Fence()
        self._woken: dict[int, int] = {}  # the token of the last sleep of each party that was ended from here
        self._idle: list[Party] = []
        self._all: list[Party] = []
        self._place = None
        if mapping.directory is None:
            self._place = registry.directory(), mapping.device << 64 | mapping.inode
        self._spin = SpinWait(_SPIN)
        self.usable = True
        segment.follow(mapping, self)
        _pages.append(weakref.ref(self, _forget))

    # -- parties --------------------------------------------------------------------------------------

    def claim(self, mapping: Mapping) -> Party | None:
        """Become one more party; return None if there can be no more."""
        if not self.writable or not self.usable:
            return None
        waker = Waker(mapping, self._pid_of, self._place)
        try:
            for index in range(PARTIES):
                if waker.claim(_FIRST + index):
                    self.words[_ASLEEP + index] = 0
                    self.words[STATE + index] = 0
                    self.words[_PID + index] = os.getpid()
                    party = Party(index, waker)
                    self._all.append(party)
                    return party
        except BaseException:
            waker.leave()
            raise
        waker.leave()
        return None

    def give_up(self, party: Party) -> None:
        """Be that party no more."""
        if party in self._all:
            self._all.remove(party)
            self.words[STATE + party.index] = 0
            self.words[_ASLEEP + party.index] = 0
            self.words[_PID + party.index] = 0
            party.waker.leave()

    def _pid_of(self, index: int) -> int:
        return int(self.words[_PID + index - _FIRST])

    def alive(self, index: int) -> bool:
        """Return whether a party lives."""
        return platform.locked(self.handle, _LEASES + index, 1)

    def states(self) -> list[tuple[int, int]]:
        """Return the index and the state of each party that has one."""
        return [(index, state) for index, state in enumerate(self.words[STATE : STATE + PARTIES]) if state]

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
        with self._fencing:
            self._fence()

    def wake(self, mapping: Mapping) -> None:
        """Wake each party that sleeps, after a store that they may wait for."""
        self.fence()
        if self.all_awake() or not self.writable:
            return
        party = self.borrow(mapping)
        if party is not None:  # or those that sleep look again after `_UNWOKEN` seconds
            try:
                self.wake_by(party)
            finally:
                self.give_back(party)

    def all_awake(self) -> bool:
        """Return whether no party sleeps; to be called after a fence."""
        return self._sleepers.tobytes() == _NO_SLEEPER  # memoryviews compare byte by byte

    def wake_by(self, party: Party) -> None:
        """Wake each party that sleeps, by the waker of one of this process."""
        self.fence()
        for index in range(PARTIES):
            token = self.words[_ASLEEP + index]
            if token and self._woken.get(index) != token:
                self._woken[index] = token
                party.waker.wake(_FIRST + index)

    def borrow(self, mapping: Mapping) -> Party | None:
        """Return a party that no other thread uses; None if there can be no more. See `give_back`."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.claim(mapping)

    def give_back(self, party: Party) -> None:
        """Let other threads use a party that was borrowed."""
        self._idle.append(party)

    # -- sleeping -------------------------------------------------------------------------------------

    def wait(
        self,
        mapping: Mapping,
        there: Callable[[], Any],
        timeout: float | None,
        watched: Callable[[], Iterable[int]] = tuple,
    ) -> Any:
        """Sleep until a function returns something true; return that, or what it returns when time is over.

        Parameters
        ----------
        mapping
            The attachment.
        there
            Looks whether it is there. It may raise.
        timeout
            Seconds, None for no limit.
        watched
            Returns parties, by index, whose end wakes the caller.
        """
        end = deadline_after(timeout)
        if found := there():
            return found
        begun = time.perf_counter()
        try:
            if self._spin.worthwhile() and (found := self._spin.poll(there)):
                return found
            party = self.borrow(mapping)
            if party is None:
                return self._poll(there, end)
            try:
                return self._sleep(party, there, end, watched)
            finally:
                self.words[_ASLEEP + party.index] = 0
                self.give_back(party)
        finally:
            self._spin.last = time.perf_counter() - begun

    def _sleep(
        self, party: Party, there: Callable[[], Any], end: float | None, watched: Callable[[], Iterable[int]]
    ) -> Any:
        waker, words, own = party.waker, self.words, _ASLEEP + party.index
        while True:
            waker.drain()
            # A token that no former party of this index has used, in this process or in another one.
            party.token = int.from_bytes(os.urandom(7), "little") + 1
            words[own] = party.token
            self.fence()
            found = there()
            left = _until(end)
            if found or left == 0:
                return found
            others = [_FIRST + index for index in watched() if index != party.index][:62]
            waker.wait(others, _UNWOKEN if left is None else min(left, _UNWOKEN))
            if found := there():
                return found

    def _poll(self, there: Callable[[], Any], end: float | None) -> Any:
        pause, longest = _POLL
        while not (found := there()):
            left = _until(end)
            if left == 0:
                return found
            time.sleep(pause if left is None else min(pause, left))
            pause = min(2 * pause, longest)
        return found

    # -- locks ----------------------------------------------------------------------------------------

    def take_turn(self, byte: int, timeout: float | None) -> bool:
        """Be the only thread of all processes that has the turn of a byte; return False if time is over.

        To be called in a deferred block: Ctrl-C breaks off the wait alone. See `end_turn`.
        """
        end = deadline_after(timeout)
        try:
            with interrupts.allowed:
                if not self.turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                    return False
                if self.lock(byte, end):
                    return True
        except BaseException:
            if self.turn._is_owned():
                self.end_turn(byte)
            raise
        self.turn.release()
        return False

    def end_turn(self, byte: int) -> None:
        """End the turn of a byte."""
        self.unlock(byte)
        self.turn.release()

    def unlock(self, byte: int) -> None:
        """Unlock such a byte."""
        platform.unlock(self.handle, byte, 1)

    def lock(self, byte: int, end: float | None) -> bool:
        """Lock a byte, with the turn of this process held; return False if time is over."""
        if end is None:
            return platform.lock(self.handle, byte, 1, shared=False, wait=True)
        pause = 0.0002
        while not platform.lock(self.handle, byte, 1, shared=False, wait=False):
            left = _until(end)
            if not left:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.005)
        return True

    def left(self, mapping: Mapping | None = None) -> None:
        """Give up all, since the attachment is left."""
        if not self.usable:
            return
        self.usable = False
        self.leaving()
        for party in self._all[:]:
            self.give_up(party)
        segment.guarded_close(self.handle)

    def leaving(self) -> None:
        """Do what is to be done before the parties are given up."""


def _after_fork_in_child() -> None:
    for reference in _pages:
        page = reference()
        if page is not None:
            page.usable = False
    _pages.clear()


def _until(end: float | None) -> float | None:
    """Return the seconds until a moment of the monotonic clock, at least 0; None if there is none."""
    return None if end is None else max(0.0, end - time.monotonic())


_pages: list[weakref.ref[ControlPage]] = []


def _forget(reference: weakref.ref[ControlPage]) -> None:
    if reference in _pages:  # and no fork has come in between
        _pages.remove(reference)


platform.around_fork(lambda: None, lambda: None, _after_fork_in_child)


@atexit.register
def leave_all() -> None:
    """Give up all parties: at the end of a process, so that its end is none in the midst of something.

    A child of `multiprocessing` runs the finalizers of that module instead, see `end_with_process`.
    """
    for reference in _pages[:]:
        page = reference()
        if page is not None:
            page.left()


def end_with_process() -> None:
    """Call `leave_all` at the end of this process, also if it is a child of multiprocessing."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, leave_all, exitpriority=0)
