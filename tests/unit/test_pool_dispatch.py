"""Which worker gets which task: no task waits behind a slow one while a worker is free, and none is lost."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait
from pathlib import Path

import numpy as np
import pool_tasks
import pytest
from helpers import PROC, kill, run, wait_until
from needs import few, many_starts

import sharedarray as sa
from sharedarray._pool import reader


@pytest.fixture
def two(first_method, tmp_path):
    """Provide a pool of two workers that are there, and know how long some functions take."""
    with sa.Pool(2, first_method) as pool:
        meeting = tmp_path / "meeting"
        assert len(set(pool.map(pool_tasks.meet_pid, [meeting] * 2, [2] * 2))) == 2
        yield pool


@pytest.mark.parametrize("place", [0, 1, 50, 99])
def test_what_is_behind_a_slow_item_of_a_map_moves(two, tmp_path, place):
    """All others are done while one of them still runs, wherever it stands."""
    release = tmp_path / "release"
    items = [str(release) if n == place else n for n in range(100)]
    list(two.map(pool_tasks.wait_if_path, range(1000)))  # quick, as far as the pool knows
    results = two.imap_unordered(pool_tasks.wait_if_path, items)
    found = [next(results) for _ in range(99)]
    assert sorted(found) == [n for n in range(100) if n != place]
    release.touch()
    assert next(results) == str(release)


def test_what_is_submitted_behind_a_slow_task_moves(two, tmp_path):
    release = tmp_path / "release"
    for _ in range(3):
        wait([two.submit(pool_tasks.wait_if_path, n) for n in range(300)])
    futures = [two.submit(pool_tasks.wait_if_path, str(release) if n == 10 else n) for n in range(300)]
    slow = futures.pop(10)
    assert [future.result() for future in futures] == [n for n in range(300) if n != 10]
    assert not slow.done()
    assert slow.running()
    release.touch()
    assert slow.result() == str(release)


def test_a_result_is_not_held_back_by_native_code_that_keeps_the_interpreter(tmp_path):
    """A worker sends small results many at a time; one that is done must arrive all the same.

    It does so if the call lets other threads run for a moment before it keeps the interpreter.
    """
    pipe = str(tmp_path / "pipe")
    pool_tasks.prepare_to_block(pipe)
    with sa.Pool(1) as pool:
        list(pool.map(pool_tasks.block_if_path, range(2000)))
        results = pool.map(pool_tasks.block_if_path, [*range(20), pipe, *range(20, 40)])
        assert [next(results) for _ in range(20)] == list(range(20))
        futures = [pool.submit(pool_tasks.block_if_path, n) for n in (50, 51)]
        pool_tasks.let_go(pipe)
        assert next(results) == pipe
        assert list(results) == list(range(20, 40))
        assert [future.result() for future in futures] == [50, 51]


def test_workers_share_a_map_of_slow_items_evenly(two, tmp_path):
    """Each of four items waits until another one runs as well: two that are alone would wait for ever."""
    rounds = [tmp_path / str(n // 2) for n in range(8)]
    for path in set(rounds):
        path.mkdir()
    assert list(two.map(pool_tasks.meet, rounds, [2] * 8)) == [2] * 8


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_chunksize_changes_nothing(two, chunksize):
    assert list(two.map(abs, range(-500, 0), chunksize=chunksize)) == list(range(500, 0, -1))
    assert sorted(two.imap_unordered(abs, range(-50, 0), chunksize=chunksize)) == list(range(1, 51))


@pytest.mark.parametrize("chunksize", [1, 1000])
def test_small_tasks_go_in_batches(two, chunksize, monkeypatch):
    """Once it is known how small they are, and whatever the caller thinks of that."""
    list(two.map(abs, range(1000)))
    dispatcher, batches = two._core.dispatcher, []

    def give(worker, task, slot=None, give=dispatcher.give):
        batches.append(task.remaining)
        give(worker, task, slot)

    monkeypatch.setattr(dispatcher, "give", give)
    assert list(two.map(abs, range(10_000), chunksize=chunksize)) == list(range(10_000))
    # On a busy machine a call that loses its processor makes the next ones seem slow for a while, so these go
    # in small batches.
    assert len(batches) < 5000
    assert max(batches) > 10


def test_many_small_tasks_in_every_way(two):
    assert [f.result() for f in [two.submit(abs, -n) for n in range(20_000)]] == list(range(20_000))
    assert list(two.map(abs, range(-50_000, 0))) == list(range(50_000, 0, -1))
    assert (
        sum(future.result() for future in as_completed([two.submit(abs, n) for n in range(2000)])) == 1999000
    )
    assert sorted(two.imap_unordered(abs, range(-2000, 0))) == list(range(1, 2001))
    assert list(two.starmap(divmod, [(n, 3) for n in range(1000)])) == [divmod(n, 3) for n in range(1000)]


def test_items_of_many_kinds_in_one_map(two):
    """Rows of simple items, and others between them; results of all sizes and exceptions."""
    items = [
        b"x" * 50_000 if n % 31 == 0 else [n] if n % 17 == 0 else "text" if n % 5 == 0 else n
        for n in range(600)
    ]
    assert list(two.map(pool_tasks.identity, items)) == items
    results = two.map(pool_tasks.fail_if_text, items[1:])
    assert [next(results) for _ in range(4)] == items[1:5]
    with pytest.raises(ValueError, match="text"):
        next(results)


def test_threads_wait_for_different_futures_at_the_same_time(two, tmp_path):
    """One of them reads for all; each is woken for its own."""
    done: dict[int, object] = {}
    gates = [tmp_path / f"gate{n}" for n in range(2)]
    futures = [two.submit(pool_tasks.wait_if_path, str(gate)) for gate in gates]

    def waiter(n: int) -> None:
        done[n] = futures[n].result()

    threads = [threading.Thread(target=waiter, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    gates[1].touch()
    threads[1].join(60)
    assert done == {1: str(gates[1])}
    gates[0].touch()
    threads[0].join(60)
    assert set(done) == {0, 1}


def test_callbacks_may_submit_and_wait(two):
    """In whatever thread a callback runs, it is not kept from using the pool."""
    seen = []

    def again(future):
        seen.append(two.submit(abs, -future.result() - 1).result(timeout=60))

    first = two.submit(abs, -1)
    first.add_done_callback(again)
    first.result()
    wait_until(lambda: seen == [2], "the callback's own task")


def test_a_callback_may_wait_while_another_worker_dies(two, tmp_path):
    """The thread that reads the answers has to leave that to the one that buries workers."""
    started, begin, release = (tmp_path / name for name in ("started", "begin", "release"))
    inner, main = two._core, threading.get_ident()
    dying = two.submit(pool_tasks.signal_and_wait, started)
    victim = int(wait_until(lambda: started.exists() and started.read_text(), "the task that is to die"))
    seen, waiting = [], threading.Event()

    def living():
        return [worker.pid for worker in list(inner.handles)]

    def others():
        wait_until(lambda: inner.receiver.reader.owner == main, "this thread to read the answers")
        begin.touch()
        assert waiting.wait(60)
        kill(victim)
        wait_until(lambda: dying.done() or victim not in living(), "its death to be noticed")
        release.touch()
        wait_until(lambda: seen, "the callback to go on")

    def waits(future):
        later = two.submit(pool_tasks.wait_if_path, str(release))
        waiting.set()
        seen.append(later.result(timeout=60))

    thread = threading.Thread(target=others)
    first = two.submit(pool_tasks.wait_if_path, str(begin))
    first.add_done_callback(waits)
    thread.start()
    assert first.result() == str(begin)
    thread.join()
    assert seen == [str(release)]
    assert isinstance(dying.exception(), sa.WorkerDied)


def test_a_timeout_of_result_leaves_the_task_alone(two, tmp_path):
    release = tmp_path / "release"
    future = two.submit(pool_tasks.wait_if_path, str(release))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
    release.touch()
    assert future.result() == str(release)


# -- ending what runs -----------------------------------------------------------------------------------


def test_a_limit_ends_the_task_and_nothing_else(two):
    patient = two.options(timeout=0.3)
    before = set(two.stats().pids)
    others = [two.submit(pool_tasks.identity, n) for n in range(20)]
    late = patient.submit(time.sleep, 1000)
    fine = two.options(timeout=60).submit(abs, -4)
    with pytest.raises(TimeoutError, match=r"sleep was not done within 0\.3 s"):
        late.result()
    assert fine.result() == 4
    assert [future.result() for future in others] == list(range(20))
    assert len(before & set(two.stats().pids)) == 1
    assert two.stats().failed == 1


def begun(begin, count):
    """Begin maps until the first results of one are there; return these, and the iterator of the others.

    On a busy machine any item may be late.
    """
    for _ in range(20):
        results = begin()
        with contextlib.suppress(TimeoutError):
            return [next(results) for _ in range(count)], results
    raise AssertionError("the first items are late, too")


def test_a_limit_is_for_each_item_of_a_map(two):
    found, results = begun(lambda: two.options(timeout=0.4).map(time.sleep, [0.01] * 10 + [1000]), 10)
    assert found == [None] * 10
    with pytest.raises(TimeoutError):
        next(results)
    assert two.submit(abs, -1).result() == 1


def test_a_limit_ends_native_code_that_keeps_the_interpreter(tmp_path):
    """It keeps the replies to the items before it from being sent as well."""
    pipe = str(tmp_path / "pipe")
    pool_tasks.prepare_to_block(pipe)
    with sa.Pool(1) as pool:
        list(pool.map(pool_tasks.block_at_once, range(2000)))
        guard = threading.Timer(60, kill, pool.stats().pids)
        guard.start()
        limited = pool.options(timeout=0.2)
        found, results = begun(lambda: limited.map(pool_tasks.block_at_once, [*range(20), pipe]), 20)
        assert found == list(range(20))
        with pytest.raises(TimeoutError):
            next(results)
        guard.cancel()
        guard.join()
        assert pool.submit(abs, -1).result() == 1


def test_running_tasks_are_cancelled_on_request(two, tmp_path):
    started = tmp_path / "started"
    future = two.submit(pool_tasks.signal_and_wait_for, started, tmp_path / "never")
    wait_until(started.exists, "the task")
    assert not future.cancel()
    assert future.cancel(running=True)
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    assert two.submit(abs, -3).result() == 3
    assert two.stats().cancelled == 1


def test_what_waits_behind_is_cancelled_without_harm(two, tmp_path):
    """A task that a worker was given and has not begun is taken back."""
    release = tmp_path / "release"
    wait([two.submit(pool_tasks.wait_if_path, n) for n in range(500)])
    slow = [two.submit(pool_tasks.wait_if_path, str(release)) for _ in range(2)]
    wait_until(lambda: all(future.running() for future in slow), "both workers to be busy")
    waiting = [two.submit(pool_tasks.touch, tmp_path / f"touched{n}") for n in range(40)]
    assert all(future.cancel() for future in waiting[::2])
    release.touch()
    wait(waiting)
    assert [future.cancelled() for future in waiting] == [n % 2 == 0 for n in range(40)]
    assert sorted(tmp_path.glob("touched*")) == sorted(tmp_path / f"touched{n}" for n in range(1, 40, 2))
    assert [future.result() for future in slow] == [str(release)] * 2


def test_leaving_a_map_early_lets_the_rest_go(two, tmp_path):
    release = tmp_path / "release"
    calls = [str(tmp_path / "first"), *[str(tmp_path / f"made{n}") for n in range(50)]]
    gates = [release] * len(calls)
    gates[0] = tmp_path  # which is there
    results = two.map(pool_tasks.touch_after, calls, gates)
    next(results)
    del results
    gc.collect()
    wait_until(lambda: two.stats().cancelled >= 48, "the rest is dropped, but for what has begun")
    release.touch()
    assert two.submit(abs, -1).result() == 1
    two.shutdown()
    assert len(list(tmp_path.glob("made*"))) <= 2


def test_statistics_add_up(two):
    wait([two.submit(abs, n) for n in range(50)])
    list(two.map(abs, range(50)))
    assert isinstance(two.submit(pool_tasks.fail_if_text, "text").exception(), ValueError)
    stats = two.stats()
    assert (stats.done, stats.failed, stats.queued, stats.busy) == (102, 1, 0, 0)
    assert (stats.workers, stats.max_workers, stats.died) == (2, 2, 0)


# -- calls that a worker begins at once, and answers that may not be waited for ---------------------------


@pytest.fixture
def pair(tmp_path):
    """Provide a pool of two workers that are there."""
    with sa.Pool(2) as pool:
        assert len(set(pool.map(pool_tasks.meet_pid, [tmp_path / "meeting"] * 2, [2] * 2))) == 2
        yield pool


def _warm_up(pool):
    """Run calls one after the other, each waited for."""
    for n in range(20):
        assert pool.submit(abs, -n).result() == n


@pytest.fixture
def unwatched(pair, monkeypatch):
    """Provide the pool of two, whose management thread does not happen to come by and read what is there."""
    monkeypatch.setattr(reader, "LEASE", 1000.0)
    _warm_up(pair)
    inner = pair._core.receiver.reader
    wait_until(lambda: inner.check() is None or inner._check_at > time.monotonic() + 100, "the last check")
    _warm_up(pair)
    return pair


def _asked_by_callback(future):
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    return called.wait(60)


def _asked_again_and_again(future):
    return wait_until(future.done, "the answer")


ASKED = {
    "not at all": lambda future: wait_until(lambda: future._state == "FINISHED", "the answer"),
    "by a callback": _asked_by_callback,
    "again and again": _asked_again_and_again,
    "by wait": lambda future: not wait([future], 10).not_done,
    "by as_completed": lambda future: list(as_completed([future], 10)) == [future],
    "for its exception": lambda future: future.exception(60) is None,
    "for a while": lambda future: future.result(60) is not None,
}


# A result of 1 MiB needs an answer of the pool's before it can be sent.
SIZES = [1, pytest.param(1 << 20, marks=pytest.mark.slow)]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("when", ["the first one", "of many"])
@pytest.mark.parametrize("size", SIZES)
def test_an_answer_comes_however_it_is_asked_for(pair, asked, when, size):
    if when == "of many":
        _warm_up(pair)
    for _ in range(3):
        future = pair.submit(pool_tasks.make_full, size, 7)
        assert ASKED[asked](future)
        assert future.result().sum() == 7 * size


@many_starts
@pytest.mark.parametrize("asked", [asked for asked in ASKED if asked != "not at all"])
@pytest.mark.parametrize("size", SIZES)
def test_who_asks_for_an_answer_needs_no_patience(unwatched, asked, size):
    for _ in range(3):
        assert ASKED[asked](unwatched.submit(pool_tasks.make_full, size, 7))


@pytest.mark.parametrize("report", ["stats", "timeline", "copy_report"])
def test_reports_know_answers_without_a_waiter(unwatched, tmp_path, report):
    pair = unwatched
    before = pair.stats().done
    future = pair.submit(pool_tasks.touch, str(tmp_path / "there"))
    wait_until((tmp_path / "there").exists, "the task")
    if report == "stats":
        wait_until(lambda: pair.stats().done == before + 1, "its answer")
    elif report == "timeline":
        wait_until(lambda: pair.timeline()[-1].label == "touch", "its answer")
    else:
        wait_until(lambda: "result" in {row.argument for row in pair.copy_report(future).rows}, "it")
    assert pair.stats().busy == 0


def test_a_pool_with_abandoned_answers_goes_on(pair, tmp_path):
    """More calls than workers, and none is waited for."""
    _warm_up(pair)
    for n in range(30):
        pair.submit(pool_tasks.touch, str(tmp_path / str(n)))
    wait_until(lambda: len(list(tmp_path.glob("*"))) >= 30, "the tasks")
    wait_until(lambda: pair.stats().busy == 0, "the answers")
    assert pair.submit(abs, -1).result() == 1


def test_threads_wait_while_others_only_send(pair):
    """The thread that reads hands over to the next one, or to the management thread."""
    ends, wrong = threading.Event(), []

    def send():
        while not ends.is_set():
            if not _asked_by_callback(pair.submit(abs, -3)):
                wrong.append("no answer")
                return

    def ask(number):
        found = [pair.submit(pool_tasks.add, n, number).result() for n in range(300)]
        wrong.extend(n for n in range(300) if found[n] != n + number)

    threads = [threading.Thread(target=send), *(threading.Thread(target=ask, args=(n,)) for n in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    ends.set()
    threads[0].join()
    assert wrong == []


def _records():
    return sa.share([(1, 2.0), (3, 4.0)], dtype=[("n", "i4"), ("x", "f8")])


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: (sa.share([1.0, 2.0]),),
        lambda: (1, sa.share([1.0, 2.0]), "text", b"bytes", None),
        lambda: (sa.share([1.0, 2.0]), sa.share([3, 4])),
        lambda: (sa.share([[1, 2], [3, 4]])[:, 1],),
        lambda: (_records(),),
        lambda: (sa.share(5.0),),
        lambda: (sa.share([]),),
    ],
)
def test_small_calls_with_shared_arrays(pair, arguments):
    args = arguments()
    for _ in range(3):
        found = pair.submit(pool_tasks.describe_all, *args).result()
        assert found == pool_tasks.describe_all(*args)
    twice = pair.submit(pool_tasks.are_one, args[-1], args[-1]).result()
    assert twice


def test_an_array_is_sent_as_it_is_now(pair):
    """The block may have lost its name a moment ago, and the array its right to be written to."""
    shared = sa.share([[1, 2, 3], [4, 5, 6]])
    assert pair.submit(pool_tasks.describe, shared).result() == pool_tasks.describe(shared)
    shared.setflags(write=False)
    assert pair.submit(pool_tasks.describe, shared).result() == pool_tasks.describe(shared)
    for _ in range(20):
        assert pair.submit(pool_tasks.total, shared).result() == 21
    shared.setflags(write=True)
    shared.unlink()
    pair.submit(pool_tasks.fill, shared, 0).result()  # a copy of it
    assert shared.sum() == 21


def _reshaped(array):
    array.shape = (3, 2)


def _of_other_type(array):
    array.dtype = "u8"


def _read_only(array):
    array.setflags(write=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the newest NumPy: it still can be done
@pytest.mark.parametrize("change", [_reshaped, _of_other_type, _read_only])
def test_a_call_is_made_anew_where_the_array_was_changed(pair, change):
    shared = sa.share(np.array([[1, 2, 3], [4, 5, 6]], "i8"))
    for _ in range(2):
        assert pair.submit(pool_tasks.describe, shared).result() == pool_tasks.describe(shared)
    change(shared)
    for _ in range(2):
        assert pair.submit(pool_tasks.describe, shared).result() == pool_tasks.describe(shared)
        assert pair.submit(pool_tasks.total, shared).result() == 21


@pytest.mark.parametrize("held", [False, True])
def test_an_array_that_was_closed_is_copied(pair, held):
    """Its block may be gone, its data is not while there is a view of it."""
    shared = sa.share([1, 2, 3])
    other = sa.attach(shared.name) if held else None
    for _ in range(2):
        pair.submit(pool_tasks.fill_with_ones, shared).result()
    assert shared.tolist() == [1, 1, 1]
    shared[:] = 2
    shared.close()
    for _ in range(2):
        pair.submit(pool_tasks.fill_with_ones, shared).result()
        assert pair.submit(pool_tasks.total, shared).result() == 6
    assert shared.tolist() == [2, 2, 2]
    del other


def test_pools_share_what_an_array_remembers_of_calls(pair, first_method):
    shared = sa.share([1, 2, 3])
    with sa.Pool(1, first_method) as other:
        for _ in range(3):
            for pool in (pair, other):
                assert pool.submit(pool_tasks.total, shared).result() == 6
                assert pool.submit(len, shared).result() == 3
                assert pool.copy_report().shared_bytes == shared.nbytes


def test_calls_with_arrays_are_reported_for_long(pair):
    """Not only the newest one, as of calls with numbers."""
    shared = sa.zeros(1000)
    futures = [pair.submit(pool_tasks.total, shared) for _ in range(5)]
    wait(futures)
    for future in futures:
        report = pair.copy_report(future)
        assert report is not None
        assert (report.label, report.shared_bytes) == ("total", 8000)


def test_an_array_whose_name_another_process_removed_is_copied_each_time(pair):
    """Whatever its worker remembers, or has let go of."""
    shared = sa.share([1, 2, 3])
    for _ in range(5):
        assert pair.submit(pool_tasks.total, shared).result() == 6
    run(f"import sharedarray as sa; sa.unlink({shared.name!r})")
    for _ in range(30):
        pair.submit(pool_tasks.fill, shared, 0).result()
    assert shared.tolist() == [1, 2, 3]


def wakings(pids: list[int]) -> int:
    """Return how often the threads of these processes have woken up, but for the one that asks."""
    found = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            if int(status.parent.name) != threading.get_native_id():
                found += int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return found


@pytest.mark.parametrize("way", ["cancel", "forget", "limit", "deadline"])
def test_what_ends_one_task_does_not_end_the_next(tmp_path, way):
    """Its worker has just begun that, and the answer of the one that is to be ended was not read."""
    first, second = [
        (str(tmp_path / f"{name} begun"), str(tmp_path / f"{name} may end")) for name in ("first", "second")
    ]
    with sa.Pool(1) as pool:
        core = pool._core
        assert pool.submit(pool_tasks.meet_if_paths, 1).result() == 1
        with core.lock:
            core.lock = threading.RLock()  # type: ignore[assignment]
        try:
            with core.lock:  # the reading thread needs it, and so does what is called here
                if way in ("forget", "deadline"):
                    until = 0.01 if way == "deadline" else None
                    results = pool.map(pool_tasks.meet_if_paths, [first], timeout=until)
                else:
                    limited = pool.options(timeout=0.01) if way == "limit" else pool
                    one = limited.submit(pool_tasks.meet_if_paths, first)
                two = pool.submit(pool_tasks.meet_if_paths, second)
                (member,) = core.handles
                if member.load == 1:  # as for a function that is known as quick
                    core.dispatcher.give(member, core.dispatcher.queue.popleft())
                    core.dispatcher.write(member)
                assert member.load == 2
                wait_until(Path(first[0]).exists, "the first one has begun")
                Path(first[1]).touch()
                wait_until(Path(second[0]).exists, "the second one has begun")
                assert member.load == 2
                if way == "cancel":
                    assert not one.cancel(running=True)
                elif way == "forget":
                    core.cancel_all(member.tasks[0].sink, running=True)
                else:
                    time.sleep(0.02)  # its limit
                    since = member.since
                    core.timers.check()
                    assert member.since == since  # or an answer that is held back would not be looked for
        finally:
            Path(first[1]).touch()
            Path(second[1]).touch()
        assert two.result() == second
        if way in ("forget", "deadline"):
            results.close()
        else:
            assert one.result() == first
        assert pool.stats().died == 0


@pytest.mark.skipif(not PROC, reason="the system does not tell how often a thread wakes up")
@pytest.mark.parametrize("busy", few([True, False]))
def test_no_thread_polls_again_and_again(busy, tmp_path):
    """Neither the pool nor a worker: a waiting thread is woken by what it waits for."""
    pipes = [tmp_path / name for name in ("first", "second")] if busy else []
    for pipe in pipes:
        os.mkfifo(pipe)
    with sa.Pool(2) as pool:
        assert list(pool.map(pool_tasks.add, range(1000))) == list(range(1, 1001))
        futures = [pool.submit(pipe.read_bytes) for pipe in pipes]  # asleep until something is written there
        pids = [os.getpid(), *pool.stats().pids]
        time.sleep(0.5)  # in which what is looked at while there are many small tasks ends
        before = wakings(pids)
        time.sleep(0.5)
        assert wakings(pids) - before <= 3
        assert not any(future.done() for future in futures)
        for pipe in pipes:
            pipe.write_bytes(b"go on")
        assert [future.result() for future in futures] == [b"go on"] * len(pipes)
