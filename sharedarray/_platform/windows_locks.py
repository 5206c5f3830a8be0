"""Windows: locks on bytes of files. Waiting for one means to try again after a pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pywintypes
import win32con
import win32file
import winerror

from sharedarray._clock import time
from sharedarray._platform.windows_kernel import msvcrt, os_error

FIRST_PAUSE, LAST_PAUSE = 0.0002, 0.001  # seconds between two tries for a lock


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _overlapped(at: int) -> Any:
    """Return the structure by which Windows is told a position in a file."""
    position = pywintypes.OVERLAPPED()
    position.Offset = at & 0xFFFFFFFF
    position.OffsetHigh = at >> 32
    return position


_BUSY = (winerror.ERROR_LOCK_VIOLATION, winerror.ERROR_IO_PENDING, winerror.ERROR_SHARING_VIOLATION)


def lock_at(handle: int, at: int, length: int, *, shared: bool) -> bool:
    """Lock exactly these bytes if no other handle has locked them; return whether it was done."""
    how = win32con.LOCKFILE_FAIL_IMMEDIATELY | (0 if shared else win32con.LOCKFILE_EXCLUSIVE_LOCK)
    file = msvcrt.get_osfhandle(handle)
    try:
        win32file.LockFileEx(file, how, _signed(length & 0xFFFFFFFF), _signed(length >> 32), _overlapped(at))
    except pywintypes.error as error:
        if error.winerror in _BUSY:
            return False
        code = error.winerror
    else:
        return True
    raise os_error(code)


def unlock_at(handle: int, at: int, length: int) -> bool:
    """Unlock exactly these bytes; return whether they were locked by this handle."""
    file = msvcrt.get_osfhandle(handle)
    try:
        win32file.UnlockFileEx(file, _signed(length & 0xFFFFFFFF), _signed(length >> 32), _overlapped(at))
    except pywintypes.error as error:
        # Windows reports by the first that there is no such lock, and Wine by the second.
        if error.winerror in (winerror.ERROR_NOT_LOCKED, winerror.ERROR_LOCK_VIOLATION):
            return False
        code = error.winerror
    else:
        return True
    raise os_error(code)


def wait_until_done(done: Callable[[], bool]) -> None:
    """Call a function again and again until it returns true. Ctrl-C ends the waiting."""
    pause = FIRST_PAUSE
    while not done():
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)
