"""The block of an event, a semaphore, a condition or a barrier: its words, making it, and finding it.

The block is an ``.npy`` array of words of 8 bytes::

    0 MAGIC    the kind, and the version of its format
    1 SETTING  the initial value of a semaphore, the number of parties of a barrier
    2 CHANGES  how many times a party has joined or left so far
    3 DEATHS   how many parties have been found dead so far
    4 …        the words of each kind
    16 …       `ENTRIES` entries of 8 words: PID, ASLEEP, and those of each kind
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sharedarray import _array, _errors as errors, _header as header, _segment as segment
from sharedarray._array import SharedArray

__all__ = [
    "ASLEEP",
    "CHANGES",
    "DEATHS",
    "ENTRIES",
    "ENTRY",
    "ENTRY_WORDS",
    "FIRST",
    "OWN",
    "PID",
    "SETTING",
    "NamedBlock",
]

ENTRIES = 64  # parties at once; each sleeper watches all others, with one descriptor each
MAGIC, SETTING, CHANGES, DEATHS, FIRST = range(5)
ENTRY, ENTRY_WORDS = 16, 8
PID, ASLEEP, OWN = range(3)  # words of an entry; those from OWN on are each kind's
_WORDS = ENTRY + ENTRIES * ENTRY_WORDS
_FORMAT = 1


class NamedBlock:
    """The methods of `Primitive` that make its block or find it."""

    _KIND: ClassVar[str]  # of the block's record
    _MAGIC: ClassVar[int]

    def _made(self, name: str | None, setting: int | None, default: int) -> SharedArray:
        """Make the block, or attach to the one that has the name."""
        given: object = name
        if isinstance(given, int):  # as those of threading and multiprocessing, which have no name
            kind = type(self).__name__
            raise TypeError(
                f"{kind}() takes its name first, or None for a random one: write {kind}(None, {name}) or "
                f"{kind}('name', {name})"
            )
        while True:
            if name is not None:
                try:
                    return self._attached(name, setting)
                except errors.BlockNotFoundError:
                    pass
            try:
                return self._create(name, default if setting is None else setting)
            except errors.BlockExistsError:
                continue  # made since, by another process

    def _create(self, name: str | None, setting: int) -> SharedArray:
        page = header.encode(np.dtype(np.uint64), (_WORDS,), fortran=False)
        words = np.zeros(_WORDS, np.uint64)
        words[MAGIC] = self._magic()
        words[SETTING] = setting
        self._initialise(words, setting)
        mapping = segment.create(
            len(page) + words.nbytes,
            segment.BlockOptions(name, kind=self._KIND),
            buffers=[memoryview(page), memoryview(words.tobytes())],
        )
        return _array.from_mapping(mapping, header.decode(page, len(mapping), name=mapping.name))

    def _initialise(self, words: np.ndarray[Any, Any], setting: int) -> None:
        """Write the first state."""

    @classmethod
    def _magic(cls) -> int:
        return int.from_bytes(b"sasync", "little") | _FORMAT << 48 | cls._MAGIC << 56

    def _attached(self, name: str, setting: int | None) -> SharedArray:
        try:
            array = _array.attach(name)
        except errors.HeaderError as error:
            raise self._other_kind(name) from error
        if not self._fits(array):
            raise self._other_kind(name)
        if setting is not None and int(array[SETTING]) != setting:
            raise errors.BlockExistsError(
                f"the {self._KIND} {name!r} exists with another value",
                name=name,
                found=str(int(array[SETTING])),
                expected=str(setting),
                next_step=f"sharedarray.{type(self).__name__}({name!r}) uses the one that is there",
            )
        return array

    @classmethod
    def _fits(cls, array: np.ndarray[Any, Any]) -> bool:
        return array.dtype == np.uint64 and array.shape == (_WORDS,) and int(array[MAGIC]) == cls._magic()

    def _other_kind(self, name: str) -> errors.BlockExistsError:
        return errors.BlockExistsError(
            f"the name {name!r} is taken",
            name=name,
            found=f"a block that is no {self._KIND}",
            expected=f"{'an' if self._KIND == 'event' else 'a'} {self._KIND}, or a free name",
            next_step="choose another name, or sharedarray.unlink(name)",
        )
