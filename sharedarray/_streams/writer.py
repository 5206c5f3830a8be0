"""The result of ``put()``: a ``with`` statement in which a slot is written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sharedarray._streams.producer import Producer

__all__ = ["Writer"]


class Writer:
    """A context manager that gives a slot of the stream to write to.

    Attributes
    ----------
    slot : int or None
        The slot, while it is written to.
    """

    __slots__ = ("__weakref__", "_producer", "_timeout", "slot")

    def __init__(self, producer: Producer, timeout: float | None) -> None:
        self._producer = producer
        self._timeout = timeout
        self.slot: int | None = None

    def __enter__(self) -> np.ndarray[Any, Any]:
        if self.slot is not None:
            raise RuntimeError("the slot is being written to: call put() once for each item")
        return self._producer._open(self, self._timeout)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._producer._end_writing(self, publish=kind is None)
