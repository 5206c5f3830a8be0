"""The contract's functions for a free list of pages, on systems without one: nothing calls them there."""

from __future__ import annotations

import mmap

__all__ = [
    "REUSES_PAGES",
    "UNSHARES",
    "detach",
    "exclusive",
    "fork_witness",
    "is_memory",
    "move_pages",
    "populate",
    "resize",
    "set_reused",
    "thread_runs",
    "unshare",
    "unwitnessed",
]

REUSES_PAGES = False
UNSHARES = False


def is_memory(handle: int) -> bool:
    raise NotImplementedError


def exclusive(handle: int) -> bool:
    raise NotImplementedError


def set_reused(handle: int) -> None:
    raise NotImplementedError


def resize(handle: int, size: int) -> None:
    raise NotImplementedError


def move_pages(source: mmap.mmap, target: mmap.mmap, handle: int, size: int) -> bool:
    raise NotImplementedError


def detach(mapping: mmap.mmap, handle: int) -> None:
    raise NotImplementedError


def populate(mapping: mmap.mmap, start: int = 0, length: int | None = None) -> None:
    raise NotImplementedError


def unshare(mapping: mmap.mmap, handle: int, start: int, length: int) -> bool:
    raise NotImplementedError


def fork_witness() -> tuple[int, int]:
    raise NotImplementedError


def unwitnessed(witness: tuple[int, int]) -> bool:
    raise NotImplementedError


def thread_runs(native: int) -> bool:
    raise NotImplementedError
