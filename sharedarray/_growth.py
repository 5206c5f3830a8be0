r"""Arrays whose first axis grows: logs to which one process appends while others read.

::

    byte 0           an NPY page whose length of the first axis stands in 16 characters, at a multiple of 8
         offset      rows, up to the capacity; the pages behind the reserved ones are a hole in the file
         size - 4096 a page of control words (`sharedarray._control_page`), with at the beginning:
                     0  b"\x93SAGROW\n"        4  bytes of a row
                     1  capacity in rows      5  the byte up to which pages are reserved
                     2  the byte of the 16    6  how many appenders there have been
                     3  the byte of the rows  7  a length that is being published, else 0

**A length is published by one store.** The length is in these 16 characters only: for this library, for
`numpy.load`, and for any other reader of the format. An appender reserves pages, writes the
rows, and then stores the length. So a process that dies has published its rows or has not, and a reader finds
the current length. The lower 8 characters are one word. If more of them change, as at each 100 million
rows, word 7 has the length meanwhile, for the case that the appender dies; and the lower word is zero for a
moment, so that other readers find fewer rows than there are, and never more.

**One appender at a time**: it holds a lock on a byte far behind the data. A process that has appended is a
party with a state until it closes the array or ends in order. If its lease is free and its state is there,
it has died, and the processes that wait for more rows raise `ProducerDied`.

**A log in a file survives the loss of its control page**, as when a program copies the rows alone. Its header
shows that it is one (`lost_control`). It is an array of fixed length then, until it is asked for by
``exist_ok=True``: this writes the page anew (`restore`) and changes nothing else.

**The array that grows keeps its address.** Its memory is mapped up to the capacity, and only its first length
changes. NumPy has no call for that: `set_length` writes it where NumPy's own macros (``PyArray_DIMS``), which
each extension module has compiled in, read it.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from sharedarray import _errors as errors, _header as header, _segment as segment, _sigint as sigint
from sharedarray._clock import time
from sharedarray._control_page import STATE, WORDS, ControlPage, Party
from sharedarray._header import DIGITS, PAGE, Layout
from sharedarray._made_once import made_once
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._sizes import exact
from sharedarray._thresholds import APPENDED_BY_KERNEL

__all__ = [
    "Growth",
    "capacity_in",
    "cure_of_log",
    "grows",
    "growth_of",
    "is_growing",
    "lay_out",
    "lost_control",
    "restore",
    "set_length",
]

_Array: TypeAlias = np.ndarray[Any, Any]

_MAGIC = b"\x93SAGROW\n"
_CAPACITY, _DIGITS_AT, _ROWS_AT, _ROW_BYTES, _RESERVED, _APPENDERS, _CARRY = 1, 2, 3, 4, 5, 6, 7
_GRANULARITY = 1 << 16  # bytes: what every system can map from
_STEP = 1 << 20, 1 << 26  # bytes that are reserved at once: at first, and at most
_APPENDING = 1 << 59  # the byte that an appender locks: behind all data, and below the leases
_APPENDER = 1  # the state of a party that has appended
_PATIENCE = 10.0  # seconds for another process that restores the control page of a log
_PAUSE = 0.002  # seconds between two tries for its lock
_ZERO = int.from_bytes(b"00000000", sys.byteorder)


# -- the bytes ------------------------------------------------------------------------------------------


def lay_out(
    dtype: np.dtype[Any], shape: tuple[int, ...], capacity: int
) -> tuple[bytes, bytes, int, list[tuple[int, int]]]:
    """Lay out an array that grows.

    Returns
    -------
    head : bytes
        The NPY page.
    control : bytes
        The page of control words, at the end of the block.
    size : int
        Bytes of the block.
    parts : list of tuple of int
        The parts of the block whose pages are reserved at first.
    """
    head, digits = header.encode_growing(dtype, shape)
    row = math.prod(shape[1:]) * dtype.itemsize
    size = -(-(len(head) + capacity * row + WORDS * 8) // _GRANULARITY) * _GRANULARITY
    if size > np.iinfo(np.intp).max:
        raise ValueError(f"an array of {capacity} rows of {row} bytes does not fit an address space")
    start = size - WORDS * 8
    reserved = min(-(-(len(head) + shape[0] * row) // PAGE) * PAGE, start)
    words = np.zeros(WORDS, "<u8")
    words[: _APPENDERS + 1] = int.from_bytes(_MAGIC, "little"), capacity, digits, len(head), row, reserved, 0
    return head, words.tobytes(), size, [(0, reserved), (start, size)]


def is_growing(mapping: Any, layout: Layout) -> bool:
    """Return whether a block, of which `layout` is the header's, is one of an array that grows.

    Raises
    ------
    HeaderError
        It is, and it is damaged.
    """
    size = len(mapping)
    start = size - WORDS * 8
    if layout.size > start or size % PAGE or mapping[start : start + 8] != _MAGIC:
        return False
    _, capacity, digits, rows, row, reserved, _ = (
        int(word) for word in np.frombuffer(mapping[start : start + (_APPENDERS + 1) * 8], "<u8")
    )
    if (
        not layout.shape
        or layout.order != "C"
        or rows != layout.offset
        or row != math.prod(layout.shape[1:]) * layout.dtype.itemsize
        or not layout.shape[0] <= capacity < 1 << 62
        or rows + capacity * row > start
        or not layout.size <= reserved <= start
        or digits % 8
        or not 12 < digits < rows - DIGITS
        or not set(mapping[digits : digits + DIGITS]) <= set(b" 0123456789")
    ):
        raise errors.HeaderError(
            f"{mapping.name} is no usable array that grows",
            name=mapping.name,
            found=f"capacity {capacity}, rows of {row} bytes from byte {rows} on, reserved up to {reserved}",
            expected=f"what fits shape {layout.shape} of {layout.dtype} in a block of {exact(size)}",
            cause="the block was damaged, or made by a newer version",
        )
    return True


def lost_control(mapping: Any, layout: Layout) -> bool:
    """Return whether a file, which is not growing, has the header of an array that grows."""
    if mapping.directory is not None or not layout.shape or layout.order != "C":
        return False
    head, _ = header.encode_growing(layout.dtype, layout.shape)
    return bytes(mapping[: layout.offset]) == head


def cure_of_log(mapping: Any, layout: Layout) -> str:
    """Return how a log in a file gets a control page again."""
    described = np.lib.format.dtype_to_descr(layout.dtype)
    return (
        "its rows are there, and numpy.load reads them; exist_ok=True makes it a log again, as in "
        f"sharedarray.zeros({(0, *layout.shape[1:])}, {described!r}, file={mapping.path!r}, "
        "capacity=10_000_000, exist_ok=True)"
    )


def restore(mapping: Mapping, layout: Layout, capacity: int) -> None:
    """Write the control page of a log in a file anew, which it has lost. No other byte changes.

    Nothing happens if another process restores the page meanwhile, or appends all the time.
    """
    end = time.monotonic() + _PATIENCE
    with sigint.deferred:
        handle = segment.guarded_open(mapping)
        try:
            while not (taken := platform.lock(handle, _APPENDING, 1, shared=False, wait=False)):
                if time.monotonic() > end:
                    break
                with sigint.allowed:
                    time.sleep(_PAUSE)
            if taken:
                try:
                    if platform.status(handle).size == len(mapping) and not _is_whole(mapping, layout):
                        _write_control(mapping, handle, layout, capacity)
                finally:
                    platform.unlock(handle, _APPENDING, 1)
        finally:
            segment.guarded_close(handle)


def _is_whole(mapping: Mapping, layout: Layout) -> bool:
    try:
        return is_growing(mapping, layout)
    except errors.HeaderError:
        return False


def _write_control(mapping: Mapping, handle: int, layout: Layout, capacity: int) -> None:
    before = len(mapping)
    _, control, size, _ = lay_out(layout.dtype, layout.shape, capacity)
    if size < before:  # what is behind the rows stays, too
        size = -(-(before + len(control)) // _GRANULARITY) * _GRANULARITY
    start = size - len(control)
    directory = os.path.dirname(mapping.name)
    try:
        platform.reserve_parts(handle, size, [(start, size)])
    except OSError as error:
        raise segment.translated(error, directory, len(control), memory=False) from None
    platform.write(handle, start + 8, [memoryview(control)[8:]])
    platform.write(handle, start, [memoryview(control)[:8]])  # last: the file is a log from here on


def capacity_in(block: Any, layout: Layout) -> int | None:
    """Return how many rows an array can have; None if it does not grow. See `is_growing`."""
    if not is_growing(block, layout):
        return None
    start = len(block) - WORDS * 8 + _CAPACITY * 8
    return int.from_bytes(block[start : start + 8], "little")


# -- the length of an array -----------------------------------------------------------------------------

# struct PyArrayObject_fields behind the head that every object has: data, nd, dimensions, strides, base,
# descr, flags.
_DIMENSIONS = object.__basicsize__ + 16
_FLAGS = object.__basicsize__ + 48
_FORTRAN = 2  # NPY_ARRAY_F_CONTIGUOUS
_pointer, _length, _number = (
    ctypes.c_void_p.from_address,
    ctypes.c_ssize_t.from_address,
    ctypes.c_int.from_address,
)


@lru_cache(1)
def _check_structure() -> None:
    probe = np.zeros((3, 5), np.int16)[:, :4]
    dimensions = _pointer(id(probe) + _DIMENSIONS).value or 0
    at = dimensions and (
        _length(dimensions).value,
        _length(dimensions + ctypes.sizeof(ctypes.c_ssize_t)).value,
    )
    if at != probe.shape or _number(id(probe) + _FLAGS).value & 0xFFFF != probe.flags.num & 0xFFFF:
        raise errors.UnsupportedError(
            "arrays cannot grow in this interpreter",
            found="arrays of NumPy whose parts lie elsewhere in memory",
            expected="CPython, and NumPy 1 or 2",
        )


def set_length(array: _Array, length: int) -> None:
    """Set the length of the first axis of an array whose memory is as long, and longer than before."""
    _check_structure()
    dimensions = _pointer(id(array) + _DIMENSIONS).value
    assert dimensions is not None
    if length > 1 and array.ndim > 1 and array.flags.f_contiguous and math.prod(array.shape[1:]) != 1:
        # Short arrays may count as contiguous in both orders.
        flags = _number(id(array) + _FLAGS)
        flags.value &= ~_FORTRAN
    _length(dimensions).value = length


# -- one process ----------------------------------------------------------------------------------------


class Growth(ControlPage):
    """The growth of one attachment.

    Attributes
    ----------
    capacity : int
        Rows at most.
    row : int
        Bytes of a row.
    start : int
        The byte of the block at which the rows begin.
    """

    _appender: Party | None = None

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping, len(mapping) - WORDS * 8, len(mapping))
        words = self.words
        self.capacity, self._digits = int(words[_CAPACITY]), int(words[_DIGITS_AT])
        self.start, self.row = int(words[_ROWS_AT]), int(words[_ROW_BYTES])
        self._text = memoryview(self.memory)[self._digits : self._digits + DIGITS]
        self._halves = self._text.cast("Q")
        self._last = 0
        self._step = _STEP[0]
        self._lengthening = threading.Lock()

    # -- reading --------------------------------------------------------------------------------------

    def length(self) -> int:
        """Return how many rows are published, never fewer than before."""
        try:
            found = int(bytes(self._text))
        except ValueError:  # damaged by another program
            return self._last
        found = max(found, self.words[_CARRY])
        if self._last < found <= self.capacity:
            self._last = found
        return self._last

    def lengthen(self, array: _Array, length: int) -> None:
        """Set the length of an array, unless another thread has set a longer one."""
        with sigint.deferred, self._lengthening:
            if length > len(array):
                set_length(array, length)

    def wait_longer(self, mapping: Mapping, longer_than: int, timeout: float | None) -> int:
        """Wait until there are more rows; return how many there are when that is so, or time is over.

        Return -1 if there are no more rows and will be none, because all appenders have closed the array.

        Raises
        ------
        ProducerDied
            An appender has died, and no other one is at work.
        """

        def there() -> int:
            length = self.length()
            if length > longer_than:
                return length
            return self._ended(mapping, longer_than)

        found = self.wait(there, timeout, self._appending)
        return found or self.length()

    def _appending(self) -> list[int]:
        return [index for index, state in self.states() if state == _APPENDER]

    def _ended(self, mapping: Mapping, longer_than: int) -> int:
        """Return -1 if all appenders have closed the array, 0 if more rows may come."""
        if not self.words[_APPENDERS]:
            return 0
        appending = self._appending()
        if any(self.alive(index) for index in appending):
            return 0
        length = self.length()  # an appender may have published rows just before its end
        if length > longer_than:
            return length
        if not appending:
            return -1
        raise errors.ProducerDied(
            f"the process that appended to {mapping.name!r} has died",
            name=mapping.name,
            found=f"{length} rows, all that it published",
            next_step="append from another process, which goes on behind them",
        )

    # -- appending ------------------------------------------------------------------------------------

    def begin(self, mapping: Mapping, timeout: float | None) -> None:
        """Become the only appender until `end`; to be called in a deferred block.

        Raises
        ------
        LockTimeout
            Another one was at work until time was over.
        """
        if not self.take_turn(_APPENDING, timeout, "append to"):
            raise errors.LockTimeout(
                f"another thread or process appends to {mapping.name!r}",
                name=mapping.name,
                found=f"its lock was taken for {timeout} s",
            )
        try:
            if self._appender is None:
                self._begin()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Let others append."""
        self.end_turn(_APPENDING)

    def _begin(self) -> None:
        """Become an appender, with the lock held."""
        party = self.claim()
        if party is None:
            return  # there are too many parties: readers will not notice the end of this process
        # Clear the states of appenders that have died: this process appends in their place.
        for index in self._appending():
            self.clear_dead(index, party)
        self.words[STATE + party.index] = _APPENDER
        self.words[_APPENDERS] += 1
        self._appender = party

    def write(self, mapping: Mapping, rows: _Array, length: int, target: _Array) -> None:
        """Write rows behind the first `length` ones, with the lock held; reserve their pages before.

        `target` is where they belong, in a mapping.
        """
        end = self.start + length * self.row + rows.nbytes
        as_it_is = rows.dtype == target.dtype and rows.flags.c_contiguous
        reserved = int(self.words[_RESERVED])
        directory = mapping.directory or os.path.dirname(mapping.name)
        try:
            if as_it_is and rows.nbytes >= APPENDED_BY_KERNEL:
                # This reserves pages as it writes, in half of the time that both take.
                data = rows.reshape(-1).view(np.uint8).data
                platform.write(self.handle, self.start + length * self.row, [data])
                if end > reserved:
                    self.words[_RESERVED] = min(-(-end // PAGE) * PAGE, len(self.memory) - WORDS * 8)
                return
            end = self.start + length * self.row + target.nbytes
            if end > reserved:
                self._reserve(reserved, end)
        except OSError as error:
            raise segment.translated(
                error, directory, max(0, end - reserved), memory=mapping.directory is not None
            ) from None
        target[...] = rows

    def _reserve(self, reserved: int, needed: int) -> None:
        size = len(self.memory)
        last = size - WORDS * 8
        end = min(-(-max(needed, reserved + self._step) // PAGE) * PAGE, last)
        try:
            platform.reserve_parts(self.handle, size, [(reserved, end)])
        except OSError:
            end = min(-(-needed // PAGE) * PAGE, last)  # there may be memory for the rows alone
            platform.reserve_parts(self.handle, size, [(reserved, end)])
        self._step = min(2 * self._step, _STEP[1])
        self.words[_RESERVED] = end

    def publish(self, length: int) -> None:
        """Store a length, with the lock held and the rows written."""
        self.fence()
        text = header.growing_length(length)
        upper, lower = (int.from_bytes(half, sys.byteorder) for half in (text[:8], text[8:]))
        if self._halves[0] == upper and not self.words[_CARRY]:
            self._halves[1] = lower
            return
        self.words[_CARRY] = length
        for half, value in ((1, _ZERO), (0, upper), (1, lower)):
            self.fence()
            self._halves[half] = value
        self.fence()
        self.words[_CARRY] = 0

    def before_release(self) -> None:
        """Wake the processes that wait, because this process appends no more."""
        if self._appender is not None:
            self.words[STATE + self._appender.index] = 0
            self.wake_by(self._appender)


def growth_of(mapping: Mapping) -> Growth:
    """Return the `Growth` of an attachment, for a block of which `is_growing` is true."""
    return made_once(mapping, "growth", lambda: Growth(mapping))


def grows(mapping: Mapping) -> bool:
    """Return whether an attachment is one of an array that grows."""
    found: bool | None = mapping.__dict__.get("grows")
    if found is None:  # it was attached to by a reference
        try:
            layout = header.decode(mapping[:PAGE], len(mapping), name=mapping.name, more=mapping)
        except errors.HeaderError:  # it is no block of an array
            return False
        found = mapping.__dict__["grows"] = layout.size < len(mapping) and is_growing(mapping, layout)
    return found
