"""Removing the name of a block that no process holds, or whose owner has ended."""

from __future__ import annotations

from sharedarray import _errors as errors
from sharedarray._platform import platform
from sharedarray._registry.places import path_of
from sharedarray._registry.processes import here, me
from sharedarray._registry.record import drop_record, read_record


def remove_if_unheld(
    directory: str,
    name: str,
    handle: int,
    inode: int,
    *,
    in_flight: int | None = None,
    pin_name: str | None = None,
) -> bool:
    """Remove the name of a block without holders; the caller has locked its lease alone, and releases it.

    Parameters
    ----------
    in_flight
        How many pins keep the block, if the caller has counted them. When None, each name of the file
        besides the block's counts as a pin.
    pin_name
        The path of a pin to which the name is changed, so that the file can be used again; see `_freelist`.

    Returns
    -------
    bool
        Whether the name was removed.
    """
    record = read_record(directory, name, inode)
    if record is None or record.persist:
        return False
    path = path_of(directory, name)
    if record.kept_by() is not None and platform.inode_of(path) == inode:
        return False
    platform.lock_removal(handle)
    if platform.inode_of(path) != inode:
        drop_record(directory, name, inode)
        return False
    if in_flight is None:
        in_flight = platform.status(handle).links - 1
    if in_flight > 0:
        return False
    if pin_name is None or not _renamed(path, pin_name, handle):
        platform.remove(path, inode)
    drop_record(directory, name, inode)
    return True


def _renamed(path: str, pin_name: str, handle: int) -> bool:
    try:
        platform.set_reused(handle)
        platform.move(path, pin_name)
    except OSError:  # this process acts as another user by now
        return False
    return True


def disown(directory: str, name: str, inode: int) -> bool:
    """Remove the name of a block that this process owns, held or not; return False if it does not own it."""
    record = read_record(directory, name, inode)
    if record is None or not record.owned or (record.keeper, record.space) != (me(), here()):
        return False
    try:
        handle = platform.open(path_of(directory, name), writable=True)
    except errors.LimitError:
        raise  # the block is there, and its record has to stay
    except OSError:
        drop_record(directory, name, inode)
        return False
    try:
        return remove_held(directory, name, handle, inode)
    finally:
        platform.close(handle)


def remove_held(directory: str, name: str, handle: int, inode: int) -> bool:
    """Remove the name of a block, held or not, and its record."""
    platform.lock_removal(handle)
    try:
        path = path_of(directory, name)
        removed = platform.inode_of(path) == inode and platform.remove(path, inode)
        drop_record(directory, name, inode)
        return removed
    finally:
        platform.release(handle)
