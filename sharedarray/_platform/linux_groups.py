"""Linux: processors and memory, as the machine and the control groups of this process limit them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from sharedarray._clock import time
from sharedarray._platform.linux_processes import contents_of
from sharedarray._platform.processors import affinity, processors as permitted


def processors() -> int:
    """Return the number of processors that the affinity and the quotas of all control groups allow.

    A quota of 1.5 processors counts as 2. A number that the user has set by ``-X cpu_count`` is not changed.
    """
    count = permitted()
    if count != affinity():
        return count
    found = (_quota(*group) for group in _control_groups("cpu"))
    return max(1, min([count, *(math.ceil(quota) for quota in found if quota is not None)]))


def _quota(version: int, folder: str) -> float | None:
    """Return the processors that a control group may use; None if it has no limit, or is missing."""
    if version == 2:
        words = (contents_of(f"{folder}/cpu.max") or b"").split()
    else:
        words = [(contents_of(f"{folder}/cpu.cfs_{name}_us") or b"").strip() for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None  # without a limit, the file has "max" (version 2) or -1 (version 1)
    return int(words[0]) / int(words[1])


# -- free memory ----------------------------------------------------------------------------------------

_CGROUP_REFRESH = 5.0  # seconds after which the list of limited control groups is read again
_NO_LIMIT = 1 << 60  # bytes; cgroup v1 says "unlimited" with a number near 2**63
_limited: tuple[float, list[tuple[str, str, str]]] = (float("-inf"), [])


def free_bytes(directory: str, *, memory: bool) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def free_memory() -> int | None:
    """Return the available memory of the machine, or less if a control group of this process allows less."""
    found = []
    for line in (contents_of("/proc/meminfo") or b"").splitlines():
        if line.startswith(b"MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
        elif line.startswith(b"SwapFree:") and found:
            found[0] += int(line.split()[1]) * 1024
            break
    for limit, usage, statistics in _limited_groups():
        allowed, used = _number(limit), _number(usage)
        if allowed is not None and used is not None:
            found.append(max(0, allowed - used + _reclaimable(statistics)))
    return min(found) if found else None


def _limited_groups() -> list[tuple[str, str, str]]:
    """Return the files (limit, usage, statistics) of those control groups that have a memory limit."""
    global _limited
    looked, groups = _limited
    if time.monotonic() - looked > _CGROUP_REFRESH:
        groups = [group for group in _groups() if _number(group[0]) is not None]
        _limited = (time.monotonic(), groups)
    return groups


def _groups() -> list[tuple[str, str, str]]:
    """Return the files of each memory control group from this process's to the root, of both versions."""
    groups = []
    for version, folder in _control_groups("memory"):
        files = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        limit, usage = (f"{folder}/memory.{file}" for file in files)
        groups.append((limit, usage, f"{folder}/memory.stat"))
    return groups


def _control_groups(controller: str) -> Iterator[tuple[int, str]]:
    """Yield version and directory of each control group from this process's to the root (``cgroups(7)``)."""
    for line in (contents_of("/proc/self/cgroup") or b"").decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, roots = 2, ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            names = dict.fromkeys((controller, controllers))
            version, roots = 1, [f"/sys/fs/cgroup/{name}" for name in names]
        else:
            continue
        steps = [step for step in path.split("/") if step not in ("", "..")]
        for root in roots:
            for depth in range(len(steps), -1, -1):
                yield version, "/".join([root, *steps[:depth]])


def _number(path: str) -> int | None:
    """Return the number in a control file; None if it says that there is no limit, or is missing."""
    text = (contents_of(path) or b"").strip()
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _reclaimable(path: str) -> int:
    """Return the bytes of page cache that the kernel frees before it kills a process of the group."""
    keys = (b"inactive_file", b"active_file", b"total_inactive_file", b"total_active_file")
    found = {}
    for line in (contents_of(path) or b"").splitlines():
        key, _, value = line.partition(b" ")
        if key in keys:
            found[key] = int(value)
    total = [value for key, value in found.items() if key.startswith(b"total_")]
    return sum(total) if total else sum(found.values())
