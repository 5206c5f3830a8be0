"""Grips: by them a process knows whether arrays that arrived as references still use an attachment.

A *grip* is an array of all bytes of an attachment. Every array that arrives gets its memory from a grip, so
that the array and all views of it refer to the grip. As long as the grip lives, the attachment is in use; a
weak reference shows whether it lives. (The number of references to an attachment would not show it:
free-threaded builds, specialised bytecode, tracers and debuggers count in ways of their own.)
"""

from __future__ import annotations

import weakref
from typing import Any, TypeAlias

import numpy as np

from sharedarray._array import Grip
from sharedarray._platform import Mode
from sharedarray._segment import Mapping

Key: TypeAlias = tuple[int, int, Mode]


class CachedAttachment:
    """One attachment in an `AttachmentCache`.

    Attributes
    ----------
    mapping
        The attachment.
    key
        The block's device and inode, and the mode.
    whole
        An array of all bytes.
    grip
        A weak reference to the grip of the array that `AttachmentCache.view` made last; other arrays use the
        mapping's.
    kept
        Whether it is still in the cache.
    used
        Whether an array may have been using it since before the last `AttachmentCache.settle`, or was made
        since.
    last_use
        A number that grows with each use of the cache.
    """

    __slots__ = ("grip", "kept", "key", "last_use", "mapping", "used", "whole")

    def __init__(self, key: Key, mapping: Mapping) -> None:
        self.key = key
        self.mapping = mapping
        self.whole = np.frombuffer(mapping, np.uint8)
        self.grip: weakref.ref[Grip] | None = None
        self.kept = True
        self.used = False
        self.last_use = 0

    def in_use(self) -> bool:
        """Return whether an array of this process has its memory from the attachment."""
        own = self.grip
        return (own is not None and own() is not None) or _live_grip(self.mapping) is not None


def grip_of(mapping: Mapping) -> Any:
    """Return the grip of an attachment; make one if none lives. The caller holds a lock."""
    grip = _live_grip(mapping)
    if grip is None:
        grip = np.frombuffer(mapping, np.uint8).view(Grip)
        mapping.grips = (weakref.ref(grip),)
    return grip


def _live_grip(mapping: Mapping) -> Any:
    """Return the attachment's grip if one lives, else None."""
    for known in mapping.grips:
        grip = known()
        if grip is not None:
            return grip
    return None
