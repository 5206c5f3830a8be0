"""Moments in time, whose ages are measured by a clock that no user can set."""

from __future__ import annotations

from typing import NamedTuple

from sharedarray._clock import time
from sharedarray._platform import platform

_SET = 1.0  # seconds of difference from which on the time of day counts as set; NTP corrects it by less
_LAST_TIME = 253_402_300_800.0  # seconds since 1970 of the year 10000: Python's calendar ends before


class Moment(NamedTuple):
    """A moment: seconds since 1970, and the seconds on a clock that cannot be set, with its number."""

    created: float
    clock: int = 0
    uptime: float = 0.0

    @classmethod
    def now(cls) -> Moment:
        """Return this moment."""
        return cls(time.time(), *platform.uptime())

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Return the moment in a text; `ValueError` if there is none."""
        created, *steady = text.split(" ")
        clock, uptime = steady or ("0", "0")
        found = cls(float(created), int(clock), float(uptime))
        if not is_moment(*found):
            raise ValueError(f"{text[:40]!r} is no moment")
        return found

    def encode(self) -> str:
        """Return the moment as a text."""
        return f"{self.created:.3f} {self.clock} {self.uptime:.3f}"

    def age(self) -> float:
        """Return the seconds since this moment, by the steady clock if this process has the same one."""
        now = Moment.now()
        return max(0.0, now.created - self._created_as_set(now))

    def created_as_set(self, now: Moment | None = None) -> float:
        """Return this moment in seconds since 1970, by the time of day as it is set at the moment `now`.

        The result is always the same unless the time of day was set meanwhile.
        """
        found = self._created_as_set(now or Moment.now())
        return found if abs(found - self.created) > _SET else self.created

    def _created_as_set(self, now: Moment) -> float:
        if self.clock and now.clock == self.clock:
            return min(max(0.0, now.created - (now.uptime - self.uptime)), _LAST_TIME - 1)
        return self.created


def is_moment(created: float, clock: int, uptime: float) -> bool:
    """Return whether these numbers can be a moment."""
    return 0 <= created < _LAST_TIME and 0 <= uptime < _LAST_TIME and clock >= 0
