"""Locks on the bytes of shared arrays.

A lock is a kernel lock on a byte range, on an open file description of its own that is opened for each
acquisition: so threads exclude each other as processes do, and the kernel frees it when its holder dies.
A forked child closes what it inherited, or it would keep its parent's lock alive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sharedarray import errors
from sharedarray._platform import platform
from sharedarray.segment import Mapping, guarded_close, guarded_open

_FIRST_PAUSE = 0.0005  # seconds between tries with a timeout: the kernel has no timed wait for these locks
_LAST_PAUSE = 0.02


def range_lock(
    mapping: Mapping, start: int, length: int, *, shared: bool, timeout: float | None
) -> AbstractContextManager[None]:
    """A context manager that holds bytes `start` to `start + length` of the block."""
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout is in seconds, at least 0, or None; not {timeout!r}")
    return _locked(mapping, start, length, shared, timeout)


@contextmanager
def _locked(mapping: Mapping, start: int, length: int, shared: bool, timeout: float | None) -> Iterator[None]:
    if mapping.left:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )
    if length == 0:
        yield
        return
    owner = os.getpid()
    handle = guarded_open(mapping)
    try:
        _acquire(mapping, handle, start, length, shared, timeout)
        yield
        if os.getpid() == owner:  # a forked child has closed this handle, and may have reused its number
            platform.unlock(handle, start, length)
    finally:
        if os.getpid() == owner:
            guarded_close(handle)


def _acquire(
    mapping: Mapping, handle: int, start: int, length: int, shared: bool, timeout: float | None
) -> None:
    if timeout is None:
        platform.lock(handle, start, length, shared=shared, wait=True)
        return
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not platform.lock(handle, start, length, shared=shared, wait=False):
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.LockTimeout(
                f"bytes {start} to {start + length} of {mapping.name!r} were not free within {timeout} s",
                name=mapping.name,
                cause="another process or thread holds a lock on some of them",
                next_step="wait longer, or lock a smaller slice",
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LAST_PAUSE)
