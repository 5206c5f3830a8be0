"""Names of semaphores that processes open while they start, and removing those of processes that have ended.

The kernel frees no semaphore that has a name. So the name says which process made the semaphore, as the name
of a pin does, and a sweep removes the semaphores of processes that have ended.
"""

from __future__ import annotations

import contextlib
import os

from sharedarray._platform import platform
from sharedarray._registry.processes import alive, here, me

_FILE = "sem."  # how glibc's files of semaphores begin; musl's begin with the name


def _start() -> str:
    return f"sharedarray-{platform.user()}-"


def semaphore_name() -> str | None:
    """Return a name for a semaphore of this process; None where no sweep could find it."""
    if platform.SEMAPHORES is None:
        return None
    pid, started = me()
    return f"/{_start()}{pid}-{started}-{here()}-{os.urandom(4).hex()}"


def sweep_semaphores() -> None:
    """Remove the semaphores of this user's processes that have ended."""
    if platform.SEMAPHORES is None:
        return
    start = _start()
    try:
        files = os.listdir(platform.SEMAPHORES)
    except OSError:
        return  # there are none
    for file in files:
        name = file.removeprefix(_FILE)
        if not name.startswith(start):
            continue
        try:
            pid, started, space = map(int, name.removeprefix(start).split("-")[:3])
        except ValueError:
            continue
        if not alive(pid, started, space):
            with contextlib.suppress(OSError):  # another process was faster
                os.unlink(f"{platform.SEMAPHORES}/{file}")
