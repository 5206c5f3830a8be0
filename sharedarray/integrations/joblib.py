"""joblib's backend: ``joblib.parallel_config(backend="sharedarray")`` runs joblib and scikit-learn on `Pool`.

How the arrays in a batch of calls travel::

    shared arrays, views of them   ─▶ references: the same memory in the workers
    arrays of max_nbytes or more   ─▶ copied into shared memory, once for all batches of one Parallel call,
                                      and then references; as mmap_mode says, read-only by default
    maps of files                  ─▶ the file's name: mapped in the workers as well
    others                         ─▶ with the batch; from 24 KiB on in the pool's recycled memory
    results                        ─▶ as a pool's: large ones in recycled memory, shared ones as references

joblib's own backend, loky, does the same with arguments, but it writes, maps and removes files; and it
pickles results. If a worker returns an argument that came read-only, the caller gets a copy, as with loky.

Workers are started for a call. They are kept for the next call that has the same options, environment,
working directory and ``sys.path``, and end after `IDLE` seconds without such a call. If a call fails or is
broken off, its workers are killed, so that nothing of it goes on; calls in other threads have other workers.

The modules that scikit-learn's calls need are loaded once, in the fork server, and shared by all workers:
loky's workers load some 100 MB each.

Calls within a call get threads, and within these run one after the other, as joblib decides for its own
backends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import current_process, util
from typing import Any, TypeAlias

import numpy as np

from sharedarray import _errors as errors, _forks as forks
from sharedarray._executor.pool import Pool
from sharedarray._functions import CALL
from sharedarray._pool.processes.threads import VARIABLES
from sharedarray._thresholds import SHARED_ONCE_FROM
from sharedarray.integrations._joblib_arguments import SharedArguments, run_batch, unsendable_batch
from sharedarray.integrations._packing import pack

try:
    from joblib import cpu_count
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
    )
except ImportError as error:  # pragma: no cover  (without joblib there is no backend to choose)
    raise errors.MissingExtraError(
        "the backend for joblib needs joblib: pip install 'numpy-sharedarray[joblib]'", name="joblib"
    ) from error

__all__ = ["SharedArrayBackend", "end_idle_workers"]

IDLE = 300.0  # seconds that workers wait for another call; as long as loky's
_NESTED = 2  # levels of nesting from which on this backend starts no processes
_OPTIONS = ("initializer", "initargs", "max_tasks_per_child", "mp_context", "preload", "retries")
_FIRST = 10  # priority, among what multiprocessing does at a process's end, of ending the idle pool
_HEAVY = "sklearn"  # whose modules the fork server loads, if this process has
_Key: TypeAlias = tuple[Any, ...]


# -- workers between calls ------------------------------------------------------------------------------


class _IdlePool:
    """The pool that is kept for the next call, if there is one."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget the pool, in a forked child of the process that it belongs to."""
        self._lock = threading.Lock()
        self._pool: tuple[_Key, Pool] | None = None
        self._timer: threading.Timer | None = None
        self._ends = False

    def take(self, key: _Key, make: Callable[[], Pool]) -> Pool:
        """Return the pool that is kept if it was kept with this key, else a new one."""
        with self._lock:
            kept, self._pool = self._pool, None
            self._stop_timer()
        if kept is not None and kept[0] == key:
            return kept[1]
        if kept is not None:
            kept[1].shutdown(wait=False)
        return make()

    def keep(self, key: _Key, pool: Pool, seconds: float) -> None:
        """Keep a pool for the next call, and end it after this many seconds without one."""
        timer = threading.Timer(seconds, self.end, (pool,))
        timer.daemon = True
        timer.name = "sharedarray-joblib-idle"
        with self._lock:
            if not self._ends:
                # A child of multiprocessing waits for its children before it ends its threads: a worker would
                # wait for its own workers for ever.
                util.Finalize(None, self.end, kwargs={"wait": True}, exitpriority=_FIRST)
                self._ends = True
            before, self._pool = self._pool, (key, pool)
            self._stop_timer()
            self._timer = timer
            timer.start()
        if before is not None:
            before[1].shutdown(wait=False)

    def end(self, pool: Pool | None = None, *, wait: bool = False) -> None:
        """End the pool that is kept: any, or only if it is this one."""
        with self._lock:
            kept = self._pool
            if kept is None or (pool is not None and kept[1] is not pool):
                return
            self._pool = None
            self._stop_timer()
        kept[1].shutdown(wait=wait)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_preload: dict[bool, tuple[str, ...]] = {}


def _to_preload() -> tuple[str, ...]:
    """Return the modules that workers will need, as far as this process has them.

    It is decided once with scikit-learn and once without: each other answer would start another fork server.
    """
    heavy = _HEAVY in sys.modules
    if heavy not in _preload:
        names = [name for name in list(sys.modules) if _is_preloaded(name)]
        _preload[heavy] = (__name__, *sorted(names))
    return _preload[heavy]


def _is_preloaded(name: str) -> bool:
    """Return whether the fork server loads a module: one of scikit-learn's that is not made at run time."""
    found = getattr(sys.modules.get(name), "__spec__", None)
    is_importable = getattr(found, "name", None) == name
    return is_importable and name.startswith(f"{_HEAVY}.") and ".tests" not in name


def _inherited() -> _Key:
    """Return what workers inherit. Workers that have inherited something else are not used again."""
    # pytest changes this one before and after each test.
    environment = sorted((name, text) for name, text in os.environ.items() if name != "PYTEST_CURRENT_TEST")
    try:
        directory = os.getcwd()
    except OSError:  # it was removed
        directory = ""
    return tuple(environment), directory, tuple(sys.path)


_idle = _IdlePool()
forks.around(__name__, in_child=_idle.forget)


def end_idle_workers() -> None:
    """End the workers that wait for another call, now and not after some minutes, and wait for it.

    Examples
    --------
    >>> import joblib
    >>> from sharedarray.integrations.joblib import end_idle_workers
    >>> with joblib.parallel_config(backend="sharedarray", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(abs)(i) for i in (-1, -2))
    [1, 2]
    >>> end_idle_workers()
    """
    _idle.end(wait=True)


# -- the backend ----------------------------------------------------------------------------------------


class SharedArrayBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's calls on a `Pool`. Use it by its name: ``joblib.parallel_config(backend="sharedarray")``.

    Parameters
    ----------
    inner_max_num_threads : int, optional
        How many threads BLAS, OpenMP and the like may use in a worker; when None, as many as the environment
        says, else the processors divided by the workers.
    idle_worker_timeout : float, default 300
        Seconds that the workers wait for another call.
    initializer, initargs, max_tasks_per_child, mp_context, preload, retries
        As for `Pool`.
    **options
        Those that joblib gives to every backend, such as ``nesting_level``.

    Examples
    --------
    >>> import joblib
    >>> import sharedarray
    >>> with joblib.parallel_config(backend="sharedarray", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(5))
    [0, 1, 4, 9, 16]
    >>> sharedarray.integrations.joblib.end_idle_workers()
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(self, **options: Any) -> None:
        self._options = {name: options.pop(name) for name in _OPTIONS if name in options}
        self._idle_for = options.pop("idle_worker_timeout", None)
        super().__init__(**options)
        self._pool: Pool | None = None
        self._key: _Key = ()
        self._shared = SharedArguments(SHARED_ONCE_FROM, "r")
        self._sharing: tuple[int | None, Any] = SHARED_ONCE_FROM, "r"
        self._keep_for = IDLE

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many processes there will be for ``n_jobs``. joblib calls it.

        Parameters
        ----------
        n_jobs : int or None
            How many are asked for; -1 for as many as there are processors, -2 for one less. One when None.

        Returns
        -------
        int
            At least 1; 1 also in a worker that may start no processes.

        Raises
        ------
        ValueError
            `n_jobs` is 0.

        Examples
        --------
        >>> from sharedarray.integrations.joblib import SharedArrayBackend
        >>> SharedArrayBackend(nesting_level=0).effective_n_jobs(3)
        3
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or current_process().daemon or (self.nesting_level or 0) >= _NESTED:
            return 1
        return max(cpu_count() + 1 + n_jobs, 1) if n_jobs < 0 else n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        *,
        max_nbytes: int | None = SHARED_ONCE_FROM,
        mmap_mode: Any = "r",
        idle_worker_timeout: float | None = None,
        **options: Any,
    ) -> int:
        """Start workers for a call. joblib calls it.

        Parameters
        ----------
        n_jobs : int, default 1
            As for `effective_n_jobs`.
        parallel : joblib.Parallel, optional
            Whose call it is.
        max_nbytes : int or None
            Bytes from which on arrays are shared; None to share none.
        mmap_mode : {'r', 'r+', 'c', None}
            How workers map the arrays that are shared.
        idle_worker_timeout : float, optional
            Seconds that the workers wait for another call; as the backend was made when None.
        **options
            Those of the backend that are for the pool.

        Returns
        -------
        int
            How many workers there are.

        Raises
        ------
        TypeError
            There is no such option.

        Examples
        --------
        >>> from sharedarray.integrations.joblib import SharedArrayBackend, end_idle_workers
        >>> backend = SharedArrayBackend(nesting_level=0)
        >>> backend.configure(2)
        2
        >>> backend.terminate()
        >>> end_idle_workers()
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        given = {"preload": _to_preload()} | self._options
        given |= {name: options[name] for name in _OPTIONS if name in options}
        unknown = set(options) - {*_OPTIONS, "context", "prefer", "require", "temp_folder", "verbose"}
        if unknown:
            raise TypeError(f"the sharedarray backend has no option {', '.join(sorted(unknown))}")
        self._sharing = max_nbytes, mmap_mode
        self._shared = SharedArguments(*self._sharing)
        chosen = (idle for idle in (idle_worker_timeout, self._idle_for, IDLE) if idle is not None)
        self._keep_for = next(chosen)
        threads = self._threads(n_jobs)
        key = n_jobs, *threads.items(), *given.items(), _inherited()
        if self._pool is not None and self._key != key:
            self.terminate()
        if self._pool is None:
            self._key = key
            self._pool = _idle.take(key, lambda: Pool(n_jobs, threads_per_worker=threads, **given))
        return n_jobs

    def _threads(self, n_jobs: int) -> dict[str, int]:
        """Return the threads of a worker by variable, from the caller or the environment, or a fair share."""
        if self.inner_max_num_threads is not None:
            return dict.fromkeys(VARIABLES, int(self.inner_max_num_threads))
        share = max(int(cpu_count()) // n_jobs, 1)
        given = {name: os.environ.get(name, "") for name in VARIABLES}
        return {name: int(text) if text.isdigit() and int(text) else share for name, text in given.items()}

    def start_call(self) -> None:
        """Share arrays afresh: the caller may have changed them since the last call.

        joblib calls it.

        Examples
        --------
        >>> from sharedarray.integrations.joblib import SharedArrayBackend
        >>> SharedArrayBackend().start_call()
        """
        self._shared = SharedArguments(*self._sharing)

    def stop_call(self) -> None:
        """Free the memory of what was shared for this call.

        joblib calls it.

        Examples
        --------
        >>> from sharedarray.integrations.joblib import SharedArrayBackend
        >>> SharedArrayBackend().stop_call()
        """
        self._shared = SharedArguments(*self._sharing)

    def submit(self, func: Any, callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Submit a batch to a worker. joblib calls it.

        Parameters
        ----------
        func : callable
            The batch: it is called without arguments.
        callback : callable, optional
            Called with the future when the batch is done.

        Returns
        -------
        concurrent.futures.Future
            Of what the batch returns.

        Examples
        --------
        >>> from functools import partial
        >>> from sharedarray.integrations.joblib import SharedArrayBackend, end_idle_workers
        >>> backend = SharedArrayBackend(nesting_level=0)
        >>> backend.configure(2)
        2
        >>> backend.submit(partial(pow, 2, 10)).result()
        1024
        >>> backend.terminate()
        >>> end_idle_workers()
        """
        assert self._pool is not None
        try:
            stream, found = pack(func, self._shared.stand_in, CALL)
        except Exception as reason:
            # From here it might come out of joblib's own machinery, in a thread that reports it to no caller.
            future: Future[Any] = Future()
            future.set_exception(unsendable_batch(func, reason))
        else:
            arrays, modes = [each[0] for each in found], [each[1] for each in found]
            future = self._pool.submit(run_batch, np.frombuffer(stream, np.uint8), arrays, modes)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # what joblib called it before 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise what it raised. joblib calls it.

        Parameters
        ----------
        out : concurrent.futures.Future
            What `submit` returned.

        Returns
        -------
        list
            The results of the calls of the batch.

        Examples
        --------
        >>> from concurrent.futures import Future
        >>> from sharedarray.integrations.joblib import SharedArrayBackend
        >>> out = Future()
        >>> out.set_result([1, 4])
        >>> SharedArrayBackend().retrieve_result_callback(out)
        [1, 4]
        """
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what runs, with its workers. joblib calls it when a batch has raised an exception.

        Parameters
        ----------
        ensure_ready : bool, default True
            Whether to start other workers at once.

        Examples
        --------
        >>> import time
        >>> from functools import partial
        >>> from sharedarray.integrations.joblib import SharedArrayBackend
        >>> backend = SharedArrayBackend(nesting_level=0)
        >>> backend.configure(2)
        2
        >>> future = backend.submit(partial(time.sleep, 3600))
        >>> backend.abort_everything(ensure_ready=False)
        >>> future.done()
        True
        """
        pool, self._pool = self._pool, None
        if pool is not None and not pool._core.is_foreign:  # as of a call whose results a forked child drops
            pool.kill_workers()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel, **self.parallel._backend_kwargs)

    def terminate(self) -> None:
        """Keep the workers for the next call, and nothing else.

        joblib calls it at the end of a call, or of a ``with`` statement of several.

        Examples
        --------
        >>> from sharedarray.integrations.joblib import SharedArrayBackend, end_idle_workers
        >>> backend = SharedArrayBackend(nesting_level=0)
        >>> backend.configure(2)
        2
        >>> backend.terminate()
        >>> end_idle_workers()
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            _idle.keep(self._key, pool, self._keep_for)
        self._shared = SharedArguments(*self._sharing)
        self.reset_batch_stats()
