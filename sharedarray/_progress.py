"""Progress bars, if tqdm is installed (extra ``progress``).

``progress=True`` shows a bar at once. ``None`` shows one after a second, in a notebook or at a terminal;
until then nothing is imported, and nothing is seen. Programs whose output goes elsewhere, and workers, show
none by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from sharedarray import _errors as errors
from sharedarray._clock import time

__all__ = ["IN_BYTES", "NO_BAR", "Bar", "Progress", "bar", "closed_unless_done", "silent", "watched"]

T = TypeVar("T")

Progress = bool | Mapping[str, Any] | None

IN_BYTES: Mapping[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}  # arguments of tqdm

_GONE = (OSError, ValueError)  # what writing to a terminal raises that is not there any more

_LINE_EVERY = 10.0  # seconds between two lines of a bar that goes to a file or pipe

_LATE = 1.0  # seconds after which a bar appears without `progress=True`


class Bar(Protocol):
    """The part of a progress bar that is used."""

    def update(self, n: float = 1) -> Any:
        """Add ``n`` to the number of finished items."""

    def close(self) -> None:
        """End the bar."""


class _NoBar:
    def update(self, n: float = 1) -> None:
        pass

    def close(self) -> None:
        pass


NO_BAR: Bar = _NoBar()


class _LateBar:
    """A bar that appears when it has taken a second."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._done: float = 0  # as tqdm shows it
        self._began = time.time()
        self._due = time.monotonic() + _LATE
        self._shown: Bar | None = None

    def update(self, n: float = 1) -> None:
        self._done += n
        with suppress(*_GONE):
            if self._shown is not None:
                self._shown.update(n)
            elif time.monotonic() > self._due:
                self._appear()

    def _appear(self) -> None:
        self._due = float("inf")
        widgets = _notebook() and find_spec("ipywidgets") is not None  # without, tqdm warns of it
        try:
            made: Any = import_module("tqdm.notebook" if widgets else "tqdm").tqdm
        except ImportError:
            return  # the extra 'progress' is not there, and no bar was asked for
        shown = made(**self._arguments)
        shown.start_t = self._began  # tqdm's own: it has run for so long
        shown.update(self._done)
        self._shown = shown

    def close(self) -> None:
        with suppress(*_GONE):
            if self._shown is not None:
                self._shown.close()


class _Lines:
    """A file for tqdm that is no terminal: a line now and then, in place of one that is drawn over.

    tqdm writes a carriage return and the bar each time, and a line feed at its end.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._bar = ""
        self._due = time.monotonic() + _LINE_EVERY

    def write(self, text: str) -> None:
        if text.startswith("\r"):
            self._bar = text.strip()
            ended = False
        else:
            ended = text.startswith("\n")
        if self._bar and (ended or time.monotonic() > self._due):
            self._due = time.monotonic() + _LINE_EVERY
            self._stream.write(f"{self._bar}\n")
        if ended:
            self._bar = ""

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str | None:
        return getattr(self._stream, "encoding", None)


def _watched_by_a_person() -> bool:
    process = sys.modules.get("multiprocessing.process")  # which every worker has loaded
    if process is not None and process.parent_process() is not None:
        return False
    try:
        return _notebook() or sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False  # there is no stderr, or it is closed


def _notebook() -> bool:
    """Return whether this process is a notebook's kernel, which shows widgets."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def silent(shown: Bar) -> bool:
    """True if this is no bar, so that the caller need not report how far it is."""
    return shown is NO_BAR


def bar(progress: Progress, total: int | None, **arguments: Any) -> Bar:
    """Return a progress bar, or something that acts as one where ``progress`` is False.

    Parameters
    ----------
    progress
        True, or a mapping of arguments of `tqdm.auto.tqdm`; None for a bar where a person looks on and it
        takes longer than a second. In a file or pipe, a bar is one line every ten seconds and one at its end.
    total
        How many there are to do.
    arguments
        Further ones of `tqdm.auto.tqdm`, where ``progress`` does not say otherwise.

    Raises
    ------
    MissingExtraError
        tqdm is not installed (an `ImportError`).
    """
    if progress is False:
        return NO_BAR
    if not (progress is None or progress is True or isinstance(progress, Mapping)):
        raise TypeError(f"progress is True, False, None or a dict of tqdm's arguments; not {progress!r}")
    if progress is None:
        return _LateBar({"total": total, **arguments}) if _watched_by_a_person() else NO_BAR
    try:
        from tqdm.auto import tqdm  # optional: the extra 'progress'
    except ImportError as missing:
        raise errors.MissingExtraError(
            "progress needs the package tqdm, which is not installed",
            name="tqdm",
            next_step="pip install 'numpy-sharedarray[progress]', or leave progress out",
        ) from missing
    chosen = {} if progress is True else progress
    if "file" not in chosen and not _notebook() and (sys.stderr is None or sys.stderr.closed):
        return NO_BAR  # a program without standard streams
    if "file" not in chosen and not _notebook() and not sys.stderr.isatty():  # a file or pipe
        chosen = {**chosen, "file": _Lines(sys.stderr)}
    made: Bar = tqdm(**{"total": total, **arguments, **chosen})
    return made


@contextmanager
def closed_unless_done(shown: Bar) -> Iterator[None]:
    """Return a context manager that ends a bar if its block raises."""
    try:
        yield
    except BaseException:
        shown.close()
        raise


def watched(results: Iterable[T], shown: Bar) -> Iterator[T]:
    """Pass ``results`` on, one step of the bar for each, and end the bar with them.

    Nothing that was passed on is held.
    """
    if silent(shown):
        return iter(results)
    return _watched(results, shown)


def _watched(results: Iterable[T], shown: Bar) -> Iterator[T]:
    steps = iter(results)
    box: list[T] = []
    try:
        for value in steps:
            box.append(value)
            del value
            shown.update()
            yield box.pop()
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
        shown.close()
