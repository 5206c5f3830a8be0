"""The memory of a process, of all its children, and of memory files.

The proportional set size, Pss of ``/proc/PID/smaps_rollup``, counts a page that n processes share as an n-th
in each, so a sum over processes counts it once. Pages of memory files are left out of it and counted as what
the file system of ``/dev/shm`` has in use, for there they also are when no process maps them. (Shared memory
without a file is not counted. Of the contestants only the limit has any.)
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from sharedarray import _registry as registry
from sharedarray._platform import platform

EXTRA = "pip install 'numpy-sharedarray[bench]'"


def why_not() -> str | None:
    """Return why memory cannot be measured here; None if it can."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        return "this system does not tell the proportional set size of processes"
    try:
        importlib.import_module("psutil")
    except ImportError as error:
        return f"psutil cannot be used ({error}): {EXTRA}"
    return None


def process_tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def proportional(pids: list[int]) -> int:
    """Return bytes that these have together, memory files left out."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # ended in the meantime
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            total += (kib["Pss"] - kib.get("Pss_Shmem", 0)) << 10
    return total


def in_files() -> int:
    """Return bytes that the memory file system has in use."""
    return shutil.disk_usage(registry.directory()).used


def peak(pid: int, done: Callable[[], bool]) -> int:
    """Return the most bytes that a tree of processes and the memory file system have, until `done`.

    A look takes some milliseconds, so what is measured should be done some times over.
    """
    pids, most = process_tree(pid), 0
    while True:
        most = max(most, proportional(pids) + in_files())
        if done():
            return most


def available() -> int:
    """Return bytes that may be taken without swapping, by blocks as well."""
    free = platform.free_bytes(registry.directory(), memory=True)
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        told = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
        free = min(free, told)
    return free
