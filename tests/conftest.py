"""Every test runs in a directory of this session's own, and leaves nothing behind.

Blocks go to a fresh directory on the memory file system, through ``SHAREDARRAY_DIR``, so that no test sees or
touches any other's. It is one directory for the session, and not one for each test, because what other
libraries start once and keep, such as multiprocessing's forkserver, keeps the environment of the test that
started it, and because a janitor's start costs more than most tests. A test that damages its directory, or
that looks at its janitor, asks for `own_directory`.

`no_internal_errors` fails a test in which a pool came upon a mistake of its own, whichever thread that was in
and whatever became of the exception.

`nothing_leaks` compares what is there before and after each test: blocks, records, references on their way,
child processes (the forkserver's too), threads, and file descriptors. ``@pytest.mark.lingers("thread", …)``
is for tests of libraries that keep some on purpose.

The fixtures at the end are start methods, and a pool by each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import multiprocessing
import multiprocessing.resource_tracker
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# With `python -O`, only the assertions that pytest rewrites are there.
pytest.register_assert_rewrite("helpers", "lock_helpers", "consoles", "hosts", "array_classes")

from helpers import (  # noqa: E402
    FORKS,
    PROC,
    TABLE,
    block_files,
    blocks_are_files,
    forget_janitor,
    janitors,
    notes,
    registry,
    wait_until,
)
from needs import EACH_METHOD, FIRST_METHOD  # noqa: E402

import sharedarray as sa  # noqa: E402
import sharedarray._freelist  # noqa: E402
import sharedarray._intents  # noqa: E402
import sharedarray._janitor  # noqa: E402
import sharedarray._pool.manager  # noqa: E402
import sharedarray._pool.states  # noqa: E402
import sharedarray._registry  # noqa: E402
import sharedarray._segment  # noqa: E402
from sharedarray._platform import platform  # noqa: E402

# Tests of signals start programs, which would inherit that one is ignored, as in the background of a shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

PATIENCE = float(os.environ.get("SHAREDARRAY_LEAK_PATIENCE", "30"))  # seconds for what is just ending
_DEFAULT = platform.DEFAULT_DIRECTORY
_SHM = _DEFAULT if os.path.isdir(_DEFAULT) and blocks_are_files() else None
_KINDS = ("block", "child", "thread", "descriptor")
_FAILED = pytest.StashKey[bool]()
_directories: list[str] = []  # every directory that this session's tests had their blocks in


def _make_directory() -> str:
    path = tempfile.mkdtemp(prefix=f"sa-test-{os.getpid()}-", dir=_SHM)
    _directories.append(path)
    return path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"lingers(*kinds): may leave some of {_KINDS} behind")
    for mark in ("thread_unsafe", "no_cover"):
        config.addinivalue_line("markers", f"{mark}: used by joblib's own tests")
    os.environ["SHAREDARRAY_DIR"] = _make_directory()
    # The tests start thousands of interpreters, each of which would compile the library again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Each interpreter that imports NumPy would start a thread per core for matrix products, which hardly any
    # test has: nearly half of the processor time of them all.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


_SLOW_MODULE = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no module of slow tests alone if slow tests are left out and no argument names the module.

    Such modules import Dask, pandas and Jupyter. A fork copies the tables of all memory of this process: it
    takes twice as long with these.
    """
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    if any(collection_path.name in argument for argument in config.invocation_params.args):
        return None
    return True if _SLOW_MODULE.search(collection_path.read_text(encoding="utf-8")) else None


# Tests that import pandas, scikit-learn, Matplotlib, joblib or all modules of the library in this process.
_IMPORT_MUCH = {
    f"test_{name}.py"
    for name in ("array", "bench", "joblib", "newcomers", "objects", "structure", "versions")
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that import much after all others: each later fork would copy the tables of that memory."""
    items.sort(key=lambda item: item.path.name in _IMPORT_MUCH)


def pytest_unconfigure(config: pytest.Config) -> None:
    for path in _directories:
        shutil.rmtree(path, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


# -- what is there --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """Everything that a test could leave behind, by kind."""

    found: dict[str, dict[object, str]]

    @classmethod
    def take(cls) -> Snapshot:
        blocks = {name: name for name in block_files() | notes()} | _ours_elsewhere()
        threads = {
            thread.ident: thread.name
            for thread in threading.enumerate()
            if type(thread).__name__ != "TMonitor"  # tqdm's, which it keeps
        }
        return cls({"block": blocks, "child": _children(), "thread": threads, "descriptor": _descriptors()})

    def since(self, before: Snapshot, allowed: set[str]) -> list[str]:
        """Return what is here and was not there before."""
        leaks = []
        for kind, now in self.found.items():
            if kind in allowed:
                continue
            earlier = before.found[kind]
            leaks += [f"{kind} {text}" for key, text in now.items() if earlier.get(key) != text]
        return leaks


def _ours_elsewhere() -> dict[object, str]:
    """Return blocks that this very process made in the default directory, in spite of SHAREDARRAY_DIR."""
    me = sharedarray._registry.me()
    where = platform.DEFAULT_DIRECTORY
    return {
        (name, inode): f"{where}/{name}"
        for name, inode, record in sharedarray._registry.records(where)
        if record is not None and (record.pid, record.started) == me
    }


def _children() -> dict[object, str]:
    """Children of this process and workers of its forkserver, without multiprocessing's own helpers."""
    if not PROC:
        return {child.pid: f"{child.pid} {child.name}" for child in multiprocessing.active_children()}
    children_of = _children_by_thread if _TELLS_CHILDREN else _offspring().get
    found: dict[object, str] = {}
    for pid in children_of(os.getpid()) or ():
        words = _command(pid)
        if "multiprocessing.forkserver" in words:
            found.update({worker: f"{worker} of the forkserver" for worker in children_of(pid) or ()})
        elif "resource_tracker" not in words:
            found[pid] = f"{pid} {words[:80]}"
    return found


_TELLS_CHILDREN = os.path.exists("/proc/thread-self/children")  # which not every kernel has


def _children_by_thread(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended, and its children are another one's
            found += map(int, path.read_text().split())
    return found


def _offspring() -> dict[int, list[int]]:
    """Return the children of every process."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                    line = file.read(4096)
            except OSError:
                continue  # it has just ended
            found.setdefault(int(line[line.rindex(b")") + 2 :].split()[1]), []).append(int(entry))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _descriptors() -> dict[object, str]:
    if not PROC:
        # The handles that the library itself has open.
        return {handle: f"handle {handle}" for handle in sharedarray._segment.mapping.handles}
    kept = {connection._socket.fileno() for connection in sharedarray._janitor._state.connections.values()}
    kept |= set(sharedarray._janitor._state.present.values())
    kept |= set(sharedarray._freelist._state.witness or ())
    server = sys.modules.get("multiprocessing.forkserver")
    kept.add(getattr(getattr(server, "_forkserver", None), "_forkserver_alive_fd", None))  # type: ignore[arg-type]
    # The pools' fork servers, which serve the next pool too.
    pools = sys.modules.get("sharedarray._pool.processes.fork_server")
    kept |= {pool_server._control for pool_server in getattr(pools, "_servers", {}).values()}
    for package in ("multiprocessing", "loky.backend", "joblib.externals.loky.backend"):
        tracker = sys.modules.get(f"{package}.resource_tracker")
        kept.add(getattr(getattr(tracker, "_resource_tracker", None), "_fd", None))  # type: ignore[arg-type]
    found: dict[object, str] = {}
    for handle in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{handle}")
        except OSError:
            continue  # the listing's own
        # A process keeps the table of write intents, and what it is mapped by.
        if int(handle) not in kept and os.path.basename(target).split(" ")[0] != TABLE:
            found[int(handle)] = f"{handle} -> {target}"
    return found


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if FORKS else None  # the C library of Linux has it


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_not_collected_again() -> None:
    """Leave out of this module's collections what is there before: other libraries and pytest's own records.

    Most tests collect, and at the end of the session each collection would take a fifth of a second. Free
    memory goes back to the system, for each fork copies the tables of all that this process has.
    """
    gc.collect()
    gc.freeze()
    if _trim is not None:
        _trim(0)


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a block, a child, a thread or a descriptor behind."""
    before = Snapshot.take()
    yield
    if request.node.stash.get(_FAILED, False):
        # Its frames are still alive, and with them what they hold; later tests do not find that by name.
        for name in block_files() - set(before.found["block"]):
            with contextlib.suppress(OSError, sharedarray.SharedArrayError):
                sharedarray.unlink(name)
        return
    request.node.funcargs.clear()  # where pytest keeps what the fixtures gave
    sharedarray._freelist.clear()  # which would go within a second
    mark = request.node.get_closest_marker("lingers")
    allowed = set(mark.args) if mark else set()
    if not Snapshot.take().since(before, allowed):
        return
    last: list[str] = []

    def settled() -> bool:
        gc.collect()
        sharedarray._freelist.clear()
        multiprocessing.active_children()  # reaps the ones that have ended
        last[:] = Snapshot.take().since(before, allowed)
        return not last

    try:
        wait_until(settled, "nothing is left", PATIENCE, 0.02)
    except AssertionError:
        pass  # said below, with what it is
    if last:
        pytest.fail("the test left behind: " + "; ".join(last), pytrace=False)


_internal_errors: list[BaseException] = []


@pytest.fixture(scope="session", autouse=True)
def internal_errors_are_noted() -> Iterator[None]:
    """Note each forbidden change of a state, and each exception that ends a pool's thread."""
    states, manager = sharedarray._pool.states, sharedarray._pool.manager

    class Noted(states.ForbiddenChangeError):
        def __init__(self, event: str, state: str) -> None:
            super().__init__(event, state)
            _internal_errors.append(self)

    fail = manager.Manager.fail

    def noted(pool: sharedarray._pool.manager.Manager, broken: BaseException) -> None:
        _internal_errors.append(broken)
        fail(pool, broken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "ForbiddenChangeError", Noted)
        patch.setattr(manager.Manager, "fail", noted)
        yield
    _fail_for_internal_errors()


@pytest.fixture
def internal_errors() -> list[BaseException]:
    """Provide the mistakes of pools in this test so far, which a test that makes some clears."""
    return _internal_errors


@pytest.fixture(autouse=True)
def no_internal_errors() -> Iterator[None]:
    """Fail a test in which a pool came upon a mistake of its own, though the exception may have got lost.

    A pool of a module ends after the module's last test: its mistakes fail the next test, or the session.
    """
    yield
    _fail_for_internal_errors()


def _fail_for_internal_errors() -> None:
    found = [f"{type(error).__name__}: {error}" for error in _internal_errors]
    _internal_errors.clear()
    if found:
        pytest.fail(f"internal errors of a pool: {found}", pytrace=False)


@pytest.fixture
def own_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Provide a directory, and so a janitor, of this test's own; its blocks must be gone in the end.

    The janitor has until the end of the session to go (`no_janitor_stays`), so that no test waits for it
    here.
    """
    path = _make_directory()
    monkeypatch.setenv("SHAREDARRAY_DIR", path)
    yield path
    forget_janitor(path)


@pytest.fixture(scope="session", autouse=True)
def no_janitor_stays() -> Iterator[None]:
    """At the end of all tests, nothing is left in any directory, and every janitor ends by itself."""
    yield
    gc.collect()
    sharedarray._freelist.clear()
    sharedarray._intents._release_all()
    for path in _directories:
        forget_janitor(path)

    def left() -> dict[str, set[str]]:
        return {path: found for path in _directories if (found := block_files(path) | notes(path))}

    # The janitor sweeps what the processes had that the last test has killed, a moment later.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(), "nothing is left", PATIENCE, 0.02)
    assert not left(), f"left at the end of the tests: {left()}"
    tables = [path for path in _directories if os.path.lexists(f"{registry(path)}/{TABLE}")]
    assert not tables, f"a process holds or has left intents in {tables}"

    def still_there() -> dict[str, list[int]]:
        return {path: pids for path in _directories if (pids := janitors(path))}

    wait_until(lambda: not still_there(), f"janitors end when nothing is left: {still_there()}", every=0.05)


# -- pools ------------------------------------------------------------------------------------------------


@pytest.fixture(params=EACH_METHOD)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=FIRST_METHOD)
def first_method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=FIRST_METHOD)
def pool_of_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Pool]:
    import pool_tasks

    meet = tmp_path_factory.mktemp("meet")
    with sa.Pool(2, request.param) as pool:
        assert list(pool.map(pool_tasks.meet, [meet, meet], [2, 2])) == [2, 2]
        yield pool


@pytest.fixture
def pool(pool_of_module: sa.Pool) -> Iterator[sa.Pool]:
    """Provide a pool of two workers that are there already, one for all tests of a module.

    Its recycled memory is freed after each test; what is not freed is still in use, and `nothing_leaks`
    tells.
    """
    yield pool_of_module
    if pool_of_module.stats().recycled_in_use:
        gc.collect()
        with contextlib.suppress(AssertionError):  # a worker answers before it lets go of what it was given
            wait_until(lambda: not pool_of_module.stats().recycled_in_use, "nothing is used")
    pool_of_module._core.store.trim(math.inf)
