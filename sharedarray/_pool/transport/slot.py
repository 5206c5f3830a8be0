"""One slot, seen from the pool: how it is filled, whether it is in use, and where its buffers are."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable, Sequence

from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._pool.transport.memory import SlotView, Source, copy_into, map_ready, write_into
from sharedarray._pool.transport.messages import FRESH, Entry, new_entry
from sharedarray._sigint import finalize, finalizer

__all__ = ["Slot"]


class Slot:
    """One piece of recycled memory, seen from the pool.

    Attributes
    ----------
    number
        Never used twice in a store.
    handle
        Its open file; -1 once retired.
    size
        Bytes.
    fresh
        Whether no process has written to it yet.
    busy
        Whether it is taken.
    filling
        Whether a thread is copying to it.
    message
        What was sent in it, for as long as a worker may read it: see `send_with`.
    view
        The view of it in this process.
    used
        When it was last taken, in seconds of the monotonic clock.
    """

    __slots__ = (
        "_at_end",
        "busy",
        "filling",
        "fresh",
        "handle",
        "mapping",
        "message",
        "number",
        "path",
        "size",
        "used",
        "view",
    )

    def __init__(self, number: int, handle: int, size: int) -> None:
        self.number = number
        self.handle = handle
        self.path = platform.path_of(handle) or ""
        self.size = size
        self.fresh = True
        self.busy = True
        self.filling = False
        self.message: Callable[[], object | None] = _nothing
        self.view: Callable[[], SlotView | None] = _nothing
        self._at_end: object = None
        self.used = time.monotonic()
        self.mapping: mmap.mmap | None = None

    def entry(self, flags: int = 0, offset: int = 0, length: int = 0) -> Entry:
        """Return the entry of a table that says where a buffer in this slot is."""
        if self.fresh:
            flags |= FRESH
        return new_entry(Entry, (self.number, self.handle, flags, self.size, offset, length))

    def close(self) -> None:
        """Close its file; what is mapped of it stays. Idempotent."""
        if self.handle >= 0:
            platform.close(self.handle)
        self.handle = -1
        self.mapping = None

    @property
    def in_use(self) -> bool:
        """True if this process, or a worker that has not answered, uses it."""
        return self.busy or self.message() is not None or self.view() is not None

    def mapped(self) -> mmap.mmap:
        """Return its bytes in this process."""
        if self.mapping is None:
            self.mapping = map_ready(self.handle, self.size)
        return self.mapping

    def send_with(self, message: object) -> None:
        """Keep it in use for as long as an object lives, which must be until the worker has answered."""
        self.message = weakref.ref(message)
        self.busy = False

    def fill(self, sources: Sequence[Source], starts: Sequence[int]) -> None:
        """Copy buffers to these offsets."""
        if self.fresh:
            for start, source in zip(starts, sources, strict=True):
                write_into(self.handle, start, source)
            self.fresh = False
            return
        mapping = self.mapping or self.mapped()
        for start, source in zip(starts, sources, strict=True):
            copy_into(mapping, start, source)

    def borrow(self) -> memoryview:
        """Return its bytes, and keep it in use for as long as a view of them lives."""
        view = self.view()
        if view is None:
            view = SlotView.of(self.mapped())
            self.view = weakref.ref(view)
        return view.data

    def call_at_end(self, function: Callable[[], object]) -> None:
        """Arrange that a function is called when the view in this process ends, if there is one."""
        view = self.view()
        if view is None:
            return

        @finalizer
        def ended(_: object) -> None:
            finalize(function)

        self._at_end = weakref.ref(view, ended)

    def put_back(self) -> None:
        """Note that no message needs it any more; views and locks may still keep it in use."""
        self.busy = False
        self.message = _nothing

    def lock_view(self) -> None:
        """Lock it for as long as the view in this process lives, and in a process that is forked now."""
        view = self.view()
        if view is None or self.handle < 0:
            return
        try:
            view.lock(self.path)
        except OSError:  # no file can be opened: it stays in use
            self.busy = True


def _nothing() -> None:
    return None
