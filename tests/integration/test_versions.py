"""Versions of joblib, loky and Dask that are not known: left alone, with one warning when it matters."""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import Any

import pytest
from helpers import run

from sharedarray import _picklers as picklers, _versions as versions, integrations

pytestmark = pytest.mark.lingers("child", "descriptor")

MODULES = [
    name
    for name in picklers._WAITED_FOR
    if name.partition(".")[0] in ("joblib", "loky", "dask", "distributed")
]


def module(name: str) -> ModuleType:
    pytest.importorskip(name.partition(".")[0])
    return importlib.import_module(name)


def test_every_module_of_another_package_is_checked() -> None:
    assert set(MODULES) == set(versions._NEEDED)
    assert {name.partition(".")[0] for name in MODULES} == set(versions.BOUNDS) == set(versions._SENDERS)
    assert integrations.install is not None


@pytest.mark.parametrize("name", MODULES)
def test_the_versions_that_are_installed_are_supported(name: str) -> None:
    assert versions._problem(module(name)) is None


@pytest.fixture
def joblib_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    joblib = pytest.importorskip("joblib")
    monkeypatch.setattr(versions, "_left_alone", {})
    monkeypatch.setattr(versions, "_warned", set())

    def changed(version: str) -> ModuleType:
        monkeypatch.setattr(joblib, "__version__", version)
        return importlib.import_module("joblib.parallel")

    return changed


@pytest.mark.parametrize(
    ("version", "known"),
    [
        *(("1.3.9", False), ("1.4.0", True), ("1.6.0rc1", True), ("1.999", True), ("2.0.0", False)),
        *(("2.0.dev0", False), ("0.17", False), ("10", False), ("nightly", True), ("1!1.5", True)),
    ],
)
def test_bounds(joblib_of: Any, version: str, known: bool) -> None:
    assert versions.supports(joblib_of(version)) is known
    assert versions._left_alone.keys() == (set() if known else {"joblib"})


@pytest.mark.parametrize("replacement", [None, lambda other: None, "no function"])
def test_a_function_that_is_missing_or_another_is_noticed(
    joblib_of: Any, monkeypatch: pytest.MonkeyPatch, replacement: Any
) -> None:
    parallel = joblib_of("1.5")
    monkeypatch.setattr(parallel, "register_parallel_backend", replacement)
    assert not versions.supports(parallel)
    assert "register_parallel_backend" in versions._left_alone["joblib"]


WARNED = """
import json, sys, warnings
package = sys.argv[1]
module = __import__(package)
before = None
if sys.argv[2] == "other":
    module.__version__ = "9999.1"
warnings.simplefilter("error")  # nothing is said at the import
import numpy as np
import sharedarray as sa
warnings.simplefilter("always")

def told(x):
    return type(x).__name__, float(x.sum())

def use(a):
    if package == "joblib":
        import joblib
        with joblib.parallel_config(backend=sys.argv[3]):
            return joblib.Parallel(2)([joblib.delayed(told)(a)] * 3)
    if package == "loky":
        import loky
        with loky.get_reusable_executor(2) as executor:
            return list(executor.map(told, [a] * 3))
    import distributed
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        return client.gather([client.submit(told, a, pure=False) for _ in range(3)])

if __name__ == "__main__":
    a = sa.ones(10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = use(a)
    said = [str(each.message) for each in caught if "sharedarray" in str(each.message)]
    print(json.dumps([found, said]))
"""


def used(tmp_path: Any, *arguments: str) -> tuple[list[Any], list[str]]:
    script = tmp_path / "script.py"
    script.write_text(WARNED)
    run_it = f"runpy.run_path({str(script)!r}, run_name='__main__')"
    program = f"import runpy, sys; sys.argv[1:] = {list(arguments)!r}; {run_it}"
    found, said = json.loads(run(program).stdout.splitlines()[-1])
    return found, said


@pytest.mark.parametrize(
    "arguments",
    [
        ("joblib", "loky"),
        pytest.param(("joblib", "sharedarray"), marks=pytest.mark.slow),
        pytest.param(("loky", ""), marks=pytest.mark.slow),
        pytest.param(("distributed", ""), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_another_version_is_left_alone_with_one_warning_when_it_is_used(
    tmp_path: Any, arguments: tuple[str, str]
) -> None:
    package, backend = arguments
    pytest.importorskip(package)
    found, said = used(tmp_path, package, "other", backend)
    assert found == [["ndarray", 10.0]] * 3
    assert len(said) == 1
    assert f"{package} 9999.1" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("joblib", "loky"), ("loky", ""), ("distributed", "")], ids="-".join)
def test_a_known_version_sends_references(tmp_path: Any, arguments: tuple[str, str]) -> None:
    package, backend = arguments
    pytest.importorskip(package)
    assert used(tmp_path, package, "known", backend) == ([["SharedArray", 10.0]] * 3, [])


def test_a_pool_on_a_cluster_of_another_version_is_refused() -> None:
    pytest.importorskip("distributed")
    script = """
        import distributed
        distributed.__version__ = "2020.1"
        import sharedarray as sa
        from sharedarray.integrations.dask import DaskPool
        try:
            DaskPool(None)
        except sa.UnsupportedError as error:
            print(error)
    """
    said = run(script).stdout
    assert "2020.1" in said
    assert "2024.5" in said
