"""Streams in the tasks of a pool: by name, and by reference; a worker may be the producer."""

from __future__ import annotations

import os
from typing import Any

import pytest
from helpers import ANSWER, wait_until

import sharedarray as sa

NAME = f"camera_of_{os.getpid()}"


def total(stream: Any) -> tuple[int, int]:
    if isinstance(stream, str):
        stream = sa.Stream(stream)
    with stream:
        values = [int(item.sum()) for item in stream]
        return len(values), sum(values)


def write(name: str, n: int) -> int:
    with sa.Stream(name, (2,), "i8", takeover=True) as stream:
        for k in range(n):
            stream.put([k, k], timeout=ANSWER)
        return os.getpid()


@pytest.mark.parametrize("way", ["name", "consumer", "producer"])
def test_a_stream_travels_to_a_task(pool: sa.Pool, way: str) -> None:
    with sa.Stream(NAME, (2,), "i8") as producer:
        producer.put([100, 100])
        consumer = sa.Stream(NAME)
        future = pool.submit(total, {"name": NAME, "consumer": consumer, "producer": producer}[way])
        wait_until(lambda: len(producer._block.entries()) == 2, "the task has joined", ANSWER)
        consumer.close()
        for k in range(20):
            producer.put([k, k], timeout=ANSWER)
        producer.close()
        assert future.result(ANSWER) == (20, 2 * sum(range(20)))
        with pytest.raises(sa.NotPicklableError, match="closed"):
            pool.submit(total, producer).result(ANSWER)


def test_a_task_begins_where_the_stream_was_that_it_got(pool: sa.Pool) -> None:
    with sa.Stream(NAME, (2,), "i8") as producer:
        consumer = sa.Stream(NAME)
        for k in range(5):
            producer.put([k, k])
        consumer.get()
        future = pool.submit(total, consumer)
        wait_until(lambda: len(producer._block.entries()) == 2, "the task has joined", ANSWER)
        producer.close()
        assert future.result(ANSWER) == (4, 20)
        consumer.close()


def test_a_worker_may_be_the_producer(pool: sa.Pool) -> None:
    first = sa.Stream(NAME, (2,), "i8", slots=3)
    consumer = sa.Stream(NAME)
    first.close()
    future = pool.submit(write, NAME, 30)
    for k in range(30):
        while True:
            try:
                assert consumer.get(ANSWER).tolist() == [k, k]
                break
            except sa.ShutDown:  # the task has not begun
                assert k == 0
    assert future.result(ANSWER) != os.getpid()
    with pytest.raises(sa.ShutDown):
        consumer.get(ANSWER)
    consumer.close()
