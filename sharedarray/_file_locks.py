"""Locks on files that many processes write, and `lock_file`."""

from __future__ import annotations

import errno
import io
import os
from operator import index
from typing import Any, Protocol, SupportsIndex

import numpy as np

from sharedarray import _errors as errors, _registry as registry
from sharedarray._lock_holds import Hold as Hold, hold_of_file
from sharedarray._locks import END, EmptyLock, Lock, Pauses
from sharedarray._platform import platform

__all__ = ["lock_file"]

_READ_AHEAD = (io.TextIOWrapper, io.BufferedReader, io.BufferedRandom)


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
    count = END - first if length is None else index(length)
    if first < 0 or count < 0 or first + count > END:
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
            return hold_of_file(self._file)
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

    def _take(self, thread: int, pauses: Pauses | None = None) -> Hold:
        pauses = pauses or Pauses(self)  # one timeout, however often the file is replaced meanwhile
        while True:
            hold = Lock._take(self, thread, pauses)
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
        """Return whether the path still leads to what is locked."""
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
