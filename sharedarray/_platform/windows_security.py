"""Windows: the user, and access lists that let only this user open what this library makes."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from functools import lru_cache
from typing import Any

import win32api
import win32con
import win32security

from sharedarray._platform.windows_kernel import translating


@lru_cache(None)
def user() -> str:
    with translating():
        token = win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32con.TOKEN_QUERY)
        found, _ = win32security.GetTokenInformation(token, win32security.TokenUser)
        return str(win32security.ConvertSidToStringSid(found))


def _descriptor(rights: str) -> Any:
    """Make a security descriptor: this user alone, whatever the parent directory allows."""
    convert = win32security.ConvertStringSecurityDescriptorToSecurityDescriptor
    return convert(f"O:{user()}D:P(A;{rights};;;{user()})", win32security.SDDL_REVISION_1)


@lru_cache(None)
def private_attributes(rights: str = ";GA") -> Any:
    attributes = win32security.SECURITY_ATTRIBUTES()
    attributes.SECURITY_DESCRIPTOR = _descriptor(rights)
    return attributes


class _Attributes(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint32), ("descriptor", ctypes.c_void_p), ("inherit", ctypes.c_int))


@lru_cache(None)
def private_pointer() -> tuple[Any, Any]:
    """Return the same for a call through ctypes, with what has to stay alive."""
    raw = ctypes.create_string_buffer(bytes(memoryview(_descriptor(";GA"))))
    return _Attributes(ctypes.sizeof(_Attributes), ctypes.addressof(raw), 0), raw


_EVERYBODY = ("S-1-1-0", "S-1-5-11", "S-1-5-32-545", "S-1-5-32-546", "S-1-5-7")


def check_owner(path: str) -> None:
    found = os.lstat(path)
    if (
        not stat.S_ISDIR(found.st_mode)
        or getattr(found, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT
    ):
        raise PermissionError(errno.EPERM, "not a directory", path)
    with translating(path):
        problem = outsiders(win32security.GetFileSecurity(os.path.normpath(path), OWNER_AND_LIST))
    if problem is not None:
        raise PermissionError(errno.EPERM, problem, path)


OWNER_AND_LIST = 1 | 4  # OWNER_SECURITY_INFORMATION, DACL_SECURITY_INFORMATION


def outsiders(descriptor: Any) -> str | None:
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


READ_CONTROL = 0x20000
