"""What a pool tells of its work: its figures, what of a call was copied, and who ran what when.

Each of these is a snapshot that refers to nothing of the pool: it may be kept, pickled and looked at when the
pool is gone. All of them have a text for a terminal (`str`) and HTML for a notebook.

A timeline is drawn from *marks*. A mark is one span, or several neighbours in one lane that are too narrow to
be told apart; as many are joined as it takes to keep the picture small.
"""

from __future__ import annotations

import contextlib
import html
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from sharedarray._platform import platform
from sharedarray.display import human
from sharedarray.thresholds import OUT_OF_BAND

__all__ = [
    "ArgumentCopies",
    "CopyReport",
    "PoolStats",
    "Span",
    "Timeline",
    "human",
    "human_time",
]

# Characters of a picture's rows, and of a name or function in them.
_COLUMNS, _NAME = 100, 20
# Workers that are shown as text, and as SVG: more than a screen shows, and as many as fit into _MARKS.
_ROWS, _LANES = 64, 256
# Marks in an SVG. One takes some 600 bytes at the very most, so that there is less than a megabyte of them.
_MARKS = 1500
# Bytes that are worth advice. Less is copied in a fraction of a millisecond.
_WORTH_SAYING = 1 << 20
# Outcomes other than "done", the most serious one first, with the letters that mark them.
_MARKED = {"died": "!", "timeout": "t", "raised": "x", "cancelled": "c"}


# -- units ----------------------------------------------------------------------------------------------


def human_time(seconds: float) -> str:
    """Return a duration in the unit that suits it.

    Examples
    --------
    >>> human_time(0.00125), human_time(2.0), human_time(125), human_time(7260)
    ('1.25 ms', '2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds >= 59.95:
        minutes, rest = divmod(round(seconds), 60)
        if minutes < 60:
            return f"{minutes} min {rest} s"
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min"
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns" if seconds > 0 else "0 s"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _shown(text: str, most: int = _NAME) -> str:
    """Return a text as one line of so many characters at most, with nothing in it that steers a terminal.

    Of a long one the end is left, which tells most of a worker and of a function within others. What is left
    can stand in XML, too, where fewer characters are allowed than in Python.
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :]}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of aligned cells: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip()
        for cells in rows
    ]


def _html_table(caption: str, rows: Sequence[Sequence[str]], *, head: bool, note: str | None = None) -> str:
    """Return a table, with everything escaped; the first column is a heading, and the first row may be."""
    right = ' style="text-align:right"'
    lines = []
    for number, (first, *cells) in enumerate(rows):
        kind = "th" if head and not number else "td"
        others = "".join([f"<{kind}{right}>{html.escape(cell)}</{kind}>" for cell in cells])
        lines.append(f'<tr><th style="text-align:left">{html.escape(first)}</th>{others}</tr>')
    after = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(lines)}</table>{after}"


# -- who ran what when ----------------------------------------------------------------------------------


class Span(NamedTuple):
    """One task, from when it was submitted until it was over.

    Small items of a `Pool.map` are handed out many at a time; these are one span.

    Attributes
    ----------
    task, call : int
        Numbers of the task and of the call that it belongs to, unique within this process.
    label : str
        Name of the function.
    worker : str
        Name of the worker that ran it.
    pid : int
        Process id of that worker.
    submitted, began, ended : int
        When, in nanoseconds of the monotonic clock (`time.monotonic_ns`). For a task that did not come to its
        own end, ``began`` is what the pool knew of it.
    outcome : {'done', 'raised', 'died', 'timeout', 'cancelled'}
        It returned; it raised; its worker died; its time was up; it was cancelled while it ran.
    items : int
        How many calls of the function they are.

    Examples
    --------
    >>> span = Span(8, 3, "blur", "worker-1", 4711, 1_000_000, 3_000_000, 15_000_000, "done")
    >>> span.seconds, span.waited
    (0.012, 0.002)
    """

    task: int
    call: int
    label: str
    worker: str
    pid: int
    submitted: int
    began: int
    ended: int
    outcome: str
    items: int = 1

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return max(0, self.ended - self.began) / 1e9

    @property
    def waited(self) -> float:
        """Seconds between its submission and its beginning."""
        return max(0, self.began - self.submitted) / 1e9


class Timeline(Sequence[Span]):
    """Which worker ran what when: the spans of the last tasks, in the order in which they were over.

    A sequence of `Span`; a slice of it is a timeline. As text it is a picture of one row for each worker, in
    a notebook a larger one with tooltips.

    Parameters
    ----------
    spans : iterable of Span
        Of one pool.
    dropped : int, default 0
        How many older spans there were.
    pid : int, optional
        The process of the pool; this one when None.

    Attributes
    ----------
    dropped : int
        How many older spans the pool had forgotten when it was asked. It keeps the last 50 000.
    pid : int
        The process of the pool.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     text = pool.submit("{} and {}".format, 1, 2).result()
    ...     timeline = pool.timeline()
    >>> timeline[-1].label, timeline[-1].outcome
    ('str.format', 'done')
    >>> slow = sa.pool.reports.Timeline(span for span in timeline if span.seconds > 60)
    >>> print(slow)
    no tasks
    """

    __slots__ = ("_spans", "dropped", "pid")

    def __init__(self, spans: Iterable[Span], dropped: int = 0, pid: int | None = None) -> None:
        self._spans = tuple(spans)
        self.dropped = dropped
        self.pid = os.getpid() if pid is None else pid

    # A sequence

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> Span: ...

    @overload
    def __getitem__(self, index: slice) -> Timeline: ...

    def __getitem__(self, index: int | slice) -> Span | Timeline:
        if isinstance(index, slice):
            return Timeline(self._spans[index], self.dropped, self.pid)
        return self._spans[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return (self._spans, self.dropped, self.pid) == (other._spans, other.dropped, other.pid)

    def __hash__(self) -> int:
        return hash((self._spans, self.dropped, self.pid))

    def __repr__(self) -> str:
        return f"<Timeline: {self._headline()}>"

    # Figures

    @property
    def seconds(self) -> float:
        """From the beginning of the first task to the end of the last one."""
        start, end = _window(self._spans)
        return (end - start) / 1e9

    @property
    def utilisation(self) -> dict[str, float]:
        """Which part of these seconds each worker was running tasks, by its name: 0 to 1."""
        start, end = _window(self._spans)
        return {
            lane.worker: lane.busy / (end - start) if end > start else 1.0 for lane in _lanes(self._spans)
        }

    def _headline(self) -> str:
        if not self._spans:
            return "no tasks"
        lanes = _lanes(self._spans)
        start, end = _window(self._spans)
        busy = sum([lane.busy for lane in lanes]) / max(1, end - start)
        return (
            f"{_count(len(self), 'task')} in {_count(len(lanes), 'worker')}, {human_time(self.seconds)}, "
            f"{busy:.1f} busy on average"
        )

    def _forgotten(self) -> str | None:
        if not self.dropped:
            return None
        return f"{_count(self.dropped, 'older task')} {'is' if self.dropped == 1 else 'are'} forgotten"

    # Pictures

    def __str__(self) -> str:
        return "\n".join(_text(self._spans, self._headline(), self._forgotten()))

    def _repr_html_(self) -> str:
        note = self._forgotten()
        return self.to_svg() + (f"<p>{note}</p>" if note else "")

    def to_svg(self) -> str:
        """Return a picture of one lane for each worker, with a tooltip for each task.

        Returns
        -------
        str
            An SVG document, of less than a megabyte however many tasks there are: neighbours that are too
            narrow to be told apart are drawn as one, the paler the more of the time between them was idle.
            Colours tell the functions apart. What was not done has a border and a letter.
        """
        return _svg(self._spans, self._headline())

    def to_chrome_trace(self) -> dict[str, Any]:
        """Return the timeline as ``chrome://tracing``, https://ui.perfetto.dev and other viewers read it.

        Returns
        -------
        dict
            What `json.dump` writes. The pool is the process and its workers are the threads. All times are
            floats in microseconds, of the monotonic clock, so that traces of several pools fit together.
            The category of a task is its outcome.

        Notes
        -----
        The format is the JSON Object Format of the *Trace Event Format* of the Chromium project:
        https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

        Examples
        --------
        >>> span = Span(8, 3, "blur", "worker-1", 4711, 1_000_000, 3_000_000, 15_000_000, "done")
        >>> event = Timeline([span], pid=7).to_chrome_trace()["traceEvents"][-1]
        >>> event["name"], event["ph"], event["ts"], event["dur"], event["args"]["waited"]
        ('blur', 'X', 3000.0, 12000.0, 2000.0)
        """
        return _chrome_trace(self._spans, self.pid, self.dropped)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline to a file, in the format that its name asks for.

        Parameters
        ----------
        path : str or path-like
            With ``.json`` or ``.json.gz`` what `to_chrome_trace` returns, with ``.svg`` the picture, with
            ``.txt`` the text. A file of that name is replaced when the new one is complete; where the name is
            a link, the file that it leads to.

        Raises
        ------
        ValueError
            Another suffix.
        OSError
            The file cannot be written; nothing is left of it, and what was there is as it was.
        """
        name = os.fspath(path)
        lowered = os.path.basename(name).lower()
        import gzip  # here, like others below: pools are started without
        import json

        if lowered.endswith((".json", ".json.gz")):
            data = json.dumps(self.to_chrome_trace(), separators=(",", ":")).encode()
            if lowered.endswith(".gz"):
                data = gzip.compress(data, mtime=0)  # the same bytes for the same timeline
        elif lowered.endswith(".svg"):
            data = self.to_svg().encode()
        elif lowered.endswith(".txt"):
            data = f"{self}\n".encode()
        else:
            found = os.path.splitext(lowered)[1] or "no suffix"
            raise ValueError(
                f"a timeline cannot be saved as {name!r}; found {found}; "
                "expected .json, .json.gz, .svg or .txt. Next step: save('timeline.json') writes what "
                "chrome://tracing and https://ui.perfetto.dev show, save('timeline.svg') a picture"
            )
        _write(os.path.realpath(name), data)


def _write(target: str, data: bytes) -> None:
    """Write a file under another name and give it its own when it is complete."""
    import secrets

    temporary = os.path.join(os.path.dirname(target), f".sharedarray-{secrets.token_hex(8)}.tmp")
    # Not by tempfile, whose files only their owner may read: the kernel applies the umask to this one.
    handle = platform.opened(os.open, temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


# -- drawing a timeline ---------------------------------------------------------------------------------


class _Lane(NamedTuple):
    """One worker's spans, by their beginning, and for how many nanoseconds it was busy with them."""

    worker: str
    pid: int
    spans: list[Span]
    busy: int


class _Mark(NamedTuple):
    """One span, or several that are drawn as one."""

    began: int
    ended: int
    spans: list[Span]


def _window(spans: Sequence[Span]) -> tuple[int, int]:
    """Return when the first span began and the last one ended."""
    if not spans:
        return 0, 0
    start = min([span.began for span in spans])
    return start, max([start, *[span.ended for span in spans]])


def _lanes(spans: Sequence[Span]) -> list[_Lane]:
    """Return the workers in the order of their numbers."""
    found: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        found.setdefault((span.worker, span.pid), []).append(span)
    lanes = []
    for (worker, pid), own in found.items():
        own.sort(key=lambda span: (span.began, span.ended))
        lanes.append(_Lane(worker, pid, own, _busy(own)))
    return sorted(lanes, key=lambda lane: (_natural(lane.worker), lane.pid))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what to sort a name by so that 10 comes after 9."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)([0-9]*)", name)]


def _busy(spans: Sequence[Span]) -> int:
    """Return the nanoseconds that are covered by spans, which are in order of their beginning."""
    total, until = 0, spans[0].began
    for span in spans:
        total += max(0, span.ended - max(span.began, until))
        until = max(until, span.ended)
    return total


def _functions(spans: Sequence[Span]) -> list[tuple[str, int, int]]:
    """Return each function's name, number of tasks and nanoseconds, the one that took most of them first."""
    found: dict[str, tuple[int, int]] = {}
    for span in spans:
        count, spent = found.get(span.label, (0, 0))
        found[span.label] = count + 1, spent + max(0, span.ended - span.began)
    ordered = sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
    return [(label, count, spent) for label, (count, spent) in ordered]


def _worst(spans: Sequence[Span]) -> str:
    """Return the most serious outcome of some spans."""
    found = {span.outcome for span in spans}
    return next((outcome for outcome in _MARKED if outcome in found), "done")


def _key(spans: Sequence[Span]) -> list[str]:
    """Say what the letters in a picture mean, of those that are in it."""
    found: dict[str, int] = {}
    for span in spans:
        found[span.outcome] = found.get(span.outcome, 0) + 1
    return [f"{letter} {name} ({found[name]:,})" for name, letter in _MARKED.items() if name in found]


def _worker(name: str) -> str:
    return _shown(name.removeprefix("sharedarray-"))


# How busy a worker was, in eighths, and what part of a column is a matter of rounding.
_LEVELS, _NOTHING = " ▁▂▃▄▅▆▇█", 1e-6


def _text(spans: Sequence[Span], headline: str, forgotten: str | None) -> list[str]:
    """Return the lines of a picture whose blocks are as high as the worker was busy."""
    lines = [headline]
    lanes = _lanes(spans)
    start, end = _window(spans)
    if lanes:
        shown = lanes[-_ROWS:]
        names = [_worker(lane.worker) for lane in shown]
        counts = [_count(len(lane.spans), "task") for lane in shown]
        width, right = max(map(len, names)), max(map(len, counts))
        columns = _COLUMNS - width - right - len("  ||  100%  ")
        length = max(1, end - start)
        for name, count, lane in zip(names, counts, shown, strict=True):
            bar = _bar(lane.spans, start, length, columns)
            lines.append(f"{name:{width}}  |{bar}|  {lane.busy / length:4.0%}  {count:>{right}}")
        total = human_time((end - start) / 1e9)
        lines.append(f"{'':{width}}   0{total:>{columns - 1}}")
        if len(lanes) > len(shown):
            lines.insert(1, f"{_count(len(lanes) - len(shown), 'earlier worker')} not shown")
    lines += ["  ".join(_key(spans)), _listed(_functions(spans)), forgotten or ""]
    return [line for line in lines if line]


def _bar(spans: Sequence[Span], start: int, length: int, columns: int) -> str:
    """Return how busy one worker was in each of some equal parts of the time."""
    covered = [0.0] * columns
    letters: dict[int, str] = {}
    order, scale = [*_MARKED.values()].index, columns / length
    for span in spans:
        first, last = (span.began - start) * scale, (span.ended - start) * scale
        at = min(int(first), columns - 1)
        until = min(max(at, math.ceil(last) - 1), columns - 1)
        for column in range(at, until + 1):
            # However short it was, it is seen.
            covered[column] += max(min(last, column + 1) - max(first, column), 2 * _NOTHING)
        if span.outcome in _MARKED:
            letter = _MARKED[span.outcome]
            letters[until] = min(letters.get(until, letter), letter, key=order)
    full = len(_LEVELS) - 1
    for column, part in enumerate(covered):
        letters.setdefault(column, _LEVELS[min(full, math.ceil((part - _NOTHING) * full))])
    return "".join([letters[column] for column in range(columns)])


def _listed(functions: Sequence[tuple[str, int, int]]) -> str:
    """Return one line with as many functions as fit."""
    line = ""
    for number, (label, count, spent) in enumerate(functions, 1):
        one = f"{', ' if line else ''}{_shown(label, 32)} × {count:,} ({human_time(spent / 1e9)})"
        rest = _more(len(functions) - number)
        if len(line) + len(one) + len(rest) > _COLUMNS:
            return line + _more(len(functions) - number + 1)
        line += one
    return line


def _more(functions: int) -> str:
    return f", and {_count(functions, 'more function')}" if functions else ""


# Colours that remain distinct for the colour-blind, after Okabe and Ito; the rest of the functions are grey.
_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#8f7fd6")
_OTHER = "#b5b5b5"
# How the border of what was not done is drawn: the lengths of its dashes, none for a line.
_BORDERS = {"died": "", "timeout": "6 2", "raised": "3 2", "cancelled": "1 2"}
# Pixels: the whole width, the lanes' left and right end, what stands above them, and a row of the legend.
_WIDTH, _LEFT, _RIGHT, _ABOVE, _LINE = 960, 120, 900, 28, 18


def _svg(spans: Sequence[Span], headline: str) -> str:
    lanes = _lanes(spans)
    hidden, lanes = len(lanes) - len(lanes[-_LANES:]), lanes[-_LANES:]
    start, end = _window(spans)
    length = max(1, end - start)
    functions = _functions(spans)
    colours = {label: colour for (label, _, _), colour in zip(functions, _COLOURS, strict=False)}
    pitch = 24 if len(lanes) <= 32 else 14
    bottom = _ABOVE + pitch * len(lanes)
    tops = range(_ABOVE, bottom, pitch)
    body = [
        f'<path d="M{_LEFT} {top + (pitch - 2) / 2}H{_RIGHT}" stroke="#f2f2f2" stroke-width="{pitch - 2}"/>'
        for top in tops
    ]
    body += _axis(end - start, bottom) if lanes else []
    for top, lane, marks in zip(tops, lanes, _marks(lanes, length), strict=True):
        label, share = _xml(_worker(lane.worker)), f"{lane.busy / length:.0%}"
        body += [
            f'<g class="lane"><title>{label}, process {lane.pid}: {_count(len(lane.spans), "task")}</title>',
            f'<text x="{_LEFT - 8}" y="{top + pitch // 2 + 3}" text-anchor="end">{label}</text>',
            f'<text x="{_RIGHT + 8}" y="{top + pitch // 2 + 3}">{share}</text>',
            *[_drawn(mark, start, length, top, pitch - 2, colours) for mark in marks],
            "</g>",
        ]
    notes = _key(spans)
    if hidden:
        notes.append(f"{_count(hidden, 'earlier worker')} not shown")
    legend, height = _legend(functions, colours, notes, bottom + 30 if lanes else _ABOVE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" font-family="sans-serif" font-size="11" fill="#222">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="17" font-size="12">{_xml(headline)}</text>'
        f"{''.join(body)}{''.join(legend)}</svg>"
    )


def _xml(text: str) -> str:
    """Escape a text that `_shown` has been over."""
    return html.escape(text, quote=False)


def _marks(lanes: Sequence[_Lane], length: int) -> list[list[_Mark]]:
    """Return what is drawn in each lane, in all no more than an SVG should have."""
    grain = 0
    while True:
        found = [_joined(lane.spans, grain) for lane in lanes]
        if grain >= length or sum(map(len, found)) <= _MARKS:
            return found
        grain = max(grain * 2, length // 2048, 1)


def _joined(spans: Sequence[Span], grain: int) -> list[_Mark]:
    """Join neighbours that together take no more than so many nanoseconds; none at all for 0."""
    found: list[_Mark] = []
    for span in spans:
        last = found[-1] if found else None
        if grain and last is not None and max(last.ended, span.ended) - last.began <= grain:
            last.spans.append(span)
            found[-1] = last._replace(ended=max(last.ended, span.ended))
        else:
            found.append(_Mark(span.began, max(span.began, span.ended), [span]))
    return found


def _drawn(mark: _Mark, start: int, length: int, top: int, height: int, colours: dict[str, str]) -> str:
    scale = (_RIGHT - _LEFT) / length
    wide = (mark.ended - mark.began) * scale
    wide = max(1.0, wide - 0.5 if wide > 4 else wide)  # half a pixel tells neighbours of a colour apart
    x = min(_LEFT + (mark.began - start) * scale, _RIGHT - wide)
    outcome = _worst(mark.spans)
    look = f'fill="{colours.get(_functions(mark.spans)[0][0], _OTHER)}"'
    if len(mark.spans) > 1:
        look += f' fill-opacity="{max(0.35, _busy(mark.spans) / max(1, mark.ended - mark.began)):.2f}"'
    letter = ""
    if outcome in _MARKED:
        dashes = f' stroke-dasharray="{_BORDERS[outcome]}"' if _BORDERS[outcome] else ""
        look += f' stroke="#000" stroke-width="1.5"{dashes}'
        letter = (
            f'<text x="{x + wide / 2:.1f}" y="{top + height // 2 + 4}" text-anchor="middle" '
            'font-weight="bold" stroke="#fff" stroke-width="2" paint-order="stroke" pointer-events="none">'
            f"{_MARKED[outcome]}</text>"
        )
    return (
        f'<rect class="{outcome}" x="{x:.2f}" y="{top}" width="{wide:.2f}" height="{height}" {look}>'
        f"<title>{_xml(_told(mark))}</title></rect>{letter}"
    )


def _told(mark: _Mark) -> str:
    """Return the tooltip of a mark."""
    functions = _functions(mark.spans)
    label = _shown(functions[0][0], 48)
    if len(mark.spans) == 1:
        span = mark.spans[0]
        return (
            f"{label}: {span.outcome}\ntask {span.task} of call {span.call}\n"
            f"{human_time(span.seconds)}, waited {human_time(span.waited)}"
        )
    others = f" and {_count(len(functions) - 1, 'other function')}" if len(functions) > 1 else ""
    busy = human_time(_busy(mark.spans) / 1e9)
    outcomes = "\n".join(_key(mark.spans))
    return (
        f"{_count(len(mark.spans), 'task')}: {label}{others}\n"
        f"{busy} of {human_time((mark.ended - mark.began) / 1e9)}" + (f"\n{outcomes}" if outcomes else "")
    )


def _axis(length: int, bottom: int) -> list[str]:
    """Return a line and a text for each full unit of time."""
    lines = []
    for at, text in _ticks(length):
        x = f"{_LEFT + (_RIGHT - _LEFT) * at / max(1, length):.1f}"
        lines.append(
            f'<path d="M{x} {_ABOVE - 4}V{bottom + 4}" stroke="#ccc"/>'
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        )
    return lines


# Steps between the ticks of an axis beyond two minutes, in seconds.
_CLOCK_STEPS = (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def _ticks(length: int) -> list[tuple[int, str]]:
    """Return times in nanoseconds for an axis, from 0 on, and what to call them; some four to ten.

    Examples
    --------
    >>> [text for _, text in _ticks(1_200_000_000)]
    ['0', '0.2 s', '0.4 s', '0.6 s', '0.8 s', '1 s', '1.2 s']
    >>> [text for _, text in _ticks(200_000_000_000)]
    ['0', '0:30 min', '1:00 min', '1:30 min', '2:00 min', '2:30 min', '3:00 min']
    """
    if length < 120 * 10**9:
        unit, size = next(
            (pair for pair in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)) if length >= pair[1]), ("ns", 1)
        )
        rough = max(1.0, length / 8)
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [(at, f"{at / size:g} {unit}" if at else "0") for at in range(0, length + 1, step)]
    rough = length / 8e9
    last = _CLOCK_STEPS[-1]
    step = next((step for step in _CLOCK_STEPS if step >= rough), math.ceil(rough / last) * last)
    unit, part = ("min", 60) if length < 7200 * 10**9 else ("h", 3600)
    return [
        (at * 10**9, f"{at // part}:{at % part * 60 // part:02d} {unit}" if at else "0")
        for at in range(0, length // 10**9 + 1, step)
    ]


def _legend(
    functions: Sequence[tuple[str, int, int]], colours: dict[str, str], notes: Sequence[str], top: int
) -> tuple[list[str], int]:
    """Return the functions with their colours, then the notes; and where the picture ends."""
    entries = [
        (f"{_shown(label, 40)} × {count:,} ({human_time(spent / 1e9)})", colours[label])
        for label, count, spent in functions
        if label in colours
    ]
    if len(functions) > len(entries):
        entries.append((_count(len(functions) - len(entries), "other function"), _OTHER))
    entries += [(note, "") for note in notes]
    lines, x, y = [], 8, top
    for text, colour in entries:
        wide = 24 + 7 * len(text)  # some 6 pixels a character at this size
        if x > 8 and x + wide > _WIDTH:
            x, y = 8, y + _LINE
        if colour:
            lines.append(f'<rect x="{x}" y="{y + 3}" width="10" height="10" fill="{colour}"/>')
        lines.append(f'<text x="{x + (14 if colour else 0)}" y="{y + 12}">{_xml(text)}</text>')
        x += wide
    return lines, y + _LINE + 4


def _chrome_trace(spans: Sequence[Span], pid: int, dropped: int) -> dict[str, Any]:
    events: list[dict[str, Any]] = []

    def name(what: str, tid: int, **args: object) -> None:
        events.append({"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args})

    lanes = _lanes(spans)
    name("process_name", 0, name=f"sharedarray pool of process {pid}")
    for tid, lane in enumerate(lanes, 1):
        name("thread_name", tid, name=f"{lane.worker} (process {lane.pid})")
        name("thread_sort_index", tid, sort_index=tid)
    for tid, lane in enumerate(lanes, 1):
        events += [
            {
                "name": span.label,
                "cat": span.outcome,
                "ph": "X",
                "ts": span.began / 1000,
                "dur": max(0, span.ended - span.began) / 1000,
                "pid": pid,
                "tid": tid,
                "args": {
                    "task": span.task,
                    "call": span.call,
                    "waited": max(0, span.began - span.submitted) / 1000,
                    "outcome": span.outcome,
                },
            }
            for span in lane.spans
        ]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"dropped": dropped}}


# -- what was copied ------------------------------------------------------------------------------------


class ArgumentCopies(NamedTuple):
    """What became of one argument of a call, of its function, or of its results.

    Attributes
    ----------
    argument : str
        'function'; a position, '0' for the first argument; the name of a keyword (with an equals sign where
        it is one of these); 'result'; or 'arguments', for all of a small call at once.
    shared : int
        Bytes that were sent by reference: nothing was copied.
    copied : int
        Bytes that were copied into memory that the receiver sees.
    pickled : int
        Bytes of pickles. References to shared arrays are some of them.
    reused : int
        Bytes that needed no further copy, because another task of the call had sent the same array.
    count : int
        How often it was sent.
    """

    argument: str
    shared: int
    copied: int
    pickled: int
    reused: int
    count: int  # type: ignore[assignment]  # hides the tuple's own


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What of a call was sent by reference, copied and pickled.

    Attributes
    ----------
    call : int
        Number of the call.
    label : str
        Name of the function.
    tasks : int
        How many tasks the call has.
    seconds : float
        From the call until the last of its tasks was over, or until now.
    rows : tuple of ArgumentCopies
        One for each argument, the function and the results included.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     future = pool.submit(np.dot, sa.zeros(1_000_000), np.zeros(1_000_000))
    ...     _ = future.result()
    ...     report = pool.copy_report(future)
    >>> report.shared_bytes, report.copied_bytes
    (8000000, 8000000)
    >>> report.advice
    'args[1] was copied: 7.6 MiB. Make it with sharedarray.share or pool.share, and it travels by reference.'
    """

    call: int
    label: str
    tasks: int
    seconds: float
    rows: tuple[ArgumentCopies, ...]

    @property
    def shared_bytes(self) -> int:
        """Bytes that were sent by reference."""
        return sum([row.shared for row in self.rows])

    @property
    def copied_bytes(self) -> int:
        """Bytes that were copied."""
        return sum([row.copied for row in self.rows])

    @property
    def pickled_bytes(self) -> int:
        """Bytes of pickles."""
        return sum([row.pickled for row in self.rows])

    @property
    def reused_bytes(self) -> int:
        """Bytes that needed no further copy, because another task had sent the same array."""
        return sum([row.reused for row in self.rows])

    @property
    def advice(self) -> str | None:
        """What to do about the largest amount that was copied or pickled; None where all are small."""
        largest = max(self.rows, key=lambda row: max(row.copied, row.pickled), default=None)
        if largest is None or max(largest.copied, largest.pickled) < _WORTH_SAYING:
            return None
        return _copied(largest) if largest.copied >= largest.pickled else _pickled(largest)

    def __str__(self) -> str:
        lines = [self._headline(), *_table(self._cells())]
        return "\n".join(lines if self.advice is None else [*lines, self.advice])

    def _repr_html_(self) -> str:
        return _html_table(self._headline(), self._cells(), head=True, note=self.advice)

    def _headline(self) -> str:
        return f"{_shown(self.label, 60)}: {_count(self.tasks, 'task')}, {human_time(self.seconds)}"

    def _cells(self) -> list[tuple[str, ...]]:
        total = ArgumentCopies(
            "total", self.shared_bytes, self.copied_bytes, self.pickled_bytes, self.reused_bytes, 0
        )
        rows = [(_argument(row.argument), row) for row in self.rows]
        if len(rows) > 1:
            rows.append(("total", total))
        return [
            ("", "shared", "copied", "pickled", "reused", "times"),
            *[(name, *map(_amount, row[1:5]), f"{row.count:,}" if row.count else "") for name, row in rows],
        ]


def _amount(size: int) -> str:
    return human(size) if size else "-"


def _argument(name: str) -> str:
    """Return what to call an argument: ``args[0]``, ``axis=``."""
    if name in ("function", "arguments", "result") or name.endswith("="):
        return name
    return f"args[{name}]" if name.isdecimal() else f"{_shown(name, 30)}="


def _copied(row: ArgumentCopies) -> str:
    """Say how large arrays go without a copy."""
    name, size = _argument(row.argument), human(row.copied)
    if name == "result":
        return (
            f"The result was copied: {size}. Make it with sharedarray.empty, or write it into a shared array "
            "that is passed, and it is not."
        )
    if name == "function":
        return (
            f"Arrays of the function's own were copied: {size}. Make them with sharedarray.share or "
            "pool.share, and they travel by reference."
        )
    return (
        f"{name} was copied: {size}. Make it with sharedarray.share or pool.share, and it travels by "
        "reference."
    )


def _pickled(row: ArgumentCopies) -> str:
    """Say what it is likely to be that pickle has had to do with."""
    name, size = _argument(row.argument), human(row.pickled)
    if name == "function":
        return f"The function was pickled: {size}. It likely refers to large objects; arrays can be shared."
    subject = {"arguments": "The arguments were", "result": "The result was"}.get(name, f"{name} was")
    if row.pickled // max(1, row.count) < OUT_OF_BAND:  # arrays of this size are in the pickle
        return (
            f"{subject} pickled {row.count:,} times: {size}. These are small objects or arrays; rows of one "
            "shared array travel by reference."
        )
    return (
        f"{subject} pickled: {size}. Likely it is text, a list or dict, or an array of Python objects; "
        "an array of numbers can be shared."
    )


# -- figures of a pool ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool was doing when it was asked, and what it has done so far.

    Attributes
    ----------
    workers, busy, max_workers : int
        Workers that there are, those of them that have something to do, and how many there may be.
    queued, running : int
        Items that wait, and that are being worked on.
    done, failed, cancelled, retried : int
        Items that returned; that raised, were out of time or lost their worker; that were cancelled; and how
        often a task was run again because its worker had died.
    died, replaced : int
        Workers that ended before they were told to, those that were killed included; and those that were
        started in place of others.
    recycled_bytes, recycled_in_use, recycled_free : int
        Bytes of the memory in which plain arrays travel: all, what arguments and results use, and what is
        kept for the next ones.
    recycled_blocks : int
        How many blocks that memory is.
    recycled_limit, recycled_idle_limit : int
        Bytes that are kept free at most, while there is work and when there is none.
    shared_bytes, copied_bytes, pickled_bytes : int
        Bytes of arguments and results that were sent by reference, copied, and pickled.
    """

    workers: int
    busy: int
    max_workers: int
    queued: int
    running: int
    done: int
    failed: int
    cancelled: int
    retried: int
    died: int
    replaced: int
    recycled_bytes: int
    recycled_in_use: int
    recycled_free: int
    recycled_blocks: int
    recycled_limit: int
    recycled_idle_limit: int
    shared_bytes: int
    copied_bytes: int
    pickled_bytes: int

    def __str__(self) -> str:
        return "\n".join(f"{name:10}{text}" for name, text in self._lines())

    def _repr_html_(self) -> str:
        return _html_table("Pool", self._lines(), head=False)

    def _lines(self) -> list[tuple[str, str]]:
        workers = (
            f"{self.workers:,} of at most {self.max_workers:,}, {self.busy:,} busy, {self.died:,} died, "
            f"{self.replaced:,} replaced"
        )
        tasks = (
            f"{self.queued:,} queued, {self.running:,} running, {self.done:,} done, {self.failed:,} failed, "
            f"{self.cancelled:,} cancelled, {self.retried:,} retried"
        )
        recycled = (
            f"{human(self.recycled_bytes)} in {_count(self.recycled_blocks, 'block')}: "
            f"{human(self.recycled_in_use)} in use, {human(self.recycled_free)} free "
            f"(at most {human(self.recycled_limit)}, {human(self.recycled_idle_limit)} when idle)"
        )
        sent = (
            f"{human(self.shared_bytes)} shared, {human(self.copied_bytes)} copied, "
            f"{human(self.pickled_bytes)} pickled"
        )
        return [("workers", workers), ("tasks", tasks), ("recycled", recycled), ("sent", sent)]
