"""The processor time of processes, read from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from sharedarray._bench import memory


def why_not() -> str | None:
    """Return why processor time cannot be measured here; None if it can."""
    if not os.path.exists("/proc/self/schedstat"):
        return "this system does not tell the processor time of processes in nanoseconds"
    return memory.why_not()  # which looks up the descendants of a process


def seconds(pids: Iterable[int]) -> float:
    """Return the seconds that all threads of these processes were on a processor.

    The first number of ``schedstat`` counts nanoseconds. ``stat`` would count ticks of 10 ms, and an idle
    pool uses less than one of them in a second.
    """
    nanoseconds = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # the process has ended
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):  # the thread has ended
                    text = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text()
                    nanoseconds += int(text.split()[0])
    return nanoseconds / 1e9
