r"""Versions of the data in a block: one process writes a new version while others keep an old one.

An array or a group gets its versions with its first update or snapshot. The block grows then::

    0       the block as it was: header and data
    ...     from the next multiple of 65536 on, a page of control words (`sharedarray._control_page`):
            0  b"\x93SAVERS\n"             3  bytes from the beginning of one buffer to the next
            1  bytes of the block as it was  4  the current version << 8 | the number of its buffer
            2  how many buffers follow       5  the version that the array itself shows
    ...     the buffers, each as long as the block as it was, from multiples of 4096 on

**A version is published by one store** into word 4. Until then no reader uses its buffer, so that the death
of a writer changes nothing for readers. One process writes at a time: it holds a lock.

**A buffer that a reader holds is not written.** The state of a party is eight bytes, each of which is 0, or 1
plus the number of a buffer that it holds. A reader writes the number of the current buffer into a free byte,
and then checks that this buffer is still the current one. A writer chooses a buffer that is not the current
one, and then checks that no party holds it. Each has a full fence between its two steps, so that at least one
of them sees the other. The buffers that a dead party held are free.

The byte becomes 0 when the last view of the buffer is freed. That wakes no process, so that it costs little:
a writer that finds no free buffer, which is rare, checks again and again.

**A version that is published is not written any more**, by its writer neither. The writer has the block in a
mapping of its own. If the program keeps a view of what it was given, the kernel makes that part of the
mapping private before the version is published: what is written into the view later reaches no process. The
next version is written by a new mapping. Such views show in the references to the memory (`Update._is_kept`).

**The array itself** gets each version after it was published, for processes that read the array without a
snapshot, with `numpy.load`, or that attach. During the copy, they may see a part of the new version; a
snapshot is always whole. If the writer dies during the copy, the array shows a part of the version until
another process attaches, uses the versions for the first time, or writes one. That process finds by word 5
that the array is behind, and copies the version.
"""

from __future__ import annotations

import gc
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from sharedarray import (
    _errors as errors,
    _sigint as sigint,
)
from sharedarray._clock import time
from sharedarray._control_page import STATE, WORDS, ControlPage, Party
from sharedarray._header import PAGE
from sharedarray._platform import platform
from sharedarray._process_end import halt, halting
from sharedarray._segment import Mapping
from sharedarray._wakers import lock_of_threads

__all__ = ["BUFFERS", "BYTES", "CURRENT", "NUMBER", "SHOWN", "STRIDE", "Reader", "Update", "Versions"]

_Array: TypeAlias = np.ndarray[Any, Any]
_T = TypeVar("_T")
_new_array = np.ndarray.__new__

BYTES, BUFFERS, STRIDE, CURRENT, SHOWN = 1, 2, 3, 4, 5
_WRITING = (1 << 58) + 1  # the byte that a writer locks: behind all data, below all leases
NUMBER = 0xFF  # of a buffer, in word 4
_PAUSES = 0.0005, 0.01  # seconds between two searches for a free buffer: first and longest
_PATIENCE = 10.0  # seconds for other threads of this process to drop the snapshots that a writer waits for


class Reader:
    """Takes snapshots for the arrays of one attachment.

    The arrays keep it. Nothing that it keeps refers to it, so that it is freed with the last of them.

    Attributes
    ----------
    versions : Versions
        The versions of the block.
    sources : list of memoryview
        All bytes of each buffer. They keep the attachment, and the party that holds buffers.
    """

    __slots__ = ("__weakref__", "_mapping", "sources", "versions")

    def __init__(self, versions: Versions, mapping: Mapping, sources: list[memoryview]) -> None:
        self.versions = versions
        self.sources = sources
        self._mapping = mapping

    def hold(self) -> PickleBuffer:
        """Return all bytes of the current version, held until the last view of them dies."""
        versions = self.versions
        known = versions.held[versions.words[CURRENT] & NUMBER]
        # A held buffer is not written, so that it still has the current version.
        if known is not None and (buffer := known()) is not None:
            return buffer
        return versions.hold(self.sources, self._mapping)


class _Source(np.ndarray[Any, Any]):
    end: _End


class _End:
    """An object that every source and snapshot keeps; after the last one, it may release the versions."""

    def __init__(self, versions: Versions, mapping: Mapping) -> None:
        self._versions = versions
        self._mapping = mapping

    @sigint.finalizer
    def __del__(self) -> None:
        sigint.finalize(self._versions.all_dropped)


class Versions(ControlPage):
    """The versions of one block, in this process."""

    _holder: Party | None = None
    _at_end = False  # of the process
    _reader: Callable[[], Reader | None] = staticmethod(lambda: None)

    def __init__(self, mapping: Mapping, start: int, size: int, head: int) -> None:
        super().__init__(mapping, start, size)
        words = self.words
        self.bytes, stride = int(words[BYTES]), int(words[STRIDE])
        first = -(-(start + WORDS * 8) // PAGE) * PAGE
        whole = memoryview(self.memory)
        self._buffers = [
            whole[first + number * stride : first + number * stride + self.bytes]
            for number in range(int(words[BUFFERS]))
        ]
        self._starts = [first + number * stride for number in range(len(self._buffers))]
        self._stride = stride
        self._writer: mmap.mmap | None = None  # the whole block, mapped for writing versions
        self._populated: set[int] = set()  # buffers whose pages are mapped there
        self._readable = [buffer.toreadonly() for buffer in self._buffers]
        self._whole = whole[: self.bytes]
        self._head = head
        self._bytes = self.words.cast("B")
        self._drops: list[Callable[[object], Any]] = []  # for each byte of the holder's state
        self._drop_at: list[Any] = [None] * 8  # for each byte, the weak reference that calls its function
        self._guard = threading.RLock()  # reentrant: a signal's handler or a finalizer may take a snapshot
        self._new_lock = lock_of_threads()
        # For each buffer that this process holds, the object that its snapshots refer to.
        self.held: list[weakref.ref[PickleBuffer] | None] = [None] * len(self._buffers)
        self._held_versions = [0] * len(self._buffers)  # for each buffer that this process holds
        self._addresses = [_address(buffer) for buffer in self._readable]

    @property
    def version(self) -> int:
        """The number of the current version."""
        return int(self.words[CURRENT]) >> 8

    # -- reading --------------------------------------------------------------------------------------

    def reader(self, mapping: Mapping) -> Reader:
        """Return the reader that takes snapshots for the arrays of an attachment."""
        found = self._reader()
        if found is None:
            with sigint.deferred, self._guard:
                found = self._reader()
                if found is None:
                    found = Reader(self, mapping, self._sources(mapping))
                    self._reader = weakref.ref(found)
        return found

    def version_of(self, snapshot: _Array) -> int | None:
        """Return the version of a snapshot, or of a view of one; None if it is none of these versions."""
        at = _address(snapshot) - (not snapshot.size)  # an empty one begins at the end of its buffer
        for start, version in zip(self._addresses, self._held_versions, strict=True):
            if start <= at < start + self.bytes:
                return version
        return None

    def _sources(self, mapping: Mapping) -> list[memoryview]:
        end, sources = _End(self, mapping), []
        for buffer in self._readable:
            source = _new_array(_Source, self.bytes, np.uint8, buffer)
            source.end = end
            sources.append(source.data)
        return sources

    def hold(self, sources: list[memoryview], mapping: Mapping) -> PickleBuffer:
        """Hold the current buffer, and return its bytes. Ctrl-C may come at any step."""
        if self._holder is None:
            with sigint.deferred, self._guard:
                if self._holder is None:
                    self._become_holder(mapping)
        words, held = self.words, self.held
        while True:
            word = words[CURRENT]
            number = word & NUMBER
            known = held[number]
            if known is not None and (buffer := known()) is not None:
                return buffer
            if (taken := self._take(number, word, sources)) is not None:
                return taken

    def _take(self, number: int, word: int, sources: list[memoryview]) -> PickleBuffer | None:
        """Hold a buffer if it is still the current one.

        There is no lock: Ctrl-C could leave it taken, and a signal's handler may take a snapshot meanwhile.
        Threads that do so at once may hold one buffer by several bytes.
        """
        assert self._holder is not None
        states, held, lock = self._bytes, self.held, self._new_lock()
        place = first = (STATE + self._holder.index) * 8
        if not self.usable:
            self.check_usable()
        while states[place]:  # it holds a buffer, or is about to become 0
            place += 1
            if place == first + 8:
                self._await_byte(first)
                return None
        at, value = place - first, number + 1
        before = self._drop_at[at]
        try:
            # No call is in between, and so no thread and no signal, from where the byte was found to be 0 on.
            states[place] = value
            lock.acquire()  # a fence; see `sharedarray._wakers`
            lock.release()
            lock.acquire()
            if self.words[CURRENT] != word:
                states[place] = 0
                return None
            self._held_versions[number] = word >> 8
            known = held[number]
            if known is not None and (faster := known()) is not None:  # another thread's
                states[place] = 0
                return faster
            buffer = PickleBuffer(sources[number])
            held[number] = self._drop_at[at] = weakref.ref(buffer, self._drops[at])
        except BaseException:
            if self._drop_at[at] is before:  # else it becomes 0 when the buffer is freed
                states[place] = 0
            raise
        return buffer

    def _await_byte(self, first: int) -> None:
        """Wait until another thread of this process drops a snapshot, so that a byte is free."""
        end = time.monotonic() + _PATIENCE
        while all(self._bytes[first : first + 8]):
            if time.monotonic() > end:
                raise errors.LimitError(f"too many snapshots of {self.name!r} at once", name=self.name)
            time.sleep(_PAUSES[0])

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
            holder = self.claim()
        finally:
            self.end_use()
        if holder is None:
            raise errors.LimitError(
                f"too many processes have snapshots of {mapping.name!r}", name=mapping.name
            )
        first = (STATE + holder.index) * 8
        self._drops = [holder.waker.clearing(self._bytes, first + at) for at in range(8)]
        self._holder = holder

    def all_dropped(self) -> None:
        """Release the page if it is released but for snapshots, of which this was the last one."""
        if self.handle >= 0 and not self.usable:
            with self._changing:
                self._uses += 1
            self.end_use()

    def in_use(self) -> bool:
        """Return whether there are snapshots, which outlive the attachment."""
        return not self._at_end and bool(self._holds())

    def _holds(self) -> set[int]:
        """Return the numbers of the buffers that this process holds."""
        if self._holder is None:
            return set()
        return _held_by(self.words[STATE + self._holder.index])

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
                buffer = self._to_write(number)
                if copy:
                    buffer[:] = self._buffers[self.words[CURRENT] & NUMBER]
                else:  # the header alone: the writer writes the data
                    head = min(self._head, self.bytes)
                    buffer[:head] = self._whole[:head]
        except BaseException:
            self.end_turn(_WRITING)
            raise
        return np.frombuffer(buffer, np.uint8), number

    def _to_write(self, number: int) -> memoryview:
        """Return a buffer in the mapping by which it is written."""
        if not platform.UNSHARES:
            return self._buffers[number]
        if self._writer is None:
            self._writer = platform.map(mmap.mmap, self.handle, len(self.memory), "r+")
            self._populated.clear()
        start = self._starts[number]
        if number not in self._populated:
            platform.populate(self._writer, start, self._stride)
            self._populated.add(number)
        return memoryview(self._writer)[start : start + self.bytes]

    def unshare(self, number: int) -> None:
        """Make the memory private in which the writer has the buffer; called before `end`.

        Without this, which not every system can do, writes into views of the buffer would change the version.
        """
        writer, start = self._writer, self._starts[number]
        if writer is not None and platform.unshare(writer, self.handle, start, self._stride):
            self._writer = None  # the views keep it

    def end(self, number: int, publish: bool) -> None:
        """End the writing of a version; publish the buffer if `publish`. Called while Ctrl-C is deferred."""
        try:
            if publish:
                self.fence()
                self.words[CURRENT] = ((self.words[CURRENT] >> 8) + 1) << 8 | number
                self.wake()
                self._show()
        finally:
            self.end_turn(_WRITING)

    def _is_behind(self) -> bool:
        """Return whether the array itself does not show the current version."""
        return int(self.words[SHOWN]) != self.version

    def _show(self) -> None:
        """Copy the current version into the array itself, with the lock held."""
        current = int(self.words[CURRENT])
        self._whole[:] = self._buffers[current & NUMBER]
        self.fence()
        self.words[SHOWN] = current >> 8

    def show_again(self) -> None:
        """Copy the current version into the array itself if a writer has not; Ctrl-C is deferred."""
        if self._is_behind() and self.writable and self.take_turn(_WRITING, 0.0, "update"):
            try:
                if self._is_behind():
                    self._show()
            finally:
                self.end_turn(_WRITING)

    def _free(self, mapping: Mapping, timeout: float | None) -> int:
        """Return a buffer that is neither the current one nor held, with the lock held."""
        current = int(self.words[CURRENT]) & NUMBER
        others = [number for number in range(len(self._buffers)) if number != current]
        # Half-written buffers of dead writers are as free as all others.

        def holders() -> list[int]:
            return [index for index, _ in self.states()]

        def free() -> int:
            """Return the number of a free buffer, and one more, so that it is true."""
            self.fence()
            taken: set[int] = set()
            for index, state in self.states():
                held = _held_by(state)
                if held - {current} and not self.alive(index):
                    self._clear(index)
                    held = set()
                taken |= held
            return next((number + 1 for number in others if number not in taken), 0)

        def kept_here() -> bool:
            here, held = self.parties_here(), set[int]()
            for index, state in self.states():
                held |= _held_by(state) if index in here else set()
            return held.issuperset(others)

        found = free()
        if not found and kept_here():
            gc.collect()
            found = free()
            if not found and threading.active_count() > 1:  # another thread may drop its snapshots
                seconds = _PATIENCE if timeout is None else min(timeout, _PATIENCE)
                found = self.wait(free, seconds, holders, _PAUSES)
            if not found and kept_here():
                raise errors.DeadlockError(
                    f"this process keeps snapshots of {len(others)} old versions of {mapping.name!r}, so "
                    "that there is no buffer for a new one",
                    name=mapping.name,
                    next_step="drop them, or keep copies: snapshot().copy()",
                )
        found = found or self.wait(free, timeout, holders, _PAUSES)
        if not found:
            pids = sorted(
                {self.pid_of(index) for index, state in self.states() if _held_by(state) - {current}}
            )
            raise _busy(mapping, timeout, f"readers keep snapshots of all old versions: processes {pids}")
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
        """Release the versions once no snapshot is in use any more, or the process ends."""
        self._at_end = mapping is None
        super().on_release(mapping)
        if self._at_end:
            self.all_dropped()
        elif (reader := self._reader()) is not None:
            reader.sources = []


class Update(Generic[_T]):
    """A context manager that gives the array, or the group, for a new version, and publishes it.

    Examples
    --------
    >>> import sharedarray as sa
    >>> weights = sa.zeros(3)
    >>> with weights.update() as new:  # published at the end
    ...     new += 1
    >>> weights.snapshot().tolist()
    [1.0, 1.0, 1.0]
    """

    _given: tuple[Any, int, _Array] | None = None
    _pid = 0  # of the process that writes

    def __init__(
        self,
        versions: Versions,
        mapping: Mapping,
        copy: bool,
        timeout: float | None,
        view: Callable[[_Array], _T],
        references: Callable[[_T], int] = lambda given: 1,
    ) -> None:
        self._versions = versions
        self._mapping = mapping
        self._copy = copy
        self._timeout = timeout
        self._view = view
        self._references = (
            references  # how many `given` itself has to the memory; 0 if parts of it are in use
        )

    def __enter__(self) -> _T:
        if self._given is not None:
            raise RuntimeError("a version is being written already: call update() for each one")
        try:
            with sigint.deferred:
                memory, number = self._versions.begin(self._mapping, self._timeout, self._copy)
                given = self._view(memory)
                self._pid, self._given = os.getpid(), (given, number, memory)
            return given
        except BaseException as error:  # Ctrl-C, as the block ended
            self.__exit__(type(error))
            halt()
            raise

    @halting
    def __exit__(self, kind: object, *exception: object) -> None:
        with sigint.deferred:
            self._end(publish=kind is None)

    def _end(self, publish: bool) -> None:
        if self._given is None:
            return
        held, self._given = self._given, None
        if os.getpid() == self._pid:  # else this is a child that was forked meanwhile: its parent goes on
            try:
                if self._is_kept(held):
                    self._versions.unshare(held[1])
            finally:
                self._versions.end(held[1], publish)
        # The buffer may be published: it is not written any more.
        given = held[0]
        if isinstance(given, np.ndarray):
            given.flags.writeable = False
        else:
            given.freeze()

    def _is_kept(self, held: tuple[Any, int, _Array]) -> bool:
        """Return whether the program may keep writable views of what it was given.

        One reference to that itself is the name after ``as``: what has this name becomes read-only.
        """
        given, memory = _references(held)
        return given > _ALONE[0] + 1 or memory - _ALONE[1] != self._references(held[0]) - 1

    @sigint.finalizer
    def __del__(self) -> None:
        if self._given is not None:  # Ctrl-C came as `__exit__` began, or the program did not call it
            sigint.finalize(self._abandon)

    def _abandon(self) -> None:
        if self._versions.turn._is_owned():  # another thread cannot end the turn
            self._end(publish=False)


def _references(held: tuple[Any, int, _Array]) -> tuple[int, int]:
    """Return how many references there are to what a program was given, and to its memory."""
    return sys.getrefcount(held[0]), sys.getrefcount(held[2])


def _alone() -> tuple[int, int]:
    memory = np.empty(1, np.uint8)
    held = memory[:], 0, memory
    del memory
    return _references(held)


_ALONE = _alone()  # the references if the program has none


def _address(memory: Any) -> int:
    return int(np.asarray(memory).__array_interface__["data"][0])


def _held_by(state: int) -> set[int]:
    """Return the numbers of the buffers that a party with this state holds."""
    return {byte - 1 for byte in state.to_bytes(8, "little") if byte}


def _busy(mapping: Mapping, timeout: float | None, found: str) -> errors.LockTimeout:
    return errors.LockTimeout(
        f"no version of {mapping.name!r} could be written within {timeout} s", name=mapping.name, found=found
    )
