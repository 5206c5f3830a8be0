"""Streams by name: what a producer and its consumers see of each other."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, FORKS, Puppet, registry, wait_until

import sharedarray as sa

READ = """
import queue
stream = sa.Stream(sys.argv[1])
say("joined")
while True:
    what = hear()
    if what == "end":
        break
    try:
        if what == "latest":
            found = stream.latest(timeout=30)
        elif isinstance(what, int):
            found = stream.get(timeout=30, max=what)
        else:
            found = stream.get(timeout=30)
        say(found.tolist())
        if what == "keep":
            kept = found
        del found
    except Exception as error:
        say(type(error).__name__)
stream.close()
"""
WRITE = """
stream = sa.Stream(sys.argv[1], (3,), "i8", slots=4, takeover=len(sys.argv) > 2)
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


def wakers() -> list[str]:
    try:
        return [name for name in os.listdir(registry()) if name.startswith("w.")]
    except FileNotFoundError:
        return []


def pair(*arguments: Any, **settings: Any) -> tuple[Any, Any]:
    """Return a producer and a consumer in this process."""
    producer = sa.Stream("camera", *arguments, **settings)
    return producer, sa.Stream("camera")


# -- one item after the other ----------------------------------------------------------------------------


def test_items_come_in_order_to_another_process() -> None:
    with sa.Stream("camera", (3,), "i8") as stream, Puppet(READ, "camera") as reader:
        reader.hear()
        for k in range(20):
            stream.put([k, k + 1, k + 2])
            assert reader.ask() == [k, k + 1, k + 2]
        with stream.put() as frame:
            frame[:] = 7
        assert reader.ask() == [7, 7, 7]
        stream.close()
        assert reader.ask() == "ShutDown"
        reader.say("end")
        reader.end()
    assert wakers() == []


def test_a_consumer_waits_for_what_comes() -> None:
    with sa.Stream("camera", (3,), "i8") as stream, Puppet(READ, "camera") as reader:
        reader.hear()
        reader.say()
        wait_until(lambda: stream._block.words[stream._block.entries()[0] + 2], "it sleeps", ANSWER)
        stream.put([1, 2, 3])
        assert reader.hear() == [1, 2, 3]
        reader.say("end")
        reader.end()


def test_every_consumer_gets_every_item() -> None:
    with sa.Stream("camera", (), "i8") as stream:
        consumers = [sa.Stream("camera") for _ in range(5)]
        for k in range(30):
            stream.put(k)
            assert [int(consumer.get(0)) for consumer in consumers] == [k] * 5
        for consumer in consumers:
            consumer.close()


def test_an_exception_withdraws_what_was_written() -> None:
    producer, consumer = pair((2,), "i4", slots=2)
    for _ in range(5):
        with pytest.raises(ValueError, match="broadcast"), producer.put() as frame:
            frame[:] = [1, 2, 3]
    with producer.put() as frame:
        frame[:] = 2
    assert producer.position == 0
    assert consumer.get().tolist() == [2, 2]
    producer.close()
    consumer.close()


def test_a_context_without_its_block_loses_no_slot() -> None:
    producer, consumer = pair((2,), "i4", slots=2)
    for _ in range(5):
        producer.put().__enter__()[:] = 1
        gc.collect()
    producer.put([1, 2], timeout=0)
    producer.put([3, 4], timeout=0)
    assert [item.tolist() for item in (consumer.get(), consumer.get())] == [[1, 2], [3, 4]]
    producer.close()
    consumer.close()


def test_position_time_and_lost() -> None:
    producer, consumer = pair((2,), "i4")
    assert (consumer.position, consumer.lost, consumer.time_ns) == (-1, 0, 0)
    for k in range(3):
        producer.put([k, k])
        assert producer.position == k
    last = 0
    for k in range(3):
        consumer.get()
        assert consumer.position == k
        assert last <= consumer.time_ns
        last = consumer.time_ns
    assert consumer.time == last / 1e9
    assert consumer.lost == 0
    producer.close()
    consumer.close()


def test_iteration_ends_with_the_stream() -> None:
    producer, consumer = pair((), "f8")
    producer.put_many(np.arange(5.0))
    producer.close()
    assert [float(item) for item in consumer] == [0, 1, 2, 3, 4]
    for _ in range(2):
        with pytest.raises(sa.ShutDown):
            consumer.get()
    with pytest.raises(sa.ShutDown):
        consumer.latest()
    with pytest.raises(sa.ShutDown):
        producer.put(1.0)
    consumer.close()
    with pytest.raises(sa.BlockClosedError):
        consumer.get()
    assert sa.ShutDown.__name__ == "ShutDown"
    assert not hasattr(queue, "ShutDown") or sa.ShutDown is queue.ShutDown


# -- waiting and losing ----------------------------------------------------------------------------------


def test_timeouts() -> None:
    producer, consumer = pair((), "i8", slots=2)
    for error in (queue.Empty, TimeoutError, sa.SharedArrayError):
        with pytest.raises(error):
            consumer.get(timeout=0)
        with pytest.raises(error):
            consumer.latest(timeout=0.01)
    producer.put(1)
    producer.put(2)
    for error in (queue.Full, TimeoutError, sa.SharedArrayError):
        with pytest.raises(error, match=str(os.getpid())):
            producer.put(3, timeout=0)
        with pytest.raises(error), producer.put(timeout=0.01) as frame:
            frame[...] = 3
        with pytest.raises(error):
            producer.put_many([3, 4], timeout=0.01)
    assert int(consumer.get()) == 1
    producer.put(3, timeout=ANSWER)
    assert [int(consumer.get()) for _ in range(2)] == [2, 3]
    producer.close()
    consumer.close()


def test_a_producer_waits_for_the_slowest_consumer() -> None:
    with sa.Stream("camera", (), "i8", slots=4) as stream, Puppet(READ, "camera") as slow:
        slow.hear()
        quick = sa.Stream("camera")
        written = []

        def write() -> None:
            for k in range(10):
                stream.put(k)
                written.append(k)

        writer = threading.Thread(target=write)
        writer.start()
        for k in range(4):
            assert int(quick.get(ANSWER)) == k
        wait_until(lambda: stream._block.words[24], "it sleeps", ANSWER)
        assert written == [0, 1, 2, 3]
        for k in range(10):
            assert slow.ask() == k
            if k + 4 < 10:
                assert int(quick.get(ANSWER)) == k + 4
        writer.join()
        quick.close()
        slow.say("end")
        slow.end()


def test_a_stream_that_drops_never_waits() -> None:
    producer, consumer = pair((4,), "i8", slots=4, full="drop_oldest")
    for k in range(20):
        producer.put([k] * 4)
    found = [consumer.get(0).copy() for _ in range(4)]
    assert [item.tolist() for item in found] == [[k] * 4 for k in range(16, 20)]
    assert consumer.lost == 16
    assert consumer.position == 19
    with pytest.raises(queue.Empty):
        consumer.get(0)
    producer.close()
    consumer.close()


def test_a_stream_that_drops_never_waits_though_all_slots_are_kept() -> None:
    producer, consumer = pair((4,), "i8", slots=3, full="drop_oldest")
    kept = []
    for k in range(3):
        producer.put([k] * 4)
        kept.append(consumer.get(0))
    for k in range(3, 20):
        producer.put([k] * 4)
        with producer.put() as frame:
            frame[:] = -1
    assert [item.tolist() for item in kept] == [[k] * 4 for k in range(3)]
    kept.pop(0)
    producer.put([99] * 4)
    assert consumer.get(ANSWER).tolist() == [99] * 4
    assert consumer.lost == 34
    producer.close()
    consumer.close()


def test_one_consumer_may_be_lossy_where_others_are_not() -> None:
    producer = sa.Stream("camera", (), "i8", slots=3)
    lossy = sa.Stream("camera", lossless=False)
    for k in range(10):
        producer.put(k, timeout=0)
    assert [int(lossy.get(0)) for _ in range(3)] == [7, 8, 9]
    assert lossy.lost == 7
    lossy.close()
    producer.close()
    with sa.Stream("other", (), full="drop_oldest"), pytest.raises(ValueError, match="drops items"):
        sa.Stream("other", lossless=True)


def test_the_latest_item() -> None:
    producer, consumer = pair((2,), "i8", slots=4)
    for k in range(4):
        producer.put([k, k])
    assert consumer.latest().tolist() == [3, 3]
    assert (consumer.position, consumer.lost) == (3, 3)
    with pytest.raises(queue.Empty):
        consumer.latest(0)
    for k in range(4, 7):
        producer.put([k, k], timeout=0)  # the slots that were skipped are free
    assert consumer.get().tolist() == [4, 4]
    producer.close()
    consumer.close()


# -- several items ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
def test_several_items_at_once(full: Any) -> None:
    producer, consumer = pair((2,), "i8", slots=8, full=full)
    sent, got = 0, 0
    for n in (1, 3, 8, 5, 2, 7, 8, 4):
        producer.put_many(np.arange(sent, sent + n).repeat(2).reshape(n, 2), timeout=0)
        sent += n
        while got < sent:
            found = consumer.get(0, max=5)
            assert 1 <= len(found) <= 5
            assert consumer.position == got
            assert found.tolist() == [[k, k] for k in range(got, got + len(found))]
            assert not found.flags.writeable
            got += len(found)
            del found
    assert consumer.lost == 0
    producer.put_many([[1, 2], np.array([3, 4])])
    assert consumer.get(max=1).tolist() == [[1, 2]]
    assert consumer.get().tolist() == [3, 4]
    with pytest.raises(ValueError, match="max"):
        consumer.get(max=0)
    producer.close()
    consumer.close()


def test_many_items_wait_for_slots_bit_by_bit() -> None:
    with sa.Stream("camera", (3,), "i8", slots=4) as stream, Puppet(READ, "camera") as reader:
        reader.hear()
        items = np.arange(90).reshape(30, 3)
        writer = threading.Thread(target=stream.put_many, args=(items,))
        writer.start()
        found: list[Any] = []
        while len(found) < 30:
            found += reader.ask(3)
        assert found == items.tolist()
        writer.join()
        reader.say("end")
        reader.end()


# -- arrays that are kept --------------------------------------------------------------------------------


def test_items_are_read_only_and_in_place() -> None:
    producer, consumer = pair((3,), "f4")
    producer.put([1, 2, 3])
    item = consumer.get()
    assert type(item) is np.ndarray
    assert not item.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        item[0] = 5
    with pytest.raises(ValueError, match="WRITEABLE"):
        item.flags.writeable = True
    producer._block.items[0] = 9
    assert item.tolist() == [9, 9, 9]
    producer.close()
    consumer.close()


@pytest.mark.parametrize("full", ["wait", "drop_oldest"])
def test_what_is_kept_stays_as_it_is(full: Any) -> None:
    producer, consumer = pair((8,), "i8", slots=4, full=full)
    producer.put([0] * 8)
    kept = consumer.get()[2:5]  # a view of a view keeps the slot
    for k in range(1, 50):
        producer.put([k] * 8, timeout=0)
        assert consumer.get(0).tolist() == [k] * 8
        assert kept.tolist() == [0] * 3
    producer.close()
    consumer.close()
    gc.collect()
    assert kept.tolist() == [0] * 3


def test_a_slot_is_free_as_soon_as_its_array_is_gone() -> None:
    producer, consumer = pair((8,), "i8", slots=2)
    producer.put([0] * 8)
    producer.put([1] * 8)
    item = consumer.get()
    with pytest.raises(queue.Full):
        producer.put([2] * 8, timeout=0)
    del item
    producer.put([2] * 8, timeout=ANSWER)
    batch = consumer.get(max=2)
    with pytest.raises(queue.Full):
        producer.put([3] * 8, timeout=0)
    del batch
    producer.put([3] * 8, timeout=ANSWER)
    producer.close()
    consumer.close()


def test_arrays_outlive_their_consumer() -> None:
    producer, consumer = pair((8,), "i8", slots=2)
    producer.put([0] * 8)
    producer.put([1] * 8)
    kept = consumer.get()
    consumer.close()
    del consumer
    for k in range(2, 20):
        producer.put([k] * 8, timeout=0)
        assert kept.tolist() == [0] * 8
    assert len(producer._block.entries()) == 1
    del kept
    assert producer._block.entries() == []
    late = sa.Stream("camera", history=5)
    assert late.get(0).tolist() == [19] * 8
    producer.close()
    late.close()


def test_a_consumer_that_keeps_every_slot_is_told_to_copy() -> None:
    producer, consumer = pair((), "i8", slots=2)
    producer.put(0)
    producer.put(1)
    kept = [consumer.get(), consumer.get()]
    for _ in range(2):
        with pytest.raises(sa.DeadlockError, match="copy"):
            consumer.get()
    del kept[0]
    producer.put(2, timeout=ANSWER)
    assert int(consumer.get()) == 2
    producer.close()
    consumer.close()


# -- joining and leaving ---------------------------------------------------------------------------------


def test_items_in_cycles_of_references_keep_no_slot_for_ever() -> None:
    producer, consumer = pair((), "i8", slots=2)
    other = sa.Stream("camera")

    def get_into_cycle() -> None:
        cycle: list[Any] = [consumer.get(ANSWER)]
        cycle.append(cycle)

    gc.disable()  # a process that sleeps collects nothing
    try:
        for k in range(2):
            producer.put(k)
            other.get(ANSWER)
            get_into_cycle()
        assert producer._block.holds.any(axis=1).all()
        with pytest.raises(queue.Empty):  # and not that it keeps every slot
            consumer.get(0)
        producer.put(2)
        get_into_cycle()
        kept = [other.get(ANSWER)]
        producer.put(3)
        kept.append(other.get(ANSWER)[None])
        assert int(consumer.get(ANSWER)) == 3
        del kept[0]  # the slot of 2 is in the cycle alone
        writer = threading.Thread(target=producer.put, args=(4,))
        writer.start()
        assert int(consumer.get(ANSWER)) == 4
        writer.join(ANSWER)
        assert not writer.is_alive()
    finally:
        gc.enable()
    for stream in (producer, consumer, other):
        stream.close()


def test_a_late_consumer_may_begin_with_earlier_items() -> None:
    producer = sa.Stream("camera", (), "i8", slots=4)
    for k in range(10):
        producer.put(k)
    for history, first in ((0, 10), (2, 8), (4, 6), (100, 6)):
        late = sa.Stream("camera", history=history)
        assert [int(late.get(0)) for _ in range(10 - first)] == list(range(first, 10))
        with pytest.raises(queue.Empty):
            late.get(0)
        assert late.lost == 0
        late.close()
    producer.close()


def test_a_consumer_that_leaves_frees_its_slots() -> None:
    producer, consumer = pair((), "i8", slots=2)
    producer.put(0)
    producer.put(1)
    with pytest.raises(queue.Full):
        producer.put(2, timeout=0)
    consumer.close()
    for k in range(5):
        producer.put(k, timeout=0)
    producer.close()


def test_there_may_be_32_consumers() -> None:
    producer = sa.Stream("camera", (), "i8", slots=2)
    consumers = [sa.Stream("camera") for _ in range(32)]
    with pytest.raises(sa.LimitError, match="32"):
        sa.Stream("camera")
    for k in range(5):
        producer.put(k, timeout=0)
        assert {int(each.get(0)) for each in consumers} == {k}
    producer.put(5)
    producer.put(6)
    for consumer in consumers[:-1]:
        consumer.get(0)
    with pytest.raises(queue.Full):
        producer.put(7, timeout=0)
    consumers[-1].get(0)
    producer.put(7, timeout=0)
    for consumer in consumers:
        consumer.close()
    producer.close()


# -- producers -------------------------------------------------------------------------------------------


def test_a_second_producer_is_told_of_the_first() -> None:
    with Puppet(WRITE, "camera") as writer:
        writer.hear()
        for settings in ({}, {"takeover": True}, {"replace": True}):
            with pytest.raises(sa.BlockExistsError, match=f"process {writer.pid}"):
                sa.Stream("camera", (3,), "i8", **settings)  # type: ignore[arg-type]
        consumer = sa.Stream("camera")
        assert writer.ask([1, 2, 3]) == 0
        assert consumer.get(ANSWER).tolist() == [1, 2, 3]
        consumer.close()
        writer.say("end")
        writer.end()


def test_the_death_of_the_producer_is_told_and_another_goes_on() -> None:
    with Puppet(WRITE, "camera") as first:
        first.hear()
        consumer = sa.Stream("camera")
        first.ask([0, 0, 0])
        first.ask([1, 1, 1])
        first.kill()
    assert [consumer.get(ANSWER).tolist() for _ in range(2)] == [[0, 0, 0], [1, 1, 1]]
    for error in (sa.ProducerDied, ConnectionResetError):
        with pytest.raises(error, match=str(first.pid)):
            consumer.get()
    with pytest.raises(sa.ProducerDied):
        consumer.get(timeout=0.01)
    with pytest.raises(sa.BlockExistsError, match="takeover"):
        sa.Stream("camera", (3,), "i8")
    with pytest.raises(sa.BlockExistsError, match="other items"):
        sa.Stream("camera", (4,), "i8", takeover=True)
    with Puppet(WRITE, "camera", "takeover") as second:
        second.hear()
        assert second.ask([2, 2, 2]) == 2
        assert consumer.get(ANSWER).tolist() == [2, 2, 2]
        assert consumer.position == 2
        second.ask("close")
        with pytest.raises(sa.ShutDown):
            consumer.get(ANSWER)
        second.say("end")
        second.end()
    consumer.close()
    wait_until(lambda: wakers() == [], "the wakers of the dead go", ANSWER)


def test_a_consumer_that_waits_hears_of_the_death() -> None:
    with Puppet(WRITE, "camera") as first:
        first.hear()
        consumer = sa.Stream("camera")
        threading.Timer(0.1, first.process.kill).start()
        with pytest.raises(sa.ProducerDied):
            consumer.get(ANSWER)
        first.process.wait(ANSWER)
        timer = threading.Timer(0.1, lambda: sa.Stream("camera", takeover=True).put([5, 5, 5]))
        timer.start()
        assert consumer.get(ANSWER).tolist() == [5, 5, 5]
        timer.join()
    consumer.close()


def test_the_death_of_a_consumer_frees_its_slots() -> None:
    with sa.Stream("camera", (3,), "i8", slots=2) as stream, Puppet(READ, "camera") as reader:
        reader.hear()
        stream.put([1, 1, 1])
        assert reader.ask("keep") == [1, 1, 1]
        stream.put([2, 2, 2])
        with pytest.raises(queue.Full, match=str(reader.pid)):
            stream.put([3, 3, 3], timeout=0)
        threading.Timer(0.1, reader.process.kill).start()
        stream.put([3, 3, 3], timeout=ANSWER)
        for k in range(5):
            stream.put([k, k, k], timeout=ANSWER)


def test_a_stream_that_is_not_there_is_made_by_takeover() -> None:
    with pytest.raises(sa.BlockNotFoundError):
        sa.Stream("camera", takeover=True)
    with sa.Stream("camera", (3,), takeover=True) as producer:
        assert producer.position == -1
    with pytest.raises(sa.BlockNotFoundError):
        sa.Stream("camera")


# -- generations -----------------------------------------------------------------------------------------


def test_consumers_go_on_with_the_next_generation() -> None:
    first, consumer = pair((2,), "i8", slots=4)
    first.put([1, 1])
    second = sa.Stream("camera", (3, 3), "f4", slots=3, replace=True)
    with pytest.raises(sa.ShutDown):
        first.put([2, 2])
    for k in range(3):
        second.put(np.full((3, 3), k))
    with pytest.raises(queue.Full):
        second.put(np.full((3, 3), 9), timeout=0)  # the consumer has still to come over
    assert consumer.get(0).tolist() == [1, 1]
    for k in range(3):
        assert consumer.get(0).tolist() == [[k] * 3] * 3
    assert (consumer.shape, consumer.dtype, consumer.slots) == ((3, 3), np.dtype("f4"), 3)
    for k in range(10):
        second.put(np.full((3, 3), k), timeout=ANSWER)
        assert consumer.get(0)[0, 0] == k
    second.close()
    consumer.close()
    first.close()


def test_a_stream_takes_the_name_of_an_array_only_if_asked() -> None:
    array = sa.zeros(3, name="camera")
    with pytest.raises(sa.BlockExistsError):
        sa.Stream("camera", (3,))
    with pytest.raises(sa.HeaderError, match="no stream"):
        sa.Stream("camera")
    with sa.Stream("camera", (3,), replace=True) as stream:
        assert stream.name == "camera"
    assert array.tolist() == [0, 0, 0]


# -- items of several arrays -----------------------------------------------------------------------------


def test_items_with_several_arrays() -> None:
    producer, consumer = pair({"rgb": ((4, 5, 3), "u1"), "depth": ((4, 5), "f4"), "n": ((), "i8")})
    with producer.put() as frame:
        frame["rgb"] = 7
        frame["depth"][1:3] = 2.5
        frame["n"] = 42
    item = consumer.get()
    assert item["rgb"].shape == (4, 5, 3)
    assert (item["rgb"] == 7).all()
    assert item["depth"][1, 0] == 2.5
    assert item["n"] == 42
    producer.put({"rgb": np.ones((4, 5, 3), "u1"), "depth": np.zeros((4, 5)), "n": 1})
    assert consumer.get()["n"] == 1
    with pytest.raises(ValueError, match="depth"):
        producer.put({"rgb": np.ones((4, 5, 3), "u1")})
    producer.close()
    consumer.close()


def test_items_of_a_structured_dtype() -> None:
    dtype = np.dtype([("t", "f8"), ("xyz", "f4", (3,))])
    producer, consumer = pair((2,), dtype)
    item = np.zeros(2, dtype)
    item["xyz"][1] = 1, 2, 3
    producer.put(item)
    assert consumer.get()["xyz"].tolist() == [[0, 0, 0], [1, 2, 3]]
    producer.close()
    consumer.close()


# -- other programs --------------------------------------------------------------------------------------


def test_a_stream_is_a_block_like_others() -> None:
    producer = sa.Stream("camera", (2, 3), "u2", slots=5)
    producer.put([[1, 2, 3], [4, 5, 6]])
    (info,) = sa.blocks()
    assert (info.name, info.kind, info.shape, info.dtype) == ("camera", "stream", (5, 2, 3), np.dtype("u2"))
    assert info.holders == (os.getpid(),)
    assert sa.attach("camera", "r")[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    if os.path.exists(info.path):
        assert np.load(info.path, mmap_mode="r")[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    consumer = sa.Stream("camera")
    sa.unlink("camera")
    assert not sa.exists("camera")
    producer.put([[1, 1, 1], [1, 1, 1]])
    assert consumer.get().sum() == 6
    with pytest.raises(sa.BlockNotFoundError):
        producer.unlink()
    producer.close()
    consumer.close()


def test_bad_input_is_refused() -> None:
    for bad, error in (
        ({"slots": 0}, ValueError),
        ({"slots": 1 << 16}, ValueError),
        ({"full": "drop"}, ValueError),
        ({"history": 1}, TypeError),
        ({"lossless": True}, TypeError),
        ({"takeover": True, "replace": True}, TypeError),
        ({"slots": 2.5}, TypeError),
    ):
        with pytest.raises(error):
            sa.Stream("camera", (2,), **bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype"):
        sa.Stream("camera", {"rgb": (2, "u1")}, "f4")
    with pytest.raises(sa.UnsupportedDTypeError):
        sa.Stream("camera", (2,), object)
    with pytest.raises(sa.InvalidNameError):
        sa.Stream("a/b", (2,))
    with pytest.raises(ValueError, match="shape, dtype"):
        sa.Stream("camera", {"rgb": 3})
    with pytest.raises(sa.BlockNotFoundError):
        sa.Stream("camera")
    producer, consumer = pair((2,), "i4")
    with pytest.raises(ValueError, match="shape"):
        producer.put([1, 2, 3])
    with pytest.raises(ValueError, match="shape"):
        producer.put(1)
    with pytest.raises(TypeError, match="int32"):
        producer.put(np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="shape"):
        producer.put_many(np.zeros((3, 3)))
    for wrong in (producer.get, producer.latest, lambda: iter(producer)):
        with pytest.raises(TypeError, match=r"consumer|Stream"):
            wrong()
    for wrong in (lambda: consumer.put([1, 2]), lambda: consumer.put_many([[1, 2]])):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="history"):
        sa.Stream("camera", history=-1)
    for wrong in ({"history": 2.5}, {"lossless": "no"}, {"dtype": "i4"}):
        with pytest.raises(TypeError):
            sa.Stream("camera", **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        consumer.get(0, max=2.5)
    with sa.Stream("two", {"a": (2, "f4")}) as two, pytest.raises(TypeError, match="int64"):
        two.put(5)
    producer.put([1, 2])
    assert consumer.get().tolist() == [1, 2]
    producer.close()
    consumer.close()


def test_nothing_is_left_when_both_sides_are_killed() -> None:
    with Puppet(WRITE, "camera") as writer:
        writer.hear()
        with Puppet(READ, "camera") as reader:
            reader.hear()
            writer.ask([1, 2, 3])
            assert reader.ask("keep") == [1, 2, 3]
            reader.kill()
        writer.kill()
    wait_until(lambda: not sa.exists("camera") and wakers() == [], "all of it is gone", ANSWER)


# -- threads, forks --------------------------------------------------------------------------------------


def test_threads_share_a_stream() -> None:
    producer, consumer = pair((), "i8", slots=16)
    found: list[int] = []

    def read() -> None:
        try:
            while True:
                found.append(int(consumer.get()))
        except sa.ShutDown:
            pass

    def write(first: int) -> None:
        for k in range(first, first + 100):
            producer.put(k)

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(1000 * k,)) for k in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    producer.close()
    for thread in readers:
        thread.join()
    assert sorted(found) == sorted(1000 * k + n for k in range(3) for n in range(100))
    consumer.close()


def test_closing_wakes_another_thread_that_waits() -> None:
    producer, consumer = pair((), "i8", slots=1)
    producer.put(1)
    raised: list[BaseException] = []

    def call(function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=call, args=(producer.put, 2))]
    other = sa.Stream("camera")
    threads.append(threading.Thread(target=call, args=(other.get,)))
    for thread in threads:
        thread.start()
    wait_until(lambda: producer._block.words[24] and producer._block.words[32 + 8 + 2], "both sleep", ANSWER)
    other.close()
    producer.close()
    for thread in threads:
        thread.join()
    assert sorted(type(error).__name__ for error in raised) == ["BlockClosedError", "ShutDown"]
    consumer.close()


_KEPT: list[Any] = []  # what a process has when it ends


def _make_and_end() -> None:
    _KEPT.append(sa.Stream("camera", (), "i8"))
    _KEPT[0].put(1)
    wait_until(lambda: len(_KEPT[0]._block.entries()) == 1, "the consumer has joined", ANSWER)


@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_child_process_that_ends_closes_its_streams() -> None:
    """A child of multiprocessing ends without Python's own clean-up."""
    child = multiprocessing.get_context("fork").Process(target=_make_and_end)
    child.start()
    wait_until(lambda: sa.exists("camera"), "the stream is there", ANSWER)
    consumer = sa.Stream("camera", history=1)
    assert [int(item) for item in consumer] == [1]
    consumer.close()
    child.join()
    assert child.exitcode == 0
    child.close()


FORGETS = """
import multiprocessing, sys
import sharedarray as sa

def read(stream):
    print([int(item) for item in stream])

if __name__ == "__main__":
    stream = sa.Stream("camera", (), "i8")
    viewer = sa.Stream("camera")
    child = multiprocessing.get_context("fork").Process(target=read, args=(viewer,))
    child.start()
    for number in range(3):
        stream.put(number)
"""


@pytest.mark.slow
@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_program_that_forgets_to_close_ends_with_its_children() -> None:
    """Python waits for them as it ends, and they wait for the end of the stream."""
    done = subprocess.run(
        [sys.executable, "-c", FORGETS], capture_output=True, text=True, timeout=2 * ANSWER, check=True
    )
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")


@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_forked_child_that_ends_within_put_ends_as_it_says_and_its_parent_publishes() -> None:
    producer, consumer = pair((), "i8", slots=4)
    writing = producer.put()
    with writing as frame:
        frame[...] = 1
        child = os.fork()
        if not child:
            status = 1
            try:
                writing.__exit__(SystemExit, SystemExit(3))  # as sys.exit does, and raises no other error
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert int(consumer.get(ANSWER)) == 1
    consumer.close()
    producer.close()


@pytest.mark.skipif(not FORKS, reason="needs fork")
def test_a_forked_child_is_a_consumer_of_its_own() -> None:
    producer, consumer = pair((), "i8", slots=4)
    producer.put(0)
    assert int(consumer.get()) == 0
    producer.put(1)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            first = int(consumer.get(ANSWER))
            os.write(writing, b"1")
            second = int(consumer.get(ANSWER))
            try:
                producer.put(5)
            except sa.BlockExistsError as error:
                good = str(os.getppid()) in str(error)
            producer.close()
            consumer.close()
            status = 0 if good and (first, second) == (1, 2) else 2
        finally:
            os._exit(status)
    os.close(writing)
    assert os.read(reading, 1) == b"1"
    os.close(reading)
    assert len(producer._block.entries()) == 2
    assert int(consumer.get(ANSWER)) == 1
    producer.put(2)
    assert int(consumer.get(ANSWER)) == 2
    assert os.waitpid(child, 0)[1] == 0
    assert len(producer._block.entries()) == 1
    producer.put(3)
    assert int(consumer.get(ANSWER)) == 3
    producer.close()
    consumer.close()


@pytest.mark.skipif(not FORKS, reason="needs fork")
@pytest.mark.parametrize("several", [False, True], ids=["get", "get(max=2)"])
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_frame_that_a_forked_child_drops_stays_as_it_is_in_the_parent(several: bool, closed: bool) -> None:
    producer, consumer = pair((4,), "i8", slots=4, full="drop_oldest")
    producer.put_many([[1] * 4, [1] * 4])
    frames = consumer.get(max=2) if several else consumer.get()
    if closed:
        consumer.close()
    child = os.fork()
    if not child:
        del frames
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for k in range(2, 20):
        producer.put([k] * 4)
    assert (frames == 1).all()
    del frames
    producer.close()
    consumer.close()
