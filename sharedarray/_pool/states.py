"""The states of a pool, of a worker and of the reader's role: one table for each.

A table tells for each event and each state which state follows. What a table lacks must not happen: `advance`
raises an exception instead. Nothing else changes a state, except that `WorkerHandle` looks the two events of
each call up in the table itself, which raises the same exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

__all__ = [
    "ABORTING",
    "ACCEPTING",
    "BROKEN",
    "BUSY",
    "CLOSED",
    "DEAD",
    "DRAINING",
    "ENDING",
    "FOREIGN",
    "HELD",
    "HUNG_UP",
    "IDLE",
    "KILLING",
    "LEASED",
    "POOL",
    "READER",
    "REVOKING",
    "RUNNING",
    "STARTING",
    "STOPPING",
    "WATCHED",
    "WORKER",
    "ForbiddenChangeError",
    "Table",
    "advance",
]

Table: TypeAlias = Mapping[str, Mapping[str, str]]


class ForbiddenChangeError(RuntimeError):
    """A pool's internal error: something happened that must not happen in this state."""

    def __init__(self, event: str, state: str) -> None:
        super().__init__(f"a pool's internal error: {event!r} must not happen in the state {state!r}")


class _Row(dict[str, str]):
    """The states that follow an event. To look one up calls no function of Python's, unless it is missing."""

    def __init__(self, event: str, following: Mapping[str, str]) -> None:
        super().__init__(following)
        self._event = event

    def __missing__(self, state: str) -> str:
        raise ForbiddenChangeError(self._event, state)


def _table(rows: Table) -> Table:
    return {event: _Row(event, following) for event, following in rows.items()}


# Of a worker.
STARTING: Final = "starting"  # its process was started, and has not run the initializer
IDLE: Final = "idle"  # it has no calls
BUSY: Final = "busy"  # it has calls that it has not answered
REVOKING: Final = "revoking"  # calls were taken back from it, and it has not confirmed that
STOPPING: Final = "stopping"  # it was told to end
HUNG_UP: Final = "hung up"  # it has closed its pipe, and its process has not ended
KILLING: Final = "killing"  # it was sent SIGKILL
DEAD: Final = "dead"  # its process has ended

_ALIVE: Final = (STARTING, IDLE, BUSY, REVOKING, STOPPING, HUNG_UP, KILLING)
# In these states a worker accepts calls; in these it will get none any more.
ACCEPTING: Final = frozenset((IDLE, BUSY))
ENDING: Final = frozenset((STOPPING, HUNG_UP, KILLING, DEAD))

WORKER: Final[Table] = _table(
    {
        "ready": {STARTING: IDLE, STOPPING: STOPPING, HUNG_UP: HUNG_UP, KILLING: KILLING},
        "dispatch": {IDLE: BUSY, BUSY: BUSY},
        "reply": {BUSY: BUSY, REVOKING: REVOKING, HUNG_UP: HUNG_UP, KILLING: KILLING},
        "last reply": {BUSY: IDLE, REVOKING: REVOKING, HUNG_UP: HUNG_UP, KILLING: KILLING},
        "revoke": {BUSY: REVOKING, REVOKING: REVOKING, HUNG_UP: HUNG_UP, KILLING: KILLING},
        "some dropped": {REVOKING: REVOKING, HUNG_UP: HUNG_UP, KILLING: KILLING},
        "all dropped": {REVOKING: IDLE, HUNG_UP: HUNG_UP, KILLING: KILLING},
        "stop": {STARTING: STOPPING, IDLE: STOPPING, STOPPING: STOPPING},
        "end of file": {**dict.fromkeys(_ALIVE, HUNG_UP), KILLING: KILLING},
        "kill": dict.fromkeys(_ALIVE, KILLING),
        "exit": dict.fromkeys(_ALIVE, DEAD),
    }
)

# Of a pool.
RUNNING: Final = "running"
DRAINING: Final = "draining"  # it accepts no calls, and does those that it has accepted
ABORTING: Final = "aborting"  # it accepts no calls, cancels what is queued, and kills its workers
BROKEN: Final = "broken"  # it has failed for good; every call fails
CLOSED: Final = "closed"  # its last worker has ended
FOREIGN: Final = "foreign"  # this process is a fork of the pool's

POOL: Final[Table] = _table(
    {
        "shut down": {
            RUNNING: DRAINING,
            DRAINING: DRAINING,
            ABORTING: ABORTING,
            BROKEN: BROKEN,
            CLOSED: CLOSED,
            FOREIGN: FOREIGN,
        },
        "abort": {
            RUNNING: ABORTING,
            DRAINING: ABORTING,
            ABORTING: ABORTING,
            BROKEN: BROKEN,
            CLOSED: CLOSED,
            FOREIGN: FOREIGN,
        },
        "fail": {RUNNING: BROKEN, DRAINING: BROKEN, ABORTING: ABORTING, BROKEN: BROKEN},
        "empty": {DRAINING: CLOSED, ABORTING: CLOSED, BROKEN: BROKEN},
        "fork": dict.fromkeys((RUNNING, DRAINING, ABORTING, BROKEN, CLOSED, FOREIGN), FOREIGN),
    }
)

# Of the reader's role: which thread reads the pipes.
WATCHED: Final = "watched"  # the pool's thread is woken if something can be read
HELD: Final = "held"  # one thread reads, and the pool's thread is not woken
LEASED: Final = "leased"  # no thread reads; the last one is expected back, and the pool's thread checks that

READER: Final[Table] = _table(
    {
        "take": {WATCHED: HELD, LEASED: HELD},
        "release": {HELD: LEASED},
        "watch": {LEASED: WATCHED, HELD: HELD, WATCHED: WATCHED, CLOSED: CLOSED},
        "close": {WATCHED: CLOSED, LEASED: CLOSED, HELD: CLOSED},
    }
)


def advance(table: Table, event: str, state: str) -> str:
    """Return the state that follows.

    Raises
    ------
    ForbiddenChangeError
        The table lacks this event in this state: it must not happen.
    """
    return table[event][state]
