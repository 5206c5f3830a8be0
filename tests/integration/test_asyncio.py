"""A pool where other executors are used: asyncio, `concurrent.futures.wait`, and tqdm's `process_map`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import METHODS, alive, wait_until

import sharedarray as sa

# The pool lasts for the module: its workers, what waits for their ends, and the pipes to them and to their
# fork server.
pytestmark = pytest.mark.lingers("descriptor", "child", "thread")


@pytest.fixture(scope="module")
def pool() -> Iterator[sa.Pool]:
    with sa.Pool(2) as made:
        made.submit(abs, 1).result()
        yield made


def row_sum(row: np.ndarray) -> float:
    return float(row.sum())


def begin_and_sleep(where: Path) -> None:
    (where / str(os.getpid())).touch()
    time.sleep(60)


def test_asyncio_awaits_calls(pool: sa.Pool) -> None:
    async def main(frames: sa.SharedArray) -> tuple[list[float], list[float]]:
        loop = asyncio.get_running_loop()
        by_loop = await asyncio.gather(*(loop.run_in_executor(pool, row_sum, row) for row in frames))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(later(row)) for row in frames]
        return by_loop, [task.result() for task in tasks]

    async def later(row: np.ndarray) -> float:
        return await asyncio.wrap_future(pool.submit(row_sum, row))

    with sa.share(np.arange(12.0).reshape(3, 4)) as frames:
        assert asyncio.run(main(frames)) == ([6.0, 22.0, 38.0],) * 2


def end_with(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.005)


def test_the_loop_goes_on_while_workers_work(pool: sa.Pool, tmp_path: Path) -> None:
    async def main() -> int:
        turns = 0
        call = asyncio.wrap_future(pool.submit(end_with, tmp_path / "gate"))
        while not call.done():
            await asyncio.sleep(0.001)
            turns += 1
            if turns == 10:
                (tmp_path / "gate").touch()
        return turns

    assert asyncio.run(main()) >= 10


def test_errors_and_timeouts_come_out_of_await(pool: sa.Pool) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await asyncio.wrap_future(pool.submit(divmod, 1, 0))
        assert "divmod" in str(caught.value.__cause__) or caught.value.__cause__ is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.wrap_future(pool.submit(time.sleep, 0.5))

    asyncio.run(main())


def test_cancelling_ends_a_call_if_that_is_asked_for(pool: sa.Pool, tmp_path: Path) -> None:
    async def main() -> None:
        future = pool.submit(begin_and_sleep, tmp_path)
        task = asyncio.ensure_future(asyncio.wrap_future(future))
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        future.cancel(running=True)  # type: ignore[call-arg]

    asyncio.run(main())
    (pid,) = [int(path.name) for path in tmp_path.iterdir()]
    wait_until(lambda: not alive(pid), "the worker of the cancelled call is ended")
    assert pool.submit(abs, -1).result() == 1


def test_wait_and_as_completed(pool: sa.Pool, tmp_path: Path) -> None:
    futures = [pool.submit(pow, i, 2) for i in range(10)]
    done, rest = concurrent.futures.wait(futures, return_when=concurrent.futures.ALL_COMPLETED)
    assert not rest
    assert sorted(future.result() for future in concurrent.futures.as_completed(done)) == [
        i * i for i in range(10)
    ]
    slow, quick = pool.submit(begin_and_sleep, tmp_path), pool.submit(abs, 1)
    done, rest = concurrent.futures.wait([slow, quick], return_when=concurrent.futures.FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {slow})
    slow.cancel(running=True)  # type: ignore[call-arg]


@pytest.mark.slow
def test_process_map_of_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """tqdm's helper makes its executor itself, and a pool does in its place; the bar is ``progress=True``.

    (Its own bar counts calls of ``submit``, which a pool's ``map`` does without.)
    """
    helpers = pytest.importorskip("tqdm.contrib.concurrent")
    # Its bars have a lock, which has to be one for processes that are not forked.
    lock = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else None).RLock()
    monkeypatch.setattr(helpers.tqdm_auto, "_lock", lock, raising=False)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", sa.Pool)
    with sa.share(np.arange(12.0).reshape(3, 4)) as frames:
        found = helpers.process_map(row_sum, frames, max_workers=2, chunksize=1)
        assert found == [6.0, 22.0, 38.0]
        capsys.readouterr()
        with sa.Pool(2) as pool:
            assert list(pool.map(row_sum, frames, progress=True)) == found
        assert "3/3" in capsys.readouterr().err
