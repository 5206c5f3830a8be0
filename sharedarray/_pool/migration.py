"""Names that other pools have and this one has not: the errors say what to write instead."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

__all__ = ["MAP_KEYWORDS", "METHODS", "POOL_KEYWORDS", "explains_keywords", "no_attribute"]

P = ParamSpec("P")
R = TypeVar("R")

# Methods of multiprocessing.Pool, mpire and pathos, and what to write in their place.
METHODS: Final = {
    "amap": "write pool.map(func, iterable), which returns at once",
    "apply": "write pool.submit(func, *args, **kwds).result()",
    "apply_async": "write pool.submit(func, *args, **kwds), and call result() of the future that it returns; "
    "a callback is given to its add_done_callback()",
    "close": "leave the with block of the pool, or write pool.shutdown(wait=False)",
    "imap": "write pool.map(func, iterable), which yields the results in order as they come; "
    "buffersize=100 keeps it from consuming the iterable far ahead",
    "join": "leave the with block of the pool, or write pool.shutdown(), which waits for all calls",
    "map_async": "write pool.map(func, iterable), which returns at once; list() of it waits for the results",
    "map_unordered": "write list(pool.imap_unordered(func, iterable))",
    "starmap_async": "write pool.starmap(func, iterable), which returns at once; list() of it waits for the "
    "results",
    "stop_and_join": "leave the with block of the pool, or write pool.shutdown(), which waits for all calls",
    "terminate": "write pool.kill_workers(), which ends running calls as well",
    "uimap": "write pool.imap_unordered(func, iterable)",
}

_MAX_WORKERS = "write max_workers={value}"
# Arguments of other pools, and what to write in their place.
POOL_KEYWORDS: Final = {
    "backend": "write mp_context='forkserver', 'spawn' or 'fork', or leave it out",
    "batch_size": "leave it out: calls are sent in batches that fit their duration",
    "context": "write mp_context={value}",
    "cpu_ids": "set the affinity in the initializer, with os.sched_setaffinity",
    "daemon": "leave it out: workers always end with their parent, and may have children",
    "max_tasks": "write max_tasks_per_child={value}",
    "maxtasksperchild": "write max_tasks_per_child={value}",
    "n_jobs": _MAX_WORKERS,
    "n_workers": _MAX_WORKERS,
    "nb_workers": _MAX_WORKERS,
    "ncpus": _MAX_WORKERS,
    "nodes": _MAX_WORKERS,
    "nprocs": _MAX_WORKERS,
    "num_processes": _MAX_WORKERS,
    "num_workers": _MAX_WORKERS,
    "pre_dispatch": "leave it out, and give buffersize to pool.map",
    "processes": _MAX_WORKERS,
    "shared_objects": "share arrays with sharedarray.share, and pass them to the calls like other arguments",
    "start_method": "write mp_context={value}",
    "timeout": "write pool.options(timeout={value}), for the time of each call",
    "worker_lifespan": "write max_tasks_per_child={value}",
    "workers": _MAX_WORKERS,
}
MAP_KEYWORDS: Final = {
    "callback": "iterate over the results, or use pool.submit(...).add_done_callback({value})",
    "chunk_size": "leave it out: calls are sent in batches that fit their duration",
    "error_callback": "write return_exceptions=True, which yields exceptions like results",
    "iterable_len": "write progress={{'total': {value}}}",
    "max_tasks_active": "write buffersize={value}",
    "n_splits": "leave it out: calls are sent in batches that fit their duration",
    "progress_bar": "write progress={value}",
    "task_timeout": "write pool.options(timeout={value}).map(...), for the time of each call",
    "worker_init": "give initializer to the pool",
}


def no_attribute(obj: object, name: str) -> AttributeError:
    """Return the error for an attribute that a pool has not."""
    kind = type(obj).__name__
    if name in METHODS:
        return AttributeError(f"{kind} has no method {name!r}. Next step: {METHODS[name]}")
    return AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=obj)


def explains_keywords(cures: dict[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the function's `TypeError` for keywords of other pools says what to write.

    Parameters
    ----------
    cures
        What to write, by keyword; ``{value}`` stands for the value that was given.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name in cures:
                    raise _unexpected(function, name, kwargs[name], cures[name])
            return function(*args, **kwargs)

        return checked

    return decorate


def _unexpected(function: Callable[..., Any], name: str, value: object, cure: str) -> TypeError:
    called = function.__qualname__.removesuffix(".__init__").replace("Maps.", "Pool.")
    shown: object = value
    if "max_workers" in cure and type(value) is int and value < 1:  # joblib counts from the end
        cure = "leave it out: a pool has as many workers as there are processors"
    elif callable(value):
        shown = getattr(value, "__name__", "func")
    else:
        shown = repr(value)
    return TypeError(
        f"{called}() got an unexpected keyword argument {name!r}. Next step: {cure.format(value=shown)}"
    )
