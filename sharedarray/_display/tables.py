"""HTML tables of facts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from sharedarray._display.text import escaped

__all__ = ["card", "table", "values"]

Array: TypeAlias = np.ndarray[Any, Any]


_VALUES = 4000  # characters of an array's values, at most
_LISTED = 200  # rows of a table
# Exported pages show text in proportional fonts, and break its lines, unless the element forbids both.
_PRE = "margin:.3em 0;font-family:var(--jp-code-font-family,monospace);white-space:pre;overflow-x:auto"


def table(
    caption: str,
    rows: Sequence[Sequence[str]],
    *,
    head: bool = True,
    named: bool = False,
    right: Container[int] = (),
    notes: Iterable[str] = (),
) -> str:
    """Return a table of untrusted text; of a long one, the first rows and a note.

    Parameters
    ----------
    caption
        The text above the table.
    rows
        The cells, row by row.
    head
        Whether the first row is the head of the table.
    named
        Whether the first column names the rows.
    right
        Numbers of the columns that are aligned to the right; the others are aligned to the left.
    notes
        Texts below the table.
    """
    more = len(rows) - head - _LISTED
    notes = ([f"{more:,} more are not shown."] if more > 0 else []) + [note for note in notes if note]
    lines = []
    for number, row in enumerate(rows[: _LISTED + head]):
        heading = head and number == 0
        lines.append(
            "".join(
                [
                    _cell("th" if heading or (named and not column) else "td", cell, right=column in right)
                    for column, cell in enumerate(row)
                ]
            )
        )
    return (
        f'<table class="sharedarray" style="color:inherit">{_caption(escaped(caption))}'
        f"{''.join([f'<tr>{line}</tr>' for line in lines])}</table>"
        f"{''.join([f'<p>{escaped(note)}</p>' for note in notes])}"
    )


def _caption(shown: str) -> str:
    return f'<caption style="text-align:left">{shown}</caption>'


# The styles stand in every cell: exported pages and other front ends have rules of their own for tables.
def _cell(kind: str, text: str, *, right: bool = False) -> str:
    return f'<{kind} style="text-align:{"right" if right else "left"}">{escaped(text)}</{kind}>'


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
    shown = f'<pre style="{_PRE}">{escaped(text, _VALUES)}</pre>'
    return shown if array.size <= 64 else f"<details><summary>values</summary>{shown}</details>"
