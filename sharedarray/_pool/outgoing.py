"""Messages to one worker: many short calls of one function share a message."""

from __future__ import annotations

import contextlib
import marshal
import pickle
from collections.abc import Collection, Sequence
from typing import Any, Final

from sharedarray import _reloads as reloads
from sharedarray._pool.calls import Function, Task
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import (
    AFRESH,
    HEADER,
    LAZY,
    PLAIN,
    RESULT_SLOT,
    SHARES,
    Entry,
    Kind,
    encode,
)
from sharedarray._pool.transport.slot import Slot
from sharedarray._reference import FORMAT

__all__ = ["Outgoing"]

_CALLS, _TASK = int(Kind.CALLS), int(Kind.TASK)
_pack = HEADER.pack
# Bytes of the head of a list in the format of marshal: its code and its length.
_LIST_HEAD: Final = 5


class Outgoing:
    """The messages to one worker. All methods are called with the pool's lock held.

    Parameters
    ----------
    channel
        The pool's ends of the worker's pipes.

    Attributes
    ----------
    functions
        Numbers of the functions that the worker has.
    known
        Slots of recycled memory that it may have mapped.
    blocks
        Shared blocks that it may have kept attached, by device and inode.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.functions: set[int] = set()
        self.known: set[int] = set()
        self.blocks: set[tuple[int, int]] = set()
        self._reloads = reloads.noted.count
        # Calls of one function that are not in a message yet: their arguments, how many, the function's
        # number, and the flags of the message.
        self._new: list[bytes] = []
        self._new_count = self._new_function = self._new_flags = 0

    def add(self, task: Task, slot: Slot | None = None, retired: Sequence[int] = ()) -> int:
        """Add the calls of a task, which `flush` sends; return the bytes of arguments packed only here.

        Parameters
        ----------
        task
            The calls.
        slot
            A slot for the result.
        retired
            Slots whose memory was freed: the worker forgets their mappings.
        """
        count = task.count - task.done
        if retired:
            self.retire(retired)
        if self._reloads != reloads.noted.count:
            self._reload()
        function = task.function
        number = 0
        if function is not None:
            number = function.number
            if number not in self.functions:
                self._define(function)
        pickled = task.pickled
        if task.is_small and slot is None:
            flags = LAZY if task.lazy else 0
            if self._new and (number != self._new_function or flags != self._new_flags):
                self._close_message()
            self._new_function, self._new_flags = number, flags
            self._new_count += count
            if pickled is not None:
                self._new.append(bytes(pickled.stream))
                return 0
            arguments: Any = task.arguments
            data = marshal.dumps(arguments, FORMAT)[_LIST_HEAD:]
            self._new.append(data)
            return len(data)
        assert pickled is not None
        self._close_message()
        kind, flags = (_CALLS, 0) if task.is_small else (_TASK, pickled.layout)
        if pickled.blocks:
            self._refers_to(pickled)
            flags |= SHARES
        if function is not None and function.pickled.shares:
            flags |= SHARES
        entries = list(pickled.entries)
        if slot is not None:
            self.known.add(slot.number)
            entries.append(slot.entry(RESULT_SLOT))
        self.known.update(pickled.slots)
        self._channel.queue(encode(kind, flags, 1, number, 0, 0, pickled.stream, entries, pickled.inline))
        return 0

    def _close_message(self) -> None:
        """Queue the message of the calls that were accepted last."""
        if self._new:
            self._channel.add(self._message())

    def _message(self) -> bytes:
        """Return that message."""
        new = self._new
        data = new[0] if len(new) == 1 else b"".join(new)
        new.clear()
        count, self._new_count = self._new_count, 0
        return _pack(_CALLS, self._new_flags, 0, count, self._new_function, len(data), 0, 0) + data

    def flush(self) -> bool:
        """Write what was accepted; return False if the kernel takes no more now.

        Raises
        ------
        OSError
            The process has ended.
        """
        if self._new:
            return self._channel.write(self._message())
        return self._channel.flush()

    def _queue(self, kind: Kind, number: int = 0, stream: bytes = b"") -> None:
        self._close_message()
        self._channel.queue(encode(kind, 0, 0, number, 0, 0, stream))

    def retire(self, retired: Sequence[int]) -> None:
        """Queue which slots' memory was freed."""
        self._queue(Kind.RETIRED, stream=pickle.dumps(retired))

    def _reload(self) -> None:
        """Queue which modules this process has loaded again."""
        before, self._reloads = self._reloads, reloads.noted.count
        self._queue(Kind.RELOAD, stream=pickle.dumps((reloads.since(before), reloads.path_since(before))))

    def _define(self, function: Function) -> None:
        self._close_message()
        self.functions.add(function.number)
        pickled = function.pickled
        self._refers_to(pickled)
        self.known.update(pickled.slots)
        flags = pickled.layout & PLAIN | (SHARES if pickled.shares else 0)
        if pickled.data and not flags & PLAIN:
            flags |= AFRESH
        number = function.number
        self._channel.queue(
            encode(Kind.DEFINE, flags, 0, number, 0, 0, pickled.stream, pickled.entries, pickled.inline)
        )

    def forget(self, number: int) -> bool:
        """Queue that a function is not needed any more; return whether this worker had it."""
        if number not in self.functions:
            return False
        self.functions.discard(number)
        self._queue(Kind.FORGET, number)
        return True

    def _refers_to(self, pickled: Pickled) -> None:
        for mapping in pickled.blocks:
            self.blocks.add((mapping.device, mapping.inode))

    def released(self, blocks: Collection[tuple[int, int]]) -> bool:
        """Queue which blocks the pool's process has released; return whether this worker had one."""
        had = self.blocks.intersection(blocks)
        self.blocks -= had
        if had:
            self._queue(Kind.RELEASED, stream=pickle.dumps(had))
        return bool(had)

    def send(self, kind: Kind, entries: Sequence[Entry] = ()) -> None:
        """Send a message now, behind what was added. If the process has ended, nothing is sent."""
        self._close_message()
        with contextlib.suppress(OSError):  # its exit is reported separately
            self._channel.send(encode(kind, entries=entries))
