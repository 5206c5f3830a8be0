"""Every notebook runs from top to bottom in a clean kernel, and is stored with what it then shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, block_files, nothing_left, run, wait_until

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [
    *("01_quickstart", "02_parallel_pipeline", "03_two_kernels_live"),
    *("04_sharing_vs_pickling", "05_from_shared_memory", "06_streams", "07_groups_growth_versions"),
]
LARGEST = 500_000  # bytes of a notebook with its pictures

# In an interpreter of its own, since the client leaves threads and descriptors. Pools, and multiprocessing,
# are given the start method before the notebook's own first cell.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
path, directory, method = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
nbformat.validate(notebook)
first = f'''
import multiprocessing
from sharedarray._pool.processes import worker_process
multiprocessing.set_start_method({method!r})
worker_process.default_method = lambda: {method!r}
'''
for cell in notebook.cells:
    if cell.cell_type == "code":
        cell.outputs = []
notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
NotebookClient(notebook, timeout=60, resources={"metadata": {"path": directory}}).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
"""


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize(
    ("path", "method"),
    [
        pytest.param(
            path,
            method,
            id=f"{path.stem}-{method}",
            marks=pytest.mark.slow,
        )
        for path in NOTEBOOKS
        for method in ("forkserver", "spawn")
    ],
)
def test_notebook_runs(path: Path, method: str, tmp_path: Path) -> None:
    pytest.importorskip(
        "nbclient", reason="needs nbclient and ipykernel: pip install 'numpy-sharedarray[test]'"
    )
    home = str(tmp_path / "home")
    run(EXECUTE, path, tmp_path, method, IPYTHONDIR=home, JUPYTER_RUNTIME_DIR=home, JUPYTER_CONFIG_DIR=home)
    wait_until(nothing_left, f"nothing is left by the notebook: {block_files()}")
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}, "it leaves files beside itself"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_its_outputs(path: Path) -> None:
    """As run once from top to bottom: numbered in order, without errors or warnings, and small."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    code: list[Any] = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not [out for out in outputs if out["output_type"] == "error" or out.get("name") == "stderr"]
    if path.stem[:2] != "05":  # which is about bytes and lists
        assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    assert path.stat().st_size < LARGEST
    home = str(Path.home())
    assert home == "/" or home not in path.read_text(encoding="utf-8")
