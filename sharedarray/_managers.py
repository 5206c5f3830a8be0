"""CPython's `SharedMemoryManager`, for blocks and arrays.

The manager is `multiprocessing.managers.BaseManager` with a server that owns blocks. A block is made by the
process that asks for it, which then tells the server; from there on it lives exactly as long as the server's
process does (the ``o`` of a record, see `sharedarray._registry`)::

    caller                                              server's process
    ------                                              ----------------
    connect ─────────────────────────────────────────▶  (authkey)
    make the block, kept by this process as any other
    track_segment(directory, name, inode) ───────────▶  record: owned by me; have the janitor watch
            ◀──────────────────────────────────────────  whether there is such a record
    (dies)                                              the block stays
                                      shutdown ──────▶  remove the names, end
                                                        (its starter dies) the same
                                                        (is killed) the janitor removes the names

So the server holds nothing open, whatever number of blocks it owns. A process that has one open keeps its
memory beyond the server's end, and no process can attach to it any more. The server removes nothing but what
a record, in this user's own registry, says to be its own; a client cannot have it remove other files.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import ProcessError, managers, util
from typing import Any, SupportsIndex, TypeVar

from numpy.typing import ArrayLike, DTypeLike

from sharedarray import (
    _array as array,
    _creation as creation,
    _errors as errors,
    _greenlets as greenlets,
    _janitor as janitor,
    _process_tree as process_tree,
    _registry as registry,
    _segment as segment,
    _shared_memory as shared_memory,
)
from sharedarray._platform import platform
from sharedarray._segment import Mapping

__all__ = ["SharedMemoryManager"]

_T = TypeVar("_T")

# Of a server's process: the one that has started it.
_starter: registry.Process | None = None


# -- the server's side ----------------------------------------------------------------------------------


def _begin(
    starter: registry.Process, leave: bool, initializer: Callable[..., Any] | None, arguments: Iterable[Any]
) -> None:
    """Make ready the process that a manager has started."""
    global _starter
    _starter = starter
    if leave:
        segment.release_all()  # what a fork has handed down and no code here can use
    if initializer is not None:
        initializer(*arguments)


class Server(managers.Server):
    """A manager's server, which owns blocks."""

    public = [*managers.Server.public, "track_segment", "release_segment", "list_segments"]  # noqa: RUF012

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._segments: dict[tuple[str, str], int] = {}  # inodes by directory and name
        self._held: dict[tuple[str, str], Mapping] = {}  # where a record does not keep a block
        self._lock = threading.Lock()
        if _starter is not None:
            threading.Thread(target=self._end_with, args=_starter, daemon=True).start()

    def track_segment(self, c: Any, directory: str, name: str, inode: int) -> bool:
        """Take over a block; return False if this process cannot see it."""
        segment.check_name(name)
        if not registry.set_owner(directory, name, inode):
            return False
        if not platform.RECORDS_DECIDE:
            mapping = segment.attach(name, "r", directory=directory)
            if mapping.inode != inode:
                mapping.release()
                return False
            self._held[directory, name] = mapping
        with self._lock:
            self._segments[directory, name] = inode
        janitor.ensure(directory)
        process_tree.settle_at_exit(directory)
        return True

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Remove a block that is owned."""
        with self._lock:
            keys = [key for key in self._segments if key[1] == segment_name]
            found = [(*key, self._segments.pop(key)) for key in keys]
        for directory, name, inode in found:
            registry.disown(directory, name, inode)
            if (held := self._held.pop((directory, name), None)) is not None:
                held.release()

    def list_segments(self, c: Any) -> list[str]:
        """Return the names of the blocks that are owned."""
        with self._lock:
            return [name for _, name in self._segments]

    def shutdown(self, c: Any) -> None:
        """Remove all blocks, then end."""
        self._release_all()
        super().shutdown(c)

    def _release_all(self) -> None:
        for name in self.list_segments(None):
            self.release_segment(None, name)

    def _end_with(self, pid: int, started: int) -> None:
        platform.await_end(pid, started)
        self._release_all()
        os._exit(1)


# Bytes of the longest path of a socket, and of the name that multiprocessing gives to it.
_LONGEST, _NAME = 107, len("/listener-") + 8


def _address() -> str | None:
    """Return where a server listens: None for a path of multiprocessing's, or a name without a path.

    A path below a long ``TMPDIR`` exceeds the limit of a socket address. Names without a path are Linux's.
    """
    if not getattr(util, "abstract_sockets_supported", False):
        return None
    if len(os.fsencode(util.get_temp_dir())) + _NAME <= _LONGEST:
        return None
    return f"\0sharedarray-manager-{os.getpid()}-{secrets.token_hex(8)}"


# -- the callers' side ----------------------------------------------------------------------------------


class SharedMemoryManager(managers.BaseManager):
    """A process that owns blocks: they go with it, as with `multiprocessing.managers.SharedMemoryManager`.

    Parameters
    ----------
    address : str or tuple, optional
        Where its server listens, or where one to `connect` to does; a socket of its own when None.
    authkey : bytes, optional
        What both sides must know; this process's own key when None.
    serializer, ctx, shutdown_timeout
        As for `multiprocessing.managers.BaseManager`; `ctx` says how its process is started.

    Attributes
    ----------
    address
        Where the server listens, for others to `connect`.

    Raises
    ------
    ValueError
        A block is asked for before `start` or `connect`, or after `shutdown`.

    Notes
    -----
    ``with`` starts it, and shuts it down in the end. A second process connects with the same address and key,
    and what it makes is the manager's as well.

    `shutdown`, the death of the manager's process and that of the process that has started it remove the
    names of all its blocks within 2 seconds, open or not. A process that has one open keeps the memory, as
    after `unlink`; no process can attach any more. Closing a block or dropping an array frees nothing before
    that.

    Under the start methods ``spawn`` and ``forkserver``, starting it needs ``if __name__ == "__main__"`` as
    every process of multiprocessing does.

    Examples
    --------
    >>> from sharedarray import SharedMemoryManager
    >>> with SharedMemoryManager() as manager:
    ...     frame = manager.SharedMemory(size=1024)
    ...     state = manager.ShareableList(["ready", 0])
    ...     image = manager.share([[1, 2], [3, 4]])
    >>> int(image.sum()), list(state), len(frame.buf)  # the memory is still there, the names are not
    (10, ['ready', 0], 1024)
    """

    _Server = Server  # where multiprocessing looks

    def start(self, initializer: Callable[..., Any] | None = None, initargs: Iterable[Any] = ()) -> None:
        """Start the manager's process.

        Parameters
        ----------
        initializer
            Called in that process before anything else.
        initargs
            Its arguments.

        Raises
        ------
        ProcessError
            It was started or shut down before (of `multiprocessing`).
        UnsupportedError
            gevent or eventlet has replaced sockets.

        Examples
        --------
        >>> import sharedarray as sa
        >>> manager = sa.SharedMemoryManager()
        >>> manager.start()
        >>> manager.share([1, 2]).tolist()
        [1, 2]
        >>> manager.shutdown()
        """
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        greenlets.check_sockets()
        # If no code of the user's runs in that process, no code there needs the arrays of this process.
        leave = initializer is None and not self._registry  # type: ignore[attr-defined]
        if getattr(self, "_address", "") is None:
            self._address = _address()
        with platform.standard_streams():
            platform.opened(super().start, _begin, (registry.me(), leave, initializer, initargs))

    def connect(self) -> None:
        """Connect to the server at the manager's address, which another process runs.

        Raises
        ------
        UnsupportedError
            gevent or eventlet has replaced sockets.
        ConnectionRefusedError, FileNotFoundError
            No server listens there (an `OSError`).
        AuthenticationError
            The key is another one (of `multiprocessing`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.SharedMemoryManager(authkey=b"known to both") as manager:
        ...     other = sa.SharedMemoryManager(manager.address, b"known to both")  # in another process
        ...     other.connect()
        ...     other.share([1, 2]).tolist()
        [1, 2]
        """
        greenlets.check_sockets()
        super().connect()

    def get_server(self) -> Server:
        """Return the server, for this process to run: ``manager.get_server().serve_forever()``.

        Returns
        -------
        Server
            It listens at its ``address`` from now on.

        Raises
        ------
        ProcessError
            It was started or shut down before (of `multiprocessing`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> server = sa.SharedMemoryManager(authkey=b"known to both").get_server()
        >>> server.address is None
        False
        >>> server.listener.close()  # or serve_forever(), which does not return
        """
        if self._state.value != managers.State.INITIAL:  # type: ignore[attr-defined]
            raise ProcessError("this manager was started, connected or shut down before")
        return Server(self._registry, self._address, self._authkey, self._serializer)  # type: ignore[attr-defined]

    def SharedMemory(self, size: SupportsIndex) -> shared_memory.SharedMemory:
        """Make a block that the manager owns.

        Parameters
        ----------
        size : int
            Bytes, at least 1.

        Returns
        -------
        SharedMemory
            Open in this process; others attach by its name.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.SharedMemoryManager() as manager:
        ...     frame = manager.SharedMemory(size=1024)
        ...     len(frame.buf)
        1024
        """
        return self._own(lambda: shared_memory.SharedMemory(create=True, size=size), _of_memory)

    def ShareableList(self, sequence: Iterable[Any] | None) -> shared_memory.ShareableList[Any]:
        """Make a list that the manager owns.

        Parameters
        ----------
        sequence : iterable of int, float, bool, str, bytes and None
            The values.

        Returns
        -------
        ShareableList
            Open in this process; others attach by the name of its ``shm``.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.SharedMemoryManager() as manager:
        ...     list(manager.ShareableList(["ready", 0]))
        ['ready', 0]
        """
        return self._own(lambda: shared_memory.ShareableList(sequence), lambda made: _of_memory(made.shm))

    def SharedArray(
        self,
        shape: array.ShapeLike,
        dtype: DTypeLike = float,
        order: str = "C",
        *,
        name: str | None = None,
    ) -> array.SharedArray:
        """Make an array of zeros that the manager owns.

        Parameters
        ----------
        shape : int or tuple of int
            Lengths of the axes.
        dtype : dtype_like, default float
            Type of the elements.
        order : {'C', 'F'}
            Whether the last or the first axis varies fastest.
        name : str, optional
            Name to attach by; a random name if None.

        Returns
        -------
        SharedArray
            Open in this process; others attach by its name, or get it as an argument.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.SharedMemoryManager() as manager:
        ...     manager.SharedArray((2, 3), "f4").shape
        (2, 3)
        """
        return self._own(lambda: array.SharedArray(shape, dtype, order, name=name), segment.mapping_of)

    def share(
        self,
        array_like: ArrayLike,
        dtype: DTypeLike | None = None,
        order: creation.Order = "K",
        *,
        name: str | None = None,
    ) -> array.SharedArray:
        """Copy data into an array that the manager owns.

        Parameters
        ----------
        array_like : array_like
            The data, as for `sharedarray.share`.
        dtype : dtype_like, optional
            Type of the elements; that of the data when None.
        order : {'K', 'A', 'C', 'F'}
            'C' or 'F' for that order; 'K' and 'A' keep Fortran order if the data has it.
        name : str, optional
            Name to attach by; a random name if None.

        Returns
        -------
        SharedArray
            Open in this process; others attach by its name, or get it as an argument.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.SharedMemoryManager() as manager:
        ...     image = manager.share([[1, 2], [3, 4]], name="image_of_manager")
        ...     sa.exists("image_of_manager")
        True
        >>> sa.exists("image_of_manager")
        False
        """
        return self._own(lambda: creation.share(array_like, dtype, order, name=name), segment.mapping_of)

    def __exit__(self, *exception: object) -> None:
        if hasattr(self, "shutdown"):  # a manager that has only connected is another process's to shut down
            self.shutdown()

    def _own(self, make: Callable[[], _T], mapping_of: Callable[[_T], Mapping | None]) -> _T:
        """Make something, and have the server own its block; nothing is left where either fails."""
        with self._connected() as connection:
            made = make()
            mapping = mapping_of(made)
            assert mapping is not None
            block = str(mapping.directory), mapping.name, mapping.inode
            try:
                # The module's own, which the type stubs do not know.
                taken = managers.dispatch(connection, None, "track_segment", block)  # type: ignore[attr-defined]
                if not taken:
                    raise errors.NotOursError(
                        f"the manager cannot own the block {mapping.name!r}",
                        name=mapping.name,
                        found=f"no record of it where the manager's server runs, at {self.address!r}",
                        cause="the server is on another machine, in another container, or another user's",
                        next_step="start a manager on this machine",
                    )
            except BaseException:
                segment.remove(*block)
                mapping.release()
                raise
            return made

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        state = self._state.value  # type: ignore[attr-defined]
        if state != managers.State.STARTED:  # type: ignore[attr-defined]
            ended = state == managers.State.SHUTDOWN  # type: ignore[attr-defined]
            raise ValueError(
                "the manager is shut down, and can make nothing any more"
                if ended
                else "the manager can make nothing yet: call start(), or connect() to one that runs"
            )
        with platform.standard_streams():
            connection = self._Client(self._address, authkey=self._authkey)  # type: ignore[attr-defined]
        with connection:
            yield connection


def _of_memory(memory: shared_memory.SharedMemory) -> Mapping | None:
    return memory._mapping
