"""`CopyReport`: which bytes of a call were sent by reference, copied and pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sharedarray._display.tables import table
from sharedarray._display.text import aligned, human, human_time, one_line, quantity
from sharedarray._thresholds import OUT_OF_BAND

__all__ = ["ArgumentCopies", "CopyReport"]

# Bytes. Advice on less does not pay: a copy of it takes a fraction of a millisecond.
_ADVICE_SIZE = 1 << 20


class ArgumentCopies(NamedTuple):
    """The way in which an argument of a call, its function, or its results travelled.

    Attributes
    ----------
    argument : str
        'function'; a position, '0' for the first argument; the name of a keyword (with an equals sign
        if it is 'function', 'result' or 'arguments'); 'result'; or 'arguments', for all of a small
        call at once.
    shared : int
        Bytes that were sent by reference: nothing was copied.
    copied : int
        Bytes that were copied into memory that the receiver sees.
    pickled : int
        Bytes of pickles. References to shared arrays are some of them.
    reused : int
        Bytes that needed no further copy, because another task of the call had sent the same array.
    count : int
        How often it was sent.

    Examples
    --------
    >>> import numpy as np, sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     total = pool.submit(np.sum, sa.zeros(1_000_000)).result()
    ...     [(row.argument, row.shared) for row in pool.copy_report().rows if row.shared]
    [('0', 8000000)]
    """

    argument: str
    shared: int
    copied: int
    pickled: int
    reused: int
    count: int  # type: ignore[assignment]  # hides `tuple.count`


@dataclass(frozen=True, slots=True, repr=False)
class CopyReport:
    """Bytes of a call that were sent by reference, copied and pickled.

    Attributes
    ----------
    call : int
        Number of the call.
    label : str
        Name of the function.
    tasks : int
        How many tasks the call has.
    seconds : float
        From the call to the end of its last task, or until now.
    rows : tuple of ArgumentCopies
        One for each argument, the function and the results included.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     future = pool.submit(np.dot, sa.zeros(1_000_000), np.zeros(1_000_000))
    ...     _ = future.result()
    ...     report = pool.copy_report(future)
    >>> report.shared_bytes, report.copied_bytes
    (8000000, 8000000)
    >>> report.advice
    'args[1] was copied: 7.6 MiB. Make it with sharedarray.share or pool.share, and it travels by reference.'
    """

    call: int
    label: str
    tasks: int
    seconds: float
    rows: tuple[ArgumentCopies, ...]

    @property
    def shared_bytes(self) -> int:
        """Bytes that were sent by reference."""
        return sum([row.shared for row in self.rows])

    @property
    def copied_bytes(self) -> int:
        """Bytes that were copied."""
        return sum([row.copied for row in self.rows])

    @property
    def pickled_bytes(self) -> int:
        """Bytes of pickles."""
        return sum([row.pickled for row in self.rows])

    @property
    def reused_bytes(self) -> int:
        """Bytes that needed no further copy, because another task had sent the same array."""
        return sum([row.reused for row in self.rows])

    @property
    def advice(self) -> str | None:
        """Advice on the largest amount that was copied or pickled; None if all are small."""
        largest = max(self.rows, key=lambda row: max(row.copied, row.pickled), default=None)
        if largest is None or max(largest.copied, largest.pickled) < _ADVICE_SIZE:
            return None
        return _copied(largest) if largest.copied >= largest.pickled else _pickled(largest)

    def __repr__(self) -> str:
        lines = [self._headline(), *aligned(self._cells())]
        return "\n".join(lines if self.advice is None else [*lines, self.advice])

    def _repr_html_(self) -> str:
        return table(
            self._headline(), self._cells(), named=True, right=range(1, 6), notes=[self.advice or ""]
        )

    def _headline(self) -> str:
        return f"{one_line(self.label, 60)}: {quantity(self.tasks, 'task')}, {human_time(self.seconds)}"

    def _cells(self) -> list[tuple[str, ...]]:
        total = ArgumentCopies(
            "total", self.shared_bytes, self.copied_bytes, self.pickled_bytes, self.reused_bytes, 0
        )
        rows = [(_argument(row.argument), row) for row in self.rows]
        if len(rows) > 1:
            rows.append(("total", total))
        return [
            ("", "shared", "copied", "pickled", "reused", "times"),
            *[(name, *map(_amount, row[1:5]), f"{row.count:,}" if row.count else "") for name, row in rows],
        ]


def _amount(size: int) -> str:
    return human(size) if size else "-"


def _argument(name: str) -> str:
    """Return the name of an argument in the report: ``args[0]``, ``axis=``."""
    if name in ("function", "arguments", "result") or name.endswith("="):
        return name
    return f"args[{name}]" if name.isdecimal() else f"{one_line(name, 30)}="


def _copied(row: ArgumentCopies) -> str:
    """Return advice on how to avoid a copy of large arrays."""
    name, size = _argument(row.argument), human(row.copied)
    if name == "result":
        return (
            f"The result was copied: {size}. Make it with sharedarray.empty, or write it into a shared array "
            "that is passed, and it is not."
        )
    if name == "function":
        return (
            f"Arrays of the function's own were copied: {size}. Make them with sharedarray.share or "
            "pool.share, and they travel by reference."
        )
    return (
        f"{name} was copied: {size}. Make it with sharedarray.share or pool.share, and it travels by "
        "reference."
    )


def _pickled(row: ArgumentCopies) -> str:
    """Return advice on the likely content of a large pickle."""
    name, size = _argument(row.argument), human(row.pickled)
    if name == "function":
        return f"The function was pickled: {size}. It likely refers to large objects; arrays can be shared."
    subject = {"arguments": "The arguments were", "result": "The result was"}.get(name, f"{name} was")
    if row.pickled // max(1, row.count) < OUT_OF_BAND:  # arrays of this size are in the pickle
        return (
            f"{subject} pickled {row.count:,} times: {size}. These are small objects or arrays; rows of one "
            "shared array travel by reference."
        )
    return (
        f"{subject} pickled: {size}. Likely it is text, a list or dict, or an array of Python objects; "
        "an array of numbers can be shared."
    )
