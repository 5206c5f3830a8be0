"""The modules' actions around a fork run in one order, whatever one of them raises."""

from __future__ import annotations

import os
import sys

import pytest
from needs import needs_fork

from sharedarray import _forks as forks

PREFIX = "sharedarray."


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Register two modules of which the upper one raises, and return what was called."""
    called: list[str] = []
    monkeypatch.setattr(forks, "ORDER", ("lower", "upper"))
    monkeypatch.setattr(forks, "_hooks", {"lower": [], "upper": []})

    def hook(name: str, *, fails: bool = False) -> None:
        called.append(name)
        if fails:
            raise ValueError(name)

    forks.around(PREFIX + "upper", before=lambda: hook("upper before", fails=True))
    forks.around(PREFIX + "lower", before=lambda: hook("lower before"), in_child=lambda: hook("lower child"))
    forks.around(PREFIX + "lower", before=lambda: hook("lower before, later"))
    forks.around(
        PREFIX + "upper", in_parent=lambda: hook("upper parent"), in_child=lambda: hook("upper child")
    )
    forks.around(PREFIX + "lower", in_parent=lambda: hook("lower parent", fails=True))
    return called


@needs_fork
def test_hooks_run_downwards_before_a_fork_and_upwards_after_it(
    order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append(str(args.exc_value)))
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(sender, "\n".join(order).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(sender)
    with os.fdopen(receiver) as said:
        in_child = said.read().splitlines()
    before = ["upper before", "lower before, later", "lower before"]
    assert order == [*before, "lower parent", "upper parent"]
    assert in_child == [*before, "lower child", "upper child"]
    assert raised == ["upper before", "lower parent"]


def test_a_module_without_a_place_is_refused() -> None:
    with pytest.raises(KeyError):
        forks.around("sharedarray._elsewhere", before=print)
