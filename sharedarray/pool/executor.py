"""`Pool`: what users see. The work is the engine's; here are the calls in their several forms."""

from __future__ import annotations

import copy
import operator
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import creation, registry, requirements
from sharedarray._platform import platform
from sharedarray.array import Living, ShapeLike, SharedArray
from sharedarray.clock import time
from sharedarray.pool import processes, threads
from sharedarray.pool.engine import Engine
from sharedarray.pool.numeric import blockwise
from sharedarray.pool.numeric.tiling import Axes, Sizes
from sharedarray.pool.tasks import Gathering, PoolFuture
from sharedarray.pool.transport import pipes
from sharedarray.pool.worker import Setup
from sharedarray.progress import Progress, bar, watched

if TYPE_CHECKING:
    from sharedarray.display.copies import CopyReport
    from sharedarray.display.pool_stats import PoolStats
    from sharedarray.display.timeline import Timeline

__all__ = ["Pool"]

T = TypeVar("T")
P = TypeVar("P")

# Calls per worker that imap_unordered keeps under way: enough that a worker finds its next one waiting, few
# enough that an endless iterable is not swallowed.
_AHEAD = 4


class Pool(Executor):
    """Processes that run functions on arrays.

    A `concurrent.futures.Executor`, so everything that takes one takes a pool. A `SharedArray` that is
    passed to a function, or returned by it, is the same memory on both sides; any other array arrives as a
    private copy. Functions need not be importable: those of a script, a notebook, lambdas and closures work,
    and a script needs no ``if __name__ == "__main__"``.

    The pool's processes are started when there is work, and end with `shutdown`, with the ``with`` block,
    when the pool is garbage collected, and with the process that made it, whatever ends that.

    Parameters
    ----------
    max_workers : int, optional
        How many processes at most. When None, as many as this process may use processors: by its affinity and
        by the CPU quotas of all control groups above it (``cpu.max``, ``cpu.cfs_quota_us``), rounded up.
        Windows can wait for 250.
    mp_context : multiprocessing context or {'forkserver', 'spawn', 'fork'}, optional
        How processes are started. The default is a fork server of this package's own that has NumPy
        loaded, where there is one, and ``'spawn'`` elsewhere.
    initializer : callable, optional
        Called with ``initargs`` in each worker before its first task. Tasks see the globals that it sets, in
        a script or a notebook as well.
    initargs : tuple, optional
        Arguments of the initializer. Locks and queues of `multiprocessing` can be handed over here.
    max_tasks_per_child : int, optional
        After how many tasks a worker is replaced by a fresh one; never when None.
    threads_per_worker : int, mapping of str to int, or None, default 1
        How many threads BLAS, OpenMP and the like may use in a worker; None leaves them alone. A mapping, as
        ``{"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 4}``, gives each library its own number. What a
        worker has loaded already needs threadpoolctl for this (extra ``threads``).
    retries : int, default 0
        How often a task is run again when its worker died. A task that is run again must not mind having
        been run in part before.
    preload : sequence of str, optional
        Modules that a fork server of this pool's kind loads once, so that its workers share their memory and
        need not load them. They are found by the caller's ``sys.path``, and must not start threads. A module
        that cannot be loaded is named on standard error and left out. Ignored for other start methods.

    Raises
    ------
    ValueError
        A number is too small, or there is no such start method here.
    TypeError
        ``mp_context`` or ``initializer`` is something else.

    See Also
    --------
    concurrent.futures.ProcessPoolExecutor : The same interface, for small objects.

    Notes
    -----
    *When a worker dies*, only the task that it ran fails, with `WorkerDied`, which tells the signal or exit
    code and the likely cause; the worker is replaced. Where an initializer raises, or several workers die
    before they are ready, the whole pool is broken, and every task fails with `WorkerDied`.

    *Ctrl-C.* Workers leave it to the parent. A ``with`` block, or a `shutdown`, that `KeyboardInterrupt` (or
    another exception that is no `Exception`) comes out of ends the workers at once; so does a program that
    ends by it. Out of a `map` or its like it also ends what this one was running, and the pool goes on.

    *What travels how.* A `SharedArray`, or any view of one, is the same memory on both sides, for a task and
    for a result. Other arrays, and whatever else offers its buffers to pickle protocol 5 (pandas, SciPy,
    bytes), travel through recycled memory from 48 KiB on: they are copied once, to pages that are there
    already. What a task gets of these, and what the caller gets back, is an ordinary array, private and
    writable, that frees its memory when it is collected. A piece of recycled memory is not used again while
    anything looks at it, in whichever process. While the pool works, at most 1 GiB of it waits for use, at
    most 128 MiB 0.4 s later, none after a minute of idleness or at the end of the pool (and never more than a
    quarter, or an eighth, of the file system); `stats` tells how much there is. It is 96 pieces at most, so
    that there are descriptors left for others: with so many results in use at a time, more go by the pipe.

    *Subclasses of ndarray.* Masked arrays, record arrays, quantities and other instances arrive with their
    class, mask and attributes. Their memory travels as a plain array does. If it is a block's, a worker's
    write into it is seen here; a mask or an attribute in private memory is the worker's own copy. A class
    that has a ``__reduce__`` decides itself what it sends. A dtype keeps its metadata, and dtypes of other
    packages (ml_dtypes) and `numpy.dtypes.StringDType` travel like NumPy's own.

    *Callbacks of futures* are called by a thread of the pool's own, one after the other. They may submit and
    wait, also for what a worker does that is yet to be started. One that takes long keeps other callbacks
    waiting and nothing else; what it raises is logged. The pool ends when all have returned.

    *In which order.* Tasks begin in the order in which they were submitted. Those of a function that is known
    to take less than some 200 us are handed out in batches; what lies behind a slow one in such a batch is
    taken back and given to another worker.

    *A result that is a shared array* belongs to whoever gets it; its memory is freed with the last reference.
    Blocks and results that exist when workers are forked (``mp_context='fork'``) are held by these as well,
    as long as they live. A result that lives when the caller forks is shared with that child, not copied.

    *Names.* A worker's process is called ``sharedarray-worker-1`` and so on: `logging` has this as
    ``processName``, and what a worker warns of begins with it.

    *Forks and nesting.* A pool works in the process that made it. In a fork of that, giving it work, waiting
    for what was not there yet and killing its workers raise `SharedArrayError`, and `shutdown` does nothing.
    If a task forks and returns in the child too, the child ends there, with a message, and its result is
    dropped. Workers hash texts alike, with the program's ``PYTHONHASHSEED`` or a random one.
    A task may make a pool of its own, any thread may use one, and there may be many. So may the workers of
    joblib, Dask, torch and multiprocessing, the daemonic ones as well: workers end with their parent.

    *What a task leaves behind* (threads, executors, pools, processes of multiprocessing) ends with its
    worker, as it would with a program. A worker that was stopped has 5 seconds for that. Then it ends
    at once, and sends SIGTERM to the processes of multiprocessing that it would wait for.

    *Ctrl-C* is not for workers. It breaks off a wait: for ``future.result()``, of which the task goes on; for
    what `map` and its like give, and for `map_blocks`, whose tasks end, those that run as well. The pool goes
    on, for the next cell of a notebook. Where it leaves the pool's ``with`` block, all ends at once.

    *What workers inherit.* A worker starts with the caller's environment, working directory, ``sys.path``
    and options ``-W`` and ``-X`` as they are at that moment, however it is started. What the fork server has
    loaded read its variables when it was loaded; a change of variables of Python, the locale or thread
    numbers starts another fork server. Umask, limits (`resource.setrlimit`), niceness (`os.nice`) and CPU
    affinity are those of the caller when the worker starts, or when its fork server started. The recursion
    limit, `numpy.errstate` and `numpy.seterr`, the warning filters that the program has set, the precision of
    `decimal`, NumPy's print options and the handlers of `logging` are a copy of the caller's with ``'fork'``,
    and the defaults otherwise: set them in the initializer.

    *Functions of a script or a notebook* share one ``__main__`` in each worker, with the globals that
    their code names. A worker keeps what the initializer and tasks assign to a global until you change
    yours; then it takes your value. The same holds for classes and their attributes, and results are of
    your own classes. A mutable default, a closure, the instance of a method, and a global that leads to a
    shared array are copies for each call. Modules that no other process can import, such as files loaded
    by their paths, are treated likewise. After `importlib.reload` workers load the module anew before
    their next call, if they have loaded it.

    *Random numbers.* Each worker seeds the global generators of `random`, `numpy.random` and torch from the
    operating system before the initializer, if they are loaded; a seed that the initializer sets stays. A
    generator that a module or you have made is copied with its state, and its copies draw equal numbers: give
    each task a generator of its own, from ``rng.spawn(n)``.

    *SIGTERM and SIGHUP*, which batch systems, service managers and terminals send to all processes of a
    program, are not for workers either if the program handles, blocks or ignores them when the workers start:
    tasks go on, and the program decides. ``kill -9`` and `multiprocessing.Process.terminate` end a worker.

    *The end.* A program that ends with work pending finishes it first, as executors do. A `submit` after
    `shutdown` raises `RuntimeError`.

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
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        self._max_workers = _workers(max_workers)
        self._retries = _at_least(0, "retries", retries)
        if max_tasks_per_child is not None:
            max_tasks_per_child = _at_least(1, "max_tasks_per_child", max_tasks_per_child)
        if isinstance(threads_per_worker, Mapping):
            threads_per_worker = {
                name: _at_least(1, name, count) for name, count in threads_per_worker.items()
            }
        elif threads_per_worker is not None:
            threads_per_worker = _at_least(1, "threads_per_worker", threads_per_worker)
        if isinstance(preload, str):
            raise TypeError(f"preload must be a sequence of names, not {preload!r}: write [{preload!r}]")
        requirements.check(registry.directory())
        # Not to be found from the engine, whose thread would keep the pool from being collected.
        self._made = made = Living()
        self._options: dict[str, Any] = {}
        self._original: Pool | None = None
        self._engine = Engine(
            workers=self._max_workers,
            method=processes.method_of(mp_context),
            setup=Setup(
                threads.environment(threads_per_worker), initializer, tuple(initargs), tuple(preload)
            ),
            max_tasks=max_tasks_per_child,
            retries=self._retries,
            at_end=made.close,
        )
        weakref.finalize(self, self._engine.forsake).atexit = False

    # Calls

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called by a worker.

        Parameters
        ----------
        fn : callable
            Any function, importable or not.
        *args, **kwargs
            Its arguments. Shared arrays go by reference; of anything else, the task gets a private, writable
            copy, which is made now, so you may change what you gave. (The exception is what would make more
            than 1 GiB of data that waits: that is copied when a worker is free.)

        Returns
        -------
        concurrent.futures.Future
            Its result, or the exception that ``fn`` raised, with the worker's traceback. A `StopIteration` or
            `StopAsyncIteration` is the cause of a `RuntimeError`, for by itself it would end a loop in the
            caller. `WorkerDied` if the worker died; a `pickle.PicklingError` if something cannot be sent. Its
            ``cancel(running=True)`` cancels a call that has begun as well: the worker that runs it is ended
            and replaced.

        Raises
        ------
        WorkerDied
            The pool is broken (a `concurrent.futures.process.BrokenProcessPool`).
        RuntimeError
            The pool was shut down.
        """
        return self._engine.submit(fn, args, kwargs, **self._options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: Progress = None,
    ) -> Iterator[T]:
        """Call ``fn`` on the items of the iterables, as `map` does, and yield the results in order.

        Parameters
        ----------
        fn : callable
            Takes as many arguments as there are iterables. It is sent to each worker once.
        *iterables : iterable
            Consumed at once; what they raise comes from this call, and nothing is called then. Large plain
            arrays among the items are copied when they are sent, one that is there several times once for
            all: leave them unchanged until the results are there. The next call copies them afresh.
        timeout : float, optional
            Seconds from now until the last result must be there. What is still running then is ended: its
            worker is killed and replaced.
        chunksize : int, default 1
            Ignored, but for being checked: calls are handed out in groups that take some milliseconds, and
            taken back from a worker that turns out to be slow.
        buffersize : int, optional
            How many calls may be under way, or done and not yet taken. The iterables are consumed as results
            are, so they may be endless; what they raise comes behind the results of all calls before it. For
            all calls when None.
        progress : bool or dict, optional
            Show a progress bar; a dict is handed to tqdm (extra ``progress``). When None, there is one in
            notebooks and terminals where it takes longer than a second and tqdm is installed.

        Returns
        -------
        iterator
            Ending it early cancels what has not begun.

        Raises
        ------
        TimeoutError
            From the iterator, when time is up.
        MissingExtraError
            ``progress`` without tqdm (an `ImportError`).
        """
        if buffersize is None:
            return self._in_order(fn, zip(*iterables), timeout, chunksize, progress)  # noqa: B905
        _at_least(1, "chunksize", chunksize)
        _at_least(1, "buffersize", buffersize)
        shown = bar(progress, _total(iterables))
        deadline = None if timeout is None else time.monotonic() + timeout
        return watched(_begun(self._buffered(fn, zip(*iterables), buffersize, deadline)), shown)  # noqa: B905

    def _buffered(
        self,
        fn: Callable[..., T],
        calls: Iterator[tuple[Any, ...]],
        size: int,
        deadline: float | None,
    ) -> Iterator[Any]:
        engine = self._engine
        function = engine.function_of(fn)
        engine.ledger.called_many(function.number, function.label, function.pickled, 0)
        came: deque[Gathering] = deque()
        options = {**self._options, "deadline": deadline}
        late = False

        def add(args: tuple[Any, ...]) -> None:
            one = Gathering(engine, ordered=False, call=function.number)
            engine.add(function, one, args, **options)
            came.append(one)

        feed = _Feed(calls, add)
        one: Gathering | None = None
        try:
            feed.start(size)
            yield None  # see _begun
            while came:
                box = [came[0].take_any_outcome(deadline)]
                one = came.popleft()
                feed.start(1)
                yield one.opened(box.pop())
            feed.check()
        except TimeoutError:
            late = deadline is not None and time.monotonic() >= deadline
            raise
        except KeyboardInterrupt:
            late = one is None or not one.failed
            raise
        finally:
            for one in came:
                one.end()
                engine.forget(one, running=late)

    def starmap(
        self,
        fn: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        timeout: float | None = None,
        chunksize: int = 1,
        progress: Progress = None,
    ) -> Iterator[T]:
        """Call ``fn`` on each tuple of arguments, as `itertools.starmap` does; otherwise as `map`."""
        return self._in_order(fn, map(tuple, iterable), timeout, chunksize, progress)

    def imap_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        progress: Progress = None,
    ) -> Iterator[T]:
        """Call ``fn`` on the items of the iterables and yield each result as soon as it is there.

        The iterables are consumed as the calls are done, a few ahead, so they may be endless, and yield the
        same array again with other data in it. What they raise comes behind the results of all calls before
        it. Otherwise as `map`.
        """
        _at_least(1, "chunksize", chunksize)
        shown = bar(progress, _total(iterables))
        calls = zip(*iterables)  # noqa: B905
        deadline = None if timeout is None else time.monotonic() + timeout
        engine = self._engine
        function = engine.function_of(fn)
        engine.ledger.called_many(function.number, function.label, function.pickled, 0)
        came = Gathering(engine, ordered=False, call=function.number)
        options = {**self._options, "deadline": deadline}
        feed = _Feed(calls, lambda args: engine.add(function, came, args, **options))
        ahead = self._max_workers * _AHEAD
        return watched(_begun(_as_they_come(engine, feed, came, ahead, deadline)), shown)

    def _in_order(
        self,
        fn: Callable[..., T],
        calls: Iterable[tuple[Any, ...]],
        timeout: float | None,
        chunksize: int,
        progress: Progress,
    ) -> Iterator[T]:
        deadline = None if timeout is None else time.monotonic() + timeout
        _at_least(1, "chunksize", chunksize)
        collected = list(calls)
        shown = bar(progress, len(collected))
        try:
            came = self._engine.map(fn, collected, **{**self._options, "deadline": deadline})
        except BaseException:
            shown.close()
            raise
        return watched(_begun(_results(self._engine, came, deadline)), shown)

    def options(self, *, timeout: float | None = None, retries: int | None = None) -> Pool:
        """Return this very pool with other settings for the calls that are made through it.

        Parameters
        ----------
        timeout : float, optional
            Seconds that each task may run. One that takes longer is ended, its worker killed and replaced,
            and fails with `TimeoutError`.
        retries : int, optional
            In place of the pool's own.

        Returns
        -------
        Pool
            The same workers, with all methods; shutting either of the two down ends both.

        Examples
        --------
        >>> import time
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     future = pool.options(timeout=0.1).submit(time.sleep, 60)
        ...     type(future.exception()).__name__
        'TimeoutError'
        """
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
        chosen = copy.copy(self)
        chosen._options = {"limit": timeout}
        chosen._retries = self._retries if retries is None else _at_least(0, "retries", retries)
        chosen._options["retries"] = chosen._retries
        chosen._original = self
        return chosen

    # What was done

    def stats(self) -> PoolStats:
        """Return what the pool is doing and has done, and the recycled memory that it has.

        Returns
        -------
        PoolStats
            Counts of workers and tasks, bytes of recycled memory in use and free, with its limits, and bytes
            shared, copied and pickled so far.
        """
        return self._engine.stats()

    def copy_report(self, future: Future[Any] | None = None) -> CopyReport | None:
        """Return what of a call was shared, copied or pickled, in bytes and by argument.

        Parameters
        ----------
        future : concurrent.futures.Future, optional
            Of the call, as `submit` returned it; the latest call when None.

        Returns
        -------
        CopyReport or None
            None where the call is long ago, or there was none.
        """
        if future is not None and not isinstance(future, PoolFuture):
            raise TypeError(f"future must be one that a pool's submit returned, not {future!r}")
        self._engine.catch_up()
        return self._engine.ledger.report(None if future is None else future.call)

    def timeline(self) -> Timeline:
        """Return which worker ran what when, of the last tasks: a picture in a notebook, JSON for a browser.

        Returns
        -------
        Timeline
            ``save("run.json")`` writes what ``chrome://tracing`` and Perfetto show.
        """
        self._engine.catch_up()
        return self._engine.ledger.timeline()

    def terminate_workers(self) -> None:
        """End all workers and the pool at once, as `kill_workers` does; what ran fails with `WorkerDied`."""
        self.kill_workers()

    def kill_workers(self) -> None:
        """End all workers and the pool at once: what waits is cancelled, what ran fails with `WorkerDied`."""
        self._engine.check_owner()
        self._engine.abort()
        self._engine.join()

    # Numeric calls

    def map_blocks(
        self,
        func: Callable[..., ArrayLike],
        *arrays: ArrayLike,
        out: np.ndarray[Any, Any] | None = None,
        axis: Axes = 0,
        block_size: Sizes = None,
        overlap: int | Sequence[int] = 0,
        timeout: float | None = None,
        progress: Progress = None,
    ) -> np.ndarray[Any, Any]:
        """Apply a function to blocks of arrays, in all workers, and put the results together.

        ``pool.map_blocks(func, a, b)`` is ``func(a, b)`` for any function that works element by element, or
        row by row along ``axis``; exactly, since each block is computed once and written to its place.

        Parameters
        ----------
        func : callable
            Called in workers as ``func(*blocks)``, with one block of each array; ufuncs work. Its result must
            be as long as its blocks along ``axis``, and may have other axes besides. Bind further arguments
            with `functools.partial` or a closure.
        *arrays : array_like
            Of one length along ``axis``; those that have length 1 there, or not so many axes, go whole to
            every block. Numbers and other single values go to ``func`` as they are, so they promote as in
            NumPy: ``float32`` data times ``2.0`` stay ``float32``. Blocks have the class of their array. A
            `SharedArray`, or a view of one, is used where it is: what ``func`` writes into its block is in
            the array. Of anything else, each block is a copy.
        out : ndarray, optional
            Where the result goes; may be one of ``arrays``, or overlap them. Workers write into a shared
            array themselves; anything else is filled by the calling process. When None, a `SharedArray` is
            made, its dtype and shape learnt from the first block (a plain array for Python objects, and for
            dtypes that no block can hold).
        axis : int or tuple of int, default 0
            The axis along which the arrays are cut; several for tiles. They count as NumPy's do, for each
            array; so -1 is the last axis of each.
        block_size : int or tuple, optional
            Length of a block along each of these, without ``overlap``. None chooses: enough blocks for the
            workers, small enough for a processor's cache.
        overlap : int or tuple of int, default 0
            For functions that look at neighbours, such as filters: each block is given with up to this many
            more rows on either side (fewer at the edges of the array). The result for these is cut off, so
            ``func`` returns as many rows as it was given.
        timeout : float, optional
            Seconds from now until all must be done. What is still running then is ended: its worker is killed
            and replaced.
        progress : bool or dict, optional
            Show a progress bar of the blocks, as for `map`.

        Returns
        -------
        ndarray
            ``out``, or a new `SharedArray` that frees its memory with the last reference; if ``func`` returns
            a `numpy.matrix` or `numpy.recarray`, that array viewed as this class.

        Raises
        ------
        ValueError
            The arrays, ``out``, or a result of ``func`` do not fit.
        TypeError
            A result of ``func`` cannot be cast to the dtype of ``out`` (as ``casting='same_kind'`` has it),
            or to that of the first block without loss. Or it is an instance of a subclass of ndarray of which
            only the elements would be kept: a masked array (`MaskedArrayError`), or a quantity that is put
            into an ``out`` of another class.
        TimeoutError
            Time is up.
        WorkerDied
            A worker died, more often than ``retries`` allows.

        Notes
        -----
        Nothing is running any more when an exception comes out; what ``out`` holds then is undefined.

        Examples
        --------
        >>> import numpy as np
        >>> import sharedarray as sa
        >>> def blur(image):
        ...     padded = np.pad(image, 1, mode="edge")
        ...     return (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        >>> image = np.random.default_rng(0).random((300, 200))
        >>> with sa.Pool(2) as pool:
        ...     pool.map_blocks(np.hypot, np.array([3.0, 5.0]), np.array([4.0, 12.0])).tolist()
        ...     blurred = pool.map_blocks(blur, image, axis=(0, 1), block_size=(128, 128), overlap=1)
        [5.0, 13.0]
        >>> np.array_equal(blurred, blur(image))
        True
        """
        plan = blockwise.Plan.of(arrays, axis, block_size, overlap, workers=self._max_workers)
        return blockwise.map_blocks(
            self._engine, func, plan, out, progress, self._options, timeout, again=self._retries > 0
        )

    def reduce_blocks(
        self,
        func: Callable[..., T],
        combine: Callable[[T, T], T],
        *arrays: ArrayLike,
        axis: Axes = 0,
        block_size: Sizes = None,
        timeout: float | None = None,
        progress: Progress = None,
    ) -> T:
        """Apply a function to blocks of arrays, in all workers, and combine its results into one.

        Parameters
        ----------
        func : callable
            Called in workers as ``func(*blocks)``; returns anything.
        combine : callable
            Called in this process as ``combine(so_far, next)``, in the order of the blocks: the outcome is
            the same each time for the same ``block_size``. (Sums of floats in another grouping differ in
            their last bits, and which blocks are chosen depends on the machine.)
        *arrays, axis, block_size, timeout, progress
            As in `map_blocks`.

        Returns
        -------
        object
            What ``combine`` made of all, or ``func``'s result if there is one block only.

        Raises
        ------
        ValueError
            The arrays do not fit.
        TimeoutError
            Time is up.
        WorkerDied
            A worker died, more often than ``retries`` allows.

        Examples
        --------
        >>> import numpy as np
        >>> import sharedarray as sa
        >>> with sa.Pool(2) as pool:
        ...     int(pool.reduce_blocks(np.sum, np.add, np.arange(1000)))
        499500
        """
        plan = blockwise.Plan.of(arrays, axis, block_size, workers=self._max_workers)
        return blockwise.reduce_blocks(self._engine, func, combine, plan, progress, self._options, timeout)

    # Blocks that end with the pool

    def empty(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.empty` does, and close it when the pool ends."""
        return self._made.add(creation.empty(shape, dtype, order, progress=progress))

    def zeros(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.zeros` does, and close it when the pool ends."""
        return self._made.add(creation.zeros(shape, dtype, order, progress=progress))

    def ones(
        self,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.ones` does, and close it when the pool ends."""
        return self._made.add(creation.ones(shape, dtype, order, progress=progress))

    def full(
        self,
        shape: ShapeLike,
        fill_value: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "C",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Make a shared array as `sharedarray.full` does, and close it when the pool ends."""
        return self._made.add(creation.full(shape, fill_value, dtype, order, progress=progress))

    def share(
        self,
        array_like: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "K",
        *,
        progress: Progress = None,
    ) -> SharedArray:
        """Copy data into shared memory as `sharedarray.share` does, and close it when the pool ends."""
        return self._made.add(creation.share(array_like, dtype, order, progress=progress))

    # The end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end the workers when all are done.

        Parameters
        ----------
        wait : bool, default True
            Return when everything has ended: no process, thread or descriptor of the pool is left then. A
            `KeyboardInterrupt` during the wait ends the workers at once.
        cancel_futures : bool, default False
            Cancel the tasks that have not begun.

        Notes
        -----
        May be called again, to wait or to cancel after all.
        """
        try:
            self._engine.shutdown(wait=wait, cancel=cancel_futures)
        except BaseException:
            self._engine.abort()
            self._engine.join()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is not None and not issubclass(exc_type, Exception):
            self._engine.abort()
        self.shutdown(wait=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of up to {self._max_workers} workers>"

    def _repr_html_(self) -> str:
        """What a notebook shows: its figures, and who ran what when."""
        timeline = self.timeline()
        shown = f"<details><summary>timeline</summary>{timeline._repr_html_()}</details>" if timeline else ""
        return self.stats()._repr_html_() + shown


def _workers(wanted: int | None) -> int:
    most = pipes.MAX_WORKERS
    count = _at_least(1, "max_workers", platform.processors() if wanted is None else wanted)
    if most is None or count <= most:
        return count
    if wanted is None:
        return most
    raise ValueError(f"max_workers must be at most {most}, for so many this system can wait for, not {count}")


def _at_least(least: int, name: str, given: object) -> int:
    try:
        number = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {given!r}") from None
    if number < least:
        raise ValueError(f"{name} must be greater than {least - 1}, not {number}")
    return number


def _total(iterables: Iterable[Iterable[Any]]) -> int | None:
    """Return how many calls there will be, None where that is not known without consuming something."""
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _begun(results: Iterator[T]) -> Iterator[T]:
    """Have a generator pass its first yield: one that was never begun does not clean up when dropped."""
    next(results)
    return results


class _Feed:
    """Begins calls, some ahead of the results that are taken, with what an iterator gives.

    An exception of the iterator loses no result of what came before it: it is kept until these are taken.

    Parameters
    ----------
    calls
        Arguments of one call after the other.
    add
        Begins a call.
    """

    def __init__(self, calls: Iterator[tuple[Any, ...]], add: Callable[[tuple[Any, ...]], None]) -> None:
        self._calls = calls
        self._add = add
        self._begun = False
        self._raised: Exception | None = None

    def start(self, count: int) -> int:
        """Begin so many calls if there are as many; return how many were begun."""
        started = 0
        while started < count:
            try:
                args = next(self._calls)
            except StopIteration:
                break
            except Exception as raised:
                self._end(raised)
                break
            try:
                self._add(args)
            except Exception as raised:  # the pool was shut down
                if not self._begun:
                    raise
                self._end(raised)
                break
            self._begun = True
            started += 1
        return started

    def _end(self, raised: Exception) -> None:
        self._calls, self._raised = iter(()), raised

    def check(self) -> None:
        """Raise what the iterator raised."""
        raised, self._raised = self._raised, None
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # or its frame would hold it


def _results(engine: Engine, came: Gathering, deadline: float | None) -> Iterator[Any]:
    """Yield results in order, and hold on to none of them."""
    late = False
    try:
        yield None  # see _begun
        yield from came.in_order(deadline)
    except TimeoutError:
        late = deadline is not None and time.monotonic() >= deadline
        raise
    except KeyboardInterrupt:
        # In a notebook the pool goes on, and the next cell needs the workers. A task's own ends no worker.
        late = not came.failed
        raise
    finally:
        came.end()
        engine.forget(came, running=late)


def _as_they_come(
    engine: Engine,
    feed: _Feed,
    came: Gathering,
    ahead: int,
    deadline: float | None,
) -> Iterator[Any]:
    late = False
    try:
        ahead = feed.start(ahead)
        yield None  # see _begun
        while ahead:
            box = [came.take_any_outcome(deadline)]
            ahead += feed.start(1) - 1
            yield came.opened(box.pop())
        feed.check()
    except TimeoutError:
        late = deadline is not None and time.monotonic() >= deadline
        raise
    except KeyboardInterrupt:
        # In a notebook the pool goes on, and the next cell needs the workers. A task's own ends no worker.
        late = not came.failed
        raise
    finally:
        came.end()
        engine.forget(came, running=late)
