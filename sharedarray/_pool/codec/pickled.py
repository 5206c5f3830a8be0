"""One message: a stream, the buffers that it left out, and the table that says where they are."""

from __future__ import annotations

import marshal
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from sharedarray._pool.codec.account import Account
from sharedarray._pool.codec.arrays import OutOfBandBuffer, contiguous
from sharedarray._pool.transport.memory import Source
from sharedarray._pool.transport.messages import PLAIN, PRIVATE, STREAM, Buffer, Entry, new_entry
from sharedarray._pool.transport.slot import Slot
from sharedarray._pool.transport.slots import PrivateCopy, Store
from sharedarray._reference import FORMAT
from sharedarray._segment import Mapping
from sharedarray._thresholds import OUT_OF_BAND

__all__ = ["Pickled", "Short", "marshalled"]


class Pickled:
    """A stream and what was left out of it.

    Parameters
    ----------
    stream
        The bytes; see ``layout``. They are empty if they were copied to a slot.
    buffers
        What was left out, in order.
    blocks
        The attachments of the shared blocks that it refers to.
    data
        Whether it has arrays in it, or beside it, that the receiver gets as its own.
    account
        The bytes of each argument, if they were counted.
    layout
        Of the stream, as flags of a message: 0, pickled; PLAIN, in the format of `marshal`.

    Attributes
    ----------
    short
        Whether all of it is in the stream, and that fits into the pipe.
    sendable
        Whether it can be sent without copying anything before.
    entries
        The table of the buffers.
    inline
        What has to go through the pipe because there is no memory for it.
    slots
        The numbers of the slots that anything is in.
    """

    __slots__ = (
        "__weakref__",
        "_private",
        "account",
        "blocks",
        "buffers",
        "data",
        "entries",
        "inline",
        "layout",
        "sendable",
        "short",
        "slots",
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
        self.entries: Sequence[Entry] = ()
        self.inline: Sequence[Buffer] = ()
        self.slots: Sequence[int] = ()
        self._private: PrivateCopy | None = None

    @property
    def shares(self) -> bool:
        """True if it refers to shared blocks."""
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
        if len(self.stream) >= OUT_OF_BAND:
            sources.append(self.stream)
            lengths.append(len(self.stream))
        found = store.put(sources, lengths, within) if sources else None
        if found is not None:
            found[0].send_with(self)
        if within is not None and not (complete and (found is not None or not sources)):
            if found is not None:
                found[0].put_back()
            return False
        self._locate(found, PRIVATE if private else 0)
        self._private = None
        self.sendable = True
        return True

    def _locate(self, found: tuple[Slot, Sequence[int]] | None, flags: int) -> None:
        """Write down where the buffers are; those that found no slot go through the pipe."""
        slot, starts = (None, ()) if found is None else found
        entries: list[Entry] = []
        inline: list[Buffer] = []
        copied = 0
        for buffer in self.buffers:
            if buffer.slot is not None:
                entries.append(buffer.slot.entry(PRIVATE, 0, buffer.length))
            elif slot is not None and not buffer.many:
                entries.append(slot.entry(flags, starts[copied], buffer.length))
                copied += 1
                buffer.source = None
            else:
                assert buffer.source is not None
                inline.append(contiguous(buffer.source))
                entries.append(new_entry(Entry, (0, 0, 0, 0, 0, buffer.length)))
        self.slots = [entry.slot for entry in entries if entry.slot]
        self.inline = inline
        if slot is not None and len(self.stream) >= OUT_OF_BAND:
            entries.append(slot.entry(STREAM, starts[copied], len(self.stream)))
            self.stream = b""
        self.entries = entries

    def copy_now(self, store: Store) -> None:
        """Copy what found no slot into this process's own memory, unless that is too much.

        So what is sent later is what it was when it was given.
        """
        ours = [(buffer, buffer.source) for buffer in self.buffers if buffer.source is not None]
        self._private = store.count_private(sum(buffer.length for buffer, _ in ours))
        if self._private is not None:
            for buffer, source in ours:
                buffer.source = source.copy() if isinstance(source, np.ndarray) else bytes(source)

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
    entries = inline = slots = ()

    def __init__(self, stream: Buffer) -> None:
        self.stream = stream


def marshalled(obj: Any) -> Pickled:
    """Return something in the format of `marshal`."""
    stream = marshal.dumps(obj, FORMAT)
    return Short(stream) if len(stream) < OUT_OF_BAND else Pickled(stream, layout=PLAIN)
