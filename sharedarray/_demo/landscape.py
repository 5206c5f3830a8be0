"""The data of the demo: measured heights, resampled to a size worth sharing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharedarray._demo.stages import Array, Floats

EARTH_RADIUS = 6_371_000.0  # metres


@dataclass(frozen=True, slots=True)
class Landscape:
    """Heights as they were measured, and what a person needs to read a map of them."""

    title: str
    heights: Floats
    cell: tuple[float, float]
    unit: str
    extent: tuple[float, float, float, float] | None = None
    """West, east, south and north in degrees, where that is known."""


class DemoError(Exception):
    """An error of the demo, in one line for the person at the terminal."""


def measured_landscape() -> Landscape:
    """Load the elevation model that matplotlib ships."""
    from matplotlib.cbook import get_sample_data  # of an extra that may be missing

    with np.load(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as sample:
        heights = sample["elevation"].astype(np.float32)
        step_x, step_y = float(sample["dx"]), float(sample["dy"])
        # In this file 'ymin' is the northern edge: the first row.
        west, east, north, south = (float(sample[key]) for key in ("xmin", "xmax", "ymin", "ymax"))
    metres = math.radians(1) * EARTH_RADIUS
    width = metres * math.cos(math.radians((north + south) / 2)) * step_x
    extent = (west, east, south, north)
    return Landscape("Jacksboro fault, Tennessee", heights, (metres * step_y, width), "m", extent)


def own_landscape(file: Path) -> Landscape:
    """Load a two-dimensional ``.npy`` file, or an image's luminance, as heights above one level."""
    values = _load_npy(file) if file.suffix in (".npy", ".npz") else _load_image(file)
    if values.ndim != 2 or min(values.shape) < 8:
        raise DemoError(
            f"{file}: a landscape has two dimensions of 8 cells or more, this has shape {values.shape}"
        )
    if values.dtype.kind not in "biuf":
        raise DemoError(f"{file}: heights are real numbers, this has dtype {values.dtype}")
    heights = np.array(values, dtype=np.float32)
    missing = ~np.isfinite(heights)
    if missing.all():
        raise DemoError(f"{file}: no finite number in it")
    heights[missing] = heights[~missing].min()
    # Heights and widths have no common unit here: draw the steepest fiftieth at 45 degrees and more.
    south, east = np.gradient(heights)
    cell = float(np.percentile(np.hypot(south, east), 98)) or 1.0
    return Landscape(file.name, heights, (cell, cell), "value")


def _load_npy(file: Path) -> Array:
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DemoError(f"{file}: {_reason(error)}") from error
    if not isinstance(values, np.ndarray):
        with values:
            names = values.files
        raise DemoError(
            f"{file}: it is an archive of arrays ({', '.join(names)}): save the landscape by itself, with "
            f"numpy.save('landscape.npy', numpy.load('{file}')[{names[0] if names else 'name'!r}])"
        )
    return values


def _reason(error: Exception) -> str:
    """Return why a file cannot be loaded, without its path, which begins the message."""
    return getattr(error, "strerror", None) or str(error)


def _load_image(file: Path) -> Array:
    from matplotlib.image import imread  # of an extra that may be missing

    try:
        pixels = np.asarray(imread(file), dtype=np.float32)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reports a broken PNG as SyntaxError
        raise DemoError(f"{file}: {_reason(error)}") from error
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[:, :, :3] @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)  # ITU-R BT.709
    elif pixels.ndim == 3:
        pixels = pixels[:, :, 0]
    return pixels * 255 if pixels.max(initial=0) <= 1 else pixels


def resampled_shape(shape: tuple[int, int], megacells: float) -> tuple[tuple[int, int], float]:
    """Return the shape of about that many million cells in the same proportion, and the zoom to it."""
    zoom = math.sqrt(megacells * 1e6 / (shape[0] * shape[1]))
    return (max(round(shape[0] * zoom), 8), max(round(shape[1] * zoom), 8)), zoom


def resample(heights: Floats, out: Array) -> None:
    """Fill `out` with the cubic spline through `heights`; where it is coarser, through means of theirs first.

    A spline's curvature is continuous, so that what the stages measure is terrain and not the old grid.
    """
    heights = shrink(heights, min(heights.shape[0] // out.shape[0], heights.shape[1] // out.shape[1]))
    coefficients = _spline_coefficients(_spline_coefficients(heights.astype(np.float64)).T).T
    rows, row_weights = _spline_taps(coefficients.shape[0], out.shape[0])
    columns, column_weights = _spline_taps(coefficients.shape[1], out.shape[1])
    for start in range(0, len(out), 64):  # a few rows at a time: temporaries stay small
        part = slice(start, start + 64)
        lines = sum(
            weight[part, None] * coefficients[tap[part]]
            for tap, weight in zip(rows, row_weights, strict=True)
        )
        out[part] = sum(weight * lines[:, tap] for tap, weight in zip(columns, column_weights, strict=True))


def shrink(values: Array, factor: int) -> Array:
    """Return means over squares of side `factor`; incomplete squares at the far edges are dropped."""
    if factor <= 1:
        return values
    rows, columns = (length // factor for length in values.shape)
    squares = values[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    means: Floats = squares.mean(axis=(1, 3), dtype=np.float32)
    return means


def _spline_coefficients(values: Array) -> Array:
    """Solve for the B-spline weights, down the columns, that pass through `values`; mirrored at the ends.

    The system is ``(c[i-1] + 4 c[i] + c[i+1]) / 6 = values[i]``: forward elimination and back substitution.
    """
    solved = values * 6
    last = len(values) - 1
    above = np.empty(len(values))
    above[0] = 2 / 4
    solved[0] /= 4
    for row in range(1, len(values)):
        below = 2 if row == last else 1
        pivot = 4 - below * above[row - 1]
        above[row] = 1 / pivot
        solved[row] = (solved[row] - below * solved[row - 1]) / pivot
    for row in range(last - 1, -1, -1):
        solved[row] -= above[row] * solved[row + 1]
    return solved


def _spline_taps(count: int, wanted: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return, for `wanted` evenly spaced points, four of `count` coefficients each, and their weights."""
    where = np.linspace(0, count - 1, wanted)
    base = np.minimum(where.astype(np.intp), count - 2)
    t = where - base
    weights = np.stack([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]) / 6
    taps = np.abs(base + np.arange(-1, 3)[:, None])  # mirrored at the first row,
    return np.where(taps >= count, 2 * (count - 1) - taps, taps), weights  # and at the last
