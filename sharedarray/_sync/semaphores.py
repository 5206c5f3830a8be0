"""`Semaphore`: a number of units that processes take and give back.

VALUE is what the units would be if no party held any, as a signed number; each entry has the units that its
party holds, in HELD. What is free is VALUE less all of HELD. So the units of a dead party come back when its
entry is cleared.
"""

from __future__ import annotations

import operator
import os
from typing import Any, ClassVar

import numpy as np

from sharedarray._process_end import halt, halting
from sharedarray._sync.block import FIRST
from sharedarray._sync.mutex import BusyError, patient
from sharedarray._sync.primitive import Primitive
from sharedarray._wakers import deadline_after

__all__ = ["Semaphore"]

_VALUE, _LOST = FIRST, FIRST + 1
_HELD = 0  # after OWN
_MOST = 1 << 32  # units that are released at once, at most: the sum of many fits a word


class Semaphore(Primitive):
    """A semaphore by name, with the methods of `threading.Semaphore`, for any number of processes.

    ``Semaphore(name, value)`` makes it, or uses the one that has the name. At most 64 objects may use it at
    once. The units that a process holds come back when it ends or is killed, and when the object is closed.

    Parameters
    ----------
    name : str, optional
        Name to find it by. Without one, it has a random name: `name` tells it.
    value : int, optional
        Units at the beginning, 1 when None. Of a semaphore that exists, its initial value, or None.

    Attributes
    ----------
    name : str
        The semaphore's name.
    abandoned : bool
        Whether a holder of a unit has died since this object acquired one before: what the semaphore
        protects may be unfinished. Set on acquiring.

    Raises
    ------
    BlockExistsError
        The name is taken by another kind of block, or by a semaphore with another initial value (a
        `FileExistsError`).

    Notes
    -----
    `release` gives back units of this object; if it holds none, it adds one, as `threading.Semaphore` does.
    Which waiting process gets a free unit is not defined. It travels to tasks by reference. A forked child
    has none of the units of its parent, and its leaving the ``with`` statement gives none back.

    Examples
    --------
    >>> import sharedarray as sa
    >>> licences = sa.Semaphore("licences", 2)
    >>> with licences:
    ...     licences.value
    1
    >>> licences.value
    2
    """

    _KIND: ClassVar = "semaphore"
    _MAGIC: ClassVar = 2

    def __init__(self, name: str | None = None, value: int | None = None) -> None:
        if value is not None and not 0 <= (value := operator.index(value)) < _MOST:
            raise ValueError(f"semaphore initial value must be >= 0 and below {_MOST}, not {value}")
        super().__init__(name, value, 1)

    def _initialise(self, words: np.ndarray[Any, Any], setting: int) -> None:
        words[_VALUE] = setting

    def _begin(self) -> None:
        super()._begin()
        self.abandoned = False
        self._losses = self._words[_LOST]

    @property
    @halting
    def value(self) -> int:
        """Units that are free now."""
        words = self._words
        return int(words[_VALUE]) - sum(words[own + _HELD] for own in self._own_words())

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a unit; wait until one is free.

        Parameters
        ----------
        blocking : bool, default True
            False not to wait.
        timeout : float, optional
            Seconds to wait; no limit when None.

        Returns
        -------
        bool
            False if no unit was free in time.

        Examples
        --------
        >>> import sharedarray as sa
        >>> semaphore = sa.Semaphore("acquired_semaphore", 1)
        >>> semaphore.acquire()
        True
        >>> semaphore.acquire(blocking=False)
        False
        """
        self._check_blocking(blocking)
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        timeout = timeout if blocking else 0
        end = patient(deadline_after(timeout))
        try:
            return self._wait(lambda: self._take(end), timeout)
        except Exception:
            halt()
            raise

    def _take(self, end: float | None) -> bool:
        """Take a unit if one is free; return False also if another process changes the state until `end`."""
        taken = False
        try:
            with self._change(end if self.value > 0 else 0.0) as words:
                if self.value <= 0:
                    return False
                words[self._own + _HELD] += 1
                taken = True
                self.abandoned = words[_LOST] != self._losses
                self._losses = words[_LOST]
        except BusyError:
            return False
        except BaseException:
            if taken:
                self.release()
            raise
        return True

    @halting
    def release(self, n: int = 1) -> None:
        """Give back `n` units, and wake those that wait for one.

        Parameters
        ----------
        n : int
            How many to give back.

        Raises
        ------
        ValueError
            `n` is less than 1.

        Examples
        --------
        >>> import sharedarray as sa
        >>> semaphore = sa.Semaphore("released_semaphore", 1)
        >>> semaphore.acquire()
        True
        >>> semaphore.release()
        """
        n = operator.index(n)
        if not 1 <= n < _MOST:
            raise ValueError(f"n must be one or more, and below {_MOST}")
        with self._change() as words:
            own = min(n, words[self._own + _HELD])
            if own:
                words[self._own + _HELD] -= own
            if n > own:
                words[_VALUE] += n - own
            self._wake_sleepers()

    def _settle(self, own: int) -> None:
        if self._words[own + _HELD]:
            self._words[_LOST] = (self._words[_LOST] + 1) % (1 << 64)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        if self._maker == os.getpid() or self._holds_units():  # else it was a parent that entered
            self.release()

    def _holds_units(self) -> bool:
        """Return whether this process holds a unit by this object, in a forked child."""
        return (
            self._process == os.getpid() and self._sleeper.index >= 0 and bool(self._words[self._own + _HELD])
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, value={self.value})"
