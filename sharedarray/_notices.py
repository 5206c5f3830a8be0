"""Notices of new data: `SharedArray.notify` and `SharedArray.wait`, for any block.

The blocks of arrays have no place for more than the array. So the words are in a file of the registry,
``v.INODE``, which the first process makes that waits or notifies: a page of control words (see
`sharedarray._parties`), in which word 1 counts the notices. The file goes with its block.
"""

from __future__ import annotations

import os
from typing import Any

from sharedarray import _errors as errors, _registry as registry, _segment as segment
from sharedarray._parties import WORDS, ControlPage
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._wakers import deadline_after

__all__ = ["Notices", "notices_of"]

_MAGIC = int.from_bytes(b"\x93SANOTE\n", "little")
_VERSION = 1  # the word that counts the notices
_COUNTING = 1 << 59  # the byte that a process locks while it counts
_PATIENCE = 1.0  # seconds to wait for a process that stands still while it counts: microseconds in practice
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Notices:
    """The notices of one block, in this process."""

    def __init__(self, mapping: Mapping) -> None:
        if mapping.directory is None:
            raise errors.UnsupportedError(
                f"{mapping.name} is a file, for which no process can wait by name",
                name=mapping.name,
                expected="a block",
                next_step="make the array with name= in place of file=",
            )
        self.pid = os.getpid()
        path = registry.notices_path(mapping.directory, mapping.inode)
        registry.open_registry(mapping.directory)
        handle = platform.opened(os.open, path, _FLAGS, 0o600)
        try:
            platform.reserve(handle, WORDS * 8)
        finally:
            os.close(handle)
        self._file = segment.open_file(path)
        self._page = ControlPage(self._file, 0, len(self._file))
        self._page.words[0] = _MAGIC
        segment.follow(mapping, self)

    @property
    def version(self) -> int:
        """How many notices there have been."""
        return int(self._page.words[_VERSION])

    def notify(self) -> int:
        """Count one more notice, and wake all that wait; return the new number."""
        page = self._page
        with page.turn:
            locked = page.lock(_COUNTING, deadline_after(_PATIENCE))
            try:
                version = int(page.words[_VERSION]) + 1
                page.words[_VERSION] = version
            finally:
                if locked:
                    page.unlock(_COUNTING)
        page.wake(self._file)
        return version

    def wait(self, since: int | None, timeout: float | None) -> int:
        """Wait for a notice after the one with a number; return the number then, 0 if the time is over."""
        known = self.version if since is None else since

        def there() -> int:
            return self.version if self.version > known else 0

        found: Any = self._page.wait(self._file, there, timeout)
        return int(found)

    def left(self, mapping: Mapping) -> None:
        """Let go of the file, since the block was left."""
        self._file.leave()


def notices_of(mapping: Mapping) -> Notices:
    """Return the notices of a block that is attached."""
    if mapping.left:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )
    found: Notices | None = mapping.__dict__.get("notices")
    if found is None or found.pid != os.getpid():
        found = Notices(mapping)
        mapping.__dict__["notices"] = found
    return found
