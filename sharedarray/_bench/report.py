"""A report of stored races: tables with medians and spread, pictures, where sharing loses, and why.

``sharedarray bench --from results.json --report DIR`` writes it, and ``pytest benchmarks --report DIR`` does
both in one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from sharedarray._bench import picture, rows
from sharedarray._bench.machine import human, sentence
from sharedarray._bench.race import Race, readable
from sharedarray._bench.results import Results
from sharedarray._bench.summary import behind, losses, verdicts

PICTURES = {
    "pickling": ("argument", "result"),
    "share": ("share, first", "share, again"),
}
"""Files with curves, and the groups in each."""

REASONS = {
    "processor time": (
        "`multiprocessing.Pool` sends 8 messages for a map and reads 8, whatever the tasks cost. Here, "
        "results come while the map runs, so the parent wakes for some of them."
    ),
    "round trip": (
        "What is left are Python's own frames, some 26 µs in the caller and 12 in the worker, for a future, "
        "the record of slots in use and the detection of dead workers, which a bare pipe lacks. If the "
        "kernel keeps caller and worker on one processor, a bare pair hands it over in 15 to 25 µs, the pool "
        "in 50."
    ),
    "map": (
        "`multiprocessing.Pool.map` cuts the tasks into 4 pieces for each worker, whatever they cost, and "
        "answers once for each; here no task waits behind a slow one, for tasks go out in batches that grow "
        "with what they cost, and each has a future that can fail, be cancelled and be rerun."
    ),
    "throughput": "As in the map: each task has a future of its own.",
    "shared argument": (
        "A reference to a view takes some 10 µs more than a number: its block is held while the task is "
        "under way, and the worker has a view made of it."
    ),
    "argument": (
        "Below some MiB, what a task costs that does nothing counts more than the copy: see the round trip. "
        "Arrays that fit into the pipe are copied twice by the kernel, others once into memory that is "
        "mapped and warm, but is in the other processor's cache."
    ),
    "result": (
        "As for an argument. The limit copies from memory that the same processor has just read, and into "
        "its own cache; a result comes from the cache of the worker's."
    ),
    "memory": "What the pool keeps mapped for the next array.",
    "share": (
        "The lease, the record, the reservation of pages and the name cost some 80 µs for each block, which "
        "is what it takes that no process leaks one; from some MiB on, nothing of that shows. Pickling "
        "small arrays shares nothing and needs no kernel. Ray's store has its pages from the second time "
        "on."
    ),
    "attach": (
        "A lease has to be taken and given up, the header is read and checked, and on leaving the last one "
        "is found out. SharedMemory knows neither shape nor dtype."
    ),
    "start": (
        "A fork server that loads NumPy before it forks, two pipes and a thread to watch over them. "
        "ProcessPoolExecutor loads no NumPy into its fork server, and its first tasks here need none."
    ),
    "import": "NumPy is most of it.",
    "by blocks": (
        "Two threads write to memory that they share for nothing; between processes, what each block is has "
        "to be told, and a page that was first written by one worker has to be found by the other."
    ),
    "uncontended lock": (
        "Which bytes a view spans has to be found out, a write intent is recorded meanwhile, so that the "
        "next holder is told of a death, and the intents of other writers are read."
    ),
    "pieces": "With as many processes as processors there is nothing to wait for but the processor.",
    "same lock": "The kernel wakes all who wait for a record lock, each of whom tries again.",
    "make + write": ("As for sharing: lease, record, reservation and name. CPython gives a name and a size."),
    "list": "Items are checked and read from the block each time, as those of CPython are.",
}
"""Reasons why ours is more than 1.5 times the limit, or behind another, by words in a race's title."""


BEGIN, END = "<!-- figures: written by pytest benchmarks --report benchmarks/report -->\n", "<!-- end -->\n"
"""The lines before and behind the figures in the README."""

_PICKLING = ("ProcessPoolExecutor", "multiprocessing.Pool")
ROWS: tuple[tuple[str, str, int | None, str, tuple[str, ...]], ...] = (
    ("a plain array of 1 KiB as the argument of a task", "argument", 1 << 10, "sharedarray", _PICKLING),
    ("the same of 1 MiB", "argument", 1 << 20, "sharedarray", _PICKLING),
    ("the same of 64 MiB", "argument", 64 << 20, "sharedarray", (*_PICKLING, "joblib", "ray")),
    ("the same of 1 GiB", "argument", 1 << 30, "sharedarray", (*_PICKLING, "joblib", "ray")),
    (
        "a shared array of 64 MiB as the argument",
        "argument",
        64 << 20,
        "sharedarray, shared",
        ("ray, put before",),
    ),
    ("a plain array of 1 KiB as the result", "result", 1 << 10, "sharedarray", _PICKLING),
    ("the same of 64 MiB", "result", 64 << 20, "sharedarray", (*_PICKLING, "joblib", "ray")),
    ("the same of 1 GiB", "result", 1 << 30, "sharedarray", (*_PICKLING, "joblib", "ray")),
    ("peak memory beside an argument of 64 MiB", "memory of an argument", None, "sharedarray", _PICKLING),
    ("peak memory of a result of 64 MiB", "memory of a result", None, "sharedarray", _PICKLING),
    (
        "a task that does nothing, on two processors",
        "round trip, on two processors",
        None,
        "sharedarray",
        _PICKLING,
    ),
    ("the same, all on one", "round trip, on one processor", None, "sharedarray", _PICKLING),
    (
        "the same, each in a program of its own",
        "round trip",
        None,
        "sharedarray",
        ("loky", "joblib", "mpire", "dask", "ray"),
    ),
    ("the same, 1 ms apart", "round trip, 1 ms apart", None, "sharedarray", ("ProcessPoolExecutor",)),
    (
        "the same of a function of the script",
        "round trip, 1 ms apart",
        None,
        "sharedarray, function of the script",
        (),
    ),
    ("each of 10 000 submitted one by one", "submitted one by one", None, "sharedarray", _PICKLING),
    (
        "each of 10 000 of a function of the script",
        "submitted one by one",
        None,
        "sharedarray, function of the script",
        (),
    ),
    ("each of 100 000 in one `map`, against `multiprocessing.Pool.map`", "map", 100_000, "sharedarray", ()),
    (
        "each of 2 000 NumPy tasks of 100 µs in a `map`, in a pool just made",
        "map, 100 µs, in a pool just made",
        None,
        "sharedarray",
        ("multiprocessing.Pool", "one process"),
    ),
    (
        "each of 200 of 1 ms",
        "map, 1 ms, in a pool just made",
        None,
        "sharedarray",
        ("multiprocessing.Pool", "one process"),
    ),
    (
        "`map_blocks(np.sin)` over 512 MiB",
        "sin by blocks",
        None,
        "sharedarray",
        ("one process, out=", "ProcessPoolExecutor.map"),
    ),
    (
        "`map_blocks(np.sqrt)` over 512 MiB",
        "sqrt by blocks",
        None,
        "sharedarray",
        ("one process, out=", "ProcessPoolExecutor.map"),
    ),
    (
        "a function in pure Python, against one process",
        "pure Python by blocks",
        None,
        "sharedarray",
        ("2 bare workers, a half each",),
    ),
    (
        "two workers ready, from a fresh interpreter",
        "start",
        None,
        "sharedarray",
        ("ProcessPoolExecutor", "loky", "dask", "ray"),
    ),
    (
        "`share` 1 KiB in a new block",
        "share, first",
        1 << 10,
        "sharedarray",
        ("SharedMemory + copy", "pickle.dumps, protocol 5"),
    ),
    (
        "`share` 64 MiB in a new block",
        "share, first",
        64 << 20,
        "sharedarray",
        ("SharedMemory + copy", "SharedArray (PyPI)", "ray"),
    ),
    (
        "`share` 64 MiB again and again, each freed",
        "share again and again",
        None,
        "sharedarray",
        ("SharedMemory + copy",),
    ),
    (
        "new data into 64 MiB that are shared",
        "share, again",
        64 << 20,
        "sharedarray",
        ("pickle.dumps, protocol 5", "ray"),
    ),
    (
        "attach by name, read one element, let go",
        "attach",
        64 << 20,
        "sharedarray",
        ("SharedMemory(name)", "numpy.load(mmap_mode=)"),
    ),
    (
        "a lock on an array, taken and given up",
        "uncontended lock",
        None,
        "sharedarray",
        ("portalocker.Lock(path)", "filelock.FileLock"),
    ),
)
"""Lines of the README's table: what it is, the group and size of the race, who of ours, and which others."""


SHORT = {
    "map": "a `map` of {tasks} tasks that do nothing",
    "uncontended lock": "a free lock, taken and given up",
    "test_contended": "a lock that 8 processes want",
    "argument": "a plain argument of {size}",
    "share, first": "`share` {size} in a new block",
    "throughput, in one map": "a `map` of 2,000 tasks in a new program",
    "test_make_write_and_unlink": "`SharedMemory` of 4 KiB, made, written and unlinked",
    "attach": "attach {size}, read, let go",
    "test_a_whole_list": "a `ShareableList` of 10 items",
    "throughput, submitted one by one": "2,000 tasks, one by one",
    "start": "the start of 2 workers",
    "test_ranges_of_their_own_with_all_processors_busy": "2 processes that lock ranges of their own",
    "share, again": "new data into {size}",
    "test_attach_by_name": "`SharedMemory` by name",
}
"""The README's names of the races that are lost, by group; the most important ones first."""

_LINES, _WIDTH = 6, 118  # of that part of the README


def readme(results: Results) -> str:
    """Return the figures that the README shows: a table of some races, and where sharing loses most."""
    lines = [
        f"{sentence(results.machine)}; medians of interleaved rounds.",
        "",
        "| | time | against the limit | others against the limit |",
        "| --- | ---: | ---: | --- |",
    ]
    for text, group, size, ours, others in ROWS:
        for race in results.group(group):
            if ours in race.figures and race.size in (size, None if size else race.size):
                told = [
                    f"{other} {_short_ratio(race.ratio(other))}" for other in others if other in race.figures
                ]
                median = race.shown(race.median(ours)).replace(" us", " µs")
                lines.append(f"| {text} | {median} | {_short_ratio(race.ratio(ours))} | {', '.join(told)} |")
                break
    return "\n".join([*lines, "", *_losing(results)]) + "\n"


def _losing(results: Results) -> list[str]:
    """Return the lines on where sharing loses: as many of the losses as they hold, the first in `SHORT`."""
    found = _short(results)
    for count in range(len(found), -1, -1):
        more = f" {len(found) - count} more stand in the report." if count < len(found) else ""
        text = "Where it loses: " + ("; ".join(found[:count]) or "nowhere") + "." + more
        lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
        if len(lines) <= _LINES:
            break
    return lines


def _short_ratio(ratio: float) -> str:
    """Return two digits, and never an exponent."""
    return f"{ratio:.2g}" if ratio < 99.5 else f"{ratio:,.0f}"


def _short(results: Results) -> list[str]:
    """Return the worst loss of each group, in the order of `SHORT`."""
    worst: dict[str, tuple[Race, str, float]] = {}
    for race, fastest, factor in losses(results):
        if race.group not in worst or factor > worst[race.group][2]:
            worst[race.group] = (race, fastest, factor)
    told = []
    for group in [*(each for each in SHORT if each in worst), *(each for each in worst if each not in SHORT)]:
        race, fastest, factor = worst[group]
        what = SHORT.get(group, race.title).format(size=human(race.size or 0), tasks=f"{race.size or 0:,}")
        told.append(f"{what}, {_short_ratio(factor)} times {fastest}")
    return told


def update(results: Results, path: Path) -> None:
    """Write the figures into the README, between `BEGIN` and `END`."""
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + readme(results) + END + rest.split(END, 1)[1])


def write(results: Results, directory: Path) -> list[Path]:
    """Write ``report.md`` and its pictures, as PNG and SVG; return their paths.

    Parameters
    ----------
    results : Results
        What was measured.
    directory : Path
        Made if there is none; what is in it of the same names is replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, groups in PICTURES.items():
        there = [group for group in groups if results.group(group)]
        for suffix in (".png", ".svg") if there else ():
            written.append(directory / f"{name}{suffix}")
            picture.draw(results, there, written[-1])
    if bars := [race for race in results.races if race.group in picture.BARS]:
        for suffix in (".png", ".svg"):
            written.append(directory / f"more{suffix}")
            picture.draw_bars(results, bars, written[-1])
    path = directory / "report.md"
    path.write_text("\n".join(_lines(results, [one for one in written if one.suffix == ".png"])) + "\n")
    return [*written, path]


def _lines(results: Results, pictures: Sequence[Path]) -> Iterator[str]:
    yield "# Sharing and pickling, measured"
    yield ""
    yield f"{sentence(results.machine)}."
    yield ""
    yield "Medians of interleaved rounds; the spread is the middle half of the rounds, and a ratio is the"
    yield "median of the ratios of each round. The first line of a table is what the ratios are to, mostly"
    yield "the physical limit. `pytest benchmarks --report DIR` writes this for another machine."
    yield ""
    packages = results.machine["packages"]
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in packages.items()) + "."
    for path in pictures:
        yield ""
        yield f"![{_title(path)}]({path.name})"
    yield ""
    yield "## In short"
    yield ""
    yield from (f"- {line}" for line in verdicts(results))
    if judged := list(rows.judged(results)):
        yield ""
        yield "## What the pool is to cost at most"
        yield ""
        yield "| | measured | bound | |"
        yield "| --- | ---: | ---: | --- |"
        for aim, value in judged:
            bound = f"{'at least' if aim.least else 'at most'} {aim.bound:g}"
            yield f"| {aim.what} | {readable(value)} | {bound} | {'' if aim.met(value) else '**missed**'} |"
    yield from _where_it_loses(results)
    if missing := results.missing():
        yield ""
        yield "## Who took no part"
        yield ""
        yield from (f"- {name}: {why}" for name, why in missing.items())
    yield ""
    yield "## All races"
    for race in results.races:
        yield ""
        yield from table(race)


def _title(path: Path) -> str:
    return {"pickling": "time over size", "share": "time to share, over size"}.get(path.stem, "other races")


def _where_it_loses(results: Results) -> Iterator[str]:
    found = losses(results)
    yield ""
    yield "## Where sharing loses"
    yield ""
    if not found:
        yield "Nowhere: no other contestant is faster in any race."
    for race, fastest, factor in found:
        yield f"- {race.title}: {readable(factor)} times as long as {fastest}. {reason(race)}"
    far = [race for race in behind(results) if race not in [lost for lost, _, _ in found]]
    if far:
        yield ""
        yield "## More than 1.5 times the limit"
        yield ""
        for race in far:
            yield f"- {race.title}: {readable(race.ratio('sharedarray'))} times. {reason(race)}"


def reason(race: Race) -> str:
    """Return why it is so, as far as it is known."""
    about = f"{race.group} {race.title}"
    return next((why for key, why in REASONS.items() if key in about), "The reason is not known.")


def table(race: Race) -> Iterator[str]:
    """Yield a race as a table in Markdown, who is first at the top."""
    size = "" if race.size is None or human(race.size) in race.title else f" ({human(race.size)})"
    yield f"### {race.title}{size}"
    yield ""
    yield "| | median | ratio | spread | rounds |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    first = [race.baseline] if race.baseline in race.figures else []
    for name in [*first, *sorted(set(race.figures) - set(first), key=lambda name: (race.median(name), name))]:
        ratio = readable(race.ratio(name)) if first else ""
        spread = " to ".join(map(race.shown, race.spread(name)))
        shown = f"**{name}**" if name.startswith("sharedarray") else name
        if name in race.notes:
            shown += f" ({race.notes[name]})"
        median, rounds = race.shown(race.median(name)), len(race.figures[name])
        yield f"| {shown} | {median} | {ratio} | {spread} | {rounds} |"
