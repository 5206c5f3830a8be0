"""Functions that fork and return in the child: only the process that was asked answers.

Each parent waits for its child. So the child has ended, whatever it tried, before the answer of the parent.
"""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import textwrap

import numpy as np
import pool_tasks
import pytest
from helpers import ANSWER, block_files, environment, notes, wait_until
from needs import few, needs_fork

import sharedarray as sa
from sharedarray import _pipes as pipes
from sharedarray._pool.transport.channel import Channel

pytestmark = needs_fork


def works(pool):
    """Return whether the pool answers as ever, which needs right accounts of what its workers were given."""
    return (
        list(pool.map(pool_tasks.add, range(200))) == [*range(1, 201)] and pool.submit(abs, -3).result() == 3
    )


@pytest.mark.parametrize("kind", few(["number", "text", "array", "long", "raise", "exit"], 6))
def test_a_task_that_forks_and_returns(pool_of_module, kind):
    code = 7 if kind == "exit" else 1
    assert pool_of_module.submit(pool_tasks.fork_and_return, kind).result() == code
    assert list(pool_of_module.map(pool_tasks.fork_and_return, [kind] * 4)) == [code] * 4
    assert works(pool_of_module)


def test_a_forked_task_that_returns_a_shared_array_leaves_no_block(pool_of_module):
    array = sa.ones(1 << 16)
    assert pool_of_module.submit(pool_tasks.fork_and_return, "shared", array).result() == 1
    name = array.name
    wait_until(lambda: block_files() == {name}, "the block of the child that has ended is gone")
    del array
    gc.collect()
    wait_until(lambda: not block_files() and not notes(), "everything is gone")


@pytest.mark.parametrize("way", ["map", "starmap", "imap_unordered"])
def test_an_item_of_many_that_forks_and_returns(pool_of_module, way):
    if way == "map":
        found = list(pool_of_module.map(pool_tasks.fork_at, [5] * 20, range(20)))
    elif way == "starmap":
        found = list(pool_of_module.starmap(pool_tasks.fork_at, [(5, value) for value in range(20)]))
    else:
        calls = pool_of_module.imap_unordered(pool_tasks.fork_at, [5] * 20, range(20))
        found = sorted(calls)
    expected = [1005 if value == 5 else value for value in range(20)]
    assert found == (expected if way != "imap_unordered" else sorted(expected))
    assert works(pool_of_module)


def test_a_block_that_forks_and_returns(pool_of_module):
    data = np.arange(1 << 12)
    function = functools.partial(pool_tasks.fork_at_block, 1 << 11)
    found = pool_of_module.map_blocks(function, data, block_size=1 << 10)
    assert np.array_equal(found, data * 2)
    assert works(pool_of_module)


def test_a_result_that_forks_as_it_is_pickled(pool_of_module):
    assert pool_of_module.submit(pool_tasks.forks_as_it_is_pickled).result() == 1
    assert works(pool_of_module)


def test_a_thread_of_a_task_that_forks_and_returns(pool_of_module):
    assert pool_of_module.submit(pool_tasks.fork_in_a_thread).result() == [0]
    assert works(pool_of_module)


def test_an_initializer_that_forks_and_returns(first_method):
    with sa.Pool(1, first_method, initializer=pool_tasks.fork_as_initializer) as pool:
        assert pool.submit(pool_tasks.of_initializer).result() == [1]
        assert works(pool)


def run(text, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=ANSWER,
        env=environment(),
    )
    return done.returncode, done.stdout, done.stderr


def test_the_child_says_why_it_ends(first_method):
    code, out, err = run(
        """
        import os, sys, sharedarray as sa
        def fork():
            print("unwritten", end="")
            pid = os.fork()
            return "result" if pid and os.waitpid(pid, 0) else "of the child"
        with sa.Pool(1, sys.argv[1]) as pool:
            print(pool.submit(fork).result())
        """,
        first_method,
    )
    assert code == 0
    assert (out.count("result"), out.count("unwritten")) == (1, 1)  # what was printed before comes once
    assert "sharedarray-worker-1" in err
    assert "os._exit()" in err
    assert err.count("sharedarray: process") == 1
    assert "Traceback" not in err


CALLER = """
import os, sys
import sharedarray as sa

def fork(future):
    global child
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print("child", code, flush=True)
        open(path + ".2", "w").close()
    else:
        child = True

child = False
def work(path):
    while not os.path.exists(path):
        pass
    return 5
with sa.Pool(2, sys.argv[2]) as pool:
    pool.submit(abs, 1).result()
    path = sys.argv[1]
    first, second = pool.submit(work, path), pool.submit(work, path + ".2")
    first.add_done_callback(fork)
    CALLBACK
    print(first.result(), second.result(), list(pool.map(abs, range(-50, 0))) == [*range(50, 0, -1)])
"""


@pytest.mark.parametrize("waits", ["second.result()", "while not first.done(): pass"])
def test_a_done_callback_that_forks_and_returns(first_method, tmp_path, waits):
    """The pool's thread calls it, whichever thread reads the answers; in the child it is no pool's thread."""
    text = CALLER.replace("CALLBACK\n", f"open(path, 'w').close()\n    {waits}\n")
    status, out, err = run(text, str(tmp_path / "go"), first_method)
    assert status == 0, err
    assert out.splitlines() == ["child 1", "5 5 True"]


def test_an_argument_that_forks_as_it_is_pickled(first_method):
    code, out, err = run(
        """
        import os, sys
        import sharedarray as sa
        from sharedarray import SharedArrayError
        child = False
        class Forks:
            def __reduce__(self):
                global child
                pid = os.fork()
                child = not pid
                return int, (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 99,)
        with sa.Pool(1, sys.argv[1]) as pool:
            pool.submit(abs, 1).result()
            try:
                found = pool.submit(abs, Forks()).result(), list(pool.map(abs, range(-50, 0)))
            except SharedArrayError as error:
                os._exit(3 if child and "another process" in str(error) else 4)
            print(found == (3, [*range(50, 0, -1)]))
        """,
        first_method,
    )
    assert (code, out) == (0, "True\n"), err


def test_closed_pipes_leave_no_number_behind():
    """A write to a closed pipe must not write to the next file that gets its number."""
    reader, writer = pipes.one_way()
    channel = Channel(*pipes.one_way(), blocking=True)
    kept = writer.write, channel.fileno()
    assert kept[1] >= 0
    numbers = {reader.fileno(), writer.fileno(), channel.fileno(), channel.out}
    reader.close()
    writer.close()
    channel.close()
    files = [os.memfd_create("other") for _ in range(8)]
    assert numbers & set(files)
    try:
        for call in (
            lambda: writer.write(b"x"),
            lambda: writer.write_all([b"x"]),
            lambda: reader.read_into([memoryview(bytearray(1))]),
            lambda: reader.readable(0),
            reader.there,
            lambda: channel.write(b"x"),
            channel.receive,
            lambda: channel.poll(0),
        ):
            with pytest.raises(OSError, match=r"[Bb]ad file|closed"):
                call()
        assert (reader.fileno(), writer.fileno(), channel.fileno(), channel.out) == (-1, -1, -1, -1)
        assert [os.fstat(file).st_size for file in files] == [0] * 8
    finally:
        for file in files:
            os.close(file)
