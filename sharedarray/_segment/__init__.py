"""Named bytes with a lease: the block without any idea of arrays.

`Mapping` is one attachment: the mapped bytes, the handle that carries the lease, and what is needed to
give it up. It subclasses `mmap.mmap` so that everything made from its bytes, memoryviews and arrays alike,
keeps it alive and leads back to it. `Segment` is its public face. The two are apart because a reference
from the mapping to its segment and back would be a cycle, and a block must be freed when its last view
goes, not when the garbage collector comes round.

How a block is made (`create`)::

    draft ─▶ write or reserve ─▶ lease ─▶ record ─▶ janitor ─▶ publish ─▶ map
    free block ─▶ map ─▶ write or clear ─▶ lease ─▶ record ─▶ janitor ─▶ publish

and released (`Mapping.release`, by `close()`, the last view's end, or the interpreter's exit)::

    release ─▶ held? ─▶ (alone? ─▶ registry.remove_if_unheld: record? removal lock ─▶ inode? ─▶ remove ─▶
    release) ─▶ close the handle, or keep it with the pages for the next block (`freelist`)

The lease is released before the question whether another process has one. Of two processes that release at
once, the one that asks last finds no holder, so the block goes; and a process that is not the last makes two
calls.

What this process holds is in `handles`. A fork gives the child a lease of its own on every block
(`hold_again`, before the fork, so that there is no gap), and the child closes what it inherited.

===========  =======================================================================
names        which names blocks may have, and random names
mapping      attachments: mapped bytes, their leases, and what a fork does with them
options      how a block is made: the keywords that all creation functions have
refusals     errors of making and attaching, and the check for free space
content      what is written into a block in the making
attaching    attaching to a block by its name, to a file by its path
removing     looking a name up, and removing it
making       making a block: draft, content, lease, record, name
segment      `Segment`, the public face of an attachment
===========  =======================================================================
"""

from __future__ import annotations

from sharedarray._segment.attaching import attach, open_file
from sharedarray._segment.content import Copy, Write
from sharedarray._segment.making import create, freed
from sharedarray._segment.mapping import (
    Follower,
    Mapping,
    drop_lease,
    follow,
    guard,
    guarded,
    guarded_close,
    guarded_open,
    guarded_open_file,
    has_name,
    mapping_of,
    on_release,
    release_all,
    retake_lease,
    use_without_lease,
    with_handle,
)
from sharedarray._segment.names import check_name
from sharedarray._segment.options import BlockOptions
from sharedarray._segment.refusals import (
    EMPTY,
    check_free,
    check_mode,
    not_found,
    out_of_memory,
    translated,
)
from sharedarray._segment.removing import exists, remove, unlink, unlink_mapping
from sharedarray._segment.segment import Segment, persist_mapping

__all__ = [
    "EMPTY",
    "BlockOptions",
    "Copy",
    "Follower",
    "Mapping",
    "Segment",
    "Write",
    "attach",
    "check_free",
    "check_mode",
    "check_name",
    "create",
    "drop_lease",
    "exists",
    "follow",
    "freed",
    "guard",
    "guarded",
    "guarded_close",
    "guarded_open",
    "guarded_open_file",
    "has_name",
    "mapping_of",
    "not_found",
    "on_release",
    "open_file",
    "out_of_memory",
    "persist_mapping",
    "release_all",
    "remove",
    "retake_lease",
    "translated",
    "unlink",
    "unlink_mapping",
    "use_without_lease",
    "with_handle",
]
