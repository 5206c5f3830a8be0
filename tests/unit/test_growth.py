"""Arrays that grow: appended to by one process, read by others, never torn, and their rows never lost."""

from __future__ import annotations

import io
import math
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, Puppet, answer, blocks_are_files, wait_until

import sharedarray as sa
from sharedarray import _growth as growth, _header as header
from sharedarray._segment import mapping_of

LARGE = 10_000_000


def loaded(name: str) -> np.ndarray[Any, Any]:
    """Return what another reader of NumPy's format finds in a block."""
    if blocks_are_files():
        return np.load(Path(os.environ["SHAREDARRAY_DIR"], name))  # type: ignore[no-any-return]
    with sa.Segment.attach(name, "r") as block:  # which has no path
        start = io.BytesIO(bytes(block.buf[: header.PAGE]))
        assert np.lib.format.read_magic(start) == (1, 0)
        shape, _, dtype = np.lib.format.read_array_header_1_0(start)
        return np.frombuffer(block.buf, dtype, math.prod(shape), start.tell()).reshape(shape).copy()


# -- growing --------------------------------------------------------------------------------------------


def test_an_array_grows_in_place() -> None:
    with sa.zeros((0, 4), name="log", capacity=LARGE) as log:
        assert log.shape == (0, 4)
        assert log.capacity == LARGE
        assert loaded("log").shape == (0, 4)
        assert log.append([1, 2, 3, 4]) == 1
        first = log[0]
        view = log[:]
        where = log.ctypes.data
        assert log.append(np.full((3, 4), 7)) == 4
        assert log.tolist() == [[1, 2, 3, 4]] + [[7, 7, 7, 7]] * 3
        assert log.ctypes.data == where
        assert view.tolist() == [[1, 2, 3, 4]]
        assert np.shares_memory(first, log)
        assert (log.size, log.nbytes, len(log)) == (16, 128, 4)
        assert np.array_equal(loaded("log"), log)
        assert np.array_equal(sa.attach("log"), log)
        assert np.asarray(log).sum() == log.sum() == 94
        assert log.T.shape == (4, 4)
        assert np.array_equal(np.ravel(log, "F"), np.array(log.tolist()).ravel("F"))
        assert memoryview(log).shape == (4, 4)
        (block,) = sa.blocks()
        assert block.shape == (4, 4)
        log[1, 2] = 8
        assert loaded("log")[1, 2] == 8


def test_unused_capacity_costs_nothing() -> None:
    with sa.zeros((0, 4), name="sparse", capacity=LARGE) as log:
        path = Path(os.environ["SHAREDARRAY_DIR"], "sparse")
        if path.is_file():  # memory may have no path
            assert path.stat().st_blocks * 512 < 1 << 16
            (block,) = sa.blocks()
            assert block.size < 1 << 16
            log.append([0] * 4)
            assert path.stat().st_blocks * 512 < 1 << 22


def test_readers_take_over_what_came() -> None:
    with sa.zeros(0, "i8", name="log", capacity=1000) as log:
        reader = sa.attach("log", "r")
        log.extend(range(10))
        assert len(reader) == 0
        assert reader.refresh() is reader
        assert reader.tolist() == list(range(10))
        assert not reader.flags.writeable
        part = reader[2:4]
        log.append(10)
        assert part.tolist() == [2, 3]
        assert reader.wait(longer_than=10, timeout=ANSWER) == 11
        assert reader[-1] == 10
        with pytest.raises(TimeoutError):
            reader.wait(longer_than=11, timeout=0.01)
        with pytest.raises(ValueError, match="read-only"):
            reader.append(1)
        private = sa.attach("log", "c")
        with pytest.raises(ValueError, match="read-only"):
            private.append(1)
        reader.close()
        private.close()


@pytest.mark.parametrize("shape", [(0,), (0, 1), (3, 2), (0, 2, 3), (0, 0)])
@pytest.mark.parametrize("dtype", ["f4", [("x", "i2"), ("name", "U3")], "M8[s]"])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: Any) -> None:
    with sa.zeros(shape, dtype, name="kinds", capacity=100) as log:
        rows = np.zeros((5, *shape[1:]), dtype)
        rows.reshape(-1)[::2] = np.ones(1, rows.dtype)[0]
        log.append(rows)
        log.append(rows[2])
        expected = np.concatenate([np.zeros(shape, dtype), rows, rows[2:3]])
        for found in (log, sa.attach("kinds"), loaded("kinds")):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
            assert np.array_equal(np.ravel(found, "F"), np.ravel(expected, "F"))


def test_what_can_be_appended() -> None:
    with sa.zeros((0, 2), "i4", capacity=10) as log:
        log.append(np.array([1.5, 2]))
        log.append([(3, 4), (5, 6)])
        log.extend([[7, 8]])
        log.extend(np.array([[9, 10]]))
        log.extend(iter([(11, 12)]))
        log.extend([])
        log.append(np.empty((0, 2)))
        assert log.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]
        for wrong in ([1, 2, 3], 1, [[1, 2, 3]], [[[1, 2]]]):
            with pytest.raises(ValueError, match="row"):
                log.append(wrong)
        for wrong in ([[1, 2], [3]], ["one", "two"], [1j, 2]):
            with pytest.raises((ValueError, TypeError), match=r"a row of shape \(2,\) of int32"):
                log.append(wrong)
        with pytest.raises(ValueError, match="row"):
            log.extend(np.array([1, 2]))
        with pytest.raises(sa.MaskedArrayError):
            log.append(np.ma.masked_all((1, 2)))
        masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
        for append in (log.append, log.extend, lambda rows: log.extend(iter(rows))):
            with pytest.raises(sa.MaskedArrayError):
                append([masked])
        with pytest.raises(sa.CapacityError, match="at most 10"):
            log.append(np.zeros((5, 2)))
        assert len(log) == 6
        log.append(np.zeros((4, 2)))
        with pytest.raises(ValueError, match="capacity"):
            log.append([0, 0])
        with pytest.raises(sa.CapacityError):
            log.extend([[0, 0]])


def test_large_rows_go_in_as_they_are() -> None:
    with sa.zeros((0, 1024), name="large", capacity=10_000) as log:
        rows = np.random.default_rng(0).random((300, 1024))
        log.append([0.0] * 1024)
        log.append(rows)
        log.append(rows[::2])
        log.append(rows.astype("f4"))
        expected = np.concatenate([np.zeros((1, 1024)), rows, rows[::2], rows.astype("f4")])
        assert np.array_equal(sa.attach("large"), expected)


def test_what_does_not_grow() -> None:
    with sa.zeros((3, 4)) as fixed:
        assert fixed.capacity is None
        for call in (lambda: fixed.append([1] * 4), fixed.refresh, lambda: next(fixed.follow())):
            with pytest.raises(ValueError, match="capacity="):
                call()
    with sa.zeros((2, 4), capacity=9) as log:
        for part in (log[1:], log[:1], log[:], log[:, 1:], log[::2], log.T):
            for call in (lambda part=part: part.append([1] * 4), part.refresh):
                with pytest.raises(ValueError, match="part"):
                    call()
    with pytest.raises(ValueError, match="capacity"):
        sa.zeros((3, 4), capacity=2)
    with pytest.raises(ValueError, match="capacity"):
        sa.zeros((), capacity=2)
    with pytest.raises(ValueError, match="order"):
        sa.zeros((0, 4), order="F", capacity=2)
    with pytest.raises(TypeError):
        sa.zeros((0, 4), capacity=2.5)  # type: ignore[arg-type]
    with pytest.raises(sa.UnsupportedDTypeError):
        sa.zeros((0, 4), object, capacity=2)
    with pytest.raises(ValueError, match="address space"):
        sa.zeros((0, 1 << 40), capacity=1 << 40)
    log = sa.zeros(0, name="closed", capacity=2)
    log.close()
    with pytest.raises(sa.BlockClosedError):
        log.append(1)
    assert not sa.exists("closed")


@pytest.mark.parametrize("capacity", [-1, 2, 10**18, 1e6, "7"])
def test_no_capacity(capacity: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="capacity is"):
        sa.zeros((3, 4), capacity=capacity)


def test_a_read_only_view_does_not_grow() -> None:
    with sa.zeros((0, 3), capacity=10) as log:
        log.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            log.append([1, 2, 3])
        page = log._repr_html_()
        assert "10 rows" in page


def test_full_memory_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with sa.zeros((0, 1024), name="full", capacity=5000) as log:
        log.append(np.ones(1024))

        def full(*_: Any) -> None:
            raise OSError(28, "no space")

        monkeypatch.setattr(growth.platform, "reserve_parts", full)
        monkeypatch.setattr(growth.platform, "write", full)
        for rows in (np.ones((1000, 1024), "f4"), np.ones((1000, 1024))):
            with pytest.raises(sa.OutOfSharedMemoryError):
                log.append(rows)
        monkeypatch.undo()
        assert len(sa.attach("full")) == 1
        assert log.append(np.ones(1024)) == 2


def test_names_that_are_taken() -> None:
    with sa.zeros((1, 3), name="taken", capacity=10) as log:
        log.append([1, 2, 3])
        again = sa.zeros((0, 3), name="taken", capacity=10, exist_ok=True)
        assert len(again) == 2
        again.close()
        for other in ({"capacity": 11}, {}):
            with pytest.raises(sa.BlockExistsError):
                sa.zeros((1, 3), name="taken", exist_ok=True, **other)  # type: ignore[arg-type]
        with pytest.raises(sa.BlockExistsError, match="an array that grows"):
            sa.zeros((10, 3), name="taken", exist_ok=True)
        with sa.zeros((0, 3), name="taken", capacity=5, replace=True):
            assert len(sa.attach("taken")) == 0
    with sa.zeros((10, 3), name="fixed"), pytest.raises(sa.BlockExistsError, match="an array that grows"):
        sa.zeros((0, 3), name="fixed", capacity=10, exist_ok=True)


def test_what_to_do_about_a_file_that_is_taken(tmp_path: Path) -> None:
    """A file is never removed, so that `replace` would be refused."""
    path = tmp_path / "taken.npy"
    sa.zeros(3, file=path).close()
    for make in (
        lambda: sa.zeros(4, file=path, exist_ok=True),
        lambda: sa.zeros((0,), capacity=3, file=path, exist_ok=True),
        lambda: sa.group(None, {"a": ((3,), "f8")}, file=path, exist_ok=True),
    ):
        with pytest.raises(sa.BlockExistsError, match="another path, or remove the file first") as caught:
            make()
        assert "replace" not in str(caught.value)
    sa.group(None, {"a": ((3,), "f8")}, file=tmp_path / "group.npy").close()
    with pytest.raises(sa.BlockExistsError, match="another path") as caught:
        sa.zeros(3, file=tmp_path / "group.npy", exist_ok=True)
    assert "replace" not in str(caught.value)


def test_a_file_is_a_log_that_survives(tmp_path: Path) -> None:
    path = tmp_path / "log.npy"
    answer(
        """
        import sys
        from helpers import say
        import sharedarray as sa
        log = sa.zeros((0, 2), "i4", file=sys.argv[1], capacity=1_000_000)
        log.extend([[1, 2], [3, 4]])
        log.flush()
        say()
        """,
        path,
    )
    assert np.load(path).tolist() == [[1, 2], [3, 4]]
    log = sa.open(path)
    assert log.append([5, 6]) == 3
    reader = sa.open(path, "r")
    assert next(reader.follow(2, timeout=ANSWER)).tolist() == [[5, 6]]
    assert reader.tolist() == [[1, 2], [3, 4], [5, 6]]
    again = sa.zeros((0, 2), "i4", file=path, capacity=1_000_000, exist_ok=True)
    assert len(again) == 3


def overwritten(path: Path, at: int, new: bytes) -> None:
    block = bytearray(path.read_bytes())
    block[len(block) - 4096 + at : len(block) - 4096 + at + len(new)] = new
    path.write_bytes(block)


LOSSES: dict[str, Callable[[Path], object]] = {
    "only the rows are there": lambda path: os.truncate(path, 4096 + 3000 * 32),
    "cut off": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "zeros": lambda path: overwritten(path, 0, bytes(4096)),
    "another capacity": lambda path: overwritten(path, 8, b"\xff" * 8),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_log_that_lost_its_control_page_gets_it_anew(
    lose: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "log.npy"
    rows = np.arange(12000.0).reshape(3000, 4)
    log = sa.zeros((0, 4), file=path, capacity=100_000)
    log.append(rows)
    log.close()
    del log  # on Windows, a file that is mapped cannot be cut
    lose(path)
    before = path.read_bytes()
    assert np.array_equal(np.load(path), rows)
    with pytest.raises(
        ValueError, match=r"exist_ok=True makes it a log again, as in .*\(0, 4\), '<f8', file="
    ):
        sa.open(path).append(rows[:1])
    for shape, dtype, capacity in (((0, 3), "f8", 9000), ((0, 4), "f4", 9000), ((0, 4), "f8", 2999)):
        with pytest.raises(sa.BlockExistsError):
            sa.zeros(shape, dtype, file=path, capacity=capacity, exist_ok=True)
    assert path.read_bytes() == before
    again = sa.zeros((0, 4), file=path, capacity=9000, exist_ok=True)
    assert again.capacity == 9000
    assert np.array_equal(again, rows)
    assert again.append(rows[:2]) == 3002
    assert np.array_equal(np.load(path), np.concatenate((rows, rows[:2])))
    assert sa.open(path).capacity == 9000
    assert len(sa.zeros((0, 4), file=path, capacity=9000, exist_ok=True)) == 3002


def test_what_is_no_log_does_not_become_one(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros((3, 4)))
    sa.zeros((3, 4), file=tmp_path / "fixed.npy")
    for path in tmp_path.iterdir():
        before = path.read_bytes()
        with pytest.raises(sa.BlockExistsError):
            sa.zeros((0, 4), file=path, capacity=100, exist_ok=True)
        assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", ["f8", [("x", "i4"), ("t", "M8[s]", 2)]])
def test_a_log_that_is_cut_within_its_rows_tells_how_to_read_those_that_are_there(
    dtype: Any, tmp_path: Path
) -> None:
    path = tmp_path / "log.npy"
    log = sa.zeros((0, 4), dtype, file=path, capacity=1000)
    log.append(np.ones((300, 4), log.dtype))
    size, dtype = log.itemsize, log.dtype
    log.close()
    del log
    os.truncate(path, 4096 + 20 * 4 * size + 7)
    with pytest.raises(sa.HeaderError, match="its first 20 rows are there") as failure:
        sa.open(path)
    call = str(failure.value.next_step).partition(": numpy.")[2]
    rows = eval(f"np.{call}", {"np": np})
    assert rows.shape == (20, 4)
    assert rows.dtype == dtype
    assert (rows == np.ones((20, 4), dtype)).all()


def test_processes_restore_a_log_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.npy"
    log = sa.zeros((0, 2), "i8", file=path, capacity=1000)
    log.append([[1, 1], [2, 2]])
    log.close()
    del log
    os.truncate(path, 4096 + 32)
    script = """
        hear()
        log = sa.zeros((0, 2), "i8", file=sys.argv[1], capacity=1000, exist_ok=True)
        say(log.append([int(sys.argv[2])] * 2))
        hear()
    """
    with Puppet(script, path, 7) as first, Puppet(script, path, 8) as second:
        first.say()
        second.say()
        assert {first.hear(), second.hear()} == {3, 4}
        for each in (first, second):
            each.say()
    assert sorted(np.load(path)[:, 0].tolist()) == [1, 2, 7, 8]


# -- the length -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [(0, 5), (99_999_998, 99_999_999), (99_999_999, 100_000_003), (3 * 10**8 - 1, 3 * 10**8 + 7)],
)
def test_each_store_of_a_length_leaves_one_that_readers_take(before: int, after: int) -> None:
    """The length is stored in words; NumPy must find a valid header between any two of them."""
    with sa.zeros(0, "V0", name="length", capacity=10**9) as log:
        mapping = mapping_of(log)
        assert mapping is not None
        state = growth.growth_of(mapping)
        state.publish(before)
        assert state.length() == before
        seen = []

        class Halves:
            def __init__(self, halves: Any) -> None:
                self._halves = halves

            def __getitem__(self, at: int) -> Any:
                return self._halves[at]

            def __setitem__(self, at: int, value: int) -> None:
                self._halves[at] = value
                page = bytes(state.memory[: header.PAGE])
                seen.append(header.decode(page, len(page), name="it").shape[0])
                fresh = growth.Growth(mapping)
                assert fresh.length() >= before, "what a process that dies here leaves"
                fresh.on_release()

        state._halves = Halves(state._halves)  # type: ignore[assignment]
        state.publish(after)
        assert seen[-1] == after
        assert all(length <= after for length in seen)


def test_damaged_control_words_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "log.npy"
    sa.zeros((2, 3), file=path, capacity=1000)
    good = path.read_bytes()
    start = len(good) - 4096
    chance = random.Random(0)
    for word in range(1, 6):
        for value in (0, 1, 1 << 40, (1 << 64) - 1, chance.getrandbits(64)):
            block = bytearray(good)
            block[start + 8 * word : start + 8 * word + 8] = value.to_bytes(8, "little")
            path.write_bytes(block)
            try:
                opened = sa.open(path)
            except sa.HeaderError:
                continue
            opened.tolist()  # such as a capacity that fits as well
            assert word in (1, 5)
    block = bytearray(good)
    block[start] ^= 1  # no array that grows, then
    path.write_bytes(block)
    assert sa.open(path).capacity is None


# -- waiting --------------------------------------------------------------------------------------------

PRODUCER = """
    log = sa.attach("log")
    while (order := hear()) is not None:
        if order == "append":
            say(log.append(len(log)))
        elif order == "close":
            log.close()
            say()
"""


def test_followers_get_every_row_and_the_end() -> None:
    with sa.zeros(0, "i8", name="log", capacity=LARGE) as log, Puppet(PRODUCER) as producer:
        assert producer.ask("append") == 1
        follower = log.follow(timeout=ANSWER)
        assert next(follower).tolist() == [0]
        assert producer.ask("append") == 2
        assert producer.ask("append") == 3
        rows = next(follower)
        assert rows.tolist() == [1, 2]
        assert len(log) == 3
        producer.ask("close")
        assert list(follower) == []
        with pytest.raises(EOFError, match="closed"):
            log.wait(longer_than=3, timeout=ANSWER)
        assert [each.tolist() for each in log.follow(1)] == [[1, 2]]
        producer.end()


def test_a_sleeping_reader_is_woken() -> None:
    with sa.zeros(0, "i8", name="log", capacity=LARGE) as log, Puppet(PRODUCER) as producer:
        found: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(sa.attach("log").wait(longer_than=0, timeout=ANSWER))
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        page = mapping_of(log)
        assert page is not None
        words = growth.growth_of(page).words
        wait_until(lambda: sum(map(bool, words[128:252])) == 3, "all sleep", ANSWER)
        producer.ask("append")
        for thread in threads:
            thread.join(ANSWER)
        assert found == [1, 1, 1]
        producer.end()


def test_the_death_of_an_appender_is_told_after_its_last_row() -> None:
    with sa.zeros(0, "i8", name="log", capacity=LARGE) as log, Puppet(PRODUCER) as producer:
        producer.ask("append")
        follower = log.follow(timeout=ANSWER)
        next(follower)
        producer.ask("append")
        told: list[BaseException] = []

        def wait() -> None:
            try:
                log.wait(longer_than=2, timeout=ANSWER)
            except sa.ProducerDied as error:
                told.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        producer.kill()
        thread.join(ANSWER)
        assert len(told) == 1
        assert next(follower).tolist() == [1]
        with pytest.raises(sa.ProducerDied, match="died"):
            next(follower)
        assert log.append(7) == 3  # another appender goes on
        assert sa.attach("log").wait(longer_than=2, timeout=ANSWER) == 3


def test_appenders_of_many_processes_take_turns() -> None:
    script = """
        log = sa.attach("log")
        hear()
        me = int(sys.argv[1])
        for number in range(200):
            log.append([me, number])
        say()
        hear()
    """
    with sa.zeros((0, 2), "i8", name="log", capacity=LARGE) as log:
        puppets = [Puppet(script, me) for me in range(2)]
        try:
            for puppet in puppets:
                puppet.say()
            for puppet in puppets:
                puppet.hear()
        finally:
            for puppet in puppets:
                puppet.__exit__()
        log.refresh()
        assert len(log) == 400
        for me in range(2):
            assert log[log[:, 0] == me, 1].tolist() == list(range(200))


def test_a_busy_appender_times_out() -> None:
    with sa.zeros(0, name="log", capacity=10) as log:
        mapping = mapping_of(log)
        assert mapping is not None
        other = sa.attach("log")
        growth.growth_of(mapping).begin(mapping, None)
        with pytest.raises(sa.LockTimeout, match="appends"):
            other.append(1, timeout=0.05)
        growth.growth_of(mapping).end()
        assert other.append(1, timeout=ANSWER) == 1
        other.close()


def test_threads_append_to_one_array() -> None:
    with sa.zeros(0, "i8", capacity=10_000) as log:
        threads = [threading.Thread(target=lambda: [log.append(1) for _ in range(300)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.refresh().sum() == 1200


def test_a_thread_that_appended_earlier_sets_no_length_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with sa.zeros(0, "i8", capacity=100) as log:
        mapping = mapping_of(log)
        assert mapping is not None
        own, ended = growth.growth_of(mapping), growth.Growth.end

        def end(self: growth.Growth) -> None:
            ended(self)
            if len(self.words) and own.length() == 1:  # another thread appends between here and the return
                thread = threading.Thread(target=log.append, args=([2, 3],))
                thread.start()
                thread.join()

        monkeypatch.setattr(growth.Growth, "end", end)
        log.append(1)
        assert log.tolist() == [1, 2, 3]
        own.lengthen(log, 2)
        assert len(log) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_appends_as_itself() -> None:
    with sa.zeros(0, "i8", name="log", capacity=100) as log:
        log.append(1)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                log.append(2)
                log.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert log.append(3) == 3
        assert log.tolist() == [1, 2, 3]


def test_references_and_pickles() -> None:
    with sa.zeros((0, 3), name="log", capacity=100) as log:
        log.append([1, 2, 3])
        received: Any = ForkingPickler.loads(ForkingPickler.dumps(log))
        assert received.capacity == 100
        log.append([[4, 5, 6], [7, 8, 9]])
        assert received.refresh().tolist() == log.tolist()
        assert received.flags.f_contiguous is False
        assert np.array_equal(received.ravel("F"), [1, 4, 7, 2, 5, 8, 3, 6, 9])
        received.append([0, 0, 0])
        assert len(log.refresh()) == 4
        received.close()
        assert pickle.loads(pickle.dumps(log)).shape == (4, 3)


def test_an_empty_log_arrives_as_one_that_grows() -> None:
    with sa.zeros((0, 3), name="log", capacity=100) as log:
        received: Any = ForkingPickler.loads(ForkingPickler.dumps(log))
        assert received.append([1, 2, 3]) == 1
        assert log.refresh().tolist() == [[1, 2, 3]]
        received.close()
    for empty in (sa.zeros((4, 3))[:, 3:], sa.zeros((4, 0))[::-1], sa.zeros((4, 3))[:, ::-1][4:]):
        assert ForkingPickler.loads(ForkingPickler.dumps(empty)).shape == empty.shape


def appended(log: sa.SharedArray, value: int) -> tuple[int, int]:
    return len(log), log.append(np.full(3, value))


@pytest.mark.lingers("descriptor")
def test_workers_append_to_an_argument() -> None:
    with sa.zeros((0, 3), name="log", capacity=100) as log, sa.Pool(1) as pool:
        assert [pool.submit(appended, log, value).result() for value in range(3)] == [(0, 1), (0, 2), (0, 3)]
        assert log.refresh()[:, 0].tolist() == [0, 1, 2]
        assert pool.submit(appended, log, 3).result() == (3, 4)


# -- kills ----------------------------------------------------------------------------------------------

STORM = """
    import numpy as np
    log = sa.attach("log")
    say(len(log))
    number = len(log)
    while True:
        count = 1 + number % 7 if number % 3 else 1 + number % 97
        rows = np.arange(number, number + count)[:, np.newaxis] * np.arange(1, 65)
        number = log.append(rows)
"""


def storm(kills: int) -> None:
    chance = random.Random(1)
    # A block without a path counts against the disk with all of its capacity.
    capacity = 50_000_000 if blocks_are_files() else 5_000_000
    with sa.zeros((0, 64), "i8", name="log", capacity=capacity) as log:
        factors = np.arange(1, 65)
        seen = 0
        for _ in range(kills):
            with Puppet(STORM) as appender:
                began = appender.hear()
                assert began >= seen, "published rows were lost"
                wait_until(lambda: len(log.refresh()) > began, "it appends", ANSWER, 0.0005)  # noqa: B023
                time.sleep(chance.random() * 0.01)
                appender.kill()
            length = len(log.refresh())
            assert length == len(sa.attach("log")) >= seen
            rows = log[seen:]
            assert np.array_equal(rows, np.arange(seen, length)[:, np.newaxis] * factors), "torn rows"
            seen = length


def test_kills_lose_no_row_and_tear_none() -> None:
    storm(2)


@pytest.mark.slow
def test_many_kills_lose_no_row_and_tear_none() -> None:
    storm(200)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals end nothing here")
def test_killed_readers_leave_nothing() -> None:
    script = """
        log = sa.attach("log")
        say()
        for rows in log.follow():
            pass
    """
    with sa.zeros(0, "i8", name="log", capacity=LARGE) as log:
        for _ in range(2):
            with Puppet(script) as reader:
                reader.hear()
                log.append(range(10))
                reader.kill()
        assert log.append(1) == 21
        mapping = mapping_of(log)
        assert mapping is not None
        state = growth.growth_of(mapping)
        party = state.claim()  # the places of the dead are free
        assert party is not None
        assert party.index < 5
        party.waker.release()
