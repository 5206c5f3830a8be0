"""Pages of blocks that were just freed are used for the next ones, and never for two at once.

`file_of` tells whether two blocks have had the same pages: the inode of a block that is not made from a free
one is new. The list's thread would give idle blocks back in the middle of a test on a slow machine, so most
tests have it wait longer (`patient`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ANSWER,
    Puppet,
    answer,
    block_files,
    directory,
    notes,
    nothing_left,
    registry,
    run,
    wait_until,
)
from lock_helpers import end, not_busy, start
from needs import few, needs_fork, needs_proc

import sharedarray as sa
from sharedarray import _freelist as freelist, _intents as intents, _segment as segment
from sharedarray._platform import platform
from sharedarray._thresholds import REUSED_FROM

pytestmark = [
    pytest.mark.skipif(not platform.REUSES_PAGES, reason="every block has fresh pages here"),
    needs_proc,
]

MIB = 1 << 20
COUNT = REUSED_FROM // 8  # float64 elements of a block that is reused
OLD, NEW = 1.5, 2.5


IDLE = freelist.IDLE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with an empty list, whose blocks are idle after a minute only, when pages are reused.

    The first block starts the janitor, which has the descriptors of this process until it runs its program.
    """
    monkeypatch.setattr(freelist, "IDLE", 60.0)
    freelist.before_fork()
    wait_until(reused, "pages are reused")
    freelist.before_fork()
    yield
    freelist.before_fork()  # also ends a thread that waits for a minute


def file_of(array: np.ndarray[Any, Any]) -> int:
    mapping = segment.mapping_of(array)
    assert mapping is not None
    return mapping.inode


def reused() -> bool:
    """Return whether a block that was just freed is used for the next one."""
    return freed() == freed()


def freed(count: int = COUNT, value: float = OLD, **options: Any) -> int:
    """Free a block; return its file."""
    array = sa.full(count, value, **options)
    return file_of(array)


def pins() -> list[str]:
    return [name for name in notes() if name.startswith("t.")]


# -- it is reused ---------------------------------------------------------------------------------------

PLAIN = np.arange(COUNT) + 0.5
MAKERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "share": (lambda: sa.share(PLAIN), PLAIN),
    "share of another order": (
        lambda: sa.share(PLAIN.reshape(2, -1), order="F"),
        PLAIN.reshape(2, -1),
    ),
    "share of another dtype": (lambda: sa.share(PLAIN, "c16"), PLAIN.astype("c16")),
    "share of a view": (lambda: sa.share(np.repeat(PLAIN, 2)[::2]), PLAIN),
    "zeros": (lambda: sa.zeros(COUNT), np.zeros(COUNT)),
    "empty": (lambda: sa.empty(COUNT), np.zeros(COUNT)),  # cleared, as other processes may read it
    "ones": (lambda: sa.ones(COUNT, "f8"), np.ones(COUNT)),
    "full": (lambda: sa.full((2, COUNT // 2), 7.0), np.full((2, COUNT // 2), 7.0)),
    "full of zero": (lambda: sa.full(COUNT, 0.0), np.zeros(COUNT)),
    "zeros_like": (lambda: sa.zeros_like(PLAIN), np.zeros(COUNT)),
    "empty_like": (lambda: sa.empty_like(PLAIN), np.zeros(COUNT)),
    "ones_like": (lambda: sa.ones_like(PLAIN), np.ones(COUNT)),
    "full_like": (lambda: sa.full_like(PLAIN, NEW), np.full(COUNT, NEW)),
    "a progress bar": (lambda: sa.share(PLAIN, progress=True), PLAIN),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_every_way_of_making_an_array_reuses_pages(maker: str) -> None:
    make, expected = MAKERS[maker]
    before = freed(expected.nbytes // 8)
    made = make()
    assert file_of(made) == before
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)
    assert made.ndim == 1 or made.flags.fnc == ("order" in maker)
    assert pins() == []
    with sa.attach(made.name) as other:
        np.testing.assert_array_equal(other, expected)
    stored = np.load(f"{directory()}/{made.name}", mmap_mode="r")
    np.testing.assert_array_equal(stored, expected)


def test_again_and_again_finds_hardly_any_page() -> None:
    count = 8 * MIB // 8
    data = np.ones(count)
    kept = None
    for _ in range(4):  # two blocks take turns, and find their pages the first time that they are reused
        kept = sa.share(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for number in range(10):
        data[::512] = number
        kept = sa.share(data)
        assert kept[-512] == number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000  # of 20,480 pages


def test_a_context_is_reused_once_its_array_is_gone() -> None:
    with sa.full(COUNT, OLD) as first:
        before = file_of(first)
    with sa.full(COUNT, NEW) as second:
        assert file_of(second) != before
        assert (first == OLD).all()  # which stays valid
    del first
    with sa.zeros(COUNT) as third:
        assert file_of(third) == before
        assert not third.any()
        assert (second == NEW).all()


@pytest.mark.parametrize("share", [0.6, 0.9999, 1, 1.0001, 1.2])
def test_sizes_that_are_about_the_same(share: float) -> None:
    before = freed(4 * COUNT)
    count = int(4 * COUNT * share)
    made = sa.empty(count)
    assert file_of(made) == before
    path = f"{directory()}/{made.name}"
    content = Path(path).read_bytes()
    assert len(content) == 4096 + 8 * count
    assert not any(content[4096:])
    made[:] = NEW
    del made
    again = sa.zeros(4 * COUNT)  # what was cut off or added is clear, too
    assert (file_of(again) == before) == (share > 0.75)
    assert not again.any()


@pytest.mark.parametrize("share", [0.4, 1.4])
def test_sizes_that_differ_have_fresh_pages(share: float) -> None:
    before = freed(4 * COUNT)
    made = sa.full(int(4 * COUNT * share), NEW)
    assert file_of(made) != before
    assert (made == NEW).all()


def test_small_blocks_persistent_ones_and_files_are_not_concerned(tmp_path: Path) -> None:
    freed(COUNT // 2)
    sa.full(COUNT, OLD, persist=True, name="stays")
    sa.unlink("stays")
    sa.full(COUNT, OLD, file=tmp_path / "file.npy")
    later = sa.full(COUNT, OLD)
    later.persist()
    name = later.name
    del later
    sa.unlink(name)
    assert not freelist._state.blocks
    before = freed()
    kept = [sa.zeros(COUNT, persist=True, name="stays"), sa.zeros(COUNT, file=tmp_path / "other.npy")]
    assert before not in map(file_of, kept)
    kept[0].unlink()


def test_bytes_that_fill_leaves_out_are_clear() -> None:
    before = freed()

    def fill(write: segment.Write) -> None:
        write(5000, [memoryview(b"later")])
        write(2000, [memoryview(b"earlier"), memoryview(b"")])

    size = COUNT * 8 + 4096
    mapping = segment.create(size, buffers=[memoryview(b"head")], fill=fill)
    assert mapping.inode == before
    found = bytes(mapping[:])
    expected = bytearray(size)
    expected[:4], expected[5000:5005], expected[2000:2007] = b"head", b"later", b"earlier"
    assert found == expected


def test_an_object_in_one_block_reuses_pages() -> None:
    before = freed()
    made = sa.put([np.arange(COUNT), "text"])
    name = made.name
    assert platform.inode_of(f"{directory()}/{name}") == before
    assert sa.get(name)[1] == "text"


# -- no process sees it ----------------------------------------------------------------------------------


def test_a_free_block_has_no_name_that_leads_to_it() -> None:
    array = sa.full(COUNT, OLD, name="once")
    reference, path = array.reference(), f"{directory()}/once"
    assert os.path.exists(path)
    del array
    assert len(freelist._state.blocks) == 1
    assert block_files() == set()
    assert not sa.exists("once")
    assert [block.name for block in sa.blocks()] == []
    for look in (lambda: sa.attach("once"), reference.attach):
        with pytest.raises(sa.BlockNotFoundError):
            look()
    assert len(pins()) == 1  # in the registry, which is this user's alone
    assert os.stat(registry()).st_mode & 0o777 == 0o700


def test_a_file_never_gets_the_same_name_twice() -> None:
    array = sa.full(COUNT, OLD, name="frame")
    before, reference = file_of(array), array.reference()
    del array
    again = sa.full(COUNT, NEW, name="frame")
    assert file_of(again) != before
    with pytest.raises(sa.BlockNotFoundError):
        reference.attach()
    del again
    other = sa.full(COUNT, NEW, name="other")
    assert file_of(other) == before
    del other
    chance = sa.zeros(COUNT)
    by_chance, file = chance.name, file_of(chance)
    del chance
    assert file_of(sa.zeros(COUNT, name=by_chance)) != file  # a name that was one of chance


def test_a_block_that_takes_the_name_of_another_reuses_pages() -> None:
    before = freed()
    old = sa.full(COUNT, OLD, name="frame")
    assert file_of(old) == before
    assert file_of(sa.full(COUNT, OLD)) != before
    new = sa.full(COUNT, NEW, name="frame", replace=True)
    assert file_of(new) != before
    assert str(file_of(new)) not in {pin.split(".")[1] for pin in pins()}
    with sa.attach("frame") as other:
        assert (other == NEW).all()
    assert (old == OLD).all()
    found = sa.zeros(COUNT, name="frame", exist_ok=True)
    assert file_of(found) == file_of(new)


def test_a_creation_that_fails_gives_its_pages_back() -> None:
    freed()

    def fill(write: segment.Write) -> None:
        write(4096, [memoryview(b"some")])
        raise KeyError("a mistake")

    for _ in range(3):
        with pytest.raises(KeyError):
            segment.create(COUNT * 8 + 4096, fill=fill)
        assert nothing_left()
        assert not freelist._state.blocks
        assert not freelist._state.taken
    held = sa.zeros(3, name="taken")
    freed()
    with pytest.raises(sa.BlockExistsError):
        sa.full(COUNT, NEW, name="taken")
    assert len(pins()) == len(freelist._state.blocks) == 1
    held.close()


def test_a_name_for_each_turn_is_fresh_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freelist, "_MOST_NAMES", 3)
    files = {freed(name=f"turn-{number}") for number in range(8)}
    assert len(files) == 2


def test_a_view_keeps_its_block() -> None:
    array = sa.full(COUNT, OLD)
    view, before = array[5:-5], file_of(array)
    del array
    made = [sa.full(COUNT, NEW) for _ in range(3)]
    assert before not in map(file_of, made)
    assert (view == OLD).all()
    view.close()
    made += [sa.full(COUNT, NEW) for _ in range(3)]
    assert before not in map(file_of, made)
    assert (view == OLD).all()


def test_a_cycle_that_holds_a_view_keeps_its_block() -> None:
    cycle: list[Any] = [sa.full(COUNT, OLD)]
    before = file_of(cycle[0])
    cycle.append(cycle)
    del cycle
    made = [sa.full(COUNT, NEW)]
    gc.collect()
    made += [sa.full(COUNT, NEW) for _ in range(3)]
    assert all((array == NEW).all() for array in made)
    assert file_of(made[0]) != before


def test_a_second_attachment_in_this_process_keeps_the_pages() -> None:
    array = sa.full(COUNT, OLD)
    before, other = file_of(array), sa.attach(array.name)
    view = other[:]
    other.close()
    del array
    made = [sa.full(COUNT, NEW) for _ in range(2)]
    assert before not in map(file_of, made)
    assert (view == OLD).all()


WATCHER = """
import numpy as np
name, how = sys.argv[1:]
if how == "numpy":
    seen = np.load(f"{os.environ['SHAREDARRAY_DIR']}/{name}", mmap_mode="r")
elif how == "descriptor":
    handle = os.open(f"{os.environ['SHAREDARRAY_DIR']}/{name}", os.O_RDONLY)
    seen = lambda: np.frombuffer(os.pread(handle, 1 << 20, 4096))
else:
    array = sa.attach(name, "r")
    seen = array[3:]
    if how == "closed":
        array.close()
say()
while hear() is None:
    values = seen() if callable(seen) else seen
    say([float(values.min()), float(values.max())])
seen = array = None
if how == "descriptor":
    os.close(handle)
say()
hear()
"""


@pytest.mark.parametrize("how", few(["closed", "numpy", "descriptor", "attached"], 2))
@pytest.mark.parametrize("closes", few([False, True]))
def test_what_another_process_has_open_or_mapped_is_not_reused(how: str, closes: bool) -> None:
    array = sa.full(COUNT, OLD)
    before = file_of(array)
    with Puppet(WATCHER, array.name, how) as watcher:
        watcher.hear()
        if closes:
            array.close()
        del array
        made = [sa.full(COUNT, NEW) for _ in range(3)]
        assert before not in map(file_of, made)
        assert watcher.ask() == [OLD, OLD]
        made.clear()
        made = [sa.full(COUNT, NEW) for _ in range(3)]
        assert watcher.ask() == [OLD, OLD]
        watcher.ask("end")
        watcher.end()


def test_what_another_process_has_opened_since_it_was_free_is_not_reused() -> None:
    before = freed()
    (pin_file,) = pins()
    with open(f"{registry()}/{pin_file}", "rb") as file:
        made = sa.full(COUNT, NEW)
        assert file_of(made) != before
        assert not freelist._state.blocks
        assert np.frombuffer(file.read()[4096:]).max() == OLD


def test_an_open_that_was_held_up_until_the_file_is_another_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has looked up the old name, and opens the file when it has the new one."""
    arrays = [sa.full(COUNT, OLD, name="old")]
    before, enter = file_of(arrays[0]), platform.enter

    def held_up(path: str, writable: bool) -> tuple[int, bool, int, int, int, int, bool, bool]:
        arrays.clear()
        arrays.append(sa.full(COUNT, NEW, name="new"))
        assert file_of(arrays[0]) == before
        return enter(f"{directory()}/new", writable)

    monkeypatch.setattr(sys.modules["sharedarray._platform.posix"], "_TICK", 60.0)  # on a slow machine
    monkeypatch.setattr(platform, "enter", held_up)
    with pytest.raises(sa.BlockNotFoundError):
        sa.attach("old")
    monkeypatch.setattr(platform, "enter", enter)
    assert (sa.attach("new") == NEW).all()


def test_a_reference_on_its_way_keeps_its_block() -> None:
    array = sa.full(COUNT, OLD)
    before, sent = file_of(array), bytes(ForkingPickler.dumps(array))
    del array
    made = [sa.full(COUNT, NEW) for _ in range(2)]
    assert before not in map(file_of, made)
    arrived = ForkingPickler.loads(sent)
    assert (arrived == OLD).all()


def _remember(array: np.ndarray[Any, Any]) -> None:
    _remembered.append(array[2:])


def _recall() -> list[float]:
    return [float(value) for array in _remembered for value in (array.min(), array.max())]


_remembered: list[np.ndarray[Any, Any]] = []


def test_what_a_worker_remembers_is_not_reused() -> None:
    with sa.Pool(1) as pool:
        array = sa.full(COUNT, OLD)
        before = file_of(array)
        pool.submit(_remember, array).result()
        del array
        for _ in range(3):
            made = sa.full(COUNT, NEW)
            assert file_of(made) != before
            assert pool.submit(np.max, made).result() == NEW
        assert pool.submit(_recall).result() == [OLD, OLD]


def test_intents_of_an_interrupted_write_stay_with_their_block() -> None:
    array = sa.full(COUNT, OLD)
    before, mapping = file_of(array), segment.mapping_of(array)
    assert mapping is not None
    path = mapping.path
    table, at = not_busy(lambda: intents.claim(registry(), path))
    key = intents.identity(mapping.device, mapping.inode, platform.born(mapping.handle))
    intents.prepare(table.words, at, key, 4096, 4100)
    table.words[at] = key
    del array, mapping
    made = sa.full(COUNT, NEW)
    assert file_of(made) != before
    table.words[at] = 0
    table.give_back(at)
    before = file_of(made)
    del made
    assert freed() == before  # the table alone is no reason


def test_memory_that_a_program_has_protected_can_be_written_again() -> None:
    array = sa.full(COUNT, OLD)
    before = file_of(array)
    mapping = segment.mapping_of(array)
    start = array.ctypes.data - 4096
    assert (
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), ctypes.c_size_t(len(mapping)), mmap.PROT_READ) == 0
    )
    del array, mapping
    made = sa.full(COUNT, NEW)
    assert file_of(made) == before
    made += 1
    assert (made == NEW + 1).all()


def test_memory_that_a_program_has_advised_on_in_part_is_mapped_afresh() -> None:
    array = sa.full(COUNT, OLD)
    before = file_of(array)
    mapping = segment.mapping_of(array)
    mapping.madvise(mmap.MADV_RANDOM, 65536, 65536)
    del array, mapping
    made = sa.full(COUNT, NEW)
    assert file_of(made) == before
    assert (made == NEW).all()
    made += 1
    assert (made == NEW + 1).all()


# -- forks ----------------------------------------------------------------------------------------------


@needs_fork
def test_a_fork_finds_the_list_empty() -> None:
    freed()
    watcher = freelist._state.watcher
    assert watcher is not None
    wait_until(lambda: watcher.native, "the thread runs")

    def work() -> None:
        assert not freelist._state.blocks
        assert freelist._state.pid == os.getpid()
        made = sa.full(COUNT, NEW)
        before = file_of(made)
        del made
        again = sa.full(COUNT, NEW)  # what it makes itself, it reuses
        assert file_of(again) == before

    pid = start(work)
    assert not freelist._state.blocks
    assert not os.path.exists(f"/proc/self/task/{watcher.native}")  # or Python 3.12 and later warn of it
    assert end(pid) == 0


@needs_fork
@pytest.mark.parametrize("closed", [False, True])
def test_what_a_forked_child_has_is_not_reused(closed: bool) -> None:
    array = sa.full(COUNT, OLD)
    before = file_of(array)
    if closed:
        array.close()
    reading, writing = os.pipe()

    arrays = [array]
    del array

    def work() -> None:
        assert os.read(reading, 1) == b"x"
        assert (arrays[0] == OLD).all()

    pid = start(work)
    arrays.clear()
    made = [sa.full(COUNT, NEW) for _ in range(3)]
    assert before not in map(file_of, made)
    os.write(writing, b"x")
    assert end(pid) == 0
    os.close(reading)
    os.close(writing)


@needs_fork
def test_what_a_child_inherits_it_does_not_reuse_either() -> None:
    array = sa.full(COUNT, OLD)
    before = file_of(array)
    reading, writing = os.pipe()

    def work() -> None:
        nonlocal array
        del array
        made = [sa.full(COUNT, NEW) for _ in range(3)]
        assert before not in map(file_of, made)
        os.write(writing, b"x")

    pid = start(work)
    assert os.read(reading, 1) == b"x"
    assert end(pid) == 0
    assert (array == OLD).all()
    os.close(reading)
    os.close(writing)


@needs_fork
def test_a_fork_while_another_thread_fills_a_block_takes_nothing_of_it() -> None:
    before = freed()
    half, go_on = threading.Event(), threading.Event()
    made: list[Any] = []

    def fill(write: segment.Write) -> None:
        write(4096, [memoryview(bytes([7]) * MIB)])
        half.set()
        assert go_on.wait(60)

    def make() -> None:
        made.append(segment.create(COUNT * 8 + 4096, buffers=[memoryview(b"head")], fill=fill))

    def work() -> None:
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert not [line for line in maps if line.split()[4] == str(before)]
        for handle in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                assert os.stat(f"/proc/self/fd/{handle}").st_ino != before

    thread = threading.Thread(target=make)
    thread.start()
    assert half.wait(60)
    pid = start(work)
    go_on.set()
    thread.join()
    assert end(pid) == 0
    (mapping,) = made
    assert mapping.inode == before
    assert mapping[4096:] == bytes([7]) * MIB
    del mapping
    made.clear()
    assert freed() != before  # the child may have had it


NATIVE = """
import ctypes, os
import numpy as np
import sharedarray as sa
from sharedarray import _freelist as freelist, _segment as segment
from helpers import say
def file_of(array):
    return segment.mapping_of(array).inode
count = 1 << 18
sa.ones(10)
first, spare = sa.full(count, 1.5), sa.full(count, 3.5)
before = file_of(first)
del spare                                          # is free when the fork comes
reading, writing = os.pipe()
pid = ctypes.PyDLL(None).fork()                    # runs no hooks
if not pid:
    try:
        os.read(reading, 1)
        good = bool((first == 1.5).all())
        mine = [sa.full(count, 9.5) for _ in range(2)]
        good = good and bool((mine[0] == 9.5).all())
        os._exit(0 if good else 3)
    finally:
        os._exit(4)
del first
made = [sa.full(count, 2.5) for _ in range(4)]
files = [file_of(array) for array in made]
os.write(writing, b"x")
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
right = all(bool((array == 2.5).all()) for array in made)
made.clear()
later = sa.full(count, 4.5)                        # all of which were made since the fork
say([before in files, status, right, file_of(later) in files])
"""


@needs_fork
def test_a_fork_by_native_code_is_noticed() -> None:
    assert answer(NATIVE) == [False, 0, True, True]


@needs_fork
@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns of forks beside threads from 3.12 on")
def test_a_fork_warns_of_no_thread() -> None:
    script = """
    import os, warnings
    import sharedarray as sa
    from sharedarray import _freelist as freelist
    warnings.simplefilter("error")
    freelist.IDLE = freelist._STOPPING = 60.0  # however slow the machine is
    beside = 0
    for _ in range(50):
        sa.ones(1 << 18)
        beside += len(os.listdir("/proc/self/task")) == 2  # not if the janitor has the block open just now
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    assert beside > 10, beside
    """
    assert "warn" not in run(script, OPENBLAS_NUM_THREADS="1").stderr.lower()


# -- memory goes back -----------------------------------------------------------------------------------


def test_it_goes_back_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freelist, "IDLE", IDLE)
    given_back = freelist._give_back_idle
    until_asked = threading.Event()

    def later() -> float | None:
        assert until_asked.wait(ANSWER)  # the thread is there, and gives nothing back yet
        return given_back()

    monkeypatch.setattr(freelist, "_give_back_idle", later)
    array = sa.full(COUNT, OLD)
    with sa.full(COUNT, OLD) as closed:
        pass
    del array
    assert len(pins()) == 2
    watcher = freelist._state.watcher
    assert watcher is not None
    wait_until(lambda: watcher.native, "the thread runs")
    until_asked.set()
    wait_until(lambda: not pins(), "the memory goes back")
    assert not freelist._state.blocks
    wait_until(lambda: not os.path.exists(f"/proc/self/task/{watcher.native}"), "the thread ends")
    assert (closed == OLD).all()
    del closed
    assert not freelist._state.blocks  # it was closed for too long


def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freelist, "MOST_BYTES", 5 * MIB)
    arrays = [sa.full(COUNT, OLD) for _ in range(8)]
    files = [file_of(array) for array in arrays]
    while arrays:
        del arrays[0]
    kept = list(freelist._state.blocks.values())
    assert sum(block.size for block in kept) <= 5 * MIB
    assert [block.mapping.inode for block in kept] == files[-len(kept) :]  # the last ones
    assert len(pins()) == len(kept)


def test_so_are_its_descriptors_and_maps() -> None:
    before = len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_bytes().splitlines())
    arrays = [sa.full(COUNT, OLD) for _ in range(40)]
    for array in arrays:
        array.close()
    assert len(freelist._state.blocks) <= 8
    arrays.clear()
    assert len(freelist._state.blocks) <= 8
    after = len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_bytes().splitlines())
    assert after[0] - before[0] <= 2 * 8 + 2
    assert after[1] - before[1] <= 16


def test_of_many_that_are_dropped_at_once_only_some_are_kept() -> None:
    arrays = [sa.full(COUNT, OLD) for _ in range(20)]
    files = [file_of(array) for array in arrays]
    while arrays:
        del arrays[0]
    kept = {block.mapping.inode for block in freelist._state.blocks.values()}  # type: ignore[attr-defined]
    assert kept == set(files[:8])
    made = [sa.full(COUNT, NEW) for _ in range(9)]
    assert {file_of(array) for array in made} > kept


@pytest.mark.parametrize("what", ["make", "attach"])
def test_a_process_out_of_descriptors_gets_those_of_the_list(what: str) -> None:
    known = sa.zeros(5)
    pair = [sa.full(COUNT, OLD), sa.full(COUNT, OLD)]
    pair.clear()
    taken = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        assert freelist._state.blocks
        small = sa.zeros(5) if what == "make" else sa.attach(known.name)
        assert small.tolist() == [0.0] * 5
        assert not freelist._state.blocks
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in taken:
            os.close(handle)


def test_files_of_another_file_system_are_not_reused(tmp_path: Path) -> None:
    """There, the kernel may not know of all mappings."""
    with open(tmp_path / "file", "wb") as file:
        if platform.is_memory(file.fileno()):
            pytest.skip("temporary files are in memory here")
    script = """
    import sharedarray as sa
    from sharedarray import _freelist as freelist
    for _ in range(3):
        assert sa.ones(1 << 18)[-1] == 1
        assert not freelist._state.blocks
    """
    run(script, SHAREDARRAY_DIR=str(tmp_path))


def test_a_process_that_ends_leaves_nothing() -> None:
    script = """
    import sharedarray as sa
    closed = sa.ones(1 << 18)
    closed.close()
    sa.ones(1 << 18)
    """
    run(script)
    assert nothing_left()


def test_a_killed_process_leaves_nothing() -> None:
    script = """
    from helpers import notes
    from sharedarray import _freelist as freelist
    freelist.IDLE = 60.0
    closed = sa.ones(1 << 18)
    closed.close()
    sa.ones(1 << 18)
    say(len(notes()))
    hear()
    """
    with Puppet(script) as puppet:
        assert puppet.hear() == 2
        puppet.kill()
        wait_until(nothing_left, "the janitor removes the pins")


STEPS = """
from sharedarray import _freelist as freelist, _registry as registry
from sharedarray._platform import platform
name, when = sys.argv[1:]
freelist.IDLE = 60.0
armed = False
def dying(module, name):
    real = getattr(module, name)
    def call(*arguments, **options):
        if armed and when == "before":
            suicide()
        found = real(*arguments, **options)
        if armed and when == "after":
            suicide()
        return found
    setattr(module, name, call)
dying(registry.removal if name == "drop_record" else platform, name)
first, second = sa.ones(1 << 18), sa.ones(1 << 18)
del first
armed = True
if name in ("set_reused", "move", "drop_record", "exclusive", "unwitnessed"):
    del second
third = sa.full(300_000, 2.5, name="third")
freelist.clear()
"""
STEP_NAMES = "move publish exclusive hold move_pages resize reserve set_reused drop_record unwitnessed remove"


@pytest.mark.parametrize("when", few(["after", "before"]))
@pytest.mark.parametrize("step", few(STEP_NAMES.split(), 2))
def test_a_process_that_is_killed_at_any_step_leaves_nothing(step: str, when: str) -> None:
    with Puppet(STEPS, step, when) as puppet:
        assert puppet.process.wait(60) == -9
    wait_until(nothing_left, f"nothing is left of a process that died {when} {step}")


# -- many at once ---------------------------------------------------------------------------------------


def storm(seconds: float, seed: int, wrong: list[str]) -> None:
    chance = np.random.default_rng(seed)
    held: list[tuple[Any, float]] = []
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not wrong:
        value = float(chance.integers(1, 1 << 40))
        count = int(COUNT * chance.choice([1, 1, 1.1, 1.5, 0.9]))
        kind = chance.integers(4)
        if kind == 0:
            made, value = sa.zeros(count), 0.0
        elif kind == 1:
            with sa.full(count, value) as made:
                pass
        else:
            made = sa.full(count, value)
        held.append((made, value))
        while len(held) > chance.integers(4):
            array, expected = held.pop(int(chance.integers(len(held))))
            if not (array == expected).all():
                wrong.append(f"{array} in place of {expected}")
            array = None
        made = None
    for array, expected in held:
        if not (array == expected).all():
            wrong.append(f"{array} in place of {expected}")


@pytest.mark.parametrize("seconds", few([0.7, 10.0]))
def test_threads_that_share_at_once(seconds: float) -> None:
    wrong: list[str] = []
    threads = [threading.Thread(target=storm, args=(seconds, seed, wrong)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    freelist.clear()
    assert nothing_left()


GUESSER = """
import numpy as np
say()
found = 0
while (name := hear()) is not None:
    try:
        array = sa.attach(name, "r")
    except (sa.BlockNotFoundError, sa.HeaderError) as error:
        say([None, type(error).__name__])
        continue
    value = float(name[1:])
    view = array[:]
    good = bool((view == value).all())
    array.close()
    good = good and bool((view == value).all())
    array = None
    say([good, name])
    good = bool((view == value).all())
    view = None
    say(good)
"""


@pytest.mark.parametrize("turns", few([60, 1500]))
def test_a_process_that_attaches_at_the_last_moment_sees_one_block(turns: int) -> None:
    """Each name is the value of all elements; the other process attaches while this one drops the block."""
    found = 0
    with Puppet(GUESSER) as guesser:
        guesser.hear()
        for turn in range(1, turns + 1):
            array = sa.full(COUNT, float(turn), name=f"n{turn}")
            guesser.say(f"n{turn}")
            for _ in range(turn % 40):
                pass
            time.sleep((turn % 7) * 1e-5)
            early = guesser.hear() if turn % 20 == 0 else None
            del array
            after = sa.full(COUNT, -1.0)
            good, what = early or guesser.hear()
            if good is None:
                assert what == "BlockNotFoundError"
            else:
                assert good, what
                found += 1
                del after
                after = sa.full(COUNT, -2.0)
                assert guesser.hear()
        guesser.end()
    assert found
    del after
    freelist.clear()
    wait_until(nothing_left, "nothing is left")


@pytest.mark.slow
def test_gevent_has_fresh_pages() -> None:
    pytest.importorskip("gevent")
    script = """
    import gevent.monkey
    gevent.monkey.patch_all()
    import os
    import sharedarray as sa
    from sharedarray import _freelist as freelist
    threads = len(os.listdir("/proc/self/task"))
    sa.ones(1 << 18)
    assert not freelist._state.blocks
    """
    run(script)
