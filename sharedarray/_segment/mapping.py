"""Attachments: mapped bytes, their leases, and what a fork does with them."""

from __future__ import annotations

import atexit
import mmap
import threading
import weakref
from collections.abc import Callable
from sys import getrefcount
from typing import Any, Protocol, TypeVar

from sharedarray import (
    _damage as damage,
    _errors as errors,
    _forks as forks,
    _freelist as freelist,
    _intents as intents,
    _janitor as janitor,
    _registry as registry,
    _requirements as requirements,
    _sigint as sigint,
)
from sharedarray._platform import Mode, platform
from sharedarray._sizes import exact

_T = TypeVar("_T")


guard = threading.RLock()  # held while a handle comes or goes, and across every fork
# All open handles of blocks. The value is None while the attachment is being made or released.
handles: dict[int, weakref.ref[Mapping] | None] = {}
_child_leases: dict[int, int] = {}  # during a fork: by handle, the handle with the child's own lease


def guarded_open(mapping: Mapping) -> int:
    """Return one more handle on a block, without a lease, to lock its bytes; a forked child closes it.

    Raises
    ------
    BlockClosedError
        It was closed already.
    BlockNotFoundError
        It is a file, and its path leads elsewhere by now.
    """

    def again(handle: int) -> int:
        return platform.open_to_lock(mapping.path if handle < 0 else handle)

    try:
        handle = guarded(lambda: with_handle(mapping, again))
    except FileNotFoundError:
        if mapping.directory is not None:
            requirements.check(mapping.directory)
        raise _replaced(mapping, "nothing") from None
    status = platform.status(handle)
    if (status.device, status.inode) != (mapping.device, mapping.inode):
        guarded_close(handle)
        raise _replaced(mapping, "another file")
    return handle


def guarded_open_file(file: str | int) -> int:
    """Return a handle for locks on the file with this path or descriptor; a forked child closes it."""
    return guarded(lambda: platform.open_to_lock(file))


def _replaced(mapping: Mapping, found: str) -> errors.BlockNotFoundError:
    return errors.BlockNotFoundError(
        f"{mapping.path} does not lead to the file that was opened any more",
        name=mapping.name,
        found=f"{found} at that path",
        cause="the file was moved or replaced",
        next_step="open it again",
    )


def with_handle(mapping: Mapping, use: Callable[[int], _T]) -> _T:
    """Use the handle of an attached block, -1 for a file, while no other thread can close it.

    Raises
    ------
    BlockClosedError
        It was closed already.
    """
    with guard:
        if mapping.released:
            raise errors.BlockClosedError(
                f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
            )
        return use(mapping.handle)


def guarded(opener: Callable[[], int]) -> int:
    """Call a function that opens a handle. A forked child closes it, even if a thread forks meanwhile."""
    with guard:
        handle = opener()
        handles[handle] = None
    return handle


def guarded_close(handle: int, close: Callable[[int], None] = platform.close) -> None:
    """Close a handle that `guarded` has opened, in the process that opened it."""
    with guard:
        handles.pop(handle, None)
        close(handle)


def _before_fork() -> None:
    with sigint.deferred:
        freelist.before_fork()  # first, because its thread takes all of these locks to free memory
    janitor.before_fork()  # before `guard`, which a holder of these locks may take
    intents.before_fork()
    guard.acquire()
    freelist.begin_generation()
    for handle, reference in handles.copy().items():  # the garbage collector may drop one meanwhile
        mapping = None if reference is None else reference()
        if mapping is not None and (not mapping.lease_dropped or mapping.without_lease):
            try:
                if not mapping.lease_apart:
                    platform.hold_apart(handle)
                    mapping.lease_apart = True
                    mapping.lease_dropped = False
                _child_leases[handle] = platform.hold_again(handle)
            except OSError:
                continue  # no descriptor is free: in the child this block counts as closed


def _after_fork_in_parent() -> None:
    for handle in _child_leases.values():
        platform.close(handle)
    _child_leases.clear()
    guard.release()
    intents.after_fork_in_parent()
    janitor.after_fork_in_parent()
    freelist.after_fork_in_parent()


def _after_fork_in_child() -> None:
    freelist.after_fork_in_child()
    janitor.after_fork_in_child()
    intents.after_fork_in_child()
    inherited = dict(handles)
    handles.clear()
    for handle, reference in inherited.items():
        mapping = None if reference is None else reference()
        own = _child_leases.pop(handle, None)
        if mapping is not None and own is not None:
            mapping.handle = own
            mapping.lease_dropped = mapping.without_lease = False
            handles[own] = reference
        elif mapping is not None:
            mapping.released = True
            mapping.handle = -1
        elif own is not None:  # its last view has gone since
            platform.close(own)
        platform.close(handle)
    _child_leases.clear()
    guard.release()


def release_all() -> None:
    """Give up every lease at the interpreter's end, so that the janitor need not remove the blocks later."""
    for reference in handles.copy().values():
        mapping = None if reference is None else reference()
        if mapping is not None:
            try:
                mapping.release()
            except OSError as error:  # the others are released all the same
                damage.report(mapping.path, str(error), "it could not be given up in order")


forks.around(__name__, before=_before_fork, in_parent=_after_fork_in_parent, in_child=_after_fork_in_child)
# The interpreter calls the last of these first.
atexit.register(janitor.close_connections)
atexit.register(janitor.sweep_unwatched)
atexit.register(release_all)
atexit.register(freelist.close)


# Functions that are called with each attachment whose lease is given up, at any moment and in any thread.
on_release: list[Callable[[Mapping], None]] = []


class Follower(Protocol):
    """An object that acts when the lease of an attachment is given up."""

    def on_release(self, mapping: Mapping) -> None:
        """Act on the release, in the thread that releases."""


class Mapping(mmap.mmap):
    """The mapped bytes of one attachment, and its lease.

    Attributes
    ----------
    name : str
        The block's name; the path of a file that is no block.
    directory : str or None
        Where the block is; None for a file opened by path, which has no lease and is never removed.
    device, inode : int
        The block's identity.
    handle : int
        The open block that carries the lease, -1 without one.
    mode : {'r', 'r+', 'c'}
        How it is mapped.
    released : bool
        Whether the lease is given up. The bytes stay mapped until the last view of them goes.
    writable_handle : bool
        Whether the handle allows to find out if this is the last lease.
    address : int
        Address of the first byte in this process; 0 until `sharedarray._array.memory` has asked for it.
    lease_apart : bool
        Whether the lease is on another handle than the mapped one. After a fork it must be: the child's
        mapping keeps the mapped handle open, and with it a lease there, also when the parent is killed.
    lease_dropped, without_lease : bool
        Whether there is no lease for the time being; and whether the bytes are used nevertheless, because
        another process is sure to have one. See `drop_lease` and `use_without_lease`.
    grips : tuple of weak references
        To the arrays of all bytes that arrived references are views of; see `sharedarray._grips`.
    generation : int
        The free list's generation in which the block was made, if its pages can be used again; else -1.
    given_names : frozenset of str
        The names that users have given to the file.
    populated : bool
        Whether this process has written all pages through the mapping, and so needs no faults for them.
    free : freelist.FreeBlock or None
        The block, once this process has given it up, if its pages can be used again.
    plain : bool
        Whether arrays on the bytes are sent as data, as arrays on any other memory are.
    followers : dict or None
        Weak references to objects, by id, whose method ``on_release`` is called with the mapping when the
        lease is given up, at any moment and in any thread; see `follow`.
    """

    name: str
    directory: str | None
    device: int
    inode: int
    handle: int
    mode: Mode
    released: bool = True
    writable_handle: bool = True
    address: int = 0
    lease_apart: bool = False
    lease_dropped: bool = False
    without_lease: bool = False
    generation: int = -1
    given_names: frozenset[str] = frozenset()
    populated: bool = False
    free: freelist.FreeBlock | None = None
    plain: bool = False
    grips: tuple[weakref.ref[Any], ...] = ()
    followers: dict[int, weakref.ref[Follower]] | None = None

    @property
    def path(self) -> str:
        """Path of the block or file."""
        return self.name if self.directory is None else registry.path_of(self.directory, self.name)

    def release(self) -> None:
        """Give up the lease, and remove the block if it was the last one on it. Idempotent."""
        if not self.released:
            with sigint.deferred:
                self._release()
                block = self.free
                if block is not None and not block.since and not freelist.add(block):
                    self.free = None

    def _release(self) -> None:
        with guard:
            if self.released:  # by another thread, just now
                return
            self.released = True
            handle = self.handle
            self.handle = -1
            if handles.get(handle) is None:  # or it is a parent's, and was closed in this child
                handle = -1
            else:
                handles[handle] = None
        if handle >= 0:
            self._give_up(handle)
        for callback in on_release:
            callback(self)
        if self.followers:
            for reference in list(self.followers.values()):  # other threads may add some meanwhile
                follower = reference()
                if follower is not None:
                    follower.on_release(self)

    def _give_up(self, handle: int) -> None:
        try:
            last = not self.lease_dropped and platform.drop_lease(handle)
            if last and self.writable_handle and self.directory is not None and platform.alone(handle):
                reusable = freelist.has_use(self.generation) and platform.is_memory(handle)
                # A block that has got versions is longer than it was.
                if not (reusable and platform.status(handle).size == len(self)):
                    registry.remove_if_unheld(self.directory, self.name, handle, self.inode)
                else:
                    self._move_to_free_list(handle, self.directory)
                platform.release(handle)
        finally:
            if self.free is None:
                guarded_close(handle)

    def _move_to_free_list(self, handle: int, directory: str) -> None:
        block = freelist.FreeBlock(
            handle,
            directory,
            len(self),
            self.inode,
            self.given_names,
            self.generation,
            self.populated,
            guarded_close,
        )
        if registry.remove_if_unheld(directory, self.name, handle, self.inode, pin_name=block.pin_file):
            self.free = block

    def close(self) -> None:
        """Raise `BufferError`: the bytes are unmapped with their last view."""
        raise BufferError("the mapping of a shared block is freed with the last view of it")

    def resize(self, newsize: int) -> None:
        """Raise `BufferError`: other processes have the block mapped at its size."""
        raise BufferError(f"a shared block keeps its size of {exact(len(self))}")

    @sigint.finalizer
    def __del__(self) -> None:
        # A mapping that was never finished has no handle, and neither has a class torn down at exit.
        if not self.released or self.free is not None:
            sigint.finalize(self._end)

    def _end(self) -> None:
        if not self.released:
            self._release()
        block, self.free = self.free, None
        if block is not None:
            if getrefcount(self) <= _ALONE:
                if freelist.add(block, self):
                    return  # the list has a reference to this mapping now
            elif block.since:
                freelist.discard(block)
            else:
                block.free()
        # Unmapping may take long. It is done here, where Ctrl-C is deferred, rather than after the finalizer.
        # If a reference cycle or another thread still has a view, the view exports the bytes, so `close`
        # refuses.
        if getrefcount(self) <= _ALONE:
            try:
                mmap.mmap.close(self)
            except BufferError:
                pass


def _count_alone() -> int:
    """Return how many references a finalizer such as that of `Mapping` counts if there is no other one."""
    found = []

    class Ending:
        def __del__(self) -> None:
            sigint.finalize(self._end)

        def _end(self) -> None:
            found.append(getrefcount(self))

    Ending()
    return found[0]


_ALONE = _count_alone()


def follow(mapping: Mapping, follower: Follower) -> None:
    """Call `follower.on_release` when the lease of an attachment is given up, if the follower still lives."""
    followers = mapping.followers
    if followers is None:
        followers = mapping.__dict__.setdefault("followers", {})  # in one step, beside other threads
    known = followers.get(id(follower))
    if known is not None and known() is follower:
        return
    for key, reference in list(followers.items()):
        if reference() is None:
            followers.pop(key, None)
    followers[id(follower)] = weakref.ref(follower)
    if mapping.released:  # by another thread, before it could know of this one
        follower.on_release(mapping)


def drop_lease(mapping: Mapping) -> bool:
    """Give up the lease of an attachment, and keep its bytes and handle. The last holder removes the block.

    Return False if no other process holds the block; the caller then releases the attachment.
    """
    mapping.without_lease = False
    if mapping.lease_dropped:
        return True
    with guard:
        if mapping.handle >= 0 and not mapping.released and not mapping.lease_dropped:
            if platform.drop_lease(mapping.handle):
                return False
            mapping.lease_dropped = True
    return True


def use_without_lease(mapping: Mapping) -> bool:
    """Use an attachment while another process is sure to have a lease; return False if it was released.

    The user calls `drop_lease` or `retake_lease` before the other process may give up its lease.
    """
    mapping.without_lease = True
    return not mapping.released


def retake_lease(mapping: Mapping) -> bool:
    """Take a lease again; return False if the block was removed meanwhile."""
    with guard:
        if mapping.released:
            return False
        mapping.without_lease = False
        if mapping.lease_dropped:
            platform.hold(mapping.handle)
            mapping.lease_dropped = False
            return platform.status(mapping.handle).links > 0
        return True


def mapping_of(view: object) -> Mapping | None:
    """Return the attachment that an array or memoryview has its memory from, None if it is not in a block."""
    found: Any = view
    try:
        while found is not None:
            kind = type(found)
            if kind is Mapping:
                return found  # type: ignore[no-any-return]
            found = found.obj if kind is memoryview else found.base
    except AttributeError:
        pass  # other memory, such as a bytes object
    return None


def has_name(mapping: Mapping) -> bool:
    """Return whether a block's name leads to it. If it was unlinked, only its data can be sent."""
    return mapping.directory is None or platform.inode_of(mapping.path) == mapping.inode


def finish(
    handle: int,
    size: int,
    mode: Mode,
    name: str,
    directory: str | None,
    device: int,
    inode: int,
    mapping: Mapping | None = None,
) -> Mapping:
    """Map an open block or file, unless it is mapped already, and set the mapping's attributes."""
    if mapping is None:
        mapping = platform.map(Mapping, handle, size, mode)  # type: ignore[assignment]
        assert mapping is not None
    mapping.name = name
    mapping.directory = directory
    mapping.device = device
    mapping.inode = inode
    mapping.mode = mode
    if directory is None:
        mapping.handle = -1
    else:
        mapping.handle = handle
        handles[handle] = weakref.ref(mapping)
    mapping.released = False
    return mapping
