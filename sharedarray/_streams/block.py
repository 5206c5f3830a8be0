"""The block of a stream: making it, attaching to it, its slots and tables."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from sharedarray import _errors as errors, _header as header, _segment as segment
from sharedarray._platform import platform
from sharedarray._segment import Mapping
from sharedarray._streams import words as w
from sharedarray._streams.words import Tables
from sharedarray._wakers import Waker

__all__ = ["KIND", "PRODUCER", "Block", "party_of"]

KIND = "stream"  # of the block's record
PRODUCER = 0  # the producer's party; those of consumers follow


def party_of(entry: int) -> int:
    """Return the party of the consumer with an entry, given as its first word."""
    return 1 + (entry - w.ENTRY) // w.ENTRY_WORDS


class Block:
    """The attached block of a stream.

    Attributes
    ----------
    mapping : Mapping
        The attachment.
    shape, dtype
        Shape and dtype of an item.
    slots : int
        How many items the block holds.
    drops, fields : bool
        Whether the oldest items are dropped if a consumer is slow, and whether an item has several arrays.
    words, bytes : memoryview
        The control words, and the same as bytes.
    tables : Tables
        The offsets of the tables.
    offset, nbytes : int
        The byte of the first item, and bytes of an item.
    items : numpy.ndarray
        All slots, writable.
    index, whole, times : numpy.ndarray
        The tables.
    holds : numpy.ndarray
        The holds: slots × entries, of one byte each.
    hold_words : numpy.ndarray
        The same in words of 8 bytes.
    """

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        mapping.plain = True  # arrays in it are sent as data: only this process's views keep a slot
        self._map(platform.read(mapping.handle, header.PAGE))

    def _map(self, page: bytes) -> None:
        mapping, name = self.mapping, self.mapping.name
        layout = header.decode(page, len(mapping), name=name, more=mapping)
        start = -(-layout.size // w.PAGE) * w.PAGE
        slots = layout.shape[0] if layout.shape else 0
        self.tables = Tables.of(slots)
        if not 1 <= slots <= w.MOST_SLOTS or len(mapping) < start + self.tables.nbytes:
            raise _no_stream(name, "an array")
        self.bytes = memoryview(mapping)[start : start + self.tables.nbytes].cast("B")
        self.words = self.bytes.cast("Q")
        self.slots, self.shape, self.dtype = slots, layout.shape[1:], layout.dtype
        self.offset = layout.offset
        self.nbytes = layout.dtype.itemsize * math.prod(self.shape)
        found: np.ndarray[Any, Any] = np.frombuffer(self.words, np.uint64)
        index, whole, times, holds, end = self.tables
        self.index, self.whole = found[index:whole], found[whole:times]
        self.times = found[times : times + slots]
        self.holds = np.frombuffer(self.bytes, np.uint8)[holds:end].reshape(slots, w.ENTRIES)
        self.hold_words = self.holds.view(np.uint64)
        self.items = np.ndarray(layout.shape, layout.dtype, memoryview(mapping), self.offset)

    @property
    def drops(self) -> bool:
        return bool(self.words[w.DROPS])

    @property
    def fields(self) -> bool:
        return bool(self.words[w.FIELDS])

    @classmethod
    def attach(cls, name: str, directory: str | None = None) -> Block:
        """Attach to the stream of this name.

        Raises
        ------
        BlockNotFoundError, HeaderError
            There is no block of this name, or it is no stream.
        """
        mapping = segment.attach(name, directory=directory)
        try:
            made = cls(mapping)
            if made.words[w.MAGIC] != w.STREAM or made.words[w.SLOTS] != made.slots:
                raise _no_stream(name, "an array")
        except errors.HeaderError:
            mapping.release()
            raise _no_stream(name, "a block of another kind") from None
        except BaseException:
            mapping.release()
            raise
        return made

    @classmethod
    def make(
        cls,
        name: str | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        slots: int,
        drops: bool,
        fields: bool,
        persist: bool,
        replace: bool,
        prepare: Callable[[Block], None],
    ) -> Block:
        """Make the block of a stream; `prepare` is called before it has its name."""
        page = header.encode(dtype, (slots, *shape), fortran=False)
        start = -(-(len(page) + slots * dtype.itemsize * math.prod(shape)) // w.PAGE) * w.PAGE
        made: list[Block] = []

        def begin(mapping: Mapping) -> None:
            block = cls.__new__(cls)
            block.mapping = mapping
            mapping.plain = True
            block._map(page[: header.PAGE])
            block.words[w.SLOTS] = slots
            block.words[w.DROPS] = drops
            block.words[w.FIELDS] = fields
            block.words[w.MAGIC] = w.STREAM
            prepare(block)
            made.append(block)

        segment.create(
            start + Tables.of(slots).nbytes,
            segment.BlockOptions(name, persist, replace=replace, kind=KIND),
            buffers=[memoryview(page)],
            prepare=begin,
        )
        return made[-1]

    def read_only(self) -> mmap.mmap:
        """Map the block once more, read-only."""
        mapping = self.mapping
        return segment.with_handle(mapping, lambda handle: platform.map(mmap.mmap, handle, len(mapping), "r"))

    def waker(self) -> Waker:
        """Return a waker for a party of this stream."""
        words = self.words

        def pid_of(party: int) -> int:
            at = w.PRODUCER if party == PRODUCER else w.ENTRY + (party - 1) * w.ENTRY_WORDS + w.PID
            return int(words[at])

        return Waker(self.mapping, pid_of)

    def entries(self) -> list[int]:
        """Return the entries in use, each as its first word."""
        end = w.ENTRY + w.ENTRIES * w.ENTRY_WORDS
        return [entry for entry in range(w.ENTRY, end, w.ENTRY_WORDS) if self.words[entry + w.PID]]

    def sleepers(self) -> list[int]:
        """Return the parties of the consumers that sleep."""
        return [party_of(entry) for entry in self.entries() if self.words[entry + w.ASLEEP]]

    def clear(self, entry: int) -> None:
        """Free an entry. The caller has the lease of its party."""
        words = self.words
        self.holds[:, (entry - w.ENTRY) // w.ENTRY_WORDS] = 0
        for k in (w.LOSSLESS, w.NEXT, w.ASLEEP, w.LOST, w.WANTED, w.PID):
            words[entry + k] = 0

    def replaced(self) -> bool:
        """Return whether another block has the name by now."""
        inode = platform.inode_of(self.mapping.path)
        return inode is not None and inode != self.mapping.inode

    def random(self) -> int:
        """Return a random number, which no party has used before."""
        return int.from_bytes(os.urandom(8), "little") | 1


def _no_stream(name: str, found: str) -> errors.HeaderError:
    return errors.HeaderError(
        f"{name!r} is no stream",
        name=name,
        found=found,
        expected="a stream, as sharedarray.Stream(name, shape, dtype) makes it",
        next_step="sharedarray.attach(name) for an array",
    )
