"""Descriptors on POSIX systems: none of the library's is 0, 1 or 2, and an error names the limit of them.

A program may run with its standard streams closed. The kernel gives their numbers to the next files that it
opens, and then whatever any library prints goes into these. So every call that opens something goes through
`opened`, which moves what has such a number. Where another library opens something, or starts a process that
would inherit closed streams, `standard_streams` has the null device in their place meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from sharedarray import _errors as errors, _forks as forks

__all__ = [
    "EXHAUSTED",
    "exhausted",
    "keep_standard_streams",
    "need_descriptors",
    "opened",
    "opened_file",
    "opener",
    "standard_streams",
    "streams",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_STANDARD = range(3)  # the descriptors of the standard streams
_FIRST_OWN = 3
# Modes of the file that replaces a closed standard stream. No program opens /dev/null like this. So if the
# program has put a file there meanwhile, this library finds that out, and leaves it open.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
EXHAUSTED = (errno.EMFILE, errno.ENFILE)  # errors of opening if no descriptor is free


class _Streams:
    """The standard streams that were closed when this process needed them.

    Attributes
    ----------
    found_closed : bool
        Whether this process has opened something that got the number of one. A forked child inherits this.
    lock : Lock
        Of the attributes below, which are reset in a forked child.
    users : int
        Threads in a ``with`` statement of `standard_streams`.
    in_place : list of int
        The standard streams that they have opened.
    """

    def __init__(self) -> None:
        self.found_closed = False
        self.forget()

    def forget(self) -> None:
        """Leave open, in a forked child, what another thread of the parent has opened."""
        self.lock = threading.Lock()
        self.users = 0
        self.in_place: list[int] = []


streams = _Streams()
forks.around(__name__, in_child=streams.forget)


def opened(opener: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
    try:
        found = opener(*arguments, **keywords)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise exhausted(error) from None
        raise
    if isinstance(found, int) and found >= _FIRST_OWN:
        return found
    moved: _T = _moved(found)
    return moved


def opened_file(path: str, flags: int, mode: int = 0o777) -> int:
    """Do the same as ``opened(os.open, …)``, in half the time: every attachment opens a file."""
    try:
        found = os.open(path, flags, mode)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise exhausted(error) from None
        raise
    if found >= _FIRST_OWN:
        return found
    moved: int = _moved(found)
    return moved


def opener(path: str, flags: int) -> int:
    return opened_file(path, flags, 0o666)


def need_descriptors(count: int) -> None:
    found: list[int] = []
    try:
        found.append(opened(os.open, os.devnull, os.O_RDONLY))
        for _ in range(count - 1):
            found.append(opened(os.dup, found[0]))
    finally:
        for descriptor in found:
            os.close(descriptor)


def _moved(found: Any) -> Any:
    """Return what was opened, moved to other descriptors if it has those of standard streams."""
    if isinstance(found, tuple):
        moved: list[Any] = []
        try:
            moved.extend(_moved(each) for each in found)
        except BaseException:
            for each in (*moved, *found[len(moved) + 1 :]):
                _close(each)
            raise
        return tuple(moved)
    descriptor: Any = found.fileno() if hasattr(found, "fileno") else found
    if not isinstance(descriptor, int) or descriptor not in _STANDARD:
        return found
    streams.found_closed = True
    try:
        above = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN)
    except OSError as error:
        raise exhausted(error) from None
    finally:
        _close(found)
    if isinstance(found, int):
        return above
    kind: Any = type(found)
    return kind.fromfd(above) if hasattr(kind, "fromfd") else kind(fileno=above)  # epoll, kqueue; a socket


def _close(found: Any) -> None:
    if isinstance(found, int):
        os.close(found)
    elif hasattr(found, "close"):
        found.close()


@contextmanager
def standard_streams() -> Iterator[None]:
    with streams.lock:
        if not streams.users:
            try:
                _open_streams()
            except BaseException:
                _close_streams()
                raise
        streams.users += 1
    try:
        yield
    finally:
        with streams.lock:
            streams.users -= 1
            if not streams.users:
                _close_streams()


def keep_standard_streams() -> None:
    while (found := os.open(os.devnull, os.O_RDWR)) in _STANDARD:
        os.set_inheritable(found, True)
    os.close(found)


def _open_streams() -> None:
    for descriptor in _STANDARD:
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError:
            found = os.open(os.devnull, _FLAGS)
            if found == descriptor:
                streams.in_place.append(found)
                os.set_inheritable(found, True)
            else:
                os.close(found)  # another thread has just opened a file there


def _close_streams() -> None:
    for descriptor in streams.in_place:
        if _is_in_place(descriptor):
            os.close(descriptor)
    streams.in_place.clear()


def _is_in_place(descriptor: int) -> bool:
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        return flags & _FLAGS == _FLAGS and os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))
    except OSError:
        return False


def exhausted(error: OSError) -> OSError:
    """Return the error of a call that found no free descriptor, as one that names the limit."""
    name = error.filename if isinstance(error.filename, str) else None
    if error.errno == errno.ENFILE:
        return errors.LimitError(
            "this machine has as many files open as it may have",
            number=errno.ENFILE,
            name=name,
            found="no free file in the kernel's table, whose limit is fs.file-max",
            expected="a free one",
            next_step="end processes that have many files open, or have the administrator raise fs.file-max",
        )
    return errors.LimitError(
        "this process has as many descriptors open as it may have",
        number=errno.EMFILE,
        name=name,
        found=f"{os.sysconf('SC_OPEN_MAX')} in use, the limit RLIMIT_NOFILE of open files",
        expected="a free one",
        cause="each shared array keeps one descriptor open, and two before Python 3.13, besides other files",
        next_step="drop or close arrays, or raise the limit: `ulimit -n` before the program starts, or "
        "resource.setrlimit(resource.RLIMIT_NOFILE, ...) in it",
    )
