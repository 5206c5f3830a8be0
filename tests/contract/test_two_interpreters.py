"""Two interpreters by name: one with our classes, one with CPython's, as its page on shared memory shows.

The other side is a real interpreter with nothing but its standard library. The blocks are where CPython's
are, so these tests do not use the directory of the session, and have names of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, forget_janitor, janitor_needed

import sharedarray as sa
from sharedarray import _registry as registry

HEAD = """
import json, sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList, SharedMemory
def leave_alone(block):
    # Or CPython's tracker, where there is one, would remove what was only attached to (gh-82300); since 3.13
    # SharedMemory has track=False for this, and ShareableList still has nothing.
    if hasattr(resource_tracker, "_posixshmem"):
        resource_tracker.unregister(block._name, "shared_memory")
def attach(name):
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    block = SharedMemory(name)
    leave_alone(block)
    return block
def say(what=None):
    print(json.dumps(what), flush=True)
def hear():
    return json.loads(sys.stdin.readline())
"""


class Shell:
    """A second interpreter, without this package."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", HEAD + textwrap.dedent(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, what: Any = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self.process.kill()
        self.process.communicate(timeout=ANSWER)


@pytest.fixture(autouse=True)
def where_cpythons_are(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("SHAREDARRAY_DIR")
    directory = registry.directory()
    if janitor_needed() and directory != "/dev/shm":
        pytest.skip("CPython's blocks are elsewhere here")
    yield directory
    forget_janitor(directory)


@pytest.fixture
def name() -> str:
    return f"sa-test-{os.getpid()}-{os.urandom(4).hex()}"


def test_cpython_attaches_to_ours(name: str) -> None:
    """The first example of CPython's page, with an array over the bytes."""
    plain = np.array([1, 1, 2, 3, 5, 8], "i8")
    ours = sa.SharedMemory(name, create=True, size=plain.nbytes)
    array = np.ndarray(plain.shape, plain.dtype, ours.buf)
    array[:] = plain
    script = """
        block = attach(sys.argv[1])
        numbers = block.buf[: int(sys.argv[2])].cast("q")
        say([numbers.tolist(), block.size])
        numbers[-1] = 888
        numbers.release()
        say()
        hear()
        block.close()
    """
    with Shell(script, name, plain.nbytes) as other:
        numbers, size = other.hear()
        assert numbers == plain.tolist()
        assert size >= plain.nbytes  # some systems know whole pages only
        other.hear()
        assert array[-1] == 888
        other.say()
    assert sa.SharedMemory(name).buf[:8] == plain[:1].tobytes()  # its end has taken nothing away
    del array
    ours.close()
    ours.unlink()


def test_we_attach_to_cpythons(name: str) -> None:
    script = """
        block = SharedMemory(sys.argv[1], create=True, size=10)
        block.buf[:5] = b"hello"
        say()
        hear()
        say(bytes(block.buf[:5]).decode())
        block.close()
        block.unlink()
    """
    with Shell(script, name) as other:
        other.hear()
        ours = sa.SharedMemory(name)
        assert ours.size >= 10
        assert bytes(ours.buf[:5]) == b"hello"
        ours.buf[:5] = b"howdy"
        with pytest.raises(FileExistsError):
            sa.SharedMemory(name, create=True, size=10)
        other.say()
        assert other.hear() == "howdy"
        ours.close()
    with pytest.raises(FileNotFoundError):
        sa.SharedMemory(name)


def test_lists_in_both_directions(name: str) -> None:
    script = """
        theirs = ShareableList(["made by CPython", 7, None, 2.5], name=sys.argv[1] + "-theirs")
        ours = ShareableList(name=sys.argv[1] + "-ours")
        leave_alone(ours.shm)
        say([ours[0], ours[1], ours[2], len(ours)])
        ours[1] = 42
        hear()
        say(list(theirs))
        for one in (theirs.shm, ours.shm):
            one.close()
        theirs.shm.unlink()
    """
    ours = sa.ShareableList(["made by us", 1, True, b"bytes"], name=f"{name}-ours")
    with Shell(script, name) as other:
        assert other.hear() == ["made by us", 1, True, 4]
        theirs = sa.ShareableList(name=f"{name}-theirs")
        assert list(theirs) == ["made by CPython", 7, None, 2.5]
        theirs[1] = 8
        theirs.shm.close()
        other.say()
        assert other.hear() == ["made by CPython", 8, None, 2.5]
        assert ours[1] == 42
    ours.shm.close()
    ours.shm.unlink()


def test_arrays_have_the_name_as_well(name: str) -> None:
    """A block of ours begins with the NPY header for every reader."""
    array = sa.share(np.arange(10, dtype="i8"), name=name)
    script = """
        block = attach(sys.argv[1])
        say([bytes(block.buf[1:6]).decode(), block.buf[4096 : 4096 + 80].cast("q").tolist()])
        block.close()
    """
    with Shell(script, name) as other:
        assert other.hear() == ["NUMPY", array.tolist()]
    array.close()


def test_either_side_may_be_killed(name: str) -> None:
    """A process that has the memory open keeps it, its maker or not."""
    script = """
        block = SharedMemory(sys.argv[1] + "-theirs", create=True, size=10)
        leave_alone(block)
        block.buf[:5] = b"hello"
        ours = attach(sys.argv[1] + "-ours")
        say(bytes(ours.buf[:5]).decode())
        hear()
    """
    ours = sa.SharedMemory(f"{name}-ours", create=True, size=10)
    ours.buf[:5] = b"howdy"
    with Shell(script, name) as other:
        assert other.hear() == "howdy"
        theirs = sa.SharedMemory(f"{name}-theirs")
        other.process.kill()
    assert bytes(theirs.buf[:5]) == b"hello"
    assert bytes(sa.SharedMemory(f"{name}-ours").buf[:5]) == b"howdy"
    for block in (ours, theirs):
        block.close()
    for left in ("ours", "theirs"):
        try:
            sa.SharedMemory(f"{name}-{left}").unlink()
        except FileNotFoundError:
            pass  # where memory goes with the last that has it open


def test_names_are_not_free_to_cpython_while_we_hold_them(name: str) -> None:
    with sa.zeros(5, name=name):
        script = """
            try:
                SharedMemory(sys.argv[1], create=True, size=10)
            except FileExistsError:
                say("taken")
        """
        with Shell(script, name) as other:
            assert other.hear() == "taken"
