"""HTML of several named arrays, in the manner of an xarray dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from sharedarray._display.picture import picture
from sharedarray._display.tables import card, values
from sharedarray._display.text import escaped, human

__all__ = ["dataset"]

Array: TypeAlias = np.ndarray[Any, Any]

_LISTED = 100  # arrays that are shown
_PICTURED = 24  # arrays with a picture; each reads a sample of its data
_PREVIEW = 4  # elements at the beginning and the end of an array


def dataset(
    title: str,
    facts: Sequence[tuple[str, str]],
    arrays: Mapping[str, Array],
    *,
    dims: Mapping[str, Sequence[str]],
    coords: Sequence[str],
    attrs: Mapping[str, Any],
    member_attrs: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return named arrays by sections: dimensions, coordinates, data variables and attributes.

    Parameters
    ----------
    title, facts
        As for `card`.
    arrays
        By name, in order.
    dims
        Names of the axes of arrays, as far as they have some.
    coords
        The names of those arrays that are coordinates.
    attrs, member_attrs
        Attributes of all, and of single arrays.
    """
    lengths: dict[str, int] = {}
    for name, axes in dims.items():
        lengths.update(zip(axes, arrays[name].shape, strict=True))
    rows = {
        name: _row(
            name, array, dims.get(name), member_attrs.get(name, {}), number < _PICTURED, name in coords
        )
        for number, (name, array) in zip(range(_LISTED), arrays.items(), strict=False)
    }
    sections = []
    if lengths:
        said = ", ".join([f"{name}: {length:,}" for name, length in lengths.items()])
        sections.append(f"<div><b>Dimensions:</b> ({escaped(said)})</div>")
    if coords:
        sections.append(_section("Coordinates", len(coords), [rows[name] for name in coords if name in rows]))
    others = [row for name, row in rows.items() if name not in coords]
    more = len(arrays) - _LISTED
    if more > 0:
        others.append(f"<div>{more:,} more are not shown.</div>")
    sections.append(_section("Data variables", len(arrays) - len(coords), others))
    sections.append(_section("Attributes", len(attrs), [_attributes(attrs)] if attrs else []))
    return card(title, facts, below="".join(sections))


def _section(title: str, count: int, rows: Sequence[str]) -> str:
    return (
        f"<details{' open' if rows else ''}><summary><b>{escaped(title)}:</b> ({count:,})</summary>"
        f'<div style="margin-left:1em">{"".join(rows)}</div></details>'
    )


def _row(
    name: str,
    array: Array,
    axes: Sequence[str] | None,
    attrs: Mapping[str, Any],
    pictured: bool,
    coordinate: bool,
) -> str:
    shape = f"({', '.join(axes)}) {array.shape}" if axes else str(array.shape)
    shown = f"<b>{escaped(name)}</b>" if coordinate and axes and list(axes) == [name] else escaped(name)
    inside = (picture(array) if pictured else "") + (_attributes(attrs) if attrs else "") + values(array)
    return (
        f"<details><summary>{shown} &nbsp; {escaped(shape)} &nbsp; {escaped(str(array.dtype))} &nbsp; "
        f"{escaped(human(array.nbytes))} &nbsp; <code>{escaped(_preview(array))}</code></summary>"
        f'<div style="margin-left:1em">{inside}</div></details>'
    )


def _preview(array: Array) -> str:
    """Return the first and the last elements as text."""
    with np.errstate(all="ignore"):
        if array.size <= 2 * _PREVIEW:
            return " ".join([str(each) for each in array.flat])
        first = [str(array[np.unravel_index(number, array.shape)]) for number in range(_PREVIEW)]
        last = [
            str(array[np.unravel_index(number, array.shape)])
            for number in range(array.size - _PREVIEW, array.size)
        ]
    return f"{' '.join(first)} ... {' '.join(last)}"


def _attributes(attrs: Mapping[str, Any]) -> str:
    rows = "".join(
        [f"<dt>{escaped(name)}</dt><dd>{escaped(str(value))}</dd>" for name, value in attrs.items()]
    )
    return f'<dl style="margin:.3em 0">{rows}</dl>'
