"""The results of workers: values, arrays, exceptions; their order, and which process holds them."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import pickle
import threading
import time
import traceback
import types

import numpy as np
import pool_tasks
import pytest
from helpers import answer
from needs import many_starts

import sharedarray as sa
from sharedarray import NotPicklableError, _pipes as pipes
from sharedarray._pool import RemoteTraceback

# -- calls ----------------------------------------------------------------------------------------------


def test_is_an_executor(pool):
    assert isinstance(pool, concurrent.futures.Executor)
    assert pool.submit(pool_tasks.add_all, 1, 2, c=3).result() == 6
    assert pool.submit(pool_tasks.add_all, fn=1, self=2).result() == 3


def test_map_and_its_kin(pool):
    assert list(pool.map(pool_tasks.add, range(20))) == list(range(1, 21))
    assert list(pool.map(pool_tasks.add, range(10), range(7))) == [2 * n for n in range(7)]
    assert list(pool.map(pool_tasks.add, range(20), chunksize=6)) == list(range(1, 21))
    assert list(pool.map(pool_tasks.add, [])) == []
    assert list(pool.starmap(pool_tasks.add, [[1, 2], (3, 4)])) == [3, 7]
    assert sorted(pool.imap_unordered(pool_tasks.add, range(50), chunksize=4)) == list(range(1, 51))


def test_imap_unordered_takes_no_more_than_it_needs(pool):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield len(taken)

    results = pool.imap_unordered(pool_tasks.identity, endless())
    assert len({next(results) for _ in range(30)}) == 30
    results.close()
    assert len(taken) < 60


def test_map_with_a_buffer_takes_no_more_than_it_needs(pool):
    taken = []

    def numbers():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = pool.map(pool_tasks.add, numbers(), buffersize=3)
    assert taken == [0, 1, 2]
    assert [next(results) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert len(taken) == 8
    results.close()
    assert list(pool.map(pool_tasks.add, [1, 2], buffersize=10)) == [2, 3]
    assert list(pool.map(pool_tasks.add, [], buffersize=1)) == []
    with pytest.raises(TypeError):
        list(pool.map(pool_tasks.add, [1, "x"], buffersize=1))
    with pytest.raises(ValueError, match="buffersize must be greater than 0"):
        pool.map(pool_tasks.add, [1], buffersize=0)
    with pytest.raises(TypeError, match="buffersize must be an integer"):
        pool.map(pool_tasks.add, [1], buffersize=1.5)


def test_the_first_to_finish_comes_first(pool, tmp_path):
    release = tmp_path / "release"
    calls = [(pool_tasks.signal_and_wait_for, (tmp_path / "started", release)), (pool_tasks.identity, (1,))]
    results = pool.imap_unordered(lambda call: call[0](*call[1]), calls)
    assert next(results) == 1
    release.touch()
    assert list(results) == ["released"]


def test_functions_that_cannot_be_imported(pool):
    offset = 10

    def closure(x):
        return inner(x) + offset

    def inner(x):
        return x * 2

    assert list(pool.map(lambda x: x + offset, range(3))) == [10, 11, 12]
    assert pool.submit(closure, 1).result() == 12


def test_functions_of_a_notebook(pool, monkeypatch):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)
    cell = (
        "import numpy as np\n"
        "factor = 3\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def __eq__(self, other): return type(other) is Point and other.x == self.x\n"
        "class Odd(Exception): pass\n"
        "def helper(x): return np.multiply(x, factor)\n"
        "def work(point):\n"
        "    if point.x < 0: raise Odd(point.x)\n"
        "    return Point(int(helper(point.x)))\n"
    )
    exec(cell, main.__dict__)
    assert list(pool.map(main.work, [main.Point(1), main.Point(2)])) == [main.Point(3), main.Point(6)]
    with pytest.raises(main.Odd, match="-1"):
        pool.submit(main.work, main.Point(-1)).result()


def test_workers_have_names(pool):
    name = pool.submit(lambda: multiprocessing.current_process().name).result()
    assert name.startswith("sharedarray-worker-")
    assert pool.submit(lambda: multiprocessing.parent_process().pid).result() == os.getpid()
    ours = {child.pid for child in multiprocessing.active_children()}
    assert pool.submit(os.getpid).result() in ours
    assert pool.submit(os.getcwd).result() == os.getcwd()
    assert pool.submit(lambda: bytes(multiprocessing.current_process().authkey)).result() == bytes(
        multiprocessing.current_process().authkey
    )


def test_futures(pool, tmp_path):
    futures = [pool.submit(pool_tasks.add, n) for n in range(8)]
    assert {future.result() for future in concurrent.futures.as_completed(futures)} == set(range(1, 9))
    release = tmp_path / "release"
    running = [
        pool.submit(pool_tasks.signal_and_wait_for, tmp_path / f"started{n}", release) for n in range(2)
    ]
    assert pool_tasks.until(lambda: all((tmp_path / f"started{n}").exists() for n in range(2)))
    waiting = pool.submit(pool_tasks.add, 1)
    assert waiting.cancel()
    assert not running[0].cancel()
    release.touch()
    assert [future.result() for future in running] == ["released"] * 2
    assert waiting.cancelled()
    done, _ = concurrent.futures.wait([waiting], timeout=60)
    assert done


def test_a_callback_may_submit(pool):
    second: list[concurrent.futures.Future[int]] = []
    there = threading.Event()

    def again(future):
        second.append(pool.submit(pool_tasks.add, future.result()))
        there.set()

    pool.submit(pool_tasks.add, 1).add_done_callback(again)
    assert there.wait(60)
    assert second[0].result() == 3


def test_asyncio(pool):
    async def main():
        loop = asyncio.get_running_loop()
        one = loop.run_in_executor(pool, pool_tasks.add, 1)
        two = asyncio.wrap_future(pool.submit(pool_tasks.add, 2))
        return await one, await two

    assert asyncio.run(main()) == (2, 3)


def test_many_threads_submit(pool):
    results: list[int] = []

    def submit(start):
        results.extend(pool.map(pool_tasks.add, range(start, start + 50)))

    threads = [threading.Thread(target=submit, args=(100 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(100 * n + k + 1 for n in range(6) for k in range(50))


LAZY = {
    "map": lambda pool, *args: pool.map(pool_tasks.signal_and_wait_for, *args, timeout=0.05),
    "starmap": lambda pool, *args: pool.starmap(
        pool_tasks.signal_and_wait_for, zip(*args, strict=True), timeout=0.05
    ),
    "imap_unordered": lambda pool, *args: pool.imap_unordered(
        pool_tasks.signal_and_wait_for, *args, timeout=0.05
    ),
    "buffersize": lambda pool, *args: pool.map(
        pool_tasks.signal_and_wait_for, *args, timeout=0.05, buffersize=4
    ),
}


@many_starts
@pytest.mark.parametrize("way", LAZY)
def test_map_times_out(first_method, tmp_path, way):
    """A call that runs too long is ended, its worker replaced at once, and nothing else is lost."""
    with sa.Pool(2, first_method) as pool:
        before = set(pool.map(pool_tasks.meet_pid, [tmp_path / "meet"] * 2, [2, 2]))
        started, never = tmp_path / "started", tmp_path / "never"
        while not started.exists():  # what has not begun in time ends no worker
            with pytest.raises(TimeoutError):
                next(iter(LAZY[way](pool, [started], [never])))
        assert pool_tasks.until(lambda: len(before & set(pool.stats().pids)) == 1)
        assert pool_tasks.until(lambda: pool.stats().workers == 2)
        assert pool.submit(abs, -1).result() == 1


def test_more_workers_than_the_system_can_wait_for(monkeypatch):
    monkeypatch.setattr(pipes, "MAX_WORKERS", 1)
    with pytest.raises(ValueError, match="max_workers must be at most 1"):
        sa.Pool(2)
    for wanted in (1, None):
        with sa.Pool(wanted) as pool:
            assert pool.stats().max_workers == 1


def test_wrong_arguments():
    with pytest.raises(ValueError, match="max_workers"):
        sa.Pool(0)
    with pytest.raises(TypeError, match="max_workers"):
        sa.Pool("two")
    with pytest.raises(ValueError, match="start method"):
        sa.Pool(1, "teleport")
    with pytest.raises(TypeError, match="mp_context"):
        sa.Pool(1, 3)
    with pytest.raises(TypeError, match="initializer"):
        sa.Pool(1, initializer=3)
    with pytest.raises(ValueError, match="retries"):
        sa.Pool(1, retries=-1)
    with pytest.raises(ValueError, match="max_tasks_per_child"):
        sa.Pool(1, max_tasks_per_child=0)
    with sa.Pool(1) as pool, pytest.raises(ValueError, match="chunksize"):
        pool.map(len, [], chunksize=0)


def test_a_context_is_as_good_as_its_name(method):
    with sa.Pool(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(pool_tasks.add, 1).result() == 2


# -- arrays ---------------------------------------------------------------------------------------------


DTYPES = [np.float64, "S3", "datetime64[ms]", [("a", "u1"), ("b", ">f8")]]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [*itertools.product([0, 1, 1000, 100_000], DTYPES), (3_000_000, np.float64)],
)
def test_plain_arrays_arrive_private_and_writable(pool, size, dtype):
    array = np.zeros(size, dtype)
    array.view(np.uint8)[...] = np.arange(array.nbytes, dtype=np.uint8) % 50
    kept = array.copy()

    def change(given):
        given[...] = given[::-1].copy()
        return given

    result = pool.submit(change, array).result()
    assert array.tobytes() == kept.tobytes()
    assert result.tobytes() == kept[::-1].tobytes()
    assert result.dtype == kept.dtype
    assert result.flags.writeable
    if size:
        result[...] = result[0]


@pytest.mark.parametrize("size", [10, 50_000])
@pytest.mark.parametrize("retries", [0, 1])
def test_what_is_read_only_here_is_writable_there(pool, size, retries):
    """And private: one array for many tasks as well."""
    array = np.arange(float(size))
    array.flags.writeable = False
    masked = np.ma.masked_array(array, array % 2 == 0)

    def change(*values):
        for value in values:
            value[0] += 1
        return [value[0] for value in values]

    retrying = pool.options(retries=retries)
    assert retrying.submit(pool_tasks.writable, array, array[::-1], array[::2]).result() == [True] * 3
    assert retrying.submit(lambda values: pool_tasks.writable(*values), [array, array]).result() == [True] * 2
    assert retrying.submit(pool_tasks.writable, masked.data, masked.mask, masked).result() == [True] * 3
    assert list(retrying.map(change, [array] * 8)) == [[1.0]] * 8
    assert list(retrying.map(change, [array] * 8, [array[::-1]] * 8)) == [[1.0, float(size)]] * 8
    assert array[0] == 0


def test_workers_are_replaced_within_a_map():
    """After so many items, whatever batches they came in."""
    with sa.Pool(3, max_tasks_per_child=100) as pool:
        counts = collections.Counter(pool.map(pool_tasks.pid_of, range(2500)))
    assert max(counts.values()) <= 100
    assert sum(counts.values()) == 2500
    assert len(counts) >= 25


def test_shared_arrays_are_the_same_memory(pool):
    array = sa.zeros((6, 8))
    pid = pool.submit(pool_tasks.fill, array[2:4, ::-3], 7).result()
    assert pid != os.getpid()
    assert (array[2:4, ::-3] == 7).all()
    assert array.sum() == 7 * array[2:4, ::-3].size
    view = np.asarray(array).T[1:]
    assert pool.submit(pool_tasks.describe, view).result()[:3] == ("ndarray", view.shape, view.strides)


def test_a_reference_is_small_whatever_it_stands_for(pool):
    from sharedarray._pool.codec.pickler import dumps

    array = sa.empty((4096, 1024))
    pickled = dumps((pool_tasks.total, (array[::2],), {}))
    assert pickled.shares
    assert not pickled.buffers
    assert len(pickled.stream) < 600


def test_what_cannot_be_referenced_travels_as_data(pool):
    array = sa.ones(10)
    array.close()
    assert pool.submit(pool_tasks.total, array).result() == 10
    with sa.ones(10) as other:
        private = sa.attach(other.name, "c")
        private[0] = 5
        assert pool.submit(pool_tasks.total, private).result() == 14


def test_a_shared_result_belongs_to_the_caller(pool):
    before = pool.stats()
    result = pool.submit(pool_tasks.ones, (100, 100)).result()
    assert isinstance(result, sa.SharedArray)
    after = pool.stats()
    assert after.shared_bytes - before.shared_bytes == result.nbytes
    assert after.copied_bytes == before.copied_bytes
    name = result.name
    assert result.sum() == 10_000
    assert sa.exists(name)
    del result
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_shared_arrays_inside_a_result(pool):
    result = pool.submit(pool_tasks.inside, 50).result()
    names = [result["list"][0].name, result["view"].name]
    assert result["list"][0].sum() == 50
    assert result["view"].shape == (2, 2)
    del result
    assert pool_tasks.until(lambda: not any(map(sa.exists, names)))


def test_many_shared_results_in_a_row(pool):
    for result in pool.map(pool_tasks.ones, [(10,)] * 100):
        assert result.sum() == 10


def test_an_idle_pool_holds_no_arguments(pool):
    array = sa.ones(1000)
    name = array.name
    assert pool.submit(pool_tasks.total, array).result() == 1000
    del array
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_an_idle_pool_holds_nothing_of_a_task_that_failed(pool):
    array = sa.ones(1000)
    name = array.name
    future = pool.submit(pool_tasks.raise_holding, array)
    with pytest.raises(pool_tasks.Plain):
        future.result()
    del array, future
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_an_idle_pool_holds_no_cycles(pool):
    array = sa.ones(1000)
    name = array.name
    assert pool.submit(pool_tasks.keep_in_cycle, array).result() == 2
    del array
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_shared_arrays_in_a_closure(pool):
    def look_up(array):
        return list(pool.map(lambda i: int(array[i]), range(10), chunksize=2)), array.name

    found, name = look_up(sa.share(np.arange(10)))
    assert found == list(range(10))
    assert pool_tasks.until(lambda: not sa.exists(name))


def test_arguments_live_until_the_task_has_them(method):
    with sa.Pool(1, method) as pool:
        futures = [pool.submit(pool_tasks.total, sa.full(100, n)) for n in range(20)]
        assert [future.result() for future in futures] == [100.0 * n for n in range(20)]


def test_large_messages_both_ways_at_once(pool):
    arrays = [np.full(2_500_000, n, float) for n in range(4)]
    for n, result in enumerate(pool.map(pool_tasks.identity, arrays)):
        assert (result == n).all()
    text = "x" * 20_000_000
    assert all(result == text for result in pool.map(pool_tasks.identity, [text] * 2))


def test_blocks_of_the_pool_end_with_it(method):
    with sa.Pool(1, method) as pool:
        made = [pool.empty(3), pool.zeros(3, int), pool.ones((2, 2)), pool.full(3, 5), pool.share([1, 2])]
        assert pool.submit(pool_tasks.total, made[3]).result() == 15
        names = [array.name for array in made]
        assert all(map(sa.exists, names))
    assert all(array.closed for array in made)
    assert not any(map(sa.exists, names))
    pool = sa.Pool(1, method)
    never_used = pool.ones(3)
    pool.shutdown()
    assert never_used.closed


# -- exceptions -----------------------------------------------------------------------------------------


def test_an_exception_keeps_what_it_had(pool):
    with pytest.raises(pool_tasks.Plain) as caught:
        pool.submit(pool_tasks.with_cause).result()
    error = caught.value
    assert error.args == ("text", 7)
    assert error.extra == [1, 2]
    assert error.__notes__ == ["a note"]
    assert type(error.__cause__) is KeyError
    assert error.__cause__.args == ("key",)
    remote = error.__cause__.__cause__
    assert isinstance(remote, RemoteTraceback)
    shown = "".join(traceback.format_exception(error))
    assert 'error = Plain("text", 7)' not in str(remote)
    assert "raise error from cause" in shown
    assert "worker.py" not in shown
    assert "a note" in shown


def test_an_exception_keeps_its_context(pool):
    with pytest.raises(pool_tasks.Plain) as caught:
        pool.submit(pool_tasks.with_context).result()
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert isinstance(caught.value.__context__, KeyError)
    assert "During handling" in str(caught.value.__cause__)


def test_exits_and_interrupts_of_a_task_are_exceptions_of_the_task(pool):
    with pytest.raises(SystemExit):
        pool.submit(exit, 3).result()
    with pytest.raises(KeyboardInterrupt):
        pool.submit(_raise, KeyboardInterrupt).result()
    assert pool.submit(pool_tasks.add, 1).result() == 2


def _raise(kind):
    raise kind


def test_an_exception_with_a_real_traceback_shows_the_tasks_part_of_it(method):
    """As tblib has it for all exceptions, which Dask installs in any process that imports it."""
    pytest.importorskip("tblib")
    with (
        sa.Pool(1, method, initializer=pool_tasks.install_tblib) as pool,
        pytest.raises(pool_tasks.Plain) as caught,
    ):
        pool.submit(pool_tasks.with_cause).result()
    shown = "".join(traceback.format_exception(caught.value))
    assert "in with_cause" in shown.rpartition("direct cause")[2]
    assert "worker.py" not in shown


def test_exceptions_that_do_not_survive_pickle(pool):
    with pytest.raises(NotPicklableError, match=r"pool_tasks\.Trouble: what") as caught:
        pool.submit(pool_tasks.trouble).result()
    assert 'raise Trouble("what", "why")' in str(caught.value.__cause__)


def test_what_cannot_be_sent(pool):
    bad = [
        pool.submit(pool_tasks.identity, threading.Lock()),
        pool.submit(pool_tasks.lock_result),
        pool.submit(pool_tasks.identity, pool_tasks.Unreadable()),
    ]
    good = pool.submit(pool_tasks.add, 1)
    with pytest.raises(pickle.PicklingError, match="cannot be sent to a worker"):
        bad[0].result()
    with pytest.raises(pickle.PicklingError, match="cannot be sent back"):
        bad[1].result()
    with pytest.raises(pool_tasks.Plain, match="cannot be loaded"):
        bad[2].result()
    assert good.result() == 2


def test_a_result_that_cannot_be_loaded(pool):
    with pytest.raises(NotPicklableError, match="could not be loaded") as caught:
        pool.submit(pool_tasks.Unreadable).result()
    assert isinstance(caught.value.__cause__, pool_tasks.Plain)


def test_one_failure_in_a_map(pool):
    results = pool.map(lambda n: 1 // n, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


# -- options --------------------------------------------------------------------------------------------


def test_initializer(method):
    with sa.Pool(2, method, pool_tasks.set_state, (5,)) as pool:
        assert set(pool.map(lambda _: pool_tasks.get_state(), range(8))) == {5}
    offset = 3
    with sa.Pool(1, method, lambda x: pool_tasks.set_state(x + offset), (1,)) as pool:
        assert pool.submit(pool_tasks.get_state).result() == 4


def test_initializer_gets_locks_and_shared_arrays(method):
    lock = multiprocessing.get_context(method).Lock()
    with sa.Pool(1, method, pool_tasks.set_state, (lock,)) as pool:
        with lock:
            future = pool.submit(pool_tasks.get_state_locked)
            time.sleep(0.05)
            assert not future.done()
        assert future.result() == "locked"
    array = sa.zeros(5)
    with sa.Pool(1, method, pool_tasks.set_state, (array,)) as pool:
        pool.submit(lambda: pool_tasks.fill(pool_tasks.get_state(), 2)).result()
    assert array.sum() == 10


@many_starts
def test_max_tasks_per_child(method):
    with sa.Pool(1, method, max_tasks_per_child=3) as pool:
        pids = [pool.submit(os.getpid).result() for _ in range(7)]
    assert pids[0] == pids[2] != pids[3] == pids[5] != pids[6]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_per_worker(method, threads, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with sa.Pool(1, method, threads_per_worker=threads) as pool:
        found, variable = pool.submit(pool_tasks.thread_limits).result()
    assert variable == str(threads)
    assert all(count <= threads for count in found)


def test_libraries_find_their_limit_when_they_are_loaded(method):
    """In a program in whose environment none is: here, the tests' own would be enough."""
    script = """
        import os, sys
        for name in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
            del os.environ[name]
        import sharedarray as sa, pool_tasks
        from helpers import say
        found = []
        for threads in (None, 1):
            with sa.Pool(1, sys.argv[1], threads_per_worker=threads) as pool:
                found.append(sorted(pool.submit(pool_tasks.thread_limits).result()[0]))
        say(found)
    """
    without, limited = answer(script, method)
    if not without:
        pytest.skip("no library of this NumPy can be asked for its threads")
    assert limited == [1]
    assert max(without) > 1 or os.cpu_count() == 1  # or this proves nothing


def test_threads_of_each_library(method, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with sa.Pool(1, method, threads_per_worker={"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 2}) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "2"
        assert all(count <= 2 for count in pool.submit(pool_tasks.thread_limits).result()[0])
    with pytest.raises(ValueError, match="no variable 'OMP_THREADS', only OMP_NUM_THREADS"):
        sa.Pool(1, method, threads_per_worker={"OMP_THREADS": 1})
    with pytest.raises(ValueError, match="OMP_NUM_THREADS must be greater than 0"):
        sa.Pool(1, method, threads_per_worker={"OMP_NUM_THREADS": 0})


@pytest.mark.lingers("descriptor")  # the pipe to a fork server with this environment
def test_no_thread_limit(method, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with sa.Pool(1, method, threads_per_worker=None) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "7"


def test_progress(pool, capsys):
    assert list(pool.map(pool_tasks.add, range(5), progress=True)) == [1, 2, 3, 4, 5]
    assert "5/5" in capsys.readouterr().err
    assert sorted(pool.imap_unordered(pool_tasks.add, range(3), progress={"desc": "adding"})) == [1, 2, 3]
    assert "adding" in capsys.readouterr().err


def test_progress_without_tqdm(pool, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(sa.MissingExtraError, match=r"numpy-sharedarray\[progress\]"):
        pool.map(pool_tasks.add, [1], progress=True)
    with pytest.raises(ImportError):
        pool.map_blocks(np.sin, np.ones(3), progress=True)


# -- iterables that raise -------------------------------------------------------------------------------


def counting(stop, error):
    yield from range(stop)
    raise error


@pytest.mark.parametrize("stop", [0, 3, 20])
@pytest.mark.parametrize(
    "way",
    [
        lambda pool, numbers: pool.map(pool_tasks.add, numbers, buffersize=4),
        lambda pool, numbers: pool.imap_unordered(pool_tasks.add, numbers),
    ],
    ids=["buffersize", "unordered"],
)
def test_an_iterable_that_raises_loses_no_result_before_it(pool, way, stop):
    came = []
    with pytest.raises(OSError, match="the file ends here"):  # noqa: PT012
        for result in way(pool, counting(stop, OSError("the file ends here"))):
            came.append(result)  # noqa: PERF402
    assert sorted(came) == list(range(1, stop + 1))


@pytest.mark.parametrize("way", ["map", "starmap"])
def test_an_iterable_that_is_consumed_at_once_raises_at_once(pool, way):
    before = pool.stats().done
    with pytest.raises(OSError, match="the file ends here"):
        getattr(pool, way)(pool_tasks.add, ((n,) for n in counting(3, OSError("the file ends here"))))
    assert pool.stats().done == before
