"""The actions of the library's modules before and after each fork of this process, in one stated order.

A forked child has copies of all objects of its parent, and some of them may die before the child has called
the functions that tell the modules of the fork: Python drops what belongs to the parent's other threads, such
as the attributes of `threading.local`, and then calls the functions of modules that were loaded before. What
such an object gives up is the parent's: a lease, or a byte that says what the parent uses. So in this time:

- what a finalizer does is postponed (`postpone`) until the modules know of the fork;
- what a finalizer does without a step of Python is called by `caller`, which does not call it in the child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from operator import call
from typing import NamedTuple

__all__ = ["ORDER", "around", "caller", "parent", "postpone"]

# Before a fork, the modules come in the reverse order: what takes locks of several modules takes those of the
# upper ones first, as in the rest of the library. After it they come in this order, in parent and child: a
# module finds those below it as they have to be.
ORDER = (
    "_sigint",  # the child has another main thread
    "_platform.descriptors",
    "_segment.mapping",  # the child gets leases of its own
    "_wakers",  # and is another party
    "_made_once",
    "_control_page",
    "_lock_holds",
    "_arrivals",
    "_streams.party",
    "integrations.joblib",
    "_pool.transport.slots",
    "_pool.transport.mappings",
    "_pool.processes.fork_server",
    "_pool.processes.worker_process",
    "_pool.lifecycle",
    "_pool.futures",
    "_pool.worker.replies",
    "_pool.worker.main",
    "_pool.processes.group_signals",  # signals wait from before all else until after it
)


class _Hook(NamedTuple):
    before: Callable[[], object] | None
    in_parent: Callable[[], object] | None
    in_child: Callable[[], object] | None


_hooks: dict[str, list[_Hook]] = {module: [] for module in ORDER}

parent = 0
"""The process that forks, from right before that until the modules know of it; 0 at all other times."""

caller: list[Callable[..., object]] = [call]
"""The function that calls another one with arguments, unless this is a child that does not know that yet."""

_postponed: list[Callable[[], object]] = []


def around(
    module: str,
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
) -> None:
    """Register functions that are called around every fork of this process, if the system forks.

    Parameters
    ----------
    module
        The ``__name__`` of the module that asks, which stands in `ORDER`.
    before, in_parent, in_child
        Called in the parent before the fork, and after it in the parent and in the child. What one raises
        keeps no other from being called, nor the fork; Python reports the first exception of each moment.
    """
    _hooks[module.partition(".")[2]].append(_Hook(before, in_parent, in_child))


def postpone(function: Callable[[], object]) -> bool:
    """Call a function once the modules know of a fork; return False if they do now."""
    if not _is_new_child():
        return False
    _postponed.append(function)
    return True


def _is_new_child() -> bool:
    """Return whether this is a forked child in which the modules do not know that yet."""
    return parent not in (0, os.getpid())


def _call_in_parent(function: Callable[..., object], *args: object) -> None:
    if not _is_new_child():
        function(*args)


def _call_all(functions: Iterable[Callable[[], object] | None]) -> None:
    """Call each function; raise the first exception at the end, which Python reports before it goes on."""
    raised = None
    for function in functions:
        try:
            if function is not None:
                function()
        except BaseException as error:
            raised = raised or error
    if raised is not None:
        raise raised


def _before() -> None:
    global parent
    _call_all(hook.before for module in reversed(ORDER) for hook in reversed(_hooks[module]))
    # With the locks of the modules held, so that no other thread forks at the same time.
    parent = os.getpid()
    caller[0] = _call_in_parent


def _end_fork() -> None:
    global parent
    parent = 0
    caller[0] = call


def _in_parent() -> None:
    _end_fork()
    _call_all(hook.in_parent for module in ORDER for hook in _hooks[module])


def _in_child() -> None:
    try:
        _call_all(hook.in_child for module in ORDER for hook in _hooks[module])
    finally:
        _end_fork()
        later = _postponed[:]
        _postponed.clear()
        _call_all(later)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
