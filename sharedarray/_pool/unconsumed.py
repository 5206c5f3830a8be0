"""The warning of a call whose results no code takes although calls of the function raised exceptions.

It belongs to the line of the program that made the call. It is issued when the iterator is gone and the last
outcome is there, by the thread that drops the iterator or by the pool's thread: so it never raises.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from sharedarray import _errors as errors
from sharedarray._pool.codec import failures

if TYPE_CHECKING:
    from sharedarray._pool.engine import Engine
    from sharedarray._pool.sinks import Results

__all__ = ["Iterators", "Unconsumed"]

_PACKAGE = __name__.partition(".")[0]


class Taking(Protocol):
    """What is known here of an iterator over results."""

    def submit_rest(self) -> None:
        """Submit the calls that are to be run in any case, if no result was asked for."""

    def abandon(self) -> None:
        """Have the calls run, and their results dropped, if no result was asked for."""


class Iterators:
    """The iterators over results of one pool.

    Attributes
    ----------
    failed
        Calls whose results no code takes, of which a warning is to be issued.
    """

    def __init__(self) -> None:
        self._all: weakref.WeakValueDictionary[int, Taking] = weakref.WeakValueDictionary()
        self.failed: deque[Unconsumed] = deque()

    def add(self, taking: Taking) -> None:
        """Note an iterator, until it is gone."""
        self._all[id(taking)] = taking

    def _there(self) -> list[Taking]:
        """Return those that there are, in one step beside threads that make others."""
        found = [reference() for reference in self._all.valuerefs()]
        return [taking for taking in found if taking is not None]

    def submit_rest(self) -> None:
        """Submit what iterators that were never advanced have not submitted yet."""
        for taking in self._there():
            taking.submit_rest()

    def abandon(self) -> None:
        """Give up the results that no code has asked for, at the end of the program."""
        for taking in self._there():
            taking.abandon()

    def warn(self) -> None:
        """Issue the warnings of calls whose results no code takes."""
        while self.failed:
            with contextlib.suppress(IndexError):  # another thread does the same
                self.failed.popleft().warn()


class Unconsumed:
    """What is told of a call if no code takes its results.

    Parameters
    ----------
    engine, results
        Of the call.
    """

    def __init__(self, engine: Engine, results: Results) -> None:
        self._engine = engine
        self._results = results
        frame: Any = sys._getframe(1)
        while frame.f_back is not None and _is_ours(frame.f_globals):
            frame = frame.f_back
        self._place = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__", "<unknown>")
        self._registry = frame.f_globals.setdefault("__warningregistry__", {})

    def abandon(self) -> None:
        """Drop the results, and those to come; the calls are run all the same."""
        self._results.abandon(self._on_last_outcome)
        if not self._engine.holds_lock():
            self._engine.iterators.warn()

    def _on_last_outcome(self) -> None:
        if self._results.raised and not self._engine.is_aborting:
            self._engine.iterators.failed.append(self)
            self._engine.wake()

    def warn(self) -> None:
        """Issue the warning."""
        found = self._results.first_raised
        assert found is not None
        item, exception = found
        count, total = self._results.raised, self._results.count
        warning = errors.UnconsumedResultsWarning(
            f"{count} of {total} {'call' if total == 1 else 'calls'} of {self._results.name} raised an "
            f"exception, and no code took the results; the first one, {item}: "
            f"{failures.described(exception)}. Next step: iterate over the results"
        )
        warning.__cause__ = exception
        try:
            self._show(warning)
        except BaseException as error:  # a filter makes errors of warnings, or the program's own showwarning
            error.__traceback__ = None
            _Ignored(error)

    def _show(self, warning: errors.UnconsumedResultsWarning) -> None:
        filename, line, module = self._place
        if not _is_hidden_by_default(str(warning), line, module):
            warnings.warn_explicit(warning, None, filename, line, module, self._registry)
            return
        key = str(warning), type(warning), line
        if key not in self._registry:
            self._registry[key] = True
            warnings.showwarning(warning, type(warning), filename, line)


def _is_ours(namespace: dict[str, Any]) -> bool:
    name = namespace.get("__name__")
    return type(name) is str and name.partition(".")[0] == _PACKAGE


# Python's last default filter, which hides each `ResourceWarning`. This one tells of lost work, so it is
# shown unless the program itself hides such warnings.
_DEFAULT = ("ignore", None, ResourceWarning, None, 0)


def _is_hidden_by_default(text: str, line: int, module: str) -> bool:
    """Return whether no filter of the program's, only Python's default, applies to this warning."""
    filters = list(warnings.filters)
    for each in filters:
        _, message, category, of, at = each
        if (
            issubclass(errors.UnconsumedResultsWarning, category)
            and (message is None or _matches(message, text))
            and (of is None or _matches(of, module))
            and at in (0, line)
        ):
            return each is filters[-1] and each == _DEFAULT
    return False


def _matches(pattern: Any, text: str) -> bool:
    """Return whether a filter's pattern, which may be plain text, applies to a text."""
    return pattern == text if isinstance(pattern, str) else pattern.match(text) is not None


class _Ignored:
    """Raises an exception where Python ignores it, and reports it by `sys.unraisablehook`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error
