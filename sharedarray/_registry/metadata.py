"""Reading and removing the small files of the registry."""

from __future__ import annotations

from sharedarray import _damage as damage
from sharedarray._platform import platform


def read_metadata(path: str) -> str | None:
    """Return the text of a metadata link; None if there is none, or something else that cannot be read."""
    try:
        return platform.read_metadata(path)
    except (OSError, ValueError) as error:
        damage.report(path, str(error), "it is ignored")
        return None


def discard(path: str) -> None:
    """Remove a file of the registry, or whatever else has its name."""
    try:
        platform.remove(path)
    except OSError as error:
        if not damage.quarantine(path):
            damage.report(path, str(error), "it cannot be removed, and is ignored")
