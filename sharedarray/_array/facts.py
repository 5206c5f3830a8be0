"""The facts about an array and its block, as a notebook shows them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from sharedarray import _errors as errors, _header as header, _registry as registry
from sharedarray._growth import grows, growth_of
from sharedarray._object_layout import is_object
from sharedarray._platform import platform
from sharedarray._segment import Mapping, mapping_of
from sharedarray._sizes import grouped, human
from sharedarray._version_buffers import versions_of

if TYPE_CHECKING:
    from sharedarray._array.array import SharedArray

_SHOWN_HOLDERS = 8  # pids that a notebook shows


def is_whole_object(array: SharedArray, mapping: Mapping) -> bool:
    """Return whether an array is all of a block that `sharedarray.put` made, and not a part of it."""
    if mapping.directory is None or array.nbytes != len(mapping) - header.PAGE:
        return False
    return is_object(array.view(np.ndarray))


def object_text(mapping: Mapping) -> str:
    """Return the text for an object's block, whose bytes are of no use to a reader."""
    state = ", closed" if mapping.released else ""
    return f"<object {mapping.name!r}, {human(len(mapping))}{state}: sa.get({mapping.name!r}) returns it>"


def facts_of_array(array: SharedArray) -> list[tuple[str, str]]:
    """Return the facts about an array, the most wanted one first."""
    mapping = mapping_of(array)
    name, *others = facts_of_block(mapping, array.nbytes)
    facts = [name, ("shape", str(array.shape)), ("dtype", str(array.dtype)), *others]
    facts[2:2] = [] if mapping is None else facts_of_contents(mapping)
    return facts


def facts_of_contents(mapping: Mapping) -> list[tuple[str, str]]:
    """Return the capacity or the version of the array or group of an attachment, if there is one."""
    from sharedarray._display import block_table

    if mapping.released:
        return []
    try:
        if grows(mapping):
            return block_table.facts_of_contents(growth_of(mapping).capacity)
        versions = versions_of(mapping)
    except errors.SharedArrayError:  # damage is told of when they are used
        return []
    return (
        [] if versions is None else block_table.facts_of_contents(None, versions.version, len(versions.held))
    )


def facts_of_block(mapping: Mapping | None, nbytes: int) -> list[tuple[str, str]]:
    """Return the facts about a block, of which an array has `nbytes` bytes, beginning with the name."""
    from sharedarray._display import block_table
    from sharedarray._programs import programs_of

    size = f"{human(nbytes)} ({grouped(nbytes)} bytes)"
    if mapping is None:
        return [("name", "none: this memory is not shared"), ("size", size)]
    if mapping.released:
        holders = "not known: this process has closed it"
    elif mapping.directory is None:
        holders = "not counted: it is a file, which stays"
    else:
        key = (mapping.device, mapping.inode)
        pids = platform.holders([key]).get(key, ())
        me = os.getpid()
        programs = programs_of(pids[:_SHOWN_HOLDERS])
        holders = ", ".join(
            [
                f"{pid} (this process)" if pid == me else block_table.process(pid, programs)
                for pid in pids[:_SHOWN_HOLDERS]
            ]
        )
        holders = f"{len(pids)}: {holders}" + (", …" if len(pids) > _SHOWN_HOLDERS else "")
    block = human(len(mapping) - header.PAGE)
    if not grows(mapping) and nbytes < len(mapping) - header.PAGE and block != human(nbytes):
        size += f", of {block} in all"
    writes = {"r": "r (read-only)", "r+": "r+ (read and write)", "c": "c (copy-on-write)"}[mapping.mode]
    record = (
        None
        if mapping.directory is None
        else registry.read_record(mapping.directory, mapping.name, mapping.inode)
    )
    if record is not None and record.persist:
        holders += "; it persists until unlink"
    return [("name", mapping.name), ("size", size), ("mode", writes), ("holders", holders)]
