"""``sharedarray top``: the blocks, live, in a terminal.

Three parts, of which only the last needs a terminal and rich (the extra ``top``):

`Watch`
    looks at the blocks and remembers the look before, for the rates of growth.
`Screen`
    what is shown and chosen: order, selected line, question. Keys go in, and it says what is to be done; it
    neither reads a keyboard nor draws, so that all of it can be tested by itself.
`run`
    ``--once`` and ``--json`` print one look. Otherwise: draw, wait for a key, a new size or the time of the
    next look, and so on. The terminal is put back as it was, however it ends.

======  ==================================================================
n s g   by name, by size, by growth
h a o   by holders, by age, orphans first; the same key again: backwards
↑ ↓     the selected line; also j k, PgUp PgDn, Home End
d       remove the selected block: asks first, and y removes it
p       remove all orphans: asks first
space   look now;  + and - look more and less often
q       quit; also Esc, Ctrl-C
======  ==================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sharedarray as sa
from sharedarray._display import block_table, human, plain
from sharedarray._platform import platform
from sharedarray._programs import programs_of

__all__ = ["Look", "Screen", "Watch", "add_arguments", "run"]

_EVERY = 1.0  # seconds between two looks
_FASTEST, _SLOWEST = 0.1, 60.0
_FALLBACK = (100, 30)  # columns and lines of a terminal that does not tell
_WIDTH = 120  # columns of what goes to a file or pipe
_LEGEND_FROM = 12  # lines of a terminal that shows the meanings of the states


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell `parser` what the command takes."""
    parser.add_argument("--once", action="store_true", help="print one look as text, and end")
    parser.add_argument("--json", action="store_true", help="print one look as an object, and end")
    parser.add_argument(
        "--interval", type=_seconds, default=_EVERY, metavar="SECONDS", help="between two looks (default: 1)"
    )
    parser.add_argument("--sort", choices=list(_ORDERS), default="size", help="what is first (default: size)")


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not _FASTEST <= found <= _SLOWEST:
        raise argparse.ArgumentTypeError(f"{_FASTEST:g} to {_SLOWEST:g} seconds, not {text!r}")
    return found


# -- looking --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One block, and how many bytes a second its name has gained since the look before.

    The growth is that of a name: its array grows, or has got versions; or its block was replaced by a larger
    one, or is new.
    """

    block: sa.BlockInfo
    growth: float
    items: float | None = None  # that a stream has published each second, since the look before


@dataclass(frozen=True, slots=True)
class Look:
    """All blocks at one moment, and the file system that they are in.

    Attributes
    ----------
    lines : tuple of Line
        The blocks, by name.
    directory : str
        Where they are.
    used, free : int
        Bytes of the file system, by whomever they are used.
    growth, disk_growth : float
        Bytes a second that all blocks together, and the file system's use, have gained.
    programs : mapping of int to str
        The name of the program of each process that made, holds or keeps one of them.
    """

    lines: tuple[Line, ...]
    directory: str
    used: int
    free: int
    growth: float
    disk_growth: float
    programs: Mapping[int, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all blocks."""
        return sum(line.block.size for line in self.lines)

    @property
    def orphans(self) -> list[sa.BlockInfo]:
        """The blocks that no process holds or keeps."""
        return [line.block for line in self.lines if line.block.orphan]


class Watch:
    """Look at the blocks again and again.

    Parameters
    ----------
    clock : callable
        Seconds; the tests have their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._when: float | None = None
        self._sizes: dict[str, int] = {}
        self._published: dict[str, int] = {}
        self._used = 0

    def look(self) -> Look:
        """See what there is now."""
        now, blocks = self._clock(), sa.blocks()
        directory = os.environ.get("SHAREDARRAY_DIR") or _directory(blocks)
        used, free = _used_and_free(directory)
        since = None if self._when is None else max(now - self._when, 1e-6)

        def rate(gained: int) -> float:
            return 0.0 if since is None else gained / since

        found = Look(
            lines=tuple(
                Line(block, rate(block.size - self._sizes.get(block.name, 0)), self._items(block, since))
                for block in blocks
            ),
            directory=directory,
            used=used,
            free=free,
            growth=rate(sum(block.size for block in blocks) - sum(self._sizes.values())),
            disk_growth=rate(used - self._used),
            programs=programs_of(block_table.processes_of(blocks)),
        )
        self._when, self._used = now, used
        self._sizes = {block.name: block.size for block in blocks}
        self._published = {block.name: block.stream.published for block in blocks if block.stream is not None}
        return found

    def _items(self, block: sa.BlockInfo, since: float | None) -> float | None:
        before = self._published.get(block.name)
        if block.stream is None or since is None or before is None:
            return None
        return max(0, block.stream.published - before) / since


def _directory(blocks: Sequence[sa.BlockInfo]) -> str:
    return os.path.dirname(blocks[0].path) if blocks else platform.DEFAULT_DIRECTORY


def _used_and_free(directory: str) -> tuple[int, int]:
    try:
        free = platform.free_bytes(directory, memory=True)
        return platform.capacity(directory) - free, free
    except OSError:
        return 0, 0  # there is none, and so there are no blocks


# -- what is shown, and what keys do --------------------------------------------------------------------

_ORDERS: dict[str, Callable[[Line], Any]] = {
    "name": lambda line: line.block.name,
    "size": lambda line: -line.block.size,
    "growth": lambda line: -line.growth,
    "holders": lambda line: -len(line.block.holders),
    "age": lambda line: line.block.created,
    "orphans": lambda line: not line.block.orphan,
}
_ORDER_KEYS = {order[0]: order for order in _ORDERS}
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -10, "pgdn": 10, "home": -(1 << 30), "end": 1 << 30}


@dataclass
class Screen:
    """The state of the display: what is shown and selected.

    Attributes
    ----------
    look : Look
        What was seen last.
    order, backwards : str, bool
        Which line is first.
    selected : str or None
        Name of the selected block; the selection follows it.
    asked : list of BlockInfo
        What is removed if the answer is yes; empty if nothing is asked.
    message : str
        How the last thing ended.
    interval : float
        Seconds between two looks.
    """

    look: Look
    order: str = "size"
    backwards: bool = False
    selected: str | None = None
    asked: list[sa.BlockInfo] = field(default_factory=list)
    message: str = ""
    interval: float = _EVERY
    _at: int = 0

    def lines(self) -> list[Line]:
        """Return the blocks in their order."""
        found = sorted(self.look.lines, key=lambda line: line.block.name)
        found.sort(key=_ORDERS[self.order], reverse=self.backwards)
        return found

    def at(self) -> int:
        """Return the number of the selected line; if its block is gone, the line in its place."""
        lines = self.lines()
        names = [line.block.name for line in lines]
        if self.selected in names:
            self._at = names.index(self.selected)
        self._at = max(0, min(self._at, len(lines) - 1))
        self.selected = names[self._at] if names else None
        return self._at

    def key(self, key: str) -> str | None:
        """Take a key; returned is 'quit', 'look' for a new look, or None."""
        if self.asked:
            return self._answer(key)
        self.message = ""
        if key in ("q", "esc", "\x03"):
            return "quit"
        if key in _ORDER_KEYS:
            order = _ORDER_KEYS[key]
            self.backwards = not self.backwards if order == self.order else False
            self.order = order
        elif key in _MOVES:
            lines = self.lines()
            if lines:
                at = max(0, min(self.at() + _MOVES[key], len(lines) - 1))
                self.selected = lines[at].block.name
        elif key in ("d", "del") and self.look.lines:
            self.asked = [self.lines()[self.at()].block]
        elif key == "p":
            self.asked = self.look.orphans
            self.message = "" if self.asked else "there are no orphans"
        elif key == " ":
            return "look"
        elif key in "+-":
            factor = 0.5 if key == "+" else 2.0
            self.interval = min(max(self.interval * factor, _FASTEST), _SLOWEST)
            self.message = f"a look every {self.interval:g} s"
        return None

    def _answer(self, key: str) -> str | None:
        asked, self.asked = self.asked, []
        if key not in ("y", "Y"):
            self.message = "nothing was removed"
            return None
        self.message = _removed(asked)
        return "look"

    def question(self) -> str:
        """Return the question, as one line."""
        if len(self.asked) > 1:
            size = human(sum(block.size for block in self.asked))
            return f"Remove {len(self.asked)} orphans ({size})? y / n"
        (block,) = self.asked
        held = f", held by {len(block.holders) or 'unseen'}: they keep its memory" if block.held else ""
        return f"Remove {plain(block.name)} ({human(block.size)}{held})? y / n"


def _removed(asked: Sequence[sa.BlockInfo]) -> str:
    """Remove what was shown when the question was asked, and nothing that has taken its name since."""
    now = {block.name: (block.created, block.creator) for block in sa.blocks()}
    gone, failed = 0, []
    for block in asked:
        try:
            if now.get(block.name) != (block.created, block.creator):
                raise sa.BlockNotFoundError(f"{block.name!r} is gone, or another block by now")
            sa.unlink(block.name)
            gone += 1
        except (sa.SharedArrayError, OSError) as error:
            failed.append(plain(str(error)))
    return "; ".join([f"removed {gone}", *failed[:1]])


# -- one look as text, or as an object ------------------------------------------------------------------

# The columns of `ls`, and the growth behind the size.
_AFTER = block_table.TITLES.index("SIZE") + 1
_TITLES = (*block_table.TITLES[:_AFTER], "GROWTH", *block_table.TITLES[_AFTER:])
# The orders that have a column of their own name, and the others' columns.
_COLUMNS = {order: order.upper() for order in ("name", "size", "growth", "holders", "age")} | {
    "orphans": "STATE"
}


def cells(line: Line, programs: Mapping[int, str] | None = None) -> tuple[str, ...]:
    """Return the texts of a line, in the order of the titles."""
    found = [plain(text) for text in block_table.cells(line.block, programs or {})]
    return (*found[:_AFTER], rate(line.growth), *found[_AFTER:])


def table(screen: Screen, lines: Sequence[Line], width: int) -> list[str]:
    """Return the lines of the table, the titles first, in at most so many columns."""
    mark = "▲" if screen.backwards else "▼"
    titles = [f"{title} {mark}" if title == _COLUMNS[screen.order] else title for title in _TITLES]
    programs = screen.look.programs
    return block_table.fitted(titles, [cells(line, programs) for line in lines], width)


def rate(growth: float) -> str:
    """Return bytes a second, with their sign.

    Examples
    --------
    >>> rate(2048.0), rate(-5e6), rate(0.2)
    ('+2.0 KiB/s', '-4.8 MiB/s', '-')
    """
    if abs(growth) < 1:
        return "-"
    return f"{'+' if growth > 0 else '-'}{human(round(abs(growth)))}/s"


def streams(screen: Screen, lines: Sequence[Line]) -> list[str]:
    """Return the lines that show the streams: rates, lags and losses, and which party waits for which."""
    shown: list[str] = []
    for line in lines:
        found = block_table.stream_lines(line.block, screen.look.programs, line.items)
        if found:
            shown += [f"{plain(line.block.name)}: {found[0]}", *found[1:]]
    return shown


def headline(look: Look) -> str:
    """Return the totals, as one line."""
    orphans = len(look.orphans)
    blocks = f"{len(look.lines)} block{'' if len(look.lines) == 1 else 's'}, {human(look.total)}"
    return (
        f"{blocks}{_changing(look.growth)}, {orphans} orphan{'' if orphans == 1 else 's'}; "
        f"{plain(look.directory)}: {human(look.used)} used{_changing(look.disk_growth)}, "
        f"{human(look.free)} free"
    )


def _changing(growth: float) -> str:
    return "" if abs(growth) < 1 else f" ({rate(growth)})"


def _text(screen: Screen) -> Iterator[str]:
    yield headline(screen.look)
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    if screen.look.lines:
        yield from block_table.fitted(
            _TITLES, [cells(line, screen.look.programs) for line in screen.lines()], width
        )
        yield from streams(screen, screen.lines())
        yield from block_table.legend_lines([line.block for line in screen.look.lines], width)


def _object(screen: Screen) -> dict[str, Any]:
    look = screen.look
    return {
        "time": datetime.now(UTC).isoformat(),
        "directory": look.directory,
        "used": look.used,
        "free": look.free,
        "total": look.total,
        "orphans": len(look.orphans),
        "blocks": [block_table.as_json(line.block, look.programs) for line in screen.lines()],
    }


# -- the command ----------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Show the blocks; return the exit status: 0, or 2 where there is no terminal or no rich."""
    watch = Watch()
    if args.json or args.once:
        screen = Screen(watch.look(), order=args.sort)
        for line in [json.dumps(_object(screen), indent=2)] if args.json else _text(screen):
            print(line)
        return 0
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        return _refused("it needs a terminal; --once or --json prints one look")
    try:
        import rich  # noqa: F401  (of an extra that may be missing)
    except ImportError:
        return _refused(
            "it needs the package rich: pip install 'numpy-sharedarray[top]'; --once and --json do without"
        )
    return _live(watch, args)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _refused(why: str) -> int:
    print(f"sharedarray top: {why}", file=sys.stderr)
    return 2


def _live(watch: Watch, args: argparse.Namespace) -> int:
    from rich.console import Console  # of an extra that may be missing
    from rich.control import Control

    screen = Screen(watch.look(), order=args.sort, interval=args.interval)
    with platform.terminal() as typed, _whole_screen(Console()) as drawn:
        keys = _one_by_one(typed)
        due = time.monotonic() + screen.interval
        while True:
            columns, lines = _size()
            drawn.console.size = (columns, lines)
            if drawn.console.legacy_windows:
                drawn.console.control(Control.home())
            drawn.update(_picture(screen, columns, lines))
            key = keys(max(0.0, due - time.monotonic()))
            wish = screen.key(key) if key else None
            if wish == "quit":
                return 0
            if wish == "look" or time.monotonic() >= due:
                screen.look = watch.look()
                due = time.monotonic() + screen.interval
            else:
                due = min(due, time.monotonic() + screen.interval)


@contextlib.contextmanager
def _whole_screen(console: Any) -> Iterator[Any]:
    """Switch to the terminal's alternate screen, and back at the end."""
    with console.screen(hide_cursor=True) as drawn:
        if not console.legacy_windows:
            yield drawn
            return
        console.show_cursor(False)
        try:
            yield drawn
        finally:
            console.show_cursor(True)
            console.print()


def _size() -> tuple[int, int]:
    """Return columns and lines of the terminal, and ignore the shell's COLUMNS, which may be old."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return _FALLBACK
    return (found.columns, found.lines) if found.columns and found.lines else _FALLBACK


def _picture(screen: Screen, columns: int, lines: int) -> Any:
    """Return the whole screen: the totals, the blocks around the selected one, the legend and the keys."""
    from rich.console import Group
    from rich.text import Text

    at, found = screen.at(), screen.lines()
    legend = block_table.legend_lines([line.block for line in found], columns)
    flows = streams(screen, found)[: max(0, lines // 2 - 2)]
    if lines < _LEGEND_FROM or len(found) + len(flows) + len(legend) + 4 > lines:
        legend = []
    fitting = max(
        1, lines - 4 - len(legend) - len(flows)
    )  # below the headline and the titles, above the keys
    first = max(0, min(at - fitting // 2, len(found) - fitting))
    shown = found[first : first + fitting]
    titles, *rows = table(screen, shown, columns)
    parts: list[Any] = [
        Text(headline(screen.look), no_wrap=True, overflow="ellipsis"),
        Text(titles, style="bold", no_wrap=True, overflow="crop"),
    ]
    for number, (line, row) in enumerate(zip(shown, rows, strict=True), first):
        style = "reverse" if number == at else ("yellow" if line.block.orphan else "")
        parts.append(
            Text(row.ljust(columns) if number == at else row, style=style, no_wrap=True, overflow="crop")
        )
    if not found:
        parts.append(Text("no blocks"))
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in flows]
    used = (len(shown) or 1) + 2 + len(legend) + len(flows)
    parts.append(Text("\n" * max(0, lines - used - 2)))
    parts += [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in legend]
    if screen.asked:
        parts.append(Text(screen.question(), style="bold reverse", no_wrap=True, overflow="ellipsis"))
    else:
        text = screen.message or (
            "sort: n name s size g growth h holders a age o orphans | d remove p prune | ↑↓ | q quit"
        )
        parts.append(
            Text(text, style="dim" if not screen.message else "bold", no_wrap=True, overflow="ellipsis")
        )
    return Group(*parts)


# -- the keyboard ---------------------------------------------------------------------------------------

_NAMES = {
    "A": "up", "B": "down", "5~": "pgup", "6~": "pgdn", "3~": "del",
    "H": "home", "F": "end", "1~": "home", "4~": "end",
}  # fmt: skip


def _one_by_one(typed: Callable[[float], str | None]) -> Callable[[float], str | None]:
    """Return what waits so many seconds for one key; None if none came."""
    pending: list[str] = []

    def key(seconds: float) -> str | None:
        if not pending:
            text = typed(seconds)
            pending.extend(["q"] if text is None else _keys(text))  # the terminal has gone
        return pending.pop(0) if pending else None

    return key


def _keys(text: str) -> list[str]:
    r"""Return the pressed keys, by name.

    Examples
    --------
    >>> _keys("s\x1b[B\x1bOAq\x1b")
    ['s', 'down', 'up', 'q', 'esc']
    """
    found = []
    for escape, name, char in re.findall(r"(\x1b[\[O]([0-9;]*[A-Za-z~]))|(.)", text, re.DOTALL):
        if escape:
            found += [_NAMES[name]] if name in _NAMES else []
        else:
            found.append("esc" if char == "\x1b" else char)
    return found
