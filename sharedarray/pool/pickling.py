"""Pickles for tasks and their results, and the way of the buffers beside them.

Plain pickle, with four things added, in this order of precedence:

1. A plain array or `SharedArray` whose memory lies in a shared block, and any view of one, is sent as a
   reference to it. So is the memory of a subclass's instance, with the class and the attributes beside it
   (see `subclasses`). The sender keeps the array alive until the receiver has loaded it, so the reference
   needs no token of its own: the pool keeps a task's arguments until the answer is in, and a worker keeps a
   result until it is told TAKEN.
2. A large plain array, contiguous or not, stays out of the pickle, and so does whatever else offers its
   buffers under protocol 5. They are copied once, into recycled memory (see `recycling`).
3. Functions and classes that the receiver cannot import (those of a script, a notebook, an interactive
   session, lambdas, closures) are sent by value, by cloudpickle.
4. What multiprocessing can hand to another process (sockets, connections, managers' proxies) can be
   handed to a worker as well, since its reducers are consulted.

Calls of functions that can be imported, with numbers, text and arrays alone, need none of that: they are told
by the function's name, and in the format of `marshal`, which takes a tenth of the time. So are results that
are numbers, text or arrays. In such a stream a shared array is a tuple, and a plain one of a usual type, or a
scalar of NumPy's, is a list: its bytes, or None when they are not in the stream; the character of its dtype;
its shape, None for a scalar; and its order.

A `Parcel` is what is left out of a pickle: first in its owner's memory, then in a slot. One that goes to many
tasks is one object, which all of them hold; its slot is free when the last of them has let go.
"""

from __future__ import annotations

import copyreg
import functools
import importlib
import io
import marshal
import pickle
import sys
import weakref
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any, ClassVar, TypeAlias

import cloudpickle
import numpy as np

from sharedarray import reference
from sharedarray.array import SharedArray
from sharedarray.dtypes import NATIVE, short
from sharedarray.interrupts import finalize, finalizer
from sharedarray.picklers import reducers
from sharedarray.pool import functions
from sharedarray.pool.recycling import Aside, Slot, Source, Store, length_of, offsets
from sharedarray.pool.transport.messages import PARTS, PLAIN, PRIVATE, STREAM, Buffer, Entry
from sharedarray.reference import FORMAT, packed_before
from sharedarray.segment import Mapping, mapping_of
from sharedarray.subclasses import PLAIN as PLAIN_CLASSES, reduce_subclass
from sharedarray.thresholds import OUT_OF_BAND

__all__ = [
    "Account",
    "Call",
    "Copied",
    "Known",
    "Parcel",
    "Pickled",
    "contiguous",
    "dump_call",
    "dump_result",
    "dumps",
    "function_at",
    "home_of",
    "load_call",
    "load_result",
    "loads",
    "short_call",
    "simple_kinds",
    "single_array",
]

_SIMPLE = frozenset((type(None), bool, int, float, complex, str, bytes))


# What became of one argument: bytes sent by reference, copied, pickled, and copied for another task.
Copied: TypeAlias = tuple[int, int, int, int]


class Account:
    """What became of the arguments of a call.

    Attributes
    ----------
    names
        What they are called: the function's, positions, and keywords.
    """

    __slots__ = ("_parts", "names")

    def __init__(self, names: Sequence[str], parts: Sequence[Copied]) -> None:
        self.names = names
        self._parts = parts

    def rows(self) -> Iterable[tuple[str, Copied]]:
        """What became of each."""
        return zip(self.names, self._parts, strict=True)

    def total(self) -> Copied:
        """What became of all of them."""
        shared, copied, pickled, reused = (sum(column) for column in zip(*self._parts, strict=True))
        return shared, copied, pickled, reused


class _LateAccount(Account):
    """The same of a PLAIN call, reckoned when somebody asks: from the call itself, and the arrays' sizes."""

    __slots__ = ("_sizes", "_stream")

    def __init__(self, stream: Buffer, sizes: Sequence[tuple[int, int, int]]) -> None:
        self.names = ()
        self._stream = stream
        self._sizes = sizes

    def rows(self) -> Iterable[tuple[str, Copied]]:
        _, _, keywords, values = marshal.loads(self._stream)
        sizes = iter(self._sizes)
        parts = []
        for value in values:
            if type(value) is tuple or type(value) is list:
                shared, copied, reused = next(sizes)
                pickled = _OVERHEAD
                if type(value) is tuple and type(value[0]) is bytes:
                    pickled += len(value[0])
                if type(value) is list and value[0] is not None:
                    pickled += len(value[0])
                parts.append((shared, copied, pickled, reused))
            else:
                length = len(value) if type(value) is str or type(value) is bytes else 0
                parts.append((0, 0, length + _OVERHEAD, 0))
        rest = len(self._stream) - sum([pickled for _, _, pickled, _ in parts])
        names = self.names or _names(len(values) - len(keywords), keywords)
        return zip(names, [(0, 0, max(0, rest), 0), *parts], strict=True)

    def total(self) -> Copied:
        if len(self._sizes) == 1:
            shared, copied, reused = self._sizes[0]
        else:
            shared, copied, reused = (sum(column) for column in zip(*self._sizes, strict=True))
        return shared, copied, len(self._stream), reused


class _Loan:
    """A slot that goes back when nobody refers to this any more."""

    __slots__ = ("slot", "store")

    def __init__(self, store: Store, slot: Slot) -> None:
        self.store = store
        self.slot = slot

    @finalizer
    def __del__(self) -> None:
        finalize(self.store.put_back, self.slot)


class Parcel:
    """Bytes that were left out of a pickle.

    Attributes
    ----------
    source
        Where they are, until they are in a slot.
    length
        How many.
    many
        Whether several tasks read them.
    """

    __slots__ = ("_loan", "length", "many", "source")

    def __init__(self, source: Source, *, many: bool = False) -> None:
        self.source: Source | None = source
        self.length = length_of(source)
        self.many = many
        self._loan: _Loan | None = None

    @property
    def slot(self) -> Slot | None:
        """Where they are from then on."""
        return None if self._loan is None else self._loan.slot

    def stow(self, store: Store, within: int | None = None) -> bool:
        """Copy into a slot of its own; return False where there is no room."""
        if self._loan is None:
            assert self.source is not None
            self._loan = _filled(store, [self.source], within)
            if self._loan is None:
                return False
            self.source = None
        return True


def _filled(store: Store, sources: Sequence[Source], within: int | None) -> _Loan | None:
    """Return the loan of a slot with these bytes, None where there is no room for them."""
    starts, size = offsets(map(length_of, sources))
    slot = store.take(size, within=within)
    if slot is None:
        return None
    try:
        store.fill(slot, sources, starts)
    except OSError:  # the file system is full
        store.discard(slot)
        return None
    except BaseException:
        store.put_back(slot)
        raise
    return _Loan(store, slot)


# The arrays of a call that other tasks of it got, by their ids: which each is, and its parcel.
Known: TypeAlias = dict[int, tuple["weakref.ref[np.ndarray[Any, Any]]", Parcel]]
_NOBODY: tuple[Callable[[], None], None] = (lambda: None), None


class Pickled:
    """A pickle and what was left out of it.

    Attributes
    ----------
    stream
        The pickle.
    parcels
        What was left out, in order.
    blocks
        The attachments of the shared blocks that it refers to.
    data
        Whether it has arrays in it, or beside it, that the receiver gets as its own.
    plain
        Whether all of it is in the stream, and that is short.
    stowed
        Whether everything is where it can be sent from.
    layout
        Of the stream, as flags of a message: 0, a pickle of what was given; PARTS, a call in parts; PLAIN, in
        the format of `marshal`.
    account
        What became of each argument, where that was counted.
    """

    __slots__ = (
        "_aside",
        "_entries",
        "_inline",
        "_loan",
        "account",
        "blocks",
        "data",
        "layout",
        "parcels",
        "plain",
        "stowed",
        "stream",
    )

    def __init__(
        self,
        stream: Buffer,
        parcels: Sequence[Parcel] = (),
        blocks: Collection[Mapping] = (),
        data: bool = False,
        account: Account | None = None,
        layout: int = 0,
    ) -> None:
        self.stream = stream
        self.parcels = parcels
        self.blocks = blocks
        self.data = data
        self.plain = self.stowed = not parcels and len(stream) < OUT_OF_BAND
        self.account = account
        self.layout = layout
        self._entries: list[Entry] | None = None
        self._inline: list[Buffer] = []
        self._loan: _Loan | None = None
        self._aside: Aside | None = None

    @property
    def shares(self) -> bool:
        """Whether it refers to shared blocks."""
        return bool(self.blocks)

    @property
    def large(self) -> int:
        """Bytes that need memory besides the pipe."""
        return sum(parcel.length for parcel in self.parcels) + self._long_stream

    @property
    def _long_stream(self) -> int:
        return len(self.stream) if len(self.stream) >= OUT_OF_BAND else 0

    def stow(self, store: Store, *, private: bool, within: int | None = None) -> bool:
        """Copy what is large into recycled memory, unless that is done.

        Parameters
        ----------
        store
            Where from.
        private
            Whether the receiver must not write to the memory itself, because it may be sent again.
        within
            Return False rather than use more than so many bytes in all; None to send through the pipe what
            there is no room for.
        """
        if self.stowed:
            return True
        ours = [parcel for parcel in self.parcels if not parcel.many]
        sources: list[Source] = [parcel.source for parcel in ours if parcel.source is not None]
        if self._long_stream:
            sources.append(self.stream)
        if within is not None and self.large > within:
            return False
        many = [parcel.stow(store, within) for parcel in self.parcels if parcel.many]
        fits = all(many)
        loan = _filled(store, sources, within) if sources else None
        if within is not None and not (fits and (loan is not None or not sources)):
            return False
        self._loan = loan
        slot = None if loan is None else loan.slot
        starts = iter(offsets(map(length_of, sources))[0])
        entries = []
        for parcel in self.parcels:
            at = parcel.slot if parcel.many else slot
            offset = 0 if parcel.many else next(starts)
            if at is None:
                assert parcel.source is not None
                self._inline.append(contiguous(parcel.source))
                entries.append(Entry(0, 0, 0, 0, 0, parcel.length))
            else:
                entries.append(at.entry(PRIVATE if parcel.many or private else 0, offset, parcel.length))
        if slot is not None and self._long_stream:
            entries.append(slot.entry(STREAM, next(starts), len(self.stream)))
            self.stream = b""
        if slot is not None:
            for parcel in ours:
                parcel.source = None
        self._entries = entries
        self._aside = None
        self.stowed = True
        return True

    def set_aside(self, store: Store, *, within: int) -> None:
        """Copy what found no slot into this process's own memory, unless that is more than ``within`` bytes.

        So what is sent later is what it was when it was given.
        """
        ours = [(parcel, parcel.source) for parcel in self.parcels if parcel.source is not None]
        self._aside = store.set_aside(sum(parcel.length for parcel, _ in ours), within=within)
        if self._aside is not None:
            for parcel, source in ours:
                parcel.source = source.copy() if isinstance(source, np.ndarray) else bytes(source)

    @property
    def entries(self) -> Sequence[Entry]:
        """The table that tells the receiver where everything is."""
        return self._entries or ()

    @property
    def inline(self) -> Sequence[Buffer]:
        """What has to go through the pipe for want of room."""
        return self._inline

    def sources(self) -> list[Source]:
        """Return what does not go through the pipe if that can be helped; a long stream comes last."""
        found: list[Source] = [parcel.source for parcel in self.parcels if parcel.source is not None]
        return [*found, self.stream] if self._long_stream else found

    def pieces(self) -> list[Buffer]:
        """Return what was left out of the stream, as it goes through a pipe."""
        return [contiguous(parcel.source) for parcel in self.parcels if parcel.source is not None]


class Short(Pickled):
    """Numbers and text: short, and with nothing beside. They come by the thousand."""

    __slots__ = ()
    parcels = ()
    blocks: Collection[Mapping] = ()
    account: Account | None = None
    data = False
    plain = stowed = True
    layout = PLAIN
    _entries = None
    _inline: list[Buffer] = []  # noqa: RUF012  (never changed: there is nothing to be stowed)
    _loan = None

    def __init__(self, stream: Buffer) -> None:
        self.stream = stream


def _marshalled(obj: Any) -> Pickled:
    stream = marshal.dumps(obj, FORMAT)
    return Short(stream) if len(stream) < OUT_OF_BAND else Pickled(stream, layout=PLAIN)


_PROTOCOL = pickle.HIGHEST_PROTOCOL


def contiguous(source: Source) -> Buffer:
    """Return bytes as they go through a pipe."""
    if isinstance(source, np.ndarray):
        return np.ascontiguousarray(source).reshape(-1).view(np.uint8).data
    return source


def simple_kinds(kinds: Iterable[type]) -> bool:
    """Say whether these are the types of numbers, text and the like."""
    return _SIMPLE.issuperset(kinds)


def simple(values: Iterable[Any]) -> bool:
    """Say whether these are numbers, text and the like, which need no care and can be shared by tasks."""
    try:
        return _SIMPLE.issuperset(map(type, values))
    except Exception:  # the hash of a class is its metaclass's
        return False


def home_of(function: Any) -> tuple[str | None, str] | None:
    """Return module and name, where any pickler would send a function by these, and be understood."""
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
    if _specs.get(home, "") is not getattr(module, "__spec__", None) and functions.is_carried(home):
        return None
    name: str = function.__qualname__
    return (home, name) if getattr(module, name, None) is function else None


def function_at(home: str | None, name: str) -> Any:
    """Return what `home_of` was given."""
    if home is None:
        return None
    return getattr(sys.modules.get(home) or importlib.import_module(home), name)


# Kinds of callables that have a module and a name; the last one is that of most functions of NumPy's.
_NAMED = frozenset((FunctionType, BuiltinFunctionType, type, type(np.sum)))
# The specs of modules that any process can import.
_specs = functions.importable
# Modules whose functions the user wants to be sent by value (cloudpickle.register_pickle_by_value).
_BY_VALUE: set[str] = cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES


# The functions by which this library reduces subclasses of ndarray for other picklers.
_REDUCERS = (reference.reduce_subclass_for_transport, reference.reduce_for_transport)


class _TaskPickler(functions.CodePickler):
    # multiprocessing's reducers first: they know of types that have to be handed over, not copied.
    dispatch_table: ClassVar[Any] = ChainMap(
        reducers(),
        cloudpickle.Pickler.dispatch_table,
        copyreg.dispatch_table,
    )

    def __init__(self, file: io.BytesIO, tally: _Tally, purpose: str = functions.CALL) -> None:
        super().__init__(file, purpose, buffer_callback=tally.take)
        self.tally = tally

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return self._array(obj)
        return super().reducer_override(obj)

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        tally = self.tally
        kind = type(array)
        if kind not in PLAIN_CLASSES and not _is_ours(array):
            tally.data = True
            if self.dispatch_table.get(kind, _REDUCERS[0]) not in _REDUCERS:
                return NotImplemented  # the program has said how
            return reduce_subclass(array)
        held = reference.reduce_held(array)
        if held is not None:
            mapping = mapping_of(array)
            assert mapping is not None
            tally.blocks.add(mapping)
            tally.shared += array.nbytes
            return held
        tally.data = True
        if array.dtype.hasobject or array.nbytes < OUT_OF_BAND:
            plain = np.asarray(array)
            # One that is read-only would arrive as such, and one that is not contiguous in native byte order.
            if not plain.dtype.hasobject and not (plain.flags.writeable and plain.flags.forc):
                plain = plain.copy()
            return plain.__reduce_ex__(_PROTOCOL)
        if array.flags.c_contiguous or not array.flags.f_contiguous:
            order, laid = "C", array
        else:
            order, laid = "F", array.T
        mark = pickle.PickleBuffer(bytearray())
        tally.next = tally.parcel(array, laid)
        return _over, (mark, short(array.dtype), laid.shape, order)


class _Tally:
    """What is gathered while something is pickled.

    The pickler refers to it and it must not refer back: a pickler remembers all that it has seen, and a cycle
    would hold that until the next collection.
    """

    def __init__(self, known: Known | None, many: bool) -> None:
        self.parcels: list[Parcel] = []
        self.shared = 0
        self.blocks: set[Mapping] = set()
        self.data = False
        self.known = known
        self.many = many
        self.next: Parcel | None = None
        self.reused = 0

    def parcel(self, array: np.ndarray[Any, Any], laid: np.ndarray[Any, Any]) -> Parcel:
        """The parcel for an array, and for how its bytes are laid out."""
        found = _parcel(self.known, array, laid)
        if found.many:
            self.reused += found.length
        else:
            found.many = self.many
        return found

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take the bytes of a buffer out of the pickle; return True to leave them in."""
        if self.next is not None:
            self.parcels.append(self.next)
            self.next = None
            return False
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        self.data = True
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.parcels.append(Parcel(raw, many=self.many))
        return False


def _parcel(known: Known | None, array: np.ndarray[Any, Any], laid: np.ndarray[Any, Any]) -> Parcel:
    """The parcel for an array; the same one for an array that another task got, which then goes to many."""
    if known is None:
        return Parcel(laid)
    of, found = known.get(id(array), _NOBODY)
    # An array that is made while something is pickled may have gone, and another one have its number.
    if found is not None and of() is array:
        found.many = True
        return found
    made = Parcel(laid)
    known[id(array)] = weakref.ref(array), made
    return made


def _is_ours(array: np.ndarray[Any, Any]) -> bool:
    return type(array).__module__.partition(".")[0] == __name__.partition(".")[0]


def _over(buffer: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer)
    return array if order == "C" else array.T


def dumps(
    obj: Any,
    *,
    many: bool = False,
    purpose: str = functions.CALL,
    snapshot: functions.Snapshot | None = None,
) -> Pickled:
    """Pickle ``obj`` for another process of the pool.

    Whoever calls this keeps ``obj`` alive until the other side has loaded it: for the shared blocks that it
    refers to, and until the result is stowed, for what was left out, which is the memory of ``obj`` itself.
    """
    file = io.BytesIO()
    tally = _Tally(None, many)
    pickler = _TaskPickler(file, tally, purpose)
    pickler.snapshot = snapshot
    pickler.dump(obj)
    return Pickled(file.getvalue(), tally.parcels, tally.blocks, tally.data)


def dump_result(value: Any) -> Pickled:
    """Pickle a result; see `dumps`."""
    if type(value) in _SIMPLE:
        return _marshalled(value)
    kind = type(value)
    if (kind is np.ndarray and mapping_of(value) is None) or issubclass(kind, np.generic):
        parcels: list[Parcel] = []
        packed = _pack(value, parcels, None)
        if packed is not None:
            return (
                Pickled(marshal.dumps(packed), parcels, (), True, None, PLAIN)
                if parcels
                else _marshalled(packed)
            )
    return dumps(value, purpose=functions.RESULT)


def _pack(value: Any, parcels: list[Parcel], known: Known | None) -> list[Any] | None:
    """What stands for a plain array, or a scalar of NumPy's, in a stream of marshal's; None for others.

    A small array itself is the first item: marshal reads its memory, without a copy before. A large one is
    added to `parcels`.
    """
    dtype: np.dtype[Any] = value.dtype
    if dtype.hasobject or NATIVE.get(dtype.char) is not dtype:
        return None
    if isinstance(value, np.generic):
        return [value, dtype.char, None, "C"]
    flags = value.flags
    order, laid = ("C", value) if flags.c_contiguous or not flags.f_contiguous else ("F", value.T)
    if value.nbytes < OUT_OF_BAND:
        return [np.ascontiguousarray(laid).reshape(laid.shape), dtype.char, laid.shape, order]
    parcels.append(_parcel(known, value, laid))
    return [None, dtype.char, laid.shape, order]


def _unpack(
    buffers: Iterator[Buffer], raw: Any, char: str, shape: tuple[int, ...] | None, order: str
) -> np.ndarray[Any, Any] | np.generic:
    """What `_pack` was given; an array has memory of its own and is writable."""
    if shape is None:
        scalar: np.generic = np.frombuffer(raw, char)[0]
        return scalar
    array: np.ndarray[Any, Any] = np.ndarray(shape, char, next(buffers) if raw is None else bytearray(raw))
    return array if order == "C" else array.T


def dump_call(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: Known | None = None
) -> Pickled:
    """Pickle a call.

    Parameters
    ----------
    function
        None where the receiver has it already.
    args, kwargs
        Its arguments.
    known
        The parcels of the call's other tasks, by id of the array: an array that is found there goes to many.
        Whoever gives it keeps the arrays alive, and sends nothing before the last task is pickled.
    """
    home = home_of(function)
    if home is not None:
        if not kwargs and simple(args):
            return _marshalled((*home, (), args))
        call = _plain_call(*home, args, kwargs, known)
        if call is not None:
            return call
    file = io.BytesIO()
    tally = _Tally(known, many=False)
    pickler = _TaskPickler(file, tally)
    parts: list[Copied] = []
    before = (0, 0, 0, 0)
    names = tuple(kwargs)
    head = function if home is None else None, home, len(args), names
    for part in (head, *args, *kwargs.values()):
        pickler.dump(part)
        copied = sum([parcel.length for parcel in tally.parcels]) - tally.reused
        now = tally.shared, copied, file.tell(), tally.reused
        parts.append((now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3]))
        before = now
    account = Account(_names(len(args), names), parts)
    return Pickled(file.getvalue(), tally.parcels, tally.blocks, tally.data, account, PARTS)


class Call(Short):
    """A small call, of which at most one argument is an array, a shared one. It is never changed.

    Attributes
    ----------
    label
        The function's name.
    block, size
        The array's block, of which it is still to be seen whether it has its name, and its bytes; None and 0
        where there is no array.
    """

    __slots__ = ("account", "block", "blocks", "label", "size")

    def __init__(self, label: str, stream: bytes, block: Mapping | None, size: int) -> None:
        self.label = label
        self.stream = stream
        self.block = block
        self.size = size
        if block is None:
            self.blocks, self.account = (), None
        else:
            self.blocks, self.account = (block,), _LateAccount(stream, ((size, 0, 0),))


def short_call(home: tuple[str | None, str], args: tuple[Any, ...]) -> Call | None:
    """Do what `dump_call` does, in a third of the time, for the calls that come by the thousand.

    These are calls of importable functions, by what `home_of` returns, with numbers and text, and one
    `SharedArray` perhaps; None is returned for others, and for long texts.
    """
    if len(args) == 1 and type(args[0]) is SharedArray:
        return _call_of(home, args[0])
    items: Any = args
    block: Mapping | None = None
    size = 0
    if not _SIMPLE.issuperset(map(type, args)):
        items = values = list(args)
        for place, value in enumerate(args):
            kind = type(value)
            if kind in _SIMPLE:
                continue
            if kind is not SharedArray or block is not None:
                return None
            known = packed_before(value) or _pack_array(value)
            if known is None:
                return None
            packed, block = known
            values[place] = (packed,)
            size = value.nbytes
    stream = marshal.dumps((*home, (), items), FORMAT)
    return Call(home[1], stream, block, size) if len(stream) < OUT_OF_BAND else None


def _call_of(home: tuple[str | None, str], array: SharedArray) -> Call | None:
    """Return the call of a function with this array alone, the one of the last time if it is the same."""
    known = packed_before(array) or _pack_array(array)
    if known is None:
        return None
    packed, block = known
    last: tuple[bytes, tuple[str | None, str], Call] | None = getattr(array, "_call", None)
    if last is not None and last[0] is packed and last[1] == home:
        return last[2]
    call = Call(home[1], marshal.dumps((*home, (), [(packed,)]), FORMAT), block, array.nbytes)
    array._call = packed, home, call
    return call


def _pack_array(array: SharedArray) -> tuple[bytes, Mapping] | None:
    """Do as `packed_before` the first time."""
    mapping = mapping_of(array)
    packed = None if mapping is None else reference.pack_held(array, mapping, named=True)
    return None if mapping is None or packed is None else (packed, mapping)


def _plain_call(
    home: str | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    known: Known | None,
) -> Pickled | None:
    """Tell a call whose arguments are arrays, numbers and text; None where there are others.

    An argument that is there several times must arrive as one object: its repetitions are the position of the
    first.
    """
    items: list[Any] = []
    sizes: list[tuple[int, int, int]] = []  # bytes shared, copied, and copied for another task
    blocks: list[Mapping] = []
    parcels: list[Parcel] = []
    places: dict[int, tuple[tuple[int], tuple[int, int, int]]] = {}
    for place, value in enumerate((*args, *kwargs.values()) if kwargs else args):
        kind = type(value)
        if kind in _SIMPLE:
            items.append(value)
            continue
        before = places.get(id(value))
        if before is not None:
            items.append(before[0])
            sizes.append(before[1])
            continue
        mapping = mapping_of(value) if kind is SharedArray or kind is np.ndarray else None
        packed: Any
        if mapping is not None:
            held, size = reference.pack_held(value, mapping), (value.nbytes, 0, 0)
            packed = None if held is None else (held,)
            blocks.append(mapping)
        elif kind is np.ndarray:
            count = len(parcels)
            packed, size = _pack(value, parcels, known), (0, 0, 0)
            if len(parcels) > count:
                length = parcels[-1].length
                size = (0, 0, length) if parcels[-1].many else (0, length, 0)
        elif issubclass(kind, np.generic):
            items.append(_pack(value, parcels, known))
            sizes.append((0, 0, 0))
            if items[-1] is None:
                return None
            continue
        else:
            return None
        if packed is None:
            return None
        items.append(packed)
        sizes.append(size)
        places[id(value)] = ((place,), size if mapping is not None else (0, 0, 0))
    call = home, name, tuple(kwargs), items
    if not sizes:
        return _marshalled(call)
    try:
        stream = marshal.dumps(call, FORMAT)
    except ValueError:  # the dtype has fields
        return None
    data = len(blocks) < len(sizes)
    return Pickled(stream, parcels, blocks, data, _LateAccount(stream, sizes), PLAIN)


# Bytes of a pickle that a number, or what is around a text, takes: roughly.
_OVERHEAD = 5


@functools.lru_cache
def _names(count: int, keywords: tuple[str, ...]) -> tuple[str, ...]:
    return ("function", *map(str, range(count)), *map(_named, keywords))


def _named(keyword: str) -> str:
    return f"{keyword}=" if keyword in _TAKEN else keyword


# What a report calls other things than keywords.
_TAKEN = frozenset(("function", "arguments", "result"))


def load_call(
    stream: Buffer,
    buffers: Sequence[Buffer],
    layout: int = PARTS,
    unpack: Callable[[bytes], Any] = reference.unpack,
) -> tuple[Any, Sequence[Any], dict[str, Any]]:
    """Return the function and the arguments that `dump_call` was given.

    What stands for a shared array in a PLAIN layout is given to `unpack`.
    """
    if layout == PLAIN:
        home, name, names, values = marshal.loads(stream)
        if type(values) is tuple:  # numbers and text alone
            return function_at(home, name), values, {}
        rest = iter(buffers)
        for place, value in enumerate(values):
            if type(value) is tuple:
                first = value[0]
                values[place] = values[first] if type(first) is int else unpack(first)
            elif type(value) is list:
                values[place] = _unpack(rest, *value)
        function = function_at(home, name)
        if not names:
            return function, values, {}
    elif layout == PARTS:
        unpickler = pickle.Unpickler(io.BytesIO(stream), buffers=iter(buffers))
        function, home, count, names = unpickler.load()
        if home is not None:
            function = function_at(*home)
        values = [unpickler.load() for _ in range(count + len(names))]
    else:
        return loads(stream, buffers)  # type: ignore[no-any-return]
    count = len(values) - len(names)
    return function, values[:count], dict(zip(names, values[count:], strict=True))


def single_array(stream: Buffer) -> tuple[str | None, str, bytes] | None:
    """Return the home and the name of a PLAIN call's function, and what stands for a shared array.

    None is returned where that is not its only argument.
    """
    home, name, names, values = marshal.loads(stream)
    if names or len(values) != 1 or type(values[0]) is not tuple:
        return None
    return home, name, values[0][0]


def load_result(stream: Buffer, buffers: Sequence[Buffer] = (), flags: int = 0) -> Any:
    """Return what `dump_result` was given."""
    if not flags & PLAIN:
        return loads(stream, buffers)
    found = marshal.loads(stream)
    return _unpack(iter(buffers), *found) if type(found) is list else found


def loads(stream: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """Return what `dumps` was given; plain arrays have memory of their own and are writable."""
    return pickle.loads(stream, buffers=buffers)
