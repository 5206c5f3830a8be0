"""Windows: locks on bytes of files, tried from time to time until they are granted."""

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


def _place(at: int) -> Any:
    place = pywintypes.OVERLAPPED()
    place.Offset = at & 0xFFFFFFFF
    place.OffsetHigh = at >> 32
    return place


_BUSY = (winerror.ERROR_LOCK_VIOLATION, winerror.ERROR_IO_PENDING, winerror.ERROR_SHARING_VIOLATION)


def lock_at(handle: int, at: int, length: int, *, shared: bool) -> bool:
    """Lock these very bytes, without waiting."""
    how = win32con.LOCKFILE_FAIL_IMMEDIATELY | (0 if shared else win32con.LOCKFILE_EXCLUSIVE_LOCK)
    file = msvcrt.get_osfhandle(handle)
    try:
        win32file.LockFileEx(file, how, _signed(length & 0xFFFFFFFF), _signed(length >> 32), _place(at))
    except pywintypes.error as error:
        if error.winerror in _BUSY:
            return False
        code = error.winerror
    else:
        return True
    raise os_error(code)


def unlock_at(handle: int, at: int, length: int) -> bool:
    file = msvcrt.get_osfhandle(handle)
    try:
        win32file.UnlockFileEx(file, _signed(length & 0xFFFFFFFF), _signed(length >> 32), _place(at))
    except pywintypes.error as error:
        if error.winerror in (winerror.ERROR_NOT_LOCKED, winerror.ERROR_LOCK_VIOLATION):  # Wine's word for it
            return False
        code = error.winerror
    else:
        return True
    raise os_error(code)


def wait_until_done(done: Callable[[], bool]) -> None:
    """Try until it is done. Ctrl-C breaks it off."""
    pause = FIRST_PAUSE
    while not done():
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)
