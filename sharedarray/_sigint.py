"""Ctrl-C, at a moment when nothing is half done.

Python raises `KeyboardInterrupt` between any two steps of the main thread. In the middle of changing what
several threads or processes rely on, that would leave them waiting for ever; so there it has to wait::

    with sigint.deferred:              # Ctrl-C is remembered
        ...
        with sigint.allowed:           # and raised here, or at the end, at the latest
            wait()
        ...

What a user has written (a callback, a ``__setstate__``) and the library calls within such a block, is called
by `call_user`, so that Ctrl-C breaks it off as it does outside.

What Python raises in a finalizer it ignores, so Ctrl-C would be lost there; `finalize` has it raised a
moment later. Only what comes as the finalizer begins is lost: so what takes long, such as to free memory, is
best done within one, and what is called after it should be no Python at all (see `array.WeakArrays`).

Only the main thread is ever interrupted; in others, these do nothing. What a program has set for Ctrl-C stays
in force; where that is nothing of Python's, it is left alone.
"""

from __future__ import annotations

import _thread
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from signal import SIGINT
from threading import get_ident
from types import CodeType
from typing import Any, TypeVar

from sharedarray import _forks as forks
from sharedarray._clock import time

try:  # `signal` without its conversion to enumerations, which takes ten times as long
    from _signal import (  # type: ignore[import-not-found]
        getsignal as _getsignal,
        signal as _set_signal,
    )
except ImportError:
    from signal import getsignal as _getsignal, signal as _set_signal

__all__ = [
    "allowed",
    "broken_off",
    "call_user",
    "deferred",
    "finalize",
    "finalizer",
    "is_main",
    "raise_later",
]

_INTERRUPT = int(SIGINT)
# Seconds in which a finalizer is likely to return.
_MOMENT = 0.001

Handler = Callable[[int, Any], Any]
_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


# Of the main thread, which alone changes these: for each deferred block that it is in, from the outermost,
# whether a wait in it may be broken off; what is in force outside; what came.
_main = threading.main_thread().ident
_open: list[bool] = []
_handler: Handler | None = None
_caught: tuple[int, Any] | None = None
# How often what may be broken off was.
_broken_off = 0


def _catch(number: int, frame: Any) -> None:
    """Stand in for the handler in force, for as long as any deferred block lasts.

    One that breaks a wait off closes it, so that the next one waits again: two that come together would else
    break off the leaving of the blocks, and what is in force would never be put back.
    """
    global _broken_off, _caught
    handler = _handler
    if handler is None or not _open or not _open[-1]:
        _caught = number, frame
        return
    _open[-1] = False
    _broken_off += 1
    handler(number, frame)  # raises, as a rule
    _broken_off -= 1
    _open[-1] = True


def _raise_late(handler: Handler, *, later: bool) -> None:
    """Call a handler with what came in a block that ends."""
    global _caught
    assert _caught is not None
    caught, _caught = _caught, None
    if later:
        raise_later()
    else:
        handler(*caught)


def _raise_caught(*, later: bool = False) -> None:
    """Break off a wait, or the rest of one, by what came before it was allowed."""
    global _caught
    if _caught is not None:
        caught, _caught = _caught, None
        if later:
            raise_later()
        else:
            _catch(*caught)


# Python ignores exceptions in finalizers, and in the functions that `weakref` calls when an object is gone,
# perhaps right after a finalizer.
_WEAK: tuple[Any, ...] = weakref.WeakValueDictionary(), weakref.WeakKeyDictionary(), weakref.WeakSet()
_finalizers: set[CodeType] = {
    weak._remove.__code__ for weak in _WEAK if hasattr(getattr(weak, "_remove", None), "__code__")
}


def raise_later() -> None:
    """Raise what came in a finalizer, where Python ignores exceptions, as soon as that has returned."""
    frame, place = sys._getframe(1), None
    while frame.f_back is not None:
        if frame.f_code in _finalizers:
            place = id(frame.f_back), frame.f_back.f_lasti
        frame = frame.f_back
    try:
        _thread.start_new_thread(_interrupt_after, (place,))
    except RuntimeError:  # the interpreter is at its end
        pass


def _interrupt_after(place: tuple[int, int] | None) -> None:
    """Interrupt the main thread as soon as it has left a finalizer, in which it would be ignored.

    `place` is the frame and the instruction that the finalizer interrupts: one that drops many things may be
    between two of their finalizers.
    """
    inside = True
    while inside:
        time.sleep(_MOMENT)
        frame = None if _main is None else sys._current_frames().get(_main)
        inside = frame is not None and (id(frame), frame.f_lasti) == place
        while frame is not None and frame.f_code not in _finalizers:
            frame = frame.f_back
        inside = inside or frame is not None
        del frame
    _thread.interrupt_main()


class _Deferred:
    """A block that Ctrl-C does not break off. May be nested, also in a wait that it may."""

    def __init__(self, *, later: bool) -> None:
        self._later = later

    # Each call of a pool enters two such blocks. So these methods call no others of Python's, as a rule.

    def __enter__(self) -> None:
        global _handler, _caught
        if get_ident() != _main:
            return
        if not _open:
            handler = _getsignal(_INTERRUPT)
            if callable(handler) and handler is not _catch:
                _caught = None  # one of before, which a second one overtook as it was to be raised
                try:
                    _set_signal(_INTERRUPT, _catch)
                except ValueError:  # not in the main interpreter
                    pass
                else:
                    _handler = handler
        _open.append(False)

    def __exit__(self, *exception: object) -> None:
        global _handler
        if not _open or get_ident() != _main:
            return
        _open.pop()
        if _open:
            if _open[-1]:
                _raise_caught(later=self._later)
            return
        handler, _handler = _handler, None
        if handler is not None:
            if _getsignal(_INTERRUPT) is _catch:
                _set_signal(_INTERRUPT, handler)
            if _caught is not None:
                _raise_late(handler, later=self._later)


class _Allowed:
    """Within such a block, one that Ctrl-C may break off: a wait."""

    def __enter__(self) -> None:
        if _open and get_ident() == _main:
            _open[-1] = True
            if _caught is not None:
                _raise_caught()

    def __exit__(self, *exception: object) -> None:
        if _open and get_ident() == _main:
            _open[-1] = False


deferred, allowed, _finalizing = _Deferred(later=False), _Allowed(), _Deferred(later=True)


def is_main() -> bool:
    """Return whether this is the thread that is interrupted."""
    return get_ident() == _main


def broken_off() -> int:
    """Return how often Ctrl-C has broken off this thread in what is `allowed`: a number to compare."""
    return _broken_off if get_ident() == _main else 0


def call_user(function: Callable[..., _T], *args: Any) -> _T:
    """Return what a function of the user's returns; Ctrl-C breaks it off also within a deferred block.

    It is called in any case: what came before its beginning is raised when it is done.
    """
    early: BaseException | None = None
    while True:
        begun = False
        try:
            with allowed:
                begun = True
                found = function(*args)
        except BaseException as raised:
            if begun:
                raise
            early = raised
        else:
            break
    if early is not None:
        raise early
    return found


def finalizer(function: _F) -> _F:
    """Note that a function is a finalizer, or a callback of a weak reference."""
    _finalizers.add(function.__code__)
    return function


def finalize(function: Callable[..., object], *args: Any) -> None:
    """Do what a `finalizer` has to do, in a deferred block; Ctrl-C comes when that has returned.

    In a forked child it is done when the modules know of the fork.
    """
    if forks.parent and forks.postpone(partial(finalize, function, *args)):
        return
    begun = done = False
    try:
        with _finalizing:
            begun = True
            function(*args)
            done = True
    except BaseException:
        if begun and not done:
            raise  # the function's own; else it is of Ctrl-C in the first or last steps of the block
        if _open:
            _open[-1] = True  # that was to break off a wait, and will be
        raise_later()
        if not begun:
            with _finalizing:
                function(*args)


def _in_fork() -> None:
    # The child may never leave the block in which its parent was, and has another main thread.
    global _main, _caught, _handler
    _main, _caught = get_ident(), None
    _open.clear()
    handler, _handler = _handler, None
    if handler is not None and _getsignal(_INTERRUPT) is _catch:
        _set_signal(_INTERRUPT, handler)


forks.around(__name__, in_child=_in_fork)
