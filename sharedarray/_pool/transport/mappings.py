"""A worker's side of recycled memory: the slots that it has mapped."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections.abc import Iterable, Sequence

import numpy as np

from sharedarray import _forks as forks
from sharedarray._platform import platform
from sharedarray._pool.transport.memory import (
    SlotView,
    Source,
    copy_into,
    map_ready,
    opened,
    write_into,
)
from sharedarray._pool.transport.messages import (
    FRESH,
    PRIVATE,
    RESULT_SLOT,
    STREAM,
    Buffer,
    Entry,
    new_entry,
)
from sharedarray._thresholds import COPIED_UP_TO

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
        # Views that have no lock yet, and where their slots are.
        self._in_use: list[tuple[weakref.ref[SlotView], Entry]] = []
        mine = weakref.ref(self)
        forks.around(__name__, before=lambda: _lock_before_fork(mine()))

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop the mappings of slots that were retired."""
        for number in numbers:
            self._mappings.pop(number, None)

    def borrow(
        self, stream: Buffer, entries: Iterable[Entry], inline: Iterable[Buffer]
    ) -> tuple[Buffer, list[Buffer]]:
        """Return the stream and the buffers of a message, writable and private to this task."""
        rest = iter(inline)
        buffers: list[Buffer] = []
        for entry in entries:
            if entry.flags & RESULT_SLOT:
                continue
            buffer = self._buffer(entry) if entry.slot else next(rest)
            if entry.flags & STREAM:
                stream = buffer
            else:
                buffers.append(buffer)
        return stream, buffers

    def _buffer(self, entry: Entry) -> Buffer:
        """Return the bytes at a place in a slot, writable and private to this task."""
        number, _, flags, size, offset, length = entry
        mapping = self._mappings.get(number) or self._mapped(entry)
        if flags & PRIVATE:
            if length <= COPIED_UP_TO:
                return bytearray(memoryview(mapping)[offset : offset + length])
            with opened(self._path(entry)) as handle:
                mapping = platform.map(mmap.mmap, handle, size, "c")
        view = SlotView(length, np.uint8, mapping, offset)
        self._in_use.append((weakref.ref(view), entry))
        return view.data

    def _path(self, entry: Entry) -> str:
        path = platform.path_of(entry.handle, self._pool)
        assert path is not None  # or the pool would have made no slots
        return path

    def lock_views(self) -> None:
        """Lock the slots that still have views. The worker calls this before it answers.

        Until it answers, the pool does not use the slots again anyway; and of nearly all, the views are gone
        by then. So a task costs no system call for its slots.

        Raises
        ------
        OSError
            This process has as many files open as it may have.
        """
        in_use = self._in_use
        while in_use:
            reference, entry = in_use[-1]
            view = reference()
            if view is not None:
                view.lock(self._path(entry))
            in_use.pop()

    def lock_for_fork(self) -> None:
        """Lock the slots that have views, which a process that is forked now may keep for longer."""
        with contextlib.suppress(OSError):  # the next `lock_views` raises it again
            for reference, entry in self._in_use:
                view = reference()
                if view is not None:
                    view.lock(self._path(entry))

    def _mapped(self, entry: Entry) -> mmap.mmap:
        """Map a slot for good, through an open file of its own: one without a lock."""
        with opened(self._path(entry)) as handle:
            mapping = self._mappings[entry.slot] = map_ready(handle, entry.size)
        return mapping

    def fill(
        self, entry: Entry, sources: Sequence[Source], lengths: Sequence[int], starts: Sequence[int]
    ) -> list[Entry]:
        """Copy the buffers of a result into a slot that was granted for it; return where they are.

        Parameters
        ----------
        entry
            The slot.
        sources, lengths, starts
            The buffers, how many bytes each has, and where it begins (see `offsets`).

        Raises
        ------
        OSError
            There is no memory for them.
        """
        number, handle_there, flags, size, _, _ = entry
        if flags & FRESH:
            with opened(self._path(entry)) as handle:
                for start, source in zip(starts, sources, strict=True):
                    write_into(handle, start, source)
        else:
            mapping = self._mappings.get(number) or self._mapped(entry)
            for start, source in zip(starts, sources, strict=True):
                copy_into(mapping, start, source)
        places = zip(starts, lengths, strict=True)
        return [new_entry(Entry, (number, handle_there, 0, size, start, length)) for start, length in places]


def _lock_before_fork(mappings: SlotMappings | None) -> None:
    if mappings is not None:
        mappings.lock_for_fork()
