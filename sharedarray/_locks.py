"""Locks on bytes: of shared arrays, and of any file.

A lock is a kernel lock on a byte range (``fcntl(2)``, "Open file description locks"). It belongs to one open
description of the file, which nothing else uses meanwhile. So threads exclude each other as processes do,
closing another descriptor of the file does not end it, and the kernel frees it when its holder dies. The
kernel does not tell that the holder died while it wrote; the next holder learns that from
`sharedarray._intents`.

::

    a[2:4].lock() ─▶ Lock ── acquire ─▶ Hold: a description, and a slot for an intent
                       ▲                  │ lock the bytes; look for intents; write one
    lock_file(f) ──────┘                  │ ... the caller writes ...
                                          │ take the intent away; unlock
                                  _idle ◀─┘ or closed

An array's hold is kept for its next lock, which saves opening one: a lock then costs two calls to the kernel.
At most `_MOST_IDLE` are kept, and none of an array that is closed.

A hold that gets lost, because Ctrl-C came in between or its lock was dropped, closes its description as it is
freed: the bytes are free then, and keep their write intent. Ctrl-C may break that off too, when Python has
just entered a finalizer; so it is tried once more, by each thread that would have to wait.

A forked child holds no lock. It closes the descriptions that it inherited (`sharedarray._segment`), or it
would keep its parent's locks alive, and knows that its copies of held locks are the parent's (`_disown`).
"""

from __future__ import annotations

import atexit
import errno
import io
import math
import os
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from operator import index
from threading import get_ident
from typing import Any, Never, NoReturn, Protocol, Self, SupportsIndex

import numpy as np

from sharedarray import (
    _errors as errors,
    _intents as intents,
    _interrupts as interrupts,
    _registry as registry,
    _requirements as requirements,
)
from sharedarray._clock import check_timeout, time
from sharedarray._platform import platform
from sharedarray._segment import (
    Mapping,
    guarded_close,
    guarded_open,
    guarded_open_file,
    on_leave,
    out_of_memory,
)

__all__ = ["Lock", "lock_file"]

_FIRST_PAUSE = 0.0001  # seconds between tries with a timeout: the kernel has no timed wait for these locks
_LAST_PAUSE = 0.005
_PAUSES = 8  # a pause takes this part of the time waited so far, which it lengthens by no more
_MOST_IDLE = 8  # descriptions of arrays that are kept open for their next lock
_END = 1 << 62  # byte behind every lock: what is further on are leases, and the kernel's limit
_IDLE = 0  # in place of a thread's number
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # how kernels refuse such locks
_TRIES = 100  # to open the table of write intents
_TABLE_STEP = 4096  # bytes by which the table of write intents grows
# Causes and next steps of a `LockTimeout`.
_OTHERS = "another process or thread holds a lock on some of them", "wait longer, or lock less"
_WRITERS = "a writer waits for some of them, and goes first", "wait longer"
_ITSELF = "this thread itself holds a lock on some of them", "leave that one first"
_READ_AHEAD = (io.TextIOWrapper, io.BufferedReader, io.BufferedRandom)

_lock, _unlock, _locked = platform.lock, platform.unlock, platform.locked
_COUNT, _prepare, _now = intents.COUNT, intents.prepare, time.monotonic


# -- holding ----------------------------------------------------------------------------------------------


class Hold:
    """An open description of a file to lock it by, and a slot for an intent.

    Attributes
    ----------
    handle : int
        The description; -1 when it is closed.
    key, table, at, words
        The file's key, and the slot in the table of write intents.
    start, end : int
        The bytes that it locks, or locked last, which stand in the slot too.
    shared : bool
        How.
    hint : int
        The word of the table that tells that a writer may wait for the file.
    thread : int
        The thread in whose ``with`` statement that is; its negative if any thread may unlock it, `_IDLE` if
        nothing is locked.
    """

    __slots__ = (
        "__weakref__", "_pid", "at", "end", "handle", "hint", "key", "shared", "start", "table", "thread",
        "words",
    )  # fmt: skip

    def __init__(self, handle: int, key: int, table: intents.Table, at: int) -> None:
        self.handle = handle
        self.key = key
        self.table = table
        self.at = at
        self.words = table.words
        self.hint = intents.hint_of(key)
        self.start = self.end = 0
        self.shared = False
        self.thread = _IDLE
        self._pid = os.getpid()
        _holds[handle] = (weakref.ref(self, partial(_close_lost, handle, self._pid)), table, at)

    def close(self) -> None:
        """Free what is locked; an intent that was not taken away stays."""
        with interrupts.deferred:
            handle, self.handle = self.handle, -1
            found = _holds.get(handle)
            if found is not None and found[0]() is self:  # and not closed as lost, in a collection
                if self.thread != _IDLE:
                    # A child of another thread's fork may not have closed its copy yet.
                    _unlock(handle, self.start, self.end - self.start)
                    self.thread = _IDLE
                _close(handle)

    @interrupts.finalizer
    def __del__(self) -> None:
        # In a forked child this may run before the child knows that it is one.
        if self.handle >= 0 and self._pid == os.getpid():
            held = self.thread != _IDLE
            interrupts.finalize(self.close)
            if held:
                warnings.warn(
                    "a lock was dropped while it was held: its bytes are free, and their write intent stays",
                    ResourceWarning,
                    stacklevel=2,
                )


# All that are open, by their handles, with their slots; and those that are kept, by the id of their mapping.
_holds: dict[int, tuple[weakref.ref[Hold], intents.Table, int]] = {}
_idle: dict[int, Hold] = {}


def _close(handle: int) -> None:
    found = _holds.pop(handle, None)
    if found is not None:
        _, table, at = found
        guarded_close(handle)
        table.give_back(at)


@interrupts.finalizer
def _close_lost(handle: int, pid: int, reference: object) -> None:
    """Close what is still open though its hold is gone: Ctrl-C came as the hold's finalizer began."""
    if handle in _holds and _holds[handle][0] is reference and pid == os.getpid():
        interrupts.finalize(_close, handle)


def _close_all_lost() -> bool:
    """Close what even so is still open; whether there was any."""
    lost = [handle for handle, (reference, _, _) in _holds.copy().items() if reference() is None]
    with interrupts.deferred:
        for handle in lost:
            _close(handle)
    return bool(lost)


def _open_holds() -> list[Hold]:
    return [hold for reference, _, _ in _holds.copy().values() if (hold := reference()) is not None]


def _hold(handle: int, directory: str, path: str) -> Hold:
    """Make a hold of a handle on the file at `path`."""
    _close_all_lost()  # or a process that is interrupted again and again would gather them
    status = platform.status(handle)
    key = intents.identity(status.device, status.inode, platform.born(handle))
    for _ in range(_TRIES):
        try:
            return Hold(handle, key, *intents.claim(registry.open_registry(directory), path))
        except FileNotFoundError:
            continue  # the janitor has removed the empty registry in between; or else it is said below
        except errors.SharedArrayError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                raise out_of_memory(
                    directory, _TABLE_STEP, platform.free_bytes(directory, memory=True)
                ) from None
            raise requirements.explained(error, directory) from None
    requirements.check(directory)
    raise registry.no_directory(directory)


def _close_idle(mapping: Mapping) -> None:
    """Close what is kept for the next lock of an array, which is closed."""
    hold = _idle.pop(id(mapping), None)
    if hold is not None:
        hold.close()


on_leave.append(_close_idle)


def _tidy(mapping: Mapping) -> None:
    """Close idle holds that are too many, or of an array that has been closed meanwhile."""
    if mapping.left:
        _close_idle(mapping)
    while len(_idle) > _MOST_IDLE:
        try:
            hold = _idle.pop(next(iter(_idle)))
        except (KeyError, StopIteration, RuntimeError):
            continue  # another thread is at it
        hold.close()


def _open_file(file: Any) -> Hold:
    """A hold on an open file, a descriptor, or what is at a path, which is made where there is nothing."""
    with interrupts.deferred:
        while True:
            try:
                handle = guarded_open_file(file if isinstance(file, str) else _descriptor(file))
                break
            except FileNotFoundError:
                if not isinstance(file, str):
                    raise
                with open(file, "ab", opener=platform.opener):
                    pass
        try:
            requirements.check(registry.directory())
            return _hold(handle, registry.directory(), platform.path_behind(handle))
        except BaseException:
            guarded_close(handle)
            raise


def _descriptor(file: Any) -> int:
    number: int = file if isinstance(file, int) else file.fileno()
    os.fstat(number)  # raises the usual error if it is not open
    return number


def _disown() -> None:
    """Have no holds any more: a forked child's are the parent's, and the end of a process ends its own."""
    _idle.clear()
    for hold in _open_holds():
        hold.handle = -1
    _holds.clear()


platform.around_fork(lambda: None, lambda: None, _disown)
atexit.register(_disown)


# -- locks ------------------------------------------------------------------------------------------------


class Lock:
    """A lock on some bytes of a shared array or of a file, made by `SharedArray.lock` and `lock_file`.

    A context manager; or call `acquire` and `release`. It may be used again, and by several threads.

    Attributes
    ----------
    abandoned : bool
        Whether these bytes, or some of them, may be half-written: their last exclusive holder did not
        finish, because its process died or an exception ended its ``with`` statement. Every holder is told,
        until one that holds the bytes exclusively has finished. Set on entering.
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
        self._idle = idle  # where in `_idle` there may be a hold for it, 0 for nowhere
        self._memory = memory  # of the array, which is in use for as long as the lock is there
        self._hold: Hold | None = None
        self._more: list[Hold] | None = [] if shared else None  # in place of it, since there may be several
        self.shared = shared
        self.timeout = timeout
        self.abandoned = False

    # -- using it -------------------------------------------------------------------------------------

    def acquire(self, *arguments: Never, **options: Never) -> bool:
        """Wait for the lock and take it, for any thread to `release`. Returns True.

        It takes no arguments: the timeout is an argument of what makes the lock.

        Raises
        ------
        LockTimeout
            It was not free in time (a `TimeoutError`).
        DeadlockError
            There is no timeout, and this thread is in a ``with`` statement that locks some of the bytes
            already (a `RuntimeError`).
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
        """
        if not self.locked():
            raise RuntimeError("release of a lock that this process does not hold")
        self._give(True)

    def locked(self) -> bool:
        """Whether this object holds the lock, in this process."""
        holds = [self._hold] if self._more is None else list(self._more)
        return any(hold is not None and hold.handle >= 0 for hold in holds)

    def __enter__(self) -> Self:
        self._take(get_ident())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._give(kind is None)

    # -- the steps, written for speed: an uncontended lock is measured in fractions of a microsecond --

    def _open(self) -> Hold:
        """A hold on the file as it is now."""
        raise NotImplementedError

    def _take(self, thread: int) -> Hold | None:
        """Lock the bytes, look for intents of other writers, and write one."""
        hold = _idle.pop(self._idle, None)
        if hold is None:
            hold = self._open()
        elif _now() > hold.table.check_at and not hold.table.sound():
            hold.table.close()
            hold.close()
            hold = self._open()
        try:
            start, end, shared = self._start, self._end, self.shared
            pauses = None
            if shared and hold.words[hold.hint]:
                pauses = self._let_writers_go_first(hold, thread)
            if not _lock(hold.handle, start, self._length, shared, False):
                self._wait(hold, thread, pauses or self._pauses())
            table, words, key = hold.table, hold.words, hold.key
            # Where all slots are this process's own, there is no intent.
            told = words[_COUNT] != len(table.claimed) and table.has_intent(key, start, end)
            if hold.end != end or hold.start != start:
                hold.start, hold.end = start, end
                _prepare(words, hold.at, key, start, end)
            self.abandoned = told
            hold.shared = shared
            hold.thread = thread
            if shared:
                self._more += [hold]  # type: ignore[operator]  # without a call, after which Ctrl-C could come
                return hold
            words[hold.at] = key
            if told:
                table.take_over(key, start, end, hold.at)
            self._hold = hold
            return hold
        except BaseException as error:
            hold.close()
            self._explain(error)
            raise

    def _give(self, finished: bool) -> None:
        """Remove the intent, unless the write is unfinished, and unlock the bytes."""
        if self._more is not None:
            hold = self._more.pop() if self._more else None
        else:
            hold, self._hold = self._hold, None
        if hold is None or hold.handle < 0:  # it is the parent's
            return
        try:
            if not self.shared:
                if not finished:
                    hold.close()
                    return
                hold.words[hold.at] = 0
            _unlock(hold.handle, self._start, self._length)
            hold.thread = _IDLE
            if not self._idle:
                hold.close()
                return
            _idle[self._idle] = hold
            if self._file.left or len(_idle) > _MOST_IDLE:
                _tidy(self._file)
        except BaseException:
            hold.close()
            raise

    def _let_writers_go_first(self, hold: Hold, thread: int) -> Iterator[float]:
        """Wait until one of the writers that wait for these bytes has got them, if readers hold them.

        One, and not all, and none while a writer holds them: readers and writers take turns if there are many
        of both. A writer that waits for a lock of this very thread is not waited for.
        """
        table = hold.table
        own = [other for other in _open_holds() if abs(other.thread) == abs(thread) and other.key == hold.key]
        writers = [
            writer
            for writer in table.ahead(hold.key, self._start, self._end)
            if not any(other.start < writer.end and writer.start < other.end for other in own)
        ]
        pauses = self._pauses()
        if writers and _locked(hold.handle, self._start, self._length, exclusively=True):
            return pauses
        while writers and all(map(table.waits, writers)):
            self._pause(pauses, _WRITERS)
        return pauses

    def _wait(self, hold: Hold, thread: int, pauses: Iterator[float]) -> None:
        """Wait until the kernel grants the bytes to this hold."""
        if _close_all_lost() and self._try(hold):
            return
        by_itself = self._held_by(thread, hold.key)
        if self.timeout is None and by_itself:
            raise self._deadlock()
        if not self.shared:
            hold.start, hold.end = self._start, self._end
            hold.table.wait(hold.at, hold.key, hold.start, hold.end)
        try:
            if self.timeout is None:
                _lock(hold.handle, self._start, self._length, self.shared, True)
                return
            while not self._try(hold):
                self._pause(pauses, _ITSELF if by_itself else _OTHERS)
        finally:
            if not self.shared:
                hold.table.go(hold.at)

    def _try(self, hold: Hold) -> bool:
        return _lock(hold.handle, self._start, self._length, self.shared, False)

    def _pauses(self) -> Iterator[float]:
        """Give the seconds that each pause of a wait takes, until the time is over."""
        begun = time.monotonic()
        limit = math.inf if self.timeout is None else self.timeout
        while (waited := time.monotonic() - begun) < limit:
            yield min(max(waited / _PAUSES, _FIRST_PAUSE), _LAST_PAUSE, limit - waited)

    def _pause(self, pauses: Iterator[float], reason: tuple[str, str]) -> None:
        pause = next(pauses, None)
        if pause is None:
            raise self._timed_out(*reason)
        time.sleep(pause)

    def _held_by(self, thread: int, key: int) -> bool:
        """Whether this very thread stands in the way."""
        return any(
            other.thread == abs(thread)
            and other.key == key
            and other.start < self._end
            and self._start < other.end
            and not (other.shared and self.shared)
            for other in _open_holds()
        )

    # -- what goes wrong ------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        raise NotImplementedError

    def _bytes(self) -> str:
        end = "the end" if self._end == _END else self._end
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
        """Raise what says more than the kernel does about a file's permissions or its file system."""
        if not isinstance(error, OSError):
            return
        if error.errno in _NO_LOCKS:
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

    def _open(self) -> Hold:
        mapping = self._file
        _check_open(mapping)
        with interrupts.deferred:
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
                hold = _hold(handle, mapping.directory or registry.directory(), path)
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

    def _take(self, thread: int) -> None:
        if isinstance(self._file, Mapping):
            _check_open(self._file)
        self._entered += 1

    def _give(self, finished: bool) -> None:
        self._entered = max(0, self._entered - 1)


def _check_open(mapping: Mapping) -> None:
    if mapping.left:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )


# -- files ------------------------------------------------------------------------------------------------


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


def lock_file(
    file_or_path: HasDescriptor | int | str | os.PathLike[str],
    *,
    shared: bool = False,
    timeout: float | None = None,
    start: SupportsIndex = 0,
    length: SupportsIndex | None = None,
) -> Lock:
    """Lock a file, or some of its bytes, against other processes and threads that ask too.

    Parameters
    ----------
    file_or_path
        An open file, text or binary, or its descriptor; or a path, where an empty file is made if there is
        none. An open file stays open, and its position where it was.
    shared
        Whether others may hold the lock at the same time, for reading.
    timeout
        Seconds to wait, None to wait as long as it takes.
    start, length
        The bytes to lock. They may lie behind the end of the file; without a length, everything that is
        ever appended is locked as well.

    Returns
    -------
    Lock
        A context manager, which takes the lock on entering.

    Raises
    ------
    LockTimeout
        On entering, when it was not free in time (a `TimeoutError`).
    DeadlockError
        On entering without a timeout, when this thread holds some of the bytes already (a `RuntimeError`).
    NotOursError
        On entering, when permissions do not allow it (a `PermissionError`): an exclusive lock needs a file
        that may be written, a shared one a file that may be read. How the file was opened does not matter.

    Notes
    -----
    On entering, what an open file has buffered is written, and what it has read ahead is forgotten, so that
    it is read again; on leaving, what was written through it is written out before the lock is given up. That
    holds for Python's own files; of others, ``flush()`` is called where they have it. Flush or close within
    the ``with`` statement what you write through another object, and `os.fsync` where it must survive a power
    cut.

    A path is looked at again when the lock is granted: if another process has replaced or removed the file
    meanwhile, the new file is locked. So a holder may replace the file by `os.replace`.

    It is one of the kernel's record locks, and so excludes `fcntl.lockf` of other programs, but not
    `fcntl.flock`. `Lock.abandoned` tells of holders of the same user on the same machine, with the same
    ``SHAREDARRAY_DIR``.

    Examples
    --------
    >>> import os, tempfile
    >>> import sharedarray as sa
    >>> with tempfile.TemporaryFile("w+", newline="") as file:
    ...     with sa.lock_file(file):
    ...         print("one line", file=file)
    ...     os.fstat(file.fileno()).st_size
    9
    """
    first = index(start)
    count = _END - first if length is None else index(length)
    if first < 0 or count < 0 or first + count > _END:
        raise ValueError(f"start and length are bytes of a file, below 2**62; not {start!r} and {length!r}")
    if isinstance(file_or_path, str | os.PathLike):
        path = os.fspath(file_or_path)
        if not isinstance(path, str):
            raise TypeError("a path is a str, or gives one")
        file_or_path = registry.absolute(path)
        if os.path.isdir(file_or_path):
            raise IsADirectoryError(errno.EISDIR, "a directory has no bytes to lock; lock a file in it", path)
    elif not isinstance(file_or_path, int) and not hasattr(file_or_path, "fileno"):
        given = type(file_or_path).__name__
        cure = "; for an array write array.lock()" if isinstance(file_or_path, np.ndarray) else ""
        raise TypeError(f"lock_file() takes an open file or a path, not {given}{cure}")
    kind = FileLock if count else EmptyLock
    return kind(file_or_path, first, count, shared, timeout)


class FileLock(Lock):
    """A lock on a file: an open one, or what a path leads to when the lock is granted."""

    __slots__ = ()

    __init__ = Lock._prepare

    @property
    def _name(self) -> str:
        if isinstance(self._file, int):
            return f"descriptor {self._file}"
        return str(getattr(self._file, "name", self._file))

    def _open(self) -> Hold:
        try:
            return _open_file(self._file)
        except errors.SharedArrayError:
            raise
        except PermissionError as error:
            raise errors.NotOursError(
                f"{self._name} may not be opened",
                name=self._name,
                found=error.strerror,
                cause="it is another user's",
                next_step="have its permissions changed",
            ) from None

    def _take(self, thread: int) -> Hold:
        while True:
            hold = Lock._take(self, thread)
            assert hold is not None
            try:
                if self._current(hold):
                    _renew(self._file)
                    return hold
            except BaseException:
                self._drop(hold)
                raise
            if not self.shared:
                hold.words[hold.at] = 0
            self._drop(hold)  # and once more, with what is there now

    def _drop(self, hold: Hold) -> None:
        if self._more is None:
            self._hold = None
        else:
            self._more.remove(hold)
        hold.close()

    def _current(self, hold: Hold) -> bool:
        """Whether the path still leads to what is locked."""
        if not isinstance(self._file, str):
            return True
        return platform.leads_to(self._file, hold.handle)

    def _give(self, finished: bool) -> None:
        if self.locked():  # or the lock is the parent's, and so is what the file has buffered
            try:
                _flush(self._file)
            except BaseException:
                Lock._give(self, False)
                raise
        Lock._give(self, finished)


def _renew(file: Any) -> None:
    """Write what a file has buffered, and have it forget what it has read ahead."""
    _flush(file)
    inner = getattr(file, "file", file)  # what tempfile wraps
    if isinstance(inner, _READ_AHEAD) and inner.readable() and inner.seekable():
        position = inner.tell()
        inner.seek(0, io.SEEK_END)  # other seeks stay within the buffer where they can
        inner.seek(position)


def _flush(file: Any) -> None:
    flush = getattr(file, "flush", None)
    if flush is not None and not getattr(file, "closed", False):
        flush()
