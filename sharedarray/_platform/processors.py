"""The number of processors that this process may use, as far as Python itself knows."""

from __future__ import annotations

import os

__all__ = ["affinity", "processors"]


def affinity() -> int:
    """Return the number of processors in this process's affinity; of the machine's if no call tells it."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # another system; a sandbox
        return os.cpu_count() or 1


def processors() -> int:
    """Return the number of processors in this process's affinity, or the number that the user set.

    The user sets it by ``-X cpu_count`` or ``PYTHON_CPU_COUNT``, from Python 3.13 on.
    """
    try:
        return getattr(os, "process_cpu_count", affinity)() or 1
    except OSError:
        return affinity()
