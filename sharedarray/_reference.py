"""References: small handles that stand for a view while it travels between processes.

A reference names the block (directory, name, device and inode, so that another block of the same name is
an error) and the view in it (offset, shape, strides, dtype, mode). It travels in two ways:

- ``array.reference()`` is a value that every pickler sends as it is. It keeps nothing alive.
- The picklers that carry tasks between processes on this machine reduce the array itself to one: those of
  multiprocessing (`ForkingPickler`), loky, joblib and Dask, with which `sharedarray._picklers` registers
  `reduce_for_transport`. Such a reference carries an in-flight *pin*, one more name of the block in the
  registry, which keeps the block until the receiver has a lease::

      sender: array ─▶ pin ─▶ pickle ═══════▶ receiver: open by the pin ─▶ lease ─▶ unpin ─▶ view
      sender may close here ─▲

  The first process that loads the reference removes the pin; a process that loads it again attaches by name.
  The pin of a reference that never arrives ends a grace period after its sender (`registry.grace`). If a
  pickler may pickle without sending, it ends a grace period after the pickling.

Plain ``pickle`` is for files and stores the data. The other picklers store the data too if no reference can
stand for a view: its array is closed or unlinked, or its mode is 'c', so that its pages may be private. An
array that a program makes on the bytes of a `SharedMemory` is pickled as with CPython's class.

`sharedarray._arrivals` makes views again from references that arrive.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from dataclasses import dataclass
from pickle import DEFAULT_PROTOCOL
from typing import Any

import numpy as np

from sharedarray import _errors as errors, _registry as registry, _segment as segment
from sharedarray._array import SharedArray, start_of
from sharedarray._arrivals import AttachmentCache, unpack, unpack_held, view_of
from sharedarray._dtypes import short
from sharedarray._platform import Mode
from sharedarray._segment import Mapping, has_name, mapping_of
from sharedarray._subclasses import reduce_subclass

__all__ = [
    "FORMAT",
    "AttachmentCache",
    "Reference",
    "pack_held",
    "packed_before",
    "reduce_for_transport",
    "reduce_held",
    "reduce_subclass_for_transport",
    "unpack",
    "unpack_held",
]

# Version of marshal's format. Later ones look for objects that occur twice, which takes as long as the rest.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """A handle on a view of a block: a few hundred bytes in any pickle, whatever the array's size.

    It keeps nothing alive. Made by `SharedArray.reference`.

    Attributes
    ----------
    name : str
        The block's name, or the path of a file.
    directory : str or None
        Where the block is; None for a file.
    device, inode : int
        The block's identity.
    offset : int
        Byte in the block at which the view's first element is.
    shape : tuple of int
        Lengths of the view's axes.
    strides : tuple of int
        Bytes from one element to the next along each axis.
    dtype : numpy.dtype
        Type of the elements.
    mode : {'r', 'r+', 'c'}
        How `attach` maps it by default.

    Examples
    --------
    >>> import pickle
    >>> import sharedarray as sa
    >>> a = sa.share([[1, 2], [3, 4]])
    >>> handle = pickle.loads(pickle.dumps(a[:, 1].reference()))
    >>> handle.attach().tolist()
    [2, 4]
    """

    name: str
    directory: str | None
    device: int
    inode: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    mode: Mode

    @classmethod
    def of(cls, view: np.ndarray[Any, Any]) -> Reference:
        """Return the reference to a view of a block.

        Parameters
        ----------
        view : ndarray
            Any array whose memory is that of a block, or of a file that `sharedarray.open` maps.

        Returns
        -------
        Reference
            What a `SharedArray` returns from its method `reference`.

        Raises
        ------
        BlockClosedError
            The array is closed (a `ValueError`).
        ValueError
            Its memory is not shared.

        Examples
        --------
        >>> import numpy as np, sharedarray as sa
        >>> a = sa.share([[1, 2], [3, 4]])
        >>> plain = np.asarray(a)[1]  # no SharedArray, and still its memory
        >>> sa.Reference.of(plain).attach().tolist()
        [3, 4]
        """
        mapping = mapping_of(view)
        if mapping is None:
            raise ValueError("this array's memory is not shared; see sharedarray.share(array)")
        if mapping.released:
            raise errors.BlockClosedError(
                f"{mapping.name!r} is closed, so nothing keeps it for a reference",
                name=mapping.name,
                next_step="take the reference before close(), or attach again",
            )
        return cls(*_fields(view, mapping))

    def attach(self, mode: Mode | None = None) -> SharedArray:
        """Return the view, in this process.

        Parameters
        ----------
        mode : {'r', 'r+', 'c'}, optional
            How to map it; the reference's own mode when None.

        Returns
        -------
        SharedArray
            Shares one attachment with the other references to this block here, and holds the block.

        Raises
        ------
        BlockNotFoundError
            The block is gone, or its name leads to another one (a `FileNotFoundError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.share([[1, 2], [3, 4]])
        >>> again = a[:, 1].reference().attach("r")  # as another process would, that got the reference
        >>> again.tolist(), again.flags.writeable
        ([2, 4], False)
        """
        return self._attach(mode or self.mode, None)

    def _attach(self, mode: Mode, pin_name: str | None) -> SharedArray:
        return view_of(
            self.name,
            self.directory,
            self.device,
            self.inode,
            self.offset,
            self.shape,
            self.strides,
            self.dtype,
            mode,
            pin_name,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, self._pack()

    def _pack(self) -> tuple[Any, ...]:
        return (
            self.name,
            self.directory,
            self.device,
            self.inode,
            self.offset,
            self.shape,
            self.strides,
            short(self.dtype),
            self.mode,
        )


def _unpack(*fields: Any) -> Reference:
    name, directory, device, inode, offset, shape, strides, dtype, mode = fields
    return Reference(name, directory, device, inode, offset, shape, strides, np.dtype(dtype), mode)


def _fields(view: np.ndarray[Any, Any], mapping: Mapping) -> tuple[Any, ...]:
    """Return the parts of a reference, in the order of its attributes."""
    mode = mapping.mode
    return (
        mapping.name,
        mapping.directory,
        mapping.device,
        mapping.inode,
        start_of(view, mapping),
        view.shape,
        view.strides,
        view.dtype,
        mode if mode == "c" or view.flags.writeable else "r",
    )


SharedArray._reference_of = staticmethod(Reference.of)  # for its method `reference`


def reduce_for_transport(array: np.ndarray[Any, Any], *, once: bool = True) -> tuple[Any, ...]:
    """Reduce an array for a pickler that carries tasks: a pinned reference, or its data.

    `once` says that the pickle is loaded exactly once, unless it is lost on the way.
    """

    def pin(mapping: Mapping) -> str:
        return segment.with_handle(
            mapping, lambda handle: registry.pin(str(mapping.directory), handle, mapping.inode, once=once)
        )

    reduced = _reduce(array, pin)
    if reduced is not None:
        return reduced
    return np.asarray(array).__reduce__()  # type: ignore[return-value]


def reduce_subclass_for_transport(array: np.ndarray[Any, Any]) -> tuple[Any, ...] | str:
    """Reduce an instance of a subclass for a pickler that carries tasks.

    If its memory is a block's, the pickle holds that as a `SharedArray`, which `reduce_for_transport` then
    reduces. If it is other memory, the class reduces it as always.
    """
    if mapping_of(array) is None and not isinstance(array, SharedArray):
        return array.__reduce_ex__(DEFAULT_PROTOCOL)
    return reduce_subclass(array)


def reduce_held(array: np.ndarray[Any, Any]) -> tuple[Any, ...] | None:
    """Reduce an array for a sender that holds it until the receiver has loaded it.

    Returns
    -------
    tuple or None
        What ``__reduce__`` would return, without a pin; None when no reference can stand for the array.
    """
    return _reduce(array, None)


def pack_held(array: np.ndarray[Any, Any], mapping: Mapping, *, named: bool = False) -> bytes | None:
    """Return some hundred bytes that `unpack` and `AttachmentCache.view` take; else as `reduce_held`.

    An array remembers its bytes until its shape, strides, dtype or mode change.

    Parameters
    ----------
    array, mapping
        The array to send, and its attachment.
    named
        Whether the caller has checked (`has_name`) that the block's name still leads to it.
    """
    known = packed_before(array) if type(array) is SharedArray else None
    if known is not None:
        return known[0] if named or has_name(mapping) else None
    fields = _packed(array, mapping, None)
    if fields is None:
        return None
    try:
        packed = marshal.dumps(fields, FORMAT)
    except ValueError:  # the dtype has fields
        return None
    if type(array) is SharedArray:
        array._packed = _fingerprint(array), packed, mapping
    return packed


def packed_before(array: SharedArray) -> tuple[bytes, Mapping] | None:
    """Return what `pack_held` returned before, and the attachment; None if the array has changed."""
    known: tuple[Any, bytes, Mapping] | None = getattr(array, "_packed", None)
    if known is None or known[0] != _fingerprint(array) or known[2].released or known[2].plain:
        return None
    return known[1:]


def _fingerprint(array: SharedArray) -> tuple[Any, ...]:
    """Return the attributes of an array that can change in place and that are in its reference."""
    return array.shape, array.strides, array.dtype, array.flags.writeable


def _can_be_sent(mapping: Mapping) -> bool:
    """Return whether another process can attach to the block, and see the same bytes."""
    return not (mapping.released or mapping.mode == "c" or mapping.plain) and has_name(mapping)


def _packed(
    array: np.ndarray[Any, Any], mapping: Mapping, pin: Callable[[Mapping], str] | None
) -> tuple[Any, ...] | None:
    if not _can_be_sent(mapping):
        return None
    name, directory, device, inode, offset, shape, strides, dtype, mode = _fields(array, mapping)
    pin_name = None
    if directory is not None and pin is not None:
        try:
            pin_name = pin(mapping)
        except (OSError, errors.BlockClosedError):
            return None
    shared = isinstance(array, SharedArray)
    return name, directory, device, inode, offset, shape, strides, short(dtype), mode, pin_name, shared


def _reduce(array: np.ndarray[Any, Any], pin: Callable[[Mapping], str] | None) -> tuple[Any, ...] | None:
    mapping = mapping_of(array)
    packed = None if mapping is None else _packed(array, mapping, pin)
    return None if packed is None else (unpack_held, packed)
