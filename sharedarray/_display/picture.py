"""HTML of an array's data as a small picture.

A picture is made from a sample of at most some ten thousand elements, in short runs that share a page, so
that it costs the same few milliseconds for 10 GiB as for 10 MB. Which picture::

    rows × columns × 3 or 4 colours         the image
    rows × columns                          an image of its values, the colours from dark to bright
    one long axis, fewer than 8 beside it   a line for each; if it is sampled, the range of each run
    more axes                               a histogram
    text, records, empty, one element       none
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from sharedarray._display.text import escaped
from sharedarray._thresholds import SAMPLED_FROM

__all__ = ["picture"]

Array: TypeAlias = np.ndarray[Any, Any]
_WHOLE = 1 << 14  # elements of an array up to which all are read
_RUN = 16  # neighbouring elements of a sample: of most dtypes they are in one page
_POINTS, _BINS = 256, 48  # points of a line, and bars of a histogram
_IMAGE, _COARSE = (96, 160), (48, 80)  # rows and columns of an image that are read, and of a large one
_WIDE, _HIGH = 260, 130  # pixels of a picture on the page
_LINES = 8  # lines in one picture, at most
# Dark to bright, in steps that look even, for the colour-blind as well.
_RAMP = (
    (38, 22, 77),
    (53, 64, 129),
    (40, 109, 142),
    (32, 150, 138),
    (82, 187, 108),
    (169, 212, 72),
    (250, 228, 70),
)
_STROKES = ("#2f8fd8", "#e08a1e", "#2aa876", "#c06ca0", "#8f7fd6", "#c9a500", "#d9603b", "#7f8c8d")
_FAINT = "1px solid rgba(128,128,128,.35)"


def picture(array: Array) -> str:
    """Return a small picture of the data with a caption; an empty text if there is nothing to draw."""
    if array.size < 2 or array.dtype.kind not in "biufcmM":
        return ""
    with np.errstate(all="ignore"):
        drawn, caption = _draw(array)
    if not drawn:
        return ""
    caption = f'<figcaption style="opacity:.8">{escaped(caption)}</figcaption>'
    return f'<figure style="margin:0">{drawn}{caption}</figure>'


def _draw(array: Array) -> tuple[str, str]:
    shape = array.shape
    if (
        array.ndim == 3
        and shape[2] in (3, 4)
        and min(shape[:2]) > 1
        and array.dtype in (np.uint8, np.float32, float)
    ):
        return _image(array)
    narrow = [length for length in shape if length > 1]
    if len(narrow) == 1:
        return _lines(array.reshape(1, -1) if array.flags.forc else np.squeeze(array)[np.newaxis])
    if array.ndim == 2:
        if min(shape) < _LINES and max(shape) >= 2 * _LINES:
            return _lines(array if shape[0] < shape[1] else array.T)
        return _image(array)
    return _histogram(array)


def _numbers(sample: Array) -> Array:
    """Return the elements as float64: magnitudes of complex ones, counts of times, NaN for missing ones."""
    if sample.dtype.kind in "mM":
        missing = np.isnat(sample)
        return np.where(
            missing, np.nan, sample.astype(sample.dtype.newbyteorder("=")).view(np.int64).astype(float)
        )
    if sample.dtype.kind == "c":
        sample = np.abs(sample)
    found = sample.astype(np.float64)
    found[~np.isfinite(found)] = np.nan
    return found


def _range(found: Array) -> tuple[float, float] | None:
    real = found[np.isfinite(found)]
    return (float(real.min()), float(real.max())) if real.size else None


def _caption(kind: str, sample: Array, limits: tuple[float, float], *, whole: bool) -> str:
    low, high = (f"{limit:.4g}" for limit in limits)
    of = "" if whole else f" (in a sample of {sample.size:,})"
    kind += " of magnitudes" if sample.dtype.kind == "c" else ""
    if sample.dtype.kind in "mM":
        return f"{kind}{of}"
    return f"{kind}: {low} to {high}{of}"


def _places(length: int, most: int) -> Array:
    """Return at most ``most`` indices, evenly spread from the first to the last."""
    if length <= most:
        return np.arange(length)
    return (np.arange(most) * ((length - 1) / (most - 1))).astype(np.intp)


def _runs(length: int, most: int) -> Array:
    """Return the indices of runs of neighbours, one row for each run, evenly spread."""
    run = min(_RUN, length)
    return _places(length - run + 1, most)[:, np.newaxis] + np.arange(run)


# -- an image -------------------------------------------------------------------------------------------


def _image(array: Array) -> tuple[str, str]:
    most = _IMAGE if array.nbytes < SAMPLED_FROM else _COARSE
    rows, columns = _places(array.shape[0], most[0]), _places(array.shape[1], most[1])
    sample = array[np.ix_(rows, columns)]
    whole = sample.shape[:2] == array.shape[:2]
    if array.ndim == 3:
        pixels, caption = _true_colours(sample), f"image{'' if whole else ', reduced'}"
    else:
        found = _numbers(sample)
        limits = _range(found)
        if limits is None:
            return "", ""
        pixels = _coloured(found, *limits)
        caption = _caption("values, dark to bright", sample, limits, whole=whole)
    high, wide = array.shape[:2]
    scale = min(_WIDE / wide, _HIGH / high)
    size = f'width="{max(8, round(wide * scale))}" height="{max(8, round(high * scale))}"'
    style = f"image-rendering:pixelated;max-width:none;border:{_FAINT}"
    source = f"data:image/png;base64,{_png(pixels)}"
    return f'<img alt="the data as an image" {size} style="{style}" src="{source}">', caption


def _true_colours(sample: Array) -> Array:
    if sample.dtype != np.uint8:
        sample = (np.nan_to_num(sample, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).astype(np.uint8)
    if sample.shape[2] == 3:
        opaque = np.full((*sample.shape[:2], 1), 255, np.uint8)
        sample = np.concatenate([sample, opaque], axis=2)
    return np.ascontiguousarray(sample)


def _coloured(found: Array, low: float, high: float) -> Array:
    """Return the colours of values; a value that is not finite is transparent."""
    span = high / 2 - low / 2  # halves: the difference itself may overflow
    part = (found / 2 - low / 2) / span if span > 0 else np.where(np.isnan(found), np.nan, 0.5)
    known = np.isfinite(part)
    part = np.where(known, part, 0.0).clip(0, 1)
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(part, stops, [colour[channel] for colour in _RAMP]) for channel in range(3)]
    return np.stack([*channels, known * 255.0], axis=-1).astype(np.uint8)


def _png(pixels: Array) -> str:
    """Return a PNG file of red, green, blue and opacity, in base64."""
    import zlib  # here: only notebooks ask
    from base64 import b64encode

    high, wide = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    lines = b"".join([b"\0" + row.tobytes() for row in pixels])
    about = wide.to_bytes(4, "big") + high.to_bytes(4, "big") + bytes((8, 6, 0, 0, 0))
    file = chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(lines, 6)) + chunk(b"IEND", b"")
    return b64encode(b"\x89PNG\r\n\x1a\n" + file).decode()


# -- lines and bars -------------------------------------------------------------------------------------


def _lines(array: Array) -> tuple[str, str]:
    """Draw one line for each row of a two-dimensional array with few of them."""
    count, length = array.shape
    whole = length <= _WHOLE // count
    if whole and length <= 2 * _POINTS:
        places = np.arange(length)[:, np.newaxis]
    elif whole:  # all elements, in as many equal pieces as there are points
        step = math.ceil(length / _POINTS)
        places = np.minimum(np.arange(_POINTS * step).reshape(_POINTS, step), length - 1)
    else:
        places = _runs(length, _POINTS // (2 if count > 2 else 1))
    sample = np.stack([row[places] for row in array])
    found = _numbers(sample)
    limits = _range(found)
    if limits is None:
        return "", ""
    across = places[:, 0] / max(1, length - 1) * _WIDE
    paths = [
        f'<path d="{_path(across, row, *limits)}" fill="none" stroke="{colour}" stroke-width="1.3" '
        'stroke-linejoin="round"/>'
        for row, colour in zip(found, _STROKES, strict=False)
    ]
    kind = "line" if count == 1 else f"{count} lines"
    return _svg("the data as lines", "".join(paths)), _caption(kind, sample, limits, whole=whole)


def _path(across: Array, found: Array, low: float, high: float) -> str:
    """Return a line through the lows and highs of the pieces, with gaps if no value of a piece is finite."""
    half = (high / 2 - low / 2) or 1.0
    pen, steps = "M", []
    for x, piece in zip(across, found, strict=True):
        known = piece[np.isfinite(piece)]
        if not known.size:
            pen = "M"
            continue
        heights = [known[0]] if known.size == 1 else [known[0], known.min(), known.max(), known[-1]]
        for value in heights:
            y = _HIGH - 4 - (value / 2 - low / 2) / half * (_HIGH - 8) if high > low else _HIGH / 2
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
    if len(steps) == 1:  # a single point is invisible
        steps.append("h1")
    return "".join(steps)


def _histogram(array: Array) -> tuple[str, str]:
    whole = array.size <= _WHOLE
    if whole:
        sample = array.reshape(-1)
    else:
        places = _runs(array.size, _WHOLE // _RUN).reshape(-1)
        sample = array[np.unravel_index(places, array.shape)]
    found = _numbers(sample)
    limits = _range(found)
    if limits is None:
        return "", ""
    low, high = limits
    half = (high / 2 - low / 2) or 1.0
    known = found[np.isfinite(found)]
    part = ((known / 2 - low / 2) / half).clip(0, 1)
    counts = np.bincount((part * (_BINS - 1) + 0.5).astype(np.intp), minlength=_BINS)
    wide, tallest = _WIDE / _BINS, counts.max()
    bars = [
        f'<rect x="{place * wide:.1f}" y="{_HIGH - tall:.1f}" width="{wide - 0.6:.1f}" height="{tall:.1f}"/>'
        for place, tall in enumerate(counts / tallest * (_HIGH - 6))
        if tall > 0
    ]
    return _svg("a histogram", f'<g fill="{_STROKES[0]}">{"".join(bars)}</g>'), _caption(
        "histogram", sample, limits, whole=whole
    )


def _svg(alt: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{alt}" width="{_WIDE}" '
        f'height="{_HIGH}" viewBox="0 0 {_WIDE} {_HIGH}" style="border:{_FAINT}">{body}</svg>'
    )
