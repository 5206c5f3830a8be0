"""Blocks are copied into files piece by piece, and a file has its name when it is whole."""

from __future__ import annotations

import errno
import os

import sharedarray as sa
from sharedarray._platform import platform
from sharedarray._progress import Bar
from sharedarray._segment import Mapping as Attachment, with_handle

_PIECE = 8 << 20  # bytes copied at once: no second copy of the data stands in memory


def check_target(shown: str, target: str, force: bool) -> None:
    """Refuse what `publish` would refuse, before anything is copied, and what it should not replace."""
    device = os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)
    if not device and not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", os.path.dirname(target))
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "it is a directory; name the file in it", shown)
    if os.path.lexists(shown) and not force:
        raise _taken(shown)
    if device:  # a rename would replace /dev/null, too
        raise FileExistsError(errno.EEXIST, "it is no regular file, so it is not replaced", shown)
    if any(os.path.realpath(block.path) == target for block in sa.blocks()):
        raise FileExistsError(errno.EEXIST, "it is a block, so it is not replaced", shown)


def _taken(shown: str) -> sa.BlockExistsError:
    return sa.BlockExistsError(f"the file {shown} exists", name=shown, next_step="--force replaces it")


def write(handle: int, data: memoryview, mapping: Attachment | None, shown: Bar) -> None:
    """Write data into an empty file; what is a hole in the block stays one in the file."""
    done = 0
    os.ftruncate(handle, len(data))
    try:
        while done < len(data):
            # Looked up piece by piece: another process may append meanwhile, and its header be copied.
            start, end = _next_data(mapping, done, len(data))
            os.lseek(handle, start, os.SEEK_SET)
            written = os.write(handle, data[start : min(end, start + _PIECE)]) if start < end else 0
            shown.update(start + written - done)
            done = start + written
    finally:
        shown.close()
    os.fsync(handle)  # a checkpoint is one only when it is on the disk before it has its name


def _next_data(mapping: Attachment | None, start: int, size: int) -> tuple[int, int]:
    """Return the first bytes from `start` on that are no hole; ``(size, size)`` if there are none.

    To read a hole of a block by its mapping would reserve memory for it.
    """
    if mapping is None or mapping.directory is None or not hasattr(os, "SEEK_DATA"):
        return start, size

    def looked_up(handle: int) -> tuple[int, int]:
        begin = os.lseek(handle, start, os.SEEK_DATA)
        return begin, os.lseek(handle, begin, os.SEEK_HOLE)

    try:
        begin, end = with_handle(mapping, looked_up)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (start, size)
    return min(begin, size), min(end, size)


def publish(temporary: str, target: str, shown: str, *, force: bool) -> None:
    """Give the finished copy its name; without `force` a link, which fails when the name is taken."""
    try:
        if not force:
            try:
                os.link(temporary, target)
                return
            except FileExistsError:
                raise
            except OSError:  # a file system without links: take the name first, then replace it
                os.close(platform.opened(os.open, target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise _taken(shown) from None
    os.replace(temporary, target)
