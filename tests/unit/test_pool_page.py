"""Reading the page of replies of a worker that has ended: whatever it holds, nothing is raised."""

from __future__ import annotations

import marshal
import os
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import PROC

from sharedarray._pool.codec.result import dump_result
from sharedarray._pool.incoming import DamagedReplyError, Incoming
from sharedarray._pool.transport import page
from sharedarray._pool.transport.messages import Frame, Kind
from sharedarray._reference import FORMAT

pytestmark = pytest.mark.skipif(not PROC, reason="workers have no page here")
SCALARS = [None, True, -5, 1 << 80, -(1 << 80), 2.5, 1 + 2j, "text", "ü", b"bytes", ""]
FLAT = [[1, None, "text"], (2.5, b"bytes"), {"key": 1 << 80, 2: "ü"}, [], (), {}]
ARRAYS = [np.float32(1.5), np.arange(6).reshape(2, 3), np.zeros((3, 2), order="F")]


@pytest.fixture
def handle() -> Iterator[int]:
    handle = page.make()
    yield handle
    os.close(handle)


def packed() -> list[bytes]:
    small = [marshal.dumps(value, FORMAT) for value in SCALARS]
    arrays = [bytes(dump_result(value).stream) for value in ARRAYS]
    flat = [bytes(dump_result(value).stream) for value in FLAT]
    return [
        *small,
        *arrays,
        *flat,
        marshal.dumps((b"no pickle",), FORMAT),
        marshal.dumps((b"none", True), FORMAT),
    ]


def leave(handle: int, first: int, count: int, data: bytes) -> None:
    os.pwrite(handle, page.HEAD.pack(first, count) + data, 0)


def loaded(count: int, data: bytes) -> list[Any]:
    worker: Any = SimpleNamespace(pieces=None)
    store: Any = None
    frame = Frame(Kind.REPLIES, item=count, stream=data)
    return Incoming(store).load(worker, frame)[0]


def test_what_a_worker_left_is_read_from_the_first_outcome_on_that_has_not_arrived(handle: int) -> None:
    outcomes = packed()
    leave(handle, 7, len(outcomes), b"".join(outcomes) + b"older bytes")
    for answered in range(7, 7 + len(outcomes)):
        count, data = page.read(handle, answered)
        assert count == len(outcomes) - (answered - 7)
        assert data == b"".join(outcomes[answered - 7 :])
    found = loaded(*page.read(handle, 7))
    assert found[: len(SCALARS)] == SCALARS
    for array, value in zip(ARRAYS, found[len(SCALARS) :], strict=False):
        np.testing.assert_array_equal(value, array)
    assert found[len(SCALARS) + len(ARRAYS) : -2] == FLAT


@pytest.mark.parametrize("answered", [0, 6, 8 + len(SCALARS) + len(ARRAYS) + len(FLAT) + 1, 1 << 70])
def test_a_page_of_other_outcomes_is_ignored(handle: int, answered: int) -> None:
    outcomes = packed()
    leave(handle, 7, len(outcomes), b"".join(outcomes))
    assert page.read(handle, answered) == (0, b"")
    assert page.read(-1, 7) == (0, b"")


@pytest.mark.parametrize("count", [0, 1 << 13, 1 << 40, (1 << 64) - 1])
def test_a_count_that_is_wrong_is_ignored(handle: int, count: int) -> None:
    leave(handle, 7, count, b"".join(packed()))
    assert page.read(handle, 7) == (0, b"")


@pytest.mark.parametrize("code", [b"[", b"(", b"s", b"l", b"{"])
def test_a_damaged_length_takes_no_memory(handle: int, code: bytes) -> None:
    for length in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80"):
        leave(handle, 0, 1, code + length)
        count, data = page.read(handle, 0)
        if count:  # a short integer, of zeros
            with pytest.raises(DamagedReplyError):
                loaded(count, data)
    leave(handle, 0, 1, b"[\x01\0\0\0" * 1000)
    assert page.read(handle, 0) == (0, b"")


def test_an_outcome_that_is_cut_off_is_not_taken_for_ctrl_c(handle: int) -> None:
    leave(handle, 0, 2, marshal.dumps(1, FORMAT) + marshal.dumps((), FORMAT))
    with pytest.raises(DamagedReplyError):
        loaded(*page.read(handle, 0))


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_noise_raises_nothing(handle: int, rounds: int) -> None:
    outcomes = packed()
    for seed in range(rounds):
        chance = random.Random(seed)
        data = bytearray(page.HEAD.pack(3, len(outcomes)) + b"".join(outcomes))
        if chance.random() < 0.5:
            for _ in range(chance.randrange(1, 9)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            start = chance.randrange(len(data))
            data[start:] = chance.randbytes(len(data) - start)
        os.pwrite(handle, data, 0)
        count, found = page.read(handle, 3)
        if count:
            try:
                assert len(loaded(count, found)) == count
            except DamagedReplyError:
                pass
