"""A bar without `progress=True`: only at a terminal or in a notebook, and only after a second."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm.std
from helpers import ANSWER, environment, run
from needs import needs_terminals

import sharedarray as sa
from sharedarray import _header as header, _progress as progress, _segment as segment
from sharedarray._cli import main

SCRIPT = """
import sys, time
import sharedarray as sa
from multiprocessing import get_all_start_methods
def slow(pause):
    time.sleep(pause)
if __name__ == "__main__":
    with sa.Pool(1, get_all_start_methods()[0]) as pool:
        list(pool.map(slow, [float(sys.argv[1])] * 4, progress=None if sys.argv[2] == "None" else False))
"""


def at_a_terminal(*arguments: str) -> str:
    """Return what a person sees of a script."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    try:
        subprocess.run(
            [sys.executable, *arguments],
            stderr=theirs,
            stdin=subprocess.DEVNULL,
            env=environment(),
            timeout=ANSWER,
            check=True,
        )
        os.set_blocking(ours, False)
        try:
            return os.read(ours, 1 << 16).decode()
        except BlockingIOError:
            return ""
    finally:
        os.close(ours)
        os.close(theirs)


@needs_terminals
@pytest.mark.parametrize(
    ("pause", "asked", "shown"),
    [
        ("0.35", "None", True),
        pytest.param("0.001", "None", False, marks=pytest.mark.slow),
        pytest.param("0.35", "False", False, marks=pytest.mark.slow),
    ],
)
def test_at_a_terminal_it_comes_after_a_second(pause: str, asked: str, shown: bool, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    seen = at_a_terminal(str(path), pause, asked)
    assert ("4/4" in seen) is shown, seen
    assert ("it/s" in seen or "s/it" in seen) is shown


def test_in_a_pipe_a_bar_is_lines_and_draws_over_nothing() -> None:
    said = run(SCRIPT.replace("None if sys.argv[2] ==", "True if sys.argv[2] =="), "0.01", "None").stderr
    assert "\r" not in said
    assert re.fullmatch(r"100%\|.*\| 4/4 .*\n", said)


def test_a_bar_in_a_file_tells_how_far_it_is_now_and_then() -> None:
    file = io.StringIO()
    lines = progress._Lines(file)
    lines.write("\r 0%|  ")
    lines.write("\r10%|  ")
    lines._due = 0.0
    lines.write("\r20%|  ")
    lines.write("\r99%|  ")
    lines.write("\r100%| ")
    lines.write("\n")
    assert file.getvalue() == "20%|\n100%|\n"


@pytest.mark.slow
def test_elsewhere_there_is_none() -> None:
    assert run(SCRIPT, "0.35", "None").stderr == ""


def test_in_a_notebook_it_comes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    found: Any = progress.bar(None, 10)
    assert isinstance(found, progress._LateBar)
    found.update()
    found.close()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not isinstance(progress.bar(None, 10), progress._LateBar)


@pytest.mark.parametrize("closed", [False, True])
def test_without_standard_error_there_is_no_bar(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that `2>&-` or pythonw starts; a file of the caller's still gets its bar."""
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    assert list(progress.watched([1, 2], progress.bar(True, 2))) == [1, 2]
    with sa.share(np.ones(1000), progress=True) as array:
        assert array.sum() == 1000
    shown = io.StringIO()
    assert list(progress.watched([1, 2], progress.bar({"file": shown}, 2))) == [1, 2]
    assert "2/2" in shown.getvalue()


def test_without_tqdm_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    found = progress._LateBar(3)
    found._due = 0
    for _ in range(3):
        found.update()
    found.close()
    assert found._shown is None


# -- bars of blocks that are filled -----------------------------------------------------------------------

MAKERS: dict[str, Any] = {
    "empty": lambda **how: sa.empty((512, 256), **how),
    "full": lambda **how: sa.full((512, 256), 7.0, **how),
    "data": lambda **how: sa.share(np.ones((512, 256)), **how),
    "another order": lambda **how: sa.share(np.ones((256, 512)).T, order="C", **how),
    "another dtype": lambda **how: sa.share(np.ones((512, 256), "i4"), float, **how),
    "objects": lambda **how: sa.put(np.ones((512, 256)), **how),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_bar_that_is_asked_for_counts_every_byte(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        segment.content, "_STEP", 100_000
    )  # so that there are some steps, and the last one is shorter
    with make() as plain:
        bare = plain.tobytes()
    shown = io.StringIO()
    steps: list[float] = []
    real = tqdm.std.tqdm.update
    monkeypatch.setattr(tqdm.std.tqdm, "update", lambda bar, n=1: (steps.append(n), real(bar, n))[1])
    with make(name="x", progress={"file": shown, "desc": "mine"}) as array:
        size = array.segment.size
        assert array.tobytes() == bare
    # The bytes between an object's parts, each of which begins on a page, are not written.
    assert size - 2 * header.PAGE <= sum(steps) <= size
    assert len(steps) > 5
    assert shown.getvalue().rpartition("\r")[2].startswith("mine: ")
    assert not sa.blocks()


def test_pools_pass_it_on_and_a_missing_tqdm_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sa.Pool(1) as pool:
        kept = pool.share(np.ones(1000), progress=True)
        assert "100%" in capsys.readouterr().err
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
        for make in (pool.empty, pool.zeros, pool.ones, sa.zeros):
            with pytest.raises(sa.MissingExtraError, match=r"numpy-sharedarray\[progress\]"):
                make(5, progress=True)
        with pytest.raises(sa.MissingExtraError):
            pool.full(5, 1.0, progress=True)
        assert [block.name for block in sa.blocks()] == [kept.name]


FILLING = """
import sys
import numpy as np, sharedarray as sa
from sharedarray import _progress as progress
progress._LATE = float(sys.argv[1])
sa.share(np.ones(1 << 23), name="big").close()
"""


@needs_terminals
@pytest.mark.parametrize(("late", "shown"), [("0", True), pytest.param("100", False, marks=pytest.mark.slow)])
def test_a_block_that_takes_long_shows_a_bar_at_a_terminal(late: str, shown: bool, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(FILLING)
    seen = at_a_terminal(str(path), late)
    assert ("filling big: 100%" in seen) is shown, seen
    assert ("64.0M/64.0M" in seen) is shown


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_watched_by_a_person", lambda: True)
    monkeypatch.setattr(progress, "_LATE", 0.0)
    monkeypatch.setattr(segment.making, "BAR_FROM", 0)
    tries: list[str] = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            tries.append(text)
            raise OSError(errno.EIO, "its terminal is gone")

    monkeypatch.setattr(sys, "stderr", Gone())
    with sa.share(np.arange(10.0)) as array:
        assert array[-1] == 9
    assert tries


@pytest.mark.parametrize(("options", "shown"), [(["--progress"], True), ([], False)])
def test_of_the_command_line(
    options: list[str], shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "x.npy")
    with sa.share(np.arange(1000.0), name="x"):
        assert main(["cp", "x", file, *options]) == 0
    said = capsys.readouterr().err
    assert ("copying x: 100%" in said) is shown
    assert main(["load", file, "--name", "y", *options]) == 0
    said = capsys.readouterr().err
    assert ("filling y: 100%" in said) is shown
    sa.unlink("y")
