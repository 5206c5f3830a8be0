"""Ctrl-C at a moment when nothing is half done."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from helpers import run, wait_until
from needs import few

import sharedarray as sa
from sharedarray import _segment as segment, _sigint as sigint
from sharedarray._segment import mapping_of
from sharedarray._sigint import allowed, call_user, deferred, finalize, finalizer


@pytest.fixture(autouse=True)
def the_handler_is_as_before():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def broken_off(run: Callable[[], object]) -> KeyboardInterrupt:
    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    return caught.value


def test_it_comes_at_the_end_of_the_block():
    steps = []

    def run():
        with deferred:
            interrupt()
            steps.append("whole")
        steps.append("not reached")

    broken_off(run)
    assert steps == ["whole"]
    with deferred:
        pass
    broken_off(interrupt)


def test_nested_blocks_end_with_the_outer_one():
    steps = []

    def run():
        with deferred:
            with deferred:
                interrupt()
            steps.append("still whole")

    broken_off(run)
    assert steps == ["still whole"]


def test_it_breaks_off_what_is_allowed():
    steps = []

    def run():
        with deferred:
            try:
                with allowed:
                    interrupt()
                    steps.append("not reached")
            finally:
                interrupt()  # once more, where it has to wait again
                steps.append("cleaned up")

    broken_off(run)
    assert steps == ["cleaned up"]


def test_a_block_in_a_wait_is_whole_and_then_the_wait_is_broken_off():
    steps = []

    def run():
        with deferred, allowed:
            with deferred:
                interrupt()
                steps.append("whole")
            steps.append("not reached")

    broken_off(run)
    assert steps == ["whole"]


def test_a_handler_that_returns_does_not_end_the_wait():
    calls = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(len(calls)))
    with deferred, allowed:
        interrupt()
        interrupt()
        assert calls == [0, 1]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_what_comes_after_one_that_broke_a_wait_off_waits():
    """Else two that come together would break off the leaving of the blocks, and the second one for good."""
    deferred.__enter__()
    allowed.__enter__()
    broken_off(interrupt)
    interrupt()  # as the leaving of the wait begins
    allowed.__exit__()
    interrupt()
    broken_off(deferred.__exit__)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps = []

    def run():
        with deferred:  # as if nothing had been
            interrupt()
            steps.append("whole")

    broken_off(run)
    assert steps == ["whole"]


def test_what_came_before_is_raised_where_it_is_allowed():
    def run():
        with deferred:
            interrupt()
            with allowed:
                raise AssertionError

    broken_off(run)
    with allowed:  # outside of such a block it does nothing
        broken_off(interrupt)


def test_it_breaks_off_what_a_user_has_written():
    steps = []

    def callback(step):
        steps.append(step)
        interrupt()
        steps.append("not reached")

    def run():
        with deferred:
            with pytest.raises(KeyboardInterrupt):
                call_user(callback, "first")
            interrupt()
            steps.append("whole")

    broken_off(run)
    assert steps == ["first", "whole"]
    broken_off(lambda: call_user(callback, "outside"))


def test_what_a_user_has_written_is_called_though_it_came_before():
    steps = []

    def run():
        with deferred:
            interrupt()
            call_user(steps.append, "called")
            steps.append("not reached")

    broken_off(run)
    assert steps == ["called"]


def test_an_exception_of_the_block_is_not_lost():
    def run(interrupted):
        with deferred:
            if interrupted:
                interrupt()
            raise ValueError("of the block")

    assert isinstance(broken_off(lambda: run(True)).__context__, ValueError)
    with pytest.raises(ValueError, match="of the block"):
        run(False)


def test_a_handler_of_the_users_is_called_once():
    calls = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with deferred:
        interrupt()
        interrupt()
        assert not calls
    assert calls == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_one_that_is_set_in_the_block_stays():
    def other(number, frame):
        raise AssertionError

    with deferred:
        signal.signal(signal.SIGINT, other)
    assert signal.getsignal(signal.SIGINT) is other
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        interrupt()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_change_nothing():
    handlers = []

    def run():
        with deferred, allowed:
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
    with deferred:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert handlers[1] is not signal.default_int_handler


def test_in_a_finalizer_it_comes_a_moment_later():
    class Dropped:
        @finalizer
        def __del__(self):
            finalize(interrupt)
            time.sleep(0.05)  # longer than it takes until it would come
            self.steps.append("whole")

    dropped = Dropped()
    Dropped.steps = steps = []
    kept = [dropped]
    del dropped

    def run():
        kept.clear()
        wait_until(lambda: False, "Ctrl-C")

    broken_off(run)
    assert steps == ["whole"]


class Stop(BaseException):
    """An exception that a program's own handler raises."""


def interrupted_at(
    step: int | None, raised: type[BaseException] = KeyboardInterrupt, *, waiting: bool = False
) -> tuple[list[str], int]:
    """Run a finalizer, maybe in a wait, with Ctrl-C at one step of its block's beginning or end.

    Returned is what it did, and how many steps there were until then, or in all.
    """
    did, steps = [], 0

    def trace(frame, event, _):
        nonlocal steps
        if frame.f_code.co_filename != sigint.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code is not finalize.__code__:
            if steps == step:
                interrupt()  # which may raise in the frame, and then ends the tracing
            steps += 1
        return trace

    class Dropped:
        @finalizer
        def __del__(self):
            sys.settrace(trace)
            finalize(did.append, "all")
            sys.settrace(None)

    kept = [Dropped()]

    def run():
        kept.clear()
        if step is not None:
            wait_until(lambda: False, "Ctrl-C")

    def wait():
        with deferred, allowed:
            run()

    if step is None:
        (wait if waiting else run)()
    else:
        with pytest.raises(raised):
            (wait if waiting else run)()
    return did, steps


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("raised", few([KeyboardInterrupt, Stop]))
def test_a_finalizer_is_whole_wherever_it_comes(raised, waiting):
    """It is raised once, and what is to be done is done once."""

    def handler(number, frame):
        raise raised

    interrupted_at(None, waiting=waiting)  # Python 3.12 traces the lines of code from the second time on
    did, steps = interrupted_at(None, waiting=waiting)
    assert did == ["all"]
    assert steps > 30
    signal.signal(signal.SIGINT, handler)
    for step in range(steps):
        did, reached = interrupted_at(step, raised, waiting=waiting)
        assert did == ["all"], step
        assert reached >= step
        assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_bytes_go_in_the_finalizer_unless_they_are_in_use(monkeypatch):
    """The rest of a cycle may still read an object that a collection ends."""
    ended = []

    class Mmap:
        mmap = type("mmap", (), {"close": staticmethod(lambda mapping: ended.append(mapping.name))})

    class Reader:
        @finalizer
        def __del__(self):
            read.append(bytes(self.bytes[-8:]))

    monkeypatch.setattr(segment.mapping, "mmap", Mmap)
    a = sa.ones(4)
    name = a.name
    view = a[1:]
    del a
    assert ended == []
    del view
    assert ended == [name]
    read = []
    a = sa.ones(4)
    reader = Reader()
    reader.me, reader.mapping, reader.bytes = reader, mapping_of(a), memoryview(mapping_of(a))
    del a, reader
    gc.collect()
    assert read == [np.ones(1).tobytes()]
    assert ended == [name]
    assert sa.blocks() == []


def test_it_comes_when_all_of_a_list_are_gone():
    """And not in the finalizer of the next of them, where it would be ignored, with what that has to do."""
    steps = []

    class Dropped:
        def __init__(self, what):
            self.what = what

        @finalizer
        def __del__(self):
            finalize(self.what)

    large = mmap.mmap(-1, 1 << 28)  # to free it takes longer than it takes until Ctrl-C would come
    large.write(bytes(1 << 28))
    kept = [
        Dropped(lambda: steps.append("whole")),
        large,
        Dropped(interrupt),
    ]  # which go from the last one on
    del large

    def run():
        kept.clear()
        wait_until(lambda: False, "Ctrl-C")

    broken_off(run)
    assert steps == ["whole"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_block_can_be_interrupted():
    codes = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    interrupt()
            except KeyboardInterrupt:
                code = 0
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    with deferred:
        fork()
    fork()
    with deferred:  # the thread that forks is the child's main thread
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert codes == [0, 0, 0]


def test_what_is_imported_late_is_imported_as_a_whole():
    """Python's own callbacks at an import would have it ignored, and then `Pool` waits for its tasks."""
    run("""
        import signal
        import sys
        import sharedarray

        class Meanwhile:
            def find_spec(self, name, path, target=None):
                if name == "sharedarray._pool.core":
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Meanwhile())
        assert "sharedarray._pool" not in sys.modules
        try:
            sharedarray.Pool
        except KeyboardInterrupt:
            assert "Pool" in vars(sys.modules["sharedarray._executor.pool"])
        else:
            raise AssertionError("not interrupted")
        sharedarray.Pool(1).shutdown()
    """)
