"""A console of Windows, for a program that draws on it and reads every key.

Keys are read as the events that they are. A console says nothing of its size to who waits for keys, and its
wait is not broken off by Ctrl-C; so a wait is a row of short ones.

Since Windows 10, a console obeys escape sequences when it is asked to. One that says so and writes them onto
the screen instead, as Wine's does, is asked no more: who draws finds that in its mode.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pywintypes
import win32console
import win32event

from sharedarray._clock import time

_OBEY = 0x4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
_STEP = 50  # milliseconds of one wait
_HARMLESS = "\x1b[m"  # plain characters follow
_KEYS = {
    0x21: "\x1b[5~", 0x22: "\x1b[6~", 0x23: "\x1b[F", 0x24: "\x1b[H", 0x26: "\x1b[A", 0x28: "\x1b[B",
    0x2E: "\x1b[3~",
}  # fmt: skip


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[float], str | None]]:
    """Keep the contract's `terminal`."""
    keyboard = win32console.GetStdHandle(win32console.STD_INPUT_HANDLE)
    screen = win32console.GetStdHandle(win32console.STD_OUTPUT_HANDLE)
    before = screen.GetConsoleMode()
    size = os.get_terminal_size(sys.stdout.fileno())

    def typed(seconds: float) -> str | None:
        nonlocal size
        end = time.monotonic() + seconds
        while True:
            remaining = max(0.0, end - time.monotonic())
            try:
                win32event.WaitForSingleObject(keyboard, min(_STEP, round(remaining * 1000)))
                text = _read(keyboard)
                last, size = size, os.get_terminal_size(sys.stdout.fileno())
            except (pywintypes.error, OSError):
                return None
            if text or size != last or not remaining:
                return text

    try:
        _have_it_obey(screen, before)
        yield typed
    finally:
        with contextlib.suppress(pywintypes.error):  # it has gone
            screen.SetConsoleMode(before)


def _read(keyboard: Any) -> str:
    waiting = keyboard.GetNumberOfConsoleInputEvents()
    found = ""
    for event in keyboard.ReadConsoleInput(waiting) if waiting else ():
        if event.EventType == win32console.KEY_EVENT and event.KeyDown:
            found += _KEYS.get(event.VirtualKeyCode) or event.Char.strip("\0")
    return found


def _have_it_obey(screen: Any, before: int) -> None:
    at = screen.GetConsoleScreenBufferInfo()["CursorPosition"]
    try:
        screen.SetConsoleMode(before | _OBEY)
        screen.WriteConsole(_HARMLESS)
    except pywintypes.error:
        return  # of before Windows 10
    if screen.GetConsoleScreenBufferInfo()["CursorPosition"].X != at.X:
        screen.SetConsoleCursorPosition(at)
        screen.WriteConsole(" " * len(_HARMLESS))
        screen.SetConsoleCursorPosition(at)
        screen.SetConsoleMode(before)
