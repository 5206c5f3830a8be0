"""Fixtures of the pool's tests: start methods, and a pool. `nothing_leaks`, one up, checks each test."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import wait_until
from needs import EACH_METHOD

import sharedarray as sa
from sharedarray._pool.processes import default_method

# Workers import the functions of pool_tasks, without this test directory's other imports.
sys.path.insert(0, str(Path(__file__).parent))

METHODS = multiprocessing.get_all_start_methods()
# What a call means does not depend on how its worker was started: of tests of that, all but one way are slow.
FIRST_METHOD = [
    method if method == default_method() else pytest.param(method, marks=pytest.mark.slow)
    for method in METHODS
]


@pytest.fixture(scope="session", autouse=True)
def servants() -> None:
    """Start what lives on after a pool, so that it does not count as left behind: fork server, tracker."""
    for method in METHODS:
        with sa.Pool(1, method) as pool:
            pool.submit(os.getpid).result()


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
