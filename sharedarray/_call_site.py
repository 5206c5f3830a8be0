"""Warnings that any thread issues for a line of the program. They never raise."""

from __future__ import annotations

import sys
import warnings
from typing import Any

__all__ = ["CallSite"]

_PACKAGE = __name__.partition(".")[0]
# Python's last default filter, which hides each `ResourceWarning`.
_DEFAULT = ("ignore", None, ResourceWarning, None, 0)


class CallSite:
    """The line of the program that this package is called from."""

    def __init__(self) -> None:
        frame: Any = sys._getframe(1)
        while frame.f_back is not None and _is_ours(frame.f_globals):
            frame = frame.f_back
        self._file, self._line = frame.f_code.co_filename, frame.f_lineno
        self._module = str(frame.f_globals.get("__name__", "<unknown>"))
        self._globals: dict[str, Any] = frame.f_globals

    def warn(self, warning: Warning) -> None:
        """Issue a warning. What that raises is reported by `sys.unraisablehook`.

        A warning of lost work is shown though Python hides each `ResourceWarning`, unless the program itself
        hides such warnings.
        """
        try:
            registry = self._globals.setdefault("__warningregistry__", {})
            if not self._is_hidden_by_default(warning):
                warnings.warn_explicit(warning, None, self._file, self._line, self._module, registry)
                return
            key = str(warning), type(warning), self._line
            if key not in registry:
                registry[key] = True
                warnings.showwarning(warning, type(warning), self._file, self._line)
        except BaseException as error:  # a filter makes errors of warnings, or the program's own showwarning
            error.__traceback__ = None
            _Ignored(error)

    def _is_hidden_by_default(self, warning: Warning) -> bool:
        """Return whether no filter of the program's, only Python's default, applies to a warning."""
        filters = list(warnings.filters)
        for each in filters:
            _, message, category, module, line = each
            if (
                isinstance(warning, category)
                and (message is None or _matches(message, str(warning)))
                and (module is None or _matches(module, self._module))
                and line in (0, self._line)
            ):
                return each is filters[-1] and each == _DEFAULT
        return False


def _is_ours(namespace: dict[str, Any]) -> bool:
    name = namespace.get("__name__")
    return type(name) is str and name.partition(".")[0] == _PACKAGE


def _matches(pattern: Any, text: str) -> bool:
    """Return whether a filter's pattern, which may be plain text, applies to a text."""
    return pattern == text if isinstance(pattern, str) else pattern.match(text) is not None


class _Ignored:
    """Raises an exception where Python ignores it, and reports it by `sys.unraisablehook`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error
