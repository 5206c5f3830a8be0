"""The waker of the pool's thread writes nowhere else, whenever it is used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import sharedarray as sa
from sharedarray._pipes import Waker


def test_a_waker_that_is_used_after_its_end_writes_nowhere(tmp_path: Path) -> None:
    waker = Waker()
    waker.wake()
    waker.drain()
    waker.close()
    handles = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR) for number in range(8)]
    try:  # which have the descriptors that the waker had
        waker.wake()
        assert not any(os.fstat(handle).st_size for handle in handles)
    finally:
        for handle in handles:
            os.close(handle)


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
def test_what_outlives_a_pool_does_not_harm_the_next_blocks() -> None:
    """Results that are dropped after their pool's end wake it; by then, blocks have its descriptors."""
    with sa.Pool(1) as pool:
        kept = list(pool.map(np.ones, [100_000] * 3))
    blocks = [sa.zeros(10, name=f"block_{number}") for number in range(12)]
    del kept, pool
    for number, block in enumerate(blocks):
        with sa.attach(f"block_{number}") as again:  # whose header is whole
            assert again.shape == block.shape
