"""Sweeps: they remove the blocks that no process holds, and the files that dead processes have left."""

from __future__ import annotations

from sharedarray import _damage as damage, _errors as errors, _intents as intents
from sharedarray._platform import platform
from sharedarray._registry.in_flight import (
    expire_pins,
    pins,
)
from sharedarray._registry.notices import (
    sweep_notices,
    sweep_wakers,
)
from sharedarray._registry.places import (
    open_registry,
    path_of,
    registry_of,
)
from sharedarray._registry.processes import here, me
from sharedarray._registry.record import (
    Record,
    drop_record,
    record_path,
    records,
)
from sharedarray._registry.removal import remove_held, remove_if_unheld
from sharedarray._registry.semaphores import sweep_semaphores

ORPHAN_RECORD = 600.0  # seconds; a maker publishes microseconds after writing its record


class Swept:
    """The result of a sweep: removed blocks, and those that remain.

    `removed` names the blocks whose memory it freed; `work` counts what a janitor still has to watch.
    """

    __slots__ = ("removed", "work")

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.work = 0


def sweep(directory: str) -> Swept:
    """Remove blocks without holders, pins of senders long dead, and records without a block."""
    swept = Swept()
    if not _trusted(directory):
        return swept
    waiting = expire_pins(directory)
    swept.work += sum(waiting.values())
    for name, inode, record in records(directory):
        _sweep_block(directory, name, inode, record, waiting.get(inode, 0), swept)
    folder = registry_of(directory)
    swept.work += sweep_wakers(folder)  # of files, too, which have no record
    sweep_notices(directory)
    sweep_semaphores()
    try:
        intents.sweep(folder)
    except errors.LimitError:
        raise
    except OSError as error:
        damage.report(f"{folder}/{intents.NAME}", str(error), "it is ignored")
    return swept


def sweep_kept(directory: str) -> Swept:
    """Sweep only the blocks that this process has kept without holding them."""
    swept = Swept()
    if _trusted(directory):
        pinned = {pin.inode for pin in pins(directory)}
        for name, inode, record in records(directory):
            if (
                record is not None
                and record.space == here()
                and me() in (record.keeper, (record.pid, record.started))
            ):
                _sweep_block(directory, name, inode, record, int(inode in pinned), swept)
    return swept


def _trusted(directory: str) -> bool:
    """Return whether there is a registry; raise `NotOursError` if another user could write to it."""
    folder = registry_of(directory)
    if platform.inode_of(folder) is None:
        return False
    open_registry(directory)
    return True


def _sweep_block(
    directory: str, name: str, inode: int, record: Record | None, in_flight: int, swept: Swept
) -> None:
    try:
        _sweep_one(directory, name, inode, record, in_flight, swept)
    except errors.LimitError:
        raise
    except OSError as error:  # the others are swept all the same
        damage.report(f"{directory}/{name}", str(error), "it is not swept")


def _sweep_one(
    directory: str, name: str, inode: int, record: Record | None, in_flight: int, swept: Swept
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
                record_path(directory, name, inode),
                "no record of this version",
                f"{path} stays until you remove it and this record",
            )
        elif record.owned:
            if remove_held(directory, name, handle, inode):
                swept.removed.append(name)
        elif not platform.alone(handle):
            swept.work += 1
        elif remove_if_unheld(directory, name, handle, inode, in_flight=in_flight):
            swept.removed.append(name)
        platform.release(handle)
    finally:
        platform.close(handle)


def _drop_orphan_record(directory: str, name: str, inode: int, record: Record | None, swept: Swept) -> None:
    """Remove the record of a block that does not have its name, unless its maker is about to publish it.

    The name is looked up once more at the end: a maker may have published the block and died since the first
    time, and without a record the block would stay for ever.
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
