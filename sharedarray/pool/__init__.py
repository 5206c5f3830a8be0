"""Processes that run functions on arrays: `Pool`.

The rooms of this package, bottom to top; imports go downwards only:

=============  =====================================================================
messages       the frames on the pipe between the pool and a worker, byte for byte
channel        one end of that pipe; why it cannot deadlock
pickling       tasks and results as pickles; shared arrays by reference
failures       exceptions on their way home
deaths         what an exit code says
threads        how many threads numeric libraries may use in a worker
progress       progress bars
worker         what runs in each process of a pool
processes      how these are started, and what they inherit
engine         who runs what, who has died, and when it is over
blockwise      arrays in blocks: the plan, the halo, the output
executor       `Pool`
=============  =====================================================================
"""

from sharedarray.pool.executor import Pool
from sharedarray.pool.failures import RemoteTraceback

__all__ = ["Pool", "RemoteTraceback"]
