"""A summary of races: where sharing wins, by how much, and where it loses."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sharedarray._bench.contestants import CONTESTANTS
from sharedarray._bench.machine import human
from sharedarray._bench.race import Race, readable
from sharedarray._bench.results import Results


def kind_of(name: str) -> str:
    """Return the kind of a contestant; see `contestants.Contestant`."""
    if name in CONTESTANTS:
        return CONTESTANTS[name].kind
    return "pickling" if name.startswith("pickle") else "sharing"


def crossover(results: Results, group: str) -> tuple[float, float, bool] | None:
    """Return the size from which on sharing is faster than pickling.

    Returns
    -------
    tuple of float, float, bool or None
        The size in bytes and the seconds where the curves cross, interpolated, and whether sharing is faster
        at every size that was measured; None if it is not at the largest.
    """
    sizes, shared = _best(results, group, "ours")
    same, pickled = _best(results, group, "pickling")
    if not sizes or sizes != same or shared[-1] >= pickled[-1]:
        return None
    for index in range(len(sizes) - 1, -1, -1):
        if shared[index] >= pickled[index]:
            break
    else:
        return float(sizes[0]), shared[0], True
    # The curves are straight between two points where both axes are logarithmic.
    before, after = (math.log(pickled[i] / shared[i]) for i in (index, index + 1))
    part = -before / (after - before)
    size = sizes[index] * (sizes[index + 1] / sizes[index]) ** part
    return size, shared[index] * (shared[index + 1] / shared[index]) ** part, False


def _best(results: Results, group: str, kind: str) -> tuple[list[int], list[float]]:
    """Return sizes, and at each the median of the fastest contestant of a kind."""
    sizes, best = [], []
    for race in results.group(group):
        medians = [race.median(name) for name in race.figures if kind_of(name) == kind]
        if race.size and medians:
            sizes.append(race.size)
            best.append(min(medians))
    return sizes, best


def verdicts(results: Results) -> Iterator[str]:
    """Return in sentences what sharing gains over pickling, from which size on, and where it loses."""
    for group in ("argument", "result"):
        races = results.group(group)
        for name in ("sharedarray", "sharedarray, shared"):
            gains = [
                f"{readable(1 / race.ratio_to(name, fastest))} at {human(race.size or 0)}"
                for race in races
                if (fastest := fastest_pickling(race)) and name in race.figures
            ]
            if gains:
                yield f"{group}: pickling takes this many times as long as {name!r}: {', '.join(gains)}"
        found = crossover(results, group)
        if found:
            size, _, everywhere = found
            where = "at every size" if everywhere else f"from {human(round(size))} on"
            yield f"{group}: sharing is faster than pickling {where}"


def fastest_pickling(race: Race) -> str | None:
    """Return which of those that pickle is the fastest."""
    names = [name for name in race.figures if kind_of(name) == "pickling"]
    return min(names, key=race.median, default=None)


NO_RIVALS = frozenset(
    (
        "no-op in this pool",
        "warm copy + no-op in this pool",
        "as many ints, as an array",
        "threading.Lock",
        "bare, each imports NumPy",
        "2 bare workers, a half each",
    )
)
"""Contestants that show what something costs, but do not do what ours does."""


def losses(results: Results, more_than: float = 1.05) -> list[tuple[Race, str, float]]:
    """Return the races in which others, except the limit, are faster than ours by more than this factor.

    Returns
    -------
    list of Race, str, float
        The race, the fastest other, and how many times as long ours takes, by the medians.
    """
    found = []
    for race in results.races:
        if "sharedarray" not in race.figures or race.unit in ("MiB", "%") or race.group == "import":
            continue
        others = [name for name in race.figures if _is_rival(name, race)]
        fastest = min(others, key=race.median, default=None)
        if fastest is not None:
            factor = race.median("sharedarray") / race.median(fastest)
            if factor > more_than:
                found.append((race, fastest, factor))
    return found


def _is_rival(name: str, race: Race) -> bool:
    if name.startswith(("sharedarray", "limit", "raw")) or name in NO_RIVALS or kind_of(name) == "limit":
        return False
    return name != race.baseline or name.startswith(("CPython", "multiprocessing.Pool"))


def behind(results: Results, more_than: float = 1.5) -> list[Race]:
    """Return the races in which ours takes more than so many times the baseline."""
    return [
        race
        for race in results.races
        if "sharedarray" in race.figures
        and race.baseline in race.figures
        and race.ratio("sharedarray") > more_than
    ]


def seconds(value: float) -> str:
    """Return seconds, for people: ``29 µs``."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if value >= 0.9999 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.1g} s"
