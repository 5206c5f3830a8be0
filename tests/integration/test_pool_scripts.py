"""Programs as users write them: without a main guard, with classes in the main module, from stdin."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import METHODS, ROOT, environment
from needs import few

UNGUARDED = """
import os, sys
import numpy as np
import sharedarray as sa

print("imported")
SCALE = 3

class Result:
    def __init__(self, value):
        self.value = value

class Wrong(Exception):
    pass

def scale(x):
    if x > 3:
        raise Wrong(x)
    return Result(helper(x))

def helper(x):
    return x * SCALE

pool = sa.Pool(2, sys.argv[1] if len(sys.argv) > 1 else None)
results = list(pool.map(scale, range(4)))
assert all(type(result) is Result for result in results)
print([result.value for result in results])
try:
    pool.submit(scale, 4).result()
except Wrong as wrong:
    print("wrong", wrong.args)
print(pool.map_blocks(lambda block: block * SCALE, np.arange(4)).tolist())
shared = sa.zeros(4)
def put(n):
    shared[n] = n
list(pool.map(put, range(4)))
print(shared.tolist())
print(pool.submit(lambda: sys.modules["__main__"].__dict__.get("SCALE")).result() in (None, 3))
pool.shutdown()
"""
EXPECTED = "imported\n[0, 3, 6, 9]\nwrong (4,)\n[0, 3, 6, 9]\n[0.0, 1.0, 2.0, 3.0]\nTrue\n"


def run(arguments, **options):
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(PYTHONPATH=str(ROOT)),
        **options,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_a_script_without_a_main_guard(first_method, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    assert run([str(tmp_path / "script.py"), first_method]) == EXPECTED


def test_the_default_is_good_for_it_too(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    assert run(["script.py"], cwd=tmp_path) == EXPECTED


def test_from_standard_input():
    assert run(["-"], input=UNGUARDED) == EXPECTED


def test_as_a_module(first_method, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "beside.py").write_text("WORD = 'beside'\n")
    relative = (
        "\ndef word():\n    from .beside import WORD\n    return WORD\n"
        "with sa.Pool(1, sys.argv[1]) as pool:\n    print(pool.submit(word).result())\n"
    )
    (tmp_path / "package" / "job.py").write_text(UNGUARDED + relative)
    assert run(["-m", "package.job", first_method], cwd=tmp_path) == EXPECTED + "beside\n"


def test_a_module_that_makes_a_pool_while_it_is_imported(first_method, tmp_path):
    """A worker that imported it would make a pool as well, and so on."""
    later = "\ndef later():\n    return SCALE\nlast = sa.Pool(1, sys.argv[1])\n"
    (tmp_path / "job.py").write_text(UNGUARDED + later)
    ask = "import job; print(job.last.submit(job.later).result()); job.last.shutdown()"
    assert run(["-c", ask, first_method], cwd=tmp_path) == EXPECTED + "3\n"


def test_modules_beside_the_script_are_found(first_method, tmp_path):
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "script.py").write_text(
        "import sys, beside, sharedarray as sa\n"
        "with sa.Pool(1, sys.argv[1]) as pool:\n"
        "    print(list(pool.map(beside.double, range(3))))\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run([str(tmp_path / "script.py"), first_method], cwd=elsewhere) == "[0, 2, 4]\n"


@pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")
def test_the_users_multiprocessing_is_left_alone(tmp_path):
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing, os
            import multiprocessing.forkserver as server
            import sharedarray as sa

            if __name__ == "__main__":
                multiprocessing.set_forkserver_preload(["json"])
                with sa.Pool(1) as pool:
                    pool.submit(os.getpid).result()
                assert server._forkserver._preload_modules == ["json"]
                assert server._forkserver._forkserver_pid is None
                with multiprocessing.get_context("forkserver").Pool(1) as theirs:
                    print(theirs.apply(abs, (-1,)))
            """
        )
    )
    assert run([str(tmp_path / "script.py")]) == "1\n"


def test_importing_the_package_does_not_import_the_pool():
    code = "import sys, sharedarray; print([m for m in sys.modules if m.startswith('sharedarray._pool')])"
    assert run(["-c", code], cwd=Path(os.sep)) == "[]\n"


@pytest.mark.parametrize("flags", few([["-W", "error"], ["-X", "dev"], ["-O"]]))
def test_with_flags_of_the_interpreter(flags, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED.replace("assert all", "all"))
    assert run([*flags, str(tmp_path / "script.py")]) == EXPECTED


TELLING = """
import logging, sys, warnings
import sharedarray as sa

def set_up():
    logging.basicConfig(stream=sys.stdout, format="%(processName)s says %(message)s")

def tell():
    sys.stderr = sys.stdout
    logging.getLogger("mine").warning("hello")
    warnings.warn("look out", RuntimeWarning)
    sys.stdout.flush()

with sa.Pool(1, sys.argv[1], initializer=set_up) as pool:
    pool.submit(tell).result()
"""


def test_workers_log_and_warn_under_their_own_names(first_method, tmp_path):
    (tmp_path / "script.py").write_text(TELLING)
    logged, warned, *_ = run([str(tmp_path / "script.py"), first_method]).splitlines()
    assert logged == "sharedarray-worker-1 says hello"
    assert warned.startswith("sharedarray-worker-1: ")
    assert warned.endswith("RuntimeWarning: look out")
