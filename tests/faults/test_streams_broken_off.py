"""A party of a stream is killed, or broken off by Ctrl-C, at each step: others see whole items in order."""

from __future__ import annotations

import gc
import os
import queue
import random
import selectors
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, FORKS, SIGNALS, interrupted_at as interrupted_at_line, wait_until
from stream_steps import LIBRARY, TRACED, interrupted_at, interrupted_by_signal_at, killed_at

import sharedarray as sa
from sharedarray import _sigint
from sharedarray._streams.event_loops import HAS_DESCRIPTORS

pytestmark = pytest.mark.skipif(not (FORKS and SIGNALS), reason="needs fork and signals")

SHAPE = (64,)
SLOTS = 4


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


def check(item: np.ndarray[Any, Any], position: int) -> None:
    assert (item == position).all(), f"item {position} is torn: {item}"


class Reader:
    """A consumer that checks what it gets: whole, in order, and without gaps if it is lossless."""

    def __init__(self, **settings: Any) -> None:
        self.stream = sa.Stream("steps", **settings)
        self.lossless = settings.get("lossless", True)
        self.next = self.stream._cursor.next  # type: ignore[attr-defined]

    def read_all(self) -> None:
        while True:
            try:
                item = self.stream.get(timeout=0)
            except (queue.Empty, sa.ProducerDied, sa.ShutDown):
                return
            assert self.stream.position == self.next if self.lossless else self.stream.position >= self.next
            check(item, self.stream.position)
            self.next = self.stream.position + 1


def steps_of(work: Callable[[], None], stride: int, after: Callable[[], None], start: int = 1) -> int:
    """Kill a child at every step of its work, or at one out of `stride`; return how many steps it has."""
    step = start
    while killed_at(step, work):
        after()
        step += stride
    after()
    return step


def produce() -> None:
    stream = sa.Stream("steps", SHAPE, "i8", slots=SLOTS, takeover=True)
    stream.put(np.full(SHAPE, stream.position + 1), timeout=ANSWER)
    with stream.put(timeout=ANSWER) as frame:
        frame[:] = stream.position + 1
    try:
        with stream.put(timeout=ANSWER) as frame:
            frame[:] = -1
            raise LookupError
    except LookupError:
        pass
    first = stream.position + 1
    stream.put_many(np.arange(first, first + 2).repeat(SHAPE[0]).reshape(2, *SHAPE), timeout=ANSWER)


def consume() -> None:
    stream = sa.Stream("steps", history=4)
    kept = stream.get(timeout=ANSWER)
    check(kept, stream.position)
    item = stream.get(timeout=ANSWER, max=2)
    item = stream.latest(timeout=ANSWER)
    check(item, stream.position)
    del item
    try:
        stream.get(timeout=0)
    except queue.Empty:
        pass
    stream.close()
    del kept


STRIDE = int(os.environ.get("SHAREDARRAY_STRIDE", "23"))  # 1 for every bytecode
STRIDES = [pytest.param(17, marks=pytest.mark.slow, id="many"), pytest.param(293, id="some")]
LINES = [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(7, id="some")]


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.timeout(600)
def test_a_producer_that_is_killed_at_any_step_leaves_whole_items(stride: int, full: Any) -> None:
    first = sa.Stream("steps", SHAPE, "i8", slots=SLOTS, full=full)
    readers = [Reader(lossless=False)]
    readers += [Reader()] if full == "wait" else [Reader(lossless=False, history=1)]
    first.close()

    def after() -> None:
        for reader in readers:
            reader.read_all()

    gc.collect()
    offset = random.randrange(stride) + 1
    assert steps_of(produce, stride, after, offset) > 100
    with sa.Stream("steps", takeover=True) as last:  # and all slots can be used
        for _ in range(SLOTS):
            last.put(np.full(SHAPE, last.position + 1), timeout=ANSWER)
        for reader in readers:
            before = reader.next
            reader.read_all()
            assert reader.next == before + SLOTS
            reader.stream.close()


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.timeout(600)
def test_a_consumer_that_is_killed_at_any_step_takes_no_slot_along(stride: int, full: Any) -> None:
    producer = sa.Stream("steps", SHAPE, "i8", slots=SLOTS, full=full)
    reader = Reader(lossless=None if full == "wait" else False)

    def put(n: int) -> None:
        for _ in range(n):
            producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
            reader.read_all()

    def work() -> None:
        consume()

    def after() -> None:
        put(2 * SLOTS)
        assert reader.next == producer.position + 1

    put(4)
    gc.collect()
    offset = random.randrange(stride) + 1
    assert steps_of(work, stride, after, offset) > 100
    producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
    producer._consumers.look_around()  # type: ignore[attr-defined]
    for entry in producer._consumers.entries[:]:  # type: ignore[attr-defined]
        producer._consumers.clear_if_dead(entry)  # type: ignore[attr-defined]
    reader.read_all()
    assert len(producer._block.entries()) == 1
    assert not producer._block.holds.any()
    reader.stream.close()
    producer.close()


# -- Ctrl-C ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(7, id="some")]
)
@pytest.mark.lingers("descriptor")  # Ctrl-C may come between opening a waker and noting it
def test_ctrl_c_at_any_line_of_the_producer_leaves_both_sides_usable(stride: int, full: Any) -> None:
    producer = sa.Stream("steps", SHAPE, "i8", slots=SLOTS, full=full)
    reader = Reader(lossless=None if full == "wait" else False)

    def work() -> None:
        producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
        with producer.put(timeout=ANSWER) as frame:
            frame[:] = producer.position + 1
        try:
            producer.put_many(np.full((2, *SHAPE), producer.position + 1)[:1], timeout=0)
        except queue.Full:
            pass

    step = random.randrange(stride) + 1
    while interrupted_at(step, work):
        for _ in range(SLOTS):
            reader.read_all()
            producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
        reader.read_all()
        assert reader.next == producer.position + 1
        step += stride
    assert step > 100
    reader.stream.close()
    producer.close()


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(7, id="some")]
)
@pytest.mark.lingers("descriptor")  # Ctrl-C may come between opening a waker and noting it
def test_ctrl_c_at_any_line_of_a_consumer_leaves_both_sides_usable(stride: int, full: Any) -> None:
    producer = sa.Stream("steps", SHAPE, "i8", slots=SLOTS, full=full)
    consumer = sa.Stream("steps")
    last = -1

    def got(item: np.ndarray[Any, Any]) -> None:
        nonlocal last
        check(item, consumer.position)
        assert consumer.position > last
        last = consumer.position

    def work() -> None:
        got(consumer.get(timeout=ANSWER))
        got(consumer.get(timeout=ANSWER, max=1)[0])
        got(consumer.latest(timeout=ANSWER))
        try:
            consumer.get(timeout=0.001)
        except queue.Empty:
            pass

    def put(n: int) -> None:
        for _ in range(n):
            producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)

    step = random.randrange(stride) + 1
    put(3)
    while interrupted_at(step, work):
        while last < producer.position:  # at most the item that was about to be returned was lost
            try:
                got(consumer.get(timeout=0))
            except queue.Empty:
                break
        put(SLOTS)
        before = last
        for _ in range(SLOTS):
            got(consumer.get(timeout=ANSWER))
        assert last == producer.position
        assert last - before <= SLOTS + 1
        put(3)
        step += stride
    assert step > 100
    consumer.close()
    producer.close()


@pytest.mark.parametrize("stride", LINES)
@pytest.mark.lingers("descriptor")  # Ctrl-C may come between opening a waker and noting it
def test_ctrl_c_at_any_line_of_a_producer_that_closes_leaves_its_name_usable(stride: int) -> None:
    step = random.randrange(stride) + 1
    producer: Any = sa.Stream("steps", SHAPE, "i8", slots=SLOTS)
    reader = Reader()
    while interrupted_at_line(step, producer.close):
        producer.close()
        producer = sa.Stream("steps", SHAPE, "i8", slots=SLOTS, takeover=True)
        producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
        reader.read_all()
        assert reader.next == producer.position + 1
        step += stride
    assert step > 10
    reader.stream.close()


@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(97, id="some")]
)
@pytest.mark.skipif(not HAS_DESCRIPTORS, reason="streams have no descriptors here")
@pytest.mark.lingers("descriptor")  # Ctrl-C may come between making a descriptor and noting it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # at the start of a finalizer
@pytest.mark.timeout(600)
def test_ctrl_c_at_any_bytecode_of_fileno_loses_no_wake_up(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sigint, "raise_later", lambda: None)
    producer = sa.Stream("steps", SHAPE, "i8", slots=SLOTS)
    step, going = random.randrange(stride) + 1, True
    while going:
        with sa.Stream("steps") as consumer, selectors.DefaultSelector() as selector:
            going = interrupted_by_signal_at(step, consumer.fileno, TRACED)  # type: ignore[arg-type]
            selector.register(consumer, selectors.EVENT_READ)
            producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
            assert selector.select(ANSWER)
            check(consumer.get(timeout=ANSWER), producer.position)
        step += stride
    producer.close()


def _attach() -> None:
    sa.attach("beside").close()


def _join() -> None:
    sa.Stream("steps", history=1).close()


def _produce() -> None:
    sa.Stream(None, SHAPE, "i8", slots=2).close()


def _open_event() -> None:
    event = sa.Event("event")
    event.set()
    event.close()


def _wait_for_several() -> None:
    consumer, event, future = sa.Stream("steps"), sa.Event("event"), Future[None]()
    try:
        sa.wait([consumer, event, future], timeout=0)
    finally:
        consumer.close()
        event.close()


BEGINNINGS = {
    "attach": _attach,
    "join": _join,
    "produce": _produce,
    "event": _open_event,
    "wait": _wait_for_several,
}


@pytest.mark.parametrize("what", BEGINNINGS)
@pytest.mark.parametrize(
    "stride", [pytest.param(STRIDE, marks=pytest.mark.slow, id="many"), pytest.param(1499, id="some")]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # at the start of a finalizer
@pytest.mark.timeout(1200)
def test_ctrl_c_at_any_bytecode_of_a_beginning_leaves_both_sides_usable(
    stride: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is open afterwards, as for every test."""
    # A thread raises an exception of a finalizer some time later, which might be after the test.
    monkeypatch.setattr(_sigint, "raise_later", lambda: None)
    producer = sa.Stream("steps", SHAPE, "i8", slots=SLOTS)
    reader, array, event = Reader(), sa.zeros(3, name="beside"), sa.Event("event")
    work = BEGINNINGS[what]
    work()
    step = random.randrange(stride) + 1
    while interrupted_by_signal_at(step, work, (LIBRARY,)):
        wait_until(lambda: gc.collect() or len(producer._block.entries()) == 1, "its entry is free", ANSWER)
        producer.put(np.full(SHAPE, producer.position + 1), timeout=ANSWER)
        reader.read_all()
        assert reader.next == producer.position + 1
        event.set()
        step += stride
    work()
    for each in (reader.stream, producer, array, event):
        each.close()


def test_ctrl_c_breaks_off_every_wait() -> None:
    producer = sa.Stream("steps", SHAPE, "i8", slots=2)
    consumer = sa.Stream("steps")
    parent = os.getpid()
    producer.put_many(np.zeros((2, *SHAPE), int))

    def interrupt_once_it_waits() -> int:
        child = os.fork()
        if not child:
            words = producer._block.words
            asleep = [24, *(32 + 8 * k + 2 for k in range(3))]
            while not any(words[k] for k in asleep) and os.getppid() == parent:
                time.sleep(0.01)
            os.kill(parent, signal.SIGINT)
            os._exit(0)
        return child

    reader = sa.Stream("steps")
    for call in (
        lambda: producer.put(np.zeros(SHAPE, int)),
        lambda: producer.put().__enter__(),
        lambda: producer.put_many(np.zeros((5, *SHAPE), int)),
        reader.get,
        lambda: reader.get(max=2),
        reader.latest,
        lambda: next(reader),  # type: ignore[call-overload]
    ):
        child = interrupt_once_it_waits()
        with pytest.raises(KeyboardInterrupt):
            call()  # type: ignore[no-untyped-call]
        assert os.waitpid(child, 0)[1] == 0
    assert len(consumer.get(max=2)) == 2
    producer.put(np.ones(SHAPE, int), timeout=ANSWER)
    assert reader.get(timeout=ANSWER)[0] == 1
    for stream in (producer, consumer, reader):
        stream.close()
