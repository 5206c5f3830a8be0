"""`PoolStats`: what a pool is doing and has done, in figures."""

from __future__ import annotations

from dataclasses import dataclass

from sharedarray._display.tables import table
from sharedarray._display.text import human, quantity

__all__ = ["PoolStats"]


@dataclass(frozen=True, slots=True, repr=False)
class PoolStats:
    """The present work of a pool, and its work so far.

    Attributes
    ----------
    workers, busy, max_workers : int
        Workers, those of them that have tasks, and the largest number of workers.
    queued, running : int
        Items that wait, and items that run.
    done, failed, cancelled, retried : int
        Items that returned; that raised, exceeded their timeout or lost their worker; that were cancelled;
        and the number of times that a task was run again because its worker had died.
    died, replaced : int
        Workers that ended unexpectedly or were killed; and workers that were started in place of others.
    recycled_bytes, recycled_in_use, recycled_free : int
        Bytes of the memory in which plain arrays travel: all, those in use by arguments and results, and
        those kept for the next ones.
    recycled_blocks : int
        Blocks of that memory.
    recycled_limit, recycled_idle_limit : int
        Largest number of free bytes that are kept, while the pool has work and while it is idle.
    shared_bytes, copied_bytes, pickled_bytes : int
        Bytes of arguments and results that were sent by reference, copied, and pickled.
    pids : tuple of int
        Process ids of the workers.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Pool(2) as pool:
    ...     result = pool.submit(pow, 2, 10).result()
    ...     found = pool.stats()
    >>> found.max_workers, found.done, found.failed
    (2, 1, 0)
    """

    workers: int
    busy: int
    max_workers: int
    queued: int
    running: int
    done: int
    failed: int
    cancelled: int
    retried: int
    died: int
    replaced: int
    recycled_bytes: int
    recycled_in_use: int
    recycled_free: int
    recycled_blocks: int
    recycled_limit: int
    recycled_idle_limit: int
    shared_bytes: int
    copied_bytes: int
    pickled_bytes: int
    pids: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return "\n".join(f"{name:10}{text}" for name, text in self._lines())

    def _repr_html_(self) -> str:
        return table("Pool", self._lines(), head=False, named=True)

    def _lines(self) -> list[tuple[str, str]]:
        workers = (
            f"{self.workers:,} of at most {self.max_workers:,}, {self.busy:,} busy, {self.died:,} died, "
            f"{self.replaced:,} replaced"
        )
        tasks = (
            f"{self.queued:,} queued, {self.running:,} running, {self.done:,} done, {self.failed:,} failed, "
            f"{self.cancelled:,} cancelled, {self.retried:,} retried"
        )
        recycled = (
            f"{human(self.recycled_bytes)} in {quantity(self.recycled_blocks, 'block')}: "
            f"{human(self.recycled_in_use)} in use, {human(self.recycled_free)} free "
            f"(at most {human(self.recycled_limit)}, {human(self.recycled_idle_limit)} when idle)"
        )
        sent = (
            f"{human(self.shared_bytes)} shared, {human(self.copied_bytes)} copied, "
            f"{human(self.pickled_bytes)} pickled"
        )
        return [("workers", workers), ("tasks", tasks), ("recycled", recycled), ("sent", sent)]
