"""Windows: files and directories that other processes may read, rename and remove while they are open."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pywintypes
import win32con
import win32file
import winerror

from sharedarray._platform.windows_kernel import msvcrt, os_error, translating
from sharedarray._platform.windows_names import DEFAULT_PLACE
from sharedarray._platform.windows_security import check_owner, private_attributes

paths: dict[int, str] = {}  # the path by which each descriptor was opened


def missing(directory: str) -> str | None:
    return None


SHARE_ALL = win32con.FILE_SHARE_READ | win32con.FILE_SHARE_WRITE | win32con.FILE_SHARE_DELETE
READ_WRITE = win32con.GENERIC_READ | win32con.GENERIC_WRITE
_NO_LINK = 0x00200000  # FILE_FLAG_OPEN_REPARSE_POINT


def open_file(
    path: str,
    access: int = READ_WRITE,
    *,
    disposition: int = win32con.OPEN_EXISTING,
    private: bool = False,
    follow: bool = False,
) -> int:
    """Open a file that other processes may read, write, rename and remove meanwhile; return a descriptor."""
    try:
        handle = win32file.CreateFile(
            os.path.normpath(path),
            access,
            SHARE_ALL,
            private_attributes() if private else None,
            disposition,
            0 if follow else _NO_LINK,
            None,
        )
    except pywintypes.error as error:
        code = error.winerror
    else:
        return descriptor_of(handle.Detach(), access, path)
    if code == winerror.ERROR_ACCESS_DENIED and os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "a directory", path)
    if code == winerror.ERROR_ACCESS_DENIED and not os.path.lexists(path):
        code = winerror.ERROR_FILE_NOT_FOUND  # it vanishes when its last handle is closed
    raise os_error(code, path)


def descriptor_of(handle: int, access: int, path: str) -> int:
    flags = os.O_RDWR if access & win32con.GENERIC_WRITE else os.O_RDONLY
    number: int = msvcrt.open_osfhandle(handle, flags | getattr(os, "O_BINARY", 0) | _NOINHERIT)
    found = os.fstat(number)
    if getattr(found, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT:
        os.close(number)
        raise OSError(errno.ELOOP, "a link", path)
    paths[number] = path
    return number


def close_file(descriptor: int) -> None:
    paths.pop(descriptor, None)
    os.close(descriptor)


_NOINHERIT = getattr(os, "O_NOINHERIT", 0)


def same_case(path: str) -> bool:
    """Return whether a path has a file's name in the upper and lower case of the disk.

    Windows would open the file by either; names of blocks that differ in case alone are different names.
    """
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


def file_inode(path: str, *, follow: bool = False) -> int | None:
    # os.stat opens a file unshared, which some systems refuse for a file that is open.
    flags = win32con.FILE_FLAG_BACKUP_SEMANTICS | (0 if follow else _NO_LINK)
    try:
        handle = win32file.CreateFile(
            os.path.normpath(path), _ATTRIBUTES, SHARE_ALL, None, win32con.OPEN_EXISTING, flags, None
        )
        found = identity(handle)[1]
        handle.Close()
    except pywintypes.error:
        return None
    return found


_ATTRIBUTES = 0x80  # FILE_READ_ATTRIBUTES


def identity(handle: Any) -> tuple[int, int]:
    """Return device and inode of an open file."""
    _, _, _, _, device, _, _, _, high, low = win32file.GetFileInformationByHandle(handle)
    return device & 0xFFFFFFFF, (high & 0xFFFFFFFF) << 32 | (low & 0xFFFFFFFF)


def move_file(source: str, target: str) -> None:
    try:
        os.replace(source, target)
    except PermissionError:  # a file that is mapped can be renamed, and not be replaced
        remove_file(target)
        os.rename(source, target)
    for handle, path in list(paths.items()):
        if path == source:
            paths[handle] = target


def remove_file(path: str) -> bool:
    """Remove a file. Its name is free at once, even if a process has it open."""
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
        if os.path.normcase(os.path.abspath(parent)) == DEFAULT_PLACE:
            make_private_directory(parent)
        elif os.path.normcase(os.path.abspath(path)) == DEFAULT_PLACE:
            os.makedirs(parent, exist_ok=True)
        try:
            with translating(path):
                win32file.CreateDirectory(os.path.normpath(path), private_attributes("OICI;GA"))
        except FileExistsError:
            pass  # another process was faster; the owner is checked below
    if os.path.normcase(path) not in _trusted:
        check_owner(path)
        _trusted.add(os.path.normcase(path))


# Directories that were checked; their owners and rights do not change by themselves.
_trusted: set[str] = set()


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
