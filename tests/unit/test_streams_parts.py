"""The parts of a stream, each without the others: turns, items, options, slots, cursors, holds."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER

import sharedarray as sa
from sharedarray._streams import handover
from sharedarray._streams.block import Block
from sharedarray._streams.cursor import Cursor
from sharedarray._streams.items import as_item, as_items, item_of
from sharedarray._streams.joining import ALL
from sharedarray._streams.known_consumers import KnownConsumers
from sharedarray._streams.options import Options
from sharedarray._streams.slots import NO_SLOT, Slots
from sharedarray._streams.turns import FORKED, Turn, enter
from sharedarray._wakers import Fence

SLOTS = 3


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


class Repaired:
    """Records how its turn was repaired."""

    def __init__(self, turn: Turn) -> None:
        self.turn, self.calls = turn, list[str]()

    def _repair(self) -> None:
        self.calls.append("repair")
        del self.turn[0]

    def _repair_in_child(self) -> None:
        self.calls.append("child")
        del self.turn[0]


@pytest.mark.parametrize(
    ("owner", "calls"), [((5,), ["repair"]), (FORKED, ["child"])], ids=["broken off", "forked"]
)
def test_a_turn_of_a_call_that_is_no_more_is_repaired_and_taken(owner: Any, calls: list[str]) -> None:
    turn: Turn = {0: owner}
    stream, thread = Repaired(turn), 5
    token = (thread,)  # another object than that of the former call
    assert enter(turn, token, None, stream)
    assert stream.calls == calls
    assert turn[0] is token


def test_a_turn_of_another_thread_is_waited_for() -> None:
    turn: Turn = {0: (6,)}
    assert not enter(turn, (5,), 0.0, Repaired(turn))
    timer = threading.Timer(0.01, turn.clear)
    timer.start()
    assert enter(turn, (5,), None, Repaired(turn))
    timer.join(ANSWER)


def test_options_are_those_of_one_side() -> None:
    assert Options("x", 3, slots=np.int8(4)).of_producer().slots == 4
    assert Options("x", history=np.int8(2)).of_consumer().history == 2
    for wrong in (Options("x", 3, history=1), Options("x", 3, takeover=True, replace=True), Options("x")):
        with pytest.raises(TypeError):
            wrong.of_producer()
    for wrong in (Options(None), Options("x", persist=True), Options("x", lossless=1)):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            wrong.of_consumer()
    with pytest.raises(TypeError, match="is a str"):
        sa.Stream(3)  # type: ignore[arg-type]


# -- both sides of one block ------------------------------------------------------------------------------


class Sides:
    """A block, and the parts of its producer."""

    def __init__(self, *, drops: bool = False) -> None:
        item = item_of(2, "i8")
        self.made = handover.make("parts", item, {"slots": SLOTS, "drops": drops, "persist": False})
        self.block = self.made.block
        self.consumers = KnownConsumers(self.block, self.made.waker, Fence(), None)
        self.slots = Slots(self.consumers, Fence())
        self.cursors: list[Cursor] = []

    def join(self, wish: bool | None = None, **settings: Any) -> Cursor:
        self.cursors.append(Cursor(Block.attach("parts"), wish, Fence(), **settings))
        return self.cursors[-1]

    def put(self, n: int) -> None:
        for _ in range(n):
            slot = self.slots.find()
            assert slot != NO_SLOT
            self.block.items[slot] = self.slots.head
            self.slots.publish(slot)


@pytest.fixture
def sides() -> Iterator[Sides]:
    made = Sides()
    yield made
    for cursor in made.cursors:
        cursor.leave()
    made.made.waker.release()
    made.block.mapping.release()


def advance(cursor: Cursor, position: int) -> None:
    """Go on behind a position, as the end of `get` does."""
    cursor.words[cursor.entry] = position + 2
    cursor.next = position + 1


def test_slots_are_free_without_consumers_and_found_one_behind_the_other(sides: Sides) -> None:
    for position in range(2 * SLOTS):
        assert sides.slots.find() == position % SLOTS
        sides.slots.publish(position % SLOTS)
    assert sides.slots.head == 2 * SLOTS
    assert Slots(sides.consumers, Fence()).at == sides.slots.at  # as another producer reads them


def test_a_lossless_consumer_keeps_the_items_from_its_position_on(sides: Sides) -> None:
    cursor = sides.join()
    sides.put(SLOTS)
    assert sides.slots.find() == NO_SLOT
    assert sides.slots.in_the_way() == [cursor.entry]
    assert not sides.slots.any_seems_free()
    assert cursor.pin() == (0, 0, 0)
    advance(cursor, 0)
    assert sides.slots.find() == NO_SLOT  # it has the item in use
    cursor.holds.column[0] = 0
    assert sides.slots.find() == 0


def test_a_lossy_cursor_counts_what_was_overwritten(sides: Sides) -> None:
    cursor = sides.join(wish=False)
    sides.put(SLOTS + 2)
    assert cursor.pin() == (2, 2, 2)
    assert cursor.newest(sides.slots.head) == (SLOTS + 1, 1)


def test_a_cursor_begins_with_the_items_that_are_there(sides: Sides) -> None:
    sides.put(SLOTS + 1)
    assert sides.join(history=2).next == SLOTS - 1
    assert sides.join(history=ALL).next == 1
    late = sides.join(start=0)
    assert (late.next, late.lost) == (1, 1)


def test_a_hold_ends_with_its_array(sides: Sides) -> None:
    cursor = sides.join()
    sides.put(1)
    found = cursor.pin()
    assert found is not None
    array = cursor.array(found[1], 1)
    assert array.tolist() == [[0, 0]]
    cursor.holds.arrays[0] = weakref.ref(array, cursor.holds.drop_of(0))
    cursor.holds.recount()
    assert cursor.holds.column.tolist() == [1, 0, 0]
    del array
    gc.collect()
    assert cursor.holds.column.tolist() == [0, 0, 0]


def test_a_call_that_was_broken_off_is_forgotten(sides: Sides) -> None:
    """The slot that it has written, and the position that it has not passed."""
    cursor = sides.join()
    sides.put(1)
    assert sides.slots.find() == 1
    sides.consumers.forget(Fence())
    sides.slots.read(Fence())
    assert sides.slots.find() == 1
    assert cursor.pin() == (0, 0, 0)
    cursor.repair(Fence())
    assert (cursor.position, cursor.next) == (-1, 0)
    assert not cursor.holds.column.any()


def test_items_fit_or_are_refused(sides: Sides) -> None:
    assert as_item([1, 2], sides.block).tolist() == [1, 2]
    assert as_item([1.0, 2.0], sides.block).tolist() == [1.0, 2.0]  # whole numbers
    assert as_items([[1, 2], np.ones(2, "i4")], sides.block).tolist() == [[1, 2], [1, 1]]
    for given, error in (([1, 2, 3], ValueError), ([1.5, 2], TypeError), ({"x": [1, 2]}, ValueError)):
        with pytest.raises(error):
            as_item(given, sides.block)
    with pytest.raises(ValueError, match="shape"):
        as_items(np.ones((2, 3), int), sides.block)
    with pytest.raises(TypeError):
        as_items(np.ones((2, 2)), sides.block)


def test_a_stream_that_is_made_is_the_one_that_a_consumer_joins(sides: Sides) -> None:
    with sa.Stream("parts") as reader:
        sides.put(1)
        assert reader.get(timeout=ANSWER).tolist() == [0, 0]
