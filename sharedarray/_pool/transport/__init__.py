"""The exchange of messages and memory between a pool and its workers.

The modules, bottom to top; imports go downwards only:

========  =========================================================================
messages  the messages, byte for byte
channel   one end of two pipes; why it cannot deadlock
memory    files without a name: how bytes get into one, and which process uses it
slot      one slot, seen from the pool: how it is filled, and whether it is in use
slots     the pool's side: all the slots of a pool, made, found free, kept and freed
page      the page of a worker's replies that are not sent yet
mappings  a worker's side: the slots that it has mapped
========  =========================================================================

Writing to fresh memory costs several times what a copy costs, because the kernel has to find and clear every
page. So large buffers travel in *slots*, files without a name on the memory file system, whose pages stay and
which both sides keep mapped::

    sender                                            receiver
    ------                                            --------
    slot = a free one, or a new one
    copy the buffers into it           -- entry -->   build arrays right on it, run the task
    (a new one: pwrite, which is                      lock it (shared) if a view still lives
     quicker than faulting pages in)   <- answer --   ...
    it is free, unless it is locked                   the last view goes: unlock

**The pool makes every slot**, for arguments and for results, so what there is of them is known and bounded in
one place. A worker writes its result into a slot that came with the task (when the last result of that
function was large) or that it asked for.

**The pool knows that a slot is in use** from the moment that it takes it until the worker has answered or has
ended, and for as long as the pool's own process has a view of a result.

**The kernel says whether it is in use for longer.** A process that has views of a slot beyond that time holds
a shared lock on its first byte, through an open file of its own, which it closes when the last view goes. A
worker takes the lock before it answers, and each process before it forks. To use a slot again, the pool takes
that lock exclusively, without waiting. So a view that a task has put into a global variable keeps its slot,
in a process that a task has forked as well, and the death of a process frees what it held, without a count
that a dead process could leave wrong. Nearly all views are gone before the answer; they cost no system call.

**Nothing can be left behind.** A slot has no name; the kernel frees it when the last process that has it open
or mapped is gone. A slot that is trimmed is cut to length 0 first, so that its memory is free at once, though
workers may have it mapped still: no process has a view of it, and it is never used again.

What each side gets: a task that is the only user of a slot gets the slot itself, writable. If several tasks
read one slot, or a task may be run again, each gets a copy of up to 1 MiB, or a copy-on-write mapping.
"""
