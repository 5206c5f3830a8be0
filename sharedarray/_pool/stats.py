"""Statistics of a pool: how long functions take, what was copied, which worker ran which call when.

Everything is bounded: a pool may live for weeks.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from sharedarray._clock import time
from sharedarray._pool.calls import FunctionStats, Task
from sharedarray._pool.codec.account import Account, Copied
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.transport.messages import STREAM, Frame
from sharedarray._thresholds import OUT_OF_BAND

if TYPE_CHECKING:
    from sharedarray._display.copies import CopyReport  # and where they are made: few ask for them
    from sharedarray._display.timeline import Timeline

__all__ = ["Statistics"]

# Functions whose duration is remembered, calls whose copies are, and spans.
_FUNCTIONS, _CALLS, _SPANS = 512, 256, 50_000


class _Calls:
    """The copies of one call, as they are counted."""

    # In the class, since most calls end without values of their own, and there are thousands of calls.
    ended = 0.0
    received = results = 0  # bytes of small results, and of how many tasks
    _account: Account | None = None
    _rows: dict[str, list[int]] | None = None

    def __init__(self, label: str, tasks: int) -> None:
        self.label = label
        self.tasks = tasks
        self.began = time.monotonic()

    def sends(self, account: Account) -> None:
        """Count what the arguments of a task become."""
        if self.tasks == 1:
            self._account = account
        else:
            for argument, part in account.rows():
                self.add(argument, part)

    def add(self, argument: str, copied: Copied, count: int = 1) -> None:
        """Count what became of one argument, or of the results, of so many tasks."""
        if self._rows is None:
            self._rows = {}
        _add(self._rows, argument, copied, count)

    def rows(self) -> dict[str, list[int]]:
        """Return what was shared, copied, pickled and copied for another task, and of how many tasks."""
        rows: dict[str, list[int]] = {}
        for argument, part in () if self._account is None else self._account.rows():
            _add(rows, argument, part, 1)
        for argument, (shared, copied, pickled, reused, count) in list((self._rows or {}).items()):
            _add(rows, argument, (shared, copied, pickled, reused), count)
        if self.results:
            _add(rows, "result", (0, 0, self.received, 0), self.results)
        return rows


def _add(rows: dict[str, list[int]], argument: str, copied: Copied, count: int) -> None:
    row = rows.setdefault(argument, [0, 0, 0, 0, 0])
    for place, amount in enumerate((*copied, count)):
        row[place] += amount


class _Plain:
    """The newest small call, of those that come by the thousand."""

    __slots__ = ("began", "call", "ended", "label", "received", "sent")

    def __init__(self) -> None:
        self.call = 0
        self.label = ""
        self.sent = 0
        self.received: int | None = None
        self.began = self.ended = 0.0

    def report(self) -> _Calls:
        """Return it as if it had been counted."""
        made = _Calls(self.label, 1)
        made.began, made.ended = self.began, self.ended
        made.add("arguments", (0, 0, self.sent, 0))
        if self.received is not None:
            made.add("result", (0, 0, self.received, 0))
        return made


class Statistics:
    """Counters of a pool's work. The core changes them under its lock."""

    def __init__(self) -> None:
        self.done = self.failed = self.cancelled = self.retried = self.died = self.replaced = 0
        self._totals = [0, 0, 0]
        self._plain = _Plain()
        self._functions: OrderedDict[tuple[str, int], FunctionStats] = OrderedDict()
        self._calls: OrderedDict[int, _Calls] = OrderedDict()
        self._spans: deque[tuple[int, int, str, str, int, int, int, int, str, int, int]]
        self._spans = deque(maxlen=_SPANS)
        self._ended = 0  # tasks that are in these spans, or were
        self._newest = 0  # of `_calls`

    def function(self, function: Callable[..., Any], label: str) -> FunctionStats:
        """Return what is known about a function, which its label and its code tell apart from others.

        Two lambdas have one label, and two decorated functions may have one code; a lambda that is made again
        in a loop has both of the one before.
        """
        code = function.__code__ if type(function) is FunctionType else None
        key = label, id(code)
        found = self._functions.get(key)
        if found is None:
            if len(self._functions) >= _FUNCTIONS:
                with contextlib.suppress(KeyError):  # another thread did so
                    self._functions.popitem(last=False)
            found = self._functions[key] = FunctionStats(code)
        return found

    def observe(self, task: Task, frame: Frame, count: int, failed: int, now: float) -> None:
        """Note the outcomes of so many items of a task, which are counted in it already.

        Parameters
        ----------
        task
            Which.
        frame
            The message that they came in.
        count
            How many.
        failed
            How many of them are exceptions.
        now
            Seconds of the monotonic clock.
        """
        self.done += count - failed
        self.failed += failed
        if frame.entries:
            self._measure(task, frame, task.stats)
            return
        task.stats.result = 0
        size = len(frame.stream)
        if count != frame.item > 1:
            size = size * count // frame.item
        self._totals[2] += size
        call, plain = task.call, self._plain
        if call == plain.call:
            plain.received, plain.ended = size, now
        else:
            made = self._calls.get(call)
            if made is not None:
                made.received += size
                made.results += count

    def finished(
        self, task: Task, ended: int, worker: str, pid: int, outcome: str, now: float | None = None
    ) -> None:
        """Note that a task has ended: it is ``done``, has ``raised``, ``died``, or was ``cancelled``."""
        call = task.call
        self._ended += task.count
        self._spans.append(
            (
                task.number,
                call,
                task.label,
                worker,
                pid,
                task.submitted,
                task.began,
                ended,
                outcome,
                task.count,
                task.raised,
            )
        )
        plain = self._plain
        made = plain if call == plain.call else self._calls.get(call)
        if made is not None:
            made.ended = time.monotonic() if now is None else now

    def _measure(self, task: Task, frame: Frame, stats: FunctionStats) -> None:
        pickled = len(frame.stream)
        copied = 0
        for entry in frame.entries:
            if entry.flags & STREAM:
                pickled += entry.length
            else:
                copied += entry.length
        size = frame.entries[-1].offset + frame.entries[-1].length
        stats.result = max(size, OUT_OF_BAND)
        made = self._calls.get(task.call)
        if made is None and task.pickled is not None and task.pickled.account is None:
            made = self._note(task.call, self._plain_one(task, len(task.pickled.stream)))
        if made is not None:
            made.add("result", (0, copied, pickled, 0))
        self._total((0, copied, pickled, 0))

    def _plain_one(self, task: Task, size: int) -> _Calls:
        """Return the record of a small call, which can be asked for because its result is large."""
        plain = self._plain
        if plain.call == task.call:
            plain.call = 0
            return plain.report()
        made = _Calls(task.label, 1)
        made.began = task.submitted * 1e-9
        made.add("arguments", (0, 0, size, 0))
        return made

    # Copies

    def called(self, task: Task, pickled: Pickled) -> None:
        """Note a call of one task."""
        account = pickled.account
        if account is None:
            # Numbers and text, as they come by the thousand: only the newest of these can be asked for.
            plain, size = self._plain, len(pickled.stream)
            self._totals[2] += size
            plain.call, plain.label, plain.sent, plain.received = task.call, task.label, size, None
            plain.began, plain.ended = task.submitted * 1e-9, 0.0
            return
        self._begin(task.call, task.label, 1)._account = account
        shared, copied, pickle_size, _ = account.total()
        totals = self._totals
        totals[0] += shared
        totals[1] += copied
        totals[2] += pickle_size

    def called_many(self, call: int, label: str, pickled: Pickled, tasks: int) -> None:
        """Note a call of many tasks, or of another part of one."""
        copied = sum([buffer.length for buffer in pickled.buffers])
        made = self._calls.get(call)
        if made is None:
            made = self._begin(call, label, tasks)
        else:
            made.tasks += tasks
        self._count(made, "function", (0, copied, len(pickled.stream), 0))

    def _begin(self, call: int, label: str, tasks: int) -> _Calls:
        return self._note(call, _Calls(label, tasks))

    def _note(self, call: int, made: _Calls) -> _Calls:
        calls = self._calls
        calls[call] = made
        if call > self._newest:
            self._newest = call
        if len(calls) > _CALLS:
            calls.popitem(last=False)
        return made

    def more(self, call: int) -> None:
        """Note one more task of a call of many."""
        made = self._calls.get(call)
        if made is not None:
            made.tasks += 1

    def sends(self, call: int, pickled: Pickled) -> None:
        """Note what one task of a call of many is given."""
        made, account = self._calls.get(call), pickled.account
        if made is not None and account is not None:
            made.sends(account)
            self._total(account.total())
        else:
            self.sends_plain(call, len(pickled.stream), 1)

    def sends_plain(self, call: int, size: int, count: int) -> None:
        """Note the numbers and text that so many items of a call of many are given."""
        self._totals[2] += size
        made = self._calls.get(call)
        if made is not None:
            made.add("arguments", (0, 0, size, 0), count)

    def shares(self, call: int, argument: str, size: int) -> None:
        """Note bytes that went by reference, besides what was counted when they were sent."""
        self._totals[0] += size
        made = self._calls.get(call)
        if made is not None:
            made.add(argument, (size, 0, 0, 0), 0)

    def _count(self, made: _Calls, argument: str, copied: Copied) -> None:
        made.add(argument, copied)
        self._total(copied)

    def _total(self, part: Copied) -> None:
        totals = self._totals
        totals[0] += part[0]
        totals[1] += part[1]
        totals[2] += part[2]

    def totals(self) -> tuple[int, int, int]:
        """Return the bytes that were sent by reference, copied and pickled, of all calls."""
        shared, copied, pickled = self._totals
        return shared, copied, pickled

    def report(self, call: int | None = None) -> CopyReport | None:
        """Return what became of the arguments and results of a call, of the last one for None."""
        plain = self._plain
        if call is None:
            call = max(self._newest, plain.call)
        made = self._calls.get(call)
        if made is None and call and plain.call == call:
            made = plain.report()
        if made is None:
            return None
        from sharedarray._display.copies import ArgumentCopies, CopyReport

        rows = tuple(
            ArgumentCopies(argument, shared, copied, pickled, reused, count)
            for argument, (shared, copied, pickled, reused, count) in made.rows().items()
        )
        return CopyReport(call, made.label, made.tasks, (made.ended or time.monotonic()) - made.began, rows)

    # Which worker ran which call when

    def timeline(self) -> Timeline:
        """Return who ran what when."""
        from sharedarray._display.spans import Span, count_tasks
        from sharedarray._display.timeline import Timeline

        spans = tuple(Span(*fields) for fields in list(self._spans))
        return Timeline(spans, max(0, self._ended - count_tasks(spans)))
