"""The producer of a stream: its calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

import numpy as np

from sharedarray import _sigint as sigint
from sharedarray._process_end import halt, halting
from sharedarray._streams import handover, words as w
from sharedarray._streams.base import Full, ShutDown, Stream
from sharedarray._streams.block import Block
from sharedarray._streams.handover import Producing
from sharedarray._streams.items import as_item, as_items, item_of
from sharedarray._streams.known_consumers import KnownConsumers
from sharedarray._streams.options import Options
from sharedarray._streams.party import live
from sharedarray._streams.slot_wait import SlotWait, was_closed
from sharedarray._streams.slots import NO_SLOT, Slots
from sharedarray._streams.turns import INHERITED, Token, enter
from sharedarray._streams.writer import Writer
from sharedarray._wakers import deadline_after

__all__ = ["Producer"]


class Producer(Stream):
    """A stream as its producer, which writes."""

    @halting
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._closed = True  # until the constructor has finished
        options = Options(*arguments, **keywords).of_producer()
        with sigint.deferred:  # if Ctrl-C has come, it comes when this can be closed
            self._begin()
            self._wait = SlotWait(self._fence)
            begun, taken_over = _begun(options)
            self._waker = begun.waker
            self._use(begun.block)
            self._consumers = KnownConsumers(begun.block, begun.waker, self._fence, begun.former)
            self._slots = Slots(self._consumers, self._fence)
            if taken_over:
                handover.go_on(begun.block)
            if begun.former is not None:
                begun.former.end()
            self._closed = False
            self._register()
            self._consumers.wake_all()

    def _repair(self) -> None:
        self._renew_fence()
        self._wait.fence = self._fence
        handover.forget_sleep(self._block)
        self._consumers.forget(self._fence)
        self._slots.read(self._fence)
        self._consumers.wake_all()
        self._turn.pop(0, None)

    def _repair_in_child(self) -> None:
        self._turn[0] = INHERITED
        raise handover.has_producer(self._block, alive=True, forked=True)

    # -- the calls

    def put(self, array: Any = None, timeout: float | None = None) -> Any:
        if array is None:
            return Writer(self, timeout)
        if type(array) is not np.ndarray or array.dtype != self.dtype or array.shape != self.shape:
            array = as_item(array, self._block)
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            if self._wait.closing or self._closed:
                raise was_closed(self.name)
            slots = self._slots
            slot = slots.find()
            if slot == NO_SLOT:
                slot = self._await_slot(timeout)
            if slot >= 0:
                self._block.items[slot] = array
            slots.publish(slot)
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]
        return None

    def _await_slot(self, timeout: float | None) -> int:
        """Wait for a slot; return `NO_SLOT` if the stream drops items."""
        return NO_SLOT if self._block.drops else self._wait.slot_of(self._slots, timeout)

    def _take_turn(self, token: Token, timeout: float | None) -> None:
        if not enter(self._turn, token, deadline_after(timeout), self):
            raise Full(f"another thread is writing to the stream {self.name!r}", name=self.name)

    def _give_up(self, error: BaseException) -> None:
        """End a call that was broken off."""
        if isinstance(error, (Full, ShutDown)):
            self._turn.pop(0, None)
        else:
            self._repair()
        halt()

    def put_many(self, arrays: Any, timeout: float | None = None) -> None:
        arrays = as_items(arrays, self._block)
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        done, count = 0, len(arrays)
        try:
            slots = self._slots
            while done < count:
                if self._wait.closing or self._closed:
                    raise was_closed(self.name)
                slot, n = slots.find_several(count - done)
                if slot == NO_SLOT:
                    slot = self._await_slot(timeout)
                if slot >= 0:
                    self._block.items[slot : slot + n] = arrays[done : done + n]
                if n == 1:
                    slots.publish(slot)
                else:
                    slots.publish_several(slot, n)
                done += n
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]

    def _open(self, writer: Writer, timeout: float | None) -> np.ndarray[Any, Any]:
        """Give a writer its slot."""
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            if self._wait.closing or self._closed:
                raise was_closed(self.name)
            slot = self._slots.find()
            if slot == NO_SLOT:
                slot = self._await_slot(timeout)
            if slot >= 0:
                self._slots.writers[slot] = weakref.ref(writer)
                block = self._block
                frame = np.ndarray(
                    self.shape, self.dtype, memoryview(block.mapping), block.offset + slot * block.nbytes
                )
            else:
                frame = np.empty(self.shape, self.dtype)
            writer.slot = slot
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]
        return frame

    def _end_writing(self, writer: Writer, *, publish: bool) -> None:
        """Publish the item that was written to a slot, or give the slot up."""
        if not publish and self._inherited():
            writer.slot = None  # which its parent goes on to write to
            return
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, None)
        slot, writer.slot = writer.slot, None
        try:
            if slot is None:
                raise RuntimeError("the slot was lost when an earlier call was broken off")
            if self._closed:
                if publish:
                    raise was_closed(self.name)
            elif publish:
                self._slots.publish(slot)
            elif slot >= 0:
                self._slots.give_up(slot)
            self._slots.writers.pop(slot, None)
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]

    @property
    def position(self) -> int:
        return self._slots.head - 1

    @property
    def time_ns(self) -> int:
        return self._slots.time_ns

    def _start(self) -> int:
        return self._slots.head

    # -- the end

    def close(self) -> None:
        self._wait.closing = True
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            if self._turn.get(0) is INHERITED or self._inherited():
                self._closed = True
                self._block.mapping.release()
                return
            self._waker.wake_self()
            enter(self._turn, token, None, self)
        if not self._closed:
            with sigint.deferred:  # a second call would find it closed, and not go on
                words = self._block.words
                words[w.END] = words[w.HEAD] + 1
                self._end()
        self._turn.pop(0, None)

    def _inherited(self) -> bool:
        """Return whether this is a forked child's copy of a producer."""
        return self._waker.index < 0

    def _end(self) -> None:
        self._consumers.wake_all()
        self._closed = True
        self._consumers.release_former()
        self._waker.release()
        self._block.mapping.release()


def _begun(options: Options) -> tuple[Producing, bool]:
    """Become the producer that the options ask for; return the stream, and whether it was taken over."""
    item = None if options.shape is None else item_of(options.shape, options.dtype)
    settings = {
        "slots": options.slots,
        "drops": options.full == "drop_oldest",
        "persist": options.persist,
    }
    found = handover.take_over(options.name, item) if options.takeover else None
    if found is not None:
        return found, True
    assert item is not None
    if options.replace:
        return handover.replace(options.name, item, settings, _own()), False
    return handover.make(options.name, item, settings), False


def _own() -> Iterator[tuple[Block, Callable[[], None]]]:
    """Yield the blocks of this process's producers, with what closes these."""
    for stream in live():
        if isinstance(stream, Producer) and not stream.closed and not stream._inherited():
            yield stream._block, stream._end
