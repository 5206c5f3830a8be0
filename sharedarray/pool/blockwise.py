"""Arrays in blocks: how they are cut, what a worker does with one, and where the results go.

::

    plan:   lengths along one axis ──▶ blocks [start, stop), each with its halo [low, high)
    inputs: shared already? by reference. Otherwise copied into shared memory, for this call
    worker: func(view, view, …) ──▶ cut off the halo ──▶ write into the output, which is shared too

**The output is worked in directly** when it is shared memory and no block can be disturbed by another one or
by itself. Otherwise the results go to a block of the call's own, and from there to the output at the end:
when the output is plain memory, when it overlaps an input other than element by element, when a halo would
read what a neighbour has written already, and when a task that died half-way through its own input would be
run again.

**Without an output**, the first block is computed first, for its dtype and shape; that result is kept, so
nothing is computed twice.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from sharedarray import creation, reference
from sharedarray.array import SharedArray
from sharedarray.pool.engine import name_of
from sharedarray.pool.pickling import Once
from sharedarray.pool.progress import Bar, Progress, bar

if TYPE_CHECKING:
    from sharedarray.pool.engine import Engine

__all__ = ["Block", "Plan", "map_blocks", "reduce_blocks"]

T = TypeVar("T")
Array = np.ndarray[Any, Any]

# Blocks for each worker, so that one that got the slow ones does not keep the others waiting for long.
_PER_WORKER = 4
# Bytes of all inputs in one block: no more, so that a block and its temporaries stay in a processor's outer
# cache; no fewer, or handing the block out costs more than computing it.
_LARGEST = 8 << 20
_SMALLEST = 64 << 10


@dataclass(frozen=True, slots=True)
class Block:
    """Rows ``start`` to ``stop``, and the rows ``low`` to ``high`` that are given for them."""

    start: int
    stop: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The inputs, along which axis they are cut, and into what."""

    arrays: tuple[Array, ...]
    axis: int
    length: int
    blocks: tuple[Block, ...]
    overlap: int

    @classmethod
    def of(
        cls, given: Sequence[ArrayLike], axis: int, block_size: int | None, overlap: int, workers: int
    ) -> Plan:
        """Cut arrays into blocks.

        Raises
        ------
        ValueError
            The arrays do not fit each other, or a number does not fit them.
        """
        if not given:
            raise ValueError("at least one array is needed")
        arrays = tuple(array if isinstance(array, np.ndarray) else np.asarray(array) for array in given)
        for array in arrays:
            if not -array.ndim <= axis < array.ndim:
                raise ValueError(f"axis {axis} is not one of an array of shape {array.shape}")
        axis %= arrays[0].ndim
        lengths = [array.shape[axis] if axis < array.ndim else -1 for array in arrays]
        if len(set(lengths)) != 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(f"the arrays must have one length along axis {axis}; their shapes are {shapes}")
        if overlap < 0:
            raise ValueError(f"overlap must be 0 or more, not {overlap}")
        length = lengths[0]
        if block_size is None:
            block_size = _fitting_size(length, sum(array.nbytes for array in arrays), overlap, workers)
        elif block_size < 1:
            raise ValueError(f"block_size must be 1 or more, not {block_size}")
        return cls(arrays, axis, length, tuple(_cut(length, block_size, overlap)), overlap)

    def views(self, block: Block) -> list[Array]:
        """Return what a worker is given for one block."""
        return [array[_along(self.axis, block.low, block.high)] for array in self.arrays]


def _fitting_size(length: int, total: int, overlap: int, workers: int) -> int:
    row = max(1, total // max(1, length))
    for_all = -(-length // (_PER_WORKER * workers))
    size = max(min(for_all, _LARGEST // row), _SMALLEST // row, 4 * overlap, 1)
    # Even a small job is worth a block for each worker, unless it is no job at all.
    return max(1, min(size, -(-length // workers))) if total > _SMALLEST else max(1, length)


def _cut(length: int, size: int, overlap: int) -> Iterator[Block]:
    for start in range(0, max(1, length), size):  # an empty array is one empty block
        stop = min(start + size, length)
        yield Block(start, stop, max(0, start - overlap), min(length, stop + overlap))


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))


# In a worker


def _compute(func: Callable[..., ArrayLike], views: Sequence[Array], axis: int, block: Block) -> Array:
    """Return ``func``'s result for one block, without its halo."""
    result = np.asanyarray(func(*views))
    given = block.high - block.low
    if result.ndim <= axis or result.shape[axis] != given:
        raise ValueError(
            f"{name_of(func)} returned an array of shape {result.shape} for blocks of shape "
            f"{', '.join(str(view.shape) for view in views)}: it must have length {given} along axis {axis}, "
            "as the blocks have. To make one value of each block, use reduce_blocks"
        )
    return result[_along(axis, block.start - block.low, block.stop - block.low)]


def _write(
    func: Callable[..., ArrayLike], views: Sequence[Array], axis: int, block: Block, target: Array
) -> None:
    """Compute one block and put it where it belongs."""
    result = _compute(func, views, axis, block)
    if result.shape != target.shape:
        raise ValueError(
            f"{name_of(func)} returned an array of shape {result.shape} for {block.start} to {block.stop} "
            f"along axis {axis}, where the output has room for {target.shape}"
        )
    np.copyto(target, result, casting="same_kind")


def _probe(func: Callable[..., ArrayLike], views: Sequence[Array], axis: int, block: Block) -> Array:
    """Compute one block and return it in shared memory, as far as its dtype can be shared."""
    result = _compute(func, views, axis, block)
    return result if result.dtype.hasobject else creation.share(result)


def _partial(func: Callable[..., T], views: Sequence[Array]) -> T:
    return func(*views)


# In the pool's process


def map_blocks(
    engine: Engine,
    func: Callable[..., ArrayLike],
    plan: Plan,
    out: Array | None,
    progress: Progress,
    *,
    again: bool,
) -> Array:
    """Do what `Pool.map_blocks` says."""
    function = Once(func)
    label = name_of(func)
    shown = bar(progress, len(plan.blocks))
    with contextlib.ExitStack() as stack:
        stack.callback(shown.close)
        plan, given = _shared(plan, stack), plan
        blocks = deque(plan.blocks)
        work: Array
        if out is None:
            first = blocks.popleft()
            probed = engine.submit(
                _probe, (function, plan.views(first), plan.axis, first), {}, label=label
            ).result()
            out = work = _like_first(probed, plan)
            out[_along(plan.axis, first.start, first.stop)] = probed
            _close(probed)
            shown.update()
        else:
            _check_output(out, plan)
            work = out if _direct(out, given, again) else creation.empty(out.shape, out.dtype)
            if work is not out:
                stack.callback(_close, work)
        _all(
            (
                engine.submit(
                    _write,
                    (
                        function,
                        plan.views(block),
                        plan.axis,
                        block,
                        work[_along(plan.axis, block.start, block.stop)],
                    ),
                    {},
                    label=label,
                )
                for block in blocks
            ),
            shown,
        )
        if work is not out:
            np.copyto(out, work)
    return out


def reduce_blocks(
    engine: Engine, func: Callable[..., T], combine: Callable[[T, T], T], plan: Plan, progress: Progress
) -> T:
    """Do what `Pool.reduce_blocks` says."""
    function = Once(func)
    shown = bar(progress, len(plan.blocks))
    with contextlib.ExitStack() as stack:
        stack.callback(shown.close)
        plan = _shared(plan, stack)
        parts: deque[Future[T]] = deque()
        with _ended(parts):
            for block in plan.blocks:
                parts.append(engine.submit(_partial, (function, plan.views(block)), {}, label=name_of(func)))
            so_far = _next(parts, shown)
            while parts:
                so_far = combine(so_far, _next(parts, shown))
    return so_far


def _shared(plan: Plan, stack: contextlib.ExitStack) -> Plan:
    """Return the plan with every input in shared memory; the copies end with ``stack``."""
    copies: dict[int, Array] = {}
    for array in plan.arrays:
        if id(array) not in copies and not array.dtype.hasobject and reference.reduce_held(array) is None:
            copies[id(array)] = made = creation.share(array)
            stack.callback(made.close)
    return replace(plan, arrays=tuple(copies.get(id(array), array) for array in plan.arrays))


def _like_first(probed: Array, plan: Plan) -> SharedArray:
    shape = (*probed.shape[: plan.axis], plan.length, *probed.shape[plan.axis + 1 :])
    return creation.empty(shape, probed.dtype)


def _check_output(out: Array, plan: Plan) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, not {out!r}")
    if out.ndim <= plan.axis or out.shape[plan.axis] != plan.length:
        raise ValueError(
            f"out must have length {plan.length} along axis {plan.axis}, as the inputs have; its shape is "
            f"{out.shape}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only")


def _direct(out: Array, plan: Plan, again: bool) -> bool:
    """Say whether workers may write into ``out`` while others still read the inputs."""
    ours = reference.reduce_held(out)
    if ours is None:
        return False
    for array in plan.arrays:
        if not _may_overlap(out, array):
            continue
        if plan.overlap or again or reference.reduce_held(array) != ours:
            return False
    return True


def _may_overlap(out: Array, array: Array) -> bool:
    """Say whether two arrays may be the same memory, be it mapped twice in this process."""
    if np.may_share_memory(out, array):
        return True
    name = getattr(out, "name", None)
    return name is not None and name == getattr(array, "name", None)


def _close(array: Array) -> None:
    if isinstance(array, SharedArray):
        array.close()


def _all(futures: Iterator[Future[Any]], shown: Bar) -> None:
    """Wait for all, in the order in which they were given out; raise what the first of them raised."""
    pending: deque[Future[Any]] = deque()
    with _ended(pending):
        pending.extend(futures)
        while pending:
            _next(pending, shown)


def _next(pending: deque[Future[T]], shown: Bar) -> T:
    result = pending[0].result()
    pending.popleft()
    shown.update()
    return result


@contextlib.contextmanager
def _ended(futures: deque[Future[Any]]) -> Iterator[None]:
    """Leave nothing running behind an exception: what has not begun is cancelled, the rest awaited."""
    try:
        yield
    except Exception:
        for future in futures:
            future.cancel()
        wait(futures)
        raise
    except BaseException:  # Ctrl-C: do not wait
        for future in futures:
            future.cancel()
        raise
