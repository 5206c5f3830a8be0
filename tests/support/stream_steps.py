"""Breaking a stream's calls off at each of their steps: by SIGKILL at a bytecode, by Ctrl-C at a line."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import sharedarray as sa

LIBRARY = str(Path(sa.__file__).parent)
TRACED = (os.path.join(LIBRARY, "_streams"), os.path.join(LIBRARY, "_wakers"))


def trace(event: str, action: Callable[[], None], traced: tuple[str, ...] = TRACED) -> None:
    """Call `action` at each step of the modules of streams, or of others: an 'opcode' or a 'line'.

    A frame's steps begin with its first line. Python calls no signal handler before that, and 3.11 crashes if
    an exception comes there.
    """

    def begin(frame: FrameType, what: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(traced):
            return None
        begun = False

        def local(frame: FrameType, what: str, argument: object) -> Any:
            nonlocal begun
            begun = begun or what == "line"
            if begun and what == event:
                action()
            return local

        frame.f_trace = local  # from Python 3.13 on, opcodes are told of a frame that has one
        frame.f_trace_opcodes = event == "opcode"
        return local

    here = sys._getframe()  # from 3.12 on, of frames that begin after the first that asked for opcodes
    here.f_trace = lambda *_: None
    here.f_trace_opcodes = event == "opcode"
    sys.settrace(begin)


def killed_at(step: int, work: Callable[[], None], traced: tuple[str, ...] = TRACED) -> bool:
    """Do some work in a child that kills itself at a step of it; return False if it has fewer steps."""
    child = os.fork()
    if not child:
        remaining = step

        def count() -> None:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            trace("opcode", count, traced)
            work()
            sys.settrace(None)
            status = 0
        except BaseException:
            sys.settrace(None)
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the work failed before its step {step}: {status}"
    return status != 0


@contextmanager
def stopped_once(begin: Callable[[Callable[[], None]], None], work: Callable[[], None]) -> Iterator[bool]:
    """Do some work in a child that stops itself; yield False if it does not.

    `begin` is called before the work, with the function that stops the child at its first call. The child is
    stopped during the ``with`` statement, and goes on to the end of its work after that.
    """
    child = os.fork()
    if not child:
        going = True

        def stop() -> None:
            nonlocal going
            if going:
                going = False
                os.kill(os.getpid(), signal.SIGSTOP)

        status = 1
        try:
            begin(stop)
            work()
            sys.settrace(None)
            status = 0
        except BaseException:
            sys.settrace(None)
            traceback.print_exc()
        finally:
            os._exit(status)
    stopped = False
    try:
        status = os.waitpid(child, os.WUNTRACED)[1]
        stopped = os.WIFSTOPPED(status)
        yield stopped
    finally:
        if stopped:
            os.kill(child, signal.SIGCONT)
            status = os.waitpid(child, 0)[1]
    assert status == 0, f"the work failed: {status}"


def stopped_at(step: int, work: Callable[[], None], traced: tuple[str, ...]) -> Any:
    """Do some work in a child that stops itself at a bytecode of it, as `stopped_once` does."""

    def begin(stop: Callable[[], None]) -> None:
        remaining = step

        def count() -> None:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                stop()

        trace("opcode", count, traced)

    return stopped_once(begin, work)


def interrupted_at(step: int, work: Callable[[], None]) -> bool:
    """Do some work in which SIGINT comes at a line; return False if it has fewer of them."""
    return interrupted_by_signal_at(step, work, TRACED, "line")


def interrupted_by_signal_at(
    step: int, work: Callable[[], None], traced: tuple[str, ...], event: str = "opcode"
) -> bool:
    """Do some work in which SIGINT comes at a bytecode, or a line; return False if it has fewer of them."""
    remaining = step

    def count() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            signal.raise_signal(signal.SIGINT)

    try:
        trace(event, count, traced)
        try:
            work()
        finally:
            sys.settrace(None)
    except KeyboardInterrupt:
        pass
    return remaining <= 0
