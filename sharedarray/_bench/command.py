"""``sharedarray bench``: what sharing costs on this machine, and what pickling.

A minute of races over sizes, as a table with ratios, and on request as a picture and as JSON; with
``--pool``, the rows about the pool itself. The benchmarks of the project's ``benchmarks/`` are the same with
more contestants, sizes and rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import sharedarray as sa
from sharedarray._bench import memory, results, rows
from sharedarray._bench.contestants import CONTESTANTS
from sharedarray._bench.hosts import Host, hosted
from sharedarray._bench.machine import human, sentence
from sharedarray._bench.race import Race, readable

SIZES = [1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28]
"""Bytes of the arrays. Of more, pickling takes so long that a minute is soon over; ``--size`` asks for it."""

QUICK_SIZES = [1 << 10, 1 << 16, 1 << 20, 1 << 24]
STANDARD = ["limit", "sharedarray", "sharedarray, shared", "ProcessPoolExecutor", "multiprocessing.Pool"]
ROUNDS = 7
SECONDS = 0.02
"""For which calls are timed, in each round."""

WARM = 0.15
"""Seconds of calls before those; a call of more than twice that is taken as it is."""

BUDGET = 0.5
"""Seconds of a contestant in one race, once it was in the first two rounds."""

TIMES = 6
"""So much memory of the array's size has to be free: pickling makes up to four copies."""


class Tell(Protocol):
    """Tells what is measured now."""

    def __call__(self, text: str, step: bool = True) -> None:
        """Print a step, and return whether it is a new one."""


QUESTIONS = {"argument": "a plain array as the argument of a task", "result": "an array as its result"}
PICTURES = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell `parser` what the command takes."""
    parser.add_argument("--quick", action="store_true", help="a few sizes, in some ten seconds")
    parser.add_argument(
        "--size",
        action="extend",
        type=_sizes,
        metavar="SIZE,…",
        help="sizes of the arrays, such as 64KiB,1MiB,1GiB (default: 1 KiB to 256 MiB)",
    )
    parser.add_argument(
        "--against",
        action="extend",
        type=_names,
        metavar="NAME,…",
        help="more to compare with: all, or of " + ", ".join(n for n in CONTESTANTS if n not in STANDARD),
    )
    parser.add_argument(
        "--pool",
        action="extend",
        type=_rows,
        nargs="?",
        const=list(rows.ROWS),
        metavar="ROW,…",
        help="measure the pool itself, in some two minutes: all rows, or of " + ", ".join(rows.ROWS),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the figures")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curves: " + ", ".join(PICTURES).replace(".", "")
    )
    parser.add_argument(
        "--from",
        dest="stored",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing, but show what --json or pytest-benchmark has stored",
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="with --from: write tables and pictures of all of it there"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and show; return the exit status: 0, or 2 when what was asked for cannot be done."""
    if reason := _refusal(args):
        print(f"sharedarray bench: {reason}", file=sys.stderr)
        return 2
    if args.stored:
        found = results.load(args.stored)
    elif args.pool:
        found = measure_pool(args.pool, rows.QUICK if args.quick else rows.FULL)
    else:
        found = measure(args.size or (QUICK_SIZES if args.quick else SIZES), _wanted(args.against or []))
    if args.report is not None:
        from sharedarray._bench import report  # needs matplotlib

        for path in report.write(found, args.report):
            print(path)
        return 0
    if not found.races:
        print("sharedarray bench: there is nothing to show", file=sys.stderr)
        return 2
    print(table(found))
    if args.json is not None:
        found.save(args.json)
        print(f"Figures: {args.json}")
    if args.plot is not None:
        from sharedarray._bench.picture import TITLES, draw  # needs matplotlib

        groups = [name for name in QUESTIONS if found.group(name)]
        draw(found, groups or [name for name in TITLES if found.group(name)], args.plot)
        print(f"Picture: {args.plot}")
    return 0


def _refusal(args: argparse.Namespace) -> str | None:
    """Return what cannot be done, found out before the work and not after it."""
    drawn = args.plot or args.report
    if drawn and importlib.util.find_spec("matplotlib") is None:
        return "a picture needs matplotlib: pip install 'numpy-sharedarray[bench]'"
    if args.plot and args.plot.suffix.lower() not in PICTURES:
        return f"--plot {args.plot}: its name does not end in {', '.join(PICTURES)}"
    if args.pool and (args.size or args.against or args.plot):
        return "--pool has rows of its own: it takes no --size, --against or --plot"
    for path in (args.json, args.plot):
        if path and not path.parent.is_dir():
            return f"there is no directory {path.parent} to write {path.name} to"
    if args.report and not args.stored:
        return "--report writes of stored figures: name them with --from FILE"
    return None


def _wanted(against: Sequence[str]) -> list[str]:
    names = list(CONTESTANTS) if "all" in against else [*STANDARD, *against]
    return [name for name in CONTESTANTS if name in names]


# -- measuring ------------------------------------------------------------------------------------------


def measure(sizes: Sequence[int], names: Sequence[str]) -> results.Results:
    """Measure how long these contestants take to send arrays of these sizes, in bytes, there and back."""
    fitting = [size for size in sorted(set(sizes)) if memory.available() > TIMES * size]
    for size in sorted(set(sizes) - set(fitting)):
        print(
            f"{human(size)} is left out: {TIMES} times as much memory is needed, and "
            f"{human(memory.available())} are free",
            file=sys.stderr,
        )
    races: list[Race] = []
    if not fitting:
        return results.measured_here(races)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_stored(fitting[-1]))
        told = stack.enter_context(_progress(len(names) + 2 * len(fitting) * len(names)))
        there: dict[str, Host] = {}
        missing: dict[str, str] = {}
        for name in names:
            told(f"starting {name}")
            started, failed = stack.enter_context(hosted([name]))
            there |= started
            missing |= failed
        for size in fitting:
            for question in QUESTIONS:
                race = _race(question, size, path, there, told)
                race.missing |= missing
                races.append(race)
                for name in race.missing:
                    there.pop(name, None)
                missing |= race.missing
    return results.measured_here(races)


def _race(question: str, size: int, path: str, there: dict[str, Host], told: Tell) -> Race:
    args = (size,) if question == "argument" else (path, size)
    contestants = {
        name: functools.partial(host.ask, question, *args, seconds=SECONDS, warm=WARM)
        for name, host in there.items()
        if question in host.questions
    }
    race = Race(f"{QUESTIONS[question]}, {human(size)}", "limit", "us" if size < 1 << 20 else "ms")
    race.group, race.size = question, size
    begun: set[str] = set()

    def begin(name: str) -> None:
        told(f"{human(size)} as {question}: {name}", step=name not in begun)
        begun.add(name)

    race.run(contestants, rounds=ROUNDS, measured=True, budget=BUDGET, fewest=2, begun=begin)
    return race


def measure_pool(names: Sequence[str], scale: rows.Scale) -> results.Results:
    """Measure these rows about the pool itself."""
    races: list[Race] = []
    with _progress(len(names)) as told:
        for name in dict.fromkeys(names):
            told(name)
            for race in rows.ROWS[name](scale):
                races.append(race)
                told(race.title, step=False)
    return results.measured_here(races)


@contextlib.contextmanager
def _stored(size: int) -> Iterator[str]:
    """Provide a file in which all workers find an array of so many bytes; see `tasks.stored`.

    That is a block, and a file on disk where blocks have no paths. Who opens it has to end before it goes.
    """
    count = max(1, size // 8)
    with sa.ones(count) as array:
        path = next(block.path for block in sa.blocks() if block.name == array.name)
        if os.path.exists(path):
            yield path
            return
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "stored.npy")
        sa.ones(count, file=path).close()
        yield path


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Tell]:
    """Tell what is measured now: a bar where tqdm is there, and lines otherwise, on stderr."""
    if importlib.util.find_spec("tqdm") is not None and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=steps, leave=False, file=sys.stderr, mininterval=0.2, unit="step") as bar:

            def tell(text: str, step: bool = True) -> None:
                bar.set_description_str(f"{text:<44}", refresh=False)
                bar.update(int(step))

            yield tell
    else:
        begin, last = time.monotonic(), [-math.inf]

        def line(text: str, step: bool = True) -> None:
            now = time.monotonic() - begin
            if now - last[0] > 2:
                last[0] = now
                print(f"{now:4.0f} s  {text}", file=sys.stderr)

        yield line


# -- showing --------------------------------------------------------------------------------------------


def table(found: results.Results) -> str:
    """Return the medians over sizes with the ratio to the limit, and a summary."""
    from sharedarray._bench.summary import verdicts

    parts = [sentence(found.machine)]
    for question, title in QUESTIONS.items():
        if races := found.group(question):
            parts.append(_table(f"{title[0].upper()}{title[1:]}; in brackets, times the limit", races))
    parts.append("\n".join(_columns_of_curves(found)))
    of_pool = [race.table() for race in found.races if race.group in rows.GROUPS]
    parts += [_COLUMNS_OF_POOL, *of_pool] if of_pool else []
    parts.append("\n".join(rows.sentences(found)))
    parts.append("\n".join(verdicts(found)))
    parts.append("\n".join(_left_out(found)))
    return "\n\n".join(part for part in parts if part)


_COLUMNS_OF_POOL = """In each table below
  median                    the middle one of the rounds' times
  ratio                     how many times as long as the row with 1.00, round by round; the median of that
  middle half of the rounds half of the rounds took between these times"""


def _columns_of_curves(found: results.Results) -> Iterator[str]:
    """Yield what each column of the tables over sizes is."""
    shown = dict.fromkeys(name for question in QUESTIONS for name in found.contestants(question))
    if not shown:
        return
    yield "The columns: the median time of a task, with two workers"
    width = max(map(len, shown))
    for name in shown:
        meaning = CONTESTANTS[name].meaning if name in CONTESTANTS else "as in the stored figures"
        yield f"  {name:{width}}  {meaning}"


def _left_out(found: results.Results) -> Iterator[str]:
    """Return the contestants that have no figures, in all or of one question, and the reasons."""
    nowhere = found.missing()
    for name, why in nowhere.items():
        yield f"{name} took no part: {why}"
    for question in QUESTIONS:
        reasons = {name: why for race in found.group(question) for name, why in race.missing.items()}
        for name in reasons.keys() - nowhere.keys() - set(found.contestants(question)):
            yield f"{question}: {name} took no part: {reasons[name]}"


def _table(title: str, races: Sequence[Race]) -> str:
    names = list(dict.fromkeys(name for race in races for name in race.figures))
    if not names:
        return f"{title}\nno contestant could be measured"
    rows = [["", *names]]
    for race in races:
        cells = [race.shown(race.median(n)) if n in race.figures else "-" for n in names]
        ratios = [f"({readable(race.ratio(n))})" if n in race.figures and n != "limit" else "" for n in names]
        rows.append(
            [human(race.size or 0), *(f"{c} {r}".rstrip() for c, r in zip(cells, ratios, strict=True))]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *lines])


# -- arguments ------------------------------------------------------------------------------------------

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _sizes(text: str) -> list[int]:
    return [_size(part) for part in text.split(",") if part]


def _size(text: str) -> int:
    """Return bytes, a multiple of the eight of an element."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 64KiB, 1MiB or 1GiB")
    size = int(float(match[1]) * _UNITS[match[2]]) // 8 * 8
    if size < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is too small to be measured: an element has 8 bytes")
    return size


def _rows(text: str) -> list[str]:
    names = [name for name in text.lower().split(",") if name]
    for name in names:
        if name not in rows.ROWS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(rows.ROWS)}")
    return names


def _names(text: str) -> list[str]:
    known = {name.lower(): name for name in CONTESTANTS} | {"all": "all"}
    names = []
    rest = text.lower()
    while rest:  # a name may have a comma in it
        found = max((n for n in known if re.match(re.escape(n) + r"(,|$)", rest)), key=len, default=None)
        if found is None:
            raise argparse.ArgumentTypeError(f"{rest!r} is none of: all; {'; '.join(CONTESTANTS)}")
        names.append(known[found])
        rest = rest[len(found) :].lstrip(", ")
    return names
