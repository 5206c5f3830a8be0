"""Views of blocks that arrive as references, and the attachments that they share.

References that arrive share one attachment per block and mode in the receiving process, so that a thousand
slices cost one mapping. It ends with the last of them, or when one of them is closed. A process that gets
references to the same blocks again and again may keep their attachments (`AttachmentCache`).
"""

from __future__ import annotations

import marshal
import threading
import weakref
from collections.abc import Iterable
from operator import attrgetter
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
from sharedarray._array import Grip, SharedArray
from sharedarray._grips import CachedAttachment, Key, grip_of
from sharedarray._platform import Mode
from sharedarray._segment import Mapping
from sharedarray._sizes import exact

__all__ = ["AttachmentCache", "unpack", "unpack_held", "view_of"]

_new_array = np.ndarray.__new__
_last_use = attrgetter("last_use")
_MAX_PARSED = 1024  # references that a cache remembers in parsed form

_lock = threading.RLock()  # of the attachments here and in the caches
# The attachments of references that arrived, for as long as any array has its memory from them.
_attachments: weakref.WeakValueDictionary[Key, Mapping] = weakref.WeakValueDictionary()
# By thread, the cache in whose ``with`` statement it is.
_active: dict[int, AttachmentCache] = {}
# Attachments of caches that got a lease again, because an array arrived outside of the ``with`` statement.
_leased_again: list[Key] = []


def _after_fork_in_child() -> None:
    getattr(_lock, "_at_fork_reinit")()  # noqa: B009  (only systems that fork have it)
    for thread in set(_active) - {get_ident()}:
        del _active[thread]  # the number may be that of another thread later


forks.around(__name__, in_child=_after_fork_in_child)


class AttachmentCache:
    """Attachments that do not end with the last array on them.

    An attachment that is made in a ``with`` statement, in the same thread, stays here, and its pages stay
    mapped: the next reference to the same block costs little. Until `settle` is called, a cached attachment
    is used without a lease, so that the sender must hold the block. `settle` takes a lease on the attachments
    that are still in use, and gives up the leases of the others, so that they do not keep the block. Their
    memory is freed by `forget`.

    Parameters
    ----------
    most : int
        Greatest number of attachments; the least recently used go first.

    Attributes
    ----------
    attached
        The attachments.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.attached: dict[Key, CachedAttachment] = {}
        self._used: list[CachedAttachment] = []
        # The attachment whose only user is the last array that `view` made, with the views of that array.
        self._single: CachedAttachment | None = None
        self._uses = 0  # counts; each attachment has the number of its last use
        # References by their bytes: the key of the attachment, and the arguments that make an array of it.
        self._parsed: dict[bytes, tuple[Any, ...]] = {}

    def __enter__(self) -> None:
        _active[get_ident()] = self

    def __exit__(self, *exception: object) -> None:
        _active.pop(get_ident(), None)

    def view(self, packed: bytes) -> np.ndarray[Any, Any]:
        """Return the array of a packed reference, as `unpack` in a ``with`` statement does.

        It takes a fraction of the time if the attachment is here. Only the thread that calls `settle` may
        call it.
        """
        known = self._parsed.get(packed)
        if known is not None and self._single is None:
            key, kind, shape, dtype, offset, strides = known
            entry = self.attached.get(key)
            if entry is not None and not entry.used:
                # Without the lock: `_drop` first clears `kept` and then reads `used`.
                entry.used = True
                if entry.kept and segment.use_without_lease(entry.mapping):
                    grip: Any = entry.whole.view(Grip)
                    entry.grip = weakref.ref(grip)
                    self._single = entry
                    self._uses = entry.last_use = self._uses + 1
                    return _new_array(kind, shape, dtype, grip, offset, strides)
                entry.used = False
        with _lock:
            key, kind, shape, dtype, offset, strides = known or self._parse(packed)
            found = self.find(key)
            if found is not None:
                return _new_array(kind, shape, dtype, grip_of(found), offset, strides)
        with self:
            return unpack(packed)

    def _parse(self, packed: bytes) -> tuple[Any, ...]:
        _, _, device, inode, offset, shape, strides, dtype, mode, _, shared = marshal.loads(packed)
        if len(self._parsed) >= _MAX_PARSED:
            self._parsed.clear()
        kind = SharedArray if shared else np.ndarray
        known = (device, inode, mode), kind, shape, np.dtype(dtype), offset, strides
        self._parsed[packed] = known
        return known

    def find(self, key: Key) -> Mapping | None:
        """Return the attachment if it is here and can be used, else None."""
        entry = self.attached.get(key)
        return entry.mapping if entry is not None and self._take(entry) else None

    def _take(self, entry: CachedAttachment) -> bool:
        """Use an attachment for one more array; return False if it is closed."""
        if not segment.use_without_lease(entry.mapping):
            return False
        if self._single is entry:
            self._single = None
            self._used.append(entry)
        self._use(entry)
        return True

    def _use(self, entry: CachedAttachment) -> None:
        self._uses = entry.last_use = self._uses + 1
        if not entry.used:
            entry.used = True
            self._used.append(entry)

    def add(self, key: Key, mapping: Mapping) -> None:
        """Keep an attachment."""
        self._drop(key)
        entry = self.attached[key] = CachedAttachment(key, mapping)
        self._use(entry)
        if len(self.attached) > self._most:
            self._drop(min(self.attached.values(), key=_last_use).key)

    def settle(self) -> None:
        """Take a lease on the attachments that an array needs, and drop those of the others."""
        single = self._single
        if single is not None:
            self._single = None
            if single.in_use() or not single.mapping.lease_dropped:
                self._used.append(single)
            else:
                single.mapping.without_lease = single.used = False
        if self._used or _leased_again:
            self._settle()

    def _settle(self) -> None:
        with _lock:  # no other thread gets one of them meanwhile
            while _leased_again:
                entry = self.attached.get(_leased_again.pop())
                if entry is not None:
                    self._use(entry)
            used, self._used = self._used, []
            for entry in used:
                if not entry.kept:
                    continue  # `_drop` took a lease, which ends with the last array
                if entry.in_use():
                    segment.retake_lease(entry.mapping)
                    self._used.append(entry)
                    continue
                entry.used = False
                if not segment.drop_lease(entry.mapping):
                    self._drop(entry.key)
                    entry.mapping.release()

    def _drop(self, key: Key) -> None:
        """Remove an attachment from the cache; take a lease on it first if an array may use it."""
        entry = self.attached.pop(key, None)
        if entry is None:
            return
        entry.kept = False
        if entry.grip is not None:
            alive = (grip for grip in (*entry.mapping.grips, entry.grip) if grip() is not None)
            entry.mapping.grips = tuple(alive)
        if entry.used:
            if entry in self._used:
                self._used.remove(entry)
            segment.retake_lease(entry.mapping)

    def forget(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Remove the attachments of blocks, which are given by device and inode."""
        gone = set(blocks)
        with _lock:
            for key in [key for key in self.attached if key[:2] in gone]:
                self._drop(key)

    def clear(self) -> None:
        """Remove all attachments."""
        with _lock:
            for key in list(self.attached):
                self._drop(key)


def view_of(
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
    """Return the view that a reference with these attributes stands for, and remove its pin."""
    while True:
        with _lock:
            key = (device, inode, mode)
            cache = None if mode == "c" else _active.get(get_ident())
            mapping = None if cache is None else cache.find(key)
            if mapping is None:
                mapping = _attachments.get(key)
                if mapping is not None and mapping.lease_dropped and cache is None:
                    _leased_again.append(key)
                if mapping is None or not (
                    segment.retake_lease if cache is None else segment.use_without_lease
                )(mapping):
                    try:
                        mapping = _attach(name, directory, key, pin_name)
                    except errors.LimitError:
                        if cache is None:
                            raise
                        cache.clear()  # it has descriptors and maps that are only kept for later
                        mapping = _attach(name, directory, key, pin_name)
                if cache is not None:
                    cache.add(key, mapping)
            try:
                grip = grip_of(mapping)
            except ValueError:  # another thread has dropped its last array, which has closed it just now
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


def _attach(name: str, directory: str | None, key: Key, pin_name: str | None) -> Mapping:
    """Attach to the block, or the file, of a reference; raise `BlockNotFoundError` if it is another one."""
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
    if mode != "c":  # pages that are private to one view must not show in another
        _attachments[key] = mapping
    return mapping


def _attach_block(name: str, directory: str, mode: Mode, pin_name: str | None, inode: int) -> Mapping:
    """Attach by the pin if it is still there, else by the name."""
    if pin_name is not None:
        path = registry.pin_path(directory, pin_name)
        try:
            mapping = segment.attach(name, mode, directory=directory, path=path)
            if mapping.inode == inode:
                return mapping
            mapping.release()
        except errors.BlockNotFoundError:
            pass  # the reference was loaded before, which removed the pin
        except (errors.HeaderError, errors.NotOursError) as error:
            damage.report(path, str(error.found), "the block is looked for by its name")
        else:
            damage.report(path, "another block", "the block is looked for by its name")
    return segment.attach(name, mode, directory=directory)


def unpack(packed: bytes) -> np.ndarray[Any, Any]:
    """Return the array that `pack_held` was given, or one of the same memory, in this process."""
    return unpack_held(*marshal.loads(packed))


def unpack_held(*packed: Any) -> np.ndarray[Any, Any]:
    """Return the array that `reduce_held` was given, or one of the same memory, in this process."""
    name, directory, device, inode, offset, shape, strides, dtype, mode, pin_name, shared = packed
    view = view_of(name, directory, device, inode, offset, shape, strides, np.dtype(dtype), mode, pin_name)
    return view if shared else np.asarray(view)
