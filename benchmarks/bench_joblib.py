"""How much memory do joblib's workers take, and how long do they, on ours and on loky?

Each call runs in an interpreter of its own, since neither gives back all it took. Its memory is the most that
its processes have together while it runs: the proportional set sizes, mapped memory files included, of the
program, its workers and its helpers (for ours, the fork server and the janitor).
"""

from __future__ import annotations

import contextlib
import functools
import json
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK

from sharedarray import _registry as registry
from sharedarray._bench import memory

pytest.importorskip("joblib")
pytest.importorskip("sklearn")

ROUNDS = 1 if QUICK else 3
LESS = 1.0  # times loky's memory that ours may take

PROGRAM = """
    import json, sys, time
    import joblib, sharedarray
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    backend, what, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    x, y = load_digits(return_X_y=True)
    x, y = np.tile(x, (times, 1)), np.tile(y, times)
    model = {
        "grid search": lambda: GridSearchCV(
            LogisticRegression(max_iter=20, tol=1), {"C": [0.1, 1.0]}, cv=3, n_jobs=2
        ),
        "forest": lambda: RandomForestClassifier(20, max_depth=8, n_jobs=2, random_state=0),
    }[what]()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    with joblib.parallel_config(backend=backend):
        model.fit(x, y)
    print(json.dumps(time.perf_counter() - start), flush=True)
    sys.stdin.readline()
"""


def janitors() -> list[int]:
    """Return processes that look after this directory's blocks."""
    wanted = registry.registry_of(registry.directory()).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"sharedarray-janitor" in words and wanted in words:
                found.append(int(path.parent.name))
    return found


def proportional(pids: list[int]) -> int:
    """Return bytes that processes have together. Those of memory files count here as they are mapped.

    (What the whole memory file system has in use would also tell what other programs do meanwhile.)
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # ended in the meantime
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(text.split("Pss:", 1)[1].split()[0]) << 10
    return total


def measured(backend: str, what: str, times: int) -> tuple[float, float]:
    """Return bytes at the most, and seconds, of a fit in a fresh interpreter."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), backend, what, str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.stdin.write("\n")
        program.stdin.flush()
        ended: list[float] = []
        most = 0
        while not ended:
            helpers = [] if backend == "loky" else janitors()
            pids = memory.process_tree(program.pid) + helpers
            most = max(most, proportional(pids))
            if select.select([program.stdout], [], [], 0.02)[0]:
                ended.append(float(json.loads(program.stdout.readline())))
        program.stdin.write("\n")
        program.stdin.flush()
    return most, ended[0]


@pytest.mark.parametrize("what", ["grid search"] if QUICK else ["grid search", "forest"])
def test_memory_and_time(race: Callable[..., Any], what: str) -> None:
    missing = memory.why_not()
    if missing is not None:
        pytest.skip(missing)
    times = 1 if QUICK else 20  # of the 900 KB that the data set has
    seconds: dict[str, list[float]] = {"sharedarray": [], "loky": []}

    def run(backend: str) -> float:
        most, took = measured(backend, what, times)
        seconds[backend].append(took)
        return most

    done = race(
        f"scikit-learn's {what} with n_jobs=2: memory of all processes, at the most",
        {name: functools.partial(run, name) for name in seconds},
        baseline="loky",
        rounds=ROUNDS,
        unit="MiB",
        measured=True,
        group=f"joblib, {what}",
    )
    taken = {name: iter(figures) for name, figures in seconds.items()}
    race(
        "the same: time, workers started and all",
        {name: functools.partial(next, taken[name]) for name in seconds},
        baseline="loky",
        rounds=len(seconds["loky"]),
        unit="s",
        measured=True,
        group=f"joblib, {what}, time",
    )
    if not QUICK:
        assert done.ratio("sharedarray") < LESS
