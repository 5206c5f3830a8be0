"""The number of threads that the numeric libraries of a worker may use.

A pool with as many workers as there are cores, each of which starts as many BLAS threads as there are cores,
is slower than one process. The number is limited in two ways:

- by environment variables, which a library reads once, when it is loaded. They are set in the worker before
  it imports anything;
- by threadpoolctl (extra ``threads``), for libraries that are loaded already, as NumPy's is in a worker that
  was forked. Without threadpoolctl, the fork server does not load NumPy in advance, so that the variables are
  in time; with start method fork, libraries that the parent has loaded keep their number.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["VARIABLES", "can_limit_loaded", "environment", "find_loaded", "limit"]

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

_LOADED = {  # by threadpoolctl's names of libraries; other libraries have the number of OpenMP
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
}
_OTHERS = "OMP_NUM_THREADS"

# In a fork server, and in its workers until they limit them: the libraries that it has loaded, as
# threadpoolctl controls them, and how many threads each had. Each worker would take 3 ms to find them.
_found: list[tuple[Any, int]] = []


def environment(threads: int | Mapping[str, int] | None) -> dict[str, str]:
    """Return the environment variables for ``threads_per_worker``; none for None.

    Raises
    ------
    ValueError
        A mapping has a variable that is none of `VARIABLES`.
    """
    if threads is None:
        return {}
    if not isinstance(threads, Mapping):
        threads = dict.fromkeys(VARIABLES, threads)
    for variable in threads:
        if variable not in VARIABLES:
            raise ValueError(
                f"threads_per_worker knows no variable {variable!r}, only {', '.join(VARIABLES)}"
            )
    return {variable: str(count) for variable, count in threads.items()}


def can_limit_loaded() -> bool:
    """Return whether libraries that are loaded already can be limited."""
    return importlib.util.find_spec("threadpoolctl") is not None


def find_loaded() -> None:
    """Find the libraries that a fork server has loaded, and let each of them have one thread.

    A forked process has this number, but no threads. OpenBLAS starts them anew when the number is set there,
    and they look for work for 0.1 s, on processors that other workers need.
    """
    with contextlib.suppress(Exception):  # each worker tries again, and reports
        _found[:] = [(library, library.num_threads) for library in _loaded_libraries()]
        for library, _ in _found:
            _set_number(library, 1)


def _set_number(library: Any, count: int) -> None:
    if library.num_threads != count:
        library.set_num_threads(count)


def _loaded_libraries() -> Sequence[Any]:
    if not can_limit_loaded():
        return ()
    import threadpoolctl  # optional: the extra 'threads'

    found: Sequence[Any] = threadpoolctl.ThreadpoolController().lib_controllers
    return found


def limit(variables: Mapping[str, str]) -> None:
    """Limit the libraries of this process, loaded or not, by the variables that `environment` returned.

    Those that none of these variables is for get back the threads that they had when they were loaded.
    """
    os.environ.update(variables)
    found = _found or [(library, 0) for library in _loaded_libraries()] if variables else _found
    for library, count in found:
        limited = variables.get(_LOADED.get(library.internal_api, _OTHERS))
        if limited or count:
            _set_number(library, int(limited or count))
    _found.clear()  # tasks may load more, which a pool of this worker would have to find
