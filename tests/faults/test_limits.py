"""Limits of a process and of a file system: descriptors, memory maps, address space, files.

An error names the limit that is reached, nothing half-made stays, and everything works again when memory or
descriptors are free. Each test is a program of its own, which limits itself.
"""

from __future__ import annotations

import errno
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import METHODS, answer
from needs import few, needs_limits, needs_proc, needs_root

import sharedarray as sa
from sharedarray import _listing as listing

pytestmark = [needs_limits, needs_proc]

HEAD = """
import contextlib, errno, gc, json, os, resource, signal, sys, tempfile, time
import numpy as np
import sharedarray as sa
from sharedarray import _listing as listing
from helpers import block_files, notes, say, wait_until

LIMIT = 200
def open_files():
    return len(os.listdir("/proc/self/fd"))
@contextlib.contextmanager
def few_descriptors(free):
    'So many descriptors may still be opened.'
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, before[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in held:
            os.close(descriptor)
def outcome(call):
    'What an error names, or the value.'
    try:
        return call()
    except sa.LimitError as error:
        return [word for word in ("RLIMIT_NOFILE", "vm.max_map_count", "RLIMIT_AS") if word in str(error)]
"""

CALLS = (
    HEAD
    + """
array = sa.ones(4, name="array")
folder = tempfile.mkdtemp()
np.save(f"{folder}/saved.npy", np.ones(3))
large = np.ones(1 << 16)
calls = {
    "zeros": lambda: sa.zeros(3),
    "share": lambda: sa.share(large),
    "named": lambda: sa.zeros(3, name="named"),
    "persist=": lambda: sa.zeros(3, name="persists", persist=True),
    "replace=": lambda: sa.zeros(4, name="array", replace=True),
    "attach": lambda: sa.attach("array"),
    "open": lambda: sa.open(f"{folder}/saved.npy"),
    "file=": lambda: sa.zeros(3, file=f"{folder}/made.npy"),
    "reference": lambda: array.reference().attach(),
    "lock": lambda: array.lock().acquire(),
    "lock_file": lambda: sa.lock_file(f"{folder}/lock").acquire(),
    "put": lambda: sa.put([1]),
    "Segment": lambda: sa.Segment.create(8),
    "SharedMemory": lambda: sa.SharedMemory(create=True, size=8),
    "ShareableList": lambda: sa.ShareableList([1]),
    "Pool": lambda: sa.Pool(1).submit(abs, 1).result(),
    "SharedMemoryManager": lambda: sa.SharedMemoryManager().start(),
    "blocks": lambda: len(sa.blocks()),
    "exists": lambda: sa.exists("array"),
    "prune": sa.prune,
    "unlink": lambda: sa.unlink("array"),
}
found, left = {}, {}
def there():
    gc.collect()
    return open_files(), block_files(), notes(), os.listdir(folder)
for name, call in calls.items():
    before = there()
    with few_descriptors(0):
        found[name] = outcome(call)
    if there() != before:
        left[name] = [str(there()), str(before)]
found["array"] = array.tolist()
works = sa.zeros(2).tolist(), sa.attach("array").tolist(), len(sa.blocks()), sa.exists("array")
say([found, left, works])
"""
)


def test_each_call_names_the_limit_of_descriptors(own_directory: str) -> None:
    found, left, works = answer(CALLS)
    assert found.pop("array") == [1.0] * 4
    assert {name: value for name, value in found.items() if value != ["RLIMIT_NOFILE"]} == {}
    assert left == {}
    assert works == [[0.0] * 2, [1.0] * 4, 1, True]


SOME = (
    HEAD
    + """
array = sa.ones(4, name="array")
array.lock().acquire()
sa.put([1]), sa.SharedMemoryManager, sa.Pool
calls = {"share": lambda: sa.share(np.ones(3)) is None, "lock": lambda: sa.zeros(3).lock().acquire(),
         "attach": lambda: sa.attach("array") is None, "blocks": lambda: [b.name for b in sa.blocks()],
         "prune": sa.prune}
found = []
for free in range(8):
    before = open_files(), block_files(), notes()
    for name, call in calls.items():
        with few_descriptors(free):
            found.append([name, outcome(call)])
        gc.collect()
        assert (open_files(), block_files(), notes()) == before, (name, free)
say(found)
"""
)


@pytest.mark.slow
def test_with_some_descriptors_a_call_works_or_names_the_limit() -> None:
    right = {"share": False, "lock": True, "attach": False, "blocks": ["array"], "prune": []}
    found: list[tuple[str, Any]] = answer(SOME)
    assert [each for each in found if each[1] not in (["RLIMIT_NOFILE"], right[each[0]])] == []
    assert dict(map(tuple, found[-5:])) == right


UNTIL_FULL = (
    HEAD
    + """
arrays = []
def fill():
    while True:
        arrays.append(sa.full(3, len(arrays)))
with few_descriptors(100):
    full = outcome(fill)
first = full, len(arrays) > 40, len(block_files()) == len(notes()) == len(arrays)
del arrays[:20]
gc.collect()
again = outcome(lambda: sa.ones(3).sum()), len(block_files()) == len(notes()) == len(arrays)
say([first, again, [int(a[0]) for a in arrays] == list(range(20, 20 + len(arrays)))])
"""
)


def test_arrays_until_no_descriptor_is_free() -> None:
    assert answer(UNTIL_FULL) == [[["RLIMIT_NOFILE"], True, True], [3.0, True], True]


POOL = (
    HEAD
    + """
method = sys.argv[1]
with sa.Pool(1, method) as pool:
    pool.submit(abs, 1).result()  # starts what lives on: fork server, tracker
gc.collect()
before = open_files()
def start():
    with sa.Pool(2, method) as pool:
        return pool.submit(abs, -1).result(60)
started = []
for free in (0, 7, 12, 20, 26, 60):
    with few_descriptors(free):
        started.append(outcome(start))
    wait_until(lambda: gc.collect() * 0 + open_files() == before, f"all is closed again, of {free} free")

with sa.Pool(1, method) as pool:
    worker = pool.submit(os.getpid).result()
    large = np.ones(1 << 17)
    with few_descriptors(0):
        running = outcome(lambda: pool.submit(np.sum, large).result(60))  # through the pipe then
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not any(worker.pid for worker in pool._core.handles), "the death is known")
        calls = lambda: pool.submit(abs, -1).result(60), lambda: list(pool.map(abs, [1, 2]))
        dead = [outcome(call) for call in calls]
    again = pool.submit(np.sum, large).result(60), list(pool.map(abs, [-1, 2]))
say([started, running, dead, again])
"""
)


@pytest.mark.parametrize("method", few(METHODS))
def test_a_pool_without_descriptors_fails_its_calls_and_goes_on(method: str) -> None:
    started, running, dead, again = answer(POOL, method)
    assert set(map(str, started)) == {"['RLIMIT_NOFILE']", "1"}
    assert (started[0], started[-1]) == (["RLIMIT_NOFILE"], 1)
    assert running == 1 << 17
    assert dead == [["RLIMIT_NOFILE"]] * 2
    assert again == [1 << 17, [1, 2]]


WORKER = (
    HEAD
    + """
def limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
def total(arrays):
    return sum(int(a[0]) for a in arrays)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
arrays = [sa.full(3, i) for i in range(100)]
with sa.Pool(1, initializer=limit) as pool:
    several = outcome(lambda: pool.submit(total, arrays).result(60))
    each = [int(x) for x in pool.map(np.min, arrays)] == list(range(100))
    few = pool.submit(total, arrays[:10]).result(60)
say([several, each, few])
"""
)


def test_a_worker_without_descriptors_fails_the_call_that_needs_them() -> None:
    assert answer(WORKER) == [["RLIMIT_NOFILE"], True, 45]


MAPS = (
    HEAD
    + """
import mmap
limit = int(open("/proc/sys/vm/max_map_count").read())
first, held = sa.zeros(1), []
try:
    while len(held) < 2 * limit:
        held.append(mmap.mmap(-1, 4096))
except OSError:
    del held[-20:]
arrays = []
def fill():
    while len(arrays) < 200:
        arrays.append(sa.zeros(1))
full = outcome(fill)
counts = len(block_files()), len(notes()), len(arrays) + 1
held.clear()
say([full, counts, outcome(lambda: sa.ones(3).sum())])
"""
)


@pytest.mark.slow
@pytest.mark.skipif(
    not 0
    < int(Path("/proc/sys/vm/max_map_count").read_text() if Path("/proc/sys/vm").exists() else 0)
    <= 300_000,
    reason="a process may have very many memory maps here",
)
def test_no_more_memory_maps() -> None:
    found, counts, again = answer(MAPS)
    assert found == ["vm.max_map_count"]
    assert len(set(counts)) == 1
    assert again == 3.0


SPACE = (
    HEAD
    + """
size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (size + (48 << 20),) * 2)
found = outcome(lambda: sa.zeros(8 << 20))
say([found, len(block_files()), len(notes()), outcome(lambda: sa.ones(3).sum())])
"""
)


def test_no_more_address_space() -> None:
    assert answer(SPACE) == [["RLIMIT_AS"], 0, 0, 3.0]


FILES = """
import gc, os
import sharedarray as sa
from sharedarray import _listing as listing
from helpers import block_files, notes, say
arrays = []
def full():
    try:
        while True:
            arrays.append(sa.zeros(3))
    except sa.OutOfSharedMemoryError as error:
        return "inodes" in str(error), error.errno, len(block_files()) == len(notes()) == len(arrays) > 5
first = full()
del arrays[:4]
gc.collect()
say([first, sa.ones(3).sum()])
"""


@needs_root
@pytest.mark.skipif(not shutil.which("unshare"), reason="no program can have a file system of its own here")
@pytest.mark.parametrize("files", [40, 41])
def test_a_file_system_with_no_more_files(files: int) -> None:
    mount = f'mount -t tmpfs -o nr_inodes={files},size=8m tmpfs "$SHAREDARRAY_DIR" && exec "$@"'
    unshare = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no program may mount a file system here")
    assert answer(FILES, before=unshare) == [[True, errno.ENOSPC, True], 3.0]


FILE_SIZE = (
    HEAD
    + """
folder = tempfile.mkdtemp()
large = np.ones(1 << 14)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
calls = {
    "zeros": lambda: sa.zeros(1 << 14),
    "share": lambda: sa.share(large),
    "put": lambda: sa.put(large),
    "file=": lambda: sa.zeros(1 << 14, file=f"{folder}/made.npy"),
}
found = {}
for name, call in calls.items():
    try:
        found[name] = len(call())
    except sa.LimitError as error:
        found[name] = ["RLIMIT_FSIZE" in str(error), error.errno]
left = sorted(block_files()), os.listdir(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
say([found, left, {name: len(call()) for name, call in calls.items() if name != "put"}])
"""
)


def test_a_limit_of_the_size_of_files_is_named() -> None:
    found, left, again = answer(FILE_SIZE)
    assert found == {name: [True, errno.EFBIG] for name in ("zeros", "share", "put", "file=")}
    assert left == [[], []]
    assert again == dict.fromkeys(["zeros", "share", "file="], 1 << 14)


FIRST_POOL = (
    HEAD
    + """
found = []
with sa.Pool(1) as pool:
    for free in range(12):
        with few_descriptors(free):
            found.append(outcome(lambda: pool.submit(abs, -1).result(60)))
    say([found, pool.submit(abs, -1).result(60)])
"""
)


def test_the_first_pool_names_the_limit_of_descriptors_too() -> None:
    """It starts the standard library's resource tracker before its workers."""
    found, last = answer(FIRST_POOL)
    assert found[0] == ["RLIMIT_NOFILE"]
    assert {str(each) for each in found} <= {str(["RLIMIT_NOFILE"]), "1"}
    assert last == 1


def test_the_number_of_a_limit_survives_pickling() -> None:
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG):
        error = sa.LimitError("full", number=number, found="all")
        again = pickle.loads(pickle.dumps(error))
        assert (again.errno, str(again)) == (number, str(error))


def test_a_list_of_blocks_asks_once_for_each_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many thousands of blocks, what is asked for each of them is what takes the time."""
    asked = []
    platform: Any = listing.registry.processes.platform
    started = platform.process_started
    monkeypatch.setattr(platform, "process_started", lambda pid: asked.append(pid) or started(pid))
    arrays = [sa.zeros(1) for _ in range(20)]
    found = [block for block in sa.blocks() if block.name in {array.name for array in arrays}]
    assert len(found) == 20
    assert all(block.creator_alive for block in found)
    assert len(asked) == len(set(asked))
