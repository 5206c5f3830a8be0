"""Files beside the blocks that another program has damaged: they are moved away, and all else goes on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import TABLE, Puppet, block_files, environment, registry, wait_until
from needs import needs_janitor

import sharedarray as sa
from sharedarray import _damage as damage, _intents as intents, _registry as records
from sharedarray._intents import COUNT, Table
from sharedarray._platform import platform

KEY = 4711
WORD = 8
ONES = (1 << 64) - 1


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "_reported", set())


@pytest.fixture
def expects_warnings() -> Iterator[None]:
    """Damage is reported as a warning, which is an error elsewhere in these tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is damaged", RuntimeWarning)
        yield


# -- the table of locks ---------------------------------------------------------------------------------


def filled(folder: str) -> Path:
    """Return the path of a table in which a process that is gone has left intents."""
    table = Table.open(folder)
    for number in range(20):
        at = table.claim(f"{folder}/of-{number % 3}")
        intents.prepare(table.words, at, KEY + number % 3, number, number + 5)
        table.words[at] = KEY + number % 3
    table.close()
    return Path(table.path)


def use(folder: str) -> None:
    """Do with a table all that processes do with it."""
    table = Table.open(folder)
    try:
        at = table.claim(f"{folder}/used")
        table.has_intent(KEY, 0, 100)
        intents.prepare(table.words, at, KEY, 0, 1 << 40)
        table.words[at] = KEY
        assert table.has_intent(KEY, 0, 1)
        table.take_over(KEY, 0, 1 << 40, at)
        assert table._over(KEY, 0, 1 << 40) == [at]
        table.words[at] = 0
        assert not table.has_intent(KEY, 0, 1 << 40)
    finally:
        table.close()
    intents.sweep(folder)
    again = Table.open(folder)
    assert again.words[COUNT] <= os.stat(again.path).st_size // 256
    again.close()
    intents.sweep(folder)


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 60)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def noise(data: bytearray, chance: random.Random) -> None:
    start = chance.choice([0, chance.randrange(len(data))])
    end = chance.randrange(start, len(data)) + 1
    data[start:end] = chance.randbytes(end - start)


def cut_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.choice([0, 1, 7, 32, 4095, 4096, chance.randrange(len(data))]) :]


def lengthen(data: bytearray, chance: random.Random) -> None:
    data.extend(chance.randbytes(chance.choice([1, 100, 4096, 40_000])))


def words(data: bytearray, chance: random.Random) -> None:
    """Put numbers at the limits into the count, the number of edits, or any other word."""
    for at in (0, WORD, WORD * chance.randrange(1 + len(data) // WORD)):
        number = chance.choice([0, 1, 2, 15, 16, 10_000, 1 << 20, 1 << 32, 1 << 63, ONES - 1, ONES])
        data[at : at + WORD] = number.to_bytes(WORD, sys.byteorder)


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip_bits, noise, cut_off, lengthen, words]


def damage_a_table_and_use_it(folder: Path, rounds: int, first: int = 0) -> None:
    path = filled(str(folder))
    whole = path.read_bytes()
    for seed in range(first, first + rounds):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2])):
            if data:
                chance.choice(DAMAGES)(data, chance)
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            use(str(folder))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        path.unlink(missing_ok=True)


@pytest.mark.usefixtures("expects_warnings")
def test_any_bytes_in_the_table_of_locks_are_survived(tmp_path: Path) -> None:
    damage_a_table_and_use_it(tmp_path, 150)


@pytest.mark.slow
@pytest.mark.usefixtures("expects_warnings")
def test_many_more_bytes_in_the_table_of_locks_are_survived(tmp_path: Path) -> None:
    damage_a_table_and_use_it(tmp_path, 5_000, first=1_000)


@pytest.mark.parametrize("count", [0, 1, 16, 10_000, 1 << 63, ONES])
@pytest.mark.usefixtures("expects_warnings")
def test_a_damaged_count_hides_no_intent_from_a_process_that_locks(tmp_path: Path, count: int) -> None:
    table, dead = Table.open(str(tmp_path)), Table.open(str(tmp_path))
    own = [table.claim("") for _ in range(2)]
    at = dead.claim("")
    intents.prepare(dead.words, at, KEY, 3, 9)
    dead.words[at] = KEY
    dead.close()
    table.words[COUNT] = count
    assert table.has_intent(KEY, 0, 4)
    assert not table.has_intent(KEY, 9, 10)
    assert at // 32 <= table.words[COUNT] <= 15
    assert table.claim("") not in (*own, at)
    table.close()


@pytest.mark.parametrize("number", [ONES, ONES - 1, 1 << 63, 7])
def test_a_damaged_number_of_edits_is_survived(tmp_path: Path, number: int) -> None:
    filled(str(tmp_path))
    table = Table.open(str(tmp_path))
    table.words[1] = number
    assert table.has_intent(KEY, 0, 4)
    at = table.claim("")
    intents.prepare(table.words, at, KEY, 0, 100)
    table.words[at] = KEY
    table.words[1] = number
    table.take_over(KEY, 0, 100, at)
    assert table.words[1] % 2 == 0
    assert table._over(KEY, 0, 100) == [at]
    table.words[at] = 0
    table.close()


def test_a_sweep_drops_intents_that_are_noise(tmp_path: Path) -> None:
    path = filled(str(tmp_path))
    data = bytearray(path.read_bytes())
    data[256:] = random.Random(1).randbytes(len(data) - 256)
    path.write_bytes(data)
    intents.sweep(str(tmp_path))
    assert not path.exists()


def no_regular_file(path: Path, kind: str) -> socket.socket | None:
    """Put something else than a file at a path; yield the open socket, if it is one."""
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "full directory":
        path.mkdir()
        (path / "inside").write_text("x")
    elif kind == "link":
        path.symlink_to("/dev/null")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch(0o600)
    elif kind == "huge":
        path.touch(0o600)
        os.truncate(path, 1 << 40)
    elif kind == "text":
        path.write_text("written by another program\n" * 3)
    elif kind == "open to others":
        path.write_bytes(bytes(4096))
        path.chmod(0o666)
    else:
        assert kind == "socket"
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(path))
        return made
    return None


KINDS = ["directory", "full directory", "link", "loop", "pipe", "empty", "huge", "text", "socket"]
needs_kinds = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are files and directories only")


@needs_kinds
@pytest.mark.parametrize("kind", [*KINDS, "open to others"])
def test_a_file_that_is_no_table_is_moved_away_with_one_warning(tmp_path: Path, kind: str) -> None:
    path = tmp_path / TABLE
    opened = no_regular_file(path, kind)
    try:
        with pytest.warns(RuntimeWarning, match=TABLE) as told:
            table = Table.open(str(tmp_path))
        assert len(told) == 1
        assert not table.has_intent(KEY, 0, 100)
        table.close()
        intents.sweep(str(tmp_path))
        assert not path.exists()
    finally:
        if opened is not None:
            opened.close()


@needs_kinds
@pytest.mark.usefixtures("expects_warnings")
@pytest.mark.parametrize("kind", [*KINDS, "open to others"])
def test_a_sweep_moves_a_file_away_that_is_no_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / TABLE
    opened = no_regular_file(path, kind)
    try:
        intents.sweep(str(tmp_path))
    finally:
        if opened is not None:
            opened.close()
    assert not os.path.lexists(path)


# -- notes, pins, the janitor's files -----------------------------------------------------------------


def names_of(block: sa.SharedArray) -> list[str]:
    """Return the names under which the registry keeps something about a block, and some that look like it."""
    inode = os.stat(f"{records.directory()}/{block.name}").st_ino
    pin = f"t.{inode}.999999999.1.60000.ab"
    return [
        f"b.other@{inode}",
        f"b.@{inode}",
        f"b...@{inode}",
        "b.none@²",
        f"b.none@{'9' * 200}",
        pin,
        f"d.{pin}",
        f"s.{inode}.-1.-1.60000.any",
        f"d.s.{inode}.-1.-1.60000.any",
        f"t.{'9' * 40}.{'9' * 40}.1.{'9' * 100}.x",
        "t.²..1.-5.x",
        "t.1.1.1.nan.x",
        "d.",
        "d.t",
        "n.",
        "n.².x",
        "n.999999999.x",
        "janitor.lock",
        "janitor.sock",
        TABLE,
    ]


TEXTS = ["", " ", "nan", "inf", "-1", "1e300", "x", "1", "1 array 1 1 1.0 k..", "1 array 1 1 1.0 o9.9.9",
         "1 array -1 -1 nan 0", "1 array 99999999999999999999 1 1.0 0", "²", "\ud800", "x" * 4000,
         "1 array 1 1 1.0 k" + "9" * 3000 + ".1.1"]  # fmt: skip


def damage_the_registry(folder: Path, names: list[str], chance: random.Random) -> list[socket.socket]:
    opened = []
    for name in chance.sample(names, chance.randrange(1, len(names))):
        kind = chance.choice([*KINDS, "note", "note", "note"])
        path = folder / name
        damage.quarantine(str(path))
        if kind == "note":
            try:
                os.symlink(chance.choice(TEXTS) or "-", path)
            except UnicodeEncodeError:
                os.symlink(b"\xed\xa0\x80\xff", os.fsencode(path))
        elif len(name) < 60:
            made = no_regular_file(path, kind)
            opened += [made] * (made is not None)
    return opened


def damage_a_registry_and_use_it(directory: str, rounds: int, first: int = 0) -> None:
    """Sweep, list, create and lock beside damaged files, and compare what is there with what should be."""
    folder = Path(registry(directory))
    with sa.full(1000, 7.0, name="kept_all_along") as kept:
        names = names_of(kept)
        for seed in range(first, first + rounds):
            intents._release_all()
            chance = random.Random(seed)
            opened = damage_the_registry(folder, names, chance)
            try:
                records.sweep(directory)
                assert "kept_all_along" in {block.name for block in sa.blocks()}
                with sa.ones(3, name="made_beside_damage") as made, made.lock(timeout=60):
                    assert made.sum() == 3
                assert not sa.exists("made_beside_damage")
                assert float(kept.sum()) == 7000
                sa.prune()
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            finally:
                for each in opened:
                    each.close()
        for path in folder.iterdir():
            if path.name != f"b.kept_all_along@{os.stat(f'{directory}/kept_all_along').st_ino}":
                assert damage.quarantine(str(path))
        for path in folder.glob("damaged.*"):
            (path / "inside").unlink()
            path.rmdir()
    intents._release_all()


@needs_kinds
@needs_janitor
@pytest.mark.usefixtures("expects_warnings")
def test_damaged_files_of_the_registry_stop_nothing(own_directory: str) -> None:
    damage_a_registry_and_use_it(own_directory, 12)


@needs_kinds
@needs_janitor
@pytest.mark.slow
@pytest.mark.usefixtures("expects_warnings")
def test_many_more_damaged_files_of_the_registry_stop_nothing(own_directory: str) -> None:
    damage_a_registry_and_use_it(own_directory, 300, first=1_000)


@pytest.mark.parametrize("text", ["x", "nan", "-5", "inf", "9" * 30])
def test_a_damaged_time_of_a_reference_starts_anew(own_directory: str, text: str) -> None:
    with sa.zeros(3, persist=True, name="waits") as array:
        inode = os.stat(f"{own_directory}/waits").st_ino
        pin = f"t.{inode}.999999999.1.60000.ab"
        os.link(f"{own_directory}/waits", records.pin_path(own_directory, pin))
        note = f"{registry()}/d.{pin}"

        def written():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(note)
            try:
                platform.write_metadata(note, text)
            except FileExistsError:  # the janitor was faster
                return False
            return True

        wait_until(written, "a damaged time stands there")
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".* is damaged", RuntimeWarning
            )  # unless the janitor was faster
            assert records.sweep(own_directory).work >= 1
        wait_until(lambda: (platform.read_metadata(note) or text) != text, "a new time is there")
        assert records.Moment.parse(str(platform.read_metadata(note))).created > 0
        os.unlink(records.pin_path(own_directory, pin))
        records.sweep(own_directory)
        array.unlink()


@needs_janitor
def test_a_killed_programs_block_is_freed_beside_damaged_files(own_directory: str) -> None:
    folder = Path(registry())
    with Puppet("a = sa.zeros(10, name='of_the_killed'); say(1); hear()") as puppet:
        puppet.hear()
        (folder / TABLE).write_bytes(b"\xff" * 5000)
        os.symlink("nothing of ours", folder / "d.t.1.1.1.60000.ab")
        os.link(f"{own_directory}/of_the_killed", folder / "t.1.1.1.60000.ab")
        (folder / "b.directory@12").mkdir()
        puppet.kill()
        wait_until(lambda: "of_the_killed" not in block_files(), "the janitor frees it")
    for name in ("d.t.1.1.1.60000.ab", "t.1.1.1.60000.ab", "b.directory@12", TABLE):
        assert damage.quarantine(str(folder / name))


@needs_janitor
def test_a_program_ends_in_order_though_the_table_is_damaged(own_directory: str) -> None:
    script = f"""
import sharedarray as sa
from helpers import kill_janitors
array = sa.ones(3)
with array.lock():
    pass
kill_janitors()  # a janitor that looks at the table would correct it first
path = {registry() + "/" + TABLE!r}
with open(path, "r+b") as file:
    file.write(b"\\xff" * 4096)
with array.lock(timeout=60):
    print(int(array.sum()))
kept = sa.zeros(5, name="left_by_the_program")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "3\n")
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("RuntimeWarning") == 1
    assert TABLE in ran.stderr
    assert not sa.exists("left_by_the_program")


@needs_janitor
@pytest.mark.parametrize("options", [(), ("-W", "error")])
def test_prune_names_the_damaged_file(own_directory: str, options: tuple[str, ...]) -> None:
    os.makedirs(registry(), 0o700)
    Path(registry(), TABLE).write_bytes(b"x" * 5000)
    ran = subprocess.run(
        [sys.executable, *options, "-m", "sharedarray", "prune"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count(f"{TABLE} is damaged") == 1
    os.rmdir(registry())


def test_damage_is_reported_once_and_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(RuntimeWarning, match="some/file is damaged") as told:
        damage.report("some/file", "noise", "it is ignored")
    assert len(told) == 1
    damage.report("some/file", "noise", "it is ignored")
    damage.report("other/file", "noise", "it is ignored")  # warnings are errors here
    assert "other/file" in capsys.readouterr().err


def test_reports_are_bounded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [
            threading.Thread(target=lambda n=n: [damage.report(f"{n}/{k}", "", "") for k in range(500)])
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(damage._reported) <= damage._MOST_REPORTED + len(threads)
