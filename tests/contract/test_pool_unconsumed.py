"""Maps whose results are not taken, and the exceptions of a map's calls."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
import warnings
from itertools import count

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, run, wait_until

import sharedarray as sa
from sharedarray._pool.codec.failures import add_note

WAYS = {
    "map": lambda pool, function, items, **more: pool.map(function, items, **more),
    "starmap": lambda pool, function, items, **more: pool.starmap(function, [(i,) for i in items], **more),
    "imap_unordered": lambda pool, function, items, **more: pool.imap_unordered(function, items, **more),
    "buffer": lambda pool, function, items, **more: pool.map(function, items, buffersize=1000, **more),
}
# How messages name each of them.
NAMES = {**{way: way for way in WAYS}, "buffer": "map"}


def work(number):
    """Fail for every tenth number, from 7 on."""
    if number % 10 == 7:
        raise ValueError(f"bad {number}")
    return number


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


def paths(directory, count):
    return [str(directory / f"made{n}") for n in range(count)]


def made(directory):
    return len(list(directory.glob("made*")))


# -- results that are not taken ------------------------------------------------------------------------------


def touched(pool, directory, count=50):
    """Begin a call of each way whose results are not taken; return the iterators and what they touch."""
    found = []
    for way in WAYS:
        (directory / way).mkdir()
        found.append(WAYS[way](pool, pool_tasks.touch, paths(directory / way, count)))
    return found, lambda: [made(directory / way) for way in WAYS]


@pytest.mark.parametrize("raises", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kept", [False, True])
def test_calls_run_though_no_code_takes_their_results(kept, raises, tmp_path):
    with contextlib.suppress(KeyError), sa.Pool(2) as pool:
        results, counts = touched(pool, tmp_path)
        if not kept:
            results.clear()
        if raises:
            raise KeyError
    assert counts() == [50] * 4
    assert [len(list(each)) for each in results] == ([50] * 4 if kept else [])


@pytest.mark.parametrize("end", ["del", "close"])
def test_an_iterator_that_was_not_advanced_cancels_nothing(pool, end, tmp_path):
    results, counts = touched(pool, tmp_path)
    while results:
        each = results.pop()
        if end == "close":
            each.close()
            assert list(each) == []
    del each
    wait_until(lambda: counts() == [50] * 4, "all calls are run", ANSWER)


@pytest.mark.slow
def test_calls_run_though_shutdown_does_not_wait(tmp_path):
    pool = sa.Pool(2)
    counts = touched(pool, tmp_path)[1]
    pool.shutdown(wait=False)
    pool.shutdown()
    assert counts() == [50] * 4


def test_calls_run_at_the_end_of_a_program(tmp_path):
    script = """
    import sys
    import sharedarray as sa

    def touch(path):
        open(path, "w").close()

    pool = sa.Pool(2)
    paths = [f"{sys.argv[1]}/made{n}" for n in range(90)]
    pool.map(touch, paths[:30])
    kept = pool.imap_unordered(touch, paths[30:60])
    dropped = sa.Pool(2).map(touch, paths[60:])
    """
    assert not run(script, tmp_path).stderr
    assert made(tmp_path) == 90


def test_what_was_submitted_so_far_runs(tmp_path):
    (tmp_path / "endless").mkdir()
    with sa.Pool(1) as pool:
        pool.map(pool_tasks.touch, paths(tmp_path, 20), buffersize=3)
        pool.imap_unordered(pool_tasks.touch, (str(tmp_path / "endless" / f"made{n}") for n in count()))
    assert sorted(path.name for path in tmp_path.glob("made*")) == ["made0", "made1", "made2"]
    assert 0 < made(tmp_path / "endless") < 20


@pytest.mark.parametrize("end", ["del", "close"])
def test_an_advanced_iterator_cancels_what_has_not_begun(pool, way, end, tmp_path):
    release = tmp_path / "release"
    calls = [str(tmp_path / "first")] + [str(release)] * 2 + paths(tmp_path, 50)
    results = WAYS[way](pool, TouchAfter(release, str(tmp_path / "first")), calls)
    next(results)
    if end == "close":
        results.close()
    del results
    gc.collect()
    release.touch()
    assert pool.submit(abs, -1).result() == 1
    assert made(tmp_path) <= 2


class TouchAfter:
    """Make a file once another one is there; the first one at once."""

    def __init__(self, gate, first=""):
        self.gate, self.first = gate, first

    def __call__(self, path):
        return pool_tasks.touch(path) if path == self.first else pool_tasks.touch_after(path, self.gate)


def test_cancel_futures_cancels_the_calls_and_nothing_is_told(tmp_path):
    release = tmp_path / "release"
    pool = sa.Pool(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [WAYS[way](pool, TouchAfter(release), [str(release), *paths(tmp_path, 20)]) for way in WAYS]
        pool.shutdown(wait=False, cancel_futures=True)
        results.clear()
        release.touch()
        pool.shutdown()
    assert made(tmp_path) < 20


def test_results_of_a_dropped_iterator_are_freed(pool):
    """Both after the calls are done and while they go on."""
    wait_until(lambda: not pool.stats().running + pool.stats().queued, "calls of other tests end", ANSWER)
    before = pool.stats().done
    results = pool.map(pool_tasks.make_full, [30_000] * 12, range(12))
    wait_until(lambda: pool.stats().done == before + 12, "all are done", ANSWER)
    assert pool.stats().recycled_in_use
    del results
    wait_until(lambda: not pool.stats().recycled_in_use, "the results are freed", ANSWER)
    pool.map(pool_tasks.make_full, [30_000] * 12, range(12))
    wait_until(lambda: pool.stats().done == before + 24, "all are done", ANSWER)
    wait_until(lambda: not pool.stats().recycled_in_use, "the results are freed", ANSWER)


@pytest.mark.parametrize("way", ["imap_unordered", pytest.param("buffer", marks=pytest.mark.slow)])
def test_an_iterator_that_may_submit_more_keeps_its_pool(way):
    more = {} if way == "imap_unordered" else {"buffersize": 2}
    results = getattr(sa.Pool(1), "map" if more else way)(pool_tasks.add, range(100), **more)
    gc.collect()
    assert sorted(results) == list(range(1, 101))


# -- the warning ---------------------------------------------------------------------------------------------


def test_one_warning_tells_the_first_exception(tmp_path):
    """It points to the line of the call, whichever thread issues it."""
    gate = tmp_path / "gate"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with sa.Pool(2) as pool:
            kept = [WAYS[way](pool, FailAfter(gate), range(50)) for way in WAYS]
            for way in WAYS:
                WAYS[way](pool, FailAfter(gate), range(50))
            gate.touch()
        gc.collect()
        assert len(told(caught)) == 4
        kept.clear()
        gc.collect()
    assert len(told(caught)) == 8
    for warning in told(caught):
        assert issubclass(warning.category, ResourceWarning)
        assert warning.category is sa.UnconsumedResultsWarning
        assert "the first one, item 7: ValueError: bad 7" in str(warning.message)
        assert isinstance(warning.message.__cause__, ValueError)
        assert warning.filename == __file__
    texts = sorted(str(warning.message).partition("(")[0] for warning in told(caught))
    assert texts == sorted(f"5 of 50 calls of {name}" for name in NAMES.values() for _ in range(2))


def told(caught):
    """Return the warnings that this is about, of those that were caught."""
    return [warning for warning in caught if warning.category is sa.UnconsumedResultsWarning]


class FailAfter:
    def __init__(self, gate):
        self.gate = gate

    def __call__(self, number):
        assert pool_tasks.until(self.gate.exists, ANSWER)
        return work(number)


def test_no_warning_for_results_that_are_taken_or_calls_that_return():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sa.Pool(2) as pool:
            for way in WAYS:
                WAYS[way](pool, pool_tasks.add, range(20))
                results = WAYS[way](pool, work, range(6, 30))
                with contextlib.suppress(ValueError):
                    next(results)
                del results
                assert len(list(WAYS[way](pool, work, range(20), return_exceptions=True))) == 20


UNCONSUMED = """
import sys
import sharedarray as sa

def work(number):
    if number > 3:
        raise ValueError(number)

with sa.Pool(2) as pool:
    pool.map(work, range(10))  # the line
print("goes on", file=sys.stderr)
"""


def test_the_warning_is_shown_unless_the_program_hides_such():
    shown = run(UNCONSUMED).stderr
    assert shown.count("UnconsumedResultsWarning") == 1
    assert re.match(r"<string>:10: UnconsumedResultsWarning: 6 of 10 calls of map\(work\) raised", shown)


@pytest.mark.slow
@pytest.mark.parametrize("filters", ["ignore", "ignore::ResourceWarning"])
def test_the_program_can_hide_the_warning(filters):
    assert run(UNCONSUMED, flags=("-W", filters)).stderr == "goes on\n"


def test_warnings_that_are_errors_hurt_no_thread():
    shown = run(UNCONSUMED, flags=("-W", "error")).stderr
    assert "Exception ignored in" in shown
    assert "UnconsumedResultsWarning: 6 of 10 calls of map(work) raised" in shown
    assert shown.endswith("goes on\n")


def test_a_broken_pool_is_told_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with sa.Pool(1, initializer=pool_tasks.refuse_to_start) as pool:
            pool.map(pool_tasks.add, range(5))
    (warning,) = told(caught)
    assert "5 of 5 calls of map(add) raised an exception" in str(warning.message)
    assert "initializer" in str(warning.message)


@pytest.mark.slow
def test_a_pool_that_is_killed_does_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool = sa.Pool(1)
        pool.map(pool_tasks.touch_after, paths(tmp_path, 3), [tmp_path / "never"] * 3)
        pool.kill_workers()


# -- exceptions ----------------------------------------------------------------------------------------------


def test_imap_unordered_goes_on_after_an_exception(pool):
    results = pool.imap_unordered(work, range(500))
    found, failed = [], []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            break
        except ValueError as error:
            failed.append(str(error))
    assert sorted(found) == [number for number in range(500) if number % 10 != 7]
    assert sorted(failed) == sorted(f"bad {number}" for number in range(7, 500, 10))
    assert next(results, None) is None


def is_held(lock):
    """Return whether another thread has a lock."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def test_an_iterator_that_waits_cannot_be_closed(pool, tmp_path):
    """By another thread: the waiting one would wait for ever."""
    results = pool.imap_unordered(pool_tasks.wait_if_path, [str(tmp_path / "gate")])
    found = []
    waiting = threading.Thread(target=lambda: found.extend(results))
    waiting.start()
    wait_until(lambda: is_held(results._feed.lock), "the thread waits", ANSWER)
    with pytest.raises(ValueError, match="is being waited for"):
        results.close()
    (tmp_path / "gate").touch()
    waiting.join(ANSWER)
    assert found == [str(tmp_path / "gate")]
    results.close()


def test_exceptions_can_be_results(pool, way):
    found = list(WAYS[way](pool, work, range(40), return_exceptions=True))
    failed = [each for each in found if isinstance(each, ValueError)]
    assert len(found) == 40
    assert sorted(each for each in found if isinstance(each, int)) == [n for n in range(40) if n % 10 != 7]
    assert sorted(str(error) for error in failed) == ["bad 17", "bad 27", "bad 37", "bad 7"]
    if way != "imap_unordered":
        assert [str(each).removeprefix("bad ") for each in found] == list(map(str, range(40)))
    for error in failed:
        assert error.__notes__ == [f"item {str(error)[4:]} of {NAMES[way]}(work)"]


def test_an_exception_says_which_item_it_was(pool, way):
    with pytest.raises(ValueError, match="bad") as caught:
        list(WAYS[way](pool, work, range(10, 30)))
    number = int(str(caught.value)[4:])
    assert caught.value.__notes__ == [f"item {number - 10} of {NAMES[way]}(work)"]


@pytest.mark.parametrize("way", ["map", "imap_unordered"])
def test_other_outcomes_say_so_as_well(way, tmp_path):
    """Calls that cannot be sent, time out, or lose their worker; items of text, which travel one by one."""
    name = NAMES[way]
    with sa.Pool(1) as pool:
        (found,) = WAYS[way](pool, pool_tasks.identity, [(n for n in ())], return_exceptions=True)
        assert isinstance(found, sa.NotPicklableError)
        assert found.__notes__ == [f"item 0 of {name}(identity)"]
        found = list(WAYS[way](pool, pool_tasks.fail_if_text, [1, "x" * 2000], return_exceptions=True))
        (error,) = [each for each in found if isinstance(each, ValueError)]
        assert error.__notes__ == [f"item 1 of {name}(fail_if_text)"]
        found = list(WAYS[way](pool.options(retries=1), pool_tasks.die, ["exit"], return_exceptions=True))
        assert isinstance(found[0], sa.WorkerDied)
        assert found[0].__notes__ == [f"item 0 of {name}(die)"]
        limited = pool.options(timeout=0.05)
        (found,) = WAYS[way](
            limited, pool_tasks.wait_if_path, [str(tmp_path / "never")], return_exceptions=True
        )
        assert isinstance(found, TimeoutError)
        assert found.__notes__ == [f"item 0 of {name}(wait_if_path)"]


def test_blocks_say_which_one_it_was(pool):
    array = sa.share(range(40))
    with pytest.raises(ValueError, match="30") as caught:
        pool.map_blocks(fail_at_30, array, block_size=10)
    assert caught.value.__notes__ == ["block 3 of map_blocks(fail_at_30)"]
    with pytest.raises(ValueError, match="30") as caught:
        pool.reduce_blocks(fail_at_30, np.add, array, block_size=10)
    assert caught.value.__notes__ == ["block 3 of reduce_blocks(fail_at_30)"]


def fail_at_30(block):
    if block[0] == 30:
        raise ValueError("30")
    return block


def test_an_exception_that_comes_again_has_one_note():
    error = ValueError()
    add_note(error, "its own")
    add_note(error, "item 3 of map(work)", " of map(work)")
    add_note(error, "item 4 of map(work)", " of map(work)")
    assert error.__notes__ == ["its own", "item 4 of map(work)"]


@pytest.mark.slow
def test_maps_in_tasks_add_their_own(pool):
    with pytest.raises(ValueError, match="bad 7") as caught:
        list(pool.map(inner_map, [6, 7]))
    assert caught.value.__notes__ == ["item 1 of map(work)", "item 0 of map(inner_map)"]


def inner_map(number):
    with sa.Pool(1) as pool:
        return list(pool.map(work, [number, number + 1]))
