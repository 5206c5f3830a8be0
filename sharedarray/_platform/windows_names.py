"""Windows: the names that blocks may have, and the names of the kernel's objects for a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b

NAME_LIMIT = 200  # bytes; file names have 255 characters at most, and a record's adds an inode to it
DEFAULT_DIRECTORY = os.path.join(
    os.environ.get("LOCALAPPDATA") or os.path.expanduser("~"), "sharedarray"
).replace("\\", "/")


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
    if name.startswith(OURS):
        return f"a name that starts with {OURS!r}"
    return None


OURS = "sharedarray."  # the beginning of the names of kernel objects that are not blocks
# Sections that can exist at once for one name: that of the block that has it, and those of blocks that were
# unlinked and are still held.
_GENERATIONS = 16
PIN_KINDS = ("t.", "s.")  # the beginnings of the names of pins


def in_registry(path: str) -> bool:
    return os.path.basename(os.path.dirname(path)).startswith(".sharedarray-")


@lru_cache(1024)
def kernel_name(path: str) -> str:
    """Return the name of the section of the block at `path`."""
    directory, name = os.path.split(path)
    place = os.path.normcase(os.path.abspath(directory))
    if place == DEFAULT_PLACE:
        return name
    return f"{OURS}{blake2b(place.encode(), digest_size=8).hexdigest()}.{name}"


DEFAULT_PLACE = os.path.normcase(os.path.abspath(DEFAULT_DIRECTORY))


def generations(name: str) -> Iterator[str]:
    """Yield the names that a block's section may have: those of unlinked blocks may still have the first."""
    yield name
    for number in range(1, _GENERATIONS):
        yield f"{name}\x7f{number}"  # no name of a block has this character


def event_name(number: int, pid: int | None = None) -> str:
    return f"{OURS}held.{number:016x}" + ("" if pid is None else f".{pid}")


def pinned_name(number: int) -> str:
    return f"{OURS}pinned.{number:016x}"


MEMORY = f"{OURS}memory."


def path_of(handle: int, pid: int | None = None) -> str:
    return f"{MEMORY}{os.getpid() if pid is None else pid}.{handle}"


def is_pin(path: str) -> bool:
    return in_registry(path) and os.path.basename(path)[:2] in PIN_KINDS
