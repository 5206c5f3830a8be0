"""The cutting of arrays into blocks: arithmetic on shapes.

::

    axis 0, 10 rows, size 4, overlap 1          low  start      stop  high
    block 0   [████▒      ]                      0     0          4     5      █ computed
    block 1   [   ▒████▒  ]                      3     4          8     9      ▒ added to the input: the halo
    block 2   [       ▒██ ]                      7     8         10    10

Along several axes, blocks are tiles: all combinations of the spans along these axes, in C order.

An array is cut along an axis if it has the full length there. An array that has length 1 there, or fewer
axes, goes whole to every block, as in NumPy's broadcasting. Axes count as in NumPy: from the first one, or,
if negative, from the last one *of each array*, so that ``axis=-1`` of arrays of different dimensions means
the last axis of each.
"""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sharedarray._platform import platform

__all__ = ["Axes", "Block", "Sizes", "Span", "Tiling"]

Array: TypeAlias = np.ndarray[Any, Any]
Axes: TypeAlias = int | Sequence[int]
Sizes: TypeAlias = int | Sequence[int | None] | None

# Blocks for each worker: enough that a slow block delays the end of the call by a small part only.
_PER_WORKER = 8
# Bytes of the inputs in one block. A smaller block costs more to send than to compute; a larger one exceeds
# the caches of most processors.
_SMALLEST, _LARGEST = 16 << 10, 8 << 20
# The folder in which Linux describes a processor's caches.
_CACHES = "/sys/devices/system/cpu/cpu0/cache"
# Bytes of a processor's outermost cache on other systems.
_USUAL_CACHE = 16 << 20


class Span(NamedTuple):
    """Along one axis: ``start`` to ``stop`` are computed, from the input ``low`` to ``high``."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def given(self) -> int:
        """Length of the block with its halo."""
        return self.high - self.low


Block: TypeAlias = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Tiling:
    """A way to cut arrays along some axes.

    Attributes
    ----------
    axes
        The axes, as given.
    lengths
        Lengths of the arrays along these.
    sizes
        Lengths of a block along these.
    overlaps
        Lengths of the halo on either side.
    """

    axes: tuple[int, ...]
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    overlaps: tuple[int, ...]

    @classmethod
    def of(
        cls,
        arrays: Sequence[Array],
        axis: Axes,
        block_size: Sizes = None,
        overlap: int | Sequence[int] = 0,
        *,
        workers: int = 1,
    ) -> Tiling:
        """Choose blocks for arrays.

        Parameters
        ----------
        arrays
            The inputs.
        axis
            The axes along which they are cut.
        block_size
            Length of a block along each of these; None to choose one.
        overlap
            Length of the halo along each of these.
        workers
            Number of workers that should have blocks.

        Raises
        ------
        ValueError
            The arrays do not fit each other, or a number does not fit them.
        """
        axes = _whole_numbers("axis", axis)
        if not axes:
            raise ValueError("axis must name at least one axis")
        lengths = _lengths(arrays, axes)
        overlaps = _whole_numbers("overlap", overlap, len(axes), least=0)
        chosen = _sizes(block_size, len(axes))
        cut = [array for array in arrays if _is_cut(array, axes, lengths)]
        total = sum([array.nbytes for array in cut])
        if any(size is None for size in chosen):
            chosen = _fitting(chosen, lengths, overlaps, total, workers)
        sizes = tuple([max(1, min(size or 1, length)) for size, length in zip(chosen, lengths, strict=True)])
        return cls(axes, lengths, sizes, overlaps)

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of blocks along each axis; 1 along an axis of length 0."""
        return tuple(
            [max(1, -(-length // size)) for length, size in zip(self.lengths, self.sizes, strict=True)]
        )

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, number: int) -> Block:
        if not 0 <= number < len(self):
            raise IndexError(number)
        spans = []
        places = np.unravel_index(number, self.counts)
        for place, length, size, more in zip(places, self.lengths, self.sizes, self.overlaps, strict=True):
            start = int(place) * size
            stop = min(start + size, length)
            spans.append(Span(start, stop, max(0, start - more), min(length, stop + more)))
        return tuple(spans)

    def __iter__(self) -> Iterator[Block]:
        return (self[number] for number in range(len(self)))

    def cut(self, array: Array, block: Block) -> Array:
        """Return the part of an input that belongs to a block, with its halo."""
        index = [slice(None)] * array.ndim
        for axis, length, span in zip(self.axes, self.lengths, block, strict=True):
            at = _resolved(axis, array.ndim)
            if at is not None and array.shape[at] == length:
                index[at] = slice(span.low, span.high)
        return array[tuple(index)]

    def is_cut(self, array: Array) -> bool:
        """Return whether different blocks get different parts of an input."""
        return len(self) > 1 and _is_cut(array, self.axes, self.lengths)

    def target(self, output: Array, block: Block) -> Array:
        """Return the place of a block in an array that is as long as the inputs."""
        index = [slice(None)] * output.ndim
        for axis, span in zip(self.axes, block, strict=True):
            index[axis] = slice(span.start, span.stop)
        return output[tuple(index)]

    def inner(self, result: Array, block: Block) -> Array | None:
        """Return a block's result without its halo; None if it is not as long as its input."""
        places = [_resolved(axis, result.ndim) for axis in self.axes]
        index = [slice(None)] * result.ndim
        for at, span in zip(places, block, strict=True):
            if at is None or result.shape[at] != span.given:
                return None
            index[at] = slice(span.start - span.low, span.stop - span.low)
        return result[tuple(index)] if len(set(places)) == len(places) else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an output of this shape is as long as the inputs."""
        places = [_resolved(axis, len(shape)) for axis in self.axes]
        return len(set(places)) == len(places) and all(
            at is not None and shape[at] == length for at, length in zip(places, self.lengths, strict=True)
        )

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output whose blocks have this shape."""
        made = list(shape)
        for axis, length in zip(self.axes, self.lengths, strict=True):
            made[axis] = length
        return tuple(made)

    def describe(self, block: Block) -> str:
        """Return a text for messages that says which block this is."""
        spans = [f"{span.start} to {span.stop}" for span in block]
        along = ", ".join(map(str, self.axes))
        return f"{' by '.join(spans)} along {'axis' if len(self.axes) == 1 else 'axes'} {along}"


def _resolved(axis: int, dimensions: int) -> int | None:
    at = axis + dimensions if axis < 0 else axis
    return at if 0 <= at < dimensions else None


def _is_cut(array: Array, axes: Sequence[int], lengths: Sequence[int]) -> bool:
    for axis, length in zip(axes, lengths, strict=True):
        at = _resolved(axis, array.ndim)
        if at is not None and array.shape[at] == length:
            return True
    return False


def _lengths(arrays: Sequence[Array], axes: Sequence[int]) -> tuple[int, ...]:
    if not arrays:
        raise ValueError("at least one array is needed")
    shapes = ", ".join(str(array.shape) for array in arrays)
    lengths = []
    for axis in axes:
        found = [array.shape[at] for array in arrays if (at := _resolved(axis, array.ndim)) is not None]
        if not found:
            none = "" if any(array.ndim for array in arrays) else "; at least one must be an array with axes"
            raise ValueError(f"axis {axis} is not one of the arrays, whose shapes are {shapes}{none}")
        different = set(found) - {1} or {1}
        if len(different) > 1:
            raise ValueError(
                f"the arrays must have one length along axis {axis}, or length 1 to be given whole to each "
                f"block; their shapes are {shapes}. Bind an array that should not be cut to the "
                "function with functools.partial"
            )
        lengths.append(different.pop())
    for array in arrays:
        places = [at for axis in axes if (at := _resolved(axis, array.ndim)) is not None]
        if len(set(places)) < len(places):
            raise ValueError(f"axes {tuple(axes)} name one axis of an array of shape {array.shape} twice")
    return tuple(lengths)


def _whole_numbers(
    name: str, given: int | Sequence[int], count: int | None = None, least: int | None = None
) -> tuple[int, ...]:
    try:
        numbers = (
            tuple(map(operator.index, given)) if isinstance(given, Sequence) else (operator.index(given),)
        )
    except TypeError:
        raise TypeError(f"{name} must be an integer or a tuple of integers, not {given!r}") from None
    if count is not None and len(numbers) != count:
        if isinstance(given, Sequence):
            raise ValueError(f"{name} must be one number, or one for each of {count} axes, not {given!r}")
        numbers *= count
    if least is not None and min(numbers) < least:
        raise ValueError(f"{name} must be {least} or more, not {given!r}")
    return numbers


def _sizes(given: Sizes, count: int) -> tuple[int | None, ...]:
    if given is None:
        return (None,) * count
    if not isinstance(given, Sequence):
        return _whole_numbers("block_size", given, count, least=1)
    if len(given) != count:
        raise ValueError(f"block_size must be one number, or one for each of {count} axes, not {given!r}")
    return tuple([None if size is None else _whole_numbers("block_size", size, 1, 1)[0] for size in given])


def _fitting(
    given: Sequence[int | None],
    lengths: Sequence[int],
    overlaps: Sequence[int],
    total: int,
    workers: int,
) -> tuple[int, ...]:
    """Choose the sizes that are None: enough blocks for the workers, small enough for their caches.

    The longest of these axes is halved until there are enough blocks: so tiles become squares, which have the
    shortest halo.
    """
    free = [at for at, size in enumerate(given) if size is None]
    sizes = [size or max(1, length) for size, length in zip(given, lengths, strict=True)]
    there = math.prod([max(1, -(-n // size)) for n, size in zip(lengths, sizes, strict=True)])
    largest = min(_LARGEST, max(_SMALLEST, outer_cache() // (2 * workers)))
    wanted = max(-(-total // largest), min(_PER_WORKER * workers, total // _SMALLEST), workers)
    if len(free) == 1:
        at = free[0]
        parts = -(-wanted // there)
        sizes[at] = max(-(-lengths[at] // parts), 4 * overlaps[at], 1)
        return tuple(sizes)
    while there < wanted:
        can = [at for at in free if sizes[at] > max(1, 4 * overlaps[at])]
        if not can:
            break
        at = max(can, key=lambda at: sizes[at])
        sizes[at] = -(-sizes[at] // 2)
        there = math.prod([-(-n // size) for n, size in zip(lengths, sizes, strict=True)])
    return tuple(sizes)


@functools.cache
def outer_cache() -> int:
    """Return the bytes of a processor's outermost cache, as Linux describes it; elsewhere a usual size.

    Source: ``Documentation/ABI/testing/sysfs-devices-system-cpu`` of the kernel.
    """
    sizes = []
    for entry in os.listdir(_CACHES) if os.path.isdir(_CACHES) else ():
        try:
            with open(f"{_CACHES}/{entry}/size", encoding="ascii", opener=platform.opener) as file:
                text = file.read().strip()
            sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
        except (OSError, ValueError):
            continue
    return max(sizes, default=_USUAL_CACHE) or _USUAL_CACHE
