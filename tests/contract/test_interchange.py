"""Blocks that CPython's `multiprocessing.shared_memory` and this library make for one another.

The other side is a real interpreter with nothing but its standard library: the one that runs the tests, and
of every other version that is found. CPython's blocks are files in ``/dev/shm``, so these tests have theirs
there, under names of their own, and not in the directory of the session.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, blocks_are_files, forget_janitor

import sharedarray as sa

WHERE = "/dev/shm"

pytestmark = [
    # On other systems, test_two_interpreters.py tests the same.
    pytest.mark.skipif(not blocks_are_files(), reason="blocks are no files here"),
    pytest.mark.skipif(
        not os.path.isdir(WHERE) or not os.access(WHERE, os.W_OK),
        reason="CPython's blocks are elsewhere here",
    ),
]


def _interpreters() -> dict[str, str]:
    """Interpreters by version: this one's, and those that lie beside it or on the path."""
    found = [sys.executable]
    for version in ("3.11", "3.12", "3.13", "3.14"):
        beside = Path(sys.base_prefix).parent.glob(f"{version}*/bin/python{version}")
        found += [*map(str, beside), shutil.which(f"python{version}") or ""]
    versions: dict[str, str] = {}
    for path in filter(None, found):
        version = _version(path)
        if version >= "3.11":
            versions.setdefault(version, path)
    return versions


def _version(path: str) -> str:
    ask = "import sys, _posixshmem; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-I", "-c", ask], capture_output=True, text=True, timeout=ANSWER)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


INTERPRETERS = _interpreters()
THIS = _version(sys.executable)

# How a process of CPython's leaves alone what it attaches to: a parameter, or what was done before that.
HEAD = """
import json, sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList, SharedMemory
def attach(name):
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    block = SharedMemory(name)
    resource_tracker.unregister(block._name, "shared_memory")
    return block
def attach_list(name):
    found = ShareableList(name=name)
    resource_tracker.unregister(found.shm._name, "shared_memory")
    return found
def say(what=None):
    print(json.dumps(what), flush=True)
def hear():
    return json.loads(sys.stdin.readline())
"""


class Cpython:
    """An interpreter of some version, with its standard library alone."""

    def __init__(self, version: str) -> None:
        self.version = tuple(map(int, version.split(".")))
        self.path = INTERPRETERS[version]

    def start(self, script: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                self.path,
                "-I",
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                HEAD + textwrap.dedent(script),
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def run(self, script: str, *arguments: object) -> tuple[Any, str]:
        """Return what a script said last, and what stood on its stderr."""
        with self.start(script, *arguments) as process:
            out, err = process.communicate(timeout=ANSWER)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1]) if out else None, err


@pytest.fixture(params=sorted(INTERPRETERS))
def theirs(request: pytest.FixtureRequest) -> Cpython:
    return Cpython(request.param)


@pytest.fixture(autouse=True)
def where_cpython_has_its_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SHAREDARRAY_DIR")
    yield
    forget_janitor(WHERE)


@pytest.fixture
def name() -> Iterator[str]:
    """Provide a name of this test's own, free again in the end."""
    found = f"sa-test-{os.getpid()}-interchange"
    yield found
    assert not os.path.exists(f"{WHERE}/{found}")


def there(name: str) -> bool:
    return os.path.exists(f"{WHERE}/{name}")


def test_there_is_an_interpreter_of_this_version():
    assert THIS in INTERPRETERS


def test_cpython_reads_and_writes_our_block(theirs, name):
    block = sa.SharedMemory(name, create=True, size=5000)
    block.buf[:5] = b"hello"
    said, _ = theirs.run(
        """
        block = attach(sys.argv[1])
        say([block.name, block.size, bytes(block.buf[:5]).decode()])
        block.buf[4999] = 7
        block.close()
        """,
        name,
    )
    assert said == [name, 5000, "hello"]
    assert block.buf[4999] == 7
    assert there(name)
    block.close()
    block.unlink()


def test_we_read_and_write_cpythons_block(theirs, name):
    with theirs.start(
        """
        block = SharedMemory(sys.argv[1], create=True, size=5000)
        block.buf[:5] = b"hello"
        say()
        hear()
        say(block.buf[4999])
        hear()
        block.close()
        block.unlink()
        """,
        name,
    ) as process:
        process.stdout.readline()
        block = sa.SharedMemory(name)
        assert (block.size, bytes(block.buf[:5])) == (5000, b"hello")
        array = np.ndarray(5000, "u1", block.buf)
        array[4999] = 7
        process.stdin.write("1\n")
        process.stdin.flush()
        assert process.stdout.readline() == "7\n"
        block.close()
        assert there(name)  # attaching destroys nothing
        assert name not in {found.name for found in sa.blocks()}
        process.stdin.write("1\n")
        process.stdin.close()
        assert process.wait(ANSWER) == 0
        assert process.stderr.read() == ""
    assert not there(name)
    assert array[0] == ord("h")


def test_either_side_unlinks_what_the_other_has_made(theirs, name):
    block = sa.SharedMemory(name, create=True, size=10)
    theirs.run("block = SharedMemory(sys.argv[1]); block.close(); block.unlink()", name)
    assert not there(name)
    with pytest.raises(FileNotFoundError):
        block.unlink()
    block.close()
    # CPython's process has left a block, since it has no tracker here.
    theirs.run(
        "resource_tracker.unregister(SharedMemory(sys.argv[1], create=True, size=10)._name, 'shared_memory')",
        name,
    )
    assert there(name)
    left = sa.SharedMemory(name)
    left.close()
    left.unlink()


def test_names_are_taken_for_both(theirs, name):
    block = sa.SharedMemory(name, create=True, size=10)
    said, _ = theirs.run(
        """
        try:
            SharedMemory(sys.argv[1], create=True, size=10)
        except FileExistsError:
            say("taken")
        """,
        name,
    )
    assert said == "taken"
    block.close()
    block.unlink()
    with theirs.start(
        "b = SharedMemory(sys.argv[1], create=True, size=10); say(); hear(); b.unlink()", name
    ) as process:
        process.stdout.readline()
        with pytest.raises(FileExistsError):
            sa.SharedMemory(name, create=True, size=10)
        process.communicate("1\n", timeout=ANSWER)


def test_cpythons_tracker_destroys_what_it_has_attached_to(theirs, name):
    """gh-82300, which `SharedMemory` documents, and the way out of it, from 3.13 on."""
    block = sa.SharedMemory(name, create=True, size=10)
    block.buf[0] = 5
    if theirs.version >= (3, 13):
        _, err = theirs.run("SharedMemory(sys.argv[1], track=False).close()", name)
        assert err == ""
        assert there(name)
    _, err = theirs.run("SharedMemory(sys.argv[1]).close()", name)
    assert "leaked shared_memory" in err
    assert not there(name)
    assert block.buf[0] == 5
    block.close()
    assert not [found for found in sa.blocks() if found.name == name]


VALUES = [
    "howdy",
    b"HoWdY".decode(),
    -273.154,
    100,
    None,
    True,
    2**64 - 1,
    -(2**63),
    "日本語 💥",
    "é" * 8,
    "",
]


def test_cpython_reads_and_writes_our_list(theirs, name):
    ours = sa.ShareableList([*VALUES, "nul\0", b"nul\0\0"], name=name)
    said, _ = theirs.run(
        """
        found = attach_list(sys.argv[1])
        *values, text, data = found
        assert (text, data) == ("nul", b"nul\\0\\0")
        assert found.format == sys.argv[2]
        say(values)
        found[0] = "12345678"
        found[3] = "text"
        found[-1] = b"12\\0"
        found[-2] = b"1"
        found.shm.close()
        """,
        name,
        ours.format,
    )
    assert said == VALUES
    assert (ours[0], ours[3], ours[-2], ours[-1]) == ("12345678", "text", b"1", b"12")
    ours.shm.close()
    ours.shm.unlink()


def test_we_read_and_write_cpythons_list(theirs, name):
    with theirs.start(
        """
        made = ShareableList(["howdy", b"HoWdY", -273.154, 100, None, True, 42], name=sys.argv[1])
        say()
        hear()
        assert list(made) == ["dry ice", b"\\0\\0nul\\0", 1.5, None, False, 2**64 - 1, "a"], list(made)
        made[1] = b"ab"
        say()
        hear()
        made.shm.close()
        made.shm.unlink()
        """,
        name,
    ) as process:
        process.stdout.readline()
        ours = sa.ShareableList(name=name)
        assert list(ours) == ["howdy", b"HoWdY", -273.154, 100, None, True, 42]
        for position, value in enumerate(["dry ice", b"\0\0nul\0", 1.5, None, False, 2**64 - 1, "a\0"]):
            ours[position] = value
        process.stdin.write("1\n")
        process.stdin.flush()
        assert process.stdout.readline() == "null\n", process.stderr.read()
        assert ours[1] == b"ab"
        ours.shm.close()
        process.communicate("1\n", timeout=ANSWER)
        assert process.returncode == 0
    assert not there(name)


def test_arrays_go_over_too(theirs, name):
    """An array is plain bytes behind its header; CPython's side knows where they start."""
    with sa.share(np.arange(10, dtype="i4"), name=name) as array:
        said, _ = theirs.run(
            """
            block = attach(sys.argv[1])
            numbers = block.buf[4096:].cast("i")
            numbers[9] = 99
            say(numbers.tolist())
            del numbers
            block.close()
            """,
            name,
        )
        assert said == [*range(9), 99]
        assert array[9] == 99
    del array
