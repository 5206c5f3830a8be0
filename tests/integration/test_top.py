"""``sharedarray top``, driven in a real terminal whose screen is read, and its parts by themselves."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from consoles import Console, needs_screens
from helpers import ANSWER, Puppet, block_files, environment, kill_janitors
from needs import needs_janitor

import sharedarray as sa
from sharedarray import _top as top

COMMAND = (sys.executable, "-m", "sharedarray", "top")


needs_rich = pytest.mark.skipif(
    importlib.util.find_spec("rich") is None, reason="needs rich: pip install 'numpy-sharedarray[top]'"
)


class Terminal(Console):
    """A console at which the command runs."""

    def __init__(self, *arguments: str, columns: int = 110, lines: int = 24) -> None:
        env = environment(TERM="xterm-256color", COLUMNS="40")
        super().__init__([*COMMAND, *arguments], columns=columns, lines=lines, env=env)

    def names(self, rows: list[str]) -> list[str]:
        """Return names of the blocks, in the order of the lines."""
        return [row.split()[0] for row in rows[2:-1] if row.strip()]

    def ends(self, status: int = 0) -> None:
        """Wait for its end; the terminal must be as it was before."""
        assert self.ended() == status, self.raw[-2000:]
        assert self.restored()


@needs_screens
@needs_rich
def test_it_draws_sorts_removes_resizes_and_quits() -> None:
    held = [
        sa.zeros(size, name=name) for name, size in (("alpha", 1000), ("beta", 300_000), ("gamma", 20_000))
    ]
    with Terminal("--interval", "0.2") as seen:
        rows = seen.shows(lambda rows: "gamma" in "\n".join(rows), "it draws")
        assert rows[0].startswith("3 blocks, 2.5 MiB, 0 orphans; ")
        assert " used" in rows[0]
        assert " free" in rows[0]
        assert "SIZE ▼" in rows[1]
        assert seen.names(rows) == ["beta", "gamma", "alpha"]
        assert f"1: {os.getpid()}" in rows[2]
        assert "300000" in rows[2]
        assert "float64" in rows[2]
        assert "2.3 MiB" in rows[2]
        assert rows[-1].startswith("sort: ")

        seen.type("n")
        seen.shows(lambda rows: seen.names(rows) == ["alpha", "beta", "gamma"], "it sorts by name")
        seen.type("n")
        seen.shows(lambda rows: seen.names(rows) == ["gamma", "beta", "alpha"], "and backwards")

        # A block that is new or grows is shown without a key.
        more = sa.zeros(1_000_000, name="delta")
        seen.shows(lambda rows: "4 blocks" in rows[0] and any("B/s" in row for row in rows), "it looks again")
        seen.shows(lambda rows: not any("B/s" in row for row in rows), "nothing grows any more")

        # The selection stays with its block: gamma is the first by name backwards, and the second by size.
        seen.type("ns")
        seen.shows(lambda rows: seen.names(rows)[0] == "delta", "by size again")
        seen.type("\x1b[H\x1b[B")  # Home, down
        seen.type("d")
        rows = seen.shows(lambda rows: "Remove beta (2.3 MiB, held by 1" in rows[-1], "it asks")
        seen.type("n")
        seen.shows(lambda rows: "nothing was removed" in rows[-1], "no is no")
        assert "beta" in block_files()
        seen.type("d")
        seen.shows(lambda rows: "Remove beta" in rows[-1], "it asks again")
        seen.type("y")
        seen.shows(lambda rows: seen.names(rows) == ["delta", "gamma", "alpha"], "it removes")
        assert block_files() == {"alpha", "gamma", "delta"}

        # A new size is drawn at once, with the less important columns left out.
        seen.resize(56, 8)
        rows = seen.shows(lambda rows: "NAME" in rows[1] and "SHAPE" not in rows[1], "it is drawn narrower")
        assert rows[-1] == "removed 1"
        assert all(len(row) <= 56 for row in rows)
        seen.type("k")  # how the last thing ended is shown until the next key
        seen.resize(140, 30)
        seen.shows(lambda rows: "DTYPE" in rows[1] and rows[29].startswith("sort: "), "and wider")

        seen.type("q")
        seen.ends()
    del held, more


@needs_screens
@needs_rich
@pytest.mark.slow
def test_many_blocks_scroll_and_ctrl_c_quits() -> None:
    held = [sa.zeros(10, name=f"block_{number:02}") for number in range(40)]
    with Terminal("--sort", "name", lines=12) as seen:
        seen.shows(lambda rows: seen.names(rows) == [f"block_{n:02}" for n in range(8)], "the first ones")
        seen.type("\x1b[F")
        seen.shows(lambda rows: seen.names(rows) == [f"block_{n:02}" for n in range(32, 40)], "the last ones")
        seen.type("\x1b[A" * 6)
        seen.shows(lambda rows: "block_33" in seen.names(rows), "those around the selected line")
        seen.interrupt()
        seen.ends(130)
    del held


@needs_screens
@needs_rich
@needs_janitor
@pytest.mark.slow
def test_orphans_are_shown_and_pruned(own_directory: str) -> None:
    held = sa.zeros(10, name="held")
    with Puppet("a = sa.zeros(9, name='left'); say(); hear()") as dead:
        dead.hear()
        kill_janitors(own_directory)
        dead.kill()
    with Terminal() as seen:
        rows = seen.shows(lambda rows: "1 orphan;" in rows[0], "the orphan is counted")
        row = next(row for row in rows if row.startswith("left"))
        assert f"{dead.pid} dead" in row
        assert row.rstrip().endswith("orphan")
        seen.type("p")
        seen.shows(lambda rows: "Remove left" in rows[-1], "it asks")
        seen.type("y")
        seen.shows(lambda rows: seen.names(rows) == ["held"], "it is gone")
        seen.type("\x1b")
        seen.ends()
    del held


# -- for scripts ----------------------------------------------------------------------------------------


def shell(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=ANSWER,
        env=environment(PYTHONIOENCODING="utf-8", **changes),
    )


def test_once_and_json_need_no_terminal_and_no_rich(tmp_path: Any) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('no rich', name='rich')")
    path = f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"
    with sa.zeros((2, 3), "f4", name="\N{SNOWMAN} shown"):
        once = shell("--once", PYTHONPATH=path)
        assert (once.returncode, once.stderr) == (0, "")
        assert "1 block, 4.0 KiB, 0 orphans" in once.stdout
        assert "\N{SNOWMAN} shown" in once.stdout
        assert f"1: {os.getpid()}" in once.stdout
        told = shell("--json", PYTHONPATH=path)
        assert (told.returncode, told.stderr) == (0, "")
        found = json.loads(told.stdout)
        (block,) = found["blocks"]
        assert (block["name"], block["shape"], block["dtype"]) == ("\N{SNOWMAN} shown", [2, 3], "float32")
        assert block["holders"] == [os.getpid()]
        assert found["total"] == block["size"] == 4096 + 24
        assert found["free"] > 0
        assert found["directory"] == os.environ["SHAREDARRAY_DIR"]


def test_without_a_terminal_or_rich_it_says_so(tmp_path: Any) -> None:
    refused = shell()
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--once" in refused.stderr
    assert shell("--interval", "0").returncode == 2


# -- its parts ------------------------------------------------------------------------------------------


def line(name: str, *, size: int = 4120, growth: float = 0, **changes: Any) -> top.Line:
    block = sa.BlockInfo(
        **{
            "name": name,
            "path": f"/dev/shm/{name}",
            "kind": "array",
            "shape": (2, 3),
            "dtype": np.dtype("f4"),
            "order": "C",
            "size": size,
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
    return top.Line(block, growth)


def screen(*lines: top.Line) -> top.Screen:
    return top.Screen(top.Look(lines, "/dev/shm", 10, 20, 0, 0))


def names(shown: top.Screen) -> list[str]:
    return [found.block.name for found in shown.lines()]


def test_orders_and_the_selected_line() -> None:
    old = datetime(2000, 1, 1, tzinfo=UTC)
    shown = screen(
        line("a", size=5, growth=9, holders=()),
        line("b", size=7, created=old),
        line("c", size=6, held=False, holders=(1, 2)),
    )
    assert names(shown) == ["b", "c", "a"]
    for key, order in (("n", "abc"), ("g", "abc"), ("h", "cba"), ("a", "bac"), ("o", "cab"), ("s", "bca")):
        shown.key(key)
        assert shown.order.startswith(key)
        expected = list(order)
        assert names(shown)[0] == expected[0]
    shown.key("down")
    assert shown.selected == "c"
    shown.key("n")
    assert names(shown)[shown.at()] == "c"
    shown.look = screen(line("a"), line("b")).look  # its block is gone: a neighbour is selected
    assert shown.selected == "c"
    assert names(shown)[shown.at()] == "b"
    shown.look = screen().look
    assert shown.at() == 0
    assert shown.key("d") is shown.key("down") is None
    assert not shown.asked


def test_growth_is_counted_by_name() -> None:
    now = [10.0]
    watch = top.Watch(lambda: now[0])
    a = sa.zeros(1000, name="grows")
    assert [found.growth for found in watch.look().lines] == [0.0]
    now[0] += 2
    b = sa.zeros(3000, name="grows", replace=True)
    look = watch.look()
    assert [found.growth for found in look.lines] == [8000.0]
    assert look.growth == 8000.0
    now[0] += 2
    b.close()
    assert watch.look().growth == -(3000 * 8 + 4096) / 2
    a.close()


def test_what_has_taken_a_name_meanwhile_is_not_removed() -> None:
    a = sa.zeros(3, name="x")
    shown = top.Screen(top.Watch().look())
    shown.key("d")
    b = sa.zeros(3, name="x", replace=True)
    assert shown.key("y") == "look"
    assert "another block by now" in shown.message
    assert block_files() == {"x"}
    del a, b


def test_names_cannot_steer_the_terminal() -> None:
    shown = screen(line("a\x1b[2Jb", held=True))
    shown.key("d")
    assert "\x1b" not in "".join([*top.cells(shown.lines()[0]), shown.question()])
