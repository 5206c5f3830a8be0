"""The rows about the pool itself run, have the contestants that their aims name, and are shown and stored."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import few
from test_bench import MACHINE, race_of

import sharedarray as sa
from sharedarray._bench import processor_time, results, rows, script, short_tasks
from sharedarray._bench.race import Race, run_together
from sharedarray._bench.results import Results
from sharedarray._bench.rows import arrays, calls, growth, maps
from sharedarray._cli import main

BESIDE = {
    "round-trip": {"limit", "ProcessPoolExecutor", calls.SCRIPT},
    "map": {"multiprocessing.Pool"},
    "arrays": {arrays.IN_POOL, "limit", "ProcessPoolExecutor"},
    "share": {"limit", "SharedMemory + copy"},
    "submit": {"limit", "ProcessPoolExecutor", "multiprocessing.Pool", calls.SCRIPT},
    "growth": {growth.ours(1), growth.ours(2), "ProcessPoolExecutor, 2 workers"},
    "idle": {"ProcessPoolExecutor", "multiprocessing.Pool"},
    "as-completed": {"limit", "ProcessPoolExecutor"},
}
"""Contestants of each row, beside this library's pool."""

PROGRAM = """
import sys
from pathlib import Path
from sharedarray._bench import results, rows

if __name__ == "__main__":
    results.measured_here(list(rows.ROWS[sys.argv[1]](rows.TINY))).save(Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that measures a row once, in a program of its own, and returns the file of its results."""
    directory = tmp_path_factory.mktemp("rows")
    program = directory / "program.py"
    program.write_text(PROGRAM)

    @functools.cache
    def store(row: str) -> Path:
        path = directory / f"{row}.json"
        subprocess.run([sys.executable, program, row, path], check=True, timeout=120)
        return path

    return store


@pytest.mark.parametrize("row", few([*rows.ROWS]))
def test_a_row_has_every_contestant_and_its_aims(stored: Callable[[str], Path], row: str) -> None:
    found = results.load([stored(row)])
    assert found.races
    for race in found.races:
        assert race.group in rows.GROUPS
        if not race.missing:
            ours = set() if row == "growth" else {"sharedarray"}
            assert set(race.figures) >= BESIDE[row] | ours, race.title
            assert all(figure >= 0 for figures in race.figures.values() for figure in figures)
        aims = [aim for aim in rows.AIMS if aim.group == race.group]
        assert aims
        # 64 workers are too many for a test.
        assert row == "growth" or race.missing or all(aim.value(found) is not None for aim in aims)


@pytest.mark.slow
def test_every_aim_is_about_a_row(stored: Callable[[str], Path]) -> None:
    groups = {race.group for row in rows.ROWS for race in results.load([stored(row)]).races}
    few = rows.TINY.chosen(list(maps.LENGTHS)), rows.TINY.chosen(arrays.SIZES)
    left_out = {group for (length, _), group in maps.TIMES.items() if length not in few[0]}
    left_out |= {group for (length, _), group in maps.PROCESSOR_TIMES.items() if length not in few[0]}
    left_out |= {group for (_, size), group in arrays.PLAIN.items() if size not in few[1]}
    assert groups == rows.GROUPS - left_out


def test_an_aim_is_met_or_missed() -> None:
    limit, slow = rows.Aim("a", "g", "x", "y", 1.5), rows.Aim("b", "g", "x", "", 10)
    least = rows.Aim("c", "g", "y", "x", 1.85, least=True)
    race = race_of({"x": [30e-6, 20e-6], "y": [20e-6, 20e-6]}, group="g", baseline="y")
    found = Results(dict(MACHINE), [race])
    assert limit.value(found) == pytest.approx(1.25)
    assert limit.met(1.25)
    assert slow.value(found) == pytest.approx(25)
    assert not slow.met(25)
    assert not least.met(1.84)
    assert least.met(1.85)
    assert rows.Aim("d", "other", "x", "", 1).value(found) is None
    assert rows.Aim("d", "g", "z", "", 1).value(found) is None


def test_the_aims_are_told_with_the_figures_and_in_the_report(tmp_path: Path) -> None:
    report = pytest.importorskip("sharedarray._bench.report", reason="needs matplotlib")
    figures = {"sharedarray": [20e-6], calls.SCRIPT: [50e-6], "limit": [30e-6]}
    found = Results(dict(MACHINE), [race_of(figures, group=calls.ROUND_TRIPS["back to back"])])
    lines = list(rows.sentences(found))
    assert [line.split()[-1] for line in lines] == ["met", "MISSED"]
    assert "at most 1.1" in lines[1]
    report.write(found, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| 2.5 | at most 1.1 | **missed** |" in text
    assert "| 0.667 | at most 1 |  |" in text


def test_one_call_gives_a_figure_to_each_race() -> None:
    order: list[str] = []

    def measured(name: str, busy: float | None) -> tuple[float, float | None]:
        order.append(name)
        return float(len(order)), busy

    times, busy = Race("times", "a"), Race("busy", "b")
    run_together([times, busy], {"a": lambda: measured("a", None), "b": lambda: measured("b", 7.0)}, rounds=2)
    assert order == ["a", "b", "b", "a"]
    assert times.figures == {"a": [1.0, 4.0], "b": [2.0, 3.0]}
    assert busy.figures == {"b": [7.0, 7.0]}


def test_a_ratio_to_nothing_is_infinite() -> None:
    assert race_of({"limit": [0.0], "other": [1.0]}).ratio("other") == float("inf")


# -- functions of the script ----------------------------------------------------------------------------


def test_functions_of_the_script_are_those_of_the_main_module() -> None:
    import __main__ as program

    before = dict(vars(program))
    with script.in_main(short_tasks) as there:
        assert there.estimate.__module__ == "__main__"
        assert there.estimate.__globals__ is vars(program)
        seed = 3 * short_tasks.SEEDS + 1
        with sa.Pool(1) as pool:
            assert pool.submit(there.estimate, seed).result() == short_tasks.estimate(seed)
    assert vars(program) == before


def test_an_estimate_draws_as_many_chunks_as_its_seed_says(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(short_tasks, "_inside", lambda _: drawn.append(1) or short_tasks.POINTS // 2)
    assert short_tasks.estimates([3 * short_tasks.SEEDS + 5, short_tasks.SEEDS]) == [2.0, 2.0]
    assert len(drawn) == 4


# -- processor time -------------------------------------------------------------------------------------


@pytest.mark.skipif(processor_time.why_not() is not None, reason=str(processor_time.why_not()))
def test_processor_time_is_that_of_the_process() -> None:
    program = "import sys, time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = processor_time.seconds([process.pid])
        assert 0.2 <= used < 2
        process.communicate()
    assert processor_time.seconds([process.pid]) == 0  # it has ended


# -- the command ----------------------------------------------------------------------------------------


def test_the_command_measures_rows_shows_and_stores_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    command = [
        sys.executable,
        "-m",
        "sharedarray",
        "bench",
        "--pool",
        "share",
        "--quick",
        "--json",
        str(path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert "again and again" in ended.stdout
    assert "share again and again, over a warm copy" in ended.stdout
    assert [race.group for race in results.load([path]).races] == [arrays.AGAIN]


def test_a_row_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--pool", "share,abacus"]) == 2
    assert "'abacus' is none of: round-trip, map" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--size", "1KiB"], ["--against", "loky"]])
def test_rows_take_no_sizes_and_no_contestants(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--pool", "share", *words]) == 2
    assert "--pool has rows of its own" in capsys.readouterr().err


def test_stored_rows_are_shown(stored: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--from", str(stored("round-trip"))]) == 0
    shown = capsys.readouterr().out
    assert "one no-op task, back to back" in shown
    assert "at most 1.1" in shown
