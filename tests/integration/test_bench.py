"""The benchmark measures correctly: races, hosts, stored results, the report and `sharedarray bench`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from helpers import KILLED, ROOT, alive, kill, wait_until
from needs import needs_signals

import sharedarray as sa
from sharedarray._bench import command, contestants, hosts, machine, memory, results, rows, summary
from sharedarray._bench.contestants import CONTESTANTS
from sharedarray._bench.race import ContestantError, Race
from sharedarray._bench.results import Results
from sharedarray._cli import main

KIB, MIB = 1 << 10, 1 << 20
MACHINE = {
    "processor": "an abacus",
    "processors": 2,
    "memory": 24 << 30,
    "system": "Linux 6",
    "python": "3.11",
    "packages": {"numpy": "2"},
    "date": "2026-01-01",
}


needs_pictures = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
try:
    import psutil
except ImportError as error:
    psutil = None
    why = f"psutil cannot be used: {error}"
else:
    why = ""
needs_psutil = pytest.mark.skipif(psutil is None, reason=why)
# matplotlib never closes the fonts that it has opened.
fonts_stay = pytest.mark.lingers("descriptor")


def race_of(figures: dict[str, list[float]], **kwargs: Any) -> Race:
    return Race(kwargs.pop("title", "a race"), kwargs.pop("baseline", "limit"), figures=figures, **kwargs)


# -- races ----------------------------------------------------------------------------------------------


def test_contestants_take_turns_and_the_first_changes():
    order: list[str] = []
    race = Race("turns", "a")
    race.run({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abc" + "cba" + "abc" + "cba"  # the first round does not count
    assert [len(race.figures[name]) for name in "abc"] == [3, 3, 3]


def test_ratio_is_the_median_of_the_rounds_ratios():
    race = race_of({"limit": [1.0, 2.0, 4.0], "other": [3.0, 2.0, 8.0]})
    assert race.ratio("other") == 2.0  # of 3, 1 and 2; the medians' would be 1.5
    assert race.median("other") == 3.0
    assert race.ratio_to("limit", "other") == 0.5


def test_tidying_up_is_not_timed():
    race = Race("tidy", "both")
    pause = 0.05

    def call() -> Any:
        return lambda: time.sleep(pause)

    race.run({"both": call}, rounds=1)
    assert race.median("both") < pause / 2


def test_who_fails_is_left_out_and_the_race_goes_on():
    calls = iter(range(100))

    def fails() -> float:
        if next(calls) == 2:
            raise ContestantError("it broke")
        return 1.0

    race = Race("fails", "good")
    race.run({"good": lambda: 2.0, "bad": fails}, rounds=5, measured=True)
    assert race.figures == {"good": [2.0] * 5}
    assert race.missing == {"bad": "it broke"}
    assert "bad" in race.table()
    assert "it broke" in race.table()


def test_a_slow_contestant_is_in_fewer_rounds():
    race = Race("slow", "quick")

    def slow() -> float:
        time.sleep(0.02)
        return 1.0

    race.run({"quick": lambda: 1.0, "slow": slow}, rounds=9, measured=True, budget=0.05)
    assert len(race.figures["quick"]) == 9
    assert 3 <= len(race.figures["slow"]) < 9
    assert race.ratio("slow") == 1.0


# -- hosts ----------------------------------------------------------------------------------------------


@needs_psutil
def test_a_host_answers_with_seconds_and_ends_with_its_workers():
    with hosts.Host("multiprocessing.Pool") as host:
        workers = memory.process_tree(host.pid)[1:]
        assert 0 < host.ask("noop") < 1
        assert 0 < host.ask("argument", 64 * KIB) < 1
        assert len(workers) >= 2
    wait_until(lambda: not any(map(alive, [host.pid, *workers])), "the end of the host and its workers")


def test_a_host_that_is_killed_is_a_contestant_less():
    with hosts.Host("limit") as host:
        kill(host.pid)
        with pytest.raises(ContestantError, match=rf"ended with exit code {KILLED}|has ended"):
            host.ask("noop")


@needs_signals
def test_a_host_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(hosts, "PATIENCE", 0.5)
    with hosts.Host("limit") as host:
        os.kill(host.pid, signal.SIGSTOP)
        with pytest.raises(ContestantError, match="no answer"):
            host.ask("noop")


def test_a_failure_in_a_host_says_what_it_was():
    with hosts.Host("limit") as host, pytest.raises(ContestantError, match="FileNotFoundError"):
        host.ask("result", "/no/such/file", 8)


def test_who_is_not_installed_is_named_with_the_reason(monkeypatch):
    monkeypatch.setattr(CONTESTANTS["ray"], "needs", "no_such_package")
    with hosts.hosted(["limit", "ray"]) as (there, missing):
        assert list(there) == ["limit"]
    assert missing == {"ray": "no_such_package is not installed"}


@pytest.mark.slow
@pytest.mark.skipif(memory.why_not() is not None, reason=str(memory.why_not()))
def test_peak_memory_counts_a_copy_in_a_memory_file_and_one_in_a_process():
    size = 32 * MIB
    with hosts.Host("multiprocessing.Pool") as host:
        host.ask("have", size)
        assert (
            1.8 * size < host.peak("argument", size) < 3.5 * size
        )  # what is pickled, and what is read of it
    with hosts.Host("sharedarray, shared") as host:
        host.ask("have", size)
        assert 0.9 * size < host.peak("argument", size) < 1.2 * size  # the block


# -- stored results -------------------------------------------------------------------------------------


def sweep() -> Results:
    """Ours crosses pickling between 1 KiB and 16 KiB as an argument, and is faster everywhere as a result."""
    found = []
    for size, ours, pickled in [(KIB, 40e-6, 20e-6), (16 * KIB, 40e-6, 80e-6), (MIB, 200e-6, 2e-3)]:
        figures = {"limit": [20e-6] * 3, "sharedarray": [ours] * 3, "ProcessPoolExecutor": [pickled] * 3}
        found.append(race_of(figures, title=f"argument {size}", group="argument", size=size))
        figures = {"limit": [20e-6] * 3, "sharedarray": [ours] * 3, "ProcessPoolExecutor": [1.0] * 3}
        found.append(race_of(figures, title=f"result {size}", group="result", size=size))
    return Results(dict(MACHINE), found)


def test_stored_results_are_read_again(tmp_path):
    sweep().save(tmp_path / "a.json")
    assert results.load([tmp_path / "a.json"]) == sweep()


def test_of_two_files_the_later_one_says_what_a_race_was(tmp_path):
    sweep().save(tmp_path / "a.json")
    again = sweep()
    again.races = again.races[:1]
    again.races[0].figures["limit"] = [1.0, 1.0, 1.0]
    again.save(tmp_path / "b.json")
    found = results.load([tmp_path / "a.json", tmp_path / "b.json"])
    assert len(found.races) == 6
    assert found.group("argument")[0].median("limit") == 1.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sharedarray-bench": 99, "machine": {}, "races": []}'])
def test_what_stores_no_races_is_refused(tmp_path, text, capsys):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(sa.HeaderError, match="stores no races"):
        results.load([path])
    assert main(["bench", "--from", str(path)]) == 1
    assert "stores no races" in capsys.readouterr().err


def test_the_crossover_is_where_the_curves_cross():
    size, seconds, everywhere = summary.crossover(sweep(), "argument")
    assert size == pytest.approx(4 * KIB)  # halfway, on logarithmic axes, from half to twice
    assert seconds == pytest.approx(40e-6)
    assert not everywhere
    assert summary.crossover(sweep(), "result")[2]


def test_where_sharing_loses_is_told():
    lost = summary.losses(sweep())
    assert [(race.size, other, factor) for race, other, factor in lost] == [
        (KIB, "ProcessPoolExecutor", pytest.approx(2.0))
    ]
    assert len(summary.behind(sweep())) == 6


@fonts_stay
def test_a_report_has_every_race_and_its_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    sweep().save(tmp_path / "a.json")
    assert main(["bench", "--from", str(tmp_path / "a.json"), "--report", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for race in sweep().races:
        assert race.title in text
    assert "an abacus" in text
    assert "2 times as long as ProcessPoolExecutor" in text
    assert "from 4 KiB on" in text
    assert (tmp_path / "out" / "pickling.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "out" / "pickling.svg").read_text()
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (tmp_path / "out" / picture).exists()


# -- the command ----------------------------------------------------------------------------------------


@pytest.mark.slow
@fonts_stay
def test_the_command_measures_shows_stores_and_draws(tmp_path, capfd):
    stored, picture = tmp_path / "figures.json", tmp_path / "curves.svg"
    code = main(["bench", "--size", "1KiB,1MiB", "--json", str(stored), "--plot", str(picture)])
    shown = capfd.readouterr()
    assert code == 0
    assert {"ProcessPoolExecutor", "multiprocessing.Pool", "sharedarray"} < set(shown.out.split())
    assert "starting " in shown.err  # the progress
    found = results.load([stored])
    assert found.curve("argument", "sharedarray")[0] == [KIB, MIB]
    for race in found.races:
        assert set(race.figures) == set(command.STANDARD)
        assert all(0 < figure < 5 for figures in race.figures.values() for figure in figures)
    # A megabyte that is shared already is not copied, and pickling copies it several times.
    large = found.group("argument")[1]
    assert large.ratio_to("ProcessPoolExecutor", "sharedarray, shared") > 2
    text = picture.read_text()
    assert "</svg>" in text
    assert main(["bench", "--from", str(stored)]) == 0
    assert capfd.readouterr().out in shown.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size", "big"], "no size"),
        (["--size", "4B"], "'4B' is too small to be measured"),
        (["--against", "abacus"], "none of"),
        pytest.param(["--plot", "curves.gif"], "does not end in", marks=needs_pictures),
        (["--json", "/no/such/directory/x.json"], "no directory"),
        pytest.param(["--report", "here"], "--from", marks=needs_pictures),
    ],
)
def test_what_cannot_be_done_is_told_before_the_work(words, told, capsys):
    assert main(["bench", *words]) == 2
    assert told in capsys.readouterr().err


def test_sizes_and_names_are_read():
    assert command._sizes("64KiB,1m,1.5GB,100") == [64 * KIB, MIB, 3 << 29, 96]
    assert command._names("Ray, put before,loky") == ["ray, put before", "loky"]
    assert command._wanted(["all"]) == list(CONTESTANTS)
    assert command._wanted(["loky"]) == [*command.STANDARD, "loky"]


def test_a_size_for_which_there_is_no_memory_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda: MIB)
    found = command.measure([MIB], ["limit"])
    assert found.races == []
    assert "1 MiB is left out" in capsys.readouterr().err


def test_with_nothing_left_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda: MIB)
    assert main(["bench", "--size", "1MiB"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.splitlines()[-1]) == ("", "sharedarray bench: there is nothing to show")


def test_the_table_says_who_has_no_figures_of_one_question():
    argument, result = race_of({"limit": [1.0], "loky": [2.0]}), race_of({})
    argument.group, result.group = "argument", "result"
    argument.missing, result.missing = {"ray": "not there"}, {"loky": "it failed", "ray": "not there"}
    shown = command.table(Results(machine.described(), [argument, result])).splitlines()
    assert "no contestant could be measured" in shown
    assert shown[-2:] == ["ray took no part: not there", "result: loky took no part: it failed"]


def test_the_table_is_readable_and_says_what_each_column_is():
    race = race_of({"limit": [1e-6] * 3, "sharedarray": [2.5634e-3] * 3, "loky": [1e-7] * 3})
    race.group = "argument"
    pool = race_of({"limit": [1e-6], "sharedarray": [2e-3]})
    pool.group = next(iter(rows.GROUPS))
    shown = command.table(Results(machine.described(), [race, pool]))
    assert "(2,563)" in shown
    assert not re.search(r"\de[+-]?\d", shown)
    for words in (
        r"^  limit +the least that processes can do",
        r"^  sharedarray +a plain array handed to sharedarray.Pool",
        r"^  ratio +how many times as long as the row with 1.00",
    ):
        assert re.search(words, shown, re.MULTILINE)
    assert all(contestant.meaning for contestant in CONTESTANTS.values())


def test_what_all_workers_read_is_a_file_wherever_blocks_are():
    with command._stored(KIB) as path:
        assert np.load(path).tolist() == [1.0] * 128
    assert not os.path.exists(path)


def test_the_machine_tells_how_much_memory_it_has():
    found = machine.described()
    assert found["memory"] > 1 << 28
    assert found["memory files"] > 1 << 20


def test_without_matplotlib_a_picture_says_what_it_needs(monkeypatch, capsys):
    real = command.importlib.util.find_spec
    monkeypatch.setattr(
        command.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    assert main(["bench", "--plot", "x.png"]) == 2
    assert "numpy-sharedarray[bench]" in capsys.readouterr().err


def test_other_commands_do_not_import_the_benchmark():
    code = "import sys; from sharedarray._cli import main; main(['ls'])"
    code += "; print('sharedarray._bench' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("False\n")


# -- what is stored in the repository -------------------------------------------------------------------

STORED = ROOT / "benchmarks" / "report" / "results.json"


@pytest.fixture(scope="module")
def stored() -> Results:
    return results.load([STORED])


def test_the_stored_results_name_no_machine_of_anybodys():
    document = json.loads(STORED.read_text())
    assert set(document["machine_info"]) == set(machine.described())
    assert document["commit_info"] == {}


@needs_pictures
def test_the_readme_shows_the_stored_figures(stored):
    from sharedarray._bench import report

    readme = (STORED.parents[2] / "README.md").read_text(encoding="utf-8")
    assert report.readme(stored) == readme.split(report.BEGIN)[1].split(report.END)[0]
    assert (STORED.parent / "pickling.png").exists()
    assert "benchmarks/report/pickling.png" in readme


@needs_pictures
def test_the_readme_tells_in_six_lines_where_sharing_loses(stored):
    from sharedarray._bench import report

    assert set(report.SHORT) <= {race.group for race in stored.races}
    text = report.readme(stored)
    told = text[text.index("Where it loses: ") :].splitlines()
    assert len(told) <= 6
    assert max(map(len, told)) <= 118


@pytest.mark.slow
@fonts_stay
def test_the_stored_report_is_that_of_the_stored_results(stored, tmp_path):
    pytest.importorskip("matplotlib")
    from sharedarray._bench import report

    report.write(stored, tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == (STORED.parent / "report.md").read_text(
        encoding="utf-8"
    )


@needs_pictures
def test_every_loss_in_the_report_has_its_reason(stored):
    from sharedarray._bench import report

    far = [*summary.behind(stored), *(race for race, _, _ in summary.losses(stored))]
    assert far  # a report without a loss would be too good to be true
    assert [race.title for race in far if "not known" in report.reason(race)] == []


@pytest.mark.parametrize("group", ["argument", "result"])
def test_the_stored_results_keep_what_the_project_promises(stored, group):
    races = stored.group(group)
    assert races[0].size == KIB
    assert races[-1].size == 1 << 30
    for race in races:
        assert race.median("sharedarray") <= 1.05 * race.median("multiprocessing.Pool"), race.title
        if race.size and race.size >= 64 * MIB:
            fastest = summary.fastest_pickling(race)
            assert fastest is not None
            assert race.median(fastest) >= 10 * race.median("sharedarray"), race.title
            assert race.median("ray") > race.median("sharedarray"), race.title


def test_all_contestants_have_a_name_and_a_kind():
    assert {contestant.kind for contestant in CONTESTANTS.values()} == {
        "limit",
        "ours",
        "pickling",
        "sharing",
        "other",
    }
    for name in ("limit", "sharedarray", "ProcessPoolExecutor", "multiprocessing.Pool"):
        assert contestants.why_missing(name) is None
