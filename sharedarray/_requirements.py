"""The requirements of blocks, locks and pools on the kernel and on the blocks' file system.

Some kernels, sandboxes (gVisor, proot, seccomp filters) and file systems lack locks of open file
descriptions, hard links or ``/proc``. A call that fails there fails with the kernel's error first. Only then
`explained` tries what is needed, so that calls that succeed pay nothing.
"""

from __future__ import annotations

from sharedarray import _errors as errors
from sharedarray._platform import platform

__all__ = ["check", "explained", "lacking"]

_checked: set[str] = set()  # directories that lack nothing
_MOST_CHECKED = 100


def check(directory: str) -> None:
    """Raise `UnsupportedError` if the system lacks what blocks in a directory need; try it once a process."""
    if directory in _checked:
        return
    missing = platform.missing(directory)
    if missing is not None:
        raise lacking(missing, directory)
    if len(_checked) >= _MOST_CHECKED:
        _checked.clear()
    _checked.add(directory)


def explained(error: OSError, directory: str) -> OSError | errors.UnsupportedError:
    """Return the error that says what the system lacks; the error itself if it lacks nothing."""
    if isinstance(error, errors.SharedArrayError):
        return error
    missing = platform.missing(directory)
    return error if missing is None else lacking(missing, directory)


def lacking(missing: str, where: str) -> errors.UnsupportedError:
    """Return the error for something that this system lacks at a path."""
    return errors.UnsupportedError(
        f"blocks and locks in {where} need {missing}, which this system lacks there",
        name=where,
        cause="the kernel, a sandbox such as gVisor, proot or a seccomp filter, or the file system",
        next_step="mount it with `mount -t proc proc /proc`"
        if missing.startswith("/proc")
        else "set SHAREDARRAY_DIR to a directory on a tmpfs, or leave the sandbox",
    )
