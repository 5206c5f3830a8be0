"""Modules that this process has loaded anew, so that the workers of its pools load them anew as well.

`importlib.reload` gives the module that is there to the finders of `sys.meta_path`; no other import does.
The finder of `picklers` notes these names, and `watch_autoreload` those that a notebook's ``autoreload``
patches in place. Each has the number of its last reload, so that a worker is told only what has happened
since it was told last. `sys.path` is treated in the same way: a module that a worker has to import may be
in a folder that was added after the worker's start.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["apply", "note", "note_path", "noted", "number_of", "path_since", "since", "watch_autoreload"]


class _Noted:
    """The reloads and changes of `sys.path` that this process has noted; a forked child goes on from them.

    Attributes
    ----------
    count : int
        How many have been noted.
    numbers : dict
        By module, the number of its last reload, in the order of these.
    path, path_number
        `sys.path` as it was at its last change, and the number of that.
    """

    def __init__(self) -> None:
        self.count = 0
        self.numbers: dict[str, int] = {}
        self.path, self.path_number = list(sys.path), 0


noted = _Noted()

# Packages that cannot be loaded twice in one process.
_NEVER = frozenset(("numpy", "sharedarray"))


def note(name: str) -> None:
    """Note that a module is loaded anew."""
    if name.partition(".")[0] not in _NEVER:
        noted.numbers.pop(name, None)
        noted.numbers[name] = noted.count + 1
        noted.count += 1


def note_path() -> None:
    """Note what `sys.path` is now, if it has changed."""
    if sys.path != noted.path:
        noted.path, noted.path_number = list(sys.path), noted.count + 1
        noted.count += 1


def number_of(name: str) -> int:
    """Return the number of a module's last reload; 0 if it was loaded once."""
    return noted.numbers.get(name, 0)


def since(number: int) -> list[str]:
    """Return the modules that were loaded anew after this count, in order."""
    return [name for name, last in list(noted.numbers.items()) if last > number]


def path_since(number: int) -> list[str] | None:
    """Return `sys.path` if it has changed after this count."""
    if noted.path_number <= number:
        return None
    found = []
    for entry in noted.path:
        with contextlib.suppress(OSError):  # it is relative, and the working directory was removed
            found.append(os.path.abspath(entry))
    return found


def apply(names: Sequence[str], path: Sequence[str] | None = None) -> None:
    """Load those of these modules anew that this process has, after adding what is missing to `sys.path`."""
    if path is not None:
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    importlib.invalidate_caches()
    for name in names:
        module = sys.modules.get(name)
        if module is None:
            continue
        try:
            importlib.reload(module)
        except Exception as error:
            warnings.warn(
                f"this worker goes on with the code of {name} as it was, since loading it anew raised "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


class _Autoreload:
    """Notes what IPython's extension ``autoreload`` does before a cell; it may patch a module in place.

    The extension keeps the time of each module's file as it was when it loaded or patched the module last.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._times = self._of_files()
        self._count = noted.count
        shell.events.register("pre_execute", self.before_others)

    def _of_files(self) -> dict[str, float]:
        magics = self._shell.magics_manager.registry.get("AutoreloadMagics")
        return dict(getattr(getattr(magics, "_reloader", None), "modules_mtimes", {}))

    def before_others(self) -> None:
        """Run after the extension, whenever that was loaded."""
        with contextlib.suppress(ValueError):  # it is the first time
            self._shell.events.unregister("pre_run_cell", self.after_others)
        self._shell.events.register("pre_run_cell", self.after_others)

    def after_others(self, *_: Any) -> None:
        """Note the modules whose files have another time."""
        times = self._of_files()
        for name, time in times.items():
            if self._times.get(name, time) != time and number_of(name) <= self._count:
                note(name)
        self._times, self._count = times, noted.count


_watched: list[_Autoreload] = []


def watch_autoreload() -> None:
    """Note what ``autoreload`` does from now on, if this process is a notebook's or IPython's."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if ask is not None and not _watched:
        with contextlib.suppress(Exception):  # a version of IPython that is not known here
            shell = ask()
            if shell is not None:
                _watched.append(_Autoreload(shell))
