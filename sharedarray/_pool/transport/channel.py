"""One end of the pipes between the pool and a worker: frames in, frames out.

Why it cannot deadlock, whatever the size of what is sent. A deadlock needs two parties that both wait until
the other reads. The pool's end never waits: it is non-blocking, what the kernel does not take at once stays
in a queue of this object until the pipe is writable again, and meanwhile the pool goes on reading. So a
worker may block while it writes a large result, since the pool always reads; and it may block while it reads,
for then it has nothing to write. A worker that stands still (a debugger, SIGSTOP) delays only itself.

If the system can wait for pipes (see `_pipes`), these are two pipes and no pair of sockets: a small write to
a pipe takes a third of the time. The price is SIGPIPE, whose deadly default a program may have restored: see
`Channel.flush`.

Small frames are cut out of one block that a single call to the kernel fills, often with many frames.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from sharedarray._pipes import PipeEnd
from sharedarray._pool.transport.messages import ENTRY, HEADER, Buffer, Entry, Frame, entries_of
from sharedarray._spin import SpinWait

__all__ = ["Channel"]

# Bytes asked of the kernel at a time: what a pipe holds.
_CHUNK = 1 << 16
# The function behind signal.getsignal, without the making of an enum member: it is asked at each write.
_getsignal = getattr(signal, "_signal", signal).getsignal
_SIGPIPE, _DEADLY = int(getattr(signal, "SIGPIPE", 0)), int(signal.SIG_DFL)
_SIZE, _ENTRY, _unpack = HEADER.size, ENTRY.size, HEADER.unpack_from
# For Frame(...), which takes three times as long.
_new = tuple.__new__
# Pieces in one vectored call: the smallest IOV_MAX that POSIX systems have in practice.
_PIECES = 1024


class Channel:
    """Send and receive frames.

    Parameters
    ----------
    reader, writer
        The ends of two pipes; the channel owns them from here on.
    blocking
        Whether writing and reading may wait: at the worker's end.

    Notes
    -----
    One thread at a time may send, and one may receive; its caller ensures that.
    """

    def __init__(self, reader: PipeEnd, writer: PipeEnd, *, blocking: bool) -> None:
        self._reader, self._writer = reader, writer
        self._in, self._out = reader.fileno(), writer.fileno()
        # A worker whose pool is gone may well end by the signal.
        self._guarded = not blocking and hasattr(signal, "SIGPIPE")
        reader.block(blocking)
        writer.block(blocking)
        self._write_out, self._write_all, self._read_in = writer.write, writer.write_all, reader.read_into
        self._unsent: deque[memoryview] = deque()
        self._short: list[Buffer] = []  # frames, to be joined
        self._chunk = bytearray(_CHUNK)
        self._view = memoryview(self._chunk)
        self._whole = [self._view]
        self._start = 0
        self._end = 0
        self._header: tuple[int, ...] | None = None
        self._entries: list[Entry] = []
        self._body: list[bytearray] = []
        self._filling: list[memoryview] = []

    def fileno(self) -> int:
        """Return the descriptor that is read from."""
        return self._in

    @property
    def out(self) -> int:
        """The descriptor that is written to."""
        return self._out

    def close(self, refuse: Callable[..., Any] | None = None) -> None:
        """Close both pipes and drop what was not sent. Idempotent.

        Parameters
        ----------
        refuse
            Called in place of the kernel by every later call that reads or writes: what it raises says more
            than that the pipe is closed.
        """
        self._unsent.clear()
        self._short.clear()
        self._reader.close()
        self._writer.close()
        self._in = self._out = -1
        self._write_out, self._write_all = refuse or self._writer.write, refuse or self._writer.write_all
        self._read_in = refuse or self._reader.read_into
        if refuse is not None:
            self.poll = self.spin = refuse  # type: ignore[method-assign]

    # Sending

    def send(self, pieces: Sequence[Buffer]) -> bool:
        """Send the pieces of a frame (`encode`), or as much as the kernel takes of them; see `flush`."""
        self.queue(pieces)
        return self.flush()

    def write(self, frames: bytes) -> bool:
        """Send whole frames that are small, or as much as the kernel takes of them; see `flush`."""
        if self._short or self._unsent or (self._guarded and _getsignal(_SIGPIPE) == _DEADLY):
            self._short.append(frames)
            return self.flush()
        try:
            sent = self._write_out(frames)
        except BlockingIOError:
            sent = 0
        if sent == len(frames):
            return True
        self._unsent.append(memoryview(frames)[sent:])
        return self.flush()

    def add(self, frame: bytes) -> None:
        """Put a frame that is small behind what is still unsent, for the next `flush`."""
        self._short.append(frame)

    def queue(self, pieces: Sequence[Buffer]) -> None:
        """Put the pieces of a frame behind what is still unsent, for the next `flush`."""
        if len(pieces) == 1:
            self._short.append(pieces[0])
            return
        self._gather()
        self._unsent.extend(memoryview(piece).cast("B") for piece in pieces if len(piece))

    def _gather(self) -> None:
        if self._short:
            self._unsent.append(memoryview(b"".join(self._short)))
            self._short.clear()

    def flush(self, *, safe: bool = False) -> bool:
        """Write what is still unsent; return False if the kernel takes no more now.

        A blocking channel never returns False. One thread of the pool blocks SIGPIPE and says so by ``safe``;
        where the program has given that signal its deadly default back, every other thread leaves the writing
        to it.
        """
        unsent = self._unsent
        if not safe and self._deadly():
            self._gather()
            return not unsent
        if self._short and not unsent and not safe:
            frames = self._short[0] if len(self._short) == 1 else b"".join(self._short)
            self._short.clear()
            return self.write(bytes(frames))
        self._gather()
        while unsent:
            try:
                sent = self._write_all(list(islice(unsent, _PIECES)))
            except BlockingIOError:
                return False
            while sent:
                if sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                else:
                    unsent[0] = unsent[0][sent:]
                    sent = 0
        return True

    def _deadly(self) -> bool:
        """Return whether writing to a worker that died would end this program."""
        return self._guarded and _getsignal(_SIGPIPE) == _DEADLY

    @property
    def unsent(self) -> bool:
        """True if something waits for the pipe to become writable."""
        return bool(self._unsent or self._short)

    # Receiving

    def poll(self, timeout: float | None) -> bool:
        """Wait until there is something to read, for as many seconds; say whether there is."""
        return self._reader.readable(timeout)

    def spin(self, spinning: SpinWait) -> bool:
        """Poll for something to read for a short time, without sleeping; return whether there is."""
        return spinning.worthwhile() and bool(spinning.poll(self._reader.there))

    def receive(self) -> list[Frame]:
        """Return all frames that one call to the kernel completes, which may be none.

        Of a large frame, the rest is waited for where the channel blocks.

        Raises
        ------
        EOFError
            The other end is closed, and there is nothing left to read.
        """
        frames: list[Frame] = []
        if self._start == self._end and self._header is None:
            # Nearly always; and then it is one short frame as a whole, which is cut out here.
            try:
                count = self._read_in(self._whole)
            except BlockingIOError:
                return frames
            if not count:
                raise EOFError
            if count >= _SIZE:
                kind, flags, entries, item, task, length, began, ended = _unpack(self._chunk)
                if _SIZE + length == count and not entries:
                    stream = self._chunk[_SIZE:count]
                    frames.append(_new(Frame, (kind, flags, item, task, began, ended, stream, (), ())))
                    return frames
            self._start, self._end = 0, count
            read = True
        else:
            read = self._read()
        try:
            while read:
                if self._header is None:
                    self._cut_short_ones(frames)
                    if self._start == self._end:
                        break  # nearly always
                while (frame := self._next()) is not None:
                    frames.append(frame)
                    self._cut_short_ones(frames)
                if not self._filling:
                    break
                read = self._read()
        except EOFError:
            if not frames:
                raise  # otherwise first things first: the end is there again the next time
        return frames

    def _cut_short_ones(self, frames: list[Frame]) -> None:
        """Cut out the frames without inline buffers that are here as a whole, as nearly all are."""
        chunk, start, end = self._chunk, self._start, self._end
        while end - start >= _SIZE:
            kind, flags, count, item, task, length, began, ended = _unpack(chunk, start)
            begin = start + _SIZE + _ENTRY * count
            stop = begin + length
            if stop > end:
                break
            entries: Sequence[Entry] = ()
            if count:
                entries = entries_of(chunk[start + _SIZE : begin])
                if not min(entries)[0]:
                    break  # one is inline
            frames.append(
                _new(Frame, (kind, flags, item, task, began, ended, chunk[begin:stop], entries, ()))
            )
            start = stop
        self._start = start

    def _read(self) -> bool:
        """Read once; return False if there is nothing to read now."""
        filling = self._filling
        targets = filling[: -_PIECES - 1 : -1] if filling else [self._target()]
        try:
            count = self._read_in(targets)
        except BlockingIOError:
            return False
        if count == 0:
            raise EOFError
        if not filling:
            self._end += count
            return True
        for target in targets:
            if count < len(target):
                filling[-1] = target[count:]
                break
            count -= len(target)
            filling.pop()
        return True

    def _target(self) -> memoryview:
        """Return where to read to; the start of an unfinished frame is moved to the front before."""
        if self._start == self._end:
            self._start = self._end = 0
            return self._view
        if self._start:
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def _next(self) -> Frame | None:
        """Return a large frame if all of it is here; else leave in ``_filling`` what is to be read for it."""
        if self._header is None:
            begin = self._start + HEADER.size
            if self._end < begin:
                return None
            self._header = HEADER.unpack_from(self._chunk, self._start)
            _, _, count, _, _, length, _, _ = self._header
            self._start = begin
            self._entries = []
            self._expect([ENTRY.size * count] if count else [length])
        if self._filling:
            return None
        kind, flags, count, item, task, length, began, ended = self._header
        if count and not self._entries:
            self._entries = entries_of(self._body.pop())
            self._expect([length, *(entry.length for entry in self._entries if not entry.slot)])
            if self._filling:
                return None
        body, self._body, self._header = self._body, [], None
        entries, self._entries = self._entries, []
        return Frame(kind, flags, item, task, began, ended, body[0], entries, body[1:])

    def _expect(self, sizes: list[int]) -> None:
        """Allocate buffers for parts of these sizes, and fill them with the bytes that have arrived."""
        for size in sizes:
            part = bytearray(size)
            here = min(size, self._end - self._start)
            part[:here] = self._view[self._start : self._start + here]
            self._start += here
            self._body.append(part)
            if here < size:
                self._filling.append(memoryview(part)[here:])
        self._filling.reverse()
