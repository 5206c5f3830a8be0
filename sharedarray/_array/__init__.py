"""`SharedArray`: an ndarray whose memory is a block.

It behaves as `numpy.memmap` does. An array that shares the memory is a `SharedArray`: slices, transposes,
fields, reshapes. An array that has memory of its own is a plain array or a scalar: the results of arithmetic,
reductions, fancy indexing, `copy` and `astype`.

There is no ``__array_finalize__`` and no attribute on the array: every view finds its block by walking
``.base`` down to the mapping (`sharedarray._segment.mapping_of`), which costs nothing until it is asked for,
and cannot be lost by a view that NumPy makes by itself.

The methods of the class are in several modules, each with a base class of `SharedArray`.

===============  =========================================================================
shapes           shapes and dtypes as callers write them, by NumPy's rules
memory           where the elements of a view are in its block, and in this process
facts            the facts about an array and its block, for a notebook
cures            how else to read a block, or a file, that is no array
plain_results    methods of NumPy whose result may have memory of its own
block_methods    the block of a view: close, unlink, persist, flush, lock, reference
growth_methods   an array that grows: append, extend, refresh, follow
version_methods  versions: update, snapshot
wait_methods     notify, and wait for notices, versions and rows
exist_ok         ``exist_ok=True``: the array that has the name already
array            `SharedArray`, with NumPy's hooks; making, attaching, opening
weak_arrays      arrays that a pool closes when it ends
===============  =========================================================================
"""

from __future__ import annotations

from sharedarray._array.array import (
    SharedArray,
    attach,
    attached_again,
    from_mapping,
    is_all,
    is_replaced,
    make,
    make_growing,
    on_subclass,
    open,  # noqa: A004  (NumPy's and tarfile's habit: sharedarray.open)
    opened_as,
)
from sharedarray._array.exist_ok import if_taken, persisted
from sharedarray._array.facts import facts_of_block, facts_of_contents
from sharedarray._array.memory import Grip, address_of, bytes_behind, offset_of, start_of
from sharedarray._array.shapes import ShapeLike, as_dtype, as_shape
from sharedarray._array.weak_arrays import WeakArrays

__all__ = [
    "Grip",
    "ShapeLike",
    "SharedArray",
    "WeakArrays",
    "address_of",
    "as_dtype",
    "as_shape",
    "attach",
    "attached_again",
    "bytes_behind",
    "facts_of_block",
    "facts_of_contents",
    "from_mapping",
    "if_taken",
    "is_all",
    "is_replaced",
    "make",
    "make_growing",
    "offset_of",
    "on_subclass",
    "open",
    "opened_as",
    "persisted",
    "start_of",
]
