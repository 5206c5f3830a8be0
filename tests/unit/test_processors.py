"""The number of processors that a process may use, and so of workers in a pool."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, environment
from needs import needs_root

import sharedarray as sa
from sharedarray._platform import platform

groups: Any = sys.modules.get("sharedarray._platform.linux_groups")
on_linux = pytest.mark.skipif(groups is None, reason="control groups are Linux's")


def test_a_pool_has_as_many_workers_as_there_are_processors() -> None:
    pool = sa.Pool()
    assert pool._max_workers == platform.processors() >= 1
    pool.shutdown()


@on_linux
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"/sys/fs/cgroup/a/b/cpu.max": b"max 100000\n"}, 8),
        ({"/sys/fs/cgroup/a/b/cpu.max": b"300000 100000\n"}, 3),
        ({"/sys/fs/cgroup/a/b/cpu.max": b"150000 100000\n"}, 2),  # rounded up
        ({"/sys/fs/cgroup/a/b/cpu.max": b"20000 100000\n"}, 1),  # at least one
        ({"/sys/fs/cgroup/a/b/cpu.max": b"9900000 100000\n"}, 8),  # more than there are
        ({"/sys/fs/cgroup/a/cpu.max": b"200000 100000\n"}, 2),  # of the group above
        ({"/sys/fs/cgroup/cpu.max": b"100000 50000\n"}, 2),  # of a container's root
        ({"/sys/fs/cgroup/a/b/cpu.max": b"damaged\n"}, 8),
        ({"/sys/fs/cgroup/cpu,cpuacct/v/cpu.cfs_quota_us": b"-1\n"}, 8),
        (
            {
                "/sys/fs/cgroup/cpu/v/cpu.cfs_quota_us": b"250000\n",
                "/sys/fs/cgroup/cpu/v/cpu.cfs_period_us": b"100000\n",
            },
            3,
        ),
        (
            {
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": b"50000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": b"50000\n",
            },
            1,
        ),
    ],
)
def test_quotas_of_control_groups(files, expected, monkeypatch) -> None:
    files = {"/proc/self/cgroup": b"12:cpu,cpuacct:/v\n3:memory:/m\n0::/a/b\n", **files}
    monkeypatch.setattr(groups, "contents_of", files.get)
    monkeypatch.setattr(groups, "permitted", lambda: 8)
    monkeypatch.setattr(groups, "affinity", lambda: 8)
    assert platform.processors() == expected
    monkeypatch.setattr(groups, "permitted", lambda: 5)  # a number that the user set stays
    assert platform.processors() == 5


def test_a_kernel_that_tells_no_affinity(monkeypatch) -> None:
    """Sandboxes may refuse the call, and a pool needs a number all the same."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    for name in ("sched_getaffinity", "process_cpu_count"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert platform.processors() == 1


@on_linux
@needs_root
def test_a_quota_of_a_real_control_group(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor")
    group = None
    for base, file in itertools.product(
        ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu"), ("cpu.max", "cpu.cfs_quota_us")
    ):
        made = Path(base, f"sharedarray-test-{os.getpid()}")
        if not Path(base, "cgroup.procs").exists():
            continue
        try:
            made.mkdir()
            (made / file).write_text("100000")
            group = made
            break
        except OSError:
            if made.is_dir():
                made.rmdir()
    if group is None:
        pytest.skip("control groups cannot be made here")
    code = "from sharedarray._platform import platform; print(platform.processors())"
    try:
        done = subprocess.run(
            ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$0" -c "$1"', sys.executable, code],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(PYTHONPATH=str(ROOT)),
        )
        assert done.stdout == "1\n", done.stderr
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:  # the kernel takes a moment to see that its processes have ended
                time.sleep(0.01)
