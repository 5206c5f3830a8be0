"""Programs whose tests stop the clocks of ``time``: no wait of the library looks at these."""

from __future__ import annotations

import sys
import time
import types

import pytest
from helpers import answer

from sharedarray import _clock as clock

# Waits of every kind that have a limit, and a worker that dies. The lock's holder is another process.
WAITS = """
import os, subprocess, sys, threading
from helpers import say

def pause():
    threading.Event().wait(60)

def stop_by_hand():
    import time
    for name in ("monotonic", "time", "perf_counter"):
        setattr(time, name, lambda: 1000.0)
        setattr(time, name + "_ns", lambda: 1000 * 10**9)

def stop_by_freezegun():
    import freezegun
    freezegun.freeze_time("2020-01-01").start()

def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

stop = {"by hand": stop_by_hand, "freezegun": stop_by_freezegun}[sys.argv[1]]
if sys.argv[2] == "within":
    stop()
import sharedarray as sa

array = sa.ones(3)
hold = (
    "import sys, sharedarray as sa\\n"
    "with sa.attach(sys.argv[1]).lock():\\n"
    "    print('held', flush=True)\\n"
    "    sys.stdin.read()\\n"
)
holder = subprocess.Popen(
    [sys.executable, "-c", hold, array.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
holder.stdout.readline()
if sys.argv[2] == "before":
    stop()
found = [outcome(array.lock(timeout=0.1).acquire)]
holder.communicate()
with sa.Pool(1) as pool:
    found.append(outcome(lambda: list(pool.map(abs, [-1, -2], timeout=60))))
    found.append(outcome(lambda: pool.options(timeout=0.2).submit(pause).result()))
    found.append(outcome(lambda: list(pool.map(lambda n: pause(), [1], timeout=0.2))))
    found.append(outcome(lambda: pool.submit(os._exit, 3).result()))
    found.append(outcome(lambda: list(pool.imap_unordered(abs, [-1]))))
say(found)
"""


@pytest.mark.parametrize(
    ("way", "when"),
    [
        ("by hand", "before"),
        pytest.param("freezegun", "before", marks=pytest.mark.slow),
        ("freezegun", "within"),
    ],
)
def test_every_wait_ends_though_clocks_stand_still(way, when) -> None:
    if way == "freezegun":
        pytest.importorskip("freezegun")
    found = answer(WAITS, way, when)
    assert found == ["LockTimeout", [1, 2], "TimeoutError", "TimeoutError", "WorkerDied", [1]]


def test_the_copy_tells_the_same_time() -> None:
    assert clock.time is not time
    for name in ("monotonic", "perf_counter", "time"):
        before, told, after = (getattr(module, name)() for module in (time, clock.time, time))
        assert before <= told <= after


def test_greenlets_run_while_the_library_sleeps(monkeypatch) -> None:
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    clock.time.sleep(0)
    assert slept == []
    monkeypatch.setitem(sys.modules, "gevent.monkey", types.ModuleType("gevent.monkey"))
    clock.time.sleep(0.25)
    assert slept == [0.25]
