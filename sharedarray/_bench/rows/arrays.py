"""Plain arrays of some KiB to some MiB as arguments and results, and `share` again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

import sharedarray as sa
from sharedarray._bench import tasks
from sharedarray._bench.contestant import Executor, Limit, Ours
from sharedarray._bench.limits import warm_copy
from sharedarray._bench.machine import human
from sharedarray._bench.race import Race, seconds_of
from sharedarray._bench.rows.scale import Scale
from sharedarray._bench.tasks import Array

SIZES = [1 << power for power in (14, 16, 18, 20, 22)]
"""Bytes of the arrays that most tasks take and return."""

LARGE = 64 << 20
"""Bytes of the array that is shared again and again."""

IN_POOL = "warm copy + no-op in this pool"
WAYS = ("argument", "result")
PLAIN = {(way, size): f"plain {way} of {human(size)}" for way in WAYS for size in SIZES}
AGAIN = "share again and again"
"""Groups of the races."""


def plain_arrays(scale: Scale) -> Iterator[Race]:
    """Yield a plain array, over a warm copy and a no-op task in the same pool."""
    with Limit() as limit, Ours() as ours, Executor() as executor:
        for size in scale.chosen(SIZES):
            data = np.random.default_rng(0).random(size // 8)
            with warm_copy(data) as copy:
                for way in WAYS:
                    yield _race(way, data, copy, (limit, ours, executor), scale)


def _race(
    way: str, data: Array, copy: Callable[[], None], pools: tuple[Limit, Ours, Executor], scale: Scale
) -> Race:
    limit, ours, executor = pools

    def both(no_op: Callable[..., Any]) -> Callable[[], None]:
        def call() -> None:
            copy()
            no_op(tasks.noop, 3)

        return call

    def array(call: Callable[..., Any]) -> Callable[[], None]:
        if way == "argument":
            return lambda: _drop(call(tasks.first, data))
        return lambda: _drop(call(tasks.kept, data.nbytes)[0])

    calls = {
        IN_POOL: both(ours.call),
        limit.name: both(limit.call),
        ours.name: array(ours.call),
        executor.name: array(executor.call),
    }
    for call in calls.values():
        for _ in range(scale.some(6)):  # each worker has made its array, and memory is warm
            call()
    size = data.nbytes
    race = Race(f"a plain {way} of {human(size)}, in one program", IN_POOL, group=PLAIN[way, size])
    loops = scale.some(max(10, min(200, (40 << 20) // size)))
    slower = {executor.name: -(-loops // 5)}
    race.run(
        {name: partial(seconds_of, call, slower.get(name, loops)) for name, call in calls.items()},
        rounds=scale.rounds,
        measured=True,
    )
    race.notes = {limit.name: "warm copy + no-op of a bare worker"}
    return race


def _drop(_: Any) -> None:
    return None


def share_again(scale: Scale) -> Iterator[Race]:
    """Yield a new block for each array, after the one before has been freed; freeing is timed."""
    data = np.random.default_rng(0).random(scale.some(LARGE) // 8)
    with warm_copy(data) as copy:

        def ours() -> None:
            sa.share(data).close()

        def by_hand() -> None:
            block = SharedMemory(create=True, size=data.nbytes)
            array = np.ndarray(data.shape, data.dtype, block.buf)
            array[:] = data
            del array
            block.close()
            block.unlink()

        title = f"share {human(data.nbytes)} again and again, each in a new block, and free it"
        race = Race(title, "limit", "ms", group=AGAIN)
        contestants = {"limit": copy, "sharedarray": ours, "SharedMemory + copy": by_hand}
        race.run(contestants, rounds=2 * scale.rounds, loops=2)
        race.notes = {"limit": "memcpy into mapped memory"}
        yield race
