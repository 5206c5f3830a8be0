r"""Versions of what is in a block: one process writes a new one while others keep the old one.

An array or a group gets its versions with its first update or snapshot. The block grows then::

    0       the block as it was: header and data
    ...     from the next multiple of 65536 on, a page of control words (`sharedarray._control_page`):
            0  b"\x93SAVERS\n"             3  bytes from the beginning of one buffer to the next
            1  bytes of the block as it was  4  the current version << 8 | the number of its buffer
            2  how many buffers follow       5  the version that the array itself shows
    ...     the buffers, each as long as the block as it was, from multiples of 4096 on

**A version is published by one store** into word 4. Until then no reader looks at its buffer, so that the
death of a writer changes nothing for them. One process writes at a time: it holds a lock.

**A buffer that a reader holds is not written.** The state of a party is the set of the buffers that it holds.
A reader adds the current buffer to its set, and looks again whether that is still the current one. A writer
chooses a buffer that is not the current one, and looks whether a party holds it. With a full fence between
the two steps of each, one of them always sees the other. What a dead party held is free.

**The array itself** gets each version after it was published, for those who read it without a snapshot, for
`numpy.load`, and for those who attach. While it does, they may see a part of it; a snapshot is always whole.
If the writer dies in this moment, the array shows a part of it until another process attaches, uses the
versions for the first time, or writes one. By word 5, this process brings the array up to date.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from sharedarray import (
    _errors as errors,
    _group_index as group_index,
    _header as header,
    _segment as segment,
    _sigint as sigint,
)
from sharedarray._control_page import STATE, WORDS, ControlPage, Party, made_once
from sharedarray._header import PAGE
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._wakers import Fence

__all__ = ["Held", "Update", "Versions", "made_versions_of", "show_again", "versions_of"]

_Array: TypeAlias = np.ndarray[Any, Any]
_T = TypeVar("_T")
_new_array = np.ndarray.__new__

_MAGIC = int.from_bytes(b"\x93SAVERS\n", "little")
_BYTES, _BUFFERS, _STRIDE, _CURRENT, _SHOWN = 1, 2, 3, 4, 5
_COUNT = 3  # buffers: the current one, one that a slow reader keeps, and one to write
_GRANULARITY = 1 << 16
_MAKING, _WRITING = 1 << 58, (1 << 58) + 1  # bytes that are locked: behind all data, below all leases
_NUMBER = 0xFF  # of a buffer, in word 4
_PATIENCE = 10.0  # seconds for other threads of this process to drop the snapshots that a writer waits for


class Held(np.ndarray[Any, Any]):
    """All bytes of a buffer that this process holds: the views of a snapshot refer to it."""


# Attachments of which a snapshot is in use, by the id of their versions: nothing else keeps them for it.
_in_use: dict[int, tuple[Versions, Mapping]] = {}


class Versions(ControlPage):
    """The versions of one block, in this process."""

    def __init__(self, mapping: Mapping, start: int, size: int) -> None:
        super().__init__(mapping, start, size)
        words = self.words
        self.bytes, stride = int(words[_BYTES]), int(words[_STRIDE])
        first = -(-(start + WORDS * 8) // PAGE) * PAGE
        whole = memoryview(self.memory)
        self._buffers = [
            whole[first + number * stride : first + number * stride + self.bytes]
            for number in range(int(words[_BUFFERS]))
        ]
        self._readable = [buffer.toreadonly() for buffer in self._buffers]
        self._whole = whole[: self.bytes]
        self.head = _head_of(mapping)
        self._holder: Party | None = None
        self._guard = threading.Lock()
        guarded = Fence()  # with the guard held
        self._release_fence, self._acquire_fence = guarded.release, guarded.acquire
        # For each buffer that this process holds, what its snapshots refer to.
        self._held: list[weakref.ref[Held] | None] = [None] * len(self._buffers)
        self._ended = _ended_of(weakref.ref(self))
        self._unsettled = False
        self._word = -1  # word 4 when a snapshot was taken last
        self._closing = False

    @property
    def version(self) -> int:
        """The number of the current version."""
        return int(self.words[_CURRENT]) >> 8

    # -- reading --------------------------------------------------------------------------------------

    def hold(self, mapping: Mapping) -> Held:
        """Return all bytes of the current version, held until the last view of them goes."""
        word = self.words[_CURRENT]
        if word == self._word:
            known = self._held[word & _NUMBER]
            held = None if known is None else known()
            if held is not None:
                return held
        with sigint.deferred:
            with self._guard:
                if self._holder is None:
                    self._become_holder(mapping)
                held = self._hold(mapping)
            if self._unsettled:
                self.settle()
        return held

    def _become_holder(self, mapping: Mapping) -> None:
        """Become a party that holds buffers, in a deferred block and with the guard held."""
        if not self.writable:
            raise errors.NotOursError(
                f"no snapshot of {mapping.name!r} can be taken",
                name=mapping.name,
                found="a file that this user may only read",
                cause="a reader has to tell which version it keeps",
                next_step="copy the array",
            )
        self.begin_use()
        try:
            self._holder = self.claim()
        finally:
            self.end_use()
        if self._holder is None:
            raise errors.LimitError(
                f"too many processes have snapshots of {mapping.name!r}", name=mapping.name
            )

    def _hold(self, mapping: Mapping) -> Held:
        """Hold the current buffer, in a deferred block and with the guard held."""
        assert self._holder is not None
        state, words = STATE + self._holder.index, self.words
        while True:
            word = words[_CURRENT]
            number = word & _NUMBER
            known = self._held[number]
            if known is None:
                words[state] |= 1 << number
                self._release_fence()
                self._acquire_fence()
                if words[_CURRENT] != word:
                    words[state] &= ~(1 << number)
                    continue
            elif (held := known()) is not None:  # another thread was faster
                self._word = word
                return held
            break  # a buffer that is held already, though its last snapshot has gone, is still whole
        # Its base is no array: NumPy would take that for the base of views, in the place of this one.
        held = _new_array(Held, self.bytes, np.uint8, self._readable[number])
        self._held[number] = weakref.ref(held, self._ended)
        _in_use[id(self)] = self, mapping
        self._word = word
        return held

    def settle(self) -> None:
        """Hold no buffer of which the last snapshot has gone; to be called in a deferred block."""
        guard, held = self._guard, self._held
        self._unsettled = True
        while self._unsettled and guard.acquire(False):
            try:
                self._unsettled = False
                kept = 0
                for number, known in enumerate(held):
                    if known is not None:
                        if known() is None:
                            held[number] = None
                        else:
                            kept |= 1 << number
                if self._holder is not None:
                    self.words[STATE + self._holder.index] = kept
                    self._release_fence()
                    self._acquire_fence()
                    if not self.all_awake():
                        self.wake_by(self._holder)
            finally:
                guard.release()
            if not kept:
                _in_use.pop(id(self), None)
                if self._closing:
                    self.on_release()

    # -- writing --------------------------------------------------------------------------------------

    def begin(self, mapping: Mapping, timeout: float | None, copy: bool) -> tuple[_Array, int]:
        """Return a buffer for the next version, and its number; to be called in a deferred block. See `end`.

        Raises
        ------
        LockTimeout
            Another process wrote, or readers held all buffers, until time was over.
        DeadlockError
            This process holds all buffers, or this thread writes a version already.
        """
        if not self.take_turn(_WRITING, timeout, "update"):
            raise _busy(mapping, timeout, "another thread or process writes a version")
        try:
            with sigint.allowed:
                if self._is_behind():
                    self._show()
                number = self._free(mapping, timeout)
                buffer = self._buffers[number]
                if copy:
                    buffer[:] = self._buffers[self.words[_CURRENT] & _NUMBER]
                else:  # all but the data, which the writer writes
                    head = min(self.head, self.bytes)
                    buffer[:head] = self._whole[:head]
        except BaseException:
            self.end_turn(_WRITING)
            raise
        return np.frombuffer(buffer, np.uint8), number

    def end(self, number: int, publish: bool) -> None:
        """Publish what is in a buffer as the next version, or do not; to be called in a deferred block."""
        try:
            if publish:
                self.fence()
                self.words[_CURRENT] = ((self.words[_CURRENT] >> 8) + 1) << 8 | number
                self.wake()
                self._show()
        finally:
            self.end_turn(_WRITING)

    def _is_behind(self) -> bool:
        """Return whether the array itself does not show the current version."""
        return int(self.words[_SHOWN]) != self.version

    def _show(self) -> None:
        """Bring the array itself up to date, with the lock held."""
        current = int(self.words[_CURRENT])
        self._whole[:] = self._buffers[current & _NUMBER]
        self.fence()
        self.words[_SHOWN] = current >> 8

    def show_again(self) -> None:
        """Bring the array itself up to date if the process that did so has died; in a deferred block."""
        if self._is_behind() and self.writable and self.take_turn(_WRITING, 0.0, "update"):
            try:
                if self._is_behind():
                    self._show()
            finally:
                self.end_turn(_WRITING)

    def _free(self, mapping: Mapping, timeout: float | None) -> int:
        """Return a buffer that is neither the current one nor held, with the lock held."""
        current = int(self.words[_CURRENT]) & _NUMBER
        others = [number for number in range(len(self._buffers)) if number != current]
        # Half-written buffers of dead writers are as free as all others.
        first = others[0]

        def holders() -> list[int]:
            return [index for index, _ in self.states()]

        def free() -> int:
            """Return the number of a free buffer, and one more, so that it is true."""
            self.fence()
            taken = 0
            for index, mask in self.states():
                if mask & ~(1 << current) and not self.alive(index):
                    self._clear(index)
                    mask = 0
                taken |= mask
            return next((number + 1 for number in others if not taken >> number & 1), 0)

        def kept_here() -> bool:
            return all(self._held[number] for number in others)

        found = free()
        if not found and kept_here():
            with sigint.deferred:
                self.settle()
            found = free()
            if not found and threading.active_count() > 1:  # another thread may drop its snapshots
                seconds = _PATIENCE if timeout is None else min(timeout, _PATIENCE)
                found = self.wait(free, seconds, holders)
            if not found and kept_here():
                raise errors.DeadlockError(
                    f"this process keeps snapshots of {len(others)} old versions of {mapping.name!r}, so "
                    "that there is no buffer for a new one",
                    name=mapping.name,
                    next_step="drop them, or keep copies: snapshot().copy()",
                )
        found = found or self.wait(free, timeout, holders)
        if not found:
            raise _busy(mapping, timeout, f"readers keep snapshots of all versions, such as buffer {first}")
        return int(found) - 1

    def _clear(self, index: int) -> None:
        with sigint.deferred:
            party = self.take_party()
            if party is not None:
                try:
                    self.clear_dead(index, party)
                finally:
                    self.give_back_party(party)

    # -- waiting --------------------------------------------------------------------------------------

    def wait_for(self, version: int, timeout: float | None) -> bool:
        """Wait for a version or a later one; return whether it is there."""
        return bool(self.wait(lambda: self.version >= version, timeout))

    # -- the end --------------------------------------------------------------------------------------

    def on_release(self, mapping: Mapping | None = None) -> None:
        """Give up all, once no snapshot is in use any more."""
        if mapping is not None and self.usable and any(self._held):
            self._closing = True
            self.stop_waits()
            return
        super().on_release(mapping)

    def before_release(self) -> None:
        """Hold nothing any more."""
        if self._holder is not None:
            self.words[STATE + self._holder.index] = 0
            self.wake_by(self._holder)


class Update(Generic[_T]):
    """A context manager that gives what a new version is written into, and publishes it.

    Examples
    --------
    >>> import sharedarray as sa
    >>> weights = sa.zeros(3)
    >>> with weights.update() as new:  # published at the end
    ...     new += 1
    >>> weights.snapshot().tolist()
    [1.0, 1.0, 1.0]
    """

    _given: tuple[Any, int] | None = None
    _pid = 0  # of the process that writes

    def __init__(
        self,
        versions: Versions,
        mapping: Mapping,
        copy: bool,
        timeout: float | None,
        over: Callable[[_Array], _T],
    ) -> None:
        self._versions = versions
        self._mapping = mapping
        self._copy = copy
        self._timeout = timeout
        self._over = over

    def __enter__(self) -> _T:
        if self._given is not None:
            raise RuntimeError("a version is being written already: call update() for each one")
        try:
            with sigint.deferred:
                memory, number = self._versions.begin(self._mapping, self._timeout, self._copy)
                given = self._over(memory)
                self._pid, self._given = os.getpid(), (given, number)
            return given
        except BaseException as error:  # Ctrl-C, as the block ended
            self.__exit__(type(error))
            raise

    def __exit__(self, kind: object, *exception: object) -> None:
        with sigint.deferred:
            self._end(publish=kind is None)

    def _end(self, publish: bool) -> None:
        if self._given is None:
            return
        (given, number), self._given = self._given, None
        if os.getpid() == self._pid:  # or this is a child that was forked in the block: its parent goes on
            self._versions.end(number, publish)
        # It may be published.
        if isinstance(given, np.ndarray):
            given.flags.writeable = False
        else:
            given.freeze()

    @sigint.finalizer
    def __del__(self) -> None:
        if self._given is not None:  # Ctrl-C came as `__exit__` began, or the program did not call it
            sigint.finalize(self._abandon)

    def _abandon(self) -> None:
        if self._versions.turn._is_owned():  # another thread cannot end the turn
            self._end(publish=False)


def _ended_of(versions: weakref.ref[Versions]) -> Any:
    """Return what is called when the last view of a buffer has gone."""

    @sigint.finalizer
    def ended(reference: object) -> None:
        found = versions()
        if found is not None:
            sigint.finalize(found.settle)

    return ended


def _busy(mapping: Mapping, timeout: float | None, found: str) -> errors.LockTimeout:
    return errors.LockTimeout(
        f"no version of {mapping.name!r} could be written within {timeout} s", name=mapping.name, found=found
    )


# -- making ---------------------------------------------------------------------------------------------


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
    # Read, and not mapped: a process that fails to make them cuts off the pages again, and a store or load
    # in a page that is cut off, or cannot be allocated, is a SIGBUS. The magic is written last.
    if _words_of(mapping, start, 1) != [_MAGIC]:
        return None
    _, length, count, stride, current = _words_of(mapping, start, _CURRENT + 1)
    layout = _layout_of(mapping)
    first = -(-(start + WORDS * 8) // PAGE) * PAGE
    if (
        length != layout.size
        or not 2 <= count <= _NUMBER
        or stride % PAGE
        or not length <= stride <= size
        or first + count * stride > size
        or current & _NUMBER >= count
    ):
        raise errors.HeaderError(
            f"the versions of {mapping.name!r} are damaged",
            name=mapping.name,
            found=f"{count} buffers of {length} bytes, {stride} bytes apart, in a block of {size}",
            expected=f"buffers of {layout.size} bytes within the block",
        )
    return _kept(mapping, start, size)


def _kept(mapping: Mapping, start: int, size: int) -> Versions:
    def make() -> Versions:
        made = Versions(mapping, start, size)
        with contextlib.suppress(errors.DeadlockError):  # this thread writes by another attachment
            made.show_again()
        return made

    return made_once(mapping, "versions", make)


def show_again(mapping: Mapping, layout: header.Layout) -> None:
    """Bring an array that is attached to up to date, if a process died as it did so."""
    start = -(-layout.size // _GRANULARITY) * _GRANULARITY
    if len(mapping) >= start + WORDS * 8:
        words = _words_of(mapping, start, _SHOWN + 1)
        if words[0] == _MAGIC and words[_SHOWN] != words[_CURRENT] >> 8:
            with contextlib.suppress(errors.SharedArrayError):  # damage is told of later
                versions_of(mapping)


def made_versions_of(mapping: Mapping) -> Versions:
    """Return the versions of a block, which are made if it has none yet: version 0 is what it holds now."""
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
    """Make the versions, by a handle of this call alone; to be called in a deferred block."""
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
            raise ValueError(f"{mapping.name!r} can have no versions: there are bytes behind the array")
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
    words = np.zeros(_SHOWN + 1, "<u8")
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
