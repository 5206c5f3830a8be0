"""Write intents: which bytes are being written, and which were left half-written.

A lock ends with its holder, and the kernel does not tell the next holder whether that finished. So a writer
records a *write intent* for the bytes that it has locked, and removes the intent when it has finished. The
intents are in a table beside the records. Every process that locks has mapped that table::

    /dev/shm/.sharedarray-1000/locks.1
        slot 0        number of slots, number of edits, 29 hints
        slot 1, 2, …  key  start  end  check  path  since    words of 8 bytes, and 216 bytes for the path

The key identifies one file, by device, inode and time of birth; it is 0 if the slot is empty. The check is
the exclusive or of the three others, so that no reader takes the halves of two intents for one intent. A
writer does this::

    lock bytes start to end           the kernel grants them to no other writer
    look for intents over them          found: their writer did not finish
    write its own intent                start, end and check first, then the key
    take over the intents it found      in one edit with its own intent, see below
    ... write the bytes ...
    remove the intent                   key = 0
    unlock the bytes                  the kernel grants them to the next one

The writer may be killed between any two steps. Before it has written the intent, it has written no data; when
the intent is removed, it has finished. A living writer has its intent over bytes that it alone holds. So **a
holder of bytes that finds another writer's intent over them knows that this writer did not finish.** It need
not know which processes live, and could not: the kernel drops the locks of a dead process one by one. A
reader writes no intent.

Taking over: a writer that found an intent holds those bytes now, and its own intent covers them already. It
writes the rest of the old intent to other slots, and then empties the old slot. A crash in between may
duplicate an intent, but cannot lose one. Another process that searches meanwhile could miss an intent that
moves. So a process takes over with byte 0 of the table locked, and the number of edits is odd until it has
finished. A process that finds this number odd, or changed by the end of its search, searches again under that
lock. A process that is stopped as it edits keeps that lock. So no thread waits for it within another lock,
nor beyond its timeout: what needs the table is tried again and again (`TableBusyError`).

A slot is written by the process that has *claimed* it, by a kernel lock on the byte of the table that has the
slot's number. The claim ends with the process too: an empty slot without a claim is free, and a filled one
is an intent that stays. Claims have an open file of their own: the mapping's is kept by forked children.

A writer that has to wait marks its slot, so that readers let it go first (`Table.ahead`). ``since`` is the
nanosecond on the monotonic clock at which it began to wait, and 0 in every other slot. The key of such a slot
is not there yet: it is the exclusive or of start, end and check. Then the writer sets the hint of its key. A
reader reads that one word, and reads the slots only if it is set. If no writer waits, the reader clears the
hint. A writer lives if its slot is claimed, which is a lock in the kernel. Readers let a writer go first for
`_PRIORITY` at most. So neither a dead writer nor a damaged table stops a reader.

The last process that closes the table removes it if there is no intent. If that process is killed, the
janitor does so, and it drops the intents of files that are gone from their path (`sweep`). Each user has a
table, as each has a registry. No table survives a reboot.

Another program can damage the table. Nothing in it is used as an index or a length unchecked: the file's size
bounds the number of slots, and the next process that edits intents corrects that number. A table whose size
or kind is wrong is moved away, and the next lock makes another. A process that has it mapped finds that out
within `_CHECK` seconds; before, an access behind the file's new end is a SIGBUS, as with every mapped file.
"""

from __future__ import annotations

import atexit
import threading

from sharedarray import _damage as damage, _sigint as sigint
from sharedarray._clock import time
from sharedarray._intent_table import (
    COUNT as COUNT,
    NAME as NAME,
    SLOT,
    DamagedTableError,
    Table as Table,
    TableBusyError as TableBusyError,
    Waiting as Waiting,
    each_slot,
    hint_of as hint_of,
    identity as identity,
    prepare as prepare,
    quarantine,
)
from sharedarray._platform import platform

__all__ = [
    "COUNT",
    "NAME",
    "Table",
    "TableBusyError",
    "Waiting",
    "claim",
    "has_intents",
    "hint_of",
    "identity",
    "prepare",
    "sweep",
    "table",
]
_MOST_READ = 1 << 18  # bytes of a table that `has_intents` reads
_PATIENCE = 1.0  # seconds that a sweep waits for a process that edits the table, which takes microseconds
_PAUSE = 0.001  # seconds between two tries
_MOST_TABLES = 16  # open tables of a process, from which number on unused ones are closed


def sweep(folder: str) -> None:
    """Drop needless intents from the table of a registry; remove the table if it is not used.

    The table stays as it is if a stopped process edits it.
    """
    end = time.monotonic() + _PATIENCE
    while not _swept(folder) and time.monotonic() < end:
        time.sleep(_PAUSE)


def _swept(folder: str) -> bool:
    """Sweep the table of a registry, if it has one; return False if another process edits it."""
    with sigint.deferred, _guard:
        try:
            found = Table.find(folder)
        except FileNotFoundError:
            return True
        except TableBusyError:
            return False
        except DamagedTableError as error:
            if not damage.unheard:
                quarantine(f"{folder}/{NAME}", error)
            return True
        try:
            found.tidy()
        except TableBusyError:
            return False
        finally:
            found.close()
        return True


def has_intents(folder: str, handle: int) -> bool:
    """Return whether a file has an intent. No other process may have the file open. Takes no lock.

    Parameters
    ----------
    folder
        The registry.
    handle
        The open file.
    """
    path = f"{folder}/{NAME}"
    if platform.inode_of(path) is None:
        return False
    table = platform.open(path, writable=False)
    try:
        status = platform.status(handle)
        key = identity(status.device, status.inode, platform.born(handle))
        content = platform.read(table, _MOST_READ)
    finally:
        platform.close(table)
    if len(content) % SLOT or len(content) == _MOST_READ:
        return True  # not known: it may have one
    return any(slot[0] == key for slot in each_slot(content[SLOT:]))


# -- the tables of this process --------------------------------------------------------------------------

_guard = threading.RLock()  # held while a table is opened or closed, and across every fork
_tables: dict[str, Table] = {}  # by registry


def table(folder: str) -> Table:
    """Return the table of a registry, open until the process ends; `FileNotFoundError` without a registry.

    `TableBusyError` if another process removes the one that was there.
    """
    found = _tables.get(folder)
    if found is not None and found.sound():
        return found
    with sigint.deferred, _guard:
        found = _tables.pop(folder, None)
        if found is not None and not found.sound():
            found.close()
            found = None
        _tables[folder] = found or Table.open(folder)
        return _tables[folder]


def claim(folder: str, path: str) -> tuple[Table, int]:
    """Claim a slot for intents on the file at `path`; return the table of the registry, and the slot.

    `TableBusyError` if another process edits the table.
    """
    with sigint.deferred, _guard:  # or another thread might close the table as unused in between
        if folder not in _tables and len(_tables) >= _MOST_TABLES:
            _close_unused()
        found = table(folder)
        return found, found.claim(path)


def _close_unused() -> None:
    """Close the tables of which this process uses no slot, with `_guard` held."""
    for folder, found in list(_tables.items()):
        if found.unused():
            del _tables[folder]
            _release(folder, found)


def before_fork() -> None:
    """Lock the tables, so that a child has none half open. `_segment.mapping.guard` may be taken after it."""
    _guard.acquire()


def after_fork_in_parent() -> None:
    """Unlock the tables."""
    _guard.release()


def after_fork_in_child() -> None:
    """Forget the parent's slots and intents."""
    for found in _tables.values():
        found.disown()
    _tables.clear()
    _guard.release()


def _release_all() -> None:
    """Remove each table that no process needs, at the interpreter's end."""
    with _guard:
        while _tables:
            _release(*_tables.popitem())


def _release(folder: str, found: Table) -> None:
    try:
        found.close()
        sweep(folder)
        platform.remove_directory(folder)
    except OSError:
        pass  # another process, or the janitor, will do it


atexit.register(_release_all)
