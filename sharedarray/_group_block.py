"""The block of a group: its name and lease, closing, removing, keeping, flushing and locking it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from sharedarray import _header as header, _segment as segment
from sharedarray._array import SharedArray
from sharedarray._locks import Lock
from sharedarray._platform import Mode
from sharedarray._process_end import halting
from sharedarray._segment import Mapping as Attachment, Segment, mapping_of

__all__ = ["GroupBlock"]

_new_array = np.ndarray.__new__


class GroupBlock(Mapping[str, SharedArray]):
    """The methods of `Group` that concern its block."""

    __slots__ = ()
    _bytes: np.ndarray[Any, Any]  # all of the block, from its first byte on

    @property
    def name(self) -> str | None:
        """The block's name, or the file's path; None if the memory is not shared."""
        mapping = mapping_of(self._bytes)
        return None if mapping is None else mapping.name

    @property
    def mode(self) -> Mode | None:
        """'r', 'r+' or 'c'; None if the memory is not shared."""
        mapping = mapping_of(self._bytes)
        return None if mapping is None else mapping.mode

    @property
    def segment(self) -> Segment | None:
        """The block below, None if the memory is not shared."""
        mapping = mapping_of(self._bytes)
        return None if mapping is None else Segment(mapping, self._bytes)

    @property
    def closed(self) -> bool:
        """True if the lease is given up."""
        mapping = mapping_of(self._bytes)
        return mapping is not None and mapping.released

    def close(self) -> None:
        """Give up this process's lease on the block; the last holder removes it. Idempotent.

        All members are closed with it. Their memory stays mapped until the last view of them goes.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("closed_group", {"x": (3, "f8")})
        >>> g.close()
        >>> g.closed
        True
        """
        mapping = mapping_of(self._bytes)
        if mapping is not None:
            mapping.release()

    def unlink(self) -> None:
        """Remove the block's name now, persistent or not; processes that hold it keep their memory.

        Raises
        ------
        BlockNotFoundError
            The name is gone, or another block has it by now (a `FileNotFoundError`).
        NotOursError
            It is a file (a `PermissionError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("unlinked_group", {"x": (3, "f8")})
        >>> g.unlink()
        >>> sa.exists("unlinked_group")
        False
        """
        segment.unlink_mapping(self._mapping("unlink"))

    def persist(self, flag: bool = True) -> None:
        """Let the block outlive its holders until `unlink`, or not any more.

        Parameters
        ----------
        flag : bool
            Whether the block stays; False makes it end with its last holder again.

        Raises
        ------
        BlockClosedError
            The group is closed (a `ValueError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("kept_group", {"x": (3, "f8")})
        >>> g.persist()
        >>> g.persist(False)
        """
        segment.persist_mapping(self._mapping("persist"), flag)

    def flush(self) -> None:
        """Bring what was written to a file onto its disk; nothing to do for a block in memory.

        Examples
        --------
        >>> import os, tempfile
        >>> import sharedarray as sa
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with sa.group(None, {"x": (3, "f8")}, file=os.path.join(folder, "kept.npy")) as g:
        ...         g["x"] = 1
        ...         g.flush()
        """
        self._data().flush()

    def lock(self, shared: bool = False, timeout: float | None = None) -> Lock:
        """Lock all members at once; see `SharedArray.lock`, by which each of them, or a part, is locked.

        Parameters
        ----------
        shared : bool, default False
            Whether others may hold the lock at the same time, for reading.
        timeout : float, optional
            Seconds to wait, None to wait as long as it takes.

        Returns
        -------
        Lock
            A context manager, which takes the lock on entering.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("locked_group", {"x": (3, "f8"), "y": (3, "f8")})
        >>> with g.lock(timeout=5.0):
        ...     g["x"] += 1
        ...     g["y"] -= 1
        """
        return self._data().lock(shared, timeout)

    @halting
    def notify(self) -> int:
        """Tell all that `wait` for this group, or for a member, that there are new data.

        As `SharedArray.notify`.

        Returns
        -------
        int
            How many notices there have been, with this one.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("notified_group", {"x": (3, "f8")})
        >>> g["x"] = 1
        >>> g.notify()
        1
        """
        self._mapping("notify those that wait")
        return self._data().notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _mapping(self, doing: str) -> Attachment:
        mapping = mapping_of(self._bytes)
        if mapping is None:
            raise ValueError(
                f"cannot {doing}: this group's memory is not shared; see sharedarray.share_group(name, group)"
            )
        return mapping

    def _data(self) -> SharedArray:
        """Return all bytes of the block behind its NPY page, which is what `attach` would find in them."""
        return _new_array(SharedArray, len(self._bytes) - header.PAGE, np.uint8, self._bytes, header.PAGE)
