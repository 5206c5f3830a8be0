"""Tracebacks of workers, which the caller formats.

Only the caller has the sources of a notebook's cells, of the interactive prompt and of doctests: its
`linecache` knows them. So a traceback travels as names of files and functions and numbers of lines. The lines
are looked up when the text is asked for; a line that the caller cannot find is the worker's.
"""

from __future__ import annotations

import linecache
import traceback
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Captured", "capture", "format_captured"]

Frame: TypeAlias = tuple[str, int | None, str, int | None, int | None, int | None, str]
"""File, line, function, last line, first and last column, and the worker's text of the line."""

_PLAIN = frozenset((type(None), bool, int))
# Attributes of a `TracebackException` that are not told by its class alone.
_APART = frozenset(("stack", "__cause__", "__context__", "exceptions", "exc_type", "_exc_type", "__notes__"))


class Captured(NamedTuple):
    """The lines that are shown for an exception.

    Attributes
    ----------
    frames
        Its traceback.
    kind
        Module and name of its class, and whether that is a `SyntaxError`.
    notes
        Its notes.
    fields
        Other attributes of the `traceback.TracebackException`.
    cause, context, members
        Positions in the list of all exceptions that are shown with it.
    """

    frames: list[Frame]
    kind: tuple[str, str, bool]
    notes: list[str] | None
    fields: dict[str, Any]
    cause: int | None
    context: int | None
    members: list[int] | None


def capture(exception: BaseException) -> list[Captured]:
    """Return what is shown of an exception and of those that it came from; it may raise anything."""
    first = traceback.TracebackException.from_exception(exception, lookup_lines=False, compact=True)
    found, places = [first], {id(first): 0}

    def place(other: Any) -> int | None:
        if other is None:
            return None
        if id(other) not in places:
            places[id(other)] = len(found)
            found.append(other)
        return places[id(other)]

    captured = []
    for each in found:  # grows while it is walked
        members = each.exceptions
        captured.append(
            Captured(
                [_frame(frame) for frame in each.stack],
                _kind(each),
                _notes(each.__notes__),
                {name: _plain(value) for name, value in vars(each).items() if name not in _APART},
                place(each.__cause__),
                place(each.__context__),
                None if members is None else [place(member) or 0 for member in members],
            )
        )
    return captured


def _frame(frame: traceback.FrameSummary) -> Frame:
    columns = frame.end_lineno, frame.colno, frame.end_colno
    return frame.filename, frame.lineno, frame.name, *columns, frame.line or ""


def _kind(shown: Any) -> tuple[str, str, bool]:
    """Return module and name of an exception's class, and whether it is a `SyntaxError`."""
    if hasattr(shown, "exc_type_qualname"):  # from Python 3.13 on
        return str(shown.exc_type_module), str(shown.exc_type_qualname), bool(shown._is_syntax_error)
    kind: type[BaseException] = shown.exc_type
    return str(kind.__module__), str(kind.__qualname__), issubclass(kind, SyntaxError)


def _notes(notes: Any) -> list[str] | None:
    return [str.__str__(str(note)) for note in notes] if isinstance(notes, list | tuple) else None


def _plain(value: Any) -> Any:
    """Return a value that every process can load: text is text, not of a class of the user's."""
    if type(value) in _PLAIN:
        return value
    return str.__str__(value) if isinstance(value, str) else None


def format_captured(captured: list[Captured]) -> str:
    """Return the text of a traceback, with the lines that this process finds."""
    shown = [traceback.TracebackException.__new__(traceback.TracebackException) for _ in captured]
    for each, one in zip(shown, captured, strict=True):
        vars(each).update(one.fields)
        module, name, is_syntax_error = one.kind
        if "_have_exc_type" in one.fields:
            each._exc_type = None  # type: ignore[attr-defined]
        else:
            base = SyntaxError if is_syntax_error else Exception
            each.exc_type = type(name, (base,), {"__module__": module, "__qualname__": name})
        each.__notes__ = one.notes
        each.stack = traceback.StackSummary([_summary(*frame) for frame in one.frames])
        each.__cause__ = None if one.cause is None else shown[one.cause]
        each.__context__ = None if one.context is None else shown[one.context]
        each.exceptions = None if one.members is None else [shown[at] for at in one.members]
    return "".join(shown[0].format())


def _summary(
    file: str,
    line: int | None,
    name: str,
    end_line: int | None,
    column: int | None,
    end_column: int | None,
    text: str,
) -> traceback.FrameSummary:
    linecache.checkcache(file)
    known = line is not None and bool(linecache.getline(file, line))
    return traceback.FrameSummary(
        file,
        line,
        name,
        lookup_line=False,
        line=None if known else text,
        end_lineno=end_line,
        colno=column if known else None,  # they are of the whole line
        end_colno=end_column if known else None,
    )
