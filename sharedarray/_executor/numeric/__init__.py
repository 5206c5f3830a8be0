"""Numeric calls of a pool, `map_blocks` and `reduce_blocks`: each block of the arrays goes to a worker.

The modules of this package, bottom to top; imports go downwards only:

=========  =====================================================================
tiling     how arrays are cut into blocks
blockwise  one block in a worker, and where the results go
of_groups  groups in the place of arrays
calls      `NumericCalls`: these methods of `Pool`
=========  =====================================================================
"""
