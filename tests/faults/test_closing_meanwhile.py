"""One thread closes an object at every moment of another thread's call, which ends as if it came later."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from calls_of_threads import CASES, ENDS, Case, Repeated
from helpers import ANSWER, FORKS
from stream_steps import LIBRARY, trace

pytestmark = pytest.mark.skipif(not FORKS, reason="needs descriptors for event loops")

MODULES = "_streams", "_sync", "_wakers", "_control", "_notices", "_growth", "_snapshots", "_version_"
TRACED = tuple(os.path.join(LIBRARY, module) for module in MODULES)
MOST_STEPS = 3000  # bytecodes of a call, of which an iteration has no end
FILES = 8  # files that are opened after the end: they get the numbers that a call might still use


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads take turns after a few steps each."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@contextlib.contextmanager
def other_files() -> Iterator[None]:
    """Take the numbers of descriptors that were just closed, and find them untouched at the end."""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(FILES)]
    try:
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)  # or OSError: another thread has closed it


def close(case: Case, threads: list[threading.Thread]) -> None:
    """Close the object, and wait for the ends of the threads."""
    case.closed.close()
    with other_files():
        for thread in threads:
            thread.join(ANSWER)
            if thread.is_alive():
                faulthandler.dump_traceback()
            assert not thread.is_alive(), "the call hangs"
    for other in case.others:
        other.close()


def close_at_some_moment(kind: str, number: int) -> None:
    """Close an object at a random moment of calls of one or two threads."""
    case = CASES[kind](f"{kind.replace(' ', '_').replace(',', '')}_{number}")
    threads = [Repeated(case.call) for _ in range(random.choice((1, 2)))]
    for thread in threads:
        thread.start()
    for _ in range(random.randrange(4)):
        case.change()
    end = time.perf_counter() + random.random() * random.choice((0, 1e-4, 1e-3, 1e-2))
    while time.perf_counter() < end:
        pass
    close(case, list(threads))
    for thread in threads:
        error = thread.error
        assert isinstance(error, (*ENDS, StopIteration)), f"{kind}: {error!r}"
        thread.error = None


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize(
    "times", [pytest.param(1, id="once"), pytest.param(20, marks=pytest.mark.slow, id="often")]
)
@pytest.mark.timeout(600)
def test_a_call_ends_when_another_thread_closes_its_object(times: int) -> None:
    for number in range(times):
        for kind in CASES:
            close_at_some_moment(kind, number)


def closed_at(step: int, kind: str) -> bool:
    """Let another thread close an object at a bytecode of a call; return False if it has fewer of them.

    The call goes on when the other thread is done, or waits for it.
    """
    case = CASES[kind](f"{kind.replace(' ', '_').replace(',', '')}_{step}")
    case.change()
    remaining = step
    begin, ended = threading.Event(), threading.Event()

    def end() -> None:
        begin.wait(ANSWER)
        case.closed.close()
        ended.set()

    closer = threading.Thread(target=end, daemon=True)
    closer.start()

    def count() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            begin.set()
            ended.wait(0.002)  # it may wait for this thread

    outcome: list[BaseException | None] = []

    def work() -> None:
        trace("opcode", count, TRACED)
        try:
            case.call()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        finally:
            sys.settrace(None)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while worker.is_alive() and not begin.is_set():
        worker.join(0.01)
        if remaining > 0:
            case.change()  # for which the call may wait
    begun = begin.is_set()
    begin.set()
    close(case, [worker, closer])
    error = outcome[0]
    assert error is None or isinstance(error, (*ENDS, StopIteration)), f"{kind}, step {step}: {error!r}"
    return begun


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.timeout(600)
def test_a_call_ends_when_another_thread_closes_its_object_at_any_bytecode(kind: str) -> None:
    stride = int(os.environ.get("SHAREDARRAY_STRIDE", "293"))
    step = random.randrange(stride) + 1
    while step < MOST_STEPS and closed_at(step, kind):
        step += stride
