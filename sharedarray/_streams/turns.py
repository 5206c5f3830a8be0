"""Turns: one thread at a time is in a call of a stream.

A dict says which call has the turn: its item 0 is the token of the call, a tuple with the number of the
thread. The tuple is made for this call, so that its identity tells calls apart. `dict.setdefault` takes the
turn, and ``del`` gives it back. Both are one step in which Ctrl-C cannot come, and ``del`` calls nothing.
If a thread finds a token of its own, Ctrl-C has broken that call off.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

from sharedarray._clock import time

__all__ = ["FORKED", "INHERITED", "Token", "Turn", "enter"]

Token: TypeAlias = tuple[int, ...]
Turn: TypeAlias = dict[int, Token]

_PAUSES = 50e-6, 0.01  # seconds between two tries of a thread for the turn of another one: first and longest
FORKED: Final = (0,)  # has the turn in a forked child, until its first call
INHERITED: Final = (-1,)  # has the turn of a forked child's copy of a producer, for good


class Repairable(Protocol):
    """An object whose calls take turns."""

    def _repair(self) -> None:
        """Repair the state after a call was broken off, and give back the turn."""

    def _repair_in_child(self) -> None:
        """Set up the state for the first call in a forked child, and give back the turn."""


def enter(turn: Turn, token: Token, deadline: float | None, stream: Repairable) -> bool:
    """Take the turn from another thread or a call that was broken off; False if the time is over."""
    pause, longest = _PAUSES
    while (owner := turn.setdefault(0, token)) is not token:
        if owner is FORKED:
            turn[0] = token
            stream._repair_in_child()
        elif owner[0] == token[0]:
            turn[0] = token
            stream._repair()
        else:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, longest)
    return True
