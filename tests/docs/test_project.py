"""The README, the project file and the CI script agree with each other."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest
from helpers import ROOT, TESTS, answer

import sharedarray

README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def project() -> dict[str, object]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        table: dict[str, object] = tomllib.load(file)["project"]
    return table


def test_ci_runs_the_readmes_test_command() -> None:
    commands = [block.strip() for block in code_blocks("sh") if "pytest" in block]
    assert len(commands) == 1
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    assert commands[0] in lines


def test_readme_has_two_commands_that_need_no_set_up() -> None:
    commands = [block.strip() for block in code_blocks("sh")]
    assert len(commands) == 2
    for command in commands:
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && ")


def in_full(word: str) -> list[str]:
    """Return what a shell makes of a word with braces."""
    braces = re.search(r"\{([^{}]*)\}", word)
    if braces is None:
        return [word]
    before, after = word[: braces.start()], word[braces.end() :]
    return [each for choice in braces[1].split(",") for each in in_full(before + choice + after)]


def test_every_test_that_is_named_by_its_path_exists() -> None:
    files = [ROOT / ".ci" / "run", ROOT / "README.md", ROOT / "pyproject.toml"]
    files += [*(ROOT / "docs").rglob("*.md"), *TESTS.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    named = {
        (file.name, each)
        for file in files
        for word in re.findall(r"(?<![\w/])tests/[\w/{},.:]*", file.read_text(encoding="utf-8"))
        for each in in_full(word.rstrip(".,:"))
    }

    def exists(each: str) -> bool:
        name, _, test = each.partition("::")
        path = ROOT / name
        return path.exists() and (not test or f"\ndef {test}(" in path.read_text(encoding="utf-8"))

    assert len(named) > 50  # or the words are not recognized any more
    assert {(file, each) for file, each in named if not exists(each)} == set()


def test_each_test_file_is_in_a_directory_that_the_documentation_tells_of() -> None:
    """By a name of its own, for pytest imports it by its name alone."""
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    directories = set(re.findall(r"^\| `tests/(\w+)` \|", page, re.MULTILINE))
    paths = list(TESTS.rglob("test_*.py"))
    assert {path.parent.relative_to(TESTS).as_posix() for path in paths} == directories - {"support"}
    names = [path.name for path in TESTS.rglob("*.py")]
    assert sorted(set(names)) == sorted(names)


def test_every_extra_that_is_named_exists() -> None:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    files = [
        ROOT / "README.md",
        ROOT / "pyproject.toml",
        *(ROOT / "sharedarray").rglob("*.py"),
    ]
    named = {
        (extra.strip(), file.name)
        for file in files
        for group in re.findall(r"numpy-sharedarray\[([\w, -]+)\]", file.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert named
    assert {(extra, name) for extra, name in named if extra not in extras} == set()


def test_the_version_is_the_installed_one() -> None:
    try:
        importlib.metadata.version("numpy-sharedarray")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from a checkout that is not installed")
    assert sharedarray.__version__ == project()["version"]


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "sharedarray" / "py.typed").read_bytes() == b""


def test_second_interpreters_of_the_tests_do_without_pytest() -> None:
    """It would take them as long to import as all else."""
    loaded = answer("import sys, helpers, pool_tasks; helpers.say(list(sys.modules))")
    assert "sharedarray" in loaded
    assert not {"pytest", "_pytest"} & set(loaded)
