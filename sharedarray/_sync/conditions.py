"""`Condition`: waiting for a change until another process notifies.

A notification is a number that the notifying process writes into the entry of a waiting one, while it holds
the condition's lock. WAITING counts the threads of an entry that wait, NOTIFIED is the number of its last
notification, and SEEN the one that it has acted upon: if they differ, `notify` chooses another entry first.

If a party dies, all others wake up, since it may have been notified and not have acted upon that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from typing import ClassVar, TypeVar

from sharedarray import _errors as errors, _sigint as sigint
from sharedarray._clock import time
from sharedarray._locks import Lock
from sharedarray._process_end import halt, halting
from sharedarray._sync import mutex
from sharedarray._sync.block import DEATHS, FIRST
from sharedarray._sync.mutex import BusyError, patient
from sharedarray._sync.primitive import Primitive
from sharedarray._wakers import deadline_after

__all__ = ["Condition"]

_T = TypeVar("_T")

_LOCKED, _NUMBER, _TURN = FIRST, FIRST + 1, FIRST + 2
_WAITING, _NOTIFIED, _SEEN = range(3)  # after OWN


class Condition(Primitive):
    """A condition by name, with the methods of `threading.Condition` and a lock of its own, for processes.

    ``Condition(name)`` makes it, or uses the one that has the name. At most 64 objects may use it at once. If
    a process is killed that holds the lock, the lock is free, and its next holder finds `abandoned` true.

    Parameters
    ----------
    name : str, optional
        Name to find it by. Without one, it has a random name: `name` tells it.

    Attributes
    ----------
    name : str
        The condition's name.
    abandoned : bool
        Whether the last holder of the lock did not finish, because its process died or an exception ended its
        ``with`` statement. Set on acquiring.

    Raises
    ------
    BlockExistsError
        The name is taken by another kind of block (a `FileExistsError`).

    Notes
    -----
    As with `threading.Condition`, `wait` may return without a reason, here also when a process that uses the
    condition has died: wait in a loop that checks what you wait for, or call `wait_for`. The lock is not
    reentrant: to acquire it twice in a thread is a `DeadlockError`. It travels to tasks by reference. A
    forked child does not hold what its parent holds, and its leaving the ``with`` statement changes nothing.
    Ctrl-C in `wait` comes when the lock is taken again; if another process keeps it, after a second without
    the lock.

    Examples
    --------
    >>> import numpy as np, sharedarray as sa
    >>> jobs, changed = sa.zeros(1, int), sa.Condition("jobs_changed")
    >>> with changed:  # in any process
    ...     jobs[0] += 1
    ...     changed.notify()
    >>> with changed:
    ...     changed.wait_for(lambda: bool(jobs[0] > 0), timeout=5.0)
    True
    """

    _KIND: ClassVar = "condition"
    _MAGIC: ClassVar = 3

    _lock: Lock | None = None
    _holder = 0  # the thread that has the lock

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name, None, 0)

    def _begin(self) -> None:
        self._left_to_parent = self._maker > 0 and self._holds()
        self._without_lock: set[int] = set()  # the threads whose `wait` Ctrl-C has ended without the lock
        super()._begin()
        self.abandoned = False
        self._lock = None
        self._holder = 0

    # -- the lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; return False if it was not free in time.

        Parameters
        ----------
        blocking : bool, default True
            False not to wait.
        timeout : float, default -1
            Seconds to wait; no limit when -1.

        Returns
        -------
        bool
            True if this thread has the lock now.

        Raises
        ------
        DeadlockError
            This thread has it already (a `RuntimeError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> changed = sa.Condition("acquired_condition")
        >>> changed.acquire(timeout=5.0)
        True
        >>> changed.release()
        """
        self._check_blocking(blocking)
        if not blocking and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        self._begin_in_child()
        if self._holds():
            raise errors.DeadlockError(
                f"this thread holds the lock of the condition {self.name!r} already",
                name=self.name,
                next_step="leave its with statement first",
            )
        limit = (None if timeout == -1 else timeout) if blocking else 0
        try:
            with sigint.deferred:
                self._become_party(patient(deadline_after(limit)))  # its death then wakes the others
                return self._take_lock(limit, sigint.allowed)
        except BusyError:
            return False
        except BaseException:
            if self._holds():
                self.release()
            halt()
            raise

    # A with statement calls it without a step in between, in which Ctrl-C would leave the lock taken.
    __enter__ = acquire

    def _take_lock(self, timeout: float | None, breaking: AbstractContextManager[object]) -> bool:
        """Take the lock, while Ctrl-C is deferred; `breaking` says whether Ctrl-C ends the wait."""
        lock = self._array[_LOCKED : _LOCKED + 1].lock(timeout=timeout)
        try:
            with breaking:
                lock.__enter__()
        except errors.LockTimeout:
            return False
        except BaseException:
            if lock.locked():
                lock.__exit__(None, None, None)
            raise
        self._lock, self._holder = lock, get_ident()
        self._without_lock.discard(self._holder)
        self.abandoned = lock.abandoned
        return True

    def _take_again(self) -> None:
        """Take the lock again after a wait.

        Ctrl-C comes when it is taken, or after `mutex.PATIENCE` seconds: its holder may be stopped.
        """
        try:
            self._take_lock(None, sigint.allowed)
        except BaseException:
            if not self._take_lock(mutex.PATIENCE, nullcontext()):
                self._without_lock.add(get_ident())
            raise

    def release(self) -> None:
        """Give up the lock.

        Raises
        ------
        RuntimeError
            This thread does not hold it.

        Examples
        --------
        >>> import sharedarray as sa
        >>> changed = sa.Condition("released_condition")
        >>> changed.acquire()
        True
        >>> changed.release()
        >>> changed.acquire(blocking=False)  # it was free
        True
        >>> changed.release()
        """
        self._check_held("release")
        self.__exit__(None, None, None)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        with sigint.deferred:
            self._begin_in_child()
            if self._left_to_parent and self._lock is None:
                self._left_to_parent = False
                return
            if self._closed and not self._holds():
                if kind is None:
                    raise self._is_closed()
                return  # the error of a wait goes on, which another thread has ended by closing this
            if kind is not None and get_ident() in self._without_lock:
                self._without_lock.discard(get_ident())
                return  # Ctrl-C goes on, which has ended a wait for the lock
            self._check_held("release")
            lock, self._lock, self._holder = self._lock, None, 0
            assert lock is not None
            lock.__exit__(kind, None, None)

    def _holds(self) -> bool:
        """Return whether this thread holds the lock, or a parent's that has forked this process."""
        return self._lock is not None and self._holder == get_ident()

    def _check_held(self, what: str) -> None:
        self._begin_in_child()
        if not self._holds():
            raise RuntimeError(f"cannot {what} un-acquired lock")

    # -- waiting

    @halting
    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait until notified, and take the lock again.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; no limit when None. Taking the lock again has no limit.

        Returns
        -------
        bool
            False if the time was over before a notification.

        Raises
        ------
        RuntimeError
            This thread does not hold the lock.

        Examples
        --------
        >>> import sharedarray as sa
        >>> changed = sa.Condition("awaited_condition")
        >>> with changed:  # no process notifies of a change
        ...     changed.wait(timeout=0.001)
        False
        """
        self._check_held("wait on")
        found = False
        with sigint.deferred:
            with self._open_party() as (words, own):
                notified, deaths = words[own + _NOTIFIED], words[DEATHS]
                words[own + _WAITING] += 1
            self.release()
            try:
                with sigint.allowed:
                    found = self._wait(
                        lambda: words[own + _NOTIFIED] != notified or words[DEATHS] != deaths, timeout
                    )
            finally:  # Ctrl-C comes when the lock is taken again, which the caller's with statement releases
                try:
                    self._take_again()
                finally:
                    with self._open_party() as (words, own):
                        words[own + _WAITING] -= 1
                        last = words[own + _SEEN] = words[own + _NOTIFIED]
        return found or last != notified

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate` returns something true, and return that; else what it returns at last.

        Parameters
        ----------
        predicate : callable
            Called with the lock held.
        timeout : float, optional
            Seconds to wait in all; no limit when None.

        Returns
        -------
        object
            The last result of `predicate`, which is false if the time was over before.

        Raises
        ------
        RuntimeError
            This thread does not hold the lock.

        Examples
        --------
        >>> import sharedarray as sa
        >>> jobs, changed = sa.share([3]), sa.Condition("condition_of_jobs")
        >>> with changed:
        ...     changed.wait_for(lambda: int(jobs[0]), timeout=5.0)
        3
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not (found := predicate()):
            remaining = None if end is None else end - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            self.wait(remaining)
        return found

    @halting
    def notify(self, n: int = 1) -> None:
        """Wake `n` of those that wait, as far as there are so many; more may wake.

        Parameters
        ----------
        n : int, default 1
            How many to wake.

        Raises
        ------
        RuntimeError
            This thread does not hold the lock.

        Examples
        --------
        >>> import sharedarray as sa
        >>> changed = sa.Condition("notified_condition")
        >>> with changed:
        ...     changed.notify(2)
        """
        self._check_held("notify on")
        with self._change() as words:
            waiting = [own for own in self._own_words() if words[own + _WAITING]]
            turn = words[_TURN] % (len(waiting) or 1)
            waiting = waiting[turn:] + waiting[:turn]
            waiting.sort(key=lambda own: words[own + _NOTIFIED] != words[own + _SEEN])
            for own in waiting[:n]:
                words[_NUMBER] = (words[_NUMBER] + 1) % (1 << 64)
                words[own + _NOTIFIED] = words[_NUMBER]
            words[_TURN] = (turn + n) % (1 << 32)
            self._wake_sleepers()

    def notify_all(self) -> None:
        """Wake all that wait.

        Raises
        ------
        RuntimeError
            This thread does not hold the lock.

        Examples
        --------
        >>> import sharedarray as sa
        >>> changed = sa.Condition("notified_of_all")
        >>> with changed:
        ...     changed.notify_all()
        """
        self.notify(1 << 32)

    def __repr__(self) -> str:
        state = "locked" if self._lock is not None else "unlocked"
        return f"{type(self).__name__}({self.name!r}, {state})"
