"""Workers killed again and again under load: every future ends, and nothing is left."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
from concurrent.futures import Future, wait

import numpy as np
import pool_tasks
import pytest
from helpers import FORKS, PROC, SIGNALS, kill, unnamed_memory

import sharedarray as sa
from sharedarray._pool.transport import page, slots

pytestmark = pytest.mark.slow

# Kills for each start method, and seconds between two of them on average: what starts slowly gets more time,
# and most where nothing can be forked.
KILLS = {"fork": 80, "forkserver": 80, "spawn": 20 if FORKS else 15}
PAUSE = {"fork": 0.025, "forkserver": 0.025, "spawn": 0.1 if FORKS else 0.5}


class Killer:
    """Kills workers of a pool at random moments, until it has done so often enough."""

    def __init__(self, pool: sa.Pool, method: str, kills: int, seed: int) -> None:
        self._pool, self._kills, self._random = pool, kills, random.Random(seed)
        self._pace = 1 / PAUSE[method]
        self.killed: set[int] = set()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._kills = 0
        self._thread.join()

    def _run(self) -> None:
        while len(self.killed) < self._kills:
            # A pause is no handshake here: the moment is to be any, in the middle of whatever goes on.
            self.over.wait(self._random.expovariate(self._pace))
            # A process id whose process has ended is not another one's before the pool has noticed.
            workers = [
                worker for worker in list(self._pool._core.handles) if worker.pid not in {0, *self.killed}
            ]
            if len(self.killed) % 2:
                # Every other one that is killed has calls: on a busy machine most workers are still starting.
                workers = [worker for worker in workers if worker.load]
            if workers:
                victim = self._random.choice(workers).pid
                with contextlib.suppress(ProcessLookupError if SIGNALS else OSError):
                    kill(victim)
                    self.killed.add(victim)
        self.over.set()


def load(pool: sa.Pool, shared: sa.SharedArray, rng: np.random.Generator) -> list[tuple[Future, object]]:
    """Submit one of everything; return each future with the result that it must have."""
    small, large = int(rng.integers(1000)), rng.random(int(rng.integers(1, 60_000)))
    start = int(rng.integers(0, len(shared) - 10))
    return [
        (pool.submit(pool_tasks.add, small), small + 1),
        (pool.submit(pool_tasks.pause, 0.01), 0.01),
        (pool.submit(pool_tasks.total, large), float(large.sum())),
        (pool.submit(np.negative, large), -large),
        (pool.submit(np.sqrt, shared[start : start + 10]), np.sqrt(shared[start : start + 10])),
        (pool.submit(sa.full, 5000, small), np.full(5000, small)),
        (pool.submit(pool_tasks.raise_holding, large), pool_tasks.Plain),
    ]


def check(future: Future, expected: object) -> bool:
    """Check an outcome; return whether the worker died on the way."""
    assert future.done()
    error = future.exception()
    if isinstance(error, sa.WorkerDied):
        return True
    if isinstance(expected, type):
        assert isinstance(error, expected)
    else:
        assert np.array_equal(future.result(), expected), (future.result(), expected)
    return False


@pytest.mark.parametrize("retries", [0, 3])
def test_every_future_ends_right_or_with_worker_died(method, retries, monkeypatch):
    monkeypatch.setattr(slots, "IDLE_LIMIT", 1 << 20)  # far less than what is used here
    before = unnamed_memory() if PROC else 0
    rng = np.random.default_rng(retries)
    shared = sa.share(rng.random(5000))
    done = died = 0
    with sa.Pool(3, method, retries=retries) as pool:
        pool.submit(os.getpid).result()
        with Killer(pool, method, KILLS[method], seed=retries) as killer:
            while not killer.over.is_set():
                futures = [pair for _ in range(8) for pair in load(pool, shared, rng)]
                with contextlib.suppress(sa.WorkerDied):
                    assert list(pool.map(pool_tasks.add, range(300))) == list(range(1, 301))
                with contextlib.suppress(sa.WorkerDied):
                    given = rng.random(20_000)
                    assert np.array_equal(pool.map_blocks(np.cos, given, block_size=999), np.cos(given))
                assert not wait([future for future, _ in futures], 60).not_done
                died += sum([check(*futures.pop()) for _ in range(len(futures))])
                done += 1
        assert len(killer.killed) == KILLS[method]
        assert pool.stats().died >= len(killer.killed) - 3  # the last ones may not have been missed yet
        # The pool is as good as new, and its memory back to what an idle pool keeps.
        assert list(pool.map(pool_tasks.add, range(100))) == list(range(1, 101))
        assert done
        assert died or retries
        gc.collect()

        def calm() -> bool:
            stats = pool.stats()
            # Besides, each worker has its page of replies.
            there = unnamed_memory() - stats.workers * page.SIZE if PROC else stats.recycled_bytes
            return not stats.recycled_in_use and max(there, stats.recycled_bytes) <= stats.recycled_idle_limit

        # A worker that was forked while the caller had results has these too, until it ends.
        assert method == "fork" or pool_tasks.until(calm)
        assert pool.stats().recycled_bytes <= pool.stats().recycled_limit
    gc.collect()
    assert not PROC or unnamed_memory() == before


def test_kills_while_the_pool_shuts_down(method):
    for seed in range(2 if method == "spawn" else 5):
        with sa.Pool(3, method) as pool:
            pool.submit(os.getpid).result()
            with Killer(pool, method, 3, seed):
                futures = [pool.submit(pool_tasks.pause, 0.001) for _ in range(50)]
                pool.shutdown(wait=False)
                assert not wait(futures, 60).not_done
                for future in futures:
                    assert future.exception() is None or isinstance(future.exception(), sa.WorkerDied)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(pool_tasks.add, 1)
