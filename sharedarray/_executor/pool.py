"""`Pool`: the façade. It checks arguments and hands calls to the core."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sharedarray import _hints as hints, _registry as registry, _requirements as requirements
from sharedarray._clock import check_timeout
from sharedarray._executor.arguments import (
    at_least,
    check_function,
    checked_initargs,
    checked_modules,
    checked_threads,
    worker_count,
)
from sharedarray._executor.arrays import OwnedArrays
from sharedarray._executor.maps import Maps
from sharedarray._executor.migration import METHODS, POOL_KEYWORDS, explains_keywords
from sharedarray._executor.numeric.calls import NumericCalls
from sharedarray._executor.reporting import Reporting
from sharedarray._pool import processes
from sharedarray._pool.core import PoolCore
from sharedarray._pool.processes import threads
from sharedarray._pool.worker.main import Setup

__all__ = ["Pool"]

T = TypeVar("T")


class Pool(Maps, NumericCalls, OwnedArrays, Reporting, Executor):
    """Processes that run functions on arrays.

    A `concurrent.futures.Executor`: you can pass a pool wherever an executor is expected. A `SharedArray`
    that is passed to a function, or returned by it, is the same memory on both sides; any other array arrives
    as a private copy. Functions need not be importable: those of a script, a notebook, lambdas and closures
    work, and a script needs no ``if __name__ == "__main__"``.

    The pool starts processes when there is work. They end with `shutdown`, with the ``with`` statement, when
    the pool is garbage collected, and with the process that made the pool, however that ends.

    Parameters
    ----------
    max_workers : int, optional
        Largest number of processes. None for the number of processors that this process may use: by its
        affinity and by the CPU quotas of all control groups above it (``cpu.max``, ``cpu.cfs_quota_us``),
        rounded up. On Windows at most 250.
    mp_context : multiprocessing context or {'forkserver', 'spawn', 'fork'}, optional
        Start method of the processes. The default is a fork server of this package's own that has NumPy
        loaded, or ``'spawn'`` on systems without one.
    initializer : callable, optional
        Called with ``initargs`` in each worker before its first task. Tasks see the globals that it sets, in
        a script or a notebook as well.
    initargs : tuple, optional
        Arguments of the initializer. Locks and queues of ``multiprocessing.get_context('spawn')``
        can be passed here.
    max_tasks_per_child : int, optional
        Number of tasks after which a worker is replaced by a new one; None for no limit.
    threads_per_worker : int, mapping of str to int, or None, default 1
        Number of threads that BLAS, OpenMP and similar libraries may use in a worker; None sets nothing. A
        mapping, as ``{"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 4}``, gives each library its own number.
        For a library that a worker has already loaded, threadpoolctl is needed (extra ``threads``).
    retries : int, default 0
        Number of times that a task is run again if its worker died. Such a task may have run in part before.
    preload : sequence of str, optional
        Modules that a fork server of this pool's kind loads once, so that its workers share their memory and
        need not load them. They are found by the caller's ``sys.path``, and must not start threads. A warning
        names a module that cannot be loaded or starts threads. Other start methods do not load them.

    Raises
    ------
    ValueError
        A number is too small, or the system lacks the start method.
    ModuleNotFoundError
        ``preload`` names a module that is not there.
    TypeError
        ``mp_context`` or ``initializer`` has another type.

    See Also
    --------
    concurrent.futures.ProcessPoolExecutor : The same interface, for small objects.
    multiprocessing.pool.Pool : The documentation has its calls, and joblib's and mpire's, beside these.

    Notes
    -----
    *When a worker dies*, only the task that it ran fails, with `WorkerDied`, which tells the signal or exit
    code and the likely cause; the worker is replaced. If an initializer raises, or several workers die
    before they are ready, the whole pool is broken, and every task fails with `WorkerDied`.

    *What travels how.* A `SharedArray`, or any view of one, is the same memory on both sides, for a task and
    for a result. Other arrays, and other objects that offer buffers to pickle protocol 5 (pandas, SciPy,
    bytes), are copied once from 24 KiB on, into recycled memory whose pages exist already. The receiver gets
    an ordinary array, private and writable, that frees its memory when it is collected. Recycled memory is
    not used again while any process refers to it. While the pool works, at most 1 GiB of it waits for use; at
    most 128 MiB after 0.4 s without work, none after a minute or at the end of the pool (and never more than
    a quarter, or an eighth, of the file system); see `stats`. It consists of at most 96 blocks, so that
    descriptors remain for other purposes: if more results are in use, others go through the pipe.

    *Subclasses of ndarray.* Masked arrays, record arrays, quantities and other instances arrive with their
    class, mask and attributes. Their memory travels as a plain array's does. If it is a block's, the caller
    sees what a worker writes into it; a mask or an attribute in private memory is the worker's own copy. A
    class with a ``__reduce__`` decides itself what it sends. A dtype keeps its metadata, and dtypes of other
    packages (ml_dtypes) and `numpy.dtypes.StringDType` travel like NumPy's own.

    *Callbacks of futures* are called by a thread of the pool, one after the other. They may submit and wait,
    also for calls of workers that have yet to start. A callback that takes long delays other callbacks and
    nothing else; an exception of a callback is logged. The pool ends when all callbacks have returned.

    *Order.* Tasks begin in the order of their submission. Tasks of a function that is known to take less than
    200 us are sent in batches; those behind a slow one in such a batch are given to another worker.

    *A result that is a shared array* belongs to the caller; its memory is freed with the last reference.
    Workers that are forked (``mp_context='fork'``) hold the blocks and results that exist at that moment, as
    long as they live. A result that lives when the caller forks is shared with that child, not copied.

    *Names.* The first worker's process is called ``sharedarray-worker-1``: `logging` has this as
    ``processName``, and a worker's warnings begin with it.

    *Forks and nesting.* A pool works in the process that made it. In a fork of that process, `submit`,
    waiting for unfinished calls and killing workers raise `SharedArrayError`, and `shutdown` does nothing. If
    a task forks and returns in the child too, the child ends there, with a message, and its result is
    dropped. All workers have the same hash seed: the program's ``PYTHONHASHSEED`` or a random one. A task may
    make a pool of its own, any thread may use one, and there may be many. The workers of joblib, Dask, torch
    and multiprocessing may make pools as well, daemonic ones included: workers end with their parent.

    *What a task leaves behind* (threads, executors, pools, processes of multiprocessing) ends with its
    worker, as it would with a program. A worker that was stopped has 5 seconds for that. Then it ends at
    once, and sends SIGTERM to the processes of multiprocessing that it would wait for.

    *Ctrl-C* interrupts the caller's wait, and no worker. After ``future.result()`` the task goes on; the
    tasks of an interrupted `map`, its variants and `map_blocks` end, running ones included. The pool goes on,
    for the next cell of a notebook. If a `KeyboardInterrupt` (or another exception that is no `Exception`)
    leaves the pool's ``with`` statement, a `shutdown` or the program, all workers end at once.

    *What workers inherit.* A worker starts with the environment, working directory, ``sys.path`` and options
    ``-W`` and ``-X`` that the caller has at that moment. Modules that the fork server has loaded read the
    variables of its own start; a change of variables of Python, the locale or thread numbers starts another
    fork server. Umask, limits (`resource.setrlimit`), niceness (`os.nice`) and CPU affinity are the caller's
    at the start of the worker, or of its fork server. The recursion limit, `numpy.errstate` and
    `numpy.seterr`, the program's warning filters, the precision of `decimal`, NumPy's print options and the
    handlers of `logging` are a copy of the caller's with ``'fork'``, and the defaults otherwise: set them in
    the initializer.

    *Functions of a script or a notebook* share one ``__main__`` in each worker, with the globals that
    their code names. A worker keeps what the initializer and tasks assign to a global until you change
    yours; then it takes your value. The same holds for classes and their attributes, and results are of
    your own classes. A mutable default, a closure, the instance of a method, and a global that leads to a
    shared array are copies for each call. Modules that no other process can import, such as files loaded
    by their paths, and the namespaces of `exec` are treated likewise. After `importlib.reload` workers load
    the module anew before their next call, if they have loaded it.

    *Random numbers.* Each worker seeds the global generators of `random`, `numpy.random` and torch from the
    operating system before the initializer, if they are loaded; a seed that the initializer sets stays. A
    generator that a module or you have made is copied with its state, and its copies draw equal numbers: give
    each task a generator of its own, from ``rng.spawn(n)``.

    *SIGTERM and SIGHUP*, which batch systems, service managers and terminals send to all processes of a
    program, do not end workers if the program handles, blocks or ignores them when the workers start: tasks
    go on, and the program decides. ``kill -9`` and `multiprocessing.Process.terminate` end a worker.

    *The end.* A program that ends while calls are pending finishes them first, as executors do. A `submit`
    after `shutdown` raises `RuntimeError`.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> frames = sa.share(np.arange(12.0).reshape(3, 4))
    >>> with sa.Pool(2) as pool:
    ...     [float(total) for total in pool.map(np.sum, frames)]
    ...     pool.map_blocks(np.sqrt, frames)[2].tolist() == np.sqrt(frames[2]).tolist()
    [6.0, 22.0, 38.0]
    True
    """

    @explains_keywords(POOL_KEYWORDS)
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        threads_per_worker: int | Mapping[str, int] | None = 1,
        retries: int = 0,
        preload: Sequence[str] = (),
    ) -> None:
        method = processes.method_of(mp_context)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        self._max_workers = worker_count(max_workers)
        self._retries = at_least(0, "retries", retries)
        if max_tasks_per_child is not None:
            max_tasks_per_child = at_least(1, "max_tasks_per_child", max_tasks_per_child)
        numbers = checked_threads(threads_per_worker)
        modules = checked_modules(preload)
        directory = registry.directory()
        registry.warn_of_disk(directory)
        requirements.check(directory)
        arguments = checked_initargs(initargs)
        self._options: dict[str, Any] = {}
        self._original: Pool | None = None
        super().__init__()
        self._core = PoolCore(
            workers=self._max_workers,
            method=method,
            setup=Setup(threads.environment(numbers), initializer, arguments, modules),
            max_tasks=max_tasks_per_child,
            retries=self._retries,
            at_end=self._arrays.close,  # no reference to the pool, or its thread would keep it alive
        )
        weakref.finalize(self, self._core.on_collected).atexit = False

    if not TYPE_CHECKING:  # for a type checker, every name would be there then

        def __getattr__(self, name):
            raise hints.no_attribute(self, name, METHODS)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` in a worker.

        Parameters
        ----------
        fn : callable
            Any function, importable or not.
        *args, **kwargs
            Its arguments. Shared arrays go by reference; of other objects, the task gets a private, writable
            copy, which is made now, so you may change yours. (The exception are arguments with which more
            than 1 GiB of data would wait: they are copied when a worker is free.)

        Returns
        -------
        concurrent.futures.Future
            Its result, or the exception that ``fn`` raised, with the worker's traceback. A `StopIteration` or
            `StopAsyncIteration` is the cause of a `RuntimeError`, since by itself it would end a loop in the
            caller. `WorkerDied` if the worker died; a `pickle.PicklingError` if an object cannot be sent. Its
            ``cancel(running=True)`` cancels a call that has begun as well: the worker that runs it is killed
            and replaced.

        Raises
        ------
        WorkerDied
            The pool is broken (a `concurrent.futures.process.BrokenProcessPool`).
        RuntimeError
            The pool was shut down.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     pool.submit(pow, 2, 10).result()
        1024
        """
        check_function("submit", fn)
        return self._core.intake.submit(fn, args, kwargs, **self._options)

    def options(self, *, timeout: float | None = None, retries: int | None = None) -> Pool:
        """Return this same pool with other settings for the calls that are made through it.

        Parameters
        ----------
        timeout : float, optional
            Seconds that each task may run. A task that takes longer fails with `TimeoutError`; its worker is
            killed and replaced.
        retries : int, optional
            Replaces the pool's own.

        Returns
        -------
        Pool
            The same workers, with all methods; `shutdown` of either ends both.

        Examples
        --------
        >>> import time
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     future = pool.options(timeout=0.1).submit(time.sleep, 60)
        ...     type(future.exception()).__name__
        'TimeoutError'
        """
        check_timeout(timeout)
        if timeout == 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
        chosen = copy.copy(self)
        chosen._retries = self._retries if retries is None else at_least(0, "retries", retries)
        chosen._options = {"limit": timeout, "retries": chosen._retries}
        chosen._original = self  # whose finalizer ends the workers
        return chosen

    def terminate_workers(self) -> None:
        """End all workers and the pool at once; the same as `kill_workers`.

        Examples
        --------
        >>> import time
        >>> import sharedarray as sa
        >>> pool = sa.Pool(1)
        >>> future = pool.submit(time.sleep, 3600)
        >>> pool.terminate_workers()
        >>> future.done()
        True
        """
        self.kill_workers()

    def kill_workers(self) -> None:
        """End all workers and the pool at once.

        Calls that have not begun are cancelled; running calls fail with `WorkerDied`.

        Examples
        --------
        >>> import time
        >>> import sharedarray as sa
        >>> pool = sa.Pool(1)
        >>> future = pool.submit(time.sleep, 3600)
        >>> pool.kill_workers()
        >>> future.done()
        True
        """
        self._core.check_owner()
        self._core.abort()
        self._core.join()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and end the workers when all calls are done.

        Parameters
        ----------
        wait : bool, default True
            Return when all workers have ended: no process, thread or descriptor of the pool is left then. A
            `KeyboardInterrupt` during the wait ends the workers at once.
        cancel_futures : bool, default False
            Cancel the calls that have not begun.

        Notes
        -----
        You may call it again, to wait or to cancel after all.

        Examples
        --------
        >>> import sharedarray as sa
        >>> pool = sa.Pool(1)  # without a with statement, which would call it
        >>> future = pool.submit(pow, 2, 10)
        >>> pool.shutdown()
        >>> future.result()
        1024
        """
        try:
            self._core.shutdown(wait=wait, cancel=cancel_futures)
        except BaseException:
            self._core.abort()
            self._core.join()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._core.has_left_with = True
        if exc_type is not None and not issubclass(exc_type, Exception):
            self._core.abort()
        self.shutdown(wait=True)

    def __repr__(self) -> str:
        state = self._core.described_state
        workers = "1 worker" if self._max_workers == 1 else f"{self._max_workers} workers"
        return f"<{type(self).__name__} of up to {workers}{state and ', '}{state}>"


# By these names Python's messages call the methods, as in "Pool.stats() takes 1 positional argument".
for _part in (Maps, NumericCalls, OwnedArrays, Reporting):
    for _name, _method in vars(_part).items():
        if not _name.startswith("_") and callable(_method):
            inspect.unwrap(_method).__qualname__ = _method.__qualname__ = f"Pool.{_name}"
