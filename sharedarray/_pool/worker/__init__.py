"""The code that runs in each process of a pool.

=============  =====================================================================
builtin_names  the builtins, which a task may have replaced
attachments    blocks that a worker keeps mapped between tasks
replies        outcomes on their way to the pool
loop           read messages, run calls, reply
main           the beginning and the end of a worker
=============  =====================================================================
"""
