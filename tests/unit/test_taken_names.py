"""A name that is taken: what the error says, and what `exist_ok` and `replace` do instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    FORKS,
    Puppet,
    block_files,
    blocks_are_files,
    directory,
    janitor_needed,
    notes,
    nothing_left,
    wait_until,
)
from needs import few

import sharedarray as sa

MAKERS: dict[str, Callable[..., sa.SharedArray]] = {
    "empty": lambda **options: sa.empty((2, 3), "f4", **options),
    "zeros": lambda **options: sa.zeros((2, 3), "f4", **options),
    "ones": lambda **options: sa.ones((2, 3), "f4", **options),
    "full": lambda **options: sa.full((2, 3), 7, "f4", **options),
    "empty_like": lambda **options: sa.empty_like(np.zeros((2, 3), "f4"), **options),
    "zeros_like": lambda **options: sa.zeros_like(np.zeros((2, 3), "f4"), **options),
    "ones_like": lambda **options: sa.ones_like(np.zeros((2, 3), "f4"), **options),
    "full_like": lambda **options: sa.full_like(np.zeros((2, 3), "f4"), 7, **options),
    "share": lambda **options: sa.share(np.full((2, 3), 9, "f4"), **options),
    "share_converted": lambda **options: sa.share(np.full((2, 3), 9), "f4", **options),
    "broadcast": lambda **options: sa.full((2, 3), [1, 2, 3], "f4", **options),
    "SharedArray": lambda **options: sa.SharedArray((2, 3), "f4", **options),
}
everywhere = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@everywhere
def test_the_error_says_what_to_do(make: Callable[..., sa.SharedArray]) -> None:
    first = make(name="x")
    with pytest.raises(FileExistsError) as caught:
        make(name="x")
    text = str(caught.value)
    for word in ("'x'", "attach", "unlink", "exist_ok=True", "replace=True", "this process holds it"):
        assert word in text
    del first
    make(name="x")  # the name is free again with its last holder


def test_others_are_not_told_of_options_that_they_lack() -> None:
    with sa.Segment.create(10, "x"):
        with pytest.raises(sa.BlockExistsError) as caught:
            sa.Segment.create(10, "x")
        assert "exist_ok" not in str(caught.value)


# -- exist_ok -------------------------------------------------------------------------------------------


@everywhere
def test_exist_ok_makes_and_finds(make: Callable[..., sa.SharedArray]) -> None:
    first = make(name="x", exist_ok=True)
    first[0, 0] = 42
    before = np.array(first)
    second = make(name="x", exist_ok=True)
    assert np.array_equal(second, before)  # the elements are left as they are
    second[1, 2] = 43
    assert first[1, 2] == 43
    assert second.mode == "r+"
    first.close()
    assert sa.exists("x")
    second.close()
    assert nothing_left()


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (lambda: sa.zeros((3, 2), "f4", name="x"), "shape (3, 2)"),
        (lambda: sa.zeros((2, 3), "f8", name="x"), "dtype float64"),
        (lambda: sa.zeros((2, 3), ">f4", name="x"), "dtype >f4"),
        (lambda: sa.zeros((2, 3), "f4", "F", name="x"), "order F"),
        (lambda: sa.Segment.create(24, "x"), "something else than an array"),
    ],
)
def test_exist_ok_finds_nothing_but_such_an_array(other: Callable[[], Any], found: str) -> None:
    there = other()
    with pytest.raises(sa.BlockExistsError) as caught:
        sa.zeros((2, 3), "f4", name="x", exist_ok=True)
    assert found in str(caught.value)
    assert sa.exists("x")
    there.close()
    assert nothing_left()


def test_exist_ok_takes_orders_that_are_one() -> None:
    with sa.zeros((1, 5), order="F", name="x"):
        sa.zeros((1, 5), order="C", name="x", exist_ok=True).close()
        sa.zeros((1, 5), order="F", name="x", exist_ok=True).close()


def test_exist_ok_and_persistence() -> None:
    first = sa.zeros(3, name="x", persist=not blocks_are_files())  # what is a file can be made to persist
    if not blocks_are_files():
        first.persist(False)
    sa.zeros(3, name="x", persist=True, exist_ok=True)
    first.close()
    assert sa.exists("x")
    with sa.zeros(3, name="x", exist_ok=True) as again:  # not asked for: nothing changes
        assert sa.blocks()[0].persistent
        again[:] = 5
    assert sa.attach("x")[0] == 5
    sa.unlink("x")


def test_exist_ok_with_a_file_of_somebodys(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    with sa.ones(3, file=file, exist_ok=True) as first:
        first[0] = 7
    with sa.ones(3, file=file, exist_ok=True) as again:
        assert again.tolist() == [7, 1, 1]
    with pytest.raises(sa.BlockExistsError, match="shape"):
        sa.ones(4, file=file, exist_ok=True)
    np.save(os.path.join(directory(), "theirs.npy"), np.arange(3.0))
    with sa.zeros(3, name="theirs.npy", persist=True, exist_ok=True) as theirs:
        assert theirs.tolist() == [0, 1, 2]
    os.unlink(os.path.join(directory(), "theirs.npy"))


def test_exist_ok_without_a_name_is_a_new_array() -> None:
    assert sa.zeros(3, exist_ok=True).name != sa.zeros(3, exist_ok=True).name


def test_exist_ok_of_many_one_makes_it() -> None:
    """Each adds one, under a lock: where two had made it, or one had made it anew, some would be lost."""
    script = """
        import numpy as np
        hear()
        for turn in range(60):
            counts = sa.zeros(1, int, name=f"counts_{turn}", exist_ok=True)
            with counts.lock():
                counts += 1
            say(); hear()
            del counts
        say(); hear()
    """
    with Puppet(script) as a, Puppet(script) as b, Puppet(script) as c:
        all_three = (a, b, c)
        for turn in range(60):
            for each in all_three:
                each.say()
            for each in all_three:
                each.hear()
            assert sa.attach(f"counts_{turn}").tolist() == [3]
        for each in all_three:
            each.say()
        for each in all_three:
            each.hear()
            each.end()
    assert nothing_left()


@pytest.mark.parametrize("turns", few([500, 2000]))
def test_exist_ok_while_others_come_and_go(turns: int) -> None:
    """The name appears and vanishes all the time; every call gives an array that has the name's memory."""
    script = """
        say()
        while True:
            with sa.zeros(4, name="flickers", exist_ok=True) as a:
                assert not a.closed and a.shape == (4,)
    """
    with Puppet(script) as a, Puppet(script) as b:
        a.hear()
        b.hear()
        for _ in range(turns if FORKS else 150):  # without fork, each takes longer as well
            with sa.zeros(4, name="flickers", exist_ok=True) as found:
                assert found.shape == (4,)
        assert a.process.poll() is None
        assert b.process.poll() is None
        a.kill()
        b.kill()
    wait_until(nothing_left, "what the killed had is gone")


def test_exist_ok_does_not_take_over_what_the_dead_have_left(own_directory: str) -> None:
    """Without a janitor, a block of killed processes stays; asking for its name gives a new one."""
    from helpers import kill_janitors

    with Puppet("a = sa.full(3, 9, name='x'); say(); hear()") as dead:
        dead.hear()
        kill_janitors(own_directory)
        dead.kill()
    assert block_files(own_directory) == ({"x"} if janitor_needed() else set())
    for options in ({"exist_ok": True}, {"replace": True}, {}):
        assert sa.zeros(3, int, name="x", **options).tolist() == [0, 0, 0]


# -- replace --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other() -> Iterator[Puppet]:
    """Another process, which opens the block of the name x, says what is in it, and closes it."""
    script = """
    say()
    while True:
        hear(); theirs = sa.attach('x'); say()
        hear(); say(float(theirs[0, 0]))
        hear(); theirs.close(); say()
    """
    with Puppet(script) as puppet:
        puppet.hear()  # it is there, and is what it will be, before a test looks at which processes there are
        yield puppet


@everywhere
def test_replace_makes_a_new_one(make: Callable[..., sa.SharedArray], other: Puppet) -> None:
    fresh = np.array(make())
    old = make(name="x", replace=True)
    old[:] = -5
    other.ask()
    new = make(name="x", replace=True)
    assert np.array_equal(new, fresh)
    assert np.array_equal(sa.attach("x"), fresh)
    assert (old == -5).all()  # a process that holds the old one keeps it
    assert other.ask() == -5
    old.close()
    other.ask()
    assert np.array_equal(sa.attach("x"), fresh)  # the old one's end is not the new one's
    new.close()
    assert nothing_left()


def test_replace_takes_the_name_of_any_block() -> None:
    with sa.zeros(1000, "f8", name="x", persist=True), sa.share([1, 2, 3], name="x", replace=True) as new:
        assert sa.attach("x").tolist() == [1, 2, 3]
        assert not sa.blocks()[0].persistent
        new.close()
        assert nothing_left()
    with sa.Segment.create(24, "x") as segment, sa.zeros(3, name="x", replace=True):
        segment.buf[:3] = b"old"
        assert sa.attach("x").shape == (3,)


def test_replace_leaves_what_is_not_ours() -> None:
    path = os.path.join(directory(), "theirs")
    Path(path).write_text("a user's own")
    with pytest.raises(sa.NotOursError):
        sa.zeros(3, name="theirs", replace=True)
    assert Path(path).read_text() == "a user's own"
    os.unlink(path)
    assert not notes()


def test_replace_that_fails_leaves_the_old_one() -> None:
    old = sa.ones(3, name="x")
    with pytest.raises(sa.OutOfSharedMemoryError):
        sa.zeros(1 << 50, name="x", replace=True)
    with pytest.raises(sa.UnsupportedDTypeError):
        sa.zeros(3, object, name="x", replace=True)
    assert sa.attach("x").tolist() == old.tolist() == [1, 1, 1]


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="replace=True"):
        sa.zeros(3, name="x", exist_ok=True, replace=True)
    with pytest.raises(ValueError, match="replace=True"):
        sa.zeros(3, file=tmp_path / "x.npy", replace=True)
    assert nothing_left()


@pytest.mark.parametrize("turns", few([60, 300]))
def test_replace_leaves_no_moment_without_the_name(turns: int) -> None:
    """A process that attaches while others replace gets one of the arrays, whole."""
    script = """
        hear()
        turn = 0
        while not sa.exists("enough"):
            mine = sa.full(1000, turn, name="contested", replace=True)
            turn += 1
        say(); hear()
    """
    first = sa.full(1000, -1, name="contested")
    with Puppet(script) as a, Puppet(script) as b:
        for each in (a, b):
            each.say()
        found = set()
        while len(found) < turns:
            with sa.attach("contested", "r") as seen:
                values = set(seen.tolist())
            assert len(values) == 1
            found |= values
        with sa.zeros(1, name="enough"):
            for each in (a, b):
                each.hear()
        assert len(sa.blocks()) == len(block_files()) == 1
        for each in (a, b):
            each.end()
    first.close()
    assert nothing_left()


@pytest.mark.parametrize("turns", few([50, 200]))
def test_replace_of_many_the_last_has_the_name(turns: int) -> None:
    """Three replace at once, again and again; each has its own array, and one of them has the name."""
    script = """
        hear()
        for turn in range(int(sys.argv[1])):
            mine = sa.full(1000, os.getpid(), name="contested", replace=True)
            assert (mine == os.getpid()).all()
        say(); hear()
    """
    with Puppet(script, turns) as a, Puppet(script, turns) as b, Puppet(script, turns) as c:
        for each in (a, b, c):
            each.say()
        for each in (a, b, c):
            each.hear()
        winner = sa.attach("contested", "r")
        assert set(winner.tolist()) <= {a.pid, b.pid, c.pid}
        assert len(set(winner.tolist())) == 1
        assert len(sa.blocks()) == len(block_files()) == 1
        winner.close()
        for each in (a, b, c):
            each.end()
    assert nothing_left()
