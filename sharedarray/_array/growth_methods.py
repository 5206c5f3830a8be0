"""Appending to an array that grows, and reading what was appended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from sharedarray import _errors as errors, _header as header, _sigint as sigint
from sharedarray._array.block_methods import BlockMethods
from sharedarray._array.memory import bytes_behind, offset_of
from sharedarray._growth import Growth, cure_of_log, grows, growth_of, lost_control
from sharedarray._masked import refuse_masked
from sharedarray._process_end import halt, halting
from sharedarray._segment import Mapping, mapping_of

if TYPE_CHECKING:
    from sharedarray._array.array import SharedArray

_new_array = np.ndarray.__new__
_EXTENDED = 1 << 20  # bytes of rows of an iterator that are appended at once


class GrowthMethods(BlockMethods):
    """The methods of `SharedArray` for arrays whose first axis grows."""

    __slots__ = ()
    _class_of_rows: ClassVar[type[SharedArray]]  # `SharedArray`, set where that is defined

    @property
    def capacity(self) -> int | None:
        """Greatest number of rows of an array with ``capacity=``; None for any other array."""
        mapping = mapping_of(self)
        return None if mapping is None or not grows(mapping) else growth_of(mapping).capacity

    @halting
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
        Appending costs some microseconds besides writing the rows into new memory. Append many at once where
        you can. A process that is killed while it appends has appended all of its rows or none.

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

    @halting
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
            try:
                growth = growth_of(mapping)
                found = growth.wait_longer(mapping, done, timeout)
            except Exception:
                halt()
                raise
            self.refresh()
            if found < 0:
                return
            if found <= done:
                raise TimeoutError(f"{mapping.name!r} has not more than {done} rows after {timeout} s")
            yield self._part(mapping, growth, done, found, self._class_of_rows)
            done = found
        halt()

    def _growth(self, doing: str) -> tuple[Mapping, Growth]:
        """Return the attachment and its `Growth`; raise `ValueError` if this array does not grow."""
        mapping = self._mapping(doing)
        if not grows(mapping):
            page = mapping[: header.PAGE]
            layout = header.decode(page, len(mapping), name=mapping.name, more=mapping)
            if lost_control(mapping, layout):
                raise ValueError(
                    f"cannot {doing} {mapping.name!r}: its file has lost the page of control words "
                    "at its end that makes it a log. Likely cause: it was cut off, or copied in part. "
                    f"Next step: {cure_of_log(mapping, layout)}"
                )
            raise ValueError(
                f"cannot {doing} {mapping.name!r}: it has a fixed length. Next step: make it with capacity=, "
                "as sharedarray.zeros((0, 4), capacity=10_000_000)"
            )
        growth = growth_of(mapping)
        whole = self.ndim and (not growth.row or self.strides[0] == growth.row)
        if (
            not whole
            or isinstance(self.base, self._class_of_rows)  # a view, which keeps its length
            or math.prod(self.shape[1:]) * self.itemsize != growth.row
            or offset_of(self, mapping) != growth.start
        ):
            raise ValueError(f"cannot {doing} a part of {mapping.name!r}: only the whole array grows")
        return mapping, growth

    def _part(self, mapping: Mapping, growth: Growth, start: int, stop: int, kind: type[Any]) -> Any:
        """Return the rows from `start` to `stop` as a view of that class."""
        return _new_array(
            kind,
            (stop - start, *self.shape[1:]),
            self.dtype,
            bytes_behind(self, mapping),
            growth.start + start * growth.row,
        )


def _rows_of(rows: Any, array: GrowthMethods) -> np.ndarray[Any, Any]:
    """Return the data for an array as rows, of its dtype if they are no array."""
    refuse_masked(rows, "append")
    try:
        given = rows.view(np.ndarray) if isinstance(rows, np.ndarray) else np.asarray(rows, array.dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"what is appended to {array.name!r} is a row of shape {array.shape[1:]} of {array.dtype}, or an "
            f"array of such rows: {error}"
        ) from None
    if given.shape == array.shape[1:]:
        return given[np.newaxis]
    if given.ndim == array.ndim and given.shape[1:] == array.shape[1:]:
        return given
    raise ValueError(
        f"what is appended to {array.name!r} is a row of shape {array.shape[1:]}, or an array of such rows, "
        f"not an array of shape {given.shape}"
    )
