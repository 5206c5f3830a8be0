"""Loading the outcomes that workers send.

A large array of a result stays in its slot: `Incoming._borrow` gives the bytes, and `codec.arrays.array_from`
makes the array on them, which keeps the slot in use until its last view is gone.
"""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharedarray import _errors as errors, _pipes as pipes, _sigint as sigint
from sharedarray._pool.calls import Raised
from sharedarray._pool.codec import failures
from sharedarray._pool.codec.arrays import unpack_array
from sharedarray._pool.codec.pickler import loads
from sharedarray._pool.codec.result import load_result
from sharedarray._pool.transport.messages import HOLDS, PLAIN, STREAM, Entry, Frame, Kind
from sharedarray._pool.transport.slots import Store
from sharedarray._reference import FORMAT
from sharedarray._segment import mapping_of

if TYPE_CHECKING:
    from sharedarray._pool.worker_handle import WorkerHandle

__all__ = ["LOST", "OUTCOMES", "DamagedReplyError", "Incoming", "load_refusal", "shared_bytes"]

# As plain numbers, which compare in a third of the time of members of an enum.
_ERROR, _REPLIES = int(Kind.ERROR), int(Kind.REPLIES)
OUTCOMES = frozenset((int(Kind.RESULT), _ERROR, _REPLIES))

LOST: Any = object()
"""Stands for an outcome that its worker took along when it died."""

# Seconds between a process's release of its files and its end.
_MOMENT = 0.5
_LIST = b"["  # the code of a list in the format of marshal


class DamagedReplyError(Exception):
    """A worker has sent what is no reply: it has damaged its own memory."""


class Incoming:
    """Load outcomes. It may call what a user has written (``__setstate__``), so no lock is held.

    Attributes
    ----------
    interrupt
        What Ctrl-C has raised in the middle of it; the reader raises it when the outcomes before are settled.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.interrupt: BaseException | None = None

    def load(self, worker: WorkerHandle, frame: Frame) -> tuple[list[Any], Frame | None]:
        """Return the outcomes of a message, and a message with those that are still to be loaded.

        There is such a message if Ctrl-C broke the loading off.

        Raises
        ------
        DamagedReplyError
            The message is none.
        """
        if frame.kind != _REPLIES:
            try:
                outcome = self._load_one(worker, frame)
            except BaseException as interrupt:
                self.interrupt = interrupt
                return [], frame
            if frame.flags & HOLDS and type(outcome) is Raised and _has_died(worker, outcome):
                outcome = LOST
            return [outcome], None
        outcomes: list[Any]
        try:
            outcomes = marshal.loads(_LIST + frame.item.to_bytes(4, "little") + frame.stream)
        except (ValueError, TypeError, EOFError) as error:
            raise DamagedReplyError from error
        if frame.flags & PLAIN:
            return outcomes, None
        for at, outcome in enumerate(outcomes):
            kind = type(outcome)
            if kind is list:
                try:
                    outcomes[at] = unpack_array(iter(()), *outcome)
                except Exception as raised:
                    outcomes[at] = _unloadable(raised, failed=False)
            elif kind is tuple:
                if len(outcome) == 3:
                    outcomes[at] = outcome[2]
                    continue
                if not outcome:
                    raise DamagedReplyError
                try:
                    outcomes[at] = self._unpickled(outcome[0], (), 0, failed=len(outcome) > 1)
                except BaseException as interrupt:
                    self.interrupt = interrupt
                    rest = b"".join([marshal.dumps(each, FORMAT) for each in outcomes[at:]])
                    return outcomes[:at], frame._replace(item=len(outcomes) - at, stream=rest)
        return outcomes, None

    def _load_one(self, worker: WorkerHandle, frame: Frame) -> Any:
        """Return the value that a message carries, or the exception as `Raised`.

        Raises
        ------
        BaseException
            Ctrl-C has broken the loading off, and the message is to be loaded again.
        """
        pieces, worker.pieces = worker.pieces, None
        try:
            if pieces is None:
                pieces = self._pieces(frame) if frame.entries else (frame.stream, ())
        except Exception as raised:
            return _unloadable(raised, failed=frame.kind == _ERROR)
        stream, buffers = pieces
        try:
            return self._unpickled(stream, buffers, frame.flags, failed=frame.kind == _ERROR)
        except BaseException:
            worker.pieces = pieces  # so that the slots stay in use
            raise

    def _unpickled(self, stream: Any, buffers: Sequence[Any], flags: int, *, failed: bool) -> Any:
        before = sigint.broken_off()
        try:
            if flags & PLAIN:
                found = load_result(stream, buffers, PLAIN)
            else:
                with sigint.allowed:  # it may call methods that a user has written
                    found = load_result(stream, buffers)
            return Raised(failures.rebuild(found)) if failed else found
        except BaseException as raised:
            if sigint.broken_off() != before:
                raise
            return _unloadable(raised, failed=failed)

    def _borrow(self, entry: Entry) -> memoryview:
        """Return the bytes at a place in a slot, which stay there."""
        slot = self._store.find(entry.slot)
        assert slot is not None
        slot.fresh = False
        return slot.borrow()[entry.offset : entry.offset + entry.length]

    def _pieces(self, frame: Frame) -> tuple[Any, Sequence[Any]]:
        """Return the stream and the buffers of an outcome; what is in a slot stays there.

        A worker sends a long stream as the last buffer: inline if there is no slot for it.
        """
        stream: Any = frame.stream
        inline = iter(frame.inline)
        buffers: list[Any] = []
        for entry in frame.entries:
            piece = self._borrow(entry) if entry.slot else next(inline)
            if entry.flags & STREAM:
                stream = piece
            else:
                buffers.append(piece)
        return stream, buffers


def _unloadable(raised: BaseException, *, failed: bool) -> Raised:
    failures.forget_frames(raised)
    what = "exception" if failed else "result"
    error = errors.NotPicklableError(
        f"the {what} of a task arrived but could not be loaded",
        found=failures.described(raised),
        expected="an object that pickle can read back in this process",
        next_step="see the cause of this exception",
    )
    error.__cause__ = raised
    return Raised(error)


def _has_died(worker: WorkerHandle, outcome: Raised) -> bool:
    """Return whether what an outcome refers to could not be attached because its worker died with it."""
    missing: BaseException | None = outcome.exception
    seen: set[int] = set()  # for exceptions may be each other's cause
    while missing is not None and not issubclass(type(missing), errors.BlockNotFoundError):
        seen.add(id(missing))
        missing = failures.cause_of(missing)
        if id(missing) in seen:
            missing = None
    # The kernel releases a process's blocks a moment before it reports that the process has ended.
    return missing is not None and pipes.has_ended(worker.exit, _MOMENT)


def load_refusal(frame: Frame) -> BaseException:
    """Return what the initializer of a worker raised."""
    try:
        return failures.rebuild(loads(frame.stream, frame.inline))
    except BaseException as broken:
        failures.forget_frames(broken)
        return broken


def shared_bytes(value: Any) -> int:
    """Return how many bytes of a result are shared arrays, as far as that is easy to see.

    No method of the value is called, because the pool's lock is held.
    """
    kind = type(value)
    if issubclass(kind, np.ndarray):
        value = (value,)
    elif kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return 0
    arrays = [part for part in value if issubclass(type(part), np.ndarray)]
    return sum([_size_of.__get__(array) for array in arrays if _is_shared(array)])


_size_of: Any = np.ndarray.__dict__["nbytes"]
_base_of: Any = np.ndarray.__dict__["base"]


def _is_shared(array: np.ndarray[Any, Any]) -> bool:
    return mapping_of(_base_of.__get__(array)) is not None
