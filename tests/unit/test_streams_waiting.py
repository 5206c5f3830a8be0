"""Streams in event loops, in selectors, and beside futures."""

from __future__ import annotations

import asyncio
import queue
import selectors
import threading
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future
from typing import Any

import pytest
from helpers import ANSWER, FORKS, Puppet, wait_until

import sharedarray as sa

DESCRIPTORS = FORKS  # where a stream has a descriptor for selectors
WRITE = """
stream = sa.Stream(sys.argv[1], (), "i8", slots=4, takeover=True)
say("made")
while True:
    what = hear()
    if what == "end":
        break
    if what == "close":
        stream.close()
    else:
        stream.put(what)
    say(stream.position)
"""


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


def write(producer: Any, n: int) -> None:
    for k in range(n):
        producer.put(k)
    producer.close()


def later(call: Any, *arguments: Any) -> None:
    threading.Timer(0.05, call, arguments).start()


def test_wait_takes_several_things() -> None:
    with sa.Stream("camera", (), "i8") as producer:
        consumer = sa.Stream("camera")
        producer.put(1)
        for thing in (consumer, Future()):
            with pytest.raises(TypeError, match=r"write wait\(\[…\]\) for one"):
                sa.wait(thing)
        assert consumer.get(timeout=ANSWER) == 1  # it was not consumed as an iterable
        with pytest.raises(TypeError, match="a list of streams, events and futures, not SharedArray"):
            sa.wait(sa.zeros((2, 2)))


# -- asyncio ---------------------------------------------------------------------------------------------


def test_items_come_to_a_coroutine() -> None:
    async def main() -> list[int]:
        with sa.Stream("camera", (), "i8", slots=2) as producer:
            consumer = sa.Stream("camera")
            writer = threading.Thread(
                target=lambda: [producer.put(k) for k in range(50)] and producer.close()
            )
            writer.start()
            found = [int(item) async for item in consumer]
            writer.join()
            with pytest.raises(sa.ShutDown):
                await consumer.aget()
            consumer.close()
        return found

    assert asyncio.run(main()) == list(range(50))


def test_the_loop_goes_on_while_a_coroutine_waits() -> None:
    async def main() -> None:
        producer, consumer = sa.Stream("camera", (), "i8"), sa.Stream("camera")
        for error in (queue.Empty, TimeoutError):
            with pytest.raises(error):
                await consumer.aget(timeout=0.02)
        waiting = [asyncio.create_task(consumer.aget()) for _ in range(3)]
        for k in range(3):
            await asyncio.sleep(0)
            producer.put(k)
        assert sorted(int(item) for item in await asyncio.gather(*waiting)) == [0, 1, 2]
        cancelled = asyncio.create_task(consumer.aget())
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        producer.put_many([3, 4])
        assert (await consumer.aget(max=5)).tolist() == [3, 4]
        later(producer.close)
        with pytest.raises(sa.ShutDown):
            await consumer.aget()
        consumer.close()

    asyncio.run(main())


def test_closing_wakes_a_coroutine() -> None:
    async def main() -> None:
        producer, consumer = sa.Stream("camera", (), "i8"), sa.Stream("camera")
        waiting = asyncio.create_task(consumer.aget())
        await asyncio.sleep(0.01)
        consumer.close()
        with pytest.raises(sa.BlockClosedError):
            await waiting
        producer.close()

    asyncio.run(main())


def test_a_coroutine_hears_of_the_death_of_the_producer() -> None:
    async def main(writer: Puppet) -> None:
        consumer = sa.Stream("camera")
        later(writer.process.kill)
        with pytest.raises(sa.ProducerDied):
            await consumer.aget(ANSWER)
        with pytest.raises(sa.ProducerDied):
            await consumer.aget()

        def go_on() -> None:
            with sa.Stream("camera", takeover=True) as producer:
                producer.put(7)

        later(go_on)
        assert int(await consumer.aget(ANSWER)) == 7
        consumer.close()

    with Puppet(WRITE, "camera") as writer:
        writer.hear()
        asyncio.run(main(writer))


# -- selectors and wait ----------------------------------------------------------------------------------


@pytest.mark.skipif(not DESCRIPTORS, reason="streams have no descriptors here")
def test_a_selector_tells_of_items_and_of_the_end() -> None:
    with Puppet(WRITE, "camera") as writer, selectors.DefaultSelector() as selector:
        writer.hear()
        consumer = sa.Stream("camera")
        selector.register(consumer, selectors.EVENT_READ)
        descriptor = consumer.fileno()
        assert selector.select(0) == []
        assert not consumer.ready()
        for k in range(5):
            writer.say(k)
            assert selector.select(ANSWER)
            assert consumer.ready()
            assert int(consumer.get(0)) == k
            with pytest.raises(queue.Empty):
                consumer.get(0)
            assert selector.select(0) == []
            assert writer.hear() == k
        writer.ask(5)
        writer.ask(6)
        assert int(consumer.get(0)) == 5
        assert selector.select(0)  # one more is there
        assert int(consumer.latest(0)) == 6
        assert selector.select(0) == []
        writer.kill()
        assert selector.select(ANSWER)
        with pytest.raises(sa.ProducerDied):
            consumer.get(0)
        assert selector.select(0) == []
        with sa.Stream("camera", takeover=True) as producer:
            producer.put(9)
            assert selector.select(ANSWER)
            assert int(consumer.get(0)) == 9
        assert selector.select(ANSWER)
        with pytest.raises(sa.ShutDown):
            consumer.get(0)
        assert consumer.fileno() == descriptor
        selector.unregister(consumer)
        consumer.close()


def test_to_wait_for_several_streams_and_futures() -> None:
    producers = [sa.Stream(f"camera{k}", (), "i8") for k in range(3)]
    consumers = [sa.Stream(f"camera{k}") for k in range(3)]
    future: Future[int] = Future()
    things = [*consumers, future]
    assert sa.wait(things, timeout=0) == (set(), set(things))
    assert sa.wait([]) == (set(), set())
    for k, producer in enumerate(producers):
        later(producer.put, k)
        done, _ = sa.wait(things, return_when=FIRST_COMPLETED)
        assert done == {consumers[k]}
        assert int(consumers[k].get(0)) == k
    later(future.set_result, 5)
    assert sa.wait(things, return_when=FIRST_COMPLETED).done == {future}
    for producer in producers[:2]:
        producer.put(1)
    later(producers[2].close)
    assert sa.wait(things).done == set(things)
    failed: Future[int] = Future()
    later(failed.set_exception, ZeroDivisionError())
    consumers[0].get()
    assert failed in sa.wait([consumers[0], failed], return_when=FIRST_EXCEPTION).done
    producers[1] = sa.Stream("camera1", (2,), "f8", replace=True)
    assert int(consumers[1].get(0)) == 1
    assert sa.wait([consumers[1]], 0).done == set()  # it went on with the next generation
    event = sa.Event("event")
    things = [consumers[1], event]
    for _ in range(2):
        assert sa.wait(things, timeout=0) == (set(), set(things))
        later(event.set)
        assert sa.wait(things, return_when=FIRST_COMPLETED).done == {event}
        event.clear()
    event.close()
    with pytest.raises(TypeError, match="int"):
        sa.wait([3])
    with pytest.raises(ValueError, match="return_when"):
        sa.wait([], return_when="SOON")
    for stream in producers + consumers:
        stream.close()


@pytest.mark.parametrize("kind", ["consumer", "event"])
def test_a_wait_ends_when_another_thread_closes_what_it_waits_for(kind: str) -> None:
    producer = sa.Stream("camera", (), "i8")
    never: Future[int] = Future()
    for k in range(200):  # at as many moments of the wait
        thing: Any = sa.Stream("camera") if kind == "consumer" else sa.Event("event")
        if k % 2:
            thing.fileno()
        outcome: Future[Any] = Future()
        threading.Thread(target=wait_for_first, args=([thing, never], outcome), daemon=True).start()
        if k % 4 < 2:
            wait_until(lambda thing=thing: thing._when_closed, "it is waited for", ANSWER)
        for _ in range(k):
            thing.ready()
        thing.close()
        assert outcome.result(ANSWER).done == {thing}
        assert not thing._when_closed
    producer.close()


def wait_for_first(things: list[Any], outcome: Future[Any]) -> None:
    try:
        outcome.set_result(sa.wait(things, return_when=FIRST_COMPLETED))
    except BaseException as error:
        outcome.set_exception(error)
