"""Getting a stream as its producer: making it, taking it over, or replacing it by the next generation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sharedarray import _errors as errors
from sharedarray._streams import words as w
from sharedarray._streams.block import PRODUCER, Block, party_of
from sharedarray._streams.items import Item
from sharedarray._wakers import Waker

__all__ = ["Former", "Producing", "forget_sleep", "go_on", "has_producer", "make", "replace", "take_over"]


class Former:
    """A replaced generation of a stream, until its lossless consumers have gone on to the next one.

    Parameters
    ----------
    block, waker
        The block, and a waker for its consumers.
    end
        Closes its producer in this process; None if it has no producer.
    """

    def __init__(self, block: Block, waker: Waker, end: Callable[[], None] | None) -> None:
        self._block = block
        self._waker = waker
        self._end = end

    @classmethod
    def of(cls, name: str, own: Iterable[tuple[Block, Callable[[], None]]]) -> Former:
        """Return the generation that has a name, if it is this process's or has no producer.

        Parameters
        ----------
        own
            The blocks of this process's producers, and functions that close these.

        Raises
        ------
        BlockExistsError
            Another process is its producer.
        """
        block = Block.attach(name)
        try:
            waker = block.waker()
            if waker.claim(PRODUCER):
                return cls(block, waker, None)
            here = block.mapping
            for other, end in own:
                if (other.mapping.device, other.mapping.inode) == (here.device, here.inode):
                    return cls(block, waker, end)
            waker.release()
            raise has_producer(block, alive=True)
        except BaseException:
            block.mapping.release()
            raise

    def end(self) -> None:
        """Tell its consumers to go on with the next generation."""
        words = self._block.words
        words[w.MOVED] = 1
        words[w.END] = words[w.HEAD] + 1
        if self._end is not None:
            self._end()
        else:
            for party in self._block.sleepers():
                self._waker.wake(party)

    def has_consumers(self) -> bool:
        """Return whether a lossless consumer has not gone on yet."""
        words = self._block.words
        return any(
            words[entry + w.LOSSLESS] and self._waker.alive(party_of(entry))
            for entry in self._block.entries()
        )

    def release(self) -> None:
        """Release the block."""
        self._waker.release()
        self._block.mapping.release()


class Producing(NamedTuple):
    """A stream whose producer is this process: the block, the producer's waker, the replaced generation."""

    block: Block
    waker: Waker
    former: Former | None = None


def make(name: str | None, item: Item, settings: dict[str, Any], *, replace: bool = False) -> Producing:
    """Make a stream.

    Raises
    ------
    BlockExistsError
        The name is taken.
    """
    shape, dtype, fields = item
    wakers: list[Waker] = []

    def prepare(block: Block) -> None:
        waker = block.waker()
        wakers.append(waker)
        waker.claim(PRODUCER)
        block.words[w.PRODUCER] = os.getpid()
        block.words[w.SESSION] = 1

    try:
        block = Block.make(name, shape, dtype, fields=fields, replace=replace, prepare=prepare, **settings)
    except BaseException as error:
        for waker in wakers:
            waker.release()
        if isinstance(error, errors.BlockExistsError):
            raise _taken(str(name)) or error from None
        raise
    for waker in wakers[:-1]:
        waker.release()
    return Producing(block, wakers[-1])


def _taken(name: str) -> errors.BlockExistsError | None:
    """Return the error for a name that a stream has; None if none has."""
    try:
        block = Block.attach(name)
    except (errors.SharedArrayError, OSError):
        return None
    try:
        waker = block.waker()
        try:
            return has_producer(block, alive=waker.alive(PRODUCER))
        finally:
            waker.release()
    finally:
        block.mapping.release()


def take_over(name: str | None, item: Item | None) -> Producing | None:
    """Become the producer of a stream that has none; return None if the stream has to be made.

    The stream is still closed for its consumers, until `go_on` is called.
    """
    if name is None:
        raise TypeError("a stream is taken over by its name")
    try:
        block = Block.attach(name)
    except errors.BlockNotFoundError:
        if item is None:
            raise
        return None
    try:
        if item is not None and item[:2] != (block.shape, block.dtype):
            raise _other_items(block, item)
        waker = block.waker()
        if not waker.claim(PRODUCER):
            waker.release()
            raise has_producer(block, alive=True)
    except BaseException:
        block.mapping.release()
        raise
    forget_sleep(block)
    block.words[w.PRODUCER] = os.getpid()
    return Producing(block, waker)


def forget_sleep(block: Block) -> None:
    """Clear the words that a sleep of a producer has left, which has died or was broken off."""
    block.words[w.WAITING] = 0
    for entry in block.entries():
        block.words[entry + w.WANTED] = 0


def go_on(block: Block) -> None:
    """Let the consumers of a stream that was taken over know its new producer, which is ready."""
    words = block.words
    words[w.END] = 0
    words[w.SESSION] = words[w.SESSION] + 1


def replace(
    name: str | None,
    item: Item,
    settings: dict[str, Any],
    own: Iterable[tuple[Block, Callable[[], None]]],
) -> Producing:
    """Make another stream in place of the one that has the name; its consumers go on with the new one.

    They do so once `Former.end` is called.
    """
    former = None
    if name is not None:
        try:
            former = Former.of(name, own)
        except (errors.BlockNotFoundError, errors.HeaderError):
            pass  # an array is replaced as by another array
    try:
        return make(name, item, settings, replace=True)._replace(former=former)
    except BaseException:
        if former is not None:
            former.release()
        raise


def has_producer(block: Block, *, alive: bool, forked: bool = False) -> errors.BlockExistsError:
    """Return the error for a stream that has a producer, or had one and is not to be made anew."""
    pid = block.words[w.PRODUCER]
    name = block.mapping.name
    if forked:
        return errors.BlockExistsError(
            f"a forked child is not the producer of the stream {name!r}",
            name=name,
            found=f"its producer, process {pid}",
            next_step="write in that process, or close it there and use takeover=True here",
        )
    if alive:
        return errors.BlockExistsError(
            f"the stream {name!r} has a producer: process {pid}",
            name=name,
            found=f"process {pid}, which writes to it",
            expected="a stream without a producer, or a free name",
            next_step="sharedarray.Stream(name) to read it; close it there first to write here",
        )
    return errors.BlockExistsError(
        f"the stream {name!r} is there already",
        name=name,
        found=f"a stream whose producer, process {pid}, has ended or closed it",
        expected="a free name",
        cause="consumers hold it, or it persists",
        next_step="takeover=True to go on with it, replace=True to make another in its place",
    )


def _other_items(block: Block, item: Item) -> errors.BlockExistsError:
    return errors.BlockExistsError(
        f"the stream {block.mapping.name!r} has other items",
        name=block.mapping.name,
        found=f"items of shape {block.shape} and dtype {block.dtype}",
        expected=f"items of shape {item[0]} and dtype {item[1]}",
        next_step="replace=True to make another stream in its place",
    )
