"""The pool's side of recycled memory: all the slots of a pool, made, found free, kept and freed."""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from sharedarray import _forks as forks, _registry as registry
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._pool.transport.memory import Source, offsets, unnamed
from sharedarray._pool.transport.slot import Slot
from sharedarray._sigint import finalize, finalizer

__all__ = ["PrivateCopy", "Store"]

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


class PrivateCopy:
    """Bytes in this process's own memory, counted for as long as this object lives."""

    __slots__ = ("_ended", "_size")

    def __init__(self, ended: deque[int], size: int) -> None:
        self._ended = ended
        self._size = size

    @finalizer
    def __del__(self) -> None:
        finalize(self._ended.append, self._size)


class Store:
    """All the recycled memory of a pool.

    Parameters
    ----------
    at_return
        Called, from any thread and at any moment, when a result that lay in a slot ends and the pool is idle.
    """

    def __init__(self, at_return: Callable[[], object]) -> None:
        self._at_return = at_return
        self._lock = threading.RLock()
        self._slots: list[Slot] = []
        self._total = 0  # bytes
        self._made = 0
        self._closed = False
        self._limits: tuple[int, int] | None = None
        self._retired: set[int] = set()
        self._private = 0
        self._private_ended: deque[int] = deque()
        _stores[:] = [*(known for known in _stores if known() is not None), weakref.ref(self)]

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
        """True if there is any memory."""
        return bool(self._slots)

    def take(self, size: int, *, make: bool = True) -> Slot | None:
        """Return a slot of at least ``size`` bytes that is free, marked as busy.

        Parameters
        ----------
        size
            Bytes.
        make
            Whether to make a slot if there is none, which takes much longer.

        Returns
        -------
        Slot or None
            None if there is no memory.
        """
        with self._lock:
            return self._take(size, None, make)

    def _take(self, size: int, within: int | None, make: bool) -> Slot | None:
        if self._closed:
            return None
        if within is not None and size + self._total > within:
            in_use = sum([slot.size for slot in self._slots if slot.in_use])
            if size + in_use > within:
                return None
        best: Slot | None = None
        most = _LOOSE * size
        for slot in self._slots:
            if size <= slot.size <= most and self._free(slot):
                best = slot
                most = slot.size - 1
        if best is None:
            return self._make(size) if make else None
        best.busy = True
        best.used = time.monotonic()
        return best

    def put(
        self, sources: Sequence[Source], lengths: Sequence[int], within: int | None = None
    ) -> tuple[Slot, list[int]] | None:
        """Copy buffers to a slot; return it, and where they begin.

        Parameters
        ----------
        sources, lengths
            The buffers, and how many bytes each has.
        within
            Bytes that all slots in use may have together, with this one; None for no limit.

        Returns
        -------
        tuple or None
            None if there is no memory, or the pool has ended.
        """
        starts, size = offsets(lengths)
        with self._lock:
            slot = self._take(size, within, True)
            if slot is None:
                return None
            slot.filling = True  # until that is done, its file stays open
        try:
            slot.fill(sources, starts)
        except OSError:  # the file system is full
            self.discard(slot)
            return None
        except BaseException:
            slot.busy = False
            raise
        finally:
            slot.filling = False
            if self._closed:
                with self._lock:
                    slot.close()
        return slot, starts

    def count_private(self, size: int) -> PrivateCopy | None:
        """Count bytes that are copied though there is no slot for them.

        Returns
        -------
        PrivateCopy or None
            To be kept with the copy; None if these and all slots in use would exceed `BUSY_LIMIT`.
        """
        with self._lock:
            while self._private_ended:
                self._private -= self._private_ended.popleft()
            used = sum(slot.size for slot in self._slots if slot.in_use)
            if self._closed or size + self._private + used > BUSY_LIMIT:
                return None
            self._private += size
            return PrivateCopy(self._private_ended, size)

    @staticmethod
    def _free(slot: Slot) -> bool:
        """Return whether no process has a view of a slot; the kernel is asked if this process has none."""
        return not slot.in_use and not platform.used(slot.handle)

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
        self._total += size
        return slot

    def discard(self, slot: Slot) -> None:
        """Give up a slot that could not be written to."""
        with self._lock:
            slot.busy = False
            self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
            self._total -= slot.size
            with contextlib.suppress(OSError):
                platform.shrink(slot.handle)
            slot.close()
            self._retired.add(slot.number)

    def _retire(self, too_much: Callable[[int, int], bool]) -> None:
        """Free unused slots, the longest unused first, until it is no longer too much."""
        free = sorted((slot for slot in self._slots if self._free(slot)), key=lambda slot: slot.used)
        total = sum(slot.size for slot in free)
        for slot in free:
            if not too_much(total, len(self._slots)):
                return
            total -= slot.size
            self._drop(slot)

    def trim(self, idle: float) -> float | None:
        """Free what a pool does not keep: when idle, and also at work, since results may end at any time.

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
                if sum(slot.size for slot in self._slots if not slot.in_use) > limit:
                    self._retire(lambda free, count: free > limit)
                return TRIM_AFTER - idle
            limit = 0 if idle >= FREE_AFTER else self.limits[1]
            for slot in self._slots:
                slot.call_at_end(self._at_return)  # in time, since nothing else happens in an idle pool
            self._retire(lambda free, count: free > limit)
            return FREE_AFTER - idle if limit and self._slots else None

    def gone(self, known: set[int]) -> list[int]:
        """Return those of these slots that were retired, and remove them from ``known``."""
        if not self._retired:
            return []
        with self._lock:
            found = sorted(known & self._retired)
        known.difference_update(found)
        return found

    @property
    def retired(self) -> int:
        """Number of retired slots that workers have not been told of."""
        return len(self._retired)

    def retain(self, known: set[int]) -> None:
        """Forget retired slots, except those that a worker may have mapped."""
        with self._lock:
            self._retired &= known

    def find(self, number: int) -> Slot | None:
        """Return a slot by its number."""
        with self._lock:
            return next((slot for slot in self._slots if slot.number == number), None)

    def lock_views(self) -> None:
        """Lock the slots whose bytes this process uses."""
        with self._lock:
            for slot in self._slots:
                slot.lock_view()

    def sizes(self) -> tuple[int, int, int]:
        """Return the bytes in use, the bytes that are free, and how many slots there are."""
        with self._lock:
            free = sum(slot.size for slot in self._slots if self._free(slot))
            return sum(slot.size for slot in self._slots) - free, free, len(self._slots)

    def close(self) -> None:
        """Free everything; results that are still in use keep their memory until they are gone."""
        with self._lock:
            self._closed = True
            for slot in self._slots:
                if not slot.filling:
                    slot.close()
            self._slots.clear()
            self._total = 0

    def close_copy(self) -> None:
        """Close this process's copies, in a fork; the parent goes on with the slots."""
        self._lock = threading.RLock()
        for slot in self._slots:
            slot.filling = False
        self.close()


_stores: list[weakref.ref[Store]] = []


def _before_fork() -> None:
    """Lock the slots of results that are in use, which the process that is forked may keep for longer."""
    for known in _stores:
        store = known()
        if store is not None:
            store.lock_views()


forks.around(__name__, before=_before_fork)
