"""What the pool reads of a worker that has ended: whatever it left in its outbox, nothing is raised."""

from __future__ import annotations

import marshal
import os
import random
from collections.abc import Iterator

import pytest
from helpers import PROC

from sharedarray.pool import outbox
from sharedarray.pool.transport.messages import HEADER, Kind
from sharedarray.reference import FORMAT

pytestmark = pytest.mark.skipif(not PROC, reason="workers have no outbox here")
VALUES = [None, True, -5, 1 << 80, 2.5, 1 + 2j, "text", "ü", b"bytes", ""]


@pytest.fixture
def box() -> Iterator[int]:
    handle = outbox.make()
    yield handle
    os.close(handle)


def leave(handle: int, body: bytes, row: int, index: int = 3, length: int | None = None) -> None:
    head = outbox.HEAD.pack(len(body) if length is None else length, row, index, 1)
    os.pwrite(handle, head + body, 0)


def of_row() -> bytes:
    return b"".join(marshal.dumps(value, FORMAT) for value in VALUES)


def frames() -> bytes:
    found = b""
    for kind in (Kind.RESULT, Kind.ERROR):
        stream = marshal.dumps(("x", 5), FORMAT)
        found += HEADER.pack(kind, 0, 0, 0, 7, len(stream), 1, 2) + stream
    return found


def test_what_a_worker_left_in_order_is_read(box: int) -> None:
    leave(box, of_row(), 9)
    (frame,) = outbox.unsent(box, 9)
    assert outbox.values(frame.stream) == (3, VALUES)
    assert outbox.unsent(box, 8) == []
    leave(box, frames(), 0)
    assert [(frame.kind, frame.task) for frame in outbox.unsent(box, 9)] == [
        (Kind.RESULT, 7),
        (Kind.ERROR, 7),
    ]


@pytest.mark.parametrize("length", [outbox.SIZE, outbox.SIZE - 31, 1 << 31, 1 << 62, (1 << 64) - 1, 1])
def test_a_length_that_is_wrong_is_ignored(box: int, length: int) -> None:
    for row, body in ((9, of_row()), (0, frames())):
        leave(box, body, row, length=length)
        found = outbox.unsent(box, 9)
        assert found == [] or (row == 9 and length == 1)


def test_a_damaged_list_takes_no_memory(box: int) -> None:
    leave(box, b"(\xff\xff\xff\x7f" + of_row(), 9)
    assert outbox.unsent(box, 9) == []
    leave(box, of_row(), 9, index=(1 << 64) - 1)
    assert outbox.unsent(box, 9) == []


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_noise_raises_nothing(box: int, rounds: int) -> None:
    for seed in range(rounds):
        chance = random.Random(seed)
        row, body = chance.choice([(9, of_row()), (0, frames())])
        data = bytearray(outbox.HEAD.pack(len(body), row, 3, 1) + body)
        if chance.random() < 0.5:
            for _ in range(chance.randrange(1, 9)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            start = chance.randrange(len(data))
            data[start:] = chance.randbytes(len(data) - start)
        os.pwrite(box, data, 0)
        for frame in outbox.unsent(box, 9):
            assert frame.kind in (Kind.RESULT, Kind.ERROR, Kind.RESULTS)
