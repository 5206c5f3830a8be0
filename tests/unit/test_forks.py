"""Actions around a fork run in one order, whatever one of them raises."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, run
from needs import needs_fork

import sharedarray as sa
from sharedarray import _forks as forks

PROGRAM = """
    import os
    from sharedarray import _forks as forks

    forks.ORDER = ("lower", "upper")
    forks._hooks = {"lower": [], "upper": []}
    called = []

    def hook(name, fails=False):
        called.append(name)
        if fails:
            raise ValueError(name)

    lower, upper = "sharedarray.lower", "sharedarray.upper"
    forks.around(upper, before=lambda: hook("upper before", fails=True))
    forks.around(lower, before=lambda: hook("lower before"), in_child=lambda: hook("lower in child"))
    forks.around(lower, before=lambda: hook("lower before, later"))
    forks.around(upper, in_parent=lambda: hook("upper in parent"), in_child=lambda: hook("upper in child"))
    forks.around(lower, in_parent=lambda: hook("lower in parent", fails=True))
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    print(*called, sep=", ", flush=True)
    os._exit(0)
"""


@needs_fork
def test_hooks_run_downwards_before_a_fork_and_upwards_after_it() -> None:
    ended = run(PROGRAM)
    before = "upper before, lower before, later, lower before"
    assert ended.stdout.splitlines() == [
        f"{before}, lower in child, upper in child",
        f"{before}, lower in parent, upper in parent",
    ]
    for name in ("upper before", "lower in parent"):  # reported once each, by Python
        assert ended.stderr.count(f"ValueError: {name}\n") == 1
    assert "TypeError" not in ended.stderr


def test_a_module_without_a_place_is_refused() -> None:
    with pytest.raises(KeyError):
        forks.around("sharedarray._elsewhere", before=print)


DROPS = """
    import gc, os
    kept = []

    def drop():
        kept.clear()
        gc.collect()

    os.register_at_fork(after_in_child=drop)  # before those of the library
    import sharedarray as sa

    kept.extend([sa.ones(3, name="kept"), sa.Semaphore("kept_too"), kept])
    held = kept[1].acquire()
    if not os.fork():
        (left,) = [block.name for block in sa.blocks() if os.getpid() in block.holders] or ["none"]
        os._exit(left != "none")
    print(os.waitstatus_to_exitcode(os.wait()[1]), all(os.getpid() in block.holders for block in sa.blocks()))
    print(kept[0].tolist(), kept[1].value, len(sa.blocks()))
"""


@needs_fork
def test_what_a_function_of_another_module_drops_in_the_child_stays(own_directory: str) -> None:
    assert run(DROPS).stdout.splitlines() == ["0 True", "[1.0, 1.0, 1.0] 0 2"]


def forked_beside(make: Callable[[], Any], in_child: Callable[[], object] = object) -> Any:
    """Return what a thread made and alone refers to, after a fork; the child drops it before all else."""
    local, made, forked = threading.local(), threading.Event(), threading.Event()
    kept: list[Any] = []

    def refer() -> None:
        local.kept = make()
        made.set()
        forked.wait(ANSWER)
        kept.append(local.kept)

    thread = threading.Thread(target=refer)
    thread.start()
    assert made.wait(ANSWER)
    child = os.fork()
    if not child:
        try:
            in_child()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    forked.set()
    thread.join()
    return kept.pop()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestOtherThreads:
    """A forked child drops what another thread alone refers to, before the library knows of the fork."""

    def test_an_array_stays(self, own_directory: str) -> None:
        array = forked_beside(lambda: sa.ones(3, name="of_a_thread"))
        (block,) = sa.blocks()
        assert block.holders == (os.getpid(),)
        assert array.tolist() == [1, 1, 1]

    def test_a_snapshot_and_a_frame_stay_as_they_are(self, own_directory: str) -> None:
        array, writer = sa.zeros(3), sa.Stream("of_a_thread", 3, slots=3)
        reader = sa.Stream("of_a_thread")
        writer.put([0, 0, 0])
        frame = forked_beside(lambda: reader.get(timeout=ANSWER))
        snapshot = forked_beside(array.snapshot)
        for value in range(1, 5):
            with array.update(timeout=ANSWER) as new:
                new[:] = value
            writer.put(np.full(3, value), timeout=ANSWER)
            assert reader.get(timeout=ANSWER).tolist() == [value] * 3
        assert frame.tolist() == snapshot.tolist() == [0, 0, 0]
        reader.close()
        writer.close()

    def test_parties_stay(self, own_directory: str) -> None:
        def parties() -> tuple[Any, ...]:
            semaphore = sa.Semaphore("of_a_thread", 1)
            semaphore.acquire()
            return semaphore, sa.Stream("of_a_thread_too", 1)

        semaphore, writer = forked_beside(parties)
        with pytest.raises(sa.BlockExistsError):
            sa.Stream("of_a_thread_too", 1)
        assert semaphore.value == 0
        semaphore.close()
        writer.close()

    def test_the_child_holds_the_array_no_longer(self, own_directory: str) -> None:
        heard, told = os.pipe()

        def tell() -> None:
            (block,) = sa.blocks()
            os.write(told, b"1" if os.getpid() in block.holders else b"0")

        array = forked_beside(lambda: sa.ones(3, name="dropped_there"), tell)
        assert os.read(heard, 9) == b"0"
        assert array.tolist() == [1, 1, 1]
        os.close(heard)
        os.close(told)
