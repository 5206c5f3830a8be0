"""Appending and writing versions, broken off at each of their steps: by Ctrl-C, and by SIGKILL.

Afterwards other processes and threads can use the array, no row that was published is lost, and each version
is whole.
"""

from __future__ import annotations

import os
import random
import textwrap
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, FORKS, KILLED as KILLED_STATUS, SIGNALS, Puppet, first_steps, interrupted_at
from stream_steps import LIBRARY, killed_at

import sharedarray as sa
from sharedarray import _sigint as sigint, _snapshots as snapshots
from sharedarray._header import PAGE
from sharedarray._platform import platform
from sharedarray._snapshots import Update
from sharedarray._thresholds import APPENDED_BY_KERNEL

pytestmark = pytest.mark.skipif(not platform.LENGTHENS, reason="blocks keep their size here")

PARTS = ("_growth.py", "_snapshots.py", "_version_buffers.py", "_control_page.py", "_array.py")
WIDTH = 3
# Ctrl-C as they begin is lost, or left to the finalizer of an update; see the tests of these.
NEVER = (
    Update.__exit__.__code__,
    Update.__del__.__code__,
    snapshots._End.__del__.__code__,
)
SOME = 8  # steps of a quick test
# Between two steps of a slow test, from a random one on. 1 tries each step, which takes 10 minutes.
STRIDE = int(os.environ.get("SHAREDARRAY_TEST_STRIDE", "61"))


def new_log() -> sa.SharedArray:
    return sa.zeros((0, WIDTH), "i8", name="data", capacity=1_000_000)


def new_weights() -> sa.SharedArray:
    return sa.zeros((50, WIDTH), "i8", name="data")


def append(log: sa.SharedArray) -> None:
    """Append rows that tell their numbers: one, or two at once."""
    number = len(log.refresh())
    rows = np.arange(number, number + 1 + number % 2)
    log.append(np.repeat(rows, WIDTH).reshape(-1, WIDTH), timeout=ANSWER)


def extend(log: sa.SharedArray) -> None:
    """Append two rows of an iterator that tell their numbers."""
    number = len(log.refresh())
    log.extend(([each] * WIDTH for each in range(number, number + 2)), timeout=ANSWER)


def append_many(log: sa.SharedArray) -> None:
    """Append rows that tell their numbers, so many that the kernel writes them."""
    rows = np.arange(len(log.refresh()), len(log) + APPENDED_BY_KERNEL // (8 * WIDTH) + 1)
    log.append(np.repeat(rows, WIDTH).reshape(-1, WIDTH), timeout=ANSWER)


def check_log(log: Any) -> int:
    """Return the length of a log, of which each row tells its number."""
    rows = np.asarray(log.refresh())
    assert np.array_equal(rows, np.repeat(np.arange(len(rows)), WIDTH).reshape(-1, WIDTH))
    return len(rows)


def update(weights: sa.SharedArray) -> None:
    """Write a version that tells its number, element by element."""
    with weights.update(timeout=ANSWER) as new:
        new[:] = weights.version + 1


def snapshot(weights: sa.SharedArray) -> None:
    """Take snapshots while versions change, and drop them."""
    kept = weights.snapshot()
    assert (kept == weights.version).all()
    for _ in range(2):
        with weights.update(timeout=ANSWER) as new:
            new[:] = weights.version + 1
    assert (kept == weights.version - 2).all()
    assert (weights.snapshot() == weights.version).all()


def check_weights(weights: Any) -> int:
    """Return the version of weights, of which each element tells the number."""
    found, version = weights.snapshot(), weights.version
    assert (found == version).all()
    return int(version)


# Functions that make an array, change it, and check it; the last one returns a number that never falls.
USES: dict[str, tuple[Callable[[], Any], Callable[[Any], None], Callable[[Any], int]]] = {
    "append": (new_log, append, check_log),
    "extend": (new_log, extend, check_log),
    "update": (new_weights, update, check_weights),
    "snapshot": (new_weights, snapshot, check_weights),
}


def in_thread(call: Callable[[], object]) -> None:
    """Call a function in a thread of its own, to which locks of this one are those of another."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * ANSWER)
    assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]


def _steps(use: str, which: str) -> Iterable[int]:
    """Return every step of a use, or some of those at new places in the modules that are about it."""
    if which == "every":
        return range(100_000)
    make, change, _ = USES[use]
    found: set[int] = set()
    for part in PARTS:
        with make() as made:
            found.update(first_steps(part, lambda made=made: change(made), NEVER))  # type: ignore[misc]
    assert len(found) > 50
    return [0, *random.sample(sorted(found), SOME)]


def _usable(array: Any, change: Callable[[Any], None], check: Callable[[Any], int], least: int) -> int:
    """Change an array from a thread of its own, as it must be possible; return the number of after."""
    before = check(array)
    assert before >= least, "what was published is lost"
    in_thread(lambda: change(array))
    after = check(array)
    assert after > before
    return after


@pytest.mark.skipif(not SIGNALS, reason="needs SIGINT")
@pytest.mark.parametrize("which", ["some", pytest.param("every", marks=pytest.mark.slow)])
@pytest.mark.parametrize("use", USES)
def test_ctrl_c_at_any_step_leaves_the_array_usable(
    use: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An exception that comes as a snapshot is collected would be raised a moment later, behind the step.
    monkeypatch.setattr(sigint, "raise_later", lambda: None)
    make, change, check = USES[use]
    steps = _steps(use, which)
    first = make()
    other = sa.attach("data")
    least = count = 0
    for step in steps:
        made = sa.attach("data")
        if not interrupted_at(step, lambda made=made: change(made), NEVER):  # type: ignore[misc]
            if which == "every":
                break
            made.close()
            continue  # the call that makes all for the first time has more steps
        count += 1
        for usable in (other, made):
            least = _usable(usable, change, check, least)
        made.close()
    made.close()
    assert count > (100 if which == "every" else 0)
    assert check(other) >= least
    other.close()
    first.close()


KILLED = tuple(
    f"{LIBRARY}/{part}" for part in ("_growth", "_snapshots", "_version_buffers", "_control_page", "_wakers")
)


@pytest.mark.skipif(not FORKS, reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("which", ["some", pytest.param("many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("use", USES)
def test_sigkill_at_any_step_leaves_the_array_usable(use: str, which: str) -> None:
    make, change, check = USES[use]
    with make() as made, sa.attach("data") as other:
        change(made)
        least, step = check(other), random.randrange(STRIDE)
        count = 0
        while killed_at(step + 1, lambda: change(made), KILLED):
            found: Any = sa.attach("data")
            assert np.array_equal(found, other.refresh() if check is check_log else found.snapshot()), "torn"
            found.close()
            least = _usable(other, change, check, least)
            count += 1
            step += STRIDE if which == "many" else random.randrange(200, 3000)
        assert check(other) >= least
        assert count >= (1000 // STRIDE if which == "many" else 1)


FIRST_USES = {
    "append": (new_log, append_many, check_log),
    "update": USES["update"],
    "snapshot": USES["snapshot"],
}


@pytest.mark.slow
@pytest.mark.skipif(not FORKS, reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("use", FIRST_USES)
def test_sigkill_at_any_step_of_a_first_use_leaves_the_array_usable(use: str) -> None:
    make, change, check = FIRST_USES[use]
    step, killed = random.randrange(STRIDE) - STRIDE, True
    while killed:
        step += STRIDE
        with make() as made, sa.attach("data") as other:
            killed = killed_at(step + 1, lambda: change(made), KILLED)
            _usable(other, change, check, 0)
            check(made)
    assert step > 1000


def test_an_update_that_is_dropped_publishes_nothing_and_lets_others_write() -> None:
    with new_weights() as weights:
        begun: Any = weights.update()
        begun.__enter__()[:] = 7
        del begun
        in_thread(lambda: update(weights))
        assert check_weights(weights) == 1


def test_one_thread_writes_one_version_at_a_time() -> None:
    """Two versions of one thread would be in one buffer."""
    with new_weights() as weights, sa.attach("data") as same, weights.update() as new:
        new[:] = 1
        for again in (weights, same):
            with pytest.raises(sa.DeadlockError, match="cannot begin to update"):
                again.update().__enter__()
            with pytest.raises(sa.LockTimeout):
                again.update(timeout=0.01).__enter__()
        with pytest.raises(sa.LockTimeout):
            in_thread(lambda: same.update(timeout=0.01).__enter__())


@pytest.mark.skipif(not FORKS, reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_was_forked_in_an_update_publishes_nothing() -> None:
    with new_weights() as weights:
        with weights.update() as new:
            new[:] = 1
            child = os.fork()
            if child:  # the child leaves the block meanwhile
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        if not child:
            os._exit(0 if weights.version == 0 and not new.flags.writeable else 1)
        assert check_weights(weights) == 1
        in_thread(lambda: update(weights))


SHOWING = """
    import os
    from helpers import KILL
    from sharedarray._snapshots import Versions

    def half(versions):
        versions._whole[: PLACE + 400] = versions._buffers[versions.words[4] & 255][: PLACE + 400]
        os.kill(os.getpid(), KILL)

    Versions._show = half
    found = sa.open(NAME) if NAME.endswith(".npy") else sa.attach(NAME)
    with found.update() as new:
        new[:] = 1
"""


@pytest.mark.parametrize("file", [False, True], ids=["block", "file"])
def test_a_death_as_the_array_is_brought_up_to_date_is_mended(file: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "data.npy")
    weights = sa.zeros((50, WIDTH), "i8", file=path) if file else new_weights()
    with weights:
        kept = np.asarray(weights)
        name = path if file else "data"
        with Puppet(f"NAME, PLACE = {name!r}, {PAGE}\n" + textwrap.dedent(SHOWING)) as writer:
            writer.end(KILLED_STATUS)
        assert len(np.unique(kept)) == 2  # until another process uses the array
        with sa.open(path) if file else sa.attach("data") as found:
            assert (np.asarray(found) == 1).all()
        assert (kept == 1).all()
        assert check_weights(weights) == 1
