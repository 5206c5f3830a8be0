"""A consumer of a stream: it takes items as arrays in their slots, and keeps a slot while its array lives.

A lossless consumer needs every item from the position NEXT on, and the producer keeps them. Every consumer
has the items in use that it has got as arrays; HOLDS says so. It notes a hold first, and then goes on to the
next position, so that a slot is protected all the time. A consumer that is not lossless looks after that
if the item still is whole; see `sharedarray._streams.producer` for the other side.

When an array dies, the callback of a weak reference to it clears the hold. This callback is built from
functions of C only: Python runs no signal handler in it, so that no Ctrl-C is lost there. But it cannot wake
a producer that waits for the slot; `get` does so when it is called next. If the producer is known to wait as
the array is made, the callback is a function of Python that wakes it.

An item that is part of a cycle of references, as one in a frame of a traceback may be, lives until Python
collects it. A process that sleeps makes no objects, so that Python does not. So a consumer collects them
before it tells its caller that it keeps every slot, and when the producer has waited for its slots for long.
"""

from __future__ import annotations

import gc
import operator
import os
import time as clock
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from sharedarray import _errors as errors, _sigint as sigint
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._process_end import halt, halting
from sharedarray._streams import words as w
from sharedarray._streams.base import Empty, ShutDown, Stream
from sharedarray._streams.block import PRODUCER, Block, party_of
from sharedarray._streams.waiting import HAS_DESCRIPTORS, SLICE, Readers, Watched
from sharedarray._wakers import ENDING, Waker, deadline_after, seconds_until

if TYPE_CHECKING:
    import asyncio

__all__ = ["Consumer"]

_ALL = 1 << 62  # as `history`: every item that is still there
_Array = np.ndarray[Any, Any]
_T = TypeVar("_T")


class _MovedError(Exception):
    """The name leads to the next generation of the stream."""


class Consumer(Stream):
    """A stream as one of its consumers, which read."""

    @halting
    def __init__(
        self,
        name: str | None,
        shape: Any = None,
        dtype: DTypeLike = float,
        *,
        slots: int = 8,
        full: str = "wait",
        lossless: bool | None = None,
        history: int = 0,
        takeover: bool = False,
        replace: bool = False,
        persist: bool = False,
    ) -> None:
        self._closed = True  # until the constructor has finished
        if name is None:
            raise TypeError("a stream is attached to by its name")
        if replace or persist or slots != 8 or full != "wait" or dtype is not float:
            raise TypeError("these settings are for making a stream, which needs a shape")
        if lossless is not None and not isinstance(lossless, bool | np.bool_):
            raise TypeError(f"lossless is True, False or None, not {lossless!r}")
        history = operator.index(history)
        if history < 0:
            raise ValueError(f"history is a number of items, not {history}")
        self._join_block(Block.attach(name), lossless, history=history)

    def _join_block(self, block: Block, lossless: bool | None, *, history: int = 0, start: int = -1) -> None:
        self._begin()
        self._wish = lossless
        self._answered = self._collected = 0
        self._token = time.monotonic_ns() | 1
        self._reported_death = 0  # SESSION of the producer for whose death `ProducerDied` was raised
        self._watched: Watched | None = None  # once an event loop watches this consumer
        self._readers: list[Readers] = []  # one for each event loop whose tasks have waited
        self._when_closed: set[Callable[[], object]] = set()
        try:
            self._join(block, history, start)
        except BaseException:
            block.mapping.release()
            raise
        self._closed = False
        self._register()

    def _join(self, block: Block, history: int, start: int = -1) -> None:
        """Take an entry, and the position to begin with: `start`, or some items back."""
        drops = block.drops
        if drops and self._wish:
            raise ValueError(
                f"the stream {block.mapping.name!r} drops items, so no consumer of it is lossless"
            )
        lossless = not drops if self._wish is None else self._wish
        waker = block.waker()
        words = block.words
        try:
            entry = _claim_entry(block, waker)
            block.clear(entry)
            head = words[w.HEAD]
            wanted = max(0, head - history) if start < 0 else start
            words[entry + w.NEXT] = wanted + 1
            words[entry + w.LOSSLESS] = lossless
            words[entry + w.PID] = os.getpid()
            self._fence()
            words[w.JOINED] = block.random()
            self._fence()
            # The producer sees this entry before it overwrites anything that is whole from now on.
            head = words[w.HEAD]
            slots, (index, whole, _, _, _) = block.slots, block.tables
            first = min(head, max(0, head - slots, head - history if start < 0 else start))
            position = head
            while position > first:
                found = words[index + (position - 1) % slots]
                slot = found & w.NO_SLOT
                if found >> w.SLOT_BITS != position or slot >= slots or words[whole + slot] != position:
                    break
                position -= 1
            words[entry + w.NEXT] = position + 1
        except BaseException:
            waker.release()
            raise
        self._waker, self._entry, self._lossless = waker, entry, lossless
        self._next = position
        if 0 <= start < position:
            self.lost += position - start
        self._use(block)
        self._index, self._whole = block.tables.order, block.tables.whole
        number = (entry - w.ENTRY) // w.ENTRY_WORDS
        self._column = block.holds[:, number]
        self._bytes = block.bytes
        self._first_hold = block.tables.holds + number
        self._wanted = entry + w.WANTED
        self._buffer = block.read_only()
        self._offset, self._nbytes = block.offset, block.nbytes
        self._arrays: list[weakref.ref[_Array] | None] = [None] * block.slots
        self._drops = [self._dropping(slot) for slot in range(min(block.slots, 64))]
        self._slot = -1
        self._fence()
        if words[w.WAITING]:
            waker.wake(PRODUCER)

    def _dropping(self, slot: int) -> Callable[[Any], object]:
        """Return the function that clears this consumer's hold of a slot."""
        return self._waker.clearing(self._bytes, self._first_hold + slot * w.ENTRIES)

    def _fence(self) -> None:
        self._release()
        self._acquire()

    def _repair(self) -> None:
        self._renew_fence()
        words, block = self._words, self._block
        words[self._entry + w.ASLEEP] = 0
        self._next = max(0, words[self._entry + w.NEXT] - 1)
        if self.position >= self._next and self._slot >= 0:
            self._arrays[self._slot] = None  # of the call that was broken off: its array has no owner
            self.position = self._next - 1
        held = np.zeros(block.slots, bool)
        for slot, reference in enumerate(self._arrays):
            array = None if reference is None else reference()
            if array is not None:
                held[slot : slot + self._count(array)] = True
        self._column[~held] = 0
        self._answered = 0
        self._fence()
        if words[w.WAITING]:
            self._waker.wake(PRODUCER)
        if self._watched is not None and not self._closed:
            self._arm(self._next)
        self._turn.pop(0, None)

    def _count(self, array: _Array) -> int:
        """Return the number of slots that an array spans."""
        return 1 if array.ndim == len(self.shape) else len(array)

    def _in_child(self) -> None:
        if self._watched is not None:
            self._watched.close()  # the parent keeps its own copy open
            self._watched = None
        for readers in self._readers:
            readers.close()
        self._readers = []
        self._when_closed.clear()
        super()._in_child()

    def _repair_in_child(self) -> None:
        """Join the stream as a party of its own, in a forked child."""
        try:
            self._spin.last = 1.0
            self._join(self._block, 0, self._next)
            self._turn.pop(0, None)
        except BaseException:
            self._in_child()
            raise

    def _take_turn(self, token: tuple[int, ...], timeout: float | None) -> None:
        """Wait for the turn, which another thread has, and take it."""
        while True:
            if not self._enter(token, deadline_after(timeout)):
                raise Empty(f"another thread is reading the stream {self.name!r}", name=self.name)
            if self._turn.setdefault(0, token) is token:
                return

    # -- the calls

    def get(self, timeout: float | None = None, *, max: int | None = None) -> _Array:
        if max is not None:
            return self._get_several(max, timeout)
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            words = self._words
            self._release()
            self._acquire()
            wanted = words[self._wanted]
            if wanted and wanted != self._answered:
                self._answered = wanted
                self._waker.wake(PRODUCER)
            position = self._next
            if words[w.HEAD] <= position or self._closing:
                self._await(timeout)
                words, position = self._words, self._next
            if not w.ORDERED:
                self._fence()
            found = words[self._index + position % self.slots]
            slot = found & 0xFFFF
            if self._lossless and found >> 16 == position + 1:
                lost = 0
                self.position, self._slot = position, slot
                self._bytes[self._first_hold + slot * 32] = 1
            else:
                position, slot, lost = self._pin(position, timeout)
            array: _Array = np.ndarray(
                self.shape, self.dtype, self._buffer, self._offset + slot * self._nbytes
            )
            self._arrays[slot] = weakref.ref(array, self._drop_of(slot))
            if self._watched is not None:
                self._arm(position + 1)
        except BaseException as error:
            self._give_up(error)
            raise
        # No calls from here on: Ctrl-C cannot come before the array is the caller's.
        if lost:
            self.lost = words[self._entry + w.LOST] = self.lost + lost
        words[self._entry] = position + 2
        self._next = position + 1
        del self._turn[0]
        return array

    def _drop_of(self, slot: int) -> Callable[[Any], object]:
        """Return the callback for the end of the array in a slot."""
        if self._words[self._wanted]:
            return _Waking(self._dropping(slot), self._waker)
        return self._drops[slot] if slot < len(self._drops) else self._dropping(slot)

    def _give_up(self, error: BaseException) -> None:
        """End a call that has failed, or that was broken off."""
        if isinstance(error, (Empty, ShutDown, errors.SharedArrayError)):
            if self._watched is not None and not self._closed:
                self._arm(self._next)
            self._turn.pop(0, None)
        else:
            self._repair()
        halt()

    def _pin(self, position: int, timeout: float | None) -> tuple[int, int, int]:
        """Use the next item that is still there: its position, its slot, and how many were lost before it."""
        words, slots, begun = self._words, self.slots, position
        while True:
            head = words[w.HEAD]
            position = max(position, head - slots)
            if position >= head:
                self._skip(position, position - begun)
                self._await(timeout)
                words, slots, begun = self._words, self.slots, self._next
                position = begun
                continue
            if not w.ORDERED:
                self._fence()
            found = words[self._index + position % slots]
            slot = found & w.NO_SLOT
            if found >> w.SLOT_BITS == position + 1 and slot < slots:
                self.position, self._slot = position, slot
                if self._hold(slot, position):
                    return position, slot, position - begun
            position += 1

    def _hold(self, slot: int, position: int) -> bool:
        """Mark a slot as in use; return False if it was overwritten, and then do not."""
        place = self._first_hold + slot * w.ENTRIES
        self._bytes[place] = 1
        if self._lossless:
            return True
        self._release()
        self._acquire()
        if self._words[self._whole + slot] == position + 1:
            return True
        self._bytes[place] = 0
        return False

    def _skip(self, position: int, lost: int) -> None:
        """Skip items that are lost."""
        self.lost = self._words[self._entry + w.LOST] = self.lost + lost
        self._words[self._entry + w.NEXT] = position + 1
        self._next = position

    def latest(self, timeout: float | None = None) -> _Array:
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            while True:
                if self._words[w.HEAD] <= self._next or self._closing:
                    self._await(timeout)
                words, head = self._words, self._words[w.HEAD]
                if not w.ORDERED:
                    self._fence()
                position, slot = self._newest(head)
                if position >= 0:
                    break
                self._skip(head, head - self._next)  # every one of them was dropped or overwritten
            array: _Array = np.ndarray(
                self.shape, self.dtype, self._buffer, self._offset + slot * self._nbytes
            )
            self._arrays[slot] = weakref.ref(array, self._drop_of(slot))
            lost = position - self._next
            words[self._entry] = position + 2  # the producer may overwrite the items before
            self._release()
            self._acquire()
            if words[self._wanted]:
                self._waker.wake(PRODUCER)
            if self._watched is not None:
                self._arm(position + 1)
        except BaseException as error:
            self._give_up(error)
            raise
        if lost:
            self.lost = words[self._entry + w.LOST] = self.lost + lost
        self._next = position + 1
        del self._turn[0]
        return array

    def _newest(self, head: int) -> tuple[int, int]:
        """Use the newest item that is there; its position is -1 if there is none."""
        words, slots = self._words, self.slots
        for position in range(head - 1, max(self._next, head - slots) - 1, -1):
            found = words[self._index + position % slots]
            slot = found & w.NO_SLOT
            if found >> w.SLOT_BITS == position + 1 and slot < slots:
                self.position, self._slot = position, slot
                if self._hold(slot, position):
                    return position, slot
        return -1, -1

    def _get_several(self, most: int, timeout: float | None) -> _Array:
        most = operator.index(most)
        if most < 1:
            raise ValueError(f"max is a number of items, not {most}")
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            words = self._words
            self._release()
            self._acquire()
            wanted = words[self._wanted]
            if wanted and wanted != self._answered:
                self._answered = wanted
                self._waker.wake(PRODUCER)
            position = self._next
            if words[w.HEAD] <= position or self._closing:
                self._await(timeout)
                words, position = self._words, self._next
            position, slot, lost = self._pin(position, timeout)
            words = self._words
            n = self._adjacent(position, slot, most)
            array: _Array = np.ndarray(
                (n, *self.shape), self.dtype, self._buffer, self._offset + slot * self._nbytes
            )
            self._arrays[slot] = weakref.ref(array, self._drop_of_several(slot, n))
            if self._watched is not None:
                self._arm(position + n)
        except BaseException as error:
            self._give_up(error)
            raise
        if lost:
            self.lost = words[self._entry + w.LOST] = self.lost + lost
        words[self._entry] = position + n + 1
        self._next = position + n
        del self._turn[0]
        return array

    def _adjacent(self, position: int, slot: int, most: int) -> int:
        """Use the items in the slots behind one that is in use; return how many there are with it."""
        block, slots = self._block, self.slots
        place = position % slots
        n = min(self._words[w.HEAD] - position, most, slots - slot, slots - place)
        if n < 2:
            return 1
        found = block.index[place : place + n]
        right = found == found[0] + w.STEPS[:n]
        if not right.all():
            n = int(right.argmin())
        if n < 2:
            return 1
        self._column[slot : slot + n] = 1
        if not self._lossless:
            self._release()
            self._acquire()
            whole = block.whole[slot : slot + n] == np.uint64(position + 1) + w.RAMP[:n]
            if not whole.all():
                kept = max(1, int(whole.argmin()))  # the first is in use already
                self._column[slot + kept : slot + n] = 0
                n = kept
        return n

    def _drop_of_several(self, slot: int, n: int) -> Callable[[Any], object]:
        clear = self._waker.clearing(self._column, slice(slot, slot + n))
        return _Waking(clear, self._waker) if self._words[self._wanted] else clear

    def __iter__(self) -> Iterator[_Array]:
        return self

    def __next__(self) -> _Array:
        try:
            return self.get()
        except ShutDown:
            raise StopIteration from None

    @property
    def time_ns(self) -> int:
        return self._words[self._block.tables.times + self._slot] if self.position >= 0 else 0

    # -- event loops

    @halting
    def fileno(self) -> int:
        watched = self._watched
        if watched is None or self._closed:
            return self._use_watched(Watched.fileno)
        try:
            return watched.fileno()
        except ValueError:  # closed by another thread
            raise self._is_closed() from None

    def _use_watched(self, use: Callable[[Watched], _T]) -> _T:
        """Call a function with what event loops wait for, which no other thread can close meanwhile."""
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, None)
        try:
            if self._closed:
                raise self._is_closed()
            if (watched := self._watched) is None:
                watched = self._watched = Watched(self._waker)
                self._arm(self._next)
            return use(watched)
        finally:
            self._turn.pop(0, None)

    def ready(self) -> bool:
        try:
            return self._ready()
        except (OSError, ValueError):
            if self._closed:  # by another thread, in the meantime
                return True
            raise

    def _ready(self) -> bool:
        words, following = self._words, self._next
        if self._closed or words[w.HEAD] > following:
            return True
        last = words[w.END]
        if last:
            over, moved = following >= last - 1, bool(words[w.MOVED])
        else:
            over = not self._waker.alive(PRODUCER)
            moved = over and self._block.replaced()
        return over and not (moved and self._follow())

    def _follow(self) -> bool:
        """Go on with the next generation of the stream; return whether `get` would wait there."""
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, None)
        try:
            if not self._closed and self._words[w.HEAD] <= self._next:
                self._await(0)
            if self._watched is not None:
                self._arm(self._next)
        except BaseException as error:
            self._give_up(error)
            if isinstance(error, Empty):
                return True
            if isinstance(error, (ShutDown, errors.SharedArrayError)):
                return False  # as `get` would raise
            raise
        del self._turn[0]
        return False

    def _arm(self, following: int) -> None:
        """Record that the consumer sleeps between two calls, until a position has an item."""
        words, waker, watched = self._words, self._waker, self._watched
        assert watched is not None
        platform.drain(waker.handle)
        self._token += 2
        words[self._entry + w.ASLEEP] = self._token
        self._fence()
        lives = waker.alive(PRODUCER)
        watched.arm(waker, lives=lives)
        ended = words[w.END] or (not lives and self._reported_death != words[w.SESSION])
        if words[w.HEAD] > following or ended:
            waker.wake_self()

    async def aget(self, timeout: float | None = None, *, max: int | None = None) -> _Array:
        import asyncio

        end = deadline_after(timeout)
        loop = asyncio.get_running_loop()
        while True:
            reported = self._reported_death
            try:
                return self.get(0, max=max)
            except (Empty, errors.ProducerDied) as error:
                remaining = seconds_until(end)
                new = self._reported_death != reported or end is None
                if (remaining is not None and remaining <= 0) or (new and not isinstance(error, Empty)):
                    raise
            if not HAS_DESCRIPTORS:
                await asyncio.sleep(SLICE if remaining is None else min(remaining, SLICE))
                continue
            await self._readers_of(loop).wait(remaining)

    def _readers_of(self, loop: asyncio.AbstractEventLoop) -> Readers:
        """Return the tasks of an event loop that wait for this consumer."""

        def added(watched: Watched) -> Readers:
            for known in self._readers[:]:
                if known.loop.is_closed():
                    self._readers.remove(known)
                    known.close()
            made = Readers(watched, loop)
            self._readers.append(made)
            return made

        for known in self._readers[:]:
            if known.loop is loop:
                return known
        return halting(self._use_watched)(added)

    def __aiter__(self) -> AsyncIterator[_Array]:
        return self

    async def __anext__(self) -> _Array:
        try:
            return await self.aget()
        except ShutDown:
            raise StopAsyncIteration from None

    def _start(self) -> int:
        return self._next

    # -- waiting

    def _await(self, timeout: float | None) -> None:
        """Wait until there is an item at the next position."""
        if self._closing:  # a thread that closes it waits for the turn
            raise self._is_closed()
        end = deadline_after(timeout)
        start = time.perf_counter()
        if timeout != 0 and self._spin.worthwhile():
            self._spin.poll(self._is_there)
        while self._words[w.HEAD] <= self._next:
            try:
                self._sleep(end)
            except _MovedError:
                self._move()
        self._spin.last = time.perf_counter() - start

    def _is_there(self) -> bool:
        return self._words[w.HEAD] > self._next

    def _sleep(self, end: float | None) -> None:
        words, asleep = self._words, self._entry + w.ASLEEP
        wanted = words[self._wanted]
        if wanted & w.COLLECT and wanted != self._collected:
            self._collected = wanted
            gc.collect()
        self._waker.drain()
        self._token += 2
        words[asleep] = self._token
        self._release()
        self._acquire()
        try:
            if words[w.HEAD] > self._next:
                return
            lives = self._producer_lives(end)
            if words[w.HEAD] > self._next:
                return
            if self._closing:
                raise self._is_closed()
            if self._column.all():
                gc.collect()
                if self._column.all():
                    raise self._keeps_all()
            left = seconds_until(end)
            if left is not None and left <= 0:
                raise self._died() if not lives and not words[w.END] else self._none_came()
            if self._waker.wait((PRODUCER,) if lives else (), left) and self._waker.alive(PRODUCER):
                clock.sleep(ENDING)
        finally:
            words[asleep] = 0

    def _producer_lives(self, end: float | None) -> bool:
        """Return whether there is a producer to wait for.

        Raises
        ------
        ShutDown, ProducerDied, _MovedError
            None will publish the next item here.
        """
        words = self._words
        session = words[w.SESSION]
        last = words[w.END]
        if last:
            if self._next >= last - 1:
                raise _MovedError if words[w.MOVED] else ShutDown(f"the stream {self.name!r} was closed")
            return False
        if self._waker.alive(PRODUCER):
            return True
        if words[w.END] or words[w.HEAD] > self._next or words[w.SESSION] != session:
            return False  # the producer may have published before its end: check again
        if self._block.replaced():
            raise _MovedError
        if self._reported_death != session or end is None:
            self._reported_death = session
            raise self._died()
        return False

    def _died(self) -> errors.ProducerDied:
        return errors.ProducerDied(
            f"the producer of the stream {self.name!r} has died",
            name=self.name,
            found=f"the end of process {self._words[w.PRODUCER]}, which had not closed the stream",
            next_step="get(timeout=…) waits for a producer that goes on: "
            "sharedarray.Stream(name, shape, dtype, takeover=True)",
        )

    def _none_came(self) -> Empty:
        return Empty(
            f"no item of the stream {self.name!r} came in time",
            name=self.name,
            found=f"{self._words[w.HEAD]} items published so far",
        )

    def _keeps_all(self) -> errors.DeadlockError:
        return errors.DeadlockError(
            f"this consumer keeps all {self.slots} slots of the stream {self.name!r}, so no item can come",
            name=self.name,
            found=f"{self.slots} slots with items in use here",
            next_step="copy what is to stay: item.copy(); or make the stream with more slots",
        )

    def _is_closed(self) -> errors.BlockClosedError:
        return errors.BlockClosedError(
            f"this consumer of the stream {self.name!r} is closed", name=self.name, next_step="attach again"
        )

    def _move(self) -> None:
        """Go on with the next generation of the stream."""
        block = Block.attach(self.name)
        former, waker, entry, arrays = self._block, self._waker, self._entry, self._arrays
        try:
            self._join(block, _ALL)
        except BaseException:
            block.mapping.release()
            raise
        self._reported_death = self._answered = 0
        if self._watched is not None:
            self._watched.follow(self._waker)
        del arrays  # the former block is not overwritten any more
        former.clear(entry)
        waker.release()
        former.mapping.release()

    # -- the end

    def close(self) -> None:
        self._closing = True
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            if self._waker.index < 0:  # a forked child's copy of its parent's consumer, which it has not used
                self._closed = True
                self._block.mapping.release()
                return
            self._waker.wake_self()
            self._enter(token, None)
        if not self._closed:
            with sigint.deferred:  # a second call would find it closed, and not go on
                self._closed = True
                for readers in self._readers:
                    readers.end()
                if self._watched is not None:
                    self._watched.close()
                    self._watched = None
                self._release_block()
                for wake in tuple(self._when_closed):
                    wake()
        self._turn.pop(0, None)

    def _release_block(self) -> None:
        words, entry = self._words, self._entry
        words[entry + w.LOSSLESS] = 0
        words[entry + w.NEXT] = 0
        kept = [array for reference in self._arrays if reference and (array := reference()) is not None]
        if kept:
            _KeptItem(self._block, self._waker, entry, kept)
        else:
            self._block.clear(entry)
        self._fence()
        if words[w.WAITING]:
            self._waker.wake(PRODUCER)
        if not kept:
            self._waker.release()
        self._block.mapping.release()


class _Waking:
    """The end of an array for whose slot the producer waits."""

    __slots__ = ("_clear", "_waker")

    def __init__(self, clear: Callable[[Any], object], waker: Waker) -> None:
        self._clear = clear
        self._waker = waker

    @sigint.finalizer
    def __call__(self, reference: Any) -> None:
        sigint.finalize(self._end, reference)

    def _end(self, reference: Any) -> None:
        self._clear(reference)
        if self._waker.index >= 0:
            self._waker.wake_once(PRODUCER)  # in any thread, also while another one waits


class _KeptItem:
    """Keeps the entry of a consumer that was closed, until the last array that it got is dropped."""

    def __init__(self, block: Block, waker: Waker, entry: int, arrays: list[_Array]) -> None:
        self._block, self._waker, self._entry = block, waker, entry
        self._references = {id(array): weakref.ref(array, self._dropped) for array in arrays}
        _kept.add(self)

    @sigint.finalizer
    def _dropped(self, reference: Any) -> None:
        sigint.finalize(self._drop, reference)

    def _drop(self, reference: Any) -> None:
        # Two arrays may end at once, in two threads. There is no lock: a forked child would wait for ever for
        # one that a thread of its parent had. The thread that removes this object goes on.
        for key, known in list(self._references.items()):
            if known is reference:
                self._references.pop(key, None)
        if self._references:
            return
        try:
            _kept.remove(self)
        except KeyError:
            return
        if self._waker.index >= 0:
            self._block.clear(self._entry)
            self._waker.wake(PRODUCER)
            self._waker.release()


_kept: set[_KeptItem] = set()


def _claim_entry(block: Block, waker: Waker) -> int:
    """Return the first word of an entry that no consumer has, and become its party."""
    for again in (True, False):
        for number in range(w.ENTRIES):
            entry = w.ENTRY + number * w.ENTRY_WORDS
            if waker.claim(party_of(entry)):
                return entry
        if again:
            gc.collect()  # closed consumers keep their entries until their items are dropped
    raise errors.LimitError(
        f"the stream {block.mapping.name!r} has {w.ENTRIES} consumers",
        name=block.mapping.name,
        found=f"{w.ENTRIES} consumers",
        expected="one entry that is free",
        next_step="close a consumer, or let one process hand items on",
    )
