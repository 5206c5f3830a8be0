"""Waking a process that uses the same block, and learning of its end.

Processes that wait for each other over a block are its *parties*. Each party has an index, and by it:

- a **lease**: an exclusive lock on byte ``FIRST_LEASE + index`` of the block, which the kernel frees when the
  party's process ends, however it does. So each index has one party at most. If the lease is free, the party
  is dead or has released its own, and the words that it wrote may be cleared by the process that takes the
  lease next.
- a **waker**: a file in the registry (``w.INODE.INDEX``; see the platform's contract) that wakes the party
  while it waits. A process that waits for another party waits on that party's waker as well, by which it
  learns if the party's process has ended.

A party sleeps like this, so that no wake-up is lost::

    the party                                       the process that wakes it
    drain()
    words[ASLEEP] = a token not used before         words[…] = the change that the party waits for
    fence()                                         fence()
    check again; if it is there, go on              token = words[ASLEEP]
    wait()                                          if the token is a new one: wake(index)
    words[ASLEEP] = 0

Either the party finds the change when it checks again, or the other process finds the token. A process wakes
a party once for each token, so that it makes one system call for each sleep, however often it changes words.

`Fence` makes all stores before it visible before any load after it. Python has no such call, but a lock that
is released and then acquired has this effect: both are atomic instructions, which are full fences on x86. On
ARM the release keeps accesses before it from moving behind it, and the acquisition keeps those behind it from
moving before it.

A forked child is another party: it closes the wakers of its parent, and claims an index of its own. Copies of
the parent's objects may die in the child, which must not change the parent's words; see `Waker.clearing`.

A process that ends in order leaves first, so that its end is no death: see `sharedarray._process_end`.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from operator import call, itemgetter, setitem
from typing import Any

from sharedarray import (
    _damage as damage,
    _forks as forks,
    _greenlets as greenlets,
    _janitor as janitor,
    _registry as registry,
    _segment as segment,
    _sigint as sigint,
)
from sharedarray._clock import deadline_of, time
from sharedarray._platform import platform
from sharedarray._process_end import at_process_end, tell_multiprocessing
from sharedarray._segment import Mapping

__all__ = ["ENDING", "FIRST_LEASE", "Fence", "Waker", "deadline_after", "seconds_until"]

FIRST_LEASE = 1 << 60  # the byte of a block that party 0 locks: far behind its data, and below all leases
_first = itemgetter(0)
ENDING = 0.0005  # seconds between the moments at which a process closes its waker and gives up its lease


def lock_of_threads() -> Callable[[], Any]:
    """Return what makes a lock: Python's own, as the lock of a greenlet would be no fence."""
    return greenlets.original("_thread", "allocate_lock") or _thread.allocate_lock


class Fence:
    """A full memory fence, in the thread that calls it; two threads must not do so at once.

    Attributes
    ----------
    release, acquire : callable
        Called one after the other, they are the fence; for code in which a method call takes too long.
    """

    __slots__ = ("acquire", "release")

    def __init__(self) -> None:
        lock = lock_of_threads()()
        lock.acquire()
        self.release: Callable[[], object] = lock.release
        self.acquire: Callable[[], object] = lock.acquire

    def __call__(self) -> None:
        try:
            self.release()
        except RuntimeError:  # Ctrl-C has broken off an earlier call between the two
            self.acquire()
            self.release()
        self.acquire()


class Waker:
    """Makes this process a party of a block, and wakes the other parties.

    Parameters
    ----------
    block
        The block, which need not have its name yet; or a handle on a block or file, with `named_by`.
    pid_of
        Returns the pid of the party with an index. Only systems that cannot watch a waker for the end of its
        owner call it.
    named_by
        The directory and the number by which the wakers are named; those of the block when None.

    Attributes
    ----------
    index : int
        This party's, -1 without one.
    handle : int
        This party's waker, -1 without one. On POSIX systems it is a descriptor that can be read once this
        party was woken.
    woken : bool
        Whether this party was woken since `drain`.
    """

    __slots__ = (
        "__weakref__",
        "_clear",
        "_directory",
        "_ends",
        "_file",
        "_path_of",
        "_pid_of",
        "handle",
        "index",
        "woken",
    )

    def __init__(
        self, block: Mapping | int, pid_of: Callable[[int], int], named_by: tuple[str, int] | None = None
    ) -> None:
        if named_by is None:
            assert not isinstance(block, int)
            named_by = str(block.directory), block.inode
        directory, inode = named_by
        self._path_of: Callable[[int], str] = partial(registry.waker_path, directory, inode)
        self._directory = directory
        self._pid_of = pid_of
        self._ends: dict[int, int] = {}
        self._clear: list[Callable[..., object]] = [setitem]
        self.woken = False
        self.index = self.handle = self._file = -1
        if isinstance(block, int):
            self._file = segment.guarded_open_file(block)
        else:
            self._file = segment.guarded_open(block)
        _all.append(weakref.ref(self, _all.remove))

    def claim(self, index: int) -> bool:
        """Claim the index of a party; return False if another live party has it."""
        if not self.take(index):
            return False
        try:
            self.handle = segment.guarded(lambda: self._make(index))
        except BaseException:
            self.give_back(index)
            raise
        self.index = index
        janitor.ensure(self._directory)  # none need watch a file, or a block that has lost its name
        tell_multiprocessing()
        return True

    def _make(self, index: int) -> int:
        path = self._path_of(index)
        try:
            return platform.make_waker(path)
        except FileNotFoundError:  # a janitor that ended has removed the registry
            registry.open_registry(os.path.dirname(os.path.dirname(path)))
        except FileExistsError:
            damage.report(path, "no waker", "it is moved away")
            damage.quarantine(path)
        return platform.make_waker(path)

    def take(self, index: int) -> bool:
        """Take the lease of a party that has ended, to clear its words; return False if the party lives."""
        return platform.lock(self._file, FIRST_LEASE + index, 1, shared=False, wait=False)

    def give_back(self, index: int) -> None:
        """Give back a lease that `take` has taken."""
        platform.unlock(self._file, FIRST_LEASE + index, 1)

    def alive(self, index: int) -> bool:
        """Return whether another party has this index, and its process lives."""
        return platform.locked(self._file, FIRST_LEASE + index, 1)

    def _end(self, index: int) -> int | None:
        """Return the waker of another party; None if it has none."""
        end = self._ends.get(index)
        if end is None:
            pid = self._pid_of(index)
            with sigint.deferred:
                try:
                    end = segment.guarded(lambda: _opened(self._path_of(index), pid))
                except _GoneError:
                    return None
                self._ends[index] = end
        return end

    def wake(self, index: int) -> None:
        """Wake a party, if it lives."""
        for _ in range(2):
            end = self._end(index)
            if end is None or platform.wake(end):
                return
            self.forget(index)  # it was the waker of a former party

    def wake_once(self, index: int) -> None:
        """Wake a party, if it lives. Other threads may use this waker, or close it, meanwhile."""
        with sigint.deferred:
            try:
                end = segment.guarded(lambda: _opened(self._path_of(index), self._pid_of(index)))
            except _GoneError:
                return
            try:
                platform.wake(end)
            finally:
                segment.guarded_close(end, platform.close_waker)

    def forget(self, index: int) -> None:
        """Close the waker of a party that has gone."""
        if index in self._ends:
            with sigint.deferred:
                end = self._ends.pop(index, None)
                if end is not None:
                    segment.guarded_close(end, platform.close_waker)

    def drain(self) -> None:
        """Prepare to sleep: forget that this party was woken."""
        if self.woken:
            self.woken = False
            platform.drain(self.handle)

    def wait(self, parties: Iterable[int], seconds: float | None) -> bool:
        """Sleep until this party is woken, one of these parties has gone, or the time is over.

        Return whether a party may have gone: the caller asks which is not `alive`.
        """
        ends = {}
        gone = False
        for index in parties:
            end = self._end(index)
            if end is None:
                gone = True
            else:
                ends[index] = end
        if gone:  # while its process ends, the kernel may have closed its waker before its lease
            seconds = ENDING if seconds is None else min(seconds, ENDING)
        woken, remaining = platform.wait_for_wakers(self.handle, tuple(ends.values()), seconds)
        if woken:
            self.woken = True  # drained before the next sleep, so that the caller goes on without delay
        if remaining:
            for index in ends:
                self.forget(index)
        return gone or remaining

    def wake_self(self) -> None:
        """Wake another thread of this process that sleeps as this party; a third one may `release` it."""
        with segment.guard:
            if self.handle >= 0:
                platform.wake(self.handle)

    def ends(self, parties: Iterable[int]) -> list[int]:
        """Return the wakers of these parties, for a `platform.watch`; a party may have none."""
        return [end for index in parties if (end := self._end(index)) is not None]

    def clearing(self, memory: Any, at: int | slice) -> Callable[[object], Any]:
        """Return the callback of a weak reference that sets ``memory[at]``, of this party, to 0.

        It runs no Python code, so that neither Ctrl-C nor another thread comes in between. It does nothing
        once this party is released, nor in a forked child: the words are another party's then.
        """
        functions = map(_first, repeat(forks.caller)), map(_first, repeat(self._clear))
        return partial(next, map(call, *functions, repeat(memory), repeat(at), repeat(0)))

    def release(self) -> None:
        """Give up the waker, then the lease. Idempotent."""
        with sigint.deferred:
            self._clear[0] = slice  # does nothing, with the same arguments as `setitem`
            self._pid_of = _no_pid  # the former one keeps the memory of its block
            for index in tuple(self._ends):
                self.forget(index)
            if self.handle >= 0:
                handle, self.handle = self.handle, -1
                path = self._path_of(self.index)
                segment.guarded_close(handle, lambda waker: platform.close_waker(waker, path))
            if self._file >= 0:
                if self.index >= 0:
                    self.give_back(self.index)
                    self.index = -1
                file, self._file = self._file, -1
                segment.guarded_close(file)

    def leave(self) -> None:
        """Give up the name and the lease, but not the handles, by which a thread may sleep."""
        with segment.guard:
            index = self.index
            if index >= 0 and self._file >= 0:
                with contextlib.suppress(OSError):
                    os.unlink(self._path_of(index))
                self.give_back(index)

    def _in_child(self) -> None:
        """Forget the handles, which `segment` closes in a forked child."""
        self._clear[0] = slice
        self._ends.clear()
        self.index = self.handle = self._file = -1
        self.woken = False


def _no_pid(index: int) -> int:
    return 0


class _GoneError(Exception):
    """A party has no waker."""


def _opened(path: str, pid: int) -> int:
    end = platform.open_waker(path, pid)
    if end is None:
        raise _GoneError
    return end


_all: list[weakref.ref[Waker]] = []


def _after_fork_in_child() -> None:
    for reference in _all[:]:
        waker = reference()
        if waker is not None:
            waker._in_child()


forks.around(__name__, in_child=_after_fork_in_child)


@at_process_end
def _leave_all() -> None:
    """Let parties leave that threads of this process still use; these `halt`, and keep the handles."""
    for reference in _all[:]:
        waker = reference()
        if waker is not None:
            waker.leave()


def seconds_until(moment: float | None) -> float | None:
    """Return the seconds until a moment of the monotonic clock, at least 0; None if there is none."""
    return None if moment is None else max(0.0, moment - time.monotonic())


def deadline_after(timeout: float | None) -> float | None:
    """Return the moment of the monotonic clock at which a timeout is over; None for no timeout.

    Raises
    ------
    TypeError, ValueError
        The timeout is no number.
    """
    return deadline_of(timeout)
