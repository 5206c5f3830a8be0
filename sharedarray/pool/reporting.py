"""Reports of a `Pool` on its work."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sharedarray.pool.futures import PoolFuture

if TYPE_CHECKING:
    from sharedarray.display.copies import CopyReport
    from sharedarray.display.pool_stats import PoolStats
    from sharedarray.display.timeline import Timeline
    from sharedarray.pool.engine import Engine

__all__ = ["Reporting"]


class Reporting:
    """Figures of a pool, the copies of a call, and the timeline of the last tasks."""

    _engine: Engine

    def stats(self) -> PoolStats:
        """Return what the pool is doing and has done, and its recycled memory, in figures.

        Returns
        -------
        PoolStats
            Counts of workers and tasks, bytes of recycled memory in use and free, with its limits, and bytes
            shared, copied and pickled so far.
        """
        return self._engine.stats()

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
        """
        if future is not None and not isinstance(future, PoolFuture):
            raise TypeError(f"future must be one that a pool's submit returned, not {future!r}")
        self._engine.receiver.catch_up()
        return self._engine.statistics.report(None if future is None else future.call)

    def timeline(self) -> Timeline:
        """Return which worker ran which of the last tasks: a picture in a notebook, JSON for a browser.

        Returns
        -------
        Timeline
            ``save("run.json")`` writes a trace for ``chrome://tracing`` and Perfetto.
        """
        self._engine.receiver.catch_up()
        return self._engine.statistics.timeline()

    def _repr_html_(self) -> str:
        timeline = self.timeline()
        shown = f"<details><summary>timeline</summary>{timeline._repr_html_()}</details>" if timeline else ""
        return self.stats()._repr_html_() + shown
