"""Outcomes on their way to the pool: many small ones in one message, unless a call is slow.

Each outcome that is held back is also in the worker's page (see `page`), so its death cannot lose them. A
second thread, which sleeps while nothing is held back, sends what has been held for too long because the main
thread runs a slow call. It cannot do that while native code keeps the interpreter's lock; so outcomes are
held back only before calls of functions whose last call was quick.
"""

from __future__ import annotations

import mmap
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from sharedarray import _forks as forks
from sharedarray._clock import time
from sharedarray._pool.processes import copies
from sharedarray._pool.transport import page as pages
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import HEADER, PLAIN, Buffer, Entry, Kind, encode

__all__ = ["WINDOW", "Replies"]

# Nanoseconds for which outcomes are held back: of calls that are awaited one by one, and of items of a map.
WINDOW: Final = 200_000
LAZY_WINDOW: Final = 20_000_000
# Seconds after which the second thread sends what is held back, and after which it sleeps if nothing is.
TOO_LONG: Final = 0.004
QUIET: Final = 0.1

_REPLIES = int(Kind.REPLIES)
_pack = HEADER.pack
_first_byte: Callable[[bytes], int] = operator.itemgetter(0)
_PACKED = frozenset(b"[(")  # the codes of lists and tuples in the format of marshal
monotonic_ns = time.monotonic_ns


class _EndsCopy:
    """Stands in for the lock in a fork of the worker."""

    def __enter__(self) -> None:
        copies.end_copy()

    def __exit__(self, *_: object) -> None:
        pass


class Replies:
    """The messages of a worker to its pool. All writes to the channel are here.

    Parameters
    ----------
    channel
        To the pool.
    page
        The worker's page; None if there is none, and every outcome is sent at once.
    """

    def __init__(self, channel: Channel, page: mmap.mmap | None) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        # For what is done for each call: a with statement takes more than twice as long.
        self._acquire: Callable[[], bool] = self._lock.acquire
        self._release: Callable[[], None] = self._lock.release
        memory = memoryview(bytearray(pages.SIZE) if page is None else page)
        self._words = memory[: pages.HEAD.size].cast("Q")  # first, count
        self._space = memory[pages.HEAD.size :]
        self._size = len(self._space)
        self._end = 0  # of what is in the page
        self._in_page = 0  # outcomes
        self._done = 0  # outcomes since the start
        self._frames: list[bytes] = []  # of functions before this one
        self._held: list[bytes] = []  # outcomes of this function
        self._began = self._ended = 0  # of these
        self._since = 0  # when the oldest outcome that is held back was ready; 0 if none is
        self._lazy = False
        self._window = WINDOW
        self._holds = page is not None
        self._thread: threading.Thread | None = None
        self._awake = False
        self._work = threading.Semaphore(0)
        forks.around(__name__, in_child=self._refuse)

    def _refuse(self) -> None:
        """Make a fork of this worker end if it replies: the pipe and the page are the worker's."""
        self._acquire = _end_copy
        self._lock = _EndsCopy()  # type: ignore[assignment]

    def begin(self, *, lazy: bool, quick: bool) -> None:
        """Begin the calls of one message: what is added from now on are outcomes of one function.

        Parameters
        ----------
        lazy
            Whether the outcomes are not awaited one by one.
        quick
            Whether the last call of the function was. Otherwise all outcomes before it are sent now.
        """
        if self._since:
            with self._lock:
                if quick:
                    self._close_frame()
                else:
                    self._flush()
        self._lazy = lazy
        self._window = 0 if lazy else WINDOW  # the first outcome of a map is sent at once

    def add(self, data: bytes, began: int, ended: int, *, last: bool) -> None:
        """Send a small outcome, soon.

        Parameters
        ----------
        data
            The outcome, as `messages` describes it.
        began, ended
            When it was computed.
        last
            Whether no other call waits in this worker: then it is sent at once.
        """
        self._acquire()
        try:
            self._done += 1
            if (last and not self._since) or not self._holds or len(data) > self._size:
                if self._since:
                    self._flush()
                flags = 0 if data[0] in _PACKED else PLAIN
                self._channel.write(_pack(_REPLIES, flags, 0, 1, 0, len(data), began, ended) + data)
                return
            self._hold(data, began, ended)
            if last or ended - self._since >= self._window:
                self._flush()
                if self._lazy:
                    self._window = LAZY_WINDOW
        finally:
            self._release()

    def _hold(self, data: bytes, began: int, ended: int) -> None:
        start = self._end
        end = start + len(data)
        if end > self._size or not self._since:
            self._flush()
            # A new page: all of the last one was sent.
            self._words[1] = self._in_page = start = 0
            self._words[0] = self._done - 1
            end = len(data)
        self._space[start:end] = data
        self._end = end
        self._in_page += 1
        self._words[1] = self._in_page
        if not self._held:
            self._began = began
        self._held.append(data)
        self._ended = ended
        if not self._since:
            self._since = ended
            if not self._awake:
                self._wake()

    def flush(self) -> None:
        """Send what is held back."""
        if self._since:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        if not self._since:
            return
        self._since = 0
        self._close_frame()
        if self._frames:
            frames = b"".join(self._frames)
            self._frames.clear()
            self._channel.write(frames)

    def _close_frame(self) -> None:
        held = self._held
        if held:
            flags = PLAIN if _PACKED.isdisjoint(map(_first_byte, held)) else 0
            data = b"".join(held)
            self._frames.append(
                _pack(_REPLIES, flags, 0, len(held), 0, len(data), self._began, self._ended) + data
            )
            held.clear()

    def send_outcome(
        self,
        kind: Kind,
        flags: int,
        began: int,
        ended: int,
        stream: Buffer,
        entries: Sequence[Entry] = (),
        inline: Sequence[Buffer] = (),
    ) -> None:
        """Send an outcome now that is no small one, after those that are held back."""
        with self._lock:
            self._done += 1
            self._send(kind, flags, 0, began, ended, stream, entries, inline)

    def send(self, kind: Kind, *, item: int = 0, began: int = 0) -> None:
        """Send a message that is no outcome, after the outcomes that are held back."""
        with self._lock:
            self._send(kind, 0, item, began)

    def _send(
        self,
        kind: Kind,
        flags: int,
        item: int,
        began: int,
        ended: int = 0,
        stream: Buffer = b"",
        entries: Sequence[Entry] = (),
        inline: Sequence[Buffer] = (),
    ) -> None:
        self._flush()
        if entries:
            self._channel.send(encode(kind, flags, item, 0, began, ended, stream, entries, inline))
        else:
            self._channel.write(_pack(kind, flags, 0, item, 0, len(stream), began, ended) + stream)

    # The second thread

    def _wake(self) -> None:
        self._awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sharedarray-replies", daemon=True)
            self._thread.start()
        self._work.release()

    def _run(self) -> None:
        """Send what has been held back for too long."""
        while True:
            self._work.acquire()
            quiet = time.monotonic()
            while time.monotonic() - quiet < QUIET:
                seen = self._since
                time.sleep(TOO_LONG)
                if seen:
                    quiet = time.monotonic()
                    with self._lock:
                        if self._since == seen and monotonic_ns() - seen >= self._window:
                            self._flush()
            self._awake = False
            if self._since:  # held back in the meantime, by a thread that took this one for awake
                self._wake()


def _end_copy(*_: Any) -> NoReturn:
    """End a fork of this worker that replies."""
    copies.end_copy()
