"""The common parts of the benchmarks; the measuring itself is `sharedarray._bench`.

``pytest benchmarks`` prints the tables. With ``--report DIR`` it stores pytest-benchmark's JSON there, as
``results.json``, and writes the report next to it: ``report.md`` and pictures. When that is
``benchmarks/report``, the figures in the README are written anew, too. With ``--keep``, races that are
not run again stay as they were stored.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sharedarray as sa
from sharedarray._bench import hosts, machine, memory
from sharedarray._bench.race import FEWEST, Race, seconds_of

QUICK = bool(os.environ.get("SHAREDARRAY_BENCH_QUICK"))
"""Few rounds and small sizes: whether a benchmark still runs, not what it says."""

BUDGET = 2.5
"""Seconds that a contestant may take over the rounds of a race of many; see `Race.run`."""

PATIENCE = 1800
"""Seconds that a benchmark may take before it is a failure: pickling a gigabyte takes ten of them."""


def human(size: int) -> str:
    """Return bytes for titles: 4 KiB, 64 MiB."""
    return machine.human(size)


@pytest.fixture
def race(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., Race]:
    """Run a race, print its table, and hand its figures to pytest-benchmark under the baseline's name."""
    benchmark = request.getfixturevalue("benchmark")
    races = benchmark.extra_info["races"] = []

    def run(
        title: str,
        contestants: dict[str, Callable[[], Any]],
        *,
        baseline: str,
        rounds: int,
        loops: int = 1,
        per: int = 1,
        unit: str = "us",
        measured: bool = False,
        budget: float | None = None,
        fewest: int = FEWEST,
        missing: dict[str, str] | None = None,
        notes: dict[str, str] | None = None,
        group: str = "",
        size: int | None = None,
    ) -> Race:
        made = Race(title, baseline, unit, missing=dict(missing or {}), notes=dict(notes or {}))
        made.group, made.size = group or request.node.originalname, size
        if QUICK:
            rounds, loops = min(rounds, 2), min(loops, 2)
        made.run(
            contestants,
            rounds=rounds,
            loops=loops,
            per=per,
            measured=measured,
            budget=budget,
            fewest=fewest,
        )
        with capsys.disabled():
            print("\n" + made.table())
        if not races:
            # pytest-benchmark knows no interleaving. It times ours once more, for its own table and history,
            # and keeps the races in its JSON.
            ours = contestants["sharedarray"]
            again = ours if measured else lambda: seconds_of(ours, 1)
            benchmark.pedantic(again, rounds=1 if QUICK or measured else 5, warmup_rounds=not measured)
        races.append(made.as_json())
        return made

    return run


@pytest.fixture
def races(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print the tables of races that measure themselves, and hand their figures to pytest-benchmark."""
    benchmark = request.getfixturevalue("benchmark")
    records = benchmark.extra_info["races"] = []

    def run(made: Iterable[Race]) -> None:
        def measure() -> None:
            for one in made:
                with capsys.disabled():
                    print("\n" + one.table())
                records.append(one.as_json())

        benchmark.pedantic(measure, rounds=1)  # its figure is the time of the whole row

    return run


class Everyone:
    """Contestants in hosts of their own, which start when first asked for and stay for a file's tests."""

    def __init__(self, there: dict[str, hosts.Host], missing: dict[str, str]) -> None:
        self.there = there
        self.missing = missing

    def asked(self, question: str, *args: Any, seconds: float = 0.03) -> dict[str, Callable[[], float]]:
        """Return what asks each that has an answer this question, for `Race.run` with ``measured``."""
        return {
            name: functools.partial(host.ask, question, *args, seconds=seconds)
            for name, host in self.there.items()
            if question in host.questions
        }

    def leave_out(self, race: Race) -> None:
        """Remember who failed, so that it is not asked again."""
        for name in race.missing:
            self.there.pop(name, None)
            self.missing.setdefault(name, race.missing[name])


@pytest.fixture(scope="module")
def everyone(request: pytest.FixtureRequest) -> Iterator[Everyone]:
    """Provide all contestants that are installed, or those that the module names in ``CONTESTANTS``."""
    names: Iterable[str] = request.module.CONTESTANTS
    with hosts.hosted(names) as (there, missing):
        yield Everyone(there, missing)


@pytest.fixture(scope="module")
def stored() -> Iterator[Callable[[int], str]]:
    """Provide a file in which all contestants find an array of so many bytes; see `tasks.stored`."""
    blocks: dict[int, sa.SharedArray] = {}

    def path(size: int) -> str:
        if size not in blocks:
            while blocks:
                blocks.popitem()[1].close()
            blocks[size] = sa.ones(size // 8)
        name = blocks[size].name
        return next(block.path for block in sa.blocks() if block.name == name)

    yield path
    for block in blocks.values():
        block.close()


def need(size: int, times: float) -> None:
    """Skip a test for which there is not `times` the memory of its array."""
    if memory.available() < times * size:
        pytest.skip(f"{times:g} times {human(size)} are more than the {human(memory.available())} there are")


# -- the report -----------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, metavar="DIR", help="store the results there, with a report")
    parser.addoption("--keep", action="store_true", help="keep what is stored of races that are not run now")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(PATIENCE))


def pytest_configure(config: pytest.Config) -> None:
    directory = config.getoption("--report")
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        config.option.benchmark_json = directory / "results.json"


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Keep what a report is made of, and nothing that tells whose machine it was."""
    directory = config.getoption("--report")
    described = machine.described()
    if config.getoption("--keep") and directory is not None and (directory / "results.json").exists():
        stored = json.loads((directory / "results.json").read_text())
        run = {test["fullname"] for test in output_json["benchmarks"]}
        kept = [test for test in stored["benchmarks"] if test["fullname"] not in run]
        output_json["benchmarks"][:0] = kept
        since = stored["machine_info"]["date"].split(" ")[0]
        if kept and since != described["date"]:
            described["date"] = f"{since} to {described['date']}"  # of what is kept, and of what was run now
    output_json["machine_info"] = described
    output_json["commit_info"] = {}
    for test in output_json["benchmarks"]:
        test["stats"].pop("data", None)
        for race in test["extra_info"].get("races", []):
            race["figures"] = {
                name: [float(f"{figure:.4g}") for figure in figures]
                for name, figures in race["figures"].items()
            }


def pytest_unconfigure(config: pytest.Config) -> None:
    directory = config.getoption("--report")
    if directory is not None and (directory / "results.json").exists():
        from sharedarray._bench import report, results

        found = results.load([directory / "results.json"])
        report.write(found, directory)
        if directory.resolve() == Path(__file__).parent / "report":
            report.update(found, Path(__file__).parent.parent / "README.md")
