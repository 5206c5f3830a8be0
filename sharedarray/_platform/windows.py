r"""Windows: blocks are named memory of the kernel's, as CPython's; what persists is a file.

How a block lives
-----------------
A block is a *section*, a named file mapping over the page file (``CreateFileMapping``). The kernel counts
the handles to it, so leaving and ``TerminateProcess`` free it alike, and no process has to look: there is no
janitor. All of its pages are charged when it is made (``SEC_COMMIT``), so no later write can fail. The
kernel knows a section's size in whole pages only, so one page of ours stands behind the data::

    section "frames"       the data, in whole pages
                           magic  state  id  size       one page: 8 bytes each; state is 0 in the making,
                                                        1 ready, 2 unlinked; the size is exact
    event "sharedarray.held.ID"         open in every process that has a lease
    event "sharedarray.held.ID.PID"     the same by process, to tell who holds it
    event "sharedarray.pinned.ID"       open for a reference on its way

A section is made under its name, for the kernel can neither name nor rename it later; the state says when it
is whole, and a process that comes before is told so. A lease is a handle of its own and not the mapping's:
what is closed while views of it live is gone for others. Nor can the kernel take a name away; so an unlinked
section says that it is one, and the next block of that name gets another of `_GENERATIONS` names, which an
attaching process tries one after the other. Names are given and taken under one mutex.

In the default directory a section has the plain name of its block, so that CPython's `SharedMemory` finds
it, and it is found when CPython made it; the names for another ``SHAREDARRAY_DIR`` start with a word for
it. All belong to one logon session (``Local\``), as CPython's do.

What persists is a file in the directory, published by renaming. Files are opened such that other processes
may read, write, rename and remove them meanwhile. The directory also has the registry, as elsewhere: notes
are small files.

Locks
-----
``LockFileEx`` keeps processes that did not lock from reading and writing. So bytes are locked 2**62 further
on, where no process reads or writes, and a lock is advisory, as elsewhere. What is locked of a section is a
file of no bytes beside its record. The kernel has no timed or interruptible wait for such a lock that all
systems keep to, so a wait is a try from time to time.

References on their way
-----------------------
A token is a note that tells of two handles, of the section and of an event, in a living process: the sender's
parent, if multiprocessing started it, or else itself. The process that removes the note closes them there
(``DUPLICATE_CLOSE_SOURCE``). So a reference outlives a worker that sends it and ends, but not the last of
these processes.

Tried under Wine 8; what it lacks is said where it matters.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import itertools
import mmap
import os
import shutil
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import pywintypes
import win32api
import win32con
import win32event
import win32file
import win32process
import win32security
import winerror

from sharedarray._clock import time
from sharedarray._platform.contract import Draft, Mode, Status
from sharedarray._platform.fresh_pages import (
    REUSES_PAGES as REUSES_PAGES,
    detach as detach,
    exclusive as exclusive,
    fork_witness as fork_witness,
    is_memory as is_memory,
    move_pages as move_pages,
    populate as populate,
    resize as resize,
    set_reused as set_reused,
    thread_runs as thread_runs,
    unwitnessed as unwitnessed,
)
from sharedarray._platform.processors import processors as processors
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

if TYPE_CHECKING:
    import socket

_P = ParamSpec("_P")
_T = TypeVar("_T")

_msvcrt: Any = importlib.import_module("msvcrt")  # which a type checker on another system does not know
_kernel32: Any = ctypes.__dict__["WinDLL"]("kernel32", use_last_error=True)
_last_error: Callable[[], int] = ctypes.__dict__.get("get_last_error", lambda: 0)

NEEDS_JANITOR = False
LENGTHENS = False  # a section keeps its size
RECORDS_DECIDE = False
STILL_MADE = "a block that is still being made"
NAME_LIMIT = 200  # bytes; file names have 255 characters at most, and a record's adds an inode to it
DEFAULT_DIRECTORY = os.path.join(
    os.environ.get("LOCALAPPDATA") or os.path.expanduser("~"), "sharedarray"
).replace("\\", "/")

_FIRST_PAUSE, _LAST_PAUSE = 0.0002, 0.001  # seconds between two tries for a lock
_SHIFT = 1 << 62  # bytes behind the data at which they are locked
_LEASE = 1 << 61  # the same for a lease on a file; the byte after it is the leaving
_LEAVING = _LEASE + 1


# -- errors ---------------------------------------------------------------------------------------------


def _refuse(code: int, path: str = "") -> NoReturn:
    """Raise the `OSError` for one of Windows' error numbers."""
    if code in (winerror.ERROR_COMMITMENT_LIMIT, winerror.ERROR_NOT_ENOUGH_MEMORY, winerror.ERROR_DISK_FULL):
        raise OSError(errno.ENOSPC, "no memory is left for it", path)
    text = win32api.FormatMessage(code).strip() if code else "it failed"
    kind: Any = OSError  # whose fourth argument only Windows has
    raise kind(0, text, path, code)


@contextmanager
def _translating(path: str = "") -> Iterator[None]:
    """Have pywin32's errors be what the contract says: each `OSError`."""
    try:
        yield
    except pywintypes.error as error:
        code = error.winerror
    else:
        return
    _refuse(code, path)


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


@lru_cache(None)
def user() -> str:
    with _translating():
        token = win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32con.TOKEN_QUERY)
        found, _ = win32security.GetTokenInformation(token, win32security.TokenUser)
        return str(win32security.ConvertSidToStringSid(found))


def _descriptor(rights: str) -> Any:
    """Make a security descriptor: this user alone, whatever the parent directory allows."""
    convert = win32security.ConvertStringSecurityDescriptorToSecurityDescriptor
    return convert(f"O:{user()}D:P(A;{rights};;;{user()})", win32security.SDDL_REVISION_1)


@lru_cache(None)
def _private(rights: str = ";GA") -> Any:
    attributes = win32security.SECURITY_ATTRIBUTES()
    attributes.SECURITY_DESCRIPTOR = _descriptor(rights)
    return attributes


make_waker = make_maker(_private)


class _Attributes(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint32), ("descriptor", ctypes.c_void_p), ("inherit", ctypes.c_int))


@lru_cache(None)
def _private_pointer() -> tuple[Any, Any]:
    """Return the same for a call through ctypes, with what has to stay alive."""
    raw = ctypes.create_string_buffer(bytes(memoryview(_descriptor(";GA"))))
    return _Attributes(ctypes.sizeof(_Attributes), ctypes.addressof(raw), 0), raw


# -- names ----------------------------------------------------------------------------------------------

_RESERVED = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"]
)
_FORBIDDEN = frozenset('<>:"|?*')


def name_problem(name: str) -> str | None:
    if not _FORBIDDEN.isdisjoint(name):
        return 'a name with one of < > : " | ? *'
    if name[-1] in ". ":
        return "a name that ends with a dot or a space"
    if name.split(".")[0].rstrip(" ").upper() in _RESERVED:
        return "the name of a device"
    if name.startswith(_OURS):
        return f"a name that starts with {_OURS!r}"
    return None


_OURS = "sharedarray."  # starts the names of kernel objects that are no blocks
_GENERATIONS = 16  # blocks of one name at once: one that has it, and unlinked ones that are held
_NOTE_KINDS = ("t.", "s.")  # what the names of tokens start with


def _in_registry(path: str) -> bool:
    return os.path.basename(os.path.dirname(path)).startswith(".sharedarray-")


@lru_cache(1024)
def _kernel_name(path: str) -> str:
    """Return the name of the section of the block at `path`."""
    directory, name = os.path.split(path)
    place = os.path.normcase(os.path.abspath(directory))
    if place == _DEFAULT_PLACE:
        return name
    return f"{_OURS}{blake2b(place.encode(), digest_size=8).hexdigest()}.{name}"


_DEFAULT_PLACE = os.path.normcase(os.path.abspath(DEFAULT_DIRECTORY))


def _generations(name: str) -> Iterator[str]:
    yield name
    for number in range(1, _GENERATIONS):
        yield f"{name}\x7f{number}"  # no name of a block has this character


_thread = threading.RLock()  # a mutex belongs to a thread, which may have it more than once
_mutex: list[Any] = []


@contextmanager
def _naming() -> Iterator[None]:
    """Give and take names one at a time."""
    with _thread, _translating():
        if not _mutex:
            _mutex.append(win32event.CreateMutex(_private(), False, f"{_OURS}names.{user()}"))
        win32event.WaitForSingleObject(_mutex[0], win32event.INFINITE)
        try:
            yield
        finally:
            win32event.ReleaseMutex(_mutex[0])


# -- sections -------------------------------------------------------------------------------------------

_PAGE = mmap.PAGESIZE
_MAP_COPY, _MAP_WRITE, _MAP_READ = 1, 2, 4
_PAGE_READWRITE = 4
_NO_FILE = ctypes.c_void_p(-1)
_end_page = struct.Struct("<8sQQQ")  # magic, state, id, size
_MAGIC = b"\x93sharray"
_STATE_AT = 8  # bytes from the start of that page
_MAKING, _READY, _UNLINKED = range(3)


class _Region(ctypes.Structure):
    """What ``VirtualQuery`` tells, on 64 bits as on 32."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("allocation", ctypes.c_void_p),
        ("allocation_protect", ctypes.c_uint32),
        ("size", ctypes.c_size_t),
        ("state", ctypes.c_uint32),
        ("protect", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
    )


_Pointer, _DWord, _Text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_wchar_p
_kernel32.CreateFileMappingW.argtypes = (_Pointer, _Pointer, _DWord, _DWord, _DWord, _Text)
_kernel32.CreateFileMappingW.restype = _Pointer
_kernel32.OpenFileMappingW.argtypes = (_DWord, ctypes.c_int, _Text)
_kernel32.OpenFileMappingW.restype = _Pointer
_kernel32.MapViewOfFile.argtypes = (_Pointer, _DWord, _DWord, _DWord, ctypes.c_size_t)
_kernel32.MapViewOfFile.restype = _Pointer
_kernel32.UnmapViewOfFile.argtypes = (_Pointer,)
_kernel32.VirtualQuery.argtypes = (_Pointer, ctypes.POINTER(_Region), ctypes.c_size_t)
_kernel32.VirtualQuery.restype = ctypes.c_size_t
_kernel32.QueryFullProcessImageNameW.argtypes = (_Pointer, _DWord, _Text, ctypes.POINTER(_DWord))
_kernel32.CloseHandle.argtypes = (_Pointer,)
_kernel32.ReOpenFile.argtypes = (_Pointer, _DWord, _DWord, _DWord)
_kernel32.ReOpenFile.restype = _Pointer


@dataclass(slots=True)
class _Section:
    """An open section. Its number stands for it in the contract; the numbers of files are descriptors."""

    handle: int
    name: str
    path: str
    id: int
    size: int
    foreign: bool = False
    lease: tuple[Any, ...] | None = None  # two events
    users: Any = None  # an event, in one that is used
    locks: int = -1  # a descriptor, in one to lock by
    draft: mmap.mmap | None = None


_FIRST = 1 << 20  # above every descriptor
_numbers = itertools.count(_FIRST)  # none comes twice: `path_of` names memory by them
_sections: dict[int, _Section] = {}
_paths: dict[int, str] = {}  # by descriptor, what it was opened by


def _close_handle(handle: int) -> None:
    _kernel32.CloseHandle(handle)


@contextmanager
def _looking_at(handle: int, access: int = _MAP_READ, count: int = 0) -> Iterator[tuple[int, int]]:
    """Map a section for a moment: the address, and how many bytes there are."""
    address = _kernel32.MapViewOfFile(handle, access, 0, 0, count)
    if not address:
        _refuse(_last_error())
    try:
        region = _Region()
        _kernel32.VirtualQuery(address, ctypes.byref(region), ctypes.sizeof(region))
        yield address, region.size
    finally:
        _kernel32.UnmapViewOfFile(address)


def _end_of(handle: int) -> tuple[int, int, int, bool]:
    """Return state, id and size of a section, and whether it is another program's."""
    with _looking_at(handle) as (address, total):
        magic, state, number, size = _end_page.unpack(
            ctypes.string_at(address + total - _PAGE, _end_page.size)
        )
    if magic != _MAGIC or not 0 < size <= total - _PAGE:
        return _READY, 0, total, True
    return state, number, size, False


def _set_state(handle: int, state: int) -> None:
    with _looking_at(handle, _MAP_READ | _MAP_WRITE) as (address, total):
        ctypes.c_uint64.from_address(address + total - _PAGE + _STATE_AT).value = state


def _make(name: str, path: str, size: int) -> _Section | None:
    """Make a section of this name; None when the kernel has an object of that name."""
    total = -(-size // _PAGE) * _PAGE + _PAGE
    attributes, _ = _private_pointer()
    handle = _kernel32.CreateFileMappingW(
        _NO_FILE, ctypes.addressof(attributes), _PAGE_READWRITE, total >> 32, total & 0xFFFFFFFF, name
    )
    code = _last_error()
    if not handle:
        if code in (winerror.ERROR_INVALID_HANDLE, winerror.ERROR_ACCESS_DENIED):
            return None  # an event or a mutex, or another user's
        _refuse(code, path)
    if code == winerror.ERROR_ALREADY_EXISTS:
        _close_handle(handle)
        return None
    number = int.from_bytes(os.urandom(8), "little") >> 2 or 1
    try:
        with _looking_at(handle, _MAP_READ | _MAP_WRITE) as (address, there):
            page = _end_page.pack(_MAGIC, _MAKING, number, size)
            ctypes.memmove(address + there - _PAGE, page, len(page))
    except BaseException:
        _close_handle(handle)
        raise
    return _Section(handle, name, path, number, size)


def _open_section(name: str, path: str, *, writable: bool = True) -> tuple[_Section | None, int]:
    """Open the section of this very name: it and its state, or None."""
    handle = _kernel32.OpenFileMappingW(_MAP_READ | (_MAP_WRITE if writable else 0), False, name)
    if not handle:
        code = _last_error()
        if code == winerror.ERROR_ACCESS_DENIED:
            _refuse(code, path)
        return None, _UNLINKED
    try:
        state, number, size, foreign = _end_of(handle)
    except OSError:
        _close_handle(handle)
        return None, _UNLINKED
    if foreign:
        number = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") >> 2
    return _Section(handle, name, path, number, size, foreign), state


def _find(path: str, *, making: bool = False) -> _Section | None:
    """Open the section of the block at `path`; None when there is none.

    Raises
    ------
    FileNotFoundError
        It is still being made, unless `making` asks for such as well.
    """
    if _in_registry(path):
        return None
    made: _Section | None = None
    with _naming():  # or a process that only looks for holders could be taken for one
        for name in _generations(_kernel_name(path)):
            section, state = _open_section(name, path)
            if section is None:
                continue
            if state == _READY and (section.foreign or _exists(section.id)):
                made, other = section, made
            elif state == _MAKING and made is None:
                made, other = section, None
            else:
                other = section
            if other is not None:
                _close_handle(other.handle)
            if state == _READY and made is section:
                return section
    if made is not None and not making:
        _close_handle(made.handle)
        if os.path.lexists(path):  # which it is to replace
            return None
        raise FileNotFoundError(errno.ENOENT, STILL_MADE, path)
    return made


def _find_whole(path: str) -> _Section | None:
    """Open the section of the block at `path`, if it is published; None where it is not."""
    try:
        return _find(path)
    except FileNotFoundError:
        return None


def _event_name(number: int, pid: int | None = None) -> str:
    return f"{_OURS}held.{number:016x}" + ("" if pid is None else f".{pid}")


def _there(name: str) -> Any:
    """Open an event; None if no process has it."""
    try:
        return win32event.OpenEvent(win32con.SYNCHRONIZE, False, name)
    except pywintypes.error:
        return None


def _pinned_name(number: int) -> str:
    return f"{_OURS}pinned.{number:016x}"


def _exists(number: int) -> bool:
    """True if a block is held, or on its way to another process."""
    with _naming():  # one at a time: a looking process has the event for a moment, as a holder has
        return _there(_event_name(number)) is not None or _there(_pinned_name(number)) is not None


def _take_lease(section: _Section, *, first: bool = False) -> bool:
    if section.foreign:
        section.lease = ()
        return True
    with _naming():
        if not first and not _exists(section.id):
            return False
        section.lease = tuple(
            win32event.CreateEvent(_private(), True, False, _event_name(section.id, pid))
            for pid in (None, os.getpid())
        )
    return True


def _give_lease(section: _Section) -> None:
    lease, section.lease = section.lease, None
    for event in reversed(lease or ()):
        event.Close()


def _number(section: _Section) -> int:
    number = next(_numbers)
    _sections[number] = section
    return number


# -- drafts ---------------------------------------------------------------------------------------------


def _need_directory(directory: str) -> None:
    if not os.path.isdir(directory) and os.path.normcase(os.path.abspath(directory)) == _DEFAULT_PLACE:
        make_private_directory(directory)


def draft(directory: str) -> Draft:
    _need_directory(directory)
    scratch = f"{directory}/.{os.getpid()}.{os.urandom(6).hex()}.part"
    return Draft(_open_file(scratch, disposition=win32con.CREATE_NEW, private=True), scratch)


def draft_memory(directory: str, size: int, path: str | None, *, replace: bool = False) -> Draft:
    _need_directory(directory)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "no such directory", directory)
    if path is None:
        return Draft(_make_unnamed(size))
    with _naming():
        if not replace:
            _refuse_taken(path, making=True)
        for name in _generations(_kernel_name(path)):
            section = _make(name, path, size)
            if section is not None:
                break
        else:
            raise FileExistsError(errno.EEXIST, "the name is taken", path)
    try:
        _take_lease(section, first=True)
    except BaseException:
        _close_handle(section.handle)
        raise
    return Draft(_number(section))


def _refuse_taken(path: str, *, making: bool) -> None:
    found = _find(path, making=True) if making else _find_whole(path)
    if found is not None:
        _close_handle(found.handle)
    if found is not None or os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "the name is taken", path)


def _make_unnamed(size: int) -> int:
    while True:
        number = next(_numbers)
        path = path_of(number)
        section = _make(path, path, size)
        if section is not None:  # else a process still has memory of an earlier one with our pid
            _set_state(section.handle, _READY)
            _sections[number] = section
            return number


def reserve(handle: int, size: int, start: int = 0) -> None:
    if handle < _FIRST:
        os.ftruncate(handle, size)


def reserve_parts(handle: int, size: int, parts: Sequence[tuple[int, int]]) -> None:
    if handle < _FIRST and os.fstat(handle).st_size < size:
        os.ftruncate(handle, size)


def write(handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
    if handle < _FIRST:
        os.lseek(handle, offset, os.SEEK_SET)
        for buffer in buffers:
            left = buffer.cast("B") if len(buffer) else buffer
            while len(left):
                left = left[os.write(handle, left[:_WRITE_STEP]) :]
        return
    section = _sections[handle]
    if section.draft is None:
        section.draft = _mapped(mmap.mmap, section, "r+")
    for buffer in buffers:
        section.draft[offset : offset + len(buffer)] = buffer
        offset += len(buffer)


_WRITE_STEP = 1 << 28  # bytes per write


def read(handle: int, count: int, offset: int = 0) -> bytes:
    if handle < _FIRST:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, count)
    section = _sections[handle]
    end = min(offset + count, section.size)
    if end <= offset:
        return b""
    with _looking_at(section.handle, _MAP_READ, end) as (address, _):
        return ctypes.string_at(address + offset, end - offset)


def shrink(handle: int) -> None:
    pass  # its pages go with the last process that has it open or mapped


def publish(draft: Draft, path: str) -> None:
    with _naming():
        _refuse_taken(path, making=False)
        if draft.handle < _FIRST:
            os.rename(str(draft.scratch), path)
            _paths[draft.handle] = path
            return
        section = _sections[draft.handle]
        section.draft = None
        _set_state(section.handle, _READY)


def publish_file(draft: Draft, path: str) -> Draft:
    publish(draft, path)
    return draft


def missing(directory: str) -> str | None:
    return None


def discard(draft: Draft) -> None:
    close(draft.handle)
    if draft.scratch:
        remove(draft.scratch)


# -- files ----------------------------------------------------------------------------------------------

_SHARE_ALL = win32con.FILE_SHARE_READ | win32con.FILE_SHARE_WRITE | win32con.FILE_SHARE_DELETE
_READ_WRITE = win32con.GENERIC_READ | win32con.GENERIC_WRITE
_NO_LINK = 0x00200000  # FILE_FLAG_OPEN_REPARSE_POINT


def _open_file(
    path: str,
    access: int = _READ_WRITE,
    *,
    disposition: int = win32con.OPEN_EXISTING,
    private: bool = False,
    follow: bool = False,
) -> int:
    """Open a file such that other processes may do anything with it meanwhile; return a descriptor."""
    try:
        handle = win32file.CreateFile(
            os.path.normpath(path),
            access,
            _SHARE_ALL,
            _private() if private else None,
            disposition,
            0 if follow else _NO_LINK,
            None,
        )
    except pywintypes.error as error:
        code = error.winerror
    else:
        return _descriptor_of(handle.Detach(), access, path)
    if code == winerror.ERROR_ACCESS_DENIED and os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "a directory", path)
    if code == winerror.ERROR_ACCESS_DENIED and not os.path.lexists(path):
        code = winerror.ERROR_FILE_NOT_FOUND  # it is going, as its last handle is closed
    _refuse(code, path)


def _descriptor_of(handle: int, access: int, path: str) -> int:
    flags = os.O_RDWR if access & win32con.GENERIC_WRITE else os.O_RDONLY
    number: int = _msvcrt.open_osfhandle(handle, flags | getattr(os, "O_BINARY", 0) | _NOINHERIT)
    found = os.fstat(number)
    if getattr(found, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT:
        os.close(number)
        raise OSError(errno.ELOOP, "a link", path)
    _paths[number] = path
    return number


_NOINHERIT = getattr(os, "O_NOINHERIT", 0)


def open_path_of(path: str) -> int:
    section, _ = _open_section(path, path)
    if section is None:
        raise FileNotFoundError(errno.ENOENT, "no such memory", path)
    return _number(section)


def open(path: str, *, writable: bool) -> int:
    if _is_token(path):
        return _open_token(path, writable=writable)
    section = _find(path)
    if section is not None:
        return _number(section)
    try:
        handle = _open_file(path, _READ_WRITE if writable else win32con.GENERIC_READ)
    except FileNotFoundError:
        section = _find(path)  # which may have taken the name of a file just now
        if section is None:
            raise
        return _number(section)
    if not _in_registry(path) and not _same_case(path):
        close(handle)
        raise FileNotFoundError(errno.ENOENT, "there is only another spelling", path)
    return handle


def _same_case(path: str) -> bool:
    """Whether a file is spelled so: names of blocks that differ in case are different ones."""
    name = os.path.basename(path)
    if name.lower() == name.upper():
        return True
    found = _real_name(path)
    return found is None or found == name or found.lower() != name.lower()


def _real_name(path: str) -> str | None:
    try:
        return str(win32file.FindFilesW(os.path.normpath(path))[0][8])
    except (pywintypes.error, IndexError):
        return None


def close(handle: int) -> None:
    if handle < _FIRST:
        _paths.pop(handle, None)
        os.close(handle)
        return
    section = _sections.pop(handle, None)
    if section is None:
        raise OSError(errno.EBADF, "this handle is closed")
    section.draft = None
    _give_lease(section)
    if section.users is not None:
        section.users.Close()
    _close_handle(section.handle)
    if section.locks >= 0:
        os.close(section.locks)
        if not section.foreign and not _exists(section.id):
            _drop_locks(section)


_MEMORY = f"{_OURS}memory."


def path_of(handle: int, pid: int | None = None) -> str:
    return f"{_MEMORY}{os.getpid() if pid is None else pid}.{handle}"


def status(handle: int) -> Status:
    if handle < _FIRST:
        found = os.fstat(handle)
        device, inode = _identity(_msvcrt.get_osfhandle(handle))
        path = _paths.get(handle)
        # Whether a file that is removed while it is open still counts a name differs between systems.
        gone = path is not None and _file_inode(path) != inode
        links = 0 if gone else max(1, found.st_nlink)
        return Status(device, inode, found.st_size, links, stat.S_ISREG(found.st_mode))
    section = _sections[handle]
    links = int(section.lease is not None or section.foreign or _exists(section.id))
    if links and not section.foreign:
        links = int(_end_of(section.handle)[0] != _UNLINKED)
    return Status(0, section.id, section.size, links, True)


_ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}


def _mapped(cls: type[mmap.mmap], section: _Section, mode: Mode) -> mmap.mmap:
    kind: Any = cls  # whose `tagname` only Windows has; we have the section open, so it is not made anew
    found: mmap.mmap = kind(-1, section.size, tagname=section.name, access=_ACCESS[mode])
    return found


def map(cls: type[mmap.mmap], handle: int, size: int, mode: Mode, *, ready: bool = False) -> mmap.mmap:
    if handle < _FIRST:
        return cls(handle, size, access=_ACCESS[mode])
    return _mapped(cls, _sections[handle], mode)


def sync(mapping: mmap.mmap) -> None:
    mapping.flush()  # which gives the pages to the file, and the file has to give them to the disk
    path = getattr(mapping, "path", None)
    if path is not None and os.path.isfile(path):
        handle = _open_file(path, follow=True)
        try:
            os.fsync(handle)
        finally:
            close(handle)


# -- leases ---------------------------------------------------------------------------------------------


def enter(path: str, writable: bool) -> tuple[int, bool, int, int, int, int, bool, bool]:
    with _naming():  # or the name could go to another block in between
        handle = open(path, writable=writable)
        section = _sections.get(handle)
        if section is not None and not _take_lease(section):
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


def hold(handle: int) -> None:
    if handle >= _FIRST:
        section = _sections[handle]
        if section.lease is None:
            _take_lease(section)  # or the block is gone, which `status` tells
        return
    _until(lambda: lock_at(handle, _LEASE, 1, shared=True))


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
    if handle < _FIRST:
        return _again(handle, _READ_WRITE)
    section = _sections[handle]
    return _number(
        _Section(
            _own_copy(section.handle), section.name, section.path, section.id, section.size, section.foreign
        )
    )


def _again(handle: int, access: int) -> int:
    """Open the file behind a descriptor once more, by itself or by its path."""
    path = _paths.get(handle, "")
    original = _msvcrt.get_osfhandle(handle)
    again = _kernel32.ReOpenFile(original, access, _SHARE_ALL, 0)
    if again is not None and again != _NO_FILE.value:
        return _descriptor_of(again, access, path)
    code = _last_error()
    if code in (winerror.ERROR_CALL_NOT_IMPLEMENTED, winerror.ERROR_INVALID_FUNCTION):
        path = path_behind(handle)
        fresh = _open_file(path, access)
        if os.path.sameopenfile(fresh, handle):
            return fresh
        close(fresh)
        raise FileNotFoundError(errno.ENOENT, "the file has no name any more", path)
    _refuse(code, path)


def _own_copy(handle: int) -> int:
    me = win32api.GetCurrentProcess()
    with _translating():
        copy = win32api.DuplicateHandle(me, handle, me, 0, False, win32con.DUPLICATE_SAME_ACCESS)
    return int(copy.Detach())


def open_to_lock(file: str | int) -> int:
    if isinstance(file, int) and file >= _FIRST:
        return _open_locks(file)
    refusal: OSError | None = None
    for access in (_READ_WRITE, win32con.GENERIC_READ, win32con.GENERIC_WRITE):
        try:
            return _open_file(file, access, follow=True) if isinstance(file, str) else _again(file, access)
        except PermissionError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _open_locks(handle: int) -> int:
    section = _sections[handle]
    folder = f"{os.path.dirname(section.path)}/.sharedarray-{user()}"
    make_private_directory(folder)
    locks = _open_file(f"{folder}/l.{section.id}", disposition=win32con.OPEN_ALWAYS, private=True)
    _paths.pop(locks, None)
    again = open_again(handle)
    _sections[again].locks = locks
    return again


def path_behind(handle: int) -> str:
    if handle >= _FIRST:
        return _sections[handle].path
    with _translating():
        path = str(win32file.GetFinalPathNameByHandle(_msvcrt.get_osfhandle(handle), 0))
    return path.removeprefix("\\\\?\\")


def born(handle: int) -> int:
    return 0  # no number comes again: NTFS counts how often it has given each to a file


def can_persist(handle: int) -> bool:
    return handle < _FIRST


def leave(handle: int) -> bool:
    if handle < _FIRST:
        _unlock_at(handle, _LEASE, 1)
        return not held(handle)
    section = _sections[handle]
    with _naming():  # of two that leave at once, the second sees no holder
        _give_lease(section)
        if section.foreign or _exists(section.id):
            return False
    _drop_locks(section)
    return True


def _drop_locks(section: _Section) -> None:
    """Remove the file by which a block was locked, unless another process has it open."""
    if not section.path.startswith(_MEMORY):
        remove(f"{os.path.dirname(section.path)}/.sharedarray-{user()}/l.{section.id}")


def release(handle: int) -> None:
    if handle >= _FIRST:
        _give_lease(_sections[handle])
        return
    for byte in (_LEASE, _LEASE, _LEAVING):  # a lease may be there twice: shared, and alone
        _unlock_at(handle, byte, 1)


def start_leaving(handle: int) -> None:
    if handle < _FIRST:
        _until(lambda: lock_at(handle, _LEAVING, 1, shared=False))


def alone(handle: int) -> bool:
    if handle >= _FIRST:
        section = _sections[handle]
        return section.lease is None and not section.foreign and not _exists(section.id)
    # A lock does not change its kind: for a moment there is none, and who comes then is not alone either.
    held = _unlock_at(handle, _LEASE, 1)
    if lock_at(handle, _LEASE, 1, shared=False):
        return True
    if held:
        hold(handle)
    return False


def held(handle: int) -> bool:
    if handle >= _FIRST:
        section = _sections[handle]
        with _naming():
            return bool(section.foreign or _there(_event_name(section.id)) is not None)
    if not lock_at(handle, _LEASE, 1, shared=False):
        return True
    _unlock_at(handle, _LEASE, 1)
    return False


def use(handle: int) -> None:
    section = _sections[handle]
    with _translating():
        section.users = win32event.CreateEvent(_private(), True, False, f"{_OURS}used.{section.id:016x}")


def used(handle: int) -> bool:
    return _there(f"{_OURS}used.{_sections[handle].id:016x}") is not None


# -- locks ----------------------------------------------------------------------------------------------


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _place(at: int) -> Any:
    place = pywintypes.OVERLAPPED()
    place.Offset = at & 0xFFFFFFFF
    place.OffsetHigh = at >> 32
    return place


_BUSY = (winerror.ERROR_LOCK_VIOLATION, winerror.ERROR_IO_PENDING, winerror.ERROR_SHARING_VIOLATION)


def lock_at(handle: int, at: int, length: int, *, shared: bool) -> bool:
    """Lock these very bytes, without waiting."""
    how = win32con.LOCKFILE_FAIL_IMMEDIATELY | (0 if shared else win32con.LOCKFILE_EXCLUSIVE_LOCK)
    file = _msvcrt.get_osfhandle(handle)
    try:
        win32file.LockFileEx(file, how, _signed(length & 0xFFFFFFFF), _signed(length >> 32), _place(at))
    except pywintypes.error as error:
        if error.winerror in _BUSY:
            return False
        code = error.winerror
    else:
        return True
    _refuse(code)


def _unlock_at(handle: int, at: int, length: int) -> bool:
    file = _msvcrt.get_osfhandle(handle)
    try:
        win32file.UnlockFileEx(file, _signed(length & 0xFFFFFFFF), _signed(length >> 32), _place(at))
    except pywintypes.error as error:
        if error.winerror in (winerror.ERROR_NOT_LOCKED, winerror.ERROR_LOCK_VIOLATION):  # Wine's word for it
            return False
        code = error.winerror
    else:
        return True
    _refuse(code)


def _until(done: Callable[[], bool]) -> None:
    """Try until it is done. Ctrl-C breaks it off."""
    pause = _FIRST_PAUSE
    while not done():
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)


def _locked_by(handle: int) -> int:
    return handle if handle < _FIRST else _sections[handle].locks


def lock(handle: int, start: int, length: int, shared: bool, wait: bool) -> bool:
    file = _locked_by(handle)
    if lock_at(file, _SHIFT + start, length, shared=shared):
        return True
    if wait:
        _until(lambda: lock_at(file, _SHIFT + start, length, shared=shared))
    return wait


def locked(handle: int, start: int, length: int, *, exclusively: bool = False) -> bool:
    if not lock(handle, start, length, shared=exclusively, wait=False):
        return True
    unlock(handle, start, length)
    return False


def unlock(handle: int, start: int, length: int) -> None:
    _unlock_at(_locked_by(handle), _SHIFT + start, length)


# -- names ----------------------------------------------------------------------------------------------


def _file_inode(path: str, *, follow: bool = False) -> int | None:
    # os.stat opens a file unshared, which some systems refuse for a file that is open.
    flags = win32con.FILE_FLAG_BACKUP_SEMANTICS | (0 if follow else _NO_LINK)
    try:
        handle = win32file.CreateFile(
            os.path.normpath(path), _ATTRIBUTES, _SHARE_ALL, None, win32con.OPEN_EXISTING, flags, None
        )
        found = _identity(handle)[1]
        handle.Close()
    except pywintypes.error:
        return None
    return found


_ATTRIBUTES = 0x80  # FILE_READ_ATTRIBUTES


def _identity(handle: Any) -> tuple[int, int]:
    """Return device and inode of an open file."""
    _, _, _, _, device, _, _, _, high, low = win32file.GetFileInformationByHandle(handle)
    return device & 0xFFFFFFFF, (high & 0xFFFFFFFF) << 32 | (low & 0xFFFFFFFF)


def leads_to(path: str, handle: int) -> bool:
    return _file_inode(path, follow=True) == _identity(_msvcrt.get_osfhandle(handle))[1]


def inode_of(path: str) -> int | None:
    try:
        section = _find(path)
    except FileNotFoundError:
        return None
    if section is not None:
        _close_handle(section.handle)
        return section.id
    return _file_inode(path)


def ended(inode: int) -> bool:
    return not _exists(inode)


def shares_handles() -> bool:
    return True


def pin(handle: int, path: str) -> None:
    if handle < _FIRST:
        write_note(path, f"file {_paths[handle]}")
        return
    section = _sections[handle]
    if section.lease is None or section.foreign:
        raise FileNotFoundError(errno.ENOENT, "no process is known to hold it", section.path)
    keeper = _keeper()
    with _translating(path):
        pinned = win32event.CreateEvent(_private(), True, False, _pinned_name(section.id))
    held = [_give_to(keeper, copied) for copied in (section.handle, int(pinned))]
    started = process_started(keeper)
    text = f"memory {keeper} {started} {held[0]} {held[1]} {section.path}\n{section.name}"
    try:
        write_note(path, text)
    except BaseException:
        for handle in held:
            _close_in(keeper, started, handle)
        raise


def _keeper() -> int:
    """The process that keeps what this one sends: its parent, if multiprocessing started it."""
    process: Any = sys.modules.get("multiprocessing.process")  # in a process that it has started, it is there
    parent = process.parent_process() if process is not None else None
    if parent is not None and parent.pid is not None and process_started(parent.pid) is not None:
        return int(parent.pid)
    return os.getpid()


def _give_to(pid: int, handle: int) -> int:
    with _translating():
        target = win32api.OpenProcess(win32con.PROCESS_DUP_HANDLE, False, pid)
        copy = win32api.DuplicateHandle(
            win32api.GetCurrentProcess(), handle, target, 0, False, win32con.DUPLICATE_SAME_ACCESS
        )
        return int(copy.Detach())


def _close_in(pid: int, started: int | None, handle: int) -> None:
    """Close a handle in another process, unless it is gone."""
    with contextlib.suppress(pywintypes.error):
        source = win32api.OpenProcess(win32con.PROCESS_DUP_HANDLE, False, pid)
        if process_started(pid) == started:
            moved = win32api.DuplicateHandle(
                source, handle, win32api.GetCurrentProcess(), 0, False, win32con.DUPLICATE_CLOSE_SOURCE
            )
            moved.Close()


def _is_token(path: str) -> bool:
    return _in_registry(path) and os.path.basename(path)[:2] in _NOTE_KINDS


def _open_token(path: str, *, writable: bool) -> int:
    text = read_note(path)
    if text is None:
        raise FileNotFoundError(errno.ENOENT, "it has arrived already", path)
    kind, _, rest = text.partition(" ")
    if kind == "file":
        return _open_file(rest, _READ_WRITE if writable else win32con.GENERIC_READ)
    where, _, name = rest.partition("\n")
    section, _ = _open_section(name, where.split(" ", 4)[4], writable=writable)
    if section is None:
        raise FileNotFoundError(errno.ENOENT, "those that kept it are gone", path)
    return _number(section)


def _remove_token(path: str) -> bool:
    text = read_note(path)
    if not _remove_file(path):
        return False  # another process was faster, and closes the handles
    kind, _, rest = (text or "").partition(" ")
    if kind == "memory":
        pid, started, *handles = rest.split(" ", 4)[:4]
        for handle in handles:
            _close_in(int(pid), int(started), int(handle))
    return True


def move(source: str, target: str) -> None:
    text = read_note(source) or ""
    kind, _, rest = text.partition(" ")
    with _naming():
        old = _find_whole(target)
        try:
            if kind == "file":
                _move_file(rest, target)
            else:
                _show(rest.partition("\n")[2], target)
                if old is None:
                    _remove_file(target)
            if old is not None and not old.foreign:
                _set_state(old.handle, _UNLINKED)
        finally:
            if old is not None:
                _close_handle(old.handle)
        _remove_token(source)


def _show(name: str, path: str) -> None:
    """Publish the section of this very name, which this process has made."""
    section, _ = _open_section(name, path)
    if section is None:
        raise FileNotFoundError(errno.ENOENT, "it is gone", path)
    for own in _sections.values():
        if own.id == section.id:
            own.draft = None
    _set_state(section.handle, _READY)
    _close_handle(section.handle)


def _move_file(source: str, target: str) -> None:
    try:
        os.replace(source, target)
    except PermissionError:  # a file that is mapped can be renamed, and not be replaced
        _remove_file(target)
        os.rename(source, target)
    for handle, path in list(_paths.items()):
        if path == source:
            _paths[handle] = target


def remove(path: str, inode: int | None = None) -> bool:
    if _is_token(path):
        return _remove_token(path)
    if not _in_registry(path):
        with _naming():
            try:
                section = _find(path)
            except FileNotFoundError:
                return False
            if section is not None and inode not in (None, section.id):
                _close_handle(section.handle)
                return False
            if section is not None:
                if not section.foreign:  # CPython's memory goes with its last user, as CPython says
                    _set_state(section.handle, _UNLINKED)
                _close_handle(section.handle)
                return True
            if inode is not None and _file_inode(path) != inode:
                return False
    return _remove_file(path)


def _remove_file(path: str) -> bool:
    """Remove a file; its name is free at once, open or not."""
    if os.path.basename(path).startswith("l."):
        return _remove_unused(path)
    trash = f"{os.path.dirname(path)}/.{os.getpid()}.{os.urandom(6).hex()}.gone"
    try:
        os.rename(path, trash)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:  # a process has it open in another way, or is just removing it
        trash = path
    try:
        os.unlink(trash)
    except FileNotFoundError:
        return trash != path
    return True


def _remove_unused(path: str) -> bool:
    """Remove a lock's file if no process has it open."""
    try:
        win32file.CreateFile(
            os.path.normpath(path), win32con.DELETE, 0, None, win32con.OPEN_EXISTING, _DELETE_ON_CLOSE, None
        ).Close()
    except pywintypes.error:
        return False
    return True


_DELETE_ON_CLOSE = 0x04000000


def make_private_directory(path: str) -> None:
    if not os.path.isdir(path):
        parent = os.path.dirname(path)
        if os.path.normcase(os.path.abspath(parent)) == _DEFAULT_PLACE:
            make_private_directory(parent)
        elif os.path.normcase(os.path.abspath(path)) == _DEFAULT_PLACE:
            os.makedirs(parent, exist_ok=True)
        try:
            with _translating(path):
                win32file.CreateDirectory(os.path.normpath(path), _private("OICI;GA"))
        except FileExistsError:
            pass  # another process was faster; whether it was one of ours is looked at below
    if os.path.normcase(path) not in _trusted:
        _check_owner(path)
        _trusted.add(os.path.normcase(path))


_trusted: set[str] = (
    set()
)  # directories that were looked at; their owners and rights do not change by themselves
_EVERYBODY = ("S-1-1-0", "S-1-5-11", "S-1-5-32-545", "S-1-5-32-546", "S-1-5-7")


def _check_owner(path: str) -> None:
    found = os.lstat(path)
    if (
        not stat.S_ISDIR(found.st_mode)
        or getattr(found, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT
    ):
        raise PermissionError(errno.EPERM, "not a directory", path)
    with _translating(path):
        problem = _outsiders(win32security.GetFileSecurity(os.path.normpath(path), _WHO_MAY))
    if problem is not None:
        raise PermissionError(errno.EPERM, problem, path)


_WHO_MAY = 1 | 4  # OWNER_SECURITY_INFORMATION, DACL_SECURITY_INFORMATION


def _outsiders(descriptor: Any) -> str | None:
    """Return which other users own the object of a security descriptor, or may use it, or None."""
    owner = win32security.ConvertSidToStringSid(descriptor.GetSecurityDescriptorOwner())
    entries = descriptor.GetSecurityDescriptorDacl()
    allowed = (
        ["S-1-1-0"]
        if entries is None
        else [
            win32security.ConvertSidToStringSid(entries.GetAce(index)[-1])
            for index in range(entries.GetAceCount())
            if entries.GetAce(index)[0][0] == win32security.ACCESS_ALLOWED_ACE_TYPE
        ]
    )
    if owner not in (user(), "S-1-5-32-544"):  # administrators, as whose member an elevated process makes it
        return f"owned by {owner}"
    return next((f"open to {one}" for one in allowed if one in _EVERYBODY), None)


_READ_CONTROL = 0x20000


def allocated(handle: int) -> int:
    return status(handle).size


def others(handle: int) -> str | None:
    if handle < _FIRST:
        raw = _msvcrt.get_osfhandle(handle)
        with _translating():
            return _outsiders(win32security.GetSecurityInfo(raw, win32security.SE_FILE_OBJECT, _WHO_MAY))
    section = _sections[handle]
    # The right to ask is not among those for mapping. The name stays with what is open.
    asking = _kernel32.OpenFileMappingW(_MAP_READ | _READ_CONTROL, False, section.name)
    if not asking:
        return "owned by a user that does not let its owner be asked"
    try:
        with _translating(section.path):
            kind = win32security.SE_KERNEL_OBJECT
            return _outsiders(win32security.GetSecurityInfo(asking, kind, _WHO_MAY))
    finally:
        _close_handle(asking)


def remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
            raise
    else:
        _trusted.discard(os.path.normcase(path))


def names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.endswith(".gone")]
    except OSError:
        if os.path.isdir(directory):
            raise
        return []


# -- notes ----------------------------------------------------------------------------------------------


def write_note(path: str, text: str, *, replace: bool = False) -> None:
    fresh = f"{os.path.dirname(path)}/n.{os.getpid()}.{os.urandom(4).hex()}"
    handle = _open_file(fresh, disposition=win32con.CREATE_NEW, private=True)
    try:
        os.write(handle, text.encode("utf-8", "surrogatepass"))
    finally:
        close(handle)
    try:
        if replace:
            _patiently(lambda: os.replace(fresh, path))
        else:
            os.rename(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def _patiently(action: Callable[[], None]) -> None:
    """Retry an action that fails while another process has the file open, which never takes long."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return action()
        except PermissionError:
            if pause > _LAST_PAUSE * 64:
                raise
        time.sleep(pause)
        pause *= 2


def read_note(path: str) -> str | None:
    try:
        handle = _open_file(path, win32con.GENERIC_READ)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        return os.read(handle, 1 << 16).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ""
    finally:
        close(handle)


# -- processes ------------------------------------------------------------------------------------------

_LOOK = 0x1000  # PROCESS_QUERY_LIMITED_INFORMATION


def process_started(pid: int) -> int | None:
    try:
        process = win32api.OpenProcess(_LOOK | win32con.SYNCHRONIZE, False, pid)
        if win32event.WaitForSingleObject(process, 0) == win32event.WAIT_OBJECT_0:
            return None
        created = win32process.GetProcessTimes(process)["CreationTime"]
    except pywintypes.error:
        return None
    return int(created.timestamp() * 1_000_000)


# Characters of a path, with the NUL behind it.
_LONGEST_PATH = 32768


def command_line(pid: int) -> list[str]:
    try:
        process = win32api.OpenProcess(_LOOK, False, pid)
    except pywintypes.error:
        return []
    path, length = ctypes.create_unicode_buffer(_LONGEST_PATH), _DWord(_LONGEST_PATH)
    if not _kernel32.QueryFullProcessImageNameW(int(process), 0, path, ctypes.byref(length)):
        return []
    return [path.value]


def uptime() -> tuple[int, float]:
    return 0, 0.0


def runs(program: str) -> bool:
    return False


def adopts_orphans() -> bool:
    return False


def peer(connection: socket.socket) -> int:
    return 0


def process_space() -> int:
    with _translating():
        return int(
            win32security.GetTokenInformation(
                win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32con.TOKEN_QUERY),
                win32security.TokenSessionId,
            )
        )


def await_end(pid: int, started: int) -> None:
    try:
        process = win32api.OpenProcess(_LOOK | win32con.SYNCHRONIZE, False, pid)
    except pywintypes.error:
        return
    if process_started(pid) == started:
        win32event.WaitForSingleObject(process, win32event.INFINITE)


def holders(blocks: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
    pids = sorted(win32process.EnumProcesses())
    return {
        (device, inode): tuple(pid for pid in pids if _there(_event_name(inode, pid)) is not None)
        for device, inode in blocks
    }


# -- free_bytes
# -----------------------------------------------------------------------------------------------


def free_bytes(directory: str, *, memory: bool) -> int:
    if memory:
        return free_memory()
    return shutil.disk_usage(directory).free


def on_disk(directory: str) -> bool:
    return False  # only what persists is a file, which belongs on a disk


def capacity(directory: str) -> int:
    return int(win32api.GlobalMemoryStatusEx()["TotalPageFile"])


def memory() -> int:
    return int(win32api.GlobalMemoryStatusEx()["TotalPhys"])


def free_memory() -> int:
    """What may still be charged: free memory and page file."""
    return int(win32api.GlobalMemoryStatusEx()["AvailPageFile"])


def around_fork(
    before: Callable[[], None], in_parent: Callable[[], None], in_child: Callable[[], None]
) -> None:
    pass  # there are no forks


# -- the terminal ---------------------------------------------------------------------------------------


def terminal() -> AbstractContextManager[Callable[[float], str | None]]:
    from sharedarray._platform import windows_terminal  # one command needs it, and it needs a console

    return windows_terminal.terminal()
