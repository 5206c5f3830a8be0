"""Times, counts and untrusted text, as a terminal and a page of HTML show them."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from sharedarray._sizes import grouped, human

__all__ = [
    "age",
    "aligned",
    "escaped",
    "grouped",
    "human",
    "human_time",
    "one_line",
    "plain",
    "quantity",
    "terminal_columns",
]

_TEXT = 400  # characters of one fact, at most


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


def age(made: datetime, now: datetime | None = None) -> str:
    """Return the time since then in its largest unit: ``59s``, ``3m``, ``23h``, ``400d``."""
    seconds = int(((now or datetime.now(UTC)) - made).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 task``, ``1,200 tasks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def plain(text: str) -> str:
    """Return a text for a terminal; characters that it cannot print or that control it are escaped."""
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def escaped(text: str, most: int = _TEXT) -> str:
    r"""Return a text for HTML: tags and control characters are escaped, and a long text is cut.

    Examples
    --------
    >>> escaped('<b onclick="x">\x1b')
    '&lt;b onclick=&quot;x&quot;&gt;\\x1b'
    """
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    if not (text.isascii() and text.isprintable()):
        text = "".join(
            [c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text]
        )
    return html.escape(text)


def one_line(text: str, most: int = 20) -> str:
    """Return a text as one line of at most ``most`` characters, without control characters.

    Of a long text the end is kept, which tells names of workers and of nested functions apart. The result is
    valid in XML, too, which allows fewer characters than Python.
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :]}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of aligned cells: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip()
        for cells in rows
    ]


def terminal_columns(default: int) -> int:
    """Return the columns of the terminal that standard output goes to; the default if it goes elsewhere."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or default
    except (AttributeError, OSError, ValueError):  # there is no standard output, or it is no terminal
        return default
