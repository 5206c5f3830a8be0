"""Event loops that wait for a consumer of a stream.

While an event loop watches a consumer, the consumer counts as asleep between its calls: each call ends with
the steps that come before a sleep (see `sharedarray._wakers`). So its waker becomes readable when the next
call would not wait. The descriptor of a `platform.watch` combines this waker with the producer's, which
becomes readable when the producer's process has ended.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

from sharedarray import _sigint as sigint
from sharedarray._platform import platform
from sharedarray._streams import words as w
from sharedarray._streams.block import PRODUCER
from sharedarray._streams.cursor import Cursor
from sharedarray._streams.item_wait import ItemWait

if TYPE_CHECKING:
    import asyncio

    from sharedarray._platform.contract import Watch
    from sharedarray._wakers import Waker

__all__ = ["HAS_DESCRIPTORS", "SLICE", "EventLoops", "Readers", "Watched"]

SLICE = 0.005  # seconds between two checks on systems on which streams have no descriptors
HAS_DESCRIPTORS = hasattr(select, "poll")  # False on Windows


class Watched:
    """The descriptor by which an event loop watches a consumer."""

    def __init__(self, waker: Waker) -> None:
        self._watch: Watch = platform.watch()
        self._watch.add(waker.handle, own=True)

    def fileno(self) -> int:
        """Return the descriptor that can be read when a call would not wait."""
        return self._watch.fileno()

    def arm(self, waker: Waker, *, lives: bool) -> None:
        """Watch the end of the producer too, if one lives."""
        if not lives:
            waker.forget(PRODUCER)
        for end in waker.ends((PRODUCER,)) if lives else ():
            self._watch.add(end)

    def follow(self, waker: Waker) -> None:
        """Watch another waker, in place of one that is closed."""
        self._watch.add(waker.handle, own=True)

    def close(self) -> None:
        """Close the descriptor."""
        self._watch.close()


class Readers:
    """The tasks of an event loop that wait for one consumer.

    The loop waits for a descriptor of its own. Any thread may close the consumer; while tasks wait, the
    loop's thread closes this descriptor, after the loop has forgotten it.
    """

    def __init__(self, watched: Watched, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._changing = threading.Lock()  # held while the loop begins to wait, or another thread ends that
        self._descriptor = platform.opened(os.dup, watched.fileno())
        self._waiting: list[asyncio.Future[None]] = []
        self._ended = False

    async def wait(self, seconds: float | None) -> None:
        """Wait until the descriptor can be read, the consumer is closed, or the time is over."""
        import asyncio

        future = self.loop.create_future()
        with self._changing:
            if self._ended:
                return
            if not self._waiting:
                self.loop.add_reader(self._descriptor, self._wake)
            self._waiting.append(future)
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            pass
        finally:
            with self._changing:
                if future in self._waiting:
                    self._waiting.remove(future)
                    if not self._waiting:
                        self.loop.remove_reader(self._descriptor)

    def end(self) -> None:
        """Wake all tasks, and close the descriptor, because the consumer is being closed, by any thread."""
        import asyncio

        with self._changing:
            self._ended = True
            waiting = bool(self._waiting)
        try:
            here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            here = False
        if waiting and not here:
            try:
                self.loop.call_soon_threadsafe(self._finish)
                return
            except RuntimeError:
                pass  # the loop is closed
        self._finish()

    def _finish(self) -> None:
        if not self.loop.is_closed():
            self._wake()
        self.close()

    def close(self) -> None:
        """Close the descriptor, for which the loop does not wait, or in a forked child."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _wake(self) -> None:
        with self._changing:
            waiting, self._waiting = self._waiting, []
            if waiting:
                self.loop.remove_reader(self._descriptor)
        for future in waiting:
            if not future.done():
                future.set_result(None)


class EventLoops:
    """The event loops that wait for one consumer.

    Parameters
    ----------
    waits
        The consumer's waits, with which it shares the numbers of its sleeps.

    Attributes
    ----------
    watched : Watched or None
        The consumer's descriptor, once an event loop has asked for it.
    """

    def __init__(self, waits: ItemWait) -> None:
        self.watched: Watched | None = None
        self._waits = waits
        self._readers: list[Readers] = []  # one for each event loop whose tasks have waited

    def watch(self, cursor: Cursor) -> Watched:
        """Return the consumer's descriptor."""
        if self.watched is None:
            self.watched = Watched(cursor.waker)
            self.arm(cursor, cursor.next)
        return self.watched

    def arm(self, cursor: Cursor, following: int) -> None:
        """Record that the consumer sleeps between two calls, until a position has an item."""
        words, waker, watched = cursor.words, cursor.waker, self.watched
        assert watched is not None
        platform.drain(waker.handle)
        words[cursor.entry + w.ASLEEP] = self._waits.next_token()
        cursor.fence()
        lives = waker.alive(PRODUCER)
        watched.arm(waker, lives=lives)
        ended = words[w.END] or (not lives and self._waits.reported_death != words[w.SESSION])
        if words[w.HEAD] > following or ended:
            waker.wake_self()

    def find(self, loop: asyncio.AbstractEventLoop) -> Readers | None:
        """Return the tasks of an event loop that wait for the consumer; None if it has had none."""
        for known in self._readers[:]:
            if known.loop is loop:
                return known
        return None

    def add(self, loop: asyncio.AbstractEventLoop, watched: Watched) -> Readers:
        """Let the tasks of an event loop wait for the consumer."""
        with sigint.deferred:
            for known in self._readers[:]:
                if known.loop.is_closed():
                    self._readers.remove(known)
                    known.close()
            made = Readers(watched, loop)
            self._readers.append(made)
        return made

    def end(self) -> None:
        """Wake all tasks, and close the descriptors, because the consumer is being closed."""
        for readers in self._readers:
            readers.end()
        self._close_watched()

    def forget(self) -> None:
        """Close the descriptors in a forked child, whose parent keeps its own copies open."""
        self._close_watched()
        for readers in self._readers:
            readers.close()
        self._readers = []

    def _close_watched(self) -> None:
        if self.watched is not None:
            self.watched.close()
            self.watched = None
