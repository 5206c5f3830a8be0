r"""Windows: blocks are named memory of the kernel, as CPython's are; a block that persists is a file.

How a block lives
-----------------
A block is a *section*, a named file mapping over the page file
(``CreateFileMapping``). The kernel counts the handles to it, so a release and ``TerminateProcess`` free it
alike, and no janitor is needed. All of its pages are charged when it is made
(``SEC_COMMIT``), so no later write can fail. The kernel knows a section's size in whole pages only, so one
page of this library follows the data::

    section "frames"       the data, in whole pages
                           magic  state  id  size       one page: 8 bytes each; state is 0 in the making,
                                                        1 ready, 2 unlinked; the size is exact
    event "sharedarray.held.ID"         open in every process that has a lease
    event "sharedarray.held.ID.PID"     the same by process, to list its holders
    event "sharedarray.pinned.ID"       open while a reference is in flight

A section is made under its name, because the kernel can neither name nor rename it later. The state says when
it is ready; a process that opens it before gets an error. A lease is a handle of its own, not the mapping's:
a block that is closed while views of it live must be gone for other processes. The kernel cannot remove a
name either. So the state of an unlinked section says so, and the next block of that name gets another of
`_GENERATIONS` names, which an attaching process tries one after the other. Names are given and removed under
one mutex.

In the default directory a section has the plain name of its block, so that CPython's `SharedMemory` finds
it, and a section that CPython made is found too. The names for another ``SHAREDARRAY_DIR`` begin with a word
that stands for it. All belong to one logon session (``Local\``), as CPython's do.

A block that persists is a file in the directory, published by renaming. Files are opened such that other
processes may read, write, rename and remove them meanwhile. The directory also has the registry, as
elsewhere: metadata links are small files.

Locks
-----
``LockFileEx`` keeps processes that did not lock from reading and writing. So bytes are locked 2**62 further
on, where no process reads or writes, and a lock is advisory, as elsewhere. For a section, an empty
file beside its record is locked. The kernel has no timed or interruptible wait for such a lock that works on
all systems, so a process that waits tries from time to time.

References in flight
--------------------
A pin is a metadata link with the numbers of two handles, of the section and of an event, in a living process:
the sender's parent, if multiprocessing started the sender, or else the sender. The process that removes the
metadata link closes these handles there (``DUPLICATE_CLOSE_SOURCE``). So a reference outlives a worker that
sends it and ends, but not the process that has the handles.

This was tested under Wine 8; comments say what Wine lacks.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import win32api
import win32con
import win32event
import win32file
import win32process
import win32security
import winerror

from sharedarray._platform.contract import Draft, Mode, Status
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
from sharedarray._platform.processors import processors as processors
from sharedarray._platform.windows_drafts import (
    draft as draft,
    draft_memory as draft_memory,
    publish as publish,
    publish_file as publish_file,
    read as read,
    reserve as reserve,
    reserve_parts as reserve_parts,
    shrink as shrink,
    write as write,
)
from sharedarray._platform.windows_files import (
    READ_WRITE,
    SHARE_ALL,
    close_file,
    descriptor_of,
    file_inode,
    identity,
    make_private_directory as make_private_directory,
    missing as missing,
    names as names,
    open_file,
    paths,
    remove_directory as remove_directory,
    same_case,
)
from sharedarray._platform.windows_kernel import kernel32, last_error, msvcrt, os_error, translating
from sharedarray._platform.windows_links import (
    ended as ended,
    inode_of as inode_of,
    leads_to as leads_to,
    move as move,
    open_pin,
    read_metadata as read_metadata,
    remove as remove,
    write_metadata as write_metadata,
)
from sharedarray._platform.windows_locks import lock_at as lock_at, unlock_at, wait_until_done
from sharedarray._platform.windows_names import (
    DEFAULT_DIRECTORY as DEFAULT_DIRECTORY,
    MEMORY,
    NAME_LIMIT as NAME_LIMIT,
    OURS,
    event_name,
    in_registry,
    is_pin,
    name_problem as name_problem,
    path_of as path_of,
    pinned_name,
)
from sharedarray._platform.windows_processes import (
    adopts_orphans as adopts_orphans,
    await_end as await_end,
    close_in,
    command_line as command_line,
    give_to,
    keeper_of_references,
    peer as peer,
    process_space as process_space,
    process_started as process_started,
    runs as runs,
    uptime as uptime,
)
from sharedarray._platform.windows_sections import (
    ACCESS,
    FIRST,
    MAP_READ,
    NO_FILE,
    STILL_MADE as STILL_MADE,
    UNLINKED,
    Section,
    close_handle,
    end_of,
    find_section,
    give_lease,
    map_section,
    naming,
    number_of,
    open_event,
    open_section,
    section_exists,
    sections,
    take_lease,
)
from sharedarray._platform.windows_security import (
    OWNER_AND_LIST,
    READ_CONTROL,
    outsiders,
    private_attributes,
    user as user,
)
from sharedarray._platform.windows_space import (
    capacity as capacity,
    free_bytes as free_bytes,
    free_memory as free_memory,
    memory as memory,
    on_disk as on_disk,
)
from sharedarray._platform.windows_wakers import (
    close_waker as close_waker,
    drain as drain,
    make_maker,
    open_waker as open_waker,
    remove_unused_waker as remove_unused_waker,
    wait_for_wakers as wait_for_wakers,
    wake as wake,
    watch as watch,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

NEEDS_JANITOR = False
SEMAPHORES: str | None = None
LENGTHENS = False  # a section keeps its size
RECORDS_DECIDE = False
_SHIFT = 1 << 62  # bytes behind the data at which they are locked
_LEASE = 1 << 61  # the same for a lease on a file; the byte after it is the removal lock
_REMOVAL_LOCK = _LEASE + 1


# -- who we are -----------------------------------------------------------------------------------------


def opened(opener: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
    # No handle of the system's is a standard stream's by its number.
    return opener(*arguments, **keywords)


def opener(path: str, flags: int) -> int:
    return os.open(path, flags | int(os.__dict__["O_NOINHERIT"]), 0o666)


def need_descriptors(count: int) -> None:
    pass  # the system has no such limit


def standard_streams() -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def keep_standard_streams() -> None:
    pass


def setting(name: str) -> str | None:
    return os.environ.get(name)


make_waker = make_maker(private_attributes)


def discard(draft: Draft) -> None:
    close(draft.handle)
    if draft.scratch:
        remove(draft.scratch)


def open_path_of(path: str) -> int:
    section, _ = open_section(path, path)
    if section is None:
        raise FileNotFoundError(errno.ENOENT, "no such memory", path)
    return number_of(section)


def open(path: str, *, writable: bool) -> int:
    if is_pin(path):
        return open_pin(path, writable=writable)
    section = find_section(path)
    if section is not None:
        return number_of(section)
    try:
        handle = open_file(path, READ_WRITE if writable else win32con.GENERIC_READ)
    except FileNotFoundError:
        section = find_section(path)  # a section may have got the name of a file just now
        if section is None:
            raise
        return number_of(section)
    if not in_registry(path) and not same_case(path):
        close(handle)
        raise FileNotFoundError(errno.ENOENT, "there is only another spelling", path)
    return handle


def close(handle: int) -> None:
    if handle < FIRST:
        close_file(handle)
        return
    section = sections.pop(handle, None)
    if section is None:
        raise OSError(errno.EBADF, "this handle is closed")
    section.draft = None
    give_lease(section)
    if section.users is not None:
        section.users.Close()
    close_handle(section.handle)
    if section.locks >= 0:
        os.close(section.locks)
        if not section.foreign and not section_exists(section.id):
            _drop_locks(section)


def status(handle: int) -> Status:
    if handle < FIRST:
        found = os.fstat(handle)
        device, inode = identity(msvcrt.get_osfhandle(handle))
        path = paths.get(handle)
        # Whether a file that is removed while it is open still counts a name differs between systems.
        gone = path is not None and file_inode(path) != inode
        links = 0 if gone else max(1, found.st_nlink)
        return Status(device, inode, found.st_size, links, stat.S_ISREG(found.st_mode))
    section = sections[handle]
    links = int(section.lease is not None or section.foreign or section_exists(section.id))
    if links and not section.foreign:
        links = int(end_of(section.handle)[0] != UNLINKED)
    return Status(0, section.id, section.size, links, True)


def map(cls: type[mmap.mmap], handle: int, size: int, mode: Mode, *, ready: bool = False) -> mmap.mmap:
    if handle < FIRST:
        return cls(handle, size, access=ACCESS[mode])
    return map_section(cls, sections[handle], mode)


def sync(mapping: mmap.mmap) -> None:
    mapping.flush()  # which gives the pages to the file, and the file has to give them to the disk
    path = getattr(mapping, "path", None)
    if path is not None and os.path.isfile(path):
        handle = open_file(path, follow=True)
        try:
            os.fsync(handle)
        finally:
            close(handle)


# -- leases ---------------------------------------------------------------------------------------------


def enter(path: str, writable: bool) -> tuple[int, bool, int, int, int, int, bool, bool]:
    with naming():  # or the name could go to another block in between
        handle = open(path, writable=writable)
        section = sections.get(handle)
        if section is not None and not take_lease(section):
            close(handle)
            raise FileNotFoundError(errno.ENOENT, "its last holder is just gone", path)
    if section is not None:
        return handle, True, 0, section.id, section.size, 1, True, False
    try:
        held = lock_at(handle, _LEASE, 1, shared=True)
        return handle, held, *status(handle)
    except BaseException:
        close(handle)
        raise


def hold(handle: int, wait: bool = True) -> bool:
    if handle >= FIRST:
        section = sections[handle]
        if section.lease is None:
            take_lease(section)  # else the block is gone, which `status` shows
        return True
    if not wait:
        return lock_at(handle, _LEASE, 1, shared=True)
    wait_until_done(lambda: lock_at(handle, _LEASE, 1, shared=True))
    return True


def hold_again(handle: int) -> int:
    again = open_again(handle)
    try:
        hold(again)
    except BaseException:
        close(again)
        raise
    return again


def hold_apart(handle: int) -> None:
    pass  # there are no forks


def open_again(handle: int) -> int:
    if handle < FIRST:
        return _again(handle, READ_WRITE)
    section = sections[handle]
    return number_of(
        Section(
            _own_copy(section.handle), section.name, section.path, section.id, section.size, section.foreign
        )
    )


def _again(handle: int, access: int) -> int:
    """Open the file behind a descriptor once more, by itself or by its path."""
    path = paths.get(handle, "")
    original = msvcrt.get_osfhandle(handle)
    again = kernel32.ReOpenFile(original, access, SHARE_ALL, 0)
    if again is not None and again != NO_FILE.value:
        return descriptor_of(again, access, path)
    code = last_error()
    if code in (winerror.ERROR_CALL_NOT_IMPLEMENTED, winerror.ERROR_INVALID_FUNCTION):
        path = path_behind(handle)
        fresh = open_file(path, access)
        if os.path.sameopenfile(fresh, handle):
            return fresh
        close(fresh)
        raise FileNotFoundError(errno.ENOENT, "the file has no name any more", path)
    raise os_error(code, path)


def _own_copy(handle: int) -> int:
    me = win32api.GetCurrentProcess()
    with translating():
        copy = win32api.DuplicateHandle(me, handle, me, 0, False, win32con.DUPLICATE_SAME_ACCESS)
    return int(copy.Detach())


def open_to_lock(file: str | int) -> int:
    if isinstance(file, int) and file >= FIRST:
        return _open_locks(file)
    refusal: OSError | None = None
    for access in (READ_WRITE, win32con.GENERIC_READ, win32con.GENERIC_WRITE):
        try:
            return open_file(file, access, follow=True) if isinstance(file, str) else _again(file, access)
        except PermissionError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _open_locks(handle: int) -> int:
    section = sections[handle]
    folder = f"{os.path.dirname(section.path)}/.sharedarray-{user()}"
    make_private_directory(folder)
    locks = open_file(f"{folder}/l.{section.id}", disposition=win32con.OPEN_ALWAYS, private=True)
    paths.pop(locks, None)
    again = open_again(handle)
    sections[again].locks = locks
    return again


def path_behind(handle: int) -> str:
    if handle >= FIRST:
        return sections[handle].path
    with translating():
        path = str(win32file.GetFinalPathNameByHandle(msvcrt.get_osfhandle(handle), 0))
    return path.removeprefix("\\\\?\\")


def born(handle: int) -> int:
    return 0  # no number comes again: NTFS counts how often it has given each to a file


def can_persist(handle: int) -> bool:
    return handle < FIRST


def drop_lease(handle: int) -> bool:
    if handle < FIRST:
        unlock_at(handle, _LEASE, 1)
        return not held(handle)
    section = sections[handle]
    with naming():  # of two that release it at once, the second sees no holder
        give_lease(section)
        if section.foreign or section_exists(section.id):
            return False
    _drop_locks(section)
    return True


def _drop_locks(section: Section) -> None:
    """Remove the file by which a block was locked, unless another process has it open."""
    if not section.path.startswith(MEMORY):
        remove(f"{os.path.dirname(section.path)}/.sharedarray-{user()}/l.{section.id}")


def release(handle: int) -> None:
    if handle >= FIRST:
        give_lease(sections[handle])
        return
    for byte in (_LEASE, _LEASE, _REMOVAL_LOCK):  # a lease may be there twice: shared, and alone
        unlock_at(handle, byte, 1)


def lock_removal(handle: int) -> None:
    if handle < FIRST:
        wait_until_done(lambda: lock_at(handle, _REMOVAL_LOCK, 1, shared=False))


def alone(handle: int) -> bool:
    if handle >= FIRST:
        section = sections[handle]
        return section.lease is None and not section.foreign and not section_exists(section.id)
    # A lock cannot change its kind: for a moment there is none, and a process that locks then is not alone.
    held = unlock_at(handle, _LEASE, 1)
    if lock_at(handle, _LEASE, 1, shared=False):
        return True
    if held:
        hold(handle)
    return False


def held(handle: int) -> bool:
    if handle >= FIRST:
        section = sections[handle]
        with naming():
            return bool(section.foreign or open_event(event_name(section.id)) is not None)
    if not lock_at(handle, _LEASE, 1, shared=False):
        return True
    unlock_at(handle, _LEASE, 1)
    return False


def use(handle: int) -> None:
    section = sections[handle]
    with translating():
        name = f"{OURS}used.{section.id:016x}"
        section.users = win32event.CreateEvent(private_attributes(), True, False, name)


def used(handle: int) -> bool:
    return open_event(f"{OURS}used.{sections[handle].id:016x}") is not None


def _locked_by(handle: int) -> int:
    return handle if handle < FIRST else sections[handle].locks


def lock(handle: int, start: int, length: int, shared: bool, wait: bool) -> bool:
    file = _locked_by(handle)
    if lock_at(file, _SHIFT + start, length, shared=shared):
        return True
    if wait:
        wait_until_done(lambda: lock_at(file, _SHIFT + start, length, shared=shared))
    return wait


def locked(handle: int, start: int, length: int, *, exclusively: bool = False) -> bool:
    if not lock(handle, start, length, shared=exclusively, wait=False):
        return True
    unlock(handle, start, length)
    return False


def unlock(handle: int, start: int, length: int) -> None:
    unlock_at(_locked_by(handle), _SHIFT + start, length)


def shares_handles() -> bool:
    return True


def pin(handle: int, path: str) -> None:
    if handle < FIRST:
        write_metadata(path, f"file {paths[handle]}")
        return
    section = sections[handle]
    if section.lease is None or section.foreign:
        raise FileNotFoundError(errno.ENOENT, "no process is known to hold it", section.path)
    keeper = keeper_of_references()
    with translating(path):
        pinned = win32event.CreateEvent(private_attributes(), True, False, pinned_name(section.id))
    held = [give_to(keeper, copied) for copied in (section.handle, int(pinned))]
    started = process_started(keeper)
    text = f"memory {keeper} {started} {held[0]} {held[1]} {section.path}\n{section.name}"
    try:
        write_metadata(path, text)
    except BaseException:
        for handle in held:
            close_in(keeper, started, handle)
        raise


def allocated(handle: int) -> int:
    return status(handle).size


def others(handle: int) -> str | None:
    if handle < FIRST:
        raw = msvcrt.get_osfhandle(handle)
        with translating():
            return outsiders(win32security.GetSecurityInfo(raw, win32security.SE_FILE_OBJECT, OWNER_AND_LIST))
    section = sections[handle]
    # The right to ask is not among those for mapping. The name stays with what is open.
    asking = kernel32.OpenFileMappingW(MAP_READ | READ_CONTROL, False, section.name)
    if not asking:
        return "owned by a user that does not let its owner be asked"
    try:
        with translating(section.path):
            kind = win32security.SE_KERNEL_OBJECT
            return outsiders(win32security.GetSecurityInfo(asking, kind, OWNER_AND_LIST))
    finally:
        close_handle(asking)


def holders(blocks: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
    pids = sorted(win32process.EnumProcesses())
    return {
        (device, inode): tuple(pid for pid in pids if open_event(event_name(inode, pid)) is not None)
        for device, inode in blocks
    }


# -- the terminal ---------------------------------------------------------------------------------------


def terminal() -> AbstractContextManager[Callable[[float], str | None]]:
    from sharedarray._platform import windows_terminal  # one command needs it, and it needs a console

    return windows_terminal.terminal()
