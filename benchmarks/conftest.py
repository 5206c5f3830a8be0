"""How contestants are timed: in one process, in turn, round by round, as medians and ratios.

A machine's speed drifts, and other work comes and goes; what runs in the same round meets the same
conditions. So every comparison here is a *race*: each round runs every contestant once, the figure of a
contestant is its median over the rounds, and what counts is its ratio to the baseline.

A figure is the time of a call, unless a contestant measures something itself: bytes, or the time in another
process.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

QUICK = bool(os.environ.get("SHAREDARRAY_BENCH_QUICK"))
"""Few rounds and small sizes: whether a benchmark still runs, not what it says."""


UNITS = {"us": 1e-6, "ms": 1e-3, "MiB": 1 << 20}
"""What figures are shown in, by name: seconds, or bytes."""


@dataclass
class Race:
    """One comparison: contestants by name, measured in turn."""

    title: str
    baseline: str
    unit: str = "us"
    figures: dict[str, list[float]] = field(default_factory=dict)

    def run(
        self,
        contestants: dict[str, Callable[[], Any]],
        *,
        rounds: int,
        loops: int,
        per: int = 1,
        measured: bool = False,
    ) -> None:
        """Measure each contestant in each of `rounds` rounds, after one that does not count.

        The figure is the time of a call, from `loops` of them. What a call returns is a function that tidies
        up, and is not timed; None where there is nothing. A call that does `per` things at once counts as so
        many. With `measured`, one call returns the figure.
        """
        if QUICK:
            rounds, loops = 2, 2
        figure: Callable[[Callable[[], Any]], float]
        figure = (lambda call: call()) if measured else (lambda call: _time(call, loops) / per)
        for name, call in contestants.items():
            figure(call) if measured else _time(call, 1)
            self.figures[name] = []
        order = list(contestants.items())
        for _ in range(rounds):
            for name, call in order:
                self.figures[name].append(figure(call))
            order.reverse()  # who comes first in a round finds other pages and caches than who comes second

    def median(self, name: str) -> float:
        """Median figure of a contestant, in seconds or bytes."""
        return statistics.median(self.figures[name])

    def ratio(self, name: str) -> float:
        """Median of the ratios to the baseline, round by round."""
        pairs = zip(self.figures[name], self.figures[self.baseline], strict=True)
        return statistics.median(mine / base for mine, base in pairs)

    def table(self) -> str:
        """Median, ratio and the middle half of the rounds, for people."""
        width, unit = max(map(len, self.figures)), UNITS[self.unit]
        lines = [self.title, f"  {'':{width}}  {'median':>11}  {'ratio':>6}  middle half of the rounds"]
        for name, figures in self.figures.items():
            low, _, high = statistics.quantiles(figures, n=4) if len(figures) > 1 else (figures * 3)
            median = f"{_shown(self.median(name) / unit)} {self.unit}"
            spread = f"{_shown(low / unit)} to {_shown(high / unit)}"
            lines.append(f"  {name:{width}}  {median:>11}  {self.ratio(name):6.2f}  {spread}")
        return "\n".join(lines)


def _shown(figure: float) -> str:
    return f"{figure:,.1f}" if figure >= 10 else f"{figure:.2f}"


def _time(call: Callable[[], Any], loops: int) -> float:
    """Seconds of a call, tidying up not counted."""
    start = time.perf_counter()
    for _ in range(loops):
        tidy = call()
        if tidy is not None:
            pause = time.perf_counter()
            tidy()
            del tidy  # and with it, what it kept
            start += time.perf_counter() - pause
    return (time.perf_counter() - start) / loops


@pytest.fixture
def race(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., Race]:
    """Run a race, print its table, and hand its figures to pytest-benchmark under the baseline's name."""
    benchmark = request.getfixturevalue("benchmark")
    races = benchmark.extra_info["races"] = []

    def run(
        title: str,
        contestants: dict[str, Callable[[], Any]],
        *,
        baseline: str,
        rounds: int,
        loops: int = 1,
        per: int = 1,
        unit: str = "us",
        measured: bool = False,
    ) -> Race:
        made = Race(title, baseline, unit)
        made.run(contestants, rounds=rounds, loops=loops, per=per, measured=measured)
        with capsys.disabled():
            print("\n" + made.table())
        if not races:
            # pytest-benchmark knows no interleaving. It times ours once more, for its own table and history,
            # and keeps the races in its JSON.
            ours = contestants["sharedarray"]
            again = ours if measured else lambda: _time(ours, 1)
            benchmark.pedantic(again, rounds=1 if QUICK or measured else 5, warmup_rounds=not measured)
        races.append({"title": title, "baseline": baseline, "unit": unit, "figures": made.figures})
        return made

    return run
