"""The end of a process that a task has forked and that returns from the task.

A task may fork, and so may an initializer, a ``__reduce__`` or a done-callback. The child may do anything
until it returns from that function. Then it is in the middle of the worker's loop, or of the pool's, with the
same pipes, counters and memory, and would send a second reply.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from multiprocessing import current_process
from typing import NoReturn

__all__ = ["end_copy", "is_copy", "set_copy"]


# Whether this process is a fork of a worker, and no worker itself.
_copy = False


def is_copy() -> bool:
    """Return whether this process is a fork of a worker."""
    return _copy


def set_copy(copy: bool) -> None:
    """Note whether this process is a fork of a worker, or a worker."""
    global _copy
    _copy = copy


def end_copy(raised: BaseException | None = None) -> NoReturn:
    """End this process, which has returned from the function that forked it, and report that.

    ``raised`` is the exception of the function. `SystemExit` ends this process as it ends a program.
    """
    with contextlib.suppress(Exception):
        if isinstance(raised, SystemExit):
            code = raised.code
            if code is not None and not isinstance(code, int):
                print(code, file=sys.stderr)
                code = 1
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code or 0)
        text = "" if raised is None else "".join(traceback.format_exception(raised))
        dropped = "its result" if raised is None else "its exception"
        text += (
            f"sharedarray: process {os.getpid()} was forked within {current_process().name} and has returned "
            f"from the function that forked it; it ends here, and {dropped} is dropped. "
            "Next step: call os._exit() in it\n"
        )
        os.write(2, text.encode(errors="replace"))  # sys.stderr may hold what the parent is about to print
    os._exit(1)
