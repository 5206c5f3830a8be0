"""Records: the facts about a block beyond its bytes, and how long it lives."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from sharedarray import _damage as damage
from sharedarray._platform import platform
from sharedarray._registry.metadata import discard, read_metadata
from sharedarray._registry.moments import Moment, is_moment
from sharedarray._registry.notices import notices_path, remove_unused_notices
from sharedarray._registry.places import file_of, name_of, open_registry, path_of, registry_of
from sharedarray._registry.processes import Process, alive, here, keeps, me

_VERSION = "1"
_KINDS = frozenset(("array", "bytes", "group", "list", "memory", "object"))


class Record(NamedTuple):
    """One block's record. `created` is in seconds since 1970, `started` in the kernel's ticks.

    `keeper` is a process besides the maker that keeps the block without holding it. If `owned`, the block
    lives exactly as long as the keeper. `space` is the pid namespace of maker and keeper. `clock` and
    `uptime` are those of a `Moment`.
    """

    kind: str
    pid: int
    started: int
    created: float
    persist: bool
    keeper: Process | None = None
    owned: bool = False
    space: int = 0
    clock: int = 0
    uptime: float = 0.0

    def encode(self) -> str:
        """Return the text of the metadata link."""
        kind, pid, started, created, persist, keeper, owned, space, clock, uptime = self
        if keeper is None:
            life = "1" if persist else "0"
        else:
            life = f"{'o' if owned else 'k'}{keeper[0]}.{keeper[1]}.{space}"
        return f"{_VERSION} {kind} {pid} {started} {created:.3f} {life} {space} {clock} {uptime:.3f}"

    @classmethod
    def parse(cls, text: str) -> Record | None:
        """Return the record in a metadata link, None when it is damaged or of a newer version."""
        try:
            version, kind, maker, at, when, life, *more = text.split(" ")
            if version != _VERSION or len(more) not in (0, 3):
                return None
            pid, started, created = int(maker), int(at), float(when)
            space, clock, uptime = (int(more[0]), int(more[1]), float(more[2])) if more else (0, 0, 0.0)
            if not is_moment(created, clock, uptime):
                return None
            if life in ("0", "1"):
                return cls(kind, pid, started, created, life == "1", None, False, space, clock, uptime)
            if life[:1] not in ("k", "o"):
                return None
            keeper, since, space = map(int, life[1:].split("."))
            owned = life[0] == "o"
            return cls(kind, pid, started, created, False, (keeper, since), owned, space, clock, uptime)
        except (ValueError, OverflowError):
            return None

    @property
    def moment(self) -> Moment:
        """Time at which the block was made."""
        return Moment(self.created, self.clock, self.uptime)

    def maker_alive(self, directory: str) -> bool:
        """Return whether the block's maker lives."""
        return alive(self.pid, self.started, self.space, directory)

    def kept_by(self) -> Process | None:
        """Return a living process that keeps the block without holding it; None if there is none."""
        if self.keeper is None:
            return None
        if self.space != here():
            return self.keeper
        keepers = (self.keeper,) if self.owned else (self.keeper, (self.pid, self.started))
        return next((keeper for keeper in keepers if keeps(keeper)), None)


def record_path(directory: str, name: str, inode: int) -> str:
    return f"{registry_of(directory)}/b.{file_of(name)}@{inode}"


def write_record(
    directory: str, name: str, inode: int, *, kind: str, persist: bool, keeper: Process | None = None
) -> None:
    """Write the record of a block that is about to get its name."""
    pid, started = me()
    created, clock, uptime = Moment.now()
    made = Record(kind, pid, started, created, persist, keeper, False, here(), clock, uptime)
    text = made.encode()
    path = record_path(directory, name, inode)
    while True:
        open_registry(directory)
        try:
            platform.write_metadata(path, text)
        except FileNotFoundError:
            continue  # the janitor removed the empty registry in between
        except FileExistsError:
            discard(path)  # of a former block with the same inode
        else:
            break
    _remember(path, made)


# The records that this process has written, by path. A record that was damaged is written again from here.
written: dict[str, Record] = {}
_MOST_WRITTEN = 1000


def _remember(path: str, record: Record) -> None:
    written[path] = record
    if len(written) > _MOST_WRITTEN:
        try:
            del written[next(iter(written))]
        except (KeyError, StopIteration, RuntimeError):
            pass  # another thread changes the table just now


def read_record(directory: str, name: str, inode: int) -> Record | None:
    """Return the record of the block with this name and inode; None if there is none."""
    path = record_path(directory, name, inode)
    try:
        text = _read_record(path)
    except FileNotFoundError:
        return None
    try:
        open_registry(directory)
    except OSError:
        return None  # the registry is not this user's: its records are not trusted
    return _checked(directory, name, inode, path, text)


def _read_record(path: str) -> str | None:
    """Return the text of a record, None if it is damaged; `FileNotFoundError` if there is none.

    A record is made, replaced and removed at any time. One that could not be read is damaged only if it was
    the same file before and after; else it is read again.
    """
    while True:
        before = platform.inode_of(path)
        text = read_metadata(path)
        if text is not None:
            return text
        after = platform.inode_of(path)
        if before == after:
            if after is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return None


def _checked(directory: str, name: str, inode: int, path: str, text: str | None) -> Record | None:
    """Return the record that a text is; if it is damaged and the block exists, write a new one.

    The process that wrote the record remembers it. Other processes do not know how long the block shall live.
    Such a process writes a record without a maker, with which the block stays until it is unlinked; the
    process that remembers the true record replaces that later. A record of a newer version is left alone.
    """
    record = None if text is None else Record.parse(text)
    if record is not None and record.pid:
        return record
    known = written.get(path)
    if known is None and record is not None:
        return record
    if damage.unheard or platform.inode_of(path_of(directory, name)) != inode:
        return record
    if known is None:
        if _is_newer(text or ""):
            return None
        known = unknown_record(text or "")
    if record is None:
        effect = "its block stays until it is unlinked" if known.persist else "nothing is lost"
        damage.report(path, f"{(text or '')[:40]!r} in place of a record", f"it is made anew, and {effect}")
        damage.quarantine(path)
    replace_record(directory, name, inode, known)
    return known


def _is_newer(text: str) -> bool:
    version = text.split(" ")[0]
    return version.isascii() and version.isdigit() and int(version[:9]) > int(_VERSION)


def unknown_record(text: str) -> Record:
    """Return the record for a block whose record is damaged, and that this process does not remember."""
    kind = next((word for word in text.split(" ")[1:2] if word in _KINDS), "array")
    moment = Moment.now()
    return Record(kind, 0, 0, moment.created, True, None, False, here(), moment.clock, moment.uptime)


def drop_record(directory: str, name: str, inode: int) -> None:
    """Remove the record of a block, and the file with the notices of new data in it."""
    path = record_path(directory, name, inode)
    written.pop(path, None)
    discard(path)
    try:
        remove_unused_notices(notices_path(directory, inode))
    except OSError:
        pass  # a sweep removes it


def set_persist(directory: str, name: str, inode: int, flag: bool) -> bool:
    """Set whether a block outlives its holders; return False if it has no record."""
    record = read_record(directory, name, inode)
    if record is None:
        return False
    if record.persist != flag or not record.pid:
        pid, started = (record.pid, record.started) if record.pid else me()
        replace_record(
            directory, name, inode, record._replace(persist=flag, keeper=None, pid=pid, started=started)
        )
    return True


def set_owner(directory: str, name: str, inode: int) -> bool:
    """Bind a block's life to this process; return False if it has no record."""
    record = read_record(directory, name, inode)
    if record is None:
        return False
    owned = record._replace(persist=False, keeper=me(), owned=True, space=here())
    replace_record(directory, name, inode, owned)
    return True


def replace_record(directory: str, name: str, inode: int, record: Record) -> None:
    path = record_path(directory, name, inode)
    platform.write_metadata(path, record.encode(), replace=True)
    if record.pid:
        _remember(path, record)


def records(directory: str) -> list[tuple[str, int, Record | None]]:
    """Return name, inode and record of every block; the record is None if it cannot be read."""
    found = []
    folder = registry_of(directory)
    for file, name, inode in record_files(folder):
        path = f"{folder}/{file}"
        try:
            text = _read_record(path)
        except FileNotFoundError:
            continue
        found.append((name, inode, _checked(directory, name, inode, path, text)))
    return found


def names(directory: str) -> list[str]:
    """Return the names that have a record; their blocks may be gone."""
    return sorted({name for _, name, _ in record_files(registry_of(directory))})


def record_files(folder: str) -> Iterator[tuple[str, str, int]]:
    """Yield for each record its file, and the name and inode that it is of."""
    for file in platform.names(folder):
        name, at, inode = file[2:].rpartition("@")
        if file.startswith("b.") and at and inode.isascii() and inode.isdigit():
            yield file, name_of(name), int(inode)
