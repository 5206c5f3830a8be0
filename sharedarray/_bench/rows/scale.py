"""The share of each row that is measured: all of it, or a small part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from sharedarray._bench.race import Race

Case = TypeVar("Case")


@dataclass(frozen=True, slots=True)
class Scale:
    """The share of a row that is measured.

    Attributes
    ----------
    part : float
        The part of the calls, tasks and seconds of a full measurement that a round has.
    rounds : int
        Rounds of a race of short calls. A race whose rounds take long has half of them.
    """

    part: float
    rounds: int

    def some(self, full: int, least: int = 1) -> int:
        """Return how many of `full` things this scale measures, at least `least`."""
        return max(least, round(full * self.part))

    def seconds(self, full: float) -> float:
        """Return how many of `full` seconds this scale measures."""
        return full * self.part

    def chosen(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the cases, sizes for example, that this scale measures: all, or the first two."""
        return cases if self.part >= QUICK.part else cases[:2]

    @property
    def few(self) -> int:
        """Rounds of a race whose rounds take long."""
        return -(-self.rounds // 2)


FULL = Scale(1.0, 5)
QUICK = Scale(0.2, 3)
TINY = Scale(0.01, 1)
"""Shows that a row still runs. Its figures say nothing."""

Row: TypeAlias = Callable[[Scale], Iterator[Race]]
"""Measures, and yields each race when it is finished."""
