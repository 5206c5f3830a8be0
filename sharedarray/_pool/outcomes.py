"""The exceptions that are the outcomes of calls which no worker has finished, or which a pool refuses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from sharedarray import _errors as errors
from sharedarray._pool.calls import Task
from sharedarray._pool.codec import failures
from sharedarray._pool.codec.culprits import Culprit
from sharedarray._pool.processes import exit_codes

if TYPE_CHECKING:
    from sharedarray._pool.worker_handle import WorkerHandle

__all__ = ["after_shutdown", "cancelled", "interrupted", "timed_out", "unsendable", "worker_died"]


def unsendable(label: str, reason: BaseException, culprit: Culprit | None = None) -> errors.NotPicklableError:
    """Return the outcome of a call that cannot be pickled, because of a part of it perhaps."""
    found = failures.described(reason)
    cause = "open files, locks, sockets, generators and the like belong to one process"
    next_step = "open such things in the function itself, or in an initializer of the pool"
    if culprit is not None:
        found = culprit.described(found)
        cause, next_step = culprit.cause, culprit.cure or next_step
        if culprit.noun is not None:
            failures.forget_frames(reason)  # they are only of picklers, and hold the call
    error = errors.NotPicklableError(
        f"the call of {label} cannot be sent to a worker",
        name=label,
        found=found,
        expected="a function and arguments that pickle or cloudpickle can write",
        cause=cause,
        next_step=next_step,
    )
    error.__cause__ = reason
    return error


def after_shutdown(*, has_left_with: bool, is_collected: bool = False) -> RuntimeError:
    """Return the error for a call of a pool that takes no more calls.

    Parameters
    ----------
    has_left_with
        Whether the pool's ``with`` statement has ended.
    is_collected
        Whether the pool was garbage collected.
    """
    reason = "the pool was shut down. Next step: make the call before shutdown(), or make another pool"
    if has_left_with:
        reason = "the pool's with block has ended. Next step: move the call into the with block"
    elif is_collected:
        reason = "the pool was garbage collected. Next step: keep a reference to it"
    return RuntimeError(f"cannot schedule new futures after shutdown: {reason}")


def worker_died(worker: WorkerHandle, label: str, code: int | None) -> errors.WorkerDied:
    """Return the outcome of a call whose worker died."""
    death = exit_codes.explain(code)
    return errors.WorkerDied(
        f"the worker that ran {label} died",
        name=label,
        found=f"{worker.name} (process {worker.pid}) ended {death.how}",
        expected="a result or an exception",
        cause=death.cause,
        next_step=f"{death.next_step}; the pool goes on with a new worker, and Pool(retries=1) would have "
        "run the task again",
    )


def interrupted(label: str) -> errors.WorkerDied:
    """Return the outcome of a call whose pool was aborted."""
    return errors.WorkerDied(
        f"the worker that ran {label} was ended with its pool",
        name=label,
        cause="the pool was interrupted (Ctrl-C, or an exit out of its with statement)",
    )


def cancelled() -> CancelledError:
    """Return the outcome of a running call that was cancelled."""
    return CancelledError()


def timed_out(task: Task) -> Callable[[], TimeoutError]:
    """Return what makes the outcomes of a task that was not done in time."""
    label, limit = task.label, task.limit

    def made() -> TimeoutError:
        allowed = "the time for the call" if limit is None else f"{limit:g} s"
        return TimeoutError(f"{label} was not done within {allowed}; its worker was ended and replaced")

    return made
