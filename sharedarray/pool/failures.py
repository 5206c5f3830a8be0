"""How an exception of a task comes home.

Pickle alone loses half of an exception: its cause, its context and its traceback. So it travels as a
`Failure`: the exception, those that it came from, and the text of the worker's traceback. At home they are
joined again, and the text is hung where the chain begins, as the cause of its first exception, so that a
printed traceback shows: what the worker saw, then the exceptions in their order.

Exceptions that do not survive a round trip through pickle (a constructor that wants other arguments than
``args`` is the usual reason) are found out in the worker, where there is still something to tell, and a
`NotPicklableError` with type, text and traceback takes their place.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import TracebackType

from sharedarray import errors
from sharedarray.pool.pickling import Pickled, dumps, loads

__all__ = ["Failure", "RemoteTraceback", "forget_frames", "pack", "rebuild"]

# A chain of causes longer than this is a loop or a runaway; the text has all of it anyway.
_CHAIN = 32


class RemoteTraceback(Exception):
    """The text of a traceback in a worker; shown as the cause of the exception that came from there."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way home.

    Attributes
    ----------
    chain
        The exception and those behind it, each with the position of its cause and of its context in this
        tuple (None for none), whether the context is suppressed, and its notes.
    text
        The traceback in the worker, formatted.
    """

    chain: tuple[Link, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """One exception of a chain."""

    exception: BaseException
    cause: int | None
    context: int | None
    suppress: bool
    notes: tuple[str, ...]


def pack(exception: BaseException, skip: TracebackType | None = None) -> Pickled:
    """Pickle ``exception`` with its chain; never fails.

    Parameters
    ----------
    exception
        What the task raised.
    skip
        The innermost entry of its traceback that is the pool's own; what follows it is shown.
    """
    own = exception.__traceback__
    try:
        if skip is not None and skip.tb_next is not None:
            exception.__traceback__ = skip.tb_next
        return _packed(exception)
    finally:
        exception.__traceback__ = own


def _packed(exception: BaseException) -> Pickled:
    try:
        text = "".join(traceback.format_exception(exception))
    except Exception as broken:  # a __str__ that raises, say
        text = f"{type(exception).__qualname__} (its traceback cannot be shown: {broken!r})\n"
    links = _links(exception)
    try:
        pickled = dumps(Failure(links, text))
        loads(pickled.stream, pickled.pieces())
    except Exception as reason:
        links = tuple(_replace(link, reason, text if i == 0 else None) for i, link in enumerate(links))
        pickled = dumps(Failure(links, text))
    return pickled


def _links(exception: BaseException) -> tuple[Link, ...]:
    found = [exception]
    places = {id(exception): 0}
    links: list[Link] = []
    for current in found:  # grows while it is walked
        for other in (current.__cause__, current.__context__):
            if other is not None and id(other) not in places and len(found) < _CHAIN:
                places[id(other)] = len(found)
                found.append(other)
        links.append(
            Link(
                current,
                places.get(id(current.__cause__)),
                places.get(id(current.__context__)),
                current.__suppress_context__,
                tuple(note for note in getattr(current, "__notes__", ()) if isinstance(note, str)),
            )
        )
    return tuple(links)


def _replace(link: Link, reason: Exception, text: str | None) -> Link:
    """Put a stand-in for an exception that cannot travel; one that can stays as it is."""
    try:
        pickled = dumps(link.exception)
        loads(pickled.stream, pickled.pieces())
    except Exception as own:
        reason = own
    else:
        return link
    kind = type(link.exception)
    try:
        shown = str(link.exception)
    except Exception:
        shown = "<its text cannot be shown>"
    stand_in = errors.NotPicklableError(
        f"a task raised {kind.__module__}.{kind.__qualname__}: {shown}, which cannot be sent to the caller",
        name=kind.__qualname__,
        found=f"{type(reason).__name__}: {reason}",
        expected="an exception that pickle can write and read back",
        cause="its constructor needs other arguments than the ones in its args, or it holds something "
        "that cannot be pickled",
        next_step="pass all arguments on to super().__init__(), or give the class a __reduce__"
        + (" (the traceback in the worker is the cause of this exception)" if text else ""),
    )
    return Link(stand_in, link.cause, link.context, link.suppress, link.notes)


def rebuild(failure: Failure) -> BaseException:
    """Return the exception, its chain joined again and the worker's traceback at the chain's beginning."""
    exceptions = [link.exception for link in failure.chain]
    for link in failure.chain:
        exception = link.exception
        if link.context is not None:
            exception.__context__ = exceptions[link.context]
        if link.cause is not None:
            exception.__cause__ = exceptions[link.cause]
        exception.__suppress_context__ = link.suppress
        if link.notes and not getattr(exception, "__notes__", None):
            for note in link.notes:
                exception.add_note(note)
    # The first exception of the chain of causes has no cause of its own: there the text is hung.
    first, seen = exceptions[0], {id(exceptions[0])}
    while first.__cause__ is not None and id(first.__cause__) not in seen:
        first = first.__cause__
        seen.add(id(first))
    first.__cause__ = RemoteTraceback(failure.text)
    return exceptions[0]


def forget_frames(exception: BaseException) -> None:
    """Let go of what the frames of ``exception`` and of those behind it hold: arguments, results, arrays."""
    pending: list[BaseException] = [exception]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        current.__traceback__ = None
        pending += [other for other in (current.__cause__, current.__context__) if other is not None]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
