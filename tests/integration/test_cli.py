"""The command, as a shell sees it, and its table, whatever the blocks are."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    Puppet,
    blocks_are_files,
    directory,
    environment,
    files_have_modes,
    inode,
    kill_janitors,
    run,
    wait_until,
)
from needs import link, needs_signals, needs_terminals

import sharedarray as sa
from sharedarray import _cli as cli, _cli_files as cli_files
from sharedarray._cli import main
from sharedarray._display import block_table
from sharedarray._platform import platform
from sharedarray._programs import programs_of

COMMAND = (sys.executable, "-m", "sharedarray")
HOLDS = "a = sa.share([[1.5, 2, 3]] * 2, name='frames'); say(); hear()"


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Return the command in a process of its own, whose stdin is no terminal."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        text=True,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env=environment(**options.pop("env", {})),
        timeout=60,
        **options,
    )


def block(**changes: Any) -> sa.BlockInfo:
    """Return what `sa.blocks()` might tell."""
    return sa.BlockInfo(
        **{
            "name": "x",
            "path": "/dev/shm/x",
            "kind": "array",
            "shape": (2, 3),
            "dtype": np.dtype("f4"),
            "order": "C",
            "size": 4120,
            "created": datetime.now(UTC) - timedelta(minutes=3),
            "creator": 4711,
            "creator_alive": True,
            "persistent": False,
            "held": True,
            "holders": (4711,),
            "references": 0,
            **changes,
        }
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[sa.BlockInfo]:
    """Provide the blocks that the command sees in place of the real ones."""
    blocks: list[sa.BlockInfo] = []
    monkeypatch.setattr(sa, "blocks", lambda: blocks)
    monkeypatch.setattr(cli, "programs_of", lambda pids: {})
    monkeypatch.setenv("COLUMNS", "80")
    return blocks


# -- ls and info ----------------------------------------------------------------------------------------


def test_ls_shows_what_a_process_holds():
    with Puppet(HOLDS) as puppet:
        puppet.hear()
        done = shell("ls")
        assert (done.returncode, done.stderr) == (0, "")
        title, line, total = done.stdout.splitlines()
        assert " ".join(title.split()) == "NAME KIND SHAPE DTYPE SIZE AGE MADE BY HOLDERS STATE"
        assert line.split()[:6] == ["frames", "array", "2x3", "float64", "4.0", "KiB"]
        program = programs_of([puppet.pid])[puppet.pid].split()
        assert line.split()[7:] == [str(puppet.pid), *program, "1:", str(puppet.pid), *program, "-"]
        assert total == "1 block, 4.0 KiB"
        puppet.end()


def test_ls_json_is_exact():
    with Puppet(HOLDS) as puppet, sa.zeros(3, "M8[ns]", name="times", persist=True) as times:
        puppet.hear()
        frames, shown = json.loads(shell("ls", "--json").stdout)
        assert frames["name"] == "frames"
        assert frames["path"] == f"{directory()}/frames"
        assert (frames["shape"], frames["dtype"], frames["order"]) == ([2, 3], "float64", "C")
        assert (frames["size"], frames["nbytes"]) == (4096 + 48, 48)
        assert (frames["creator"], frames["creator_alive"], frames["holders"]) == (
            puppet.pid,
            True,
            [puppet.pid],
        )
        assert (frames["held"], frames["persistent"], frames["orphan"], frames["references"]) == (
            True,
            False,
            False,
            0,
        )
        assert datetime.now(UTC) - datetime.fromisoformat(frames["created"]) < timedelta(minutes=1)
        assert (shown["dtype"], shown["persistent"]) == ("datetime64[ns]", True)
        times.unlink()
        puppet.end()


def test_ls_info_and_top_have_the_same_fields_and_name_the_programs(capsys):
    with Puppet(HOLDS) as other, sa.zeros(3, [("x", "f4"), ("y", "U3")], name="records", persist=True) as a:
        other.hear()
        said = {}
        for words in ("ls", "info records", "top --once", "ls --json", "info frames --json", "top --json"):
            assert main(words.split()) == 0
            said[words] = capsys.readouterr().out
        listed, _ = json.loads(said["ls --json"])
        assert listed.items() <= json.loads(said["info frames --json"]).items()
        topped = {block["name"]: block for block in json.loads(said["top --json"])["blocks"]}
        assert topped["frames"] == listed
        assert listed["creator_program"].startswith("python")
        assert listed["holder_programs"] == [listed["creator_program"]]
        for words in ("ls", "info records", "top --once"):
            assert "{x,y}" in said[words]
            assert re.search(rf"\b{os.getpid()} \w", said[words])
            assert re.search(r"^  persist  it persists until", said[words], re.MULTILINE)
        titles = said["ls"].splitlines()[0].split()
        assert [title for title in said["top --once"].splitlines()[1].split() if title != "GROWTH"] == titles
        a.unlink()
        other.end()


def test_a_command_in_a_program(capsys, own_directory):
    from sharedarray import cli

    assert cli.main(["ls"]) == 0
    assert capsys.readouterr().out == "no blocks\n"
    assert "cli" not in dir(sa)


def test_ls_without_blocks(capsys, own_directory):
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == "no blocks\n"
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_info_tells_everything(capsys):
    with sa.zeros((2, 3), "f4", name="x"):
        assert main(["info", "x"]) == 0
        lines = dict(
            line.split(None, 1) for line in capsys.readouterr().out.splitlines() if "made by" not in line
        )
        assert lines["path"] == f"{directory()}/x"
        assert (lines["shape"], lines["dtype"], lines["order"]) == ("(2, 3)", "float32", "C")
        assert lines["size"] == "4.0 KiB (4120 bytes, 24 of them data)"
        assert re.fullmatch(rf"1: {os.getpid()} \S.*", lines["holders"])
        assert re.fullmatch(r"\d+s ago, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", lines["made"])
        assert lines["attach"].startswith("sharedarray.attach('x')")
        assert ("load" in lines) == blocks_are_files()
        if blocks_are_files():
            assert eval(lines["load"], {"numpy": np}).shape == (2, 3)
        assert main(["info", "x", "--json"]) == 0
        assert json.loads(capsys.readouterr().out).get("load") == lines.get("load")


def test_info_of_bytes_tells_how_to_attach_to_bytes(capsys):
    with sa.Segment.create(10, "raw"):
        assert main(["info", "raw"]) == 0
        assert "sharedarray.Segment.attach('raw')" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["info"], ["rm", "--yes"], ["rm", "--dry-run"]])
def test_a_file_that_is_no_block_is_left_alone(capsys, arguments):
    file = Path(directory(), "mine")
    file.write_bytes(b"mine")
    assert main([*arguments, "mine"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "no block of yours" in captured.err
    file.unlink()  # is still there


# -- rm -------------------------------------------------------------------------------------------------


def test_rm_removes_and_warns_of_holders():
    with Puppet(HOLDS) as puppet:
        puppet.hear()
        done = shell("rm", "--yes", "frames")
        assert done.returncode == 0
        assert done.stdout.startswith("removed frames (array 2x3 float64, 4.0 KiB, made ")
        assert "warning" in done.stderr
        assert str(puppet.pid) in done.stderr
        assert not sa.exists("frames")
        puppet.end()


def test_rm_asks_no_question_without_a_terminal():
    with sa.zeros(3, name="x"):
        reading, writing = os.pipe()  # the null device calls itself a terminal on some systems
        os.close(writing)
        with os.fdopen(reading) as nothing:
            done = shell("rm", "x", stdin=nothing)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--yes" in done.stderr
        assert sa.exists("x")


@needs_terminals
@pytest.mark.parametrize(("reply", "status"), [("YES\n", 0), ("\n", 1), ("\x04", 1)])
def test_rm_asks_on_a_terminal(reply, status):
    import pty

    sa.zeros(3, name="x", persist=True).close()
    master, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            [*COMMAND, "rm", "x"],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as process:
            assert process.stderr is not None
            said = b""
            while not said.endswith(b"[y/N] "):
                said += (piece := os.read(process.stderr.fileno(), 1000))
                assert piece, said
            assert b"x (array 3 float64" in said
            os.write(master, reply.encode())
            assert process.wait(60) == status
    finally:
        os.close(master)
        os.close(terminal)
    assert sa.exists("x") == bool(status)
    if status:
        sa.unlink("x")


def test_rm_goes_on_past_what_is_missing(capsys):
    with sa.zeros(3, name="x"), sa.zeros(3, name="y"):
        assert main(["rm", "--yes", "x", "missing", "y", "x"]) == 1
        captured = capsys.readouterr()
        assert [line.split()[:2] for line in captured.out.splitlines()] == [
            ["removed", "x"],
            ["removed", "y"],
        ]
        assert "no block is named 'missing'" in captured.err
        assert [sa.exists(name) for name in "xy"] == [False, False]


def test_rm_dry_run_removes_nothing(capsys):
    with sa.zeros(3, name="x"):
        assert main(["rm", "--dry-run", "x"]) == 0
        assert capsys.readouterr().out.startswith("would remove x ")
        assert sa.exists("x")


def test_rm_leaves_a_block_that_took_the_name_while_it_asked(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    blocks = [sa.zeros(3, name="x")]

    def confirmed(_: Sequence[sa.BlockInfo]) -> bool:
        blocks.pop().unlink()
        blocks.append(sa.zeros(4, name="x"))
        return True

    monkeypatch.setattr(cli, "_confirmed", confirmed)
    assert main(["rm", "x"]) == 1
    assert "another block by now" in capsys.readouterr().err
    assert sa.attach("x").shape == (4,)


# -- prune ----------------------------------------------------------------------------------------------


def test_prune_lists_and_removes_orphans(own_directory):
    # A block that persisted, and does not any more, is left on systems whose kernel frees the others itself.
    made = "a = sa.share([[1.5, 2, 3]] * 2, name='frames', persist=True); a.persist(False)"
    with Puppet(f"{made}; say(); hear()") as puppet, sa.zeros(3, name="kept", persist=True) as kept:
        puppet.hear()
        kill_janitors()
        kept.close()
        puppet.kill()
        listed = shell("ls").stdout
        assert "dead" in listed
        assert "1 orphan, which 'sharedarray prune' removes" in listed
        looked = shell("prune", "--dry-run")
        assert looked.stdout.startswith("would remove frames (array 2x3 float64, 4.0 KiB, made ")
        assert inode("frames") is not None
        done = shell("prune")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("removed frames (array")
        assert done.stdout.endswith("removed 1 block, 4.0 KiB\n")
        assert inode("frames") is None
        assert shell("prune").stdout == "nothing to remove\n"
        sa.unlink("kept")


# -- cp and load ----------------------------------------------------------------------------------------


def test_cp_then_load_gives_the_same_array(tmp_path):
    data = np.asfortranarray(np.arange(3 << 20, dtype=">i4").reshape(3, -1))  # more than one piece
    with sa.share(data, name="x"):
        done = shell("cp", "x", tmp_path / "x.npy")
        assert (done.returncode, done.stderr) == (0, "")
        assert os.listdir(tmp_path) == ["x.npy"]
        assert stat.S_IMODE(os.stat(tmp_path / "x.npy").st_mode) == 0o600 or not files_have_modes()
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), data)
    done = shell("load", "x.npy", "--name", "again", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sharedarray rm again" in done.stdout
    with sa.attach("again") as loaded:  # its maker is gone
        assert (loaded.dtype, loaded.flags.fnc) == (data.dtype, True)
        np.testing.assert_array_equal(loaded, data)
        loaded.unlink()


@pytest.mark.parametrize("by", ["name", "link"])
def test_cp_replaces_a_file_only_with_force(tmp_path, capsys, by):
    file = path = tmp_path / "x.npy"
    file.write_bytes(b"mine")
    if by == "link":
        path = tmp_path / "link.npy"
        link(path, file)
    with sa.ones(3, name="x"):
        assert main(["cp", "x", str(path)]) == 1
        assert file.read_bytes() == b"mine"
        assert capsys.readouterr().err.count("--force") == 1
        assert main(["cp", "x", str(path), "--force"]) == 0
        assert path.is_symlink() == (by == "link")
        assert np.load(file).tolist() == [1, 1, 1]
        assert sorted(os.listdir(tmp_path)) == sorted({path.name, "x.npy"})


def forbid_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the command's links fail as on a file system without them; blocks still get their names."""
    link = os.link

    def only_for_blocks(*names: str, **options: Any) -> None:
        if not options:
            raise PermissionError(1, "Operation not permitted")
        link(*names, **options)

    monkeypatch.setattr(os, "link", only_for_blocks)


@pytest.mark.parametrize("link_fails", [False, True])
def test_cp_refuses_a_file_that_appears_while_it_copies(tmp_path, capsys, monkeypatch, link_fails):
    file = tmp_path / "x.npy"
    write = cli_files.write

    def slow(handle: int, data: memoryview, *shown: object) -> None:
        write(handle, data, *shown)
        file.write_bytes(b"mine")

    monkeypatch.setattr(cli, "write", slow)
    if link_fails:
        forbid_links(monkeypatch)
    with sa.ones(3, name="x"):
        assert main(["cp", "x", str(file)]) == 1
    assert "exists" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["x.npy"]


def test_cp_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    forbid_links(monkeypatch)
    with sa.ones(3, name="x"):
        assert main(["cp", "x", str(tmp_path / "x.npy")]) == 0
    assert np.load(tmp_path / "x.npy").tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == ["x.npy"]


def test_cp_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(handle: int, data: memoryview, *shown: object) -> None:
        os.write(handle, b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "write", full)
    with sa.ones(3, name="x"):
        assert main(["cp", "x", str(tmp_path / "x.npy")]) == 1
    assert capsys.readouterr().err == "sharedarray: error: No space left on device\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (os.devnull, "no regular file"),
        ("{}", "a directory"),
        ("{}/no/x.npy", "no such directory"),
        ("{}/y", "a block"),
    ],
)
def test_cp_replaces_no_device_directory_or_block(capsys, target, said):
    with sa.ones(3, name="x"), sa.zeros(3, name="y") as other:
        before = inode("y")
        assert main(["cp", "x", target.format(directory()), "--force"]) == 1
        assert said in capsys.readouterr().err
        assert inode("y") == before
        assert sa.attach("y").tolist() == other.tolist()


def test_cp_of_bytes_is_an_error(tmp_path, capsys):
    with sa.Segment.create(10, "raw"):
        assert main(["cp", "raw", str(tmp_path / "raw.npy")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_cp_says_what_to_do_with_what_is_no_array(tmp_path, capsys):
    stream, event = sa.Stream("s", (2,)), sa.Event("e")
    with sa.group("g", {"a": (3, "f4")}), sa.zeros(3, name="x"):
        for name, file, cure in (
            ("s", "s.npy", "sharedarray record s FILE.npy"),
            ("e", "e.npy", "has no data"),
            ("g", "g.npz", r"numpy.savez\('.*g.npz', \*\*sharedarray.attach\('g'\)\)"),
            ("x", "x.NPZ", r"numpy.savez\('.*x.NPZ', sharedarray.attach\('x'\)\)"),
        ):
            assert main(["cp", name, str(tmp_path / file)]) == 2
            assert re.search(cure, capsys.readouterr().err), name
        assert os.listdir(tmp_path) == []
        assert main(["ls"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("e ")]
    assert re.match(r"e +event +- +- ", line)  # not the shape of its control page
    stream.close()
    event.close()


@pytest.mark.skipif(not platform.LENGTHENS, reason="blocks keep their size here")
def test_capacity_and_versions_are_shown(capsys):
    with (
        sa.zeros((0, 4), "i8", name="log", capacity=12_000) as log,
        sa.zeros(3, name="weights") as weights,
        sa.group("net", {"w": (3, "f4")}) as net,
    ):
        log.append([1, 2, 3, 4])
        for array in (weights, net, net):
            with array.update():
                pass
        shown = {
            "log": "capacity 12,000 rows",
            "weights": "version 1 in 3 buffers",
            "net": "version 2 in 3 buffers",
        }
        for command in (["ls"], ["top", "--once"]):
            assert main(command) == 0
            lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
            assert all(lines[name].endswith(text) for name, text in shown.items())
        assert repr(sa.blocks()).count("in 3 buffers") == 2
        for name, text in shown.items():
            assert main(["info", name]) == 0
            title, _, rest = text.partition(" ")
            assert f"\n{title:<11} {rest}\n" in capsys.readouterr().out
            assert f">{rest}<" in sa.attach(name)._repr_html_()
        found = {}
        for name in shown:
            assert main(["info", name, "--json"]) == 0
            block = json.loads(capsys.readouterr().out)
            found[name] = block["capacity"], block["version"], block["buffers"]
        assert found == {"log": (12_000, None, None), "weights": (None, 1, 3), "net": (None, 2, 3)}
        assert repr(log) == "SharedArray([[1, 2, 3, 4]], name='log', capacity=12000)"
        assert repr(weights) == "SharedArray([0., 0., 0.], name='weights', version=1)"
        assert repr(net).startswith("<Group 'net': 1 member, 12 B, version 2 in 3 buffers>")
        assert "version" not in repr(weights[1:])


def test_ls_info_and_top_have_the_same_fields(capsys):
    held = (
        sa.zeros(3, name="a"),
        sa.group("g", {"x": (3, "f4")}),
        sa.put(1, name="o"),
        sa.Segment.create(9, "r"),
    )
    for name in "agor":
        found = []
        for command in (["ls"], ["info", name], ["top", "--once"]):
            assert main([*command, "--json"]) == 0
            shown = json.loads(capsys.readouterr().out)
            blocks = shown if command == ["ls"] else shown.get("blocks", [shown])
            found += [list(block) for block in blocks if block["name"] == name]
        assert found[0] == found[1] == found[2]
        assert {"attach", "load"} < set(found[0])
    del held


def test_replay_of_what_is_no_array_has_a_cure(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    np.save(tmp_path / "o.npy", np.array([1, {}], object))
    (tmp_path / "x.txt").write_text("1 2 3")
    (tmp_path / "e.npy").touch()
    sa.share_group(None, {"a": np.zeros(3)}, file=tmp_path / "g.npy").close()
    for file, cure in (
        ("x.npz", r"np.load\('.*x.npz'\)\['a'\]"),
        ("o.npy", "store it with a dtype of numbers"),
        ("x.txt", "genfromtxt"),
        ("e.npy", "it is empty"),
        ("g.npy", "is a group"),
        ("missing.npy", "check the path"),
    ):
        assert main(["replay", str(tmp_path / file), "played"]) in (1, 2)
        said = capsys.readouterr().err
        assert re.search(cure, said), said
        assert said.count("\n") == 1
    assert not sa.exists("played")


@needs_signals
def test_load_hold_keeps_the_block_until_ctrl_c(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5))
    with subprocess.Popen(
        [*COMMAND, "load", tmp_path / "x.npy", "--name", "x", "--hold"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("holding ")
        with sa.attach("x") as attached:
            assert attached.tolist() == [0, 1, 2, 3, 4]
        [found] = [found for found in sa.blocks() if found.name == "x"]
        assert (found.holders, found.persistent) == ((process.pid,), False)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "\nsharedarray: interrupted\n")
    assert not sa.exists("x")


def test_load_hold_that_is_terminated_leaves_nothing(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5))
    with subprocess.Popen(
        [*COMMAND, "load", tmp_path / "x.npy", "--name", "x", "--hold"],
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
    wait_until(lambda: not sa.exists("x"), "the block goes with its holder")


def test_load_replaces_a_block_only_if_told(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.arange(5))
    with sa.zeros(3, name="x") as old:
        assert main(["load", str(tmp_path / "x.npy"), "--name", "x"]) == 1
        said = capsys.readouterr().err
        assert "--replace" in said
        assert "replace=" not in said
        assert sa.attach("x").shape == (3,)
        assert main(["load", str(tmp_path / "x.npy"), "--name", "x", "--replace"]) == 0
        assert sa.attach("x").tolist() == [0, 1, 2, 3, 4]
        assert old.tolist() == [0, 0, 0]
    sa.unlink("x")


CURES = {
    "many.npz": r"arrays \(first, second\).*np\.save\('first\.npy', np\.load\('many\.npz'\)\['first'\]\)",
    "objects.npy": r"sharedarray\.put\(numpy\.load\('objects\.npy', allow_pickle=True\), name='y'\)",
    "table.csv": r"np\.save\('FILE\.npy', np\.genfromtxt\('table\.csv'\)\)",
    "cut.npy": "it was cut off or damaged",
    "empty.npy": "it is empty",
    "image.png": "read it with the library for its format",
    "missing.npy": "check the path",
    ".": "name the file in it",
}


@pytest.mark.parametrize("file", CURES)
def test_load_tells_a_cure_for_a_file_that_is_no_array(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("many.npz", first=np.arange(5), second=np.ones(3))
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    np.save("cut.npy", np.arange(500))
    os.truncate("cut.npy", 1000)
    for name, content in {"table.csv": b"1,2\n", "empty.npy": b"", "image.png": b"\x89PNG" * 200}.items():
        Path(name).write_bytes(content)
    assert main(["load", file, "--name", "y"]) == 1
    said = capsys.readouterr().err
    assert re.search(CURES[file], said)
    assert said.count("\n") == 1
    if match := re.search('python -c "(.*)"$', said.rstrip()):
        exec(match[1])  # the cure works
        made = "first.npy" if file == "many.npz" else "FILE.npy"
        assert main(["load", made, "--name", "y"]) == 0
        sa.unlink("y")
    assert not sa.exists("y")


@pytest.mark.parametrize(
    "words", ["ls foo", "ls --nonsense", "prune foo", "top foo", "info x y", "bench foo", "demo --nonsense"]
)
def test_wrong_usage_shows_the_usage_of_the_command(words, capsys):
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    command = words.split()[0]
    assert said.startswith(f"usage: sharedarray {command} ")
    assert f"sharedarray {command}: error: unrecognized arguments: {words.split()[-1]}" in said


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        ("top x", "'sharedarray info NAME' shows one block"),
        ("prune x", "'sharedarray rm NAME' removes one block"),
        ("demo --quik", "Did you mean --quick?"),
        ("prune --dryrun", "Did you mean --dry-run?"),
        ("lss", "did you mean 'ls'?"),
        ("unlink x", "did you mean 'rm'?"),
    ],
)
def test_wrong_usage_says_what_was_probably_meant(words, cure, capsys):
    assert main(words.split()) == 2
    assert cure in capsys.readouterr().err


def test_messages_speak_of_options_and_not_of_keywords(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.arange(5))
    file = str(tmp_path / "x.npy")
    wrong = [
        ["info", "missing"], ["info", "a/b"], ["rm", "-y", "missing", ""], ["cp", "missing", "new.npy"],
        ["cp", "a/b", "new.npy"], ["cp", "bytes", "new.npy"], ["load", "missing.npy", "--name", "y"],
        ["load", file, "--name", "bytes"], ["load", file, "--name", "a/b"], ["load", file, "--name", ""],
    ]  # fmt: skip
    with sa.Segment.create(10, "bytes"):
        for words in wrong:
            assert main(words) == 1
            said = capsys.readouterr().err
            assert "Next step: " in said, words
            assert not re.search(r"\w=|sharedarray\.\w|\w\(", said.partition("Next step: ")[2]), said


def test_load_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "x.npy", np.arange(5))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    np.savez(tmp_path / "zip.npz", np.arange(5))
    with sa.zeros(3, name="taken"):
        for file, name in [
            ("missing.npy", "y"),
            ("text.npy", "y"),
            ("objects.npy", "y"),
            ("zip.npz", "y"),
            ("", "y"),
            ("x.npy", "taken"),
            ("x.npy", "a/b"),
        ]:
            assert main(["load", str(tmp_path / file), "--name", name]) == 1
            captured = capsys.readouterr()
            assert captured.out == ""
            assert captured.err.startswith("sharedarray: error: ")
            assert captured.err.count("\n") == 1
        assert sa.attach("taken").shape == (3,)
    assert not sa.exists("y")


# -- demo -----------------------------------------------------------------------------------------------


def test_demo_shows_its_options(capsys):
    assert main(["demo", "--help"]) == 0
    assert "--workers" in capsys.readouterr().out


def test_demo_runs_the_demo(monkeypatch):
    monkeypatch.setattr("sharedarray._demo.run", lambda args: 40 + args.workers)
    assert main(["demo", "--workers", "2"]) == 42


def test_other_commands_do_not_import_the_demo():
    done = run(
        "import sys; from sharedarray._cli import main; main(['ls']);"
        " print('sharedarray._demo' in sys.modules)"
    )
    assert done.stdout.endswith("False\n")


# -- the shell ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["ls", "--nonsense"],
        ["rm"],
        ["load", "x.npy"],
        ["load", "x", "--name", "x", "--hold", "--persist"],
    ],
)
def test_wrong_usage_is_2(capsys, arguments):
    assert main(arguments) == 2
    assert "usage: sharedarray" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", "../x", "", "a/b", "x" * 300, "a\nb\x1b[31m"])
def test_an_error_is_one_line_and_1(capsys, name):
    assert main(["info", name]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sharedarray: error: ")
    assert captured.err[:-1].isprintable()


def test_an_error_shows_no_traceback():
    done = shell("info", "missing")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Traceback" not in done.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sharedarray ")


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["ls", "--json"], ["--help"]])
def test_a_reader_that_goes_away_is_no_trouble(buffered, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone, sa.zeros(3, name="x"):
        done = shell(*arguments, stdout=gone, env={"PYTHONUNBUFFERED": buffered})
    assert done.returncode in (141, 0)  # argparse forgives it for its own output
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full here")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_an_output_that_is_full_is_an_error(buffered):
    with open("/dev/full", "wb") as full, sa.zeros(3, name="x"):
        done = shell("ls", stdout=full, env={"PYTHONUNBUFFERED": buffered})
    assert (done.returncode, done.stderr) == (1, "sharedarray: error: No space left on device\n")


# -- the table ------------------------------------------------------------------------------------------

WORST: dict[str, Any] = {
    "name": "a_very_long_name_" * 12,
    "kind": "shared_memory",
    "shape": (1000000, 1000000, 3),
    "dtype": np.dtype([(f"field{number}", "f4") for number in range(100)]),
    "size": 1023 << 40,
    "created": datetime.now(UTC) - timedelta(days=999, hours=1),
    "creator": 4194304,
    "creator_alive": False,
    "persistent": True,
    "holders": tuple(range(4194200, 4194300)),
    "references": 12345,
}


@pytest.mark.parametrize("width", [10, 80, 100, 120, 2000])
def test_the_table_fits(seen, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    seen += [block(**WORST), block(), block(name="日本" * 60)]
    assert main(["ls"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()[:-1]
    assert all(block_table.columns(line) <= max(80, width) for line in [title, *lines])
    assert "…" in lines[0] if width < 2000 else lines[0].startswith(WORST["name"])
    assert "1023 TiB  999d  4194304 dead" in lines[0]
    state = title.index("MADE BY")  # columns stand under their titles
    assert lines[0][state:].startswith("4194304 dead")
    assert lines[1][state:].startswith("4711 ")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_leaves_columns_out(seen, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    seen += [block(**WORST), block(name="short", held=False, holders=())]
    assert main(["ls"]) == 0
    title, first, second, *_ = capsys.readouterr().out.splitlines()
    assert all(block_table.columns(line) <= width for line in (title, first, second))
    assert title.startswith("NAME")
    assert second.startswith("short")
    assert "SIZE" in title
    assert ("KIND" in title) == (width == 80)


def test_ordinary_blocks_are_not_cut(seen, capsys):
    seen.append(block(name="sa_0123456789ab", shape=(2000, 1000), dtype=np.dtype("i2")))
    assert main(["ls"]) == 0
    line = " ".join(capsys.readouterr().out.splitlines()[1].split())
    assert line == "sa_0123456789ab array 2000x1000 int16 4.0 KiB 3m 4711 1: 4711 -"


def test_names_cannot_steer_the_terminal(seen, capsys):
    seen += [block(name="a\x1b[2Jb\nc"), block(name="\u202egnp"), block(name="\udcff")]
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["a\\x1b[2Jb\\nc", "\\u202egnp", "\\udcff"]
    assert main(["ls", "--json"]) == 0
    assert [shown["name"] for shown in json.loads(capsys.readouterr().out)] == [shown.name for shown in seen]


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({"holders": ()}, "4711 unseen -"),
        ({"holders": (), "held": False}, "4711 0 orphan"),
        ({"holders": (), "held": False, "references": 1}, "4711 0 1 ref"),
        ({"holders": (), "held": False, "keeper": 5}, "4711 0 kept"),
        ({"persistent": True, "creator_alive": False, "references": 2}, "4711 dead 1: 4711 persist, 2 refs"),
        ({"holders": (1, 2, 3, 4, 5)}, "4711 5: 1, 2, 3, +2 -"),
    ],
)
def test_holders_and_state(seen, capsys, changes, cells):
    seen.append(block(**changes))
    assert main(["ls"]) == 0
    assert " ".join(capsys.readouterr().out.splitlines()[1].split()[7:]) == cells


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10189, "10 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1023 << 30, "1023 GiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_sizes(size, text):
    assert cli.human(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (59.9, "59s"), (60, "1m"), (86399, "23h"), (864000, "10d")]
)
def test_ages(seconds, text):
    now = datetime.now(UTC)
    assert cli.age(now - timedelta(seconds=seconds), now) == text


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="no holes here")
def test_cp_keeps_the_holes_of_an_array_with_a_capacity(tmp_path):
    if not blocks_are_files():
        pytest.skip("a block here is no file")
    capacity = 1 << 25
    target = tmp_path / "log.npy"
    with sa.zeros(0, "u1", name="log", capacity=capacity) as log:
        log.append(np.arange(5, dtype="u1"))
        block = Path(directory(), "log")
        before = block.stat().st_blocks
        assert main(["cp", "log", str(target)]) == 0
        assert block.stat().st_blocks == before  # the holes were not even read
    assert target.stat().st_size > capacity
    assert target.stat().st_blocks * 512 < capacity // 4
    assert np.load(target).tolist() == [0, 1, 2, 3, 4]
    with sa.open(target) as log:
        log.append(np.array([5], "u1"))
        assert log.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("Stream", lambda: sa.Stream("made", (3,), "f8")),
        ("Event", lambda: sa.Event("made")),
        ("Semaphore", lambda: sa.Semaphore("made", 1)),
        ("Condition", lambda: sa.Condition("made")),
        ("Barrier", lambda: sa.Barrier("made", 2)),
    ],
)
def test_info_tells_how_to_attach_to_what_is_no_array(capsys, kind, make):
    with closing(make()):
        assert main(["info", "made"]) == 0
        out = capsys.readouterr().out
    assert f"sharedarray.{kind}('made')" in out
    assert "sharedarray.attach(" not in out
    assert "numpy.load" not in out
