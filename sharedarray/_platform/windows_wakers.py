"""Wakers on Windows: named events, and the processes of their owners.

A waker is an event that stays set until its owner resets it; its name is made from the waker's path. The
kernel keeps an event for as long as any process has it open, so it tells nothing of its owner's end. A
process that waits for another one waits for the handle of that process as well, which is signalled when the
process has ended, however it did. There are no forks, and no descriptors for event loops.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NoReturn

import pywintypes
import win32api
import win32con
import win32event

from sharedarray import _errors as errors
from sharedarray._clock import time

__all__ = [
    "close_waker",
    "drain",
    "make_maker",
    "open_waker",
    "remove_unused_waker",
    "wait_for_wakers",
    "wake",
    "watch",
]

_FIRST = 1 << 40  # above the numbers of sections
_SLICE = 0.05  # seconds of one wait of the kernel's, which Ctrl-C does not break off
_EVENT_MODIFY_STATE = 0x0002  # <winnt.h>

_numbers = itertools.count(_FIRST)
_events: dict[int, Any] = {}
_owners: dict[int, Any] = {}  # by the number of another process's waker, a handle of that process


def _name(path: str) -> str:
    place = os.path.normcase(os.path.abspath(path)).encode()
    return f"sharedarray.waker.{blake2b(place, digest_size=16).hexdigest()}"


def make_maker(private: Callable[[], Any]) -> Callable[[str], int]:
    """Return `make_waker`, whose events have the access list that a function returns."""

    def make_waker(path: str) -> int:
        number = next(_numbers)
        event = win32event.CreateEvent(private(), True, False, _name(path))
        win32event.ResetEvent(event)  # what was meant for an owner that has ended
        _events[number] = event
        return number

    return make_waker


def _has_ended(process: Any) -> bool:
    return bool(win32event.WaitForSingleObject(process, 0) == win32event.WAIT_OBJECT_0)


def open_waker(path: str, pid: int) -> int | None:
    if pid <= 0:
        return None
    try:
        process = win32api.OpenProcess(win32con.SYNCHRONIZE, False, pid)
        if _has_ended(process):
            return None
        event = win32event.OpenEvent(_EVENT_MODIFY_STATE | win32con.SYNCHRONIZE, False, _name(path))
    except pywintypes.error:
        return None
    number = next(_numbers)
    _events[number], _owners[number] = event, process
    return number


def wake(waker: int) -> bool:
    owner = _owners.get(waker)
    if owner is not None and _has_ended(owner):
        return False
    win32event.SetEvent(_events[waker])
    return True


def drain(waker: int) -> None:
    win32event.ResetEvent(_events[waker])


def close_waker(waker: int, path: str | None = None) -> None:
    for table in (_events, _owners):
        handle = table.pop(waker, None)
        if handle is not None:
            handle.Close()


def wait_for_wakers(own: int, others: Sequence[int], seconds: float | None) -> tuple[bool, bool]:
    handles = [_events[own], *(_owners[other] for other in others)]
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        remaining = _SLICE if end is None else max(0.0, min(_SLICE, end - time.monotonic()))
        found = win32event.WaitForMultipleObjects(handles, False, int(remaining * 1000 + 0.999))
        number = found - win32event.WAIT_OBJECT_0
        if 0 <= number < len(handles):
            return number == 0, number > 0
        if end is not None and time.monotonic() >= end:
            return False, False


def watch() -> NoReturn:
    raise errors.UnsupportedError(
        "a stream has no descriptor on Windows",
        found="events, for which no selector can wait",
        expected="a POSIX system",
        next_step="sharedarray.wait([...]) waits for several streams, and aget() in asyncio",
    )


def remove_unused_waker(path: str) -> bool:
    return False  # the kernel removes an event with its last handle
