"""Processes that run functions on arrays: `Pool`.

The modules of this package, bottom to top; imports go downwards only:

=============  =====================================================================
credits        how many items a worker may begin
transport      pipes, pollers and messages; the memory of large arguments and results (see there)
functions      functions and classes of the main module, and the ``__main__`` of a worker
codec          calls, arguments, results and exceptions as bytes; shared arrays by reference (see there)
deaths         what an exit code says
threads        how many threads numeric libraries may use in a worker
group_signals  signals that reach all processes of a program at once
seeds          random numbers that differ between workers
progress       progress bars
outbox         small answers that a worker has not sent yet, where its death cannot take them
attachments    what a worker keeps mapped between tasks
tasks          what is asked of a pool, and where the outcome goes
forks          copies of a worker or a pool, which must not act as it
worker         what runs in each process of a pool
forkserver     a process that forks itself for each worker
processes      how these are started, and what they inherit
members        one worker, seen from the pool
ledger         what a pool remembers for its reports
engine         who runs what, who has died, and when it is over
numeric        numeric calls: one block in a worker, and where the results go
results        iterators over the results of `Pool.map` and its variants
arguments      checks of the arguments of `Pool`
arrays         shared arrays that a pool makes and closes
reporting      reports of a pool on its work
pool           `Pool`: the façade
=============  =====================================================================
"""

from sharedarray.pool.codec.failures import RemoteTraceback
from sharedarray.pool.pool import Pool

__all__ = ["Pool", "RemoteTraceback"]
