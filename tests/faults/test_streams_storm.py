"""Producer and consumers of a stream are killed again and again: nothing is torn, lost, or stuck.

`stream_storm` says how to run longer storms.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers import ANSWER, FORKS, SIGNALS, notes, wait_until
from stream_storm import HANDS, Storm, count_hand_overs

pytestmark = pytest.mark.skipif(not (FORKS and SIGNALS), reason="needs fork and signals")


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


def ways(full: str, *modes: str) -> Any:
    return pytest.param(full, list(modes), id=f"{full}, {', '.join(modes)}")


@pytest.mark.parametrize(
    ("full", "modes"),
    [
        ways("wait", "each", "batches", "asyncio", "latest"),
        ways("drop_oldest", "lossy", "lossy batches", "lossy keeping", "latest"),
    ],
)
def test_kills_leave_whole_items_in_order(full: Any, modes: list[str]) -> None:
    Storm(4, 16, 64, full, modes).run()


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "slots", "length"), [(30, 20, 64), (16, 16, 1 << 15)])
@pytest.mark.parametrize(
    ("full", "modes"),
    [
        ways("wait", "each", "batches", "asyncio", "latest"),
        ways("wait", "iteration", "selector", "keeping", "lossy"),
        ways("drop_oldest", "lossy asyncio", "lossy batches", "lossy keeping", "latest"),
    ],
)
@pytest.mark.timeout(600)
def test_many_kills_leave_whole_items_in_order(
    kills: int, slots: int, length: int, full: Any, modes: list[str]
) -> None:
    Storm(kills, slots, length, full, modes).run()


@pytest.mark.parametrize(
    ("total", "disturbed"), [(250 * HANDS, False), pytest.param(20_000, True, marks=pytest.mark.slow)]
)
def test_many_hand_overs_lose_no_wake_up(total: int, disturbed: bool) -> None:
    """Four processes hand numbers round, each of which waits for the one before."""
    count_hand_overs(total, disturbed)
    wait_until(lambda: not notes(), "the wakers of the killed are swept", ANSWER)
