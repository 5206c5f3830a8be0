"""Looking up the names of blocks, and removing them."""

from __future__ import annotations

from sharedarray import _errors as errors, _hints as hints, _registry as registry
from sharedarray._platform import platform
from sharedarray._segment.mapping import Mapping, guarded, guarded_close
from sharedarray._segment.names import check_name
from sharedarray._segment.refusals import not_found, suggest, unopenable


def exists(name: str) -> bool:
    """Return whether `name` leads to something that can be attached to.

    Parameters
    ----------
    name : str
        Name of the block.

    Examples
    --------
    >>> import sharedarray as sa
    >>> sa.exists("no_block_has_this_name")
    False
    """
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    path = registry.path_of(registry.directory(), check_name(name))
    try:
        handle = guarded(lambda: platform.open(path, writable=False))
    except errors.LimitError:
        raise
    except OSError:
        return False
    try:
        return platform.status(handle).regular
    finally:
        guarded_close(handle)


def unlink(name: str, missing_ok: bool = False) -> None:
    """Remove the block `name` now; processes that hold it keep their memory until they close.

    Parameters
    ----------
    name : str
        The block's name.
    missing_ok : bool, default False
        Whether it is no error if there is no such block, as for `pathlib.Path.unlink`.

    Raises
    ------
    BlockNotFoundError
        There is no such block, and `missing_ok` is False (a `FileNotFoundError`).
    NotOursError
        The file has no record of this library, so it is another program's or your own (a `PermissionError`).

    Examples
    --------
    >>> import sharedarray as sa
    >>> kept = sa.zeros(3, name="removed_by_unlink", persist=True)
    >>> sa.unlink("removed_by_unlink")
    >>> sa.unlink("removed_by_unlink", missing_ok=True)
    """
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    check_name(name)
    _check_flag(missing_ok)
    directory = registry.directory()
    try:
        remove(directory, name, None)
    except errors.BlockNotFoundError as error:
        if missing_ok:
            return
        suggest(error, name, directory)
        raise


def _check_flag(missing_ok: object) -> None:
    if isinstance(missing_ok, str):
        raise TypeError(
            f"missing_ok is True or False, not {missing_ok!r}: for several blocks call unlink for each"
        )


def remove(
    directory: str, name: str, inode: int | None, *, foreign: bool = False, successor: str | None = None
) -> None:
    """Remove a block's name now; if `inode` is given, only if the name leads to that inode.

    A file without a record is refused, unless `foreign` allows to remove files that others have made. If a
    `successor` is given, which is a pin, its block gets the name in the same moment.
    """
    path = registry.path_of(directory, name)
    try:
        handle = guarded(lambda: platform.open(path, writable=True))
    except FileNotFoundError:
        if inode is not None:
            registry.drop_record(directory, name, inode)  # another program has removed the block
        raise not_found(name, directory) from None
    except OSError as error:
        raise unopenable(error, name, path) from None
    try:
        status = platform.status(handle)
        if inode is not None and status.inode != inode:
            raise not_found(name, directory, found=f"another block at {path}")
        platform.lock_removal(handle)
        try:
            if platform.inode_of(path) != status.inode:
                raise not_found(name, directory)
            if not foreign and registry.read_record(directory, name, status.inode) is None:
                if platform.inode_of(path) != status.inode:
                    raise not_found(name, directory)  # another process was faster
                raise errors.NotOursError(
                    f"{path} has no record of sharedarray",
                    name=name,
                    found="a file that this user's processes did not make as a block",
                    cause="it is a copy, or another program's or user's",
                    next_step="remove it as a file if it is yours",
                )
            if successor is None:
                if not platform.remove(path, status.inode):
                    raise not_found(name, directory)
            else:
                platform.move(registry.pin_path(directory, successor), path)
            registry.drop_record(directory, name, status.inode)
        finally:
            platform.release(handle)
    finally:
        guarded_close(handle)


def unlink_mapping(mapping: Mapping, missing_ok: bool = False) -> None:
    """Remove the name of the block that `mapping` is attached to."""
    _check_flag(missing_ok)
    if mapping.directory is None:
        raise errors.NotOursError(
            f"{mapping.name} is a file, not a block",
            name=mapping.name,
            next_step="remove it with os.remove(path)",
        )
    try:
        remove(mapping.directory, mapping.name, mapping.inode)
    except errors.BlockNotFoundError:
        if not missing_ok:
            raise
