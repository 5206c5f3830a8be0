"""What does it cost to lock some bytes, and do those who lock different bytes wait for each other?

The limit is what the kernel needs for a lock with a description of its own: open, lock, unlock, close.
`sharedarray` does more in that time: it finds out which bytes a view spans, records an intent for them while
they are locked, so that the next holder is told of one that dies, and looks for such intents. It keeps the
description open.

Other locks between processes are in the same table; `threading.Lock` shows what any lock in Python takes.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import statistics
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from conftest import QUICK

import sharedarray as sa

PIECES = 2 if QUICK else 20  # that each process writes under its lock
PAUSE = 0.005  # seconds that a piece takes, most of which is waiting
CROWD = 8  # processes

fork = multiprocessing.get_context("fork")


# One ``struct flock``, in one call: type, whence (SEEK_SET is 0), start, length, no pid.
_flock = struct.Struct("h6xqq8x").pack


def test_uncontended(race: Callable[..., Any], tmp_path: Path) -> None:
    array = sa.zeros((1000, 100))
    path = f"{sa.blocks()[0].path}"
    plain = tmp_path / "plain"
    plain.write_bytes(bytes(1000))
    lock, row = array.lock(), array[5]
    kept = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def raw() -> None:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, 4096, 800_000))
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 4096, 800_000))
        os.close(handle)

    def raw_close() -> None:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, 4096, 800_000))
        os.close(handle)

    def raw_kept() -> None:
        fcntl.fcntl(kept, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, 4096, 800_000))
        fcntl.fcntl(kept, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 4096, 800_000))

    def ours() -> None:
        with array.lock():
            pass

    def ours_row() -> None:
        with row.lock():
            pass

    def ours_again() -> None:
        with lock:
            pass

    def ours_shared() -> None:
        with array.lock(shared=True):
            pass

    def file() -> None:
        with sa.lock_file(plain):
            pass

    opened = open(plain, "r+b")  # noqa: SIM115  (closed below)

    def open_file() -> None:
        with sa.lock_file(opened):
            pass

    contestants = {
        "raw open+lock+unlock+close": raw,
        "raw open+lock+close": raw_close,
        "raw lock+unlock, kept open": raw_kept,
        "sharedarray": ours,
        "sharedarray, one row": ours_row,
        "sharedarray, shared=True": ours_shared,
        "sharedarray, lock made before": ours_again,
        "sharedarray.lock_file(path)": file,
        "sharedarray.lock_file(open file)": open_file,
        **_rivals(tmp_path, str(plain)),
    }
    try:
        race(
            "an uncontended lock, taken and given up",
            contestants,
            baseline="raw open+lock+unlock+close",
            rounds=31,
            loops=500,
            group="uncontended lock",
        )
    finally:
        os.close(kept)
        opened.close()
        array.close()


def _rivals(tmp_path: Path, plain: str) -> dict[str, Callable[[], None]]:
    """Return the locks that people use otherwise, as far as they are installed."""

    def flock() -> None:
        with open(plain, "r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)

    def lockf() -> None:
        with open(plain, "r+b") as opened:
            fcntl.lockf(opened, fcntl.LOCK_EX)

    found: dict[str, Callable[[], None]] = {"open() + fcntl.flock": flock, "open() + fcntl.lockf": lockf}
    try:
        import filelock
    except ImportError:
        pass
    else:
        theirs = filelock.FileLock(str(tmp_path / "filelock"))
        found["filelock.FileLock"] = lambda: _use(theirs)
    try:
        import portalocker
    except ImportError:
        pass
    else:
        found["portalocker.Lock(path)"] = lambda: _use(portalocker.Lock(plain, "r+b"))
    between, inside = fork.Lock(), threading.Lock()
    found["multiprocessing.Lock"] = lambda: _use(between)
    found["threading.Lock"] = lambda: _use(inside)
    return found


def _use(lock: Any) -> None:
    with lock:
        pass


def test_uncontended_beside_others(race: Callable[..., Any]) -> None:
    """The time if other processes hold other rows, whose write intents are read."""
    array = sa.zeros((1000, 100))
    path = sa.blocks()[0].path

    def raw() -> None:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, 4096, 800))
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 4096, 800))
        os.close(handle)

    row = array[0]

    def ours() -> None:
        with row.lock():
            pass

    try:
        for others in (1, CROWD - 1) if QUICK else (1, CROWD - 1, 63):
            with ExitStack() as stack:
                for number in range(others):
                    stack.enter_context(_holder(array[number + 1]))
                race(
                    f"an uncontended lock, while {others} processes hold other rows of the array",
                    {"raw open+lock+unlock+close": raw, "sharedarray": ours},
                    baseline="raw open+lock+unlock+close",
                    rounds=21,
                    loops=200,
                )
    finally:
        array.close()


@contextmanager
def _holder(view: sa.SharedArray) -> Iterator[None]:
    ready, done = fork.Event(), fork.Event()

    def hold() -> None:
        with view.lock():
            ready.set()
            done.wait()

    process = _start(hold)
    ready.wait()
    try:
        yield
    finally:
        done.set()
        process.join()


def _start(work: Callable[[], None]) -> Any:
    process = fork.Process(target=work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def _crowd(count: int, work: Callable[[int], None]) -> float:
    """Return seconds that `count` processes take for it, all at once; their start and end not counted."""
    begin, end = fork.Barrier(count + 1), fork.Barrier(count + 1)

    def run(number: int) -> None:
        begin.wait()
        work(number)
        end.wait()

    processes = [_start(lambda number=number: run(number)) for number in range(count)]
    begin.wait()
    start = time.perf_counter()
    end.wait()
    took = time.perf_counter() - start
    for process in processes:
        process.join()
    return took


def test_ranges_of_their_own(race: Callable[..., Any], tmp_path: Path) -> None:
    """Several that write pieces with pauses, each under the lock of its own range, take the time of one."""
    array = sa.zeros((CROWD, 1000))
    path = tmp_path / "parts"
    path.write_bytes(bytes(CROWD * 1000))

    def write(row: int) -> None:
        for piece in range(PIECES):
            with array[row].lock() as lock:
                array[row] = piece
                time.sleep(PAUSE)
                assert not lock.abandoned

    def write_file(part: int) -> None:
        with open(path, "r+b", buffering=0) as file:
            for _ in range(PIECES):
                with sa.lock_file(file, start=1000 * part, length=1000):
                    file.seek(1000 * part)
                    file.write(b"x" * 1000)
                    time.sleep(PAUSE)

    def pause(_: int) -> None:
        for _ in range(PIECES):
            time.sleep(PAUSE)

    try:
        race(
            f"{PIECES} pieces of {PAUSE * 1000:.0f} ms, each under a lock (sharedarray: {CROWD} processes, "
            f"{CROWD} ranges)",
            {
                "no lock, one process": lambda: _crowd(1, pause),
                "one process": lambda: _crowd(1, write),
                "sharedarray": lambda: _crowd(CROWD, write),
                f"{CROWD} processes, one range": lambda: _crowd(CROWD, lambda _: write(0)),
                "lock_file, one process": lambda: _crowd(1, write_file),
                f"lock_file, {CROWD} processes, {CROWD} ranges": lambda: _crowd(CROWD, write_file),
            },
            baseline="one process",
            rounds=7,
            unit="ms",
            measured=True,
        )
    finally:
        array.close()


def test_ranges_of_their_own_with_all_processors_busy(race: Callable[..., Any]) -> None:
    """The same with as many processes as there are processors, which compute as they write."""
    count = len(os.sched_getaffinity(0))
    array = sa.zeros((count, 20_000))
    numbers = np.linspace(0, 1, 20_000)

    def write(row: int) -> None:
        for _ in range(10 * PIECES):
            with array[row].lock():
                array[row] = np.sin(numbers)

    def compute(row: int) -> None:
        for _ in range(10 * PIECES):
            array[row] = np.sin(numbers)

    try:
        race(
            f"{10 * PIECES} pieces that are computed, each under a lock (sharedarray: {count} processes, "
            f"{count} ranges)",
            {
                "one process": lambda: _crowd(1, write),
                f"{count} processes, no lock": lambda: _crowd(count, compute),
                "sharedarray": lambda: _crowd(count, write),
                f"{count} processes, one range": lambda: _crowd(count, lambda _: write(0)),
            },
            baseline="one process",
            rounds=9,
            unit="ms",
            measured=True,
        )
    finally:
        array.close()


def test_contended(race: Callable[..., Any], tmp_path: Path) -> None:
    """All processes want the same bytes, for a moment each."""
    array = sa.zeros(1000)
    path = str(sa.blocks()[0].path)
    times = 20 if QUICK else 500
    between = fork.Lock()

    def raw(_: int) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for _ in range(times):
            fcntl.fcntl(handle, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, 4096, 8000))
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 4096, 8000))
        os.close(handle)

    def ours(_: int) -> None:
        for _ in range(times):
            with array.lock():
                pass

    def processes(_: int) -> None:
        for _ in range(times):
            with between:
                pass

    contestants = {"raw lock+unlock, kept open": raw, "sharedarray": ours, "multiprocessing.Lock": processes}
    try:
        import filelock
    except ImportError:
        pass
    else:

        def file(_: int) -> None:
            theirs = filelock.FileLock(str(tmp_path / "filelock"), poll_interval=0.001)
            for _ in range(times // 10):
                with theirs:
                    pass

        contestants["filelock.FileLock, polling every ms"] = file
    each = {name: times // 10 if "filelock" in name else times for name in contestants}
    try:
        race(
            f"{CROWD} processes that want the same lock: for each time that one gets it",
            {
                name: lambda name=name, work=work: _crowd(CROWD, work) / (CROWD * each[name])
                for name, work in contestants.items()
            },
            baseline="raw lock+unlock, kept open",
            rounds=9,
            measured=True,
        )
    finally:
        array.close()


def test_a_writer_beside_readers(race: Callable[..., Any]) -> None:
    """Two processes read back to back, one for 2 ms and one for 1.7 ms: the median of a writer's waits."""
    array = sa.zeros(1000)
    path = str(sa.blocks()[0].path)
    times = 3 if QUICK else 40

    @contextmanager
    def raw(kind: int) -> Iterator[None]:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(handle, fcntl.F_OFD_SETLKW, _flock(kind, 4096, 8000))
        yield
        os.close(handle)

    def median(read: Callable[[], Any], write: Callable[[], Any]) -> float:
        ready, done = fork.Semaphore(0), fork.Event()

        def reader(seconds: float) -> None:
            while not done.is_set():
                with read():
                    ready.release()
                    time.sleep(seconds)

        readers = [_start(partial(reader, seconds)) for seconds in (0.002, 0.0017)]
        waits = []
        for _ in range(times):
            while ready.acquire(block=False):
                pass
            for _ in range(10):  # so that they do not begin at the same time
                ready.acquire()
            begun = time.perf_counter()
            with write():
                waits.append(time.perf_counter() - begun)
        done.set()
        for process in readers:
            process.join()
        return statistics.median(waits)

    try:
        race(
            "a writer's wait beside two processes that read for 2 and 1.7 ms, back to back (median)",
            {
                "the kernel's locks alone": lambda: median(
                    lambda: raw(fcntl.F_RDLCK), lambda: raw(fcntl.F_WRLCK)
                ),
                "sharedarray": lambda: median(lambda: array.lock(shared=True), array.lock),
            },
            baseline="the kernel's locks alone",
            rounds=3,
            unit="ms",
            measured=True,
        )
    finally:
        array.close()
