"""Which part of a call, of a result or of an object cannot be pickled, and what to do instead.

Pickle's message names the innermost object, such as a ``_thread.lock``. The search here walks from the
arguments, or from the variables that the function uses, to the outermost object that belongs to one process:
the pool, the future, the file. Where there is no such object, it follows the parts that cannot be pickled
alone, as far as there are any.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import multiprocessing
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Final, NamedTuple

from sharedarray._functions import CALL, COPY, RESULT, is_by_value
from sharedarray._functions.snapshots import Empty, cell_content, global_names
from sharedarray._pool.codec.pickler import dumps

__all__ = ["RETURNED", "Culprit", "culprit_of_call", "culprit_of_object", "culprit_of_result"]

# Objects that are tried, and how deep they may lie: more would take longer than a person wants to wait for an
# error message.
_TRIES: Final = 300
_DEPTH: Final = 12


_CAUSE: Final = "open files, locks, sockets, generators and the like belong to one process"


RETURNED: Final = "return the data that the caller needs from it"
_STORED: Final = "store the data that its readers need from it"


class Culprit(NamedTuple):
    """An object that cannot be sent.

    Attributes
    ----------
    noun
        What it is; None for an object that pickle refuses for a reason of its own.
    place
        Where it is.
    cause
        Why it cannot be sent.
    cure
        What to do instead; None if that is not known.
    returned, stored
        What to do instead if it is a result, or part of an object that is stored.
    """

    noun: str | None
    place: str
    cause: str
    cure: str | None
    returned: str = RETURNED
    stored: str = _STORED

    def described(self, reason: str) -> str:
        """Return what was found, for a message: the object, or the reason that pickle gave."""
        return f"{reason}, for {self.place}" if self.noun is None else f"{self.noun} as {self.place}"


class _Kind(NamedTuple):
    noun: str
    cure: str
    cause: str = _CAUSE
    returned: str = RETURNED
    stored: str = _STORED


_POOL = _Kind(
    "a pool",
    "submit from the process that has the pool, or make another pool in the task",
    "its workers have one parent, and take calls from that process only",
)
_FUTURE = _Kind(
    "a future",
    "wait for it before the call, and pass its result()",
    stored="wait for it, and store its result()",
)
_FILE = _Kind("an open file", "pass its path, and open the file in the task", stored="store its path")
_WITHOUT_LOCK = "leave it out, as by __getstate__(); processes lock a shared array by 'with array.lock():'"
_SHARED_LOCK = _Kind(
    "a lock of a shared array or file",
    "pass the array or the path, and lock it in the task",
    stored=_WITHOUT_LOCK,
)
_LOCK = _Kind(
    "a lock of threads",
    "lock a shared array in the task, by 'with array.lock():', or make the lock in the task",
    "it excludes the threads of one process only",
    stored=_WITHOUT_LOCK,
)
_INHERITED = _Kind(
    "a lock or queue of multiprocessing",
    "give one of multiprocessing.get_context('spawn') to the pool as initargs, or pass one of "
    "multiprocessing.Manager()",
    stored=_WITHOUT_LOCK,
)
_GENERATOR = _Kind(
    "a generator",
    "pass a list of its items, or make the generator in the task",
    returned="return a list of its items",
    stored="store a list of its items",
)
_COROUTINE = _Kind(
    "a coroutine",
    "await it before the call, and pass its result",
    returned="the function is async: call one that runs it, as in 'lambda x: asyncio.run(function(x))'",
)
_SOCKET = _Kind("a socket", "pass its address, and connect in the task")
_THREAD = _Kind("a thread", "start the thread in the task")
_PROCESS = _Kind("a process", "start the process in the task")
_CONNECTION = _Kind("an open connection or file", "pass its path or address, and open it in the task")

_BY_CLASS: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], _Kind], ...]] = (
    (Executor, _POOL),
    (Future, _FUTURE),
    (io.IOBase, _FILE),
    (
        (
            *(type(threading.Lock()), type(threading.RLock()), threading.Condition),
            *(threading.Semaphore, threading.Event, threading.Barrier),
        ),
        _LOCK,
    ),
    ((types.GeneratorType, types.AsyncGeneratorType), _GENERATOR),
    (types.CoroutineType, _COROUTINE),
    (socket.socket, _SOCKET),
    (threading.Thread, _THREAD),
    ((subprocess.Popen, multiprocessing.process.BaseProcess), _PROCESS),
)
# Classes of modules that may not be loaded, by the beginnings of their full names.
_BY_NAME: Final = (
    ("multiprocessing.pool.", _POOL),
    ("_asyncio.", _FUTURE),
    ("asyncio.futures.", _FUTURE),
    ("asyncio.tasks.", _FUTURE),
    ("multiprocessing.synchronize.", _INHERITED),
    ("multiprocessing.queues.", _INHERITED),
    ("sharedarray._locks.", _SHARED_LOCK),
    ("tempfile._TemporaryFile", _FILE),
    ("tempfile.SpooledTemporaryFile", _FILE),
    ("sqlite3.", _CONNECTION),
    ("h5py.", _CONNECTION),
    ("ssl.SSLSocket", _SOCKET),
    ("zipfile.ZipFile", _FILE),
    ("tarfile.TarFile", _FILE),
)


def _kind_of(value: Any) -> _Kind | None:
    """Return what is known of an object that belongs to one process; None for others."""
    if isinstance(value, io.BytesIO | io.StringIO) or any(
        value is stream for stream in (sys.stdin, sys.stdout, sys.stderr)
    ):
        return None
    for classes, kind in _BY_CLASS:
        if isinstance(value, classes):
            return kind
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    return next((kind for beginning, kind in _BY_NAME if name.startswith(beginning)), None)


def culprit_of_call(
    function: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str,
    *,
    inherits: bool = False,
) -> Culprit | None:
    """Return what of a call cannot be sent; None if no part alone is the reason.

    Parameters
    ----------
    function
        What is called; None if it can be sent.
    args, kwargs
        The arguments.
    label
        What messages call the function.
    inherits
        Whether locks and queues of multiprocessing can be sent, at the start of a process.
    """
    try:
        search = _Search(inherits=inherits)
        names = _parameters(function, len(args)) if args else []
        for name, value in (*zip(names, args, strict=True), *((repr(key), kwargs[key]) for key in kwargs)):
            root = f"argument {name}"
            found = search.find(value, root, name.strip("'") if name.startswith("'") else root)
            if found is not None:
                return found
        return None if function is None else search.find(function, f"the function {label}", label)
    except Exception:  # methods of the user's
        return None


def culprit_of_result(value: Any) -> Culprit | None:
    """Return what of a result cannot be sent; None if no part alone is the reason."""
    try:
        return _Search(RESULT).find(value, "the result", "result")
    except Exception:  # methods of the user's
        return None


def culprit_of_object(value: Any) -> Culprit | None:
    """Return what of an object cannot be stored; None if no part alone is the reason."""
    try:
        return _Search(COPY).find(value, "the object", "object")
    except Exception:  # methods of the user's
        return None


def _parameters(function: Callable[..., Any] | None, count: int) -> list[str]:
    """Return how messages name the arguments of a call: by the function's parameters, or by number."""
    found: list[str] = []
    with contextlib.suppress(TypeError, ValueError):  # a builtin without a signature
        parameters = [] if function is None else inspect.signature(function).parameters.values()
        found = [repr(each.name) for each in parameters if each.kind in _POSITIONAL]
    return [*found[:count], *(f"number {at + 1}" for at in range(len(found), count))]


_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


class _Search:
    """A search for the object that cannot be sent."""

    def __init__(self, purpose: str = CALL, *, inherits: bool = False) -> None:
        self._purpose = purpose
        self._inherits = inherits
        self._left = _TRIES
        self._seen: dict[int, Any] = {}

    def _fails(self, value: Any) -> bool:
        self._left -= 1
        try:
            dumps(value, purpose=self._purpose)
        except Exception:
            return True
        return False

    def find(self, value: Any, place: str, expression: str, depth: int = 0) -> Culprit | None:
        """Return the outermost culprit in an object; None if the object can be sent.

        Parameters
        ----------
        value, place
            The object, and what messages call its place.
        expression
            Where it is, as code would write it.
        depth
            How deep it lies.
        """
        if id(value) in self._seen or self._left <= 0 or not self._fails(value):
            return None
        self._seen[id(value)] = value
        kind = _kind_of(value)
        if kind is _INHERITED and self._inherits and not _is_of_fork(value):
            return None
        if kind is not None:
            name = _name_of(value) if kind is _FILE else None
            noun = f"{kind.noun} ({name!r})" if isinstance(name, str) else kind.noun
            return Culprit(noun, place, kind.cause, kind.cure, kind.returned, kind.stored)
        if depth < _DEPTH:
            for part, inner_place, inner in _parts(value, place, expression):
                found = self.find(part, inner_place, inner, depth + 1)
                if found is not None:
                    return found
        return Culprit(None, place, _CAUSE, None)


def _is_of_fork(value: Any) -> bool:
    """Return whether only a forked process can use a lock, or the locks of a queue, of multiprocessing."""
    parts = [value, *getattr(value, "__dict__", {}).values()]
    return any(getattr(part, "_is_fork_ctx", False) is True for part in parts)


def _name_of(file: Any) -> Any:
    try:
        return file.name
    except Exception:
        return None


def _parts(value: Any, place: str, expression: str) -> Iterator[tuple[Any, str, str]]:
    """Yield the parts of an object, each with its place and with code for it."""

    def inner(part: Any, code: str) -> tuple[Any, str, str]:
        where = place.partition(", at ")[0]
        return part, f"{where}, at {code}", code

    kind = type(value)
    if kind is dict:
        for key, part in list(value.items()):
            yield inner(part, f"{expression}[{key!r}]")
    elif isinstance(value, list | tuple):
        for at, part in enumerate(list(value)):
            yield inner(part, f"{expression}[{at}]")
    elif isinstance(value, set | frozenset):
        for part in list(value):
            yield inner(part, f"an item of {expression}")
    elif kind is types.FunctionType:
        yield from _variables(value)
    elif kind is types.MethodType:
        yield value.__self__, f"the object of the method {value.__name__}", "self"
        yield value.__func__, place, expression
    elif kind is functools.partial:
        for at, part in enumerate(value.args):
            yield part, f"argument {at + 1} of the functools.partial", f"partial.args[{at}]"
        for name, part in value.keywords.items():
            yield part, f"argument {name!r} of the functools.partial", name
        yield value.func, place, expression
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__, place, expression
    else:
        for name, part in _attributes(value):
            yield inner(part, f"{expression}.{name}")


def _variables(function: types.FunctionType) -> Iterator[tuple[Any, str, str]]:
    """Yield the variables that a function brings along if it travels by value."""
    name, code = function.__qualname__, function.__code__
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        content = cell_content(cell)
        if content is not Empty:
            yield content, f"the variable {variable!r}, which {name} uses", variable
    if is_by_value(function.__module__) or function.__closure__ or "<" in name:
        for variable in global_names(code):
            if variable in function.__globals__:
                shown = f"the global variable {variable!r}, which {name} uses"
                yield function.__globals__[variable], shown, variable
    parameters = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    for parameter, default in zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True):
        yield default, f"the default of {parameter!r} of {name}", parameter
    for parameter, default in (function.__kwdefaults__ or {}).items():
        yield default, f"the default of {parameter!r} of {name}", parameter


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
