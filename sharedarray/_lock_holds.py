"""The lock holds of a process: file descriptions by which bytes are locked, kept open for the next lock."""

from __future__ import annotations

import atexit
import errno
import os
import warnings
import weakref
from functools import partial
from typing import Any

from sharedarray import (
    _errors as errors,
    _forks as forks,
    _intents as intents,
    _registry as registry,
    _requirements as requirements,
    _sigint as sigint,
)
from sharedarray._platform import platform
from sharedarray._segment import Mapping, guarded_close, guarded_open_file, on_release, out_of_memory

MOST_IDLE = 8  # holds of arrays that are kept open for the next lock
IDLE = 0  # `Hold.thread` if nothing is locked
NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of kernels without such locks
_TRIES = 100  # attempts to open the table of write intents
_TABLE_STEP = 4096  # bytes by which the table of write intents grows


class Hold:
    """An open file description, by which bytes are locked, and a slot for a write intent.

    Attributes
    ----------
    handle : int
        The handle of the description; -1 when it is closed.
    key, table, at, words
        The file's key, and the slot in the table of write intents.
    start, end : int
        The bytes that it locks, or locked last; the slot has them too.
    shared : bool
        Whether it locks them shared.
    hint : int
        The word of the table that is not 0 if a writer may wait for the file.
    thread : int
        The thread in whose ``with`` statement the bytes are locked; the negative of the thread that called
        `acquire`, after which any thread may unlock them; `IDLE` if nothing is locked.
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
        self.thread = IDLE
        self._pid = os.getpid()
        all_holds[handle] = (weakref.ref(self, partial(_close_lost, handle, self._pid)), table, at)

    def close(self) -> None:
        """Unlock the bytes and close the description; an intent that was not removed stays."""
        with sigint.deferred:
            handle, self.handle = self.handle, -1
            found = all_holds.get(handle)
            if found is not None and found[0]() is self:  # else `_close_lost` has closed it
                if self.thread != IDLE:
                    # A child of another thread's fork may not have closed its copy yet.
                    platform.unlock(handle, self.start, self.end - self.start)
                    self.thread = IDLE
                _close(handle)

    @sigint.finalizer
    def __del__(self) -> None:
        # In a forked child this may run before the child knows that it is one.
        if self.handle >= 0 and self._pid == os.getpid():
            held = self.thread != IDLE
            sigint.finalize(self.close)
            if held:
                warnings.warn(
                    "a lock was dropped while it was held: its bytes are free, and their write intent stays",
                    ResourceWarning,
                    stacklevel=2,
                )


# All open holds, by handle, with their slots; and those kept for the next lock, by the id of their mapping.
all_holds: dict[int, tuple[weakref.ref[Hold], intents.Table, int]] = {}
idle_holds: dict[int, Hold] = {}


def _close(handle: int) -> None:
    found = all_holds.pop(handle, None)
    if found is not None:
        _, table, at = found
        guarded_close(handle)
        table.give_back(at)


@sigint.finalizer
def _close_lost(handle: int, pid: int, reference: object) -> None:
    """Close a description whose hold is gone: Ctrl-C has broken off the hold's finalizer."""
    if handle in all_holds and all_holds[handle][0] is reference and pid == os.getpid():
        sigint.finalize(_close, handle)


def close_all_lost() -> bool:
    """Close the descriptions of holds that are gone; return whether there were any."""
    lost = [handle for handle, (reference, _, _) in all_holds.copy().items() if reference() is None]
    with sigint.deferred:
        for handle in lost:
            _close(handle)
    return bool(lost)


def open_holds() -> list[Hold]:
    """Return the holds of this process."""
    """Return the holds of this process."""
    return [hold for reference, _, _ in all_holds.copy().values() if (hold := reference()) is not None]


def hold_of(handle: int, directory: str, path: str) -> Hold:
    """Make a hold of a handle on the file at `path`."""
    close_all_lost()  # or they would pile up in a process that gets Ctrl-C again and again
    status = platform.status(handle)
    key = intents.identity(status.device, status.inode, platform.born(handle))
    for _ in range(_TRIES):
        try:
            return Hold(handle, key, *intents.claim(registry.open_registry(directory), path))
        except FileNotFoundError:
            continue  # the janitor has removed the empty registry; if not, the error is raised below
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
    """Close the idle hold of an array that is closed."""
    hold = idle_holds.pop(id(mapping), None)
    if hold is not None:
        hold.close()


on_release.append(_close_idle)


def tidy(mapping: Mapping) -> None:
    """Close idle holds that are too many, or of an array that has been closed meanwhile."""
    if mapping.released:
        _close_idle(mapping)
    while len(idle_holds) > MOST_IDLE:
        try:
            hold = idle_holds.pop(next(iter(idle_holds)))
        except (KeyError, StopIteration, RuntimeError):
            continue  # another thread changes the table just now
        hold.close()


def hold_of_file(file: Any) -> Hold:
    """Return a hold on an open file, a descriptor, or the file at a path, which is created if missing."""
    with sigint.deferred:
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
            return hold_of(handle, registry.directory(), platform.path_behind(handle))
        except BaseException:
            guarded_close(handle)
            raise


def _descriptor(file: Any) -> int:
    """Return the descriptor of an open file."""
    """Return the descriptor of an open file."""
    number: int = file if isinstance(file, int) else file.fileno()
    os.fstat(number)  # raises the usual error if it is not open
    return number


def _disown() -> None:
    """Forget all holds: of a forked child, which has none, and at the end, when the kernel ends them."""
    idle_holds.clear()
    for hold in open_holds():
        hold.handle = -1
    all_holds.clear()


forks.around(__name__, in_child=_disown)
atexit.register(_disown)
