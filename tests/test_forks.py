"""Actions around a fork run in one order, whatever one of them raises."""

from __future__ import annotations

import pytest
from helpers import run
from needs import needs_fork

from sharedarray import _forks as forks

PROGRAM = """
    import os
    from sharedarray import _forks as forks

    forks.ORDER = ("lower", "upper")
    forks._hooks = {"lower": [], "upper": []}
    called = []

    def hook(name, fails=False):
        called.append(name)
        if fails:
            raise ValueError(name)

    lower, upper = "sharedarray.lower", "sharedarray.upper"
    forks.around(upper, before=lambda: hook("upper before", fails=True))
    forks.around(lower, before=lambda: hook("lower before"), in_child=lambda: hook("lower in child"))
    forks.around(lower, before=lambda: hook("lower before, later"))
    forks.around(upper, in_parent=lambda: hook("upper in parent"), in_child=lambda: hook("upper in child"))
    forks.around(lower, in_parent=lambda: hook("lower in parent", fails=True))
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    print(*called, sep=", ", flush=True)
    os._exit(0)
"""


@needs_fork
def test_hooks_run_downwards_before_a_fork_and_upwards_after_it() -> None:
    ended = run(PROGRAM)
    before = "upper before, lower before, later, lower before"
    assert ended.stdout.splitlines() == [
        f"{before}, lower in child, upper in child",
        f"{before}, lower in parent, upper in parent",
    ]
    for name in ("upper before", "lower in parent"):  # reported once each, by Python
        assert ended.stderr.count(f"ValueError: {name}\n") == 1
    assert "TypeError" not in ended.stderr


def test_a_module_without_a_place_is_refused() -> None:
    with pytest.raises(KeyError):
        forks.around("sharedarray._elsewhere", before=print)
