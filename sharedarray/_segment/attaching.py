"""Attaching to a block by its name, and to a file by its path."""

from __future__ import annotations

import os

from sharedarray import (
    _errors as errors,
    _freelist as freelist,
    _hints as hints,
    _janitor as janitor,
    _registry as registry,
    _requirements as requirements,
    _sigint as sigint,
)
from sharedarray._clock import check_timeout, time
from sharedarray._platform import Mode, platform
from sharedarray._segment.mapping import Mapping, finish, guard, guarded, guarded_close, handles
from sharedarray._segment.names import check_name
from sharedarray._segment.refusals import (
    EMPTY,
    MODES,
    check_mode,
    no_block,
    no_file,
    not_found,
    suggest,
    unopenable,
)

# Seconds between two attempts to attach to a name that does not exist yet: an attempt takes some 10 us.
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.05


def attach(
    name: str,
    mode: Mode = "r+",
    *,
    timeout: float | None = None,
    directory: str | None = None,
    path: str | None = None,
) -> Mapping:
    """Attach to the block `name`.

    Parameters
    ----------
    timeout
        Seconds to wait for a block of this name; None not to wait.
    directory
        Where the block is. When None, a user has given the name, and an error suggests a similar one.
    path
        The path of a pin of the block, which is opened instead of the block's own path.

    Raises
    ------
    BlockNotFoundError, InvalidNameError, HeaderError
        `HeaderError` when it is no regular file, or an empty one.
    """
    if mode not in MODES:
        check_mode(mode)
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    check_name(name)
    if directory is not None:
        return _attached(name, mode, directory, path or registry.path_of(directory, name))
    directory = registry.directory()
    registry.warn_of_disk(directory)
    try:
        if timeout is None:
            return _attached(name, mode, directory, registry.path_of(directory, name))
        check_timeout(timeout)
        return _awaited(name, mode, directory, timeout)
    except errors.BlockNotFoundError as error:
        suggest(error, name, directory)
        raise


def _awaited(name: str, mode: Mode, directory: str, timeout: float) -> Mapping:
    """Attach to a block as soon as there is one of that name.

    It tries again and again, because not every system can wait for a new name. Ctrl-C ends the pauses.
    """
    path = registry.path_of(directory, name)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return _attached(name, mode, directory, path)
        except errors.BlockNotFoundError as error:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                error.found = f"{error.found}, in {timeout:g} s of waiting"
                raise
        time.sleep(min(pause, remaining))
        pause = min(2 * pause, _LAST_PAUSE)


def _attached(name: str, mode: Mode, directory: str, path: str) -> Mapping:
    with sigint.deferred:
        while True:
            try:
                mapping = _attach(name, mode, directory, path)
            except OSError as error:
                if isinstance(error, errors.LimitError) and freelist.clear():
                    continue
                if isinstance(error, errors.SharedArrayError):
                    raise
                raise requirements.explained(error, directory) from None
            if mapping is not None:
                return mapping


def _attach(name: str, mode: Mode, directory: str, path: str) -> Mapping | None:
    """Attach to the block at a path; return None, to try again, if another block has got the path."""
    writable = True
    try:
        with guard:
            try:
                handle, held, device, inode, size, links, regular, reused = platform.enter(path, True)
            except PermissionError:
                if mode == "r+":
                    raise
                # Another user's block: its processes see our lease, but we cannot ask if it is the last one.
                writable = False
                entered = platform.enter(path, False)
                handle, held, device, inode, size, links, regular, reused = entered
            handles[handle] = None
    except BlockingIOError:
        return None  # it is a free block that its process is just checking, see `platform.exclusive`
    except FileNotFoundError as error:
        raise not_found(name, directory, made=error.strerror == platform.STILL_MADE) from None
    except OSError as error:
        raise unopenable(error, name, path) from None
    try:
        if not held:
            platform.hold(handle)
            device, inode, size, links, regular, reused = platform.status(handle)
        if not regular or size == 0:
            raise no_block(name, path, EMPTY if regular else "a directory, pipe or device")
        # It was removed between our opening it and our lease; its file may be another block by now.
        if links == 0 or (reused and platform.inode_of(path) != inode):
            if platform.inode_of(path) not in (None, inode):
                guarded_close(handle)
                return None
            raise not_found(name, directory)
        mapping = finish(handle, size, mode, name, directory, device, inode)
    except BaseException:
        guarded_close(handle)
        raise
    if not writable:
        mapping.writable_handle = False
    janitor.ensure(directory, strict=False)
    return mapping


def open_file(path: str | os.PathLike[str], mode: Mode = "r+") -> Mapping:
    """Map a file on disk; it has no lease and is never removed."""
    check_mode(mode)
    where = registry.absolute(hints.path_of(path))
    handle = -1
    try:
        handle = guarded(lambda: platform.open(os.path.realpath(where), writable=mode == "r+"))
        status = platform.status(handle)
        if not status.regular or status.size == 0:
            raise no_block(where, where, EMPTY if status.regular else "a directory, pipe or device")
        return finish(handle, status.size, mode, where, None, status.device, status.inode)
    except FileNotFoundError:
        raise no_file(where, os.fspath(path)) from None
    except OSError as error:
        raise unopenable(error, where, where) from None
    finally:
        if handle >= 0:
            guarded_close(handle)
