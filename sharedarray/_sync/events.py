"""`Event`: a flag that processes set, clear and wait for.

The word STATE is ``number of set() calls << 1 | flag``, so that a wait notices a `set` that a `clear` follows
at once, as `threading.Event`'s does.
"""

from __future__ import annotations

from typing import ClassVar

from sharedarray._sync.primitive import FIRST, Primitive

__all__ = ["Event"]

_STATE = FIRST


class Event(Primitive):
    """A flag by name, with the methods of `threading.Event`, for any number of processes and threads.

    ``Event(name)`` makes the event, or uses the one that has the name. At most 64 objects may use it at once.
    A process that is killed leaves the flag as it is, and keeps no other process waiting.

    Parameters
    ----------
    name : str, optional
        Name to find it by. Without one, it has a random name: `name` tells it.

    Attributes
    ----------
    name : str
        The event's name.

    Raises
    ------
    BlockExistsError
        The name is taken by another kind of block (a `FileExistsError`).

    Notes
    -----
    It travels to tasks and through queues by reference. The flag lasts as long as an object that uses it.

    Examples
    --------
    >>> import sharedarray as sa
    >>> ready = sa.Event("camera_ready")
    >>> sa.Event("camera_ready").set()  # in any process
    >>> ready.wait(timeout=5.0)
    True
    """

    _KIND: ClassVar = "event"
    _MAGIC: ClassVar = 1

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name, None, 0)

    def is_set(self) -> bool:
        """Return True if the flag is set."""
        return bool(self._words[_STATE] & 1)

    def set(self) -> None:
        """Set the flag, and wake all that wait for it."""
        with self._change() as words:
            words[_STATE] = ((words[_STATE] >> 1) + 1) % (1 << 63) << 1 | 1
            self._wake_sleepers()

    def clear(self) -> None:
        """Clear the flag."""
        with self._change() as words:
            words[_STATE] = words[_STATE] & ~1

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; no limit when None.

        Returns
        -------
        bool
            False if the time was over before.
        """
        words = self._words
        before = words[_STATE] >> 1
        return self._wait(lambda: bool(words[_STATE] & 1) or words[_STATE] >> 1 != before, timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {'set' if self.is_set() else 'clear'})"
