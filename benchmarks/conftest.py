"""How contestants are timed: in one process, in turn, round by round, as medians and ratios.

A machine's speed drifts, and other work comes and goes; what runs in the same round meets the same
conditions. So every comparison here is a *race*: each round runs every contestant once, the figure of a
contestant is its median over the rounds, and what counts is its ratio to the baseline.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

QUICK = bool(os.environ.get("SHAREDARRAY_BENCH_QUICK"))
"""Few rounds and small sizes: whether a benchmark still runs, not what it says."""


@dataclass
class Race:
    """One comparison: contestants by name, timed in turn."""

    title: str
    baseline: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, contestants: dict[str, Callable[[], object]], *, rounds: int, loops: int) -> None:
        """Time `loops` calls of each contestant in each of `rounds` rounds, after one that does not count."""
        if QUICK:
            rounds, loops = 2, 2
        for name, call in contestants.items():
            call()
            self.seconds[name] = []
        for _ in range(rounds):
            for name, call in contestants.items():
                start = time.perf_counter()
                for _ in range(loops):
                    call()
                self.seconds[name].append((time.perf_counter() - start) / loops)

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


@pytest.fixture
def race(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Race]]:
    """Run a race, print its table, and hand its figures to pytest-benchmark under the baseline's name."""
    benchmark = request.getfixturevalue("benchmark")
    done: list[Race] = []

    def run(
        title: str,
        contestants: dict[str, Callable[[], object]],
        *,
        baseline: str,
        rounds: int,
        loops: int = 1,
    ) -> Race:
        made = Race(title, baseline)
        made.run(contestants, rounds=rounds, loops=loops)
        done.append(made)
        return made

    yield run
    for made in done:
        with capsys.disabled():
            print("\n" + made.table())
    # pytest-benchmark has no interleaving: it gets the finished figures, for its JSON.
    times = iter(done[0].seconds["sharedarray"] if "sharedarray" in done[0].seconds else [0.0])
    benchmark.pedantic(lambda: next(times, 0.0), rounds=1)
    benchmark.extra_info["races"] = [
        {"title": made.title, "baseline": made.baseline, "seconds": made.seconds} for made in done
    ]
