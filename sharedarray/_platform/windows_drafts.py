"""Windows: making blocks, and writing to and reading from open ones."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence

import win32con

from sharedarray._platform.contract import Draft
from sharedarray._platform.windows_files import make_private_directory, open_file, paths
from sharedarray._platform.windows_names import DEFAULT_PLACE, generations, kernel_name, path_of
from sharedarray._platform.windows_sections import (
    FIRST,
    MAP_READ,
    READY,
    close_handle,
    find_section,
    find_whole,
    looking_at,
    make_section,
    map_section,
    naming,
    number_of,
    numbers,
    sections,
    set_state,
    take_lease,
)


def _need_directory(directory: str) -> None:
    if not os.path.isdir(directory) and os.path.normcase(os.path.abspath(directory)) == DEFAULT_PLACE:
        make_private_directory(directory)


def draft(directory: str) -> Draft:
    _need_directory(directory)
    scratch = f"{directory}/.{os.getpid()}.{os.urandom(6).hex()}.part"
    return Draft(open_file(scratch, disposition=win32con.CREATE_NEW, private=True), scratch)


def draft_memory(directory: str, size: int, path: str | None, *, replace: bool = False) -> Draft:
    _need_directory(directory)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "no such directory", directory)
    if path is None:
        return Draft(_make_unnamed(size))
    with naming():
        if not replace:
            _refuse_taken(path, making=True)
        for name in generations(kernel_name(path)):
            section = make_section(name, path, size)
            if section is not None:
                break
        else:
            raise FileExistsError(errno.EEXIST, "the name is taken", path)
    try:
        take_lease(section, first=True)
    except BaseException:
        close_handle(section.handle)
        raise
    return Draft(number_of(section))


def _refuse_taken(path: str, *, making: bool) -> None:
    found = find_section(path, making=True) if making else find_whole(path)
    if found is not None:
        close_handle(found.handle)
    if found is not None or os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "the name is taken", path)


def _make_unnamed(size: int) -> int:
    while True:
        number = next(numbers)
        path = path_of(number)
        section = make_section(path, path, size)
        if section is not None:  # else a process still has memory of an earlier one with our pid
            set_state(section.handle, READY)
            sections[number] = section
            return number


def reserve(handle: int, size: int, start: int = 0) -> None:
    if handle < FIRST:
        os.ftruncate(handle, size)


def reserve_parts(handle: int, size: int, parts: Sequence[tuple[int, int]]) -> None:
    if handle < FIRST and os.fstat(handle).st_size < size:
        os.ftruncate(handle, size)


def write(handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
    if handle < FIRST:
        os.lseek(handle, offset, os.SEEK_SET)
        for buffer in buffers:
            remaining = buffer.cast("B") if len(buffer) else buffer
            while len(remaining):
                remaining = remaining[os.write(handle, remaining[:_WRITE_STEP]) :]
        return
    section = sections[handle]
    if section.draft is None:
        section.draft = map_section(mmap.mmap, section, "r+")
    for buffer in buffers:
        section.draft[offset : offset + len(buffer)] = buffer
        offset += len(buffer)


_WRITE_STEP = 1 << 28  # bytes per write


def read(handle: int, count: int, offset: int = 0) -> bytes:
    if handle < FIRST:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, count)
    section = sections[handle]
    end = min(offset + count, section.size)
    if end <= offset:
        return b""
    with looking_at(section.handle, MAP_READ, end) as (address, _):
        return ctypes.string_at(address + offset, end - offset)


def shrink(handle: int) -> None:
    pass  # its pages go with the last process that has it open or mapped


def publish(draft: Draft, path: str) -> None:
    with naming():
        _refuse_taken(path, making=False)
        if draft.handle < FIRST:
            os.rename(str(draft.scratch), path)
            paths[draft.handle] = path
            return
        section = sections[draft.handle]
        section.draft = None
        set_state(section.handle, READY)


def publish_file(draft: Draft, path: str) -> Draft:
    publish(draft, path)
    return draft
