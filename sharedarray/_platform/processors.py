"""The number of processors that this process may use, as far as Python itself knows."""

from __future__ import annotations

import os

__all__ = ["processors"]


def processors() -> int:
    """Return the number of processors in this process's affinity, or the number that the user set.

    The user sets it by ``-X cpu_count`` or ``PYTHON_CPU_COUNT``, from Python 3.13 on.
    """
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
