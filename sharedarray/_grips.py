"""The owner of the bytes of an array that arrived as a reference, as long as views of it live.

A kept attachment is in use for as long as its *grip* lives: an array of all its bytes, through which every
array that arrives gets its memory, so that they and all views of them refer to it. A weak reference to the
grip tells whether it lives. (The number of references to an attachment would not: free-threaded builds,
specialised bytecode, tracers and debuggers count in ways of their own.)
"""

from __future__ import annotations

import weakref
from typing import Any, TypeAlias

import numpy as np

from sharedarray._array import Grip
from sharedarray._platform import Mode
from sharedarray._segment import Mapping

Key: TypeAlias = tuple[int, int, Mode]


class Attached:
    """One attachment that is kept.

    Attributes
    ----------
    mapping
        The attachment.
    key
        Of what.
    whole
        An array of all bytes.
    grip
        A weak reference to the grip of the array that `AttachmentCache.view` made last; other arrays have the
        mapping's.
    kept
        Whether it still is.
    used
        Whether an array may look at it since `AttachmentCache.settle`, or for longer.
    turn
        The greater, the later it was wanted.
    """

    __slots__ = ("grip", "kept", "key", "mapping", "turn", "used", "whole")

    def __init__(self, key: Key, mapping: Mapping) -> None:
        self.key = key
        self.mapping = mapping
        self.whole = np.frombuffer(mapping, np.uint8)
        self.grip: weakref.ref[Grip] | None = None
        self.kept = True
        self.used = False
        self.turn = 0

    def in_use(self) -> bool:
        """Return whether an array of this process has its memory from the attachment."""
        own = self.grip
        return (own is not None and own() is not None) or grip_of(self.mapping) is not None


def gripped(mapping: Mapping) -> Any:
    """Return the grip of an attachment, with `_arriving` held."""
    grip = grip_of(mapping)
    if grip is None:
        grip = np.frombuffer(mapping, np.uint8).view(Grip)
        mapping.grips = (weakref.ref(grip),)
    return grip


def grip_of(mapping: Mapping) -> Any:
    for known in mapping.grips:
        grip = known()
        if grip is not None:
            return grip
    return None
