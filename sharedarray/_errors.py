"""Everything that can go wrong, in one tree.

::

    SharedArrayError
    ├── InvalidNameError        ValueError         a name that cannot be a block's
    ├── BlockNotFoundError      FileNotFoundError  nothing of that name, or it is another block by now
    ├── BlockExistsError        FileExistsError    the name is taken
    ├── NotOursError            PermissionError    a file that this library did not make, or must not touch
    ├── UnsupportedError        NotImplementedError   what this system has no way to do
    ├── HeaderError             ValueError         the bytes are no NPY page, or no list, that fits the block
    ├── CapacityError           ValueError         more rows than an array that grows can have
    ├── UnsupportedDTypeError   TypeError, ValueError   a dtype whose elements are no plain bytes
    ├── MaskedArrayError        TypeError, ValueError   a masked array where its mask would be lost
    ├── BlockClosedError        ValueError         used after ``close()``
    ├── OutOfSharedMemoryError  OSError (ENOSPC)   the pages asked for are not there
    ├── LimitError              OSError            no more descriptors or memory maps may be had
    ├── LockTimeout             TimeoutError       a lock was not free in time
    ├── DeadlockError           RuntimeError       a thread would wait for a lock that it holds itself
    ├── ProducerDied            ConnectionResetError   a stream's producer ended without closing it
    ├── WorkerDied              BrokenProcessPool     a worker process ended under a task
    ├── NotPicklableError       PicklingError      a call or result cannot travel to or from a worker
    └── MissingExtraError       ImportError        an optional dependency is not installed

    UnconsumedResultsWarning    ResourceWarning    tasks raised exceptions, and no code took their results

Each is also the builtin that people already catch, survives pickling, and says what happened, with the
name, what was found, what was expected, the likely cause and the next step, as far as they are known.
"""

from __future__ import annotations

import errno
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool

__all__ = [
    "BlockClosedError",
    "BlockExistsError",
    "BlockNotFoundError",
    "CapacityError",
    "DeadlockError",
    "HeaderError",
    "InvalidNameError",
    "LimitError",
    "LockTimeout",
    "MaskedArrayError",
    "MissingExtraError",
    "NotOursError",
    "NotPicklableError",
    "OutOfSharedMemoryError",
    "ProducerDied",
    "SharedArrayError",
    "UnconsumedResultsWarning",
    "UnsupportedDTypeError",
    "UnsupportedError",
    "WorkerDied",
]


class SharedArrayError(Exception):
    """Root of the errors of this package.

    Parameters
    ----------
    message
        What happened, in one sentence without a full stop.
    name
        The block, path or task that it happened to.
    found, expected
        What was there, and what should have been.
    cause
        The likely reason.
    next_step
        What the reader can do about it.

    Attributes
    ----------
    message, name, found, expected, cause, next_step
        The parameters; None if unknown.

    Examples
    --------
    >>> import sharedarray as sa
    >>> try:
    ...     sa.attach("block_of_no_process")
    ... except sa.SharedArrayError as error:
    ...     error.name
    'block_of_no_process'
    """

    _errno: int | None = None  # of those that are an OSError too
    filename: Any = None

    def __init__(
        self,
        message: str,
        *,
        name: str | None = None,
        found: str | None = None,
        expected: str | None = None,
        cause: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.message = message
        self.name = name
        self.found = found
        self.expected = expected
        self.cause = cause
        self.next_step = next_step
        if self._errno is None:
            super().__init__(message)
        else:
            super().__init__(self._errno, message)
            self.filename = name

    def __str__(self) -> str:
        text = self.message
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.cause is not None:
            text += f". Likely cause: {self.cause}"
        if self.next_step is not None:
            text += f". Next step: {self.next_step}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        details = {key: getattr(self, key) for key in ("name", "found", "expected", "cause", "next_step")}
        return _rebuild, (type(self), self.message, details), self.__dict__


def _rebuild(kind: type[SharedArrayError], message: str, details: dict[str, Any]) -> SharedArrayError:
    return kind(message, **details)


class InvalidNameError(SharedArrayError, ValueError):
    """A name that cannot be a block's: it must be one plain path component.

    Examples
    --------
    >>> import sharedarray as sa
    >>> try:
    ...     sa.zeros(3, name="folder/frames")
    ... except ValueError as error:
    ...     type(error).__name__
    'InvalidNameError'
    """


class BlockNotFoundError(SharedArrayError, FileNotFoundError):
    """No block of that name, or the name leads to another block than the one meant.

    Examples
    --------
    >>> import sharedarray as sa
    >>> try:
    ...     sa.attach("block_of_no_process")
    ... except FileNotFoundError as error:
    ...     type(error).__name__
    'BlockNotFoundError'
    """

    _errno = errno.ENOENT


class BlockExistsError(SharedArrayError, FileExistsError):
    """The name, or the file, is taken; what is there was left as it is.

    Examples
    --------
    >>> import sharedarray as sa
    >>> frames = sa.zeros(3, name="frames_there_already")
    >>> try:
    ...     sa.zeros(3, name="frames_there_already")
    ... except FileExistsError as error:
    ...     type(error).__name__
    'BlockExistsError'
    """

    _errno = errno.EEXIST


class NotOursError(SharedArrayError, PermissionError):
    """A file that this library did not make, or that is not safe to trust.

    Examples
    --------
    >>> import os, tempfile
    >>> import sharedarray as sa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with sa.zeros(3, file=os.path.join(folder, "kept.npy")) as kept:
    ...         try:
    ...             kept.unlink()  # files are removed by other means
    ...         except PermissionError as error:
    ...             type(error).__name__
    'NotOursError'
    """

    _errno = errno.EPERM


class UnsupportedError(SharedArrayError, NotImplementedError):
    """The system does not support the request; the page on platforms says why.

    Examples
    --------
    >>> import os, tempfile
    >>> import sharedarray as sa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with sa.zeros(3, file=os.path.join(folder, "kept.npy")) as kept:
    ...         try:
    ...             kept.notify()  # which arrays in memory have
    ...         except NotImplementedError as error:
    ...             type(error).__name__
    'UnsupportedError'
    """


class HeaderError(SharedArrayError, ValueError):
    """The bytes are not a header page that fits its block, or not the list that they should be.

    Examples
    --------
    >>> import os, tempfile
    >>> import sharedarray as sa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "damaged.npy")
    ...     with open(path, "wb") as file:
    ...         size = file.write(b"no NPY page")
    ...     try:
    ...         sa.open(path)
    ...     except ValueError as error:
    ...         type(error).__name__
    'HeaderError'
    """


class CapacityError(SharedArrayError, ValueError):
    """An array that grows cannot have so many rows; none of them was appended.

    Examples
    --------
    >>> import sharedarray as sa
    >>> log = sa.zeros(0, capacity=2)
    >>> try:
    ...     log.append([1, 2, 3])
    ... except ValueError as error:
    ...     type(error).__name__, len(log)
    ('CapacityError', 0)
    """


class UnsupportedDTypeError(SharedArrayError, TypeError, ValueError):
    """A dtype whose elements are not plain bytes, such as ``object``.

    Also a `ValueError`, because `numpy.save` and `numpy.frombuffer` refuse such dtypes with one.

    Examples
    --------
    >>> import sharedarray as sa
    >>> try:
    ...     sa.zeros(3, object)
    ... except TypeError as error:
    ...     type(error).__name__
    'UnsupportedDTypeError'
    """


class MaskedArrayError(SharedArrayError, TypeError, ValueError):
    """A masked array was given for plain elements, which would lose its mask.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> try:
    ...     sa.share(np.ma.array([1, 2], mask=[False, True]))
    ... except TypeError as error:
    ...     type(error).__name__
    'MaskedArrayError'
    """


class BlockClosedError(SharedArrayError, ValueError):
    """Something that needs the block was asked of it after ``close()``.

    Examples
    --------
    >>> import sharedarray as sa
    >>> a = sa.zeros(3)
    >>> a.close()
    >>> try:
    ...     a.reference()
    ... except ValueError as error:
    ...     type(error).__name__
    'BlockClosedError'
    """


class OutOfSharedMemoryError(SharedArrayError, OSError):
    """The memory file system, the machine or its control group has not the pages asked for.

    Attributes
    ----------
    needed, available : int or None
        Bytes asked for, and bytes that were free at that moment.

    Examples
    --------
    >>> import sharedarray as sa
    >>> try:
    ...     a = sa.zeros(1_000)
    ... except sa.OutOfSharedMemoryError as error:  # not here, for so few bytes
    ...     print(f"{error.needed} bytes are needed, {error.available} are free")
    """

    _errno = errno.ENOSPC
    needed: int | None = None
    available: int | None = None

    def __init__(
        self, message: str, *, needed: int | None = None, available: int | None = None, **details: str | None
    ) -> None:
        super().__init__(message, **details)
        self.needed = needed
        self.available = available


class LimitError(SharedArrayError, OSError):
    """A limit of the process or the machine is reached: open descriptors, memory maps, address space.

    A limit of the size of files is another, since a block is a file in memory. The ``errno`` is the system's:
    ``EMFILE``, ``ENFILE``, ``ENOMEM`` or ``EFBIG``.

    Examples
    --------
    >>> import errno
    >>> import sharedarray as sa
    >>> try:
    ...     a = sa.zeros(3)
    ... except sa.LimitError as error:  # not here, unless very many are open
    ...     print("raise ulimit -n" if error.errno == errno.EMFILE else error)
    """

    _errno = errno.EMFILE

    def __init__(self, message: str, *, number: int = errno.EMFILE, **details: str | None) -> None:
        self._errno = number
        super().__init__(message, **details)

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, message, details), state = super().__reduce__()
        return rebuild, (kind, message, {**details, "number": self._errno}), state


class LockTimeout(SharedArrayError, TimeoutError):
    """A lock was not free within its timeout.

    Examples
    --------
    >>> import sharedarray as sa
    >>> a = sa.zeros(3)
    >>> with a.lock():
    ...     try:
    ...         a[:2].lock(timeout=0).acquire()
    ...     except TimeoutError as error:
    ...         type(error).__name__
    'LockTimeout'
    """

    _errno = errno.ETIMEDOUT


class DeadlockError(SharedArrayError, RuntimeError):
    """A wait would never end: for bytes that the thread has locked itself, or for slots that it keeps.

    Examples
    --------
    >>> import sharedarray as sa
    >>> a = sa.zeros(3)
    >>> with a.lock():
    ...     try:
    ...         a[:2].lock().acquire()  # has no timeout
    ...     except RuntimeError as error:
    ...         type(error).__name__
    'DeadlockError'
    """


class ProducerDied(SharedArrayError, ConnectionResetError):
    """The process that writes to a stream ended without closing it; all that it published was read.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Stream("stream_that_lives", 2) as writer, sa.Stream("stream_that_lives") as reader:
    ...     writer.put([1.0, 2.0])
    ...     try:
    ...         reader.get(timeout=5.0).tolist()
    ...     except sa.ProducerDied:  # not here: the producer is this process
    ...         print("start the producer again")
    [1.0, 2.0]
    """

    _errno = errno.ECONNRESET


_WORKER_DIED = """A worker process ended while a task of the pool was its own.

    Examples
    --------
    >>> import os
    >>> import sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     type(pool.submit(os._exit, 1).exception()).__name__
    'WorkerDied'
    """

if TYPE_CHECKING:

    class WorkerDied(SharedArrayError, BrokenProcessPool):
        __doc__ = _WORKER_DIED

else:

    def __getattr__(name: str) -> type[SharedArrayError]:
        # Made when first asked for: its base takes as long to import as all the rest of this package.
        if name != "WorkerDied":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from concurrent.futures.process import BrokenProcessPool

        members = {"__doc__": _WORKER_DIED, "__module__": __name__}
        return globals().setdefault(name, type(name, (SharedArrayError, BrokenProcessPool), members))


class NotPicklableError(SharedArrayError, pickle.PicklingError):
    """An object cannot travel between a pool and a worker, or be stored by `put`.

    Of the calls of a pool, only the one that the object belongs to fails. The reason that pickle gave is the
    ``__cause__``.

    Examples
    --------
    >>> import threading
    >>> import sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     type(pool.submit(id, threading.Lock()).exception()).__name__
    'NotPicklableError'
    """


class MissingExtraError(SharedArrayError, ImportError):
    """A feature needs a package that is not installed; the message names the extra that brings it.

    Examples
    --------
    >>> import sharedarray as sa
    >>> issubclass(sa.MissingExtraError, ImportError)
    True
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.name = details.get("name")


class UnconsumedResultsWarning(ResourceWarning):
    """Calls of a map raised exceptions, and no code took the results; see the ``__cause__``.

    Python hides a `ResourceWarning` unless it is told otherwise; this one is shown unless the program hides
    resource warnings itself.

    Examples
    --------
    >>> import warnings
    >>> import sharedarray as sa
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", sa.UnconsumedResultsWarning)  # results that may be lost
    """
