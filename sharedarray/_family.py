"""The process that keeps a block for those who have closed it, as CPython's resource tracker does.

CPython's blocks stay until `unlink`, closed or not, in whichever process they were made: a worker may make
one, close it, say its name and end. What was not unlinked goes with the last process of the *family*, those
that multiprocessing has started from one another, because they share a resource tracker. Code that was
written for this gets the same here, without a tracker. A block's record names the process at the head of its
maker's family as the block's keeper (see `sharedarray._registry`), and so it stays while either of the two
lives::

    head ── starts ──▶ child ── starts ──▶ grandchild
     ▲                   │                    │ makes a block, closes it, ends
     └── keeper of ──────┴────────────────────┘

Who the head is travels in the configuration that multiprocessing hands down to the processes that it starts.
Where nothing has come down, it is the process that started this one, and for a process that multiprocessing
has not started, the process itself.

When the head ends, its children have been joined already, and blocks without holders go at once; those of a
head that is killed are the janitor's.
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing import process, util
from typing import Any

from sharedarray import _registry as registry
from sharedarray._platform import platform

__all__ = ["head", "keeper", "settle_at_exit"]

_KEY = "sharedarray.head"  # in multiprocessing's configuration of a process
_LATE = -100  # a finalizer's priority: after multiprocessing has joined the children

# What is to be settled when this process, by its pid, ends: directories of blocks that it keeps.
_settling: tuple[int, set[str]] = (0, set())


def head() -> registry.Process:
    """The process at the head of this one's family; this process where it has outlived that one."""
    me = registry.me()
    configuration: dict[str, Any] = getattr(process.current_process(), "_config", {})
    found: registry.Process | None = configuration.get(_KEY) or _parent()
    if found is None or (found != me and not registry.alive(*found)):
        found = me
    configuration[_KEY] = found
    return found


def keeper() -> registry.Process | None:
    """The process that keeps this one's blocks; None if the system itself frees blocks without holders."""
    return head() if platform.RECORDS_DECIDE else None


def _parent() -> registry.Process | None:
    parent = process.parent_process()
    if parent is None or parent.pid is None:
        return None
    started = platform.process_started(parent.pid)
    return None if started is None else (parent.pid, started)


def settle_at_exit(directory: str) -> None:
    """Have the blocks in a directory that this process keeps go when it ends."""
    global _settling
    pid = os.getpid()
    if _settling[0] != pid:
        _settling = pid, set()
        util.Finalize(None, _settle, exitpriority=_LATE)
    _settling[1].add(directory)


def _settle() -> None:
    registry.retire()
    for directory in _settling[1]:
        with contextlib.suppress(OSError):  # the registry is not ours any more, or not readable
            registry.sweep_kept(directory)
