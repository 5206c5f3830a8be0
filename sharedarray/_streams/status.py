"""The state of a stream, read from its control words without joining it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

from sharedarray._header import Layout
from sharedarray._platform import platform
from sharedarray._streams import words as w
from sharedarray._wakers import FIRST_LEASE

__all__ = ["ConsumerStatus", "StreamStatus", "status_of"]


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """One consumer of a stream.

    Attributes
    ----------
    pid : int
        Its process.
    position : int
        Position of the item that it takes next.
    lag : int
        Items that are published, and that it has not taken.
    lost : int
        Items that it did not get: they were overwritten, or skipped by `latest`.
    lossless : bool
        Whether the producer waits for it.
    waits : bool
        Whether it waits for an item.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Stream("stream_of_readers", 2) as writer, sa.Stream("stream_of_readers") as reader:
    ...     writer.put([1.0, 2.0])
    ...     (found,) = [each for each in sa.blocks() if each.name == "stream_of_readers"]
    ...     [(consumer.lag, consumer.lost) for consumer in found.stream.consumers]
    [(1, 0)]
    """

    pid: int
    position: int
    lag: int
    lost: int
    lossless: bool
    waits: bool


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream at one moment.

    Attributes
    ----------
    slots : int
        How many items it holds.
    full : {'wait', 'drop_oldest'}
        What its producer does if every slot has an item that a consumer needs.
    published : int
        Items published so far.
    closed : bool
        Whether its producer has closed it.
    producer : int or None
        Pid of the producer; None without a living one.
    waits : bool
        Whether the producer waits for a slot.
    consumers : tuple of ConsumerStatus
        The living consumers.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Stream("stream_of_status", 2, slots=4) as writer:
    ...     writer.put([1.0, 2.0])
    ...     (found,) = [each for each in sa.blocks() if each.name == "stream_of_status"]
    ...     found.stream.slots, found.stream.published, found.stream.closed
    (4, 1, False)
    """

    slots: int
    full: str
    published: int
    closed: bool
    producer: int | None
    waits: bool
    consumers: tuple[ConsumerStatus, ...]

    def as_json(self) -> dict[str, Any]:
        """Return this as JSON's types.

        Returns
        -------
        dict
            The attributes by name; `consumers` are a list of dicts.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_json", 2, slots=4) as writer:
        ...     (found,) = [each for each in sa.blocks() if each.name == "stream_of_json"]
        ...     found.stream.as_json()["consumers"]
        []
        """
        return {
            "slots": self.slots,
            "full": self.full,
            "published": self.published,
            "closed": self.closed,
            "producer": self.producer,
            "waits": self.waits,
            "consumers": [
                {name: getattr(consumer, name) for name in ConsumerStatus.__dataclass_fields__}
                for consumer in self.consumers
            ],
        }


def status_of(handle: int, layout: Layout, size: int) -> StreamStatus | None:
    """Return the state of the stream in an open block; None if its words are not those of a stream."""
    slots = layout.shape[0] if layout.shape else 0
    start = -(-layout.size // w.PAGE) * w.PAGE
    if not 1 <= slots <= w.MOST_SLOTS or size < start + w.Tables.of(slots).nbytes:
        return None
    mapping = platform.map(mmap.mmap, handle, size, "r")
    locks = platform.open_to_lock(handle)
    try:
        with memoryview(mapping) as block, block[start : start + w.HEADS] as part, part.cast("Q") as words:
            if words[w.MAGIC] != w.STREAM or words[w.SLOTS] != slots:
                return None
            published = words[w.HEAD]
            consumers = []
            for number in range(w.ENTRIES):
                entry = w.ENTRY + number * w.ENTRY_WORDS
                pid, following = words[entry + w.PID], words[entry + w.NEXT]
                if pid and platform.locked(locks, FIRST_LEASE + 1 + number, 1):
                    position = max(0, following - 1)
                    consumers.append(
                        ConsumerStatus(
                            pid=pid,
                            position=position,
                            lag=max(0, published - position),
                            lost=words[entry + w.LOST],
                            lossless=bool(words[entry + w.LOSSLESS]),
                            waits=bool(words[entry + w.ASLEEP]),
                        )
                    )
            return StreamStatus(
                slots=slots,
                full="drop_oldest" if words[w.DROPS] else "wait",
                published=published,
                closed=bool(words[w.END]),
                producer=words[w.PRODUCER] if platform.locked(locks, FIRST_LEASE, 1) else None,
                waits=bool(words[w.WAITING]),
                consumers=tuple(consumers),
            )
    finally:
        platform.close(locks)
        mapping.close()
