"""The table of write intents, a file of the registry: its layout, its slots, and how damage is found."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sharedarray import _damage as damage, _sigint as sigint
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._sizes import exact

NAME = "locks.1"  # of the file; another layout would have another number
_EDITING = 0  # byte of the file that is locked while a process edits intents
COUNT, _EDITS = 0, 1  # words of slot 0
SLOT = 256  # bytes of a slot
_STRIDE = SLOT // 8  # words of a slot
_PATH = 4 * 8  # byte of a slot at which the path stands
_PATH_BYTES = SLOT - _PATH - 8
_SINCE = _STRIDE - 1  # word of a slot
_FIRST_HINT, _HINTS = (
    2,
    _STRIDE - 3,
)  # words of slot 0; if two keys share a hint, a reader may read the slots in vain
_PRIORITY = 2_000_000_000  # nanoseconds for which readers let a writer go first
each_slot = struct.Struct(f"4Q{SLOT - 4 * 8}x").iter_unpack
_PAGE = 4096  # bytes by which the table grows
_MANY = 1024  # slots, from which number on an intent is not divided, but stays whole
_MOST = 1 << 20  # slots at most
_MOST_BYTES = (_MOST + 1) * SLOT // _PAGE * _PAGE + _PAGE  # of a table with that many
_WORD = (1 << 64) - 1  # the greatest number in a word
_CHECK = 0.05  # seconds between two checks that no other program has cut off the table
_PATIENCE = 1000  # times that an intent is read which is just being written


def identity(device: int, inode: int, born: int) -> int:
    """Return the key of a file: 64 bits that differ from those of the next file with the same inode."""
    mixed = (device * 0x9E3779B97F4A7C15 + inode) * 0xD6E8FEB86659FD93 + born
    return (mixed & 0xFFFFFFFFFFFFFFFF) or 1


def hint_of(key: int) -> int:
    """Return the word of a table that is not 0 while a writer waits for bytes of this key's file."""
    return _FIRST_HINT + key % _HINTS


class Waiting(NamedTuple):
    """A waiting writer: the first word of its slot, when it began to wait, and for which bytes."""

    at: int
    since: int
    start: int
    end: int


def prepare(words: memoryview, at: int, key: int, start: int, end: int) -> None:
    """Write the range of an intent into an empty slot. The intent is valid once the key is written too."""
    words[at + 1] = start
    words[at + 2] = end
    words[at + 3] = key ^ start ^ end


def _read(words: memoryview, at: int) -> tuple[int, int, int]:
    """Return key, start and end of an intent; key 0 if the slot has none."""
    for _ in range(_PATIENCE):
        key, start, end, check = words[at : at + 4]
        if key == 0 or check == key ^ start ^ end:
            break
    return key, start, end  # if they never fit, the words are damaged


class DamagedTableError(Exception):
    """The file at the table's path cannot be a table."""

    def __init__(self, found: str, inode: int | None) -> None:
        super().__init__(found)
        self.found = found
        self.inode = inode


class TableBusyError(Exception):
    """Another process has locked the table, as a rule for microseconds. The caller tries again.

    That process may be stopped meanwhile. So the caller waits outside of every lock, for as long as it can.
    """


class Table:
    """An open table of write intents.

    A method that edits, or searches while another process edits, raises `TableBusyError` instead of waiting.

    Attributes
    ----------
    words : memoryview
        The whole table, in words of 8 bytes.
    claimed : set of int
        The slots of this process, by first word. If the table has no others, no other writer has an intent.
    closed : bool
        Whether it is closed; a forked child closes its parent's.
    check_at : float
        When to call `sound` next, on the monotonic clock.
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
        """Open the table of a registry; make it if there is none."""
        path = f"{folder}/{NAME}"
        while True:
            try:
                found = cls.find(folder)
            except FileNotFoundError:
                _make(folder, path)
            except DamagedTableError as error:
                quarantine(path, error)
            else:
                return found

    @classmethod
    def find(cls, folder: str) -> Table:
        """Open the table of a registry; raise `FileNotFoundError` if there is none."""
        path = f"{folder}/{NAME}"
        while True:
            handle = _open(path)
            try:
                problem = _problem(handle)
                if problem is not None:
                    raise DamagedTableError(problem, platform.status(handle).inode)
                if not platform.hold(handle, wait=False):  # a process that removes the table is alone on it
                    raise TableBusyError
                if platform.status(handle).links:
                    return cls(path, handle)
            except BaseException:
                platform.close(handle)
                raise
            platform.close(handle)

    def close(self) -> None:
        """Close the table, which ends the claims; a filled slot stays as an intent."""
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
        """Return whether the file still is in its registry, and has not been cut off behind the mapping."""
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
        """Map the file at its current size."""
        handle = platform.open_again(
            self._handle
        )  # the description that has the claims must not be mapped: children share mappings
        try:
            size = min(-(-platform.status(handle).size // _PAGE) * _PAGE, _MOST_BYTES)
            if not size:
                raise OSError(errno.EIO, "the table of write intents has been cut off", self.path)
            self._bytes = memoryview(platform.map(mmap.mmap, handle, size, "r+"))
            self.words = self._bytes.cast("Q")
        finally:
            platform.close(handle)
        self._slots = size // SLOT - 1

    @contextmanager
    def _editing(self) -> Iterator[None]:
        with sigint.deferred, self._lock:
            if not platform.lock(self._handle, _EDITING, 1, shared=False, wait=False):
                raise TableBusyError
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
        """Claim a slot for intents on the file at `path`; return its first word."""
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
        """Claim a free slot; the caller is editing. Return None if there is none below this number."""
        for number in range(1, most):
            if number > self._slots or number > self.words[COUNT]:
                self._reach(number)
            at = number * _STRIDE
            if self.words[at] or at in self.claimed:
                continue
            if platform.lock(self._handle, number, 1, shared=False, wait=False):
                if not self.words[at]:  # else its owner has just died
                    return at
                platform.unlock(self._handle, number, 1)
        return None

    def _reach(self, number: int) -> None:
        """Extend the table and its mapping so that the slot of this number exists."""
        if number > self._slots:
            size = (number + 1) * SLOT
            if platform.status(self._handle).size < size:
                platform.reserve(self._handle, -(-size // _PAGE) * _PAGE)
            self._map()
        self.words[COUNT] = max(number, self.words[COUNT])

    def _name(self, at: int, path: str) -> None:
        name = os.fsencode(path)
        if len(name) > _PATH_BYTES:
            name = b""  # a sweep cannot drop intents without a path: they stay until they are taken over
        start = at * 8 + _PATH
        self._bytes[start : start + _PATH_BYTES] = name.ljust(_PATH_BYTES, b"\0")
        self.words[at + _SINCE] = 0  # left by a writer that was killed while it waited

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
            or self.words[_EDITS] != edits  # another process edits, or has died while it did
            or count > self._slots
            or count < len(self.claimed)  # the count is damaged
        ):
            with self._editing():
                edits = self.words[_EDITS]
                self.words[_EDITS] = (edits + (edits & 1)) & _WORD
                found = self._over(key, start, end)
        return bool(found)

    def take_over(self, key: int, start: int, end: int, own: int) -> None:
        """Write the caller's own intent, prepared in slot `own`; remove those of others on these bytes."""
        with self._editing(), self._odd():
            self.words[own] = key
            for at in self._over(key, start, end):
                if at != own:
                    _, low, high = _read(self.words, at)
                    path = self._named(at)
                    if (low >= start or self._move_rest(key, low, start, path)) and (
                        high <= end or self._move_rest(key, end, high, path)
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
        for there, low, high, _ in each_slot(self._bytes[SLOT : (count + 1) * SLOT]):
            at += _STRIDE
            if there == key and low < end and start < high:
                there, low, high = _read(
                    self.words, at
                )  # the first reading may have been halves of two intents
                if there == key and low < end and start < high:
                    found.append(at)
        return found

    def _move_rest(self, key: int, start: int, end: int, path: str) -> bool:
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

    def begin_wait(self, at: int, key: int, start: int, end: int) -> None:
        """Make readers of these bytes let this process go first until `end_wait`; it has claimed the slot."""
        prepare(self.words, at, key, start, end)
        self.words[at + _SINCE] = time.monotonic_ns()
        self.words[hint_of(key)] = 1

    def end_wait(self, at: int) -> None:
        """End the wait of this process: readers go on."""
        self.words[at + _SINCE] = 0

    def ahead(self, key: int, start: int, end: int) -> list[Waiting]:
        """Return the writers that wait for any of these bytes, for a reader that found the hint set."""
        hint = hint_of(key)
        found = self._waiting(hint)
        if not found:
            self.words[hint] = 0
            if self._waiting(hint):  # a writer began to wait just now
                self.words[hint] = 1
        return [each for there, each in found if there == key and each.start < end and start < each.end]

    def waits(self, writer: Waiting) -> bool:
        """Return whether a writer lives, still waits, and has waited for less than `_PRIORITY`."""
        return (
            self.words[writer.at + _SINCE] == writer.since
            and 0 <= time.monotonic_ns() - writer.since < _PRIORITY
            and (writer.at in self.claimed or platform.locked(self._handle, writer.at // _STRIDE, 1))
        )

    def _waiting(self, hint: int) -> list[tuple[int, Waiting]]:
        """Return the writers with this hint that still wait (`waits`), with the keys of their files."""
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
                return  # damaged: a process whose warnings reach a user corrects it
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
            self.words[COUNT] = top  # so that searches skip the free slots behind
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
        raise DamagedTableError(str(error.strerror), platform.inode_of(path)) from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise
        raise DamagedTableError(str(error.strerror), platform.inode_of(path)) from None


def _problem(handle: int) -> str | None:
    """Return why an open file cannot be a table; None if it can."""
    status = platform.status(handle)
    if not status.regular:
        return "no regular file"
    if status.links and (status.size % _PAGE or not _PAGE <= status.size <= _MOST_BYTES):
        return f"a file of {exact(status.size)}"
    return platform.others(handle)


def quarantine(path: str, error: DamagedTableError) -> None:
    """Move a damaged table away, for the next one; raise `PermissionError` if that fails."""
    damage.report(path, error.found, "it is moved away; a lock may not tell that its last holder was killed")
    if platform.inode_of(path) == error.inode and not damage.quarantine(path):
        raise PermissionError(errno.EPERM, f"the table of write intents is {error.found}", path)


def _leads(path: str, key: int) -> bool | None:
    """Return whether a path leads to the file with this key; None if that cannot be known."""
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
