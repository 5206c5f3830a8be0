"""A timeline as SVG: one lane for each worker, with a tooltip for each task.

The picture is drawn from *marks*. A mark is one span, or several neighbours in one lane that are too narrow
to be told apart. As many are joined as it takes to keep the picture small.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from sharedarray._display.spans import (
    LETTERS,
    Lane,
    Span,
    busy_time,
    count_tasks,
    functions_of,
    lanes_of,
    outcome_key,
    time_window,
    worker_name,
    worst_outcome,
)
from sharedarray._display.text import human_time, one_line, quantity

__all__ = ["draw"]

# Workers that are shown: each needs at least one of the marks.
_LANES = 256
# Marks in an SVG. One takes some 600 bytes at the very most, so that there is less than a megabyte of them.
_MARKS = 1500
# Colours that remain distinct for the colour-blind, after Okabe and Ito; the rest of the functions are grey.
_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#8f7fd6")
_OTHER = "#b5b5b5"
# Dashes of the border of a task that did not return; none for a solid line.
_BORDERS = {"died": "", "timeout": "6 2", "raised": "3 2", "cancelled": "1 2"}
# Pixels: the whole width, the lanes' left and right end, the space above them, and a row of the legend.
_WIDTH, _LEFT, _RIGHT, _ABOVE, _LINE = 960, 120, 900, 28, 18

# All other colours follow the theme: that of Jupyter or VS Code, which set these variables, or that of the
# browser. The attributes of the elements are for viewers without CSS.
_THEMES = {
    # name: (variable of Jupyter, of VS Code, colour in light, in dark)
    "paper": ("--jp-layout-color0", "--vscode-editor-background", "#fff", "#111"),
    "ink": ("--jp-content-font-color1", "--vscode-editor-foreground", "#222", "#ddd"),
    "bed": ("--jp-layout-color2", "--vscode-editorWidget-background", "#f2f2f2", "#2b2b2b"),
    "tick": ("--jp-border-color1", "--vscode-widget-border", "#ccc", "#555"),
}


def _style() -> str:
    """Return the style sheet of a picture."""

    def colours(dark: bool) -> str:
        return "".join(
            [
                f"--sa-{name}:var({jupyter},var({code},{theme[dark]}));"
                for name, (jupyter, code, *theme) in _THEMES.items()
            ]
        )

    return (
        f"<style>.sharedarray-timeline{{{colours(False)}fill:var(--sa-ink)}}"
        f"@media (prefers-color-scheme:dark){{.sharedarray-timeline{{{colours(True)}}}}}"
        ".sharedarray-timeline>rect:first-of-type{fill:var(--sa-paper)}"
        ".sharedarray-timeline .sa-bed{stroke:var(--sa-bed)}"
        ".sharedarray-timeline .sa-tick{stroke:var(--sa-tick)}"
        f"{','.join([f'.sharedarray-timeline .{outcome}' for outcome in LETTERS])}{{stroke:var(--sa-ink)}}"
        "</style>"
    )


class _Mark(NamedTuple):
    """One span, or several that are drawn as one."""

    began: int
    ended: int
    spans: list[Span]


def draw(spans: Sequence[Span], headline: str) -> str:
    """Return an SVG document."""
    lanes = lanes_of(spans)
    hidden, lanes = len(lanes) - len(lanes[-_LANES:]), lanes[-_LANES:]
    start, end = time_window(spans)
    length = max(1, end - start)
    functions = functions_of(spans)
    colours = {label: colour for (label, _, _), colour in zip(functions, _COLOURS, strict=False)}
    pitch = 24 if len(lanes) <= 32 else 14
    bottom = _ABOVE + pitch * len(lanes)
    tops = range(_ABOVE, bottom, pitch)
    body = [
        f'<path class="sa-bed" d="M{_LEFT} {top + (pitch - 2) / 2}H{_RIGHT}" stroke="#f2f2f2" '
        f'stroke-width="{pitch - 2}"/>'
        for top in tops
    ]
    body += _axis(end - start, bottom) if lanes else []
    for top, lane, marks in zip(tops, lanes, _marks(lanes, length), strict=True):
        label, share = _xml(worker_name(lane.worker)), f"{lane.busy / length:.0%}"
        tasks = quantity(count_tasks(lane.spans), "task")
        body += [
            f'<g class="lane"><title>{label}, process {lane.pid}: {tasks}</title>',
            f'<text x="{_LEFT - 8}" y="{top + pitch // 2 + 3}" text-anchor="end">{label}</text>',
            f'<text x="{_RIGHT + 8}" y="{top + pitch // 2 + 3}">{share}</text>',
            *[_rectangle(mark, start, length, top, pitch - 2, colours) for mark in marks],
            "</g>",
        ]
    notes = outcome_key(spans)
    if hidden:
        notes.append(f"{quantity(hidden, 'earlier worker')} not shown")
    legend, height = _legend(functions, colours, notes, bottom + 30 if lanes else _ABOVE)
    return (
        '<svg class="sharedarray-timeline" xmlns="http://www.w3.org/2000/svg" '
        f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="11" fill="#222">'
        f'{_style()}<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="17" font-size="12">{_xml(headline)}</text>'
        f"{''.join(body)}{''.join(legend)}</svg>"
    )


def _xml(text: str) -> str:
    """Escape a text without control characters, as `one_line` returns it."""
    return html.escape(text, quote=False)


def _marks(lanes: Sequence[Lane], length: int) -> list[list[_Mark]]:
    """Return the marks of each lane; together at most `_MARKS`."""
    grain = 0
    while True:
        found = [_joined(lane.spans, grain) for lane in lanes]
        if grain >= length or sum(map(len, found)) <= _MARKS:
            return found
        grain = max(grain * 2, length // 2048, 1)


def _joined(spans: Sequence[Span], grain: int) -> list[_Mark]:
    """Join neighbours that together take at most `grain` nanoseconds; for 0 join none."""
    found: list[_Mark] = []
    for span in spans:
        last = found[-1] if found else None
        if grain and last is not None and max(last.ended, span.ended) - last.began <= grain:
            last.spans.append(span)
            found[-1] = last._replace(ended=max(last.ended, span.ended))
        else:
            found.append(_Mark(span.began, max(span.began, span.ended), [span]))
    return found


def _rectangle(mark: _Mark, start: int, length: int, top: int, height: int, colours: dict[str, str]) -> str:
    scale = (_RIGHT - _LEFT) / length
    wide = (mark.ended - mark.began) * scale
    wide = max(1.0, wide - 0.5 if wide > 4 else wide)  # half a pixel tells neighbours of a colour apart
    x = min(_LEFT + (mark.began - start) * scale, _RIGHT - wide)
    outcome = worst_outcome(mark.spans)
    look = f'fill="{colours.get(functions_of(mark.spans)[0][0], _OTHER)}"'
    if len(mark.spans) > 1:
        look += f' fill-opacity="{max(0.35, busy_time(mark.spans) / max(1, mark.ended - mark.began)):.2f}"'
    letter = ""
    if outcome in LETTERS:
        dashes = f' stroke-dasharray="{_BORDERS[outcome]}"' if _BORDERS[outcome] else ""
        look += f' stroke="#000" stroke-width="1.5"{dashes}'
        letter = (
            f'<text x="{x + wide / 2:.1f}" y="{top + height // 2 + 4}" text-anchor="middle" '
            'font-weight="bold" fill="#000" stroke="#fff" stroke-width="2" paint-order="stroke" '
            'pointer-events="none">'
            f"{LETTERS[outcome]}</text>"
        )
    return (
        f'<rect class="{outcome}" x="{x:.2f}" y="{top}" width="{wide:.2f}" height="{height}" {look}>'
        f"<title>{_xml(_tooltip(mark))}</title></rect>{letter}"
    )


def _tooltip(mark: _Mark) -> str:
    """Return the tooltip of a mark."""
    functions = functions_of(mark.spans)
    label = one_line(functions[0][0], 48)
    if len(mark.spans) == 1:
        span = mark.spans[0]
        what = f"task {span.task}" if span.items == 1 else quantity(span.items, "task")
        raised = f", {span.raised:,} raised" if span.items > 1 and span.raised else ""
        outcome = "done" if raised else span.outcome
        return (
            f"{label}: {outcome}{raised}\n{what} of call {span.call}\n"
            f"{human_time(span.seconds)}, waited {human_time(span.waited)}"
        )
    others = f" and {quantity(len(functions) - 1, 'other function')}" if len(functions) > 1 else ""
    busy = human_time(busy_time(mark.spans) / 1e9)
    outcomes = "\n".join(outcome_key(mark.spans))
    return (
        f"{quantity(count_tasks(mark.spans), 'task')}: {label}{others}\n"
        f"{busy} of {human_time((mark.ended - mark.began) / 1e9)}" + (f"\n{outcomes}" if outcomes else "")
    )


def _axis(length: int, bottom: int) -> list[str]:
    """Return a line and a text for each full unit of time."""
    lines = []
    for at, text in _ticks(length):
        x = f"{_LEFT + (_RIGHT - _LEFT) * at / max(1, length):.1f}"
        lines.append(
            f'<path class="sa-tick" d="M{x} {_ABOVE - 4}V{bottom + 4}" stroke="#ccc"/>'
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        )
    return lines


# Steps between the ticks of an axis beyond two minutes, in seconds.
_CLOCK_STEPS = (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def _ticks(length: int) -> list[tuple[int, str]]:
    """Return four to ten times for an axis, in nanoseconds from 0 on, each with its text.

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
    """Return the functions with their colours, then the notes; and the height of the picture."""
    entries = [
        (f"{one_line(label, 40)} × {count:,} ({human_time(spent / 1e9)})", colours[label])
        for label, count, spent in functions
        if label in colours
    ]
    if len(functions) > len(entries):
        entries.append((quantity(len(functions) - len(entries), "other function"), _OTHER))
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
