"""The ``time`` module, as it was before anything replaced its clocks.

freezegun, time-machine and tests of many programs stop ``time.monotonic`` or ``time.time``. A wait that looks
at a stopped clock never ends. So the library has a copy of the module, which such tools do not find: the
interpreter's own importer makes it, and its functions are others than those of ``time``.

``sleep`` alone is the program's if gevent or eventlet is loaded, for these run other greenlets meanwhile.
"""

from __future__ import annotations

import sys
import time as _shared
from typing import TYPE_CHECKING, Any

__all__ = ["check_timeout", "time"]


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


def check_timeout(timeout: Any) -> None:
    """Raise `TypeError` or `ValueError` unless a timeout is None or a number of seconds, at least 0."""
    if timeout is None:
        return
    try:
        valid = bool(timeout >= 0)  # NaN is not
    except (TypeError, ValueError):
        raise TypeError(f"timeout is a number of seconds, or None; not {timeout!r}") from None
    if not valid:
        raise ValueError(f"timeout is in seconds, at least 0, or None; not {timeout!r}")
