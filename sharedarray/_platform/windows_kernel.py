"""Windows: functions of the kernel that pywin32 lacks, and its refusals as Python's exceptions."""

from __future__ import annotations

import ctypes
import errno
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pywintypes
import win32api
import winerror

msvcrt: Any = importlib.import_module("msvcrt")  # which a type checker on another system does not know
kernel32: Any = ctypes.__dict__["WinDLL"]("kernel32", use_last_error=True)
last_error: Callable[[], int] = ctypes.__dict__.get("get_last_error", lambda: 0)


def os_error(code: int, path: str = "") -> OSError:
    """Return the exception for one of Windows' error numbers."""
    if code in (winerror.ERROR_COMMITMENT_LIMIT, winerror.ERROR_NOT_ENOUGH_MEMORY, winerror.ERROR_DISK_FULL):
        return OSError(errno.ENOSPC, "no memory is free for it", path)
    text = win32api.FormatMessage(code).strip() if code else "it failed"
    kind: Any = OSError  # whose fourth argument only Windows has
    error: OSError = kind(0, text, path, code)
    return error


@contextmanager
def translating(path: str = "") -> Iterator[None]:
    """Translate pywin32's errors into the contract's `OSError`."""
    try:
        yield
    except pywintypes.error as error:
        code = error.winerror
    else:
        return
    raise os_error(code, path)


class Region(ctypes.Structure):
    """The structure that ``VirtualQuery`` fills, on 64 bits as on 32."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("allocation", ctypes.c_void_p),
        ("allocation_protect", ctypes.c_uint32),
        ("size", ctypes.c_size_t),
        ("state", ctypes.c_uint32),
        ("protect", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
    )


_Pointer, DWord, _Text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_wchar_p
kernel32.CreateFileMappingW.argtypes = (_Pointer, _Pointer, DWord, DWord, DWord, _Text)
kernel32.CreateFileMappingW.restype = _Pointer
kernel32.OpenFileMappingW.argtypes = (DWord, ctypes.c_int, _Text)
kernel32.OpenFileMappingW.restype = _Pointer
kernel32.MapViewOfFile.argtypes = (_Pointer, DWord, DWord, DWord, ctypes.c_size_t)
kernel32.MapViewOfFile.restype = _Pointer
kernel32.UnmapViewOfFile.argtypes = (_Pointer,)
kernel32.VirtualQuery.argtypes = (_Pointer, ctypes.POINTER(Region), ctypes.c_size_t)
kernel32.VirtualQuery.restype = ctypes.c_size_t
kernel32.QueryFullProcessImageNameW.argtypes = (_Pointer, DWord, _Text, ctypes.POINTER(DWord))
kernel32.CloseHandle.argtypes = (_Pointer,)
kernel32.ReOpenFile.argtypes = (_Pointer, DWord, DWord, DWord)
kernel32.ReOpenFile.restype = _Pointer
