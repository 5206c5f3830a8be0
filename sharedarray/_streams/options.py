"""The arguments of `Stream`, and which of them a producer and a consumer take."""

from __future__ import annotations

import operator
from collections.abc import Mapping as Fields
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from sharedarray._streams import words as w

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `Stream`, where they are described."""

    name: str | None
    shape: Any = None
    dtype: DTypeLike = float
    _: KW_ONLY
    slots: int = 8
    full: str = "wait"
    lossless: bool | None = None
    history: int = 0
    takeover: bool = False
    replace: bool = False
    persist: bool = False

    def of_producer(self) -> Self:
        """Return these, checked as those of a producer."""
        if self.lossless is not None or self.history:
            raise TypeError("lossless and history are for consumers: sharedarray.Stream(name, history=…)")
        if self.takeover and self.replace:
            raise TypeError("takeover goes on with a stream, and replace makes another: give one of them")
        if isinstance(self.shape, Fields) and self.dtype is not float:
            raise TypeError(
                "a mapping of names to (shape, dtype) gives the dtype of each array: give no other"
            )
        slots = operator.index(self.slots)
        if self.full not in ("wait", "drop_oldest"):
            raise ValueError(f"full is 'wait' or 'drop_oldest', not {self.full!r}")
        if not 1 <= slots <= w.MOST_SLOTS:
            raise ValueError(f"a stream has 1 to {w.MOST_SLOTS} slots, not {slots}")
        if self.shape is None and not self.takeover:
            raise TypeError("a stream is made with a shape: sharedarray.Stream(name, shape, dtype)")
        return replace(self, slots=slots)

    def of_consumer(self) -> Self:
        """Return these, checked as those of a consumer."""
        if self.name is None:
            raise TypeError("a stream is attached to by its name")
        if self.replace or self.persist or self.slots != 8 or self.full != "wait" or self.dtype is not float:
            raise TypeError("these settings are for making a stream, which needs a shape")
        if self.lossless is not None and not isinstance(self.lossless, bool | np.bool_):
            raise TypeError(f"lossless is True, False or None, not {self.lossless!r}")
        history = operator.index(self.history)
        if history < 0:
            raise ValueError(f"history is a number of items, not {history}")
        return replace(self, history=history)
