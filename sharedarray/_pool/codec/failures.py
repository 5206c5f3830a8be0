"""Exceptions of tasks.

Pickle alone loses half of an exception: its cause, its context and its traceback. So it travels as a
`Failure`: the exception, those that it came from, and the worker's traceback (`tracebacks`). The caller's
process joins them again, and puts the traceback at the beginning of the chain, as the cause of its first
exception, so that a printed traceback shows what the worker saw, then the exceptions in their order.

The worker finds exceptions that do not survive a round trip through pickle (the usual reason is a constructor
with other arguments than ``args``). It replaces them by a `NotPicklableError` with type, text and traceback.

An exception is an object of the user's: each of its methods may raise anything, and its class may define
``__cause__`` or refuse to set attributes (a frozen dataclass does). So its fields are read and set by the
descriptors of `BaseException`, and whatever its methods raise is caught here.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sharedarray import _errors as errors
from sharedarray._functions import RESULT
from sharedarray._pool.codec.culprits import RETURNED, culprit_of_result
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.codec.pickler import dumps, loads
from sharedarray._pool.codec.tracebacks import Captured, capture, format_captured

__all__ = [
    "Failure",
    "RemoteTraceback",
    "add_note",
    "cause_of",
    "class_of",
    "described",
    "failure_of",
    "forget_frames",
    "outside_iteration",
    "pack",
    "rebuild",
    "traceback_of",
    "unreturnable",
]

# A chain of causes longer than this is a loop or a runaway; the text has all of it anyway.
_CHAIN = 32

_fields: Any = BaseException.__dict__
_cause, _context = _fields["__cause__"], _fields["__context__"]
_suppress, _traceback = _fields["__suppress_context__"], _fields["__traceback__"]
_members: Any = BaseExceptionGroup.__dict__["exceptions"]


def cause_of(exception: BaseException) -> BaseException | None:
    """Return the cause of an exception, whatever its class makes of ``__cause__``."""
    cause: BaseException | None = _cause.__get__(exception)
    return cause


def traceback_of(exception: BaseException) -> TracebackType | None:
    """Return the traceback of an exception, whatever its class makes of ``__traceback__``."""
    found: TracebackType | None = _traceback.__get__(exception)
    return found


def class_of(value: object) -> str:
    """Return module and name of an object's class, for messages."""
    kind = type(value)
    try:
        return f"{kind.__module__}.{kind.__qualname__}"
    except BaseException:  # its metaclass is the user's
        return type.__repr__(kind)


def described(exception: BaseException) -> str:
    """Return the name of an exception's class and its text, for messages."""
    kind = class_of(exception).rpartition(".")[2]
    try:
        return f"{kind}: {exception}"
    except BaseException as broken:  # its __str__
        return f"{kind} (its __str__ raised {class_of(broken).rpartition('.')[2]})"


def add_note(exception: BaseException, note: str, before: str = "") -> None:
    """Add a note to an exception, unless its class refuses.

    An exception object may come again, with another item: the note replaces one that ends with ``before``.
    """
    with contextlib.suppress(BaseException):  # attributes and methods of the user's
        notes: Any = getattr(exception, "__notes__", None)
        for at, old in enumerate(notes if before and type(notes) is list else ()):
            if type(old) is str and old.endswith(before):
                notes[at] = note
                return
        exception.add_note(note)


class RemoteTraceback(Exception):
    """The traceback in a worker; shown as the cause of the exception that came from there.

    Attributes
    ----------
    tb : str
        Its text, which is made when it is first asked for.
    """

    def __init__(self, tb: str | list[Captured]) -> None:
        super().__init__()
        self._tb = tb

    @property
    def tb(self) -> str:
        """The text."""
        if not isinstance(self._tb, str):
            self._tb = format_captured(self._tb)
        return self._tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tb!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.tb,)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way to the caller.

    Attributes
    ----------
    chain
        The exception and those behind it, each with the position of its cause and of its context in this
        tuple (None for none), whether the context is suppressed, and its notes.
    shown
        What a traceback in the worker would show.
    """

    chain: tuple[Link, ...]
    shown: str | list[Captured]


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
    exception, skip
        As for `failure_of`.
    """
    return _pickled(exception, skip)[1]


def failure_of(exception: BaseException, skip: TracebackType | None = None) -> Failure:
    """Return an exception with its chain, as it survives pickling; never fails.

    Parameters
    ----------
    exception
        What the task raised.
    skip
        The innermost entry of its traceback that is the pool's own; what follows it is shown.
    """
    return _pickled(exception, skip)[0]


def _pickled(exception: BaseException, skip: TracebackType | None) -> tuple[Failure, Pickled]:
    own = traceback_of(exception)
    try:
        if skip is not None and skip.tb_next is not None:
            _traceback.__set__(exception, skip.tb_next)
        return _packed(exception)
    finally:
        _traceback.__set__(exception, own)


def _packed(exception: BaseException) -> tuple[Failure, Pickled]:
    shown: str | list[Captured]
    try:
        shown = capture(exception)
    except BaseException as broken:  # an attribute that raises, say
        lines = traceback.format_tb(traceback_of(exception))
        shown = "".join(lines) + f"{described(exception)} (not all can be shown: {described(broken)})\n"
    failure = Failure(_links(exception), shown)
    try:
        pickled = dumps(failure, purpose=RESULT)
        loads(pickled.stream, pickled.pieces())
    except BaseException as reason:
        links = enumerate(failure.chain)
        failure = Failure(tuple([_replace(link, reason, is_first=at == 0) for at, link in links]), shown)
        pickled = dumps(failure, purpose=RESULT)
    return failure, pickled


def _links(exception: BaseException) -> tuple[Link, ...]:
    found = [exception]
    places = {id(exception): 0}
    links: list[Link] = []
    for current in found:  # grows while it is walked
        cause, context = cause_of(current), _context.__get__(current)
        for other in (cause, context):
            if other is not None and id(other) not in places and len(found) < _CHAIN:
                places[id(other)] = len(found)
                found.append(other)
        links.append(
            Link(
                current,
                places.get(id(cause)),
                places.get(id(context)),
                _suppress.__get__(current),
                _notes_of(current),
            )
        )
    return tuple(links)


def _notes_of(exception: BaseException) -> tuple[str, ...]:
    try:
        return tuple([note for note in getattr(exception, "__notes__", ()) if type(note) is str])
    except BaseException:  # an attribute of the user's
        return ()


def _replace(link: Link, reason: BaseException, *, is_first: bool) -> Link:
    """Put a stand-in for an exception that cannot travel; one that can stays as it is."""
    try:
        pickled = dumps(link.exception, purpose=RESULT)
        loads(pickled.stream, pickled.pieces())
    except BaseException as own:
        reason = own
    else:
        return link
    kind = class_of(link.exception)
    try:
        shown = str(link.exception)
    except BaseException:
        shown = "<its text cannot be shown>"
    stand_in = errors.NotPicklableError(
        f"a task raised {kind}: {shown}, which cannot be sent to the caller",
        name=kind.rpartition(".")[2],
        found=described(reason),
        expected="an exception that pickle can write and read back",
        cause="its constructor needs other arguments than the ones in its args, or it holds something "
        "that cannot be pickled",
        next_step="pass all arguments on to super().__init__(), or give the class a __reduce__"
        + (" (the traceback in the worker is the cause of this exception)" if is_first else ""),
    )
    return Link(stand_in, link.cause, link.context, link.suppress, link.notes)


def rebuild(failure: Failure) -> BaseException:
    """Return the exception, its chain joined again and the worker's traceback at the chain's beginning."""
    exceptions = [link.exception for link in failure.chain]
    for link in failure.chain:
        exception = link.exception
        if link.context is not None:
            _context.__set__(exception, exceptions[link.context])
        if link.cause is not None:
            _cause.__set__(exception, exceptions[link.cause])
        _suppress.__set__(exception, link.suppress)
        if link.notes and not _notes_of(exception):
            for note in link.notes:
                add_note(exception, note)
    # The first exception of the chain of causes has no cause of its own: the text becomes that.
    first, seen = exceptions[0], {id(exceptions[0])}
    while (cause := cause_of(first)) is not None and id(cause) not in seen:
        first = cause
        seen.add(id(first))
    _cause.__set__(first, RemoteTraceback(failure.shown))
    return outside_iteration(exceptions[0])


def outside_iteration(exception: BaseException) -> BaseException:
    """Return a `RuntimeError` in place of what only says that an iterator is exhausted, as PEP 479 has it.

    Out of ``result()`` it would end whichever loop over an iterator surrounds the call, without a word; and
    an asyncio future refuses it, so that a coroutine that awaits one would wait for ever.
    """
    if not isinstance(exception, StopIteration | StopAsyncIteration):
        return exception
    error = RuntimeError(f"the task raised {type(exception).__name__}")
    error.__cause__ = exception
    return error


def forget_frames(exception: BaseException) -> None:
    """Drop the frames of ``exception`` and of its causes, which hold arguments, results and arrays."""
    pending: list[BaseException] = [exception]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(traceback_of(current))
        _traceback.__set__(current, None)
        pending += [other for other in (cause_of(current), _context.__get__(current)) if other is not None]
        if issubclass(type(current), BaseExceptionGroup):
            pending += _members.__get__(current)


def unreturnable(result: object, reason: Exception) -> errors.NotPicklableError:
    """Return the outcome of a call whose result cannot be pickled."""
    culprit = culprit_of_result(result)
    found, cure = described(reason), RETURNED
    if culprit is not None:
        found, cure = culprit.described(found), culprit.returned
    if inspect.iscoroutine(result):
        result.close()  # or Python warns that it was never awaited
    error = errors.NotPicklableError(
        f"the task returned a {class_of(result)} that cannot be sent back",
        found=found,
        expected="a result that pickle or cloudpickle can write",
        cause="open files, locks, generators and the like belong to one process",
        next_step=cure,
    )
    error.__cause__ = reason
    return error
