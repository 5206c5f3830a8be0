"""The caches of the library are bounded, outside the pool too."""

from __future__ import annotations

import ast
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import forget_janitor, janitors, wait_until
from needs import needs_janitor

import sharedarray as sa
from sharedarray import (
    _arrivals as arrivals,
    _group_index as group_index,
    _header as header,
    _intents as intents,
    _janitor as janitor,
    _lock_holds as lock_holds,
    _reference as reference,
    _registry as registry,
    _requirements as requirements,
    _segment as segment,
)
from sharedarray._platform import platform
from sharedarray._segment import mapping_of

PACKAGE = Path(sa.__file__).parent

# The bound of each table of a module, of those that are empty at first.
BOUNDS = {
    "_platform.linux._lost": "mappings that another thread was in the way of, within a microsecond",
    "_platform.windows_sections._naming_mutex": "one",
    "_platform.windows_sections.sections": "the blocks that are open",
    "_platform.windows_files.paths": "the blocks that are open",
    "_platform.windows_files._trusted": "the registries that are there",
    "_platform.windows_wakers._events": "the wakers that are open",
    "_platform.windows_wakers._owners": "the wakers of other processes that are open",
    "_array.array._of_subclasses": "the modules that ask for it: one",
    "_array.array.opened_as": "the modules that ask for it: one",
    "_process_end._at_end": "the modules that ask for it",
    "_process_end._ending": "one",
    "_process_end._told": "one",
    "_control_page._pages": "weak references, removed with what they refer to",
    "_control_page._turns": "the turns that threads have now: each is removed as it ends",
    "_damage._reported": "test_reports_are_bounded",
    "_forks._postponed": "what a fork postpones in its child, until it is complete",
    "_group_index._known": "test_indexes_that_were_parsed",
    "_header._known": "test_pages_that_were_parsed",
    "integrations.joblib._preload": "two keys",
    "integrations._transport._origins": "weak keys",
    "_sigint._open": "the depth of blocks",
    "_janitor._warned": "test_directories_that_were_used",
    "_lock_holds.all_holds": "test_locks_that_were_used",
    "_lock_holds.idle_holds": "test_locks_that_were_used",
    "_intents._tables": "test_directories_that_were_used",
    "_picklers._tables": "the picklers that there are: three",
    "_arrivals._active": "the threads in a ``with`` statement of an `AttachmentCache`",
    "_arrivals._attachments": "weak values",
    "_arrivals._leased_again": "the attachments of an `AttachmentCache`, each once until it is settled",
    "_registry.in_flight._seen": "the damaged metadata links that a janitor has met",
    "_registry.record.written": "test_records_that_were_written",
    "_process_tree._settling": "this process, and those that it was forked from",
    "_registry.processes._retired": "this process, and those that it was forked from",
    "_reloads._watched": "one, of the shell that the program runs in",
    "_requirements._checked": "test_directories_that_were_checked",
    "_segment.mapping._child_leases": "a fork; empty after it",
    "_segment.mapping.handles": "test_blocks_that_were_open",
    "_segment.mapping.on_release": "the modules that ask for it",
    "_streams.party._live": "the streams that there are; each entry goes when the next one is made",
    "_streams.holds._kept": "the closed consumers whose items are in use",
    "_sync.primitive._live": "the objects that there are; each entry goes when the next object is made",
    "_versions._left_alone": "the packages of `versions.BOUNDS`",
    "_versions._warned": "the packages of `versions.BOUNDS`",
    "_wakers._all": "weak references, removed with what they refer to",
}
# Programs, and what pools use: `test_pool_bounds.py` has their tables.
APART = {"_bench", "_demo", "_executor", "_functions", "_pipes", "_poller", "_pool", "pool"}
EMPTY = {"dict", "set", "list", "deque", "WeakValueDictionary", "WeakKeyDictionary", "WeakSet", "defaultdict"}


def tables() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in APART:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                value, target = node.value, node.targets[0] if isinstance(node, ast.Assign) else node.target
                is_table = ast.unparse(value) in ("{}", "[]") or (
                    isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in EMPTY
                )
                if is_table and isinstance(target, ast.Name):
                    yield ".".join((*parts, target.id))


def test_every_table_has_a_bound() -> None:
    assert {name for name in tables() if not name.endswith("__all__")} == set(BOUNDS)
    tests = {each for each in BOUNDS.values() if each.startswith("test_")}
    assert tests - {"test_reports_are_bounded"} <= set(globals())


def test_indexes_that_were_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_index, "_KNOWN", 5)
    monkeypatch.setattr(group_index, "_known", {})
    for number in range(8):
        with sa.group(None, {f"member{number}": (3, "u1")}) as group:
            sa.attach(group.name).close()
    assert 0 < len(group_index._known) <= 5


def test_records_that_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.record, "_MOST_WRITTEN", 5)
    monkeypatch.setattr(registry.record, "written", {})
    arrays = [sa.zeros(1) for _ in range(8)]
    assert 0 < len(registry.record.written) <= 5
    for array in arrays:
        array.close()


def test_pages_that_were_parsed() -> None:
    for number in range(3 * header._CACHED):
        page = header.encode(np.dtype("u1"), (number + 1,), fortran=False)
        header.decode(page, len(page) + number + 1, name="x")
    assert len(header._known) <= header._CACHED
    for cached in (header._descr_of, header.encode, segment.names._checked_name):
        assert cached.cache_info().maxsize is not None


def test_blocks_that_were_open() -> None:
    gc.collect()
    before = len(segment.mapping.handles)
    for _ in range(50):
        array = sa.zeros(3)
        sa.attach(str(array.name)).reference().attach()
    del array
    gc.collect()
    assert len(segment.mapping.handles) == before


def test_locks_that_were_used() -> None:
    gc.collect()
    before = len(lock_holds.all_holds)
    arrays = [sa.zeros(3) for _ in range(5 * lock_holds.MOST_IDLE)]
    for array in arrays:
        with array.lock(timeout=60):
            pass
    assert len(lock_holds.idle_holds) <= lock_holds.MOST_IDLE
    assert len(lock_holds.all_holds) <= before + lock_holds.MOST_IDLE
    table = next(iter(intents._tables.values()))
    assert len(table.claimed) <= before + 2 * lock_holds.MOST_IDLE
    del array, arrays
    gc.collect()
    assert len(lock_holds.all_holds) <= before
    assert len(table._free) <= len(table.claimed)


def test_references_that_arrived() -> None:
    arrays = [sa.zeros(3 + number) for number in range(20)]
    kept = arrivals.AttachmentCache(8)
    for _ in range(3):
        for array in arrays:
            packed = reference.pack_held(array, mapping_of(array))
            kept.view(packed)
            kept.settle()
    assert len(kept.attached) == 8
    assert len(kept._used) <= 8
    assert len(arrivals._leased_again) <= 8
    large = sa.zeros(3 * arrivals._MAX_PARSED, "u1")
    for number in range(2 * arrivals._MAX_PARSED):
        kept.view(reference.pack_held(large[number : number + 1], mapping_of(large)))
        kept.settle()
    assert len(kept._parsed) <= arrivals._MAX_PARSED
    in_use = kept.view(reference.pack_held(large, mapping_of(large)))
    for _ in range(30):
        kept.settle()
        kept.clear()
        kept.view(reference.pack_held(large, mapping_of(large)))
    kept.settle()
    assert len(mapping_of(in_use).grips) <= 3
    kept.clear()
    del in_use


def test_arrays_that_a_manager_or_pool_made() -> None:
    from sharedarray._array import WeakArrays

    living = WeakArrays()
    for _ in range(30):
        living.add(sa.zeros(3))
    gc.collect()
    assert len(living._alive) == 0


def test_directories_that_were_checked(tmp_path: Path) -> None:
    for number in range(3 * requirements._MOST_CHECKED):
        requirements._checked.add(f"{tmp_path}/{number}")
        if len(requirements._checked) > requirements._MOST_CHECKED:
            break
    requirements.check(str(tmp_path))
    assert requirements._checked == {str(tmp_path)}


@needs_janitor
@pytest.mark.slow
def test_directories_that_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "_MANY", 3)
    monkeypatch.setattr(intents, "_MOST_TABLES", 3)
    places = [tempfile.mkdtemp(dir=platform.DEFAULT_DIRECTORY, prefix="bounds-") for _ in range(8)]
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    before = set(janitor._state.connections), set(intents._tables)
    try:
        for place in places:
            monkeypatch.setenv("SHAREDARRAY_DIR", place)
            with sa.zeros(3) as array, array.lock(timeout=60):
                pass
            del array
            wait_until(lambda place=place: not janitors(place), "the janitor ends: nothing is left")
        assert len(set(janitor._state.connections) - before[0]) <= 3
        assert len(set(intents._tables) - before[1]) <= 3
        if handles:
            assert len(os.listdir("/proc/self/fd")) <= handles + 3 * 4
    finally:
        monkeypatch.delenv("SHAREDARRAY_DIR")
        intents._release_all()
        for place in places:
            forget_janitor(place)
            shutil.rmtree(place, ignore_errors=True)
