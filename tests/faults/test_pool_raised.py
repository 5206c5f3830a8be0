"""Tasks and callbacks that raise no `Exception`, or one that means something to a waiting thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, wait_until
from needs import few, needs_signals

import sharedarray as sa
from sharedarray import _sigint as sigint

KINDS = {
    "exhausted": StopIteration("end"),
    "exhausted, asynchronously": StopAsyncIteration("end"),
    "generator": GeneratorExit("end"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt("mine"),
    "cancelled in asyncio": asyncio.CancelledError("mine"),
    "cancelled": concurrent.futures.CancelledError("mine"),
    "timeout": TimeoutError("mine"),
    "base": BaseException("mine"),
}
ITEMS = 6
# Out of a map, what is no Exception ends what still runs, with its worker: another one takes its place.
pytestmark = pytest.mark.lingers("descriptor", "child")

SOON = ANSWER  # seconds; a bound against hanging


def raises(kind, item=3):
    """Raise the exception, if it is the item's turn."""
    if item == 3:
        raise KINDS[kind]
    return item


def raises_after(path, kind):
    """Raise the exception as soon as there is a file."""
    pool_tasks.wait_if_path(path)
    raise KINDS[kind]


def block_raises(kind, block):
    raise KINDS[kind]


def as_seen(kind):
    """Type and text of what comes out of a wait."""
    error = KINDS[kind]
    if isinstance(error, StopIteration | StopAsyncIteration):
        return RuntimeError, f"the task raised {type(error).__name__}"
    return type(error), str(error)


def caught(run, *args):
    """Type and text of what comes out of a call."""
    try:
        found = run(*args)
    except BaseException as error:
        return type(error), str(error)
    pytest.fail(f"nothing was raised, but {found!r} came")


def loop(pool, kind):
    return [future.result() for future in [pool.submit(raises, kind, i) for i in range(ITEMS)]]


def generator(pool, kind):
    def results() -> Iterator[int]:
        for future in [pool.submit(raises, kind, i) for i in range(ITEMS)]:
            yield future.result()

    return list(results())


def builtin_map(pool, kind):
    futures = [pool.submit(raises, kind, i) for i in range(ITEMS)]
    return list(map(concurrent.futures.Future.result, futures))


def throw(error):
    raise error


WAYS = {
    "result": lambda pool, kind: pool.submit(raises, kind).result(SOON),
    "exception": lambda pool, kind: throw(pool.submit(raises, kind).exception(SOON)),
    "loop": loop,
    "generator": generator,
    "builtin map": builtin_map,
    "map": lambda pool, kind: list(pool.map(functools.partial(raises, kind), range(ITEMS))),
    "map with arrays": lambda pool, kind: list(
        pool.map(lambda item: raises(kind, int(item[0])), np.arange(ITEMS).reshape(-1, 1))
    ),
    "buffered map": lambda pool, kind: list(
        pool.map(functools.partial(raises, kind), range(ITEMS), buffersize=2)
    ),
    "starmap": lambda pool, kind: list(pool.starmap(raises, [(kind, i) for i in range(ITEMS)])),
    "imap_unordered": lambda pool, kind: list(
        pool.imap_unordered(functools.partial(raises, kind), range(ITEMS))
    ),
    "map_blocks": lambda pool, kind: pool.map_blocks(
        functools.partial(block_raises, kind), np.ones(4), block_size=1
    ),
    "reduce_blocks": lambda pool, kind: pool.reduce_blocks(
        functools.partial(block_raises, kind), max, np.ones(4), block_size=1
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_wait_ends(pool, kind):
    seen = {name: caught(way, pool, kind) for name, way in WAYS.items()}
    assert seen == dict.fromkeys(WAYS, as_seen(kind))
    futures = [pool.submit(raises, kind, i) for i in range(ITEMS)]
    failed = [
        future.exception() is not None for future in concurrent.futures.as_completed(futures, timeout=SOON)
    ]
    assert failed.count(True) == 1
    first = [pool.submit(raises, kind)]
    assert concurrent.futures.wait(first, SOON, concurrent.futures.FIRST_EXCEPTION).done == set(first)
    assert not first[0].cancelled()
    assert pool.submit(abs, -1).result(SOON) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_wait_in_asyncio_ends(pool, kind):
    async def outcome(future):
        """Return what an asyncio future gets, without letting it end the loop."""
        there = asyncio.Event()
        future.add_done_callback(lambda _: there.set())
        await asyncio.wait_for(there.wait(), SOON)
        error = future.exception()
        kinds = {asyncio.CancelledError: concurrent.futures.CancelledError}
        kind = kinds.get(type(error), type(error))  # asyncio has one of the two only
        return kind, str(error)

    async def main():
        running = asyncio.get_running_loop()
        return [
            await outcome(running.run_in_executor(pool, raises, kind)),
            await outcome(asyncio.wrap_future(pool.submit(raises, kind))),
        ]

    found = as_seen(kind.removesuffix(" in asyncio"))
    assert asyncio.run(main()) == [found] * 2


@pytest.mark.parametrize("kind", few(["exhausted", "exhausted, asynchronously"]))
def test_the_worker_is_told_of_where_iteration_ended(pool, kind):
    error = pool.submit(raises, kind).exception()
    assert type(error.__cause__) is type(KINDS[kind])
    assert "in raises" in str(error.__cause__.__cause__)


# -- callbacks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", few(["exit", "generator", "base", "exhausted"], 2))
def test_a_callback_that_asks_for_the_result_does_not_break_the_pool(pool, kind, tmp_path, caplog):
    """Which raises what the task raised: in the pool's own thread, and in one that waits for another task."""
    called = threading.Event()
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        future = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "go"))
        raised = pool.submit(raises_after, str(tmp_path / "raise"), kind)
        # A callback that is added too late is called in this thread, and what it raises comes out here.
        raised.add_done_callback(lambda one: one.result())
        raised.add_done_callback(lambda one: called.set())
        (tmp_path / "raise").touch()
        assert called.wait(SOON)
        (tmp_path / "go").touch()
        assert future.result(SOON) == str(tmp_path / "go")
    assert pool.submit(abs, -2).result(SOON) == 2


def let_go_when_read(pool, path):
    """Create a file as soon as the main thread reads the pool's answers."""

    def watch():
        main = threading.main_thread().ident
        wait_until(lambda: pool._core.receiver.reader.owner == main, "the main thread reads", SOON)
        path.touch()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@needs_signals
def test_ctrl_c_breaks_off_the_wait_and_no_callback(pool, tmp_path):
    """Callbacks are called by a thread of the pool's own, which Ctrl-C does not reach."""
    steps, broken_off = [], threading.Event()

    def interrupts(future):
        os.kill(os.getpid(), signal.SIGINT)
        steps.append(broken_off.wait(SOON))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        future = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "go"))
        other = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "later"))
        future.add_done_callback(interrupts)
        future.add_done_callback(lambda future: steps.append("the next one"))
        thread = let_go_when_read(pool, tmp_path / "go")
        with pytest.raises(KeyboardInterrupt):
            other.result(SOON)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    broken_off.set()
    (tmp_path / "later").touch()
    assert [each.result(SOON) for each in (future, other)] == [str(tmp_path / "go"), str(tmp_path / "later")]
    wait_until(lambda: steps == [True, "the next one"], "both callbacks return", SOON)
    assert pool.submit(abs, -2).result(SOON) == 2


def data_of(future):
    """Return the data of what `pool_tasks.loaded` has returned or raised."""
    try:
        return np.unique(future.result(SOON).data).tolist()
    except pool_tasks.LoadedError as error:
        return list(error.args)


@pytest.fixture
def interrupt_as_it_loads():
    """Raise Ctrl-C while the main thread loads a result; return what follows."""
    seen = []

    def interrupt():
        seen.append(threading.current_thread() is threading.main_thread())
        if seen == [True]:
            signal.raise_signal(signal.SIGINT)
            seen.append("not broken off")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pool_tasks.hooks.append(interrupt)
    yield seen
    pool_tasks.hooks.clear()
    signal.signal(signal.SIGINT, before)


def assert_loaded_again(seen, count):
    """So many were loaded, the first of them twice, by whichever thread."""
    assert (seen[0], len(seen)) == (True, count + 1)
    assert "not broken off" not in seen


@pytest.mark.parametrize("kind", ["object", "array", "exception"])
def test_ctrl_c_breaks_off_the_loading_of_a_result_and_it_is_loaded_again(
    kind, interrupt_as_it_loads, tmp_path
):
    with sa.Pool(1) as pool:
        gate = pool.submit(pool_tasks.wait_if_path, str(tmp_path / "go"))
        future = pool.submit(pool_tasks.loaded, kind, 7)
        other = pool.submit(abs, -2)
        thread = let_go_when_read(pool, tmp_path / "go")
        with pytest.raises(KeyboardInterrupt):
            future.result(SOON)
        thread.join()
        assert data_of(future) == [7]
        assert_loaded_again(interrupt_as_it_loads, 1)
        assert (gate.result(SOON), other.result(SOON)) == (str(tmp_path / "go"), 2)
        assert pool.submit(abs, -3).result(SOON) == 3


def test_what_came_in_the_same_read_is_not_lost(interrupt_as_it_loads, tmp_path):
    """The loading of one answer is broken off; the one before it and the one behind it came with it."""
    calls = [(tmp_path, kind, number) for number, kind in enumerate(["number", "object", "object"])]
    with sa.Pool(1) as pool:
        core = pool._core
        assert pool.submit(abs, -1).result(SOON) == 1

        receiver = core.receiver
        core.intake.function_of(pool_tasks.loaded_and_noted).stats.took(
            1e-3
        )  # so a worker gets two at a time
        with core.lock:
            assert receiver.reader.take(threading.get_ident())  # so that the replies stay in the pipe
        results = core.intake.map(pool_tasks.loaded_and_noted, calls)
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "two calls are done", SOON)
        wait_until(lambda: receiver.pipes.wait(0), "their replies are in the pipe", SOON)
        with pytest.raises(KeyboardInterrupt), sigint.deferred:
            receiver._read_until(lambda: False, None)
        receiver._release()
        found = list(results.in_order())
        assert [getattr(result, "data", result) for result in found] == [0, [1], [2]]
        assert_loaded_again(interrupt_as_it_loads, 2)
