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
    """A name that cannot be a block's: it must be one plain path component."""


class BlockNotFoundError(SharedArrayError, FileNotFoundError):
    """No block of that name, or the name leads to another block than the one meant."""

    _errno = errno.ENOENT


class BlockExistsError(SharedArrayError, FileExistsError):
    """The name, or the file, is taken; what is there was left as it is."""

    _errno = errno.EEXIST


class NotOursError(SharedArrayError, PermissionError):
    """A file that this library did not make, or that is not safe to trust."""

    _errno = errno.EPERM


class UnsupportedError(SharedArrayError, NotImplementedError):
    """The system does not support the request; the page on platforms says why."""


class HeaderError(SharedArrayError, ValueError):
    """The bytes are not a header page that fits its block, or not the list that they should be."""


class CapacityError(SharedArrayError, ValueError):
    """An array that grows cannot have so many rows; none of them was appended."""


class UnsupportedDTypeError(SharedArrayError, TypeError, ValueError):
    """A dtype whose elements are not plain bytes, such as ``object``.

    Also a `ValueError`, because `numpy.save` and `numpy.frombuffer` refuse such dtypes with one.
    """


class MaskedArrayError(SharedArrayError, TypeError, ValueError):
    """A masked array was given for plain elements, which would lose its mask."""


class BlockClosedError(SharedArrayError, ValueError):
    """Something that needs the block was asked of it after ``close()``."""


class OutOfSharedMemoryError(SharedArrayError, OSError):
    """The memory file system, the machine or its control group has not the pages asked for.

    Attributes
    ----------
    needed, available : int or None
        Bytes asked for, and bytes that were free at that moment.
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
    """

    _errno = errno.EMFILE

    def __init__(self, message: str, *, number: int = errno.EMFILE, **details: str | None) -> None:
        self._errno = number
        super().__init__(message, **details)

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, message, details), state = super().__reduce__()
        return rebuild, (kind, message, {**details, "number": self._errno}), state


class LockTimeout(SharedArrayError, TimeoutError):
    """A lock was not free within its timeout."""

    _errno = errno.ETIMEDOUT


class DeadlockError(SharedArrayError, RuntimeError):
    """A wait would never end: for bytes that the thread has locked itself, or for slots that it keeps."""


class ProducerDied(SharedArrayError, ConnectionResetError):
    """The process that writes to a stream ended without closing it; all that it published was read."""

    _errno = errno.ECONNRESET


if TYPE_CHECKING:

    class WorkerDied(SharedArrayError, BrokenProcessPool):
        """A worker process ended while a task of the pool was its own."""

else:

    def __getattr__(name: str) -> type[SharedArrayError]:
        # Made when first asked for: its base takes as long to import as all the rest of this package.
        if name != "WorkerDied":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from concurrent.futures.process import BrokenProcessPool

        about = "A worker process ended while a task of the pool was its own."
        made = type(name, (SharedArrayError, BrokenProcessPool), {"__doc__": about, "__module__": __name__})
        return globals().setdefault(name, made)


class NotPicklableError(SharedArrayError, pickle.PicklingError):
    """Something cannot travel between a pool and a worker; only the call that it belongs to fails.

    The reason that pickle gave is the ``__cause__``.
    """


class MissingExtraError(SharedArrayError, ImportError):
    """A feature needs a package that is not installed; the message names the extra that brings it."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.name = details.get("name")


class UnconsumedResultsWarning(ResourceWarning):
    """Calls of a map raised exceptions, and no code took the results; see the ``__cause__``.

    Python hides a `ResourceWarning` unless it is told otherwise; this one is shown unless the program hides
    resource warnings itself.
    """
