"""Frames and the pipe: bytes that stay the same, and messages of every size through narrow sockets."""

from __future__ import annotations

import socket
import threading

import pytest

from sharedarray.pool.channel import Channel
from sharedarray.pool.messages import HOLDS, SHARES, Frame, Kind, encode


def test_frozen_bytes():
    import sys

    order = sys.byteorder
    expected = (
        bytes([3, 1, 0, 0])
        + (2).to_bytes(4, order)
        + (7).to_bytes(8, order)
        + (3).to_bytes(8, order)
        + (2).to_bytes(8, order)
        + (1).to_bytes(8, order)
        + b"abc"
        + b"xy"
        + b"z"
    )
    assert b"".join(encode(Kind.TASK, 7, SHARES, b"abc", [b"xy", b"z"])) == expected
    assert b"".join(encode(Kind.STOP)) == bytes([7]) + bytes(23)
    assert (SHARES, HOLDS) == (1, 2)
    assert [kind.name for kind in Kind] == ["READY", "REFUSED", "TASK", "RESULT", "ERROR", "TAKEN", "STOP"]


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    left.setblocking(False)
    ours, theirs = Channel(left), Channel(right)
    yield ours, theirs
    ours.close()
    theirs.close()


SIZES = [0, 1, 23, 24, 25, 4095, 4096, 65535, 65536, 65537, 300_000, 1_000_000]


@pytest.mark.parametrize("sizes", [[], [0], [5, 0, 70_000], [1] * 1500])
@pytest.mark.parametrize("stream", SIZES)
def test_any_size_arrives_whole(ends, stream, sizes):
    ours, theirs = ends
    body = bytes(i % 251 for i in range(stream % 1009)) * (stream // 1009 + 1)
    body = body[:stream]
    buffers = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    received: list[Frame] = []

    def read():
        received.extend(theirs.receive() for _ in range(3))

    reader = threading.Thread(target=read)
    reader.start()
    ours.send(Kind.READY)
    ours.send(Kind.TASK, 5, SHARES, body, buffers)
    ours.send(Kind.STOP)
    while ours.unsent:
        ours.flush()
    reader.join()
    first, second, third = received
    assert (first.kind, third.kind) == (Kind.READY, Kind.STOP)
    assert (second.kind, second.task, second.flags) == (Kind.TASK, 5, SHARES)
    assert bytes(second.stream) == body
    assert [bytes(buffer) for buffer in second.buffers] == buffers


def test_both_write_more_than_the_pipe_takes(ends):
    ours, theirs = ends
    size = 5_000_000
    got: list[Frame] = []

    def worker():
        # As a worker does: it answers before it reads again, and blocks in both.
        for number in range(3):
            theirs.send(Kind.RESULT, number, 0, bytes(size))
            got.append(theirs.receive())

    thread = threading.Thread(target=worker)
    thread.start()
    for number in range(3):
        ours.send(Kind.TASK, number, 0, bytes(size))
    results = 0
    while results < 3 or ours.unsent:
        ours.flush()
        results += ours.receive() is not None
    thread.join()
    assert [len(frame.stream) for frame in got] == [size] * 3


def test_nothing_there_is_none_and_a_closed_end_is_the_end(ends):
    ours, theirs = ends
    assert ours.receive() is None
    theirs.send(Kind.READY)
    theirs.close()
    assert ours.receive().kind is Kind.READY
    with pytest.raises(EOFError):
        ours.receive()


def test_an_end_that_was_closed_unread_is_told_apart(ends):
    ours, theirs = ends
    ours.send(Kind.TASK, 1, 0, b"never read")
    theirs.close()
    with pytest.raises(ConnectionResetError):
        ours.receive()


def test_the_end_in_the_middle_of_a_frame(ends):
    ours, theirs = ends
    theirs._sock.sendall(b"".join(encode(Kind.RESULT, 1, 0, bytes(1000)))[:500])
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive()
