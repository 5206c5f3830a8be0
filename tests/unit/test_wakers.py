"""Parties of a block: each index has one, a byte wakes it, and its end wakes those who wait for it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from helpers import (
    ANSWER,
    FORKS,
    SIGNALS,
    Puppet,
    forget_janitor,
    janitor_needed,
    janitors,
    nothing_left,
    registry,
    stopped,
    wait_until,
)

import sharedarray as sa
from sharedarray import _registry, _segment
from sharedarray._wakers import Fence, Waker

JOIN = """
from sharedarray import _segment
from sharedarray._wakers import Waker
mapping = _segment.attach(sys.argv[1])
waker = Waker(mapping, lambda index: int(sys.argv[2]))
"""


@pytest.fixture
def block(own_directory: str) -> _segment.Mapping:
    return _segment.create(4096, _segment.BlockOptions("parties"))


def waker_of(block: _segment.Mapping, pids: dict[int, int] | None = None) -> Waker:
    """Return a waker to whom all parties are of this process, but those whose pids are given."""
    return Waker(block, lambda index: ({} if pids is None else pids).get(index, os.getpid()))


def files() -> list[str]:
    return sorted(name for name in os.listdir(registry()) if name.startswith("w."))


def test_each_index_has_one_party(block: _segment.Mapping) -> None:
    first, second = waker_of(block), waker_of(block)
    assert first.claim(3)
    assert not second.claim(3)
    assert second.claim(4)
    assert second.alive(3)
    assert not second.alive(5)
    first.release()
    assert not second.alive(3)
    third = waker_of(block)
    assert third.claim(3)
    third.release()
    second.release()
    second.release()


def test_an_index_and_its_waker_are_free_after_a_kill(block: _segment.Mapping) -> None:
    own = waker_of(block)
    assert own.claim(0)
    with Puppet(JOIN + "say(waker.claim(1)); hear()", block.name, os.getpid()) as other:
        assert other.hear()
        assert own.alive(1)
        assert not own.take(1)
        other.kill()
    wait_until(lambda: own.take(1), "the lease ends", ANSWER)
    own.give_back(1)
    wait_until(lambda: len(files()) <= 1, "the janitor removes the waker of the dead", ANSWER)
    again = waker_of(block)
    assert again.claim(1)
    again.release()
    own.release()
    assert files() == []


def test_a_party_is_woken(block: _segment.Mapping) -> None:
    own = waker_of(block)
    assert own.claim(0)
    script = (
        JOIN + "waker.claim(1)\nwhile hear():\n    waker.wake(0); waker.wake(0)\n    say()\nwaker.release()"
    )
    with Puppet(script, block.name, os.getpid()) as other:
        for _ in range(3):
            other.say(True)
            assert own.wait([], ANSWER) is False
            other.hear()
            own.drain()
            assert own.wait([], 0.0) is False
        other.end()
    own.release()


def test_a_wake_that_comes_before_the_sleep_is_not_lost(block: _segment.Mapping) -> None:
    own, other = waker_of(block), waker_of(block)
    assert own.claim(0)
    own.drain()
    other.wake(0)
    assert own.wait([], None) is False
    own.release()
    other.release()


def test_to_wake_a_party_that_is_not_there_does_nothing(block: _segment.Mapping) -> None:
    own = waker_of(block)
    own.wake(7)
    assert not own.alive(7)
    own.release()


def test_the_next_party_with_an_index_is_woken_though_its_former_one_was_known(
    block: _segment.Mapping,
) -> None:
    own, first, second = waker_of(block), waker_of(block), waker_of(block)
    assert first.claim(1)
    own.wake(1)
    first.release()
    assert second.claim(1)
    own.wake(1)
    assert second.wait([], None) is False
    second.release()
    own.release()


def test_the_end_of_a_party_wakes_those_who_wait_for_it(block: _segment.Mapping) -> None:
    pids: dict[int, int] = {}
    own = waker_of(block, pids)
    assert own.claim(0)
    with Puppet(JOIN + "waker.claim(1); say(); hear()", block.name, os.getpid()) as other:
        other.hear()
        pids[1] = other.pid
        threading.Timer(0.05, other.process.kill).start()
        wait_until(lambda: own.wait([1], ANSWER), "the death is told", ANSWER)
        other.process.wait(ANSWER)
    wait_until(lambda: not own.alive(1), "the lease ends", ANSWER)
    assert own.wait([1], None) is True  # at once, and by itself: it is not there any more
    own.release()


@pytest.mark.skipif(not SIGNALS, reason="needs SIGSTOP")
def test_a_party_that_stands_still_lives(block: _segment.Mapping) -> None:
    pids: dict[int, int] = {}
    own = waker_of(block, pids)
    assert own.claim(0)
    with Puppet(JOIN + "waker.claim(1); say(); hear(); waker.wait([], None); say(1)", block.name, 0) as other:
        other.hear()
        pids[1] = other.pid
        other.say()
        with stopped(other.pid):
            assert own.alive(1)
            assert own.wait([1], 0.05) is False
            own.wake(1)
        assert other.hear() == 1
        other.end()
    own.release()


@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_forked_child_is_another_party(block: _segment.Mapping) -> None:
    own = waker_of(block)
    assert own.claim(0)
    own.wake(0)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            good = own.index == own.handle == -1
            new = waker_of(block)
            good = good and new.alive(0) and not new.claim(0) and new.claim(1)
            os.write(writing, b"1" if good else b"0")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"1"
    os.close(reading)
    own.release()  # and the child does not keep it
    other = waker_of(block)
    assert not other.alive(0)
    assert other.alive(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: not other.alive(1), "the lease ends", ANSWER)
    other.release()


@pytest.mark.skipif(not SIGNALS, reason="needs SIGINT")
def test_ctrl_c_breaks_a_wait_off(block: _segment.Mapping) -> None:
    own = waker_of(block)
    assert own.claim(0)
    threading.Timer(
        0.05, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    ).start()
    with pytest.raises(KeyboardInterrupt):
        own.wait([], ANSWER)
    own.wake(0)
    assert own.wait([], None) is False
    own.release()


def test_a_sweep_leaves_the_wakers_of_the_living(block: _segment.Mapping) -> None:
    own = waker_of(block)
    assert own.claim(0)
    before = files()
    _registry.sweep(str(block.directory))
    assert files() == before
    own.release()


def test_the_wakers_of_a_block_without_a_name_are_watched(own_directory: str) -> None:
    """Their owner may be killed: so there is work for a janitor, and there is one."""
    event = sa.Event("without_a_name")
    event.unlink()
    forget_janitor(own_directory)
    assert not _registry.sweep(own_directory).work
    event.set()  # as a party
    if janitor_needed():
        assert _registry.sweep(own_directory).work == len(files()) == 1
        assert janitors()
    event.close()
    assert not files()
    assert not _registry.sweep(own_directory).work


def test_what_is_no_waker_gives_way(block: _segment.Mapping) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("wakers are no files here")
    with open(_registry.waker_path(str(block.directory), block.inode, 0), "w") as file:
        file.write("damaged")
    own = waker_of(block)
    assert own.claim(0)
    own.wake(0)
    own.release()
    assert files() == []


def test_a_fence_can_be_used_again() -> None:
    fence = Fence()
    for _ in range(3):
        fence()
    fence.release()
    fence.acquire()


def test_nothing_is_left_when_a_block_with_parties_is_closed(own_directory: str) -> None:
    with sa.Segment.create(64, name="short") as made:
        waker = Waker(made._mapping, lambda index: 0)
        assert waker.claim(0)
        waker.release()
    assert files() == []


@pytest.mark.skipif(not janitor_needed(), reason="the kernel removes wakers here")
def test_killed_processes_that_have_a_file_alone_leave_nothing(own_directory: str, tmp_path: Path) -> None:
    """No block leads the janitor to them, and this process does not use the file."""
    readers = """
        log = sa.zeros((0, 2), file=sys.argv[1], capacity=100, exist_ok=True)
        say(log.append([1, 2]))
        log.wait(longer_than=100)
    """
    with Puppet(readers, tmp_path / "log.npy") as first, Puppet(readers, tmp_path / "log.npy") as second:
        assert {first.hear(), second.hear()} == {1, 2}
        wait_until(lambda: len(files()) >= 2, "both have wakers", ANSWER)
        first.kill()
        second.kill()
    wait_until(lambda: nothing_left(own_directory), "the janitor removes the wakers of the dead", ANSWER)
