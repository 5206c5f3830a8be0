"""The core of a `Pool`: worker processes, and the calls that they run. `Pool` itself is in `_executor`.

The modules of this package, bottom to top; imports go downwards only:

=============  =====================================================================
transport      pipes, messages and pollers; the memory of large arguments and results
codec          calls, arguments, results and exceptions as bytes; shared arrays by reference
processes      worker processes: how each is started, and what its end means
worker         what runs in each of them
states         the states of a pool, of a worker and of the reader's role
scheduler      which worker gets which calls: pure functions
calls          functions and tasks: what a pool is asked to do
futures        `PoolFuture`: the outcome of one submitted call
sinks          the outcomes of the items of one map
unconsumed     the warning of a map whose results no code takes
outcomes       exceptions that are the outcomes of calls which no worker has finished
stats          how long functions take, what was copied, which worker ran which call
reader         which thread reads the pipes
incoming       loading the outcomes that workers send
outgoing       messages to one worker
worker_handle  one worker, as the pool sees it: its state, and the calls that it has
dispatcher     the queue, and sending tasks to workers
cancellation   tasks that will not be done
inbox          acting on what workers send
copier         copying large arguments without the pool's lock
receiver       waiting for messages and exits: the pool's thread, or a caller
timers         limits, deadlines, processes that do not end
lifecycle      pools at the end of the interpreter and in a fork
supervisor     starting workers, noticing their exits, retrying their calls
housekeeping   what the pool's thread does between two waits
manager        the pool's thread, and the callbacks of futures
intake         from a call to a task
core           the state of a pool, and what its modules have in common
=============  =====================================================================

Where things happen:

=================================  ===========================================================
a call becomes a task              `intake.Intake.submit`, `intake.Intake.map`
large arguments are copied         `intake.Intake._copy_arguments`; later ones, `copier.Copier`
a task is given to a worker        `dispatcher.Dispatcher.dispatch`
how many items it gets at once     `scheduler.place`, `scheduler.depth`
a worker runs a call               `worker.loop.Loop._run_calls`, `worker.loop.Loop._run_task`
an outcome arrives                 `inbox.Inbox.handle`
an array of a result is viewed     `incoming.Incoming._borrow`, `codec.arrays.array_from`
a future gets its result           `futures.PoolFuture.put`
a call is cancelled                `cancellation.Cancellation.cancel_task`
a call takes too long              `timers.Timers.check`
a worker dies                      `supervisor.Supervisor.on_exit`
its task is retried, or fails      `supervisor.Supervisor._fail_or_retry`
it is replaced                     `housekeeping.Housekeeping._start_workers`
=================================  ===========================================================
"""

from sharedarray._pool.codec.failures import RemoteTraceback

__all__ = ["RemoteTraceback"]
