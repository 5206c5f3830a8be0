"""A worker's side of recycled memory: the slots that it has mapped."""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Iterable, Sequence

from sharedarray._platform import platform
from sharedarray.pool.transport.memory import (
    SlotView,
    Source,
    copy_into,
    length_of,
    map_ready,
    offsets,
    opened,
    write_into,
)
from sharedarray.pool.transport.messages import FRESH, PRIVATE, Buffer, Entry

__all__ = ["SlotMappings"]


class SlotMappings:
    """The slots that a worker has mapped.

    Parameters
    ----------
    pool
        The process id of the pool.
    """

    def __init__(self, pool: int) -> None:
        self._pool = pool
        self._mappings: dict[int, mmap.mmap] = {}
        # Views that have no lock yet, and the paths of their slots.
        self._borrowed: list[tuple[weakref.ref[SlotView], str]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._lock_before_fork)

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop the mappings of slots that were retired."""
        for number in numbers:
            self._mappings.pop(number, None)

    def borrow(self, entries: Iterable[Entry], inline: Iterable[Buffer]) -> list[Buffer]:
        """Return the buffers of a table of entries, writable and private to this task."""
        rest = iter(inline)
        views: dict[tuple[int, int], memoryview] = {}
        found: list[Buffer] = []
        for entry in entries:
            if not entry.slot:
                found.append(next(rest))
                continue
            key = entry.slot, entry.flags & PRIVATE
            if key not in views:
                views[key] = self._view(entry)
            found.append(views[key][entry.offset : entry.offset + entry.length])
        return found

    def _path(self, entry: Entry) -> str:
        path = platform.path_of(entry.handle, self._pool)
        assert path is not None  # or the pool would have made no slots
        return path

    def _view(self, entry: Entry) -> memoryview:
        path = self._path(entry)
        if entry.flags & PRIVATE:
            with opened(path) as handle:
                mapping = platform.map(mmap.mmap, handle, entry.size, "c")
        else:
            mapping = self._mapping(entry)
        view = SlotView.of(mapping)
        self._borrowed.append((weakref.ref(view), path))
        return view.data

    def lock_views(self) -> None:
        """Lock the slots that still have views. The worker calls this before it answers.

        Until it answers, the pool does not use the slots again anyway; and of nearly all, the views are gone
        by then. So a task costs no system call for its slots.

        Raises
        ------
        OSError
            This process has as many files open as it may have.
        """
        borrowed = self._borrowed
        while borrowed:
            view = borrowed[-1][0]()
            if view is not None:
                view.lock(borrowed[-1][1])
            borrowed.pop()

    def _lock_before_fork(self) -> None:
        """Lock the slots that have views, which the process that is forked may keep for longer."""
        with contextlib.suppress(OSError):  # the next `lock_views` raises it again
            for reference, path in self._borrowed:
                view = reference()
                if view is not None:
                    view.lock(path)

    def _mapping(self, entry: Entry) -> mmap.mmap:
        """Return the slot as it is mapped for good, through an open file of its own: one without a lock."""
        mapping = self._mappings.get(entry.slot)
        if mapping is None:
            with opened(self._path(entry)) as handle:
                mapping = self._mappings[entry.slot] = map_ready(handle, entry.size)
        return mapping

    def fill(self, entry: Entry, sources: Sequence[Source]) -> list[Entry]:
        """Copy the buffers of a result into a slot that was granted for it; return where they are.

        Raises
        ------
        OSError
            There is no memory for them.
        """
        lengths = [length_of(source) for source in sources]
        starts, _ = offsets(lengths)
        if entry.flags & FRESH:
            with opened(self._path(entry)) as handle:
                for start, source in zip(starts, sources, strict=True):
                    write_into(handle, start, source)
        else:
            mapping = self._mapping(entry)
            for start, source in zip(starts, sources, strict=True):
                copy_into(mapping, start, source)
        return [
            entry._replace(flags=0, offset=start, length=length)
            for start, length in zip(starts, lengths, strict=True)
        ]
