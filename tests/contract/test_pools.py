"""The contract of the pools: what `Pool` and `DaskPool` have in common is tested once, for each of them."""

from __future__ import annotations

import gc
import inspect
import itertools
import multiprocessing.pool
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, wait_until

import sharedarray as sa
from sharedarray._executor.migration import METHODS
from sharedarray._pool.futures import FUTURE_METHODS

pytestmark = pytest.mark.lingers("thread", "descriptor", "child")  # Dask's cluster, and the fork server
POOLS = ["Pool", pytest.param("DaskPool", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Return a function that makes a pool with two workers."""
    if request.param == "Pool":
        yield lambda: sa.Pool(2)
        return
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    from sharedarray.integrations.dask import DaskPool

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "30s"}),
        distributed.LocalCluster(2, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield lambda: DaskPool(client)


@pytest.fixture(scope="module")
def pool_of_module(make: Callable[[], Any]) -> Iterator[Any]:
    with make() as made:
        yield made


@pytest.fixture
def pool(pool_of_module: Any) -> Any:
    return pool_of_module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make" in metafunc.fixturenames:
        metafunc.parametrize("make", POOLS, indirect=True, scope="module")


WAYS = {
    "map": lambda pool, function, items, **more: pool.map(function, items, **more),
    "imap_unordered": lambda pool, function, items, **more: pool.imap_unordered(function, items, **more),
    "buffer": lambda pool, function, items, **more: pool.map(function, items, buffersize=1000, **more),
}
NAMES = {**{way: way for way in WAYS}, "buffer": "map"}


@pytest.fixture(params=["map", "imap_unordered", pytest.param("buffer", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def work(number: int) -> int:
    """Fail for every tenth number, from 7 on."""
    if number % 10 == 7:
        raise ValueError(f"bad {number}")
    return number


def touch(path: Path, gate: Path | None = None) -> None:
    deadline = time.monotonic() + ANSWER
    while gate is not None and not gate.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    path.touch()


def made(directory: Path) -> int:
    return len(list(directory.glob("made*")))


def paths(directory: Path, count: int) -> list[Path]:
    return [directory / f"made{number}" for number in range(count)]


# -- signatures ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_method_is_the_same_or_says_what_to_write() -> None:
    pytest.importorskip("distributed")
    from sharedarray.integrations.dask import DaskPool

    bare = object.__new__(DaskPool)
    for name in dir(sa.Pool):
        ours = getattr(sa.Pool, name)
        if name.startswith("_") or not callable(ours):
            continue
        theirs = getattr(DaskPool, name, None)
        if theirs is None:
            with pytest.raises(AttributeError, match=f"DaskPool has no method '{name}'. Next step: "):
                getattr(bare, name)
        else:
            assert inspect.signature(theirs) == inspect.signature(ours), name
    for name in METHODS:  # of other pools: what the error names is there
        with pytest.raises(AttributeError, match=f"DaskPool has no method '{name}'. Next step: ") as caught:
            getattr(bare, name)
        for method in re.findall(r"pool\.(\w+)", str(caught.value)):
            assert callable(getattr(DaskPool, method))


def test_names_of_other_pools_are_explained(pool: Any) -> None:
    with pytest.raises(AttributeError, match=r"has no method 'imap'\. Next step: write pool\.map"):
        pool.imap  # noqa: B018
    with pytest.raises(TypeError, match="write buffersize=3"):
        pool.map(work, [1], max_tasks_active=3)
    with pytest.raises(TypeError, match="write block_size=3"):
        pool.map_blocks(np.sqrt, np.ones(9), chunks=3)
    with pytest.raises(TypeError, match=rf"^{type(pool).__name__}\.map\(\) got .* 'chunk_size'"):
        pool.map(work, [1], chunk_size=3)


def test_methods_of_an_async_result_are_explained(pool: Any) -> None:
    future = pool.submit(abs, -1)
    theirs = [name for name in vars(multiprocessing.pool.AsyncResult) if not name.startswith("_")]
    assert set(theirs) == set(FUTURE_METHODS)
    for name, cure in FUTURE_METHODS.items():
        with pytest.raises(AttributeError) as caught:
            getattr(future, name)
        assert str(caught.value) == f"{type(future).__name__} has no method {name!r}. Next step: {cure}"
        for method in re.findall(r"future\.(\w+)\(", cure):
            assert callable(getattr(future, method))
    with pytest.raises(AttributeError, match="object has no attribute 'reslut'"):
        future.reslut  # noqa: B018
    assert future.result(ANSWER) == 1


def test_a_pool_that_was_shut_down_says_so(make: Callable[[], Any]) -> None:
    with make() as pool:
        assert "shut down" not in repr(pool)
    assert repr(pool).endswith(", shut down>")
    with pytest.raises(RuntimeError, match="move the call into the with block"):
        pool.submit(abs, -1)
    pool = make()
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"make the call before shutdown\(\)"):
        pool.submit(abs, -1)


def test_bad_arguments(pool: Any) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        pool.map(work)
    for given in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError, match=next(iter(given))):
            pool.map(work, [1], **given)
    with pytest.raises(TypeError, match="takes tuples of arguments"):
        pool.starmap(work, [1])
    with pytest.raises(TypeError, match="takes iterables"):
        pool.imap_unordered(work, 3)


# -- results and exceptions ------------------------------------------------------------------------------


def test_results_are_those_of_the_function(pool: Any, way: str) -> None:
    found = list(WAYS[way](pool, abs, range(-20, 0)))
    if way == "imap_unordered":
        found.sort(reverse=True)
    assert found == list(range(20, 0, -1))
    assert pool.submit(pow, 3, exp=2).result(ANSWER) == 9
    assert list(pool.starmap(pow, [(2, 3), (3, 2)])) == [8, 9]


def test_exceptions_can_be_results(pool: Any, way: str) -> None:
    found = list(WAYS[way](pool, work, range(40), return_exceptions=True))
    failed = [each for each in found if isinstance(each, ValueError)]
    assert sorted(each for each in found if isinstance(each, int)) == [n for n in range(40) if n % 10 != 7]
    for error in failed:
        assert error.__notes__ == [f"item {str(error)[4:]} of {NAMES[way]}(work)"]
        assert "in work" in str(error.__cause__)  # the traceback in the worker
    assert sorted(str(error) for error in failed) == ["bad 17", "bad 27", "bad 37", "bad 7"]


@pytest.mark.parametrize("chunksize", [None, 3])
def test_imap_unordered_goes_on_after_an_exception(pool: Any, chunksize: int | None) -> None:
    results = pool.imap_unordered(work, range(50), chunksize=chunksize)
    found, failed = [], []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            break
        except ValueError as error:
            failed.append(str(error))
    assert sorted(found) == [number for number in range(50) if number % 10 != 7]
    assert sorted(failed) == ["bad 17", "bad 27", "bad 37", "bad 47", "bad 7"]
    assert next(results, None) is None


@pytest.mark.parametrize("ordered", [False, True])
def test_iterables_may_be_endless(pool: Any, ordered: bool) -> None:
    drawn = itertools.count()
    results = pool.map(abs, drawn, buffersize=3) if ordered else pool.imap_unordered(abs, drawn)
    found = sorted(itertools.islice(results, 8))
    if ordered:
        assert found == list(range(8))
        assert next(drawn) == 8 + 3
    results.close()
    assert list(results) == []


def test_an_array_may_be_yielded_again_with_other_data(pool: Any) -> None:
    def frames() -> Iterator[np.ndarray[Any, Any]]:
        array = np.empty(100_000)
        for number in range(30):
            array[:] = number
            yield array

    assert sorted(pool.imap_unordered(np.max, frames())) == list(range(30))
    array = np.ones(100_000)
    future = pool.submit(np.sum, array)
    array[:] = 0
    assert future.result(ANSWER) == 100_000


def test_an_exception_of_the_iterable_comes_behind_the_results(pool: Any) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyError("mine")

    for results in (pool.imap_unordered(abs, items(), chunksize=3), pool.map(abs, items(), buffersize=3)):
        found = []
        with pytest.raises(KeyError, match="mine"):
            found.extend(next(results) for _ in range(9))
        while len(found) < 5:
            found.append(len(found))
        assert sorted(found) == list(range(5))
    with pytest.raises(KeyError, match="mine"):
        pool.map(abs, items())


def opened(number: int) -> object:
    return (n for n in ()) if number == 3 else number


def test_what_cannot_be_sent_fails_alone(pool: Any, way: str) -> None:
    bad: Any = (n for n in ())
    found = list(WAYS[way](pool, str, [0, bad, 2], return_exceptions=True))
    (error,) = [each for each in found if isinstance(each, sa.NotPicklableError)]
    assert error.__notes__ == [f"item 1 of {NAMES[way]}(str)"]
    assert sorted(each for each in found if each is not error) == ["0", "2"]
    found = list(WAYS[way](pool, opened, range(5), return_exceptions=True))
    (error,) = [each for each in found if isinstance(each, sa.NotPicklableError)]
    assert "generator that cannot be sent back" in str(error)
    assert sorted(each for each in found if each is not error) == [0, 1, 2, 4]
    assert isinstance(pool.submit(str, bad).exception(ANSWER), sa.NotPicklableError)
    with pytest.raises(sa.NotPicklableError):
        WAYS[way](pool, threading.Lock().__enter__, [1])


def test_a_timeout_ends_the_wait(pool: Any, tmp_path: Path) -> None:
    for buffersize in (None, 3):
        results = pool.map(touch, [tmp_path / "x"], [tmp_path / "gate"], timeout=0.05, buffersize=buffersize)
        with pytest.raises(TimeoutError):
            next(results)
    (tmp_path / "gate").touch()


def fail_at_30(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if block[0] == 30:
        raise ValueError("30")
    return block


def test_blocks(pool: Any) -> None:
    array = sa.share(np.arange(40.0))
    assert np.array_equal(pool.map_blocks(np.sqrt, array, block_size=7), np.sqrt(array))
    assert pool.reduce_blocks(np.sum, np.add, array, block_size=7) == array.sum()
    for call in (
        pool.map_blocks,
        lambda *given, **more: pool.reduce_blocks(given[0], np.add, given[1], **more),
    ):
        with pytest.raises(ValueError, match="30") as caught:
            call(fail_at_30, array, block_size=10)
        assert caught.value.__notes__[0].startswith("block 3 of ")


def fill(group: sa.Group) -> str:
    group["t"][:] += 1
    return type(group).__name__


def test_a_group_is_one_argument(pool: Any) -> None:
    with sa.group(None, {"t": (1000, "f8"), "rgb": ((10, 10, 3), "u1")}) as group:
        assert pool.submit(fill, group).result(ANSWER) == "Group"
        for way in WAYS:
            assert list(WAYS[way](pool, fill, [group])) == ["Group"]
        assert (group["t"] == 4).all()


# -- results that are not taken --------------------------------------------------------------------------


def test_calls_run_though_no_code_takes_their_results(make: Callable[[], Any], tmp_path: Path) -> None:
    kept = []
    with make() as pool:
        for way in WAYS:
            (tmp_path / way).mkdir()
            kept.append(WAYS[way](pool, touch, paths(tmp_path / way, 15)))
            WAYS[way](pool, touch, paths(tmp_path / way, 30)[15:])
    assert [made(tmp_path / way) for way in WAYS] == [30] * 3


def test_an_iterator_that_was_not_advanced_cancels_nothing(pool: Any, way: str, tmp_path: Path) -> None:
    results = WAYS[way](pool, touch, paths(tmp_path, 15))
    results.close()
    assert list(results) == []
    results = WAYS[way](pool, touch, paths(tmp_path, 30)[15:])
    del results
    gc.collect()
    wait_until(lambda: made(tmp_path) == 30, "all calls are run", ANSWER)


class TouchAfter:
    """Make a file, once there is another one unless it is the first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, number: int) -> None:
        touch(self.directory / f"made{number}", self.directory / "gate" if number else None)


@pytest.mark.parametrize("end", ["del", pytest.param("close", marks=pytest.mark.slow)])
def test_an_advanced_iterator_cancels_what_has_not_begun(
    pool: Any, way: str, end: str, tmp_path: Path
) -> None:
    results = WAYS[way](pool, TouchAfter(tmp_path), range(50), chunksize=1)
    next(results)
    parts = [] if isinstance(pool, sa.Pool) else pool._core.running()
    if end == "close":
        results.close()
    del results
    gc.collect()
    cancelled = [part.cancelled() for part in parts]  # the cluster learns of it a moment later
    (tmp_path / "gate").touch()
    assert pool.submit(abs, -1).result(ANSWER) == 1
    assert all(cancelled)
    assert len(parts) > 4 or made(tmp_path) < 20


def test_a_warning_tells_of_exceptions_that_no_code_takes(make: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with make() as pool:
            for way in WAYS:
                WAYS[way](pool, work, range(20))
        gc.collect()
    told = [each for each in caught if each.category is sa.UnconsumedResultsWarning]
    assert len(told) == 3
    for warning in told:
        assert "2 of 20 calls of " in str(warning.message)
        assert "the first one, item 7: ValueError: bad 7" in str(warning.message)
        assert warning.filename == __file__


# -- the end ---------------------------------------------------------------------------------------------


def test_no_calls_behind_the_end(make: Callable[[], Any]) -> None:
    with make() as pool:
        array = pool.share(np.arange(9.0))
        assert list(pool.map(float, array)) == list(range(9))
    assert array.closed
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)
    for way in WAYS:
        with pytest.raises(RuntimeError, match="after shutdown"):
            WAYS[way](pool, abs, [1])


def test_cancel_futures_cancels_and_nothing_is_told(make: Callable[[], Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool = make()
        results = [WAYS[way](pool, TouchAfter(tmp_path), range(1, 50), chunksize=1) for way in WAYS]
        pool.shutdown(wait=False, cancel_futures=True)
        (tmp_path / "gate").touch()
        pool.shutdown()
        for each in results:
            with pytest.raises(CancelledError):
                list(each)
        results.clear()
        gc.collect()
    assert made(tmp_path) < 20 or not isinstance(pool, sa.Pool)
