"""Calls of every object by name, for tests in which it ends while a thread is in one of them.

`CASES` has for each call a function that makes the object and its like; see `Case`.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import sharedarray as sa

# How calls end when another thread closes their object: those of `Barrier` also when it is broken.
ENDS = sa.BlockClosedError, sa.ShutDown, threading.BrokenBarrierError
_TIMES = queue.Empty, queue.Full, TimeoutError


@dataclass
class Case:
    """A call, its object, and what goes on meanwhile.

    Attributes
    ----------
    call
        The call, which a thread repeats until it fails.
    closed
        The object that is closed.
    others
        Objects that keep the block.
    change
        Changes what the call may wait for.
    """

    call: Callable[[], Any]
    closed: Any
    others: list[Any]
    change: Callable[[], Any]


def _unless_late(call: Callable[[], Any]) -> Callable[[], None]:
    def called() -> None:
        with contextlib.suppress(*_TIMES):
            call()

    return called


def _write(given: Any) -> None:
    with given as item:
        item[:] = 1


async def _read(stream: Any) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    await asyncio.gather(read(), read())


def _consumer(call: Callable[[Any], Any]) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        producer: Any = sa.Stream(name, 2, full="drop_oldest")
        consumer = sa.Stream(name)
        return Case(lambda: call(consumer), consumer, [producer], lambda: producer.put(np.ones(2)))

    return make


def _producer(call: Callable[[Any], Any], full: Any = "wait") -> Callable[[str], Case]:
    def make(name: str) -> Case:
        producer: Any = sa.Stream(name, 2, full=full)
        consumer: Any = sa.Stream(name)
        return Case(
            lambda: call(producer), producer, [consumer], _unless_late(lambda: consumer.get(timeout=0))
        )

    return make


def _primitive(
    kind: Any, call: Callable[[Any], Any], change: Callable[[Any], Any], *setting: int
) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        first, second = kind(name, *setting), kind(name)
        return Case(lambda: call(first), first, [second], lambda: change(second))

    return make


def _array(
    call: Callable[[Any], Any], change: Callable[[Any], Any], length: Any = 3, **options: Any
) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        first = sa.zeros(length, name=name, **options)
        second = sa.attach(name)
        return Case(lambda: call(first), first, [second], lambda: change(second))

    return make


def _wait_on(condition: Any, timeout: float | None = None) -> None:
    with condition:
        condition.wait(timeout)


def _notify(condition: Any) -> None:
    with condition:
        condition.notify_all()


def _pass(barrier: Any) -> None:
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait(0.001)
    barrier.reset()


def _lock(array: Any, **settings: Any) -> None:
    with array.lock(**settings):
        pass


def _update(array: Any) -> None:
    _write(array.update())


def _follow(array: Any) -> None:
    for _ in array.follow():
        pass
    raise sa.BlockClosedError("the iteration has ended")


def _ask(primitive: Any) -> None:
    primitive.ready()
    sa.wait([primitive], 0.001)
    primitive.fileno()


_flip = {"change": lambda event: event.clear() if event.is_set() else event.set()}
_row = np.ones((1, 2))
_growing: dict[str, Any] = {"length": (0, 2), "capacity": 1_000_000}

CASES: dict[str, Callable[[str], Case]] = {
    "get": _consumer(lambda stream: stream.get()),
    "get at once": _consumer(lambda stream: _unless_late(lambda: stream.get(timeout=0))()),
    "get several": _consumer(lambda stream: stream.get(max=2)),
    "latest": _consumer(lambda stream: stream.latest()),
    "iteration": _consumer(next),
    "aget": _consumer(lambda stream: asyncio.run(stream.aget())),
    "asyncio": _consumer(lambda stream: asyncio.run(_read(stream))),
    "wait for a stream": _consumer(lambda stream: (sa.wait([stream]), stream.get())),
    "fileno of a stream": _consumer(_ask),
    "put": _producer(lambda stream: stream.put(np.ones(2))),
    "put, dropping": _producer(lambda stream: stream.put(np.ones(2)), "drop_oldest"),
    "put in place": _producer(lambda stream: _write(stream.put())),
    "put several": _producer(lambda stream: stream.put_many(np.ones((5, 2)))),
    "event": _primitive(sa.Event, lambda event: event.wait(), **_flip),
    "set": _primitive(sa.Event, lambda event: event.set(), **_flip),
    "wait for an event": _primitive(sa.Event, lambda event: (sa.wait([event]), event.clear()), **_flip),
    "fileno of an event": _primitive(sa.Event, _ask, **_flip),
    "semaphore": _primitive(sa.Semaphore, lambda each: each.acquire(), lambda each: each.release(), 0),
    "release": _primitive(sa.Semaphore, lambda each: each.release(), lambda each: each.value, 1),
    "condition": _primitive(sa.Condition, _wait_on, _notify),
    "condition, timed": _primitive(sa.Condition, lambda each: _wait_on(each, 0.001), _notify),
    "notify all": _primitive(sa.Condition, _notify, _notify),
    "barrier": _primitive(sa.Barrier, lambda barrier: barrier.wait(), _pass, 2),
    "reset": _primitive(sa.Barrier, lambda barrier: barrier.reset(), _pass, 2),
    "wait": _array(lambda array: array.wait(), lambda array: array.notify()),
    "notify": _array(lambda array: array.notify(), lambda array: array.notify()),
    "lock": _array(_lock, _lock),
    "lock, timed": _array(lambda array: _lock(array, timeout=60.0), _lock),
    "lock, shared": _array(lambda array: _lock(array, shared=True), _lock),
    "update": _array(_update, _update),
    "snapshot": _array(lambda array: array.snapshot(), _update),
    "wait for a version": _array(lambda array: array.wait(1 << 40), _update),
    "append": _array(lambda array: array.append(_row), lambda array: array.append(_row), **_growing),
    "follow": _array(_follow, lambda array: array.append(_row), **_growing),
    "wait for rows": _array(
        lambda array: array.wait(longer_than=1 << 30), lambda array: array.append(_row), **_growing
    ),
}


class Repeated(threading.Thread):
    """A daemon thread that repeats a call until it fails; `error` is what the call raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: BaseException | None = None
        self.calls = 0

    def run(self) -> None:
        try:
            while True:
                self._call()
                self.calls += 1
        except BaseException as error:
            self.error = error
