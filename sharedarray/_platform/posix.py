"""Code that Linux and macOS share: files, names, metadata links, and locks of open file descriptions.

A lease is a read lock on one byte far behind any data, and the removal lock is a write lock on the byte after
it (``fcntl(2)``, "Open file description locks"). Such a lock belongs to the open file description: it ends at
an explicit unlock, or when the last descriptor *and mapping* made from the description is gone. A live
mapping keeps its description, so a process that releases a block always unlocks; a forked child shares its
parent's description, so it gets one of its own (`hold_again`) and only closes what it inherited.

To learn whether another process holds a block, a process tries to write-lock the lease's byte. That is atomic
and opens no file. ``flock`` on a fresh description missed a holder in one of a hundred races.

Metadata links are symbolic links that lead nowhere: one call writes the whole text or fails, one reads it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sharedarray._clock import time
from sharedarray._platform import descriptors, limits
from sharedarray._platform.contract import Draft, Mode, Status
from sharedarray._platform.descriptors import opened, opened_file, standard_streams

RECORDS_DECIDE = True
STILL_MADE = "a block that is still being made"  # never used here: a block has no name before
NAME_LIMIT = 200  # bytes; the file systems hold 255, and a record's name adds an inode to it

WRITABLE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
READABLE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE_STEP = 1 << 30  # bytes per write: the kernels write less than 2**31 in one call
_COPY_STEP = 1 << 23  # bytes that are copied at a time
_FILE_TYPE = 0o170000  # the bits of a mode that say what kind of file it is
REUSED = stat.S_ISVTX  # a bit of a file's mode, unused for files: the file was another block before
_TICK = 0.05  # seconds by which the times of files may be behind the clock: some ticks of the kernel
_BUSY = (errno.EAGAIN, errno.EACCES)
# Errors by which a file refuses one way of access; then another one is tried.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ETXTBSY)
LEASE = 1 << 62  # byte offsets far behind any data, below the kernels' limit of 2**63 - 1
_REMOVAL_LOCK = LEASE + 1


# The dict behind os.environ, which raises an exception for a variable that is not set. That takes as long as
# two system calls, and every attachment asks.
_environment: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)
if not isinstance(_environment, dict) or not all(isinstance(name, bytes) for name in _environment):
    _environment = None


def setting(name: str) -> str | None:
    if _environment is None:
        return os.environ.get(name)
    found = _environment.get(name.encode())
    return None if found is None else os.fsdecode(found)


def user() -> str:
    return str(os.geteuid())


def name_problem(name: str) -> str | None:
    return None


# -- files ----------------------------------------------------------------------------------------------


def scratch_draft(directory: str) -> Draft:
    """Return a draft with a temporary name, for file systems whose files cannot be without one."""
    scratch = f"{directory}/.{os.getpid()}.{os.urandom(6).hex()}.part"
    try:
        handle = opened_file(scratch, os.O_CREAT | os.O_EXCL | WRITABLE, 0o600)
    except OSError as error:
        limits.check_files(error, directory)
        raise
    os.fchmod(handle, 0o600)  # whatever the umask
    return Draft(handle, scratch)


def write(handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
    remaining = [buffer for buffer in buffers if len(buffer)]
    while remaining:
        step = [remaining[0][:_WRITE_STEP], *remaining[1:]] if len(remaining[0]) > _WRITE_STEP else remaining
        try:
            written = os.pwritev(handle, step, offset)
        except OSError as error:
            raise limits.file_size(error, offset + sum(len(each) for each in remaining)) from None
        offset += written
        while remaining and written >= len(remaining[0]):
            written -= len(remaining.pop(0))
        if written:
            remaining[0] = remaining[0][written:]


def read(handle: int, count: int, offset: int = 0) -> bytes:
    return os.pread(handle, count, offset)


def open_path_of(path: str) -> int:
    return opened_file(path, os.O_RDWR | os.O_CLOEXEC)


def shrink(handle: int) -> None:
    os.ftruncate(handle, 0)


# How the kernels refuse to make a link: the file system has none, a filter forbids it, or there is no /proc.
_NO_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOENT)


def publish_with_or_without_links(draft: Draft, path: str, publish: Callable[[Draft, str], None]) -> Draft:
    """Give a file its path by a link, or by a move if links cannot be made there."""
    try:
        publish(draft, path)
    except FileExistsError:
        raise
    except OSError as error:
        return _publish_without_links(draft, path, error)
    return draft


def _publish_without_links(draft: Draft, path: str, error: OSError) -> Draft:
    """Give a file its path where a link could not be made, because of `error`.

    The path is taken first, by an empty file; then the file with the content is moved there.
    """
    if error.errno not in _NO_LINK or not os.path.isdir(os.path.dirname(path)):
        raise error
    made = draft
    if draft.scratch is None:
        made = scratch_draft(os.path.dirname(path))
    try:
        if made is not draft:
            _copy(draft.handle, made.handle)
        os.close(opened_file(path, os.O_CREAT | os.O_EXCL | WRITABLE, 0o600))
        try:
            os.rename(str(made.scratch), path)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        if made is not draft:
            discard(made)
        raise
    if made is not draft:
        os.close(draft.handle)
    return Draft(made.handle)


def _copy(source: int, target: int) -> None:
    offset = 0
    while piece := os.pread(source, _COPY_STEP, offset):
        write(target, offset, [memoryview(piece)])
        offset += len(piece)


def lacks(
    directory: str, lock: Callable[[int, int, int, bool, bool], bool], pin: Callable[[int, str], None]
) -> str | None:
    """Return what a directory's file system lacks that blocks need; None if it has everything.

    Parameters
    ----------
    directory
        The directory, in which this is tried.
    lock, pin
        The platform's functions.
    """
    scratch = f"{directory}/.{os.getpid()}.{os.urandom(6).hex()}"
    try:
        handle = opened_file(f"{scratch}.part", os.O_CREAT | os.O_EXCL | WRITABLE, 0o600)
    except OSError:
        return None  # the directory is missing, full or read-only, as the caller's error tells
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("locks of open file descriptions (F_OFD_SETLK)", lambda: lock(handle, LEASE, 1, True, False)),
        ("hard links", lambda: pin(handle, f"{scratch}.link")),
        ("symbolic links", lambda: os.symlink("text", f"{scratch}.metadata")),
    )
    try:
        for what, step in steps:
            try:
                step()
            except OSError:
                return what
        return None
    finally:
        os.close(handle)
        for suffix in ("part", "link", "metadata"):
            remove(f"{scratch}.{suffix}")


def discard(draft: Draft) -> None:
    if draft.scratch:
        remove(draft.scratch)
    os.close(draft.handle)


def open(path: str, *, writable: bool) -> int:
    return opened_file(path, WRITABLE if writable else READABLE)


close = os.close


def open_as_permitted(path: str) -> int:
    refusal = None
    for access in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
        try:
            return opened_file(path, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def leads_to(path: str, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def status(handle: int) -> Status:
    found = os.fstat(handle)
    regular = found.st_mode & _FILE_TYPE == stat.S_IFREG
    reused = found.st_mode & REUSED != 0
    return Status(found.st_dev, found.st_ino, found.st_size, found.st_nlink, regular, reused)


def allocated(handle: int) -> int:
    return os.fstat(handle).st_blocks * 512


def others(handle: int) -> str | None:
    found = os.fstat(handle)
    if found.st_uid != os.geteuid():
        return f"owned by uid {found.st_uid}"
    # An access list by which others may write sets the bit of the group.
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"writable by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None


_ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}

_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
_BOTH = mmap.PROT_READ | mmap.PROT_WRITE

if sys.version_info < (3, 13):  # a mapping has a descriptor of its own, the lowest that is free

    def map(cls: type[mmap.mmap], handle: int, size: int, mode: Mode, *, ready: bool = False) -> mmap.mmap:
        try:
            # If `ready`, the handle was opened long ago. Since then, standard streams may have been closed.
            if not (ready or descriptors.streams.found_closed):
                return cls(handle, size, access=_ACCESS[mode])
            with standard_streams():
                if ready and mode == "r+":
                    return cls(handle, size, flags=mmap.MAP_SHARED | _POPULATE, prot=_BOTH)
                return cls(handle, size, access=_ACCESS[mode])
        except OSError as error:
            raise limits.maps(error, size) from None

else:

    def map(cls: type[mmap.mmap], handle: int, size: int, mode: Mode, *, ready: bool = False) -> mmap.mmap:
        try:
            if ready and mode == "r+":
                return cls(handle, size, flags=mmap.MAP_SHARED | _POPULATE, prot=_BOTH, trackfd=False)
            return cls(handle, size, access=_ACCESS[mode], trackfd=False)
        except OSError as error:
            raise limits.maps(error, size) from None


def sync(mapping: mmap.mmap) -> None:
    mapping.flush()


# -- leases and locks -----------------------------------------------------------------------------------

# Globals: an uncontended lock takes fractions of a microsecond, and `fcntl.F_RDLCK` is one more look-up.
_SHARED, _EXCLUSIVE, _NONE, _fcntl = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK, fcntl.fcntl


class Locks:
    """The contract's leases and locks, by way of one kernel's ``struct flock``.

    Parameters
    ----------
    pack
        Makes the bytes of a ``struct flock`` from type, start and length.
    type_of
        Finds the type in such bytes.
    reopen
        Opens another description of the block behind a handle.
    ask, try_, wait
        The kernel's ``F_OFD_GETLK``, ``F_OFD_SETLK`` and ``F_OFD_SETLKW``.
    """

    def __init__(
        self,
        pack: Callable[[int, int, int], bytes],
        type_of: slice,
        reopen: Callable[[int], int],
        ask: int,
        try_: int,
        wait: int,
    ) -> None:
        self._pack = pack
        self._type = type_of
        self._reopen = reopen
        self._ask, self._try, self._wait = ask, try_, wait
        self._take_lease = pack(fcntl.F_RDLCK, LEASE, 1)
        self._be_alone = pack(fcntl.F_WRLCK, LEASE, 1)
        self._removal = pack(fcntl.F_WRLCK, _REMOVAL_LOCK, 1)
        self._release = pack(fcntl.F_UNLCK, LEASE, 2)
        self._free = pack(fcntl.F_UNLCK, 0, 1)[type_of]
        self._use = pack(fcntl.F_RDLCK, 0, 1)
        self._use_alone = pack(fcntl.F_WRLCK, 0, 1)

    def enter(self, path: str, writable: bool) -> tuple[int, bool, int, int, int, int, bool, bool]:
        begun = time.time()
        handle = opened_file(path, WRITABLE if writable else READABLE)
        try:
            try:
                fcntl.fcntl(handle, self._try, self._take_lease)
                held = True
            except BlockingIOError:
                held = False
            found = os.fstat(handle)
            regular = found.st_mode & _FILE_TYPE == stat.S_IFREG
            reused = found.st_mode & REUSED != 0 and found.st_ctime > begun - _TICK
            return handle, held, found.st_dev, found.st_ino, found.st_size, found.st_nlink, regular, reused
        except BaseException:
            os.close(handle)
            raise

    def hold(self, handle: int, wait: bool = True) -> bool:
        try:
            fcntl.fcntl(handle, self._wait if wait else self._try, self._take_lease)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def hold_again(self, handle: int) -> int:
        again = self._reopen(handle)
        try:
            self.hold(again)
        except BaseException:
            os.close(again)
            raise
        return again

    def hold_apart(self, handle: int) -> None:
        again = self.hold_again(handle)
        try:
            self.release(handle)
            os.dup2(again, handle, inheritable=False)  # in one step: other threads always find it open
        finally:
            os.close(again)

    def drop_lease(self, handle: int) -> bool:
        fcntl.fcntl(handle, self._try, self._release)
        return fcntl.fcntl(handle, self._ask, self._be_alone)[self._type] == self._free

    def release(self, handle: int) -> None:
        fcntl.fcntl(handle, self._try, self._release)

    def lock_removal(self, handle: int) -> None:
        fcntl.fcntl(handle, self._wait, self._removal)

    def alone(self, handle: int) -> bool:
        try:
            _fcntl(handle, self._try, self._be_alone)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def held(self, handle: int) -> bool:
        return fcntl.fcntl(handle, self._ask, self._be_alone)[self._type] != self._free

    def use(self, handle: int) -> None:
        fcntl.fcntl(handle, self._try, self._use)

    def used(self, handle: int) -> bool:
        return _fcntl(handle, self._ask, self._use_alone)[self._type] != self._free

    def lock(self, handle: int, start: int, length: int, shared: bool, wait: bool) -> bool:
        wanted = self._pack(_SHARED if shared else _EXCLUSIVE, start, length)
        try:
            _fcntl(handle, self._wait if wait else self._try, wanted)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def locked(self, handle: int, start: int, length: int, *, exclusively: bool = False) -> bool:
        wanted = _SHARED if exclusively else _EXCLUSIVE
        asked = _fcntl(handle, self._ask, self._pack(wanted, start, length))
        return bool(asked[self._type] != self._free)

    def unlock(self, handle: int, start: int, length: int) -> None:
        _fcntl(handle, self._try, self._pack(_NONE, start, length))


# -- names ----------------------------------------------------------------------------------------------


def inode_of(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def ended(inode: int) -> bool:
    return False


move = os.replace


def remove(path: str, inode: int | None = None) -> bool:
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
            os.chmod(path, 0o700)  # whatever the umask
        except OSError as error:
            limits.check_files(error, os.path.dirname(path))
            if not isinstance(error, FileExistsError):
                raise
            # Another process of this user was faster, or another user: the checks below tell.
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
        return opened(os.listdir, directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_metadata(path: str, text: str, *, replace: bool = False) -> None:
    if not replace:
        _link(text, path)
        return
    for last in (False, True):
        fresh = f"{os.path.dirname(path)}/n.{os.getpid()}.{os.urandom(4).hex()}"
        _link(text, fresh)
        try:
            os.rename(fresh, path)
        except FileNotFoundError:  # a sweep in another pid namespace has removed it as a leftover
            if last:
                raise
        else:
            return


def _link(text: str, path: str) -> None:
    try:
        os.symlink(text, path)
    except OSError as error:
        limits.check_files(error, os.path.dirname(path))
        raise


def read_metadata(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
            return None
        raise


def can_persist(handle: int) -> bool:
    return True


def capacity(directory: str) -> int:
    found = os.statvfs(directory)
    return found.f_blocks * found.f_frsize


def memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# -- the terminal ---------------------------------------------------------------------------------------


def terminal() -> AbstractContextManager[Callable[[float], str | None]]:
    from sharedarray._platform import posix_terminal  # one command needs it, and it needs a terminal

    return posix_terminal.terminal()
