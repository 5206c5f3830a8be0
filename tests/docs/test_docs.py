"""The documentation: each code block of each page runs, and shows what the page says that it shows."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ANSWER, ROOT, environment
from needs import needs_files

import sharedarray as sa

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "_build" not in path.parts)

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Blocks that run. A block of text right behind one of them is its output: "..." stands for any text, and ages
# and pids may be other ones.
RUN = {"python", "sh"}
# Blocks that do not: what needs an index of packages, a container, a cluster, or another program.
SHOWN = {"text", "console", "slurm", "bat", "{toctree}", "{eval-rst}", "{image}"}
# Packages that a page may need.
OPTIONAL = ("dask", "distributed", "joblib", "pandas", "sklearn", "threadpoolctl", "tqdm")
# The pages that the usual run tests. All of them together take half a minute.
QUICK = {"get_started.md"}
MARK = "--- end of block"


def blocks(page: str) -> list[tuple[str, str, str | None]]:
    """Language, text and expected output of each block of a page that runs."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found: list[tuple[str, str, str | None]] = []
    end = 0
    for fence in FENCE.finditer(text):
        language, content = fence[1].strip(), fence[2]
        if language == "text" and found and not text[end : fence.start()].strip():
            found[-1] = (*found[-1][:2], content)
        elif language in RUN:
            found.append((language, content, None))
        end = fence.end()
    return found


def comparable(output: str) -> str:
    """Return an output without what differs from run to run: ages, pids, moments."""
    output = re.sub(r"  # with SHAREDARRAY_DIR=\S+", "", output)
    output = re.sub(r"\b[0-9]+s\b", "1s", output)
    output = re.sub(r"\b[0-9]{2,7} (program\.py|pool worker|dead)\b", r"4711 \1", output)
    return re.sub(r"\b[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\b", "2026-11-28 12:00:00", output)


def program(page: str) -> str:
    """Return a script that runs the blocks of a page in their order, and tells the end of each."""
    parts = []
    for language, content, _ in blocks(page):
        if language == "sh":
            content = f"import subprocess as _; _.run(['sh', '-e', '-c', {content!r}], check=True)\n"
        parts += [content, f"print({MARK!r}, flush=True)"]
    return "\n".join(parts).replace("/dev/shm", os.environ.get("SHAREDARRAY_DIR", "/dev/shm"))


def test_each_block_is_of_a_known_kind() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert {fence[1].strip().split(" ")[0] for fence in FENCE.finditer(text)} <= RUN | SHOWN, page
    assert set(PAGES) >= QUICK


def test_each_public_name_is_in_the_reference() -> None:
    pages = [(DOCS / page).read_text(encoding="utf-8") for page in PAGES if page.startswith("api/")]
    reference = "\n".join(pages)
    named = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", reference, re.MULTILINE)
    assert sorted(set(sa.__all__) - set(named)) == []


def test_links_between_pages_lead_somewhere() -> None:
    """Sphinx looks at them too, and at their anchors; this needs no Sphinx."""
    for page in PAGES:
        text = FENCE.sub("", (DOCS / page).read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            if not target.startswith("notebooks/") and "/notebooks/" not in target:
                assert (DOCS / page).parent.joinpath(target).exists(), f"{page}: {target}"


@needs_files  # by their paths
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page in QUICK else pytest.mark.slow) for page in PAGES if blocks(page)],
)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    script = program(page)
    for package in OPTIONAL:
        used = re.search(rf"^\s*(?:import|from) {package}\b", script, re.MULTILINE)
        if used and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    command = tmp_path / "bin" / "sharedarray"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sharedarray "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = tmp_path / "program.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=tmp_path,
        env=environment(PATH=f"{command.parent}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        encoding="utf-8",
        timeout=2 * ANSWER,  # less than pytest's own limit, so that the page's process is ended
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = done.stdout.split(f"{MARK}\n")
    found = blocks(page)
    assert len(outputs) == len(found) + 1
    same = doctest.OutputChecker().check_output
    for (_, content, expected), output in zip(found, outputs, strict=False):
        if expected is not None:
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            expected = expected.replace("/dev/shm", os.environ.get("SHAREDARRAY_DIR", "/dev/shm"))
            told = f"{content}\nshows:\n{output}\nand not:\n{expected}"
            assert same(comparable(expected), comparable(output), options), told
    assert done.stderr == ""
