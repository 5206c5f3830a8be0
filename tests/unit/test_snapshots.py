"""Versions: a writer publishes whole ones, readers keep the one that they have, and none is ever torn."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ANSWER,
    FORKS,
    SIGNALS,
    Puppet,
    answer,
    blocks_are_files,
    directory,
    interrupted_at,
    wait_until,
)

import sharedarray as sa
from sharedarray import _snapshots as snapshots
from sharedarray._platform import platform
from sharedarray._segment import mapping_of
from sharedarray._version_buffers import made_versions_of

pytestmark = pytest.mark.skipif(not platform.LENGTHENS, reason="blocks keep their size here")

# -- versions -------------------------------------------------------------------------------------------


def test_readers_keep_the_version_that_they_have() -> None:
    with sa.zeros((50, 40), name="weights") as weights:
        assert weights.version == 0
        old = weights.snapshot()
        reader = sa.attach("weights", "r")
        with weights.update() as new:
            new[:] = 1
            assert not reader.snapshot().any()
            assert weights.version == 0
        assert weights.version == reader.version == 1
        assert (reader.snapshot() == 1).all()
        assert not old.any()
        assert not old.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            old[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            new[0, 0] = 7  # it is published
        with weights.update() as new:
            assert (new == 1).all()
            new += 1
        assert (reader.snapshot() == 2).all()
        assert not old.any()
        # The array itself, and all who read it as such, have the new version.
        assert (weights == 2).all()
        assert (reader == 2).all()
        assert (sa.attach("weights") == 2).all()
        loaded = np.load(Path(os.environ["SHAREDARRAY_DIR"], "weights"))
        assert loaded.shape == (50, 40)
        assert (loaded == 2).all()
        assert np.shares_memory(reader.snapshot(), reader.snapshot())
        reader.close()


def test_no_end_of_versions() -> None:
    with sa.zeros(100, "i8", name="many") as array:
        old = array.snapshot()
        for number in range(1, 50):
            with array.update() as new:
                new[:] = number
            assert (array.snapshot() == number).all()
        assert array.version == 49
        assert not old.any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_and_orders(order: Any) -> None:
    for shape in ((), (3, 4), (0,), (2, 3, 4)):
        with sa.zeros(shape, "i4", order=order) as array:
            with array.update() as new:
                assert new.shape == shape
                new[...] = np.arange(array.size).reshape(shape)
            found = array.snapshot()
            assert found.flags.f_contiguous == array.flags.f_contiguous
            assert np.array_equal(found, np.arange(array.size).reshape(shape))
            assert np.array_equal(array, found)


def test_an_exception_publishes_nothing() -> None:
    with sa.ones(3) as array:
        with pytest.raises(ZeroDivisionError), array.update() as new:
            new[:] = 7 / int(new[0] - new[0])
        assert array.version == 0
        assert array.snapshot().tolist() == [1, 1, 1]
        with array.update(copy=False) as new:
            new[:] = 2
        assert array.snapshot().tolist() == [2, 2, 2]


def fail(call: Any, argument: object) -> None:
    call(argument)
    raise ZeroDivisionError


@pytest.mark.skipif(not platform.UNSHARES, reason="views of the buffer stay shared here")
@pytest.mark.parametrize(
    "keep",
    [
        lambda new: new[1:],
        lambda new: memoryview(new)[1:],
        lambda new: np.frombuffer(memoryview(new), new.dtype)[1:],
        lambda new: new.view("f8").reshape(2, -1).T.ravel("K")[1:],
    ],
    ids=["slice", "memoryview", "buffer", "views"],
)
def test_views_that_a_writer_keeps_change_no_version(keep: Any) -> None:
    with sa.zeros(2000) as array:
        kept = []
        for number in (1, 2, 3, 4):  # more than there are buffers
            with array.update(copy=number % 2 == 0) as new:
                kept.append(keep(new))
                new[:] = number
            for view in kept:  # the memory of each is its own
                view[0] = 99
            assert set(array.snapshot()) == set(array) == {number}
        with pytest.raises(ZeroDivisionError), array.update() as new:
            fail(kept.append, keep(new))
        with array.update() as new:
            kept[-1][0] = 99
            assert set(new) == {4}
        assert [view[0] for view in kept] == [99] * 5


@pytest.mark.skipif(not platform.UNSHARES, reason="views of the buffer stay shared here")
def test_members_that_a_writer_keeps_change_no_version() -> None:
    with sa.group(None, {"w": (100, "f8"), "b": (3, "f4")}) as group:
        for keep in (lambda new: new["w"][3:], lambda new: memoryview(new["w"])[3:], lambda new: new["w"].T):
            with group.update() as new:
                kept: Any = keep(new)
                new["w"] = 7
            kept[0] = 99
            assert set(group.snapshot()["w"]) == set(group["w"]) == {7}
            with pytest.raises(ValueError, match="read-only"):
                new["w"][0] = 1


@pytest.mark.skipif(not platform.UNSHARES, reason="views of the buffer stay shared here")
def test_memory_is_made_private_only_if_a_view_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs as much as a copy."""
    made: list[int] = []
    monkeypatch.setattr(platform, "unshare", lambda *arguments: made.append(1))
    with sa.zeros(2000) as array, sa.group(None, {"w": (100, "f8")}) as group:
        for _ in range(5):
            with array.update() as new:
                new[2:5] += 1
                np.add(new, 1, out=new)
            with group.update() as members:
                members["w"][3:] = 1
                members["w"] += members["w"]
        assert not made


def test_what_has_no_versions() -> None:
    with sa.zeros((4, 4), name="whole") as array:
        for part in (array[1:], array[:, 0], array.T, array.view("i8")):
            with pytest.raises(ValueError, match="part"):
                part.snapshot()
        reader = sa.attach("whole", "r")
        with pytest.raises(ValueError, match="read-only"), reader.update():
            pass
        with pytest.raises(TypeError):
            array.wait(1, longer_than=1)
        reader.close()
        array.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            array.update()
    with sa.zeros(0, capacity=3) as log, pytest.raises(ValueError, match="a slice of them is whole"):
        log.snapshot()
    with sa.put({"a": 3}) as stored, pytest.raises(ValueError, match="read-only"):
        stored.update()
    array = sa.zeros(3)
    array.close()
    with pytest.raises(sa.BlockClosedError):
        array.snapshot()
    with pytest.raises(ValueError, match="not shared"):
        np.zeros(3).view(sa.SharedArray).snapshot()


def test_buffers_that_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_PATIENCE", 0.1)
    with sa.zeros(3, name="kept") as array:
        kept = [array.snapshot()]
        for _ in range(2):
            with array.update() as new:
                new += 1
            kept.append(array.snapshot())
        with pytest.raises(sa.DeadlockError, match="copy"), array.update():
            pass
        assert array.version == 2
        with Puppet(KEEPER) as other:
            kept.clear()
            other.hear()  # keeps version 2
            with array.update() as new:
                new += 1
            other.ask()  # and 3
            with array.update() as new:
                new += 1
            other.ask()  # and 4
            with pytest.raises(sa.LockTimeout, match="readers"), array.update(timeout=0.05):
                pass
            done: list[int] = []

            def write() -> None:
                with array.update(timeout=ANSWER) as new:
                    new += 1
                done.append(array.version)

            thread = threading.Thread(target=write)
            thread.start()
            other.kill()  # its snapshots end with it, and the writer goes on
            thread.join(ANSWER)
            assert done == [5]
        assert array.snapshot().tolist() == [5, 5, 5]


KEEPER = """
    array = sa.attach("kept")
    kept = [array.snapshot()]
    say()
    while True:
        hear()
        kept.append(array.snapshot())
        say()
"""


def test_a_writer_waits_until_a_snapshot_is_dropped() -> None:
    script = """
        array = sa.attach("kept")
        kept = []
        while True:
            order = hear()
            kept = kept + [array.snapshot()] if order == "keep" else []
            say()
    """
    with sa.zeros(3, name="kept") as array, Puppet(script) as other:
        for _ in range(2):
            other.ask("keep")
            with array.update() as new:
                new += 1
        other.ask("keep")
        thread = threading.Thread(target=lambda: bump(array))
        thread.start()
        mapping = mapping_of(array)
        assert mapping is not None
        versions = made_versions_of(mapping)
        wait_until(lambda: not versions.all_awake(), "the writer sleeps", ANSWER)
        other.ask("drop")
        thread.join(ANSWER)
        assert array.version == 3
        other.kill()


def bump(array: sa.SharedArray) -> None:
    with array.update(timeout=ANSWER) as new:
        new += 1


def test_a_snapshot_keeps_the_block() -> None:
    held = sa.ones(1000, name="held").snapshot()
    gc.collect()
    assert sa.exists("held")
    part = held[3:7]
    del held
    with sa.attach("held") as other:
        bump(other)
        bump(other)
        bump(other)
        assert part.tolist() == [1] * 4
    del part
    wait_until(lambda: not sa.exists("held"), "the block goes with the last snapshot", ANSWER)


def test_a_closed_array_leaves_its_snapshots_whole() -> None:
    with sa.zeros(10, name="closed") as other:
        array = sa.attach("closed")
        held = array.snapshot()
        array.close()
        for _ in range(4):
            bump(other)
        assert not held.any()


@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_snapshot_that_a_forked_child_drops_stays_as_it_is_in_the_parent() -> None:
    weights = sa.zeros(10)
    kept = weights.snapshot()
    child = os.fork()
    if not child:
        own = weights.snapshot()
        del kept, own
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for k in range(1, 8):
        with weights.update() as new:
            new[:] = k
    assert not kept.any()


def test_a_snapshot_taken_while_the_last_one_dies_is_held() -> None:
    """In a collection of cycles, other callbacks come between the death of an object and its own callback."""
    weights = sa.zeros(10)

    class Cycle:
        pass

    taken: list[Any] = []
    for _ in range(3):
        dying, first = Cycle(), Cycle()
        dying.itself, dying.snapshot = dying, weights.snapshot()
        first.itself = first
        follow = [weakref.ref(each, lambda _: taken.append(weights.snapshot())) for each in (first, dying)]
        del dying, first
        gc.collect()
        assert len(follow) == 2
        del taken[:-1]
    for k in range(1, 8):
        with weights.update() as new:
            new[:] = k
    assert not taken[0].any()


def versions_of(array: sa.SharedArray) -> Any:
    mapping = mapping_of(array)
    assert mapping is not None
    return made_versions_of(mapping)


@pytest.mark.skipif(not SIGNALS, reason="needs SIGINT")
def test_ctrl_c_at_any_step_of_a_snapshot_leaves_no_buffer_held() -> None:
    with sa.zeros(10) as array:
        array.snapshot()
        step = 0
        while interrupted_at(step, array.snapshot):
            assert not versions_of(array).states(), f"step {step}"
            assert (array.snapshot() == 0).all()
            step += 1
        assert step > 20


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to a thread")
def test_a_signal_handler_takes_snapshots_while_the_main_thread_does() -> None:
    with sa.zeros(100, "i8") as array:
        taken: list[int] = []
        stop = threading.Event()
        main = threading.get_ident()

        def take(*_: Any) -> None:
            found = array.snapshot()
            taken.append(int(found.max()) - int(found.min()))

        def send() -> None:
            sent = 0
            while not stop.is_set():
                if len(taken) == sent:  # else handlers would interrupt handlers, without an end
                    sent += 1
                    signal.pthread_kill(main, signal.SIGUSR1)

        before, interval = signal.signal(signal.SIGUSR1, take), sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            for number in range(1, 50):
                found = array.snapshot()
                assert (found == found[0]).all()
                del found
                for _ in range(50):
                    array.snapshot()
                with array.update(timeout=ANSWER) as new:
                    new[:] = number
        finally:
            stop.set()
            sender.join()
            sys.setswitchinterval(interval)
            signal.signal(signal.SIGUSR1, before)
        assert not any(taken)
        assert not versions_of(array).states()


def test_a_snapshot_of_a_closed_array_is_refused_even_if_an_earlier_one_lives() -> None:
    with sa.zeros(10, name="closed") as other, sa.group("g", {"x": (3, "f8")}) as group:
        array = sa.attach("closed")
        held, whole = array.snapshot(), group.snapshot()
        array.close()
        group.close()
        for closed in (array, group):
            with pytest.raises(sa.BlockClosedError):
                closed.snapshot()
            with pytest.raises(sa.BlockClosedError):
                closed.version  # noqa: B018
        assert len(versions_of(other).states()) == 1
        assert not held.any()
        assert not whole["x"].any()
        del held
        assert not versions_of(other).states()


def test_threads_that_close_the_array_tear_no_snapshot() -> None:
    """A party that is given up while another thread takes a snapshot would hold nothing for it."""
    with sa.zeros(10, name="closed") as other:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(20):
                array = sa.attach("closed")
                array.snapshot()
                version = other.version
                closing = threading.Thread(target=array.close)
                closing.start()
                held = None
                try:
                    while True:
                        held = array.snapshot()
                except sa.BlockClosedError:
                    pass
                for number in range(3):
                    with other.update(timeout=ANSWER) as new:
                        new[:] = version + number + 1
                assert held is None or (held == version).all()
                closing.join()
                del held
                assert len(versions_of(other).states()) == 0
        finally:
            sys.setswitchinterval(interval)


def test_one_process_that_keeps_all_buffers_by_two_attachments_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "_PATIENCE", 0.01)
    with sa.zeros(3, name="kept") as array, sa.attach("kept") as other:
        kept = []
        for reader in (array, other, other):
            bump(array)
            kept.append(reader.snapshot())
        with pytest.raises(sa.DeadlockError, match="this process keeps snapshots of 2 old versions"):
            array.update(timeout=ANSWER).__enter__()
        del kept[0]
        bump(array)


def test_many_threads_keep_snapshots() -> None:
    with sa.zeros(100, "i8") as array:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        stop, failed = threading.Event(), []

        def read() -> None:
            kept: list[Any] = []
            try:
                while not stop.is_set():
                    kept = [*kept[-1:], array.snapshot()]
                    assert all((each == each[0]).all() for each in kept)
                    kept = kept if len(kept) < 2 else []
            except BaseException as error:
                failed.append(error)
                stop.set()

        threads = [threading.Thread(target=read) for _ in range(12)]
        for thread in threads:
            thread.start()
        try:
            for number in range(8):
                with array.update(timeout=ANSWER) as new:
                    new[:] = number
        finally:
            stop.set()
            for thread in threads:
                thread.join(ANSWER)
            sys.setswitchinterval(interval)
        assert not failed
        assert not versions_of(array).states()


def test_snapshots_travel_as_copies() -> None:
    with sa.ones(3) as array:
        stored = pickle.loads(pickle.dumps(array.snapshot()))
        bump(array)
        assert stored.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [3, (0, 3), (2, 512), ()])
def test_a_snapshot_tells_its_version(shape: Any) -> None:
    with sa.zeros(shape) as array:
        kept = [array.snapshot()]
        for number in (1, 2):
            with array.update() as new:
                new += 1
            kept[1:] = [array.snapshot()]
            assert array.version == number
            assert [array.version_of(each) for each in kept] == [0, number]
        assert array.version_of(kept[1][..., :1] if shape else kept[1]) == 2
        for other in (kept[1].copy(), array, kept[1].tolist()):
            with pytest.raises(ValueError, match="no snapshot"):
                array.version_of(other)


def test_a_snapshot_of_a_group_tells_its_version() -> None:
    with sa.group(None, {"w": (3, "f8"), "empty": (0, "f4")}) as group:
        old = group.snapshot()
        with group.update() as new:
            new["w"] = 1
        assert (old.version, group.snapshot().version, group.version) == (0, 1, 1)
        assert "snapshot of version 0" in repr(old)


def test_groups_have_versions_of_all_members(tmp_path: Path) -> None:
    for options in ({}, {"file": tmp_path / "group.npy"}):
        name = None if options else "net"
        group = sa.group(name, {"w": ((3, 3), "f8"), "b": (3, "f4")}, attrs={"k": 1}, **options)  # type: ignore[arg-type]
        assert group.version == 0
        old = group.snapshot()
        for copied in (True, False):
            with group.update(copy=copied) as new:
                new["w"][:] += 1 if copied else 2 - new["w"]
                new["b"][:] = 5
        assert group.version == group.wait(2, timeout=ANSWER) == 2
        with pytest.raises(TimeoutError):
            group.wait(3, timeout=0.01)
        whole = group.snapshot()
        assert whole["w"].sum() == 18
        assert whole["b"].sum() == 15
        assert not old["w"].any()
        assert whole.attrs == {"k": 1}
        assert not whole["w"].flags.writeable
        assert group["w"].sum() == 18
        assert group.current() is group
        stored = pickle.loads(pickle.dumps(whole))
        assert stored["w"].sum() == 18
        found: Any = sa.open(tmp_path / "group.npy") if options else sa.attach("net")
        assert found.snapshot()["b"].tolist() == [5, 5, 5]


def test_arrays_in_files_have_versions(tmp_path: Path) -> None:
    path = tmp_path / "weights.npy"
    array = sa.zeros(5, file=path)
    bump(array)
    bump(array)
    assert np.load(path).tolist() == [2] * 5
    reader = sa.open(path)
    assert reader.version == 2
    assert reader.snapshot().tolist() == [2] * 5


def test_the_memory_of_versions_is_not_used_again() -> None:
    """A block that has become longer is no free block of its former size."""
    size = 1 << 18
    for number in range(5):
        array = sa.full(size, number, "f8", name="again")
        bump(array)
        del array
        wait_until(lambda: not sa.exists("again"), "it is gone", ANSWER)
        fresh = sa.zeros(size, "f8", name="fresh")
        assert fresh.version == 0
        assert not fresh.any()
        assert sa.attach("fresh").shape == (size,)
        del fresh


def test_full_memory_leaves_the_array_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space")

    with sa.ones(1000, name="full") as array:
        monkeypatch.setattr(platform, "reserve_parts", full)
        with pytest.raises(sa.OutOfSharedMemoryError):
            array.snapshot()
        monkeypatch.undo()
        assert array.version == 0
        assert array.snapshot().all()


def test_damaged_control_words_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "weights.npy"
    bump(sa.zeros(1000, file=path))
    good = path.read_bytes()
    start = 65536
    assert good[start : start + 8] == b"\x93SAVERS\n"
    chance = random.Random(0)
    for word in range(1, 5):
        for value in (0, 1, 1 << 40, (1 << 64) - 1, chance.getrandbits(64)):
            block = bytearray(good)
            block[start + 8 * word : start + 8 * word + 8] = value.to_bytes(8, "little")
            path.write_bytes(block)
            opened = sa.open(path)
            try:
                opened.snapshot().sum()
            except sa.HeaderError:
                continue
            assert word == 4  # another version of another number
            assert value & 0xFF < 3


# -- waiting --------------------------------------------------------------------------------------------


def test_versions_that_are_just_made_are_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their maker may cut off their pages again: a load in a page that is cut off would be a SIGBUS."""
    if not blocks_are_files():
        pytest.skip("a block here keeps the size that it was made with")
    with sa.zeros(3, name="made") as array:
        path = Path(directory(), "made")
        size = path.stat().st_size
        os.truncate(path, 1 << 20)  # the first step of what makes versions

        def mapped(*arguments: Any) -> None:
            raise AssertionError("control words without their magic were mapped")

        with monkeypatch.context() as patched:
            patched.setattr(snapshots.ControlPage, "__init__", mapped)
            assert array.version == 0
        os.truncate(path, size)
        assert array.version == 0
        with array.update() as new:
            new[:] = 1
        with sa.attach("made") as other:
            assert (other.version, other.snapshot().tolist()) == (1, [1, 1, 1])


def test_readers_wait_for_a_version() -> None:
    script = """
        array = sa.attach("weights")
        say()
        while True:
            version = array.wait(hear(), timeout=60)
            say([version, float(array.snapshot()[0])])
    """
    with sa.zeros(3, name="weights") as array, Puppet(script) as reader:
        reader.hear()
        assert reader.ask(0) == [0, 0.0]
        reader.say(1)
        bump(array)
        assert reader.hear() == [1, 1.0]
        assert reader.ask(1) == [1, 1.0]
        reader.say(3)
        bump(array)
        bump(array)
        assert reader.hear() == [3, 3.0]
        with pytest.raises(TimeoutError, match="version 9"):
            array.wait(9, timeout=0.01)
        reader.kill()


def test_the_successor_of_an_array_that_was_replaced() -> None:
    with sa.zeros(3, name="table") as first:
        assert first.current() is first
        second = sa.ones(4, name="table", replace=True)
        found = first.current()
        assert found.tolist() == [1, 1, 1, 1]
        assert np.shares_memory(found, second) or found.name == "table"
        assert found.current() is found
        second.unlink()
        assert first.current() is first
        found.close()
        second.close()
    with sa.group("g", {"a": (2, int)}) as group:
        sa.group("g", {"b": (3, int)}, replace=True, persist=True)
        assert list(group.current()) == ["b"]
        sa.unlink("g")


def test_threads_take_snapshots_while_another_one_writes() -> None:
    with sa.zeros(2000, "i8") as array:
        torn: list[np.ndarray[Any, Any]] = []
        stop = threading.Event()

        def read() -> None:
            last = -1
            while not stop.is_set():
                found = array.snapshot()
                if found[0] != found[-1] or found[0] < last or (found != found[0]).any():
                    torn.append(found.copy())
                last = int(found[0])

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(200):
                bump(array)
        finally:
            stop.set()
            for thread in threads:
                thread.join(ANSWER)
        assert not torn
        assert array.version == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_another_reader_and_writer() -> None:
    with sa.zeros(3, name="forked") as array:
        held = array.snapshot()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                bump(array)
                if array.snapshot().tolist() == [1, 1, 1]:
                    array.close()
                    status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert array.version == 1
        assert not held.any()
        bump(array)
        assert array.snapshot().tolist() == [2, 2, 2]


# -- kills ----------------------------------------------------------------------------------------------

WRITER = """
    array = sa.attach("storm")
    say()
    while True:
        with array.update(copy=False) as new:
            new[:] = array.version + 1
"""

READER = """
    array = sa.attach("storm")
    say()
    last = 0
    while True:
        found = array.snapshot()
        first = int(found[0])
        if (found != first).any() or first < last:
            say([first, last])
        last = first
"""


def storm(kills: int) -> None:
    chance = random.Random(2)
    with sa.zeros(20_000, "i8", name="storm") as array:
        bump(array)
        version = 1
        with Puppet(READER) as witness:
            witness.hear()
            for number in range(kills):
                with Puppet(WRITER if number % 3 else READER) as victim:
                    victim.hear()
                    if number % 3:
                        array.wait(version + 1, timeout=ANSWER)
                    time.sleep(chance.random() * 0.02)
                    victim.kill()
                found = array.snapshot()
                assert (found == found[0]).all(), "torn"
                assert found[0] == array.version >= version
                version = array.version
                assert witness.silent(0), "a reader found a torn version"
            witness.kill()
        bump(array)  # nothing of the dead is in the way
        assert array.version == version + 1


def test_kills_tear_no_version() -> None:
    storm(2)


@pytest.mark.slow
def test_many_kills_tear_no_version() -> None:
    storm(150)


def test_a_maker_that_dies_leaves_nothing() -> None:
    answer("""
        from helpers import say
        import sharedarray as sa
        array = sa.zeros(3, name="left", persist=True)
        with array.update() as new:
            new[:] = 4
        say()
    """)
    with sa.attach("left") as found:
        assert found.version == 1
        assert found.snapshot().tolist() == [4, 4, 4]
        found.unlink()
