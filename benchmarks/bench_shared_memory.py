"""What do CPython's interfaces cost here, against CPython's own?

A block that is made here has its pages reserved, a record and a lease, and its name only when all is done;
CPython's has a name and a size, and its resource tracker is told. A list's item is found by a format and a
code, which both read from the block each time.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from multiprocessing import shared_memory as cpython
from typing import Any

import numpy as np
import pytest

import sharedarray as sa

SIZES = [4096, 1 << 20]  # bytes


def _size(size: int) -> str:
    return f"{size >> 10} KiB"


@pytest.mark.parametrize("size", SIZES, ids=_size)
def test_make_write_and_unlink(race: Callable[..., Any], size: int) -> None:
    where = os.environ.get("SHAREDARRAY_DIR") or "/dev/shm"
    path = f"{where}/sa-bench-{os.getpid()}"
    data = bytes(size)

    def raw() -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(handle, 0, size)
        mapping = mmap.mmap(handle, size)
        os.close(handle)
        mapping[:] = data
        mapping.close()
        os.unlink(path)

    def with_(kind: Any) -> Callable[[], None]:
        def make() -> None:
            block = kind(create=True, size=size)
            block.buf[:] = data
            block.close()
            block.unlink()

        return make

    race(
        f"make + write + close + unlink, {_size(size)}",
        {"raw": raw, "sharedarray": with_(sa.SharedMemory), "CPython": with_(cpython.SharedMemory)},
        baseline="raw",
        rounds=31,
        loops=50,
    )


def test_attach_by_name(race: Callable[..., Any]) -> None:
    block, theirs = (
        sa.SharedMemory(create=True, size=1 << 20),
        cpython.SharedMemory(create=True, size=1 << 20),
    )
    path = sa.blocks()[0].path
    block.buf[0] = theirs.buf[0] = 1

    def raw() -> None:
        handle = os.open(path, os.O_RDWR)
        mapping = mmap.mmap(handle, os.fstat(handle).st_size)
        os.close(handle)
        mapping[0]
        mapping.close()

    def with_(kind: Any, name: str) -> Callable[[], None]:
        def attach() -> None:
            other = kind(name)
            other.buf[0]
            other.close()

        return attach

    try:
        race(
            "attach + touch + close",
            {
                "raw open+fstat+mmap": raw,
                "sharedarray": with_(sa.SharedMemory, block.name),
                "CPython": with_(cpython.SharedMemory, theirs.name),
            },
            baseline="raw open+fstat+mmap",
            rounds=31,
            loops=100,
        )
    finally:
        for each in (block, theirs):
            each.close()
            each.unlink()


VALUES = {"int": 5, "float": 2.5, "str": "some text, 24 characters", "bytes": b"some bytes, 25 characters"}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("what", ["get", "set"])
def test_one_item(race: Callable[..., Any], what: str, kind: str) -> None:
    values = [VALUES[kind]] * 100
    lists = {"sharedarray": sa.ShareableList(values), "CPython": cpython.ShareableList(values)}
    value = VALUES[kind]

    def with_(items: Any) -> Callable[[], None]:
        def get() -> None:
            for position in range(100):
                items[position]

        def put() -> None:
            for position in range(100):
                items[position] = value

        return get if what == "get" else put

    try:
        race(
            f"{what} one {kind}",
            {name: with_(items) for name, items in lists.items()},
            baseline="CPython",
            rounds=31,
            loops=20,
            per=100,
        )
    finally:
        for items in lists.values():
            items.shm.close()
            items.shm.unlink()


@pytest.mark.parametrize("count", [10, 10_000])
def test_a_whole_list(race: Callable[..., Any], count: int) -> None:
    values = [*range(count // 2), *map(str, range(count // 2))]
    numbers = np.arange(count)

    def with_(kind: Any) -> Callable[[], Callable[[], None]]:
        def make() -> Callable[[], None]:
            items = kind(values)
            list(items)

            def tidy() -> None:
                items.shm.close()
                items.shm.unlink()

            return tidy

        return make

    def array() -> Callable[[], None]:
        made = sa.share(numbers)
        made.tolist()
        return made.close

    race(
        f"make a list of {count} items and read it whole",
        {
            "sharedarray": with_(sa.ShareableList),
            "CPython": with_(cpython.ShareableList),
            "as many ints, as an array": array,
        },
        baseline="CPython",
        rounds=11,
        loops=1 if count > 1000 else 30,
    )
