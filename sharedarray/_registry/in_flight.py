"""Pins: files that keep a block while a reference to it is in flight, until it has arrived."""

from __future__ import annotations

import os
from typing import NamedTuple

from sharedarray import _damage as damage
from sharedarray._platform import platform
from sharedarray._registry.metadata import discard, read_metadata
from sharedarray._registry.moments import Moment
from sharedarray._registry.places import registry_of
from sharedarray._registry.processes import alive, here, me

GRACE = 60.0  # seconds that a reference on its way outlives its sender, unless SHAREDARRAY_GRACE says so


class Pin(NamedTuple):
    """The pin of a reference on its way, as its file's name describes it.

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
    def parse(cls, file: str) -> Pin | None:
        """Return the pin that a file's name describes; None if it is no pin."""
        try:
            kind, inode, pid, started, *space, grace, _ = file.split(".")
            if kind not in ("t", "s") or len(space) > 1:
                return None
            sender = int(pid), int(started), int(space[0]) if space else 0
            return cls(int(inode), *sender, int(grace) / 1000, kind == "t", file)
        except (ValueError, OverflowError):
            return None


def grace() -> float:
    """Return the seconds for which the pins of this process stay after its end."""
    try:
        seconds = float(os.environ["SHAREDARRAY_GRACE"])
    except (KeyError, ValueError):
        return GRACE
    return min(max(0.0, seconds), 1e9)


def pin(directory: str, handle: int, inode: int, *, once: bool) -> str:
    """Keep a block until its reference arrives; return the pin, a file's name in the registry.

    `once` says that the reference is loaded exactly once, unless its way is cut off.
    """
    pid, started = me()
    sender = f"{inode}.{pid}.{started}.{here()}.{grace() * 1000:.0f}"
    pin_name = f"t.{sender}.{os.urandom(6).hex()}" if once else f"s.{sender}.any"
    try:
        platform.pin(handle, f"{registry_of(directory)}/{pin_name}")
    except FileExistsError:
        if once:
            raise
    return pin_name


def free_pin(inode: int) -> str:
    """Return a pin for a free block of this process (see `freelist`): it ends with the process."""
    pid, started = me()
    return f"t.{inode}.{pid}.{started}.{here()}.0.{os.urandom(6).hex()}"


def pin_path(directory: str, pin_name: str) -> str:
    """Return the path of a pin, which leads to exactly the block that it pins."""
    return f"{registry_of(directory)}/{pin_name}"


def unpin(directory: str, pin_name: str) -> None:
    """Remove a pin: the reference has arrived, and its receiver holds a lease."""
    discard(pin_path(directory, pin_name))


def pins(directory: str) -> list[Pin]:
    """Return the pins of all references that are on their way."""
    return [pin for file in platform.names(registry_of(directory)) if (pin := Pin.parse(file))]


def expire_pins(directory: str) -> dict[int, int]:
    """Remove the pins whose grace period is over; return the number of the others by inode."""
    folder = registry_of(directory)
    waiting: dict[int, int] = {}
    files = set(platform.names(folder))
    for file in files:
        pin_name = Pin.parse(file)
        if pin_name is None:
            if _is_leftover(file, files):
                discard(f"{folder}/{file}")
            continue
        if not _leads_to_its_block(f"{folder}/{file}", pin_name):
            continue
        if not (pin_name.once and alive(pin_name.pid, pin_name.started, pin_name.space, directory)):
            seen_file = f"{folder}/d.{file}"
            if pin_name.grace <= 0 or _first_seen(seen_file).age() >= pin_name.grace:
                discard(f"{folder}/{file}")
                discard(seen_file)
                _seen.pop(seen_file, None)
                continue
        waiting[pin_name.inode] = waiting.get(pin_name.inode, 0) + 1
    return waiting


def _leads_to_its_block(path: str, pin: Pin) -> bool:
    """Return whether a pin still is a name of its block; move it away if it is one of another file."""
    if not platform.RECORDS_DECIDE:
        return True
    inode = platform.inode_of(path)
    if inode is not None and inode != pin.inode and not damage.unheard:
        damage.report(path, "another file in place of a block", "it is moved away, and pins no block")
        damage.quarantine(path)
    return inode == pin.inode


# When this process first saw a sender dead, by path of a damaged ``d.`` file; for a process without warnings.
_seen: dict[str, Moment] = {}


def _first_seen(seen_file: str) -> Moment:
    """Return the time in a ``d.`` file; write the file if there is none, or none that can be read."""
    text = read_metadata(seen_file)
    if text is not None:
        try:
            return Moment.parse(text)
        except (ValueError, OverflowError):
            pass
    now = Moment.now()
    if text is not None or platform.inode_of(seen_file) is not None:
        if damage.unheard:
            return _seen.setdefault(seen_file, now)
        damage.report(seen_file, f"{(text or '')[:40]!r} in place of a time", "the time starts anew")
        discard(seen_file)
    try:
        platform.write_metadata(seen_file, now.encode())
    except FileExistsError:
        pass  # another sweep has written it just now
    return now


def _is_leftover(file: str, files: set[str]) -> bool:
    """Return whether a metadata link has lost its pin, or was cut off while it was being replaced."""
    if file.startswith("n."):
        pid = file.split(".")[1]  # another pid namespace's writer notices the loss, and writes once more
        return not (pid.isascii() and pid.isdigit()) or platform.process_started(int(pid)) is None
    return file.startswith("d.") and file[2:] not in files
