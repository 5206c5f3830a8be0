"""Children that hold locks and die, for the tests of locks."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers import suicide

import sharedarray as sa
from sharedarray import locks


def start(work: Callable[[], Any]) -> int:
    """Fork a child that does some work and ends without the parent's clean-up; its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def end(pid: int) -> int:
    """Wait for a child; its status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def child(work: Callable[[], Any], status: int = 0) -> None:
    """Do some work in a forked child, which ends with this status."""
    assert end(start(work)) == status


def killed(work: Callable[[], Any]) -> None:
    """Do some work in a forked child, in the midst of which it is killed."""
    child(work, -signal.SIGKILL)


def die_holding(make: Callable[[], sa.Lock]) -> None:
    """Have a child take a lock, and be killed with it."""

    def work() -> None:
        with make():
            suicide()

    killed(work)


@contextmanager
def holding(make: Callable[[], sa.Lock]) -> Iterator[int]:
    """Have a child hold a lock in the meantime; its pid."""
    ready, said = os.pipe()
    done, say = os.pipe()

    def work() -> None:
        os.close(say)
        with make():
            os.write(said, b"!")
            os.read(done, 1)

    pid = start(work)
    os.close(done)
    os.close(said)
    try:
        assert os.read(ready, 1) == b"!"
        yield pid
    finally:
        os.close(say)
        os.close(ready)
        assert end(pid) in (0, -signal.SIGKILL)


def told(lock: sa.Lock) -> bool:
    """Take a lock, and give it up in order: whether it was abandoned."""
    with lock:
        return lock.abandoned


def free(lock: sa.Lock) -> bool:
    """Whether the lock can be taken at once."""
    try:
        with lock:
            return True
    except sa.LockTimeout:
        return False


def waiters(inode: int) -> int:
    """How many wait in the kernel for a lock on a file."""
    with open("/proc/locks") as file:
        return sum("->" in line and f":{inode} " in line for line in file)


def locked_bytes(inode: int) -> list[tuple[str, int, int]]:
    """The locks that this process holds on a file's data: kind, first byte, and the one behind the last."""
    found = []
    for hold in locks._open_holds():
        if hold.handle >= 0 and os.fstat(hold.handle).st_ino == inode:
            with open(f"/proc/self/fdinfo/{hold.handle}") as file:
                for line in file:
                    if line.startswith("lock:"):
                        _, _, _, _, kind, _, _, start, stop = line.split()
                        found.append((kind, int(start), int(stop) + 1))
    return found


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
