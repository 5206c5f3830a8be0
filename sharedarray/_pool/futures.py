"""`PoolFuture`: the outcome of one submitted call.

A thread that waits for it does not sleep until the pool's thread has the outcome: it reads the workers' pipes
itself (`Receiver.read_until`). That saves the wake-up of a thread in each round trip, which is most of what a
short call costs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Final

from sharedarray import _forks as forks, _hints as hints, _sigint as sigint
from sharedarray._clock import deadline_of, time
from sharedarray._pool.calls import Raised, Task

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["FUTURE_METHODS", "PoolFuture"]

_logger = logging.getLogger("concurrent.futures")  # which logs what callbacks raise


# Methods of multiprocessing's AsyncResult, and what to write in their place.
FUTURE_METHODS: Final = {
    "get": "write future.result(timeout)",
    "ready": "write future.done()",
    "successful": "write future.done() and future.exception() is None",
    "wait": "write concurrent.futures.wait([future], timeout)",
}
# Seconds within which a killed worker must be gone.
_PATIENCE = 5.0
_CANCELLED = frozenset(("CANCELLED", "CANCELLED_AND_NOTIFIED"))
_SETTLED = frozenset(("CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"))
_NOTIFIED = frozenset(("CANCELLED_AND_NOTIFIED", "FINISHED"))


# Held while a future without a condition changes its state or gets a condition. A signal handler or a
# finalizer may interrupt that and use a pool: so a thread can take it twice, and nothing is called within it.
_making = threading.RLock()
forks.around(__name__, in_child=getattr(_making, "_at_fork_reinit", None))  # only systems that fork have it


class _Condition(threading.Condition):
    """A condition that Ctrl-C never leaves locked.

    `concurrent.futures.wait` and `as_completed` lock the conditions of all their futures before they look at
    any. If Ctrl-C broke that off, the pool's thread would wait for ever when it settles one of these. So
    Ctrl-C comes when the last condition is free again, or breaks off the wait itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._take: Callable[[bool, float], bool] = self.acquire
        self._give_back: Callable[[], None] = self.release
        del self.acquire, self.release  # the lock's own, which would hide the methods here

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        sigint.deferred.__enter__()
        taken = False
        try:
            taken = self._take(blocking, timeout)
        finally:
            if not taken:
                sigint.deferred.__exit__()
        return taken

    def release(self) -> None:
        try:
            self._give_back()
        finally:
            sigint.deferred.__exit__()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as `threading.Condition.wait` does; Ctrl-C breaks off the wait alone."""
        base: Any = self  # whose private parts these are
        waiter = threading.Lock()
        waiter.acquire()
        base._waiters.append(waiter)
        saved = base._release_save()
        woken = False
        try:
            with sigint.allowed:
                woken = waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            base._acquire_restore(saved)
            if not woken:
                with contextlib.suppress(ValueError):
                    base._waiters.remove(waiter)
        return woken


class PoolFuture(Future[Any]):
    """A `concurrent.futures.Future` whose waiting thread reads the pipes, and which can end a running call.

    Most futures are only waited for by `result`. They need neither condition nor waiters nor callbacks, and
    making and using these takes as long as pickling a small call. So a future gets them when its condition
    is accessed, which the standard library does before all that it does with them.
    """

    _own: threading.Condition | None = None
    _task: Task | None = None
    _call = 0
    _settling = False
    _state = "PENDING"
    _result: Any = None
    _exception: BaseException | None = None

    def __init__(self, core: PoolCore | None = None) -> None:
        self._core = core

    if not TYPE_CHECKING:  # for a type checker, every name would be there then

        def __getattr__(self, name):
            raise hints.no_attribute(self, name, FUTURE_METHODS)

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        own = self._own
        if own is None:
            waiters: list[Any] = []
            callbacks: list[Any] = []
            made = _Condition()
            with _making:
                own = self._own
                if own is None:
                    self._waiters, self._done_callbacks = waiters, callbacks
                    own = self._own = made
            self._attend()
        return own

    def _attend(self) -> None:
        """Ensure that the reply is read: not only `result` asks for it."""
        if self._core is not None and self._state not in _SETTLED:
            self._core.ensure_reader()

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned, or raise what it raised; see `concurrent.futures.Future.result`."""
        try:
            if timeout is not None or self._core is None:
                timeout = self._read(timeout)
            elif self._state not in _SETTLED:
                self._core.read_until(self._is_settled, None)
            if self._own is None and self._state == "FINISHED" and self._exception is None:
                return self._result
            return super().result(timeout)
        finally:
            del self  # as the standard library does: an exception's frame must not keep the future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; see `concurrent.futures.Future.exception`."""
        return super().exception(self._read(timeout))

    def _read(self, timeout: float | None) -> float | None:
        core = self._core
        if self._state in _SETTLED or core is None:
            return timeout
        deadline = deadline_of(timeout)
        core.read_until(self._is_settled, deadline)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    @property
    def call(self) -> int:
        """The number of the call, by which the pool's reports know it."""
        return self._call

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call if it has not begun.

        Parameters
        ----------
        running : bool, default False
            Cancel it even then: the worker that runs it is killed and replaced. Nothing else is lost.

        Returns
        -------
        bool
            Whether it is cancelled.
        """
        core, task = self._core, self._task
        if not self._cancel(for_call=task is not None):
            if self._state != "RUNNING" or core is None or task is None:
                return False
            if core.cancel_task(task, running=running) and not core.receiver.is_reading:
                with self._condition:
                    self._condition.wait_for(lambda: self._state in _SETTLED, _PATIENCE)
        if core is not None:
            core.wake_reader()
        return self.cancelled()

    def _cancel(self, *, for_call: bool) -> bool:
        """Cancel the call if it has not begun, and tell all that wait for it; return whether it is cancelled.

        The state changes without the condition: `begin` must not wait for that.

        Parameters
        ----------
        for_call
            Whether the future stands for a call of a pool. If not, what runs it tells its waiters.
        """
        with sigint.deferred:
            with _making:
                pending = self._state == "PENDING"
                if pending:
                    self._state = "CANCELLED"
            if pending:
                with self._condition:
                    self._condition.notify_all()
                if for_call:
                    self._begins()  # its waiters learn of it now, for no worker will take it
                self._invoke_callbacks()
        return self._state in _CANCELLED

    def done(self) -> bool:
        """Return whether the call has ended or was cancelled."""
        if self._state not in _SETTLED:
            self._attend()
        return self._state in _SETTLED

    def _is_settled(self) -> bool:
        return self._state in _SETTLED

    def running(self) -> bool:
        """Return whether the call is being run, as far as the pool knows: it is the first of its worker's."""
        task = self._task
        return super().running() and (task is None or self._core is None or self._core.is_running(task))

    # As a sink

    def assign(self, task: Task) -> None:
        """Note the task whose outcome this is, before any other thread has the future."""
        self._task, self._call = task, task.call

    def begin(self) -> bool:
        """Note that the call is handed out; return False if it was cancelled.

        The pool's lock is held, which a thread may wait for that has the condition: by a signal handler, or
        a finalizer, which interrupts it.
        """
        with _making:
            if self._state == "PENDING":
                self._state = "RUNNING"
        return self._state == "RUNNING"

    def _begins(self) -> bool:
        """Change to running; return False if the call was cancelled or has ended. Waiters learn it once."""
        with self._condition:
            if self._state in _NOTIFIED:
                return False  # a second notice would be an error
            return self.set_running_or_notify_cancel()

    def wanted(self) -> bool:
        """Return whether it was not cancelled."""
        return self._state not in _CANCELLED

    def _invoke_callbacks(self) -> None:
        """Call the callbacks now if the caller has cancelled, else when all that has arrived is settled."""
        if not self._done_callbacks:
            return
        if not (self._settling and self._core is not None and self._core.queue_callbacks(self)):
            self.call_back()

    def put(self, index: int, outcomes: list[Any], step: int = 1) -> None:
        """Settle the future, unless it was cancelled while it still waited."""
        self._task = None
        self._settling = True
        outcome = outcomes[0]
        if self._own is None and type(outcome) is not Raised:
            with _making:
                if self._own is None:
                    self._result = outcome
                    self._state = "FINISHED"
                    return
        if self._state != "RUNNING" and not self._begins():
            return
        try:
            if type(outcome) is Raised:
                self.set_exception(outcome.exception)
            else:
                self.set_result(outcome)
        except InvalidStateError:
            pass

    def call_back(self) -> None:
        """Call the callbacks, all of them; see `concurrent.futures.Future.add_done_callback`.

        What a callback raises is logged, as the standard library does with an `Exception`, so that it does
        not end the pool's own thread. Only what a signal's handler raises goes on to the main thread.
        """
        raised: list[BaseException] = []
        for callback in self._done_callbacks:
            try:
                sigint.call_user(callback, self)
            except BaseException as error:
                if isinstance(error, Exception) or error is self._exception or not sigint.is_main():
                    _logger.exception("exception calling callback for %r", self)
                else:
                    raised.append(error)
        if raised:
            raise raised[0]

    def cancel_items(self, index: int, count: int, step: int = 1) -> None:
        """Become cancelled, though the call was handed out."""
        self._task = None
        self._settling = True
        with _making:
            if self._state == "RUNNING":
                self._state = "PENDING"
        self._cancel(for_call=True)

    def skip(self, count: int) -> None:
        """Do nothing: it is cancelled already."""
