"""`Pool`, an executor for arrays, and what it has in common with `DaskPool`: the calls that users make.

The modules of this package, bottom to top; imports go downwards only:

=========  =====================================================================
arguments  checks of the arguments of a pool
migration  names that other pools have, and what to write instead
numeric    `Pool.map_blocks` and `Pool.reduce_blocks`
results    iterators over the results of `Pool.map` and its variants
maps       `Pool.map` and its variants
arrays     shared arrays that a pool makes and closes
reporting  reports of a pool on its work
pool       `Pool`: it checks arguments and hands calls to the core
=========  =====================================================================

It imports none of them: a worker that runs blocks needs `numeric` alone.
"""
