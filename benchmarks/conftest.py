"""How contestants are timed: in one process, in turn, round by round, as medians and ratios.

A machine's speed drifts, and other work comes and goes; what runs in the same round meets the same
conditions. So every comparison here is a *race*: each round runs every contestant once, the figure of a
contestant is its median over the rounds, and what counts is its ratio to the baseline.
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


@dataclass
class Race:
    """One comparison: contestants by name, timed in turn."""

    title: str
    baseline: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, contestants: dict[str, Callable[[], Any]], *, rounds: int, loops: int) -> None:
        """Time `loops` calls of each contestant in each of `rounds` rounds, after one that does not count.

        What a call returns is a function that tidies up, and is not timed; None where there is nothing.
        """
        if QUICK:
            rounds, loops = 2, 2
        for name, call in contestants.items():
            _time(call, 1)
            self.seconds[name] = []
        order = list(contestants.items())
        for _ in range(rounds):
            for name, call in order:
                self.seconds[name].append(_time(call, loops))
            order.reverse()  # who comes first in a round finds other pages and caches than who comes second

    def median(self, name: str) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Median of the ratios to the baseline, round by round."""
        pairs = zip(self.seconds[name], self.seconds[self.baseline], strict=True)
        return statistics.median(mine / base for mine, base in pairs)

    def table(self) -> str:
        """Median, ratio and the middle half of the rounds, for people."""
        width = max(map(len, self.seconds))
        lines = [self.title, f"  {'':{width}}  {'median':>11}  {'ratio':>6}  middle half of the rounds"]
        for name, seconds in self.seconds.items():
            low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds * 3)
            spread = f"{1e6 * low:,.1f} to {1e6 * high:,.1f}"
            lines.append(
                f"  {name:{width}}  {1e6 * self.median(name):8,.1f} us  {self.ratio(name):6.2f}  {spread}"
            )
        return "\n".join(lines)


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
    ) -> Race:
        made = Race(title, baseline)
        made.run(contestants, rounds=rounds, loops=loops)
        with capsys.disabled():
            print("\n" + made.table())
        if not races:
            # pytest-benchmark knows no interleaving. It times ours once more, for its own table and history,
            # and keeps the races in its JSON.
            ours = contestants["sharedarray"]
            benchmark.pedantic(lambda: _time(ours, 1), rounds=2 if QUICK else 5, warmup_rounds=1)
        races.append({"title": title, "baseline": baseline, "seconds": made.seconds})
        return made

    return run
