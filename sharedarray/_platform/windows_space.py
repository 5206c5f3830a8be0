"""Windows: how much memory and disk there is, and how much of it is free."""

from __future__ import annotations

import shutil

import win32api


def free_bytes(directory: str, *, memory: bool) -> int:
    if memory:
        return free_memory()
    return shutil.disk_usage(directory).free


def on_disk(directory: str) -> bool:
    return False  # only what persists is a file, which belongs on a disk


def capacity(directory: str) -> int:
    return int(win32api.GlobalMemoryStatusEx()["TotalPageFile"])


def memory() -> int:
    return int(win32api.GlobalMemoryStatusEx()["TotalPhys"])


def free_memory() -> int:
    """Return the bytes that may still be committed: free memory and page file."""
    return int(win32api.GlobalMemoryStatusEx()["AvailPageFile"])
