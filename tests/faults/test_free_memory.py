"""Space is reserved, never overcommitted: promise 2 of the design, in a real memory file system of 64 MB.

The file system is mounted for the module, by root or, for others, in a user namespace of each script's own.
Every test is a script of its own, so that a SIGBUS would be seen as what it is.
"""

from __future__ import annotations

import errno
import pickle
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable

import pytest
from helpers import block_files, janitors, memory_group, run, wait_until
from needs import needs_proc

import sharedarray as sa
from sharedarray._platform import platform

MB = 1 << 20
SIZE = 64 * MB
Run = Callable[..., "subprocess.CompletedProcess[str]"]

HEAD = """
import errno, os, sys
import numpy as np
import sharedarray as sa
from helpers import block_files, notes
from sharedarray._sizes import grouped
MB = 1 << 20
where = os.environ["SHAREDARRAY_DIR"]
def free():
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize
def refused(call):
    before = free()
    try:
        call()
    except sa.OutOfSharedMemoryError as error:
        assert free() >= before - 16384, (free(), before)  # the kernel counts in steps of its own
        return error
    raise AssertionError("this should not fit")
def everything(a):
    flat = np.asarray(a).view(np.uint8).reshape(-1)
    flat[::512] = 255
    flat[-1] = 255
    return int(flat[::512].sum()) // 255 == -(-len(flat) // 512)
"""


def _mount(path: str) -> bool:
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", path], capture_output=True
    ).returncode


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    """Run a script whose blocks are in a tmpfs of 64 MB."""
    if shutil.which("mount") is None:
        pytest.skip("no memory file system can be mounted here")
    path = str(tmp_path_factory.mktemp("small"))
    if _mount(path):

        def start(script: str, *arguments: object, **options: object):
            return run(HEAD + textwrap.dedent(script), *arguments, SHAREDARRAY_DIR=path, **options)

        yield start
        try:
            assert block_files(path) == set()
            wait_until(lambda: not janitors(path), "the janitor ends")
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)
        return
    # In a user namespace the mount is seen by its script alone, and ends with it.
    before = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64m tmpfs {path} && exec "$0" "$@"')
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("neither mount nor user namespaces are permitted here")

    def start_apart(script: str, *arguments: object, **options: object):
        return run(HEAD + textwrap.dedent(script), *arguments, before=before, SHAREDARRAY_DIR=path, **options)

    yield start_apart


def test_too_large_a_request_says_what_is_needed_and_what_to_do(small: Run):
    small(
        """
        for make in (
            lambda: sa.zeros(100 * MB, "u1"),
            lambda: sa.empty((10, 10 * MB), "u1", name="x"),
            lambda: sa.ones(100 * MB, "u1"),
            lambda: sa.full(50 * MB, 7, "u2"),
            lambda: sa.share(np.zeros(100 * MB, "u1"), name="x"),
            lambda: sa.share(np.zeros(100 * MB, "u1")[::-1]),
            lambda: sa.share(np.zeros(50 * MB, "u1"), "u2", order="F"),
            lambda: sa.zeros(100 * MB, "u1", persist=True),
            lambda: sa.zeros(100 * MB, "u1", file=where + "/x.npy"),
            lambda: sa.SharedArray(100 * MB, "u1"),
            lambda: sa.Segment.create(100 * MB + 4096),
            lambda: sa.SharedMemory(create=True, size=100 * MB + 4096),
            lambda: sa.SharedMemory("x", create=True, size=1 << 45, track=False),
            lambda: sa.ShareableList(["x" * 9 * MB] * 12),
            lambda: sa.zeros(1 << 45, "u1"),
            lambda: sa.zeros(1 << 60, "u1"),
        ):
            error = refused(make)
            assert isinstance(error, OSError) and error.errno == errno.ENOSPC
            assert error.needed >= 100 * MB + 4096, error.needed
            assert 50 * MB < error.available <= 64 * MB, error.available
            sizes = grouped(error.needed), grouped(error.available)
            for part in (*sizes, "--shm-size", "SHAREDARRAY_DIR", where):
                assert part in str(error), (part, str(error))
            assert not block_files() and not notes()
        """
    )


def test_what_was_granted_can_be_filled_to_the_brim(small: Run):
    small(
        """
        held = []
        for size in (40 * MB, 16 * MB, 4 * MB, MB, 100_000, 4096, 1):
            while True:
                try:
                    held.append(sa.zeros(size, "u1"))
                except sa.OutOfSharedMemoryError:
                    break
        assert free() < 16384, free()
        assert sum(a.nbytes for a in held) > 60 * MB
        others = [sa.attach(a.name) for a in held]
        assert all(map(everything, others))
        for a in held:
            if a.nbytes >= 512:
                assert a[-1] == 255
        # and everything that needs no page of its own still works
        assert len(sa.blocks()) == len(held)
        assert sa.prune() == []
        child = os.fork()
        if not child:
            os._exit(0 if all(map(everything, held)) else 1)
        assert os.waitpid(child, 0)[1] == 0
        """
    )


def test_a_full_file_system_is_an_error_for_every_size(small: Run):
    """Down to the last page: where the file system has no page left, nothing half made stays."""
    small(
        """
        hog = sa.Segment.create(free() // 4096 * 4096 - 3 * 4096)
        pages = 0
        held = []
        for size in (3 * 4096, 2 * 4096, 4096, 0):
            try:
                held.append(sa.full(size, 1, "u1"))
            except sa.OutOfSharedMemoryError as error:
                assert error.needed == size + 4096
                assert error.available < error.needed
                assert len(block_files()) == 1 + len(held)
        assert all(everything(a) for a in held if a.nbytes)
        """
    )


def test_blocks_that_are_free_for_reuse_have_a_quarter_of_the_free_memory_at_most(small: Run):
    small(
        """
        from sharedarray import _freelist as freelist
        sa.ones(8 * MB, "u1")
        if freelist._state.blocks:
            assert len(notes()) == 1 and 55 * MB < free() < 57 * MB
            sa.ones(10 * MB, "u1")  # grown from the first
            assert len(notes()) == 1
            freelist.clear()
            sa.ones(14 * MB, "u1")
            assert not notes() and free() > 63 * MB  # 50 MB were free
        """
    )


def test_blocks_that_are_free_for_reuse_go_when_memory_is_short(small: Run):
    small(
        """
        from sharedarray import _freelist as freelist
        from sharedarray._pool.transport import memory
        freelist.IDLE = 60.0

        def make_one_free():
            freelist.clear()
            sa.ones(8 * MB, "u1")
            return bool(freelist._state.blocks)

        def fill_but(size):
            return sa.Segment.create(free() // 4096 * 4096 - size, persist=True, name="hog")

        if make_one_free():
            assert everything(sa.zeros(60 * MB, "u1"))
            assert make_one_free()
            handle = memory.unnamed(60 * MB)  # a slot of a pool
            assert handle is not None
            os.close(handle)
            for make in (
                lambda: sa.zeros(3 * MB, "u1"),  # without a check of the free memory
                lambda: sa.ones(3 * MB, "u1"),
                lambda: sa.zeros(3 * MB, "u1", file=where + "/file.npy"),
                lambda: sa.share(np.arange(3 * MB, dtype="u1").reshape(3, -1), order="F"),
            ):
                assert make_one_free()
                hog = fill_but(2 * MB)
                made = make()
                assert made.nbytes == 3 * MB and not freelist._state.blocks
                assert everything(sa.open(where + "/file.npy") if made.name[0] == "/" else made)
                del made
                hog.unlink()
                hog.close()
                del hog
                if os.path.exists(where + "/file.npy"):
                    os.unlink(where + "/file.npy")
        """
    )


def test_without_reservation_this_would_be_a_sigbus(small: Run):
    """The trap that the library avoids is there, so the tests above prove something."""
    small(
        """
        import mmap
        handle = os.open(where + "/sparse", os.O_RDWR | os.O_CREAT)
        os.unlink(where + "/sparse")
        os.ftruncate(handle, 100 * MB)
        everything(np.frombuffer(mmap.mmap(handle, 100 * MB), "u1"))
        """,
        status=-getattr(signal, "SIGBUS", 0),
    )


def test_shared_memory_can_be_filled_to_the_brim(small: Run):
    """CPython's is killed by SIGBUS where it writes to pages that are not there (gh-114390)."""
    small(
        """
        held = []
        for size in (40 * MB, 4 * MB, 100_000, 4096, 1):
            while True:
                try:
                    held.append(sa.SharedMemory(create=True, size=size))
                except sa.OutOfSharedMemoryError as error:
                    assert error.needed == size and error.available < size + 16384
                    break
        assert free() < 16384 and sum(block.size for block in held) > 60 * MB
        assert all(everything(sa.SharedMemory(block.name).buf) for block in held if block.size >= 512)
        refused(lambda: sa.ShareableList(["x" * 100_000]))
        for block in held:
            block.close()
        refused(lambda: sa.SharedMemory(create=True, size=MB))
        for block in held:
            block.unlink()
        with sa.SharedMemoryManager() as manager:
            refused(lambda: manager.SharedMemory(100 * MB))
            list(manager.SharedMemory(50 * MB).buf[::4096])
        assert not block_files() and not notes()
        """
    )


def test_space_comes_back(small: Run):
    small(
        """
        from helpers import wait_until
        before = free()
        for number in range(5):
            a = sa.zeros(50 * MB, "u1")
            assert free() < before - 50 * MB
            a.close()
            del a
            # The janitor may have it open for a moment, too.
            wait_until(lambda: free() >= before - 16384, "the memory of the block comes back")
        for number in range(5):
            with sa.share(np.ones(50 * MB, "u1")) as a:
                b = sa.attach(a.name)
            b.unlink()
            del a, b
        a = sa.ones(50 * MB, "u1", persist=True, name="x")
        a.close(); del a
        refused(lambda: sa.zeros(50 * MB, "u1"))
        sa.unlink("x")
        sa.zeros(50 * MB, "u1").close()
        child = os.fork()
        if not child:
            a = sa.zeros(50 * MB, "u1")
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        wait_until(lambda: free() >= before - 16384, "the janitor frees what the dead child held")
        """
    )


@pytest.mark.slow
def test_a_fill_that_raises_leaves_nothing(small: Run):
    small(
        """
        import signal
        before = free()
        def fails(call, kind):
            try:
                call()
            except kind:
                assert not block_files() and not notes(), (block_files(), notes())
                assert free() >= before - 16384
            else:
                raise AssertionError
        words = np.array(["1"] * 4 * MB + ["x"])
        fails(lambda: sa.share(words, "f4"), ValueError)
        fails(lambda: sa.share(words, "f4", order="F", name="x", persist=True), ValueError)
        fails(lambda: sa.full(MB, "x", "f8"), ValueError)
        fails(lambda: sa.full((3, 4), [1, 2, 3], "f8"), ValueError)
        fails(lambda: sa.share([[1, 2], [3]]), ValueError)
        class Interrupt(BaseException):
            pass
        def interrupt(*_):
            raise Interrupt
        signal.signal(signal.SIGPROF, interrupt)
        large = np.ones((3000, 3000), "f4").T[::-1]  # converted in pieces: time to interrupt
        for number in range(30):
            signal.setitimer(signal.ITIMER_PROF, 0.0005 * number + 0.0001)
            try:
                sa.share(large, "f8" if number % 2 else "c8").close()
            except (Interrupt, sa.OutOfSharedMemoryError):
                pass
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        import gc
        gc.collect()
        assert not block_files() and not notes(), (block_files(), notes())
        assert free() >= before - 16384
        """
    )


def test_files_in_a_full_directory(small: Run):
    small(
        """
        hog = sa.Segment.create(free() // 4096 * 4096 - 2 * 4096)
        error = refused(lambda: sa.zeros(MB, "u1", file=where + "/x.npy"))
        assert error.needed == MB + 4096
        assert block_files() == {hog.name}
        a = sa.zeros(100, "u1", file=where + "/x.npy")
        a[:] = 7
        del a
        assert sa.open(where + "/x.npy").sum() == 700
        os.unlink(where + "/x.npy")
        """
    )


def test_the_error_survives_pickling():
    error = sa.OutOfSharedMemoryError("too much", needed=5, available=3, name="x", next_step="less")
    again = pickle.loads(pickle.dumps(error))
    assert (again.needed, again.available, again.errno) == (5, 3, errno.ENOSPC)
    assert str(again) == str(error)


# -- control groups -------------------------------------------------------------------------------------


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch):
    """Provide what the kernel's control files say, in place of the real ones."""
    linux = pytest.importorskip("sharedarray._platform.linux_groups")
    said: dict[str, str] = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\nSwapFree: 0 kB\n"}
    monkeypatch.setattr(linux, "contents_of", lambda path: said[path].encode() if path in said else None)
    monkeypatch.setattr(linux, "_limited", (float("-inf"), []))
    return said


V2 = "/sys/fs/cgroup"
V1 = "/sys/fs/cgroup/memory"
KB = 1024


def test_the_machines_memory_and_swap(files: dict[str, str]):
    assert platform.free_memory() == 8000 * KB
    files["/proc/meminfo"] = "MemTotal: 9 kB\nMemAvailable: 8000 kB\nSwapTotal: 5 kB\nSwapFree: 500 kB\n"
    assert platform.free_memory() == 8500 * KB


def test_no_memory_information_at_all(files: dict[str, str]):
    files.clear()
    assert platform.free_memory() is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": ("3000000", "1000000")}, 2_000_000),
        ({"a/b": ("max", "1000000")}, 8000 * KB),
        ({"a": ("2500000", "1000000"), "a/b": ("max", "1")}, 1_500_000),
        ({"": ("1200000", "1000000"), "a": ("max", "1"), "a/b": ("3000000", "1")}, 200_000),
        ({"a/b": ("1000", "2000")}, 0),
        ({"a/b": ("nonsense", "2000")}, 8000 * KB),
        ({"a/b": ("", "")}, 8000 * KB),
        ({"other": ("1000", "0")}, 8000 * KB),
    ],
)
def test_every_ancestor_of_version_2_counts(
    files: dict[str, str], limits: dict[str, tuple[str, str]], expected: int
):
    files["/proc/self/cgroup"] = "0::/a/b\n"
    for group, (most, used) in limits.items():
        files[f"{V2}/{group}".rstrip("/") + "/memory.max"] = most + "\n"
        files[f"{V2}/{group}".rstrip("/") + "/memory.current"] = used + "\n"
    assert platform.free_memory() == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": ("3000000", "1000000")}, 2_000_000),
        ({"a/b": ("9223372036854771712", "1000000")}, 8000 * KB),
        ({"": ("1200000", "1000000"), "a/b": ("9223372036854771712", "1")}, 200_000),
    ],
)
def test_every_ancestor_of_version_1_counts(
    files: dict[str, str], limits: dict[str, tuple[str, str]], expected: int
):
    files["/proc/self/cgroup"] = "5:cpu,cpuacct:/other\n4:memory:/a/b\n0::/\n"
    for group, (most, used) in limits.items():
        files[f"{V1}/{group}".rstrip("/") + "/memory.limit_in_bytes"] = most + "\n"
        files[f"{V1}/{group}".rstrip("/") + "/memory.usage_in_bytes"] = used + "\n"
    assert platform.free_memory() == expected


def test_page_cache_that_the_kernel_can_drop_is_free(files: dict[str, str]):
    files["/proc/self/cgroup"] = "0::/a\n"
    files[f"{V2}/a/memory.max"] = "3000000\n"
    files[f"{V2}/a/memory.current"] = "2900000\n"
    files[f"{V2}/a/memory.stat"] = "anon 5\nshmem 100000\ninactive_file 200000\nactive_file 300000\n"
    assert platform.free_memory() == 600_000


def test_a_container_sees_its_own_group_as_the_root(files: dict[str, str]):
    """Inside a container the path in /proc may be the host's, and only the root is mounted."""
    files["/proc/self/cgroup"] = "0::/../../docker/abc\n"
    files[f"{V2}/memory.max"] = "1500000\n"
    files[f"{V2}/memory.current"] = "500000\n"
    assert platform.free_memory() == 1_000_000


@needs_proc
def test_a_real_memory_limit_is_an_error_and_not_a_kill(own_directory: str):
    group = memory_group(96 * MB)
    if group is None:
        pytest.skip("no memory control group is writable here")
    try:
        run(
            HEAD
            + textwrap.dedent(
                """
                with open(sys.argv[1] + "/cgroup.procs", "w") as file:
                    file.write(str(os.getpid()))
                error = refused(lambda: sa.zeros(200 * MB, "u1"))
                assert error.needed == 200 * MB + 4096
                assert error.available < 96 * MB, error.available
                assert "control group" in str(error)
                error = refused(lambda: sa.share(np.broadcast_to(np.uint8(1), (200, MB))))
                assert not block_files() and not notes()
                with sa.zeros(40 * MB, "u1") as a:
                    assert everything(a)
                    refused(lambda: sa.zeros(70 * MB, "u1"))
                del a
                with sa.zeros(60 * MB, "u1") as a:
                    assert everything(a)
                """
            ),
            group,
        )
    finally:
        wait_until(lambda: not janitors(), "the janitor, which is in the group too, ends")
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()
