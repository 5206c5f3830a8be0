"""Ctrl-C as a keyboard gives it: at a console of the program's own, heard by all processes that are at it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from consoles import CTRL_C_STATUS, AtConsole, Console, needs_consoles
from helpers import ANSWER, alive, block_files, environment, nothing_left, wait_until
from needs import few

import sharedarray as sa
from sharedarray import _demo as demo

pytestmark = needs_consoles

SOON = ANSWER  # seconds in which it must have been heard; a bound against hanging
INTERRUPTED = 130  # the command's status then


def all_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(alive, pids)), f"workers {pids} end", ANSWER)


# -- a pool ---------------------------------------------------------------------------------------------

SESSION = """
    import time

    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        return sa.full(1000, 7)

    sys.ps1 = ">>> "  # as in a session: the pool goes on
    pool = sa.Pool(2)
    pool.submit(abs, 1).result()
    mine = sa.ones(1000)
    try:
        future = pool.submit(wait_for, sys.argv[1])
        say(pool.stats().pids)
        future.result()
    except KeyboardInterrupt:
        say("interrupted")
    hear()
    say([pool.submit(abs, -2).result(timeout=60), future.done()])
    open(sys.argv[1], "x").close()
    say([int(future.result(timeout=60).sum()), pool.stats().pids])
    hear()
    future = None
    {end}
"""


@pytest.mark.parametrize("end", ["pool.shutdown()", "", "sys.exit(0)"])
def test_it_breaks_off_the_wait_for_a_result_and_the_pool_goes_on(tmp_path: Path, end: str) -> None:
    with AtConsole(SESSION.format(end=end), tmp_path / "go") as session:
        workers = session.hear()
        session.interrupt()
        assert session.hear(SOON) == "interrupted"
        assert session.ask() == [2, False]  # what it waited for goes on, and another worker answers
        total, now = session.hear()
        assert (total, set(workers)) == (7000, set(workers) & set(now))  # no worker was replaced
        session.end()
        assert session.complaints() == ""
        all_gone(now)
    wait_until(nothing_left, "no block is left")


@pytest.mark.parametrize(
    "waiting",
    [
        "pool.submit(time.sleep, 60).result()",
        "list(pool.map(time.sleep, [60] * 4))",
        pytest.param("pool.submit(time.sleep, 60); pool.shutdown()", marks=pytest.mark.slow),
        pytest.param(
            "pool.map_blocks(lambda block: time.sleep(60), np.ones(100), block_size=10)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_ends_the_program_and_its_workers(waiting: str) -> None:
    script = f"""
        import time
        import numpy as np
        with sa.Pool(2) as pool:
            pool.submit(abs, 1).result()
            mine, shared = sa.ones(1000), pool.ones(1000)
            say(pool.stats().pids)
            {waiting}
    """
    with AtConsole(script) as program:
        workers = program.hear()
        program.interrupt()
        assert program.process.wait(SOON) == CTRL_C_STATUS
        said = program.complaints()
        assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1, said
        all_gone(workers)
    wait_until(nothing_left, "no block is left")


@pytest.mark.slow
def test_it_ends_the_program_whenever_it_comes() -> None:
    """Also while workers are started, who are at the same console."""
    script = """
        import time
        say()
        with sa.Pool(2) as pool:
            say(); futures = [pool.submit(time.sleep, 60) for _ in range(2)]
            say(); futures[0].result()
    """
    for later in range(0, 300, 60):  # milliseconds
        with AtConsole(script) as program:
            program.hear()
            time.sleep(later / 1000)
            program.interrupt()
            assert program.process.wait(SOON) == CTRL_C_STATUS
            said = program.complaints()  # which comes to its end with the last of the workers
            assert said.count("Traceback") == 1, said
        wait_until(nothing_left, "no block is left")


# -- locks and creation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", few([None, 1000]))
@pytest.mark.parametrize("what", ["array", "file"])
def test_it_breaks_off_the_wait_for_a_lock(tmp_path: Path, what: str, timeout: float | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    script = f"""
        array = sa.attach("locked")
        def lock(timeout):
            if {what == "file"}:
                return sa.lock_file(sys.argv[1], timeout=timeout)
            return array[:3].lock(timeout=timeout)
        try:
            say()
            with lock({timeout}):
                say("got it")
        except KeyboardInterrupt:
            say("interrupted")
        hear()
        with lock(0) as held:
            say(held.abandoned)
    """
    array = sa.zeros(10, name="locked")
    with AtConsole(script, path) as program:
        with array[2:3].lock() if what == "array" else sa.lock_file(path):
            program.hear()
            time.sleep(0.1)  # so that it waits, as a rule; it must hear it before as well
            program.interrupt()
            assert program.hear(SOON) == "interrupted"
        assert program.ask() is False
        program.end()
        assert program.complaints() == ""
    del array


@pytest.mark.parametrize(
    "how",
    [
        "sa.share(source)",
        *(
            pytest.param(how, marks=pytest.mark.slow)
            for how in ("pool.share(source)", "sa.full(source.shape, 7.0)")
        ),
    ],
)
def test_it_breaks_off_filling_and_nothing_stays(how: str) -> None:
    script = f"""
        import time
        import numpy as np
        source = np.ones(2_000_000)
        pool = sa.Pool(1)
        pool.submit(abs, 1).result()
        for round in range(3):
            try:
                say()
                while True:
                    made = {how}
                    made = None
            except KeyboardInterrupt:
                pass
            made = None
            say([block.name for block in sa.blocks() if block.size > source.nbytes])
            hear()
        whole = {how}
        say(float(whole[-1]))
        whole = None
        pool.shutdown()
    """
    with AtConsole(script) as program:
        for moment in (0.05, 0.06, 0.07):
            program.hear()
            time.sleep(moment)  # any is one in which it is filling, or between two
            program.interrupt()
            assert program.hear(SOON) == []
            program.say()
        assert program.hear() in (1.0, 7.0)
        program.end()
        assert program.complaints() == ""
    wait_until(nothing_left, "no block is left")


# -- the command line -----------------------------------------------------------------------------------


def command(*words: str) -> dict[str, object]:
    """Return what starts the command at a console, with its output for the test to read."""
    return {
        "command": [sys.executable, *words],
        "env": environment(),
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def test_cp_that_is_interrupted_leaves_no_file(tmp_path: Path) -> None:
    array = sa.ones(200_000, name="large")
    # 16 bytes at a time
    slowly = (
        "import sys; from sharedarray import cli, _cli_files; _cli_files._PIECE = 16; "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    target = tmp_path / "copy.npy"
    with Console(**command("-c", slowly, "cp", "large", str(target))) as console:  # type: ignore[arg-type]
        wait_until(lambda: os.listdir(tmp_path), "it copies", ANSWER)
        console.interrupt()
        out, err = console.output(SOON)
        assert (console.process.returncode, out, err) == (INTERRUPTED, "", "\nsharedarray: interrupted\n")
    assert os.listdir(tmp_path) == []
    assert block_files() == {"large"}
    del array


def test_cp_that_is_interrupted_as_it_makes_its_file_leaves_none(tmp_path: Path) -> None:
    array = sa.ones(10, name="small")
    interrupted = """
import signal, sys, tempfile
from sharedarray import _cli as cli

def make(*args, plain=tempfile.mkstemp):
    found = plain(*args)
    signal.raise_signal(signal.SIGINT)
    return found

tempfile.mkstemp = make
sys.exit(cli.main(sys.argv[1:]))
"""
    words = ("-c", interrupted, "cp", "small", str(tmp_path / "copy.npy"))
    with Console(**command(*words)) as console:  # type: ignore[arg-type]
        out, err = console.output(SOON)
        assert (console.process.returncode, out, err) == (INTERRUPTED, "", "\nsharedarray: interrupted\n")
    assert os.listdir(tmp_path) == []
    del array


def test_load_hold_lets_go(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(5))
    words = ("-m", "sharedarray", "load", str(tmp_path / "x.npy"), "--name", "x", "--hold")
    with Console(**command(*words)) as console:  # type: ignore[arg-type]
        assert console.process.stdout is not None
        assert console.process.stdout.readline().startswith("holding ")
        console.interrupt()
        _, err = console.output(SOON)
        assert (console.process.returncode, err) == (INTERRUPTED, "\nsharedarray: interrupted\n")
    assert not sa.exists("x")


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in demo.NEEDED), reason="needs the extra demo"
)
def test_the_demo_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """It is at work in its workers when it is interrupted: the last of its ways to run has them."""
    picture = tmp_path / "picture.png"
    telling = """
import sys
from sharedarray import _cli
from sharedarray._demo import contest

def tell(name, plain):
    def told(*args):
        print(name, file=sys.stderr, flush=True)
        return plain(*args)
    setattr(contest, name, told)

for name in ("pickled_blocks", "shared_arrays"):
    tell(name, getattr(contest, name))
sys.exit(_cli.main(sys.argv[1:]))
"""
    words = ("-u", "-c", telling, "demo", "--size", "4", "--workers", "2", "--output", str(picture))
    for part in ("pickled_blocks", "shared_arrays"):
        with Console(**command(*words)) as console:  # type: ignore[arg-type]
            assert console.process.stderr is not None
            seen = ""
            while part not in seen:
                piece = console.process.stderr.read(1)
                assert piece, seen
                seen += piece
            console.interrupt()
            _, err = console.output(SOON)
            assert console.process.returncode == INTERRUPTED
            assert err.endswith("sharedarray: interrupted\n")
            assert "Traceback" not in seen + err
        assert not picture.exists()
        wait_until(nothing_left, "no block is left")
