"""Errors that name the limit which a process has met as it maps memory or makes files, on POSIX systems."""

from __future__ import annotations

import errno
import os

from sharedarray import _errors as errors
from sharedarray._platform.descriptors import EXHAUSTED, exhausted, opened
from sharedarray._sizes import exact

__all__ = ["check_files", "file_size", "maps"]

_PIECE = 4096  # bytes read at a time: where no memory can be mapped, a large buffer is not to be had
_ADDRESSES = 1 << 47  # bytes that a process can address on x86-64 and most ARM machines
_MAPPED = 4  # times at most that a process maps one block: an array with versions, while it writes one
_MAPS_NEAR = 64  # memory maps below the limit at which it counts as reached: one call may need several


def maps(error: OSError, size: int) -> OSError:
    """Return the error of a call that maps `size` bytes, or a `LimitError` if it has met a limit."""
    if error.errno != errno.ENOMEM:
        return exhausted(error) if error.errno in EXHAUSTED else error
    most, used = _number("/proc/sys/vm/max_map_count"), _lines("/proc/self/maps")
    if most is None or used is None or used + _MAPS_NEAR < most:
        return _address_space(error, size)
    return errors.LimitError(
        "this process has as many memory maps as it may have",
        number=errno.ENOMEM,
        found=f"{used} in use, the limit vm.max_map_count is {most}",
        expected="a free one",
        cause="each shared array is a memory map, besides those of libraries and threads",
        next_step="drop or close arrays, put many small ones into one large array, or have the administrator "
        "raise the limit: sysctl vm.max_map_count",
    )


def file_size(error: OSError, size: int) -> OSError:
    """Return the error of a call that makes a file of `size` bytes, or a `LimitError` if it may not."""
    if error.errno != errno.EFBIG:
        return error
    limit = _limit("RLIMIT_FSIZE")
    if limit is None or size <= limit:
        return error
    return errors.LimitError(
        f"this process may not make a block of {exact(size)}",
        number=errno.EFBIG,
        found=f"the limit RLIMIT_FSIZE of {exact(limit)} for each file",
        expected=f"a limit of at least {exact(size)}: a block is a file in memory",
        next_step="raise the limit: `ulimit -f unlimited` before the program starts",
    )


def check_files(error: OSError, directory: str) -> None:
    """Raise `OutOfSharedMemoryError` if a file could not be made because its file system has too many."""
    if error.errno != errno.ENOSPC:
        return
    try:
        found = os.statvfs(directory)
    except OSError:
        return
    if found.f_favail or not found.f_files:  # a file system without such a limit says 0
        return
    raise errors.OutOfSharedMemoryError(
        "the file system of the shared blocks has as many files as it may have",
        name=directory,
        found=f"{found.f_files} files (inodes), all in use",
        expected="2 free ones for a block: its bytes and its record",
        cause="many small blocks use up the files before the bytes",
        next_step="drop blocks, put many small arrays into one large array, or mount the file system with a "
        "larger nr_inodes",
    ) from None


def _address_space(error: OSError, size: int) -> OSError:
    limit = _limit("RLIMIT_AS")
    if limit is None and size <= _ADDRESSES // _MAPPED:
        return error
    if limit is None:
        return errors.LimitError(
            f"a block of {exact(size)} does not fit into the address space of a process",
            number=errno.ENOMEM,
            found=f"{exact(_ADDRESSES)} for all memory maps of a process, as processors of 64 bits have",
            expected="less than that; of an array that grows, its capacity counts, twice to append",
            next_step="choose a smaller shape or capacity",
        )
    return errors.LimitError(
        "this process has no address space left to map a block",
        number=errno.ENOMEM,
        found=f"the limit RLIMIT_AS, {exact(limit)}",
        expected="address space for the whole block",
        cause="the limit counts every mapped byte, of libraries and threads too, used or not",
        next_step="drop arrays, or raise the limit: `ulimit -v` before the program starts",
    )


def _limit(name: str) -> int | None:
    """Return a limit of this process; None if there is none."""
    try:
        import resource

        limit, _ = resource.getrlimit(getattr(resource, name))
    except (ImportError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else limit


def _number(path: str) -> int | None:
    try:
        handle = opened(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(handle, _PIECE))
        finally:
            os.close(handle)
    except (OSError, ValueError):
        return None


def _lines(path: str) -> int | None:
    try:
        handle = opened(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            lines = 0
            while piece := os.read(handle, _PIECE):
                lines += piece.count(b"\n")
            return lines
        finally:
            os.close(handle)
    except OSError:
        return None
