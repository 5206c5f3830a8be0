"""CPython's own tests of shared memory and managers, run with our classes in the place of its own.

The tests are those of the interpreter that runs them: `_TestSharedMemory` of its
`test._test_multiprocessing`, which has those of `SharedMemory`, `ShareableList` and `SharedMemoryManager`,
and the test cases of managers in general, with managers derived from ours. Each runs under fork, forkserver
and spawn, and a test that a later Python adds is taken up by itself. What is done differently on purpose
stands in `DIFFERENCES`, with the reason. Each entry has a test of ours in the same test cases, called as
CPython's with ``__differs`` behind it, that shows what holds instead.

Some things are arranged around the tests, which are not changed themselves:

- The module `shared_memory` that they look into has our classes, in the processes that they start too, and
  `multiprocessing.managers` has our manager; CPython's own classes cannot be made meanwhile.
- Scripts that they run import our classes in the place of CPython's.
- Names of chance are drawn by CPython's function, which the tests replace to have names collide.
- `ShareableList` has the method `_get_packing_format`, by which they look at the format of an item.

What CPython's tests only warn of (a thread or a child that is left) fails here.
"""

from __future__ import annotations

import functools
import gc
import importlib
import multiprocessing
import multiprocessing.managers
import multiprocessing.shared_memory
import os
import signal
import sys
import unittest
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import FORKS, KILL, KILLED, SIGNALS, Puppet, inode, run, wait_until

import sharedarray as sa
from sharedarray import _segment as segment, _shareable as shareable

upstream: Any = pytest.importorskip(
    "test._test_multiprocessing", reason="this Python was built without its own tests of multiprocessing"
)
support: Any = importlib.import_module("test.support")
script_helper: Any = importlib.import_module("test.support.script_helper")

METHODS = multiprocessing.get_all_start_methods()

pytestmark = pytest.mark.slow

# -- the differences ------------------------------------------------------------------------------------

# By the name of the test; all are of `_TestSharedMemory`.
DIFFERENCES: dict[str, str] = {
    "test_shared_memory_cleaned_after_process_termination": (
        "wants the resource tracker to warn of the block of a process that was killed; nothing leaks here, "
        "so there is no warning, and the name is free within 2 seconds"
    ),
    "test_shared_memory_tracking": (
        "wants a process that attaches with track=True to destroy the block when it ends, which is gh-82300; "
        "here attaching destroys nothing"
    ),
    "test_shared_memory_name_with_embedded_null": (
        "sets the private attribute _name, by which CPython's class unlinks; here a block is unlinked by its "
        "identity, and _name can only be read"
    ),
}

# The first Python that surely has a test of that name; all others are in every Python that we support.
SINCE: dict[str, tuple[int, int]] = {
    "test_shared_memory_tracking": (3, 13),
    "test_shared_memory_name_with_embedded_null": (3, 14),  # and in later releases of older ones
}

Replacement = Callable[[Any], None]
_replacements: dict[str, Replacement] = {}


def instead_of(name: str) -> Callable[[Replacement], Replacement]:
    """Register a function that replaces CPython's test of this name."""

    def note(replacement: Replacement) -> Replacement:
        _replacements[name] = replacement
        return replacement

    return note


@instead_of("test_shared_memory_cleaned_after_process_termination")
def the_block_of_a_process_that_was_killed_goes_silently(test):
    for number in {signal.SIGTERM, KILL}:
        with Puppet("block = sa.SharedMemory(create=True, size=10); say(block.name); hear()") as other:
            name = other.hear()
            os.kill(other.pid, number)
            assert other.process.wait() == (-number if SIGNALS else number)
            wait_until(lambda: inode(name) is None, "the block is gone")  # noqa: B023
            with pytest.raises(FileNotFoundError):
                sa.SharedMemory(name)


@instead_of("test_shared_memory_tracking")
def who_attaches_destroys_nothing(test):
    block = sa.SharedMemory(create=True, size=10)
    for track in (True, False):
        for ending in ("", "mem.close()", f"os.kill(os.getpid(), {int(KILL)})"):
            done = run(
                f"""
                import os, sys
                from sharedarray import SharedMemory
                mem = SharedMemory(name=sys.argv[1], create=False, track={track})
                mem.buf[0] += 1
                {ending}
                """,
                block.name,
                status=KILLED if "kill" in ending else 0,
            )
            assert done.stderr == ""
            sa.SharedMemory(block.name).close()
    assert block.buf[0] == 6
    block.close()
    block.unlink()


@instead_of("test_shared_memory_name_with_embedded_null")
def a_name_with_a_null_is_refused(test):
    block = sa.SharedMemory(test._new_shm_name("null"), create=True, size=10)
    for create in (True, False):
        with pytest.raises(ValueError, match="NUL"):
            sa.SharedMemory(block.name + "\0a", create=create, size=10)
    with pytest.raises(AttributeError):
        block._name = block._name + "\0a"
    block.close()
    block.unlink()


# -- CPython's test cases, with our classes -------------------------------------------------------------

OURS = SimpleNamespace(
    **{
        **vars(multiprocessing.shared_memory),
        "SharedMemory": sa.SharedMemory,
        "ShareableList": sa.ShareableList,
    }
)


class FooManager(sa.SharedMemoryManager):
    """CPython's `MyManager`, derived from our manager."""


for _name, (_callable, _exposed, _, _proxy) in upstream.MyManager._registry.items():
    FooManager.register(_name, callable=_callable, proxytype=_proxy, exposed=_exposed)


class QueueManager(sa.SharedMemoryManager):
    """CPython's `QueueManager`, derived from our manager."""


class QueueManager2(sa.SharedMemoryManager):
    """CPython's `QueueManager2`, derived from our manager."""


QueueManager.register("get_queue", callable=upstream.get_queue)
QueueManager2.register("get_queue")

MANAGERS = {"MyManager": FooManager, "QueueManager": QueueManager, "QueueManager2": QueueManager2}


def look_into_ours() -> None:
    """Make CPython's tests find our classes, in this process."""
    upstream.shared_memory = OURS
    vars(upstream).update(MANAGERS)


class Arranged:
    """The arrangements in this process and in those that a test case starts."""

    def run(self) -> None:
        look_into_ours()
        super().run()  # type: ignore[misc]


def _absent(self: Any) -> None:
    raise unittest.SkipTest("this Python has no such test")


def _derive(name: str, case: type, method: str) -> type:
    attributes: dict[str, Any] = {"method": method, "__doc__": f"CPython's {case.__name__} under {method}."}
    if case is upstream._TestSharedMemory:
        for test, replacement in _replacements.items():
            attributes[test] = None
            attributes[f"{test}__differs"] = _called_with_self(replacement)
    attributes |= {"Process": globals()[f"{method.capitalize()}Process"], "TYPE": "processes"}
    attributes |= {"__module__": __name__, "__qualname__": name}
    return type(name, (WithMethod, case, upstream.ProcessesMixin, unittest.TestCase), attributes)


def _called_with_self(replacement: Replacement) -> Callable[[Any], None]:
    @functools.wraps(replacement)
    def replaced(self: Any) -> None:
        replacement(self)

    return replaced


class WithMethod:
    """Has everything that is started in a test case be started by its method."""

    method: str

    def setUp(self) -> None:
        before = multiprocessing.get_start_method(allow_none=True)
        multiprocessing.set_start_method(self.method, force=True)
        self.addCleanup(multiprocessing.set_start_method, before, force=True)  # type: ignore[attr-defined]
        super().setUp()  # type: ignore[misc]


OF_MANAGERS = ["_TestMyManager", "_TestRemoteManager", "_TestManagerRestart"]
TAKEN = ["_TestSharedMemory", *OF_MANAGERS]

for _method in METHODS:
    _here = f"{_method.capitalize()}Process"
    _base = multiprocessing.get_context(_method).Process
    globals()[_here] = type(_here, (Arranged, _base), {"__module__": __name__})
    for _name in TAKEN:
        _here = _method.capitalize() + _name.removeprefix("_Test") + "Test"
        globals()[_here] = _derive(_here, getattr(upstream, _name), _method)
del _name, _here, _base, _method, _callable, _exposed, _proxy  # so that pytest does not find a class twice


# -- the table ------------------------------------------------------------------------------------------


def test_every_difference_is_one_of_a_test_that_there_is():
    """An entry whose test was renamed or removed fails, unless this Python is too old to have it."""
    for name in DIFFERENCES:
        if sys.version_info >= SINCE.get(name, (3, 11)):
            assert callable(getattr(upstream._TestSharedMemory, name, None)), f"there is no {name} here"
    assert set(SINCE) <= set(DIFFERENCES)


def test_every_difference_has_its_replacement():
    assert set(DIFFERENCES) == set(_replacements)
    assert all(DIFFERENCES.values())


def test_every_test_is_run_under_every_method():
    """All of CPython's tests are here, either as they are, or with their replacement."""
    assert METHODS
    names = unittest.defaultTestLoader.getTestCaseNames
    for method in METHODS:
        for name in TAKEN:
            here = globals()[method.capitalize() + name.removeprefix("_Test") + "Test"]
            assert here.method == method
            ran = set(names(here))
            for test in names(getattr(upstream, name)):
                differs = name == "_TestSharedMemory" and test in DIFFERENCES
                assert (test in ran) != differs
                assert (f"{test}__differs" in ran) == differs


def test_there_are_no_other_tests():
    """A new test case of CPython's that is about shared memory or its manager should be looked at."""
    about = {
        name
        for name, case in vars(upstream).items()
        if isinstance(case, type) and any(word in name for word in ("SharedMemory", "Shareable"))
    }
    assert about == {"_TestSharedMemory"}


# -- what is arranged around them -----------------------------------------------------------------------


def in_second_interpreter(*arguments: str, **variables: str) -> tuple[int, bytes, bytes]:
    """Return what CPython's ``assert_python_ok`` does, for scripts that want our classes."""
    ours = [
        text.replace("from multiprocessing.managers import Shared", "from sharedarray import Shared").replace(
            "from multiprocessing.shared_memory import Shared", "from sharedarray import Shared"
        )
        for text in arguments
    ]
    assert ours != list(arguments), "this script has nothing to do with shared memory"
    path = os.pathsep.join(filter(None, [os.path.dirname(os.path.dirname(sa.__file__)), *sys.path]))
    return tuple(_assert_python_ok(*ours, **{**variables, "PYTHONPATH": path}))


_assert_python_ok = script_helper.assert_python_ok


@pytest.fixture(scope="module", autouse=True)
def servants() -> Iterator[None]:
    """Start what lives on after a test, so that it does not count as left behind: fork server, tracker."""
    if FORKS:  # elsewhere there is none
        resource_tracker.ensure_running()
    if "forkserver" in METHODS:
        started = multiprocessing.get_context("forkserver").Process()
        started.start()
        started.join()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def with_ours_instead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep CPython's own classes out of the tests, and make failures of what they only warn of."""

    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise AssertionError("this test makes a block of CPython's, and not one of ours")

    def format_of(self: Any, position: int) -> str:
        return shareable.format_of(self._block(), self._layout, self._position(position))

    monkeypatch.setattr(multiprocessing.shared_memory.SharedMemory, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.managers.SharedMemoryManager, "__init__", refuse)
    for name in ("shared_memory", *MANAGERS):
        monkeypatch.setattr(upstream, name, getattr(upstream, name))  # to be restored
    look_into_ours()
    monkeypatch.setattr(multiprocessing.managers, "SharedMemoryManager", sa.SharedMemoryManager)
    monkeypatch.setattr(sa.ShareableList, "_get_packing_format", format_of, raising=False)
    monkeypatch.setattr(
        segment.making, "random_name", lambda: multiprocessing.shared_memory._make_filename().lstrip("/")
    )
    monkeypatch.setattr(script_helper, "assert_python_ok", in_second_interpreter)
    monkeypatch.setattr(support, "environment_altered", False)
    yield
    assert not support.environment_altered, "a thread or a child was left; stderr says which"
