"""The free list: blocks that this process has just freed. Its next blocks use their pages.

To make a block in fresh memory takes some ten times as long as to copy the data, because the kernel finds and
clears every page. So a block of at least `thresholds.REUSED_FROM` bytes that this process made keeps
its file and its mapping for a moment when its last view goes. The next block of about that size gets both::

    last view goes ─▶ release ─▶ rename ─▶ alone? ─▶ FREE ─▶ alone? ─▶ move pages ─▶ fill ─▶ publish
                                             ▲                        to a new mapping
                                 last view goes
                                             │
    close() ─▶ release ─▶ rename ─▶ alone? ─▶ CLOSED

**A free block has no name by which it can be attached.** The kernel refuses to link a file that has lost its
last name. So a free block is renamed, not removed. Its name is a pin in the registry: that of a reference
with no grace period. If this process ends, the janitor removes the pin at once, and so do the janitors of
older versions of this library. No record and no listing tells of a free block.

**No process can see new data in an old block.** `platform.exclusive` asks the kernel whether any other open
file description leads to the file. Descriptions that only a mapping holds count. So it tells of attachments,
of closed attachments with views, of attachments that workers keep, and of programs without this library. It
is asked when a block becomes free, and again when the block is taken. A reference in flight is a second name
of the file, with which the block does not become free at all. A forked child shares the descriptions of its
parent. So each fork begins a new *generation*, and no block of an older generation is reused. A fork by
native code runs no hooks. A *witness* shows it: a pipe whose writing end every child inherits.

**An attachment by an old name fails.** A process may have looked up the old name just before it was removed,
and may open the file when it is free, or is another block. `platform.set_reused` flags a file for good before
its first name goes, and a process that opens such a file checks that the name still leads to it
(`segment.attach`). A file never gets a name again that a user has given to it: a `Reference` would take one
block for the other. The intents of interrupted writes (see `sharedarray._intents`) belong to a file, so a
file with an intent is not reused.

**Every byte that the maker of a block does not write is zero**, also for `empty`. To clear mapped pages takes
a third of the time of a copy, and other processes can read a new block.

**Memory is given back.** The list has at most `MOST_BYTES`, and at most a quarter of the memory that is free.
A block that was not used for `IDLE` seconds is given back by a thread, which ends when nothing was added for
`IDLE` seconds. All blocks are given back at once if a new block, or a slot of a pool, does not fit otherwise.
The same happens before each fork, together with the end of the thread, and when the interpreter ends.

A finalizer may add a block at any moment, within any other function here. So there is no lock: `dict.pop`
decides which caller gets a block, and two threads that give blocks back do no harm.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import mmap
import os
from collections.abc import Callable, Sequence
from threading import get_ident

import numpy as np

from sharedarray import _greenlets as greenlets, _intents as intents, _registry as registry
from sharedarray._clock import time
from sharedarray._platform import platform

__all__ = [
    "IDLE",
    "MOST_BYTES",
    "FreeBlock",
    "Pages",
    "add",
    "after_fork_in_child",
    "after_fork_in_parent",
    "before_fork",
    "begin_generation",
    "clear",
    "close",
    "discard",
    "generation",
    "has_use",
    "is_current",
    "take",
]

MOST_BYTES = 256 << 20
"""Bytes of all blocks in the list."""

IDLE = 0.5
"""Seconds without use after which a block is given back; up to twice as long if the thread has to wait."""

_SHARE = 4  # the part of the free memory that the list may have: a quarter
_MOST_BLOCKS = 8  # blocks in the list: each has a descriptor, two before Python 3.13, and a map
_MOST_NAMES = 64  # names of one file; a file that has had so many is not reused
_SMALLER, _LARGER = 0.75, 2.0  # the size of a free block over that of the new one: from, to
_REFRESH = 0.25  # seconds after which the memory that this process may take is measured again
_SOON = 0.001  # seconds between two checks of the thread, at least
_STOPPING = 1.0  # seconds that the thread may take to end; some 0.1 ms if the interpreter is free


class FreeBlock:
    """A block that this process has given up.

    Attributes
    ----------
    handle
        Its open file.
    directory
        Where it was.
    pin_file
        The path of its only name.
    size
        Bytes of the file.
    names
        The names that users gave to the file, which it does not get again.
    populated
        Whether its mapping has all pages.
    close
        Closes the handle.
    generation
        The generation in which the block was made, see `generation`.
    mapping
        Its mapping, which has no views; None while it may have some.
    target
        The mapping of the next block, while that is filled.
    since
        When it was last used, in seconds of the monotonic clock.
    """

    __slots__ = (
        "close",
        "directory",
        "generation",
        "handle",
        "mapping",
        "names",
        "pin_file",
        "populated",
        "since",
        "size",
        "target",
    )

    def __init__(
        self,
        handle: int,
        directory: str,
        size: int,
        inode: int,
        names: frozenset[str],
        generation: int,
        populated: bool,
        close: Callable[[int], None],
    ) -> None:
        self.handle = handle
        self.directory = directory
        self.pin_file = registry.pin_path(directory, registry.free_pin(inode))
        self.size = size
        self.names = names
        self.generation = generation
        self.populated = populated
        self.close = close
        self.mapping: mmap.mmap | None = None
        self.target: mmap.mmap | None = None
        self.since = 0.0

    def free(self) -> None:
        """Give back the memory of a block that is not in the list any more."""
        self.done()
        mapping, self.mapping = self.mapping, None
        if _state.pid == os.getpid():  # else the block is that of a parent which has forked by native code
            with contextlib.suppress(OSError):  # then the janitor removes it
                platform.remove(self.pin_file)
        if mapping is not None:
            with contextlib.suppress(BufferError):
                mmap.mmap.close(mapping)
        self.close(self.handle)

    def done(self) -> None:
        """End the use of a block that was taken: the new block is filled."""
        self.target = None
        _state.taken.pop(id(self), None)


class _State:
    """Everything that this process knows of free blocks; reset in a forked child."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.blocks: dict[int, FreeBlock] = {}  # by `id`
        self.taken: dict[int, FreeBlock] = {}  # by `id`: blocks that threads are filling
        self.forks = next(_numbers)
        self.witness: tuple[int, int] | None = None
        self.witness_lock = _thread.allocate_lock()  # of `witness`; no thread waits for it
        self.watcher: _Watcher | None = None
        self.ended = False
        self.last_added = 0.0  # when a block was added last
        self.added = 0  # blocks since a block was made that could have used their pages
        self.checked = float("-inf")
        self.free_memory: int | None = None


class _Watcher:
    """The thread that gives idle blocks back."""

    def __init__(self) -> None:
        allocate = greenlets.original("_thread", "allocate_lock") or _thread.allocate_lock
        self.wake = allocate()
        self.wake.acquire()
        self.stopping = False
        self.ident = self.native = 0

    def run(self) -> None:
        """Wait until blocks are idle, for as long as there are any."""
        self.native, self.ident = _thread.get_native_id(), get_ident()
        while not self.stopping:
            due = _give_back_idle()
            if due is None:
                if _state.watcher is self:
                    _state.watcher = None
                if not _state.blocks or _state.watcher is not None:
                    return
                _state.watcher = self  # a block was added just before
            else:
                self.wake.acquire(timeout=max(due, _SOON))

    def stop(self) -> None:
        """End the thread, and wait for its end, so that a fork copies no thread."""
        self.stopping = True
        with contextlib.suppress(RuntimeError):  # it was woken already
            self.wake.release()
        if self.ident == get_ident():
            return
        deadline = time.monotonic() + _STOPPING
        while (not self.native or platform.thread_runs(self.native)) and time.monotonic() < deadline:
            time.sleep(0.0001)


_numbers = itertools.count()  # of generations
_state = _State()


# -- generations ----------------------------------------------------------------------------------------


def generation() -> int:
    """Return the generation of a block that is about to be made; -1 if the block is not reused later."""
    state = _state
    if not platform.REUSES_PAGES or state.ended or state.pid != os.getpid() or not greenlets.real_threads():
        return -1
    if state.witness is None and not _make_witness(state):
        return -1
    state.added = 0
    return state.forks


def _make_witness(state: _State) -> bool:
    """Make the witness; return False if there can be none now."""
    if not state.witness_lock.acquire(blocking=False):
        return False
    try:
        if state.witness is None:
            state.witness = platform.fork_witness()
    except OSError:
        return False
    finally:
        state.witness_lock.release()
    return True


def is_current(generation: int) -> bool:
    """Return whether a block of this generation may be reused, as far as the hooks of forks tell."""
    state = _state
    return generation == state.forks and state.pid == os.getpid() and not state.ended


def has_use(generation: int) -> bool:
    """Return whether to keep a block of this generation: it is not one of many that are dropped at once."""
    return is_current(generation) and _state.added < _MOST_BLOCKS


def _is_unshared(block: FreeBlock) -> bool:
    """Return whether no child was forked since the block was made, not even by native code."""
    state = _state
    if not is_current(block.generation):
        return False
    if not state.witness_lock.acquire(blocking=False):
        return False
    try:
        # The next witness is made before this one is closed, so that no fork in between goes unnoticed.
        witness, state.witness = state.witness, platform.fork_witness()
        alone = witness is not None and platform.unwitnessed(witness)
    except OSError:
        return False
    finally:
        state.witness_lock.release()
    if not alone:
        begin_generation()
    return alone


def before_fork() -> None:
    """Give everything back, and end the thread."""
    clear()
    watcher, _state.watcher = _state.watcher, None
    if watcher is not None:
        watcher.stop()


def begin_generation() -> None:
    """Reuse no block of this moment: a child may share them. Called before a fork, or when one is noticed."""
    _state.forks = next(_numbers)


def after_fork_in_parent() -> None:
    """Give back what other threads have added in between."""
    clear()


def after_fork_in_child() -> None:
    """Drop the parent's blocks, whose handles the caller closes, and leave their names alone."""
    global _state
    before, _state = _state, _State()
    for block in (*before.blocks.values(), *before.taken.values()):
        if block.mapping is not None:
            mmap.mmap.close(block.mapping)
        if (
            block.target is not None
        ):  # the child has a copy of the frame of the thread that fills it, with views
            platform.detach(block.target, block.handle)
    for handle in before.witness or ():
        platform.close(handle)


# -- blocks come and go ---------------------------------------------------------------------------------


def add(block: FreeBlock, mapping: mmap.mmap | None = None) -> bool:
    """Put a block into the list; return False if it was given back instead.

    Parameters
    ----------
    block
        A block, which may be in the list already, as closed.
    mapping
        Its mapping, which has no views any more; None if the block is closed and may have views.
    """
    if block.since and _state.blocks.pop(id(block), None) is None:
        return False  # it was closed for too long
    block.mapping = mapping
    block.since = _state.last_added = time.monotonic()
    _state.added += 1
    try:
        kept = _is_exclusive(block) and _is_unshared(block) and not _has_intents(block) and _fits(block)
    except BaseException:
        block.free()
        raise
    if not kept:
        block.free()
        return False
    _state.blocks[id(block)] = block
    if _state.watcher is None and not _start():
        discard(block)
        return False
    return True


def discard(block: FreeBlock) -> None:
    """Give a block back if it is in the list."""
    if _state.blocks.pop(id(block), None) is not None:
        block.free()


def clear() -> bool:
    """Give everything back; return whether there was anything."""
    found = list(_state.blocks.values())
    for block in found:
        discard(block)
    return bool(found)


def close() -> None:
    """Give everything back, for good: the interpreter ends."""
    _state.ended = True
    before_fork()


def _is_exclusive(block: FreeBlock) -> bool:
    """Return whether nothing but the list has the memory of a block, in any process."""
    try:
        return platform.status(block.handle).links == 1 and platform.exclusive(block.handle)
    except OSError:
        return False


def _has_intents(block: FreeBlock) -> bool:
    try:
        return intents.has_intents(registry.registry_of(block.directory), block.handle)
    except OSError:
        return True  # not known: it may have some


def take(directory: str, size: int, name: str | None) -> FreeBlock | None:
    """Return a block whose file and pages a new block gets; None if no block suits.

    The file has this size then. The caller calls its `done` when the new block is filled, or its `free`.
    """
    if not _state.blocks:
        return None
    found = [block for block in list(_state.blocks.values()) if _suits(block, directory, size, name)]
    # The smallest that is large enough, else the largest.
    found.sort(key=lambda block: (block.size < size, abs(block.size - size)))
    for block in found:
        if _state.blocks.pop(id(block), None) is None:  # another thread has taken it, or given it back
            continue
        _state.taken[id(block)] = block
        try:
            if _is_exclusive(block) and _resized(block, size):
                return block
        except BaseException:
            block.free()
            raise
        block.free()
    return None


def _resized(block: FreeBlock, size: int) -> bool:
    """Give the file of a block another size; return False if there is no memory for that."""
    try:
        if platform.status(block.handle).size != block.size:
            return False  # another program has cut it off
        if block.size != size:
            platform.resize(block.handle, size)
        if block.size < size:
            platform.reserve(block.handle, size, block.size)
    except OSError:
        return False
    return True


def _suits(block: FreeBlock, directory: str, size: int, name: str | None) -> bool:
    return (
        block.mapping is not None
        and block.directory == directory
        and is_current(block.generation)
        and block.pin_file.startswith(f"{registry.registry_of(directory)}/")  # of the same user
        and _SMALLER * size <= block.size <= _LARGER * size
        and name not in block.names
    )


def _fits(block: FreeBlock) -> bool:
    """Give other blocks back until this one fits into the list; return False if it cannot."""
    if len(block.names) > _MOST_NAMES:
        return False
    size, most = 0, MOST_BYTES
    if block.mapping is not None:
        size = block.size
        most = min(most, platform.free_bytes(block.directory, memory=True) // _SHARE)
        free = _free_memory()
        if free is not None:
            most = min(most, free // _SHARE)
    if size > most:
        return False
    while True:
        others = list(_state.blocks.values())
        taken = sum(other.size for other in others if other.mapping is not None)
        if len(others) < _MOST_BLOCKS and taken + size <= most:
            return True
        discard(min(others, key=lambda other: other.since))


def _free_memory() -> int | None:
    now = time.monotonic()
    if now - _state.checked > _REFRESH:
        _state.free_memory = platform.free_memory()
        _state.checked = now
    return _state.free_memory


def _start() -> bool:
    """Start the thread; return False if there can be none."""
    watcher = _state.watcher = _Watcher()
    try:
        greenlets.start_thread(watcher.run)
    except RuntimeError:
        if _state.watcher is watcher:
            _state.watcher = None
        return False
    return True


def _give_back_idle() -> float | None:
    """Give idle blocks back; return the seconds until the next check, None if nothing was added for long."""
    now = time.monotonic()
    # The time of the last addition counts too: the thread stays for a loop that takes each block at once.
    oldest = _state.last_added
    for block in list(_state.blocks.values()):
        if now - block.since >= IDLE:
            discard(block)
        else:
            oldest = min(oldest, block.since)
    due = oldest + IDLE - now
    return due if due > 0 or _state.blocks else None


# -- filling --------------------------------------------------------------------------------------------


class Pages:
    """The bytes of a block that is made from a free block.

    `write` fills them; `clear_to` clears the bytes that were not written.

    Parameters
    ----------
    block
        The free block; it has no mapping any more then.
    mapping
        The new block's mapping of the same file.
    """

    def __init__(self, block: FreeBlock, mapping: mmap.mmap) -> None:
        block.target = mapping
        source = block.mapping
        assert source is not None  # or `take` would not have given it
        moved = platform.move_pages(source, mapping, block.handle, min(block.size, len(mapping)))
        mmap.mmap.close(source)
        block.mapping = None
        if not (moved and block.populated and block.size >= len(mapping)):
            platform.populate(mapping)
        self._bytes = np.frombuffer(mapping, np.uint8)
        self._end = 0  # all before it is written or clear

    def write(self, handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
        """Copy buffers to an offset and behind it, as `platform.write` does."""
        for buffer in buffers:
            if len(buffer):
                end = offset + len(buffer)
                self.clear_to(offset)
                np.copyto(self._bytes[offset:end], np.frombuffer(buffer, np.uint8))
                self._end = max(self._end, end)
                offset = end

    def clear_to(self, end: int) -> None:
        """Clear all bytes before this one that were not written."""
        if end > self._end:
            self._bytes[self._end : end] = 0
            self._end = end
