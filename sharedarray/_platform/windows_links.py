"""Windows: the names of blocks, metadata links, and the pins of references in flight."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

import win32con

from sharedarray._clock import time
from sharedarray._platform.windows_files import (
    READ_WRITE,
    close_file,
    file_inode,
    identity,
    move_file,
    open_file,
    remove_file,
)
from sharedarray._platform.windows_kernel import msvcrt
from sharedarray._platform.windows_locks import FIRST_PAUSE, LAST_PAUSE
from sharedarray._platform.windows_names import in_registry, is_pin
from sharedarray._platform.windows_processes import close_in
from sharedarray._platform.windows_sections import (
    READY,
    UNLINKED,
    close_handle,
    find_section,
    find_whole,
    naming,
    number_of,
    open_section,
    section_exists,
    sections,
    set_state,
)


def leads_to(path: str, handle: int) -> bool:
    return file_inode(path, follow=True) == identity(msvcrt.get_osfhandle(handle))[1]


def inode_of(path: str) -> int | None:
    try:
        section = find_section(path)
    except FileNotFoundError:
        return None
    if section is not None:
        close_handle(section.handle)
        return section.id
    return file_inode(path)


def ended(inode: int) -> bool:
    return not section_exists(inode)


def open_pin(path: str, *, writable: bool) -> int:
    text = read_metadata(path)
    if text is None:
        raise FileNotFoundError(errno.ENOENT, "the array has arrived already", path)
    kind, _, rest = text.partition(" ")
    if kind == "file":
        return open_file(rest, READ_WRITE if writable else win32con.GENERIC_READ)
    where, _, name = rest.partition("\n")
    section, _ = open_section(name, where.split(" ", 4)[4], writable=writable)
    if section is None:
        raise FileNotFoundError(errno.ENOENT, "no process holds the block any more", path)
    return number_of(section)


def _remove_pin(path: str) -> bool:
    text = read_metadata(path)
    if not remove_file(path):
        return False  # another process was faster, and closes the handles
    kind, _, rest = (text or "").partition(" ")
    if kind == "memory":
        pid, started, *handles = rest.split(" ", 4)[:4]
        for handle in handles:
            close_in(int(pid), int(started), int(handle))
    return True


def move(source: str, target: str) -> None:
    text = read_metadata(source) or ""
    kind, _, rest = text.partition(" ")
    with naming():
        old = find_whole(target)
        try:
            if kind == "file":
                move_file(rest, target)
            else:
                _publish_section(rest.partition("\n")[2], target)
                if old is None:
                    remove_file(target)
            if old is not None and not old.foreign:
                set_state(old.handle, UNLINKED)
        finally:
            if old is not None:
                close_handle(old.handle)
        _remove_pin(source)


def _publish_section(name: str, path: str) -> None:
    """Publish the section that this process has made under exactly this name."""
    section, _ = open_section(name, path)
    if section is None:
        raise FileNotFoundError(errno.ENOENT, "the section is gone", path)
    for own in sections.values():
        if own.id == section.id:
            own.draft = None
    set_state(section.handle, READY)
    close_handle(section.handle)


def remove(path: str, inode: int | None = None) -> bool:
    if is_pin(path):
        return _remove_pin(path)
    if not in_registry(path):
        with naming():
            try:
                section = find_section(path)
            except FileNotFoundError:
                return False
            if section is not None and inode not in (None, section.id):
                close_handle(section.handle)
                return False
            if section is not None:
                if not section.foreign:  # CPython's memory goes with its last user, as CPython says
                    set_state(section.handle, UNLINKED)
                close_handle(section.handle)
                return True
            if inode is not None and file_inode(path) != inode:
                return False
    return remove_file(path)


def write_metadata(path: str, text: str, *, replace: bool = False) -> None:
    fresh = f"{os.path.dirname(path)}/n.{os.getpid()}.{os.urandom(4).hex()}"
    handle = open_file(fresh, disposition=win32con.CREATE_NEW, private=True)
    try:
        os.write(handle, text.encode("utf-8", "surrogatepass"))
    finally:
        close_file(handle)
    try:
        if replace:
            _retried(lambda: os.replace(fresh, path))
        else:
            os.rename(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def _retried(action: Callable[[], None]) -> None:
    """Call a function again while it fails because another process reads the file, which takes a moment."""
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except PermissionError:
            if pause > LAST_PAUSE * 64:
                raise
        time.sleep(pause)
        pause *= 2


def read_metadata(path: str) -> str | None:
    try:
        handle = open_file(path, win32con.GENERIC_READ)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        return os.read(handle, 1 << 16).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ""
    finally:
        close_file(handle)
