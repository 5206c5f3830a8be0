"""Other array libraries take a shared array without a copy: by DLPack, the buffer protocol, and Arrow."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import sharedarray as sa

DATA = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def shared() -> Iterator[sa.SharedArray]:
    array = sa.share(DATA)
    yield array
    array.close()


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_the_buffer_protocol(shared: sa.SharedArray) -> None:
    view = memoryview(shared)
    assert (view.format, view.shape, view.readonly) == ("d", (3, 4), False)
    view[1, 1] = 42.0
    assert shared[1, 1] == 42.0
    assert np.frombuffer(shared[1], "f8")[1] == 42.0
    assert memoryview(sa.attach(shared.name, "r")).readonly
    shared[1, 1] = DATA[1, 1]
    assert bytes(view) == DATA.tobytes()


def outlives(make: Callable[[sa.SharedArray], Any], read: Callable[[Any], float]) -> None:
    """Return what is made of a shared array holds the block, and the block ends with it."""
    array = sa.share(DATA)
    name = array.name
    made = make(array)
    del array
    gc.collect()
    assert sa.exists(name)
    sa.attach(name)[0, 0] = 7.0
    assert read(made) == 7.0
    del made
    gc.collect()
    assert not sa.exists(name)


def test_buffers_and_capsules_hold_the_block() -> None:
    outlives(memoryview, lambda view: view[0, 0])
    outlives(np.from_dlpack, lambda array: array[0, 0])


def test_dlpack_is_the_same_memory(shared: sa.SharedArray) -> None:
    for view in (shared, shared[1:, ::2], shared.T, shared[::-1]):
        there = np.from_dlpack(view)
        assert address(there) == address(view)
        np.testing.assert_array_equal(there, view)
    assert shared.__dlpack_device__() == np.zeros(1).__dlpack_device__()


def test_torch(shared: sa.SharedArray) -> None:
    torch = pytest.importorskip("torch")
    for take in (torch.from_dlpack, torch.from_numpy, torch.as_tensor):
        tensor = take(shared)
        assert tensor.data_ptr() == address(shared)
        tensor[0, 0] += 1
    assert shared[0, 0] == 3.0
    np.testing.assert_array_equal(np.from_dlpack(tensor * 2), np.asarray(shared) * 2)
    outlives(torch.from_dlpack, lambda tensor: float(tensor[0, 0]))
    outlives(torch.from_numpy, lambda tensor: float(tensor[0, 0]))
    again = sa.share(tensor)
    assert type(again) is sa.SharedArray
    np.testing.assert_array_equal(again, shared)


def test_jax(shared: sa.SharedArray) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    there = jax.dlpack.from_dlpack(shared)
    assert there.unsafe_buffer_pointer() == address(shared)
    np.testing.assert_array_equal(np.asarray(there), DATA)
    np.testing.assert_array_equal(sa.share(there * 2), DATA * 2)


def test_arrow(shared: sa.SharedArray) -> None:
    arrow = pytest.importorskip("pyarrow")
    tensor = arrow.Tensor.from_numpy(shared)
    assert tensor.shape == (3, 4)
    assert address(tensor.to_numpy()) == address(shared)
    assert arrow.py_buffer(shared).address == address(shared)
    column = arrow.array(shared[1])
    assert column.buffers()[1].address == address(shared[1])
    assert column.sum().as_py() == DATA[1].sum()
    outlives(arrow.Tensor.from_numpy, lambda tensor: float(tensor.to_numpy()[0, 0]))
    outlives(arrow.py_buffer, lambda buffer: float(np.frombuffer(buffer, "f8")[0]))
    outlives(lambda array: arrow.array(array[0]), lambda column: column[0].as_py())


def test_arrow_tables_are_put_and_got_without_a_copy() -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"x": np.arange(10_000.0), "name": ["a", "bc"] * 5000})
    held = sa.put(table, name="table")
    before = arrow.total_allocated_bytes()
    got = sa.get("table")
    assert arrow.total_allocated_bytes() - before < 1000
    held.close()
    assert got.equals(table)
    assert sa.exists("table")
    del got
    gc.collect()
    assert not sa.exists("table")
