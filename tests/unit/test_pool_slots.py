"""Slots of recycled memory, both sides in one process: when one is in use, locked, and free again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from needs import needs_proc

from sharedarray._platform import platform
from sharedarray._pool.transport.mappings import SlotMappings
from sharedarray._pool.transport.messages import PRIVATE, RESULT_SLOT, STREAM, Entry
from sharedarray._pool.transport.slot import Slot
from sharedarray._pool.transport.slots import Store
from sharedarray._thresholds import COPIED_UP_TO, OUT_OF_BAND

pytestmark = needs_proc

SIZE = OUT_OF_BAND
DATA = np.arange(SIZE, dtype=np.uint8)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(lambda: None)
    yield made
    made.close()


@pytest.fixture
def mappings() -> SlotMappings:
    return SlotMappings(os.getpid())


def filled(store: Store, data: np.ndarray = DATA, within: int | None = None) -> Slot:
    found = store.put([data], [data.nbytes], within)
    assert found is not None
    return found[0]


class Message:
    """The content of a slot."""


def sent(store: Store, data: np.ndarray = DATA) -> tuple[Message, Slot]:
    message, slot = Message(), filled(store, data)
    slot.send_with(message)
    return message, slot


def in_use(mappings: SlotMappings, entry: Entry) -> np.ndarray:
    _, (buffer,) = mappings.borrow(b"", [entry], ())
    return np.frombuffer(buffer, np.uint8)


def test_a_slot_is_in_use_for_as_long_as_its_message_lives(store: Store) -> None:
    message, slot = sent(store)
    assert store.take(SIZE, make=False) is None
    assert store.sizes() == (slot.size, 0, 1)
    del message
    assert store.take(SIZE, make=False) is slot


def test_a_view_that_outlives_the_message_keeps_the_slot_by_a_lock(
    store: Store, mappings: SlotMappings
) -> None:
    message, slot = sent(store)
    array = in_use(mappings, slot.entry(0, 0, SIZE))
    assert not platform.used(slot.handle)
    mappings.lock_views()
    assert platform.used(slot.handle)
    del message
    part = array[10:20]
    del array
    assert store.take(SIZE, make=False) is None
    assert part.tolist() == list(range(10, 20))
    del part
    assert store.take(SIZE, make=False) is slot


def test_views_that_have_ended_are_not_locked(
    store: Store, mappings: SlotMappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task costs no system call for the slots that it was given."""
    _message, slot = sent(store)
    entry = slot.entry(0, 0, SIZE)
    assert (in_use(mappings, entry) == DATA).all()  # mapped from now on
    calls: list[str] = []
    for name in ("open_path_of", "use", "close", "map"):
        monkeypatch.setattr(platform, name, lambda *args, name=name, **kwargs: calls.append(name))
    for _ in range(3):
        assert (in_use(mappings, entry) == DATA).all()
        mappings.lock_views()
    assert calls == []


@pytest.mark.parametrize("size", [SIZE, COPIED_UP_TO + 1], ids=["copied", "mapped"])
def test_what_several_tasks_read_is_private_to_each(store: Store, mappings: SlotMappings, size: int) -> None:
    data = np.resize(DATA, size)
    message, slot = sent(store, data)
    one, other = (in_use(mappings, slot.entry(PRIVATE, 0, size)) for _ in range(2))
    one[:] = 1
    assert (one == 1).all()
    assert (other == data).all()
    assert np.array_equal(np.frombuffer(slot.mapped(), np.uint8, size), data)
    mappings.lock_views()
    assert platform.used(slot.handle) == (size > COPIED_UP_TO)
    del one, other
    del message
    assert store.take(size, make=False) is slot


def test_a_message_has_stream_and_buffers_in_one_slot_and_brings_another(
    store: Store, mappings: SlotMappings
) -> None:
    stream = bytes(range(100))
    found = store.put([DATA, stream], [SIZE, 100])
    slot = store.take(SIZE)
    assert found is not None
    assert slot is not None
    slot, (start, behind) = found
    table = [slot.entry(0, start, SIZE), Entry(0, 0, 0, 0, 0, 3), slot.entry(STREAM, behind, 100)]
    read, buffers = mappings.borrow(b"", [*table, slot.entry(RESULT_SLOT)], [b"abc"])
    assert bytes(read) == stream
    assert [bytes(buffer) for buffer in buffers] == [DATA.tobytes(), b"abc"]


def test_a_result_keeps_its_slot_and_frees_it(store: Store, mappings: SlotMappings) -> None:
    slot = store.take(SIZE)
    assert slot is not None
    for source in (DATA, DATA[::-1]):  # the first one to a slot that is new
        (entry,) = mappings.fill(slot.entry(RESULT_SLOT), [source], [SIZE], [0])
        slot.fresh = False
        view = slot.borrow()
        array = np.frombuffer(view, np.uint8)[entry.offset : entry.offset + entry.length]
        del view
        slot.put_back()
        assert np.array_equal(array, source)
        assert store.take(SIZE, make=False) is None
        del array
        assert store.take(SIZE, make=False) is slot


def test_an_idle_store_hears_that_a_result_ended() -> None:
    ended: list[bool] = []
    store = Store(lambda: ended.append(True))
    slot = filled(store)
    view = slot.borrow()
    slot.put_back()
    assert store.trim(1e9) is None
    assert (ended, store.sizes()[2]) == ([], 1)
    del view
    assert ended == [True]
    assert store.trim(1e9) is None
    assert store.sizes() == (0, 0, 0)
    store.close()


def test_what_is_in_use_is_bounded(store: Store) -> None:
    messages = [sent(store) for _ in range(3)]
    used = store.sizes()[0]
    assert store.put([DATA], [SIZE], used + SIZE - 1) is None
    del messages[0]
    assert filled(store, within=used + SIZE - 1) is not None


def test_what_cannot_be_copied_leaves_no_slot_in_use(store: Store) -> None:
    filled(store).busy = False
    broken = np.empty(SIZE // 8, object)
    with pytest.raises(ValueError, match="objects"):
        store.put([broken], [SIZE])
    assert store.sizes()[0] == 0


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fresh", [True, False])
def test_a_copy_that_is_broken_off_leaves_no_slot_in_use(
    store: Store, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fresh:
        filled(store).busy = False
    monkeypatch.setattr(Slot, "fill", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.put([DATA], [SIZE])
    assert store.sizes()[0] == 0


def test_a_store_that_ends_during_a_copy_frees_the_slot_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store, fill = Store(lambda: None), Slot.fill

    def close_first(slot: Slot, *args: object) -> None:
        store.close()
        fill(slot, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Slot, "fill", close_first)
    slot = filled(store)
    assert slot.handle == -1
    assert store.put([DATA], [SIZE]) is None
