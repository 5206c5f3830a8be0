"""The block of a view: closing, removing, keeping, flushing and locking it."""

from __future__ import annotations

from ctypes import addressof, c_char
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sharedarray import _segment as segment
from sharedarray._array.memory import address_in, address_of, grip_of, span_of
from sharedarray._locks import ArrayLock, EmptyLock, Lock
from sharedarray._platform import Mode, platform
from sharedarray._segment import Mapping, Segment, mapping_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedarray._reference import Reference

_first_byte = c_char.from_buffer


class BlockMethods(np.ndarray[Any, np.dtype[Any]]):
    """The methods of `SharedArray` that concern its block."""

    __slots__ = ()

    # `Reference.of`, set by `sharedarray._reference`. That module is above this one, because references that
    # arrive become arrays.
    _reference_of: ClassVar[Callable[[np.ndarray[Any, Any]], Reference]]

    @property
    def name(self) -> str | None:
        """The block's name, or the file's path; None where the memory is not shared."""
        mapping = mapping_of(self)
        return None if mapping is None else mapping.name

    @property
    def mode(self) -> Mode | None:
        """'r', 'r+' or 'c'; None where the memory is not shared."""
        mapping = mapping_of(self)
        return None if mapping is None else mapping.mode

    @property
    def segment(self) -> Segment | None:
        """The block below, None where the memory is not shared."""
        mapping = mapping_of(self)
        return None if mapping is None else Segment(mapping, grip_of(self))

    @property
    def closed(self) -> bool:
        """True if the lease is given up. It is the same for all views of one attachment."""
        mapping = mapping_of(self)
        return mapping is not None and mapping.released

    def close(self) -> None:
        """Give up this process's lease on the block; the last holder removes it. Idempotent.

        Every view of the same attachment is closed with it. The memory stays mapped until the last of them
        goes, so reading and writing one that is closed is safe; others may not see it any more.

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3)
        >>> a.close()
        >>> sa.exists(a.name)
        False
        """
        mapping = mapping_of(self)
        if mapping is not None:
            mapping.release()

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the block's name now, persistent or not; processes that hold it keep their memory.

        Parameters
        ----------
        missing_ok
            Whether it is no error if the name is gone.

        Raises
        ------
        BlockNotFoundError
            The name is gone, or another block has it by now, and `missing_ok` is False (a
            `FileNotFoundError`).
        NotOursError
            It is a file (a `PermissionError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3, name="unlinked")
        >>> a.unlink()  # the memory stays while `a` lives
        >>> sa.exists("unlinked")
        False
        """
        segment.unlink_mapping(self._mapping("unlink"), missing_ok)

    def persist(self, flag: bool = True) -> None:
        """Set whether the block outlives its holders until `unlink`.

        Parameters
        ----------
        flag : bool
            Whether the block stays; False makes it end with its last holder again.

        Raises
        ------
        BlockClosedError
            The array is closed (a `ValueError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3, name="persisting")
        >>> a.persist()
        >>> a.persist(False)
        """
        segment.persist_mapping(self._mapping("persist"), flag)

    def flush(self) -> None:
        """Bring what was written to a file onto its disk; nothing to do for a block in memory.

        Examples
        --------
        >>> import sharedarray as sa
        >>> sa.zeros(3).flush()  # of use to files; see `open`
        """
        mapping = mapping_of(self)
        if mapping is not None and mapping.directory is None and mapping.mode == "r+":
            platform.sync(mapping)

    def lock(self, shared: bool = False, timeout: float | None = None) -> Lock:
        """Lock exactly the bytes that this view spans, against other processes and threads that ask too.

        Parameters
        ----------
        shared
            Whether others may hold the lock at the same time, for reading.
        timeout
            Seconds to wait, None to wait as long as it takes.

        Returns
        -------
        Lock
            A context manager, which takes the lock on entering. Its `abandoned` tells whether the last writer
            of these bytes did not finish, because it died or an exception ended its ``with`` statement.

        Raises
        ------
        LockTimeout
            On entering, when it was not free in time (a `TimeoutError`).
        DeadlockError
            On entering without a timeout, when this thread is in a ``with`` statement that locks some of the
            bytes already (a `RuntimeError`). Deadlocks between several threads or processes are not detected.
        BlockClosedError
            On entering, when the array is closed (a `ValueError`).
        NotOursError
            On entering, when the file may not be written (a `PermissionError`); it can be locked `shared`.

        Notes
        -----
        From the first byte of the view's elements to the last one: every second row locks those between as
        well. An empty view locks nothing. The kernel frees the lock when its holder dies. Readers that come
        let a writer that waits go first. A forked child holds nothing of what its parent holds. Closing or
        unlinking the array ends no lock. The mode of the array does not matter.

        Examples
        --------
        >>> import sharedarray as sa
        >>> counts = sa.zeros((8, 2), int)
        >>> with counts[3].lock(timeout=10) as lock:
        ...     counts[3] += 1
        >>> lock.abandoned
        False
        """
        mapping = mapping_of(self)
        if mapping is None:
            mapping = self._mapping("lock")
        length = self.nbytes
        if length and self.flags.forc:  # in one piece
            try:
                first = addressof(_first_byte(self))  # type: ignore[arg-type]  # a third of `address_of`'s time
            except (TypeError, ValueError):  # read-only, or of a type that the buffer protocol does not know
                first = address_of(self)
            low = first - (mapping.address or address_in(mapping))
            return ArrayLock(mapping, low, length, shared, timeout, id(mapping), self.base)  # type: ignore[no-any-return]
        low, high = span_of(self, mapping)
        if low == high:
            return EmptyLock(mapping, low, 0, shared, timeout)
        return ArrayLock(mapping, low, high - low, shared, timeout, id(mapping), self.base)  # type: ignore[no-any-return]

    def reference(self) -> Reference:
        """Return a small handle on this view, which every pickler sends as it is.

        It keeps nothing alive: a process has to hold the block until the last ``.attach()`` on it.

        Raises
        ------
        BlockClosedError
            The array is closed (a `ValueError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.ones(4)
        >>> a[1:].reference().attach().tolist()
        [1.0, 1.0, 1.0]
        """
        return type(self)._reference_of(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_writable(self, mapping: Mapping, doing: str, writable: bool = True) -> None:
        """Raise `ValueError` if this array is read-only, or its file is."""
        if mapping.mode != "r+" or not writable:
            raise ValueError(f"cannot {doing} {mapping.name!r}: it is read-only (mode {mapping.mode!r})")
        if not self.flags.writeable:
            raise ValueError(f"cannot {doing} {mapping.name!r}: this array is read-only")

    def _mapping(self, doing: str) -> Mapping:
        """Return the attachment. If there is none, raise a `ValueError` that begins "cannot `doing`"."""
        mapping = mapping_of(self)
        if mapping is None:
            raise ValueError(
                f"cannot {doing} this array: its memory is not shared; see sharedarray.share(array)"
            )
        return mapping
