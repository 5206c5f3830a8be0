"""Linux: blocks are files in ``/dev/shm``.

A draft is an ``O_TMPFILE``: it has no name, and ``linkat`` of ``/proc/self/fd/N`` publishes it in one
step that fails when the name is taken (``open(2)``). File systems without ``O_TMPFILE``, such as some
network ones behind ``file=``, get a scratch name instead, which is linked and removed.

Leases, locks, names and notes: see `sharedarray._platform.posix`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from sharedarray import _errors as errors
from sharedarray._platform import limits
from sharedarray._platform.contract import Draft
from sharedarray._platform.descriptors import (
    keep_standard_streams as keep_standard_streams,
    need_descriptors as need_descriptors,
    opened as opened,
    opened_file,
    opener as opener,
    standard_streams as standard_streams,
)
from sharedarray._platform.linux_groups import (
    free_bytes as free_bytes,
    free_memory as free_memory,
    processors as processors,
)
from sharedarray._platform.linux_processes import (
    adopts_orphans as adopts_orphans,
    await_end as await_end,
    command_line as command_line,
    contents_of,
    peer as peer,
    process_space as process_space,
    process_started as process_started,
    runs as runs,
    uptime as uptime,
)
from sharedarray._platform.posix import (
    LEASE,
    NAME_LIMIT as NAME_LIMIT,
    RECORDS_DECIDE as RECORDS_DECIDE,
    REUSED,
    STILL_MADE as STILL_MADE,
    Locks,
    allocated as allocated,
    can_persist as can_persist,
    capacity as capacity,
    close as close,
    discard as discard,
    ended as ended,
    inode_of as inode_of,
    lacks,
    leads_to as leads_to,
    make_private_directory as make_private_directory,
    map as map,  # noqa: A004  (the contract's word)
    memory as memory,
    move as move,
    name_problem as name_problem,
    names as names,
    open as open,  # noqa: A004  (the contract's word)
    open_as_permitted,
    open_path_of as open_path_of,
    others as others,
    publish_with_or_without_links,
    read as read,
    read_metadata as read_metadata,
    remove as remove,
    remove_directory as remove_directory,
    scratch_draft,
    setting as setting,
    shrink as shrink,
    status as status,
    sync as sync,
    terminal as terminal,
    user as user,
    write as write,
    write_metadata as write_metadata,
)
from sharedarray._platform.posix_wakers import (
    close_waker as close_waker,
    drain as drain,
    make_waker as make_waker,
    open_waker as open_waker,
    remove_unused_waker as remove_unused_waker,
    wait_for_wakers as wait_for_wakers,
    wake as wake,
    watch as watch,
)

NEEDS_JANITOR = True
SEMAPHORES: str | None = "/dev/shm"  # where glibc and musl keep those that have names
LENGTHENS = True
DEFAULT_DIRECTORY = "/dev/shm"

_RESERVE_STEP = 1 << 28  # bytes per fallocate: a signal that comes in between undoes no more than this
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


# -- blocks ---------------------------------------------------------------------------------------------


def draft(directory: str) -> Draft:
    try:
        handle = opened_file(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        limits.check_files(error, directory)
        if error.errno not in _NO_TMPFILE or not os.path.isdir(directory):
            raise
        return scratch_draft(directory)
    os.fchmod(handle, 0o600)  # whatever the umask
    return Draft(handle)


def draft_memory(directory: str, size: int, path: str | None, *, replace: bool = False) -> Draft:
    found = draft(directory)
    if path is None:
        if found.scratch:
            os.unlink(found.scratch)
        os.ftruncate(found.handle, size)
        return Draft(found.handle)
    return found


def reserve(handle: int, size: int, start: int = 0) -> None:
    try:
        for offset in range(start, size, _RESERVE_STEP):
            os.posix_fallocate(handle, offset, min(_RESERVE_STEP, size - offset))
    except OSError as error:
        raise limits.file_size(error, size) from None


def reserve_parts(handle: int, size: int, parts: Sequence[tuple[int, int]]) -> None:
    try:
        if os.fstat(handle).st_size < size:
            os.ftruncate(handle, size)
    except OSError as error:
        raise limits.file_size(error, size) from None
    for start, end in parts:
        reserve(handle, end, start)


def publish(draft: Draft, path: str) -> None:
    # A directory descriptor makes os.link follow the symbolic link; beside absolute paths it is unused.
    source = draft.scratch or f"/proc/self/fd/{draft.handle}"
    os.link(source, path, src_dir_fd=draft.handle)
    if draft.scratch:
        remove(draft.scratch)


def publish_file(draft: Draft, path: str) -> Draft:
    return publish_with_or_without_links(draft, path, publish)


def missing(directory: str) -> str | None:
    if not os.path.isdir("/proc/self/fd"):
        return "/proc, through which processes reach their open files"
    if os.readlink("/proc/self") != str(os.getpid()):
        return "/proc of the pid namespace of this process"
    return lacks(directory, lock, pin)


def path_of(handle: int, pid: int | None = None) -> str | None:
    return f"/proc/{os.getpid() if pid is None else pid}/fd/{handle}"


def shares_handles() -> bool:
    # The kernel gives /proc/PID/fd to root once a process has changed its user: it may still know secrets.
    return os.stat("/proc/self/fd").st_uid == os.geteuid()


def pin(handle: int, path: str) -> None:
    os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle)


# -- leases and locks -----------------------------------------------------------------------------------


# One ``struct flock`` of 64-bit Linux: type, whence (SEEK_SET is 0), start, length, and a pid that must be 0.
_flock = struct.Struct("h6xqq8x").pack


def open_again(handle: int) -> int:
    # Through /proc, because the name may be gone or lead to another block by now.
    return opened_file(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC)


def open_to_lock(file: str | int) -> int:
    return open_as_permitted(file if isinstance(file, str) else f"/proc/self/fd/{file}")


_NO_NAME = " (deleted)"  # what /proc adds where a file has lost its name, or never had one when it was opened


def path_behind(handle: int) -> str:
    path = os.readlink(f"/proc/self/fd/{handle}")
    return "" if path.endswith(_NO_NAME) else path


_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800  # <linux/fcntl.h>, <linux/stat.h>
_STATX_BYTES, _STATX_BIRTH = 256, 80  # of the whole structure, and where the time of birth stands in it


@lru_cache(None)
def _statx() -> Callable[[int], bytes] | None:
    import ctypes  # NumPy has imported it already, and the janitor seldom needs it

    statx = getattr(ctypes.CDLL(None), "statx", None)
    if statx is None:
        return None

    def look(handle: int) -> bytes:
        found = ctypes.create_string_buffer(_STATX_BYTES)
        return b"" if statx(handle, b"", _AT_EMPTY_PATH, _STATX_BTIME, found) else found.raw

    return look


def born(handle: int) -> int:
    look = _statx()  # os.stat does not show it
    found = look(handle) if look else b""
    if not found or not struct.unpack_from("I", found)[0] & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("qI", found, _STATX_BIRTH)
    return int(seconds * 1_000_000_000 + nanoseconds)


_locks = Locks(_flock, slice(0, 2), open_again, fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW)
enter = _locks.enter
hold = _locks.hold
hold_again = _locks.hold_again
hold_apart = _locks.hold_apart
drop_lease = _locks.drop_lease
release = _locks.release
lock_removal = _locks.lock_removal
alone = _locks.alone
held = _locks.held
use = _locks.use
used = _locks.used
lock = _locks.lock
locked = _locks.locked
unlock = _locks.unlock


# -- pages that are used again --------------------------------------------------------------------------

REUSES_PAGES = True
UNSHARES = True
_MAYMOVE, _FIXED, _DONTUNMAP = 1, 2, 4  # <linux/mman.h>, of mremap
_MAP_FIXED_NOREPLACE = 0x100000  # <asm-generic/mman-common.h>, as the next
_MAP_FIXED = 0x10
_BOTH = mmap.PROT_READ | mmap.PROT_WRITE
_lost: list[mmap.mmap] = []  # mappings whose addresses are another's now, and which are never unmapped


_TMPFS, _RAMFS, _HUGETLBFS = 0x01021994, 0x858458F6, 0x958458F6  # <linux/magic.h>
_STATFS_BYTES = 256  # more than the structure has, which begins with the kind of file system, a word


def is_memory(handle: int) -> bool:
    # With overlayfs, a mapping is of a file in the file system below; with NFS, a host sees only itself.
    fstatfs = _file_system_of("fstatfs")
    return fstatfs is not None and fstatfs(handle) == _TMPFS


def on_disk(directory: str) -> bool:
    statfs = _file_system_of("statfs")
    if statfs is None or statfs(os.fsencode(directory)) in (0, _TMPFS, _RAMFS, _HUGETLBFS):
        return False
    return os.statvfs(directory).f_blocks > 0  # such as /proc have none


@lru_cache(2)
def _file_system_of(function: str) -> Callable[[int | bytes], int] | None:
    """Return the call for the kind of file system of a descriptor (fstatfs) or path (statfs); 0: unknown."""
    import ctypes  # NumPy has imported it already

    call = getattr(ctypes.CDLL(None), function, None)
    if call is None:
        return None

    def kind(file: int | bytes) -> int:
        found = ctypes.create_string_buffer(_STATFS_BYTES)
        return ctypes.c_long.from_buffer(found).value if call(file, found) == 0 else 0

    return kind


def exclusive(handle: int) -> bool:
    # The kernel grants a write lease if the file has no other open file description. A mapping holds its own.
    # An attempt to open the file meanwhile sends a signal, which is to be one that is ignored by default.
    try:
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def set_reused(handle: int) -> None:
    os.fchmod(handle, 0o600 | REUSED)


resize = os.ftruncate


class _Calls(NamedTuple):
    """Calls of the C library, which keep other threads of the interpreter from mapping anything meanwhile."""

    mremap: Callable[[int, int, int, int, int], int]
    mmap: Callable[[int, int, int, int, int, int], int]
    mprotect: Callable[[int, int, int], int]
    address: Callable[[mmap.mmap], int]


@lru_cache(1)
def _calls() -> _Calls | None:
    """Return the calls; None if this kernel cannot move the pages of shared mappings (before 5.13)."""
    import ctypes  # NumPy has imported it already

    library = ctypes.PyDLL(None)
    size, whole = ctypes.c_size_t, ctypes.c_int
    library.mremap.restype = library.mmap.restype = size
    library.mremap.argtypes = size, size, size, whole, size
    library.mmap.argtypes = size, size, whole, whole, whole, ctypes.c_long
    library.mprotect.argtypes = size, size, whole

    def address(mapping: mmap.mmap) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(mapping))

    calls = _Calls(library.mremap, library.mmap, library.mprotect, address)
    source, target = mmap.mmap(-1, mmap.PAGESIZE), mmap.mmap(-1, mmap.PAGESIZE)
    return calls if _moved(calls, source, target, mmap.PAGESIZE) else None


def _moved(calls: _Calls, source: mmap.mmap, target: mmap.mmap, size: int) -> bool:
    at = calls.address(target)
    return calls.mremap(calls.address(source), size, size, _MAYMOVE | _FIXED | _DONTUNMAP, at) == at


def move_pages(source: mmap.mmap, target: mmap.mmap, handle: int, size: int) -> bool:
    calls = _calls()
    if calls is None:
        return False
    at = calls.address(target)
    if _moved(calls, source, target, size):
        # A program may have protected the memory of the old block, or kept it from its children.
        calls.mprotect(at, size, _BOTH)
        target.madvise(mmap.MADV_DOFORK)
        return True
    # The source is in several parts, because a program has advised the kernel on some of them, or there can
    # be no more mappings. The kernel may have unmapped the target before it found that.
    if calls.mmap(at, size, _BOTH, mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE, handle, 0) != at and (
        _inode_at(at) != os.fstat(handle).st_ino
    ):
        _lost.append(target)
        raise OSError(errno.ENOMEM, "another thread has mapped something in the place of a block")
    return False


def _inode_at(address: int) -> int:
    """Return the inode of the file that is mapped at an address; 0 if there is none."""
    for line in (contents_of("/proc/self/maps") or b"").splitlines():
        addresses, _, _, _, inode = line.split()[:5]
        start, end = addresses.split(b"-")
        if int(start, 16) <= address < int(end, 16):
            return int(inode)
    return 0


_DETACHED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | getattr(mmap, "MAP_NORESERVE", 0)


def detach(mapping: mmap.mmap, handle: int) -> None:
    calls = _calls()
    if calls is not None:
        calls.mmap(calls.address(mapping), len(mapping), _BOTH, _DETACHED, -1, 0)
    block = os.fstat(handle)
    for name in names("/proc/self/fd"):  # until Python 3.13, a mapping has a descriptor of its own
        with contextlib.suppress(OSError):
            if int(name) != handle and os.path.samestat(os.fstat(int(name)), block):
                os.close(int(name))


_MADV_POPULATE_READ = 22  # <linux/mman.h>, from Linux 5.14 on


def populate(mapping: mmap.mmap, start: int = 0, length: int | None = None) -> None:
    with contextlib.suppress(OSError):
        mapping.madvise(_MADV_POPULATE_READ, start, len(mapping) - start if length is None else length)


_UNSHARED = mmap.MAP_PRIVATE | _MAP_FIXED | getattr(mmap, "MAP_NORESERVE", 0)


def unshare(mapping: mmap.mmap, handle: int, start: int, length: int) -> bool:
    calls = _calls()
    if calls is None or start % mmap.PAGESIZE:
        return False
    at = calls.address(mapping) + start
    if calls.mmap(at, length, _BOTH, _UNSHARED, handle, start) == at:
        return True
    # The kernel may have unmapped the bytes before it found that it cannot map them: zeros take their place.
    return calls.mmap(at, length, _BOTH, _DETACHED, -1, 0) == at


def fork_witness() -> tuple[int, int]:
    return opened(os.pipe2, os.O_CLOEXEC | os.O_NONBLOCK)


def unwitnessed(witness: tuple[int, int]) -> bool:
    reading, writing = witness
    os.close(writing)
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False
    finally:
        os.close(reading)


def thread_runs(native: int) -> bool:
    return os.path.exists(f"/proc/self/task/{native}")


def holders(blocks: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
    wanted: dict[tuple[int, int], list[int]] = {block: [] for block in blocks}
    if not wanted:
        return {}
    lease = str(LEASE).encode()
    for entry in names("/proc"):
        if not entry.isdigit():
            continue
        try:
            handles = opened(os.listdir, f"/proc/{entry}/fd")
        except errors.LimitError:
            raise
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
            locks = contents_of(f"/proc/{entry}/fdinfo/{handle}") or b""
            if any(b"OFDLCK" in line and lease in line.split() for line in locks.splitlines()):
                pids.append(int(entry))
    return {block: tuple(sorted(pids)) for block, pids in wanted.items()}
