"""Linux: other processes, as /proc and the kernel tell of them."""

from __future__ import annotations

import os
import select
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from sharedarray import _errors as errors
from sharedarray._clock import time
from sharedarray._platform.descriptors import opened as opened, opened_file

if TYPE_CHECKING:
    import socket


def contents_of(path: str) -> bytes | None:
    try:
        handle = opened_file(path, os.O_RDONLY | os.O_CLOEXEC)
    except errors.LimitError:
        raise  # otherwise a process that lives would count as dead
    except OSError:
        return None
    try:
        pieces = []
        while piece := os.read(handle, 1 << 16):
            pieces.append(piece)
    except OSError:
        return None
    finally:
        os.close(handle)
    return b"".join(pieces)


def process_started(pid: int) -> int | None:
    line = contents_of(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in parentheses may hold anything. Behind it comes the state, and field 22 is the start.
    fields = line[line.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def command_line(pid: int) -> list[str]:
    line = contents_of(f"/proc/{pid}/cmdline")
    return [os.fsdecode(word) for word in line.rstrip(b"\0").split(b"\0")] if line else []


def process_space() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def runs(program: str) -> bool:
    try:
        return os.path.samefile(program, "/proc/self/exe")
    except OSError:
        return False


_PR_GET_CHILD_SUBREAPER = 37  # <linux/prctl.h>


def adopts_orphans() -> bool:
    if os.getpid() == 1:
        return True
    import ctypes  # NumPy has imported it already

    found = ctypes.c_int(0)
    prctl = ctypes.CDLL(None).prctl
    return prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) == 0 and bool(found.value)


_UCRED = struct.Struct("3i")  # ``struct ucred``: pid, uid, gid


def peer(connection: socket.socket) -> int:
    import socket  # not above: few processes start a janitor, which alone needs it

    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[0])


@lru_cache(1)
def _clock() -> int:
    """Return a number for this boot and this time namespace, which may shift the clock of the boot time."""
    boot = (contents_of("/proc/sys/kernel/random/boot_id") or b"").strip().replace(b"-", b"")
    try:
        space = os.stat("/proc/self/ns/time").st_ino
    except OSError:
        space = 0  # a kernel before 5.6 has one clock for all
    return int(boot, 16) >> 64 ^ space if boot else 0


def uptime() -> tuple[int, float]:
    return _clock(), time.clock_gettime(time.CLOCK_BOOTTIME)


_POLL_PERIOD = 0.5  # seconds between checks of a process, which kernels before 5.3 cannot wait for


def await_end(pid: int, started: int) -> None:
    try:
        handle = opened(os.pidfd_open, pid)
    except ProcessLookupError:
        return
    except OSError:
        while process_started(pid) == started:
            time.sleep(_POLL_PERIOD)
        return
    try:
        if process_started(pid) == started:  # otherwise the descriptor is of a later process with this pid
            ends = select.poll()
            ends.register(handle, select.POLLIN)
            ends.poll()
    finally:
        os.close(handle)
