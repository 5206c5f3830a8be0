"""Every notebook runs from top to bottom, and is stored without what it once printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import JANITOR_ENDS, block_files, nothing_left, run, wait_until

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# In an interpreter of its own, since the client leaves threads and descriptors.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=60, resources={"metadata": {"path": sys.argv[2]}}).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
"""


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "nbclient", reason="needs nbclient and ipykernel: pip install 'numpy-sharedarray[test]'"
    )
    home = str(tmp_path / "home")
    run(EXECUTE, path, tmp_path, IPYTHONDIR=home, JUPYTER_RUNTIME_DIR=home, JUPYTER_CONFIG_DIR=home)
    wait_until(nothing_left, f"nothing is left by the notebook: {block_files()}", JANITOR_ENDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    for cell in cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
