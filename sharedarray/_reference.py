"""References: small handles that stand for a view while it travels between processes.

A reference names the block (directory, name, device and inode, so that another block of the same name is
an error) and the view in it (offset, shape, strides, dtype, mode). It travels in two ways:

- ``array.reference()`` is a value that every pickler sends as it is. It keeps nothing alive.
- The picklers that carry tasks between processes on this machine reduce the array itself to one: those of
  multiprocessing (`ForkingPickler`), loky, joblib and Dask, with which `sharedarray._picklers` registers
  `reduce_for_transport`. Such a reference carries a *token*, one more name of the block in the registry,
  which keeps the block until the receiver has a lease::

      sender: array ─▶ pin(token) ─▶ pickle ═══════▶ receiver: open(token) ─▶ lease ─▶ unpin ─▶ view
      sender may let go here ───────▲

  The first to load the reference takes the token with it; a process that loads it again attaches by name. A
  token whose reference never arrives ends a grace period after its sender (`registry.grace`), or, where a
  pickler may pickle without sending, a grace period after the pickling.

Plain ``pickle`` is for files and stores the data, and so does a view that no reference can stand for: one
whose array is closed or unlinked, or whose mode is 'c', so that its pages may be private. An array that a
program has laid over the bytes of a `SharedMemory` is an array like any other here, as it is with CPython's.

References that arrive share one attachment per block and mode in the receiving process, so that a
thousand slices cost one mapping. It ends with the last of them, or when one of them is closed. A process that
gets references to the same blocks again and again may keep their attachments (`AttachmentCache`).
"""

from __future__ import annotations

import marshal
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from pickle import DEFAULT_PROTOCOL
from threading import get_ident
from typing import Any

import numpy as np

from sharedarray import (
    _damage as damage,
    _errors as errors,
    _forks as forks,
    _registry as registry,
    _segment as segment,
)
from sharedarray._array import Grip, SharedArray, start_of
from sharedarray._dtypes import short
from sharedarray._grips import Attached, Key, gripped
from sharedarray._platform import Mode
from sharedarray._segment import Mapping, has_name, mapping_of
from sharedarray._sizes import exact
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

# Of marshal's streams: the one before it began to look for objects that occur twice, which takes as long as
# all the rest.
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
        How `attach` maps it when not told otherwise.

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
        return _arrive(
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


SharedArray._reference_of = staticmethod(Reference.of)

_arriving = threading.RLock()  # a child forked while it is held inherits it from a thread that is gone
_arrived: weakref.WeakValueDictionary[Key, Mapping] = weakref.WeakValueDictionary()


def _reset_in_child() -> None:
    global _arriving
    _arriving = threading.RLock()


forks.around(__name__, in_child=_reset_in_child)


class AttachmentCache:
    """Attachments that do not end with the last array on them.

    An attachment that is made in a ``with`` statement, in the same thread, stays here, and its pages stay
    mapped: the next reference to the same block costs little. The sender must hold the block until `settle`
    was called, because a cached attachment is used without a lease until then. `settle` takes one for what is
    still in use, and gives up that of what is not, so that it does not keep the block; its memory is free
    when `forget` is called besides.

    Parameters
    ----------
    most : int
        How many are kept at most; those that were not used for longest go first.

    Attributes
    ----------
    attached
        The attachments.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.attached: dict[Key, Attached] = {}
        self._used: list[Attached] = []
        # One that is used by a single array, and by its views.
        self._single: Attached | None = None
        self._turns = 0
        # What references of `pack_held` stand for: key, and what makes an array of the attachment.
        self._meanings: dict[bytes, tuple[Any, ...]] = {}

    def __enter__(self) -> None:
        global _keeping
        _keeping = get_ident(), self

    def __exit__(self, *exception: object) -> None:
        global _keeping
        _keeping = None

    def view(self, packed: bytes) -> np.ndarray[Any, Any]:
        """Do as `unpack` in a ``with`` statement, in a fraction of the time where the block is kept.

        It is to be called by one thread, the same that calls `settle`.
        """
        known = self._meanings.get(packed)
        if known is not None and self._single is None:
            key, kind, shape, dtype, offset, strides = known
            at = self.attached.get(key)
            if at is not None and not at.used:
                # Without the lock: `_drop` first says that it is not kept and then asks whether it is used.
                at.used = True
                if at.kept and segment.use_without_lease(at.mapping):
                    grip: Any = at.whole.view(Grip)
                    at.grip = weakref.ref(grip)
                    self._single = at
                    self._turns = at.turn = self._turns + 1
                    return _new_array(kind, shape, dtype, grip, offset, strides)
                at.used = False
        with _arriving:
            key, kind, shape, dtype, offset, strides = known or self._meaning(packed)
            found = self.find(key)
            if found is not None:
                return _new_array(kind, shape, dtype, gripped(found), offset, strides)
        with self:
            return unpack(packed)

    def _meaning(self, packed: bytes) -> tuple[Any, ...]:
        _, _, device, inode, offset, shape, strides, dtype, mode, _, shared = marshal.loads(packed)
        if len(self._meanings) >= _MEANINGS:
            self._meanings.clear()
        kind = SharedArray if shared else np.ndarray
        known = (device, inode, mode), kind, shape, np.dtype(dtype), offset, strides
        self._meanings[packed] = known
        return known

    def find(self, key: Key) -> Mapping | None:
        """Return an attachment that is kept, None where there is none of use."""
        at = self.attached.get(key)
        return at.mapping if at is not None and self._take(at) else None

    def _take(self, at: Attached) -> bool:
        if not segment.use_without_lease(at.mapping):
            return False
        if self._single is at:
            self._single = None
            self._used.append(at)
        self._use(at)
        return True

    def _use(self, at: Attached) -> None:
        self._turns = at.turn = self._turns + 1
        if not at.used:
            at.used = True
            self._used.append(at)

    def add(self, key: Key, mapping: Mapping) -> None:
        """Keep an attachment."""
        self._drop(key)
        at = self.attached[key] = Attached(key, mapping)
        self._use(at)
        if len(self.attached) > self._most:
            self._drop(min(self.attached.values(), key=_turn).key)

    def settle(self) -> None:
        """Take a lease on the attachments that an array needs, and drop those of the others."""
        single = self._single
        if single is not None:
            self._single = None
            if single.in_use() or not single.mapping.lease_dropped:
                self._used.append(single)
            else:
                single.mapping.without_lease = single.used = False
        if self._used or _woken:
            self._settle()

    def _settle(self) -> None:
        with _arriving:  # no thread gets one of them meanwhile
            while _woken:
                at = self.attached.get(_woken.pop())
                if at is not None:
                    self._use(at)
            used, self._used = self._used, []
            for at in used:
                if not at.kept:
                    continue  # `_drop` took a lease, which ends with the last array
                if at.in_use():
                    segment.retake_lease(at.mapping)
                    self._used.append(at)
                    continue
                at.used = False
                if not segment.drop_lease(at.mapping):
                    self._drop(at.key)
                    at.mapping.release()

    def _drop(self, key: Key) -> None:
        """Let go of an attachment, and have a lease on it if an array may need it."""
        at = self.attached.pop(key, None)
        if at is None:
            return
        at.kept = False
        if at.grip is not None:
            alive = (grip for grip in (*at.mapping.grips, at.grip) if grip() is not None)
            at.mapping.grips = tuple(alive)
        if at.used:
            if at in self._used:
                self._used.remove(at)
            segment.retake_lease(at.mapping)

    def forget(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Let go of blocks, by device and inode."""
        gone = set(blocks)
        with _arriving:
            for key in [key for key in self.attached if key[:2] in gone]:
                self._drop(key)

    def clear(self) -> None:
        """Let go of all."""
        with _arriving:
            for key in list(self.attached):
                self._drop(key)


_new_array = np.ndarray.__new__
_turn = attrgetter("turn")
_MEANINGS = 1024  # references whose meaning is remembered

_keeping: tuple[int, AttachmentCache] | None = None
# Attachments that have a lease again, for an array that arrived in another way.
_woken: list[Key] = []


def _arrive(
    name: str,
    directory: str | None,
    device: int,
    inode: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    mode: Mode,
    pin_name: str | None,
) -> SharedArray:
    """Return the view that a reference with these attributes stands for, in this process."""
    while True:
        with _arriving:
            key = (device, inode, mode)
            now = _keeping
            keeping = None if now is None or mode == "c" or now[0] != get_ident() else now[1]
            mapping = None if keeping is None else keeping.find(key)
            if mapping is None:
                mapping = _arrived.get(key)
                if mapping is not None and mapping.lease_dropped and keeping is None:
                    _woken.append(key)
                if mapping is None or not (
                    segment.retake_lease if keeping is None else segment.use_without_lease
                )(mapping):
                    try:
                        mapping = _attached(name, directory, key, pin_name)
                    except errors.LimitError:
                        if keeping is None:
                            raise
                        keeping.clear()  # what is kept for later, and has its descriptors and maps
                        mapping = _attached(name, directory, key, pin_name)
                if keeping is not None:
                    keeping.add(key, mapping)
            try:
                grip = gripped(mapping)
            except ValueError:  # its last array went in another thread, and all of it just now
                continue
            if pin_name is not None and directory is not None:
                registry.unpin(directory, pin_name)
        break
    try:
        return _new_array(SharedArray, shape, dtype, grip, offset, strides)
    except (ValueError, TypeError) as error:
        raise errors.HeaderError(
            f"a reference to {name!r} does not fit the block",
            name=name,
            found=f"offset {offset}, shape {shape}, strides {strides}, {dtype}",
            expected=f"a view within {exact(len(mapping))} ({error})",
        ) from None


def _attached(name: str, directory: str | None, key: Key, pin_name: str | None) -> Mapping:
    device, inode, mode = key
    if directory is None:
        mapping = segment.open_file(name, mode)
    else:
        mapping = _attach_block(name, directory, mode, pin_name, inode)
    if (mapping.device, mapping.inode) != (device, inode):
        mapping.release()
        raise segment.not_found(
            name,
            directory or "",
            found=f"inode {mapping.inode} on device {mapping.device} in place of inode {inode} on "
            f"device {device}",
        )
    if mode != "c":  # what is private to one view must not show in another
        _arrived[key] = mapping
    return mapping


def _attach_block(name: str, directory: str, mode: Mode, pin_name: str | None, inode: int) -> Mapping:
    if pin_name is not None:
        path = registry.pin_path(directory, pin_name)
        try:
            mapping = segment.attach(name, mode, directory=directory, path=path)
            if mapping.inode == inode:
                return mapping
            mapping.release()
        except errors.BlockNotFoundError:
            pass  # this reference was loaded before: the name has to do
        except (errors.HeaderError, errors.NotOursError) as error:
            damage.report(path, str(error.found), "the block is looked for by its name")
        else:
            damage.report(path, "another block", "the block is looked for by its name")
    return segment.attach(name, mode, directory=directory)


def reduce_for_transport(array: np.ndarray[Any, Any], *, once: bool = True) -> tuple[Any, ...]:
    """Reduce an array for a pickler that carries tasks: a pinned reference, or its data.

    `once` says that what is pickled is loaded exactly once, unless its way is cut off.
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

    In memory of a block, its memory is a `SharedArray` in the pickle, which `reduce_for_transport` then
    reduces; in other memory, the class does as it always does.
    """
    if mapping_of(array) is None and not isinstance(array, SharedArray):
        return array.__reduce_ex__(DEFAULT_PROTOCOL)
    return reduce_subclass(array)


def reduce_held(array: np.ndarray[Any, Any]) -> tuple[Any, ...] | None:
    """Reduce an array for a sender that holds it until the receiver has loaded it.

    Returns
    -------
    tuple or None
        What ``__reduce__`` would return, without a token; None when no reference can stand for the array.
    """
    return _reduce(array, None)


def pack_held(array: np.ndarray[Any, Any], mapping: Mapping, *, named: bool = False) -> bytes | None:
    """Do as `reduce_held`, for `unpack` and `AttachmentCache.view`: return some hundred bytes.

    An array that is sent again and again remembers them, for as long as it is as it was.

    Parameters
    ----------
    array, mapping
        What is to be sent, and its attachment.
    named
        Whether the caller sees to it (`has_name`) that the block's name still leads to it.
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
    """Return what `pack_held` has made of an array that is still as it was, and its attachment."""
    known: tuple[Any, bytes, Mapping] | None = getattr(array, "_packed", None)
    if known is None or known[0] != _fingerprint(array) or known[2].released or known[2].plain:
        return None
    return known[1:]


def _fingerprint(array: SharedArray) -> tuple[Any, ...]:
    """Return the attributes of an array that can be changed in place, and that its reference depends on."""
    return array.shape, array.strides, array.dtype, array.flags.writeable


def _can_be_sent(mapping: Mapping) -> bool:
    """Return whether others can attach to what this process has attached, and see the same."""
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


def unpack(packed: bytes) -> np.ndarray[Any, Any]:
    """Return the array that `pack_held` was given, or one of the same memory, in this process."""
    return unpack_held(*marshal.loads(packed))


def unpack_held(*packed: Any) -> np.ndarray[Any, Any]:
    """Return the array that `reduce_held` was given, or one of the same memory, in this process."""
    name, directory, device, inode, offset, shape, strides, dtype, mode, pin_name, shared = packed
    view = _arrive(name, directory, device, inode, offset, shape, strides, np.dtype(dtype), mode, pin_name)
    return view if shared else np.asarray(view)
