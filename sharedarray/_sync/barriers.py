"""`Barrier`: a number of processes or threads wait for each other.

STATE is ``generation << 1 | broken``. Each entry has AT, 1 + the generation in which its party last arrived,
and COUNT, how many of its threads have. OUTCOMES has, for the last generations, ``1 + generation << 1 |
passed``, for processes that wake when others are further on.

If the time of a party is over while another process keeps the lock, because it is stopped, the party cannot
change STATE. So it writes 1 + the generation to GIVEN_UP in its own entry, which breaks the barrier as well.
If the stopped process lets all go on, because it has read GIVEN_UP before, it breaks the next generation.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import Any, ClassVar, Self

from sharedarray import _sigint as sigint
from sharedarray._process_end import halting
from sharedarray._sync.block import FIRST, SETTING
from sharedarray._sync.mutex import BusyError, patient
from sharedarray._sync.primitive import Primitive
from sharedarray._wakers import deadline_after

__all__ = ["Barrier"]

_STATE, _OUTCOMES, _REMEMBERED = FIRST, FIRST + 1, 8
_AT, _COUNT, _GIVEN_UP = range(3)  # after OWN


class Barrier(Primitive):
    """A barrier by name, with the methods of `threading.Barrier`, for processes and threads.

    ``Barrier(name, parties)`` makes it, or uses the one that has the name. At most 64 objects may use it at
    once. If a process that takes part is killed, the barrier is broken, so that the others do not wait for
    it: a process takes part if it waits now, or has passed the last time.

    Parameters
    ----------
    name : str or None
        Name to find it by. None for a random name: `name` tells it.
    parties : int, optional
        How many have to wait until all go on. Of a barrier that exists, the same number, or None.
    action : callable, optional
        Called by one of them, before they go on, if it was the last to arrive.
    timeout : float, optional
        The default of `wait`.

    Attributes
    ----------
    name : str
        The barrier's name.

    Raises
    ------
    BlockExistsError
        The name is taken by another kind of block, or by a barrier for another number (a `FileExistsError`).

    Examples
    --------
    >>> import sharedarray as sa
    >>> step = sa.Barrier("step", 1)  # alone here; Barrier("step") in others
    >>> step.wait(timeout=5.0)
    0
    """

    _KIND: ClassVar = "barrier"
    _MAGIC: ClassVar = 4

    def __init__(
        self,
        name: str | None,
        parties: int | None = None,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        if parties is not None and (parties := operator.index(parties)) < 1:
            raise ValueError(f"parties must be >= 1, not {parties}")
        self._action: Callable[[], object] | None = None
        self._timeout: float | None = None
        super().__init__(name, parties, 0)
        self._action, self._timeout = action, timeout

    def _create(self, name: str | None, setting: int) -> Any:
        if setting < 1:
            raise TypeError(
                f"a barrier is made with a number of parties, and none has the name {name!r}: "
                "sharedarray.Barrier(name, parties)"
            )
        return super()._create(name, setting)

    @classmethod
    def _of(cls, array: object) -> Self:
        made = super()._of(array)
        made._action = made._timeout = None
        return made

    @property
    @halting
    def parties(self) -> int:
        """Number of threads that have to wait until all go on."""
        return int(self._words[SETTING])

    @property
    @halting
    def n_waiting(self) -> int:
        """Number of threads that wait now."""
        return self._arrived(self._words[_STATE] >> 1)

    @property
    @halting
    def broken(self) -> bool:
        """True if the barrier is broken, until `reset`."""
        state = self._words[_STATE]
        return bool(state & 1) or self._given_up(state)

    def _arrived(self, generation: int) -> int:
        words = self._words
        return sum(words[own + _COUNT] for own in self._own_words() if words[own + _AT] == generation + 1)

    @halting
    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties do.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; as the barrier was made when None. If the time is over, the barrier is broken.

        Returns
        -------
        int
            A number from 0 to ``parties - 1``, another one for each.

        Raises
        ------
        threading.BrokenBarrierError
            The barrier is broken: the time was over, `abort` or `reset` was called, or a process that takes
            part has died (a `RuntimeError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> start = sa.Barrier("start", 2)
        >>> with ThreadPoolExecutor(2) as threads:  # two processes would use Barrier("start")
        ...     sorted(threads.map(start.wait, [30.0, 30.0]))
        [0, 1]
        """
        if timeout is None:
            timeout = self._timeout
        state, index = -1, self.parties
        limit = patient(deadline_after(timeout))
        try:
            while index >= self.parties:
                state, index = self._arrive(limit)
                if index >= self.parties and not self._wait(self._is_after(state), timeout):
                    raise BrokenBarrierError(f"the barrier {self.name!r} has not emptied in time")
            if index + 1 == self.parties:
                self._pass(state, limit)
                return index
            over = not self._wait(self._is_after(state), timeout)
        except BaseException:
            if index < self.parties:
                self._withdraw(state)
            raise
        if self._passed(state):
            return index
        self._break(state)
        if self._passed(state):
            return index
        raise BrokenBarrierError(
            f"the barrier {self.name!r} is broken" + (": not all parties came in time" if over else "")
        )

    def _is_after(self, state: int) -> Callable[[], bool]:
        """Return a function that returns whether the state has changed, or a party has given up."""
        words = self._words
        return lambda: words[_STATE] != state or self._given_up(state)

    def _given_up(self, state: int) -> bool:
        """Return whether a party has given up in the generation of a state, which it could not change."""
        words, mark = self._words, (state >> 1) + 1
        return any(words[own + _GIVEN_UP] == mark for own in self._own_words())

    def _arrive(self, limit: float | None) -> tuple[int, int]:
        """Arrive; return the state, and how many have arrived before."""
        state, arrived = self._words[_STATE], False
        try:
            with self._change(limit) as words:
                state = words[_STATE]
                if self._given_up(state):
                    state = words[_STATE] = state | 1
                if state & 1:
                    raise BrokenBarrierError(f"the barrier {self.name!r} is broken")
                index = self._arrived(state >> 1)
                if index < self.parties:
                    own, at = self._own, (state >> 1) + 1
                    if words[own + _AT] != at:
                        words[own + _COUNT] = 0
                        words[own + _AT] = at
                    words[own + _COUNT] += 1
                    arrived = True
            return state, index
        except BusyError:
            self._break(state)
            raise BrokenBarrierError(
                f"the barrier {self.name!r} is broken: a process is stopped as it changes it"
            ) from None
        except BaseException:
            if arrived:
                self._withdraw(state)
            raise

    def _pass(self, state: int, limit: float | None) -> None:
        """Let all go on, as the last that has arrived."""
        if self._action is not None:
            try:
                self._action()
            except BaseException:
                self._break(state)
                raise
        try:
            with self._change(limit) as words:
                if words[_STATE] == state and not self._given_up(state):
                    self._go_on(state, passed=True)
                    if self._given_up(state):  # after the fence of `_go_on`: in between
                        words[_STATE] |= 1
                        self._wake_sleepers()
                    return
        except BusyError:
            pass
        self._break(state)
        raise BrokenBarrierError(f"the barrier {self.name!r} is broken")

    def _go_on(self, state: int, *, passed: bool) -> None:
        """Begin the next generation. The caller is in a `_change`."""
        words, generation = self._words, state >> 1
        words[_OUTCOMES + generation % _REMEMBERED] = generation + 1 << 1 | passed
        words[_STATE] = generation + 1 << 1
        self._wake_sleepers()

    def _passed(self, state: int) -> bool:
        """Return whether the generation of a state was passed."""
        words, generation = self._words, state >> 1
        return bool(words[_OUTCOMES + generation % _REMEMBERED] == generation + 1 << 1 | 1)

    def _break(self, state: int) -> None:
        """Break the barrier in the generation of a state; do not wait for a process that is stopped."""
        if self._sleeper.index >= 0 and self._process == os.getpid():
            with sigint.deferred, self._open_party() as (words, own):
                words[own + _GIVEN_UP] = (state >> 1) + 1
                self._wake_sleepers()  # before the state is looked at: this has a fence
        try:
            with self._change(0.0) as words:
                if words[_STATE] == state:
                    words[_STATE] = state | 1
                    self._wake_sleepers()
        except BusyError:
            pass  # the next process that changes the state does it

    def _withdraw(self, state: int) -> None:
        """Undo an arrival, of a wait that was broken off."""
        with sigint.deferred, self._open_party() as (words, own):
            if words[_STATE] == state and words[own + _AT] == (state >> 1) + 1 and words[own + _COUNT]:
                words[own + _COUNT] -= 1

    def _settle(self, own: int) -> None:
        words = self._words
        state = words[_STATE]
        given_up = words[own + _GIVEN_UP] == (state >> 1) + 1
        if given_up or (words[own + _AT] and words[own + _AT] >= state >> 1):
            words[_STATE] = state | 1

    def _release_party(self, own: int) -> None:
        words = self._words
        state = words[_STATE]
        given_up = words[own + _GIVEN_UP] == (state >> 1) + 1
        if given_up or (words[own + _AT] == (state >> 1) + 1 and words[own + _COUNT]):
            words[_STATE] = state | 1

    @halting
    def abort(self) -> None:
        """Break the barrier: all that wait or will wait get `threading.BrokenBarrierError`, until `reset`.

        Examples
        --------
        >>> import sharedarray as sa
        >>> barrier = sa.Barrier("aborted_barrier", 2)
        >>> barrier.abort()
        >>> barrier.broken
        True
        """
        with self._change() as words:
            words[_STATE] |= 1
            self._wake_sleepers()

    @halting
    def reset(self) -> None:
        """Reset the barrier. Waiting threads get `threading.BrokenBarrierError`.

        Examples
        --------
        >>> import sharedarray as sa
        >>> barrier = sa.Barrier("reset_barrier", 1)
        >>> barrier.abort()
        >>> barrier.reset()
        >>> barrier.wait(timeout=5.0)
        0
        """
        with self._change() as words:
            self._go_on(words[_STATE], passed=False)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"{self.n_waiting}/{self.parties} waiting"
        return f"{type(self).__name__}({self.name!r}, {state})"
