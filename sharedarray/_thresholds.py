"""Sizes, in bytes, from which on data travels or is handled in another way; each with its reason.

They are here together because several modules must agree on them, and because each is a point at which two
costs are equal on some machine: a change of one is a change of all that a figure in README depends on.
"""

from __future__ import annotations

__all__ = [
    "APPENDED_BY_KERNEL",
    "BAR_FROM",
    "COPIED_UP_TO",
    "FREE_CHECKED_FROM",
    "HASHED_FROM",
    "HELD_BACK",
    "LONG_TEXT",
    "OUT_OF_BAND",
    "REUSED_FROM",
    "SAMPLED_FROM",
    "SHARED_ONCE_FROM",
    "VIEWED_FROM",
]

OUT_OF_BAND = 3 << 13
"""A buffer of this size travels beside the pickle, in recycled memory.

Below it, the pipe is as quick: to use a slot takes some 13 us on both sides, and so does copying 24 KiB into
the stream, through the pipe and out of it. joblib's backend and Dask's pools use the same size.
"""

SHARED_ONCE_FROM = 1 << 20
"""A plain array of this size that several tasks get is copied into shared memory once, and then referred to.

It is joblib's own default of ``max_nbytes``. To make a block takes some 60 us, and to attach 20 us more.
"""

COPIED_UP_TO = 1 << 20
"""A worker copies a buffer of this size at most that others may read as well; it maps a larger one privately.

To map, to copy each page at its first change and to unmap takes 25 us for 64 KiB and 110 us for 1 MiB that a
task reads; to copy to memory that is warm takes 6 and 50 us. From 2 MiB on the copy's own memory is new.
"""

VIEWED_FROM = 1 << 20
"""An instance of a subclass whose memory has this size is rebuilt around a reference, not from its bytes.

A new class with the attributes takes some 0.1 ms, about as long as to copy 1 MiB.
"""

HASHED_FROM = 4096
"""An array of this size that a function refers to is compared by its data, not by a pickle of it."""

HELD_BACK = 1024
"""A result shorter than this may wait 0.2 ms to be sent with others: a write costs more than to copy it."""

LONG_TEXT = 1 << 14
"""A text longer than this is sent on its own by `map`: rows are written under the lock of the core."""

APPENDED_BY_KERNEL = 1 << 16
"""Rows of this size are appended by a write call: it reserves pages on its way, and needs no faults."""

FREE_CHECKED_FROM = 1 << 22
"""Free memory is looked at before a block of this size is made: a look takes as long as to make one page."""

REUSED_FROM = 1 << 20
"""The pages of a block of this size are used for the next; at 256 KiB that saves nothing, at 1 MiB half."""

BAR_FROM = 1 << 26
"""A block of this size shows a progress bar if that takes long; smaller ones are filled within 0.1 s."""

SAMPLED_FROM = 1 << 25
"""The picture of an array of this size is drawn from fewer elements: each pixel may cost a page fault."""
