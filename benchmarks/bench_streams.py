"""What does a stream of items cost between processes: large frames, small items, being woken, and waiting?

Consumers are processes that take every item and look at one element of it. A call publishes some items, and
ends when every consumer has had the last one. The limit is one warm ``memcpy`` of each frame into as many
slots, and a bare pipe that wakes a process and is answered.

Libraries that have streams or queues of arrays take part if they are installed: py-sharedmemory, faster-fifo,
pyshmem and iceoryx2.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import pytest
from conftest import QUICK, human

import sharedarray as sa
from sharedarray._bench import processor_time

FRAME, SLOTS = (1080, 1920, 3), 8
FRAMES = 4 if QUICK else 24
ITEMS = 50 if QUICK else 2000
BATCH = 500
ROUNDS = 2 if QUICK else 11
SMALL = (8,)  # float64: 64 bytes
IDLE = 0.5 if QUICK else 5.0  # seconds for which the processor time of a process that waits is measured

_fork = multiprocessing.get_context("fork")


def _consume(take: Callable[[], Any], orders: Any, done: Any) -> None:
    """Take as many items as ordered, again and again, and say when."""
    while count := orders.recv():
        taken = 0
        while taken < count:
            taken += take()
        done.send_bytes(b".")


Maker = Callable[[], Callable[[], int]]


def _work(make: Maker, orders: Any, done: Any) -> None:
    take = make()
    done.send_bytes(b"+")
    _consume(take, orders, done)


@contextmanager
def _consumers(makers: list[Maker]) -> Iterator[Callable[[int], Callable[[], None]]]:
    """Start a process for each; yield what orders items from all, and returns what waits for them."""
    with ExitStack() as stack:
        ends = []
        for make in makers:
            orders, order = _fork.Pipe(duplex=False)
            answer, done = _fork.Pipe(duplex=False)
            process = _fork.Process(target=_work, args=(make, orders, done))
            process.start()
            stack.callback(process.join)
            stack.callback(order.send, 0)
            ends.append((order, answer))
            answer.recv_bytes()

        def begin(count: int) -> Callable[[], None]:
            for order, _ in ends:
                order.send(count)
            return lambda: [answer.recv_bytes() for _, answer in ends] and None

        yield begin


@contextmanager
def _stream(
    shape: tuple[int, ...], dtype: str, slots: int, consumers: int, most: int | None
) -> Iterator[Any]:
    with sa.Stream(None, shape, dtype, slots=slots) as stream:

        def taker() -> Callable[[], int]:
            reading = sa.Stream(stream.name)

            def take() -> int:
                item = reading.get(max=most) if most else reading.get()
                item.flat[0]
                return len(item) if most else 1

            return take

        with _consumers([taker] * consumers) as begin:
            while (
                len(next(block for block in sa.blocks() if block.name == stream.name).stream.consumers)
                < consumers
            ):
                pass  # until they have joined
            yield begin, stream


@contextmanager
def _ring_by_hand(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    """Yield a ring of a program's own: shared memory, and two semaphores for each consumer."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = shared_memory.SharedMemory(create=True, size=slots * size)
    places = [np.ndarray((slots, *shape), dtype, memory.buf)]
    free = [_fork.Semaphore(slots) for _ in range(consumers)]
    full = [_fork.Semaphore(0) for _ in range(consumers)]
    at = 0

    def put(item: np.ndarray[Any, Any]) -> None:
        nonlocal at
        for each in free:
            each.acquire()
        np.copyto(places[0][at % slots], item)
        at += 1
        for each in full:
            each.release()

    def taker(number: int) -> Callable[[], Callable[[], int]]:
        def made() -> Callable[[], int]:
            position = 0

            def take() -> int:
                nonlocal position
                full[number].acquire()
                places[0][position % slots].flat[0]
                position += 1
                free[number].release()
                return 1

            return take

        return made

    try:
        with _consumers([taker(number) for number in range(consumers)]) as begin:
            yield begin, put
    finally:
        places.clear()
        memory.close()
        memory.unlink()


@contextmanager
def _queues(consumers: int) -> Iterator[Any]:
    queues = [_fork.Queue(SLOTS) for _ in range(consumers)]

    def taker(queue: Any) -> Callable[[], Callable[[], int]]:
        return lambda: lambda: len([queue.get().flat[0]])

    def put(item: Any) -> None:
        for queue in queues:
            queue.put(item)

    with _consumers([taker(queue) for queue in queues]) as begin:
        yield begin, put
    for queue in queues:
        queue.close()
        queue.join_thread()


@contextmanager
def _ring_with_events(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    """The other way by hand: positions in the shared memory, and events for new items and for free slots."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = shared_memory.SharedMemory(create=True, size=64 + 8 * consumers + slots * size)
    items = [np.ndarray((slots, *shape), dtype, memory.buf, 64 + 8 * consumers)]
    positions = [memory.buf[: 64 + 8 * consumers].cast("Q")]  # of the producer, and from 8 on of consumers
    new, free = [_fork.Event() for _ in range(consumers)], _fork.Event()

    def put(item: np.ndarray[Any, Any]) -> None:
        words = positions[0]
        while words[0] - min(words[8:]) >= slots:
            free.clear()
            if words[0] - min(words[8:]) >= slots:
                free.wait()
        np.copyto(items[0][words[0] % slots], item)
        words[0] += 1
        for each in new:
            each.set()

    def taker(number: int) -> Maker:
        def take() -> int:
            words = positions[0]
            while words[0] == words[8 + number]:
                new[number].clear()
                if words[0] == words[8 + number]:
                    new[number].wait()
            items[0][words[8 + number] % slots].flat[0]
            words[8 + number] += 1
            free.set()
            return 1

        return lambda: take

    try:
        with _consumers([taker(number) for number in range(consumers)]) as begin:
            yield begin, put
    finally:
        items.clear()
        positions.pop().release()
        memory.close()
        memory.unlink()


@contextmanager
def _pipes(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    """Pipes, with the data beside the pickle, as protocol 5 has it."""
    ends = [_fork.Pipe(duplex=False) for _ in range(consumers)]

    def put(item: np.ndarray[Any, Any]) -> None:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        for _, writer in ends:
            writer.send_bytes(head)
            for buffer in buffers:
                writer.send_bytes(buffer.raw())

    def taker(reader: Any) -> Maker:
        def take() -> int:
            head = reader.recv_bytes()
            pickle.loads(head, buffers=[reader.recv_bytes()]).flat[0]
            return 1

        return lambda: take

    with _consumers([taker(reader) for reader, _ in ends]) as begin:
        yield begin, put
    for reader, writer in ends:
        reader.close()
        writer.close()


@contextmanager
def _py_sharedmemory(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    library: Any = importlib.import_module("py_sharedmemory")
    pairs = [library.create_shared_memory_pair(slots, ctx=_fork) for _ in range(consumers)]

    def put(item: np.ndarray[Any, Any]) -> None:
        for sender, _ in pairs:
            sender.put(item)

    with _consumers([lambda get=pair[1].get: lambda: len([get().flat[0]]) for pair in pairs]) as begin:  # type: ignore[misc]
        yield begin, put
    for pair in pairs:
        for end in pair:
            end.close()


@contextmanager
def _faster_fifo(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    library: Any = importlib.import_module("faster_fifo")
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize + 1024  # and its pickle
    queues = [library.Queue(slots * size) for _ in range(consumers)]

    def put(item: np.ndarray[Any, Any]) -> None:
        for queue in queues:
            queue.put(item, timeout=60)

    def taker(queue: Any) -> Maker:
        return lambda: lambda: len([queue.get(timeout=60).flat[0]])

    with _consumers([taker(queue) for queue in queues]) as begin:
        yield begin, put


_numbers = itertools.count()


@contextmanager
def _pyshmem(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    """It keeps the latest item only: consumers lose those that come too fast."""
    library: Any = importlib.import_module("pyshmem")
    name = f"bench_{os.getpid()}_{next(_numbers)}"
    writer = library.create(name, shape=shape, dtype=dtype)

    def taker() -> Callable[[], int]:
        reader = library.open(name)
        seen = reader.count

        def take() -> int:
            nonlocal seen
            try:
                reader.read_new(timeout=0.1).flat[0]
            except TimeoutError:
                pass  # the last item was read as one that came before it
            before, seen = seen, reader.count
            return int(seen - before)

        return take

    try:
        with _consumers([taker] * consumers) as begin:
            yield begin, writer.write
    finally:
        writer.close()
        library.unlink(name)


@contextmanager
def _iceoryx2(shape: tuple[int, ...], dtype: str, slots: int, consumers: int) -> Iterator[Any]:
    """Its consumers have no wake-up without a second service: they poll, and yield in between."""
    library: Any = importlib.import_module("iceoryx2")
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    name = f"bench_{os.getpid()}_{next(_numbers)}"

    def service(node: Any) -> Any:
        return (
            node.service_builder(library.ServiceName.new(name))
            .publish_subscribe(library.Slice[ctypes.c_uint8])
            .subscriber_max_buffer_size(slots)
            .enable_safe_overflow(False)
            .open_or_create()
        )

    def taker() -> Callable[[], int]:
        node = library.NodeBuilder.new().create(library.ServiceType.Ipc)
        reader = service(node).subscriber_builder().create()

        def take() -> int:
            while (sample := reader.receive()) is None:
                os.sched_yield()
            sample.payload()[0]
            sample.delete()
            return 1

        return take

    node = library.NodeBuilder.new().create(library.ServiceType.Ipc)
    builder = service(node).publisher_builder().initial_max_slice_len(size)
    writer = builder.create()

    def put(item: np.ndarray[Any, Any]) -> None:
        sample = writer.loan_slice_uninit(size)
        ctypes.memmove(sample.payload_ptr, item.ctypes.data, size)
        sample.assume_init().send()

    with _consumers([taker] * consumers) as begin:
        yield begin, put


_RIVALS = {
    "py-sharedmemory": ("py_sharedmemory", _py_sharedmemory),
    "faster-fifo": ("faster_fifo", _faster_fifo),
    "pyshmem": ("pyshmem", _pyshmem),
    "iceoryx2": ("iceoryx2", _iceoryx2),
}


def _rivals(
    stack: ExitStack, shape: tuple[int, ...], dtype: str, slots: int, consumers: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Start the libraries that are installed; return what begins and puts for each, and which are missing."""
    found, missing = {}, {}
    for name, (module, start) in _RIVALS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing[name] = "not installed"
        else:
            found[name] = stack.enter_context(start(shape, dtype, slots, consumers))
    return found, missing


def _sending(begin: Any, put: Callable[[Any], object], item: Any, count: int) -> Callable[[], None]:
    def call() -> None:
        wait = begin(count)
        for _ in range(count):
            put(item)
        wait()

    return call


@pytest.mark.parametrize("consumers", [1, 2, 4])
def test_frames(race: Callable[..., Any], consumers: int) -> None:
    """Frames of 1080p to one, two and four consumers, each of which gets every frame.

    Linux gives large private arrays of NumPy pages of 2 MiB, and shared memory pages of 4 KiB, unless it is
    set up otherwise (``transparent_hugepage/shmem_enabled``). So there are two limits: a copy into each.
    """
    frame = np.full(FRAME, 7, "u1")
    warm, shared = np.zeros((SLOTS, *FRAME), "u1"), np.asarray(sa.zeros((SLOTS, *FRAME), "u1"))

    def copies(slots: np.ndarray[Any, Any]) -> None:
        for number in range(FRAMES):
            np.copyto(slots[number % SLOTS], frame)

    with ExitStack() as stack:
        begin, stream = stack.enter_context(_stream(FRAME, "u1", SLOTS, consumers, None))
        by_hand = stack.enter_context(_ring_by_hand(FRAME, "u1", SLOTS, consumers))
        with_events = stack.enter_context(_ring_with_events(FRAME, "u1", SLOTS, consumers))
        queues = stack.enter_context(_queues(consumers))
        pipes = stack.enter_context(_pipes(FRAME, "u1", SLOTS, consumers))
        rivals, missing = _rivals(stack, FRAME, "u1", SLOTS, consumers)
        race(
            f"a frame of 1080p, to {consumers} consumer{'s' if consumers > 1 else ''}",
            {
                "sharedarray": _sending(begin, stream.put, frame, FRAMES),
                "a warm memcpy": lambda: copies(warm),
                "a warm memcpy into shared memory": lambda: copies(shared),
                "SharedMemory and semaphores by hand": _sending(*by_hand, frame, FRAMES),
                "SharedMemory and events by hand": _sending(*with_events, frame, FRAMES),
                "multiprocessing.Queue": _sending(*queues, frame, FRAMES),
                "Pipe with pickle 5": _sending(*pipes, frame, FRAMES),
                **{name: _sending(*rival, frame, FRAMES) for name, rival in rivals.items()},
            },
            missing=missing,
            baseline="a warm memcpy",
            rounds=ROUNDS,
            per=FRAMES,
            unit="ms",
            group=f"frames to {consumers} consumers",
            size=frame.nbytes,
            budget=20.0,
        )


def test_small_items(race: Callable[..., Any]) -> None:
    """Items of 64 bytes, one by one and in batches, against queues and semaphores."""
    item = np.zeros(SMALL)
    items = np.zeros((BATCH, *SMALL))
    with ExitStack() as stack:
        begin, stream = stack.enter_context(_stream(SMALL, "f8", 4 * BATCH, 1, None))
        begin_batch, batches = stack.enter_context(_stream(SMALL, "f8", 4 * BATCH, 1, BATCH))
        by_hand = stack.enter_context(_ring_by_hand(SMALL, "f8", 4 * BATCH, 1))
        with_events = stack.enter_context(_ring_with_events(SMALL, "f8", 4 * BATCH, 1))
        queues = stack.enter_context(_queues(1))
        pipes = stack.enter_context(_pipes(SMALL, "f8", 4 * BATCH, 1))
        rivals, missing = _rivals(stack, SMALL, "f8", 4 * BATCH, 1)
        rounds = ITEMS // BATCH or 1

        def batch() -> None:
            wait = begin_batch(rounds * BATCH)
            for _ in range(rounds):
                batches.put_many(items)
            wait()

        race(
            "an item of 64 bytes, one by one",
            {
                "sharedarray": _sending(begin, stream.put, item, ITEMS),
                "semaphores by hand": _sending(*by_hand, item, ITEMS),
                "events by hand": _sending(*with_events, item, ITEMS),
                "multiprocessing.Queue": _sending(*queues, item, ITEMS),
                "Pipe with pickle 5": _sending(*pipes, item, ITEMS),
                **{name: _sending(*rival, item, ITEMS) for name, rival in rivals.items()},
            },
            missing=missing,
            baseline="semaphores by hand",
            rounds=ROUNDS,
            per=ITEMS,
            group="small items",
            size=item.nbytes,
        )
        race(
            "an item of 64 bytes, in batches of 500",
            {
                "sharedarray": batch,
                "semaphores by hand, one by one": _sending(*by_hand, item, rounds * BATCH),
            },
            baseline="semaphores by hand, one by one",
            rounds=ROUNDS,
            per=rounds * BATCH,
            group="small items in batches",
            size=item.nbytes,
        )


@pytest.mark.parametrize(
    "shape",
    [(8,), (1 << 17,), (1 << 24,), *(() if QUICK else [(1 << 27,)])],
    ids=lambda shape: human(8 * shape[0]),
)
def test_there_and_back(race: Callable[..., Any], shape: tuple[int, ...]) -> None:
    """An item wakes a consumer, which answers by another stream; against two bare pipes."""
    loops = 5 if QUICK else 200
    there, back = sa.Stream(None, shape, "f8", slots=2), sa.Stream(None, (1,), "f8", slots=2)
    answers = sa.Stream(back.name)
    ready_in, ready_out = os.pipe()
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()

    def by_stream() -> None:
        source = sa.Stream(there.name)
        with sa.Stream(back.name, takeover=True) as target:
            os.write(ready_out, b".")
            try:
                for _ in source:
                    with target.put():
                        pass
            finally:
                source.close()

    def by_pipe() -> None:
        os.close(from_parent)
        while os.read(to_child, 1):
            os.write(from_child, b".")

    back.close()
    children = [_fork.Process(target=by_stream), _fork.Process(target=by_pipe)]
    for child in children:
        child.start()
    os.read(ready_in, 1)

    def streams() -> None:
        with there.put():
            pass
        answers.get()

    def pipes() -> None:
        os.write(from_parent, b".")
        os.read(to_parent, 1)

    try:
        race(
            f"an item of {shape[0] * 8:,} bytes in place, there and an answer back",
            {"sharedarray": streams, "a bare pipe": pipes},
            baseline="a bare pipe",
            rounds=ROUNDS,
            loops=loops,
            group="waking a consumer",
            size=shape[0] * 8,
        )
    finally:
        there.close()
        answers.close()
        for descriptor in (ready_in, ready_out, from_parent, to_child, to_parent, from_child):
            os.close(descriptor)
        for child in children:
            child.join()


def _poll_by_hand(memory: shared_memory.SharedMemory) -> None:
    """Wait as programs do by hand: look at a flag every 5 ms."""
    while not memory.buf[0]:
        time.sleep(0.005)


@pytest.mark.skipif(processor_time.why_not() is not None, reason=str(processor_time.why_not()))
def test_idle(race: Callable[..., Any]) -> None:
    """A consumer waits for an item, and a producer for a slot: the share of a core that each uses."""
    idle, full = sa.Stream(None, SMALL), sa.Stream(None, SMALL, slots=2)
    slow = sa.Stream(full.name)  # never reads
    full.close()
    memory = shared_memory.SharedMemory(create=True, size=1)
    reader, writer = os.pipe()

    def produce() -> None:
        with sa.Stream(full.name, takeover=True) as producer:
            while True:
                producer.put(np.zeros(SMALL))

    waits: dict[str, Callable[[], Any]] = {
        "sharedarray": lambda: list(sa.Stream(idle.name)),
        "sharedarray, a producer that waits for a slot": produce,
        "a flag that is looked at every 5 ms": lambda: _poll_by_hand(memory),
        "a bare pipe": lambda: os.read(reader, 1),
    }
    children = {name: _fork.Process(target=wait) for name, wait in waits.items()}

    def share(pid: int) -> float:
        before, begun = processor_time.seconds([pid]), time.perf_counter()
        time.sleep(IDLE)
        return (processor_time.seconds([pid]) - before) / (time.perf_counter() - begun)

    try:
        for child in children.values():
            child.start()
        time.sleep(IDLE)  # all have begun to wait
        race(
            f"a process that waits, over {IDLE:g} s",
            {name: functools.partial(share, child.pid) for name, child in children.items()},
            baseline="a flag that is looked at every 5 ms",
            rounds=3,
            measured=True,
            unit="%",
            group="waiting",
        )
    finally:
        for child in children.values():
            child.kill()
            child.join()
            child.close()
        for stream in (idle, slow):
            stream.close()
        for descriptor in (reader, writer):
            os.close(descriptor)
        memory.close()
        memory.unlink()
