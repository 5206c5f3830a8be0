"""``sharedarray demo``: terrain analysis of a measured landscape, several ways, with proof that they agree.

The data is the elevation model of the Jacksboro fault in Tennessee that matplotlib ships (344 × 403
measured heights, three arc-seconds apart), or the user's own ``.npy`` or image file. A cubic spline
resamples it to a size worth sharing, then seven stages run over it::

    elevation ── smoothed ─┬─ slope ───────┐
                           ├─ hillshade    │
                           ├─ tpi ─────────┼─ landforms
                           ├─ roughness ───┘
                           └─ sky_view

in one process over whole arrays, in one process block by block, in a ``multiprocessing.Pool`` that is sent
every block and sends every result back, and in a `sharedarray.Pool` whose workers read and write the shared
arrays in place. Every layer of each must equal the first one's, bit by bit.

The modules, bottom to top: `stages` (the arithmetic), `landscape` (the data), `contest` (the ways to run),
`picture` (the PNG), and here the command.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import sharedarray as sa
from sharedarray._demo import contest
from sharedarray._demo.landscape import (
    DemoError,
    Landscape,
    measured_landscape,
    own_landscape,
    resample,
    resampled_shape,
)
from sharedarray._demo.stages import Array, Stage, pipeline

DEFAULT_MEGACELLS = 12.0
"""Cells of the resampled landscape, in millions: 48 MB a layer, 20 seconds on two cores."""

QUICK_MEGACELLS = 4.0
"""The same with ``--quick``: a few seconds, of which each way takes more than what its start and end cost."""

SMALLEST_MEGACELLS = 0.25
"""Below this the demo does not try a smaller landscape when shared memory is short."""

BLOCKS_PER_WORKER = 20
"""So many that the temporary arrays of two workers take half of 32 MB of cache, which others use as well."""

START_PATIENCE = 60.0
"""Seconds that the workers of a pool may take to start."""

NOTABLE = 1.05
"""From which gain on blocks are said to make one process faster."""

LARGEST_ALLOCATION = (1 << 25) - (1 << 16)
"""Bytes of about the largest array of which glibc's `malloc` learns to keep the memory, see `mallopt(3)`."""

NEEDED = ("matplotlib", "tqdm")
"""The packages of the extra ``demo`` that this package needs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell `parser` what the command takes."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="a two-dimensional .npy file or an image to use as the landscape (default: a measured one)",
    )
    parser.add_argument(
        "--size",
        type=_positive_float,
        metavar="MPIX",
        help=f"cells to resample it to, in millions (default: {DEFAULT_MEGACELLS:g})",
    )
    parser.add_argument("--quick", action="store_true", help=f"the same as --size {QUICK_MEGACELLS:g}")
    parser.add_argument(
        "--workers", type=_positive_int, metavar="N", help="worker processes (default: one for each core)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("sharedarray-demo.png"),
        metavar="PNG",
        help="where to write the picture (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; return the exit status: 0, 1 when results differ, 2 when it cannot run.

    Parameters
    ----------
    args : argparse.Namespace
        What a parser that went through `add_arguments` returned.
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return _refuse("it needs matplotlib and tqdm: pip install 'numpy-sharedarray[demo]'")
    try:
        _check_output(args.output)
        landscape = measured_landscape() if args.file is None else own_landscape(args.file)
        elevation, cell, stages = _prepare(landscape, args.size, args.quick)
    except (DemoError, sa.OutOfSharedMemoryError) as error:
        return _refuse(str(error))
    workers = args.workers or _cores()
    outcomes, starts, layers = _compete(stages, elevation, workers)
    print(_table(outcomes))
    print(_explained(outcomes, workers))
    print("Not in the table, the start of the pools: " + ", ".join(starts))
    from sharedarray._demo.picture import draw  # of an extra that may be missing

    draw(landscape, layers, cell, args.output)
    print(f"Picture: {args.output}")
    if not all(outcome.equal for outcome in outcomes):
        print("sharedarray demo: the results differ", file=sys.stderr)
        return 1
    return 0


def _refuse(reason: str) -> int:
    print(f"sharedarray demo: {reason}", file=sys.stderr)
    return 2


def _check_output(output: Path) -> None:
    """Find out before the work, not after it, that the picture cannot be written."""
    if not output.parent.is_dir():
        raise DemoError(f"no directory {output.parent} to write {output.name} to")
    if output.suffix.lower() != ".png":
        raise DemoError(f"the picture is a PNG; --output {output} does not end in .png")


def _prepare(
    landscape: Landscape, size: float | None, quick: bool
) -> tuple[Array, tuple[float, float], list[Stage]]:
    """Resample the landscape into a shared array; into a smaller one if shared memory is short."""
    wanted = megacells = size or (QUICK_MEGACELLS if quick else DEFAULT_MEGACELLS)
    while True:
        shape, zoom = resampled_shape(landscape.heights.shape, megacells)
        cell = (landscape.cell[0] / zoom, landscape.cell[1] / zoom)
        stages = pipeline(zoom, cell)
        try:
            _reserve(shape, stages)
            break
        except sa.OutOfSharedMemoryError:
            if size is not None or megacells / 2 < SMALLEST_MEGACELLS:
                raise
            megacells /= 2
    if megacells < wanted:
        print(
            f"Shared memory is short: {megacells:g} instead of {wanted:g} million cells. A container gets "
            "more with --shm-size; SHAREDARRAY_DIR can name another memory file system.",
            file=sys.stderr,
        )
    elevation = sa.empty(shape, np.float32)
    resample(landscape.heights, elevation)
    measured = "{} × {}".format(*landscape.heights.shape)
    cells = "{:,} × {:,} float32".format(*shape)
    print(f"{landscape.title}: {measured} heights, resampled to {cells} ({elevation.nbytes / 1e6:,.0f} MB)")
    return elevation, cell, stages


def _reserve(shape: tuple[int, int], stages: list[Stage]) -> None:
    """Find out whether all layers fit at once; they are freed again on return."""
    _ = [sa.empty(shape, dtype) for dtype in (np.float32, *(stage.dtype for stage in stages))]


# --- The contest --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the table."""

    way: str
    seconds: float
    moved: int | None
    """Bytes of array data that went through pipes; None within one process."""

    equal: bool


def _compete(
    stages: list[Stage], shared: Array, workers: int
) -> tuple[list[Outcome], list[str], contest.Layers]:
    """Run every contestant; return their outcomes, how long the pools took to start, and the shared layers.

    All workers of a pool are up and have run a task before the clock starts. Each contestant makes its own
    result arrays while it runs.
    """
    rows = len(shared)
    halo = max(stage.halo for stage in stages)
    block_size = max(-(-rows // (BLOCKS_PER_WORKER * workers)), 2 * halo)
    private = np.array(shared, subok=False)
    names = ", ".join(stage.name for stage in stages)
    print(f"{len(stages)} stages: {names}")
    print(f"{workers} workers, blocks of {block_size} rows, halos of up to {halo} rows", flush=True)
    outcomes: list[Outcome] = []
    starts: list[str] = []

    def record(
        way: str, work: Callable[[], contest.Layers], moved: Callable[[], int] | None
    ) -> contest.Layers:
        start = time.perf_counter()
        layers = work()
        seconds = time.perf_counter() - start
        equal = all(np.array_equal(layers[name], expected[name]) for name in expected)
        outcomes.append(Outcome(way, seconds, moved and moved(), equal))
        return layers

    def started(name: str, run: Callable[..., Iterable[int]], begun: float) -> None:
        _wait_for_workers(run, workers)
        starts.append(f"{name} {time.perf_counter() - begun:.2f} s")

    _keep_freed_memory()
    expected: contest.Layers = {}
    expected = record("one process, whole arrays", lambda: contest.whole_arrays(stages, private, _bar), None)
    record("one process, in blocks", lambda: contest.in_blocks(stages, private, block_size, _bar), None)

    sent = contest.SentBytes()
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    begun = time.perf_counter()
    with multiprocessing.get_context(method).Pool(workers, _start_deaf_worker) as pickling:
        started("multiprocessing.Pool", pickling.map, begun)
        record(
            "multiprocessing.Pool, pickled blocks",
            lambda: contest.pickled_blocks(pickling, stages, private, block_size, _bar, sent),
            lambda: sent.nbytes,
        )
    begun = time.perf_counter()
    with sa.Pool(workers, initializer=_keep_freed_memory) as pool:
        started("sharedarray.Pool", pool.map, begun)
        layers = record(
            "sharedarray.Pool, shared arrays",
            lambda: contest.shared_arrays(pool, stages, shared, block_size, _bar),
            lambda: 0,
        )
    return outcomes, starts, layers


def _start_deaf_worker() -> None:
    """Ignore Ctrl-C, which comes to all processes: a worker that it ends amid a message stops all others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let `malloc` reuse the memory of temporary arrays, in every process of the contest alike.

    By default it gives that of large arrays back, and the kernel clears new pages for the next ones. It stops
    to do so when a process has freed such an array once.
    """
    np.empty(LARGEST_ALLOCATION, np.uint8)


def _wait_for_workers(run: Callable[..., Iterable[int]], workers: int) -> None:
    """Run tasks until each worker has run one."""
    deadline = time.monotonic() + START_PATIENCE
    seen: set[int] = set()
    while len(seen) < workers and time.monotonic() < deadline:
        seen.update(run(_be_up, range(2 * workers)))


def _be_up(_: int) -> int:
    """Run briefly, so that each of several such tasks starts another worker."""
    time.sleep(0.005)
    return os.getpid()


def _bar(steps: int, title: str) -> contest.Bar:
    from tqdm import tqdm  # of an extra that may be missing

    watched = sys.stderr is not None and sys.stderr.isatty()  # in a file or pipe, nothing draws over a bar
    return tqdm(
        total=steps,
        desc=f"{title:<26}",
        unit="step",
        mininterval=0.3,
        leave=False,
        dynamic_ncols=True,
        disable=not watched,
    )


def _explained(outcomes: list[Outcome], workers: int) -> str:
    """Explain in one sentence which gain is due to the blocks, and which to the processes."""
    whole, blocks, _, shared = (outcome.seconds for outcome in outcomes)
    plural = "process" if workers == 1 else "processes"
    gain = whole / blocks
    if gain >= NOTABLE:
        alone = f"make one process {gain:.2f} times as fast, as temporary arrays stay in the caches"
    else:
        alone = f"leave one process {gain:.2f} times as fast, as the rows around them are computed once more"
    return (
        f"Blocks alone {alone}; {workers} {plural} on shared arrays make it {blocks / shared:.2f} times as "
        "fast again."
    )


def _table(outcomes: list[Outcome]) -> str:
    lines = [("", "seconds", "speed", "array data piped", "same result")]
    for outcome in outcomes:
        piped = "-" if outcome.moved is None else f"{outcome.moved / 1e6:,.0f} MB"
        same = "reference" if outcome is outcomes[0] else "yes, every bit" if outcome.equal else "NO"
        ratio = f"{outcomes[0].seconds / outcome.seconds:.2f} x"
        lines.append((outcome.way, f"{outcome.seconds:.2f}", ratio, piped, same))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(rows)


def _cores() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
