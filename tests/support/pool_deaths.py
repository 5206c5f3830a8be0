"""Functions by which a worker dies at a certain step of its life. Workers import this, without pytest."""

from __future__ import annotations

import functools
import os

import pool_tasks

import sharedarray as sa
from sharedarray._pool.transport.channel import Channel
from sharedarray._pool.transport.messages import Kind
from sharedarray._pool.worker.loop import Loop
from sharedarray._pool.worker.replies import Replies


def die(*_, **__):
    os.kill(os.getpid(), pool_tasks.KILL)


def note(path, number, size=0):
    """Note that this was called; return the number, or so many bytes."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"%d\n" % number)
    os.close(file)
    return b"x" * size if size else number


def note_and_die(path, number, deadly, marker=None):
    """Do as `note`, and die of that number, once if there is a marker."""
    note(path, number)
    if number == deadly:
        if marker is None:
            die()
        pool_tasks.die_the_first_time(marker)
    return number


def make_noted(path, number):
    """Return a shared array of the worker's own."""
    return sa.full(3, note(path, number), name=f"made-as-{number}")


# -- traps: what this worker does at a step of the next call ---------------------------------------------


def on_message(kind):
    plain = Loop._on_message

    def dies(loop, frame):
        if frame.kind == kind:
            die()
        plain(loop, frame)

    Loop._on_message = dies


def on_flush():
    plain = Replies._flush

    def dies(replies):
        if replies._since:
            die()
        plain(replies)

    Replies._flush = dies


def around_calls(armed):
    """Replace what runs the calls of a message by a function that gets that, the loop, and the calls."""
    for name in ("_run_calls", "_run_task"):
        plain = getattr(Loop, name)
        setattr(Loop, name, functools.partialmethod(_armed, armed, plain))


def _armed(loop, armed, plain, *calls):
    armed(plain, loop, *calls)


def before_running():
    around_calls(lambda plain, loop, *calls: die())


def before_reply():
    def armed(plain, loop, *calls):  # for this call is answered as well
        Replies.add = die
        plain(loop, *calls)

    around_calls(armed)


def after_reply():
    def armed(plain, loop, *calls):
        plain(loop, *calls)
        Loop._wait = die

    around_calls(armed)


def in_the_middle_of_a_message():
    plain = Channel.flush

    def dies(channel, *, safe=False):
        channel._gather()
        if sum(map(len, channel._unsent)) > 1 << 18:
            *head, body = channel._unsent
            channel._write_all([*head, body[: len(body) // 2]])
            die()
        return plain(channel, safe=safe)

    Channel.flush = dies
    Loop._ask = lambda loop, size: None  # no slot, so the result travels through the pipe


def after_the_outcome():
    plain = Replies.send_outcome

    def dies(replies, *given):
        plain(replies, *given)
        die()

    Replies.send_outcome = dies


TRAPS = {
    "the function arrives": lambda: on_message(Kind.DEFINE),
    "it was read": before_running,
    "it was begun": lambda: setattr(Loop, "_function", die),
    "it was run": before_reply,
    "its outcome waits to be sent": on_flush,
    "half of its outcome was sent": in_the_middle_of_a_message,
    "it was answered": after_reply,
    "its outcome was sent": after_the_outcome,
    "its outcome was confirmed": lambda: on_message(Kind.TAKEN),
    "calls were revoked": lambda: setattr(Loop, "_drop", die),
    "it is stopped": lambda: on_message(Kind.STOP),
}


def trap(step):
    """Make this worker die at a step of its next call."""
    TRAPS[step]()
    return os.getpid()


def trap_all(step):
    """Do so as an initializer: then every worker dies."""
    TRAPS[step]()
