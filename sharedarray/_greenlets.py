"""Programs in which gevent or eventlet has replaced threads, locks and waits.

With gevent, the pool's thread is a greenlet, and waits in the program's event loop, so other greenlets run
meanwhile. Workers are processes without gevent. A fork of such a program would be one more event loop, whose
greenlets do not run while a task does; so the start method fork is refused. eventlet takes away the calls by
which a thread waits for several pipes, so there a pool is refused altogether.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from sharedarray import _errors as errors

__all__ = ["check", "check_sockets", "original", "real_threads", "start_thread", "waits"]


def waits() -> bool:
    """Return whether gevent has replaced the calls that wait for descriptors."""
    return _has_patched("gevent.monkey", "is_module_patched", "select")


def original(module: str, name: str) -> Any:
    """Return what gevent has replaced or removed; None if gevent did not."""
    patches = sys.modules.get("gevent.monkey")
    try:
        return None if patches is None else patches.get_original(module, name)
    except AttributeError:
        return None


def real_threads() -> bool:
    """Return whether threads are the system's, and run while the program waits for anything."""
    return not (
        _has_patched("gevent.monkey", "is_module_patched", "threading")
        or _has_patched("eventlet.patcher", "is_monkey_patched", "thread")
    )


def start_thread(function: Callable[..., object], *args: object) -> None:
    """Start a real thread that takes no signal, though gevent may have replaced threads.

    Raises
    ------
    RuntimeError
        There can be no more threads.
    """
    import _thread

    start = original("_thread", "start_new_thread") or _thread.start_new_thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        start(function, args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check(method: str) -> None:
    """Refuse what cannot work in a program that gevent or eventlet has patched.

    Raises
    ------
    UnsupportedError
        Workers of this start method, or all, cannot work here.
    """
    if any(_has_patched("eventlet.patcher", "is_monkey_patched", part) for part in ("select", "thread")):
        raise errors.UnsupportedError(
            "a pool cannot work in a program that eventlet has monkey-patched",
            cause="eventlet.monkey_patch() has taken away the calls by which a thread waits for workers",
            next_step="call eventlet.monkey_patch(select=False, thread=False), or use a pool in a process "
            "without eventlet",
        )
    if method == "fork" and any(
        _has_patched("gevent.monkey", "is_module_patched", part) for part in ("select", "threading")
    ):
        raise errors.UnsupportedError(
            "workers cannot be forked from a program that gevent has monkey-patched",
            cause="gevent's patch_all() lets threads of a worker run only while no task does",
            next_step="use mp_context='forkserver' or 'spawn'; their workers do without gevent",
        )


def check_sockets() -> None:
    """Refuse what reads from sockets by the calls of multiprocessing, which no patched socket waits for.

    Raises
    ------
    UnsupportedError
        gevent or eventlet has replaced sockets.
    """
    for package, patches, question in (
        ("gevent", "gevent.monkey", "is_module_patched"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched"),
    ):
        if _has_patched(patches, question, "socket"):
            raise errors.UnsupportedError(
                f"a manager cannot work in a program that {package} has monkey-patched",
                cause=f"multiprocessing's managers need sockets that wait, and {package} has replaced them",
                next_step="leave sockets out of the patches (socket=False), use a manager in a process "
                f"without {package}, or make arrays by name with sharedarray.share()",
            )


def _has_patched(patches: str, question: str, part: str) -> bool:
    ask = getattr(sys.modules.get(patches), question, None)
    return ask is not None and bool(ask(part))
