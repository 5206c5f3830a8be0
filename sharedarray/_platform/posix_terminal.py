"""A terminal of POSIX, for a program that draws on it and reads every key."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator

from sharedarray._platform.descriptors import opened

_ESCAPE_WAIT = 0.05  # seconds in which what belongs to a key that sends several bytes has come


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[float], str | None]]:
    """Keep the contract's `terminal`. That the size is a new one comes as a signal, which ends the wait."""
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    wake, woken = opened(os.pipe)
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    previous_handler = signal.signal(signal.SIGWINCH, lambda *_: None)  # so that the signal is written
    previous = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    def typed(seconds: float) -> str | None:
        ready, _, _ = select.select([handle, wake], [], [], seconds)
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 1024)
        if handle not in ready:
            return ""
        try:
            data = os.read(handle, 1024)
        except OSError:
            data = b""
        if not data:
            return None
        if data == b"\x1b" and select.select([handle], [], [], _ESCAPE_WAIT)[0]:
            data += os.read(handle, 1024)
        return data.decode(errors="replace")

    try:
        tty.setcbreak(handle)
        yield typed
    finally:
        termios.tcsetattr(handle, termios.TCSAFLUSH, before)
        signal.set_wakeup_fd(previous)
        signal.signal(signal.SIGWINCH, previous_handler)
        os.close(wake)
        os.close(woken)
