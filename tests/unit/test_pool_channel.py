"""Frames and pipes: bytes that stay the same, and messages of every size through narrow pipes."""

from __future__ import annotations

import select
import signal
import sys
import threading
import time
import weakref

import pytest
from helpers import run

from sharedarray import _spin as spin
from sharedarray._pipes import PIPES, one_way
from sharedarray._poller import _Selector, _Sockets, new_poller
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import (
    ENTRY,
    HEADER,
    HOLDS,
    RESULT_SLOT,
    SHARES,
    Entry,
    Frame,
    Kind,
    encode,
)
from sharedarray._spin import SpinWait


def inline(*sizes: int) -> list[Entry]:
    return [Entry(0, 0, 0, 0, 0, size) for size in sizes]


def test_frozen_bytes():
    order = sys.byteorder

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    expected = (
        bytes([3, 1])
        + number(2, 2)  # entries
        + number(9, 4)  # item
        + number(7, 8)  # task
        + number(3, 8)  # length of the stream
        + number(11, 8)
        + number(12, 8)
        + bytes(40)
        + number(4, 8)
        + number(5, 4)
        + number(RESULT_SLOT, 4)
        + b"".join(number(n, 8) for n in (4096, 64, 100))
        + b"abc"
        + b"xy"
    )
    entries = [Entry(0, 0, 0, 0, 0, 0), Entry(4, 5, RESULT_SLOT, 4096, 64, 100)]
    assert b"".join(encode(Kind.TASK, SHARES, 9, 7, 11, 12, b"abc", entries, [b"xy"])) == expected
    assert b"".join(encode(Kind.STOP)) == bytes([7]) + bytes(39)
    assert (HEADER.size, ENTRY.size) == (40, 40)
    assert (SHARES, HOLDS, RESULT_SLOT) == (1, 2, 4)
    assert [kind.name for kind in Kind] == (
        [
            "READY",
            "REFUSED",
            "TASK",
            "RESULT",
            "ERROR",
            "TAKEN",
            "STOP",
            "DEFINE",
            "CALLS",
            "FORGET",
            "NEED",
            "GRANT",
            "DROPPED",
            "RETIRED",
            "REPLIES",
            "RELEASED",
            "RELOAD",
        ]
    )


@pytest.fixture
def ends():
    to_worker, to_pool = one_way(), one_way()
    if PIPES:
        import fcntl

        if hasattr(fcntl, "F_SETPIPE_SZ"):
            for pipe in (to_worker, to_pool):
                fcntl.fcntl(pipe[1].fileno(), fcntl.F_SETPIPE_SZ, 4096)
    ours = Channel(to_pool[0], to_worker[1], blocking=False)
    theirs = Channel(to_worker[0], to_pool[1], blocking=True)
    yield ours, theirs
    ours.close()
    theirs.close()


SIZES = [0, 1, 39, 40, 41, 4095, 4096, 65495, 65496, 65497, 65536, 300_000, 1_000_000]


@pytest.mark.parametrize("sizes", [[], [0], [5, 0, 70_000], [1] * 1500], ids=len)
@pytest.mark.parametrize("stream", SIZES)
def test_any_size_arrives_whole(ends, stream, sizes):
    ours, theirs = ends
    body = bytes(i % 251 for i in range(stream % 1009)) * (stream // 1009 + 1)
    body = body[:stream].ljust(stream, b"+")
    pieces = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    received: list[Frame] = []

    def read():
        while len(received) < 3:
            received.extend(theirs.receive())

    reader = threading.Thread(target=read)
    reader.start()
    ours.queue(encode(Kind.READY))
    ours.send(encode(Kind.TASK, SHARES, 3, 5, stream=body, entries=inline(*sizes), inline=pieces))
    ours.send(encode(Kind.STOP))
    while ours.unsent:
        select.select([], [ours._out], [], 60)  # asking without a pause would keep the reader from reading
        ours.flush()
    reader.join()
    first, second, third = received
    assert (first.kind, third.kind) == (Kind.READY, Kind.STOP)
    assert (second.kind, second.task, second.item, second.flags) == (Kind.TASK, 5, 3, SHARES)
    assert bytes(second.stream) == body
    assert [bytes(piece) for piece in second.inline] == pieces


def test_both_write_more_than_the_pipe_takes(ends):
    ours, theirs = ends
    size = 5_000_000
    got: list[Frame] = []

    def worker():
        # As a worker does: it answers before it reads again, and blocks in both.
        for number in range(3):
            theirs.send(encode(Kind.RESULT, task=number, stream=bytes(size)))
            while len(got) <= number:
                got.extend(theirs.receive())

    thread = threading.Thread(target=worker)
    thread.start()
    for number in range(3):
        ours.send(encode(Kind.TASK, task=number, stream=bytes(size)))
    results: list[Frame] = []
    while len(results) < 3 or ours.unsent:
        ours.flush()
        results += ours.receive()
    thread.join()
    assert [len(frame.stream) for frame in got + results] == [size] * 6
    assert [frame.task for frame in results] == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 39, 40, 41, 100, 4096])
def test_many_frames_in_pieces_of_any_size(ends, cut):
    ours, theirs = ends
    streams = [bytes([n]) * (n * 37 % 500) for n in range(60)]
    whole = b"".join(
        b"".join(
            encode(
                Kind.RESULT,
                task=n,
                stream=stream,
                entries=inline(2) if n % 7 == 3 else (),
                inline=[b"xy"] if n % 7 == 3 else (),
            )
        )
        for n, stream in enumerate(streams)
    )
    found: list[Frame] = []
    for start in range(0, len(whole), cut):
        theirs.write(whole[start : start + cut])
        while select.select([ours], [], [], 0)[0]:
            found += ours.receive()
    assert [frame.task for frame in found] == list(range(60))
    assert [bytes(frame.stream) for frame in found] == streams
    assert [len(frame.inline) for frame in found] == [int(n % 7 == 3) for n in range(60)]


def test_nothing_there_is_none_and_a_closed_end_is_the_end(ends):
    ours, theirs = ends
    assert ours.receive() == []
    theirs.send(encode(Kind.READY))
    theirs.close()
    assert [frame.kind for frame in ours.receive()] == [Kind.READY]
    with pytest.raises(EOFError):
        ours.receive()
    with pytest.raises(ConnectionError):  # noqa: PT012  (a socket takes a first one)
        for _ in range(1000):
            ours.send(encode(Kind.STOP))


def test_the_end_in_the_middle_of_a_frame(ends):
    ours, theirs = ends
    whole = b"".join(encode(Kind.RESULT, task=1, stream=bytes(1000)))
    theirs.write(whole + whole[:500])
    theirs.close()
    assert [frame.task for frame in ours.receive()] == [1]
    with pytest.raises(EOFError):
        ours.receive()


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="this system has no SIGPIPE")
def test_a_program_with_the_deadly_sigpipe_survives_a_dead_worker():
    run(
        """
        import os, signal
        import sharedarray as sa
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        with sa.Pool(1, retries=5) as pool:
            for n in range(20):
                os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
                assert pool.submit(abs, -n).result() == n
        """
    )


def _descriptors(ready):
    return [descriptor for descriptor, _ in ready]


@pytest.mark.parametrize("make", [new_poller, _Selector, _Sockets] if PIPES else [new_poller])
def test_a_watch_tells_who_can_be_read_and_written(make):
    source, target = one_way()
    reader, writer = source.fileno(), target.fileno()
    inner, outer = make(), make()
    try:
        inner.add(reader)
        outer.add(inner.fileno())
        outer.add(writer, write=True)
        assert _descriptors(outer.wait(0)) == [writer]
        outer.remove(writer)
        assert outer.wait(0) == []
        target.write(b"x")
        assert _descriptors(outer.wait(60)) == [inner.fileno()]
        assert _descriptors(inner.wait(0)) == [reader]
        outer.modify(inner.fileno(), read=False, write=False)
        assert outer.wait(0) == []
        outer.modify(inner.fileno(), read=True, write=False)
        assert _descriptors(outer.wait(60)) == [inner.fileno()]
        inner.remove(reader)
        inner.remove(reader)  # not watched: no error
    finally:
        outer.close()
        inner.close()
        source.close()
        target.close()


@pytest.mark.parametrize("make", [new_poller, _Sockets] if PIPES else [new_poller])
def test_what_is_watched_from_now_on_wakes_who_waits_already(make):
    source, target = one_way()
    target.write(b"x")
    inner, outer = make(), make()
    outer.add(inner.fileno())
    timer = threading.Timer(0.1, inner.add, (source.fileno(),))
    try:
        timer.start()
        end = time.monotonic() + 20
        found = []
        while not found and time.monotonic() < end:
            found = outer.wait(60)  # in the main thread, some systems wait in short pieces
        assert _descriptors(found) == [inner.fileno()]
        assert time.monotonic() < end
    finally:
        timer.join()
        for thing in (outer, inner, source, target):
            thing.close()


def test_a_link_goes_with_the_last_who_has_it():
    """Nothing in it refers to itself: it is closed before the garbage collector would come to that."""
    ends = one_way()
    gone = [weakref.ref(end) for end in ends]
    for end in ends:
        end.close()
    del ends, end
    assert [end() for end in gone] == [None, None]


def test_one_looks_for_what_came_quickly_the_last_time():
    spinning = SpinWait(1e-3)
    assert spinning.worthwhile()
    spinning.last = 0.01
    assert not spinning.worthwhile()
    spinning.last = 1.1e-3  # asleep, perhaps, and so longer than it would have taken otherwise
    assert spinning.worthwhile()
    never = SpinWait(0)
    never.last = 0.0
    assert not never.worthwhile()


def test_who_is_robbed_of_the_processor_sleeps_more_often(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(spin.time, "perf_counter", lambda: float(next(clock)))  # each look takes a second
    spinning = SpinWait(1.0)
    skipped = []
    for _ in range(4):
        assert spinning.worthwhile()
        assert not spinning.poll(lambda: False)
        skipped.append(0)
        while not spinning.worthwhile():
            skipped[-1] += 1
    assert skipped == [1, 2, 4, 8]
    assert spinning.poll(lambda: True)  # at once, so undisturbed


def test_a_look_ends_with_what_it_looks_for_or_with_its_time(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(spin.time, "perf_counter", lambda: next(clock) * 1e-4)
    answers = iter([False, False, "there"])
    assert SpinWait(1.0).poll(lambda: next(answers)) == "there"
    asked = []
    assert not SpinWait(0.01).poll(lambda: asked.append(1))
    assert 100 <= len(asked) <= 102
