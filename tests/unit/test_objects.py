"""`put` and `get`: any picklable object in one block, rebuilt without copying its arrays."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    Puppet,
    answer,
    block_files,
    blocks_are_files,
    janitors,
    nothing_left,
    run,
    wait_until,
)
from needs import needs_modes, needs_root

import sharedarray as sa
from sharedarray import _objects as objects
from sharedarray._segment import mapping_of

MB = 1 << 20


def lies_in(array: np.ndarray[Any, Any], held: sa.SharedArray) -> bool:
    """Return whether an array's memory is a mapping of this block."""
    found, block = mapping_of(array), mapping_of(held)
    assert block is not None
    return found is not None and (found.device, found.inode) == (block.device, block.inode)


def where(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


# -- the bytes ------------------------------------------------------------------------------------------


def test_the_layout() -> None:
    """Frozen: other processes, and versions, read it."""
    head, starts, size = objects.encode(b"pickle", [10, 5000, 0, 4096, 65])
    at = 4096 + 24 + 5 * 16 + 6
    assert head[:24] == b"\x93SAOBJ1\n" + (5).to_bytes(8, "little") + (6).to_bytes(8, "little")
    assert head[24:40] == starts[0].to_bytes(8, "little") + (10).to_bytes(8, "little")
    assert head[-6:] == b"pickle"
    assert starts == [at // 64 * 64 + 64, 8192, at // 64 * 64 + 128, 16384, at // 64 * 64 + 128]
    assert size == 16384 + 4096


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_arrays_without_elements(shape: tuple[int, ...]) -> None:
    """No byte of the block is theirs, also if nothing else is stored behind them."""
    for stored in ([np.zeros(shape)], [np.ones(2), np.zeros(shape)], [np.zeros(shape), np.ones(1000)]):
        with sa.put(stored) as held:
            for got, right in zip(sa.get(held.name), stored, strict=True):
                np.testing.assert_array_equal(got, right, strict=True)
    masked = np.ma.array(np.zeros(shape), mask=np.zeros(shape, bool))
    with sa.put(masked) as held:
        assert sa.get(held.name).mask.shape == shape


def test_the_block_is_an_npy_file_of_bytes_with_pages_for_buffers() -> None:
    large, small = np.arange(10_000.0), np.arange(3)
    with sa.put({"large": large, "small": small}, name="packed", persist=not blocks_are_files()) as held:
        assert (held.dtype, held.ndim, held.name) == (np.uint8, 1, "packed")
        assert not held.flags.writeable
        path = next(block.path for block in sa.blocks())
        plain = np.load(path, mmap_mode="r")
        assert plain.dtype == np.uint8
        np.testing.assert_array_equal(plain, held)
        found = plain.tobytes().find(large.tobytes()) + 4096
        assert found > 4096
        assert found % 4096 == 0
        assert plain.nbytes < large.nbytes + 3 * 4096
        block = sa.blocks()[0]
        assert (block.kind, block.shape) == ("object", held.shape)
        got = sa.get("packed")
        assert where(got["large"]) % 4096 == 0
        assert where(got["small"]) % 64 == 0
        del plain  # NumPy's file may keep the name where open files are not free of theirs
        sa.unlink("packed")


def test_a_thousand_small_arrays_take_no_thousand_pages() -> None:
    arrays = [np.full(10, i) for i in range(3000)]
    with sa.put(arrays) as held:
        assert held.nbytes < 3000 * 300
        got = sa.get(held.name)
        assert all((a == b).all() and lies_in(b, held) for a, b in zip(arrays, got, strict=True))


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        (4096, b"\x93SAOBJ2\n", "no object"),
        (4104, (1 << 60).to_bytes(8, "little"), "does not fit"),
        (4112, (1 << 62).to_bytes(8, "little"), "does not fit"),
        (4120, (1 << 20).to_bytes(8, "little"), "does not fit"),
        (4128, (1 << 63).to_bytes(8, "little"), "does not fit"),
    ],
)
def test_damage_is_an_error(place: int, value: bytes, found: str) -> None:
    held = sa.put(np.arange(10))
    with sa.Segment.attach(held.name) as segment:
        segment.buf[place : place + len(value)] = value
    with pytest.raises(sa.HeaderError, match=found):
        sa.get(held.name)


def test_what_is_no_object() -> None:
    with sa.zeros((3, 4), name="array"), pytest.raises(sa.HeaderError, match=r"attach\(name\)"):
        sa.get("array")
    with sa.zeros(5, "u1", name="bytes"), pytest.raises(sa.HeaderError, match="no object"):
        sa.get("bytes")
    with sa.zeros(5000, "u1", name="bytes"), pytest.raises(sa.HeaderError, match="no object"):
        sa.get("bytes")
    with sa.Segment.create(100, "other"), pytest.raises(sa.HeaderError, match="NPY"):
        sa.get("other")
    with pytest.raises(sa.BlockNotFoundError):
        sa.get("nothing")
    with pytest.raises(sa.InvalidNameError):
        sa.get("../x")
    with pytest.raises(ValueError, match="put"):
        sa.get(np.zeros(3).view(sa.SharedArray))
    with pytest.raises(TypeError):
        sa.get(3)  # type: ignore[arg-type]


# -- what comes back ------------------------------------------------------------------------------------


def test_everything_comes_back() -> None:
    read_only = np.arange(5000)
    read_only.flags.writeable = False
    given = {
        "empty": np.empty((0, 3)),
        "scalar": np.float32(3),
        "zero-d": np.array(7.0),
        "fortran": np.asfortranarray(np.arange(6000.0).reshape(60, 100)),
        "sliced": np.arange(20_000).reshape(100, 200)[::2, ::-3],
        "record": np.zeros(500, [("x", "f4"), ("name", "U5")]),
        "dates": np.arange("2020", "2030", dtype="M8[D]"),
        "objects": np.array([None, {"a": 1}, "text"], dtype=object),
        "masked": np.ma.array(np.arange(3000), mask=np.arange(3000) % 2),
        "swapped": np.arange(3000, dtype=">f8"),
        "read-only": read_only,
        "text": "x" * 100_000,
        "bytes": b"y" * 100_000,
        "mutable": bytearray(b"z" * 100_000),
        "buffer": pickle.PickleBuffer(b"w" * 100_000),
    }
    with sa.put(given) as held:
        got = sa.get(held)
        assert got.keys() == given.keys()
        for key, value in given.items():
            if isinstance(value, np.ndarray):
                assert got[key].dtype == value.dtype
                assert type(got[key]) is type(value)
                np.testing.assert_array_equal(got[key], value)
                if not value.dtype.hasobject:
                    assert lies_in(np.asarray(got[key]), held), key
            else:
                assert bytes(got[key]) == bytes(value) if key == "buffer" else got[key] == value
        assert got["fortran"].flags.f_contiguous
        assert not got["read-only"].flags.writeable
        assert got["sliced"].flags.writeable


def test_what_is_written_is_private() -> None:
    held = sa.put(np.zeros(5000), name="zeros")
    one, other = sa.get("zeros"), sa.get("zeros")
    one[:] = 1
    assert not other.any()
    assert not sa.get("zeros").any()
    assert answer("import sharedarray as sa; from helpers import say; say(sa.get('zeros').sum())") == 0
    held.close()


def test_a_copy_of_the_data_is_stored() -> None:
    data, shared = np.ones(5000), sa.ones(5000)
    held = sa.put([data, shared, shared[::5]])
    data[:] = shared[:] = 2
    del data
    shared.close()
    got = sa.get(held)
    assert [type(array) for array in got] == [np.ndarray] * 3
    assert [array.sum() for array in got] == [5000, 5000, 1000]
    assert all(lies_in(array, held) for array in got)


def test_the_same_array_twice_is_stored_once() -> None:
    array = np.arange(MB // 8)
    with sa.put([array, array]) as held:
        assert held.nbytes < 1.1 * MB
        one, other = sa.get(held)
        assert one is other


def test_functions_and_classes_of_a_script_go_in_by_value(tmp_path: Path) -> None:
    script = """
        import contextvars, functools, sys, types, typing
        import sharedarray as sa, numpy as np
        class Model:
            def __init__(self):
                self.weights = np.arange(5.0)
            def predict(self, x):
                return self.weights * x
            @functools.cached_property
            def size(self):
                return self.weights.size
            class Inner:
                pass
        class Keyed:
            known = {}
            def __new__(cls, key):
                if key not in cls.known:
                    cls.known[key] = super().__new__(cls)
                    cls.known[key].key = key
                return cls.known[key]
        class Named:
            def __reduce__(self):
                return "NAMED"
        class Base:
            def __init_subclass__(cls, *, kind):
                cls.kind = kind
        class Derived(Base, kind="derived"):
            pass
        NAMED, Number = Named(), typing.NewType("Number", int)
        @functools.cache
        def cached(x):
            return x + 1
        @functools.singledispatch
        def dispatched(x):
            return "any"
        @dispatched.register
        def _(x: int):
            return "int"
        variable = contextvars.ContextVar("variable", default=9)
        unfound = sys.modules["unfound"] = types.ModuleType("unfound")
        exec("STEP = 2\\ndef step(x):\\n    return x + STEP", unfound.__dict__)
        sa.put((Model(), lambda x: x + 1), name="model", persist=True)
        things = Model.Inner(), [Keyed("a"), Keyed("a")], NAMED, Number, Derived(), variable
        sa.put((things, cached, dispatched, unfound), name="things", persist=True)
    """
    run(script)
    model, function = sa.get("model")
    assert model.predict(2).tolist() == [0, 2, 4, 6, 8]
    assert model.size == 5
    assert function(1) == 2
    things, cached, dispatched, unfound = sa.get("things")
    inner, (one, other), named, number, derived, variable = things
    assert (type(inner).__qualname__, one is other, one.key) == ("Model.Inner", True, "a")
    assert (type(named).__name__, number(3), derived.kind, variable.get()) == ("Named", 3, "derived", 9)
    assert (cached(1), dispatched(1), dispatched(""), unfound.step(1)) == (2, "int", "any", 3)
    assert "unfound" not in sys.modules
    del model
    sa.unlink("model")
    sa.unlink("things")


def test_what_cannot_be_pickled_leaves_nothing() -> None:
    with pytest.raises(sa.NotPicklableError, match=r"a lock of threads as the object, at object\[1\]"):
        sa.put([np.zeros(10_000), threading.Lock()], name="half")
    assert nothing_left()
    with sa.put(1, name="one"), pytest.raises(sa.BlockExistsError):
        sa.put(2, name="one")
    with pytest.raises(sa.InvalidNameError):
        sa.put(1, name="a/b")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (threading.Lock, r"a lock of threads .* Next step: leave it out, as by __getstate__\(\)"),
        (Future, r"a future .* Next step: wait for it, and store its result\(\)"),
        (lambda: (n for n in ()), "a generator .* Next step: store a list of its items"),
        (lambda: open(__file__), r"an open file \('.*'\) .* Next step: store its path"),  # noqa: SIM115
        (lambda: open(__file__, "rb"), r"an open file \('.*'\) .* Next step: store its path"),  # noqa: SIM115
    ],
)
def test_what_cannot_be_stored_is_named(make: Any, found: str) -> None:
    held = make()
    error = rf"^dict cannot be stored by sharedarray\.put; found {found}"
    with pytest.raises(sa.NotPicklableError, match=error) as caught:
        sa.put({"model": [held]})
    assert "as the object, at object['model'][0]" in str(caught.value)
    assert caught.value.__cause__ is not None
    getattr(held, "close", int)()


def test_an_error_while_loading_leaves_nothing() -> None:
    held = sa.put(Grumpy())
    with pytest.raises(RuntimeError, match="no mood"):
        sa.get(held)
    with pytest.raises(RuntimeError, match="no mood"):
        sa.get(held.name)
    name = held.name
    held.close()
    assert name not in block_files()


class Grumpy:
    def __reduce__(self) -> Any:
        return _grumble, ()


def _grumble() -> None:
    raise RuntimeError("no mood")


# -- frames, matrices, models ---------------------------------------------------------------------------


def test_a_frame_is_rebuilt_in_another_process_without_copying_it() -> None:
    pandas = pytest.importorskip("pandas")
    data = np.arange(40_000.0).reshape(10_000, 4)
    frame = pandas.DataFrame(data, columns=list("abcd")).assign(
        n=np.arange(10_000), day=pandas.Timestamp("2020")
    )
    with sa.put(frame, name="frame"):
        found = answer(
            """
            import sharedarray as sa, numpy as np
            from helpers import say
            from sharedarray._segment import mapping_of
            frame = sa.get("frame")
            parts = [frame[c].to_numpy() for c in frame.columns]
            say([all(mapping_of(np.asarray(p)) is not None for p in parts), float(frame["d"].sum()),
                 list(frame.columns), str(frame["day"].iloc[-1]), int(frame.n.iloc[-1])])
            """
        )
        assert found == [True, data[:, 3].sum(), [*"abcd", "n", "day"], "2020-01-01 00:00:00", 9999]
        pandas.testing.assert_frame_equal(sa.get("frame"), frame)


def test_sparse_matrices_and_fitted_models() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    datasets = pytest.importorskip("sklearn.datasets")
    neighbors = pytest.importorskip("sklearn.neighbors")
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = datasets.load_digits(return_X_y=True)
    matrix = sparse.csr_matrix(x)
    nearest = neighbors.KNeighborsClassifier(algorithm="brute").fit(x, y)
    ridge = linear.RidgeClassifier().fit(x, y)
    with sa.put((matrix, nearest, ridge), name="models") as held:
        got, neighbor, model = sa.get("models")
        for array in (got.data, got.indices, got.indptr, neighbor._fit_X, model.coef_):
            assert lies_in(array, held)
        np.testing.assert_array_equal(got.toarray(), x)
        np.testing.assert_array_equal(neighbor.predict(x[:50]), nearest.predict(x[:50]))
        np.testing.assert_array_equal(model.predict(x), ridge.predict(x))


# -- lifetime -------------------------------------------------------------------------------------------


def test_the_block_lives_while_anything_looks_at_it() -> None:
    held = sa.put({"a": np.arange(5000), "b": np.arange(6000)}, name="kept")
    view = sa.get("kept")["b"][10:20]
    held.close()
    del held
    gc.collect()
    assert sa.get("kept")["a"][-1] == 4999
    assert view.tolist() == list(range(10, 20))
    del view
    assert nothing_left()


def test_it_outlives_its_maker_in_the_hands_of_a_reader() -> None:
    with Puppet("held = sa.put([sa.zeros(5000) + 7], name='model'); say(); hear()") as maker:
        maker.hear()
        got = sa.get("model")
        maker.kill()
        assert got[0].sum() == 35_000
        assert sa.exists("model")
        del got
    wait_until(nothing_left, "the block goes with its last reader")


def test_it_persists() -> None:
    run("import sharedarray as sa; sa.put({'a': 1}, name='config', persist=True)")
    assert sa.get("config") == {"a": 1}
    sa.unlink("config")
    assert nothing_left()


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
def test_the_handle_goes_to_workers() -> None:
    with sa.Pool(1) as pool, sa.put({"w": np.arange(5000.0)}) as held:
        assert pool.submit(_total, held).result() == np.arange(5000.0).sum()


def _total(held: sa.SharedArray) -> float:
    return float(sa.get(held)["w"].sum())


def test_the_handle_of_another_block_of_that_name_is_an_error() -> None:
    held = sa.put(1, name="model")
    held.unlink()
    with sa.put(2, name="model") as other:
        with pytest.raises(sa.BlockNotFoundError, match="not the one meant"):
            sa.get(held)
        assert sa.get(other) == 2


# -- who may have it loaded -----------------------------------------------------------------------------


class Trap:
    """Says that it was unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def _refused(name: str, what: str, sprung: Path) -> None:
    with pytest.raises(sa.NotOursError, match=what) as caught:
        sa.get(name)
    assert isinstance(caught.value, PermissionError)
    for part in (name, "runs code", "attach"):
        assert part in str(caught.value)
    assert not sprung.exists()


@needs_modes
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o660])
def test_a_block_that_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    with sa.put(Trap(str(tmp_path / "sprung")), name="trap"):
        path = next(block.path for block in sa.blocks())
        os.chmod(path, mode)
        _refused("trap", "writable by others", tmp_path / "sprung")
        assert sa.exists("trap")
        os.chmod(path, 0o644)  # others may read
        sa.get("trap")
        assert (tmp_path / "sprung").exists()


@needs_root
def test_a_block_of_another_user_is_refused(tmp_path: Path) -> None:
    with sa.put(Trap(str(tmp_path / "sprung")), name="trap"):
        path = next(block.path for block in sa.blocks())
        os.chown(path, 65534, 65534)
        _refused("trap", "owned by uid 65534", tmp_path / "sprung")
        os.chmod(path, 0o444)
        _refused("trap", "owned by uid 65534", tmp_path / "sprung")
        os.chown(path, 0, 0)
        os.chmod(path, 0o600)


@needs_root
@pytest.mark.slow
def test_another_user_refuses_roots_block_too(tmp_path: Path) -> None:
    with sa.put(Trap(str(tmp_path / "sprung")), name="trap"):
        data = Path(next(block.path for block in sa.blocks())).read_bytes()
    program = """
        import os, sys
        import sharedarray as sa
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            sa.get("trap")
        except sa.NotOursError as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o1777)
        copy = Path(shared, "trap")
        copy.write_bytes(data)
        os.chmod(copy, 0o644)
        done = run(program, SHAREDARRAY_DIR=shared)
        wait_until(lambda: not janitors(shared), "the janitor ends")
    assert "owned by uid 0" in done.stdout
    assert not (tmp_path / "sprung").exists()


def test_a_mapping_of_arrays_can_be_written() -> None:
    given = {
        "w": np.arange(3.0),
        "large": np.zeros((100, 100), order="F"),
        "when": np.zeros(2, "M8[s]"),
        "k": "text",
    }
    with sa.put(given, name="mapping") as held:
        first, second = sa.get("mapping", mode="r+"), sa.get(held, "r+")
        first["w"][1] = 7
        first["large"][3, 4] = 5
        first["when"][0] = np.datetime64("2020-01-01")
        for found in (second, sa.get("mapping"), sa.get("mapping", "r")):
            assert found["w"].tolist() == [0, 7, 2]
            assert found["large"][3, 4] == 5
            assert found["when"][0] == np.datetime64("2020-01-01")
            assert found["k"] == "text"
        private, reader = sa.get("mapping"), sa.get("mapping", mode="r")
        private["w"][0] = 9
        assert first["w"][0] == 0
        with pytest.raises(ValueError, match="read-only"):
            reader["w"][0] = 1
        with pytest.raises(ValueError, match="mode"):
            sa.get("mapping", mode="w")  # type: ignore[arg-type]
        assert lies_in(first["w"], held)
        del first, second, found, private, reader
