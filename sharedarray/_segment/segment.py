"""`Segment`, the public face of an attachment."""

from __future__ import annotations

from operator import index
from typing import Any, Self

from sharedarray import _errors as errors, _janitor as janitor, _registry as registry
from sharedarray._platform import Mode, platform
from sharedarray._segment.attaching import attach
from sharedarray._segment.making import create
from sharedarray._segment.mapping import (
    Mapping,
    with_handle,
)
from sharedarray._segment.options import BlockOptions
from sharedarray._segment.refusals import not_found
from sharedarray._segment.removing import unlink_mapping

__all__ = ["Segment", "persist_mapping"]


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
        size : int
            Bytes, at least 1.
        name : str, optional
            One path component; a random name if None.
        persist : bool, default False
            Whether the block outlives its holders until `unlink`.

        Returns
        -------
        Segment
            Holds the block until it is closed or dropped.

        Raises
        ------
        BlockExistsError
            The name is taken (a `FileExistsError`).
        OutOfSharedMemoryError
            There are not so many bytes (an `OSError` with ``ENOSPC``).
        InvalidNameError
            The name is no plain path component (a `ValueError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> block = sa.Segment.create(16, "created_segment")
        >>> len(block.buf), sum(block.buf)
        (16, 0)
        """
        size = index(size)
        if size < 1:
            raise ValueError(f"a segment has at least 1 byte, not {size}")
        return cls(create(size, BlockOptions(name, persist)))

    @classmethod
    def attach(cls, name: str, mode: Mode = "r+") -> Self:
        """Attach to the block of that name.

        Parameters
        ----------
        name : str
            The block's name.
        mode : {'r+', 'r', 'c'}
            'r' read-only, 'r+' read and write, 'c' copy-on-write.

        Returns
        -------
        Segment
            Holds the block until it is closed or dropped.

        Raises
        ------
        BlockNotFoundError
            There is none (a `FileNotFoundError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> block = sa.Segment.create(16, "attached_segment")
        >>> block.buf[:5] = b"hello"
        >>> bytes(sa.Segment.attach("attached_segment", "r").buf[:5])  # in any process
        b'hello'
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
        """The mode of the mapping: 'r', 'r+' or 'c'."""
        return self._mapping.mode

    @property
    def buf(self) -> memoryview:
        """The bytes, as a memoryview that stays valid after `close()`."""
        if self._mapping.released:
            raise errors.BlockClosedError(f"the segment {self.name!r} is closed", name=self.name)
        return memoryview(self._bytes)

    @property
    def closed(self) -> bool:
        """True if the lease is given up."""
        return self._mapping.released

    def close(self) -> None:
        """Give up the lease. The last holder removes the block; views stay valid. Idempotent.

        Examples
        --------
        >>> import sharedarray as sa
        >>> block = sa.Segment.create(100)
        >>> block.close()
        >>> block.closed
        True
        """
        self._mapping.release()

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the block's name now; processes that hold it keep the memory.

        Parameters
        ----------
        missing_ok : bool
            Whether a name that is gone already is no error.

        Raises
        ------
        BlockNotFoundError
            The name is gone, or leads to another block, and `missing_ok` is False.

        Examples
        --------
        >>> import sharedarray as sa
        >>> block = sa.Segment.create(100)
        >>> block.unlink()
        """
        unlink_mapping(self._mapping, missing_ok)

    def persist(self, flag: bool = True) -> None:
        """Set whether the block outlives its holders until `unlink`.

        Parameters
        ----------
        flag : bool
            Whether the block stays; False makes it end with its last holder again.

        Examples
        --------
        >>> import sharedarray as sa
        >>> block = sa.Segment.create(100)
        >>> block.persist()
        >>> block.persist(False)
        """
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


def persist_mapping(mapping: Mapping, flag: bool) -> None:
    """Set whether the block of `mapping` outlives its holders."""
    if mapping.directory is None:
        return  # a file stays anyway
    if mapping.released:
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
