"""The first content of a new block: zeros, copies of buffers, or the output of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from sharedarray import _freelist as freelist
from sharedarray._platform import platform
from sharedarray._progress import Bar, silent

_STEP = 1 << 26  # bytes between two updates of a progress bar


Write: TypeAlias = Callable[
    [int, Sequence[memoryview]], None
]  # called with an offset, and buffers to write there
Copy: TypeAlias = Callable[[int, int, Sequence[memoryview]], None]  # the same, with a handle first


class Content:
    """The content of a new block, and the bar that shows its progress.

    Parameters
    ----------
    size, buffers, fill, parts
        As for `create`.
    shown
        The bar.
    """

    def __init__(
        self,
        size: int,
        buffers: Sequence[memoryview],
        fill: Callable[[Write], None] | None,
        shown: Bar,
        parts: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.size = size
        self.parts = parts
        self.pages = size if parts is None else sum(end - start for start, end in parts)
        self._buffers = buffers
        self._fill = fill
        self._shown = shown

    def put(self, handle: int, pages: freelist.Pages | None = None) -> None:
        """Fill a draft. After it, all pages of the draft are reserved and its bytes are written.

        Parameters
        ----------
        handle
            The draft.
        pages
            The bytes of a draft whose pages are there already, and may have other content.
        """
        copy: Copy = platform.write if pages is None else pages.write
        write: Copy = copy if silent(self._shown) else partial(self._write, copy)
        if self.parts is not None:
            platform.reserve_parts(handle, self.size, self.parts)
        if self._fill is not None:
            write(handle, 0, self._buffers)
            self._fill(partial(write, handle))
        elif sum(map(len, self._buffers)) == self.size:
            write(handle, 0, self._buffers)
        else:
            if pages is None and self.parts is None:
                self._reserve(handle)
            copy(handle, 0, self._buffers)
        if pages is not None:
            pages.clear_to(self.size)

    def _reserve(self, handle: int) -> None:
        if silent(self._shown):
            platform.reserve(handle, self.size)
            return
        for start in range(0, self.size, _STEP):
            end = min(start + _STEP, self.size)
            platform.reserve(handle, end, start)
            self._shown.update(end - start)

    def _write(self, copy: Copy, handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            for start in range(0, len(buffer), _STEP):
                piece = buffer[start : start + _STEP]
                copy(handle, offset, [piece])
                offset += len(piece)
                self._shown.update(len(piece))
