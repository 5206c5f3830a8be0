"""Every Python example of the README runs as users try it: at the prompt, in IPython, and in a notebook.

Each example runs by itself, and all of them in one session. At the plain prompt, a blank line ends a compound
statement, and nothing else does.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ANSWER, ROOT, block_files, environment, nothing_left, run, wait_until
from needs import needs_files
from test_project import README, code_blocks

import sharedarray as sa
from sharedarray import _locks as locks

PATIENCE = 5 * ANSWER  # seconds that all examples take at most
EXAMPLES = "import json, os; examples = json.loads(os.environ['EXAMPLES'])\n"

IN_IPYTHON = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for example in examples:
    shell.run_cell(example).raise_error()
"""
IN_JUPYTER = """
import nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(example) for example in examples])
NotebookClient(notebook, timeout=120).execute()
for cell in notebook.cells:
    for output in cell.outputs:
        assert output.get("name") != "stderr", output.text
"""


def examples() -> list[str]:
    where = os.environ.get("SHAREDARRAY_DIR", "/dev/shm")
    return [block.replace("/dev/shm", where) for block in code_blocks("python")]


@needs_files  # which the README reads by their paths
def test_every_example_runs_when_it_is_pasted_at_the_prompt(tmp_path: Path) -> None:
    """A line behind each example says that the interpreter has read it to its end."""
    pasted = [f"{example}\nprint('example', {at}, 'is over')\n" for at, example in enumerate(examples())]
    done = subprocess.run(
        [sys.executable, "-i", "-q", "-W", "error"],
        input="".join(pasted),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=environment(PYTHONSTARTUP=""),
        check=False,
    )
    assert len(pasted) > 7
    for at in range(len(pasted)):
        assert f"example {at} is over" in done.stdout, at
    said = done.stderr.replace(">>> ", "").replace("... ", "").strip()
    assert said == ""
    assert done.returncode == 0


@needs_files
@pytest.mark.slow
def test_every_example_runs_by_itself_and_prints_what_is_shown() -> None:
    shown = code_blocks("text")
    done = [run(example, timeout=PATIENCE).stdout for example in examples()]
    assert done[: len(shown)] == shown


@needs_files
@pytest.mark.slow
@pytest.mark.parametrize(("package", "script"), [("IPython", IN_IPYTHON), ("nbclient", IN_JUPYTER)])
def test_every_example_runs_in_ipython_and_in_a_notebook(package: str, script: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    home = str(tmp_path / "home")
    variables = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"), home)
    run(EXAMPLES + script, timeout=PATIENCE, EXAMPLES=json.dumps(examples()), **variables)
    wait_until(nothing_left, f"nothing is left by the examples: {block_files()}")


def test_a_block_is_memory_and_never_a_with_statement() -> None:
    texts = {"README": README, **{name: inspect.getdoc(getattr(sa, name)) or "" for name in sa.__all__}}
    for kind in (sa.SharedArray, sa.Group, sa.Pool, sa.Segment):
        texts |= {
            f"{kind.__name__}.{name}": inspect.getdoc(member) or ""
            for name, member in inspect.getmembers(kind)
            if not name.startswith("_") and "sharedarray" in (getattr(member, "__module__", None) or "")
        }
    for path in (*ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")):
        texts[path.name] = path.read_text(encoding="utf-8")
    texts["locks"] = inspect.getsource(locks)
    said = re.compile(r"with`* block|(end|ends|leave|leaves|leaving|outer|fork in) (a|an|the|its)? ?block\b")
    assert [name for name, text in texts.items() if said.search(" ".join(text.split()))] == []
