"""A worker's attachments to the blocks that its tasks are given again and again.

To attach takes some 100 us, and each page of a fresh mapping a fault besides; so what a task was given stays
mapped for the next one. It does not stay for longer than somebody could miss it:

- The block is not kept by that. While a task runs, the pool's process holds what it was given, so the worker
  needs no lease of its own. Before the answer is sent, it takes leases for the arrays that something in it
  still refers to, and has none for the others; whoever closes an array then, or has dropped it, finds its
  name free.
- The pool tells the worker (LEFT) when its own process gives a block up, and the worker unmaps it. The memory
  of a block that the pool's process holds is there anyway, so an idle worker that has it mapped costs
  nothing.
- A worker that is at a task does not hear that. So a second thread lets go of all once a task has taken some
  0.1 s; beside such a task, to attach again is nothing. (While native code keeps the interpreter to itself,
  the thread has to wait for it.)
- There are never more than some dozen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from sharedarray.clock import time
from sharedarray.reference import Kept

__all__ = ["Attachments"]

# Blocks that are kept at most, and seconds between two looks at whether a task takes long.
_MOST, _LONG = 64, 0.1


class Attachments:
    """What a worker has attached.

    Attributes
    ----------
    kept
        A context in which references that arrive are kept.
    """

    def __init__(self) -> None:
        self.kept = Kept(_MOST)
        self._running = False
        self._begun = 0
        self._thread: threading.Thread | None = None
        self._awake = False
        self._work = threading.Semaphore(0)

    def begin(self) -> None:
        """Hear that a task begins."""
        self._begun += 1
        self._running = True
        if not self._awake and self.kept.attached:
            self._wake()

    def end(self) -> None:
        """Hear that it is over."""
        self._running = False

    def settle(self) -> None:
        """Hear that it is over, and hold no block that no array in this process is on."""
        self._running = False
        self.kept.settle()

    def left(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Hear that the pool's process has given up blocks."""
        self.kept.forget(blocks)

    def _wake(self) -> None:
        self._awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="sharedarray-attachments", daemon=True)
            self._thread.start()
        self._work.release()

    def _look(self) -> None:
        while True:
            self._work.acquire()
            while self._awake:
                seen = self._begun
                time.sleep(_LONG)
                if seen == self._begun:
                    if self._running:
                        self.kept.clear()
                    self._awake = False
                    # A task that began in between has taken this thread for awake.
                    self._awake = seen != self._begun
