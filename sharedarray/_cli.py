"""The command ``sharedarray``: see, copy, load and remove blocks from a shell.

It uses the public names, and of the rest only how a size, a time, a text and progress are shown, and how a
file is opened. Results go to stdout; warnings, questions and errors go to stderr, an error as
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
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np

import sharedarray as sa
from sharedarray import _sigint as sigint
from sharedarray._cli_files import check_target, publish, write
from sharedarray._cli_messages import (
    advise,
    check_command,
    counted,
    drop_broken_output,
    fail,
    is_broken_pipe,
    positive_number,
    replace_advice,
    say,
    see_also,
    warnings_in_lines,
    whole_number,
)
from sharedarray._display import age, block_table, grouped, human, plain
from sharedarray._platform import platform
from sharedarray._programs import programs_of
from sharedarray._progress import IN_BYTES, bar
from sharedarray._segment import mapping_of

__all__ = ["main"]
_WIDTH = 120  # columns of a table that goes to a file or pipe
_USUAL, _NARROWEST = 80, 40  # columns of a terminal
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
        with warnings_in_lines():
            code = _dispatch(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # now, while the exit code can tell that it takes no more
    except KeyboardInterrupt:
        print("\nsharedarray: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (sa.SharedArrayError, OSError) as error:
        broken = is_broken_pipe(error)
        drop_broken_output()
        return _READER_GONE if broken else fail(error)
    return code


def _dispatch(argv: Sequence[str]) -> int:
    try:
        args, unknown = _parser(argv).parse_known_args(argv)
        if unknown:  # `parse_args` would show the usage of the whole program
            meant = see_also(args.command, args.parser, unknown[0])
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
    except SystemExit as stop:  # argparse has printed the help, the version or the usage
        return stop.code if isinstance(stop.code, int) else 0
    handler: _Handler = args.handler
    try:
        return handler(args)
    except sa.SharedArrayError as error:
        advise(error, args.command)
        raise


# -- arguments ------------------------------------------------------------------------------------------


def _add_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a bar, or none; by default at a terminal, when it takes longer than a second",
    )


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the options of the demo and the benchmark only if `argv` asks for them."""
    parser = argparse.ArgumentParser(
        prog="sharedarray",
        description="See, copy, load and remove NumPy arrays in shared memory.",
        epilog="SHAREDARRAY_DIR says where the blocks are, when they are not in the usual place.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: _Handler, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(handler=handler, parser=added, command=name)
        return added

    ls = command("ls", _ls, "list the blocks: their kinds, makers, holders and states")
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
    load.add_argument(
        "--replace", action="store_true", help="give the name to the new block if another block has it"
    )
    stay = load.add_mutually_exclusive_group()
    stay.add_argument("--persist", action="store_true", help="have it outlive its holders (the default)")
    stay.add_argument(
        "--hold", action="store_true", help="stay and hold it until Ctrl-C; then its last holder frees it"
    )

    record = command("record", _record, "write the items of a stream into an .npy file, until it ends")
    record.epilog = "Their times go to FILE.times.npy. Ctrl-C ends the recording; what was recorded stays."
    record.add_argument("name", metavar="NAME", type=_name)
    record.add_argument("file", metavar="FILE.npy")
    record.add_argument("--count", type=whole_number(0), help="stop after so many items")
    record.add_argument("--seconds", type=positive_number, help="stop after so many seconds")
    record.add_argument("--lossy", action="store_true", help="lose items rather than have the producer wait")
    record.add_argument("-f", "--force", action="store_true", help="replace the file if there is one")

    replay = command("replay", _replay, "publish the rows of an .npy file as a stream")
    replay.epilog = "Without --rate, items come as they were recorded, else as fast as they are taken."
    replay.add_argument("file", metavar="FILE.npy")
    replay.add_argument("name", metavar="NAME", type=_name)
    replay.add_argument("--rate", type=positive_number, help="items a second")
    replay.add_argument("--slots", type=whole_number(1), default=8, help="slots of the stream (%(default)s)")
    replay.add_argument(
        "--consumers",
        type=whole_number(0),
        default=1,
        help="consumers that join before the first item (%(default)s)",
    )
    replay.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")

    top = command("top", _top, "watch the blocks live: sizes, holders, growth, free bytes; sort and remove")
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
    if asked is not None:
        check_command(parser, asked, list(commands.choices))
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


def _width() -> int:
    """Return the columns for tables; fewer than `_NARROWEST` are no window that a person reads."""
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    return width if width >= _NARROWEST else _USUAL


def _ls(args: argparse.Namespace) -> int:
    blocks = sa.blocks()
    programs = programs_of(block_table.processes_of(blocks))
    if args.json:
        print(json.dumps([block_table.as_json(block, programs) for block in blocks], indent=2))
    elif not blocks:
        print("no blocks")
    else:
        width = _width()
        for line in block_table.lines(blocks, programs, width):
            print(line)
    return 0


def _name(word: str) -> str:
    """Return a block's name from the command line, where terminals send UTF-8 whatever the locale says."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def _info(args: argparse.Namespace) -> int:
    block = _find(args.name, _by_name())
    programs = programs_of(block_table.processes_of([block]))
    if args.json:
        print(json.dumps(block_table.as_json(block, programs), indent=2))
        return 0
    data = "" if block.shape is None else f", {grouped(block.nbytes)} of them data"
    cells = dict(zip(block_table.TITLES, block_table.cells(block, programs, most=None), strict=True))
    lines = {
        "name": block.name,
        "path": block.path,
        "kind": block.kind,
        "shape": "-" if cells["SHAPE"] == "-" else str(block.shape),
        **dict(block_table.contents(block)),
        "dtype": cells["DTYPE"],
        "order": block.order or "-",
        "size": f"{human(block.size)} ({grouped(block.size)} bytes{data})",
        "made": block_table.made(block),
        "made by": cells["MADE BY"],
        "holders": cells["HOLDERS"],
        "state": ", ".join(block_table.states(block)) or "-",
        "references": f"{block.references:,}",
        "kept by": "-" if block.keeper is None else block_table.process(block.keeper, programs),
        **{way: code for way, code in block_table.openers(block).items() if code is not None},
    }
    if block.members is not None:
        del lines["shape"], lines["dtype"], lines["order"]
        lines["members"] = str(len(block.members))
    for title, text in lines.items():
        print(f"{title:<11} {plain(text)}")
    for line in block_table.member_lines(block):
        print(line)
    for number, line in enumerate(block_table.stream_lines(block, programs)):
        print(f"{'' if number else 'stream':<11} {line}")
    for line in block_table.legend_lines([block], _width()):
        print(line)
    return 0


def _rm(args: argparse.Namespace) -> int:
    ask = not (args.yes or args.dry_run)
    if ask and not (sys.stdin is not None and sys.stdin.isatty()):
        say("rm: stdin is no terminal to confirm at: give --yes, or --dry-run to look first")
        return 2
    found, status = _chosen(args.names)
    for block in found:
        _warn_of_users(block)
    if args.dry_run:
        for block in found:
            print(f"would remove {_described(block)}")
        return status
    if ask and found and not _confirmed(found):
        say("nothing was removed")
        return 1
    # Only blocks that were confirmed are removed, and none that has taken a name during the question.
    now = _by_name() if ask else {block.name: block for block in found}
    for block in found:
        try:
            if _identity(now.get(block.name, block)) != _identity(block):
                raise sa.BlockNotFoundError(f"{block.name!r} is another block by now: not removed")
            sa.unlink(block.name)
        except (sa.SharedArrayError, OSError) as error:
            status = fail(error)
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
    print(f"{verb} {counted(len(names), 'block')}, {human(freed)}" if names else "nothing to remove")
    return 0


def _cp(args: argparse.Namespace) -> int:
    # If the path is a link, the file that it leads to is replaced, not the link.
    target = os.path.realpath(args.file)
    refused = _refused_copy(args.name, args.file)
    if refused is not None:
        say(f"cp: {refused}")
        return 2
    with sa.attach(args.name, "r") as array:
        assert array.segment is not None
        data = array.segment.buf
        check_target(args.file, target, args.force)
        with sigint.deferred:  # between the making of the file and the block that removes it
            handle, temporary = platform.opened(
                tempfile.mkstemp, ".tmp", ".sharedarray-", os.path.dirname(target)
            )
            try:
                try:
                    with sigint.allowed:
                        write(
                            handle,
                            data,
                            mapping_of(array),
                            bar(args.progress, len(data), desc=f"copying {plain(args.name)}", **IN_BYTES),
                        )
                finally:
                    os.close(handle)
                publish(temporary, target, args.file, force=args.force)
            finally:
                if os.path.lexists(temporary):
                    os.unlink(temporary)
        print(f"copied {plain(args.name)} to {plain(args.file)} ({human(len(data))})")
    return 0


def _refused_copy(name: str, file: str) -> str | None:
    """Return why a block cannot be copied into an .npy file; None if it can, or is not there."""
    block = _by_name().get(name)
    kind = "array" if block is None else block.kind
    if kind == "stream":
        return f"{plain(name)} is a stream: 'sharedarray record {plain(name)} FILE.npy' writes its items"
    if kind in ("event", "semaphore", "condition", "barrier"):
        return f"{plain(name)} is for waiting ({kind}), and has no data to copy"
    if file.lower().endswith(".npz"):
        stars = "**" if kind == "group" else ""
        call = f"numpy.savez('{plain(file)}', {stars}sharedarray.attach('{plain(name)}'))"
        return f"the file's name ends with .npy; for an archive write, in Python: {call}"
    return None


def _opened(args: argparse.Namespace) -> Any:
    """Open the command's file; return the array or group, or None if the message says what to do instead."""
    try:
        return sa.open(args.file, "r")
    except sa.BlockNotFoundError as error:
        replace_advice(error, "check the path of the file")
        raise
    except sa.HeaderError as error:
        error.next_step = _conversion(args.file, args.name)
        fail(error)
        return None


def _load(args: argparse.Namespace) -> int:
    found = _opened(args)
    if found is None:
        return 1
    with found as source:
        options: dict[str, Any] = {
            "persist": not args.hold,
            "replace": args.replace,
            "progress": args.progress,
        }
        array: Any
        if isinstance(source, sa.Group):
            array = sa.share_group(args.name, source, **options)
            kind = f"group of {counted(len(array), 'member')}"
        else:
            array = sa.share(source, name=args.name, **options)
            kind = f"{block_table.shape_text(array.shape)} {plain(block_table.dtype_text(array.dtype))}"
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


def _conversion(file: str, name: str) -> str:
    """Return how to make an .npy file of a file that is none, or how to share what is in it."""
    shown, save = plain(file), "python -c \"import numpy as np; np.save('{}', {})\""
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = [member.removesuffix(".npy") for member in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        arrays = []
    if os.path.isdir(file or "."):
        return "name the file in it"
    if arrays:
        command = save.format(f"{plain(arrays[0])}.npy", f"np.load('{shown}')['{plain(arrays[0])}']")
        return (
            f"it is an archive of arrays ({', '.join(map(plain, arrays))}): share all, from Python, by "
            f"sharedarray.share_group('{plain(name)}', '{shown}', persist=True), "
            f"or save one by itself: {command}"
        )
    with contextlib.suppress(OSError, ValueError):
        with open(file, "rb", opener=platform.opener) as content:
            version = np.lib.format.read_magic(content)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            *_, dtype = read(content)
        if dtype.hasobject:
            return (
                f"store it with a dtype of numbers or text, or share it from Python as an object: "
                f"sharedarray.put(numpy.load('{shown}', allow_pickle=True), name='{plain(name)}')"
            )
        return "make the file again: it was cut off or damaged"
    if os.path.getsize(file) == 0:
        return "make the file again: it is empty"
    if file.lower().endswith((".txt", ".csv", ".dat")):
        return f"convert it: {save.format('FILE.npy', f'np.genfromtxt({shown!r})')}"
    return "read it with the library for its format, and store the array by numpy.save('FILE.npy', array)"


def _record(args: argparse.Namespace) -> int:
    from sharedarray import _recording as recording

    return recording.run_record(args)


def _replay(args: argparse.Namespace) -> int:
    from sharedarray import _recording as recording

    found = _opened(args)
    if found is None:
        return 1
    with found:
        if isinstance(found, sa.Group):
            say(f"replay: {plain(args.file)} is a group: save one of its members by numpy.save")
            return 2
    return recording.run_replay(args)


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
    """Return the block of that name; attaching says best why there is none."""
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
    """Return the blocks of those names, and the exit code; what is missing is told, and passed over."""
    blocks, found, status = _by_name(), [], 0
    for name in dict.fromkeys(names):
        try:
            found.append(_find(name, blocks))
        except (sa.SharedArrayError, OSError) as error:
            if isinstance(error, sa.SharedArrayError):
                advise(error, "rm")
            status = fail(error)
    return found, status


def _identity(block: sa.BlockInfo) -> tuple[datetime, int]:
    return block.created, block.creator


def _confirmed(blocks: Sequence[sa.BlockInfo]) -> bool:
    for block in blocks:
        print(f"  {_described(block)}", file=sys.stderr)
    print(f"Remove {counted(len(blocks), 'block')}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _warn_of_users(block: sa.BlockInfo) -> None:
    name = plain(block.name)
    if block.held:
        holders = block_table.holders_text(block, programs_of(block.holders))
        say(
            f"warning: {name} is in use; holders: {plain(holders)}. They keep its memory until they let go, "
            "but no other process can attach to it any more"
        )
    if block.references:
        say(f"warning: {counted(block.references, 'reference')} to {name} on the way will not arrive")


# -- showing a block ------------------------------------------------------------------------------------


def _described(block: sa.BlockInfo) -> str:
    kind = block.kind
    if block.members is not None:
        kind += f" of {counted(len(block.members), 'member')}"
    elif block.shape is not None and kind != "object":
        kind += f" {block_table.shape_text(block.shape)} {plain(block_table.dtype_text(block.dtype))}"
    return f"{plain(block.name)} ({kind}, {human(block.size)}, made {age(block.created)} ago)"


def _rm_command(name: str) -> str:
    return f"sharedarray rm {shlex.quote(plain(name))}"
