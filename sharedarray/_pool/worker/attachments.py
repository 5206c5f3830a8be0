"""A worker's attachments to the shared blocks of its calls.

To attach a block takes some 100 us, and each page of a fresh mapping costs a fault. So the blocks of a call
stay mapped for the next one, under these rules:

- An attachment does not keep its block. While a call runs, the pool's process holds the blocks of its
  arguments, so the worker needs no lease. Before the worker replies, it takes leases for the arrays that it
  still refers to, and for no others: if another process closes or drops an array then, its name is free.
- The pool sends RELEASED when its own process releases a block, and the worker unmaps it. The memory of a
  block that the pool's process holds exists anyway, so the mapping of an idle worker costs nothing.
- A worker does not read messages during a call. So a second thread drops all attachments once a call has
  taken 0.1 s; beside such a call, the time to attach again does not count. While native code holds the
  interpreter's lock, this thread waits.
- At most 64 blocks stay attached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from sharedarray._arrivals import AttachmentCache
from sharedarray._clock import time

__all__ = ["Attachments"]

# Blocks that stay attached at most, and seconds after which a call is a long one.
_MOST, _LONG = 64, 0.1


class Attachments:
    """The blocks that a worker has attached.

    Attributes
    ----------
    kept
        The cache of attachments, and the context in which references are loaded through it.
    """

    def __init__(self) -> None:
        self.cache = AttachmentCache(_MOST)
        self._running = False
        self._begun = 0
        self._thread: threading.Thread | None = None
        self._awake = False
        self._work = threading.Semaphore(0)

    def begin(self) -> None:
        """Note that a call begins."""
        self._begun += 1
        self._running = True
        if not self._awake and self.cache.attached:
            self._wake()

    def end(self) -> None:
        """Note that the call has ended."""
        self._running = False

    def settle(self) -> None:
        """Note that the call has ended, and hold only the blocks that arrays in this process are on."""
        self._running = False
        self.cache.settle()

    def released(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Unmap blocks that the pool's process has released."""
        self.cache.forget(blocks)

    def _wake(self) -> None:
        self._awake = True
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._drop_in_long_calls, name="sharedarray-attachments", daemon=True
            )
            self._thread.start()
        self._work.release()

    def _drop_in_long_calls(self) -> None:
        while True:
            self._work.acquire()
            while self._awake:
                seen = self._begun
                time.sleep(_LONG)
                if seen == self._begun:
                    if self._running:
                        self.cache.clear()
                    self._awake = False
                    # A call that began meanwhile did not wake this thread.
                    self._awake = seen != self._begun
