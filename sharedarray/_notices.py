"""Notices of new data: `SharedArray.notify` and `SharedArray.wait`, for any block.

The blocks of arrays have no place for more than the array. So the words are in a file of the registry,
``v.INODE``, which the first process makes that waits or notifies: a page of control words (see
`sharedarray._control_page`), in which word 1 counts the notices. Each process that uses the file holds a
shared lock on it. It is removed when its block has no name any more and no process holds the lock.
"""

from __future__ import annotations

import os
from typing import Any

from sharedarray import (
    _errors as errors,
    _registry as registry,
    _segment as segment,
    _sigint as sigint,
)
from sharedarray._control_page import WORDS, ControlPage
from sharedarray._made_once import made_once
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._wakers import deadline_after

__all__ = ["Notices", "notices_of"]

_MAGIC = int.from_bytes(b"\x93SANOTE\n", "little")
_VERSION = 1  # the word that counts the notices
_COUNTING = 1 << 59  # the byte that a process locks while it counts
_PATIENCE = 1.0  # seconds to wait for a process that stands still while it counts: microseconds in practice
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class _Page(ControlPage):
    """The page of control words in a file of notices.

    Attributes
    ----------
    block : tuple of str and int
        The directory and the inode of the block.
    lease : int
        The handle with the lock that keeps the file, -1 without one. It is not the page's own: a mapping
        keeps that one open.
    """

    block: tuple[str, int]
    lease: int = -1

    def closed(self) -> None:
        """Remove the file if its block is gone."""
        if self.lease >= 0:
            lease, self.lease = self.lease, -1
            segment.guarded_close(lease)
        try:
            registry.remove_notices_without_block(*self.block)
        except OSError:
            pass  # a sweep removes it


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
        path = registry.notices_path(mapping.directory, mapping.inode)
        with sigint.deferred:
            while not self._open(mapping.directory, path, mapping):
                pass  # another process has just removed the file

    def _open(self, directory: str, path: str, mapping: Mapping) -> bool:
        """Make the file if it is not there, and map it; return False if it was removed meanwhile."""
        registry.open_registry(directory)
        handle = platform.opened(os.open, path, _FLAGS, 0o600)
        try:
            platform.reserve(handle, WORDS * 8)
        except OSError as error:
            raise segment.translated(error, directory, WORDS * 8, memory=True) from None
        finally:
            os.close(handle)
        try:
            file = segment.open_file(path)
            named_by = directory, file.device << 64 | file.inode
            page = _Page(file, 0, len(file), named_by=named_by, name=mapping.name)
        except errors.BlockNotFoundError:
            return False
        page.block = directory, mapping.inode
        segment.follow(file, page)
        try:
            page.lease = segment.guarded_open_file(page.handle)
            with sigint.allowed:
                held = registry.hold_notices(page.lease, path)
        except BaseException:
            file.release()
            raise
        if not held:
            file.release()
            return False
        page.words[0] = _MAGIC
        self._file, self._page = file, page
        return True

    @property
    def usable(self) -> bool:
        return self._page.usable

    @property
    def version(self) -> int:
        """Number of notices so far."""
        return int(self._page.words[_VERSION])

    def notify(self) -> int:
        """Count one more notice, and wake all that wait; return the new number."""
        page = self._page
        with sigint.deferred:
            page.begin_use()
            try:
                with page.turn:
                    try:
                        with sigint.allowed:
                            page.lock(_COUNTING, deadline_after(_PATIENCE))
                        version = int(page.words[_VERSION]) + 1
                        page.words[_VERSION] = version
                    finally:
                        page.unlock(_COUNTING)
                page.wake()
            finally:
                page.end_use()
        return version

    def wait(self, since: int | None, timeout: float | None) -> int:
        """Wait for a notice after the one with a number; return the number then, 0 if the time is over."""
        known = self.version if since is None else since

        def there() -> int:
            return self.version if self.version > known else 0

        found: Any = self._page.wait(there, timeout)
        return int(found)

    def on_release(self, mapping: Mapping) -> None:
        """Let go of the file, since the block was left."""
        self._file.release()


def notices_of(mapping: Mapping) -> Notices:
    """Return the notices of a block that is attached."""
    if mapping.released:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )
    return made_once(mapping, "notices", lambda: Notices(mapping))
