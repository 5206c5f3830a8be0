"""The checks of `conftest.py` themselves: each kind of leak fails the test that leaks, and only that one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from helpers import TESTS, environment

LEAKING = """
import os, subprocess, sys, threading
import sharedarray as sa

kept = []

def test_clean():
    a = sa.zeros(3)
    a.reference().attach()

def test_block_held():
    kept.append(sa.zeros(3))

def test_block_persisted():
    sa.zeros(3, persist=True)

def test_file_beside_the_blocks():
    open(os.environ["SHAREDARRAY_DIR"] + "/litter", "w").close()

def test_child():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def test_descriptor():
    kept.append(os.open("/", os.O_RDONLY))

def test_clean_again():
    with sa.zeros(3):
        pass

def test_tidy():
    kept[1].stdin.close()
    kept[1].wait()
    kept[0].close()
    for block in sa.blocks():
        sa.unlink(block.name)
    os.unlink(os.environ["SHAREDARRAY_DIR"] + "/litter")
"""


@pytest.mark.slow
def test_every_kind_of_leak_fails_its_test(tmp_path):
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(SHAREDARRAY_LEAK_PATIENCE="0.1"),
        timeout=60,
    )
    blamed = dict(re.findall(r"_+ ERROR at teardown of (\w+) _+\nthe test left behind: (\w+)", done.stdout))
    assert blamed == {
        "test_block_held": "block",
        "test_block_persisted": "block",
        "test_file_beside_the_blocks": "block",
        "test_child": "child",
        "test_thread": "thread",
        "test_descriptor": "descriptor",
    }, done.stdout + done.stderr
    assert "9 passed, 6 errors" in done.stdout
