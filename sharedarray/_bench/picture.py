"""The curves: time over size, both logarithmic, with the limit as a line, and where sharing begins to win."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

from sharedarray._bench.machine import human, sentence
from sharedarray._bench.race import Race
from sharedarray._bench.results import Results
from sharedarray._bench.summary import crossover, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "argument": "An array as the argument of a task",
    "result": "An array as the result of a task",
    "share, first": "An array into a new block",
    "share, again": "An array into a block that is there",
}
"""Groups that make curves, with their titles."""

# Colours that people with any kind of colour vision tell apart (those of Okabe and Ito), and markers besides.
_STYLES: dict[str, dict[str, Any]] = {
    "limit": {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.4},
    "sharedarray": {"color": "#0072B2", "linewidth": 2.6, "marker": "o"},
    "sharedarray, shared": {"color": "#56B4E9", "linewidth": 2.6, "marker": "o"},
    "ProcessPoolExecutor": {"color": "#D55E00", "linewidth": 1.8, "marker": "s"},
    "multiprocessing.Pool": {"color": "#E69F00", "linewidth": 1.8, "marker": "s"},
    "pickle.dumps, protocol 5": {"color": "#D55E00", "linewidth": 1.8, "marker": "s"},
    "pickle.dumps, protocol 4": {"color": "#E69F00", "linewidth": 1.8, "marker": "s"},
    "ray": {"color": "#009E73", "linewidth": 1.3, "marker": "^"},
    "ray, put before": {"color": "#009E73", "linewidth": 1.3, "marker": "v", "linestyle": ":"},
}
_SETTINGS: Any = {"svg.hashsalt": "sharedarray", "font.size": 10}
_OTHERS = [("#CC79A7", "D"), ("#7F7F7F", "x"), ("#8C6D31", "P"), ("#5254A3", "*"), ("#B0A000", "<")]
_OTHERS += [("#A55194", ">"), ("#637939", "h"), ("#999999", "+")]
_LABELS = {
    "sharedarray": "sharedarray, plain array",
    "sharedarray, shared": "sharedarray, shared array",
    "ProcessPoolExecutor": "ProcessPoolExecutor (pickles)",
    "multiprocessing.Pool": "multiprocessing.Pool (pickles)",
}
_LIMITS = {
    "argument": "limit: warm memcpy + bare pipe",
    "result": "limit: warm memcpy + bare pipe",
    "share, first": "limit: pwrite + mmap",
    "share, again": "limit: warm memcpy",
}


BARS = (
    "memory of an argument",
    "memory of a result",
    "sqrt by blocks",
    "sin by blocks",
    "start",
    "round trip",
)
"""Groups of one size, with the ratios to the limit as bars."""


def draw(results: Results, groups: Sequence[str], path: Path, *, title: str | None = None) -> None:
    """Draw the curves of these groups, side by side, into a file.

    Parameters
    ----------
    results : Results
        What was measured.
    groups : sequence of str
        Keys of `TITLES`.
    path : Path
        Its suffix tells the format: ``.png``, ``.svg`` or ``.pdf``.
    title : str, optional
        Above all; what was measured when None.
    """
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(5.0 * len(groups) + 0.4, 5.9), layout="constrained")
        for index, group in enumerate(groups):
            axes = figure.add_subplot(1, len(groups), index + 1)
            _curves(axes, results, group)
        _legend(figure, results)
        figure.suptitle(title or "Sharing and pickling NumPy arrays between processes", fontsize=13)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _curves(axes: Axes, results: Results, group: str) -> None:
    others = itertools.cycle(_OTHERS)
    for name in results.contestants(group):
        sizes, medians = results.curve(group, name)
        style = dict(_STYLES.get(name) or {})
        if not style:
            color, marker = next(others)
            style = {"color": color, "linewidth": 1.0, "marker": marker, "alpha": 0.9}
        label = _LIMITS.get(group, name) if name == "limit" else _LABELS.get(name, name)
        axes.plot(sizes, medians, label=label, markersize=4, **style)
    axes.set(xscale="log", yscale="log", title=TITLES[group])
    axes.set_xlabel("size of the array")
    axes.set_ylabel("time, median")
    sizes = sorted({race.size for race in results.group(group) if race.size})
    ticks = [size for size in sizes if round(math.log2(size)) % 4 == 2] if len(sizes) > 6 else sizes
    axes.set_xticks(ticks or sizes, [human(size) for size in ticks or sizes])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: seconds(value)))
    axes.grid(which="major", alpha=0.3)
    _mark_crossover(axes, results, group)


def _mark_crossover(axes: Axes, results: Results, group: str) -> None:
    """Return where the faster of our two ways gets faster than the fastest that pickles."""
    found = crossover(results, group)
    if found is None:
        return
    size, medians, everywhere = found
    if not everywhere:
        axes.axvline(size, color="black", linewidth=0.8, linestyle=":")
        axes.plot([size], [medians], marker="*", markersize=13, color="black", zorder=5)
    text = "sharing wins\nat every size" if everywhere else f"sharing wins\nfrom {human(round(size))} on"
    axes.annotate(
        text,
        (0.03, 0.97) if everywhere else (size, medians),
        (0, 0) if everywhere else (8, -30),
        xycoords="axes fraction" if everywhere else "data",
        textcoords="offset points",
        va="top",
        fontsize=10,
        bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )


def _legend(figure: Figure, results: Results) -> None:
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    columns = 2 * len(figure.axes) if len(shown) > 4 else len(shown)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        title=textwrap.fill(sentence(results.machine), 70 * len(figure.axes)),
        title_fontsize=8,
    )


def draw_bars(results: Results, races: Sequence[Race], path: Path) -> None:
    """Draw the ratios to the baseline of these races as bars, a panel each.

    Parameters
    ----------
    results : Results
        Whose machine is named.
    races : sequence of Race
        What to draw.
    path : Path
        Its suffix tells the format.
    """
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        rows = -(-len(races) // 2)
        figure = Figure(figsize=(10.4, 0.6 + 2.9 * rows), layout="constrained")
        for index, race in enumerate(races):
            axes = figure.add_subplot(rows, 2, index + 1)
            names = sorted((n for n in race.figures if n != race.baseline), key=race.ratio, reverse=True)
            ratios = [race.ratio(name) for name in names]
            colors = [_STYLES.get(name, {}).get("color", "#A0A0A0") for name in names]
            axes.barh(names, ratios, color=colors)
            axes.axvline(1, color="black", linewidth=1.2, linestyle=(0, (4, 2)))
            if max(ratios) > 30 * max(min(ratios), 1e-3):
                axes.set_xscale("log")
            for place, ratio in enumerate(ratios):
                axes.annotate(f" {ratio:.3g}", (ratio, place), va="center", fontsize=8)
            axes.margins(x=0.15)
            axes.set_title(textwrap.fill(race.title, 52), fontsize=9)
            axes.set_xlabel(f"times {race.baseline!r} (dashed)", fontsize=8)
            axes.tick_params(labelsize=8)
        figure.suptitle(sentence(results.machine), fontsize=8)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
