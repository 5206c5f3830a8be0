"""CPython's own tests of executors, with `Pool` in the place of `ProcessPoolExecutor`."""

from __future__ import annotations

import importlib
import unittest
from concurrent import futures

import pytest

import sharedarray as sa

pytest.importorskip("test.test_concurrent_futures", reason="this Python was built without its own tests")

MODULES = ("test_process_pool", "test_as_completed", "test_wait", "test_shutdown", "test_init", "test_deadlock")

for name in MODULES:
    module = importlib.import_module(f"test.test_concurrent_futures.{name}")
    for key, value in list(vars(module).items()):
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and getattr(value, "executor_type", None) is futures.ProcessPoolExecutor:
            new = "Pool" + key.removeprefix("ProcessPool")
            globals()[new] = type(new, (value,), {"executor_type": sa.Pool, "__module__": __name__})
del value, module
