"""`SharedMemoryManager`: blocks and arrays that go with a process.

What CPython's own tests say of it is in `test_cpython_shared_memory`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from multiprocessing import ProcessError, managers
from typing import Any

import numpy as np
import pytest
from helpers import (
    METHODS,
    Puppet,
    alive,
    block_files,
    inode,
    kill,
    kill_janitors,
    nothing_left,
    run,
    wait_until,
)
from needs import EACH_METHOD, few, needs_files, needs_fork, needs_signals

import sharedarray as sa
from sharedarray import _registry as registry

QUICK = "fork" if "fork" in METHODS else METHODS[0]

# Python warns of forks beside threads, of which other tests leave some: joblib's, tqdm's.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def servants() -> None:
    """Start what lives on after a test, so that it does not count as left behind: fork server, tracker."""
    if "forkserver" in METHODS:
        started = multiprocessing.get_context("forkserver").Process()
        started.start()
        started.join()


def manager_by(method: str = QUICK, *arguments: Any) -> sa.SharedMemoryManager:
    return sa.SharedMemoryManager(*arguments, ctx=multiprocessing.get_context(method))


@pytest.fixture
def manager() -> Iterator[sa.SharedMemoryManager]:
    with manager_by() as made:
        yield made


def server_of(manager: sa.SharedMemoryManager) -> int:
    pid: int = manager._process.pid
    return pid


# -- what it makes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EACH_METHOD)
def test_everything_it_makes_goes_with_shutdown(method):
    manager = manager_by(method)
    manager.start()
    memory = manager.SharedMemory(size=100)
    items = manager.ShareableList([1, "two", b"3\0"])
    zeros = manager.SharedArray((2, 3), "i4", name="zeros")
    image = manager.share(np.arange(6.0).reshape(2, 3), "f4", "F")
    kept = {memory.name, items.shm.name, "zeros", str(image.name)}
    assert block_files() == kept
    found = {each.name: each for each in sa.blocks()}
    assert {each.keeper for each in found.values()} == {server_of(manager)}
    assert [found[name].kind for name in (memory.name, items.shm.name, "zeros")] == [
        "memory",
        "list",
        "array",
    ]
    # The objects are of the usual classes, with the usual contents.
    assert (type(memory), type(items), type(zeros)) == (sa.SharedMemory, sa.ShareableList, sa.SharedArray)
    assert list(items) == [1, "two", b"3\0"]
    assert (zeros.shape, zeros.dtype, zeros.any()) == ((2, 3), np.dtype("i4"), False)
    assert (image.dtype, image.flags.f_contiguous, image.sum()) == (np.dtype("f4"), True, 15)
    view = sa.attach("zeros")
    view[1, 2] = 9
    assert zeros[1, 2] == 9
    manager.shutdown()
    assert nothing_left()
    with pytest.raises(FileNotFoundError):
        sa.attach("zeros")
    # A process that has a block open keeps its memory.
    memory.buf[99] = 1
    assert (view[1, 2], image.sum(), list(items)[1], memory.buf[99]) == (9, 15, "two", 1)
    view[0] = 5
    assert zeros.sum() == 24


@needs_files
def test_closing_and_dropping_frees_nothing(manager):
    array = manager.share([1, 2, 3], name="kept")
    array.close()
    del array
    memory = manager.SharedMemory(10)
    memory.buf[0] = 7
    memory.close()
    gc.collect()
    sa.prune()
    assert sa.attach("kept").tolist() == [1, 2, 3]
    assert sa.SharedMemory(memory.name).buf[0] == 7
    assert [each.held for each in sa.blocks()] == [False, False]


def test_what_was_unlinked_is_no_trouble_at_shutdown():
    """CPython's shutdown fails on it."""
    with manager_by() as manager:
        memory = manager.SharedMemory(10)
        other = manager.share([1])
        memory.unlink()
        assert block_files() == {other.name}
        with sa.zeros(3, name=memory.name) as mine:
            manager.shutdown()
            assert block_files() == {mine.name}  # another block of that name is not the manager's
    assert nothing_left()


def test_what_cannot_be_made_leaves_nothing(manager):
    for make, kind in (
        (lambda: manager.SharedMemory(0), ValueError),
        (lambda: manager.SharedMemory(-5), ValueError),
        (lambda: manager.ShareableList([object()]), TypeError),
        (lambda: manager.SharedArray(3, object), TypeError),
        (lambda: manager.share([1, 2], name="a/b"), ValueError),
        (lambda: manager.SharedArray(-1), ValueError),
    ):
        with pytest.raises(kind):
            make()
    assert nothing_left()
    assert manager.share([5]).tolist() == [5]
    taken = manager.share([1], name="taken")
    with pytest.raises(FileExistsError):
        manager.share([2], name="taken")
    assert taken.tolist() == [1]


def total(items: Any, start: int, stop: int, sums: Any, place: int) -> None:
    sums[place] = (
        sum(items[start:stop])
        if isinstance(items, np.ndarray)
        else sum(items[position] for position in range(start, stop))
    )


@pytest.mark.parametrize("method", EACH_METHOD)
@pytest.mark.parametrize("kind", few(["array", "list"]))
def test_two_processes_sum_the_halves(method, kind):
    with manager_by(method) as manager:
        numbers = manager.ShareableList(range(200)) if kind == "list" else manager.share(np.arange(200))
        sums = manager.ShareableList([0, 0])
        context = multiprocessing.get_context(method)
        halves = [
            context.Process(target=total, args=(numbers, 100 * half, 100 * half + 100, sums, half))
            for half in (0, 1)
        ]
        for half in halves:
            half.start()
        for half in halves:
            half.join()
        assert list(sums) == [4950, 14950]
    assert nothing_left()


# -- starting, connecting, ending ---------------------------------------------------------------------------


def test_nothing_is_made_before_the_start_or_after_the_end():
    manager = manager_by()
    with pytest.raises(ValueError, match=r"call start\(\)"):
        manager.SharedMemory(10)
    with manager:
        with pytest.raises(ProcessError):
            manager.start()
        with pytest.raises(ProcessError):
            manager.get_server()
        with manager:  # CPython's may be started before
            manager.SharedMemory(10)
    for make in (lambda: manager.share([1]), lambda: manager.ShareableList([1])):
        with pytest.raises(ValueError, match="shut down"):
            make()
    with pytest.raises(ProcessError):
        manager.start()
    assert nothing_left()


def test_a_manager_that_is_dropped_shuts_down():
    manager = manager_by()
    manager.start()
    pid = server_of(manager)
    manager.share([1])
    del manager
    gc.collect()
    assert nothing_left()
    assert not alive(pid)


@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)])
def test_a_second_process_connects_and_makes_what_the_manager_owns(address):
    with manager_by(QUICK, address, b"secret") as manager:
        mine = manager.share([1, 2, 3], name="mine")
        with Puppet(
            """
            address = eval(sys.argv[1])
            manager = sa.SharedMemoryManager(address, b"secret")
            manager.connect()
            memory = manager.SharedMemory(10)
            memory.buf[0] = 7
            with manager:  # which is not this process's to shut down
                array = manager.share(sa.attach("mine") * 2, name="theirs")
            say([memory.name, manager.ShareableList("ab").shm.name])
            hear()
            """,
            repr(manager.address),
        ) as other:
            names = other.hear()
            other.kill()
        # They are the manager's, so they stay when the process that made them is killed.
        assert sa.attach("theirs").tolist() == [2, 4, 6]
        assert sa.SharedMemory(names[0]).buf[0] == 7
        assert list(sa.ShareableList(name=names[1])) == ["a", "b"]
        assert {each.keeper for each in sa.blocks()} == {server_of(manager)}
    assert nothing_left()
    assert mine.tolist() == [1, 2, 3]


def test_a_wrong_key_is_refused(manager):
    other = sa.SharedMemoryManager(manager.address, b"wrong")
    with pytest.raises(multiprocessing.AuthenticationError):
        other.connect()
    with pytest.raises(ValueError, match="nothing yet"):
        other.SharedMemory(10)
    assert nothing_left()


def test_a_server_that_is_gone_is_an_error_that_leaves_nothing(manager):
    manager.share([1], name="x")
    kill(server_of(manager))
    wait_until(nothing_left, "its blocks are gone")
    with pytest.raises(OSError, match=r"."):
        manager.share([1])
    assert nothing_left()


def test_a_server_that_cannot_see_the_block_is_a_clear_error(manager, own_directory):
    """As on another machine; where its registry is elsewhere, the block is made and removed again."""
    own = managers.dispatch

    def elsewhere(connection: Any, ident: Any, name: str, args: Any) -> Any:
        return own(connection, ident, name, ("/nowhere", *args[1:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(managers, "dispatch", elsewhere)
        with pytest.raises(sa.NotOursError, match="another machine"):
            manager.share([1, 2])
    assert nothing_left()
    assert manager.share([1, 2]).tolist() == [1, 2]


def test_clients_cannot_have_other_files_removed(manager, tmp_path):
    """Whatever a client asks of the server, it removes what its records say to be its own."""
    file = tmp_path / "file"
    file.write_text("precious")
    mine = sa.share([1], name="mine")
    theirs = manager.share([2], name="theirs")

    def ask(what: str, *arguments: Any) -> Any:
        with manager._Client(manager.address, authkey=manager._authkey) as connection:
            return managers.dispatch(connection, None, what, arguments)

    number = file.stat().st_ino
    assert ask("track_segment", str(tmp_path), "file", number) is False
    with pytest.raises(managers.RemoteError):
        ask("track_segment", str(tmp_path), "../file", number)
    assert ask("list_segments") == ["theirs"]
    for name in ("mine", "file", "../file", "nothing"):
        ask("release_segment", name)
    assert file.read_text() == "precious"
    assert not list(tmp_path.glob(".sharedarray*"))
    assert block_files() == {"mine", "theirs"}
    ask("release_segment", "theirs")
    assert block_files() == {"mine"}
    assert ask("list_segments") == []
    assert theirs.tolist() == [2]
    mine.close()


def test_a_server_of_ones_own():
    """`get_server().serve_forever()`, in a process that multiprocessing has not started."""
    with Puppet(
        """
        manager = sa.SharedMemoryManager(("127.0.0.1", 0), b"secret")
        server = manager.get_server()
        say(server.address)
        server.serve_forever()
        """
    ) as process:
        address = tuple(process.hear())
        manager = sa.SharedMemoryManager(address, b"secret")
        manager.connect()
        memory = manager.SharedMemory(10)
        manager.share([1], name="x")
        memory.close()
        assert len(block_files()) == 2
        with manager._Client(address, authkey=b"secret") as connection:
            managers.dispatch(connection, None, "shutdown")
        assert process.process.wait() == 0
        assert nothing_left()


# -- the death of either ------------------------------------------------------------------------------------

STARTS = """
import multiprocessing
manager = sa.SharedMemoryManager(ctx=multiprocessing.get_context({method!r}))
manager.start()
array = manager.share([1, 2, 3], name="array")
memory = manager.SharedMemory(10)
memory.close()
say([manager._process.pid, memory.name])
hear()
"""


@needs_files
@pytest.mark.parametrize("method", few(METHODS))
@pytest.mark.parametrize("who", ["manager", "starter"])
def test_the_death_of_either_frees_every_block(own_directory, tmp_path, method, who):
    """By SIGKILL; what others have open stays memory, and has no name any more."""
    script = tmp_path / "starts.py"
    script.write_text("from helpers import say, hear\nimport sharedarray as sa\nif __name__ == '__main__':\n")
    with open(script, "a") as file:
        file.writelines(f"    {line}\n" for line in STARTS.format(method=method).strip().splitlines())
    with Puppet(f"os.execv(sys.executable, [sys.executable, {str(script)!r}])") as starter:
        server, name = starter.hear()
        array = sa.attach("array")
        assert inode(name)
        if who == "manager":
            kill(server)
        else:
            starter.kill()
        wait_until(nothing_left, "every block is gone, though this process has one open")
        wait_until(lambda: not alive(server), "the manager has ended")
        assert array.tolist() == [1, 2, 3]
        array[0] = 5
        with pytest.raises(FileNotFoundError):
            sa.attach("array")
        if who == "manager":
            starter.end()


@needs_files
def test_all_killed_and_no_janitor(own_directory):
    """The process that makes the next block, or prunes, sweeps up."""
    with Puppet(STARTS.format(method=QUICK)) as starter:
        server, _ = starter.hear()
        kill_janitors()
        kill(server)
        starter.kill()
    wait_until(lambda: not alive(server), "the manager has ended")
    sa.prune()
    assert nothing_left()


@needs_fork
@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
def test_a_forked_manager_does_not_keep_its_starters_arrays():
    before = sa.share([1, 2, 3], name="before")
    with manager_by("fork") as manager:
        after = manager.share([4])
        assert sa.blocks()[0].holders == (os.getpid(),)
        before.close()
        assert block_files() == {after.name}


class Serving(sa.SharedMemoryManager):
    """A manager that serves objects of its user's, too."""


def first_of(name: str) -> int:
    return int(sa.attach(name)[0])


Serving.register("first_of", callable=first_of)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_manager_serves_other_objects_as_well(method):
    """It is a `BaseManager`."""
    assert issubclass(sa.SharedMemoryManager, managers.BaseManager)
    with Serving(ctx=multiprocessing.get_context(method)) as manager:
        array = manager.share([7, 8])
        assert str(manager.first_of(array.name)) == "7"
        array[0] = 9
        assert str(manager.first_of(array.name)) == "9"
    assert nothing_left()


def mark(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))


def test_an_initializer(tmp_path):
    manager = manager_by()
    with pytest.raises(TypeError):
        manager.start("nothing to call")
    manager.start(mark, (str(tmp_path / "mark"),))
    assert (tmp_path / "mark").read_text() == str(server_of(manager))
    manager.share([1])
    manager.shutdown()
    assert nothing_left()


def test_many_threads_and_processes_ask_at_once(manager):
    names: list[str] = []

    def work() -> None:
        names.extend(str(manager.share([number]).name) for number in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 40
    assert block_files() == set(names)
    manager.shutdown()
    assert nothing_left()


@needs_signals
def test_ctrl_c_does_not_end_the_manager(manager):
    os.kill(server_of(manager), signal.SIGINT)
    assert manager.share([1]).tolist() == [1]


def test_shutdown_is_silent_and_quick_in_a_script():
    """With the janitor's help or without, nothing is said about blocks that the manager has freed."""
    done = run(
        """
        import sharedarray as sa
        manager = sa.SharedMemoryManager()
        manager.start()
        items = manager.ShareableList(range(10))
        array = manager.share([1, 2])
        """,
        flags=("-W", "error"),
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert nothing_left()


@needs_files
def test_the_record_says_who_owns(manager):
    array = manager.share([1], name="x")
    record = registry.read_record(os.environ["SHAREDARRAY_DIR"], "x", inode("x") or 0)
    assert record is not None
    assert record.owned
    assert record.keeper is not None
    assert record.keeper[0] == server_of(manager)
    assert (record.kind, record.pid, record.persist) == ("array", os.getpid(), False)
    del array


@pytest.mark.parametrize(
    ("module", "question"),
    [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")],
)
def test_sockets_of_greenlets_are_refused(monkeypatch, module, question):
    """multiprocessing reads from them without waiting, and fails at the first message."""
    patches = types.SimpleNamespace(**{question: lambda part: part == "socket"})
    monkeypatch.setitem(sys.modules, module, patches)
    for call in (sa.SharedMemoryManager().start, sa.SharedMemoryManager(("localhost", 1)).connect):
        with pytest.raises(sa.UnsupportedError, match=rf"{module.partition('.')[0]} has monkey-patched"):
            call()
