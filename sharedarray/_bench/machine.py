"""Facts about the machine for readers of figures: its kind, memory and versions, but not its owner."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sharedarray import _registry as registry
from sharedarray._platform import platform as system

PACKAGES = (
    "numpy",
    "numpy-sharedarray",
    "joblib",
    "loky",
    "mpire",
    "distributed",
    "ray",
    "torch",
    "SharedArray",
    "fastshare",
    "shared-ndarray2",
    "portalocker",
    "filelock",
)


def described() -> dict[str, Any]:
    """Return the machine, its versions and the moment, for a stored result."""
    return {
        "processor": processor(),
        "processors": processors(),
        "memory": system.memory(),
        "memory files": system.capacity(registry.directory()),
        "system": " ".join(platform.platform().split("-")[:2]),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def sentence(described: Mapping[str, Any]) -> str:
    """Return the same in one sentence."""
    packages = described["packages"]
    return (
        f"{described['processors']} processors ({described['processor']}), "
        f"{human(described['memory'])} of memory, {described['system']}, "
        f"Python {described['python']}, NumPy {packages.get('numpy', '?')}, {described['date']}"
    )


def processors() -> int:
    """Return processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def human(size: int) -> str:
    """Return bytes, as short as can be: ``96 B``, ``64 MiB``, ``1.5 GiB``."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.3g} {units[0]}" if amount < 1000 else f"{amount:.0f} {units[0]}"
