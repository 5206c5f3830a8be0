"""Named bytes with a lease: the block without any idea of arrays.

`Mapping` is one attachment: the mapped bytes, the handle that carries the lease, and what is needed to
give it up. It subclasses `mmap.mmap` so that everything made from its bytes, memoryviews and arrays alike,
keeps it alive and leads back to it. `Segment` is its public face. The two are apart because a reference
from the mapping to its segment and back would be a cycle, and a block must be freed when its last view
goes, not when the garbage collector comes round.

How a block is made (`create`)::

    draft ─▶ write or reserve ─▶ lease ─▶ record ─▶ janitor ─▶ publish ─▶ map
    free block ─▶ map ─▶ write or clear ─▶ lease ─▶ record ─▶ janitor ─▶ publish

and left (`Mapping.leave`, by `close()`, the last view's end, or the interpreter's exit)::

    release ─▶ held? ─▶ (alone? ─▶ registry.depart: record? leaving ─▶ inode? ─▶ remove ─▶ release)
    ─▶ close the handle, or keep it with the pages for the next block (`freelist`)

The lease is released before the question whether another process has one. Of two that leave at once, the one
that asks last finds no holder, so the block goes; and the many leavers that are not the last make two calls.

What this process holds is in `_handles`. A fork gives the child a lease of its own on every block
(`hold_again`, before the fork, so that there is no gap), and the child closes what it inherited.
"""

from __future__ import annotations

import atexit
import errno
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import index
from sys import getrefcount
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from sharedarray import (
    _damage as damage,
    _errors as errors,
    _freelist as freelist,
    _hints as hints,
    _intents as intents,
    _interrupts as interrupts,
    _janitor as janitor,
    _registry as registry,
    _requirements as requirements,
)
from sharedarray._clock import check_timeout, time
from sharedarray._platform import Draft, Mode, platform
from sharedarray._progress import IN_BYTES, NO_BAR, Bar, Progress, bar, silent
from sharedarray._sizes import exact
from sharedarray._thresholds import BAR_FROM, FREE_CHECKED_FROM, REUSED_FROM

__all__ = ["Mapping", "Segment", "attach", "create", "exists", "mapping_of", "unlink"]

_T = TypeVar("_T")

_STEP = 1 << 26  # bytes between two looks at a bar
_FORBIDDEN = frozenset("/\\\0")
_MODES = ("r+", "r", "c")
_OTHER_KINDS = frozenset(  # how opening something that is no regular file can fail
    (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOTDIR, errno.ENXIO)
)
_CHANCE = "sa_"  # what names of chance begin with
_NAME_TRIES = 100  # names of chance until we give up
# Seconds between two attempts to attach to a name that does not exist yet: an attempt takes some 10 us.
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.05
EMPTY = "an empty file"  # what an error says to have found where a block has no bytes


# -- names ----------------------------------------------------------------------------------------------


@lru_cache(1024)
def check_name(name: str) -> str:
    """Return the name if it can be a block's.

    Raises
    ------
    InvalidNameError
        It is not one plain path component of at most `platform.NAME_LIMIT` bytes that starts without a dot.
    """
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    problem = None
    if not name:
        problem = "an empty name"
    elif name[0] == ".":
        problem = "a name that starts with a dot"
    elif not _FORBIDDEN.isdisjoint(name):
        problem = "a name with a path separator or NUL"
    elif not name.isprintable():
        problem = "a name with control characters or lone surrogates"
    elif not name.isascii() or len(name) > platform.NAME_LIMIT:
        length = len(name.encode())
        if length > platform.NAME_LIMIT:
            problem = f"a name of {length} bytes"
    problem = problem or platform.name_problem(name)
    if problem is not None:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise errors.InvalidNameError(
            f"{shown!r} cannot be the name of a block",
            name=name,
            found=problem,
            expected=f"one path component of 1 to {platform.NAME_LIMIT} bytes that does not start with a dot",
            next_step=_for_a_path(name),
        )
    return name


def _for_a_path(name: str) -> str:
    """Return what to write in the place of a name that cannot be a block's."""
    directory, block = os.path.split(name)
    if block and directory and os.path.abspath(directory) == registry.directory():
        return f"give the block's name alone, {block!r}"
    return "for an .npy file at a path use sharedarray.open(path) or file=path"


def _chance_name() -> str:
    return f"{_CHANCE}{os.urandom(6).hex()}"


# -- what this process holds ----------------------------------------------------------------------------

_guard = threading.RLock()  # held while a handle comes or goes, and across every fork
_handles: dict[int, weakref.ref[Mapping] | None] = {}  # None: in the making, or on its way out
_child_leases: dict[int, int] = {}


def _open(opener: Callable[[], int]) -> int:
    """Open a handle such that a fork in another thread cannot miss it."""
    with _guard:
        handle = opener()
        _handles[handle] = None
    return handle


def _close(handle: int) -> None:
    with _guard:
        _handles.pop(handle, None)
        platform.close(handle)


def guarded_open(mapping: Mapping) -> int:
    """One more handle on what is attached, without a lease, to lock it by; a forked child closes it.

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
        handle = _open(lambda: with_handle(mapping, again))
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
    """A handle to lock a file by, of what has this path or descriptor; a forked child closes it."""
    return _open(lambda: platform.open_to_lock(file))


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
    with _guard:
        if mapping.left:
            raise errors.BlockClosedError(
                f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
            )
        return use(mapping.handle)


def guarded(opener: Callable[[], int]) -> int:
    """Call what opens a handle. A forked child closes it, also if another thread forks meanwhile."""
    return _open(opener)


def guarded_close(handle: int, close: Callable[[int], None] = platform.close) -> None:
    """Close such a handle, in the process that opened it."""
    with _guard:
        _handles.pop(handle, None)
        close(handle)


def _before_fork() -> None:
    with interrupts.deferred:
        freelist.before_fork()  # whose thread may want all locks, to give memory back
    janitor.before_fork()  # these locks first: their holder may still want ours, to drop a mapping
    intents.before_fork()
    _guard.acquire()
    freelist.begin_generation()
    for handle, reference in _handles.copy().items():  # a collection may drop one meanwhile
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
    _guard.release()
    intents.after_fork_in_parent()
    janitor.after_fork_in_parent()
    freelist.after_fork_in_parent()


def _after_fork_in_child() -> None:
    freelist.after_fork_in_child()
    janitor.after_fork_in_child()
    intents.after_fork_in_child()
    inherited = dict(_handles)
    _handles.clear()
    for handle, reference in inherited.items():
        mapping = None if reference is None else reference()
        own = _child_leases.pop(handle, None)
        if mapping is not None and own is not None:
            mapping.handle = own
            mapping.lease_dropped = mapping.without_lease = False
            _handles[own] = reference
        elif mapping is not None:
            mapping.left = True
            mapping.handle = -1
        platform.close(handle)
    _child_leases.clear()
    _guard.release()


def leave_all() -> None:
    """Give up every lease: at the interpreter's end, so that blocks go now and not when we are missed."""
    for reference in _handles.copy().values():
        mapping = None if reference is None else reference()
        if mapping is not None:
            try:
                mapping.leave()
            except OSError as error:  # the others are left all the same
                damage.report(mapping.path, str(error), "it could not be given up in order")


platform.around_fork(_before_fork, _after_fork_in_parent, _after_fork_in_child)
# The interpreter calls the last of these first.
atexit.register(janitor.close_connections)
atexit.register(janitor.sweep_unwatched)
atexit.register(leave_all)
atexit.register(freelist.close)


# -- one attachment -------------------------------------------------------------------------------------


# Called with every attachment whose lease is given up, at any moment and in any thread.
on_leave: list[Callable[[Mapping], None]] = []


class Follower(Protocol):
    """What wants to know when a lease is given up."""

    def left(self, mapping: Mapping) -> None:
        """Hear of it."""


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
    left : bool
        Whether the lease is given up. The bytes stay mapped until the last view of them goes.
    writable_handle : bool
        Whether the handle allows to find out if this is the last lease.
    address : int
        Where the bytes are in this process, 0 until it was asked for.
    lease_apart : bool
        Whether the handle is another than the one that was mapped, which a forked child's mapping keeps
        alive, and with it the lease of a parent that is killed.
    lease_dropped, without_lease : bool
        Whether there is no lease for the time being; and whether the bytes are used all the same, while
        another process has one. See `drop_lease` and `use_without_lease`.
    grips : tuple of weak references
        To what the arrays that arrived as references have their bytes from; see `sharedarray._reference`.
    generation : int
        That of the free list in which the block was made, if its pages can be used again; else -1.
    given_names : frozenset of str
        The names that users have given to the file.
    populated : bool
        Whether this process has written all pages through the mapping, and so needs no faults for them.
    free : freelist.FreeBlock or None
        The block, once this process has given it up, if its pages can be used again.
    plain : bool
        Whether arrays over the bytes travel as data, as those over any other memory do.
    followers : dict or None
        Weak references to objects, by id, whose method ``left`` is called with the mapping when the lease is
        given up, at any moment and in any thread; see `follow`.
    """

    name: str
    directory: str | None
    device: int
    inode: int
    handle: int
    mode: Mode
    left: bool = True
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

    def leave(self) -> None:
        """Give up the lease, and remove the block if it was the last one on it. Idempotent."""
        if not self.left:
            with interrupts.deferred:
                self._leave()
                block = self.free
                if block is not None and not block.since and not freelist.add(block):
                    self.free = None

    def _leave(self) -> None:
        with _guard:
            if self.left:  # by another thread, just now
                return
            self.left = True
            handle = self.handle
            if handle >= 0:
                self.handle = -1
                _handles[handle] = None
        if handle >= 0:
            self._give_up(handle)
        for hear in on_leave:
            hear(self)
        if self.followers:
            for reference in list(self.followers.values()):  # other threads may add some meanwhile
                follower = reference()
                if follower is not None:
                    follower.left(self)

    def _give_up(self, handle: int) -> None:
        try:
            last = not self.lease_dropped and platform.leave(handle)
            if last and self.writable_handle and self.directory is not None and platform.alone(handle):
                reusable = freelist.has_use(self.generation) and platform.is_memory(handle)
                # A block that has got versions is longer than it was.
                if not (reusable and platform.status(handle).size == len(self)):
                    registry.depart(self.directory, self.name, handle, self.inode)
                else:
                    self._depart_to_free_list(handle, self.directory)
                platform.release(handle)
        finally:
            if self.free is None:
                _close(handle)

    def _depart_to_free_list(self, handle: int, directory: str) -> None:
        block = freelist.FreeBlock(
            handle,
            directory,
            len(self),
            self.inode,
            self.given_names,
            self.generation,
            self.populated,
            _close,
        )
        if registry.depart(directory, self.name, handle, self.inode, token=block.token):
            self.free = block

    def close(self) -> None:
        """Refused: the bytes go with their last view."""
        raise BufferError("the mapping of a shared block is freed with the last view of it")

    def resize(self, newsize: int) -> None:
        """Refused: other processes have the block mapped at its size."""
        raise BufferError(f"a shared block keeps its size of {exact(len(self))}")

    @interrupts.finalizer
    def __del__(self) -> None:
        # A mapping that was never finished has no handle, and neither has a class torn down at exit.
        if not self.left or self.free is not None:
            interrupts.finalize(self._end)

    def _end(self) -> None:
        if not self.left:
            self._leave()
        block, self.free = self.free, None
        if block is not None:
            if getrefcount(self) <= _ALONE:
                if freelist.add(block, self):
                    return  # which has it now: it lives on
            elif block.since:
                freelist.discard(block)
            else:
                block.free()
        # The pages are best freed here, which may take long, not right after the finalizer, as they are
        # otherwise. The number of references saves no more than that: every view exports the bytes, so
        # `close` refuses while the rest of a reference cycle, or a thread that was just faster, has one.
        if getrefcount(self) <= _ALONE:
            try:
                mmap.mmap.close(self)
            except BufferError:
                pass


class _Ending:
    """Counts references to itself as `Mapping` does in its finalizer, if there are no others."""

    alone = 0

    def __del__(self) -> None:
        interrupts.finalize(self._end)

    def _end(self) -> None:
        _Ending.alone = getrefcount(self)


_Ending()
_ALONE = _Ending.alone


def follow(mapping: Mapping, follower: Follower) -> None:
    """Call a method of an object, while that lives, when the lease of an attachment is given up."""
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
    if mapping.left:  # by another thread, before it could know of this one
        follower.left(mapping)


def drop_lease(mapping: Mapping) -> bool:
    """Give up the lease of an attachment, whose bytes and handle stay: other holders may free the block.

    Return False if nothing else holds the block; the caller then releases the attachment.
    """
    mapping.without_lease = False
    if mapping.lease_dropped:
        return True
    with _guard:
        if mapping.handle >= 0 and not mapping.left and not mapping.lease_dropped:
            if platform.leave(mapping.handle):
                return False
            mapping.lease_dropped = True
    return True


def use_without_lease(mapping: Mapping) -> bool:
    """Use an attachment while another process is sure to have a lease; return False if it was released.

    The user calls `drop_lease` or `retake_lease` before the other process may give up its lease.
    """
    mapping.without_lease = True
    return not mapping.left


def retake_lease(mapping: Mapping) -> bool:
    """Take a lease again; return False if the block is gone, and the attachment of no use."""
    with _guard:
        if mapping.left:
            return False
        mapping.without_lease = False
        if mapping.lease_dropped:
            platform.hold(mapping.handle)
            mapping.lease_dropped = False
            return platform.status(mapping.handle).links > 0
        return True


def mapping_of(view: object) -> Mapping | None:
    """The attachment that an array or memoryview has its memory from, None when it has other memory."""
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


def _finish(
    handle: int,
    size: int,
    mode: Mode,
    name: str,
    directory: str | None,
    device: int,
    inode: int,
    mapping: Mapping | None = None,
) -> Mapping:
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
        _handles[handle] = weakref.ref(mapping)
    mapping.left = False
    return mapping


# -- making ---------------------------------------------------------------------------------------------

Write: TypeAlias = Callable[[int, Sequence[memoryview]], None]  # bytes, from an offset on
Copy: TypeAlias = Callable[[int, int, Sequence[memoryview]], None]  # the same, to a handle


class _Content:
    """What a new block is filled with, and the bar that shows how far it is.

    Parameters
    ----------
    size, buffers, fill, parts
        As for `create`.
    shown
        The bar.
    """

    def __init__(
        self,
        size: int,
        buffers: Sequence[memoryview],
        fill: Callable[[Write], None] | None,
        shown: Bar,
        parts: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.size = size
        self.parts = parts
        self.pages = size if parts is None else sum(end - start for start, end in parts)
        self._buffers = buffers
        self._fill = fill
        self._shown = shown

    def put(self, handle: int, pages: freelist.Pages | None = None) -> None:
        """Fill a draft: all of its pages are there then, and its first bytes are in place.

        Parameters
        ----------
        handle
            The draft.
        pages
            The bytes of a draft whose pages are there already, and may have other content.
        """
        copy: Copy = platform.write if pages is None else pages.write
        write: Copy = copy if silent(self._shown) else partial(self._write, copy)
        if self.parts is not None:
            platform.reserve_parts(handle, self.size, self.parts)
        if self._fill is not None:
            write(handle, 0, self._buffers)
            self._fill(partial(write, handle))
        elif sum(map(len, self._buffers)) == self.size:
            write(handle, 0, self._buffers)
        else:
            if pages is None and self.parts is None:
                self._reserve(handle)
            copy(handle, 0, self._buffers)
        if pages is not None:
            pages.clear_to(self.size)

    def _reserve(self, handle: int) -> None:
        if silent(self._shown):
            platform.reserve(handle, self.size)
            return
        for start in range(0, self.size, _STEP):
            end = min(start + _STEP, self.size)
            platform.reserve(handle, end, start)
            self._shown.update(end - start)

    def _write(self, copy: Copy, handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            for start in range(0, len(buffer), _STEP):
                piece = buffer[start : start + _STEP]
                copy(handle, offset, [piece])
                offset += len(piece)
                self._shown.update(len(piece))


def create(
    size: int,
    *,
    buffers: Sequence[memoryview] = (),
    fill: Callable[[Write], None] | None = None,
    name: str | None = None,
    persist: bool = False,
    keeper: registry.Process | None = None,
    file: str | os.PathLike[str] | None = None,
    kind: str = "bytes",
    replace: bool = False,
    progress: Progress = None,
    prepare: Callable[[Mapping], None] | None = None,
    parts: Sequence[tuple[int, int]] | None = None,
) -> Mapping:
    """Make a block of exactly `size` bytes and attach to it.

    Parameters
    ----------
    size
        Bytes of the block.
    buffers
        Its first bytes, written one behind the other; what they leave free is zero.
    fill
        Called with what writes bytes into the block, to write all the rest before another process can see it.
    name
        The block's name, a word of chance when None.
    persist
        Whether the block outlives its holders.
    keeper
        A process that keeps the block without holding it, as this process then does too.
    file
        A path, for a file instead of a block.
    kind
        What the bytes are, for the record.
    replace
        Whether a block that has the name already loses it to this one, once this one is whole.
    progress
        Whether to show how far it is, for what takes long; see `sharedarray._progress.bar`.
    prepare
        Called with the attachment when all bytes are there, before the block has its name.
    parts
        The beginnings and ends of those parts of the block whose pages are reserved now; all when None. The
        process that writes into others reserves them first.

    Raises
    ------
    BlockExistsError, InvalidNameError, OutOfSharedMemoryError, NotOursError
        Nothing is left behind.
    """
    if file is not None and (name is not None or persist):
        raise TypeError("file= goes with neither name= nor persist=: a file has its path, and stays")
    directory = registry.directory()
    if file is None:
        registry.warn_of_disk(directory)
    if name is not None:
        if not isinstance(name, str):
            raise hints.not_a_name(name)
        path = registry.path_of(directory, check_name(name))
        # Before the pages are filled, not after; publishing decides again.
        if not replace and platform.inode_of(path) is not None and not freed(directory, name):
            raise _taken(name, directory, kind)
    shown = _bar(progress, size, file or name or "a block")
    content = _Content(size, buffers, fill, shown, parts)
    where = None if file is None else registry.absolute(os.fspath(file))
    try:
        with interrupts.deferred:
            try:
                return _make(directory, content, name, where, kind, persist, keeper, replace, prepare)
            except (errors.OutOfSharedMemoryError, errors.LimitError):
                if not freelist.clear():
                    raise
            return _make(directory, content, name, where, kind, persist, keeper, replace, prepare)
    except OSError as error:
        if file is not None or isinstance(error, errors.SharedArrayError):
            raise
        raise requirements.explained(error, directory) from None
    finally:
        shown.close()


def _bar(progress: Progress, size: int, what: str | os.PathLike[str]) -> Bar:
    if progress is None and size < BAR_FROM:
        return NO_BAR
    return bar(progress, size, desc=f"filling {what}", **IN_BYTES)


def _make(
    directory: str,
    content: _Content,
    name: str | None,
    file: str | None,
    kind: str,
    persist: bool,
    keeper: registry.Process | None,
    replace: bool,
    prepare: Callable[[Mapping], None] | None,
) -> Mapping:
    if file is not None:
        return _create_file(file, content)
    # What persists is a file also where memory is none.
    memory = platform.RECORDS_DECIDE or not persist
    generation = -1
    made = None
    reusable = REUSED_FROM <= content.size <= freelist.MOST_BYTES and content.parts is None
    if reusable and not persist and keeper is None:
        generation = freelist.generation()
        made = _reuse(directory, content, name)
    draft, mapping = made or _make_afresh(directory, content, name, kind=kind, memory=memory, replace=replace)
    if generation >= 0:
        mapping.generation = generation
        if name is not None:
            mapping.given_names |= {name}
    try:
        if prepare is not None:
            prepare(mapping)
        _publish(
            draft, mapping, kind=kind, persist=persist, keeper=keeper, choose=name is None, replace=replace
        )
    except BaseException:
        mapping.leave()
        if draft.scratch:
            platform.remove(draft.scratch)
        raise
    return mapping


def _make_afresh(
    directory: str, content: _Content, name: str | None, *, kind: str, memory: bool, replace: bool
) -> tuple[Draft, Mapping]:
    draft, called = _draft_named(directory, content, name, kind=kind, memory=memory, replace=replace)
    try:
        platform.hold(draft.handle)
        status = platform.status(draft.handle)
        mapping = _finish(draft.handle, content.size, "r+", called, directory, status.device, status.inode)
    except BaseException:
        _discard(draft)
        raise
    return draft, mapping


def _reuse(directory: str, content: _Content, name: str | None) -> tuple[Draft, Mapping] | None:
    """Make a block from a free block; return None if none suits."""
    if name is not None and name.startswith(_CHANCE):
        return None  # the list does not remember the names of chance that a file has had
    block = freelist.take(directory, content.size, name)
    if block is None:
        return None
    handle, size = block.handle, content.size
    try:
        mapping: Mapping = platform.map(Mapping, handle, size, "r+")  # type: ignore[assignment]
    except OSError:  # there can be no more mappings
        block.free()
        return None
    except BaseException:
        block.free()
        raise
    try:
        pages = freelist.Pages(block, mapping)
        with interrupts.allowed:  # what may take long
            content.put(handle, pages)
        platform.hold(handle)
        status = platform.status(handle)
        called = name or _chance_name()
        _finish(handle, size, "r+", called, directory, status.device, status.inode, mapping)
    except BaseException:
        block.free()
        raise
    block.done()
    mapping.given_names = block.names
    mapping.populated = True
    return Draft(handle, block.token), mapping


def _draft_named(
    directory: str, content: _Content, name: str | None, *, kind: str, memory: bool, replace: bool
) -> tuple[Draft, str]:
    """A draft and the name that it is to get, which memory may need, and so take, from now on."""
    called = name or _chance_name()
    for _ in range(_NAME_TRIES):
        try:
            path = registry.path_of(directory, called) if memory else None
            return _draft(directory, content, path=path, replace=replace), called
        except FileExistsError:
            if name is not None:
                break
            called = _chance_name()
    raise _taken(called, directory, kind)


def _publish(
    draft: Draft,
    mapping: Mapping,
    *,
    kind: str,
    persist: bool,
    keeper: registry.Process | None,
    choose: bool,
    replace: bool,
) -> None:
    directory, inode = str(mapping.directory), mapping.inode
    token = None
    try:
        janitor.appear(directory)
        for _ in range(_NAME_TRIES):
            try:
                registry.write_record(
                    directory, mapping.name, inode, kind=kind, persist=persist, keeper=keeper
                )
                janitor.ensure(directory)
                platform.publish(draft, mapping.path)
            except FileExistsError:
                if replace:
                    if token is None:
                        token = registry.pin(directory, draft.handle, inode, once=True)
                    if _make_way(directory, mapping.name, token):
                        return
                    continue
                registry.drop_record(directory, mapping.name, inode)
                if choose:
                    mapping.name = _chance_name()
                elif not freed(directory, mapping.name):
                    raise _taken(mapping.name, directory, kind) from None
            else:
                return
        raise _taken(mapping.name, directory, kind)
    except BaseException:
        registry.drop_record(directory, mapping.name, inode)
        raise
    finally:
        if token is not None:
            registry.unpin(directory, token)  # if it has not become the block's name
            if draft.scratch:
                platform.remove(draft.scratch)


def _make_way(directory: str, name: str, successor: str) -> bool:
    """Take a name from the block that has it; whether the successor has it now.

    The successor is a token, as of a reference on its way: a name that the new block has until then, and that
    the janitor finds, should we die in between.
    """
    try:
        remove(directory, name, None, successor=successor)
    except errors.BlockNotFoundError:
        return False  # it has gone, or been replaced, by itself
    return True


def freed(directory: str, name: str) -> bool:
    """True if a name is free after this process attached and let go: the last holder removes a block."""
    try:
        attach(name, "r", directory=directory).leave()
    except errors.BlockNotFoundError:
        return True
    except errors.LimitError:
        raise
    except (errors.SharedArrayError, OSError):
        return False  # not one of ours
    return platform.inode_of(registry.path_of(directory, name)) is None


def _taken(name: str, directory: str, kind: str) -> errors.BlockExistsError:
    path = f"{directory}/{name}"
    if _held_here(directory, name):
        cause = "this process holds it, as after a notebook's cell that has run before"
    else:
        cause = "a process that holds it lives on, it persists, or another program made it"
    next_step = "sharedarray.attach(name) to use it, sharedarray.unlink(name) to remove it"
    if kind == "array":
        next_step += (
            "; exist_ok=True to use it where it is there and make it where it is not, replace=True to make a "
            "new one in its place"
        )
    return errors.BlockExistsError(
        f"the name {name!r} is taken",
        name=name,
        found=f"something at {path}",
        expected="a free name",
        cause=cause,
        next_step=next_step,
    )


def _held_here(directory: str, name: str) -> bool:
    """Whether this process holds the block of that name."""
    inode = platform.inode_of(registry.path_of(directory, name))
    for reference in _handles.copy().values():
        mapping = None if reference is None else reference()
        if mapping is not None and (mapping.directory, mapping.inode) == (directory, inode):
            return True
    return False


def _create_file(path: str, content: _Content) -> Mapping:
    try:
        draft = _draft(os.path.dirname(path), content)
    except errors.BlockNotFoundError as error:
        error.expected, error.next_step = None, "make it, or choose another path"
        raise
    try:
        # Mapped first: a file that cannot be mapped must not stay.
        mapping = _finish_file(draft, content, path)
        with _guard:
            made = draft.handle
            draft = platform.publish_file(draft, path)
            if draft.handle != made:
                _handles.pop(made, None)
                _handles[draft.handle] = None
        if draft.handle != made:
            mapping = _finish_file(draft, content, path)
    except FileExistsError:
        raise errors.BlockExistsError(
            f"the file {path} exists",
            name=path,
            next_step="sharedarray.open(path) to use it, or remove it first",
        ) from None
    finally:
        _discard(draft)
    return mapping


def _finish_file(draft: Draft, content: _Content, path: str) -> Mapping:
    status = platform.status(draft.handle)
    return _finish(draft.handle, content.size, "r+", path, None, status.device, status.inode)


def _draft(directory: str, content: _Content, *, path: str | None = None, replace: bool = False) -> Draft:
    """A draft with its content; of a file where `path` is None."""
    memory = path is not None
    size = content.size
    check_free(directory, content.pages, memory=memory)
    drafts: list[Draft] = []

    def start() -> int:
        drafts.append(
            platform.draft_memory(directory, size, path, replace=replace)
            if memory
            else platform.draft(directory)
        )
        return drafts[0].handle

    try:
        handle = _open(start)
    except FileNotFoundError:
        raise registry.no_directory(directory) from None
    except OSError as error:
        raise translated(error, directory, size, memory=memory) from None
    try:
        with interrupts.allowed:  # what may take long
            content.put(handle)
    except OSError as error:
        _discard(drafts[0])
        raise translated(error, directory, size, memory=memory) from None
    except BaseException:
        _discard(drafts[0])
        raise
    return drafts[0]


def _discard(draft: Draft) -> None:
    with _guard:
        _handles.pop(draft.handle, None)
        platform.discard(draft)


def check_free(directory: str, size: int, *, memory: bool) -> None:
    """Refuse what is large and cannot fit before a page is taken; the kernel refuses what is small."""
    if size < FREE_CHECKED_FROM:
        return
    try:
        _check_free(directory, size, memory=memory)
    except errors.OutOfSharedMemoryError:
        if not freelist.clear():
            raise
        _check_free(directory, size, memory=memory)


def _check_free(directory: str, size: int, *, memory: bool) -> None:
    try:
        free = platform.free_bytes(directory, memory=memory)
    except OSError:
        return  # the draft says what is wrong with the directory
    if size > free:
        raise out_of_memory(directory, size, free)
    if memory:
        left = platform.free_memory()
        if left is not None and size > left:
            raise out_of_memory(directory, size, left, scope="this process's control group or machine")


def translated(error: OSError, directory: str, size: int, *, memory: bool) -> OSError:
    """Return the error to raise where so many bytes could not be had."""
    if isinstance(error, errors.SharedArrayError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
        try:
            free = platform.free_bytes(directory, memory=memory)
        except OSError:
            free = 0
        return out_of_memory(directory, size, free)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not isinstance(
        error, errors.SharedArrayError
    ):
        return errors.NotOursError(
            f"nothing can be made in {directory}",
            name=directory,
            found=error.strerror,
            expected="a directory that this user may write to",
            cause="it is another user's, or mounted read-only",
            next_step="set SHAREDARRAY_DIR to a directory of yours on a memory file system"
            if memory
            else "choose another path",
        )
    return error


def out_of_memory(
    directory: str, needed: int, available: int, scope: str | None = None
) -> errors.OutOfSharedMemoryError:
    """The error for `needed` bytes where only `available` are free."""
    return errors.OutOfSharedMemoryError(
        f"a block of {exact(needed)} does not fit into {scope or directory}",
        needed=needed,
        available=available,
        name=directory,
        found=f"{exact(available)} available",
        expected=f"{exact(needed)} needed",
        cause="other blocks fill it (`sharedarray ls` shows them), or it is small, as in a container",
        next_step="free blocks, start the container with a larger --shm-size, or set SHAREDARRAY_DIR to a "
        "directory with more free memory",
    )


# -- attaching ------------------------------------------------------------------------------------------


def attach(
    name: str,
    mode: Mode = "r+",
    *,
    timeout: float | None = None,
    directory: str | None = None,
    path: str | None = None,
) -> Mapping:
    """Attach to the block `name`.

    Parameters
    ----------
    timeout
        Seconds to wait for a block of this name; None not to wait.
    directory
        Where the block is. Without it, the name was given by a user, who is told of the name that was meant.
    path
        A path to open in place of the block's own, for a token, which leads to the same block.

    Raises
    ------
    BlockNotFoundError, InvalidNameError, HeaderError
        `HeaderError` when it is no regular file, or an empty one.
    """
    if mode not in _MODES:
        check_mode(mode)
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    check_name(name)
    if directory is not None:
        return _attached(name, mode, directory, path or registry.path_of(directory, name))
    directory = registry.directory()
    registry.warn_of_disk(directory)
    try:
        if timeout is None:
            return _attached(name, mode, directory, registry.path_of(directory, name))
        check_timeout(timeout)
        return _awaited(name, mode, directory, timeout)
    except errors.BlockNotFoundError as error:
        _suggest(error, name, directory)
        raise


def _awaited(name: str, mode: Mode, directory: str, timeout: float) -> Mapping:
    """Attach to a block as soon as there is one of that name.

    It sleeps between attempts, since not every system tells of new names; Ctrl-C is not deferred meanwhile.
    """
    path = registry.path_of(directory, name)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return _attached(name, mode, directory, path)
        except errors.BlockNotFoundError as error:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                error.found = f"{error.found}, in {timeout:g} s of waiting"
                raise
        time.sleep(min(pause, remaining))
        pause = min(2 * pause, _LAST_PAUSE)


def _suggest(error: errors.BlockNotFoundError, name: str, directory: str) -> None:
    """Have an error name the block that was probably meant."""
    meant = hints.likely(name, registry.names(directory))
    if meant is not None:
        error.next_step = f"did you mean {meant!r}? {error.next_step}"


def _attached(name: str, mode: Mode, directory: str, path: str) -> Mapping:
    with interrupts.deferred:
        while True:
            try:
                mapping = _attach(name, mode, directory, path)
            except OSError as error:
                if isinstance(error, errors.LimitError) and freelist.clear():
                    continue
                if isinstance(error, errors.SharedArrayError):
                    raise
                raise requirements.explained(error, directory) from None
            if mapping is not None:
                return mapping


def _attach(name: str, mode: Mode, directory: str, path: str) -> Mapping | None:
    """Attach to what a path leads to; None where another block has come in its place meanwhile."""
    writable = True
    try:
        with _guard:
            try:
                handle, held, device, inode, size, links, regular, reused = platform.enter(path, True)
            except PermissionError:
                if mode == "r+":
                    raise
                # Another user's block: its owner's processes count us, but we cannot ask if we are the last.
                writable = False
                entered = platform.enter(path, False)
                handle, held, device, inode, size, links, regular, reused = entered
            _handles[handle] = None
    except BlockingIOError:
        return None  # a process has just asked whether it is alone on a free block, see `platform.exclusive`
    except FileNotFoundError as error:
        raise not_found(name, directory, made=error.strerror == platform.STILL_MADE) from None
    except OSError as error:
        raise _unopenable(error, name, path) from None
    try:
        if not held:
            platform.hold(handle)
            device, inode, size, links, regular, reused = platform.status(handle)
        if not regular or size == 0:
            raise _no_block(name, path, EMPTY if regular else "a directory, pipe or device")
        # Removed between our opening it and our lease, and perhaps used again as another block.
        if links == 0 or (reused and platform.inode_of(path) != inode):
            if platform.inode_of(path) not in (None, inode):
                _close(handle)
                return None
            raise not_found(name, directory)
        mapping = _finish(handle, size, mode, name, directory, device, inode)
    except BaseException:
        _close(handle)
        raise
    if not writable:
        mapping.writable_handle = False
    janitor.ensure(directory, strict=False)
    return mapping


def open_file(path: str | os.PathLike[str], mode: Mode = "r+") -> Mapping:
    """Map a file on disk; it has no lease and is never removed."""
    check_mode(mode)
    where = registry.absolute(os.fspath(path))
    handle = -1
    try:
        handle = _open(lambda: platform.open(os.path.realpath(where), writable=mode == "r+"))
        status = platform.status(handle)
        if not status.regular or status.size == 0:
            raise _no_block(where, where, EMPTY if status.regular else "a directory, pipe or device")
        return _finish(handle, status.size, mode, where, None, status.device, status.inode)
    except FileNotFoundError:
        raise _no_file(where, os.fspath(path)) from None
    except OSError as error:
        raise _unopenable(error, where, where) from None
    finally:
        if handle >= 0:
            _close(handle)


def _no_file(where: str, given: str) -> errors.BlockNotFoundError:
    """Return the error for a path that leads to no file; what was meant may be another file, or a block."""
    next_step = "make it with file=path"
    directory, name = os.path.split(where)
    meant = hints.likely(name, platform.names(directory))
    if given in registry.names(registry.directory()):
        next_step = f"for the block of this name, sharedarray.attach({given!r})"
    elif meant is not None:
        next_step = f"did you mean {os.path.join(directory, meant)!r}? {next_step}"
    return errors.BlockNotFoundError(f"there is no file {where}", name=where, next_step=next_step)


def check_mode(mode: str) -> None:
    """Raise `ValueError` unless `mode` is one of `numpy.memmap`'s that attach to something."""
    if mode not in _MODES:
        raise ValueError(
            f"mode is 'r' (read-only), 'r+' (read and write) or 'c' (copy-on-write), not {mode!r}"
        )


def not_found(
    name: str, directory: str, *, found: str | None = None, made: bool = False
) -> errors.BlockNotFoundError:
    """The error for a name that leads to no block, to another one, or to one that is still being `made`."""
    if made:
        return errors.BlockNotFoundError(
            f"no block is named {name!r} yet",
            name=name,
            found=platform.STILL_MADE,
            expected="a block that is whole",
            cause="its maker has not filled it yet",
            next_step="try again",
        )
    return errors.BlockNotFoundError(
        f"no block is named {name!r}" if found is None else f"the block {name!r} is not the one meant",
        name=name,
        found=found or f"nothing at {directory}/{name}",
        expected="a block that a process holds, or one that persists",
        cause="its last holder is gone, or it was made under another SHAREDARRAY_DIR",
        next_step="`sharedarray ls` lists what there is; keep a holder alive, or make it with persist=True",
    )


def _no_block(name: str, path: str, found: str | None) -> errors.HeaderError:
    empty = found == EMPTY
    return errors.HeaderError(
        f"{path} is no block",
        name=name,
        found=found,
        expected="a regular file that is not empty",
        cause="its maker was killed before it had a size, or is just about to give it one" if empty else None,
        next_step="try again; a file that stays empty may be removed" if empty else None,
    )


def _unopenable(error: OSError, name: str, path: str) -> OSError | errors.HeaderError:
    """What to raise where something is named `path` and could not be opened."""
    if error.errno in _OTHER_KINDS:
        return _no_block(name, path, error.strerror)
    if error.errno in (errno.EACCES, errno.EPERM):
        return errors.NotOursError(
            f"{path} may not be opened",
            name=name,
            found=error.strerror,
            cause="it is another user's, or may only be read",
            next_step="mode='r' or 'c' where reading is allowed",
        )
    return error


def exists(name: str) -> bool:
    """Whether `name` leads to something that can be attached to."""
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    path = registry.path_of(registry.directory(), check_name(name))
    try:
        handle = _open(lambda: platform.open(path, writable=False))
    except errors.LimitError:
        raise
    except OSError:
        return False
    try:
        return platform.status(handle).regular
    finally:
        _close(handle)


def unlink(name: str, missing_ok: bool = False) -> None:
    """Remove the block `name` now; processes that hold it keep their memory until they close.

    Parameters
    ----------
    name : str
        The block's name.
    missing_ok : bool, default False
        Whether it is no error if there is no such block, as for `pathlib.Path.unlink`.

    Raises
    ------
    BlockNotFoundError
        There is no such block, and `missing_ok` is False (a `FileNotFoundError`).
    NotOursError
        The file has no record of this library, so it is another program's or your own (a `PermissionError`).

    Examples
    --------
    >>> import sharedarray as sa
    >>> kept = sa.zeros(3, name="removed_by_unlink", persist=True)
    >>> sa.unlink("removed_by_unlink")
    >>> sa.unlink("removed_by_unlink", missing_ok=True)
    """
    if not isinstance(name, str):
        raise hints.not_a_name(name)
    check_name(name)
    directory = registry.directory()
    try:
        remove(directory, name, None)
    except errors.BlockNotFoundError as error:
        if missing_ok:
            return
        _suggest(error, name, directory)
        raise


removals = 0
"""Changes when this process sets about removing a block's name, and when it has done so."""


def remove(
    directory: str, name: str, inode: int | None, *, foreign: bool = False, successor: str | None = None
) -> None:
    """Remove a block's name now, if it leads to this inode, where one is given.

    A file without a record is refused, unless `foreign` allows to remove what others have made. Where there
    is a `successor`, a token, its block gets the name in the same moment.
    """
    global removals
    removals += 1
    path = registry.path_of(directory, name)
    try:
        handle = _open(lambda: platform.open(path, writable=True))
    except FileNotFoundError:
        if inode is not None:
            registry.drop_record(directory, name, inode)  # another program has removed the block
        raise not_found(name, directory) from None
    except OSError as error:
        raise _unopenable(error, name, path) from None
    try:
        status = platform.status(handle)
        if inode is not None and status.inode != inode:
            raise not_found(name, directory, found=f"another block at {path}")
        platform.start_leaving(handle)
        try:
            if platform.inode_of(path) != status.inode:
                raise not_found(name, directory)
            if not foreign and registry.read_record(directory, name, status.inode) is None:
                if platform.inode_of(path) != status.inode:
                    raise not_found(name, directory)  # another process was faster
                raise errors.NotOursError(
                    f"{path} has no record of sharedarray",
                    name=name,
                    found="a file that this user's processes did not make as a block",
                    cause="it is a copy, or another program's or user's",
                    next_step="remove it as a file if it is yours",
                )
            if successor is None:
                if not platform.remove(path, status.inode):
                    raise not_found(name, directory)
            else:
                platform.move(registry.token_path(directory, successor), path)
            registry.drop_record(directory, name, status.inode)
        finally:
            removals += 1
            platform.release(handle)
    finally:
        _close(handle)


# -- the public face ------------------------------------------------------------------------------------


class Segment:
    """Named bytes in shared memory, with a lease.

    Made by `create` and `attach`. A process that has one holds the block; the last process to let go removes
    it, unless it persists. Letting go is `close()`, or dropping the segment and every view of `buf`.

    Attributes
    ----------
    name : str
        The name to attach by.
    size : int
        Bytes, exactly as asked for.
    buf : memoryview
        The bytes.
    closed : bool
        Whether the lease is given up.

    Examples
    --------
    >>> from sharedarray import Segment
    >>> with Segment.create(16) as segment:
    ...     segment.buf[:5] = b"hello"
    ...     other = Segment.attach(segment.name, mode="r")
    ...     bytes(other.buf[:5])
    b'hello'
    >>> other.close()
    """

    __slots__ = ("_bytes", "_mapping")

    def __init__(self, mapping: Mapping, grip: Any = None) -> None:
        if not isinstance(mapping, Mapping):
            raise TypeError("a segment is made by Segment.create(size, name) or Segment.attach(name)")
        self._mapping = mapping
        self._bytes = mapping if grip is None else grip

    @classmethod
    def create(cls, size: int, name: str | None = None, *, persist: bool = False) -> Self:
        """Make a block of `size` bytes, all zero and all reserved.

        Parameters
        ----------
        size
            Bytes, at least 1.
        name
            One path component; a word of chance when None.
        persist
            Whether the block outlives its holders until `unlink`.

        Raises
        ------
        BlockExistsError
            The name is taken (a `FileExistsError`).
        OutOfSharedMemoryError
            There are not so many bytes (an `OSError` with ``ENOSPC``).
        InvalidNameError
            The name is no plain path component (a `ValueError`).
        """
        size = index(size)
        if size < 1:
            raise ValueError(f"a segment has at least 1 byte, not {size}")
        return cls(create(size, name=name, persist=persist))

    @classmethod
    def attach(cls, name: str, mode: Mode = "r+") -> Self:
        """Attach to the block of that name.

        Parameters
        ----------
        name
            The block's name.
        mode
            'r' read-only, 'r+' read and write, 'c' copy-on-write.

        Raises
        ------
        BlockNotFoundError
            There is none (a `FileNotFoundError`).
        """
        return cls(attach(name, mode))

    @property
    def name(self) -> str:
        """The name to attach by; it stays after `close()`."""
        return self._mapping.name

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return len(self._mapping)

    @property
    def mode(self) -> Mode:
        """How it is mapped: 'r', 'r+' or 'c'."""
        return self._mapping.mode

    @property
    def buf(self) -> memoryview:
        """The bytes, as a memoryview that stays valid after `close()`."""
        if self._mapping.left:
            raise errors.BlockClosedError(f"the segment {self.name!r} is closed", name=self.name)
        return memoryview(self._bytes)

    @property
    def closed(self) -> bool:
        """Whether the lease is given up."""
        return self._mapping.left

    def close(self) -> None:
        """Give up the lease. The last holder removes the block; views stay valid. Idempotent."""
        self._mapping.leave()

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the block's name now; processes that hold it keep the memory.

        Raises
        ------
        BlockNotFoundError
            The name is gone, or leads to another block, and `missing_ok` is False.
        """
        unlink_mapping(self._mapping, missing_ok)

    def persist(self, flag: bool = True) -> None:
        """Have the block outlive its holders until `unlink`, or not any more."""
        persist_mapping(self._mapping, flag)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segment) and other._mapping is self._mapping

    def __hash__(self) -> int:
        return hash(self._mapping)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"{type(self).__name__}({self.name!r}, size={self.size}, mode={self.mode!r}{state})"


def unlink_mapping(mapping: Mapping, missing_ok: bool = False) -> None:
    """Remove the name of the block that `mapping` is attached to."""
    if mapping.directory is None:
        raise errors.NotOursError(
            f"{mapping.name} is a file, not a block",
            name=mapping.name,
            next_step="remove it with os.remove(path)",
        )
    try:
        remove(mapping.directory, mapping.name, mapping.inode)
    except errors.BlockNotFoundError:
        if not missing_ok:
            raise


def persist_mapping(mapping: Mapping, flag: bool) -> None:
    """Set whether the block of `mapping` outlives its holders."""
    if mapping.directory is None:
        return  # a file stays anyway
    if mapping.left:
        raise errors.BlockClosedError(
            f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
        )
    if flag and not with_handle(mapping, platform.can_persist):
        raise errors.UnsupportedError(
            f"{mapping.name!r} cannot be made to persist any more",
            name=mapping.name,
            found="memory, which this system frees with its last holder",
            expected="a block that was made to persist, and so is a file",
            next_step="make it with persist=True",
        )
    if not registry.set_persist(mapping.directory, mapping.name, mapping.inode, bool(flag)):
        if platform.inode_of(mapping.path) == mapping.inode:
            raise errors.NotOursError(
                f"{mapping.path} has no record of this user",
                name=mapping.name,
                found="a file that another program put there, or a block that another user made",
                cause="a file that another program put there stays anyway; a process that has dropped "
                "privileges is another user than before",
                next_step="persist a block before the user changes, or have its owner do it",
            )
        raise not_found(mapping.name, mapping.directory)
    janitor.ensure(mapping.directory)
