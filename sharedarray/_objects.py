"""Any picklable object in one block: `put` and `get`.

The bytes of such a block are drawn in `sharedarray._object_layout`.

**What is rebuilt** looks at the block itself, by a private mapping (copy-on-write): nothing is copied until
a write, and then only the pages that are written, which no other process sees. An array that was read-only is
so again. The block lives while anything looks at it: each buffer leads to the mapping, and so to its lease.

**Unpickling runs code**, so a user that can write a block can run code in each process that gets it.
`get` refuses a block that belongs to another user, or that another user may write, by looking at the open
block itself, before it reads a byte. Blocks are made with mode 0600; a group or an access list that may write
shows in the mode.

Other things that `put` sees to: what the reader could not import travels by value, as it does to workers; an
array that is not contiguous is made so; a `SharedArray` inside goes in with its data, for the block has to be
whole when that one is gone.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from functools import lru_cache
from typing import Any

import numpy as np

from sharedarray import _errors as errors, _header as header, _segment as segment
from sharedarray._array import SharedArray, from_mapping
from sharedarray._header import PAGE
from sharedarray._object_layout import decode, encode
from sharedarray._platform import Mode, platform
from sharedarray._progress import Progress
from sharedarray._segment import BlockOptions, Mapping, mapping_of
from sharedarray._subclasses import PLAIN, reduce_subclass

__all__ = ["get", "put"]

_PROTOCOL = 5


# -- putting --------------------------------------------------------------------------------------------


def put(
    obj: object, name: str | None = None, *, persist: bool = False, progress: Progress = None
) -> SharedArray:
    """Store an object in a new block, from which any process of this user gets it by name.

    Parameters
    ----------
    obj : object
        Anything that can be pickled: a pandas frame, a sparse matrix, a fitted model, a dict of arrays.
        Functions and classes that others cannot import (those of a script or notebook) go in by value.
    name : str, optional
        One path component; a random name if None.
    persist : bool, default False
        Whether the block outlives its holders until `unlink`.
    progress : bool or mapping, optional
        As for `empty`.

    Returns
    -------
    SharedArray
        A handle: the block's bytes, read-only. It has the `name`, and holds the block until it is closed or
        dropped. It may be sent to other processes, as every shared array, and be given to `get`. It shows the
        call of `get` and not its bytes.

    Raises
    ------
    BlockExistsError, OutOfSharedMemoryError, InvalidNameError
        As for `empty`; nothing is left behind.
    NotPicklableError
        A part of the object cannot be pickled, such as a lock or an open file (a `pickle.PicklingError`).

    See Also
    --------
    share : For an array, which others then see as such, and may write.

    Notes
    -----
    The object is stored as it is now: a copy is made of its arrays, those in shared memory included.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> held = sa.put({"weights": np.arange(3.0), "labels": ["a", "b"]}, name="model_of_put")
    >>> held.name
    'model_of_put'
    >>> model = sa.get("model_of_put")  # in any process
    >>> model["labels"], model["weights"].tolist()
    (['a', 'b'], [0.0, 1.0, 2.0])
    """
    if name is not None:
        segment.check_name(name)
    try:
        stream, buffers = _pickled(obj)
    except (TypeError, pickle.PicklingError, AttributeError) as reason:
        raise _unstorable(obj, reason) from reason
    head, starts, size = encode(stream, [buffer.nbytes for buffer in buffers])
    page = header.encode(np.dtype(np.uint8), (size - PAGE,), fortran=False)

    def fill(write: segment.Write) -> None:
        write(0, [memoryview(page), memoryview(head)])
        for start, buffer in zip(starts, buffers, strict=True):
            write(start, [buffer])

    mapping = segment.create(size, BlockOptions(name, persist, progress=progress, kind="object"), fill=fill)
    stored = from_mapping(mapping, header.decode(page, size, name=mapping.name))
    stored.flags.writeable = False
    return stored


def _unstorable(obj: object, reason: Exception) -> errors.NotPicklableError:
    """Return the error for an object that cannot be pickled, because of a part of it perhaps."""
    from sharedarray._pool.codec.culprits import culprit_of_object  # few programs need it

    found, cause, cure = f"{type(reason).__name__}: {reason}", None, None
    culprit = culprit_of_object(obj)
    if culprit is not None:
        found, cause, cure = culprit.described(found), culprit.cause, culprit.stored
    return errors.NotPicklableError(
        f"{type(obj).__name__} cannot be stored by sharedarray.put",
        name=type(obj).__name__,
        found=found,
        expected="an object that pickle or cloudpickle can write",
        cause=cause or "open files, locks, sockets, generators and the like belong to one process",
        next_step=cure or "store the data that its readers need from it",
    )


@lru_cache(1)
def _pickler() -> Any:
    """Return the class that pickles what `put` gets."""
    # Not above: those who only get arrays need none of it.
    from sharedarray._functions import COPY, CodePickler

    class Pickler(CodePickler):
        def __init__(self, file: io.BytesIO, **options: Any) -> None:
            super().__init__(file, COPY, **options)

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, np.ndarray):
                return _reduced(obj)
            return super().reducer_override(obj)

    return Pickler


def _pickled(obj: object) -> tuple[bytes, list[memoryview]]:
    buffers: list[memoryview] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffers.append(buffer.raw())
        except BufferError:
            return True  # not contiguous, so it stays in the pickle
        return False

    file = io.BytesIO()
    _pickler()(file, buffer_callback=take).dump(obj)
    return file.getvalue(), buffers


def _reduced(array: np.ndarray[Any, Any]) -> Any:
    """Reduce an array with its buffer out of band, also if it is not contiguous, or of dates."""
    if type(array) not in PLAIN:
        return NotImplemented if type(array) in copyreg.dispatch_table else reduce_subclass(array)
    plain = np.asarray(array)
    if plain.dtype.hasobject or plain.dtype.kind == "T":
        return plain.__reduce_ex__(_PROTOCOL)
    if not plain.flags.forc:
        plain = np.ascontiguousarray(plain)
    try:
        _ = plain.data
    except (ValueError, TypeError):  # the buffer protocol has no word for dates
        order: Any = "C" if plain.flags.c_contiguous else "F"
        data = plain.reshape(-1, order=order).view(np.uint8)
        return _as_before, (data, plain.dtype, plain.shape, order)
    return plain.__reduce_ex__(_PROTOCOL)


def _as_before(data: np.ndarray[Any, Any], dtype: np.dtype[Any], shape: Any, order: Any) -> Any:
    return data.view(dtype).reshape(shape, order=order)


# -- getting --------------------------------------------------------------------------------------------


def get(name: str | SharedArray, mode: Mode = "c") -> Any:
    """Rebuild an object that `put` has stored, without copying its arrays.

    Parameters
    ----------
    name : str or SharedArray
        The block's name; or what `put` has returned, in whatever process.
    mode : {'c', 'r+', 'r'}, default 'c'
        The effect of writes into its arrays: with 'c' it is yours alone; with 'r+' every process
        sees it that has got the object with 'r+' or 'r', or gets it later; with 'r' they are read-only. Two
        processes that get a mapping of arrays with 'r+' so share it, as they share a `Group`.

    Returns
    -------
    object
        Its arrays look at the block. The block lives while any of them does.

    Raises
    ------
    BlockNotFoundError
        There is no block of that name (a `FileNotFoundError`).
    NotOursError
        Another user owns the block, or may write to it, and so could run code in your process (a
        `PermissionError`).
    HeaderError
        The block is no object, or was damaged (a `ValueError`).

    Notes
    -----
    Getting takes the same time whatever the size of the arrays. Trees, text in lists and other small Python
    objects are made anew, as by `pickle.loads`.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> with sa.put([np.arange(1000)]) as held:
    ...     int(sa.get(held.name)[0].sum())
    499500
    """
    segment.check_mode(mode)
    mapping = _attached(name, mode)
    try:
        _refuse_others(mapping)
        stream, buffers = decode(memoryview(mapping), mapping.name)
        return pickle.loads(stream, buffers=buffers)
    except BaseException:
        mapping.release()
        raise


def _attached(name: str | SharedArray, mode: Mode) -> Mapping:
    if not isinstance(name, SharedArray):
        return segment.attach(name, mode)
    held = mapping_of(name)
    if held is None or held.directory is None:
        raise ValueError("this array is no block of sharedarray.put")
    mapping = segment.attach(held.name, mode, directory=held.directory)
    if (mapping.device, mapping.inode) != (held.device, held.inode):
        mapping.release()
        raise segment.not_found(held.name, held.directory, found="another block of that name")
    return mapping


def _refuse_others(mapping: Mapping) -> None:
    """Refuse a block whose bytes another user may have written, before any of them is unpickled."""
    others = segment.with_handle(mapping, platform.others)
    if others is not None:
        raise errors.NotOursError(
            f"the object in {mapping.name!r} is not loaded, because loading a pickle runs code",
            name=mapping.name,
            found=f"a block that is {others}",
            expected="one that only you can write",
            cause="another user put it there, or its mode was changed",
            next_step="have the data shared as arrays, which attach reads without running anything; or copy "
            "the file into one of your own if you trust it",
        )
