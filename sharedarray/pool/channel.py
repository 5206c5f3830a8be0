"""One end of the pipe between the pool and a worker: frames in, frames out.

Why it cannot deadlock, whatever the size of what is sent. A deadlock needs two parties that both wait until
the other reads. The pool's end never waits: it is non-blocking, what the kernel does not take at once stays
in a queue of this object until the pipe is writable again, and meanwhile the pool goes on reading. So a
worker may block while it writes a large result, since the pool always reads; and it may block while it reads,
for then it has nothing to write. A worker that stands still (a debugger, SIGSTOP) delays only itself.

Large buffers are received straight into the memory that they will live in; small frames are cut out of one
block that a single call to the kernel fills, often with several frames.
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Sequence

from sharedarray.pool.messages import HEADER, LENGTH, Buffer, Frame, Kind, encode, layout

__all__ = ["Channel"]

# Bytes asked of the kernel when nothing is known about what comes: the default size of a socket's buffer is a
# small multiple of this, and clearing more than this would cost more than the calls that it saves.
_CHUNK = 1 << 16
# Pieces in one vectored write: the smallest IOV_MAX that POSIX systems have in practice.
_PIECES = 1024
# A program may have given SIGPIPE its deadly default back; a worker that died must not end the program by it.
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)


class Channel:
    """Send and receive frames over a connected stream socket.

    Parameters
    ----------
    sock
        The socket; the channel owns it from here on. Non-blocking at the pool's end, blocking at the
        worker's.

    Notes
    -----
    One thread at a time may send, and one may receive; the pool's engine has a lock for the first.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsent: deque[memoryview] = deque()
        self._chunk = bytearray(_CHUNK)
        self._start = 0
        self._end = 0
        self._header: tuple[int, ...] | None = None
        self._body: list[bytearray] = []
        self._filling: list[memoryview] = []

    def fileno(self) -> int:
        """Return the descriptor of the socket, -1 once closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket and drop what was not sent."""
        self._unsent.clear()
        self._sock.close()

    # Sending

    def send(
        self, kind: Kind, task: int = 0, flags: int = 0, stream: Buffer = b"", buffers: Sequence[Buffer] = ()
    ) -> bool:
        """Send one frame, or as much as the kernel takes of it; see `flush`."""
        pieces = encode(kind, task, flags, stream, buffers)
        if len(pieces) == 1 and not self._unsent:
            # Nearly every frame: one short piece, taken whole.
            piece = pieces[0]
            try:
                sent = self._sock.send(piece, _FLAGS)
            except BlockingIOError:
                sent = 0
            if sent == len(piece):
                return True
            self._unsent.append(memoryview(piece)[sent:])
        else:
            self._unsent.extend(memoryview(piece) for piece in pieces if len(piece))
        return self.flush()

    def flush(self) -> bool:
        """Write what is still unsent; return False when the kernel takes no more now.

        A blocking socket never returns False.
        """
        unsent = self._unsent
        while unsent:
            try:
                sent = self._sock.sendmsg(list(itertools.islice(unsent, _PIECES)), [], _FLAGS)
            except BlockingIOError:
                return False
            while sent:
                if sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                else:
                    unsent[0] = unsent[0][sent:]
                    sent = 0
        return True

    @property
    def unsent(self) -> bool:
        """Whether something waits for the pipe to become writable."""
        return bool(self._unsent)

    # Receiving

    @property
    def arrived(self) -> bool:
        """Whether bytes that were read already wait to be made into a frame."""
        return self._end > self._start

    def receive(self) -> Frame | None:
        """Return the next frame; None when it has not fully arrived and the socket is non-blocking.

        Raises
        ------
        EOFError
            The other end is closed, be it between two frames or within one.
        ConnectionResetError
            The other end was closed before it had read everything that was sent to it.
        """
        while True:
            frame = self._next()
            if frame is not None:
                return frame
            if self._filling:
                target = self._filling[-1]
                count = self._read(target)
                if count is None:
                    return None
                if count == len(target):
                    self._filling.pop()
                else:
                    self._filling[-1] = target[count:]
            else:
                self._make_room()
                count = self._read(memoryview(self._chunk)[self._end :])
                if count is None:
                    return None
                self._end += count

    def _read(self, target: memoryview) -> int | None:
        try:
            count = self._sock.recv_into(target)
        except BlockingIOError:
            return None
        if count == 0:
            raise EOFError
        return count

    def _make_room(self) -> None:
        """Move the start of an unfinished frame to the front, so that the next read can be a long one."""
        if self._start:
            rest = self._end - self._start
            self._chunk[:rest] = self._chunk[self._start : self._end]
            self._start, self._end = 0, rest

    def _next(self) -> Frame | None:
        """Return a frame if all of it is here; otherwise leave in ``_filling`` what has to be read for it."""
        if self._header is None:
            if self._end - self._start < HEADER.size:
                return None
            kind, flags, _, count, task, length = HEADER.unpack_from(self._chunk, self._start)
            if not count and self._end - self._start - HEADER.size >= length:
                begin = self._start + HEADER.size
                stream = bytes(memoryview(self._chunk)[begin : begin + length])
                self._start = begin + length
                return Frame(Kind(kind), task, flags, stream)
            self._start += HEADER.size
            self._header = (kind, flags, count, task, length)
            self._expect([LENGTH.size * count] if count else [length])
        if self._filling:
            return None
        kind, flags, count, task, length = self._header
        if count and len(self._body) == 1:
            self._expect([length, *layout(self._body[0])])
            if self._filling:
                return None
        body, self._body, self._header = self._body, [], None
        if count:
            return Frame(Kind(kind), task, flags, body[1], body[2:])
        return Frame(Kind(kind), task, flags, body[0])

    def _expect(self, sizes: list[int]) -> None:
        """Make room for parts of these sizes; fill what is here already, and note what is not."""
        for size in sizes:
            part = bytearray(size)
            here = min(size, self._end - self._start)
            part[:here] = memoryview(self._chunk)[self._start : self._start + here]
            self._start += here
            self._body.append(part)
            if here < size:
                self._filling.append(memoryview(part)[here:])
        self._filling.reverse()
