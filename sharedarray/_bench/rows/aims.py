"""The limits for the cost of a pool, as ratios within one run, and whether they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sharedarray._bench.machine import human
from sharedarray._bench.race import UNITS, Race, readable
from sharedarray._bench.results import Results
from sharedarray._bench.rows import arrays, calls, growth, idle, maps

OURS = "sharedarray"


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound for a figure, or for a ratio of two contestants.

    Attributes
    ----------
    what : str
        What is bounded, for people.
    group : str
        The group of the race.
    of, to : str
        The ratio is that of contestant `of` to contestant `to`. Without `to` it is the figure of `of`, in the
        race's unit.
    bound : float
        The most that it may be.
    least : bool
        The bound is the least that it may be.
    """

    what: str
    group: str
    of: str
    to: str
    bound: float
    least: bool = False

    def value(self, results: Results) -> float | None:
        """Return what was measured; None if it was not."""
        for race in results.group(self.group):
            if self.of in race.figures and (not self.to or self.to in race.figures):
                return self._value(race)
        return None

    def _value(self, race: Race) -> float:
        if self.to:
            return race.ratio_to(self.of, self.to)
        return race.median(self.of) / UNITS[race.unit]

    def met(self, value: float) -> bool:
        """Return whether this value keeps to the bound."""
        return value >= self.bound if self.least else value <= self.bound


def _aims() -> Iterator[Aim]:
    for how, group in calls.ROUND_TRIPS.items():
        most = 1.0 if how == "back to back" else 1.6
        yield Aim(f"round trip, {how}, over a bare pipe's", group, OURS, "limit", most)
        text = f"round trip, {how}, of a function of the script over an importable one's"
        yield Aim(text, group, calls.SCRIPT, OURS, 1.1)
    for (length, how), group in maps.TIMES.items():
        name = f"map of tasks of {length}, {how}"
        yield Aim(f"{name}, over multiprocessing.Pool's", group, OURS, "multiprocessing.Pool", 1.0)
        if length != "40 µs":
            yield Aim(f"{name}, speed-up over one process", group, maps.ALONE, OURS, 1.85, least=True)
        busy = maps.PROCESSOR_TIMES[length, how]
        yield Aim(f"{name}, parent's processor time for each task, µs", busy, OURS, "", 10)
    for (way, size), group in arrays.PLAIN.items():
        name = f"plain {way} of {human(size)}, over a warm copy and a no-op"
        yield Aim(name, group, OURS, arrays.IN_POOL, 1.5)
    yield Aim("share again and again, over a warm copy", arrays.AGAIN, OURS, "limit", 1.5)
    for name in OURS, calls.SCRIPT:
        text = f"submitted one by one ({name}), over a bare pipe's"
        yield Aim(text, calls.SUBMITTED, name, "limit", 0.25)
    for (way, cost), group in growth.GROUPS.items():
        text = f"{cost} for each task ({way}), 64 workers over 2"
        yield Aim(text, group, growth.ours(64), growth.ours(2), 1.5)
    yield Aim("idle pool, % of a core", idle.IDLE, OURS, "", 0.05)
    yield Aim("busy pool's parent, % of a core", idle.BUSY, OURS, "", 1.0)
    yield Aim("as_completed, over ProcessPoolExecutor's", calls.COMPLETED, OURS, "ProcessPoolExecutor", 1.0)


AIMS = tuple(_aims())
GROUPS = frozenset(aim.group for aim in AIMS)
"""Groups of the races that the rows run: each has an aim."""


def judged(results: Results) -> Iterator[tuple[Aim, float]]:
    """Yield each aim about which something was measured, with the value."""
    for aim in AIMS:
        value = aim.value(results)
        if value is not None:
            yield aim, value


def sentences(results: Results) -> Iterator[str]:
    """Yield a line for each aim about which something was measured."""
    found = [
        (aim.what, readable(value), f"{'at least' if aim.least else 'at most'} {aim.bound:g}", aim.met(value))
        for aim, value in judged(results)
    ]
    width = max((len(what) for what, *_ in found), default=0)
    for what, value, bound, met in found:
        yield f"{what:{width}}  {value:>6}  {bound:13}  {'met' if met else 'MISSED'}"
