"""Masked arrays and other subclasses of ndarray over shared memory, by every way but the pool's."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_classes import (
    CASES,
    RECORD,
    Frame,
    Measured,
    Tagged,
    facts,
    facts_there,
    identity,
    in_block,
    is_in_block,
    masked,
    overwrite,
    private,
    tagged,
)
from needs import needs_fork

import sharedarray as sa

# Those whose classes have a place in the tables of other picklers.
BY_REFERENCE = ["masked", "masked, no mask", "masked, hard", "masked by fields", "masked matrix", "matrix"]
BY_REFERENCE += ["recarray", "made anew"]
# Those of which NumPy's own reduction keeps everything.
AS_PICKLED = [*BY_REFERENCE, "masked, with its mask in a block", "its own reduction", "a state in a state"]


def through_a_pipe(value: Any) -> Any:
    one, other = multiprocessing.Pipe()
    with one, other:
        sender = threading.Thread(target=one.send, args=(value,))  # it may be more than a pipe holds
        sender.start()
        found = other.recv()
        sender.join()
    return found


@pytest.mark.parametrize("name", AS_PICKLED)
def test_multiprocessing_carries_class_and_mask(name: str) -> None:
    for size in (8, 10_000):
        sent = CASES[name](size, in_block)
        found = through_a_pipe(sent)
        assert facts(found) == facts(sent)
        if name in BY_REFERENCE:
            assert is_in_block(found)
            np.asarray(found)[...] = np.ones((), found.dtype)
            assert facts(sent)[3] == facts(found)[3]


@pytest.mark.parametrize("name", AS_PICKLED)
def test_other_memory_travels_as_numpy_sends_it(name: str) -> None:
    sent = CASES[name](8, private)
    expected = pickle.loads(pickle.dumps(sent))
    assert facts(through_a_pipe(sent)) == facts(expected)


def test_a_subclass_of_shared_arrays_keeps_its_class() -> None:
    frame = tagged(Frame, sa.share(np.arange(8)))
    found = through_a_pipe(frame[2:])
    assert (type(found), found.name, found.tolist()) == (Frame, frame.name, [2, 3, 4, 5, 6, 7])
    found = through_a_pipe(frame)
    assert found.tag == "m"

    class Later(sa.SharedArray):
        """Defined after every table was filled."""

    globals()["Later"] = Later
    Later.__qualname__ = "Later"
    try:
        assert type(through_a_pipe(sa.share([1]).view(Later))) is Later
    finally:
        del globals()["Later"]


@needs_fork
@pytest.mark.lingers("child")
def test_an_executor_of_the_standard_library() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        for name in ("masked", "masked, hard", "recarray"):
            sent = CASES[name](8, in_block)
            assert executor.submit(facts_there, sent).result() == facts(sent)
            assert facts(executor.submit(identity, sent).result()) == facts(sent)
            executor.submit(overwrite, sent).result()
            assert not any(np.asarray(sent).view("u1"))


@pytest.mark.parametrize("name", CASES)
def test_put_and_get(name: str) -> None:
    for hold in (in_block, private):
        stored = CASES[name](1000, hold)
        held = sa.put({"it": stored})
        assert facts(sa.get(held)["it"]) == facts(stored)


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_and_plain_pickles_are_numpys(way: Callable[[Any], Any]) -> None:
    for name in ("masked", "matrix", "recarray", "its own reduction"):
        sent = CASES[name](8, in_block)
        sent_before = through_a_pipe(sent)  # from then on it remembers how it was sent
        assert facts(way(sent)) == facts(sent_before)
    data = sa.share(np.arange(8.0))
    through_a_pipe(data)
    copied = copy.deepcopy(masked(data, np.arange(8) > 3))
    assert copied.sum() == 6
    assert not np.shares_memory(copied.data, data)


@pytest.mark.parametrize("package", ["loky.backend.reduction", "joblib.externals.loky.backend.reduction"])
def test_loky_carries_class_and_mask(package: str) -> None:
    reduction = pytest.importorskip(package)
    for name in ("masked", "masked, hard", "matrix", "recarray"):
        sent = CASES[name](8, in_block)
        found = pickle.loads(reduction.dumps(sent))
        assert facts(found) == facts(sent)
        assert is_in_block(found)


def test_a_closed_block_travels_with_its_data() -> None:
    for name in ("masked", "recarray", "matrix"):
        sent = CASES[name](8, in_block)
        expected = facts(sent)
        base = sent.data if name == "masked" else sent
        sa.SharedArray.close(np.ndarray.view(base, sa.SharedArray))
        found = through_a_pipe(sent)
        assert facts(found) == expected
        assert not is_in_block(found)


MASKED = [
    masked(np.arange(3), [0, 1, 0]),
    np.ma.masked,
    [masked(np.arange(3), [0, 1, 0]), np.arange(3)],
    [np.arange(3), masked(np.arange(3), False)],
    ([[1, 2, 3]], [masked(np.arange(3), True)]),
    masked(np.zeros(3, RECORD), [(1, 0)] * 3),
]


@pytest.mark.parametrize("values", MASKED)
def test_plain_elements_are_not_made_of_masked_ones(values: Any) -> None:
    before = [block.name for block in sa.blocks()]
    for call in (
        lambda: sa.share(values, name="classes_masked"),
        lambda: sa.share(values, "f4"),
        lambda: sa.full((2, 1, 3), values),
        lambda: sa.full((2, 1, 3), values, "f8"),
        lambda: sa.full_like(np.zeros((2, 1, 3)), values),
    ):
        with pytest.raises(sa.MaskedArrayError, match=r"mask would be lost.*\.filled.*two arrays") as caught:
            call()
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ValueError)
    assert [block.name for block in sa.blocks()] == before


def test_a_mask_that_is_not_there_is_not_lost() -> None:
    assert sa.share(np.ma.array([1, 2])).tolist() == [1, 2]
    assert sa.zeros_like(masked(np.arange(3), True)).tolist() == [0, 0, 0]  # takes shape and dtype alone
    two = sa.share(np.arange(3)), sa.share(np.array([False, True, False]))
    assert masked(*two).sum() == 2


def test_metadata_stays_with_the_array_and_not_with_the_block() -> None:
    enum = np.dtype("i4", metadata={"enum": {"RED": 0}})
    nested = np.dtype([("a", enum), ("b", "f8")])
    for size in (3, 100_000):
        for made in (sa.share(np.zeros(size, enum)), sa.empty(size, enum), sa.full(size, 3, enum)):
            assert made.dtype.metadata == {"enum": {"RED": 0}}
            assert through_a_pipe(made[1:]).dtype.metadata == {"enum": {"RED": 0}}
            assert pickle.loads(pickle.dumps(made.reference())).attach().dtype.metadata
            assert not sa.attach(made.name).dtype.metadata
        for _ in range(2):  # each time
            with pytest.warns(UserWarning, match="stores no metadata"):
                sa.zeros(size, nested, name="classes_metadata").close()
    made = sa.zeros(3, nested)
    assert made.dtype["a"].metadata
    assert sa.attach(made.name).dtype == nested


def test_records_and_alignment_stay_with_the_array() -> None:
    record = sa.share(np.zeros(3, np.dtype((np.record, RECORD))))
    assert record[0].a == 0
    assert through_a_pipe(record)[0].b == 0
    aligned = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    assert sa.zeros(3, aligned).dtype.isalignedstruct


@pytest.mark.lingers("thread")
def test_classes_that_multiprocessing_does_not_know_keep_their_own_way() -> None:
    own = tagged(Measured, sa.share(np.arange(8)))
    assert facts(through_a_pipe(own)) == facts(own)
    plain = tagged(Tagged, np.arange(8))
    assert type(through_a_pipe(plain)) is Tagged


def test_a_masked_array_over_a_map_of_a_file_travels_without_the_map(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", "f8", "w+", shape=(8,))
    mapped[:] = np.arange(8)
    held = sa.put(masked(mapped, np.arange(8) > 3))
    assert sa.get(held).sum() == 6
