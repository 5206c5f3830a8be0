"""`Stream`: the calls of both sides, each of which the other side refuses."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator, Mapping as Fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _errors as errors
from sharedarray._array import ShapeLike
from sharedarray._streams.block import Block
from sharedarray._streams.party import Party

__all__ = ["Empty", "Full", "ShutDown", "Stream"]

if TYPE_CHECKING or not hasattr(queue, "ShutDown"):  # before Python 3.13

    class ShutDown(Exception):
        """The stream was closed by its producer, and all its items were taken.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_that_ends", 2) as writer:
        ...     reader = sa.Stream("stream_that_ends")
        >>> try:
        ...     reader.get()
        ... except sa.ShutDown:
        ...     print("no more items")
        no more items
        >>> reader.close()
        """

else:
    ShutDown = queue.ShutDown


class Empty(errors.SharedArrayError, queue.Empty, TimeoutError):
    """No item came in time."""

    _errno = errors.LockTimeout._errno


class Full(errors.SharedArrayError, queue.Full, TimeoutError):
    """No slot became free in time."""

    _errno = errors.LockTimeout._errno


class Stream(Party):
    """A stream of arrays by name: one producer writes, and any number of consumers (at most 32) read.

    ``Stream(name, shape, dtype)`` makes a stream and is its producer; ``Stream(name)`` is a consumer of it,
    in any process. The items are in the slots of one block of shared memory: nothing is copied but by `put`
    with an array. A consumer sees the items that are published after it has joined, in order.

    Parameters
    ----------
    name : str
        Name to attach by.
    shape : int, tuple of int or mapping
        Shape of an item. For items with several arrays, a mapping of names to ``(shape, dtype)``, or a
        structured `dtype`: ``item["name"]`` is one of the arrays then. Without it, the stream is attached to.
    dtype : dtype_like, default float
        Type of the elements.
    slots : int, default 8
        How many items the stream holds.
    full : {'wait', 'drop_oldest'}
        What `put` does if every slot has an item that a consumer needs: wait for the slowest consumer, or
        overwrite the oldest item. With 'drop_oldest' it never waits; consumers are told how many items they
        have `lost`.
    lossless : bool, optional
        Of a consumer: False if the producer shall not wait for it. As the stream is made when None.
    history : int, default 0
        Of a consumer: with how many of the latest items to begin, as far as they are still there.
    takeover : bool, default False
        Go on as the producer of a stream whose producer died or closed it, with the next position. If there
        is no such stream, it is made.
    replace : bool, default False
        Take the name from a stream that has it, with another shape, dtype or number of slots. Its consumers
        get the items of the new one when they have taken those of the old one.
    persist : bool, default False
        Whether the block outlives its holders, until `unlink`.

    Attributes
    ----------
    name : str
        The stream's name.
    shape : tuple of int
        Shape of an item.
    dtype : numpy.dtype
        Type of its elements.
    slots : int
        How many items the stream holds.

    Raises
    ------
    BlockExistsError
        The stream has a producer, or the name is taken (a `FileExistsError`).
    BlockNotFoundError
        There is no stream to attach to (a `FileNotFoundError`).
    LimitError
        The stream has 32 consumers.

    Notes
    -----
    An item that a consumer got is a read-only array in the slot itself. It stays as it is for as long as it,
    or any view of it, exists: its slot is not used again before. So a consumer that keeps items leaves fewer
    slots to the producer; ``item.copy()`` keeps one without its slot. A forked child is a consumer of its
    own, which begins where its parent was. The items that its parent had got stay as they are in the child
    only for as long as the parent keeps them.

    Examples
    --------
    >>> import sharedarray as sa
    >>> camera = sa.Stream("shown_camera", (2, 2), "u1")
    >>> viewer = sa.Stream("shown_camera")
    >>> with camera.put() as frame:
    ...     frame[:] = 7
    >>> viewer.get().tolist()
    [[7, 7], [7, 7]]
    >>> camera.close()
    >>> list(viewer)
    []
    >>> viewer.close()
    """

    _roles: ClassVar[dict[str, type[Stream]]] = {}  # the classes of producers and consumers, by role

    def __new__(
        cls,
        name: str | None,
        shape: ShapeLike | Fields[str, Any] | None = None,
        dtype: DTypeLike = float,
        *,
        slots: int = 8,
        full: Literal["wait", "drop_oldest"] = "wait",
        lossless: bool | None = None,
        history: int = 0,
        takeover: bool = False,
        replace: bool = False,
        persist: bool = False,
    ) -> Self:
        """Make a producer or a consumer, which the arguments decide."""
        if cls is not Stream:
            return super().__new__(cls)
        role = "consumer" if shape is None and not takeover else "producer"
        return super().__new__(cls._roles[role])  # type: ignore[return-value]

    # -- where it is

    @property
    def position(self) -> int:
        """Position of the item that a consumer got last, or that a producer published last; -1 before.

        The first item of a stream has position 0. Of several items that came together, it is the first one's.
        """
        raise NotImplementedError

    @property
    def lost(self) -> int:
        """Items that this consumer has not got: overwritten before, or skipped by `latest`."""
        return 0

    @property
    def time(self) -> float:
        """Time at which the item at `position` was published, in seconds since 1970."""
        return self.time_ns / 1e9

    @property
    def time_ns(self) -> int:
        """Time at which the item at `position` was published, in ns since 1970; 0 before the first."""
        raise NotImplementedError

    # -- writing

    @overload
    def put(self, array: ArrayLike | Fields[str, ArrayLike], timeout: float | None = None) -> None: ...
    @overload
    def put(self, array: None = None, timeout: float | None = None) -> Any: ...
    def put(self, array: Any = None, timeout: float | None = None) -> Any:
        """Publish an item: copy an array into the next slot, or write to the slot in a ``with`` statement.

        Parameters
        ----------
        array : array_like or mapping, optional
            An item: an array of the stream's shape, whose elements its dtype can take. Of a stream whose
            items have several arrays, a mapping of their names to them.
        timeout : float, optional
            Seconds to wait for a slot if all have items that consumers need; no limit when None.

        Returns
        -------
        None or context manager
            Without an array, the context manager gives the slot: a writable array, with what an earlier item
            left in it. It is published when the block ends, and withdrawn if that raises.

        Raises
        ------
        queue.Full
            No slot became free in time; also a `TimeoutError`.
        ShutDown
            This stream was closed.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_put", 3, int) as camera, sa.Stream("stream_of_put") as viewer:
        ...     camera.put([1, 2, 3])  # copied
        ...     with camera.put() as frame:  # written into the slot itself
        ...         frame[:] = 4
        ...     [item.tolist() for item in (viewer.get(), viewer.get())]
        [[1, 2, 3], [4, 4, 4]]
        """
        raise self._wrong_side("put", "written to")

    def put_many(self, arrays: Any, timeout: float | None = None) -> None:
        """Publish several items: an array whose first axis counts them, or an iterable of items.

        As many as fit are written and published in one go.

        Parameters
        ----------
        arrays : array_like or iterable
            The items, each as for `put`.
        timeout : float, optional
            Seconds of each wait for a slot; no limit when None.

        Raises
        ------
        queue.Full
            No slot became free in time; also a `TimeoutError`. The items before are published.
        ShutDown
            This stream was closed.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_put_many", 2, int) as writer, sa.Stream("stream_of_put_many") as reader:
        ...     writer.put_many([[1, 2], [3, 4], [5, 6]])
        ...     reader.get(max=2).tolist()
        [[1, 2], [3, 4]]
        """
        raise self._wrong_side("put_many", "written to")

    # -- reading

    def get(self, timeout: float | None = None, *, max: int | None = None) -> np.ndarray[Any, Any]:
        """Return the next item, as a read-only array in its slot.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; no limit when None.
        max : int, optional
            Return as many items as there are, at least one and at most so many: an array whose first axis
            counts them. Only items in adjacent slots come together.

        Returns
        -------
        ndarray
            Not copied; its slot is not used again before it and all views of it are gone.

        Raises
        ------
        queue.Empty
            No item came in time; also a `TimeoutError`.
        ShutDown
            The producer has closed the stream, and all its items were taken.
        ProducerDied
            The producer's process has ended, and all its items were taken. Further calls with a timeout wait
            for a producer that takes over; others raise this again.
        DeadlockError
            This consumer keeps every slot, so that no item can come: copy what is to stay.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_get", 2, int) as writer, sa.Stream("stream_of_get") as reader:
        ...     writer.put([1, 2])
        ...     reader.get(timeout=5.0).tolist()
        [1, 2]
        """
        raise self._wrong_side("get", "read")

    def latest(self, timeout: float | None = None) -> np.ndarray[Any, Any]:
        """Return the newest item that this consumer has not got, and skip those before; else as `get`.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; no limit when None.

        Returns
        -------
        ndarray
            As `get` returns it. `lost` counts the skipped items.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_latest", 1, int) as writer, sa.Stream("stream_of_latest") as reader:
        ...     writer.put_many([[1], [2], [3]])
        ...     reader.latest().tolist(), reader.lost
        ([3], 2)
        """
        raise self._wrong_side("latest", "read")

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        """Return the items one after the other, until the producer closes the stream."""
        raise self._wrong_side("iteration", "read")

    async def aget(
        self,
        timeout: float | None = None,
        *,
        max: int | None = None,
    ) -> np.ndarray[Any, Any]:
        """Return the next item, as `get` does, without blocking the event loop of asyncio meanwhile.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; no limit when None.
        max : int, optional
            Return as many items as there are, at least one and at most so many, as `get` does.

        Returns
        -------
        ndarray
            As `get` returns it.

        Examples
        --------
        >>> import asyncio
        >>> import sharedarray as sa
        >>> async def read():
        ...     with sa.Stream("stream_of_aget", 2, int) as writer, sa.Stream("stream_of_aget") as reader:
        ...         writer.put([1, 2])
        ...         return (await reader.aget(timeout=5.0)).tolist()
        >>> asyncio.run(read())
        [1, 2]
        """
        raise self._wrong_side("aget", "read")

    def __aiter__(self) -> AsyncIterator[np.ndarray[Any, Any]]:
        """Return the items one after the other, as `aget` does, until the producer closes the stream."""
        raise self._wrong_side("iteration", "read")

    def fileno(self) -> int:
        """Return a descriptor that can be read when a call of `get` would not wait.

        For `selectors`, and for event loops. It is the same until the stream is closed. Windows has none.

        Returns
        -------
        int
            The descriptor, which the stream keeps and closes.

        Raises
        ------
        UnsupportedError
            The system has no such descriptors.

        Examples
        --------
        >>> import select, selectors
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_fileno", 1) as writer, sa.Stream("stream_of_fileno") as reader:
        ...     writer.put([1.0])
        ...     if hasattr(select, "poll"):  # not on Windows
        ...         with selectors.DefaultSelector() as selector:
        ...             key = selector.register(reader, selectors.EVENT_READ)
        ...             assert selector.select(timeout=5.0)
        """
        raise self._wrong_side("fileno", "read")

    def ready(self) -> bool:
        """Return whether a call of `get` would not wait: it would return an item, or raise.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Stream("stream_of_ready", 1) as writer, sa.Stream("stream_of_ready") as reader:
        ...     before = reader.ready()
        ...     writer.put([1.0])
        ...     before, reader.ready()
        (False, True)
        """
        raise self._wrong_side("ready", "read")

    def __reduce__(self) -> tuple[Any, ...]:
        """Reduce to a reference, which is loaded as a consumer that begins where this one is."""
        mapping = self._block.mapping
        if self._closed:
            raise errors.BlockClosedError(
                f"the stream {self.name!r} is closed, so no other process can join it from here",
                name=self.name,
            )
        wish = getattr(self, "_wish", None)
        return _arrive, (mapping.name, mapping.directory, mapping.inode, self._start(), wish)

    def _wrong_side(self, what: str, done: str) -> TypeError:
        side = type(self).__name__.lower()
        other = "sharedarray.Stream(name)" if side == "producer" else "sharedarray.Stream(name, shape, dtype)"
        return TypeError(f"{what} is not for the {side} of the stream {self.name!r}: it is {done} by {other}")


def _arrive(name: str, directory: str, inode: int, start: int, lossless: bool | None) -> Stream:
    """Return a consumer, in the process that loads a pickled stream."""
    block = Block.attach(name, directory)
    made = object.__new__(Stream._roles["consumer"])
    made._closed = True
    # In the next generation, positions begin anew.
    made._join_block(block, lossless, start=start if block.mapping.inode == inode else 0)  # type: ignore[attr-defined]
    return made
