"""Objects of which an attachment has one: its notices, its versions, its growth."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from sharedarray import _forks as forks, _segment as segment, _sigint as sigint
from sharedarray._segment import Mapping

__all__ = ["made_once"]

_making = threading.RLock()  # reentrant: a finalizer may make another object meanwhile
forks.around(__name__, in_child=getattr(_making, "_at_fork_reinit", None))  # only systems that fork have it


class Usable(Protocol):
    """An object that a process makes once for each attachment; see `made_once`."""

    @property
    def usable(self) -> bool:
        """True if the attachment is not released, and no fork has come in between."""

    def on_release(self, mapping: Mapping) -> None:
        """Give up what it has, since the attachment is released."""


_Made = TypeVar("_Made", bound=Usable)


def made_once(mapping: Mapping, key: str, make: Callable[[], _Made]) -> _Made:
    """Return the object that is kept under a key of an attachment; make one if there is no usable one.

    It follows the attachment once it is whole: another thread may release that at any moment.
    """
    found: _Made | None = mapping.__dict__.get(key)
    if found is None or not found.usable:
        with sigint.deferred, _making:
            found = mapping.__dict__.get(key)
            if found is None or not found.usable:
                found = mapping.__dict__[key] = make()
                segment.follow(mapping, found)
    return found
