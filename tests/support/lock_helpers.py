"""Children that hold locks and die, for the tests of locks."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import cloudpickle
import numpy as np
from helpers import ANSWER, FORKS, KILLED, PROC, environment, suicide, wait_until

import sharedarray as sa
from sharedarray import _lock_holds as lock_holds, _segment as segment
from sharedarray._intents import TableBusyError
from sharedarray._platform import platform
from sharedarray._reference import reduce_held

T = TypeVar("T")
_started: dict[int, subprocess.Popen[bytes]] = {}  # on systems without fork


def start(work: Callable[[], Any]) -> int:
    """Start a child that does some work and ends without the parent's clean-up; return its pid."""
    if not FORKS:
        return _interpreter(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    return run_to_end(work)


def run_to_end(work: Callable[[], Any]) -> NoReturn:
    """Do some work and end, as a child does."""
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
    if pid in _started:
        with _started.pop(pid) as process:
            return process.wait(ANSWER)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def any_end() -> tuple[int, int]:
    """Wait for the first of all children; its pid and status."""
    if FORKS:
        pid, status = os.wait()
        return pid, os.waitstatus_to_exitcode(status)
    pid = wait_until(
        lambda: next((pid for pid, process in _started.items() if process.poll() is not None), 0),
        "a child ends",
        ANSWER,
    )
    return pid, end(pid)


class _Pickler(cloudpickle.CloudPickler):
    """Sends what a test function has around it, shared arrays as what they are."""

    def reducer_override(self, obj: Any) -> Any:
        found = reduce_held(obj) if isinstance(obj, np.ndarray) else None
        return super().reducer_override(obj) if found is None else found


def _interpreter(work: Callable[[], Any], *, talks: bool = False) -> int:
    """Start an interpreter that does some work, as a fork would; it may use its standard streams."""
    file = io.BytesIO()
    _Pickler(file).dump(work)
    script = (
        "import base64, pickle, sys, lock_helpers\n"
        "lock_helpers.run_to_end(pickle.loads(base64.b64decode(sys.argv[1])))"
    )
    streams = subprocess.PIPE if talks else None
    process = subprocess.Popen(
        [sys.executable, "-c", script, base64.b64encode(file.getvalue()).decode()],
        stdin=streams or subprocess.DEVNULL,
        stdout=streams,
        env=environment(),
    )
    _started[process.pid] = process
    return process.pid


def child(work: Callable[[], Any], status: int = 0) -> None:
    """Do some work in a forked child, which ends with this status."""
    assert end(start(work)) == status


def killed(work: Callable[[], Any]) -> None:
    """Do some work in a forked child, in the midst of which it is killed."""
    child(work, KILLED)


def die_holding(make: Callable[[], sa.Lock]) -> None:
    """Start a child that takes a lock, and kill it."""

    def work() -> None:
        with make():
            suicide()

    killed(work)


@contextmanager
def holding(make: Callable[[], sa.Lock]) -> Iterator[int]:
    """Hold a lock in a child during the ``with`` statement; yield its pid."""
    if not FORKS:
        with _holding(make) as pid:
            yield pid
        return
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
        assert end(pid) in (0, KILLED)


@contextmanager
def _holding(make: Callable[[], sa.Lock]) -> Iterator[int]:
    def work() -> None:
        with make():
            os.write(1, b"!")
            os.read(0, 1)

    pid = _interpreter(work, talks=True)
    streams = _started[pid].stdin, _started[pid].stdout
    assert streams[0] is not None
    assert streams[1] is not None
    try:
        assert streams[1].read(1) == b"!"
        yield pid
    finally:
        streams[0].close()
        assert end(pid) in (0, KILLED)


def not_busy(step: Callable[[], T]) -> T:
    """Return what a step gives, once no other process has the table of write intents locked."""
    while True:
        try:
            return step()
        except TableBusyError:
            time.sleep(0.001)


def told(lock: sa.Lock) -> bool:
    """Take a lock, and give it up in order: whether it was abandoned."""
    with lock:
        return lock.abandoned


def free(lock: sa.Lock) -> bool:
    """Return whether the lock can be taken at once."""
    try:
        with lock:
            return True
    except sa.LockTimeout:
        return False


def waiters(inode: int) -> int:
    """Return the number of waiters for a lock on a file; 1 after a while if the kernel does not tell."""
    if not PROC:
        time.sleep(0.3)
        return 1
    with open("/proc/locks") as file:
        return sum("->" in line and f":{inode} " in line for line in file)


def locked_bytes(inode: int) -> list[tuple[str, int, int]]:
    """Return the locks that this process holds on a file's data: kind, first byte, and end."""
    found = []
    for hold in lock_holds.open_holds():
        if hold.handle >= 0 and platform.status(hold.handle).inode == inode:
            if not PROC:
                found += _tried(hold.handle)
                continue
            with open(f"/proc/self/fdinfo/{hold.handle}") as file:
                for line in file:
                    if line.startswith("lock:"):
                        _, _, _, _, kind, _, _, start, stop = line.split()
                        found.append((kind, int(start), int(stop) + 1))
    return found


def _takes(handle: int, at: int, *, shared: bool) -> bool:
    taken = platform.lock(handle, at, 1, shared=shared, wait=False)
    if taken:
        platform.unlock(handle, at, 1)
    return taken


_TRIED = [*range(200), *range(4096 - 8, 4096 + 100), (1 << 62) - 1]


def _tried(handle: int) -> list[tuple[str, int, int]]:
    """Return the same if the kernel does not tell: some bytes are tried through another handle."""
    found: list[tuple[str, int, int]] = []
    other = platform.open_to_lock(handle)
    before = ""
    for at in _TRIED:
        kind = (
            "" if _takes(other, at, shared=False) else "READ" if _takes(other, at, shared=True) else "WRITE"
        )
        if kind and kind == before:
            found[-1] = kind, found[-1][1], at + 1
        elif kind:
            found.append((kind, at, at + 1))
        before = kind
    platform.close(other)
    return found


def descriptors() -> int:
    """Return how many descriptors this process has open, or handles of ours."""
    if not PROC:
        return len(segment.mapping.handles)
    return len(os.listdir("/proc/self/fd"))
