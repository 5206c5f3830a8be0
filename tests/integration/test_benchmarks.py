"""Every benchmark still runs; what it says is for `pytest benchmarks` on a quiet machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_benchmark_runs() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(BENCHMARKS)],
        cwd=BENCHMARKS.parent,
        env={**os.environ, "SHAREDARRAY_BENCH_QUICK": "1"},
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # Of each file something was run, and it has shown a race with ours in it.
    parts = re.split(r"^benchmarks/(bench_\w+)\.py::", ended.stdout, flags=re.MULTILINE)
    shown = {name: text for name, text in zip(parts[1::2], parts[2::2], strict=True) if "ratio" in text}
    assert sorted(shown) == sorted(path.stem for path in BENCHMARKS.glob("bench_*.py"))
    assert all("sharedarray" in text for text in shown.values())
