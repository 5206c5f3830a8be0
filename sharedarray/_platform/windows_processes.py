"""Windows: other processes, what they run, when they end, and handles that are given to them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

import pywintypes
import win32api
import win32con
import win32event
import win32process
import win32security

from sharedarray._platform.windows_kernel import DWord, kernel32, translating

if TYPE_CHECKING:
    import socket


def keeper_of_references() -> int:
    """Return the process that keeps what this one sends: its parent, if multiprocessing started it."""
    process: Any = sys.modules.get("multiprocessing.process")  # loaded in its processes
    parent = process.parent_process() if process is not None else None
    if parent is not None and parent.pid is not None and process_started(parent.pid) is not None:
        return int(parent.pid)
    return os.getpid()


def give_to(pid: int, handle: int) -> int:
    """Duplicate a handle into another process; return the handle's number there."""
    with translating():
        target = win32api.OpenProcess(win32con.PROCESS_DUP_HANDLE, False, pid)
        copy = win32api.DuplicateHandle(
            win32api.GetCurrentProcess(), handle, target, 0, False, win32con.DUPLICATE_SAME_ACCESS
        )
        return int(copy.Detach())


def close_in(pid: int, started: int | None, handle: int) -> None:
    """Close a handle in another process, unless that process has ended."""
    with contextlib.suppress(pywintypes.error):
        source = win32api.OpenProcess(win32con.PROCESS_DUP_HANDLE, False, pid)
        if process_started(pid) == started:
            moved = win32api.DuplicateHandle(
                source, handle, win32api.GetCurrentProcess(), 0, False, win32con.DUPLICATE_CLOSE_SOURCE
            )
            moved.Close()


_QUERY = 0x1000  # PROCESS_QUERY_LIMITED_INFORMATION


def process_started(pid: int) -> int | None:
    try:
        process = win32api.OpenProcess(_QUERY | win32con.SYNCHRONIZE, False, pid)
        if win32event.WaitForSingleObject(process, 0) == win32event.WAIT_OBJECT_0:
            return None
        created = win32process.GetProcessTimes(process)["CreationTime"]
    except pywintypes.error:
        return None
    return int(created.timestamp() * 1_000_000)


# Characters of a path, with the NUL behind it.
_LONGEST_PATH = 32768


def command_line(pid: int) -> list[str]:
    try:
        process = win32api.OpenProcess(_QUERY, False, pid)
    except pywintypes.error:
        return []
    path, length = ctypes.create_unicode_buffer(_LONGEST_PATH), DWord(_LONGEST_PATH)
    if not kernel32.QueryFullProcessImageNameW(int(process), 0, path, ctypes.byref(length)):
        return []
    return [path.value]


def uptime() -> tuple[int, float]:
    return 0, 0.0


def runs(program: str) -> bool:
    return False


def adopts_orphans() -> bool:
    return False


def peer(connection: socket.socket) -> int:
    return 0


def process_space() -> int:
    with translating():
        return int(
            win32security.GetTokenInformation(
                win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32con.TOKEN_QUERY),
                win32security.TokenSessionId,
            )
        )


def await_end(pid: int, started: int) -> None:
    try:
        process = win32api.OpenProcess(_QUERY | win32con.SYNCHRONIZE, False, pid)
    except pywintypes.error:
        return
    if process_started(pid) == started:
        win32event.WaitForSingleObject(process, win32event.INFINITE)
