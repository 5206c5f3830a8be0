"""All workers hash texts alike: some versions of Dask find the partition of a key by its hash."""

from __future__ import annotations

import os
import subprocess
import sys

import pool_tasks
import pytest
from helpers import ANSWER, environment, kill
from needs import few

import sharedarray as sa


def hashes(pool, tmp_path, name):
    """Return the hash of a text in each of two workers, and what their environment says of it."""
    meet = tmp_path / name
    meet.mkdir()
    found = list(pool.map(pool_tasks.meet_and_hash, [meet] * 2, [2] * 2))
    assert len({pid for pid, _, _ in found}) == 2
    return {value for _, value, _ in found}, {said for _, _, said in found}


def test_workers_hash_alike_and_so_do_those_that_replace_them(first_method, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with sa.Pool(2, first_method) as pool:
        first, said = hashes(pool, tmp_path, "first")
        assert len(first) == 1
        assert said == {None}
        monkeypatch.setenv(
            "PYTHONHASHSEED", "1234"
        )  # as Dask does: too late for this pool, and for no worker
        kill(pool.submit(os.getpid).result())
        again, said = hashes(pool, tmp_path, "again")
        assert again == first
    with sa.Pool(2, first_method) as other:
        assert hashes(other, tmp_path, "other")[0] == first


PROGRAM = """
import os, sys, sharedarray as sa
def of_text(_):
    return hash("a text"), os.environ.get("PYTHONHASHSEED")
with sa.Pool(1, sys.argv[1]) as pool:
    print(hash("a text"), *pool.submit(of_text, 0).result())
"""


@pytest.mark.parametrize("seed", few(["77", "0"]))
def test_a_seed_that_the_program_is_given_is_that_of_the_workers(first_method, seed):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, first_method],
        capture_output=True,
        text=True,
        timeout=ANSWER,
        check=True,
        env=environment(PYTHONHASHSEED=seed),
    )
    here, there, said = done.stdout.split()
    assert here == there
    assert said == seed
