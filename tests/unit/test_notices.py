"""`SharedArray.notify` wakes all that `wait` for new data in the array."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from helpers import ANSWER, FORKS, Puppet, blocks_are_files, janitor_needed, registry, wait_until

import sharedarray as sa
from sharedarray import _registry
from sharedarray._platform import platform
from sharedarray._segment import mapping_of

READ = """
array = sa.attach(sys.argv[1], sys.argv[2])
version = array.wait(since=-1)
say(version)
while hear():
    version = array.wait(60.0, since=version)
    say([version, int(array[0])])
"""


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


def files() -> list[str]:
    return [name for name in os.listdir(registry()) if name.startswith(("v.", "w."))]


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_notice_wakes_another_process(mode: str) -> None:
    array = sa.zeros(4, int, name="data")
    with Puppet(READ, "data", mode) as first, Puppet(READ, "data", mode) as second:
        assert [first.hear(), second.hear()] == [0, 0]
        for k in range(1, 6):
            first.say(True)
            second.say(True)
            array[0] = 10 * k
            assert array[1:3].notify() == k  # a view tells of its block
            assert first.hear() == second.hear() == [k, 10 * k]
        array.notify()
        array.notify()
        assert first.ask(True)[0] in (6, 7)  # notices that came before are not lost
        first.end()
        second.end()
    array.close()
    assert files() == []


def test_numbers_of_notices() -> None:
    array = sa.zeros(4, name="data")
    assert array.wait(since=-1) == 0
    with pytest.raises(TimeoutError, match="notify"):
        array.wait(timeout=0.01)
    assert array.notify() == 1
    assert array.wait(since=0) == array.wait(0.0, since=0) == 1
    with pytest.raises(TimeoutError):
        array.wait(0.0, since=1)
    timer = threading.Timer(0.05, array.notify)
    timer.start()
    assert array.wait() == 2
    timer.join()
    other = sa.attach("data")
    assert other.notify() == 3
    other.close()
    assert array.wait(since=2) == 3
    with pytest.raises(ValueError, match="capacity"):
        array.wait(longer_than=3)
    array.close()
    with pytest.raises(sa.BlockClosedError):
        array.wait()
    with pytest.raises(sa.BlockClosedError):
        array.notify()


def test_many_threads_and_processes_count_right() -> None:
    array = sa.zeros(4, name="data")
    script = "array = sa.attach('data')\nhear()\nfor _ in range(100): array.notify()\nsay()\nhear()"
    with Puppet(script) as first, Puppet(script) as second:
        first.say()
        second.say()
        threads = [threading.Thread(target=lambda: [array.notify() for _ in range(100)]) for _ in range(2)]
        for thread in threads:
            thread.start()
        last = 0
        while last < 400:
            last = array.wait(ANSWER, since=last)
        for thread in threads:
            thread.join()
        assert last == 400
        first.hear()
        second.hear()
        first.kill()
        second.end()
    array.close()
    wait_until(lambda: files() == [], "what the dead left goes", ANSWER)


@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_forked_child_waits_for_itself() -> None:
    array = sa.zeros(4, name="data")
    array.notify()
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if array.wait(ANSWER, since=1) == 2 else 2
            array.close()
        finally:
            os._exit(status)
    assert array.notify() == 2
    assert os.waitpid(child, 0)[1] == 0
    array.close()


@pytest.mark.skipif(not janitor_needed(), reason="only the next maker of a block sweeps")
def test_notices_go_with_their_block() -> None:
    with Puppet("array = sa.zeros(3, name='data'); array.notify(); say(); hear()") as puppet:
        puppet.hear()
        assert files()
        puppet.kill()
    wait_until(lambda: not os.path.exists(registry()) or files() == [], "all of it is gone", ANSWER)


def test_arrays_without_a_block_have_none(tmp_path: object) -> None:
    with pytest.raises(sa.UnsupportedError, match="file"):
        sa.zeros(3, file=f"{tmp_path}/a.npy").notify()


def test_a_sweep_that_misses_a_record_keeps_the_notices_of_a_living_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listing of a directory may miss a file that another process replaces meanwhile."""
    if not blocks_are_files():
        pytest.skip("a block here has no path")
    with sa.zeros(3, name="noticed") as array:
        array.notify()
        mapping = mapping_of(array)
        assert mapping is not None
        assert mapping.directory is not None
        path = Path(_registry.notices_path(mapping.directory, mapping.inode))
        names = platform.names

        def without_records(directory: str) -> list[str]:
            return [name for name in names(directory) if not name.startswith("b.")]

        with monkeypatch.context() as patched:
            patched.setattr(platform, "names", without_records)
            _registry.sweep(mapping.directory)
        assert path.exists()
        stray = path.with_name("v.99999999999999")
        stray.touch()
        _registry.sweep(mapping.directory)
        assert path.exists()
        assert not stray.exists()
