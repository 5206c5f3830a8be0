"""The operating system: `platform` is the module of this one, which keeps `sharedarray._platform.contract`.

No other module asks which system this is. The names of the modules here begin with that of their system.
"""

from __future__ import annotations

import sys

from sharedarray._platform.contract import Draft, Mode, Platform, Status

__all__ = ["Draft", "Mode", "Platform", "Status", "platform"]

platform: Platform
if sys.platform == "linux":
    from sharedarray._platform import linux as _linux

    platform = _linux
elif sys.platform == "darwin":
    from sharedarray._platform import macos as _macos

    platform = _macos
elif sys.platform == "win32":
    from sharedarray._platform import windows as _windows

    platform = _windows
else:
    raise ImportError(
        f"sharedarray does not run on {sys.platform} yet: it needs a module in sharedarray/_platform "
        "that keeps the contract of sharedarray/_platform/contract.py"
    )
