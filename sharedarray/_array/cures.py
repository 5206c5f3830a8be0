"""Other ways to read a block, or a file, that is no array."""

from __future__ import annotations

import math

import numpy as np

from sharedarray import _errors as errors, _header as header, _registry as registry
from sharedarray._growth import cure_of_log, lost_control
from sharedarray._segment import Mapping

_ZIP = b"PK\x03\x04"


def cure_of(mapping: Mapping) -> str | None:
    """Return how to read a block, or a file, that is no array."""
    if mapping.directory is None:
        return _cure_of_file(mapping)
    record = registry.read_record(mapping.directory, mapping.name, mapping.inode)
    if record is not None and record.kind == "list":
        return f"it is a list: sharedarray.ShareableList(name={mapping.name!r})"
    return f"for its plain bytes, sharedarray.SharedMemory({mapping.name!r})"


def _cure_of_file(mapping: Mapping) -> str | None:
    """Return how to share the data of a file that is no array of plain bytes."""
    start = bytes(mapping[: header.PAGE])
    path = mapping.path
    if start.startswith(_ZIP):
        return f"for all arrays of an .npz file in one block: sharedarray.share_group(name, {path!r})"
    if start[8:9] == b"{" and path.endswith(".safetensors"):
        return f"for all tensors of the file in one block: sharedarray.share_group(name, {path!r})"
    if start.startswith(header.MAGIC):
        if b"'|O'" in start or b"'O'" in start:
            return (
                "store it with a dtype of numbers or text, or share it as an object: "
                f"sharedarray.put(numpy.load({path!r}, allow_pickle=True), name=name)"
            )
        return _cure_of_array(mapping, start) or "make the file again: it was cut off or damaged"
    return "read it with the library for its format, and share the array: sharedarray.share(array, name=name)"


def _cure_of_array(mapping: Mapping, start: bytes) -> str | None:
    """Return how to use the rows that a file still has; None if it has none."""
    try:
        layout = header.decode(start, 1 << 62, name=mapping.name, more=mapping)
    except errors.HeaderError:
        return None
    if layout.size <= len(mapping):
        return cure_of_log(mapping, layout) if lost_control(mapping, layout) else None
    row = math.prod(layout.shape[1:]) * layout.dtype.itemsize
    rows = (len(mapping) - layout.offset) // row if layout.shape and row and layout.order == "C" else 0
    if rows <= 0:
        return None
    shape = rows, *layout.shape[1:]
    described = np.lib.format.dtype_to_descr(layout.dtype)
    return (
        f"it was cut off or damaged; its first {rows} rows are there: "
        f"numpy.memmap({mapping.path!r}, {described!r}, 'r', {layout.offset}, {shape})"
    )
