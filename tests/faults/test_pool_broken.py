"""An object that cannot be loaded, called, returned or shown ends its own item, and the pool goes on."""

from __future__ import annotations

import gc
import math
import threading

import numpy as np
import pool_broken
import pool_tasks
import pytest
from helpers import ANSWER, wait_until

import sharedarray as sa

NP = sa.NotPicklableError

# The function, and the exception that its item ends with.
FUNCTIONS = {
    "loading it raises": (pool_broken.Unloadable(pool_broken.refuse), ModuleNotFoundError),
    "loading it exits": (pool_broken.Unloadable(pool_broken.leave), SystemExit),
    "loading it does not end": (pool_broken.Unloadable(pool_broken.recurse), RecursionError),
    "loading it interrupts": (pool_broken.Unloadable(pool_broken.interrupt), KeyboardInterrupt),
    "it exits": (pool_broken.leave, SystemExit),
    "it does not end": (pool_broken.recurse, RecursionError),
    "it interrupts": (pool_broken.interrupt, KeyboardInterrupt),
    "an exception without text": (pool_broken.raise_silent, pool_broken.Silent),
    "an exception whose text exits": (pool_broken.raise_quitting, pool_broken.Quitting),
    "an exception that cannot be made again": (pool_broken.raise_closed, NP),
    "an exception whose pickling exits": (pool_broken.raise_quits_pickled, NP),
    "an exception whose pickling raises such": (pool_broken.raise_silent_pickled, NP),
    "an exception whose loading exits": (pool_broken.raise_quits_loaded, NP),
    "an exception that cannot be changed": (pool_broken.raise_frozen, pool_broken.Frozen),
    "an exception with odd notes": (pool_broken.raise_annotated, pool_broken.Annotated),
    "an exception that hides its cause": (pool_broken.raise_causeless, pool_broken.Causeless),
    "exceptions in a circle": (pool_broken.raise_in_circles, ValueError),
    "exceptions in a circle with an array": (pool_broken.raise_holding, pool_broken.Holding),
    "groups of exceptions": (pool_broken.raise_groups, ExceptionGroup),
    "a long chain of exceptions": (pool_broken.raise_chain, ValueError),
    "a result of an odd class": (pool_broken.return_unhashable, NP),
    "a result whose pickling exits": (pool_broken.return_quits, SystemExit),
    "a result whose pickling raises such": (pool_broken.return_silent, NP),
    "a result whose pickling raises what exits": (pool_broken.return_quitting, NP),
    "a result whose pickling does not end": (pool_broken.return_endless, NP),
    "a result that no process can load": (pool_broken.return_loads_nowhere, NP),
    "a result whose loading exits": (pool_broken.return_loading_quits, NP),
    "a result whose loading raises such": (pool_broken.return_loading_silent, NP),
}
EACH = pytest.mark.parametrize("which", FUNCTIONS)

LIMIT = ANSWER  # seconds within which each of these is over, on a machine that is busy


@pytest.fixture(scope="module")
def one_of_module():
    with sa.Pool(1) as pool:
        assert pool.submit(abs, -1).result() == 1
        yield pool


@pytest.fixture
def one(one_of_module):
    """Provide a pool whose worker gets all items in rows, one behind the other."""
    yield one_of_module
    store = one_of_module._core.store

    def all_free():
        gc.collect()  # exceptions in cycles, which hold recycled memory
        store.trim(math.inf)
        return not any(store.sizes())

    wait_until(all_free, "no recycled memory is left")


def within(pool, call):
    """Call in a thread of its own; end the pool rather than wait for ever."""
    came = []

    def run():
        try:
            came.append(call())
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    if not came:
        pool.kill_workers()
        thread.join(LIMIT)
        pytest.fail("it hangs")
    return came[0]


def goes_on(pool):
    """Assert that no worker died, that none is thought to have work, and that all of them get some."""
    assert list(pool.map(pool_tasks.add, range(50))) == list(range(1, 51))
    wait_until(lambda: not pool.stats().busy, "no call is unfinished")
    stats = pool.stats()
    assert (stats.died, stats.queued) == (0, 0)
    wait_until(lambda: all(worker.accepts for worker in pool._core.handles), "no worker owes anything")


@EACH
def test_a_submitted_call_ends_alone(one, which):
    function, kind = FUNCTIONS[which]
    futures = [one.submit(function if n == 2 else abs, -n) for n in range(5)]
    assert type(futures[2].exception(LIMIT)) is kind
    assert [future.result(LIMIT) for future in futures if future is not futures[2]] == [0, 1, 3, 4]
    goes_on(one)


@EACH
def test_an_item_of_a_row_ends_alone(one, which):
    function, kind = FUNCTIONS[which]
    assert type(within(one, lambda: list(one.map(function, [1.0] * 4)))) is kind
    came = []

    def take():
        for value in one.map(pool_broken.Sometimes(function), range(5)):
            came.append(value)  # noqa: PERF402  (what came before the exception counts)

    assert type(within(one, take)) is kind
    if came:  # else the function could not be loaded
        assert came == [0, 1]
    goes_on(one)


@pytest.mark.slow
@EACH
def test_every_way_to_call_ends(one, which):
    function, kind = FUNCTIONS[which]
    ways = {
        "arrays": lambda: list(one.map(function, [np.ones(3)] * 3)),
        "a time limit": lambda: list(one.map(function, [1.0] * 4, timeout=LIMIT)),
        "a limit for each": lambda: list(one.options(timeout=LIMIT).map(function, [1.0] * 4)),
        "retries": lambda: list(one.options(retries=1).map(function, [1.0] * 4)),
        "a buffer": lambda: list(one.map(function, [1.0] * 4, buffersize=2)),
        "starmap": lambda: list(one.starmap(function, [(1.0,)] * 4)),
        "as they come": lambda: list(one.imap_unordered(function, [1.0] * 4)),
        "blocks": lambda: one.map_blocks(function, np.ones(4), block_size=1),
        "blocks to an array": lambda: one.map_blocks(function, sa.ones(4), block_size=1, out=sa.zeros(4)),
        "a reduction": lambda: one.reduce_blocks(function, max, np.ones(4), block_size=1),
        "a deadline": lambda: one.map_blocks(function, np.ones(4), block_size=1, timeout=LIMIT),
    }
    for name, way in ways.items():
        came = within(one, way)
        if "blocks" in name or name == "a deadline":
            assert isinstance(came, BaseException), name
        else:
            assert type(came) is kind, name
    goes_on(one)


def test_a_function_that_cannot_be_loaded_ends_the_items_of_its_row_alone(method):
    with sa.Pool(2, method) as pool:
        function = pool_broken.Unloadable(pool_broken.refuse)
        failed = within(pool, lambda: list(pool.map(function, range(100))))
        assert isinstance(failed, ModuleNotFoundError)
        goes_on(pool)
        assert within(pool, pool.shutdown) is None


def test_a_result_that_refuses_to_be_looked_through_arrives(one):
    (found,) = one.map(pool_broken.return_table, [1])
    assert dict.__getitem__(found, "array").tolist() == [1, 1, 1]
    goes_on(one)


def test_a_long_integer_arrives_among_short_ones(one):
    assert list(one.map(pool_broken.Sometimes(pool_broken.return_digits), range(5))) == [
        0,
        1,
        10**50_000,
        3,
        4,
    ]
    goes_on(one)


@pytest.mark.parametrize("name", ["print", "open", "__import__"])
def test_a_builtin_that_a_task_has_broken_breaks_no_other_task(one, name):
    """The task itself may fail, as the worker needs the builtin to reply."""
    broken = one.submit(pool_broken.break_builtin, name)
    assert one.submit(pool_tasks.add, 4).result(LIMIT) == 5
    assert list(one.map(pool_tasks.add, range(4))) == [1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        one.submit(divmod, 1, 0).result(LIMIT)
    assert broken.done()
