"""The files by which waiting processes of a block are woken, and their removal."""

from __future__ import annotations

from sharedarray import _damage as damage, _errors as errors
from sharedarray._platform import platform
from sharedarray._registry.places import registry_of

_WAKER = "w."  # how the names of wakers begin


def waker_path(directory: str, inode: int, party: int) -> str:
    """Return the path of the waker of a party of a block."""
    return f"{registry_of(directory)}/{_WAKER}{inode}.{party}"


_NOTICES = "v."  # how the names of files with notices begin
_NOTICED = 1 << 57  # the byte of such a file that each process locks, shared, while it uses the file


def notices_path(directory: str, inode: int) -> str:
    """Return the path of the file with the notices of new data in a block."""
    return f"{registry_of(directory)}/{_NOTICES}{inode}"


def hold_notices(handle: int, path: str) -> bool:
    """Keep a file of notices in place until the handle is closed; return False if it was just removed."""
    platform.lock(handle, _NOTICED, 1, shared=True, wait=True)
    return platform.inode_of(path) == platform.status(handle).inode


def remove_unused_notices(path: str) -> None:
    """Remove a file of notices unless a process uses it; that process removes it later."""
    try:
        handle = platform.open_to_lock(path)
    except FileNotFoundError:
        return
    try:
        if platform.lock(handle, _NOTICED, 1, shared=False, wait=False):
            try:
                if platform.inode_of(path) == platform.status(handle).inode:
                    platform.remove(path)
            finally:
                platform.unlock(handle, _NOTICED, 1)
    finally:
        platform.close(handle)


def remove_notices_without_block(directory: str, inode: int) -> None:
    """Remove the notices of a block that is gone, unless a process uses them."""
    if _without_block(directory, {str(inode)}, platform.names(registry_of(directory))):
        remove_unused_notices(notices_path(directory, inode))


def sweep_notices(directory: str) -> None:
    """Remove the notices of blocks that are gone, which no process uses."""
    folder = registry_of(directory)
    files = platform.names(folder)
    noticed = {file[len(_NOTICES) :] for file in files if file.startswith(_NOTICES)}
    for inode in _without_block(directory, noticed, files):
        path = f"{folder}/{_NOTICES}{inode}"
        try:
            remove_unused_notices(path)
        except errors.LimitError:
            raise
        except OSError as error:
            damage.report(path, str(error), "it stays")


def _without_block(directory: str, inodes: set[str], files: list[str]) -> set[str]:
    """Return the inodes, as text, that are of no block; `files` are those of the registry."""
    gone = inodes - _recorded(files)
    if gone:
        # A listing may miss a record that another process replaces meanwhile. A block's own name never moves.
        paths = (f"{directory}/{file}" for file in platform.names(directory))
        gone -= {str(platform.inode_of(path)) for path in paths}
        gone -= _recorded(platform.names(registry_of(directory)))  # for blocks without a path
    return gone


def _recorded(files: list[str]) -> set[str]:
    """Return the inodes, as text, of the blocks of which a listing of the registry has a record."""
    return {file.rpartition("@")[2] for file in files if file.startswith("b.")}


def sweep_wakers(folder: str) -> int:
    """Remove the wakers of processes that were killed; return how many remain, of processes that live."""
    remaining = 0
    for file in platform.names(folder):
        if file.startswith(_WAKER):
            try:
                remaining += not platform.remove_unused_waker(f"{folder}/{file}")
            except errors.LimitError:
                raise
            except FileExistsError as error:
                if not damage.unheard:
                    damage.report(f"{folder}/{file}", str(error.strerror), "it is moved away")
                    damage.quarantine(f"{folder}/{file}")
            except OSError as error:
                damage.report(f"{folder}/{file}", str(error), "it stays")
    return remaining
