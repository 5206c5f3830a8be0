"""The warning of a call whose results no code takes although calls of the function raised exceptions.

It belongs to the line of the program that made the call. It is issued when the iterator is gone and the last
outcome is there, by the thread that drops the iterator or by the pool's thread: so it never raises.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from typing import TYPE_CHECKING

from sharedarray import _errors as errors
from sharedarray._call_site import CallSite
from sharedarray._pool.codec import failures

if TYPE_CHECKING:
    from sharedarray._executor.results import Taking
    from sharedarray._pool.core import PoolCore
    from sharedarray._pool.sinks import Results

__all__ = ["Iterators", "Unconsumed"]


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
    """The warning for a call whose results no code takes.

    Parameters
    ----------
    core, results
        Of the call.
    """

    def __init__(self, core: PoolCore, results: Results) -> None:
        self._core = core
        self._results = results
        self._call_site = CallSite()

    def abandon(self) -> None:
        """Drop the results, and those to come; the calls are run all the same."""
        self._results.abandon(self._on_last_outcome)
        if not self._core.holds_lock():
            self._core.iterators.warn()

    def _on_last_outcome(self) -> None:
        if self._results.raised and not self._core.is_aborting:
            self._core.iterators.failed.append(self)
            self._core.wake()

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
        self._call_site.warn(warning)
