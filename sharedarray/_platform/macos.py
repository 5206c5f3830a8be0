"""macOS. **This file was written to the contract and has never been run**: no such machine was at hand.

What differs from Linux:

- There is no memory file system. Blocks are files in the user's own temporary directory, which the page
  cache serves; ``SHAREDARRAY_DIR`` on a RAM disk keeps them off the disk.
- A file cannot be without a name, so a draft has a scratch name until it is published.
- There is no ``/proc``. Another handle on a block is opened by the path that the kernel remembers
  (``F_GETPATH``), so a block that was unlinked counts as closed in a forked child.
- ``F_OFD_*`` are there as on Linux, with other numbers and another ``struct flock``; the locking itself is
  the code that Linux tests. (portalocker and filelock lock whole files, and a lease is a byte.)
- Nor is there a path to what another process has open, so pools have no recycled memory here, and large plain
  arrays go through the pipe.
- Processes and memory are looked at with psutil, which the package requires here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sharedarray._platform.contract import Draft
from sharedarray._platform.descriptors import (
    keep_standard_streams as keep_standard_streams,
    need_descriptors as need_descriptors,
    opened as opened,
    opener as opener,
    standard_streams as standard_streams,
)
from sharedarray._platform.fresh_pages import (
    REUSES_PAGES as REUSES_PAGES,
    UNSHARES as UNSHARES,
    detach as detach,
    exclusive as exclusive,
    fork_witness as fork_witness,
    is_memory as is_memory,
    move_pages as move_pages,
    populate as populate,
    resize as resize,
    set_reused as set_reused,
    thread_runs as thread_runs,
    unshare as unshare,
    unwitnessed as unwitnessed,
)
from sharedarray._platform.posix import (
    NAME_LIMIT as NAME_LIMIT,
    RECORDS_DECIDE as RECORDS_DECIDE,
    STILL_MADE as STILL_MADE,
    WRITABLE,
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
from sharedarray._platform.processors import processors as processors

if TYPE_CHECKING:
    import socket

NEEDS_JANITOR = True
SEMAPHORES: str | None = None  # the kernel lists none
LENGTHENS = True
DEFAULT_DIRECTORY = os.path.realpath(tempfile.gettempdir())

_F_GETPATH, _PATH_BYTES = 50, 1024  # <sys/fcntl.h>, and PATH_MAX
_ZEROS = memoryview(bytes(1 << 20))  # what reserves pages, a piece at a time


draft = scratch_draft


def draft_memory(directory: str, size: int, path: str | None, *, replace: bool = False) -> Draft:
    found = draft(directory)
    if path is None:
        os.unlink(str(found.scratch))
        os.ftruncate(found.handle, size)
        return Draft(found.handle)
    return found


def reserve(handle: int, size: int, start: int = 0) -> None:
    for offset in range(start, size, len(_ZEROS)):
        write(handle, offset, [_ZEROS[: size - offset]])


def reserve_parts(handle: int, size: int, parts: Sequence[tuple[int, int]]) -> None:
    if os.fstat(handle).st_size < size:
        os.ftruncate(handle, size)
    # To write would destroy what a part holds already. A byte that is written as it is allocates its page.
    for start, end in parts:
        for offset in range(start, end, mmap.PAGESIZE):
            os.pwrite(handle, os.pread(handle, 1, offset), offset)


def publish(draft: Draft, path: str) -> None:
    os.link(str(draft.scratch), path)
    os.unlink(str(draft.scratch))


def publish_file(draft: Draft, path: str) -> Draft:
    return publish_with_or_without_links(draft, path, publish)


def missing(directory: str) -> str | None:
    return lacks(directory, lock, pin)


def path_of(handle: int, pid: int | None = None) -> str | None:
    return None


def shares_handles() -> bool:
    return False


def pin(handle: int, path: str) -> None:
    os.link(_path(handle), path)


def _path(handle: int) -> str:
    return os.fsdecode(fcntl.fcntl(handle, _F_GETPATH, bytes(_PATH_BYTES)).split(b"\0", 1)[0])


def _flock(kind: int, start: int, length: int) -> bytes:
    """Return one ``struct flock`` of macOS: start, length, pid, type, whence."""
    return struct.pack("qqihh", start, length, 0, kind, os.SEEK_SET)


def open_again(handle: int) -> int:
    again = opened(os.open, _path(handle), WRITABLE)
    if os.fstat(again).st_ino != os.fstat(handle).st_ino:
        os.close(again)
        raise FileNotFoundError(errno.ENOENT, "the block has no name any more")
    return again


def open_to_lock(file: str | int) -> int:
    if isinstance(file, str):
        return open_as_permitted(file)
    again = open_as_permitted(_path(file))
    if not os.path.sameopenfile(again, file):
        os.close(again)
        raise FileNotFoundError(errno.ENOENT, "the file has no name any more")
    return again


def path_behind(handle: int) -> str:
    return _path(handle)


def born(handle: int) -> int:
    return int(getattr(os.fstat(handle), "st_birthtime", 0) * 1_000_000_000)


_locks = Locks(_flock, slice(20, 22), open_again, ask=92, try_=90, wait=91)
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


def process_started(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 1000)
    except psutil.Error:
        return None


def command_line(pid: int) -> list[str]:
    import psutil

    try:
        return list(psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return []


def uptime() -> tuple[int, float]:
    return 0, 0.0


def runs(program: str) -> bool:
    return False


def adopts_orphans() -> bool:
    return False  # launchd adopts every orphan


def peer(connection: socket.socket) -> int:
    return 0


def process_space() -> int:
    return 0


def await_end(pid: int, started: int) -> None:
    import psutil

    if process_started(pid) == started:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).wait()


def holders(blocks: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
    import psutil

    wanted: dict[tuple[int, int], set[int]] = {block: set() for block in blocks}
    for process in psutil.process_iter():
        try:
            paths = [file.path for file in process.open_files()]
        except psutil.Error:
            continue  # it ended, or it is another user's
        for path in paths:
            try:
                found = os.stat(path)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) in wanted:
                wanted[found.st_dev, found.st_ino].add(process.pid)
    return {block: tuple(sorted(pids)) for block, pids in wanted.items()}


def free_bytes(directory: str, *, memory: bool) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def on_disk(directory: str) -> bool:
    return False  # there is no memory file system to choose instead


def free_memory() -> int | None:
    import psutil

    return int(psutil.virtual_memory().available)
