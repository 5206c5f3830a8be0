"""HTML tables of facts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from sharedarray._display.text import escaped

__all__ = ["card", "figures", "table", "values"]

Array: TypeAlias = np.ndarray[Any, Any]


_VALUES = 4000  # characters of an array's values, at most
_LISTED = 200  # rows of a table


def table(caption: str, rows: Sequence[Sequence[str]], *, note: str = "") -> str:
    """Return a table whose first row is its head; of a long one, the first rows and a note."""
    head, *body = rows
    more = len(body) - _LISTED
    if more > 0:
        note = f"{more:,} more are not shown. {note}".strip()
    lines = ["".join([_cell("th", cell) for cell in head])]
    lines += ["".join([_cell("td", cell) for cell in row]) for row in body[:_LISTED]]
    return (
        f'<table class="sharedarray" style="color:inherit">{_caption(escaped(caption))}'
        f"{''.join([f'<tr>{line}</tr>' for line in lines])}</table>"
        + (f"<p>{escaped(note)}</p>" if note else "")
    )


def _caption(shown: str) -> str:
    return f'<caption style="text-align:left">{shown}</caption>'


def _cell(kind: str, text: str) -> str:
    return f'<{kind} style="text-align:left">{escaped(text)}</{kind}>'


def card(title: str, facts: Sequence[tuple[str, str]], *, drawn: str = "", below: str = "") -> str:
    """Return facts beside a picture.

    Parameters
    ----------
    title
        The caption.
    facts
        Names and texts.
    drawn, below
        HTML of `picture` and of `values`.
    """
    rows = "".join([f"<tr>{_cell('th', name)}{_cell('td', text)}</tr>" for name, text in facts])
    return (
        '<div class="sharedarray" style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">'
        f'<table style="color:inherit">{_caption(f"<b>{escaped(title)}</b>")}{rows}</table>'
        f"{drawn}</div>{below}"
    )


def values(array: Array) -> str:
    """Return the elements as `print` shows them, folded away if there are many."""
    with np.errstate(all="ignore"):
        text = np.array2string(array, threshold=200, edgeitems=3, max_line_width=100)
    shown = f'<pre style="margin:.3em 0">{escaped(text, _VALUES)}</pre>'
    return shown if array.size <= 64 else f"<details><summary>values</summary>{shown}</details>"


def figures(caption: str, rows: Sequence[Sequence[str]], *, head: bool, note: str | None = None) -> str:
    """Return a table of numbers; the first column is a heading, and the first row if ``head``."""
    right = ' style="text-align:right"'
    lines = []
    for number, (first, *cells) in enumerate(rows):
        kind = "th" if head and not number else "td"
        others = "".join([f"<{kind}{right}>{html.escape(cell)}</{kind}>" for cell in cells])
        lines.append(f'<tr><th style="text-align:left">{html.escape(first)}</th>{others}</tr>')
    after = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(lines)}</table>{after}"
