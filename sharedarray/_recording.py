"""Recording a stream in a file, and replaying such a file as a stream: public API only.

A recording is an ``.npy`` file of the items, and beside it one with the time stamp of each in nanoseconds
since 1970: ``run.npy`` and ``run.times.npy``. Both are written item by item with space for the length in the
header, so that the files are valid at each moment, and a kill loses at most the item that was being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import sharedarray as sa
from sharedarray._platform import platform

__all__ = ["record", "replay", "times_path"]

_HEADER = 4096  # bytes before the data: a page, so that the data of the file can be mapped by any reader
_LOOK = 0.2  # seconds between two looks whether the time is over, or a consumer has come


def times_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of the time stamps of a recording."""
    found = Path(path)
    return found.with_name(f"{found.name.removesuffix('.npy')}.times.npy")


class _Growing:
    """An ``.npy`` file to which items are appended; its header has the length of each moment."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, replace: bool) -> None:
        self.length = 0
        self._shape, self._dtype = shape, dtype
        self._file = open(  # noqa: SIM115  (closed by `close`)
            path, "wb" if replace else "xb", buffering=0, opener=platform.opener
        )
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.length, *self._shape)
        description = np.lib.format.dtype_to_descr(self._dtype)
        text = f"{{'descr': {description!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode("latin1")
        if len(text) + 11 > _HEADER:
            raise sa.UnsupportedDTypeError(
                "the dtype does not fit into the header of a recording",
                found=f"{len(text)} bytes",
                expected=f"at most {_HEADER - 11}",
                next_step="record fewer fields",
            )
        head = b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(head + text.ljust(_HEADER - 11) + b"\n")

    def append(self, item: np.ndarray[Any, Any]) -> None:
        """Append one item."""
        self._file.seek(_HEADER + self.length * item.nbytes)
        data = np.ascontiguousarray(item).reshape(-1).view(np.uint8).data if item.nbytes else b""
        while len(data):
            data = data[self._file.write(data) :]
        self.length += 1
        self._write_header()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def record(
    name: str,
    path: str | os.PathLike[str],
    *,
    count: int | None = None,
    seconds: float | None = None,
    lossless: bool | None = None,
    replace: bool = False,
) -> tuple[int, int]:
    """Write the items of a stream into a file until it ends, or Ctrl-C; return how many came and were lost.

    Parameters
    ----------
    name
        The stream.
    path
        The file, which is made; its time stamps go to `times_path`.
    count, seconds
        Where to stop; at the stream's end when None.
    lossless
        Whether the producer waits for this consumer; as the stream was made when None.
    replace
        Whether to replace files that exist.
    """
    for made in (Path(path), times_path(path)):
        if made.exists() and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(made))
    end = None if seconds is None else time.monotonic() + seconds
    with (
        sa.Stream(name, lossless=lossless) as stream,
        _Growing(Path(path), stream.shape, stream.dtype, replace=replace) as items,
        _Growing(times_path(path), (), np.dtype("<i8"), replace=replace) as times,
    ):
        with contextlib.suppress(sa.ShutDown, sa.ProducerDied, KeyboardInterrupt):
            while count is None or items.length < count:
                remaining = _LOOK if end is None else min(_LOOK, end - time.monotonic())
                if remaining <= 0:
                    break
                try:
                    item = stream.get(timeout=remaining)
                except TimeoutError:
                    continue
                times.append(np.asarray(stream.time_ns, "<i8"))
                items.append(item)
                del item
        return items.length, stream.lost


def replay(
    path: str | os.PathLike[str],
    name: str,
    *,
    rate: float | None = None,
    slots: int = 8,
    consumers: int = 1,
    loop: bool = False,
    wait: Callable[[float], object] = time.sleep,
) -> int:
    """Publish the items of a file as a stream; return how many.

    Parameters
    ----------
    path
        An ``.npy`` file; each row is an item.
    name
        The stream, which is made and closed at the end.
    rate
        Items a second. When None, as they were recorded if there are time stamps, else as fast as consumers
        take them.
    slots
        Of the stream.
    consumers
        How many consumers have to join before the first item.
    loop
        Whether to begin again at the end, until Ctrl-C.
    wait
        Called with seconds to wait.
    """
    items = np.load(path, mmap_mode="r")
    if items.ndim < 1:
        raise sa.HeaderError(
            f"{os.fspath(path)} holds a single value, no items",
            found="an array without axes",
            expected="an array whose first axis counts the items",
            next_step="sharedarray load makes a block of it",
        )
    stamps = None
    if rate is None and times_path(path).exists():
        found = np.load(times_path(path))
        if found.ndim == 1 and found.dtype.kind == "i" and len(found) >= len(items):
            stamps = found  # one more than items, if the recorder was killed in between
    published = 0
    with sa.Stream(name, items.shape[1:], items.dtype, slots=slots) as stream:
        if _consumers(name) < consumers:
            noun = "consumer" if consumers == 1 else "consumers"
            text = f"waiting for {consumers:,} {noun} of {name}; Ctrl-C ends, --consumers 0 waits for none"
            print(f"sharedarray: replay: {text}", file=sys.stderr, flush=True)
        while _consumers(name) < consumers:
            wait(_LOOK / 4)
        while True:
            begun = time.monotonic()
            for number, item in enumerate(items):
                due = 0.0
                if rate is not None:
                    due = number / rate
                elif stamps is not None:
                    due = float(stamps[number] - stamps[0]) / 1e9
                remaining = begun + due - time.monotonic()
                if remaining > 0:
                    wait(remaining)
                stream.put(item)
                published += 1
            if not loop:
                return published


def _consumers(name: str) -> int:
    return sum(len(block.stream.consumers) for block in sa.blocks() if block.name == name and block.stream)


def run_record(args: Any) -> int:
    """Run ``sharedarray record``; return the exit status."""
    path = Path(args.file)
    if path.suffix != ".npy":
        print("sharedarray: record: the file's name ends with .npy", file=sys.stderr)
        return 2
    try:
        length, lost = record(
            args.name,
            path,
            count=args.count,
            seconds=args.seconds,
            lossless=False if args.lossy else None,
            replace=args.force,
        )
    except FileExistsError as error:
        if isinstance(error, sa.SharedArrayError):
            raise
        print(f"sharedarray: record: {error.filename} exists: give --force to replace it", file=sys.stderr)
        return 1
    print(f"{length:,} items in {path}, {lost:,} lost; their times in {times_path(path)}")
    return 0


def run_replay(args: Any) -> int:
    """Run ``sharedarray replay``; return the exit status."""
    try:
        published = replay(
            args.file, args.name, rate=args.rate, slots=args.slots, consumers=args.consumers, loop=args.loop
        )
    except ValueError as error:  # too many slots
        print(f"sharedarray: replay: {error}", file=sys.stderr)
        return 2
    print(f"{published:,} items of {args.file} published as {args.name}")
    return 0
