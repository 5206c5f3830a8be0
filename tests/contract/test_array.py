"""`SharedArray` is an ndarray as `numpy.memmap` is one, point by point."""

from __future__ import annotations

import copy
import gc
import operator
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import USERS, blocks_are_files
from needs import needs_files
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import sharedarray as sa

DATA = np.arange(24.0).reshape(4, 6)

# The result of each operation: 'view' shares the memory and keeps the class; 'plain' has its own memory and
# is an ndarray, or a scalar; memmap, which cannot tell the two apart everywhere, may keep its class there.
OPERATIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "slice": ("view", lambda a: a[1:3]),
    "step": ("view", lambda a: a[::2, ::3]),
    "negative step": ("view", lambda a: a[::-1]),
    "ellipsis": ("view", lambda a: a[...]),
    "new axis": ("view", lambda a: a[None]),
    "0-d view": ("view", lambda a: a[1, 1, ...]),
    "T": ("view", lambda a: a.T),
    "swapaxes": ("view", lambda a: a.swapaxes(0, 1)),
    "reshape": ("view", lambda a: a.reshape(6, 4)),
    "ravel": ("view", lambda a: a.ravel()),
    "diagonal": ("view", lambda a: a.diagonal()),
    "real": ("view", lambda a: a.real),
    "view dtype": ("view", lambda a: a.view("i8")),
    "getfield": ("view", lambda a: a.getfield("f4")),
    "iteration": ("view", lambda a: next(iter(a))),
    "asanyarray": ("view", np.asanyarray),
    "astype without copy": ("view", lambda a: a.astype("f8", copy=False)),
    "broadcast_to subok": ("view", lambda a: np.broadcast_to(a, (2, 4, 6), subok=True)),
    "as_strided subok": ("view", lambda a: as_strided(a, (3,), (16,), subok=True)),
    "ufunc out": ("view", lambda a: np.abs(a, out=a)),
    "in place": ("view", lambda a: operator.iadd(a, 0)),
    "scalar": ("plain", lambda a: a[1, 1]),
    "fancy": ("plain", lambda a: a[[0, 2]]),
    "mask": ("plain", lambda a: a[a > 3]),
    "mixed fancy": ("plain", lambda a: a[1:3, [0, 1]]),
    "add": ("plain", lambda a: a + 1),
    "reflected": ("plain", lambda a: 1 - a),
    "negative": ("plain", operator.neg),
    "compare": ("plain", lambda a: a > 3),
    "matmul": ("plain", lambda a: a @ a.T),
    "dot": ("plain", lambda a: a.dot(a.T)),
    "sqrt": ("plain", np.sqrt),
    "modf": ("plain", lambda a: np.modf(a)[0]),
    "divmod": ("plain", lambda a: divmod(a, 2)[1]),
    "add.outer": ("plain", lambda a: np.add.outer(a, a)),
    "add.reduce": ("plain", np.add.reduce),
    "add.accumulate": ("plain", np.add.accumulate),
    "sum": ("plain", lambda a: a.sum()),
    "sum axis": ("plain", lambda a: a.sum(axis=0)),
    "sum keepdims": ("plain", lambda a: a.sum(keepdims=True)),
    "np.sum": ("plain", np.sum),
    "mean": ("plain", np.mean),
    "var": ("plain", lambda a: a.var(axis=1)),
    "max": ("plain", lambda a: a.max()),
    "min axis": ("plain", lambda a: a.min(axis=0)),
    "argmax": ("plain", lambda a: a.argmax()),
    "argsort": ("plain", lambda a: a.argsort()),
    "any": ("plain", lambda a: a.any()),
    "cumsum": ("plain", lambda a: a.cumsum()),
    "clip": ("plain", lambda a: a.clip(1, 2)),
    "round": ("plain", lambda a: a.round()),
    "trace": ("plain", lambda a: a.trace()),
    "copy": ("plain", lambda a: a.copy()),
    "np.copy": ("plain", np.copy),
    "copy.copy": ("plain", copy.copy),
    "copy.deepcopy": ("plain", copy.deepcopy),
    "astype": ("plain", lambda a: a.astype("f4")),
    "flatten": ("plain", lambda a: a.flatten()),
    "ravel with copy": ("plain", lambda a: a.T.ravel()),
    "reshape with copy": ("plain", lambda a: a.T.reshape(24)),
    "repeat": ("plain", lambda a: a.repeat(2)),
    "take": ("plain", lambda a: a.take([0, 1])),
    "compress": ("plain", lambda a: a.compress([True, False], axis=0)),
    "byteswap": ("plain", lambda a: a.byteswap()),
    "conj": ("plain", lambda a: a.view("c16").conj()),
    "sort": ("plain", np.sort),
    "partition": ("plain", lambda a: np.partition(a, 2)),
    "roll": ("plain", lambda a: np.roll(a, 1)),
    "tile": ("plain", lambda a: np.tile(a, 2)),
    "where": ("plain", lambda a: np.where(a > 3, a, 0)),
    "concatenate": ("plain", lambda a: np.concatenate([a, a])),
    "stack": ("plain", lambda a: np.stack([a, a])),
    "pad": ("plain", lambda a: np.pad(a, 1)),
    "einsum": ("plain", lambda a: np.einsum("ij->i", a)),
    "unique": ("plain", np.unique),
    "0-d arithmetic": ("plain", lambda a: a[1, 1, ...] + 1),
    "norm": ("plain", np.linalg.norm),
    "pickle": ("plain", lambda a: pickle.loads(pickle.dumps(a, 5))),
}


@pytest.fixture
def shared() -> Iterator[sa.SharedArray]:
    with sa.share(DATA) as array:
        yield array


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap[Any, Any]:
    array = np.memmap(tmp_path / "mapped", dtype=float, mode="w+", shape=DATA.shape)
    array[:] = DATA
    return array


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_give_what_memmap_gives(name: str, shared: sa.SharedArray, mapped: Any) -> None:
    kind, operation = OPERATIONS[name]
    ours, theirs, plain = operation(shared), operation(mapped), operation(DATA.copy())
    np.testing.assert_array_equal(ours, plain)
    assert ours.dtype == plain.dtype
    assert ours.shape == plain.shape
    assert np.shares_memory(ours, shared) == (kind == "view")
    if kind == "view":
        assert type(ours) is sa.SharedArray
        assert isinstance(theirs, np.memmap)
        assert ours.name == shared.name
        assert ours.mode == "r+"
    else:
        assert type(ours) in (type(plain), type(theirs))
        assert not isinstance(ours, sa.SharedArray)


def test_squeeze_stays_shared_where_memmap_forgets_it(shared: sa.SharedArray) -> None:
    assert type(shared[None].squeeze()) is sa.SharedArray
    assert np.shares_memory(shared[None].squeeze(), shared)


def test_flat_gives_an_array_without_a_block(shared: sa.SharedArray) -> None:
    part = shared.flat[:3]
    assert not np.shares_memory(part, shared)
    assert getattr(part, "name", None) is None
    np.testing.assert_array_equal(part, [0, 1, 2])


def test_views_that_numpy_makes_plain_still_hold_the_block(shared: sa.SharedArray) -> None:
    name = shared.name
    views = [
        np.asarray(shared),
        np.broadcast_to(shared, (2, 4, 6)),
        sliding_window_view(shared, (2, 2)),
        shared.view(np.ndarray)[1:],
        memoryview(shared),
    ]
    other = sa.attach(str(name))
    view = np.asarray(other)[2:]
    del other
    gc.collect()
    assert sa.exists(str(name))
    np.testing.assert_array_equal(view, DATA[2:])
    assert len(views) == 5


def test_writes_go_through_every_kind_of_view(shared: sa.SharedArray) -> None:
    with sa.attach(str(shared.name)) as other:
        shared[0, 0] = -1
        shared.T[1, 0] = -2
        shared[::-1][0, 5] = -3
        shared.reshape(-1)[12] = -4
        shared[1, 1, ...][...] = -5
        shared += 100
        expected = DATA.copy()
        expected[0, 0], expected[0, 1], expected[3, 5], expected[2, 0], expected[1, 1] = -1, -2, -3, -4, -5
        np.testing.assert_array_equal(other, expected + 100)


def test_attributes(shared: sa.SharedArray) -> None:
    assert isinstance(shared.segment, sa.Segment)
    assert shared.segment.name == shared.name
    assert shared.segment.size == 4096 + DATA.nbytes
    assert shared.ctypes.data % 4096 == 0
    assert not shared.closed
    assert shared.__array_priority__ == np.memmap.__array_priority__
    assert repr(shared).startswith("SharedArray([[")
    assert repr(shared).endswith(f"name={shared.name!r})")


def test_what_has_no_block_says_so() -> None:
    unbacked = np.arange(3.0).view(sa.SharedArray)
    assert unbacked.name is None
    assert unbacked.mode is None
    assert unbacked.segment is None
    assert not unbacked.closed
    unbacked.close()
    unbacked.flush()
    assert type(unbacked[1:] + 1) is np.ndarray
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(unbacked)), [0, 1, 2])
    for method in (unbacked.unlink, unbacked.persist, unbacked.lock, unbacked.reference):
        with pytest.raises(ValueError, match="not shared"):
            method()


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_modes_hold(shared: sa.SharedArray, mode: Any) -> None:
    with sa.attach(str(shared.name), mode) as other:
        assert other.mode == mode
        assert other[1:].mode == mode
        if mode == "r":
            assert not other.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                other[0, 0] = 5
            with pytest.raises(ValueError, match="WRITEABLE"):
                other.flags.writeable = True
            with pytest.raises(TypeError):
                memoryview(other.segment.buf).cast("B")[4096] = 1  # type: ignore[union-attr]
        else:
            other[0, 0] = 5
            assert shared[0, 0] == (5 if mode == "r+" else 0)
        shared[3, 3] = 77
        # A private page that was not written still shows what others write, one that was does not.
        assert other[3, 3] == (21 if mode == "c" else 77)


def test_copy_on_write_is_no_snapshot() -> None:
    with sa.zeros(2 * 512) as shared, sa.attach(str(shared.name), "c") as private:
        private[0] = 1
        shared[:] = 2
        assert private[0] == 1
        assert private[1] == 0
        assert private[-1] == 2
        assert shared[0] == 2


@pytest.mark.parametrize("mode", ["w+", "w", "rw", "", None])
def test_unknown_modes_are_refused(shared: sa.SharedArray, mode: Any) -> None:
    with pytest.raises(ValueError, match="copy-on-write"):
        sa.attach(str(shared.name), mode)


def test_use_after_close_is_defined() -> None:
    array = sa.share(DATA)
    view, name = array[1:], str(array.name)
    buf = array.segment.buf  # type: ignore[union-attr]
    array.close()
    array.close()
    assert array.closed
    assert view.closed
    assert not sa.exists(name)
    np.testing.assert_array_equal(array, DATA)
    array[0, 0] = 9
    view[:] = 1
    assert array[1, 0] == 1
    assert len(buf) == 4096 + DATA.nbytes
    assert array.name == name
    assert "closed" in repr(array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view)), np.ones((3, 6)))
    for operation in (array.reference, array.persist, lambda: array.lock().__enter__()):
        with pytest.raises(sa.BlockClosedError, match=name):
            operation()
    with pytest.raises(sa.BlockClosedError):
        _ = array.segment.buf  # type: ignore[union-attr]
    with pytest.raises(sa.BlockNotFoundError):
        array.unlink()


def test_the_mapping_cannot_be_closed_under_a_view(shared: sa.SharedArray) -> None:
    mapping = shared.segment._mapping  # type: ignore[union-attr]
    with pytest.raises(BufferError):
        mapping.close()
    with pytest.raises(BufferError):
        mapping.resize(1)
    np.testing.assert_array_equal(shared, DATA)


def test_dropping_the_last_view_frees_the_block_without_a_collection() -> None:
    gc.disable()
    try:
        array = sa.share(DATA)
        name = str(array.name)
        view = array[1:].T
        del array
        assert sa.exists(name)
        del view
        assert not sa.exists(name)
    finally:
        gc.enable()


def test_context_manager_closes() -> None:
    with sa.zeros(3) as array:
        assert not array.closed
    assert array.closed
    with pytest.raises(RuntimeError, match="inside"), sa.zeros(3) as array:
        raise RuntimeError("inside")
    assert array.closed


def test_unlink_takes_the_name_and_leaves_the_memory(shared: sa.SharedArray) -> None:
    name = str(shared.name)
    with sa.attach(name) as other:
        other.unlink()
        assert not sa.exists(name)
        with pytest.raises(sa.BlockNotFoundError):
            shared.unlink()
        shared[0, 0] = 3
        assert other[0, 0] == 3
        with sa.zeros(2, name=name):
            with pytest.raises(sa.BlockNotFoundError):
                shared.unlink()
            assert sa.exists(name)


def test_persist() -> None:
    array = sa.share(DATA, name="kept", persist=True)
    array.close()
    again = sa.attach("kept")
    np.testing.assert_array_equal(again, DATA)
    again.persist()  # as it does already
    again.persist(False)
    again.close()
    assert not sa.exists("kept")


@needs_files
def test_what_was_not_made_to_persist_can() -> None:
    array = sa.zeros(3, name="kept")
    array.persist()
    array.close()
    assert sa.exists("kept")
    sa.unlink("kept")
    assert not sa.exists("kept")


@pytest.mark.skipif(blocks_are_files(), reason="every block can persist here")
def test_memory_of_the_kernels_cannot_persist_later() -> None:
    with sa.zeros(3, name="kept") as array:
        with pytest.raises(sa.UnsupportedError, match="persist=True"):
            array.persist()
        array.persist(False)
    assert not sa.exists("kept")


def test_subclasses_keep_their_class() -> None:
    class Frames(sa.SharedArray):
        pass

    with Frames((2, 3), "i4") as frames:
        assert type(frames) is Frames
        assert type(frames[1:]) is Frames
        assert frames[1:].name == frames.name


def test_constructor_is_an_ndarrays() -> None:
    with sa.SharedArray(3) as a, sa.SharedArray((2, 3), "i4", "F", name="made") as b:
        assert a.shape == (3,)
        assert a.dtype == float
        assert b.flags.f_contiguous
        assert not b.flags.c_contiguous
        assert b.name == "made"
        assert not a.any()
    with pytest.raises(ValueError, match="order"):
        sa.SharedArray(3, order="K")


def test_lock_excludes_threads_and_only_its_own_bytes() -> None:
    with sa.zeros((4, 10)) as array:
        with array[:2].lock():
            with pytest.raises(sa.LockTimeout), array[1:3].lock(timeout=0):
                pass
            with array[2:].lock(timeout=0), array[:0].lock(timeout=0):
                pass
        readers = array.lock(shared=True), array[1].lock(shared=True, timeout=0)
        with readers[0], readers[1], pytest.raises(TimeoutError), array[1].lock(timeout=0.01):
            pass
        inside, count = [], 20

        def add() -> None:
            for _ in range(count):
                with array[3, ::-1].lock():
                    inside.append(1)
                    value = array[3, 0]
                    assert len(inside) == 1
                    array[3, 0] = value + 1
                    inside.pop()

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert array[3, 0] == 4 * count
        with pytest.raises(ValueError, match="timeout"):
            array.lock(timeout=-1)


def test_scientific_packages_take_it_without_a_copy(shared: sa.SharedArray) -> None:
    pandas = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    validation = pytest.importorskip("sklearn.utils.validation")
    frame = pandas.DataFrame(shared, copy=False)
    assert np.shares_memory(frame.to_numpy(), shared) == np.shares_memory(
        pandas.DataFrame(DATA, copy=False).to_numpy(), DATA
    )
    assert np.shares_memory(validation.check_array(shared), shared)
    indices, pointers = np.arange(6), np.array([0, 6])
    matrix = sparse.csr_matrix((shared[0], indices, pointers), shape=(1, 6), copy=False)
    assert np.shares_memory(matrix.data, shared)
    ndimage = pytest.importorskip("scipy.ndimage")
    ndimage.gaussian_filter(DATA, 1, output=shared)
    np.testing.assert_array_equal(shared, ndimage.gaussian_filter(DATA, 1))


def test_sklearn_fits_on_it() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 3)), generator.normal(size=50)
    with sa.share(x) as shared:
        ours, theirs = linear.Ridge().fit(shared, y), linear.Ridge().fit(x, y)
        np.testing.assert_array_equal(ours.coef_, theirs.coef_)
        np.testing.assert_array_equal(ours.predict(shared), theirs.predict(x))


def test_an_npy_file_on_disk_is_a_shared_array(tmp_path: Path) -> None:
    path = tmp_path / "frames.npy"
    np.save(path, DATA)
    with sa.open(path) as array, sa.open(path, "r") as reader, sa.open(str(path), "c") as private:
        assert array.name == str(path)
        array[0, 0] = 5
        private[0, 1] = 6
        assert reader[0, 0] == 5
        assert reader[0, 1] == 1
        array.flush()
        with pytest.raises(sa.NotOursError):
            array.unlink()
    gc.collect()
    assert np.load(path)[0, 0] == 5
    if USERS:
        path.chmod(0o400)
        if os.geteuid():
            with pytest.raises(PermissionError):
                sa.open(path)
    assert sa.open(path, "r")[0, 0] == 5
    with pytest.raises(sa.BlockNotFoundError):
        sa.open(tmp_path / "missing.npy")


def test_file_makes_an_npy_file(tmp_path: Path) -> None:
    path = tmp_path / "made.npy"
    before = sa.blocks()
    array = sa.share(DATA, file=path)
    array[0, 0] = 8
    array.close()
    del array
    np.testing.assert_array_equal(np.load(path)[1:], DATA[1:])
    assert np.load(path)[0, 0] == 8
    with pytest.raises(sa.BlockExistsError):
        sa.zeros(3, file=path)
    assert np.load(path)[0, 0] == 8
    assert os.listdir(tmp_path) == ["made.npy"]
    with pytest.raises(TypeError, match="file="):
        sa.zeros(3, file=tmp_path / "other.npy", name="x")
    with pytest.raises(sa.BlockNotFoundError):
        sa.zeros(3, file=tmp_path / "missing" / "x.npy")
    assert sa.blocks() == before


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("many.npz", r"share_group\(name, '.*many\.npz'\)"),
        ("objects.npy", r"sharedarray\.put\(numpy\.load\('.*objects\.npy', allow_pickle=True\), name=name\)"),
        ("cut.npy", r"cut off or damaged; its first \d+ rows are there"),
        ("text.txt", r"sharedarray\.share\(array, name=name\)"),
    ],
)
def test_a_file_that_is_no_array_gets_a_cure(name: str, cure: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", a=np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    np.save(tmp_path / "cut.npy", np.arange(500))
    os.truncate(tmp_path / "cut.npy", 1000)
    (tmp_path / "text.txt").write_text("1 2 3")
    with pytest.raises(sa.HeaderError) as raised:
        sa.open(tmp_path / name)
    assert re.search(cure, str(raised.value.next_step))
