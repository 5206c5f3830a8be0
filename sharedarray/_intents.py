"""Which bytes are being written, and which were left half-written.

A lock ends with its holder, and the kernel does not tell the next one how. So a writer records a *write
intent* for the bytes that it has locked, and removes the intent when it has finished. The intents stand in a
table beside the records. Every process that locks has mapped that table::

    /dev/shm/.sharedarray-1000/locks.1
        slot 0        number of slots, number of edits, 29 hints
        slot 1, 2, …  key  start  end  check  path  since    words of 8 bytes, and 216 bytes for the path

The key stands for one file, by device, inode and time of birth; 0 says that the slot is empty. The check is
the three others' exclusive or, so that no reader takes the halves of two intents for one intent. A writer
does this::

    lock bytes start to end           the kernel grants them to no other writer
    look for intents over them          found: their writer did not finish
    write its own intent                start, end and check first, then the key
    take over what was found            in one edit with its own intent, see below
    ... write the bytes ...
    take the intent away                key = 0
    unlock the bytes                  the kernel grants them to the next one

The writer may be killed between any two steps. Before its intent stands, it has written nothing; when the
intent is gone, it has finished. A living writer has its intent over bytes that it alone holds. So **a holder
of bytes that finds a foreign intent over them knows that a writer did not finish.** Which processes are alive
need not be asked, and could not be: the kernel drops the locks of a dead process one by one. A reader leaves
no intent.

Taking over: the writer that found an intent holds those bytes now, and has to finish them; its own intent
says so already. The rest of the old intent is written to other slots, and then the old one is emptied. A
crash in between may duplicate an intent, but cannot lose one. Two may do this at once, and a third may look
meanwhile and miss what moves. So it is done with byte 0 of the table locked, and the number of edits is odd
until it is done; a reader that finds it odd, or changed after looking, looks again under that lock. A process
that is stopped as it edits keeps that lock. So no thread waits for it within another lock, nor beyond its
timeout: what needs the table is tried again and again (`TableBusyError`).

A slot is written by the process that has *claimed* it, by a kernel lock on the byte of the table that has the
slot's number. The claim ends with the process too: an empty slot without a claim is free, and a filled one
is an intent that stays. Claims have an open file of their own: the mapping's is kept by forked children.

A writer that has to wait says so in its slot, so that readers let it go first (`Table.ahead`). ``since`` is
the nanosecond on the monotonic clock at which it began to wait, and 0 in every other slot. The key of such a
slot is not there yet: it is the exclusive or of start, end and check. Then the writer sets the hint of its
key. A reader looks at that one word, and looks at the slots only if it is set. If there is no writer, the
reader takes the hint away. Only the claim of a slot, which the kernel keeps, tells that its writer lives. A
writer is let go first for `_PRIORITY` at most. So neither a dead writer nor a damaged table stops a reader.

No process has to tidy up. The last process to leave removes the table when there is no intent; the janitor
does it for those that were killed, and drops the intents of files that are gone from their path (`sweep`).
Intents are one user's, as the registry is, and outlive no reboot.

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
_PATIENCE = (
    1.0  # seconds for which a sweep waits for a process that edits the table, which takes microseconds
)
_PAUSE = 0.001  # seconds between two tries
_MOST_TABLES = 16  # that a process has open, besides those of which it uses a slot


def sweep(folder: str) -> None:
    """Tidy up the table of a registry, if it has one; leave it as it is if a stopped process edits it."""
    end = time.monotonic() + _PATIENCE
    while not _swept(folder) and time.monotonic() < end:
        time.sleep(_PAUSE)


def _swept(folder: str) -> bool:
    """Tidy up the table of a registry, if it has one; return False if another process edits it."""
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
    """Return whether a file has an intent, for a process that has the file for itself. Takes no lock.

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
        return True  # it may be
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
    with sigint.deferred, _guard:  # or it might be closed as unused in between
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
    """Lock the tables, so that a child has none half open. The segments' lock may be taken inside."""
    _guard.acquire()


def after_fork_in_parent() -> None:
    """Go on."""
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
        pass  # another process will


atexit.register(_release_all)
