"""Windows: sections, which are the kernel's named memory, from their making to their last handle.

`sharedarray._platform.windows` tells how a block lives in them.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import pywintypes
import win32con
import win32event
import winerror

from sharedarray._platform.contract import Mode
from sharedarray._platform.windows_kernel import Region, kernel32, last_error, os_error, translating
from sharedarray._platform.windows_names import (
    OURS,
    event_name,
    generations,
    in_registry,
    kernel_name,
    pinned_name,
)
from sharedarray._platform.windows_security import private_attributes, private_pointer, user

STILL_MADE = "a block that is still being made"


_naming_lock = threading.RLock()  # beside the mutex, which belongs to a thread of the process
_naming_mutex: list[Any] = []  # made when it is first needed


@contextmanager
def naming() -> Iterator[None]:
    """Hold the mutex for names: one thread of all processes makes, looks up or removes a name at a time."""
    with _naming_lock, translating():
        if not _naming_mutex:
            made = win32event.CreateMutex(private_attributes(), False, f"{OURS}names.{user()}")
            _naming_mutex.append(made)
        win32event.WaitForSingleObject(_naming_mutex[0], win32event.INFINITE)
        try:
            yield
        finally:
            win32event.ReleaseMutex(_naming_mutex[0])


_PAGE = mmap.PAGESIZE
_MAP_COPY, MAP_WRITE, MAP_READ = 1, 2, 4
_PAGE_READWRITE = 4
NO_FILE = ctypes.c_void_p(-1)
_end_page = struct.Struct("<8sQQQ")  # magic, state, id, size
_MAGIC = b"\x93sharray"
_STATE_AT = 8  # bytes from the start of that page
MAKING, READY, UNLINKED = range(3)


@dataclass(slots=True)
class Section:
    """An open section. The platform's contract has a number for it, as it has descriptors for files."""

    handle: int
    name: str
    path: str
    id: int
    size: int
    foreign: bool = False
    lease: tuple[Any, ...] | None = None  # two events, while this process has the lease
    users: Any = None  # an event, while this process uses the section without a lease
    locks: int = -1  # the descriptor of the file of locks, once it is open
    draft: mmap.mmap | None = None


FIRST = 1 << 20  # the first number of a section: descriptors of files are smaller
numbers = itertools.count(FIRST)  # no number is used again, since `path_of` makes names of them
sections: dict[int, Section] = {}


def close_handle(handle: int) -> None:
    kernel32.CloseHandle(handle)


@contextmanager
def looking_at(handle: int, access: int = MAP_READ, count: int = 0) -> Iterator[tuple[int, int]]:
    """Map a section during the ``with`` statement, which gets the address and the number of bytes."""
    address = kernel32.MapViewOfFile(handle, access, 0, 0, count)
    if not address:
        raise os_error(last_error())
    try:
        region = Region()
        kernel32.VirtualQuery(address, ctypes.byref(region), ctypes.sizeof(region))
        yield address, region.size
    finally:
        kernel32.UnmapViewOfFile(address)


def end_of(handle: int) -> tuple[int, int, int, bool]:
    """Return the state, the id and the size of a section, and whether another program has made it."""
    with looking_at(handle) as (address, total):
        magic, state, number, size = _end_page.unpack(
            ctypes.string_at(address + total - _PAGE, _end_page.size)
        )
    if magic != _MAGIC or not 0 < size <= total - _PAGE:
        return READY, 0, total, True
    return state, number, size, False


def set_state(handle: int, state: int) -> None:
    with looking_at(handle, MAP_READ | MAP_WRITE) as (address, total):
        ctypes.c_uint64.from_address(address + total - _PAGE + _STATE_AT).value = state


def make_section(name: str, path: str, size: int) -> Section | None:
    """Make a section of this name; return None if the kernel has an object of that name already."""
    total = -(-size // _PAGE) * _PAGE + _PAGE
    attributes, _ = private_pointer()
    handle = kernel32.CreateFileMappingW(
        NO_FILE, ctypes.addressof(attributes), _PAGE_READWRITE, total >> 32, total & 0xFFFFFFFF, name
    )
    code = last_error()
    if not handle:
        if code in (winerror.ERROR_INVALID_HANDLE, winerror.ERROR_ACCESS_DENIED):
            return None  # an event or a mutex, or another user's
        raise os_error(code, path)
    if code == winerror.ERROR_ALREADY_EXISTS:
        close_handle(handle)
        return None
    number = int.from_bytes(os.urandom(8), "little") >> 2 or 1
    try:
        with looking_at(handle, MAP_READ | MAP_WRITE) as (address, there):
            page = _end_page.pack(_MAGIC, MAKING, number, size)
            ctypes.memmove(address + there - _PAGE, page, len(page))
    except BaseException:
        close_handle(handle)
        raise
    return Section(handle, name, path, number, size)


def open_section(name: str, path: str, *, writable: bool = True) -> tuple[Section | None, int]:
    """Open the section of exactly this name; return it, or None, and its state."""
    handle = kernel32.OpenFileMappingW(MAP_READ | (MAP_WRITE if writable else 0), False, name)
    if not handle:
        code = last_error()
        if code == winerror.ERROR_ACCESS_DENIED:
            raise os_error(code, path)
        return None, UNLINKED
    try:
        state, number, size, foreign = end_of(handle)
    except OSError:
        close_handle(handle)
        return None, UNLINKED
    if foreign:
        number = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") >> 2
    return Section(handle, name, path, number, size, foreign), state


def find_section(path: str, *, making: bool = False) -> Section | None:
    """Open the section of the block at `path`; return None if there is none.

    Parameters
    ----------
    path
        The block's path.
    making
        Whether to return a section that is still being made.

    Raises
    ------
    FileNotFoundError
        The section is still being made, and `making` is false.
    """
    if in_registry(path):
        return None
    made: Section | None = None
    with naming():  # otherwise a process that looks for holders could be taken for a holder
        for name in generations(kernel_name(path)):
            section, state = open_section(name, path)
            if section is None:
                continue
            if state == READY and (section.foreign or section_exists(section.id)):
                made, other = section, made
            elif state == MAKING and made is None:
                made, other = section, None
            else:
                other = section
            if other is not None:
                close_handle(other.handle)
            if state == READY and made is section:
                return section
    if made is not None and not making:
        close_handle(made.handle)
        if os.path.lexists(path):  # a file has the name until the section replaces it
            return None
        raise FileNotFoundError(errno.ENOENT, STILL_MADE, path)
    return made


def find_whole(path: str) -> Section | None:
    """Open the section of the block at `path`; return None if there is none, or it is not published."""
    try:
        return find_section(path)
    except FileNotFoundError:
        return None


def open_event(name: str) -> Any:
    """Open an event; return None if no process has it open."""
    try:
        return win32event.OpenEvent(win32con.SYNCHRONIZE, False, name)
    except pywintypes.error:
        return None


def section_exists(number: int) -> bool:
    """Return whether a process holds a block, or a pin keeps it for another process."""
    with naming():  # this process has the event open for a moment, as a holder has it all the time
        return open_event(event_name(number)) is not None or open_event(pinned_name(number)) is not None


def take_lease(section: Section, *, first: bool = False) -> bool:
    if section.foreign:
        section.lease = ()
        return True
    with naming():
        if not first and not section_exists(section.id):
            return False
        section.lease = tuple(
            win32event.CreateEvent(private_attributes(), True, False, event_name(section.id, pid))
            for pid in (None, os.getpid())
        )
    return True


def give_lease(section: Section) -> None:
    lease, section.lease = section.lease, None
    for event in reversed(lease or ()):
        event.Close()


def number_of(section: Section) -> int:
    number = next(numbers)
    sections[number] = section
    return number


ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}


def map_section(cls: type[mmap.mmap], section: Section, mode: Mode) -> mmap.mmap:
    # Only Windows has `tagname`. This process has the section open, so that mmap makes no new one.
    kind: Any = cls
    found: mmap.mmap = kind(-1, section.size, tagname=section.name, access=ACCESS[mode])
    return found
