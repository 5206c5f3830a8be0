"""A consumer of a stream: its calls. They take items as arrays in their slots."""

from __future__ import annotations

import operator
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sharedarray import _errors as errors, _sigint as sigint
from sharedarray._clock import time
from sharedarray._process_end import halt, halting
from sharedarray._streams import words as w
from sharedarray._streams.base import Empty, ShutDown, Stream
from sharedarray._streams.block import PRODUCER, Block
from sharedarray._streams.cursor import Cursor
from sharedarray._streams.event_loops import HAS_DESCRIPTORS, SLICE, EventLoops, Readers, Watched
from sharedarray._streams.holds import Array
from sharedarray._streams.item_wait import ItemWait, MovedError, was_closed, would_raise
from sharedarray._streams.joining import ALL
from sharedarray._streams.options import Options
from sharedarray._streams.turns import Token, enter
from sharedarray._wakers import deadline_after, seconds_until

if TYPE_CHECKING:
    import asyncio

__all__ = ["Consumer"]

_T = TypeVar("_T")


class Consumer(Stream):
    """A stream as one of its consumers, which read."""

    @halting
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._closed = True  # until the constructor has finished
        options = Options(*arguments, **keywords).of_consumer()
        assert options.name is not None
        self._join_block(Block.attach(options.name), options.lossless, history=options.history)

    def _join_block(self, block: Block, lossless: bool | None, *, history: int = 0, start: int = -1) -> None:
        with sigint.deferred:  # if Ctrl-C has come, it comes when this can be closed
            self._begin()
            self._wish = lossless
            self._wait = ItemWait()
            self._loops = EventLoops(self._wait)
            self._when_closed: set[Callable[[], object]] = set()
            try:
                self._cursor = Cursor(block, lossless, self._fence, history=history, start=start)
            except BaseException:
                block.mapping.release()
                raise
            self._use(block)
            self._closed = False
            self._register()

    def _repair(self) -> None:
        self._renew_fence()
        self._cursor.repair(self._fence)
        self._arm()
        self._turn.pop(0, None)

    def _arm(self) -> None:
        """Let event loops wait for the next item, if one watches this consumer."""
        if self._loops.watched is not None and not self._closed:
            self._loops.arm(self._cursor, self._cursor.next)

    def _in_child(self) -> None:
        self._loops.forget()
        self._when_closed.clear()
        super()._in_child()

    def _repair_in_child(self) -> None:
        """Join the stream as a party of its own, in a forked child."""
        with sigint.deferred:
            try:
                self._wait.spin.last = 1.0
                former = self._cursor
                self._cursor = Cursor(self._block, self._wish, self._fence, start=former.next, former=former)
                self._turn.pop(0, None)
            except BaseException:
                self._in_child()
                raise

    def _take_turn(self, token: Token, timeout: float | None) -> None:
        """Wait for the turn, which another thread has, and take it."""
        if not enter(self._turn, token, deadline_after(timeout), self):
            raise Empty(f"another thread is reading the stream {self.name!r}", name=self.name)

    # -- the calls

    def get(self, timeout: float | None = None, *, max: int | None = None) -> Array:
        if max is not None:
            return self._get_several(max, timeout)
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            cursor = self._cursor
            words = cursor.words
            cursor.release()
            cursor.acquire()
            wanted = words[cursor.wanted]
            if wanted and wanted != cursor.answered:
                cursor.answered = wanted
                cursor.waker.wake(PRODUCER)
            position = cursor.next
            if words[w.HEAD] <= position or self._wait.closing:
                cursor = self._await(timeout)
                words, position = cursor.words, cursor.next
            if not w.ORDERED:
                cursor.fence()
            found = words[cursor.index + position % cursor.slots]
            slot = found & 0xFFFF
            if cursor.lossless and found >> 16 == position + 1:
                lost = 0
                cursor.position, cursor.slot = position, slot
                cursor.bytes[cursor.first_hold + slot * 32] = 1
            else:
                cursor, position, slot, lost = self._pin(timeout)
                words = cursor.words
            array: Array = np.ndarray(
                cursor.shape, cursor.dtype, cursor.buffer, cursor.offset + slot * cursor.nbytes
            )
            holds = cursor.holds
            holds.arrays[slot] = weakref.ref(array, holds.drop_of(slot))
            if self._loops.watched is not None:
                self._loops.arm(cursor, position + 1)
        except BaseException as error:
            self._give_up(error)
            raise
        # No calls from here on: Ctrl-C cannot come before the array is the caller's.
        if lost:
            cursor.lost = words[cursor.entry + w.LOST] = cursor.lost + lost
        words[cursor.entry] = position + 2
        cursor.next = position + 1
        del self._turn[0]
        return array

    def _give_up(self, error: BaseException) -> None:
        """End a call that has failed, or that was broken off."""
        if isinstance(error, (Empty, ShutDown, errors.SharedArrayError)):
            self._arm()
            self._turn.pop(0, None)
        else:
            self._repair()
        halt()

    def _pin(self, timeout: float | None) -> tuple[Cursor, int, int, int]:
        """Use the next item that is still there: the cursor, and what its `pin` returns."""
        while True:
            cursor = self._cursor
            found = cursor.pin()
            if found is not None:
                return cursor, *found
            self._await(timeout)

    def latest(self, timeout: float | None = None) -> Array:
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            while True:
                cursor = self._cursor
                if not cursor.has_next() or self._wait.closing:
                    cursor = self._await(timeout)
                words = cursor.words
                head = words[w.HEAD]
                if not w.ORDERED:
                    cursor.fence()
                position, slot = cursor.newest(head)
                if position >= 0:
                    break
                cursor.skip(head)  # every one of them was dropped or overwritten
            array: Array = np.ndarray(
                cursor.shape, cursor.dtype, cursor.buffer, cursor.offset + slot * cursor.nbytes
            )
            holds = cursor.holds
            holds.arrays[slot] = weakref.ref(array, holds.drop_of(slot))
            lost = position - cursor.next
            words[cursor.entry] = position + 2  # the producer may overwrite the items before
            cursor.release()
            cursor.acquire()
            if words[cursor.wanted]:
                cursor.waker.wake(PRODUCER)
            if self._loops.watched is not None:
                self._loops.arm(cursor, position + 1)
        except BaseException as error:
            self._give_up(error)
            raise
        if lost:
            cursor.lost = words[cursor.entry + w.LOST] = cursor.lost + lost
        cursor.next = position + 1
        del self._turn[0]
        return array

    def _get_several(self, most: int, timeout: float | None) -> Array:
        most = operator.index(most)
        if most < 1:
            raise ValueError(f"max is a number of items, not {most}")
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            cursor = self._cursor
            words = cursor.words
            cursor.release()
            cursor.acquire()
            wanted = words[cursor.wanted]
            if wanted and wanted != cursor.answered:
                cursor.answered = wanted
                cursor.waker.wake(PRODUCER)
            if words[w.HEAD] <= cursor.next or self._wait.closing:
                self._await(timeout)
            cursor, position, slot, lost = self._pin(timeout)
            words, holds = cursor.words, cursor.holds
            n = cursor.adjacent(position, slot, most)
            array = cursor.array(slot, n)
            holds.arrays[slot] = weakref.ref(array, holds.drop_of_several(slot, n))
            if self._loops.watched is not None:
                self._loops.arm(cursor, position + n)
        except BaseException as error:
            self._give_up(error)
            raise
        if lost:
            cursor.lost = words[cursor.entry + w.LOST] = cursor.lost + lost
        words[cursor.entry] = position + n + 1
        cursor.next = position + n
        del self._turn[0]
        return array

    def __iter__(self) -> Iterator[Array]:
        return self

    def __next__(self) -> Array:
        try:
            return self.get()
        except ShutDown:
            raise StopIteration from None

    @property
    def position(self) -> int:
        return self._cursor.position

    @property
    def lost(self) -> int:
        return self._cursor.lost

    @property
    def time_ns(self) -> int:
        return self._cursor.time_ns

    def _start(self) -> int:
        return self._cursor.next

    # -- event loops

    @halting
    def fileno(self) -> int:
        watched = self._loops.watched
        if watched is None or self._closed:
            return self._use_watched(Watched.fileno)
        try:
            return watched.fileno()
        except ValueError:  # closed by another thread
            raise was_closed(self.name) from None

    def _use_watched(self, use: Callable[[Watched], _T]) -> _T:
        """Call a function with what event loops wait for, which no other thread can close meanwhile."""
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, None)
        try:
            if self._closed:
                raise was_closed(self.name)
            found = use(self._loops.watch(self._cursor))
        except BaseException as error:
            self._give_up(error)  # it renews the fence, and lets event loops wait
            raise
        del self._turn[0]
        return found

    def ready(self) -> bool:
        try:
            cursor = self._cursor
            if self._closed or cursor.has_next():
                return True
            over, moved = would_raise(cursor)
            return over and not (moved and self._follow())
        except (OSError, ValueError):
            if self._closed:  # by another thread, in the meantime
                return True
            raise

    def _follow(self) -> bool:
        """Go on with the next generation of the stream; return whether `get` would wait there."""
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, None)
        try:
            if not self._closed and not self._cursor.has_next():
                self._await(0)
            if self._loops.watched is not None:
                self._loops.arm(self._cursor, self._cursor.next)
        except BaseException as error:
            self._give_up(error)
            if isinstance(error, Empty):
                return True
            if isinstance(error, (ShutDown, errors.SharedArrayError)):
                return False  # as `get` would raise
            raise
        del self._turn[0]
        return False

    async def aget(self, timeout: float | None = None, *, max: int | None = None) -> Array:
        import asyncio

        end = deadline_after(timeout)
        loop = asyncio.get_running_loop()
        while True:
            reported = self._wait.reported_death
            try:
                return self.get(0, max=max)
            except (Empty, errors.ProducerDied) as error:
                remaining = seconds_until(end)
                new = self._wait.reported_death != reported or end is None
                if (remaining is not None and remaining <= 0) or (new and not isinstance(error, Empty)):
                    raise
            if not HAS_DESCRIPTORS:
                await asyncio.sleep(SLICE if remaining is None else min(remaining, SLICE))
                continue
            await self._readers_of(loop).wait(remaining)

    def _readers_of(self, loop: asyncio.AbstractEventLoop) -> Readers:
        """Return the tasks of an event loop that wait for this consumer."""
        known = self._loops.find(loop)
        if known is not None:
            return known
        return halting(self._use_watched)(lambda watched: self._loops.add(loop, watched))

    def __aiter__(self) -> AsyncIterator[Array]:
        return self

    async def __anext__(self) -> Array:
        try:
            return await self.aget()
        except ShutDown:
            raise StopAsyncIteration from None

    # -- waiting

    def _await(self, timeout: float | None) -> Cursor:
        """Wait until there is an item at the next position; return the cursor, which may be another one."""
        wait = self._wait
        if wait.closing:  # a thread that closes it waits for the turn
            raise was_closed(self.name)
        end = deadline_after(timeout)
        start = time.perf_counter()
        if timeout != 0 and wait.spin.worthwhile():
            wait.spin.poll(self._is_there)
        while not self._cursor.has_next():
            try:
                wait.sleep(self._cursor, end)
            except MovedError:
                self._move()
        wait.spin.last = time.perf_counter() - start
        return self._cursor

    def _is_there(self) -> bool:
        cursor = self._cursor
        return cursor.words[w.HEAD] > cursor.next

    def _move(self) -> None:
        """Go on with the next generation of the stream."""
        block = Block.attach(self.name)
        with sigint.deferred:
            former = self._cursor
            try:
                self._cursor = Cursor(block, self._wish, self._fence, history=ALL, former=former)
            except BaseException:
                block.mapping.release()
                raise
            self._use(block)
            self._wait.reported_death = 0
            if self._loops.watched is not None:
                self._loops.watched.follow(self._cursor.waker)
            former.leave_former()

    # -- the end

    def close(self) -> None:
        self._wait.closing = True
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            if self._cursor.waker.index < 0:  # a forked child's copy of its parent's, which it has not used
                self._closed = True
                self._block.mapping.release()
                return
            self._cursor.waker.wake_self()
            enter(self._turn, token, None, self)
        if not self._closed:
            with sigint.deferred:  # a second call would find it closed, and not go on
                self._closed = True
                self._loops.end()
                self._cursor.leave()
                for wake in tuple(self._when_closed):
                    wake()
        self._turn.pop(0, None)
