"""The directories of blocks and of the registry."""

from __future__ import annotations

import os
import sys
import warnings
from functools import lru_cache
from types import FrameType

from sharedarray import _errors as errors
from sharedarray._platform import platform

_MOST_WARNED = 16  # directories for which it is remembered that they need no (other) warning
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def directory() -> str:
    """Return the directory of the blocks: ``SHAREDARRAY_DIR``, or the platform's memory file system.

    Raises
    ------
    BlockNotFoundError
        ``SHAREDARRAY_DIR`` leads to no directory.
    """
    chosen = platform.setting("SHAREDARRAY_DIR")
    if not chosen:
        return platform.DEFAULT_DIRECTORY
    path = absolute(chosen)
    if not os.path.isdir(path):
        raise no_directory(path)
    return path


@lru_cache(_MOST_WARNED)
def warn_of_disk(directory: str) -> None:
    """Warn once about blocks in a directory on a disk; under multiprocessing, the parent does so."""
    process = sys.modules.get("multiprocessing.process")
    if platform.on_disk(directory) and (process is None or process.parent_process() is None):
        warnings.warn(
            f"SHAREDARRAY_DIR={directory} is on a disk, to which the system writes all data of the blocks; "
            f"choose a directory on a memory file system, as {platform.DEFAULT_DIRECTORY} is",
            RuntimeWarning,
            stacklevel=level_of_caller(),
        )


def level_of_caller() -> int:
    """Return the ``stacklevel`` at which a warning of the calling function names the user's line."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level


def no_directory(directory: str) -> errors.BlockNotFoundError:
    """Return the error for a directory of blocks that does not exist, or in which no file can be made."""
    if os.path.isdir(directory):  # such as /proc
        return errors.BlockNotFoundError(
            f"no block can be made in the directory {directory}",
            name=directory,
            found="a directory that takes no files",
            expected="a directory, on a memory file system for blocks",
            next_step="set SHAREDARRAY_DIR to such a directory",
        )
    return errors.BlockNotFoundError(
        f"the directory {directory} does not exist",
        name=directory,
        found="something else at that path" if os.path.lexists(directory) else None,
        expected="a directory, on a memory file system for blocks",
        next_step="make it, or set SHAREDARRAY_DIR to one that exists",
    )


def absolute(path: str) -> str:
    """Return a path as an absolute one.

    Raises
    ------
    BlockNotFoundError
        The path is relative, and the working directory was removed.
    """
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise errors.BlockNotFoundError(
            f"{path!r} leads nowhere: the working directory of this process was removed",
            name=path,
            expected="an absolute path, or a working directory that is there",
            next_step="give an absolute path, or call os.chdir() first",
        ) from None


def registry_of(directory: str) -> str:
    """Return the path of this user's registry for the blocks in `directory`."""
    return f"{directory}/.sharedarray-{platform.user()}"


# A block's file is named in UTF-8 in every program, whatever encoding its locale asks for. Python encodes and
# decodes paths by the locale; where that is no UTF-8, a name goes through a str that Python encodes to UTF-8.
if sys.getfilesystemencoding() == "utf-8":

    def path_of(directory: str, name: str) -> str:
        """Return the path of the block of this name."""
        return f"{directory}/{name}"

    def file_of(name: str) -> str:
        return name

    def name_of(file: str) -> str:
        return file

else:

    def path_of(directory: str, name: str) -> str:
        """Return the path of the block of this name."""
        return f"{directory}/{file_of(name)}"

    def file_of(name: str) -> str:
        return os.fsdecode(name.encode())

    def name_of(file: str) -> str:
        return os.fsencode(file).decode(errors="surrogateescape")


def open_registry(directory: str) -> str:
    """Make the registry if there is none, check that it is this user's alone, and return its path.

    Raises
    ------
    NotOursError
        Another user owns, or could write, the file or directory at that path.
    """
    path = registry_of(directory)
    try:
        platform.make_private_directory(path)
    except PermissionError as error:
        raise errors.NotOursError(
            "the registry of shared blocks cannot be trusted",
            name=path,
            found=error.strerror,
            expected="a directory of your own with mode 700",
            cause="another user made it first",
            next_step="have it removed, or set SHAREDARRAY_DIR to a memory file system of your own",
        ) from None
    return path
