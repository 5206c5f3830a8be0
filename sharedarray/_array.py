"""`SharedArray`: an ndarray whose memory is a block.

It behaves as `numpy.memmap` does. What shares the memory is a `SharedArray`: slices, transposes, fields,
reshapes. What has memory of its own, the results of arithmetic, reductions, fancy indexing, `copy` and
`astype`, is a plain array or scalar.

There is no ``__array_finalize__`` and no attribute on the array: every view finds its block by walking
``.base`` down to the mapping (`sharedarray._segment.mapping_of`), which costs nothing until it is asked for,
and cannot be lost by a view that NumPy makes without telling us.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import addressof, c_char
from operator import index
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import (
    _dtypes as dtypes,
    _errors as errors,
    _header as header,
    _registry as registry,
    _segment as segment,
    _sigint as sigint,
    _versions as versions,
)
from sharedarray._group_index import is_group
from sharedarray._growth import Growth, growth_of, is_growing, lay_out, set_length
from sharedarray._locks import ArrayLock, EmptyLock, Lock
from sharedarray._masked import refuse_masked
from sharedarray._notices import notices_of
from sharedarray._object_layout import is_object
from sharedarray._platform import Mode, platform
from sharedarray._segment import BlockOptions, Mapping, Segment, mapping_of
from sharedarray._sizes import grouped, human
from sharedarray._snapshots import Update, Versions
from sharedarray._version_buffers import made_versions_of, show_again, versions_of

if TYPE_CHECKING:
    from sharedarray._reference import Reference

__all__ = ["ShapeLike", "SharedArray", "WeakArrays", "address_of", "attach", "make", "on_subclass", "open"]

ShapeLike: TypeAlias = SupportsIndex | Sequence[SupportsIndex]


# NumPy 1 made scalars of all 0-d results, and had no way to say which.
_BEFORE_RETURN_SCALAR = np.lib.NumpyVersion(np.__version__) < "2.0.0"


_SHOWN_HOLDERS = 8  # pids that a notebook shows

_first_byte = c_char.from_buffer
_BYTE = np.dtype(np.uint8)
_frombuffer, _new_array = np.frombuffer, np.ndarray.__new__
_getitem = np.ndarray.__getitem__  # super() takes as long as the slice


_of_subclasses: list[Callable[[type[Any]], None]] = []


def on_subclass(call: Callable[[type[Any]], None]) -> None:
    """Call a function with each subclass of `SharedArray` that is defined from now on."""
    _of_subclasses.append(call)


class SharedArray(np.ndarray[Any, np.dtype[Any]]):
    """An array in shared memory, which any process attaches to by its name.

    Making one makes a block; its elements are zero until written. The block lives as long as any process
    holds it: the last one to close it, drop its last view or end, removes it, unless it persists.

    Parameters
    ----------
    shape : int or tuple of int
        Lengths of the axes.
    dtype : dtype_like, default float
        Type of the elements; any but ``object``.
    order : {'C', 'F'}
        Whether the last or the first axis varies fastest.
    name : str, optional
        Name to attach by, one path component; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        Make an ``.npy`` file there instead of a block. It is never removed.
    exist_ok, replace : bool
        What to do where the name is taken; see `empty`.

    Attributes
    ----------
    name : str or None
        The block's name, a file's path, None where the memory is not shared (the result of a function
        that keeps the class but not the memory).
    mode : {'r', 'r+', 'c'} or None
        Read-only, read and write, or copy-on-write. 'c' is no snapshot: pages that were not written yet
        still show what others write.
    segment : Segment or None
        The block below.
    closed : bool
        Whether the lease is given up.

    Raises
    ------
    BlockExistsError
        The name is taken (a `FileExistsError`).
    OutOfSharedMemoryError
        There is not enough memory (an `OSError` with ``ENOSPC``).
    UnsupportedDTypeError
        The dtype holds Python objects (a `TypeError` and a `ValueError`).
    InvalidNameError
        The name is no plain path component (a `ValueError`).

    Notes
    -----
    Other processes see every write at once, in the order in which the processor makes it visible; `lock`
    keeps a reader from seeing half of one. Plain pickling, `numpy.save` and `copy` store the data;
    multiprocessing, joblib and Dask send a small reference instead.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.SharedArray((2, 3), "int32") as a:
    ...     a[:] = 7
    ...     b = sa.attach(a.name)
    ...     int(b.sum())
    42
    >>> b.close()
    """

    # Slots, not attributes: `numpy.ma` copies an array's attributes into what is made of it, which would hold
    # the block. Both are unset until the array is sent.
    __slots__ = ("__dict__", "_call", "_packed", "_plan")
    _packed: tuple[Any, bytes, Mapping]  # see `sharedarray._reference.pack_held`
    _plan: Any  # see `_planned`
    _call: Any  # see `sharedarray._pool.codec.call.short_call`

    __array_priority__ = -100.0  # numpy.memmap's: a plain array's class wins

    def __new__(
        cls,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: str = "C",
        *,
        name: str | None = None,
        persist: bool = False,
        file: str | os.PathLike[str] | None = None,
        exist_ok: bool = False,
        replace: bool = False,
    ) -> Self:
        if order not in ("C", "F"):
            raise ValueError(f"order is 'C' or 'F', not {order!r}")
        made = make(
            as_shape(shape),
            as_dtype(dtype),
            BlockOptions(name, persist, file, exist_ok, replace, kind="array"),
            fortran=order == "F",
        )
        return made if type(made) is cls else made.view(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for told in _of_subclasses:
            told(cls)

    # -- the block ------------------------------------------------------------------------------------

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
        return None if mapping is None else Segment(mapping, _grip_of(self))

    @property
    def closed(self) -> bool:
        """True if the lease is given up; every view of one attachment tells the same."""
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
            low = first - (mapping.address or _find_address(mapping))
            return ArrayLock(mapping, low, length, shared, timeout, id(mapping), self.base)  # type: ignore[no-any-return]
        low, high = self._span(mapping)
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
        from sharedarray._reference import Reference

        return Reference.of(self)

    # -- growth ---------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int | None:
        """Greatest number of rows of an array with ``capacity=``; None for any other array."""
        mapping = mapping_of(self)
        return None if mapping is None or not _grows(mapping) else growth_of(mapping).capacity

    def append(self, rows: ArrayLike, timeout: float | None = None) -> int:
        """Append one row, or several, to an array that was made with ``capacity=``.

        This array is longer then, and so is what others `attach` to or load from now on. Those who have the
        array already get the rows by `refresh`, `wait` and `follow`. Views keep their address and length.

        Parameters
        ----------
        rows : array_like
            A row, or an array of rows. They appear to others at once: all of them, or none.
        timeout : float, optional
            Seconds to wait while another thread or process appends; None to wait as long as it takes.

        Returns
        -------
        int
            The new length.

        Raises
        ------
        CapacityError
            There would be more rows than the array can have (a `ValueError`). None is appended.
        OutOfSharedMemoryError
            The memory, or the disk, is full (an `OSError` with ``ENOSPC``). None is appended.
        LockTimeout
            Another process appended all the time (a `TimeoutError`).
        ValueError
            The rows have another shape, or this array does not grow or is read-only.

        Notes
        -----
        Appending costs some microseconds besides writing the rows; append many at once where you can. A
        process that is killed while it appends has appended all of its rows or none.

        Examples
        --------
        >>> import sharedarray as sa
        >>> log = sa.zeros((0, 2), name="log_of_append", capacity=1000)
        >>> log.append([1, 2])
        1
        >>> log.append([[3, 4], [5, 6]])
        3
        >>> sa.attach("log_of_append").tolist()
        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
        """
        mapping, growth = self._growth("append to")
        self._check_writable(mapping, "append to", growth.writable)
        if mapping.released:
            raise errors.BlockClosedError(
                f"{mapping.name!r} is closed", name=mapping.name, next_step="attach to it again"
            )
        given = _rows_of(rows, self)
        with sigint.deferred:
            growth.begin(mapping, timeout)
            try:
                length = growth.length()
                end = length + len(given)
                if end > growth.capacity:
                    raise errors.CapacityError(
                        f"{len(given)} more rows do not fit into {mapping.name!r}",
                        name=mapping.name,
                        found=f"{length} rows",
                        expected=f"at most {growth.capacity}",
                        next_step="make it with a larger capacity=: pages that are not used cost nothing",
                    )
                growth.write(mapping, given, length, self._part(mapping, growth, length, end, np.ndarray))
                growth.publish(end)
                growth.lengthen(self, end)
            finally:
                growth.end()
            growth.wake()
        return end

    def extend(self, rows: Iterable[ArrayLike], timeout: float | None = None) -> int:
        """Append each row of an iterable; see `append`.

        Rows of an iterator, which may take long to come, appear to others in pieces of up to 1 MiB.

        Parameters
        ----------
        rows : iterable of array_like
            The rows. An array or a list of them appears to others at once.
        timeout : float, optional
            Seconds of each wait while another thread or process appends; None to wait as long as it takes.

        Returns
        -------
        int
            The new length.

        Raises
        ------
        CapacityError
            There would be more rows than the array can have (a `ValueError`). Pieces before are appended.
        LockTimeout
            Another process appended all the time (a `TimeoutError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> log = sa.zeros(0, int, capacity=1000)
        >>> log.extend(number**2 for number in range(5))
        5
        >>> log.tolist()
        [0, 1, 4, 9, 16]
        """
        _, growth = self._growth("append to")
        if isinstance(rows, np.ndarray | list | tuple):
            if len(rows) == 0:
                return len(self.refresh())
            given = _rows_of(rows, self)
            if not isinstance(rows, np.ndarray) or rows.ndim == self.ndim:
                if len(given) != len(rows):
                    raise ValueError(f"rows of shape {self.shape[1:]} are expected, not one row")
                return self.append(given, timeout)
            raise ValueError(
                f"rows of shape {self.shape[1:]} are expected, not an array of shape {rows.shape}"
            )
        most = max(1, _EXTENDED // max(1, growth.row))
        piece: list[Any] = []
        length = len(self.refresh())
        for row in rows:
            piece.append(row)
            if len(piece) >= most:
                length = self.append(_rows_of(piece, self), timeout)
                piece = []
        return self.append(_rows_of(piece, self), timeout) if piece else length

    def refresh(self) -> Self:
        """Take over the rows that were appended since; return this array, which has them now.

        Views of this array keep their length.

        Returns
        -------
        SharedArray
            This array.

        Raises
        ------
        ValueError
            This array does not grow, or is a part of one that does.

        Examples
        --------
        >>> import sharedarray as sa
        >>> log = sa.zeros(0, name="log_of_refresh", capacity=1000)
        >>> reader = sa.attach("log_of_refresh")  # in any process
        >>> log.append([1, 2])
        2
        >>> reader.refresh().tolist()
        [1.0, 2.0]
        """
        _, growth = self._growth("refresh")
        growth.lengthen(self, growth.length())
        return self

    def notify(self) -> int:
        """Tell all that `wait` for this array that there are new data in it.

        Write the data first. It is told to all views of the block, in all processes.

        Returns
        -------
        int
            How many notices there have been, with this one.

        Raises
        ------
        BlockClosedError
            The array is closed (a `ValueError`).
        UnsupportedError
            The array is a file on disk.

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3)
        >>> a[:] = 1
        >>> a.notify()
        1
        >>> a.wait(since=0)
        1
        """
        return notices_of(self._mapping("notify those that wait for")).notify()

    def wait(
        self,
        version: SupportsIndex | float | None = None,
        timeout: float | None = None,
        *,
        since: int | None = None,
        longer_than: int | None = None,
    ) -> int:
        """Wait until a process calls `notify`, or until the array has a version, or is longer.

        Parameters
        ----------
        version : int, optional
            Wait until `version` is this one, or a later one. A number of type float is the timeout.
        timeout : float, optional
            Seconds to wait at most; no limit when None.
        since : int, optional
            The number that an earlier `wait` or `notify` returned: wait for a notice after that one, which
            may have come already. When None, for the next one from now on. -1 returns the number of now.
        longer_than : int, optional
            Wait until an array that grows has more rows than this, and take them over as `refresh` does.

        Returns
        -------
        int
            How many notices there have been, for the next `since`; or the version, or the new length.

        Raises
        ------
        TimeoutError
            It did not come in that time.
        ProducerDied
            The process that appended has died, and no other one appends. What it published is there.
        EOFError
            All processes that appended have closed the array, so that there will be no more rows.

        Examples
        --------
        >>> import sharedarray as sa
        >>> a = sa.zeros(3, name="awaited_array")
        >>> seen = a.wait(since=-1)  # before the other process is asked for data
        >>> sa.attach("awaited_array").notify()  # in any process
        1
        >>> a.wait(since=seen, timeout=5.0)
        1
        """
        if isinstance(version, float):
            if timeout is not None:
                raise TypeError("wait() has got two timeouts: a version is an int")
            version, timeout = None, version
        if sum(given is not None for given in (version, since, longer_than)) > 1:
            raise TypeError("wait() takes one of a version, since= and longer_than=")
        if version is not None:
            mapping = self._whole("wait for a version of")
            versions = made_versions_of(mapping)
            if not versions.wait_for(index(version), timeout):
                raise TimeoutError(f"{mapping.name!r} has no version {version} after {timeout} s")
            return versions.version
        if longer_than is None:
            return self._wait_for_notice(timeout, since)
        mapping, growth = self._growth("wait for rows of")
        found = growth.wait_longer(mapping, index(longer_than), timeout)
        self.refresh()
        if found < 0:
            raise EOFError(
                f"{mapping.name!r} has {len(self)} rows, and the processes that appended to it have closed it"
            )
        if found <= longer_than:
            raise TimeoutError(f"{mapping.name!r} has not more than {longer_than} rows after {timeout} s")
        return found

    def _wait_for_notice(self, timeout: float | None, since: int | None) -> int:
        mapping = self._mapping("wait for new data in")
        notices = notices_of(mapping)
        if since is not None and since < 0:
            return notices.version
        found = notices.wait(since, timeout)
        if not found:
            raise TimeoutError(f"no process has called notify() of {mapping.name!r} within {timeout} s")
        return found

    def follow(self, start: int = 0, timeout: float | None = None) -> Iterator[SharedArray]:
        """Iterate over the rows as they are appended: first those that are there, then the new ones.

        Parameters
        ----------
        start : int, default 0
            The first row; ``len(a)`` for those only that come after this array's last one.
        timeout : float, optional
            Seconds to wait at most for the next rows.

        Yields
        ------
        SharedArray
            All rows that came since the last ones: a view, which is not copied. It never changes unless a
            process writes into it.

        Raises
        ------
        TimeoutError
            No rows came in that time.
        ProducerDied
            The process that appended has died, after all that it published; and no other one appends.

        Notes
        -----
        The iteration ends when all processes that have appended have closed the array, or have ended.

        Examples
        --------
        >>> import sharedarray as sa
        >>> log = sa.zeros(0, capacity=1000)
        >>> log.extend([1, 2, 3])
        3
        >>> for rows in log.follow():
        ...     print(rows.tolist())
        ...     break
        [1.0, 2.0, 3.0]
        """
        mapping, _ = self._growth("follow")
        done = index(start)
        if done < 0:
            raise ValueError(f"start is the number of a row, not {start}")
        return self._follow(mapping, done, timeout)

    def _follow(self, mapping: Mapping, done: int, timeout: float | None) -> Iterator[SharedArray]:
        while not mapping.released:
            growth = growth_of(mapping)
            found = growth.wait_longer(mapping, done, timeout)
            self.refresh()
            if found < 0:
                return
            if found <= done:
                raise TimeoutError(f"{mapping.name!r} has not more than {done} rows after {timeout} s")
            yield self._part(mapping, growth, done, found, SharedArray)
            done = found

    def _growth(self, doing: str) -> tuple[Mapping, Growth]:
        """Return how this array grows."""
        mapping = self._mapping(doing)
        if not _grows(mapping):
            raise ValueError(
                f"cannot {doing} {mapping.name!r}: it has a fixed length. Next step: make it with capacity=, "
                "as sharedarray.zeros((0, 4), capacity=10_000_000)"
            )
        growth = growth_of(mapping)
        whole = self.ndim and (not growth.row or self.strides[0] == growth.row)
        if (
            not whole
            or math.prod(self.shape[1:]) * self.itemsize != growth.row
            or address_of(self) - (mapping.address or _find_address(mapping)) != growth.start
        ):
            raise ValueError(f"cannot {doing} a part of {mapping.name!r}: only the whole array grows")
        return mapping, growth

    def _part(self, mapping: Mapping, growth: Growth, start: int, stop: int, kind: type[Any]) -> Any:
        """Return rows of an array that grows."""
        return _new_array(
            kind,
            (stop - start, *self.shape[1:]),
            self.dtype,
            bytes_behind(self, mapping),
            growth.start + start * growth.row,
        )

    # -- versions -------------------------------------------------------------------------------------

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
            made_versions_of(mapping), mapping, copy, timeout, lambda memory: self._laid_over(mapping, memory)
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
        shape, strides, dtype, _, reader, at = self._planned("take a snapshot of")
        return _new_array(np.ndarray, shape, dtype, reader.hold(), at, strides)

    def current(self) -> SharedArray:
        """Return the array that has this one's name now: another one if it was replaced, else this one.

        Examples
        --------
        >>> import sharedarray as sa
        >>> table = sa.zeros(2, name="table_of_current")
        >>> table.current() is table
        True
        >>> other = sa.ones(3, name="table_of_current", replace=True)
        >>> table.current().tolist()
        [1.0, 1.0, 1.0]
        """
        mapping = self._mapping("look for the successor of")
        return self if not is_replaced(mapping) else attached_again(mapping)

    def _planned(self, doing: str) -> tuple[Any, ...]:
        """Return shape, strides, dtype, versions, what takes snapshots, and the byte at which this begins."""
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

    def _check_writable(self, mapping: Mapping, doing: str, writable: bool = True) -> None:
        """Raise `ValueError` if this array is read-only, or its file is."""
        if mapping.mode != "r+" or not writable:
            raise ValueError(f"cannot {doing} {mapping.name!r}: it is read-only (mode {mapping.mode!r})")
        if not self.flags.writeable:
            raise ValueError(f"cannot {doing} {mapping.name!r}: this array is read-only")

    def _whole(self, doing: str) -> Mapping:
        """Return the attachment, if this is all of the array in its block."""
        mapping = self._mapping(doing)
        here = self.shape, self.strides, self.dtype
        layout = header.decode(mapping[: header.PAGE], len(mapping), name=mapping.name, more=mapping)
        if _grows(mapping):
            raise ValueError(
                f"cannot {doing} {mapping.name!r}: an array that grows has no versions. Rows that are there "
                "stay as they were appended: a slice of them is whole"
            )
        whole = over(mapping, layout)
        if here != (whole.shape, whole.strides, whole.dtype) or offset_of(self, mapping) != layout.offset:
            has = "group has versions, of all members" if is_group(layout, mapping) else "array has versions"
            raise ValueError(f"cannot {doing} a part of {mapping.name!r}: only the whole {has}")
        return mapping

    def _laid_over(self, mapping: Mapping, memory: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return an array such as this one in a copy of its block."""
        return _new_array(np.ndarray, self.shape, self.dtype, memory, offset_of(self, mapping), self.strides)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _mapping(self, doing: str) -> Mapping:
        mapping = mapping_of(self)
        if mapping is None:
            raise ValueError(
                f"cannot {doing} this array: its memory is not shared; see sharedarray.share(array)"
            )
        return mapping

    def _span(self, mapping: Mapping) -> tuple[int, int]:
        """Return the first byte of this view in its block, and the byte behind its last."""
        if self.size == 0:
            return 0, 0
        low = high = offset_of(self, mapping)
        for length, stride in zip(self.shape, self.strides, strict=True):
            if stride < 0:
                low += (length - 1) * stride
            else:
                high += (length - 1) * stride
        return low, high + self.itemsize

    # -- NumPy's hooks --------------------------------------------------------------------------------

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False, /) -> Any:
        if array is self:
            return array
        if mapping_of(array) is not None:  # squeeze() and its like wrap a view
            return array.view(type(self))
        if return_scalar or (_BEFORE_RETURN_SCALAR and array.shape == ()):
            return array[()]
        return array.view(np.ndarray)

    def __getitem__(self, key: Any) -> Any:
        found = _getitem(self, key)
        # A view's base is a SharedArray, or the array over the mapping; a fancy result's is neither.
        if type(found) is SharedArray and type(found.base) is not SharedArray and mapping_of(found) is None:
            return found.view(np.ndarray)
        return found

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        versions.warn_of_data()
        return np.asarray(self).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()

    def __copy__(self) -> Any:
        return np.array(self, order="K")

    def __deepcopy__(self, memo: dict[int, Any] | None) -> Any:
        return np.array(self, order="K")

    def __repr__(self) -> str:
        mapping = mapping_of(self)
        if mapping is not None and _is_whole_object(self, mapping):
            return _object_text(mapping)
        text = super().__repr__()
        if mapping is None or not text.endswith(")"):
            return text
        state = ", closed" if mapping.released else ""
        return f"{text[:-1]}, name={mapping.name!r}{state})"

    def __str__(self) -> str:
        mapping = mapping_of(self)
        if mapping is not None and _is_whole_object(self, mapping):
            return _object_text(mapping)
        return super().__str__()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the facts, and a picture from a sample of the data."""
        from sharedarray import _display as display  # here: only notebooks ask

        data, mapping = self.view(np.ndarray), mapping_of(self)
        if mapping is not None and _is_whole_object(self, mapping):
            facts = [fact for fact in facts_of_block(mapping, len(mapping)) if fact[0] != "mode"]
            return display.card("object", [*facts, ("get it", f"sa.get({mapping.name!r})")])
        if mapping is not None and mapping.directory is None and hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_RANDOM)  # or the system reads ahead at every place: 11 s of 10 GiB
        try:
            drawn, below = display.picture(data), display.values(data)
        finally:
            if mapping is not None and mapping.directory is None and hasattr(mapping, "madvise"):
                mapping.madvise(mmap.MADV_NORMAL)
        return display.card(type(self).__name__, _facts(self), drawn=drawn, below=below)


def _is_whole_object(array: SharedArray, mapping: Mapping) -> bool:
    """Return whether an array is all of a block that `sharedarray.put` made, and not a part of it."""
    if mapping.directory is None or array.nbytes != len(mapping) - header.PAGE:
        return False
    return is_object(array.view(np.ndarray))


def _object_text(mapping: Mapping) -> str:
    """Return what an object's handle shows of itself: its bytes are of no use to a reader."""
    from sharedarray._display import human

    state = ", closed" if mapping.released else ""
    return f"<object {mapping.name!r}, {human(len(mapping))}{state}: sa.get({mapping.name!r}) returns it>"


_EXTENDED = 1 << 20  # bytes of rows of an iterator that are appended at once


def _rows_of(rows: Any, array: SharedArray) -> np.ndarray[Any, Any]:
    """Return what is appended to an array as an array of rows."""
    refuse_masked(rows, "append")
    given = rows.view(np.ndarray) if isinstance(rows, np.ndarray) else np.asarray(rows, array.dtype)
    if given.shape == array.shape[1:]:
        return given[np.newaxis]
    if given.ndim == array.ndim and given.shape[1:] == array.shape[1:]:
        return given
    raise ValueError(
        f"what is appended to {array.name!r} is a row of shape {array.shape[1:]}, or an array of such rows, "
        f"not an array of shape {given.shape}"
    )


def _grows(mapping: Mapping) -> bool:
    """Return whether an attachment is one of an array that grows."""
    found: bool | None = mapping.__dict__.get("grows")
    if found is None:  # it was attached to by a reference
        try:
            layout = header.decode(mapping[: header.PAGE], len(mapping), name=mapping.name, more=mapping)
        except errors.HeaderError:  # it is no block of an array
            return False
        found = mapping.__dict__["grows"] = layout.size < len(mapping) and is_growing(mapping, layout)
    return found


def _facts(array: SharedArray) -> list[tuple[str, str]]:
    """Return the facts about an array, the most wanted one first."""
    mapping = mapping_of(array)
    name, *others = facts_of_block(mapping, array.nbytes)
    facts = [name, ("shape", str(array.shape)), ("dtype", str(array.dtype)), *others]
    if mapping is not None and not mapping.released and _grows(mapping):
        facts.insert(2, ("capacity", f"{growth_of(mapping).capacity:,} rows"))
    return facts


def facts_of_block(mapping: Mapping | None, nbytes: int) -> list[tuple[str, str]]:
    """Return what there is to say of a block, beginning with its name, of which a user has `nbytes` bytes."""
    from sharedarray._display import block_table
    from sharedarray._programs import programs_of

    size = f"{human(nbytes)} ({grouped(nbytes)} bytes)"
    if mapping is None:
        return [("name", "none: this memory is not shared"), ("size", size)]
    if mapping.released:
        holders = "not known: this process has closed it"
    elif mapping.directory is None:
        holders = "not counted: it is a file, which stays"
    else:
        key = (mapping.device, mapping.inode)
        pids = platform.holders([key]).get(key, ())
        me = os.getpid()
        programs = programs_of(pids[:_SHOWN_HOLDERS])
        holders = ", ".join(
            [
                f"{pid} (this process)" if pid == me else block_table.process(pid, programs)
                for pid in pids[:_SHOWN_HOLDERS]
            ]
        )
        holders = f"{len(pids)}: {holders}" + (", …" if len(pids) > _SHOWN_HOLDERS else "")
    block = human(len(mapping) - header.PAGE)
    if not _grows(mapping) and nbytes < len(mapping) - header.PAGE and block != human(nbytes):
        size += f", of {block} in all"
    writes = {"r": "r (read-only)", "r+": "r+ (read and write)", "c": "c (copy-on-write)"}[mapping.mode]
    record = (
        None
        if mapping.directory is None
        else registry.read_record(mapping.directory, mapping.name, mapping.inode)
    )
    if record is not None and record.persist:
        holders += "; it persists until unlink"
    return [("name", mapping.name), ("size", size), ("mode", writes), ("holders", holders)]


# Methods whose result may have memory of its own; of each, an example of that: the data, and the call.
_MAY_COPY = {
    "argpartition": ("[3, 1, 2]", "argpartition(1)"),
    "argsort": ("[3, 1, 2]", "argsort()"),
    "astype": ("[3, 1, 2]", "astype(float)"),
    "byteswap": ("[3, 1, 2]", "byteswap()"),
    "choose": ("[0, 1, 0]", "choose([[1, 2, 3], [4, 5, 6]])"),
    "compress": ("[3, 1, 2]", "compress([True, False, True])"),
    "conj": ("[3j, 1, 2]", "conj()"),
    "conjugate": ("[3j, 1, 2]", "conjugate()"),
    "copy": ("[3, 1, 2]", "copy()"),
    "dot": ("[3, 1, 2]", "dot(2)"),
    "flatten": ("[[3, 1], [2, 4]]", "flatten()"),
    "ravel": ("[[3, 1], [2, 4]]", "T.ravel()"),
    "repeat": ("[3, 1, 2]", "repeat(2)"),
    "reshape": ("[[3, 1], [2, 4]]", "T.reshape(4)"),
    "searchsorted": ("[1, 2, 3]", "searchsorted([2, 3])"),
    "take": ("[3, 1, 2]", "take([0, 2])"),
}

_PLAIN_DOC = """As `numpy.ndarray.{name}`; a plain array if the result has memory of its own.

    Parameters
    ----------
    *args, **kwargs
        As for `numpy.ndarray.{name}`.

    Returns
    -------
    ndarray
        A `SharedArray` only if it is a view of this array's block.

    Examples
    --------
    >>> import sharedarray as sa
    >>> type(sa.share({data}).{call}).__name__
    'ndarray'
    """


def _plain(name: str, data: str, call: str) -> Any:
    """Override a method whose result has memory of its own, such that it is a plain array."""
    method = getattr(np.ndarray, name)

    def plain(self: SharedArray, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        if isinstance(result, SharedArray) and mapping_of(result) is None:
            return result.view(np.ndarray)
        return result

    plain.__name__ = name
    plain.__qualname__ = f"SharedArray.{name}"
    plain.__doc__ = _PLAIN_DOC.format(name=name, data=data, call=call)
    return plain


for _name, (_data, _call) in _MAY_COPY.items():
    setattr(SharedArray, _name, _plain(_name, _data, _call))
del _name, _data, _call


# -- making and attaching -------------------------------------------------------------------------------


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype by NumPy's own rules, and with the words of its errors."""
    try:
        return np.dtype(dtype)
    except TypeError as error:
        given: Any = dtype
        if isinstance(given, int | np.integer):
            error.add_note("The lengths of several axes are one argument, a tuple, as in zeros((3, 4)).")
        elif isinstance(dtype, str):
            error.add_note(f"For a block's name write name={dtype!r}.")
        raise


_NO_BYTES = np.dtype("V0")
_TOO_BIG = (  # NumPy's words
    "array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size."
)


def as_shape(shape: ShapeLike) -> tuple[int, ...]:
    """Return a shape as a tuple of ints, by NumPy's own rules and with the words of its errors."""
    try:
        if shape is None:
            raise TypeError("Use () not None as shape arguments")  # as NumPy does from 2.0 on
        return np.empty(shape, _NO_BYTES).shape
    except TypeError as error:
        note = "A shape is an int or a tuple of ints, as in zeros(3) and zeros((3, 4))"
        if isinstance(shape, str):
            note += "; to find the array of this name, write attach(name)"
        elif isinstance(shape, np.ndarray):
            note += "; to share the data of an array, write share(array)"
        error.add_note(f"{note}.")
        raise


def make(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: BlockOptions,
    *,
    fortran: bool,
    data: Sequence[memoryview] = (),
    fill: Callable[[segment.Write, int], None] | None = None,
) -> SharedArray:
    """Make a block with the header for this array, and attach to it.

    `data` is the array's bytes in memory order; `fill(write, offset)` writes them instead. Without either
    they are zero. Metadata of the dtype stays with the array, and with references to it; the block has no
    place for it.
    """
    options.check()
    while dtype.subdtype is not None:  # NumPy appends a sub-array's axes to the array's
        dtype, axes = dtype.subdtype
        shape = as_shape(shape + axes)
    header.check_dtype(dtype)
    if math.prod(length for length in shape if length) * dtype.itemsize > sys.maxsize:
        raise ValueError(_TOO_BIG)
    if len(shape) < 2:
        fortran = False
    page = header.encode(dtype, shape, fortran=fortran)
    try:
        layout = header.decode(page, len(page) + math.prod(shape) * dtype.itemsize, name="the new array")
    except errors.HeaderError as error:
        raise ValueError(f"an array cannot have this shape: {error.found}") from None

    def create() -> SharedArray:
        mapping = segment.create(
            layout.size,
            options,
            buffers=[memoryview(page), *data],
            fill=None if fill is None else (lambda write: fill(write, layout.offset)),
        )
        return over(mapping, layout)

    if options.is_named and dtypes.has_metadata(dtype):
        warnings.warn(
            "an NPY header stores no metadata of a dtype: attach() and open() will give the dtype without it",
            UserWarning,
            stacklevel=registry.level_of_caller(),
        )
    if options.exist_ok and options.is_named:
        made = _found_or_made(create, layout, options, grows=False)
    else:
        made = create()
    # A header tells nothing of metadata, nor of records' scalar class or alignment.
    if dtype.metadata or dtype.names is not None:
        made = np.ndarray.view(made, dtype)  # type: ignore[assignment]
    return made


def persisted(found: Any, mapping: Mapping | None) -> bool:
    """Make an array or a group that was found persist; return False if it was removed meanwhile."""
    if mapping is None or mapping.directory is None:
        return True
    try:
        found.persist()
    except (errors.BlockNotFoundError, errors.NotOursError):
        # A file without a record stays anyway: another program or another user put it there.
        return platform.inode_of(mapping.path) == mapping.inode
    return True


def if_taken(file: bool) -> str:
    """Return what to do if something else has the name, or the path of a file."""
    if file:
        return "another path, or remove the file first"
    return "another name, or replace=True to make a new one in its place"


_KINDS = "an array of", "an array that grows to"  # a shape


def _found_or_made(
    create: Callable[[], SharedArray],
    layout: header.Layout,
    options: BlockOptions,
    *,
    grows: bool,
) -> SharedArray:
    """Return the array that is there, if it is such a one; a new one where there is none.

    Of many that ask at once one makes it, and the others get that one. What others do between our two looks
    sends us round again, so each turn is a turn that another process has taken.
    """
    while True:
        found = _found(options.name, options.file)
        if found is None:
            try:
                return create()
            except errors.BlockExistsError:
                continue
        _check_same(found, layout, grows)
        if not options.persist or persisted(found, mapping_of(found)):
            return found


def _found(name: str | None, file: str | os.PathLike[str] | None) -> SharedArray | None:
    try:
        if file is None:
            assert name is not None
            if segment.freed(registry.directory(), name):
                return None  # what killed processes have left is not taken over
        found: Any = attach(str(name)) if file is None else open(file)
        if isinstance(found, SharedArray):
            return found
        found.close()
        raise errors.BlockExistsError(
            f"the name {name or file!r} is taken by something else than an array",
            name=name,
            found=f"a {type(found).__name__}",
            expected="such an array as was asked for, or a free name",
            next_step=if_taken(file is not None),
        )
    except errors.BlockNotFoundError:
        return None
    except errors.HeaderError as error:
        raise errors.BlockExistsError(
            f"the name {name or file!r} is taken by something else than an array",
            name=error.name,
            found=error.found,
            expected="such an array as was asked for, or a free name",
            next_step=error.next_step,
        ) from error


def _check_same(found: SharedArray, layout: header.Layout, grows: bool) -> None:
    mapping = mapping_of(found)
    order = "F" if found.flags.fnc else "C"
    shape = found.shape
    found_grows = mapping is not None and _grows(mapping)
    if mapping is not None and found_grows:
        shape = growth_of(mapping).capacity, *shape[1:]
    if (shape, found.dtype, found_grows) == (layout.shape, layout.dtype, grows) and (
        order == layout.order or (found.flags.forc and found.flags.c_contiguous == found.flags.f_contiguous)
    ):
        return
    name = "" if mapping is None else mapping.name
    found.close()
    raise errors.BlockExistsError(
        f"the name {name!r} is taken by another kind of array",
        name=name,
        found=f"{_KINDS[found_grows]} shape {shape}, dtype {found.dtype}, order {order}",
        expected=f"{_KINDS[grows]} shape {layout.shape}, dtype {layout.dtype}, order {layout.order}",
        next_step=if_taken(mapping is not None and mapping.directory is None),
    )


def over(mapping: Mapping, layout: header.Layout) -> SharedArray:
    """Return the array that a block's header describes."""
    return _new_array(
        SharedArray,
        layout.shape,
        layout.dtype,
        _frombuffer(mapping, _BYTE),  # which keeps the mapping open: `ndarray` alone would not
        layout.offset,
        None,
        layout.order,
    )


def _growing(mapping: Mapping, layout: header.Layout) -> SharedArray:
    """Return the array in a block in which it grows, with the length of this moment."""
    mapping.__dict__["grows"] = True
    growth = growth_of(mapping)
    shape = growth.capacity, *layout.shape[1:]
    # Made with the length that it may have, so that NumPy counts it as contiguous in this one order.
    array = over(mapping, layout._replace(shape=shape))
    set_length(array, max(growth.length(), layout.shape[0]))
    return array


def make_growing(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: BlockOptions,
    *,
    capacity: int,
) -> SharedArray:
    """Make a block with an array of zeros whose first axis grows up to `capacity`."""
    options.check()
    while dtype.subdtype is not None:
        dtype, axes = dtype.subdtype
        shape += axes
    header.check_dtype(dtype)
    if not shape or not shape[0] <= capacity <= header.MOST_ROWS:
        raise ValueError(
            f"an array of shape {shape} cannot grow to a length of {capacity}: capacity is the most that the "
            f"first axis can have, which is not less than its length and at most {header.MOST_ROWS:,}"
        )
    head, control, size, parts = lay_out(dtype, shape, capacity)
    try:
        layout = header.decode(head, size, name="the new array")
    except errors.HeaderError as error:
        raise ValueError(f"an array cannot have this shape: {error.found}") from None

    def create() -> SharedArray:
        mapping = segment.create(
            size,
            options,
            buffers=[memoryview(head)],
            fill=lambda write: write(size - len(control), [memoryview(control)]),
            parts=parts,
        )
        return _growing(mapping, layout)

    if options.exist_ok and options.is_named:
        grown = layout._replace(shape=(capacity, *shape[1:]))
        return _found_or_made(create, grown, options, grows=True)
    return create()


def offset_of(view: np.ndarray[Any, Any], mapping: Mapping) -> int:
    """Return the offset in the block of the view's first element."""
    return address_of(view) - (mapping.address or _find_address(mapping))


def start_of(view: np.ndarray[Any, Any], mapping: Mapping) -> int:
    """Return the byte of the block at which a view begins; 0 for an empty one that lies outside the block."""
    start = offset_of(view, mapping)
    return start if view.size or 0 <= start <= len(mapping) else 0


def address_of(view: np.ndarray[Any, Any]) -> int:
    """Return the address of an array's first element in this process, whatever its dtype.

    The array interface has no word for the types of other packages.
    """
    return int(view.ctypes.data)


def is_all(array: SharedArray, mapping: Mapping) -> bool:
    """Return whether an array has all elements that `attach` finds in its block.

    Of an array that grows, it has them also if it has not taken over the latest rows.
    """
    page = mapping[: header.PAGE]
    layout = header.decode(page, len(mapping), name=mapping.name, more=mapping)
    low, high = array._span(mapping)
    if not _grows(mapping):
        length = layout.size - layout.offset
        return array.nbytes == length and (not length or (low, high) == (layout.offset, layout.size))
    growth = growth_of(mapping)
    length = growth.length() * growth.row
    if array.nbytes == length and (not length or (low, high) == (growth.start, growth.start + length)):
        return True
    return array.nbytes < length and not isinstance(array.base, SharedArray) and low in (0, growth.start)


def _find_address(mapping: Mapping) -> int:
    mapping.address = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    return mapping.address


def is_replaced(mapping: Mapping) -> bool:
    """Return whether another block, or file, has the name of an attachment."""
    inode = platform.inode_of(mapping.path)
    return inode is not None and inode != mapping.inode


def attached_again(mapping: Mapping) -> Any:
    """Return what has the name of an attachment now."""
    if mapping.directory is None:
        return open(mapping.name, mapping.mode)
    now = segment.attach(mapping.name, mapping.mode, directory=mapping.directory)
    return _view(now, platform.read(now.handle, header.PAGE))


def attach(name: str, mode: Mode = "r+", *, timeout: float | None = None) -> SharedArray:
    """Attach to the array of that name, in any process.

    Parameters
    ----------
    name : str
        The block's name.
    mode : {'r+', 'r', 'c'}
        Read and write; read-only, which the hardware enforces; or copy-on-write, where what is written
        stays private.
    timeout : float, optional
        Seconds to wait for a block of that name if there is none yet; ``math.inf`` to wait as long as it
        takes. None does not wait. Ctrl-C ends the wait.

    Returns
    -------
    SharedArray or Group
        Shape, dtype and order are the block's. It holds the block until closed or dropped. A `Group` if the
        name is that of one.

    Raises
    ------
    BlockNotFoundError
        There is none of that name, or none came in time (a `FileNotFoundError`).
    HeaderError
        What is there is no array (a `ValueError`); it is left as it is.
    InvalidNameError
        The name is no plain path component (a `ValueError`).

    Examples
    --------
    >>> import sharedarray as sa
    >>> frames = sa.share([1, 2, 3])
    >>> sa.attach(frames.name, "r")[1:].tolist()
    [2, 3]
    """
    mapping = segment.attach(name, mode, timeout=timeout)
    # Read, not looked at through the mapping: a page fault costs several times as much.
    return _view(mapping, platform.read(mapping.handle, header.PAGE))


def open(path: str | os.PathLike[str], mode: Mode = "r+") -> SharedArray:
    """Open an ``.npy`` file on disk as a shared array.

    Every process that opens it shares its pages. The file needs no lease, and is never removed; `flush`
    brings what was written onto the disk.

    Parameters
    ----------
    path : path_like
        The file.
    mode : {'r+', 'r', 'c'}
        Read and write, read-only, or copy-on-write.

    Raises
    ------
    BlockNotFoundError
        There is no such file (a `FileNotFoundError`).
    HeaderError
        It is no NPY file, or one of Python objects (a `ValueError`).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "table.npy")
    ...     np.save(path, np.arange(3))
    ...     table = sa.open(path)
    ...     print(int(table.sum()))
    ...     del table
    3
    """
    mapping = segment.open_file(path, mode)
    return _view(mapping, mapping[: header.PAGE])


# Called with what is attached if it is an array of bytes. They return another object for what these bytes are
# as a whole, and None if they do not know them.
opened_as: list[Callable[[Mapping, header.Layout], Any]] = []


def _view(mapping: Mapping, page: bytes) -> SharedArray:
    try:
        layout = header.decode(page, len(mapping), name=mapping.name, more=mapping)
        if layout.size < len(mapping):
            if is_growing(mapping, layout):
                return _growing(mapping, layout)
            show_again(mapping, layout)
        if layout.dtype is _BYTE and len(layout.shape) == 1:
            for opener in opened_as:
                found = opener(mapping, layout)
                if found is not None:
                    return found  # type: ignore[no-any-return]
        return over(mapping, layout)
    except errors.HeaderError as error:
        error.next_step = _other_ways(mapping)
        mapping.release()
        raise
    except BaseException:
        mapping.release()
        raise


def _other_ways(mapping: Mapping) -> str | None:
    """Return how to read what is no array."""
    if mapping.directory is None:
        return _cure_of_file(mapping)
    record = registry.read_record(mapping.directory, mapping.name, mapping.inode)
    if record is not None and record.kind == "list":
        return f"it is a list: sharedarray.ShareableList(name={mapping.name!r})"
    return f"for its plain bytes, sharedarray.SharedMemory({mapping.name!r})"


_ZIP = b"PK\x03\x04"


def _cure_of_file(mapping: Mapping) -> str | None:
    """Return how to share what is in a file that is no array of plain bytes."""
    start = bytes(mapping[: header.PAGE])
    path = mapping.path
    if start.startswith(_ZIP):
        return f"for all arrays of an .npz file in one block: sharedarray.share_group(name, {path!r})"
    if start[8:9] == b"{" and path.endswith(".safetensors"):
        return f"for all tensors of the file in one block: sharedarray.share_group(name, {path!r})"
    if start.startswith(header.MAGIC):
        if b"'|O'" in start or b"'O'" in start:
            return (
                "store it with a dtype of numbers or text, or share it as an object: "
                f"sharedarray.put(numpy.load({path!r}, allow_pickle=True), name=name)"
            )
        return "make the file again: it was cut off or damaged"
    return "read it with the library for its format, and share the array: sharedarray.share(array, name=name)"


# -- grips ----------------------------------------------------------------------------------------------


class Grip(np.ndarray[Any, Any]):
    """All bytes of an attachment: the arrays that arrived as references refer to it; see `reference`."""


def _grip_of(array: np.ndarray[Any, Any]) -> Grip | None:
    """Return the grip that an array has its memory from, None if it has none."""
    view: Any = array
    while view is not None and type(view) is not Grip:
        view = view.obj if type(view) is memoryview else getattr(view, "base", None)
    return view


def bytes_behind(array: np.ndarray[Any, Any], mapping: Mapping) -> np.ndarray[Any, Any]:
    """Return all bytes of an array's attachment, in use for as long as the array is."""
    grip = _grip_of(array)
    return np.frombuffer(mapping, np.uint8) if grip is None else grip


# -- arrays of other objects ------------------------------------------------------------------------------


class _Alive(weakref.ref[SharedArray]):
    """A reference that is equal to itself alone, for a set."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class WeakArrays:
    """Arrays for as long as they live, which are closed by who made them for others.

    No Python runs when one goes, as it does in `weakref.WeakValueDictionary`: an array's memory is freed just
    before, which takes long, and if Ctrl-C came meanwhile, it would be raised there, and be ignored.
    """

    def __init__(self) -> None:
        self._alive: set[_Alive] = set()
        self._closing = threading.Lock()

    def add(self, array: SharedArray) -> SharedArray:
        """Add an array, and return it."""
        self._alive.add(_Alive(array, self._alive.discard))
        return array

    def close(self) -> None:
        """Close all."""
        with self._closing:
            for reference in self._alive.copy():
                array = reference()
                if array is not None:
                    array.close()
