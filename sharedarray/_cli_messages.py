"""Messages of the command line: advice in the words of its options, warnings, and errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import sharedarray as sa
from sharedarray import _hints as hints
from sharedarray._display import plain
from sharedarray._platform import platform

_CHOOSE = "give the name of a block, as 'sharedarray ls' shows it"
_LOOK = "'sharedarray ls' lists the blocks; 'sharedarray load FILE.npy --name NAME' makes one"
# By command and kind of error: what a person at a shell can do.
_NEXT_STEPS: dict[str, dict[type[sa.SharedArrayError], str]] = {
    "info": {sa.InvalidNameError: _CHOOSE, sa.BlockNotFoundError: _LOOK},
    "rm": {sa.InvalidNameError: _CHOOSE, sa.BlockNotFoundError: _LOOK},
    "record": {
        sa.InvalidNameError: _CHOOSE,
        sa.BlockNotFoundError: "start its producer first; 'sharedarray ls' lists the blocks",
        sa.HeaderError: "'sharedarray info NAME' tells the kind of the block; cp copies an array",
    },
    "replay": {
        sa.InvalidNameError: "choose another name, one word such as 'camera'",
        sa.BlockExistsError: "choose another name, or end the producer of that stream",
        sa.HeaderError: "give an .npy file of items",
    },
    "cp": {
        sa.InvalidNameError: _CHOOSE,
        sa.BlockNotFoundError: _LOOK,
        sa.HeaderError: "'sharedarray info NAME' tells the kind of the block; cp copies arrays and objects",
    },
    "load": {
        sa.InvalidNameError: "choose another --name, one word such as 'frames'",
        sa.BlockExistsError: "choose another --name, or give --replace to put the new block in its place",
    },
}
# Advice for Python programs: keywords and calls.
_PYTHON = re.compile(r"\w=|\w\(|sharedarray\.\w")
_MEANT = re.compile(r"did you mean '.*?'\? ")


def advise(error: sa.SharedArrayError, command: str) -> None:
    """Give advice in terms of the command line if the error has none, or has advice for Python programs."""
    if error.next_step is None or _PYTHON.search(error.next_step):
        replace_advice(error, _NEXT_STEPS.get(command, {}).get(type(error)))


def replace_advice(error: sa.SharedArrayError, advice: str | None) -> None:
    """Give other advice, but keep the name that was probably meant."""
    meant = _MEANT.match(error.next_step or "")
    error.next_step = f"{meant[0]}{advice or ''}".strip() if meant else advice


# Commands that take no names, and what to write for one block.
_FOR_ONE = {
    "ls": ". 'sharedarray info NAME' shows one block",
    "prune": ". 'sharedarray rm NAME' removes one block",
    "top": ". 'sharedarray info NAME' shows one block",
}
# Words that other programs have for a command.
_SYNONYMS = {
    word: command
    for command, words in {
        "ls": "list dir",
        "info": "show stat attach",
        "rm": "unlink remove delete del",
        "prune": "clean gc",
        "cp": "copy save dump",
        "load": "share put open",
        "replay": "play",
        "top": "ps watch",
        "bench": "benchmark",
    }.items()
    for word in words.split()
}


def see_also(command: str, parser: argparse.ArgumentParser, word: str) -> str:
    """Return what was probably meant by a word that a command does not take."""
    if not word.startswith("-"):
        return _FOR_ONE.get(command, "")
    meant = hints.likely(word, re.findall(r"--[a-z-]+", parser.format_help()))
    return f". Did you mean {meant}?" if meant else ""


def check_command(parser: argparse.ArgumentParser, word: str, commands: Sequence[str]) -> None:
    """End with an error, and the command that was probably meant, if a word is no command."""
    if word not in commands:
        meant = _SYNONYMS.get(word) or hints.likely(word, commands)
        cure = f"; did you mean {meant!r}?" if meant else ""
        choices = ", ".join(map(repr, commands))
        parser.error(f"argument COMMAND: invalid choice: {word!r} (choose from {choices}){cure}")


def whole_number(least: int) -> Callable[[str], int]:
    """Return a type for an option: whole numbers of at least `least`."""

    def checked(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least}, not {text!r}")
        return number

    return checked


def positive_number(text: str) -> float:
    """Convert the text of an option that is more than 0, and finite."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a positive number, not {text!r}")
    return number


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say(text: str) -> None:
    print(f"sharedarray: {text}", file=sys.stderr)


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Show warnings as this command's own lines, without a place in the program."""

    def show(message: Warning | str, *place: object, **options: object) -> None:
        say(f"warning: {plain(str(message))}")

    usual, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = usual


def fail(error: sa.SharedArrayError | OSError) -> int:
    """Tell an error in one paragraph; returns the exit code."""
    if isinstance(error, sa.SharedArrayError) or not error.strerror:
        text = str(error)
    else:  # the system's errors read better without their number
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    say(f"error: {plain(text)}")
    return 1


def is_broken_pipe(error: Exception) -> bool:
    """Return whether an error says that the reader of stdout has gone, as far as the system tells."""
    if not isinstance(error, OSError) or error.errno != errno.EINVAL or sys.stdout is None:
        return isinstance(error, BrokenPipeError)
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    return False


def drop_broken_output() -> None:
    """Drop what waits for a stdout that takes no more, or the interpreter's end would stumble over it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = platform.opened(os.open, os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
