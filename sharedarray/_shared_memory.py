"""CPython's `SharedMemory` and `ShareableList`, on blocks.

Code that was written for `multiprocessing.shared_memory` runs with these by another import. The names of its
blocks are those of the block's file, so each side attaches by name to what the other has made: on Linux,
where CPython's blocks are files in ``/dev/shm`` as well, unless ``SHAREDARRAY_DIR`` says otherwise. What
they are made of, a file of plain bytes of exactly the size that was asked for, is the same.

How long a block lives
----------------------

==========================================  ===========================  ===============================
what happens                                CPython's                    ours
==========================================  ===========================  ===============================
`close()`, also by the block's maker        it stays                     it stays
`unlink()`                                  its name goes at once        its name goes at once
the process that made it ends               stays while its tree does    stays while the tree's leader does
the tree has ended, or was killed           removed, with a warning      removed when no process has it open
a process of another tree has attached,     removed (gh-82300), unless   nothing
and ends                                    with ``track=False``
it was made with ``track=False``            stays until `unlink()`       stays until `unlink()`
==========================================  ===========================  ===============================

Windows frees memory when no process has it open, CPython's and ours, tracked or not: there, a process has
to hold a block for as long as it is to stay, and `unlink` only keeps others from attaching. Each side
attaches to the other's by name there as well, for both are named memory of the kernel's; CPython's class
sees a size in whole pages, and one page of ours behind the data.

A *process tree* are the processes that multiprocessing has started from each other (`_process_tree`).
A process that has a block open holds a lease on it, as on any other block. A process that is killed leaves
nothing behind.

`close()` never fails and nothing crashes after it: the memory goes with the last array or memoryview that
looks at it. (CPython's raises `BufferError` where a buffer is exported, and is a segmentation fault behind
``numpy.ndarray(buffer=shm.buf)``, which exports none.) Such arrays travel to other processes as data, as
they do with CPython's: a block is sent by its name, or as a `SharedArray`.

What else is not the same: names that start with a dot or have more than 200 bytes are refused; a value that
a list cannot hold is a `TypeError` or `OverflowError`, where CPython has `KeyError` and `struct.error`;
`unlink` removes this very block, and not whatever has its name by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from operator import index
from typing import Any, Generic, SupportsIndex, TypeVar

from sharedarray import (
    _errors as errors,
    _process_tree as process_tree,
    _segment as segment,
    _shareable as shareable,
)
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._segment import Mapping

__all__ = ["ShareableList", "SharedMemory"]

_T = TypeVar("_T", bound=shareable.Value)

# Seconds to wait for an empty block: CPython gives its blocks a name first and a size microseconds later.
_PATIENCE = 0.1
_PAUSE = 0.001


class SharedMemory:
    r"""Bytes in shared memory under a name, as `multiprocessing.shared_memory.SharedMemory`.

    Parameters
    ----------
    name : str, optional
        The block's name, one path component; leading slashes, as POSIX writes such names, do not count. A
        random name if None, for a block that is made.
    create : bool
        Whether to make the block; otherwise it must be there.
    size : int
        Bytes of the block that is made, all zero and all reserved. Not looked at when attaching.
    track : bool
        Whether a block that is made goes by itself when its maker, all other processes of its tree and all
        that have it open are gone. One that is not tracked stays until `unlink`. Attaching with or without
        makes no difference here: a process that attaches never destroys.

    Attributes
    ----------
    name : str
        The name, for others to attach by.
    size : int
        Bytes of the block, exactly as asked for.
    buf : memoryview or None
        The bytes; None after `close`, as CPython has it.

    Raises
    ------
    BlockNotFoundError
        There is no block of that name (a `FileNotFoundError`).
    BlockExistsError
        The name is taken (a `FileExistsError`).
    OutOfSharedMemoryError
        There are not so many bytes (an `OSError` with ``ENOSPC``); CPython's is killed when it writes to
        them.
    HeaderError
        What has the name is empty, or no regular file (a `ValueError`); it is left as it is.
    InvalidNameError
        The name cannot be a block's (a `ValueError`).

    Notes
    -----
    The block stays until `unlink`, or until its process tree is gone; a table in `sharedarray._shared_memory`
    compares that with CPython's.

    CPython's class attaches to these blocks, and this one to CPython's. A CPython process that does so
    destroys the block when it ends, even if others use it (gh-82300), unless it says
    ``SharedMemory(name, track=False)``, which it can from Python 3.13 on.

    Examples
    --------
    >>> from sharedarray import SharedMemory
    >>> frame = SharedMemory(create=True, size=6)
    >>> frame.buf[:3] = b"abc"
    >>> again = SharedMemory(frame.name)
    >>> bytes(again.buf)
    b'abc\x00\x00\x00'
    >>> again.close()
    >>> frame.close()
    >>> frame.unlink()
    """

    _buf: memoryview | None = None
    _mapping: Mapping | None = None

    def __init__(
        self, name: str | None = None, create: bool = False, size: SupportsIndex = 0, *, track: bool = True
    ) -> None:
        size = index(size)
        if size < 0:
            raise ValueError(f"size is in bytes and not negative: {size}")
        if create and size == 0:
            raise ValueError("a block has at least 1 byte: give the size of the block to be made")
        if name is None and not create:
            raise ValueError("name is None, which is for a block to be made, with create=True")
        block = None if name is None else _block_of(name)
        if create:
            self._take(_made(size, block, track=track), name)
        else:
            self._take(_attached(str(block)), name)

    def _take(self, mapping: Mapping, name: str | None = None) -> None:
        """Initialize the object for an attachment."""
        mapping.plain = True
        self._mapping = mapping
        self._where = str(mapping.directory), mapping.name, mapping.inode
        self._given = mapping.name if name is None else name
        self._size = len(mapping)
        self._buf = memoryview(mapping)

    @classmethod
    def _of(cls, mapping: Mapping, name: str | None = None) -> SharedMemory:
        made = cls.__new__(cls)
        made._take(mapping, name)
        return made

    @property
    def name(self) -> str:
        """The name to attach by; it stays after `close`."""
        return self._given

    @property
    def _name(self) -> str:
        # Much code hands it to the resource tracker's `unregister`, against gh-82300. CPython has a slash
        # before the names of files alone.
        return f"/{self._given}" if platform.RECORDS_DECIDE else self._given

    @property
    def size(self) -> int:
        """Bytes of the block; it stays after `close`."""
        return self._size

    @property
    def buf(self) -> memoryview:
        """The bytes; None after `close`. What was made from them stays valid."""
        return self._buf  # type: ignore[return-value]  # memoryview for the type checker, as in typeshed

    def close(self) -> None:
        """Let go of the block, which stays for others. Idempotent.

        Arrays and memoryviews over `buf` stay valid, and keep the memory for this process until they go.

        Examples
        --------
        >>> import sharedarray as sa
        >>> memory = sa.SharedMemory(create=True, size=10)
        >>> memory.close()
        >>> memory.unlink()
        """
        mapping, self._mapping = self._mapping, None
        self._buf = None
        if mapping is not None:
            mapping.release()

    def unlink(self) -> None:
        """Remove the name of the block now, before or after `close`; who has it open keeps the memory.

        Raises
        ------
        BlockNotFoundError
            It was unlinked already, or another block has the name by now (a `FileNotFoundError`). Not
            where the system takes a name away with the last holder: there, that is what was asked for.

        Examples
        --------
        >>> import sharedarray as sa
        >>> memory = sa.SharedMemory(create=True, size=10)
        >>> memory.unlink()
        >>> memory.close()
        """
        directory, name, inode = self._where
        try:
            segment.remove(directory, name, inode, foreign=True)
        except errors.BlockNotFoundError:
            if platform.RECORDS_DECIDE:
                raise

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"


def _block_of(name: Any) -> str:
    """Return the block's own name in one that may start with slashes."""
    if not isinstance(name, str):
        raise TypeError(f"name is a str or None, not {type(name).__name__}")
    return segment.check_name(name.lstrip("/"))


def _made(
    size: int, block: str | None, *, track: bool = True, data: bytes | None = None, kind: str = "memory"
) -> Mapping:
    mapping = segment.create(
        size,
        segment.BlockOptions(block, not track and platform.RECORDS_DECIDE, kind=kind),
        buffers=() if data is None else [memoryview(data)],
        keeper=process_tree.keeper() if track else None,
    )
    if track:
        process_tree.settle_at_exit(str(mapping.directory))
    return mapping


def _attached(block: str) -> Mapping:
    deadline = None
    while True:
        try:
            return segment.attach(block)
        except errors.HeaderError as error:
            now = time.monotonic()
            deadline = deadline or now + _PATIENCE
            if error.found != segment.EMPTY or now > deadline:
                raise
        time.sleep(_PAUSE)


class ShareableList(Generic[_T]):
    """A list of fixed length in shared memory, as `multiprocessing.shared_memory.ShareableList`.

    Parameters
    ----------
    sequence : iterable of int, float, bool, str, bytes and None, optional
        The values, for a list that is made. Where it is None, a name is attached to.
    name : str, optional
        The block's name; a random name if None.

    Attributes
    ----------
    shm : SharedMemory
        The block, to be closed and unlinked.
    format : str
        What the slots hold, in the words of `struct`.

    Raises
    ------
    TypeError
        A value is of another type; NumPy's scalars are taken as what they stand for.
    ValueError
        A text is longer than 9,999,991 bytes, or is a str of more than 999,999 that ends in NUL.
    OverflowError
        An int is not in the range of 64 bits, signed or unsigned.
    HeaderError
        The block that was attached to is no such list (a `ValueError`), or an item that is read is damaged.
    BlockNotFoundError, BlockExistsError, OutOfSharedMemoryError, InvalidNameError
        As for `SharedMemory`. Nothing is left behind.

    Notes
    -----
    Each item has a slot that never grows: 8 bytes for numbers and None, and for text a multiple of 8 bytes
    that holds it in UTF-8. Anything that fits the slot can be assigned.

    What was stored is what is read, NULs at the end and text outside ASCII included. CPython's class
    attaches to these lists, and this one to CPython's; it drops NULs at the end of a str.
    `sharedarray._shareable` has the layout.

    An item is not replaced in one step: who reads it just then may see a `HeaderError` or a mixture, so that
    readers and writers need a lock between them. Two lists are equal only if they are the same object, as
    CPython's; ``list(one) == list(other)`` compares what is in them.

    Examples
    --------
    >>> from sharedarray import ShareableList
    >>> state = ShareableList(["ready", 0, None])
    >>> there = ShareableList(name=state.shm.name)
    >>> there[1] = 42
    >>> list(state)
    ['ready', 42, None]
    >>> there[0] = "much too long"
    Traceback (most recent call last):
    ValueError: item 0 exceeds available storage: 13 bytes of UTF-8 for a slot of 8
    >>> there.shm.close()
    >>> state.shm.close()
    >>> state.shm.unlink()
    """

    shm: SharedMemory

    def __init__(self, sequence: Iterable[_T] | None = None, *, name: str | None = None) -> None:
        if sequence is None and name is not None:
            self.shm = SharedMemory(name)
        else:
            data = shareable.encode(() if sequence is None else sequence)
            block = None if name is None else _block_of(name)
            self.shm = SharedMemory._of(_made(len(data), block, data=data, kind="list"), name)
        try:
            self._layout = shareable.decode(self.shm.buf, self.shm.name)
        except BaseException:
            self.shm.close()
            raise

    @property
    def format(self) -> str:
        """The formats of all items, joined."""
        block = self._block()
        return "".join(shareable.format_of(block, self._layout, n) for n in range(len(self)))

    def count(self, value: object) -> int:
        """Return how many items equal `value`.

        Parameters
        ----------
        value
            The value to look for.

        Examples
        --------
        >>> import sharedarray as sa
        >>> items = sa.ShareableList([1, 2, 1])
        >>> items.count(1)
        2
        >>> items.shm.unlink()
        """
        return sum(value == item for item in self)

    def index(self, value: object) -> int:
        """Return position of the first item that equals `value`.

        Parameters
        ----------
        value
            The value to look for.

        Raises
        ------
        ValueError
            There is none.

        Examples
        --------
        >>> import sharedarray as sa
        >>> items = sa.ShareableList([1, 2, 1])
        >>> items.index(2)
        1
        >>> items.shm.unlink()
        """
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} is not in this list")

    def __len__(self) -> int:
        return self._layout.count

    def __getitem__(self, position: SupportsIndex) -> _T:
        return shareable.read(  # type: ignore[no-any-return]
            self._block(), self._layout, self._position(position), self.shm.name
        )

    def __setitem__(self, position: SupportsIndex, value: _T) -> None:
        block, layout, position = self._block(), self._layout, self._position(position)
        start, stop = layout.starts[position], layout.starts[position + 1]
        item = shareable.encode_item(value, stop - start, position)
        shareable.write(block, layout, position, item)

    def __iter__(self) -> Iterator[_T]:
        return shareable.read_all(self._block(), self._layout, self.shm.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), name=self.shm.name), ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, name={self.shm.name!r})"

    def _block(self) -> memoryview:
        block = self.shm._buf
        if block is None:
            raise errors.BlockClosedError(
                f"the list {self.shm.name!r} is closed",
                name=self.shm.name,
                next_step="ShareableList(name=…) attaches again",
            )
        return block

    def _position(self, position: SupportsIndex) -> int:
        wanted, count = index(position), len(self)
        if wanted < -count or wanted >= count:
            raise IndexError(f"position {wanted} is out of range: the list has {count} items")
        return wanted + count if wanted < 0 else wanted
