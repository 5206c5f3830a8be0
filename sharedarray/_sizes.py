"""The text of numbers of bytes, in messages, tables and pictures."""

from __future__ import annotations

__all__ = ["exact", "grouped", "human"]


def human(size: int) -> str:
    """Return a number of bytes in at most eight characters.

    Examples
    --------
    >>> human(96), human(1_572_864), human(10**9)
    ('96 B', '1.5 MiB', '954 MiB')
    """
    if size < 1024:
        return f"{size} B"
    amount, units = size / 1024, iter(("KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while amount >= 1023.5 and unit != "PiB":
        amount, unit = amount / 1024, next(units)
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"


def exact(size: int) -> str:
    """Return a number of bytes for a message: short, and to the byte where that differs.

    Examples
    --------
    >>> exact(1), exact(96), exact(8_000_000_004_096)
    ('1 byte', '96 bytes', '7.3 TiB (8 000 000 004 096 bytes)')
    """
    if size < 1024:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    return f"{human(size)} ({grouped(size)} bytes)"


def grouped(number: int) -> str:
    """Return a number with its digits in groups of three, if it has more than four.

    Examples
    --------
    >>> grouped(4096), grouped(1_048_576)
    ('4096', '1 048 576')
    """
    return f"{number:,}".replace(",", " ") if number > 9999 else str(number)
