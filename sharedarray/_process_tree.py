"""The process that keeps closed blocks for a whole process tree, as CPython's resource tracker does.

CPython's blocks stay until `unlink`, whether they are closed or not, and whichever process made them. A
worker may make a block, close it, send its name and end. A block that was not unlinked is removed with the
last process of the *process tree*: the processes that multiprocessing has started from each other, which
share a resource tracker. Code that was written for this behaves the same here, without a tracker. A block's
record names the *leader* of its maker's process tree as the block's keeper (see `sharedarray._registry`). So
the block stays while the maker or the leader lives::

    leader ── starts ──▶ child ── starts ──▶ grandchild
     ▲                     │                    │ makes a block, closes it, ends
     └── keeper of ────────┴────────────────────┘

The leader's pid travels in the configuration that multiprocessing hands to the processes that it starts.
Without one, the leader is the process that started this one. A process that multiprocessing has not started
is its own leader.

When the leader ends, its children have been joined already, and it removes the blocks without holders at
once. The janitor removes those of a leader that was killed.
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing import process, util
from typing import Any

from sharedarray import _registry as registry
from sharedarray._platform import platform

__all__ = ["keeper", "leader", "settle_at_exit"]

_KEY = "sharedarray.leader"  # in multiprocessing's configuration of a process
_LATE = -100  # a finalizer's priority: after multiprocessing has joined the children

# By pid, the directories whose blocks a process keeps and removes when it ends. A forked child has its own.
_settling: dict[int, set[str]] = {}


def leader() -> registry.Process:
    """Return the leader of this process's tree; this process if the leader has ended."""
    me = registry.me()
    configuration: dict[str, Any] = getattr(process.current_process(), "_config", {})
    found: registry.Process | None = configuration.get(_KEY) or _parent()
    if found is None or (found != me and not registry.alive(*found)):
        found = me
    configuration[_KEY] = found
    return found


def keeper() -> registry.Process | None:
    """Return the process that keeps this one's blocks; None if the kernel frees blocks without holders."""
    return leader() if platform.RECORDS_DECIDE else None


def _parent() -> registry.Process | None:
    parent = process.parent_process()
    if parent is None or parent.pid is None:
        return None
    started = platform.process_started(parent.pid)
    return None if started is None else (parent.pid, started)


def settle_at_exit(directory: str) -> None:
    """Register a directory: the blocks in it that this process keeps are removed when it ends."""
    pid, made = os.getpid(), set[str]()
    directories = _settling.setdefault(pid, made)
    if directories is made:
        util.Finalize(None, _settle, exitpriority=_LATE)
    directories.add(directory)


def _settle() -> None:
    registry.retire()
    for directory in _settling[os.getpid()]:
        with contextlib.suppress(OSError):  # the registry is not ours any more, or not readable
            registry.sweep_kept(directory)
