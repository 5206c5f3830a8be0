"""Numeric calls: the computation of one block in a worker, and the way of its result into the output.

::

    inputs:  shared already ── once to each worker, by reference ──┐
             plain ── block by block, into recycled memory ────────┤
                                                                   ▼
    worker:                              func(view, view, …) ─▶ without its halo ─▶ written into the output,
                                                                                    or sent back
    output:  shared memory ◀── the workers write into it
             plain memory  ◀── this process copies the results that were sent back, in order

**Workers write into the output directly** if no block can change the input of another one or its own. Else
the results go to temporary memory, and are copied to the output at the end: if the output overlaps an input
other than element by element, if a halo would contain results of a neighbour, or if a task that died after it
had changed its own input would be run again.

**Without an output**, one block for each worker is computed first and sent back. The first result gives the
dtype and the shape of the output. So no block is computed twice, and no worker waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from sharedarray import _creation as creation, _errors as errors, _reference as reference
from sharedarray._array import SharedArray, address_of
from sharedarray._clock import deadline_of, time
from sharedarray._executor.numeric.tiling import Axes, Block, Sizes, Tiling
from sharedarray._masked import is_masked, refuse_masked
from sharedarray._pool.calls import name_of
from sharedarray._progress import Progress, bar
from sharedarray._segment import mapping_of
from sharedarray._subclasses import PLAIN

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore
    from sharedarray._pool.sinks import Results

__all__ = ["Plan", "map_blocks", "reduce_blocks"]

T = TypeVar("T")
Array: TypeAlias = np.ndarray[Any, Any]
Casting: TypeAlias = Literal["same_kind", "safe"]

# Seconds that killed workers have to end.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The inputs (arrays, and single values such as numbers), and their blocks."""

    inputs: tuple[Array | _Scalar, ...]
    tiling: Tiling

    @classmethod
    def of(
        cls,
        given: Sequence[ArrayLike],
        axis: Axes,
        block_size: Sizes = None,
        overlap: int | Sequence[int] = 0,
        *,
        workers: int,
    ) -> Plan:
        """Choose blocks for arrays; see `Tiling.of`."""
        inputs = tuple([_input(each) for each in given])
        # For the tiling, a number is an array without axes.
        arrays = [_NO_AXES if isinstance(each, _Scalar) else each for each in inputs]
        return cls(inputs, Tiling.of(arrays, axis, block_size, overlap, workers=workers))

    @property
    def arrays(self) -> list[Array]:
        """The inputs that are arrays."""
        return [each for each in self.inputs if not isinstance(each, _Scalar)]


@dataclass(frozen=True, slots=True)
class _Scalar:
    """An input that is a single value, such as a number.

    The function gets it unchanged: in NumPy, an array without axes would decide the dtype of a result, which
    a Python number does not.
    """

    value: Any


_NO_AXES: Array = np.empty(())


def _input(given: Any) -> Array | _Scalar:
    """Return an input as an array, or as a `_Scalar` if it is a single value."""
    if isinstance(given, np.ndarray):
        return given
    if isinstance(given, np.generic | bool | int | float | complex):
        return _Scalar(given)
    refuse_masked(given, "cut into blocks")
    array = np.asarray(given)
    return array if array.ndim or hasattr(given, "__array__") else _Scalar(given)


# -- in a worker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Compute:
    """The function that each worker gets once: compute a block and return it."""

    func: Callable[..., Any]
    tiling: Tiling
    # Inputs that are shared, or single values; None for an input whose blocks come with each task.
    inputs: tuple[Array | _Scalar | None, ...]
    # The class of the output: results of this class are written with all that they have besides elements.
    keeps: type[Array]

    def views(self, block: Block, pieces: Sequence[Array]) -> list[Any]:
        """Return the arguments for the user's function."""
        rest = iter(pieces)
        return [
            next(rest)
            if each is None
            else each.value
            if isinstance(each, _Scalar)
            else self.tiling.cut(each, block)
            for each in self.inputs
        ]

    def __call__(self, *given: Any) -> Any:
        """Compute a block; its number is the last argument, behind its blocks of plain inputs."""
        block = self.tiling[given[-1]]
        return self.computed(block, self.views(block, given[:-1]))

    def computed(self, block: Block, views: Sequence[Any]) -> Array:
        """Return the result for a block, without its halo."""
        found = self.func(*views)
        refuse_masked(found, f"put blocks together when {name_of(self.func)} returns")
        result = np.asanyarray(found)
        kind = type(result)
        if not (_is_bare(kind) or issubclass(self.keeps, kind)):
            raise TypeError(
                f"{name_of(self.func)} returned a {kind.__qualname__}, of which only the elements would be "
                "kept: return numpy.asarray of it, in the unit that you want, or give an out= of that class"
            )
        inner = self.tiling.inner(result, block)
        if inner is None:
            axes, given = self.tiling.axes, tuple([span.given for span in block])
            one = len(axes) == 1
            raise ValueError(
                f"{name_of(self.func)} returned an array of shape {result.shape} for blocks of shape "
                f"{', '.join(str(np.shape(view)) for view in views)}: it must have length "
                f"{given[0] if one else given} along {'axis' if one else 'axes'} {axes[0] if one else axes}, "
                "as the blocks have. To make one value of each block, use reduce_blocks"
            )
        return inner


@dataclass(frozen=True, slots=True)
class _Write(_Compute):
    """Compute a block and write it to its place in the output, which is in shared memory."""

    output: Array
    casting: Casting

    def __call__(self, *given: Any) -> None:
        """Compute a block; its number is the last argument."""
        block = self.tiling[given[-1]]
        views = self.views(block, given[:-1])
        target = self.tiling.target(self.output, block)
        if self._straight(views, target):
            self.func(*views, out=target, casting=self.casting)
        else:
            _put(self.func, self.tiling, block, self.computed(block, views), target, self.casting)

    def _straight(self, views: Sequence[Any], target: Array) -> bool:
        """Return whether the function is a ufunc that can write into the output itself."""
        func = self.func
        if type(func) is not np.ufunc or func.nout != 1 or func.signature is not None:
            return False
        if len(views) != func.nin or type(target) not in _PLAIN:
            return False
        if any(type(view) not in _PLAIN and not isinstance(view, _NUMBERS) for view in views):
            return False
        try:
            return bool(np.broadcast_shapes(*map(np.shape, views)) == target.shape)
        except ValueError:  # the function reports it
            return False


_PLAIN = frozenset((np.ndarray, SharedArray))
_NUMBERS = (bool, int, float, complex, np.number, np.bool_)


def _is_bare(kind: type[Array]) -> bool:
    """Return whether an array of this class has nothing besides its elements that a block could change."""
    return kind in PLAIN or kind.__module__.partition(".")[0] == np.__name__


@dataclass(frozen=True, slots=True)
class _Reduce(_Compute):
    """Compute a block and return the function's result unchanged."""

    def __call__(self, *given: Any) -> Any:
        """Compute a block; its number is the last argument."""
        return self.func(*self.views(self.tiling[given[-1]], given[:-1]))


def _put(
    func: Callable[..., Any], tiling: Tiling, block: Block, result: Array, target: Array, casting: Casting
) -> None:
    """Write a block's result to its place."""
    if result.shape != target.shape:
        raise ValueError(
            f"{name_of(func)} returned an array of shape {result.shape} for {tiling.describe(block)}, but "
            f"the output has shape {target.shape} there"
        )
    try:
        np.copyto(target, result, casting=casting)
    except TypeError as error:
        if casting == "safe":
            raise TypeError(
                f"{name_of(func)} returned {result.dtype} for {tiling.describe(block)} and {target.dtype} "
                "for the first block, which does not hold it; give out=, or let the function return one dtype"
            ) from error
        raise


# -- in the pool's process -----------------------------------------------------------------------------------


class _Call:
    """One call of map_blocks or reduce_blocks, which sends its blocks to the workers."""

    def __init__(
        self,
        core: PoolCore,
        func: Callable[..., Any],
        plan: Plan,
        options: dict[str, Any],
        timeout: float | None,
        way: str,
    ) -> None:
        self.func = func
        self._way = way
        self.plan = plan
        self._core = core
        self._deadline = deadline_of(timeout)
        self._options = {**options, "deadline": self._deadline}
        self._results: Results | None = None
        self.sent_once = tuple(
            [each if isinstance(each, _Scalar) or _is_shared(each) else None for each in plan.inputs]
        )

    def done(self, job: _Compute, numbers: range) -> _Done:
        """Submit blocks; return a context manager that gives their results in order.

        If workers write the blocks into shared memory, each gets a part of its own: to write to a page for
        the first time costs a process as much as many a function.
        """
        tiling = self.plan.tiling
        inputs = zip(self.plan.inputs, self.sent_once, strict=True)
        plain = [each for each, sent_once in inputs if sent_once is None and not isinstance(each, _Scalar)]
        calls: list[tuple[Any, ...]] = [(number,) for number in numbers]
        if plain:
            # An array that goes whole to every block is the same object for all, so it is copied once.
            cut = [(array, tiling.is_cut(array)) for array in plain]
            calls = [
                (*[tiling.cut(array, tiling[number]) if parts else array for array, parts in cut], number)
                for number in numbers
            ]
        names = [str(at) for at, sent_once in enumerate(self.sent_once) if sent_once is None]
        results = self._core.intake.map(
            job,
            calls,
            label=name_of(self.func),
            way=self._way,
            noun="block",
            parted=isinstance(job, _Write),
            names=[*names, "block"],
            part_of=self._results,
            **self._options,
        )
        del calls
        if self._results is None:
            for at, sent_once in enumerate(self.sent_once):
                if isinstance(sent_once, np.ndarray):
                    self._core.statistics.shares(results.call, str(at), sent_once.nbytes)
        self._results = results
        return _Done(self._core, results, self._deadline)


class _Done:
    """The results of blocks, in order; when its ``with`` statement has raised, no block is running any more.

    A class, since `contextlib` sets attributes of the exceptions that pass through a generator, which some do
    not allow.
    """

    def __init__(self, core: PoolCore, results: Results, deadline: float | None) -> None:
        self._core = core
        self._results = results
        self._deadline = deadline

    def __enter__(self) -> Iterator[Any]:
        return self._results.in_order(self._deadline)

    def __exit__(self, kind: type[BaseException] | None, raised: object, traceback: object) -> None:
        if kind is None:
            return
        results = self._results
        results.end()
        late = self._deadline is not None and time.monotonic() >= self._deadline
        if (issubclass(kind, Exception) or results.failed) and not late:
            self._core.cancel_all(results)
            results.wait_for_all()
        else:  # Ctrl-C as well: running blocks write into memory that the caller may use otherwise
            self._core.cancel_all(results, running=True)
            with contextlib.suppress(TimeoutError):
                results.wait_for_all(time.monotonic() + _PATIENCE)


def map_blocks(
    core: PoolCore,
    func: Callable[..., ArrayLike],
    plan: Plan,
    out: Array | None,
    progress: Progress,
    options: dict[str, Any],
    timeout: float | None,
    *,
    again: bool,
) -> Array:
    """Run `Pool.map_blocks`; ``again`` tells whether a block may be computed a second time."""
    tiling = plan.tiling
    call = _Call(core, func, plan, options, timeout, "map_blocks")
    if out is not None:
        _check_output(out, tiling)
    with contextlib.ExitStack() as stack:
        shown = bar(progress, len(tiling))
        stack.callback(shown.close)
        compute = _Compute(func, tiling, call.sent_once, np.ndarray if out is None else type(out))
        begun = 0
        heads: Iterator[Any] = iter(())
        first: list[Array] = []
        casting: Casting = "same_kind"
        kind: type[Array] = np.ndarray
        if out is None:
            begun = min(core.workers, len(tiling))
            heads = stack.enter_context(call.done(compute, range(begun)))
            first.append(next(heads))
            casting = "safe"
            kind = type(first[0])
            out = work = made = _shared_if_possible(tiling.whole(first[0].shape), first[0].dtype)
            if isinstance(made, SharedArray):  # the caller does not get it, but a traceback may hold it
                stack.push(lambda kind, *_: made.close() if kind is not None else None)
        elif _undisturbed(out, plan, again):
            work = out
        elif _is_shared(out) and type(out) in _PLAIN:
            work = _shared_if_possible(out.shape, out.dtype)
            if isinstance(work, SharedArray):
                stack.callback(work.close)
        else:
            work = np.empty_like(out)

        def put(number: int, result: Array) -> None:
            block = tiling[number]
            _put(func, tiling, block, np.asanyarray(result), tiling.target(work, block), casting)

        writing = _is_shared(work) and core.writes
        job = _Write(func, tiling, call.sent_once, compute.keeps, work, casting) if writing else compute
        rest = range(begun, len(tiling))
        results = stack.enter_context(call.done(job, rest)) if rest else iter(())
        # Popped, so that the memory of a result is freed when the result is copied.
        if first:
            put(0, first.pop())
            shown.update()
        for number in range(1, begun):
            put(number, next(heads))
            shown.update()
        for number in rest:
            if writing:
                next(results)
            else:
                put(number, next(results))
            shown.update()
        if work is not out:
            np.copyto(out, work)
    return out if kind in PLAIN else out.view(kind)


def reduce_blocks(
    core: PoolCore,
    func: Callable[..., T],
    combine: Callable[[T, T], T],
    plan: Plan,
    progress: Progress,
    options: dict[str, Any],
    timeout: float | None,
) -> T:
    """Run `Pool.reduce_blocks`."""
    call = _Call(core, func, plan, options, timeout, "reduce_blocks")
    blocks = range(len(plan.tiling))
    shown = bar(progress, len(blocks))
    # No ExitStack, which from Python 3.13 on reads an attribute of the exceptions that pass through it.
    with contextlib.closing(shown):
        reduce = _Reduce(func, plan.tiling, call.sent_once, np.ndarray)
        with call.done(reduce, blocks) as results:
            so_far: T = next(results)
            shown.update()
            for result in results:
                so_far = combine(so_far, result)
                shown.update()
    return so_far


def _is_shared(array: Array) -> bool:
    """Return whether an array can be sent by reference."""
    return not array.dtype.hasobject and reference.reduce_held(array) is not None


def _shared_if_possible(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array in shared memory, or in private memory if no block can hold the dtype."""
    try:
        return creation.empty(shape, dtype)
    except errors.UnsupportedDTypeError:
        return np.empty(shape, dtype)


def _check_output(out: Array, tiling: Tiling) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, not {out!r}")
    if is_masked(out):
        raise errors.MaskedArrayError(
            "out must not be a masked array, whose mask would stay as it is",
            next_step="give its .data",
        )
    if not tiling.fits(out.shape):
        one = len(tiling.axes) == 1
        lengths, axes = (tiling.lengths[0], tiling.axes[0]) if one else (tiling.lengths, tiling.axes)
        raise ValueError(
            f"out must have length {lengths} along {'axis' if one else 'axes'} {axes}, as the inputs have; "
            f"its shape is {out.shape}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only")


def _undisturbed(out: Array, plan: Plan, again: bool) -> bool:
    """Return whether workers may write to the output while others still read the inputs."""
    ours = _view_of(out)
    for array in plan.arrays:
        if not _may_overlap(out, array):
            continue
        if any(plan.tiling.overlaps) or again or _view_of(array) != ours:
            return False
    return True


def _view_of(array: Array) -> object:
    """Return a value that is equal for two arrays of the same elements in the same order."""
    held = None if array.dtype.hasobject else reference.reduce_held(array)
    if held is not None:
        return held[1][:-1]  # whatever the class
    return address_of(array), array.shape, array.strides, array.dtype


def _may_overlap(out: Array, array: Array) -> bool:
    """Return whether two arrays may be the same memory, which may be mapped twice in this process."""
    if np.may_share_memory(out, array):
        return True
    one, other = mapping_of(out), mapping_of(array)
    if one is None or other is None or one is other:
        return False
    return (one.device, one.inode) == (other.device, other.inode)
