"""Locks on bytes: of shared arrays, and of any file.

A lock is a kernel lock on a byte range (``fcntl(2)``, "Open file description locks"). It belongs to one open
file description, which no other lock uses meanwhile. So threads exclude each other as processes do,
closing another descriptor of the file does not end it, and the kernel frees it when its holder dies. The
kernel does not report that the holder died while it wrote; the next holder finds that out by
`sharedarray._intents`.

::

    a[2:4].lock() ─▶ Lock ── acquire ─▶ Hold: a file description, and a slot for a write intent
                       ▲                  │ lock the bytes; look for intents; write one
    lock_file(f) ──────┘                  │ ... the caller writes ...
                                          │ remove the intent; unlock
                            idle_holds ◀──┘ or closed

An array's hold is kept for its next lock, which saves opening one: a lock then costs two calls to the kernel.
At most `MOST_IDLE` are kept, and none of an array that is closed.

A hold is lost if Ctrl-C comes in between, or if its lock is dropped while it is held. Its finalizer closes
the description: the bytes are unlocked then, and keep their write intent. Ctrl-C may break off a finalizer
that Python has just entered. So each thread that would have to wait first closes the descriptions of lost
holds.

A forked child holds no lock. It closes the descriptions that it inherited (`sharedarray._segment`), or it
would keep its parent's locks alive, and knows that its copies of held locks are the parent's
(`sharedarray._lock_holds`).
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from threading import get_ident
from typing import Any, Never, NoReturn, Self, TypeVar

import numpy as np

from sharedarray import (
    _errors as errors,
    _intents as intents,
    _registry as registry,
    _requirements as requirements,
    _sigint as sigint,
)
from sharedarray._clock import check_timeout, time
from sharedarray._lock_holds import (
    IDLE,
    MOST_IDLE,
    NO_LOCKS,
    Hold,
    close_all_lost,
    hold_of,
    idle_holds,
    open_holds,
    tidy,
)
from sharedarray._platform import platform
from sharedarray._process_end import halt, halting
from sharedarray._segment import Mapping, guarded_close, guarded_open

__all__ = ["Lock"]

_FIRST_PAUSE = 0.0001  # seconds between tries with a timeout: the kernel has no timed wait for these locks
_LAST_PAUSE = 0.02  # with 0.005, a process that waits uses 1.4 % of a core
_PAUSES = 8  # a pause lasts an eighth of the time waited so far
# Seconds for which every lock waits for a process that edits the table of write intents. That takes
# microseconds, unless the process is stopped; a timeout of 0 does not fail for one that goes on.
_PATIENCE = 2.0
END = 1 << 62  # byte behind every lock; the bytes of leases follow, up to the kernel's limit
# Causes and next steps of a `LockTimeout`.
_OTHERS = "another process or thread holds a lock on some of them", "wait longer, or lock less"
_WRITERS = "a writer waits for some of them, and goes first", "wait longer"
_ITSELF = "this thread itself holds a lock on some of them", "leave that one first"
_EDITING = (
    "another process was stopped as it changed the table of write intents",
    "find a stopped process that uses locks, and continue or end it",
)

_T = TypeVar("_T")
_lock, _unlock, _locked = platform.lock, platform.unlock, platform.locked
_COUNT, _prepare, _now = intents.COUNT, intents.prepare, time.monotonic


class Pauses:
    """The pauses of a thread that waits for a lock, from now until the lock's timeout is over."""

    __slots__ = ("_begun", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._begun = time.monotonic()

    def pause(self, cause: str, next_step: str, at_least: float = 0.0) -> None:
        """Sleep for a moment; raise a `LockTimeout` if the timeout is over, and so many seconds."""
        timeout = self._lock.timeout
        limit = math.inf if timeout is None else max(timeout, at_least)
        waited = time.monotonic() - self._begun
        if waited >= limit:
            raise self._lock._timed_out(cause, next_step)
        time.sleep(min(max(waited / _PAUSES, _FIRST_PAUSE), _LAST_PAUSE, limit - waited))

    def while_edited(self, step: Callable[..., _T], *arguments: Any) -> _T:
        """Return what a step gives that needs the table of write intents; wait while another edits that."""
        while True:
            try:
                return step(*arguments)
            except intents.TableBusyError:
                pass
            self.pause(*_EDITING, _PATIENCE)


# -- locks ------------------------------------------------------------------------------------------------


class Lock:
    """A lock on some bytes of a shared array or of a file, made by `SharedArray.lock` and `lock_file`.

    A context manager; or call `acquire` and `release`. It may be used again, and by several threads.

    Attributes
    ----------
    abandoned : bool
        Whether these bytes, or some of them, may be half-written: their last exclusive holder did not
        finish, because its process died or an exception ended its ``with`` statement. It is True for every
        holder until one that holds the bytes exclusively has finished. Set on entering.
    shared : bool
        Whether others may hold it too, for reading.
    timeout : float or None
        Seconds to wait at most.

    Notes
    -----
    A ``with`` statement belongs to its thread: to lock bytes once more that an outer one of the same thread
    has locked is a `DeadlockError` at once, by `acquire` too, unless both are shared, or there is a timeout.
    So a shared lock cannot be made exclusive: lock exclusively from the start. No check detects that threads
    or processes wait for each other: lock in the same order everywhere, or give a timeout.

    Readers that follow each other without a gap keep no writer waiting. If a writer waits for bytes that are
    locked shared, a shared lock on some of them waits until that writer has had its turn, for 2 s at most. A
    thread that already holds a lock on them does not wait for the writer, and processes of other users and
    other libraries do not know of it.

    If another process is stopped as it notes that it locks, which takes microseconds, a lock waits for that
    process too: until its timeout, but for 2 s at least.

    `acquire` belongs to no thread, and any may call `release`; in asyncio, await ``asyncio.to_thread`` of it,
    with a timeout where that may be cancelled: the thread goes on waiting, and takes the lock in the end.
    A lock that is dropped while held is free, with a `ResourceWarning`.

    A forked child holds nothing that its parent holds, and its leaving the ``with`` statement changes
    nothing. A held lock keeps the memory of its array.

    Examples
    --------
    >>> import sharedarray as sa
    >>> a = sa.zeros((4, 3))
    >>> with a[:2].lock() as lock:
    ...     if lock.abandoned:
    ...         a[:2] = 0
    ...     a[:2] += 1
    >>> with a[1:].lock(shared=True, timeout=5.0):
    ...     float(a[1:].sum())
    3.0
    """

    __slots__ = (
        "_end", "_file", "_hold", "_idle", "_length", "_memory", "_more", "_start", "abandoned", "shared",
        "timeout",
    )  # fmt: skip

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise TypeError(
            "a lock is made by array.lock() for an array, and by sharedarray.lock_file(path) for a file"
        )

    def _prepare(
        self,
        file: Any,
        start: int,
        length: int,
        shared: bool,
        timeout: float | None,
        idle: int = 0,
        memory: object = None,
    ) -> None:
        if timeout is not None:
            check_timeout(timeout)
        if shared.__class__ is not bool:
            shared = _checked_shared(shared)  # type: ignore[unreachable]
        self._file = file
        self._start = start
        self._length = length
        self._end = start + length
        self._idle = idle  # key in `idle_holds`, where there may be a hold for it; 0 for none
        self._memory = memory  # of the array: the lock keeps it in use
        self._hold: Hold | None = None
        self._more: list[Hold] | None = [] if shared else None  # several threads may share a lock object
        self.shared = shared
        self.timeout = timeout
        self.abandoned = False

    # -- using it -------------------------------------------------------------------------------------

    def acquire(self, *arguments: Never, **options: Never) -> bool:
        """Wait for the lock and take it, for any thread to `release`.

        It takes no arguments: the timeout is an argument of `SharedArray.lock` and `lock_file`.

        Returns
        -------
        bool
            True.

        Raises
        ------
        LockTimeout
            It was not free in time (a `TimeoutError`).
        DeadlockError
            There is no timeout, and this thread is in a ``with`` statement that locks some of the bytes
            already (a `RuntimeError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> lock = sa.zeros(3).lock(timeout=5.0)
        >>> lock.acquire()
        True
        >>> lock.release()
        """
        if arguments or options:
            raise TypeError(
                "acquire() takes no arguments: give the timeout to the lock, as in "
                "array.lock(timeout=1.0).acquire(); timeout=0 does not wait"
            )
        self._take(-get_ident())
        return True

    def release(self) -> None:
        """Give the lock up: what it protects is finished.

        Raises
        ------
        RuntimeError
            It is not held, or it was a parent process that took it.

        Examples
        --------
        >>> import sharedarray as sa
        >>> lock = sa.zeros(3).lock()
        >>> lock.acquire()
        True
        >>> lock.release()
        >>> lock.locked()
        False
        """
        if not self.locked():
            raise RuntimeError("release of a lock that this process does not hold")
        self._give(True)

    def locked(self) -> bool:
        """Return whether this object holds the lock, in this process.

        Returns
        -------
        bool
            False also while another object, or another process, holds a lock on the same bytes.

        Examples
        --------
        >>> import sharedarray as sa
        >>> lock = sa.zeros(3).lock()
        >>> with lock:
        ...     lock.locked()
        True
        >>> lock.locked()
        False
        """
        holds = [self._hold] if self._more is None else list(self._more)
        return any(hold is not None and hold.handle >= 0 for hold in holds)

    def __enter__(self) -> Self:
        self._take(get_ident())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._give(kind is None)

    # -- the steps, written for speed: an uncontended lock is measured in fractions of a microsecond --

    def _open(self) -> Hold:
        """Return a hold on the file as it is now."""
        raise NotImplementedError

    def _take(self, thread: int, pauses: Pauses | None = None) -> Hold | None:
        """Lock the bytes, look for intents of other writers, and write one."""
        hold = idle_holds.pop(self._idle, None)
        if hold is not None and _now() > hold.table.check_at and not hold.table.sound():
            hold.table.close()
            hold.close()
            hold = None
        if hold is None:
            pauses = pauses or Pauses(self)
            hold = pauses.while_edited(self._open)
        try:
            start, end, shared = self._start, self._end, self.shared
            if shared and hold.words[hold.hint]:
                pauses = pauses or Pauses(self)
                self._let_writers_go_first(hold, thread, pauses)
            if not _lock(hold.handle, start, self._length, shared, False):
                pauses = pauses or Pauses(self)
                self._wait(hold, thread, pauses)
            table, words, key = hold.table, hold.words, hold.key
            try:
                # If all slots are this process's own, no other writer has left an intent.
                interrupted = words[_COUNT] != len(table.claimed) and table.has_intent(key, start, end)
            except intents.TableBusyError:
                pauses = pauses or Pauses(self)
                interrupted = pauses.while_edited(table.has_intent, key, start, end)
            if hold.end != end or hold.start != start:
                hold.start, hold.end = start, end
                _prepare(words, hold.at, key, start, end)
            self.abandoned = interrupted
            hold.shared = shared
            hold.thread = thread
            if shared:
                self._more += [hold]  # type: ignore[operator]  # no call: Ctrl-C cannot come after it
                return hold
            if interrupted:
                pauses = pauses or Pauses(self)
                pauses.while_edited(table.take_over, key, start, end, hold.at)
            words[hold.at] = key
            self._hold = hold
            return hold
        except BaseException as error:
            hold.close()
            halt()
            self._explain(error)
            raise

    def _give(self, finished: bool) -> None:
        """Remove the intent, unless the write is unfinished, and unlock the bytes."""
        if self._more is not None:
            hold = self._more.pop() if self._more else None
        else:
            hold, self._hold = self._hold, None
        if hold is None or hold.handle < 0:  # in a forked child the hold is the parent's
            return
        try:
            if not self.shared:
                if not finished:
                    hold.close()
                    return
                hold.words[hold.at] = 0
            _unlock(hold.handle, self._start, self._length)
            hold.thread = IDLE
            if not self._idle:
                hold.close()
                return
            idle_holds[self._idle] = hold
            if self._file.released or len(idle_holds) > MOST_IDLE:
                tidy(self._file)
        except BaseException:
            hold.close()
            halt()
            raise

    def _let_writers_go_first(self, hold: Hold, thread: int, pauses: Pauses) -> None:
        """Wait until one of the writers that wait for these bytes has got them, if readers hold them.

        It is one writer and not all, and none while a writer holds the bytes: so readers and writers take
        turns. A writer that waits for a lock of this thread itself is left out.
        """
        table = hold.table
        own = [other for other in open_holds() if abs(other.thread) == abs(thread) and other.key == hold.key]
        writers = [
            writer
            for writer in table.ahead(hold.key, self._start, self._end)
            if not any(other.start < writer.end and writer.start < other.end for other in own)
        ]
        if writers and _locked(hold.handle, self._start, self._length, exclusively=True):
            return
        while writers and all(map(table.waits, writers)):
            pauses.pause(*_WRITERS)

    def _wait(self, hold: Hold, thread: int, pauses: Pauses) -> None:
        """Wait until the kernel grants the bytes to this hold."""
        if close_all_lost() and self._try(hold):
            return
        by_itself = self._held_by(thread, hold.key)
        if self.timeout is None and by_itself:
            raise self._deadlock()
        if not self.shared:
            hold.start, hold.end = self._start, self._end
            hold.table.begin_wait(hold.at, hold.key, hold.start, hold.end)
        try:
            if self.timeout is None:
                _lock(hold.handle, self._start, self._length, self.shared, True)
                return
            while not self._try(hold):
                pauses.pause(*(_ITSELF if by_itself else _OTHERS))
        finally:
            if not self.shared:
                hold.table.end_wait(hold.at)

    def _try(self, hold: Hold) -> bool:
        return _lock(hold.handle, self._start, self._length, self.shared, False)

    def _held_by(self, thread: int, key: int) -> bool:
        """Return whether this thread itself holds a lock that excludes this one."""
        return any(
            other.thread == abs(thread)
            and other.key == key
            and other.start < self._end
            and self._start < other.end
            and not (other.shared and self.shared)
            for other in open_holds()
        )

    # -- what goes wrong ------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        raise NotImplementedError

    def _bytes(self) -> str:
        end = "the end" if self._end == END else self._end
        return f"bytes {self._start} to {end} of {self._name!r}"

    def _timed_out(self, cause: str, next_step: str) -> errors.LockTimeout:
        return errors.LockTimeout(
            f"{self._bytes()} were not free within {self.timeout} s",
            name=self._name,
            cause=cause,
            next_step=next_step,
        )

    def _deadlock(self) -> errors.DeadlockError:
        return errors.DeadlockError(
            f"this thread would wait for ever for {self._bytes()}",
            name=self._name,
            found="a lock of its own on some of them",
            expected="none, or shared ones where a shared one is wanted",
            cause="a function that locks was called with the lock held, or a shared lock was to be exclusive",
            next_step="lock once, exclusively, around all that belongs together",
        )

    def _explain(self, error: BaseException) -> None:
        """Raise a clearer error for an `OSError` that a file's permissions or its file system caused."""
        if not isinstance(error, OSError):
            return
        if error.errno in NO_LOCKS:
            raise requirements.lacking("locks of open file descriptions (F_OFD_SETLK)", self._name) from None
        if error.errno != errno.EBADF:
            return
        kind, needed = ("a shared", "read") if self.shared else ("an exclusive", "written")
        raise errors.NotOursError(
            f"{self._name} cannot be given {kind} lock",
            name=self._name,
            expected=f"a file that may be {needed}",
            cause="its permissions, or those of the file system, do not allow that",
            next_step="an exclusive lock" if self.shared else "shared=True for a lock to read under",
        ) from None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lock cannot be pickled: send the array or the path, and lock it there")

    def __repr__(self) -> str:
        state = "held" if self.locked() else "free"
        return f"<{'shared' if self.shared else 'exclusive'} Lock on {self._bytes()}, {state} here>"


def _checked_shared(shared: Any) -> bool:
    """Return ``shared`` as a bool; a number in its place is more likely to be meant as a timeout."""
    if isinstance(shared, np.bool_):
        return bool(shared)
    raise TypeError(f"shared is True or False, not {shared!r}; for seconds to wait write timeout={shared!r}")


class ArrayLock(Lock):
    """A lock on the bytes of an attachment."""

    __slots__ = ()

    __init__ = Lock._prepare

    _file: Mapping

    @property
    def _name(self) -> str:
        return self._file.name

    @halting
    def _open(self) -> Hold:
        mapping = self._file
        _check_open(mapping)
        with sigint.deferred:
            try:
                handle = guarded_open(mapping)
            except PermissionError as error:
                raise errors.NotOursError(
                    f"{mapping.path} may not be locked",
                    name=mapping.name,
                    found=error.strerror,
                    cause="it is another user's, as after this process has dropped its privileges",
                    next_step="make the array after the privileges are dropped",
                ) from None
            try:
                path = mapping.path if mapping.directory else os.path.realpath(mapping.path)
                hold = hold_of(handle, mapping.directory or registry.directory(), path)
            except BaseException:
                guarded_close(handle)
                raise
            return hold


class EmptyLock(Lock):
    """A lock on no bytes, for which no thread has to wait."""

    __slots__ = ("_entered",)

    def __init__(self, file: Any, start: int, length: int, shared: bool, timeout: float | None) -> None:
        self._prepare(file, start, length, shared, timeout)
        self._entered = 0

    @property
    def _name(self) -> str:
        return str(getattr(self._file, "name", self._file))

    def locked(self) -> bool:
        return self._entered > 0

    @halting
    def _take(self, thread: int, pauses: Pauses | None = None) -> None:
        if isinstance(self._file, Mapping):
            _check_open(self._file)
        self._entered += 1

    def _give(self, finished: bool) -> None:
        self._entered = max(0, self._entered - 1)


def _check_open(mapping: Mapping) -> None:
    if mapping.released:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )
