"""A timeline as text: one row of block characters for each worker."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sharedarray._display.spans import (
    LETTERS,
    Span,
    count_tasks,
    functions_of,
    lanes_of,
    outcome_key,
    time_window,
    worker_name,
)
from sharedarray._display.text import human_time, one_line, quantity, terminal_columns

__all__ = ["draw"]

# Characters of a row, if the window is not narrower; and of a row in the narrowest window.
_COLUMNS, _FEWEST = 100, 60
# Workers that are shown: more than a screen has rows.
_ROWS = 64
# How busy a worker was, in eighths.
_LEVELS = " ▁▂▃▄▅▆▇█"
# Part of a column that may be a rounding error.
_EPSILON = 1e-6


def draw(spans: Sequence[Span], headline: str, forgotten: str | None) -> list[str]:
    """Return the lines of the picture; the higher a block, the busier was the worker."""
    lines = [headline]
    row = max(_FEWEST, min(_COLUMNS, terminal_columns(_COLUMNS)))
    lanes = lanes_of(spans)
    start, end = time_window(spans)
    if lanes:
        shown = lanes[-_ROWS:]
        names = [worker_name(lane.worker) for lane in shown]
        counts = [quantity(count_tasks(lane.spans), "task") for lane in shown]
        width, right = max(map(len, names)), max(map(len, counts))
        columns = row - width - right - len("  ||  100%  ")
        length = max(1, end - start)
        for name, count, lane in zip(names, counts, shown, strict=True):
            bar = _bar(lane.spans, start, length, columns)
            lines.append(f"{name:{width}}  |{bar}|  {lane.busy / length:4.0%}  {count:>{right}}")
        total = human_time((end - start) / 1e9)
        lines.append(f"{'':{width}}   0{total:>{columns - 1}}")
        if len(lanes) > len(shown):
            lines.insert(1, f"{quantity(len(lanes) - len(shown), 'earlier worker')} not shown")
    lines += ["  ".join(outcome_key(spans)), _function_line(functions_of(spans), row), forgotten or ""]
    return [line for line in lines if line]


def _bar(spans: Sequence[Span], start: int, length: int, columns: int) -> str:
    """Return how busy one worker was in each of some equal parts of the time."""
    covered = [0.0] * columns
    letters: dict[int, str] = {}
    order, scale = [*LETTERS.values()].index, columns / length
    for span in spans:
        first, last = (span.began - start) * scale, (span.ended - start) * scale
        at = min(int(first), columns - 1)
        until = min(max(at, math.ceil(last) - 1), columns - 1)
        for column in range(at, until + 1):
            # The shortest span is visible, too.
            covered[column] += max(min(last, column + 1) - max(first, column), 2 * _EPSILON)
        if span.outcome in LETTERS:
            letter = LETTERS[span.outcome]
            letters[until] = min(letters.get(until, letter), letter, key=order)
    full = len(_LEVELS) - 1
    for column, part in enumerate(covered):
        letters.setdefault(column, _LEVELS[min(full, math.ceil((part - _EPSILON) * full))])
    return "".join([letters[column] for column in range(columns)])


def _function_line(functions: Sequence[tuple[str, int, int]], row: int) -> str:
    """Return one line of at most `row` characters with as many functions as fit."""
    line = ""
    for number, (label, count, spent) in enumerate(functions, 1):
        one = f"{', ' if line else ''}{one_line(label, 32)} × {count:,} ({human_time(spent / 1e9)})"
        rest = _and_more(len(functions) - number)
        if len(line) + len(one) + len(rest) > row:
            return line + _and_more(len(functions) - number + 1)
        line += one
    return line


def _and_more(functions: int) -> str:
    return f", and {quantity(functions, 'more function')}" if functions else ""
