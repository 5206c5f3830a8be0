"""A process ends while its daemon threads are in calls, as threads that wait for a `queue.Queue` end."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
from calls_of_threads import CASES, Repeated
from helpers import ANSWER, FORKS, run, wait_until

import sharedarray as sa

PROGRAM = """
import random, sys, threading, time
from calls_of_threads import CASES

def repeat(call, begun):
    begun.set()
    while True:
        call()

cases = [CASES[kind](f"case_{k}") for k, kind in enumerate(sys.argv[1:])]
for case in cases:
    begun = threading.Event()
    threading.Thread(target=repeat, args=(case.call, begun), daemon=True).start()
    begun.wait()
time.sleep(random.random() * 0.01)
"""
WAITS = "get", "asyncio", "put", "event", "semaphore", "condition", "barrier", "wait", "wait for rows"


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


def check_end(*kinds: str) -> None:
    ended = run(PROGRAM, *kinds)
    assert (ended.stdout, ended.stderr) == ("", "")


@pytest.mark.skipif(not FORKS, reason="needs descriptors for event loops")
def test_a_process_ends_without_output_while_daemon_threads_wait() -> None:
    check_end(*WAITS)


@pytest.mark.slow
@pytest.mark.skipif(not FORKS, reason="needs descriptors for event loops")
@pytest.mark.parametrize("first", range(4))
def test_a_process_ends_without_output_while_daemon_threads_are_in_any_call(first: int) -> None:
    for _ in range(2):
        check_end(*list(CASES)[first::4])


def work_in_threads(kinds: list[str], ready: Any) -> None:
    """Leave daemon threads in calls, in a process of multiprocessing, whose end no `atexit` hears of."""
    global cases
    cases = [CASES[kind](f"case_{k}") for k, kind in enumerate(kinds)]  # type: ignore[name-defined]
    for case in cases:  # type: ignore[name-defined]
        Repeated(case.call).start()
    ready.set()


@pytest.mark.slow
def test_a_child_of_multiprocessing_ends_while_its_daemon_threads_wait() -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=work_in_threads, args=(["get", "put", "event", "wait"], ready))
    child.start()
    assert ready.wait(ANSWER)
    child.join(ANSWER)
    assert child.exitcode == 0
    wait_until(lambda: not list(sa.blocks()), "its blocks are gone", ANSWER)
