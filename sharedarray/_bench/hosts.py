"""Contestants in interpreters of their own, asked one after the other.

Libraries that start processes disturb each other in one process: their threads, their trackers, what they do
when they are imported. So each has a host, a process that is a program using that library and nothing else.
It answers one question at a time, while all the others sleep in a read from their pipes::

    the race                              a host
       │  question, arguments ───────────>  │  gets ready, calls until warm,
       │  <────────── seconds of a call     │  times some calls

A host ends when its pipe does, and is killed when it gives no answer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sharedarray._bench import memory
from sharedarray._bench.contestant import Contestant
from sharedarray._bench.contestants import CONTESTANTS, why_missing
from sharedarray._bench.race import ContestantError, seconds_of
from sharedarray._bench.tasks import Array

WARM_CALLS = 6
"""Calls before those that count, so that all workers have seen everything."""

WARM_SECONDS = 0.6
"""Seconds after which a figure is final. A call that takes twice as long is the figure itself."""

MOST_LOOPS = 500
KEPT = 64 << 20  # bytes of the largest argument that a host keeps between two questions
PATIENCE = 120.0  # seconds until a host that gives no answer is given up
STARTING = 60.0  # the same for its start


@dataclass(frozen=True, slots=True)
class Question:
    """A method of `Contestant` and its arguments; for how many seconds to time it, and to warm up before."""

    name: str
    args: tuple[Any, ...]
    seconds: float
    warm: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a host has no answer."""

    reason: str


# -- in the host ----------------------------------------------------------------------------------------


class _Answers:
    """The state of a host between two questions."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self._data: Array | None = None

    def answer(self, question: Question) -> float:
        """Return seconds of a call."""
        args = question.args
        if question.name in ("argument", "share", "blocks"):
            args = (self._argument(*args),)
        elif question.name == "have":
            self._argument(*args)
            return 0.0
        try:
            with getattr(self.contestant, question.name)(*args) as call:
                return _timed(call, question.seconds, question.warm)
        finally:
            if self._data is not None and self._data.nbytes > KEPT:
                self._data = None

    def _argument(self, size: int) -> Array:
        if self._data is None or self._data.nbytes != size:
            self._data = None
            self._data = np.random.default_rng(0).random(size // 8)
        return self._data


def _timed(call: Any, seconds: float, warm: float) -> float:
    took = begin = time.perf_counter()
    for number in range(WARM_CALLS):
        took = seconds_of(call, 1)
        if took > 2 * warm:
            return took
        if number and time.perf_counter() - begin > warm:  # one alone has met cold memory
            break
    return seconds_of(call, max(1, min(MOST_LOOPS, round(seconds / max(took, 1e-9)))))


def _serve(connection: Connection, name: str, log: str) -> None:
    """Run the host of a contestant, whose libraries print into `log`."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        try:
            with CONTESTANTS[name]() as contestant:
                connection.send(None)
                answers = _Answers(contestant)
                while True:
                    question = connection.recv()
                    if question is None:
                        break
                    connection.send(answers.answer(question))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            traceback.print_exc()
            connection.send(Failure(_first_line(error)))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# -- in the race ----------------------------------------------------------------------------------------


class Host:
    """A process that hosts a contestant; a context manager, which ends it and all that it started."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = CONTESTANTS[name].kind
        self.questions = CONTESTANTS[name].questions

    def __enter__(self) -> Host:
        if reason := why_missing(self.name):
            raise ContestantError(reason)
        handle, self._log = tempfile.mkstemp(".log", "sharedarray-bench-")
        os.close(handle)
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self.name, self._log))
        self._process.start()
        there.close()
        try:
            self._receive(STARTING)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(STARTING if self._process.exitcode is None else 0)
        if self._process.exitcode is None:
            self._kill()
        self._connection.close()
        with contextlib.suppress(OSError):
            os.unlink(self._log)

    @property
    def pid(self) -> int:
        """The host's process, whose descendants are the contestant's workers."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, name: str, *args: Any, seconds: float = 0.03, warm: float = WARM_SECONDS) -> float:
        """Return the seconds of a call, timed for `seconds` after `warm` seconds that do not count.

        Raises
        ------
        ContestantError
            The contestant failed, died or hangs; it is of no use any more.
        """
        self._send(Question(name, args, seconds, warm))
        return self._receive(PATIENCE)

    def peak(self, name: str, *args: Any) -> int:
        """Return by how much memory and files of the host grow at most, in bytes, in some calls."""
        before = memory.peak(self.pid, lambda: True)
        self._send(Question(name, args, 0.0, WARM_SECONDS))
        most = memory.peak(self.pid, self._connection.poll)
        self._receive(PATIENCE)
        return max(most - before, 0)

    def _send(self, question: Question) -> None:
        try:
            self._connection.send(question)
        except OSError:
            raise ContestantError("its process has ended") from None

    def _receive(self, patience: float) -> float:
        if not self._connection.poll(patience):
            self._kill()
            raise ContestantError(f"no answer in {patience:.0f} s")
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ContestantError(f"its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, Failure):
            raise ContestantError(answer.reason)
        return 0.0 if answer is None else float(answer)

    def _kill(self) -> None:
        """End the host and its descendants, as far as they are known."""
        pids = memory.process_tree(self.pid)[1:] if memory.why_not() is None else []
        self._process.kill()
        self._process.join()
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, 9)


@contextlib.contextmanager
def hosted(names: Iterable[str]) -> Iterator[tuple[dict[str, Host], dict[str, str]]]:
    """Yield the hosts of these contestants by name, and the reasons of those that cannot take part."""
    there: dict[str, Host] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                there[name] = stack.enter_context(Host(name))
            except ContestantError as error:
                missing[name] = str(error)
        yield there, missing
