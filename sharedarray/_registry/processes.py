"""Which processes live, in this pid namespace and in others."""

from __future__ import annotations

import functools
import os
from typing import TypeAlias

from sharedarray import _errors as errors
from sharedarray._platform import platform
from sharedarray._registry.places import registry_of

_PIDS = 1 << 32  # above every system's process ids
_PID_BITS = 22  # of a pid on Linux
_SPACES = (1 << 32) - 1  # the inode of a pid namespace has 32 bits
LOCK_FILE = "janitor.lock"


Process: TypeAlias = tuple[int, int]  # the pid, and the tick at which the process started


_retired: set[int] = set()  # the pid of this process, once it has called `retire`


@functools.lru_cache(maxsize=1)
def _of_this_process(pid: int) -> tuple[Process, int]:
    """Return this process and the number of its pid namespace; `pid` is new in a forked child."""
    return (pid, platform.process_started(pid) or 0), platform.process_space()


def me() -> Process:
    """Return the pid of this process, and the tick at which it started."""
    return _of_this_process(os.getpid())[0]


def here() -> int:
    """Return the number of this process's pid namespace."""
    return _of_this_process(os.getpid())[1]


def alive(pid: int, started: int, space: int = 0, directory: str | None = None) -> bool:
    """Return whether the process with this pid that started at this tick still lives.

    Parameters
    ----------
    space
        The process's pid namespace; 0 for this process's.
    directory
        A directory of blocks in which the process has appeared, if it is in another pid namespace. Without
        it, such a process counts as alive.
    """
    if not 0 < pid < _PIDS:
        return False
    if space in (0, here()):
        return platform.process_started(pid) == started
    return directory is None or _appears(directory, pid, space)


def appear(directory: str) -> int:
    """Lock this process's byte of ``janitor.lock``, so that other pid namespaces know that it lives.

    Returns
    -------
    int
        The handle that has the lock.
    """
    handle = platform.open(f"{registry_of(directory)}/{LOCK_FILE}", writable=True)
    try:
        platform.lock(handle, _byte_of(me()[0], here()), 1, shared=True, wait=True)
    except BaseException:
        platform.close(handle)
        raise
    return handle


def _appears(directory: str, pid: int, space: int) -> bool:
    try:
        handle = platform.open(f"{registry_of(directory)}/{LOCK_FILE}", writable=True)
    except errors.LimitError:
        raise
    except OSError:
        return False  # no process of this user holds a block
    try:
        return platform.locked(handle, _byte_of(pid, space), 1)
    finally:
        platform.close(handle)


def _byte_of(pid: int, space: int) -> int:
    """Return the byte of ``janitor.lock`` that a process locks, behind those of the janitor."""
    return (1 + (space & _SPACES)) << _PID_BITS | (pid & (1 << _PID_BITS) - 1)


def keeps(process: Process) -> bool:
    """Return whether a process still keeps its blocks: it lives, and has not retired."""
    return process[0] not in _retired if process == me() else alive(*process)


def retire() -> None:
    """Keep no block any more, because this process is about to end."""
    _retired.add(os.getpid())
