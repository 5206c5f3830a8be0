"""Files without a name: how bytes get into one, how they are mapped, and who uses it."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from sharedarray import errors, registry, segment
from sharedarray._platform import platform
from sharedarray.interrupts import finalize, finalizer
from sharedarray.pool.transport.messages import Buffer

__all__ = [
    "ALIGNMENT",
    "SlotView",
    "Source",
    "copy_into",
    "length_of",
    "map_ready",
    "offsets",
    "opened",
    "opened_shared",
    "unnamed",
    "write_into",
]

# Bytes: where a buffer starts in a slot. A cache line, and more than any dtype asks for.
ALIGNMENT = 64

# What is copied: bytes, or an array that need not be contiguous, in C order.
Source = Buffer | np.ndarray[Any, Any]


def length_of(source: Source) -> int:
    """Return how many bytes a source has."""
    return source.nbytes if isinstance(source, np.ndarray) else len(source)


def offsets(lengths: Iterable[int]) -> tuple[list[int], int]:
    """Return where buffers of these lengths begin in a slot, and how long it has to be."""
    found, end = [], 0
    for length in lengths:
        found.append(end)
        end += -(-length // ALIGNMENT) * ALIGNMENT
    return found, max(end, 1)


def copy_into(target: memoryview, source: Source) -> None:
    """Copy a buffer, or an array in C order, without holding other threads up."""
    if isinstance(source, np.ndarray):
        np.copyto(np.frombuffer(target, source.dtype).reshape(source.shape), source)
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


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

    _handle = -1
    _at_end: Callable[[], object] | None = None

    @classmethod
    def of(cls, mapping: mmap.mmap, handle: int, at_end: Callable[[], object] | None = None) -> SlotView:
        """Return the view of a mapping; ``handle`` has the lock, and is closed at the end."""
        # Right on the mapping: arrays that are built on a view of a plain array take that array's base for
        # their own, and would let go of the view.
        view = cls(len(mapping), np.uint8, mapping)
        view._at_end = at_end
        view._handle = handle
        return view

    @finalizer
    def __del__(self) -> None:
        if self._handle >= 0:
            finalize(self._give_back)

    def _give_back(self) -> None:
        handle, self._handle = self._handle, -1
        platform.close(handle)
        if self._at_end is not None:
            self._at_end()


def opened_shared(path: str) -> int:
    """Open a slot and take the shared lock that says that it is used."""
    handle = platform.open_path_of(path)
    try:
        platform.use(handle)
    except BlockingIOError:
        platform.close(handle)
        raise errors.SharedArrayError(f"the recycled block {path} is being written to") from None
    except BaseException:
        platform.close(handle)
        raise
    return handle


def unnamed(size: int) -> int | None:
    """Return the open file of new memory without a name; None if there is none to be had."""
    try:
        if not platform.shares_handles():
            return None
        directory = registry.directory()
        segment.check_room(directory, size, memory=True)
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
