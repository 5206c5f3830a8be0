"""Races: contestants that are measured in turn, round by round, as medians and ratios.

A machine's speed drifts, and other work comes and goes; what runs in the same round meets the same
conditions. So every comparison is a race: each round measures every contestant once, the figure of a
contestant is its median over the rounds, and what counts is its ratio to the baseline, which is the physical
limit where there is one.

A figure is the time of a call in seconds, unless a contestant measures something itself: bytes, or the time
in another process.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "MiB": float(1 << 20), "%": 0.01}
"""The units in which figures are shown, by name. A figure is in seconds, in bytes, or a share of one core."""

FEWEST = 3
"""Rounds that even a slow contestant is in: a median of fewer says little."""

Call: TypeAlias = Callable[[], Any]


def readable(number: float) -> str:
    """Return a number with three digits, without an exponent.

    Examples
    --------
    >>> readable(2563.4), readable(38.04), readable(0.00005)
    ('2,563', '38', '0.00005')
    """
    if abs(number) >= 100:
        return f"{number:,.0f}"
    text = f"{number:.3g}"
    return text if "e" not in text else f"{number:.8f}".rstrip("0").rstrip(".")


class ContestantError(Exception):
    """A contestant cannot go on; it is left out, with this as the reason."""


@dataclass
class Race:
    """One comparison: contestants by name, measured in turn.

    Attributes
    ----------
    title : str
        What was measured, for people.
    baseline : str
        The contestant to which the ratios are.
    unit : str
        A key of `UNITS`, in which the table shows the figures.
    figures : dict of str to list of float
        Seconds or bytes, a figure for each round, by contestant. A slow one may have been in fewer rounds.
    missing : dict of str to str
        Contestants that took no part, with the reason.
    group : str
        The question that this race belongs to; races of a group that differ in size make one curve.
    size : int or None
        Bytes of the array that it is about.
    notes : dict of str to str
        What a reader has to know of one contestant's figures.
    """

    title: str
    baseline: str
    unit: str = "us"
    figures: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    group: str = ""
    size: int | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        contestants: Mapping[str, Call],
        *,
        rounds: int,
        loops: int = 1,
        per: int = 1,
        measured: bool = False,
        budget: float | None = None,
        fewest: int = FEWEST,
        begun: Callable[[str], None] | None = None,
    ) -> None:
        """Measure each contestant in each round, after one call that does not count.

        Parameters
        ----------
        contestants : dict of str to callable
            What a call returns is a function that tidies up, and is not timed; None if there is nothing.
            With `measured`, it returns the figure itself.
        rounds : int
            How often each is measured.
        loops : int
            Calls of which one figure is the mean.
        per : int
            So many things are done by one call at once.
        measured : bool
            Whether a call returns the figure.
        budget : float, optional
            Seconds after which a contestant is in no further round, once it was in the `fewest` of them.
        fewest : int
            Rounds that every contestant is in, however slow it is.
        begun : callable, optional
            Called with the name of the next contestant.
        """
        self.figures = {name: [] for name in contestants}
        spent = dict.fromkeys(contestants, 0.0)
        order = list(contestants.items())
        for turn in range(-1, rounds):
            for name, call in list(order):
                if budget is not None and turn >= fewest and spent[name] > budget:
                    continue
                if begun is not None:
                    begun(name)
                start = time.perf_counter()
                try:
                    if turn >= 0:
                        self.figures[name].append(call() if measured else seconds_of(call, loops) / per)
                    elif not measured:
                        seconds_of(call, 1)
                except ContestantError as error:
                    self.leave_out(name, str(error))
                    order.remove((name, call))
                spent[name] += time.perf_counter() - start
            order.reverse()  # who comes first in a round finds other pages and caches than who comes second

    def leave_out(self, name: str, reason: str) -> None:
        """Exclude a contestant, for this reason."""
        self.figures.pop(name, None)
        self.missing[name] = reason

    def median(self, name: str) -> float:
        """Return median figure of a contestant, in seconds or bytes."""
        return statistics.median(self.figures[name])

    def ratio(self, name: str) -> float:
        """Return median of the ratios to the baseline, round by round."""
        return self.ratio_to(name, self.baseline)

    def ratio_to(self, name: str, other: str) -> float:
        """Return the same, to another contestant."""
        pairs = zip(self.figures[name], self.figures[other], strict=False)
        return statistics.median(mine / base if base else math.inf for mine, base in pairs)

    def spread(self, name: str) -> tuple[float, float]:
        """Return the quartiles of the rounds."""
        figures = self.figures[name]
        low, _, high = statistics.quantiles(figures, n=4, method="inclusive") if figures[1:] else figures * 3
        return low, high

    def shown(self, figure: float) -> str:
        """Return a figure in this race's unit, for people."""
        figure /= UNITS[self.unit]
        return f"{readable(figure)} {'µs' if self.unit == 'us' else self.unit}"

    def table(self) -> str:
        """Return median, ratio and the middle half of the rounds, for people."""
        width = max(map(len, [*self.figures, *self.missing]))
        lines = [self.title, f"  {'':{width}}  {'median':>11}  {'ratio':>6}  middle half of the rounds"]
        for name in self.figures:
            spread = " to ".join(map(self.shown, self.spread(name)))
            median = self.shown(self.median(name))
            ratio = f"{self.ratio(name):6.2f}" if self.baseline in self.figures else " " * 6
            lines.append(f"  {name:{width}}  {median:>11}  {ratio}  {spread}")
        lines += [f"  {name:{width}}  left out: {reason}" for name, reason in self.missing.items()]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the race in the form that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Race:
        """Return the race that `as_json` told of."""
        return cls(**record)


def seconds_of(call: Call, loops: int) -> float:
    """Return seconds of a call, tidying up not counted."""
    start = time.perf_counter()
    for _ in range(loops):
        tidy = call()
        if tidy is not None:
            pause = time.perf_counter()
            tidy()
            del tidy  # and with it, what it kept
            start += time.perf_counter() - pause
    return (time.perf_counter() - start) / loops


def run_together(
    races: Sequence[Race], contestants: Mapping[str, Callable[[], Sequence[float | None]]], *, rounds: int
) -> None:
    """Measure each contestant in each round, with one call that gives a figure for each of these races.

    Parameters
    ----------
    races : sequence of Race
        Races about the same calls: one about their time, and one about their processor time, say.
    contestants : dict of str to callable
        A call returns its figure in each race, or None in a race that has no such contestant. The caller has
        warmed it up.
    rounds : int
        How often each is measured.
    """
    order = list(contestants.items())
    for _ in range(rounds):
        for name, call in order:
            for race, figure in zip(races, call(), strict=True):
                if figure is not None:
                    race.figures.setdefault(name, []).append(figure)
        order.reverse()  # as in `Race.run`
    for race in races:
        race.figures = {name: race.figures[name] for name in contestants if name in race.figures}
