"""`SharedMemory`: CPython's interface, without the flaws that its users have reported.

What CPython's own tests say of it is in `test_cpython_shared_memory`, and blocks that go from one library to
the other in `test_interchange`.
"""

from __future__ import annotations

import copy
import errno
import gc
import json
import multiprocessing
import os
import pickle
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from multiprocessing import shared_memory as cpython
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    PROC,
    SIGNALS,
    Puppet,
    answer,
    block_files,
    blocks_are_files,
    directory,
    environment,
    inode,
    janitor_needed,
    kill_janitors,
    memory_is_there,
    nothing_left,
    run,
    wait_until,
)
from needs import link, needs_files, needs_fork, needs_proc

import sharedarray as sa
from sharedarray import (
    _process_tree as process_tree,
    _reference as reference,
    _registry as registry,
    _segment as segment,
)
from sharedarray._cli import main
from sharedarray._registry import Record

METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def block():
    made = sa.SharedMemory(create=True, size=64)
    yield made
    made.close()
    try:
        made.unlink()
    except FileNotFoundError:
        pass


# -- what CPython documents -----------------------------------------------------------------------------


def test_a_block_is_made_and_attached_to_by_name(block):
    block.buf[:4] = b"abcd"
    other = sa.SharedMemory(block.name)
    assert (other.size, len(other.buf), type(other.buf)) == (64, 64, memoryview)
    assert bytes(other.buf) == b"abcd" + bytes(60)
    other.buf[63] = 7
    assert block.buf[63] == 7
    other.close()
    assert block.buf is block.buf
    assert (block.buf.format, block.buf.readonly) == ("B", False)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, np.int64(5000)])
def test_the_size_is_exactly_as_asked_for(size):
    block = sa.SharedMemory(create=True, size=size)
    assert block.size == len(block.buf) == size == sa.SharedMemory(block.name).size
    if blocks_are_files():
        assert os.stat(f"{directory()}/{block.name}").st_size == size
        assert stat.S_IMODE(os.stat(f"{directory()}/{block.name}").st_mode) == 0o600
    block.close()
    block.unlink()


def test_the_size_is_not_looked_at_when_attaching(block):
    other = sa.SharedMemory(block.name, size=10**30)
    assert other.size == 64
    other.close()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, ValueError),
        ({"create": False, "size": 10}, ValueError),
        ({"create": True}, ValueError),
        ({"create": True, "size": 0}, ValueError),
        ({"create": True, "size": -1}, ValueError),
        ({"name": "x", "size": -1}, ValueError),
        ({"create": True, "size": 1.5}, TypeError),
        ({"create": True, "size": "1"}, TypeError),
        ({"create": True, "size": None}, TypeError),
        ({"name": b"x"}, TypeError),
        ({"name": 5, "create": True, "size": 1}, TypeError),
        ({"name": "x"}, FileNotFoundError),
        ({"name": ""}, ValueError),
        ({"name": "/"}, ValueError),
        ({"name": "a/b", "create": True, "size": 1}, ValueError),
        ({"name": "x\0"}, ValueError),
        ({"name": "..", "create": True, "size": 1}, ValueError),
        ({"name": "x" * 201, "create": True, "size": 1}, ValueError),
    ],
)
def test_wrong_arguments(arguments, kind):
    with pytest.raises(kind):
        sa.SharedMemory(**arguments)
    assert nothing_left()


def test_track_is_by_keyword_only():
    with pytest.raises(TypeError):
        sa.SharedMemory("x", True, 10, False)
    sa.SharedMemory("x", True, 10, track=True).unlink()


@pytest.mark.parametrize("given", ["x", "/x", "//x"])
def test_leading_slashes_do_not_count(given, monkeypatch):
    """As with CPython's, which says them again."""
    block = sa.SharedMemory(given, create=True, size=3)
    assert block_files() == {"x"}
    for name in ("x", "/x", block.name):
        sa.SharedMemory(name).close()
    again = pickle.loads(pickle.dumps(block))
    assert again.name == block.name
    if blocks_are_files() or given == "x":  # elsewhere, CPython takes slashes for a part of the name
        monkeypatch.delenv("SHAREDARRAY_DIR")
        theirs = cpython.SharedMemory(f"{given}_{os.getpid()}", create=True, size=3)
        assert theirs.name == f"{block.name}_{os.getpid()}"
        assert theirs._name == f"{block._name}_{os.getpid()}"
        theirs.close()
        theirs.unlink()
    again.close()
    block.close()
    block.unlink()


def test_a_taken_name(block):
    with pytest.raises(FileExistsError):
        sa.SharedMemory(block.name, create=True, size=5)
    assert block.buf[0] == 0


def test_after_close(block):
    block.close()
    block.close()
    assert block.buf is None
    assert (block.size, block.name) == (64, block._name.lstrip("/"))
    assert repr(block) == f"SharedMemory({block.name!r}, size=64)"
    block.unlink()
    assert nothing_left()


def test_unlink_takes_the_name_and_leaves_the_memory(block):
    block.unlink()
    assert nothing_left()
    with pytest.raises(FileNotFoundError):
        sa.SharedMemory(block.name)
    if blocks_are_files():
        with pytest.raises(FileNotFoundError):
            block.unlink()
    block.buf[0] = 5
    assert block.buf[0] == 5


def test_unlink_by_an_old_object_never_takes_a_new_block_of_the_name(block):
    old = sa.SharedMemory(block.name)
    block.unlink()
    new = sa.SharedMemory(block.name, create=True, size=5)
    if blocks_are_files():
        with pytest.raises(FileNotFoundError, match="another block"):
            old.unlink()
    else:  # where a name goes with the last holder, that is what was asked for
        old.unlink()
    assert sa.exists(new.name)
    old.close()
    new.close()
    new.unlink()


def test_equality_is_identity(block):
    other = sa.SharedMemory(block.name)
    assert block == block
    assert block != other
    assert len({block, other}) == 2
    other.close()


@pytest.mark.parametrize("how", [*range(pickle.HIGHEST_PROTOCOL + 1), copy.copy, copy.deepcopy])
def test_copies_attach_by_name(block, how):
    block.buf[0] = 9
    again = how(block) if callable(how) else pickle.loads(pickle.dumps(block, how))
    assert type(again) is sa.SharedMemory
    assert (again.name, again.size, again.buf[0]) == (block.name, 64, 9)
    again.buf[0] = 1
    assert block.buf[0] == 1
    again.close()
    block.unlink()
    text = pickle.dumps(block)
    with pytest.raises(FileNotFoundError):
        pickle.loads(text)


def test_subclasses(block):
    class Frame(sa.SharedMemory):
        def __init__(self, name: str) -> None:
            super().__init__(name, track=False)
            self.pixels = np.ndarray(64, "u1", self.buf)

    frame = Frame(block.name)
    frame.pixels[:] = 3
    assert repr(frame).startswith("Frame(")
    assert bytes(block.buf) == b"\3" * 64
    frame.close()


@needs_fork
def test_what_code_against_gh_82300_does_is_harmless(block):
    """Taking a block out of the resource tracker, where it never was."""
    done = run(
        """
        import sys
        from multiprocessing import resource_tracker
        import sharedarray as sa
        block = sa.SharedMemory(sys.argv[1])
        resource_tracker.unregister(block._name, "shared_memory")
        block.close()
        """,
        block.name,
    )
    assert "leaked" not in done.stderr
    sa.SharedMemory(block.name).close()


# -- no call crashes the interpreter ---------------------------------------------------------------------

LOOKS: dict[str, str] = {
    "ndarray": "np.ndarray((8,), 'u1', shm.buf)",
    "a view of it": "np.ndarray((2, 4), 'u1', shm.buf)[:, ::2].T",
    "frombuffer": "np.frombuffer(shm.buf, 'u1')",
    "asarray": "np.asarray(shm.buf)",
    "memoryview": "shm.buf[1:]",
    "cast": "shm.buf.cast('i')",
    "ctypes": "(ctypes.c_ubyte * 8).from_buffer(shm.buf)",
}
GOODBYES: dict[str, str] = {
    "close": "shm.close()",
    "drop": "del shm",
    "rebind": "shm = view",
    "release": "release(shm); shm.close(); del shm",
    "unlink": "shm.close(); shm.unlink(); del shm",
    "exit": "atexit.register(look); shm.close()",
}
PATTERN = """
import atexit, ctypes, gc, sys
import numpy as np
from {module} import SharedMemory
def release(shm):
    try:
        shm.buf.release()
    except BufferError:
        pass
def look():
    flat = view.tolist() if hasattr(view, "tolist") else list(view)
    flat = flat if isinstance(flat[0], int) else sum(flat, [])
    assert set(flat) <= {{7, 0x07070707}}, flat
shm = SharedMemory(create=True, size=8)
keep = SharedMemory(shm.name)  # for its name, however the first one goes
shm.buf[:] = b"\\7" * 8
view = {view}
{goodbye}
gc.collect()
look()
keep.close()
try:
    keep.unlink()
except FileNotFoundError:
    pass
"""


def test_what_looks_at_the_bytes_outlives_close():
    """In every way that NumPy, ctypes and memoryview have, and in every way that a block is let go."""
    scripts = [
        (f"{one}, {other}", PATTERN.format(module="sharedarray", view=view, goodbye=goodbye))
        for one, view in LOOKS.items()
        for other, goodbye in GOODBYES.items()
    ]
    # One interpreter for all of them: a crash would take it with it, after saying where.
    run(
        """
        import json, sys
        for what, script in json.loads(sys.argv[1]):
            print(what, flush=True)
            exec(script, {"__name__": "pattern"})
        """,
        json.dumps(scripts),
    )
    assert nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "goodbye"), [("ndarray", "close"), ("ndarray", "drop"), ("ndarray", "rebind")]
)
def test_with_cpythons_this_is_a_segmentation_fault(view, goodbye):
    """The trap that the library avoids is there, so the test above proves something."""
    script = PATTERN.format(
        module="multiprocessing.shared_memory", view=LOOKS[view], goodbye=GOODBYES[goodbye]
    )
    done = run("import helpers; helpers.crash_quietly()\n" + script, status=None)
    assert done.returncode == (-signal.SIGSEGV if SIGNALS else 0xC0000005), done.stderr


def test_arrays_over_the_bytes_hold_the_block():
    """A block that is let go without `close` is held by what looks at it."""
    made = sa.SharedMemory(create=True, size=8)
    name = made.name
    array = np.ndarray(8, "u1", sa.SharedMemory(name).buf)
    del made
    gc.collect()
    (found,) = sa.blocks()
    assert found.holders == (os.getpid(),)
    del array
    if blocks_are_files():
        (found,) = sa.blocks()
        assert not found.held
        sa.unlink(name)
    assert nothing_left()


def test_close_gives_the_memory_back_at_once(block):
    number = str(inode(block.name))

    def mapped() -> bool:
        if not PROC:
            return memory_is_there(block.name)
        with open("/proc/self/maps") as maps:
            return any(number in line.split() for line in maps)

    assert mapped()
    array = np.ndarray(64, "u1", block.buf)
    block.close()
    assert mapped()
    del array
    assert not mapped()
    assert not any(found.held for found in sa.blocks())


def test_arrays_over_the_bytes_travel_as_data(block):
    """As arrays over CPython's do: who sends one may write the next into the same memory."""
    array = np.ndarray(64, "u1", block.buf)
    array[:] = 1
    for sent in (ForkingPickler.dumps(array), pickle.dumps(array)):
        array[:] = 1
        received = pickle.loads(sent)
        array[:] = 2
        assert set(received.tolist()) == {1}
        assert not isinstance(received, sa.SharedArray)
    assert reference.reduce_held(array) is None  # nor does a pool share it
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send(array[::2])
    array[:] = 3
    assert set(reader.recv().tolist()) == {2}
    reader.close()
    writer.close()


# -- who keeps a block, and until when --------------------------------------------------------------------

MAKES = """
block = sa.SharedMemory("made", create=True, size=10)
block.buf[0] = 42
"""
CLOSES = "block.close()\n"


@needs_files
def test_a_block_that_is_closed_stays_for_others(block):
    """gh-82300's other half: it stays although no process has it open."""
    block.buf[0] = 42
    block.close()
    assert not sa.blocks()[0].held
    for _ in range(3):
        assert (
            answer(
                """
            import sys
            import sharedarray as sa
            from helpers import say
            block = sa.SharedMemory(sys.argv[1])
            say(block.buf[0])
            block.close()
            """,
                block.name,
            )
            == 42
        )
    assert sa.SharedMemory(block.name).buf[0] == 42


def test_what_was_not_unlinked_goes_with_the_process(own_directory):
    """At once, when it ends in good order, whatever it has closed, and without a word."""
    done = run(
        """
        import sys
        import sharedarray as sa
        blocks = [sa.SharedMemory(create=True, size=10) for _ in range(3)]
        blocks[0].close()
        del blocks[1]
        assert len(sa.blocks()) == int(sys.argv[1])
        """,
        3 if blocks_are_files() else 1,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert nothing_left(own_directory)


@pytest.mark.parametrize("janitor", [True, False] if janitor_needed() else [True])
def test_what_was_not_unlinked_goes_with_a_process_that_is_killed(own_directory, janitor):
    with Puppet(MAKES + CLOSES + "kept = sa.SharedMemory(create=True, size=9); say(); hear()") as maker:
        maker.hear()
        assert len(block_files()) == (2 if blocks_are_files() else 1)
        if not janitor:
            kill_janitors()
        maker.kill()
        if janitor:
            wait_until(nothing_left, "its blocks are gone")
        else:
            sa.SharedMemory("made", create=True, size=3).unlink()  # who makes the next needs not wait
            sa.prune()
            assert nothing_left()


def test_a_block_stays_while_a_process_has_it_open(own_directory):
    made = MAKES + CLOSES if blocks_are_files() else MAKES
    with (
        Puppet(made + "say(); hear()") as maker,
        Puppet(
            "hear(); b = sa.SharedMemory('made'); say(b.buf[0]); hear(); b.buf[1] = 7; say(); hear()"
        ) as other,
    ):
        maker.hear()
        assert other.ask() == 42
        maker.kill()
        other.ask()
        third = sa.SharedMemory("made")
        assert bytes(third.buf[:2]) == b"\x2a\7"
        other.kill()
        assert third.buf[1] == 7
        assert inode("made")
        third.close()
        assert nothing_left()


@needs_files
def test_untracked_blocks_stay_until_they_are_unlinked(own_directory):
    run("import sharedarray as sa; sa.SharedMemory('left', create=True, size=10, track=False).buf[0] = 5")
    with Puppet("b = sa.SharedMemory('left', track=False); say(b.buf[0]); hear()") as other:
        assert other.hear() == 5
        other.kill()
    (found,) = sa.blocks()
    assert (found.persistent, found.held, found.orphan, found.keeper) == (True, False, False, None)
    assert sa.prune() == []
    left = sa.SharedMemory("left")
    assert left.buf[0] == 5
    left.close()
    left.unlink()
    assert nothing_left()


def make_and_leave(name: str, deeper: int = 0, method: str | None = None) -> None:
    """Make a block in the last of several processes, each of which starts the next."""
    if deeper:
        child = multiprocessing.get_context(method).Process(
            target=make_and_leave, args=(name, deeper - 1, method)
        )
        child.start()
        child.join()
        assert child.exitcode == 0
    else:
        block = sa.SharedMemory(name, create=True, size=10)
        block.buf[0] = 42
        block.close()


@needs_files
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("deeper", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_may_make_a_block_and_end(method, deeper):
    """The block is kept by the leader of the process tree, which is not told of it."""
    process_tree.leader()  # as when this process has made a block before
    child = multiprocessing.get_context(method).Process(target=make_and_leave, args=("made", deeper, method))
    child.start()
    child.join()
    assert child.exitcode == 0
    (found,) = sa.blocks()
    assert (found.keeper, found.held, found.creator_alive) == (os.getpid(), False, False)
    block = sa.SharedMemory("made")
    assert block.buf[0] == 42
    block.close()
    assert sa.prune() == []
    block.unlink()
    assert nothing_left()


PROCESS_TREE = """
import multiprocessing, os, sys
from helpers import hear, say
def work(method):
    import sharedarray as sa
    block = sa.SharedMemory("made", create=True, size=10)
    block.close()
if __name__ == "__main__":
    method = sys.argv[1]
    child = multiprocessing.get_context(method).Process(target=work, args=(method,))
    child.start()
    child.join()
    assert "sharedarray" not in sys.modules
    say(os.getpid())
    hear()
"""


@needs_files
@pytest.mark.parametrize("method", METHODS)
def test_the_head_needs_to_know_nothing(own_directory, tmp_path, method):
    """It has not even imported the library, and the block goes when it is killed all the same."""
    script = tmp_path / "process_tree.py"
    script.write_text(PROCESS_TREE)
    with Puppet(f"os.execv(sys.executable, [sys.executable, {str(script)!r}, {method!r}])") as leader:
        assert leader.hear() == leader.pid
        (found,) = sa.blocks()
        assert (found.name, found.keeper, found.held) == ("made", leader.pid, False)
        leader.kill()
        wait_until(nothing_left, "the block is gone")


LATE_CHILD = """
{imports}
from helpers import wait_until
def work(name):
    wait_until(lambda: os.getppid() and os.path.exists(sys.argv[1]), "the main module has ended")
    block = sa.SharedMemory(name)
    assert block.buf[0] == 42
    print("found")
block = sa.SharedMemory(create=True, size=10)
block.buf[0] = 42
block.close()
multiprocessing.get_context("fork").Process(target=work, args=(block.name,)).start()
import atexit
# Called before multiprocessing joins the children, or behind it.
atexit.register(open, sys.argv[1], "w")
"""


@needs_files
@pytest.mark.parametrize(
    "imports",
    [
        "import os, sys, multiprocessing, sharedarray as sa",
        "import os, sys, sharedarray as sa; sa.SharedMemory; import multiprocessing",
    ],
)
def test_children_that_are_joined_at_exit_still_find_the_block(own_directory, tmp_path, imports):
    done = run(LATE_CHILD.format(imports=imports), tmp_path / "ended", flags=("-W", "ignore"))
    assert done.stdout == "found\n"
    assert nothing_left(own_directory)


@needs_fork
def test_a_fork_changes_nothing(own_directory):
    """A forked child holds what its parent held, destroys nothing in the end, and may outlive its parent."""
    with Puppet(
        """
        block = sa.SharedMemory("made", create=True, size=10)
        closed = sa.SharedMemory("closed", create=True, size=10)
        closed.close()
        child = os.fork()
        if not child:
            sa.SharedMemory("closed").close()
            sys.exit()
        os.waitpid(child, 0)
        say(sorted(found.name for found in sa.blocks()))
        hear()
        child = os.fork()
        if child:
            os._exit(0)
        say(os.getpid())
        hear()
        own = sa.SharedMemory("own", create=True, size=10)
        own.close()
        block.buf[0] = 7
        say([found.name for found in sa.blocks() if found.name in ("made", "own")])
        hear()
        """
    ) as parent:
        assert parent.hear() == ["closed", "made"]
        child = parent.ask()
        parent.process.wait()
        wait_until(lambda: inode("closed") is None, "what only the parent kept is gone")
        assert parent.ask() == ["made", "own"]
        os.kill(child, signal.SIGKILL)
        wait_until(nothing_left, "all is gone")


def test_who_is_at_the_head(monkeypatch):
    """It comes down in multiprocessing's configuration; a process whose leader is dead is one itself."""
    me = registry.me()
    configuration = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    with Puppet("say(); hear()") as other:
        other.hear()
        leader = other.pid, registry.processes.platform.process_started(other.pid)
        monkeypatch.setitem(configuration, process_tree._KEY, leader)
        assert process_tree.leader() == leader
    assert process_tree.leader() == me
    monkeypatch.setitem(configuration, process_tree._KEY, (me[0], me[1] - 1))  # an older process of our pid
    assert process_tree.leader() == me
    assert configuration[process_tree._KEY] == me
    monkeypatch.delitem(configuration, process_tree._KEY)
    assert process_tree.leader() == me


# -- what goes wrong -------------------------------------------------------------------------------------


def test_a_failed_attach_destroys_nothing(block, monkeypatch):
    """gh-153279."""

    def fails(*arguments: object) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(segment.mapping.platform, "map", fails)
        with pytest.raises(OSError, match="Cannot allocate"):
            sa.SharedMemory(block.name)
    sa.SharedMemory(block.name).close()
    assert sa.blocks()[0].holders == (os.getpid(),)


@needs_proc
def test_a_real_failed_attach_destroys_nothing():
    large = sa.SharedMemory(create=True, size=64 << 20)
    large.buf[0] = 5
    said = answer(
        """
        import resource, sys
        import sharedarray as sa
        from helpers import say
        used = 4096 * int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
        try:
            sa.SharedMemory(sys.argv[1])
        except OSError as error:
            say(error.errno)
        """,
        large.name,
    )
    assert said == errno.ENOMEM
    other = sa.SharedMemory(large.name)
    assert other.buf[0] == 5
    other.close()
    large.close()
    large.unlink()


def test_an_empty_leftover_is_a_clear_error_and_left(own_directory):
    """gh-92408: what a process of CPython's leaves that is killed between two calls."""
    path = f"{own_directory}/empty"
    open(path, "w").close()
    for attach in (sa.SharedMemory, lambda name: sa.ShareableList(name=name)):
        with pytest.raises(sa.HeaderError, match="an empty file") as caught:
            attach("empty")
        assert isinstance(caught.value, ValueError)  # as CPython's
        assert path in str(caught.value)
        assert "killed before it had a size" in str(caught.value)
    with pytest.raises(FileExistsError):
        sa.SharedMemory("empty", create=True, size=5)
    assert os.path.getsize(path) == 0
    os.unlink(path)


def test_a_block_that_is_just_being_made_is_waited_for(own_directory, monkeypatch):
    """CPython gives a block its name first and its size then."""
    path = f"{own_directory}/slow"
    open(path, "w").close()
    tries = []
    attach = segment.attach

    def attach_and_grow(name: str) -> Any:
        tries.append(name)
        if len(tries) == 3:
            os.truncate(path, 10)
        return attach(name)

    monkeypatch.setattr(segment, "attach", attach_and_grow)
    block = sa.SharedMemory("slow")
    assert (len(tries), block.size) == (3, 10)
    block.close()
    block.unlink()
    assert not os.path.exists(path)


def make_link(path: str) -> None:
    link(Path(path), Path(sys.executable))


@pytest.mark.parametrize("make", [os.mkdir, *([os.mkfifo] if hasattr(os, "mkfifo") else []), make_link])
def test_what_is_no_file_is_refused(own_directory, make: Callable[[str], None]):
    path = f"{own_directory}/odd"
    make(path)
    with pytest.raises(sa.HeaderError):
        sa.SharedMemory("odd")
    assert os.path.lexists(path)
    os.rmdir(path) if os.path.isdir(path) else os.unlink(path)


def test_files_without_a_record_are_attached_to_and_unlinked_when_asked(own_directory):
    """Blocks of CPython's, and of other programs: unlike `sharedarray.unlink`, it is an order."""
    with open(f"{own_directory}/theirs", "wb") as file:
        file.write(b"hello")
    block = sa.SharedMemory("theirs")
    assert bytes(block.buf) == b"hello"
    with pytest.raises(sa.NotOursError):
        sa.unlink("theirs")
    block.close()
    assert block_files() == {"theirs"}
    block.unlink()
    assert nothing_left()


# -- seen from outside ------------------------------------------------------------------------------------


def test_blocks_tells_what_it_is_and_who_keeps_it(block, capsys):
    items = sa.ShareableList(["a"], name="items")
    found = {found.name: found for found in sa.blocks()}
    assert {name: found.kind for name, found in found.items()} == {block.name: "memory", "items": "list"}
    for each in found.values():
        keeper = os.getpid() if blocks_are_files() else None
        assert (each.keeper, each.held, each.shape, each.orphan) == (keeper, True, None, False)
    if blocks_are_files():
        items.shm.close()
    assert main(["ls"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert (lines["items"][1], lines[block.name][1]) == ("list", "memory")
    if blocks_are_files():
        assert lines["items"][-1] == lines[block.name][-1] == "kept"
    assert main(["info", "items"]) == 0
    shown = capsys.readouterr().out
    assert "sharedarray.ShareableList(name='items')" in shown
    keeper = f" {os.getpid()} " if blocks_are_files() else " -"
    assert keeper in next(line for line in shown.splitlines() if line.startswith("kept by"))
    assert main(["info", block.name]) == 0
    assert f"sharedarray.SharedMemory({block.name!r})" in capsys.readouterr().out
    items.shm.close()
    items.shm.unlink()


def test_attach_says_how_to_open_what_is_no_array(block, own_directory):
    raw = sa.SharedMemory("raw", create=True, size=5000)
    items = sa.ShareableList(["a"], name="items")
    with pytest.raises(sa.HeaderError, match=r"sharedarray\.SharedMemory\('raw'\)"):
        sa.attach("raw")
    with pytest.raises(sa.HeaderError, match=r"sharedarray\.ShareableList\(name='items'\)"):
        sa.attach("items")
    for made in (raw, items.shm):
        made.close()
        made.unlink()


def test_a_record_says_how_long_the_block_lives():
    texts = {
        Record("bytes", 7, 8, 9.5, False): "1 bytes 7 8 9.500 0 0 0 0.000",
        Record("array", 7, 8, 9.5, True): "1 array 7 8 9.500 1 0 0 0.000",
        Record("memory", 7, 8, 9.5, False, (10, 11), space=12): "1 memory 7 8 9.500 k10.11.12 12 0 0.000",
        Record("list", 7, 8, 9.5, False, (10, 11), True): "1 list 7 8 9.500 o10.11.0 0 0 0.000",
    }
    for record, text in texts.items():
        assert record.encode() == text
        assert Record.parse(text) == record
    # Of an older version, which tells no pid namespace and no steady clock.
    assert Record.parse("1 array 7 8 9.500 1") == Record("array", 7, 8, 9.5, True)
    for life in ("2", "", "k", "k1", "k1.2", "k1.2.", "k1.2.3.4", "kx.1.2", "x1.2.3", "o1.y.2", "K1.2.3"):
        assert Record.parse(f"1 memory 7 8 9.500 {life}") is None, life


@needs_files
@pytest.mark.parametrize("owned", [False, True])
def test_a_keeper_in_another_container_is_taken_to_live(owned):
    """Its pid means nothing here, and may be that of any process or of none."""
    block = sa.SharedMemory(create=True, size=5, name="far")
    block.close()
    number = inode("far") or 0
    record = registry.read_record(directory(), "far", number)
    assert record is not None
    dead = (1 << 22) + 1, 5
    for space, left in ((registry.here() + 1, {"far"}), (registry.here(), set())):
        changed = record._replace(pid=dead[0], keeper=dead, space=space, owned=owned)
        registry.record.replace_record(directory(), "far", number, changed)
        assert sa.prune() == sorted({"far"} - left)
        assert block_files() == left


@needs_files
def test_processes_of_another_container_keep_their_blocks(own_directory):
    """In a real pid namespace of its own: our janitor and sweeps see no process of that pid."""
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("pid namespaces are not permitted here")
    script = """
        import sharedarray as sa
        from helpers import hear, say
        sa.SharedMemory("kept", create=True, size=9).close()
        say([[found.keeper, found.held] for found in sa.blocks() if found.name == "kept"])
        hear()
        """
    with sa.zeros(3, name="mine"):  # so that the janitor is one of this side
        process = subprocess.Popen(
            [*apart, sys.executable, "-c", textwrap.dedent(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        with process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == [[1, False]]
            assert sa.prune() == []
            assert block_files() == {"kept", "mine"}
            process.communicate(b"1\n")
        assert process.returncode == 0
        assert block_files() == {"mine"}  # its own end it can see


@needs_files
def test_a_block_kept_by_hand_has_no_end_of_its_own(block):
    """`persist` from another side overrules who keeps it."""
    other = sa.Segment.attach(block.name)
    other.persist()
    assert sa.blocks()[0].persistent
    assert sa.blocks()[0].keeper is None
    other.persist(False)
    block.close()
    other.close()
    assert nothing_left()


def test_many_threads_make_and_leave(own_directory):
    failed = []

    def work(number: int) -> None:
        try:
            for _ in range(30):
                block = sa.SharedMemory(create=True, size=100)
                block.buf[:] = bytes([number]) * 100
                other = sa.SharedMemory(block.name)
                block.close()
                assert set(other.buf) == {number}
                other.close()
                block.unlink()
        except BaseException as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert nothing_left()
