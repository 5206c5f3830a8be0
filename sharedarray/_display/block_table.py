"""The table of blocks, as `sharedarray.blocks` and the commands ``ls``, ``info`` and ``top`` show it.

All of them have the same columns, the same texts for dtypes, holders and states, and the same JSON fields.
"""

from __future__ import annotations

import os
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharedarray._display.text import age, human, plain, quantity

if TYPE_CHECKING:
    from sharedarray._listing import BlockInfo

__all__ = [
    "TITLES",
    "as_json",
    "cells",
    "columns",
    "contents",
    "dtype_text",
    "facts_of_contents",
    "fitted",
    "holders_text",
    "legend",
    "legend_lines",
    "lines",
    "made",
    "member_lines",
    "openers",
    "process",
    "processes_of",
    "shape_text",
    "total",
]

TITLES = ("NAME", "KIND", "SHAPE", "DTYPE", "SIZE", "AGE", "MADE BY", "HOLDERS", "STATE")

# Kinds whose shape and dtype are those of their items; those of other kinds are of their bytes.
_OF_ITEMS = ("array", "stream")

# Holders that are named in the table; `info` and --json name all.
_SHOWN_HOLDERS = 3
# Characters of a program's name.
_PROGRAM = 24

# States, as the table names them, with their meanings.
_PERSIST = ("persist", "it persists until 'sharedarray rm NAME', even if no process holds it")
_ORPHAN = ("orphan", "no process holds it or keeps it, and it does not persist")
_KEPT = ("kept", "it stays for as long as the process that keeps it, even if no process holds it")
_REF = ("ref", "a reference to it is being sent to another process")
_UNSEEN = ("unseen", "processes hold it that cannot be seen from here: another user's, or in a container")
_DEAD = ("dead", "the process that made it has ended")


def shape_text(shape: Sequence[int] | None) -> str:
    """Return a shape as the commands show it.

    Examples
    --------
    >>> shape_text((2, 3)), shape_text(()), shape_text(None)
    ('2x3', '()', '-')
    """
    if shape is None:
        return "-"
    return "x".join(map(str, shape)) or "()"


def dtype_text(dtype: np.dtype[Any] | None) -> str:
    """Return a dtype for people; of a structured one, the names of its fields.

    Examples
    --------
    >>> dtype_text(np.dtype("f4")), dtype_text(np.dtype([("x", "f4"), ("y", "U3")])), dtype_text(None)
    ('float32', '{x,y}', '-')
    """
    if dtype is None:
        return "-"
    return str(dtype) if dtype.names is None else f"{{{','.join(dtype.names)}}}"


def processes_of(blocks: Iterable[BlockInfo]) -> set[int]:
    """Return the pids that a table of these blocks shows."""
    found: set[int] = set()
    for block in blocks:
        found.update(block.holders)
        if block.creator_alive:
            found.add(block.creator)
        if block.keeper is not None:
            found.add(block.keeper)
    return found


def process(pid: int, programs: Mapping[int, str]) -> str:
    """Return a pid with the name of its program, if that is known.

    Examples
    --------
    >>> process(4711, {4711: "train.py"}), process(4711, {})
    ('4711 train.py', '4711')
    """
    name = programs.get(pid, "")
    if len(name) > _PROGRAM:
        name = f"{name[: _PROGRAM - 1]}…"
    return f"{pid} {name}".rstrip()


def made(block: BlockInfo) -> str:
    """Return how long ago a block was made, and when, in local time."""
    local = block.created.astimezone()
    return f"{age(block.created)} ago, {local:%Y-%m-%d %H:%M:%S}"


def holders_text(block: BlockInfo, programs: Mapping[int, str], most: int | None = None) -> str:
    """Return the number of holders, and the pid and program of at most so many of them."""
    if not block.holders:
        return _UNSEEN[0] if block.held else "0"
    shown = [process(pid, programs) for pid in block.holders[:most]]
    more = len(block.holders) - len(shown)
    return f"{len(block.holders)}: {', '.join([*shown, *([f'+{more}'] if more else [])])}"


def states(block: BlockInfo) -> list[str]:
    """Return the words for the states of a block."""
    found = [_PERSIST[0]] * block.persistent + [_ORPHAN[0]] * block.orphan
    found += [_KEPT[0]] * (block.keeper is not None)
    return [*found, quantity(block.references, _REF[0])] if block.references else found


def contents(block: BlockInfo) -> list[tuple[str, str]]:
    """Return what there is to say of an array that grows, and of versions."""
    return facts_of_contents(block.capacity, block.version, block.buffers)


def facts_of_contents(
    capacity: int | None, version: int | None = None, buffers: int | None = None
) -> list[tuple[str, str]]:
    """Return the names and the texts of a capacity and a version, as far as there are some.

    Examples
    --------
    >>> facts_of_contents(1000), facts_of_contents(None, 7, 3)
    ([('capacity', '1,000 rows')], [('version', '7 in 3 buffers')])
    """
    found = [] if capacity is None else [("capacity", quantity(capacity, "row"))]
    if version is not None and buffers is not None:
        found.append(("version", f"{version:,} in {quantity(buffers, 'buffer')}"))
    return found


def legend(blocks: Sequence[BlockInfo]) -> list[tuple[str, str]]:
    """Return the words for states that a table of these blocks shows, with their meanings."""
    occurs = (
        (_PERSIST, lambda block: block.persistent),
        (_ORPHAN, lambda block: block.orphan),
        (_KEPT, lambda block: block.keeper is not None),
        (_REF, lambda block: bool(block.references)),
        (_UNSEEN, lambda block: block.held and not block.holders),
        (_DEAD, lambda block: not block.creator_alive),
    )
    return [entry for entry, has in occurs if any(map(has, blocks))]


def legend_lines(blocks: Sequence[BlockInfo], width: int) -> list[str]:
    """Return the legend as lines of at most so many columns."""
    entries = legend(blocks)
    widest = max([len(word) for word, _ in entries], default=0)
    indent = " " * (widest + 4)
    return [
        line
        for word, meaning in entries
        for line in textwrap.wrap(
            f"  {word:{widest}}  {meaning}", max(width, 40), subsequent_indent=indent, drop_whitespace=True
        )
    ]


def cells(
    block: BlockInfo,
    programs: Mapping[int, str],
    shape: Callable[[tuple[int, ...]], str] = shape_text,
    most: int | None = _SHOWN_HOLDERS,
) -> tuple[str, ...]:
    """Return the texts of a block, in the order of the titles."""
    is_array = block.kind in _OF_ITEMS
    if block.members is not None:
        shown = quantity(len(block.members), "member")
    else:
        shown = shape(block.shape) if is_array and block.shape is not None else "-"
    return (
        block.name,
        block.kind,
        shown,
        dtype_text(block.dtype if is_array else None),
        human(block.size),
        age(block.created),
        process(block.creator, programs) if block.creator_alive else f"{block.creator} {_DEAD[0]}",
        holders_text(block, programs, most),
        ", ".join([*states(block), *[f"{title} {text}" for title, text in contents(block)]]) or "-",
    )


def lines(
    blocks: Sequence[BlockInfo],
    programs: Mapping[int, str],
    width: int,
    shape: Callable[[tuple[int, ...]], str] = shape_text,
) -> list[str]:
    """Return the table, what it adds up to, and the legend, in at most so many columns."""
    rows = [cells(block, programs, shape) for block in blocks]
    return [*fitted(TITLES, rows, width), total(blocks), *legend_lines(blocks, width)]


def member_lines(block: BlockInfo) -> list[str]:
    """Return one line for each array of a group: its name, shape and dtype."""
    if not block.members:
        return []
    rows = [
        [plain(name), str(shape), plain(dtype_text(dtype))] for name, (shape, dtype) in block.members.items()
    ]
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            ["", *[_cell(text, width, False) for text, width in zip(row, widths, strict=True)]]
        ).rstrip()
        for row in rows
    ]


def stream_lines(block: BlockInfo, programs: Mapping[int, str], rate: float | None = None) -> list[str]:
    """Return the state of a stream: one line for its producer, and one for each consumer.

    Parameters
    ----------
    block
        The block of the stream.
    programs
        The program of each process.
    rate
        Items a second, if it is known.
    """
    stream = block.stream
    if stream is None:
        return []
    facts = [f"{stream.published:,} {'item' if stream.published == 1 else 'items'} published"]
    if rate is not None:
        facts.append(f"{rate:,.1f} items/s")
    facts.append(f"{quantity(stream.slots, 'slot')}, full={stream.full!r}")
    if stream.producer is not None:
        facts.append(f"producer {process(stream.producer, programs)}")
    else:
        facts.append("closed" if stream.closed else "no producer")
    if stream.waits:
        slowest = [each for each in stream.consumers if each.lossless]
        slow = min(slowest, key=lambda each: each.position, default=None)
        facts.append("waits for a slot" if slow is None else f"waits for {process(slow.pid, programs)}")
    rows = [
        [
            process(each.pid, programs),
            f"next {each.position:,}",
            f"lag {each.lag:,}",
            f"lost {each.lost:,}",
            "lossless" if each.lossless else "lossy",
            "waits for an item" if each.waits else "",
        ]
        for each in stream.consumers
    ]
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    lines = ["; ".join(facts)]
    for row in rows:
        texts = [_cell(text, width, False) for text, width in zip(row, widths, strict=True)]
        lines.append(_GAP.join(["", "consumer", *texts]).rstrip())
    return lines


def total(blocks: Sequence[BlockInfo]) -> str:
    """Return how many blocks there are, their size, and how many are orphans."""
    text = f"{quantity(len(blocks), 'block')}, {human(sum([block.size for block in blocks]))}"
    orphans = sum([block.orphan for block in blocks])
    return f"{text}; {quantity(orphans, 'orphan')}, which 'sharedarray prune' removes" if orphans else text


def as_json(block: BlockInfo, programs: Mapping[int, str]) -> dict[str, Any]:
    """Return everything about a block, exactly, as an object for `json.dump`."""
    return {
        "name": block.name,
        "path": block.path,
        "kind": block.kind,
        "shape": None if block.shape is None else list(block.shape),
        "dtype": None if block.dtype is None else str(block.dtype),
        "order": block.order,
        "size": block.size,
        "nbytes": block.nbytes,
        "created": block.created.isoformat(),
        "creator": block.creator,
        "creator_alive": block.creator_alive,
        "creator_program": programs.get(block.creator) if block.creator_alive else None,
        "held": block.held,
        "holders": list(block.holders),
        "holder_programs": [programs.get(pid) for pid in block.holders],
        "persistent": block.persistent,
        "orphan": block.orphan,
        "references": block.references,
        "keeper": block.keeper,
        "members": None
        if block.members is None
        else {
            name: {"shape": list(shape), "dtype": str(dtype)}
            for name, (shape, dtype) in block.members.items()
        },
        "capacity": block.capacity,
        "version": block.version,
        "buffers": block.buffers,
        "stream": None if block.stream is None else block.stream.as_json(),
        **openers(block),
    }


# The call that opens a block of each kind. A block of another kind is attached, as an array or a segment.
_OPENERS = {
    "memory": "SharedMemory({})",
    "list": "ShareableList(name={})",
    "object": "get({})",
    "stream": "Stream({})",
    "event": "Event({})",
    "semaphore": "Semaphore({})",
    "condition": "Condition({})",
    "barrier": "Barrier({})",
}


def openers(block: BlockInfo) -> dict[str, str | None]:
    """Return the Python code that attaches to a block, and that by which NumPy alone loads it, if it can."""
    where = os.environ.get("SHAREDARRAY_DIR")
    also = f"  # with SHAREDARRAY_DIR={where}" if where else ""
    others = "Segment.attach({})" if block.shape is None else "attach({})"
    opener = _OPENERS.get(block.kind, others).format(repr(block.name))
    is_array = block.kind not in _OPENERS and block.shape is not None and block.members is None
    is_file = is_array and os.path.isfile(block.path)  # or it is memory without a path
    return {
        "attach": f"sharedarray.{opener}{also}",
        "load": f"numpy.load({block.path!r}, mmap_mode='r')" if is_file else None,
    }


# -- lines of a table -------------------------------------------------------------------------------------

_RIGHT = ("SIZE", "AGE", "GROWTH")
_GAP = "  "
# Columns of a pid.
_PID = 8
# If lines are too long, these columns are cut to these widths, one after the other, until they fit. The last
# ones leave 80 columns even if pids have seven digits.
_CUTS = (
    ("NAME", 40),
    ("HOLDERS", 40),
    ("DTYPE", 16),
    ("MADE BY", 22),
    ("HOLDERS", 26),
    ("NAME", 24),
    ("DTYPE", 7),
    ("SHAPE", 12),
    ("MADE BY", 12),
    ("HOLDERS", 16),
    ("STATE", 7),
    ("KIND", 5),
    ("NAME", 15),  # random names have this length
    ("SHAPE", 6),
    ("HOLDERS", 7),
    ("NAME", 8),
)
# In a window that is narrower still, these columns are left out, one after the other, until the lines fit.
_LEFT_OUT = ("KIND", "DTYPE", "SHAPE", "MADE BY", "AGE", "STATE", "GROWTH", "HOLDERS")


def fitted(titles: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table in at most so many columns of a terminal.

    The first word of a title names its column; a mark may follow. Cells are untrusted text.
    """
    texts = [list(titles), *([plain(cell) for cell in row] for row in rows)]
    names = [next(name for name in (*TITLES, "GROWTH") if title.startswith(name)) for title in titles]
    widths = {
        name: max(map(columns, found)) for name, found in zip(names, zip(*texts, strict=True), strict=True)
    }
    natural, excess = dict(widths), _length(widths) - width
    for name, least in _CUTS:
        if name in widths:
            cut = max(0, min(excess, widths[name] - max(least, columns(texts[0][names.index(name)]))))
            widths[name] -= cut
            excess -= cut
    for name in _LEFT_OUT:
        if _length(widths) > width:
            widths.pop(name, None)
    if len(widths) < len(natural) and "MADE BY" in widths:
        widths["MADE BY"] = min(widths["MADE BY"], _PID)  # the program is more useful beside the holders
    for name in ("HOLDERS", "NAME", "MADE BY", "DTYPE", "SHAPE"):
        if name in widths:
            widths[name] = min(natural[name], widths[name] + max(0, width - _length(widths)))
    widths["NAME"] = max(1, min(widths["NAME"], width - (_length(widths) - widths["NAME"])))
    return [
        _GAP.join(
            _cell(text, widths[name], name in _RIGHT)
            for name, text in zip(names, line, strict=True)
            if name in widths
        ).rstrip()
        for line in texts
    ]


def _length(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1)


def _cell(text: str, width: int, right: bool) -> str:
    if columns(text) > width:
        mark = plain("…") if len(plain("…")) == 1 else "~"
        while columns(text) >= width and text:
            text = text[: min(len(text) - 1, width)]
        text += mark
    space = " " * (width - columns(text))
    return space + text if right else text + space


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
