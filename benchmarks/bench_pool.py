"""What does the pool itself cost, beside Python's own pools and beside the least that a task can cost?

The rows are those of `sharedarray._bench.rows`, which ``sharedarray bench --pool`` measures with fewer
rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from conftest import QUICK

from sharedarray._bench.race import Race
from sharedarray._bench.rows import ROWS, TINY, Scale

SCALE = TINY if QUICK else Scale(1.0, 15)


@pytest.mark.parametrize("row", ROWS)
def test_row(races: Callable[[Iterable[Race]], None], row: str) -> None:
    races(ROWS[row](SCALE))
