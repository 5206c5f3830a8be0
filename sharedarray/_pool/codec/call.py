"""Calls: the function's name, and the arguments.

A call of a function that can be imported, with numbers, text and arrays alone, is told by the function's name
in the format of `marshal` (PLAIN). Any other is a row of pickles with one memo: the function, then each
argument, so that the pool knows how many bytes each argument took.
"""

from __future__ import annotations

import importlib
import io
import marshal
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import cloudpickle
import numpy as np

from sharedarray import _functions as functions, _reference as reference
from sharedarray._array import SharedArray
from sharedarray._functions import SCALARS
from sharedarray._pool.codec.account import Account, Copied, PlainAccount, names_of
from sharedarray._pool.codec.arrays import KnownBuffers, OutOfBandBuffer, pack_array, unpack_array
from sharedarray._pool.codec.pickled import Pickled, Short, marshalled
from sharedarray._pool.codec.pickler import PickleState, TaskPickler
from sharedarray._pool.transport.messages import PLAIN, Buffer
from sharedarray._reference import FORMAT, packed_before
from sharedarray._segment import Mapping, mapping_of
from sharedarray._thresholds import OUT_OF_BAND

__all__ = [
    "Call",
    "are_scalars",
    "dump_call",
    "function_named",
    "importable_name",
    "is_flat",
    "load_call",
    "short_call",
]

# Items of a list, tuple or dict that are looked at one by one: a pickle of more is nearly as fast.
FLAT_ITEMS = 1000


def are_scalars(kinds: Iterable[type]) -> bool:
    """Return whether all of these types are numbers, text and the like."""
    try:
        return SCALARS.issuperset(kinds)
    except Exception:  # the hash of a class is its metaclass's
        return False


def is_flat(value: Any) -> bool:
    """Return whether a value is a short list, tuple or dict of numbers, text and the like.

    In the format of `marshal` this takes a fifth of the time of a pickle, and arrives as the same.
    """
    kind = type(value)
    if (kind is not list and kind is not tuple and kind is not dict) or len(value) > FLAT_ITEMS:
        return False
    return are_scalars(map(type, value)) and (kind is not dict or are_scalars(map(type, value.values())))


def importable_name(function: Any) -> tuple[str | None, str] | None:
    """Return module and name of a function that every process can import by these, None for others."""
    if function is None:
        return None, ""
    kind = type(function)
    if kind not in _NAMED:
        ufunc: str = function.__name__ if kind is np.ufunc else ""
        return ("numpy", ufunc) if ufunc and getattr(np, ufunc, None) is function else None
    home: str | None = function.__module__
    if home is None or _BY_VALUE:
        return None
    module = sys.modules.get(home)
    if module is None:
        return None
    if _specs.get(home, "") is not getattr(module, "__spec__", None) and functions.is_by_value(home):
        return None
    name: str = function.__qualname__
    return (home, name) if getattr(module, name, None) is function else None


def function_named(home: str | None, name: str) -> Any:
    """Return what `importable_name` was given."""
    if home is None:
        return None
    return getattr(sys.modules.get(home) or importlib.import_module(home), name)


# Kinds of callables that have a module and a name; the last one is that of most functions of NumPy's.
_NAMED = frozenset((FunctionType, BuiltinFunctionType, type, type(np.sum)))
# The specs of modules that any process can import.
_specs = functions.importable
# Modules whose functions the user wants to be sent by value (cloudpickle.register_pickle_by_value).
_BY_VALUE: set[str] = cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES


def dump_call(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: KnownBuffers | None = None
) -> Pickled:
    """Pickle a call.

    Parameters
    ----------
    function
        None if the receiver has it already.
    args, kwargs
        Its arguments.
    known
        The buffers of the call's other tasks, by id of the array: an array that is found there goes to many.
        The caller keeps the arrays alive, and sends nothing before the last task is pickled.
    """
    home = importable_name(function)
    if home is not None:
        call = _plain_call(home, args, kwargs, known)
        if call is not None:
            return call
    file = io.BytesIO()
    state = PickleState(known, many=False)
    pickler = TaskPickler(file, state)
    parts: list[Copied] = []
    before = (0, 0, 0, 0)
    names = tuple(kwargs)
    head = function if home is None else None, home, len(args), names
    for part in (head, *args, *kwargs.values()):
        pickler.dump(part)
        copied = sum([buffer.length for buffer in state.buffers]) - state.reused
        now = state.shared, copied, file.tell(), state.reused
        parts.append((now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3]))
        before = now
    account = Account(names_of(len(args), names), parts)
    return Pickled(file.getvalue(), state.buffers, state.blocks, state.data, account)


class Call(Short):
    """A small call without its function, of which one argument is a shared array. It is never changed."""

    __slots__ = ("account", "blocks")

    def __init__(self, stream: bytes, block: Mapping, size: int) -> None:
        self.stream = stream
        self.blocks: tuple[Mapping] = (block,)
        self.account = PlainAccount(((size, 0, 0),), stream)


def short_call(args: tuple[Any, ...]) -> Call | None:
    """Do what `dump_call` does, in a third of the time, for arguments that come by the thousand.

    These are one `SharedArray`, and numbers and text; None is returned for others, and for long texts.
    """
    if len(args) == 1:
        return _call_of(args[0]) if type(args[0]) is SharedArray else None
    values: list[Any] = list(args)
    block: Mapping | None = None
    size = 0
    for place, value in enumerate(args):
        kind = type(value)
        if kind in SCALARS:
            continue
        if kind is not SharedArray or block is not None:
            return None
        known = packed_before(value) or _pack_shared(value)
        if known is None:
            return None
        packed, block = known
        values[place] = (packed,)
        size = value.nbytes
    stream = marshal.dumps((None, "", (), values), FORMAT)
    return Call(stream, block, size) if block is not None and len(stream) < OUT_OF_BAND else None


def _call_of(array: SharedArray) -> Call | None:
    """Return the call with this array alone, that of the last time if it is the same."""
    known = packed_before(array) or _pack_shared(array)
    if known is None:
        return None
    packed, block = known
    last: tuple[bytes, Call] | None = getattr(array, "_call", None)
    if last is not None and last[0] is packed:
        return last[1]
    call = Call(marshal.dumps((None, "", (), [(packed,)]), FORMAT), block, array.nbytes)
    array._call = packed, call
    return call


def _pack_shared(array: SharedArray) -> tuple[bytes, Mapping] | None:
    """Do as `packed_before` the first time."""
    mapping = mapping_of(array)
    packed = None if mapping is None else reference.pack_held(array, mapping, named=True)
    return None if mapping is None or packed is None else (packed, mapping)


def _plain_call(
    home: tuple[str | None, str], args: tuple[Any, ...], kwargs: dict[str, Any], known: KnownBuffers | None
) -> Pickled | None:
    """Return the PLAIN call of arguments that are arrays, numbers and text; None if there are others.

    An argument that is there several times must arrive as one object: its repetitions are the position of the
    first.
    """
    items: list[Any] = []
    sizes: list[tuple[int, int, int]] = []  # bytes shared, copied, and copied for another task
    blocks: list[Mapping] = []
    buffers: list[OutOfBandBuffer] = []
    seen: dict[int, tuple[int]] = {}
    values = (*args, *kwargs.values()) if kwargs else args
    for value in values:
        kind = type(value)
        if kind in SCALARS:
            items.append(value)
            continue
        if id(value) in seen:
            items.append(seen[id(value)])
            sizes.append((value.nbytes, 0, 0) if mapping_of(value) is not None else _NO_BYTES)
            continue
        mapping = mapping_of(value) if kind is np.ndarray or kind is SharedArray else None
        packed: Any
        if mapping is not None:
            held = reference.pack_held(value, mapping)
            if held is None:
                return None
            packed = (held,)
            sizes.append((value.nbytes, 0, 0))
            blocks.append(mapping)
        elif kind is np.ndarray or issubclass(kind, np.generic):
            packed = pack_array(value, buffers, known)
            if packed is None:
                return None
            if packed[0] is None:
                length = buffers[-1].length
                sizes.append((0, 0, length) if buffers[-1].many else (0, length, 0))
            else:
                sizes.append(_NO_BYTES)
        else:
            return None
        if kind is np.ndarray or kind is SharedArray:
            seen[id(value)] = (len(items),)
        items.append(packed)
    if not sizes:
        return marshalled((*home, tuple(kwargs), items) if kwargs else (*home, (), args))
    try:
        stream = marshal.dumps((*home, tuple(kwargs), items), FORMAT)
    except ValueError:  # the dtype has fields
        return None
    data = len(blocks) < len(sizes)
    return Pickled(stream, buffers, blocks, data, PlainAccount(sizes, stream), PLAIN)


_NO_BYTES = 0, 0, 0


def load_call(
    stream: Buffer,
    buffers: Sequence[Buffer],
    layout: int = 0,
    unpack: Callable[[bytes], Any] = reference.unpack,
) -> tuple[Any, Sequence[Any], dict[str, Any]]:
    """Return the function and the arguments that `dump_call` was given.

    The packed reference of a shared array in a PLAIN layout is given to `unpack`.
    """
    if layout == PLAIN:
        home, name, names, values = marshal.loads(stream)
        if type(values) is tuple:  # numbers and text alone
            return function_named(home, name), values, {}
        rest = iter(buffers)
        for place, value in enumerate(values):
            if type(value) is tuple:
                first = value[0]
                values[place] = values[first] if type(first) is int else unpack(first)
            elif type(value) is list:
                values[place] = unpack_array(rest, *value)
        function = function_named(home, name)
        if not names:
            return function, values, {}
    else:
        unpickler = pickle.Unpickler(io.BytesIO(stream), buffers=iter(buffers))
        function, home, count, names = unpickler.load()
        if home is not None:
            function = function_named(*home)
        values = [unpickler.load() for _ in range(count + len(names))]
    count = len(values) - len(names)
    return function, values[:count], dict(zip(names, values[count:], strict=True))
