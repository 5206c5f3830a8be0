"""The transport of ndarray subclasses: masked arrays, records, matrices, quantities, users' classes.

Each is reduced to a plain array of its memory, and what the class adds::

    instance ── reduce_subclass ──▶ function, (class, plain array, …), attributes
                                                      │
                            the pickler sends it as any array: a reference, a buffer beside the pickle, data

So the class, the mask and the attributes arrive whatever the memory is, and memory in a block stays in the
block: a write on the other side is seen here, as it is with a `SharedArray`.

**Whose reduction counts.** NumPy's `ndarray.__reduce__` copies the memory into bytes. A class that does not
override it gets the reduction of this module. So do masked arrays, whose own reduction also forgets
`hardmask`. A class that has a `__reduce__` of its own keeps it. If that one extends NumPy's, as those of
astropy's quantities and of the examples in NumPy's documentation do, its state holds these bytes. They are
replaced by a reference when the memory is in a block: the receiver calls the class's ``__setstate__`` with a
copy of the bytes, as the class expects, and then lets the instance view the block. Of large memory no copies
are made for that: during the call, the instance is of a subclass in which ``super()`` leads to an ndarray
that does without the bytes. If that fails, as with a class that calls ndarray's methods by name, copies are
made. An instance of which an attribute views its memory keeps its copy, so that it stays in one piece.

Attributes are those of the instance (``__dict__`` and ``__slots__``). They are restored last, so that an
attribute may lead back to the array.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from sharedarray._array import SharedArray
from sharedarray._masked import masked_array
from sharedarray._segment import mapping_of
from sharedarray._thresholds import VIEWED_FROM

__all__ = ["PLAIN", "parts_of", "reduce_subclass"]

Array: TypeAlias = np.ndarray[Any, Any]
_Attributes: TypeAlias = tuple[dict[str, Any], dict[str, Any]]

# Classes that add nothing to the array of their memory: it alone travels.
PLAIN = frozenset((np.ndarray, np.memmap, SharedArray))

# cloudpickle would send a class by value, and so another class, whose module is not loaded. NumPy makes
# `numpy.recarray` and does not load the module that it names for it; NumPy 1 has no such module.
with contextlib.suppress(ImportError):
    import_module("numpy.rec")

_PROTOCOL = 5
_REDUCTION = ("__reduce__", "__reduce_ex__", "__setstate__")
# Attributes of a masked array that travel in another way: the class of its data, with the data; and its mask.
_OF_MASKED = "_baseclass", "_mask"
# Attributes of `numpy.memmap`.
_OF_MAP = "_mmap", "filename", "offset", "mode"
# The attributes by which a `SharedArray` remembers how it was sent.
_REMEMBERED = SharedArray.__slots__


def parts_of(reduced: tuple[Any, ...]) -> list[Array]:
    """Return the plain arrays that `reduce_subclass` made for an instance, of its memory and of its mask."""
    if reduced[0] not in (_viewed, _masked):
        return []
    parts = [reduced[1][1]]
    mask = reduced[2][0].get("_mask") if reduced[0] is _masked else None
    return parts if mask is None else [*parts, mask]


def reduce_subclass(array: Array) -> tuple[Any, ...] | str:
    """Return what ``__reduce_ex__`` would, such that the memory of an instance is a plain array in it."""
    kind = type(array)
    masked = masked_array()
    if masked is not None and issubclass(kind, masked):
        if kind is not masked and not _inherits(kind, masked, (*_REDUCTION, "__getstate__")):
            return _reduce_own(array)
        attributes = _attributes(array, _OF_MASKED)
        copied = attributes[0].get(
            "_optinfo"
        )  # what NumPy copied of the attributes of an array it was made of
        attributes[0]["_optinfo"] = attributes[0]["_basedict"] = _without_file(copied or {})
        if array.dtype.hasobject:
            return _with_attributes(array, attributes)
        mask = array._mask  # type: ignore[attr-defined]
        if mask is not sys.modules["numpy.ma"].nomask:
            attributes[0]["_mask"] = mask
        data = np.ndarray.view(array, array._baseclass)  # type: ignore[attr-defined]
        return _masked, (kind, data), attributes, None, None, _restore
    shared = issubclass(kind, SharedArray)
    if issubclass(kind, np.memmap) or not _inherits(kind, SharedArray if shared else np.ndarray, _REDUCTION):
        return _reduce_own(array)  # a map of a file cannot be an attribute of anything that travels
    attributes = _attributes(array)
    if array.dtype.hasobject:
        return _with_attributes(array, attributes)
    return _viewed, (kind, _memory(array)), attributes, None, None, _restore


def _inherits(kind: type[Any], base: type[Any], names: tuple[str, ...]) -> bool:
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in names)


def _memory(array: Array) -> Array:
    """Return a plain array of an instance's memory, a `SharedArray` if that is a block's."""
    plain: Array = np.ndarray.view(array, np.ndarray if mapping_of(array) is None else SharedArray)
    return plain


def _attributes(array: Array, without: tuple[str, ...] = ()) -> _Attributes:
    """Return what an instance has in its ``__dict__``, and in slots."""
    state: Any = object.__getstate__(array)
    named, slots = state if isinstance(state, tuple) else (state, None)
    return (
        {name: value for name, value in _without_file(named or {}).items() if name not in without},
        {name: value for name, value in (slots or {}).items() if name not in _REMEMBERED},
    )


def _without_file(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes without those that `numpy.ma` has copied from a map of a file, which stays here."""
    if type(attributes.get("_mmap")) is not mmap.mmap:
        return attributes
    return {name: value for name, value in attributes.items() if name not in _OF_MAP}


def _restore(array: Any, attributes: _Attributes) -> None:
    """Give an instance the attributes that the one had from which it was reduced."""
    if not isinstance(array, np.ndarray):
        return  # what stands for an array that could not be attached to
    named, slots = attributes
    if named:
        array.__dict__.update(named)
    for name, value in slots.items():
        object.__setattr__(array, name, value)


def _viewed(kind: type[Any], memory: Any) -> Any:
    if not isinstance(memory, np.ndarray):
        return memory  # what Dask's transport has for an array that it could not attach to
    try:
        return np.ndarray.view(memory, kind)
    except Exception:
        # Its `__array_finalize__` wants more of an array than this one has. NumPy's unpickling gives it None.
        return _made_on(memory, kind)


def _made_on(memory: Array, kind: type[Any]) -> Any:
    """Return an instance on memory as NumPy's constructor makes it; on a copy if it is not in one piece."""
    plain = np.asarray(memory)
    if not plain.flags.forc:
        plain = plain.copy()
    order: Any = "C" if plain.flags.c_contiguous else "F"
    flat = plain.reshape(-1, order=order).view(np.uint8) if plain.nbytes else None
    return np.ndarray.__new__(kind, plain.shape, plain.dtype, flat, order=order)


def _masked(kind: type[Any], data: Any) -> Any:
    made = _viewed(kind, data)
    if made is not data:
        made._baseclass = type(data)
    return made


# -- classes with a reduction of their own, and arrays of objects ---------------------------------------


def _with_attributes(array: Array, attributes: _Attributes) -> tuple[Any, ...]:
    """Reduce an array of objects as NumPy does, and add the attributes, which NumPy leaves out."""
    reduced: Any = array.__reduce__()
    make, args, state = reduced[:3]
    return make, args, (state, attributes), None, None, _set_both


def _set_both(array: Any, state: tuple[Any, _Attributes]) -> None:
    array.__setstate__(state[0])
    _restore(array, state[1])


class _Bytes:
    """Stands for the bytes of an instance's memory in the state of its class."""


class _Silent:
    """Keeps a class from being told of a subclass that is made here."""

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        pass


class _Sent(np.ndarray):
    """Reduces as ndarray does, without the bytes."""

    def __reduce__(self) -> Any:
        plain = np.asarray(self)
        state = 1, plain.shape, plain.dtype, bool(plain.flags.fnc), _Bytes()
        return _RECONSTRUCT, (type(self), (0,), b"b"), state

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


class _Received(np.ndarray):
    """Takes a state without the bytes, as the memory is there already."""

    def __setstate__(self, state: Any) -> None:
        if type(state[-1]) is not _Bytes:
            super().__setstate__(state)


# The function that makes an ndarray when it is unpickled.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]


def _variant(kind: type[Any], hook: type[Any]) -> type[Any]:
    """Return a subclass of a class, in which ``super()`` leads to ``hook`` before it leads to ndarray."""
    if type(kind) is not type:
        raise TypeError(f"{kind} has a metaclass, which would see a subclass of it")
    return type(kind.__name__, (_Silent, kind, hook), {"__slots__": ()})


def _holds(value: Any, kind: type[Any]) -> bool:
    """Return whether a class, or an instance of it, is in a value, as far as that is plain containers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_holds(each, kind) for each in value)
    return value is kind or type(value) is kind


def _reduce_own(array: Array) -> tuple[Any, ...] | str:
    """Reduce an instance as its class does; bytes of a block in the state become a reference to it."""
    reduced: Any = None
    in_block = mapping_of(array) is not None
    if in_block and array.nbytes >= VIEWED_FROM:
        with contextlib.suppress(Exception):  # what is wrong, the class itself says below
            reduced = _reduce_large(array)
    if reduced is None:
        reduced = array.__reduce_ex__(_PROTOCOL)
    if isinstance(reduced, str) or len(reduced) != 3 or not in_block or not array.nbytes:
        return reduced  # type: ignore[no-any-return]
    make, args, state = reduced
    found: list[bool] = []
    state = _without_bytes(state, array, found)
    if len(found) != 1:
        return reduced  # type: ignore[no-any-return]
    return _on_memory, (make, args, state, _memory(array), "F" if found[0] else "C")


def _reduce_large(array: Array) -> Any:
    """Return what a class reduces an instance to, with no copy of its memory made; None if that fails."""
    kind = type(array)
    variant = _variant(kind, _Sent)
    sent = np.ndarray.view(array, variant)
    _restore(sent, _attributes(array))
    make, args, state = sent.__reduce_ex__(_PROTOCOL)
    args = tuple([kind if each is variant else each for each in args])
    found: list[bool] = []
    _without_bytes(state, array, found)
    return None if len(found) != 1 or _holds((args, state), variant) else (make, args, state)


def _without_bytes(state: Any, array: Array, found: list[bool]) -> Any:
    """Replace what `ndarray.__reduce__` has put into a state: shape, dtype, whether Fortran order, bytes.

    ``found`` gets whether the bytes are in Fortran order.
    """
    if type(state) is not tuple and type(state) is not list:
        return state
    items = list(state)
    for place, item in enumerate(items):
        if type(item) in (tuple, list):
            items[place] = _without_bytes(item, array, found)
        elif place >= 3 and (type(item) is _Bytes or (type(item) is bytes and len(item) == array.nbytes)):
            shape, dtype, fortran = items[place - 3 : place]
            if type(fortran) is bool and isinstance(dtype, np.dtype) and (shape, dtype) == _like(array):
                items[place] = _Bytes()
                found.append(fortran)
    return type(state)(items)


def _like(array: Array) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return array.shape, array.dtype


def _with_bytes(state: Any, raw: bytes) -> Any:
    if type(state) is _Bytes:
        return raw
    return type(state)([_with_bytes(item, raw) for item in state]) if type(state) in (tuple, list) else state


def _on_memory(make: Callable[..., Any], args: tuple[Any, ...], state: Any, memory: Any, order: Any) -> Any:
    """Return the instance that a class makes of its state, as a view of the memory that it describes."""
    if not isinstance(memory, np.ndarray):
        return memory
    if memory.nbytes >= VIEWED_FROM and make is _RECONSTRUCT:
        with contextlib.suppress(Exception):  # what is wrong, the class itself says below
            return _set_on(memory, args[0], state)
    made = make(*args)
    made.__setstate__(_with_bytes(state, memory.tobytes(order)))
    if not isinstance(made, np.ndarray) or _like(made) != _like(memory):
        return made
    attributes = _attributes(made)
    if _viewing(attributes, made):
        return made
    view = _viewed(type(made), memory)
    _restore(view, attributes)
    return view


def _set_on(memory: Array, kind: type[Any], state: Any) -> Any:
    """Return a view of memory with a state of its class, with no copy of the memory made."""
    variant = _variant(kind, _Received)
    view: Any = np.ndarray.view(memory, variant)
    try:
        view.__setstate__(state)
        attributes = _attributes(view)
        if _viewing(attributes, view) or _holds(attributes, variant):
            raise TypeError("an attribute is a view of the instance, or knows the class that stood in")
        view.__class__ = kind
    except BaseException:
        # The collector does not follow an array to its base: a view in an attribute would hold this.
        getattr(view, "__dict__", {}).clear()
        raise
    return view


def _viewing(attributes: _Attributes, array: Array) -> bool:
    """Return whether an attribute is an array of the same memory."""
    values = [*attributes[0].values(), *attributes[1].values()]
    return any(isinstance(value, np.ndarray) and np.may_share_memory(value, array) for value in values)
