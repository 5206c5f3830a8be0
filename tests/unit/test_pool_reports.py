"""Reports of a pool on its work: spans and their pictures, copies by argument, and figures."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import html
import itertools
import json
import os
import pickle
import random
import re
import stat
import time
import xml.etree.ElementTree as ET

import numpy as np
import pool_tasks
import pytest
from needs import link, needs_limits, needs_modes

import sharedarray as sa
from sharedarray._display import timeline_svg
from sharedarray._display.copies import ArgumentCopies, CopyReport
from sharedarray._display.pool_stats import PoolStats
from sharedarray._display.spans import Span
from sharedarray._display.text import human, human_time
from sharedarray._display.timeline import Timeline
from sharedarray._pool import stats as pool_stats

SVG = "{http://www.w3.org/2000/svg}"
MS = 1_000_000


def span(
    began=0, ended=10, label="blur", worker=1, outcome="done", task=1, call=1, submitted=None, start=10**12
):
    """Return a span from times in milliseconds."""
    return Span(
        task,
        call,
        label,
        f"sharedarray-worker-{worker}",
        100 + worker,
        start + (began if submitted is None else submitted) * MS,
        start + began * MS,
        start + ended * MS,
        outcome,
    )


SOME = Timeline(
    [
        span(0, 50, task=1, submitted=-5),
        span(10, 60, worker=2, task=2),
        span(60, 80, "<lambda>", outcome="raised", task=3, call=2),
        span(60, 100, worker=2, outcome="timeout", task=4),
        span(80, 100, "add", worker=10, outcome="died", task=5, call=3),
    ],
    dropped=1200,
    pid=7,
)
EMPTY = Timeline([], pid=7)


def many(count, *, workers=8, labels=("add", "blur"), failing=0.02):
    """Return a timeline of a busy pool; the same one each time."""
    chance = random.Random(1)
    spans, until = [], [10**15] * workers
    for number in range(count):
        worker = number % workers
        began = until[worker] + chance.randrange(50_000)
        until[worker] = began + chance.randrange(1, 100_000)
        outcome = "done" if chance.random() > failing else chance.choice(["raised", "died", "timeout"])
        label = labels[chance.randrange(len(labels))]
        spans.append(
            Span(number, 1, label, f"worker-{worker}", worker, began - 7, began, until[worker], outcome)
        )
    return Timeline(spans)


def of(timeline, *futures):
    """Return the spans of some calls, as `submit` numbers them."""
    calls = {future.call for future in futures}
    return [one for one in timeline if one.call in calls]


def row(report, argument):
    (found,) = [one for one in report.rows if one.argument == argument]
    return found


def marks(svg):
    """Return the rectangles of an SVG that stand for tasks."""
    return [rect for rect in ET.fromstring(svg).iter(f"{SVG}rect") if rect.get("class")]


def by_lane(timeline):
    """Spans in the order in which they are drawn."""
    return sorted(timeline, key=lambda one: (int(one.worker.rpartition("-")[2]), one.began))


def title(element):
    return element.find(f"{SVG}title").text


# -- units ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (10 << 30, "10 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_bytes_for_people(size, text):
    assert human(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (320e-9, "320 ns"),
        (1.5e-6, "1.5 µs"),
        (0.0009996, "1 ms"),
        (0.0125, "12.5 ms"),
        (1.0, "1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125.4, "2 min 5 s"),
        (3599.6, "1 h 0 min"),
        (100_000, "27 h 47 min"),
    ],
)
def test_durations_for_people(seconds, text):
    assert human_time(seconds) == text


# -- a timeline -----------------------------------------------------------------------------------------


def test_a_span_knows_how_long():
    one = span(3, 15, submitted=1)
    assert (one.seconds, one.waited) == (0.012, 0.002)
    assert span(5, 4).seconds == 0
    assert span(5, 6, submitted=7).waited == 0


def test_a_timeline_is_a_sequence():
    assert len(SOME) == 5
    assert [one.task for one in SOME] == [1, 2, 3, 4, 5]
    assert SOME[-1] == span(80, 100, "add", worker=10, outcome="died", task=5, call=3)
    assert SOME[2] in SOME
    assert SOME.index(SOME[2]) == 2
    late = SOME[-2:]
    assert type(late) is Timeline
    assert [one.task for one in late] == [4, 5]
    assert (late.dropped, late.pid) == (1200, 7)
    with pytest.raises(IndexError):
        SOME[5]
    assert SOME
    assert not EMPTY


def test_timelines_are_equal_by_what_they_hold():
    again = pickle.loads(pickle.dumps(SOME))
    assert again == SOME
    assert Timeline(list(SOME), 1200, 7) == SOME
    assert hash(SOME[:]) == hash(SOME)
    assert SOME[1:] != SOME
    assert Timeline(SOME, 0, 7) != SOME
    assert tuple(SOME) != SOME
    assert Timeline(iter(SOME)).pid == os.getpid()


def test_utilisation():
    assert SOME.seconds == 0.1
    assert SOME.utilisation == {
        "sharedarray-worker-1": 0.7,
        "sharedarray-worker-2": 0.9,
        "sharedarray-worker-10": 0.2,
    }
    assert list(SOME.utilisation) == [f"sharedarray-worker-{number}" for number in (1, 2, 10)]
    overlapping = Timeline([span(0, 10), span(2, 4), span(5, 15), span(25, 30)])
    assert overlapping.utilisation == {"sharedarray-worker-1": pytest.approx(20 / 30)}
    assert Timeline([span(5, 5)]).utilisation == {"sharedarray-worker-1": 1.0}
    assert (EMPTY.seconds, EMPTY.utilisation) == (0.0, {})


def test_the_picture_as_text():
    assert str(SOME) == (
        "5 tasks in 3 workers, 100 ms, 1.8 busy on average\n"
        f"worker-1   |{'█' * 36}       ▇{'█' * 13}x{' ' * 14}|   70%  2 tasks\n"
        f"worker-2   |       ▇{'█' * 63}t|   90%  2 tasks\n"
        f"worker-10  |{' ' * 57}▄{'█' * 13}!|   20%   1 task\n"
        f"            0{'100 ms':>71}\n"
        "! died (1)  t timeout (1)  x raised (1)\n"
        "blur × 3 (140 ms), <lambda> × 1 (20 ms), add × 1 (20 ms)\n"
        "1,200 older tasks are forgotten"
    )
    assert repr(SOME) == str(SOME)


def test_the_shortest_task_is_seen_in_the_text():
    text = str(Timeline([span(0, 1000, worker=1), span(500, 500, worker=2)]))
    assert re.search(r"worker-2  \| +▁ +\|    0%  1 task", text)


def test_of_several_outcomes_in_one_place_the_worst_is_shown():
    short = [span(500, 500, worker=2, outcome=outcome) for outcome in ("raised", "died", "cancelled", "done")]
    text = str(Timeline([span(0, 1000), *short]))
    assert re.search(r"worker-2  \| +! +\|", text)
    assert "! died (1)  x raised (1)  c cancelled (1)" in text


@pytest.mark.parametrize("count", [1, 500])
def test_the_text_stays_within_its_columns(count):
    odd = Timeline(
        [
            Span(n, n, f"f{n}\n\x1b[31m" * 30, f"{'w' * 30}-{n}\t", n, 0, n, n + 1000 * n, "raised")
            for n in range(count)
        ],
        10**6,
    )
    lines = str(odd).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 72
    assert all(line.isprintable() for line in lines)
    assert "\\n\\x1b" in lines[-2]
    assert ("436 earlier workers not shown" in lines) is (count == 500)


def test_an_empty_timeline(tmp_path):
    assert str(EMPTY) == "no tasks"
    assert str(Timeline([], 1)) == "no tasks\n1 older task is forgotten"
    assert marks(EMPTY.to_svg()) == []
    assert "no tasks" in EMPTY.to_svg()
    assert [event["name"] for event in EMPTY.to_chrome_trace()["traceEvents"]] == ["process_name"]
    for suffix in SUFFIXES:
        EMPTY.save(tmp_path / f"empty{suffix}")


# -- its trace ------------------------------------------------------------------------------------------


def test_the_chrome_trace():
    trace = SOME[2:4].to_chrome_trace()
    assert trace == {
        "traceEvents": [
            {
                "name": "process_name",
                "ph": "M",
                "pid": 7,
                "tid": 0,
                "args": {"name": "sharedarray pool of process 7"},
            },
            *itertools.chain.from_iterable(
                (
                    {
                        "name": "thread_name",
                        "ph": "M",
                        "pid": 7,
                        "tid": n,
                        "args": {"name": f"sharedarray-worker-{n} (process {100 + n})"},
                    },
                    {"name": "thread_sort_index", "ph": "M", "pid": 7, "tid": n, "args": {"sort_index": n}},
                )
                for n in (1, 2)
            ),
            {
                "name": "<lambda>",
                "cat": "raised",
                "ph": "X",
                "ts": 1e9 + 60_000.0,
                "dur": 20_000.0,
                "pid": 7,
                "tid": 1,
                "args": {"task": 3, "call": 2, "waited": 0.0, "outcome": "raised"},
            },
            {
                "name": "blur",
                "cat": "timeout",
                "ph": "X",
                "ts": 1e9 + 60_000.0,
                "dur": 40_000.0,
                "pid": 7,
                "tid": 2,
                "args": {"task": 4, "call": 1, "waited": 0.0, "outcome": "timeout"},
            },
        ],
        "displayTimeUnit": "ms",
        "otherData": {"dropped": 1200},
    }
    assert SOME[:1].to_chrome_trace()["traceEvents"][-1]["args"]["waited"] == 5000.0


def test_workers_of_one_name_are_apart_in_the_trace():
    """Pools number their workers alike, and a user may put timelines together."""
    both = Timeline([span(), span()._replace(pid=555)])
    events = both.to_chrome_trace()["traceEvents"]
    assert {event["tid"] for event in events if event["ph"] == "X"} == {1, 2}


# -- its picture ----------------------------------------------------------------------------------------


def test_the_svg_has_each_task():
    drawn = marks(SOME.to_svg())
    assert [rect.get("class") for rect in drawn] == ["done", "raised", "done", "timeout", "died"]
    assert title(drawn[0]) == "blur: done\ntask 1 of call 1\n50 ms, waited 5 ms"
    assert title(drawn[1]).startswith("<lambda>: raised\ntask 3 of call 2\n")
    first, late = drawn[0], drawn[-1]
    assert first.get("fill") == drawn[2].get("fill") != drawn[1].get("fill") != late.get("fill")
    lanes = [float(rect.get("y")) for rect in drawn]
    assert lanes[0] == lanes[1] < lanes[2] == lanes[3] < lanes[4]
    left, right = float(first.get("x")), float(late.get("x")) + float(late.get("width"))
    assert float(drawn[1].get("x")) == pytest.approx(left + 0.6 * (right - left), abs=1)
    assert float(first.get("width")) == pytest.approx((right - left) / 2, abs=1)


def test_outcomes_differ_without_colours():
    outcomes = ["done", "raised", "died", "timeout", "cancelled"]
    timeline = Timeline([span(10 * n, 10 * n + 9, outcome=outcome) for n, outcome in enumerate(outcomes)])
    svg = timeline.to_svg()
    drawn = marks(svg)
    assert {rect.get("fill") for rect in drawn} == {drawn[0].get("fill")}
    looks = {rect.get("class"): (rect.get("stroke"), rect.get("stroke-dasharray")) for rect in drawn}
    assert looks["done"] == (None, None)
    assert len(set(looks.values())) == len(outcomes)
    texts = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    for letter, outcome in (("x", "raised"), ("!", "died"), ("t", "timeout"), ("c", "cancelled")):
        assert letter in texts
        assert f"{letter} {outcome} (1)" in texts


def test_the_svg_tells_workers_functions_and_time():
    texts = [text.text for text in ET.fromstring(SOME.to_svg()).iter(f"{SVG}text")]
    assert texts[0] == "5 tasks in 3 workers, 100 ms, 1.8 busy on average"
    for text in ("worker-1", "worker-10", "70%", "0", "20 ms", "100 ms", "<lambda> × 1 (20 ms)"):
        assert text in texts
    functions = Timeline([span(label=f"f{number}") for number in range(20)])
    assert "12 other functions" in functions.to_svg()


def test_thin_tasks_are_wide_enough_and_within():
    timeline = Timeline([span(0, 10_000), *[span(at, at, worker=2, task=at) for at in (0, 5000, 10_000)]])
    drawn = marks(timeline.to_svg())
    assert [float(rect.get("width")) for rect in drawn[1:]] == [1.0] * 3
    ends = [float(rect.get("x")) + float(rect.get("width")) for rect in drawn]
    assert ends[-1] <= max(ends)
    assert float(drawn[1].get("x")) == float(drawn[0].get("x"))


@pytest.mark.parametrize(
    "name", ["<lambda>", "a & b", "</title><script>", "\"'", "nul\0\ud800\x1b", "na\u00efve"]
)
def test_names_are_escaped(name):
    timeline = Timeline([span(label=name)._replace(worker=name)])
    svg = timeline.to_svg()
    shown = name.replace("nul\0\ud800\x1b", "nul\\x00\\ud800\\x1b")
    assert title(marks(svg)[0]).startswith(f"{shown}: done")
    (lane,) = ET.fromstring(svg).iter(f"{SVG}g")
    assert title(lane) == f"{shown}, process 101: 1 task"
    assert f"{shown} × 1 (10 ms)" in [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert "<script>" not in timeline._repr_html_()
    assert json.loads(json.dumps(timeline.to_chrome_trace()))["traceEvents"][-1]["name"] == name


@pytest.mark.parametrize("labels", [("add", "blur"), tuple(f"{n}{'&' * 300}" for n in range(100))])
@pytest.mark.parametrize(("workers", "failing"), [(300, 1.0), pytest.param(2, 0.001, marks=pytest.mark.slow)])
def test_the_svg_stays_small(labels, workers, failing):
    timeline = many(12_000, workers=workers, labels=labels, failing=failing)
    svg = timeline.to_svg()
    assert len(svg.encode()) < 1_000_000
    drawn = marks(svg)
    assert len(drawn) <= 1500
    told = [re.match(r"([\d,]+) tasks?: ", title(rect)) for rect in drawn]
    count = sum(int(found[1].replace(",", "")) if found else 1 for found in told)
    shown = min(workers, 256)
    assert count == sum(int(one.worker.removeprefix("worker-")) >= workers - shown for one in timeline)
    assert ("44 earlier workers not shown" in svg) is (workers == 300)


def test_what_is_drawn_as_one_says_so():
    svg = many(5000, workers=1, failing=0).to_svg()
    joined = [rect for rect in marks(svg) if rect.get("fill-opacity")]
    assert joined
    found = re.fullmatch(
        r"(\d+) tasks: (add|blur)( and 1 other function)?\n\S+ µs of \S+ µs", title(joined[0])
    )
    assert found, title(joined[0])
    assert 0.35 <= float(joined[0].get("fill-opacity")) <= 1
    with_failures = [title(rect) for rect in marks(many(5000, workers=1, failing=0.1).to_svg())]
    assert any(
        re.search(r"tasks: .*\n.* of .*\n(! died|t timeout|x raised) \(\d+\)", one) for one in with_failures
    )


def test_as_many_tasks_as_fit_are_drawn_each():
    assert len(marks(many(1500).to_svg())) == 1500


@pytest.mark.parametrize(
    ("length", "second", "last"),
    [
        (0, "0", "0"),
        (1, "1 ns", "1 ns"),
        (750, "100 ns", "700 ns"),
        (2_000, "0.5 µs", "2 µs"),
        (45 * MS, "10 ms", "40 ms"),
        (999 * MS, "200 ms", "800 ms"),
        (1000 * MS, "0.2 s", "1 s"),
        (119_000 * MS, "20 s", "100 s"),
        (600_000 * MS, "2:00 min", "10:00 min"),
        (7200_000 * MS, "0:15 h", "2:00 h"),
        (30 * 86_400_000 * MS, "96:00 h", "672:00 h"),
    ],
)
def test_ticks(length, second, last):
    ticks = timeline_svg._ticks(length)
    assert ticks[0] == (0, "0")
    assert ticks[min(1, len(ticks) - 1)][1] == second
    assert ticks[-1][1] == last
    assert len(ticks) <= 10
    assert len({later - at for (at, _), (later, _) in itertools.pairwise(ticks)}) <= 1


def test_html_has_the_picture_and_what_was_dropped():
    assert SOME._repr_html_().endswith(f"{SOME.to_svg()}</div><p>1,200 older tasks are forgotten</p>")
    assert EMPTY._repr_html_().endswith(f"{EMPTY.to_svg()}</div>")


# -- its files ------------------------------------------------------------------------------------------

SUFFIXES = (".json", ".json.gz", ".svg", ".txt")


def read(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_save(tmp_path, kind):
    for suffix in (*SUFFIXES, ".SVG"):
        SOME.save(kind(tmp_path / f"run{suffix}"))
    assert read(tmp_path / "run.txt") == f"{SOME}\n"
    assert read(tmp_path / "run.svg") == read(tmp_path / "run.SVG") == SOME.to_svg()
    for suffix in (".json", ".json.gz"):
        assert json.loads(read(tmp_path / f"run{suffix}")) == SOME.to_chrome_trace()
    one = os.path.samefile(tmp_path / "run.svg", tmp_path / "run.SVG")  # names that differ in case may be
    assert len(list(tmp_path.iterdir())) == 5 - one
    packed = (tmp_path / "run.json.gz").read_bytes()
    SOME.save(tmp_path / "run.json.gz")
    assert (tmp_path / "run.json.gz").read_bytes() == packed


def test_save_into_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SOME.save("run.txt")
    assert read(tmp_path / "run.txt") == f"{SOME}\n"


@needs_modes
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_save_respects_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        SOME.save(tmp_path / "run.svg")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.svg").stat().st_mode) == 0o666 & ~mask


def test_save_through_a_link_replaces_what_it_leads_to(tmp_path):
    (tmp_path / "there").mkdir()
    real, other = tmp_path / "there" / "run.txt", tmp_path / "run.txt"
    real.write_text("old")
    link(other, real)
    SOME.save(other)
    assert other.is_symlink()
    assert read(real) == f"{SOME}\n"


@pytest.mark.parametrize(
    ("name", "found"), [("run.png", r"\.png"), ("run", "no suffix"), ("run.gz", r"\.gz")]
)
def test_save_knows_its_suffixes(tmp_path, name, found):
    with pytest.raises(ValueError, match=rf"{name}'; found {found}; expected \.json.*Next step: save"):
        SOME.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@needs_limits
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_save_leaves_what_was_there(tmp_path, suffix):
    """The device is full, so to speak, when half of the file is written."""
    path = tmp_path / f"run{suffix}"
    import resource

    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            SOME.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_cannot_take_its_name_leaves_nothing(tmp_path):
    path = tmp_path / "run.svg"
    path.mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)):
        SOME.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        SOME.save(tmp_path / "nowhere" / "run.svg")


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(source, target):
        assert os.path.dirname(source) == os.path.dirname(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SOME.save(tmp_path / "run.svg")
    assert not list(tmp_path.iterdir())


# -- timelines of pools ---------------------------------------------------------------------------------


def test_tasks_are_on_the_timeline(pool):
    before = time.monotonic_ns()
    futures = [pool.submit(os.getpid) for _ in range(3)] + [pool.submit(pool_tasks.add, 1)]
    results = [future.result() for future in futures]
    failing = pool.submit(pool_tasks.trouble)
    assert failing.exception() is not None
    after = time.monotonic_ns()
    timeline = pool.timeline()
    assert timeline.dropped == 0
    assert timeline.pid == os.getpid()
    for future, pid, label in zip(futures, results, ["getpid"] * 3 + ["add"], strict=True):
        (one,) = of(timeline, future)
        assert (one.label, one.outcome) == (label, "done")
        assert before <= one.submitted <= one.began <= one.ended <= after
        assert re.fullmatch(r"sharedarray-worker-\d+", one.worker)
        assert label == "add" or one.pid == pid
    assert timeline[-1] == of(timeline, failing)[0]
    assert (timeline[-1].label, timeline[-1].outcome) == ("trouble", "raised")
    pids = {one.worker: one.pid for one in timeline}
    assert set(pids.values()) == set(pool.stats().pids)


def test_tasks_of_a_worker_follow_each_other(pool):
    futures = [pool.submit(pool_tasks.total, np.ones(100)) for _ in range(40)]
    for future in futures:
        future.result()
    spans = of(pool.timeline(), *futures)
    assert len(spans) == 40
    for _, own in itertools.groupby(sorted(spans, key=lambda one: one.worker), lambda one: one.worker):
        for one, later in itertools.pairwise(own):
            assert one.ended <= later.began


def test_tasks_run_beside_each_other(pool, tmp_path):
    """Two that wait for each other are in two lanes and overlap."""
    futures = [pool.submit(pool_tasks.meet, tmp_path, 2) for _ in range(2)]
    for future in futures:
        future.result()
    one, other = of(pool.timeline(), *futures)
    assert one.worker != other.worker
    assert max(one.began, other.began) < min(one.ended, other.ended)
    timeline = Timeline([one, other])
    assert len(timeline.utilisation) == 2
    assert all(0 < share <= 1 for share in timeline.utilisation.values())


def fail_at_every_tenth(number):
    if number % 10 == 7:
        raise ValueError(number)
    return number


def test_pictures_count_tasks_and_not_messages(monkeypatch):
    """Items that travel together are one span, and tasks all the same."""
    with sa.Pool(1) as pool:
        assert len(list(pool.map(fail_at_every_tenth, range(2000), return_exceptions=True))) == 2000
        assert pool.submit(abs, -1).result() == 1
        timeline = pool.timeline()
    assert len(timeline) < 2001
    assert sum(one.items for one in timeline) == 2001
    assert sum(one.raised for one in timeline) == 200
    assert "2,001 tasks in 1 worker" in repr(timeline)
    for text in (str(timeline), re.sub("<[^>]*>", " ", html.unescape(timeline.to_svg()))):
        assert "2,001 tasks" in text
        assert "x raised (200)" in text
        assert "fail_at_every_tenth × 2,000 (" in text
        assert "abs × 1 (" in text
    events = timeline.to_chrome_trace()["traceEvents"]
    assert sum(event["args"].get("items", 1) for event in events if event["ph"] == "X") == 2001
    monkeypatch.setattr(pool_stats, "_SPANS", 3)
    with sa.Pool(1) as pool:
        assert len(list(pool.map(pool_tasks.add, range(2000)))) == 2000
        timeline = pool.timeline()
    assert len(timeline) <= 3
    assert sum(one.items for one in timeline) + timeline.dropped == 2000
    assert f"{timeline.dropped:,} older tasks are forgotten" in str(timeline) or not timeline.dropped


def test_a_map_is_on_the_timeline(pool):
    assert len(list(pool.map(np.sum, [np.ones(10), np.ones(20), np.ones(30)]))) == 3
    call = pool.copy_report().call
    spans = [one for one in pool.timeline() if one.call == call]
    assert [one.label for one in spans] == ["sum"] * 3
    assert len({one.task for one in spans}) == 3
    assert list(pool.map(abs, range(100))) == list(range(100))
    call = pool.copy_report().call
    spans = [one for one in pool.timeline() if one.call == call]
    assert {(one.label, one.outcome) for one in spans} == {("abs", "done")}


def test_what_went_wrong_is_on_the_timeline(tmp_path):
    """A worker killed, time up, cancelled while it runs and before that, run again."""
    with sa.Pool(2) as pool:
        killed = pool.submit(pool_tasks.die, "SIGKILL")
        assert isinstance(killed.exception(), sa.WorkerDied)
        late = pool.options(timeout=0.05).submit(pool_tasks.signal_and_wait, tmp_path / "late")
        assert isinstance(late.exception(), TimeoutError)
        notes = [tmp_path / "runs0", tmp_path / "runs1"]
        running = [pool.submit(pool_tasks.signal_and_wait, note) for note in notes]
        assert pool_tasks.until(lambda: all(note.exists() and note.read_text() for note in notes))
        waiting = pool.submit(pool_tasks.add, 1)
        assert waiting.cancel()
        pids = [int(note.read_text()) for note in notes]
        assert all(future.cancel(running=True) for future in running)
        again = pool.options(retries=1).submit(pool_tasks.die_the_first_time, tmp_path / "marker")
        assert again.result() == "second time"
        timeline, stats = pool.timeline(), pool.stats()
    assert [one.outcome for one in of(timeline, killed, late)] == ["died", "timeout"]
    assert [one.label for one in of(timeline, killed, late)] == ["die", "signal_and_wait"]
    cancelled = of(timeline, *running)
    assert [one.outcome for one in cancelled] == ["cancelled"] * 2
    assert {one.pid for one in cancelled} == set(pids)
    assert of(timeline, waiting) == []
    assert [one.outcome for one in of(timeline, again)] == ["done"]
    assert all(one.submitted <= one.began <= one.ended for one in timeline)
    assert len({one.worker for one in timeline}) == 5
    assert (stats.failed, stats.retried, stats.done) == (2, 1, 1)
    assert stats.died >= 5  # more where a worker is so late to begin that its time is up before
    assert 0 < stats.replaced <= stats.died
    assert "! died (1)  t timeout (1)  c cancelled (2)" in str(timeline)
    assert sorted(rect.get("class") for rect in marks(timeline.to_svg())) == sorted(
        one.outcome for one in timeline
    )


def test_the_trace_of_a_pool(pool):
    futures = [pool.submit(pool_tasks.add, n) for n in range(5)] + [pool.submit(pool_tasks.trouble)]
    for future in futures:
        future.exception()
    timeline = pool.timeline()
    trace = json.loads(json.dumps(timeline.to_chrome_trace()))
    events = trace["traceEvents"]
    named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    spans = {one.task: one for one in timeline}
    found = [event for event in events if event["ph"] == "X"]
    assert len(found) == len(timeline) == len(spans)
    assert {event["pid"] for event in events} == {os.getpid()}
    for event in found:
        one = spans[event["args"]["task"]]
        assert named[event["tid"]] == f"{one.worker} (process {one.pid})"
        assert (event["name"], event["cat"]) == (one.label, one.outcome)
        assert type(event["ts"]) is type(event["dur"]) is float
        assert event["ts"] * 1000 == pytest.approx(one.began, abs=1)
        assert (event["ts"] + event["dur"]) * 1000 == pytest.approx(one.ended, abs=1)
        assert event["args"]["waited"] == pytest.approx(one.waited * 1e6)


def test_the_picture_of_a_pool(pool):
    future = pool.submit(lambda: 1)
    assert future.result() == 1
    timeline = pool.timeline()[-20:]
    drawn = marks(timeline.to_svg())
    assert len(drawn) == len(timeline)
    assert title(
        drawn[[one.task for one in by_lane(timeline)].index(of(timeline, future)[0].task)]
    ).startswith("test_the_picture_of_a_pool.<locals>.<lambda>: done\n")
    assert "<lambda>" not in timeline.to_svg()
    for text in (str(timeline), str(pool.timeline())):
        assert max(map(len, text.splitlines())) <= 100


def test_a_timeline_stays_as_it_was(pool):
    pool.submit(pool_tasks.add, 1).result()
    timeline = pool.timeline()
    length = len(timeline)
    pool.submit(pool_tasks.add, 1).result()
    assert len(timeline) == length
    assert len(pool.timeline()) == length + 1


# -- copies ---------------------------------------------------------------------------------------------


def report_of(*rows, label="blur", tasks=1, seconds=0.25):
    return CopyReport(1, label, tasks, seconds, tuple(ArgumentCopies(*one) for one in rows))


BLUR = report_of(
    ("function", 0, 0, 412, 0, 1),
    ("0", 0, 8 << 20, 1200, 120 << 20, 16),
    ("mask", 64 << 20, 0, 2100, 0, 16),
    ("result", 0, 0, 80, 0, 16),
    tasks=16,
)


def test_totals_of_a_report():
    assert (BLUR.shared_bytes, BLUR.copied_bytes, BLUR.pickled_bytes, BLUR.reused_bytes) == (
        64 << 20,
        8 << 20,
        3792,
        120 << 20,
    )
    nothing = report_of()
    assert nothing.shared_bytes == nothing.copied_bytes == nothing.pickled_bytes == nothing.reused_bytes == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        BLUR.tasks = 3
    assert pickle.loads(pickle.dumps(BLUR)) == BLUR


def test_a_report_as_text():
    assert str(BLUR) == (
        "blur: 16 tasks, 250 ms\n"
        "          shared   copied  pickled   reused  times\n"
        "function       -        -    412 B        -      1\n"
        "args[0]        -  8.0 MiB  1.2 KiB  120 MiB     16\n"
        "mask=     64 MiB        -  2.1 KiB        -     16\n"
        "result         -        -     80 B        -     16\n"
        "total     64 MiB  8.0 MiB  3.7 KiB  120 MiB\n"
        "args[0] was copied: 8.0 MiB. Make it with sharedarray.share or pool.share, and it travels by "
        "reference."
    )
    assert str(report_of(("arguments", 0, 0, 39, 0, 1), label="abs", seconds=2e-5)) == (
        "abs: 1 task, 20 µs\n"
        "           shared  copied  pickled  reused  times\n"
        "arguments       -       -     39 B       -      1"
    )
    assert str(report_of()) == "blur: 1 task, 250 ms\n  shared  copied  pickled  reused  times"


MIB = 1 << 20


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([], None),
        ([("0", 1 << 40, MIB - 1, MIB - 1, 1 << 40, 9)], None),
        (
            [("0", 0, MIB, 0, 0, 1), ("axis", 0, 3 * MIB, 0, 0, 1)],
            r"axis= was copied: 3\.0 MiB\. .*share.* travels by ref",
        ),
        (
            [("0", 0, MIB, 0, 0, 1), ("result", 0, 3 * MIB, 0, 0, 1)],
            r"The result was copied: 3\.0 MiB.*sharedarray\.empty",
        ),
        ([("function", 0, 2 * MIB, 0, 0, 1)], r"Arrays of the function's own were copied: 2\.0 MiB"),
        (
            [("function", 0, 0, 2 * MIB, 0, 1)],
            r"The function was pickled: 2\.0 MiB\. It likely refers to large",
        ),
        (
            [("0", 0, MIB, 5 * MIB, 0, 1)],
            r"args\[0\] was pickled: 5\.0 MiB\. Likely it is text, a list or dict",
        ),
        (
            [("0", 0, 0, 5 * MIB, 0, 1000)],
            r"args\[0\] was pickled 1,000 times: 5\.0 MiB\. These are small objects",
        ),
        ([("arguments", 0, 0, 5 * MIB, 0, 1)], r"The arguments were pickled: 5\.0 MiB\."),
        ([("result", 0, 0, 5 * MIB, 0, 1)], r"The result was pickled: 5\.0 MiB\."),
    ],
)
def test_advice(rows, advice):
    report = report_of(*rows)
    if advice is None:
        assert report.advice is None
    else:
        assert re.match(advice, report.advice)
        assert "\n" not in report.advice
        assert str(report).endswith(report.advice)
        assert html.escape(report.advice) in report._repr_html_()


def test_reports_are_escaped():
    report = report_of(("<b>&", 0, 2 * MIB, 0, 0, 1), label="<lambda>")
    shown = report._repr_html_()
    assert "<lambda>" not in shown
    assert "<b>" not in shown
    assert "&lt;lambda&gt;: 1 task" in shown
    assert "&lt;b&gt;&amp;=" in shown
    assert len(ET.fromstring(f"<div>{shown}</div>").findall("./table/tr")) == 2


def test_a_report_of_arrays(pool):
    shared, plain, short = sa.ones((64, 1024)), np.ones((32, 1024)), np.ones(3)
    future = pool.submit(pool_tasks.add_all, shared, plain, b=shared[::2, :10], c=short)
    future.exception()  # the shapes do not fit, which is no matter here
    report = pool.copy_report(future)
    assert (report.call, report.label, report.tasks) == (future.call, "add_all", 1)
    assert [one.argument for one in report.rows] == ["function", "0", "1", "b", "c", "result"]
    assert row(report, "0")[1:3] == (shared.nbytes, 0)
    assert row(report, "1")[1:3] == (0, plain.nbytes)
    assert row(report, "b")[1:3] == (32 * 10 * 8, 0)
    assert row(report, "c")[1:3] == (0, 0)
    assert short.nbytes < row(report, "c").pickled < 1000
    assert report.shared_bytes == shared.nbytes + 32 * 10 * 8
    assert report.copied_bytes == plain.nbytes
    assert all(one.count == 1 and not one.reused for one in report.rows)
    assert report.advice is None
    assert report.seconds > 0


def test_a_report_of_a_large_array_gives_advice(pool):
    array = np.ones(1 << 18)
    future = pool.submit(pool_tasks.total, array)
    assert future.result() == 1 << 18
    report = pool.copy_report(future)
    assert report.copied_bytes == row(report, "0").copied == array.nbytes
    assert report.advice.startswith("args[0] was copied: 2.0 MiB.")
    with sa.share(array) as shared:
        future = pool.submit(pool_tasks.total, shared)
        assert future.result() == 1 << 18
    report = pool.copy_report(future)
    assert (report.shared_bytes, report.copied_bytes) == (array.nbytes, 0)
    assert report.pickled_bytes < 5000
    assert report.advice is None


def test_an_array_for_many_tasks_is_copied_once(pool):
    array, other = np.ones(1 << 15), np.ones(1 << 14)
    assert list(pool.map(pool_tasks.total, [array] * 6 + [other])) == [1 << 15] * 6 + [1 << 14]
    report = pool.copy_report()
    assert (report.label, report.tasks) == ("total", 7)
    assert row(report, "0")[2] == array.nbytes + other.nbytes == report.copied_bytes
    assert row(report, "0").reused == 5 * array.nbytes == report.reused_bytes
    assert row(report, "0").count == row(report, "result").count == 7


def test_a_report_of_a_large_result(pool):
    """Also of a call with nothing but numbers, and whichever call is the newest."""
    before = pool.stats().copied_bytes
    future = pool.submit(pool_tasks.make_full, 1 << 18, 2.0)
    size = future.result().nbytes
    reports = pool.copy_report(future), pool.copy_report()
    assert reports[0].seconds == reports[1].seconds  # it is over
    for report in reports:
        assert (report.call, report.label, report.tasks) == (future.call, "make_full", 1)
        assert [entry.argument for entry in report.rows] == ["arguments", "result"]
        assert 0 < row(report, "arguments").pickled < 1000
        assert row(report, "result").copied == report.copied_bytes == size
        assert 0 < report.seconds < 60
    futures = [pool.submit(pool_tasks.make_full, 1 << 18, 2.0), pool.submit(pool_tasks.add, 1)]
    assert futures[1].result() == 2
    futures[0].result()
    assert row(pool.copy_report(futures[0]), "result").copied == size
    assert pool.copy_report().label == "add"
    assert pool.stats().copied_bytes - before == 2 * size


def test_a_report_of_what_is_pickled(pool):
    future = pool.submit(len, [b"x" * (2 << 20)])
    assert future.result() == 1
    report = pool.copy_report(future)
    assert report.copied_bytes == 0
    assert row(report, "0").pickled >= 2 << 20
    assert re.match(r"args\[0\] was pickled: 2\.0 MiB\. Likely it is text, a list", report.advice)


def test_reports_of_small_calls(pool):
    future = pool.submit(pool_tasks.add, 1)
    assert future.result() == 2
    for report in (pool.copy_report(future), pool.copy_report()):
        assert (report.call, report.label, report.tasks) == (future.call, "add", 1)
        assert report.shared_bytes == report.copied_bytes == report.reused_bytes == 0
        assert 0 < report.pickled_bytes < 1000
        assert report.advice is None
        assert "args" not in str(report)


def test_the_latest_report_is_of_the_latest_call(pool):
    first = pool.submit(pool_tasks.identity, [1])
    first.result()
    list(pool.map(pool_tasks.identity, [np.ones(3)] * 2))
    assert pool.copy_report().tasks == 2
    second = pool.submit(pool_tasks.identity, [2])
    second.result()
    assert pool.copy_report().call == second.call > pool.copy_report(first).call == first.call


def test_reports_of_long_ago_are_forgotten(pool):
    first = pool.submit(pool_tasks.identity, [0])
    for future in [pool.submit(pool_tasks.identity, [n]) for n in range(300)]:
        future.result()
    assert pool.copy_report(first) is None
    assert pool.copy_report(future) is not None


def test_a_pool_that_did_nothing():
    with sa.Pool(1) as pool:
        assert pool.copy_report() is None
        assert pool.timeline() == Timeline([])
        assert pool.stats().done == pool.stats().workers == 0


# -- figures --------------------------------------------------------------------------------------------

GIB = 1 << 30
FIGURES = PoolStats(
    2, 1, 4, 3, 1, 1000, 2, 1, 5, 6, 4, 96 * MIB, 32 * MIB, 64 * MIB, 3, 1 * GIB, 128 * MIB, 1, 2, 3, (7, 8)
)


def test_figures_as_text():
    assert str(FIGURES) == (
        "workers   2 of at most 4, 1 busy, 6 died, 4 replaced\n"
        "tasks     3 queued, 1 running, 1,000 done, 2 failed, 1 cancelled, 5 retried\n"
        "recycled  96 MiB in 3 blocks: 32 MiB in use, 64 MiB free (at most 1.0 GiB, 128 MiB when idle)\n"
        "sent      1 B shared, 2 B copied, 3 B pickled"
    )
    table = ET.fromstring(FIGURES._repr_html_())
    cells = ["".join(one.itertext()) for one in table.findall("tr")]
    assert [f"{line[:10].rstrip()}{line[10:]}" for line in str(FIGURES).splitlines()] == cells
    with pytest.raises(dataclasses.FrozenInstanceError):
        FIGURES.done = 3
    assert not hasattr(FIGURES, "__dict__")


def test_figures_count(pool):
    array, shared = np.ones(1 << 15), sa.ones(1 << 12)
    before = pool.stats()
    futures = [
        pool.submit(pool_tasks.total, array),
        pool.submit(pool_tasks.total, shared),
        pool.submit(pool_tasks.identity, array),
        pool.submit(pool_tasks.identity, [1]),
    ]
    kept = [future.result() for future in futures]
    failing = pool.submit(pool_tasks.fail_if_text, "text")
    assert isinstance(failing.exception(), ValueError)
    assert list(pool.map(pool_tasks.add, range(50))) == list(range(1, 51))
    after = pool.stats()
    assert after.done - before.done == 54
    assert after.failed - before.failed == 1
    for name in ("cancelled", "retried", "died", "replaced", "workers", "max_workers"):
        assert getattr(after, name) == getattr(before, name)
    assert after.shared_bytes - before.shared_bytes == shared.nbytes
    assert after.copied_bytes - before.copied_bytes == 3 * array.nbytes
    assert after.pickled_bytes > before.pickled_bytes
    assert after.recycled_in_use >= kept[2].nbytes
    for stats in (before, after):
        assert stats.recycled_bytes == stats.recycled_in_use + stats.recycled_free
        assert stats.busy <= stats.workers <= stats.max_workers == 2


def test_figures_agree_with_the_reports(pool):
    before = pool.stats()
    futures = [pool.submit(pool_tasks.identity, np.ones(n)) for n in (10, 10_000, 20_000)]
    for future in futures:
        future.result()
    after = pool.stats()
    found = [pool.copy_report(future) for future in futures]
    for name in ("shared_bytes", "copied_bytes", "pickled_bytes"):
        assert getattr(after, name) - getattr(before, name) == sum(getattr(one, name) for one in found)


def test_figures_of_what_runs_and_waits(pool, tmp_path):
    release = tmp_path / "release"
    running = [
        pool.submit(pool_tasks.signal_and_wait_for, tmp_path / f"started{n}", release) for n in range(2)
    ]
    assert pool_tasks.until(lambda: all((tmp_path / f"started{n}").exists() for n in range(2)))
    waiting = [pool.submit(pool_tasks.add, n) for n in range(3)]
    stats = pool.stats()
    assert (stats.workers, stats.busy, stats.running, stats.queued) == (2, 2, 2, 3)
    release.touch()
    for future in running + waiting:
        future.result()
    stats = pool.stats()
    assert (stats.workers, stats.busy, stats.running, stats.queued) == (2, 0, 0, 0)
