"""How close does a numeric function on two processes come to what two processors can do?

For functions of NumPy, which let go of the interpreter's lock, the limit is two threads that do the same
blocks with ``out=`` and share everything for nothing. For a function that holds the lock it is two bare
workers with one message each, and one process alone is what most people have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from conftest import BUDGET, QUICK, Everyone, human, need

import sharedarray as sa
from sharedarray._bench.contestants import CONTESTANTS as ALL
from sharedarray._bench.limits import CONTEXT, bare_connection
from sharedarray._bench.tasks import Array, attach_both, block_by_hand, collatz

SIZE = 8 << 20 if QUICK else 512 << 20  # bytes of the input, and of the output
BLOCK = 1 << 20 if QUICK else 8 << 20  # bytes of a block of the rivals: the most that the pool gives in one
NUMBERS = 4_000 if QUICK else 100_000  # elements for the function in Python


STANDARD = ("limit", "sharedarray", "sharedarray, shared", "ProcessPoolExecutor", "multiprocessing.Pool")
CONTESTANTS = list(STANDARD) if QUICK else [name for name in ALL if "blocks" in ALL[name].questions]


def blocks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@contextlib.contextmanager
def by_hand(data: Array) -> Iterator[Callable[[np.ufunc], None]]:
    """A `multiprocessing.Pool` that works on blocks of `SharedMemory`, attached by its workers before."""
    there, back = (SharedMemory(create=True, size=data.nbytes) for _ in range(2))
    np.ndarray(data.shape, data.dtype, there.buf)[:] = data
    np.ndarray(data.shape, data.dtype, back.buf)[:] = 0
    names = there.name, back.name
    pool = CONTEXT.Pool(2, attach_both, (*names, data.shape, data.dtype))
    pieces = blocks(len(data), BLOCK // data.itemsize)

    def run(function: np.ufunc) -> None:
        orders = [(function, piece.start, piece.stop) for piece in pieces]
        list(pool.imap_unordered(block_by_hand, orders))

    try:
        yield run
    finally:
        pool.close()
        pool.join()
        for block in there, back:
            block.close()
            block.unlink()


@pytest.mark.parametrize("function", [np.sqrt, np.sin], ids=lambda function: function.__name__)
def test_map_blocks(race: Callable[..., Any], function: np.ufunc) -> None:
    """`map_blocks` over a shared array: at most 1.1 times two threads with the same blocks.

    Once against these alone, and once beside what others do, which moves gigabytes through the caches.
    """
    need(SIZE, 5)
    length = SIZE // 8
    pieces = blocks(length, BLOCK // 8)
    with (
        sa.empty(length) as array,
        sa.zeros(length) as out,
        ThreadPoolExecutor(2) as executor,
        ProcessPoolExecutor(2, CONTEXT) as processes,
        sa.Pool(2) as pool,
    ):
        np.random.default_rng(0).random(out=array)
        plain, result = np.asarray(array), np.asarray(out)

        def threads() -> None:
            list(executor.map(lambda piece: function(plain[piece], out=result[piece]), pieces))

        def ours() -> None:
            pool.map_blocks(function, array, out=out)

        def alone() -> None:
            function(plain, out=result)

        def pickled() -> None:
            for piece, part in zip(
                pieces, processes.map(function, [plain[piece] for piece in pieces]), strict=True
            ):
                result[piece] = part

        limit = {"2 threads, out=": threads, "sharedarray": ours}
        race(
            f"{function.__name__} of {SIZE >> 20} MiB by blocks, alone",
            limit,
            baseline="2 threads, out=",
            rounds=15,
            unit="ms",
            group=f"{function.__name__} by blocks, alone",
        )
        with by_hand(plain) as other:
            race(
                f"{function.__name__} of {SIZE >> 20} MiB by blocks",
                {
                    **limit,
                    "SharedMemory by hand + Pool": lambda: other(function),
                    "one process, out=": alone,
                    "ProcessPoolExecutor.map": pickled,
                },
                baseline="2 threads, out=",
                rounds=9,
                unit="ms",
                group=f"{function.__name__} by blocks",
            )


def test_python_function(race: Callable[..., Any]) -> None:
    """`map_blocks` of a function in pure Python: at most 1 / 1.9 = 0.53 of the time of one process."""
    numbers = np.random.default_rng(0).integers(1, 1 << 16, NUMBERS)
    with (
        sa.share(numbers) as array,
        ThreadPoolExecutor(2) as executor,
        bare_connection(collatz) as one,
        bare_connection(collatz) as two,
        ProcessPoolExecutor(2, CONTEXT) as processes,
        sa.Pool(2) as pool,
    ):
        halves = np.array_split(numbers, 2)
        pieces = np.array_split(numbers, 8)

        def alone() -> None:
            collatz(numbers)

        def bare() -> None:
            one.send(halves[0])
            two.send(halves[1])
            np.concatenate([one.recv(), two.recv()])

        def ours() -> Callable[[], None]:
            return pool.map_blocks(collatz, array).close  # type: ignore[attr-defined,no-any-return]

        def threads() -> None:
            np.concatenate(list(executor.map(collatz, pieces)))

        def executed() -> None:
            np.concatenate(list(processes.map(collatz, pieces)))

        race(
            f"a function in Python over {NUMBERS:,} numbers",
            {
                "one process": alone,
                "sharedarray": ours,
                "2 bare workers, a half each": bare,
                "ProcessPoolExecutor.map": executed,
                "2 threads": threads,
            },
            baseline="one process",
            rounds=9,
            unit="ms",
            group="pure Python by blocks",
        )


def test_map_blocks_of_everybody(race: Callable[..., Any], everyone: Everyone) -> None:
    """A plain array in blocks through the library's map, and put together again; two threads beside."""
    size = SIZE // 2
    need(size, 6)
    race(
        f"sqrt of {human(size)} by blocks, each in a program of its own",
        everyone.asked("blocks", size),
        baseline="limit",
        rounds=7,
        budget=BUDGET,
        unit="ms",
        measured=True,
        missing=everyone.missing,
        group="by blocks, everybody",
        size=size,
    )
