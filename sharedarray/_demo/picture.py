"""The picture that the demo leaves: shaded relief, and four measures beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from sharedarray._demo.landscape import Landscape, shrink
from sharedarray._demo.stages import LANDFORMS, Array

PICTURE_CELLS = 1400
"""The picture shows about so many cells along a side at most; its pixels have no more to give."""

LAND = ["#2f6b45", "#7fa65b", "#d9cf8f", "#b98d5b", "#8a6a55", "#f2efea"]
"""Colours from the valleys up."""

LANDFORM_COLORS = ["#3b6fb6", "#8fc1d9", "#b9cf9a", "#e0a458", "#a63d2f", "#efe9dc"]
"""One for each of `LANDFORMS`."""


def draw(landscape: Landscape, layers: Mapping[str, Array], cell: tuple[float, float], output: Path) -> None:
    """Write the picture.

    Parameters
    ----------
    landscape : Landscape
        Title, unit and extent.
    layers : mapping of str to array
        Every layer of the pipeline, elevation included.
    cell : tuple of float
        Height and width of a cell, in the landscape's unit.
    output : Path
        The PNG file.
    """
    rows, columns = layers["elevation"].shape
    factor = max(1, round(max(rows, columns) / PICTURE_CELLS))
    small = {name: shrink(np.asarray(array), factor) for name, array in layers.items() if name != "landforms"}
    forms = np.asarray(layers["landforms"])[factor // 2 :: factor, factor // 2 :: factor]
    placed = _placement(landscape, (rows, columns), cell)

    figure = Figure(figsize=(19, 9.4), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 4)
    size = f" of {cell[0]:.1f} × {cell[1]:.1f} m" if landscape.extent else ""
    measured = "{} × {}".format(*landscape.heights.shape)
    figure.suptitle(
        f"{landscape.title}: {rows:,} × {columns:,} cells{size}, resampled from {measured}", fontsize=15
    )

    main = figure.add_subplot(grid[:, :2])
    _relief(main, small["smoothed"], small["hillshade"], landscape.unit, placed)
    main.set_xlabel("longitude (degrees)" if landscape.extent else "column")
    main.set_ylabel("latitude (degrees)" if landscape.extent else "row")
    measures = (
        ("slope", "Slope", "magma", "degrees", (0, 2)),
        ("tpi", "Topographic position index", "RdBu_r", landscape.unit, (0, 3)),
        ("sky_view", "Sky-view factor", "gray", "part of the sky that is seen", (1, 2)),
    )
    for name, title, cmap, unit, place in measures:
        axes = figure.add_subplot(grid[place])
        low, high = np.percentile(small[name], [1, 99])
        if name == "tpi":
            low, high = -max(-low, high), max(-low, high)  # white is 0
        image = axes.imshow(small[name], cmap=cmap, vmin=low, vmax=max(high, low + 1e-6), **placed)
        figure.colorbar(image, ax=axes, shrink=0.8, label=unit, extend="both")
        axes.set_title(title)
    axes = figure.add_subplot(grid[1, 3])
    _landforms(axes, forms, placed)

    for axes in figure.axes:
        if axes.images:
            axes.locator_params(nbins=5)
            axes.tick_params(labelsize=8)
            axes.ticklabel_format(useOffset=False, style="plain")
    figure.savefig(output)


def _placement(landscape: Landscape, shape: tuple[int, int], cell: tuple[float, float]) -> dict[str, Any]:
    """Return where an image lies in its axes, and how tall a unit up is beside a unit across."""
    rows, columns = shape
    west, east, south, north = landscape.extent or (0, columns, rows, 0)
    unit_up, unit_across = rows * cell[0] / abs(north - south), columns * cell[1] / abs(east - west)
    return {"extent": (west, east, south, north), "aspect": unit_up / unit_across}


def _relief(axes: Axes, elevation: Array, shade: Array, unit: str, placed: dict[str, Any]) -> None:
    """Return the heights in colour, with slopes darkened that turn from the sun and others lightened."""
    low, high = np.percentile(elevation, [0.5, 99.5])
    norm = colors.Normalize(low, max(high, low + 1e-6))
    cmap = colors.LinearSegmentedColormap.from_list("land", LAND)
    color = cmap(norm(elevation))[..., :3]
    light = shade[..., None] / math.sin(math.radians(45))  # 1 on level ground
    dark = color * (0.2 + 0.8 * np.minimum(light, 1))
    bright = color + (1 - color) * 0.9 * np.maximum(light - 1, 0)
    axes.imshow(np.clip(np.where(light < 1, dark, bright), 0, 1), **placed)
    axes.set_title("Shaded relief, coloured by elevation")
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(
        ScalarMappable(norm, cmap), ax=axes, shrink=0.7, pad=0.02, label=f"elevation ({unit})", extend="both"
    )


def _landforms(axes: Axes, forms: Array, placed: dict[str, Any]) -> None:
    cmap = colors.ListedColormap(LANDFORM_COLORS)
    image = axes.imshow(
        forms, cmap=cmap, vmin=-0.5, vmax=len(LANDFORMS) - 0.5, interpolation="nearest", **placed
    )
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=range(len(LANDFORMS)))
    bar.ax.set_yticklabels(LANDFORMS)
    axes.set_title("Landforms (Weiss)")
