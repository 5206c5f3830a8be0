"""Files without a name: how bytes get into one, how they are mapped, and who uses it."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sharedarray import _errors as errors, _registry as registry, _segment as segment
from sharedarray._platform import platform
from sharedarray._pool.transport.messages import Buffer
from sharedarray._sigint import finalize, finalizer

__all__ = [
    "ALIGNMENT",
    "SlotView",
    "Source",
    "copy_into",
    "length_of",
    "map_ready",
    "offsets",
    "opened",
    "unnamed",
    "write_into",
]

# Bytes: where a buffer starts in a slot. A cache line, and more than any dtype asks for.
ALIGNMENT = 64

# The source of a copy: bytes, or an array that need not be contiguous, in C order.
Source = Buffer | np.ndarray[Any, Any]


def length_of(source: Source) -> int:
    """Return how many bytes a source has."""
    return source.nbytes if isinstance(source, np.ndarray) else len(source)


def offsets(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Return where buffers of these lengths begin in a slot, and how long it has to be."""
    if len(lengths) == 1:
        return [0], max(lengths[0], 1)
    found: list[int] = []
    end = 0
    for length in lengths:
        found.append(end)
        end += -(-length // ALIGNMENT) * ALIGNMENT
    return found, max(end, 1)


def copy_into(mapping: mmap.mmap, start: int, source: Source) -> None:
    """Copy a buffer, or an array in C order, to a mapping, without holding other threads up."""
    if isinstance(source, np.ndarray):
        if source.dtype.hasobject:
            raise ValueError("an array of objects cannot be copied as bytes")
        np.copyto(np.ndarray(source.shape, source.dtype, mapping, start), source)
    else:
        np.copyto(np.ndarray(len(source), np.uint8, mapping, start), np.frombuffer(source, np.uint8))


def write_into(handle: int, offset: int, source: Source) -> None:
    """Write to a slot's file, which finds its pages on the way, and says when there are none left."""
    if isinstance(source, np.ndarray):
        # In pieces along the first axis, each made contiguous: no second copy of all of it.
        rows = max(1, _PIECE // max(1, source.nbytes // max(1, len(source)))) if source.ndim else 1
        for start in range(0, len(source) if source.ndim else 1, rows):
            piece = np.ascontiguousarray(source[start : start + rows] if source.ndim else source)
            platform.write(handle, offset, [piece.reshape(-1).view(np.uint8).data])
            offset += piece.nbytes
    else:
        platform.write(handle, offset, [memoryview(source).cast("B")])


_PIECE = 1 << 20


def map_ready(handle: int, size: int) -> mmap.mmap:
    """Map a slot whose pages are there already, all of them at once."""
    return platform.map(mmap.mmap, handle, size, "r+", ready=True)


class SlotView(np.ndarray[Any, Any]):
    """The bytes of a slot for as long as an array or a buffer in this process refers to them."""

    _lock: _SharedLock | None = None

    @classmethod
    def of(cls, mapping: mmap.mmap) -> SlotView:
        """Return a view of a mapping."""
        # Right on the mapping: arrays that are built on a view of a plain array take that array's base for
        # their own, and would let go of the view.
        return cls(len(mapping), np.uint8, mapping)

    def lock(self, path: str) -> None:
        """Take the shared lock that says that the slot is used, for as long as this view lives.

        A process that is forked meanwhile has the lock as well, for as long as it has the view.
        """
        if self._lock is None:
            self._lock = _SharedLock(path)


class _SharedLock:
    """A shared lock of a slot, through an open file of its own, which is closed when this object goes."""

    __slots__ = ("_handle",)

    def __init__(self, path: str) -> None:
        handle = platform.open_path_of(path)
        try:
            platform.use(handle)
        except BlockingIOError:
            platform.close(handle)
            raise errors.SharedArrayError(f"the recycled block {path} is being written to") from None
        except BaseException:
            platform.close(handle)
            raise
        self._handle = handle

    @finalizer
    def __del__(self) -> None:
        handle = getattr(self, "_handle", -1)
        if handle >= 0:
            finalize(platform.close, handle)


def unnamed(size: int) -> int | None:
    """Return the open file of new memory without a name; None if there is none to be had."""
    try:
        if not platform.shares_handles():
            return None
        directory = registry.directory()
        segment.check_free(directory, size, memory=True)
        return platform.draft_memory(directory, size, None).handle
    except OSError:
        return None


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a slot for as long as the block of code runs."""
    handle = platform.open_path_of(path)
    try:
        yield handle
    finally:
        platform.close(handle)
