"""Files that many processes write: whom `lock_file` excludes, what is in them, what the next one is told."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    FORKS,
    KILLED,
    TABLE,
    USERS,
    Puppet,
    alive,
    answer,
    environment,
    janitor_needed,
    kill,
    nothing_left,
    registry,
    run,
    wait_until,
)
from lock_helpers import (
    child,
    descriptors,
    die_holding,
    end,
    free,
    holding,
    locked_bytes,
    start,
    told,
    waiters,
)
from needs import link, many_starts, needs_files, needs_fork, needs_free_files, needs_signals

import sharedarray as sa
from sharedarray import _intents as intents
from sharedarray._platform import platform

END = 1 << 62


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Provide a file of 20 bytes; and what a process opens once, to lock files at all, is open."""
    made = tmp_path / "data.bin"
    made.write_bytes(b"0123456789" * 2)
    assert free(sa.lock_file(made))
    return made


def now(path: Any, **options: Any) -> sa.Lock:
    """Return a lock that does not wait."""
    return sa.lock_file(path, timeout=0, **options)


# -- what can be locked ---------------------------------------------------------------------------------

OPENED: dict[str, Callable[[Path], Any]] = {
    "binary r+": lambda path: path.open("r+b"),
    "binary r": lambda path: path.open("rb"),
    "binary a": lambda path: path.open("ab"),
    "unbuffered": lambda path: path.open("r+b", buffering=0),
    "text r+": lambda path: path.open("r+", encoding="utf-8"),
    "text a": lambda path: path.open("a", encoding="utf-8"),
    "text r": lambda path: path.open(encoding="utf-8"),
    "descriptor": lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb"),
}


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
@pytest.mark.parametrize("how", OPENED)
def test_any_open_file_can_be_locked_however_it_was_opened(path: Path, how: str, shared: bool) -> None:
    with OPENED[how](path) as file:
        number = path.stat().st_ino
        before = descriptors()
        with sa.lock_file(file, shared=shared) as lock:
            assert locked_bytes(number) == [("READ" if shared else "WRITE", 0, END)]
            assert lock.locked()
            assert not lock.abandoned
            assert free(now(path, shared=True)) == shared
            assert not free(now(path))
        assert locked_bytes(number) == []
        assert descriptors() == before
        assert not file.closed
    assert path.read_bytes() == b"0123456789" * 2


def test_descriptors_paths_and_pathlike(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = os.open(path, os.O_RDONLY)
    monkeypatch.chdir(path.parent)
    for what in (handle, str(path), path, path.name):
        lock = sa.lock_file(what)
        with lock:
            assert lock.locked()
            assert not free(now(path, shared=True))
        with lock:  # again
            assert not free(now(path, shared=True))
        assert free(now(path))
        assert lock.acquire()
        lock.release()
    os.close(handle)
    lock = sa.lock_file(path.name)
    os.chdir("/")
    with lock:  # what the path meant when it was given
        assert not free(now(path))
    assert repr(lock) == f"<exclusive Lock on bytes 0 to the end of {str(path)!r}, free here>"


@needs_free_files
def test_what_tempfile_gives(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile("w+", dir=tmp_path) as file:
        with sa.lock_file(file):
            file.write("one\n")
            assert not free(now(file.name))
        assert Path(file.name).read_text() == "one\n"
    with tempfile.TemporaryFile(dir=tmp_path) as file:  # which has no name
        with sa.lock_file(file):
            child(lambda: _assert(not free(now(file))))
        child(lambda: _assert(free(now(file))))
    with tempfile.SpooledTemporaryFile(dir=tmp_path) as file, sa.lock_file(file):
        file.write(b"x")


def _assert(truth: bool) -> None:
    assert truth


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (b"bytes", TypeError),
        (None, TypeError),
        (1.5, TypeError),
        (["x"], TypeError),
        (io.BytesIO(), io.UnsupportedOperation),
    ],
)
def test_what_is_no_file(what: Any, error: type[Exception]) -> None:
    with pytest.raises(error), sa.lock_file(what):
        pass


def test_closed_files_and_descriptors_that_are_not_open(path: Path) -> None:
    with open(path, "rb") as file:
        number = file.fileno()
    with pytest.raises(ValueError, match="closed"), sa.lock_file(file):
        pass
    with pytest.raises(OSError, match=r"Bad file descriptor|[Hh]andle") as caught, sa.lock_file(number):
        pass
    assert caught.value.errno == errno.EBADF


def test_a_path_is_made_where_there_is_nothing(tmp_path: Path) -> None:
    for shared in (False, True):
        path = tmp_path / f"made{shared}.lock"
        lock = sa.lock_file(path, shared=shared)
        assert not path.exists()
        old = os.umask(0o027)
        try:
            with lock:
                assert path.read_bytes() == b""
                if USERS:
                    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # as open() makes it
        finally:
            os.umask(old)
        assert path.exists()
    link(tmp_path / "link", tmp_path)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with sa.lock_file(tmp_path / "link"):
        assert (tmp_path / "target").exists()
        assert not free(now(tmp_path / "target"))
    with pytest.raises(FileNotFoundError), sa.lock_file(tmp_path / "missing" / "x"):
        pass
    with pytest.raises(OSError, match="directory"), sa.lock_file(path / "x"):
        pass


# -- which bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "length", "locked"),
    [
        (0, None, (0, END)),
        (5, None, (5, END)),
        (5, 3, (5, 8)),
        (100, 1, (100, 101)),
        (END - 1, 1, (END - 1, END)),
    ],
)
def test_exactly_these_bytes_are_locked(
    path: Path, start: int, length: int | None, locked: tuple[int, int]
) -> None:
    with sa.lock_file(path, start=start, length=length):
        assert locked_bytes(path.stat().st_ino) == [("WRITE", *locked)]


def test_no_bytes_are_not_locked(path: Path) -> None:
    with sa.lock_file(path), sa.lock_file(path, length=0) as lock:
        assert lock.locked()
        assert not lock.abandoned


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"start": -1}, ValueError),
        ({"length": -1}, ValueError),
        ({"start": END, "length": 1}, ValueError),
        ({"length": END + 1}, ValueError),
        ({"start": 1.5}, TypeError),
        ({"length": "3"}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
    ],
)
def test_arguments_that_mean_nothing(path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        sa.lock_file(path, **options)


@many_starts
def test_ranges_that_are_apart_do_not_wait(path: Path) -> None:
    with holding(lambda: sa.lock_file(path, start=5, length=5)):
        assert free(now(path, length=5))
        assert free(now(path, start=10))
        assert not free(now(path, length=6))
        assert not free(now(path, start=9, length=1, shared=True))
        assert not free(now(path))


@many_starts
def test_what_is_appended_is_locked_as_well(path: Path) -> None:
    with holding(lambda: sa.lock_file(path)):
        with open(path, "ab") as file:
            file.write(b"x" * 1000)
        assert not free(now(path, start=1000, length=1))


# -- whom it excludes -----------------------------------------------------------------------------------


def test_threads_exclude_each_other_even_with_one_file_object(path: Path) -> None:
    inside, count = [], 30
    with open(path, "r+b") as file:

        def add(lock: sa.Lock) -> None:
            for _ in range(count):
                with lock:
                    inside.append(1)
                    file.seek(0)
                    value = int(file.read(10))
                    assert len(inside) == 1
                    file.seek(0)
                    file.write(b"%010d" % (value + 1))
                    inside.pop()

        file.write(b"%010d" % 0)
        one = sa.lock_file(file)
        each = (one, one, sa.lock_file(file), sa.lock_file(file, start=3, length=1))
        threads = [threading.Thread(target=add, args=(lock,)) for lock in each]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert int(path.read_bytes()[:10]) == 4 * count


def test_many_readers_of_one_lock_object(path: Path) -> None:
    lock = sa.lock_file(path, shared=True)
    together = threading.Barrier(3)

    def read() -> None:
        with lock:
            together.wait(60)
            assert not free(now(path))
            together.wait(60)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken
    assert free(now(path))


def test_closing_another_descriptor_does_not_end_it(path: Path) -> None:
    """As it would end a lock of `fcntl.lockf`."""
    with sa.lock_file(path):
        open(path, "r+b").close()
        os.close(os.open(path, os.O_RDONLY))
        child(lambda: _assert(not free(now(path))))


@many_starts
def test_closing_the_file_itself_does_not_end_it(path: Path) -> None:
    with open(path, "r+b") as file, sa.lock_file(file):
        file.seek(3)
        file.write(b"abc")
        file.close()
        assert path.read_bytes()[:6] == b"012abc"
        child(lambda: _assert(not free(now(path))))
    assert not told(now(path))


def test_it_excludes_the_record_locks_of_other_programs(path: Path) -> None:
    pytest.importorskip("fcntl")
    script = """
        import fcntl
        with open(sys.argv[1], "r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 10)
            except BlockingIOError:
                say(False)
            else:
                say(True)
            hear()
    """
    with sa.lock_file(path, start=12, length=1), Puppet(script, path) as other:
        assert other.hear() is False
        other.end()
    with Puppet(script, path) as other:
        assert other.hear() is True
        assert not free(now(path))
        assert free(now(path, length=10))
        other.kill()
        assert not told(sa.lock_file(path, timeout=60))  # it did not lock by us, so its death is not known


@many_starts
def test_timeouts_deadlocks_and_re_entry(path: Path) -> None:
    with sa.lock_file(path, start=5):
        with pytest.raises(sa.DeadlockError, match=r"bytes 0 to the end of .*data\.bin"), sa.lock_file(path):
            pass
        with pytest.raises(sa.LockTimeout, match="this thread itself"), sa.lock_file(path, timeout=0.01):
            pass
        with sa.lock_file(path, length=5):
            pass
    lock = sa.lock_file(path, shared=True)
    with lock, lock, pytest.raises(sa.DeadlockError):
        sa.lock_file(path).__enter__()
    with holding(lambda: sa.lock_file(path)):
        before = time.monotonic()
        with pytest.raises(TimeoutError), sa.lock_file(path, timeout=0.05):
            pass
        assert time.monotonic() - before >= 0.05
    assert free(now(path))


def test_a_file_is_the_same_by_any_of_its_names(path: Path) -> None:
    os.link(path, path.with_name("other"))
    link(path.with_name("link"), path)
    with sa.lock_file(path.with_name("link")):
        assert not free(now(path.with_name("other")))


@needs_files
def test_a_block_and_its_file_are_one() -> None:
    with sa.zeros((4, 8), "u1", name="both") as array:
        where = f"{os.environ['SHAREDARRAY_DIR']}/both"
        with array[1].lock():
            assert not free(now(where))
            assert free(now(where, start=4096, length=8))
            assert not free(now(where, start=4111, length=1))
        die_holding(lambda: sa.lock_file(where, start=4096, length=8))
        assert told(array.lock())
        with sa.lock_file(where):
            sa.attach("both").close()  # the leases are behind what it locks


# -- what is in the file --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r+b", "r+", "a", "ab", "w"])
def test_what_was_written_is_out_before_the_lock_is_given_up(path: Path, mode: str) -> None:
    with open(path, mode) as file:
        with sa.lock_file(file):
            file.write("new" if "b" not in mode else b"new")
            assert b"new" not in path.read_bytes()
        assert b"new" in path.read_bytes()
        with pytest.raises(KeyError):
            _write_and_raise(file, "and" if "b" not in mode else b"and")
        assert b"and" in path.read_bytes()
    assert told(now(path))


def _write_and_raise(file: Any, what: Any) -> None:
    with sa.lock_file(file):
        file.write(what)
        raise KeyError


def test_what_was_written_before_is_written_under_the_lock(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"abc")
        with holding(lambda: sa.lock_file(path)):
            with pytest.raises(sa.LockTimeout), sa.lock_file(file, timeout=0.01):
                pass
            assert path.read_bytes()[:3] == b"012"
        with sa.lock_file(file):
            assert path.read_bytes()[:3] == b"abc"
            assert file.tell() == 3


@pytest.mark.parametrize("mode", ["r+b", "rb", "r+", "r", "a+b", "w+"])
def test_what_was_read_ahead_is_read_again(path: Path, mode: str) -> None:
    with open(path, mode) as file:
        if mode == "w+":
            file.write("0123456789" * 2)
        file.seek(0)
        assert file.read(4) in ("0123", b"0123")  # and with it, all there is
        path.write_bytes(b"abcdefghij" * 2)
        with sa.lock_file(file, shared=True):
            assert file.tell() == 4
            assert file.read(3) in ("efg", b"efg")


def test_text_with_marks_and_wide_characters_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for encoding in ("utf-16", "utf-8-sig", "utf-8", "shift_jis"):
        path.write_text("日本\nabc\n日本語\n", encoding=encoding)
        with open(path, "r+", encoding=encoding) as file:
            assert file.readline() == "日本\n"
            with sa.lock_file(file):
                assert file.readline() == "abc\n"
                place = file.tell()
                assert file.read(1) == "日"
                file.seek(place)
                file.write("山")
        assert path.read_text(encoding=encoding) == "日本\nabc\n山本語\n"


def test_a_pipe_has_no_place(path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "wb") as writer:
        writer.write(b"abc")
        try:
            with sa.lock_file(writer):
                pass
        except OSError:
            pytest.skip("the kernel locks no pipes")
        assert reader.read(3) == b"abc"


# -- the path is looked at again ------------------------------------------------------------------------


@needs_free_files
def test_a_file_that_is_replaced_under_the_lock(path: Path) -> None:
    """A waiter for the old file gets a lock on the new one, and reads its content."""
    script = """
        say()
        with sa.lock_file(sys.argv[1]):
            say(open(sys.argv[1]).read())
            hear()
    """
    number = path.stat().st_ino
    with Puppet(script, path) as other:
        with sa.lock_file(path) as lock:
            other.hear()
            wait_until(lambda: waiters(number), "it waits")
            fresh = path.with_name("fresh")
            fresh.write_text("new")
            os.replace(fresh, path)
            assert lock.locked()
        assert other.hear() == "new"
        assert not free(now(path))
        other.end()


@needs_free_files
def test_a_file_that_is_removed_under_the_lock(path: Path) -> None:
    number = path.stat().st_ino
    got: list[bool] = []

    def wait() -> None:
        with sa.lock_file(path):
            got.append(path.exists() and path.read_bytes() == b"")

    thread = threading.Thread(target=wait)
    with sa.lock_file(path):
        thread.start()
        wait_until(lambda: waiters(number), "it waits")
        path.unlink()
    thread.join(60)
    assert got == [True]


@needs_free_files
def test_an_open_file_is_the_one_that_is_locked_wherever_its_path_leads(path: Path) -> None:
    with open(path, "r+b") as file:
        os.rename(path, path.with_name("moved"))
        path.write_text("another")
        with sa.lock_file(file):
            assert free(now(path))
            assert not free(now(path.with_name("moved")))
            path.with_name("moved").unlink()
        with sa.lock_file(file):  # it has no name now
            child(lambda: _assert(not free(now(file))))


# -- permissions ----------------------------------------------------------------------------------------

AS_NOBODY = """
    import os, sys
    import sharedarray as sa
    if os.geteuid() == 0:
        os.environ["SHAREDARRAY_DIR"] = sys.argv[2]
        os.chown(sys.argv[2], 65534, 65534)
        os.chown(sys.argv[1], 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    path = sys.argv[1]

    def refused(what, shared, *words):
        try:
            with sa.lock_file(what, shared=shared):
                raise AssertionError("locked")
        except sa.NotOursError as error:
            assert isinstance(error, PermissionError)
            assert all(word in str(error) for word in words), error
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """Provide a directory that every user may enter."""
    if not USERS:
        pytest.skip("a process cannot become another user here")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)


def _as_nobody(public: Path, script: str) -> None:
    path, where = public / "data", public / "blocks"
    path.write_text("x")
    where.mkdir()
    run(AS_NOBODY + textwrap.dedent(script).replace("\n", "\n    "), path, where)


def test_a_file_that_may_only_be_read_can_be_locked_shared(public: Path) -> None:
    _as_nobody(
        public,
        """
        os.chmod(path, 0o444)
        with sa.lock_file(path, shared=True), open(path) as file, sa.lock_file(file, shared=True):
            pass
        refused(path, False, "an exclusive lock", "may be written", "shared=True")
        with open(path) as file:
            refused(file, False, "an exclusive lock", path)
            refused(file.fileno(), False, "an exclusive lock")
        """,
    )


def test_a_file_that_may_only_be_written_can_be_locked_exclusively(public: Path) -> None:
    _as_nobody(
        public,
        """
        os.chmod(path, 0o222)
        with sa.lock_file(path):
            pass
        with open(path, "w") as file, sa.lock_file(file):
            pass
        refused(path, True, "a shared lock", "may be read", "an exclusive lock")
        """,
    )


def test_a_file_that_may_be_neither_cannot_be_locked(public: Path) -> None:
    _as_nobody(
        public,
        """
        os.chmod(path, 0o666)
        with open(path, "r+") as file:
            os.chmod(path, 0)
            refused(path, False, "may not be opened", path)
            refused(path, True, "may not be opened")
            refused(file, True, "may not be opened", path)
        """,
    )


def test_an_array_from_a_file_that_may_only_be_read(public: Path) -> None:
    _as_nobody(
        public,
        """
        os.chmod(path, 0o600)
        import numpy as np
        with open(path, "wb") as file:
            np.save(file, np.arange(5))
        os.chmod(path, 0o400)
        with sa.open(path, "r") as array:
            with array.lock(shared=True):
                pass
            try:
                with array.lock():
                    raise AssertionError("locked")
            except sa.NotOursError as error:
                assert "an exclusive lock" in str(error)
            with array.lock(shared=True):
                pass
        """,
    )


def test_a_directory_that_may_not_be_written(public: Path) -> None:
    _as_nobody(
        public,
        """
        if os.geteuid() == 65534:  # or the directory is the tester's own
            refused(os.path.dirname(path) + "/new", False, "may not be opened")
        """,
    )


def test_without_a_directory_for_the_intents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDARRAY_DIR", str(path.parent / "missing"))
    before = descriptors()
    with pytest.raises(sa.BlockNotFoundError, match="SHAREDARRAY_DIR"), sa.lock_file(path):
        pass
    monkeypatch.setenv("SHAREDARRAY_DIR", str(path.parent))
    os.mkdir(registry(), 0o755)
    os.chmod(registry(), 0o755)
    with pytest.raises(sa.NotOursError, match="cannot be trusted"), sa.lock_file(path):
        pass
    assert descriptors() == before
    os.rmdir(registry())


# -- what the next one is told --------------------------------------------------------------------------


def test_the_next_holder_is_told_of_a_death(path: Path) -> None:
    with Puppet(
        "with open(sys.argv[1], 'r+') as file, sa.lock_file(file, start=5, length=10): say(); hear()", path
    ) as other:
        other.hear()
        other.kill()
    assert not told(sa.lock_file(path, length=5))
    assert told(sa.lock_file(path, start=14, length=100, shared=True))
    assert told(sa.lock_file(path, start=14, length=100))
    assert not told(sa.lock_file(path, start=14, length=100))
    assert told(sa.lock_file(path))
    assert not told(sa.lock_file(path))


def test_an_exception_is_not_finishing(path: Path) -> None:
    with pytest.raises(KeyError), sa.lock_file(path):
        raise KeyError
    assert told(sa.lock_file(path))
    assert not told(sa.lock_file(path))


def test_a_file_that_was_deleted_and_made_again_has_no_intent(path: Path) -> None:
    """Though it has the same inode on most disks: to begin anew is how people repair things."""
    die_holding(lambda: sa.lock_file(path))
    number, born = path.stat().st_ino, _born(path)
    path.unlink()
    for count in range(200):  # the next file, or one of the next, has this inode, where inodes come again
        path = path.with_name(f"new{count}")
        path.write_text("new")
        if (path.stat().st_ino, _born(path)) == (number, born):
            pytest.skip("this file system gives numbers again and knows no times of birth")
        assert not told(sa.lock_file(path))
        if path.stat().st_ino == number:
            break
    die_holding(lambda: sa.lock_file(path))
    path.write_text("written over")  # which is no new file
    assert told(sa.lock_file(path))


def _born(path: Path) -> int:
    with open(path, "rb") as file:
        return platform.born(file.fileno())


def test_what_cannot_be_written_out_is_not_finished_and_not_locked(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.write_text("x")

    class Full(io.BytesIO):
        def fileno(self) -> int:
            return handle

        def flush(self) -> None:
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")

    handle, full = os.open(path, os.O_RDWR), False
    file = Full()
    with pytest.raises(OSError, match="No space"), sa.lock_file(file):
        full = True
    assert told(now(path))
    with pytest.raises(OSError, match="No space"), sa.lock_file(file):
        raise AssertionError
    assert told(now(path))
    assert not told(now(path))
    os.close(handle)


@needs_fork
def test_a_forked_child_neither_writes_nor_unlocks_what_is_its_parents(path: Path) -> None:
    with open(path, "r+b") as file:
        lock = sa.lock_file(file)
        with lock:
            file.write(b"abc")  # which the child has in its buffer too

            def work() -> None:
                assert not lock.locked()
                lock.__exit__(None, None, None)
                assert not free(now(path))

            child(work)
            assert path.read_bytes()[:3] == b"012"
            child(lambda: _assert(not free(now(path))))
        assert path.read_bytes()[:3] == b"abc"
    assert not told(now(path))


def test_a_process_that_only_locks_files_leaves_nothing_behind(path: Path, own_directory: str) -> None:
    run(
        """
        import os, sys
        import sharedarray as sa
        for _ in range(3):
            with sa.lock_file(sys.argv[1]):
                assert os.listdir(sys.argv[2])
        """,
        path,
        own_directory,
    )
    assert nothing_left(own_directory)
    assert os.listdir(own_directory) == [] or not janitor_needed()  # files that are mapped stay till the end


@many_starts
def test_the_intent_of_a_file_that_is_gone_goes_with_the_next_sweep(path: Path, own_directory: str) -> None:
    die_holding(lambda: sa.lock_file(path))
    sa.prune()
    assert told(sa.lock_file(path))
    die_holding(lambda: sa.lock_file(path))
    path.unlink()
    table = intents._tables[registry()]
    assert any(table.words[32:].tolist()[::32])
    sa.prune()
    assert not any(table.words[32:].tolist()[::32])
    intents._release_all()
    assert not os.path.exists(f"{registry()}/{TABLE}")


# -- Ctrl-C ---------------------------------------------------------------------------------------------


@needs_signals
def test_ctrl_c_ends_the_waiting(path: Path) -> None:
    script = """
        from lock_helpers import descriptors
        with open(sys.argv[1], "r+b") as file:
            before = descriptors()
            say()
            try:
                with sa.lock_file(file):
                    say("got it")
            except KeyboardInterrupt:
                pass
            hear()
            with sa.lock_file(file, timeout=0) as lock:
                say(lock.abandoned)
    """
    number = path.stat().st_ino
    with Puppet(script, path) as other:
        with sa.lock_file(path):
            other.hear()
            wait_until(lambda: waiters(number), "it waits")
            other.process.send_signal(signal.SIGINT)
            wait_until(lambda: not waiters(number), "it waits no more")
        assert other.ask() is False
        other.end()


# -- storms ---------------------------------------------------------------------------------------------

# The case that this is for: several processes have the same file open "r+", go to an offset, and write, with
# pauses. A piece is a line of 16 words, the same 16 times; the file begins with the number of lines.
STORM = """
    import os, sys, time, signal
    import sharedarray as sa
    from helpers import KILLED, kill, say, suicide
    from lock_helpers import any_end, end, start

    path, workers, pieces, every = sys.argv[1], *map(int, sys.argv[2:])
    counts = sa.zeros(3, "i8")             # kills, times told, and wrongly so
    longest = sa.zeros(workers, "f8")
    LINE = 16 * 9

    def work(me):
        with open(path, "r+") as file:
            while written[me] < pieces:
                before = time.monotonic()
                with sa.lock_file(file) as lock:
                    longest[me] = max(longest[me], time.monotonic() - before)
                    file.seek(0)
                    count = int(file.read(8))
                    size = os.fstat(file.fileno()).st_size
                    counts[1] += lock.abandoned
                    counts[2] += lock.abandoned != (size != 8 + count * LINE)
                    if lock.abandoned:        # what was left half-written is cut off
                        file.truncate(8 + count * LINE)
                    file.seek(8 + count * LINE)
                    rounds[0] += 1
                    for part in range(4):
                        file.write(f"{me:03d}-{int(written[me]):04d} " * 4)
                        file.flush()
                        if part == 1 and every and rounds[0] % every == 0:
                            counts[0] += 1
                            suicide()
                    time.sleep(0.0001)
                    file.seek(0)
                    file.write(f"{count + 1:08d}")
                    written[me] += 1

    written = sa.zeros(workers, "i8")
    rounds = sa.zeros(1, "i8")

    with open(path, "w") as file:
        file.write(f"{0:08d}")
    begun = time.monotonic()
    running = {start(lambda me=me: work(me)): me for me in range(workers)}
    while running:
        pid, status = any_end()
        me = running.pop(pid)
        if status == KILLED:
            running[start(lambda: work(me))] = me
        else:
            assert status == 0, status
    say([counts.tolist(), float(longest.max()), time.monotonic() - begun])
"""


def _storm(path: Path, workers: int, pieces: int, every: int) -> None:
    (kills, told_of, wrongly), waited, seconds = answer(STORM, path, workers, pieces, every)
    text = path.read_text()
    lines = [text[at : at + 144] for at in range(8, len(text), 144)]
    assert int(text[:8]) == len(lines) == workers * pieces
    assert all(line == line[:9] * 16 for line in lines)  # nothing torn or interleaved
    numbers = [tuple(map(int, line[:8].split("-"))) for line in lines]
    assert sorted(numbers) == [(me, piece) for me in range(workers) for piece in range(pieces)]  # nor lost
    assert told_of == kills == ((workers * pieces + kills) // every if every else 0)
    assert wrongly == 0
    assert waited < max(20, seconds / 2)  # none is left out until the others are done


@pytest.mark.parametrize(
    ("pieces", "every"),
    [(100, 0), pytest.param(500, 0, marks=pytest.mark.slow), pytest.param(500, 10, marks=pytest.mark.slow)],
    ids=["no death", "more pieces", "every tenth round kills the holder"],
)
def test_8_writers_of_many_pieces_to_one_file(tmp_path: Path, pieces: int, every: int) -> None:
    # Without fork, the next child after one that was killed takes a second to start.
    workers, pieces = (8, pieces) if FORKS or not every else (4, 15)
    _storm(tmp_path / "shared.txt", workers, pieces, every)


@many_starts
def test_writers_of_ranges_of_their_own_do_not_wait(tmp_path: Path) -> None:
    """Each writes its own part under its own lock, while another process holds all the rest."""
    path = tmp_path / "parts"
    path.write_bytes(b"." * 400)
    with sa.lock_file(path, start=400):
        workers = [start(lambda me=me: _fill(path, me)) for me in range(4)]
        assert [end(pid) for pid in workers] == [0] * 4
    assert path.read_bytes() == b"".join(b"%d" % me * 100 for me in range(4))


def _fill(path: Path, me: int) -> None:
    with open(path, "r+b", buffering=0) as file, sa.lock_file(file, start=100 * me, length=100, timeout=60):
        file.seek(100 * me)
        file.writelines(b"%d" % me for _ in range(100))


def test_two_shells(tmp_path: Path) -> None:
    """Unrelated interpreters append to one file by its path; every line is whole, and all are there."""
    script = """
        import sys
        import sharedarray as sa
        for number in range(50):
            with sa.lock_file(sys.argv[1] + ".lock"), open(sys.argv[1], "a") as file:
                for word in (sys.argv[2], "wrote", "line", str(number)):
                    print(word, end=" ", file=file, flush=True)
                print(file=file)
    """
    path = tmp_path / "log"
    shells = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), path, name], env=environment(), cwd="/"
        )
        for name in ("a", "b", "c")
    ]
    assert [shell.wait(60) for shell in shells] == [0] * 3
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} wrote line {n} " for name in "abc" for n in range(50))


def test_a_killed_waiter_leaves_nothing(path: Path) -> None:
    number = path.stat().st_ino
    with sa.lock_file(path):
        pid = start(lambda: sa.lock_file(path).acquire())
        wait_until(lambda: waiters(number), "it waits")
        kill(pid)
        assert end(pid) == KILLED
    assert not told(now(path))


@needs_fork
def test_a_holder_that_forks_and_dies_frees_it(path: Path) -> None:
    """The child lives on, with copies of all that its parent had open."""
    script = """
        with sa.lock_file(sys.argv[1]):
            if not os.fork():
                say(os.getpid())
                hear()
                os._exit(0)
            hear()
    """
    with Puppet(script, path) as parent:
        pid = parent.hear()
        assert not free(now(path))
        parent.process.kill()
        assert told(sa.lock_file(path, timeout=60))
        assert alive(pid)


def test_flock_is_another_kind_of_lock(path: Path) -> None:
    """It is said in the documentation that they know nothing of each other."""
    fcntl = pytest.importorskip("fcntl")
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert free(now(path))
