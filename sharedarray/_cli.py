"""The command ``sharedarray``: see, copy, load and remove blocks from a shell.

It uses the public names, and of the rest only how a size, a time, a text and progress are shown, and how a
file is opened. What it was asked for goes to stdout; warnings, questions and errors go to stderr, an error as
one paragraph without a traceback. Exit codes:

====  ==============================================================================================
0     done
1     the library or the system said no, for one name at least; or the answer to a question was no
2     wrong usage, such as removing without ``--yes`` without a terminal to ask at
130   Ctrl-C
141   the reader of the output went away (``sharedarray ls | head``)
====  ==============================================================================================

A block lives as long as a process holds it, and a command soon ends. So what `load` makes persists until
`rm`, unless ``--hold`` makes the command stay and be the holder.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np

import sharedarray as sa
from sharedarray import _interrupts as interrupts
from sharedarray._display import age, human, plain
from sharedarray._platform import platform
from sharedarray._progress import IN_BYTES, Bar, bar

__all__ = ["main"]

_PIECE = 8 << 20  # bytes copied at once: no second copy of the data stands in memory
_WIDTHS = (80, 120)  # columns of the narrowest table, and of one that goes to a file or pipe
_SHOWN_HOLDERS = 3  # pids in the table; `info` and --json tell all
_INTERRUPTED, _READER_GONE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE: what shells report

_Handler: TypeAlias = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, those of the process when None.

    Returns
    -------
    int
        The exit code; see the top of this module.
    """
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # now, while the exit code can tell that it takes no more
    except KeyboardInterrupt:
        print("\nsharedarray: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (sa.SharedArrayError, OSError) as error:
        broken = _is_broken_pipe(error)
        _drop_broken_output()
        return _READER_GONE if broken else _fail(error)
    return code


def _dispatch(argv: Sequence[str]) -> int:
    try:
        args = _parser(argv).parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help, the version or the usage
        return stop.code if isinstance(stop.code, int) else 0
    handler: _Handler = args.handler
    return handler(args)


# -- arguments ------------------------------------------------------------------------------------------


def _add_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a bar, or none; by default at a terminal, when it takes longer than a second",
    )


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; what the demo and the benchmark take is in it only when `argv` asks: they import much."""
    parser = argparse.ArgumentParser(
        prog="sharedarray",
        description="See, copy, load and remove NumPy arrays in shared memory.",
        epilog="SHAREDARRAY_DIR says where the blocks are, when they are not in the usual place.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: _Handler, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(handler=handler)
        return added

    ls = command("ls", _ls, "list the blocks: what they are, who made them, who holds them")
    ls.add_argument("--json", action="store_true", help="a list of objects, with exact bytes and ISO times")

    info = command("info", _info, "tell everything about one block, and how to attach to it")
    info.add_argument("name", metavar="NAME", type=_name)
    info.add_argument("--json", action="store_true", help="one object")

    rm = command("rm", _rm, "remove blocks; processes that hold one keep its memory until they let go")
    rm.add_argument("names", metavar="NAME", nargs="+", type=_name)
    rm.add_argument("-y", "--yes", action="store_true", help="do not ask")
    rm.add_argument("-n", "--dry-run", action="store_true", help="only show what would be removed")

    prune = command("prune", _prune, "remove blocks without a holder, not persistent, not on their way")
    prune.add_argument("-n", "--dry-run", action="store_true", help="only show what would be removed")

    cp = command("cp", _cp, "copy an array into an .npy file, which appears whole or not at all")
    cp.epilog = "What others write meanwhile may be in the copy or not. Only its owner can read the file."
    cp.add_argument("name", metavar="NAME", type=_name)
    cp.add_argument("file", metavar="FILE.npy")
    cp.add_argument("-f", "--force", action="store_true", help="replace the file if there is one")
    _add_progress(cp)

    load = command("load", _load, "copy an .npy file into a block")
    load.epilog = "The block stays until 'sharedarray rm NAME' or the next boot, unless --hold is given."
    load.add_argument("file", metavar="FILE.npy")
    load.add_argument("--name", required=True, type=_name, help="name to attach by")
    _add_progress(load)
    stay = load.add_mutually_exclusive_group()
    stay.add_argument("--persist", action="store_true", help="have it outlive its holders (the default)")
    stay.add_argument(
        "--hold", action="store_true", help="stay and hold it until Ctrl-C; then its last holder frees it"
    )

    top = command("top", _top, "watch the blocks live: sizes, holders, growth, room; sort and remove")
    top.epilog = "The keys are shown at the bottom. Without a terminal, --once and --json print one look."

    asked = next((word for word in argv if not word.startswith("-")), None)
    if asked == "top":
        from sharedarray import _top as live

        live.add_arguments(top)
    demo = command("demo", _demo, "run a real pipeline with and without shared memory, and compare")
    if asked == "demo":
        from sharedarray._demo import add_arguments

        add_arguments(demo)
    bench = command("bench", _bench, "measure pickling against sharing on this machine, over sizes")
    if asked == "bench":
        from sharedarray._bench import command as benchmark

        benchmark.add_arguments(bench)
    return parser


class _Version(argparse.Action):
    """``--version``, which reads the version only when asked: that takes longer than parsing."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            version = sa.__version__
        except ImportError:
            version = "(not installed: run from its source)"
        print(f"{parser.prog} {version}")
        parser.exit()


# -- the commands ---------------------------------------------------------------------------------------


def _ls(args: argparse.Namespace) -> int:
    blocks = sa.blocks()
    if args.json:
        print(json.dumps([_record(block) for block in blocks], indent=2))
    elif not blocks:
        print("no blocks")
    else:
        least, usual = _WIDTHS
        width = max(least, shutil.get_terminal_size((usual, 24)).columns)
        for line in _table([_row(block) for block in blocks], width):
            print(line)
        total = f"{_count(len(blocks), 'block')}, {human(sum(block.size for block in blocks))}"
        if orphans := sum(block.orphan for block in blocks):
            total += f"; {_count(orphans, 'orphan')}, which 'sharedarray prune' removes"
        print(total)
    return 0


def _name(word: str) -> str:
    """Return a block's name from the command line, where terminals send UTF-8 whatever the locale says."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def _info(args: argparse.Namespace) -> int:
    block = _find(args.name, _by_name())
    hints = _hints(block)
    if args.json:
        print(json.dumps(_record(block) | hints, indent=2))
        return 0
    data = "" if block.shape is None else f", {block.nbytes} of them data"
    lines = {
        "name": block.name,
        "path": block.path,
        "kind": block.kind,
        "shape": "-" if block.shape is None else str(block.shape),
        "dtype": "-" if block.dtype is None else str(block.dtype),
        "order": block.order or "-",
        "size": f"{human(block.size)} ({block.size} bytes{data})",
        "made": f"{block.created.isoformat(timespec='seconds')} ({age(block.created)} ago)",
        "made by": f"pid {block.creator} ({'alive' if block.creator_alive else 'dead'})",
        "holders": _all_holders(block),
        "persistent": f"yes, until '{_rm_command(block.name)}'" if block.persistent else "no",
        "references": f"{block.references} on their way",
        "kept by": "no process" if block.keeper is None else f"pid {block.keeper}",
        "orphan": "yes" if block.orphan else "no",
        **hints,
    }
    if block.members is not None:
        del lines["shape"], lines["dtype"], lines["order"]
        lines["members"] = str(len(block.members))
    for title, text in lines.items():
        print(f"{title:<11} {plain(text)}")
    for line in _members(block.members or {}):
        print(line)
    return 0


def _members(members: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> list[str]:
    """Lines for the arrays of a group."""
    rows = [(plain(name), str(shape), plain(str(dtype))) for name, (shape, dtype) in members.items()]
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    return ["  " + _GAP.join(map(_fitted, row, widths, (False, False, False))).rstrip() for row in rows]


def _rm(args: argparse.Namespace) -> int:
    ask = not (args.yes or args.dry_run)
    if ask and not (sys.stdin is not None and sys.stdin.isatty()):
        _say("rm: stdin is no terminal to confirm at: give --yes, or --dry-run to look first")
        return 2
    found, status = _chosen(args.names)
    for block in found:
        _warn_of_users(block)
    if args.dry_run:
        for block in found:
            print(f"would remove {_described(block)}")
        return status
    if ask and found and not _confirmed(found):
        _say("nothing was removed")
        return 1
    # What was confirmed is removed, not what has taken its name while the question stood.
    now = _by_name() if ask else {block.name: block for block in found}
    for block in found:
        try:
            if _identity(now.get(block.name, block)) != _identity(block):
                raise sa.BlockNotFoundError(f"{block.name!r} is another block by now: not removed")
            sa.unlink(block.name)
        except (sa.SharedArrayError, OSError) as error:
            status = _fail(error)
        else:
            print(f"removed {_described(block)}")
    return status


def _prune(args: argparse.Namespace) -> int:
    blocks = _by_name()
    if args.dry_run:
        names, verb = [block.name for block in blocks.values() if block.orphan], "would remove"
    else:
        names, verb = sa.prune(), "removed"
    for name in names:
        print(f"{verb} {_described(blocks[name]) if name in blocks else plain(name)}")
    freed = sum(blocks[name].size for name in names if name in blocks)
    print(f"{verb} {_count(len(names), 'block')}, {human(freed)}" if names else "nothing to remove")
    return 0


def _cp(args: argparse.Namespace) -> int:
    # Where the path is a link, the file that it leads to is replaced, not the link.
    target = os.path.realpath(args.file)
    with sa.attach(args.name, "r") as array:
        assert array.segment is not None
        data = array.segment.buf
        _check_target(args.file, target, args.force)
        with interrupts.deferred:  # between the making of the file and the block that removes it
            handle, temporary = platform.opened(
                tempfile.mkstemp, ".tmp", ".sharedarray-", os.path.dirname(target)
            )
            try:
                try:
                    with interrupts.allowed:
                        _write(
                            handle,
                            data,
                            bar(args.progress, len(data), desc=f"copying {plain(args.name)}", **IN_BYTES),
                        )
                finally:
                    os.close(handle)
                _publish(temporary, target, args.file, force=args.force)
            finally:
                if os.path.lexists(temporary):
                    os.unlink(temporary)
        print(f"copied {plain(args.name)} to {plain(args.file)} ({human(len(data))})")
    return 0


def _load(args: argparse.Namespace) -> int:
    found: Any = sa.open(args.file, "r")  # an array or a group
    with found as source:
        options: dict[str, Any] = {"persist": not args.hold, "progress": args.progress}
        array: Any
        if isinstance(source, sa.Group):
            array = sa.share_group(args.name, source, **options)
            kind = f"group of {_count(len(array), 'member')}"
        else:
            array = sa.share(source, name=args.name, **options)
            kind = f"{_shape(array.shape)} {plain(_dtype(array.dtype))}"
    name = plain(args.name)
    what = f"{plain(args.file)} as {name} ({kind}, {human(array.nbytes)})"
    if not args.hold:
        array.close()
        print(f"loaded {what}; it stays until '{_rm_command(args.name)}'")
        return 0
    with array:
        print(f"holding {what}; Ctrl-C lets go", flush=True)
        while True:
            time.sleep(3600)  # of all ways to wait, the one that Ctrl-C ends on every platform


def _top(args: argparse.Namespace) -> int:
    from sharedarray._top import run

    return run(args)


def _demo(args: argparse.Namespace) -> int:
    from sharedarray._demo import run

    return run(args)


def _bench(args: argparse.Namespace) -> int:
    from sharedarray._bench.command import run

    return run(args)


# -- finding --------------------------------------------------------------------------------------------


def _by_name() -> dict[str, sa.BlockInfo]:
    return {block.name: block for block in sa.blocks()}


def _find(name: str, blocks: Mapping[str, sa.BlockInfo]) -> sa.BlockInfo:
    """The block of that name; attaching says best why there is none."""
    if name in blocks:
        return blocks[name]
    with sa.Segment.attach(name, "r"):
        raise sa.NotOursError(
            f"{name!r} is no block of yours",
            name=name,
            found="a file without a record",
            cause="it is a copy, or another program's or user's",
            next_step="treat it as the file that it is",
        )


def _chosen(names: Iterable[str]) -> tuple[list[sa.BlockInfo], int]:
    """The blocks of those names, and the exit code; what is missing is told, and passed over."""
    blocks, found, status = _by_name(), [], 0
    for name in dict.fromkeys(names):
        try:
            found.append(_find(name, blocks))
        except (sa.SharedArrayError, OSError) as error:
            status = _fail(error)
    return found, status


def _identity(block: sa.BlockInfo) -> tuple[datetime, int]:
    return block.created, block.creator


def _confirmed(blocks: Sequence[sa.BlockInfo]) -> bool:
    for block in blocks:
        print(f"  {_described(block)}", file=sys.stderr)
    print(f"Remove {_count(len(blocks), 'block')}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _warn_of_users(block: sa.BlockInfo) -> None:
    name = plain(block.name)
    if block.held:
        _say(
            f"warning: {name} is in use; holders: {_all_holders(block)}. They keep its memory until they let "
            "go, but no other process can attach to it any more"
        )
    if block.references:
        _say(f"warning: {_count(block.references, 'reference')} to {name} on the way will not arrive")


# -- copying --------------------------------------------------------------------------------------------


def _check_target(shown: str, target: str, force: bool) -> None:
    """Refuse what `_publish` would refuse, before anything is copied, and what it should not replace."""
    device = os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)
    if not device and not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", os.path.dirname(target))
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "it is a directory; name the file in it", shown)
    if os.path.lexists(shown) and not force:
        raise _taken(shown)
    if device:  # a rename would replace /dev/null, too
        raise FileExistsError(errno.EEXIST, "it is no regular file, so it is not replaced", shown)
    if any(os.path.realpath(block.path) == target for block in sa.blocks()):
        raise FileExistsError(errno.EEXIST, "it is a block, so it is not replaced", shown)


def _taken(shown: str) -> sa.BlockExistsError:
    return sa.BlockExistsError(f"the file {shown} exists", name=shown, next_step="--force replaces it")


def _write(handle: int, data: memoryview, shown: Bar) -> None:
    done = 0
    try:
        while done < len(data):
            written = os.write(handle, data[done : done + _PIECE])
            done += written
            shown.update(written)
    finally:
        shown.close()
    os.fsync(handle)  # a checkpoint is one only when it is on the disk before it has its name


def _publish(temporary: str, target: str, shown: str, *, force: bool) -> None:
    """Give the finished copy its name; without `force` a link, which fails when the name is taken."""
    try:
        if not force:
            try:
                os.link(temporary, target)
                return
            except FileExistsError:
                raise
            except OSError:  # a file system without links: take the name first, then replace it
                os.close(platform.opened(os.open, target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise _taken(shown) from None
    os.replace(temporary, target)


# -- showing a block ------------------------------------------------------------------------------------


def _record(block: sa.BlockInfo) -> dict[str, Any]:
    """A block for ``--json``: everything, exactly."""
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
        "held": block.held,
        "holders": list(block.holders),
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
    }


def _hints(block: sa.BlockInfo) -> dict[str, str]:
    where = os.environ.get("SHAREDARRAY_DIR")
    also = f"  # with SHAREDARRAY_DIR={where}" if where else ""
    opener = {
        "memory": f"sharedarray.SharedMemory({block.name!r})",
        "list": f"sharedarray.ShareableList(name={block.name!r})",
        "object": f"sharedarray.get({block.name!r})",
    }.get(block.kind)
    if opener or block.shape is None:
        return {"attach": f"{opener or f'sharedarray.Segment.attach({block.name!r})'}{also}"}
    hints = {"attach": f"sharedarray.attach({block.name!r}){also}"}
    if block.members is None and os.path.isfile(block.path):  # or it is memory without a path
        hints["load"] = f"numpy.load({block.path!r}, mmap_mode='r')"
    return hints


def _described(block: sa.BlockInfo) -> str:
    kind = block.kind
    if block.members is not None:
        kind += f" of {_count(len(block.members), 'member')}"
    elif block.shape is not None:
        kind += f" {_shape(block.shape)} {plain(_dtype(block.dtype))}"
    return f"{plain(block.name)} ({kind}, {human(block.size)}, made {age(block.created)} ago)"


def _all_holders(block: sa.BlockInfo) -> str:
    if block.holders:
        return f"{len(block.holders)} ({', '.join(f'pid {pid}' for pid in block.holders)})"
    return "some, which cannot be seen from here" if block.held else "none"


def _shape(shape: Sequence[int] | None) -> str:
    if shape is None:
        return "-"
    return "x".join(map(str, shape)) or "()"


def _dtype(dtype: np.dtype[Any] | None) -> str:
    """A dtype for people, of a structured one the fields' names."""
    if dtype is None:
        return "-"
    return str(dtype) if dtype.names is None else f"{{{','.join(dtype.names)}}}"


def _rm_command(name: str) -> str:
    return f"sharedarray rm {shlex.quote(plain(name))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# -- the table ------------------------------------------------------------------------------------------


_TITLES = ("NAME", "KIND", "SHAPE", "DTYPE", "SIZE", "AGE", "MADE BY", "HOLDERS", "STATE")
_RIGHT = ("SIZE", "AGE")
# Where lines are too long, these columns are cut to these widths, one after the other until they fit. The
# last ones leave 80 columns even where pids have seven digits.
_CUTS = (
    ("NAME", 40),
    ("DTYPE", 16),
    ("HOLDERS", 18),
    ("NAME", 24),
    ("DTYPE", 7),
    ("SHAPE", 12),
    ("HOLDERS", 10),
    ("STATE", 7),
    ("KIND", 5),
    ("NAME", 15),  # names of chance have this length
    ("SHAPE", 6),
    ("HOLDERS", 7),
    ("NAME", 8),
)
_GAP = "  "


def _row(block: sa.BlockInfo) -> tuple[str, ...]:
    if block.holders:
        more = len(block.holders) - _SHOWN_HOLDERS
        pids = " ".join(map(str, block.holders[:_SHOWN_HOLDERS])) + (f" +{more}" if more > 0 else "")
        holders = f"{len(block.holders)}: {pids}"
    else:
        holders = "unseen" if block.held else "0"
    state = ["persist"] * block.persistent + ["orphan"] * block.orphan + ["kept"] * bool(block.keeper)
    if block.references:
        state.append(_count(block.references, "ref"))
    return (
        block.name,
        block.kind,
        _shape(block.shape) if block.members is None else _count(len(block.members), "member"),
        _dtype(block.dtype) if block.members is None else "-",
        human(block.size),
        age(block.created),
        f"{block.creator}" if block.creator_alive else f"{block.creator} dead",
        holders,
        ", ".join(state) or "-",
    )


def _table(rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Lines of at most `width` columns; where the cells are too long, columns are cut in turn."""
    lines = [_TITLES, *([plain(cell) for cell in row] for row in rows)]
    widths = {cells[0]: max(map(_columns, cells)) for cells in zip(*lines, strict=True)}
    excess = sum(widths.values()) + len(_GAP) * (len(widths) - 1) - width
    for title, least in _CUTS:
        cut = max(0, min(excess, widths[title] - least))
        widths[title] -= cut
        excess -= cut
    return [
        _GAP.join(
            _fitted(cell, widths[title], title in _RIGHT) for title, cell in zip(_TITLES, line, strict=True)
        ).rstrip()
        for line in lines
    ]


def _fitted(text: str, width: int, right: bool) -> str:
    if _columns(text) > width:
        mark = plain("…") if len(plain("…")) == 1 else "~"
        while _columns(text) >= width:
            text = text[: min(len(text) - 1, width)]
        text += mark
    space = " " * (width - _columns(text))
    return space + text if right else text + space


def _columns(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


# -- stdout and stderr ----------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(f"sharedarray: {text}", file=sys.stderr)


def _fail(error: sa.SharedArrayError | OSError) -> int:
    """Tell an error in one paragraph; returns the exit code."""
    if isinstance(error, sa.SharedArrayError) or not error.strerror:
        text = str(error)
    else:  # the system's errors read better without their number
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    _say(f"error: {plain(text)}")
    return 1


def _is_broken_pipe(error: Exception) -> bool:
    """Whether this tells that the reader of stdout has gone; some systems call it an invalid argument."""
    if not isinstance(error, OSError) or error.errno != errno.EINVAL or sys.stdout is None:
        return isinstance(error, BrokenPipeError)
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    return False


def _drop_broken_output() -> None:
    """Drop what waits for a stdout that takes no more, or the interpreter's end would stumble over it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = platform.opened(os.open, os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
