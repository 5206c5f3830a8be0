"""The records beside the blocks: what is known of a block beyond its bytes, and which process may remove it.

Beside the blocks, in the same directory, each user has a directory that no other user can enter::

    /dev/shm/frames                            a block
    /dev/shm/.sharedarray-1000/                the registry (mode 0700)
        b.frames@8123                          its record: name and inode, so that it fits this block alone
        t.8123.4711.90210.77.60000.6f1c9a2e    a reference on its way: one more name of that block, so that
                                               it stays; inode, sender's pid, start and pid namespace,
                                               milliseconds that it may outlive the sender, a random word
                                               (with 0 milliseconds also a free block, see `freelist`)
        d.t.8123.4711.90210.77.60000.6f1c9a2e  when that sender was first seen dead
        s.8123.4711.90210.77.60000.any         the same for a pickle that may be loaded never or often (Dask
                                               also pickles to look at the length): one for each sender,
                                               taken away by the first load, counted from when first seen
        w.8123.3                               what wakes party 3 of the block with this inode, see `_wakers`
        v.8123                                 notices of new data in that block, see `_notices`
        n.4711.5e0b17aa                        a note that is about to replace another
        locks.1                                which bytes are being written, see `sharedarray._intents`
        janitor.lock, janitor.sock             see `sharedarray._janitor`
        damaged.5e0b17aa90cd                   a directory that had one of these names, see `damage`

Records and the ``d.`` files are notes. A record's text is
``1 KIND PID STARTED CREATED LIFE SPACE CLOCK UPTIME``: the version, what the bytes are (``array``, ``bytes``,
``memory``, ``list``, ``object``), the maker's pid and the tick at which that process started, the time in
seconds since 1970, and how long the block lives:

====================  ==============================================================================
``0``                 as long as a process holds it
``1``                 until it is unlinked
``kPID.START.SPACE``  as long as a process holds it, or its maker or the process PID (a *keeper*) lives
``oPID.START.SPACE``  exactly as long as the process PID (its *owner*) lives, held or not
====================  ==============================================================================

SPACE tells whose pids these are, for containers may share the directory and not their pids. A keeper in
another pid namespace counts as alive. Any other process of another pid namespace is alive while it has its
byte of ``janitor.lock`` locked (`appear`), as the kernel tells.

CLOCK is the number of a clock that no change of the time of day moves, and UPTIME the seconds on it. Ages are
differences on that clock. The text of a ``d.`` file is ``CREATED CLOCK UPTIME``. A record of an older version
ends with LIFE.

A block without a record, or with another inode than the recorded one, is not ours to remove: it is
a user's copy. A record is written before its block has a name, so a name without a record is never one
of ours in the making; a record without its name is dropped once its maker is dead, or after
`ORPHAN_RECORD` seconds.

`depart` removes a name that no user has unlinked: for processes that let go, for the janitor and for each
sweep. It first locks the lease alone, so that no process attaches meanwhile. Then it checks the record, takes
the removal lock (which `unlink` takes too, so that no other process removes the name meanwhile), checks the
inode that the name leads to, and removes the name. The name of a block whose owner is dead goes even if
processes hold it.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from types import FrameType
from typing import NamedTuple, TypeAlias

from sharedarray import _damage as damage, _errors as errors, _intents as intents
from sharedarray._clock import time
from sharedarray._platform import platform

ORPHAN_RECORD = 600.0  # seconds; a maker publishes microseconds after writing its record
GRACE = 60.0  # seconds that a reference on its way outlives its sender, unless SHAREDARRAY_GRACE says so
_VERSION = "1"
_KINDS = frozenset(("array", "bytes", "group", "list", "memory", "object"))
_PIDS = 1 << 32  # above every system's process ids
_PID_BITS = 22  # of a pid on Linux
_SPACES = (1 << 32) - 1  # the inode of a pid namespace has 32 bits
LOCK_FILE = "janitor.lock"
_MOST_WARNED = 16  # directories that are known not to need a warning, or to have had it
_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_SET = 1.0  # seconds by which the time of day must differ to count as set; NTP corrects less bit by bit
_LAST_TIME = 253_402_300_800.0  # seconds since 1970 of the year 10000, which no calendar here reaches


Process: TypeAlias = tuple[int, int]
"""A process, beyond the reuse of its pid: pid, and the tick at which it started."""


class Moment(NamedTuple):
    """A moment: seconds since 1970, and the seconds on a clock that cannot be set, with its number."""

    created: float
    clock: int = 0
    uptime: float = 0.0

    @classmethod
    def now(cls) -> Moment:
        """Return this moment."""
        return cls(time.time(), *platform.uptime())

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Return the moment in a text; `ValueError` if there is none."""
        created, *steady = text.split(" ")
        clock, uptime = steady or ("0", "0")
        found = cls(float(created), int(clock), float(uptime))
        if not _is_moment(*found):
            raise ValueError(f"{text[:40]!r} is no moment")
        return found

    def encode(self) -> str:
        """Return the moment as a text."""
        return f"{self.created:.3f} {self.clock} {self.uptime:.3f}"

    def age(self) -> float:
        """Return the seconds since then, by the steady clock if this process has the same one."""
        now = Moment.now()
        return max(0.0, now.created - self._created_as_set(now))

    def created_as_set(self, now: Moment | None = None) -> float:
        """Return when this was in seconds since 1970, by the time of day as it is set ``now``.

        Unless that was set meanwhile, the answer is always the same.
        """
        found = self._created_as_set(now or Moment.now())
        return found if abs(found - self.created) > _SET else self.created

    def _created_as_set(self, now: Moment) -> float:
        if self.clock and now.clock == self.clock:
            return min(max(0.0, now.created - (now.uptime - self.uptime)), _LAST_TIME - 1)
        return self.created


def _is_moment(created: float, clock: int, uptime: float) -> bool:
    return 0 <= created < _LAST_TIME and 0 <= uptime < _LAST_TIME and clock >= 0


class Record(NamedTuple):
    """One block's record. `created` is in seconds since 1970, `started` in the kernel's ticks.

    `keeper` is a process besides the maker that keeps the block without holding it; where the block is
    `owned`, it alone decides, and the block goes with it. `space` is where these two processes are. `clock`
    and `uptime` are those of a `Moment`.
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
        """The text of the note."""
        kind, pid, started, created, persist, keeper, owned, space, clock, uptime = self
        if keeper is None:
            life = "1" if persist else "0"
        else:
            life = f"{'o' if owned else 'k'}{keeper[0]}.{keeper[1]}.{space}"
        return f"{_VERSION} {kind} {pid} {started} {created:.3f} {life} {space} {clock} {uptime:.3f}"

    @classmethod
    def parse(cls, text: str) -> Record | None:
        """The record in a note, None when it is damaged or of a newer version."""
        try:
            version, kind, maker, at, when, life, *more = text.split(" ")
            if version != _VERSION or len(more) not in (0, 3):
                return None
            pid, started, created = int(maker), int(at), float(when)
            space, clock, uptime = (int(more[0]), int(more[1]), float(more[2])) if more else (0, 0, 0.0)
            if not _is_moment(created, clock, uptime):
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
        """When the block was made."""
        return Moment(self.created, self.clock, self.uptime)

    def maker_alive(self, directory: str) -> bool:
        """Return whether the block's maker lives."""
        return alive(self.pid, self.started, self.space, directory)

    def kept_by(self) -> Process | None:
        """The process that keeps a block without holders; None if no such process lives."""
        if self.keeper is None:
            return None
        if self.space != here():
            return self.keeper
        keepers = (self.keeper,) if self.owned else (self.keeper, (self.pid, self.started))
        return next((keeper for keeper in keepers if keeps(keeper)), None)


class Token(NamedTuple):
    """A reference on its way, as the name of its file tells it.

    `grace` is in seconds; `once` is False if the pickle may never be loaded, or often.
    """

    inode: int
    pid: int
    started: int
    space: int
    grace: float
    once: bool
    file: str

    @classmethod
    def parse(cls, file: str) -> Token | None:
        """The token that a file's name stands for, None when it stands for none."""
        try:
            kind, inode, pid, started, *space, grace, _ = file.split(".")
            if kind not in ("t", "s") or len(space) > 1:
                return None
            sender = int(pid), int(started), int(space[0]) if space else 0
            return cls(int(inode), *sender, int(grace) / 1000, kind == "t", file)
        except (ValueError, OverflowError):
            return None


class Swept:
    """What a sweep did and what it left.

    `removed` names the blocks whose memory it freed; `work` counts what a janitor still has to watch.
    """

    __slots__ = ("removed", "work")

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.work = 0


def directory() -> str:
    """Return the directory of the blocks: ``SHAREDARRAY_DIR``, or the platform's memory file system.

    Raises
    ------
    BlockNotFoundError
        ``SHAREDARRAY_DIR`` leads to no directory.
    """
    chosen = platform.setting("SHAREDARRAY_DIR")
    if not chosen:
        return platform.DEFAULT_DIRECTORY
    path = absolute(chosen)
    if not os.path.isdir(path):
        raise no_directory(path)
    return path


@lru_cache(_MOST_WARNED)
def warn_of_disk(directory: str) -> None:
    """Warn once about blocks in a directory on a disk; under multiprocessing, the parent does so."""
    process = sys.modules.get("multiprocessing.process")
    if platform.on_disk(directory) and (process is None or process.parent_process() is None):
        warnings.warn(
            f"SHAREDARRAY_DIR={directory} is on a disk, to which the system writes all data of the blocks; "
            f"choose a directory on a memory file system, as {platform.DEFAULT_DIRECTORY} is",
            RuntimeWarning,
            stacklevel=_level_of_caller(),
        )


def _level_of_caller() -> int:
    """Return the ``stacklevel`` at which a warning of the calling function names the user's line."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level


def no_directory(directory: str) -> errors.BlockNotFoundError:
    """Return the error for a directory of blocks that is not there."""
    return errors.BlockNotFoundError(
        f"the directory {directory} does not exist",
        name=directory,
        found="something else at that path" if os.path.lexists(directory) else None,
        expected="a directory, on a memory file system for blocks",
        next_step="make it, or set SHAREDARRAY_DIR to one that exists",
    )


def absolute(path: str) -> str:
    """Return a path that the working directory decides nothing of.

    Raises
    ------
    BlockNotFoundError
        The path is relative, and the working directory was removed.
    """
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise errors.BlockNotFoundError(
            f"{path!r} leads nowhere: the working directory of this process was removed",
            name=path,
            expected="an absolute path, or a working directory that is there",
            next_step="give an absolute path, or call os.chdir() first",
        ) from None


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


# A block's file is named in UTF-8 in every program, whatever encoding its locale asks for. Python encodes and
# decodes paths by the locale; where that is no UTF-8, a name goes through a str that Python encodes to UTF-8.
if sys.getfilesystemencoding() == "utf-8":

    def path_of(directory: str, name: str) -> str:
        """Return the path of the block of this name."""
        return f"{directory}/{name}"

    def _file_of(name: str) -> str:
        return name

    def _name_of(file: str) -> str:
        return file

else:

    def path_of(directory: str, name: str) -> str:
        """Return the path of the block of this name."""
        return f"{directory}/{_file_of(name)}"

    def _file_of(name: str) -> str:
        return os.fsdecode(name.encode())

    def _name_of(file: str) -> str:
        return os.fsencode(file).decode(errors="surrogateescape")


def _record_path(directory: str, name: str, inode: int) -> str:
    return f"{registry_of(directory)}/b.{_file_of(name)}@{inode}"


def open_registry(directory: str) -> str:
    """Path of the registry, made where it is missing, and known to be this user's alone.

    Raises
    ------
    NotOursError
        Another user owns, or could write, the file or directory at that path.
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


def alive(pid: int, started: int, space: int = 0, directory: str | None = None) -> bool:
    """Return whether the process with this pid still is the one that started then.

    Parameters
    ----------
    space
        The process's pid namespace; 0 for this process's.
    directory
        A directory of blocks in which the process has appeared, if it is in another pid namespace. Without
        it, such a process counts as alive.
    """
    if not 0 < pid < _PIDS:
        return False
    if space in (0, here()):
        return platform.process_started(pid) == started
    return directory is None or _appears(directory, pid, space)


def appear(directory: str) -> int:
    """Lock this process's byte of ``janitor.lock``, so that other pid namespaces know that it lives.

    Returns
    -------
    int
        The handle that has the lock.
    """
    handle = platform.open(f"{registry_of(directory)}/{LOCK_FILE}", writable=True)
    try:
        platform.lock(handle, _byte_of(me()[0], here()), 1, shared=True, wait=True)
    except BaseException:
        platform.close(handle)
        raise
    return handle


def _appears(directory: str, pid: int, space: int) -> bool:
    try:
        handle = platform.open(f"{registry_of(directory)}/{LOCK_FILE}", writable=True)
    except errors.LimitError:
        raise
    except OSError:
        return False  # no process of this user holds a block
    try:
        return platform.locked(handle, _byte_of(pid, space), 1)
    finally:
        platform.close(handle)


def _byte_of(pid: int, space: int) -> int:
    """Return the byte of ``janitor.lock`` that a process locks, behind those of the janitor."""
    return (1 + (space & _SPACES)) << _PID_BITS | (pid & (1 << _PID_BITS) - 1)


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
    pid, started = me()  # which also finds `_here`
    clock, uptime = platform.uptime()
    made = Record(kind, pid, started, time.time(), persist, keeper, False, _here, clock, uptime)
    text = made.encode()
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
            break
    _remember(path, made)


# The records that this process has written, by path: a damaged one is made anew from it.
_written: dict[str, Record] = {}
_MOST_WRITTEN = 1000


def _remember(path: str, record: Record) -> None:
    _written[path] = record
    if len(_written) > _MOST_WRITTEN:
        try:
            del _written[next(iter(_written))]
        except (KeyError, StopIteration, RuntimeError):
            pass  # another thread is at it


def read_record(directory: str, name: str, inode: int) -> Record | None:
    """The record of this very block, None when it is not one of ours."""
    path = _record_path(directory, name, inode)
    try:
        text = _read_record(path)
    except FileNotFoundError:
        return None
    try:
        open_registry(directory)
    except OSError:
        return None  # notes of another user decide nothing over our files
    return _checked(directory, name, inode, path, text)


def _read_record(path: str) -> str | None:
    """Return the text of a record, None if it is damaged; `FileNotFoundError` if there is none.

    A record is made, replaced and removed at any time. One that could not be read is damaged only if it was
    the same file before and after; else it is read again.
    """
    while True:
        before = platform.inode_of(path)
        text = _read(path)
        if text is not None:
            return text
        after = platform.inode_of(path)
        if before == after:
            if after is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return None


def _checked(directory: str, name: str, inode: int, path: str, text: str | None) -> Record | None:
    """Return the record in a note, with which a damaged one is replaced if the block is there.

    The process that wrote the record knows what stood there. Another one does not know how long the block is
    to live, and has it stay until it is unlinked: such a record has no maker, and the process that does know
    corrects it later. A record of a newer version is left alone.
    """
    record = None if text is None else Record.parse(text)
    if record is not None and record.pid:
        return record
    known = _written.get(path)
    if known is None and record is not None:
        return record
    if damage.unheard or platform.inode_of(path_of(directory, name)) != inode:
        return record
    if known is None:
        if _is_newer(text or ""):
            return None
        known = _unknown(text or "")
    if record is None:
        effect = "its block stays until it is unlinked" if known.persist else "nothing is lost"
        damage.report(path, f"{(text or '')[:40]!r} in place of a record", f"it is made anew, and {effect}")
        damage.set_aside(path)
    _replace(directory, name, inode, known)
    return known


def _is_newer(text: str) -> bool:
    version = text.split(" ")[0]
    return version.isascii() and version.isdigit() and int(version[:9]) > int(_VERSION)


def _unknown(text: str) -> Record:
    """Return a record for a block of which only a damaged one is there."""
    kind = next((word for word in text.split(" ")[1:2] if word in _KINDS), "array")
    moment = Moment.now()
    return Record(kind, 0, 0, moment.created, True, None, False, here(), moment.clock, moment.uptime)


def drop_record(directory: str, name: str, inode: int) -> None:
    """Forget a block, and the notices of new data in it."""
    path = _record_path(directory, name, inode)
    _written.pop(path, None)
    _discard(path)
    try:
        remove_unused_notices(notices_path(directory, inode))
    except OSError:
        pass  # a sweep removes it


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
    if record.persist != flag or not record.pid:
        pid, started = (record.pid, record.started) if record.pid else me()
        _replace(directory, name, inode, record._replace(persist=flag, keeper=None, pid=pid, started=started))
    return True


def set_owner(directory: str, name: str, inode: int) -> bool:
    """Have a block live exactly as long as this process does; False when it has no record."""
    record = read_record(directory, name, inode)
    if record is None:
        return False
    owned = record._replace(persist=False, keeper=me(), owned=True, space=here())
    _replace(directory, name, inode, owned)
    return True


def _replace(directory: str, name: str, inode: int, record: Record) -> None:
    path = _record_path(directory, name, inode)
    platform.write_note(path, record.encode(), replace=True)
    if record.pid:
        _remember(path, record)


def records(directory: str) -> list[tuple[str, int, Record | None]]:
    """Every record: name, inode, and what it says (None when it cannot be read)."""
    found = []
    folder = registry_of(directory)
    for file, name, inode in _record_files(folder):
        path = f"{folder}/{file}"
        try:
            text = _read_record(path)
        except FileNotFoundError:
            continue
        found.append((name, inode, _checked(directory, name, inode, path, text)))
    return found


def names(directory: str) -> list[str]:
    """Return the names of which there is a record; the blocks themselves may be gone."""
    return sorted({name for _, name, _ in _record_files(registry_of(directory))})


def _record_files(folder: str) -> Iterator[tuple[str, str, int]]:
    """Yield for each record its file, and the name and inode that it is of."""
    for file in platform.names(folder):
        name, at, inode = file[2:].rpartition("@")
        if file.startswith("b.") and at and inode.isascii() and inode.isdigit():
            yield file, _name_of(name), int(inode)


# -- references on their way ----------------------------------------------------------------------------


def pin(directory: str, handle: int, inode: int, *, once: bool) -> str:
    """Keep a block until its reference arrives; returns the token, a file's name in the registry.

    `once` says that the reference is loaded exactly once, unless its way is cut off.
    """
    pid, started = me()
    sender = f"{inode}.{pid}.{started}.{here()}.{grace() * 1000:.0f}"
    token = f"t.{sender}.{os.urandom(6).hex()}" if once else f"s.{sender}.any"
    try:
        platform.pin(handle, f"{registry_of(directory)}/{token}")
    except FileExistsError:
        if once:
            raise
    return token


def free_token(inode: int) -> str:
    """Return a token for a free block of this process (see `freelist`): it ends with the process."""
    pid, started = me()
    return f"t.{inode}.{pid}.{started}.{here()}.0.{os.urandom(6).hex()}"


def token_path(directory: str, token: str) -> str:
    """Path of a token, which leads to exactly the block that it pins."""
    return f"{registry_of(directory)}/{token}"


def unpin(directory: str, token: str) -> None:
    """The reference has arrived, and its receiver holds a lease."""
    _discard(token_path(directory, token))


def tokens(directory: str) -> list[Token]:
    """Every reference that is on its way."""
    return [token for file in platform.names(registry_of(directory)) if (token := Token.parse(file))]


# -- wakers ---------------------------------------------------------------------------------------------

_WAKER = "w."  # what the names of wakers start with


def waker_path(directory: str, inode: int, party: int) -> str:
    """Return the path of the waker of a party of a block."""
    return f"{registry_of(directory)}/{_WAKER}{inode}.{party}"


_NOTICES = "v."  # what the names of files with notices start with
_NOTICED = 1 << 57  # the byte of such a file that each process locks, shared, while it uses the file


def notices_path(directory: str, inode: int) -> str:
    """Return the path of the file with the notices of new data in a block."""
    return f"{registry_of(directory)}/{_NOTICES}{inode}"


def hold_notices(handle: int, path: str) -> bool:
    """Keep a file of notices in place until the handle is closed; return False if it was just removed."""
    platform.lock(handle, _NOTICED, 1, shared=True, wait=True)
    return platform.inode_of(path) == platform.status(handle).inode


def remove_unused_notices(path: str) -> None:
    """Remove a file of notices, unless a process uses it, which does so later if the block is gone."""
    try:
        handle = platform.open_to_lock(path)
    except FileNotFoundError:
        return
    try:
        if platform.lock(handle, _NOTICED, 1, shared=False, wait=False):
            try:
                if platform.inode_of(path) == platform.status(handle).inode:
                    platform.remove(path)
            finally:
                platform.unlock(handle, _NOTICED, 1)
    finally:
        platform.close(handle)


def remove_notices_without_block(directory: str, inode: int) -> None:
    """Remove the notices of a block that is gone, unless a process uses them."""
    if _without_block(directory, {str(inode)}, platform.names(registry_of(directory))):
        remove_unused_notices(notices_path(directory, inode))


def _sweep_notices(directory: str) -> None:
    """Remove the notices of blocks that are gone, which no process uses."""
    folder = registry_of(directory)
    files = platform.names(folder)
    noticed = {file[len(_NOTICES) :] for file in files if file.startswith(_NOTICES)}
    for inode in _without_block(directory, noticed, files):
        path = f"{folder}/{_NOTICES}{inode}"
        try:
            remove_unused_notices(path)
        except errors.LimitError:
            raise
        except OSError as error:
            damage.report(path, str(error), "it stays")


def _without_block(directory: str, inodes: set[str], files: list[str]) -> set[str]:
    """Return the inodes, as text, that are of no block; `files` are those of the registry."""
    gone = inodes - _recorded(files)
    if gone:
        # A listing may miss a record that another process replaces meanwhile. A block's own name never moves.
        paths = (f"{directory}/{file}" for file in platform.names(directory))
        gone -= {str(platform.inode_of(path)) for path in paths}
        gone -= _recorded(platform.names(registry_of(directory)))  # for blocks without a path
    return gone


def _recorded(files: list[str]) -> set[str]:
    """Return the inodes, as text, of the blocks of which a listing of the registry has a record."""
    return {file.rpartition("@")[2] for file in files if file.startswith("b.")}


def _sweep_wakers(folder: str) -> None:
    """Remove the wakers of processes that were killed."""
    for file in platform.names(folder):
        if file.startswith(_WAKER):
            try:
                platform.remove_unused_waker(f"{folder}/{file}")
            except errors.LimitError:
                raise
            except FileExistsError as error:
                if not damage.unheard:
                    damage.report(f"{folder}/{file}", str(error.strerror), "it is set aside")
                    damage.set_aside(f"{folder}/{file}")
            except OSError as error:
                damage.report(f"{folder}/{file}", str(error), "it stays")


# -- removal --------------------------------------------------------------------------------------------


def depart(
    directory: str,
    name: str,
    handle: int,
    inode: int,
    *,
    on_their_way: int | None = None,
    token: str | None = None,
) -> bool:
    """Remove the name of a block without holders; the caller has locked its lease alone, and releases it.

    Parameters
    ----------
    on_their_way
        How many tokens pin the block, for callers that counted them. Without it, any name beside the
        block's own counts as one.
    token
        The path of a token that the file gets in the place of its name, to be used again; see `freelist`.

    Returns
    -------
    bool
        Whether the name was removed.
    """
    record = read_record(directory, name, inode)
    if record is None or record.persist:
        return False
    path = path_of(directory, name)
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
    if token is None or not _renamed(path, token, handle):
        platform.remove(path, inode)
    drop_record(directory, name, inode)
    return True


def _renamed(path: str, token: str, handle: int) -> bool:
    try:
        platform.set_reused(handle)
        platform.move(path, token)
    except OSError:  # this process acts as another user by now
        return False
    return True


def disown(directory: str, name: str, inode: int) -> bool:
    """Remove the name of a block that this process owns, held or not; False if it owns none such."""
    record = read_record(directory, name, inode)
    if record is None or not record.owned or (record.keeper, record.space) != (me(), here()):
        return False
    try:
        handle = platform.open(path_of(directory, name), writable=True)
    except errors.LimitError:
        raise  # the block is there, and its record has to stay
    except OSError:
        drop_record(directory, name, inode)
        return False
    try:
        return _remove_held(directory, name, handle, inode)
    finally:
        platform.close(handle)


def _remove_held(directory: str, name: str, handle: int, inode: int) -> bool:
    """Remove the name of a block, held or not; its record goes in any case."""
    platform.start_leaving(handle)
    try:
        path = path_of(directory, name)
        removed = platform.inode_of(path) == inode and platform.remove(path, inode)
        drop_record(directory, name, inode)
        return removed
    finally:
        platform.release(handle)


def sweep(directory: str) -> Swept:
    """Remove blocks without holders, tokens of senders long dead, and records without a block."""
    swept = Swept()
    if not _trusted(directory):
        return swept
    waiting = _expire_tokens(directory)
    swept.work += sum(waiting.values())
    for name, inode, record in records(directory):
        _sweep_block(directory, name, inode, record, waiting.get(inode, 0), swept)
    folder = registry_of(directory)
    _sweep_wakers(folder)
    _sweep_notices(directory)
    try:
        intents.sweep(folder)
    except errors.LimitError:
        raise
    except OSError as error:
        damage.report(f"{folder}/{intents.NAME}", str(error), "it is ignored")
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
    """True if the registry is ours alone: notes of other users decide nothing over our files."""
    folder = registry_of(directory)
    if platform.inode_of(folder) is None:
        return False
    open_registry(directory)
    return True


def _expire_tokens(directory: str) -> dict[int, int]:
    """End the references whose grace period is over; count the others by inode."""
    folder = registry_of(directory)
    waiting: dict[int, int] = {}
    files = set(platform.names(folder))
    for file in files:
        token = Token.parse(file)
        if token is None:
            if _is_litter(file, files):
                _discard(f"{folder}/{file}")
            continue
        if not _leads_to_its_block(f"{folder}/{file}", token):
            continue
        if not (token.once and alive(token.pid, token.started, token.space, directory)):
            note = f"{folder}/d.{file}"
            if token.grace <= 0 or _first_seen(note).age() >= token.grace:
                _discard(f"{folder}/{file}")
                _discard(note)
                _seen.pop(note, None)
                continue
        waiting[token.inode] = waiting.get(token.inode, 0) + 1
    return waiting


def _leads_to_its_block(path: str, token: Token) -> bool:
    """Return whether a token still is a name of its block; set it aside if it is one of another file."""
    if not platform.RECORDS_DECIDE:
        return True
    inode = platform.inode_of(path)
    if inode is not None and inode != token.inode and not damage.unheard:
        damage.report(path, "another file in place of a block", "it is set aside, and pins no block")
        damage.set_aside(path)
    return inode == token.inode


# When a process whose warnings reach no user first saw a sender dead whose ``d.`` note is damaged, by note.
_seen: dict[str, Moment] = {}


def _first_seen(note: str) -> Moment:
    """Return the time in a ``d.`` note, which is written if there is none, or none that can be read."""
    text = _read(note)
    if text is not None:
        try:
            return Moment.parse(text)
        except (ValueError, OverflowError):
            pass
    now = Moment.now()
    if text is not None or platform.inode_of(note) is not None:
        if damage.unheard:
            return _seen.setdefault(note, now)
        damage.report(note, f"{(text or '')[:40]!r} in place of a time", "the time starts anew")
        _discard(note)
    try:
        platform.write_note(note, now.encode())
    except FileExistsError:
        pass  # another sweep has written it just now
    return now


def _is_litter(file: str, files: set[str]) -> bool:
    """Whether this is a note that has lost its token, or one cut off while it was being replaced."""
    if file.startswith("n."):
        pid = file.split(".")[1]  # another pid namespace's writer notices the loss, and writes once more
        return not (pid.isascii() and pid.isdigit()) or platform.process_started(int(pid)) is None
    return file.startswith("d.") and file[2:] not in files


def _sweep_block(
    directory: str, name: str, inode: int, record: Record | None, on_their_way: int, swept: Swept
) -> None:
    try:
        _sweep_one(directory, name, inode, record, on_their_way, swept)
    except errors.LimitError:
        raise
    except OSError as error:  # the others are swept all the same
        damage.report(f"{directory}/{name}", str(error), "it is not swept")


def _sweep_one(
    directory: str, name: str, inode: int, record: Record | None, on_their_way: int, swept: Swept
) -> None:
    path = path_of(directory, name)
    if record is not None and record.kept_by() is not None and platform.inode_of(path) == inode:
        swept.work += 1
        return
    try:
        handle = platform.open(path, writable=True)
    except errors.LimitError:
        raise  # whether the name leads to the block is not known
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
        or not record.maker_alive(directory)
        or (not record.persist and platform.ended(inode))
        or record.moment.age() > ORPHAN_RECORD
    ) and platform.inode_of(path_of(directory, name)) != inode:
        drop_record(directory, name, inode)
    else:
        swept.work += 1
