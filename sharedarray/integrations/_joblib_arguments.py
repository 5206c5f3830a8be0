"""A batch of joblib's calls on its way to a worker: shared copies of its arrays, maps of files, errors."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from typing import Any, TypeAlias

import numpy as np

from sharedarray import _creation as creation, _errors as errors, _reference as reference
from sharedarray._array import SharedArray, address_of
from sharedarray._pool.calls import name_of
from sharedarray._pool.codec.culprits import culprit_of_call
from sharedarray._pool.outcomes import unsendable
from sharedarray._segment import mapping_of
from sharedarray._thresholds import OUT_OF_BAND
from sharedarray.integrations._packing import unpack

__all__ = ["SharedArguments", "run_batch", "unsendable_batch"]

_MODES: dict[Any, Any] = {"r": "r", "c": "c", "r+": "r+", "w+": "r+"}

Array: TypeAlias = np.ndarray[Any, Any]


class SharedArguments:
    """The arrays that one call of Parallel has shared so far; each is kept until the caller drops its array.

    Parameters
    ----------
    limit
        Bytes from which on an array is shared; None for never.
    mode
        How workers map it.
    """

    def __init__(self, limit: int | None, mode: Any) -> None:
        self._limit = limit if mode in _MODES else None
        self._mode = _MODES.get(mode)
        self._known: dict[int, tuple[weakref.ref[Array], SharedArray]] = {}
        self._lock = threading.Lock()

    def stand_in(self, array: Array, part: bool) -> tuple[Array | FileMap, Any] | None:
        """Return what is sent in place of an array, and how the worker maps it; see `_packing.StandIn`."""
        if reference.reduce_held(array) is not None:
            return array, None
        if array.dtype.hasobject:
            return None
        file = FileMap.behind(array)
        if file is not None:
            return file, None
        if self._limit is not None and array.nbytes >= self._limit and array.nbytes and not part:
            shared = self._copy_of(array)
            if shared is not None:
                return shared, self._mode
        return (array, None) if array.nbytes >= OUT_OF_BAND else None

    def _copy_of(self, array: Array) -> SharedArray | None:
        """Return the shared copy of an array; None if it cannot be shared."""
        with self._lock:
            known = self._known.get(id(array))
            if known is not None and known[0]() is array:
                return known[1]
            try:
                shared = creation.share(array)
            except (errors.UnsupportedDTypeError, errors.OutOfSharedMemoryError):
                return None
            if self._mode == "r":
                shared.flags.writeable = False
            key, owner = id(array), weakref.ref(self)  # no cycle: the memory is free when the call is over

            def forget(gone: weakref.ref[Array]) -> None:
                here = owner()
                found = None if here is None else here._known.get(key)
                if here is not None and found is not None and found[0] is gone:
                    here._known.pop(key, None)

            self._known[key] = weakref.ref(array, forget), shared
            return shared


def _is_map(array: Any) -> bool:
    """Return whether `numpy.memmap` has made this array: it is no view of one."""
    return type(array) is np.memmap and isinstance(getattr(array, "base", None), mmap.mmap)


class FileMap:
    """A map of a file, of which other processes make one of their own.

    Parameters
    ----------
    path, mode
        The file, and how it is mapped.
    offset
        Byte in the file at which the first element is.
    shape, strides, dtype
        Of the array.
    extent
        Byte in the file from which on, and bytes for which, it is mapped.
    """

    def __init__(
        self, path: str, mode: Any, offset: int, like: tuple[Any, ...], extent: tuple[int, int]
    ) -> None:
        self.path = path
        self.mode = mode
        self.offset = offset
        self.like = like
        self.extent = extent

    @classmethod
    def behind(cls, array: Array) -> FileMap | None:
        """Return the map that an array is a view of; None if there is none, or if its pages are private."""
        base: Any = array
        while base is not None and not _is_map(base):
            base = getattr(base, "base", None)
        if base is None or base.filename is None or base.mode == "c" or not array.size:
            return None
        start = address_of(base)
        low = high = address_of(array)
        for length, stride in zip(array.shape, array.strides, strict=True):
            low, high = low + min(0, (length - 1) * stride), high + max(0, (length - 1) * stride)
        if low < start or high + array.itemsize > start + base.nbytes:
            return None
        mode = "r+" if base.mode in ("r+", "w+") and array.flags.writeable else "r"
        offset = base.offset + address_of(array) - start
        like = array.shape, array.strides, array.dtype
        return cls(os.path.abspath(base.filename), mode, offset, like, (base.offset, base.nbytes))

    def open(self) -> Array:
        """Map the file in this process; return the same array."""
        start, length = self.extent
        mapped = np.memmap(self.path, np.uint8, self.mode, start, (length,))
        shape, strides, dtype = self.like
        view = np.ndarray(shape, dtype, mapped, self.offset - start, strides)
        # A memmap, as the caller's array was; its base keeps the file mapped.
        made: Array = view.view(np.memmap)
        return made


def unsendable_batch(batch: Any, reason: Exception) -> Exception:
    """Return the outcome of a batch that cannot be pickled: the error names the argument or variable."""
    for function, args, kwargs in getattr(batch, "items", ()):
        label = name_of(function)
        culprit = culprit_of_call(function, args, kwargs, label)
        if culprit is not None:
            return unsendable(label, reason, culprit)
    return reason


def run_batch(stream: Any, found: list[Any], modes: list[Any]) -> Any:
    """Run a batch of joblib in a worker: put the arrays back in, and call it."""
    received = [_as_argument(array, mode) for array, mode in zip(found, modes, strict=True)]
    del found
    batch = unpack(stream, received)
    del received
    return batch()


def _as_argument(array: Any, mode: Any) -> Any:
    """Return the array that the batch gets for what was sent."""
    if isinstance(array, FileMap):
        return array.open()
    if mode is None:
        return array
    if mode == "c":
        array = array.reference().attach("c")
    mapping = mapping_of(array)
    if mapping is not None:
        mapping.plain = True  # in a result it is sent as data, since the caller did not share it
    return np.asarray(array)
