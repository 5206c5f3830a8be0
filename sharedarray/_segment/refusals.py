"""Errors of making and attaching, and the check for free space before a block is made."""

from __future__ import annotations

import errno
import os

from sharedarray import _errors as errors, _freelist as freelist, _hints as hints, _registry as registry
from sharedarray._platform import platform
from sharedarray._sizes import exact
from sharedarray._thresholds import FREE_CHECKED_FROM

MODES = ("r+", "r", "c")
_OTHER_KINDS = frozenset(  # errors of opening something that is no regular file
    (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOTDIR, errno.ENXIO)
)
EMPTY = "an empty file"  # in an error's `found`, for a block without bytes


def check_free(directory: str, size: int, *, memory: bool) -> None:
    """Raise `OutOfSharedMemoryError` if a large block cannot fit; small ones are left to the kernel."""
    if size < FREE_CHECKED_FROM:
        return
    try:
        _check_free(directory, size, memory=memory)
    except errors.OutOfSharedMemoryError:
        if not freelist.clear():
            raise
        _check_free(directory, size, memory=memory)


def _check_free(directory: str, size: int, *, memory: bool) -> None:
    try:
        free = platform.free_bytes(directory, memory=memory)
    except OSError:
        return  # making the draft raises the error of the directory
    if size > free:
        raise out_of_memory(directory, size, free)
    if memory:
        remaining = platform.free_memory()
        if remaining is not None and size > remaining:
            raise out_of_memory(directory, size, remaining, scope="this process's control group or machine")


def translated(error: OSError, directory: str, size: int, *, memory: bool) -> OSError:
    """Return the error to raise for an `OSError` of making a block, or a file, of that size."""
    if isinstance(error, errors.SharedArrayError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
        try:
            free = platform.free_bytes(directory, memory=memory)
        except OSError:
            free = 0
        return out_of_memory(directory, size, free)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not isinstance(
        error, errors.SharedArrayError
    ):
        return errors.NotOursError(
            f"nothing can be made in {directory}",
            name=directory,
            found=error.strerror,
            expected="a directory that this user may write to",
            cause="it is another user's, or mounted read-only",
            next_step="set SHAREDARRAY_DIR to a directory of yours on a memory file system"
            if memory
            else "choose another path",
        )
    return error


def out_of_memory(
    directory: str, needed: int, available: int, scope: str | None = None
) -> errors.OutOfSharedMemoryError:
    """Return the error for `needed` bytes where only `available` are free."""
    return errors.OutOfSharedMemoryError(
        f"a block of {exact(needed)} does not fit into {scope or directory}",
        needed=needed,
        available=available,
        name=directory,
        found=f"{exact(available)} available",
        expected=f"{exact(needed)} needed",
        cause="other blocks fill it (`sharedarray ls` shows them), or it is small, as in a container",
        next_step="free blocks, start the container with a larger --shm-size, or set SHAREDARRAY_DIR to a "
        "directory with more free memory",
    )


def suggest(error: errors.BlockNotFoundError, name: str, directory: str) -> None:
    """Add to an error the name of an existing block that is similar."""
    meant = hints.likely(name, registry.names(directory))
    if meant is not None:
        error.next_step = f"did you mean {meant!r}? {error.next_step}"


def no_file(where: str, given: str) -> errors.BlockNotFoundError:
    """Return the error for a path without a file. It suggests a similar file, or the block of this name."""
    next_step = "make it with file=path"
    directory, name = os.path.split(where)
    meant = hints.likely(name, platform.names(directory))
    if given in registry.names(registry.directory()):
        next_step = f"for the block of this name, sharedarray.attach({given!r})"
    elif meant is not None:
        next_step = f"did you mean {os.path.join(directory, meant)!r}? {next_step}"
    return errors.BlockNotFoundError(f"there is no file {where}", name=where, next_step=next_step)


def check_mode(mode: object) -> None:
    """Raise `ValueError` unless `mode` is one of `numpy.memmap`'s that attach to something."""
    if mode not in MODES:
        cure = f": for seconds to wait write timeout={mode}" if isinstance(mode, int | float) else ""
        raise ValueError(
            f"mode is 'r' (read-only), 'r+' (read and write) or 'c' (copy-on-write), not {mode!r}{cure}"
        )


def not_found(
    name: str, directory: str, *, found: str | None = None, made: bool = False
) -> errors.BlockNotFoundError:
    """Return the error for a name without a block; `made` if one with it is being made."""
    if made:
        return errors.BlockNotFoundError(
            f"no block is named {name!r} yet",
            name=name,
            found=platform.STILL_MADE,
            expected="a block that is whole",
            cause="its maker has not filled it yet",
            next_step="try again",
        )
    return errors.BlockNotFoundError(
        f"no block is named {name!r}" if found is None else f"the block {name!r} is not the one meant",
        name=name,
        found=found or f"nothing at {directory}/{name}",
        expected="a block that a process holds, or one that persists",
        cause="its last holder is gone, or it was made under another SHAREDARRAY_DIR",
        next_step="`sharedarray ls` lists what there is; keep a holder alive, or make it with persist=True",
    )


def no_block(name: str, path: str, found: str | None) -> errors.HeaderError:
    """Return the error for a path at which something else than a block is."""
    empty = found == EMPTY
    return errors.HeaderError(
        f"{path} is no block",
        name=name,
        found=found,
        expected="a regular file that is not empty",
        cause="its maker was killed before it had a size, or is just about to give it one" if empty else None,
        next_step="try again; a file that stays empty may be removed"
        if empty
        else "name a file in it"
        if os.path.isdir(path)
        else None,
    )


def unopenable(error: OSError, name: str, path: str) -> OSError | errors.HeaderError:
    """Return the error for a file at `path` that could not be opened."""
    if error.errno in _OTHER_KINDS:
        return no_block(name, path, error.strerror)
    if error.errno in (errno.EACCES, errno.EPERM):
        return errors.NotOursError(
            f"{path} may not be opened",
            name=name,
            found=error.strerror,
            cause="it is another user's, or may only be read",
            next_step="mode='r' or 'c' where reading is allowed",
        )
    return error
