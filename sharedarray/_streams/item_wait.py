"""Waiting until a stream has an item at the next position of a consumer.

An item that is part of a cycle of references, as one in a frame of a traceback may be, lives until Python
collects it. A process that sleeps makes no objects, so that Python does not. So a consumer collects them
before it tells its caller that it keeps every slot, and when the producer has waited for its slots for long.
"""

from __future__ import annotations

import gc
import time as clock

from sharedarray import _errors as errors
from sharedarray._clock import time
from sharedarray._spin import spin_wait
from sharedarray._streams import words as w
from sharedarray._streams.base import Empty, ShutDown
from sharedarray._streams.block import PRODUCER
from sharedarray._streams.cursor import Cursor
from sharedarray._wakers import ENDING, seconds_until

__all__ = ["ItemWait", "MovedError", "was_closed", "would_raise"]


class MovedError(Exception):
    """The name leads to the next generation of the stream."""


class ItemWait:
    """The waits of one consumer.

    Attributes
    ----------
    closing : bool
        Whether a thread closes the consumer, so that no other one may wait.
    reported_death : int
        The word SESSION of the producer for whose death `ProducerDied` was raised; 0 for none.
    """

    def __init__(self) -> None:
        self.closing = False
        self.reported_death = 0
        self.spin = spin_wait()
        self._token = time.monotonic_ns() | 1  # of the last sleep
        self._collected = 0  # the word WANTED for which cycles of references were collected last

    def next_token(self) -> int:
        """Return a number that no sleep of this consumer had."""
        self._token += 2
        return self._token

    def sleep(self, cursor: Cursor, end: float | None) -> None:
        """Sleep until there may be an item at the cursor.

        Raises
        ------
        Empty, ShutDown, ProducerDied, DeadlockError, BlockClosedError, MovedError
            None came in time, or none will come here.
        """
        words, asleep, waker = cursor.words, cursor.entry + w.ASLEEP, cursor.waker
        wanted = words[cursor.wanted]
        if wanted & w.COLLECT and wanted != self._collected:
            self._collected = wanted
            gc.collect()
        waker.drain()
        words[asleep] = self.next_token()
        cursor.release()
        cursor.acquire()
        try:
            if cursor.has_next():
                return
            lives = self._producer_lives(cursor, end)
            if cursor.has_next():
                return
            if self.closing:
                raise was_closed(cursor.block.mapping.name)
            column = cursor.holds.column
            if column.all():
                gc.collect()
                if column.all():
                    raise _keeps_all(cursor)
            left = seconds_until(end)
            if left is not None and left <= 0:
                raise _died(cursor) if not lives and not words[w.END] else _none_came(cursor)
            if waker.wait((PRODUCER,) if lives else (), left) and waker.alive(PRODUCER):
                clock.sleep(ENDING)
        finally:
            words[asleep] = 0

    def _producer_lives(self, cursor: Cursor, end: float | None) -> bool:
        """Return whether there is a producer to wait for.

        Raises
        ------
        ShutDown, ProducerDied, MovedError
            None will publish the next item here.
        """
        words = cursor.words
        session = words[w.SESSION]
        last = words[w.END]
        if last:
            if cursor.next >= last - 1:
                name = cursor.block.mapping.name
                raise MovedError if words[w.MOVED] else ShutDown(f"the stream {name!r} was closed")
            return False
        if cursor.waker.alive(PRODUCER):
            return True
        if words[w.END] or cursor.has_next() or words[w.SESSION] != session:
            return False  # the producer may have published before its end: check again
        if cursor.block.replaced():
            raise MovedError
        if self.reported_death != session or end is None:
            self.reported_death = session
            raise _died(cursor)
        return False


def would_raise(cursor: Cursor) -> tuple[bool, bool]:
    """Return whether no item will come at the cursor, and whether the stream has a next generation."""
    words = cursor.words
    last = words[w.END]
    if last:
        return cursor.next >= last - 1, bool(words[w.MOVED])
    over = not cursor.waker.alive(PRODUCER)
    return over, over and cursor.block.replaced()


def _died(cursor: Cursor) -> errors.ProducerDied:
    name = cursor.block.mapping.name
    return errors.ProducerDied(
        f"the producer of the stream {name!r} has died",
        name=name,
        found=f"the end of process {cursor.words[w.PRODUCER]}, which had not closed the stream",
        next_step="get(timeout=…) waits for a producer that goes on: "
        "sharedarray.Stream(name, shape, dtype, takeover=True)",
    )


def _none_came(cursor: Cursor) -> Empty:
    name = cursor.block.mapping.name
    return Empty(
        f"no item of the stream {name!r} came in time",
        name=name,
        found=f"{cursor.words[w.HEAD]} items published so far",
    )


def _keeps_all(cursor: Cursor) -> errors.DeadlockError:
    name, slots = cursor.block.mapping.name, cursor.slots
    return errors.DeadlockError(
        f"this consumer keeps all {slots} slots of the stream {name!r}, so no item can come",
        name=name,
        found=f"{slots} slots with items in use here",
        next_step="copy what is to stay: item.copy(); or make the stream with more slots",
    )


def was_closed(name: str) -> errors.BlockClosedError:
    """Return the error of a call of a closed consumer."""
    return errors.BlockClosedError(
        f"this consumer of the stream {name!r} is closed", name=name, next_step="attach again"
    )
