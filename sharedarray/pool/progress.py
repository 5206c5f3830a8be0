"""Progress bars, if tqdm is installed (extra ``progress``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from sharedarray import errors

__all__ = ["Bar", "Progress", "bar", "watched"]

T = TypeVar("T")

Progress = bool | Mapping[str, Any]


class Bar(Protocol):
    """What is used of a progress bar."""

    def update(self, n: float = 1) -> Any:
        """Say that ``n`` more are done."""

    def close(self) -> None:
        """End the bar."""


class _NoBar:
    def update(self, n: float = 1) -> None:
        pass

    def close(self) -> None:
        pass


def bar(progress: Progress, total: int | None) -> Bar:
    """Return a progress bar, or something that acts as one where ``progress`` is False.

    Parameters
    ----------
    progress
        True, or a mapping of arguments of `tqdm.auto.tqdm`.
    total
        How many there are to do.

    Raises
    ------
    MissingExtraError
        tqdm is not installed (an `ImportError`).
    """
    if progress is False:
        return _NoBar()
    try:
        from tqdm.auto import tqdm  # optional: the extra 'progress'
    except ImportError as missing:
        raise errors.MissingExtraError(
            "progress needs the package tqdm, which is not installed",
            name="tqdm",
            next_step="pip install 'numpy-sharedarray[progress]', or leave progress out",
        ) from missing
    arguments: dict[str, Any] = {"total": total}
    if progress is not True:
        arguments.update(progress)
    made: Bar = tqdm(**arguments)
    return made


def watched(results: Iterable[T], shown: Bar) -> Iterator[T]:
    """Pass ``results`` on, one step of the bar for each, and end the bar with them.

    Nothing that was passed on is held.
    """
    if type(shown) is _NoBar:
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
