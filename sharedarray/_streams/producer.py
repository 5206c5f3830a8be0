"""The producer of a stream: finding slots that no consumer needs, and publishing items.

The producer publishes an item in this order: it writes the data, the time, the entry in the index, the word
``whole`` of the slot, and HEAD. If it dies in between, the item does not exist, and the next item overwrites
its slot.

A slot may be overwritten if its item lies before the least position that a lossless consumer needs, and if no
consumer has it in use. The producer first clears the slot's word ``whole``, and then reads which consumers
use the slot. A consumer first marks the slot as in use, and then reads ``whole``. Each has a fence in
between, so that at least one of the two sees the other. When a consumer joins, it changes the word JOINED, so
that the producer finds it.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Iterable, Mapping as Fields
from threading import get_ident
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sharedarray import _errors as errors, _sigint as sigint
from sharedarray._clock import time
from sharedarray._process_end import halt, halting
from sharedarray._streams import words as w
from sharedarray._streams.base import Full, ShutDown, Stream, live
from sharedarray._streams.block import PRODUCER, Block, Item, item_of, party_of
from sharedarray._wakers import ENDING, Waker, deadline_after, seconds_until

__all__ = ["Producer"]

_ALL = 1 << 62  # a position above all others: no consumer needs any item
_WRITTEN = 1 << 63  # instead of a position, while the slot is being written
_NO_SLOT = -1  # instead of a slot, if every slot is in use and the stream drops items
_LOOKS = 0.001, 0.05  # seconds between two checks for arrays that consumers have dropped: first and longest


class Producer(Stream):
    """A stream as its producer, which writes."""

    @halting
    def __init__(
        self,
        name: str | None,
        shape: Any = None,
        dtype: DTypeLike = float,
        *,
        slots: int = 8,
        full: str = "wait",
        lossless: bool | None = None,
        history: int = 0,
        takeover: bool = False,
        replace: bool = False,
        persist: bool = False,
    ) -> None:
        self._closed = True  # until the constructor has finished
        if lossless is not None or history:
            raise TypeError("lossless and history are for consumers: sharedarray.Stream(name, history=…)")
        if takeover and replace:
            raise TypeError("takeover goes on with a stream, and replace makes another: give one of them")
        if isinstance(shape, Fields) and dtype is not float:
            raise TypeError(
                "a mapping of names to (shape, dtype) gives the dtype of each array: give no other"
            )
        slots = operator.index(slots)
        if full not in ("wait", "drop_oldest"):
            raise ValueError(f"full is 'wait' or 'drop_oldest', not {full!r}")
        if not 1 <= slots <= w.MOST_SLOTS:
            raise ValueError(f"a stream has 1 to {w.MOST_SLOTS} slots, not {slots}")
        self._begin()
        self._before: _Former | None = None
        self._writers: dict[int, weakref.ref[_Writer]] = {}
        self._scratch: np.ndarray[Any, Any] | None = None
        self._token = time.monotonic_ns() | 1
        item = None if shape is None else item_of(shape, dtype)
        settings = {"slots": slots, "drops": full == "drop_oldest", "persist": persist}
        if takeover and self._take_over(name, item):
            pass
        elif item is None:
            raise TypeError("a stream is made with a shape: sharedarray.Stream(name, shape, dtype)")
        elif replace:
            self._replace(name, item, settings)
        else:
            self._make(name, item, settings, replace=False)
        self._closed = False
        self._register()
        self._wake_all()

    # -- becoming the producer

    def _make(
        self,
        name: str | None,
        item: Item,
        settings: dict[str, Any],
        *,
        replace: bool,
    ) -> None:
        shape, dtype, fields = item
        wakers: list[Waker] = []

        def prepare(block: Block) -> None:
            waker = block.waker()
            wakers.append(waker)
            waker.claim(PRODUCER)
            block.words[w.PRODUCER] = os.getpid()
            block.words[w.SESSION] = 1

        try:
            block = Block.make(
                name, shape, dtype, fields=fields, replace=replace, prepare=prepare, **settings
            )
        except errors.BlockExistsError as error:
            for waker in wakers:
                waker.release()
            raise self._taken(str(name)) or error from None
        except BaseException:
            for waker in wakers:
                waker.release()
            raise
        for waker in wakers[:-1]:
            waker.release()
        self._waker = wakers[-1]
        self._use(block)
        self._recover()

    def _taken(self, name: str) -> errors.BlockExistsError | None:
        """Return the error for a name that a stream has; None if none has."""
        try:
            block = Block.attach(name)
        except (errors.SharedArrayError, OSError):
            return None
        try:
            waker = block.waker()
            try:
                return _has_producer(block, alive=waker.alive(PRODUCER))
            finally:
                waker.release()
        finally:
            block.mapping.release()

    def _take_over(self, name: str | None, item: Item | None) -> bool:
        """Become the producer of a stream that has none; return False if the stream has to be made."""
        if name is None:
            raise TypeError("a stream is taken over by its name")
        try:
            block = Block.attach(name)
        except errors.BlockNotFoundError:
            if item is None:
                raise
            return False
        try:
            if item is not None and item[:2] != (block.shape, block.dtype):
                raise _other_items(block, item)
            waker = block.waker()
            if not waker.claim(PRODUCER):
                waker.release()
                raise _has_producer(block, alive=True)
        except BaseException:
            block.mapping.release()
            raise
        self._waker = waker
        self._use(block)
        words = block.words
        words[w.WAITING] = 0
        words[w.PRODUCER] = os.getpid()
        for entry in block.entries():
            words[entry + w.WANTED] = 0
        self._recover()
        words[w.END] = 0
        words[w.SESSION] = words[w.SESSION] + 1
        return True

    def _replace(
        self,
        name: str | None,
        item: Item,
        settings: dict[str, Any],
    ) -> None:
        """Make another stream in place of the one that has the name; its consumers go on with the new one."""
        former = None
        if name is not None:
            try:
                former = _Former.of(name)
            except errors.BlockNotFoundError:
                pass
            except errors.HeaderError:
                pass  # an array is replaced as by another array
        try:
            self._make(name, item, settings, replace=True)
        except BaseException:
            if former is not None:
                former.release()
            raise
        if former is not None:
            former.end()
            self._before = former

    def _recover(self) -> None:
        """Read a producer's state from the block: at first, and after a call was broken off."""
        block, words = self._block, self._words
        slots, (index, whole, times, holds, _) = block.slots, block.tables
        self._index, self._whole, self._times, self._holds = index, whole, times, holds // w.WORD
        self._head = head = words[w.HEAD]
        self.position = head - 1
        at = [-1] * slots
        last = -1
        for position in range(max(0, head - slots), head):
            entry = words[index + position % slots]
            slot = entry & w.NO_SLOT
            if entry >> w.SLOT_BITS == position + 1 and slot < slots:
                last = slot
                if words[whole + slot] == position + 1:
                    at[slot] = position
        for slot in range(slots):
            if words[whole + slot] > head:
                words[whole + slot] = 0  # the item was written, but not published
        for slot, reference in list(self._writers.items()):
            writer = reference()
            if writer is None or writer.slot != slot:
                del self._writers[slot]
            else:
                at[slot] = _WRITTEN
        self._at, self._last = at, last
        self._woken: dict[int, int] = {}
        self._joined = -1
        self._entries: list[int] = []
        self._skipped = False
        self._least = -1

    def _repair(self) -> None:
        self._renew_fence()
        words = self._words
        words[w.WAITING] = 0
        for entry in self._block.entries():
            words[entry + w.WANTED] = 0
        self._recover()
        self._wake_all()
        self._turn.pop(0, None)

    def _repair_in_child(self) -> None:
        self._turn[0] = _INHERITED
        raise _has_producer(self._block, alive=True, forked=True)

    # -- consumers and the items that they need

    def _look_around(self) -> None:
        """Read from the block which consumers there are, and which items they need."""
        words = self._words
        self._fence()
        self._joined = words[w.JOINED]
        self._fence()
        self._entries = self._block.entries()
        if self._skipped:
            self._skipped = False
            for entry in self._entries[:]:
                self._clear_if_dead(entry)
        last = max(self._entries, default=w.ENTRY)
        self._hold_words = range((last - w.ENTRY) // w.ENTRY_WORDS // w.WORD + 1)
        self._find_least()

    def _fence(self) -> None:
        self._release()
        self._acquire()

    def _find_least(self) -> int:
        """Return the least position that a lossless consumer needs."""
        words = self._words
        least: int = _ALL
        for entry in self._entries:
            if words[entry + w.LOSSLESS]:
                following = words[entry]
                if following and following <= least:
                    least = following - 1
        if self._before is not None:
            if self._before.has_consumers():
                least = 0
            else:
                self._before.release()
                self._before = None
        self._least = least
        return least

    def _clear_if_dead(self, entry: int) -> bool:
        """Free the entry of a consumer if it has died; return whether it has."""
        party = party_of(entry)
        if not self._waker.take(party):
            return False
        try:
            if self._words[entry + w.PID]:
                self._block.clear(entry)
            self._joined = -1
        finally:
            self._waker.give_back(party)
        self._waker.forget(party)
        self._entries = [each for each in self._entries if each != entry]
        self._find_least()
        return True

    # -- slots

    def _held(self, slot: int) -> bool:
        """Return whether a consumer has a slot in use."""
        words, at = self._words, self._holds + slot * (w.ENTRIES // w.WORD)
        return any(words[at + k] for k in self._hold_words)

    def _claim(self, slot: int) -> bool:
        """Clear a slot's word ``whole``; return False if a consumer has the slot in use."""
        words, at = self._words, self._whole + slot
        words[at] = 0
        self._release()
        self._acquire()
        if words[w.JOINED] != self._joined:
            self._look_around()
        first = self._holds + slot * 4
        if not words[first] and self._at[slot] < self._least and not self._held(slot):
            self._at[slot] = _WRITTEN
            return True
        self._skipped = True
        words[at] = self._at[slot] + 1
        return False

    def _find(self, timeout: float | None) -> int:
        """Return a slot to write to; `_NO_SLOT` if the stream drops items and none is free."""
        if self._words[w.JOINED] != self._joined:
            self._look_around()
        slot = self._last + 1
        if slot >= self.slots:
            slot = 0
        at = self._at[slot]
        if (at < self._least or at < self._find_least()) and self._claim(slot):
            return slot
        found = self._search()
        if found == _NO_SLOT and not self._block.drops:
            found = self._await_slot(timeout)
        return found

    def _search(self) -> int:
        """Return a slot that may be overwritten; the search begins behind the last one."""
        self._look_around()
        start, slots = self._last + 1, self.slots
        slot: int
        for slot in (*range(start, slots), *range(min(start, slots))):
            if self._at[slot] < self._least and self._claim(slot):
                return slot
        if self._free_abandoned():
            return self._search()
        return _NO_SLOT

    def _free_abandoned(self) -> bool:
        """Free slots whose writer was dropped, or broken off before it could be used."""
        found = False
        for slot, reference in list(self._writers.items()):
            if reference() is None:
                del self._writers[slot]
                self._at[slot] = -1
                found = True
        return found

    def _await_slot(self, timeout: float | None) -> int:
        """Wait until a slot may be overwritten."""
        if timeout is not None and timeout <= 0:
            self._clear_dead_in_the_way()
            found = self._search()
            if found == _NO_SLOT:
                raise self._no_slot(timeout)
            return found
        end = deadline_after(timeout)
        start = time.perf_counter()
        found = self._spin.poll(self._maybe_free) if self._spin.worthwhile() else False
        while True:
            slot = self._search() if found else self._sleep(end)
            if slot != _NO_SLOT:
                self._spin.last = time.perf_counter() - start
                return slot
            found = False

    def _maybe_free(self) -> bool:
        slot = (self._last + 1) % self.slots
        return self._at[slot] < self._find_least() and not self._held(slot)

    def _in_the_way(self) -> list[int]:
        """Return the entries of the consumers for which the producer waits."""
        words, least = self._words, self._find_least()
        free = [slot for slot, at in enumerate(self._at) if at < least]
        holding = np.any(self._block.holds[free], axis=0).tolist()
        found = []
        for entry in self._entries:
            needs = words[entry + w.LOSSLESS] and words[entry] == least + 1
            if needs or holding[(entry - w.ENTRY) // w.ENTRY_WORDS]:
                found.append(entry)
        return found

    def _clear_dead_in_the_way(self) -> bool:
        return any(self._clear_if_dead(entry) for entry in self._in_the_way())

    def _any_free(self) -> bool:
        """Return whether any slot seems to be free to overwrite; no fence is made."""
        least = self._find_least()
        free = [slot for slot, at in enumerate(self._at) if at < least]
        return bool(free) and not self._block.hold_words[free].any(axis=1).all()

    def _sleep(self, end: float | None) -> int:
        """Sleep until a consumer gives up a slot, or one has died; return a slot if one is free then.

        Dropped arrays free their slots without a wake-up: so it looks from time to time.
        """
        words = self._words
        self._waker.drain()
        entries = self._in_the_way()
        self._token += 2
        for entry in entries:
            words[entry + w.WANTED] = self._token
        words[w.WAITING] = self._token
        self._release()
        self._acquire()
        try:
            slot = self._search()
            if slot != _NO_SLOT or self._clear_dead_in_the_way():
                return slot
            left = seconds_until(end)
            if self._closing:
                raise self._shut_down()
            if left is not None and left <= 0:
                raise self._no_slot(0)
            parties = [party_of(entry) for entry in entries]
            pause, longest = _LOOKS
            asked = False
            while not (gone := self._waker.wait(parties, pause if left is None else min(pause, left))):
                left = seconds_until(end)
                if self._waker.woken or left == 0 or self._any_free():
                    break
                if pause == longest and not asked:
                    self._ask_to_collect(entries)
                    asked = True
                pause = min(2 * pause, longest)
            if gone and not self._clear_dead_in_the_way():
                time.sleep(ENDING)
            return _NO_SLOT
        finally:
            words[w.WAITING] = 0
            for entry in entries:
                words[entry + w.WANTED] = 0

    def _ask_to_collect(self, entries: list[int]) -> None:
        """Let sleeping consumers collect items that they have in use only in cycles of references."""
        words = self._words
        for entry in entries:
            words[entry + w.WANTED] = self._token | w.COLLECT
        self._fence()
        for entry in entries:
            if words[entry + w.ASLEEP]:
                self._waker.wake(party_of(entry))

    def _no_slot(self, timeout: float) -> Full:
        pids = [self._words[entry + w.PID] for entry in self._in_the_way()]
        return Full(
            f"every slot of the stream {self.name!r} has an item that a consumer needs",
            name=self.name,
            found="consumers that are behind, or keep items: " + (", ".join(map(str, pids)) or "none"),
            next_step="wait for longer, make the stream with more slots, or with full='drop_oldest'",
        )

    def _shut_down(self) -> Exception:
        return ShutDown(f"the stream {self.name!r} was closed by this producer")

    # -- publishing

    def _publish(self, slot: int) -> None:
        words, position = self._words, self._head
        if not w.ORDERED:
            self._fence()  # the data are visible before the words of the item
        place = self._index + position % self.slots
        if slot >= 0:
            words[self._times + slot] = time.time_ns()
            words[place] = (position + 1) << 16 | slot
            words[self._whole + slot] = position + 1
        else:
            words[place] = (position + 1) << 16 | w.NO_SLOT
        if not w.ORDERED:
            self._fence()
        words[w.HEAD] = self._head = position + 1
        self._release()
        self._acquire()
        if slot >= 0:
            self._at[slot] = position
            self._last = slot
        self.position = position
        self._wake()

    def _wake(self) -> None:
        """Wake the consumers that sleep. There was a fence since the last item was published."""
        words = self._words
        if words[w.JOINED] != self._joined:
            self._look_around()
        for entry in self._entries:
            token = words[entry + 2]
            if token and self._woken.get(entry) != token:
                self._woken[entry] = token
                self._waker.wake(party_of(entry))

    def _wake_all(self) -> None:
        self._fence()
        for entry in self._block.entries():
            if self._words[entry + w.ASLEEP]:
                self._waker.wake(party_of(entry))

    # -- the calls

    def put(self, array: Any = None, timeout: float | None = None) -> Any:
        if array is None:
            return _Writer(self, timeout)
        if type(array) is not np.ndarray or array.dtype != self.dtype or array.shape != self.shape:
            array = self._checked(array)
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            if self._closing or self._closed:
                raise self._shut_down()
            slot = self._find(timeout)
            if slot >= 0:
                self._block.items[slot] = array
            self._publish(slot)
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]
        return None

    def _take_turn(self, token: tuple[int, ...], timeout: float | None) -> None:
        if not self._enter(token, deadline_after(timeout)):
            raise Full(f"another thread is writing to the stream {self.name!r}", name=self.name)

    def _give_up(self, error: BaseException) -> None:
        """End a call that was broken off."""
        if isinstance(error, (Full, ShutDown)):
            self._turn.pop(0, None)
        else:
            self._repair()
        halt()

    def _checked(self, array: Any) -> Any:
        """Return an item in a form that can be assigned to a slot.

        Raises
        ------
        ValueError, TypeError
            It has another shape, or elements that the dtype of the stream cannot take.
        """
        if isinstance(array, Fields):
            return self._from_fields(array)
        given = np.asarray(array)
        if given.shape != self.shape:
            raise ValueError(f"an item of the stream {self.name!r} has shape {self.shape}, not {given.shape}")
        weak = not hasattr(array, "dtype") and given.dtype.kind in "biufc" and self.dtype.names is None
        if not np.can_cast(given.dtype, self.dtype, "same_kind") and not (
            weak and np.array_equal(given.astype(self.dtype), given)
        ):
            raise TypeError(
                f"elements of the stream {self.name!r} are {self.dtype}, and cannot take {given.dtype}"
            )
        return given

    def _from_fields(self, arrays: Fields[str, Any]) -> np.ndarray[Any, Any]:
        names = self.dtype.names
        if names is None or set(names) != set(arrays):
            expected = "one array" if names is None else f"the arrays {', '.join(names)}"
            raise ValueError(
                f"an item of the stream {self.name!r} is {expected}, and not {', '.join(map(str, arrays))}"
            )
        made = np.zeros(self.shape, self.dtype)
        for name in names:
            made[name] = arrays[name]
        return made

    def put_many(self, arrays: Any, timeout: float | None = None) -> None:
        if not isinstance(arrays, np.ndarray):
            arrays = self._stacked(arrays)
        if arrays.shape[1:] != self.shape or arrays.ndim == 0:
            raise ValueError(
                f"items of the stream {self.name!r} have shape (n, *{self.shape}), not {arrays.shape}"
            )
        if arrays.dtype != self.dtype and not np.can_cast(arrays.dtype, self.dtype, "same_kind"):
            raise TypeError(
                f"elements of the stream {self.name!r} are {self.dtype}, and cannot take {arrays.dtype}"
            )
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        done, count = 0, len(arrays)
        try:
            while done < count:
                if self._closing or self._closed:
                    raise self._shut_down()
                slot, n = self._find_several(count - done, timeout)
                if slot >= 0:
                    self._block.items[slot : slot + n] = arrays[done : done + n]
                if n == 1:
                    self._publish(slot)
                else:
                    self._publish_several(slot, n)
                done += n
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]

    def _stacked(self, arrays: Iterable[Any]) -> np.ndarray[Any, Any]:
        items = [self._checked(array) for array in arrays]
        made = np.empty((len(items), *self.shape), self.dtype)
        for k, item in enumerate(items):
            made[k] = item
        return made

    def _find_several(self, most: int, timeout: float | None) -> tuple[int, int]:
        """Return the first of several adjacent slots to write to, and how many they are."""
        slot = self._last + 1
        if slot >= self.slots:
            slot = 0
        n = min(most, self.slots - slot)
        if self._words[w.JOINED] != self._joined:
            self._look_around()
        at = self._at[slot : slot + n]
        if max(at) >= self._least and max(at) >= self._find_least():
            least = self._least
            n = next(k for k, position in enumerate(at) if position >= least)
        if n > 1 and self._claim_several(slot, n):
            return slot, n
        return self._find(timeout), 1

    def _claim_several(self, slot: int, n: int) -> bool:
        """Clear the words ``whole`` of slots; return False if a consumer has one of them in use."""
        block, joined = self._block, self._joined
        block.whole[slot : slot + n] = 0
        self._release()
        self._acquire()
        if self._words[w.JOINED] == joined and not block.hold_words[slot : slot + n].any():
            self._at[slot : slot + n] = [_WRITTEN] * n
            return True
        block.whole[slot : slot + n] = np.array(self._at[slot : slot + n], np.int64) + 1
        self._skipped = True
        return False

    def _publish_several(self, slot: int, n: int) -> None:
        block, words, position = self._block, self._words, self._head
        if not w.ORDERED:
            self._fence()
        block.times[slot : slot + n] = time.time_ns()
        entries = w.STEPS[:n] + np.uint64((position + 1 << w.SLOT_BITS) + slot)
        first = position % self.slots
        before_end = min(n, self.slots - first)
        block.index[first : first + before_end] = entries[:before_end]
        if n > before_end:
            block.index[: n - before_end] = entries[before_end:]
        block.whole[slot : slot + n] = w.RAMP[:n] + np.uint64(position + 1)
        if not w.ORDERED:
            self._fence()
        words[w.HEAD] = self._head = position + n
        self._release()
        self._acquire()
        self._at[slot : slot + n] = range(position, position + n)
        self._last = slot + n - 1
        self.position = position + n - 1
        self._wake()

    def _open(self, writer: _Writer, timeout: float | None) -> np.ndarray[Any, Any]:
        """Give a writer its slot."""
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            self._take_turn(token, timeout)
        try:
            if self._closing or self._closed:
                raise self._shut_down()
            slot = self._find(timeout)
            if slot >= 0:
                self._writers[slot] = weakref.ref(writer)
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

    def _end_writing(self, writer: _Writer, *, publish: bool) -> None:
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
                    raise self._shut_down()
            elif publish:
                self._publish(slot)
            elif slot >= 0:
                self._at[slot] = -1
            self._writers.pop(slot, None)
        except BaseException as error:
            self._give_up(error)
            raise
        del self._turn[0]

    def _start(self) -> int:
        return self._head

    @property
    def time_ns(self) -> int:
        return self._words[self._times + self._last] if self._last >= 0 else 0

    # -- the end

    def close(self) -> None:
        self._closing = True
        token = (get_ident(),)
        if self._turn.setdefault(0, token) is not token:
            if self._turn.get(0) is _INHERITED or self._inherited():
                self._closed = True
                self._block.mapping.release()
                return
            self._waker.wake_self()
            self._enter(token, None)
        if not self._closed:
            with sigint.deferred:  # a second call would find it closed, and not go on
                words = self._words
                words[w.END] = words[w.HEAD] + 1
                self._end()
        self._turn.pop(0, None)

    def _inherited(self) -> bool:
        """Return whether this is a forked child's copy of a producer."""
        return self._waker.index < 0

    def _end(self) -> None:
        self._wake_all()
        self._closed = True
        if self._before is not None:
            self._before.release()
            self._before = None
        self._waker.release()
        self._block.mapping.release()


_INHERITED = (-1,)  # has the turn of a forked child's copy of a producer, for good


class _Writer:
    """The result of ``put()``: a ``with`` statement in which a slot is written to."""

    __slots__ = ("__weakref__", "_producer", "_timeout", "slot")

    def __init__(self, producer: Producer, timeout: float | None) -> None:
        self._producer = producer
        self._timeout = timeout
        self.slot: int | None = None

    def __enter__(self) -> np.ndarray[Any, Any]:
        if self.slot is not None:
            raise RuntimeError("the slot is being written to: call put() once for each item")
        return self._producer._open(self, self._timeout)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._producer._end_writing(self, publish=kind is None)


class _Former:
    """A replaced generation of a stream, until its lossless consumers have gone on to the next one."""

    def __init__(self, block: Block, waker: Waker, stream: Producer | None) -> None:
        self._block = block
        self._waker = waker
        self._stream = stream

    @classmethod
    def of(cls, name: str) -> _Former:
        """Return the generation that has a name, if it is this process's or has no producer.

        Raises
        ------
        BlockExistsError
            Another process is its producer.
        """
        block = Block.attach(name)
        try:
            waker = block.waker()
            if waker.claim(PRODUCER):
                return cls(block, waker, None)
            for stream in live():
                if isinstance(stream, Producer) and not stream.closed and not stream._inherited():
                    mapping = stream._block.mapping
                    if (mapping.device, mapping.inode) == (block.mapping.device, block.mapping.inode):
                        return cls(block, waker, stream)
            waker.release()
            raise _has_producer(block, alive=True)
        except BaseException:
            block.mapping.release()
            raise

    def end(self) -> None:
        """Tell its consumers to go on with the next generation."""
        words = self._block.words
        words[w.MOVED] = 1
        words[w.END] = words[w.HEAD] + 1
        if self._stream is not None:
            self._stream._end()
        else:
            for entry in self._block.entries():
                if words[entry + w.ASLEEP]:
                    self._waker.wake(party_of(entry))

    def has_consumers(self) -> bool:
        """Return whether a lossless consumer has not gone on yet."""
        words = self._block.words
        return any(
            words[entry + w.LOSSLESS] and self._waker.alive(party_of(entry))
            for entry in self._block.entries()
        )

    def release(self) -> None:
        """Release the block."""
        self._waker.release()
        self._block.mapping.release()


def _has_producer(block: Block, *, alive: bool, forked: bool = False) -> errors.BlockExistsError:
    pid = block.words[w.PRODUCER]
    name = block.mapping.name
    if forked:
        return errors.BlockExistsError(
            f"a forked child is not the producer of the stream {name!r}",
            name=name,
            found=f"its producer, process {pid}",
            next_step="write in that process, or close it there and use takeover=True here",
        )
    if alive:
        return errors.BlockExistsError(
            f"the stream {name!r} has a producer: process {pid}",
            name=name,
            found=f"process {pid}, which writes to it",
            expected="a stream without a producer, or a free name",
            next_step="sharedarray.Stream(name) to read it; close it there first to write here",
        )
    return errors.BlockExistsError(
        f"the stream {name!r} is there already",
        name=name,
        found=f"a stream whose producer, process {pid}, has ended or closed it",
        expected="a free name",
        cause="consumers hold it, or it persists",
        next_step="takeover=True to go on with it, replace=True to make another in its place",
    )


def _other_items(block: Block, item: Item) -> errors.BlockExistsError:
    return errors.BlockExistsError(
        f"the stream {block.mapping.name!r} has other items",
        name=block.mapping.name,
        found=f"items of shape {block.shape} and dtype {block.dtype}",
        expected=f"items of shape {item[0]} and dtype {item[1]}",
        next_step="replace=True to make another stream in its place",
    )
