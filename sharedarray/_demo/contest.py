"""The contestants: each runs all stages over a landscape and returns every layer.

`sharedarray._demo` measures time and compares, this module does neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.pool import Pool as PicklingPool
from typing import Any, Protocol, TypeAlias

import numpy as np

import sharedarray as sa
from sharedarray._demo.stages import Array, Stage

Layers: TypeAlias = dict[str, Array]


class Bar(AbstractContextManager["Bar"], Protocol):
    """The part of a progress bar that the contestants use."""

    def update(self, n: float | None = 1) -> bool | None:
        """Advance by `n` steps."""


Progress: TypeAlias = Callable[[int, str], Bar]
"""Makes a bar of so many steps, with a title."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows ``start:stop`` of a result, and rows ``first:last`` that it is made from."""

    start: int
    stop: int
    first: int
    last: int

    def trim(self, result: Array) -> Array:
        """Cut the halo off what a stage made of rows ``first:last``."""
        return result[self.start - self.first : self.stop - self.first]


@dataclass(slots=True)
class SentBytes:
    """Bytes of array data that went through pipes."""

    nbytes: int = 0


def blocks(rows: int, block_size: int, halo: int) -> list[Block]:
    """Divide `rows` into blocks of `block_size`, each made from up to `halo` rows more on both sides."""
    starts = range(0, rows, block_size)
    stops = [min(start + block_size, rows) for start in starts]
    return [
        Block(start, stop, max(start - halo, 0), min(stop + halo, rows))
        for start, stop in zip(starts, stops, strict=True)
    ]


def whole_arrays(stages: Sequence[Stage], elevation: Array, progress: Progress) -> Layers:
    """Return one process, each stage one call on whole arrays: the code that people write first."""
    layers: Layers = {"elevation": elevation}
    with progress(len(stages), "one process, whole arrays") as bar:
        for stage in stages:
            layers[stage.name] = stage.func(*(layers[name] for name in stage.inputs))
            bar.update()
    return layers


def in_blocks(stages: Sequence[Stage], elevation: Array, block_size: int, progress: Progress) -> Layers:
    """Return one process, block after block: the temporaries are small enough for the processor's caches."""
    layers: Layers = {"elevation": elevation}
    with progress(_steps(stages, elevation, block_size), "one process, in blocks") as bar:
        for stage in stages:
            out = layers[stage.name] = np.empty(elevation.shape, stage.dtype)
            inputs = [layers[name] for name in stage.inputs]
            for block in blocks(len(out), block_size, stage.halo):
                result = stage.func(*(array[block.first : block.last] for array in inputs))
                out[block.start : block.stop] = block.trim(result)
                bar.update()
    return layers


def pickled_blocks(
    pool: PicklingPool,
    stages: Sequence[Stage],
    elevation: Array,
    block_size: int,
    progress: Progress,
    sent: SentBytes,
) -> Layers:
    """Run ``multiprocessing.Pool``: each block goes through a pipe to a worker, and its result comes back."""
    layers: Layers = {"elevation": elevation}
    with progress(_steps(stages, elevation, block_size), "multiprocessing.Pool") as bar:
        for stage in stages:
            out = layers[stage.name] = np.empty(elevation.shape, stage.dtype)
            parts = blocks(len(out), block_size, stage.halo)
            tasks = _tasks(stage, parts, [layers[name] for name in stage.inputs], sent)
            for block, result in zip(parts, pool.imap(_run_task, tasks), strict=True):
                out[block.start : block.stop] = result
                sent.nbytes += result.nbytes
                bar.update()
    return layers


_Task: TypeAlias = tuple[Callable[..., Array], Block, list[Array]]


def _tasks(stage: Stage, parts: list[Block], inputs: list[Array], sent: SentBytes) -> Iterator[_Task]:
    for block in parts:
        arrays = [array[block.first : block.last] for array in inputs]
        sent.nbytes += sum(array.nbytes for array in arrays)
        yield stage.func, block, arrays


def _run_task(task: _Task) -> Array:
    func, block, arrays = task
    return block.trim(func(*arrays))


def shared_arrays(
    pool: sa.Pool, stages: Sequence[Stage], elevation: Array, block_size: int, progress: Progress
) -> Layers:
    """Run `sharedarray.Pool`: the workers read and write the arrays in place."""
    layers: Layers = {"elevation": elevation}
    with progress(len(stages), "sharedarray.Pool") as bar:
        for stage in stages:
            out = layers[stage.name] = sa.empty(elevation.shape, stage.dtype)
            inputs: list[Any] = [layers[name] for name in stage.inputs]
            pool.map_blocks(
                stage.func, *inputs, out=out, block_size=block_size, overlap=stage.halo, progress=False
            )
            bar.update()
    return layers


def _steps(stages: Sequence[Stage], elevation: Array, block_size: int) -> int:
    return len(stages) * math.ceil(len(elevation) / block_size)
