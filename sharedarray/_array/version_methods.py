"""Writing an array as a whole new version, and reading versions that never change."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharedarray import _header as header
from sharedarray._array.block_methods import BlockMethods
from sharedarray._array.memory import offset_of
from sharedarray._group_index import is_group
from sharedarray._growth import grows
from sharedarray._process_end import halt, halting
from sharedarray._segment import Mapping
from sharedarray._snapshots import Update, Versions
from sharedarray._version_buffers import made_versions_of, versions_of

_new_array = np.ndarray.__new__


class VersionMethods(BlockMethods):
    """The methods of `SharedArray` that concern its versions."""

    __slots__ = ()
    _plan: Any  # see `_planned`

    @property
    def version(self) -> int:
        """Number of versions that `update` has published since the array was made."""
        if (
            getattr(self, "_plan", None) is None
            and versions_of(self._whole("ask for the version of")) is None
        ):
            return 0
        versions: Versions = self._planned("ask for the version of")[3]
        return versions.version

    @halting
    def update(self, *, copy: bool = True, timeout: float | None = None) -> Update[np.ndarray[Any, Any]]:
        """Write a whole new version, while readers keep the old one.

        A context manager: it gives an array, which is published as the next version at the end of the
        ``with`` statement, all at once. If an exception ends that, or the process dies in it, nothing is
        published. One process writes a version at a time; the others wait.

        Parameters
        ----------
        copy : bool, default True
            Whether the array begins as a copy of the current version; otherwise it holds an old one, or
            zeros, and you write all of it.
        timeout : float, optional
            Seconds to wait for another writer, and for readers that hold all old versions; None to wait as
            long as it takes.

        Raises
        ------
        LockTimeout
            On entering, when another process wrote, or readers held all old versions, all the time (a
            `TimeoutError`).
        DeadlockError
            On entering, when this process itself keeps snapshots of all old versions, or this thread is
            writing a version of the array (a `RuntimeError`).
        OutOfSharedMemoryError
            On entering for the first time: a block with versions takes four times the memory.
        ValueError
            The array is read-only, grows, or is a part of a block.

        See Also
        --------
        snapshot : A view of the current version, which is always whole.

        Notes
        -----
        This array itself, and `numpy.load`, show the new version a moment after it was published. While it
        is brought up to date, they may show a part of it. If the writer dies in this moment, they do so until
        another process attaches, or updates the array. Elements that you write directly into this array are
        in no version.

        The array that you write to is read-only after the ``with`` statement. Views of it that you keep are
        memory of your own from then on, if you may write into them: no process sees what you write. (On
        Windows and macOS you would change the version: do not write into them there.)

        A thread writes one version at a time: an update of the same array within the block is a
        `DeadlockError`, or with a timeout a `LockTimeout`.

        Examples
        --------
        >>> import sharedarray as sa
        >>> weights = sa.zeros(3, name="weights_of_update")
        >>> old = weights.snapshot()
        >>> with weights.update() as new:
        ...     new += 1
        >>> weights.version, weights.snapshot().tolist(), old.tolist()
        (1, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
        """
        mapping = self._whole("update")
        self._check_writable(mapping, "update")
        return Update(
            made_versions_of(mapping),
            mapping,
            copy,
            timeout,
            lambda memory: self._same_view_of(memory, mapping),
        )

    def snapshot(self) -> np.ndarray[Any, Any]:
        """Return a view of the current version, which is whole and never changes.

        Returns
        -------
        ndarray
            Read-only. Nothing is copied, whatever the size, but for the first time that an array without
            versions is asked. The memory of the version is kept for as long as a view of it lives: drop it,
            or keep a copy, so that writers need not wait.

        Raises
        ------
        ValueError
            The array grows, or is a part of a block.

        Notes
        -----
        A snapshot that is sent to another process travels as a copy. A forked child does not hold the
        snapshots that it inherits.

        See Also
        --------
        version_of : The number of the version that a snapshot shows.

        Examples
        --------
        >>> import sharedarray as sa
        >>> weights = sa.zeros(3, name="weights_of_snapshot")
        >>> before = weights.snapshot()
        >>> with weights.update() as new:
        ...     new += 1
        >>> before.tolist(), weights.snapshot().tolist()
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
        """
        try:
            shape, strides, dtype, _, reader, at = self._planned("take a snapshot of")
            return _new_array(np.ndarray, shape, dtype, reader.hold(), at, strides)
        except Exception:
            halt()
            raise

    def version_of(self, snapshot: object) -> int:
        """Return the number of the version that a snapshot shows.

        `version` may be a later one by then.

        Parameters
        ----------
        snapshot : ndarray
            What `snapshot` has returned for this array in this process, or a view of that.

        Returns
        -------
        int
            As `version` was when the snapshot was taken.

        Raises
        ------
        ValueError
            It is no snapshot of this array, but a copy of one for instance.

        Examples
        --------
        >>> import sharedarray as sa
        >>> weights = sa.zeros(3, name="weights_of_version_of")
        >>> before = weights.snapshot()
        >>> with weights.update() as new:
        ...     new += 1
        >>> weights.version_of(before), weights.version_of(weights.snapshot())
        (0, 1)
        """
        versions: Versions = self._planned("ask for a version of")[3]
        found = versions.version_of(snapshot) if isinstance(snapshot, np.ndarray) else None
        if found is None:
            raise ValueError(
                f"this {type(snapshot).__qualname__} is no snapshot of {self.name!r} that was taken by this "
                "array, nor a view of one. A copy of a snapshot does not tell its version"
            )
        return found

    def _planned(self, doing: str) -> tuple[Any, ...]:
        """Return this array's shape, strides, dtype, versions, the reader of snapshots, and its offset.

        They are remembered until the array changes its shape or dtype: taking a snapshot costs less so.
        """
        plan: tuple[Any, ...] | None = getattr(self, "_plan", None)
        if (
            plan is None
            or plan[0] != self.shape
            or plan[1] != self.strides
            or plan[2] is not self.dtype
            or not plan[3].usable
        ):
            mapping = self._whole(doing)
            versions, at = made_versions_of(mapping), offset_of(self, mapping)
            plan = self.shape, self.strides, self.dtype, versions, versions.reader(mapping), at
            self._plan = plan
        return plan

    def _whole(self, doing: str) -> Mapping:
        """Return the attachment, if this is all of the array in its block."""
        mapping = self._mapping(doing)
        here = self.shape, self.strides, self.dtype
        layout = header.decode(mapping[: header.PAGE], len(mapping), name=mapping.name, more=mapping)
        if grows(mapping):
            raise ValueError(
                f"cannot {doing} {mapping.name!r}: an array that grows has no versions. Rows that are there "
                "stay as they were appended: a slice of them is whole"
            )
        whole = _new_array(np.ndarray, layout.shape, layout.dtype, mapping, layout.offset, None, layout.order)
        if here != (whole.shape, whole.strides, whole.dtype) or offset_of(self, mapping) != layout.offset:
            has = "group has versions, of all members" if is_group(layout, mapping) else "array has versions"
            raise ValueError(f"cannot {doing} a part of {mapping.name!r}: only the whole {has}")
        return mapping

    def _same_view_of(self, memory: np.ndarray[Any, Any], mapping: Mapping) -> np.ndarray[Any, Any]:
        """Return an array such as this one, in `memory`, which is a copy of its block."""
        return _new_array(np.ndarray, self.shape, self.dtype, memory, offset_of(self, mapping), self.strides)
