"""A page of control words: threads that use it while it is left, Ctrl-C, and what it keeps alive."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ANSWER, SIGNALS, Puppet, interrupted_at, registry, wait_until

import sharedarray as sa
from sharedarray import _control_page, _registry, _sigint as sigint
from sharedarray._control_page import ControlPage
from sharedarray._growth import growth_of
from sharedarray._made_once import made_once
from sharedarray._notices import notices_of
from sharedarray._platform import platform
from sharedarray._segment import mapping_of
from sharedarray._version_buffers import made_versions_of
from sharedarray._wakers import Waker


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


class Thread(threading.Thread):
    """A thread of which the end is awaited, and its result or exception told."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def end(self) -> Any:
        self.join(ANSWER)
        assert not self.is_alive(), "it waits for ever"
        if self.error is not None:
            raise self.error
        return self.result


def files() -> list[str]:
    return [name for name in os.listdir(registry()) if name.startswith(("v.", "w."))]


def mapping_behind(array: sa.SharedArray) -> Any:
    mapping = mapping_of(array)
    assert mapping is not None
    return mapping


def log() -> sa.SharedArray:
    return sa.zeros(0, capacity=1000, name="data")


def fixed() -> sa.SharedArray:
    return sa.zeros(4, name="data")


needs_versions = pytest.mark.skipif(not platform.LENGTHENS, reason="blocks keep their size here")

# Of each kind of page: how its array is made, how its page is found, and how it is waited for.
KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], ControlPage], Callable[[Any], object]]] = {
    "growth": (log, lambda a: growth_of(mapping_behind(a)), lambda a: a.wait(longer_than=5)),
    "notices": (fixed, lambda a: notices_of(mapping_behind(a))._page, lambda a: a.wait()),
    "versions": (fixed, lambda a: made_versions_of(mapping_behind(a)), lambda a: a.wait(3)),
}
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs_versions if kind == "versions" else ()) for kind in KINDS]
)


def test_threads_that_need_a_page_at_once_get_the_same() -> None:
    array = sa.zeros(3)
    entered, calls, released = threading.Event(), [], []

    class Made:
        usable = True

        def __init__(self) -> None:
            calls.append(self)
            if len(calls) > 1:
                entered.set()
            entered.wait(0.05)  # a second call would come meanwhile

        def on_release(self, mapping: Any) -> None:
            released.append(self)

    threads = [Thread(lambda: made_once(mapping_behind(array), "made", Made)) for _ in range(2)]
    assert threads[0].end() is threads[1].end() is calls[0]
    assert len(calls) == 1
    array.close()
    assert released == calls


# -- the end of an attachment --------------------------------------------------------------------------


@kinds
def test_closing_ends_the_waits_of_other_threads(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_control_page, "_UNWOKEN", 10 * ANSWER)  # or a sleeper would look by itself
    make, page_of, wait = KINDS[kind]
    array = make()
    page = page_of(array)
    waiters = [Thread(lambda: wait(array)) for _ in range(3)]
    wait_until(lambda: len(page._in_use) == 3, "all wait", ANSWER)
    array.close()
    for waiter in waiters:
        with pytest.raises(sa.BlockClosedError, match="data"):
            waiter.end()
    assert page.handle == -1
    assert page._all == page._idle == page._in_use == []
    assert files() == []
    with pytest.raises(sa.BlockClosedError):
        wait(array)


@needs_versions
def test_closing_ends_waits_though_a_snapshot_is_in_use() -> None:
    array = fixed()
    kept = array.snapshot()
    waiter = Thread(lambda: array.wait(3))
    page = made_versions_of(mapping_behind(array))
    wait_until(lambda: page._in_use, "it waits", ANSWER)
    array.close()
    with pytest.raises(sa.BlockClosedError):
        waiter.end()
    assert kept.tolist() == [0.0] * 4
    assert page.handle >= 0
    del kept
    assert page.handle == -1


def test_a_thread_that_has_the_turn_ends_it_after_the_page_is_left() -> None:
    array = log()
    page = growth_of(mapping_behind(array))
    page.begin(mapping_behind(array), None)
    closer = Thread(array.close)
    closer.end()
    assert page.handle >= 0
    page.end()
    assert page.handle == -1


def test_a_process_without_a_waker_of_its_own_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlPage, "claim", lambda self: None)
    array = log()
    page = growth_of(mapping_behind(array))
    waiter = Thread(lambda: array.wait(longer_than=5))
    wait_until(lambda: page._uses, "it waits", ANSWER)
    array.close()
    with pytest.raises(sa.BlockClosedError):
        waiter.end()


@kinds
def test_a_page_goes_with_its_array_without_a_collection(kind: str) -> None:
    make, page_of, _ = KINDS[kind]
    array = make()
    page = page_of(array)
    with sigint.deferred:
        party = page.take_party()  # as a wait does
        assert party is not None
        page.give_back_party(party)
    del party
    reference, memory = weakref.ref(page), weakref.ref(page.memory)
    gc.collect()
    gc.disable()
    try:
        del page, array
        assert reference() is None
        assert memory() is None
    finally:
        gc.enable()


# -- notices without a name ----------------------------------------------------------------------------


def test_an_array_waits_and_notifies_after_its_name_is_gone() -> None:
    array = fixed()
    script = """
        array = sa.attach("data")
        say(array.notify())
        while hear():
            say(array.wait(60.0, since=2))
    """
    with Puppet(script) as other:
        assert other.hear() == 1
        sa.unlink("data")
        _registry.sweep(str(mapping_behind(array).directory))
        page = notices_of(mapping_behind(array))._page  # the first use by this process
        waiter = Thread(lambda: array.wait(since=1))
        wait_until(lambda: page._in_use, "it waits", ANSWER)
        assert array.notify() == 2
        assert waiter.end() == 2
        other.say(True)
        assert array.notify() == 3
        assert other.hear() == 3
        other.end()
    _registry.sweep(str(mapping_behind(array).directory))
    assert any(name.startswith("v.") for name in files())
    array.close()
    assert files() == []


def test_the_file_of_notices_stays_as_long_as_its_block() -> None:
    with Puppet("array = sa.attach('data'); hear(); say(array.notify()); hear()") as other:
        array = fixed()
        assert array.notify() == 1
        other.kill()
    again = sa.attach("data")
    array.close()
    assert again.notify() == 2
    again.close()
    assert files() == []


def test_the_wakers_of_notices_are_in_the_registry_of_their_block(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = fixed()
    monkeypatch.setenv("SHAREDARRAY_DIR", str(tmp_path))
    try:
        with pytest.raises(TimeoutError):
            array.wait(0.01)
        assert not os.path.exists(registry(str(tmp_path)))
        if hasattr(os, "mkfifo"):
            assert any(name.startswith("w.") for name in os.listdir(registry(directory)))
    finally:
        array.close()
        monkeypatch.setenv("SHAREDARRAY_DIR", directory)


# -- Ctrl-C ---------------------------------------------------------------------------------------------

USES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "append": ("growth", lambda a: a.append(1.0)),
    "refresh": ("growth", lambda a: a.refresh()),
    "wait": ("growth", lambda a: _timed_out(lambda: a.wait(longer_than=1 << 40, timeout=0.0001))),
    "notify": ("notices", lambda a: a.notify()),
    "notices": ("notices", lambda a: _timed_out(lambda: a.wait(0.0001))),
}


def _timed_out(call: Callable[[], object]) -> None:
    with pytest.raises(TimeoutError):
        call()


@pytest.mark.skipif(not SIGNALS, reason="needs SIGINT")
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("use", USES)
def test_ctrl_c_at_any_step_leaves_no_use_and_no_party_behind(use: str, every: int) -> None:
    kind, call = USES[use]
    make, page_of, _ = KINDS[kind]
    array = make()
    page = page_of(array)
    other = sa.attach("data")
    steps = 0
    for step in range(0, 10_000, every):
        if not interrupted_at(step, lambda: call(array)):
            break
        steps += 1
        assert (page._uses, page._in_use) == (0, [])
        assert len(page._idle) <= 1
        Thread(lambda: call(array)).end()
        Thread(lambda: call(other)).end()
    assert steps > 3
    other.close()
    array.close()
    assert page.handle == -1
    assert files() == []


# -- polling, and other threads ------------------------------------------------------------------------


@pytest.mark.parametrize("processors", [1, 2])
def test_polling_needs_a_second_processor(processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processors", lambda: processors)
    array = log()
    polls = growth_of(mapping_behind(array))._spin.worthwhile()
    assert polls == (processors > 1)
    array.close()


def test_an_item_that_ends_in_another_thread_leaves_the_waker_of_its_consumer_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users: list[int] = []
    end_of = Waker._end

    def noted(self: Waker, index: int) -> int | None:
        users.append(threading.get_ident())
        return end_of(self, index)

    with sa.Stream("items", (), slots=1) as producer, sa.Stream("items") as consumer:
        producer.put(1.0)
        waiting = Thread(lambda: producer.put(2.0))
        wait_until(lambda: consumer._cursor.words[consumer._cursor.wanted], "the producer waits", ANSWER)
        items = [consumer.get()]
        monkeypatch.setattr(Waker, "_end", noted)
        dropping = Thread(items.clear)
        dropping.end()
        waiting.end()
        assert dropping.ident not in users
        assert float(consumer.get()) == 2.0
