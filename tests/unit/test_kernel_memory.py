"""Blocks that are memory of the kernel's: names, what is told of a block in the making, who frees it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Puppet, block_files, blocks_are_files, directory, inode, nothing_left

import sharedarray as sa
from sharedarray import _segment as segment

pytestmark = pytest.mark.skipif(blocks_are_files(), reason="blocks are files here")


@pytest.mark.parametrize(
    "name", ["NUL", "con.txt", "COM1", "lpt9.x", "a:b", "a*", 'a"b', "end.", "end ", "a|b"]
)
def test_names_that_files_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(sa.InvalidNameError):
        sa.zeros(3, name=name)
    assert nothing_left()


def test_names_that_differ_in_case_are_two() -> None:
    with sa.full(3, 1, name="Frames") as one, sa.full(3, 2, name="frames") as two:
        assert (sa.attach("Frames")[0], sa.attach("frames")[0]) == (one[0], two[0]) == (1, 2)
        with pytest.raises(sa.BlockNotFoundError):
            sa.attach("FRAMES")


def test_a_block_in_the_making_is_told_of() -> None:
    seen = []

    def fill(write: segment.Write) -> None:
        with pytest.raises(sa.BlockNotFoundError, match="still being made"):
            sa.attach("slow")
        with pytest.raises(sa.BlockExistsError):
            sa.zeros(3, name="slow")
        seen.append(sa.exists("slow"))
        write(0, [memoryview(b"whole")])

    mapping = segment.create(5, segment.BlockOptions("slow"), fill=fill)
    assert seen == [False]
    assert bytes(segment.attach("slow")[:]) == b"whole"
    mapping.release()


def test_making_that_fails_frees_the_name() -> None:
    def fill(write: segment.Write) -> None:
        raise KeyError("no data")

    with pytest.raises(KeyError):
        segment.create(5, segment.BlockOptions("slow"), fill=fill)
    sa.zeros(3, name="slow").close()


def test_unlinked_blocks_of_one_name_live_side_by_side() -> None:
    held = []
    for number in range(5):
        held.append(sa.full(4, number, name="again"))
        held[-1].unlink()
        assert not sa.exists("again")
    assert [array[0] for array in held] == list(range(5))
    with sa.full(4, 9, name="again"):
        assert sa.attach("again")[0] == 9


def test_the_kernel_frees_a_killed_holders_block() -> None:
    with Puppet("a = sa.ones((300, 300), name='left'); b = a[1:]; say(sa.exists('left')); hear()") as other:
        assert other.hear() is True
        assert inode("left") is not None
        other.kill()
    assert inode("left") is None
    assert not sa.exists("left")
    assert block_files() == set()


def test_what_persists_is_a_file_that_numpy_reads() -> None:
    sa.share(np.arange(6.0), name="kept", persist=True).close()
    assert np.load(f"{directory()}/kept").tolist() == list(range(6))
    with sa.attach("kept") as array:
        array[0] = 5
        with pytest.raises(sa.BlockExistsError):
            sa.zeros(3, name="kept")
    sa.unlink("kept")


def test_sizes_are_exact() -> None:
    for size in (1, 4095, 4096, 4097, 70_000):
        with sa.Segment.create(size, name="exact"):
            assert sa.Segment.attach("exact").size == size
