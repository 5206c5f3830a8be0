"""The keywords that all creation functions have, as one object."""

from __future__ import annotations

import os
from typing import NamedTuple

from sharedarray._progress import Progress

__all__ = ["BlockOptions"]


class BlockOptions(NamedTuple):
    """The way in which a block is made.

    Attributes
    ----------
    name : str or None
        The block's name; a random one if None.
    persist : bool
        Whether the block outlives its holders.
    file : path_like or None
        A path, for a file instead of a block.
    exist_ok : bool
        Whether a block that has the name is used if it fits; the caller of `create` looks for it first.
    replace : bool
        Whether this block takes the name, once it is whole, from a block that has it already.
    progress : bool, mapping or None
        Whether a bar shows how much is filled; see `sharedarray._progress.bar`.
    kind : str
        What the bytes are, for the record.
    """

    name: str | None = None
    persist: bool = False
    file: str | os.PathLike[str] | None = None
    exist_ok: bool = False
    replace: bool = False
    progress: Progress = None
    kind: str = "bytes"

    @property
    def is_named(self) -> bool:
        """Return whether the caller has chosen the name, or the path."""
        return self.name is not None or self.file is not None

    def check(self) -> None:
        """Raise `ValueError` if these options exclude each other."""
        if self.replace and (self.exist_ok or self.file is not None):
            raise ValueError(
                "replace=True goes with neither exist_ok=True, which keeps what is there, nor file=: a file "
                "is never removed"
            )
