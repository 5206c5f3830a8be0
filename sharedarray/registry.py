"""What is known of a block beyond its bytes: the records beside the blocks, and who may remove what.

Beside the blocks, in the same directory, each user has a directory of his own that nobody else can
enter::

    /dev/shm/frames                            a block
    /dev/shm/.sharedarray-1000/                the registry (mode 0700)
        b.frames@8123                          its record: name and inode, so that it fits this block alone
        t.8123.4711.90210.60000.6f1c9a2e       a reference on its way: one more name of that block, so that
                                               it stays; inode, sender's pid and start, milliseconds that it
                                               may outlive the sender, and a word of chance
        d.t.8123.4711.90210.60000.6f1c9a2e     when that sender was first seen dead
        s.8123.4711.90210.60000.any            the same for a pickle that may be loaded never or often (Dask
                                               also pickles to look at the length): one for each sender,
                                               taken away by the first load, counted from when first seen
        n.4711.5e0b17aa                        a note that is about to replace another
        locks.1                                which bytes are being written, see `sharedarray.marks`
        janitor.lock, janitor.sock             see `sharedarray.janitor`
        damaged.5e0b17aa90cd                   a directory that had one of these names, see `damage`

Records and the ``d.`` files are notes. A record's text is ``1 KIND PID STARTED CREATED LIFE``: the version,
what the bytes are (``array``, ``bytes``, ``memory``, ``list``, ``object``), the maker's pid and the tick at
which that process started, the time in seconds since 1970, and how long the block lives:

====================  ==============================================================================
``0``                 as long as somebody holds it
``1``                 until it is unlinked
``kPID.START.SPACE``  as long as somebody holds it, or its maker or the process PID (a *keeper*) lives
``oPID.START.SPACE``  exactly as long as the process PID (its *owner*) lives, whoever holds it
====================  ==============================================================================

SPACE tells whose pids these are, for containers may share the directory and not their pids. Who cannot see
such a process takes it to be alive.

A block without a record, or with another inode than the recorded one, is not ours to remove: it is
somebody's copy. A record is written before its block has a name, so a name without a record is never one
of ours in the making; a record without its name is dropped once its maker is dead, or after
`ORPHAN_RECORD` seconds.

`depart` is the way by which a name goes unasked, for those who leave, for the janitor and for
everybody who sweeps: alone first, so that nobody attaches meanwhile; then the record; then the leaving,
which `unlink` takes too, so that nobody else removes the name meanwhile; then the inode that the name
leads to; then removal. Only the name of a block whose owner is dead goes without asking who holds it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from sharedarray import damage, errors, marks
from sharedarray._platform import platform

ORPHAN_RECORD = 600.0  # seconds; a maker publishes microseconds after writing its record
GRACE = 60.0  # seconds that a reference on its way outlives its sender, unless SHAREDARRAY_GRACE says so
_VERSION = "1"
_PIDS = 1 << 32  # above every system's process ids
_LAST_TIME = 253_402_300_800.0  # seconds since 1970 of the year 10000, which no calendar here reaches


Process: TypeAlias = tuple[int, int]
"""A process, beyond the reuse of its pid: pid, and the tick at which it started."""


@dataclass(frozen=True, slots=True)
class Record:
    """One block's record. `created` is in seconds since 1970, `started` in the kernel's ticks.

    `keeper` is a process besides the maker that keeps the block without holding it; where the block is
    `owned`, it alone decides, and the block goes with it. `space` is where these two processes are.
    """

    kind: str
    pid: int
    started: int
    created: float
    persist: bool
    keeper: Process | None = None
    owned: bool = False
    space: int = 0

    def encode(self) -> str:
        """The text of the note."""
        life = str(int(self.persist))
        if self.keeper is not None:
            life = f"{'o' if self.owned else 'k'}{self.keeper[0]}.{self.keeper[1]}.{self.space}"
        return f"{_VERSION} {self.kind} {self.pid} {self.started} {self.created:.3f} {life}"

    @classmethod
    def parse(cls, text: str) -> Record | None:
        """The record in a note, None when it is damaged or of a newer version."""
        try:
            version, kind, pid, started, created, life = text.split(" ")
            if version != _VERSION or not 0 <= float(created) < _LAST_TIME:
                return None
            if life in ("0", "1"):
                return cls(kind, int(pid), int(started), float(created), life == "1")
            if life[:1] not in ("k", "o"):
                return None
            keeper, since, space = map(int, life[1:].split("."))
            maker = int(pid), int(started)
            return cls(kind, *maker, float(created), False, (keeper, since), life[0] == "o", space)
        except ValueError:
            return None

    def kept_by(self) -> Process | None:
        """The process that keeps the block, if nobody holds it; None when no such process lives."""
        if self.keeper is None:
            return None
        if self.space != here():
            return self.keeper
        keepers = (self.keeper,) if self.owned else (self.keeper, (self.pid, self.started))
        return next((keeper for keeper in keepers if keeps(keeper)), None)


@dataclass(frozen=True, slots=True)
class Token:
    """A reference on its way, as the name of its file tells it.

    `grace` is in seconds; `once` is False where nobody knows whether the pickle is loaded at all.
    """

    inode: int
    pid: int
    started: int
    grace: float
    once: bool
    file: str

    @classmethod
    def parse(cls, file: str) -> Token | None:
        """The token that a file's name stands for, None when it stands for none."""
        try:
            kind, inode, pid, started, grace, _ = file.split(".")
            if kind not in ("t", "s"):
                return None
            return cls(int(inode), int(pid), int(started), int(grace) / 1000, kind == "t", file)
        except (ValueError, OverflowError):
            return None


@dataclass(slots=True)
class Swept:
    """What a sweep did and what it left.

    `removed` names the blocks whose memory it freed; `work` counts what a janitor still has to watch.
    """

    removed: list[str] = field(default_factory=list)
    work: int = 0


def directory() -> str:
    """Directory of the blocks: ``SHAREDARRAY_DIR``, or the platform's memory file system."""
    chosen = platform.setting("SHAREDARRAY_DIR")
    return os.path.abspath(chosen) if chosen else platform.DEFAULT_DIRECTORY


def grace() -> float:
    """Seconds that a reference which this process sends may outlive it."""
    try:
        seconds = float(os.environ["SHAREDARRAY_GRACE"])
    except (KeyError, ValueError):
        return GRACE
    return min(max(0.0, seconds), 1e9)


def registry_of(directory: str) -> str:
    """Path of this user's registry for the blocks in `directory`."""
    return f"{directory}/.sharedarray-{platform.user()}"


def _record_path(directory: str, name: str, inode: int) -> str:
    return f"{registry_of(directory)}/b.{name}@{inode}"


def open_registry(directory: str) -> str:
    """Path of the registry, made where it is missing, and known to be this user's alone.

    Raises
    ------
    NotOursError
        Somebody else owns, or could write, what stands there.
    """
    path = registry_of(directory)
    try:
        platform.make_private_directory(path)
    except PermissionError as error:
        raise errors.NotOursError(
            "the registry of shared blocks cannot be trusted",
            name=path,
            found=error.strerror,
            expected="a directory of your own with mode 700",
            cause="another user made it first",
            next_step="have it removed, or set SHAREDARRAY_DIR to a memory file system of your own",
        ) from None
    return path


# -- this process ---------------------------------------------------------------------------------------

_me: Process = (0, 0)
_here = 0
_retired = 0  # the pid of this process, once it keeps nothing any more


def me() -> Process:
    """Pid and start of this process."""
    global _me, _here
    pid = os.getpid()
    if _me[0] != pid:
        _here = platform.process_space()  # first: other threads believe it once they see who we are
        _me = (pid, platform.process_started(pid) or 0)
    return _me


def here() -> int:
    """What tells this process's pids from those of another container."""
    me()
    return _here


def alive(pid: int, started: int) -> bool:
    """Whether the process with this pid still is the one that started then."""
    return 0 < pid < _PIDS and platform.process_started(pid) == started


def keeps(process: Process) -> bool:
    """Whether blocks that this process keeps stay."""
    return _retired != process[0] if process == me() else alive(*process)


def retire() -> None:
    """Keep nothing any more, because this process is about to end."""
    global _retired
    _retired = os.getpid()


# -- records --------------------------------------------------------------------------------------------


def write_record(
    directory: str, name: str, inode: int, *, kind: str, persist: bool, keeper: Process | None = None
) -> None:
    """Write the record of a block that is about to get its name."""
    pid, started = me()
    space = 0 if keeper is None else here()
    text = Record(kind, pid, started, time.time(), persist, keeper, space=space).encode()
    path = _record_path(directory, name, inode)
    while True:
        open_registry(directory)
        try:
            platform.write_note(path, text)
        except FileNotFoundError:
            continue  # the janitor removed the empty registry in between
        except FileExistsError:
            _discard(path)  # of a block long gone, whose inode has come round again
        else:
            return


def read_record(directory: str, name: str, inode: int) -> Record | None:
    """The record of this very block, None when it is not one of ours."""
    text = _read(_record_path(directory, name, inode))
    if text is None:
        return None
    try:
        open_registry(directory)
    except OSError:
        return None  # somebody else's notes decide nothing over our files
    return Record.parse(text)


def drop_record(directory: str, name: str, inode: int) -> None:
    """Forget a block."""
    _discard(_record_path(directory, name, inode))


def _read(path: str) -> str | None:
    """Return the text of a note; None if there is none, or something else that cannot be read."""
    try:
        return platform.read_note(path)
    except (OSError, ValueError) as error:
        damage.report(path, str(error), "it is ignored")
        return None


def _discard(path: str) -> None:
    """Remove a file of the registry, or whatever else has its name."""
    try:
        platform.remove(path)
    except OSError as error:
        if not damage.set_aside(path):
            damage.report(path, str(error), "it cannot be removed, and is ignored")


def set_persist(directory: str, name: str, inode: int, flag: bool) -> bool:
    """Change whether a block outlives its holders; False when it has no record."""
    record = read_record(directory, name, inode)
    if record is None:
        return False
    if record.persist != flag:
        _replace(directory, name, inode, replace(record, persist=flag, keeper=None))
    return True


def set_owner(directory: str, name: str, inode: int) -> bool:
    """Have a block live exactly as long as this process does; False when it has no record."""
    record = read_record(directory, name, inode)
    if record is None:
        return False
    _replace(directory, name, inode, replace(record, persist=False, keeper=me(), owned=True, space=here()))
    return True


def _replace(directory: str, name: str, inode: int, record: Record) -> None:
    platform.write_note(_record_path(directory, name, inode), record.encode(), replace=True)


def records(directory: str) -> list[tuple[str, int, Record | None]]:
    """Every record: name, inode, and what it says (None when it cannot be read)."""
    found = []
    folder = registry_of(directory)
    for file in platform.names(folder):
        name, at, inode = file[2:].rpartition("@")
        if file.startswith("b.") and at and inode.isascii() and inode.isdigit():
            text = _read(f"{folder}/{file}")
            if text is not None:
                found.append((name, int(inode), Record.parse(text)))
    return found


# -- references on their way ----------------------------------------------------------------------------


def pin(directory: str, handle: int, inode: int, *, once: bool) -> str:
    """Keep a block until its reference arrives; returns the token, a file's name in the registry.

    `once` says that the reference is loaded exactly once, unless its way is cut off.
    """
    pid, started = me()
    sender = f"{inode}.{pid}.{started}.{grace() * 1000:.0f}"
    token = f"t.{sender}.{os.urandom(6).hex()}" if once else f"s.{sender}.any"
    try:
        platform.pin(handle, f"{registry_of(directory)}/{token}")
    except FileExistsError:
        if once:
            raise
    return token


def token_path(directory: str, token: str) -> str:
    """Path of a token, which leads to exactly the block that it pins."""
    return f"{registry_of(directory)}/{token}"


def unpin(directory: str, token: str) -> None:
    """The reference has arrived, and its receiver holds a lease."""
    _discard(token_path(directory, token))


def tokens(directory: str) -> list[Token]:
    """Every reference that is on its way."""
    return [token for file in platform.names(registry_of(directory)) if (token := Token.parse(file))]


# -- removal --------------------------------------------------------------------------------------------


def depart(directory: str, name: str, handle: int, inode: int, *, on_their_way: int | None = None) -> bool:
    """Remove the name of a block that nobody holds; the caller is alone on it, and releases it.

    Parameters
    ----------
    on_their_way
        How many tokens pin the block, for callers that counted them. Without it, any name beside the
        block's own counts as one.

    Returns
    -------
    bool
        Whether the name was removed.
    """
    record = read_record(directory, name, inode)
    if record is None or record.persist:
        return False
    path = f"{directory}/{name}"
    if record.kept_by() is not None and platform.inode_of(path) == inode:
        return False
    platform.start_leaving(handle)
    if platform.inode_of(path) != inode:
        drop_record(directory, name, inode)
        return False
    if on_their_way is None:
        on_their_way = platform.status(handle).links - 1
    if on_their_way > 0:
        return False
    platform.remove(path, inode)
    drop_record(directory, name, inode)
    return True


def disown(directory: str, name: str, inode: int) -> bool:
    """Remove the name of a block that this process owns, whoever holds it; False when it owns none such."""
    record = read_record(directory, name, inode)
    if record is None or not record.owned or (record.keeper, record.space) != (me(), here()):
        return False
    try:
        handle = platform.open(f"{directory}/{name}", writable=True)
    except OSError:
        drop_record(directory, name, inode)
        return False
    try:
        return _remove_held(directory, name, handle, inode)
    finally:
        platform.close(handle)


def _remove_held(directory: str, name: str, handle: int, inode: int) -> bool:
    """Remove the name of a block, whoever holds it; its record goes in any case."""
    platform.start_leaving(handle)
    try:
        path = f"{directory}/{name}"
        removed = platform.inode_of(path) == inode and platform.remove(path, inode)
        drop_record(directory, name, inode)
        return removed
    finally:
        platform.release(handle)


def sweep(directory: str) -> Swept:
    """Remove what nobody holds any more: blocks, tokens of senders long dead, records without a block."""
    swept = Swept()
    if not _trusted(directory):
        return swept
    waiting = _expire_tokens(directory)
    swept.work += sum(waiting.values())
    for name, inode, record in records(directory):
        _sweep_block(directory, name, inode, record, waiting.get(inode, 0), swept)
    folder = registry_of(directory)
    try:
        marks.sweep(folder)
    except OSError as error:
        damage.report(f"{folder}/{marks.NAME}", str(error), "it is ignored")
    return swept


def sweep_kept(directory: str) -> Swept:
    """Do the same with the blocks that this process has kept so far, and with no others."""
    swept = Swept()
    if _trusted(directory):
        pinned = {token.inode for token in tokens(directory)}
        for name, inode, record in records(directory):
            if (
                record is not None
                and record.space == here()
                and me() in (record.keeper, (record.pid, record.started))
            ):
                _sweep_block(directory, name, inode, record, int(inode in pinned), swept)
    return swept


def _trusted(directory: str) -> bool:
    """Whether there is a registry, and it is ours alone: nobody else's notes decide over our files."""
    folder = registry_of(directory)
    if platform.inode_of(folder) is None:
        return False
    open_registry(directory)
    return True


def _expire_tokens(directory: str) -> dict[int, int]:
    """End the references whose grace period is over; count the others by inode."""
    folder = registry_of(directory)
    now = time.time()
    waiting: dict[int, int] = {}
    files = set(platform.names(folder))
    for file in files:
        token = Token.parse(file)
        if token is None:
            if _is_litter(file, files):
                _discard(f"{folder}/{file}")
            continue
        if not (token.once and alive(token.pid, token.started)):
            note = f"{folder}/d.{file}"
            if token.grace <= 0 or now - _first_seen(note, now) >= token.grace:
                _discard(f"{folder}/{file}")
                _discard(note)
                continue
        waiting[token.inode] = waiting.get(token.inode, 0) + 1
    return waiting


def _first_seen(note: str, now: float) -> float:
    """Return the time in a ``d.`` note, which is written if there is none, or none that can be read."""
    text = _read(note)
    if text is not None:
        try:
            seen = float(text)
        except ValueError:
            seen = -1.0
        if 0 <= seen <= now + GRACE:
            return seen
        damage.report(note, f"{text[:40]!r} in place of a time", "the time starts anew")
        _discard(note)
    try:
        platform.write_note(note, f"{now:.3f}")
    except FileExistsError:
        if _read(note) is None:  # what is there is no note; else another sweep has written it just now
            _discard(note)
    return now


def _is_litter(file: str, files: set[str]) -> bool:
    """Whether this is a note that has lost its token, or one cut off while it was being replaced."""
    if file.startswith("n."):
        pid = file.split(".")[1]
        return not (pid.isascii() and pid.isdigit()) or platform.process_started(int(pid)) is None
    return file.startswith("d.") and file[2:] not in files


def _sweep_block(
    directory: str, name: str, inode: int, record: Record | None, on_their_way: int, swept: Swept
) -> None:
    try:
        _sweep_one(directory, name, inode, record, on_their_way, swept)
    except OSError as error:  # the others are swept all the same
        damage.report(f"{directory}/{name}", str(error), "it is not swept")


def _sweep_one(
    directory: str, name: str, inode: int, record: Record | None, on_their_way: int, swept: Swept
) -> None:
    path = f"{directory}/{name}"
    if record is not None and record.kept_by() is not None and platform.inode_of(path) == inode:
        swept.work += 1
        return
    try:
        handle = platform.open(path, writable=True)
    except OSError:
        _drop_orphan_record(directory, name, inode, record, swept)
        return
    try:
        status = platform.status(handle)
        if status.inode != inode:
            _drop_orphan_record(directory, name, inode, record, swept)
        elif record is None or not status.regular:
            damage.report(
                _record_path(directory, name, inode),
                "no record of this version",
                f"{path} stays until you remove it and this record",
            )
        elif record.owned:
            if _remove_held(directory, name, handle, inode):
                swept.removed.append(name)
        elif not platform.alone(handle):
            swept.work += 1
        elif depart(directory, name, handle, inode, on_their_way=on_their_way):
            swept.removed.append(name)
        platform.release(handle)
    finally:
        platform.close(handle)


def _drop_orphan_record(directory: str, name: str, inode: int, record: Record | None, swept: Swept) -> None:
    """Forget a block whose name leads elsewhere, unless its maker is just about to publish it.

    Whether it does is asked once more at the end: a maker may publish and die since its name was tried, and
    the block would stay for ever, as something that is not ours.
    """
    if (
        record is None
        or not alive(record.pid, record.started)
        or (not record.persist and platform.ended(inode))
        or time.time() - record.created > ORPHAN_RECORD
    ) and platform.inode_of(f"{directory}/{name}") != inode:
        drop_record(directory, name, inode)
    else:
        swept.work += 1
