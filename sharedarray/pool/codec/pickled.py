"""One message: a stream, the buffers that it left out, and the table that says where they are."""

from __future__ import annotations

import marshal
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from sharedarray.pool.codec.account import Account
from sharedarray.pool.codec.arrays import OutOfBandBuffer, SlotInUse, contiguous
from sharedarray.pool.transport.memory import Source
from sharedarray.pool.transport.messages import PLAIN, PRIVATE, STREAM, Buffer, Entry
from sharedarray.pool.transport.slots import PrivateCopy, Slot, Store
from sharedarray.reference import FORMAT
from sharedarray.segment import Mapping
from sharedarray.thresholds import OUT_OF_BAND

__all__ = ["Pickled", "Short", "marshalled"]


class Pickled:
    """A stream and what was left out of it.

    Attributes
    ----------
    stream
        The bytes; see ``layout``.
    buffers
        What was left out, in order.
    blocks
        The attachments of the shared blocks that it refers to.
    data
        Whether it has arrays in it, or beside it, that the receiver gets as its own.
    short
        Whether all of it is in the stream, and that fits into the pipe.
    sendable
        Whether everything is where it can be sent from.
    layout
        Of the stream, as flags of a message: 0, a pickle; PARTS, a call in parts; PLAIN, in the format of
        `marshal`.
    account
        The bytes of each argument, if they were counted.
    """

    __slots__ = (
        "_entries",
        "_in_use",
        "_inline",
        "_private",
        "account",
        "blocks",
        "buffers",
        "data",
        "layout",
        "sendable",
        "short",
        "stream",
    )

    def __init__(
        self,
        stream: Buffer,
        buffers: Sequence[OutOfBandBuffer] = (),
        blocks: Collection[Mapping] = (),
        data: bool = False,
        account: Account | None = None,
        layout: int = 0,
    ) -> None:
        self.stream = stream
        self.buffers = buffers
        self.blocks = blocks
        self.data = data
        self.short = self.sendable = not buffers and len(stream) < OUT_OF_BAND
        self.account = account
        self.layout = layout
        self._entries: list[Entry] | None = None
        self._inline: list[Buffer] = []
        self._in_use: SlotInUse | None = None
        self._private: PrivateCopy | None = None

    @property
    def shares(self) -> bool:
        """Whether it refers to shared blocks."""
        return bool(self.blocks)

    def copy_to_slots(self, store: Store, *, private: bool, within: int | None = None) -> bool:
        """Copy what is large into slots, unless that is done.

        Parameters
        ----------
        store
            The slots.
        private
            Whether the receiver must not write to the memory itself, because it may be sent again.
        within
            Return False rather than use more than so many bytes in all; None to send through the pipe if
            there is no memory.
        """
        if self.sendable:
            return True
        sources: list[Source] = []
        lengths: list[int] = []
        complete = True
        for buffer in self.buffers:
            if buffer.many:
                complete = buffer.copy_to_slot(store, within) and complete
            elif buffer.source is not None:
                sources.append(buffer.source)
                lengths.append(buffer.length)
        length = len(self.stream)
        if length >= OUT_OF_BAND:
            sources.append(self.stream)
            lengths.append(length)
        found = store.put(sources, lengths, within) if sources else None
        in_use = None if found is None else SlotInUse(found[0])
        if within is not None and not (complete and (found is not None or not sources)):
            return False
        self._in_use = in_use
        self._locate(found, PRIVATE if private else 0)
        self._private = None
        self.sendable = True
        return True

    def _locate(self, found: tuple[Slot, Sequence[int]] | None, flags: int) -> None:
        """Make the table, after the buffers were copied; those that found no slot go through the pipe."""
        slot, starts = (None, iter(())) if found is None else (found[0], iter(found[1]))
        self._entries = entries = []
        for buffer in self.buffers:
            at = buffer.slot if buffer.many else slot
            if at is None:
                assert buffer.source is not None
                self._inline.append(contiguous(buffer.source))
                entries.append(Entry(0, 0, 0, 0, 0, buffer.length))
            elif buffer.many:
                entries.append(at.entry(PRIVATE, 0, buffer.length))
            else:
                entries.append(at.entry(flags, next(starts), buffer.length))
                buffer.source = None
        if slot is not None and len(self.stream) >= OUT_OF_BAND:
            entries.append(slot.entry(STREAM, next(starts), len(self.stream)))
            self.stream = b""

    def copy_now(self, store: Store, *, within: int) -> None:
        """Copy what found no slot into this process's own memory, unless that is more than ``within`` bytes.

        So what is sent later is what it was when it was given.
        """
        ours = [(buffer, buffer.source) for buffer in self.buffers if buffer.source is not None]
        self._private = store.count_private(sum(buffer.length for buffer, _ in ours), within=within)
        if self._private is not None:
            for buffer, source in ours:
                buffer.source = source.copy() if isinstance(source, np.ndarray) else bytes(source)

    @property
    def entries(self) -> Sequence[Entry]:
        """The table that tells the receiver where everything is."""
        return self._entries or ()

    @property
    def inline(self) -> Sequence[Buffer]:
        """What has to go through the pipe because there is no memory for it."""
        return self._inline

    def sources(self) -> list[Source]:
        """Return what does not go through the pipe if there is memory; a long stream comes last."""
        found: list[Source] = [buffer.source for buffer in self.buffers if buffer.source is not None]
        return [*found, self.stream] if len(self.stream) >= OUT_OF_BAND else found

    def pieces(self) -> list[Buffer]:
        """Return what was left out of the stream, as it goes through a pipe."""
        return [contiguous(buffer.source) for buffer in self.buffers if buffer.source is not None]


class Short(Pickled):
    """Numbers and text: short, and with nothing beside. They come by the thousand."""

    __slots__ = ()
    buffers = ()
    blocks: Collection[Mapping] = ()
    account: Account | None = None
    data = False
    short = sendable = True
    layout = PLAIN
    _entries = None
    _inline: list[Buffer] = []  # noqa: RUF012  (never changed: there is nothing to be copied)
    _in_use = None

    def __init__(self, stream: Buffer) -> None:
        self.stream = stream


def marshalled(obj: Any) -> Pickled:
    """Return something in the format of `marshal`."""
    stream = marshal.dumps(obj, FORMAT)
    return Short(stream) if len(stream) < OUT_OF_BAND else Pickled(stream, layout=PLAIN)
