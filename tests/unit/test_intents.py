"""The table of write intents, seen from inside: slots, taking over, and tidying up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PROC, TABLE, registry, suicide, wait_until
from lock_helpers import child, descriptors, end, killed, not_busy, start
from needs import needs_fork

import sharedarray as sa
from sharedarray import _intent_table as intent_table, _intents as intents
from sharedarray._intents import COUNT, Table, TableBusyError, identity
from sharedarray._platform import platform

KEY, OTHER = 4711, 4712
A_PAGE = 15  # slots of the first page


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def table(folder: str) -> Iterator[Table]:
    made = Table.open(folder)
    yield made
    made.close()


def write_intent(table: Table, start: int, end: int, key: int = KEY, path: str = "") -> int:
    """Write an intent for some bytes; return the slot."""
    at = not_busy(lambda: table.claim(path))
    intents.prepare(table.words, at, key, start, end)
    table.words[at] = key
    return at


def has_intent(table: Table, *, key: int = KEY, size: int = 20) -> str:
    """Draw the bytes that have an intent."""
    return "".join("x" if table.has_intent(key, byte, byte + 1) else "." for byte in range(size))


def files_can_be_told_apart(folder: Path) -> bool:
    """Return whether a file has a number that no other had before, or it is known when it was made."""
    numbers = set()
    for _ in range(5):
        handle = platform.draft(str(folder))
        numbers.add(platform.status(handle.handle).inode)
        told = platform.born(handle.handle) != 0
        platform.discard(handle)
    return told or len(numbers) == 5


def open_tables() -> list[int]:
    """Return the descriptors of this process through which a table is locked."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.path.basename(os.readlink(f"/proc/self/fd/{number}")) == TABLE:
                info = Path(f"/proc/self/fdinfo/{number}").read_text()
                found += [int(number)] * ("lock:" in info)
        except OSError:
            continue
    return found


# -- intents ----------------------------------------------------------------------------------------------


def test_bytes_with_an_intent(table: Table) -> None:
    assert has_intent(table) == "." * 20
    at = write_intent(table, 3, 6)
    write_intent(table, 10, 11)
    write_intent(table, 0, 20, OTHER)
    assert has_intent(table) == "...xxx....x........."
    assert not table.has_intent(KEY, 0, 3)
    assert table.has_intent(KEY, 0, 4)
    assert table.has_intent(KEY, 5, 100)
    assert not table.has_intent(KEY, 6, 10)
    assert table.has_intent(KEY, 0, 1 << 62)
    table.words[at] = 0
    assert has_intent(table) == "..........x........."


def test_files_are_told_apart_by_device_inode_and_birth() -> None:
    things = [(d, i, b) for d in (1, 2, 26) for i in (1, 2, 3) for b in (0, 1, 1_700_000_000_000_000_000)]
    keys = {identity(*thing) for thing in things}
    assert len(keys) == len(things)
    assert all(0 < key < 1 << 64 for key in keys)
    assert identity(0, 0, 0) == 1  # 0 is an empty slot


def test_another_file_with_the_same_inode_has_another_key(tmp_path: Path) -> None:
    """File systems on disks give the inode of a file that was removed to the next one."""
    if not files_can_be_told_apart(tmp_path):
        pytest.skip("numbers of files come again here, and the time of birth is not known")
    path, keys, inodes = tmp_path / "x", set(), set()
    for _ in range(5):
        path.write_text("x")
        with sa.lock_file(path) as lock:
            assert lock._hold is not None
            keys.add(lock._hold.key)
        inodes.add(path.stat().st_ino)
        path.unlink()
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [
        (0, 20, "...................."),
        (3, 9, "...................."),
        (0, 3, "...xxxxxx..........."),
        (9, 20, "...xxxxxx..........."),
        (0, 5, ".....xxxx..........."),
        (8, 20, "...xxxxx............"),
        (4, 6, "...x..xxx..........."),
        (3, 4, "....xxxxx..........."),
    ],
)
def test_taking_over_leaves_the_rest(folder: str, table: Table, start: int, end: int, left: str) -> None:
    dead = Table.open(folder)
    write_intent(dead, 3, 9)
    write_intent(dead, 3, 9)  # twice, as after a death in between
    write_intent(dead, 0, 20, OTHER)
    dead.close()
    own = write_intent(table, start, end)
    table.take_over(KEY, start, end, own)
    assert table.words[own] == KEY
    table.words[own] = 0
    assert has_intent(table) == left
    assert has_intent(table, key=OTHER) == "x" * 20
    assert table.words[1] % 2 == 0


def test_an_intent_that_cannot_be_divided_stays_whole(
    folder: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intent_table, "_MANY", 3)
    dead = Table.open(folder)
    write_intent(dead, 0, 20)
    dead.close()
    own = write_intent(table, 5, 6)
    table.take_over(KEY, 5, 6, own)
    table.words[own] = 0
    assert has_intent(table) == "x" * 20  # told of too much, and never of too little
    own = write_intent(table, 0, 20)
    table.take_over(KEY, 0, 20, own)
    table.words[own] = 0
    assert has_intent(table) == "." * 20


def test_a_look_while_intents_move_gives_no_answer(folder: str, table: Table) -> None:
    """The rest is in another slot before the old one is emptied; a look may have passed that slot already."""
    mover = Table.open(folder)
    at = write_intent(mover, 0, 20)
    with mover._editing(), mover._odd():
        mover.words[at] = 0  # what moves is nowhere for a look that comes now
        with pytest.raises(TableBusyError):
            table.has_intent(KEY, 5, 6)
        mover.words[at] = KEY
    assert table.has_intent(KEY, 5, 6)
    mover.close()


def test_no_method_waits_for_a_process_that_edits(folder: str, table: Table) -> None:
    editor = Table.open(folder)
    own = write_intent(table, 0, 20)
    with editor._editing():
        for step in (
            lambda: table.claim(""),
            lambda: table.take_over(KEY, 0, 20, own),
            table.tidy,
        ):
            with pytest.raises(TableBusyError):
                step()
        assert table.has_intent(KEY, 0, 1)  # while no intent moves, a look needs no lock
    assert table.claim("") != own
    editor.close()


def test_no_process_waits_for_one_that_removes_the_table(folder: str, table: Table) -> None:
    remover = platform.open(table.path, writable=True)
    table.close()
    assert platform.alone(remover)
    with pytest.raises(TableBusyError):
        Table.open(folder)
    platform.release(remover)
    Table.open(folder).close()
    platform.close(remover)


def test_a_sweep_leaves_a_table_that_a_stopped_process_edits(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "_PATIENCE", 0.01)
    editor = Table.open(folder)
    with editor._editing():
        intents.sweep(folder)
        assert os.path.exists(editor.path)
    editor.close()
    intents.sweep(folder)
    assert not os.path.exists(editor.path)


def test_who_looked_before_the_move_ended_looks_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    at = write_intent(table, 0, 20)
    over = Table._over
    calls = []

    def while_it_moves(self: Table, key: int, start: int, end: int) -> list[int]:
        calls.append(1)
        if len(calls) == 1:  # all of the move happens during this look
            with self._editing(), self._odd():
                self.words[at] = 0
                found = over(self, key, start, end)
                self.words[at] = KEY
            return found
        return over(self, key, start, end)

    monkeypatch.setattr(Table, "_over", while_it_moves)
    assert table.has_intent(KEY, 5, 6)
    assert len(calls) == 2


def test_a_death_while_moving_is_settled_by_the_next_look(table: Table) -> None:
    table.words[1] = 7
    assert not table.has_intent(KEY, 0, 20)
    assert table.words[1] == 8
    write_intent(table, 0, 20)
    table.words[1] = 9
    own = write_intent(table, 0, 20)
    table.take_over(KEY, 0, 20, own)
    assert table.words[1] == 10


def test_a_damaged_slot_counts_as_an_intent(table: Table) -> None:
    at = write_intent(table, 5, 6)
    table.words[at + 1] = 3
    assert has_intent(table) == "...xxx.............."
    own = write_intent(table, 0, 20)
    table.take_over(KEY, 0, 20, own)
    table.words[own] = 0
    assert has_intent(table) == "." * 20


# -- slots ----------------------------------------------------------------------------------------------


def test_two_processes_never_have_the_same_slot(folder: str, table: Table) -> None:
    other = Table.open(folder)
    mine = [table.claim("") for _ in range(3)]
    theirs = [other.claim("") for _ in range(3)]
    assert len({*mine, *theirs}) == 6
    assert table.words[COUNT] == 6
    other.give_back(theirs[1])
    assert other.claim("") == theirs[1]  # it stays the process's own
    assert table.claim("") not in theirs
    other.close()
    assert table.claim("") in theirs  # free, for it is empty
    assert len(table.claimed) == 5


def test_a_slot_with_an_intent_stays_until_it_is_taken_over(folder: str, table: Table) -> None:
    other = Table.open(folder)
    at = write_intent(other, 5, 7)
    other.give_back(at)
    assert at not in other.claimed
    other.close()
    assert [table.claim("") for _ in range(3)].count(at) == 0
    own = write_intent(table, 0, 20)
    table.take_over(KEY, 0, 20, own)
    assert table.claim("") == at


def test_the_table_grows_and_others_see_it(folder: str, table: Table) -> None:
    assert os.stat(table.path).st_size == 4096
    other = Table.open(folder)
    own = other.claim("")
    slots = [write_intent(table, number, number + 1) for number in range(3 * A_PAGE)]
    assert len(set(slots)) == 3 * A_PAGE
    size = os.stat(table.path)
    assert size.st_size > 2 * 4096
    if hasattr(size, "st_blocks"):
        assert size.st_blocks * 512 >= size.st_size  # reserved: no process dies of a full file system
    assert has_intent(other, size=50) == "x" * 45 + "." * 5
    assert other.claim("") not in slots
    other.give_back(own)
    other.close()


def test_what_a_killed_process_claimed_is_free(folder: str, table: Table) -> None:
    def work() -> None:
        other = Table.open(folder)
        other.claim("")
        write_intent(other, 4, 8)
        suicide()

    killed(work)
    slots = {table.claim(""), table.claim("")}
    assert len(slots) == 2
    assert has_intent(table) == "....xxxx............"
    assert table.words[COUNT] == 3  # of which the dead one had two


@needs_fork
def test_a_forked_child_has_none_of_its_parents_claims() -> None:
    with sa.zeros(4) as array, array.lock():
        assert open_tables()

        def work() -> None:
            assert open_tables() == []
            with array[:0].lock(), sa.zeros(3) as own, own.lock():
                assert len(open_tables()) == 1

        child(work)


@needs_fork
def test_forks_beside_a_thread_that_opens_a_table(folder: str) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(path: str, handle: int) -> None:
        inside.set()
        assert go_on.wait(60)

    opened: list[Table] = []

    class Slow(Table):
        __slots__ = ()

        def _map(self) -> None:
            slow(self.path, self._handle)
            super()._map()

    def open_it() -> None:
        with intents._guard:
            opened.append(Slow.open(folder))
            intents._tables[folder] = opened[0]

    opener = threading.Thread(target=open_it)
    opener.start()
    inside.wait(60)
    threading.Timer(0.02, go_on.set).start()
    pid = start(lambda: os._exit(len(open_tables())))  # it comes when the table is open, and known
    assert end(pid) == 0
    opener.join()
    del intents._tables[folder]
    opened[0].close()
    os.unlink(opened[0].path)


# -- tidying up -----------------------------------------------------------------------------------------


def test_an_unused_table_is_removed(folder: str) -> None:
    table = Table.open(folder)
    path = table.path
    at = write_intent(table, 3, 4)
    intents.sweep(folder)
    assert os.path.exists(path)
    table.words[at] = 0
    intents.sweep(folder)
    assert os.path.exists(path)  # a process has it open
    table.close()
    intents.sweep(folder)
    assert not os.path.exists(path)
    intents.sweep(folder)


def test_intents_stay_until_their_file_is_gone(folder: str, tmp_path: Path) -> None:
    path, other = tmp_path / "data", tmp_path / "other"
    path.write_text("x")
    other.write_text("x")

    def keys() -> int:
        status = path.stat()
        handle = os.open(path, os.O_RDONLY)
        try:
            return identity(status.st_dev, status.st_ino, intents.platform.born(handle))
        finally:
            os.close(handle)

    key = keys()
    dead = Table.open(folder)
    live = write_intent(dead, 0, 1, key, str(path))
    write_intent(dead, 5, 6, key, str(path))
    write_intent(dead, 0, 1, OTHER, str(other))  # another file is there by now
    write_intent(dead, 0, 1, OTHER + 1, str(tmp_path / "never"))
    write_intent(dead, 0, 1, OTHER + 2, "")  # its path is not known
    write_intent(dead, 0, 1, OTHER + 3, f"{path}/below")
    dead.give_back(live)
    dead.close()
    intents.sweep(folder)
    table = Table.open(folder)
    assert has_intent(table, key=key) == "x....x.............."
    assert [table.has_intent(OTHER + n, 0, 1) for n in range(4)] == [False, False, True, False]
    path.unlink()
    at = write_intent(table, 7, 8, key, str(path))  # of one that lives, and has it open
    intents.sweep(folder)
    assert has_intent(table, key=key) == ".......x............"
    table.words[at] = 0
    for number in range(1, table.words[COUNT] + 1):
        table.words[32 * number] = 0
    table.close()
    intents.sweep(folder)
    assert not os.path.exists(f"{folder}/{TABLE}")


def test_free_slots_at_the_end_are_not_looked_through_any_more(folder: str, table: Table) -> None:
    table.claim("")
    crowd = Table.open(folder)
    for _ in range(40):
        crowd.claim("")
    last = write_intent(crowd, 3, 4)
    assert table.words[COUNT] == 42
    crowd.close()
    intents.sweep(folder)
    assert table.words[COUNT] == 42
    own = write_intent(table, 0, 9)
    table.take_over(KEY, 0, 9, own)
    table.words[own] = 0
    intents.sweep(folder)
    assert table.words[COUNT] * 32 == max(table.claimed) < last


def test_a_removed_table_is_made_again(own_directory: str) -> None:
    with sa.zeros(5) as array, sa.zeros(5) as other:
        with array.lock():
            pass
        os.unlink(f"{registry()}/{TABLE}")
        with other.lock():
            assert os.path.exists(f"{registry()}/{TABLE}")
    intents._release_all()


def test_leaving_removes_the_table_and_locking_again_makes_another(own_directory: str) -> None:
    with sa.zeros(5) as array:
        with array.lock():
            pass
        before = descriptors()
        intents._release_all()
        assert descriptors() < before or not PROC  # where it is none of our handles

        def removed() -> bool:
            intents.sweep(registry())  # as the janitor does, who may just have had it open, too
            return not os.path.exists(f"{registry()}/{TABLE}")

        wait_until(removed, "no process needs the table")
        with sa.attach(str(array.name)) as other, other.lock() as lock:
            assert not lock.abandoned
            assert os.path.exists(f"{registry()}/{TABLE}")
    intents._release_all()


def test_many_that_come_and_go_find_one_table(folder: str) -> None:
    """No process writes an intent into a table that another one has removed."""

    def work() -> None:
        for _ in range(60):
            table = not_busy(lambda: Table.open(folder))
            at = write_intent(table, 0, 5, os.getpid())
            again = not_busy(lambda: Table.open(folder))
            assert again.has_intent(os.getpid(), 0, 5)
            again.close()
            table.words[at] = 0
            table.close()
            intents.sweep(folder)

    pids = [start(work) for _ in range(4)]
    assert [end(pid) for pid in pids] == [0] * 4
    intents.sweep(folder)
    assert os.listdir(folder) == []
