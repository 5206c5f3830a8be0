"""Arrays, groups and logs in files: their versions, on each system, and what is damaged in them."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, Puppet

import sharedarray as sa
from sharedarray._platform import platform


def write(group: Any, value: float) -> None:
    with group.update(timeout=ANSWER) as new:
        new["x"][:] = value
        new["y"][:] = value


READER = """
    import sharedarray as sa
    group = sa.open(PATH, "r+")
    while version := hear():
        group.wait(version, timeout=60)
        whole = group.snapshot()
        say([group.version, whole["x"].min(), whole["x"].max(), whole["y"].min(), whole["y"].max()])
"""


def test_another_process_reads_versions_of_a_group_in_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "net.npy")
    with (
        sa.group(None, {"x": (3000, "f8"), "y": (7, "f8")}, file=path) as group,
        Puppet(f"PATH = {path!r}\n" + textwrap.dedent(READER)) as reader,
    ):
        kept = group.snapshot()
        for version in range(1, 4):
            write(group, version)
            assert reader.ask(version) == [version] + 4 * [version]
        assert not kept["x"].any()
        reader.kill()
        write(group, 4)  # the buffers that the dead process held are free
        write(group, 5)
        del kept


@pytest.mark.skipif(platform.LENGTHENS, reason="blocks get versions here")
def test_blocks_that_keep_their_size_have_no_versions() -> None:
    with sa.zeros(3) as array, sa.group(None, {"x": (3, "f8")}) as group:
        for each in (array, group):
            assert each.version == 0
            for use in (
                each.snapshot,
                lambda each=each: each.update().__enter__(),
                lambda each=each: each.wait(1),
            ):
                with pytest.raises(sa.UnsupportedError, match="make the array with file=, or replace it"):
                    use()


# -- damage ---------------------------------------------------------------------------------------------


def log_in(path: Path) -> None:
    with sa.zeros((0, 3), "i8", file=path, capacity=5000) as log:
        log.append(np.ones((50, 3)))


def use_log(log: Any) -> None:
    log.refresh().tobytes()
    log.append(np.zeros(log.shape[1:], log.dtype), timeout=0.05)
    log.wait(longer_than=1, timeout=0.01)
    for rows in log.follow(timeout=0.01):
        rows.tobytes()
        break


def weights_in(path: Path) -> None:
    with sa.zeros(1000, file=path) as weights, weights.update() as new:
        new += 1


def use_weights(weights: Any) -> None:
    for _ in range(3):
        weights.snapshot().tobytes()
        with weights.update(timeout=0.05) as new:
            new[...] = new.copy()


def group_in(path: Path) -> None:
    with sa.group(None, {"x": ((4, 5), "f4"), "y": (7, "i8")}, file=path, attrs={"a": [1]}) as group:
        write(group, 3)


def use_group(group: Any) -> None:
    if isinstance(group, sa.Group):  # or it is an array of bytes now
        for whole in (group, group.snapshot()):
            for name in whole:
                whole[name].tobytes()
        with group.update(timeout=0.05) as new:
            for name in new:
                new[name][...] = new[name].copy()


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Any], None]]] = {
    "log": (log_in, use_log),
    "weights": (weights_in, use_weights),
    "group": (group_in, use_group),
}
NUMBERS = (0, 1, 2, 7, 255, 1 << 16, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def damaged(good: bytes, chance: random.Random) -> bytes:
    """Return a file with bits flipped, a word of another value, noise, or another length."""
    found = bytearray(good)
    # The header, the index of a group, what is before and behind it, and the control words at either place.
    first = chance.choice([0, 4096, 65536 % len(good), len(good) - 4096])
    at = min(first + chance.randrange(chance.choice([80, 600, 4096])), len(good) - 64)
    how = chance.choice(["flip", "word", "noise", "cut", "longer"])
    if how == "flip":
        found[at] ^= 1 << chance.randrange(8)
    elif how == "word":
        found[at - at % 8 : at - at % 8 + 8] = chance.choice([*NUMBERS, len(good)]).to_bytes(8, "little")
    elif how == "noise":
        found[at : at + 64] = chance.randbytes(64)
    elif how == "cut":
        del found[chance.choice([at, len(good) - 1, len(good) // 2]) :]
    else:
        found += bytes(chance.choice([1, 4096, 65536]))
    return bytes(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_fuzzed_files_are_clear_errors_or_usable(kind: str, count: int, tmp_path: Path) -> None:
    make, use = KINDS[kind]
    make(tmp_path / "good.npy")
    good = (tmp_path / "good.npy").read_bytes()
    for seed in range(count):
        path = tmp_path / f"{seed}.npy"
        path.write_bytes(damaged(good, random.Random(f"{kind} {seed}")))
        try:
            with sa.open(path) as opened:
                repr(opened)
                use(opened)
        except (sa.SharedArrayError, ValueError, TimeoutError, EOFError):
            pass
        path.unlink()
