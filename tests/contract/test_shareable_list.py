"""`ShareableList`: CPython's layout, which its class reads, without losing what is stored.

What CPython's own tests say of it is in `test_cpython_shared_memory`. Here CPython's class reads and writes
the same bytes: its blocks are replaced by ours, so that no block of this session is anywhere but in its own
directory.
"""

from __future__ import annotations

import enum
import itertools
import operator
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory as cpython
from typing import Any

import numpy as np
import pytest
from helpers import Puppet, block_files, nothing_left
from hypothesis import HealthCheck, example, given, settings, strategies as st
from needs import many_starts

import sharedarray as sa
from sharedarray import _shareable as shareable

MIXED = ["howdy", b"HoWdY", -273.154, 100, None, True, 42]


@pytest.fixture
def shared() -> Iterator[Callable[..., sa.ShareableList[Any]]]:
    """Make lists that are unlinked in the end."""
    made: list[sa.ShareableList[Any]] = []

    def make(*arguments: Any, **options: Any) -> sa.ShareableList[Any]:
        made.append(sa.ShareableList(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.shm.close()
        try:
            each.shm.unlink()
        except FileNotFoundError:
            pass


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """CPython's class, with its code for what the bytes mean, on our blocks."""
    monkeypatch.setattr(cpython, "SharedMemory", sa.SharedMemory)
    return cpython.ShareableList


def read(block: bytes) -> list[Any]:
    """Return what is in such a block."""
    view = memoryview(block)
    layout = shareable.decode(view, "x")
    return [shareable.read(view, layout, position, "x") for position in range(layout.count)]


# -- the bytes ------------------------------------------------------------------------------------------

FROZEN = (
    "0700000000000000"  # 7 items
    "0000000000000000" "0800000000000000" "1000000000000000" "1800000000000000"  # where their slots start
    "2000000000000000" "3000000000000000" "3800000000000000" "4000000000000000"  # and the last one ends
    "ffffffffffffffff"  # -1
    "000000000000f83f"  # 1.5
    "0000000000000001"  # True
    "0000000000000000"  # None
    "e697a5e69cace8aa" "9e00000000000000"  # 日本語 and a NUL
    "6162000000000000"  # b"ab" and two NULs
    "ffffffffffffffff"  # 2**64 - 1
    "7100000000000000"  # q
    "6400000000000000"  # d
    "787878787878783f"  # xxxxxxx?
    "7878787878783f78"  # xxxxxx?x
    "3130737800000000"  # 10sx
    "3473780000000000"  # 4sx
    "5100000000000000"  # Q
    "00" "00" "00" "03" "01" "00" "00"  # codes
)  # fmt: skip


def test_the_bytes_are_these():
    values = [-1, 1.5, True, None, "日本語\0", b"ab\0\0", 2**64 - 1]
    assert shareable.encode(values).hex() == FROZEN
    assert read(bytes.fromhex(FROZEN)) == values


def _plain(text: Any) -> bool:
    return not isinstance(text, str | bytes) or not text.endswith("\0" if isinstance(text, str) else b"\0")


VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.sampled_from(
        ["", b"", "\0", b"\0", "a\0", b"a\0" * 8, "é" * 8, "日本語" * 3, "💥 💥", b"1234567", "12345678"]
    ),
)


@given(st.lists(VALUES, max_size=12))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([])
def test_what_is_stored_is_what_is_read(values):
    """gh-106939, gh-96779, gh-145261, gh-88336; type and value."""
    block = shareable.encode(values)
    found = read(block)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
    assert read(block + bytes(4096)) == values  # where blocks are whole pages


@given(st.lists(VALUES.filter(lambda value: isinstance(value, str) <= str(value).isascii()), max_size=12))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_bytes_are_cpythons_wherever_it_can_store_the_values(values):
    values = [value for value in values if _plain(value) and (type(value) is not int or value < 2**63)]
    made: list[Any] = []

    class Plain:
        """Enough of a block for CPython's class."""

        def __init__(self, name: Any, create: bool = False, size: int = 0) -> None:
            self.buf = memoryview(bytearray(size))
            made.append(self.buf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpython, "SharedMemory", Plain)
        cpython.ShareableList(values)
    assert bytes(made[0]) == shareable.encode(values)


# -- read and written by CPython's class -------------------------------------------------------------------


def _as_cpython_reads(value: Any) -> Any:
    return value.rstrip("\0") if isinstance(value, str) else value


@pytest.mark.parametrize(
    "make",
    [
        lambda: MIXED,
        list,
        lambda: ["a\0", b"a\0", b"\0", "\0\0", b"1234567\0", "日本語\0", b"\0" * 100, b"a\0b"],
        lambda: ["日本語" * 10, "💥" * 7, "é" * 8],
        lambda: [2**63, 2**64 - 1, -(2**63), 2**63 - 1],
        lambda: [b"x" * 999_998 + b"\0", b"y" * 999_999 + b"\0", "z" * 999_998 + "\0", 1],
        lambda: ["x" * 9_999_991, b"y" * 9_999_990 + b"\0", 2],
    ],
    ids=["mixed", "empty", "NULs", "outside ASCII", "large ints", "large texts", "the largest texts"],
)
def test_cpythons_class_reads_ours(shared, theirs, make):
    """Bytes arrive whole, NULs and all; a str loses NULs at its end, as all do there."""
    values = make()
    ours = shared(values)
    other = theirs(name=ours.shm.name)
    assert len(other) == len(values)
    assert list(other) == [_as_cpython_reads(value) for value in values]
    assert list(ours) == values
    assert other.format == ours.format
    other.shm.close()


def test_ours_reads_cpythons(theirs):
    other = theirs(MIXED)
    ours = sa.ShareableList(name=other.shm.name)
    assert list(ours) == MIXED
    ours[2] = "dry ice"
    ours[0] = b"1\0"
    assert (other[2], other[0]) == ("dry ice", b"1\0")
    other[0] = "12345678"
    other[3] = None
    assert list(ours)[:4] == ["12345678", b"HoWdY", "dry ice", None]
    ours.shm.close()
    other.shm.close()
    other.shm.unlink()


@pytest.mark.parametrize("first", [b"1234\0\0", "12\0", b"\0", "日本\0", b"1234567\0", 2**64 - 1, "x"])
@pytest.mark.parametrize("second", [b"", "", b"12345678", "12345678", b"1", 5, 2.5, True, None, "日本"])
def test_what_cpython_writes_over_ours_is_what_ours_reads(shared, theirs, first, second):
    """Nothing that was noted of the value before is taken for one of the new value."""
    ours = shared(["before", first, "behind\0"])
    other = theirs(name=ours.shm.name)
    other[1] = second
    assert list(ours) == ["before", second, "behind\0"]
    assert other[1] == second
    ours[1] = first
    assert other[1] == _as_cpython_reads(first)
    assert list(ours) == ["before", first, "behind\0"]
    other.shm.close()


def test_text_that_cpython_has_cut_off_is_an_error_that_says_so(theirs):
    """gh-145261: its slots are measured in characters."""
    other = theirs(["before", "0\U00010000\U00010000", "日本語日本語", "behind"])
    ours = sa.ShareableList(name=other.shm.name)
    assert (ours[0], ours[3]) == ("before", "behind")
    for position in (1, 2):
        with pytest.raises(sa.HeaderError, match="CPython's class cuts off text") as caught:
            ours[position]
        assert isinstance(caught.value, ValueError)
    ours[1] = "日本"
    assert other[1] == "日本"
    ours.shm.close()
    other.shm.close()
    other.shm.unlink()


# -- what may be stored ------------------------------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 3


class Word(str):
    def encode(self, *arguments: Any) -> bytes:
        return b"something else"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Colour.RED, 3),
        (Word("red"), "red"),
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.int64(-7), -7),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.bytes_(b"x"), b"x"),
    ],
)
def test_other_classes_are_stored_as_what_they_refine(shared, value, stored):
    items = shared([value, None])
    items[1] = value
    assert list(items) == [stored, stored]
    assert type(items[0]) is type(items[1]) is type(stored)


@dataclass
class Wide:
    """A text of ten million of a letter, which a parameter would keep in memory during all tests."""

    letter: str | bytes


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (2**64, OverflowError, "65 bits"),
        (-(2**63) - 1, OverflowError, "64 bits"),
        (10**5000, OverflowError, "str(value)"),
        ([], TypeError, "type list"),
        (1j, TypeError, "type complex"),
        (bytearray(b"x"), TypeError, "type bytearray"),
        (np.datetime64("2026"), TypeError, "type date"),
        (object(), TypeError, "type object"),
        ("\ud800", UnicodeEncodeError, "surrogates"),
        (Wide("x"), ValueError, "widest has 9999999"),
        (Wide(b"x"), ValueError, "widest has 9999999"),
        ("x" * 999_999 + "\0", ValueError, "ends in NUL"),
    ],
    ids=itertools.count(),
)
def test_what_cannot_be_stored_is_refused_by_its_position(shared, value, kind, words):
    if isinstance(value, Wide):
        value = 9_999_992 * value.letter
    with pytest.raises(kind) as caught:
        sa.ShareableList([1, value])
    assert words in str(caught.value)
    assert "item 1" in str(caught.value) or kind is UnicodeEncodeError
    assert nothing_left()
    items = shared(["x" * 1_000_100])
    if kind in (TypeError, OverflowError):
        with pytest.raises(kind):
            items[0] = value
        assert items[0] == "x" * 1_000_100


def test_any_iterable_will_do(shared):
    assert list(shared(n * n for n in range(5))) == [0, 1, 4, 9, 16]
    assert list(shared("abc")) == ["a", "b", "c"]
    assert list(shared({1: 2})) == [1]
    assert list(shared(np.arange(3))) == [0, 1, 2]
    assert list(shared(shared(MIXED))) == MIXED
    with pytest.raises(TypeError):
        sa.ShareableList(5)
    assert len(block_files()) == 6


# -- assigning ---------------------------------------------------------------------------------------------


def test_anything_that_fits_the_slot_can_be_assigned(shared):
    items = shared(["x" * 15, 0])
    for value in ("y" * 16, b"\0" * 16, "日本語日本", 5, None, 2.5, "", b"", "z" * 15 + "\0", True):
        items[0] = value
        assert items[0] == value
        assert type(items[0]) is type(value)
        assert items[1] == 0
    for value in ("y" * 17, b"\0" * 17, "日本語日本語"):
        with pytest.raises(ValueError, match=r"item 0 exceeds available storage: 1[78] bytes.* slot of 16"):
            items[0] = value
        assert list(items) == [True, 0]


def test_a_long_value_may_end_in_nul_when_it_is_assigned(shared):
    items = shared(["x" * 2_000_000, 7])
    items[0] = b"y" * 1_000_000 + b"\0" * 5
    assert items[0] == b"y" * 1_000_000 + b"\0" * 5
    items[0] = "z" * 1_500_000
    assert items[0] == "z" * 1_500_000
    with pytest.raises(ValueError, match="ends in NUL"):
        items[0] = "z" * 1_500_000 + "\0"
    assert items[0] == "z" * 1_500_000
    assert items[1] == 7


@pytest.mark.parametrize("position", [3, -4, 2**70, -(2**70)])
def test_positions_out_of_range(shared, position):
    items = shared([1, 2, 3])
    with pytest.raises(IndexError):
        items[position]
    with pytest.raises(IndexError):
        items[position] = 0
    assert list(items) == [1, 2, 3]


@pytest.mark.parametrize("position", [1.0, "1", None, slice(0, 2), (1,)])
def test_positions_are_ints(shared, position):
    """CPython's takes a float for an offset in the block (gh PR 129340)."""
    items = shared([1, 2, 3])
    with pytest.raises(TypeError):
        items[position]
    with pytest.raises(TypeError):
        items[position] = 0


# -- a list ------------------------------------------------------------------------------------------------


def test_it_is_like_a_list(shared):
    items = shared(MIXED, name="items")
    assert len(items) == 7
    assert list(items) == list(iter(items)) == MIXED
    assert list(reversed(items)) == MIXED[::-1]
    assert (items[0], items[-1], items[np.int64(2)], items[True]) == ("howdy", 42, -273.154, b"HoWdY")
    assert 42 in items
    assert "42" not in items
    assert items.index(100) == 3
    assert items.index(True) == 5
    with pytest.raises(ValueError, match="'100' is not in this list"):
        items.index("100")
    assert (items.count(42), items.count(b"x"), items.count("howdy")) == (1, 0, 1)
    assert items.format == "8s8sdqxxxxxx?xxxxxxxx?q"
    assert repr(items) == f"ShareableList({MIXED!r}, name='items')"
    assert items.shm.name == "items"
    assert isinstance(items.shm, sa.SharedMemory)
    for method in ("append", "insert", "extend", "pop", "sort", "__delitem__", "__add__"):
        assert not hasattr(items, method)
    assert sa.ShareableList[int].__origin__ is sa.ShareableList


def test_two_lists_over_one_block(shared):
    one = shared(range(5))
    other = sa.ShareableList(name=one.shm.name)
    other[-1] = -999
    one[0] = None
    assert list(one) == list(other) == [None, 1, 2, 3, -999]
    assert one != other  # the same object, as with CPython's
    assert one == one
    assert len({one, other}) == 2
    other.shm.close()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_the_name(shared, protocol):
    class_of = shared(range(3))
    text = pickle.dumps(class_of, protocol)
    other = pickle.loads(text)
    other[1] = "changed"
    assert class_of[1] == "changed"
    assert len(pickle.dumps(shared(range(3000)), protocol)) == len(text)
    other.shm.close()
    class_of.shm.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(text)


def test_making_and_attaching(shared):
    items = shared([1], name="items")
    with pytest.raises(FileExistsError):
        sa.ShareableList([2], name="items")
    with pytest.raises(FileExistsError):
        sa.ShareableList([], name="/items")
    assert list(shared()) == list(shared(None)) == list(shared([])) == []
    with pytest.raises(FileNotFoundError):
        sa.ShareableList(name="other")
    with pytest.raises(sa.InvalidNameError):
        sa.ShareableList([1], name="a/b")
    other = sa.ShareableList(name="/items")
    assert list(other) == [1]
    other.shm.close()
    assert list(items) == [1]


def test_a_closed_list_says_so(shared):
    items = shared([1, 2])
    items.shm.close()
    for use in (
        lambda: items[0],
        lambda: list(items),
        lambda: items.format,
        lambda: operator.setitem(items, 0, 1),
    ):
        with pytest.raises(sa.BlockClosedError, match="is closed"):
            use()
    assert len(items) == 2


# -- data from outside --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        b"x",
        bytes(7),
        struct.pack("q", 0),
        struct.pack("q", -1) + bytes(100),
        struct.pack("q", 2**62) + bytes(100),
        struct.pack("qqq", 1, 0, 8),
        struct.pack("qqq", 1, 0, 8) + bytes(16),
        struct.pack("qqq", 1, 8, 8) + bytes(100),
        struct.pack("qqqq", 2, 0, 16, 8) + bytes(100),
        struct.pack("qqqq", 2, 0, -8, 8) + bytes(100),
        struct.pack("qqq", 1, 0, 2**63 - 1) + bytes(100),
        b"\x93NUMPY\x01\x00" + bytes(4088),
    ],
)
def test_a_block_that_is_no_list_is_refused(block):
    made = sa.SharedMemory(create=True, size=len(block))
    made.buf[:] = block
    with pytest.raises(sa.HeaderError, match="is no ShareableList"):
        sa.ShareableList(name=made.name)
    assert bytes(sa.SharedMemory(made.name).buf) == block
    made.close()
    assert not any(found.held for found in sa.blocks())
    made.unlink()


def test_an_array_is_no_list():
    with sa.share(np.arange(1000), name="array") as array:
        with pytest.raises(sa.HeaderError, match=r"sharedarray\.attach"):
            sa.ShareableList(name="array")
        assert array[999] == 999


def test_whatever_is_in_a_block_is_a_value_or_an_error():
    """Random damage to lists: nothing but `HeaderError` is raised, and nothing crashes."""
    chance = random.Random(5)
    outcomes = {"read": 0, "refused": 0, "bad item": 0, "bad block": 0}
    source = shareable.encode([*MIXED, "日本語\0", b"\0" * 30, 2**64 - 1, "x" * 40])
    words = [
        b"q",
        b"8s",
        b"9999999s",
        b"0s",
        b"00s",
        b"-1s",
        b"1sx",
        b"999999sx",
        b"8x",
        b"",
        b"@",
        b"\xff" * 8,
        b"P",
    ]
    for _ in range(6000):
        block = bytearray(source)
        for _ in range(chance.randrange(1, 4)):
            at = chance.choice([chance.randrange(len(block) - 8), 8 * chance.randrange(14)])
            block[at : at + 8] = chance.choice(
                [
                    chance.randbytes(8),
                    chance.choice(words).ljust(8, b"\0"),
                    struct.pack("q", chance.randrange(-9, 199)),
                ]
            )
        view = memoryview(block)[: chance.choice([len(block), chance.randrange(len(block))])]
        try:
            layout = shareable.decode(view, "x")
        except sa.HeaderError:
            outcomes["bad block"] += 1
            continue
        for position in range(layout.count):
            try:
                value = shareable.read(view, layout, position, "x")
                assert value is None or isinstance(value, int | float | str | bytes)
                outcomes["read"] += 1
            except sa.HeaderError:
                outcomes["bad item"] += 1
            shareable.format_of(view, layout, position)
            slot = layout.starts[position + 1] - layout.starts[position]
            try:
                item = shareable.encode_item(chance.choice(["x", 5, b"", None]), slot, position)
            except ValueError:
                outcomes["refused"] += 1
            else:
                shareable.write(view, layout, position, item)
    assert min(outcomes.values()) > 5, outcomes


def test_damage_after_attaching_is_an_error(shared):
    items = shared([1, "two", 3])
    block = sa.SharedMemory(items.shm.name)
    block.buf[:] = b"\xff" * block.size
    assert len(items) == 3
    for position in range(3):
        with pytest.raises(sa.HeaderError, match=f"item {position}"):
            items[position]
    items[1] = "new"
    assert items[1] == "new"
    block.buf[:] = bytes(block.size)
    with pytest.raises(sa.HeaderError):
        list(items)
    block.close()


@many_starts
def test_a_list_is_published_whole(own_directory):
    """gh-81833: who attaches by name sees all of the list or nothing."""
    with Puppet(
        """
        values = [*range(200), "text" * 50, "日本語\\0"]
        say()
        while True:
            made = sa.ShareableList(values, name="whole")
            made.shm.close()
            made.shm.unlink()
        """
    ) as maker:
        maker.hear()
        whole = [*range(200), "text" * 50, "日本語\0"]
        seen = 0
        while seen < 150:
            try:
                found = sa.ShareableList(name="whole")
            except FileNotFoundError:
                continue
            assert list(found) == whole
            found.shm.close()
            seen += 1
        maker.kill()
    try:
        sa.SharedMemory("whole").unlink()
    except FileNotFoundError:
        pass
