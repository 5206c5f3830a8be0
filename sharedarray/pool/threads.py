"""How many threads the numeric libraries of a worker may use.

A pool with as many workers as there are cores, each of which starts as many BLAS threads as there are cores,
is slower than one process. Two measures, for libraries are asked at two times:

- environment variables, which a library reads once, when it is loaded. They are set in the worker before
  anything else happens there: what is imported later finds them;
- threadpoolctl (extra ``threads``), for libraries that are loaded already, as NumPy's is in a worker that was
  forked. Without it, the fork server does not load NumPy in advance, so that the variables are in time; in
  a worker of start method fork, what the parent had loaded then stays as it is.
"""

from __future__ import annotations

import importlib.util
import os

__all__ = ["can_limit_loaded", "environment", "limit"]

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def environment(threads: int | None) -> dict[str, str]:
    """Return the variables that limit libraries which are not loaded yet; none for None."""
    return {} if threads is None else dict.fromkeys(_VARIABLES, str(threads))


def can_limit_loaded() -> bool:
    """Say whether libraries that are loaded already can be limited."""
    return importlib.util.find_spec("threadpoolctl") is not None


def limit(threads: int | None) -> None:
    """Limit this process, now and for what it loads later; None leaves everything alone."""
    if threads is None:
        return
    os.environ.update(environment(threads))
    if can_limit_loaded():
        import threadpoolctl  # optional: the extra 'threads'

        threadpoolctl.threadpool_limits(limits=threads)
