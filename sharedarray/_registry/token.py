"""References on their way: files that keep a block until it has arrived."""

from __future__ import annotations

import os
from typing import NamedTuple

from sharedarray import _damage as damage
from sharedarray._platform import platform
from sharedarray._registry.moments import Moment
from sharedarray._registry.notes import discard_note, read_note
from sharedarray._registry.places import registry_of
from sharedarray._registry.processes import alive, here, me

GRACE = 60.0  # seconds that a reference on its way outlives its sender, unless SHAREDARRAY_GRACE says so


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


def grace() -> float:
    """Seconds that a reference which this process sends may outlive it."""
    try:
        seconds = float(os.environ["SHAREDARRAY_GRACE"])
    except (KeyError, ValueError):
        return GRACE
    return min(max(0.0, seconds), 1e9)


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
    discard_note(token_path(directory, token))


def tokens(directory: str) -> list[Token]:
    """Every reference that is on its way."""
    return [token for file in platform.names(registry_of(directory)) if (token := Token.parse(file))]


def expire_tokens(directory: str) -> dict[int, int]:
    """End the references whose grace period is over; count the others by inode."""
    folder = registry_of(directory)
    waiting: dict[int, int] = {}
    files = set(platform.names(folder))
    for file in files:
        token = Token.parse(file)
        if token is None:
            if _is_litter(file, files):
                discard_note(f"{folder}/{file}")
            continue
        if not _leads_to_its_block(f"{folder}/{file}", token):
            continue
        if not (token.once and alive(token.pid, token.started, token.space, directory)):
            note = f"{folder}/d.{file}"
            if token.grace <= 0 or _first_seen(note).age() >= token.grace:
                discard_note(f"{folder}/{file}")
                discard_note(note)
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
    text = read_note(note)
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
        discard_note(note)
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
