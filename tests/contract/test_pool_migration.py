"""Code for other pools: the error says what to write instead, and that works."""

from __future__ import annotations

import copy
import inspect
import multiprocessing.pool
import re

import pool_tasks
import pytest
from helpers import ROOT

import sharedarray as sa
from sharedarray._executor import migration


def test_each_method_of_multiprocessing_is_there_or_says_what_to_write(pool):
    theirs = [name for name in vars(multiprocessing.pool.Pool) if not name.startswith("_")]
    there = {"map", "starmap", "imap_unordered", "Process"}
    assert set(theirs) - there <= set(migration.METHODS)
    for name, cure in migration.METHODS.items():
        assert not hasattr(pool, name)
        with pytest.raises(AttributeError, match=rf"^Pool has no method '{name}'. Next step: ") as caught:
            getattr(pool, name)
        assert cure in str(caught.value)
        # The methods that the cure names exist.
        for method in re.findall(r"pool\.(\w+)", cure):
            assert callable(getattr(pool, method))


def test_another_name_is_an_ordinary_error(pool):
    assert getattr(pool, "nothing", 5) == 5
    with pytest.raises(AttributeError, match="'Pool' object has no attribute 'sumbit'") as caught:
        pool.sumbit  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("sumbit", pool)
    assert copy.copy(pool)._core is pool._core


@pytest.mark.parametrize(
    ("given", "write"),
    [
        ({"processes": 2}, "max_workers=2"),
        ({"n_jobs": 3}, "max_workers=3"),
        ({"n_jobs": -1}, "leave it out"),
        ({"num_workers": 2}, "max_workers=2"),
        ({"maxtasksperchild": 7}, "max_tasks_per_child=7"),
        ({"start_method": "spawn"}, "mp_context='spawn'"),
        ({"max_worker": 2}, "did you mean 'max_workers'"),
        ({"thread_name_prefix": "a"}, "ThreadPoolExecutor"),
    ],
)
def test_keywords_of_other_pools(given, write):
    (name,) = given
    with pytest.raises(TypeError, match=rf"^Pool\(\) got an unexpected keyword argument '{name}'.*{write}"):
        sa.Pool(**given)


def test_the_initializer_has_another_place():
    with pytest.raises(TypeError, match=r"mp_context must be .*Next step: write initializer=$"):
        sa.Pool(2, abs, (1,))


def test_keywords_of_other_maps(pool):
    for way in (pool.map, pool.imap_unordered, pool.starmap):
        for name, cure in migration.MAP_KEYWORDS.items():
            with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}'. Next step: "):
                way(abs, [1], **{name: abs})
            for written in re.findall(r"write (\w+)=", cure):
                assert written in inspect.signature(way).parameters or written == "buffersize"
    for name, cure in migration.POOL_KEYWORDS.items():
        for written in re.findall(r"write (\w+)=", cure):
            assert written in inspect.signature(sa.Pool).parameters, name


@pytest.mark.parametrize(
    ("package", "pool"),
    [("joblib", "Parallel"), ("multiprocessing", "Pool"), ("concurrent.futures", "ThreadPoolExecutor")],
)
def test_every_keyword_of_other_pools_is_explained(package, pool):
    theirs = getattr(pytest.importorskip(package), pool)
    for name in set(inspect.signature(theirs).parameters) - set(inspect.signature(sa.Pool).parameters):
        with pytest.raises(TypeError, match=rf"^Pool\(\) .* argument '{name}'. Next step: "):
            sa.Pool(**{name: 2})


def test_the_table_shows_what_works(pool):
    """It has a row for each method of multiprocessing's, and the last column can be run."""
    section = (ROOT / "docs/coming_from/multiprocessing.md").read_text(encoding="utf-8")
    rows = [
        line[1:-1].split("|") for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")
    ]
    first = " ".join(row[0] for row in rows)
    for name in ("apply", "apply_async", "map", "map_async", "imap", "imap_unordered", "starmap"):
        assert f"`{name}(" in first
    for name in ("starmap_async", "close", "join", "terminate"):
        assert f"`{name}(" in first
    assert all(len(row) == 5 for row in rows)
    known = {"Pool": sa.Pool, "share": sa.share, **{name: getattr(pool, name) for name in OURS}}
    called = [name for row in rows[2:] for name in re.findall(r"`(\w+)\(", row[-1])]
    assert set(called) - {"list"} == set(known)
    f, xs, pairs, args = pool_tasks.add, range(3), [(1, 2), (3, 4)], (5,)
    told: list[int] = []
    submit, map, starmap, imap_unordered = pool.submit, pool.map, pool.starmap, pool.imap_unordered
    assert submit(f, *args).result() == 6
    submit(f, *args).add_done_callback(lambda future: told.append(future.result()))
    assert list(map(f, xs)) == [1, 2, 3]
    assert list(map(f, xs, buffersize=100)) == sorted(imap_unordered(f, xs)) == [1, 2, 3]
    assert list(starmap(f, pairs)) == [3, 7]
    with sa.Pool(4) as other:
        other.shutdown(wait=False)
        other.shutdown()
        other.kill_workers()


OURS = ("submit", "map", "starmap", "imap_unordered", "shutdown", "kill_workers", "options")
