"""A party of a stream, its producer or one of its consumers: its block, its turn, its end.

One thread at a time works with a party: it has its turn (see `sharedarray._streams.turns`). A call that
Ctrl-C breaks off repairs the state, as far as it gets. If the turn still is this thread's, the next call
repairs it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from sharedarray import _forks as forks, _segment as segment, _sigint as sigint
from sharedarray._process_end import at_process_end
from sharedarray._streams.block import Block
from sharedarray._streams.turns import FORKED, Turn
from sharedarray._wakers import Fence

__all__ = ["Party", "live"]

_live: list[weakref.ref[Party]] = []  # all that are not closed


class Party:
    """The common part of producers and consumers, besides their calls."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slots: int

    _block: Block
    _closed: bool

    def _begin(self) -> None:
        """Set up the state that producers and consumers have in common."""
        self._turn: Turn = {}
        self._renew_fence()

    def _renew_fence(self) -> None:
        self._fence = Fence()

    def _use(self, block: Block) -> None:
        self._block = block
        self.name = block.mapping.name
        self.shape, self.dtype, self.slots = block.shape, block.dtype, block.slots

    def _register(self) -> None:
        """Register this object for the end of the process and for forks."""
        _live[:] = [reference for reference in _live if reference() is not None]
        _live.append(weakref.ref(self))

    def _repair(self) -> None:
        """Repair the state after a call was broken off, and give back the turn."""
        raise NotImplementedError

    def _repair_in_child(self) -> None:
        """Set up the state for the first call in a forked child."""
        raise NotImplementedError

    def _in_child(self) -> None:
        """Prepare for the next call in a forked child."""
        self._renew_fence()
        self._turn[0] = FORKED

    def _start(self) -> int:
        """Return the position with which a copy of this stream in another process begins."""
        raise NotImplementedError

    def close(self) -> None:
        """End the stream, as its producer, or leave it, as a consumer. Idempotent.

        Consumers get the items that are left, and then `ShutDown`; an iteration ends. Arrays that a consumer
        got stay as they are.

        Examples
        --------
        >>> import sharedarray as sa
        >>> writer, reader = sa.Stream("closed_stream", 1), sa.Stream("closed_stream")
        >>> writer.put([1.0])
        >>> writer.close()
        >>> [item.tolist() for item in reader]  # and then it ends
        [[1.0]]
        >>> reader.close()
        """
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """True if this side is closed."""
        return self._closed

    def unlink(self) -> None:
        """Remove the stream's name now. Its producer and consumers keep it until they close.

        Raises
        ------
        BlockNotFoundError
            The name is gone, or leads to another block.

        Examples
        --------
        >>> import sharedarray as sa
        >>> writer = sa.Stream("unlinked_stream", 1)
        >>> writer.unlink()
        >>> sa.exists("unlinked_stream")
        False
        >>> writer.close()
        """
        segment.unlink_mapping(self._block.mapping)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @sigint.finalizer
    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            sigint.finalize(self.close)

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"{type(self).__name__}({self.name!r}, shape={self.shape}, dtype={self.dtype}{state})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the facts, a picture of the last item, and the parties."""
        from sharedarray._streams.view import html_of  # here: only notebooks ask

        title = f"{type(self).__name__} of a stream"
        if self._closed:
            return f"<div>{title}, closed</div>"
        return html_of(title, self.name, self._block)


@at_process_end
def _close_all() -> None:
    for reference in _live[:]:
        stream = reference()
        if stream is not None:
            stream.close()


def _after_fork_in_child() -> None:
    for reference in _live[:]:
        stream = reference()
        if stream is not None:
            stream._in_child()


def live() -> Iterable[Party]:
    """Return the streams of this process that were not collected."""
    return [stream for reference in _live[:] if (stream := reference()) is not None]


forks.around(__name__, in_child=_after_fork_in_child)
