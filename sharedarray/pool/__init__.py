"""Processes that run functions on arrays: `Pool`.

The modules of this package, bottom to top; imports go downwards only:

=============  =====================================================================
transport      pipes, pollers and messages; the memory of large arguments and results (see there)
functions      functions and classes of the main module, and the ``__main__`` of a worker
codec          calls, arguments, results and exceptions as bytes; shared arrays by reference (see there)
processes      worker processes: how each is started, and what its end means (see there)
outbox         small answers that a worker has not sent yet, where its death cannot take them
attachments    what a worker keeps mapped between tasks
tasks          what is asked of a pool, and where the outcome goes
worker         what runs in each process of a pool
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
