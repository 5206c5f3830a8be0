"""Every file that stands beside the blocks, damaged, and then a whole life of a program beside it.

The bits of the file are flipped, it is cut off, or it is filled with noise. A program then makes, attaches,
locks, sends, calls, lists and prunes as ever. It warns once about each damaged file that it meets, by name.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from helpers import ANSWER, TABLE, Puppet, block_files, environment, registry, wait_until
from needs import needs_janitor

import sharedarray as sa
from sharedarray import (
    _damage as damage,
    _freelist as freelist,
    _intent_table as intent_table,
    _intents as intents,
    _registry as records,
)
from sharedarray._platform import platform
from sharedarray._segment import mapping_of
from sharedarray._wakers import Waker

# -- damage ---------------------------------------------------------------------------------------------


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.randrange(4, 40) if found else 0):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))] if data else data


def noise(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([1, 100, 3000, 4096, 9000]))


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits": flip_bits,
    "cut off": cut_off,
    "noise": noise,
}


def damage_file(path: str, how: str, chance: random.Random) -> None:
    """Damage a file, whatever it is; a pipe or a socket, and a name of a block, gives way to another file."""
    change, kind = DAMAGES[how], os.lstat(path)
    if stat.S_ISLNK(kind.st_mode):
        text = change(os.fsencode(os.readlink(path)), chance)[:4000].replace(b"\0", b"0") or b" "
        os.unlink(path)
        os.symlink(text, os.fsencode(path))
        return
    if stat.S_ISREG(kind.st_mode) and kind.st_nlink == 1:
        data = change(Path(path).read_bytes(), chance)
        with open(path, "r+b") as file:
            file.write(data)
            file.truncate()
        return
    os.unlink(path)
    Path(path).write_bytes(change(bytes(100), chance))


# -- a life beside it -----------------------------------------------------------------------------------

HOLDER = """
from multiprocessing.reduction import ForkingPickler
held = sa.full(1000, 3.0, name="held")
kept = sa.full(1000, 4.0, name="kept", persist=True)
sent = sa.full(1000, 5.0, name="sent")
with held.lock(): pass
say(bytes(ForkingPickler.dumps(sent)).hex())
hear()
with held.lock(timeout=60): say(float(held.sum()))
hear()
"""

LIFE = """
import pickle, sys
import sharedarray as sa

def total(array):
    return float(array.sum())

if __name__ == "__main__":
    with sa.zeros(10, name="made") as made:
        with made.lock(timeout=60):
            made += 1
        held, kept = sa.attach("held"), sa.attach("kept")
        with held[10:].lock(timeout=60):
            assert total(held) == 3000 and total(kept) == 4000
        sent = pickle.loads(bytes.fromhex(sys.argv[1]))
        assert total(sent) == 5000
        with sa.Pool(1) as pool:
            assert pool.submit(total, made).result() == 10
        listed = {block.name for block in sa.blocks()}
        assert listed >= {"held", "kept", "sent", "made"}, listed
        sa.prune()
        assert all(map(sa.exists, ("held", "kept", "sent", "made")))
    assert not sa.exists("made")
    print("lived")
"""


@contextmanager
def holder() -> Iterator[tuple[Puppet, str]]:
    """Start a process that holds some blocks; yield it, and what it has sent."""
    with Puppet(HOLDER) as puppet:
        yield puppet, puppet.hear()
        assert puppet.ask() == 3000.0
        puppet.end()


def live(sent: str) -> list[str]:
    """Run the program; return its warnings."""
    ran = subprocess.run(
        [sys.executable, "-c", LIFE, sent],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment(),
        timeout=2 * ANSWER,
    )
    assert (ran.returncode, ran.stdout) == (0, "lived\n"), ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    return re.findall(r"RuntimeWarning: (.*)", ran.stderr)


# -- each kind of file ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_reported", set())


def record_of(name: str) -> Path:
    (path,) = [each for each in Path(registry()).iterdir() if each.name.startswith(f"b.{name}@")]
    return path


DAMAGED = [
    "",
    "x",
    "1 array 4711",
    "1 array x y z 0",
    "1 bytes -1 1 nan 0",
    "\udcff\udcfe",
    "file",
    "directory",
]


def damage_record(path: Path, how: str) -> None:
    path.unlink()
    if how == "file":
        path.write_text("noise")
    elif how == "directory":
        path.mkdir()
    else:
        os.symlink(how or " ", path)


@needs_janitor
@pytest.mark.parametrize("how", DAMAGED)
def test_the_maker_of_a_block_makes_its_record_anew(own_directory: str, how: str) -> None:
    with sa.zeros(3, name="held") as held:
        path = record_of("held")
        before = os.readlink(path)
        damage_record(path, how)
        with pytest.warns(RuntimeWarning, match=re.escape(str(path))) as told:
            assert [block.name for block in sa.blocks()] == ["held"]
        assert len(told) == 1
        assert os.readlink(path) == before
        assert not sa.blocks()[0].persistent
        held.persist()
        damage_record(path, how)
        assert sa.blocks()[0].persistent
        held.persist(False)
        damage_record(path, how)
    assert not sa.exists("held")


@needs_janitor
@pytest.mark.parametrize("how", DAMAGED)
def test_a_block_whose_maker_is_gone_stays_and_is_listed(
    own_directory: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    sa.ones(3, name="kept", persist=True).close()
    monkeypatch.setattr(records.record, "written", {})  # what the maker knew
    path = record_of("kept")
    damage_record(path, how)
    with pytest.warns(RuntimeWarning, match=re.escape(str(path))) as told:
        (block,) = sa.blocks()
    assert len(told) == 1
    assert sa.prune() == []
    assert (block.name, block.shape, block.persistent, block.creator) == ("kept", (3,), True, 0)
    assert sa.attach("kept").sum() == 3
    sa.unlink("kept")
    assert not sa.exists("kept")


@needs_janitor
def test_the_maker_corrects_a_record_that_another_process_has_made_anew(own_directory: str) -> None:
    with Puppet("a = sa.ones(3, name='held'); say(1); hear()") as puppet:
        puppet.hear()
        path = record_of("held")
        damage_record(path, "x")
        with pytest.warns(RuntimeWarning, match="stays until it is unlinked"):
            assert sa.blocks()[0].persistent
        puppet.end()
    wait_until(lambda: not sa.exists("held"), "the block is freed", ANSWER)


@needs_janitor
@pytest.mark.parametrize("before", ["none", "another"])
def test_a_record_that_comes_while_it_is_read_is_not_damaged(
    own_directory: str, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """It would be replaced with one that has its block stay for ever."""
    with sa.zeros(3, name="held") as held:
        path = record_of("held")
        text = os.readlink(path)
        read_metadata = platform.read_metadata

        def comes(asked: str) -> str | None:
            if asked != str(path) or came:
                return read_metadata(asked)
            came.append(asked)
            path.unlink(missing_ok=True)
            path.symlink_to(text)
            return None  # as it was a moment ago

        for read in (
            lambda: records.read_record(own_directory, "held", mapping_of(held).inode),  # type: ignore[union-attr]
            lambda: records.records(own_directory)[0][2],
        ):
            came: list[str] = []
            if before == "another":
                damage_record(path, "x")
            elif read.__code__.co_names[-1] == "inode":
                path.unlink()
            with monkeypatch.context() as patched:
                patched.setattr(records.record, "written", {})
                patched.setattr(platform, "read_metadata", comes)
                assert read() == records.Record.parse(text)
        assert os.readlink(path) == text


@needs_janitor
def test_a_record_of_a_newer_version_is_left_alone(
    own_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sa.ones(3, name="newer", persist=True).close()
    monkeypatch.setattr(records.record, "written", {})
    path = record_of("newer")
    damage_record(path, "2 array of another kind")
    assert sa.blocks() == []
    assert os.readlink(path) == "2 array of another kind"
    path.unlink()
    os.unlink(f"{own_directory}/newer")


@needs_janitor
def test_a_reference_arrives_though_its_token_leads_elsewhere(own_directory: str) -> None:
    with sa.ones(3, name="sent") as sent, sa.zeros(3, name="other") as other:
        for what in ("empty", "noise", "another block", "a directory"):
            packed = ForkingPickler.dumps(sent)
            (pin_name,) = [each for each in Path(registry()).iterdir() if each.name.startswith("t.")]
            pin_name.unlink()
            if what == "a directory":
                pin_name.mkdir()
            elif what == "another block":
                os.link(f"{own_directory}/{other.name}", pin_name)
            else:
                pin_name.write_bytes(b"noise" * (what == "noise"))
            with pytest.warns(RuntimeWarning, match=re.escape(str(pin_name))) as told:
                assert pickle.loads(packed).sum() == 3
            assert len(told) == 1
            assert not os.path.lexists(pin_name)
        packed = ForkingPickler.dumps(sent)
        (pin_name,) = [each for each in Path(registry()).iterdir() if each.name.startswith("t.")]
        pin_name.unlink()
        pin_name.write_bytes(b"noise")
        with pytest.warns(RuntimeWarning, match=re.escape(str(pin_name))):
            records.sweep(own_directory)
        assert not pin_name.exists()
        assert pickle.loads(packed).sum() == 3


@needs_janitor
@pytest.mark.parametrize("name", ["janitor.sock", "janitor.lock"])
def test_a_foreign_file_with_a_janitors_name_is_moved_away(own_directory: str, name: str) -> None:
    os.makedirs(registry(), 0o700)
    path = Path(registry(), name)
    if name == "janitor.sock":
        path.write_bytes(b"noise")
    else:
        path.mkdir()
    with pytest.warns(RuntimeWarning, match=re.escape(str(path))) as told, sa.zeros(3):
        assert len(told) == 1
    kind = os.lstat(path).st_mode
    assert stat.S_ISSOCK(kind) if name == "janitor.sock" else stat.S_ISREG(kind)


@needs_janitor
def test_a_foreign_file_with_a_wakers_name_is_moved_away(own_directory: str) -> None:
    with sa.zeros(3) as block:
        mapping = block.segment._mapping
        path = Path(records.waker_path(own_directory, mapping.inode, 0))
        path.write_bytes(b"noise")
        other = Waker(mapping, lambda _: 0)
        other.wake(0)  # nothing that waits
        assert path.read_bytes() == b"noise"
        waker = Waker(mapping, lambda _: 0)
        with pytest.warns(RuntimeWarning, match=re.escape(str(path))) as told:
            assert waker.claim(0)
        assert len(told) == 1
        other.wake(0)
        assert waker.wait((), ANSWER) is False
        assert waker.woken
        other.release()
        waker.release()
        for kind in (Path.write_bytes, Path.mkdir):
            kind(path, *([b"noise"] if kind is Path.write_bytes else []))
            damage._reported.clear()
            with pytest.warns(RuntimeWarning, match=re.escape(str(path))):
                records.sweep(own_directory)
            assert not path.exists()


def test_a_free_block_that_another_program_has_cut_off_is_not_used_again(own_directory: str) -> None:
    freelist.clear()
    sa.ones(1 << 20)
    for free in list(freelist._state.blocks.values()):
        os.truncate(free.handle, 0)
    with sa.zeros(1 << 20) as again:
        assert again.sum() == 0
        again += 1
        assert again.sum() == 1 << 20
    freelist.clear()


@needs_janitor
def test_a_table_that_is_cut_off_while_a_process_has_it_mapped(own_directory: str) -> None:
    def lock_all() -> None:
        for lock in locks:
            with lock:
                pass

    with sa.zeros((3, 8)) as array, sa.zeros(8) as other:
        locks = [*(row.lock() for row in array), other.lock()]
        lock_all()
        table = Path(registry(), TABLE)
        for size in (0, 1, 100):
            time.sleep(2 * intent_table._CHECK)
            os.truncate(table, size)
            damage._reported.clear()
            with pytest.warns(RuntimeWarning, match=TABLE) as told:
                lock_all()
            assert len(told) == 1
            assert table.stat().st_size >= 4096
        time.sleep(2 * intent_table._CHECK)
        os.truncate(table, 0)
        damage._reported.clear()
        with pytest.warns(RuntimeWarning, match=TABLE):
            intents.sweep(registry())


@needs_janitor
def test_the_janitor_leaves_a_damaged_table_to_a_process_that_tells_the_user(own_directory: str) -> None:
    folder = registry()
    os.makedirs(folder, 0o700)
    path = Path(folder, TABLE)
    path.write_bytes(b"noise")
    damage.unheard = True
    try:
        records.sweep(own_directory)
    finally:
        damage.unheard = False
    assert path.read_bytes() == b"noise"
    with pytest.warns(RuntimeWarning, match=TABLE):
        records.sweep(own_directory)
    assert not path.exists()
    os.rmdir(folder)


@needs_janitor
def test_a_number_that_is_damaged_as_the_janitor_tidies_is_left_to_such_a_process_too(
    own_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sa.zeros(3, name="held") as held, held.lock():
        path = Path(registry(), TABLE)
        lock, damaged = platform.lock, (1 << 40).to_bytes(8, "little")

        def locked(*arguments: Any, **options: Any) -> bool:
            with path.open("r+b") as file:
                file.write(damaged)
            return lock(*arguments, **options)

        monkeypatch.setattr(damage, "unheard", True)
        with monkeypatch.context() as patched:
            patched.setattr(intents.platform, "lock", locked)
            intents.sweep(registry())
        assert path.read_bytes()[:8] == damaged
        monkeypatch.setattr(damage, "unheard", False)
        with pytest.warns(RuntimeWarning, match="it counts"):
            intents.sweep(registry())
        assert path.read_bytes()[:8] != damaged


# -- a whole life beside each of them -------------------------------------------------------------------

FILES = {
    "a record": "b.held@",
    "a persistent block's record": "b.kept@",
    "a reference on its way": "t.",
    "the table of locks": TABLE,
    "the janitor's lock": "janitor.lock",
    "the janitor's socket": "janitor.sock",
}


# A janitor that has lost its socket ends by itself, in time unless the machine is very slow.
SLOW_JANITOR = pytest.mark.filterwarnings("ignore:sharedarray could not start its janitor:RuntimeWarning")


@contextmanager
def unchanged(path: str) -> Iterator[None]:
    """Lock a table of locks for changes, or the janitor may write a right number into it."""
    if not path.endswith(TABLE):
        yield
        return
    handle = intents.platform.open(path, writable=True)
    try:
        intents.platform.lock(handle, 0, 1, shared=False, wait=True)
        yield
    finally:
        os.close(handle)


def check_damaged(file: str, how: str, seed: int) -> None:
    with holder() as (_, sent):
        (path,) = [str(each) for each in Path(registry()).iterdir() if each.name.startswith(FILES[file])]
        with unchanged(path):
            damage_file(path, how, random.Random(seed))
        told = live(sent)
        told = [each for each in told if "could not start its janitor" not in each]
        assert len(told) <= 1, told
        assert all(path in each for each in told), told
        if how == "noise" and not file.startswith("the janitor's"):
            assert len(told) == 1
        assert sa.attach("kept").sum() == 4000
    wait_until(lambda: block_files() == {"kept"}, "the blocks of the holder are freed", ANSWER)
    sa.unlink("kept")


@needs_janitor
@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("a record", "noise"),
        ("the table of locks", "noise"),
    ],
)
def test_a_life_beside_a_damaged_file(own_directory: str, file: str, how: str) -> None:
    check_damaged(file, how, seed=0)


@needs_janitor
@SLOW_JANITOR
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_life_beside_each_damaged_file(own_directory: str, file: str, how: str, seed: int) -> None:
    check_damaged(file, how, seed)
