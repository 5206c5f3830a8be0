"""The seven stages of the demo: plain NumPy functions that turn a block of rows into one of the same shape.

A stage that looks at neighbours needs a *halo*: that many extra rows on each side of its block, which are
cut off its result. It pads what it is given by repeating the edge; inside the landscape the padded rows
end in the halo, at its border they are the border. So the cells of a block come out exactly as they do
from one call over the whole array, bit by bit, as long as no cell depends on where in the block it
stands. That is why the moving windows here add up by doubling and never by running sums, whose rounding
errors remember where they began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: `func` makes the layer `name` out of the layers `inputs`, looking `halo` rows around."""

    name: str
    func: Callable[..., Array]
    inputs: tuple[str, ...]
    halo: int
    dtype: npt.DTypeLike = np.float32


def pipeline(zoom: float, cell: tuple[float, float]) -> list[Stage]:
    """Return the stages for a landscape of `zoom` cells per measured one, each of the size in metres."""
    sigma = max(0.6 * zoom, 0.8)
    radius = max(round(1.5 * zoom), 3)
    return [
        Stage("smoothed", partial(smooth, sigma=sigma), ("elevation",), smooth_reach(sigma)),
        Stage("slope", partial(slope, cell=cell), ("smoothed",), 1),
        Stage("hillshade", partial(hillshade, cell=cell), ("smoothed",), 1),
        Stage("tpi", partial(position, radius=radius), ("smoothed",), radius),
        Stage("roughness", partial(roughness, radius=radius), ("smoothed",), radius),
        Stage("sky_view", partial(sky_view, cell=cell, radius=radius), ("smoothed",), radius),
        Stage("landforms", landforms, ("tpi", "roughness", "slope"), 0, np.uint8),
    ]


def smooth(elevation: Floats, *, sigma: float) -> Floats:
    """Smooth by a Gaussian of `sigma` cells, first down the columns, then along the rows.

    It reaches ``smooth_reach(sigma)`` cells. Survey noise of a metre would otherwise rule every slope.
    """
    reach = smooth_reach(sigma)
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights = (weights / (weights[0] + 2 * weights[1:].sum())).astype(np.float32)
    for axis in (0, 1):
        length = elevation.shape[axis]
        padded = _pad(elevation, reach, axis)
        total = weights[0] * _along(padded, axis, reach, length)
        pair = np.empty_like(total)
        for step in range(1, reach + 1):
            before, after = (_along(padded, axis, start, length) for start in (reach - step, reach + step))
            np.add(before, after, out=pair)
            pair *= weights[step]
            total += pair
        elevation = total
    return elevation


def smooth_reach(sigma: float) -> int:
    """Return how many cells away `smooth` looks: three standard deviations."""
    return math.ceil(3 * sigma)


def slope(elevation: Floats, *, cell: tuple[float, float]) -> Floats:
    """Return the steepest slope in degrees, from Horn's weighted differences over the eight neighbours.

    B. K. P. Horn, "Hill shading and the reflectance map", Proceedings of the IEEE 69 (1981) 14-47.
    """
    south, east = _gradient(elevation, cell)
    south *= south
    east *= east
    south += east
    np.sqrt(south, out=south)
    np.arctan(south, out=south)
    return np.degrees(south, out=south)


def hillshade(
    elevation: Floats, *, cell: tuple[float, float], azimuth: float = 315.0, altitude: float = 45.0
) -> Floats:
    """Return the light, 0 to 1, on a matt surface under a sun at `azimuth` and `altitude` in degrees.

    The cosine between the sun and the surface's normal, with Horn's gradient (see `slope`). The usual
    formula with slope and aspect angles is the same number, less exact on flat ground.
    """
    to_sun = math.radians(azimuth)
    level = math.cos(math.radians(altitude))
    sun_east, sun_south = np.float32(level * math.sin(to_sun)), np.float32(-level * math.cos(to_sun))
    sun_up = np.float32(math.sin(math.radians(altitude)))
    south, east = _gradient(elevation, cell)
    length = np.sqrt(1 + south * south + east * east)
    light = sun_up - sun_south * south - sun_east * east
    light /= length
    return np.clip(light, 0, 1, out=light)


def position(elevation: Floats, *, radius: int) -> Floats:
    """Return the topographic position index: height above the mean of the square within `radius` cells.

    A. D. Weiss, "Topographic position and landforms analysis", ESRI User Conference, 2001.
    """
    return elevation - _window_mean(elevation, radius)


def roughness(elevation: Floats, *, radius: int) -> Floats:
    """Return the standard deviation of the heights in the square within `radius` cells.

    C. H. Grohmann, M. J. Smith, C. Riccomini, "Multiscale analysis of topographic surface roughness in the
    Midland Valley, Scotland", IEEE Transactions on Geoscience and Remote Sensing 49 (2011) 1200-1213.
    """
    exact = elevation.astype(np.float64)  # the two means nearly cancel
    mean = _window_mean(exact, radius)
    exact *= exact
    variance = _window_mean(exact, radius)
    mean *= mean
    variance -= mean
    np.maximum(variance, 0, out=variance)
    return np.sqrt(variance).astype(np.float32)


LOOKS = 12
"""Number of distances that `sky_view` reads in each direction, evenly spaced in proportion."""

DIRECTIONS = 64
"""Number of directions of `sky_view`, evenly spaced."""


STRIP_CELLS = 1 << 15
"""Cells of the strips of rows that `sky_view` takes one after the other: they fit into a core's cache."""


def sky_view(elevation: Floats, *, cell: tuple[float, float], radius: int) -> Floats:
    """Return the part of the sky, 0 to 1, that is above the horizon of each cell, over all `DIRECTIONS`.

    The horizon is looked for at `LOOKS` distances or fewer, up to `radius` cells. K. Zakšek, K. Oštir,
    Ž. Kokalj, "Sky-view factor as a relief visualization technique", Remote Sensing 3 (2011) 398-415.
    """
    padded = _pad(_pad(elevation, radius, 0), radius, 1)
    rows, columns = elevation.shape
    visible = np.empty_like(elevation)
    looks = _looks(radius)
    height = max(1, STRIP_CELLS // columns)
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        strip = padded[start : stop + 2 * radius]
        visible[start:stop] = 1 - _hidden_sky(strip, cell=cell, radius=radius, looks=looks) / DIRECTIONS
    return visible


def _hidden_sky(
    padded: Floats, *, cell: tuple[float, float], radius: int, looks: list[list[tuple[int, int]]]
) -> Floats:
    """Return the sines of the heights of the horizons in all directions, added up."""
    elevation = padded[radius:-radius, radius:-radius]
    rows, columns = elevation.shape
    hidden, horizon, rise = np.zeros_like(elevation), np.empty_like(elevation), np.empty_like(elevation)
    for direction in looks:
        horizon.fill(0)
        for south, east in direction:
            row, column = radius + south, radius + east
            np.subtract(padded[row : row + rows, column : column + columns], elevation, out=rise)
            rise *= np.float32(1 / math.hypot(south * cell[0], east * cell[1]))
            np.maximum(horizon, rise, out=horizon)  # the tangent of its height
        np.multiply(horizon, horizon, out=rise)
        rise += 1
        np.sqrt(rise, out=rise)
        horizon /= rise  # the sine
        hidden += horizon
    return hidden


def _looks(radius: int) -> list[list[tuple[int, int]]]:
    """Return for each direction the cells to look at, as rows and columns from the one that looks."""
    distances = np.unique(np.geomspace(1, radius, LOOKS).round()).tolist()
    found = []
    for number in range(DIRECTIONS):
        turn = 2 * math.pi * number / DIRECTIONS
        south, east = math.sin(turn), math.cos(turn)
        found.append(sorted({(round(far * south), round(far * east)) for far in distances}))
    return found


LANDFORMS = ("valley", "lower slope", "mid slope", "upper slope", "ridge", "flat")
"""The meanings of the numbers in the result of `landforms`."""


def landforms(tpi: Floats, deviation: Floats, steepness: Floats) -> npt.NDArray[np.uint8]:
    """Return Weiss's six slope positions (see `position`), as an index into `LANDFORMS`.

    The position index is measured in local standard deviations, so that gentle and rugged country are
    judged alike: J. De Reu and others, "Application of the topographic position index to heterogeneous
    landscapes", Geomorphology 186 (2013) 39-49.
    """
    relative = np.zeros_like(tpi)
    np.divide(tpi, deviation, out=relative, where=deviation > 0)
    classes = np.zeros(tpi.shape, np.uint8)
    for threshold in (-1.0, -0.5, 0.5, 1.0):
        classes += relative > threshold
    classes[(classes == 2) & (steepness <= 5)] = 5
    return classes


def _gradient(elevation: Floats, cell: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return rise per metre towards south and towards east; `cell` is a cell's height and width in metres."""
    padded = _pad(_pad(elevation, 1, 0), 1, 1)
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    south = across[2:] - across[:-2]
    south /= np.float32(8 * cell[0])
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    east = down[:, 2:] - down[:, :-2]
    east /= np.float32(8 * cell[1])
    return south, east


def _window_mean(values: Array, radius: int) -> Array:
    """Return the mean over the square of side ``2 * radius + 1`` around each cell."""
    side = 2 * radius + 1
    for axis in (0, 1):
        values = _window_sum(_pad(values, radius, axis), side, axis)
    values /= side * side
    return values


def _window_sum(values: Array, length: int, axis: int) -> Array:
    """Return sums over windows of odd `length`, each by the same tree of additions; overwrites `values`.

    Sums over 2, 4, 8, … neighbours come from two of half the length; those that make up `length` are added.
    """
    count = values.shape[axis] - length + 1
    power, spare = values, np.empty_like(values)  # power[i] is the sum of `size` values from i on
    total = _along(power, axis, 0, count).copy()
    size, done = 1, 1
    while done < length:
        kept = power.shape[axis] - size
        doubled = _along(spare, axis, 0, kept)
        np.add(_along(power, axis, 0, kept), _along(power, axis, size, kept), out=doubled)
        power, spare = doubled, power
        size *= 2
        if length & size:
            total += _along(power, axis, done, count)
            done += size
    return total


def _pad(values: Array, reach: int, axis: int) -> Array:
    return np.pad(values, [(reach, reach) if axis == a else (0, 0) for a in range(values.ndim)], mode="edge")


def _along(values: Array, axis: int, start: int, length: int) -> Array:
    return values[start : start + length] if axis == 0 else values[:, start : start + length]
