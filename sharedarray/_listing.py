"""List the blocks and their holders, and remove orphans.

Only blocks with a record count: a file that was copied into the directory is not ours to show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from sharedarray import (
    _errors as errors,
    _group_index,
    _growth as growth,
    _header as header,
    _registry as registry,
    _version_buffers as version_buffers,
)
from sharedarray._platform import platform
from sharedarray._programs import programs_of

if TYPE_CHECKING:
    from sharedarray._streams.status import StreamStatus

__all__ = ["BlockInfo", "BlockList", "blocks", "prune"]


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """One block.

    Attributes
    ----------
    name : str
        The name to attach by.
    path : str
        Where its bytes are, an ``.npy`` file for every reader of that format.
    kind : str
        'array', 'group' (a `Group`), 'stream', 'object' (of `put`), 'bytes' (a `Segment`), 'memory' (a
        `SharedMemory`), 'list' (a `ShareableList`), 'event', 'semaphore', 'condition' or 'barrier'.
    shape : tuple of int or None
        Lengths of the axes; None if the bytes are no array.
    dtype : numpy.dtype or None
        Type of the elements; None if the bytes are no array.
    order : {'C', 'F'} or None
        Which axis varies fastest: the last, or the first.
    size : int
        Bytes of the block, header included; of an array that grows, those that are reserved by now.
    created : datetime.datetime
        When it was made, in UTC, by the clock as it is set now.
    creator : int
        Pid of the process that made it.
    creator_alive : bool
        Whether that very process still lives.
    persistent : bool
        Whether it outlives its holders.
    held : bool
        Whether any process holds it.
    holders : tuple of int
        Pids of the holders, as far as they can be seen: not those in other pid namespaces or of other
        users.
    references : int
        References to it that are on their way.
    keeper : int or None
        Pid of a process because of which it stays even if no process holds it: one of its maker's process
        tree, or the `SharedMemoryManager` that owns it.
    members : dict or None
        Of a group, the shape and the dtype of each member by name, as `sharedarray.group` takes them.
    capacity : int or None
        Of an array that grows, how many rows it can have; its length is that of `shape`.
    version : int or None
        Of an array or a group with versions, the number of the current one.
    buffers : int or None
        In how many buffers these versions are.
    stream : StreamStatus or None
        Of a stream, its state: `slots`, `full`, how many items were `published`, whether it is `closed`, the
        pid of its `producer` and whether that `waits`; and for each of its `consumers` the `pid`, the
        `position` of its next item, its `lag`, how many items it has `lost`, whether it is `lossless`, and
        whether it `waits`.

    Examples
    --------
    >>> import sharedarray as sa
    >>> frames = sa.zeros((2, 3), name="listed_frames")
    >>> (found,) = [each for each in sa.blocks() if each.name == "listed_frames"]
    >>> found.kind, found.shape, found.held
    ('array', (2, 3), True)
    """

    name: str
    path: str
    kind: str
    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None
    order: str | None
    size: int
    created: datetime
    creator: int
    creator_alive: bool
    persistent: bool
    held: bool
    holders: tuple[int, ...]
    references: int
    keeper: int | None = None
    members: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = field(default=None, hash=False)
    stream: StreamStatus | None = None
    capacity: int | None = None
    version: int | None = None
    buffers: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        if self.shape is None or self.dtype is None:
            return self.size
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def orphan(self) -> bool:
        """True if no process holds or keeps it, it does not persist, and no reference to it is on its way."""
        return not (self.held or self.persistent or self.references or self.keeper)


class BlockList(list[BlockInfo]):
    """The list that `blocks` returns: at the prompt and in a notebook it shows itself as a table.

    Examples
    --------
    >>> import sharedarray as sa
    >>> frames = sa.zeros(3, name="frames_of_list")
    >>> found = sa.blocks()
    >>> "frames_of_list" in [each.name for each in found]
    True
    >>> type(found[:2]).__name__  # a slice is shown as a table as well
    'BlockList'
    """

    @overload
    def __getitem__(self, index: SupportsIndex) -> BlockInfo: ...

    @overload
    def __getitem__(self, index: slice) -> BlockList: ...

    def __getitem__(self, index: SupportsIndex | slice) -> BlockInfo | BlockList:
        if isinstance(index, slice):
            return BlockList(super().__getitem__(index))
        return super().__getitem__(index)

    def __repr__(self) -> str:
        from sharedarray._display import block_table, text  # here: few programs show it

        if not self:
            return "no blocks"
        programs = programs_of(block_table.processes_of(self))
        return "\n".join(block_table.lines(self, programs, text.terminal_columns(_WIDTH), str))

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from sharedarray import _display as display  # here: only notebooks ask
        from sharedarray._display import block_table

        said = block_table.total(self)
        try:
            directory = registry.directory()
            said += f"; {display.human(platform.free_bytes(directory, memory=True))} free in {directory}"
        except OSError:
            pass  # there is no such directory, and so there are no blocks
        programs = programs_of(block_table.processes_of(self))
        titles = [title.lower() for title in block_table.TITLES]
        rows = []
        for block in self:
            row = dict(
                zip(titles, block_table.cells(block, programs, str, _SHOWN_HOLDERS), strict=True),
                age=block_table.made(block),
            )
            rows.append([*row.values()])
        notes = [f"{word}: {meaning}" for word, meaning in block_table.legend(self)]
        titles[titles.index("age")] = "made"
        return display.table(said, [titles, *rows], right=[titles.index("size")], notes=notes)


# Columns of the table if there is no terminal.
_WIDTH = 120
# Holders that are named in a notebook.
_SHOWN_HOLDERS = 8


def blocks() -> BlockList:
    """List this user's blocks, by name.

    Returns
    -------
    list of BlockInfo
        A snapshot: another process may end while it is taken. At the prompt and in a notebook the list shows
        itself as a table, with the name of the program beside each pid.

    Examples
    --------
    >>> import os
    >>> import sharedarray as sa
    >>> a = sa.zeros(10, name="shown_by_blocks")
    >>> [(b.shape, b.holders == (os.getpid(),)) for b in sa.blocks() if b.name == a.name]
    [((10,), True)]
    """
    directory = registry.directory()
    registry.warn_of_disk(directory)
    waiting: dict[int, int] = {}
    for pin in registry.pins(directory):
        waiting[pin.inode] = waiting.get(pin.inode, 0) + 1
    found = []
    for name, inode, record in registry.records(directory):
        looked = None if record is None else _look(directory, name, inode, record.kind)
        if record is not None and looked is not None:
            found.append((name, record, looked))
    # Many blocks have one maker, and one moment is enough for all.
    alive = cache(lambda pid, started, space: registry.alive(pid, started, space, directory))
    now = registry.Moment.now()
    holders = platform.holders(status[:2] for _, _, (status, *_, held) in found if held)
    return BlockList(
        sorted(
            (
                BlockInfo(
                    name=name,
                    path=registry.path_of(directory, name),
                    kind=record.kind,
                    shape=None if layout is None else layout.shape,
                    dtype=None if layout is None else layout.dtype,
                    order=None if layout is None else layout.order,
                    size=status.size,
                    created=datetime.fromtimestamp(record.moment.created_as_set(now), UTC),
                    creator=record.pid,
                    creator_alive=alive(record.pid, record.started, record.space),
                    persistent=record.persist,
                    held=held,
                    holders=holders.get(status[:2], ()),
                    references=waiting.get(status.inode, 0),
                    keeper=(record.kept_by() or (None,))[0],
                    **contents,
                )
                for name, record, (status, layout, contents, held) in found
            ),
            key=lambda block: block.name,
        )
    )


def _look(directory: str, name: str, inode: int, kind: str) -> tuple[Any, ...] | None:
    """Return status, layout, contents and whether it has a holder; None if it is another block."""
    try:
        handle = platform.open(registry.path_of(directory, name), writable=True)
    except errors.LimitError:
        raise
    except OSError:
        return None
    try:
        status = platform.status(handle)
        if status.inode != inode or not status.regular:
            return None
        layout = _layout(handle, status.size, name)
        contents = {} if layout is None else _contents(handle, layout, status.size, name, kind)
        if kind == "array" and layout is not None and layout.size < status.size:  # one that grows has a hole
            status = status._replace(size=min(status.size, platform.allocated(handle)))
        return status, layout, contents, platform.held(handle)
    finally:
        platform.close(handle)


def _contents(handle: int, layout: header.Layout, size: int, name: str, kind: str) -> dict[str, Any]:
    """Return what is to be said of a block of this kind alone, by the names of `BlockInfo`."""
    if kind == "stream":
        return {"stream": _stream(handle, layout, size)}
    found: dict[str, Any] = {}
    if kind == "group":
        found["members"] = _members(handle, layout, size, name)
    elif kind != "array":
        return found
    if layout.size < size:
        versions = version_buffers.found_in(handle, layout, size)
        if versions is not None:
            found["version"], found["buffers"] = versions
        else:
            try:
                found["capacity"] = growth.capacity_in(_Bytes(handle, size, name), layout)
            except errors.HeaderError:
                pass
    return found


def _stream(handle: int, layout: header.Layout, size: int) -> StreamStatus | None:
    from sharedarray._streams.status import status_of

    return status_of(handle, layout, size)


def _members(handle: int, layout: header.Layout, size: int, name: str) -> dict[str, Any] | None:
    block = _Bytes(handle, size, name)
    try:
        if not _group_index.is_group(layout, block):
            return None
        index = _group_index.decode(block, layout.size, name=name)
    except errors.HeaderError:
        return None
    return {key: (member.layout.shape, member.layout.dtype) for key, member in index.members.items()}


def _layout(handle: int, size: int, name: str) -> header.Layout | None:
    try:
        page = platform.read(handle, header.PAGE)
        return header.decode(page, size, name=name, more=_Bytes(handle, size, name))
    except errors.HeaderError:
        return None


class _Bytes:
    """The bytes of an open block, read when they are sliced."""

    def __init__(self, handle: int, size: int, name: str) -> None:
        self.name = name
        self._handle = handle
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start = part.start or 0
        return platform.read(self._handle, part.stop - start, start)


def prune() -> list[str]:
    """Remove each block that no process holds or keeps, does not persist and has no reference on its way.

    The janitor does so by itself within two seconds; this is for the case that it was killed too.

    Returns
    -------
    list of str
        The names that were removed.

    Examples
    --------
    >>> import sharedarray as sa
    >>> removed = sa.prune()  # names of blocks that dead processes held
    """
    return sorted(registry.sweep(registry.directory()).removed)
