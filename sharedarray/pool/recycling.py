"""Recycled memory: how large buffers travel between the pool and its workers.

Writing to fresh memory costs several times what a copy costs, because the kernel has to find and clear every
page. So large buffers travel in *slots*, files without a name on the memory file system, whose pages stay and
which both sides keep mapped::

    sender                                            receiver
    ------                                            --------
    slot = a free one, or a new one
    copy the buffers into it           -- entry -->   lock it (shared), build arrays right on it
    (a new one: pwrite, which is                      ...
     quicker than faulting pages in)                  the last view goes: unlock

**The pool makes every slot**, for arguments and for results, so what there is of them is known and bounded in
one place. A worker writes its result into a slot that came with the task (when the last result of that
function was large) or that it asked for.

**The kernel says whether a slot is free.** A process that has views of a slot holds a shared lock on its
first byte, through an open file of its own, which it closes when the last view goes. To use a slot again, the
pool takes that lock exclusively, without waiting. So a view that a task has put into a global variable keeps
its slot, in a process that a task has forked as well, and the death of a process frees what it held, with
nobody keeping account. A slot that is on its way, locked by nobody, is marked as busy in the pool.

**Nothing can be left behind.** A slot has no name; the kernel frees it when the last process that has it open
or mapped is gone. One that is trimmed is cut to length 0 first, so that its memory is free at once, though
workers may have it mapped still: nobody has a view of it, and it is never used again.

What each side gets: a task that is the only user of a slot gets the slot itself, writable. Where several
tasks read one slot, or a task may be run again, each gets a copy-on-write mapping.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sharedarray import errors, registry, segment
from sharedarray._platform import platform
from sharedarray.clock import time
from sharedarray.interrupts import finalize, finalizer
from sharedarray.pool.transport.messages import FRESH, PRIVATE, Buffer, Entry

__all__ = [
    "ALIGNMENT",
    "Aside",
    "Loan",
    "Shelf",
    "Slot",
    "Source",
    "Store",
    "length_of",
    "offsets",
    "put",
    "unnamed",
]

# Bytes: where a buffer starts in a slot. A cache line, and more than any dtype asks for.
ALIGNMENT = 64
# Slots are made in sizes of 1/2**3 of a power of two apart, so that slightly different arrays share them.
_STEPS = 3
# A slot may be this many times as large as what it is used for.
_LOOSE = 4
# Slots at most. Each needs up to three descriptors in this process, of which there may be 1,024 only.
_MOST = 96
# Bytes that an idle pool keeps: an argument and a result of 64 MiB.
IDLE_LIMIT = 128 << 20
# Bytes of free slots that a pool keeps while it works.
BUSY_LIMIT = 1 << 30
# Parts of the file system's size that neither of them may exceed.
_IDLE_SHARE, _BUSY_SHARE = 8, 4
# Seconds without work after which the memory is trimmed to IDLE_LIMIT, and after which all of it is freed.
TRIM_AFTER = 0.4
FREE_AFTER = 60.0


# What is copied: bytes, or an array that need not be contiguous, in C order.
Source = Buffer | np.ndarray[Any, Any]


def length_of(source: Source) -> int:
    """Return how many bytes a source has."""
    return source.nbytes if isinstance(source, np.ndarray) else len(source)


def offsets(lengths: Iterable[int]) -> tuple[list[int], int]:
    """Return where buffers of these lengths begin in a slot, and how long it has to be."""
    found, end = [], 0
    for length in lengths:
        found.append(end)
        end += -(-length // ALIGNMENT) * ALIGNMENT
    return found, max(end, 1)


def put(target: memoryview, source: Source) -> None:
    """Copy a buffer, or an array in C order, without holding other threads up."""
    if isinstance(source, np.ndarray):
        np.copyto(np.frombuffer(target, source.dtype).reshape(source.shape), source)
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def _write(handle: int, offset: int, source: Source) -> None:
    """Write to a slot's file, which finds its pages on the way, and says when there are none left."""
    if isinstance(source, np.ndarray):
        # In pieces along the first axis, each made contiguous: no second copy of all of it.
        rows = max(1, _PIECE // max(1, source.nbytes // max(1, len(source)))) if source.ndim else 1
        for start in range(0, len(source) if source.ndim else 1, rows):
            piece = np.ascontiguousarray(source[start : start + rows] if source.ndim else source)
            platform.write(handle, offset, [piece.reshape(-1).view(np.uint8).data])
            offset += piece.nbytes
    else:
        platform.write(handle, offset, [memoryview(source).cast("B")])


_PIECE = 1 << 20


def _map(handle: int, size: int) -> mmap.mmap:
    """Map a slot whose pages are there already, all of them at once."""
    return platform.map(mmap.mmap, handle, size, "r+", ready=True)


class Loan(np.ndarray[Any, Any]):
    """The bytes of a slot for as long as anything in this process looks at them."""

    _handle = -1
    _at_end: Callable[[], object] | None = None

    @classmethod
    def over(cls, mapping: mmap.mmap, handle: int, at_end: Callable[[], object] | None = None) -> Loan:
        """Lend a mapping; ``handle`` has the lock, and is closed at the end."""
        # Right on the mapping: arrays that are built on a view of a plain array take that array's base for
        # their own, and would let go of the loan.
        loan = cls(len(mapping), np.uint8, mapping)
        loan._at_end = at_end
        loan._handle = handle
        return loan

    @finalizer
    def __del__(self) -> None:
        if self._handle >= 0:
            finalize(self._give_back)

    def _give_back(self) -> None:
        handle, self._handle = self._handle, -1
        platform.close(handle)
        if self._at_end is not None:
            self._at_end()


def _borrow(path: str) -> int:
    """Open a slot and mark it as used."""
    handle = platform.open_path_of(path)
    try:
        platform.use(handle)
    except BlockingIOError:
        platform.close(handle)
        raise errors.SharedArrayError(f"the recycled block {path} is being written to") from None
    except BaseException:
        platform.close(handle)
        raise
    return handle


def unnamed(size: int) -> int | None:
    """Return the open file of a new piece of memory without a name; None where there is no room for it."""
    try:
        if not platform.shares_handles():
            return None
        directory = registry.directory()
        segment.check_room(directory, size, memory=True)
        return platform.draft_memory(directory, size, None).handle
    except OSError:
        return None


# The pool's side


class Slot:
    """One piece of recycled memory, seen from the pool.

    Attributes
    ----------
    number
        Never used twice in a store.
    handle
        Its open file; -1 once retired.
    size
        Bytes.
    fresh
        Whether nobody has written to it yet.
    busy
        Whether it is on its way to somebody.
    filling
        Whether a thread is copying to it.
    lent
        How many loans of it there are in this process.
    used
        When it was last taken, in seconds of the monotonic clock.
    """

    __slots__ = ("busy", "filling", "fresh", "handle", "lent", "mapping", "number", "path", "size", "used")

    def __init__(self, number: int, handle: int, size: int) -> None:
        self.number = number
        self.handle = handle
        self.path = platform.path_of(handle) or ""
        self.size = size
        self.fresh = True
        self.busy = True
        self.filling = False
        self.lent = 0
        self.used = time.monotonic()
        self.mapping: mmap.mmap | None = None

    def entry(self, flags: int = 0, offset: int = 0, length: int = 0) -> Entry:
        """Return what tells a worker where a buffer in this slot is."""
        return Entry(
            self.number, self.handle, flags | (FRESH if self.fresh else 0), self.size, offset, length
        )

    def close(self) -> None:
        """Close its file; what is mapped of it stays."""
        platform.close(self.handle)
        self.handle = -1
        self.mapping = None

    def view(self) -> memoryview:
        """Return its bytes in this process."""
        if self.mapping is None:
            self.mapping = _map(self.handle, self.size)
        return memoryview(self.mapping)

    def fill(self, sources: Sequence[Source], starts: Sequence[int]) -> None:
        """Copy buffers to these offsets."""
        if self.fresh:
            for start, source in zip(starts, sources, strict=True):
                _write(self.handle, start, source)
            self.fresh = False
            return
        view = self.view()
        for start, source in zip(starts, sources, strict=True):
            put(view[start : start + length_of(source)], source)

    def lend(self, at_end: Callable[[], object]) -> memoryview:
        """Return its bytes, and keep it from being used again for as long as a view of them lives."""
        self.view()
        assert self.mapping is not None
        handle = _borrow(self.path)
        self.lent += 1

        def ended() -> None:
            self.lent -= 1
            at_end()

        return Loan.over(self.mapping, handle, ended).data


class Aside:
    """Stands for bytes in this process's own memory: they count for as long as this lives."""

    __slots__ = ("_over", "_size")

    def __init__(self, over: deque[int], size: int) -> None:
        self._over = over
        self._size = size

    @finalizer
    def __del__(self) -> None:
        finalize(self._over.append, self._size)


class Store:
    """All the recycled memory of a pool.

    Parameters
    ----------
    at_return
        Called, from any thread and at any moment, when a result that lay in a slot is gone.
    """

    def __init__(self, at_return: Callable[[], object]) -> None:
        self._at_return = at_return
        self._lock = threading.RLock()
        self._slots: list[Slot] = []
        self._made = 0
        self._closed = False
        self._limits: tuple[int, int] | None = None
        self._retired: set[int] = set()
        self._aside = 0
        self._aside_over: deque[int] = deque()

    @property
    def limits(self) -> tuple[int, int]:
        """Bytes that are kept free at most, by a pool at work and by an idle one."""
        if self._limits is None:
            try:
                total = platform.capacity(registry.directory())
            except OSError:
                total = 0
            self._limits = min(BUSY_LIMIT, total // _BUSY_SHARE), min(IDLE_LIMIT, total // _IDLE_SHARE)
        return self._limits

    @property
    def dirty(self) -> bool:
        """Whether there is any memory."""
        return bool(self._slots)

    def take(self, size: int, *, within: int | None = None, make: bool = True) -> Slot | None:
        """Return a slot of at least ``size`` bytes that nobody uses, marked as busy.

        Parameters
        ----------
        size
            Bytes.
        within
            Bytes that all slots in use may have together, with this one; None for what there is room for.
        make
            Whether to make a slot if there is none, which takes much longer.

        Returns
        -------
        Slot or None
            None when there is no room.
        """
        with self._lock:
            if self._closed:
                return None
            if within is not None and size + sum(s.size for s in self._slots if s.busy or s.lent) > within:
                return None
            best: Slot | None = None
            for slot in self._slots:
                fits = size <= slot.size <= _LOOSE * size and (best is None or slot.size < best.size)
                if fits and self._free(slot):
                    best = slot
            if best is None:
                return self._make(size) if make else None
            best.busy = True
            best.used = time.monotonic()
            return best

    def set_aside(self, size: int, *, within: int) -> Aside | None:
        """Count bytes that are copied though there is no slot for them.

        Parameters
        ----------
        size
            Bytes.
        within
            Bytes that these and all slots in use may have together.

        Returns
        -------
        Aside or None
            To be kept with the copy; None when it would be too much.
        """
        with self._lock:
            while self._aside_over:
                self._aside -= self._aside_over.popleft()
            used = sum(slot.size for slot in self._slots if slot.busy or slot.lent)
            if self._closed or size + self._aside + used > within:
                return None
            self._aside += size
            return Aside(self._aside_over, size)

    @staticmethod
    def _free(slot: Slot) -> bool:
        """Ask the kernel, unless it is known anyway, whether nobody has a view of a slot."""
        if slot.busy or slot.lent:
            return False
        return not platform.used(slot.handle)

    def _make(self, size: int) -> Slot | None:
        step = max(mmap.PAGESIZE, 1 << max(0, (size - 1).bit_length() - 1 - _STEPS))
        size = -(-size // step) * step
        if len(self._slots) >= _MOST:
            self._retire(lambda free, count: count >= _MOST)
            if len(self._slots) >= _MOST:
                return None
        self._retire(lambda free, count: free + size > self.limits[0])
        handle = unnamed(size)
        if handle is None:
            return None
        self._made += 1
        slot = Slot(self._made, handle, size)
        self._slots.append(slot)
        return slot

    def put_back(self, slot: Slot) -> None:
        """Say that a slot is on its way no more; whether it is in use, the kernel knows."""
        slot.busy = False

    def discard(self, slot: Slot) -> None:
        """Give up a slot that could not be written to."""
        with self._lock:
            slot.busy = False
            self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
            with contextlib.suppress(OSError):
                platform.shrink(slot.handle)
            platform.close(slot.handle)
            slot.handle = -1
            slot.mapping = None
            self._retired.add(slot.number)

    def _retire(self, too_much: Callable[[int, int], bool]) -> None:
        """Free slots that nobody uses, the longest unused first, for as long as it is too much."""
        free = sorted((slot for slot in self._slots if self._free(slot)), key=lambda slot: slot.used)
        total = sum(slot.size for slot in free)
        for slot in free:
            if not too_much(total, len(self._slots)):
                return
            total -= slot.size
            self._drop(slot)

    def trim(self, idle: float) -> float | None:
        """Free what a pool does not keep: when idle, and also at work, where results end when they like.

        Parameters
        ----------
        idle
            Seconds without work.

        Returns
        -------
        float or None
            Seconds until there is a reason to look again, None for never.
        """
        with self._lock:
            if not self._slots:
                return None
            if idle < TRIM_AFTER:
                limit = self.limits[0]
                # The kernel is asked only where the answer may matter, for this may come by very often.
                if sum(slot.size for slot in self._slots if not (slot.busy or slot.lent)) > limit:
                    self._retire(lambda free, count: free > limit)
                return TRIM_AFTER - idle
            limit = 0 if idle >= FREE_AFTER else self.limits[1]
            self._retire(lambda free, count: free > limit)
            return FREE_AFTER - idle if limit and self._slots else None

    def gone(self, known: set[int]) -> list[int]:
        """Return those of these slots that there are no more, and forget them in ``known``."""
        if not self._retired:
            return []
        with self._lock:
            found = sorted(known & self._retired)
        known.difference_update(found)
        return found

    @property
    def retired(self) -> int:
        """How many slots that there are no more are remembered, for workers to be told of."""
        return len(self._retired)

    def retain(self, known: set[int]) -> None:
        """Forget slots that there are no more, but for those that a worker may have mapped."""
        with self._lock:
            self._retired &= known

    def find(self, number: int) -> Slot | None:
        """Return a slot by its number."""
        with self._lock:
            return next((slot for slot in self._slots if slot.number == number), None)

    def lend(self, slot: Slot) -> memoryview:
        """Return the bytes of a slot as something that frees it with its last view."""
        return slot.lend(self._at_return)

    def sizes(self) -> tuple[int, int, int]:
        """Return the bytes in use, the bytes that are free, and how many slots there are."""
        with self._lock:
            free = sum(slot.size for slot in self._slots if self._free(slot))
            return sum(slot.size for slot in self._slots) - free, free, len(self._slots)

    def fill(self, slot: Slot, sources: Sequence[Source], starts: Sequence[int]) -> None:
        """Copy buffers to these offsets of a slot, which stays until that is done.

        Raises
        ------
        OSError
            There is no memory for them, or the pool has ended.
        """
        with self._lock:
            slot.filling = not self._closed
        if not slot.filling:
            raise OSError("the pool has ended")
        try:
            slot.fill(sources, starts)
        finally:
            with self._lock:
                slot.filling = False
                if self._closed:
                    slot.close()

    def close(self) -> None:
        """Free everything; results that are still in use keep their memory until they are gone."""
        with self._lock:
            self._closed = True
            for slot in self._slots:
                if not slot.filling:
                    slot.close()
            self._slots.clear()

    def close_copy(self) -> None:
        """Close this process's copies, in a fork; the parent goes on with the slots."""
        self._lock = threading.RLock()
        for slot in self._slots:
            slot.filling = False
        self.close()


# A worker's side


class Shelf:
    """The slots that a worker has mapped.

    Parameters
    ----------
    pool
        The process id of the pool.
    """

    def __init__(self, pool: int) -> None:
        self._pool = pool
        self._mappings: dict[int, mmap.mmap] = {}

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop the mappings of slots that were retired."""
        for number in numbers:
            self._mappings.pop(number, None)

    def lend(self, entries: Iterable[Entry], inline: Iterable[Buffer]) -> list[Buffer]:
        """Return the buffers that a table of entries tells of, writable and private to this task."""
        rest = iter(inline)
        loans: dict[tuple[int, int], memoryview] = {}
        found: list[Buffer] = []
        for entry in entries:
            if not entry.slot:
                found.append(next(rest))
                continue
            key = entry.slot, entry.flags & PRIVATE
            if key not in loans:
                loans[key] = self._loan(entry)
            found.append(loans[key][entry.offset : entry.offset + entry.length])
        return found

    def _path(self, entry: Entry) -> str:
        path = platform.path_of(entry.handle, self._pool)
        assert path is not None  # or the pool would have made no slots
        return path

    def _loan(self, entry: Entry) -> memoryview:
        handle = _borrow(self._path(entry))
        try:
            if entry.flags & PRIVATE:
                mapping = platform.map(mmap.mmap, handle, entry.size, "c")
            else:
                mapping = self._mapping(entry)
            return Loan.over(mapping, handle).data
        except BaseException:
            platform.close(handle)
            raise

    def _mapping(self, entry: Entry) -> mmap.mmap:
        """Return the slot as it is mapped for good, through an open file of its own: one without a lock."""
        mapping = self._mappings.get(entry.slot)
        if mapping is None:
            with _opened(self._path(entry)) as handle:
                mapping = self._mappings[entry.slot] = _map(handle, entry.size)
        return mapping

    def fill(self, entry: Entry, sources: Sequence[Source]) -> list[Entry]:
        """Copy the buffers of a result into a slot that was lent for it; return where they are.

        Raises
        ------
        OSError
            There is no memory for them.
        """
        lengths = [length_of(source) for source in sources]
        starts, _ = offsets(lengths)
        if entry.flags & FRESH:
            with _opened(self._path(entry)) as handle:
                for start, source in zip(starts, sources, strict=True):
                    _write(handle, start, source)
        else:
            view = memoryview(self._mapping(entry))
            for start, length, source in zip(starts, lengths, sources, strict=True):
                put(view[start : start + length], source)
        return [
            entry._replace(flags=0, offset=start, length=length)
            for start, length in zip(starts, lengths, strict=True)
        ]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    handle = platform.open_path_of(path)
    try:
        yield handle
    finally:
        platform.close(handle)
