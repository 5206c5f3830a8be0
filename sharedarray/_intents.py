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
    take over what was found          see below
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
until it is done; a reader that finds it odd, or changed after looking, looks again under that lock.

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
or kind is wrong is set aside, and the next lock makes another. A process that has it mapped finds that out
within `_CHECK` seconds; before, an access behind the file's new end is a SIGBUS, as with every mapped file.
"""

from __future__ import annotations

import atexit
import errno
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sharedarray import _damage as damage, _interrupts as interrupts
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._sizes import exact

__all__ = [
    "COUNT",
    "NAME",
    "Table",
    "Waiting",
    "claim",
    "has_intents",
    "hint_of",
    "identity",
    "prepare",
    "sweep",
    "table",
]

NAME = "locks.1"  # of the table; another layout would have another number
_EDITING = 0  # byte of the table that is locked while a process edits intents
COUNT, _EDITS = 0, 1  # words of slot 0
_SLOT = 256  # bytes of a slot
_STRIDE = _SLOT // 8  # words of a slot
_PATH = 4 * 8  # byte of a slot at which the path stands
_PATH_BYTES = _SLOT - _PATH - 8
_SINCE = _STRIDE - 1  # word of a slot
_FIRST_HINT, _HINTS = (
    2,
    _STRIDE - 3,
)  # words of slot 0: what the hints of two keys share costs a look at the slots
_PRIORITY = 2_000_000_000  # nanoseconds: readings that take less than that do not keep a writer waiting
_each_slot = struct.Struct(f"4Q{_SLOT - 4 * 8}x").iter_unpack
_PAGE = 4096  # bytes by which the table grows
_MANY = 1024  # slots from which on intents are not divided; their bytes are reported again
_MOST = 1 << 20  # slots
_MOST_BYTES = (_MOST + 1) * _SLOT // _PAGE * _PAGE + _PAGE  # of a table with that many
_WORD = (1 << 64) - 1  # the greatest number in a word
_MOST_READ = 1 << 18  # bytes of a table that `has_intents` reads
_MOST_TABLES = 16  # that a process has open, besides those of which it uses a slot
_CHECK = 0.05  # seconds for which a process believes that no other program has cut off the table
_PATIENCE = 1000  # looks at an intent that is just being written


def identity(device: int, inode: int, born: int) -> int:
    """The key of a file: 64 bits that the next file with its inode does not have."""
    mixed = (device * 0x9E3779B97F4A7C15 + inode) * 0xD6E8FEB86659FD93 + born
    return (mixed & 0xFFFFFFFFFFFFFFFF) or 1


def hint_of(key: int) -> int:
    """Return the word of a table that is not 0 while a writer waits for bytes of this key's file."""
    return _FIRST_HINT + key % _HINTS


class Waiting(NamedTuple):
    """A writer that waits: the first word of its slot, since when, and for which bytes."""

    at: int
    since: int
    start: int
    end: int


def prepare(words: memoryview, at: int, key: int, start: int, end: int) -> None:
    """Write the range of an intent into an empty slot. It is valid as soon as the key stands there too."""
    words[at + 1] = start
    words[at + 2] = end
    words[at + 3] = key ^ start ^ end


def _read(words: memoryview, at: int) -> tuple[int, int, int]:
    """Return key, start and end of an intent; key 0 if the slot has none."""
    for _ in range(_PATIENCE):
        key, start, end, check = words[at : at + 4]
        if key == 0 or check == key ^ start ^ end:
            break
    return key, start, end  # or damaged words, as they are


class _DamagedError(Exception):
    """What stands in the table's place cannot be one."""

    def __init__(self, found: str, inode: int | None) -> None:
        super().__init__(found)
        self.found = found
        self.inode = inode


class Table:
    """One table of intents, as a process has it open.

    Attributes
    ----------
    words : memoryview
        All of it, in words of 8 bytes.
    claimed : set of int
        The slots of this process, by first word. While there are no others, there is no intent to look for.
    closed : bool
        Whether it is of no use any more: closed, or the parent's of a forked child.
    check_at : float
        When to look next whether the file is as it should be, on the monotonic clock.
    """

    __slots__ = (
        "_bytes",
        "_free",
        "_handle",
        "_lock",
        "_slots",
        "check_at",
        "claimed",
        "closed",
        "path",
        "words",
    )

    words: memoryview

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        self._handle = handle
        self._lock = threading.RLock()
        self._free: list[int] = []
        self.claimed: set[int] = set()
        self.closed = False
        self.check_at = 0.0
        self._map()

    @classmethod
    def open(cls, folder: str) -> Table:
        """Open the table of a registry, making it where it is missing."""
        path = f"{folder}/{NAME}"
        while True:
            try:
                found = cls.find(folder)
            except FileNotFoundError:
                _make(folder, path)
            except _DamagedError as error:
                _set_aside(path, error)
            else:
                return found

    @classmethod
    def find(cls, folder: str) -> Table:
        """Open the table of a registry; `FileNotFoundError` where there is none."""
        path = f"{folder}/{NAME}"
        while True:
            handle = _open(path)
            try:
                problem = _problem(handle)
                if problem is not None:
                    raise _DamagedError(problem, platform.status(handle).inode)
                platform.hold(handle)  # a process that removes the table is alone on it
                if platform.status(handle).links:
                    return cls(path, handle)
            except BaseException:
                platform.close(handle)
                raise
            platform.close(handle)

    def close(self) -> None:
        """Give up the claims; a slot that is filled stays as an intent."""
        self.closed = True
        self.check_at = 0.0
        handle, self._handle = self._handle, -1
        if handle >= 0:
            platform.close(handle)

    def disown(self) -> None:
        """Close a table in a forked child: its claims and intents are the parent's."""
        self._free, self.claimed = [], set()
        self.close()

    def sound(self) -> bool:
        """Return whether the file still is the table of its registry, and as long as what is mapped of it."""
        if self.closed:
            return False
        status = platform.status(self._handle)
        if not status.links or status.size < len(self._bytes):
            return False
        self.check_at = time.monotonic() + _CHECK
        return True

    def unused(self) -> bool:
        """Return whether every slot of this process is free."""
        return len(self._free) == len(self.claimed)

    def _map(self) -> None:
        """Map it as long as it is by now."""
        handle = platform.open_again(self._handle)  # or the mapping would share what carries the claims
        try:
            size = min(-(-platform.status(handle).size // _PAGE) * _PAGE, _MOST_BYTES)
            if not size:
                raise OSError(errno.EIO, "the table of write intents has been cut off", self.path)
            self._bytes = memoryview(platform.map(mmap.mmap, handle, size, "r+"))
            self.words = self._bytes.cast("Q")
        finally:
            platform.close(handle)
        self._slots = size // _SLOT - 1

    @contextmanager
    def _editing(self) -> Iterator[None]:
        with interrupts.deferred, self._lock:  # the wait as well: it lasts a moment only
            platform.lock(self._handle, _EDITING, 1, shared=False, wait=True)
            try:
                self._correct()
                yield
            finally:
                platform.unlock(self._handle, _EDITING, 1)

    def _correct(self) -> None:
        """Correct the number of slots, while editing."""
        count = self.words[COUNT]
        if count > self._slots:
            self._map()
            if count > self._slots and not damage.unheard:
                damage.report(
                    self.path,
                    f"it counts {count} slots and has {self._slots}",
                    "a lock may not tell that its last holder was killed",
                )
                self.words[COUNT] = self._slots
        elif count < len(self.claimed):
            self.words[COUNT] = self._slots

    # -- slots ----------------------------------------------------------------------------------------

    def claim(self, path: str) -> int:
        """Return the first word of a slot for intents on the file at `path`, for this process alone."""
        try:
            at = self._free.pop()
        except IndexError:
            with self._editing():
                found = self._spare(_MOST)
                if found is None:
                    raise OSError(errno.ENOLCK, f"{_MOST} locks are in use at once") from None
                at = found
                self.claimed.add(at)
        self._name(at, path)
        return at

    def give_back(self, at: int) -> None:
        """Give up a slot; its content stays as an intent. Takes no lock, because finalizers call it."""
        if time.monotonic() > self.check_at and not self.sound():
            return
        self.words[at + _SINCE] = 0
        if not self.words[at]:
            self._free.append(at)
            return
        self.claimed.discard(at)
        platform.unlock(self._handle, at // _STRIDE, 1)

    def _spare(self, most: int) -> int | None:
        """Claim a slot that is free, while editing."""
        for number in range(1, most):
            if number > self._slots or number > self.words[COUNT]:
                self._reach(number)
            at = number * _STRIDE
            if self.words[at] or at in self.claimed:
                continue
            if platform.lock(self._handle, number, 1, shared=False, wait=False):
                if not self.words[at]:  # or its owner has just died
                    return at
                platform.unlock(self._handle, number, 1)
        return None

    def _reach(self, number: int) -> None:
        """Have the slot of this number, in the table and in what is mapped."""
        if number > self._slots:
            size = (number + 1) * _SLOT
            if platform.status(self._handle).size < size:
                platform.reserve(self._handle, -(-size // _PAGE) * _PAGE)
            self._map()
        self.words[COUNT] = max(number, self.words[COUNT])

    def _name(self, at: int, path: str) -> None:
        name = os.fsencode(path)
        if len(name) > _PATH_BYTES:
            name = b""  # then its intents stay until they are taken over
        start = at * 8 + _PATH
        self._bytes[start : start + _PATH_BYTES] = name.ljust(_PATH_BYTES, b"\0")
        self.words[at + _SINCE] = 0  # of a writer that was killed as it waited

    def _named(self, at: int) -> str:
        start = at * 8 + _PATH
        return os.fsdecode(bytes(self._bytes[start : start + _PATH_BYTES]).rstrip(b"\0"))

    # -- intents ----------------------------------------------------------------------------------------

    def has_intent(self, key: int, start: int, end: int) -> bool:
        """Return whether another writer left an intent on these bytes, which the caller holds."""
        edits = self.words[_EDITS]
        found = self._over(key, start, end)
        count = self.words[COUNT]
        if (
            edits & 1
            or self.words[_EDITS] != edits  # another process edits it, or died there
            or count > self._slots
            or count < len(self.claimed)  # the count is damaged
        ):
            with self._editing():
                edits = self.words[_EDITS]
                self.words[_EDITS] = (edits + (edits & 1)) & _WORD
                found = self._over(key, start, end)
        return bool(found)

    def take_over(self, key: int, start: int, end: int, own: int) -> None:
        """Remove the intents of others on these bytes; the caller's own intent is in slot `own`."""
        with self._editing(), self._odd():
            for at in self._over(key, start, end):
                if at != own:
                    _, low, high = _read(self.words, at)
                    path = self._named(at)
                    if (low >= start or self._leave(key, low, start, path)) and (
                        high <= end or self._leave(key, end, high, path)
                    ):
                        self.words[at] = 0

    @contextmanager
    def _odd(self) -> Iterator[None]:
        odd = self.words[_EDITS] | 1
        self.words[_EDITS] = odd
        yield
        self.words[_EDITS] = (odd + 1) & _WORD

    def _over(self, key: int, start: int, end: int) -> list[int]:
        """Return the slots whose intents overlap these bytes."""
        count = self.words[COUNT]
        if count > self._slots:
            self._map()
            count = min(count, self._slots)
        found = []
        at = 0
        for there, low, high, _ in _each_slot(self._bytes[_SLOT : (count + 1) * _SLOT]):
            at += _STRIDE
            if there == key and low < end and start < high:
                there, low, high = _read(self.words, at)  # these may be the halves of two
                if there == key and low < end and start < high:
                    found.append(at)
        return found

    def _leave(self, key: int, start: int, end: int, path: str) -> bool:
        """Write the rest of an intent to a slot of its own; return False if there are too many already."""
        at = self._spare(_MANY)
        if at is None:
            return False
        self._name(at, path)
        prepare(self.words, at, key, start, end)
        self.words[at] = key
        platform.unlock(self._handle, at // _STRIDE, 1)
        return True

    # -- writers that wait ----------------------------------------------------------------------------

    def wait(self, at: int, key: int, start: int, end: int) -> None:
        """Have readers let this process go first to these bytes, until `go`; it has claimed the slot."""
        prepare(self.words, at, key, start, end)
        self.words[at + _SINCE] = time.monotonic_ns()
        self.words[hint_of(key)] = 1

    def go(self, at: int) -> None:
        """Have readers let this process go first no more."""
        self.words[at + _SINCE] = 0

    def ahead(self, key: int, start: int, end: int) -> list[Waiting]:
        """Return the writers that wait for any of these bytes, for a reader that found the hint set."""
        hint = hint_of(key)
        found = self._waiting(hint)
        if not found:
            self.words[hint] = 0
            if self._waiting(hint):  # one that began to wait just now
                self.words[hint] = 1
        return [each for there, each in found if there == key and each.start < end and start < each.end]

    def waits(self, writer: Waiting) -> bool:
        """Return whether a writer still waits, lives, and is to be let go first."""
        return (
            self.words[writer.at + _SINCE] == writer.since
            and 0 <= time.monotonic_ns() - writer.since < _PRIORITY
            and (writer.at in self.claimed or platform.locked(self._handle, writer.at // _STRIDE, 1))
        )

    def _waiting(self, hint: int) -> list[tuple[int, Waiting]]:
        """Return the writers with this hint that are to be let go first, with the keys of their files."""
        if self.words[COUNT] > self._slots:
            self._map()
        count = min(self.words[COUNT], self._slots)
        found = []
        for number, since in enumerate(self.words[_SINCE : (count + 1) * _STRIDE : _STRIDE].tolist()):
            if since and number:
                at = number * _STRIDE
                start, end, check = self.words[at + 1 : at + 4]
                writer = Waiting(at, since, start, end)
                key = check ^ start ^ end
                if hint_of(key) == hint and self.waits(writer):
                    found.append((key, writer))
        return found

    # -- tidying up -----------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Drop the intents of files that are gone, and the table itself if no process uses it."""
        with self._editing():
            if self.words[COUNT] > self._slots:
                return  # damaged, and left to a process whose warnings reach a user
            top = 0
            for number in range(1, self.words[COUNT] + 1):
                at = number * _STRIDE
                if not platform.lock(self._handle, number, 1, shared=False, wait=False):
                    top = number
                    continue
                key, start, end, check = self.words[at : at + 4]
                if key:
                    leads = _leads(self._named(at), key)
                    if leads is False or (leads is None and check != key ^ start ^ end):
                        self.words[at] = 0
                if self.words[at]:
                    top = number
                platform.unlock(self._handle, number, 1)
            self.words[COUNT] = top  # so that no search goes through free slots
        if top == 0 and platform.alone(self._handle):
            if platform.inode_of(self.path) == platform.status(self._handle).inode and not self.words[COUNT]:
                platform.remove(self.path)
            platform.release(self._handle)


def _make(folder: str, path: str) -> None:
    draft = platform.draft(folder)
    try:
        platform.reserve(draft.handle, _PAGE)
        platform.publish(draft, path)
    except FileExistsError:
        pass  # another process was faster
    finally:
        platform.discard(draft)


def _open(path: str) -> int:
    try:
        return platform.open(path, writable=True)
    except damage.NOT_A_FILE as error:
        raise _DamagedError(str(error.strerror), platform.inode_of(path)) from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise
        raise _DamagedError(str(error.strerror), platform.inode_of(path)) from None


def _problem(handle: int) -> str | None:
    """Return what keeps an open file from being a table, None if nothing does."""
    status = platform.status(handle)
    if not status.regular:
        return "no regular file"
    if status.links and (status.size % _PAGE or not _PAGE <= status.size <= _MOST_BYTES):
        return f"a file of {exact(status.size)}"
    return platform.others(handle)


def _set_aside(path: str, error: _DamagedError) -> None:
    """Free the table's name for the next one, or raise what keeps this process from it."""
    damage.report(path, error.found, "it is set aside; a lock may not tell that its last holder was killed")
    if platform.inode_of(path) == error.inode and not damage.set_aside(path):
        raise PermissionError(errno.EPERM, f"the table of write intents is {error.found}", path)


def _leads(path: str, key: int) -> bool | None:
    """Return whether a path leads to the file of this key, None if that cannot be known."""
    if not path:
        return None
    if "\0" in path or not os.path.isabs(path):
        return False
    try:
        handle = platform.open(path, writable=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    try:
        status = platform.status(handle)
        return identity(status.device, status.inode, platform.born(handle)) == key
    finally:
        platform.close(handle)


def sweep(folder: str) -> None:
    """Tidy up the table of a registry, if it has one."""
    with interrupts.deferred, _guard:
        try:
            found = Table.find(folder)
        except FileNotFoundError:
            return
        except _DamagedError as error:
            if not damage.unheard:
                _set_aside(f"{folder}/{NAME}", error)
            return
        try:
            found.tidy()
        finally:
            found.close()


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
    if len(content) % _SLOT or len(content) == _MOST_READ:
        return True  # it may be
    return any(slot[0] == key for slot in _each_slot(content[_SLOT:]))


# -- the tables of this process --------------------------------------------------------------------------

_guard = threading.RLock()  # held while a table is opened or closed, and across every fork
_tables: dict[str, Table] = {}  # by registry


def table(folder: str) -> Table:
    """The table of a registry, open until the process ends; `FileNotFoundError` without a registry."""
    found = _tables.get(folder)
    if found is not None and found.sound():
        return found
    with interrupts.deferred, _guard:
        found = _tables.pop(folder, None)
        if found is not None and not found.sound():
            found.close()
            found = None
        _tables[folder] = found or Table.open(folder)
        return _tables[folder]


def claim(folder: str, path: str) -> tuple[Table, int]:
    """Claim a slot for intents on the file at `path`; return the table of the registry, and the slot."""
    with interrupts.deferred, _guard:  # or it might be closed as unused in between
        if folder not in _tables and len(_tables) >= _MOST_TABLES:
            _close_unused()
        found = table(folder)
        return found, found.claim(path)


def _close_unused() -> None:
    """Close the tables of which this process uses no slot, with `_guard` held."""
    for folder, found in list(_tables.items()):
        if found.unused():
            del _tables[folder]
            _leave(folder, found)


def before_fork() -> None:
    """Have no table half open in the child. Who holds this lock may still want the segments' one."""
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


def _leave_all() -> None:
    """Remove each table that no process needs, at the interpreter's end."""
    with _guard:
        while _tables:
            _leave(*_tables.popitem())


def _leave(folder: str, found: Table) -> None:
    try:
        found.close()
        sweep(folder)
        platform.remove_directory(folder)
    except OSError:
        pass  # another process will


atexit.register(_leave_all)
