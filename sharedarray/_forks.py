"""The actions of the library's modules before and after each fork of this process, in one stated order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

__all__ = ["ORDER", "around"]

# Before a fork, the modules come in the reverse order: what takes locks of several modules takes those of the
# upper ones first, as in the rest of the library. After it they come in this order, in parent and child: a
# module finds those below it as they have to be.
ORDER = (
    "_sigint",  # the child has another main thread
    "_platform.descriptors",
    "_segment.mapping",  # the child gets leases of its own
    "_wakers",  # and is another party
    "_control_page",
    "_lock_holds",
    "_reference",
    "_streams.base",
    "integrations.joblib",
    "_pool.transport.slots",
    "_pool.transport.mappings",
    "_pool.processes.fork_server",
    "_pool.processes.worker_process",
    "_pool.lifecycle",
    "_pool.futures",
    "_pool.processes.group_signals",  # signals that come meanwhile wait from here, and until all else is done
    "_pool.worker.replies",
    "_pool.worker.main",
)


class _Hook(NamedTuple):
    before: Callable[[], object] | None
    in_parent: Callable[[], object] | None
    in_child: Callable[[], object] | None


_hooks: dict[str, list[_Hook]] = {module: [] for module in ORDER}


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
        Called in the parent before the fork, and after it in the parent and in the child. What one raises is
        reported by `sys.unraisablehook`, and keeps no other from being called.
    """
    _hooks[module.partition(".")[2]].append(_Hook(before, in_parent, in_child))


def _call(function: Callable[[], object] | None) -> None:
    if function is None:
        return
    try:
        function()
    except BaseException as error:
        sys.unraisablehook(
            SimpleNamespace(
                exc_type=type(error),
                exc_value=error,
                exc_traceback=error.__traceback__,
                err_msg="Exception ignored around a fork in",
                object=function,
            )
        )


def _before() -> None:
    for module in reversed(ORDER):
        for hook in reversed(_hooks[module]):
            _call(hook.before)


def _in_parent() -> None:
    for module in ORDER:
        for hook in _hooks[module]:
            _call(hook.in_parent)


def _in_child() -> None:
    for module in ORDER:
        for hook in _hooks[module]:
            _call(hook.in_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
