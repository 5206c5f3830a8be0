"""Objects that cannot be sent: the error names the argument or the variable, and the next step."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import re
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, METHODS, run

import sharedarray as sa


def work(data, state=None):
    return data


class Holder:
    def __init__(self, held):
        self.held = held

    def method(self):
        return self.held


class Loop:
    def get_debug(self):
        return False


async def coroutine():
    pass


def closed_coroutine():
    made = coroutine()
    made.close()
    return made


# A function that makes the object; the words of the message for it, and for the cure.
CULPRITS = {
    "pool": (lambda: sa.Pool(1), "a pool", "make another pool in the task"),
    "thread pool": (lambda: ThreadPoolExecutor(1), "a pool", "make another pool in the task"),
    "future": (Future, "a future", r"pass its result\(\)"),
    "future of asyncio": (lambda: asyncio.Future(loop=Loop()), "a future", r"pass its result\(\)"),
    "lock": (threading.Lock, "a lock of threads", r"array\.lock\(\)"),
    "rlock": (threading.RLock, "a lock of threads", r"array\.lock\(\)"),
    "condition": (threading.Condition, "a lock of threads", r"array\.lock\(\)"),
    "event": (threading.Event, "a lock of threads", "make the lock in the task"),
    "lock of an array": (lambda: sa.zeros(3).lock(), "a lock of a shared array", "lock it in the task"),
    "lock of processes": (multiprocessing.Lock, "a lock or queue of multiprocessing", "initargs"),
    "text file": (lambda: open(__file__), r"an open file \('.*culprits.py'\)", "pass its path"),  # noqa: SIM115
    "binary file": (lambda: open(__file__, "rb"), r"an open file", "pass its path"),  # noqa: SIM115
    "temporary file": (tempfile.NamedTemporaryFile, "an open file", "pass its path"),
    "generator": (lambda: (n for n in ()), "a generator", "pass a list"),
    "coroutine": (closed_coroutine, "a coroutine", "await it before the call"),
    "thread": (threading.Thread, "a thread", "start the thread in the task"),
}


@pytest.fixture(params=CULPRITS)
def culprit(request):
    make, noun, cure = CULPRITS[request.param]
    made = make()
    yield made, noun, cure
    for method in ("shutdown", "close"):
        getattr(made, method, int)()


def check(error, noun, place, cure):
    assert isinstance(error, sa.NotPicklableError)
    assert error.__cause__ is not None
    assert "_thread" not in str(error)
    assert re.search(rf"found {noun}.* as {place}; expected .*Next step: .*{cure}", str(error)), str(error)


def test_the_argument_is_named(pool, culprit):
    made, *said = culprit
    for future, place in (
        (pool.submit(work, made), "argument 'data'"),
        (pool.submit(work, 1, state=made), "argument 'state'"),
        (pool.submit(work, {"a": [1, made]}), r"argument 'data', at data\['a'\]\[1\]"),
        (pool.submit(work, Holder(made)), r"argument 'data', at data\.held"),
        (pool.submit(print, 1, made), "argument number 2"),
    ):
        check(future.exception(ANSWER), said[0], place, said[1])
    for results in (pool.map(work, [made]), pool.imap_unordered(work, [made])):
        with pytest.raises(sa.NotPicklableError) as caught:
            list(results)
        check(caught.value, said[0], "argument 'data'", said[1])


def test_the_variable_is_named(pool, culprit):
    made, *said = culprit
    there = {"thing": made, "__name__": "__main__"}
    exec("def uses_global():\n    return thing\n", there)

    def uses_variable():
        return made

    def uses_it_inside():
        return uses_variable()

    def has_default(thing=made):
        return thing

    for function, place in (
        (there["uses_global"], "the global variable 'thing', which uses_global uses"),
        (uses_variable, "the variable 'made', which .*uses_variable uses"),
        (uses_it_inside, "the variable 'made', which .*uses_variable uses"),
        (has_default, "the default of 'thing' of .*has_default"),
        (functools.partial(work, made), "argument 1 of the functools.partial"),
        (Holder(made).method, "the object of the method method, at self.held"),
    ):
        check(pool.submit(function).exception(ANSWER), said[0], place, said[1])
    with pytest.raises(sa.NotPicklableError) as caught:
        pool.map(lambda n: made, range(3))
    check(caught.value, said[0], "the variable 'made', which .*<lambda> uses", said[1])


def test_a_file_is_not_sent_as_its_contents(pool, tmp_path):
    (tmp_path / "data.txt").write_text("contents")
    with open(tmp_path / "data.txt") as file:
        error = pool.submit(work, file).exception(ANSWER)
        assert "an open file" in str(error)
        error = pool.submit(lambda: file.read(1)).exception(ANSWER)
        assert "the variable 'file'" in str(error)


def test_standard_streams_and_buffers_in_memory_can_be_sent(pool):
    import io

    assert pool.submit(work, io.StringIO("text")).result(ANSWER).getvalue() == "text"
    script = """
    import sys
    import sharedarray as sa

    def tell(text, file=sys.stderr):
        print(text, file=file, flush=True)

    with sa.Pool(1) as pool:
        pool.submit(tell, "hello").result()
        pool.submit(lambda out: print("you", file=out, flush=True), sys.stdout).result()
    """
    done = run(script)
    assert (done.stdout, done.stderr) == ("you\n", "hello\n")


def test_a_part_that_pickle_refuses_for_a_reason_of_its_own(pool):
    error = pool.submit(work, [1, Holder(Refuses())]).exception(ANSWER)
    assert "found TypeError: not me, for argument 'data', at data[1].held; expected" in str(error)


class Refuses:
    def __reduce__(self):
        raise TypeError("not me")


def return_a_file(path):
    return {"rows": [open(path)]}


def test_a_result_is_named(pool):
    error = pool.submit(pool_tasks.lock_result).exception(ANSWER)
    assert "_thread" not in str(error).partition("; found")[2]
    error = pool.submit(return_a_file, __file__).exception(ANSWER)
    assert "found an open file" in str(error)
    assert "as the result, at result['rows'][0]" in str(error)
    for function, cure in (
        (coroutine, r"the function is async: .*asyncio.run\("),
        (generates, "return a list"),
    ):
        check_cure(pool.submit(function).exception(ANSWER), cure)


def generates():
    yield 1


def check_cure(error, cure):
    assert isinstance(error, sa.NotPicklableError)
    assert re.search(f"as the result; .*Next step: {cure}", str(error)), str(error)


def test_an_argument_of_the_initializer_is_named():
    lock = multiprocessing.get_context("spawn").Lock()
    with (
        open(__file__) as file,
        sa.Pool(1, initializer=work, initargs=(lock, {"log": file})) as pool,
    ):
        error = pool.submit(abs, -1).exception(ANSWER)
    assert isinstance(error, sa.WorkerDied)
    assert "as argument 'state', at state['log'], in the call of the initializer work" in str(error)
    assert "pass its path, and open the file in the task" in str(error)


@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
def test_a_lock_of_the_initializer_is_one_that_new_processes_can_use():
    """The next step that the error names works: a lock of the spawn context arrives."""
    fork, spawn = map(multiprocessing.get_context, ("fork", "spawn"))
    for made in (fork.Lock(), fork.Queue()):
        with sa.Pool(1, initializer=work, initargs=(made,)) as pool:
            error = pool.submit(abs, -1).exception(ANSWER)
        assert "a lock or queue of multiprocessing as argument 'data'" in str(error)
        assert "give one of multiprocessing.get_context('spawn') to the pool as initargs" in str(error)
    with sa.Pool(1, initializer=work, initargs=(spawn.Lock(),)) as pool:
        assert pool.submit(abs, -1).result(ANSWER) == 1


@pytest.mark.parametrize("way", ["with", "shutdown"])
def test_a_call_after_the_end_says_where_to_move_it(way):
    pool = sa.Pool(1)
    assert repr(pool) == "<Pool of up to 1 worker>"
    if way == "with":
        with pool:
            pool.submit(abs, -1).result(ANSWER)
        cure = "move the call into the with block"
    else:
        pool.shutdown()
        cure = r"make the call before shutdown\(\)"
    for call in (
        lambda: pool.submit(abs, -1),
        lambda: pool.map(abs, [1]),
        lambda: pool.imap_unordered(abs, [1]),
        lambda: pool.map_blocks(np.abs, np.zeros(3)),
    ):
        with pytest.raises(RuntimeError, match=f"cannot schedule new futures after shutdown: .*{cure}"):
            call()
    assert repr(pool) == str(pool) == "<Pool of up to 1 worker, shut down>"


def test_a_pool_says_in_its_repr_how_it_is(tmp_path):
    release = tmp_path / "release"
    pool = sa.Pool(2)
    future = pool.submit(pool_tasks.wait_if_path, str(release))
    pool.shutdown(wait=False)
    assert repr(pool) == "<Pool of up to 2 workers, shut down, finishing its calls>"
    release.touch()
    assert future.result(ANSWER)
    pool.shutdown()
    assert repr(pool) == "<Pool of up to 2 workers, shut down>"
    assert "shut down" in pool._repr_html_()
    with sa.Pool(1, initializer=pool_tasks.refuse_to_start) as pool:
        assert pool.submit(abs, 1).exception(ANSWER) is not None
        assert repr(pool) == "<Pool of up to 1 worker, broken>"
