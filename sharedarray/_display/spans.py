"""Spans: which worker ran which task, and when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sharedarray._display.text import one_line

__all__ = [
    "LETTERS",
    "Lane",
    "Span",
    "busy_time",
    "count_tasks",
    "functions_of",
    "lanes_of",
    "outcome_key",
    "time_window",
    "worker_name",
    "worst_outcome",
]

# Outcomes other than "done", the most serious one first, with the letters that mark them.
LETTERS = {"died": "!", "timeout": "t", "raised": "x", "cancelled": "c"}


class Span(NamedTuple):
    """One task, from its submission to its end, or several that a worker was given at a time.

    Small items of a `Pool.map` are handed out many at a time; these are one span.

    Attributes
    ----------
    task, call : int
        Numbers of the task and of the call that it belongs to, unique within this process.
    label : str
        Name of the function.
    worker : str
        Name of the worker that ran it.
    pid : int
        Process id of that worker.
    submitted, began, ended : int
        Times in nanoseconds of the monotonic clock (`time.monotonic_ns`). For a task whose worker did not
        report its end, ``began`` is the time that the pool knows.
    outcome : {'done', 'raised', 'died', 'timeout', 'cancelled'}
        It returned; it raised; its worker died; its timeout expired; it was cancelled while it ran. Several
        tasks have raised if any of them has.
    items : int
        How many tasks the span covers.
    raised : int
        How many of them raised an exception.

    Examples
    --------
    >>> span = Span(8, 3, "blur", "worker-1", 4711, 1_000_000, 3_000_000, 15_000_000, "done")
    >>> span.seconds, span.waited
    (0.012, 0.002)
    """

    task: int
    call: int
    label: str
    worker: str
    pid: int
    submitted: int
    began: int
    ended: int
    outcome: str
    items: int = 1
    raised: int = 0

    @property
    def seconds(self) -> float:
        """Seconds for which it ran."""
        return max(0, self.ended - self.began) / 1e9

    @property
    def waited(self) -> float:
        """Seconds between its submission and its beginning."""
        return max(0, self.began - self.submitted) / 1e9


class Lane(NamedTuple):
    """One worker's spans in order of their beginning, and the nanoseconds that they cover."""

    worker: str
    pid: int
    spans: list[Span]
    busy: int


def time_window(spans: Sequence[Span]) -> tuple[int, int]:
    """Return when the first span began and the last one ended."""
    if not spans:
        return 0, 0
    start = min([span.began for span in spans])
    return start, max([start, *[span.ended for span in spans]])


def lanes_of(spans: Sequence[Span]) -> list[Lane]:
    """Return one lane for each worker, in the order of the workers' numbers."""
    found: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        found.setdefault((span.worker, span.pid), []).append(span)
    lanes = []
    for (worker, pid), own in found.items():
        own.sort(key=lambda span: (span.began, span.ended))
        lanes.append(Lane(worker, pid, own, busy_time(own)))
    return sorted(lanes, key=lambda lane: (_natural(lane.worker), lane.pid))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which 10 comes after 9."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)([0-9]*)", name)]


def busy_time(spans: Sequence[Span]) -> int:
    """Return the nanoseconds that the spans cover; they are in order of their beginning."""
    total, until = 0, spans[0].began
    for span in spans:
        total += max(0, span.ended - max(span.began, until))
        until = max(until, span.ended)
    return total


def functions_of(spans: Sequence[Span]) -> list[tuple[str, int, int]]:
    """Return each function's name, number of tasks and nanoseconds, the one that took most of them first."""
    found: dict[str, tuple[int, int]] = {}
    for span in spans:
        count, spent = found.get(span.label, (0, 0))
        found[span.label] = count + span.items, spent + max(0, span.ended - span.began)
    ordered = sorted(found.items(), key=lambda item: (-item[1][1], item[0]))
    return [(label, count, spent) for label, (count, spent) in ordered]


def count_tasks(spans: Sequence[Span]) -> int:
    """Return how many tasks some spans cover."""
    return sum([span.items for span in spans])


def worst_outcome(spans: Sequence[Span]) -> str:
    """Return the most serious outcome of some spans."""
    found = {span.outcome for span in spans}
    return next((outcome for outcome in LETTERS if outcome in found), "done")


def outcome_key(spans: Sequence[Span]) -> list[str]:
    """Return the meanings of the letters that occur in a picture of these spans, with counts."""
    found: dict[str, int] = {}
    for span in spans:
        count = (span.raised or span.items) if span.outcome == "raised" else span.items
        found[span.outcome] = found.get(span.outcome, 0) + count
    return [f"{letter} {name} ({found[name]:,})" for name, letter in LETTERS.items() if name in found]


def worker_name(name: str) -> str:
    """Return a worker's name without the prefix that all workers have."""
    return one_line(name.removeprefix("sharedarray-"))
