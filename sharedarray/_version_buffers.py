"""The buffers of versions: finding those of a block, and making them.

`sharedarray._snapshots` describes the layout.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from sharedarray import (
    _errors as errors,
    _group_index as group_index,
    _header as header,
    _segment as segment,
    _sigint as sigint,
)
from sharedarray._control_page import WORDS
from sharedarray._header import PAGE
from sharedarray._made_once import made_once
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._snapshots import BUFFERS, CURRENT, NUMBER, SHOWN, Versions

__all__ = ["found_in", "made_versions_of", "show_again", "versions_of"]

_T = TypeVar("_T")

_MAGIC = int.from_bytes(b"\x93SAVERS\n", "little")
_COUNT = 3  # buffers: the current one, one that a slow reader keeps, and one to write
_GRANULARITY = 1 << 16
_MAKING = 1 << 58  # the byte that is locked while buffers are made: behind all data, below all leases


def versions_of(mapping: Mapping) -> Versions | None:
    """Return the versions of a block, None if it has none yet."""
    found: Versions | None = mapping.__dict__.get("versions")
    if found is not None and found.usable:
        return found
    if mapping.released:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )
    start = _start_of(mapping)
    size = _size_of(mapping)
    if size < start + WORDS * 8:
        return None
    # Read by a call, not by a mapping: a process that fails to make the buffers cuts off their pages again,
    # and an access to such a page of a mapping is a SIGBUS. The magic is written last.
    if _words_of(mapping, start, 1) != [_MAGIC]:
        return None
    _, length, count, stride, current = _words_of(mapping, start, CURRENT + 1)
    layout = _layout_of(mapping)
    first = -(-(start + WORDS * 8) // PAGE) * PAGE
    if (
        length != layout.size
        or not 2 <= count <= NUMBER
        or stride % PAGE
        or not length <= stride <= size
        or first + count * stride > size
        or current & NUMBER >= count
    ):
        raise errors.HeaderError(
            f"the versions of {mapping.name!r} are damaged",
            name=mapping.name,
            found=f"{count} buffers of {length} bytes, {stride} bytes apart, in a block of {size}",
            expected=f"buffers of {layout.size} bytes within the block",
        )
    return _kept(mapping, start, size)


def found_in(handle: int, layout: header.Layout, size: int) -> tuple[int, int] | None:
    """Return the version of an open block and the number of its buffers; None if it has no versions.

    Parameters
    ----------
    handle
        Of the block.
    layout
        Of the array, or of the bytes of a group.
    size
        Bytes of the block.
    """
    start = -(-layout.size // _GRANULARITY) * _GRANULARITY
    if size < start + WORDS * 8:
        return None
    words = np.frombuffer(platform.read(handle, (CURRENT + 1) * 8, start), "<u8").tolist()
    if words[0] != _MAGIC or not 2 <= words[BUFFERS] <= NUMBER:
        return None
    return words[CURRENT] >> 8, words[BUFFERS]


def _kept(mapping: Mapping, start: int, size: int) -> Versions:
    def make() -> Versions:
        made = Versions(mapping, start, size, _head_of(mapping))
        with contextlib.suppress(errors.DeadlockError):  # this thread writes by another attachment
            made.show_again()
        return made

    return made_once(mapping, "versions", make)


def show_again(mapping: Mapping, layout: header.Layout) -> None:
    """Copy the current version into an attached array, if a process has died before it did so."""
    start = -(-layout.size // _GRANULARITY) * _GRANULARITY
    if len(mapping) >= start + WORDS * 8:
        words = _words_of(mapping, start, SHOWN + 1)
        if words[0] == _MAGIC and words[SHOWN] != words[CURRENT] >> 8:
            with contextlib.suppress(errors.SharedArrayError):  # a later call reports damage
                versions_of(mapping)


def made_versions_of(mapping: Mapping) -> Versions:
    """Return the versions of a block; make them if it has none yet. Version 0 is the present data."""
    found = versions_of(mapping)
    if found is not None:
        return found
    if mapping.directory is not None and not platform.LENGTHENS:
        raise errors.UnsupportedError(
            f"{mapping.name!r} can have no versions on this system",
            name=mapping.name,
            found="a block that keeps the size that it was made with",
            next_step="make the array with file=, or replace it by a new one with replace=True",
        )
    with sigint.deferred:
        handle = segment.guarded_open(mapping)
        try:
            return _make(mapping, handle)
        finally:
            segment.guarded_close(handle)


def _make(mapping: Mapping, handle: int) -> Versions:
    """Make the versions. No other call uses the handle; Ctrl-C is deferred."""
    layout, start = _layout_of(mapping), _start_of(mapping)
    stride = -(-layout.size // PAGE) * PAGE
    size = start + WORDS * 8 + _COUNT * stride
    try:
        try:
            with sigint.allowed:
                platform.lock(handle, _MAKING, 1, shared=False, wait=True)
        except OSError as error:
            raise errors.NotOursError(
                f"{mapping.name!r} can have no versions",
                name=mapping.name,
                found=error.strerror,
                cause="it may only be read",
            ) from None
        found = versions_of(mapping)  # another process may have been faster
        if found is not None:
            return found
        before = platform.status(handle).size
        if before not in (layout.size, size) and mapping.directory is None:
            raise errors.HeaderError(
                f"{mapping.name!r} can have no versions",
                name=mapping.name,
                found=f"{before} bytes",
                expected=f"{layout.size} bytes, the array",
                cause="the file was cut off, or another program wrote behind the array",
                next_step="make a new one of its data: sharedarray.share(array, file=another_path)",
            )
        _extend(mapping, handle, layout.size, start, size, stride)
        return _kept(mapping, start, size)
    finally:
        platform.unlock(handle, _MAKING, 1)


def _extend(mapping: Mapping, handle: int, length: int, start: int, size: int, stride: int) -> None:
    memory = mapping.directory is not None
    directory = mapping.directory or os.path.dirname(mapping.name)
    try:
        segment.check_free(directory, size - start, memory=memory)
        with sigint.allowed:
            platform.reserve_parts(handle, size, [(start, size)])
    except OSError as error:
        with contextlib.suppress(OSError, NotImplementedError):
            platform.resize(handle, length)
        raise segment.translated(error, directory, size - start, memory=memory) from None
    first = start + WORDS * 8
    data = memoryview(mapping)[:length]
    with sigint.allowed:
        platform.write(handle, first, [data])
    words = np.zeros(SHOWN + 1, "<u8")
    words[1:] = length, _COUNT, stride, 0, 0
    platform.write(handle, start, [memoryview(words.tobytes())])
    platform.write(handle, start, [memoryview(_MAGIC.to_bytes(8, "little"))])  # last, in one step


def _layout_of(mapping: Mapping) -> header.Layout:
    return header.decode(mapping[:PAGE], len(mapping), name=mapping.name, more=mapping)


def _head_of(mapping: Mapping) -> int:
    """Return the bytes of a block that no version changes: its header, and the index of a group."""
    layout = _layout_of(mapping)
    if not group_index.is_group(layout, mapping):
        return layout.offset
    members = group_index.decode(mapping, layout.size, name=mapping.name).members.values()
    return min((member.start for member in members), default=layout.size)


def _start_of(mapping: Mapping) -> int:
    return -(-_layout_of(mapping).size // _GRANULARITY) * _GRANULARITY


def _size_of(mapping: Mapping) -> int:
    return _by_handle(mapping, lambda handle: platform.status(handle).size)


def _words_of(mapping: Mapping, start: int, count: int) -> list[int]:
    """Return the first control words. A hole, and what is behind the end, is zeros."""
    found = _by_handle(mapping, lambda handle: platform.read(handle, count * 8, start))
    return [int(word) for word in np.frombuffer(found.ljust(count * 8, b"\0"), "<u8")]


def _by_handle(mapping: Mapping, use: Callable[[int], _T]) -> _T:
    with sigint.deferred:
        if mapping.directory is not None:
            return segment.with_handle(mapping, use)
        handle = segment.guarded_open(mapping)
        try:
            return use(handle)
        finally:
            segment.guarded_close(handle)
