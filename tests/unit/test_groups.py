"""Groups: many arrays in one block, under one name, and what they are made of and become."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import random
import threading
import zlib
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, Puppet, answer, wait_until

import sharedarray as sa
from sharedarray import _cli, _group_index as group_index
from sharedarray._header import PAGE
from sharedarray._segment import mapping_of

READER = "from helpers import say; import sharedarray as sa; say(float(sa.attach('camera')['t'][3]))"
CAMERA = {"rgb": ((10, 48, 64, 3), "u1"), "t": (10, "f8")}


def where(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def offset(group: sa.Group, name: str) -> int:
    mapping = mapping_of(group[name])
    assert mapping is not None
    return where(group[name]) - where(np.frombuffer(mapping, np.uint8))


# -- one block ------------------------------------------------------------------------------------------


def test_a_group_is_one_block_of_arrays() -> None:
    with sa.group("camera", CAMERA) as made:
        found: Any = sa.attach("camera")
        assert type(found) is sa.Group
        assert found.name == "camera"
        assert list(found) == ["rgb", "t"]
        assert len(found) == 2
        assert "t" in found
        assert "x" not in found
        assert 3 not in found
        for name, (shape, dtype) in CAMERA.items():
            array = found[name]
            assert type(array) is sa.SharedArray
            assert array.shape == np.empty(shape).shape
            assert array.dtype == dtype
            assert array.name == "camera"
            assert not array.any()
            assert offset(found, name) % 64 == 0
            assert found[name] is array
        found["t"][3] = 5.5
        found["rgb"][9, 47, 63, 2] = 255
        assert made["t"][3] == 5.5
        assert made["rgb"][-1, -1, -1, -1] == 255
        assert [block.name for block in sa.blocks()] == ["camera"]
        assert answer(READER) == 5.5
        found.close()
        assert found.closed
        assert found["t"].closed
    assert not sa.exists("camera")


def test_the_last_view_of_a_member_holds_the_block() -> None:
    member = sa.group("kept", {"a": (3, int), "b": (3, int)})["b"]
    gc.collect()
    assert sa.exists("kept")
    assert member[1:].name == "kept"
    del member
    wait_until(lambda: not sa.exists("kept"), "the block goes with its last view")


def test_members_are_written_in_place() -> None:
    with sa.group(None, {"a": (3, "f8"), "b": ((2, 2), "i4")}) as group:
        group["a"] += 2
        group["b"] = 7
        group["a"][0] = -1
        assert group["a"].tolist() == [-1, 2, 2]
        assert group["b"].tolist() == [[7, 7], [7, 7]]
        with pytest.raises(ValueError, match="broadcast"):
            group["b"] = np.zeros(3)
        with pytest.raises(KeyError, match="'c' is no member"):
            group["c"] = 1
        with pytest.raises(KeyError, match="members are"):
            group["c"]
        with pytest.raises(sa.MaskedArrayError):
            group["a"] = np.ma.masked_all(3)


def test_modes() -> None:
    with sa.group("modes", {"a": (3, int)}) as group:
        reader: Any = sa.attach("modes", "r")
        private: Any = sa.attach("modes", "c")
        with pytest.raises(ValueError, match="read-only"):
            reader["a"][0] = 1
        private["a"][0] = 9
        assert group["a"][0] == 0
        assert (group.mode, reader.mode, private.mode) == ("r+", "r", "c")
        reader.close()
        private.close()


def test_specifications() -> None:
    given = {
        "number": (3, float),
        "scalar": ((), "i2"),
        "empty": ((0, 4), "f4"),
        "fields": ((2,), [("x", "f4"), ("name", "U5")]),
        "subarray": (2, np.dtype(("f4", (3,)))),
        "date": (2, "M8[ns]"),
        "like": np.asfortranarray(np.zeros((3, 5), ">i4")),
        "ä/ö ü": (1, bool),
    }
    with sa.group(None, given) as group:
        assert {name: array.shape for name, array in group.items()} == {
            "number": (3,), "scalar": (), "empty": (0, 4), "fields": (2,), "subarray": (2, 3), "date": (2,),
            "like": (3, 5), "ä/ö ü": (1,),
        }  # fmt: skip
        assert group["like"].flags.f_contiguous
        assert group["like"].dtype == ">i4"
        assert group["fields"].dtype.names == ("x", "name")
        assert all(array.flags.aligned for array in group.values())
    with sa.group(None, {}) as nothing:
        assert dict(nothing) == {}


@pytest.mark.parametrize(
    ("members", "error", "said"),
    [
        ([("a", (3, "f8"))], TypeError, "mapping"),
        ({"a": 3}, TypeError, "'a' is given by a shape and a dtype"),
        ({"a": (3, "no such dtype")}, TypeError, "'a'"),
        ({"a": (-1, "f8")}, ValueError, "'a'.*negative"),
        ({"a": (3, object)}, sa.UnsupportedDTypeError, "'a'"),
        ({1: (3, "f8")}, TypeError, "str"),
        ({"": (3, "f8")}, sa.InvalidNameError, "member"),
        ({"a": ((1 << 40, 1 << 40), "f8")}, ValueError, "address space|fit"),
    ],
)
def test_what_no_group_can_be_made_of(members: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        sa.group("refused", members)
    assert not sa.exists("refused")


@pytest.mark.parametrize(
    ("given", "attrs", "error", "said"),
    [
        ([np.zeros(3)], None, TypeError, "not of a list"),
        (np.zeros(3), None, TypeError, "numpy.ndarray"),
        ({"a": {"b": np.zeros(3)}}, None, sa.UnsupportedDTypeError, "'a' cannot be a mapping.*'a/...'"),
        ({"a": [[1], [1, 2]]}, None, ValueError, "'a' cannot be made an array"),
        ({"a": None}, None, sa.UnsupportedDTypeError, "'a'"),
        ({"a": 1}, ["x"], TypeError, "attrs are a mapping"),
        ({"a": 1}, {"x": print}, TypeError, "attrs\\['x'\\]"),
    ],
)
def test_what_no_group_can_be_shared_of(given: Any, attrs: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        sa.share_group("refused", given, attrs)
    assert not sa.exists("refused")


def test_the_name_comes_first() -> None:
    misplaced: Any = {"a": np.zeros(3)}
    with pytest.raises(TypeError, match="a block's name is a str, not dict"):
        sa.share_group(misplaced, "camera")


def test_wrong_uses_of_a_group_tell_the_right_one(tmp_path: Path) -> None:
    with sa.group("camera", CAMERA) as group:
        any_group: Any = group
        for key in (0, slice(1, 3), ["rgb", "t"], ("rgb", "t")):
            with pytest.raises(TypeError, match=r"indexed by the name.*group\['rgb'\]\[2:5\]"):
                any_group[key]
        with pytest.raises(KeyError, match="its members are"):
            any_group["rbg"]
        with pytest.raises(KeyError, match="its members are"):
            any_group["new"] = np.zeros(3)
        with pytest.raises(TypeError, match="cannot be removed"):
            del any_group["t"]
        with pytest.raises(AttributeError, match=r"group\['rgb'\]"):
            _ = any_group.rgb
        with pytest.raises(AttributeError, match="no attribute 'shape'"):
            _ = any_group.shape
        for call in (np.asarray, np.sum, lambda given: np.array([given])):
            with pytest.raises(TypeError, match="mapping of arrays"):
                call(any_group)
        with pytest.raises(sa.UnsupportedDTypeError, match="share_group"):
            sa.share(any_group)
        with pytest.raises(ValueError, match="only the whole group has versions"):
            group["t"].update()
    path = tmp_path / "array.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(sa.HeaderError, match=r"is an \.npy file") as caught:
        sa.share_group(None, path)
    assert "sharedarray.open" in str(caught.value.next_step)


def test_a_group_tells_of_new_data() -> None:
    with sa.group("camera", CAMERA) as group, sa.attach("camera") as found:
        assert group.wait(since=-1) == 0
        assert group.notify() == 1
        assert found.wait(since=0) == found["t"].wait(since=0) == 1
        with pytest.raises(TimeoutError, match="notify"):
            found.wait(0.01)
        with pytest.raises(TimeoutError, match="version 1"):
            found.wait(1, timeout=0.01)
        with pytest.raises(TypeError, match="one of a version"):
            found.wait(1, since=0)


def test_taken_names() -> None:
    with sa.group("taken", CAMERA) as first:
        first["t"][:] = 1
        with pytest.raises(sa.BlockExistsError):
            sa.group("taken", CAMERA)
        with sa.group("taken", CAMERA, exist_ok=True) as same:
            assert same["t"][0] == 1
        with pytest.raises(sa.BlockExistsError, match="something else than this group"):
            sa.group("taken", {"t": (10, "f8")}, exist_ok=True)
        with pytest.raises(sa.BlockExistsError, match="something else than an array"):
            sa.zeros(3, name="taken", exist_ok=True)
        with sa.group("taken", {"t": (2, int)}, replace=True):
            again: Any = sa.attach("taken")
            assert again["t"].shape == (2,)
            again.close()
        assert first["t"][0] == 1
    with sa.zeros(3, name="array"), pytest.raises(sa.BlockExistsError, match="no group"):
        sa.group("array", CAMERA, exist_ok=True)
    with pytest.raises(ValueError, match="replace"):
        sa.group("taken", CAMERA, replace=True, exist_ok=True)
    with pytest.raises(sa.InvalidNameError):
        sa.group("../x", CAMERA)


def test_a_group_that_persists_outlives_its_maker() -> None:
    answer("""
        from helpers import say
        import sharedarray as sa
        sa.group("persists", {"a": (3, int)}, persist=True)["a"][:] = 4
        say()
    """)
    found: Any = sa.attach("persists")
    assert found["a"].tolist() == [4, 4, 4]
    found.unlink()
    assert not sa.exists("persists")


def test_a_killed_maker_leaves_nothing() -> None:
    with Puppet("g = sa.group('orphan', {'a': (100, float)}); h = g['a']; say(); hear()") as maker:
        maker.hear()
        assert sa.exists("orphan")
        maker.kill()
        wait_until(lambda: not sa.exists("orphan"), "the janitor removes it", ANSWER)


def test_full_memory_is_an_error() -> None:
    with pytest.raises(sa.OutOfSharedMemoryError):
        sa.group("large", {"a": (1 << 45, "u1")})
    assert not sa.exists("large")


ASKS = """
    g = sa.attach("locked")
    while True:
        part = eval(hear())
        try:
            with part.lock(timeout=0):
                say("taken")
        except sa.LockTimeout:
            say("refused")
"""


def test_locks_belong_to_members_and_ranges() -> None:
    with sa.group("locked", {"a": (100, int), "b": (100, int)}) as group, Puppet(ASKS) as other:
        with group["a"][10:20].lock():
            assert other.ask("g['a'][20:]") == "taken"
            assert other.ask("g['b']") == "taken"
            assert other.ask("g['a'][15:16]") == "refused"
            assert other.ask("g['a']") == "refused"
            assert other.ask("g") == "refused"
        assert other.ask("g") == "taken"
        other.kill()


# -- the bytes ------------------------------------------------------------------------------------------


def test_the_layout() -> None:
    """Frozen: other processes, and versions, read it."""
    head, starts, size = group_index.encode(
        {"a": (np.dtype("<f8"), (3,), False), "b": (np.dtype("u1"), (2, 2), True)},
        attrs={"k": [1]},
        dims={"a": ["x"]},
    )
    assert head[:6] == b"\x93NUMPY"
    assert head[4096:4104] == b"\x93SAGRP1\n"
    length = int.from_bytes(head[4104:4112], "little")
    text = head[4120:]
    assert len(text) == length
    assert json.loads(text) == {
        "members": [
            ["a", starts[0], "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"],
            ["b", starts[1], "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2), }"],
        ],
        "attrs": {"k": [1]},
        "dims": {"a": ["x"]},
    }
    assert all(start % 64 == 0 for start in starts)
    assert size == starts[1] + 4


def test_the_block_is_a_valid_file_of_bytes(tmp_path: Path) -> None:
    with sa.group("bytes", CAMERA) as group:
        group["t"][:] = np.arange(10)
        segment = group.segment
        assert segment is not None
        path = tmp_path / "copy.npy"
        path.write_bytes(segment.buf)
    loaded = np.load(path)
    assert loaded.dtype == np.uint8
    assert loaded.ndim == 1
    opened: Any = sa.open(path)
    assert type(opened) is sa.Group
    assert opened["t"].tolist() == list(range(10))
    opened["t"][0] = 42
    opened.flush()
    again: Any = sa.open(path, "r")
    assert again["t"][0] == 42


def test_groups_in_files(tmp_path: Path) -> None:
    path = tmp_path / "group.npy"
    made = sa.group(None, CAMERA, file=path)
    made["t"][:] = 3
    made.flush()
    assert made.name == str(path)
    del made
    again = sa.group(None, CAMERA, file=path, exist_ok=True)
    assert again["t"].tolist() == [3] * 10
    with pytest.raises(sa.BlockExistsError):
        sa.share_group(None, {"a": [1]}, file=path)


def attempt(block: bytearray, path: Path) -> sa.Group | np.ndarray[Any, Any] | None:
    """Return what is opened, read to its last byte, or None after one of our errors."""
    path.write_bytes(block)
    try:
        opened: Any = sa.open(path, "r")
        if isinstance(opened, sa.Group):
            _ = repr(opened), [array.tobytes() for array in opened.values()]
    except sa.SharedArrayError as error:
        if not str(error):
            pytest.fail("an error that says nothing")
        return None
    return opened  # type: ignore[no-any-return]


def test_damaged_indexes_are_clear_errors(tmp_path: Path) -> None:
    with sa.share_group(None, {"a": np.arange(5.0), "b": np.zeros((2, 3), "i2")}, {"k": "v"}) as group:
        assert group.segment is not None
        good = bytes(group.segment.buf)
    end = 4120 + int.from_bytes(good[4104:4112], "little")
    path = tmp_path / "damaged.npy"
    chance = random.Random(0)
    for at in range(4104, end):  # every byte behind the magic, of which the group is known
        block = bytearray(good)
        block[at] ^= 1 << chance.randrange(8)
        assert attempt(block, path) is None, at
    for size in (4097, 4103, 4110, 4120, end - 1, end, len(good) - 1):
        assert not isinstance(attempt(bytearray(good[:size]), path), sa.Group)


INDEXES: list[Any] = [
    [],
    {},
    {"members": {}},
    {"members": [3]},
    {"members": [["a", 8192]]},
    {"members": [["a", 8192, 3]]},
    {"members": [["a", "8192", "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"]]},
    {"members": [["a", True, "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"]]},
    {"members": [["a", 8192, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"]]},
    {"members": [["a", 8192, "{'descr': '<f8', 'fortran_order': 1, 'shape': (1,), }"]]},
    {"members": [["a", 8192, "__import__('os').abort()"]]},
    {"members": [["a", 8192, "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"]]},
    {"members": [["a", 8192, "{'descr': '<f8', 'fortran_order': False, 'shape': (10000,), }"]]},
    {"members": [["a", 8193, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"]]},
    {"members": [["a", 0, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"]]},
    {"members": [["a", -64, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"]]},
    {"members": [["a", 1 << 70, "{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }"]]},
    {"members": [["a", 8192, "{'descr': '|u1', 'fortran_order': False, 'shape': (65,), }"]] * 2},
    {"members": [], "attrs": []},
    {"members": [], "dims": {"a": ["x"]}},
    {"members": [], "dims": {"a": "x"}},
    {"members": [], "coords": ["a"]},
    {"members": [], "coords": [3]},
    {"members": [], "member_attrs": {"a": {}}},
    {"members": [], "frame": 3},
]


@pytest.mark.parametrize("index", INDEXES, ids=range(len(INDEXES)))
def test_hostile_indexes_are_clear_errors(index: Any, tmp_path: Path) -> None:
    """With the right checksum: they were made to hurt."""
    text = json.dumps(index).encode()
    assert attempt(block_with(text), tmp_path / "hostile.npy") is None


def block_with(text: bytes) -> bytearray:
    from zlib import crc32

    size = 16384
    page = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size - PAGE},), }}"
    head = b"\x93NUMPY\x01\x00" + (PAGE - 10).to_bytes(2, "little") + page.encode().ljust(PAGE - 11) + b"\n"
    head += b"\x93SAGRP1\n" + len(text).to_bytes(8, "little") + crc32(text).to_bytes(8, "little") + text
    return bytearray(head.ljust(size, b"\0"))


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 9000, b'{"members": ' + b"9" * 6000 + b"}", b"\xff\xfe"])
def test_what_is_no_json_is_a_clear_error(text: bytes, tmp_path: Path) -> None:
    assert attempt(block_with(text), tmp_path / "hostile.npy") is None


def test_an_array_of_bytes_stays_one() -> None:
    with sa.share(np.zeros(5000, np.uint8), name="plain"):
        assert type(sa.attach("plain")) is sa.SharedArray


# -- travelling -----------------------------------------------------------------------------------------


def test_one_reference_in_a_task() -> None:
    with sa.group("task", {f"m{i}": (1000, "f8") for i in range(100)}) as group:
        pickled = ForkingPickler.dumps(group)
        assert len(pickled) < 600
        received: Any = ForkingPickler.loads(pickled)
        received["m7"][3] = 3
        assert group["m7"][3] == 3
        assert received.name == "task"
        received.close()


def test_plain_pickling_and_copying_store_the_data() -> None:
    with sa.share_group(None, {"a": np.arange(3), "b": np.eye(2)}, {"k": 1}) as group:
        stored: Any = pickle.loads(pickle.dumps(group))
        copied = copy.copy(group)
        deep = copy.deepcopy(group)
        group["a"][:] = 0
    for each in (stored, copied, deep):
        assert each["a"].tolist() == [0, 1, 2]
        assert type(each["a"]) is np.ndarray
    assert stored.attrs == {"k": 1}
    assert stored.name is None
    assert stored.segment is None
    stored["a"][0] = 5
    stored.close()
    with pytest.raises(ValueError, match="not shared"):
        stored.unlink()


def fill(group: sa.Group, value: float) -> tuple[str | None, str]:
    group["t"][:] = value
    return group.name, type(group).__name__


def larger(block: dict[str, Any], factor: float) -> Any:
    return (block["x"] * factor + block["y"][:, 0], block["y"].sum(axis=1))[0]


def nothing_of(block: dict[str, Any]) -> None:
    block["x"][:] = 0


@pytest.mark.lingers("descriptor")
def test_pools_take_groups_as_one_argument() -> None:
    with sa.group("pooled", CAMERA) as group, sa.Pool(1) as pool:
        assert pool.submit(fill, group, 2.5).result() == ("pooled", "Group")
        assert group["t"].tolist() == [2.5] * 10
        back: Any = pool.submit(lambda each: each, group).result()
        back["t"][0] = 1
        assert group["t"][0] == 1
        del back
        with sa.share_group(None, {"x": np.arange(1000.0), "y": np.ones((1000, 2))}) as columns:
            made = pool.map_blocks(larger, columns, 2.0, block_size=100)
            assert np.array_equal(made, np.arange(1000.0) * 2 + 1)
            total = pool.reduce_blocks(lambda block: float(block["x"].sum()), lambda a, b: a + b, columns)
            assert total == np.arange(1000.0).sum()
            assert np.array_equal(pool.map_blocks(larger, dict(columns), 2.0), made)
            with pytest.raises(ValueError, match="nothing_of returned"):
                pool.map_blocks(nothing_of, columns)
        with pytest.raises(ValueError, match="length"):
            pool.map_blocks(larger, sa.group(None, {"x": (3, int), "y": ((4, 2), int)}), 1.0)


def test_threads_get_the_same_member() -> None:
    with sa.group(None, {f"m{i}": (1, int) for i in range(50)}) as group:
        found: list[list[sa.SharedArray]] = []
        start = threading.Barrier(4)

        def ask() -> None:
            start.wait()
            found.append(list(group.values()))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(each is first for arrays in found for each, first in zip(arrays, found[0], strict=True))
        found.clear()


# -- sources and targets --------------------------------------------------------------------------------


def test_dicts() -> None:
    given = {
        "list": [1, 2, 3],
        "scalar": 2.5,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "sliced": np.arange(20_000).reshape(100, 200)[::2, ::-3],
        "text": ["a", "bc"],
        "empty": np.empty((0, 3)),
        "last": np.empty(0),
    }
    with sa.share_group(None, given) as group:
        for name, values in group.to_dict().items():
            assert np.array_equal(values, np.asarray(given[name])), name
        assert group["fortran"].flags.f_contiguous
        with sa.share_group(None, group, {"copied": True}) as again:
            assert again.attrs == {"copied": True}
            assert all(np.array_equal(again[name], group[name]) for name in group)
            again["list"][0] = 9
            assert group["list"][0] == 1
    for wrong in ({"a": np.array([None])}, {"a": np.ma.masked_all(3)}, {"a": [np.ma.masked_all(3)]}):
        with pytest.raises(TypeError):
            sa.share_group("wrong", wrong)
    for nothing in ([1, 2], 3, None):
        with pytest.raises(TypeError, match="group is made of"):
            sa.share_group("wrong", nothing)
    assert not sa.exists("wrong")


def test_attributes() -> None:
    attrs = {
        "text": "ä", "number": np.float32(2.5), "flag": np.True_, "array": np.arange(3), "none": None,
        "nested": {"a": (1, 2)},
    }  # fmt: skip
    with sa.share_group("attributes", {"a": [1]}, attrs, dims={"a": ["x"]}):
        found: Any = sa.attach("attributes")
        assert found.attrs == {
            "text": "ä", "number": 2.5, "flag": True, "array": [0, 1, 2], "none": None,
            "nested": {"a": [1, 2]},
        }  # fmt: skip
        assert found.dims == {"a": ("x",)}
        with pytest.raises(TypeError):
            found.attrs["text"] = "b"
        found.close()
    for wrong, said in (
        ({"a": object()}, r"attrs\['a'\]"),
        ({3: 4}, "str"),
        ({"a": [b"x"]}, r"\['a'\]\[0\]"),
    ):
        with pytest.raises(TypeError, match=said):
            sa.share_group(None, {"a": [1]}, wrong)  # type: ignore[arg-type]
    for dims in ({"b": ["x"]}, {"a": ["x", "y"]}, {"a": [3]}):
        with pytest.raises(ValueError, match="dims"):
            sa.share_group(None, {"a": [1]}, dims=dims)  # type: ignore[arg-type]


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.arange(3), b=np.eye(2))
    with np.load(path) as archive, sa.share_group("from_npz", archive) as group:
        assert group["a"].tolist() == [0, 1, 2]
        with sa.share_group(None, path) as of_path:
            assert np.array_equal(of_path["b"], np.eye(2))
        np.savez(tmp_path / "again.npz", **group)
        assert np.load(tmp_path / "again.npz")["b"].shape == (2, 2)
    with sa.share_group(None, {"file": [1.5], "x/y": [2]}) as group:
        for compressed in (False, True):
            group.to_npz(tmp_path / "out", compressed=compressed)
            with np.load(tmp_path / "out.npz") as archive:
                assert {name: archive[name].tolist() for name in archive} == {"file": [1.5], "x/y": [2]}


def test_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": [1, 2, 3],
            "b": ["x", "yy", "z"],
            "c": pandas.Categorical(["u", "v", "u"], categories=["v", "u"], ordered=True),
            "d": pandas.date_range("2020", periods=3, tz="Europe/Berlin"),
            "e": pandas.array([1, 2, 3], dtype="Int64"),
            7: [1.5, float("nan"), 2],
        },
        index=pandas.Index([5, 6, 7], name="id"),
    )
    with sa.share_group("frame", frame):
        found: Any = sa.attach("frame")
        again = found.to_pandas()
        pandas.testing.assert_frame_equal(again.astype({"e": "Int64"}), frame, check_dtype=False)
        assert again["c"].cat.ordered
        assert str(again["d"].dtype.tz) == "Europe/Berlin"
        assert np.shares_memory(again["a"].to_numpy(), found["a"])
        del again, found
    with sa.share_group(None, {"x": [1, 2], "y": [3.5, 4]}) as group:
        assert group.to_pandas().to_dict("list") == {"x": [1, 2], "y": [3.5, 4]}
    with (
        sa.share_group(None, {"x": [1, 2], "y": [3.5]}) as group,
        pytest.raises(ValueError, match="one length"),
    ):
        group.to_pandas()
    plain = pandas.DataFrame({"a": [1.0], "b": [2]})
    with sa.share_group(None, plain) as group:
        assert list(group) == ["a", "b"]
        pandas.testing.assert_frame_equal(group.to_pandas(), plain)
    levels = pandas.DataFrame({"a": [1, 2]}, index=pandas.MultiIndex.from_tuples([("x", 1), ("y", 2)]))
    with sa.share_group(None, levels) as group:
        pandas.testing.assert_frame_equal(group.to_pandas(), levels, check_index_type=False)
    with pytest.raises(sa.UnsupportedDTypeError, match="fill what is missing"):
        sa.share_group(None, pandas.DataFrame({"a": ["x", None]}))


def test_frames_keep_their_attributes() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2]})
    frame.attrs["unit"] = "K"
    with sa.share_group(None, frame, {"n": 1}) as group:
        assert dict(group.attrs) == group.to_pandas().attrs == {"unit": "K", "n": 1}


@pytest.mark.slow  # for the import of xarray
def test_frames_become_datasets_of_one_axis() -> None:
    pytest.importorskip("xarray")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=pandas.Index([5, 6], name="id"))
    with sa.share_group(None, frame) as group:
        dataset = group.to_xarray()
        assert dict(dataset.sizes) == {"row": 2}
        assert dataset["b"].values.tolist() == ["x", "y"]
        assert sorted(dataset) == ["a", "b", "id"]


@pytest.mark.slow  # for the import of xarray
def test_names_of_axes_and_members_of_datasets() -> None:
    xarray = pytest.importorskip("xarray")
    values = {"x": np.arange(3.0), "v": np.ones((2, 3))}
    with sa.share_group(None, values, {"title": "t"}, dims={"x": "x", "v": ("y", "x")}) as group:
        dataset = group.to_xarray()
        assert dict(dataset.sizes) == {"y": 2, "x": 3}
        assert list(dataset.coords) == ["x"]  # a member that is named as its axis is a coordinate
        assert dataset.attrs == {"title": "t"}
        with sa.share_group(None, dataset) as again:
            assert again.dims == {"x": ("x",), "v": ("y", "x")}
            assert again.to_xarray().identical(dataset)
    for name in (3, ("a", 1)):
        with pytest.raises(TypeError, match="the name of a member is a str"):
            sa.share_group(None, xarray.Dataset({name: ("x", [1.0])}))
    with sa.share_group(None, xarray.Dataset({"a b/c": ("größe", [1.0])})) as group:
        assert group.dims == {"a b/c": ("größe",)}
        assert list(group.to_xarray()) == ["a b/c"]


@pytest.mark.slow  # for the import of xarray
def test_datasets() -> None:
    xarray = pytest.importorskip("xarray")
    dataset = xarray.Dataset(
        {
            "v": (("x", "y"), np.arange(6.0).reshape(2, 3), {"unit": "m"}),
            "s": ((), 4),
            "when": ("x", np.array(["2020-01-01", "2020-01-02"], "M8[ns]")),
        },
        coords={"x": [10, 20], "label": ("y", ["a", "b", "c"])},
        attrs={"title": "ä", "n": 3},
    )
    with sa.share_group("dataset", dataset):
        found: Any = sa.attach("dataset")
        again = found.to_xarray()
        assert again.identical(dataset)
        assert np.shares_memory(again["v"].values, found["v"])
        assert found.dims["v"] == ("x", "y")
        del again, found
    with sa.group(None, {"a": ((2, 3), int)}) as group:
        assert group.to_xarray()["a"].dims == ("a_0", "a_1")


def safetensors(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
        "h": {"dtype": "BF16", "shape": [2], "data_offsets": [32, 36]},
        "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [36, 36]},
    }
    data = (
        np.arange(6, dtype="<f4").tobytes() + np.int64(7).tobytes() + np.array([0x3F80, 0], "<u2").tobytes()
    )
    path.write_bytes(safetensors(header, data))
    with sa.share_group("model", path) as group:
        assert list(group) == ["w", "n", "h", "none"]
        assert group["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert group["n"] == 7
        assert group["h"].dtype == "u2"
        assert group["none"].shape == (0, 4)
        assert group.attrs == {"format": "pt", "safetensors": {"h": "BF16"}}


def entry(dtype: Any = "U8", shape: Any = (4,), begin: Any = 0, end: Any = 4) -> dict[str, Any]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE: list[bytes] = [
    b"",
    b"\1",
    (1 << 63).to_bytes(8, "little") + b"{}",
    (200_000_000).to_bytes(8, "little") + b"{}",
    safetensors(b"{", b""),
    safetensors(b"[]", b""),
    safetensors(b"\xff", b""),
    safetensors(b"[" * 100_000, b""),
    safetensors(b'{"a": {}, "a": {}}', b""),
    *(
        safetensors({"a": value}, b"1234")
        for value in (
            3, {}, entry("O"), entry("BOGUS"), entry(3), entry(shape=4), entry(shape=(-4,)),
            entry(shape=(2.0, 2)), entry(shape=(True, 4)), entry(end=5), entry(begin=-1),
            entry(begin=1, end=4, shape=(3,)),
            entry(end=3, shape=(3,)), entry(begin=4, end=0), entry("F64"), entry(shape=(1 << 70, 0)),
            entry(shape=(1,) * 60 + (4,)),
        )
    ),
    safetensors({"a": entry(), "b": entry()}, b"1234"),
    safetensors({"a": entry(), "__metadata__": {"k": 3}}, b"1234"),
    safetensors({"a": entry()}, b"123"),
    safetensors({"a": entry()}, b"12345"),
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_safetensors_are_clear_errors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(sa.HeaderError, match="safetensors"):
        sa.share_group("hostile", path)
    assert not sa.exists("hostile")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        sa.share_group("hostile", path)


# -- how it looks ---------------------------------------------------------------------------------------


def test_what_people_see() -> None:
    with sa.share_group(
        "<seen>", {"<rgb>": np.zeros((2, 9, 9, 3), "u1"), "t": [1.5, 2]}, {"<k>": "<v>"}
    ) as group:
        text = repr(group)
        assert "<rgb>" in text
        assert "(2, 9, 9, 3)" in text
        page = group._repr_html_()
        assert "&lt;rgb&gt;" in page
        assert "<rgb>" not in page
        assert "&lt;k&gt;" in page
        assert "Data variables" in page
        assert "1.5" in page
        (block,) = sa.blocks()
        assert block.kind == "group"
        assert block.members is not None
        assert {name: shape for name, (shape, _) in block.members.items()} == {
            "<rgb>": (2, 9, 9, 3),
            "t": (2,),
        }
        assert len({block}) == 1
        assert "2 members" in sa.blocks()._repr_html_()


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert _cli.main(arguments) == 0
    return capsys.readouterr().out


def test_the_command_line_lists_the_members(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with sa.group("shown", CAMERA):
        listed = command(capsys, "ls").splitlines()
        assert len([line for line in listed if "shown" in line]) == 1
        info = command(capsys, "info", "shown")
        assert "rgb  (10, 48, 64, 3)  uint8" in info
        assert "sharedarray.attach('shown')" in info
        assert json.loads(command(capsys, "info", "shown", "--json"))["members"]["t"] == {
            "shape": [10],
            "dtype": "float64",
        }
        path = str(tmp_path / "shown.npy")
        command(capsys, "cp", "shown", path)
        assert "group of 2 members" in command(capsys, "load", path, "--name", "loaded")
        loaded: Any = sa.attach("loaded")
        assert list(loaded) == ["rgb", "t"]
        loaded.unlink()
        loaded.close()


def test_attributes_of_one_opened_group_are_not_those_of_another() -> None:
    values = {"a": np.zeros(3)}
    with sa.share_group("listed", values, attrs={"steps": [1]}), sa.attach("listed") as first:
        first.attrs["steps"].append(2)
        with sa.attach("listed") as second:
            assert second.attrs["steps"] == [1]
            second.attrs["steps"].append(3)
            with sa.attach("listed") as third:
                assert third.attrs["steps"] == [1]
        assert first.attrs["steps"] == [1, 2]


def test_a_damaged_npz_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.npz"
    np.savez(path, a=np.arange(1000))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255  # within the data, so that the checksum is wrong
    for content in (whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(sa.HeaderError, match="no usable npz file") as caught:
            sa.share_group(None, path)
        assert caught.value.next_step == "write or copy the file again"


@pytest.mark.parametrize("name", [None, "", 0, 5, "rows"])
def test_frames_keep_the_names_of_their_indexes(name: Any) -> None:
    pandas = pytest.importorskip("pandas")
    for index in ([0, 1], [7, 8]):
        frame = pandas.DataFrame({"a": [1.0, 2.0]}, index=pandas.Index(index, name=name))
        frame.columns.name = name
        with sa.share_group(None, frame) as group:
            found = group.to_pandas()
            assert (found.index.name, found.columns.name) == (name, name)
            assert found.index.tolist() == index


def uses(path: Path) -> None:
    """Open what may be a group, and look at all of it."""
    with sa.open(path, "r") as found:
        if isinstance(found, sa.Group):
            for array in found.values():
                array.tobytes()
            assert repr(found)
            assert len(found.dims) + len(found.attrs) < 10


@pytest.mark.parametrize("how", ["flips", "cuts", "noise"])
def test_fuzzed_indexes_are_clear_errors(how: str, tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.npy"
    arrays = {f"m{number}": np.arange(number + 1.0) for number in range(4)}
    sa.share_group(None, arrays, {"k": [1, "x"]}, dims={"m0": "t"}, file=path).close()
    whole = path.read_bytes()
    length = int.from_bytes(whole[PAGE + 8 : PAGE + 16], "little")
    begin = PAGE + 24
    chance = random.Random(how)
    refused = 0
    for _ in range(60):
        block = bytearray(whole)
        if how == "cuts":
            del block[chance.randrange(PAGE, len(block)) :]
        elif how == "flips":
            for _ in range(chance.randrange(1, 4)):
                block[chance.randrange(PAGE, begin + length)] ^= 1 << chance.randrange(8)
        else:
            at = chance.randrange(PAGE, begin + length)
            noise = chance.randbytes(chance.randrange(1, 40))
            block[at : at + len(noise)] = noise
        if chance.random() < 0.7:  # as if it was made so: the checksum is right
            text = bytes(block[begin : begin + length])
            block[PAGE + 16 : begin] = zlib.crc32(text).to_bytes(8, "little")
        path.write_bytes(block)
        try:
            uses(path)
        except sa.HeaderError:
            refused += 1
    assert refused > 15
