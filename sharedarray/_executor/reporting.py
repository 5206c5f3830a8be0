"""Reports of a `Pool` on its work."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sharedarray._pool.futures import PoolFuture

if TYPE_CHECKING:
    from sharedarray._display.copies import CopyReport
    from sharedarray._display.pool_stats import PoolStats
    from sharedarray._display.timeline import Timeline
    from sharedarray._pool.core import PoolCore

__all__ = ["Reporting"]


class Reporting:
    """Figures of a pool, the copies of a call, and the timeline of the last tasks."""

    _core: PoolCore

    def stats(self) -> PoolStats:
        """Return what the pool is doing and has done, and its recycled memory, in figures.

        Returns
        -------
        PoolStats
            Counts of workers and tasks, bytes of recycled memory in use and free, with its limits, and bytes
            shared, copied and pickled so far; and the workers' process ids.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     results = list(pool.map(abs, [-1, -2]))
        ...     pool.stats().done
        2
        """
        from sharedarray._display.pool_stats import PoolStats  # few programs ask for it

        core = self._core
        core.receiver.catch_up()
        with core.lock:
            loads = [worker.load for worker in core.handles]
            pids = tuple(worker.pid for worker in core.handles if worker.pid)
            queued = sum(task.remaining for task in itertools.chain(core.dispatcher.queue, core.copier.tasks))
            queued += sum(max(0, load - 1) for load in loads)
        busy = sum(load > 0 for load in loads)
        used, free, count = core.store.sizes()
        limit, idle_limit = core.store.limits
        statistics = core.statistics
        shared, copied, pickled = statistics.totals()
        return PoolStats(
            workers=len(loads),
            busy=busy,
            max_workers=core.workers,
            queued=queued,
            running=busy,
            done=statistics.done,
            failed=statistics.failed,
            cancelled=statistics.cancelled,
            retried=statistics.retried,
            died=statistics.died,
            replaced=statistics.replaced,
            recycled_bytes=used + free,
            recycled_in_use=used,
            recycled_free=free,
            recycled_blocks=count,
            recycled_limit=limit,
            recycled_idle_limit=idle_limit,
            shared_bytes=shared,
            copied_bytes=copied,
            pickled_bytes=pickled,
            pids=pids,
        )

    def copy_report(self, future: Future[Any] | None = None) -> CopyReport | None:
        """Return the bytes of a call that were shared, copied and pickled, by argument.

        Parameters
        ----------
        future : concurrent.futures.Future, optional
            Of the call, as `submit` returned it; the latest call when None.

        Returns
        -------
        CopyReport or None
            None if there was no such call, or too many calls after it.

        Raises
        ------
        TypeError
            `future` is another pool's.

        Examples
        --------
        >>> import numpy as np, sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     future = pool.submit(np.sum, sa.zeros(1_000_000))
        ...     total = future.result()
        ...     pool.copy_report(future).shared_bytes
        8000000
        """
        if future is not None and not isinstance(future, PoolFuture):
            raise TypeError(f"future must be one that a pool's submit returned, not {future!r}")
        self._core.receiver.catch_up()
        return self._core.statistics.report(None if future is None else future.call)

    def timeline(self) -> Timeline:
        """Return which worker ran which of the last tasks: a picture in a notebook, JSON for a browser.

        Returns
        -------
        Timeline
            ``save("run.json")`` writes a trace for ``chrome://tracing`` and Perfetto.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     results = list(pool.map(abs, [-1, -2]))
        ...     [span.label for span in pool.timeline()]
        ['abs', 'abs']
        """
        self._core.receiver.catch_up()
        return self._core.statistics.timeline()

    def _repr_html_(self) -> str:
        timeline = self.timeline()
        shown = f"<details><summary>timeline</summary>{timeline._repr_html_()}</details>" if timeline else ""
        state = self._core.described_state
        return (f"<p>Pool, {state}</p>" if state else "") + self.stats()._repr_html_() + shown
