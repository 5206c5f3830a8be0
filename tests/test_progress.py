"""A bar that nobody asked for: only where a person looks on, and only after a second."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import types
from pathlib import Path
from typing import Any

import pytest
from helpers import ANSWER, environment, run

from sharedarray.pool import progress

SCRIPT = """
import sys, time
import sharedarray as sa
def slow(pause):
    time.sleep(pause)
if __name__ == "__main__":
    with sa.Pool(1, "fork") as pool:
        list(pool.map(slow, [float(sys.argv[1])] * 4, progress=None if sys.argv[2] == "None" else False))
"""


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
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    try:
        subprocess.run(
            [sys.executable, str(path), pause, asked],
            stderr=theirs,
            stdin=subprocess.DEVNULL,
            env=environment(),
            timeout=ANSWER,
            check=True,
        )
        os.set_blocking(ours, False)
        try:
            seen = os.read(ours, 1 << 16).decode()
        except BlockingIOError:
            seen = ""
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("4/4" in seen) is shown, seen
    assert ("it/s" in seen or "s/it" in seen) is shown


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


def test_without_tqdm_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    found = progress._LateBar(3)
    found._due = 0
    for _ in range(3):
        found.update()
    found.close()
    assert found._shown is None
