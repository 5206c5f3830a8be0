"""Breaking a stream's calls off at each of their steps: by SIGKILL at a bytecode, by Ctrl-C at a line."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import sharedarray as sa

LIBRARY = str(Path(sa.__file__).parent)
TRACED = (os.path.join(LIBRARY, "_streams"), os.path.join(LIBRARY, "_wakers"))


def trace(event: str, action: Callable[[], None], traced: tuple[str, ...] = TRACED) -> None:
    """Call `action` at each step of the modules of streams, or of others: an 'opcode' or a 'line'."""

    def local(frame: FrameType, what: str, argument: object) -> Any:
        if what == event:
            action()
        return local

    def begin(frame: FrameType, what: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(traced):
            return None
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


def interrupted_at(step: int, work: Callable[[], None]) -> bool:
    """Do some work that Ctrl-C breaks off at a line of it; return False if it has fewer lines."""
    remaining = step

    def count() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            raise KeyboardInterrupt

    try:
        trace("line", count)
        try:
            work()
        finally:
            sys.settrace(None)
    except KeyboardInterrupt:
        return True
    return False
