"""Names that other pools have and this one has not: the errors say what to write instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from sharedarray._executor.arguments import likely_keyword

__all__ = [
    "BLOCK_KEYWORDS",
    "MAP_KEYWORDS",
    "METHODS",
    "POOL_KEYWORDS",
    "explains_keywords",
]

P = ParamSpec("P")
R = TypeVar("R")

# Methods of multiprocessing.Pool, mpire, pathos and Dask's client, and what to write in their place.
METHODS: Final = {
    "amap": "write pool.map(func, iterable), which returns at once",
    "apply": "write pool.submit(func, *args, **kwds).result()",
    "apply_async": "write pool.submit(func, *args, **kwds), and call result() of the future that it returns; "
    "a callback is given to its add_done_callback()",
    "as_completed": "write concurrent.futures.as_completed(futures)",
    "close": "leave the with block of the pool, or write pool.shutdown(wait=False)",
    "gather": "call result() of each future",
    "get_insights": "write pool.stats() and pool.timeline()",
    "imap": "write pool.map(func, iterable), which yields the results in order as they come; "
    "buffersize=100 keeps it from consuming the iterable far ahead",
    "join": "leave the with block of the pool, or write pool.shutdown(), which waits for all calls",
    "map_async": "write pool.map(func, iterable), which returns at once; list() of it waits for the results",
    "map_unordered": "write list(pool.imap_unordered(func, iterable))",
    "print_insights": "write pool.stats() and pool.timeline()",
    "scatter": "write sharedarray.share(array), and pass that to the calls",
    "set_shared_objects": "write sharedarray.share(array), and pass that to the calls",
    "starmap_async": "write pool.starmap(func, iterable), which returns at once; list() of it waits for the "
    "results",
    "starmap_unordered": "write pool.imap_unordered(lambda pair: func(*pair), pairs)",
    "stop_and_join": "leave the with block of the pool, or write pool.shutdown(), which waits for all calls",
    "terminate": "write pool.kill_workers(), which ends running calls as well",
    "uimap": "write pool.imap_unordered(func, iterable)",
}

_MAX_WORKERS = "write max_workers={value}"
_SHARED = "leave it out: large arrays always travel through shared memory"
_PROCESSES = "leave it out: workers are processes; for threads use concurrent.futures.ThreadPoolExecutor"
# Arguments of other pools, and what to write in their place.
POOL_KEYWORDS: Final = {
    "backend": "write mp_context='forkserver', 'spawn' or 'fork', or leave it out",
    "backend_kwargs": "leave it out: a pool takes its settings as arguments",
    "batch_size": "leave it out: calls are sent in batches that fit their duration",
    "chunksize": "leave it out: calls are sent in batches that fit their duration",
    "context": "write mp_context={value}",
    "cores": _MAX_WORKERS,
    "cpu_ids": "set the affinity in the initializer, with os.sched_setaffinity",
    "daemon": "leave it out: workers always end with their parent, and may have children",
    "enable_insights": "leave it out: pool.stats() and pool.timeline() are always there",
    "keep_alive": "leave it out: workers wait for calls until pool.shutdown()",
    "max_nbytes": _SHARED,
    "max_tasks": "write max_tasks_per_child={value}",
    "maxtasksperchild": "write max_tasks_per_child={value}",
    "mmap_mode": _SHARED,
    "n_jobs": _MAX_WORKERS,
    "n_processes": _MAX_WORKERS,
    "n_workers": _MAX_WORKERS,
    "nb_workers": _MAX_WORKERS,
    "ncores": _MAX_WORKERS,
    "ncpus": _MAX_WORKERS,
    "nodes": _MAX_WORKERS,
    "nproc": _MAX_WORKERS,
    "nprocs": _MAX_WORKERS,
    "num_cpus": _MAX_WORKERS,
    "num_processes": _MAX_WORKERS,
    "num_workers": _MAX_WORKERS,
    "order_tasks": "leave it out: calls go to the workers in the order in which they are made",
    "pass_worker_id": "leave it out: in a worker, multiprocessing.current_process().name has its number",
    "pre_dispatch": "leave it out, and give buffersize to pool.map",
    "prefer": _PROCESSES,
    "processes": _MAX_WORKERS,
    "require": _PROCESSES,
    "return_as": "leave it out: pool.map yields results in order, pool.imap_unordered as they come",
    "shared_objects": "share arrays with sharedarray.share, and pass them to the calls like other arguments",
    "start_method": "write mp_context={value}",
    "temp_folder": _SHARED,
    "thread_name_prefix": _PROCESSES,
    "timeout": "write pool.options(timeout={value}), for the time of each call",
    "use_dill": "leave it out: lambdas and functions of scripts and notebooks can be sent",
    "use_worker_state": "leave it out: tasks see the globals that the initializer sets",
    "verbose": "leave it out, and give progress=True to pool.map",
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
# Arguments of Dask's and joblib's calls on blocks, and what to write instead.
BLOCK_KEYWORDS: Final = {
    "chunk_size": "write block_size={value}",
    "chunks": "write block_size={value}",
    "chunksize": "write block_size={value}",
    "depth": "write overlap={value}",
    "n_jobs": "leave it out: the pool has its workers, and all of them take blocks",
    "return_exceptions": "leave it out: all blocks are needed for the result",
}


def explains_keywords(cures: dict[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the function's `TypeError` for keywords of other pools says what to write.

    Parameters
    ----------
    cures
        What to write, by keyword; ``{value}`` stands for the value that was given.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        takes_others = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
        needed = sum(
            each.default is inspect.Parameter.empty and each.kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD
            for each in parameters
        )

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name in cures:
                    raise _unexpected(_shown(function, args), name, kwargs[name], cures[name])
                if not takes_others and name not in signature.parameters:
                    raise _unknown(function, _shown(function, args), name)
            if len(args) + len(kwargs) < needed:
                raise _missing(_shown(function, args), signature, args, kwargs)
            return function(*args, **kwargs)

        return checked

    return decorate


def _shown(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return the name of a pool's method, as users know it; `args` begins with the pool."""
    kind = type(args[0]).__name__
    return kind if function.__name__ == "__init__" else f"{kind}.{function.__name__}"


def _unknown(function: Callable[..., Any], shown: str, name: str) -> TypeError:
    meant = likely_keyword(function, name)
    cure = f". Next step: did you mean {meant!r}?" if meant else ""
    return TypeError(f"{shown}() got an unexpected keyword argument {name!r}{cure}")


def _missing(shown: str, signature: inspect.Signature, args: Any, kwargs: Any) -> TypeError:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return TypeError(f"{shown}() is {error}")
    raise AssertionError("all arguments are there")


def _unexpected(method: str, name: str, value: object, cure: str) -> TypeError:
    shown: object = value
    if "max_workers" in cure and type(value) is int and value < 1:  # joblib counts from the end
        cure = "leave it out: a pool has as many workers as there are processors"
    elif callable(value):
        shown = getattr(value, "__name__", "func")
    else:
        shown = repr(value)
    cure = cure.format(value=shown)
    return TypeError(f"{method}() got an unexpected keyword argument {name!r}. Next step: {cure}")
