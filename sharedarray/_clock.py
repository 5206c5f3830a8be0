"""The ``time`` module, as it was before anything replaced its clocks.

freezegun, time-machine and tests of many programs stop ``time.monotonic`` or ``time.time``. A wait that looks
at a stopped clock never ends. So the library has a copy of the module, which such tools do not find: the
interpreter's own importer makes it, and its functions are others than those of ``time``.

``sleep`` alone is the program's if gevent or eventlet is loaded, for these run other greenlets meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
import time as _shared
from typing import TYPE_CHECKING, Any

__all__ = ["check_timeout", "deadline_of", "time"]


def _copied() -> Any:
    """Return a fresh copy of the built-in module, or the module itself where there is no way to make one."""
    try:
        from importlib.machinery import BuiltinImporter

        spec = BuiltinImporter.find_spec("time")
        assert spec is not None
        made: Any = BuiltinImporter.create_module(spec)
        BuiltinImporter.exec_module(made)
        made.monotonic()
    except Exception:
        return _shared
    if made is _shared:
        return _shared
    real = made.sleep

    def sleep(seconds: float) -> None:
        """Wait, and let other greenlets run meanwhile if there are any."""
        if "gevent.monkey" in sys.modules or "eventlet.patcher" in sys.modules:
            _shared.sleep(seconds)
        else:
            real(seconds)

    made.sleep = sleep
    return made


if TYPE_CHECKING:
    import time
else:
    time = _copied()


def _as_seconds(timeout: Any) -> float:
    """Return a timeout that is not None as a float; raise `TypeError` or `ValueError` if it is no number."""
    seconds = None
    if not isinstance(timeout, str | bytes):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            seconds = float(timeout)
    if seconds is None:
        raise TypeError(f"timeout is a number of seconds, or None; not {timeout!r:.80}")
    if seconds != seconds:
        raise ValueError(f"timeout is a number of seconds, or None; not {timeout!r}")
    return seconds


def check_timeout(timeout: Any) -> None:
    """Raise `TypeError` or `ValueError` unless a timeout is None or a number of seconds, at least 0."""
    if timeout is not None and _as_seconds(timeout) < 0:
        raise ValueError(f"timeout is in seconds, at least 0, or None; not {timeout!r}")


def deadline_of(timeout: Any) -> float | None:
    """Return the time of ``time.monotonic`` at which a timeout that begins now is over; None for never."""
    if timeout is None:
        return None
    seconds = _as_seconds(timeout)
    return None if seconds > _FOR_EVER else time.monotonic() + seconds


_FOR_EVER = 1e9  # seconds: more than 30 years, and less than what any wait of a system overflows at
