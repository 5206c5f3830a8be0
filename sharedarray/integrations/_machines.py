"""Which addresses and processes are on this machine, and see the same blocks."""

from __future__ import annotations

import functools
import os

from sharedarray import _registry as registry
from sharedarray._platform import platform


@functools.cache
def _boot() -> str:
    """Return a text that differs between machines, and between two starts of one."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii", opener=platform.opener) as file:
            return file.read().strip()
    except OSError:
        import uuid

        return f"{uuid.getnode():x}"


def domain() -> str:
    """Return a key that all processes have in common that see the same blocks."""
    return f"{_boot()}/{os.stat(registry.directory()).st_dev}"


def _host(address: str) -> str:
    rest = address.rpartition("://")[2]
    return rest.rpartition(":")[0].strip("[]") if ":" in rest else rest


def is_loopback(address: str) -> bool:
    host = _host(address)
    return address.startswith("inproc://") or host.startswith("127.") or host in ("::1", "localhost")


def on_this_machine(address: str, own: str) -> bool:
    return is_loopback(address) or (bool(own) and _host(address) == _host(own))
