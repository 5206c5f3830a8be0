"""The records of blocks: the facts about a block beyond its bytes, and which process may remove it.

==========  =========================================================================
moments     moments, and their ages by a clock that no user can set
places      the directories of blocks and of the registry
processes   which processes live, in this pid namespace and in others
metadata    reading and removing the small files of the registry
notices     the files by which waiting processes of a block are woken
record      the record of a block: facts beyond its bytes, and how long it lives
in_flight   the pins of references on their way, which keep a block until it has arrived
semaphores  names of semaphores that processes open while they start
removal     removing the name of a block that no process holds
sweeping    sweeps over a whole directory
==========  =========================================================================

In the directory of the blocks, each user has a directory that no other user can enter::

    /dev/shm/frames                            a block
    /dev/shm/.sharedarray-1000/                the registry (mode 0700)
        b.frames@8123                          its record: name and inode, so that it fits this block alone
        t.8123.4711.90210.77.60000.6f1c9a2e    a reference on its way: one more name of that block, so that
                                               it stays; inode, sender's pid, start and pid namespace,
                                               milliseconds that it may outlive the sender, a random word
                                               (with 0 milliseconds also a free block, see `freelist`)
        d.t.8123.4711.90210.77.60000.6f1c9a2e  when that sender was first seen dead
        s.8123.4711.90210.77.60000.any         the same for a pickle that may be loaded never or often (Dask
                                               also pickles to find the length): one for each sender. The
                                               first load removes it, or a sweep later
        w.8123.3                               the waker of party 3 of that block, see `_wakers`
        v.8123                                 notices of new data in that block, see `_notices`
        n.4711.5e0b17aa                        a metadata link that is about to replace another
        locks.1                                which bytes are being written, see `sharedarray._intents`
        janitor.lock, janitor.sock             see `sharedarray._janitor`
        damaged.5e0b17aa90cd                   a directory that had one of these names, see `_damage`

Records and the ``d.`` files are metadata links. A record's text is
``1 KIND PID STARTED CREATED LIFE SPACE CLOCK UPTIME``: the version, what the bytes are (``array``, ``bytes``,
``memory``, ``list``, ``object``), the maker's pid and the tick at which that process started, the time in
seconds since 1970, and how long the block lives:

====================  ==============================================================================
``0``                 as long as a process holds it
``1``                 until it is unlinked
``kPID.START.SPACE``  as long as a process holds it, or its maker or the process PID (a *keeper*) lives
``oPID.START.SPACE``  exactly as long as the process PID (its *owner*) lives, held or not
====================  ==============================================================================

SPACE is the pid namespace of these pids: containers may share the directory and have their own pids. A keeper
in another pid namespace counts as alive. Any other process of another pid namespace is alive while it has its
byte of ``janitor.lock`` locked (`appear`).

CLOCK is the number of a clock that does not change with the time of day, and UPTIME the seconds on it. Ages
are differences on that clock. The text of a ``d.`` file is ``CREATED CLOCK UPTIME``. A record of an older
version ends with LIFE.

A file without a record, or with another inode than the recorded one, is never removed: it is a user's copy. A
record is written before its block has a name, so that a new block never has a name without a record. A record
without a block is dropped once its maker is dead, or after `ORPHAN_RECORD` seconds.

`remove_if_unheld` removes the name of a block that no process holds. Processes that release a block call it,
and so does each sweep. Its caller has first locked the lease alone, so that no process attaches meanwhile. It
checks the record, takes the removal lock (which `unlink` takes too, so that no other process removes the name
meanwhile), checks the inode that the name leads to, and removes the name. The name of a block whose owner is
dead goes even if processes hold it.
"""

from __future__ import annotations

from sharedarray._registry.in_flight import GRACE, Pin, free_pin, grace, pin, pin_path, pins, unpin
from sharedarray._registry.moments import Moment
from sharedarray._registry.notices import (
    hold_notices,
    notices_path,
    remove_notices_without_block,
    remove_unused_notices,
    waker_path,
)
from sharedarray._registry.places import (
    absolute,
    directory,
    level_of_caller,
    no_directory,
    open_registry,
    path_of,
    registry_of,
    warn_of_disk,
)
from sharedarray._registry.processes import LOCK_FILE, Process, alive, appear, here, keeps, me, retire
from sharedarray._registry.record import (
    Record,
    drop_record,
    names,
    read_record,
    records,
    set_owner,
    set_persist,
    write_record,
)
from sharedarray._registry.removal import disown, remove_if_unheld
from sharedarray._registry.semaphores import semaphore_name
from sharedarray._registry.sweeping import ORPHAN_RECORD, Swept, sweep, sweep_kept

__all__ = [
    "GRACE",
    "LOCK_FILE",
    "ORPHAN_RECORD",
    "Moment",
    "Pin",
    "Process",
    "Record",
    "Swept",
    "absolute",
    "alive",
    "appear",
    "directory",
    "disown",
    "drop_record",
    "free_pin",
    "grace",
    "here",
    "hold_notices",
    "keeps",
    "level_of_caller",
    "me",
    "names",
    "no_directory",
    "notices_path",
    "open_registry",
    "path_of",
    "pin",
    "pin_path",
    "pins",
    "read_record",
    "records",
    "registry_of",
    "remove_if_unheld",
    "remove_notices_without_block",
    "remove_unused_notices",
    "retire",
    "semaphore_name",
    "set_owner",
    "set_persist",
    "sweep",
    "sweep_kept",
    "unpin",
    "waker_path",
    "warn_of_disk",
    "write_record",
]
