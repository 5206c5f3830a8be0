"""Linux: blocks are files in ``/dev/shm``, leases are open-file-description locks.

A lease is a read lock on one byte far behind any data, and the leaving is a write lock on the byte
after it (``fcntl(2)``, "Open file description locks"). Such a lock belongs to the open file description:
it ends at an explicit unlock, or when the last descriptor *and mapping* made from the description is
gone. A live mapping keeps its description, so `release` always unlocks; a forked child shares its
parent's description, so it gets one of its own (`hold_again`) and only closes what it inherited.

*Does anybody else hold it?* is the attempt to write-lock the lease's byte. It is atomic and opens nothing.
``flock`` on a fresh description was seen to miss a holder in one of a hundred races.

A draft is an ``O_TMPFILE``: it has no name, and ``linkat`` of ``/proc/self/fd/N`` publishes it in one
step that fails when the name is taken (``open(2)``). File systems without ``O_TMPFILE``, such as some
network ones behind ``file=``, get a scratch name instead, which is linked and removed.

Notes are symbolic links that lead nowhere: one call writes the whole text or fails, one reads it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from sharedarray._platform.contract import Draft, Mode, Status

NEEDS_JANITOR = True
NAME_LIMIT = 200  # bytes; the file systems hold 255, and a record's name adds an inode to it

_LEASE = 1 << 62  # byte offsets far behind any data, below the kernel's limit of 2**63 - 1
_LEAVING = _LEASE + 1
_RESERVE_STEP = 1 << 28  # bytes per fallocate: a signal that comes in between undoes no more than this
_WRITE_STEP = 1 << 30  # bytes per write: the kernel writes at most 0x7ffff000 in one call
_WRITABLE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_READABLE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FILE_TYPE = 0o170000  # the bits of a mode that say what kind of file it is
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_BUSY = (errno.EAGAIN, errno.EACCES)


def _flock(kind: int, start: int, length: int) -> bytes:
    """One ``struct flock`` of 64-bit Linux: type, whence, start, length, and a pid that must be 0."""
    return struct.pack("hh4xqqi4x", kind, os.SEEK_SET, start, length, 0)


_TAKE_LEASE = _flock(fcntl.F_RDLCK, _LEASE, 1)
_BE_ALONE = _flock(fcntl.F_WRLCK, _LEASE, 1)
_LEAVE = _flock(fcntl.F_WRLCK, _LEAVING, 1)
_FREE = struct.pack("h", fcntl.F_UNLCK)  # how the kernel's answer starts when nobody else has a lock
_RELEASE = _flock(fcntl.F_UNLCK, _LEASE, 2)


def default_directory() -> str:
    return "/dev/shm"


def user() -> str:
    return str(os.geteuid())


# -- blocks ---------------------------------------------------------------------------------------------


def draft(directory: str, size: int) -> Draft:
    scratch = None
    try:
        handle = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE or not os.path.isdir(directory):
            raise
        scratch = f"{directory}/.{os.getpid()}.{os.urandom(6).hex()}.part"
        handle = os.open(scratch, os.O_CREAT | os.O_EXCL | _WRITABLE, 0o600)
    made = Draft(handle, scratch)
    try:
        os.ftruncate(handle, size)
    except BaseException:
        discard(made)
        raise
    return made


def reserve(handle: int, size: int) -> None:
    for start in range(0, size, _RESERVE_STEP):
        os.posix_fallocate(handle, start, min(_RESERVE_STEP, size - start))


def write(handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
    left = [buffer for buffer in buffers if len(buffer)]
    while left:
        step = [left[0][:_WRITE_STEP], *left[1:]] if len(left[0]) > _WRITE_STEP else left
        written = os.pwritev(handle, step, offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def read(handle: int, count: int) -> bytes:
    return os.pread(handle, count, 0)


def publish(draft: Draft, path: str) -> None:
    # A directory descriptor makes os.link follow the symbolic link; beside absolute paths it is unused.
    source = draft.scratch or f"/proc/self/fd/{draft.handle}"
    os.link(source, path, src_dir_fd=draft.handle)
    if draft.scratch:
        os.unlink(draft.scratch)


def discard(draft: Draft) -> None:
    if draft.scratch:
        remove(draft.scratch)
    os.close(draft.handle)


def open(path: str, *, writable: bool) -> int:
    return os.open(path, _WRITABLE if writable else _READABLE)


close = os.close


def status(handle: int) -> Status:
    found = os.fstat(handle)
    regular = found.st_mode & _FILE_TYPE == stat.S_IFREG
    return Status(found.st_dev, found.st_ino, found.st_size, found.st_nlink, regular)


_ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}

if sys.version_info >= (3, 13):

    def map(cls: type[mmap.mmap], handle: int, size: int, mode: Mode) -> mmap.mmap:
        # Without trackfd=False the mapping would keep a second descriptor of its own.
        return cls(handle, size, access=_ACCESS[mode], trackfd=False)

else:

    def map(cls: type[mmap.mmap], handle: int, size: int, mode: Mode) -> mmap.mmap:
        return cls(handle, size, access=_ACCESS[mode])


def sync(mapping: mmap.mmap) -> None:
    mapping.flush()


# -- leases and locks -----------------------------------------------------------------------------------


def hold(handle: int) -> None:
    fcntl.fcntl(handle, fcntl.F_OFD_SETLKW, _TAKE_LEASE)


def open_again(handle: int) -> int:
    # Through /proc, because the name may be gone or lead to another block by now.
    return os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC)


def hold_again(handle: int) -> int:
    again = open_again(handle)
    try:
        hold(again)
    except BaseException:
        os.close(again)
        raise
    return again


def release(handle: int) -> None:
    fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _RELEASE)


def start_leaving(handle: int) -> None:
    fcntl.fcntl(handle, fcntl.F_OFD_SETLKW, _LEAVE)


def alone(handle: int) -> bool:
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _BE_ALONE)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def held(handle: int) -> bool:
    return fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _BE_ALONE)[:2] != _FREE


def lock(handle: int, start: int, length: int, *, shared: bool, wait: bool) -> bool:
    wanted = _flock(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length)
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def unlock(handle: int, start: int, length: int) -> None:
    fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, start, length))


# -- names ----------------------------------------------------------------------------------------------


def inode_of(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def pin(handle: int, path: str) -> None:
    os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle)


def remove(path: str) -> bool:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_private_directory(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # somebody was faster; whether it was us is looked at below
        found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(errno.EPERM, "not a directory", path)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            errno.EPERM, f"owned by uid {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}", path
        )


def remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_note(path: str, text: str, *, replace: bool = False) -> None:
    if not replace:
        os.symlink(text, path)
        return
    fresh = f"{os.path.dirname(path)}/n.{os.getpid()}.{os.urandom(4).hex()}"
    os.symlink(text, fresh)
    os.rename(fresh, path)


def read_note(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
            return None
        raise


# -- processes ------------------------------------------------------------------------------------------


def _file(path: str) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pieces = []
        while piece := os.read(handle, 1 << 16):
            pieces.append(piece)
    except OSError:
        return None
    finally:
        os.close(handle)
    return b"".join(pieces)


def process_started(pid: int) -> int | None:
    line = _file(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in parentheses may hold anything. Behind it comes the state, and field 22 is the start.
    fields = line[line.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def holders(blocks: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
    wanted: dict[tuple[int, int], list[int]] = {block: [] for block in blocks}
    if not wanted:
        return {}
    lease = str(_LEASE).encode()
    for entry in names("/proc"):
        if not entry.isdigit():
            continue
        try:
            handles = os.listdir(f"/proc/{entry}/fd")
        except OSError:
            continue  # it ended, or it is another user's
        for handle in handles:
            try:
                found = os.stat(f"/proc/{entry}/fd/{handle}")
            except OSError:
                continue
            pids = wanted.get((found.st_dev, found.st_ino))
            if pids is None or int(entry) in pids:
                continue
            locks = _file(f"/proc/{entry}/fdinfo/{handle}") or b""
            if any(b"OFDLCK" in line and lease in line.split() for line in locks.splitlines()):
                pids.append(int(entry))
    return {block: tuple(sorted(pids)) for block, pids in wanted.items()}


def around_fork(
    before: Callable[[], None], in_parent: Callable[[], None], in_child: Callable[[], None]
) -> None:
    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


# -- room -----------------------------------------------------------------------------------------------

_CGROUP_REFRESH = 5.0  # seconds for which the list of limited control groups is believed
_NO_LIMIT = 1 << 60  # bytes; cgroup v1 says "unlimited" with a number near 2**63
_limited: tuple[float, list[tuple[str, str, str]]] = (float("-inf"), [])


def room(directory: str) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def memory_room() -> int | None:
    """The least of the machine's available memory and of what each control group above us has left."""
    found = []
    for line in (_file("/proc/meminfo") or b"").splitlines():
        if line.startswith(b"MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
        elif line.startswith(b"SwapFree:") and found:
            found[0] += int(line.split()[1]) * 1024
            break
    for limit, usage, statistics in _limited_groups():
        allowed, used = _number(limit), _number(usage)
        if allowed is not None and used is not None:
            found.append(max(0, allowed - used + _reclaimable(statistics)))
    return min(found) if found else None


def _limited_groups() -> list[tuple[str, str, str]]:
    """Files (limit, usage, statistics) of the control groups above us that have a memory limit."""
    global _limited
    looked, groups = _limited
    if time.monotonic() - looked > _CGROUP_REFRESH:
        groups = [group for group in _groups() if _number(group[0]) is not None]
        _limited = (time.monotonic(), groups)
    return groups


def _groups() -> list[tuple[str, str, str]]:
    """Every memory control group from ours to the root, of both versions (``cgroups(7)``)."""
    groups = []
    for line in (_file("/proc/self/cgroup") or b"").decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            files = ("memory.max", "memory.current", "memory.stat")
        elif "memory" in controllers.split(","):
            roots = ["/sys/fs/cgroup/memory"]
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
        else:
            continue
        steps = [step for step in path.split("/") if step not in ("", "..")]
        for root in roots:
            for depth in range(len(steps), -1, -1):
                folder = "/".join([root, *steps[:depth]])
                groups.append((f"{folder}/{files[0]}", f"{folder}/{files[1]}", f"{folder}/{files[2]}"))
    return groups


def _number(path: str) -> int | None:
    """The number in a control file, None for "no limit" or no such file."""
    text = (_file(path) or b"").strip()
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _reclaimable(path: str) -> int:
    """Bytes of page cache that the kernel drops before it kills."""
    keys = (b"inactive_file", b"active_file", b"total_inactive_file", b"total_active_file")
    found = {}
    for line in (_file(path) or b"").splitlines():
        key, _, value = line.partition(b" ")
        if key in keys:
            found[key] = int(value)
    total = [value for key, value in found.items() if key.startswith(b"total_")]
    return sum(total) if total else sum(found.values())
